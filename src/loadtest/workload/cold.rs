//! This file touches many payments one after the other, so that each has to be loaded before it can decide.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;

use super::payments::{creation, order};
use super::{Caller, CallerSeed, Expected, Operation, Workload};
use crate::domain::payment::PaymentCommand;
use crate::loadtest::random::Random;
use crate::loadtest::target::Payments;

/// Lists that the payments are created in, side by side.
const LISTS: u64 = 64;

/// Commands to payments that nobody has touched for long.
///
/// Each command is one that a payment refuses where all of them stand, so that the population stays as it is: the
/// payment is loaded, it decides, the answer is durable, and no event is left.
pub struct Cold {
    target: Arc<dyn Payments>,
    population: u64,
    names: u64,
    turn: Arc<AtomicU64>,
}

impl Cold {
    /// Against this target, with so many payments, named after `names`. There must be far more of them than stay in
    /// the engine's memory.
    pub fn new(target: Arc<dyn Payments>, population: u64, names: u64) -> Self {
        Self { target, population, names, turn: Arc::default() }
    }

    fn id(names: u64, n: u64) -> Uuid {
        Random::part(names, n).uuid()
    }
}

impl Workload for Cold {
    fn name(&self) -> &str {
        "cold"
    }

    fn fill(&self, seed: &CallerSeed) -> Vec<Box<dyn Iterator<Item = Operation> + Send>> {
        let list =
            |list: u64| -> Box<dyn Iterator<Item = Operation> + Send> {
                let (target, names, mut random) = (Arc::clone(&self.target), self.names, seed.random.clone());
                let members = (list..self.population).step_by(LISTS as usize);
                Box::new(members.map(move |n| {
                    order(&target, "create", Self::id(names, n), creation(&mut random), Expected::Success)
                }))
            };
        (0..LISTS).map(list).collect()
    }

    fn caller(&self, _: CallerSeed) -> Box<dyn Caller> {
        let (target, turn) = (Arc::clone(&self.target), Arc::clone(&self.turn));
        Box::new(Toucher { target, turn, population: self.population, names: self.names })
    }
}

/// Takes the next payment of all in turn: the one that was touched longest ago.
struct Toucher {
    target: Arc<dyn Payments>,
    turn: Arc<AtomicU64>,
    population: u64,
    names: u64,
}

impl Caller for Toucher {
    fn next(&mut self) -> Operation {
        let n = self.turn.fetch_add(1, Ordering::Relaxed) % self.population;
        order(&self.target, "touch", Cold::id(self.names, n), PaymentCommand::Complete, Expected::Refusal)
    }
}
