//! Backups: copies of a log that is being written, which are logs themselves.
//!
//! ```text
//!   segment 1 (sealed)   segment 2 (sealed)   segment 3 (active)
//!   |header|frames|seal| |header|frames|seal| |header|frames……|not synced|0000|
//!   ═══════════ copied as they are ═══════════╪═══ copied ════╡ zeros
//! ```
//!
//! What is durable never changes, and so it is copied file by file, with its checksums, while commits go on. Until all is there, a file
//! `UNFINISHED` keeps the directory from being opened. The manifest comes last: it says where the backup ends, and that it is one: the first opening for writing makes a log of its
//! own of it ([`super::manifest::Manifest::begin_own`]), so that two that go on from one backup are never taken for one another.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Shared;
use super::directory::{Directory, zero};
use super::manifest::Manifest;
use super::reading::Reading;
use super::view::{LogView, Verification};
use crate::checked_json;
use crate::env::{Access, DiskFile, Env};
use crate::error::{LogError, NotWritten};
use crate::position::{LogId, Lsn, SegmentId};

/// What a backup is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// The log.
    pub log: LogId,
    /// The last commit in it: the last durable one when it was begun.
    pub lsn: Lsn,
    /// Bytes that are copied.
    pub bytes: u64,
}

/// A piece of a backup; they are put in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPiece {
    /// The next file.
    File {
        /// Its name in the log's directory.
        name: String,
        /// Its length. What of it does not come is zeros.
        bytes: u64,
    },
    /// The next bytes of the file.
    Bytes(Bytes),
}

/// Reads what a backup is made of. It holds up neither commits nor a trim; one that trims away what is still to be copied ends it.
pub struct BackupReader {
    reading: Arc<Reading>,
    header: BackupHeader,
    left: VecDeque<Source>,
    file: Option<Reached>,
}

/// A file that is to be copied.
struct Source {
    name: PathBuf,
    /// Its length in the backup.
    bytes: u64,
    /// How much of it comes.
    end: u64,
    content: Content,
}

enum Content {
    Segment(SegmentId),
    Base(Lsn),
    Manifest(Bytes),
}

struct Reached {
    source: Source,
    /// A manifest is in memory.
    file: Option<Arc<dyn DiskFile>>,
    offset: u64,
}

impl Shared {
    /// Begins a backup of what is durable now.
    pub(super) fn begin_backup(&self) -> Result<BackupReader, LogError> {
        let directory = &self.reading.directory;
        let (durable, (active, end), manifest) = loop {
            // With what was appended synced, segments that were sealed by it are durable, too.
            self.make_durable()?;
            // First, and by itself: who holds the supply may be writing a segment of zeros. What it names is durable by now.
            let known = self.supply().manifest.clone();
            let writing = self.writing();
            let (durable, end) = (*self.reading.durable.borrow(), *self.reading.durable_end());
            let sealed = writing.writer.sealed().into_iter().chain(known.sealed);
            drop(writing);
            let newest = sealed.max_by_key(|sealed| sealed.segment);
            // Otherwise another append has come in between, and sealed a segment.
            if newest.is_none_or(|newest| newest.segment < end.0) {
                break (durable, end, Manifest { sealed: newest, ..known });
            }
        };
        let manifest = Manifest { generation: 1, is_backup: true, active, clean: Some(durable), ..manifest };
        let base = manifest.base.map(|lsn| (directory.base_path(lsn), Content::Base(lsn)));
        let segments = (manifest.first.value()..=active.value()).map(SegmentId::new);
        let segments = segments.map(|id| (directory.segment_path(id), Content::Segment(id)));
        let mut left = VecDeque::new();
        for (path, content) in base.into_iter().chain(segments) {
            let file = open(&self.reading, &path, &content)?;
            let bytes = file.byte_len().map_err(directory.failed("look at", &path))?;
            let is_active = matches!(content, Content::Segment(id) if id == active);
            left.push_back(Source { name: path, bytes, end: if is_active { end } else { bytes }, content });
        }
        let (name, content) = (directory.manifest_path(manifest.generation), Bytes::from(manifest.encode()));
        let bytes = content.len() as u64;
        left.push_back(Source { name, bytes, end: bytes, content: Content::Manifest(content) });
        let bytes = left.iter().map(|source| source.end).sum();
        let header = BackupHeader { log: manifest.log, lsn: durable, bytes };
        Ok(BackupReader { reading: Arc::clone(&self.reading), header, left, file: None })
    }
}

impl BackupReader {
    /// What it is of.
    #[must_use]
    pub const fn header(&self) -> &BackupHeader {
        &self.header
    }

    /// The next piece, of at most 1 MiB; `None` behind the last. Reads files on the calling thread.
    ///
    /// # Errors
    /// [`LogError::TrimmedMeanwhile`], [`LogError::Io`].
    pub fn try_next(&mut self) -> Result<Option<BackupPiece>, LogError> {
        if let Some(reached) = &mut self.file
            && reached.offset < reached.source.end
        {
            return Ok(Some(BackupPiece::Bytes(reached.read(&self.reading)?)));
        }
        let Some(source) = self.left.pop_front() else { return Ok(None) };
        let file = match &source.content {
            Content::Manifest(_) => None,
            content => Some(open(&self.reading, &source.name, content)?),
        };
        let name = source.name.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let piece = BackupPiece::File { name, bytes: source.bytes };
        self.file = Some(Reached { source, file, offset: 0 });
        Ok(Some(piece))
    }
}

impl Reached {
    fn read(&mut self, reading: &Reading) -> Result<Bytes, LogError> {
        let count = (self.source.end - self.offset).min(PIECE_BYTES) as usize;
        let piece = match (&self.source.content, &self.file) {
            (Content::Manifest(content), _) => content.slice(self.offset as usize..self.offset as usize + count),
            (content, Some(file)) => {
                let mut piece = vec![0; count];
                let read = file.read_at(&mut piece, self.offset);
                // What was read of a file that has another use by now is not told.
                check_kept(reading, content)?;
                let path = &self.source.name;
                if read.map_err(reading.directory.failed("read", path))? < count {
                    let error = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(reading.directory.failed("read", path)(error));
                }
                piece.into()
            }
            (_, None) => unreachable!("only a manifest is in memory"),
        };
        self.offset += count as u64;
        Ok(piece)
    }
}

fn open(reading: &Reading, path: &Path, content: &Content) -> Result<Arc<dyn DiskFile>, LogError> {
    let opened = reading.directory.open(path, Access::Read);
    check_kept(reading, content)?;
    opened
}

/// Whether a file is still what it was: trimming removes files, or uses them again.
fn check_kept(reading: &Reading, content: &Content) -> Result<(), LogError> {
    let is_kept = match content {
        Content::Segment(id) => *id >= reading.first_segment(),
        Content::Base(lsn) => *reading.base() == Some(*lsn),
        Content::Manifest(_) => true,
    };
    if is_kept { Ok(()) } else { Err(LogError::TrimmedMeanwhile) }
}

/// Writes a backup into a directory of its own. Until [`BackupWriter::finish`] what lies there is no log.
pub struct BackupWriter {
    env: Env,
    directory: Directory,
    file: Option<Writing>,
    manifest: Option<(PathBuf, Vec<u8>)>,
}

struct Writing {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    offset: u64,
    bytes: u64,
}

impl BackupWriter {
    /// Begins a backup in `path`, which must be empty or not there yet.
    ///
    /// # Errors
    /// [`LogError::NotEmpty`], [`LogError::Io`].
    pub fn begin(env: &Env, path: &Path) -> Result<Self, LogError> {
        let directory = Directory { disk: Arc::clone(&env.disk), path: path.to_owned() };
        directory.disk.create_dir(path).map_err(directory.failed("create", path))?;
        if !directory.disk.list(path).map_err(directory.failed("list", path))?.is_empty() {
            return Err(LogError::NotEmpty { path: path.to_owned() });
        }
        let unfinished = directory.unfinished_path();
        let marked = directory.disk.open(&unfinished, Access::CreateNew).and_then(|file| file.sync_data());
        marked.map_err(directory.failed("create", &unfinished))?;
        directory.sync()?;
        Ok(Self { env: env.clone(), directory, file: None, manifest: None })
    }

    /// Puts the next piece.
    ///
    /// # Errors
    /// [`LogError::NotWritten`], [`LogError::NotABackup`] for pieces that no reader has given.
    pub fn put(&mut self, piece: BackupPiece) -> Result<(), LogError> {
        match piece {
            BackupPiece::File { name, bytes } => {
                self.end_file()?;
                let path = self.directory.path.join(&name);
                if self.manifest.is_some() || !Directory::is_name(&name) {
                    return Err(LogError::NotABackup { what: format!("a file {name:?}") });
                }
                if Directory::is_manifest_name(&name) {
                    self.manifest = Some((path, Vec::new()));
                    return Ok(());
                }
                let created = self.directory.disk.open(&path, Access::CreateNew);
                self.file = Some(Writing { path, file: created.map_err(not_written)?, offset: 0, bytes });
            }
            BackupPiece::Bytes(piece) => {
                let count = piece.len() as u64;
                match (&mut self.manifest, &mut self.file) {
                    (Some((_, manifest)), _) if manifest.len() + piece.len() <= MANIFEST_BYTES_MAX => {
                        manifest.extend_from_slice(&piece);
                    }
                    (None, Some(writing)) if count <= writing.bytes - writing.offset => {
                        writing.file.write_at(&piece, writing.offset).map_err(not_written)?;
                        writing.offset += count;
                    }
                    _ => return Err(LogError::NotABackup { what: "more bytes than a file has".to_owned() }),
                }
            }
        }
        Ok(())
    }

    /// The file is whole: what did not come of it is zeros, written as such (see [`Directory::prepare_segment`]).
    fn end_file(&mut self) -> Result<(), LogError> {
        let Some(Writing { path, file, offset, bytes }) = self.file.take() else { return Ok(()) };
        zero(&*file, offset, bytes).map_err(not_written)?;
        file.sync_data().map_err(self.directory.failed("sync", &path))
    }

    /// Ends the backup: everything is synced, was read again, and every checksum is right. `progress` hears the bytes read.
    ///
    /// # Errors
    /// [`LogError::NotABackup`] where pieces are missing: nobody opens it then; [`LogError::Damaged`], [`LogError::BaseDamaged`] when what was copied, or the
    /// copy, is damaged; [`LogError::NotWritten`], [`LogError::Io`].
    pub fn finish(mut self, progress: impl FnMut(u64)) -> Result<Verification, LogError> {
        self.end_file()?;
        let Some((path, content)) = self.manifest else {
            return Err(LogError::NotABackup { what: "no manifest".to_owned() });
        };
        if !Manifest::decode(&content).is_ok_and(|manifest| manifest.is_backup) {
            return Err(LogError::NotABackup { what: "a manifest that says otherwise".to_owned() });
        }
        self.directory.sync()?;
        checked_json::replace(&*self.directory.disk, &path, &content).map_err(not_written)?;
        let unfinished = self.directory.unfinished_path();
        self.directory.disk.remove(&unfinished).map_err(self.directory.failed("remove", &unfinished))?;
        self.directory.sync()?;
        let mut found = LogView::open(&self.env, &self.directory.path)?.verify(progress)?;
        match found.damages.pop() {
            None => Ok(found),
            Some(damage) => Err(damage.into()),
        }
    }
}

impl std::fmt::Debug for BackupReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupReader of {} up to {}", self.header.log, self.header.lsn)
    }
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BackupWriter in {}", self.directory.path.display())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` hands it over")]
fn not_written(error: std::io::Error) -> LogError {
    LogError::NotWritten { reason: NotWritten::from_io(&error) }
}

const PIECE_BYTES: u64 = 1024 * 1024;
const MANIFEST_BYTES_MAX: usize = 1024 * 1024;
