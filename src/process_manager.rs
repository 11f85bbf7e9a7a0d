//! This file is the contract of a process manager: events and deadlines in, commands and deadlines out.
//!
//! ```text
//! ProcessManager ── reactions ──> ReactTo<A> for every aggregate it follows
//!        │                            └─ (state, event)    → Reaction
//!        └─ on_deadline ─────────────────(state, deadline) → Reaction: state, commands, deadlines set and cancelled
//! ```
//! Both are pure functions. `actors/process_manager.rs` makes what they answer durable, state and deadlines and
//! commands in one transaction with the position in the log, and only then acts upon it.
//!
//! # Example
//! A reminder for whoever ordered and did not pay within a day.
//!
//! ```
//! use chrono::TimeDelta;
//! use essaim::prelude::*;
//! # #[derive(Default)]
//! # struct Order;
//! # #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! # enum OrderCommand { Remind { nth: u32 } }
//! # #[derive(Serialize, Deserialize)]
//! # enum OrderEvent { Placed, Reminded { nth: u32 }, Paid }
//! # #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
//! # enum OrderRejection {}
//! # impl Aggregate for Order {
//! #     const CATEGORY: &'static str = "order";
//! #     type Command = OrderCommand;
//! #     type Event = OrderEvent;
//! #     type Rejection = OrderRejection;
//! #     fn decide(&self, OrderCommand::Remind { nth }: &OrderCommand) -> Result<Vec<OrderEvent>, OrderRejection> {
//! #         Ok(vec![OrderEvent::Reminded { nth: *nth }])
//! #     }
//! #     fn apply(&mut self, _: &OrderEvent) {}
//! # }
//!
//! struct Reminders;
//!
//! impl ProcessManager for Reminders {
//!     const NAME: &'static str = "reminders";
//!     /// How many were sent.
//!     type State = u32;
//!
//!     fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
//!         reactions.to::<Order>()
//!     }
//!
//!     fn on_deadline(&self, sent: &u32, due: &Due<'_>) -> Reaction<u32> {
//!         let reminded = Reaction::state(sent + 1).send(&Order::id(due.key), OrderCommand::Remind { nth: sent + 1 });
//!         // Three are enough.
//!         if *sent < 2 { reminded.set_deadline("remind", due.at + TimeDelta::days(1)) } else { reminded }
//!     }
//! }
//!
//! impl ReactTo<Order> for Reminders {
//!     fn react(&self, _: &u32, event: &TypedEvent<'_, OrderEvent>) -> Reaction<u32> {
//!         match event.data {
//!             OrderEvent::Placed => Reaction::state(0).set_deadline("remind", event.recorded_at + TimeDelta::days(1)),
//!             OrderEvent::Reminded { .. } => Reaction::none(),
//!             // The deadline goes with the instance.
//!             OrderEvent::Paid => Reaction::end(),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), StartError> {
//! let engine = Engine::builder(MemoryStore::new()).aggregate::<Order>().process_manager(Reminders).start().await?;
//! # engine.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aggregate::{Aggregate, AggregateId, DecodeError, with_decoded};
use crate::event::{RecordedEvent, TypedEvent};
use crate::stream::{InvalidStreamId, StreamId};

/// Commands that one reaction may send.
pub const MAX_COMMANDS_A_REACTION: usize = 1_000;
/// Deadlines that one instance may have at a time.
pub const MAX_DEADLINES_AN_INSTANCE: usize = 100;
/// Longest name of a deadline, in bytes.
pub const MAX_DEADLINE_NAME_BYTES: usize = 100;

/// Something that follows events, and sends commands because of them, now or when a deadline has come.
///
/// It runs as many instances as there are keys (by default one for each stream it follows), each with a state and
/// deadlines of its own. Both methods are pure functions: no clock, no randomness, no waiting, no outside call. Each
/// of their commands takes effect once, whatever crashes when: what was decided is saved, with the position of the
/// event, before the first command leaves, and a command is forgotten only when its outcome is durable.
///
/// Commands of one instance are sent one after the other, in order; those of different instances side by side. A
/// command that is rejected has had its answer, and the next one follows.
///
/// A manager that is new to a log reads it from the first event, and so does one whose [`ProcessManager::VERSION`] was
/// raised; commands that it sent before keep their ids, and so their outcomes.
pub trait ProcessManager: Send + Sync + Sized + 'static {
    /// Name in logs, metrics, the checkpoint row, the table of instances, and the ids of its commands; never changed:
    /// `[a-z][a-z0-9_]*`, at most 40 bytes.
    const NAME: &'static str;
    /// Which function of the log this is, from 1. To be raised when [`ProcessManager::State`] changes its shape.
    const VERSION: u32 = 1;

    /// What an instance knows. `Default` is an instance of which nothing is known.
    type State: Default + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// The aggregates it follows: `reactions.to::<Order>()`.
    fn reactions(reactions: Reactions<Self>) -> Reactions<Self>;

    /// What follows from a deadline that has come. It is no longer set when this is asked; setting it again repeats it.
    ///
    /// Everything that was in the log when it came due has been reacted to before.
    fn on_deadline(&self, _state: &Self::State, _due: &Due<'_>) -> Reaction<Self::State> {
        Reaction::none()
    }

    /// Who its commands are from: by default `system:` and the name, with hyphens.
    fn principal(&self) -> String {
        format!("system:{}", Self::NAME.replace('_', "-"))
    }
}

/// What follows from the events of one aggregate.
pub trait ReactTo<A: Aggregate>: ProcessManager {
    /// The key of the instance that this event concerns; none when it concerns nobody. By default that of its stream.
    fn instance<'e>(&self, event: &TypedEvent<'e, A::Event>) -> Option<Cow<'e, str>> {
        Some(Cow::Borrowed(event.recorded.stream.key()))
    }

    /// What follows from the event for this instance.
    fn react(&self, state: &Self::State, event: &TypedEvent<'_, A::Event>) -> Reaction<Self::State>;
}

/// A deadline that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due<'a> {
    /// The instance.
    pub key: &'a str,
    /// What the deadline was called when it was set.
    pub name: &'a str,
    /// For when it was set; not when it was noticed.
    pub at: DateTime<Utc>,
}

/// What a process manager answers to an event or a deadline.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Reaction<S> {
    next: Next<S>,
    commands: Vec<OutgoingCommand>,
    deadlines: Vec<DeadlineChange>,
    fault: Option<Misuse>,
}

/// What becomes of the instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Next<S> {
    Same,
    State(S),
    End,
}

/// A command on its way, whatever its aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingCommand {
    /// To which aggregate.
    pub stream: StreamId,
    /// The command as JSON text.
    pub json: Box<str>,
}

/// A deadline set or cancelled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadlineChange {
    /// Set, in place of one of the same name.
    Set {
        /// Its name within the instance.
        name: Cow<'static, str>,
        /// When it comes.
        at: DateTime<Utc>,
    },
    /// Cancelled, if it is set.
    Cancel {
        /// Its name within the instance.
        name: Cow<'static, str>,
    },
}

impl<S> Reaction<S> {
    /// The instance stays as it is.
    pub fn none() -> Self {
        Self { next: Next::Same, commands: Vec::new(), deadlines: Vec::new(), fault: None }
    }

    /// The instance begins, or goes on, with this state.
    pub fn state(state: S) -> Self {
        Self { next: Next::State(state), ..Self::none() }
    }

    /// The instance ends: its state is forgotten and all its deadlines are cancelled. Commands are still sent.
    pub fn end() -> Self {
        Self { next: Next::End, ..Self::none() }
    }

    /// Sends a command, behind those that this instance has sent before.
    pub fn send<A: Aggregate>(mut self, to: &AggregateId<A>, command: A::Command) -> Self {
        match serde_json::to_string(&command) {
            Ok(json) => {
                self.commands.push(OutgoingCommand { stream: to.stream().clone(), json: json.into() });
            }
            Err(error) => self.fault = Some(Misuse(format!("a command cannot be written as JSON: {error}"))),
        }
        self
    }

    /// Sets a deadline, in place of one of the same name; one in the past comes at once. Microseconds count.
    pub fn set_deadline(mut self, name: impl Into<Cow<'static, str>>, at: DateTime<Utc>) -> Self {
        self.deadlines.push(DeadlineChange::Set { name: name.into(), at: at.trunc_subsecs(6) });
        self
    }

    /// Cancels a deadline, if it is set.
    pub fn cancel_deadline(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.deadlines.push(DeadlineChange::Cancel { name: name.into() });
        self
    }

    /// The commands, in the order they are sent.
    pub fn commands(&self) -> &[OutgoingCommand] {
        &self.commands
    }

    /// What it does to deadlines, in order.
    pub fn deadlines(&self) -> &[DeadlineChange] {
        &self.deadlines
    }

    /// The parts, when they can be carried out.
    ///
    /// # Errors
    /// [`Misuse`] says what no engine can do.
    pub(crate) fn checked(self) -> Result<Parts<S>, Misuse> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if self.commands.len() > MAX_COMMANDS_A_REACTION {
            return Err(Misuse(format!(
                "a reaction sends {} commands, more than {MAX_COMMANDS_A_REACTION}",
                self.commands.len()
            )));
        }
        for command in &self.commands {
            command.stream.validate().map_err(|error| Misuse(format!("a command cannot be sent: {error}")))?;
        }
        for change in &self.deadlines {
            let (DeadlineChange::Set { name, .. } | DeadlineChange::Cancel { name }) = change;
            if name.is_empty() || name.len() > MAX_DEADLINE_NAME_BYTES || name.chars().any(char::is_control) {
                return Err(Misuse(format!("{name:?} cannot be the name of a deadline")));
            }
        }
        Ok(Parts { next: self.next, commands: self.commands, deadlines: self.deadlines })
    }
}

/// A reaction that can be carried out.
pub(crate) struct Parts<S> {
    pub(crate) next: Next<S>,
    pub(crate) commands: Vec<OutgoingCommand>,
    pub(crate) deadlines: Vec<DeadlineChange>,
}

/// A reaction that cannot be carried out: a defect in the manager's code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Why an event was not reacted to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReactError {
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the event at position {position} concerns an instance that cannot be: {source}")]
    Key {
        position: u64,
        #[source]
        source: InvalidStreamId,
    },
}

type Handler<M> = fn(&M, &RecordedEvent, &mut Instances<'_, M>) -> Result<(), ReactError>;

/// Shows the state of an instance, and takes the reaction.
pub(crate) trait InstanceStates<S> {
    fn state(&self, key: &str) -> Option<&S>;
    fn take(&mut self, key: &str, reaction: Reaction<S>);
}

type Instances<'a, M> = dyn InstanceStates<<M as ProcessManager>::State> + 'a;

/// The aggregates that a process manager follows.
pub struct Reactions<M: ProcessManager> {
    handlers: HashMap<&'static str, Handler<M>>,
}

impl<M: ProcessManager> Reactions<M> {
    /// What `M` follows.
    pub fn of() -> Self {
        M::reactions(Self { handlers: HashMap::new() })
    }

    /// Follows `A` too.
    #[must_use]
    pub fn to<A: Aggregate>(mut self) -> Self
    where
        M: ReactTo<A>,
    {
        self.handlers.insert(A::CATEGORY, |manager, recorded, instances| {
            with_decoded::<A, _>(recorded, |data| {
                let event = TypedEvent { data, recorded };
                let Some(key) = manager.instance(&event) else { return Ok(()) };
                StreamId::new(A::CATEGORY, &key)
                    .validate()
                    .map_err(|source| ReactError::Key { position: recorded.position.0, source })?;
                let reaction = match instances.state(&key) {
                    Some(state) => manager.react(state, &event),
                    None => manager.react(&M::State::default(), &event),
                };
                instances.take(&key, reaction);
                Ok(())
            })?
        });
        self
    }

    /// Has the manager react to one event; those of other aggregates concern nobody.
    ///
    /// # Errors
    /// [`ReactError`] when this program cannot understand the event, or its instance cannot be.
    pub(crate) fn react(
        &self,
        manager: &M,
        event: &RecordedEvent,
        instances: &mut Instances<'_, M>,
    ) -> Result<(), ReactError> {
        match self.handlers.get(event.stream.category()) {
            Some(handler) => handler(manager, event, instances),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
