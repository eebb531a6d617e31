//! The newest durable commits in memory, so that readers at the tail touch no file.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::commit::EncodedCommit;
use crate::position::Lsn;

/// A run of the newest commits, bounded in bytes. One that is larger than that, or does not lie in memory, is not
/// there, nor what came before it.
#[derive(Debug)]
pub(crate) struct TailCache {
    commits: VecDeque<Arc<EncodedCommit>>,
    bytes: usize,
    bytes_max: usize,
}

impl TailCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { commits: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn push(&mut self, commit: Arc<EncodedCommit>) {
        if !commit.is_here() {
            // Its files go as soon as the log has it.
            (self.commits, self.bytes) = (VecDeque::new(), 0);
            return;
        }
        if let Some(newest) = self.commits.back() {
            assert_eq!(commit.lsn(), newest.lsn().next(), "the tail has no gap");
        }
        self.bytes += weight(&commit);
        self.commits.push_back(commit);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.commits.pop_front()
        {
            self.bytes -= weight(&oldest);
        }
    }

    pub(crate) fn find(&self, lsn: Lsn) -> Option<Arc<EncodedCommit>> {
        let first = self.commits.front()?.lsn();
        let index = lsn.value().checked_sub(first.value())?;
        self.commits.get(usize::try_from(index).ok()?).cloned()
    }
}

fn weight(commit: &EncodedCommit) -> usize {
    commit.byte_len() + COMMIT_OVERHEAD_BYTES
}

/// What a cached commit takes beside its bytes, roughly.
const COMMIT_OVERHEAD_BYTES: usize = 128;
