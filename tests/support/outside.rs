//! This file is an outside system with switches for its faults, kept by the test, and a synchroniser that works it.
//!
//! The registry knows nothing of ours: it makes an account whenever it is asked to, so that a second one for the same
//! member would show. Finding what an earlier call left behind is the synchroniser's work, as it is with a real one.

#![allow(unreachable_pub, reason = "each test binary has it as a part of its own")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use essaim::clock::{Clock, SystemClock};
use essaim::prelude::*;
use essaim::synchroniser::{Brought, Call, Failure, Found, Outcome, Recorded, Seen, Survey, Synchroniser};
use tokio::sync::watch;
use tokio::time::Instant;

/// Somebody with a name; being seen is nothing the outside wants to know.
#[derive(Debug, Default)]
pub struct Member {
    pub name: String,
    pub has_left: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MemberCommand {
    Name { name: String },
    See,
    Leave,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum MemberEvent {
    Named { name: String },
    WasSeen,
    Left,
}

#[derive(Debug, Serialize, Deserialize, thiserror::Error)]
#[error("refused")]
pub struct Refused;

impl Aggregate for Member {
    const CATEGORY: &'static str = "member";
    type Command = MemberCommand;
    type Event = MemberEvent;
    type Rejection = Refused;

    fn decide(&self, command: &MemberCommand) -> Result<Vec<MemberEvent>, Refused> {
        Ok(vec![match command {
            MemberCommand::Name { name } => MemberEvent::Named { name: name.clone() },
            MemberCommand::See => MemberEvent::WasSeen,
            MemberCommand::Leave => MemberEvent::Left,
        }])
    }

    fn apply(&mut self, event: &MemberEvent) {
        match event {
            MemberEvent::Named { name } => self.name.clone_from(name),
            MemberEvent::WasSeen => {}
            MemberEvent::Left => self.has_left = true,
        }
    }
}

/// What became of a member outside.
#[derive(Debug, Default)]
pub struct Standing;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StandingCommand {
    Sync { version: u64 },
    Fail { version: u64, reason: String, permanent: bool },
    Skip { version: u64, reason: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StandingEvent {
    Synced { version: u64 },
    SyncFailed { version: u64, reason: String, permanent: bool },
    SyncSkipped { version: u64, reason: String },
}

impl Aggregate for Standing {
    const CATEGORY: &'static str = "standing";
    type Command = StandingCommand;
    type Event = StandingEvent;
    type Rejection = Refused;

    fn decide(&self, command: &StandingCommand) -> Result<Vec<StandingEvent>, Refused> {
        Ok(vec![match command.clone() {
            StandingCommand::Sync { version } => StandingEvent::Synced { version },
            StandingCommand::Skip { version, reason } => StandingEvent::SyncSkipped { version, reason },
            StandingCommand::Fail { version, reason, permanent } => {
                StandingEvent::SyncFailed { version, reason, permanent }
            }
        }])
    }

    fn apply(&mut self, _: &StandingEvent) {}
}

/// How the registry behaves at one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Not done.
    Busy {
        after: Option<Duration>,
    },
    /// Done, and the answer is lost.
    AnswerLost,
    /// Done, and never answered.
    Silent,
    /// Refused for good.
    Refused,
    /// Nobody there.
    Gone {
        after: Option<Duration>,
    },
}

/// Where a request may be held, so that the process can be killed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    BeforeEffect,
    AfterEffect,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub owner: String,
    pub version: u64,
    pub name: String,
}

#[derive(Default)]
struct State {
    accounts: BTreeMap<u64, Account>,
    /// Who was asked about, when, as which attempt, and with which version.
    requests: Vec<(Instant, String, u32, u64)>,
    looks: usize,
    removed: BTreeSet<u64>,
    busy: BTreeSet<String>,
    most_at_once: usize,
}

type Behaviour = Box<dyn FnMut(&str, u32) -> Fault + Send>;

/// The outside. Clones are handles on the same one; it outlives the processes that talk to it.
#[derive(Clone)]
pub struct Registry {
    state: Arc<Mutex<State>>,
    behaviour: Arc<Mutex<Behaviour>>,
    looking: Arc<Mutex<Behaviour>>,
    hold: Arc<Mutex<Option<Step>>>,
    held: watch::Sender<bool>,
    latency: Duration,
}

impl Registry {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            behaviour: Arc::new(Mutex::new(Box::new(|_, _| Fault::None))),
            looking: Arc::new(Mutex::new(Box::new(|_, _| Fault::None))),
            hold: Arc::default(),
            held: watch::Sender::new(false),
            latency: Duration::from_millis(5),
        }
    }

    /// How requests that change something end, by member and attempt.
    pub fn behave(&self, behaviour: impl FnMut(&str, u32) -> Fault + Send + 'static) {
        *self.behaviour.lock().unwrap() = Box::new(behaviour);
    }

    /// How looks end.
    pub fn behave_when_looked_at(&self, behaviour: impl FnMut(&str, u32) -> Fault + Send + 'static) {
        *self.looking.lock().unwrap() = Box::new(behaviour);
    }

    /// The next request is held at this step for ever.
    pub fn hold_at(&self, step: Step) {
        self.held.send_replace(false);
        *self.hold.lock().unwrap() = Some(step);
    }

    /// Returns once a request is held.
    pub async fn is_held(&self) {
        self.held.subscribe().wait_for(|&held| held).await.unwrap();
    }

    pub fn accounts(&self) -> Vec<Account> {
        self.state().accounts.values().cloned().collect()
    }

    /// Every request that was to change something: when, for whom, which attempt, which version.
    pub fn requests(&self) -> Vec<(Instant, String, u32, u64)> {
        self.state().requests.clone()
    }

    pub fn looks(&self) -> usize {
        self.state().looks
    }

    pub fn most_at_once(&self) -> usize {
        self.state().most_at_once
    }

    /// Somebody else changes an account there.
    pub fn tamper(&self, owner: &str, change: impl FnOnce(&mut Account)) {
        change(self.state().accounts.values_mut().find(|account| account.owner == owner).unwrap());
    }

    /// Somebody else makes an account there that carries this key.
    pub fn plant(&self, owner: &str) {
        let mut state = self.state();
        let id = (state.accounts.len() + state.removed.len()) as u64 + 1;
        state.accounts.insert(id, Account { owner: owner.to_owned(), version: 1, name: "planted".into() });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn find(&self, owner: &str) -> Option<u64> {
        self.state().accounts.iter().find(|(_, account)| account.owner == owner).map(|(id, _)| *id)
    }

    async fn pass(&self, step: Step) {
        let is_held = self.hold.lock().unwrap().take_if(|held| *held == step).is_some();
        if is_held {
            self.held.send_replace(true);
            std::future::pending::<()>().await;
        }
    }

    async fn request(&self, call: &Call<'_, Member>) -> Result<Brought, Failure> {
        let fault = (self.behaviour.lock().unwrap())(call.subject, call.attempt);
        {
            let mut state = self.state();
            state.requests.push((Instant::now(), call.subject.to_owned(), call.attempt, call.version.0));
            assert!(state.busy.insert(call.subject.to_owned()), "two calls at once for {}", call.subject);
            state.most_at_once = state.most_at_once.max(state.busy.len());
        }
        let _free = Free { registry: self, subject: call.subject };
        self.pass(Step::BeforeEffect).await;
        match fault {
            Fault::Busy { after } => return Err(Failure::Later { reason: "500".into(), after }),
            Fault::Gone { after } => return Err(Failure::Unavailable { reason: "no route".into(), after }),
            Fault::Refused => return Err(Failure::Permanent { reason: "400 no such name".into() }),
            Fault::None | Fault::AnswerLost | Fault::Silent => {}
        }
        let known = self.find(call.subject);
        // Between looking and creating anything may happen; a second call would create a second account.
        tokio::time::sleep(self.latency).await;
        let id = self.put(call, known);
        self.pass(Step::AfterEffect).await;
        match fault {
            Fault::AnswerLost => Err(Failure::Unknown { reason: "connection reset".into() }),
            Fault::Silent => std::future::pending().await,
            _ => Ok(Brought { outside_id: id.map(|id| id.to_string()) }),
        }
    }

    fn put(&self, call: &Call<'_, Member>, known: Option<u64>) -> Option<u64> {
        let mut state = self.state();
        if call.wanted.has_left {
            let id = known?;
            state.accounts.remove(&id);
            state.removed.insert(id);
            return None;
        }
        let id = known.unwrap_or((state.accounts.len() + state.removed.len()) as u64 + 1);
        let account =
            Account { owner: call.subject.to_owned(), version: call.version.0, name: call.wanted.name.clone() };
        state.accounts.insert(id, account);
        Some(id)
    }
}

struct Free<'a> {
    registry: &'a Registry,
    subject: &'a str,
}

impl Drop for Free<'_> {
    fn drop(&mut self) {
        self.registry.state().busy.remove(self.subject);
    }
}

/// Brings members to a registry.
pub struct ToRegistry(pub Registry);

#[async_trait]
impl Synchroniser for ToRegistry {
    const NAME: &'static str = "registry";
    type Subject = Member;
    type Record = Standing;

    fn is_intent(event: &MemberEvent) -> bool {
        !matches!(event, MemberEvent::WasSeen)
    }

    fn record(outcome: &Outcome) -> Option<StandingCommand> {
        Some(match outcome.clone() {
            Outcome::Skipped { version, reason } => StandingCommand::Skip { version: version.0, reason },
            Outcome::Synced { version, .. } => StandingCommand::Sync { version: version.0 },
            Outcome::Failed { version, reason, permanent } => {
                StandingCommand::Fail { version: version.0, reason, permanent }
            }
        })
    }

    fn recorded(event: &StandingEvent) -> Option<Recorded> {
        Some(match event.clone() {
            StandingEvent::Synced { version } => Recorded::Synced(Version(version)),
            StandingEvent::SyncSkipped { version, reason } => Recorded::Skipped { version: Version(version), reason },
            StandingEvent::SyncFailed { version, reason, permanent } => {
                Recorded::Failed { version: Version(version), reason, permanent }
            }
        })
    }

    async fn bring(&self, call: &Call<'_, Member>) -> Result<Brought, Failure> {
        self.0.request(call).await
    }

    async fn read_back(&self, call: &Call<'_, Member>) -> Result<Seen, Failure> {
        let fault = (self.0.looking.lock().unwrap())(call.subject, call.attempt);
        self.0.state().looks += 1;
        tokio::time::sleep(self.0.latency).await;
        match fault {
            Fault::Busy { after } => return Err(Failure::Later { reason: "500".into(), after }),
            Fault::Gone { after } => return Err(Failure::Unavailable { reason: "no route".into(), after }),
            _ => {}
        }
        let found = self.0.find(call.subject);
        let account = found.and_then(|id| self.0.state().accounts.get(&id).cloned());
        Ok(match (account, call.wanted.has_left) {
            (None, true) => Seen::InStep(Brought::default()),
            (None, false) => Seen::Differs(vec!["missing".into()]),
            (Some(_), true) => Seen::Differs(vec!["left over".into()]),
            (Some(account), false) => {
                let fields =
                    [("version", account.version == call.version.0), ("name", account.name == call.wanted.name)];
                let differs: Vec<_> =
                    fields.into_iter().filter(|(_, equal)| !equal).map(|(name, _)| name.to_owned()).collect();
                if differs.is_empty() {
                    Seen::InStep(Brought { outside_id: found.map(|id| id.to_string()) })
                } else {
                    Seen::Differs(differs)
                }
            }
        })
    }

    async fn survey(&self, skip: u32) -> Result<Survey, Failure> {
        let fault = (self.0.looking.lock().unwrap())("all", skip);
        tokio::time::sleep(self.0.latency).await;
        if let Fault::Busy { after } = fault {
            return Err(Failure::Later { reason: "500".into(), after });
        }
        let state = self.0.state();
        let page = state.accounts.iter().skip(skip as usize).take(PAGE);
        let found: Vec<_> =
            page.map(|(id, account)| Found { subject: account.owner.clone(), outside_id: id.to_string() }).collect();
        Ok(Survey { next: (found.len() == PAGE).then_some(skip + PAGE as u32), found })
    }

    async fn remove(&self, found: &Found) -> Result<(), Failure> {
        let id = found.outside_id.parse().unwrap();
        let mut state = self.0.state();
        if state.accounts.get(&id).is_some_and(|account| account.owner == found.subject) {
            state.accounts.remove(&id);
            state.removed.insert(id);
        }
        Ok(())
    }
}

/// Accounts in one page of a survey.
const PAGE: usize = 2;

/// A clock that goes with tokio's time, and random ids that repeat.
pub struct VirtualClock {
    start: Instant,
    ids: Mutex<u128>,
}

impl VirtualClock {
    /// Must be made within a runtime.
    pub fn new() -> Self {
        Self { start: Instant::now(), ids: Mutex::new(0) }
    }

    fn next(&self) -> uuid::Uuid {
        let mut ids = self.ids.lock().unwrap();
        *ids += 1;
        uuid::Uuid::from_u128(*ids)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> chrono::DateTime<chrono::Utc> {
        let since = chrono::Duration::from_std(self.start.elapsed()).unwrap();
        chrono::DateTime::from_timestamp(1_800_000_000, 0).unwrap() + since
    }

    fn time_ordered_id(&self) -> uuid::Uuid {
        SystemClock.time_ordered_id()
    }

    fn random_id(&self) -> uuid::Uuid {
        self.next()
    }
}
