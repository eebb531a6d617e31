//! The decisions of the sequencer, without a clock, a thread or a file: values in, values out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::outcome::CommitError;
use super::window::{Entry, Undo, Window};
use super::write_set::{
    CATALOG_SPACE, KeyName, KeyRange, KeySeen, KeyWrite, LargeKeys, Precondition, WriteSet, catalog_key,
};
use crate::commit::{
    Change, Commit, CommitBody, CommitHeader, ProducerId, ProducerSequence, SpooledChanges, StreamedCommit,
};
use crate::key;
use crate::position::{CommitTime, Lsn, RowId, StorageId, TableId};

/// Orders write sets: checks their conditions against everything accepted before, and stamps them.
///
/// ```text
///        applied             accepted
///   =======|--------------------|      a stamp behind `applied` is provisional: it can be taken back, newest first
/// ```
#[derive(Debug)]
pub(super) struct Core {
    last: Stamp,
    applied: Lsn,
    window: Window,
    /// Accepted and not yet applied, oldest first.
    in_flight: VecDeque<InFlight>,
}

/// What the counters stand at after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The commit.
    pub lsn: Lsn,
    /// Its time.
    pub time: CommitTime,
    /// The row id that the next inserted row gets.
    pub next_row: RowId,
}

#[derive(Debug)]
struct InFlight {
    before: Stamp,
    undo: Vec<Undo>,
    /// The window does not know what it wrote.
    is_large: bool,
}

/// What a producer wrote last: the newest sequences with their commits, rising.
pub type RecentSequences = VecDeque<(u64, Lsn)>;

/// How many of a producer's sequences are remembered: a retry further back is refused.
pub const SEQUENCES_KEPT: usize = 16;

/// What the keeper of the rows knew at one moment of what the conditions of a write set ask.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The moment: everything up to this commit is in the answers, nothing after it.
    pub(super) at: Lsn,
    /// The writer has seen the conditions on single keys to hold then: nobody was asked.
    pub(super) is_seen: bool,
    /// An answer for each condition that was asked.
    pub(super) answers: Vec<Answer>,
    /// The producer's sequences.
    pub(super) sequences: RecentSequences,
}

/// What is known of what a condition asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The commit that wrote the key last; `None`: there is no such key.
    Version(Option<Lsn>),
    /// The first keys of the range, and whether they are all.
    Keys { keys: Vec<Bytes>, is_complete: bool },
    /// The window answers alone.
    NotAsked,
}

/// Why a write set is not ordered.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Objection {
    /// It is a retry of this commit.
    Duplicate(Lsn),
    /// A condition does not hold.
    Refused(Refusal),
    /// What was resolved is too old to decide with: resolve again.
    Stale,
}

/// Which condition does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A key that must be absent exists. A duplicate, in SQL's words; the statement fails.
    #[error("the key exists")]
    KeyExists {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
    },
    /// A key that must exist does not.
    #[error("the key does not exist")]
    KeyMissing {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
    },
    /// A key was written since it was read. Compute the write set anew.
    #[error("the row was changed by commit {by} meanwhile", by = by.map_or(0, Lsn::value))]
    KeyChanged {
        /// The space.
        space: StorageId,
        /// The key.
        key: Bytes,
        /// The commit that wrote it last; `None` when the key is gone.
        by: Option<Lsn>,
    },
    /// A range that must be empty holds a key.
    #[error("the range is not empty")]
    RangeNotEmpty {
        /// The space.
        space: StorageId,
        /// A key in it.
        key: Bytes,
    },
    /// A range was written to since it was read. Compute the write set anew.
    #[error("a row that was read was changed by commit {by} meanwhile")]
    RangeChanged {
        /// The space.
        space: StorageId,
        /// The commit.
        by: Lsn,
    },
    /// A table's schema was changed since the write set was planned. Plan it anew.
    #[error("the schema of table {table} was changed meanwhile")]
    SchemaChanged {
        /// The table.
        table: TableId,
    },
    /// What was read is too long ago to tell what was written since. Compute the write set anew.
    #[error("what was read at lsn {since} is too old to check; the recent writes reach back to {floor}")]
    ReadTooOld {
        /// Where it was read.
        since: Lsn,
        /// Where the recent writes begin.
        floor: Lsn,
    },
    /// The producer has gone on too far for this sequence to be a retry that is still known.
    #[error(
        "sequence {sequence} of the producer is older than the {SEQUENCES_KEPT} that are remembered; the newest is {newest}"
    )]
    SequenceTooOld {
        /// The sequence.
        sequence: u64,
        /// The producer's newest.
        newest: u64,
    },
}

impl Core {
    /// A core that goes on after `last`, everything up to which is applied.
    pub(super) fn new(last: Stamp, window_entries_max: usize) -> Self {
        Self { last, applied: last.lsn, window: Window::new(last.lsn, window_entries_max), in_flight: VecDeque::new() }
    }

    pub(super) const fn accepted(&self) -> Lsn {
        self.last.lsn
    }

    pub(super) const fn applied(&self) -> Lsn {
        self.applied
    }

    /// The row id that the next inserted row gets.
    pub(super) const fn next_row(&self) -> RowId {
        self.last.next_row
    }

    /// Below it, the keeper alone knows what was written.
    pub(super) const fn floor(&self) -> Lsn {
        self.window.floor()
    }

    /// Whether a write set may be ordered next. Its writer has seen every commit up to `seen`.
    pub(super) fn check(&self, set: &WriteSet, resolved: &Resolved, seen: Lsn) -> Result<(), Objection> {
        if resolved.at < self.window.floor() {
            return Err(Objection::Stale);
        }
        if let Some(producer) = set.producer {
            self.check_sequence(producer, &resolved.sequences)?;
        }
        let is_all_seen = seen >= self.last.lsn;
        let mut answers = resolved.answers.iter();
        for condition in &set.preconditions {
            if !(resolved.is_seen && condition.is_on_key()) {
                self.check_condition(condition, answers.next().expect("an answer for each condition that was asked"))?;
            } else if !is_all_seen && self.is_written(condition) {
                self.check_condition(condition, &Answer::NotAsked)?;
            }
        }
        Ok(())
    }

    /// Whether the keys of a large write set are still what its writer saw at `seen`: there is nothing in flight.
    pub(super) fn check_large(&self, keys: &dyn LargeKeys, seen: Lsn) -> Result<(), LargeObjection> {
        assert!(self.in_flight.is_empty(), "a large commit goes alone");
        if seen < self.window.floor() {
            return Err(LargeObjection::Stale);
        }
        for (space, key) in self.window.written_behind(seen) {
            if let Some(found) = keys.find(space, key).map_err(|error| CommitError::not_committed(error.0))? {
                let version = self.window.entry(space, key).filter(|entry| entry.is_present).map(|entry| entry.lsn);
                judge(space, key, found, version)?;
            }
        }
        Ok(())
    }

    /// Orders a write set that was just checked: gives it its LSN, its time and its row ids. Behind one that is large, nothing is ordered
    /// before it is applied.
    pub(super) fn stamp(&mut self, set: WriteSet, now_micros: u64) -> CommitBody {
        assert!(self.in_flight.back().is_none_or(|commit| !commit.is_large), "a large commit goes alone");
        let before = self.last;
        let lsn = before.lsn.next();
        let mut next_row = before.next_row;
        let mut changes = set.changes;
        for change in &mut changes {
            if let Change::Insert { row, .. } = change {
                *row = next_row;
                next_row = next_row.next();
            }
        }
        let mut undo = Vec::with_capacity(set.keys.len());
        for KeyWrite { space, key, is_present } in set.keys {
            let key = match key {
                KeyName::Bytes(key) => key,
                KeyName::RowOf(index) => match &changes[index] {
                    Change::Insert { row, .. } => Bytes::copy_from_slice(&key::of_row_id(*row)),
                    other => panic!("only an insert is given a row id, not {other:?}"),
                },
            };
            undo.push(self.window.write(space, key, Entry { lsn, is_present }));
        }
        if let Some(producer) = set.producer {
            let entry = Entry { lsn, is_present: true };
            undo.push(self.window.write(PRODUCER_SPACE, sequence_key(producer), entry));
        }
        let spooled = set.large.map(|large| large.changes);
        let first_row = next_row;
        if let Some(spooled) = &spooled {
            let is_of_row = |change: &Change| {
                matches!(change, Change::Insert { .. } | Change::Update { .. } | Change::Delete { .. })
            };
            assert!(!changes.iter().any(is_of_row), "all changes of rows are spooled, or none");
            next_row = RowId::new(next_row.value() + spooled.insert_count());
        }
        let time = before.time.following(now_micros);
        self.last = Stamp { lsn, time, next_row };
        self.in_flight.push_back(InFlight { before, undo, is_large: spooled.is_some() });
        let change_count = changes.len() as u64 + spooled.as_ref().map_or(0, SpooledChanges::len);
        let header = CommitHeader { time, next_row, producer: set.producer, change_count };
        let Some(spooled) = spooled else { return CommitBody::Whole(Arc::new(Commit { lsn, header, changes })) };
        let rows_at = changes.iter().position(|change| matches!(change, Change::Position { .. }));
        let (first, last) = changes.split_at(rows_at.unwrap_or(changes.len()));
        CommitBody::Streamed(Arc::new(StreamedCommit::spooled(lsn, header, first_row, first, spooled, last)))
    }

    /// Everything up to `lsn` has been applied: it cannot be taken back any more.
    pub(super) fn applied_to(&mut self, lsn: Lsn) {
        assert!(self.applied <= lsn && lsn <= self.last.lsn, "applied moves forward, and not beyond what was accepted");
        let mut is_large = false;
        while let Some(commit) = self.in_flight.pop_front_if(|commit| commit.before.lsn < lsn) {
            is_large |= commit.is_large;
        }
        self.applied = lsn;
        if is_large {
            self.window.forget_to(lsn);
        } else {
            self.window.trim(lsn);
        }
    }

    /// Begins anew behind `lsn`, the last commit, which is applied: everything resolved before is stale.
    pub(super) fn restart_at(&mut self, lsn: Lsn) {
        assert_eq!(self.last.lsn, lsn, "nothing is accepted beyond it");
        self.applied = lsn;
        self.in_flight.clear();
        self.window = Window::new(lsn, self.window.entries_max());
    }

    /// Takes back everything after `lsn`, newest first: those LSNs are given again, having been shown to nobody.
    pub(super) fn unwind_after(&mut self, lsn: Lsn) {
        assert!(self.applied <= lsn, "what is applied stands");
        while self.last.lsn > lsn {
            let commit = self.in_flight.pop_back().expect("what is not applied is in flight");
            commit.undo.into_iter().rev().for_each(|undo| self.window.take_back(undo));
            self.last = commit.before;
        }
    }

    /// A sequence is written like a key, so the window knows those that the keeper may not know yet.
    fn check_sequence(&self, producer: ProducerSequence, kept: &RecentSequences) -> Result<(), Objection> {
        let kept_lsn = kept.iter().find(|(sequence, _)| *sequence == producer.sequence).map(|(_, lsn)| *lsn);
        let recent_lsn = || self.window.entry(PRODUCER_SPACE, &sequence_key(producer)).map(|entry| entry.lsn);
        if let Some(lsn) = kept_lsn.or_else(recent_lsn) {
            return Err(Objection::Duplicate(lsn));
        }
        let range = sequences_of(producer.producer);
        let recent = self.window.entries(PRODUCER_SPACE, &range).next_back().map(|(key, _)| sequence_in(key));
        match kept.iter().map(|(sequence, _)| *sequence).chain(recent).max() {
            Some(newest) if newest > producer.sequence => {
                Err(Refusal::SequenceTooOld { sequence: producer.sequence, newest }.into())
            }
            _ => Ok(()),
        }
    }

    fn check_condition(&self, condition: &Precondition, answer: &Answer) -> Result<(), Objection> {
        match condition {
            Precondition::Absent { space, key } => match self.version(*space, key, answer) {
                None => Ok(()),
                Some(_) => Err(Refusal::KeyExists { space: *space, key: key.clone() }.into()),
            },
            Precondition::Present { space, key } => match self.version(*space, key, answer) {
                Some(_) => Ok(()),
                None => Err(Refusal::KeyMissing { space: *space, key: key.clone() }.into()),
            },
            Precondition::AtVersion { space, key, version } => match self.version(*space, key, answer) {
                Some(found) if found == *version => Ok(()),
                by => Err(Refusal::KeyChanged { space: *space, key: key.clone(), by }.into()),
            },
            Precondition::SchemaAt { table, version } => {
                match self.version(CATALOG_SPACE, &catalog_key(table.value()), answer) {
                    Some(found) if found == *version => Ok(()),
                    _ => Err(Refusal::SchemaChanged { table: *table }.into()),
                }
            }
            Precondition::RangeEmpty { space, range } => self.check_empty(*space, range, answer),
            Precondition::RangeUnchanged { space, range, since } => {
                if *since < self.window.floor() {
                    return Err(Refusal::ReadTooOld { since: *since, floor: self.window.floor() }.into());
                }
                match self.window.written_since(*space, range, *since) {
                    None => Ok(()),
                    Some(by) => Err(Refusal::RangeChanged { space: *space, by }.into()),
                }
            }
        }
    }

    /// Whether the window knows a write of the key that a condition is on.
    fn is_written(&self, condition: &Precondition) -> bool {
        match condition {
            Precondition::Absent { space, key }
            | Precondition::Present { space, key }
            | Precondition::AtVersion { space, key, .. } => self.window.entry(*space, key).is_some(),
            Precondition::SchemaAt { table, .. } => {
                self.window.entry(CATALOG_SPACE, &catalog_key(table.value())).is_some()
            }
            Precondition::RangeEmpty { .. } | Precondition::RangeUnchanged { .. } => true,
        }
    }

    /// The commit that wrote the key last, if it exists: by the window, else by the answer, which is then current.
    fn version(&self, space: StorageId, key: &Bytes, answer: &Answer) -> Option<Lsn> {
        match (self.window.entry(space, key), answer) {
            (Some(entry), _) => entry.is_present.then_some(entry.lsn),
            (None, Answer::Version(version)) => *version,
            (None, Answer::Keys { .. } | Answer::NotAsked) => {
                unreachable!("a condition on a key is asked as such")
            }
        }
    }

    fn check_empty(&self, space: StorageId, range: &KeyRange, answer: &Answer) -> Result<(), Objection> {
        let found = |key: &Bytes| Objection::from(Refusal::RangeNotEmpty { space, key: key.clone() });
        if let Some((key, _)) = self.window.entries(space, range).find(|(_, entry)| entry.is_present) {
            return Err(found(key));
        }
        let Answer::Keys { keys, is_complete } = answer else {
            unreachable!("a condition on a range is asked as such")
        };
        match keys.iter().find(|key| self.window.entry(space, key).is_none()) {
            Some(key) => Err(found(key)),
            None if *is_complete => Ok(()),
            // All keys that were looked at have gone since; there may be more behind them.
            None => Err(Objection::Stale),
        }
    }
}

/// Why a large write set is not ordered.
#[derive(Debug)]
pub(super) enum LargeObjection {
    /// The window has forgotten what was written since: look at all keys again.
    Stale,
    /// A key is not what its writer saw, or could not be looked at.
    Refused(CommitError),
}

impl<E: Into<CommitError>> From<E> for LargeObjection {
    fn from(error: E) -> Self {
        Self::Refused(error.into())
    }
}

/// Whether a key that was written last by `version`, if it exists, is what the writer of a large write set saw.
pub(super) fn judge(space: StorageId, key: &[u8], seen: KeySeen, version: Option<Lsn>) -> Result<(), Refusal> {
    let key = || Bytes::copy_from_slice(key);
    match (seen, version) {
        (KeySeen::Absent, Some(_)) => Err(Refusal::KeyExists { space, key: key() }),
        (KeySeen::AtVersion(seen), by) if by != Some(seen) => Err(Refusal::KeyChanged { space, key: key(), by }),
        _ => Ok(()),
    }
}

impl From<Refusal> for Objection {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The space of producers' sequences in the window; no table or index has this id.
const PRODUCER_SPACE: StorageId = StorageId::new(u64::MAX);

fn sequence_key(producer: ProducerSequence) -> Bytes {
    [&producer.producer.0[..], &producer.sequence.to_be_bytes()].concat().into()
}

fn sequence_in(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

fn sequences_of(producer: ProducerId) -> KeyRange {
    let start = sequence_key(ProducerSequence { producer, sequence: 0 });
    let end = u128::from_be_bytes(producer.0).checked_add(1).map(|next| Bytes::copy_from_slice(&next.to_be_bytes()));
    KeyRange { start, end }
}
