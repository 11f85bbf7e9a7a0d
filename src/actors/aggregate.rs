//! This file runs one aggregate instance: it loads the state, decides commands one after the other, and hands the
//! events to the journal without waiting for the commit.
//!
//! ```text
//! Cold ──first command──> Loading ──state──> Ready ──an append came back──> Settling ──all came back──> Loading
//! ```
//! The state runs ahead of the log. What was decided upon an append that fell is decided again upon what is durable,
//! in order and under the same ids; only the command at fault is answered with the fault.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::Instant;
use tracing::warn;

use super::Runtime;
use super::answer::{Answer, Reply, Request};
use super::journal::{Append, ClaimDelta, Fault, Lineage, Verdict};
use super::loader::Loaded;
use super::snapshots::PendingSnapshot;
use crate::aggregate::{Aggregate, Claim, decode_event, encode_event};
use crate::causes::with_causes;
use crate::command::NotExecuted;
use crate::event::{NewEvent, RecordedEvent};
use crate::store::{LoadRequest, Outcome, Snapshot};
use crate::stream::{StreamId, Version};

/// Tells the pages of one load from those of an earlier one that was given up.
pub(crate) type LoadNumber = u64;

/// What an aggregate's actor is told.
pub(crate) enum Message<A: Aggregate> {
    /// A command to decide.
    Execute(Box<Request<A>>, Reply),
    /// Part of the stream, or why it could not be read.
    Loaded(LoadNumber, Loaded),
    /// The journal hands an append back.
    HandedBack(Box<Append>, Fault),
    /// Stop, unless something is outstanding.
    Passivate,
}

/// The stateless half of the actor.
pub(crate) struct AggregateActor<A>(std::marker::PhantomData<fn() -> A>);

impl<A> Default for AggregateActor<A> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

/// What an instance is started with.
pub(crate) struct Arguments<A: Aggregate> {
    pub(crate) stream: StreamId,
    pub(crate) runtime: Arc<Runtime>,
    /// About how many bytes the state holds on the heap, for the shard's memory budget.
    pub(crate) heap_bytes: Arc<AtomicUsize>,
    pub(crate) shard: Box<dyn Fn(Notice) + Send + Sync>,
    pub(crate) aggregate: std::marker::PhantomData<fn() -> A>,
}

/// What an instance tells its shard.
#[derive(Debug)]
pub(crate) enum Notice {
    /// It was asked to stop and has things to do.
    Busy(StreamId),
    /// Its stream cannot be read or applied; nothing but a release will mend that.
    Faulty(StreamId, String),
}

impl<A: Aggregate> Actor for AggregateActor<A> {
    type Msg = Message<A>;
    type State = Instance<A>;
    type Arguments = Arguments<A>;

    async fn pre_start(
        &self,
        myself: ActorRef<Message<A>>,
        arguments: Arguments<A>,
    ) -> Result<Instance<A>, ActorProcessingErr> {
        Ok(Instance::new(myself, arguments))
    }

    async fn handle(
        &self,
        myself: ActorRef<Message<A>>,
        message: Message<A>,
        instance: &mut Instance<A>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Execute(request, reply) => instance.execute(request, reply),
            Message::Loaded(number, loaded) if number == instance.load_number => instance.loaded(loaded),
            Message::Loaded(..) => {}
            Message::HandedBack(append, fault) => instance.handed_back(*append, fault),
            Message::Passivate if instance.is_idle() => myself.stop(None),
            Message::Passivate => (instance.shard)(Notice::Busy(instance.stream.clone())),
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No state yet.
    Cold,
    /// A load is under way, sent after everything outstanding was settled.
    Loading,
    /// The state is ahead of the log by what is in `decided`.
    Ready,
    /// An append fell; the rest of its lineage is on its way back.
    Settling,
}

/// A command that was decided and is not known durable.
struct Decided<A: Aggregate> {
    number: u64,
    request: Box<Request<A>>,
}

/// A decided command whose append came back.
struct Fallen<A: Aggregate> {
    request: Box<Request<A>>,
    reply: Reply,
    fault: Fault,
}

/// One aggregate instance.
pub(crate) struct Instance<A: Aggregate> {
    stream: StreamId,
    runtime: Arc<Runtime>,
    myself: ActorRef<Message<A>>,
    shard: Box<dyn Fn(Notice) + Send + Sync>,
    heap_bytes: Arc<AtomicUsize>,
    phase: Phase,
    state: A,
    version: Version,
    lineage: Arc<Lineage>,
    generation: u64,
    next_number: u64,
    decided: VecDeque<Decided<A>>,
    fallen: Vec<Fallen<A>>,
    waiting: VecDeque<(Box<Request<A>>, Reply)>,
    /// Ids of events seen while loading, kept only when a fallen command may be among them.
    seen: Vec<RecordedEvent>,
    load_number: LoadNumber,
    snapshot_at: Version,
    /// Set when the kept snapshot could not be read: the whole stream is.
    ignore_snapshot: bool,
}

/// What one command comes to.
struct Draft {
    events: Vec<NewEvent>,
    claims: ClaimDelta,
    verdict: Verdict,
    snapshot: Option<PendingSnapshot>,
}

impl Draft {
    fn without_events(verdict: Verdict) -> Self {
        Self { events: Vec::new(), claims: ClaimDelta::default(), verdict, snapshot: None }
    }
}

impl<A: Aggregate> Instance<A> {
    fn new(myself: ActorRef<Message<A>>, arguments: Arguments<A>) -> Self {
        let generation = arguments.runtime.feed.generation();
        let lineage = begin_lineage(generation, &myself);
        Self {
            stream: arguments.stream,
            runtime: arguments.runtime,
            myself,
            shard: arguments.shard,
            heap_bytes: arguments.heap_bytes,
            phase: Phase::Cold,
            state: A::default(),
            version: Version::EMPTY,
            lineage,
            generation,
            next_number: 1,
            decided: VecDeque::new(),
            fallen: Vec::new(),
            waiting: VecDeque::new(),
            seen: Vec::new(),
            load_number: 0,
            snapshot_at: Version::EMPTY,
            ignore_snapshot: false,
        }
    }

    fn execute(&mut self, request: Box<Request<A>>, reply: Reply) {
        self.forget_what_is_durable();
        match self.phase {
            Phase::Ready if self.generation == self.runtime.feed.generation() => self.decide(request, reply),
            // The log went backwards, and with it perhaps this stream.
            Phase::Ready if self.decided.is_empty() => {
                self.waiting.push_back((request, reply));
                self.load();
            }
            Phase::Cold => {
                self.waiting.push_back((request, reply));
                self.load();
            }
            Phase::Ready | Phase::Loading | Phase::Settling => self.waiting.push_back((request, reply)),
        }
    }

    fn decide(&mut self, request: Box<Request<A>>, reply: Reply) {
        if Instant::now() >= request.decide_by || !reply.ticket().decide() {
            return reply.send(Answer::NotExecuted(NotExecuted::Deadline));
        }
        if !request.expected.allows(self.version) {
            let answer = Answer::VersionMismatch { expected: request.expected, actual: self.version };
            return self.append(request, reply, Draft::without_events(Verdict::Answer(answer)));
        }
        // A panic in `decide` has changed nothing: it only borrows.
        let decision = catch_unwind(AssertUnwindSafe(|| self.state.decide(&request.command)));
        match decision {
            Err(_) => reply.send(Answer::Failed(format!("{} panicked while deciding", A::CATEGORY))),
            Ok(Err(rejection)) => {
                let outcome = serde_json::to_string(&rejection).map(|json| Outcome::Rejected {
                    version: self.version,
                    position: Default::default(),
                    rejection: json.into(),
                });
                match outcome {
                    Ok(outcome) => self.append(request, reply, Draft::without_events(Verdict::Outcome(outcome))),
                    Err(error) => {
                        reply.send(Answer::Failed(format!("the rejection cannot be written as JSON: {error}")))
                    }
                }
            }
            Ok(Ok(events)) if events.is_empty() => {
                let outcome = Outcome::Unchanged { version: self.version, position: Default::default() };
                self.append(request, reply, Draft::without_events(Verdict::Outcome(outcome)));
            }
            Ok(Ok(events)) => self.apply(request, reply, events),
        }
    }

    /// Brings the state ahead of the log by these events and hands them to the journal.
    fn apply(&mut self, request: Box<Request<A>>, reply: Reply, events: Vec<A::Event>) {
        let mut encoded = match self.encode(&request, &events) {
            Ok(encoded) => encoded,
            Err(answer) => return reply.send(answer),
        };
        let before = self.state.claims();
        let applied = catch_unwind(AssertUnwindSafe(|| events.iter().for_each(|event| self.state.apply(event))));
        if applied.is_err() {
            // The state may be half changed. Once all before is durable, the journal hands this back, and the state
            // is loaded anew.
            let what = format!("{} panicked while applying its own events", A::CATEGORY);
            return self.append(request, reply, Draft::without_events(Verdict::Abort(what)));
        }
        let claims = difference(before, self.state.claims());
        let version = Version(self.version.0 + events.len() as u64);
        let outcome = Outcome::Committed { version, position: Default::default() };
        let snapshot = self.snapshot_if_due(version);
        for (encoded, event) in encoded.iter_mut().zip(events) {
            encoded.decoded = Some(Arc::new(event));
        }
        let draft = Draft { events: encoded, claims, verdict: Verdict::Outcome(outcome), snapshot };
        self.append(request, reply, draft);
        self.heap_bytes.store(self.state.heap_bytes(), Ordering::Relaxed);
    }

    /// The encoded state, when enough events came since the last. It travels with its append and is saved only when
    /// that is durable.
    fn snapshot_if_due(&mut self, version: Version) -> Option<PendingSnapshot> {
        let policy = A::snapshots()?;
        if version.0 < self.snapshot_at.0 + policy.every_events {
            return None;
        }
        self.snapshot_at = version;
        match (policy.encode)(&self.state) {
            Ok(state) => Some(PendingSnapshot { schema_version: policy.schema_version, state }),
            Err(error) => {
                warn!(stream = %self.stream, %error, "the state cannot be encoded for a snapshot");
                None
            }
        }
    }

    fn encode(&self, request: &Request<A>, events: &[A::Event]) -> Result<Vec<NewEvent>, Answer> {
        let limits = &self.runtime.limits;
        if events.len() > limits.max_events_per_command {
            let (found, most) = (events.len(), limits.max_events_per_command);
            return Err(Answer::Invalid(format!("{found} events are more than the {most} one command may append")));
        }
        let mut encoded = Vec::with_capacity(events.len());
        for (n, event) in events.iter().enumerate() {
            let event = encode_event::<A>(event, request.command_id, n)
                .map_err(|error| Answer::Failed(format!("an event cannot be written as JSON: {error}")))?;
            if event.json.len() > limits.max_event_bytes {
                let (found, most) = (event.json.len(), limits.max_event_bytes);
                return Err(Answer::Invalid(format!("an event of {found} bytes is larger than {most}")));
            }
            if holds_nul(&event.json) {
                return Err(Answer::Invalid("a string holds U+0000, which no database can keep".into()));
            }
            encoded.push(event);
        }
        Ok(encoded)
    }

    fn append(&mut self, request: Box<Request<A>>, reply: Reply, draft: Draft) {
        let Draft { events, claims, verdict, snapshot } = draft;
        let number = self.next_number;
        self.next_number += 1;
        let version = self.version;
        self.version = Version(version.0 + events.len() as u64);
        let append = Append {
            lineage: Arc::clone(&self.lineage),
            number,
            command_id: request.command_id,
            stream: self.stream.clone(),
            version,
            events,
            metadata: request.metadata.clone(),
            claims,
            verdict,
            snapshot,
            keep: request.keep,
            reply,
        };
        self.decided.push_back(Decided { number, request });
        if let Err(refused) = self.runtime.journal.try_send(append) {
            // The channel holds as many appends as there are permits, so only a closed one refuses.
            let append = refused.into_inner();
            self.phase = Phase::Settling;
            self.handed_back(append, Fault::Stopped(NotExecuted::Draining));
        }
    }

    fn handed_back(&mut self, append: Append, fault: Fault) {
        self.forget_what_is_durable();
        self.phase = Phase::Settling;
        let at = self.decided.iter().position(|decided| decided.number == append.number);
        let Some(mut decided) = at.and_then(|at| self.decided.remove(at)) else {
            // Durable, as is known by now, but the journal failed before it could answer.
            append.reply.send(match fault {
                Fault::Kept(outcome) => Answer::Outcome(outcome),
                _ => Answer::Unknown,
            });
            return self.load_when_settled();
        };
        decided.request.in_doubt |= matches!(fault, Fault::Unknown) && !append.events.is_empty();
        self.fallen.push(Fallen { request: decided.request, reply: append.reply, fault });
        self.load_when_settled();
    }

    fn load_when_settled(&mut self) {
        if self.decided.is_empty() {
            self.load();
        }
    }

    /// Reads the stream anew. Everything outstanding is settled, so what is read is what the next decision stands on.
    fn load(&mut self) {
        self.phase = Phase::Loading;
        self.state = A::default();
        self.version = Version::EMPTY;
        self.snapshot_at = Version::EMPTY;
        self.load_number += 1;
        self.generation = self.runtime.feed.generation();
        self.seen.clear();
        // An append of unknown outcome is looked for among the events themselves, which a snapshot would hide.
        let look_for_events = self.fallen.iter().any(|fallen| fallen.request.in_doubt);
        let schema =
            A::snapshots().map(|policy| policy.schema_version).filter(|_| !look_for_events && !self.ignore_snapshot);
        let request = LoadRequest { stream: self.stream.clone(), snapshot_schema: schema };
        let (myself, number) = (self.myself.clone(), self.load_number);
        // An actor that stopped meanwhile needs no state.
        self.runtime.loader.load(request, move |loaded| drop(myself.send_message(Message::Loaded(number, loaded))));
    }

    fn loaded(&mut self, loaded: Loaded) {
        if let Loaded::Failed(error) = &loaded {
            warn!(stream = %self.stream, error = %with_causes(error), "a stream could not be loaded");
            self.phase = Phase::Cold;
            return self.answer_all(|fault| match fault {
                Some(Fault::Unknown) => Answer::Unknown,
                Some(Fault::Kept(outcome)) => Answer::Outcome(outcome.clone()),
                _ => Answer::NotExecuted(NotExecuted::StoreUnavailable),
            });
        }
        let Loaded::Page { snapshot, events, last } = loaded else { return };
        if let Some(snapshot) = snapshot
            && let Err(error) = self.restore_snapshot(&snapshot)
        {
            warn!(stream = %self.stream, version = %snapshot.version, %error, "a snapshot cannot be read; replaying the stream");
            self.ignore_snapshot = true;
            return self.load();
        }
        if let Err(reason) = self.replay(&events) {
            (self.shard)(Notice::Faulty(self.stream.clone(), reason.clone()));
            self.phase = Phase::Cold;
            return self.answer_all(|_| Answer::Quarantined(reason.clone()));
        }
        if self.fallen.iter().any(|fallen| fallen.request.in_doubt) {
            self.seen.extend(events);
        }
        if last {
            self.ready();
        }
    }

    fn restore_snapshot(&mut self, snapshot: &Snapshot) -> Result<(), serde_json::Error> {
        let Some(policy) = A::snapshots() else { return Ok(()) };
        self.state = (policy.decode)(&snapshot.state)?;
        self.version = snapshot.version;
        self.snapshot_at = snapshot.version;
        Ok(())
    }

    fn replay(&mut self, events: &[RecordedEvent]) -> Result<(), String> {
        for event in events {
            if event.version.0 != self.version.0 + 1 {
                return Err(format!("version {} follows version {}", event.version, self.version));
            }
            let data = decode_event::<A>(event).map_err(|error| with_causes(&error))?;
            catch_unwind(AssertUnwindSafe(|| self.state.apply(&data)))
                .map_err(|_| format!("{} panicked while applying event {}", A::CATEGORY, event.position))?;
            self.version = event.version;
        }
        Ok(())
    }

    /// The state is what is durable: settles what fell, then takes what came meanwhile.
    fn ready(&mut self) {
        self.phase = Phase::Ready;
        self.lineage = begin_lineage(self.generation, &self.myself);
        self.next_number = 1;
        self.heap_bytes.store(self.state.heap_bytes(), Ordering::Relaxed);
        let seen = std::mem::take(&mut self.seen);
        for fallen in std::mem::take(&mut self.fallen) {
            self.settle(fallen, &seen);
        }
        while self.phase == Phase::Ready {
            let Some((request, reply)) = self.waiting.pop_front() else { return };
            self.decide(request, reply);
        }
    }

    fn settle(&mut self, fallen: Fallen<A>, seen: &[RecordedEvent]) {
        let Fallen { mut request, reply, fault } = fallen;
        match fault {
            Fault::Invalid(what) => reply.send(Answer::Invalid(what)),
            Fault::Aborted(what) => reply.send(Answer::Failed(what)),
            Fault::Stopped(why) => reply.send(Answer::NotExecuted(why)),
            Fault::Kept(outcome) => reply.send(Answer::Outcome(outcome)),
            Fault::ClaimRefused(claim) => {
                let outcome = Outcome::ClaimRefused { version: self.version, position: Default::default(), claim };
                self.append(request, reply, Draft::without_events(Verdict::Outcome(outcome)));
            }
            // What was in doubt once can arrive after the load that did not find it; then a later append falls by it.
            Fault::Cut | Fault::Unknown
                if request.in_doubt
                    && let Some(event) = last_event_of(&request, seen) =>
            {
                let outcome = Outcome::Committed { version: event.version, position: event.position };
                reply.send(Answer::Outcome(outcome));
            }
            Fault::Cut | Fault::Unknown => {
                request.rounds += 1;
                if request.rounds > self.runtime.limits.max_redecisions {
                    return reply.send(Answer::NotExecuted(NotExecuted::Contended));
                }
                metrics::counter!("essaim_redecisions_total", "aggregate" => A::CATEGORY).increment(1);
                self.decide(request, reply);
            }
        }
    }

    fn answer_all(&mut self, answer: impl Fn(Option<&Fault>) -> Answer) {
        for fallen in std::mem::take(&mut self.fallen) {
            fallen.reply.send(answer(Some(&fallen.fault)));
        }
        for (_, reply) in std::mem::take(&mut self.waiting) {
            reply.send(answer(None));
        }
    }

    fn is_idle(&mut self) -> bool {
        self.forget_what_is_durable();
        let settled = self.decided.is_empty() && self.fallen.is_empty() && self.waiting.is_empty();
        settled && matches!(self.phase, Phase::Ready | Phase::Cold)
    }

    /// A command is kept until it is known durable, in case it must be decided again.
    fn forget_what_is_durable(&mut self) {
        let committed = self.lineage.committed();
        while self.decided.front().is_some_and(|decided| decided.number <= committed) {
            self.decided.pop_front();
        }
    }
}

fn begin_lineage<A: Aggregate>(generation: u64, myself: &ActorRef<Message<A>>) -> Arc<Lineage> {
    let myself = myself.clone();
    Lineage::begin(generation, move |append, fault| {
        if let Err(undelivered) = myself.send_message(Message::HandedBack(Box::new(append), fault)) {
            // The actor is gone; whoever waits learns no more than that.
            drop(undelivered);
        }
    })
}

/// The last event of a command whose outcome was unknown, if it is in the log after all.
fn last_event_of<'a, A: Aggregate>(request: &Request<A>, seen: &'a [RecordedEvent]) -> Option<&'a RecordedEvent> {
    let first = seen.iter().position(|event| event.event_id == request.command_id.event_id(0))?;
    let its_own = |(n, event): &(usize, &RecordedEvent)| event.event_id == request.command_id.event_id(*n);
    seen[first..].iter().enumerate().take_while(its_own).last().map(|(_, event)| event)
}

fn difference(before: Vec<Claim>, after: Vec<Claim>) -> ClaimDelta {
    if before == after {
        return ClaimDelta::default();
    }
    ClaimDelta {
        release: before.iter().filter(|claim| !after.contains(claim)).cloned().collect(),
        take: after.into_iter().filter(|claim| !before.contains(claim)).collect(),
    }
}

/// Whether JSON text has an escaped U+0000 in one of its strings.
pub(crate) fn holds_nul(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let escaped = &rest[at + 1..];
        if escaped.starts_with("u0000") {
            return true;
        }
        // What is escaped begins nothing itself.
        rest = &escaped[escaped.chars().next().map_or(0, char::len_utf8)..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_nul_is_found_and_an_escaped_backslash_before_u0000_is_not_taken_for_one() {
        assert!(holds_nul(r#"{"a":"x\u0000"}"#));
        assert!(holds_nul(r#"{"a":"\\\u0000"}"#));
        assert!(holds_nul(r#"{"a":"\"\n","b":"\u0000"}"#));
        assert!(!holds_nul(r#"{"a":"\\u0000"}"#));
        assert!(!holds_nul(r#"{"a":"\u0001 u0000"}"#));
    }
}
