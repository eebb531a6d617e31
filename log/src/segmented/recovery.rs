//! Finding where a log ends, after whatever happened to it.
//!
//! At the first bad frame there are two explanations. Either a group was being written when the power went: its pages reach the
//! medium in any order, so whole frames may stand behind a torn one, and none of it was acknowledged. Or bytes that were synced
//! have changed. What tells them apart is `synced lsn`: a frame that was written after the sync that covered the bad one says so,
//! and so do witnesses outside (the manifest, what a materializer has applied). Then the log refuses to open. Otherwise it is cut
//! after its last complete commit.
//!
//! What is cut was never acknowledged; what is kept is written again in place and synced before it counts as durable, because
//! after a kill it may lie in the page cache only.

use std::io::ErrorKind;
use std::ops::Range;

use super::directory::{
    Directory, Identity, SEGMENT_HEADER_BYTES, SegmentHeader, Unusable, check_segment_header, zero,
};
use super::index::{Index, Place};
use super::manifest::{Manifest, Sealed};
use super::scan::{Boundary, Scan, Stop, headers_from, headers_in, scan};
use crate::chain::Chain;
use crate::env::Access;
use crate::error::{Damage, LogError};
use crate::frame::{FRAME_HEADER_BYTES, FRAME_VERSION};
use crate::position::{Epoch, LogId, Lsn, SegmentId};

/// Where a log ends, and what is to be done before it may go on.
#[derive(Debug)]
pub(super) struct Tail {
    /// The last complete commit.
    pub(super) complete: Lsn,
    /// The highest synced LSN that a frame tells.
    pub(super) synced: Lsn,
    /// The highest epoch of a frame.
    pub(super) epoch: Epoch,
    /// The segments looked at, rising: those that the manifest does not call sealed and that have a valid header.
    pub(super) segments: Vec<TailSegment>,
    /// Where writing goes on; `None` when the last segment with frames is sealed, or there is none.
    pub(super) active: Option<Active>,
    /// The last sealed segment.
    pub(super) sealed: Option<Sealed>,
}

/// A segment that was looked at.
#[derive(Debug)]
pub(super) struct TailSegment {
    pub(super) id: SegmentId,
    pub(super) bytes: u64,
    /// Where each commit begins that begins here and is kept.
    pub(super) commits: Vec<(Lsn, u64)>,
    /// What to write again, so that it is durable for certain.
    pub(super) rewrite: Range<u64>,
    /// What to overwrite with zeros.
    pub(super) clear: Range<u64>,
}

/// Where writing goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Active {
    pub(super) id: SegmentId,
    pub(super) at: Boundary,
}

/// A directory as it is found, by somebody who changes nothing.
pub(super) struct Survey {
    pub(super) manifest: Manifest,
    pub(super) present: Vec<SegmentId>,
    pub(super) tail: Tail,
}

impl Survey {
    /// Looks at the log in `directory`; `witness` tells what is proven of a log.
    pub(super) fn of(directory: &Directory, witness: impl FnOnce(LogId) -> Lsn) -> Result<Self, LogError> {
        let missing = || LogError::Missing { path: directory.path.clone() };
        let (present, generations) = directory.list().map_err(|error| match error {
            LogError::Io { source, .. } if source.kind() == ErrorKind::NotFound => missing(),
            other => other,
        })?;
        directory.check_finished()?;
        let manifest = Manifest::load(directory, &generations)?.ok_or_else(missing)?;
        let (identity, witness) = (manifest.identity(), manifest.proven(witness));
        let tail = find_tail(directory, identity, &manifest, &present, witness, Judgement::Specified)?;
        Ok(Self { manifest, present, tail })
    }

    /// The last commit that a later frame, or a clean close, says was synced.
    pub(super) fn synced(&self) -> Lsn {
        self.tail.synced.max(self.manifest.clean.unwrap_or(Lsn::ORIGIN))
    }
}

/// How the end is judged; anything but [`Judgement::Specified`] is a defect, kept to show that the tests find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// As the module's head says.
    Specified,
    /// Any valid frame behind a bad one is taken for damage.
    #[cfg(test)]
    RefusesAtAnyLaterFrame,
    /// The log is cut at the first bad frame without another look.
    #[cfg(test)]
    CutsAtTheFirstBadFrame,
}

/// Looks at the segments behind the last one that the manifest calls sealed, and says where the log ends.
///
/// `witness` is the highest LSN that anything outside the log proves to have been durable.
pub(super) fn find_tail(
    directory: &Directory,
    identity: Identity,
    manifest: &Manifest,
    present: &[SegmentId],
    witness: Lsn,
    judgement: Judgement,
) -> Result<Tail, LogError> {
    let segments = look(directory, identity, manifest, present)?;
    let sealed_lsn = manifest.sealed.map_or(manifest.trimmed, |sealed| sealed.lsn);
    let mut tail = Tail {
        complete: sealed_lsn,
        synced: sealed_lsn,
        epoch: manifest.epoch,
        segments: Vec::new(),
        active: None,
        sealed: manifest.sealed,
    };
    let told = [manifest.clean, manifest.base].into_iter().flatten();
    let proven = told.fold(witness.max(sealed_lsn), Lsn::max);
    let last = segments.iter().rposition(|segment| segment.has_frames);
    let mut chain = match manifest.sealed {
        Some(sealed) => Chain::after(sealed.checksum, sealed.lsn, sealed.next_part),
        None => Chain::after(0, manifest.trimmed, None),
    };
    for (index, segment) in segments.iter().enumerate() {
        let is_last = Some(index) == last;
        if last.is_none_or(|last| index > last) {
            let clear = SEGMENT_HEADER_BYTES..segment.used;
            tail.segments.push(segment.outcome(Vec::new(), 0..0, clear));
            continue;
        }
        let contents = segment.read(directory)?;
        let scan = scan(identity, segment.id, &contents, chain.clone(), |_, _, _, _| {});
        judge(identity, segment.id, &contents, &scan, is_last, proven, judgement)?;
        tail.epoch = tail.epoch.max(scan.chain.epoch());
        tail.complete = scan.chain.complete();
        tail.synced = scan.chain.synced();
        let kept = if scan.stop == Stop::Sealed { scan.end } else { scan.boundary.offset };
        // Only the last segment may hold what was never synced: one is synced before the next is used. It is written again from the
        // last commit known to be synced, and so with the marks behind that, which later frames are chained to.
        let synced = scan.chain.synced().max(manifest.clean.unwrap_or(Lsn::ORIGIN));
        let known = scan.commits.iter().rev().find(|(lsn, offset)| *lsn <= synced && *offset < kept);
        let unsynced_from = known.map_or(SEGMENT_HEADER_BYTES, |(_, offset)| *offset);
        let rewrite = if is_last { unsynced_from..kept } else { 0..0 };
        let commits = scan.commits.iter().copied().filter(|(_, offset)| *offset < kept).collect();
        let clear = if is_last { kept..segment.used.max(kept) } else { 0..0 };
        tail.segments.push(segment.outcome(commits, rewrite, clear));
        if scan.stop == Stop::Sealed {
            let (lsn, checksum, next_part) = (scan.chain.complete(), scan.chain.checksum(), scan.chain.next_part());
            tail.sealed = Some(Sealed { segment: segment.id, lsn, checksum, next_part });
        } else {
            tail.active = Some(Active { id: segment.id, at: scan.boundary });
        }
        chain = scan.chain;
    }
    if proven > tail.complete {
        let segment = segments.last().map_or(manifest.active, |segment| segment.id);
        let what = "commits that were durable are missing at the end".to_owned();
        return Err(Damage { what, segment, bytes: 0..0, first: tail.complete.next(), last: proven }.into());
    }
    Ok(tail)
}

impl Tail {
    /// Where the commits of the segments lie that were looked at.
    pub(super) fn index(&self) -> Index {
        let mut index = Index::default();
        for segment in &self.segments {
            let mut complete = segment.commits.first().map_or(Lsn::ORIGIN, |(lsn, _)| lsn.previous());
            for (lsn, offset) in &segment.commits {
                index.learn(segment.id, Place { complete, offset: *offset });
                complete = *lsn;
            }
        }
        index
    }
}

/// Does what [`find_tail`] found to be necessary. Interrupted at any point, the next opening finds the same tail.
pub(super) fn settle(directory: &Directory, tail: &Tail) -> Result<(), LogError> {
    for segment in &tail.segments {
        if segment.rewrite.is_empty() && segment.clear.is_empty() {
            continue;
        }
        let path = directory.segment_path(segment.id);
        let file = directory.open(&path, Access::ReadWrite)?;
        let mut bytes = vec![0; (segment.rewrite.end - segment.rewrite.start) as usize];
        file.read_at(&mut bytes, segment.rewrite.start).map_err(directory.failed("read", &path))?;
        file.write_at(&bytes, segment.rewrite.start).map_err(directory.failed("write", &path))?;
        zero(&*file, segment.clear.start, segment.clear.end).map_err(directory.failed("clear", &path))?;
        file.sync_data().map_err(directory.failed("sync", &path))?;
    }
    directory.sync()
}

/// A segment as a look through it tells.
struct Found {
    id: SegmentId,
    bytes: u64,
    /// Where the last byte that is not zero ends.
    used: u64,
    has_frames: bool,
}

impl Found {
    fn read(&self, directory: &Directory) -> Result<Vec<u8>, LogError> {
        let mut contents = directory.read(&directory.segment_path(self.id))?;
        contents.truncate(self.bytes as usize);
        Ok(contents)
    }

    fn outcome(&self, commits: Vec<(Lsn, u64)>, rewrite: Range<u64>, clear: Range<u64>) -> TailSegment {
        TailSegment { id: self.id, bytes: self.bytes, commits, rewrite, clear }
    }
}

/// What stands in a segment file, piece by piece: most of what is looked through was prepared ahead and is empty.
struct Look {
    file_bytes: u64,
    header: Result<SegmentHeader, Unusable>,
    /// Where the last byte that is not zero ends.
    used: u64,
    /// The lowest and the highest LSN that any frame names, wherever it stands; `None` when there is no frame.
    lsns: Option<(Lsn, Lsn)>,
}

impl Look {
    fn through(directory: &Directory, identity: Identity, id: SegmentId) -> Result<Self, LogError> {
        let path = directory.segment_path(id);
        let file = directory.open(&path, Access::Read)?;
        let file_bytes = file.byte_len().map_err(directory.failed("read", &path))?;
        let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
        let count = file.read_at(&mut block, 0).map_err(directory.failed("read", &path))?;
        let header = check_segment_header(directory, identity, id, &block[..count], file_bytes)?;
        let end = header.map_or(file_bytes, |header| header.bytes);
        let (mut used, mut lsns) = (SEGMENT_HEADER_BYTES, None);
        // A header that begins in a piece ends behind it.
        let mut buffer = vec![0; PIECE_BYTES + FRAME_HEADER_BYTES];
        let mut base = 0;
        while base < file_bytes {
            let next = base + PIECE_BYTES as u64;
            let count = file.read_at(&mut buffer, base).map_err(directory.failed("read", &path))?;
            let piece = &buffer[..count];
            if let Some(last) = last_used(&piece[..count.min(end.saturating_sub(base) as usize)]) {
                used = used.max(base + last as u64 + 1);
            }
            for header in headers_in(identity, id, piece, base, SEGMENT_HEADER_BYTES..next) {
                match header {
                    Ok((_, header)) => {
                        let (low, high) = lsns.unwrap_or((header.lsn, header.lsn));
                        lsns = Some((header.lsn.min(low), header.lsn.max(high)));
                    }
                    Err(Stop::Newer { what, found }) => {
                        let found = format!("{what} {found} of a frame");
                        return Err(LogError::Newer { path, found, known: u32::from(FRAME_VERSION) });
                    }
                    Err(_) => {}
                }
            }
            base = next;
        }
        Ok(Self { file_bytes, header, used, lsns })
    }
}

/// Where the last byte is that is not zero.
fn last_used(bytes: &[u8]) -> Option<usize> {
    // Whole pages of zeros are passed over without a question for each byte.
    let page = |start: usize| &bytes[start..bytes.len().min(start + 4096)];
    let is_used = |start: &usize| page(*start).iter().fold(0, |any, byte| any | byte) != 0;
    let start = (0..bytes.len()).step_by(4096).rev().find(is_used)?;
    page(start).iter().rposition(|byte| *byte != 0).map(|at| start + at)
}

/// Looks through the segments behind the manifest's last sealed one: all with frames, and behind them those prepared ahead, up to the first
/// that is not usable. That and what is behind it holds nothing, and is written over in its turn.
fn look(
    directory: &Directory,
    identity: Identity,
    manifest: &Manifest,
    present: &[SegmentId],
) -> Result<Vec<Found>, LogError> {
    let sealed = manifest.sealed.map_or(manifest.first.value() - 1, |sealed| sealed.segment.value());
    let missing = |id: u64, newest: SegmentId| {
        let what = format!("the file is missing or unusable, though segment {newest} is or was in use");
        let first = manifest.sealed.map_or(manifest.trimmed, |sealed| sealed.lsn).next();
        Damage { what, segment: SegmentId::new(id), bytes: 0..0, first, last: first }
    };
    for id in manifest.first.value()..=sealed.max(manifest.active.value()) {
        if present.binary_search(&SegmentId::new(id)).is_err() {
            return Err(missing(id, manifest.active).into());
        }
    }
    let mut segments: Vec<Found> = Vec::new();
    let mut gap = None;
    for (expected, id) in (sealed + 1..).zip(present.iter().copied().filter(|id| id.value() > sealed)) {
        if id.value() != expected && gap.is_none() {
            gap = Some(expected);
        }
        let Look { file_bytes, header, used, lsns } = Look::through(directory, identity, id)?;
        let (bytes, unusable) = match header {
            Ok(SegmentHeader { bytes, .. }) => (bytes, None),
            Err(unusable) => (file_bytes, Some(unusable)),
        };
        match (lsns, unusable) {
            (None, None | Some(Unusable::Header | Unusable::Cut)) if gap.is_some() => {}
            (Some(_), None) if gap.is_some() => return Err(missing(gap.unwrap_or(expected), id).into()),
            (lsns, None) => segments.push(Found { id, bytes, used, has_frames: lsns.is_some() }),
            // A preparation that was interrupted, or an unused file that was damaged: nothing is in it.
            (None, Some(Unusable::Header | Unusable::Cut)) => gap = Some(id.value()),
            (lsns, Some(unusable)) => {
                let (first, last) = lsns.unwrap_or((Lsn::ORIGIN, Lsn::ORIGIN));
                let bytes = 0..bytes;
                return Err(Damage { what: unusable.what().to_owned(), segment: id, bytes, first, last }.into());
            }
        }
    }
    Ok(segments)
}

/// Whether the frames of `segment` may end as they do; if not, what is damaged.
fn judge(
    identity: Identity,
    id: SegmentId,
    contents: &[u8],
    scan: &Scan,
    is_last: bool,
    proven: Lsn,
    judgement: Judgement,
) -> Result<(), LogError> {
    if scan.stop == Stop::Sealed {
        return Ok(());
    }
    #[cfg(test)]
    if judgement == Judgement::CutsAtTheFirstBadFrame && is_last {
        return Ok(());
    }
    let lost = scan.chain.next_lsn();
    let later = || headers_from(identity, id, contents, scan.end + 1).filter_map(Result::ok);
    let told = later().map(|(_, header)| header.synced).max().unwrap_or(Lsn::ORIGIN);
    let is_damage = match judgement {
        Judgement::Specified => told >= lost || proven >= lost,
        #[cfg(test)]
        Judgement::RefusesAtAnyLaterFrame => later().next().is_some() || proven >= lost,
        #[cfg(test)]
        Judgement::CutsAtTheFirstBadFrame => false,
    };
    if is_last && !is_damage {
        return Ok(());
    }
    let what = match &scan.stop {
        Stop::Bad(what) => (*what).to_owned(),
        Stop::Blank => "zeros where commits were".to_owned(),
        Stop::Newer { .. } | Stop::Sealed => unreachable!("both were dealt with"),
    };
    let what = if is_last { what } else { format!("{what}, in a segment that was sealed") };
    let end = later().map(|(offset, _)| offset).find(|offset| *offset > scan.end).unwrap_or(contents.len() as u64);
    let damage = Damage { what, segment: id, bytes: scan.end..end, first: lost, last: told.max(proven).max(lost) };
    Err(damage.into())
}

/// Bytes of a segment that are looked at together; few in tests, whose segments are small.
const PIECE_BYTES: usize = if cfg!(test) { 4096 } else { 1024 * 1024 };
