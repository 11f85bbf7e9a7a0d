//! This file decides who asks, and whether he may.
//!
//! ```text
//! settings   whose tokens are taken          issuer   its discovery document and its keys, over HTTP
//! token      what a token must be            keys     kept, refreshed, kept while the issuer is down
//! roles      the role that each route needs
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Uri, header};
use metrics::counter;
use uuid::Uuid;

use self::issuer::{Issuer, IssuerError};
use self::keys::Keys;
pub(crate) use self::roles::{ADMIN, needed};
use self::settings::Settings;
use self::token::{Refused, Verifier, bearer};
use super::config::Config;
use super::failure::Failure;
use super::problem::{Problem, pages};
use super::request::headers::principal;
use crate::clock::SystemClock;
use crate::engine::Check;

mod issuer;
mod keys;
mod roles;
pub(crate) mod settings;
mod token;

/// What everything is below that only callers who are known may use; the rest explains the daemon or watches it.
const GUARDED: &str = "/v1";

/// Whether tokens are asked for, and of which issuer.
#[derive(Clone)]
pub struct Authentication(Option<Arc<Verifier>>);

impl Authentication {
    /// Nobody has to say who they are; everybody may do everything.
    pub fn off() -> Self {
        Self(None)
    }

    /// As configured.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the configuration cannot be meant.
    pub fn of(config: &Config) -> Result<Self, Failure> {
        let Some(settings) = Settings::of(config)? else { return Ok(Self::off()) };
        let issuer = Issuer::new(&settings).map_err(|error| Failure::Stopped(error.to_string()))?;
        let verifier = Verifier::new(Arc::new(Keys::new(issuer)), settings, Arc::new(SystemClock));
        Ok(Self(Some(Arc::new(verifier))))
    }

    /// Whether tokens can be verified; none where none are asked for. Without a key the issuer is asked for some.
    pub(crate) async fn health(&self) -> Option<Check> {
        let keys = self.0.as_ref()?.keys();
        let (ok, detail) = match keys.usable().await {
            Ok(number) => (true, format!("{number} keys of the issuer")),
            Err(why) => {
                (false, format!("no key of the token issuer: {why}; `essaim doctor` checks auth_issuer and its keys"))
            }
        };
        Some(Check { name: "tokens".into(), ok, detail })
    }

    async fn caller(&self, headers: &HeaderMap, uri: &Uri) -> Result<Caller, Problem> {
        let Some(verifier) = &self.0 else { return Caller::unproven(headers) };
        let verified = match bearer(headers, uri) {
            Ok(token) => verifier.verify(token).await,
            Err(refused) => Err(refused),
        };
        verified.map_err(unauthorized)
    }
}

/// How many keys of the issuer can be used.
///
/// # Errors
/// [`IssuerError`] when it cannot be asked, or none can.
pub(crate) async fn usable_keys(settings: &Settings) -> Result<usize, IssuerError> {
    let issuer = Issuer::new(settings).map_err(IssuerError::NoClient)?;
    Ok(issuer.keys().await?.len())
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The `sub` of the token; while authentication is off, what the client says, else `anonymous`.
    pub principal: String,
    /// The organisation he belongs to.
    pub organization_id: Option<Uuid>,
    /// What he may do.
    pub roles: BTreeSet<String>,
}

impl Caller {
    fn unproven(headers: &HeaderMap) -> Result<Self, Problem> {
        let principal = principal(headers)?.to_owned();
        Ok(Self { principal, organization_id: None, roles: [ADMIN.to_owned()].into() })
    }

    /// Whether he has this role; an `admin` has every one.
    pub(crate) fn has(&self, role: &str) -> bool {
        self.roles.contains(role) || self.roles.contains(ADMIN)
    }

    /// Lets pass who may give these roles to somebody: one that opens something here, only who has it.
    ///
    /// # Errors
    /// `forbidden`, with the role.
    pub(crate) fn may_give<'a>(&self, roles: impl IntoIterator<Item = &'a str>) -> Result<(), Problem> {
        let missing = roles.into_iter().find(|role| roles::opens_something(role) && !self.has(role));
        missing.map_or(Ok(()), |role| {
            let detail = format!("only who has the role {role} may give it to somebody");
            Err(Problem::new("forbidden", detail))
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // A route outside of the guard has no caller, and none may be made up.
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::new("internal", "this route does not know who asks"))
    }
}

/// Lets through who may, with the [`Caller`] in the request's extensions.
///
/// # Errors
/// A problem that says what is missing: a token, a role, or the method.
pub(super) async fn guard(authentication: &Authentication, request: &mut Request) -> Result<(), Problem> {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let path = route.as_ref().map_or(request.uri().path(), MatchedPath::as_str);
    if !is_guarded(path) {
        return Ok(());
    }
    let caller = authentication.caller(request.headers(), request.uri()).await?;
    // An address that leads nowhere needs no role: it is answered 404.
    if let (Some(route), Some(_)) = (&route, &authentication.0) {
        match roles::needed(request.method(), route.as_str()) {
            Some(role) if caller.has(role) => {}
            Some(role) => return Err(forbidden(role)),
            None => return Err(undeclared(route.as_str())),
        }
    }
    request.extensions_mut().insert(caller);
    Ok(())
}

/// Whether only callers who are known may use this path, or route.
pub(super) fn is_guarded(path: &str) -> bool {
    path.strip_prefix(GUARDED).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// RFC 6750 §3.1: who brought no token is told how to, without an error code.
fn unauthorized(refused: Refused) -> Problem {
    let (reason, detail) = refused.told();
    counter!("essaim_tokens_refused_total", "reason" => reason).increment(1);
    let challenge = match refused {
        Refused::Unavailable => return Problem::issuer_unavailable(detail),
        Refused::Missing | Refused::Scheme => "Bearer realm=\"essaim\"".to_owned(),
        _ => format!("Bearer realm=\"essaim\", error=\"invalid_token\", error_description=\"{detail}\""),
    };
    challenged("unauthenticated", detail.to_owned(), &challenge)
}

fn forbidden(role: &str) -> Problem {
    counter!("essaim_tokens_refused_total", "reason" => "forbidden").increment(1);
    let challenge = format!("Bearer realm=\"essaim\", error=\"insufficient_scope\", scope=\"{role}\"");
    challenged("forbidden", format!("this needs the role {role}"), &challenge)
}

/// A method that the address does not take, as far as the table knows. What takes it all the same was forgotten in the
/// table, and is not reached.
fn undeclared(route: &str) -> Problem {
    let methods = roles::methods(route).join(",");
    if methods.is_empty() {
        return Problem::new("forbidden", "nobody may do this: it declares no role");
    }
    let allow = HeaderValue::from_str(&methods).expect("methods are ASCII");
    pages::no_such_method().with(header::ALLOW, allow)
}

fn challenged(code: &'static str, detail: String, challenge: &str) -> Problem {
    let challenge = HeaderValue::from_str(challenge).expect("it is made of the texts above, which are ASCII");
    Problem::new(code, detail).with(header::WWW_AUTHENTICATE, challenge)
}
