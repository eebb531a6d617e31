//! Commits turned into what one subscriber asked for: the rows as they were at one LSN, then every commit after it, in order, whole.
//!
//! A [`Feed`] reads the log, never a table's history, and is pulled by its reader: nobody who reads slowly can hold up a writer.
//! What it tells ([`Event`]) is encoded by an [`Encoder`]; [`format`] has those that there are.

mod cursor;
mod error;
mod event;
mod feed;
pub mod format;
mod named;
mod selection;
mod share;
mod snapshot;

pub use cursor::{Cursor, CursorSyntaxError};
pub use error::FeedError;
pub use event::{EncodeError, Encoder, Event, Operation, RowChange, SharedText, SnapshotPlace};
pub use feed::{Batch, BatchKind, Feed, FeedOptions, FeedSource, FeedStart};
pub use named::{Claim, FeedLister, FeedStatus, NamedFeed, NamedFeeds};
pub use selection::{FittedSelection, Selected, Selection, SelectionError, Selector, TableSpec};
