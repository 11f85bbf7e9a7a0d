//! This file lists what the daemon runs: its aggregates, projections and process managers. Nothing else names them all.

use super::config::Config;
use super::verify::Verifiable;
use crate::domain::identity::Identity;
use crate::domain::payment::Payment;
use crate::domain::payment_expiry::PaymentExpiry;
use crate::domain::user::User;
use crate::engine::{Engine, EngineBuilder, SynchroniserHandle};
use crate::process_manager::ProcessManager;
use crate::projections::payment_summaries::PaymentSummaries;
use crate::projections::user_analytics::UserAnalytics;
use crate::projections::user_list::UserList;
use crate::projections::user_profiles::UserProfiles;

/// Gives the engine everything it runs in the daemon.
pub(crate) fn install(engine: EngineBuilder, config: &Config) -> EngineBuilder {
    let engine = engine.aggregate::<Payment>().projection(PaymentSummaries);
    let engine = engine.aggregate::<User>().aggregate::<Identity>();
    let engine = engine.projection(UserProfiles).projection(UserList).projection(UserAnalytics);
    if config.cancel_expired_payments {
        engine.process_manager(PaymentExpiry::after(config.payment_expiry()))
    } else {
        engine
    }
}

/// What else has a table with a checkpoint: its name there, and what it is.
pub(crate) const OTHER_TABLES: [(&str, &str); 3] = [
    (PaymentExpiry::NAME, "process manager"),
    (USER_ACCOUNTS, "synchroniser"),
    (EVENT_CURSORS, "cursor of the identity provider"),
];

/// The synchroniser that keeps users' accounts in step, whether it is compiled in or not.
const USER_ACCOUNTS: &str = "user_accounts";
/// How far the identity provider's own events were read.
pub(crate) const EVENT_CURSORS: &str = "identity_event_cursors";

/// Every projection of the daemon, in the order they are shown.
pub(crate) fn projections() -> Vec<Box<dyn Verifiable>> {
    vec![Box::new(PaymentSummaries), Box::new(UserProfiles), Box::new(UserList), Box::new(UserAnalytics)]
}

/// What keeps users in step with an identity provider, when one is configured.
pub(crate) fn identity_provider(engine: &Engine) -> Option<SynchroniserHandle> {
    engine.synchroniser(USER_ACCOUNTS)
}
