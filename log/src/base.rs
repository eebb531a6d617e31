//! Base images: what the commits up to an LSN amount to, kept in the place of those that are trimmed away.
//!
//! ```text
//!   commits 1 … b, as one image          commits after b
//!   |catalog|rows|positions|sequences|   |b+1|b+2|…          a rebuild folds the image, then the commits after it
//! ```
//!
//! An image holds records: pieces of the state at b, each with the commit that wrote it. The catalog's come first, its whole history
//! up to b, for rows name the schema version that they were written under; then rows, table by table; then positions of sources; then
//! producers' sequences, each producer's together and rising. Its stored parts are those of a commit in other words:
//!
//! ```text
//! part := envelope version u8 (1) | PartV1 in rkyv (little-endian, unaligned, 32-bit pointers; read by checked access only)
//! ```

use bytes::Bytes;
use rkyv::api::high::to_bytes_in;
use rkyv::rancor;

use crate::commit::{EnvelopeError, PART_BYTES_MAX, PART_BYTES_TARGET, ProducerId, ProducerSequence};
use crate::error::LogError;
use crate::position::{CommitTime, Lsn, RowId, TableId};

/// What an image is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseHeader {
    /// The state behind this commit.
    pub lsn: Lsn,
    /// That commit's time.
    pub time: CommitTime,
    /// The row id that the next inserted row gets.
    pub next_row: RowId,
}

/// A piece of the state, and the commit that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseRecord {
    /// The commit.
    pub lsn: Lsn,
    /// The piece.
    pub state: BaseState,
}

/// What a record holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BaseState {
    /// The catalog's object `object` was `entry` from then on ([`crate::schema::CatalogEntry`] as JSON), or was dropped.
    Catalog {
        /// The object.
        object: u64,
        /// The entry; `None`: dropped.
        entry: Option<Bytes>,
    },
    /// A row.
    Row {
        /// The table.
        table: TableId,
        /// The row's identity.
        row: RowId,
        /// The full row, under the schema version that it was written under.
        image: Bytes,
    },
    /// How far something outside has come.
    Position {
        /// Whose position.
        of: Bytes,
        /// The position, in its owner's format.
        position: Bytes,
    },
    /// A write of a producer that a retry may still name.
    Sequence(ProducerSequence),
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct PartV1 {
    header: Option<HeaderV1>,
    records: Vec<RecordV1>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct HeaderV1 {
    lsn: u64,
    time_micros: u64,
    time_logical: u32,
    next_row: u64,
}

/// What the fields hold, by kind; a field that a kind does not name is zero or empty.
///
/// | kind | object | row | name | image |
/// |---|---|---|---|---|
/// | catalog | object id | | | entry |
/// | catalog drop | object id | | | |
/// | row | table | row id | | full row |
/// | position | | | of | position |
/// | sequence | sequence | | producer | |
#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct RecordV1 {
    kind: u8,
    lsn: u64,
    object: u64,
    row: u64,
    name: Bytes,
    image: Bytes,
}

mod kind {
    pub(super) const CATALOG: u8 = 1;
    pub(super) const CATALOG_DROP: u8 = 2;
    pub(super) const ROW: u8 = 3;
    pub(super) const POSITION: u8 = 4;
    pub(super) const SEQUENCE: u8 = 5;
}

/// Where the parts of an image go; whoever keeps a log has one.
pub(crate) trait BaseSink: Send {
    /// Takes the next part.
    fn part(&mut self, part: &[u8]) -> Result<(), LogError>;

    /// Makes the image durable, reads it again, and puts it in the place of the one before it.
    fn finish(self: Box<Self>) -> Result<(), LogError>;
}

/// Writes an image. Dropped before [`BaseWriter::finish`], it leaves nothing behind.
pub struct BaseWriter {
    sink: Box<dyn BaseSink>,
    header: Option<BaseHeader>,
    lsn: Lsn,
    records: Vec<RecordV1>,
    bytes: usize,
}

impl BaseWriter {
    pub(crate) fn new(header: BaseHeader, sink: Box<dyn BaseSink>) -> Self {
        Self { sink, header: Some(header), lsn: header.lsn, records: Vec::new(), bytes: 0 }
    }

    /// Writes the next record.
    ///
    /// # Errors
    /// [`LogError::NotWritten`], [`LogError::Io`]; [`LogError::Envelope`] for a record longer than a part may be.
    pub fn push(&mut self, record: BaseRecord) -> Result<(), LogError> {
        let record = RecordV1::from(record);
        let bytes = RECORD_OVERHEAD_BYTES + record.name.len() + record.image.len();
        if bytes + PART_OVERHEAD_BYTES > PART_BYTES_MAX {
            return Err(LogError::Envelope { lsn: self.lsn, source: EnvelopeError::ChangeTooLarge { bytes } });
        }
        if self.bytes + bytes > PART_BYTES_TARGET && !self.records.is_empty() {
            self.close_part()?;
        }
        self.bytes += bytes;
        self.records.push(record);
        Ok(())
    }

    /// Ends the image: it is durable, was read again and found right, and is what [`crate::CommitLog::read_base`] gives from now on.
    ///
    /// # Errors
    /// [`LogError::NotWritten`], also where there is a later image by now, [`LogError::Io`], [`LogError::BaseDamaged`]; the image before
    /// it stands then.
    pub fn finish(mut self) -> Result<(), LogError> {
        self.close_part()?;
        self.sink.finish()
    }

    fn close_part(&mut self) -> Result<(), LogError> {
        let header = self.header.take().map(|header| HeaderV1 {
            lsn: header.lsn.value(),
            time_micros: header.time.micros,
            time_logical: header.time.logical,
            next_row: header.next_row.value(),
        });
        let mut part = Vec::with_capacity(self.bytes + PART_OVERHEAD_BYTES);
        part.push(ENVELOPE_VERSION);
        self.bytes = 0;
        let records = std::mem::take(&mut self.records);
        match to_bytes_in::<_, rancor::Panic>(&PartV1 { header, records }, part) {
            Ok(part) => self.sink.part(&part),
            Err(never) => match never {},
        }
    }
}

impl From<BaseRecord> for RecordV1 {
    fn from(BaseRecord { lsn, state }: BaseRecord) -> Self {
        let (kind, object, row, name, image) = match state {
            BaseState::Catalog { object, entry: Some(entry) } => (kind::CATALOG, object, 0, Bytes::new(), entry),
            BaseState::Catalog { object, entry: None } => (kind::CATALOG_DROP, object, 0, Bytes::new(), Bytes::new()),
            BaseState::Row { table, row, image } => (kind::ROW, table.value(), row.value(), Bytes::new(), image),
            BaseState::Position { of, position } => (kind::POSITION, 0, 0, of, position),
            BaseState::Sequence(ProducerSequence { producer, sequence }) => {
                (kind::SEQUENCE, sequence, 0, Bytes::copy_from_slice(&producer.0), Bytes::new())
            }
        };
        Self { kind, lsn: lsn.value(), object, row, name, image }
    }
}

/// The parts of an image, in order; the iterator ends with its end, or with an error.
pub(crate) type BaseParts = Box<dyn Iterator<Item = Result<Bytes, LogError>> + Send>;

/// Reads an image, record by record.
pub struct BaseReader {
    header: BaseHeader,
    parts: BaseParts,
    records: std::vec::IntoIter<BaseRecord>,
}

impl BaseReader {
    pub(crate) fn new(lsn: Lsn, mut parts: BaseParts) -> Result<Self, LogError> {
        let damaged = |what: &str| LogError::BaseDamaged { lsn, what: what.to_owned() };
        let first = parts.next().ok_or_else(|| damaged("it is empty"))??;
        let (header, records) = decode_part(lsn, &first)?;
        let header = header.ok_or_else(|| damaged("its first part has no header"))?;
        if header.lsn != lsn {
            return Err(damaged("it is another one's"));
        }
        Ok(Self { header, parts, records: records.into_iter() })
    }

    /// What it is of.
    #[must_use]
    pub const fn header(&self) -> &BaseHeader {
        &self.header
    }

    /// The next record; `None` at the end, behind which nothing is missing.
    ///
    /// # Errors
    /// [`LogError::BaseDamaged`], [`LogError::Newer`], [`LogError::Io`].
    pub fn try_next(&mut self) -> Result<Option<BaseRecord>, LogError> {
        loop {
            if let Some(record) = self.records.next() {
                return Ok(Some(record));
            }
            let Some(part) = self.parts.next().transpose()? else { return Ok(None) };
            let (header, records) = decode_part(self.header.lsn, &part)?;
            if header.is_some() {
                return Err(LogError::BaseDamaged { lsn: self.header.lsn, what: "it has a second header".to_owned() });
            }
            self.records = records.into_iter();
        }
    }
}

impl std::fmt::Debug for BaseReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseReader at {}", self.header.lsn)
    }
}

impl std::fmt::Debug for BaseWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseWriter at {}", self.lsn)
    }
}

fn decode_part(lsn: Lsn, part: &Bytes) -> Result<(Option<BaseHeader>, Vec<BaseRecord>), LogError> {
    let damaged = |what: &str| LogError::BaseDamaged { lsn, what: what.to_owned() };
    let (version, archive) = part.split_first().ok_or_else(|| damaged("a part is empty"))?;
    if *version != ENVELOPE_VERSION {
        return Err(LogError::Envelope { lsn, source: EnvelopeError::Newer { found: *version } });
    }
    let archived = rkyv::access::<ArchivedPartV1, rancor::Failure>(archive)
        .map_err(|rancor::Failure| damaged("a part is malformed"))?;
    let header = archived.header.as_ref().map(|header| BaseHeader {
        lsn: Lsn::new(header.lsn.into()),
        time: CommitTime { micros: header.time_micros.into(), logical: header.time_logical.into() },
        next_row: RowId::new(header.next_row.into()),
    });
    let record = |record: &ArchivedRecordV1| {
        let object = record.object.to_native();
        let (name, image) = (|| part.slice_ref(&record.name), || part.slice_ref(&record.image));
        let state = match record.kind {
            kind::CATALOG => BaseState::Catalog { object, entry: Some(image()) },
            kind::CATALOG_DROP => BaseState::Catalog { object, entry: None },
            kind::ROW => {
                BaseState::Row { table: TableId::new(object), row: RowId::new(record.row.into()), image: image() }
            }
            kind::POSITION => BaseState::Position { of: name(), position: image() },
            kind::SEQUENCE => {
                let producer = record.name.as_ref().try_into().map_err(|_| damaged("a producer is malformed"))?;
                BaseState::Sequence(ProducerSequence { producer: ProducerId(producer), sequence: object })
            }
            _ => return Err(damaged("a record is of an unknown kind")),
        };
        Ok(BaseRecord { lsn: Lsn::new(record.lsn.into()), state })
    };
    Ok((header, archived.records.iter().map(record).collect::<Result<_, _>>()?))
}

const ENVELOPE_VERSION: u8 = 1;
/// The flat fields of a record in its part.
const RECORD_OVERHEAD_BYTES: usize = 48;
/// Header, version byte and the archive's root, generously.
const PART_OVERHEAD_BYTES: usize = 1024;
