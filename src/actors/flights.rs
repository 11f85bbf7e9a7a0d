//! This file runs one command id at a time, across all aggregates: a second caller attaches to the first, and a known
//! outcome beats every other verdict.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;

use super::answer::{Answer, Ticket};
use super::batcher::Batcher;
use super::loader::retried;
use crate::event::CommandId;
use crate::store::{SharedStore, StoreError, StoredOutcome};

/// The commands whose outcome is kept and is not known yet.
pub(crate) struct Flights {
    flights: DashMap<CommandId, Flight>,
    outcomes: Batcher<CommandId, Option<StoredOutcome>>,
    max_flights: usize,
}

/// One command under way.
#[derive(Clone)]
pub(crate) struct Flight {
    fingerprint: [u8; 32],
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) answer: watch::Receiver<Option<Answer>>,
}

/// What joining came to.
pub(crate) enum Joined {
    /// The caller runs it and reports the answer through the landing.
    First(Flight, Landing),
    /// Another caller runs it.
    Attached(Flight),
    /// The id is in use for another command.
    OtherCommand,
    /// Too many are under way.
    Full,
}

/// Reports the answer of a flight and ends it, also when it is dropped without one.
pub(crate) struct Landing {
    flights: Arc<Flights>,
    command_id: CommandId,
    answer: watch::Sender<Option<Answer>>,
}

/// Outcomes looked up in one statement, and statements under way at once.
const MAX_LOOKUPS: (usize, usize) = (512, 2);

impl Flights {
    pub(crate) fn new(store: SharedStore, max_flights: usize) -> Arc<Self> {
        let outcomes = Batcher::start(MAX_LOOKUPS.0, MAX_LOOKUPS.1, move |ids: Vec<CommandId>| {
            let store = Arc::clone(&store);
            async move {
                let found = retried(|| store.read_outcomes(&ids)).await?;
                Ok(ids.iter().map(|id| found.iter().find(|outcome| outcome.command_id == *id).cloned()).collect())
            }
        });
        Arc::new(Self { flights: DashMap::new(), outcomes, max_flights })
    }

    /// Attaches to the flight of this id, or begins it.
    pub(crate) fn join(self: &Arc<Self>, command_id: CommandId, fingerprint: [u8; 32], ticket: &Arc<Ticket>) -> Joined {
        let is_full = self.flights.len() >= self.max_flights;
        match self.flights.entry(command_id) {
            Entry::Occupied(flight) if flight.get().fingerprint != fingerprint => Joined::OtherCommand,
            Entry::Occupied(flight) => Joined::Attached(flight.get().clone()),
            Entry::Vacant(_) if is_full => Joined::Full,
            Entry::Vacant(vacant) => {
                let (sender, answer) = watch::channel(None);
                let flight = Flight { fingerprint, ticket: Arc::clone(ticket), answer };
                vacant.insert(flight.clone());
                Joined::First(flight, Landing { flights: Arc::clone(self), command_id, answer: sender })
            }
        }
    }

    /// The kept outcome of a command, if there is one.
    pub(crate) async fn kept(&self, command_id: CommandId) -> Result<Option<StoredOutcome>, Arc<StoreError>> {
        self.outcomes.ask(command_id).await
    }
}

impl Landing {
    pub(crate) fn land(self, answer: Answer) {
        self.answer.send_replace(Some(answer));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        // Whoever is attached still gets the answer; whoever comes now finds it in the store.
        self.flights.flights.remove(&self.command_id);
    }
}
