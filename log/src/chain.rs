//! Which frame may follow which: the rules that a sequence of frames keeps, as a state that moves only forward.

use crate::frame::{FrameHeader, FrameKind};
use crate::position::{Epoch, Lsn};

/// Where a sequence of frames stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chain {
    /// The checksum of the last frame; `None` when reading began in the middle, where anything may follow.
    checksum: Option<u32>,
    /// The last commit whose frames are all there.
    complete: Lsn,
    /// A commit that has begun and not ended: its LSN, and the number that its next part must have.
    open: Option<(Lsn, u32)>,
    /// The highest synced LSN that a frame told.
    synced: Lsn,
    epoch: Epoch,
}

/// What a frame was in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// The first part of a commit; what was unfinished before it is void. It may be the last part, too.
    Begins { is_complete: bool },
    /// A further part of the commit that has begun.
    Continues { is_complete: bool },
    /// A part of a commit whose beginning lies before where reading began.
    Foreign,
    /// A mark.
    Mark,
    /// The end of a segment.
    Seal,
}

impl Chain {
    /// The chain after a frame of this checksum, which ended commit `complete`, or the part before `next_part` of the one after
    /// it. A log begins with checksum 0 and the origin.
    pub(crate) fn after(checksum: u32, complete: Lsn, next_part: Option<u32>) -> Self {
        let open = next_part.map(|part| (complete.next(), part));
        Self { checksum: Some(checksum), complete, open, synced: Lsn::ORIGIN, epoch: Epoch::default() }
    }

    /// A chain that begins in the middle of a log, at a frame boundary; `complete` as the first frame tells it.
    pub(crate) fn joining(complete: Lsn) -> Self {
        Self { checksum: None, ..Self::after(0, complete, None) }
    }

    /// The last complete commit before a frame, by its header alone.
    pub(crate) const fn complete_before(header: &FrameHeader) -> Lsn {
        match header.kind {
            FrameKind::Commit if header.is_first => header.lsn.previous(),
            FrameKind::Commit | FrameKind::Mark | FrameKind::Seal | FrameKind::Base => header.lsn,
        }
    }

    pub(crate) const fn checksum(&self) -> u32 {
        match self.checksum {
            Some(checksum) => checksum,
            None => 0,
        }
    }

    pub(crate) const fn complete(&self) -> Lsn {
        self.complete
    }

    pub(crate) const fn synced(&self) -> Lsn {
        self.synced
    }

    pub(crate) const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number that the next part of an unfinished commit has.
    pub(crate) fn next_part(&self) -> Option<u32> {
        self.open.map(|(_, part)| part)
    }

    pub(crate) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The LSN that a bad frame here would have belonged to: the unfinished commit's, else the next one's.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.open.map_or(self.complete.next(), |(lsn, _)| lsn)
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// Which rule it breaks; the chain is as before then.
    pub(crate) fn follow(&mut self, header: &FrameHeader, checksum: u32) -> Result<Link, &'static str> {
        if self.checksum.is_some_and(|previous| previous != header.previous) {
            return Err("a frame that does not follow the one before it");
        }
        if header.epoch < self.epoch {
            return Err("a frame of an older epoch than the one before it");
        }
        let is_joining = self.checksum.is_none();
        let link = match header.kind {
            FrameKind::Commit if header.is_first => {
                if header.lsn != self.complete.next() || header.part != 0 {
                    return Err("a commit out of order");
                }
                Link::Begins { is_complete: header.is_last }
            }
            FrameKind::Commit => match self.open {
                Some((lsn, part)) if lsn == header.lsn && part == header.part => {
                    Link::Continues { is_complete: header.is_last }
                }
                None if is_joining && header.lsn == self.complete => Link::Foreign,
                _ => return Err("a part of a commit that has not begun"),
            },
            _ if header.lsn != self.complete => return Err("a mark or footer out of order"),
            FrameKind::Mark => Link::Mark,
            FrameKind::Seal => Link::Seal,
            FrameKind::Base => return Err("a frame of a base image"),
        };
        match link {
            Link::Begins { is_complete } | Link::Continues { is_complete } if is_complete => {
                self.open = None;
                self.complete = header.lsn;
            }
            Link::Begins { .. } | Link::Continues { .. } => self.open = Some((header.lsn, header.part + 1)),
            Link::Foreign | Link::Mark | Link::Seal => {}
        }
        // While foreign parts go by, their commit's end is unknown, so the chain goes on joining.
        if link != Link::Foreign {
            self.checksum = Some(checksum);
        }
        self.epoch = header.epoch;
        self.synced = self.synced.max(header.synced);
        Ok(link)
    }
}
