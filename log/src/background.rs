//! A thread that works now and then beside all others.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// The thread. Dropping it asks it to end, and waits until it has.
#[derive(Debug)]
pub struct Background {
    pauses: Pauses,
    thread: Option<JoinHandle<()>>,
}

/// How the thread waits.
#[derive(Clone, Debug, Default)]
pub struct Pauses(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    is_over: Mutex<bool>,
    wake: Condvar,
}

impl Background {
    /// Starts a thread of this name. Its work is to pause now and then, and to end when a pause breaks: whoever drops this waits for it.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(name: &str, work: impl FnOnce(Pauses) + Send + 'static) -> io::Result<Self> {
        let pauses = Pauses::default();
        let own = pauses.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || work(own))?;
        Ok(Self { pauses, thread: Some(thread) })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        *self.pauses.0.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.pauses.0.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Pauses {
    /// Waits so long; breaks, perhaps sooner, when it is time to end.
    pub fn wait(&self, limit: Duration) -> ControlFlow<()> {
        let is_over = self.0.is_over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.wake.wait_timeout_while(is_over, limit, |is_over| !*is_over);
        if *waited.unwrap_or_else(PoisonError::into_inner).0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
