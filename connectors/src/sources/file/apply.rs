//! Events as changes of rows: columns found, cells read, the row's old state consulted.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use highwater_log::position::{SchemaVersion, TableId};
use highwater_log::value::{ColumnType, OwnedValue, write_text};
use highwater_materializers::Table;
use highwater_query::{ColumnDefinition, DeletedRow, QualifiedName, SchemaDump, TableDefinition, Write};

use super::IngestCause;
use crate::decode::debezium::{CellEncoding, CellError, Cells, Change, EventSchema, Operation, decode_cell};

/// The tables that events go to.
pub(super) struct Tables {
    dump: SchemaDump,
    /// Where events of a table went last: few tables, looked through.
    routes: Vec<Route>,
    defaults: HashMap<(TableId, SchemaVersion, usize), Option<OwnedValue>>,
    /// What the event before deleted. A change of a key is told as a delete and an insert, which leaves out what did not change.
    deleted: Option<Deleted>,
}

/// A row that an event deleted.
struct Deleted {
    table: TableId,
    /// Of the upstream's record. The two events of one change have one.
    lsn: u64,
    row: DeletedRow,
}

/// What became of an event.
pub(super) enum Applied {
    /// Its effect is in the transaction.
    Done,
    /// The table, or a column of it, has to be made first.
    SchemaDue,
}

/// A table of the upstream, and how its events' cells lie in ours.
struct Route {
    name: QualifiedName,
    /// The table as it was for the last event, and the cells of `after`: name, and place in the layout.
    shape: Option<(Arc<Table>, Places)>,
}

impl Route {
    /// Whether cells lie as those of the event before.
    fn fits(&self, table: &Arc<Table>, cells: &Cells<'_>) -> bool {
        self.shape.as_ref().is_some_and(|(known, places)| {
            Arc::ptr_eq(known, table)
                && places.len() == cells.len()
                && places.iter().zip(cells).all(|((known, _), (name, _))| known == name)
        })
    }

    /// The places of cells in the table's layout; `None`: it lacks one of them.
    fn places(&mut self, table: &Arc<Table>, cells: &Cells<'_>) -> Option<&[(String, usize)]> {
        if !self.fits(table, cells) {
            let place = |(name, _): &(Cow<'_, str>, _)| {
                let place = table.layout().index_of(table.schema().column_named(name)?.id)?;
                Some((name.clone().into_owned(), place))
            };
            self.shape = Some((Arc::clone(table), cells.iter().map(place).collect::<Option<_>>()?));
        }
        self.shape.as_ref().map(|(_, places)| &places[..])
    }
}

/// Cells by name, and the place in the layout that each goes to.
type Places = Vec<(String, usize)>;

/// What an event says of a row.
struct Said {
    /// In the order of the layout; the outer `None`: the event does not say.
    values: Vec<Option<Option<OwnedValue>>>,
    /// Places of values that the upstream left out because they did not change.
    unchanged: Vec<usize>,
}

impl Tables {
    pub(super) fn new(dump: SchemaDump) -> Self {
        Self { dump, routes: Vec::new(), defaults: HashMap::new(), deleted: None }
    }

    /// Applies an event, unless its table lacks something.
    pub(super) async fn apply(&mut self, write: &mut Write, change: &Change<'_>) -> Result<Applied, IngestCause> {
        let namespace = namespace_of(change);
        let is_it = |route: &Route| route.name.name == change.source.table && route.name.namespace == namespace;
        let at = self.routes.iter().position(is_it).unwrap_or_else(|| {
            self.routes.push(Route { name: name_of(change), shape: None });
            self.routes.len() - 1
        });
        let route = &mut self.routes[at];
        let Some(table) = write.table(&route.name) else {
            // A truncation has no key: what it would make of an unknown table had none either.
            let is_truncation = change.operation == Operation::Truncate;
            return Ok(if is_truncation { Applied::Done } else { Applied::SchemaDue });
        };
        let said = match &change.after {
            None => None,
            Some(cells) => {
                let Some(places) = route.places(&table, cells) else { return Ok(Applied::SchemaDue) };
                let places = places.iter().map(|(_, place)| Some(*place));
                Some(read_cells(&table, cells, places, change.schema.as_deref())?)
            }
        };
        let deleted = self.deleted.take();
        match change.operation {
            Operation::Read | Operation::Create => self.insert(write, &table, change, said, deleted).await?,
            Operation::Update => update(write, &table, change, said)?,
            Operation::Delete => {
                let row = delete(write, &table, change)?;
                self.deleted = change.source.lsn.map(|lsn| Deleted { table: table.schema().id, lsn, row });
            }
            Operation::Truncate => drop(write.truncate(&table)?),
        }
        Ok(Applied::Done)
    }

    /// Makes what an event's table lacks.
    pub(super) async fn apply_schema(&mut self, write: &mut Write, change: &Change<'_>) -> Result<(), IngestCause> {
        let name = name_of(change);
        let known = self.dump.tables.iter().find(|(known, _)| *known == name).map(|(_, definition)| definition);
        let Some(mut table) = write.table(&name) else {
            let definition = match (known, &change.schema) {
                (Some(definition), _) => definition.clone(),
                (None, Some(schema)) => embedded_definition(&name, schema)?,
                (None, None) => return Err(IngestCause::UnknownTable { table: name.to_string() }),
            };
            write.create_table(&name, &definition)?;
            return Ok(());
        };
        for (column, _) in change.after.iter().flatten() {
            if table.schema().column_named(column).is_some() {
                continue;
            }
            let from_dump = known.and_then(|table| table.columns.iter().find(|known| known.name == **column)).cloned();
            let definition = match (from_dump, &change.schema) {
                (Some(definition), _) => definition,
                (None, Some(schema)) => embedded_column(&name, schema, column)?,
                (None, None) => {
                    let (table, column) = (name.to_string(), column.to_string());
                    return Err(IngestCause::UnknownColumn { table, column, described: None });
                }
            };
            // Rows of before may hold NULL, whatever the column demands later.
            let definition =
                ColumnDefinition { not_null: definition.not_null && definition.default.is_some(), ..definition };
            table = write.add_column(&table, &definition).await?;
        }
        Ok(())
    }

    async fn insert(
        &mut self,
        write: &mut Write,
        table: &Arc<Table>,
        change: &Change<'_>,
        said: Option<Said>,
        deleted: Option<Deleted>,
    ) -> Result<(), IngestCause> {
        let said = said.ok_or_else(|| incomplete(table, "an insert without \"after\""))?;
        let moved = deleted.filter(|row| row.table == table.schema().id && change.source.lsn == Some(row.lsn));
        let mut values = Vec::with_capacity(said.values.len());
        for (place, value) in said.values.into_iter().enumerate() {
            values.push(match (value, &moved) {
                (Some(value), _) => value,
                (None, Some(moved)) if said.unchanged.contains(&place) => moved.row.value(table, place)?,
                (None, None) if said.unchanged.contains(&place) => return Err(unavailable(table, place)),
                (None, _) => self.default(write, table, place).await?,
            });
        }
        match change.operation {
            // A snapshot taken again meets rows that are there.
            Operation::Read => write.put(table, &values)?,
            _ => write.insert(table, &values)?,
        }
        Ok(())
    }

    /// What a column holds that an inserted row does not tell, by its place in the layout.
    async fn default(
        &mut self,
        write: &Write,
        table: &Arc<Table>,
        place: usize,
    ) -> Result<Option<OwnedValue>, IngestCause> {
        let schema = table.schema();
        let (id, _) = table.layout().columns()[place];
        let declared = schema.columns.iter().position(|column| column.id == id).unwrap_or(place);
        let Some(default) = &schema.columns[declared].default else { return Ok(None) };
        let known = (schema.id, schema.version, place);
        if let Some(value) = self.defaults.get(&known) {
            return Ok(value.clone());
        }
        let value = write.default_value(table, declared).await?;
        // What calls no function is the same for every row.
        if !default.contains('(') {
            self.defaults.insert(known, value.clone());
        }
        Ok(value)
    }
}

fn update(write: &mut Write, table: &Arc<Table>, change: &Change<'_>, said: Option<Said>) -> Result<(), IngestCause> {
    let said = said.ok_or_else(|| incomplete(table, "an update without \"after\""))?;
    let missing = || IngestCause::MissingRow { operation: "update", table: table.schema().name.clone() };
    let key = if table.schema().primary_key.is_empty() {
        find_keyless(write, table, change, "update")?
    } else {
        key_of(write, table, &said)?
    };
    if write.update(table, key, &said.values)? { Ok(()) } else { Err(missing()) }
}

fn delete(write: &mut Write, table: &Arc<Table>, change: &Change<'_>) -> Result<DeletedRow, IngestCause> {
    let key = if table.schema().primary_key.is_empty() {
        find_keyless(write, table, change, "delete")?
    } else {
        let cells = match (&change.key, change.before) {
            (Some(key), _) => Cow::Borrowed(key),
            (None, Some(before)) => Cow::Owned(before.cells()?),
            (None, None) => return Err(incomplete(table, "a delete without key and \"before\"")),
        };
        let said = read_named_cells(table, &cells, change.schema.as_deref())?;
        key_of(write, table, &said)?
    };
    let missing = || IngestCause::MissingRow { operation: "delete", table: table.schema().name.clone() };
    write.delete(table, key)?.ok_or_else(missing)
}

fn key_of(write: &Write, table: &Table, said: &Said) -> Result<bytes::Bytes, IngestCause> {
    Ok(write.key_of(table, |place| said.values[place].as_ref()?.as_ref().map(OwnedValue::as_value))?)
}

/// A row of a table without a key is known by all its values.
fn find_keyless(
    write: &mut Write,
    table: &Arc<Table>,
    change: &Change<'_>,
    operation: &'static str,
) -> Result<bytes::Bytes, IngestCause> {
    let full = "a change of a row without key needs all of \"before\" (REPLICA IDENTITY FULL)";
    let before = change.before.ok_or_else(|| incomplete(table, full))?.cells()?;
    let said = read_named_cells(table, &before, change.schema.as_deref())?;
    let values: Option<Vec<_>> = said.values.into_iter().collect();
    let values = values.ok_or_else(|| incomplete(table, full))?;
    let missing = || IngestCause::MissingRow { operation, table: table.schema().name.clone() };
    write.find(table, &values)?.ok_or_else(missing)
}

/// The cells of an event by the table's layout; those of columns that it does not have are passed over.
fn read_named_cells(table: &Table, cells: &Cells<'_>, schema: Option<&EventSchema>) -> Result<Said, IngestCause> {
    let place = |name| table.layout().index_of(table.schema().column_named(name)?.id);
    let places = cells.iter().map(|(name, _)| place(name));
    read_cells(table, cells, places, schema)
}

/// The cells of an event, each at its place in the table's layout.
fn read_cells(
    table: &Table,
    cells: &Cells<'_>,
    places: impl Iterator<Item = Option<usize>>,
    schema: Option<&EventSchema>,
) -> Result<Said, IngestCause> {
    let columns = table.layout().columns();
    let mut said = Said { values: vec![None; columns.len()], unchanged: Vec::new() };
    for ((name, cell), place) in cells.iter().zip(places) {
        let Some(place) = place else { continue };
        let encoding = schema.and_then(|schema| schema.column(name)).map_or(CellEncoding::Adaptive, |c| c.encoding);
        match decode_cell(cell, columns[place].1, encoding) {
            Ok(value) => said.values[place] = Some(value),
            Err(CellError::Unavailable) => said.unchanged.push(place),
            Err(source) => {
                let (table, column) = (table.schema().name.clone(), name.to_string());
                return Err(IngestCause::Cell { table, column, source });
            }
        }
    }
    Ok(said)
}

fn embedded_definition(name: &QualifiedName, schema: &EventSchema) -> Result<TableDefinition, IngestCause> {
    let columns = schema.columns.iter().map(|column| embedded_column(name, schema, &column.name));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(TableDefinition { columns, primary_key: (None, schema.key.clone()), uniques: Vec::new() })
}

fn embedded_column(name: &QualifiedName, schema: &EventSchema, column: &str) -> Result<ColumnDefinition, IngestCause> {
    let found = schema.column(column);
    let unknown = || IngestCause::UnknownColumn {
        table: name.to_string(),
        column: column.to_owned(),
        described: found.map(|column| column.described.clone()),
    };
    let found = found.ok_or_else(unknown)?;
    let column_type = found.column_type.ok_or_else(unknown)?;
    let default = found.default.as_ref().map(|cell| {
        let raw = serde_json::value::RawValue::from_string(cell.clone());
        let raw = raw.map_err(|error| IngestCause::Incomplete(error.to_string()))?;
        let value = decode_cell(&raw, column_type, found.encoding);
        let value = value.map_err(|source| {
            let (table, column) = (name.to_string(), column.to_owned());
            IngestCause::Cell { table, column, source }
        })?;
        value.map(|value| literal(column_type, &value)).transpose()
    });
    let default = default.transpose()?.flatten();
    Ok(ColumnDefinition { name: column.to_owned(), column_type, not_null: !found.is_optional, default })
}

/// A value as an SQL literal.
fn literal(column_type: ColumnType, value: &OwnedValue) -> Result<String, IngestCause> {
    let mut text = String::new();
    write_text(column_type, value.as_value(), &mut text).map_err(|error| IngestCause::Incomplete(error.to_string()))?;
    Ok(format!("'{}'", text.replace('\'', "''")))
}

/// A value that did not change is told to be there, and is in no row that we have.
fn unavailable(table: &Table, place: usize) -> IngestCause {
    let (id, _) = table.layout().columns()[place];
    let column = table.schema().columns.iter().find(|column| column.id == id);
    let (table, column) = (table.schema().name.clone(), column.map(|column| column.name.clone()).unwrap_or_default());
    IngestCause::Cell { table, column, source: CellError::Unavailable }
}

fn namespace_of<'a>(change: &'a Change<'_>) -> &'a str {
    if change.source.schema.is_empty() { "public" } else { &change.source.schema }
}

fn name_of(change: &Change<'_>) -> QualifiedName {
    QualifiedName { namespace: namespace_of(change).to_owned(), name: change.source.table.clone().into_owned() }
}

fn incomplete(table: &Table, what: &str) -> IngestCause {
    IngestCause::Incomplete(format!("table {}: {what}", table.schema().name))
}
