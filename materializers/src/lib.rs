//! Folds of the commit log.
//!
//! A materializer's state at LSN n is the fold of commits 1…n, and a cache: checksummed, and dropped and rebuilt from the log when it
//! is missing, damaged or of an older shape. Only durable commits are folded, so what a materializer has applied proves that the log
//! must reach at least that far.

mod catalog;
mod error;
mod feeds;
mod kv;
mod materializer;
mod scratch;
mod supervisor;
mod table;
mod verify;

pub use catalog::Catalog;
pub use error::FoldError;
pub use feeds::{FeedHold, FeedPosition};
pub use kv::{Backfill, Kv, KvOptions, ReadPin, StoredRow};
pub use materializer::Materializer;
pub use scratch::Scratch;
pub use supervisor::{Materialized, Progress};
pub use table::{Index, Table, TableRow, Uniqueness, encode_missing};
pub use verify::{Counted, Finding};
