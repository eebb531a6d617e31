//! What is in the files for certain.

use std::path::Path;

use highwater_log::checked_json;
use highwater_log::env::Disk;
use highwater_log::position::StorageId;
use highwater_log::{LogId, Lsn};
use serde::{Deserialize, Serialize};

use super::tree::{Beneath, Staleness};
use crate::error::FoldError;

/// A checkpoint of the rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Checkpoint {
    pub(super) version: u32,
    pub(super) log: LogId,
    /// Everything up to here is in the files.
    pub(super) applied: Lsn,
    /// States below cannot be read: versions that only they show are gone from the files, or will be.
    pub(super) history_from: Lsn,
    /// Trees that must be there.
    pub(super) trees: Vec<TreeRecord>,
    /// When commits were made, sparsely: (microseconds, LSN).
    pub(super) times: Vec<(u64, Lsn)>,
    /// Checksums of files that the trees' library does not check by itself.
    pub(super) manifests: Vec<TreeManifest>,
    /// The last commit up to `applied`, or behind it, that changed the catalog: one that has come as far needs none of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) catalog_changed: Option<Lsn>,
}

/// What is known of a tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TreeRecord {
    pub(super) tree: StorageId,
    pub(super) staleness: Staleness,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) beneath: Option<Beneath>,
}

/// The file in which a tree lists its tables, with the numbers that their rows' versions hang on. A changed bit in it would shift the
/// versions of a whole table, and nothing below would tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TreeManifest {
    pub(super) tree: StorageId,
    /// The file's name in the tree's directory.
    pub(super) file: String,
    /// XXH3-128 of its bytes, hexadecimal.
    pub(super) checksum: String,
}

impl TreeManifest {
    /// That of the tree in `directory`, whose current file is `file`, as it is now.
    pub(super) fn of(tree: StorageId, directory: &Path, file: String) -> std::io::Result<Self> {
        let checksum = checksum_of(&std::fs::read(directory.join(&file))?);
        Ok(Self { tree, file, checksum })
    }

    /// Whether the file is as it was recorded. One that is gone was replaced by the tree itself since.
    pub(super) fn is_intact(&self, directory: &Path) -> std::io::Result<bool> {
        match std::fs::read(directory.join(&self.file)) {
            Ok(bytes) => Ok(checksum_of(&bytes) == self.checksum),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }
}

fn checksum_of(bytes: &[u8]) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(bytes))
}

impl Checkpoint {
    /// Before the first commit.
    pub(super) fn beginning(log: LogId) -> Self {
        let (applied, history_from) = (Lsn::ORIGIN, Lsn::ORIGIN);
        Self {
            version: SHAPE_VERSION,
            log,
            applied,
            history_from,
            trees: Vec::new(),
            times: Vec::new(),
            manifests: Vec::new(),
            catalog_changed: None,
        }
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
const SHAPE_VERSION: u32 = 3;
