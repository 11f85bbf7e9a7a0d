//! This file decides payments: created, authorized, then completed or cancelled.
//!
//! ```text
//! (none) ──Create──> pending ──Authorize──> authorized ──Complete──> completed
//!                       └───────Cancel──────────┴──Cancel──> cancelled
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::money::Money;
pub use super::reason::{InvalidText, Reason};
use crate::aggregate::Aggregate;

/// What a client keeps with its payment.
pub type PaymentMetadata = BTreeMap<String, Value>;

/// One payment.
#[derive(Debug, Default)]
pub struct Payment {
    status: Option<Status>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Pending,
    Authorized,
    Completed,
    Cancelled,
}

/// What can be asked of a payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PaymentCommand {
    /// Begins it; only once.
    Create {
        /// How much.
        #[serde(flatten)]
        money: Money,
        /// What the client keeps with it.
        metadata: PaymentMetadata,
    },
    /// Notes that the payer's bank agreed.
    Authorize {
        /// The bank's code.
        authorization_code: AuthorizationCode,
    },
    /// Notes that the money came.
    Complete,
    /// Ends it without money; a second time changes nothing.
    Cancel {
        /// Why.
        reason: Option<Reason>,
    },
}

/// What happened to a payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PaymentEvent {
    /// It began.
    PaymentCreated {
        /// How much.
        #[serde(flatten)]
        money: Money,
        /// What the client keeps with it.
        metadata: PaymentMetadata,
    },
    /// The payer's bank agreed.
    PaymentAuthorized {
        /// The bank's code.
        authorization_code: AuthorizationCode,
    },
    /// The money came.
    PaymentCompleted,
    /// It ended without money.
    PaymentCancelled {
        /// Why.
        #[serde(default)]
        reason: Option<Reason>,
    },
}

/// Why a payment refuses a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum PaymentRejection {
    /// It was created before.
    #[error("the payment exists already")]
    AlreadyCreated,
    /// It was never created.
    #[error("there is no such payment")]
    NotFound,
    /// Only a pending payment can be authorized.
    #[error("the payment is not pending")]
    NotPending,
    /// Only an authorized payment can be completed.
    #[error("the payment is not authorized")]
    NotAuthorized,
    /// A completed payment cannot be cancelled.
    #[error("the payment is completed already")]
    AlreadyCompleted,
}

impl PaymentRejection {
    /// The code that clients see.
    pub fn code(self) -> &'static str {
        match self {
            Self::AlreadyCreated => "already_created",
            Self::NotFound => "not_found",
            Self::NotPending => "not_pending",
            Self::NotAuthorized => "not_authorized",
            Self::AlreadyCompleted => "already_completed",
        }
    }
}

impl Aggregate for Payment {
    const CATEGORY: &'static str = "payment";
    type Command = PaymentCommand;
    type Event = PaymentEvent;
    type Rejection = PaymentRejection;

    fn decide(&self, command: &PaymentCommand) -> Result<Vec<PaymentEvent>, PaymentRejection> {
        use PaymentRejection::{AlreadyCompleted, AlreadyCreated, NotAuthorized, NotFound, NotPending};
        use Status::{Authorized, Cancelled, Completed, Pending};
        Ok(vec![match (command, self.status) {
            (PaymentCommand::Create { money, metadata }, None) => {
                PaymentEvent::PaymentCreated { money: *money, metadata: metadata.clone() }
            }
            (PaymentCommand::Create { .. }, Some(_)) => return Err(AlreadyCreated),
            (_, None) => return Err(NotFound),
            (PaymentCommand::Authorize { authorization_code }, Some(Pending)) => {
                PaymentEvent::PaymentAuthorized { authorization_code: authorization_code.clone() }
            }
            (PaymentCommand::Authorize { .. }, Some(_)) => return Err(NotPending),
            (PaymentCommand::Complete, Some(Authorized)) => PaymentEvent::PaymentCompleted,
            (PaymentCommand::Complete, Some(_)) => return Err(NotAuthorized),
            (PaymentCommand::Cancel { reason }, Some(Pending | Authorized)) => {
                PaymentEvent::PaymentCancelled { reason: reason.clone() }
            }
            (PaymentCommand::Cancel { .. }, Some(Completed)) => return Err(AlreadyCompleted),
            (PaymentCommand::Cancel { .. }, Some(Cancelled)) => return Ok(Vec::new()),
        }])
    }

    fn apply(&mut self, event: &PaymentEvent) {
        self.status = Some(match event {
            PaymentEvent::PaymentCreated { .. } => Status::Pending,
            PaymentEvent::PaymentAuthorized { .. } => Status::Authorized,
            PaymentEvent::PaymentCompleted => Status::Completed,
            PaymentEvent::PaymentCancelled { .. } => Status::Cancelled,
        });
    }
}

/// A bank's code: 1 to 128 visible ASCII characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AuthorizationCode(String);

impl AuthorizationCode {
    const MAX_CHARACTERS: usize = 128;

    /// The code.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AuthorizationCode {
    type Error = InvalidText;

    fn try_from(code: String) -> Result<Self, InvalidText> {
        let is_visible = code.bytes().all(|byte| byte.is_ascii_graphic());
        let fits = (1..=Self::MAX_CHARACTERS).contains(&code.len());
        if is_visible && fits { Ok(Self(code)) } else { Err(InvalidText("must be 1 to 128 visible ASCII characters")) }
    }
}

impl From<AuthorizationCode> for String {
    fn from(code: AuthorizationCode) -> Self {
        code.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_variant, encode_variant};
    use crate::domain::currency::Currency;

    fn create() -> PaymentCommand {
        let money = Money::parse("12.50", Currency::from_code("EUR").unwrap()).unwrap();
        PaymentCommand::Create { money, metadata: PaymentMetadata::new() }
    }

    fn authorize() -> PaymentCommand {
        PaymentCommand::Authorize { authorization_code: "A-1".to_owned().try_into().unwrap() }
    }

    fn cancel() -> PaymentCommand {
        PaymentCommand::Cancel { reason: None }
    }

    /// The payment after these commands, all of which it takes.
    fn after(commands: &[PaymentCommand]) -> Payment {
        let mut payment = Payment::default();
        for command in commands {
            payment.decide(command).unwrap().iter().for_each(|event| payment.apply(event));
        }
        payment
    }

    #[test]
    fn every_state_takes_its_commands_and_refuses_the_others_for_its_reason() {
        use PaymentRejection::{AlreadyCompleted, AlreadyCreated, NotAuthorized, NotFound, NotPending};
        let (none, pending) = (after(&[]), after(&[create()]));
        let authorized = after(&[create(), authorize()]);
        let completed = after(&[create(), authorize(), PaymentCommand::Complete]);
        let cancelled = after(&[create(), cancel()]);
        let decided = |payment: &Payment, command| payment.decide(&command).map(|events| events.len());

        //                                   create               authorize        complete            cancel
        let rows = [
            (none, [Ok(1), Err(NotFound), Err(NotFound), Err(NotFound)]),
            (pending, [Err(AlreadyCreated), Ok(1), Err(NotAuthorized), Ok(1)]),
            (authorized, [Err(AlreadyCreated), Err(NotPending), Ok(1), Ok(1)]),
            (completed, [Err(AlreadyCreated), Err(NotPending), Err(NotAuthorized), Err(AlreadyCompleted)]),
            (cancelled, [Err(AlreadyCreated), Err(NotPending), Err(NotAuthorized), Ok(0)]),
        ];
        for (payment, expected) in rows {
            let found =
                [create(), authorize(), PaymentCommand::Complete, cancel()].map(|command| decided(&payment, command));
            assert_eq!(found, expected, "{payment:?}");
        }
    }

    #[test]
    fn events_stand_in_the_log_as_clients_write_their_fields() {
        let written = |command: &PaymentCommand, payment: &Payment| {
            let event = payment.decide(command).unwrap().remove(0);
            let (name, json) = encode_variant(&event).unwrap();
            assert_eq!(decode_variant::<PaymentEvent>(name, &json).unwrap(), event);
            (name, json)
        };
        let reason = Some("double \"order\"".to_owned().try_into().unwrap());

        let created = written(&create(), &after(&[]));
        let authorized = written(&authorize(), &after(&[create()]));
        let completed = written(&PaymentCommand::Complete, &after(&[create(), authorize()]));
        let cancelled = written(&cancel(), &after(&[create()]));
        let with_reason = written(&PaymentCommand::Cancel { reason }, &after(&[create()]));

        assert_eq!(created, ("PaymentCreated", r#"{"amount":"12.50","currency":"EUR","metadata":{}}"#.into()));
        assert_eq!(authorized, ("PaymentAuthorized", r#"{"authorization_code":"A-1"}"#.into()));
        assert_eq!(completed, ("PaymentCompleted", "{}".into()));
        assert_eq!(cancelled, ("PaymentCancelled", r#"{"reason":null}"#.into()));
        assert_eq!(with_reason, ("PaymentCancelled", r#"{"reason":"double \"order\""}"#.into()));
    }

    #[test]
    fn refusals_carry_the_codes_that_clients_act_on() {
        let code = |commands: &[PaymentCommand], refused| after(commands).decide(&refused).unwrap_err().code();
        let completed = [create(), authorize(), PaymentCommand::Complete];

        assert_eq!(code(&[create()], create()), "already_created");
        assert_eq!(code(&[], cancel()), "not_found");
        assert_eq!(code(&completed, authorize()), "not_pending");
        assert_eq!(code(&completed, PaymentCommand::Complete), "not_authorized");
        assert_eq!(code(&completed, cancel()), "already_completed");
    }

    #[test]
    fn a_code_of_a_wrong_shape_is_refused() {
        let code = |text: &str| AuthorizationCode::try_from(text.to_owned());

        assert!(code("A-1").is_ok() && code(&"x".repeat(128)).is_ok());
        assert!(code("").is_err() && code("a b").is_err() && code("é").is_err() && code(&"x".repeat(129)).is_err());
    }
}
