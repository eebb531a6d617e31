//! What a writer asks for: changes, and the conditions under which they are right.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::keeper::KeeperError;
use super::outcome::CommitError;
use crate::commit::{Change, ProducerSequence, SpooledChanges};
use crate::position::{IndexId, Lsn, StorageId, TableId};

/// Changes to be committed together, with the conditions that must hold when they are ordered.
///
/// Conditions and keys are opaque bytes in spaces: the rows of a table, or the entries of one index, each under its storage id.
/// UNIQUE, foreign keys, serializability and DML against DDL are all said with them.
#[derive(Clone, Debug, Default)]
pub struct WriteSet {
    /// What must hold.
    pub preconditions: Vec<Precondition>,
    /// The visible LSN at which the writer has seen every condition on a single key to hold, if it has: then only what was written
    /// since is looked at, and nobody is asked. Conditions on keys that commits above it wrote may tell those instead
    /// ([`super::Sequencer::submit_behind`]).
    pub seen_at: Option<Lsn>,
    /// What is changed, in the order of [`crate::Commit`]. Row ids of inserts are given when the commit is ordered.
    pub changes: Vec<Change>,
    /// Every key that the changes write: at most once each.
    pub keys: Vec<KeyWrite>,
    /// Changes of rows that are too many to lie in memory: then all of them are here, and none among the others.
    pub large: Option<LargeWrites>,
    /// Makes a retry find the first attempt.
    pub producer: Option<ProducerSequence>,
    /// When it is acknowledged.
    pub durability: Durability,
}

impl WriteSet {
    /// Bytes of all images and keys: what it takes in memory and roughly in the log.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        let keys: usize = self.keys.iter().map(|write| write.key.byte_len() + KEY_OVERHEAD_BYTES).sum();
        let spooled = self.large.as_ref().map_or(0, |large| large.changes.byte_len());
        let changes: usize = self.changes.iter().map(|change| change.byte_len() + CHANGE_OVERHEAD_BYTES).sum();
        keys.saturating_add(changes).saturating_add(usize::try_from(spooled).unwrap_or(usize::MAX))
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.large.as_ref().is_none_or(|large| large.changes.is_empty())
    }
}

/// Changes of rows on disk, and the keys that they write. Such a write set is ordered when everything before it is applied, and nothing
/// is ordered behind it before it is applied itself.
#[derive(Clone)]
pub struct LargeWrites {
    /// The changes.
    pub changes: SpooledChanges,
    /// The keys.
    pub keys: Arc<dyn LargeKeys>,
}

impl std::fmt::Debug for LargeWrites {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LargeWrites").field("changes", &self.changes).finish_non_exhaustive()
    }
}

/// The keys that a large write set writes, each once, but for those that rows without a key of their own are given.
pub trait LargeKeys: Send + Sync {
    /// What the writer has seen of a key at the write set's `seen_at`; `None`: it does not write the key.
    ///
    /// # Errors
    /// When it cannot be read.
    fn find(&self, space: StorageId, key: &[u8]) -> Result<Option<KeySeen>, KeeperError>;

    /// Tells all of them, by space and key, until one is answered with an error, which is then returned.
    ///
    /// # Errors
    /// When they cannot be read; that of `tell`.
    fn each(&self, tell: &mut TellKey<'_>) -> Result<(), CommitError>;
}

/// Takes a key, and what was seen of it.
pub type TellKey<'a> = dyn FnMut(StorageId, &[u8], KeySeen) -> Result<(), CommitError> + 'a;

/// What a writer has seen of a key that it writes, and what must hold still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySeen {
    /// There was none.
    Absent,
    /// This commit had written it last.
    AtVersion(Lsn),
    /// There was one, and other conditions see to it.
    Other,
}

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is synced and visible.
    #[default]
    Synced,
    /// When it is accepted. It becomes durable and visible with the next sync, which comes within [`BUFFERED_DELAY_MAX`].
    ///
    /// [`BUFFERED_DELAY_MAX`]: super::BUFFERED_DELAY_MAX
    Buffered,
    /// As [`Durability::Buffered`], but it asks for a sync of its own only after [`DEFERRED_DELAY_MAX`]: bookkeeping that rides along
    /// with the next commit that does.
    ///
    /// [`DEFERRED_DELAY_MAX`]: super::DEFERRED_DELAY_MAX
    Deferred,
}

impl Durability {
    /// How long a commit may wait for a sync that others ask for.
    pub(super) const fn patience(self) -> Duration {
        match self {
            Self::Synced => Duration::ZERO,
            Self::Buffered => super::BUFFERED_DELAY_MAX,
            Self::Deferred => super::DEFERRED_DELAY_MAX,
        }
    }
}

/// A key that a commit writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyWrite {
    /// The space of the key.
    pub space: StorageId,
    /// The key.
    pub key: KeyName,
    /// Whether the key exists from now on.
    pub is_present: bool,
}

/// How a key is named before its commit is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyName {
    /// By its bytes.
    Bytes(Bytes),
    /// By the row id that the insert at this index of the changes is given ([`crate::key::of_row_id`]).
    RowOf(usize),
}

impl KeyName {
    fn byte_len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::RowOf(_) => 8,
        }
    }
}

/// Something that must hold when a commit is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No such key exists.
    Absent {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
    },
    /// The key exists, in whatever version.
    Present {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
    },
    /// The key exists, and was written last by this commit: the one that the changes were computed from.
    AtVersion {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
        /// The commit.
        version: Lsn,
    },
    /// No key of the range exists.
    RangeEmpty {
        /// The space.
        space: StorageId,
        /// The range.
        range: KeyRange,
    },
    /// No key of the range was written after this commit.
    RangeUnchanged {
        /// The space.
        space: StorageId,
        /// The range.
        range: KeyRange,
        /// The commit that the range was read at.
        since: Lsn,
    },
    /// The table's schema is the one that this commit wrote.
    SchemaAt {
        /// The table.
        table: TableId,
        /// The commit.
        version: Lsn,
    },
}

impl Precondition {
    /// Whether it is on a single key.
    pub(super) const fn is_on_key(&self) -> bool {
        match self {
            Self::Absent { .. } | Self::Present { .. } | Self::AtVersion { .. } | Self::SchemaAt { .. } => true,
            Self::RangeEmpty { .. } | Self::RangeUnchanged { .. } => false,
        }
    }
}

/// Keys from `start`, included, to `end`, excluded; without an end, all from `start` on. The default holds every key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The key behind the last.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys.
    #[must_use]
    pub const fn all() -> Self {
        Self { start: Bytes::new(), end: None }
    }

    /// Whether `key` lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start[..] <= *key && self.end.as_ref().is_none_or(|end| *key < end[..])
    }
}

/// The space of the catalog: its keys are those of objects ([`catalog_key`]), of names ([`catalog_name_key`]) and of indexes
/// ([`catalog_index_key`]).
pub const CATALOG_SPACE: StorageId = StorageId::new(0);

/// The key of a catalog object in [`CATALOG_SPACE`].
#[must_use]
pub fn catalog_key(object: u64) -> Bytes {
    [&b"o"[..], &object.to_be_bytes()].concat().into()
}

/// The key in [`CATALOG_SPACE`] of how far an index has come.
#[must_use]
pub fn catalog_index_key(index: IndexId) -> Bytes {
    [&b"i"[..], &index.value().to_be_bytes()].concat().into()
}

/// The keys of [`CATALOG_SPACE`] of objects and names: all but those of how far indexes have come.
#[must_use]
pub const fn catalog_definitions() -> KeyRange {
    // Behind `i`: `n` and `o`.
    KeyRange { start: Bytes::from_static(b"n"), end: None }
}

/// The object that a key of [`CATALOG_SPACE`] is of; `None` for the key of a name or an index.
#[must_use]
pub fn catalog_object(key: &[u8]) -> Option<u64> {
    let bytes = key.strip_prefix(b"o")?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// The key of a name in [`CATALOG_SPACE`]: that of an object in a namespace, or of a namespace, whose `name` is empty.
#[must_use]
pub fn catalog_name_key(namespace: &str, name: &str) -> Bytes {
    // A name holds no zero byte, so that the two parts cannot run together.
    [&b"n"[..], namespace.as_bytes(), b"\0", name.as_bytes()].concat().into()
}

const KEY_OVERHEAD_BYTES: usize = 64;
const CHANGE_OVERHEAD_BYTES: usize = 64;
