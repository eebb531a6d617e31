//! The commit log of Highwater: the one truth, from which everything else is folded.
//!
//! The crate knows positions ([`Lsn`], [`Epoch`]), commits and their stored bytes ([`commit`], [`row`], [`key`], [`schema`],
//! [`frame`]), the logs that keep them ([`CommitLog`]: [`MemoryLog`], [`SegmentedLog`]) and the sequencer that orders them. It
//! imports nothing of ours, and it takes clock, disk and entropy from outside ([`env`]).

mod background;
pub mod base;
mod chain;
pub mod checked_json;
pub mod commit;
mod commit_log;
pub mod conformance;
pub mod env;
mod error;
pub mod frame;
pub mod key;
mod memory;
pub mod meter;
pub mod position;
pub mod row;
pub mod schema;
mod segmented;
pub mod sequencer;
mod tail;
pub mod value;

pub use background::{Background, Pauses};
pub use commit::{Change, Commit, CommitHeader};
pub use commit_log::{CommitLog, LogReader, Parent};
pub use error::{Damage, LogError, NotWritten, error_chain};
pub use memory::MemoryLog;
pub use position::{Epoch, LogId, Lsn};
pub use segmented::{
    BackupHeader, BackupPiece, BackupReader, BackupWriter, LogMeter, LogView, ReadOnlyLog, ScrubOptions, Scrubbed,
    SegmentState, SegmentSummary, SegmentedLog, SegmentedOptions, Verification,
};
