//! What is in the files for certain.

use std::path::Path;

use highwater_log::checked_json;
use highwater_log::env::Disk;
use highwater_log::position::StorageId;
use highwater_log::{LogId, Lsn};
use serde::{Deserialize, Serialize};

use crate::error::FoldError;

/// A checkpoint of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) version: u32,
    pub(super) log: LogId,
    /// Everything up to here is in the files.
    pub(super) applied: Lsn,
    /// Versions below are gone from the files, or will be.
    pub(super) history_from: Lsn,
    /// Trees that must be there.
    pub(super) trees: Vec<StorageId>,
    /// When commits were made, sparsely: (microseconds, LSN).
    pub(super) times: Vec<(u64, Lsn)>,
}

impl Checkpoint {
    /// Before the first commit.
    pub(super) fn beginning(log: LogId) -> Self {
        let (applied, history_from) = (Lsn::ORIGIN, Lsn::ORIGIN);
        Self { version: SHAPE_VERSION, log, applied, history_from, trees: Vec::new(), times: Vec::new() }
    }

    /// Reads the checkpoint; without a file it is the beginning.
    pub(super) fn load(disk: &dyn Disk, path: &Path, log: LogId) -> Result<Self, FoldError> {
        let Some(checkpoint) = Self::read(disk, path)? else { return Ok(Self::beginning(log)) };
        if checkpoint.log != log {
            return Err(super::storage_error("the checkpoint is another log's"));
        }
        Ok(checkpoint)
    }

    pub(super) fn store(&self, disk: &dyn Disk, path: &Path) -> Result<(), FoldError> {
        let bytes = checked_json::encode(TITLE, self);
        checked_json::replace(disk, path, &bytes).map_err(|source| FoldError::Io {
            action: "replace",
            path: path.to_owned(),
            source,
        })
    }

    fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Self>, FoldError> {
        let bytes = checked_json::read(disk, path).map_err(|source| FoldError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let decode = |bytes: Vec<u8>| checked_json::decode(TITLE, SHAPE_VERSION, &bytes);
        bytes.map(decode).transpose().map_err(|error| super::storage_error(&format!("the checkpoint is {error}")))
    }

    /// What a checkpoint proves of the log, before the log is opened: its identity, and an LSN that was durable.
    pub(super) fn witness(disk: &dyn Disk, path: &Path) -> Option<(LogId, Lsn)> {
        let checkpoint = Self::read(disk, path).ok()??;
        Some((checkpoint.log, checkpoint.applied))
    }
}

const TITLE: &str = "highwater kv checkpoint";
const SHAPE_VERSION: u32 = 1;
