//! What becomes of commands when the store fails under them: lost answers, refused values, silence, and a log that
//! went backwards.

mod support;

use std::sync::Arc;
use std::time::Duration;

use essaim::prelude::*;
use essaim::testing::{AppendFault, Faults, FaultyStore, whole_log};
use futures::future::join_all;
use sqlx::{Connection, Executor, SqliteConnection};
use support::{Balances, Purse, PurseCommand, eventually};
use uuid::Uuid;

const CALM: Duration = Duration::from_secs(20);

/// An engine on a log in memory, and the switches of its store.
async fn fragile() -> (Engine, Faults) {
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let faults = store.faults();
    let builder = Engine::builder(store).aggregate::<Purse>().projection(Balances::default());
    (builder.start().await.unwrap(), faults)
}

/// Returns when nothing in this runtime has anything to do but to wait; its clock must be paused.
async fn all_is_quiet() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn put(cents: i64) -> PurseCommand {
    PurseCommand::Put { cents }
}

fn kept(n: u128) -> Options {
    Options { command_id: Some(CommandId(Uuid::from_u128(n))), ..Options::default() }
}

async fn log(engine: &Engine) -> Vec<RecordedEvent> {
    whole_log(&**engine.store()).await
}

async fn appends_once_after(fault: AppendFault) {
    let (engine, faults) = fragile().await;
    engine.execute(&Purse::id("a"), put(1)).await.unwrap();

    faults.next_append(fault);
    let receipt = engine.execute(&Purse::id("a"), put(2)).await.unwrap();
    let next = engine.execute(&Purse::id("a"), put(3)).await.unwrap();

    assert_eq!((receipt.version, receipt.position), (Version(2), GlobalPosition(2)), "{fault:?}");
    assert_eq!((next.version, next.position), (Version(3), GlobalPosition(3)), "{fault:?}");
    let log = log(&engine).await;
    assert_eq!(
        log.iter().map(|event| &*event.json).collect::<Vec<_>>(),
        [r#"{"cents":1}"#, r#"{"cents":2}"#, r#"{"cents":3}"#]
    );
}

#[tokio::test]
async fn an_append_whose_answer_was_lost_is_found_in_the_log_and_not_appended_again() {
    appends_once_after(AppendFault::AnswerLost).await;
}

#[tokio::test]
async fn an_append_of_unknown_outcome_that_is_not_in_the_log_is_run_again() {
    appends_once_after(AppendFault::BatchLost).await;
}

#[tokio::test]
async fn an_append_that_was_not_executed_is_run_again() {
    appends_once_after(AppendFault::NotExecuted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_one_event_a_store_cannot_keep_fails_its_own_command_and_no_other() {
    let (engine, faults) = fragile().await;
    faults.refuse_events_of_type("Noted");
    let id = Purse::id("hot");

    let commands = (0..64).map(|n| if n == 30 { PurseCommand::Note { text: "no".into() } } else { put(1) });
    let answers = join_all(commands.map(|command| engine.execute(&id, command))).await;

    assert!(matches!(answers[30], Err(ExecuteError::Invalid { .. })), "{:?}", answers[30]);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 63, "{answers:?}");
    assert!(log(&engine).await.iter().map(|event| event.version.0).eq(1..=63));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_silent_the_outcome_is_unknown_and_a_retry_learns_it() {
    let (engine, faults) = fragile().await;
    let id = Purse::id("a");
    faults.hold_appends();

    let options = Options { deadline: Some(Duration::from_millis(50)), ..kept(1) };
    let silent = engine.execute_with(&id, put(5), options).await.unwrap_err();
    faults.release_appends();
    let retried = engine.execute_with(&id, put(5), kept(1)).await.unwrap();
    let again = engine.execute_with(&id, put(5), kept(1)).await.unwrap();

    assert!(matches!(silent, ExecuteError::Unknown), "{silent}");
    assert_eq!((retried.version, retried.position), (Version(1), GlobalPosition(1)));
    assert_eq!((again.version, again.position, again.replayed), (Version(1), GlobalPosition(1), true));
    assert_eq!(engine.head(), GlobalPosition(1));
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_leaves_its_commands_not_executed_until_it_can() {
    let (engine, faults) = fragile().await;
    faults.fail_reads();
    let refused = engine.execute(&Purse::id("a"), put(5)).await.unwrap_err();
    faults.mend_reads();

    let taken = engine.execute(&Purse::id("a"), put(5)).await.unwrap();

    assert!(matches!(refused, ExecuteError::NotExecuted { reason: NotExecuted::StoreUnavailable }), "{refused}");
    assert_eq!(taken.position, GlobalPosition(1));
}

/// Sets the log in this file back to the state right behind `position`, as a restored backup would.
async fn set_back(file: &std::path::Path, position: i64) {
    let mut connection = SqliteConnection::connect(&format!("sqlite://{}", file.display())).await.unwrap();
    connection.execute("DROP TRIGGER essaim_events_refuse_delete").await.unwrap();
    let statements = [
        "DELETE FROM essaim_events WHERE position > ?1",
        "UPDATE essaim_head SET position = ?1, batch = '00000000-0000-0000-0000-000000000001',
             chain_hash = (SELECT hash FROM essaim_events WHERE position = ?1)",
        "DELETE FROM essaim_checkpoints WHERE position > ?1",
    ];
    for statement in statements {
        sqlx::query(statement).bind(position).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_went_backwards_under_a_running_engine_is_noticed_and_all_built_on_it_is_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.db");
    let limits = Limits { checkpoint_every: Duration::from_secs(3_600), ..Limits::default() };
    let builder = Engine::builder(SqliteStore::open(&file).await.unwrap()).aggregate::<Purse>();
    let engine = builder.projection(Balances::default()).limits(limits).start().await.unwrap();
    for _ in 0..10 {
        engine.execute(&Purse::id("a"), put(1)).await.unwrap();
    }
    engine.execute(&Purse::id("gone"), put(1)).await.unwrap();
    engine.read_model::<Balances>().at_least(GlobalPosition(11)).within(CALM).await.unwrap();

    let (before, reopened) = (engine.log_id(), SqliteStore::open(&file).await.unwrap());
    set_back(&file, 4).await;
    let refused = engine.execute(&Purse::id("a"), PurseCommand::Take { cents: 5 }).await.unwrap_err();
    let nothing_left = engine.execute(&Purse::id("gone"), PurseCommand::Take { cents: 2 }).await.unwrap_err();
    let taken = engine.execute(&Purse::id("a"), PurseCommand::Take { cents: 3 }).await.unwrap();

    assert!(
        matches!(refused, ExecuteError::Rejected { version: Version(4), .. }),
        "decided upon what is left: {refused}"
    );
    assert!(
        matches!(nothing_left, ExecuteError::Rejected { version: Version::EMPTY, .. }),
        "also by an aggregate that had no part in noticing it: {nothing_left:?}"
    );
    assert_eq!((taken.version, taken.position), (Version(5), GlobalPosition(5)));
    assert_ne!(engine.log_id(), before, "positions of what is gone are told from those of what is there");
    assert_eq!(engine.log_id(), reopened.head().await.unwrap().log_id, "and a restart does not forget it");
    let said = engine.health().await.into_iter().find(|check| check.name == "log").unwrap();
    assert!(said.detail.ends_with("went backwards 1 times since the start"), "{said:?}");
    let balances = engine.read_model::<Balances>();
    eventually("the read model to be that of the log as it is", || async {
        let now = balances.now().unwrap();
        now.position() == GlobalPosition(5) && now.get(&"a".into()).is_some_and(|row| row.data == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_taken_and_dropped_again_within_one_batch_must_still_have_been_free() {
    let (engine, faults) = fragile().await;
    let name = || PurseCommand::Name { name: "ada".into() };
    engine.execute(&Purse::id("holder"), name()).await.unwrap();
    faults.delay_appends(Duration::from_millis(20));

    // The first append keeps the journal busy, so that the other two are in one batch.
    let (other, thief) = (Purse::id("other"), Purse::id("thief"));
    let (busy, taken, dropped) = tokio::join!(
        engine.execute(&other, put(1)),
        engine.execute(&thief, name()),
        engine.execute(&thief, PurseCommand::DropName)
    );

    busy.unwrap();
    dropped.unwrap();
    assert!(matches!(taken, Err(ExecuteError::ClaimRefused { .. })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_drops_a_claim_and_takes_it_again_is_not_refused_because_another_asked_for_it_in_the_same_batch() {
    let (engine, faults) = fragile().await;
    let name = || PurseCommand::Name { name: "ada".into() };
    let (busy, thief, holder) = (Purse::id("busy"), Purse::id("thief"), Purse::id("holder"));
    engine.execute(&holder, name()).await.unwrap();
    engine.execute(&thief, put(1)).await.unwrap();
    faults.delay_appends(Duration::from_millis(20));

    // The first append keeps the journal busy, so that the other three are in one batch.
    let (_, refused, dropped, taken) = tokio::join!(
        engine.execute(&busy, put(1)),
        engine.execute(&thief, name()),
        engine.execute(&holder, PurseCommand::DropName),
        engine.execute(&holder, name())
    );

    assert!(matches!(refused, Err(ExecuteError::ClaimRefused { .. })), "{refused:?}");
    dropped.unwrap();
    taken.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_refuses_checkpoints_is_asked_again_at_its_ease_also_while_draining() {
    let (engine, faults) = fragile().await;
    let receipt = engine.execute(&Purse::id("a"), put(1)).await.unwrap();
    engine.read_model::<Balances>().at_least(receipt.position).within(CALM).await.unwrap();
    faults.fail_saves();

    engine.shutdown(Duration::from_millis(700)).await;

    // One every 200 ms, and the regular one.
    let refused = faults.refused_saves();
    assert!((2..=6).contains(&refused), "{refused} saves in 700 ms");
}

#[tokio::test(start_paused = true)]
async fn an_append_handed_back_while_an_earlier_answer_is_due_does_not_wait_for_that_answer() {
    let (engine, faults) = fragile().await;
    let (hot, other) = (Purse::id("hot"), Purse::id("other"));
    engine.execute(&other, put(1)).await.unwrap();
    faults.refuse_events_of_type("Noted");
    faults.hold_appends();

    let busy = tokio::spawn({
        let (engine, hot) = (engine.clone(), hot.clone());
        async move { engine.execute(&hot, put(1)).await }
    });
    faults.append_is_held().await;
    let next = tokio::spawn({
        let (engine, hot) = (engine.clone(), hot.clone());
        async move {
            tokio::join!(
                engine.execute(&hot, PurseCommand::Note { text: "no".into() }),
                engine.execute(&other, PurseCommand::Name { name: "ada".into() }),
                engine.execute(&other, PurseCommand::DropName)
            )
        }
    });
    all_is_quiet().await;
    // The first batch is answered when the next is under way. In that one the note is refused at once, and behind it
    // the name is looked up, which takes its time: the note comes back before the first batch is answered.
    faults.delay_reads(Duration::from_millis(10));
    faults.release_appends();

    let (noted, named, dropped) = next.await.unwrap();
    let after = engine.execute(&hot, put(1)).await.unwrap();

    assert_eq!(busy.await.unwrap().unwrap().version, Version(1));
    assert!(matches!(noted, Err(ExecuteError::Invalid { .. })), "{noted:?}");
    assert_eq!((named.unwrap().version, dropped.unwrap().version), (Version(2), Version(3)));
    assert_eq!(after.version, Version(2));
}

/// The journal dies over the second of two batches, when the first is durable and not answered yet.
async fn everybody_has_an_answer_when_the_journal_dies_by(fault: AppendFault) {
    let (engine, faults) = fragile().await;
    let (hot, other) = (Purse::id("hot"), Purse::id("other"));
    engine.execute(&other, put(1)).await.unwrap();
    faults.next_append_of_type("Noted", fault);
    faults.hold_appends();

    let first = tokio::spawn({
        let (engine, hot) = (engine.clone(), hot.clone());
        async move { engine.execute(&hot, put(2)).await }
    });
    faults.append_is_held().await;
    let second = tokio::spawn({
        let (engine, hot, other) = (engine.clone(), hot.clone(), other.clone());
        async move {
            let note = PurseCommand::Note { text: "fatal".into() };
            tokio::join!(engine.execute(&hot, put(3)), engine.execute(&other, note))
        }
    });
    all_is_quiet().await;
    faults.release_appends();

    let (put_behind, noted) = second.await.unwrap();
    let after = engine.execute(&hot, put(4)).await.unwrap();

    assert_eq!(first.await.unwrap().unwrap().version, Version(1), "{fault:?}");
    assert_eq!((put_behind.unwrap().version, noted.unwrap().version), (Version(2), Version(2)), "{fault:?}");
    assert_eq!(after.version, Version(3), "{fault:?}");
    let log = log(&engine).await;
    let of_hot = log.iter().filter(|event| event.stream.key() == "hot").map(|event| &*event.json);
    assert_eq!(of_hot.collect::<Vec<_>>(), [r#"{"cents":2}"#, r#"{"cents":3}"#, r#"{"cents":4}"#], "{fault:?}");
    assert_eq!(log.len(), 5, "and two of the other: {fault:?}");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_dies_before_an_append_leaves_nobody_without_an_answer() {
    everybody_has_an_answer_when_the_journal_dies_by(AppendFault::PanicBefore).await;
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_dies_behind_an_append_leaves_nobody_without_an_answer() {
    everybody_has_an_answer_when_the_journal_dies_by(AppendFault::PanicBehind).await;
}

#[tokio::test(start_paused = true)]
async fn an_append_that_arrives_after_its_aggregate_looked_for_it_is_found_all_the_same() {
    everybody_has_an_answer_when_the_journal_dies_by(AppendFault::PanicMeanwhile).await;
}
