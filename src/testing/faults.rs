//! This file is the switchboard of a [`FaultyStore`](super::FaultyStore): what is to go wrong, and when.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::store::{Batch, StoreError};

/// What goes wrong with one append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFault {
    /// It is not executed, and answered so: [`StoreError::Unavailable`].
    NotExecuted,
    /// It is executed, and the answer is lost: [`StoreError::Unknown`].
    AnswerLost,
    /// It is lost on its way, which looks the same: [`StoreError::Unknown`].
    BatchLost,
    /// It is not executed: the store's own code panics before.
    PanicBefore,
    /// It is executed, and the store's own code panics behind.
    PanicBehind,
    /// The store's own code panics while it is on its way: it arrives just before the log is reclaimed.
    PanicMeanwhile,
}

/// Says what goes wrong; clones are handles to the same switches. At first nothing does.
#[derive(Debug, Clone)]
pub struct Faults {
    switches: Arc<Mutex<Switches>>,
    held: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
    stopped: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Switches {
    appends: VecDeque<AppendFault>,
    appends_with: BTreeMap<String, AppendFault>,
    append_delay: Duration,
    refused_types: BTreeSet<String>,
    reads_fail: bool,
    read_delay: Duration,
    saves_fail: bool,
    refused_saves: u64,
    early_snapshots: u64,
    steps: u64,
    stop_at: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            switches: Arc::default(),
            held: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            stopped: watch::Sender::new(false),
        }
    }
}

impl Faults {
    /// The next append goes wrong so. Called again before it came, it is about the one after that.
    pub fn next_append(&self, fault: AppendFault) {
        self.switches().appends.push_back(fault);
    }

    /// The next append that has an event of this type goes wrong so.
    pub fn next_append_of_type(&self, event_type: &str, fault: AppendFault) {
        self.switches().appends_with.insert(event_type.to_owned(), fault);
    }

    /// Every append takes this much longer; zero ends it.
    pub fn delay_appends(&self, by: Duration) {
        self.switches().append_delay = by;
    }

    /// Appends wait before they are executed, until [`Faults::release_appends`].
    pub fn hold_appends(&self) {
        self.held.send_replace(true);
    }

    /// Lets appends go on.
    pub fn release_appends(&self) {
        self.held.send_replace(false);
    }

    /// Returns once an append waits for its release.
    pub async fn append_is_held(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as this handle.
        let _ = waiting.wait_for(|&count| count > 0).await;
    }

    /// Batches with an event of this type are refused from now on: [`StoreError::Data`].
    pub fn refuse_events_of_type(&self, event_type: &str) {
        self.switches().refused_types.insert(event_type.to_owned());
    }

    /// Every read fails with [`StoreError::Unavailable`] until [`Faults::mend_reads`].
    pub fn fail_reads(&self) {
        self.switches().reads_fail = true;
    }

    /// Reads succeed again.
    pub fn mend_reads(&self) {
        self.switches().reads_fail = false;
    }

    /// Every read takes this much longer; zero ends it.
    pub fn delay_reads(&self, by: Duration) {
        self.switches().read_delay = by;
    }

    /// Every save of a checkpoint fails with [`StoreError::Unavailable`] until [`Faults::mend_saves`].
    pub fn fail_saves(&self) {
        self.switches().saves_fail = true;
    }

    /// Checkpoints are saved again.
    pub fn mend_saves(&self) {
        self.switches().saves_fail = false;
    }

    /// How many saves of checkpoints failed so.
    pub fn refused_saves(&self) -> u64 {
        self.switches().refused_saves
    }

    /// How many snapshots were to be saved of a version that was not in the log, as no engine may.
    pub fn early_snapshots(&self) -> u64 {
        self.switches().early_snapshots
    }

    pub(super) fn note_early_snapshot(&self) {
        self.switches().early_snapshots += 1;
    }

    /// Every call takes two steps, one before its effect and one behind it; from the `step`-th since the store was
    /// wrapped (≥ 1) nothing is answered any more, as if the process had been killed there. To go on, drop the runtime
    /// and open the store inside anew.
    pub fn stop_at(&self, step: u64) {
        self.switches().stop_at = Some(step);
    }

    /// Returns once nothing is answered any more.
    pub async fn stopped(&self) {
        let mut stopped = self.stopped.subscribe();
        // The sender lives as long as this handle.
        let _ = stopped.wait_for(|&stopped| stopped).await;
    }

    /// One step: before or behind the effect of a call.
    pub(super) async fn step(&self) {
        let has_stopped = {
            let mut switches = self.switches();
            switches.steps += 1;
            switches.stop_at.is_some_and(|step| switches.steps >= step)
        };
        if has_stopped {
            self.stopped.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    /// What goes wrong with an append that comes now, once it may be executed.
    pub(super) async fn before_append(&self, batch: &Batch) -> Result<Option<AppendFault>, StoreError> {
        let delay = self.switches().append_delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.pass_the_hold().await;
        let mut switches = self.switches();
        if let Some(event) = batch.events.iter().find(|event| switches.refused_types.contains(&*event.event_type)) {
            return Err(StoreError::Data { what: format!("events of type {} are refused", event.event_type) });
        }
        let of_its_type = batch.events.iter().find_map(|event| switches.appends_with.remove(&*event.event_type));
        Ok(of_its_type.or_else(|| switches.appends.pop_front()))
    }

    pub(super) async fn before_read(&self) -> Result<(), StoreError> {
        let (fail, delay) = {
            let switches = self.switches();
            (switches.reads_fail, switches.read_delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if fail { Err(StoreError::Unavailable { what: "reading", source: None }) } else { Ok(()) }
    }

    pub(super) fn before_save(&self) -> Result<(), StoreError> {
        let mut switches = self.switches();
        if !switches.saves_fail {
            return Ok(());
        }
        switches.refused_saves += 1;
        Err(StoreError::Unavailable { what: "saving a checkpoint", source: None })
    }

    async fn pass_the_hold(&self) {
        let mut held = self.held.subscribe();
        let _waiting = Waiting::count(&self.waiting, *held.borrow());
        // The sender lives as long as this handle.
        let _ = held.wait_for(|&held| !held).await;
    }

    fn switches(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one append as waiting, until it is dropped.
struct Waiting<'a>(Option<&'a watch::Sender<usize>>);

impl<'a> Waiting<'a> {
    fn count(waiting: &'a watch::Sender<usize>, held: bool) -> Self {
        if !held {
            return Self(None);
        }
        waiting.send_modify(|count| *count += 1);
        Self(Some(waiting))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.0 {
            waiting.send_modify(|count| *count -= 1);
        }
    }
}
