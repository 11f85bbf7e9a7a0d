//! This file is the bearer token for a daemon that asks for one: whose it is, and what a daemon that refuses it needs.

use jsonwebtoken::dangerous::insecure_decode_claims;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

/// OpenID Connect Core §2: `sub` has at most so many ASCII characters.
const MAX_SUBJECT: usize = 255;
/// What a run does, as roles: it writes and reads payments, and reads the log and compares the read models.
const ROLES: &str = "payments:write, payments:read and operator";

/// A token, and who it says asks.
#[derive(Debug, Clone)]
pub struct Bearer {
    authorization: HeaderValue,
    subject: HeaderValue,
}

impl Bearer {
    /// The token of this `Authorization` header. It is not verified, which is for the daemon to do.
    ///
    /// # Errors
    /// When it does not say who asks: ids of commands are derived from that, and nothing could be found in the log.
    pub fn new(authorization: HeaderValue) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Claims {
            sub: String,
        }
        let token = authorization.to_str().unwrap_or_default();
        let claims = insecure_decode_claims::<Claims>(token.trim_start_matches("Bearer "));
        let subject = claims.ok().map(|claims| claims.sub).filter(|subject| {
            (1..=MAX_SUBJECT).contains(&subject.len()) && subject.bytes().all(|byte| byte.is_ascii_graphic())
        });
        let subject = subject.and_then(|subject| HeaderValue::from_str(&subject).ok());
        let subject =
            subject.ok_or("the token does not say whose it is: it is no JWT with a sub, as a daemon takes")?;
        Ok(Self { authorization, subject })
    }

    /// Its owner.
    pub(super) fn subject(&self) -> &str {
        self.subject.to_str().expect("it was made of visible ASCII")
    }

    /// What goes with every request. A daemon that asks for no token takes the owner's name as it is, so that ids of
    /// commands are the same ones.
    pub(super) fn headers(&self) -> HeaderMap {
        let headers =
            [(AUTHORIZATION, &self.authorization), (HeaderName::from_static("essaim-principal"), &self.subject)];
        headers.into_iter().map(|(name, value)| (name, value.clone())).collect()
    }
}

/// What helps against an answer with this status; none where no token does.
pub(super) fn advice(status: StatusCode, has_token: bool) -> Option<String> {
    match (status, has_token) {
        (StatusCode::UNAUTHORIZED, false) => {
            Some(format!("--token-file FILE sends a token, which needs the roles {ROLES}"))
        }
        (StatusCode::UNAUTHORIZED, true) => Some("--token-file needs a newer or another token".to_owned()),
        (StatusCode::FORBIDDEN, _) => Some(format!("--token-file needs a token with the roles {ROLES}")),
        _ => None,
    }
}
