//! What a synchroniser promises, against an outside system that fails in every way: order, one effect, visible dead
//! letters, and an outside that is left alone while it is down. All in virtual time.

#[path = "support/outside.rs"]
mod outside;

use std::sync::Arc;
use std::time::Duration;

use essaim::engine::SynchroniserHandle;
use essaim::prelude::*;
use essaim::synchroniser::{DeadLetter, Drift, Pace, Progress, Reconciliation};
use essaim::testing::{Faults, FaultyStore, whole_log};
use futures::StreamExt;
use outside::{
    Account, Fault, Member, MemberCommand, Registry, Standing, StandingEvent, Step, ToRegistry, VirtualClock,
};
use tokio::time::Instant;

const CALM: Duration = Duration::from_secs(600);

/// One process: an engine on a log that outlives it.
struct Process {
    engine: Engine,
    faults: Faults,
}

impl Process {
    async fn start(store: &MemoryStore, registry: &Registry, pace: Pace) -> Self {
        Self::with_checkpoints(store, registry, pace, Duration::from_millis(100)).await
    }

    async fn with_checkpoints(store: &MemoryStore, registry: &Registry, pace: Pace, every: Duration) -> Self {
        let store = FaultyStore::new(Arc::new(store.clone()));
        let faults = store.faults();
        let limits = Limits { checkpoint_every: every, ..Limits::default() };
        let builder = Engine::builder(store).aggregate::<Member>().aggregate::<Standing>().limits(limits);
        let builder = builder.clock(Arc::new(VirtualClock::new()));
        let engine = builder.synchroniser_at(ToRegistry(registry.clone()), pace).start().await.unwrap();
        Self { engine, faults }
    }

    fn handle(&self) -> SynchroniserHandle {
        self.engine.synchroniser("registry").unwrap()
    }

    async fn name(&self, member: &str, name: &str) -> Version {
        let command = MemberCommand::Name { name: name.into() };
        self.engine.execute(&Member::id(member), command).await.unwrap().version
    }

    async fn settled(&self, member: &str, version: u64) -> Progress {
        self.handle().settled(member, Version(version), CALM).await
    }

    /// The outcomes recorded of this member, in order.
    async fn outcomes(&self, member: &str) -> Vec<StandingEvent> {
        outcomes(self.engine.store(), member).await
    }
}

async fn outcomes(store: &essaim::store::SharedStore, member: &str) -> Vec<StandingEvent> {
    let events = store.read_stream(Standing::id(member).stream(), Version::EMPTY, 1_000).await.unwrap();
    events.iter().map(|event| essaim::aggregate::decode_event::<Standing>(event).unwrap()).collect()
}

async fn fresh() -> (Process, Registry) {
    let registry = Registry::new();
    (Process::start(&MemoryStore::new(), &registry, Pace::default()).await, registry)
}

fn account(owner: &str, version: u64, name: &str) -> Account {
    Account { owner: owner.into(), version, name: name.into() }
}

fn attempts_of(registry: &Registry, member: &str) -> Vec<(u32, u64)> {
    registry
        .requests()
        .into_iter()
        .filter(|request| request.1 == member)
        .map(|request| (request.2, request.3))
        .collect()
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(CALM, waiting).await.is_err() {
        panic!("in vain waited for: {what}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_is_brought_outside_and_its_outcome_is_an_event_again() {
    let (process, registry) = fresh().await;

    process.name("ada", "Ada").await;

    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
    assert_eq!(registry.accounts(), [account("ada", 1, "Ada")]);
    assert_eq!(process.outcomes("ada").await, [StandingEvent::Synced { version: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn only_intents_raise_what_is_wanted() {
    let (process, registry) = fresh().await;
    process.name("ada", "Ada").await;
    process.settled("ada", 1).await;

    process.engine.execute(&Member::id("ada"), MemberCommand::See).await.unwrap();
    process.name("ada", "Augusta").await;
    process.settled("ada", 3).await;

    assert_eq!(attempts_of(&registry, "ada"), [(1, 1), (1, 3)], "version 2 is nothing the outside wants");
    assert_eq!(registry.accounts(), [account("ada", 3, "Augusta")]);
}

#[tokio::test(start_paused = true)]
async fn changes_of_one_subject_go_one_after_the_other_and_always_as_the_newest_full_state() {
    let (process, registry) = fresh().await;

    for n in 1..=50 {
        process.name("ada", &n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    process.settled("ada", 50).await;

    let versions: Vec<u64> = attempts_of(&registry, "ada").into_iter().map(|(_, version)| version).collect();
    assert!(versions.is_sorted() && versions.len() < 50, "{versions:?}");
    assert_eq!(registry.accounts(), [account("ada", 50, "50")]);
    assert_eq!(registry.most_at_once(), 1);
}

#[tokio::test(start_paused = true)]
async fn subjects_go_side_by_side_but_no_more_than_the_pace_allows() {
    let (process, registry) = fresh().await;

    for n in 0..100 {
        process.name(&n.to_string(), "x").await;
    }
    until("all are outside", || registry.accounts().len() == 100).await;

    assert_eq!(registry.most_at_once(), 16);
}

#[tokio::test(start_paused = true)]
async fn who_left_is_removed_outside() {
    let (process, registry) = fresh().await;
    process.name("ada", "Ada").await;
    process.settled("ada", 1).await;

    process.engine.execute(&Member::id("ada"), MemberCommand::Leave).await.unwrap();

    assert_eq!(process.settled("ada", 2).await, Progress::Synced(Version(2)));
    assert_eq!(registry.accounts(), []);
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_moment_is_tried_again_with_growing_pauses() {
    let (process, registry) = fresh().await;
    registry.behave(|_, attempt| if attempt <= 5 { Fault::Busy { after: None } } else { Fault::None });

    process.name("ada", "Ada").await;

    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
    assert_eq!(attempts_of(&registry, "ada"), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
    assert_eq!(process.outcomes("ada").await, [StandingEvent::Synced { version: 1 }]);
}

#[tokio::test(start_paused = true)]
async fn an_outside_that_names_a_time_is_not_asked_before_even_when_more_is_wanted() {
    let (process, registry) = fresh().await;
    let after = Some(Duration::from_secs(30));
    let mut asked_again = false;
    registry.behave(move |_, _| {
        let fault = if asked_again { Fault::None } else { Fault::Busy { after } };
        asked_again = true;
        fault
    });

    process.name("ada", "Ada").await;
    until("it was asked", || !registry.requests().is_empty()).await;
    process.name("ada", "Augusta").await;
    process.settled("ada", 2).await;

    let times: Vec<Instant> = registry.requests().into_iter().map(|request| request.0).collect();
    assert_eq!(times.len(), 2);
    assert!(times[1] - times[0] >= Duration::from_secs(30), "{:?}", times[1] - times[0]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_read_back_and_the_effect_not_made_again() {
    let (process, registry) = fresh().await;
    registry.behave(|_, attempt| if attempt == 1 { Fault::AnswerLost } else { Fault::None });

    process.name("ada", "Ada").await;

    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
    assert_eq!(attempts_of(&registry, "ada"), [(1, 1)], "a look was enough");
    assert_eq!(registry.looks(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_deadline_and_is_read_back() {
    let (process, registry) = fresh().await;
    registry.behave(|_, attempt| if attempt == 1 { Fault::Silent } else { Fault::None });
    let start = Instant::now();

    process.name("ada", "Ada").await;

    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
    assert!(start.elapsed() >= Pace::default().call_deadline, "{:?}", start.elapsed());
    assert_eq!(registry.accounts(), [account("ada", 1, "Ada")]);
}

#[tokio::test(start_paused = true)]
async fn after_a_lost_answer_nothing_but_a_look_that_shows_this_version_settles_the_subject() {
    let (process, registry) = fresh().await;
    registry.behave(|_, attempt| if attempt == 1 { Fault::AnswerLost } else { Fault::None });
    registry.behave_when_looked_at(|_, _| Fault::Busy { after: None });

    process.name("ada", "Ada").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let while_looks_fail = process.handle().progress("ada", Version(1));
    registry.behave_when_looked_at(|_, _| Fault::None);

    assert_eq!(while_looks_fail, Progress::Pending);
    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
}

#[tokio::test(start_paused = true)]
async fn a_hopeless_subject_is_set_aside_with_its_later_changes_and_the_others_go_on() {
    let (process, registry) = fresh().await;
    registry.behave(|member, _| if member == "bad" { Fault::Refused } else { Fault::None });

    process.name("bad", "x").await;
    process.settled("bad", 1).await;
    process.name("bad", "y").await;
    process.engine.execute(&Member::id("bad"), MemberCommand::See).await.unwrap();
    process.name("bad", "z").await;
    process.name("good", "Ada").await;
    process.settled("good", 1).await;
    until("the changes were followed", || process.handle().dead_letters(None, 10)[0].1.wanted == Version(4)).await;

    let (letter, waiting) = process.handle().dead_letter("bad", 10).await.unwrap().unwrap();
    assert_eq!((letter.version, letter.wanted, letter.synced), (Version(1), Version(4), Version(0)));
    assert_eq!((&*letter.reason, letter.permanent, letter.attempts), ("400 no such name", true, 1));
    let waiting: Vec<u64> = waiting.into_iter().map(|change| change.version.0).collect();
    assert_eq!(waiting, [1, 2, 4], "what failed and what waits behind it, in order");
    assert_eq!(attempts_of(&registry, "bad"), [(1, 1)]);
    assert_eq!(registry.accounts(), [account("good", 1, "Ada")]);
    let failed = StandingEvent::SyncFailed { version: 1, reason: "400 no such name".into(), permanent: true };
    assert_eq!(process.outcomes("bad").await, [failed]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_retried_goes_outside_with_what_waited_behind_it() {
    let (process, registry) = fresh().await;
    registry.behave(|_, _| Fault::Refused);
    process.name("ada", "x").await;
    process.settled("ada", 1).await;
    process.name("ada", "y").await;

    registry.behave(|_, _| Fault::None);
    assert_eq!(process.handle().retry("ada").await, Some(true));

    assert_eq!(process.settled("ada", 2).await, Progress::Synced(Version(2)));
    assert_eq!(registry.accounts(), [account("ada", 2, "y")]);
    assert_eq!(process.handle().dead_letters(None, 10), []);
    assert_eq!(process.handle().retry("ada").await, Some(false), "it is no dead letter any more");
    assert_eq!(process.handle().retry("nobody").await, Some(false));
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_fails_again_is_recorded_again() {
    let (process, registry) = fresh().await;
    registry.behave(|_, _| Fault::Refused);
    process.name("ada", "x").await;
    process.settled("ada", 1).await;

    process.handle().retry("ada").await;
    until("it was tried again", || registry.requests().len() == 2).await;

    assert!(matches!(process.settled("ada", 1).await, Progress::Failed(_)));
    assert_eq!(process.outcomes("ada").await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_skipped_lets_what_waited_behind_it_go_on() {
    let (process, registry) = fresh().await;
    registry.behave(|_, _| Fault::Refused);
    process.name("ada", "x").await;
    process.name("bob", "x").await;
    process.settled("ada", 1).await;
    process.settled("bob", 1).await;
    registry.behave(|_, _| Fault::None);
    process.name("ada", "y").await;

    let skipped =
        (process.handle().skip("ada", "typed wrong", "ann").await, process.handle().skip("bob", "gone", "ann").await);

    assert_eq!(skipped, (Some(true), Some(true)));
    assert_eq!(process.settled("ada", 2).await, Progress::Synced(Version(2)));
    assert_eq!(process.settled("bob", 1).await, Progress::Skipped(Version(1)));
    assert_eq!(registry.accounts(), [account("ada", 2, "y")]);
}

/// Of each subject that was skipped: the version, why it failed, who did without it, and why.
fn skips(process: &Process) -> Vec<(String, u64, String, String, String)> {
    let told = |letter: DeadLetter| {
        let skip = letter.skipped.unwrap();
        (letter.subject, letter.version.0, letter.reason, skip.by, skip.reason)
    };
    process.handle().skipped(None, 10).into_iter().map(|(_, letter)| told(letter)).collect()
}

#[tokio::test(start_paused = true)]
async fn who_skipped_a_dead_letter_and_why_is_in_the_log_and_shown_for_good() {
    let (process, registry) = fresh().await;
    registry.behave(|_, _| Fault::Refused);
    process.name("ada", "x").await;
    process.settled("ada", 1).await;

    assert_eq!(process.handle().skip("ada", "typed wrong", "ann").await, Some(true));
    assert_eq!(process.handle().skip("ada", "another word", "ben").await, Some(false), "it is none any more");
    assert_eq!(process.handle().skip("nobody", "x", "ann").await, Some(false));

    let stream = process.engine.store().read_stream(Standing::id("ada").stream(), Version(1), 10).await.unwrap();
    let [event] = &stream[..] else { panic!("one event behind the failure: {stream:?}") };
    let recorded = essaim::aggregate::decode_event::<Standing>(event).unwrap();
    assert_eq!(recorded, StandingEvent::SyncSkipped { version: 1, reason: "typed wrong".into() });
    assert_eq!(event.metadata.principal, "ann");
    let expected = ("ada".into(), 1, "400 no such name".into(), "ann".into(), "typed wrong".into());
    assert_eq!(skips(&process), std::slice::from_ref(&expected));
    let (letter, changes) = process.handle().dead_letter("ada", 10).await.unwrap().unwrap();
    assert_eq!((letter.skipped.unwrap().by.as_str(), changes.len()), ("ann", 1));

    registry.behave(|_, _| Fault::None);
    process.name("ada", "y").await;
    process.settled("ada", 2).await;
    assert_eq!(skips(&process), [expected], "what came later does not wipe it out");
}

#[tokio::test(start_paused = true)]
async fn of_two_operators_who_skip_at_once_one_is_recorded_and_the_row_says_the_same() {
    let (process, registry) = fresh().await;
    registry.behave(|_, _| Fault::Refused);
    process.name("ada", "x").await;
    process.settled("ada", 1).await;

    let handle = process.handle();
    let (ann, ben) = tokio::join!(handle.skip("ada", "one", "ann"), handle.skip("ada", "two", "ben"));

    let won = if ann == Some(true) { ("ann", "one") } else { ("ben", "two") };
    assert_eq!([ann, ben].iter().filter(|skipped| **skipped == Some(true)).count(), 1, "{ann:?} {ben:?}");
    let outcomes = process.outcomes("ada").await;
    assert_eq!(outcomes.len(), 2, "a failure and a skip: {outcomes:?}");
    assert_eq!(outcomes[1], StandingEvent::SyncSkipped { version: 1, reason: won.1.into() });
    let [(_, _, _, by, reason)] = &skips(&process)[..] else { panic!("one was skipped") };
    assert_eq!((by.as_str(), reason.as_str()), won);
}

#[test]
fn killed_between_the_skip_in_the_log_and_the_row() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    registry.behave(|_, _| Fault::Refused);
    killed_after(async {
        // Without a checkpoint nothing but the log knows of it.
        let process = Process::with_checkpoints(&store, &registry, Pace::default(), CALM * 100).await;
        process.name("ada", "x").await;
        process.settled("ada", 1).await;
        let skipping = tokio::spawn({
            let handle = process.handle();
            async move { handle.skip("ada", "typed wrong", "ann").await }
        });
        let mut recorded = process.outcomes("ada").await;
        while recorded.len() < 2 {
            tokio::task::yield_now().await;
            recorded = process.outcomes("ada").await;
        }
        skipping.abort();
    });

    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        assert_eq!(process.settled("ada", 1).await, Progress::Skipped(Version(1)));
        assert_eq!(skips(&process), [("ada".into(), 1, "400 no such name".into(), "ann".into(), "typed wrong".into())]);
        assert_eq!(registry.requests().len(), 1);
    });
}

#[tokio::test(start_paused = true)]
async fn attempts_without_end_are_none_the_budget_ends_them_as_a_dead_letter() {
    let registry = Registry::new();
    let pace = Pace { max_attempts: 4, ..Pace::default() };
    let process = Process::start(&MemoryStore::new(), &registry, pace).await;
    registry.behave(|member, _| if member == "bad" { Fault::Busy { after: None } } else { Fault::None });

    process.name("bad", "x").await;

    let Progress::Failed(letter) = process.settled("bad", 1).await else { panic!("it is no dead letter") };
    assert_eq!((letter.attempts, letter.permanent, &*letter.reason), (4, false, "500"));
    assert_eq!(attempts_of(&registry, "bad").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn while_the_outside_is_down_one_probe_a_second_is_made_and_no_attempt_is_used_up() {
    let registry = Registry::new();
    let pace = Pace { max_attempts: 2, ..Pace::default() };
    let process = Process::start(&MemoryStore::new(), &registry, pace).await;
    registry.behave(|_, _| Fault::Gone { after: None });
    for n in 0..40 {
        process.name(&n.to_string(), "x").await;
    }
    until("the breaker is open", || process.handle().status().unavailable_for.is_some()).await;
    let (down_at, before) = (Instant::now(), registry.requests().len());

    tokio::time::sleep(Duration::from_secs(60)).await;

    let probes: Vec<Instant> = registry.requests().into_iter().skip(before).map(|request| request.0).collect();
    let probes: Vec<_> = probes.into_iter().filter(|at| *at > down_at).collect();
    assert!(probes.len() >= 55, "it is asked now and then: {}", probes.len());
    assert!(probes.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(1)), "{probes:?}");
    assert!(before <= 10 + 16, "the breaker opened late: {before}");
    let ready = process.engine.health().await.into_iter().find(|check| check.name == "synchroniser:registry").unwrap();
    assert!(ready.ok && ready.detail.contains("unavailable for 6"), "{ready:?}");

    registry.behave(|_, _| Fault::None);
    until("all are outside", || registry.accounts().len() == 40).await;
    assert_eq!(process.handle().status().dead_letters, 0);
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_the_store_is_slow_to_take_is_recorded_once() {
    let (process, registry) = fresh().await;
    process.name("ada", "Ada").await;
    process.faults.hold_appends();
    process.faults.append_is_held().await;

    // Longer than the deadline of a command: whether the outcome was recorded is unknown by then, and it is sent again.
    tokio::time::sleep(Limits::default().command_deadline * 2).await;
    process.faults.release_appends();

    assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
    tokio::time::sleep(CALM).await;
    assert_eq!(process.outcomes("ada").await, [StandingEvent::Synced { version: 1 }]);
    assert_eq!(registry.requests().len(), 1);
}

/// Runs `life` in a runtime of its own, in virtual time, and drops the runtime with everything in it when `life` ends:
/// a kill.
fn killed_after<F: Future<Output = ()>>(life: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(life);
    drop(runtime);
}

/// After the kill: a new process brings everything to its end, with one account and one outcome.
fn one_effect_after(store: &MemoryStore, registry: &Registry) {
    killed_after(async {
        let process = Process::start(store, registry, Pace::default()).await;

        assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
        assert_eq!(registry.accounts(), [account("ada", 1, "Ada")]);
        assert_eq!(process.outcomes("ada").await, [StandingEvent::Synced { version: 1 }]);
        process.name("ada", "Augusta").await;
        assert_eq!(process.settled("ada", 2).await, Progress::Synced(Version(2)));
        assert_eq!(registry.accounts(), [account("ada", 2, "Augusta")]);
        assert!(process.engine.shutdown(CALM).await);
    });
}

#[test]
fn killed_before_the_call() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        registry.hold_at(Step::BeforeEffect);
        process.name("ada", "Ada").await;
        registry.is_held().await;
        assert_eq!(registry.accounts(), []);
    });

    one_effect_after(&store, &registry);
}

#[test]
fn killed_after_the_effect_but_before_the_answer() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        registry.hold_at(Step::AfterEffect);
        process.name("ada", "Ada").await;
        registry.is_held().await;
        assert_eq!(registry.accounts().len(), 1);
    });

    one_effect_after(&store, &registry);
    assert_eq!(attempts_of(&registry, "ada"), [(1, 1), (1, 2)], "a look was enough");
}

#[test]
fn killed_before_the_outcome_is_in_the_log() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        process.name("ada", "Ada").await;
        process.faults.hold_appends();
        process.faults.append_is_held().await;
        assert_eq!(registry.accounts().len(), 1);
        assert_eq!(process.outcomes("ada").await, []);
    });

    one_effect_after(&store, &registry);
}

#[test]
fn killed_before_the_checkpoint() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    killed_after(async {
        let process = Process::with_checkpoints(&store, &registry, Pace::default(), CALM * 100).await;
        process.name("ada", "Ada").await;
        process.settled("ada", 1).await;
        assert_eq!(process.handle().status().checkpoint, GlobalPosition::START);
    });

    one_effect_after(&store, &registry);
    assert_eq!(attempts_of(&registry, "ada"), [(1, 1), (1, 2)], "the log says that it was done");
}

#[test]
fn after_a_kill_no_call_is_made_before_the_log_was_followed_to_its_end() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    killed_after(async {
        let process = Process::with_checkpoints(&store, &registry, Pace::default(), CALM * 100).await;
        registry.behave(|_, _| Fault::Gone { after: None });
        process.name("ada", "Ada").await;
        // More events than one page of the store lie between the intent and its outcome.
        for _ in 0..2_500 {
            process.engine.execute(&Member::id("bob"), MemberCommand::See).await.unwrap();
        }
        registry.behave(|_, _| Fault::None);
        process.settled("ada", 1).await;
    });
    let (requests, looks) = (registry.requests().len(), registry.looks());

    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        assert_eq!(process.settled("ada", 1).await, Progress::Synced(Version(1)));
        process.name("bob", "Bob").await;
        assert_eq!(process.settled("bob", 2_501).await, Progress::Synced(Version(2_501)));
    });
    assert_eq!((registry.requests().len(), registry.looks()), (requests + 1, looks), "bob's call alone");
}

#[test]
fn a_dead_letter_its_budget_and_what_was_skipped_survive_a_kill() {
    let (store, registry) = (MemoryStore::new(), Registry::new());
    registry.behave(|_, _| Fault::Refused);
    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        for member in ["kept", "retried", "skipped"] {
            process.name(member, "x").await;
            process.settled(member, 1).await;
        }
        assert_eq!(process.handle().skip("skipped", "typed wrong", "ann").await, Some(true));
        registry.behave(|_, _| Fault::Gone { after: None });
        assert_eq!(process.handle().retry("retried").await, Some(true));
    });
    let before = registry.requests().len();
    registry.behave(|_, _| Fault::None);

    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        assert_eq!(process.settled("retried", 1).await, Progress::Synced(Version(1)));

        assert!(matches!(process.handle().progress("kept", Version(1)), Progress::Failed(_)));
        assert_eq!(process.handle().progress("skipped", Version(1)), Progress::Skipped(Version(1)));
        let asked: Vec<_> = registry.requests().into_iter().skip(before).map(|request| request.1).collect();
        assert_eq!(asked, ["retried"]);
    });
}

#[tokio::test(start_paused = true)]
async fn a_pass_reports_what_drifted_outside_and_repairs_it_when_told() {
    let (process, registry) = fresh().await;
    for member in ["ada", "bob", "cyd"] {
        process.name(member, "x").await;
        process.settled(member, 1).await;
    }
    registry.tamper("bob", |account| account.name = "somebody".into());

    assert!(process.handle().reconcile(false));
    assert!(!process.handle().reconcile(false), "one is going on");
    let finished = || process.handle().reconciliation().is_some_and(|report| report.finished_at.is_some());
    until("the pass is over", finished).await;
    let report = process.handle().reconciliation().unwrap();
    assert_eq!((report.checked, report.drifted, report.passed_over), (3, 1, 0));
    assert_eq!((&*report.drifts[0].subject, &*report.drifts[0].differs), ("bob", &["name".to_owned()][..]));
    assert_eq!(registry.accounts()[1].name, "somebody", "it was only reported");

    assert!(process.handle().reconcile(true));
    until("the pass is over", finished).await;
    until("bob is as wanted", || registry.accounts()[1].name == "x").await;
    assert!(process.handle().reconciliation().unwrap().drifts[0].repaired);
}

async fn reconciled(process: &Process, repairs: bool) -> Reconciliation {
    assert!(process.handle().reconcile(repairs));
    let finished = || process.handle().reconciliation().is_some_and(|report| report.finished_at.is_some());
    until("the pass is over", finished).await;
    process.handle().reconciliation().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_nobody_is_reported_and_only_then_removed_when_told() {
    let (process, registry) = fresh().await;
    for member in ["ada", "bob", "cyd"] {
        process.name(member, "x").await;
        process.settled(member, 1).await;
    }
    registry.plant("zoe");
    let is_there = |owner: &str| registry.accounts().iter().any(|account| account.owner == owner);

    // Told at once, it is reported first all the same: removing cannot be undone.
    let first = reconciled(&process, true).await;
    let stray = |repaired| Drift {
        subject: "zoe".into(),
        version: Version::EMPTY,
        differs: vec![Drift::UNKNOWN.into()],
        outside_id: Some("4".into()),
        repaired,
    };
    assert_eq!((first.checked, first.surveyed, first.drifted), (3, Some(4), 1));
    assert_eq!(first.drifts, [stray(false)]);
    assert!(is_there("zoe"));

    registry.plant("zia");
    assert_eq!(reconciled(&process, false).await.drifted, 2);
    assert!(is_there("zoe"), "it was only reported");

    registry.plant("zac");
    let last = reconciled(&process, true).await;
    let removed: Vec<_> = last.drifts.iter().map(|drift| (drift.subject.as_str(), drift.repaired)).collect();
    assert_eq!(removed, [("zoe", true), ("zia", true), ("zac", false)]);
    assert!(!is_there("zoe") && !is_there("zia") && is_there("zac"));
    assert!(["ada", "bob", "cyd"].into_iter().all(is_there));
}

#[tokio::test(start_paused = true)]
async fn an_outside_that_cannot_be_listed_to_its_end_is_said_not_to_have_been() {
    let (process, registry) = fresh().await;
    for member in ["ada", "bob", "cyd"] {
        process.name(member, "x").await;
        process.settled(member, 1).await;
    }
    registry.plant("zoe");
    let mut asked = 0;
    // A page that fails now and then is asked for again.
    registry.behave_when_looked_at(move |subject, _| {
        asked += u32::from(subject == "all");
        if subject == "all" && asked % 3 != 0 { Fault::Busy { after: None } } else { Fault::None }
    });
    let patient = reconciled(&process, false).await;
    registry.behave_when_looked_at(
        |subject, _| {
            if subject == "all" { Fault::Busy { after: None } } else { Fault::None }
        },
    );
    let vain = reconciled(&process, false).await;

    assert_eq!((patient.checked, patient.surveyed, patient.drifted), (3, Some(4), 1));
    assert_eq!((vain.checked, vain.surveyed, vain.drifted), (3, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pass_looks_at_no_more_subjects_a_second_than_its_pace() {
    let (process, registry) = fresh().await;
    for n in 0..60 {
        process.name(&n.to_string(), "x").await;
    }
    until("all are outside", || process.handle().status().pending == 0 && registry.accounts().len() == 60).await;
    let start = Instant::now();

    process.handle().reconcile(false);
    until("it is over", || process.handle().reconciliation().is_some_and(|r| r.finished_at.is_some())).await;

    assert!(start.elapsed() >= Duration::from_millis(59 * 50), "60 at 20 a second took {:?}", start.elapsed());
}

/// Even between 0 and 99 for each member and request, and the same in every run.
fn dice(member: &str, request: u32) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in member.bytes().chain(request.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    ((hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 100
}

#[test]
fn ten_thousand_subjects_through_faults_lost_answers_and_an_outage() {
    const SUBJECTS: usize = 10_000;
    const HOPELESS: usize = 37;
    let is_hopeless = |member: &str| {
        let n: usize = member.parse().unwrap();
        n.is_multiple_of(270) && n / 270 < HOPELESS
    };
    let registry = Registry::new();
    let store = MemoryStore::new();
    killed_after(async {
        let process = Process::start(&store, &registry, Pace::default()).await;
        let start = Instant::now();
        let outage = start + Duration::from_secs(2)..start + Duration::from_secs(62);
        let down = outage.clone();
        let mut requests = 0;
        registry.behave(move |member, _| {
            requests += 1;
            match dice(member, requests) {
                _ if down.contains(&Instant::now()) => Fault::Gone { after: None },
                _ if is_hopeless(member) => Fault::Refused,
                0..30 => Fault::Busy { after: None },
                30..39 => Fault::AnswerLost,
                39 => Fault::Silent,
                _ => Fault::None,
            }
        });
        let (down, mut looks) = (outage.clone(), 0);
        registry.behave_when_looked_at(move |member, _| {
            looks += 1;
            match dice(member, looks) {
                _ if down.contains(&Instant::now()) => Fault::Gone { after: None },
                0..30 => Fault::Busy { after: None },
                _ => Fault::None,
            }
        });

        let registering = futures::stream::iter(0..SUBJECTS).for_each_concurrent(256, |n| {
            let process = &process;
            async move {
                process.name(&n.to_string(), "x").await;
            }
        });
        registering.await;
        let registered = start.elapsed();
        tokio::time::sleep_until(outage.start + Duration::from_secs(30)).await;
        let opened = Instant::now() - process.handle().status().unavailable_for.unwrap();
        let is_done = || {
            let status = process.handle().status();
            status.pending == 0 && status.subjects == SUBJECTS
        };
        until("all are settled", is_done).await;

        let status = process.handle().status();
        assert_eq!((status.dead_letters, registry.accounts().len()), (HOPELESS, SUBJECTS - HOPELESS));
        let mut owners: Vec<_> = registry.accounts().into_iter().map(|account| account.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), SUBJECTS - HOPELESS, "never two for one");
        let letters = process.handle().dead_letters(None, SUBJECTS);
        assert!(letters.iter().all(|(_, letter)| letter.permanent && is_hopeless(&letter.subject)));
        assert!(registered < Duration::from_secs(2), "commands did not wait for the outside: {registered:?}");
        let times: Vec<_> = registry.requests().into_iter().map(|request| request.0).collect();
        let before_it_opened = times.iter().filter(|at| (outage.start..=opened).contains(at)).count();
        assert!(before_it_opened <= 10 + 16, "the breaker opened late: {before_it_opened}");
        let probes: Vec<_> = times.iter().copied().filter(|at| *at > opened && *at < outage.end).collect();
        assert!(probes.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(1)), "{probes:?}");
        assert!((50..=60).contains(&probes.len()), "{}", probes.len());
        let log = whole_log(&**process.engine.store()).await;
        let of_type = |wanted: &str| log.iter().filter(|event| event.event_type == wanted).count();
        assert_eq!((of_type("Synced"), of_type("SyncFailed")), (SUBJECTS - HOPELESS, HOPELESS));
        assert!(process.engine.shutdown(CALM).await);
    });
}
