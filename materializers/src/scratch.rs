//! A sorted map on disk for what does not fit into memory and need not outlive the process.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use highwater_log::sequencer::KeyRange;
use lsm_tree::{AbstractTree, AnyTree, Cache, Config, Guard, SequenceNumberCounter, Slice};

use crate::error::FoldError;

/// Keys with values, written in rounds, in a directory of its own that goes with the last clone. A clone goes on to see what was there
/// when it was made.
#[derive(Clone)]
pub struct Scratch {
    shared: Arc<Shared>,
    /// How many rounds are seen.
    rounds: u64,
}

struct Shared {
    tree: AnyTree,
    counter: SequenceNumberCounter,
    // Dropped behind the tree.
    _directory: tempfile::TempDir,
}

impl Scratch {
    /// An empty one, in a new directory within `parent`.
    ///
    /// # Errors
    /// [`FoldError::Io`], [`FoldError::Storage`].
    pub fn create(parent: &Path) -> Result<Self, FoldError> {
        let failed = |source| FoldError::Io { action: "create a directory in", path: parent.to_owned(), source };
        std::fs::create_dir_all(parent).map_err(failed)?;
        let directory = tempfile::Builder::new().prefix("scratch-").tempdir_in(parent).map_err(failed)?;
        let counter = SequenceNumberCounter::default();
        let config = Config::new(directory.path(), counter.clone(), SequenceNumberCounter::default())
            .use_cache(Arc::new(Cache::with_capacity_bytes(CACHE_BYTES)));
        let tree = config.open().map_err(failed_storage)?;
        Ok(Self { shared: Arc::new(Shared { tree, counter, _directory: directory }), rounds: 0 })
    }

    /// Puts keys, which must rise, in the place of those that are there. Nobody else writes meanwhile, and no clone sees it.
    ///
    /// # Errors
    /// [`FoldError::Storage`]: nothing was put.
    ///
    /// # Panics
    /// When the keys do not rise.
    pub fn put_all<E: From<FoldError>>(
        &mut self,
        pairs: impl Iterator<Item = Result<(Bytes, Vec<u8>), E>>,
    ) -> Result<(), E> {
        let failed = |error| E::from(failed_storage(error));
        let mut round = self.shared.tree.ingestion().map_err(failed)?;
        for pair in pairs {
            let (key, value) = pair?;
            round.write(Slice::from(key), Slice::from(Bytes::from(value))).map_err(failed)?;
        }
        round.finish().map_err(failed)?;
        self.rounds = self.shared.counter.get();
        Ok(())
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`FoldError::Storage`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, FoldError> {
        Ok(self.shared.tree.get(key, self.rounds).map_err(failed_storage)?.map(Bytes::from))
    }

    /// The keys of a range with their values, rising; an error is the last.
    #[must_use]
    pub fn range(&self, range: &KeyRange) -> Box<dyn Iterator<Item = Result<(Bytes, Bytes), FoldError>> + Send> {
        use std::ops::Bound;
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Box::new(std::iter::empty());
        }
        let end = range.end.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut items =
            self.shared.tree.range::<Bytes, _>((Bound::Included(range.start.clone()), end), self.rounds, None);
        // The files stay as long as they are read.
        let shared = Arc::clone(&self.shared);
        let mut has_failed = false;
        Box::new(std::iter::from_fn(move || {
            let _shared = &shared;
            let item = items.next().filter(|_| !has_failed)?;
            let pair = item.into_inner().map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
            has_failed = pair.is_err();
            Some(pair.map_err(failed_storage))
        }))
    }
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scratch").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// Of what was written, so much is kept in memory for reads.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

fn failed_storage(error: lsm_tree::Error) -> FoldError {
    match error {
        lsm_tree::Error::Io(source) => FoldError::Io { action: "use", path: "a scratch file".into(), source },
        error => FoldError::Storage { materializer: "scratch", cause: format!("{error:?}").into() },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    fn all(scratch: &Scratch) -> Vec<(Bytes, Bytes)> {
        scratch.range(&KeyRange::all()).collect::<Result<_, _>>().unwrap()
    }

    fn put(scratch: &mut Scratch, pairs: &[(&str, &str)]) {
        let pairs =
            pairs.iter().map(|(key, value)| Ok((Bytes::copy_from_slice(key.as_bytes()), value.as_bytes().to_vec())));
        scratch.put_all::<FoldError>(pairs).unwrap();
    }

    #[test]
    fn a_clone_sees_the_rounds_before_it_and_the_files_go_with_the_last_one() {
        let parent = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::create(parent.path()).unwrap();
        assert_eq!((scratch.get(b"a").unwrap(), all(&scratch)), (None, vec![]));
        put(&mut scratch, &[("a", "1"), ("c", "1")]);
        let before = scratch.clone();
        put(&mut scratch, &[("a", "2"), ("b", "2")]);
        let pairs = |pairs: &[(&'static str, &'static str)]| -> Vec<(Bytes, Bytes)> {
            pairs.iter().map(|(key, value)| (Bytes::from(*key), Bytes::from(*value))).collect()
        };
        assert_eq!(all(&before), pairs(&[("a", "1"), ("c", "1")]));
        assert_eq!(all(&scratch), pairs(&[("a", "2"), ("b", "2"), ("c", "1")]));
        assert_eq!((before.get(b"b").unwrap(), scratch.get(b"b").unwrap()), (None, Some(Bytes::from("2"))));
        let range = KeyRange { start: Bytes::from("b"), end: Some(Bytes::from("c")) };
        let reading = scratch.range(&range);
        drop((before, scratch));
        assert_eq!(reading.collect::<Result<Vec<_>, _>>().unwrap(), pairs(&[("b", "2")]), "a reader holds the files");
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_round_that_fails_puts_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::create(parent.path()).unwrap();
        put(&mut scratch, &[("a", "1")]);
        let failure = FoldError::Reopened;
        let round = [Ok((Bytes::from("a"), b"2".to_vec())), Err(failure)];
        assert!(matches!(scratch.put_all(round.into_iter()), Err(FoldError::Reopened)));
        put(&mut scratch, &[("b", "3")]);
        assert_eq!(scratch.get(b"a").unwrap(), Some(Bytes::from("1")));
    }
}
