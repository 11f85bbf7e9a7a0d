//! This file keeps the issuer's keys: fetched once for all who wait, again for a key id that is not known, and kept
//! while the issuer is down.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::issuer::{Issuer, Key};
use crate::causes::with_causes;

/// Between two looks for a key that is not known: who sends invented ids must not make us hammer the issuer.
const BETWEEN_REFRESHES: Duration = Duration::from_secs(60);
/// Between two looks as long as there is no key at all.
const BETWEEN_FIRST_TRIES: Duration = Duration::from_secs(1);
/// Keys this old are looked at again behind a request, so that one withdrawn by the issuer does not serve for ever.
const FRESH_FOR: Duration = Duration::from_secs(600);

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer has none of this id.
    Unknown,
    /// The key of this id is for another algorithm.
    OtherAlgorithm,
    /// The issuer was never reached, so that nobody can be recognised.
    Unavailable,
}

/// The keys of the issuer.
pub(super) struct Keys {
    issuer: Issuer,
    held: RwLock<Held>,
    /// When the issuer was last asked; held while it is being asked.
    asked: Mutex<Option<Instant>>,
    /// Why it had no answer the last time.
    why: RwLock<Option<String>>,
}

#[derive(Default)]
struct Held {
    keys: Vec<Key>,
    since: Option<Instant>,
}

impl Keys {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer, held: RwLock::default(), asked: Mutex::default(), why: RwLock::default() }
    }

    /// How many keys there are. Where none ever was, the issuer is asked first.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn usable(self: &Arc<Self>) -> Result<usize, String> {
        if self.number().is_none() {
            // In a task of its own, as in `find`.
            let _ = tokio::spawn(Arc::clone(self).refresh(Instant::now())).await;
        }
        let why = || self.why.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.number().ok_or_else(|| why().unwrap_or_else(|| "the issuer is still being asked".into()))
    }

    fn number(&self) -> Option<usize> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.since.map(|_| held.keys.len())
    }

    /// The key of this id, or without an id the only one of this algorithm.
    pub(super) async fn find(self: &Arc<Self>, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, NoKey> {
        match self.held(id, algorithm) {
            Err(NoKey::OtherAlgorithm) => return Err(NoKey::OtherAlgorithm),
            Err(_) => {}
            Ok(key) => {
                // Who is being asked already need not be asked by every request meanwhile.
                if self.is_stale() && self.asked.try_lock().is_ok() {
                    tokio::spawn(Arc::clone(self).refresh(Instant::now()));
                }
                return Ok(key);
            }
        }
        // In a task of its own: a client that goes away must not take along what others wait for.
        let asked = tokio::spawn(Arc::clone(self).refresh(Instant::now())).await;
        if asked.is_err() {
            return Err(NoKey::Unavailable);
        }
        self.held(id, algorithm)
    }

    fn held(&self, id: Option<&str>, algorithm: Algorithm) -> Result<DecodingKey, NoKey> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if held.since.is_none() {
            return Err(NoKey::Unavailable);
        }
        let of_id = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut fitting = held.keys.iter().filter(of_id).filter(|key| key.algorithm == algorithm);
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key.key.clone()),
            (None, _) if held.keys.iter().any(|key| id.is_some() && key.id.as_deref() == id) => {
                Err(NoKey::OtherAlgorithm)
            }
            _ => Err(NoKey::Unknown),
        }
    }

    fn is_stale(&self) -> bool {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.since.is_none_or(|since| since.elapsed() > FRESH_FOR)
    }

    /// Asks the issuer, unless somebody did since `wanted` or too lately before.
    async fn refresh(self: Arc<Self>, wanted: Instant) {
        let mut asked = self.asked.lock().await;
        let has_keys = self.held.read().unwrap_or_else(PoisonError::into_inner).since.is_some();
        let pause = if has_keys { BETWEEN_REFRESHES } else { BETWEEN_FIRST_TRIES };
        if asked.is_some_and(|asked| asked >= wanted || asked.elapsed() < pause) {
            return;
        }
        *asked = Some(Instant::now());
        match self.issuer.keys().await {
            Ok(keys) => {
                let held = Held { keys, since: Some(Instant::now()) };
                *self.held.write().unwrap_or_else(PoisonError::into_inner) = held;
            }
            Err(error) => {
                let error = with_causes(&error);
                warn!(error, "the keys of the token issuer cannot be fetched");
                *self.why.write().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        }
        // From the end of a slow attempt: the next one must not follow at its heels.
        *asked = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::response::{IntoResponse, Response};
    use axum::{Json, Router, routing};
    use serde_json::{Value, json};

    use super::*;
    use crate::daemon::auth::settings::Settings;
    use crate::daemon::config::layers::Layers;

    /// An issuer on the loopback: which keys it has, whether it answers, and how often it was asked.
    #[derive(Clone, Default)]
    struct There {
        keys: Arc<Mutex<BTreeSet<&'static str>>>,
        is_down: Arc<AtomicBool>,
        asked: Arc<AtomicU32>,
    }

    async fn key_set(State(there): State<There>) -> Response {
        there.asked.fetch_add(1, Ordering::SeqCst);
        if there.is_down.load(Ordering::SeqCst) {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        // The public key of RFC 8037 §A.2; here only its id matters.
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let key = |id: &&str| json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": id, "x": x});
        let keys: Vec<Value> = there.keys.lock().unwrap().iter().map(key).collect();
        Json(json!({ "keys": keys })).into_response()
    }

    impl There {
        async fn with(keys: &[&'static str]) -> (Self, Arc<Keys>) {
            let there = Self::default();
            there.keys.lock().unwrap().extend(keys);
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = format!("http://{}", listener.local_addr().unwrap());
            let routes = Router::new().route("/keys", routing::get(key_set)).with_state(there.clone());
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let jwks = format!("{address}/keys");
            let flags = [("auth_issuer", address.as_str()), ("auth_audience", "essaim"), ("auth_jwks_url", &jwks)];
            let flags = flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            let config = Layers { flags, ..Layers::default() }.load().unwrap().config;
            let settings = Settings::of(&config).unwrap().unwrap();
            (there, Arc::new(Keys::new(Issuer::new(&settings).unwrap())))
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::SeqCst)
        }
    }

    async fn find(keys: &Arc<Keys>, id: &str) -> Result<(), NoKey> {
        keys.find(Some(id), Algorithm::EdDSA).await.map(drop)
    }

    /// Time goes on at once, while the network keeps its own.
    async fn pass(time: Duration) {
        tokio::time::pause();
        tokio::time::advance(time).await;
        tokio::time::resume();
    }

    #[tokio::test]
    async fn a_key_that_is_new_is_fetched_once_the_minute_is_over_and_all_wait_for_one_fetch() {
        let (there, keys) = There::with(&["old"]).await;
        find(&keys, "old").await.unwrap();
        there.keys.lock().unwrap().insert("new");

        assert_eq!(find(&keys, "new").await, Err(NoKey::Unknown));
        pass(BETWEEN_REFRESHES).await;
        let found = futures::future::join_all((0..16).map(|_| find(&keys, "new"))).await;

        assert!(found.iter().all(Result::is_ok), "{found:?}");
        assert_eq!(there.asked(), 2);
    }

    #[tokio::test]
    async fn ids_that_nobody_has_make_us_ask_once_a_minute_and_no_more() {
        let (there, keys) = There::with(&["old"]).await;
        find(&keys, "old").await.unwrap();

        for minute in 1..4 {
            pass(BETWEEN_REFRESHES).await;
            for _ in 0..50 {
                assert_eq!(find(&keys, "invented").await, Err(NoKey::Unknown));
            }
            assert_eq!(there.asked(), 1 + minute);
        }
    }

    #[tokio::test]
    async fn an_issuer_that_is_down_keeps_the_keys_it_gave() {
        let (there, keys) = There::with(&["old"]).await;
        find(&keys, "old").await.unwrap();
        there.is_down.store(true, Ordering::SeqCst);

        pass(2 * FRESH_FOR).await;
        assert_eq!(find(&keys, "new").await, Err(NoKey::Unknown), "it is asked, and does not answer");

        assert_eq!(there.asked(), 2);
        assert_eq!(find(&keys, "old").await, Ok(()));
        assert_eq!(keys.usable().await, Ok(1));
    }

    #[tokio::test]
    async fn a_key_that_the_issuer_withdrew_is_not_taken_for_ever() {
        let (there, keys) = There::with(&["old", "leaked"]).await;
        find(&keys, "leaked").await.unwrap();
        there.keys.lock().unwrap().remove("leaked");

        pass(FRESH_FOR + Duration::from_secs(1)).await;
        // Whoever comes first is not made to wait for the look behind the request.
        find(&keys, "old").await.unwrap();
        let looked = async {
            while there.asked() < 2 || keys.asked.try_lock().is_err() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), looked).await.expect("the issuer is asked again");

        assert_eq!(find(&keys, "leaked").await, Err(NoKey::Unknown));
    }

    #[tokio::test]
    async fn as_long_as_there_is_no_key_the_issuer_is_asked_once_a_second() {
        let (there, keys) = There::with(&["old"]).await;
        there.is_down.store(true, Ordering::SeqCst);

        for _ in 0..20 {
            assert_eq!(find(&keys, "old").await, Err(NoKey::Unavailable));
        }
        assert_eq!(there.asked(), 1);
        assert!(keys.usable().await.unwrap_err().contains("status 502"));
        there.is_down.store(false, Ordering::SeqCst);
        pass(BETWEEN_FIRST_TRIES).await;

        assert_eq!(find(&keys, "old").await, Ok(()));
        assert_eq!(there.asked(), 2);
    }
}
