//! Which instance an event concerns, what it is shown, and which reactions are refused.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::*;
use crate::domain::payment::{Payment, PaymentCommand, PaymentEvent};
use crate::event::{ChainHash, TypedEvent};
use crate::store::{Epoch, Head};
use crate::stream::GlobalPosition;
use crate::testing::BatchBuilder;

/// Counts the events of each authorization code; others concern nobody.
struct Tally;

impl ProcessManager for Tally {
    const NAME: &'static str = "tally_of_codes";
    type State = u32;

    fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
        reactions.to::<Payment>()
    }
}

impl ReactTo<Payment> for Tally {
    fn instance<'e>(&self, event: &TypedEvent<'e, PaymentEvent>) -> Option<Cow<'e, str>> {
        match event.data {
            PaymentEvent::PaymentAuthorized { authorization_code } => Some(authorization_code.as_str().into()),
            PaymentEvent::PaymentCompleted => Some("".into()),
            _ => None,
        }
    }

    fn react(&self, count: &u32, _: &TypedEvent<'_, PaymentEvent>) -> Reaction<u32> {
        Reaction::state(count + 1)
    }
}

#[derive(Default)]
struct Counted(BTreeMap<String, u32>);

impl InstanceStates<u32> for Counted {
    fn state(&self, key: &str) -> Option<&u32> {
        self.0.get(key)
    }

    fn take(&mut self, key: &str, reaction: Reaction<u32>) {
        let Next::State(state) = reaction.next else { panic!("a state") };
        self.0.insert(key.to_owned(), state);
    }
}

fn event(category: &str, event_type: &str, json: &str) -> RecordedEvent {
    let head = Head {
        position: GlobalPosition::START,
        epoch: Epoch(1),
        writer: uuid::Uuid::nil(),
        batch: uuid::Uuid::nil(),
        chain_hash: ChainHash::START,
        recorded_at: DateTime::UNIX_EPOCH,
        log_id: uuid::Uuid::nil(),
    };
    BatchBuilder::after(&head).event(&StreamId::new(category, "p"), 1, event_type, json).build().events[0].clone()
}

#[test]
fn an_event_is_reacted_to_with_the_state_of_the_instance_it_concerns() {
    let (reactions, mut counted) = (Reactions::<Tally>::of(), Counted::default());
    let authorized = |code| event("payment", "PaymentAuthorized", &format!(r#"{{"authorization_code":"{code}"}}"#));

    for event in [
        authorized("a"),
        authorized("b"),
        event("payment", "PaymentCancelled", "{}"),
        event("other", "PaymentAuthorized", r#"{"authorization_code":"a"}"#),
        authorized("a"),
    ] {
        reactions.react(&Tally, &event, &mut counted).unwrap();
    }

    assert_eq!(counted.0, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
    assert_eq!(Tally.principal(), "system:tally-of-codes");
}

#[test]
fn an_event_that_cannot_be_understood_or_an_instance_that_cannot_be_is_an_error() {
    let react = |event| Reactions::<Tally>::of().react(&Tally, &event, &mut Counted::default()).unwrap_err();

    let unknown = react(event("payment", "PaymentVanished", "{}"));
    let no_key = react(event("payment", "PaymentCompleted", "{}"));

    assert!(matches!(unknown, ReactError::Decode(_)), "{unknown}");
    assert!(matches!(no_key, ReactError::Key { position: 1, .. }), "{no_key}");
}

#[test]
fn reactions_are_equal_when_they_say_the_same() {
    let at: DateTime<Utc> = DateTime::from_timestamp_nanos(1_234_567_891_234);
    let says =
        |state, name| Reaction::state(state).send(&Payment::id("p"), PaymentCommand::Complete).set_deadline(name, at);

    assert_eq!(says(1, "a"), says(1, "a"));
    assert_ne!(says(1, "a"), says(2, "a"));
    assert_ne!(says(1, "a"), says(1, "b"));
    let expected =
        DeadlineChange::Set { name: "a".into(), at: DateTime::from_timestamp_micros(1_234_567_891).unwrap() };
    assert_eq!(says(1, "a").deadlines(), [expected], "microseconds, as stores keep them");
}

#[test]
fn what_no_engine_can_carry_out_is_refused() {
    let refused = |reaction: Reaction<()>| reaction.checked().err().expect("a misuse").to_string();
    let send = |reaction: Reaction<()>, key: &str| reaction.send(&Payment::id(key), PaymentCommand::Complete);

    let too_many = (0..=MAX_COMMANDS_A_REACTION).fold(Reaction::none(), |reaction, _| send(reaction, "p"));
    assert!(refused(too_many).contains("1001 commands"));
    assert!(refused(send(Reaction::end(), "")).contains("must not be empty"));
    assert!(refused(Reaction::none().cancel_deadline("")).contains("name of a deadline"));
    assert!(
        refused(Reaction::none().set_deadline("x".repeat(101), DateTime::UNIX_EPOCH)).contains("name of a deadline")
    );
    assert!(send(Reaction::none(), "p").set_deadline("x".repeat(100), DateTime::UNIX_EPOCH).checked().is_ok());
}
