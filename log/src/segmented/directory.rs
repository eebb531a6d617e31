//! The log's directory: names, segment headers, and segments prepared ahead.
//!
//! ```text
//! LOCK                            held by the process that has the log open for writing
//! manifest-00000000000000000007   see `manifest`
//! segment-00000000000000000001    header block of 4,096 bytes, then frames
//! base-00000000000000000012       see `base`
//!
//! header block := magic "HWSEGMNT" | format version u32 | zero u32 | log id 16 | segment id u64 | file length u64
//!                 | the log's salt 16 | CRC-32C of the 64 bytes before it | zeros
//! ```

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{Access, Disk, DiskFile};
use crate::error::LogError;
use crate::frame::FrameSeed;
use crate::position::{LogId, Lsn, SegmentId};

/// Bytes of a segment's header block; frames begin behind it, so that no write of a frame touches its page.
pub(super) const SEGMENT_HEADER_BYTES: u64 = 4096;

/// The version of the directory as a whole: names, header blocks, manifest.
pub(super) const FORMAT_VERSION: u32 = 1;

/// The directory of a log, and how its files are named.
#[derive(Clone)]
pub(super) struct Directory {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) path: PathBuf,
}

impl Directory {
    pub(super) fn lock_path(&self) -> PathBuf {
        self.path.join("LOCK")
    }

    pub(super) fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.path.join(format!("{SEGMENT_PREFIX}{id:020}"))
    }

    pub(super) fn base_path(&self, lsn: Lsn) -> PathBuf {
        self.path.join(format!("{BASE_PREFIX}{lsn:020}"))
    }

    pub(super) fn manifest_path(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{MANIFEST_PREFIX}{generation:020}"))
    }

    /// What lies in the directory of a backup until it is whole.
    pub(super) fn unfinished_path(&self) -> PathBuf {
        self.path.join("UNFINISHED")
    }

    /// Refuses the directory of a backup that was broken off.
    pub(super) fn check_finished(&self) -> Result<(), LogError> {
        let path = self.unfinished_path();
        match self.disk.open(&path, Access::Read) {
            Ok(_) => Err(LogError::NotABackup { what: format!("{} says that it was broken off", path.display()) }),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed("look at", &path)(error)),
        }
    }

    /// Whether a log's directory has files of such a name, beside the lock.
    pub(super) fn is_name(name: &str) -> bool {
        [SEGMENT_PREFIX, MANIFEST_PREFIX, BASE_PREFIX].into_iter().any(|prefix| number_in(name, prefix).is_some())
    }

    pub(super) fn is_manifest_name(name: &str) -> bool {
        number_in(name, MANIFEST_PREFIX).is_some()
    }

    /// The ids of the segment files and the generations of the manifests, rising.
    pub(super) fn list(&self) -> Result<(Vec<SegmentId>, Vec<u64>), LogError> {
        let names = self.disk.list(&self.path).map_err(self.failed("list", &self.path))?;
        let numbers = |prefix: &str| -> Vec<u64> {
            let mut numbers: Vec<u64> = names.iter().filter_map(|name| number_in(name, prefix)).collect();
            numbers.sort_unstable();
            numbers
        };
        let segments = numbers(SEGMENT_PREFIX).into_iter().map(SegmentId::new).collect();
        Ok((segments, numbers(MANIFEST_PREFIX)))
    }

    /// Removes what a crash may have left behind: temporary files, trimmed segments, older base images. Best effort: none of it does
    /// any harm.
    pub(super) fn tidy(&self, first: SegmentId, base: Option<Lsn>) {
        let is_left_over = |name: &String| {
            Path::new(name).extension().is_some_and(|extension| extension == "tmp")
                || number_in(name, SEGMENT_PREFIX).is_some_and(|id| id < first.value())
                || number_in(name, BASE_PREFIX).is_some_and(|lsn| base.is_some_and(|base| lsn < base.value()))
        };
        let names = self.disk.list(&self.path).unwrap_or_default();
        for name in names.iter().filter(|name| is_left_over(name)) {
            let _ = self.disk.remove(&self.path.join(name));
        }
    }

    pub(super) fn open(&self, path: &Path, access: Access) -> Result<Arc<dyn DiskFile>, LogError> {
        self.disk.open(path, access).map_err(self.failed("open", path))
    }

    /// Reads a whole file.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>, LogError> {
        read_all(&*self.open(path, Access::Read)?).map_err(self.failed("read", path))
    }

    pub(super) fn sync(&self) -> Result<(), LogError> {
        self.disk.sync_dir(&self.path).map_err(self.failed("sync", &self.path))
    }

    pub(super) fn failed(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError + use<> {
        let path = path.to_owned();
        move |source| LogError::Io { action, path, source }
    }

    /// Creates a segment of `bytes` bytes, written with zeros (never sparse: a write that allocates nothing needs no journal) and
    /// durable, header last: a segment with a valid header is whole. It takes its name last of all, in the place of an unused file
    /// that may have it, so that at no time a segment is missing that was there before.
    ///
    /// A `spare` file, a trimmed segment of the same length, is taken as it is: its frames name another segment, and so are none.
    pub(super) fn prepare_segment(
        &self,
        identity: Identity,
        id: SegmentId,
        bytes: u64,
        spare: Option<&Path>,
    ) -> Result<Prepared, LogError> {
        let path = self.segment_path(id);
        let temporary = path.with_extension("tmp");
        let header = SegmentHeader { identity, segment: id, bytes };
        let prepared = match spare {
            Some(spare) => self.recycle_segment(spare, &path, &temporary, header),
            None => self.fill_segment(&path, &temporary, header),
        };
        if prepared.is_err() {
            // What is left of it holds nothing, and the next attempt removes it, too.
            let _ = self.disk.remove(&temporary);
        }
        prepared
    }

    fn fill_segment(&self, path: &Path, temporary: &Path, header: SegmentHeader) -> Result<Prepared, LogError> {
        let file = match self.disk.open(temporary, Access::CreateNew) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.disk.remove(temporary).map_err(self.failed("remove", temporary))?;
                self.disk.open(temporary, Access::CreateNew)
            }
            other => other,
        }
        .map_err(self.failed("create", temporary))?;
        zero(&*file, SEGMENT_HEADER_BYTES, header.bytes).map_err(self.failed("fill", temporary))?;
        file.sync_data().map_err(self.failed("sync", temporary))?;
        self.name_segment(file, path, temporary, header)
    }

    fn recycle_segment(
        &self,
        spare: &Path,
        path: &Path,
        temporary: &Path,
        header: SegmentHeader,
    ) -> Result<Prepared, LogError> {
        self.disk.rename(spare, temporary).map_err(self.failed("rename", spare))?;
        let file = self.open(temporary, Access::ReadWrite)?;
        self.name_segment(file, path, temporary, header)
    }

    /// The last steps: the header, then the name.
    fn name_segment(
        &self,
        file: Arc<dyn DiskFile>,
        path: &Path,
        temporary: &Path,
        header: SegmentHeader,
    ) -> Result<Prepared, LogError> {
        file.write_at(&header.encode(), 0).map_err(self.failed("write", temporary))?;
        file.sync_data().map_err(self.failed("sync", temporary))?;
        self.disk.rename(temporary, path).map_err(self.failed("rename", temporary))?;
        self.sync()?;
        Ok(Prepared { id: header.segment, file, bytes: header.bytes })
    }
}

/// The number that a file's name has behind its prefix.
fn number_in(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix).filter(|digits| digits.len() == 20);
    digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

/// A segment that is ready for frames.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) id: SegmentId,
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) bytes: u64,
}

/// What a segment's header block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) segment: SegmentId,
    pub(super) bytes: u64,
}

/// Why a header block says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SegmentHeaderError {
    Invalid,
    Newer(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(SEGMENT_HEADER_BYTES as usize);
        block.extend_from_slice(&SEGMENT_MAGIC);
        block.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        block.extend_from_slice(&0_u32.to_le_bytes());
        block.extend_from_slice(&self.identity.log.bytes());
        block.extend_from_slice(&self.segment.value().to_le_bytes());
        block.extend_from_slice(&self.bytes.to_le_bytes());
        block.extend_from_slice(&self.identity.salt);
        let checksum = crc32c::crc32c(&block);
        block.extend_from_slice(&checksum.to_le_bytes());
        block.resize(SEGMENT_HEADER_BYTES as usize, 0);
        block
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        let invalid = SegmentHeaderError::Invalid;
        let fields = block.first_chunk::<68>().ok_or(invalid)?;
        let (fields, checksum) = fields.split_at(64);
        if fields[..8] != SEGMENT_MAGIC || crc32c::crc32c(fields).to_le_bytes() != checksum {
            return Err(invalid);
        }
        let number = |at: usize| fields[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).ok_or(invalid);
        let version = number(8)? as u32;
        if version != FORMAT_VERSION {
            return Err(SegmentHeaderError::Newer(version));
        }
        let sixteen = |at: usize| fields[at..].first_chunk::<16>().copied().ok_or(invalid);
        let identity = Identity { log: LogId::from_bytes(sixteen(16)?), salt: sixteen(48)? };
        Ok(Self { identity, segment: SegmentId::new(number(32)?), bytes: number(40)? })
    }
}

/// Writes zeros from `start` to `end`.
pub(super) fn zero(file: &dyn DiskFile, start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_CHUNK_BYTES.min(end.saturating_sub(start)) as usize];
    let mut position = start;
    while position < end {
        let count = (end - position).min(zeros.len() as u64);
        file.write_at(&zeros[..count as usize], position)?;
        position += count;
    }
    Ok(())
}

pub(super) fn read_all(file: &dyn DiskFile) -> io::Result<Vec<u8>> {
    let mut contents = vec![0; usize::try_from(file.byte_len()?).map_err(io::Error::other)?];
    let count = file.read_at(&mut contents, 0)?;
    contents.truncate(count);
    Ok(contents)
}

/// Why a segment file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Its header is no header: a preparation that was interrupted, or damage.
    Header,
    /// It is shorter than its header says, though it was whole before it got one.
    Cut,
    /// It was put here by somebody: it is another log's, or another segment.
    Foreign(&'static str),
}

impl Unusable {
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Header => "an unreadable segment header",
            Self::Cut => "a segment file cut short",
            Self::Foreign(what) => what,
        }
    }
}

/// Reads what a segment file of `file_bytes` bytes begins with, checked against where it was found.
pub(super) fn check_segment_header(
    directory: &Directory,
    identity: Identity,
    id: SegmentId,
    block: &[u8],
    file_bytes: u64,
) -> Result<Result<SegmentHeader, Unusable>, LogError> {
    match SegmentHeader::decode(block) {
        Err(SegmentHeaderError::Newer(found)) => Err(LogError::Newer {
            path: directory.segment_path(id),
            found: format!("format {found}"),
            known: FORMAT_VERSION,
        }),
        Err(SegmentHeaderError::Invalid) => Ok(Err(Unusable::Header)),
        Ok(header) if header.identity != identity => Ok(Err(Unusable::Foreign("a segment of another log"))),
        Ok(header) if header.segment != id => Ok(Err(Unusable::Foreign("a segment under another segment's name"))),
        Ok(header) if header.bytes > file_bytes => Ok(Err(Unusable::Cut)),
        Ok(header) => Ok(Ok(header)),
    }
}

/// What a log's segments are signed and its frames seeded with. A log that goes on from a backup keeps what its files had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) log: LogId,
    pub(super) salt: [u8; 16],
}

impl Identity {
    pub(super) fn seed(&self) -> FrameSeed {
        FrameSeed::new(self.salt)
    }
}

const SEGMENT_MAGIC: [u8; 8] = *b"HWSEGMNT";
const SEGMENT_PREFIX: &str = "segment-";
const MANIFEST_PREFIX: &str = "manifest-";
const BASE_PREFIX: &str = "base-";
const ZERO_CHUNK_BYTES: u64 = 1024 * 1024;
