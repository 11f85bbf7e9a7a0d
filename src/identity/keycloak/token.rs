//! This file is our access token: one fetch at a time whoever asks, ahead of its expiry, and again when it is refused.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use reqwest::header::HeaderValue;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::identity::ProviderError;

/// The longest time before its expiry at which a token is fetched anew.
const LONGEST_LEAD: Duration = Duration::from_secs(30);

/// A token as it goes into a header.
pub(super) struct Token {
    /// `Bearer …`, marked as sensitive.
    pub(super) header: HeaderValue,
    refresh_at: Instant,
    expires_at: Instant,
}

impl Token {
    /// One that was asked for at `asked_at` and lives `lifetime` from then. It is fetched anew a fifth of that before
    /// its end, at most 30 s.
    pub(super) fn new(header: HeaderValue, asked_at: Instant, lifetime: Duration) -> Self {
        let expires_at = asked_at + lifetime;
        Self { header, refresh_at: expires_at - (lifetime / 5).min(LONGEST_LEAD), expires_at }
    }

    /// As it was granted, for finding it in texts.
    pub(super) fn value(&self) -> Option<&str> {
        self.header.to_str().ok()?.strip_prefix("Bearer ")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The token in force.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    current: RwLock<Option<Arc<Token>>>,
    fetching: Mutex<Option<Failed>>,
}

/// How the last fetch failed. Whoever waited for it takes its failure, or a thousand callers would each try in turn.
#[derive(Debug)]
struct Failed {
    at: Instant,
    error: ProviderError,
}

impl Tokens {
    /// The token in force, or a fetched one.
    ///
    /// # Errors
    /// The failure of the fetch, its own or the one waited for.
    pub(super) async fn get<F>(&self, fetch: impl FnOnce() -> F) -> Result<Arc<Token>, ProviderError>
    where
        F: Future<Output = Result<Token, ProviderError>>,
    {
        let asked_at = Instant::now();
        let Some(token) = self.alive() else {
            return self.fetched(self.fetching.lock().await, asked_at, fetch).await;
        };
        if asked_at < token.refresh_at {
            return Ok(token);
        }
        // It is still good, so one caller fetches and the others go on; a failure is not repeated before it ends.
        let Ok(fetching) = self.fetching.try_lock() else { return Ok(token) };
        if fetching.as_ref().is_some_and(|failed| failed.at >= token.refresh_at) {
            return Ok(token);
        }
        Ok(self.fetched(fetching, asked_at, fetch).await.unwrap_or(token))
    }

    /// Forgets a token that was refused; the same one only, for it may have been replaced meanwhile.
    pub(super) fn forget(&self, refused: &Arc<Token>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            *current = None;
        }
    }

    /// [`Token::value`] of the token in force.
    pub(super) fn value(&self) -> Option<String> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(current.as_ref()?.value()?.to_owned())
    }

    fn alive(&self) -> Option<Arc<Token>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|token| Instant::now() < token.expires_at)
    }

    async fn fetched<F>(
        &self,
        mut last: MutexGuard<'_, Option<Failed>>,
        asked_at: Instant,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<Token>, ProviderError>
    where
        F: Future<Output = Result<Token, ProviderError>>,
    {
        if let Some(token) = self.alive().filter(|token| Instant::now() < token.refresh_at) {
            return Ok(token);
        }
        if let Some(failed) = last.as_ref().filter(|failed| failed.at > asked_at) {
            return Err(failed.error.clone());
        }
        match fetch().await {
            Ok(token) => {
                *last = None;
                let token = Arc::new(token);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&token));
                Ok(token)
            }
            Err(error) => {
                *last = Some(Failed { at: Instant::now(), error: error.clone() });
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Source {
        fetches: AtomicU32,
    }

    impl Source {
        async fn token(&self) -> Result<Token, ProviderError> {
            let asked_at = Instant::now();
            let n = self.fetches.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(100)).await;
            let header = HeaderValue::from_str(&format!("Bearer {n}")).unwrap();
            Ok(Token::new(header, asked_at, Duration::from_secs(60)))
        }

        async fn failure(&self) -> Result<Token, ProviderError> {
            self.token().await?;
            Err(ProviderError::Unavailable { retry_after: None, detail: "down".into() })
        }

        fn count(&self) -> u32 {
            self.fetches.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_without_a_token_fetch_one() {
        let (tokens, source) = (Tokens::default(), Source::default());

        let got = futures::future::join_all((0..100).map(|_| tokens.get(|| source.token()))).await;

        assert!(got.iter().all(|token| token.as_ref().unwrap().header == "Bearer 0"));
        assert_eq!(source.count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_fetch_fails_all_who_waited_for_it_and_the_next_caller_tries_anew() {
        let (tokens, source) = (Tokens::default(), Source::default());

        let got = futures::future::join_all((0..100).map(|_| tokens.get(|| source.failure()))).await;

        assert!(got.iter().all(Result::is_err));
        assert_eq!(source.count(), 1);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(tokens.get(|| source.token()).await.is_ok());
        assert_eq!(source.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_ahead_of_its_expiry_by_one_caller_while_the_others_go_on_with_it() {
        let (tokens, source) = (Tokens::default(), Source::default());
        tokens.get(|| source.token()).await.unwrap();

        // It lives 60 s; a fifth of that before its end is at 48 s.
        tokio::time::advance(Duration::from_secs(47)).await;
        assert_eq!(tokens.get(|| source.token()).await.unwrap().header, "Bearer 0");
        tokio::time::advance(Duration::from_secs(2)).await;
        let (first, second) = tokio::join!(tokens.get(|| source.token()), tokens.get(|| source.token()));

        assert_eq!(
            (&first.unwrap().header, &second.unwrap().header),
            (&"Bearer 1".parse().unwrap(), &"Bearer 0".parse().unwrap())
        );
        assert_eq!(source.count(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_token_is_good_a_failed_refresh_is_not_noticed_and_not_repeated() {
        let (tokens, source) = (Tokens::default(), Source::default());
        tokens.get(|| source.token()).await.unwrap();
        tokio::time::advance(Duration::from_secs(50)).await;

        for _ in 0..3 {
            assert_eq!(tokens.get(|| source.failure()).await.unwrap().header, "Bearer 0");
        }
        assert_eq!(source.count(), 2);

        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(tokens.get(|| source.failure()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_were_refused_with_one_token_one_fetches_the_next() {
        let (tokens, source) = (Tokens::default(), Source::default());
        let refused = tokens.get(|| source.token()).await.unwrap();

        tokens.forget(&refused);
        let next = tokens.get(|| source.token()).await.unwrap();
        tokens.forget(&refused);

        assert_eq!(next.header, "Bearer 1");
        assert_eq!(tokens.get(|| source.token()).await.unwrap().header, "Bearer 1");
        assert_eq!(source.count(), 2);
    }
}
