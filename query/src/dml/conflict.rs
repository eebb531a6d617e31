//! ON CONFLICT: what becomes of rows whose place is taken.
//!
//! Proposed rows are looked at in order. One whose place nobody has is inserted; for one whose place another row has, nothing is done, or
//! that row is changed. The changes of all of them are one query, over the rows that are there joined to those that were proposed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Int64Type, Schema};
use bytes::Bytes;
use datafusion::sql::sqlparser::ast::{ConflictTarget, DoUpdate, OnConflict, OnConflictAction};
use highwater_log::key::HeadKey;
use highwater_log::position::{ColumnId, RowId, StorageId};
use highwater_log::schema::IndexState;
use highwater_log::value::ElementType;
use highwater_materializers::{Index, Table, Uniqueness};

use super::{assign, assignments, changed_row, column_place, returning};
use crate::catalog::primary_key_name;
use crate::error::SqlError;
use crate::names::folded;
use crate::providers::{TARGET_NAMESPACE, Target};
use crate::rewrite::written;
use crate::rows::{SeenRow, of_key};
use crate::sqlstate;
use crate::statement::StatementContext;
use crate::transaction::{RowChange, Transaction};
use crate::types;

/// What must be free for a row: its key, or its place in a unique index.
enum Arbiter {
    Key,
    Index(Index),
}

/// What becomes of a proposed row.
enum Fate {
    Inserted(Bytes),
    /// It changes a row, as this conflict says.
    Updated(usize),
}

/// A row that is there, and the one that was proposed in its place.
struct Conflict {
    key: Bytes,
    existing: SeenRow,
    proposed: SeenRow,
}

/// The changes that rows proposed for insertion come to; expressions know the table by `alias`.
///
/// # Errors
/// `21000` when a row would be changed twice; `42P10`, `42704` when nothing unique is what was named.
pub(super) async fn resolve(
    context: &StatementContext<'_>,
    transaction: &mut Transaction,
    table: &Arc<Table>,
    alias: &str,
    on: &OnConflict,
    proposed: Vec<RowChange>,
) -> Result<Vec<RowChange>, SqlError> {
    let update = match &on.action {
        OnConflictAction::DoNothing => None,
        OnConflictAction::DoUpdate(update) => Some(update),
    };
    let arbiters = arbiters(table, on.conflict_target.as_ref(), update.is_some())?;
    let (mut fates, mut conflicts) = (Vec::with_capacity(proposed.len()), Vec::new());
    // Places that rows of this statement take.
    let mut taken = HashSet::new();
    for change in proposed {
        let RowChange::Insert { after } = change else { continue };
        let row = SeenRow { bytes: after.into(), written: Arc::clone(table) };
        let places = places(table, &arbiters, &row)?;
        if places.iter().any(|place| taken.contains(place)) {
            if update.is_some() {
                return Err(second_time());
            }
            continue;
        }
        match existing(transaction, table, &places)? {
            None => {
                taken.extend(places);
                fates.push(Fate::Inserted(row.bytes));
            }
            Some(_) if update.is_none() => {}
            Some((key, existing)) => {
                fates.push(Fate::Updated(conflicts.len()));
                conflicts.push(Conflict { key, existing, proposed: row });
            }
        }
    }
    let mut updates = match update {
        Some(update) if !conflicts.is_empty() => {
            updates(context, transaction, table, alias, update, &conflicts).await?
        }
        _ => HashMap::new(),
    };
    // One that its WHERE leaves as it was may be in the way of another.
    let mut changed = HashSet::new();
    for (number, conflict) in conflicts.iter().enumerate() {
        if changed.contains(&conflict.key) {
            return Err(second_time());
        }
        if updates.contains_key(&number) {
            changed.insert(conflict.key.clone());
        }
    }
    let changes = fates.into_iter().filter_map(|fate| match fate {
        Fate::Inserted(row) => Some(RowChange::Insert { after: row.into() }),
        // Its WHERE said no.
        Fate::Updated(conflict) => updates.remove(&conflict),
    });
    Ok(changes.collect())
}

/// What DO UPDATE makes of the rows that are there, by conflict.
async fn updates(
    context: &StatementContext<'_>,
    transaction: &Transaction,
    table: &Arc<Table>,
    alias: &str,
    update: &DoUpdate,
    conflicts: &[Conflict],
) -> Result<HashMap<usize, RowChange>, SqlError> {
    let assignments = assignments(table, &update.assignments)?;
    let mut items = vec![format!("{alias}.{NUMBER}")];
    for (index, (place, value)) in assignments.iter().enumerate() {
        items.push(format!("{} AS c{index}", written(&assign::assigned(table, *place, value))));
    }
    let filter = update.selection.as_ref().map_or(String::new(), |filter| format!(" WHERE {}", written(filter)));
    let sql = format!(
        "SELECT {} FROM {TARGET_NAMESPACE}.{EXISTING} AS {alias} JOIN {TARGET_NAMESPACE}.{PROPOSED} AS excluded \
         ON {alias}.{NUMBER} = excluded.{NUMBER}{filter}",
        items.join(", ")
    );
    let existing: Vec<_> = conflicts.iter().map(|conflict| conflict.existing.clone()).collect();
    let proposed: Vec<_> = conflicts.iter().map(|conflict| conflict.proposed.clone()).collect();
    let given = vec![(EXISTING, numbered(table, &existing)?), (PROPOSED, numbered(table, &proposed)?)];
    let batches = context.collect(transaction, &sql, Some(Target::Given(given))).await?;
    let places: Vec<usize> = assignments.into_iter().map(|(place, _)| place).collect();
    let mut updates = HashMap::with_capacity(conflicts.len());
    for batch in &batches {
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        for (row, number) in numbers.values().iter().enumerate() {
            let number = usize::try_from(*number).map_err(|_| SqlError::internal("a conflict without a number"))?;
            let conflict = conflicts.get(number).ok_or_else(|| SqlError::internal("a conflict that is none"))?;
            let after = changed_row(table, &conflict.existing, &places, batch, row)?;
            updates.insert(number, RowChange::Update { key: conflict.key.clone(), after });
        }
    }
    Ok(updates)
}

/// Rows with a column that numbers them, behind the others.
fn numbered(table: &Table, rows: &[SeenRow]) -> Result<RecordBatch, SqlError> {
    let batch = returning::batch(table, rows)?;
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(types::field(NUMBER, ElementType::BigInt.into(), false)));
    let mut columns = batch.columns().to_vec();
    columns.push(Arc::new(Int64Array::from_iter_values((0i64..).take(rows.len()))));
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// The row whose place is taken, if it is, and its key.
fn existing(
    transaction: &mut Transaction,
    table: &Table,
    places: &[(Option<StorageId>, Bytes)],
) -> Result<Option<(Bytes, SeenRow)>, SqlError> {
    for (index, place) in places {
        let key = match index {
            None => Some(place.clone()),
            Some(index) => transaction.source_ref().key_of_code(*index, place)?,
        };
        let source = transaction.source();
        match index {
            None => source.note_read(table, table.schema().storage, &of_key(place))?,
            Some(index) => source.note_read(table, *index, &of_key(place))?,
        }
        let Some(key) = key else { continue };
        source.note_read(table, table.schema().storage, &of_key(&key))?;
        if let Some(row) = transaction.current_row(table, &HeadKey::from(key.clone()))? {
            return Ok(Some((key, row)));
        }
    }
    Ok(None)
}

/// The places that a row takes: its key, and its places in indexes.
fn places(table: &Table, arbiters: &[Arbiter], row: &SeenRow) -> Result<Vec<(Option<StorageId>, Bytes)>, SqlError> {
    let view = row.view(table)?;
    let mut places = Vec::with_capacity(arbiters.len());
    for arbiter in arbiters {
        match arbiter {
            Arbiter::Key => places.push((None, table.row_key(&view, RowId::default())?)),
            Arbiter::Index(index) => {
                // What stands beside one another takes no place.
                if let (code, Uniqueness::Unique) = table.index_key(index, &view, &[])? {
                    places.push((Some(index.storage), code));
                }
            }
        }
    }
    Ok(places)
}

fn arbiters(table: &Table, target: Option<&ConflictTarget>, is_update: bool) -> Result<Vec<Arbiter>, SqlError> {
    let schema = table.schema();
    let is_keyed = !schema.primary_key.is_empty();
    let unique = table.indexes().iter().filter(|index| index.is_unique);
    match target {
        None if is_update => {
            Err(SqlError::syntax("ON CONFLICT DO UPDATE requires inference specification or constraint name"))
        }
        None => Ok(is_keyed.then_some(Arbiter::Key).into_iter().chain(unique.cloned().map(Arbiter::Index)).collect()),
        Some(ConflictTarget::Columns(names)) => {
            let wanted = names.iter().map(|name| column_id(table, &folded(name))).collect::<Result<Vec<_>, _>>()?;
            let is_it = |columns: &[ColumnId]| {
                columns.iter().all(|id| wanted.contains(id)) && wanted.iter().all(|id| columns.contains(id))
            };
            let key = (is_keyed && is_it(&schema.primary_key)).then_some(Arbiter::Key);
            let ready = unique.filter(|index| index.state == IndexState::Ready && is_it(&index.columns));
            let found: Vec<_> = key.into_iter().chain(ready.cloned().map(Arbiter::Index)).collect();
            if found.is_empty() {
                let message = "there is no unique constraint matching the ON CONFLICT specification";
                return Err(SqlError::new(sqlstate::INVALID_COLUMN_REFERENCE, message));
            }
            Ok(found)
        }
        Some(ConflictTarget::OnConstraint(name)) => {
            let name = name.0.last().and_then(|part| part.as_ident()).map(folded).unwrap_or_default();
            if is_keyed && *primary_key_name(schema) == name {
                return Ok(vec![Arbiter::Key]);
            }
            let is_constraint = schema.uniques.iter().any(|unique| unique.name == name);
            let index = table.indexes().iter().find(|index| is_constraint && index.name == name);
            let index = index.ok_or_else(|| {
                let message = format!("constraint \"{name}\" for table \"{}\" does not exist", schema.name);
                SqlError::new(sqlstate::UNDEFINED_OBJECT, message)
            })?;
            Ok(vec![Arbiter::Index(index.clone())])
        }
    }
}

fn column_id(table: &Table, name: &str) -> Result<ColumnId, SqlError> {
    column_place(table, name).map(|place| table.schema().columns[place].id)
}

fn second_time() -> SqlError {
    let message = "ON CONFLICT DO UPDATE command cannot affect row a second time";
    SqlError::new(sqlstate::CARDINALITY_VIOLATION, message)
}

/// What the rows are called on their way through the planner.
const EXISTING: &str = "existing";
const PROPOSED: &str = "proposed";
/// The column that tells which of them belong together.
const NUMBER: &str = "hw_number";
