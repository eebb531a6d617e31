//! The recorded change streams of a real PostgreSQL: read in whatever way, the tables end as PostgreSQL held them, and the log is the
//! one of a single clean run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};

use highwater::{Database, Outcome, types};
use highwater_log::env::simulated::Random;
use serde_json::{Value, json};
use server::Server;

/// The command's answer when the input ends inside something.
const INCOMPLETE: i32 = 4;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgres-cdc").join(name)
}

/// The lines of a recorded stream, each with its end.
fn lines(name: &str) -> Vec<String> {
    let bytes = zstd::decode_all(std::fs::File::open(recorded(name)).unwrap()).unwrap();
    String::from_utf8(bytes).unwrap().split_inclusive('\n').map(str::to_owned).collect()
}

/// The tables as PostgreSQL held them at the end, by name, and the schema dump.
fn expected(name: &str) -> (BTreeMap<String, Vec<u8>>, Vec<u8>) {
    let bytes = zstd::decode_all(std::fs::File::open(recorded(name)).unwrap()).unwrap();
    let mut archive = tar::Archive::new(&bytes[..]);
    let (mut tables, mut schema) = (BTreeMap::new(), Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if path.extension().is_some_and(|extension| extension == "csv") {
            tables.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), content);
        } else if path.ends_with("schema.sql") {
            schema = content;
        }
    }
    (tables, schema)
}

/// How often something is drawn: in every run, and with `HIGHWATER_LONG`.
fn draws(short: usize, long: usize) -> usize {
    if std::env::var_os("HIGHWATER_LONG").is_some() { long } else { short }
}

struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("schema.sql"), expected("expected.tar.zst").1).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, data: &str, tables: Option<&str>, input: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["ingest", "--format", "debezium", "--data"]).arg(self.path(data));
        if let Some(tables) = tables {
            command.arg("--tables").arg(self.path(tables));
        }
        command.arg(input).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Ingests a file, and expects this exit code.
    fn ingest(&self, data: &str, tables: Option<&str>, input: &Path, code: i32) -> Output {
        let output = self.command(data, tables, input).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.is_empty(), "standard output holds results and nothing else");
        output
    }

    fn write(&self, name: &str, lines: &[String]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, lines.concat()).unwrap();
        path
    }

    fn csv(&self, data: &str, query: &str) -> Vec<u8> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        let output =
            command.args(["sql", "--output", "csv", "--data"]).arg(self.path(data)).arg(query).output().unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// The log's changes, decoded, without the times of its commits.
    fn changes(&self, data: &str) -> Vec<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        let output = command.args(["log", "cat", "--data"]).arg(self.path(data)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let without_time = |line: &str| {
            let (head, rest) = line.split_once(",\"time_us\":").unwrap();
            let (_, rest) = rest.split_once(',').unwrap();
            format!("{head},{rest}")
        };
        text.lines().map(without_time).collect()
    }

    fn assert_same_log(&self, data: &str, clean: &[String], context: &str) {
        let changes = self.changes(data);
        assert_eq!(changes.len(), clean.len(), "{context}: as many commits as one clean run makes");
        for (found, expected) in changes.iter().zip(clean) {
            assert_eq!(found, expected, "{context}");
        }
    }
}

/// Waits until a child has taken all that it was given.
fn hold(child: &mut Child, stdin: &ChildStdin) {
    while rustix::io::ioctl_fionread(stdin).unwrap() > 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it had read everything");
        std::thread::yield_now();
    }
}

/// Each table in the order of its key; the one without a key as counted groups.
fn query(table: &str) -> String {
    let key = match table {
        "pgbench_history" => {
            let columns = "tid, bid, aid, delta";
            return format!("SELECT {columns}, count(*) AS n FROM {table} GROUP BY {columns} ORDER BY {columns}");
        }
        "pgbench_accounts" => "aid",
        "pgbench_branches" => "bid",
        "pgbench_tellers" => "tid",
        "full_identity" => "k",
        "more_types" => "a, b",
        _ => "id",
    };
    format!("SELECT * FROM {table} ORDER BY {key}")
}

fn assert_tables(world: &World, data: &str, archive: &str) {
    let (tables, _) = expected(archive);
    assert!(tables.len() >= 4, "the archive holds the tables");
    for (table, expected) in tables {
        let found = world.csv(data, &query(&table));
        assert!(found == expected, "table {table} of {archive} differs");
    }
}

#[test]
fn the_tables_end_as_postgresql_held_them_byte_for_byte() {
    let world = World::new();
    let output = world.ingest("plain", Some("schema.sql"), &recorded("events.jsonl.zst"), 0);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("passed over: CREATE PUBLICATION"), "{told}");
    assert_tables(&world, "plain", "expected.tar.zst");
    world.ingest("embedded", None, &recorded("events-with-schemas.jsonl.zst"), 0);
    assert_tables(&world, "embedded", "expected-with-schemas.tar.zst");

    // Given twice, under another name: nothing comes of it.
    let before = world.changes("plain");
    let copy = world.write("copy.jsonl", &lines("events.jsonl.zst"));
    world.ingest("plain", Some("schema.sql"), &copy, 0);
    world.assert_same_log("plain", &before, "given twice");

    // At every commit the four sums agree.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let database = Database::open(world.path("plain")).unwrap();
    let end = database.visible().value();
    let mut random = Random::new(7);
    for _ in 0..200 {
        // The snapshot's batches hold the accounts before the tellers.
        let lsn = 12 + random.below(end - 11);
        let sums = runtime.block_on(sums(&database, lsn));
        assert!(sums.iter().all(|sum| *sum == sums[0]), "at lsn {lsn}: {sums:?}");
    }
    assert_eq!(runtime.block_on(sums(&database, end)), ["-33102"; 4]);
}

async fn sums(database: &Database, lsn: u64) -> Vec<String> {
    let sql = format!(
        "SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts) AS a, \
         (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers) AS t, \
         (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches) AS b, \
         (SELECT coalesce(sum(delta), 0) FROM pgbench_history) AS h AS OF LSN {lsn}"
    );
    let Outcome::Rows(rows) = database.sql(&sql).await.unwrap() else { panic!("rows") };
    assert_eq!(rows.lsn().value(), lsn);
    let batches = rows.collect().await.unwrap();
    let batch = batches.iter().find(|batch| batch.num_rows() == 1).unwrap();
    let text = |array| {
        let mut text = String::new();
        types::text_at(array, 0, types::column_type_of(arrow::array::Array::data_type(array)).unwrap(), &mut text)
            .unwrap();
        text
    };
    batch.columns().iter().map(text).collect()
}

#[test]
fn cut_anywhere_and_given_again_the_log_is_that_of_one_run() {
    let world = World::new();
    let all = lines("events-with-schemas.jsonl.zst");
    let whole = world.write("whole.jsonl", &all);
    world.ingest("clean", None, &whole, 0);
    let clean = world.changes("clean");
    let mut random = Random::new(11);
    for round in 0..20 {
        let cut = 1 + random.below(all.len() as u64 - 1) as usize;
        let data = format!("cut-{round}");
        let piece = world.write("piece.jsonl", &all[..cut]);
        let output = world.command(&data, None, &piece).output().unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | INCOMPLETE)), "{code:?}: {}", String::from_utf8_lossy(&output.stderr));
        world.ingest(&data, None, &whole, 0);
        world.assert_same_log(&data, &clean, &format!("cut behind line {cut}"));
    }
    // Two pieces that overlap, the second beginning anywhere in what is stored.
    for round in 0..10 {
        // One transaction takes lines 14 to 1915: the second piece may begin in it, once the first has stored it.
        let first_end = 1_920 + random.below(all.len() as u64 - 1_920) as usize;
        let second_begin = random.below(1_900) as usize;
        let data = format!("pieces-{round}");
        let first = world.write("first.jsonl", &all[..first_end]);
        let second = world.write("second.jsonl", &all[second_begin..]);
        let output = world.command(&data, None, &first).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | INCOMPLETE)));
        world.ingest(&data, None, &second, 0);
        let context = format!("lines 1 to {first_end}, then from {} on", second_begin + 1);
        world.assert_same_log(&data, &clean, &context);
    }
}

#[test]
fn pieces_of_a_stream_with_a_snapshot_may_overlap() {
    let world = World::new();
    let all = lines("events.jsonl.zst");
    let whole = world.write("whole.jsonl", &all);
    world.ingest("clean", Some("schema.sql"), &whole, 0);
    let clean = world.changes("clean");
    let snapshot_end = all.iter().position(|line| line.contains("\"snapshot\":\"last\"")).unwrap() + 1;
    assert!(snapshot_end > 100_000, "{snapshot_end} lines of snapshot");
    let begins_transaction = |line: &str| line.contains(TOPIC) && line.contains("\"BEGIN\"");
    let mut random = Random::new(29);
    for round in 0..4 {
        let first_end = snapshot_end + 10_000 + random.below((all.len() - snapshot_end - 10_000) as u64) as usize;
        let drawn = match round % 2 {
            // Behind the snapshot, at the beginning of a transaction.
            0 => snapshot_end + random.below(9_000) as usize,
            // Inside the snapshot: what it belongs to is stored whole.
            _ => 1 + random.below(snapshot_end as u64 - 1) as usize,
        };
        let is_behind = drawn >= snapshot_end;
        let transaction = || all[drawn..].iter().position(|line| begins_transaction(line)).unwrap();
        let second_begin = if is_behind { drawn + transaction() } else { drawn };
        let data = format!("pieces-{round}");
        let first = world.write("first.jsonl", &all[..first_end]);
        let second = world.write("second.jsonl", &all[second_begin..]);
        let output = world.command(&data, Some("schema.sql"), &first).output().unwrap();
        assert!(matches!(output.status.code(), Some(0 | INCOMPLETE)));
        world.ingest(&data, Some("schema.sql"), &second, 0);
        let context = format!("lines 1 to {first_end}, then from {} on", second_begin + 1);
        world.assert_same_log(&data, &clean, &context);
        std::fs::remove_dir_all(world.path(&data)).unwrap();
    }
    // And all of it through standard input.
    let mut child = world.command("stdin", Some("schema.sql"), Path::new("-")).spawn().unwrap();
    child.stdin.take().unwrap().write_all(all.concat().as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    world.assert_same_log("stdin", &clean, "through standard input");
}

/// An event of a table `docs` (id, body) by itself, without transaction metadata.
fn docs_event(operation: &str, transaction: u64, lsn: u64, id: u64, body: Option<&str>) -> String {
    let row = json!({"id": id, "body": body});
    let (before, after) =
        if operation == "d" { (json!({"id": id, "body": null}), Value::Null) } else { (Value::Null, row) };
    let source = json!({
        "version": "3.6.3.Final", "connector": "postgresql", "name": "s", "db": "d", "schema": "public", "table": "docs",
        "snapshot": "false", "txId": transaction, "lsn": lsn, "sequence": format!("[\"{lsn}\",\"{lsn}\"]"), "ts_ms": 1,
    });
    let value =
        json!({"before": before, "after": after, "source": source, "op": operation, "ts_ms": 1, "transaction": null});
    format!("{}\n", json!({"topic": "s.public.docs", "key": {"id": id}, "value": value}))
}

/// What the upstream judges at the end of a transaction only is not judged here.
#[test]
fn a_deferrable_constraint_of_a_dump_is_left_to_the_upstream() {
    let world = World::new();
    let dump = "CREATE TABLE public.docs (id integer NOT NULL, body text);\n\
        ALTER TABLE ONLY public.docs ADD CONSTRAINT docs_pkey PRIMARY KEY (id);\n\
        ALTER TABLE ONLY public.docs ADD CONSTRAINT docs_body_key UNIQUE (body) DEFERRABLE INITIALLY DEFERRED;\n";
    std::fs::write(world.path("docs.sql"), dump).unwrap();
    let events = [
        docs_event("c", 1, 100, 1, Some("a")),
        docs_event("c", 1, 101, 2, Some("b")),
        docs_event("u", 2, 200, 1, Some("b")),
        docs_event("u", 2, 201, 2, Some("a")),
        docs_event("c", 3, 300, 3, None),
    ];
    let output = world.ingest("docs", Some("docs.sql"), &world.write("docs.jsonl", &events), INCOMPLETE);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("passed over: ALTER TABLE ONLY public.docs ADD CONSTRAINT docs_body_key"), "{told}");
    let rows = String::from_utf8(world.csv("docs", "SELECT * FROM docs ORDER BY id")).unwrap();
    assert_eq!(rows, "id,body\n1,b\n2,a\n");
}

/// A change of a key is told as a delete and an insert, and the insert leaves out the long values that did not change.
#[test]
fn a_key_that_changes_keeps_the_values_that_were_left_out() {
    const UNCHANGED: Option<&str> = Some("__debezium_unavailable_value");
    let world = World::new();
    std::fs::write(
        world.path("docs.sql"),
        "CREATE TABLE public.docs (id integer PRIMARY KEY, body text DEFAULT 'none');\n",
    )
    .unwrap();
    let mut events = vec![
        docs_event("c", 1, 100, 1, Some("long")),
        docs_event("c", 1, 101, 5, None),
        // Changed and moved in one transaction.
        docs_event("u", 2, 200, 1, Some("longer")),
        docs_event("d", 2, 201, 1, None),
        docs_event("c", 2, 201, 2, UNCHANGED),
        // Moved again, and one that holds NULL.
        docs_event("d", 3, 300, 2, None),
        docs_event("c", 3, 300, 3, UNCHANGED),
        docs_event("d", 3, 301, 5, None),
        docs_event("c", 3, 301, 6, UNCHANGED),
        // Not said at all: the DEFAULT.
        docs_event("c", 3, 302, 7, Some("body")).replace("\"body\":\"body\",", "").replace(",\"body\":\"body\"", ""),
        docs_event("c", 4, 400, 9, Some("open")),
    ];
    let stream = world.write("docs.jsonl", &events);
    world.ingest("docs", Some("docs.sql"), &stream, INCOMPLETE);
    let rows = String::from_utf8(world.csv("docs", "SELECT * FROM docs ORDER BY id")).unwrap();
    assert_eq!(rows, "id,body\n3,longer\n6,\n7,none\n");
    // What no row has is refused: nothing was deleted, or something else was.
    let alone = vec![docs_event("c", 4, 400, 9, UNCHANGED), docs_event("c", 5, 500, 10, None)];
    let unlike = vec![
        docs_event("d", 4, 400, 3, None),
        docs_event("c", 4, 401, 9, UNCHANGED),
        docs_event("c", 5, 500, 10, None),
    ];
    events.pop();
    for (tail, line) in [(alone, 11), (unlike, 12)] {
        let path = world.write("bad.jsonl", &[events.clone(), tail].concat());
        let output = world.command("docs", None, &path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(&format!("line {line}")) && told.contains("column body of table docs"), "{told}");
        let again = String::from_utf8(world.csv("docs", "SELECT * FROM docs ORDER BY id")).unwrap();
        assert_eq!(again, rows);
    }
}

#[test]
fn killed_at_any_line_and_resumed_the_log_is_that_of_one_run() {
    let world = World::new();
    let all = lines("events.jsonl.zst");
    let whole = world.write("whole.jsonl", &all);
    world.ingest("clean", Some("schema.sql"), &whole, 0);
    let clean = world.changes("clean");
    // In the snapshot, in the long transaction of 1,700 events, and anywhere.
    let long = all.iter().position(|line| line.contains("\"event_count\":1700")).unwrap_or(all.len() / 2);
    let mut random = Random::new(13);
    let mut kills = vec![long - 200];
    kills.extend((0..4).map(|_| 1 + random.below(100_000) as usize));
    kills.extend((0..15).map(|_| 1 + random.below(150_000) as usize));
    for (round, line) in kills.into_iter().enumerate() {
        let data = format!("killed-{round}");
        let mut child = world.command(&data, Some("schema.sql"), Path::new("-")).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(all[..line].concat().as_bytes()).unwrap();
        // Held until the child has taken all of it.
        hold(&mut child, &stdin);
        child.kill().unwrap();
        child.wait().unwrap();
        world.ingest(&data, Some("schema.sql"), &whole, 0);
        world.assert_same_log(&data, &clean, &format!("killed at line {line}"));
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the kills are drawn over the time that a clean run takes")]
fn killed_at_any_time_and_resumed_the_log_is_that_of_one_run() {
    let world = World::new();
    let whole = world.write("whole.jsonl", &lines("events.jsonl.zst"));
    let began = std::time::Instant::now();
    world.ingest("clean", Some("schema.sql"), &whole, 0);
    let taken = u64::try_from(began.elapsed().as_micros()).unwrap();
    let clean = world.changes("clean");
    let mut random = Random::new(17);
    for round in 0..20 {
        let data = format!("killed-{round}");
        let mut child = world.command(&data, Some("schema.sql"), &whole).spawn().unwrap();
        let after = random.below(taken);
        std::thread::sleep(std::time::Duration::from_micros(after));
        child.kill().unwrap();
        child.wait().unwrap();
        world.ingest(&data, Some("schema.sql"), &whole, 0);
        world.assert_same_log(&data, &clean, &format!("killed after {after} of {taken} µs"));
        std::fs::remove_dir_all(world.path(&data)).unwrap();
    }
}

const BLOCK: &str = "\"transaction\":{";
const TOPIC: &str = "\"topic\":\"bank.transaction\"";

/// The recorded stream as it is without transaction metadata. Behind it stands an event of one more transaction, which tells that the
/// one before has ended, and is itself open.
fn without_metadata() -> Vec<String> {
    // As text: read and written anew, a number may be another one.
    let without = |line: String| match line.rfind(BLOCK) {
        None => line,
        Some(at) => {
            let end = at + line[at..].find('}').unwrap();
            format!("{}\"transaction\":null{}", &line[..at], &line[end + 1..])
        }
    };
    let all = lines("events.jsonl.zst").into_iter();
    let mut bare: Vec<String> = all.filter(|line| !line.contains(TOPIC)).map(without).collect();
    let last = bare.iter().rposition(|line| line.contains("\"op\":\"u\"")).unwrap();
    let mut open: Value = serde_json::from_str(&bare[last]).unwrap();
    let source = &mut open["value"]["source"];
    let before = source["lsn"].as_u64().unwrap();
    source["txId"] = Value::from(source["txId"].as_u64().unwrap() + 1_000_000);
    source["lsn"] = Value::from(before + 1_000_000);
    source["sequence"] = Value::from(format!("[\"{}\",\"{}\"]", before + 1_000_000, before + 1_000_000));
    bare.push(format!("{open}\n"));
    bare
}

#[test]
fn without_transaction_metadata_runs_of_one_number_are_the_commits() {
    let world = World::new();
    let all = without_metadata();
    let whole = world.write("whole.jsonl", &all);
    let output = world.ingest("clean", Some("schema.sql"), &whole, INCOMPLETE);
    assert!(String::from_utf8_lossy(&output.stderr).contains("not committed"));
    assert_tables(&world, "clean", "expected.tar.zst");
    let clean = world.changes("clean");
    assert!(clean.len() > 8_000, "{} commits: one for each transaction", clean.len());
    {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let database = Database::open(world.path("clean")).unwrap();
        let end = database.visible().value();
        let mut random = Random::new(19);
        for _ in 0..draws(20, 200) {
            let lsn = 12 + random.below(end - 11);
            let sums = runtime.block_on(sums(&database, lsn));
            assert!(sums.iter().all(|sum| *sum == sums[0]), "at lsn {lsn}: {sums:?}");
        }
    }
    world.ingest("clean", Some("schema.sql"), &whole, INCOMPLETE);
    world.assert_same_log("clean", &clean, "given twice");
    let mut random = Random::new(23);
    for round in 0..draws(4, 20) {
        let cut = 1 + random.below(all.len() as u64 - 1) as usize;
        let data = format!("cut-{round}");
        let piece = world.write("piece.jsonl", &all[..cut]);
        let output = world.command(&data, Some("schema.sql"), &piece).output().unwrap();
        let code = output.status.code();
        assert!(matches!(code, Some(0 | INCOMPLETE)), "{code:?}: {}", String::from_utf8_lossy(&output.stderr));
        world.ingest(&data, Some("schema.sql"), &whole, INCOMPLETE);
        world.assert_same_log(&data, &clean, &format!("cut behind line {cut}"));
        std::fs::remove_dir_all(world.path(&data)).unwrap();
    }
}

#[test]
fn through_a_server_the_log_is_that_of_one_run() {
    let world = World::new();
    world.ingest("clean", Some("schema.sql"), &recorded("events.jsonl.zst"), 0);
    let clean = world.changes("clean");
    let server = Server::start(&world.path("served"));
    let command = |input: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command
            .args(["ingest", "--format", "debezium", "--url", &server.url(), "--tables"])
            .arg(world.path("schema.sql"));
        command.arg(input).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // A client that is killed in the middle.
    let all = lines("events.jsonl.zst");
    let mut child = command(Path::new("-")).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(all[..120_000].concat().as_bytes()).unwrap();
    hold(&mut child, &stdin);
    child.kill().unwrap();
    child.wait().unwrap();
    // One whose input has a line that is none; it is named, and what stands before it is taken.
    let mut bad = all[..100_500].to_vec();
    bad.push("{]\n".to_owned());
    bad.extend_from_slice(&all[100_500..]);
    let output = command(&world.write("bad.jsonl", &bad)).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("line 100501") && told.contains("22000"), "{told}");
    let output = command(&recorded("events.jsonl.zst")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("passed over: CREATE PUBLICATION") && told.contains("150022 lines"), "{told}");
    let output = command(&recorded("events.jsonl.zst")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("133786 events were stored already"), "{told}");
    let open = command(&world.write("open.jsonl", &all[..50_000])).output().unwrap();
    assert_eq!(open.status.code(), Some(INCOMPLETE));
    assert_eq!(server.terminate().code(), Some(0));
    world.assert_same_log("served", &clean, "through a server");
    assert_tables(&world, "served", "expected.tar.zst");
}

#[test]
fn changes_of_other_tables_meanwhile_do_not_end_an_ingest() {
    let world = World::new();
    let server = Server::start(&world.path("served"));
    let sql = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["sql", "--url", &server.url()]).args(arguments).stdout(Stdio::null());
        command
    };
    assert!(sql(&["CREATE TABLE other (a integer)"]).status().unwrap().success());
    let changes = "ALTER TABLE other ADD COLUMN b integer; ALTER TABLE other DROP COLUMN b; TRUNCATE other;\n";
    let script = world.path("changes.sql");
    std::fs::write(&script, changes.repeat(10_000)).unwrap();
    let mut others = sql(&["--file", script.to_str().unwrap()]).spawn().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["ingest", "--format", "debezium", "--url", &server.url(), "--tables"])
        .args([world.path("schema.sql"), recorded("events.jsonl.zst")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    others.kill().unwrap();
    others.wait().unwrap();
    let lsn = sql(&["--output", "csv", "SELECT hw_lsn()"]).stdout(Stdio::piped()).output().unwrap();
    let lsn: u64 = String::from_utf8(lsn.stdout).unwrap().lines().nth(1).unwrap().parse().unwrap();
    assert!(lsn > 8_035 + 100, "{lsn}: the other table was changed meanwhile");
    assert_eq!(server.terminate().code(), Some(0));
    assert_tables(&world, "served", "expected.tar.zst");
}

#[test]
fn what_cannot_be_taken_is_named_by_its_line_and_changes_nothing() {
    let world = World::new();
    let all = lines("events-with-schemas.jsonl.zst");
    let end = all.iter().position(|line| line.contains("\"END\"")).unwrap();
    let refused = |name: &str, lines: &[String], expected: &[&str]| {
        let path = world.write("bad.jsonl", lines);
        let output = world.command(name, None, &path).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        for part in expected {
            assert!(told.contains(part), "{part:?} in {told}");
        }
    };
    let mut bad = all[..=end].to_vec();
    bad[1] = "{\"topic\": 5}\n".to_owned();
    refused("json", &bad, &["line 2", "not a Debezium event"]);
    let mut short = all[..=end].to_vec();
    short.remove(1);
    refused("count", &short, &[&format!("line {end}"), "were read"]);
    refused("inside", &all[2..], &["line 1", "begins inside transaction"]);
    let plain = lines("events.jsonl.zst");
    refused("unknown", &plain[..5], &["line 1", "--tables", "create it first", "embed schemas"]);
    refused("snapshot", &plain[5..10], &["line 1", "begins inside the snapshot"]);
    // A column that changes its type: to one that its values do not fit.
    let mut typed = all[..=end].to_vec();
    let first = typed.iter().position(|line| line.contains("\"op\":\"c\"")).unwrap();
    let mut event: Value = serde_json::from_str(&typed[first]).unwrap();
    event["value"]["payload"]["after"]["id"] = Value::from("one");
    typed[first] = format!("{event}\n");
    refused("type", &typed, &[&format!("line {}", first + 1), "column id"]);
    // To a wider one, which its values show only when they are wider.
    let mut event: Value = serde_json::from_str(&all[first].replace("\"int32\"", "\"int64\"")).unwrap();
    event["value"]["payload"]["after"]["id"] = Value::from(5_000_000_000_u64);
    let mut wider = all[..=end].to_vec();
    wider.insert(first + 1, format!("{event}\n"));
    refused("wider", &wider, &[&format!("line {}", first + 2), "column id", "5000000000"]);
    for name in ["json", "count", "inside", "unknown", "snapshot", "type", "wider"] {
        let changes = world.changes(name);
        assert!(
            changes.iter().all(|line| line.contains("\"op\":\"catalog\"")),
            "{name}: nothing but tables: {changes:?}"
        );
    }
}
