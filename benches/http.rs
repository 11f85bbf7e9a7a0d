//! What HTTP costs, in one run: `cargo bench --bench http`. 64 connections that each send one request after the other
//! to a daemon of its own process on Postgres: a read by id and a create, beside an empty route of a bare axum server
//! (a process of its own too), beside `/livez` of the same daemon, and beside creates through the embedded engine.
//!
//! The clients write ready bytes and read as little as they must, since they share the processor with the servers.
//! Wants `TEST_DATABASE_URL`; `RUNS` (3) and `SECONDS_A_RUN` (4) say how often and how long; names of lines leave out
//! the rest.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use essaim::clock::{Clock, SystemClock};
use essaim::domain::currency::Currency;
use essaim::domain::identity::Identity;
use essaim::domain::money::Money;
use essaim::domain::payment::{Payment, PaymentCommand};
use essaim::domain::user::User;
use essaim::prelude::*;
use essaim::projections::payment_summaries::PaymentSummaries;
use essaim::projections::user_analytics::UserAnalytics;
use essaim::projections::user_list::UserList;
use essaim::projections::user_profiles::UserProfiles;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use uuid::Uuid;

use self::measuring::{Case, Measured, Plan, Processor, Run, fresh_database, measure};

mod measuring;

const CONNECTIONS: usize = 64;
const PAYMENTS: u128 = 1_000;
/// With this, the program is the bare server.
const SERVE_EMPTY: &str = "--serve-empty";

/// A server in a process of its own, killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    async fn start(command: impl FnOnce(&str) -> Command, ready: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let mut command = command(&format!("127.0.0.1:{port}"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program is there");
        let server = Self { child, port };
        let request = get_of(ready);
        loop {
            if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await
                && Connection::new(stream).exchange(&request).await == 200
            {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn empty() -> Self {
        let start = |listen: &str| {
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args([SERVE_EMPTY, listen]);
            command
        };
        Self::start(start, "/empty").await
    }

    async fn daemon(server: &str) -> Self {
        let url = fresh_database(server, "essaim_bench_http").await;
        let start = |listen: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
            command.args(["serve", "--listen", listen, "--database", &url]).env("ESSAIM_LOG_LEVEL", "warn");
            command
        };
        Self::start(start, "/readyz").await
    }

    async fn connections(&self) -> Arc<Vec<Mutex<Connection>>> {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).await.expect("it listens");
            stream.set_nodelay(true).expect("it is TCP");
            connections.push(Mutex::new(Connection::new(stream)));
        }
        Arc::new(connections)
    }

    /// Each connection sends one request after the other, and must be answered with this status.
    async fn measure(
        &self,
        time: Duration,
        status: u16,
        request: impl Fn(usize, u64) -> String + Send + Sync + 'static,
    ) -> Measured {
        let (connections, request) = (self.connections().await, Arc::new(request));
        measure(CONNECTIONS, time, Processor::without_server(), move |caller, n| {
            let (connections, request) = (Arc::clone(&connections), Arc::clone(&request));
            async move {
                let answered = connections[caller].lock().await.exchange(&request(caller, n)).await;
                assert_eq!(answered, status, "every request is answered as it should be");
            }
        })
        .await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, received: Vec::with_capacity(4_096) }
    }

    /// Sends a request, reads the whole answer, and returns its status: 0 when there was none.
    async fn exchange(&mut self, request: &str) -> u16 {
        self.received.clear();
        if self.stream.write_all(request.as_bytes()).await.is_err() {
            return 0;
        }
        loop {
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return 0,
                Ok(_) => {}
            }
            if let Some(length) = answer_length(&self.received)
                && self.received.len() >= length
            {
                return std::str::from_utf8(&self.received[9..12]).ok().and_then(|code| code.parse().ok()).unwrap_or(0);
            }
        }
    }
}

/// How long the answer is, headers and all, once its headers are there.
fn answer_length(received: &[u8]) -> Option<usize> {
    const LENGTH: &[u8] = b"content-length: ";
    let end = memmem::find(received, b"\r\n\r\n")? + 4;
    let digits = &received[memmem::find(&received[..end], LENGTH)? + LENGTH.len()..end];
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    Some(end + digits.fold(0, |length, digit| length * 10 + usize::from(digit - b'0')))
}

fn get_of(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
}

fn create_of(id: Uuid) -> String {
    let body = format!(r#"{{"id":"{id}","amount":"12.50","currency":"EUR"}}"#);
    format!(
        "POST /v1/payments HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn payment(number: u128) -> Uuid {
    Uuid::from_u128(0x6f0f_2e44_8a52_4f3a_9d5e_0000_0000_0000 + number)
}

async fn empty(time: Duration) -> Measured {
    Server::empty().await.measure(time, 200, |_, _| get_of("/empty")).await
}

async fn livez(server: Arc<str>, time: Duration) -> Measured {
    Server::daemon(&server).await.measure(time, 200, |_, _| get_of("/livez")).await
}

async fn read(server: Arc<str>, time: Duration) -> Measured {
    let daemon = Server::daemon(&server).await;
    let connections = daemon.connections().await;
    for number in 0..PAYMENTS {
        assert_eq!(connections[0].lock().await.exchange(&create_of(payment(number))).await, 201, "it is created");
    }
    let requests: Vec<_> = (0..PAYMENTS).map(|number| get_of(&format!("/v1/payments/{}", payment(number)))).collect();
    let request = move |caller: usize, n: u64| {
        requests[(caller as u64 + n * CONNECTIONS as u64) as usize % requests.len()].clone()
    };
    daemon.measure(time, 200, request).await
}

async fn create(server: Arc<str>, time: Duration) -> Measured {
    Server::daemon(&server).await.measure(time, 201, |_, _| create_of(SystemClock.random_id())).await
}

/// What the daemon runs, in this process.
async fn embedded(server: Arc<str>, time: Duration) -> Measured {
    let url = fresh_database(&server, "essaim_bench_http").await;
    let store = PostgresStore::open(&url).await.expect("opens");
    store.index_audit().await.expect("the log is empty");
    let engine = Engine::builder(store);
    let engine = engine.aggregate::<Payment>().projection(PaymentSummaries);
    let engine = engine.aggregate::<User>().aggregate::<Identity>();
    let engine = engine.projection(UserProfiles).projection(UserList).projection(UserAnalytics);
    let engine = engine.start().await.expect("starts");
    let used = engine.clone();
    let measured = measure(CONNECTIONS, time, Processor::of_database(&url).await, move |_, _| {
        let engine = used.clone();
        async move {
            let euro = Currency::from_code("EUR").expect("there is the euro");
            let money = Money::parse("12.50", euro).expect("an amount");
            let create = PaymentCommand::Create { money, metadata: Default::default() };
            engine.execute(&Payment::id(SystemClock.random_id()), create).await.expect("a quiet engine takes it");
        }
    })
    .await;
    engine.shutdown(Duration::from_secs(30)).await;
    measured
}

async fn serve_empty(listen: &str) {
    let listener = TcpListener::bind(listen).await.expect("a free port");
    let routes = Router::new().route("/empty", get(async || ""));
    axum::serve(listener, routes).await.expect("it serves until it is killed");
}

fn case(name: &str, shown: &str, beside: Option<&str>, run: Run) -> Case {
    Case { name: name.into(), shown: shown.into(), beside: beside.map(Into::into), run }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, first, listen] = &arguments[..]
        && first == SERVE_EMPTY
    {
        return serve_empty(listen).await;
    }
    let (Some(plan), Some(server)) = (Plan::from_environment(), Plan::server()) else { return };
    let cases = vec![
        case("empty", "an empty route of a bare axum server", None, Box::new(|_, time| Box::pin(empty(time)))),
        case("livez", "/livez of the daemon", Some("empty"), Box::new(|server, time| Box::pin(livez(server, time)))),
        case("read", "read by id", Some("empty"), Box::new(|server, time| Box::pin(read(server, time)))),
        case(
            "embedded",
            "create, embedded, 64 callers",
            None,
            Box::new(|server, time| Box::pin(embedded(server, time))),
        ),
        case("create", "create over HTTP", Some("embedded"), Box::new(|server, time| Box::pin(create(server, time)))),
    ];
    plan.run(&server, cases).await;
}
