//! The manifest: what is known of the log's directory as a whole, and a witness of what was durable.
//!
//! A file of [`checked_json`]; the two generations before it are kept. Falling back to an older generation is safe: it claims less, and what it does not claim is found by looking.

use serde::{Deserialize, Serialize};

use super::directory::{Directory, FORMAT_VERSION, Identity};
use crate::checked_json::{self, CheckedJsonError};
use crate::commit_log::Parent;
use crate::error::LogError;
use crate::position::{Epoch, LogId, Lsn, SegmentId};

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// The directory's format version.
    pub(super) version: u32,
    /// Rises with each manifest written.
    pub(super) generation: u64,
    /// The log's identity.
    pub(super) log: LogId,
    /// What the checksums of its frames are seeded with, as a UUID is written.
    pub(super) salt: LogSalt,
    /// What the headers of its segments are signed with, where it is another log's identity: that of the first one of its ancestors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) signature: Option<LogId>,
    /// The logs that it goes on from, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) parents: Vec<Parent>,
    /// Whether it is a backup of `log` that nobody has opened for writing yet.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) is_backup: bool,
    /// The opening that wrote it.
    pub(super) epoch: Epoch,
    /// The first segment that is kept.
    pub(super) first: SegmentId,
    /// Commits up to here are trimmed away.
    pub(super) trimmed: Lsn,
    /// What the base image is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<Lsn>,
    /// The last segment known to be sealed, with its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sealed: Option<Sealed>,
    /// The segment in use when this was written: it and all before it exist.
    pub(super) active: SegmentId,
    /// After a clean close: where the log ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) clean: Option<Lsn>,
}

/// The salt of a log's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct LogSalt(uuid::Uuid);

/// The end of a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    pub(super) segment: SegmentId,
    /// The last commit complete at its end.
    pub(super) lsn: Lsn,
    /// The footer's checksum, which the next segment's first frame carries.
    pub(super) checksum: u32,
    /// Where it ends within the next commit: the number of the part that comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next_part: Option<u32>,
}

impl Manifest {
    pub(super) fn new(identity: Identity) -> Self {
        Self {
            version: FORMAT_VERSION,
            generation: 0,
            log: identity.log,
            salt: LogSalt(uuid::Uuid::from_bytes(identity.salt)),
            signature: None,
            parents: Vec::new(),
            is_backup: false,
            epoch: Epoch::default(),
            first: SegmentId::new(1),
            trimmed: Lsn::ORIGIN,
            base: None,
            sealed: None,
            active: SegmentId::new(1),
            clean: None,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        Identity { log: self.signature.unwrap_or(self.log), salt: self.salt.0.into_bytes() }
    }

    /// What others prove of the log, as far as it is to be believed: a backup goes back to before what the folds of its log have seen.
    pub(super) fn proven(&self, told: impl FnOnce(LogId) -> Lsn) -> Lsn {
        if self.is_backup { Lsn::ORIGIN } else { told(self.log) }
    }

    /// A backup that is opened for writing becomes a log of its own, which ends at `lsn` so far. What was told of the log that it is a
    /// backup of holds here up to there, and no further: both may go on.
    pub(super) fn begin_own(&mut self, log: LogId, lsn: Lsn) {
        self.signature.get_or_insert(self.log);
        self.parents.push(Parent { log: self.log, lsn });
        (self.log, self.is_backup) = (log, false);
    }

    /// Reads the newest manifest that is whole; `None` when there is no manifest at all.
    pub(super) fn load(directory: &Directory, generations: &[u64]) -> Result<Option<Self>, LogError> {
        for generation in generations.iter().rev() {
            let path = directory.manifest_path(*generation);
            let bytes = match directory.read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(%error, "the manifest cannot be read, falling back to the one before it");
                    continue;
                }
            };
            match Self::decode(&bytes) {
                Ok(manifest) if manifest.generation == *generation => return Ok(Some(manifest)),
                Err(CheckedJsonError::OtherVersion(found)) => {
                    return Err(LogError::Newer { path, found: format!("format {found}"), known: FORMAT_VERSION });
                }
                Ok(_) | Err(CheckedJsonError::Damaged) => {
                    tracing::warn!(path = %path.display(), "the manifest is damaged, falling back to the one before it");
                }
            }
        }
        Ok(None)
    }

    /// Writes the next generation, durably, and removes the one that is three back.
    pub(super) fn store(&mut self, directory: &Directory) -> Result<(), LogError> {
        let mut next = self.clone();
        next.generation += 1;
        let path = directory.manifest_path(next.generation);
        checked_json::replace(&*directory.disk, &path, &next.encode()).map_err(directory.failed("replace", &path))?;
        if let Some(old) = next.generation.checked_sub(GENERATIONS_KEPT) {
            // Best effort: an older manifest does no harm.
            let _ = directory.disk.remove(&directory.manifest_path(old));
        }
        *self = next;
        Ok(())
    }

    /// Writes it as often as generations are kept: what goes next must be known to be gone by all of them.
    pub(super) fn store_in_all_generations(&mut self, directory: &Directory) -> Result<(), LogError> {
        (0..GENERATIONS_KEPT).try_for_each(|_| self.store(directory))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        checked_json::encode(TITLE, self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, CheckedJsonError> {
        checked_json::decode(TITLE, FORMAT_VERSION, bytes)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
const fn is_false(value: &bool) -> bool {
    !*value
}

const TITLE: &str = "highwater log manifest";
const GENERATIONS_KEPT: u64 = 3;
