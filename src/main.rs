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
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_LEVELS));
    // A span that ends is told: those of applied commits, with the LSN, from the level `debug` on.
    let lines = tracing_subscriber::fmt().with_span_events(FmtSpan::CLOSE);
    let is_read_by_people = std::io::stderr().is_terminal();
    lines.with_env_filter(filter).with_writer(std::io::stderr).with_ansi(is_read_by_people).init();
    Cli::parse().run()
}

/// Our own warnings, and everybody's errors; `RUST_LOG` says otherwise.
const DEFAULT_LEVELS: &str = "error,highwater=warn";
