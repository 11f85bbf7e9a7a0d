//! What process managers promise, on every store: each command takes effect once, deadlines survive, and what goes
//! wrong with one manager is its own affair.

#[path = "support/managers.rs"]
mod managers;
#[path = "support/postgres.rs"]
mod postgres;
mod support;

use std::time::Duration;

use chrono::TimeDelta;
use essaim::engine::ProjectionState;
use essaim::prelude::*;
use essaim::testing::{AppendFault, FaultyStore};
use futures::future::join_all;
use managers::{Ahead, Clerk, Mirror, Place, Successor, amounts, log, note, puts, settled, start};
use support::{Purse, eventually};

/// One test for each store.
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::memory()).await })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::sqlite()).await })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Place::postgres().await).await })*
        }
    };
}

on_every_store!(
    a_reaction_takes_effect_once_and_says_who_sent_it_and_why,
    commands_of_one_instance_arrive_in_order,
    a_deadline_fires_when_it_is_due_and_not_before,
    a_deadline_that_was_cancelled_does_not_fire,
    a_deadline_survives_restarts_and_fires_once,
    a_deadline_that_came_due_while_the_engine_was_down_fires_at_the_start,
    what_cancels_a_deadline_counts_also_when_the_engine_went_down_before_it_was_reacted_to,
    a_manager_follows_what_another_one_set_off,
    a_manager_that_is_new_to_a_log_reads_it_from_the_first_event,
    a_manager_of_a_new_version_reads_the_log_again_and_what_it_sent_before_has_no_second_effect,
);

async fn a_reaction_takes_effect_once_and_says_who_sent_it_and_why(place: Place) {
    let engine = place.engine().await;
    let options = Options { correlation_id: Some(uuid::Uuid::from_u128(7)), ..Options::default() };

    engine.execute_with(&Purse::id("a"), note("now"), options).await.unwrap();
    settled(&engine).await;
    assert!(engine.shutdown(Duration::from_secs(20)).await);
    let engine = place.engine().await;
    settled(&engine).await;

    let [put] = &puts(&engine, "a").await[..] else { panic!("one cent: {:?}", log(&**engine.store()).await) };
    assert_eq!(put.metadata.principal, "system:clerk");
    assert_eq!(put.metadata.causation_id, log(&**engine.store()).await[0].event_id);
    assert_eq!(put.metadata.correlation_id, uuid::Uuid::from_u128(7));
}

async fn commands_of_one_instance_arrive_in_order(place: Place) {
    let engine = place.engine().await;

    for key in ["a", "b", "c"] {
        engine.execute(&Purse::id(key), note("three")).await.unwrap();
        engine.execute(&Purse::id(key), note("take")).await.unwrap();
    }
    settled(&engine).await;

    for key in ["a", "b", "c"] {
        assert_eq!(amounts(&engine, key).await, [1, 2, 3, 1], "what was refused is skipped, {key}");
    }
}

async fn a_deadline_fires_when_it_is_due_and_not_before(place: Place) {
    let engine = place.engine().await;

    engine.execute(&Purse::id("a"), note("in 80 ms")).await.unwrap();
    engine.execute(&Purse::id("b"), note("in 40 ms")).await.unwrap();
    eventually("both fired", async || log(&**engine.store()).await.len() == 4).await;

    let log = log(&**engine.store()).await;
    for (key, milliseconds) in [("a", 80), ("b", 40)] {
        let [noted, put] = &log.iter().filter(|event| event.stream.key() == key).collect::<Vec<_>>()[..] else {
            panic!("one deadline of {key}: {log:?}");
        };
        assert!(put.recorded_at - noted.recorded_at >= TimeDelta::milliseconds(milliseconds), "{log:?}");
    }
}

fn an_hour_later(builder: EngineBuilder) -> EngineBuilder {
    let clock = std::sync::Arc::new(Ahead(TimeDelta::hours(1)));
    builder.aggregate::<Purse>().process_manager(Clerk).clock(clock)
}

async fn a_deadline_that_was_cancelled_does_not_fire(place: Place) {
    let engine = place.engine().await;

    engine.execute(&Purse::id("a"), note("in 3600000 ms")).await.unwrap();
    engine.execute(&Purse::id("b"), note("in 3600000 ms")).await.unwrap();
    eventually("both are waited for", async || engine.process_managers()[0].deadlines == 2).await;
    engine.execute(&Purse::id("a"), note("never")).await.unwrap();
    eventually("one is cancelled", async || engine.process_managers()[0].deadlines == 1).await;
    engine.shutdown(Duration::from_secs(20)).await;
    let engine = place.engine_with(an_hour_later).await;
    eventually("the other one fired", async || !puts(&engine, "b").await.is_empty()).await;
    settled(&engine).await;

    assert_eq!(amounts(&engine, "a").await, [0i64; 0]);
    assert_eq!(amounts(&engine, "b").await, [1]);
}

async fn a_deadline_survives_restarts_and_fires_once(place: Place) {
    let engine = place.engine().await;
    engine.execute(&Purse::id("a"), note("in 600 ms")).await.unwrap();

    engine.shutdown(Duration::from_secs(20)).await;
    let engine = place.engine().await;
    // Dropped, as abruptly as a crash would end it.
    drop(engine);
    let engine = place.engine().await;
    eventually("it fired", async || !puts(&engine, "a").await.is_empty()).await;
    drop(engine);
    let engine = place.engine().await;
    settled(&engine).await;

    let log = log(&**engine.store()).await;
    assert_eq!(log.len(), 2, "{log:?}");
    assert!(log[1].recorded_at - log[0].recorded_at >= TimeDelta::milliseconds(600));
}

async fn a_deadline_that_came_due_while_the_engine_was_down_fires_at_the_start(place: Place) {
    let engine = place.engine().await;
    engine.execute(&Purse::id("a"), note("in 3600000 ms")).await.unwrap();
    engine.shutdown(Duration::from_secs(20)).await;

    let engine = place.engine_with(an_hour_later).await;

    eventually("it fired", async || !puts(&engine, "a").await.is_empty()).await;
    settled(&engine).await;
    assert_eq!(amounts(&engine, "a").await, [1]);
}

async fn what_cancels_a_deadline_counts_also_when_the_engine_went_down_before_it_was_reacted_to(place: Place) {
    let engine = place.engine().await;
    engine.execute(&Purse::id("a"), note("in 3600000 ms")).await.unwrap();
    engine.shutdown(Duration::from_secs(20)).await;
    // Without its manager: the event that cancels lies behind the manager's position.
    let engine = place.engine_with(|builder| builder.aggregate::<Purse>()).await;
    // And behind more than is read from the store at a time.
    for _ in 0..5 {
        let ids: Vec<_> = (0..500).map(Purse::id).collect();
        join_all(ids.iter().map(|id| engine.execute(id, note("nothing")))).await;
    }
    engine.execute(&Purse::id("a"), note("never")).await.unwrap();
    engine.shutdown(Duration::from_secs(20)).await;

    let later = |builder: EngineBuilder| {
        let clock = std::sync::Arc::new(Ahead(TimeDelta::hours(2)));
        builder.aggregate::<Purse>().process_manager(Clerk).clock(clock)
    };
    let engine = place.engine_with(later).await;
    settled(&engine).await;

    assert_eq!(amounts(&engine, "a").await, [0i64; 0]);
    assert_eq!(engine.process_managers()[0].deadlines, 0);
}

async fn a_manager_follows_what_another_one_set_off(place: Place) {
    let both = |builder: EngineBuilder| builder.aggregate::<Purse>().process_manager(Clerk).process_manager(Mirror);
    let engine = place.engine_with(both).await;

    engine.execute(&Purse::id("a"), note("in 20 ms")).await.unwrap();
    engine.execute(&Purse::id("b"), note("three")).await.unwrap();
    eventually("all is mirrored", async || amounts(&engine, "mirror").await.len() == 4).await;
    settled(&engine).await;

    let mut mirrored = amounts(&engine, "mirror").await;
    mirrored.sort_unstable();
    assert_eq!(mirrored, [10, 10, 20, 30]);
}

async fn a_manager_that_is_new_to_a_log_reads_it_from_the_first_event(place: Place) {
    let engine = place.engine_with(|builder| builder.aggregate::<Purse>()).await;
    engine.execute(&Purse::id("a"), note("in 5 ms")).await.unwrap();
    engine.execute(&Purse::id("b"), note("now")).await.unwrap();
    engine.shutdown(Duration::from_secs(20)).await;

    let engine = place.engine().await;
    eventually("both", async || log(&**engine.store()).await.len() == 4).await;

    assert_eq!((amounts(&engine, "a").await, amounts(&engine, "b").await), (vec![1], vec![1]));
}

async fn a_manager_of_a_new_version_reads_the_log_again_and_what_it_sent_before_has_no_second_effect(place: Place) {
    let engine = place.engine().await;
    engine.execute(&Purse::id("a"), note("in 5 ms")).await.unwrap();
    engine.execute(&Purse::id("b"), note("three")).await.unwrap();
    engine.execute(&Purse::id("c"), note("in 3600000 ms")).await.unwrap();
    eventually("what is due", async || log(&**engine.store()).await.len() == 7).await;
    engine.shutdown(Duration::from_secs(20)).await;

    let engine = place.engine_with(|builder| builder.aggregate::<Purse>().process_manager(Successor)).await;
    let is_done =
        || engine.process_managers()[0].position >= engine.head() && engine.process_managers()[0].deadlines == 1;
    eventually("it has read the log, and fired what is due", async || is_done()).await;
    settled(&engine).await;

    assert_eq!((amounts(&engine, "a").await, amounts(&engine, "b").await), (vec![1], vec![1, 2, 3]));
    assert_eq!(engine.head(), GlobalPosition(7));
}

#[tokio::test]
async fn nothing_is_sent_before_the_decision_is_saved() {
    let store = FaultyStore::new(std::sync::Arc::new(MemoryStore::new()));
    let faults = store.faults();
    let engine = Engine::builder(store).aggregate::<Purse>().process_manager(Clerk).start().await.unwrap();
    faults.fail_saves();

    engine.execute(&Purse::id("a"), note("now")).await.unwrap();
    eventually("two saves failed", async || faults.refused_saves() >= 2).await;
    assert_eq!(engine.head(), GlobalPosition(1));
    faults.mend_saves();
    settled(&engine).await;

    assert_eq!(amounts(&engine, "a").await, [1]);
}

#[tokio::test]
async fn a_command_is_sent_again_until_it_has_a_durable_outcome() {
    let store = FaultyStore::new(std::sync::Arc::new(MemoryStore::new()));
    let faults = store.faults();
    // One internal command at a time: the others are refused as overloaded again and again.
    let limits = Limits { max_internal_commands: 1, command_deadline: Duration::from_millis(300), ..Limits::default() };
    let builder = Engine::builder(store).aggregate::<Purse>().limits(limits);
    let engine = builder.process_manager(Clerk).process_manager(Mirror).start().await.unwrap();

    for n in 0..40 {
        if n % 8 == 0 {
            faults.next_append([AppendFault::AnswerLost, AppendFault::BatchLost][n / 8 % 2]);
        }
        engine.execute(&Purse::id(n), note("now")).await.unwrap();
    }
    faults.hold_appends();
    let unknown = engine.execute(&Purse::id("late"), note("now")).await.unwrap_err();
    faults.release_appends();

    assert!(matches!(unknown, ExecuteError::Unknown), "its deadline passed while it was held: {unknown}");
    eventually("everybody has a cent", async || amounts(&engine, "mirror").await.len() == 41).await;
    settled(&engine).await;
    for key in (0..40).map(|n| n.to_string()).chain(["late".into()]) {
        assert_eq!(amounts(&engine, &key).await, [1], "{key}");
    }
    assert_eq!(amounts(&engine, "mirror").await, [10; 41]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_panics_is_set_aside_until_it_is_released_and_the_others_go_on() {
    let builder = Engine::builder(MemoryStore::new()).aggregate::<Purse>();
    let engine = builder.process_manager(Clerk).process_manager(Mirror).start().await.unwrap();
    let state = |name: &str| {
        let managers = engine.process_managers();
        managers.into_iter().find(|manager| manager.name == name).unwrap().state
    };

    engine.execute(&Purse::id("a"), note("panic")).await.unwrap();
    eventually("it is set aside", async || matches!(state("clerk"), ProjectionState::Quarantined(_))).await;
    engine.execute(&Purse::id("a"), managers::CENT).await.unwrap();

    eventually("the other one goes on", async || amounts(&engine, "mirror").await == [10]).await;
    let health = engine.health().await;
    let check = health.iter().find(|check| check.name == "process_manager:clerk").unwrap();
    assert!(!check.ok && check.detail.contains("quarantined"), "{check:?}");
    assert!(engine.release("clerk").await);
    eventually("it tries again", async || !matches!(state("clerk"), ProjectionState::Quarantined(_))).await;
    eventually("in vain", async || matches!(state("clerk"), ProjectionState::Quarantined(_))).await;
    assert!(engine.shutdown(Duration::from_secs(5)).await, "one that is set aside is not waited for");
}

#[tokio::test]
async fn a_command_that_nobody_can_take_waits_in_sight_and_takes_effect_once_somebody_can() {
    let place = Place::memory();
    let engine = place.engine().await;
    engine.execute(&Purse::id("a"), note("in 3600000 ms")).await.unwrap();
    engine.shutdown(Duration::from_secs(20)).await;

    // Its aggregate is missing, as after a mistake in the builder.
    let clock = std::sync::Arc::new(Ahead(TimeDelta::hours(1)));
    let engine = place.engine_with(|builder| builder.process_manager(Clerk).clock(clock.clone())).await;
    let status = || engine.process_managers().remove(0);
    eventually("it is stuck", async || status().stuck == 1).await;
    let health = engine.health().await;
    assert_eq!((status().commands, status().state), (1, ProjectionState::Live));
    assert!(health.iter().all(|check| check.ok), "{health:?}");
    assert!(health.iter().any(|check| check.detail.contains("1 of them stuck")), "{health:?}");
    engine.shutdown(Duration::from_secs(20)).await;

    let engine = place.engine().await;
    eventually("it took effect", async || amounts(&engine, "a").await == [1]).await;
    settled(&engine).await;
    assert_eq!(amounts(&engine, "a").await, [1]);
}

/// Has the clerk's table.
struct Ledger;

impl Projection for Ledger {
    const NAME: &'static str = "ledger";
    const TABLE: &'static str = "clerk";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources
    }
}

#[tokio::test]
async fn two_managers_or_a_manager_and_a_projection_of_one_name_are_refused() {
    let builder = || Engine::builder(MemoryStore::new()).aggregate::<Purse>();

    let twice = builder().process_manager(Clerk).process_manager(Clerk).start().await.err().unwrap();
    let beside = builder().projection(Ledger).process_manager(Clerk).start().await.err().unwrap();

    assert!(twice.to_string().contains("clerk"), "{twice}");
    assert!(beside.to_string().contains("clerk"), "{beside}");
}

#[tokio::test]
async fn an_engine_that_was_dropped_lets_go_of_its_log_although_its_managers_have_work() {
    let place = Place::memory();
    let engine = place.engine().await;
    for n in 0..200 {
        engine.execute(&Purse::id(n), note("now")).await.unwrap();
    }

    drop(engine);
    let started = tokio::time::Instant::now();
    let engine =
        start(async || place.open().await, |builder| builder.aggregate::<Purse>().process_manager(Clerk)).await;

    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    settled(&engine).await;
    for n in 0..200 {
        assert_eq!(amounts(&engine, &n.to_string()).await, [1], "{n}");
    }
}
