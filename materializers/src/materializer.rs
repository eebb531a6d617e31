//! The contract of a fold.

use highwater_log::commit::StreamedCommit;
use highwater_log::{Commit, Lsn};

use crate::error::FoldError;

/// State that is folded from the log, commit by commit.
///
/// ```text
///    checkpoint            applied              durable
///        |====================|------------------|        positions rise to the right
///        | lost with the      | not folded yet   |
///        | process, replayed  |                  |
/// ```
///
/// - Commits come in order, each at least once: after a restart those behind the last checkpoint come again, and folding a commit
///   again changes nothing.
/// - The state at n is the fold of commits 1…n and of nothing else: no clock, no chance, no other materializer but the catalog.
/// - `applied` never claims more than what reads see; a checkpoint never more than what is durable.
pub trait Materializer: Send + Sync + 'static {
    /// The name that health, logs and commands know it by.
    fn name(&self) -> &'static str;

    /// The last commit folded.
    fn applied(&self) -> Lsn;

    /// Folds a commit. One at or below [`Materializer::applied`] is passed over.
    ///
    /// # Errors
    /// [`FoldError`]; `applied` stands where it was, and the same commit may be folded again.
    fn apply(&self, commit: &Commit) -> Result<(), FoldError>;

    /// Folds a commit of which one part at a time lies in memory: as [`Materializer::apply`], to the same state.
    ///
    /// # Errors
    /// As [`Materializer::apply`]; [`FoldError::Log`] when a part cannot be read.
    fn apply_streamed(&self, commit: &StreamedCommit) -> Result<(), FoldError>;

    /// Makes the state durable, and returns the LSN from which a restart replays.
    ///
    /// # Errors
    /// [`FoldError::Storage`], [`FoldError::Io`]; the checkpoint before it stands.
    fn checkpoint(&self) -> Result<Lsn, FoldError>;

    /// Drops the state and its files: the fold begins anew, before the first commit.
    ///
    /// # Errors
    /// [`FoldError::Io`], [`FoldError::Storage`].
    fn reset(&self) -> Result<(), FoldError>;
}
