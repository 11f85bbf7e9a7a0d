//! This file lets the engine speak to dispatchers and projections of any type.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::BoxFuture;

use super::Engine;
use crate::actors::dispatcher::Dispatcher;
use crate::actors::process_manager::Sent;
use crate::actors::process_manager::row::Command;
use crate::actors::projection::{Follower, Message as ProjectionMessage};
use crate::aggregate::Aggregate;
use crate::health::ProjectionStatus;
use crate::projections::Projection;
use crate::projections::table::Digest;
use crate::stream::{GlobalPosition, StreamId};

/// A dispatcher of any kind of aggregate.
pub(super) trait AnyDispatcher: Send + Sync {
    fn category(&self) -> &'static str;
    fn release(&self, stream: &StreamId) -> bool;
    fn resident(&self) -> usize;
    /// Executes a command that is JSON text.
    fn send(&self, engine: Engine, command: Command, principal: String) -> BoxFuture<'static, Sent>;
}

impl<A: Aggregate> AnyDispatcher for Arc<Dispatcher<A>> {
    fn category(&self) -> &'static str {
        A::CATEGORY
    }

    fn release(&self, stream: &StreamId) -> bool {
        Dispatcher::release(self, stream)
    }

    fn resident(&self) -> usize {
        self.len()
    }

    fn send(&self, engine: Engine, command: Command, principal: String) -> BoxFuture<'static, Sent> {
        Box::pin(super::process_managers::send::<A>(engine, command, principal))
    }
}

/// A follower of any projection.
pub(super) trait AnyFollower: Send + Sync {
    fn status(&self) -> ProjectionStatus;
    fn digest(&self) -> (GlobalPosition, Digest);
    fn tell(&self, message: ProjectionMessage) -> bool;
}

impl<P: Projection> AnyFollower for Follower<P> {
    fn status(&self) -> ProjectionStatus {
        let table = self.shown.table();
        ProjectionStatus {
            name: P::NAME,
            view: P::TABLE.into(),
            version: P::VERSION,
            position: table.position(),
            checkpoint: GlobalPosition(self.checkpoint.load(Ordering::Acquire)),
            rows: table.len(),
            state: self.shown.state(),
        }
    }

    fn digest(&self) -> (GlobalPosition, Digest) {
        self.shown.table().read(|snapshot| (snapshot.position(), snapshot.digest()))
    }

    fn tell(&self, message: ProjectionMessage) -> bool {
        self.send(message)
    }
}
