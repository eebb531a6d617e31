//! Looking through a segment's bytes for frames.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_128;

use super::directory::{Identity, SEGMENT_HEADER_BYTES};
use crate::chain::{Chain, Link};
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameError, FrameHeader, FrameKind, Seal};
use crate::position::{Lsn, SegmentId};

/// How far the frames of a segment go.
#[derive(Clone, Debug)]
pub(super) struct Scan {
    /// The chain after the last good frame.
    pub(super) chain: Chain,
    /// Where the last good frame ends.
    pub(super) end: u64,
    /// How the frames ended.
    pub(super) stop: Stop,
    /// The last place where no commit was unfinished, or the segment's beginning.
    pub(super) boundary: Boundary,
    /// Where each commit begins that begins here.
    pub(super) commits: Vec<(Lsn, u64)>,
}

/// How the frames of a segment ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// With the footer of a sealed segment, which fits.
    Sealed,
    /// Where nothing was written yet, or where the segment is full to the last byte.
    Blank,
    /// With something that is no frame, or no frame for this place.
    Bad(&'static str),
    /// With a frame that only a newer program knows.
    Newer { what: &'static str, found: u64 },
}

/// A place between frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boundary {
    pub(super) offset: u64,
    /// The checksum of the frame before it.
    pub(super) checksum: u32,
    /// How many frames of the segment lie before it.
    pub(super) frames: u64,
}

/// Follows the frames of segment `id` from its beginning, handing each good one to `visit` with its offset and payload.
pub(super) fn scan(
    identity: Identity,
    id: SegmentId,
    contents: &[u8],
    chain: Chain,
    mut visit: impl FnMut(&FrameHeader, Link, u64, &[u8]),
) -> Scan {
    let start = Boundary { offset: SEGMENT_HEADER_BYTES, checksum: chain.checksum(), frames: 0 };
    let mut scan = Scan { chain, end: start.offset, stop: Stop::Blank, boundary: start, commits: Vec::new() };
    let mut frames = 0;
    scan.stop = loop {
        let offset = scan.end;
        let rest = contents.get(offset as usize..).unwrap_or_default();
        let (header, checksum, payload) = match frame_at(identity, id, offset, rest) {
            Ok(found) => found,
            Err(stop) => break stop,
        };
        if header.kind == FrameKind::Seal
            && !seal_fits(payload, frames, &contents[SEGMENT_HEADER_BYTES as usize..offset as usize])
        {
            break Stop::Bad("a footer that does not fit its segment");
        }
        let link = match scan.chain.follow(&header, checksum) {
            Ok(link) => link,
            Err(rule) => break Stop::Bad(rule),
        };
        frames += 1;
        scan.end = offset + header.frame_bytes();
        if let Link::Begins { .. } = link {
            scan.commits.push((header.lsn, offset));
        }
        if !scan.chain.is_open() {
            scan.boundary = Boundary { offset: scan.end, checksum, frames };
        }
        visit(&header, link, offset, payload);
        if link == Link::Seal {
            break Stop::Sealed;
        }
    };
    scan
}

fn frame_at(identity: Identity, id: SegmentId, offset: u64, rest: &[u8]) -> Result<(FrameHeader, u32, &[u8]), Stop> {
    if rest.is_empty() {
        return Err(Stop::Blank);
    }
    let checked = frame::decode_header(identity.seed(), offset, rest).map_err(|error| match error {
        FrameError::Blank => Stop::Blank,
        FrameError::Newer { what, found } => Stop::Newer { what, found },
        FrameError::Cut if rest.iter().all(|byte| *byte == 0) => Stop::Blank,
        FrameError::Header | FrameError::Payload | FrameError::Cut => Stop::Bad("no valid frame"),
    })?;
    if checked.header.segment != id {
        return Err(Stop::Bad("a frame of another segment"));
    }
    let payload = rest[FRAME_HEADER_BYTES..]
        .get(..checked.header.payload_bytes as usize)
        .ok_or(Stop::Bad("a frame beyond the segment's end"))?;
    checked.check_payload(payload).map_err(|_| Stop::Bad("a frame whose payload is damaged"))?;
    Ok((checked.header, checked.checksum, payload))
}

fn seal_fits(payload: &[u8], frames: u64, bytes: &[u8]) -> bool {
    Seal::decode(payload) == Some(Seal { frames, hash: xxh3_128(bytes) })
}

/// The headers of this segment that stand anywhere at or after `from`, whether or not they follow from anything; `Err` for a header
/// that only a newer program knows.
///
/// A header is trusted by its own checksum: what it says was so when it was written, even if its payload was lost.
pub(super) fn headers_from(
    identity: Identity,
    id: SegmentId,
    contents: &[u8],
    from: u64,
) -> impl Iterator<Item = Result<(u64, FrameHeader), Stop>> {
    headers_in(identity, id, contents, 0, from..contents.len() as u64)
}

/// The same of a piece that begins at `base` in its segment, for those that stand within `range` of the segment.
pub(super) fn headers_in(
    identity: Identity,
    id: SegmentId,
    piece: &[u8],
    base: u64,
    range: Range<u64>,
) -> impl Iterator<Item = Result<(u64, FrameHeader), Stop>> {
    let first = range.start.max(base).next_multiple_of(FRAME_ALIGNMENT as u64);
    let end = range.end.min(base + piece.len() as u64);
    let seed = identity.seed();
    (first..end).step_by(FRAME_ALIGNMENT).filter_map(move |offset| {
        let bytes = &piece[(offset - base) as usize..];
        if !bytes.starts_with(&FRAME_MAGIC) {
            return None;
        }
        match frame::decode_header(seed, offset, bytes) {
            Ok(checked) => (checked.header.segment == id).then_some(Ok((offset, checked.header))),
            Err(FrameError::Newer { what, found }) => Some(Err(Stop::Newer { what, found })),
            Err(_) => None,
        }
    })
}
