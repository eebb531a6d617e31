//! Transactions that are too large to lie in memory.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use highwater::format::PlainLines;
use highwater::{Database, FeedOptions, FeedStart, Options, Outcome, Session, types};
use highwater_log::env::simulated::Random;
use highwater_query::EngineOptions;
use server::Server;

/// What a statement answers, as text.
async fn answer(session: &mut Session, sql: &str) -> String {
    match session.execute(sql).await {
        Err(error) => format!("{}: {}", error.sqlstate, error.message),
        Ok(Outcome::Done(done)) => format!("{} {:?}", done.tag, done.rows),
        Ok(Outcome::Rows(rows) | Outcome::Returned(rows, _)) => {
            let batches = match rows.collect().await {
                Ok(batches) => batches,
                Err(error) => return format!("{}: {}", error.sqlstate, error.message),
            };
            let mut rows = Vec::new();
            for batch in &batches {
                for row in 0..batch.num_rows() {
                    let mut text = String::new();
                    for (field, array) in batch.schema().fields().iter().zip(batch.columns()) {
                        types::text_at(array, row, types::column_type(field).unwrap(), &mut text).unwrap();
                        text.push('|');
                    }
                    rows.push(text);
                }
            }
            // RETURNING gives them in no order.
            if !sql.contains("ORDER BY") {
                rows.sort_unstable();
            }
            rows.join("\n")
        }
    }
}

/// A statement of a transaction on a table with a key and unique places, and on one without.
fn statement(random: &mut Random) -> String {
    let id = random.below(40);
    let code = random.below(60);
    match random.below(22) {
        0..=3 => format!("INSERT INTO keyed VALUES ({id}, {code}, {}, 'i')", random.below(5)),
        4 => {
            format!("INSERT INTO keyed SELECT v, v + {code}, v % 3, 's' FROM generate_series({id}, {}) AS s(v)", id + 3)
        }
        5 => format!("INSERT INTO keyed VALUES ({id}, {code}, 9, 'c') ON CONFLICT (id) DO UPDATE SET c = excluded.c"),
        6 => format!("INSERT INTO keyed VALUES ({id}, {code}, 9, 'n') ON CONFLICT DO NOTHING"),
        7 | 8 => format!("UPDATE keyed SET c = c + 1, d = d || 'u' WHERE id < {id}"),
        9 => format!("UPDATE keyed SET code = code + 100 WHERE id > {id}"),
        10 => format!("UPDATE keyed SET code = {code} WHERE id = {id}"),
        11 => "UPDATE keyed SET id = id + 1".to_owned(),
        12 => format!("UPDATE keyed SET id = {} WHERE id = {id} RETURNING id, code", random.below(40)),
        13 => format!("DELETE FROM keyed WHERE id = {id} OR code = {code}"),
        14 => format!("DELETE FROM keyed WHERE c = {} RETURNING *", random.below(5)),
        15 => format!("INSERT INTO keyless SELECT v, 'k' FROM generate_series(1, {}) AS s(v)", random.below(5)),
        16 => format!("UPDATE keyless SET b = b || 'u' WHERE a > {}", random.below(5)),
        17 => format!("DELETE FROM keyless WHERE a = {}", random.below(5)),
        18 if random.one_in(6) => "TRUNCATE keyed".to_owned(),
        18 if random.one_in(4) => format!("CREATE UNIQUE INDEX x{id} ON keyed (d, id)"),
        18 if random.one_in(3) => format!("ALTER TABLE keyed ADD COLUMN e{id} integer DEFAULT 7"),
        18 | 19 => format!("SELECT * FROM keyed WHERE code = {code} OR id = {id} ORDER BY id"),
        20 => format!("SELECT * FROM keyed WHERE c = {} ORDER BY id", random.below(5)),
        _ => "SELECT * FROM keyed ORDER BY id".to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_answers_the_same_whether_it_lies_in_memory_or_on_disk() {
    let (mut committed, mut refused) = (0, 0);
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let spilled = |transaction_memory_bytes: usize| {
            let queries = EngineOptions { transaction_memory_bytes, ..EngineOptions::default() };
            Database::in_memory_with(Options { queries, ..Options::default() }).unwrap()
        };
        // All in memory; each statement a round of its own; some in memory and some on disk.
        let databases = [spilled(usize::MAX), spilled(0), spilled(1500)];
        let mut sessions: Vec<Session> = databases.iter().map(Database::session).collect();
        let schema = "CREATE TABLE keyed (id integer PRIMARY KEY, code integer UNIQUE, c integer, d text);
            CREATE INDEX keyed_c ON keyed (c); CREATE TABLE keyless (a integer, b text);
            INSERT INTO keyed SELECT v, v, v % 5, 'b' FROM generate_series(1, 20) AS s(v);
            INSERT INTO keyless SELECT v, 'b' FROM generate_series(1, 5) AS s(v)";
        for session in &mut sessions {
            session.execute(schema).await.unwrap();
        }
        for _ in 0..12 {
            let mut script = vec!["BEGIN".to_owned()];
            script.extend((0..1 + random.below(8)).map(|_| statement(&mut random)));
            script.push(if random.one_in(5) { "ROLLBACK".to_owned() } else { "COMMIT".to_owned() });
            script.push("SELECT * FROM keyed ORDER BY id".to_owned());
            script.push("SELECT * FROM keyless ORDER BY a, b".to_owned());
            script.push("SELECT id FROM keyed WHERE code IN (SELECT code FROM keyed) ORDER BY id".to_owned());
            for sql in &script {
                let expected = answer(&mut sessions[0], sql).await;
                committed += u32::from(expected.starts_with("COMMIT"));
                refused += u32::from(expected.starts_with("23505"));
                for session in &mut sessions[1..] {
                    assert_eq!(answer(session, sql).await, expected, "seed {seed}: {sql} in {script:#?}");
                }
            }
        }
        let visible = databases[0].visible();
        for database in &databases[1..] {
            assert_eq!(database.visible(), visible, "seed {seed}: one commit each");
            assert_eq!(
                database.compare_with_log(tempfile::tempdir().unwrap().path(), |_| {}).unwrap(),
                [],
                "seed {seed}"
            );
        }
    }
    assert!(committed > 150 && refused > 30, "{committed} committed, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_on_disk_loses_to_one_that_was_faster() {
    let queries = EngineOptions { transaction_memory_bytes: 0, ..EngineOptions::default() };
    let database = Database::in_memory_with(Options { queries, ..Options::default() }).unwrap();
    let schema = "CREATE TABLE t (id integer PRIMARY KEY, code integer UNIQUE, v integer);
        INSERT INTO t SELECT v, v, 0 FROM generate_series(1, 100) AS s(v)";
    database.sql(schema).await.unwrap();
    let cases = [
        ("UPDATE t SET v = 1", "UPDATE t SET v = 2 WHERE id = 50", "40001"),
        ("DELETE FROM t", "DELETE FROM t WHERE id = 50", "40001"),
        (
            "INSERT INTO t SELECT v, v, 0 FROM generate_series(101, 200) AS s(v)",
            "INSERT INTO t VALUES (150, 1500, 0)",
            "23505",
        ),
        ("UPDATE t SET code = code + 1000 WHERE id < 40", "INSERT INTO t VALUES (999, 1005, 0)", "23505"),
        ("UPDATE t SET v = 3", "ALTER TABLE t ADD COLUMN w integer", "40001"),
    ];
    for (large, small, expected) in cases {
        for is_first in [false, true] {
            let (mut session, mut other) = (database.begin().await.unwrap(), database.begin().await.unwrap());
            session.execute(large).await.unwrap();
            other.execute(small).await.unwrap();
            let (first, second) = if is_first { (&mut session, &mut other) } else { (&mut other, &mut session) };
            first.execute("COMMIT").await.unwrap();
            let lost = second.execute("COMMIT").await.err().unwrap();
            let is_expected = lost.sqlstate == expected || (is_first && matches!(lost.sqlstate, "40001" | "23505"));
            assert!(is_expected, "{large} against {small}: {lost:?}");
            database.sql("DELETE FROM t").await.unwrap();
            database
                .sql("INSERT INTO t (id, code, v) SELECT v, v, 0 FROM generate_series(1, 100) AS s(v)")
                .await
                .unwrap();
            if small.starts_with("ALTER") && !is_first {
                database.sql("ALTER TABLE t DROP COLUMN w").await.unwrap();
            }
        }
    }
}

fn highwater(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).output().unwrap()
}

fn sql(server: &Server, sql: &str) -> Result<String, String> {
    let output = highwater(&["sql", "--url", &server.url(), sql]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// The only number of a printed result.
fn number(printed: &str) -> u64 {
    let mut cells =
        printed.lines().filter_map(|line| line.strip_prefix('│')?.trim_end_matches('│').trim().parse().ok());
    cells.next_back().unwrap()
}

/// The most memory that a process has had, in bytes.
fn peak_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// A server whose transactions may have so many MiB.
fn server(data: &Path, mebibytes: u64) -> Server {
    Server::start_with(data, &[("HIGHWATER__TRANSACTION_BYTES_MAX", OsStr::new(&format!("{mebibytes}MiB")))])
}

/// At the limit, which is 1 GiB where there is time: `HIGHWATER_LONG=1`.
#[test]
fn a_transaction_at_its_limit_takes_little_memory_and_is_seen_whole_or_not_at_all() {
    let mebibytes = if std::env::var_os("HIGHWATER_LONG").is_some() { 1024 } else { 192 };
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let running = server(&data, mebibytes);
    sql(&running, "CREATE TABLE t (id bigint PRIMARY KEY, a integer, b text)").unwrap();
    // A row of 1,000 bytes takes some 1,060 in the log.
    let most = mebibytes * 1024 * 1024 / 1080;
    let insert = |rows: u64| {
        format!("INSERT INTO t SELECT v, v % 1000, repeat('x', 1000) FROM generate_series(1, {rows}) AS s(v)")
    };
    let count = |server: &Server| number(&sql(server, "SELECT count(*) FROM t").unwrap());
    let refused = sql(&running, &insert(most * 11 / 10)).unwrap_err();
    assert!(refused.contains("54000"), "{refused}");
    assert_eq!(count(&running), 0);
    let is_over = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                seen.push(count(&running));
            }
            seen
        });
        let inserted = sql(&running, &insert(most));
        is_over.store(true, Ordering::Relaxed);
        inserted.unwrap();
        reader.join().unwrap()
    });
    assert!(seen.iter().all(|rows| [0, most].contains(rows)), "{seen:?}");
    assert_eq!(count(&running), most);
    let committed = peak_bytes(&running);
    // One commit, told part by part.
    let told = highwater(&["feed", "tail", "t", "--url", &running.url(), "--from", "0", "--until-ready"]);
    let lines = String::from_utf8(told.stdout).unwrap();
    assert_eq!(lines.lines().filter(|line| line.contains("\"op\"")).count() as u64, most);
    let peak = peak_bytes(&running);
    let (committed, told) = (committed >> 20, peak >> 20);
    println!("a transaction of {mebibytes} MiB: {committed} MiB at most to commit it, {told} MiB with telling it");
    assert!(peak < PEAK_BYTES_MAX, "{peak} bytes");
    drop(running);
    // A kill while a transaction is being filled leaves nothing of it; one while its commit, which is durable, is applied, all.
    let update = "UPDATE t SET a = a + 1000 WHERE id % 2 = 0";
    let mut changed = Vec::new();
    for is_to_be_applied in [false, true, true, true, true] {
        let running = server(&data, mebibytes);
        let spill = data.join("spill");
        std::thread::scope(|scope| {
            let update = scope.spawn(|| sql(&running, update));
            let is_time = || match is_to_be_applied {
                false => std::fs::read_dir(&spill).unwrap().count() > 1,
                true => {
                    let (_, page) = running.get("/metrics");
                    metric(&page, "highwater_durable_lsn") > metric(&page, "highwater_visible_lsn")
                }
            };
            while !is_time() && !update.is_finished() {
                std::thread::sleep(Duration::from_millis(2));
            }
            let id = rustix::process::Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
            rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
            let told = update.join().unwrap();
            assert!(told.is_err(), "the kill came too late: {told:?}");
        });
        drop(running);
        let running = server(&data, mebibytes);
        changed.push(number(&sql(&running, "SELECT count(*) FROM t WHERE a >= 1000").unwrap()));
        assert_eq!(std::fs::read_dir(data.join("spill")).unwrap().count(), 1, "what was spilled before is gone");
        if changed.last() == Some(&(most / 2)) {
            break;
        }
    }
    let (last, before) = changed.split_last().unwrap();
    assert!(
        !before.is_empty() && before.iter().all(|rows| *rows == 0) && *last == most / 2,
        "{changed:?} of {most} rows"
    );
    let running = server(&data, mebibytes);
    sql(&running, "DELETE FROM t").unwrap();
    assert_eq!(count(&running), 0);
    assert!(peak_bytes(&running) < PEAK_BYTES_MAX, "{} bytes", peak_bytes(&running));
}

/// What a server may take for one transaction, whatever its size.
const PEAK_BYTES_MAX: u64 = 512 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_tells_a_commit_of_many_parts_in_order_and_from_the_middle() {
    let queries = EngineOptions { transaction_memory_bytes: 1024 * 1024, ..EngineOptions::default() };
    let directory = tempfile::tempdir().unwrap();
    let options = Options { queries, ..Options::default() };
    let database = Database::open_with(directory.path(), options, |_| {}).unwrap();
    database.sql("CREATE TABLE t (id integer PRIMARY KEY, b text)").await.unwrap();
    let begin = database.visible();
    let insert = "INSERT INTO t SELECT v, repeat('x', 1000) FROM generate_series(1, 30000) AS s(v)";
    database.sql(insert).await.unwrap();
    let from = |start| database.subscribe(&["t"], start, FeedOptions::default()).unwrap();
    let mut feed = from(FeedStart::After(begin));
    let (mut ids, mut middle) = (Vec::new(), None);
    while ids.len() < 30_000 {
        let mut lines = PlainLines::default();
        let batch = feed.next(&mut lines, 64 * 1024).await.unwrap();
        ids.extend(inserted(&mut lines));
        if ids.len() > 15_000 {
            middle.get_or_insert((ids.len(), batch.cursor.unwrap()));
        }
    }
    assert!(ids.iter().copied().eq(1..=30_000));
    let (told, cursor) = middle.unwrap();
    assert!(cursor.position > 0 && told < 30_000, "the cursor stands inside the commit: {cursor:?}");
    let mut feed = from(FeedStart::Cursor(cursor));
    let mut lines = PlainLines::default();
    let next = loop {
        feed.next(&mut lines, 64 * 1024).await.unwrap();
        if let Some(first) = inserted(&mut lines).first() {
            break *first;
        }
    };
    assert_eq!(next, told as i64 + 1);
}

/// The ids of inserted rows.
fn inserted(lines: &mut PlainLines) -> Vec<i64> {
    let events = lines.take();
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.filter(|event| event["op"] == "insert").map(|event| event["key"]["id"].as_i64().unwrap()).collect()
}

/// What a page of metrics says of a number that has no labels.
fn metric(page: &str, name: &str) -> u64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {page}")).trim().parse().unwrap()
}
