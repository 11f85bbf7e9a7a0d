//! This file verifies bearer tokens: RFC 6750 for how they come, RFC 7519 and RFC 8725 for what they must be.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderMap, Uri, header};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde_json::Value;
use uuid::Uuid;

use super::Caller;
use super::keys::{Keys, NoKey};
use super::settings::Settings;
use crate::clock::SharedClock;
use crate::daemon::request::uuid;

/// Longer ones are not looked into.
const MAX_BYTES: usize = 16_384;
/// OpenID Connect Core §2: `sub` has at most so many ASCII characters.
const MAX_SUBJECT: usize = 255;
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Why a token is not taken; one label of a metric each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Missing,
    Scheme,
    Repeated,
    InQuery,
    TooLong,
    Malformed,
    Header,
    Algorithm,
    UnknownKey,
    KeyMismatch,
    Signature,
    Expired,
    NotYetValid,
    Issuer,
    Audience,
    Claims,
    Subject,
    Organization,
    Roles,
    /// The issuer's keys are not here yet: nobody's fault, and to be tried again.
    Unavailable,
}

impl Refused {
    /// The label, and what is told to the client: never a part of the token.
    pub(super) fn told(self) -> (&'static str, &'static str) {
        match self {
            Self::Missing => ("missing", "there is no bearer token"),
            Self::Scheme => ("scheme", "the Authorization header is not of the scheme Bearer"),
            Self::Repeated => ("repeated", "there is more than one Authorization header"),
            Self::InQuery => {
                ("in_query", "a token in the address would end up in logs; send it in the Authorization header")
            }
            Self::TooLong => ("too_long", "the token is longer than 16384 bytes"),
            Self::Malformed => ("malformed", "the token is no signed JWT"),
            Self::Header => ("header", "the token's header names a type, a key or an extension that is not taken"),
            Self::Algorithm => ("algorithm", "the token is not signed with RS256, ES256 or EdDSA"),
            Self::UnknownKey => ("unknown_key", "the issuer has no such key"),
            Self::KeyMismatch => ("key_mismatch", "the key is for another algorithm"),
            Self::Signature => ("signature", "the signature is wrong"),
            Self::Expired => ("expired", "the token has expired"),
            Self::NotYetValid => ("not_yet_valid", "the token is not valid yet"),
            Self::Issuer => ("issuer", "the token is of another issuer"),
            Self::Audience => ("audience", "the token is meant for others"),
            Self::Claims => ("claims", "iss, aud, exp or sub is missing, or a claim is of the wrong type"),
            Self::Subject => ("subject", "sub must be 1 to 255 visible ASCII characters"),
            Self::Organization => ("organization", "the organization must be a UUID"),
            Self::Roles => ("roles", "the roles must be a list of names"),
            Self::Unavailable => ("unavailable", "the keys of the token issuer cannot be fetched at the moment"),
        }
    }
}

/// The token of a request.
pub(super) fn bearer<'a>(headers: &'a HeaderMap, uri: &Uri) -> Result<&'a str, Refused> {
    if uri.query().is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("access_token"))) {
        return Err(Refused::InQuery);
    }
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Repeated);
    }
    // RFC 9110 §11.1: the scheme is case-insensitive.
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refused::Scheme)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim_matches(' ')) } else { Err(Refused::Scheme) }
}

/// What verifies tokens of one issuer.
pub(super) struct Verifier {
    keys: Arc<Keys>,
    settings: Settings,
    clock: SharedClock,
}

impl Verifier {
    pub(super) fn new(keys: Arc<Keys>, settings: Settings, clock: SharedClock) -> Self {
        Self { keys, settings, clock }
    }

    /// The keys it verifies with.
    pub(super) fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// Whose token this is.
    pub(super) async fn verify(&self, token: &str) -> Result<Caller, Refused> {
        if token.len() > MAX_BYTES {
            return Err(Refused::TooLong);
        }
        if token.split('.').count() != 3 || token.split('.').any(str::is_empty) {
            return Err(Refused::Malformed);
        }
        let header = decode_header(token).map_err(|_| Refused::Malformed)?;
        acceptable(&header)?;
        let key = self.keys.find(header.kid.as_deref(), header.alg).await.map_err(|error| match error {
            NoKey::Unknown => Refused::UnknownKey,
            NoKey::OtherAlgorithm => Refused::KeyMismatch,
            NoKey::Unavailable => Refused::Unavailable,
        })?;
        let token = decode::<Value>(token, &key, &self.validation(header.alg)).map_err(|error| reason(error.kind()))?;
        self.caller(&token.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        // The library would ask the machine's clock; [`Verifier::timely`] asks the daemon's.
        validation.validate_exp = false;
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&[&self.settings.audience]);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation
    }

    /// RFC 7519 §4.1.4 and §4.1.5: until `exp` and from `nbf` on, give or take the leeway, which itself still counts at
    /// both ends.
    fn timely(&self, claims: &Value) -> Result<(), Refused> {
        const MICROS: f64 = 1e6;
        let now = self.clock.now().timestamp_micros() as f64 / MICROS;
        let leeway = self.settings.leeway_seconds as f64;
        let expires = numeric_date(&claims["exp"])?.ok_or(Refused::Claims)?;
        if now > expires + leeway {
            return Err(Refused::Expired);
        }
        match numeric_date(&claims["nbf"])? {
            Some(begins) if now < begins - leeway => Err(Refused::NotYetValid),
            _ => Ok(()),
        }
    }

    fn caller(&self, claims: &Value) -> Result<Caller, Refused> {
        // The library would also take a list of issuers, which RFC 7519 does not know.
        if claims["iss"] != self.settings.issuer.as_str() {
            return Err(Refused::Issuer);
        }
        self.timely(claims)?;
        let subject = claims["sub"].as_str().unwrap_or_default();
        let is_ascii = subject.bytes().all(|byte| byte.is_ascii_graphic());
        if subject.is_empty() || subject.len() > MAX_SUBJECT || !is_ascii {
            return Err(Refused::Subject);
        }
        let organization_id = organization(claim(claims, &self.settings.organization_claim))?;
        let roles = roles(claim(claims, &self.settings.roles_claim))?;
        Ok(Caller { principal: subject.to_owned(), organization_id, roles })
    }
}

/// A time as RFC 7519 §2 has it: seconds since 1970, perhaps with a fraction.
fn numeric_date(claim: &Value) -> Result<Option<f64>, Refused> {
    match claim {
        Value::Null => Ok(None),
        other => other.as_f64().map(Some).ok_or(Refused::Claims),
    }
}

/// A key or an address of keys in the token itself would let anybody bring his own; an extension that is critical and
/// not known makes a token unreadable (RFC 7515 §4.1.11). A type, when there is one, must be that of an access token.
fn acceptable(header: &Header) -> Result<(), Refused> {
    let brings_keys = header.jwk.is_some() || header.jku.is_some() || header.x5u.is_some();
    let types = ["jwt", "at+jwt", "application/at+jwt"];
    let is_of_type = header.typ.as_ref().is_none_or(|found| types.contains(&found.to_ascii_lowercase().as_str()));
    if brings_keys || header.crit.is_some() || header.enc.is_some() || header.zip.is_some() || !is_of_type {
        return Err(Refused::Header);
    }
    if ALGORITHMS.contains(&header.alg) { Ok(()) } else { Err(Refused::Algorithm) }
}

fn reason(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::NotYetValid,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::InvalidAlgorithm => Refused::Algorithm,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => Refused::Claims,
        _ => Refused::Malformed,
    }
}

/// A claim by its name, else by the path that the dots in it make: names may hold dots themselves.
fn claim<'a>(claims: &'a Value, name: &str) -> &'a Value {
    match claims.get(name) {
        Some(found) => found,
        None => name.split('.').fold(claims, |value, part| &value[part]),
    }
}

fn organization(claim: &Value) -> Result<Option<Uuid>, Refused> {
    match claim {
        Value::Null => Ok(None),
        Value::String(text) => uuid(text).map(Some).ok_or(Refused::Organization),
        _ => Err(Refused::Organization),
    }
}

fn roles(claim: &Value) -> Result<BTreeSet<String>, Refused> {
    match claim {
        Value::Null => Ok(BTreeSet::new()),
        Value::Array(names) => {
            names.iter().map(|name| name.as_str().map(str::to_owned).ok_or(Refused::Roles)).collect()
        }
        _ => Err(Refused::Roles),
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta, Utc};
    use serde_json::json;

    use super::*;
    use crate::daemon::auth::issuer::Issuer;
    use crate::daemon::config::layers::Layers;
    use crate::testing::VirtualClock;

    const NOON: &str = "2026-11-22T12:00:00Z";

    /// One that is asked this much after noon; the leeway is 30 s.
    fn verifier(after_noon: TimeDelta) -> Verifier {
        let flags = [("auth_issuer", "https://id.example"), ("auth_audience", "essaim"), ("auth_leeway_seconds", "30")];
        let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let config = Layers { flags, ..Layers::default() }.load().unwrap().config;
        let settings = Settings::of(&config).unwrap().unwrap();
        let keys = Keys::new(Issuer::new(&settings).unwrap());
        let noon: DateTime<Utc> = NOON.parse().unwrap();
        Verifier::new(Arc::new(keys), settings, VirtualClock::starting_at(noon + after_noon, 1))
    }

    fn seconds_of_noon() -> i64 {
        NOON.parse::<DateTime<Utc>>().unwrap().timestamp()
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_taken_to_the_very_end_of_the_leeway_and_not_beyond() {
        let claims = json!({"iss": "https://id.example", "sub": "ann", "exp": seconds_of_noon()});
        let asked = |after_noon| verifier(after_noon).caller(&claims).map(|_| ());
        let end = TimeDelta::seconds(30);

        assert_eq!(asked(end), Ok(()));
        assert_eq!(asked(end + TimeDelta::microseconds(1)), Err(Refused::Expired));
        assert_eq!(asked(end + TimeDelta::seconds(1)), Err(Refused::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_taken_from_the_very_start_of_the_leeway_and_not_before() {
        let (noon, later) = (seconds_of_noon(), seconds_of_noon() + 3_600);
        let claims = json!({"iss": "https://id.example", "sub": "ann", "exp": later, "nbf": noon});
        let asked = |after_noon| verifier(after_noon).caller(&claims).map(|_| ());
        let start = TimeDelta::seconds(-30);

        assert_eq!(asked(start), Ok(()));
        assert_eq!(asked(start - TimeDelta::microseconds(1)), Err(Refused::NotYetValid));
        assert_eq!(asked(start - TimeDelta::seconds(1)), Err(Refused::NotYetValid));
    }

    #[tokio::test(start_paused = true)]
    async fn times_may_have_a_fraction_and_must_be_numbers() {
        let with = |name: &str, value: Value| {
            let mut claims = json!({"iss": "https://id.example", "sub": "ann", "exp": seconds_of_noon() + 1});
            claims[name] = value;
            verifier(TimeDelta::zero()).caller(&claims).map(|_| ())
        };

        assert_eq!(with("exp", json!(seconds_of_noon() as f64 - 29.5)), Ok(()));
        assert_eq!(with("exp", json!(seconds_of_noon() as f64 - 30.5)), Err(Refused::Expired));
        for (name, wrong) in [("exp", json!("soon")), ("exp", Value::Null), ("nbf", json!("soon")), ("nbf", json!([]))]
        {
            assert_eq!(with(name, wrong.clone()), Err(Refused::Claims), "{name} {wrong}");
        }
    }

    #[test]
    fn a_claim_is_found_by_its_name_else_by_its_path() {
        let claims = json!({"realm_access": {"roles": ["a"]}, "https://x.example/roles": ["b"]});

        assert_eq!(roles(claim(&claims, "realm_access.roles")), Ok(["a".to_owned()].into()));
        assert_eq!(roles(claim(&claims, "https://x.example/roles")), Ok(["b".to_owned()].into()));
        assert_eq!(roles(claim(&claims, "realm_access.no.such")), Ok(BTreeSet::new()));
    }
}
