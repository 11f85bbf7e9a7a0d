//! This file runs the daemon as operators do: as a process that is started, asked, told to stop, and killed.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything here may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that has announced itself; killed when dropped.
struct Daemon {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        let mut child = essaim(folder, &["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line.strip_prefix("listening on http://").and_then(|rest| rest.strip_suffix('\n'));
        let address = address.unwrap_or_else(|| panic!("the first line is {line:?}")).parse().unwrap();
        Self { child, _stdout: stdout, address }
    }

    /// Status and body of one GET.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    fn wait_until_ready(&self) {
        wait_until("the daemon is ready", || self.get("/readyz").0 == 200);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("the daemon ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn essaim(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

/// Starts a daemon that is expected to be refused.
fn refused(folder: &Path, arguments: &[&str]) -> Output {
    essaim(folder, &[&["--listen", "127.0.0.1:0"], arguments].concat()).output().unwrap()
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_daemon_announces_itself_and_becomes_alive_and_ready() {
    let folder = folder();
    let daemon = Daemon::start(folder.path());

    let (live, _) = daemon.get("/livez");
    daemon.wait_until_ready();
    let (_, report) = daemon.get("/readyz");

    assert_eq!(live, 200);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(!report["checks"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["ok"] == true), "{report}");
}

#[test]
fn the_metrics_count_requests_by_route_and_never_by_id() {
    let folder = folder();
    let daemon = Daemon::start(folder.path());
    daemon.get("/livez");
    daemon.get("/no/such/route/0190a3c4");

    let (status, metrics) = daemon.get("/metrics");

    assert_eq!(status, 200);
    let counted = r#"essaim_http_requests_total{route="/livez",method="GET",status="2xx"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes") && metrics.contains(r#"route="unmatched""#), "{metrics}");
    assert!(!metrics.contains("0190a3c4"), "{metrics}");
}

#[test]
fn a_daemon_that_is_told_to_stop_drains_and_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let folder = folder();
        let mut daemon = Daemon::start(folder.path());
        daemon.wait_until_ready();

        daemon.signal(signal);

        assert_eq!(daemon.wait().code(), Some(0), "after {signal:?}");
        assert!(TcpStream::connect(daemon.address).is_err());
    }
}

#[test]
fn an_idle_connection_does_not_hold_up_the_drain() {
    let folder = folder();
    let mut daemon = Daemon::start(folder.path());
    let _idle = TcpStream::connect(daemon.address).unwrap();
    daemon.wait_until_ready();
    let started = Instant::now();

    daemon.signal(Signal::TERM);

    assert_eq!(daemon.wait().code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_second_daemon_on_the_same_database_is_refused_by_name() {
    let folder = folder();
    let first = Daemon::start(folder.path());

    let second = refused(folder.path(), &[]);

    let message = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(3), "{message}");
    assert!(message.contains(&format!("process {}", first.child.id())), "{message}");
    assert_eq!(second.stdout, b"");
    assert_eq!(first.get("/livez").0, 200);
}

#[test]
fn a_daemon_that_was_taken_over_ends_by_itself() {
    let folder = folder();
    let mut first = Daemon::start(folder.path());
    first.wait_until_ready();
    let arguments = ["--listen", "127.0.0.1:0", "--take-over"];
    let mut second = essaim(folder.path(), &arguments).stdout(Stdio::piped()).spawn().unwrap();

    let ended = first.wait();

    assert_eq!(ended.code(), Some(1));
    assert_eq!(second.try_wait().unwrap(), None, "the second one must be running");
    second.kill().unwrap();
    second.wait().unwrap();
}

#[test]
fn a_daemon_that_was_killed_is_replaced_at_once() {
    let folder = folder();
    let mut killed = Daemon::start(folder.path());
    killed.wait_until_ready();
    killed.signal(Signal::KILL);
    killed.wait();

    let next = Daemon::start(folder.path());

    next.wait_until_ready();
}

#[test]
fn weak_durability_is_refused_unless_it_is_allowed() {
    let folder = folder();
    let weak = ["--database", "sqlite://weak.db?synchronous=normal"];

    let output = refused(folder.path(), &weak);

    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("synchronous") && message.contains("--allow-weak-durability"), "{message}");
}

#[test]
fn what_reads_may_stand_beside_a_daemon_and_what_writes_is_sent_to_it() {
    let folder = folder();
    let daemon = Daemon::start(folder.path());
    daemon.wait_until_ready();

    for arguments in [&["events", "list"][..], &["projections", "list"], &["projections", "verify"], &["doctor"]] {
        let output = essaim(folder.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = essaim(folder.path(), &["projections", "list", "--output", "json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let name = listed[0]["name"].as_str().expect("the daemon has a projection");

    let rebuild = essaim(folder.path(), &["projections", "rebuild", name]).output().unwrap();

    let message = String::from_utf8(rebuild.stderr).unwrap();
    assert_eq!(rebuild.status.code(), Some(3), "{message}");
    assert!(message.contains(&format!("/v1/admin/projections/{name}/rebuild")), "{message}");
}

#[test]
fn a_second_signal_ends_a_drain_that_waits_for_a_slow_client() {
    let folder = folder();
    let mut daemon = Daemon::start(folder.path());
    daemon.wait_until_ready();
    let mut slow = TcpStream::connect(daemon.address).unwrap();
    let head = "POST /v1/payments HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{";
    slow.write_all(head.as_bytes()).unwrap();
    wait_until("the slow request is being answered", || {
        daemon.get("/metrics").1.contains("essaim_http_requests_in_flight 2")
    });

    daemon.signal(Signal::TERM);
    wait_until("nothing is accepted any more", || TcpStream::connect(daemon.address).is_err());
    daemon.signal(Signal::TERM);

    assert_eq!(daemon.wait().code(), Some(1));
}
