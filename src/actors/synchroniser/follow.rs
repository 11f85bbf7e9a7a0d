//! This file pulls events into rows: intents raise what is wanted, recorded outcomes settle it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ractor::ActorProcessingErr;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Message, Working};
use crate::actors::feed::Recent;
use crate::aggregate::{Aggregate, DecodeError, with_decoded};
use crate::causes::with_causes;
use crate::event::RecordedEvent;
use crate::health::ProjectionState;
use crate::synchroniser::Synchroniser;

/// How long events are followed before others get the thread.
const SLICE: Duration = Duration::from_millis(2);
/// Pause before the store is asked again.
const PAUSE: Duration = Duration::from_millis(200);

/// How a slice ended.
enum Slice {
    /// All of it was followed, or time ran out.
    Done,
    /// The next event is not the one behind the last.
    Gap,
}

impl<S: Synchroniser> Working<S> {
    /// Follows what is new, up to a slice of time; asks itself to go on when there is more.
    pub(super) async fn pull(&mut self) -> Result<(), ActorProcessingErr> {
        self.worker.woken.store(false, Ordering::Release);
        if self.generation != self.worker.feed.generation() {
            return Err("the log went backwards; the rows are read anew".into());
        }
        if !self.is_loaded && !self.load().await? {
            return Ok(());
        }
        if self.is_full() {
            return Ok(());
        }
        let more = self.pull_slice().await?;
        if self.worker.position.swap(self.position.0, Ordering::AcqRel) != self.position.0 {
            self.worker.tell_settled();
        }
        self.go_live();
        if self.worker.book().dirty() >= self.worker.limits.checkpoint_rows {
            self.save();
        }
        if more {
            self.worker.wake();
        }
        Ok(())
    }

    async fn pull_slice(&mut self) -> Result<bool, ActorProcessingErr> {
        let slice = match self.worker.feed.after(self.position) {
            Recent::UpToDate => return Ok(false),
            Recent::Batches(batches) => {
                self.pages.clear();
                self.follow(batches.iter().flat_map(|batch| batch.iter()))?
            }
            Recent::TooOld => Slice::Gap,
        };
        if let Slice::Gap = slice {
            match self.pages.after(self.position).await {
                Ok(page) => {
                    self.follow(page.iter())?;
                }
                Err(error) => {
                    warn!(synchroniser = S::NAME, error = %with_causes(&error), "the log cannot be read");
                    self.wake_later();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    pub(super) fn wake_later(&self) {
        self.myself.send_after(PAUSE, || Message::Wake);
    }

    fn follow<'a>(&mut self, events: impl Iterator<Item = &'a RecordedEvent>) -> Result<Slice, DecodeError> {
        let until = Instant::now() + SLICE;
        for event in events {
            if event.position <= self.position {
                continue;
            }
            if event.position != self.position.next() {
                return Ok(Slice::Gap);
            }
            self.heed_event(event)?;
            self.position = event.position;
            self.chain_hash = event.hash;
            if Instant::now() >= until {
                break;
            }
        }
        Ok(Slice::Done)
    }

    fn heed_event(&mut self, event: &RecordedEvent) -> Result<(), DecodeError> {
        let category = event.stream.category();
        let (subject, now) = (event.stream.key(), || self.worker.clock.now());
        if category == S::Subject::CATEGORY && with_decoded::<S::Subject, _>(event, S::is_intent)? {
            self.worker.book().change(subject, now(), |row| row.want(event.version, event.position));
        } else if category == S::Record::CATEGORY
            && let Some(recorded) = with_decoded::<S::Record, _>(event, S::recorded)?
        {
            let mut book = self.worker.book();
            // An outcome that came by its call is in the row already.
            if book.get(subject).is_none_or(|row| row.outcome_at < event.position) {
                book.change(subject, now(), |row| {
                    row.recorded(recorded, event.position, event.recorded_at, &event.metadata.principal);
                });
                drop(book);
                self.worker.tell_settled();
            }
        }
        Ok(())
    }

    /// Lets calls begin once the log was followed up to where it went at the start.
    fn go_live(&mut self) {
        if self.position < self.ready_at || self.worker.state() != ProjectionState::CatchingUp {
            return;
        }
        let pending = {
            let mut book = self.worker.book();
            book.doubt_all_pending();
            book.pending()
        };
        info!(synchroniser = S::NAME, position = self.position.0, pending, "caught up");
        self.worker.set_state(ProjectionState::Live);
    }
}
