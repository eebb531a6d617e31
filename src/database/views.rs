//! `hw_catalog.feeds`, `hw_catalog.segments` and `hw_catalog.settings`: what the planner's crate cannot know by itself.

use std::fmt::Write as _;
use std::sync::{Arc, Weak};

use highwater_changefeed::{FeedLister, FeedStatus};
use highwater_log::value::{ElementType, OwnedValue, Value};
use highwater_log::{LogError, SegmentState, SegmentSummary, SegmentedLog};
use highwater_materializers::FoldError;
use highwater_query::{Engine, LiveTable, LiveValue, SqlError, bigint, text};

use crate::settings::Setting;

/// Adds the tables.
pub(super) fn put(engine: &Engine, feeds: FeedLister, log: Option<&Arc<SegmentedLog>>) {
    engine.put_live_table(Arc::new(FeedsTable(feeds)));
    engine.put_live_table(Arc::new(SegmentsTable(log.map_or_else(Weak::new, Arc::downgrade))));
}

struct FeedsTable(FeedLister);

impl LiveTable for FeedsTable {
    fn name(&self) -> &'static str {
        "feeds"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("name", ElementType::Text),
            ("tables", ElementType::Text),
            ("made_lsn", ElementType::BigInt),
            ("acknowledged_lsn", ElementType::BigInt),
            ("acknowledged_position", ElementType::BigInt),
            ("is_read", ElementType::Boolean),
            ("held_commits", ElementType::BigInt),
            ("held_bytes", ElementType::BigInt),
            ("held_since", ElementType::TimestampTz(6)),
        ]
    }

    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        Ok(self.0.list()?.iter().map(feed_row).collect())
    }
}

fn feed_row(feed: &FeedStatus) -> Vec<LiveValue> {
    let told = feed.tables.iter().zip(&feed.schema.tables);
    let told = told.map(|(name, told)| described(name.clone(), told.columns.as_deref(), told.filter.as_deref()));
    let since = |micros: u64| OwnedValue::Plain(Value::TimestampTz(i64::try_from(micros).unwrap_or(i64::MAX)));
    vec![
        Some(text(&feed.schema.name)),
        Some(text(told.collect::<Vec<_>>().join(", "))),
        Some(bigint(feed.made.value())),
        feed.acknowledged.map(|acknowledged| bigint(acknowledged.lsn.value())),
        feed.acknowledged.map(|acknowledged| bigint(acknowledged.position)),
        Some(OwnedValue::Plain(Value::Boolean(feed.is_owned))),
        Some(bigint(feed.held_commits)),
        Some(bigint(feed.held_bytes)),
        feed.held_since_micros.map(since),
    ]
}

/// A table, and what is told of it.
pub(crate) fn described(mut table: String, columns: Option<&str>, filter: Option<&str>) -> String {
    if let Some(columns) = columns {
        let _ = write!(table, " ({columns})");
    }
    if let Some(filter) = filter {
        let _ = write!(table, " where {filter}");
    }
    table
}

/// Of a log in memory there are none.
struct SegmentsTable(Weak<SegmentedLog>);

impl LiveTable for SegmentsTable {
    fn name(&self) -> &'static str {
        "segments"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("segment", ElementType::BigInt),
            ("bytes", ElementType::BigInt),
            ("state", ElementType::Text),
            ("first_lsn", ElementType::BigInt),
        ]
    }

    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        let Some(log) = self.0.upgrade() else { return Ok(Vec::new()) };
        let segments = segments(&log).map_err(FoldError::from)?;
        let row = |segment: SegmentSummary| {
            let state = match segment.state {
                SegmentState::Sealed => "sealed",
                SegmentState::Active => "active",
                SegmentState::Prepared => "prepared",
            };
            vec![
                Some(bigint(segment.id.value())),
                Some(bigint(segment.bytes)),
                Some(text(state)),
                segment.first.map(|lsn| bigint(lsn.value())),
            ]
        };
        Ok(segments.into_iter().map(row).collect())
    }
}

/// The segments of a log; looked at again where some were trimmed away meanwhile.
pub(super) fn segments(log: &SegmentedLog) -> Result<Vec<SegmentSummary>, LogError> {
    log.segments().or_else(|_| log.segments())
}

/// What the process was started with.
pub(crate) struct SettingsTable(pub(crate) Vec<Setting>);

impl LiveTable for SettingsTable {
    fn name(&self) -> &'static str {
        "settings"
    }

    fn columns(&self) -> &'static [(&'static str, ElementType)] {
        &[
            ("name", ElementType::Text),
            ("setting", ElementType::Text),
            ("default", ElementType::Text),
            ("description", ElementType::Text),
        ]
    }

    fn rows(&self) -> Result<Vec<Vec<LiveValue>>, SqlError> {
        let row = |setting: &Setting| {
            let [name, description] = [setting.name, setting.description].map(|text| Some(super::views::text(text)));
            vec![name, Some(text(&setting.value)), Some(text(&setting.default)), description]
        };
        Ok(self.0.iter().map(row).collect())
    }
}
