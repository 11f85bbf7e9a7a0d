//! This file restarts what fails: with back-off, up to an intensity, and then sets that one child aside until it is
//! released. A child the engine cannot do without makes the whole engine give up instead.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::journal::JournalStatus;

/// How a child is started, under this supervisor.
pub(crate) type Start = Box<dyn Fn(ActorCell) -> BoxFuture<'static, Result<ActorCell, SpawnErr>> + Send + Sync>;

/// One child.
pub(crate) struct ChildSpec {
    pub(crate) name: String,
    pub(crate) start: Start,
    /// Whether the engine goes on without it.
    pub(crate) dispensable: bool,
    /// Hears how it is doing.
    pub(crate) observe: Box<dyn Fn(ChildState) + Send + Sync>,
}

/// How a child is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ChildState {
    Started,
    Restarting(String),
    Quarantined(String),
}

/// What a supervisor is told.
pub(crate) enum Message {
    Start(usize),
    /// Lets a quarantined child try again; answers whether there is one of that name.
    Release(String, oneshot::Sender<bool>),
}

/// When a child is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestartPolicy {
    pub(crate) max_restarts: usize,
    pub(crate) window: Duration,
    pub(crate) first_pause: Duration,
    pub(crate) longest_pause: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            window: Duration::from_secs(60),
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(10),
        }
    }
}

impl RestartPolicy {
    fn pause(&self, restarts: usize) -> Duration {
        let doublings = u32::try_from(restarts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        (self.first_pause * 2u32.pow(doublings)).min(self.longest_pause)
    }
}

/// Failures within the window of a policy.
#[derive(Debug, Default)]
pub(crate) struct Failures(VecDeque<Instant>);

impl Failures {
    /// Notes one more; returns the pause before the next start, or none when there were too many.
    pub(crate) fn note(&mut self, policy: &RestartPolicy) -> Option<Duration> {
        let now = Instant::now();
        while self.0.front().is_some_and(|at| now.duration_since(*at) > policy.window) {
            self.0.pop_front();
        }
        self.0.push_back(now);
        (self.0.len() <= policy.max_restarts).then(|| policy.pause(self.0.len()))
    }
}

impl Failures {
    /// Whether the last one is longer ago than any policy looks back.
    pub(crate) fn is_stale(&self) -> bool {
        self.0.back().is_none_or(|at| at.elapsed() > RestartPolicy::default().window)
    }
}

/// The stateless half.
pub(crate) struct Supervisor;

/// What a supervisor is started with.
pub(crate) struct Arguments {
    pub(crate) children: Vec<ChildSpec>,
    pub(crate) policy: RestartPolicy,
    pub(crate) status: Arc<JournalStatus>,
}

struct Child {
    spec: ChildSpec,
    cell: Option<ActorCell>,
    failures: Failures,
    quarantined: bool,
}

/// The children and what became of them.
pub(crate) struct Children {
    children: Vec<Child>,
    policy: RestartPolicy,
    status: Arc<JournalStatus>,
}

impl Actor for Supervisor {
    type Msg = Message;
    type State = Children;
    type Arguments = Arguments;

    async fn pre_start(&self, myself: ActorRef<Message>, arguments: Arguments) -> Result<Children, ActorProcessingErr> {
        let Arguments { children, policy, status } = arguments;
        let children = children.into_iter().map(|spec| Child {
            spec,
            cell: None,
            failures: Failures::default(),
            quarantined: false,
        });
        let mut state = Children { children: children.collect(), policy, status };
        for index in 0..state.children.len() {
            state.start(index, &myself).await;
        }
        Ok(state)
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Start(index) => state.start(index, &myself).await,
            Message::Release(name, reply) => {
                // Nobody waiting for the answer is no reason not to release.
                let _ = reply.send(state.release(&name, &myself).await);
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, reason) => state.failed(&cell, reason.to_string(), &myself),
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                state.failed(&cell, reason.unwrap_or_else(|| "it stopped".into()), &myself);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Children {
    async fn start(&mut self, index: usize, myself: &ActorRef<Message>) {
        let child = &mut self.children[index];
        match (child.spec.start)(myself.get_cell()).await {
            Ok(cell) => {
                child.cell = Some(cell);
                (child.spec.observe)(ChildState::Started);
            }
            Err(error) => self.fell(index, error.to_string(), myself),
        }
    }

    fn failed(&mut self, cell: &ActorCell, reason: String, myself: &ActorRef<Message>) {
        let is_it = |child: &Child| child.cell.as_ref().is_some_and(|known| known.get_id() == cell.get_id());
        let Some(index) = self.children.iter().position(is_it) else { return };
        self.children[index].cell = None;
        self.fell(index, reason, myself);
    }

    fn fell(&mut self, index: usize, reason: String, myself: &ActorRef<Message>) {
        let child = &mut self.children[index];
        metrics::counter!("essaim_restarts_total", "part" => child.spec.name.clone()).increment(1);
        match child.failures.note(&self.policy) {
            Some(pause) => {
                warn!(part = child.spec.name, reason, ?pause, "a part failed and will be restarted");
                (child.spec.observe)(ChildState::Restarting(reason));
                myself.send_after(pause, move || Message::Start(index));
            }
            None if child.spec.dispensable => {
                error!(part = child.spec.name, reason, "a part failed too often and is set aside until it is released");
                child.quarantined = true;
                (child.spec.observe)(ChildState::Quarantined(reason));
            }
            None => {
                error!(part = child.spec.name, reason, "a part that is needed failed too often");
                self.status.give_up(format!("{} failed too often: {reason}", child.spec.name));
            }
        }
    }

    async fn release(&mut self, name: &str, myself: &ActorRef<Message>) -> bool {
        let Some(index) = self.children.iter().position(|child| child.quarantined && child.spec.name == name) else {
            return false;
        };
        info!(part = name, "released from quarantine");
        self.children[index].quarantined = false;
        self.children[index].failures = Failures::default();
        self.start(index, myself).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_the_sixth_failure_within_a_minute_is_one_too_many() {
        let policy = RestartPolicy::default();
        let mut failures = Failures::default();

        let pauses: Vec<_> = (0..6).map(|_| failures.note(&policy)).collect();

        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(pauses, [millis(50), millis(100), millis(200), millis(400), millis(800), None]);
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(failures.note(&policy), millis(50), "a minute later all is forgotten");
    }
}
