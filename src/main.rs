//! The command `highwater`.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use highwater::cli::Cli;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// Rows, cells and batches are many small pieces: an allocator made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    give_memory_back();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVELS));
    // A span that ends is told: those of applied commits, with the LSN, from the level `debug` on.
    let lines = tracing_subscriber::fmt().with_span_events(FmtSpan::CLOSE);
    let is_read_by_people = std::io::stderr().is_terminal();
    lines.with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_read_by_people).init();
    Cli::parse().run()
}

/// Has the allocator give memory back to the system soon after it was freed (a second, unless told otherwise): what a server holds
/// when it is idle, or after a large result, is then what it needs. Large results took up to some hundredths more
/// of the processor's time with it.
fn give_memory_back() {
    #[expect(unsafe_code, reason = "it is a function of C")]
    // SAFETY: no other thread runs yet, and the option takes any number.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_MILLIS);
    }
}

/// `mi_option_purge_delay`, for which the bindings have no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
const PURGE_DELAY_MILLIS: std::ffi::c_long = 10;
/// Our own warnings, and everybody's errors; `RUST_LOG` says otherwise.
const DEFAULT_LEVELS: &str = "error,highwater=warn";
