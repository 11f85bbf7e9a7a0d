//! This file is a clock that moves with the time of the runtime: paused with it, advanced with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use tokio::time::Instant;
use uuid::{Builder, Uuid};

use crate::clock::Clock;

/// Shows the instant it was made at plus what has passed since in tokio's time, and hands out the same ids for the
/// same seed. To be made inside the runtime; over a restart, the next one begins where this one was.
///
/// ```
/// # use std::time::Duration;
/// # use chrono::DateTime;
/// # use essaim::clock::Clock;
/// # use essaim::testing::VirtualClock;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let clock = VirtualClock::starting_at(DateTime::UNIX_EPOCH, 7);
/// tokio::time::sleep(Duration::from_secs(3_600)).await;
/// assert_eq!(clock.now().to_rfc3339(), "1970-01-01T01:00:00+00:00");
/// # }
/// ```
#[derive(Debug)]
pub struct VirtualClock {
    start: DateTime<Utc>,
    since: Instant,
    seed: u64,
    drawn: AtomicU64,
}

impl VirtualClock {
    /// A clock that shows `start` now.
    pub fn starting_at(start: DateTime<Utc>, seed: u64) -> Arc<Self> {
        Arc::new(Self { start, since: Instant::now(), seed, drawn: AtomicU64::new(0) })
    }

    fn draw(&self) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_be_bytes());
        hasher.update(&self.drawn.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        bytes
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.since.elapsed()).unwrap_or(TimeDelta::MAX);
        (self.start + passed).trunc_subsecs(6)
    }

    fn time_ordered_id(&self) -> Uuid {
        let millis = u64::try_from(self.now().timestamp_millis()).unwrap_or_default();
        let mut tail = [0; 10];
        tail.copy_from_slice(&self.draw()[..10]);
        Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
    }

    fn random_id(&self) -> Uuid {
        Builder::from_random_bytes(self.draw()).into_uuid()
    }
}
