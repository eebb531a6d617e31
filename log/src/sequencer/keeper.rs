//! What the sequencer asks of the state that is folded in the commit pipeline.

use std::sync::Arc;

use bytes::Bytes;

use super::core::RecentSequences;
use super::write_set::KeyRange;
use crate::commit::{CommitBody, ProducerId};
use crate::position::{Lsn, StorageId};

/// Who keeps the rows and knows the versions of their keys. A question that ends in an error is asked again, at what is applied by then,
/// some times: `at` may be too long ago already.
pub trait Keeper: Send + Sync + 'static {
    /// Up to which commit it can answer: what it has applied.
    fn applied(&self) -> Lsn;

    /// The commit at or below `at` that wrote the key last; `None` when the key does not exist at `at`.
    ///
    /// # Errors
    /// When the rows cannot be read, or not at `at` any more.
    fn version(&self, space: StorageId, key: &[u8], at: Lsn) -> Result<Option<Lsn>, KeeperError>;

    /// The first `limit` keys of the range that exist at `at`, rising.
    ///
    /// # Errors
    /// When the rows cannot be read, or not at `at` any more.
    fn keys(&self, space: StorageId, range: &KeyRange, at: Lsn, limit: usize) -> Result<Vec<Bytes>, KeeperError>;

    /// The producer's newest [`SEQUENCES_KEPT`] sequences at `at`, with their commits.
    ///
    /// # Errors
    /// Likewise.
    fn sequences(&self, producer: ProducerId, at: Lsn) -> Result<RecentSequences, KeeperError>;
}

/// What makes commits visible: the fold in the commit pipeline.
pub trait Applier: Send + 'static {
    /// Applies commits, in order, the next of those applied before.
    ///
    /// # Errors
    /// When it cannot. How many of the commits it applied is what [`Keeper::applied`] says.
    fn apply(&mut self, commits: &[CommitBody]) -> Result<(), KeeperError>;
}

/// The rows could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the rows cannot be used: {0}")]
pub struct KeeperError(pub Arc<str>);
