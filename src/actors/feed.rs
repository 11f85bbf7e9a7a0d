//! This file keeps recent committed events in memory, bounded in bytes, and wakes those who follow them.
//!
//! Nobody's correctness rests on it: positions are dense, so a follower sees that it missed something and reads the
//! store instead.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::event::RecordedEvent;
use crate::store::Head;
use crate::stream::GlobalPosition;

/// The events of one commit.
pub(crate) type CommittedBatch = Arc<[RecordedEvent]>;

/// Recent events and the head they lead to.
pub(crate) struct Feed {
    ring: Mutex<Ring>,
    head: watch::Sender<GlobalPosition>,
    generation: AtomicU64,
    followers: Mutex<Vec<Box<dyn Fn() + Send + Sync>>>,
    max_bytes: usize,
}

struct Ring {
    batches: VecDeque<CommittedBatch>,
    bytes: usize,
    head: GlobalPosition,
}

/// What the feed has behind a position.
pub(crate) enum Recent {
    /// The batches that hold the next events; the first may begin before them.
    Batches(Vec<CommittedBatch>),
    /// Nothing: the position is the head.
    UpToDate,
    /// The next event is no longer kept.
    TooOld,
}

impl Feed {
    pub(crate) fn new(head: GlobalPosition, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            ring: Mutex::new(Ring { batches: VecDeque::new(), bytes: 0, head }),
            head: watch::Sender::new(head),
            generation: AtomicU64::new(0),
            followers: Mutex::new(Vec::new()),
            max_bytes,
        })
    }

    /// Calls `wake` after every commit, in the journal's task; it must only leave a note and return.
    pub(crate) fn follow(&self, wake: impl Fn() + Send + Sync + 'static) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(wake));
    }

    /// Position of the last durable event.
    pub(crate) fn head(&self) -> GlobalPosition {
        *self.head.borrow()
    }

    /// Moves with the head.
    pub(crate) fn watch(&self) -> watch::Receiver<GlobalPosition> {
        self.head.subscribe()
    }

    /// How often the log went backwards since the start.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Adds what was just committed.
    pub(crate) fn publish(&self, batch: CommittedBatch) {
        let Some(last) = batch.last() else { return };
        let head = last.position;
        let weight: usize = batch.iter().map(RecordedEvent::weight).sum();
        {
            let mut ring = self.ring();
            ring.batches.push_back(batch);
            ring.bytes += weight;
            ring.head = head;
            while ring.bytes > self.max_bytes {
                let Some(oldest) = ring.batches.pop_front() else { break };
                ring.bytes -= oldest.iter().map(RecordedEvent::weight).sum::<usize>();
            }
        }
        self.head.send_replace(head);
        self.wake_followers();
    }

    /// Forgets everything and continues from a head that was read in the store: after a take-over or a reconnect.
    pub(crate) fn restart_at(&self, head: GlobalPosition) {
        {
            let mut ring = self.ring();
            *ring = Ring { batches: VecDeque::new(), bytes: 0, head };
        }
        self.head.send_replace(head);
        self.wake_followers();
    }

    /// The log went backwards: what was said of positions behind `head` no longer holds.
    pub(crate) fn went_backwards_to(&self, head: &Head) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.restart_at(head.position);
    }

    /// What is kept behind `after`.
    pub(crate) fn after(&self, after: GlobalPosition) -> Recent {
        let ring = self.ring();
        if after >= ring.head {
            return Recent::UpToDate;
        }
        // Batches are in order, so the first that ends behind `after` is found by halving.
        let first = ring.batches.partition_point(|batch| batch.last().is_some_and(|event| event.position <= after));
        match ring.batches.get(first).and_then(|batch| batch.first()) {
            Some(event) if event.position <= after.next() => {
                Recent::Batches(ring.batches.iter().skip(first).take(MAX_BATCHES_A_PULL).cloned().collect())
            }
            _ => Recent::TooOld,
        }
    }

    fn wake_followers(&self) {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|wake| wake());
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A follower comes back for more, so that no pull holds the ring for long.
const MAX_BATCHES_A_PULL: usize = 64;
