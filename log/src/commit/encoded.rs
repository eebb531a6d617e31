//! A commit as a log takes and gives it: its stored parts, in memory or, of one too large for that, elsewhere.

use std::sync::Arc;

use bytes::Bytes;

use super::envelope::{EnvelopeError, changes_of_one_part, decode_part, encode_part};
use super::{Change, Commit, CommitHeader};
use crate::error::LogError;
use crate::position::Lsn;

/// A commit in its stored form. Cheap to clone.
#[derive(Clone)]
pub struct EncodedCommit {
    lsn: Lsn,
    parts: Parts,
}

#[derive(Clone)]
enum Parts {
    Here(Vec<Bytes>),
    Elsewhere(Arc<dyn PartStore>),
}

/// Where the parts of a commit are that is too large to lie in memory.
pub trait PartStore: Send + Sync {
    /// The bytes of each part; there is at least one.
    fn lengths(&self) -> &[u32];

    /// A part, counted from 0: always the same bytes.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be read, or not any more.
    fn part(&self, index: usize) -> Result<Bytes, LogError>;
}

impl EncodedCommit {
    /// Encodes a commit; the same commit always gives the same bytes.
    ///
    /// # Errors
    /// [`EnvelopeError::ChangeTooLarge`] when a single change is longer than a part may be.
    ///
    /// # Panics
    /// When the header's count is not that of the changes.
    pub fn encode(commit: &Commit) -> Result<Self, EnvelopeError> {
        assert_eq!(commit.header.change_count, commit.changes.len() as u64, "the header counts the changes");
        Ok(Self { lsn: commit.lsn, parts: Parts::Here(try_parts_of(Some(&commit.header), &commit.changes)?) })
    }

    /// A commit over its stored parts, which were read from a log.
    ///
    /// # Panics
    /// When there is no part.
    #[must_use]
    pub fn from_parts(lsn: Lsn, parts: Vec<Bytes>) -> Self {
        assert!(!parts.is_empty(), "a commit has at least one part");
        Self { lsn, parts: Parts::Here(parts) }
    }

    /// A commit whose parts are read where they are whenever they are asked for.
    ///
    /// # Panics
    /// When there is no part.
    #[must_use]
    pub fn elsewhere(lsn: Lsn, parts: Arc<dyn PartStore>) -> Self {
        assert!(!parts.lengths().is_empty(), "a commit has at least one part");
        Self { lsn, parts: Parts::Elsewhere(parts) }
    }

    /// Its place in the log.
    #[must_use]
    pub const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether its parts lie in memory.
    pub(crate) const fn is_here(&self) -> bool {
        matches!(self.parts, Parts::Here(_))
    }

    /// How many parts it has: one per frame.
    #[must_use]
    pub fn part_count(&self) -> usize {
        match &self.parts {
            Parts::Here(parts) => parts.len(),
            Parts::Elsewhere(store) => store.lengths().len(),
        }
    }

    /// The bytes of each part.
    pub fn part_lengths(&self) -> impl Iterator<Item = usize> + '_ {
        let (here, elsewhere): (&[Bytes], &[u32]) = match &self.parts {
            Parts::Here(parts) => (parts, &[]),
            Parts::Elsewhere(store) => (&[], store.lengths()),
        };
        here.iter().map(Bytes::len).chain(elsewhere.iter().map(|length| *length as usize))
    }

    /// A stored part, counted from 0.
    ///
    /// # Errors
    /// [`LogError`] when it is not in memory and cannot be read: [`LogError::BelowRetained`] when it was trimmed away meanwhile.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn part(&self, index: usize) -> Result<Bytes, LogError> {
        match &self.parts {
            Parts::Here(parts) => Ok(parts[index].clone()),
            Parts::Elsewhere(store) => store.part(index),
        }
    }

    /// The bytes of all parts.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        self.part_lengths().sum()
    }

    /// Its header.
    ///
    /// # Errors
    /// As [`EncodedCommit::decode`].
    pub fn header(&self) -> Result<CommitHeader, LogError> {
        let (header, _) = self.decode_part(0)?;
        header.ok_or_else(|| self.malformed("first part without a header"))
    }

    /// Decodes the commit: all of it then lies in memory. Row images share the memory of parts that do already.
    ///
    /// # Errors
    /// [`LogError::Envelope`] when a part is malformed or newer than this program, or when counts disagree; those of
    /// [`EncodedCommit::part`].
    pub fn decode(&self) -> Result<Commit, LogError> {
        let (header, mut changes) = self.decode_part(0)?;
        let header = header.ok_or_else(|| self.malformed("first part without a header"))?;
        for part in 1..self.part_count() {
            changes.extend(self.changes(part)?);
        }
        if header.change_count != changes.len() as u64 {
            return Err(self.malformed("count of changes"));
        }
        Ok(Commit { lsn: self.lsn, header, changes })
    }

    /// The changes of one part.
    ///
    /// # Errors
    /// As [`EncodedCommit::decode`].
    pub(super) fn changes(&self, part: usize) -> Result<Vec<Change>, LogError> {
        let (header, changes) = self.decode_part(part)?;
        if header.is_some() != (part == 0) {
            return Err(self.malformed("a header is what the first part has, and no other"));
        }
        Ok(changes)
    }

    fn decode_part(&self, part: usize) -> Result<(Option<CommitHeader>, Vec<Change>), LogError> {
        decode_part(&self.part(part)?).map_err(|source| LogError::Envelope { lsn: self.lsn, source })
    }

    pub(super) fn malformed(&self, what: &'static str) -> LogError {
        LogError::Envelope { lsn: self.lsn, source: EnvelopeError::Malformed(what) }
    }
}

impl PartialEq for EncodedCommit {
    /// The same bytes at the same place; what cannot be read is like nothing.
    fn eq(&self, other: &Self) -> bool {
        let is_same_part = |part: usize| matches!((self.part(part), other.part(part)), (Ok(a), Ok(b)) if a == b);
        self.lsn == other.lsn && self.part_count() == other.part_count() && (0..self.part_count()).all(is_same_part)
    }
}

impl std::fmt::Debug for EncodedCommit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (lsn, parts, bytes) = (self.lsn, self.part_count(), self.byte_len());
        write!(f, "EncodedCommit {lsn} of {bytes} bytes in {parts} parts")
    }
}

/// The parts of changes, the header in the first: one at least.
fn try_parts_of(mut header: Option<&CommitHeader>, changes: &[Change]) -> Result<Vec<Bytes>, EnvelopeError> {
    let mut parts = Vec::with_capacity(1);
    let mut rest = changes;
    loop {
        let taken = changes_of_one_part(rest)?;
        let (changes, after) = rest.split_at(taken);
        parts.push(encode_part(header.take(), changes));
        rest = after;
        if rest.is_empty() {
            return Ok(parts);
        }
    }
}

/// The parts of changes none of which is longer than it may be.
pub(super) fn parts_of(header: Option<&CommitHeader>, changes: &[Change]) -> Vec<Bytes> {
    try_parts_of(header, changes).expect("changes are measured before they are ordered")
}
