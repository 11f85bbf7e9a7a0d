//! This file is the one home of wall-clock time and randomness, so that a simulation can replace both.

use std::sync::Arc;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

/// Where the engine takes the time and its random ids from.
pub trait Clock: Send + Sync + 'static {
    /// The current time, truncated to microseconds (Postgres keeps no more).
    fn now(&self) -> DateTime<Utc>;
    /// A fresh time-ordered id (UUID v7).
    fn time_ordered_id(&self) -> Uuid;
    /// A fresh random id (UUID v4 layout), for writers and batches.
    fn random_id(&self) -> Uuid;
}

/// The machine's clock and the operating system's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[expect(clippy::disallowed_methods, reason = "the one home of time and randomness")]
impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    fn time_ordered_id(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn random_id(&self) -> Uuid {
        Uuid::new_v4()
    }
}

/// A shared clock.
pub type SharedClock = Arc<dyn Clock>;
