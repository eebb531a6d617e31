//! The recent writes: what the sequencer knows of keys without asking anybody.
//!
//! ```text
//!            floor                applied            accepted
//!   ···········|====================|===================|
//!   forgotten  | every write, newest per key             |
//! ```
//!
//! Above the floor the window is complete: a key that it does not know was not written there. Below it, whoever keeps the rows
//! answers. Writes that are not applied yet are never forgotten.

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;

use bytes::Bytes;

use super::write_set::KeyRange;
use crate::key::HeadKey;
use crate::position::{Lsn, StorageId};

/// The newest write of each recently written key.
#[derive(Debug)]
pub(super) struct Window {
    spaces: BTreeMap<StorageId, BTreeMap<HeadKey, Entry>>,
    /// Every write above the floor, oldest first.
    order: VecDeque<(Lsn, StorageId, HeadKey)>,
    floor: Lsn,
    entries_max: usize,
}

/// What the last write of a key was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) lsn: Lsn,
    pub(super) is_present: bool,
}

/// What takes one write back: the write of the same key before it, if the window knew one.
#[derive(Debug)]
pub(super) struct Undo(Option<Entry>);

impl Window {
    /// An empty window above `floor`, for at most `entries_max` applied writes.
    pub(super) fn new(floor: Lsn, entries_max: usize) -> Self {
        Self { spaces: BTreeMap::new(), order: VecDeque::new(), floor, entries_max }
    }

    pub(super) const fn entries_max(&self) -> usize {
        self.entries_max
    }

    pub(super) const fn floor(&self) -> Lsn {
        self.floor
    }

    pub(super) fn entry(&self, space: StorageId, key: &Bytes) -> Option<Entry> {
        self.spaces.get(&space)?.get(&HeadKey::from(key.clone())).copied()
    }

    pub(super) fn entries(
        &self,
        space: StorageId,
        range: &KeyRange,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, Entry)> {
        let is_empty = range.end.as_ref().is_some_and(|end| *end <= range.start);
        let start = Bound::Included(HeadKey::from(range.start.clone()));
        let end = range.end.clone().map_or(Bound::Unbounded, |end| Bound::Excluded(HeadKey::from(end)));
        let keys = self.spaces.get(&space).filter(|_| !is_empty);
        let keys = keys.into_iter().flat_map(move |keys| keys.range((start.clone(), end.clone())));
        keys.map(|(key, entry)| (key.bytes(), *entry))
    }

    /// A commit behind `since` that wrote a key of the range, if there is one.
    pub(super) fn written_since(&self, space: StorageId, range: &KeyRange, since: Lsn) -> Option<Lsn> {
        if *range != KeyRange::all() {
            return self.entries(space, range).map(|(_, entry)| entry.lsn).find(|lsn| *lsn > since);
        }
        // Of a whole space, what was written since is less than what is known.
        let recent = self.order.iter().rev().take_while(|(lsn, ..)| *lsn > since);
        { recent }.find(|(_, written, _)| *written == space).map(|(lsn, ..)| *lsn)
    }

    /// The keys that commits behind `since` wrote, newest first, some more than once; complete if `since` is not below the floor.
    pub(super) fn written_behind(&self, since: Lsn) -> impl Iterator<Item = (StorageId, &Bytes)> {
        let recent = self.order.iter().rev().take_while(move |(lsn, ..)| *lsn > since);
        recent.map(|(_, space, key)| (*space, key.bytes()))
    }

    /// Forgets every write up to `applied`, behind which nothing was written.
    pub(super) fn forget_to(&mut self, applied: Lsn) {
        assert!(self.order.back().is_none_or(|(lsn, ..)| *lsn <= applied), "what is not applied is not forgotten");
        *self = Self::new(applied, self.entries_max);
    }

    /// Notes a write; LSNs never fall.
    pub(super) fn write(&mut self, space: StorageId, key: Bytes, entry: Entry) -> Undo {
        assert!(self.order.back().is_none_or(|(lsn, _, _)| *lsn <= entry.lsn), "writes come in order");
        let key = HeadKey::from(key);
        let previous = self.spaces.entry(space).or_default().insert(key.clone(), entry);
        self.order.push_back((entry.lsn, space, key));
        Undo(previous)
    }

    /// Takes back the newest write, whose undo this is.
    pub(super) fn take_back(&mut self, Undo(previous): Undo) {
        let (_, space, key) = self.order.pop_back().expect("a write that is not applied is never forgotten");
        let keys = self.spaces.entry(space).or_default();
        match previous.filter(|previous| previous.lsn > self.floor) {
            Some(previous) => keys.insert(key, previous),
            None => keys.remove(&key),
        };
    }

    /// Forgets the oldest writes beyond the bound, whole commits at a time, none above `applied`.
    pub(super) fn trim(&mut self, applied: Lsn) {
        while self.order.len() > self.entries_max
            && let Some((lsn, _, _)) = self.order.front()
            && *lsn <= applied
        {
            let lsn = *lsn;
            self.floor = lsn;
            while let Some((_, space, key)) = self.order.pop_front_if(|(oldest, _, _)| *oldest == lsn) {
                let Some(keys) = self.spaces.get_mut(&space) else { continue };
                if let btree_map::Entry::Occupied(newest) = keys.entry(key)
                    && newest.get().lsn == lsn
                {
                    newest.remove();
                }
                if keys.is_empty() {
                    self.spaces.remove(&space);
                }
            }
        }
    }
}
