//! This file lists what the daemon runs: its aggregates, projections and process managers. Nothing else names them all.

use super::config::Config;
use super::verify::Verifiable;
use crate::domain::payment::Payment;
use crate::domain::payment_expiry::PaymentExpiry;
use crate::engine::EngineBuilder;
use crate::process_manager::ProcessManager;
use crate::projections::payment_summaries::PaymentSummaries;

/// Gives the engine everything it runs in the daemon.
pub(crate) fn install(engine: EngineBuilder, config: &Config) -> EngineBuilder {
    let engine = engine.aggregate::<Payment>().projection(PaymentSummaries);
    if config.cancel_expired_payments {
        engine.process_manager(PaymentExpiry::after(config.payment_expiry()))
    } else {
        engine
    }
}

/// Names of the process managers, whose tables have checkpoints too.
pub(crate) const PROCESS_MANAGERS: [&str; 1] = [PaymentExpiry::NAME];

/// Every projection of the daemon, in the order they are shown.
pub(crate) fn projections() -> Vec<Box<dyn Verifiable>> {
    vec![Box::new(PaymentSummaries)]
}
