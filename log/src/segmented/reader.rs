//! Reading commits back: from memory at the tail, from the segments' files before it.

use std::sync::Arc;

use bytes::Bytes;

use super::directory::SEGMENT_HEADER_BYTES;
use super::index::Place;
use super::reading::Reading;
use crate::chain::{Chain, Link};
use crate::commit::EncodedCommit;
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
    fn next_commit(&mut self, reading: &Reading, wanted: Lsn) -> Result<EncodedCommit, LogError> {
        let mut parts = Vec::new();
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
            self.offset += header.frame_bytes();
            let is_complete = match link {
                Link::Begins { is_complete } => {
                    parts.clear();
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
            parts.push(payload);
            if is_complete {
                return Ok(EncodedCommit::from_parts(header.lsn, parts));
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

const READ_AHEAD_BYTES: usize = 256 * 1024;
