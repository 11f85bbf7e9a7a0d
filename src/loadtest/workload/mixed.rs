//! This file mixes reads into the lives of payments; every read must include what its caller was told before.

use std::sync::Arc;

use uuid::Uuid;

use super::payments::{Life, look};
use super::{Answer, Caller, CallerSeed, Operation, Workload};
use crate::loadtest::random::Random;
use crate::loadtest::target::Payments;
use crate::stream::GlobalPosition;

/// Payments a caller remembers, to read them again.
const REMEMBERED: usize = 64;

/// Commands and reads of payments; a caller reads its own writes.
pub struct Mixed {
    target: Arc<dyn Payments>,
    reads: f64,
    refusals: f64,
}

impl Mixed {
    /// Against this target, with this share of reads, and this share of refusals among the commands (0 to 1).
    pub fn new(target: Arc<dyn Payments>, reads: f64, refusals: f64) -> Self {
        Self { target, reads, refusals }
    }
}

impl Workload for Mixed {
    fn name(&self) -> &str {
        "mixed"
    }

    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller> {
        let random = Random::part(seed.random.clone().next_u64(), 1);
        let life = Life::new(Arc::clone(&self.target), self.refusals, seed);
        Box::new(ReaderOfOwnWrites {
            target: Arc::clone(&self.target),
            reads: self.reads,
            life,
            random,
            written: Vec::new(),
            told: GlobalPosition::START,
            is_reading: false,
        })
    }
}

struct ReaderOfOwnWrites {
    target: Arc<dyn Payments>,
    reads: f64,
    life: Life,
    random: Random,
    /// Payments it has written to; the one it is at stands last.
    written: Vec<Uuid>,
    /// The highest position it was told, which every read of its must include.
    told: GlobalPosition,
    is_reading: bool,
}

impl Caller for ReaderOfOwnWrites {
    fn next(&mut self) -> Operation {
        self.is_reading = !self.written.is_empty() && self.random.happens(self.reads);
        if !self.is_reading {
            return self.life.step();
        }
        let payment = self.written[self.random.below(self.written.len() as u64) as usize];
        look(&self.target, "read", payment, self.told)
    }

    fn ended(&mut self, answer: &Answer) {
        if let Answer::Done { position, .. } | Answer::Seen { position, .. } = answer {
            self.told = self.told.max(*position);
        }
        if self.is_reading {
            return;
        }
        self.life.stepped(answer);
        let payment = self.life.payment();
        if matches!(answer, Answer::Done { .. }) && self.written.last() != Some(&payment) {
            if self.written.len() == REMEMBERED {
                self.written.remove(0);
            }
            self.written.push(payment);
        }
    }
}
