//! What an engine does in a moment that seldom comes: a batch is in the log, its answers have not left yet, and then
//! something goes wrong with the next one.
//!
//! The clock of these tests is paused, so that time goes on only when every task waits for something. A short sleep
//! therefore ends exactly when all that was sent has come as far as it can.

#[path = "support/brittle.rs"]
mod brittle;
mod support;

use std::sync::Arc;
use std::time::Duration;

use brittle::{BrittleClock, BrittleRecorder};
use essaim::prelude::*;
use essaim::store::{EventStore, LogFilter};
use essaim::testing::{AppendFault, Faults, FaultyStore, whole_log};
use support::{Balances, Purse, PurseCommand, PurseRejection};
use tokio::task::JoinHandle;
use uuid::Uuid;

type Answer = Result<Receipt, ExecuteError<PurseRejection>>;

/// An engine on a log in memory, the log itself, and what can go wrong.
struct Moment {
    engine: Engine,
    log: MemoryStore,
    faults: Faults,
    clock: Arc<BrittleClock>,
}

impl Moment {
    /// Three purses in memory with one cent each, and one that holds the name ada.
    async fn begin() -> Self {
        let log = MemoryStore::new();
        let store = FaultyStore::new(Arc::new(log.clone()));
        let (faults, clock) = (store.faults(), Arc::new(BrittleClock::default()));
        let builder = Engine::builder(store).aggregate::<Purse>().projection(Balances::default());
        let engine = builder.clock(clock.clone()).start().await.unwrap();
        engine.execute(&Purse::id("holder"), named("ada")).await.unwrap();
        for purse in ["a", "b", "c"] {
            engine.execute(&Purse::id(purse), put(1)).await.unwrap();
        }
        Self { engine, log, faults, clock }
    }

    /// Sends a command under an id made from `n`, and returns when all that can be done about it is done.
    async fn send(&self, n: u128, purse: &str, command: PurseCommand) -> JoinHandle<Answer> {
        let (engine, id) = (self.engine.clone(), Purse::id(purse));
        let answer = tokio::spawn(async move { engine.execute_with(&id, command, keyed(n)).await });
        everything_waits().await;
        answer
    }

    /// Purse and data of all events behind the four that were there at the beginning, sorted.
    async fn appended(&self) -> Vec<(String, String)> {
        let page = self.log.read_log(GlobalPosition(4), 1_000, &LogFilter::default()).await.unwrap();
        let entry = |event: &RecordedEvent| (event.stream.key().to_owned(), event.json.to_string());
        sorted(page.events.iter().map(entry).collect())
    }

    async fn length(&self) -> u64 {
        self.log.head().await.unwrap().position.0
    }

    /// The engine takes commands on every purse, and its read model is that of the log.
    async fn goes_on(&self) {
        let mut last = GlobalPosition::START;
        for purse in ["a", "b", "c", "holder"] {
            last = self.engine.execute(&Purse::id(purse), put(100)).await.unwrap().position;
        }
        assert_eq!(last.0, self.length().await);
        let events = whole_log(&self.log).await;
        let put = events.iter().filter_map(|event| {
            let data: serde_json::Value = serde_json::from_str(&event.json).unwrap();
            data["cents"].as_i64()
        });
        let balances = self.engine.read_model::<Balances>().at_least(last).await.unwrap();
        assert_eq!(balances.read(|rows| rows.index().0), put.sum::<i64>());
    }
}

fn put(cents: i64) -> PurseCommand {
    PurseCommand::Put { cents }
}

fn named(name: &str) -> PurseCommand {
    PurseCommand::Name { name: name.into() }
}

fn keyed(n: u128) -> Options {
    Options { command_id: Some(CommandId(Uuid::from_u128(n))), ..Options::default() }
}

fn sorted(mut entries: Vec<(String, String)>) -> Vec<(String, String)> {
    entries.sort();
    entries
}

/// What the log holds when cents were put into purses so, sorted.
fn entries(put: &[(&str, i64)]) -> Vec<(String, String)> {
    sorted(put.iter().map(|(purse, cents)| ((*purse).to_owned(), format!(r#"{{"cents":{cents}}}"#))).collect())
}

fn place(receipt: &Receipt) -> (u64, u64) {
    (receipt.version.0, receipt.position.0)
}

async fn everything_waits() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// `doomed` falls while the answer of the batch before it, which has a command of the same purse, has not left.
/// Returns what became of it.
async fn falls_before_an_earlier_answer_has_left(moment: &Moment, doomed: PurseCommand) -> Answer {
    const LOOK_UP: Duration = Duration::from_millis(100);
    moment.faults.hold_appends();
    let durable = moment.send(1, "a", put(10)).await;
    let doomed = moment.send(2, "a", doomed).await;
    let follower = moment.send(3, "a", put(20)).await;
    // A name taken and dropped within a batch is looked up first, and again when the others of its batch have fallen.
    let taken = moment.send(4, "b", named("bob")).await;
    let dropped = moment.send(5, "b", PurseCommand::DropName).await;
    moment.faults.delay_reads(LOOK_UP);
    moment.faults.release_appends();

    // In the middle of the second look-up: the aggregate has got back what fell, and the answer is still there.
    tokio::time::sleep(LOOK_UP + LOOK_UP / 2).await;
    assert_eq!(moment.length().await, 5, "the first batch is durable");
    assert!(!durable.is_finished(), "and not answered");

    assert_eq!(place(&durable.await.unwrap().unwrap()), (2, 5));
    assert_eq!(place(&taken.await.unwrap().unwrap()), (2, 6));
    assert_eq!(place(&dropped.await.unwrap().unwrap()), (3, 7));
    assert_eq!(place(&follower.await.unwrap().unwrap()), (3, 8), "decided again");
    doomed.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_claim_refused_before_an_earlier_answer_has_left_is_told_and_its_followers_are_decided_again() {
    let moment = Moment::begin().await;

    let refused = falls_before_an_earlier_answer_has_left(&moment, named("ada")).await;

    assert!(matches!(refused, Err(ExecuteError::ClaimRefused { version: Version(2), .. })), "{refused:?}");
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn a_value_refused_before_an_earlier_answer_has_left_is_told_and_its_followers_are_decided_again() {
    let moment = Moment::begin().await;
    moment.faults.refuse_events_of_type("Noted");

    let refused = falls_before_an_earlier_answer_has_left(&moment, PurseCommand::Note { text: "no".into() }).await;

    assert!(matches!(refused, Err(ExecuteError::Invalid { .. })), "{refused:?}");
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_dies_over_the_next_batch_answers_the_one_before_and_that_one_too() {
    let moment = Moment::begin().await;
    moment.faults.hold_appends();
    let durable = moment.send(1, "a", put(10)).await;
    let follower = moment.send(2, "a", put(20)).await;
    let neighbour = moment.send(3, "b", put(30)).await;

    moment.clock.break_once();
    moment.faults.release_appends();
    everything_waits().await;
    assert!(moment.clock.is_broken(), "it died over the second batch");
    assert_eq!(moment.length().await, 5, "the first batch is durable");
    assert!(!durable.is_finished(), "and not answered");

    assert_eq!(place(&durable.await.unwrap().unwrap()), (2, 5));
    let (follower, neighbour) = (follower.await.unwrap().unwrap(), neighbour.await.unwrap().unwrap());
    assert_eq!((follower.version, neighbour.version), (Version(3), Version(2)), "decided again");
    assert_eq!(moment.appended().await, entries(&[("a", 10), ("a", 20), ("b", 30)]));
    moment.goes_on().await;
}

/// The journal dies over the answer to a command of `purse`, while it appends one of purse a and one of purse b.
async fn dies_while_it_answers(purse: &str) -> Moment {
    let recorder = BrittleRecorder::default();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let moment = Moment::begin().await;
    moment.faults.hold_appends();
    let durable = moment.send(1, purse, put(10)).await;
    let appending = [moment.send(2, "a", put(20)).await, moment.send(3, "b", put(30)).await];

    recorder.break_once();
    // The next append takes its time, and the journal answers the one before meanwhile.
    moment.faults.delay_appends(Duration::from_millis(50));
    moment.faults.release_appends();
    let durable = durable.await.unwrap().unwrap();
    assert!(recorder.is_broken(), "it died over the answers");
    let retried = moment.engine.execute_with(&Purse::id(purse), put(10), keyed(1)).await.unwrap();

    assert_eq!(place(&durable), (2, 5), "found by its key");
    assert_eq!((place(&retried), retried.replayed), ((2, 5), true));
    for answer in appending {
        assert!(answer.await.unwrap().unwrap().changed);
    }
    moment
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_dies_while_it_answers_finds_the_outcome_by_the_commands_key() {
    let moment = dies_while_it_answers("c").await;

    assert_eq!(moment.appended().await, entries(&[("c", 10), ("a", 20), ("b", 30)]));
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_decided_upon_a_command_whose_answer_was_lost_is_decided_again_upon_it() {
    let moment = dies_while_it_answers("a").await;

    assert_eq!(moment.appended().await, entries(&[("a", 10), ("a", 20), ("b", 30)]));
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn who_lost_a_claim_in_the_batch_over_which_the_journal_dies_is_answered_too() {
    let moment = Moment::begin().await;
    moment.faults.hold_appends();
    let durable = moment.send(1, "c", put(10)).await;
    let winner = moment.send(2, "a", named("bob")).await;
    let loser = moment.send(3, "b", named("bob")).await;
    let follower = moment.send(4, "b", put(20)).await;

    moment.clock.break_once();
    moment.faults.release_appends();
    let durable = durable.await.unwrap();
    let answers = [winner.await.unwrap(), loser.await.unwrap()];
    let follower = follower.await.unwrap();

    assert_eq!(place(&durable.unwrap()), (2, 5));
    let won = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter().filter(|answer| matches!(answer, Err(ExecuteError::ClaimRefused { .. }))).count();
    assert_eq!((won, refused), (1, 1), "{answers:?}");
    assert!(follower.is_ok(), "{follower:?}");
    assert_eq!(moment.length().await, 7, "ten cents, one name, twenty cents");
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn who_took_a_name_by_an_append_that_arrives_when_the_journal_is_dead_has_that_name() {
    let moment = Moment::begin().await;
    moment.faults.next_append_of_type("Named", AppendFault::PanicMeanwhile);

    let taken = moment.send(1, "a", named("bob")).await.await.unwrap();

    assert_eq!(place(&taken.unwrap()), (2, 5), "not refused for the sake of his own claim");
    assert_eq!(moment.length().await, 5);
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_not_executed_while_the_append_may_still_arrive() {
    const DEADLINE: Duration = Duration::from_millis(30);
    let moment = Moment::begin().await;
    moment.faults.next_append_of_type("Put", AppendFault::PanicMeanwhile);
    moment.faults.hold_appends();
    let hasty = {
        let engine = moment.engine.clone();
        let options = Options { deadline: Some(DEADLINE), ..keyed(1) };
        tokio::spawn(async move { engine.execute_with(&Purse::id("a"), put(10), options).await })
    };
    moment.faults.append_is_held().await;
    let patient = moment.send(1, "a", put(10)).await;

    // Whoever looks for it before the log was reclaimed does not find it, and then it is too late to decide it again.
    moment.faults.delay_reads(DEADLINE + DEADLINE / 2);
    moment.faults.release_appends();
    let (hasty, patient) = (hasty.await.unwrap(), patient.await.unwrap());

    assert!(matches!(hasty, Err(ExecuteError::Unknown)), "{hasty:?}");
    assert_eq!(place(&patient.unwrap()), (2, 5));
    moment.goes_on().await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_refusal_that_is_durable_when_the_journal_dies_is_the_answer() {
    let moment = Moment::begin().await;
    moment.faults.next_append(AppendFault::PanicBehind);

    let refused = moment.send(1, "a", PurseCommand::Take { cents: 100 }).await.await.unwrap();
    let retried = moment.engine.execute_with(&Purse::id("a"), PurseCommand::Take { cents: 100 }, keyed(1)).await;

    assert!(matches!(refused, Err(ExecuteError::Rejected { version: Version(1), .. })), "{refused:?}");
    assert!(matches!(retried, Err(ExecuteError::Rejected { replayed: true, .. })), "{retried:?}");
    moment.goes_on().await;
}
