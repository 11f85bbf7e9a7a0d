//! This file compares what is settled with the outside, slowly, and puts up for another call what drifted, when told.
//! What is outside and belongs to nobody comes last ([`super::survey`]).

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::call::fold;
use super::row::SubjectRow;
use super::{Change, Message, Worker};
use crate::synchroniser::{Call, Drift, Found, Reconciliation, Seen, Synchroniser};

/// The pass that goes on, or the last one.
#[derive(Default)]
pub(crate) struct Pass {
    pub(crate) report: Option<Reconciliation>,
}

impl Pass {
    fn is_going_on(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.finished_at.is_none())
    }
}

/// Rows taken from the book at once.
const PAGE: usize = 256;

impl<S: Synchroniser> Worker<S> {
    /// Begins a pass; false when one is going on.
    pub(crate) fn reconcile(self: &Arc<Self>, repairs: bool, stop: CancellationToken) -> bool {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if pass.is_going_on() {
            return false;
        }
        let told = pass.report.take().map(|report| strays_of(&report)).unwrap_or_default();
        pass.report = Some(Reconciliation {
            started_at: self.clock.now(),
            finished_at: None,
            repairs,
            checked: 0,
            passed_over: 0,
            surveyed: None,
            drifted: 0,
            drifts: Vec::new(),
        });
        drop(pass);
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = worker.look_at_all(repairs, &told) => {}
            }
            worker.note(|report| report.finished_at = Some(worker.clock.now()));
            info!(synchroniser = S::NAME, "reconciled");
        });
        true
    }

    /// The pass that goes on, or the last one.
    pub(crate) fn reconciliation(&self) -> Option<Reconciliation> {
        self.pass.lock().unwrap_or_else(PoisonError::into_inner).report.clone()
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut Reconciliation)) {
        let mut pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = &mut pass.report {
            change(report);
        }
    }

    async fn look_at_all(&self, repairs: bool, told: &BTreeSet<Found>) {
        let mut beat = tokio::time::interval(Duration::from_secs(1) / self.pace.reconcile_per_second);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look_at_subjects(repairs, &mut beat).await;
        self.look_for_strays(repairs, told, &mut beat).await;
    }

    async fn look_at_subjects(&self, repairs: bool, beat: &mut Interval) {
        let mut after: Option<String> = None;
        loop {
            let rows = self.book().rows_after(after.as_deref(), PAGE);
            let Some(last) = rows.last() else { return };
            after = Some(last.subject.clone());
            // What is pending or set aside differs as a matter of course.
            for row in rows.iter().filter(|row| is_settled(row)) {
                beat.tick().await;
                self.look_at(row, repairs).await;
            }
        }
    }

    async fn look_at(&self, row: &SubjectRow, repairs: bool) {
        let differs = self.compare(row).await;
        let is_unchanged = self.book().get(&row.subject).is_some_and(|now| is_settled(now) && now.synced == row.synced);
        match differs {
            Some(differs) if is_unchanged && differs.is_empty() => self.note(|report| report.checked += 1),
            Some(differs) if is_unchanged => {
                let repaired = repairs && self.repair(&row.subject).await;
                let (subject, version) = (row.subject.clone(), row.synced);
                self.note(|report| report.checked += 1);
                self.note_drift(Drift { subject, version, differs, outside_id: None, repaired });
            }
            _ => self.note(|report| report.passed_over += 1),
        }
    }

    pub(super) fn note_drift(&self, drift: Drift) {
        self.note(|report| {
            report.drifted += 1;
            if report.drifts.len() < Reconciliation::MAX_DRIFTS {
                report.drifts.push(drift);
            }
        });
    }

    /// The names of what differs; none when that cannot be known now.
    async fn compare(&self, row: &SubjectRow) -> Option<Vec<String>> {
        if self.breaker().open_since().is_some() {
            return None;
        }
        let folded = fold::<S::Subject>(&self.store, &row.subject, row.synced).await.ok()?;
        let call = Call {
            subject: &row.subject,
            wanted: &folded.state,
            version: row.synced,
            attempt: 1,
            outside_id: row.outside_id.as_deref(),
        };
        match tokio::time::timeout(self.pace.call_deadline, self.synchroniser.read_back(&call)).await {
            Ok(Ok(Seen::InStep(_))) => Some(Vec::new()),
            Ok(Ok(Seen::Differs(differs))) => Some(differs),
            Ok(Err(failure)) => {
                debug!(synchroniser = S::NAME, %failure, "a subject could not be looked at");
                None
            }
            Err(_) => None,
        }
    }

    async fn repair(&self, subject: &str) -> bool {
        let (reply, done) = oneshot::channel();
        self.send(Message::Change(Change::Repair(subject.to_owned()), reply)) && done.await.unwrap_or(false)
    }
}

/// What a report said belongs to nobody.
fn strays_of(report: &Reconciliation) -> BTreeSet<Found> {
    let stray = |drift: &Drift| {
        let outside_id = drift.outside_id.clone()?;
        Some(Found { subject: drift.subject.clone(), outside_id })
    };
    report.drifts.iter().filter_map(stray).collect()
}

fn is_settled(row: &SubjectRow) -> bool {
    row.parked.is_none() && row.wanted == row.synced
}
