//! This file is how a read model is read: now, or once it includes a position.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::watch;

use super::table::{Snapshot, Table};
use super::{Projection, Row};
use crate::health::ProjectionState;
use crate::stream::GlobalPosition;

/// Why a read model does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It did not reach the wanted position in time.
    #[error("the read model is at position {applied}, not yet at {wanted}")]
    Lagging {
        /// How far it is.
        applied: GlobalPosition,
        /// How far it should be.
        wanted: GlobalPosition,
    },
    /// The builder was not given this projection.
    #[error("projection {0} is not part of this engine")]
    NotRegistered(&'static str),
    /// It failed too often and is set aside until released.
    #[error("projection {name} is quarantined: {reason}")]
    Quarantined {
        /// Which one.
        name: &'static str,
        /// What failed.
        reason: String,
    },
}

/// Where a projection shows its rows. The table is replaced as a whole when the projection was restarted or rebuilt
/// and has caught up with what was shown.
pub(crate) struct Shown<P: Projection> {
    // Together, so that a reader takes one lock.
    front: RwLock<Front<P>>,
    position: watch::Sender<GlobalPosition>,
}

struct Front<P: Projection> {
    table: Arc<Table<P>>,
    state: ProjectionState,
}

impl<P: Projection> Default for Shown<P> {
    fn default() -> Self {
        Self {
            front: RwLock::new(Front { table: Arc::default(), state: ProjectionState::CatchingUp }),
            position: watch::Sender::new(GlobalPosition::START),
        }
    }
}

impl<P: Projection> Shown<P> {
    pub(crate) fn table(&self) -> Arc<Table<P>> {
        Arc::clone(&self.front().table)
    }

    /// The table, unless it must not be read.
    fn readable(&self) -> Result<Arc<Table<P>>, ReadError> {
        let front = self.front();
        match &front.state {
            ProjectionState::Quarantined(reason) => {
                Err(ReadError::Quarantined { name: P::NAME, reason: reason.clone() })
            }
            _ => Ok(Arc::clone(&front.table)),
        }
    }

    fn front(&self) -> RwLockReadGuard<'_, Front<P>> {
        self.front.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Front<P>> {
        self.front.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn replace(&self, table: Arc<Table<P>>) {
        let position = table.position();
        self.change().table = table;
        self.position.send_replace(position);
    }

    /// Wakes the readers that wait for a position.
    pub(crate) fn moved(&self) {
        self.position.send_replace(self.table().position());
    }

    pub(crate) fn state(&self) -> ProjectionState {
        self.front().state.clone()
    }

    pub(crate) fn set_state(&self, state: ProjectionState) {
        self.change().state = state;
    }
}

/// A handle on a projection's hot rows.
pub struct ReadModel<P: Projection> {
    shown: Option<Arc<Shown<P>>>,
    wait: Duration,
}

impl<P: Projection> Clone for ReadModel<P> {
    fn clone(&self) -> Self {
        Self { shown: self.shown.clone(), wait: self.wait }
    }
}

impl<P: Projection> ReadModel<P> {
    pub(crate) fn new(shown: Option<Arc<Shown<P>>>, wait: Duration) -> Self {
        Self { shown, wait }
    }

    /// The rows as they are now.
    ///
    /// # Errors
    /// [`ReadError::NotRegistered`], [`ReadError::Quarantined`].
    pub fn now(&self) -> Result<View<P>, ReadError> {
        let table = self.shown()?.readable()?;
        Ok(View { position: table.position(), table })
    }

    /// The rows once they include `position`: `model.at_least(receipt.position).await?`, with `.within(…)` to wait
    /// another time than the default.
    pub fn at_least(&self, position: GlobalPosition) -> AtLeast<P> {
        AtLeast { model: self.clone(), position, wait: self.wait }
    }

    fn shown(&self) -> Result<&Shown<P>, ReadError> {
        self.shown.as_deref().ok_or(ReadError::NotRegistered(P::NAME))
    }
}

/// A read that waits for its position.
pub struct AtLeast<P: Projection> {
    model: ReadModel<P>,
    position: GlobalPosition,
    wait: Duration,
}

impl<P: Projection> AtLeast<P> {
    /// Waits this long at most.
    #[must_use]
    pub fn within(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    async fn view(self) -> Result<View<P>, ReadError> {
        let view = self.model.now()?;
        if view.position >= self.position {
            return Ok(view);
        }
        let mut position = self.model.shown()?.position.subscribe();
        let reached = position.wait_for(|position| *position >= self.position);
        // Whether it was reached is read off the view itself; a time-out is no more than the end of waiting.
        let _ = tokio::time::timeout(self.wait, reached).await;
        let view = self.model.now()?;
        if view.position < self.position {
            return Err(ReadError::Lagging { applied: view.position, wanted: self.position });
        }
        Ok(view)
    }
}

impl<P: Projection> IntoFuture for AtLeast<P> {
    type Output = Result<View<P>, ReadError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.view())
    }
}

/// Hot rows that include at least [`View::position`].
pub struct View<P: Projection> {
    table: Arc<Table<P>>,
    position: GlobalPosition,
}

impl<P: Projection> View<P> {
    /// The position this view was answered at: what it shows is never older.
    pub fn position(&self) -> GlobalPosition {
        self.position
    }

    /// The row with this key.
    pub fn get(&self, key: &<P::Row as Row>::Key) -> Option<Arc<P::Row>> {
        self.table.get(key)
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Looks at rows, index, sums and position as of one instant. `look` must be short: the projection waits for it.
    pub fn read<T>(&self, look: impl FnOnce(&Snapshot<'_, P>) -> T) -> T {
        self.table.read(look)
    }
}
