//! What feeds select: rows by a filter that judges both images, and columns; and the envelopes that they leave in.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use highwater::format::{Envelope, OwnedEvent, OwnedEvents, PlainLines, UpsertLines};
use highwater::{BatchKind, Cursor, Database, Feed, FeedError, FeedOptions, FeedStart, Lsn, Outcome, TableSpec};
use highwater_log::env::simulated::Random;
use serde_json::{Value, json};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

const AT_ONCE: FeedOptions = FeedOptions { progress_after: Duration::ZERO };

fn selected(table: &str, filter: Option<&str>, columns: Option<&str>) -> TableSpec {
    let (filter, columns) = (filter.map(str::to_owned), columns.map(str::to_owned));
    TableSpec { filter, columns, ..TableSpec::whole(table) }
}

async fn run(database: &Database, sql: &str) {
    database.sql(sql).await.unwrap();
}

/// The lines up to the next batch of this kind.
async fn read_to(feed: &mut Feed, kind: BatchKind) -> Vec<Value> {
    let (mut lines, mut events) = (PlainLines::default(), Vec::new());
    loop {
        let batch = feed.next(&mut lines, 1 << 20).await.unwrap();
        events.extend(lines.take().lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
        if batch.kind == kind {
            return events;
        }
    }
}

/// What is told until the feed ends with an error, and where the reader stands then.
async fn read_to_failure(feed: &mut Feed) -> (String, Cursor, FeedError) {
    let (mut lines, mut text, mut cursor) = (PlainLines::default(), String::new(), None);
    loop {
        match feed.next(&mut lines, 1 << 20).await {
            Ok(batch) => {
                text.push_str(&lines.take());
                cursor = batch.cursor;
            }
            Err(error) => return (text, cursor.unwrap(), error),
        }
    }
}

/// Operation, key, before and after of the changes among events.
fn told(events: &[Value]) -> Vec<Value> {
    let changes = events.iter().filter(|event| event.get("op").is_some());
    changes.map(|event| json!([event["op"], event["key"]["id"], event["before"], event["after"]])).collect()
}

#[test]
fn a_filter_judges_both_images() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v integer)").await;
        run(&database, "INSERT INTO t VALUES (1, 5), (2, 50), (3, NULL)").await;
        let table = selected("t", Some("v > 10 AND t.id < 100"), None);
        let mut feed = database.subscribe_to(&[table], FeedStart::Snapshot, AT_ONCE).unwrap();
        let events = read_to(&mut feed, BatchKind::Ready).await;
        let row = |id: i32, v: i32| json!({"id": id, "v": v});
        assert_eq!(told(&events), [json!(["insert", 2, null, row(2, 50)])]);
        run(&database, "INSERT INTO t VALUES (4, 11), (5, 9), (6, NULL), (100, 99)").await;
        run(&database, "UPDATE t SET v = v + 10").await;
        run(&database, "UPDATE t SET v = 0 WHERE id = 2").await;
        run(&database, "DELETE FROM t WHERE id IN (2, 4)").await;
        run(&database, "UPDATE t SET id = 7 WHERE id = 1").await;
        run(&database, "TRUNCATE t").await;
        let events = read_to(&mut feed, BatchKind::Progress).await;
        let expected = [
            json!(["insert", 4, null, row(4, 11)]),
            json!(["insert", 1, null, row(1, 15)]),
            json!(["update", 2, row(2, 50), row(2, 60)]),
            json!(["update", 4, row(4, 11), row(4, 21)]),
            json!(["insert", 5, null, row(5, 19)]),
            json!(["delete", 2, row(2, 60), null]),
            json!(["delete", 4, row(4, 21), null]),
            json!(["delete", 1, row(1, 15), null]),
            json!(["insert", 7, null, row(7, 15)]),
            json!(["truncate", null, null, null]),
        ];
        assert_eq!(told(&events), expected);
    });
}

#[test]
fn columns_are_computed_and_keys_told_whatever_is_selected() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, name varchar(20), price numeric(8,2), tags text[])")
            .await;
        run(&database, "INSERT INTO t VALUES (1, 'one', 1.50, '{a,b}'), (2, NULL, NULL, NULL)").await;
        let columns = "upper(name) AS name, price * 2 AS twice, tags, id % 2 = 1 AS is_odd, 'x' || id";
        let table = selected("t", None, Some(columns));
        let mut feed = database.subscribe_to(&[table], FeedStart::Snapshot, AT_ONCE).unwrap();
        run(&database, "UPDATE t SET name = 'ONE' WHERE id = 1").await;
        let events = read_to(&mut feed, BatchKind::Progress).await;
        let names: Vec<_> = events[0]["schema"]["columns"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["name", "twice", "tags", "is_odd", "?column?"]);
        assert_eq!(events[0]["schema"]["key"], json!(["id"]));
        let one = json!({"name": "ONE", "twice": "3.00", "tags": ["a", "b"], "is_odd": true, "?column?": "x1"});
        let two = json!({"name": null, "twice": null, "tags": null, "is_odd": false, "?column?": "x2"});
        assert_eq!(
            told(&events),
            [
                json!(["insert", 1, null, one]),
                json!(["insert", 2, null, two]),
                // It is an update, though nothing of what is selected has changed.
                json!(["update", 1, one, one]),
            ]
        );
    });
}

/// The rows that a feed told, folded by key.
#[derive(Default)]
struct Fold(BTreeMap<String, String>);

impl Fold {
    fn apply(&mut self, event: OwnedEvent) {
        let OwnedEvent::Change(change) = event else { return };
        if change.operation == highwater_changefeed::Operation::Truncate {
            self.0.clear();
            return;
        }
        let key = format!("{:?}", change.key);
        let before = change.before.map(|row| format!("{row:?}"));
        assert_eq!(self.0.remove(&key), before, "what was told of the key before, at lsn {}", change.lsn);
        if let Some(after) = change.after {
            self.0.insert(key, format!("{after:?}"));
        }
    }
}

/// Random changes; at each commit, the fold of what was told is what the query gives at its LSN.
#[test]
fn what_is_told_folds_to_the_query_at_every_commit() {
    let selections = [
        (Some("a > 20"), Some("id, a, b"), "SELECT id, id, a, b FROM t WHERE a > 20"),
        (Some("b LIKE '%1%' OR a IS NULL"), Some("b, id"), "SELECT id, b, id FROM t WHERE b LIKE '%1%' OR a IS NULL"),
        (Some("a <> 0 AND 100 / a > 3"), None, "SELECT id, id, a, b FROM t WHERE a <> 0 AND 100 / a > 3"),
        (None, Some("a * 2 AS a, coalesce(b, '-') AS b"), "SELECT id, a * 2, coalesce(b, '-') FROM t"),
        (
            Some("CASE WHEN a IS NULL THEN id % 2 = 0 ELSE a BETWEEN 5 AND 50 END"),
            Some("id::text AS id, a IN (1, 2, 30, 31) AS x"),
            "SELECT id, id::text, a IN (1, 2, 30, 31) FROM t WHERE CASE WHEN a IS NULL THEN id % 2 = 0 ELSE a BETWEEN 5 AND 50 END",
        ),
    ];
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, a integer, b text)").await;
        let mut random = Random::new(7);
        let mut feeds = Vec::new();
        for (filter, columns, query) in selections {
            let from = if feeds.len() % 2 == 0 { FeedStart::Snapshot } else { FeedStart::After(Lsn::ORIGIN) };
            let feed = database.subscribe_to(&[selected("t", filter, columns)], from, AT_ONCE).unwrap();
            feeds.push((feed, OwnedEvents::default(), Fold::default(), query, Lsn::ORIGIN));
        }
        let value = |random: &mut Random| match random.below(5) {
            0 => "NULL".to_owned(),
            _ => random.below(60).to_string(),
        };
        for _ in 0..150 {
            let mut statements = Vec::new();
            for _ in 0..1 + random.below(3) {
                let (id, a) = (random.below(40), value(&mut random));
                statements.push(match random.below(20) {
                    0 => "TRUNCATE t".to_owned(),
                    1..4 => format!("DELETE FROM t WHERE id % 7 = {}", id % 7),
                    4..8 => format!("UPDATE t SET a = {a} WHERE id % 5 = {}", id % 5),
                    8..10 => format!("UPDATE t SET id = id + 100 WHERE id = {id}"),
                    _ => format!(
                        "INSERT INTO t VALUES ({id}, {a}, nullif('{a}', 'NULL')) \
                         ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = excluded.b"
                    ),
                });
            }
            // An id that is moved may meet another.
            let _ = database.sql(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await;
        }
        let end = database.visible();
        let mut compared = 0;
        for (feed, events, fold, query, at) in &mut feeds {
            while *at < end {
                let batch = feed.next(events, 1).await.unwrap();
                events.take().into_iter().for_each(|event| fold.apply(event));
                let Some(cursor) = batch.cursor.filter(|_| batch.ends_commit) else { continue };
                *at = cursor.lsn;
                if cursor.lsn < Lsn::new(2) {
                    continue;
                }
                let sql = format!("{query} AS OF LSN {}", cursor.lsn);
                let Outcome::Rows(rows) = database.sql(&sql).await.unwrap() else { panic!("rows are due") };
                let count: usize = rows.collect().await.unwrap().iter().map(|batch| batch.num_rows()).sum();
                assert_eq!(fold.0.len(), count, "{sql}");
                compared += 1;
            }
            // Once whole: value by value, through the same forms.
            let Outcome::Rows(rows) = database.sql(query).await.unwrap() else { panic!("rows are due") };
            let (schema, mut expected) = (rows.schema().clone(), BTreeMap::new());
            for batch in rows.collect().await.unwrap() {
                for row in 0..batch.num_rows() {
                    let value = |column: usize| {
                        let column_type = highwater::types::column_type(schema.field(column)).unwrap();
                        highwater::types::value_at(batch.column(column), row, column_type).unwrap()
                    };
                    let told: Vec<_> = (1..batch.num_columns()).map(value).collect();
                    expected.insert(format!("{:?}", [value(0).unwrap()]), format!("{told:?}"));
                }
            }
            assert_eq!(fold.0, expected, "{query}");
        }
        assert!(compared > 200, "{compared}");
    });
}

#[test]
fn columns_are_known_by_their_ids() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v integer, w integer)").await;
        let table = selected("t", Some("v > 10"), Some("v AS told"));
        let mut feed = database.subscribe_to(std::slice::from_ref(&table), FeedStart::Now, AT_ONCE).unwrap();
        run(&database, "ALTER TABLE t RENAME COLUMN v TO old; ALTER TABLE t RENAME COLUMN w TO v").await;
        run(&database, "INSERT INTO t (id, old, v) VALUES (1, 20, 5), (2, 5, 20); ALTER TABLE t RENAME TO u").await;
        let events = read_to(&mut feed, BatchKind::Progress).await;
        assert_eq!(told(&events), [json!(["insert", 1, null, {"told": 20}])]);
        run(&database, "INSERT INTO u (id, old) VALUES (3, 30); ALTER TABLE u DROP COLUMN old").await;
        let dropped = database.visible();
        let (text, cursor, error) = read_to_failure(&mut feed).await;
        assert_eq!(text.matches("\"told\":30").count(), 1, "what comes before is told");
        assert_eq!(cursor.lsn, dropped.previous());
        let FeedError::Selection { lsn, source, .. } = error else { panic!("{error}") };
        assert_eq!((lsn, source.sqlstate), (dropped, "42703"));
    });
}

#[test]
fn what_cannot_be_computed_of_a_row_alone_is_refused() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v integer, at timestamptz)").await;
        let refused = |filter: Option<&str>, columns: Option<&str>| {
            let table = selected("t", filter, columns);
            match database.subscribe_to(&[table], FeedStart::Now, AT_ONCE).map(drop).unwrap_err() {
                FeedError::Selection { source, .. } => source.sqlstate,
                other => panic!("{other}"),
            }
        };
        for (filter, sqlstate) in [
            ("v >", "42601"),
            ("", "42601"),
            ("v > 1; DROP TABLE t", "42601"),
            ("true FROM t", "42601"),
            ("true ORDER BY 1", "42601"),
            ("true UNION SELECT false", "42601"),
            ("v > 1, v > 2", "42601"),
            ("*", "42601"),
            ("missing > 1", "42703"),
            ("other.v > 1", "42703"),
            ("v + 1", "42804"),
            ("v = (SELECT 1)", "0A000"),
            ("EXISTS (SELECT 1)", "0A000"),
            ("count(*) > 1", "0A000"),
            ("row_number() OVER () = 1", "0A000"),
            ("at > now()", "0A000"),
            ("at > current_timestamp", "0A000"),
            ("v > random()", "0A000"),
            ("v > hw_lsn()", "0A000"),
            ("at > \"now\"()", "0A000"),
            ("at > transaction_timestamp()", "0A000"),
            ("gen_random_uuid()::text > 'a'", "0A000"),
        ] {
            assert_eq!(refused(Some(filter), None), sqlstate, "{filter}");
        }
        for (columns, sqlstate) in [
            ("v, v", "42701"),
            ("sum(v)", "0A000"),
            ("id FROM t", "42601"),
            ("missing", "42703"),
            ("unnest(ARRAY[1])", "0A000"),
        ] {
            assert_eq!(refused(None, Some(columns)), sqlstate, "{columns}");
        }
        let tables = [selected("t", Some("v > 1"), None), selected("t", None, None)];
        let twice = database.subscribe_to(&tables, FeedStart::Now, AT_ONCE).map(drop);
        assert!(matches!(twice, Err(FeedError::Selection { source, .. }) if source.sqlstate == "42712"));
        // What fails of a row ends the feed there.
        let table = selected("t", Some("10 / v > 1"), None);
        let mut feed = database.subscribe_to(&[table], FeedStart::Now, AT_ONCE).unwrap();
        run(&database, "INSERT INTO t VALUES (1, 5); INSERT INTO t VALUES (2, 4), (3, 3), (4, 0), (5, 2)").await;
        let (text, cursor, error) = read_to_failure(&mut feed).await;
        assert_eq!(text.matches("\"op\":\"insert\"").count(), 3, "what comes before is told, in the same commit, too");
        assert_eq!((cursor.lsn, cursor.position), (database.visible().previous(), 2));
        let FeedError::Selection { lsn, source, .. } = error else { panic!("{error}") };
        assert_eq!((lsn, source.sqlstate), (database.visible(), "22012"));
    });
}

#[test]
fn upserts_tell_what_stands_under_a_key() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(
            &database,
            "CREATE TABLE t (a integer, b text, v integer, PRIMARY KEY (b, a)); CREATE TABLE keyless (v integer)",
        )
        .await;
        run(&database, "INSERT INTO t VALUES (1, 'x', 1)").await;
        let mut feed = database.subscribe(&["t"], FeedStart::Snapshot, AT_ONCE).unwrap();
        run(&database, "UPDATE t SET v = 2; UPDATE t SET a = 3; DELETE FROM t; TRUNCATE t").await;
        let (mut lines, mut text) = (UpsertLines::default(), String::new());
        loop {
            let batch = feed.next(&mut lines, 1 << 20).await.unwrap();
            text.push_str(&lines.take());
            if batch.kind == BatchKind::Progress {
                break;
            }
        }
        let expected = "\
{\"lsn\":3,\"pos\":0,\"table\":\"public.t\",\"key\":{\"b\":\"x\",\"a\":1},\"value\":{\"a\":1,\"b\":\"x\",\"v\":1}}
{\"lsn\":3,\"ready\":true}
{\"lsn\":4,\"pos\":0,\"table\":\"public.t\",\"key\":{\"b\":\"x\",\"a\":1},\"value\":{\"a\":1,\"b\":\"x\",\"v\":2}}
{\"lsn\":5,\"pos\":0,\"table\":\"public.t\",\"key\":{\"b\":\"x\",\"a\":1},\"value\":null}
{\"lsn\":5,\"pos\":1,\"table\":\"public.t\",\"key\":{\"b\":\"x\",\"a\":3},\"value\":{\"a\":3,\"b\":\"x\",\"v\":2}}
{\"lsn\":6,\"pos\":0,\"table\":\"public.t\",\"key\":{\"b\":\"x\",\"a\":3},\"value\":null}
{\"lsn\":7,\"pos\":0,\"table\":\"public.t\",\"truncated\":true}
{\"lsn\":7,\"progress\":true}
";
        assert_eq!(text.split_once('\n').unwrap().1, expected);
        let mut feed = database.subscribe(&["keyless"], FeedStart::Now, AT_ONCE).unwrap();
        let error = feed.next(&mut UpsertLines::default(), 1).await.unwrap_err();
        assert!(matches!(error, FeedError::Encode { source: highwater::EncodeError::NoKey { .. }, .. }), "{error}");
    });
}

fn highwater(arguments: &[&str], output: Option<&std::path::Path>) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    if let Some(path) = output {
        command.stdout(std::fs::File::create(path).unwrap());
    } else {
        command.stdout(Stdio::piped());
    }
    let output = command.args(arguments).env_remove("HIGHWATER_URL").stderr(Stdio::piped()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// Rows of every type, changed in every way, as Debezium's events, read back into another database: the same tables.
#[test]
fn debezium_events_read_back_to_equal_tables() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let tables = "
        CREATE TABLE every (id bigint PRIMARY KEY, b boolean, i2 smallint, i4 integer, r real, d double precision,
            n numeric(12,3), t text, v varchar(10), c char(4), by bytea, da date, t3 time(3), t6 time, ts3 timestamp(3),
            ts6 timestamp, tz timestamptz, iv interval, u uuid, j jsonb, ai integer[], an numeric(6,2)[], at text[]);
        CREATE TABLE pairs (a integer, b text, note text, PRIMARY KEY (b, a));";
    let rows = "
        INSERT INTO every (id) VALUES (0);
        INSERT INTO every VALUES (1, true, -1, 2, 1.5, 1e300, -12345.678, 'ä \"quoted\" \\\\ \n line', 'abc', 'ab', '\\xdeadbeef',
            '2026-11-23', '12:34:56.789', '23:59:59.999999', '2026-11-23 01:02:03.456', '1969-12-31 23:59:59.999999',
            '2026-11-23 12:00:00.5+00', '1 year -2 months 3 days 04:05:06.7', '00112233-4455-6677-8899-aabbccddeeff',
            '{\"b\": [1, null], \"a\": \"x\"}', '{1,NULL,3}', '{1.50,-2.25}', '{a,\"b,c\",NULL}');
        INSERT INTO every VALUES (2, false, 32767, -2147483648, 'NaN', '-Infinity', 0, '', '', '', '', '0044-03-15 BC', '00:00', '00:00',
            'infinity', '-infinity', 'infinity', '-00:00:00.5', NULL, 'null', '{}', NULL, '{}');
        INSERT INTO pairs VALUES (1, 'x', 'one'), (2, 'y', 'two'), (3, 'z', NULL);
        UPDATE every SET n = n + 1, t = t || '!' WHERE id = 1;
        UPDATE pairs SET note = 'changed' WHERE a = 1;
        UPDATE pairs SET b = 'moved' WHERE a = 2;
        DELETE FROM pairs WHERE a = 3;
        BEGIN; INSERT INTO pairs VALUES (9, 'q', 'in one'); UPDATE every SET i4 = 7 WHERE id = 0; COMMIT;";
    highwater(&["sql", "--data", &path("from"), tables], None);
    highwater(&["sql", "--data", &path("from"), rows], None);
    let dump = directory.path().join("schema.sql");
    std::fs::write(&dump, tables.replace("CREATE TABLE ", "CREATE TABLE public.")).unwrap();
    let queries = ["SELECT * FROM every ORDER BY id", "SELECT * FROM pairs ORDER BY a"];
    let all = |data: &str| queries.map(|query| highwater(&["sql", "--data", data, "--output", "csv", query], None));
    let expected = all(&path("from"));
    for (envelope, from) in [("debezium", "0"), ("debezium-schemas", "0"), ("debezium", "snapshot")] {
        let events = directory.path().join(format!("{envelope}-{from}.jsonl"));
        let tail = ["feed", "tail", "--data", &path("from"), "--envelope", envelope, "--until-ready"];
        highwater(&[&tail[..], &["--from", from, "every", "pairs"]].concat(), Some(&events));
        let to = path(&format!("to-{envelope}-{from}"));
        let ingest = ["ingest", "--format", "debezium", "--data", &to, events.to_str().unwrap()];
        match envelope {
            // Schemas tell no lengths of texts: blanks of a char(4) come as they are.
            "debezium-schemas" => highwater(&ingest, None),
            _ => highwater(&[&ingest[..], &["--tables", dump.to_str().unwrap()]].concat(), None),
        };
        assert_eq!(all(&to), expected, "{envelope} from {from}");
        let commits = highwater(&["log", "cat", "--data", &to], None).lines().count();
        assert!(commits >= if from == "0" { 8 } else { 2 }, "a commit is a transaction: {commits}");
    }
}

#[test]
fn envelopes_are_known_by_name() {
    for envelope in [
        Envelope::Plain,
        Envelope::Upsert,
        Envelope::Debezium { has_schemas: false },
        Envelope::Debezium { has_schemas: true },
    ] {
        assert_eq!(envelope.to_string().parse(), Ok(envelope));
    }
    assert!("bare".parse::<Envelope>().is_err());
}

/// A batch ends where a reader wants it to, whatever is left of its commit.
#[test]
fn the_end_of_a_transaction_is_told_though_nothing_else_is() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        run(&database, "CREATE TABLE t (id integer PRIMARY KEY, v integer NOT NULL)").await;
        let table = selected("t", Some("v > 10"), None);
        let mut feed = database.subscribe_to(&[table], FeedStart::Now, AT_ONCE).unwrap();
        run(&database, "INSERT INTO t VALUES (1, 20), (2, 5), (3, 30), (4, 5)").await;
        run(&database, "ALTER TABLE t ALTER COLUMN v DROP NOT NULL; INSERT INTO t VALUES (5, NULL), (6, 40)").await;
        let mut lines = Envelope::Debezium { has_schemas: false }.encoder();
        let (mut text, mut batches) = (String::new(), 0);
        loop {
            let batch = feed.next(&mut *lines, 1).await.unwrap();
            batches += 1;
            text.push_str(&lines.take());
            if batch.kind == BatchKind::Progress {
                break;
            }
        }
        let values: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["value"].clone()).collect();
        let told: Vec<_> =
            values.iter().map(|value| value.get("status").unwrap_or(&value["op"]).as_str().unwrap()).collect();
        assert_eq!(told, ["BEGIN", "c", "c", "END", "BEGIN", "c", "END"]);
        assert_eq!(values[3]["event_count"], 2);
        assert_eq!(values[2]["transaction"]["total_order"], 2);
        assert!(batches > 4, "{batches}");
    });
}
