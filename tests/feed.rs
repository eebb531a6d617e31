//! Changefeeds: what they tell is what was committed, whole, in order, each once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use highwater::format::{Envelope, LineEncoder, OwnedEvent, OwnedEvents, PlainLines};
use highwater::{
    Batch, BatchKind, Cursor, Database, EncodeError, Feed, FeedError, FeedOptions, FeedStart, LogId, Lsn, TableSpec,
};
use highwater_changefeed::{Encoder, Event, SharedText};
use highwater_log::env::simulated::Random;
use serde_json::{Value, json};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap()
}

/// Marks come as soon as the end is reached, so that tests wait for nothing.
const AT_ONCE: FeedOptions = FeedOptions { progress_after: Duration::ZERO };

/// The batches up to the next one of this kind.
async fn read_to(feed: &mut Feed, kind: BatchKind, bytes_target: usize) -> (Vec<Value>, Vec<Batch>) {
    let (mut lines, mut events, mut batches) = (PlainLines::default(), Vec::new(), Vec::new());
    loop {
        let batch = feed.next(&mut lines, bytes_target).await.unwrap();
        let text = lines.take();
        assert_eq!(text.lines().count(), batch.count as usize);
        events.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        batches.push(batch);
        if batch.kind == kind {
            return (events, batches);
        }
    }
}

async fn run(database: &Database, sql: &str) {
    database.sql(sql).await.unwrap();
}

#[test]
fn a_snapshot_and_what_follows_leave_no_gap() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, name text, price numeric(8,2))").await;
        run(&database, "CREATE TABLE other (id integer PRIMARY KEY)").await;
        run(&database, "INSERT INTO t VALUES (2, 'two', 2.50), (1, NULL, 0)").await;
        let mut feed = database.subscribe(&["t"], FeedStart::Snapshot, AT_ONCE).unwrap();
        run(&database, "UPDATE t SET price = 3 WHERE id = 2; INSERT INTO other VALUES (1)").await;
        run(&database, "UPDATE t SET id = 7 WHERE id = 1; ALTER TABLE t ADD COLUMN seen boolean DEFAULT false").await;
        run(&database, "UPDATE t SET name = 'II' WHERE id = 2; TRUNCATE t; INSERT INTO other VALUES (2)").await;
        let (events, batches) = read_to(&mut feed, BatchKind::Progress, 1 << 20).await;
        let columns = json!([
            {"name": "id", "type": "integer", "nullable": false},
            {"name": "name", "type": "text", "nullable": true},
            {"name": "price", "type": "numeric(8,2)", "nullable": true},
        ]);
        let mut wider = columns.as_array().unwrap().clone();
        wider.push(json!({"name": "seen", "type": "boolean", "nullable": true}));
        let expected = [
            json!({"lsn": 3, "table": "public.t", "schema": {"columns": columns, "key": ["id"]}}),
            json!({"lsn": 3, "pos": 0, "table": "public.t", "op": "insert", "key": {"id": 1}, "before": null,
                "after": {"id": 1, "name": null, "price": "0.00"}}),
            json!({"lsn": 3, "pos": 1, "table": "public.t", "op": "insert", "key": {"id": 2}, "before": null,
                "after": {"id": 2, "name": "two", "price": "2.50"}}),
            json!({"lsn": 3, "ready": true}),
            json!({"lsn": 4, "pos": 0, "table": "public.t", "op": "update", "key": {"id": 2},
                "before": {"id": 2, "name": "two", "price": "2.50"}, "after": {"id": 2, "name": "two", "price": "3.00"}}),
            json!({"lsn": 6, "pos": 0, "table": "public.t", "op": "delete", "key": {"id": 1},
                "before": {"id": 1, "name": null, "price": "0.00"}, "after": null}),
            json!({"lsn": 6, "pos": 1, "table": "public.t", "op": "insert", "key": {"id": 7}, "before": null,
                "after": {"id": 7, "name": null, "price": "0.00"}}),
            json!({"lsn": 7, "table": "public.t", "schema": {"columns": wider, "key": ["id"]}}),
            json!({"lsn": 8, "pos": 0, "table": "public.t", "op": "update", "key": {"id": 2},
                "before": {"id": 2, "name": "two", "price": "3.00", "seen": false},
                "after": {"id": 2, "name": "II", "price": "3.00", "seen": false}}),
            json!({"lsn": 9, "pos": 0, "table": "public.t", "op": "truncate", "key": null, "before": null, "after": null}),
            json!({"lsn": 10, "progress": true}),
        ];
        assert_eq!(events, expected);
        let kinds: Vec<_> = batches.iter().map(|batch| batch.kind).collect();
        let expected =
            [BatchKind::Schema, BatchKind::Snapshot, BatchKind::Ready, BatchKind::Changes, BatchKind::Progress];
        assert_eq!(kinds, expected);
        assert!(batches[..2].iter().all(|batch| batch.cursor.is_none()), "a snapshot cannot be gone on with");
        assert_eq!(batches[4].cursor, Some(Cursor::after(database.log_id(), Lsn::new(10))));
    });
}

#[test]
fn a_row_deleted_and_inserted_again_in_one_commit_is_updated() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
            .await;
        let mut feed = database.subscribe(&["t"], FeedStart::Now, AT_ONCE).unwrap();
        let moved = "UPDATE t SET id = 3 WHERE id = 2";
        run(&database, &format!("BEGIN; DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 'c'); {moved}; COMMIT"))
            .await;
        let (events, _) = read_to(&mut feed, BatchKind::Changes, 1 << 20).await;
        let told: Vec<_> = events.iter().filter_map(|event| Some((event.get("op")?, &event["key"]["id"]))).collect();
        let (delete, update, insert) = (json!("delete"), json!("update"), json!("insert"));
        assert_eq!(told, [(&delete, &json!(2)), (&update, &json!(1)), (&insert, &json!(3))], "deletes come first");
        let updated = events.iter().find(|event| event.get("op") == Some(&update)).unwrap();
        assert_eq!((&updated["before"]["v"], &updated["after"]["v"]), (&json!("a"), &json!("c")));
    });
}

#[test]
fn every_cursor_goes_on_with_the_next_change_however_small_the_batches() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)").await;
        for n in 0..5 {
            let values = |from: i32| (from..from + 4).map(|id| format!("({id})")).collect::<Vec<_>>().join(",");
            run(
                &database,
                &format!("BEGIN; INSERT INTO t VALUES {0}; INSERT INTO u VALUES {0}; COMMIT", values(n * 10)),
            )
            .await;
            run(&database, &format!("DELETE FROM t WHERE id > {}", n * 10 + 1)).await;
        }
        let start = FeedStart::After(Lsn::ORIGIN);
        let mut whole = database.subscribe(&["t"], start, AT_ONCE).unwrap();
        let (all, _) = read_to(&mut whole, BatchKind::Ready, 1 << 20).await;
        let changes = |events: &[Value]| -> Vec<Value> {
            events.iter().filter(|event| event.get("op").is_some()).cloned().collect()
        };
        assert_eq!(changes(&all).len(), 5 * 4 + 5 * 2);
        // One event a batch, and from each cursor the rest: together the whole, each once.
        let mut feed = database.subscribe(&["t"], start, AT_ONCE).unwrap();
        let (_, batches) = read_to(&mut feed, BatchKind::Ready, 1).await;
        let mut told = 0;
        for batch in batches.iter().filter(|batch| batch.kind == BatchKind::Changes) {
            told += batch.count as usize;
            let cursor = FeedStart::Cursor(batch.cursor.unwrap());
            let mut rest = database.subscribe(&["t"], cursor, AT_ONCE).unwrap();
            let (rest, _) = read_to(&mut rest, BatchKind::Ready, 1 << 20).await;
            let (rest, all): (Vec<_>, _) = (changes(&rest), &all);
            let expected: Vec<_> =
                all.iter().filter(|event| event.get("ready").is_none()).skip(told).cloned().collect();
            assert_eq!(rest, changes(&expected), "behind {:?}", batch.cursor);
        }
        let ends = batches.iter().filter(|batch| batch.kind == BatchKind::Changes && batch.ends_commit).count();
        assert_eq!(ends, 11, "ten commits of rows and the table's own");
    });
}

#[test]
fn a_cursor_inside_a_commit_that_changes_a_schema_goes_on_with_the_new_one() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1)").await;
        run(
            &database,
            "BEGIN; UPDATE t SET id = 2; ALTER TABLE t ADD COLUMN w integer; INSERT INTO t VALUES (3, 33); COMMIT",
        )
        .await;
        run(&database, "CREATE TABLE c AS SELECT id FROM t; DROP TABLE c; CREATE TABLE c (other integer)").await;
        let log = database.log_id();
        for (table, lsn, changes) in [("t", 2, 4), ("c", 3, 3)] {
            let start = |position| FeedStart::Cursor(Cursor { log, lsn: Lsn::new(lsn), position });
            let mut whole = database.subscribe(&[table], start(0), AT_ONCE).unwrap();
            let mut told = Vec::new();
            let mut lines = PlainLines::default();
            // The first `c` is dropped in the end, and the feed with it.
            while let Ok(batch) = whole.next(&mut lines, 1).await {
                told.extend(lines.take().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
                if batch.kind == BatchKind::Ready {
                    break;
                }
            }
            for position in 1..=changes {
                let mut rest = database.subscribe(&[table], start(position), AT_ONCE).unwrap();
                let batch = rest.next(&mut lines, 1 << 20).await.unwrap();
                let schema = lines.take();
                assert_eq!(batch.kind, BatchKind::Schema, "{table} {position}");
                assert!(schema.contains(if table == "t" { "\"w\"" } else { "\"id\"" }), "{schema}");
                rest.next(&mut lines, 1 << 20).await.unwrap();
                let rest: Vec<Value> = lines.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let due = told.iter().filter(|event| {
                    let is_later = event["lsn"].as_u64() > Some(lsn + 1);
                    is_later || event.get("pos").and_then(Value::as_u64) >= Some(position)
                });
                let due: Vec<Value> = due.filter(|event| event.get("ready").is_none()).cloned().collect();
                let rest: Vec<Value> = rest.into_iter().filter(|event| event.get("ready").is_none()).collect();
                assert_eq!(rest, due, "{table} behind {position}");
            }
        }
    });
}

#[test]
fn the_last_batch_of_a_commit_says_so_however_large_the_commit() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)").await;
        for rows in [4095, 4096, 4097, 10_000] {
            let mut feed = database.subscribe(&["t"], FeedStart::Now, AT_ONCE).unwrap();
            // What the feed does not tell stands behind what it does.
            let rows = |table| format!("INSERT INTO {table} SELECT * FROM generate_series(1, {rows})");
            run(&database, &format!("BEGIN; {}; {}; COMMIT", rows("t"), rows("u"))).await;
            run(&database, "DELETE FROM u; TRUNCATE t").await;
            let (events, batches) = read_to(&mut feed, BatchKind::Progress, 1 << 30).await;
            assert!(events.len() > 4_000);
            let changes: Vec<_> = batches.iter().filter(|batch| batch.kind == BatchKind::Changes).collect();
            let place = |batch: &&&Batch| batch.cursor.unwrap().position == 0;
            assert!(changes.iter().all(|batch| batch.ends_commit == place(&batch)), "{changes:?}");
            assert!(changes.last().unwrap().ends_commit);
        }
    });
}

#[test]
fn a_feed_that_cannot_begin_says_why() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY)").await;
        let error = |tables: &[&str], start| database.subscribe(tables, start, AT_ONCE).err().unwrap();
        assert!(matches!(error(&[], FeedStart::Now), FeedError::NoTables));
        assert!(matches!(error(&["t", "nothing"], FeedStart::Now), FeedError::UnknownTable { name } if name == "public.nothing"));
        let beyond = error(&["t"], FeedStart::After(Lsn::new(2)));
        assert!(matches!(beyond, FeedError::Beyond { .. }), "{beyond}");
        let inside = Cursor { log: database.log_id(), lsn: Lsn::new(1), position: 1 };
        assert!(matches!(error(&["t"], FeedStart::Cursor(inside)), FeedError::Beyond { .. }));
        let far = Cursor { log: database.log_id(), lsn: Lsn::new(u64::MAX), position: 1 };
        assert!(matches!(error(&["t"], FeedStart::Cursor(far)), FeedError::Beyond { .. }));
        let other = Cursor::after(LogId::from_bytes([1; 16]), Lsn::ORIGIN);
        assert!(matches!(error(&["t"], FeedStart::Cursor(other)), FeedError::OtherLog { .. }));
        // Whoever followed the table under its old name would take another one for it.
        run(&database, "ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (1)").await;
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY)").await;
        let renamed = error(&["t"], FeedStart::After(Lsn::new(2)));
        assert!(matches!(&renamed, FeedError::Renamed { now, .. } if now == "public.u"), "{renamed}");
        for (name, after) in [("t", 1), ("u", 2), ("t", 4)] {
            assert!(database.subscribe(&[name], FeedStart::After(Lsn::new(after)), AT_ONCE).is_ok(), "{name} {after}");
        }
    });
}

#[test]
fn a_feed_ends_with_its_last_table_and_takes_no_other_of_the_name() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer)").await;
        let mut feed = database.subscribe(&["t", "u"], FeedStart::Now, AT_ONCE).unwrap();
        run(&database, "INSERT INTO u VALUES (5); DROP TABLE t").await;
        // Another table, though of the same name.
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1); DROP TABLE u").await;
        let mut lines = PlainLines::default();
        let error = loop {
            match feed.next(&mut lines, 1 << 20).await {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FeedError::Dropped { .. }), "{error}");
        let told: Vec<Value> = lines.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = told[2..].to_vec();
        let row = json!({"lsn": 3, "pos": 0, "table": "public.u", "op": "insert", "key": {"hw_row_id": 0}, "before": null,
            "after": {"id": 5}});
        let mut row_told = told[1].clone();
        row_told["key"]["hw_row_id"] = json!(0);
        assert_eq!(row_told, row);
        assert_eq!(told[0], json!({"lsn": 2, "ready": true}));
        assert_eq!(told[2], json!({"lsn": 4, "table": "public.t", "schema": null}));
        assert_eq!(told[3], json!({"lsn": 7, "table": "public.u", "schema": null}));
        assert_eq!(told.len(), 4);
    });
}

#[test]
fn progress_is_told_once_for_all_that_does_not_concern_the_feed() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)").await;
        let mut feed = database.subscribe(&["t"], FeedStart::Now, AT_ONCE).unwrap();
        read_to(&mut feed, BatchKind::Ready, 1 << 20).await;
        for n in 0..10 {
            run(&database, &format!("INSERT INTO u VALUES ({n})")).await;
        }
        let (events, _) = read_to(&mut feed, BatchKind::Progress, 1 << 20).await;
        assert_eq!(events, [json!({"lsn": 12, "progress": true})]);
        let mut lines = PlainLines::default();
        assert!(feed.next(&mut lines, 1).now_or_never().is_none(), "nothing more to tell");
        drop(database);
        assert!(matches!(feed.next(&mut lines, 1).await, Err(FeedError::Closed)));
    });
}

#[test]
fn an_idle_feed_tells_its_progress_once_and_again_when_there_is_more() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY); CREATE TABLE u (id integer PRIMARY KEY)").await;
        let options = FeedOptions { progress_after: Duration::from_millis(20) };
        let mut feed = database.subscribe(&["t"], FeedStart::Now, options).unwrap();
        read_to(&mut feed, BatchKind::Ready, 1 << 20).await;
        let mut lines = PlainLines::default();
        for n in 0..4 {
            run(&database, &format!("INSERT INTO u VALUES ({n})")).await;
            let (events, _) = read_to(&mut feed, BatchKind::Progress, 1 << 20).await;
            assert_eq!(events, [json!({"lsn": 3 + n, "progress": true})]);
            // Asked for again and again in vain, as by a reader that has other things to do.
            for _ in 0..20 {
                let asked = tokio::time::timeout(Duration::from_millis(5), feed.next(&mut lines, 1)).await;
                assert!(asked.is_err(), "nothing more to tell");
            }
        }
    });
}

#[test]
fn a_slow_reader_reads_from_the_log_and_folds_to_the_same_rows() {
    runtime().block_on(async {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path()).unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, n bigint)").await;
        let values: Vec<_> = (0..500).map(|id| format!("({id}, 0)")).collect();
        run(&database, &format!("INSERT INTO t VALUES {}", values.join(","))).await;
        let mut feed = database.subscribe(&["t"], FeedStart::Snapshot, AT_ONCE).unwrap();
        let mut lines = OwnedEvents::default();
        feed.next(&mut lines, 1).await.unwrap();
        // More than the newest commits that are kept in memory.
        let wide = "x".repeat(1000);
        run(&database, "ALTER TABLE t ADD COLUMN note text").await;
        for round in 0..120 {
            let sql = format!("UPDATE t SET n = n + id, note = '{wide}' WHERE id % 3 = {}", round % 3);
            run(&database, &sql).await;
        }
        run(&database, "DELETE FROM t WHERE id % 7 = 0").await;
        let mut rows: BTreeMap<String, String> = BTreeMap::new();
        let mut last = (Lsn::ORIGIN, 0);
        'read: loop {
            feed.next(&mut lines, 4096).await.unwrap();
            for event in lines.take() {
                match event {
                    OwnedEvent::Change(change) => {
                        let key = |row: &[Option<highwater::OwnedValue>]| format!("{:?}", row[0]);
                        let old = change.before.as_deref().map(|row| (key(row), format!("{:?}", &row[..2])));
                        if let Some((key, row)) = old {
                            assert_eq!(rows.remove(&key), Some(row), "the image of before is what was told");
                        }
                        if let Some(row) = change.after {
                            assert_eq!(rows.insert(key(&row), format!("{:?}", &row[..2])), None);
                        }
                        assert!((change.lsn, change.position + 1) > last, "in order, each once");
                        last = (change.lsn, change.position + 1);
                    }
                    OwnedEvent::Progress { lsn } if lsn == database.visible() => break 'read,
                    _ => {}
                }
            }
        }
        let highwater::Outcome::Rows(stream) = database.sql("SELECT id, n FROM t").await.unwrap() else { panic!() };
        let mut expected = BTreeMap::new();
        for batch in stream.collect().await.unwrap() {
            let schema = batch.schema();
            for row in 0..batch.num_rows() {
                let value = |column: usize| {
                    let column_type = highwater::types::column_type(schema.field(column)).unwrap();
                    highwater::types::value_at(batch.column(column), row, column_type).unwrap()
                };
                expected.insert(format!("{:?}", value(0)), format!("{:?}", [value(0), value(1)]));
            }
        }
        assert_eq!(rows, expected);
        assert_eq!(expected.len(), 500 - 72);
        drop(feed);
        database.close().unwrap();
    });
}

/// An encoder that counts what it is given to encode.
struct Counting {
    lines: Box<dyn LineEncoder>,
    encoded: u64,
}

impl Encoder for Counting {
    fn encode(&mut self, event: &Event<'_>) -> Result<(), EncodeError> {
        self.encoded += 1;
        self.lines.encode(event)
    }

    fn byte_len(&self) -> usize {
        self.lines.byte_len()
    }

    fn shared(&mut self) -> Option<SharedText<'_>> {
        self.lines.shared()
    }
}

/// Feeds that tell the same take commits from one another; what each tells is what it would tell alone.
#[test]
fn what_is_encoded_once_is_what_each_would_encode() {
    let envelopes = [Envelope::Plain, Envelope::Upsert, Envelope::Debezium { has_schemas: false }];
    runtime().block_on(async {
        for (seed, envelope) in (11..).zip(envelopes) {
            shared_is_as_alone(envelope, seed).await;
        }
    });
}

async fn shared_is_as_alone(envelope: Envelope, seed: u64) {
    let counting = || Counting { lines: envelope.encoder(), encoded: 0 };
    let database = Database::in_memory().unwrap();
    run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v text); CREATE TABLE other (id integer PRIMARY KEY)")
        .await;
    let after = FeedStart::After(Lsn::ORIGIN);
    // A selection of everything is another selection: it shares with nobody.
    let all = TableSpec { filter: Some("true".to_owned()), ..TableSpec::whole("t") };
    let mut alone = database.subscribe_to(&[all], after, AT_ONCE).unwrap();
    let mut feeds: Vec<_> = (0..6)
        .map(|number| {
            let feed = database.subscribe(&["t"], after, AT_ONCE).unwrap();
            (feed, counting(), [1, 300, 1 << 20][number % 3], String::new())
        })
        .collect();
    let mut random = Random::new(seed);
    for round in 0..120u64 {
        let id = random.below(30);
        let insert = "INSERT INTO other SELECT coalesce(max(id), 0) + 1 FROM other";
        let statement = match random.below(12) {
            0 => "TRUNCATE t".to_owned(),
            1 => format!("ALTER TABLE t ADD COLUMN c{round} integer DEFAULT {round}"),
            2 | 3 => insert.to_owned(),
            4 => format!("DELETE FROM t WHERE id < {id}"),
            5 => format!("BEGIN; {insert}; UPDATE t SET v = v || '.'; COMMIT"),
            // In several parts.
            6 if round % 5 == 0 => "UPDATE t SET v = repeat('x', 200000) WHERE id < 12".to_owned(),
            _ => format!(
                "INSERT INTO t (id, v) VALUES ({id}, '{round}'), ({0}, 'b') ON CONFLICT (id) DO UPDATE SET v = 'c'",
                id + 1
            ),
        };
        run(&database, &statement).await;
        // Some are at its heels, one far behind.
        for (number, (feed, lines, bytes_target, text)) in feeds.iter_mut().enumerate() {
            while random.below(5) > 0 && number != 3 && feed.cursor().lsn < database.visible() {
                feed.next(lines, *bytes_target).await.unwrap();
                text.push_str(&lines.lines.take());
            }
        }
    }
    let end = database.visible();
    let (mut expected, mut lines) = (String::new(), counting());
    while alone.cursor().lsn < end {
        alone.next(&mut lines, 1 << 20).await.unwrap();
        expected.push_str(&lines.lines.take());
    }
    // Where marks stand depends on when somebody comes.
    let told = |text: &str| -> Vec<String> {
        let is_told = |line: &&str| !line.contains("\"progress\":") && !line.contains("\"ready\":");
        text.lines().filter(is_told).map(str::to_owned).collect()
    };
    let mut encoded = 0;
    for (feed, lines, bytes_target, text) in &mut feeds {
        while feed.cursor().lsn < end {
            feed.next(lines, *bytes_target).await.unwrap();
            text.push_str(&lines.lines.take());
        }
        assert!(told(text) == told(&expected), "{envelope}: {bytes_target}");
        encoded += lines.encoded;
    }
    assert!(
        encoded < feeds.len() as u64 * lines.encoded * 3 / 4,
        "{envelope}: {encoded} of {} for each",
        lines.encoded
    );
}
