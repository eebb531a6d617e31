//! Limits of a server, as arguments and as variables of the environment.

use std::time::Duration;

use clap::Args;
use highwater_log::sequencer::SequencerOptions;
use highwater_log::{ScrubOptions, SegmentedOptions};
use highwater_materializers::KvOptions;
use highwater_query::EngineOptions;

use crate::Options;

/// `docs/limits.md` says more of each.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct Limits {
    /// How far back reads in the past may go, at least 10 seconds; the log is not trimmed beyond that.
    #[arg(long, default_value_t = 86_400, env = "HIGHWATER__HISTORY_SECONDS", value_parser = clap::value_parser!(u64).range(10..))]
    history_seconds: u64,

    /// For how long what is open may read beyond the history, before it fails with 72000.
    #[arg(long, default_value_t = 3_600, env = "HIGHWATER__SNAPSHOT_AGE_MAX_SECONDS")]
    snapshot_age_max_seconds: u64,

    /// Bytes of the rows' files, and of single rows that are read again and again, that are kept in memory (like 32MiB).
    #[arg(long, default_value = "32MiB", env = "HIGHWATER__ROW_CACHE_BYTES", value_parser = bytes)]
    row_cache_bytes: u64,

    /// Bytes of rows in memory at which they are written to files; at four times as many, commits wait for it.
    #[arg(long, default_value = "16MiB", env = "HIGHWATER__MEMTABLE_BYTES", value_parser = bytes_from_a_mebibyte)]
    memtable_bytes: u64,

    /// Bytes that sorts, joins and aggregates of all sessions hold together; beyond, they spill, or fail with 53200.
    #[arg(long, default_value = "256MiB", env = "HIGHWATER__QUERY_MEMORY_BYTES", value_parser = bytes_from_a_mebibyte)]
    query_memory_bytes: u64,

    /// Bytes that a transaction has written which lie in memory; beyond, they lie in files until its commit.
    #[arg(long, default_value = "64MiB", env = "HIGHWATER__TRANSACTION_MEMORY_BYTES", value_parser = bytes)]
    transaction_memory_bytes: u64,

    /// Bytes of results that are kept for whoever asks the same while their tables have not changed; 0: none.
    #[arg(long, default_value = "0", env = "HIGHWATER__RESULT_CACHE_BYTES", value_parser = bytes)]
    result_cache_bytes: u64,

    /// Write statements to the log of the program (standard error) that take so many milliseconds; 0: none.
    #[arg(long, default_value_t = 1_000, env = "HIGHWATER__SLOW_STATEMENT_MILLIS")]
    slow_statement_millis: u64,

    /// A larger transaction is refused with 54000.
    #[arg(long, default_value = "1GiB", env = "HIGHWATER__TRANSACTION_BYTES_MAX", value_parser = bytes_from_a_mebibyte)]
    transaction_bytes_max: u64,

    /// Bytes of transactions that may wait for the log together; the next one waits before it is accepted.
    #[arg(long, default_value = "64MiB", env = "HIGHWATER__PENDING_BYTES_MAX", value_parser = bytes_from_a_mebibyte)]
    pending_bytes_max: u64,

    /// The length of the log's files, but for the first few, which are shorter.
    #[arg(long, default_value = "64MiB", env = "HIGHWATER__LOG_SEGMENT_BYTES_MAX", value_parser = bytes_from_a_mebibyte)]
    log_segment_bytes_max: u64,

    /// With fewer free bytes on the log's disk, writes are refused with 53100.
    #[arg(long, default_value = "256MiB", env = "HIGHWATER__LOG_FREE_BYTES_MIN", value_parser = bytes)]
    log_free_bytes_min: u64,

    /// Bytes of the newest commits that are kept in memory for feeds.
    #[arg(long, default_value = "16MiB", env = "HIGHWATER__LOG_TAIL_BYTES_MAX", value_parser = bytes)]
    log_tail_bytes_max: u64,

    /// How fast sealed files of the log are read again, once a day, to find what rots; 0: not at all.
    #[arg(long, default_value = "16MiB", env = "HIGHWATER__LOG_SCRUB_BYTES_PER_SECOND", value_parser = bytes)]
    log_scrub_bytes_per_second: u64,
}

impl Limits {
    pub(super) fn options(&self) -> Options {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let scrub = ScrubOptions { bytes_per_second: self.log_scrub_bytes_per_second, ..ScrubOptions::default() };
        Options {
            log: SegmentedOptions {
                segment_bytes_max: self.log_segment_bytes_max,
                free_bytes_min: self.log_free_bytes_min,
                tail_bytes_max: size(self.log_tail_bytes_max),
                scrub: (self.log_scrub_bytes_per_second > 0).then_some(scrub),
                ..SegmentedOptions::default()
            },
            rows: KvOptions {
                cache_bytes: self.row_cache_bytes,
                memtable_bytes: self.memtable_bytes,
                history: Duration::from_secs(self.history_seconds),
                snapshot_age_max: Duration::from_secs(self.snapshot_age_max_seconds),
            },
            sequencer: SequencerOptions {
                transaction_bytes_max: size(self.transaction_bytes_max),
                pending_bytes_max: size(self.pending_bytes_max),
                ..SequencerOptions::default()
            },
            queries: EngineOptions {
                memory_bytes: size(self.query_memory_bytes),
                transaction_memory_bytes: size(self.transaction_memory_bytes),
                result_cache_bytes: self.result_cache_bytes,
                slow_statement: (self.slow_statement_millis > 0)
                    .then_some(Duration::from_millis(self.slow_statement_millis)),
                ..EngineOptions::default()
            },
        }
    }
}

/// A number of bytes: `1048576`, `1024KiB`, `1MiB`, `1GiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match text[end..].trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    let number = text[..end].parse::<u64>().ok();
    let bytes = number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| "a number of bytes is written like 1048576, 1024KiB, 1MiB or 1GiB".to_owned())
}

/// With less, nothing works as it should.
fn bytes_from_a_mebibyte(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        bytes @ MEBIBYTE.. => Ok(bytes),
        _ => Err("at least 1MiB".to_owned()),
    }
}

const MEBIBYTE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        limits: Limits,
    }

    #[test]
    fn the_defaults_are_those_of_a_database_and_slow_statements_are_told() {
        let given = Command::parse_from(["server"]).limits.options();
        let mut defaults = Options::default();
        defaults.queries.slow_statement = Some(Duration::from_secs(1));
        assert_eq!(format!("{given:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn bytes_are_read_with_their_units() {
        for (text, number) in [("0", 0), ("1048576", 1 << 20), ("3KiB", 3 << 10), ("2 MiB", 2 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for text in ["", "MiB", "1MB", "-1", "1.5MiB", "99999999999999999999", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert!(bytes_from_a_mebibyte("1023KiB").is_err());
        assert_eq!(bytes_from_a_mebibyte("1024KiB"), Ok(MEBIBYTE));
    }
}
