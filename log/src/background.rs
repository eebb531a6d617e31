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
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_over: bool,
    is_cut_short: bool,
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
        self.pauses.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_over = true;
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
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.0.wake.wait_timeout_while(state, limit, |state| !state.is_over && !state.is_cut_short);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.is_cut_short = false;
        if state.is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Whether it is time to end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_over
    }

    /// Ends the present pause, or the next one, at once: there is work.
    pub fn cut_short(&self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).is_cut_short = true;
        self.0.wake.notify_all();
    }
}
