//! This file lets an operator do without a version that failed: first it is recorded, then the row follows.

use tokio::sync::oneshot;
use tracing::warn;

use super::call::bounded;
use super::{Change, Message, Worker};
use crate::command::Options;
use crate::stream::GlobalPosition;
use crate::synchroniser::{Outcome, Skip, Synchroniser};

impl<S: Synchroniser> Worker<S> {
    /// Records that `by` does without the version that failed, and why; what waited behind it is brought. False when
    /// the subject is no dead letter; none when that cannot be done at present. Killed in between, the row follows
    /// from the log.
    pub(crate) async fn skip(&self, subject: &str, reason: &str, by: &str) -> Option<bool> {
        let found = self.book().get(subject).and_then(|row| Some((row.parked.as_ref()?.version, row.round)));
        let Some((version, round)) = found else { return Some(false) };
        let skip = Skip { by: by.to_owned(), reason: bounded(reason), at: self.clock.now() };
        let outcome = Outcome::Skipped { version, reason: skip.reason.clone() };
        let options = Options {
            command_id: Some(outcome.effect_id(S::NAME, subject, round)),
            principal: Some(by.to_owned()),
            internal: true,
            ..Options::default()
        };
        let position = match self.record(&outcome, subject, options).await {
            Ok(position) => position,
            Err(reason) => {
                warn!(synchroniser = S::NAME, reason, "a dead letter was not skipped");
                return None;
            }
        };
        if position == GlobalPosition::START && S::record(&outcome).is_some() {
            // Somebody else was faster, with other words, which are those in the log.
            return Some(false);
        }
        let (reply, answer) = oneshot::channel();
        let change = Change::Skip { subject: subject.to_owned(), version, skip, position };
        if self.send(Message::Change(change, reply)) { answer.await.ok() } else { None }
    }
}
