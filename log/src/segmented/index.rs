//! Where commits lie, sparsely: enough to begin reading near any of them.

use std::collections::BTreeMap;

use crate::position::{Lsn, SegmentId};

/// For each segment places between frames, each with the last commit complete before it. Both rise.
#[derive(Debug, Default)]
pub(super) struct Index {
    segments: BTreeMap<SegmentId, Vec<Place>>,
}

/// A place between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The last commit complete before it.
    pub(super) complete: Lsn,
    pub(super) offset: u64,
}

impl Index {
    /// Notes a place, unless one is known within [`INDEX_STEP_BYTES`] before it.
    pub(super) fn learn(&mut self, segment: SegmentId, place: Place) {
        let places = self.segments.entry(segment).or_default();
        let at = places.partition_point(|known| known.offset < place.offset);
        let is_far = at == 0 || places[at - 1].offset + INDEX_STEP_BYTES <= place.offset;
        let is_known = places.get(at).is_some_and(|known| known.offset == place.offset);
        if is_far && !is_known {
            places.insert(at, place);
        }
    }

    /// Forgets the segments before `first`.
    pub(super) fn forget_before(&mut self, first: SegmentId) {
        self.segments = self.segments.split_off(&first);
    }

    /// The first place known of a segment.
    pub(super) fn first_of(&self, segment: SegmentId) -> Option<Place> {
        self.segments.get(&segment)?.first().copied()
    }

    /// The last place known of `segment` from which reading on meets commit `lsn`.
    pub(super) fn nearest(&self, segment: SegmentId, lsn: Lsn) -> Option<Place> {
        let places = self.segments.get(&segment)?;
        let behind = places.partition_point(|place| place.complete < lsn);
        places[..behind].last().copied()
    }
}

/// Readers skip at most about this much to the commit they begin at, where the index is filled.
const INDEX_STEP_BYTES: u64 = 128 * 1024;
