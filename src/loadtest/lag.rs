//! This file watches how far read models are behind, so often that a peak between two looks is seen too.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Often enough to see what a group commit or two leave behind, and no work worth mentioning.
const EVERY: Duration = Duration::from_millis(20);

/// Remembers the most events that were behind.
#[derive(Debug)]
pub(crate) struct LagWatch {
    most: Arc<AtomicU64>,
    _watching: AbortOnDropHandle<()>,
}

impl LagWatch {
    /// Reads from now on; none where nothing is told.
    pub(crate) fn start(read: impl Fn() -> Option<u64> + Send + 'static) -> Option<Self> {
        let most = Arc::new(AtomicU64::new(read()?));
        let seen = Arc::clone(&most);
        let watching = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                seen.fetch_max(read().unwrap_or_default(), Ordering::Relaxed);
            }
        });
        Some(Self { most, _watching: AbortOnDropHandle::new(watching) })
    }

    /// The most since this was last asked.
    pub(crate) fn take_most(&self) -> u64 {
        self.most.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peak_between_two_looks_is_seen_and_told_once() {
        let reads = AtomicU64::new(0);
        let short_peak = move || Some(if reads.fetch_add(1, Ordering::Relaxed) == 10 { 500 } else { 3 });
        let watch = LagWatch::start(short_peak).unwrap();

        let mut told = Vec::new();
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            told.push(watch.take_most());
        }

        assert_eq!(told, [500, 3]);
    }

    #[tokio::test]
    async fn where_nothing_is_told_nothing_is_watched() {
        assert!(LagWatch::start(|| None).is_none());
    }
}
