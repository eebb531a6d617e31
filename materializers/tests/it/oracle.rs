//! The naive fold: reads the log from the first commit and keeps everything in maps. It shares no code with the materializers.

use std::collections::BTreeMap;

use highwater_log::position::{ColumnId, RowId, SchemaVersion, TableId};
use highwater_log::row::{Row, RowLayout};
use highwater_log::schema::{CatalogEntry, TableSchema};
use highwater_log::{Change, Commit, CommitLog, LogError, Lsn};

/// A row: what each column holds, as text.
pub(crate) type Values = BTreeMap<ColumnId, String>;

/// Everything as of one LSN.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) tables: BTreeMap<TableId, TableState>,
    pub(crate) positions: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) producers: BTreeMap<[u8; 16], Vec<(u64, Lsn)>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableState {
    pub(crate) schema: TableSchema,
    /// Each row with the commit that wrote it last. Columns that it was written without are absent.
    pub(crate) rows: BTreeMap<RowId, (Lsn, Values)>,
}

impl TableState {
    /// What a reader sees of a row: columns of today, with what older rows hold in those that came later.
    pub(crate) fn seen(&self, values: &Values) -> Values {
        let columns = self.schema.columns.iter();
        columns
            .map(|column| {
                let missing = || match &column.missing {
                    None => "None".to_owned(),
                    Some(row) => {
                        let layout = RowLayout::new(SchemaVersion::new(0), [(column.id, column.column_type)]);
                        format!("{:?}", Row::parse(&layout, row).unwrap().value(0).unwrap().unwrap())
                    }
                };
                (column.id, values.get(&column.id).cloned().unwrap_or_else(missing))
            })
            .collect()
    }
}

/// The states after each commit of a log; index n is the state at LSN n.
pub(crate) fn fold(log: &dyn CommitLog) -> Vec<State> {
    let mut fold = Fold::default();
    fold.follow(log).unwrap();
    fold.states
}

/// The states after each commit of a log that is followed while it grows, and loses its beginning.
pub(crate) struct Fold {
    /// Index n is the state at LSN n.
    pub(crate) states: Vec<State>,
    schemas: Schemas,
}

impl Default for Fold {
    fn default() -> Self {
        Self { states: vec![State::default()], schemas: Schemas::new() }
    }
}

impl Fold {
    /// Forgets the states behind `lsn`: what is followed next may be other commits.
    pub(crate) fn rewind_to(&mut self, lsn: Lsn) {
        self.states.truncate(lsn.value() as usize + 1);
    }

    /// Folds what the log holds behind the states that are known. With an error, the states up to it are.
    pub(crate) fn follow(&mut self, log: &dyn CommitLog) -> Result<(), LogError> {
        let mut reader = log.read_after(Lsn::new(self.states.len() as u64 - 1))?;
        while let Some(commit) = reader.try_next()? {
            let mut state = self.states.last().unwrap().clone();
            apply(&mut state, &mut self.schemas, &commit.decode().unwrap());
            self.states.push(state);
        }
        Ok(())
    }
}

type Schemas = BTreeMap<(TableId, SchemaVersion), TableSchema>;

fn put_schema(state: &mut State, schemas: &mut Schemas, entry: &[u8]) {
    let CatalogEntry::Table(schema) = CatalogEntry::from_json(entry).unwrap() else { return };
    schemas.insert((schema.id, schema.version), schema.clone());
    let rows = state.tables.remove(&schema.id).map(|table| table.rows).unwrap_or_default();
    state.tables.insert(schema.id, TableState { schema, rows });
}

fn apply(state: &mut State, schemas: &mut Schemas, commit: &Commit) {
    for change in &commit.changes {
        match change {
            Change::Catalog { entry: Some(entry), .. } => put_schema(state, schemas, entry),
            Change::Catalog { object, entry: None } => drop(state.tables.remove(&TableId::new(*object))),
            Change::Truncate { table, entry } => {
                put_schema(state, schemas, entry);
                state.tables.get_mut(table).unwrap().rows.clear();
            }
            Change::Insert { table, row, after } => {
                let values = decode(schemas, *table, after);
                let replaced = state.tables.get_mut(table).unwrap().rows.insert(*row, (commit.lsn, values));
                assert!(replaced.is_none(), "row {row} of table {table} was there at {}", commit.lsn);
            }
            Change::Update { table, row, before, changed } => {
                let expected = decode(schemas, *table, before);
                let table_state = state.tables.get_mut(table).unwrap();
                let (lsn, values) = table_state.rows.get_mut(row).expect("an updated row is there");
                let known: Values = expected.iter().filter(|(id, _)| values.contains_key(id)).map(clone_pair).collect();
                let own: Values = values.iter().filter(|(id, _)| expected.contains_key(id)).map(clone_pair).collect();
                assert_eq!(known, own, "the before image at {} is the row as it was", commit.lsn);
                values.extend(expected.iter().map(clone_pair));
                values.extend(decode(schemas, *table, changed));
                *lsn = commit.lsn;
            }
            Change::Delete { table, row, .. } => {
                state.tables.get_mut(table).unwrap().rows.remove(row).expect("a deleted row is there");
            }
            Change::Position { of, position } => {
                if position.is_empty() {
                    state.positions.remove(&of[..]);
                } else {
                    state.positions.insert(of.to_vec(), position.to_vec());
                }
            }
        }
    }
    if let Some(producer) = commit.header.producer {
        state.producers.entry(producer.producer.0).or_default().push((producer.sequence, commit.lsn));
    }
}

fn clone_pair((id, value): (&ColumnId, &String)) -> (ColumnId, String) {
    (*id, value.clone())
}

fn decode(schemas: &Schemas, table: TableId, bytes: &[u8]) -> Values {
    let version = Row::schema_version(bytes).unwrap();
    let schema = &schemas[&(table, version)];
    let layout = RowLayout::new(version, schema.columns.iter().map(|column| (column.id, column.column_type)));
    let row = Row::parse(&layout, bytes).unwrap();
    let cells = layout.columns().iter().enumerate();
    cells.filter_map(|(place, (id, _))| Some((*id, format!("{:?}", row.value(place).unwrap()?)))).collect()
}
