//! Frames: what a segment is a sequence of.
//!
//! ```text
//!  0 magic u32 "HWFR"     4 version u8   5 kind u8   6 flags u8   7 codec u8
//!  8 stored length u32   12 raw length u32 (before compression)
//! 16 segment id u64      24 epoch u64
//! 32 lsn u64             40 synced lsn u64
//! 48 previous frame's checksum u32       52 part u32 (the frame's number within its commit)
//! 56 header checksum u32 60 payload checksum u32
//! 64 payload, zeros up to a multiple of 16
//! ```
//!
//! All numbers are little-endian; checksums are CRC-32C. The header checksum covers bytes 0 to 56 and is seeded with what the
//! frame does not carry: the log's salt and the frame's own offset, so that a frame copied to another place (misdirected by a disk,
//! or a user's row that happens to hold a frame's bytes) is none. The payload checksum is seeded by the header checksum, and it
//! is the frame's checksum: the next frame carries it, which chains the log and shows a splice.
//!
//! The `lsn` of a commit's frame is that commit's; other kinds have no LSN of their own and carry that of the last commit before
//! them. `synced lsn` is the highest LSN known durable when the frame was written.

use crate::position::{Epoch, Lsn, SegmentId};

#[cfg(test)]
mod tests;

/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Frames begin at multiples of this.
pub const FRAME_ALIGNMENT: usize = 16;
/// The longest payload that a frame may carry. A longer length is damage, found before anything is allocated for it.
pub const FRAME_PAYLOAD_BYTES_MAX: usize = crate::commit::PART_BYTES_MAX;

/// The newest frame version that this program reads, and the one it writes.
pub const FRAME_VERSION: u8 = 1;

/// The first bytes of every frame.
pub const FRAME_MAGIC: [u8; 4] = *b"HWFR";

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A part of a commit.
    Commit,
    /// Nothing but a newer `synced lsn`.
    Mark,
    /// The footer of a sealed segment, or of a base image ([`Seal`]).
    Seal,
    /// A part of a base image ([`crate::base`]); never in a segment.
    Base,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            Self::Commit => 1,
            Self::Mark => 2,
            Self::Seal => 3,
            Self::Base => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Commit),
            2 => Some(Self::Mark),
            3 => Some(Self::Seal),
            4 => Some(Self::Base),
            _ => None,
        }
    }
}

/// A frame's header, without what is derived from the payload and the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it carries.
    pub kind: FrameKind,
    /// Whether it begins a commit; a first frame voids an unfinished commit before it.
    pub is_first: bool,
    /// Whether it ends a commit.
    pub is_last: bool,
    /// Bytes of the payload as stored. No compression is written yet, so they are the raw ones.
    pub payload_bytes: u32,
    /// The segment it was written for; a recycled file holds stale frames of another id.
    pub segment: SegmentId,
    /// The opening of the log that wrote it.
    pub epoch: Epoch,
    /// The commit's LSN; for other kinds that of the last commit before it.
    pub lsn: Lsn,
    /// The highest LSN durable when the frame was written.
    pub synced: Lsn,
    /// The checksum of the frame before it, across segments; 0 for the first of a log.
    pub previous: u32,
    /// Its number within its commit or its base image, from 0; 0 for other kinds.
    pub part: u32,
}

impl FrameHeader {
    /// Bytes that the frame takes in its segment, header and padding included.
    #[must_use]
    pub const fn frame_bytes(&self) -> u64 {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// Bytes that a frame with a payload of this length takes in its segment.
#[must_use]
pub const fn frame_bytes(payload_bytes: usize) -> u64 {
    (FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(FRAME_ALIGNMENT) as u64
}

/// What a frame's header checksum is seeded with: the log's salt and the place.
#[derive(Clone, Copy, Debug)]
pub struct FrameSeed {
    log: u32,
}

impl FrameSeed {
    /// The seed of a log's frames. The salt is drawn when the log begins and told to nobody: without it, who writes rows cannot
    /// write bytes into them that pass for a frame.
    #[must_use]
    pub fn new(salt: [u8; 16]) -> Self {
        Self { log: crc32c::crc32c(&salt) }
    }

    pub(crate) fn at(self, offset: u64) -> u32 {
        crc32c::crc32c_append(self.log, &offset.to_le_bytes())
    }
}

/// Appends the frame of `header` and `payload` to `out`, to stand at `offset` of its segment, and returns its checksum.
///
/// # Panics
/// When the header's length is not the payload's, or the offset not aligned.
pub fn encode(seed: FrameSeed, offset: u64, header: &FrameHeader, payload: &[u8], out: &mut Vec<u8>) -> u32 {
    assert_eq!(header.payload_bytes as usize, payload.len(), "the header tells the payload's length");
    assert!(payload.len() <= FRAME_PAYLOAD_BYTES_MAX, "a payload of {} bytes", payload.len());
    assert!(offset.is_multiple_of(FRAME_ALIGNMENT as u64), "a frame at {offset}");
    let start = out.len();
    out.extend_from_slice(&FRAME_MAGIC);
    let flags = (u8::from(header.is_first) * FLAG_FIRST) | (u8::from(header.is_last) * FLAG_LAST);
    out.extend_from_slice(&[FRAME_VERSION, header.kind.code(), flags, CODEC_NONE]);
    out.extend_from_slice(&header.payload_bytes.to_le_bytes());
    out.extend_from_slice(&header.payload_bytes.to_le_bytes());
    out.extend_from_slice(&header.segment.value().to_le_bytes());
    out.extend_from_slice(&header.epoch.value().to_le_bytes());
    out.extend_from_slice(&header.lsn.value().to_le_bytes());
    out.extend_from_slice(&header.synced.value().to_le_bytes());
    out.extend_from_slice(&header.previous.to_le_bytes());
    out.extend_from_slice(&header.part.to_le_bytes());
    assert_eq!(out.len() - start, HEADER_CHECKSUM_AT, "the fields before the checksum");
    let header_checksum = crc32c::crc32c_append(seed.at(offset), &out[start..]);
    let checksum = crc32c::crc32c_append(header_checksum, payload);
    out.extend_from_slice(&header_checksum.to_le_bytes());
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(payload);
    out.resize(start + header.frame_bytes() as usize, 0);
    checksum
}

/// Why there is no frame at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The space was never written: zeros.
    #[error("no frame, only zeros")]
    Blank,
    /// The bytes are no header of this log at this place: damage, a torn write, or another log's.
    #[error("no valid frame header")]
    Header,
    /// The header is whole and the payload's checksum does not fit.
    #[error("the payload's checksum does not fit")]
    Payload,
    /// The header is whole and says what this program does not know.
    #[error(
        "a frame of a newer version of highwater ({what} {found}); this program knows frame version {FRAME_VERSION}"
    )]
    Newer {
        /// What is unknown.
        what: &'static str,
        /// The value found.
        found: u64,
    },
    /// The segment ends within the frame.
    #[error("the segment ends within the frame")]
    Cut,
}

/// Decodes the header at the beginning of `bytes`, which stands at `offset` of its segment. The payload is not looked at.
///
/// # Errors
/// [`FrameError`], never `Payload` nor, for the payload's part, `Cut`.
pub fn decode_header(seed: FrameSeed, offset: u64, bytes: &[u8]) -> Result<CheckedHeader, FrameError> {
    let bytes = bytes.first_chunk::<FRAME_HEADER_BYTES>().ok_or(FrameError::Cut)?;
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
    if bytes[..4] != FRAME_MAGIC {
        return Err(if bytes.iter().all(|byte| *byte == 0) { FrameError::Blank } else { FrameError::Header });
    }
    let header_checksum = crc32c::crc32c_append(seed.at(offset), &bytes[..HEADER_CHECKSUM_AT]);
    if header_checksum != u32_at(HEADER_CHECKSUM_AT) {
        return Err(FrameError::Header);
    }
    // From here on the header is what somebody wrote: what is unknown in it is newer, not damaged.
    let newer = |what, found: u8| FrameError::Newer { what, found: found.into() };
    let [version, kind, flags, codec] = [bytes[4], bytes[5], bytes[6], bytes[7]];
    if version != FRAME_VERSION {
        return Err(newer("version", version));
    }
    let kind = FrameKind::from_code(kind).ok_or(newer("kind", kind))?;
    if flags & !(FLAG_FIRST | FLAG_LAST) != 0 {
        return Err(newer("flags", flags));
    }
    if codec != CODEC_NONE {
        return Err(newer("codec", codec));
    }
    let payload_bytes = u32_at(8);
    if payload_bytes as usize > FRAME_PAYLOAD_BYTES_MAX || u32_at(12) != payload_bytes {
        return Err(FrameError::Newer { what: "length", found: payload_bytes.into() });
    }
    let header = FrameHeader {
        kind,
        is_first: flags & FLAG_FIRST != 0,
        is_last: flags & FLAG_LAST != 0,
        payload_bytes,
        segment: SegmentId::new(u64_at(16)),
        epoch: Epoch::new(u64_at(24)),
        lsn: Lsn::new(u64_at(32)),
        synced: Lsn::new(u64_at(40)),
        previous: u32_at(48),
        part: u32_at(52),
    };
    Ok(CheckedHeader { header, header_checksum, checksum: u32_at(60) })
}

/// A header whose checksum was found right.
#[derive(Clone, Copy, Debug)]
pub struct CheckedHeader {
    /// The header.
    pub header: FrameHeader,
    header_checksum: u32,
    /// The frame's checksum as its header tells it.
    pub checksum: u32,
}

impl CheckedHeader {
    /// Checks the payload against the header.
    ///
    /// # Errors
    /// [`FrameError::Payload`].
    ///
    /// For a payload that is read in pieces, see [`CheckedHeader::payload_check`].
    pub fn check_payload(&self, payload: &[u8]) -> Result<(), FrameError> {
        if crc32c::crc32c_append(self.header_checksum, payload) == self.checksum {
            Ok(())
        } else {
            Err(FrameError::Payload)
        }
    }

    /// Begins the check of a payload that comes in pieces.
    #[must_use]
    pub const fn payload_check(&self) -> PayloadCheck {
        PayloadCheck { so_far: self.header_checksum, expected: self.checksum }
    }
}

/// A payload's checksum, over its pieces in order.
#[derive(Clone, Copy, Debug)]
pub struct PayloadCheck {
    so_far: u32,
    expected: u32,
}

impl PayloadCheck {
    /// Takes in the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.so_far = crc32c::crc32c_append(self.so_far, piece);
    }

    /// Whether the pieces are the payload.
    #[must_use]
    pub const fn is_right(&self) -> bool {
        self.so_far == self.expected
    }
}

/// The payload of a [`FrameKind::Seal`] frame: what the segment holds before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// How many frames.
    pub frames: u64,
    /// XXH3-128 over the bytes of all of them, padding included.
    pub hash: u128,
}

impl Seal {
    /// Bytes of the payload.
    pub const BYTES: usize = 24;

    /// The payload.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.frames.to_le_bytes());
        bytes[8..].copy_from_slice(&self.hash.to_le_bytes());
        bytes
    }

    /// Reads the payload; `None` when it has another length.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (frames, hash) = payload.split_first_chunk::<8>()?;
        Some(Self { frames: u64::from_le_bytes(*frames), hash: u128::from_le_bytes(hash.try_into().ok()?) })
    }
}

const HEADER_CHECKSUM_AT: usize = 56;
const FLAG_FIRST: u8 = 1;
const FLAG_LAST: u8 = 2;
const CODEC_NONE: u8 = 0;
