//! What the trees hold.
//!
//! ```text
//! value   := lsn u64 | content          no content: the key is gone from that version on
//! content := row id u64 | row           in a table's tree
//!          | row id u64 | key           in an index's tree: the key of the row
//!          | position                   tree 0, key: p, whose
//!          | (sequence u64, lsn u64) …  tree 0, key: s, producer: its newest writes
//! ```
//!
//! Numbers are little-endian. The LSN stands in the value because merges, which drop old versions, see neither the tree's sequence
//! numbers nor its own tombstones.

use std::collections::VecDeque;

use bytes::Bytes;
use highwater_log::Lsn;
use highwater_log::commit::ProducerId;
use highwater_log::position::RowId;
use highwater_log::sequencer::RecentSequences;

use super::storage_error;
use crate::error::FoldError;

/// A row as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRow {
    /// The commit that wrote it.
    pub version: Lsn,
    /// Its identity.
    pub id: RowId,
    /// The row, or for an index entry the key of the row.
    pub bytes: Bytes,
}

impl StoredRow {
    pub(super) fn decode(value: Bytes) -> Result<Self, FoldError> {
        let number = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        match (number(0), number(LSN_BYTES)) {
            (Some(version), Some(id)) => {
                let (version, id) = (Lsn::new(version), RowId::new(id));
                Ok(Self { version, id, bytes: value.slice(LSN_BYTES + 8..) })
            }
            _ => Err(storage_error("a value is too short")),
        }
    }
}

/// A row or an index entry.
pub(super) fn row(lsn: Lsn, id: RowId, bytes: &[u8]) -> Vec<u8> {
    [&lsn.value().to_le_bytes(), &id.value().to_le_bytes(), bytes].concat()
}

/// A key that is gone.
pub(super) fn gone(lsn: Lsn) -> Vec<u8> {
    lsn.value().to_le_bytes().to_vec()
}

pub(super) fn position(lsn: Lsn, position: &[u8]) -> Vec<u8> {
    [&lsn.value().to_le_bytes(), position].concat()
}

pub(super) fn sequences(lsn: Lsn, recent: &RecentSequences) -> Vec<u8> {
    let pairs = recent.iter().flat_map(|(sequence, lsn)| [*sequence, lsn.value()]);
    std::iter::once(lsn.value()).chain(pairs).flat_map(u64::to_le_bytes).collect()
}

/// The LSN of a value's version, and whether it says that its key is gone; `None` for what is no value.
pub(super) fn version(value: &[u8]) -> Option<(Lsn, bool)> {
    let (lsn, content) = value.split_first_chunk()?;
    Some((Lsn::new(u64::from_le_bytes(*lsn)), content.is_empty()))
}

/// Whether a value says that its key is gone.
pub(super) const fn is_gone(value: &[u8]) -> bool {
    value.len() == LSN_BYTES
}

/// The version of a position or of sequences, and what it holds.
pub(super) fn split(value: &Bytes) -> Result<(Lsn, Bytes), FoldError> {
    let (lsn, _) = version(value).ok_or_else(|| storage_error("a value is too short"))?;
    Ok((lsn, value.slice(LSN_BYTES..)))
}

pub(super) fn decode_sequences(content: &[u8]) -> RecentSequences {
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let pairs = content.chunks_exact(16).map(|pair| (number(pair), Lsn::new(number(&pair[8..]))));
    pairs.collect::<VecDeque<_>>()
}

pub(super) fn position_key(of: &[u8]) -> Bytes {
    [b"p", of].concat().into()
}

pub(super) fn producer_key(producer: ProducerId) -> Bytes {
    [&b"s"[..], &producer.0].concat().into()
}

const LSN_BYTES: usize = 8;
