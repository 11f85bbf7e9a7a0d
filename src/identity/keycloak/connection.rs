//! This file is one request to Keycloak: with a token, within limits, and what each way of ending means.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use reqwest::header::{AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Method, RequestBuilder, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::KeycloakOptions;
use super::address::Address;
use super::answer::{Answer, Unread, quoted, repeats_encoded};
use super::readiness::Seen;
use super::token::{Token, Tokens};
use crate::identity::{ProviderError, Refusal};

/// Idle connections kept; the synchroniser works a few users at a time.
const MAX_IDLE_CONNECTIONS: usize = 32;

/// Our way to one realm.
pub(super) struct Connection {
    http: Client,
    address: Address,
    realm: String,
    client_id: String,
    client_secret: SecretString,
    tokens: Tokens,
    /// When the realm's profile was last seen to keep our attributes.
    pub(super) profile_seen: Seen,
}

/// How a request ended that reached Keycloak and was understood.
#[derive(Debug)]
pub(super) enum Reply {
    /// Done, or found.
    Done(Answer),
    /// There is no such user.
    Missing,
    /// Another user has one of the values.
    Conflict,
}

/// One request below `/admin/realms/{realm}`.
#[derive(Debug)]
pub(super) struct Ask<'a> {
    method: Method,
    path: &'a [&'a str],
    query: &'a [(&'a str, &'a str)],
    body: Option<Value>,
}

impl<'a> Ask<'a> {
    pub(super) fn get(path: &'a [&'a str], query: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: Method::GET, path, query, body: None }
    }

    pub(super) fn post(path: &'a [&'a str], body: Option<Value>) -> Self {
        Self { method: Method::POST, path, query: &[], body }
    }

    pub(super) fn put(path: &'a [&'a str], body: Value) -> Self {
        Self { method: Method::PUT, path, query: &[], body: Some(body) }
    }

    pub(super) fn delete(path: &'a [&'a str]) -> Self {
        Self { method: Method::DELETE, path, query: &[], body: None }
    }

    fn only_reads(&self) -> bool {
        self.method == Method::GET
    }
}

impl fmt::Display for Ask<'_> {
    /// Without the query, which may name people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} /{}", self.method, self.path.join("/"))
    }
}

impl Connection {
    /// # Errors
    /// [`ProviderError::Configuration`] when the address or the certificates are not taken.
    pub(super) fn new(options: KeycloakOptions) -> Result<Self, ProviderError> {
        let address = Address::parse(options.url.trim(), options.allow_plain_http)?;
        let mut http = Client::builder()
            .redirect(Policy::none())
            .timeout(options.request_timeout)
            .connect_timeout(options.connect_timeout)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .user_agent(concat!("essaim/", env!("CARGO_PKG_VERSION")));
        if address.is_this_machine() {
            http = http.no_proxy();
        }
        if let Some(pem) = &options.certificates {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|_| wrong("the certificates are no PEM"))?;
            http = http.tls_certs_merge(certificates);
        }
        let http = http.build().map_err(|error| wrong(format!("no HTTP client: {}", causes(&error))))?;
        let KeycloakOptions { realm, client_id, client_secret, .. } = options;
        Ok(Self {
            http,
            address,
            realm,
            client_id,
            client_secret,
            tokens: Tokens::default(),
            profile_seen: Seen::default(),
        })
    }

    /// The name of our client, for advice.
    pub(super) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Asks with our token; one that is refused is replaced once.
    ///
    /// # Errors
    /// As described at [`ProviderError`]; a refusal of values is [`Refusal::InvalidUser`].
    pub(super) async fn ask(&self, ask: Ask<'_>) -> Result<Reply, ProviderError> {
        let token = self.token().await?;
        let answer = self.exchange(&ask, &token).await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return self.judge(&ask, answer, &token);
        }
        self.tokens.forget(&token);
        let token = self.token().await?;
        let answer = self.exchange(&ask, &token).await?;
        self.judge(&ask, answer, &token)
    }

    /// The token in force.
    ///
    /// # Errors
    /// [`ProviderError::Configuration`] or [`ProviderError::Unavailable`].
    pub(super) async fn token(&self) -> Result<Arc<Token>, ProviderError> {
        self.tokens.get(|| self.fetch_token()).await
    }

    async fn fetch_token(&self) -> Result<Token, ProviderError> {
        let asked_at = Instant::now();
        let url = self.address.below(&["realms", &self.realm, "protocol", "openid-connect", "token"]);
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
        ];
        let answer = match received(self.http.post(url).form(&form)).await {
            Ok(answer) => answer,
            Err(Lost::NotSent(error)) => return Err(error),
            Err(Lost::Unanswered(detail)) => {
                return Err(ProviderError::Unavailable {
                    retry_after: None,
                    detail: format!("asking for a token: {detail}"),
                });
            }
        };
        self.judge_token(&answer, asked_at)
    }

    fn judge_token(&self, answer: &Answer, asked_at: Instant) -> Result<Token, ProviderError> {
        let status = answer.status;
        if status == StatusCode::OK {
            return answer.json::<Granted>().ok().and_then(|granted| granted.token(asked_at)).ok_or_else(|| {
                wrong("the address answers, but not as the token endpoint of a Keycloak does: correct the address")
            });
        }
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            let detail = format!("asked for a token, it answers {status}");
            return Err(ProviderError::Unavailable { retry_after: answer.retry_after(), detail });
        }
        if status.is_redirection() {
            return Err(self.redirected(answer, None));
        }
        let complaint = answer.complaint().map(|complaint| self.quote(&complaint.text(), None));
        Err(wrong(match (status, complaint) {
            (StatusCode::NOT_FOUND, Some(text)) => {
                format!("the realm {:?} is not there ({text}): correct the realm or the address", quoted(&self.realm))
            }
            (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, Some(text)) => format!(
                "the client {:?} gets no token ({text}): correct its id or secret, or turn its service account on",
                quoted(&self.client_id)
            ),
            _ => format!("the address answers {status}, and not as a Keycloak does: correct the address"),
        }))
    }

    async fn exchange(&self, ask: &Ask<'_>, token: &Token) -> Result<Answer, ProviderError> {
        let realm = ["admin", "realms", &self.realm];
        let url = self.address.below(&realm.iter().chain(ask.path).copied().collect::<Vec<_>>());
        let mut request = self.http.request(ask.method.clone(), url).header(AUTHORIZATION, &token.header);
        if !ask.query.is_empty() {
            request = request.query(ask.query);
        }
        if let Some(body) = &ask.body {
            request = request.json(body);
        }
        match received(request).await {
            Ok(answer) => Ok(answer),
            Err(Lost::NotSent(error)) => Err(error),
            Err(Lost::Unanswered(detail)) => {
                let detail = format!("{ask}: {detail}");
                Err(if ask.only_reads() {
                    ProviderError::Unavailable { retry_after: None, detail }
                } else {
                    ProviderError::OutcomeUnknown { detail }
                })
            }
        }
    }

    fn judge(&self, ask: &Ask<'_>, answer: Answer, token: &Token) -> Result<Reply, ProviderError> {
        let status = answer.status;
        let complaint = answer.complaint();
        let text = complaint.as_ref().map(|complaint| self.quote(&complaint.text(), Some(token)));
        let said = text.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
        let no_keycloak =
            || wrong(format!("{ask} answers {status}{said}, which is not Keycloak's: correct the address"));
        match status.as_u16() {
            200..=299 => Ok(Reply::Done(answer)),
            300..=399 => Err(self.redirected(&answer, Some(token))),
            400 | 413 | 414 | 431 if !ask.only_reads() && (text.is_some() || status != StatusCode::BAD_REQUEST) => {
                let advice = complaint.map_or_else(|| "shorten what the user carries".into(), |said| said.advice());
                let said = text.unwrap_or(status.to_string());
                Err(ProviderError::Permanent {
                    reason: Refusal::InvalidUser,
                    detail: format!("Keycloak refuses it ({said}): {advice}"),
                })
            }
            401 => {
                Err(wrong(format!("{ask}: its own token is refused again; are several servers behind the address?")))
            }
            403 => Err(wrong(format!(
                "{ask} is forbidden: give the service account of {:?} the roles manage-users, view-realm and view-events",
                quoted(&self.client_id)
            ))),
            404 if complaint.is_some_and(|complaint| complaint.is_about_a_user()) => Ok(Reply::Missing),
            409 if text.is_some() => Ok(Reply::Conflict),
            408 | 429 | 503 => Err(ProviderError::RetryLater {
                retry_after: answer.retry_after(),
                detail: format!("{ask} answers {status}{said}"),
            }),
            500..=599 if ask.only_reads() => Err(ProviderError::RetryLater {
                retry_after: answer.retry_after(),
                detail: format!("{ask} answers {status}{said}"),
            }),
            500..=599 => Err(ProviderError::OutcomeUnknown { detail: format!("{ask} answers {status}{said}") }),
            _ => Err(no_keycloak()),
        }
    }

    fn redirected(&self, answer: &Answer, token: Option<&Token>) -> ProviderError {
        let target = answer.headers.get(LOCATION).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let target = target.map_or_else(|| "nowhere".into(), |target| self.quote(&target, token));
        wrong(format!("the address answers {} to {target}, and redirects are not followed: correct it", answer.status))
    }

    /// Another's text, which may repeat what we sent, as a log can bear it: without our secret, the token that was
    /// sent, and the one in force by now.
    fn quote(&self, text: &str, token: Option<&Token>) -> String {
        let secret = self.client_secret.expose_secret();
        let sent = token.and_then(Token::value);
        let mut text = text.to_owned();
        for (hidden, name) in [
            (secret, "[secret]"),
            (sent.unwrap_or_default(), "[token]"),
            (self.tokens.value().as_deref().unwrap_or_default(), "[token]"),
        ] {
            if !hidden.is_empty() {
                text = text.replace(hidden, name);
            }
        }
        if !secret.is_empty() && repeats_encoded(&text, secret) {
            return "[a text that repeats the secret]".into();
        }
        let words = text.split_whitespace().map(|word| if word.len() > LONGEST_WORD { "[long]" } else { word });
        quoted(&words.collect::<Vec<_>>().join(" "))
    }
}

/// No word of a complaint is as long; a token is.
const LONGEST_WORD: usize = 100;

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("realm", &self.realm)
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

/// What the token endpoint answers.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
    token_type: String,
}

impl Granted {
    fn token(&self, asked_at: Instant) -> Option<Token> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", self.access_token)).ok()?;
        header.set_sensitive(true);
        // A year is as good as for ever, and an `Instant` can be too far away to be one.
        let lifetime = std::time::Duration::from_secs(self.expires_in.min(31_536_000));
        self.token_type.eq_ignore_ascii_case("bearer").then(|| Token::new(header, asked_at, lifetime))
    }
}

/// Why there is no answer.
enum Lost {
    /// Nothing of the request left this machine, or it was never read: the failure in full.
    NotSent(ProviderError),
    /// It may have been read and acted upon.
    Unanswered(String),
}

async fn received(request: RequestBuilder) -> Result<Answer, Lost> {
    let response = request.send().await.map_err(|error| lost(&error.without_url()))?;
    Answer::read(response).await.map_err(|unread| match unread {
        Unread::TooLong => {
            Lost::NotSent(wrong("an answer of more than 1 MiB, which is not Keycloak's: correct the address"))
        }
        Unread::Broken(error) => Lost::Unanswered(causes(&error.without_url())),
    })
}

fn lost(error: &reqwest::Error) -> Lost {
    if let Some(tls) = tls_error(error) {
        let advice = "use a certificate for this very name by an authority known here, or name the authority";
        return Lost::NotSent(wrong(format!("no TLS with it ({tls}): {advice}")));
    }
    if error.is_builder() {
        return Lost::NotSent(wrong(format!("the request cannot be built: {}", causes(error))));
    }
    if error.is_connect() {
        return Lost::NotSent(ProviderError::Unavailable { retry_after: None, detail: causes(error) });
    }
    Lost::Unanswered(causes(error))
}

/// What TLS says, when the handshake failed for a reason that lasts.
fn tls_error(error: &reqwest::Error) -> Option<String> {
    let told = error.is_connect().then(|| chain(error).find_map(told_by_tls))?;
    told.map(|tls| quoted(&tls.to_string()))
}

/// The error of TLS within one of input and output, which may be wrapped in others of its kind.
fn told_by_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.downcast_ref().or_else(|| told_by_tls(inner?))
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// The error and what caused it, on one line.
fn causes(error: &(dyn Error + 'static)) -> String {
    quoted(&chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

fn wrong(detail: impl Into<String>) -> ProviderError {
    ProviderError::Configuration { detail: detail.into() }
}
