//! Commits for people: rows with the names that the catalog gives them.

use std::collections::HashMap;

use highwater_log::position::{SchemaVersion, TableId};
use highwater_log::row::{CodecError, Row};
use highwater_log::schema::CatalogEntry;
use highwater_log::value::write_text;
use highwater_log::{Change, Commit, Lsn};
use highwater_materializers::{FoldError, Table};
use serde_json::{Map, Value, json};

/// Decodes the rows of commits that come in order from the first, or behind what a base image tells of the catalog.
#[derive(Default)]
pub(super) struct Renderer {
    tables: HashMap<(TableId, SchemaVersion), Table>,
}

impl Renderer {
    /// Takes in what the commit says of the catalog.
    pub(super) fn learn(&mut self, commit: &Commit) -> Result<(), FoldError> {
        for change in &commit.changes {
            let (Change::Catalog { entry: Some(entry), .. } | Change::Truncate { entry, .. }) = change else {
                continue;
            };
            self.learn_entry(commit.lsn, entry)?;
        }
        Ok(())
    }

    /// Takes in an entry of the catalog.
    pub(super) fn learn_entry(&mut self, lsn: Lsn, entry: &[u8]) -> Result<(), FoldError> {
        let entry = CatalogEntry::from_json(entry).map_err(|source| FoldError::Entry { lsn, source })?;
        if let CatalogEntry::Table(schema) = entry {
            self.tables.insert((schema.id, schema.version), Table::new(schema, lsn));
        }
        Ok(())
    }

    /// The commit as JSON.
    pub(super) fn render(&self, commit: &Commit) -> Result<Value, FoldError> {
        let changes: Vec<_> =
            commit.changes.iter().map(|change| self.change(commit, change)).collect::<Result<_, _>>()?;
        let mut object = json!({
            "lsn": commit.lsn.value(),
            "time_us": commit.header.time.micros,
            "changes": changes,
        });
        if let Some(producer) = commit.header.producer {
            object["producer"] = uuid::Uuid::from_bytes(producer.producer.0).to_string().into();
            object["sequence"] = producer.sequence.into();
        }
        Ok(object)
    }

    fn change(&self, commit: &Commit, change: &Change) -> Result<Value, FoldError> {
        Ok(match change {
            Change::Catalog { object, entry } => {
                json!({ "op": "catalog", "object": object, "entry": entry_json(entry.as_deref()) })
            }
            Change::Truncate { table, entry } => {
                json!({ "op": "truncate", "table": table.value(), "entry": entry_json(Some(entry)) })
            }
            Change::Insert { table, row, after } => {
                let (name, after) = self.row(commit, *table, after)?;
                json!({ "op": "insert", "table": name, "row": row.value(), "after": after })
            }
            Change::Update { table, row, before, changed } => {
                let (_, before) = self.row(commit, *table, before)?;
                let (name, changed) = self.row(commit, *table, changed)?;
                json!({ "op": "update", "table": name, "row": row.value(), "before": before, "changed": changed })
            }
            Change::Delete { table, row, before } => {
                let (name, before) = self.row(commit, *table, before)?;
                json!({ "op": "delete", "table": name, "row": row.value(), "before": before })
            }
            Change::Position { of, position } => {
                json!({ "op": "position", "of": hexadecimal(of), "position": hexadecimal(position) })
            }
        })
    }

    /// The table's name and the row's columns; a partial row has only some.
    fn row(&self, commit: &Commit, id: TableId, bytes: &[u8]) -> Result<(String, Value), FoldError> {
        let lsn = commit.lsn;
        let failed = |source: CodecError| FoldError::Row { lsn, table: id, source };
        let version = Row::schema_version(bytes).map_err(failed)?;
        let unknown = FoldError::UnknownSchema { lsn, table: id, version };
        let table = self.tables.get(&(id, version)).ok_or(unknown)?;
        let row = Row::parse(table.layout(), bytes).map_err(failed)?;
        let mut columns = Map::new();
        for column in &table.schema().columns {
            let place = table.layout().index_of(column.id).expect("a layout has the columns of its schema");
            let Some(value) = row.value(place).map_err(failed)? else { continue };
            let text = value.map(|value| {
                let mut text = String::new();
                write_text(column.column_type, value, &mut text).map(|()| text)
            });
            columns.insert(column.name.clone(), text.transpose().map_err(failed)?.into());
        }
        Ok((format!("{}.{}", table.schema().namespace, table.schema().name), columns.into()))
    }
}

fn entry_json(entry: Option<&[u8]>) -> Value {
    entry.map_or(Value::Null, |json| serde_json::from_slice(json).unwrap_or(Value::Null))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
