//! Looking through what was folded: whether the files are as they were written, and whether what they say fits together.

use std::collections::BTreeMap;

use highwater_log::base::{BaseRecord, BaseState};
use highwater_log::position::TableId;
use highwater_log::schema::IndexState;
use highwater_log::sequencer::KeyRange;
use xxhash_rust::xxh3::Xxh3;

use crate::error::FoldError;
use crate::kv::ReadPin;
use crate::supervisor::Materialized;
use crate::table::{Index, Table, TableRow};

/// Something that is not as it should be. Folding the materializer anew mends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The materializer.
    pub materializer: &'static str,
    /// What was found.
    pub what: String,
}

/// What [`Materialized::verify_state`] has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Rows.
    pub rows: u64,
    /// Entries of indexes.
    pub entries: u64,
}

impl Materialized {
    /// Looks through all rows and index entries of `pin`: that each row has the key that its values have, and each index an entry of
    /// each row and no other. `tell` hears the counts now and then.
    ///
    /// # Errors
    /// [`FoldError`] where reading fails.
    pub fn verify_state(
        &self,
        pin: &ReadPin,
        mut tell: impl FnMut(Counted),
    ) -> Result<(Counted, Vec<Finding>), FoldError> {
        let (mut counted, mut findings) = (Counted::default(), Vec::new());
        for table in self.catalog().tables(pin.at()) {
            let before = counted.rows;
            let mut look = Look { folds: self, pin, table: &table, counted: &mut counted, tell: &mut tell };
            findings.extend(look.rows()?);
            let rows = look.counted.rows - before;
            for index in table.indexes().iter().filter(|index| index.state == IndexState::Ready) {
                findings.extend(look.index(index, rows)?);
            }
        }
        tell(counted);
        Ok((counted, findings))
    }

    /// Compares the state at `pin` with that of the same log folded elsewhere: the catalog, all rows, positions and sequences.
    ///
    /// # Errors
    /// [`FoldError`] where reading fails, [`FoldError::NotApplied`] where the other one has not come as far.
    pub fn compare(&self, pin: &ReadPin, other: &Self) -> Result<Vec<Finding>, FoldError> {
        let mut findings = Vec::new();
        if self.catalog().image(pin.at()) != other.catalog().image(pin.at()) {
            let what = "the catalog is not what the log says".to_owned();
            findings.push(Finding { materializer: "catalog", what });
        }
        let (own, folded) = (Digest::of(pin)?, Digest::of(&other.kv().pin(pin.at())?)?);
        let tables = own.0.keys().chain(folded.0.keys()).collect::<std::collections::BTreeSet<_>>();
        for table in tables {
            let (own, folded) = (own.0.get(table), folded.0.get(table));
            if own != folded {
                let rows = |found: Option<&(u64, u128)>| found.map_or(0, |(count, _)| *count);
                let whose = match table {
                    Some(table) => self.called(*table, pin),
                    None => "positions and sequences".to_owned(),
                };
                let what = match (rows(own), rows(folded)) {
                    (own, folded) if own == folded => format!("{whose}: its {own} rows are not those of the log"),
                    (own, folded) => format!("{whose}: {own} rows, by the log {folded}"),
                };
                findings.push(Finding { materializer: "kv", what });
            }
        }
        Ok(findings)
    }

    fn called(&self, table: TableId, pin: &ReadPin) -> String {
        let found = self.catalog().table(table, pin.at());
        found.map_or_else(|| format!("table {table}"), |table| full_name(&table))
    }
}

fn full_name(table: &Table) -> String {
    format!("{}.{}", table.schema().namespace, table.schema().name)
}

/// Of each table, and of what is no table's, how much there is and a hash of it in order.
struct Digest(BTreeMap<Option<TableId>, (u64, u128)>);

impl Digest {
    fn of(pin: &ReadPin) -> Result<Self, FoldError> {
        let mut digests: BTreeMap<_, (u64, Xxh3)> = BTreeMap::new();
        pin.image(|BaseRecord { lsn, state }| {
            let table = if let BaseState::Row { table, .. } = &state { Some(*table) } else { None };
            let (count, hash) = digests.entry(table).or_default();
            *count += 1;
            // Which commit wrote a row is part of what was folded.
            hash.update(&lsn.value().to_le_bytes());
            let (name, bytes) = match &state {
                BaseState::Catalog { .. } => unreachable!("an image of rows has no catalog"),
                BaseState::Row { row, image, .. } => (row.value().to_le_bytes().to_vec(), image.clone()),
                BaseState::Position { of, position } => (of.to_vec(), position.clone()),
                BaseState::Sequence(sequence) => {
                    let producer = bytes::Bytes::copy_from_slice(&sequence.producer.0);
                    (sequence.sequence.to_le_bytes().to_vec(), producer)
                }
            };
            for part in [&name[..], &bytes] {
                hash.update(&(part.len() as u64).to_le_bytes());
                hash.update(part);
            }
            Ok(())
        })?;
        let finished = digests.into_iter().map(|(table, (count, hash))| (table, (count, hash.digest128())));
        Ok(Self(finished.collect()))
    }
}

/// Looks through a table.
struct Look<'a> {
    folds: &'a Materialized,
    pin: &'a ReadPin,
    table: &'a Table,
    counted: &'a mut Counted,
    tell: &'a mut dyn FnMut(Counted),
}

impl Look<'_> {
    /// The first row whose key is not that of its values.
    fn rows(&mut self) -> Result<Option<Finding>, FoldError> {
        let storage = self.table.schema().storage;
        let mut finding = None;
        for item in self.pin.rows(storage, &KeyRange::all())? {
            let (key, row) = item?;
            self.counted.rows += 1;
            self.told(self.counted.rows);
            let right = self.of_row(&row.bytes, |view| self.table.row_key(view, row.id))?;
            if finding.is_none() && right != key {
                finding = Some(self.found(&format!("row {} has another key than its values", row.id)));
            }
        }
        Ok(finding)
    }

    /// The first thing that is wrong with an index of a table of so many rows.
    fn index(&mut self, index: &Index, rows: u64) -> Result<Option<Finding>, FoldError> {
        let storage = self.table.schema().storage;
        let (mut entries, mut finding) = (0, None);
        for item in self.pin.rows(index.storage, &KeyRange::all())? {
            let (place, entry) = item?;
            entries += 1;
            self.counted.entries += 1;
            self.told(self.counted.entries);
            if finding.is_some() {
                continue;
            }
            let wrong = match self.pin.looked_up_row(storage, &entry.bytes)? {
                None => Some(format!("index {} has an entry of row {}, which is gone", index.name, entry.id)),
                Some(row) => {
                    let right = self.of_row(&row.bytes, |view| self.table.index_key(index, view, &entry.bytes))?.0;
                    let is_right = right == place && row.id == entry.id;
                    (!is_right).then(|| format!("index {} has row {} in a wrong place", index.name, row.id))
                }
            };
            finding = wrong.map(|wrong| self.found(&wrong));
        }
        // Entries of different places are of different rows: as many as there are rows are all.
        if finding.is_none() && entries != rows {
            finding = Some(self.found(&format!("index {} has {entries} entries for {rows} rows", index.name)));
        }
        Ok(finding)
    }

    /// What `read` makes of a row, whichever version of the table it was written under.
    fn of_row<T>(
        &self,
        bytes: &[u8],
        read: impl FnOnce(&TableRow<'_>) -> Result<T, highwater_log::row::CodecError>,
    ) -> Result<T, FoldError> {
        let (lsn, table) = (self.pin.at(), self.table.schema().id);
        let of = |source| FoldError::Row { lsn, table, source };
        let version = highwater_log::row::Row::schema_version(bytes).map_err(of)?;
        if version == self.table.schema().version {
            return TableRow::parse(self.table, bytes, self.table).and_then(|view| read(&view)).map_err(of);
        }
        let written = self.folds.catalog().table_at_version(table, version);
        let written = written.ok_or(FoldError::UnknownSchema { lsn, table, version })?;
        TableRow::parse(&written, bytes, self.table).and_then(|view| read(&view)).map_err(of)
    }

    fn found(&self, what: &str) -> Finding {
        Finding { materializer: "kv", what: format!("{}: {what}", full_name(self.table)) }
    }

    fn told(&mut self, count: u64) {
        if count.is_multiple_of(TELL_STEP) {
            (self.tell)(*self.counted);
        }
    }
}

const TELL_STEP: u64 = 10_000;
