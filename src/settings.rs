//! What an operator may set, with its defaults: `hw_catalog.settings` shows it, `docs/limits.md` says more.

use std::time::Duration;

use crate::{Options, ServerOptions};

/// Something that is set when the process starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As the command line has it, with `_` for `-`.
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) default: String,
    pub(crate) description: &'static str,
}

/// Of a database.
pub(crate) fn of_database(options: &Options) -> Vec<Setting> {
    let defaults = Options::default();
    let setting = |name, read: fn(&Options) -> String, description| Setting {
        name,
        value: read(options),
        default: read(&defaults),
        description,
    };
    vec![
        setting(
            "history_seconds",
            |options| seconds(options.rows.history),
            "How far back reads in the past may go; the log is not trimmed beyond that.",
        ),
        setting(
            "snapshot_age_max_seconds",
            |options| seconds(options.rows.snapshot_age_max),
            "For how long what is open may read beyond the history, before it fails with 72000.",
        ),
        setting(
            "row_cache_bytes",
            |options| options.rows.cache_bytes.to_string(),
            "Blocks of the rows' files that are kept in memory (three quarters), and single rows that are read again and again (a quarter).",
        ),
        setting(
            "memtable_bytes",
            |options| options.rows.memtable_bytes.to_string(),
            "Rows in memory at which they are written to files; at four times as many, commits wait for it.",
        ),
        setting(
            "query_memory_bytes",
            |options| options.queries.memory_bytes.to_string(),
            "What sorts, joins and aggregates of all sessions hold together; beyond, they spill, or fail with 53200.",
        ),
        setting(
            "transaction_memory_bytes",
            |options| options.queries.transaction_memory_bytes.to_string(),
            "What a transaction has written which lies in memory; beyond, it lies in files until its commit.",
        ),
        setting(
            "result_cache_bytes",
            |options| options.queries.result_cache_bytes.to_string(),
            "Results that are kept for whoever asks the same while their tables have not changed; 0: none are.",
        ),
        setting(
            "slow_statement_millis",
            |options| {
                options.queries.slow_statement.map_or_else(|| "0".to_owned(), |slow| slow.as_millis().to_string())
            },
            "A statement that takes so long is written to the program's log; 0: none is.",
        ),
        setting(
            "transaction_bytes_max",
            |options| options.sequencer.transaction_bytes_max.to_string(),
            "A larger transaction is refused with 54000.",
        ),
        setting(
            "pending_bytes_max",
            |options| options.sequencer.pending_bytes_max.to_string(),
            "Transactions that may wait for the log together; the next one waits before it is accepted.",
        ),
        setting(
            "log_segment_bytes_max",
            |options| options.log.segment_bytes_max.to_string(),
            "The length of the log's files, but for the first few, which are shorter.",
        ),
        setting(
            "log_free_bytes_min",
            |options| options.log.free_bytes_min.to_string(),
            "With less space on the log's disk, writes are refused with 53100.",
        ),
        setting(
            "log_tail_bytes_max",
            |options| options.log.tail_bytes_max.to_string(),
            "The newest commits that are kept in memory for feeds.",
        ),
        setting(
            "log_scrub_bytes_per_second",
            |options| options.log.scrub.map_or(0, |scrub| scrub.bytes_per_second).to_string(),
            "How fast sealed files of the log are read again, once a day; 0: not at all.",
        ),
    ]
}

/// Of a server.
pub(crate) fn of_server(options: &ServerOptions) -> Vec<Setting> {
    let defaults = ServerOptions::default();
    let setting = |name, read: fn(&ServerOptions) -> String, description| Setting {
        name,
        value: read(options),
        default: read(&defaults),
        description,
    };
    vec![
        setting("grpc_listen", |options| options.grpc_listen.to_string(), "Where gRPC listens."),
        setting("http_listen", |options| options.http_listen.to_string(), "Where HTTP listens."),
        setting("insecure", |options| options.is_insecure.to_string(), "Whether other machines may reach it."),
        setting(
            "sessions_max",
            |options| options.sessions_max.to_string(),
            "Sessions that may be open together (53300).",
        ),
        setting(
            "session_idle_seconds",
            |options| seconds(options.session_idle_max),
            "A session that no call has used for so long is closed.",
        ),
    ]
}

fn seconds(time: Duration) -> String {
    if time == Duration::MAX { "unlimited".to_owned() } else { time.as_secs().to_string() }
}
