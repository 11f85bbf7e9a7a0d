//! This file keeps the issuer's keys: fetched once for all who wait, again for a key id that is not known, and kept
//! while the issuer is down.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::warn;

use super::issuer::{Issuer, Key};
use crate::daemon::failure::with_causes;

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
}

#[derive(Default)]
struct Held {
    keys: Vec<Key>,
    since: Option<Instant>,
}

impl Keys {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer, held: RwLock::default(), asked: Mutex::default() }
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
            Err(error) => warn!(error = with_causes(&error), "the keys of the token issuer cannot be fetched"),
        }
        // From the end of a slow attempt: the next one must not follow at its heels.
        *asked = Some(Instant::now());
    }
}
