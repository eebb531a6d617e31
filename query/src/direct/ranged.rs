//! Rows in a range of keys, or the first of an order of keys.

use std::sync::Arc;

use bytes::Bytes;
use datafusion::sql::sqlparser::ast::Expr;
use highwater_log::key::{self, KEY_BYTES_MAX};
use highwater_log::position::{ColumnId, StorageId};
use highwater_log::schema::IndexState;
use highwater_log::sequencer::KeyRange;
use highwater_log::value::{ColumnType, OwnedValue};
use highwater_materializers::Table;

use super::operand::Operand;
use super::shape::{Comparison, Condition, Direction, Ordering, Shape};
use crate::error::SqlError;
use crate::parameter::{Parameter, parameter_place};
use crate::rows::{RowSource, SeenRow};
use crate::scan::{is_key_order_sql_order, successor, under};

/// A range of a key's values that is all that is asked for.
pub(super) struct Ranged {
    /// The index whose key it is, unless it is the rows' own.
    index: Option<StorageId>,
    /// The leading columns, with what they equal.
    pinned: Pinned,
    /// What the column behind them lies between.
    bounds: Option<Bounds>,
    /// The order that the rows are to have: that of the key, or its reverse.
    direction: Option<Direction>,
    limit: Option<Limit>,
}

/// Columns with what they equal.
type Pinned = Vec<(ColumnType, Operand)>;

struct Bounds {
    column_type: ColumnType,
    low: Option<Bound>,
    high: Option<Bound>,
}

struct Bound {
    operand: Operand,
    is_inclusive: bool,
}

enum Limit {
    Known(usize),
    /// The parameter at this place, from 0.
    Parameter(usize),
}

/// A column that a condition compares with a value.
struct Compared<'a> {
    id: ColumnId,
    comparison: Comparison,
    value: &'a Expr,
}

pub(super) type Rows = Box<dyn Iterator<Item = Result<(Bytes, SeenRow), SqlError>> + Send>;

impl Ranged {
    /// The range that conditions name, and nothing besides.
    pub(super) fn of(
        shape: &Shape<'_>,
        conditions: &[Condition<'_>],
        order: &[Ordering<'_>],
        limit: Option<&Expr>,
        table: &Table,
    ) -> Option<Self> {
        let compared = conditions.iter().map(|condition| Compared::of(shape, condition, table));
        let compared = compared.collect::<Option<Vec<_>>>()?;
        let limit = limit.map(Limit::of).map_or(Some(None), |limit| limit.map(Some))?;
        if compared.is_empty() && limit.is_none() {
            return None;
        }
        let ordered = order.iter().map(|ordering| Some(column(shape, ordering.expr, table)?.0));
        let ordered = ordered.collect::<Option<Vec<_>>>()?;
        let direction = order.first().map(|first| first.direction);
        if order.iter().any(|ordering| Some(ordering.direction) != direction) {
            return None;
        }
        let ready = table.indexes().iter().filter(|index| index.state == IndexState::Ready);
        let keys = ready.map(|index| (&index.columns, Some(index.storage)));
        let (index, pinned, bounds) =
            std::iter::once((&table.schema().primary_key, None)).chain(keys).find_map(|(columns, index)| {
                let (pinned, bounds) = Self::fitted(columns, &compared, &ordered, table)?;
                Some((index, pinned, bounds))
            })?;
        Some(Self { index, pinned, bounds, direction, limit })
    }

    /// What of a key the conditions pin and bound, if that is all that they do, and the order is that of the key.
    fn fitted(
        columns: &[ColumnId],
        compared: &[Compared<'_>],
        ordered: &[ColumnId],
        table: &Table,
    ) -> Option<(Pinned, Option<Bounds>)> {
        let type_of = |id: ColumnId| {
            let column_type = table.schema().column(id)?.column_type;
            is_key_order_sql_order(column_type).then_some(column_type)
        };
        let mut pinned = Vec::new();
        for id in columns {
            let on = |compared: &&Compared<'_>| compared.id == *id && compared.comparison == Comparison::Equal;
            let Some(equal) = compared.iter().find(on) else { break };
            let column_type = type_of(*id)?;
            pinned.push((column_type, Operand::of_comparison(equal.value, column_type)?));
        }
        let mut used = pinned.len();
        let mut bounds = None;
        if let Some(id) = columns.get(pinned.len())
            && compared.iter().any(|compared| compared.id == *id)
        {
            let column_type = type_of(*id)?;
            let bound = |lower: bool| {
                let mut found =
                    compared.iter().filter(|compared| compared.id == *id && compared.comparison.is_lower() == lower);
                let first = found.next()?;
                // Of two it is for the planner to find out which is the narrower.
                Some(match found.next() {
                    None => Operand::of_comparison(first.value, column_type)
                        .map(|operand| Bound { operand, is_inclusive: first.comparison.is_inclusive() }),
                    Some(_) => None,
                })
            };
            let (low, high) = (bound(true), bound(false));
            used += usize::from(low.is_some()) + usize::from(high.is_some());
            let told = |bound: Option<Option<Bound>>| bound.map_or(Some(None), |bound| bound.map(Some));
            bounds = Some(Bounds { column_type, low: told(low)?, high: told(high)? });
        }
        if used != compared.len() || (used == 0 && ordered.is_empty()) {
            return None;
        }
        // What is pinned is the same in all rows.
        let free: Vec<_> = ordered.iter().filter(|id| !columns[..pinned.len()].contains(id)).collect();
        let rest = &columns[pinned.len()..];
        let is_in_order = free.len() <= rest.len() && free.iter().zip(rest).all(|(wanted, id)| *wanted == id);
        let is_sorted = rest.iter().take(free.len()).all(|id| type_of(*id).is_some());
        (is_in_order && is_sorted).then_some((pinned, bounds))
    }

    /// The index that it goes by, unless it goes by the primary key.
    pub(super) const fn index(&self) -> Option<StorageId> {
        self.index
    }

    /// Whether the values are of the columns' types.
    pub(super) fn is_fitting(&self, parameters: &[Parameter]) -> bool {
        self.range(parameters).is_some() && self.limit(parameters).is_some()
    }

    /// How many rows are wanted at most; `None`: it is the planner's to say.
    pub(super) fn limit(&self, parameters: &[Parameter]) -> Option<usize> {
        match self.limit {
            None => Some(usize::MAX),
            Some(Limit::Known(limit)) => Some(limit),
            Some(Limit::Parameter(place)) => match parameters.get(place)? {
                Parameter::Int(limit) => usize::try_from(*limit).ok(),
                _ => None,
            },
        }
    }

    /// The rows, as a transaction sees them; `None`: the values are not of the columns' types, or another way is the shorter one.
    ///
    /// # Errors
    /// Those of reading rows.
    pub(super) fn rows(
        &self,
        table: &Arc<Table>,
        source: &RowSource,
        parameters: &[Parameter],
    ) -> Result<Option<Rows>, SqlError> {
        let storage = table.schema().storage;
        let (Some(range), Some(limit)) = (self.range(parameters), self.limit(parameters)) else { return Ok(None) };
        let Some(range) = range.filter(|_| limit > 0) else { return Ok(Some(Box::new(std::iter::empty()))) };
        let is_backward = self.direction == Some(Direction::Descending);
        // Where they stand among the others, the planner finds out.
        if (self.index.is_some() || is_backward) && source.writes.has_rows(storage) {
            return Ok(None);
        }
        let Some(index) = self.index else {
            source.note_read(table, storage, &range)?;
            return Ok(Some(match is_backward {
                false => Box::new(source.rows(table, &range)?),
                true => Box::new(source.rows_backward(table, &range)?),
            }));
        };
        let rows: Rows = match self.direction {
            None => match source.indexed_rows(table, index, vec![range])? {
                Some(rows) => Box::new(rows),
                None => return Ok(None),
            },
            Some(_) if limit > source.approximate_rows(table) / ROWS_SHARE && limit > ALWAYS_LOOKED_UP => {
                return Ok(None);
            }
            Some(_) => Box::new(source.rows_in_order(table, index, &range, is_backward)?),
        };
        // Who writes names its places in unique indexes alone.
        source.note_read(table, storage, &KeyRange::all())?;
        Ok(Some(rows))
    }

    /// The range; `Some(None)`: nothing is in it; `None`: it is the planner's to say.
    fn range(&self, parameters: &[Parameter]) -> Option<Option<KeyRange>> {
        let (mut prefix, mut has_null) = (Vec::new(), false);
        for (column_type, operand) in &self.pinned {
            match operand.compared(parameters, *column_type)? {
                // The other values are looked at all the same.
                None => has_null = true,
                Some(value) => encode(&mut prefix, *column_type, Some(&value))?,
            }
        }
        let mut range = under(&prefix);
        if let Some(Bounds { column_type, low, high }) = &self.bounds {
            let mut extended = |bound: &Bound| {
                let value = bound.operand.compared(parameters, *column_type)?;
                has_null |= value.is_none();
                let mut key = prefix.clone();
                encode(&mut key, *column_type, value.as_ref())?;
                Some((key, bound.is_inclusive))
            };
            let low = low.as_ref().map(&mut extended).map_or(Some(None), |low| low.map(Some))?;
            let high = high.as_ref().map(&mut extended).map_or(Some(None), |high| high.map(Some))?;
            match low {
                Some((key, true)) => range.start = key.into(),
                Some((key, false)) => range.start = successor(&key)?.into(),
                None => {}
            }
            match high {
                Some((key, true)) => range.end = Some(successor(&key)?.into()),
                Some((key, false)) => range.end = Some(key.into()),
                // NULLs come last, and no comparison finds them.
                None => {
                    let mut nulls = prefix.clone();
                    encode(&mut nulls, *column_type, None)?;
                    range.end = Some(nulls.into());
                }
            }
        }
        let is_empty = has_null || range.end.as_ref().is_some_and(|end| *end <= range.start);
        Some((!is_empty).then_some(range))
    }
}

fn encode(key: &mut Vec<u8>, column_type: ColumnType, value: Option<&OwnedValue>) -> Option<()> {
    key::encode([(column_type, value.map(OwnedValue::as_value))], key).ok()?;
    (key.len() <= KEY_BYTES_MAX).then_some(())
}

impl Limit {
    fn of(expr: &Expr) -> Option<Self> {
        match (parameter_place(expr), Parameter::of_literal(expr)) {
            (Some(place), _) => Some(Self::Parameter(place)),
            (None, Some(Parameter::Int(limit))) => usize::try_from(limit).ok().map(Self::Known),
            _ => None,
        }
    }
}

impl<'a> Compared<'a> {
    fn of(shape: &Shape<'_>, condition: &Condition<'a>, table: &Table) -> Option<Self> {
        let &Condition { left, comparison, right } = condition;
        match (column(shape, left, table), column(shape, right, table)) {
            (Some((id, _)), None) if shape.column(right).is_none() => Some(Self { id, comparison, value: right }),
            (None, Some((id, _))) if shape.column(left).is_none() => {
                Some(Self { id, comparison: comparison.swapped(), value: left })
            }
            _ => None,
        }
    }
}

/// The column of the table that an expression names.
fn column(shape: &Shape<'_>, expr: &Expr, table: &Table) -> Option<(ColumnId, ColumnType)> {
    let name = shape.column(expr)?;
    let column = table.schema().columns.iter().find(|column| column.name == name)?;
    Some((column.id, column.column_type))
}

/// Beyond one row in so many, sorting all of them takes less time than looking them up.
const ROWS_SHARE: usize = 8;
/// So few are looked up however small the table is.
const ALWAYS_LOOKED_UP: usize = 64;
