//! Segments ahead of need.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::directory::{Directory, Identity, Prepared};
use super::manifest::Manifest;
use crate::error::{LogError, NotWritten};
use crate::position::SegmentId;

/// Segments prepared ahead, and the manifest that follows.
pub(super) struct Supply {
    pub(super) ready: VecDeque<Prepared>,
    pub(super) next: SegmentId,
    /// Files of trimmed segments, to be used again, with their lengths.
    pub(super) spares: Vec<(PathBuf, u64)>,
    pub(super) manifest: Manifest,
}

impl Supply {
    /// The segment that comes into use next.
    pub(super) fn first_ready(&self) -> SegmentId {
        self.ready.front().map_or(self.next, |segment| segment.id)
    }

    /// Sees to it that segments of at least these lengths are ready, in this order.
    pub(super) fn prepare(
        &mut self,
        directory: &Directory,
        identity: Identity,
        lengths: &[u64],
    ) -> Result<(), LogError> {
        for (index, length) in lengths.iter().enumerate() {
            if let Some(segment) = self.ready.get(index) {
                if segment.bytes >= *length {
                    continue;
                }
                // Too short for a large commit part: it and those behind it are prepared anew, in the place of the old ones.
                self.next = segment.id;
                self.ready.truncate(index);
            }
            let spare =
                self.spares.iter().position(|(_, bytes)| bytes == length).map(|at| self.spares.swap_remove(at).0);
            // A spare file that cannot be used is given up: a new one may do.
            let recycled = spare.map(|spare| directory.prepare_segment(identity, self.next, *length, Some(&spare)));
            let segment = match recycled {
                Some(Ok(segment)) => segment,
                _ => directory.prepare_segment(identity, self.next, *length, None).map_err(not_written)?,
            };
            self.next = segment.id.next();
            self.ready.push_back(segment);
        }
        Ok(())
    }
}

/// A segment that could not be prepared: nothing of the append was written.
pub(super) fn not_written(error: LogError) -> LogError {
    match error {
        LogError::Io { source, .. } => LogError::NotWritten { reason: NotWritten::from_io(&source) },
        other => other,
    }
}
