//! What the engine costs above a bare group commit on Postgres, in one run: `cargo bench --bench group_commit`.
//!
//! The bare loop is ractor actors that hand what they decided to one task, which writes whatever came meanwhile with one
//! `unnest` statement: no head row, no fence, no chain, no outcomes, no limits, nothing handled. `lanes` does so on two
//! connections; `alike` writes rows as wide as the engine's. Wants `TEST_DATABASE_URL`; `RUNS` (3) and `SECONDS_A_RUN`
//! (4) say how often and how long; names of lines (`bare-256 engine-256` …) leave out the rest.

use std::sync::Arc;
use std::time::Duration;

use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::{Mutex, mpsc, oneshot};

use self::measuring::{
    Case, Gauge, GaugeCommand, GaugeEvent, Measured, Plan, Processor, Run, Totals, drive, fresh_database, measure,
    note, scattered,
};

mod measuring;

const STREAMS: usize = 1_000;
/// The engine's own limit.
const MOST_IN_A_GROUP: usize = 1_024;

/// How wide the rows of the bare loop are.
#[derive(Clone, Copy)]
enum Width {
    /// Only what says what happened.
    Lean,
    /// With metadata and a hash as long as the engine's.
    Alike,
}

/// Whether lanes commit in the order in which their groups were numbered.
#[derive(Clone, Copy)]
enum Order {
    Free,
    /// The head row is moved last, in order, as one who reads the log wants it.
    Kept,
}

struct BareGauge;

struct BareState {
    key: String,
    version: i64,
    journal: mpsc::UnboundedSender<Pending>,
}

struct BareRead {
    command: GaugeCommand,
    reply: oneshot::Sender<i64>,
}

/// What an actor has decided and nobody has written yet.
struct Pending {
    key: String,
    version: i64,
    data: String,
    reply: oneshot::Sender<i64>,
}

impl Actor for BareGauge {
    type Msg = BareRead;
    type State = BareState;
    type Arguments = BareState;

    async fn pre_start(&self, _: ActorRef<BareRead>, state: BareState) -> Result<BareState, ActorProcessingErr> {
        Ok(state)
    }

    async fn handle(
        &self,
        _: ActorRef<BareRead>,
        BareRead { command, reply }: BareRead,
        state: &mut BareState,
    ) -> Result<(), ActorProcessingErr> {
        state.version += 1;
        let GaugeCommand::Read { value, note } = command;
        let data = serde_json::to_string(&GaugeEvent::Read { value, note })?;
        let pending = Pending { key: state.key.clone(), version: state.version, data, reply };
        state.journal.send(pending).map_err(|_| "nobody writes any more")?;
        Ok(())
    }
}

/// What waits to be written, and the turn of the group that was taken last.
struct Queue {
    pending: mpsc::UnboundedReceiver<Pending>,
    turn: oneshot::Receiver<()>,
    written: i64,
}

/// Writes whatever came while it wrote before; several of these are lanes.
async fn lane(queue: Arc<Mutex<Queue>>, mut connection: PgConnection, order: Order, width: Width) {
    if let Order::Kept = order {
        connection.execute("BEGIN").await.expect("a quiet server takes it");
    }
    loop {
        let (mut group, (done, next)) = (Vec::new(), oneshot::channel());
        let (before, first) = {
            let mut queue = queue.lock().await;
            if queue.pending.recv_many(&mut group, MOST_IN_A_GROUP).await == 0 {
                return;
            }
            let first = queue.written + 1;
            queue.written += group.len() as i64;
            (std::mem::replace(&mut queue.turn, next), first)
        };
        insert(&mut connection, &group, first, width).await;
        if let Order::Kept = order {
            // The first group has nobody before it.
            let _ = before.await;
            let moved = move_head(first + group.len() as i64 - 1);
            connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(moved))).await.expect("it is this group's turn");
        }
        let _ = done.send(());
        // Those who wait are answered while the next group is on its way, as in the engine.
        tokio::spawn(async move {
            for (pending, position) in group.into_iter().zip(first..) {
                let _ = pending.reply.send(position);
            }
        });
    }
}

/// Moves the head, commits, and begins the next transaction, in one message; where the head is not as it must be, this
/// divides by zero.
fn move_head(position: i64) -> String {
    let batch = SystemClock.random_id();
    format!(
        "WITH moved AS (
            UPDATE essaim_head SET position = {position}, batch = '{batch}' WHERE id = 1 AND position < {position}
            RETURNING 1
        ) SELECT 1 / count(*) FROM moved; COMMIT; BEGIN"
    )
}

const INSERT: &str = "
    INSERT INTO essaim_events (
        position, event_id, category, key, version, event_type, schema_version, data, metadata, recorded_at, hash
    )
    SELECT position, event_id, 'gauge', key, version, 'Read', 1, data::json, $6::text::json, $7::timestamptz, $8::bytea
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::bigint[], $5::text[])
        AS e (position, event_id, key, version, data)";

async fn insert(connection: &mut PgConnection, group: &[Pending], first: i64, width: Width) {
    let id = SystemClock.time_ordered_id();
    let (metadata, hash) = match width {
        Width::Lean => ("{}".into(), Vec::new()),
        Width::Alike => (
            format!(r#"{{"command_id":"{id}","correlation_id":"{id}","causation_id":"{id}","principal":""}}"#),
            vec![7_u8; 32],
        ),
    };
    sqlx::query(INSERT)
        .bind((first..).take(group.len()).collect::<Vec<_>>())
        .bind(group.iter().map(|_| SystemClock.time_ordered_id()).collect::<Vec<_>>())
        .bind(group.iter().map(|pending| &*pending.key).collect::<Vec<_>>())
        .bind(group.iter().map(|pending| pending.version).collect::<Vec<_>>())
        .bind(group.iter().map(|pending| &*pending.data).collect::<Vec<_>>())
        .bind(metadata)
        .bind(SystemClock.now())
        .bind(hash)
        .execute(connection)
        .await
        .expect("a quiet table takes it");
}

async fn bare(server: &str, callers: usize, (lanes, order): (usize, Order), width: Width, time: Duration) -> Measured {
    let url = fresh_database(server, "essaim_bench_group_commit").await;
    // Its tables are the engine's.
    drop(PostgresStore::open(&url).await.expect("opens"));
    let (journal, pending) = mpsc::unbounded_channel();
    let queue = Arc::new(Mutex::new(Queue { pending, turn: oneshot::channel().1, written: 0 }));
    for _ in 0..lanes {
        let connection = PgConnection::connect(&url).await.expect("connects");
        tokio::spawn(lane(Arc::clone(&queue), connection, order, width));
    }
    let mut actors = Vec::new();
    for n in 0..STREAMS {
        let state = BareState { key: Gauge::id(n).key().to_owned(), version: 0, journal: journal.clone() };
        actors.push(Actor::spawn(None, BareGauge, state).await.expect("starts").0);
    }
    let (actors, processor) = (Arc::new(actors), Processor::of_database(&url).await);
    let used = Arc::clone(&actors);
    let measured = measure(callers, time, processor, move |caller, n| {
        let actors = Arc::clone(&used);
        async move {
            let (reply, answer) = oneshot::channel();
            let command = GaugeCommand::Read { value: 1, note: note() };
            let actor = &actors[scattered(caller, n, STREAMS)];
            actor.send_message(BareRead { command, reply }).expect("it runs");
            answer.await.expect("it is written");
        }
    })
    .await;
    actors.iter().for_each(|actor| actor.stop(None));
    measured
}

/// What follows the log beside the callers.
#[derive(Clone, Copy)]
enum Following {
    Nothing,
    /// A projection whose checkpoints are farther apart than the run is long.
    Unsaved,
    Projection,
}

async fn engine(server: &str, callers: usize, following: Following, time: Duration) -> Measured {
    let url = fresh_database(server, "essaim_bench_group_commit").await;
    let builder = Engine::builder(PostgresStore::open(&url).await.expect("opens")).aggregate::<Gauge>();
    let rarely = Limits { checkpoint_every: Duration::from_secs(3_600), ..Limits::default() };
    let builder = match following {
        Following::Nothing => builder,
        Following::Unsaved => builder.limits(rarely).projection(Totals),
        Following::Projection => builder.projection(Totals),
    };
    let engine = builder.start().await.expect("starts");
    drive(engine, STREAMS, callers, time, Processor::of_database(&url).await).await
}

fn cases(callers: usize) -> [Case; 7] {
    let case = |name: &str, shown: &str, beside: Option<&str>, run: Run| Case {
        name: format!("{name}-{callers}"),
        shown: format!("{callers} callers: {shown}"),
        beside: beside.map(|name| format!("{name}-{callers}")),
        run,
    };
    let bare = move |lanes: (usize, Order), width| -> Run {
        Box::new(move |server, time| Box::pin(async move { bare(&server, callers, lanes, width, time).await }))
    };
    let engine = move |following| -> Run {
        Box::new(move |server, time| Box::pin(async move { engine(&server, callers, following, time).await }))
    };
    [
        case("bare", "bare group commit", None, bare((1, Order::Free), Width::Lean)),
        case("alike", "  with rows as wide as the engine's", Some("bare"), bare((1, Order::Free), Width::Alike)),
        case("lanes", "  on two connections", Some("bare"), bare((2, Order::Free), Width::Lean)),
        case("ordered", "  on two, the head last and in order", Some("bare"), bare((2, Order::Kept), Width::Lean)),
        case("engine", "engine without a projection", Some("bare"), engine(Following::Nothing)),
        case("unsaved", "  with one that saves no checkpoint", Some("bare"), engine(Following::Unsaved)),
        case("projection", "engine with a projection", Some("bare"), engine(Following::Projection)),
    ]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (Some(plan), Some(server)) = (Plan::from_environment(), Plan::server()) else { return };
    plan.run(&server, [64, 256, 4_096].into_iter().flat_map(cases).collect()).await;
}
