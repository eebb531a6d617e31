//! The commit log of Highwater: the one truth, from which everything else is folded.
//!
//! ```text
//!   1        trimmed            durable     appended          positions rise to the right
//!   |···········|=================|-----------|
//!   | gone, kept | readable by all | may still |
//!   | as a base  |                 | vanish    |
//! ```
//!
//! The crate knows positions ([`Lsn`], [`Epoch`]), commits and their stored bytes ([`commit`], [`row`], [`key`], [`schema`]).
//! It imports nothing of ours.

pub mod commit;
pub mod frame;
pub mod key;
pub mod position;
pub mod row;
pub mod schema;
pub mod value;

pub use commit::{Change, Commit, CommitHeader};
pub use position::{Epoch, LogId, Lsn};
