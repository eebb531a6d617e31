//! What a disk, a file system and other processes do to a database: nothing acknowledged is lost, and each is answered clearly.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mount.rs"]
mod mount;
#[path = "support/server.rs"]
mod server;
#[path = "support/session.rs"]
mod session;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use highwater::{Database, Options, Session, SqlError, sqlstate};
use mount::Mounted;
use serde_json::Value;
use server::Server;
use session::cell;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn highwater(arguments: &[&str], data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).args(arguments).arg("--data").arg(data).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Inserts rows of 100 kB until one is refused; returns how many were acknowledged, and the refusal.
async fn insert_until_refused(session: &mut Session, first: usize) -> (usize, SqlError) {
    let filler = "x".repeat(100_000);
    let mut acknowledged = 0;
    loop {
        let id = first + acknowledged;
        match session.execute(&format!("INSERT INTO t VALUES ({id}, '{id} {filler}')")).await {
            Ok(_) => acknowledged += 1,
            Err(error) => return (acknowledged, error),
        }
        assert!(acknowledged < 10_000, "the disk is not full");
    }
}

#[test]
fn a_disk_that_is_full_refuses_writes_serves_reads_and_needs_no_restart() {
    let Some(disk) = Mounted::of_mib(64) else { return };
    let data = disk.path().join("data");
    // To the last byte: no room is kept.
    let mut options = Options::default();
    options.log.free_bytes_min = 0;
    options.log.segment_bytes_max = 4 << 20;
    runtime().block_on(async {
        let database = Database::open_with(&data, options.clone(), |_| {}).unwrap();
        let mut session = database.session();
        session.execute("CREATE TABLE t (id integer PRIMARY KEY, v text)").await.unwrap();
        disk.fill_up_to(8);
        let (first, refusal) = insert_until_refused(&mut session, 0).await;
        assert_eq!(refusal.sqlstate, sqlstate::DISK_FULL, "{refusal}");
        assert!(first > 0);
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t").await.unwrap(), first.to_string());
        let (none, again) = insert_until_refused(&mut session, first).await;
        assert_eq!((none, again.sqlstate), (0, sqlstate::DISK_FULL), "{again}");
        disk.make_room();
        let insert = format!("INSERT INTO t VALUES ({first}, 'there is room again')");
        session.execute(&insert).await.unwrap();
        disk.fill_up_to(4);
        let (second, refusal) = insert_until_refused(&mut session, first + 1).await;
        assert_eq!(refusal.sqlstate, sqlstate::DISK_FULL, "{refusal}");
        let count = (first + 1 + second).to_string();
        assert_eq!(cell(&mut session, "SELECT count(*) FROM t").await.unwrap(), count);
        // As a kill would leave it, on a disk that is still full.
        drop((session, database));
        disk.make_room();
        let database = Database::open_with(&data, options, |_| {}).unwrap();
        assert_eq!(cell(&mut database.session(), "SELECT count(*) FROM t").await.unwrap(), count);
        database.close().unwrap();
    });
}

#[test]
fn little_space_refuses_writes_before_there_is_none() {
    let Some(disk) = Mounted::of_mib(512) else { return };
    let data = disk.path().join("data");
    runtime().block_on(async {
        let database = Database::open(&data).unwrap();
        let mut session = database.session();
        session.execute("CREATE TABLE t (id integer PRIMARY KEY, v text)").await.unwrap();
        disk.fill_up_to(128);
        // It is looked at in the background, and at the latest when a segment is full.
        let (_, refusal) = insert_until_refused(&mut session, 0).await;
        assert_eq!(refusal.sqlstate, sqlstate::DISK_FULL, "{refusal}");
        assert!(refusal.message.contains("bytes are free"), "{refusal}");
        let free = rustix::fs::statvfs(disk.path()).unwrap();
        assert!(free.f_bavail * free.f_frsize > 32 << 20, "what recovery needs still fits");
        disk.make_room();
        session.execute("INSERT INTO t VALUES (-1, 'there is room again')").await.unwrap();
        drop(session);
        database.close().unwrap();
    });
}

#[test]
fn a_read_only_file_system_is_served_read_only_and_says_so() {
    let Some(disk) = Mounted::of_mib(512) else { return };
    let data = disk.path().join("data");
    let made = highwater(
        &[
            "sql",
            "CREATE TABLE t (id integer PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'); UPDATE t SET v = 'uno'",
        ],
        &data,
    );
    assert!(made.status.success(), "{}", text(&made.stderr));
    disk.set_read_only(true);
    let read = highwater(&["sql", "--output", "csv", "SELECT v FROM t AS OF LSN 2; SELECT v FROM t"], &data);
    assert_eq!(text(&read.stdout), "v\none\nv\nuno\n", "{}", text(&read.stderr));
    let refused = highwater(&["sql", "DELETE FROM t"], &data);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("read-only file system (25006)"), "{}", text(&refused.stderr));
    let tail = highwater(&["feed", "tail", "t", "--from", "1", "--until-ready"], &data);
    assert!(text(&tail.stdout).contains("\"op\":\"update\""), "{}{}", text(&tail.stdout), text(&tail.stderr));
    let server = Server::start(&data);
    let (head, body) = server.get("/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((head.as_str(), &ready["writable"]), ("HTTP/1.1 200 OK", &Value::Bool(false)));
    let info: Value = serde_json::from_str(&server.get("/info").1).unwrap();
    assert!(info["not_writable_reason"].as_str().unwrap().contains("read-only file system"), "{info}");
    assert_eq!(server.terminate().code(), Some(0));
    disk.set_read_only(false);
    let written = highwater(&["sql", "--output", "csv", "DELETE FROM t; SELECT count(*) FROM t"], &data);
    assert!(text(&written.stdout).ends_with("\n0\n"), "{}", text(&written.stderr));
}

#[test]
fn a_second_process_is_told_who_has_the_directory() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    for arguments in [&["sql", "SELECT 1"][..], &["server", "--grpc-listen", "127.0.0.1:0"]] {
        let second = highwater(arguments, directory.path());
        assert_eq!(second.status.code(), Some(1));
        let told = text(&second.stderr);
        assert!(told.contains(&format!("process {}", server.id())) && told.contains(&server.grpc), "{told}");
    }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

#[test]
fn damage_anywhere_in_a_data_directory_is_put_right_or_refused_and_never_a_wrong_answer() {
    let directory = tempfile::tempdir().unwrap();
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    let made = highwater(
        &[
            "sql",
            "CREATE TABLE t (id integer PRIMARY KEY, v text UNIQUE); \
             INSERT INTO t SELECT n, 'value ' || n FROM generate_series(1, 20000) AS s(n); \
             UPDATE t SET v = 'changed ' || id WHERE id % 3 = 0; DELETE FROM t WHERE id % 5 = 0",
        ],
        &good,
    );
    assert!(made.status.success(), "{}", text(&made.stderr));
    let query = ["sql", "--output", "csv", "SELECT count(*), sum(id), min(v), max(v) FROM t"];
    let expected = text(&highwater(&query, &good).stdout);
    assert!(expected.contains("16000"), "{expected}");
    let (mut answered, mut refused) = (0, 0);
    for file in files(&good) {
        let relative = file.strip_prefix(&good).unwrap();
        let length = std::fs::metadata(&file).unwrap().len();
        let used = std::fs::read(&file).unwrap().iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
        type Damage = Box<dyn Fn(&mut Vec<u8>)>;
        let flip = |at: u64| -> Damage { Box::new(move |bytes| bytes[at as usize] ^= 0x10) };
        let cut = |at: u64| -> Damage { Box::new(move |bytes| bytes.truncate(at as usize)) };
        let mut damages = vec![cut(0), cut(length / 2)];
        if used > 0 {
            damages.extend([flip(0), flip(used / 3), flip(used / 2), flip(used - 1), cut(used - 1)]);
        }
        for damage in damages {
            let _ = std::fs::remove_dir_all(&bad);
            copy(&good, &bad);
            let mut bytes = std::fs::read(&file).unwrap();
            damage(&mut bytes);
            std::fs::write(bad.join(relative), &bytes).unwrap();
            let output = highwater(&query, &bad);
            let told = text(&output.stderr);
            assert!(!told.contains("panicked"), "{}: {told}", relative.display());
            match output.status.code() {
                Some(0) => {
                    assert_eq!(text(&output.stdout), expected, "{}", relative.display());
                    answered += 1;
                }
                Some(1) if relative.starts_with("log") => {
                    // Only the log is not put right by itself, and it says where it is damaged.
                    assert!(told.contains("damaged"), "{}: {told}", relative.display());
                    assert_eq!(text(&output.stdout), "");
                    refused += 1;
                }
                Some(1) => {
                    // A read met it. From then on the rows are folded anew.
                    assert!(told.contains(sqlstate::DATA_CORRUPTED), "{}: {told}", relative.display());
                    assert!(text(&output.stdout).lines().count() <= 1, "the names of columns, and no row");
                    let again = highwater(&query, &bad);
                    assert_eq!(text(&again.stdout), expected, "{}: {}", relative.display(), text(&again.stderr));
                    answered += 1;
                }
                code => panic!("{}: {code:?} {told}", relative.display()),
            }
        }
    }
    assert!(answered > 10 && refused > 3, "{answered} answered, {refused} refused");
}

/// A library that makes `fdatasync` fail while a file is there.
const FAILING_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *flag = getenv("FAIL_SYNC_WHILE");
    if (flag && access(flag, F_OK) == 0) { errno = EIO; return -1; }
    return real(fd);
}
"#;

#[test]
fn a_server_whose_sync_fails_says_that_the_outcome_is_unknown_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("sync.c"), FAILING_SYNC).unwrap();
    let mut build = Command::new("cc");
    build.args(["-shared", "-fPIC", "-o"]).args([at("sync.so"), at("sync.c")]).arg("-ldl");
    assert!(build.status().unwrap().success(), "a C compiler is needed, as for the build");
    let server = Server::start_with(
        &at("data"),
        &[("LD_PRELOAD", at("sync.so").as_os_str()), ("FAIL_SYNC_WHILE", at("fail").as_os_str())],
    );
    let url = server.url();
    let sql = |statement: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["sql", "--url", &url, "--output", "csv", statement]).output().unwrap()
    };
    assert!(sql("CREATE TABLE t (id integer PRIMARY KEY); INSERT INTO t VALUES (1)").status.success());
    std::fs::write(at("fail"), "").unwrap();
    let failed = sql("INSERT INTO t VALUES (2)");
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains(sqlstate::OUTCOME_UNKNOWN), "{}", text(&failed.stderr));
    // Until it has noticed, it answers everything with the same error; then it is gone.
    let after = sql("SELECT count(*) FROM t");
    let told = text(&after.stderr);
    assert!(told.contains(sqlstate::LOG_POISONED) || told.contains("cannot reach"), "{told}");
    assert_eq!(server.wait().code(), Some(1));
    std::fs::remove_file(at("fail")).unwrap();
    let rows = highwater(&["sql", "--output", "csv", "SELECT id FROM t ORDER BY id"], &at("data"));
    let rows = text(&rows.stdout);
    assert!(rows == "id\n1\n" || rows == "id\n1\n2\n", "what was acknowledged is there: {rows}");
}

#[test]
fn queries_that_compute_for_long_hold_up_no_probe_and_no_other_statement() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(directory.path());
    let url = server.url();
    let sql = |statement: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.args(["sql", "--url", &url, "--output", "csv", statement]).stdout(Stdio::piped());
        command
    };
    let made = "CREATE TABLE n (n bigint PRIMARY KEY); INSERT INTO n SELECT s.n FROM generate_series(1, 60000) AS s(n)";
    assert!(sql(made).status().unwrap().success());
    // Hours of work, more of it at a time than there are cores.
    let long = "SELECT count(*) FROM n a, n b WHERE a.n * b.n % 7 = -1 AND sqrt(a.n * b.n) = -1";
    let mut computing: Vec<_> = (0..3).map(|_| sql(long).spawn().unwrap()).collect();
    for _ in 0..20 {
        assert_eq!(server.get("/livez").1, "ok\n");
        assert_eq!(text(&sql("SELECT 1 AS one").output().unwrap().stdout), "one\n1\n");
    }
    for child in &mut computing {
        assert!(child.try_wait().unwrap().is_none(), "it was computing all the time");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
