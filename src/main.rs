//! The command `highwater`.

use std::process::ExitCode;

use clap::Parser;
use highwater::cli::Cli;

/// Rows, cells and batches are many small pieces: an allocator made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    Cli::parse().run()
}
