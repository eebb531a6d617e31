//! How a scan comes to its rows: by their keys, or by an index.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::logical_expr::Expr;
use highwater_log::schema::IndexState;
use highwater_log::sequencer::KeyRange;
use highwater_materializers::{Index, Table};

use super::ranges::{KeyRanges, key_ranges};
use crate::error::SqlError;
use crate::rows::{RowSource, SeenRow};

/// Rows with their keys.
pub(super) type Rows = Box<dyn Iterator<Item = Result<(Bytes, SeenRow), SqlError>> + Send>;

/// The way to the rows of a scan. All that it finds are judged again by the filters.
#[derive(Clone)]
pub(super) struct Path {
    /// Ranges of the rows' own keys.
    ranges: Vec<KeyRange>,
    /// An index that leaves fewer, and ranges of its keys.
    index: Option<(Index, Vec<KeyRange>)>,
    /// Each range of the index is of one place that one row has at most.
    is_single: bool,
    narrows: Narrows,
}

/// What ranges of keys leave of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrows {
    /// All of it.
    Nothing,
    /// A row for each range.
    ToRows,
    /// What equals values in some columns.
    ToValues,
    /// What lies within bounds.
    ToBounds,
}

impl Narrows {
    fn of(merit: (bool, usize, bool)) -> Self {
        match merit {
            (true, ..) => Self::ToRows,
            (false, 1.., _) => Self::ToValues,
            (false, 0, true) => Self::ToBounds,
            (false, 0, false) => Self::Nothing,
        }
    }
}

impl Path {
    /// The way that is thought to look at the fewest rows: the one with the most leading columns pinned to values, then one with a
    /// bound on the next column; of equals the rows' own key, in whose order they lie.
    pub(super) fn chosen(table: &Table, filters: &[Expr]) -> Self {
        let own = key_ranges(table, &table.schema().primary_key, filters);
        let own_merit =
            merit(&own, !table.schema().primary_key.is_empty() && own.pinned == table.schema().primary_key.len());
        let ready = table.indexes().iter().filter(|index| index.state == IndexState::Ready);
        let ways = ready.map(|index| {
            let ranges = key_ranges(table, &index.columns, filters);
            let is_single = index.is_unique && ranges.pinned == index.columns.len() && !ranges.is_of_nulls;
            (merit(&ranges, is_single), index, ranges)
        });
        let best = ways.max_by_key(|(merit, ..)| *merit).filter(|(merit, ..)| *merit > own_merit);
        let is_single = best.as_ref().is_some_and(|((is_single, ..), ..)| *is_single);
        let narrows = Narrows::of(best.as_ref().map_or(own_merit, |(merit, ..)| *merit));
        let index = best.map(|(_, index, ranges)| (index.clone(), ranges.ranges));
        Self { ranges: own.ranges, index, is_single, narrows }
    }

    /// About how many rows it finds in a table of so many. The shares are those that PostgreSQL supposes where it knows nothing of the
    /// values (`DEFAULT_EQ_SEL`, `DEFAULT_INEQ_SEL`).
    pub(super) fn expected_rows(&self, all: usize) -> usize {
        let ranges = self.index.as_ref().map_or(self.ranges.len(), |(_, ranges)| ranges.len());
        match self.narrows {
            Narrows::Nothing => all,
            Narrows::ToRows => ranges.min(all),
            Narrows::ToValues => (all / 200).max(1).saturating_mul(ranges).min(all),
            Narrows::ToBounds => all.div_ceil(3),
        }
    }

    /// Whether rows come in the order of their keys.
    pub(super) const fn is_in_key_order(&self) -> bool {
        self.index.is_none()
    }

    /// The rows.
    pub(super) fn rows(self, source: &RowSource, table: &Arc<Table>) -> Result<Rows, SqlError> {
        let storage = table.schema().storage;
        if let Some((index, ranges)) = self.index
            && let Some(rows) = source.indexed_rows(table, index.storage, ranges.clone())?
        {
            // Who writes names its places in unique indexes alone.
            match self.is_single {
                true => ranges.iter().try_for_each(|range| source.note_read(table, index.storage, range))?,
                false => source.note_read(table, storage, &KeyRange::all())?,
            }
            return Ok(Box::new(rows));
        }
        self.ranges.iter().try_for_each(|range| source.note_read(table, storage, range))?;
        let (source, table) = (source.clone(), Arc::clone(table));
        let ranges = self.ranges.into_iter();
        Ok(Box::new(ranges.flat_map(move |range| -> Rows {
            match source.rows(&table, &range) {
                Ok(rows) => Box::new(rows),
                Err(error) => Box::new(std::iter::once(Err(error))),
            }
        })))
    }
}

/// Whether it is of one row at most, how many columns are pinned, whether there is a bound.
fn merit(ranges: &KeyRanges, is_single: bool) -> (bool, usize, bool) {
    (is_single, ranges.pinned, ranges.is_bounded)
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((index, ranges)) = &self.index {
            return write!(f, "index {}, {} key ranges", index.name, ranges.len());
        }
        if self.ranges.iter().any(|range| range.start.is_empty() && range.end.is_none()) {
            return f.write_str("all keys");
        }
        write!(f, "{} key ranges", self.ranges.len())
    }
}
