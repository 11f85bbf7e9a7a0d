//! What the engine promises to those who embed it, on a real SQLite file.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use essaim::prelude::*;
use essaim::store::TakeOver;
use essaim::testing::whole_log;
use futures::StreamExt;
use futures::future::join_all;
use support::{Balances, Purse, PurseCommand, PurseEvent, PurseRejection, eventually};
use tempfile::TempDir;
use uuid::Uuid;

const CALM: Duration = Duration::from_secs(20);

async fn open(folder: &TempDir) -> SqliteStore {
    SqliteStore::open(folder.path().join("log.db")).await.expect("a fresh file can be opened")
}

async fn start(folder: &TempDir, limits: Limits) -> Engine {
    let builder = Engine::builder(open(folder).await).aggregate::<Purse>().projection(Balances::default());
    builder.limits(limits).start().await.expect("nothing else holds the file")
}

async fn fresh() -> (TempDir, Engine) {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&folder, Limits::default()).await;
    (folder, engine)
}

fn kept(n: u128) -> Options {
    Options { command_id: Some(CommandId(Uuid::from_u128(n))), ..Options::default() }
}

fn put(cents: i64) -> PurseCommand {
    PurseCommand::Put { cents }
}

async fn log(engine: &Engine) -> Vec<RecordedEvent> {
    whole_log(&**engine.store()).await
}

#[tokio::test]
async fn a_command_is_answered_with_version_and_position_and_stands_in_the_log() {
    let (_folder, engine) = fresh().await;

    let first = engine.execute(&Purse::id("a"), put(5)).await.unwrap();
    let second = engine.execute(&Purse::id("b"), put(7)).await.unwrap();

    assert_eq!((first.version, first.position), (Version(1), GlobalPosition(1)));
    assert_eq!((second.version, second.position), (Version(1), GlobalPosition(2)));
    let log = log(&engine).await;
    assert_eq!(log.iter().map(|event| event.stream.as_str()).collect::<Vec<_>>(), ["purse-a", "purse-b"]);
    assert_eq!(&*log[0].json, r#"{"cents":5}"#);
}

#[tokio::test]
async fn a_refusal_and_a_no_op_are_answers_and_leave_no_event() {
    let (_folder, engine) = fresh().await;
    engine.execute(&Purse::id("a"), put(5)).await.unwrap();

    let refusal = engine.execute(&Purse::id("a"), PurseCommand::Take { cents: 9 }).await.unwrap_err();
    let no_op = engine.execute(&Purse::id("a"), put(0)).await.unwrap();

    assert!(matches!(
        refusal,
        ExecuteError::Rejected { rejection: PurseRejection::NotEnough { cents: 5 }, version: Version(1), .. }
    ));
    assert_eq!((no_op.changed, no_op.version, no_op.position), (false, Version(1), GlobalPosition(1)));
    assert_eq!(engine.head(), GlobalPosition(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_commands_among_good_ones_on_one_aggregate_fail_alone() {
    let (_folder, engine) = fresh().await;
    let id = Purse::id("hot");
    let bad = [
        PurseCommand::Take { cents: 1_000_000 },
        PurseCommand::PanicInDecide,
        PurseCommand::PanicInApply,
        PurseCommand::Note { text: "a\0b".into() },
    ];

    let commands = (0..64).map(|n| if n % 16 == 7 { bad[n / 16].clone() } else { put(1) });
    let answers = join_all(commands.map(|command| engine.execute(&id, command))).await;

    let good = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(good, 60, "{answers:?}");
    assert!(matches!(answers[7], Err(ExecuteError::Rejected { .. })), "{:?}", answers[7]);
    assert!(matches!(answers[23], Err(ExecuteError::Failed { .. })), "{:?}", answers[23]);
    assert!(matches!(answers[39], Err(ExecuteError::Failed { .. })), "{:?}", answers[39]);
    assert!(matches!(answers[55], Err(ExecuteError::Invalid { .. })), "{:?}", answers[55]);
    let versions: Vec<u64> = log(&engine).await.iter().map(|event| event.version.0).collect();
    assert_eq!(versions, (1..=60).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_commands_over_many_aggregates_leave_a_dense_log_and_an_equal_read_model() {
    let (_folder, engine) = fresh().await;

    let runs = (0..1_000).map(|n| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.execute(&Purse::id(n % 37), put(i64::from(n) + 1)).await.unwrap() })
    });
    let receipts: Vec<Receipt> = join_all(runs).await.into_iter().map(Result::unwrap).collect();

    let mut positions: Vec<u64> = receipts.iter().map(|receipt| receipt.position.0).collect();
    positions.sort_unstable();
    assert!(positions.iter().copied().eq(1..=1_000), "each position was given once");
    let balances = engine.read_model::<Balances>().at_least(GlobalPosition(1_000)).within(CALM).await.unwrap();
    assert_eq!(balances.read(|snapshot| snapshot.index().0), (1..=1_000).sum::<i64>());
    assert_eq!(balances.get(&"0".into()).unwrap().data, (0..1_000).filter(|n| n % 37 == 0).map(|n| n + 1).sum::<i64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_callers_with_one_command_id_see_one_effect_and_equal_answers_also_after_a_restart() {
    let (folder, engine) = fresh().await;
    let id = Purse::id("a");

    let answers = join_all((0..32).map(|_| engine.execute_with(&id, put(5), kept(1)))).await;
    drop(engine);
    let engine = restarted(&folder).await;
    let later = engine.execute_with(&id, put(5), kept(1)).await.unwrap();

    let first = answers[0].as_ref().unwrap();
    for answer in &answers {
        let answer = answer.as_ref().unwrap();
        assert_eq!((answer.version, answer.position), (first.version, first.position));
    }
    assert_eq!((later.version, later.position, later.replayed), (first.version, first.position, true));
    assert_eq!(engine.head(), GlobalPosition(1));
}

/// Starts again on the same file, once the engine that was dropped has let go of it.
async fn restarted(folder: &TempDir) -> Engine {
    for _ in 0..400 {
        let builder = Engine::builder(open(folder).await).aggregate::<Purse>().projection(Balances::default());
        match builder.start().await {
            Ok(engine) => return engine,
            Err(StartError::Store(StoreError::Held { .. })) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the engine that was dropped never let go of its file");
}

#[tokio::test]
async fn a_kept_refusal_is_given_again_even_when_it_would_succeed_by_now() {
    let (_folder, engine) = fresh().await;
    let id = Purse::id("a");
    let take = PurseCommand::Take { cents: 5 };

    let refused = engine.execute_with(&id, take.clone(), kept(1)).await.unwrap_err();
    engine.execute(&id, put(100)).await.unwrap();
    let again = engine.execute_with(&id, take, kept(1)).await.unwrap_err();

    assert!(matches!(refused, ExecuteError::Rejected { version: Version(0), replayed: false, .. }));
    assert!(matches!(again, ExecuteError::Rejected { version: Version(0), replayed: true, .. }));
}

#[tokio::test]
async fn a_command_id_used_for_another_command_or_another_target_is_refused() {
    let (_folder, engine) = fresh().await;
    engine.execute_with(&Purse::id("a"), put(5), kept(1)).await.unwrap();

    let other_command = engine.execute_with(&Purse::id("a"), put(6), kept(1)).await.unwrap_err();
    let other_target = engine.execute_with(&Purse::id("b"), put(5), kept(1)).await.unwrap_err();

    assert!(matches!(other_command, ExecuteError::CommandIdReused));
    assert!(matches!(other_target, ExecuteError::CommandIdReused));
}

#[tokio::test]
async fn an_expected_version_that_is_not_met_is_a_mismatch_that_is_not_kept() {
    let (_folder, engine) = fresh().await;
    let id = Purse::id("a");
    engine.execute(&id, put(5)).await.unwrap();
    let expecting = |expected| Options { expected, ..kept(1) };

    let stale = engine.execute_with(&id, put(1), expecting(ExpectedVersion::Exact(Version(7)))).await.unwrap_err();
    let no_stream = engine.execute_with(&id, put(1), expecting(ExpectedVersion::NoStream)).await.unwrap_err();
    let met = engine.execute_with(&id, put(1), expecting(ExpectedVersion::Exact(Version(1)))).await.unwrap();

    assert!(matches!(stale, ExecuteError::VersionMismatch { actual: Version(1), .. }));
    assert!(matches!(no_stream, ExecuteError::VersionMismatch { actual: Version(1), .. }));
    assert_eq!(met.version, Version(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_hundred_simultaneous_claims_of_one_name_exactly_one_wins() {
    let (_folder, engine) = fresh().await;
    let name = || PurseCommand::Name { name: "ada".into() };

    let ids: Vec<_> = (0..100).map(Purse::id).collect();
    let answers = join_all(ids.iter().map(|id| engine.execute(id, name()))).await;

    let won: Vec<usize> = (0..100).filter(|n| answers[*n].is_ok()).collect();
    assert_eq!(won.len(), 1, "{answers:?}");
    let refused = answers.iter().filter(|answer| matches!(answer, Err(ExecuteError::ClaimRefused { .. }))).count();
    assert_eq!(refused, 99);
    engine.execute(&ids[won[0]], PurseCommand::DropName).await.unwrap();
    let loser = (won[0] + 1) % 100;
    engine.execute(&ids[loser], name()).await.expect("the name is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_arrive_while_their_aggregate_is_passivated_are_neither_lost_nor_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { passivate_after: Duration::from_millis(1), max_resident_bytes: 1, ..Limits::default() };
    let engine = start(&folder, limits).await;

    let workers = (0..8).map(|worker| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for n in 0..150 {
                engine.execute(&Purse::id((worker + n) % 5), put(1)).await.unwrap();
                if n % 10 == 0 {
                    tokio::time::sleep(Duration::from_millis(12)).await;
                }
            }
        })
    });
    for worker in join_all(workers).await {
        worker.unwrap();
    }

    assert_eq!(engine.head(), GlobalPosition(1_200));
    eventually("every aggregate to be passivated", || async { engine.resident() == [("purse", 0)] }).await;
    let last = engine.execute(&Purse::id(0), put(1)).await.unwrap();
    assert_eq!(last.version.0, log(&engine).await.iter().filter(|event| event.stream.key() == "0").count() as u64);
}

#[tokio::test]
async fn a_long_stream_is_loaded_from_its_snapshot_and_goes_on_at_the_right_version() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&folder, Limits { passivate_after: Duration::from_millis(1), ..Limits::default() }).await;
    let id = Purse::id("long");
    for _ in 0..120 {
        engine.execute(&id, put(1)).await.unwrap();
    }
    let request = essaim::store::LoadRequest { stream: id.stream().clone(), snapshot_schema: Some(1) };
    let find = || async { engine.store().load_streams(std::slice::from_ref(&request), 1_000).await.unwrap().remove(0) };
    eventually("a snapshot at version 100", || async {
        find().await.snapshot.is_some_and(|snapshot| snapshot.version == Version(100))
    })
    .await;
    eventually("the aggregate to be forgotten", || async { engine.resident() == [("purse", 0)] }).await;

    let refused = engine.execute(&id, PurseCommand::Take { cents: 121 }).await.unwrap_err();
    let taken = engine.execute(&id, PurseCommand::Take { cents: 120 }).await.unwrap();

    assert!(matches!(refused, ExecuteError::Rejected { rejection: PurseRejection::NotEnough { cents: 120 }, .. }));
    assert_eq!(taken.version, Version(121));
    assert_eq!(find().await.events.len(), 21, "only what came after the snapshot is read");
}

#[tokio::test]
async fn a_read_that_waits_in_vain_says_how_far_the_read_model_is() {
    let (_folder, engine) = fresh().await;
    let receipt = engine.execute(&Purse::id("a"), put(5)).await.unwrap();
    let balances = engine.read_model::<Balances>();

    let met = balances.at_least(receipt.position).within(CALM).await.unwrap();
    let beyond = balances.at_least(GlobalPosition(9)).within(Duration::from_millis(30)).await;

    assert_eq!(met.get(&"a".into()).unwrap().data, 5);
    assert_eq!(beyond.err(), Some(ReadError::Lagging { applied: GlobalPosition(1), wanted: GlobalPosition(9) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_sees_past_and_coming_events_once_in_order_without_gaps() {
    let folder = tempfile::tempdir().unwrap();
    // A feed too small for all of it, so that pages of the store and the feed take turns.
    let engine = start(&folder, Limits { max_feed_bytes: 4_000, ..Limits::default() }).await;
    for n in 0..50 {
        engine.execute(&Purse::id(n), put(1)).await.unwrap();
    }

    let subscription = engine.subscribe(GlobalPosition(10)).take(440);
    let reading = tokio::spawn(subscription.map(|event| event.unwrap().position.0).collect::<Vec<_>>());
    let ids: Vec<_> = (0..400).map(Purse::id).collect();
    join_all(ids.iter().map(|id| engine.execute(id, put(1)))).await;

    let seen = tokio::time::timeout(CALM, reading).await.expect("all 440 events arrive").unwrap();
    assert_eq!(seen, (11..=450).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_restart_continues_from_the_checkpoint_and_equals_a_rebuild_from_zero() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&folder, Limits::default()).await;
    for n in 0..40 {
        engine.execute(&Purse::id(n % 7), put(n + 1)).await.unwrap();
    }
    assert!(engine.shutdown(CALM).await);
    drop(engine);

    let engine = start(&folder, Limits::default()).await;
    eventually("the read model to be live", || async { engine.health().await.iter().all(|check| check.ok) }).await;
    assert_eq!(engine.projections()[0].checkpoint, GlobalPosition(40));
    let after_restart = engine.digest("balances").await.unwrap();
    assert!(engine.rebuild("balances").await);
    let rebuilt = engine.digest("balances").await.unwrap();

    assert_eq!(after_restart.0, GlobalPosition(40));
    assert_eq!(after_restart, rebuilt);
}

#[tokio::test]
async fn after_a_shutdown_commands_are_refused_as_not_executed() {
    let (_folder, engine) = fresh().await;
    assert!(engine.shutdown(CALM).await);

    let refused = engine.execute(&Purse::id("a"), put(1)).await.unwrap_err();

    assert!(matches!(refused, ExecuteError::NotExecuted { reason: NotExecuted::Draining }));
}

#[tokio::test]
async fn a_second_engine_on_the_same_log_is_refused_by_name_and_one_that_takes_over_fences_the_first() {
    let (folder, first) = fresh().await;
    first.execute(&Purse::id("a"), put(1)).await.unwrap();

    let refused = Engine::builder(open(&folder).await).aggregate::<Purse>().start().await.err().unwrap();
    let second =
        Engine::builder(open(&folder).await).aggregate::<Purse>().take_over(TakeOver::Force).start().await.unwrap();
    let fenced = first.execute(&Purse::id("a"), put(1)).await.unwrap_err();
    let reason = tokio::time::timeout(CALM, first.failed()).await.expect("the first gives up");
    let receipt = second.execute(&Purse::id("a"), put(1)).await.unwrap();

    let StartError::Store(StoreError::Held { holder }) = refused else { panic!("{refused}") };
    assert!(holder.contains(&std::process::id().to_string()), "{holder}");
    assert!(matches!(fenced, ExecuteError::NotExecuted { reason: NotExecuted::Fenced }), "{fenced}");
    assert!(reason.contains("taken over"), "{reason}");
    assert_eq!(receipt.version, Version(2));
}

#[tokio::test]
async fn a_command_whose_deadline_passed_before_it_was_decided_is_not_executed() {
    let (_folder, engine) = fresh().await;

    let options = Options { deadline: Some(Duration::ZERO), ..Options::default() };
    let late = engine.execute_with(&Purse::id("a"), put(1), options).await.unwrap_err();
    engine.execute(&Purse::id("a"), put(1)).await.unwrap();

    assert!(matches!(late, ExecuteError::NotExecuted { reason: NotExecuted::Deadline }));
    assert_eq!(engine.head(), GlobalPosition(1), "the late command left nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_permits_the_engine_refuses_at_once_and_loses_nothing_it_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let engine = start(&folder, Limits { max_commands: 10, ..Limits::default() }).await;

    let ids: Vec<_> = (0..500).map(Purse::id).collect();
    let answers = join_all(ids.iter().map(|id| engine.execute(id, put(1)))).await;

    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(ExecuteError::Overloaded { .. }))).count();
    assert_eq!(accepted + refused, 500);
    assert!(accepted >= 10 && refused > 0, "{accepted} accepted, {refused} refused");
    assert_eq!(engine.head(), GlobalPosition(accepted as u64));
}

/// Panics at every event while it is told to.
struct Fragile(Arc<AtomicBool>);

impl Projection for Fragile {
    const NAME: &'static str = "fragile";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Purse>()
    }
}

impl ProjectFrom<Purse> for Fragile {
    fn project(&self, event: &TypedEvent<'_, PurseEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        assert!(!self.0.load(Ordering::Acquire), "as asked");
        rows.put(JsonRow { key: event.position.to_string(), data: 1 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_projection_that_keeps_failing_is_set_aside_alone_and_goes_on_when_released() {
    let folder = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    let builder = Engine::builder(open(&folder).await).aggregate::<Purse>();
    let builder = builder.projection(Balances::default()).projection(Fragile(Arc::clone(&fails)));
    let engine = builder.start().await.unwrap();
    let receipt = engine.execute(&Purse::id("a"), put(5)).await.unwrap();
    let fragile = engine.read_model::<Fragile>();

    eventually("the projection to be quarantined", || async {
        matches!(fragile.now(), Err(ReadError::Quarantined { name: "fragile", .. }))
    })
    .await;
    let other = engine.read_model::<Balances>().at_least(receipt.position).within(CALM).await.unwrap();
    assert_eq!(other.get(&"a".into()).unwrap().data, 5);
    fails.store(false, Ordering::Release);
    assert!(engine.release("fragile").await);
    let released = fragile.at_least(receipt.position).within(CALM).await.unwrap();

    assert_eq!(released.len(), 1);
}

#[tokio::test]
async fn a_builder_that_cannot_be_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let twice =
        Engine::builder(open(&folder).await).aggregate::<Purse>().aggregate::<Purse>().start().await.err().unwrap();
    let limits = Limits { max_commands: 0, ..Limits::default() };
    let zero = Engine::builder(open(&folder).await).limits(limits).start().await.err().unwrap();
    let without = Engine::builder(open(&folder).await).start().await.unwrap();
    let unknown = without.execute(&Purse::id("a"), put(1)).await.unwrap_err();

    assert_eq!(twice.to_string(), "two aggregates have the category \"purse\"");
    assert_eq!(zero.to_string(), "max_commands is 0; it must be at least 1");
    assert!(matches!(unknown, ExecuteError::Invalid { what } if what.contains("purse")));
    assert_eq!(without.read_model::<Balances>().now().err(), Some(ReadError::NotRegistered("balances")));
}
