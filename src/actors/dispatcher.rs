//! This file finds the actor of a stream in the caller's own task; only a miss goes through a shard, which spawns it.
//!
//! ```text
//! (none) ──command──> Starting ──spawned──> Live ──idle──> Draining ──stopped──> (none), or Starting if some came
//!                                             ↑ └──────── busy ───────┘
//! ```
//! A send to a live actor happens under the read half of its entry and every change of state under the write half, so
//! no command reaches an actor that is stopping.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as MapEntry;
use foldhash::quality::RandomState;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, MessagingErr, SupervisionEvent};
use tokio::time::Instant;
use tracing::{error, warn};
use uuid::Uuid;

use super::Runtime;
use super::aggregate::{AggregateActor, Arguments, Message, Notice};
use super::answer::{Answer, Reply, Request};
use super::supervisor::{ChildSpec, Failures, RestartPolicy};
use crate::aggregate::Aggregate;
use crate::command::NotExecuted;
use crate::stream::StreamId;

type Newcomers<A> = Vec<(Box<Request<A>>, Reply)>;

enum Entry<A: Aggregate> {
    Starting(Newcomers<A>),
    Live(Live<A>),
    Draining(Live<A>, Newcomers<A>),
    Quarantined(String),
}

/// A running instance.
struct Live<A: Aggregate> {
    actor: ActorRef<Message<A>>,
    last_used: Arc<AtomicU64>,
    heap_bytes: Arc<AtomicUsize>,
}

impl<A: Aggregate> Clone for Live<A> {
    fn clone(&self) -> Self {
        Self {
            actor: self.actor.clone(),
            last_used: Arc::clone(&self.last_used),
            heap_bytes: Arc::clone(&self.heap_bytes),
        }
    }
}

impl<A: Aggregate> Live<A> {
    /// Hands over what waited, in order. An actor that died meanwhile leaves the outcomes unknown.
    fn take_in(&self, newcomers: Newcomers<A>) {
        newcomers
            .into_iter()
            .for_each(|(request, reply)| drop(self.actor.send_message(Message::Execute(request, reply))));
    }
}

/// The resident instances of one kind.
struct Residents<A: Aggregate> {
    entries: DashMap<StreamId, Entry<A>, RandomState>,
    started: Instant,
}

/// Routes commands to the instances of one kind.
pub(crate) struct Dispatcher<A: Aggregate> {
    residents: Arc<Residents<A>>,
    shards: Vec<ShardRef>,
    key: Uuid,
}

type ShardRef = Arc<RwLock<Option<ActorRef<ShardMessage>>>>;

/// Shards of one kind. Spawning links to the shard under a lock of its own, so several keep out of each other's way.
const SHARDS: usize = 4;
/// What an idle actor costs beside its state, in bytes: mailbox, ports, task.
const ACTOR_BYTES: usize = 8_192;

impl<A: Aggregate> Dispatcher<A> {
    /// A dispatcher, and its shards to be started by a supervisor.
    pub(crate) fn new(runtime: &Arc<Runtime>, kinds: usize) -> (Arc<Self>, Vec<ChildSpec>) {
        let residents = Arc::new(Residents { entries: DashMap::default(), started: Instant::now() });
        let shards: Vec<ShardRef> = (0..SHARDS).map(|_| ShardRef::default()).collect();
        let key = runtime.shard_key;
        let max_bytes = runtime.limits.max_resident_bytes / (SHARDS * kinds);
        let specs = shards.iter().enumerate().map(|(index, shard)| {
            let start = ShardStart {
                residents: Arc::clone(&residents),
                runtime: Arc::clone(runtime),
                shard: Arc::clone(shard),
                key,
                index,
                max_bytes,
            };
            ChildSpec {
                name: format!("shard:{}:{index}", A::CATEGORY),
                start: Box::new(move |supervisor| Box::pin(start.clone().start(supervisor))),
                dispensable: false,
                observe: Box::new(|_| {}),
            }
        });
        let specs = specs.collect();
        (Arc::new(Self { residents, shards, key }), specs)
    }

    /// Hands the command to its instance, which is started if need be.
    pub(crate) fn dispatch(&self, stream: &StreamId, request: Box<Request<A>>, reply: Reply) {
        let (request, reply) = match self.residents.entries.get(stream) {
            Some(entry) => match self.residents.send_if_live(entry.value(), request, reply) {
                None => return,
                Some(undelivered) => undelivered,
            },
            None => (request, reply),
        };
        match self.residents.entries.entry(stream.clone()) {
            MapEntry::Vacant(vacant) => {
                vacant.insert(Entry::Starting(vec![(request, reply)]));
                self.tell_shard(stream, ShardMessage::Start(stream.clone()));
            }
            MapEntry::Occupied(mut occupied) => match occupied.get_mut() {
                Entry::Starting(newcomers) | Entry::Draining(_, newcomers) => newcomers.push((request, reply)),
                Entry::Quarantined(reason) => reply.send(Answer::Quarantined(reason.clone())),
                live @ Entry::Live(_) => {
                    if let Some((_, reply)) = self.residents.send_if_live(live, request, reply) {
                        reply.send(Answer::NotExecuted(NotExecuted::Restarting));
                    }
                }
            },
        }
    }

    /// Lets a quarantined instance try again; false when it is not quarantined.
    pub(crate) fn release(&self, stream: &StreamId) -> bool {
        self.residents.entries.remove_if(stream, |_, entry| matches!(entry, Entry::Quarantined(_))).is_some()
    }

    /// How many instances are resident.
    pub(crate) fn len(&self) -> usize {
        self.residents.entries.len()
    }

    fn tell_shard(&self, stream: &StreamId, message: ShardMessage) {
        let index = shard_of(self.key, stream);
        let shard = self.shards[index].read().unwrap_or_else(PoisonError::into_inner);
        // A shard that is being restarted looks through the entries once it is back.
        if let Some(shard) = shard.as_ref() {
            let _ = shard.send_message(message);
        }
    }
}

fn shard_of(key: Uuid, stream: &StreamId) -> usize {
    let mut hasher = DefaultHasher::new();
    (key, stream).hash(&mut hasher);
    usize::try_from(hasher.finish() % SHARDS as u64).expect("fewer shards than usize has values")
}

impl<A: Aggregate> Residents<A> {
    /// Sends the command if the entry is live, else gives it back.
    fn send_if_live(
        &self,
        entry: &Entry<A>,
        request: Box<Request<A>>,
        reply: Reply,
    ) -> Option<(Box<Request<A>>, Reply)> {
        let Entry::Live(live) = entry else { return Some((request, reply)) };
        live.last_used.store(self.now_millis(), Ordering::Relaxed);
        match live.actor.send_message(Message::Execute(request, reply)) {
            Ok(()) => None,
            Err(MessagingErr::SendErr(Message::Execute(request, reply))) => Some((request, reply)),
            Err(_) => None,
        }
    }

    fn now_millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a shard is told.
pub(crate) enum ShardMessage {
    Start(StreamId),
    Notice(Notice),
    Sweep,
}

struct ShardStart<A: Aggregate> {
    residents: Arc<Residents<A>>,
    runtime: Arc<Runtime>,
    shard: ShardRef,
    key: Uuid,
    index: usize,
    max_bytes: usize,
}

impl<A: Aggregate> Clone for ShardStart<A> {
    fn clone(&self) -> Self {
        Self {
            residents: Arc::clone(&self.residents),
            runtime: Arc::clone(&self.runtime),
            shard: Arc::clone(&self.shard),
            ..*self
        }
    }
}

impl<A: Aggregate> ShardStart<A> {
    async fn start(self, supervisor: ActorCell) -> Result<ActorCell, ractor::SpawnErr> {
        let shard = Arc::clone(&self.shard);
        let (actor, _) = Actor::spawn_linked(None, Shard::<A>(PhantomData), self, supervisor).await?;
        *shard.write().unwrap_or_else(PoisonError::into_inner) = Some(actor.clone());
        Ok(actor.get_cell())
    }
}

/// Spawns, passivates and sets aside the instances of its part of the streams.
struct Shard<A>(PhantomData<fn() -> A>);

struct ShardState<A: Aggregate> {
    residents: Arc<Residents<A>>,
    runtime: Arc<Runtime>,
    max_bytes: usize,
    streams: HashMap<ActorId, StreamId>,
    failures: HashMap<StreamId, Failures>,
}

impl<A: Aggregate> Actor for Shard<A> {
    type Msg = ShardMessage;
    type State = ShardState<A>;
    type Arguments = ShardStart<A>;

    async fn pre_start(
        &self,
        myself: ActorRef<ShardMessage>,
        start: ShardStart<A>,
    ) -> Result<ShardState<A>, ActorProcessingErr> {
        // After a failure the actors are gone with their shard; what waited for one is started now.
        for entry in start.residents.entries.iter().filter(|entry| shard_of(start.key, entry.key()) == start.index) {
            let _ = myself.send_message(ShardMessage::Start(entry.key().clone()));
        }
        let period =
            (start.runtime.limits.passivate_after / 4).clamp(Duration::from_millis(50), Duration::from_secs(5));
        myself.send_interval(period, || ShardMessage::Sweep);
        let ShardStart { residents, runtime, max_bytes, .. } = start;
        Ok(ShardState { residents, runtime, max_bytes, streams: HashMap::new(), failures: HashMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<ShardMessage>,
        message: ShardMessage,
        state: &mut ShardState<A>,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            ShardMessage::Start(stream) => state.start(stream, &myself).await?,
            ShardMessage::Notice(Notice::Busy(stream)) => state.resume(&stream),
            ShardMessage::Notice(Notice::Faulty(stream, reason)) => state.quarantine(&stream, reason),
            ShardMessage::Sweep => state.sweep(),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<ShardMessage>,
        event: SupervisionEvent,
        state: &mut ShardState<A>,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, ..) => state.stopped(&cell, &myself),
            SupervisionEvent::ActorFailed(cell, reason) => {
                state.note_failure(&cell, &reason.to_string());
                state.stopped(&cell, &myself);
            }
            _ => {}
        }
        Ok(())
    }
}

impl<A: Aggregate> ShardState<A> {
    async fn start(&mut self, stream: StreamId, myself: &ActorRef<ShardMessage>) -> Result<(), ActorProcessingErr> {
        let shard = myself.clone();
        let heap_bytes = Arc::new(AtomicUsize::new(0));
        let arguments = Arguments::<A> {
            stream: stream.clone(),
            runtime: Arc::clone(&self.runtime),
            heap_bytes: Arc::clone(&heap_bytes),
            // A shard that is gone takes its actors with it; nobody is left to be told.
            shard: Box::new(move |notice| drop(shard.send_message(ShardMessage::Notice(notice)))),
            aggregate: PhantomData,
        };
        let (actor, _) =
            Actor::spawn_linked(None, AggregateActor::<A>::default(), arguments, myself.get_cell()).await?;
        self.streams.insert(actor.get_id(), stream.clone());
        let live = Live { actor, last_used: Arc::new(AtomicU64::new(self.residents.now_millis())), heap_bytes };
        let Some(mut entry) = self.residents.entries.get_mut(&stream) else {
            live.actor.stop(None);
            return Ok(());
        };
        match std::mem::replace(entry.value_mut(), Entry::Live(live.clone())) {
            Entry::Starting(newcomers) | Entry::Draining(_, newcomers) => live.take_in(newcomers),
            Entry::Live(_) => {}
            quarantined @ Entry::Quarantined(_) => {
                *entry = quarantined;
                live.actor.stop(None);
            }
        }
        Ok(())
    }

    /// The instance was asked to stop and is not idle: it gets what came meanwhile.
    fn resume(&mut self, stream: &StreamId) {
        let Some(mut entry) = self.residents.entries.get_mut(stream) else { return };
        if let Entry::Draining(live, newcomers) = entry.value_mut() {
            live.take_in(std::mem::take(newcomers));
            live.last_used.store(self.residents.now_millis(), Ordering::Relaxed);
            let live = live.clone();
            *entry = Entry::Live(live);
        }
    }

    fn quarantine(&mut self, stream: &StreamId, reason: String) {
        error!(%stream, reason, "an aggregate is set aside until it is released");
        metrics::counter!("essaim_quarantines_total", "aggregate" => A::CATEGORY).increment(1);
        let Some(mut entry) = self.residents.entries.get_mut(stream) else { return };
        match std::mem::replace(entry.value_mut(), Entry::Quarantined(reason.clone())) {
            Entry::Live(live) => live.actor.stop(None),
            Entry::Starting(newcomers) | Entry::Draining(_, newcomers) => {
                newcomers.into_iter().for_each(|(_, reply)| reply.send(Answer::Quarantined(reason.clone())));
            }
            Entry::Quarantined(_) => {}
        }
    }

    fn note_failure(&mut self, cell: &ActorCell, reason: &str) {
        let Some(stream) = self.streams.get(&cell.get_id()).cloned() else { return };
        warn!(%stream, reason, "an aggregate's actor failed; it is forgotten and will be loaded anew");
        if self.failures.entry(stream.clone()).or_default().note(&RestartPolicy::default()).is_none() {
            self.quarantine(&stream, format!("it failed too often, last: {reason}"));
        }
    }

    /// The actor is gone; whoever came meanwhile gets a new one.
    fn stopped(&mut self, cell: &ActorCell, myself: &ActorRef<ShardMessage>) {
        let Some(stream) = self.streams.remove(&cell.get_id()) else { return };
        let MapEntry::Occupied(mut occupied) = self.residents.entries.entry(stream.clone()) else { return };
        match occupied.get_mut() {
            Entry::Draining(_, newcomers) if !newcomers.is_empty() => {
                let newcomers = std::mem::take(newcomers);
                occupied.insert(Entry::Starting(newcomers));
                // To oneself; it arrives unless the shard itself is stopping.
                let _ = myself.send_message(ShardMessage::Start(stream));
            }
            Entry::Draining(..) => drop(occupied.remove()),
            Entry::Live(live) if live.actor.get_id() == cell.get_id() => drop(occupied.remove()),
            Entry::Live(_) | Entry::Starting(_) | Entry::Quarantined(_) => {}
        }
    }

    /// Passivates what was not used for long, and the longest unused of the rest while memory is over its budget.
    fn sweep(&mut self) {
        let now = self.residents.now_millis();
        let idle_after = u64::try_from(self.runtime.limits.passivate_after.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = 0;
        let mut resident = Vec::with_capacity(self.streams.len());
        for stream in self.streams.values() {
            let Some(entry) = self.residents.entries.get(stream) else { continue };
            if let Entry::Live(live) = entry.value() {
                let weight = ACTOR_BYTES + size_of::<A>() + live.heap_bytes.load(Ordering::Relaxed);
                bytes += weight;
                resident.push((live.last_used.load(Ordering::Relaxed), weight, stream.clone()));
            }
        }
        // Of those used at the same time, too, the order is settled: the map's own order differs from run to run.
        resident.sort_unstable_by(|(one, _, a), (other, _, b)| (one, a).cmp(&(other, b)));
        for (last_used, weight, stream) in resident {
            if now.saturating_sub(last_used) < idle_after && bytes <= self.max_bytes {
                break;
            }
            bytes = bytes.saturating_sub(weight);
            self.drain(&stream, last_used);
        }
        self.failures.retain(|_, failures| !failures.is_stale());
    }

    /// First step of passivation: newcomers wait at the entry, then the actor is asked. It says no when it has work.
    fn drain(&self, stream: &StreamId, last_used_then: u64) {
        let Some(mut entry) = self.residents.entries.get_mut(stream) else { return };
        if let Entry::Live(live) = entry.value()
            && live.last_used.load(Ordering::Relaxed) == last_used_then
        {
            let live = live.clone();
            *entry = Entry::Draining(live.clone(), Vec::new());
            // An actor that is gone already is reported by its termination.
            let _ = live.actor.send_message(Message::Passivate);
        }
    }
}
