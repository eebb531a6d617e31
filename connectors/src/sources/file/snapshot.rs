//! Rows of an upstream's snapshot, in batches.

use super::block::Line;
use super::position::Position;
use super::unit::UnitKind;
use super::{FileIngest, IngestCause, Located, here};
use crate::decode::debezium::Change;

/// How far the snapshot in the input has come.
pub(super) struct SnapshotProgress {
    pub(super) lsn: u64,
    pub(super) rows: u64,
    /// The table of its first row.
    first: String,
}

impl FileIngest {
    /// Where the stored snapshot was taken, if a snapshot is what is stored.
    pub(super) fn stored_snapshot(&self) -> u64 {
        match self.stored() {
            Some(Position::Snapshot { lsn, .. }) => *lsn,
            _ => 0,
        }
    }

    pub(super) async fn snapshot_row(&mut self, line: &Line, change: &Change<'_>, mark: &str) -> Result<(), Located> {
        if matches!(self.unit.kind, UnitKind::Transaction { .. } | UnitKind::Run { .. }) {
            self.close_open_unit().await?;
        }
        let lsn = change.source.lsn.unwrap_or(0);
        (self.has_begun, self.snapshot_seen) = (true, lsn);
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.lsn != lsn) {
            self.close_open_unit().await?;
        }
        let stored = self.stored().cloned();
        let is_covered = stored.as_ref().is_some_and(|stored| stored.covers_snapshot(lsn));
        if self.snapshot.is_none() {
            if !mark.starts_with("first") {
                if is_covered {
                    self.summary.skipped += 1;
                    return Ok(());
                }
                return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
            }
            let first = format!("{}.{}", change.source.schema, change.source.table);
            if let Some(Position::Snapshot { lsn: stored, is_done: false, first: expected, .. }) = &stored
                && *stored == lsn
                && *expected != first
            {
                return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
            }
            self.snapshot = Some(SnapshotProgress { lsn, rows: 0, first });
        }
        let rows = match &mut self.snapshot {
            Some(snapshot) => {
                snapshot.rows += 1;
                snapshot.rows
            }
            None => 0,
        };
        let is_last = mark == "last";
        if is_covered || stored.is_some_and(|stored| stored.covers_snapshot_row(lsn, rows)) {
            self.summary.skipped += 1;
            if is_last
                && let Some(left) = self.snapshot.take()
                && !is_covered
            {
                self.finish_snapshot(&left).await?;
            }
            return Ok(());
        }
        self.unit.kind = UnitKind::Snapshot;
        self.unit.events += 1;
        self.keep(line)?;
        self.apply_last(change).await?;
        if is_last || rows.is_multiple_of(super::SNAPSHOT_BATCH_ROWS) {
            self.commit_snapshot(is_last).await?;
        }
        Ok(())
    }

    pub(super) async fn commit_snapshot(&mut self, is_done: bool) -> Result<(), Located> {
        let Some(SnapshotProgress { lsn, rows, first }) = &self.snapshot else { return Ok(()) };
        let (lsn, rows, first) = (*lsn, *rows, first.clone());
        if is_done {
            self.snapshot = None;
        }
        let series = format!("snapshot {lsn}");
        self.commit_unit(Position::Snapshot { lsn, rows, is_done, first }, &series, rows).await
    }

    /// A snapshot whose last batch was full, and whose end shows only now.
    pub(super) async fn finish_snapshot(&mut self, left: &SnapshotProgress) -> Result<(), Located> {
        match self.stored() {
            Some(Position::Snapshot { lsn, rows, is_done: false, first }) if *lsn == left.lsn => {
                let (lsn, rows, first) = (*lsn, *rows, first.clone());
                if left.rows < rows {
                    return Err(here(IngestCause::BeginsInside { what: format!("the snapshot at {lsn}") }));
                }
                self.finish_snapshot_at(lsn, rows, first).await
            }
            _ => Ok(()),
        }
    }

    async fn finish_snapshot_at(&mut self, lsn: u64, rows: u64, first: String) -> Result<(), Located> {
        let position = Position::Snapshot { lsn, rows, is_done: true, first };
        self.commit_unit(position, &format!("snapshot {lsn} end"), rows).await
    }
}
