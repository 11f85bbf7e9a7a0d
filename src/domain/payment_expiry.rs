//! This file cancels payments that expire: a process manager with one deadline a payment.

use std::time::Duration;

use chrono::TimeDelta;

use super::payment::{Payment, PaymentCommand, PaymentEvent, Reason};
use crate::aggregate::Aggregate;
use crate::event::TypedEvent;
use crate::process_manager::{Due, ProcessManager, ReactTo, Reaction, Reactions};

/// Cancels every payment that is still pending or authorized at a certain age, with the reason `expired`.
///
/// The age is looked at when a payment is created: another one concerns the payments created from then on. Those that
/// are older than it when this manager first reads their log are cancelled at once.
#[derive(Debug, Clone, Copy)]
pub struct PaymentExpiry {
    /// None: longer than time can be reckoned.
    age: Option<TimeDelta>,
}

impl PaymentExpiry {
    /// Cancels payments of this age.
    pub fn after(age: Duration) -> Self {
        Self { age: TimeDelta::from_std(age).ok() }
    }
}

const EXPIRY: &str = "expiry";

impl ProcessManager for PaymentExpiry {
    const NAME: &'static str = "payment_expiry";
    type State = ();

    fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
        reactions.to::<Payment>()
    }

    fn on_deadline(&self, (): &(), due: &Due<'_>) -> Reaction<()> {
        let reason = Reason::try_from("expired".to_owned()).expect("a short text without U+0000");
        Reaction::end().send(&Payment::id(due.key), PaymentCommand::Cancel { reason: Some(reason) })
    }
}

impl ReactTo<Payment> for PaymentExpiry {
    fn react(&self, (): &(), event: &TypedEvent<'_, PaymentEvent>) -> Reaction<()> {
        match event.data {
            PaymentEvent::PaymentCreated { .. } => {
                match self.age.and_then(|age| event.recorded_at.checked_add_signed(age)) {
                    Some(at) => Reaction::none().set_deadline(EXPIRY, at),
                    None => Reaction::none(),
                }
            }
            PaymentEvent::PaymentAuthorized { .. } => Reaction::none(),
            PaymentEvent::PaymentCompleted | PaymentEvent::PaymentCancelled { .. } => Reaction::end(),
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::event::RecordedEvent;
    use crate::store::{Epoch, Head};
    use crate::stream::{GlobalPosition, StreamId};
    use crate::testing::BatchBuilder;

    fn recorded(event_type: &str, json: &str) -> RecordedEvent {
        let head = Head {
            position: GlobalPosition::START,
            epoch: Epoch(1),
            writer: uuid::Uuid::nil(),
            batch: uuid::Uuid::nil(),
            chain_hash: crate::event::ChainHash::START,
            recorded_at: DateTime::UNIX_EPOCH,
            log_id: uuid::Uuid::nil(),
        };
        BatchBuilder::after(&head).event(&StreamId::new("payment", "p"), 1, event_type, json).build().events[0].clone()
    }

    fn reaction_to(event_type: &str, json: &str) -> Reaction<()> {
        let recorded = recorded(event_type, json);
        let data = crate::aggregate::decode_event::<Payment>(&recorded).unwrap();
        expiry().react(&(), &TypedEvent { data: &data, recorded: &recorded })
    }

    fn expiry() -> PaymentExpiry {
        PaymentExpiry::after(Duration::from_secs(3_600))
    }

    #[test]
    fn a_payment_gets_its_deadline_when_it_is_created_and_loses_it_when_it_ends() {
        let created = r#"{"amount":"12.50","currency":"EUR","metadata":{}}"#;
        let an_hour_later = recorded("PaymentCreated", created).recorded_at + TimeDelta::hours(1);

        assert_eq!(reaction_to("PaymentCreated", created), Reaction::none().set_deadline("expiry", an_hour_later));
        assert_eq!(reaction_to("PaymentAuthorized", r#"{"authorization_code":"A"}"#), Reaction::none());
        assert_eq!(reaction_to("PaymentCompleted", "{}"), Reaction::end());
        assert_eq!(reaction_to("PaymentCancelled", r#"{"reason":null}"#), Reaction::end());
    }

    #[test]
    fn an_expired_payment_is_cancelled_for_that_reason() {
        let due = Due { key: "p", name: "expiry", at: DateTime::UNIX_EPOCH };

        let reaction = expiry().on_deadline(&(), &due);

        let [command] = reaction.commands() else { panic!("one command: {reaction:?}") };
        assert_eq!(command.stream.as_str(), "payment-p");
        assert_eq!(&*command.json, r#"{"Cancel":{"reason":"expired"}}"#);
        assert_eq!(expiry().principal(), "system:payment-expiry");
    }

    #[test]
    fn an_age_beyond_all_time_never_comes() {
        let never = PaymentExpiry::after(Duration::MAX);
        let recorded = recorded("PaymentCreated", r#"{"amount":"12.50","currency":"EUR","metadata":{}}"#);
        let data = crate::aggregate::decode_event::<Payment>(&recorded).unwrap();

        assert_eq!(never.react(&(), &TypedEvent { data: &data, recorded: &recorded }), Reaction::none());
    }
}
