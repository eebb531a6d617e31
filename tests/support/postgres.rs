//! A real PostgreSQL for tests: the one that the environment names, or a child process of this one.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A server; one that was started here ends with it.
pub(crate) struct Postgres {
    /// How to reach it, as libpq's connection strings say it.
    #[allow(dead_code, reason = "not everybody connects by it")]
    pub(crate) connection: String,
    started: Option<Started>,
}

struct Started {
    port: u16,
    programs: PathBuf,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// Finds or starts one. `None`, with the reason printed: there is none here, and nothing demands one.
    ///
    /// # Panics
    /// When `REQUIRE_REAL` names postgres and there is none, or when one that is installed does not start.
    #[must_use]
    #[allow(dead_code, reason = "a benchmark asks for one that syncs")]
    pub(crate) fn find() -> Option<Self> {
        Self::find_with(false)
    }

    /// As [`Postgres::find`]; one that is started here syncs what it writes if `is_synced`.
    pub(crate) fn find_with(is_synced: bool) -> Option<Self> {
        if let Ok(connection) = std::env::var("TEST_POSTGRES_ADDR") {
            return Some(Self { connection, started: None });
        }
        let Some(programs) = programs() else {
            let is_required =
                std::env::var("REQUIRE_REAL").is_ok_and(|names| names.split(',').any(|n| n == "postgres"));
            assert!(!is_required, "REQUIRE_REAL names postgres, and none is installed: scripts/components postgres");
            println!("skipped: no PostgreSQL is installed (scripts/components postgres installs one)");
            return None;
        };
        Some(Self::start(programs, is_synced))
    }

    /// The port of one that was started here.
    #[allow(dead_code, reason = "not every test asks for it")]
    pub(crate) fn port(&self) -> Option<String> {
        self.started.as_ref().map(|started| started.port.to_string())
    }

    /// Where the programs of one that was started here are.
    #[allow(dead_code, reason = "not every test asks for it")]
    pub(crate) fn programs(&self) -> Option<&std::path::Path> {
        self.started.as_ref().map(|started| started.programs.as_path())
    }

    fn start(programs: PathBuf, is_synced: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        if is_root() {
            // PostgreSQL refuses to run as root.
            run(Command::new("chown").arg("postgres:").arg(directory.path()));
        }
        let data = directory.path().join("data");
        let data = data.to_str().unwrap();
        let mut init = as_server_user(&programs.join("initdb"));
        run(init.args(["-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sockets = directory.path().display();
        let fsync = if is_synced { "on" } else { "off" };
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={sockets} -c fsync={fsync} -c timezone=UTC \
             -c wal_level=logical"
        );
        let log = directory.path().join("server.log");
        let mut start = as_server_user(&programs.join("pg_ctl"));
        run(start.args(["-D", data, "-w", "-l", log.to_str().unwrap(), "-o", &options, "start"]));
        let connection = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres");
        Self { connection, started: Some(Started { port, programs, directory }) }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(started) = &self.started {
            let data = started.directory.path().join("data");
            let mut stop = as_server_user(&started.programs.join("pg_ctl"));
            run(stop.arg("-D").arg(data).args(["-w", "-m", "fast", "stop"]));
        }
    }
}

/// Where the newest installed server's programs are.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|path| path.join("initdb").exists());
    found.sort();
    found.pop()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_server_user(program: &std::path::Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program).current_dir("/");
    command
}

fn run(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
}
