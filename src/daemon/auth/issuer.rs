//! This file asks the issuer for its keys: its discovery document, and its key set.

use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::settings::{Settings, trusted};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BYTES: usize = 1 << 20;

/// Why there are no keys of the issuer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// Nothing can be asked from here.
    #[error("no HTTP client can be made")]
    NoClient(#[source] reqwest::Error),
    /// It cannot be reached, or breaks off.
    #[error("{url} does not answer")]
    Unreachable {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    /// It answers something else.
    #[error("{url} answers with status {status}")]
    Status { url: Url, status: u16 },
    /// It answers more than anybody needs.
    #[error("{url} answers more than {MAX_BYTES} bytes")]
    TooLarge { url: Url },
    /// It answers what cannot be read.
    #[error("{url} does not answer with the JSON expected: {what}")]
    NotJson { url: Url, what: String },
    /// It is another one.
    #[error("{url} is the document of the issuer {found:?}, not of the one configured")]
    OtherIssuer { url: Url, found: String },
    /// Its keys are where they cannot be trusted.
    #[error("the issuer's jwks_uri {what}")]
    UntrustedKeys { what: String },
    /// None of its keys is for signatures that are taken.
    #[error("{url} holds no usable key: RSA (RS256), P-256 (ES256) or Ed25519 (EdDSA), for signatures")]
    NoUsableKey { url: Url },
}

/// One key that signatures are verified with.
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// What asks the issuer.
pub(super) struct Issuer {
    http: Client,
    issuer: String,
    jwks_url: Option<Url>,
    allow_http: bool,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuer {
    pub(super) fn new(settings: &Settings) -> Result<Self, reqwest::Error> {
        let http = Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(TIMEOUT);
        // A redirect would lead away from the address that was found trustworthy.
        let http = http.redirect(redirect::Policy::none()).build()?;
        let Settings { issuer, jwks_url, allow_http, .. } = settings.clone();
        Ok(Self { http, issuer, jwks_url, allow_http })
    }

    /// Every usable key, at least one.
    pub(super) async fn keys(&self) -> Result<Vec<Key>, IssuerError> {
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => self.discovered().await?,
        };
        let set: KeySet = self.get(&url).await?;
        let keys: Vec<Key> = set.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(IssuerError::NoUsableKey { url }) } else { Ok(keys) }
    }

    /// OpenID Connect Discovery 1.0 §4.
    async fn discovered(&self) -> Result<Url, IssuerError> {
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let url = trusted(&url, self.allow_http).map_err(|what| IssuerError::UntrustedKeys { what })?;
        let found: Discovery = self.get(&url).await?;
        if found.issuer != self.issuer {
            return Err(IssuerError::OtherIssuer { url, found: found.issuer });
        }
        trusted(&found.jwks_uri, self.allow_http).map_err(|what| IssuerError::UntrustedKeys { what })
    }

    async fn get<T: DeserializeOwned>(&self, url: &Url) -> Result<T, IssuerError> {
        let unreachable =
            |source: reqwest::Error| IssuerError::Unreachable { url: url.clone(), source: source.without_url() };
        let mut answer = self.http.get(url.clone()).send().await.map_err(unreachable)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(IssuerError::Status { url: url.clone(), status: answer.status().as_u16() });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(IssuerError::TooLarge { url: url.clone() });
            }
            body.extend_from_slice(&chunk);
        }
        let not_json = |error: serde_json::Error| IssuerError::NotJson { url: url.clone(), what: error.to_string() };
        serde_json::from_slice(&body).map_err(not_json)
    }
}

/// Keys for other ends stand in the same set; they are passed over. What a key is decides its algorithm, never a token.
fn usable(mut key: Value) -> Option<Key> {
    // RFC 9864 §2.2 calls EdDSA over this curve so; the library knows the older name only.
    if key["alg"] == "Ed25519" && key["crv"] == "Ed25519" {
        key["alg"] = "EdDSA".into();
    }
    let key: Jwk = serde_json::from_value(key).ok()?;
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let common = &key.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|found| *found == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|found| found.contains(&KeyOperations::Verify));
    let named = common.key_algorithm.as_ref().is_none_or(|found| found.to_string() == format!("{algorithm:?}"));
    if !(for_signatures && verifies && named) {
        return None;
    }
    Some(Key { id: common.key_id.clone(), algorithm, key: DecodingKey::from_jwk(&key).ok()? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The public key of RFC 8037 §A.2, under this name of its algorithm.
    fn edwards(algorithm: Option<&str>) -> Value {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let mut key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "d", "x": x});
        if let Some(algorithm) = algorithm {
            key["alg"] = algorithm.into();
        }
        key
    }

    #[test]
    fn a_key_on_the_edwards_curve_is_taken_under_both_names_of_its_algorithm_and_under_none() {
        for named in [None, Some("EdDSA"), Some("Ed25519")] {
            let key = usable(edwards(named));
            assert!(key.is_some_and(|key| key.algorithm == Algorithm::EdDSA), "{named:?}");
        }
        for other in ["ES256", "Ed448", "none"] {
            assert!(usable(edwards(Some(other))).is_none(), "{other}");
        }
    }

    #[test]
    fn keys_for_other_ends_are_passed_over() {
        let with = |name: &str, value: Value| {
            let mut key = edwards(None);
            key[name] = value;
            usable(key).is_some()
        };

        assert!(with("use", json!("sig")) && with("key_ops", json!(["verify"])));
        assert!(!with("use", json!("enc")) && !with("key_ops", json!(["sign"])) && !with("kty", json!("oct")));
    }
}
