//! Who reads a named feed.

use tokio::sync::watch;

use crate::error::FeedError;

/// A feed's owners, one after another.
pub(super) struct Ownerships {
    present: watch::Sender<Owner>,
}

#[derive(Clone, Copy, Default)]
struct Owner {
    /// Another one with each owner.
    generation: u64,
    is_owned: bool,
    /// The feed was dropped.
    is_over: bool,
}

/// The right to read a feed and to acknowledge what it tells. Dropping it lets the next one come.
pub(super) struct Ownership {
    generation: u64,
    present: watch::Sender<Owner>,
    changes: watch::Receiver<Owner>,
}

/// Somebody else owns the feed.
pub(super) struct Taken(watch::Receiver<Owner>);

impl Default for Ownerships {
    fn default() -> Self {
        Self { present: watch::Sender::new(Owner::default()) }
    }
}

impl Ownerships {
    /// Makes the caller the owner, if there is none or he takes it over.
    pub(super) fn claim(&self, takes_over: bool) -> Result<Ownership, Taken> {
        let mut generation = None;
        self.present.send_if_modified(|owner| {
            let is_free = takes_over || !owner.is_owned;
            if is_free {
                *owner = Owner { generation: owner.generation + 1, is_owned: true, ..*owner };
                generation = Some(owner.generation);
            }
            is_free
        });
        let changes = self.present.subscribe();
        match generation {
            Some(generation) => Ok(Ownership { generation, present: self.present.clone(), changes }),
            None => Err(Taken(changes)),
        }
    }

    /// Whether somebody owns it.
    pub(super) fn is_owned(&self) -> bool {
        self.present.borrow().is_owned
    }

    /// The feed is gone: its owner is told, and who waits for it.
    pub(super) fn end(&self) {
        self.present.send_modify(|owner| owner.is_over = true);
    }
}

impl Ownership {
    /// Fails when it is over.
    pub(super) fn check(&self) -> Result<(), FeedError> {
        self.judge(*self.present.borrow())
    }

    /// Waits until it is over; tells why.
    pub(super) async fn lost(&mut self) -> FeedError {
        loop {
            let present = *self.changes.borrow_and_update();
            if let Err(over) = self.judge(present) {
                return over;
            }
            if self.changes.changed().await.is_err() {
                return FeedError::Closed;
            }
        }
    }

    fn judge(&self, owner: Owner) -> Result<(), FeedError> {
        if owner.is_over {
            return Err(FeedError::Gone);
        }
        if owner.generation == self.generation { Ok(()) } else { Err(FeedError::Fenced) }
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.present.send_if_modified(|owner| {
            let is_own = owner.generation == self.generation && owner.is_owned;
            owner.is_owned &= !is_own;
            is_own
        });
    }
}

impl Taken {
    /// Waits until the feed may be free.
    pub(super) async fn released(mut self) {
        // Also when nobody is left to tell.
        let _ = self.0.wait_for(|owner| !owner.is_owned || owner.is_over).await;
    }
}
