//! One at a time: of those that write for the same source.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

/// Who writes for a source; it is given up when this goes.
pub struct Hold {
    holds: Arc<Holds>,
    name: Bytes,
}

/// The sources that are written for.
#[derive(Default)]
pub(crate) struct Holds {
    names: Mutex<HashSet<Bytes>>,
    freed: Condvar,
}

impl Holds {
    /// Takes the hold of this name; waits while somebody has it, at most for `patience`. `None`: somebody still has it.
    pub(crate) fn take(self: &Arc<Self>, name: Bytes, patience: Duration) -> Option<Hold> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(names, patience, |names| names.contains(&name));
        let (mut names, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_free = names.insert(name.clone());
        is_free.then(|| Hold { holds: Arc::clone(self), name })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.names.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
        self.holds.freed.notify_all();
    }
}
