//! How far the readers of named feeds have come, as the log tells it.

use bytes::Bytes;
use highwater_log::Lsn;
use serde::{Deserialize, Serialize};

use crate::error::FoldError;
use crate::materializer::Materializer;
use crate::supervisor::Materialized;

/// What the reader of a named feed has acknowledged: every commit up to `lsn`, and of the commit after it the changes before
/// `position`. JSON in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedPosition {
    /// The last commit that is dealt with whole.
    pub lsn: Lsn,
    /// How many changes of the commit after it are dealt with.
    pub position: u64,
}

/// The same, as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Stored {
    Feed { lsn: Lsn, position: u64 },
}

impl FeedPosition {
    /// Whose position it is in the log: that of the feed of this object id.
    #[must_use]
    pub fn of(feed: u64) -> Bytes {
        [&b"feed\0"[..], &feed.to_be_bytes()].concat().into()
    }

    /// Its bytes in the log.
    ///
    /// # Panics
    /// Never: every position has a JSON form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { lsn, position } = *self;
        serde_json::to_vec(&Stored::Feed { lsn, position }).expect("a position has a JSON form").into()
    }

    /// Reads it from its bytes in the log.
    fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let Stored::Feed { lsn, position } = serde_json::from_slice(bytes)?;
        Ok(Self { lsn, position })
    }
}

/// What keeps the log from being trimmed further.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedHold {
    /// The feed's name.
    pub feed: String,
    /// Its reader has still to be told what comes after it.
    pub after: Lsn,
}

impl Materialized {
    /// What the reader of the feed of this object id has acknowledged, as of `at`; `None`: nothing yet, it begins with a snapshot.
    ///
    /// # Errors
    /// [`FoldError::Storage`] for a position that cannot be read; as [`crate::Kv::key_version`].
    pub fn feed_position(&self, feed: u64, at: Lsn) -> Result<Option<FeedPosition>, FoldError> {
        let Some(stored) = self.kv().position(&FeedPosition::of(feed), at)? else { return Ok(None) };
        FeedPosition::decode(&stored).map(Some).map_err(|error| FoldError::Storage {
            materializer: "kv",
            cause: format!("the position of feed {feed} cannot be read: {error}").into(),
        })
    }

    /// The named feed that is furthest behind; `None`: nobody waits for what the log holds.
    ///
    /// # Errors
    /// As [`Materialized::feed_position`].
    pub fn feed_hold(&self) -> Result<Option<FeedHold>, FoldError> {
        let at = self.kv().applied();
        let mut furthest: Option<FeedHold> = None;
        for (feed, _, schema) in self.catalog().feeds(at) {
            let Some(FeedPosition { lsn: after, .. }) = self.feed_position(feed, at)? else { continue };
            if furthest.as_ref().is_none_or(|known| after < known.after) {
                furthest = Some(FeedHold { feed: schema.name.clone(), after });
            }
        }
        Ok(furthest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_stored_as_ever() {
        let position = FeedPosition { lsn: Lsn::new(812), position: 3 };
        assert_eq!(&position.encode()[..], br#"{"kind":"feed","lsn":812,"position":3}"#);
        assert_eq!(FeedPosition::decode(&position.encode()).unwrap(), position);
        assert!(FeedPosition::decode(br#"{"kind":"feed","lsn":812,"position":3,"later":1}"#).is_err(), "it is newer");
        assert_eq!(&FeedPosition::of(258)[..], b"feed\0\0\0\0\0\0\0\x01\x02");
    }
}
