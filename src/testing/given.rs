//! This file tests an aggregate alone: given these events, when this command comes, then that follows.

use serde::Serialize;

use crate::aggregate::Aggregate;
use crate::codec;

/// An aggregate to which these events have happened. Neither events nor rejections need `PartialEq` or `Debug`: they
/// are compared as the log would keep them.
///
/// ```
/// # use essaim::prelude::*;
/// # use essaim::testing::given;
/// # #[derive(Default)]
/// # struct Account { cents: i64 }
/// # #[derive(Serialize, Deserialize)]
/// # enum Command { Withdraw { cents: i64 } }
/// # #[derive(Serialize, Deserialize)]
/// # enum Happened { Deposited { cents: i64 }, Withdrawn { cents: i64 } }
/// # #[derive(Debug, Serialize, Deserialize)]
/// # enum Refused { NotEnough }
/// # impl std::fmt::Display for Refused {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str("not enough") }
/// # }
/// # impl std::error::Error for Refused {}
/// # impl Aggregate for Account {
/// #     const CATEGORY: &'static str = "account";
/// #     type Command = Command;
/// #     type Event = Happened;
/// #     type Rejection = Refused;
/// #     fn decide(&self, Command::Withdraw { cents }: &Command) -> Result<Vec<Happened>, Refused> {
/// #         if *cents > self.cents { Err(Refused::NotEnough) } else { Ok(vec![Happened::Withdrawn { cents: *cents }]) }
/// #     }
/// #     fn apply(&mut self, event: &Happened) {
/// #         match event {
/// #             Happened::Deposited { cents } => self.cents += cents,
/// #             Happened::Withdrawn { cents } => self.cents -= cents,
/// #         }
/// #     }
/// # }
/// given::<Account>([Happened::Deposited { cents: 500 }])
///     .when(Command::Withdraw { cents: 200 })
///     .then_events([Happened::Withdrawn { cents: 200 }])
///     .when(Command::Withdraw { cents: 400 })
///     .then_rejected(Refused::NotEnough);
/// ```
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = A::Event>) -> Given<A> {
    let mut state = A::default();
    events.into_iter().for_each(|event| state.apply(&event));
    Given { state }
}

/// An aggregate in the state that its events have brought it to.
pub struct Given<A: Aggregate> {
    state: A,
}

/// What an aggregate decided; nothing is checked before one of the `then_` methods is called.
#[must_use]
pub struct Decided<A: Aggregate> {
    state: A,
    decision: Result<Vec<A::Event>, A::Rejection>,
}

impl<A: Aggregate> Given<A> {
    /// Lets it decide this command.
    pub fn when(self, command: A::Command) -> Decided<A> {
        let decision = self.state.decide(&command);
        Decided { state: self.state, decision }
    }

    /// The state, for what events do not show, e.g. its claims.
    pub fn state(&self) -> &A {
        &self.state
    }
}

impl<A: Aggregate> Decided<A> {
    /// Exactly these events follow, in this order. They are applied, so that the next command may come.
    ///
    /// # Panics
    /// When something else follows; the message shows both, line by line.
    #[track_caller]
    pub fn then_events(self, expected: impl IntoIterator<Item = A::Event>) -> Given<A> {
        let wanted: Vec<String> = expected.into_iter().map(|event| written(&event)).collect();
        match self.decision {
            Ok(events) => {
                let found: Vec<String> = events.iter().map(written).collect();
                assert!(wanted == found, "other events follow than expected:\n{}", difference(&wanted, &found));
                let mut state = self.state;
                events.iter().for_each(|event| state.apply(event));
                Given { state }
            }
            Err(rejection) => {
                panic!("rejected with {rejection} {}, expected:\n{}", json(&rejection), difference(&wanted, &[]))
            }
        }
    }

    /// Nothing follows: there is nothing to change.
    ///
    /// # Panics
    /// When events or a rejection follow.
    #[track_caller]
    pub fn then_nothing(self) -> Given<A> {
        self.then_events([])
    }

    /// The command is refused for exactly this reason.
    ///
    /// # Panics
    /// When it is not, or for another one.
    #[track_caller]
    pub fn then_rejected(self, expected: A::Rejection) -> Given<A> {
        let wanted = json(&expected);
        match self.decision {
            Ok(events) => {
                let found: Vec<String> = events.iter().map(written).collect();
                panic!("expected a rejection with {wanted}, these events follow:\n{}", difference(&[], &found))
            }
            Err(rejection) => {
                let found = json(&rejection);
                assert!(wanted == found, "another rejection than expected:\n{}", difference(&[wanted], &[found]));
            }
        }
        Given { state: self.state }
    }
}

/// The event as the log would keep it; it must come back from there the same.
#[track_caller]
fn written<E: crate::event::Event>(event: &E) -> String {
    let (name, json) = codec::encode_variant(event).unwrap_or_else(|error| panic!("an event cannot be kept: {error}"));
    let back: Result<E, _> = codec::decode_variant(name, &json);
    let back = back.unwrap_or_else(|error| panic!("{name} {json} cannot be read back: {error}"));
    let again = codec::encode_variant(&back).map(|(name, json)| format!("{name} {json}"));
    let again = again.unwrap_or_else(|error| panic!("{name} {json} was read back as something else: {error}"));
    assert!(again == format!("{name} {json}"), "{name} {json} was read back as {again}");
    again
}

#[track_caller]
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| panic!("a rejection cannot be kept: {error}"))
}

/// Both lists beside each other: `-` was expected and is missing, `+` is there and was not expected.
fn difference(wanted: &[String], found: &[String]) -> String {
    let mut lines = Vec::new();
    for n in 0..wanted.len().max(found.len()) {
        match (wanted.get(n), found.get(n)) {
            (Some(wanted), Some(found)) if wanted == found => lines.push(format!("  {wanted}")),
            (wanted, found) => {
                lines.extend(wanted.map(|wanted| format!("- {wanted}")));
                lines.extend(found.map(|found| format!("+ {found}")));
            }
        }
    }
    if lines.is_empty() { "  (nothing)".into() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use serde::Deserialize;

    use super::*;

    #[derive(Default)]
    struct Counter {
        count: u32,
    }

    #[derive(Serialize, Deserialize)]
    enum Count {
        Add { by: u32 },
        AddOneByOne { times: u32 },
    }

    #[derive(Serialize, Deserialize)]
    enum Counted {
        Added { by: u32 },
    }

    #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
    enum Refused {
        #[error("{by} is too much")]
        TooMuch { by: u32 },
    }

    impl Aggregate for Counter {
        const CATEGORY: &'static str = "counter";
        type Command = Count;
        type Event = Counted;
        type Rejection = Refused;

        fn decide(&self, command: &Count) -> Result<Vec<Counted>, Refused> {
            match *command {
                Count::Add { by } if self.count + by > 10 => Err(Refused::TooMuch { by }),
                Count::Add { by } => Ok(vec![Counted::Added { by }]),
                Count::AddOneByOne { times } => Ok((0..times).map(|_| Counted::Added { by: 1 }).collect()),
            }
        }

        fn apply(&mut self, Counted::Added { by }: &Counted) {
            self.count += by;
        }
    }

    /// The message of the panic.
    fn message(check: impl FnOnce() -> Given<Counter>) -> String {
        let panic = catch_unwind(AssertUnwindSafe(check)).map(drop).expect_err("the check must fail");
        panic.downcast_ref::<String>().expect("panics with a formatted message").clone()
    }

    #[test]
    fn what_follows_as_expected_is_applied_for_the_next_command() {
        let end = given::<Counter>([Counted::Added { by: 3 }])
            .when(Count::Add { by: 7 })
            .then_events([Counted::Added { by: 7 }])
            .when(Count::Add { by: 1 })
            .then_rejected(Refused::TooMuch { by: 1 })
            .when(Count::AddOneByOne { times: 0 })
            .then_nothing();

        assert_eq!(end.state().count, 10);
    }

    #[test]
    fn other_events_than_expected_are_shown_line_by_line() {
        let decided = given::<Counter>([]).when(Count::AddOneByOne { times: 3 });

        let shown = message(|| decided.then_events([Counted::Added { by: 1 }, Counted::Added { by: 2 }]));

        let wanted = "other events follow than expected:\n  Added {\"by\":1}\n- Added {\"by\":2}\n+ Added {\"by\":1}\n\
                      + Added {\"by\":1}";
        assert_eq!(shown, wanted);
    }

    #[test]
    fn a_rejection_instead_of_events_is_shown_with_its_reason() {
        let decided = given::<Counter>([]).when(Count::Add { by: 11 });

        let shown = message(|| decided.then_events([Counted::Added { by: 11 }]));

        assert_eq!(shown, "rejected with 11 is too much {\"TooMuch\":{\"by\":11}}, expected:\n- Added {\"by\":11}");
    }

    #[test]
    fn events_instead_of_a_rejection_and_another_rejection_fail() {
        let events =
            message(|| given::<Counter>([]).when(Count::Add { by: 1 }).then_rejected(Refused::TooMuch { by: 1 }));
        let other =
            message(|| given::<Counter>([]).when(Count::Add { by: 12 }).then_rejected(Refused::TooMuch { by: 11 }));

        assert!(events.ends_with("these events follow:\n+ Added {\"by\":1}"), "{events}");
        assert!(other.ends_with("- {\"TooMuch\":{\"by\":11}}\n+ {\"TooMuch\":{\"by\":12}}"), "{other}");
    }
}
