//! This file gives tests a Postgres: a fresh database on a shared server, or a private server that can be crashed.
//!
//! The shared server is the one that `TEST_DATABASE_URL` names (a role that may create databases); without it, each
//! test program starts one of its own. A guard process stops a private server and removes its files as soon as the
//! test program has ended, however it ended.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Executor};
use tempfile::TempDir;

/// The superuser's password on private servers.
pub const PASSWORD: &str = "essaim test";
/// The same in an address.
const ENCODED_PASSWORD: &str = "essaim%20test";

/// A database of its own, dropped at the end.
pub struct Database {
    pub url: String,
    name: String,
    server: String,
}

impl Database {
    /// An empty database on the shared server.
    pub async fn fresh() -> Self {
        Self::on(shared_server()).await
    }

    /// An empty database on the server of this address.
    pub async fn on(server: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("essaim_test_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(server, format!("CREATE DATABASE {name}")).await;
        Self { url: with_database(server, &name), name, server: server.to_owned() }
    }

    /// Another program's hands on the database.
    pub async fn connection(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("a database that was just created can be reached")
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // A test that crashed its server has no database to drop.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                if let Ok(mut connection) = PgConnection::connect(&server).await {
                    let _ = connection.execute(AssertSqlSafe(sql)).await;
                }
            });
        });
        let _ = dropping.join();
    }
}

async fn run(server: &str, sql: String) {
    let mut connection = PgConnection::connect(server).await.expect("the test server can be reached");
    connection.execute(AssertSqlSafe(sql)).await.expect("the role of the tests may create databases");
    let _ = connection.close().await;
}

/// The same address with another database.
pub fn with_database(url: &str, database: &str) -> String {
    let (address, parameters) = url.split_once('?').map_or((url, None), |(address, rest)| (address, Some(rest)));
    let authority = address.find("://").map_or(0, |at| at + 3);
    let end = address[authority..].find('/').map_or(address.len(), |at| authority + at);
    let parameters = parameters.map(|rest| format!("?{rest}")).unwrap_or_default();
    format!("{}/{database}{parameters}", &address[..end])
}

/// The same address with another host and port.
pub fn with_address(url: &str, address: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    let start = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    format!("{}{address}{}", &url[..start], &url[end..])
}

/// Host and port of an address.
pub fn address(url: &str) -> String {
    let options: PgConnectOptions = url.parse().expect("an address of Postgres");
    format!("{}:{}", options.get_host(), options.get_port())
}

fn shared_server() -> &'static str {
    static SERVER: OnceLock<(String, Option<Cluster>)> = OnceLock::new();
    let (url, _) = SERVER.get_or_init(|| match std::env::var("TEST_DATABASE_URL") {
        Ok(url) => (url, None),
        Err(_) => {
            let cluster = Cluster::start(&[]);
            (cluster.url(), Some(cluster))
        }
    });
    url
}

/// A private server on a port of its own.
pub struct Cluster {
    port: u16,
    settings: Vec<String>,
    folder: PathBuf,
    /// Closing it makes the guard stop the server and remove its files.
    guard: Option<ChildStdin>,
    guard_process: Child,
}

impl Cluster {
    /// A server with these settings beside its defaults, e.g. `fsync=off`.
    pub fn start(settings: &[&str]) -> Self {
        let folder = TempDir::with_prefix("essaim-postgres-").expect("a temporary folder").keep();
        let password = folder.join("password");
        fs::write(&password, PASSWORD).expect("the folder was just created");
        if is_root() {
            chown_to_postgres(&folder);
        }
        let mut guard_process = start_guard(&folder);
        let data = folder.join("data");
        let arguments = ["--auth=scram-sha-256", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"];
        let mut initdb = as_server_user(&program("initdb"), &folder);
        check(initdb.args(arguments).arg("--pwfile").arg(&password).arg("--pgdata").arg(&data), &folder);
        let settings = settings.iter().map(|setting| setting.to_string()).collect();
        let guard = guard_process.stdin.take();
        let mut cluster = Self { port: 0, settings, folder, guard, guard_process };
        // Between the choice and the start another program can take the port.
        let started = (0..5).any(|_| {
            cluster.port = free_port();
            cluster.try_start()
        });
        assert!(started, "Postgres does not start: {}", cluster.log());
        cluster
    }

    /// The address of its superuser.
    pub fn url(&self) -> String {
        format!("postgres://postgres:{ENCODED_PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }

    /// Ends every process of the server at once, as a crash does; what was not on disk is gone.
    pub fn crash(&self) {
        check(self.pg_ctl().args(["stop", "--mode=immediate", "--wait"]), &self.folder);
    }

    /// Starts it again on the same port; returns when it accepts connections.
    pub fn restart(&self) {
        assert!(self.try_start(), "Postgres does not start again: {}", self.log());
    }

    fn try_start(&self) -> bool {
        let own = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".into(),
            // Their paths have a length limit that a temporary folder can exceed.
            "unix_socket_directories=".into(),
            "max_connections=1000".into(),
        ];
        let options: Vec<String> = own.iter().chain(&self.settings).map(|setting| format!("-c {setting}")).collect();
        let mut start = self.pg_ctl();
        start.args(["start", "--wait", "--timeout=60", "--log"]).arg(self.folder.join("log"));
        start.arg("--options").arg(options.join(" "));
        quiet(&mut start).status().is_ok_and(|status| status.success())
    }

    fn pg_ctl(&self) -> Command {
        let mut command = as_server_user(&program("pg_ctl"), &self.folder);
        command.arg("--pgdata").arg(self.folder.join("data"));
        command
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _ = self.guard_process.wait();
    }
}

/// Waits for the end of its standard input, which comes with the end of this process at the latest.
fn start_guard(folder: &Path) -> Child {
    const SCRIPT: &str = r#"
        cat > /dev/null
        if [ -f "$1/data/postmaster.pid" ]; then
            kill -QUIT "$(head -n 1 "$1/data/postmaster.pid")" 2> /dev/null
            while [ -f "$1/data/postmaster.pid" ] && kill -0 "$(head -n 1 "$1/data/postmaster.pid")" 2> /dev/null; do
                sleep 0.05
            done
        fi
        rm -rf "$1"
    "#;
    Command::new("sh")
        .args(["-c", SCRIPT, "guard"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // An interrupt at the terminal is for the tests, the guard has to outlive them.
        .process_group(0)
        .spawn()
        .expect("there is a shell")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// Postgres refuses to run as root.
fn as_server_user(program: &Path, folder: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.current_dir(folder).env_remove("PGDATA").env_remove("PGPORT");
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn chown_to_postgres(folder: &Path) {
    let mut chown = Command::new("chown");
    check(chown.args(["-R", "postgres"]).arg(folder), folder);
}

/// On the path, or the newest where Debian keeps them.
fn program(name: &str) -> PathBuf {
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let mut debian: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .collect();
    debian.sort();
    let found = on_path.chain(debian.into_iter().rev()).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("there is no {name}: install Postgres (Debian: apt-get install postgresql), or set TEST_DATABASE_URL")
    })
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

fn check(command: &mut Command, folder: &Path) {
    let output = command.stdin(Stdio::null()).output().expect("the program is there");
    let said = String::from_utf8_lossy(&output.stderr);
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    assert!(output.status.success(), "{command:?} failed: {said} {log}");
}
