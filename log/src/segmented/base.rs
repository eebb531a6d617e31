//! The base image as a file: `base-<lsn>`, frames of their own kind from the first byte on, and a footer as a segment has one.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use super::Shared;
use super::directory::{Directory, Identity};
use crate::base::{BaseParts, BaseReader, BaseSink};
use crate::env::{Access, DiskFile};
use crate::error::{Damage, LogError, NotWritten, error_chain};
use crate::frame::{self, FRAME_HEADER_BYTES, FrameError, FrameHeader, FrameKind, Seal};
use crate::position::{Epoch, Lsn, SegmentId};

/// Where the frames of an image stand: what the writer and the reader of one keep alike.
struct Frames {
    identity: Identity,
    lsn: Lsn,
    offset: u64,
    checksum: u32,
    count: u64,
    hash: Xxh3,
}

impl Frames {
    fn new(identity: Identity, lsn: Lsn) -> Self {
        Self { identity, lsn, offset: 0, checksum: 0, count: 0, hash: Xxh3::new() }
    }

    /// The header of the next frame. An image belongs to no segment and no epoch.
    fn header(&self, kind: FrameKind, payload_bytes: usize) -> FrameHeader {
        FrameHeader {
            kind,
            is_first: kind == FrameKind::Base && self.count == 0,
            is_last: false,
            payload_bytes: payload_bytes as u32,
            segment: NO_SEGMENT,
            epoch: Epoch::default(),
            lsn: self.lsn,
            synced: self.lsn,
            previous: self.checksum,
            part: if kind == FrameKind::Base { self.count as u32 } else { 0 },
        }
    }

    fn seal(&self) -> Seal {
        Seal { frames: self.count, hash: self.hash.digest128() }
    }

    fn step(&mut self, bytes: &[u8], checksum: u32) {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        self.checksum = checksum;
        self.count += 1;
    }
}

/// Writes an image into a temporary file, which takes its name when it is whole.
pub(super) struct BaseFileSink {
    shared: Arc<Shared>,
    file: Arc<dyn DiskFile>,
    frames: Frames,
    is_finished: bool,
}

impl BaseFileSink {
    pub(super) fn create(shared: &Arc<Shared>, lsn: Lsn) -> Result<Self, LogError> {
        let directory = &shared.reading.directory;
        let path = temporary_path(directory);
        // There is one at a time; what a crash left went when the log was opened.
        let file = directory.disk.open(&path, Access::CreateNew).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                LogError::NotWritten { reason: NotWritten::Io("another base image is being written".into()) }
            }
            _ => directory.failed("create", &path)(error),
        })?;
        let frames = Frames::new(shared.reading.identity, lsn);
        Ok(Self { shared: Arc::clone(shared), file, frames, is_finished: false })
    }

    fn write(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), LogError> {
        if self.shared.look_at_space()? {
            let minimum = self.shared.options.free_bytes_min;
            let reason = NotWritten::NoSpace(format!("fewer than {minimum} bytes are free").into());
            return Err(LogError::NotWritten { reason });
        }
        let header = self.frames.header(kind, payload.len());
        let mut bytes = Vec::with_capacity(header.frame_bytes() as usize);
        let checksum = frame::encode(self.frames.identity.seed(), self.frames.offset, &header, payload, &mut bytes);
        self.file
            .write_at(&bytes, self.frames.offset)
            .map_err(|error| LogError::NotWritten { reason: NotWritten::from_io(&error) })?;
        self.frames.step(&bytes, checksum);
        Ok(())
    }
}

impl BaseSink for BaseFileSink {
    fn part(&mut self, part: &[u8]) -> Result<(), LogError> {
        self.write(FrameKind::Base, part)
    }

    fn finish(mut self: Box<Self>) -> Result<(), LogError> {
        let seal = self.frames.seal();
        self.write(FrameKind::Seal, &seal.encode())?;
        let (shared, lsn) = (Arc::clone(&self.shared), self.frames.lsn);
        let directory = &shared.reading.directory;
        let (path, temporary) = (directory.base_path(lsn), temporary_path(directory));
        self.file.sync_data().map_err(directory.failed("sync", &temporary))?;
        // Nothing is given up for what cannot be read again.
        for part in parts(directory, shared.reading.identity, lsn, &temporary)? {
            part?;
        }
        let mut supply = shared.supply();
        let before = supply.manifest.base;
        if let Some(later) = before.filter(|before| *before > lsn) {
            // What was trimmed up to it would be in no image.
            let reason = NotWritten::Io(format!("there is a base image at lsn {later} already").into());
            return Err(LogError::NotWritten { reason });
        }
        directory.disk.rename(&temporary, &path).map_err(directory.failed("rename", &temporary))?;
        self.is_finished = true;
        directory.sync()?;
        supply.manifest.base = Some(lsn);
        if let Err(error) = supply.manifest.store_in_all_generations(directory) {
            // Some generations may name it; both images are there, and any of the two will do.
            supply.manifest.base = before;
            return Err(error);
        }
        *shared.reading.base() = Some(lsn);
        drop(supply);
        if let Some(before) = before.filter(|before| *before != lsn) {
            // Best effort: an older image does no harm.
            let _ = directory.disk.remove(&directory.base_path(before));
        }
        Ok(())
    }
}

impl Drop for BaseFileSink {
    fn drop(&mut self) {
        if !self.is_finished {
            let directory = &self.shared.reading.directory;
            let _ = directory.disk.remove(&temporary_path(directory));
        }
    }
}

/// Reads the image at `lsn`.
pub(super) fn read(directory: &Directory, identity: Identity, lsn: Lsn) -> Result<BaseReader, LogError> {
    BaseReader::new(lsn, parts(directory, identity, lsn, &directory.base_path(lsn))?)
}

/// Reads the image at `lsn` through, telling `visit` the bytes of each part, until it breaks; what is damaged, if anything is.
pub(super) fn check(
    directory: &Directory,
    identity: Identity,
    lsn: Lsn,
    mut visit: impl FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Damage>, LogError> {
    let damage = |what| Damage { what, segment: NO_SEGMENT, bytes: 0..0, first: Lsn::ORIGIN.next(), last: lsn };
    let mut read = || {
        let mut parts = parts(directory, identity, lsn, &directory.base_path(lsn))?;
        parts
            .try_for_each(|part| match part {
                Ok(part) if visit(part.len() as u64).is_break() => Err(None),
                Ok(_) => Ok(()),
                Err(error) => Err(Some(error)),
            })
            .or_else(|stopped| stopped.map_or(Ok(()), Err))
    };
    match read() {
        Ok(()) => Ok(None),
        Err(error @ LogError::Newer { .. }) => Err(error),
        Err(error) => Ok(Some(damage(error_chain(&error)))),
    }
}

/// The parts of the image in a file, each checked; the footer is the last thing checked.
fn parts(directory: &Directory, identity: Identity, lsn: Lsn, path: &std::path::Path) -> Result<BaseParts, LogError> {
    let (directory, path) = (directory.clone(), path.to_owned());
    let file = directory.disk.open(&path, Access::Read).map_err(|error| match error.kind() {
        ErrorKind::NotFound => LogError::BaseDamaged { lsn, what: "its file is missing".to_owned() },
        _ => directory.failed("open", &path)(error),
    })?;
    let mut frames = Frames::new(identity, lsn);
    let mut is_over = false;
    Ok(Box::new(std::iter::from_fn(move || {
        if is_over {
            return None;
        }
        let damaged = |what: &str, frames: &Frames| {
            let what = format!("{what} at byte {} of {}", frames.offset, path.display());
            LogError::BaseDamaged { lsn, what }
        };
        let mut next = || {
            let failed = |error| directory.failed("read", &path)(error);
            let mut head = [0; FRAME_HEADER_BYTES];
            if file.read_at(&mut head, frames.offset).map_err(failed)? < head.len() {
                return Err(damaged("the file ends", &frames));
            }
            let checked = match frame::decode_header(identity.seed(), frames.offset, &head) {
                Ok(checked) => checked,
                Err(FrameError::Newer { what, found }) => {
                    let (path, found) = (path.clone(), format!("{what} {found} of a frame"));
                    return Err(LogError::Newer { path, found, known: u32::from(frame::FRAME_VERSION) });
                }
                Err(error) => return Err(damaged(&error.to_string(), &frames)),
            };
            let header = checked.header;
            if header != frames.header(header.kind, header.payload_bytes as usize) {
                return Err(damaged("a frame that does not follow the one before it", &frames));
            }
            let mut bytes = vec![0; header.frame_bytes() as usize];
            if file.read_at(&mut bytes, frames.offset).map_err(failed)? < bytes.len() {
                return Err(damaged("the file ends within a frame", &frames));
            }
            let payload = FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + header.payload_bytes as usize;
            checked.check_payload(&bytes[payload.clone()]).map_err(|error| damaged(&error.to_string(), &frames))?;
            match header.kind {
                FrameKind::Base => {
                    frames.step(&bytes, checked.checksum);
                    Ok(Some(Bytes::from(bytes).slice(payload)))
                }
                FrameKind::Seal if Seal::decode(&bytes[payload]) == Some(frames.seal()) => Ok(None),
                FrameKind::Seal => Err(damaged("a footer that does not fit the frames", &frames)),
                FrameKind::Commit | FrameKind::Mark => Err(damaged("a frame of a segment", &frames)),
            }
        };
        let part = next().transpose();
        is_over = !matches!(part, Some(Ok(_)));
        part
    })))
}

/// A base image's damage names no segment.
pub(super) const NO_SEGMENT: SegmentId = SegmentId::new(0);

fn temporary_path(directory: &Directory) -> PathBuf {
    directory.path.join("base.tmp")
}
