//! Appending: frames into segments, one write and one sync per group, and taking back what failed.

use std::collections::VecDeque;
use std::io;

use xxhash_rust::xxh3::Xxh3;

use super::directory::{Identity, Prepared, SEGMENT_HEADER_BYTES, zero};
use super::manifest::Sealed;
use crate::commit::{EncodedCommit, Group};
use crate::error::LogError;
use crate::frame::{self, FrameHeader, FrameKind, FrameSeed, Seal, frame_bytes};
use crate::position::{Epoch, Lsn, SegmentId};

/// The end of a log that is open for writing. It decides nothing about durability: its owner says what is synced.
pub(super) struct Writer {
    seed: FrameSeed,
    epoch: Epoch,
    active: Prepared,
    end: End,
    buffer: Vec<u8>,
    /// Segments that were filled since the owner last asked.
    sealed: Option<Sealed>,
}

/// Where writing stands: all that an append moves, so that taking it back is putting this back.
#[derive(Clone)]
struct End {
    offset: u64,
    checksum: u32,
    frames: u64,
    hash: Xxh3,
    appended: Lsn,
    sealed: Option<Sealed>,
}

/// What became of an append that failed.
#[derive(Debug)]
pub(super) enum AppendFailure {
    /// It was taken back: no trace of it is left.
    TakenBack(io::Error),
    /// Taking it back failed, too: it may have been written.
    Unknown(io::Error),
}

/// What failed while writing.
#[derive(Debug)]
enum WriteFailure {
    Write(io::Error),
    Sync(io::Error),
}

impl Writer {
    pub(super) fn new(
        identity: Identity,
        epoch: Epoch,
        active: Prepared,
        start: super::scan::Boundary,
        written: &[u8],
        appended: Lsn,
    ) -> Self {
        assert_eq!(
            written.len() as u64,
            start.offset - SEGMENT_HEADER_BYTES,
            "the bytes before the start, for their hash"
        );
        let mut hash = Xxh3::new();
        hash.update(written);
        let end =
            End { offset: start.offset, checksum: start.checksum, frames: start.frames, hash, appended, sealed: None };
        Self { seed: identity.seed(), epoch, active, end, buffer: Vec::new(), sealed: None }
    }

    pub(super) const fn appended(&self) -> Lsn {
        self.end.appended
    }

    pub(super) const fn active(&self) -> SegmentId {
        self.active.id
    }

    pub(super) const fn offset(&self) -> u64 {
        self.end.offset
    }

    /// The last segment that was sealed by an append that stands.
    pub(super) const fn sealed(&self) -> Option<Sealed> {
        self.sealed
    }

    /// Whether `group` fits into the active segment.
    pub(super) fn has_room_for(&self, group: &Group) -> bool {
        let parts = group.commits.iter().flat_map(EncodedCommit::part_lengths);
        self.end.offset + parts.map(frame_bytes).sum::<u64>() + RESERVE_BYTES <= self.active.bytes
    }

    /// The lengths of the segments that an append of `group` takes beyond the active one. `ready` are the lengths of those that are
    /// there; one that is long enough is taken as it is, others have at least the length that `segment_bytes` says.
    pub(super) fn plan(&self, group: &Group, ready: &[u64], segment_bytes: impl Fn(SegmentId) -> u64) -> Vec<u64> {
        let mut planned: Vec<u64> = Vec::new();
        let (mut offset, mut length) = (self.end.offset, self.active.bytes);
        let mut id = self.active.id;
        for part in group.commits.iter().flat_map(EncodedCommit::part_lengths) {
            let bytes = frame_bytes(part);
            if offset + bytes + RESERVE_BYTES > length {
                id = id.next();
                let needed = SEGMENT_HEADER_BYTES + bytes + RESERVE_BYTES;
                // What is behind one that must be prepared anew is prepared anew, too.
                let is_kept = planned.iter().zip(ready).all(|(planned, ready)| planned == ready);
                let there = ready.get(planned.len()).copied().filter(|length| is_kept && *length >= needed);
                length = there.unwrap_or_else(|| segment_bytes(id).max(needed));
                planned.push(length);
                offset = SEGMENT_HEADER_BYTES;
            }
            offset += bytes;
        }
        planned
    }

    /// Writes `group` behind what was appended. Filled segments are sealed and synced on the way, and the next ones taken from
    /// `ready`, which holds at least those of [`Writer::plan`].
    ///
    /// `synced` is the last durable commit, which every frame tells.
    pub(super) fn append(
        &mut self,
        group: &Group,
        synced: Lsn,
        ready: &mut VecDeque<Prepared>,
    ) -> Result<(), AppendFailure> {
        self.reversibly(ready, |writer, ready, left| {
            for commit in &group.commits {
                let last = commit.part_count() - 1;
                for index in 0..=last {
                    let payload = commit.part(index).map_err(unreadable)?;
                    let part = u32::try_from(index).expect("parts of a commit are counted in 32 bits");
                    writer.make_room(frame_bytes(payload.len()), part, synced, ready, left)?;
                    let header = FrameHeader {
                        kind: FrameKind::Commit,
                        is_first: index == 0,
                        is_last: index == last,
                        part,
                        ..writer.header(commit.lsn(), synced)
                    };
                    writer.put(header, &payload);
                    if writer.buffer.len() >= BUFFER_BYTES_KEPT {
                        writer.flush()?;
                    }
                }
                writer.end.appended = commit.lsn();
            }
            writer.flush()
        })
    }

    /// Writes a mark: `synced` and nothing else. It is not synced itself. There is room for one behind every append.
    pub(super) fn mark(&mut self, synced: Lsn) -> Result<(), AppendFailure> {
        assert!(self.end.offset + RESERVE_BYTES <= self.active.bytes, "room for a mark and a footer is kept");
        self.reversibly(&mut VecDeque::new(), |writer, _, _| {
            writer.put(FrameHeader { kind: FrameKind::Mark, ..writer.header(writer.end.appended, synced) }, &[]);
            writer.flush()
        })
    }

    /// Makes the active segment durable; those before it are.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.active.file.sync_data()
    }

    /// Does `write`, and takes it back when it fails: what was written is overwritten with zeros and synced, in every segment that
    /// it reached (`left` holds those that it filled).
    fn reversibly(
        &mut self,
        ready: &mut VecDeque<Prepared>,
        write: impl FnOnce(&mut Self, &mut VecDeque<Prepared>, &mut Vec<Prepared>) -> Result<(), WriteFailure>,
    ) -> Result<(), AppendFailure> {
        let before = self.end.clone();
        let mut left = Vec::new();
        self.buffer.clear();
        let failure = match write(self, ready, &mut left) {
            Ok(()) => {
                self.sealed = self.end.sealed.or(self.sealed);
                return Ok(());
            }
            // The pages of earlier appends may be gone with it, and no later sync would tell.
            Err(WriteFailure::Sync(error)) => return Err(AppendFailure::Unknown(error)),
            Err(WriteFailure::Write(error)) => error,
        };
        // The last of the segments is the active one; the write may have failed anywhere within its buffer.
        let reached = self.end.offset;
        let mut segments = left;
        segments.push(self.active.clone());
        let count = segments.len();
        // The last one first: a segment that holds frames must not come behind one whose end was taken away.
        for (index, segment) in segments.iter().enumerate().rev() {
            let start = if index == 0 { before.offset } else { SEGMENT_HEADER_BYTES };
            let end = if index + 1 == count { reached } else { segment.bytes };
            zero(&*segment.file, start, end).and_then(|()| segment.file.sync_data()).map_err(AppendFailure::Unknown)?;
        }
        for segment in segments.drain(1..).rev() {
            ready.push_front(segment);
        }
        self.active = segments.remove(0);
        self.end = before;
        self.buffer.clear();
        Err(AppendFailure::TakenBack(failure))
    }

    /// Sees to it that a frame of `bytes` bytes and a footer fit: if they don't, seals the active segment and goes to the next.
    /// The frame is to be `part` of its commit.
    fn make_room(
        &mut self,
        bytes: u64,
        part: u32,
        synced: Lsn,
        ready: &mut VecDeque<Prepared>,
        left: &mut Vec<Prepared>,
    ) -> Result<(), WriteFailure> {
        if self.end.offset + bytes + RESERVE_BYTES <= self.active.bytes {
            return Ok(());
        }
        self.flush()?;
        let seal = Seal { frames: self.end.frames, hash: self.end.hash.digest128() };
        let header = FrameHeader {
            kind: FrameKind::Seal,
            payload_bytes: Seal::BYTES as u32,
            ..self.header(self.end.appended, synced)
        };
        self.put(header, &seal.encode());
        self.flush()?;
        self.active.file.sync_data().map_err(WriteFailure::Sync)?;
        let (segment, lsn, checksum) = (self.active.id, self.end.appended, self.end.checksum);
        self.end.sealed = Some(Sealed { segment, lsn, checksum, next_part: (part > 0).then_some(part) });
        let next = ready.pop_front().expect("an append is planned before it begins");
        assert_eq!(next.id, self.active.id.next(), "segments are used in order");
        assert!(
            next.bytes >= SEGMENT_HEADER_BYTES + bytes + RESERVE_BYTES,
            "segment {} was planned too short",
            next.id
        );
        left.push(std::mem::replace(&mut self.active, next));
        self.end.offset = SEGMENT_HEADER_BYTES;
        self.end.frames = 0;
        self.end.hash.reset();
        Ok(())
    }

    fn header(&self, lsn: Lsn, synced: Lsn) -> FrameHeader {
        FrameHeader {
            kind: FrameKind::Mark,
            is_first: false,
            is_last: false,
            payload_bytes: 0,
            segment: self.active.id,
            epoch: self.epoch,
            lsn,
            synced,
            previous: self.end.checksum,
            part: 0,
        }
    }

    /// Puts a frame into the buffer.
    fn put(&mut self, header: FrameHeader, payload: &[u8]) {
        let header = FrameHeader { payload_bytes: payload.len() as u32, ..header };
        self.end.checksum = frame::encode(self.seed, self.end.offset, &header, payload, &mut self.buffer);
        self.end.offset += header.frame_bytes();
        self.end.frames += 1;
    }

    /// Writes the buffer, which ends at the end.
    fn flush(&mut self) -> Result<(), WriteFailure> {
        let start = self.end.offset - self.buffer.len() as u64;
        self.end.hash.update(&self.buffer);
        self.active.file.write_at(&self.buffer, start).map_err(WriteFailure::Write)?;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer at {} of segment {}", self.end.offset, self.active.id)
    }
}

/// A part that was to be written could not be read.
fn unreadable(error: LogError) -> WriteFailure {
    WriteFailure::Write(match error {
        LogError::Io { source, .. } => source,
        other => io::Error::other(other),
    })
}

/// Room that is always left for a mark and the footer.
const RESERVE_BYTES: u64 = frame_bytes(0) + frame_bytes(Seal::BYTES);
/// So much is gathered before it is written; a larger buffer is given back after use.
const BUFFER_BYTES_KEPT: usize = 4 * 1024 * 1024;
