//! Rows that are read again and again: the way through a tree is several times as long as that to a row that is at hand.
//!
//! A version is kept with an LSN at which it was its key's newest. It is so still when nothing was written to the key since; of that
//! only this much is known: when one of the many keys that share a stripe was last written to, and up to which LSN nobody has noted
//! writes. Nothing is ever taken out because of a write, and nothing but a write may end what a key holds. A key is kept from the second time on that it is looked for in vain, so that what is read once costs nothing and drives
//! nothing away.

use std::hash::{BuildHasherDefault, Hash, Hasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::position::StorageId;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{Equivalent, OptionsBuilder, Weighter};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Values of keys, over all trees of one opening.
pub(super) struct HotRows {
    values: Cache<HotKey, HotValue, KeptBytes, BuildHasherDefault<KnownHash>>,
    /// Of writes up to this LSN nothing is known: they were in the files when those were opened.
    begun: AtomicU64,
    /// Of each stripe of keys, the last LSN that one of them was written at.
    written: Box<[AtomicU64]>,
    /// Of each stripe, what tells the key apart that was last looked for in vain.
    missed: Box<[AtomicU32]>,
    /// Whoever chooses keys shall not know where they fall.
    seed: u64,
}

/// Where a key belongs.
pub(super) struct Place<'a> {
    hash: u64,
    tree: StorageId,
    key: &'a [u8],
}

/// What is known of a key.
pub(super) enum Known {
    /// Its value.
    Value(Bytes),
    /// Nothing, but that it is worth keeping.
    Wanted,
    Nothing,
}

#[derive(PartialEq, Eq)]
struct HotKey {
    hash: u64,
    tree: StorageId,
    key: Box<[u8]>,
}

#[derive(Clone)]
struct HotValue {
    /// When the value was read, and the newest.
    read_at: Lsn,
    /// When it was written.
    version: Lsn,
    bytes: Bytes,
}

impl HotRows {
    /// Takes about so many bytes; with none, it keeps nothing.
    pub(super) fn new(bytes: u64) -> Self {
        let stripes = (bytes / BYTES_PER_STRIPE).next_power_of_two().clamp(1, STRIPES_MAX);
        let options = OptionsBuilder::new()
            .weight_capacity(bytes.saturating_sub(stripes * STRIPE_BYTES))
            .estimated_items_capacity(EXPECTED)
            .build()
            .unwrap_or_else(|error| unreachable!("both are given: {error}"));
        let values =
            Cache::with_options(options, KeptBytes, BuildHasherDefault::default(), DefaultLifecycle::default());
        let written = std::iter::repeat_with(AtomicU64::default).take(stripes as usize).collect();
        let missed = std::iter::repeat_with(AtomicU32::default).take(stripes as usize).collect();
        let seed = std::hash::BuildHasher::hash_one(&RandomState::new(), 0_u8);
        Self { values, begun: AtomicU64::new(0), written, missed, seed }
    }

    /// Everything up to this LSN is in the files already. To be told before any of it can be read.
    pub(super) fn begin_at(&self, lsn: Lsn) {
        self.begun.store(lsn.value(), Ordering::Release);
    }

    pub(super) fn place<'a>(&self, tree: StorageId, key: &'a [u8]) -> Place<'a> {
        let hash = xxh3_64_with_seed(key, self.seed ^ tree.value());
        Place { hash, tree, key }
    }

    /// A key is being written to. To be told before what is written can be read.
    pub(super) fn note_write(&self, tree: StorageId, key: &[u8], lsn: Lsn) {
        self.written[self.stripe(&self.place(tree, key))].fetch_max(lsn.value(), Ordering::Release);
    }

    /// The newest value of a key as of `at`, which is applied.
    pub(super) fn get(&self, place: &Place<'_>, at: Lsn) -> Known {
        let Some(kept) = self.values.get(place) else {
            let (missed, mark) = (&self.missed[self.stripe(place)], (place.hash >> 32) as u32);
            return if missed.swap(mark, Ordering::Relaxed) == mark { Known::Wanted } else { Known::Nothing };
        };
        // Whatever of the key is visible as of `at` was told before.
        let is_newest = at <= kept.read_at || self.last_write(place) <= kept.read_at;
        if is_newest && kept.version <= at { Known::Value(kept.bytes) } else { Known::Wanted }
    }

    /// Keeps a value that is worth it and was read as of `at`, if it is the newest.
    pub(super) fn keep(&self, place: &Place<'_>, at: Lsn, version: Lsn, value: &[u8]) {
        if self.last_write(place) <= at {
            let key = HotKey { hash: place.hash, tree: place.tree, key: place.key.into() };
            // A copy: what was read is part of a block.
            self.values.insert(key, HotValue { read_at: at, version, bytes: Bytes::copy_from_slice(value) });
        }
    }

    /// Bytes that it takes, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.values.weight() + self.written.len() as u64 * STRIPE_BYTES
    }

    /// There are as many as a power of two.
    const fn stripe(&self, place: &Place<'_>) -> usize {
        place.hash as usize & (self.written.len() - 1)
    }

    /// Behind this LSN the key was not written to.
    fn last_write(&self, place: &Place<'_>) -> Lsn {
        let written = self.written[self.stripe(place)].load(Ordering::Acquire);
        Lsn::new(written.max(self.begun.load(Ordering::Acquire)))
    }
}

impl Hash for Place<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Hash for HotKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl Equivalent<HotKey> for Place<'_> {
    fn equivalent(&self, kept: &HotKey) -> bool {
        self.hash == kept.hash && self.tree == kept.tree && *self.key == *kept.key
    }
}

/// Of a key that was hashed already.
#[derive(Default)]
struct KnownHash(u64);

impl Hasher for KnownHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("a place is hashed as its number");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[derive(Clone)]
struct KeptBytes;

impl Weighter<HotKey, HotValue> for KeptBytes {
    fn weight(&self, key: &HotKey, value: &HotValue) -> u64 {
        (key.key.len() + value.bytes.len() + ENTRY_OVERHEAD_BYTES) as u64
    }
}

const STRIPES_MAX: u64 = 1 << 16;
const BYTES_PER_STRIPE: u64 = 128;
const STRIPE_BYTES: u64 = (size_of::<AtomicU64>() + size_of::<AtomicU32>()) as u64;
/// An entry's place, and what its two pieces of memory take besides.
const ENTRY_OVERHEAD_BYTES: usize = 144;
const EXPECTED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: StorageId = StorageId::new(7);

    fn value_of(hot: &HotRows, key: &[u8], at: u64) -> Option<Bytes> {
        match hot.get(&hot.place(TREE, key), Lsn::new(at)) {
            Known::Value(value) => Some(value),
            Known::Wanted | Known::Nothing => None,
        }
    }

    #[test]
    fn a_value_is_given_for_as_long_as_it_is_the_newest() {
        let hot = HotRows::new(1 << 20);
        let keep = |key: &[u8], at: u64, version: u64, value: &[u8]| {
            hot.keep(&hot.place(TREE, key), Lsn::new(at), Lsn::new(version), value);
        };
        hot.note_write(TREE, b"a", Lsn::new(3));
        keep(b"a", 5, 3, b"three");
        let three = Some(Bytes::from_static(b"three"));
        assert_eq!(value_of(&hot, b"a", 5), three);
        assert_eq!(value_of(&hot, b"a", 9), three, "nothing was written since");
        assert_eq!(value_of(&hot, b"a", 3), three);
        assert_eq!(value_of(&hot, b"a", 2), None, "it was not there yet");
        assert_eq!(value_of(&hot, b"b", 5), None);
        assert!(matches!(hot.get(&hot.place(StorageId::new(8), b"a"), Lsn::new(5)), Known::Nothing), "of another tree");
        hot.note_write(TREE, b"a", Lsn::new(7));
        assert_eq!(value_of(&hot, b"a", 5), three);
        // 6 sees it as well, but that was not looked at.
        assert_eq!(value_of(&hot, b"a", 7), None, "there is a newer one");
        keep(b"a", 6, 3, b"three");
        assert_eq!(value_of(&hot, b"a", 7), None, "what is not the newest is not kept");
        keep(b"a", 7, 7, b"seven");
        assert_eq!(value_of(&hot, b"a", 8), Some(Bytes::from_static(b"seven")));
        assert_eq!(value_of(&hot, b"a", 6), None);
    }

    #[test]
    fn what_was_written_before_the_files_were_opened_may_be_newer_than_what_is_read_there() {
        let hot = HotRows::new(1 << 20);
        hot.begin_at(Lsn::new(10));
        hot.keep(&hot.place(TREE, b"a"), Lsn::new(9), Lsn::new(3), b"three");
        assert_eq!(value_of(&hot, b"a", 9), None, "10 may have written it");
        hot.keep(&hot.place(TREE, b"a"), Lsn::new(10), Lsn::new(3), b"three");
        assert_eq!(value_of(&hot, b"a", 12), Some(Bytes::from_static(b"three")));
    }

    #[test]
    fn what_is_looked_for_twice_is_worth_keeping_and_no_more_than_there_is_room_for() {
        let hot = HotRows::new(64 * 1024);
        let place = hot.place(TREE, b"a");
        assert!(matches!(hot.get(&place, Lsn::new(1)), Known::Nothing));
        assert!(matches!(hot.get(&place, Lsn::new(1)), Known::Wanted));
        for key in 0_u32..10_000 {
            hot.keep(&hot.place(TREE, &key.to_be_bytes()), Lsn::new(1), Lsn::new(1), &[0; 100]);
        }
        assert!((32 * 1024..=64 * 1024).contains(&hot.bytes()), "{}", hot.bytes());
        let nothing = HotRows::new(0);
        nothing.keep(&nothing.place(TREE, b"a"), Lsn::new(1), Lsn::new(1), b"value");
        assert_eq!(value_of(&nothing, b"a", 1), None);
    }
}
