//! The demo: it ends with the recording's tables, and sees a digit that differs.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/postgres-cdc").join(name)
}

fn demo(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater")).arg("demo").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_demo_ends_with_every_table_and_sum_of_the_recording() {
    let output = demo(&[]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}{}", text(&output.stderr));
    assert!(!told.contains("DIFFERS"), "{told}");
    // Eight tables, the sums by SQL and by the feed, and their agreement at every commit after the snapshot.
    assert_eq!(told.lines().filter(|line| line.starts_with("  equal ")).count(), 8 + 3, "{told}");
    let agreement = told.lines().rfind(|line| line.contains("after the snapshot")).unwrap();
    let counts: Vec<u64> = agreement.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(counts[0] == counts[1] && counts[0] > 8_000, "{agreement}");
    assert!(told.contains("grpcurl -plaintext"), "{told}");
}

#[test]
fn a_demo_that_is_kept_serves_until_it_is_told_to_end() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    let mut child = command.args(["demo", "--keep"]).stdout(Stdio::piped()).spawn().unwrap();
    let told: Vec<String> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .take_while(|line| !line.ends_with("Ctrl-C ends it"))
        .collect();
    let url = told.iter().find_map(|line| line.trim().strip_prefix("highwater sql --url ")).unwrap();
    let query = ["sql", "--url", url, "--output", "csv", "SELECT count(*) FROM pgbench_accounts"];
    let output = Command::new(env!("CARGO_BIN_EXE_highwater")).args(query).output().unwrap();
    assert_eq!(text(&output.stdout), "count\n100000\n", "{}", text(&output.stderr));
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_demo_sees_one_digit_that_differs() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let bytes = zstd::decode_all(std::fs::File::open(recorded("events.jsonl.zst")).unwrap()).unwrap();
    let stream = String::from_utf8(bytes).unwrap();
    // The last event of a teller: nothing later puts its balance right.
    let at = stream.rfind("\"tbalance\":").unwrap() + "\"tbalance\":".len();
    let digit = at + stream[at..].find(|c: char| c.is_ascii_digit()).unwrap();
    let mut altered = stream.into_bytes();
    altered[digit] = if altered[digit] == b'9' { b'8' } else { altered[digit] + 1 };
    std::fs::write(path("altered.jsonl"), altered).unwrap();
    let archive = zstd::decode_all(std::fs::File::open(recorded("expected.tar.zst")).unwrap()).unwrap();
    std::fs::create_dir(path("final")).unwrap();
    for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let folder = if Path::new(&name).extension().is_some_and(|e| e == "csv") { "final" } else { "." };
        if entry.header().entry_type().is_file() {
            std::fs::write(path(folder).join(name), content).unwrap();
        }
    }
    let arguments = ["--stream", "altered.jsonl", "--tables", "schema.sql", "--expected", "final"];
    let arguments: Vec<PathBuf> =
        arguments.iter().map(|word| if word.starts_with("--") { PathBuf::from(word) } else { path(word) }).collect();
    let output = demo(&arguments.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{told}{}", text(&output.stderr));
    assert!(told.contains("DIFFERS pgbench_tellers "), "{told}");
    assert!(told.contains("  equal pgbench_accounts "), "{told}");
}
