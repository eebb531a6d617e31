//! Feeds that have a name: where their reader stands is in the log, one reader at a time owns one, and the log keeps what it needs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use futures::FutureExt;
use highwater::format::PlainLines;
use highwater::{
    BatchKind, Claim, Cursor, Database, FeedError, FeedOptions, FeedPosition, FeedStart, Lsn, NamedFeed, TableSpec,
};
use highwater_materializers::FoldError;
use serde_json::Value;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

const AT_ONCE: FeedOptions = FeedOptions { progress_after: Duration::ZERO };

async fn run(database: &Database, sql: &str) {
    database.sql(sql).await.unwrap();
}

async fn open(database: &Database, name: &str, table: &str, from: FeedStart) -> NamedFeed {
    let tables: Vec<_> = (!table.is_empty()).then(|| TableSpec::whole(table)).into_iter().collect();
    database.named_feeds().open(name, &tables, from, Claim::Refuse, AT_ONCE).await.unwrap()
}

/// The ids of the rows told up to the next batch of this kind, and where the reader stands then.
async fn ids_to(feed: &mut NamedFeed, kind: BatchKind) -> (Vec<i64>, Option<Cursor>) {
    let (mut lines, mut ids) = (PlainLines::default(), Vec::new());
    loop {
        let batch = feed.next(&mut lines, 1 << 20).await.unwrap();
        let events: Vec<Value> = lines.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        ids.extend(events.iter().filter_map(|event| event["key"]["id"].as_i64()));
        if batch.kind == kind {
            return (ids, batch.cursor);
        }
    }
}

/// Waits until so much is acknowledged for good.
async fn settled(feed: &NamedFeed, cursor: Cursor) {
    let position = FeedPosition { lsn: cursor.lsn, position: cursor.position };
    feed.durable().wait_for(|durable| *durable == Some(position)).await.unwrap();
}

#[test]
fn a_reader_goes_on_behind_what_it_has_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let database = Database::open(directory.path()).unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1), (2)").await;
        let mut feed = open(&database, "copy", "t", FeedStart::Snapshot).await;
        let (ids, cursor) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, [1, 2]);
        drop(feed);
        // Nothing of it was acknowledged: the snapshot is taken again.
        run(&database, "INSERT INTO t VALUES (3)").await;
        let mut feed = open(&database, "copy", "", FeedStart::Snapshot).await;
        let (ids, again) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, [1, 2, 3]);
        assert!(again > cursor);
        feed.acknowledge(again.unwrap()).unwrap();
        run(&database, "INSERT INTO t VALUES (4); INSERT INTO t VALUES (5)").await;
        let (ids, cursor) = ids_to(&mut feed, BatchKind::Progress).await;
        assert_eq!(ids, [4, 5]);
        drop(feed);
        let mut feed = open(&database, "copy", "", FeedStart::Snapshot).await;
        let (ids, _) = ids_to(&mut feed, BatchKind::Progress).await;
        assert_eq!(ids, [4, 5], "what was not acknowledged is told again, nothing before it");
        let cursor = Cursor { lsn: cursor.unwrap().lsn.previous(), ..cursor.unwrap() };
        feed.acknowledge(cursor).unwrap();
        // What lies before changes nothing.
        feed.acknowledge(Cursor::after(cursor.log, Lsn::new(1))).unwrap();
        // Closing writes what is on its way.
        drop(feed);
        database.close().unwrap();
        // The positions are in the log: what was folded of it may go.
        std::fs::remove_dir_all(directory.path().join("materialized")).unwrap();
        let database = Database::open(directory.path()).unwrap();
        let status = &database.named_feeds().list().unwrap()[0];
        assert_eq!((&*status.schema.name, &status.tables[..]), ("copy", &["public.t".to_owned()][..]));
        assert_eq!(status.acknowledged, Some(FeedPosition { lsn: cursor.lsn, position: 0 }));
        let mut feed = open(&database, "copy", "t", FeedStart::Now).await;
        let (ids, _) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, [5]);
        drop(feed);
        database.close().unwrap();
    });
}

#[test]
fn places_inside_a_commit_are_acknowledged_too() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
        let mut feed = open(&database, "f", "t", FeedStart::Now).await;
        run(&database, "INSERT INTO t SELECT * FROM generate_series(1, 50)").await;
        let (mut lines, mut told) = (PlainLines::default(), 0);
        loop {
            let batch = feed.next(&mut lines, 1).await.unwrap();
            if batch.kind == BatchKind::Changes {
                told += 1;
            }
            if told == 20 {
                assert!(!batch.ends_commit);
                feed.acknowledge(batch.cursor.unwrap()).unwrap();
                break;
            }
        }
        drop(feed);
        let mut feed = open(&database, "f", "", FeedStart::Now).await;
        let (ids, _) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, (21..=50).collect::<Vec<_>>());
    });
}

#[test]
fn one_reader_at_a_time_owns_a_feed() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
        let feeds = database.named_feeds();
        let claimed = |claim| feeds.open("f", &[], FeedStart::Now, claim, AT_ONCE);
        let mut first = open(&database, "f", "t", FeedStart::Now).await;
        run(&database, "INSERT INTO t VALUES (1)").await;
        let (_, cursor) = ids_to(&mut first, BatchKind::Progress).await;
        assert!(matches!(claimed(Claim::Refuse).await.map(drop), Err(FeedError::Owned { .. })));
        assert!(feeds.list().unwrap()[0].is_owned);
        let waiting = claimed(Claim::Wait);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none(), "it waits");
        // Taken over: the first one is told nothing more, and acknowledges nothing.
        let mut second = claimed(Claim::TakeOver).await.unwrap();
        assert!(matches!(first.acknowledge(cursor.unwrap()), Err(FeedError::Fenced)));
        assert!(matches!(first.next(&mut PlainLines::default(), 1).await, Err(FeedError::Fenced)));
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_none(), "the second one has it");
        let (ids, cursor) = ids_to(&mut second, BatchKind::Progress).await;
        assert_eq!(ids, [1], "it was not acknowledged");
        second.acknowledge(cursor.unwrap()).unwrap();
        drop(second);
        let mut third = waiting.await.unwrap();
        run(&database, "INSERT INTO t VALUES (2)").await;
        let (ids, _) = ids_to(&mut third, BatchKind::Progress).await;
        assert_eq!(ids, [2], "from what the one before has acknowledged, durable or not");
        drop(third);
        assert!(!feeds.list().unwrap()[0].is_owned);
    });
}

#[test]
fn a_feed_is_what_it_was_made_as() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY, v integer); CREATE TABLE u (id bigint PRIMARY KEY)")
            .await;
        let feeds = database.named_feeds();
        let made = |name: &'static str, tables: Vec<TableSpec>| async move {
            feeds.open(name, &tables, FeedStart::Now, Claim::Refuse, AT_ONCE).await.map(drop)
        };
        let (whole, other) = (TableSpec::whole("t"), TableSpec::whole("u"));
        let some = TableSpec { filter: Some("v > 1".to_owned()), ..whole.clone() };
        assert!(matches!(made("f", vec![]).await, Err(FeedError::UnknownFeed { .. })));
        for name in ["", "a b", "ä", "a/b", &"x".repeat(64)] {
            let opened = feeds.open(name, std::slice::from_ref(&whole), FeedStart::Now, Claim::Refuse, AT_ONCE).await;
            assert!(matches!(opened.map(drop), Err(FeedError::Name)), "{name}");
        }
        let wrong = TableSpec { filter: Some("w > 1".to_owned()), ..whole.clone() };
        assert!(matches!(made("f", vec![wrong]).await, Err(FeedError::Selection { .. })));
        assert!(feeds.list().unwrap().is_empty(), "what cannot begin is not made");
        made("f", vec![some.clone()]).await.unwrap();
        made("f", vec![some.clone()]).await.unwrap();
        for tables in [vec![whole.clone()], vec![other.clone()], vec![some.clone(), other]] {
            assert!(matches!(made("f", tables).await, Err(FeedError::OtherDefinition { .. })));
        }
        // Under another name it is the same table, and another one under the same name is not.
        run(&database, "ALTER TABLE t RENAME TO s; CREATE TABLE t (id bigint PRIMARY KEY, v integer)").await;
        assert!(matches!(made("f", vec![some]).await, Err(FeedError::OtherDefinition { .. })));
        assert_eq!(feeds.list().unwrap()[0].tables, ["public.s"]);
        // Many at once make one.
        let tables = [whole];
        let opened = futures::future::join_all(
            (0..20).map(|_| feeds.open("g", &tables, FeedStart::Now, Claim::TakeOver, AT_ONCE)),
        );
        assert!(opened.await.into_iter().all(|opened| opened.is_ok()));
        assert_eq!(feeds.list().unwrap().len(), 2);
    });
}

#[test]
fn a_dropped_feed_is_gone_for_its_reader_and_for_the_log() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)").await;
        let mut feed = open(&database, "f", "t", FeedStart::After(Lsn::ORIGIN)).await;
        let (_, cursor) = ids_to(&mut feed, BatchKind::Progress).await;
        feed.acknowledge(cursor.unwrap()).unwrap();
        settled(&feed, cursor.unwrap()).await;
        database.named_feeds().drop_feed("f").await.unwrap();
        assert!(matches!(feed.next(&mut PlainLines::default(), 1).await, Err(FeedError::Gone)));
        assert!(matches!(feed.acknowledge(cursor.unwrap()), Err(FeedError::Gone)));
        let dropped = database.named_feeds().drop_feed("f").await;
        assert!(matches!(dropped, Err(FeedError::UnknownFeed { .. })));
        // One of the same name begins anew.
        let mut feed = open(&database, "f", "t", FeedStart::After(Lsn::ORIGIN)).await;
        let (ids, _) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, [1]);
    });
}

#[test]
fn what_was_not_told_cannot_be_acknowledged() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t VALUES (1)").await;
        let mut feed = open(&database, "f", "t", FeedStart::Snapshot).await;
        let log = database.log_id();
        let at = |lsn: Lsn| Cursor::after(log, lsn);
        assert!(
            matches!(feed.acknowledge(at(Lsn::new(1))), Err(FeedError::NotTold { .. })),
            "there is a snapshot first"
        );
        let (_, cursor) = ids_to(&mut feed, BatchKind::Ready).await;
        let cursor = cursor.unwrap();
        assert!(matches!(feed.acknowledge(at(cursor.lsn.next())), Err(FeedError::NotTold { .. })));
        assert!(matches!(feed.acknowledge(Cursor { position: 1, ..cursor }), Err(FeedError::NotTold { .. })));
        let foreign = Cursor { log: highwater::LogId::from_bytes([9; 16]), ..cursor };
        assert!(matches!(feed.acknowledge(foreign), Err(FeedError::OtherLog { .. })));
        // What lies before the snapshot is in it.
        feed.acknowledge(at(Lsn::new(1))).unwrap();
        assert_eq!(*feed.durable().borrow(), None);
        drop(feed);
        let mut feed = open(&database, "f", "", FeedStart::Snapshot).await;
        let (ids, cursor) = ids_to(&mut feed, BatchKind::Ready).await;
        assert_eq!(ids, [1], "nothing was acknowledged");
        feed.acknowledge(cursor.unwrap()).unwrap();
        settled(&feed, cursor.unwrap()).await;
    });
}

#[test]
fn a_feed_whose_tables_are_dropped_ends_also_when_it_is_opened_again() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
        let mut feed = open(&database, "f", "t", FeedStart::Now).await;
        run(&database, "INSERT INTO t VALUES (1); DROP TABLE t").await;
        let (mut lines, mut cursor) = (PlainLines::default(), None);
        let error = loop {
            match feed.next(&mut lines, 1 << 20).await {
                Ok(batch) => cursor = batch.cursor,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FeedError::Dropped { .. }), "{error}");
        assert_eq!(lines.take().lines().count(), 4, "the schema, ready, a row, and that the table is gone");
        feed.acknowledge(cursor.unwrap()).unwrap();
        drop(feed);
        let mut feed = open(&database, "f", "", FeedStart::Now).await;
        let error = feed.next(&mut lines, 1).await.unwrap_err();
        assert!(matches!(error, FeedError::Dropped { .. }), "{error}");
        assert!(database.named_feeds().list().unwrap()[0].tables == ["public.t"]);
    });
}

#[test]
fn the_log_keeps_what_a_named_feed_has_still_to_tell() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY, note text)").await;
        let mut feed = open(&database, "f", "t", FeedStart::Now).await;
        for id in 0..40 {
            run(&database, &format!("INSERT INTO t VALUES ({id}, '{}')", "x".repeat(1000))).await;
        }
        let status = database.named_feeds().list().unwrap().remove(0);
        // The feed's own commit is behind it, too.
        assert_eq!(status.held_commits, 41);
        assert!(status.held_bytes >= 40 * 1000, "{}", status.held_bytes);
        assert!(status.held_since_micros.is_some());
        let (ids, cursor) = ids_to(&mut feed, BatchKind::Progress).await;
        assert_eq!(ids.len(), 40);
        feed.acknowledge(cursor.unwrap()).unwrap();
        settled(&feed, cursor.unwrap()).await;
        let status = database.named_feeds().list().unwrap().remove(0);
        assert_eq!(status.held_commits, 1, "the commit that says so");
        assert!(status.held_bytes < 1000, "{}", status.held_bytes);
    });
}

#[test]
fn a_trim_stops_at_the_hold_of_a_feed() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let mut options = highwater::Options::default();
        options.rows.history = Duration::ZERO;
        (options.log.segment_bytes_min, options.log.segment_bytes_max) = (64 * 1024, 64 * 1024);
        let database = Database::open_with(directory.path(), options, |_| {}).unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY, note text)").await;
        let insert = async |from: i32| {
            for id in from..from + 40 {
                run(&database, &format!("INSERT INTO t VALUES ({id}, '{}')", "x".repeat(8000))).await;
            }
        };
        insert(0).await;
        let mut feed = open(&database, "f", "t", FeedStart::Now).await;
        let held = database.visible().previous();
        insert(100).await;
        let end = database.visible();
        // The history goes on by itself; it may take a moment.
        let error = loop {
            match database.trim(Some(end.previous())) {
                Err(FoldError::StillReadable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
                other => break other.unwrap_err(),
            }
        };
        assert!(
            matches!(&error, FoldError::HeldByFeed { feed, after, .. } if feed == "f" && *after == held),
            "{error}"
        );
        let earliest = database.trim(None).unwrap();
        assert!(Lsn::new(1) < earliest && earliest <= held.next(), "{earliest}");
        let (ids, cursor) = ids_to(&mut feed, BatchKind::Progress).await;
        assert_eq!(ids, (100..140).collect::<Vec<i64>>());
        feed.acknowledge(cursor.unwrap()).unwrap();
        settled(&feed, cursor.unwrap()).await;
        assert!(database.trim(None).unwrap() > held.next());
        drop(feed);
        database.close().unwrap();
    });
}

#[test]
fn a_thousand_idle_feeds_write_nothing() {
    const FEEDS: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let database = Database::open(directory.path()).unwrap();
        run(&database, "CREATE TABLE t (id bigint PRIMARY KEY)").await;
        let mut feeds = Vec::new();
        for number in 0..FEEDS {
            feeds.push(open(&database, &format!("feed-{number}"), "t", FeedStart::Now).await);
        }
        run(&database, "INSERT INTO t VALUES (1)").await;
        let before = database.visible();
        let mut cursors = Vec::new();
        for feed in &mut feeds {
            let (_, cursor) = ids_to(feed, BatchKind::Progress).await;
            feed.acknowledge(cursor.unwrap()).unwrap();
            cursors.push(cursor.unwrap());
        }
        for (feed, cursor) in feeds.iter().zip(cursors) {
            settled(feed, cursor).await;
        }
        let written = database.visible();
        let commits = written.value() - before.value();
        assert!(commits < FEEDS as u64 / 4, "{commits} commits for all of them together");
        // Longer than it takes to write what is acknowledged; and those who read hear of nothing that they could acknowledge.
        let told = feeds.iter_mut().map(|feed| async { feed.next(&mut PlainLines::default(), 1).await }.boxed());
        let next = tokio::time::timeout(Duration::from_millis(2500), futures::future::select_all(told));
        assert!(next.await.is_err(), "nobody is told anything");
        assert_eq!(database.visible(), written, "nothing is written");
        drop(feeds);
        database.close().unwrap();
    });
}
