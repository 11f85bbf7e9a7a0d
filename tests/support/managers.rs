//! This file holds the process managers that the tests run over purses, and the places where their logs are kept.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use essaim::store::SharedStore;
use essaim::testing::whole_log;
use tempfile::TempDir;

use crate::postgres::Database;
use crate::support::{Purse, PurseCommand, PurseEvent, eventually};

/// Puts a cent where a note asks for it: `now`, or `in 50 ms`. `never` takes that back; `three` puts 1, 2 and 3.
/// `take` takes a thousand, which is refused, and puts a cent behind it. `panic` is a defect.
pub struct Clerk;

pub const CENT: PurseCommand = PurseCommand::Put { cents: 1 };

impl ProcessManager for Clerk {
    const NAME: &'static str = "clerk";
    /// How many cents it has put.
    type State = i64;

    fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
        reactions.to::<Purse>()
    }

    fn on_deadline(&self, put: &i64, due: &Due<'_>) -> Reaction<i64> {
        Reaction::state(put + 1).send(&Purse::id(due.key), CENT)
    }
}

impl ReactTo<Purse> for Clerk {
    fn react(&self, put: &i64, event: &TypedEvent<'_, PurseEvent>) -> Reaction<i64> {
        let PurseEvent::Noted { text } = event.data else { return Reaction::none() };
        let purse = Purse::id(event.stream.key());
        let sends = |commands: &[PurseCommand]| {
            commands.iter().fold(Reaction::state(put + 1), |reaction, command| reaction.send(&purse, command.clone()))
        };
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["now"] => sends(&[CENT]),
            ["three"] => sends(&[1, 2, 3].map(|cents| PurseCommand::Put { cents })),
            ["take"] => sends(&[PurseCommand::Take { cents: 1_000 }, CENT]),
            ["in", millis, "ms"] => {
                let wait = TimeDelta::milliseconds(millis.parse().expect("a number"));
                Reaction::none().set_deadline("cent", event.recorded_at + wait)
            }
            ["never"] => Reaction::end(),
            ["panic"] => panic!("as asked"),
            _ => Reaction::none(),
        }
    }
}

/// The clerk of a later release, which does the same.
pub struct Successor;

impl ProcessManager for Successor {
    const NAME: &'static str = Clerk::NAME;
    const VERSION: u32 = Clerk::VERSION + 1;
    type State = i64;

    fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
        reactions.to::<Purse>()
    }

    fn on_deadline(&self, put: &i64, due: &Due<'_>) -> Reaction<i64> {
        Clerk.on_deadline(put, due)
    }
}

impl ReactTo<Purse> for Successor {
    fn react(&self, put: &i64, event: &TypedEvent<'_, PurseEvent>) -> Reaction<i64> {
        Clerk.react(put, event)
    }
}

/// Puts ten times as much into the purse `mirror` as was put into any other.
pub struct Mirror;

impl ProcessManager for Mirror {
    const NAME: &'static str = "mirror";
    type State = ();

    fn reactions(reactions: Reactions<Self>) -> Reactions<Self> {
        reactions.to::<Purse>()
    }
}

impl ReactTo<Purse> for Mirror {
    fn react(&self, (): &(), event: &TypedEvent<'_, PurseEvent>) -> Reaction<()> {
        match event.data {
            PurseEvent::Put { cents } if event.stream.key() != "mirror" => {
                Reaction::none().send(&Purse::id("mirror"), PurseCommand::Put { cents: cents * 10 })
            }
            _ => Reaction::none(),
        }
    }
}

/// Where a log is kept while engines come and go.
pub enum Place {
    Memory(MemoryStore),
    Sqlite(TempDir),
    Postgres(Database),
}

impl Place {
    pub fn memory() -> Self {
        Self::Memory(MemoryStore::new())
    }

    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub async fn postgres() -> Self {
        Self::Postgres(Database::fresh().await)
    }

    pub async fn open(&self) -> SharedStore {
        match self {
            Self::Memory(store) => Arc::new(store.clone()),
            Self::Sqlite(folder) => Arc::new(SqliteStore::open(folder.path().join("log.db")).await.unwrap()),
            Self::Postgres(database) => Arc::new(PostgresStore::open(&database.url).await.unwrap()),
        }
    }

    /// An engine with purses and the clerk, as soon as the one before has let go of the log.
    pub async fn engine(&self) -> Engine {
        self.engine_with(|builder| builder.aggregate::<Purse>().process_manager(Clerk)).await
    }

    /// The same with what is asked for.
    pub async fn engine_with(&self, build: impl Fn(EngineBuilder) -> EngineBuilder) -> Engine {
        start(async || self.open().await, build).await
    }
}

/// Starts as soon as the engine before has let go of the log.
pub async fn start(open: impl AsyncFn() -> SharedStore, build: impl Fn(EngineBuilder) -> EngineBuilder) -> Engine {
    for _ in 0..2_000 {
        match build(Engine::builder_shared(open().await)).start().await {
            Ok(engine) => return engine,
            Err(StartError::Store(StoreError::Held { .. })) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the engine before never let go of the log");
}

/// The machine's clock, ahead of its time.
pub struct Ahead(pub TimeDelta);

impl Clock for Ahead {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        SystemClock.now() + self.0
    }

    fn time_ordered_id(&self) -> uuid::Uuid {
        SystemClock.time_ordered_id()
    }

    fn random_id(&self) -> uuid::Uuid {
        SystemClock.random_id()
    }
}

pub fn note(text: impl Into<String>) -> PurseCommand {
    PurseCommand::Note { text: text.into() }
}

pub async fn log(store: &dyn EventStore) -> Vec<RecordedEvent> {
    whole_log(store).await
}

/// What was put into a purse, in order.
pub async fn puts(engine: &Engine, key: &str) -> Vec<RecordedEvent> {
    let events = log(&**engine.store()).await;
    events.into_iter().filter(|event| event.stream.key() == key && event.event_type == "Put").collect()
}

/// The amounts, in order.
pub async fn amounts(engine: &Engine, key: &str) -> Vec<i64> {
    let data = |event: &RecordedEvent| serde_json::from_str::<serde_json::Value>(&event.json).unwrap();
    puts(engine, key).await.iter().map(|event| data(event)["cents"].as_i64().unwrap()).collect()
}

/// Waits until every manager has reacted to the whole log and every command has its outcome.
pub async fn settled(engine: &Engine) {
    eventually("all commands of the managers have their outcomes", async || is_settled(engine).await).await;
}

pub async fn is_settled(engine: &Engine) -> bool {
    let head = engine.head();
    engine.process_managers().iter().all(|manager| manager.position >= head && manager.commands == 0)
}
