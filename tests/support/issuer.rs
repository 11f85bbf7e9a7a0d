//! An issuer of tokens that a test runs, with a discovery document and a key set, and its keys.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use essaim::clock::{Clock, SystemClock};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Whom the tokens are meant for.
pub const AUDIENCE: &str = "essaim";
/// The organisation that they name.
pub const OWN: &str = "8a524f3a-9d5e-4c7b-8a1f-2d116f0f2e44";

/// A key of the issuer, or of somebody else.
#[derive(Clone)]
pub struct Key {
    pub id: &'static str,
    pub algorithm: Algorithm,
    secret: EncodingKey,
    public: Value,
}

impl Key {
    pub fn new(id: &'static str, algorithm: Algorithm) -> Self {
        // RFC 5208: in front of an RSA key of 2,048 bits stand 26 bytes that say what it is.
        const RSA_WRAPPING: usize = 26;
        let (secret, own) = match algorithm {
            Algorithm::ES256 => {
                let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
                (EncodingKey::from_ec_der(pair.serialized_der()), None)
            }
            Algorithm::EdDSA => {
                let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
                let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
                // RFC 8037 §2.
                let own = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "x": x});
                (EncodingKey::from_ed_der(pair.serialized_der()), Some(own))
            }
            _ => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
                (EncodingKey::from_rsa_der(&pair.serialized_der()[RSA_WRAPPING..]), None)
            }
        };
        let derived = || serde_json::to_value(Jwk::from_encoding_key(&secret, algorithm).unwrap()).unwrap();
        let mut public = own.unwrap_or_else(derived);
        public["kid"] = json!(id);
        Self { id, algorithm, secret, public }
    }

    pub fn public(&self) -> Value {
        self.public.clone()
    }

    pub fn header(&self) -> Header {
        Header { kid: Some(self.id.into()), ..Header::new(self.algorithm) }
    }

    pub fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    pub fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.secret).unwrap()
    }
}

/// An issuer with a discovery document and a key set, and how often the key set was asked for.
#[derive(Clone)]
pub struct Issuer {
    pub address: String,
    pub keys: Arc<Mutex<Vec<Value>>>,
    pub asked: Arc<AtomicU64>,
    pub is_down: Arc<AtomicBool>,
}

impl Issuer {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let keys = Arc::new(Mutex::new(keys.iter().map(|key| key.public()).collect()));
        let issuer = Self { address, keys, asked: Arc::default(), is_down: Arc::default() };
        let routes = axum::Router::new()
            .route("/.well-known/openid-configuration", get(discovery))
            .route("/keys", get(key_set))
            .with_state(issuer.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        issuer
    }

    /// The claims of a token that is as it should be.
    pub fn claims(&self, roles: &[&str]) -> Value {
        let now = SystemClock.now().timestamp();
        json!({
            "iss": self.address, "aud": AUDIENCE, "sub": "ann", "exp": now + 300, "iat": now,
            "organization_id": OWN, "roles": roles,
        })
    }
}

async fn discovery(State(issuer): State<Issuer>) -> Result<Json<Value>, StatusCode> {
    if issuer.is_down.load(Ordering::SeqCst) {
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(Json(json!({ "issuer": issuer.address, "jwks_uri": format!("{}/keys", issuer.address) })))
}

async fn key_set(State(issuer): State<Issuer>) -> Json<Value> {
    issuer.asked.fetch_add(1, Ordering::SeqCst);
    Json(json!({ "keys": *issuer.keys.lock().await }))
}
