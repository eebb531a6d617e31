//! What operators do: back up, verify, rebuild, watch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;
#[path = "support/session.rs"]
mod session;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use highwater::format::PlainLines;
use highwater::{
    BatchKind, Claim, Cursor, Database, FeedError, FeedOptions, FeedStart, LogId, Lsn, Options, TableSpec,
};
use highwater_proto::v1::ExecuteRequest;
use highwater_proto::v1::sql_client::SqlClient;
use serde_json::Value;
use server::Server;
use session::cell;

fn highwater(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of what must succeed.
fn done(arguments: &[&str]) -> String {
    let output = highwater(arguments);
    assert!(output.status.success(), "{arguments:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `highwater backup`; the log that it is of, and up to where.
fn backup(arguments: &[&str]) -> (LogId, Lsn) {
    let output = highwater(arguments);
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    let word = |before: &str| told.split_once(before).unwrap().1.split([' ', ':']).next().unwrap().to_owned();
    (word("backup of log ").parse().unwrap(), Lsn::new(word("up to lsn ").parse().unwrap()))
}

const DIGEST: &str = "SELECT count(*) || ' ' || coalesce(sum(id), 0) || ' ' || coalesce(sum(n), 0) || ' ' || coalesce(max(v), '') FROM t";

async fn digest(database: &Database, as_of: Option<Lsn>) -> String {
    let sql = as_of.map_or_else(|| DIGEST.to_owned(), |lsn| format!("{DIGEST} AS OF LSN {lsn}"));
    cell(&mut database.session(), &sql).await.unwrap()
}

const AT_ONCE: FeedOptions = FeedOptions { progress_after: Duration::ZERO };

/// The LSNs of the changes that come from there up to what is there now.
async fn lsns_from(database: &Database, cursor: Cursor) -> Result<Vec<u64>, FeedError> {
    let mut feed = database.subscribe(&["t"], FeedStart::Cursor(cursor), AT_ONCE)?;
    let (mut lines, mut lsns) = (PlainLines::default(), Vec::new());
    loop {
        let batch = feed.next(&mut lines, 1 << 20).await?;
        let events: Vec<Value> = lines.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let changes = events.iter().filter(|event| event["key"].is_object());
        lsns.extend(changes.filter_map(|event| event["lsn"].as_u64()));
        if batch.kind != BatchKind::Changes && batch.cursor.is_some_and(|cursor| cursor.lsn >= database.visible()) {
            return Ok(lsns);
        }
    }
}

#[test]
fn a_backup_made_under_load_is_a_database_of_its_own_up_to_its_lsn() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let (url, address) = (server.url(), server.url());
    done(&["sql", "--url", &url, "CREATE TABLE t (id bigint PRIMARY KEY, n bigint, v text); CREATE INDEX ON t (n)"]);
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&written));
    let writer = std::thread::spawn(move || {
        runtime().block_on(async {
            let mut sql = SqlClient::connect(address).await.unwrap();
            for id in 0.. {
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                let sql_text = match id % 10 {
                    9 => format!("UPDATE t SET n = n + 1 WHERE id > {}", id - 5),
                    _ => format!("INSERT INTO t VALUES ({id}, {}, '{}')", id % 7, "x".repeat(2_000)),
                };
                let request = ExecuteRequest { sql: sql_text, ..ExecuteRequest::default() };
                let mut answers = sql.execute(request).await.unwrap().into_inner();
                while answers.message().await.unwrap().is_some() {}
                count.fetch_add(1, Ordering::Release);
            }
        });
    });
    let mut backups: Vec<(PathBuf, LogId, Lsn)> = Vec::new();
    for round in 0..4_u64 {
        while written.load(Ordering::Acquire) < 400 * (round + 1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let copy = directory.path().join(format!("copy-{round}"));
        let before = written.load(Ordering::Acquire);
        let (log, lsn) = backup(&["backup", path(&copy), "--url", &url]);
        assert!(lsn.value() >= before, "what was acknowledged before is in it");
        backups.push((copy, log, lsn));
    }
    stop.store(true, Ordering::Release);
    writer.join().unwrap();
    // Another one into the same directory is refused, and harms nothing.
    let again = highwater(&["backup", path(&backups[0].0), "--url", &url]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("is not empty"), "{}", text(&again.stderr));
    assert!(server.terminate().success());
    runtime().block_on(async {
        let original = Database::open(&data).unwrap();
        let mut ids = vec![original.log_id()];
        for (copy, log, lsn) in &backups {
            assert_eq!(*log, original.log_id());
            let own = Database::open(copy).unwrap();
            assert_eq!(own.visible(), *lsn);
            assert_eq!(digest(&own, None).await, digest(&original, Some(*lsn)).await);
            let (counted, found) = own.verify(|_| {}).unwrap();
            assert!(found.is_empty() && counted.rows > 100 && counted.entries == counted.rows, "{counted:?} {found:?}");
            assert!(!ids.contains(&own.log_id()));
            ids.push(own.log_id());
            // The original's cursors hold as far as both have the same commits, and no further.
            let middle = Lsn::new(lsn.value() / 2);
            let from_parent = lsns_from(&own, Cursor::after(*log, middle)).await.unwrap();
            assert_eq!(from_parent, lsns_from(&own, Cursor::after(own.log_id(), middle)).await.unwrap());
            assert_eq!(from_parent.last(), Some(&lsn.value()));
            own.sql("INSERT INTO t VALUES (-1, 0, 'own')").await.unwrap();
            assert_eq!(lsns_from(&own, Cursor::after(*log, *lsn)).await.unwrap(), [lsn.value() + 1]);
            for beyond in [Cursor::after(*log, lsn.next()), Cursor { position: 1, ..Cursor::after(*log, *lsn) }] {
                assert!(matches!(lsns_from(&own, beyond).await, Err(FeedError::OtherLog { .. })), "{beyond}");
            }
            let not_its_parent = Cursor::after(own.log_id(), Lsn::new(1));
            assert!(matches!(lsns_from(&original, not_its_parent).await, Err(FeedError::OtherLog { .. })));
            own.close().unwrap();
        }
    });
}

#[test]
fn a_backup_that_breaks_off_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let url = server.url();
    let rows = "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 100000) AS s(g)";
    done(&["sql", "--url", &url, &format!("CREATE TABLE t (id bigint PRIMARY KEY, v text); {rows}")]);
    let copy = directory.path().join("copy");
    let mut child = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["backup", path(&copy), "--url", &url])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As soon as something of it is there.
    while !copy.join("log").is_dir() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had begun");
        std::thread::sleep(Duration::from_millis(1));
    }
    server.kill();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        // Everything was on its way already: then it is whole.
        let database = Database::open(&copy).unwrap();
        assert!(database.verify(|_| {}).unwrap().1.is_empty());
        return;
    }
    assert!(!copy.exists(), "{}", text(&output.stderr));
    // A directory that was there before stays, as empty as it was.
    std::fs::create_dir(&copy).unwrap();
    let refused = highwater(&["backup", path(&copy), "--data", path(&directory.path().join("nowhere"))]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("no log in"), "{}", text(&refused.stderr));
    assert_eq!(std::fs::read_dir(&copy).unwrap().count(), 0);
    let (_, lsn) = backup(&["backup", path(&copy), "--data", path(&data)]);
    assert_eq!(done(&["sql", "--data", path(&copy), "--output", "csv", "SELECT count(*) AS n FROM t"]), "n\n100000\n");
    assert!(lsn.value() >= 2);
}

#[test]
fn a_backup_that_is_killed_is_opened_by_nobody_and_one_that_is_whole_stays_one() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let url = server.url();
    let rows = "INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) AS s(g)";
    done(&["sql", "--url", &url, &format!("CREATE TABLE t (id bigint PRIMARY KEY, v text); {rows}")]);
    let broken = directory.path().join("broken");
    let mut child = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["backup", path(&broken), "--url", &url])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !broken.join("log/UNFINISHED").exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let opened = highwater(&["sql", "--data", path(&broken), "SELECT 1"]);
    if broken.join("log/UNFINISHED").exists() {
        assert_eq!(opened.status.code(), Some(1));
        assert!(text(&opened.stderr).contains("broken off"), "{}", text(&opened.stderr));
    }
    // Looking at a backup does not make another log of it, and there is no backup of it.
    let whole = directory.path().join("whole");
    let (log, _) = backup(&["backup", path(&whole), "--url", &url]);
    let told = done(&["doctor", "--data", path(&whole)]);
    assert!(told.contains("a backup that was not opened yet"), "{told}");
    let again = highwater(&["backup", path(&directory.path().join("again")), "--data", path(&whole)]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("copy its files"), "{}", text(&again.stderr));
    done(&["log", "verify", "--data", path(&whole)]);
    let listed = text(&highwater(&["log", "ls", "--data", path(&whole)]).stderr);
    assert!(listed.contains(&log.to_string()), "{listed}");
}

#[test]
fn a_trimmed_database_with_named_feeds_goes_on_from_its_backup() {
    let directory = tempfile::tempdir().unwrap();
    let (data, copy) = (directory.path().join("data"), directory.path().join("copy"));
    runtime().block_on(async {
        let mut options = Options::default();
        options.rows.history = Duration::ZERO;
        let database = Database::open_with(&data, options, |_| {}).unwrap();
        database.sql("CREATE TABLE t (id bigint PRIMARY KEY, n bigint, v text)").await.unwrap();
        for from in (0..40_000).step_by(10_000) {
            let rows = format!(
                "INSERT INTO t SELECT g, 0, repeat('x', 200) FROM generate_series({from}, {from} + 9999) AS s(g)"
            );
            database.sql(&rows).await.unwrap();
        }
        let told = [TableSpec::whole("t")];
        let feeds = database.named_feeds();
        let mut feed = feeds.open("copy", &told, FeedStart::Now, Claim::Refuse, AT_ONCE).await.unwrap();
        let mut lines = PlainLines::default();
        let cursor = loop {
            if let Some(cursor) = feed.next(&mut lines, 1 << 20).await.unwrap().cursor {
                break cursor;
            }
        };
        feed.acknowledge(cursor).unwrap();
        feed.durable().wait_for(Option::is_some).await.unwrap();
        drop(feed);
        database.sql("UPDATE t SET n = 1 WHERE id = 7").await.unwrap();
        let to = Lsn::new(4);
        assert!(database.trim(Some(to)).unwrap() > Lsn::new(1), "something was trimmed");
        let made = database.backup(&copy, |_| {}).unwrap();
        assert_eq!(made.header.lsn, database.visible());
        let own = Database::open(&copy).unwrap();
        assert_eq!(digest(&own, None).await, digest(&database, None).await);
        let scratch = tempfile::tempdir().unwrap();
        assert_eq!(own.compare_with_log(scratch.path(), |_| {}).unwrap(), []);
        // The feed stands where its reader has acknowledged, under the new log's name; what the reader knows still counts.
        let mut feed = own.named_feeds().open("copy", &[], FeedStart::Now, Claim::Refuse, AT_ONCE).await.unwrap();
        let (mut lines, mut events) = (PlainLines::default(), Vec::new());
        while events.is_empty() {
            feed.next(&mut lines, 1 << 20).await.unwrap();
            let told = lines.take();
            let told = told.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            events.extend(told.filter(|event| event["key"].is_object()));
        }
        assert_eq!(events.len(), 1);
        assert_eq!(events[0]["key"]["id"], 7);
        assert_eq!(cursor.log, database.log_id());
        feed.acknowledge(cursor).unwrap();
    });
}

#[test]
fn a_database_in_memory_has_no_backup() {
    let database = Database::in_memory().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let refused = database.backup(directory.path().join("copy"), |_| {}).unwrap_err();
    assert!(refused.to_string().contains("reading only"), "{refused}");
    assert!(!directory.path().join("copy").exists());
}

/// The largest file of the rows.
fn row_file(data: &Path) -> PathBuf {
    let mut files = Vec::new();
    for tree in std::fs::read_dir(data.join("materialized/kv/trees")).unwrap() {
        let Ok(tables) = std::fs::read_dir(tree.unwrap().path().join("tables")) else { continue };
        files.extend(tables.map(|file| file.unwrap().path()));
    }
    files.into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn the_doctor_finds_what_is_damaged_and_says_what_mends_it() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let rows = "INSERT INTO t SELECT g, g % 10, 'v' || g FROM generate_series(1, 20000) AS s(g)";
    let script = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint, v text UNIQUE); CREATE INDEX ON t (n); {rows}; DELETE FROM t WHERE n = 3"
    );
    done(&["sql", "--data", path(&data), &script]);
    let whole = done(&["doctor", "--data", path(&data), "--refold"]);
    assert!(whole.contains("rows     18000 at lsn"), "{whole}");
    assert!(whole.contains("36000 index entries"), "{whole}");
    assert!(whole.contains("refold   the rows are what the log says"), "{whole}");
    assert!(!data.read_dir().unwrap().any(|entry| path(&entry.unwrap().path()).contains("doctor-")));
    let count = || done(&["sql", "--data", path(&data), "--output", "csv", "SELECT count(*) AS n, sum(n) AS s FROM t"]);
    let before = count();

    // A file of the rows: found, told, mended.
    let file = row_file(&data);
    flip(&file, 5_000);
    let sick = highwater(&["doctor", "--data", path(&data)]);
    let told = text(&sick.stdout);
    assert_eq!(sick.status.code(), Some(3), "{told}");
    assert!(told.contains(&format!("damaged  kv: {} is damaged", file.display())), "{told}");
    assert!(told.contains("--rebuild kv"), "{told}");
    let mended = done(&["doctor", "--data", path(&data), "--rebuild", "kv"]);
    assert!(mended.contains("kv       dropped, and folded anew"), "{mended}");
    assert!(mended.contains("rows     18000 at lsn"), "{mended}");
    done(&["doctor", "--data", path(&data)]);
    assert_eq!(count(), before);

    // A file that is gone, and one that says which files there are.
    std::fs::remove_file(row_file(&data)).unwrap();
    assert_eq!(highwater(&["doctor", "--data", path(&data)]).status.code(), Some(3));
    done(&["doctor", "--data", path(&data), "--rebuild", "all"]);
    flip(&data.join("materialized/catalog/checkpoint"), 90);
    let sick = highwater(&["doctor", "--data", path(&data)]);
    assert_eq!(sick.status.code(), Some(3));
    assert!(text(&sick.stdout).contains("damaged  catalog: "), "{}", text(&sick.stdout));
    done(&["doctor", "--data", path(&data), "--rebuild", "catalog"]);
    assert_eq!(count(), before);

    // While a server has it, the log alone.
    let server = Server::start(&data);
    let told = done(&["doctor", "--data", path(&data)]);
    assert!(told.contains("log      ") && told.contains(&format!("in use by process {}", server.id())), "{told}");
    let refused = highwater(&["doctor", "--data", path(&data), "--rebuild", "kv"]);
    assert_eq!(refused.status.code(), Some(1), "{}", text(&refused.stdout));
    assert!(server.terminate().success());
    assert_eq!(count(), before);

    // The log itself: nothing is dropped that it may not give again.
    let segment = data.join("log").join(format!("segment-{:020}", 1));
    flip(&segment, 4_200);
    for arguments in [&["doctor", "--data", path(&data)][..], &["doctor", "--data", path(&data), "--rebuild", "kv"]] {
        let sick = highwater(arguments);
        let told = text(&sick.stdout);
        assert_eq!(sick.status.code(), Some(3), "{told}");
        assert!(told.contains("damaged  ") && told.contains("do not rebuild it"), "{told}");
    }
    assert!(row_file(&data).exists());
    flip(&segment, 4_200);
    assert_eq!(count(), before);
    let missing = highwater(&["doctor", "--data", path(&directory.path().join("nowhere"))]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn the_doctor_drops_nothing_that_a_shortened_log_cannot_give_again() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start_with(&data, &[("HIGHWATER__MEMTABLE_BYTES", "1MiB".as_ref())]);
    let url = server.url();
    done(&["sql", "--url", &url, "CREATE TABLE t (id bigint PRIMARY KEY, v text)"]);
    for from in (0..20_000).step_by(1_000) {
        let rows =
            format!("INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series({from}, {from} + 999) AS s(g)");
        done(&["sql", "--url", &url, &rows]);
    }
    // What the folds have in their files is more than the first segment has.
    let checkpoint = "SELECT checkpoint_lsn > (SELECT first_lsn FROM hw_catalog.segments WHERE segment = 2) AS is_behind FROM hw_catalog.materializers WHERE name = 'kv'";
    for _ in 0..600 {
        if done(&["sql", "--url", &url, "--output", "csv", checkpoint]).contains("\nt\n") {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    server.kill();
    let segment = data.join("log").join(format!("segment-{:020}", 2));
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[4096..].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    for arguments in [&["doctor", "--data", path(&data)][..], &["doctor", "--data", path(&data), "--rebuild", "all"]] {
        let sick = highwater(arguments);
        let told = text(&sick.stdout);
        assert_eq!(sick.status.code(), Some(3), "{told} {}", text(&sick.stderr));
        assert!(told.contains("do not rebuild it"), "{told}");
    }
    assert!(row_file(&data).exists());
    assert_eq!(highwater(&["log", "verify", "--data", path(&data)]).status.code(), Some(3));
}

/// The numbers of a page of metrics, by name and labels.
fn numbers(server: &Server) -> BTreeMap<String, f64> {
    let (status, page) = server.get("/metrics");
    assert!(status.contains("200"), "{status}");
    assert!(page.ends_with("# EOF\n"), "{page}");
    let mut described = Vec::new();
    let mut numbers = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.split(' ');
            if words.next() == Some("TYPE") {
                described.push(words.next().unwrap().to_owned());
            }
            continue;
        }
        let (name, number) = line.rsplit_once(' ').unwrap();
        let bare = name.split('{').next().unwrap();
        assert!(described.last().is_some_and(|family| bare.starts_with(family.as_str())), "{line} has no TYPE");
        assert!(numbers.insert(name.to_owned(), number.parse().unwrap()).is_none(), "{line} stands twice");
    }
    numbers
}

#[test]
fn metrics_count_what_happens_and_the_dashboard_shows_them() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"));
    let url = server.url();
    done(&["sql", "--url", &url, "CREATE TABLE t (id bigint PRIMARY KEY)"]);
    let before = numbers(&server);
    let mut script = String::new();
    for id in 0..20 {
        script.push_str(&format!("INSERT INTO t VALUES ({id}), ({id} + 1000);"));
    }
    done(&["sql", "--url", &url, &script]);
    done(&["sql", "--url", &url, "SELECT * FROM t"]);
    assert!(!highwater(&["sql", "--url", &url, "SELECT * FROM nobody"]).status.success());
    done(&["feed", "tail", "t", "--url", &url, "--name", "copy", "--until-ready"]);
    let after = numbers(&server);
    let moved = |name: &str| after[name] - before.get(name).copied().unwrap_or(0.0);
    assert!(moved("highwater_commits_total") >= 20.0, "and those of the feed");
    assert!(moved("highwater_commits_total") <= 24.0);
    assert!(moved("highwater_changes_total") >= 40.0);
    assert!(moved("highwater_log_sync_seconds_count") >= 20.0);
    assert!(moved("highwater_log_appended_bytes_total") > 40.0 * 16.0);
    assert_eq!(moved("highwater_commit_seconds_count"), moved("highwater_commits_total"));
    assert_eq!(after["highwater_commit_group_commits_sum"], after["highwater_commits_total"]);
    assert_eq!(moved("highwater_statement_seconds_count"), 22.0);
    assert_eq!(moved("highwater_statement_rows_total"), 80.0);
    assert_eq!(after["highwater_statement_errors_total{sqlstate=\"42P01\"}"], 1.0);
    assert_eq!(after["highwater_feed_read{feed=\"copy\"}"], 0.0);
    assert_eq!(after["highwater_materializer_lag_commits{materializer=\"kv\"}"], 0.0);
    assert_eq!(after["highwater_visible_lsn"], after["highwater_durable_lsn"]);
    assert!(after["highwater_memory_resident_bytes"] > 1e6);
    assert_eq!((after["highwater_up"], after["highwater_writable"], after["highwater_log_damages"]), (1.0, 1.0, 0.0));
    // Buckets are cumulative, and the last holds all.
    let buckets: Vec<_> =
        after.iter().filter(|(name, _)| name.starts_with("highwater_commit_seconds_bucket")).collect();
    let most = buckets.iter().map(|(_, count)| **count).fold(0.0, f64::max);
    assert_eq!(after["highwater_commit_seconds_bucket{le=\"+Inf\"}"], most);
    assert_eq!(most, after["highwater_commit_seconds_count"]);

    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana/highwater.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(dashboard).unwrap()).unwrap();
    let mut asked = 0;
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            for (at, _) in expression.match_indices("highwater_") {
                let name: String =
                    expression[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let has = after.keys().any(|known| *known == name || known.starts_with(&format!("{name}{{")));
                assert!(has, "the dashboard asks for {name}");
                asked += 1;
            }
        }
    }
    assert!(asked > 30);
}

#[test]
fn the_catalog_tells_of_feeds_segments_materializers_sessions_and_settings() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"));
    let url = server.url();
    let rows = |sql: &str| done(&["sql", "--url", &url, "--output", "csv", sql]);
    rows("CREATE TABLE t (id bigint PRIMARY KEY, n bigint); INSERT INTO t VALUES (1, 1)");
    let feed = ["feed", "tail", "t", "--url", &url, "--name", "some", "--where", "n > 0", "--until-ready"];
    done(&feed);
    rows("INSERT INTO t VALUES (2, 2); INSERT INTO t VALUES (3, -3)");
    assert_eq!(
        rows(
            "SELECT name, tables, is_read, held_commits >= 2 AS behind, held_bytes > 0 AS costs, held_since < now() AS since FROM hw_catalog.feeds"
        ),
        "name,tables,is_read,behind,costs,since\nsome,public.t where n > 0,f,t,t,t\n"
    );
    assert_eq!(
        rows("SELECT segment, state, first_lsn FROM hw_catalog.segments ORDER BY 1 LIMIT 1"),
        "segment,state,first_lsn\n1,active,1\n"
    );
    assert_eq!(
        rows("SELECT name, applied_lsn = hw_lsn() AS is_current, is_damaged FROM hw_catalog.materializers ORDER BY 1"),
        "name,is_current,is_damaged\ncatalog,t,f\nkv,t,f\n"
    );
    assert_eq!(
        rows(
            "SELECT state, statement LIKE 'SELECT state%' AS it FROM hw_catalog.sessions WHERE statement LIKE '%hw_catalog.sessions%'"
        ),
        "state,it\nactive,t\n"
    );
    assert_eq!(
        rows("SELECT s.setting FROM hw_catalog.settings AS s WHERE s.name = 'sessions_max'"),
        "setting\n10000\n"
    );
    assert_eq!(
        text(&highwater(&["sql", "--url", &url, "DELETE FROM hw_catalog.feeds"]).stderr).matches("42").count(),
        1
    );
}

#[test]
fn a_session_is_seen_while_it_lasts() {
    runtime().block_on(async {
        let database = Database::in_memory().unwrap();
        database.sql("CREATE TABLE t (id bigint PRIMARY KEY)").await.unwrap();
        let mut watcher = database.session();
        watcher.execute("SET application_name = 'watcher'").await.unwrap();
        let mut other = database.session();
        other.configure("application_name", "other").unwrap();
        const STATE: &str = "SELECT state || ' ' || coalesce(transaction_lsn::text, '-') || ' ' || statement FROM hw_catalog.sessions WHERE application_name = 'other'";
        other.execute("SELECT 1").await.unwrap();
        assert_eq!(cell(&mut watcher, STATE).await.unwrap(), "idle - SELECT 1");
        other.execute("BEGIN").await.unwrap();
        let lsn = other.read_lsn().unwrap();
        assert_eq!(cell(&mut watcher, STATE).await.unwrap(), format!("idle in transaction {lsn} BEGIN"));
        let prepared = other.prepare("SELECT * FROM t WHERE id = $1").unwrap();
        let reading = other.run_prepared(&prepared, &[1.into()]).await.unwrap();
        let told = format!("active {lsn} SELECT * FROM t WHERE id = $1");
        assert_eq!(cell(&mut watcher, STATE).await.unwrap(), told);
        drop(reading);
        other.execute("SELECT * FROM nobody").await.unwrap_err();
        let told = "idle in transaction (aborted) - SELECT * FROM nobody";
        assert_eq!(cell(&mut watcher, STATE).await.unwrap(), told);
        other.execute("ROLLBACK; RESET ALL").await.unwrap();
        let mine = "SELECT count(*) FROM hw_catalog.sessions";
        assert_eq!(cell(&mut watcher, &format!("{mine} WHERE application_name = 'other'")).await.unwrap(), "0");
        let open = cell(&mut watcher, mine).await.unwrap();
        drop(other);
        assert_eq!((open.as_str(), cell(&mut watcher, mine).await.unwrap().as_str()), ("2", "1"));
        let long = format!("SELECT '{}ä'", "x".repeat(1_015));
        watcher.execute(&long).await.unwrap();
        let mut third = database.session();
        let length = cell(&mut third, "SELECT octet_length(statement) FROM hw_catalog.sessions WHERE application_name = 'watcher'");
        assert_eq!(length.await.unwrap(), "1023", "what is shown is cut between characters");
    });
}

#[test]
fn slow_statements_are_told_with_their_time() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HIGHWATER__SLOW_STATEMENT_MILLIS", "1".as_ref())];
    let server = Server::start_with(&directory.path().join("data"), &environment);
    let slow = "SELECT count(*) FROM generate_series(1, 3000000) AS s(g) WHERE g % 7 = 3";
    done(&["sql", "--url", &server.url(), slow]);
    let told = server.told("slow_statement");
    assert!(told.contains("generate_series(1, 3000000)") && told.contains("millis="), "{told}");
    assert!(told.contains("rows=1") && told.contains("sqlstate=\"00000\""), "{told}");
}

/// `docs/limits.md` names every setting with its default, and the command takes each.
#[test]
fn the_page_of_limits_is_what_the_server_has() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md")).unwrap();
    let help = done(&["server", "--help"]);
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"));
    let listed = done(&["sql", "--url", &server.url(), "--output", "jsonl", "SELECT * FROM hw_catalog.settings"]);
    let mut count = 0;
    for line in listed.lines() {
        let setting: Value = serde_json::from_str(line).unwrap();
        let name = setting["name"].as_str().unwrap();
        let argument = format!("--{}", name.replace('_', "-"));
        assert!(help.contains(&format!("{argument}\n")) || help.contains(&format!("{argument} ")), "{argument}");
        let row = page.lines().find(|line| line.starts_with(&format!("| `{argument}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/limits.md does not have {argument}"));
        let default = row.split('|').nth(2).unwrap().trim();
        let number: u64 = default.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
        let unit = if default.ends_with(" MiB") {
            1 << 20
        } else if default.ends_with(" GiB") {
            1 << 30
        } else {
            1
        };
        let known = setting["default"].as_str().unwrap();
        if known.bytes().all(|byte| byte.is_ascii_digit()) && name != "slow_statement_millis" {
            assert_eq!(known, (number * unit).to_string(), "{row}");
        }
        count += 1;
    }
    assert!(count >= 15, "{listed}");
}
