//! Changes of a commit that is too large to lie in memory, on disk until the log has them.
//!
//! ```text
//!   push, in any order ──▶ deletes.. │ updates.. │ inserts..      one file without a name for each, in parts as a log stores them
//!                          ordered: deletes, updates, inserts ──▶ parts of the commit, rows numbered when they are read
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::encoded::parts_of;
use super::encoded::{EncodedCommit, PartStore};
use super::envelope::{CHANGE_BYTES_MAX, CHANGE_OVERHEAD_BYTES, PART_BYTES_TARGET, decode_part, encode_part};
use super::{Change, CommitHeader};
use crate::error::LogError;
use crate::position::{Lsn, RowId};

/// Takes changes of rows on their way to the disk.
pub struct ChangeSpool {
    directory: PathBuf,
    lanes: [Lane; 3],
    part_bytes: usize,
}

/// Changes of one kind.
#[derive(Default)]
struct Lane {
    file: Option<File>,
    /// Of the next part.
    changes: Vec<Change>,
    bytes: usize,
    parts: Vec<SpooledPart>,
    end: u64,
    count: u64,
}

/// Where a part lies.
#[derive(Clone, Copy, Debug)]
struct SpooledPart {
    lane: usize,
    offset: u64,
    length: u32,
    hash: u64,
    /// How many changes of its kind stand before it.
    before: u64,
}

/// Why a change could not be spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// It is longer than a change may be.
    #[error("a change of {bytes} bytes is longer than {CHANGE_BYTES_MAX}")]
    ChangeTooLarge {
        /// The bytes of its images.
        bytes: usize,
    },
    /// The disk failed.
    #[error("changes of a large transaction cannot be written to disk")]
    Io(#[from] io::Error),
}

/// Changes of rows on disk, complete. Their files go with the last clone.
#[derive(Clone)]
pub struct SpooledChanges(Arc<Spooled>);

struct Spooled {
    files: [Option<File>; 3],
    parts: Vec<SpooledPart>,
    count: u64,
    insert_count: u64,
    directory: PathBuf,
}

impl ChangeSpool {
    /// An empty one, whose files lie in `directory` and have no names: they go with the process.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self::with_parts_of(directory, PART_BYTES_TARGET)
    }

    /// As [`ChangeSpool::new`]; a part is closed when it has grown to `part_bytes`, of images and fields.
    #[must_use]
    pub fn with_parts_of(directory: &Path, part_bytes: usize) -> Self {
        Self { directory: directory.to_owned(), lanes: Default::default(), part_bytes }
    }

    /// Takes the change of a row: a delete, an update or an insert. Those of a kind keep their order. The row ids of inserts do not
    /// count.
    ///
    /// # Errors
    /// [`SpoolError`].
    ///
    /// # Panics
    /// When the change is none of a row.
    pub fn push(&mut self, change: Change) -> Result<(), SpoolError> {
        let lane = match &change {
            Change::Delete { .. } => 0,
            Change::Update { .. } => 1,
            Change::Insert { .. } => INSERTS,
            other => panic!("only changes of rows are spooled, not {other:?}"),
        };
        if change.byte_len() > CHANGE_BYTES_MAX {
            return Err(SpoolError::ChangeTooLarge { bytes: change.byte_len() });
        }
        let bytes = change.byte_len() + CHANGE_OVERHEAD_BYTES;
        if self.lanes[lane].bytes + bytes > self.part_bytes {
            self.write_part(lane)?;
        }
        let lane = &mut self.lanes[lane];
        lane.bytes += bytes;
        lane.changes.push(change);
        Ok(())
    }

    fn write_part(&mut self, index: usize) -> io::Result<()> {
        let lane = &mut self.lanes[index];
        if lane.changes.is_empty() {
            return Ok(());
        }
        let part = encode_part(None, &lane.changes);
        let file = match &lane.file {
            Some(file) => file,
            None => lane.file.insert(tempfile::tempfile_in(&self.directory)?),
        };
        file.write_all_at(&part, lane.end)?;
        let length = u32::try_from(part.len()).expect("a part is shorter than its longest");
        lane.parts.push(SpooledPart {
            lane: index,
            offset: lane.end,
            length,
            hash: xxh3_64(&part),
            before: lane.count,
        });
        lane.end += part.len() as u64;
        lane.count += lane.changes.len() as u64;
        lane.changes.clear();
        lane.bytes = 0;
        Ok(())
    }

    /// All that was taken.
    ///
    /// # Errors
    /// [`SpoolError::Io`] when the rest of it cannot be written.
    pub fn finish(mut self) -> Result<SpooledChanges, SpoolError> {
        (0..self.lanes.len()).try_for_each(|lane| self.write_part(lane))?;
        let parts = self.lanes.iter().flat_map(|lane| lane.parts.iter().copied()).collect();
        let (count, insert_count) = (self.lanes.iter().map(|lane| lane.count).sum(), self.lanes[INSERTS].count);
        let files = self.lanes.map(|lane| lane.file);
        Ok(SpooledChanges(Arc::new(Spooled { files, parts, count, insert_count, directory: self.directory })))
    }
}

impl SpooledChanges {
    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.count == 0
    }

    /// How many of them insert a row.
    #[must_use]
    pub fn insert_count(&self) -> u64 {
        self.0.insert_count
    }

    /// Bytes of all parts.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.0.parts.iter().map(|part| u64::from(part.length)).sum()
    }

    /// A part; its inserts are numbered from `first_row` on.
    fn part(&self, part: SpooledPart, first_row: RowId, lsn: Lsn) -> Result<Bytes, LogError> {
        let failed = |source| LogError::Io { action: "read a spooled part in", path: self.0.directory.clone(), source };
        let file = self.0.files[part.lane].as_ref().expect("a part lies in a file");
        let mut bytes = vec![0; part.length as usize];
        file.read_exact_at(&mut bytes, part.offset).map_err(failed)?;
        if xxh3_64(&bytes) != part.hash {
            return Err(failed(io::Error::new(
                io::ErrorKind::InvalidData,
                "the bytes are not those that were written",
            )));
        }
        let bytes = Bytes::from(bytes);
        if part.lane != INSERTS {
            return Ok(bytes);
        }
        let (_, mut changes) = decode_part(&bytes).map_err(|source| LogError::Envelope { lsn, source })?;
        let mut next = RowId::new(first_row.value() + part.before);
        for change in &mut changes {
            if let Change::Insert { row, .. } = change {
                *row = next;
                next = next.next();
            }
        }
        let numbered = encode_part(None, &changes);
        assert_eq!(numbered.len(), bytes.len(), "a row's number takes the same bytes whatever it is");
        Ok(numbered)
    }
}

impl std::fmt::Debug for SpooledChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SpooledChanges {{ {} changes, {} bytes }}", self.len(), self.byte_len())
    }
}

/// An ordered commit over spooled changes.
struct SpooledCommit {
    lsn: Lsn,
    first_row: RowId,
    /// The header, and what stands before the changes of rows: a part at least.
    head: Vec<Bytes>,
    spooled: SpooledChanges,
    /// What stands behind them.
    rest: Vec<Bytes>,
    lengths: Vec<u32>,
}

impl PartStore for SpooledCommit {
    fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    fn part(&self, index: usize) -> Result<Bytes, LogError> {
        let parts = &self.spooled.0.parts;
        let Some(index) = index.checked_sub(self.head.len()) else { return Ok(self.head[index].clone()) };
        match parts.get(index) {
            Some(part) => self.spooled.part(*part, self.first_row, self.lsn),
            None => Ok(self.rest[index - parts.len()].clone()),
        }
    }
}

impl EncodedCommit {
    /// A commit whose changes of rows are spooled: `first` stand before them and `last` behind them. Inserts are numbered from `first_row`
    /// on.
    ///
    /// # Panics
    /// When the header's count is not that of the changes, or one of these is longer than a change may be.
    #[must_use]
    pub(crate) fn spooled(
        lsn: Lsn,
        header: &CommitHeader,
        first_row: RowId,
        first: &[Change],
        spooled: SpooledChanges,
        last: &[Change],
    ) -> Self {
        let count = first.len() as u64 + spooled.len() + last.len() as u64;
        assert_eq!(header.change_count, count, "the header counts the changes");
        let head = parts_of(Some(header), first);
        let rest = if last.is_empty() { Vec::new() } else { parts_of(None, last) };
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("a part is shorter than its longest");
        let spooled_lengths = spooled.0.parts.iter().map(|part| part.length);
        let lengths = head.iter().map(length).chain(spooled_lengths).chain(rest.iter().map(length)).collect();
        Self::elsewhere(lsn, Arc::new(SpooledCommit { lsn, first_row, head, spooled, rest, lengths }))
    }
}

const INSERTS: usize = 2;
