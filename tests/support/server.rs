//! A `highwater server` as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

/// The server; it is killed when this goes.
pub(crate) struct Server {
    child: Child,
    /// Of gRPC, `127.0.0.1:port`.
    pub(crate) grpc: String,
    /// Of HTTP.
    pub(crate) http: String,
    /// What it writes to standard error once it serves.
    told: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one on free ports, and waits until it serves.
    ///
    /// # Panics
    /// When it ends before.
    #[allow(dead_code, reason = "not every test starts one with nothing else")]
    pub(crate) fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// As [`Server::start`], with more in its environment.
    pub(crate) fn start_with(data: &Path, environment: &[(&str, &OsStr)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
        command.envs(environment.iter().copied());
        Self::start_by(command, data)
    }

    /// As [`Server::start`], by a command that takes the program's arguments.
    pub(crate) fn start_by(mut command: Command, data: &Path) -> Self {
        let mut child = command
            .args(["server", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = BufReader::new(child.stderr.take().unwrap());
        let mut all = String::new();
        let line = loop {
            let mut line = String::new();
            assert!(told.read_line(&mut line).unwrap() > 0, "the server ended: {all}");
            if line.contains(" serves ") {
                break line;
            }
            all.push_str(&line);
        };
        // Whatever it says later must not fill the pipe.
        let later = Arc::<Mutex<String>>::default();
        let noted = Arc::clone(&later);
        std::thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                eprintln!("{line}");
                noted.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        let after = |word: &str| {
            let rest = line.split_once(word).unwrap().1;
            rest.split([',', '\n']).next().unwrap().to_owned()
        };
        Self { child, grpc: after("grpc http://"), http: after(", http http://"), told: later }
    }

    /// The address that `--url` takes.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Waits until it has written a line with this in it to standard error, and gives the line.
    #[allow(dead_code, reason = "not every test waits for what is told")]
    pub(crate) fn told(&self, what: &str) -> String {
        // A minute: whether it is told is what is asked, not when.
        for _ in 0..600 {
            if let Some(line) = self.told.lock().unwrap().lines().find(|line| line.contains(what)) {
                return line.to_owned();
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("{what} was not told");
    }

    /// Its process.
    #[allow(dead_code, reason = "not every test asks for it")]
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Status line and body of an HTTP answer.
    #[allow(dead_code, reason = "not every test asks by HTTP")]
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.http).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    /// Asks it to end, and waits.
    #[allow(dead_code, reason = "not every test ends its server by itself")]
    pub(crate) fn terminate(mut self) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }

    /// Waits until it ends by itself.
    #[allow(dead_code, reason = "not every test waits for that")]
    pub(crate) fn wait(mut self) -> ExitStatus {
        // A minute: whether it ends is what is asked, not when.
        for _ in 0..600 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        panic!("the server has not ended");
    }

    /// Kills it as a crash would.
    #[allow(dead_code, reason = "not every test kills its server")]
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
