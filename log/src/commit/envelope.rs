//! The stored form of a commit: one part per frame, each readable by itself.
//!
//! ```text
//! part := envelope version u8 (1) | PartV1 in rkyv (little-endian, unaligned, 32-bit pointers; read by checked access only)
//! ```
//!
//! The first part has the header. A commit above [`PART_BYTES_TARGET`] has several parts, so that it can be written, read and
//! applied without ever lying in memory whole. A change is one flat record whatever its kind, so that a new kind changes no layout.

use bytes::Bytes;
use rkyv::api::high::to_bytes_in;
use rkyv::rancor;

use super::{Change, CommitHeader, ProducerId, ProducerSequence};
use crate::position::{CommitTime, RowId, TableId};

/// A part is closed when it has grown to this many bytes of images. A single row may make it longer.
pub const PART_BYTES_TARGET: usize = 1024 * 1024;

/// The longest encoded part, and so the longest row with its before image.
pub(crate) const PART_BYTES_MAX: usize = 256 * 1024 * 1024;

/// One change alone must fit into a part.
pub(crate) const CHANGE_BYTES_MAX: usize = PART_BYTES_MAX - 4096;

const ENVELOPE_VERSION: u8 = 1;

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct PartV1 {
    header: Option<HeaderV1>,
    changes: Vec<ChangeV1>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct HeaderV1 {
    time_micros: u64,
    time_logical: u32,
    next_row: u64,
    producer: Option<([u8; 16], u64)>,
    change_count: u64,
}

/// What the fields hold, by kind; a field that a kind does not name is zero or empty.
///
/// | kind | object | row | before | after |
/// |---|---|---|---|---|
/// | catalog | object id | | | entry |
/// | catalog drop | object id | | | |
/// | truncate | table | | | entry |
/// | insert | table | row id | | full row |
/// | update | table | row id | full row | partial row |
/// | delete | table | row id | full row | |
/// | position | | | of | position |
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct ChangeV1 {
    kind: u8,
    object: u64,
    row: u64,
    before: Bytes,
    after: Bytes,
}

mod kind {
    pub(super) const CATALOG: u8 = 1;
    pub(super) const CATALOG_DROP: u8 = 2;
    pub(super) const TRUNCATE: u8 = 3;
    pub(super) const INSERT: u8 = 4;
    pub(super) const UPDATE: u8 = 5;
    pub(super) const DELETE: u8 = 6;
    pub(super) const POSITION: u8 = 7;
}

/// Why a part could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The bytes are no part: damage that the frame's checksum did not see, or a defect of ours.
    #[error("malformed commit part: {0}")]
    Malformed(&'static str),
    /// Written by a newer program.
    #[error(
        "commit envelope version {found} is newer than {ENVELOPE_VERSION}, the newest this program reads: upgrade highwater"
    )]
    Newer {
        /// The version found.
        found: u8,
    },
    /// One change alone is longer than a part may be.
    #[error("a change of {bytes} bytes is longer than {PART_BYTES_MAX}")]
    ChangeTooLarge {
        /// The bytes of its images.
        bytes: usize,
    },
}

/// Decodes one part: the header, which only a commit's first part has, and the part's changes.
///
/// # Errors
/// [`EnvelopeError`] when the bytes are no part or a newer program's.
pub fn decode_part(part: &Bytes) -> Result<(Option<CommitHeader>, Vec<Change>), EnvelopeError> {
    let (version, archive) = part.split_first().ok_or(EnvelopeError::Malformed("empty part"))?;
    match *version {
        ENVELOPE_VERSION => {}
        0 => return Err(EnvelopeError::Malformed("version 0")),
        found => return Err(EnvelopeError::Newer { found }),
    }
    let archived = rkyv::access::<ArchivedPartV1, rancor::Failure>(archive)
        .map_err(|rancor::Failure| EnvelopeError::Malformed("archive"))?;
    let header = archived.header.as_ref().map(|header| CommitHeader {
        time: CommitTime { micros: header.time_micros.into(), logical: header.time_logical.into() },
        next_row: RowId::new(header.next_row.into()),
        producer: header
            .producer
            .as_ref()
            .map(|producer| ProducerSequence { producer: ProducerId(producer.0), sequence: producer.1.into() }),
        change_count: header.change_count.into(),
    });
    let changes = archived.changes.iter().map(|change| decode_change(part, change)).collect::<Result<_, _>>()?;
    Ok((header, changes))
}

fn decode_change(part: &Bytes, change: &ArchivedChangeV1) -> Result<Change, EnvelopeError> {
    let object = change.object.to_native();
    let (table, row) = (TableId::new(object), RowId::new(change.row.into()));
    let before = || part.slice_ref(&change.before);
    let after = || part.slice_ref(&change.after);
    Ok(match change.kind {
        kind::CATALOG => Change::Catalog { object, entry: Some(after()) },
        kind::CATALOG_DROP => Change::Catalog { object, entry: None },
        kind::TRUNCATE => Change::Truncate { table, entry: after() },
        kind::INSERT => Change::Insert { table, row, after: after() },
        kind::UPDATE => Change::Update { table, row, before: before(), changed: after() },
        kind::DELETE => Change::Delete { table, row, before: before() },
        kind::POSITION => Change::Position { of: before(), position: after() },
        _ => return Err(EnvelopeError::Malformed("kind of change")),
    })
}

/// How many of `changes` go into the next part: at least one, unless there is none.
pub(super) fn changes_of_one_part(changes: &[Change]) -> Result<usize, EnvelopeError> {
    let mut part_bytes = 0;
    for (index, change) in changes.iter().enumerate() {
        let bytes = change.byte_len();
        if bytes + PART_OVERHEAD_BYTES > PART_BYTES_MAX {
            return Err(EnvelopeError::ChangeTooLarge { bytes });
        }
        let full = CHANGE_OVERHEAD_BYTES + bytes;
        if index > 0 && part_bytes + full > PART_BYTES_TARGET {
            return Ok(index);
        }
        part_bytes += full;
    }
    Ok(changes.len())
}

/// The stored form of one part; the same changes always give the same bytes, as many whatever the row ids and the header's numbers are.
pub(super) fn encode_part(header: Option<&CommitHeader>, changes: &[Change]) -> Bytes {
    let header = header.map(|header| HeaderV1 {
        time_micros: header.time.micros,
        time_logical: header.time.logical,
        next_row: header.next_row.value(),
        producer: header.producer.map(|producer| (producer.producer.0, producer.sequence)),
        change_count: header.change_count,
    });
    let images: usize = changes.iter().map(|change| CHANGE_OVERHEAD_BYTES + change.byte_len()).sum();
    let changes = changes
        .iter()
        .map(|change| {
            let (kind, object, row, before, after) = fields(change);
            ChangeV1 { kind, object, row, before: before.clone(), after: after.clone() }
        })
        .collect();
    let mut part = Vec::with_capacity(images + PART_OVERHEAD_BYTES);
    part.push(ENVELOPE_VERSION);
    let mut part = match to_bytes_in::<_, rancor::Panic>(&PartV1 { header, changes }, part) {
        Ok(part) => part,
        Err(never) => match never {},
    };
    // It is kept for readers of the tail.
    part.shrink_to_fit();
    part.into()
}

static EMPTY: Bytes = Bytes::new();

fn fields(change: &Change) -> (u8, u64, u64, &Bytes, &Bytes) {
    match change {
        Change::Catalog { object, entry: Some(entry) } => (kind::CATALOG, *object, 0, &EMPTY, entry),
        Change::Catalog { object, entry: None } => (kind::CATALOG_DROP, *object, 0, &EMPTY, &EMPTY),
        Change::Truncate { table, entry } => (kind::TRUNCATE, table.value(), 0, &EMPTY, entry),
        Change::Insert { table, row, after } => (kind::INSERT, table.value(), row.value(), &EMPTY, after),
        Change::Update { table, row, before, changed } => (kind::UPDATE, table.value(), row.value(), before, changed),
        Change::Delete { table, row, before } => (kind::DELETE, table.value(), row.value(), before, &EMPTY),
        Change::Position { of, position } => (kind::POSITION, 0, 0, of, position),
    }
}

/// The flat fields of a change in its part.
pub(super) const CHANGE_OVERHEAD_BYTES: usize = 33;
/// Header, version byte and the archive's root, generously.
const PART_OVERHEAD_BYTES: usize = 1024;
