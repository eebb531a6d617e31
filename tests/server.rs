//! The server, as its clients meet it: ours, Python's, grpcurl, an HTTP probe, a signal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/component.rs"]
mod component;
#[path = "support/server.rs"]
mod server;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, UInt64Type};
use arrow::ipc::reader::StreamReader;
use highwater::{ColumnType, types};
use highwater_log::value::ElementType;
use highwater_proto::v1::execute_response::Answer;
use highwater_proto::v1::operations_client::OperationsClient;
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::{
    BeginRequest, CommitRequest, Completion, Durability, ExecuteRequest, OpenSessionRequest, StatusRequest,
    WriteNumber, value::Kind,
};
use serde_json::{Value, json};
use server::Server;
use tonic::Status;
use tonic::transport::Channel;

fn highwater(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn proto() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto")
}

#[test]
fn the_command_line_does_with_a_server_what_it_does_with_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let url = server.url();
    let script = "CREATE TABLE t (id integer PRIMARY KEY, at timestamptz, price numeric(10,3), tags text[], doc jsonb);
        BEGIN; INSERT INTO t VALUES (1, '2026-01-02 03:04:05+00', 1.5, '{a,\"b c\"}', '{\"b\":1,\"a\":[1,2]}'), (2, NULL, NULL, NULL, NULL);
        UPDATE t SET price = price + 1 WHERE id = 1; COMMIT; BEGIN; DELETE FROM t; ROLLBACK";
    let done = highwater(&["sql", "--url", &url, script]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let query = "SELECT *, '{1,2}'::int[] AS ints FROM t ORDER BY id";
    let mut remote = Vec::new();
    for format in ["csv", "json", "jsonl", "tsv", "table"] {
        let output = highwater(&["sql", "--url", &url, "--output", format, query]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        remote.push((format, output.stdout));
    }
    let failed = highwater(&["sql", "--url", &url, "SELECT 1; SELECT * FROM nobody; SELECT 4711"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("42P01"), "{}", text(&failed.stderr));
    assert!(!text(&failed.stdout).contains("4711"));
    let tail = highwater(&["feed", "tail", "t", "--url", &url, "--until-ready"]);
    assert!(tail.status.success(), "{}", text(&tail.stderr));
    assert!(text(&tail.stderr).starts_with("cursor "));
    // While it runs, nobody else opens the directory, and is told who has it.
    let locked = highwater(&["sql", "--data", data.to_str().unwrap(), "SELECT 1"]);
    assert_eq!(locked.status.code(), Some(1));
    let told = text(&locked.stderr);
    assert!(told.contains(&format!("process {}, grpc {url}", server.id())), "{told}");
    assert_eq!(server.terminate().code(), Some(0));
    let data = data.to_str().unwrap();
    for (format, expected) in remote {
        let output = highwater(&["sql", "--data", data, "--output", format, query]);
        assert_eq!(text(&output.stdout), text(&expected), "{format}");
    }
    let embedded = highwater(&["feed", "tail", "t", "--data", data]);
    assert_eq!(text(&embedded.stdout), text(&tail.stdout));
    assert_eq!(embedded.stdout, tail.stdout);
}

#[test]
fn the_shell_describes_tables_goes_on_after_errors_and_keeps_its_history() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().to_str().unwrap();
    let done = highwater(&["sql", "--data", data, "CREATE TABLE t (id integer PRIMARY KEY, v text UNIQUE)"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    // A terminal of its own, in which lines are read as they are.
    let shell = format!("{} sql --data {data}", env!("CARGO_BIN_EXE_highwater"));
    let mut script = Command::new("script")
        .args(["-qec", &shell, "/dev/null"])
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = "\\d\n\\d t\nSELECT nothing;\nSELECT 40 + 2\nAS answer;\n\\q\n";
    script.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for part in ["\\? for help", "public", "t_pkey", "t_v_key", "UNIQUE", "integer", "42703", "answer", "42"] {
        assert!(told.contains(part), "{part:?} in {told}");
    }
    let history = std::fs::read_to_string(directory.path().join("sql_history")).unwrap();
    assert!(history.contains("SELECT nothing;") && history.contains("AS answer;"), "{history}");
}

#[test]
fn probes_are_answered_and_a_signal_ends_it_in_good_order() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    assert_eq!(server.get("/livez"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
    let (head, body) = server.get("/readyz");
    assert_eq!(head, "HTTP/1.1 200 OK");
    let ready: Value = serde_json::from_str(&body).unwrap();
    let expected = json!({"ready": true, "phase": "serving", "writable": true, "visible_lsn": 0, "replay": null});
    assert_eq!(ready, expected);
    let url = server.url();
    assert!(highwater(&["sql", "--url", &url, "CREATE TABLE t (id integer)"]).status.success());
    let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
    assert_eq!((&info["visible_lsn"], &info["grpc"]), (&json!(1), &json!(server.grpc)));
    assert!(server.get("/nothing").0.contains("404"));

    // A subscriber that waits for what never comes does not hold it up.
    let mut tail = Command::new(env!("CARGO_BIN_EXE_highwater"))
        .args(["feed", "tail", "t", "--url", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("schema"));
    assert_eq!(lines.next().unwrap().unwrap(), "{\"lsn\":1,\"ready\":true}");
    let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
    assert_eq!(info["subscriptions"], json!(1));
    assert_eq!(server.terminate().code(), Some(0));
    let ended = tail.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(text(&ended.stderr).contains("the server is stopping"), "{}", text(&ended.stderr));
    let refused = highwater(&["server", "--grpc-listen", "0.0.0.0:0", "--data", directory.path().to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("--insecure"), "{}", text(&refused.stderr));
}

/// Runs statements, and gives all answers.
async fn execute(sql: &mut SqlClient<Channel>, request: ExecuteRequest) -> Result<Vec<Answer>, Status> {
    let mut answers = sql.execute(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = answers.message().await? {
        all.extend(message.answer);
    }
    Ok(all)
}

fn sqlstate(status: &Status) -> &str {
    status.metadata().get("sqlstate").unwrap().to_str().unwrap()
}

fn completion(answers: &[Answer]) -> &Completion {
    match answers.last() {
        Some(Answer::Completion(completion)) => completion,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_takes_one_call_at_a_time_and_ends_when_nobody_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let environment = [("HIGHWATER__SERVER__SESSION_IDLE_SECONDS", OsStr::new("2"))];
    let server = Server::start_with(directory.path(), &environment);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let mut sql = SqlClient::new(channel.clone());
        let settings = [("hw.min_lsn_timeout".to_owned(), "3s".to_owned())].into();
        let opened = sql.open_session(OpenSessionRequest { settings }).await.unwrap().into_inner();
        assert_eq!(opened.idle_ms_max, 2_000);
        let request = |text: &str| ExecuteRequest {
            sql: text.to_owned(),
            session: opened.session.clone(),
            ..ExecuteRequest::default()
        };
        let shown = execute(&mut sql, request("SHOW hw.min_lsn_timeout")).await.unwrap();
        assert!(format!("{shown:?}").contains("3000ms"), "{shown:?}");
        // A transaction lasts from call to call, and another session does not see it.
        execute(&mut sql, request("CREATE TABLE t (id integer); BEGIN; INSERT INTO t VALUES (1)")).await.unwrap();
        let count = "SELECT count(*) FROM t";
        let own = execute(&mut sql, request(count)).await.unwrap();
        let other = execute(&mut sql, ExecuteRequest { session: String::new(), ..request(count) }).await.unwrap();
        assert_ne!(format!("{own:?}"), format!("{other:?}"));
        // While rows are being read, it is busy; when their reader has gone, it is not.
        let many = "SELECT n FROM generate_series(1, 100000000) AS s(n)";
        let mut reading = sql.execute(request(many)).await.unwrap().into_inner();
        assert!(reading.message().await.unwrap().is_some());
        let busy = execute(&mut sql.clone(), request("SELECT 1")).await.unwrap_err();
        assert_eq!(sqlstate(&busy), "55006", "{busy}");
        drop(reading);
        execute(&mut sql, request("SELECT 1")).await.unwrap();
        // Nobody uses it: it is closed, and what was not committed is gone.
        let mut operations = OperationsClient::new(channel);
        while operations.status(StatusRequest {}).await.unwrap().into_inner().session_count > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let gone = execute(&mut sql, request("SELECT 1")).await.unwrap_err();
        assert_eq!(sqlstate(&gone), highwater::sqlstate::NO_SUCH_SESSION, "{gone}");
        let after = execute(&mut sql, ExecuteRequest { session: String::new(), ..request(count) }).await.unwrap();
        assert_eq!(format!("{after:?}"), format!("{other:?}"));
    });
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_call_gives_values_for_parameters() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut sql = SqlClient::new(Channel::from_shared(server.url()).unwrap().connect().await.unwrap());
        let create = "CREATE TABLE t (id bigint PRIMARY KEY, v text, f double precision, b bytea, o boolean)";
        execute(&mut sql, ExecuteRequest { sql: create.to_owned(), ..ExecuteRequest::default() }).await.unwrap();
        let value = |kind: Option<Kind>| highwater_proto::v1::Value { kind };
        let request = |text: &str, kinds: &[Option<Kind>]| ExecuteRequest {
            sql: text.to_owned(),
            parameters: kinds.iter().cloned().map(value).collect(),
            ..ExecuteRequest::default()
        };
        let row = |id: i64| {
            let (text, bytes) = (Kind::Text(format!("row '{id}'")), Kind::Bytes(vec![0, 255].into()));
            [Some(Kind::Int(id)), Some(text), Some(Kind::Double(0.5)), Some(bytes), Some(Kind::Bool(true))]
        };
        let insert = "INSERT INTO t VALUES ($1, $2, $3, $4, $5)";
        for id in 0..3 {
            execute(&mut sql, request(insert, &row(id))).await.unwrap();
        }
        // The same through the planner.
        execute(&mut sql, request("INSERT INTO t SELECT $1, $2, $3, $4, $5", &row(3))).await.unwrap();
        let read = "SELECT v, f, b, o FROM t WHERE id = $1";
        for id in 0..4 {
            let mut answers = sql.execute(request(read, &[Some(Kind::Int(id))])).await.unwrap().into_inner();
            let mut rows = Vec::new();
            while let Some(answer) = answers.message().await.unwrap() {
                if let Some(Answer::Rows(more)) = answer.answer {
                    rows.extend(more.rows);
                }
            }
            assert_eq!(rows.len(), 1, "{id}");
            assert_eq!(rows[0].values, row(id)[1..].iter().cloned().map(value).collect::<Vec<_>>());
        }
        // A numbered write with values is done once.
        let number = Some(WriteNumber { producer: vec![7; 16].into(), sequence: 1 });
        let numbered = |id| ExecuteRequest { number: number.clone(), ..request(insert, &row(id)) };
        let first = execute(&mut sql, numbered(10)).await.unwrap();
        let again = execute(&mut sql, numbered(10)).await.unwrap();
        let (first, again) = (completion(&first), completion(&again));
        assert!(first.commit_lsn.is_some() && first.commit_lsn == again.commit_lsn && again.is_duplicate);
        for (text, kinds, state) in [
            (read, vec![], "42P02"),
            (read, vec![None, None], "08P01"),
            ("SELECT 1; SELECT $1", vec![None], "42601"),
            (read, vec![Some(Kind::Text("x".to_owned()))], "22P02"),
        ] {
            let refused = execute(&mut sql, request(text, &kinds)).await.unwrap_err();
            assert_eq!(sqlstate(&refused), state, "{text}: {refused}");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{text}: {refused}");
        }
        // By name, in a session.
        let opened = sql.open_session(OpenSessionRequest::default()).await.unwrap().into_inner();
        let within = |text: &str| ExecuteRequest { session: opened.session.clone(), ..request(text, &[]) };
        execute(&mut sql, within("PREPARE gone(bigint) AS DELETE FROM t WHERE id = $1")).await.unwrap();
        let done = execute(&mut sql, within("EXECUTE gone(2)")).await.unwrap();
        let done = completion(&done);
        assert_eq!((done.tag.as_str(), done.rows), ("DELETE 1", Some(1)));
        let unknown = execute(&mut sql, request("EXECUTE gone(2)", &[])).await.unwrap_err();
        assert_eq!(sqlstate(&unknown), "26000");
    });
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_call_says_when_its_commit_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = Channel::from_shared(server.url()).unwrap().connect().await.unwrap();
        let mut sql = SqlClient::new(channel);
        let request = |text: &str, durability: i32| ExecuteRequest {
            sql: text.to_owned(),
            durability,
            ..ExecuteRequest::default()
        };
        let (synced, buffered) = (Durability::Synced as i32, Durability::Buffered as i32);
        execute(&mut sql, request("CREATE TABLE t (id integer)", 0)).await.unwrap();
        let answers = execute(&mut sql, request("INSERT INTO t VALUES (1)", buffered)).await.unwrap();
        assert_eq!(completion(&answers).commit_lsn, None, "nobody knows it before the sync");
        let begun = sql.begin(BeginRequest::default()).await.unwrap().into_inner();
        let insert = ExecuteRequest { session: begun.session.clone(), ..request("INSERT INTO t VALUES (2)", 0) };
        execute(&mut sql, insert).await.unwrap();
        let commit = CommitRequest { session: begun.session, durability: buffered };
        assert_eq!(sql.commit(commit).await.unwrap().into_inner().commit_lsn, None);
        // A synced commit covers those before it.
        let answers = execute(&mut sql, request("INSERT INTO t VALUES (3)", synced)).await.unwrap();
        let lsn = completion(&answers).commit_lsn.unwrap();
        assert_eq!(lsn, 4);
        let answers = execute(&mut sql, request("SELECT id FROM t ORDER BY id", 0)).await.unwrap();
        assert_eq!(completion(&answers).rows, Some(3));
        let refused = execute(&mut sql, request("SELECT 1", 9)).await.unwrap_err();
        assert_eq!(sqlstate(&refused), "22023");
    });
    // The log can be looked at while the server runs: what it shows is synced.
    let data = directory.path().to_str().unwrap();
    loop {
        // The last commit shows when a later frame says that it is synced.
        let cat = highwater(&["log", "cat", "--data", data]);
        assert!(cat.status.success(), "{}", text(&cat.stderr));
        let commits = text(&cat.stdout).lines().count();
        if commits == 4 {
            break;
        }
        assert!(commits < 4 && text(&cat.stderr).contains("in flight"), "{}", text(&cat.stderr));
    }
    let list = Command::new(env!("CARGO_BIN_EXE_highwater")).args(["log", "ls"]).env("HIGHWATER_DATA", data).output();
    let list = list.unwrap();
    assert!(text(&list.stderr).contains("synced to lsn 4"), "{}", text(&list.stderr));
    let verified = highwater(&["log", "verify", "--data", data]);
    assert!(verified.status.success() && text(&verified.stdout).contains("4 commits"), "{}", text(&verified.stdout));
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_client_in_python_executes_streams_subscribes_and_cancels() {
    let Some(python) = component::find("python-grpc", "python-grpc/bin/python") else { return };
    let directory = tempfile::tempdir().unwrap();
    let stubs = directory.path().join("stubs");
    std::fs::create_dir(&stubs).unwrap();
    let made = Command::new(&python)
        .args(["-m", "grpc_tools.protoc", "highwater/v1/highwater.proto"])
        .arg(format!("-I{}", proto().display()))
        .arg(format!("--python_out={}", stubs.display()))
        .arg(format!("--grpc_python_out={}", stubs.display()))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    let server = Server::start(&directory.path().join("data"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/spine.py");
    let output = Command::new(&python).arg(script).arg(&server.grpc).arg(&stubs).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "ok\n");
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn grpcurl_finds_its_way_by_reflection() {
    let Some(program) = component::find("grpcurl", "grpcurl") else { return };
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let grpcurl = |arguments: &[&str], method: &[&str]| {
        Command::new(&program).arg("-plaintext").args(arguments).arg(&server.grpc).args(method).output().unwrap()
    };
    let services = text(&grpcurl(&[], &["list"]).stdout);
    for service in ["highwater.v1.Sql", "highwater.v1.Changefeed", "highwater.v1.Operations", "grpc.health.v1.Health"] {
        assert!(services.lines().any(|line| line == service), "{services}");
    }
    let health = grpcurl(&["-d", "{\"service\":\"highwater.v1.Sql\"}"], &["grpc.health.v1.Health/Check"]);
    assert!(text(&health.stdout).contains("SERVING"), "{}", text(&health.stderr));
    let execute = |sql: &str| grpcurl(&["-d", &json!({ "sql": sql }).to_string()], &["highwater.v1.Sql/Execute"]);
    let made = execute("CREATE TABLE t (id integer PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'one')");
    assert!(made.status.success(), "{}", text(&made.stderr));
    let selected = text(&execute("SELECT * FROM t").stdout);
    for part in ["\"readLsn\": \"2\"", "\"text\": \"one\"", "\"tag\": \"SELECT 1\""] {
        assert!(selected.contains(part), "{selected}");
    }
    let failed = execute("SELEKT");
    assert!(!failed.status.success());
    assert!(text(&failed.stderr).contains("42601"), "{}", text(&failed.stderr));
    // It goes on until it is cancelled.
    let start = json!({"start": {"tables": ["t"]}}).to_string();
    let feed = grpcurl(&["-max-time", "2", "-d", &start], &["highwater.v1.Changefeed/Subscribe"]);
    assert!(text(&feed.stderr).contains("DeadlineExceeded"), "{}", text(&feed.stderr));
    assert!(text(&feed.stdout).contains("EVENT_KIND_READY"), "{}", text(&feed.stdout));
}

/// The rows of Arrow streams that stand one behind the other, as text: where, what, and the images.
fn told_in_arrow(streams: &[u8]) -> Vec<String> {
    let mut rest = std::io::Cursor::new(streams);
    let mut told = Vec::new();
    while rest.position() < streams.len() as u64 {
        let reader = StreamReader::try_new(&mut rest, None).unwrap();
        let table = reader.schema().metadata()["highwater.table"].clone();
        for batch in reader.map(Result::unwrap) {
            let number = |name: &str, row| batch[name].as_primitive::<UInt64Type>().value(row);
            for row in 0..batch.num_rows() {
                let image = |name: &str| {
                    let image = batch[name].as_struct();
                    if image.is_null(row) {
                        return "null".to_owned();
                    }
                    let columns = image.fields().iter().zip(image.columns()).map(|(field, column)| {
                        let mut text = String::new();
                        let column_type = types::column_type(field).unwrap_or(ColumnType::Scalar(ElementType::BigInt));
                        let text = match column.data_type() {
                            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
                            _ if types::text_at(column, row, column_type, &mut text).unwrap() => text,
                            _ => "NULL".to_owned(),
                        };
                        format!("{}={text}", field.name())
                    });
                    columns.collect::<Vec<_>>().join(",")
                };
                let operation = batch["hw_op"].as_string::<i32>().value(row);
                let (lsn, position) = (number("hw_lsn", row), number("hw_position", row));
                let (key, before, after) = (image("key"), image("before"), image("after"));
                told.push(format!("{lsn} {position} {table} {operation} {key} {before} {after}"));
            }
        }
    }
    told
}

/// The changes of lines, in the same form.
fn told_in_lines(lines: &str) -> Vec<String> {
    let image = |image: &Value| match image {
        Value::Object(columns) => {
            let columns = columns.iter().map(|(name, value)| match value {
                Value::Null => format!("{name}=NULL"),
                Value::Bool(value) => format!("{name}={}", if *value { "t" } else { "f" }),
                Value::String(text) => format!("{name}={text}"),
                other => format!("{name}={other}"),
            });
            columns.collect::<Vec<_>>().join(",")
        }
        _ => "null".to_owned(),
    };
    let changes = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let changes = changes.filter(|change| change.get("op").is_some()).map(|change| {
        let (table, operation) = (change["table"].as_str().unwrap(), change["op"].as_str().unwrap());
        let (key, before, after) = (image(&change["key"]), image(&change["before"]), image(&change["after"]));
        format!("{} {} {table} {operation} {key} {before} {after}", change["lsn"], change["pos"])
    });
    changes.collect()
}

#[test]
fn a_feed_in_arrow_tells_what_its_lines_tell() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let server = Server::start(&data);
    let url = server.url();
    let script = "CREATE TABLE t (a bigint, b text, price numeric(10,3), flag boolean, PRIMARY KEY (b, a)); CREATE TABLE u (v integer);
        INSERT INTO t SELECT v, 'text ' || v, v / 8.0, v % 2 = 0 FROM generate_series(1, 3000) AS s(v); INSERT INTO t VALUES (7, 'x', NULL, NULL);
        BEGIN; INSERT INTO u VALUES (1); UPDATE t SET price = 1.5 WHERE a < 10; INSERT INTO u VALUES (NULL); DELETE FROM u WHERE v = 1; COMMIT;
        ALTER TABLE t ADD COLUMN late text DEFAULT 'new'; UPDATE t SET late = NULL WHERE a = 5; DELETE FROM t WHERE a > 2990; TRUNCATE u;
        DROP TABLE u; INSERT INTO t VALUES (1, 'last', 0, true, 'z')";
    let done = highwater(&["sql", "--url", &url, script]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let tail = |format: &str, more: &[&str], place: [&str; 2]| {
        let arguments = ["feed", "tail", "--until-ready", "--format", format];
        let output = highwater(&[&arguments, &place[..], more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        output.stdout
    };
    for (more, has_several) in [
        (&["t", "u", "--from", "2"][..], true),
        (&["t"], false),
        (&["t", "--where", "a > 2980", "--columns", "a * 2 AS double, b"], false),
    ] {
        let lines = told_in_lines(&text(&tail("json", more, ["--url", &url])));
        let arrow = tail("arrow", more, ["--url", &url]);
        let mut told = told_in_arrow(&arrow);
        if has_several {
            assert!(lines.len() > 3_000);
            // Tables stand one behind the other in an answer.
            let place = |line: &String| {
                let mut numbers = line.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
                (numbers.next().unwrap(), numbers.next().unwrap())
            };
            told.sort_by_key(place);
        }
        assert_eq!(told, lines, "{more:?}");
    }
    let refused = highwater(&["feed", "tail", "t", "--url", &url, "--format", "arrow", "--envelope", "upsert"]);
    assert!(text(&refused.stderr).contains("0A000"), "{}", text(&refused.stderr));
    let remote = tail("arrow", &["t"], ["--url", &url]);
    assert_eq!(server.terminate().code(), Some(0));
    assert_eq!(tail("arrow", &["t"], ["--data", data.to_str().unwrap()]), remote);
}
