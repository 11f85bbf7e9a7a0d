//! This file goes through what is outside and carries a key of ours, and reports what belongs to no subject of the log.
//!
//! Our own subjects, deleted ones too, are compared one by one before; what is left is what the log never knew, or
//! does not know any more after it was restored. Removing it cannot be undone, so that is done only for what an
//! earlier pass has reported, and only when told.

use std::collections::BTreeSet;

use tokio::time::Interval;
use tracing::{debug, warn};

use super::Worker;
use crate::aggregate::Aggregate;
use crate::stream::{StreamId, Version};
use crate::synchroniser::{Drift, Failure, Found, Reconciliation, Survey, Synchroniser};

/// Tries for one page, a beat apart.
const TRIES: u32 = 8;

impl<S: Synchroniser> Worker<S> {
    /// Looks through the outside, a page a beat; removes, when `repairs`, what is in `told`.
    pub(super) async fn look_for_strays(&self, repairs: bool, told: &BTreeSet<Found>, beat: &mut Interval) {
        let (mut strays, mut surveyed, mut place) = (Vec::new(), 0, Some(0));
        while let Some(skip) = place {
            let Some(page) = self.page(skip, beat).await else { break };
            surveyed += page.found.len() as u64;
            for found in page.found {
                if strays.len() < Reconciliation::MAX_DRIFTS && self.is_stray(&found).await {
                    strays.push(found);
                }
            }
            place = page.next;
        }
        if place.is_none() {
            self.note(|report| report.surveyed = Some(surveyed));
        }
        // Behind the last page: what is removed would shift those to come.
        for found in strays {
            let repaired = repairs && told.contains(&found) && self.removed(&found, beat).await;
            self.note_drift(Drift {
                subject: found.subject,
                version: Version::EMPTY,
                differs: vec![Drift::UNKNOWN.into()],
                outside_id: Some(found.outside_id),
                repaired,
            });
        }
    }

    /// One page; none when it cannot be had now.
    async fn page(&self, skip: u32, beat: &mut Interval) -> Option<Survey> {
        for _ in 0..TRIES {
            beat.tick().await;
            if self.breaker().open_since().is_some() {
                continue;
            }
            match self.within_deadline(self.synchroniser.survey(skip)).await {
                Ok(page) => return Some(page),
                Err(failure) => debug!(synchroniser = S::NAME, %failure, "the outside could not be listed"),
            }
        }
        warn!(synchroniser = S::NAME, "the outside could not be listed to its end; the next reconcile will try");
        None
    }

    /// The rows may be behind the log, so the log itself has the last word.
    async fn is_stray(&self, found: &Found) -> bool {
        if self.book().get(&found.subject).is_some() {
            return false;
        }
        let stream = StreamId::new(S::Subject::CATEGORY, &found.subject);
        self.store.read_stream(&stream, Version::EMPTY, 1).await.is_ok_and(|events| events.is_empty())
    }

    async fn removed(&self, found: &Found, beat: &mut Interval) -> bool {
        beat.tick().await;
        match self.within_deadline(self.synchroniser.remove(found)).await {
            Ok(()) => true,
            Err(failure) => {
                warn!(synchroniser = S::NAME, %failure, "what belongs to nobody was not removed");
                false
            }
        }
    }

    async fn within_deadline<T>(&self, asking: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let late = || Failure::Unknown { reason: "no answer within the deadline".into() };
        tokio::time::timeout(self.pace.call_deadline, asking).await.unwrap_or_else(|_| Err(late()))
    }
}
