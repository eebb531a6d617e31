//! The same fan-out by a NATS server: as many subscribers over as many connections, a message of a line's length for each commit.
//!
//! NATS keeps nothing here and syncs nothing: a publisher waits until the server has taken its message (PING, PONG), as our writers
//! wait for their commit.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::component;

/// A running server; it ends with this.
pub(super) struct Nats {
    child: Child,
    address: String,
}

impl Nats {
    /// Starts the server, if it is installed.
    pub(super) fn start(directory: &Path) -> Option<Self> {
        let program = component::find("nats", "nats-server")?;
        let ports = directory.join("ports");
        std::fs::create_dir_all(&ports).unwrap();
        let child = Command::new(program)
            .args(["--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir"])
            .arg(&ports)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut nats = Self { child, address: String::new() };
        for _ in 0..200 {
            let file =
                std::fs::read_dir(&ports).unwrap().find_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
            let told: Option<serde_json::Value> = file.and_then(|text| serde_json::from_str(&text).ok());
            if let Some(url) = told.as_ref().and_then(|told| told["nats"][0].as_str()) {
                url.trim_start_matches("nats://").clone_into(&mut nats.address);
                return Some(nats);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the server does not tell its port");
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    async fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("INFO "), "{line}");
        stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\n").await.unwrap();
        flushed(&mut stream).await;
        stream
    }

    /// Subscribes so often over one connection, and counts what comes.
    pub(super) async fn subscribe(&self, count: usize, delivered: Arc<AtomicU64>) {
        let mut stream = self.connect().await;
        for id in 1..=count {
            stream.write_all(format!("SUB t {id}\r\n").as_bytes()).await.unwrap();
        }
        flushed(&mut stream).await;
        tokio::spawn(async move {
            let (mut line, mut payload) = (Vec::new(), Vec::new());
            loop {
                line.clear();
                if stream.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                    return;
                }
                if line.starts_with(b"PING") {
                    stream.write_all(b"PONG\r\n").await.unwrap();
                } else if line.starts_with(b"MSG ") {
                    let length = std::str::from_utf8(&line).unwrap().split_whitespace().last().unwrap();
                    payload.resize(length.parse::<usize>().unwrap() + 2, 0);
                    stream.read_exact(&mut payload).await.unwrap();
                    delivered.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// Publishes messages one after another until the time is over; returns how many they were.
    pub(super) async fn publish(&self, bytes: usize, until: Instant) -> u64 {
        let mut stream = self.connect().await;
        let message = format!("PUB t {bytes}\r\n{}\r\n", "x".repeat(bytes));
        let mut count = 0;
        while Instant::now() < until {
            stream.write_all(message.as_bytes()).await.unwrap();
            flushed(&mut stream).await;
            count += 1;
        }
        count
    }
}

/// Waits until the server has taken all that was said.
async fn flushed(stream: &mut BufReader<TcpStream>) {
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut line = String::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end() {
            "PONG" => return,
            "PING" => stream.write_all(b"PONG\r\n").await.unwrap(),
            other => panic!("the server says {other}"),
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
