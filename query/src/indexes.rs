//! Building indexes: what statements have begun is filled beside the commits.
//!
//! ```text
//!   begun at k ──▶ rows at s ≥ k gathered ──▶ unique: the rows of before exclude others from here on ──▶ ready
//!                                              └▶ and nothing came between that has what they have
//! ```
//!
//! From k on every commit that writes rows knows of the index: whoever read the catalog before k is told to begin anew. Of a unique
//! index, commits exclude duplicates among themselves at first. What lies beneath is seen by all who begin behind the second step,
//! which is fenced as the first; so a duplicate that came between has come by then, and is found, also when it is gone again.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use highwater_log::position::{IndexId, StorageId, TableId};
use highwater_log::row::CodecError;
use highwater_log::schema::{CatalogEntry, IndexSchema, IndexState, TableSchema};
use highwater_log::sequencer::{
    CATALOG_SPACE, Durability, KeyName, KeyWrite, Precondition, WriteSet, catalog_index_key,
};
use highwater_log::{Change, Lsn, Pauses};
use highwater_materializers::{Backfill, FoldError, Index, ReadPin, StoredRow, Table};

use crate::ddl::{BegunIndex, describe_key, duplicate};
use crate::engine::Engine;
use crate::error::SqlError;
use crate::interrupt::Interrupt;
use crate::rows::{SeenRow, of_key};
use crate::sqlstate;
use crate::transaction::Transaction;

/// Builds the indexes that statements have begun, those of before among them, until a pause breaks.
pub(crate) fn build_indexes(engine: &Engine, pauses: &Pauses) {
    let mut pause = Duration::ZERO;
    while pauses.wait(pause).is_continue() {
        pause = LOOKED_AFTER;
        for (table, index) in begun_indexes(engine) {
            // Damaged files may make the trees' library panic; that was printed where it happened.
            match catch_unwind(AssertUnwindSafe(|| build(engine, table, index, pauses))) {
                Ok(Ok(ControlFlow::Continue(()))) => {}
                Ok(Ok(ControlFlow::Break(()))) => return,
                Err(_) => pause = RETRY_AFTER,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "building an index failed, trying again");
                    pause = RETRY_AFTER;
                }
            }
        }
    }
}

/// Waits until an index that was begun is ready; returns the LSN at which it was seen to be.
///
/// # Errors
/// Why it failed: `23505`, `54000`; `42704` when it was dropped meanwhile; `57014` when the interrupt is raised: it goes on then.
pub(crate) async fn ready(engine: &Engine, begun: &BegunIndex, interrupt: &Interrupt) -> Result<Lsn, SqlError> {
    engine.index_wanted();
    loop {
        let at = engine.visible();
        match find(engine, begun.table, at, |index| index.name == begun.name).map(|(_, index)| index.state) {
            Some(IndexState::Ready) => return Ok(at),
            Some(IndexState::Failed { sqlstate, cause }) => {
                let known = CAUSES.into_iter().find(|known| *known == sqlstate);
                return Err(SqlError::new(known.unwrap_or(sqlstate::INTERNAL_ERROR), cause));
            }
            Some(IndexState::Building | IndexState::Checking) => {}
            None => {
                let message = "the index was dropped or renamed while it was being built";
                return Err(SqlError::new(sqlstate::UNDEFINED_OBJECT, message));
            }
        }
        interrupt.check()?;
        engine.check_log()?;
        if !engine.builds_indexes() {
            let message = "the database is closing: the index is built when it is opened again";
            return Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, message));
        }
        // A moment's wait, also for the interrupt.
        let _ = engine.wait_visible(at.next(), NOTICED_AFTER).await;
    }
}

fn begun_indexes(engine: &Engine) -> Vec<(TableId, IndexId)> {
    let tables = engine.folds().catalog().tables(engine.visible());
    let begun = tables.iter().flat_map(|table| {
        let table = table.schema();
        let unready = table.indexes.iter().filter(|index| is_begun(&index.state));
        unready.map(|index| (table.id, index.id))
    });
    begun.collect()
}

const fn is_begun(state: &IndexState) -> bool {
    matches!(state, IndexState::Building | IndexState::Checking)
}

/// Takes an index to its end. Breaks when it is time to end.
fn build(engine: &Engine, id: TableId, index: IndexId, pauses: &Pauses) -> Result<ControlFlow<()>, SqlError> {
    while let Some((table, schema)) = find(engine, id, engine.visible(), |known| known.id == index) {
        match schema.state {
            IndexState::Building => {}
            // Where the two parts of it meet is not known any more.
            IndexState::Checking => {
                begin_anew(engine, id, &schema)?;
                continue;
            }
            IndexState::Ready | IndexState::Failed { .. } => break,
        }
        let filled = match fill(engine, &table, &schema, pauses)? {
            ControlFlow::Continue(Ok(filled)) => filled,
            ControlFlow::Continue(Err(error)) => {
                set_state(engine, id, &schema, failed(&error))?;
                break;
            }
            ControlFlow::Break(()) => return Ok(ControlFlow::Break(())),
        };
        match (filled, schema.unique) {
            (_, false) => set_state(engine, id, &schema, IndexState::Ready)?,
            (None, true) => begin_anew(engine, id, &schema)?,
            (Some(filled), true) => {
                set_state(engine, id, &schema, IndexState::Checking)?;
                let checking = IndexSchema { state: IndexState::Checking, ..schema };
                let state = match check(engine, &table, &checking, &filled)? {
                    Ok(()) => IndexState::Ready,
                    Err(error) => failed(&error),
                };
                set_state(engine, id, &checking, state)?;
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn failed(error: &SqlError) -> IndexState {
    IndexState::Failed { sqlstate: error.sqlstate.to_owned(), cause: error.message.to_string() }
}

/// Gathers the rows of before; what holds them readable as they were gathered, unless all are there already. Breaks when it is time to
/// end; an inner error is the index's own.
fn fill(
    engine: &Engine,
    table: &Arc<Table>,
    schema: &IndexSchema,
    pauses: &Pauses,
) -> Result<ControlFlow<(), Result<Option<ReadPin>, SqlError>>, SqlError> {
    let index = Index::of_schema(schema);
    let Some(mut backfill) = Backfill::begin(engine.folds().kv(), table, &index)? else {
        return Ok(ControlFlow::Continue(Ok(None)));
    };
    loop {
        match backfill.step(STEP_ROWS) {
            Ok(true) => break,
            Ok(false) if pauses.is_over() => return Ok(ControlFlow::Break(())),
            Ok(false) => {}
            Err(FoldError::Row { source: CodecError::KeyTooLong(length), .. }) => {
                backfill.abandon()?;
                return Ok(ControlFlow::Continue(Err(crate::transaction::too_long(&index, length))));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ControlFlow::Continue(match backfill.finish()? {
        Ok(filled) => Ok(Some(filled)),
        Err(row) => Err(duplicate(&index, &described(engine, table, &index, row)?)),
    }))
}

/// Looks for places that were taken twice before all knew of the rows of before.
fn check(
    engine: &Engine,
    table: &Arc<Table>,
    schema: &IndexSchema,
    filled: &ReadPin,
) -> Result<Result<(), SqlError>, SqlError> {
    let index = Index::of_schema(schema);
    let pin = engine.folds().kv().pin_for_work(engine.visible())?;
    Ok(match pin.taken_twice(filled, table, &index)? {
        None => Ok(()),
        Some(row) => Err(duplicate(&index, &described(engine, table, &index, row)?)),
    })
}

fn described(engine: &Engine, table: &Arc<Table>, index: &Index, row: StoredRow) -> Result<String, SqlError> {
    let version = highwater_log::row::Row::schema_version(&row.bytes)?;
    let written = engine.folds().catalog().table_at_version(table.schema().id, version);
    let written = written.ok_or_else(|| SqlError::internal("a row of an unknown version"))?;
    describe_key(table, index, &SeenRow { bytes: row.bytes, written }.view(table)?)
}

/// Commits how far an index has come; nothing, when it is no longer what it was.
fn set_state(engine: &Engine, table: TableId, index: &IndexSchema, state: IndexState) -> Result<(), SqlError> {
    tracing::info!(index = %index.name, table = %table, ?state, "an index has come further");
    change(engine, table, index, |at, current, place| {
        let mut schema = current.schema().clone();
        schema.indexes[place].state = state.clone();
        match state {
            // From there on writers see what lies beneath.
            IndexState::Checking => fenced(engine.transaction(at)?, schema),
            _ => Ok(unfenced(at, current.written(), index, schema)),
        }
    })
}

/// Begins an index again, with nothing in it.
fn begin_anew(engine: &Engine, table: TableId, index: &IndexSchema) -> Result<(), SqlError> {
    tracing::info!(index = %index.name, table = %table, "an index is begun anew");
    change(engine, table, index, |at, current, place| {
        let mut schema = current.schema().clone();
        let mut transaction = engine.transaction(at)?;
        let index = &mut schema.indexes[place];
        index.storage = StorageId::new(transaction.catalog.take_id());
        index.backfill = Some(StorageId::new(transaction.catalog.take_id()));
        index.state = IndexState::Building;
        fenced(transaction, schema)
    })
}

/// Commits a change of an index, which is given its table as it is and its place there; nothing, when it is no longer what it was.
fn change(
    engine: &Engine,
    table: TableId,
    index: &IndexSchema,
    changed: impl Fn(Lsn, &Table, usize) -> Result<WriteSet, SqlError>,
) -> Result<(), SqlError> {
    loop {
        let at = engine.visible();
        let Some(current) = engine.folds().catalog().table(table, at) else { return Ok(()) };
        let Some(place) = current.schema().indexes.iter().position(|known| known == index) else { return Ok(()) };
        match engine.sequencer().commit_blocking(changed(at, &current, place)?).map_err(SqlError::from) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
}

/// A change that whoever writes rows must know of.
fn fenced(mut transaction: Transaction, mut schema: TableSchema) -> Result<WriteSet, SqlError> {
    schema.version = schema.version.next();
    transaction.catalog.put_table(schema, false);
    transaction.into_write_set(Durability::Synced)
}

/// A change that matters to readers alone: the table's version, which commit `written` wrote, stays, and with it all that is being
/// written.
fn unfenced(at: Lsn, written: Lsn, index: &IndexSchema, schema: TableSchema) -> WriteSet {
    let key = KeyName::Bytes(catalog_index_key(index.id));
    let object = schema.id.value();
    let unchanged = schema.indexes.iter().map(|index| {
        let range = of_key(&catalog_index_key(index.id));
        Precondition::RangeUnchanged { space: CATALOG_SPACE, range, since: at }
    });
    let as_it_was = Precondition::SchemaAt { table: schema.id, version: written };
    WriteSet {
        preconditions: std::iter::once(as_it_was).chain(unchanged).collect(),
        keys: vec![KeyWrite { space: CATALOG_SPACE, key, is_present: true }],
        changes: vec![Change::Catalog { object, entry: Some(CatalogEntry::Table(schema).to_json().into()) }],
        ..WriteSet::default()
    }
}

/// An index of a table, and the table.
fn find(
    engine: &Engine,
    table: TableId,
    at: Lsn,
    is_it: impl Fn(&IndexSchema) -> bool,
) -> Option<(Arc<Table>, IndexSchema)> {
    let table = engine.folds().catalog().table(table, at)?;
    let index = table.schema().indexes.iter().find(|index| is_it(index)).cloned()?;
    Some((table, index))
}

/// Rows between two looks at whether it is time to end.
const STEP_ROWS: usize = 1024;
/// Begun indexes are looked for so often where nobody tells of them.
const LOOKED_AFTER: Duration = Duration::from_secs(10);
const RETRY_AFTER: Duration = Duration::from_secs(1);
const NOTICED_AFTER: Duration = Duration::from_millis(100);
/// What an index may fail of.
const CAUSES: [&str; 2] = [sqlstate::UNIQUE_VIOLATION, sqlstate::PROGRAM_LIMIT_EXCEEDED];
