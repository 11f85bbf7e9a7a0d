//! This file works with a running daemon, over HTTP.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{ANONYMOUS, About, Look, Payments, ReadModels, Target, TargetError};
use crate::domain::payment::PaymentCommand;
use crate::event::CommandId;
use crate::loadtest::checker::{Contents, Finding, LoggedEvent};
use crate::loadtest::results::Setting;
use crate::loadtest::workload::{Answer, Attempt, Failed};
use crate::stream::{GlobalPosition, StreamId, Version};

pub use bearer::Bearer;

mod bearer;
mod exposition;

/// Longer than the daemon takes to decide by default, so that its own answer comes first.
const TIMEOUT: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A watcher must not be held up by what it watches.
const LOOK_TIMEOUT: Duration = Duration::from_millis(900);
/// A daemon that is silent for so long is not there any more; a restart takes less.
const PATIENCE: Duration = Duration::from_secs(5);
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// A rebuild reads the whole log.
const REBUILD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long read models may take to reach the end of the log when the load is over.
const CATCH_UP_MS: &str = "60000";

/// A daemon, by its address.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    base: String,
    bearer: Option<Bearer>,
}

impl Http {
    /// The daemon at this address, e.g. `http://127.0.0.1:7700`, over at most so many idle connections. The token goes
    /// with every request.
    ///
    /// # Errors
    /// When it is no address of a web server.
    pub fn new(url: &str, connections: usize, bearer: Option<Bearer>) -> Result<Self, String> {
        let parsed = reqwest::Url::parse(url).ok();
        if !parsed.is_some_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some()) {
            return Err(format!("{url:?} is not of the form http://HOST:PORT"));
        }
        let client = Client::builder()
            .pool_max_idle_per_host(connections.max(1))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .tcp_nodelay(true)
            .default_headers(bearer.as_ref().map(Bearer::headers).unwrap_or_default())
            .build()
            .map_err(|error| format!("no HTTP client: {error}"))?;
        Ok(Self { client, base: url.trim_end_matches('/').to_owned(), bearer })
    }

    fn post(&self, id: Uuid, command: PaymentCommand) -> RequestBuilder {
        let to = |verb: &str| self.client.post(format!("{}/v1/payments/{id}/{verb}", self.base));
        match command {
            PaymentCommand::Create { money, metadata } => {
                let (amount, currency) = (money.amount(), money.currency().code());
                let body = json!({"id": id, "amount": amount, "currency": currency, "metadata": metadata});
                self.client.post(format!("{}/v1/payments", self.base)).json(&body)
            }
            PaymentCommand::Authorize { authorization_code } => {
                to("authorize").json(&json!({"authorization_code": authorization_code.as_str()}))
            }
            PaymentCommand::Complete => to("complete"),
            PaymentCommand::Cancel { .. } => to("cancel"),
        }
    }

    async fn ask(&self, path: &str, timeout: Duration) -> Result<Response, TargetError> {
        self.sent(self.client.get(format!("{}{path}", self.base)).timeout(timeout), path).await
    }

    async fn sent(&self, request: RequestBuilder, path: &str) -> Result<Response, TargetError> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        if answer.status().is_success() { Ok(answer) } else { Err(self.unsuccessful(answer, path).await) }
    }

    /// Why there is no success, in the daemon's own words where it has some.
    async fn unsuccessful(&self, answer: Response, path: &str) -> TargetError {
        let status = answer.status();
        let problem: Value = answer.json().await.unwrap_or_default();
        let detail = problem["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
        let what = format!("{}{path} answers {status}{detail}", self.base);
        match bearer::advice(status, self.bearer.is_some()) {
            Some(advice) => TargetError::Refused { what: format!("{what}; {advice}") },
            None if status == StatusCode::NOT_FOUND => {
                TargetError::Unexpected { what: format!("{what}: is this a daemon of ours?") }
            }
            None => TargetError::Unexpected { what },
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> TargetError {
        TargetError::Unreachable { what: format!("no answer from {}: {}", self.base, root_of(error)) }
    }

    /// Whether it is there, and takes the token that it took; tokens do not last for ever.
    async fn still_admits(&self) -> Result<(), TargetError> {
        self.probe().await?;
        if self.bearer.is_none() {
            return Ok(());
        }
        match self.ask("/v1/payments?limit=1", CONNECT_TIMEOUT).await {
            Err(refused @ TargetError::Refused { .. }) => Err(refused),
            _ => Ok(()),
        }
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, answer: Response) -> Result<T, TargetError> {
        answer.json().await.map_err(|error| TargetError::Unexpected {
            what: format!("{} answers with something else than a daemon does: {}", self.base, root_of(&error)),
        })
    }

    async fn digest(&self, name: &str) -> Result<(GlobalPosition, String), TargetError> {
        #[derive(Deserialize)]
        struct Digest {
            position: GlobalPosition,
            digest: String,
        }
        let path = format!("/v1/admin/projections/{name}/digest");
        let found: Digest = self.json(self.ask(&path, REBUILD_TIMEOUT).await?).await?;
        Ok((found.position, found.digest))
    }
}

#[async_trait]
impl Payments for Http {
    async fn execute(&self, id: Uuid, command: PaymentCommand, attempt: &Attempt) -> Answer {
        match self.post(id, command).header("idempotency-key", attempt.key()).send().await {
            Ok(answer) if answer.status().is_success() => done(answer).await,
            Ok(answer) => refused(answer).await,
            Err(error) => Answer::Unknown(lost(&error)),
        }
    }

    async fn read(&self, id: Uuid, at_least: GlobalPosition) -> Answer {
        let request = self.client.get(format!("{}/v1/payments/{id}", self.base));
        let answer = match request.header("essaim-at-least", at_least.0).send().await {
            Ok(answer) => answer,
            Err(error) => return Answer::Unknown(lost(&error)),
        };
        // Without a position of its own an answer is still one at the position asked for.
        let position = number(&answer, "essaim-position").map_or(at_least, GlobalPosition);
        match answer.status() {
            StatusCode::OK => {
                let version = number(&answer, "etag").map(Version);
                match answer.bytes().await {
                    Ok(_) => Answer::Seen { position, version },
                    Err(error) => Answer::Unknown(lost(&error)),
                }
            }
            StatusCode::NOT_FOUND => Answer::Seen { position, version: None },
            _ => refused(answer).await,
        }
    }
}

/// The number of a header, with or without quotes around it.
fn number(answer: &Response, header: &str) -> Option<u64> {
    answer.headers().get(header)?.to_str().ok()?.trim_matches('"').parse().ok()
}

async fn done(answer: Response) -> Answer {
    #[derive(Deserialize)]
    struct Done {
        version: u64,
        position: u64,
    }
    match answer.json::<Done>().await {
        Ok(Done { version, position }) => {
            Answer::Done { version: Version(version), position: GlobalPosition(position), changed: true }
        }
        // It died in the middle of its answer, or it is no daemon; the retry tells.
        Err(error) => Answer::Unknown(lost(&error)),
    }
}

async fn refused(answer: Response) -> Answer {
    let status = answer.status();
    let problem: Value = match answer.json().await {
        Ok(problem) => problem,
        Err(error) if status.is_server_error() => return Answer::Unknown(lost(&error)),
        Err(_) => return Answer::Failed(Failed::new("unexpected_status", format!("{status} without a problem"))),
    };
    let code = problem["code"].as_str().unwrap_or_default();
    let failed = |class| Failed::new(class, format!("{status}: {}", problem["detail"].as_str().unwrap_or(code)));
    match (status.as_u16(), code) {
        (503, "overloaded") => Answer::NotExecuted(failed("overloaded")),
        (503, "outcome_unknown") => Answer::Unknown(failed("unknown")),
        (503, _) if problem["outcome"] == "not_executed" => Answer::NotExecuted(failed("not_executed")),
        (503, _) => Answer::Unknown(failed("unknown")),
        (504, _) => Answer::NotExecuted(failed("read_timeout")),
        (412, _) => Answer::NotExecuted(failed("version_mismatch")),
        (409, "idempotency_key_reused") => Answer::Failed(failed("command_id_reused")),
        (404 | 409 | 410 | 422, code) => Answer::Refused { code: code.to_owned() },
        (401 | 403, _) => Answer::Failed(failed("not_allowed")),
        (400..=499, _) => Answer::Failed(failed("invalid")),
        _ => Answer::Failed(failed("failed")),
    }
}

/// Whatever went wrong on the way: the command may have arrived.
fn lost(error: &reqwest::Error) -> Failed {
    let class = if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "unreachable"
    } else {
        "connection_lost"
    };
    Failed::new(class, root_of(error))
}

/// What the system said; the layers above only repeat the address.
fn root_of(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.last().map_or_else(|| error.to_string(), ToString::to_string)
}

#[async_trait]
impl Target for Http {
    fn describe(&self) -> String {
        self.base.clone()
    }

    async fn probe(&self) -> Result<(), TargetError> {
        self.ask("/livez", CONNECT_TIMEOUT).await.map(drop)
    }

    /// Asks as a reader and as one who writes, who is refused before his empty body is. As an operator it asks anyway,
    /// how far the log is.
    async fn admits(&self) -> Result<(), TargetError> {
        self.ask("/v1/payments?limit=1", TIMEOUT).await?;
        if self.bearer.is_none() {
            return Ok(());
        }
        let path = "/v1/payments";
        let nothing = self.client.post(format!("{}{path}", self.base)).json(&json!({}));
        match self.sent(nothing, path).await {
            Err(refused @ TargetError::Refused { .. }) => Err(refused),
            _ => Ok(()),
        }
    }

    fn principal(&self) -> &str {
        self.bearer.as_ref().map_or(ANONYMOUS, Bearer::subject)
    }

    async fn look(&self) -> Look {
        let told = async { self.ask("/metrics", LOOK_TIMEOUT).await.ok()?.text().await.ok() };
        told.await.map(|text| exposition::look(&text)).unwrap_or_default()
    }

    async fn head(&self) -> Result<GlobalPosition, TargetError> {
        let answer = self.ask("/v1/events?limit=1", TIMEOUT).await?;
        number(&answer, "essaim-position").map(GlobalPosition).ok_or_else(|| TargetError::Unexpected {
            what: format!("{}/v1/events does not tell the head of a log: is this a daemon of ours?", self.base),
        })
    }

    async fn events(&self, after: GlobalPosition) -> Result<Vec<LoggedEvent>, TargetError> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            position: GlobalPosition,
            event_id: Uuid,
            category: String,
            key: String,
            version: Version,
            r#type: String,
            data: Box<RawValue>,
            metadata: Origin,
            recorded_at: DateTime<Utc>,
        }
        #[derive(Deserialize)]
        struct Origin {
            command_id: CommandId,
        }
        let path = format!("/v1/events?after={after}&limit=1000");
        let page: Page = self.json(self.ask(&path, TIMEOUT).await?).await?;
        let logged = |item: Item| LoggedEvent {
            position: item.position,
            event_id: item.event_id,
            stream: StreamId::new(&item.category, &item.key),
            version: item.version,
            command: item.metadata.command_id,
            recorded_at: item.recorded_at,
            contents: Contents::of(&item.r#type, item.data.get()),
        };
        Ok(page.items.into_iter().map(logged).collect())
    }

    /// By digests: of the rows as they are shown, and as they are after a rebuild.
    async fn read_models(&self, position: GlobalPosition) -> Result<ReadModels, TargetError> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<Named>,
        }
        #[derive(Deserialize)]
        struct Named {
            name: String,
        }
        let path = "/v1/payments?limit=1";
        let wait = self.client.get(format!("{}{path}", self.base)).timeout(REBUILD_TIMEOUT);
        let wait = wait.header("essaim-at-least", position.0).header("essaim-wait-ms", CATCH_UP_MS);
        self.sent(wait, path).await?;
        let list: List = self.json(self.ask("/v1/admin/projections", TIMEOUT).await?).await?;
        let mut found = ReadModels::default();
        for Named { name } in list.items {
            let (shown_at, shown) = self.digest(&name).await?;
            let path = format!("/v1/admin/projections/{name}/rebuild");
            let rebuild = self.client.post(format!("{}{path}", self.base)).timeout(REBUILD_TIMEOUT);
            self.sent(rebuild, &path).await?;
            let (folded_at, folded) = self.digest(&name).await?;
            if shown_at == folded_at && shown != folded {
                found.findings.add(Finding::DigestDiffers { model: name.clone(), position: shown_at, shown, folded });
            }
            found.names.push(name);
        }
        Ok(found)
    }

    async fn about(&self) -> About {
        #[derive(Default, Deserialize)]
        struct Status {
            essaim: Option<String>,
            optimised: Option<bool>,
            database: String,
            durability: Vec<Setting>,
        }
        // An earlier release does not know the question.
        let told = async { self.json(self.ask("/v1/admin/status", TIMEOUT).await?).await };
        let Status { essaim, optimised, database, durability } = told.await.unwrap_or_default();
        let durability = durability.into_iter().map(|Setting { name, value }| (name, value)).collect();
        About { database, server: essaim, optimised, durability }
    }

    async fn gone(&self) -> String {
        let mut silent_since = None;
        loop {
            tokio::time::sleep(PROBE_EVERY).await;
            match self.still_admits().await {
                Ok(()) => silent_since = None,
                // A token does not become good again.
                Err(TargetError::Refused { what }) => return what,
                Err(error) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= PATIENCE {
                        return format!("{error}, for {} s", PATIENCE.as_secs());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A daemon that knows one read model, whose digest is `shown` until it is rebuilt and `folded` from then on.
    async fn daemon(shown: &'static str, folded: &'static str) -> Http {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut digest = shown;
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                let line = String::from_utf8_lossy(&request[..length]).lines().next().unwrap().to_owned();
                let body = match line.as_str() {
                    line if line.contains("/digest ") => json!({"name": "rows", "position": 7, "digest": digest}),
                    line if line.contains("/rebuild ") => {
                        digest = folded;
                        json!({"name": "rows", "rebuilt": true})
                    }
                    _ => json!({"items": [{"name": "rows"}]}),
                };
                let body = body.to_string();
                let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\n";
                let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Http::new(&url, 1, None).unwrap()
    }

    #[tokio::test]
    async fn a_read_model_that_a_rebuild_makes_otherwise_is_found_with_both_digests() {
        let http = daemon("aa", "bb").await;

        let found = http.read_models(GlobalPosition(7)).await.unwrap();

        let (model, position) = ("rows".to_owned(), GlobalPosition(7));
        let (shown, folded) = ("aa".to_owned(), "bb".to_owned());
        assert_eq!(found.findings.kept(), [Finding::DigestDiffers { model, position, shown, folded }]);
    }

    #[tokio::test]
    async fn a_read_model_that_a_rebuild_leaves_as_it_is_passes() {
        let found = daemon("aa", "aa").await.read_models(GlobalPosition(7)).await.unwrap();

        assert!(found.findings.is_empty());
        assert_eq!(found.names, ["rows"]);
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_say_what_it_is_leaves_it_open() {
        let about = daemon("aa", "aa").await.about().await;

        assert_eq!(about, About::default());
    }
}
