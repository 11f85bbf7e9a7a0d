//! This file watches the journal's task: if it dies, its actor fails, and its supervisor starts it again.

use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::Mutex;

use super::journal::Journal;

/// Where the journal's state stays while its task comes and goes. Empty once it was closed.
pub(crate) type JournalSlot = Arc<Mutex<Option<Journal>>>;

/// The stateless half.
pub(crate) struct JournalActor;

/// The task ended: by itself, or by dying.
pub(crate) struct Ended(Result<(), tokio::task::JoinError>);

impl Actor for JournalActor {
    type Msg = Ended;
    type State = ();
    type Arguments = (JournalSlot, bool);

    async fn pre_start(
        &self,
        myself: ActorRef<Ended>,
        (slot, is_restart): (JournalSlot, bool),
    ) -> Result<(), ActorProcessingErr> {
        let task = tokio::spawn(async move {
            if let Some(journal) = slot.lock().await.as_mut() {
                if is_restart {
                    journal.doubt();
                }
                journal.run().await;
            }
        });
        tokio::spawn(async move {
            // A watcher that is gone watches nothing.
            let _ = myself.send_message(Ended(task.await));
        });
        Ok(())
    }

    async fn handle(&self, _: ActorRef<Ended>, Ended(result): Ended, (): &mut ()) -> Result<(), ActorProcessingErr> {
        result.map_err(|error| Box::new(error) as ActorProcessingErr)
    }
}
