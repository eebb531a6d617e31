//! Segments ahead of need.

use std::collections::VecDeque;

use super::directory::{Directory, Identity, Prepared};
use super::manifest::Manifest;
use crate::error::{LogError, NotWritten};
use crate::position::SegmentId;

/// Segments prepared ahead, and the manifest that follows.
pub(super) struct Supply {
    pub(super) ready: VecDeque<Prepared>,
    pub(super) next: SegmentId,
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
            let segment = directory.prepare_segment(identity, self.next, *length).map_err(not_written)?;
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
