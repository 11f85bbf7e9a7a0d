//! This file stands between the daemon and its provider, hands requests and answers on, and stops them where a test
//! says.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::scripted::{Asked, request};

/// Where something is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The provider has not seen the request.
    Request,
    /// The provider has done it, and nobody has seen the answer.
    Answer,
}

/// A forwarder, gone when dropped, with everything that it stopped.
pub struct Forwarder {
    pub url: String,
    way: Way,
    task: AbortHandle,
}

type Rule = Box<dyn Fn(&Asked) -> bool + Send>;

#[derive(Clone)]
struct Way {
    target: String,
    /// Stops the next request that fits, and no other.
    next: Arc<Mutex<Option<(Stop, Rule)>>>,
    is_shut: watch::Sender<bool>,
    /// How many stand there.
    stopped: watch::Sender<usize>,
    /// How often those who stand there were let go.
    let_go: watch::Sender<usize>,
}

impl Forwarder {
    /// To the server at this `http` address.
    pub async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = format!("http://{}", listener.local_addr().expect("it is bound"));
        let way = Way {
            target: url.strip_prefix("http://").expect("an http address").trim_end_matches('/').to_owned(),
            next: Arc::default(),
            is_shut: watch::Sender::new(false),
            stopped: watch::Sender::new(0),
            let_go: watch::Sender::new(0),
        };
        let forwarding = way.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let way = forwarding.clone();
                // Whoever goes away, the daemon when it is killed, leaves what is under way to its end.
                tokio::spawn(async move { drop(way.converse(stream).await) });
            }
        });
        Self { url: own, way, task: task.abort_handle() }
    }

    /// The next request with this method whose path ends so is stopped.
    pub fn stop_next(&self, stop: Stop, method: &'static str, path_fits: fn(&str) -> bool) {
        let rule = move |asked: &Asked| asked.method == method && path_fits(path(asked));
        *self.way.next.lock().unwrap() = Some((stop, Box::new(rule)));
    }

    /// From now on no request goes further, until [`Forwarder::let_go`].
    pub fn shut(&self) {
        self.way.is_shut.send_replace(true);
    }

    /// How many requests or answers stand there.
    pub fn stopped(&self) -> usize {
        *self.way.stopped.borrow()
    }

    /// Returns once something is stopped.
    pub async fn has_stopped(&self) {
        let mut stopped = self.way.stopped.subscribe();
        let waiting = stopped.wait_for(|&count| count > 0);
        let stopped = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
        stopped.expect("in vain waited for what is to be stopped").expect("the way is there");
    }

    /// What was stopped goes on, however late that is.
    pub fn let_go(&self) {
        self.way.is_shut.send_replace(false);
        self.way.let_go.send_modify(|count| *count += 1);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn path(asked: &Asked) -> &str {
    asked.path.split('?').next().unwrap_or_default()
}

impl Way {
    async fn converse(self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(asked) = request(&mut stream).await else { return Ok(()) };
        let fits = |rule: &mut (Stop, Rule)| rule.1(&asked);
        let stop = self.next.lock().unwrap().take_if(fits).map(|(stop, _)| stop);
        if stop == Some(Stop::Request) || *self.is_shut.borrow() {
            self.stand().await;
        }
        let mut target = TcpStream::connect(&self.target).await?;
        target.write_all(closing(&asked).as_bytes()).await?;
        let mut answer = Vec::new();
        target.read_to_end(&mut answer).await?;
        if stop == Some(Stop::Answer) {
            self.stand().await;
        }
        stream.write_all(&answer).await?;
        stream.shutdown().await
    }

    async fn stand(&self) {
        let mut let_go = self.let_go.subscribe();
        self.stopped.send_modify(|count| *count += 1);
        let before = *let_go.borrow_and_update();
        // It goes on, too, when the test is over and the forwarder gone.
        let _ = let_go.wait_for(|&count| count > before).await;
        self.stopped.send_modify(|count| *count -= 1);
    }
}

/// The request as the last one of its connection, so that the answer ends where the connection does.
fn closing(asked: &Asked) -> String {
    let (head, body) = asked.text.split_once("\r\n\r\n").expect("a whole request");
    let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    format!("{}\r\nconnection: close\r\n\r\n{body}", lines.collect::<Vec<_>>().join("\r\n"))
}
