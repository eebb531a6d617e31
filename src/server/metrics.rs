//! `/metrics`: the state of things in numbers, as Prometheus and its like read them (OpenMetrics text).

use std::fmt;
use std::sync::Arc;

use highwater_changefeed::FeedStatus;
use highwater_log::meter::Noted;
use highwater_materializers::Materializer;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::health::{Health, Served};
use crate::Database;

/// What is read.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The numbers as they are now. Reads files of the log on the calling thread.
pub(super) fn render(health: &Arc<Health>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("highwater");
    registry.register_collector(Box::new(Numbers(Arc::clone(health))));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

struct Numbers(Arc<Health>);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.gauge("uptime_seconds", "How long the process has run", self.0.uptime().as_secs())?;
        page.gauge("memory_resident_bytes", "What the process holds of the machine's memory", resident_bytes())?;
        // While the database is opened there is nothing to be told of it.
        let Some(served) = self.0.served() else { return page.gauge("up", "Whether a database is served", 0) };
        page.gauge("up", "Whether a database is served", 1)?;
        let Served { database, sessions, subscriptions } = &served;
        page.gauge("sessions", "Sessions of clients that last from call to call", *sessions)?;
        page.gauge("subscriptions", "Feeds that are being read through the server", *subscriptions)?;
        log(&mut page, database)?;
        commits(&mut page, database)?;
        folds(&mut page, database)?;
        statements(&mut page, database)?;
        let named = database.named_feeds().list();
        page.gauge("feeds_listed", "Whether the numbers of named feeds could be read", named.is_ok().into())?;
        feeds(&mut page, &named.unwrap_or_default())
    }
}

fn log(page: &mut Page<'_>, database: &Database) -> fmt::Result {
    page.gauge("durable_lsn", "The last commit that is synced", database.durable().value())?;
    page.gauge("visible_lsn", "The last commit that reads see", database.visible().value())?;
    let is_writable = database.engine().sequencer().stopped().is_none();
    page.gauge("writable", "Whether writes are taken", is_writable.into())?;
    page.gauge("log_damages", "Places where the log was found damaged", database.scrubbed().damages.len() as u64)?;
    page.gauge("log_file_bytes", "Bytes of the log's files", database.log_bytes().unwrap_or(0))?;
    if let Some(meter) = database.log_meter() {
        page.counter("log_appended_bytes", "Bytes that were appended to the log", meter.appended_bytes.value())?;
        page.histogram("log_sync_seconds", "Time of a sync of the log", &meter.sync_micros.read(), MICROS)?;
    }
    Ok(())
}

fn commits(page: &mut Page<'_>, database: &Database) -> fmt::Result {
    let sequencer = database.engine().sequencer();
    let meter = sequencer.meter();
    page.counter("commits", "Commits that became durable", meter.commits.value())?;
    page.counter("changes", "Changes of rows in them", meter.changes.value())?;
    page.histogram("commit_group_commits", "Commits that one sync has covered", &meter.group_commits.read(), 1.0)?;
    page.histogram("commit_seconds", "From accepting a commit to its visibility", &meter.commit_micros.read(), MICROS)?;
    page.histogram("apply_seconds", "Time of folding a group of commits", &meter.apply_micros.read(), MICROS)?;
    let (waiting, bytes) = sequencer.pending();
    page.gauge("pending_commits", "Commits that were accepted and wait for the log", waiting as u64)?;
    page.gauge("pending_bytes", "Bytes of commits on their way into the log", bytes as u64)
}

fn folds(page: &mut Page<'_>, database: &Database) -> fmt::Result {
    let (folds, durable) = (database.folds(), database.durable());
    let known = [(folds.catalog().name(), folds.catalog().applied()), (folds.kv().name(), folds.kv().applied())];
    let behind = known.map(|(name, applied)| (name.to_owned(), durable.value().saturating_sub(applied.value())));
    page.gauges("materializer_lag_commits", "Durable commits that are not folded yet", "materializer", &behind)?;
    page.gauge("memtable_bytes", "Rows that lie in memory alone", folds.kv().unflushed_bytes())?;
    page.gauge("row_cache_bytes", "Blocks of rows' files, and single rows, in memory", folds.kv().cached_bytes())?;
    page.gauge("row_file_bytes", "Bytes of the rows' files", folds.kv().file_bytes())?;
    let kept = database.visible().value().saturating_sub(folds.kv().history_from().value());
    page.gauge("history_commits", "Commits that reads in the past can go back", kept)
}

fn statements(page: &mut Page<'_>, database: &Database) -> fmt::Result {
    let meter = database.engine().statement_meter();
    page.histogram("statement_seconds", "Time of a statement, to its last row", &meter.micros.read(), MICROS)?;
    page.counter("statement_rows", "Rows that statements gave or changed", meter.rows.value())?;
    page.counter("slow_statements", "Statements that took longer than slow_statement_millis", meter.slow.value())?;
    let errors: Vec<_> = meter.errors().into_iter().map(|(code, count)| (code.to_owned(), count)).collect();
    page.counters("statement_errors", "Statements that failed", "sqlstate", &errors)?;
    if let Some((meter, bytes)) = database.engine().result_meter() {
        page.counter("result_cache_hits", "Queries that a kept result answered", meter.hits.value())?;
        page.counter(
            "result_cache_misses",
            "Queries that were computed whose result may be kept",
            meter.misses.value(),
        )?;
        page.counter(
            "result_cache_stale",
            "Kept results that did not hold any more when asked for",
            meter.stale.value(),
        )?;
        page.gauge("result_cache_bytes", "What kept results take", bytes)?;
    }
    page.gauge(
        "query_memory_bytes",
        "What sorts, joins and aggregates hold",
        database.engine().query_memory_bytes() as u64,
    )
}

fn feeds(page: &mut Page<'_>, feeds: &[FeedStatus]) -> fmt::Result {
    let of = |read: fn(&FeedStatus) -> u64| -> Vec<(String, u64)> {
        feeds.iter().map(|feed| (feed.schema.name.clone(), read(feed))).collect()
    };
    page.gauges(
        "feed_held_commits",
        "Commits behind what a named feed has acknowledged",
        "feed",
        &of(|f| f.held_commits),
    )?;
    page.gauges("feed_held_bytes", "Bytes of the log that are kept for a named feed", "feed", &of(|f| f.held_bytes))?;
    page.gauges(
        "feed_held_since_seconds",
        "When the first of them was accepted, in seconds since 1970; 0: there is none",
        "feed",
        &of(|feed| feed.held_since_micros.unwrap_or(0) / 1_000_000),
    )?;
    page.gauges("feed_read", "Whether somebody reads a named feed", "feed", &of(|feed| feed.is_owned.into()))
}

/// A page that is being written.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauges(&mut self, name: &str, help: &str, label: &'static str, values: &[(String, u64)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        values.iter().try_for_each(|(of, value)| encoder.encode_family(&[(label, of.as_str())])?.encode_gauge(value))
    }

    /// Its name ends in `_total` on the page.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None)
    }

    fn counters(&mut self, name: &str, help: &str, label: &'static str, values: &[(String, u64)]) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        values.iter().try_for_each(|(of, value)| {
            encoder.encode_family(&[(label, of.as_str())])?.encode_counter::<NoLabelSet, u64, u64>(value, None)
        })
    }

    /// `unit` is what one of what was noted is in the unit of the name.
    fn histogram(&mut self, name: &str, help: &str, noted: &Noted, unit: f64) -> fmt::Result {
        let last = noted.steps.len() - 1;
        let bucket = |(step, (bound, count)): (usize, &(u64, u64))| {
            (if step == last { f64::INFINITY } else { *bound as f64 * unit }, *count)
        };
        let buckets: Vec<_> = noted.steps.iter().enumerate().map(bucket).collect();
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(noted.sum as f64 * unit, noted.count(), &buckets, None)
    }
}

/// As Linux tells it; 0 where it does not.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map_or(0, |kib: u64| kib * 1024)
}

const MICROS: f64 = 1e-6;
