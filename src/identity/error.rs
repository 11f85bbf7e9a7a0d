//! This file is how a call of an identity provider fails: one variant a reaction, and never a secret in it.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// Why a call did not end well. The texts are for operators: bounded, on one line, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProviderError {
    /// The provider was reached and did not do it (all): it is overloaded, has a fault of the moment, or another
    /// user's change has to come first. Nothing of the call is still under way. Repeat it, at least `retry_after` from
    /// now when the provider says so.
    #[error("the provider asks to try later: {detail}")]
    RetryLater {
        /// What the provider asked for.
        retry_after: Option<Duration>,
        /// What was answered.
        detail: String,
    },
    /// The call may have taken effect, and may still. Repeat it; the user is in step once a read shows the version.
    #[error("the outcome is unknown: {detail}")]
    OutcomeUnknown {
        /// What happened to the answer.
        detail: String,
    },
    /// Repeating is hopeless until the user, or an account of somebody else, is changed.
    #[error("refused ({reason}): {detail}")]
    Permanent {
        /// Which kind of refusal.
        reason: Refusal,
        /// What stands in the way.
        detail: String,
    },
    /// Our address, secret, rights or the provider's set-up are wrong: no call of any user can succeed until an operator
    /// has mended it. Nothing of the call is still under way.
    #[error("the provider is not set up as needed: {detail}")]
    Configuration {
        /// What is wrong.
        detail: String,
    },
    /// The provider was not reached, or serves nobody. Nothing of the call is still under way. Repeat it, at least
    /// `retry_after` from now when the provider says so.
    #[error("the provider is unavailable: {detail}")]
    Unavailable {
        /// What the provider asked for.
        retry_after: Option<Duration>,
        /// What was tried, and how it ended.
        detail: String,
    },
}

impl ProviderError {
    /// The earliest moment from now at which to repeat, when the provider named one.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RetryLater { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the fault lies with the provider as a whole, so that every other user's call would meet it as well.
    pub fn concerns_every_user(&self) -> bool {
        matches!(self, Self::Configuration { .. } | Self::Unavailable { .. })
    }
}

/// Why a call is refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// An account that is not ours has the username.
    UsernameTaken,
    /// An account that is not ours has the email address.
    EmailTaken,
    /// The account of the known id carries another user's id, or none.
    ForeignAccount,
    /// The provider does not accept the values.
    InvalidUser,
}

impl Refusal {
    /// Its name in events, dead letters and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::UsernameTaken => "username_taken",
            Self::EmailTaken => "email_taken",
            Self::ForeignAccount => "foreign_account",
            Self::InvalidUser => "invalid_user",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
