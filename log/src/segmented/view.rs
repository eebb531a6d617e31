//! Looking at a log's directory from outside, without its lock: `highwater log ls|cat|verify`, with the server stopped or running.
//!
//! Nothing is written. What a running server has appended and not yet told to be synced is *in flight*: it may still vanish, so it
//! is not shown. A file that changes while it is read can look damaged; what looks so is read again before it is said.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::base;
use super::directory::{Directory, Identity, SEGMENT_HEADER_BYTES, check_segment_header};
use super::recovery::Survey;
use super::scan::{Stop, scan};
use crate::base::BaseReader;
use crate::chain::{Chain, Link};
use crate::commit::EncodedCommit;
use crate::env::{Access, Env};
use crate::error::{Damage, LogError};
use crate::frame::{self, FRAME_HEADER_BYTES};
use crate::position::{Epoch, LogId, Lsn, SegmentId};

/// A log's directory, seen from outside at one moment.
pub struct LogView {
    directory: Directory,
    identity: Identity,
    survey: Survey,
}

/// A segment as [`LogView::segments`] lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary {
    /// Its id.
    pub id: SegmentId,
    /// The length of its file.
    pub bytes: u64,
    /// What it is used for.
    pub state: SegmentState,
    /// The first commit that begins in it or behind its beginning; `None` when it has no frames.
    pub first: Option<Lsn>,
}

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Full, with a footer, synced.
    Sealed,
    /// Where commits are being appended.
    Active,
    /// Written with zeros, ahead of need.
    Prepared,
}

/// What [`LogView::verify`] found.
#[derive(Clone, Debug)]
pub struct Verification {
    /// How many segments were read.
    pub segments: u64,
    /// How many complete commits they hold.
    pub commits: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Everything that is damaged, in order.
    pub damages: Vec<Damage>,
}

impl LogView {
    /// Looks at the log in `path`.
    ///
    /// # Errors
    /// [`LogError::Missing`] when there is none, [`LogError::Damaged`] when its end is damaged, [`LogError::Newer`].
    pub fn open(env: &Env, path: &Path) -> Result<Self, LogError> {
        Self::open_witnessed(env, path, &[])
    }

    /// Looks at the log in `path`, which others prove to have been durable up to these LSNs, if it is the log that they name.
    ///
    /// # Errors
    /// As [`LogView::open`]; [`LogError::Damaged`] also when it ends before that.
    pub fn open_witnessed(env: &Env, path: &Path, witnesses: &[(LogId, Lsn)]) -> Result<Self, LogError> {
        let directory = Directory { disk: Arc::clone(&env.disk), path: path.to_owned() };
        let mut attempt = 1;
        loop {
            match Self::look(&directory, witnesses) {
                // A running server renames manifests and writes segments under our eyes.
                Err(LogError::Damaged(_) | LogError::Io { .. }) if attempt < LOOKS_MAX => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    fn look(directory: &Directory, witnesses: &[(LogId, Lsn)]) -> Result<Self, LogError> {
        let survey = Survey::of(directory, |log| super::proven_by(witnesses, log))?;
        let identity = survey.manifest.identity();
        Ok(Self { directory: directory.clone(), identity, survey })
    }

    /// The log's identity.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.survey.manifest.log
    }

    /// Whether it is a backup that was not opened for writing yet.
    #[must_use]
    pub const fn is_backup(&self) -> bool {
        self.survey.manifest.is_backup
    }

    /// The last opening for writing.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.survey.tail.epoch
    }

    /// The last commit that a later frame, or a clean close, says was synced. What is behind it is in flight.
    #[must_use]
    pub fn synced(&self) -> Lsn {
        self.survey.synced()
    }

    /// The last complete commit, synced or not.
    #[must_use]
    pub fn complete(&self) -> Lsn {
        self.survey.tail.complete
    }

    /// What the base image is of, if there is one.
    #[must_use]
    pub fn base(&self) -> Option<Lsn> {
        self.survey.manifest.base
    }

    /// Reads the base image, if there is one.
    ///
    /// # Errors
    /// [`LogError::BaseDamaged`], [`LogError::Newer`], [`LogError::Io`].
    pub fn read_base(&self) -> Result<Option<BaseReader>, LogError> {
        self.base().map(|lsn| base::read(&self.directory, self.identity, lsn)).transpose()
    }

    /// The earliest commit that is not trimmed away.
    #[must_use]
    pub fn earliest(&self) -> Lsn {
        self.survey.manifest.trimmed.next()
    }

    /// The segments, rising.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Newer`], [`LogError::Io`].
    pub fn segments(&self) -> Result<Vec<SegmentSummary>, LogError> {
        self.survey
            .present
            .iter()
            .filter(|id| **id >= self.survey.manifest.first)
            .map(|id| self.summarize(*id))
            .collect()
    }

    fn summarize(&self, id: SegmentId) -> Result<SegmentSummary, LogError> {
        let path = self.directory.segment_path(id);
        let file = self.directory.open(&path, Access::Read)?;
        let bytes = file.byte_len().map_err(self.directory.failed("look at", &path))?;
        let mut header = [0; FRAME_HEADER_BYTES];
        file.read_at(&mut header, SEGMENT_HEADER_BYTES).map_err(self.directory.failed("read", &path))?;
        let first = frame::decode_header(self.identity.seed(), SEGMENT_HEADER_BYTES, &header).ok();
        let first = first.filter(|checked| checked.header.segment == id);
        let state = match (self.survey.tail.sealed, self.survey.tail.active) {
            (Some(sealed), _) if id <= sealed.segment => SegmentState::Sealed,
            (_, Some(active)) if id == active.id => SegmentState::Active,
            _ => SegmentState::Prepared,
        };
        let first = first.map(|checked| Chain::complete_before(&checked.header).next());
        Ok(SegmentSummary { id, bytes, state, first })
    }

    /// Hands the synced commits after `after` to `visit`, in order, until it breaks.
    ///
    /// # Errors
    /// [`LogError::Damaged`] at the first commit that cannot be read, [`LogError::BelowRetained`], [`LogError::Io`].
    pub fn commits(&self, after: Lsn, mut visit: impl FnMut(EncodedCommit) -> ControlFlow<()>) -> Result<(), LogError> {
        let earliest = self.earliest();
        if after.next() < earliest {
            return Err(LogError::BelowRetained { after, earliest });
        }
        let synced = self.synced();
        let mut parts = Vec::new();
        let mut flow = ControlFlow::Continue(());
        let (start, mut chain) = self.start_before(after.next())?;
        for id in self.survey.present.iter().copied().filter(|id| *id >= start) {
            if chain.complete() >= synced || flow.is_break() {
                break;
            }
            let (segment, damage) = self.follow(id, chain, |lsn, link, payload| {
                if let Link::Begins { .. } = link {
                    parts.clear();
                }
                let is_complete = match link {
                    Link::Begins { is_complete } | Link::Continues { is_complete } => is_complete,
                    Link::Foreign | Link::Mark | Link::Seal => return,
                };
                if lsn <= after || lsn > synced || flow.is_break() {
                    return;
                }
                parts.push(Bytes::copy_from_slice(payload));
                if is_complete {
                    flow = visit(EncodedCommit::from_parts(lsn, std::mem::take(&mut parts)));
                }
            })?;
            if let Some(damage) = damage.filter(|damage| damage.first <= synced && flow.is_continue()) {
                return Err(damage.into());
            }
            chain = segment;
        }
        Ok(())
    }

    /// Reads every byte of the log and checks every checksum, telling `progress` the bytes read after each segment.
    ///
    /// # Errors
    /// [`LogError::Io`], [`LogError::Newer`]; damage is part of the answer.
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<Verification, LogError> {
        let mut found = Verification { segments: 0, commits: 0, bytes: 0, damages: Vec::new() };
        if let Some(lsn) = self.base() {
            found.damages.extend(base::check(&self.directory, self.identity, lsn, |bytes| {
                found.bytes += bytes;
                progress(found.bytes);
                ControlFlow::Continue(())
            })?);
        }
        let mut chain = self.first_chain();
        for id in self.survey.present.iter().copied().filter(|id| *id >= self.survey.manifest.first) {
            let is_used = self.survey.tail.active.is_some_and(|active| id <= active.id)
                || self.survey.tail.sealed.is_some_and(|sealed| id <= sealed.segment);
            if !is_used {
                continue;
            }
            let complete = chain.complete();
            let (next, damage) = self.follow(id, chain, |_, _, _| {})?;
            found.segments += 1;
            found.commits += next.complete().value().saturating_sub(complete.value());
            let path = self.directory.segment_path(id);
            let file = self.directory.open(&path, Access::Read)?;
            found.bytes += file.byte_len().map_err(self.directory.failed("look at", &path))?;
            progress(found.bytes);
            let is_damaged = damage.is_some();
            found.damages.extend(damage);
            chain = next;
            if is_damaged {
                // What follows is checked by itself: it cannot be chained to what is not readable.
                chain = self
                    .summarize(id.next())
                    .ok()
                    .and_then(|next| next.first)
                    .map_or(chain, |first| Chain::joining(first.previous()));
            }
        }
        Ok(found)
    }

    fn first_chain(&self) -> Chain {
        match self.survey.manifest.trimmed {
            Lsn::ORIGIN => Chain::after(0, Lsn::ORIGIN, None),
            trimmed => Chain::joining(trimmed),
        }
    }

    /// The last segment that begins before commit `lsn`, and the chain to read it with.
    fn start_before(&self, lsn: Lsn) -> Result<(SegmentId, Chain), LogError> {
        let kept: Vec<_> = self.survey.present.iter().copied().filter(|id| *id >= self.survey.manifest.first).collect();
        let (mut low, mut high) = (0, kept.len());
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.summarize(kept[middle])?.first {
                Some(first) if first <= lsn => {
                    found = Some((kept[middle], first));
                    low = middle + 1;
                }
                _ => high = middle,
            }
        }
        Ok(match found {
            Some((id, first)) if id > self.survey.manifest.first => (id, Chain::joining(first.previous())),
            _ => (self.survey.manifest.first, self.first_chain()),
        })
    }

    /// Follows the frames of a segment; what is damaged in it is told beside the chain.
    fn follow(
        &self,
        id: SegmentId,
        chain: Chain,
        mut visit: impl FnMut(Lsn, Link, &[u8]),
    ) -> Result<(Chain, Option<Damage>), LogError> {
        let contents = self.directory.read(&self.directory.segment_path(id))?;
        let first = chain.next_lsn();
        let damage = |what: &str, start: u64, first: Lsn| {
            let bytes = start..contents.len() as u64;
            Some(Damage { what: what.to_owned(), segment: id, bytes, first, last: first.max(self.synced()) })
        };
        if let Err(unusable) =
            check_segment_header(&self.directory, self.identity, id, &contents, contents.len() as u64)?
        {
            return Ok((chain, damage(unusable.what(), 0, first)));
        }
        let scan =
            scan(self.identity, id, &contents, chain, |header, link, _, payload| visit(header.lsn, link, payload));
        let is_last = self.survey.tail.sealed.is_none_or(|sealed| id > sealed.segment);
        let lost = scan.chain.next_lsn();
        let damage = match &scan.stop {
            Stop::Sealed => None,
            Stop::Blank | Stop::Bad(_) if is_last && lost > self.synced() => None,
            Stop::Blank => damage("zeros where commits were", scan.end, lost),
            Stop::Bad(what) => damage(what, scan.end, lost),
            Stop::Newer { what, found } => {
                let found = format!("{what} {found} of a frame");
                let path = self.directory.segment_path(id);
                return Err(LogError::Newer { path, found, known: u32::from(frame::FRAME_VERSION) });
            }
        };
        Ok((scan.chain, damage))
    }
}

impl std::fmt::Debug for LogView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogView of {} in {}", self.id(), self.directory.path.display())
    }
}

/// How often a directory that looks damaged is looked at again.
const LOOKS_MAX: u32 = 5;
