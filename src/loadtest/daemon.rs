//! This file runs a daemon of the harness's own, kills it without warning, and starts it again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::LoadError;
use super::session::Session;

/// How long it may take until it is ready, and to drain.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A daemon in a process of its own: the same program, with `serve`.
pub(crate) struct OwnDaemon {
    arguments: Vec<String>,
    folder: PathBuf,
    address: String,
    http: reqwest::Client,
    child: Mutex<Child>,
}

/// One kill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    pub(crate) at: Instant,
    /// Until the next answer; none when there was none before the run ended.
    pub(crate) down: Option<Duration>,
}

impl OwnDaemon {
    /// Starts one on this database with these flags, on a free port; its log goes into `folder`. Returns when it is
    /// ready.
    ///
    /// # Errors
    /// [`LoadError::Daemon`] when it ends instead, with what it said.
    pub(crate) async fn start(database: &str, flags: &[String], folder: &Path) -> Result<Arc<Self>, LoadError> {
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let mut arguments: Vec<String> = ["serve", "--listen", &address, "--database", database].map(Into::into).into();
        if !flags.iter().any(|flag| flag.starts_with("--log-level")) {
            arguments.push("--log-level=warn".to_owned());
        }
        arguments.extend_from_slice(flags);
        let http = reqwest::Client::builder().timeout(Duration::from_secs(2)).build();
        let http = http.map_err(|error| LoadError::Failed(format!("no HTTP client: {error}")))?;
        let child = spawn(&arguments, folder)?;
        let address = format!("http://{address}");
        let daemon = Self { arguments, folder: folder.to_owned(), address, http, child: Mutex::new(child) };
        daemon.ready().await?;
        Ok(Arc::new(daemon))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Kills it and starts it again, this often, until `stop`; the last one that was started stays.
    pub(crate) async fn kill_every(
        self: Arc<Self>,
        every: Duration,
        session: Arc<Session>,
        stop: CancellationToken,
    ) -> Vec<Kill> {
        let mut kills = Vec::new();
        while stop.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let at = Instant::now();
            if let Err(error) = self.kill_and_restart().await {
                // The target is then found to be gone.
                tracing::error!(%error, "the daemon cannot be started again");
                break;
            }
            let down = answered_again(&session, at, &stop).await;
            kills.push(Kill { at, down });
        }
        kills
    }

    async fn kill_and_restart(&self) -> Result<(), LoadError> {
        let mut child = self.child.lock().await;
        child.kill().await.map_err(LoadError::io("the daemon cannot be killed"))?;
        *child = spawn(&self.arguments, &self.folder)?;
        Ok(())
    }

    /// Lets it drain.
    pub(crate) async fn stop(&self) {
        let mut child = self.child.lock().await;
        let asked = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(id) = asked {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
            let _ = child.kill().await;
        }
    }

    async fn ready(&self) -> Result<(), LoadError> {
        let url = format!("{}/readyz", self.address);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if self.http.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.lock().await.try_wait() {
                return Err(self.ended(status));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Err(LoadError::Failed(format!("the daemon was not ready within {} s", PATIENCE.as_secs())))
    }

    fn ended(&self, status: ExitStatus) -> LoadError {
        let log = fs::read_to_string(log_file(&self.folder)).unwrap_or_default();
        let said = log.lines().rfind(|line| line.starts_with("error: ")).or_else(|| log.lines().last());
        let said = said.unwrap_or("it said nothing").trim_start_matches("error: ").to_owned();
        let exit_code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code > 0).unwrap_or(1);
        LoadError::Daemon { said, exit_code }
    }
}

/// How long after the kill somebody was answered again.
async fn answered_again(session: &Session, killed: Instant, stop: &CancellationToken) -> Option<Duration> {
    // What the dead one had sent already is still being read.
    const IN_THE_AIR: Duration = Duration::from_millis(20);
    tokio::time::sleep(IN_THE_AIR).await;
    let before = session.measures.answered();
    while session.measures.answered() == before {
        stop.run_until_cancelled(tokio::time::sleep(LOOK_AGAIN)).await?;
    }
    Some(killed.elapsed())
}

fn spawn(arguments: &[String], folder: &Path) -> Result<Child, LoadError> {
    let program = std::env::current_exe().map_err(LoadError::io("this program's own file is unknown"))?;
    let log = File::options().create(true).append(true).open(log_file(folder));
    let log = log.map_err(LoadError::io("the daemon's log cannot be written"))?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    // In a folder without an essaim.toml, and where a Ctrl-C that is meant for the harness does not reach it.
    command.process_group(0).args(arguments).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.kill_on_drop(true).spawn().map_err(LoadError::io("the daemon cannot be started"))
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("daemon.log")
}

/// A port that was free a moment ago; the daemon keeps it over its restarts.
fn free_port() -> Result<u16, LoadError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(LoadError::io("there is no free port"))?;
    Ok(listener.local_addr().map_err(LoadError::io("the port is unknown"))?.port())
}
