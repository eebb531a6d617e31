//! What comes from outside and means no good, or nothing: bytes that are no file, no message, no statement; clients by the thousand, ones
//! that never read, ones that trickle. Each gets a clear answer or none, memory stays bounded, nobody else is disturbed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/entries.rs"]
mod entries;
#[path = "support/server.rs"]
mod server;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use highwater_log::Lsn;
use highwater_log::commit::EncodedCommit;
use highwater_log::conformance::{sample_commit, sample_group};
use highwater_log::env::simulated::Random;
use highwater_log::position::{ColumnId, SchemaVersion};
use highwater_log::row::RowLayout;
use highwater_log::value::{ColumnType, ElementType, Value};
use highwater_proto::v1::sql_client::SqlClient;
use highwater_proto::v1::{ExecuteRequest, execute_response::Answer};
use prost::Message as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::Server;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

fn corpus(entry: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(entry)
}

/// What the corpus begins with, where it is made by a program.
fn seeds(entry: &str) -> Vec<Vec<u8>> {
    let parts = |commit: &EncodedCommit| {
        (0..commit.part_count()).map(|part| commit.part(part).unwrap().to_vec()).collect::<Vec<_>>()
    };
    match entry {
        "envelope" => {
            let mut commits = sample_group(Lsn::ORIGIN, 3).commits;
            commits.push(sample_commit(Lsn::new(4), 5, 40));
            commits.iter().flat_map(parts).collect()
        }
        "frame" => {
            let payload = parts(&sample_commit(Lsn::new(4), 1, 10)).remove(0);
            let says = |kind, flags, lsn, part, payload: &[u8]| {
                let length = u8::try_from(payload.len()).unwrap();
                [&[kind, length, flags, 1, 1, lsn, 3, 1, 0, part, 0, 0][..], payload].concat()
            };
            vec![
                [&[1][..], &says(0, 3, 4, 0, &payload)].concat(),
                [&[1][..], &says(0, 1, 4, 0, &payload), &says(0, 2, 4, 1, &payload)].concat(),
                [&[1][..], &says(1, 0, 3, 0, &[]), &says(0, 3, 4, 0, &payload), &says(2, 0, 4, 0, &[0; 24])].concat(),
                [&[0][..], b"HWFR", &[1; 60]].concat(),
            ]
        }
        "row" => {
            let types = [2, 8, 11, 6, 203];
            let columns = [
                ColumnType::Scalar(ElementType::Integer),
                ColumnType::Scalar(ElementType::Text),
                ColumnType::Scalar(ElementType::Bytea),
                ColumnType::Scalar(ElementType::Numeric { precision: 12, scale: 2 }),
            ];
            let layout = RowLayout::new(SchemaVersion::new(1), (1..).map(ColumnId::new).zip(columns));
            let rows: [[Option<Value<'_>>; 4]; 2] = [
                [
                    Some(Value::Integer(7)),
                    Some(Value::Text("seven")),
                    Some(Value::Bytea(b"\x00\xff")),
                    Some(Value::Numeric(123)),
                ],
                [None, Some(Value::Text("")), None, None],
            ];
            let encoded = rows.map(|row| {
                let mut bytes = [&[4][..], &types[..4]].concat();
                layout.encode(&row, &mut bytes).unwrap();
                bytes
            });
            encoded.to_vec()
        }
        _ => Vec::new(),
    }
}

/// A copy with something changed.
fn changed(random: &mut Random, data: &[u8], other: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..=random.below(4) {
        let at = |random: &mut Random, length: usize| random.below(length as u64 + 1) as usize;
        let (from, to) = (at(random, data.len()), at(random, data.len()));
        let (from, to) = (from.min(to), from.max(to));
        match random.below(7) {
            0 if from < data.len() => data[from] ^= 1 << random.below(8),
            1 if from < data.len() => {
                data[from] = [0, 1, 0x7f, 0x80, 0xff, b'\'', b'(', b'"'][random.below(8) as usize]
            }
            2 => drop(data.drain(from..to)),
            3 => {
                let copy = data[from..to].to_vec();
                let times = 1 + random.below(40) as usize;
                data.splice(from..from, copy.repeat(times));
            }
            4 => {
                let (start, end) = (at(random, other.len()), at(random, other.len()));
                data.splice(from..to, other[start.min(end)..start.max(end)].iter().copied());
            }
            5 => data.truncate(to),
            _ => data.insert(from, random.below(256) as u8),
        }
        data.truncate(64 * 1024);
    }
    data
}

#[test]
fn the_corpus_and_changed_copies_of_it_are_answered() {
    let rounds = if std::env::var_os("HIGHWATER_LONG").is_some() { 200_000 } else { 4_000 };
    for (name, entry) in entries::ENTRIES {
        let directory = corpus(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            for (number, seed) in seeds(name).iter().enumerate() {
                std::fs::write(directory.join(format!("seed-{number}")), seed).unwrap();
            }
        }
        let mut paths: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()).collect();
        paths.sort();
        let files: Vec<_> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(files.len() > 1, "the corpus of {name} is empty");
        for seed in seeds(name) {
            assert!(files.contains(&seed), "UPDATE_CORPUS=1 writes the seeds of {name}");
        }
        files.iter().for_each(|data| entry(data));
        let mut random = Random::new(1);
        for round in 0..rounds {
            let data = &files[round % files.len()];
            let other = &files[random.below(files.len() as u64) as usize];
            let data = changed(&mut random, data, other);
            let copy = data.clone();
            let outcome = std::panic::catch_unwind(|| entry(&data));
            assert!(outcome.is_ok(), "{name} panics at {:?}", String::from_utf8_lossy(&copy));
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn start() -> (tempfile::TempDir, Server) {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::start(&directory.path().join("data"));
    (directory, server)
}

/// Mebibytes that the server has, or has had at most.
fn memory(server: &Server, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(which)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() / 1024
}

async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.url()).unwrap().connect().await.unwrap()
}

async fn execute(channel: &Channel, request: ExecuteRequest) -> Result<Vec<Answer>, Status> {
    let mut client = SqlClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let mut answers = client.execute(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend(answer.answer);
    }
    Ok(all)
}

fn statement(sql: impl Into<String>) -> ExecuteRequest {
    ExecuteRequest { sql: sql.into(), ..ExecuteRequest::default() }
}

/// That the server does for somebody else what it is there for.
fn assert_serves(server: &Server) {
    runtime().block_on(async {
        let answers = execute(&channel(server).await, statement("SELECT 41 + 1 AS n")).await.unwrap();
        assert_eq!(answers.len(), 3, "{answers:?}");
    });
    assert!(server.get("/livez").0.contains("200"));
}

fn sqlstate(status: &Status) -> &str {
    status.metadata().get("sqlstate").map_or("", |code| code.to_str().unwrap())
}

#[test]
fn bytes_that_are_no_request_end_their_connection_and_nothing_else() {
    let (_directory, server) = start();
    let before = memory(&server, "VmRSS:");
    let mut random = Random::new(7);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut inputs = vec![
        Vec::new(),
        preface.clone(),
        preface[..10].to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'a'; 4 << 20]].concat(),
        [&b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"[..], &vec![b'a'; 1 << 20]].concat(),
        // A frame of headers of the greatest length, then nothing; one of an unknown kind; settings that mean nothing.
        [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat(),
        [&preface[..], &[0, 0, 4, 0xee, 0, 0, 0, 0, 0, 1, 2, 3, 4]].concat(),
        [&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat(),
        // Streams opened and reset by the thousand.
        [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8].repeat(5_000)].concat(),
    ];
    for _ in 0..40 {
        let length = random.below(2_000) as usize;
        let noise: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
        inputs.push(noise.clone());
        inputs.push([&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &noise].concat());
    }
    for input in &inputs {
        for address in [&server.grpc, &server.http] {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            // The other side may have seen enough before all is sent.
            let _ = stream.write_all(input);
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = (&mut stream).take(1 << 20).read_to_end(&mut answer);
        }
    }
    assert_serves(&server);
    let after = memory(&server, "VmRSS:");
    assert!(after < before + 64, "{before} MiB before, {after} MiB after");
}

/// Sends bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length).to_vec()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Sends a message to a method, and reads what comes until it ends, or a little of it.
async fn send_raw(channel: &Channel, method: &str, message: Vec<u8>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = method.parse().unwrap();
    let request = Request::new(tokio_stream::iter([message]));
    let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
    for _ in 0..3 {
        if answers.message().await?.is_none() {
            break;
        }
    }
    Ok(())
}

/// Every method that there is, `/service/method`.
fn methods() -> Vec<String> {
    let set = prost_types::FileDescriptorSet::decode(highwater_proto::DESCRIPTORS).unwrap();
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                methods.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    assert!(methods.len() > 10, "{methods:?}");
    methods
}

#[test]
fn messages_that_mean_nothing_are_refused_by_every_method() {
    let (_directory, server) = start();
    let mut random = Random::new(3);
    let mut messages = vec![
        vec![0x0a],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0xff; 30],
        // Text that is none.
        vec![0x0a, 4, 0xff, 0xfe, 0xc0, 0x80],
        // Groups in groups.
        [0x0b].repeat(100_000),
        // Messages in messages.
        (0..200).fold(Vec::new(), |inner: Vec<u8>, _| {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(inner.len() as u64, &mut outer);
            [outer, inner].concat()
        }),
        [0x3a, 0].repeat(200_000),
        [0x0a, 0].repeat(200_000),
    ];
    for _ in 0..30 {
        messages.push((0..random.below(60)).map(|_| random.below(256) as u8).collect());
    }
    runtime().block_on(async {
        let channel = channel(&server).await;
        for method in methods() {
            for message in &messages {
                let answered =
                    tokio::time::timeout(Duration::from_secs(60), send_raw(&channel, &method, message.clone()));
                let Ok(answered) = answered.await else {
                    panic!("{method} hangs at {:?}", &message[..message.len().min(40)])
                };
                if let Err(status) = answered {
                    let is_clear = !matches!(status.code(), Code::Internal | Code::Unknown);
                    assert!(
                        is_clear || sqlstate(&status) == "42P01",
                        "{method}: {status} at {:?}",
                        &message[..message.len().min(40)]
                    );
                }
            }
        }
    });
    assert_serves(&server);
}

#[test]
fn statements_that_are_large_in_some_way_take_little_memory() {
    let (_directory, server) = start();
    runtime().block_on(async {
        let channel = channel(&server).await;
        let many = |text: &str, count: usize, end: &str| format!("{}{end}", text.repeat(count));
        let mib = 1 << 20;
        for (what, sql, expected) in [
            ("statements, the last of which is none", many("SELECT 1;", 200_000, "SELEC"), "42601"),
            ("nothing but semicolons", many(";", 60 * mib, ""), ""),
            ("nothing but blanks", many(" ", 60 * mib, "SELECT 1"), "54001"),
            ("nested", format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)), "54001"),
            ("a chain", format!("SELECT {}1", "1+".repeat(10 * mib)), "54001"),
            ("an open parenthesis, repeated", many("(", 60 * mib, ""), "54001"),
            ("nested arrays", format!("SELECT '{}{}'::int[]", "{".repeat(mib), "}".repeat(mib)), "22P02"),
            ("EXPLAIN of EXPLAIN", format!("{}SELECT 1", "EXPLAIN ".repeat(380)), "54001"),
            ("PREPARE of PREPARE", format!("{}SELECT 1", "PREPARE p AS ".repeat(300)), "54001"),
            ("WITH in WITH", format!("{}SELECT 1{}", "WITH a AS (".repeat(27), ") SELECT 1".repeat(27)), "54001"),
            ("calls in calls", format!("SELECT {}1{}", "abs(".repeat(45), ")".repeat(45)), "54001"),
            ("nested JSON", format!("SELECT '{}{}'::jsonb", "[".repeat(mib), "]".repeat(mib)), "22P02"),
            ("a list of values", format!("SELECT 1 IN ({}1)", "1,".repeat(3 * mib)), "54001"),
            ("a long literal", format!("SELECT length('{}') AS n", "x".repeat(50 * mib)), ""),
            ("a parameter without a value", "SELECT $1".to_owned(), "42P02"),
            ("too high a parameter", "SELECT $65536".to_owned(), "42P02"),
        ] {
            let outcome = execute(&channel, statement(sql)).await;
            let state = outcome.as_ref().err().map_or("", sqlstate);
            assert_eq!(state, expected, "{what}: {:?}", outcome.as_ref().map(Vec::len));
            let most = memory(&server, "VmHWM:");
            println!("{what}: {most} MiB at most so far");
        }
        // Beyond what a message may have.
        let too_long = execute(&channel, statement("x".repeat(100 << 20))).await.unwrap_err();
        assert_eq!(too_long.code(), Code::OutOfRange, "{too_long}");
        let bomb = send_raw(&channel, "/highwater.v1.Sql/Execute", [0x3a, 0].repeat(30 << 20)).await.unwrap_err();
        assert_eq!(bomb.code(), Code::ResourceExhausted, "{bomb}");
        // A group hides nothing.
        let hidden = [&[0xa3, 0x06, 0xa4, 0x06][..], &[0x3a, 0].repeat(8 << 20)].concat();
        let bomb = send_raw(&channel, "/highwater.v1.Sql/Execute", hidden).await.unwrap_err();
        assert_eq!(bomb.code(), Code::InvalidArgument, "{bomb}");
    });
    assert_serves(&server);
    let most = memory(&server, "VmHWM:");
    assert!(most < 1_280, "{most} MiB at most");
}

/// Lets this process and those that it starts have more files; returns how many.
fn raise_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

#[test]
fn ten_thousand_connections_disturb_nobody() {
    let count = raise_files().saturating_sub(1_000).min(10_000);
    assert!(count >= 1_000, "the machine gives too few files");
    if count < 10_000 {
        println!("only {count} connections: the machine gives no more files");
    }
    let (_directory, server) = start();
    let before = memory(&server, "VmRSS:");
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    let connections: Vec<_> = (0..count)
        .map(|number| {
            let mut stream = TcpStream::connect(&server.grpc).unwrap();
            // Most have said who they are, some nothing, some half of it.
            let said = [hello.len(), hello.len(), 0, 10][number as usize % 4];
            stream.write_all(&hello[..said]).unwrap();
            stream
        })
        .collect();
    assert_serves(&server);
    let during = memory(&server, "VmRSS:");
    println!("{count} connections: {before} MiB before, {during} MiB with them");
    assert!((during - before) * 1024 / count < 64, "{before} MiB before, {during} MiB with {count} connections");
    drop(connections);
    assert_serves(&server);
}

#[test]
fn a_server_that_runs_out_of_files_serves_again_when_it_has_some() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 150; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_highwater")]);
    let server = Server::start_by(command, &directory.path().join("data"));
    // No more than wait for being taken where the system lets few.
    let streams: Vec<_> = (0..220).map(|_| TcpStream::connect(&server.grpc).unwrap()).collect();
    server.told("cannot take another connection");
    drop(streams);
    assert_serves(&server);
}

#[test]
fn clients_that_trickle_or_never_read_cost_only_themselves() {
    let (_directory, server) = start();
    let trickling: Vec<_> = (0..100).map(|_| TcpStream::connect(&server.grpc).unwrap()).collect();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    runtime().block_on(async {
        let lazy = channel(&server).await;
        let before = memory(&server, "VmRSS:");
        // Each of these has a hundred million rows to give.
        let mut unread = Vec::new();
        for _ in 0..50 {
            let sql = "SELECT g, repeat('x', 100) AS x FROM generate_series(1, 100000000) AS s(g)";
            unread.push(SqlClient::new(lazy.clone()).execute(statement(sql)).await.unwrap());
        }
        let busy = channel(&server).await;
        for round in 0..preface.len() * 4 {
            for mut stream in &trickling {
                if round < preface.len() {
                    stream.write_all(&preface[round..=round]).unwrap();
                }
            }
            assert_eq!(execute(&busy, statement("SELECT 1 AS one")).await.unwrap().len(), 3);
        }
        let during = memory(&server, "VmRSS:");
        println!("50 calls that nobody reads: {before} MiB before, {during} MiB with them");
        assert!(during < before + 384, "{before} MiB before, {during} MiB with calls that nobody reads");
        drop(unread);
    });
    assert_serves(&server);
}
