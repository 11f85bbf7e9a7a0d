//! This file lists what the daemon runs: its aggregates and its projections. Nothing else names them all.

use super::config::Config;
use super::verify::Verifiable;
use crate::domain::identity::Identity;
use crate::domain::payment::Payment;
use crate::domain::user::User;
use crate::engine::EngineBuilder;
use crate::projections::payment_summaries::PaymentSummaries;

/// Gives the engine everything it runs in the daemon.
pub(crate) fn install(engine: EngineBuilder, _config: &Config) -> EngineBuilder {
    engine.aggregate::<Payment>().projection(PaymentSummaries).aggregate::<User>().aggregate::<Identity>()
}

/// Every projection of the daemon, in the order they are shown.
pub(crate) fn projections() -> Vec<Box<dyn Verifiable>> {
    vec![Box::new(PaymentSummaries)]
}
