//! This file runs the daemon as a process of its own, to be killed and started again.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;

/// A daemon that announced itself; killed when dropped.
pub struct Daemon {
    child: Child,
    database: String,
    port: u16,
    flags: Vec<String>,
    log: Option<PathBuf>,
}

impl Daemon {
    /// Starts one on this database, on a port of its own that it keeps over restarts.
    pub async fn start(database: &str) -> Self {
        Self::start_with(database, &[]).await
    }

    /// The same with these flags.
    pub async fn start_with(database: &str, flags: &[&str]) -> Self {
        Self::start_logged(database, flags, None).await
    }

    /// The same with its log in this file, also over restarts.
    pub async fn start_logged(database: &str, flags: &[&str], log: Option<PathBuf>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>();
        let child = spawn(database, port, &flags, log.as_deref());
        let daemon = Self { child, database: database.into(), port, flags, log };
        daemon.ready().await;
        daemon
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, and a new one right behind it, with the same flags.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// A new one with the same flags.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.database, self.port, &self.flags, self.log.as_deref());
        self.alive().await;
    }

    /// Sends a signal by name, e.g. `STOP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.expect("there is a kill").success());
    }

    /// Waits for it to end by itself.
    pub async fn ended(mut self) -> std::process::ExitStatus {
        for _ in 0..4_000 {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the daemon did not end");
    }

    /// A further daemon on the same database with these flags; returns once it ended or listens.
    pub fn beside(&self, flags: &[&str]) -> Child {
        let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        command(&self.database, 0, &flags).stderr(Stdio::piped()).spawn().expect("the daemon was built")
    }

    async fn alive(&self) {
        self.answers("/livez").await;
    }

    /// Waits until every part is ready.
    pub async fn ready(&self) {
        self.answers("/readyz").await;
    }

    async fn answers(&self, path: &str) {
        let url = format!("{}{path}", self.address());
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().expect("a client");
        eventually(path, || async { http.get(&url).send().await.is_ok_and(|answer| answer.status() == 200) }).await;
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(database: &str, port: u16, flags: &[String], log: Option<&Path>) -> Child {
    let mut command = command(database, port, flags);
    if let Some(log) = log {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("a file can be there");
        command.stderr(file);
    }
    command.spawn().expect("the daemon was built")
}

fn command(database: &str, port: u16, flags: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    command.args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--database", database]).args(flags);
    command.env("ESSAIM_LOG_LEVEL", "warn").stdout(Stdio::null()).stdin(Stdio::null());
    command
}
