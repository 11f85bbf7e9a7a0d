//! This file does the operations of one run: it names them, repeats what nobody can say the outcome of, takes the time,
//! and remembers what was answered.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{CommandRecord, Ending, History, HistoryRoom, ReadRecord};
use super::measure::{Ended, Measures};
use super::random::Random;
use super::target::Target;
use super::workload::{Answer, Attempt, Caller, CallerSeed, Effect, Failed, Operation, Workload};
use crate::stream::Version;

/// Before an attempt of unknown outcome is made again for the first time; a daemon that is being restarted needs some
/// of these, each twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// No pause is longer, so that a target that answers again is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// What a caller waits when it was refused for want of room, so that refusals do not become the load.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);
/// One command in so many is followed until the read models show it.
const FOLLOWED_OF: u64 = 64;

/// What all callers of a run share.
pub(crate) struct Session {
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) measures: Measures,
    /// Time is counted from here.
    pub(crate) started: Instant,
    /// No operation begins any more.
    pub(crate) is_over: AtomicBool,
    /// No operation is waited for any more.
    pub(crate) abandoned: CancellationToken,
    pub(crate) in_flight: AtomicU64,
    /// Operations that were still without an answer when they were given up.
    given_up: AtomicU64,
    pub(crate) seeds: Seeds,
    repeats: Repeats,
    /// Whose keys they are.
    principal: Arc<str>,
    /// For what is remembered for the checker.
    pub(crate) room: HistoryRoom,
    callers: AtomicU64,
    history: Mutex<History>,
}

/// When an operation is repeated under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// Never, because no outcome is kept: it could happen twice.
    Never,
    /// When nobody can say how it ended.
    InDoubt,
    /// Also when it was not executed: the target is killed and started again, and says so of itself meanwhile.
    OverRestarts,
}

/// The pauses before the second attempt, the third …: ever longer up to a limit, each shortened by up to a half so that
/// callers who failed together do not come back together.
#[derive(Debug)]
struct Pauses {
    random: Random,
    next: Duration,
}

impl Pauses {
    fn new(random: Random) -> Self {
        Self { random, next: FIRST_PAUSE }
    }

    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause.mul_f64(1.0 - self.random.fraction() / 2.0)
    }
}

/// Where callers take their numbers from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeds {
    /// Makes the choices.
    pub(crate) seed: u64,
    /// Makes the names; never the same twice.
    pub(crate) names: u64,
}

impl Seeds {
    pub(crate) fn of(self, number: u64) -> CallerSeed {
        CallerSeed { number, random: Random::part(self.seed, number), names: Random::part(self.names, number) }
    }
}

impl Session {
    pub(crate) fn new(
        workload: Arc<dyn Workload>,
        target: Arc<dyn Target>,
        seeds: Seeds,
        repeats: Repeats,
        room: HistoryRoom,
    ) -> Arc<Self> {
        Arc::new(Self {
            workload,
            principal: target.principal().into(),
            target,
            measures: Measures::new(),
            started: Instant::now(),
            is_over: AtomicBool::new(false),
            abandoned: CancellationToken::new(),
            in_flight: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            seeds,
            repeats,
            room,
            callers: AtomicU64::new(0),
            history: Mutex::default(),
        })
    }

    /// One more caller of the workload.
    pub(crate) fn worker(self: &Arc<Self>) -> Worker {
        let number = self.callers.fetch_add(1, Ordering::Relaxed);
        let caller = self.workload.caller(self.seeds.of(number));
        Worker { session: Arc::clone(self), number, caller, begun: 0, history: History::default() }
    }

    /// One that works off what the workload wants to be there beforehand.
    pub(crate) fn filler(self: &Arc<Self>, list: Box<dyn Iterator<Item = Operation> + Send>) -> Filler {
        let number = self.callers.fetch_add(1, Ordering::Relaxed);
        Filler { list, session: Arc::clone(self), number, begun: 0, history: History::default() }
    }

    /// What was remembered by all who have finished.
    pub(crate) fn take_history(&self) -> History {
        std::mem::take(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Operations that were given up without an answer; those of a caller that died count too.
    pub(crate) fn unanswered(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed) + self.in_flight.load(Ordering::Relaxed)
    }

    fn finished(&self, history: History) {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).absorb(history);
    }

    /// A caller's n-th operation, under a name never used before on any log.
    fn attempt(&self, number: u64, n: u64) -> Attempt {
        let key = format!("load-{:016x}-{number}-{n}", self.seeds.names);
        Attempt::new(Arc::clone(&self.principal), key, self.repeats != Repeats::Never)
    }

    /// Does the operation, again and again under its key while nobody can say how it ended.
    async fn insist(&self, number: u64, operation: &Operation, attempt: &Attempt) -> Answer {
        let mut is_in_doubt = false;
        let mut pauses = Pauses::new(Random::part(self.seeds.names, number));
        loop {
            let answer = tokio::select! {
                biased;
                answer = (operation.send)(attempt.clone()) => answer,
                () = self.abandoned.cancelled() => return self.give_up("the run ended before its answer"),
            };
            if !answer.is_silence() {
                self.measures.heard();
            }
            let failed = match answer {
                Answer::NotExecuted(failed) if !is_in_doubt && self.outlasts(&failed) => failed,
                Answer::Unknown(failed) if self.repeats == Repeats::Never => return Answer::Unknown(failed),
                Answer::Unknown(failed) => {
                    is_in_doubt = true;
                    failed
                }
                // That this attempt was not executed says nothing of those before it.
                Answer::NotExecuted(failed) if is_in_doubt => failed,
                answer => return answer,
            };
            if self.abandoned.is_cancelled() {
                return self.give_up(&failed.detail);
            }
            self.measures.retried(number, &failed);
            self.abandoned.run_until_cancelled(tokio::time::sleep(pauses.take())).await;
        }
    }

    /// Whether it is waited until a target that says this has started again.
    fn outlasts(&self, failed: &Failed) -> bool {
        self.repeats == Repeats::OverRestarts && failed.class == "not_executed"
    }

    fn give_up(&self, detail: &str) -> Answer {
        self.given_up.fetch_add(1, Ordering::Relaxed);
        Answer::Unknown(Failed::new(Failed::ABANDONED, detail))
    }

    fn measure(&self, number: u64, operation: &Operation, took: Duration, answer: &Answer) {
        let is_read = matches!(operation.effect, Effect::Read { .. });
        let ended = |ended: &Ended<'_>| self.measures.ended(number, operation.kind, is_read, took, ended);
        match answer {
            Answer::Refused { code } if answer.is_as(&operation.effect) => ended(&Ended::Refused { code }),
            _ if answer.is_as(&operation.effect) => {
                ended(&Ended::Well { events: events_of(answer, &operation.effect) })
            }
            Answer::NotExecuted(failed) | Answer::Unknown(failed) | Answer::Failed(failed) => {
                ended(&Ended::Badly(failed));
            }
            Answer::Refused { code } => {
                ended(&Ended::Badly(&Failed::new("unexpected_refusal", format!("{}: {code}", operation.kind))));
            }
            Answer::Done { .. } => {
                let what = format!("{} had success where it must be refused", operation.kind);
                ended(&Ended::Badly(&Failed::new("unexpected_success", what)));
            }
            Answer::Seen { position, .. } => {
                let what = format!("{} was answered at position {position}, before the one asked for", operation.kind);
                ended(&Ended::Badly(&Failed::new("stale_read", what)));
            }
            Answer::Did { .. } => ended(&Ended::Badly(&Failed::new("unexpected_answer", operation.kind))),
        }
    }

    fn remember(&self, history: &mut History, operation: Operation, attempt: &Attempt, times: Times, answer: &Answer) {
        if !self.room.is_wanted() {
            return;
        }
        let before = history.bytes();
        let (begun, answered) = (times.begun - self.started, times.answered - self.started);
        match operation.effect {
            Effect::Command { stream, events, .. } => {
                let (command, kind, ending) = (attempt.command_id(), operation.kind, ending_of(answer, events));
                let has_events = matches!(ending, Ending::Acknowledged { .. } | Ending::Unknown);
                let contents = operation.contents.filter(|_| has_events).map(|contents| contents());
                history.command(CommandRecord { command, stream, kind, begun, answered, ending, contents });
            }
            Effect::Read { stream, at_least: token } => {
                if let Answer::Seen { position, version } = answer {
                    let (answered_at, seen) = (*position, version.unwrap_or(Version::EMPTY));
                    history.read(ReadRecord { stream, token, begun, answered, answered_at, seen });
                }
            }
            Effect::Other => {}
        }
        self.room.take(history.bytes() - before);
    }
}

/// How many events a success has appended, or read.
fn events_of(answer: &Answer, effect: &Effect) -> u64 {
    match (answer, effect) {
        (Answer::Done { changed: true, .. }, Effect::Command { events, .. }) => u64::from(*events),
        (Answer::Did { events }, _) => *events,
        _ => 0,
    }
}

fn ending_of(answer: &Answer, events: u16) -> Ending {
    match answer {
        Answer::Done { version, position, changed: true } => {
            Ending::Acknowledged { version: *version, position: *position, events }
        }
        Answer::Done { version, position, changed: false } => {
            Ending::Unchanged { version: *version, position: *position }
        }
        Answer::Refused { code } => Ending::Refused { code: code.clone() },
        Answer::NotExecuted(_) => Ending::NotExecuted,
        // What failed was not executed either; should it stand in the log all the same, that is for the checker to say.
        Answer::Failed(_) => Ending::NotExecuted,
        Answer::Unknown(_) | Answer::Seen { .. } | Answer::Did { .. } => Ending::Unknown,
    }
}

/// When an operation was sent and when its last answer came.
#[derive(Debug, Clone, Copy)]
struct Times {
    begun: Instant,
    answered: Instant,
}

/// One caller at work.
pub(crate) struct Worker {
    session: Arc<Session>,
    number: u64,
    caller: Box<dyn Caller>,
    begun: u64,
    history: History,
}

impl Worker {
    /// Works until the run is over.
    pub(crate) async fn work(mut self) {
        while !self.session.is_over() {
            if let Answer::NotExecuted(_) = self.operate(None).await {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
        self.finish();
    }

    /// Does one operation; its latency counts from the moment it was meant to begin, if there is one.
    pub(crate) async fn operate(&mut self, moment: Option<Instant>) -> Answer {
        let operation = self.caller.next();
        let begun = Instant::now();
        let moment = moment.map_or(begun, |moment| {
            self.session.measures.began(self.number, begun.saturating_duration_since(moment));
            moment
        });
        let session = &self.session;
        let attempt = session.attempt(self.number, self.begun);
        session.in_flight.fetch_add(1, Ordering::Relaxed);
        let answer = session.insist(self.number, &operation, &attempt).await;
        session.in_flight.fetch_sub(1, Ordering::Relaxed);
        let answered = Instant::now();
        session.measure(self.number, &operation, answered.saturating_duration_since(moment), &answer);
        self.follow(&answer);
        session.remember(&mut self.history, operation, &attempt, Times { begun, answered }, &answer);
        self.begun += 1;
        self.caller.ended(&answer);
        answer
    }

    /// Gives what it remembers to the run.
    pub(crate) fn finish(self) {
        self.session.finished(self.history);
    }

    /// Takes the time until the read models show a command, now and then.
    fn follow(&self, answer: &Answer) {
        let Answer::Done { position, .. } = *answer else { return };
        if !(self.number + self.begun).is_multiple_of(FOLLOWED_OF) {
            return;
        }
        let (session, number, answered) = (Arc::clone(&self.session), self.number, Instant::now());
        tokio::spawn(async move {
            if session.target.shows(position).await {
                session.measures.became_visible(number, answered.elapsed());
            }
        });
    }
}

/// Works off one list of operations before the load begins.
pub(crate) struct Filler {
    list: Box<dyn Iterator<Item = Operation> + Send>,
    session: Arc<Session>,
    number: u64,
    begun: u64,
    history: History,
}

impl Filler {
    /// Does one operation after the other; each must succeed.
    ///
    /// # Errors
    /// What the first that does not succeed was answered.
    pub(crate) async fn work(mut self) -> Result<(), Failed> {
        let mut result = Ok(());
        while !self.session.is_over() {
            let Some(operation) = self.list.next() else { break };
            result = self.insist(operation).await;
            if result.is_err() {
                break;
            }
        }
        self.session.finished(self.history);
        result
    }

    async fn insist(&mut self, operation: Operation) -> Result<(), Failed> {
        loop {
            let attempt = self.session.attempt(self.number, self.begun);
            self.begun += 1;
            let begun = Instant::now();
            let answer = self.session.insist(self.number, &operation, &attempt).await;
            let times = Times { begun, answered: Instant::now() };
            self.session.remember(&mut self.history, operation.clone(), &attempt, times, &answer);
            match answer {
                Answer::NotExecuted(_) if !self.session.is_over() => tokio::time::sleep(REFUSED_PAUSE).await,
                Answer::NotExecuted(failed) | Answer::Unknown(failed) | Answer::Failed(failed) => return Err(failed),
                answer if answer.is_as(&operation.effect) => return Ok(()),
                _ => return Err(Failed::new("unexpected_answer", operation.kind)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::payment::Payment;
    use crate::engine::Engine;
    use crate::loadtest::target::embedded::Embedded;
    use crate::loadtest::workload::Expected;
    use crate::projections::payment_summaries::PaymentSummaries;
    use crate::store::memory::MemoryStore;
    use crate::stream::{GlobalPosition, StreamId};

    /// Nobody calls.
    struct Idle;

    impl Workload for Idle {
        fn name(&self) -> &str {
            "idle"
        }

        fn caller(&self, _: CallerSeed) -> Box<dyn Caller> {
            Box::new(Scripted(Vec::new()))
        }
    }

    /// Does these operations, the last first.
    struct Scripted(Vec<Operation>);

    impl Caller for Scripted {
        fn next(&mut self) -> Operation {
            self.0.pop().expect("there is one more operation")
        }
    }

    async fn session(repeats: Repeats) -> Arc<Session> {
        let engine = Engine::builder(MemoryStore::default()).aggregate::<Payment>().projection(PaymentSummaries);
        let target = Embedded::new(engine.start().await.unwrap(), PaymentSummaries, None);
        let session =
            Session::new(Arc::new(Idle), Arc::new(target), Seeds { seed: 1, names: 2 }, repeats, HistoryRoom::of(1));
        session.measures.count();
        session
    }

    /// A command that is answered so, one answer an attempt, the last first; and the keys of the attempts.
    fn command(answers: Vec<Answer>) -> (Operation, Arc<Mutex<Vec<String>>>) {
        let (answers, keys) = (Mutex::new(answers), Arc::<Mutex<Vec<String>>>::default());
        let seen = Arc::clone(&keys);
        let operation =
            Operation::command("create", StreamId::new("payment", "a"), Expected::Success, move |attempt| {
                seen.lock().unwrap().push(attempt.key().to_owned());
                let answer = answers.lock().unwrap().pop().expect("there is one more answer");
                async move { answer }
            });
        (operation, keys)
    }

    async fn operate(session: &Arc<Session>, operation: Operation) -> Answer {
        let mut worker = session.worker();
        worker.caller = Box::new(Scripted(vec![operation]));
        let answer = worker.operate(None).await;
        worker.finish();
        answer
    }

    fn done() -> Answer {
        Answer::Done { version: Version(1), position: GlobalPosition(1), changed: true }
    }

    fn unknown() -> Answer {
        Answer::Unknown(Failed::new("timeout", "no answer"))
    }

    fn not_executed() -> Answer {
        Answer::NotExecuted(Failed::new("not_executed", "it is starting"))
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_asked_for_again_under_the_same_key_until_it_is_known() {
        let session = session(Repeats::InDoubt).await;
        let (operation, keys) = command(vec![done(), unknown(), unknown()]);

        let answer = operate(&session, operation).await;

        let keys = keys.lock().unwrap();
        assert_eq!((answer, keys.len()), (done(), 3));
        assert!(keys.iter().all(|key| key == &keys[0]), "{keys:?}");
        let counted = session.measures.take();
        assert_eq!((counted.retries["timeout"], counted.total().failed()), (2, 0));
    }

    #[tokio::test]
    async fn after_a_doubt_not_executed_is_no_answer_because_it_speaks_of_one_attempt_only() {
        let session = session(Repeats::InDoubt).await;
        let (operation, _) = command(vec![done(), not_executed(), unknown()]);

        assert_eq!(operate(&session, operation).await, done());
    }

    #[tokio::test]
    async fn without_a_doubt_not_executed_is_an_answer_and_an_error() {
        let session = session(Repeats::InDoubt).await;
        let (operation, keys) = command(vec![not_executed()]);

        assert_eq!(operate(&session, operation).await, not_executed());
        assert_eq!(keys.lock().unwrap().len(), 1);
        assert_eq!(session.measures.take().total().errors["not_executed"].count, 1);
        let ending = session.take_history().commands().next().unwrap().ending;
        assert_eq!(ending, Ending::NotExecuted);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_target_restarts_not_executed_is_asked_again_under_the_same_key() {
        let session = session(Repeats::OverRestarts).await;
        let (operation, keys) = command(vec![done(), not_executed(), not_executed()]);

        assert_eq!(operate(&session, operation).await, done());
        let keys = keys.lock().unwrap();
        assert!(keys.len() == 3 && keys.iter().all(|key| key == &keys[0]), "{keys:?}");
        let counted = session.measures.take();
        assert_eq!((counted.retries["not_executed"], counted.total().failed()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn want_of_room_is_an_error_also_while_the_target_restarts() {
        let session = session(Repeats::OverRestarts).await;
        let overloaded = Answer::NotExecuted(Failed::new("overloaded", "no room"));
        let (operation, _) = command(vec![overloaded.clone()]);

        assert_eq!(operate(&session, operation).await, overloaded);
    }

    #[test]
    fn pauses_between_attempts_double_up_to_a_second_and_differ_between_callers() {
        let pauses = |caller| {
            let mut pauses = Pauses::new(Random::part(2, caller));
            [(); 8].map(|()| pauses.take().as_millis())
        };

        // At most 20 ms, 40 ms, 80 ms … 1 s, and at least half of that.
        for (pause, most) in pauses(0).into_iter().zip([20, 40, 80, 160, 320, 640, 1_000, 1_000]) {
            assert!((most / 2..=most).contains(&pause), "{pause} of {most}");
        }
        assert_ne!(pauses(0), pauses(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_is_silent_for_long_is_asked_about_once_a_second() {
        let session = session(Repeats::InDoubt).await;
        let silent = vec![Answer::Unknown(Failed::new("unreachable", "connection refused")); 1_000];
        let (operation, keys) = command(silent);
        let abandoned = session.abandoned.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            abandoned.cancel();
        });

        let answer = operate(&session, operation).await;

        assert!(answer.is_silence(), "{answer:?}");
        // Seven in the first 1.3 s at most, then pauses of 0.5 s at least.
        let attempts = keys.lock().unwrap().len();
        assert!((20..=45).contains(&attempts), "{attempts}");
        assert_eq!((session.unanswered(), session.measures.last_heard()), (1, None));
    }

    #[tokio::test]
    async fn without_a_stored_outcome_nothing_is_repeated_because_it_could_happen_twice() {
        let session = session(Repeats::Never).await;
        let (operation, keys) = command(vec![unknown()]);

        assert_eq!(operate(&session, operation).await, unknown());
        assert_eq!(keys.lock().unwrap().len(), 1);
        assert_eq!(session.take_history().commands().next().unwrap().ending, Ending::Unknown);
    }

    #[tokio::test]
    async fn what_must_be_refused_and_has_success_is_an_error_and_the_other_way_round() {
        let session = session(Repeats::InDoubt).await;
        let (mut refused, _) = command(vec![done()]);
        let Effect::Command { expected, .. } = &mut refused.effect else { unreachable!("it is a command") };
        *expected = Expected::Refusal;
        let (created, _) = command(vec![Answer::Refused { code: "already_created".into() }]);

        operate(&session, refused).await;
        operate(&session, created).await;

        let errors = session.measures.take().total().errors;
        assert_eq!((errors["unexpected_success"].count, errors["unexpected_refusal"].count), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_begins_late_counts_from_the_moment_it_was_meant_to_begin() {
        let session = session(Repeats::InDoubt).await;
        let mut worker = session.worker();
        worker.caller = Box::new(Scripted(vec![command(vec![done()]).0]));
        let moment = Instant::now();
        tokio::time::advance(Duration::from_millis(300)).await;

        worker.operate(Some(moment)).await;

        let counted = session.measures.take();
        assert!(counted.total().latencies.max() >= 300_000, "{}", counted.total().latencies.max());
        assert_eq!((counted.late, counted.max_delay), (1, Duration::from_millis(300)));
    }

    #[tokio::test]
    async fn a_run_that_is_given_up_leaves_its_open_commands_as_unknown() {
        let session = session(Repeats::InDoubt).await;
        let never = Operation::command("create", StreamId::new("payment", "a"), Expected::Success, |_| {
            std::future::pending::<Answer>()
        });
        session.abandoned.cancel();

        let answer = operate(&session, never).await;

        assert!(matches!(answer, Answer::Unknown(_)));
        assert_eq!(session.take_history().commands().next().unwrap().ending, Ending::Unknown);
    }

    #[tokio::test]
    async fn what_is_remembered_takes_room_and_is_never_refused_it() {
        let session = session(Repeats::InDoubt).await;
        let answers = 1_000_000 / 100;

        for _ in 0..answers {
            operate(&session, command(vec![done()]).0).await;
        }

        // 10,000 commands of at least 92 bytes, each in a history of its own that names its stream anew.
        assert_eq!(session.room.full().await, 1);
        assert_eq!(session.take_history().command_count(), answers);
    }
}
