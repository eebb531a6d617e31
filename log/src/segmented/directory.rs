//! The log's directory: names, segment headers, and segments prepared ahead.
//!
//! ```text
//! LOCK                            held by the process that has the log open for writing
//! manifest-00000000000000000007   see `manifest`
//! segment-00000000000000000001    header block of 4,096 bytes, then frames
//!
//! header block := magic "HWSEGMNT" | format version u32 | zero u32 | log id 16 | segment id u64 | file length u64
//!                 | CRC-32C of the 48 bytes before it | zeros
//! ```

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{Access, Disk, DiskFile};
use crate::error::LogError;
use crate::frame::FrameSeed;
use crate::position::{LogId, SegmentId};

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

    pub(super) fn manifest_path(&self, generation: u64) -> PathBuf {
        self.path.join(format!("{MANIFEST_PREFIX}{generation:020}"))
    }

    /// The ids of the segment files and the generations of the manifests, rising.
    pub(super) fn list(&self) -> Result<(Vec<SegmentId>, Vec<u64>), LogError> {
        let names = self.disk.list(&self.path).map_err(self.failed("list", &self.path))?;
        let numbers = |prefix: &str| -> Vec<u64> {
            let digits = names.iter().filter_map(|name| name.strip_prefix(prefix)).filter(|digits| digits.len() == 20);
            let mut numbers: Vec<u64> = digits.filter_map(|digits| digits.parse().ok()).collect();
            numbers.sort_unstable();
            numbers
        };
        let segments = numbers(SEGMENT_PREFIX).into_iter().map(SegmentId::new).collect();
        Ok((segments, numbers(MANIFEST_PREFIX)))
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
    /// durable with its name, header last: a segment with a valid header is whole.
    pub(super) fn prepare_segment(&self, log: LogId, id: SegmentId, bytes: u64) -> Result<Prepared, LogError> {
        let path = self.segment_path(id);
        let prepared = self.fill_segment(&path, log, id, bytes);
        if prepared.is_err() {
            // What is left of it holds nothing: it is removed now or when the log is opened next.
            let _ = self.disk.remove(&path);
        }
        prepared
    }

    fn fill_segment(&self, path: &Path, log: LogId, id: SegmentId, bytes: u64) -> Result<Prepared, LogError> {
        let file = match self.disk.open(path, Access::CreateNew) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.disk.remove(path).map_err(self.failed("remove", path))?;
                self.disk.open(path, Access::CreateNew)
            }
            other => other,
        }
        .map_err(self.failed("create", path))?;
        zero(&*file, SEGMENT_HEADER_BYTES, bytes).map_err(self.failed("fill", path))?;
        file.sync_data().map_err(self.failed("sync", path))?;
        let header = SegmentHeader { log, segment: id, bytes };
        file.write_at(&header.encode(), 0).map_err(self.failed("write", path))?;
        file.sync_data().map_err(self.failed("sync", path))?;
        self.sync()?;
        Ok(Prepared { id, file, bytes })
    }
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
    pub(super) log: LogId,
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
        block.extend_from_slice(&self.log.bytes());
        block.extend_from_slice(&self.segment.value().to_le_bytes());
        block.extend_from_slice(&self.bytes.to_le_bytes());
        let checksum = crc32c::crc32c(&block);
        block.extend_from_slice(&checksum.to_le_bytes());
        block.resize(SEGMENT_HEADER_BYTES as usize, 0);
        block
    }

    pub(super) fn decode(block: &[u8]) -> Result<Self, SegmentHeaderError> {
        let invalid = SegmentHeaderError::Invalid;
        let fields = block.first_chunk::<52>().ok_or(invalid)?;
        let (fields, checksum) = fields.split_at(48);
        if fields[..8] != SEGMENT_MAGIC || crc32c::crc32c(fields).to_le_bytes() != checksum {
            return Err(invalid);
        }
        let number = |at: usize| fields[at..].first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).ok_or(invalid);
        let version = number(8)? as u32;
        if version != FORMAT_VERSION {
            return Err(SegmentHeaderError::Newer(version));
        }
        let log = fields[16..].first_chunk::<16>().copied().map(LogId::from_bytes).ok_or(invalid)?;
        Ok(Self { log, segment: SegmentId::new(number(32)?), bytes: number(40)? })
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

/// Reads what a segment file begins with, checked against where it was found.
pub(super) fn check_segment_header(
    directory: &Directory,
    log: LogId,
    id: SegmentId,
    contents: &[u8],
) -> Result<Result<SegmentHeader, &'static str>, LogError> {
    match SegmentHeader::decode(contents) {
        Err(SegmentHeaderError::Newer(found)) => Err(LogError::Newer {
            path: directory.segment_path(id),
            found: format!("format {found}"),
            known: FORMAT_VERSION,
        }),
        Err(SegmentHeaderError::Invalid) => Ok(Err("an unreadable segment header")),
        Ok(header) if header.log != log => Ok(Err("a segment of another log")),
        Ok(header) if header.segment != id => Ok(Err("a segment under another segment's name")),
        Ok(header) if header.bytes > contents.len() as u64 => Ok(Err("a segment file cut short")),
        Ok(header) => Ok(Ok(header)),
    }
}

/// The seed of a log's frames, kept beside its id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) log: LogId,
    pub(super) seed: FrameSeed,
}

impl Identity {
    pub(super) fn new(log: LogId) -> Self {
        Self { log, seed: FrameSeed::new(log) }
    }
}

const SEGMENT_MAGIC: [u8; 8] = *b"HWSEGMNT";
const SEGMENT_PREFIX: &str = "segment-";
const MANIFEST_PREFIX: &str = "manifest-";
const ZERO_CHUNK_BYTES: u64 = 1024 * 1024;
