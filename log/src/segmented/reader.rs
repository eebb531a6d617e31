//! Reading commits back: from memory at the tail, from the segments' files before it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::directory::SEGMENT_HEADER_BYTES;
use super::index::Place;
use super::reading::Reading;
use crate::chain::{Chain, Link};
use crate::commit::{EncodedCommit, PartStore};
use crate::commit_log::CommitSource;
use crate::env::{Access, DiskFile};
use crate::error::{Damage, LogError};
use crate::frame::{self, CheckedHeader, FRAME_HEADER_BYTES, FrameError};
use crate::position::{Lsn, SegmentId};

/// Fetches commits for one reader.
pub(super) struct SegmentSource {
    reading: Arc<Reading>,
    cursor: Option<Cursor>,
}

impl SegmentSource {
    pub(super) fn new(reading: Arc<Reading>) -> Self {
        Self { reading, cursor: None }
    }
}

impl CommitSource for SegmentSource {
    fn check(&self) -> Result<(), LogError> {
        self.reading.check_poison()
    }

    fn fetch(&mut self, lsn: Lsn) -> Result<Arc<EncodedCommit>, LogError> {
        loop {
            let earliest = self.reading.earliest();
            if lsn < earliest {
                return Err(LogError::BelowRetained { after: lsn.previous(), earliest });
            }
            if let Some(commit) = self.reading.tail().find(lsn) {
                self.cursor = None;
                return Ok(commit);
            }
            let outcome = self.fetch_from_files(lsn);
            if outcome.is_ok() || self.reading.earliest() == earliest {
                return outcome;
            }
            // The log was trimmed meanwhile: what went wrong may be that a file has gone, or holds something else by now.
            self.cursor = None;
        }
    }
}

impl SegmentSource {
    fn fetch_from_files(&mut self, lsn: Lsn) -> Result<Arc<EncodedCommit>, LogError> {
        let cursor = match &mut self.cursor {
            // The file of a segment that was trimmed may hold another one by now.
            Some(cursor) if cursor.chain.complete().next() == lsn && cursor.segment >= self.reading.first_segment() => {
                cursor
            }
            _ => self.cursor.insert(self.reading.seek(lsn)?),
        };
        loop {
            let commit = cursor.next_commit(&self.reading, lsn)?;
            if commit.lsn() == lsn {
                return Ok(Arc::new(commit));
            }
        }
    }
}

/// A place in the segments' files, moving forward.
struct Cursor {
    segment: SegmentId,
    file: Arc<dyn DiskFile>,
    offset: u64,
    chain: Chain,
    /// Bytes of the file read ahead, and where they begin.
    ahead: Bytes,
    ahead_at: u64,
}

impl Cursor {
    fn open(reading: &Reading, segment: SegmentId, offset: u64, chain: Chain) -> Result<Self, LogError> {
        let file = reading.directory.open(&reading.directory.segment_path(segment), Access::Read)?;
        Ok(Self { segment, file, offset, chain, ahead: Bytes::new(), ahead_at: 0 })
    }

    /// The next commit whose frames are all there. `wanted` is durable: everything up to it must be readable.
    fn next_commit(&mut self, reading: &Arc<Reading>, wanted: Lsn) -> Result<EncodedCommit, LogError> {
        let mut parts = PartsFound::default();
        loop {
            let damaged = |cursor: &Self, what: &str| {
                let bytes = cursor.offset..cursor.offset + FRAME_HEADER_BYTES as u64;
                let first = cursor.chain.next_lsn();
                LogError::from(Damage { what: what.to_owned(), segment: cursor.segment, bytes, first, last: wanted })
            };
            let checked = match self.header(reading)? {
                Ok(checked) => checked,
                Err(FrameError::Newer { what, found }) => {
                    let path = reading.directory.segment_path(self.segment);
                    let found = format!("{what} {found} of a frame");
                    return Err(LogError::Newer { path, found, known: u32::from(frame::FRAME_VERSION) });
                }
                Err(error) => return Err(damaged(self, &error.to_string())),
            };
            let header = checked.header;
            if header.segment != self.segment {
                return Err(damaged(self, "a frame of another segment"));
            }
            let payload =
                self.bytes(reading, self.offset + FRAME_HEADER_BYTES as u64, header.payload_bytes as usize)?;
            if payload.len() < header.payload_bytes as usize {
                return Err(damaged(self, "a frame beyond the segment's end"));
            }
            checked.check_payload(&payload).map_err(|error| damaged(self, &error.to_string()))?;
            let complete = self.chain.complete();
            let link = self.chain.follow(&header, checked.checksum).map_err(|rule| damaged(self, rule))?;
            if let Link::Begins { .. } = link {
                reading.index().learn(self.segment, Place { complete, offset: self.offset });
            }
            let place = PartPlace { segment: self.segment, offset: self.offset, checksum: checked.checksum };
            self.offset += header.frame_bytes();
            let is_complete = match link {
                Link::Begins { is_complete } => {
                    parts = PartsFound::default();
                    is_complete
                }
                Link::Continues { is_complete } => is_complete,
                Link::Foreign | Link::Mark => continue,
                Link::Seal => {
                    let chain = self.chain.clone();
                    *self = Self::open(reading, self.segment.next(), SEGMENT_HEADER_BYTES, chain)?;
                    continue;
                }
            };
            parts.push(place, payload);
            if is_complete {
                return Ok(parts.into_commit(reading, header.lsn));
            }
        }
    }

    fn header(&mut self, reading: &Reading) -> Result<Result<CheckedHeader, FrameError>, LogError> {
        let bytes = self.bytes(reading, self.offset, FRAME_HEADER_BYTES)?;
        Ok(frame::decode_header(reading.identity.seed(), self.offset, &bytes))
    }

    /// `count` bytes at `offset`, fewer at the file's end; they share the memory of what was read ahead.
    fn bytes(&mut self, reading: &Reading, offset: u64, count: usize) -> Result<Bytes, LogError> {
        let is_ahead = |cursor: &Self| {
            let start = offset.checked_sub(cursor.ahead_at).and_then(|start| usize::try_from(start).ok())?;
            (start + count <= cursor.ahead.len()).then_some(start)
        };
        if let Some(start) = is_ahead(self) {
            return Ok(self.ahead.slice(start..start + count));
        }
        // Nothing beyond the durable end is kept: it may be taken back and written anew.
        let stable = reading.durable_bytes(self.segment).saturating_sub(offset);
        let wanted = count.max(READ_AHEAD_BYTES).min(usize::try_from(stable).unwrap_or(usize::MAX));
        let mut ahead = vec![0; wanted];
        let path = reading.directory.segment_path(self.segment);
        let read = self.file.read_at(&mut ahead, offset).map_err(reading.directory.failed("read", &path))?;
        ahead.truncate(read);
        (self.ahead, self.ahead_at) = (Bytes::from(ahead), offset);
        Ok(self.ahead.slice(..count.min(read)))
    }
}

impl Reading {
    /// A cursor from which reading on meets commit `lsn`, which is durable.
    fn seek(&self, lsn: Lsn) -> Result<Cursor, LogError> {
        let (first, active) = (self.first_segment().value(), self.active_segment().value());
        // The last segment that begins before the commit: their beginnings rise.
        let (mut low, mut high) = (first, active + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.beginning(SegmentId::new(middle)) {
                Ok(Some(place)) if place.complete < lsn => low = middle,
                Ok(_) => high = middle,
                // A damaged segment must not stand between a reader and the others: the rest is looked through one by one.
                Err(LogError::Damaged(_)) => {
                    let begins_before = |id: &u64| matches!(self.beginning(SegmentId::new(*id)), Ok(Some(place)) if place.complete < lsn);
                    low = (low + 1..high).rev().find(begins_before).unwrap_or(low);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let segment = SegmentId::new(low);
        let nearest = self.index().nearest(segment, lsn);
        let place = match nearest {
            Some(place) => place,
            None => self
                .beginning(segment)?
                .filter(|place| place.complete < lsn)
                .ok_or(LogError::BelowRetained { after: lsn.previous(), earliest: self.earliest() })?,
        };
        Cursor::open(self, segment, place.offset, Chain::joining(place.complete))
    }

    /// Where a segment's frames begin; `None` when it has none.
    fn beginning(&self, segment: SegmentId) -> Result<Option<Place>, LogError> {
        if let Some(place) = self.index().first_of(segment).filter(|place| place.offset == SEGMENT_HEADER_BYTES) {
            return Ok(Some(place));
        }
        if self.durable_bytes(segment) <= SEGMENT_HEADER_BYTES {
            return Ok(None);
        }
        let mut cursor = Cursor::open(self, segment, SEGMENT_HEADER_BYTES, Chain::joining(Lsn::ORIGIN))?;
        match cursor.header(self)? {
            // What a file held that was another segment before.
            Ok(checked) if checked.header.segment != segment => Ok(None),
            Ok(checked) => {
                let complete = Chain::complete_before(&checked.header);
                let place = Place { complete, offset: SEGMENT_HEADER_BYTES };
                self.index().learn(segment, place);
                Ok(Some(place))
            }
            Err(FrameError::Blank) => Ok(None),
            Err(error) => {
                let bytes = SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + FRAME_HEADER_BYTES as u64;
                let lsn = self.earliest();
                Err(Damage { what: error.to_string(), segment, bytes, first: lsn, last: lsn }.into())
            }
        }
    }
}

/// Parts of a commit that were read: beyond a bound, only where they are is kept.
#[derive(Default)]
struct PartsFound {
    held: Vec<Bytes>,
    held_bytes: usize,
    places: Vec<PartPlace>,
    lengths: Vec<u32>,
}

/// Where a part of a commit lies.
#[derive(Clone, Copy, Debug)]
struct PartPlace {
    segment: SegmentId,
    offset: u64,
    /// Of its frame, which follows from all before it.
    checksum: u32,
}

impl PartsFound {
    fn push(&mut self, place: PartPlace, payload: Bytes) {
        self.places.push(place);
        self.lengths.push(u32::try_from(payload.len()).expect("the length of a frame has 32 bits"));
        self.held_bytes += payload.len();
        if self.held_bytes <= HELD_BYTES_MAX || self.places.len() == 1 {
            self.held.push(payload);
        } else {
            self.held.clear();
        }
    }

    fn into_commit(self, reading: &Arc<Reading>, lsn: Lsn) -> EncodedCommit {
        if self.held.len() == self.places.len() {
            return EncodedCommit::from_parts(lsn, self.held);
        }
        let (reading, places, lengths) = (Arc::clone(reading), self.places, self.lengths);
        EncodedCommit::elsewhere(lsn, Arc::new(SegmentParts { reading, lsn, places, lengths, open: Mutex::default() }))
    }
}

/// The parts of a commit in the segments' files.
struct SegmentParts {
    reading: Arc<Reading>,
    lsn: Lsn,
    places: Vec<PartPlace>,
    lengths: Vec<u32>,
    /// The file that was read last.
    open: Mutex<Option<(SegmentId, Arc<dyn DiskFile>)>>,
}

impl PartStore for SegmentParts {
    fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    fn part(&self, index: usize) -> Result<Bytes, LogError> {
        self.reading.check_poison()?;
        let outcome = self.read(index);
        let earliest = self.reading.earliest();
        // Trimmed away since: its file may have gone, or hold something else by now.
        if self.lsn < earliest {
            return Err(LogError::BelowRetained { after: self.lsn.previous(), earliest });
        }
        outcome
    }
}

impl SegmentParts {
    fn read(&self, index: usize) -> Result<Bytes, LogError> {
        let PartPlace { segment, offset, checksum } = self.places[index];
        let directory = &self.reading.directory;
        let path = directory.segment_path(segment);
        let known = self.open().clone().filter(|(known, _)| *known == segment);
        let file = match known {
            Some((_, file)) => file,
            None => {
                let file = directory.open(&path, Access::Read)?;
                *self.open() = Some((segment, Arc::clone(&file)));
                file
            }
        };
        let length = self.lengths[index] as usize;
        let mut frame = vec![0; FRAME_HEADER_BYTES + length];
        let read = file.read_at(&mut frame, offset).map_err(directory.failed("read", &path))?;
        let frame = Bytes::from(frame);
        let payload = frame.slice(FRAME_HEADER_BYTES..);
        let checked = frame::decode_header(self.reading.identity.seed(), offset, &frame[..FRAME_HEADER_BYTES]);
        let is_it = read == frame.len()
            && checked.is_ok_and(|checked| checked.checksum == checksum && checked.check_payload(&payload).is_ok());
        if !is_it {
            let what = "a part is not what it was when the commit was found".to_owned();
            let bytes = offset..offset + frame.len() as u64;
            return Err(Damage { what, segment, bytes, first: self.lsn, last: self.lsn }.into());
        }
        Ok(payload)
    }

    fn open(&self) -> MutexGuard<'_, Option<(SegmentId, Arc<dyn DiskFile>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts of a larger commit are read when they are asked for.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
const READ_AHEAD_BYTES: usize = 256 * 1024;
