//! This file turns what users did at the identity provider into commands: logins, verified addresses.
//!
//! Each event is a command under an id made of the provider's name and the event's own id, so that one given twice, by
//! the provider or after a crash, counts once. The cursor is a row in a table of its own, saved behind the commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::super::built_in::EVENT_CURSORS;
use crate::aggregate::Aggregate;
use crate::clock::{Clock, SystemClock};
use crate::command::{ExecuteError, Options};
use crate::domain::user::{User, UserCommand};
use crate::engine::Engine;
use crate::event::{ChainHash, CommandId};
use crate::identity::{
    EventCursor, EventKind, IdentityProvider, Lookup, MAX_PAGE, ProviderError, ProviderEvent, ProviderId,
};
use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::{Checkpoint, CheckpointSave, StoreError};
use crate::stream::GlobalPosition;
use crate::synchroniser::Synchroniser;
use crate::synchronisers::user_accounts::UserAccounts;

/// Looks at the provider again and again, until `stop`.
pub(super) async fn poll(
    engine: Engine,
    provider: Arc<dyn IdentityProvider>,
    every: Duration,
    stop: CancellationToken,
) {
    let mut poller = Poller { engine, provider, cursor: None, accounts: HashMap::new() };
    loop {
        let pause = poller.turn_and_pause(every).await;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The least pause after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Accounts whose users are remembered; then they are asked for again.
const MAX_ACCOUNTS: usize = 10_000;

struct Poller {
    engine: Engine,
    provider: Arc<dyn IdentityProvider>,
    /// None before it was loaded.
    cursor: Option<Saved>,
    accounts: HashMap<ProviderId, Option<Uuid>>,
}

/// The cursor as it is in its row.
#[derive(Debug, Clone, Default)]
struct Saved {
    cursor: Option<EventCursor>,
    /// Whether there is a row.
    is_there: bool,
}

/// Why a look was not made to its end.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The command may be sent again, under the same id.
    #[error("a command was not taken: {0}")]
    Command(String),
}

impl Poller {
    /// Takes one page, unless the provider is to be left alone; how long to wait for the next one.
    async fn turn_and_pause(&mut self, every: Duration) -> Duration {
        if self.is_left_alone() {
            return RETRY;
        }
        match self.turn().await {
            // More may be there already.
            Ok(seen) if seen == MAX_PAGE as usize => Duration::ZERO,
            Ok(_) => every,
            Err(error) => {
                warn!(%error, "what users did at the identity provider was not read; it is tried again");
                every.max(RETRY)
            }
        }
    }

    /// Whether the synchroniser takes the provider for unavailable: then it probes, and nobody beside it. Where it has
    /// nothing to bring nobody probes but we.
    fn is_left_alone(&self) -> bool {
        let status = self.engine.synchroniser(UserAccounts::NAME).map(|handle| handle.status());
        status.is_some_and(|status| status.unavailable_for.is_some() && status.pending > 0)
    }

    /// Takes one page; how many events it had.
    async fn turn(&mut self) -> Result<usize, PollError> {
        let saved = match self.cursor.clone() {
            Some(saved) => saved,
            None => self.load().await?,
        };
        let page = self.provider.events(saved.cursor.as_ref(), MAX_PAGE).await?;
        for event in &page.events {
            self.take(event).await?;
        }
        if page.next.is_some() && page.next != saved.cursor {
            self.save(Saved { cursor: page.next, is_there: saved.is_there }).await?;
        }
        if !page.events.is_empty() {
            debug!(events = page.events.len(), "what users did at the identity provider was taken");
        }
        Ok(page.events.len())
    }

    async fn take(&mut self, event: &ProviderEvent) -> Result<(), PollError> {
        let Some(user_id) = self.user_of(&event.account).await? else { return Ok(()) };
        let Some(command) = command(event) else { return Ok(()) };
        let key = format!("{} event {}", self.provider.name(), event.id);
        let options = Options {
            command_id: Some(CommandId::from_key(PRINCIPAL, &key)),
            principal: Some(PRINCIPAL.into()),
            internal: true,
            ..Options::default()
        };
        match self.engine.execute_with(&User::id(user_id), command, options).await {
            // One that the user refuses, because it was deleted meanwhile, is refused for ever.
            Ok(_) | Err(ExecuteError::Rejected { .. }) => Ok(()),
            Err(ExecuteError::CommandIdReused) => {
                info!("the identity provider gave an event again with another content; it is passed over");
                Ok(())
            }
            Err(error) => Err(PollError::Command(error.to_string())),
        }
    }

    /// Which of our users the account belongs to; none when it is none of ours, or gone.
    async fn user_of(&mut self, account: &ProviderId) -> Result<Option<Uuid>, PollError> {
        if let Some(user_id) = self.accounts.get(account) {
            return Ok(*user_id);
        }
        let user_id = self.provider.read(Lookup::Id(account)).await?.and_then(|account| account.user_id);
        if self.accounts.len() >= MAX_ACCOUNTS {
            self.accounts.clear();
        }
        // An account may become ours later; who is nobody's is asked for again.
        if user_id.is_some() {
            self.accounts.insert(account.clone(), user_id);
        }
        Ok(user_id)
    }

    async fn load(&mut self) -> Result<Saved, StoreError> {
        let (store, table) = (self.engine.store(), table());
        store.prepare_table(&table).await?;
        let provider = Value::Text(self.provider.name().to_owned());
        let mut cursor = None;
        let checkpoint = store
            .load_table(&table, &mut |mut row| {
                if let (true, Some(Value::Text(text))) = (row.first() == Some(&provider), row.pop()) {
                    cursor = Some(EventCursor(text));
                }
                Ok(())
            })
            .await?;
        let saved = Saved { cursor, is_there: checkpoint.is_some() };
        self.cursor = Some(saved.clone());
        Ok(saved)
    }

    async fn save(&mut self, saved: Saved) -> Result<(), StoreError> {
        let Some(EventCursor(cursor)) = saved.cursor.clone() else { return Ok(()) };
        // Whatever becomes of the save, the row is what counts afterwards.
        self.cursor = None;
        let table = table();
        let save = CheckpointSave {
            table: &table,
            previous: saved.is_there.then_some(GlobalPosition::START),
            checkpoint: Checkpoint {
                projection: table.projection.clone(),
                version: table.version,
                // The provider's events have no place in our log.
                position: GlobalPosition::START,
                chain_hash: ChainHash::START,
                epoch: self.engine.epoch(),
                saved_at: SystemClock.now(),
            },
            upserts: vec![vec![Value::Text(self.provider.name().to_owned()), Value::Text(cursor)]],
            deletes: Vec::new(),
            replace_all: false,
        };
        let store = Arc::clone(self.engine.store());
        store.save_checkpoint(save).await?;
        self.cursor = Some(Saved { is_there: true, ..saved });
        Ok(())
    }
}

/// What the event means to the user it is about; nothing when it is about an address that no user of ours can have.
fn command(event: &ProviderEvent) -> Option<UserCommand> {
    Some(match (event.kind, &event.email) {
        (EventKind::Login, _) => UserCommand::RecordLogin { at: event.at.into() },
        // By now the user may have another address, which nobody has shown to be theirs.
        (EventKind::EmailVerified, Some(email)) => UserCommand::ConfirmEmail { email: email.clone().try_into().ok()? },
        (EventKind::EmailVerified, None) => UserCommand::VerifyEmail,
    })
}

const PRINCIPAL: &str = "identity-provider";

const COLUMNS: &[Column] =
    &[Column::required("provider", ColumnKind::Text), Column::required("cursor", ColumnKind::Text)];

/// Where the cursor is kept.
fn table() -> TableSpec {
    TableSpec { projection: EVENT_CURSORS.into(), view: EVENT_CURSORS.into(), version: 1, columns: COLUMNS }
}
