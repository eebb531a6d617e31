//! Sealed segments and the base image are read again now and then: bits rot where nobody looks.

use std::ops::{ControlFlow, Range};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::Shared;
use super::base;
use super::directory::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::background::Background;
use crate::env::{Access, DiskFile};
use crate::error::{Damage, LogError, error_chain};
use crate::frame::{self, FRAME_HEADER_BYTES, FrameKind, Seal};
use crate::position::{Lsn, SegmentId};

/// How sealed segments are read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubOptions {
    /// How fast, so that the disk stays free for others.
    pub bytes_per_second: u64,
    /// How long after opening, and after each pass, the next pass begins.
    pub pause: Duration,
}

impl Default for ScrubOptions {
    fn default() -> Self {
        Self { bytes_per_second: 16 * 1024 * 1024, pause: Duration::from_secs(24 * 60 * 60) }
    }
}

/// What reading sealed segments, and the base image, again has found.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Passes over all of them that came to their end.
    pub passes: u64,
    /// Bytes read, over all passes.
    pub bytes: u64,
    /// What the last look at each damaged file found.
    pub damages: Vec<Damage>,
}

impl Shared {
    /// One pass over the segments that are sealed when it begins. After each piece `pause` hears how many bytes were read, and may
    /// end the pass.
    pub(super) fn scrub(&self, mut pause: impl FnMut(u64) -> ControlFlow<()>) -> Result<Scrubbed, LogError> {
        let (first, last) = {
            let supply = self.supply();
            (supply.manifest.first, supply.manifest.sealed.map(|sealed| sealed.segment))
        };
        let (mut id, mut complete) = (first, self.reading.earliest().previous());
        while last.is_some_and(|last| id <= last) {
            let damage = match self.check_sealed(id, &mut complete, &mut pause) {
                Ok(ControlFlow::Break(())) => return Ok(self.scrubbed().clone()),
                Ok(ControlFlow::Continue(damage)) => damage,
                // What cannot be read is damaged: a bad sector answers so.
                Err(error) => {
                    let (what, durable) = (error_chain(&error), *self.reading.durable.borrow());
                    Some(Damage { what, segment: id, bytes: 0..0, first: complete.next(), last: durable })
                }
            };
            // What was trimmed meanwhile is not missed.
            let kept_from = self.reading.first_segment();
            self.note_scrubbed(|segment| segment == id, damage.filter(|_| id >= kept_from));
            id = id.next().max(kept_from);
        }
        if self.check_base(&mut pause)?.is_break() {
            return Ok(self.scrubbed().clone());
        }
        let mut scrubbed = self.scrubbed();
        scrubbed.passes += 1;
        Ok(scrubbed.clone())
    }

    /// Puts what was found in the place of what was known of these segments.
    fn note_scrubbed(&self, is_replaced: impl Fn(SegmentId) -> bool, damage: Option<Damage>) {
        let mut scrubbed = self.scrubbed();
        scrubbed.damages.retain(|damage| !is_replaced(damage.segment));
        if let Some(damage) = &damage {
            tracing::error!(%damage, "the log has rotted: put its file back from a copy");
        }
        scrubbed.damages.extend(damage);
    }

    /// Reads the base image again, where there is one.
    fn check_base(&self, pause: &mut impl FnMut(u64) -> ControlFlow<()>) -> Result<ControlFlow<()>, LogError> {
        let Some(lsn) = *self.reading.base() else { return Ok(ControlFlow::Continue(())) };
        let (mut flow, mut read) = (ControlFlow::Continue(()), 0);
        let damage = base::check(&self.reading.directory, self.reading.identity, lsn, |bytes| {
            read += bytes;
            flow = pause(bytes);
            flow
        })?;
        self.scrubbed().bytes += read;
        // Another one may have taken its place.
        if flow.is_continue() && *self.reading.base() == Some(lsn) {
            // With it goes what was known of segments that are trimmed by now.
            let kept_from = self.reading.first_segment();
            self.note_scrubbed(|segment| segment < kept_from, damage);
        }
        Ok(flow)
    }

    /// Reads a sealed segment again, and checks every byte of it. `complete` is the last whole commit before it, then the last in it.
    fn check_sealed(
        &self,
        id: SegmentId,
        complete: &mut Lsn,
        pause: &mut impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Option<Damage>>, LogError> {
        let directory = &self.reading.directory;
        let path = directory.segment_path(id);
        let file = directory.open(&path, Access::Read)?;
        let mut reader =
            Reader { file: &*file, offset: 0, buffer: vec![0; PIECE_BYTES], ready: 0..0, hash: Xxh3::new() };
        let mut frames = 0;
        let durable = *self.reading.durable.borrow();
        loop {
            let start = reader.offset;
            let outcome = if start == 0 {
                self.read_segment_header(id, &mut reader)
            } else {
                self.read_frame(&mut reader, complete, &mut frames, |bytes| {
                    self.scrubbed().bytes += bytes;
                    pause(bytes)
                })
            };
            let what = match outcome.map_err(directory.failed("read", &path))? {
                Found::Frame => continue,
                Found::Whole => return Ok(ControlFlow::Continue(None)),
                Found::Stopped => return Ok(ControlFlow::Break(())),
                Found::Bad(what) => what,
            };
            let end = file.byte_len().map_err(directory.failed("look at", &path))?;
            let bytes = start..end.max(start);
            let damage = Damage { what: what.to_owned(), segment: id, bytes, first: complete.next(), last: durable };
            return Ok(ControlFlow::Continue(Some(damage)));
        }
    }

    fn read_segment_header(&self, id: SegmentId, reader: &mut Reader<'_>) -> std::io::Result<Found> {
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        if !reader.fill(&mut block)? {
            return Ok(Found::Bad("a segment file cut short"));
        }
        reader.hash.reset();
        let identity = self.reading.identity;
        let fits = |header: &SegmentHeader| header.identity == identity && header.segment == id;
        Ok(if SegmentHeader::decode(&block).is_ok_and(|header| fits(&header)) {
            Found::Frame
        } else {
            Found::Bad("an unreadable segment header")
        })
    }

    /// Reads the next frame. `complete` is the last whole commit before it, `frames` counts frames.
    fn read_frame(
        &self,
        reader: &mut Reader<'_>,
        complete: &mut Lsn,
        frames: &mut u64,
        mut pause: impl FnMut(u64) -> ControlFlow<()>,
    ) -> std::io::Result<Found> {
        let (offset, hash) = (reader.offset, reader.hash.digest128());
        let mut head = [0; FRAME_HEADER_BYTES];
        if !reader.fill(&mut head)? {
            return Ok(Found::Bad("a segment file cut short"));
        }
        let Ok(checked) = frame::decode_header(self.reading.identity.seed(), offset, &head) else {
            return Ok(Found::Bad("no valid frame"));
        };
        let header = &checked.header;
        let mut check = checked.payload_check();
        if pause(header.frame_bytes() - u64::from(header.payload_bytes)).is_break() {
            return Ok(Found::Stopped);
        }
        let mut left = u64::from(header.payload_bytes);
        let mut padding = header.frame_bytes() - FRAME_HEADER_BYTES as u64 - left;
        let mut payload = Vec::new();
        while left > 0 {
            let Some(piece) = reader.piece(left)? else { return Ok(Found::Bad("a segment file cut short")) };
            check.update(piece);
            if header.kind == FrameKind::Seal {
                payload.extend_from_slice(piece);
            }
            let read = piece.len() as u64;
            left -= read;
            if pause(read).is_break() {
                return Ok(Found::Stopped);
            }
        }
        while padding > 0 {
            let Some(piece) = reader.piece(padding)? else { return Ok(Found::Bad("a segment file cut short")) };
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(Found::Bad("padding that is not zero"));
            }
            padding -= piece.len() as u64;
        }
        if !check.is_right() {
            return Ok(Found::Bad("a frame whose payload is damaged"));
        }
        if header.kind == FrameKind::Seal {
            let fits = Seal::decode(&payload) == Some(Seal { frames: *frames, hash });
            return Ok(if fits { Found::Whole } else { Found::Bad("a footer that does not fit its segment") });
        }
        *frames += 1;
        if header.kind == FrameKind::Commit && header.is_last {
            *complete = header.lsn;
        }
        Ok(Found::Frame)
    }

    pub(super) fn scrubbed(&self) -> std::sync::MutexGuard<'_, Scrubbed> {
        self.scrubbed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands at a place of a sealed segment.
enum Found {
    Frame,
    /// The footer, which fits.
    Whole,
    Bad(&'static str),
    /// The pass is to end.
    Stopped,
}

/// Reads a file from its beginning, hashing what it hands out.
struct Reader<'a> {
    file: &'a dyn DiskFile,
    /// Of what is handed out next.
    offset: u64,
    buffer: Vec<u8>,
    /// What of the buffer was read and not handed out.
    ready: Range<usize>,
    hash: Xxh3,
}

impl Reader<'_> {
    /// The next bytes, at most `limit`; `None` at the end of the file.
    fn piece(&mut self, limit: u64) -> std::io::Result<Option<&[u8]>> {
        if self.ready.is_empty() {
            let read = self.file.read_at(&mut self.buffer, self.offset)?;
            self.ready = 0..read;
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.ready.len());
        let piece = &self.buffer[self.ready.start..self.ready.start + length];
        self.ready.start += length;
        self.offset += length as u64;
        self.hash.update(piece);
        Ok((length > 0).then_some(piece))
    }

    /// Fills `bytes`; `false` when the file ends before.
    fn fill(&mut self, bytes: &mut [u8]) -> std::io::Result<bool> {
        let mut filled = 0;
        while filled < bytes.len() {
            let Some(piece) = self.piece((bytes.len() - filled) as u64)? else { return Ok(false) };
            bytes[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Ok(true)
    }
}

/// Starts the thread that scrubs.
pub(super) fn start(shared: &Arc<Shared>, options: ScrubOptions) -> Option<Background> {
    let shared = Arc::clone(shared);
    let thread = Background::start("highwater-scrub", move |pauses| {
        while pauses.wait(options.pause).is_continue() {
            let mut unpaid = 0;
            let outcome = shared.scrub(|bytes| {
                unpaid += bytes;
                if unpaid < PIECE_BYTES as u64 {
                    return ControlFlow::Continue(());
                }
                let nanos = unpaid.saturating_mul(1_000_000_000) / options.bytes_per_second.max(1);
                unpaid = 0;
                pauses.wait(Duration::from_nanos(nanos))
            });
            if let Err(error) = outcome {
                tracing::error!(error = &error as &dyn std::error::Error, "the log could not be read again");
            }
        }
    });
    thread.inspect_err(|error| tracing::error!(%error, "no thread reads the log again")).ok()
}

const PIECE_BYTES: usize = 256 * 1024;
