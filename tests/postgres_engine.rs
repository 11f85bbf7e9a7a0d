//! The whole engine on a Postgres that is pulled from under it.

#[path = "support/brittle.rs"]
mod brittle;
#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use brittle::BrittleRecorder;
use essaim::prelude::*;
use essaim::testing::{FaultyStore, whole_log};
use postgres::{Cluster, Database};
use sqlx::{Connection, Executor, PgConnection};
use support::{Balances, Purse, PurseCommand, eventually};
use tokio::task::JoinSet;
use uuid::Uuid;

const CALLERS: u64 = 8;

async fn start(database: &Database) -> Engine {
    let store = PostgresStore::open(&database.url).await.unwrap();
    Engine::builder(store).aggregate::<Purse>().projection(Balances::default()).start().await.unwrap()
}

/// Puts one cent after the other, each under a key of its own that is repeated until it is answered; returns how many.
async fn put_cents(engine: Engine, caller: u64, stop: Arc<AtomicBool>) -> i64 {
    let purse = Purse::id(format!("purse {}", caller % 3));
    let mut put = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = CommandId(Uuid::from_u64_pair(caller + 1, put as u64));
        loop {
            let options = Options { command_id: Some(key), ..Options::default() };
            match engine.execute_with(&purse, PurseCommand::Put { cents: 1 }, options).await {
                Ok(_) => break,
                Err(ExecuteError::Rejected { rejection, .. }) => panic!("nothing to refuse: {rejection}"),
                // Not executed, or nobody knows: the same key again.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        put += 1;
    }
    put
}

/// Interferes again and again while callers work, and then compares what they were told with what is there.
async fn survive(database: &Database, interfere: impl AsyncFn()) {
    let engine = start(database).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(put_cents(engine.clone(), caller, stop.clone()));
    }

    for _ in 0..5 {
        let before = engine.store().head().await.map_or(0, |head| head.position.0);
        eventually("more events", async || {
            engine.store().head().await.is_ok_and(|head| head.position.0 > before + 100)
        })
        .await;
        interfere().await;
    }
    stop.store(true, Ordering::Relaxed);
    let told: i64 = callers.join_all().await.into_iter().sum();

    let head = engine.store().head().await.unwrap().position;
    let events = whole_log(&**engine.store()).await;
    assert_eq!((events.len() as i64, head.0 as i64), (told, told));
    let balances = engine.read_model::<Balances>().at_least(head).await.unwrap();
    assert_eq!(balances.read(|rows| rows.index().0), told);
    engine.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_under_load_lose_nothing_and_double_nothing() {
    let database = Database::fresh().await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";

    survive(&database, async || {
        database.connection().await.execute(kill).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_nothing_and_doubles_nothing() {
    let cluster = Cluster::start(&[]);
    let database = Database::on(&cluster.url()).await;

    survive(&database, async || {
        cluster.crash();
        cluster.restart();
    })
    .await;
}

/// Another's uncommitted event at the place where purse b's next one belongs: who appends that waits for its fate.
const OCCUPY_THE_PLACE: &str = "
    INSERT INTO essaim_events (
        position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    )
    SELECT 1000000, gen_random_uuid(), category, key, version + 1, event_type, schema_version, data, metadata,
           recorded_at, hash
    FROM essaim_events
    WHERE key = 'b'";

async fn someone_waits_with(observer: &mut PgConnection, statement: &str) {
    let observer = tokio::sync::Mutex::new(observer);
    eventually(statement, async || {
        let waits = "SELECT EXISTS (
                         SELECT FROM pg_stat_activity
                         WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'
                     )";
        let query = sqlx::query_scalar(waits).bind(statement);
        query.fetch_one(&mut **observer.lock().await).await.unwrap()
    })
    .await;
}

// One thread, so that the recorder of this test is the one that the engine's tasks see.
#[tokio::test]
async fn a_journal_that_dies_while_its_append_is_on_the_way_to_the_server_doubles_nothing() {
    let recorder = BrittleRecorder::default();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let database = Database::fresh().await;
    let store = FaultyStore::new(Arc::new(PostgresStore::open(&database.url).await.unwrap()));
    let faults = store.faults();
    let engine = Engine::builder(store).aggregate::<Purse>().start().await.unwrap();
    let put = |purse: &'static str, cents| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.execute(&Purse::id(purse), PurseCommand::Put { cents }).await })
    };
    for purse in ["a", "b"] {
        put(purse, 1).await.unwrap().unwrap();
    }
    let (mut other, mut observer) = (database.connection().await, database.connection().await);
    let mut place = other.begin().await.unwrap();
    place.execute(OCCUPY_THE_PLACE).await.unwrap();

    faults.hold_appends();
    let answered = put("a", 10);
    faults.append_is_held().await;
    let on_the_way = put("b", 20);
    // Nothing keeps this one from the journal, and each of its steps is one of these turns.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    recorder.break_once();
    faults.release_appends();
    someone_waits_with(&mut observer, "INSERT INTO essaim_events").await;
    assert!(recorder.is_broken(), "the journal died over the answers while that append was under way");
    someone_waits_with(&mut observer, "epoch = epoch + 1").await;
    place.rollback().await.unwrap();

    let (answered, on_the_way) = (answered.await.unwrap(), on_the_way.await.unwrap());
    assert!(matches!(answered, Err(ExecuteError::Unknown)), "{answered:?}");
    let receipt = on_the_way.unwrap();
    assert_eq!((receipt.version, receipt.position), (Version(2), GlobalPosition(4)));
    let next = put("b", 30).await.unwrap().unwrap();
    assert_eq!((next.version, next.position), (Version(3), GlobalPosition(5)), "the twenty cents came once");
}
