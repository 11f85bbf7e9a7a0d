//! This file holds what the tests of the engine share: an aggregate that can do everything, and two read models of it.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

#[cfg(feature = "daemon")]
pub mod api;
#[cfg(feature = "daemon")]
pub mod daemon;

use std::time::Duration;

use essaim::prelude::*;

/// Holds an amount and, if it likes, a unique name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Purse {
    pub cents: i64,
    pub name: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum PurseCommand {
    Put {
        cents: i64,
    },
    /// Refused when there is not enough.
    Take {
        cents: i64,
    },
    /// Takes a name that is unique among all purses.
    Name {
        name: String,
    },
    DropName,
    Note {
        text: String,
    },
    /// The aggregate's own code fails.
    PanicInDecide,
    PanicInApply,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum PurseEvent {
    Put { cents: i64 },
    Taken { cents: i64 },
    Named { name: String },
    NameDropped,
    Noted { text: String },
    Poisoned,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum PurseRejection {
    #[error("there are only {cents} cents")]
    NotEnough { cents: i64 },
}

impl Aggregate for Purse {
    const CATEGORY: &'static str = "purse";
    type Command = PurseCommand;
    type Event = PurseEvent;
    type Rejection = PurseRejection;

    fn decide(&self, command: &PurseCommand) -> Result<Vec<PurseEvent>, PurseRejection> {
        Ok(match command.clone() {
            PurseCommand::Put { cents: 0 } => vec![],
            PurseCommand::Put { cents } => vec![PurseEvent::Put { cents }],
            PurseCommand::Take { cents } if cents > self.cents => {
                return Err(PurseRejection::NotEnough { cents: self.cents });
            }
            PurseCommand::Take { cents } => vec![PurseEvent::Taken { cents }],
            PurseCommand::Name { name } => vec![PurseEvent::Named { name }],
            PurseCommand::DropName => vec![PurseEvent::NameDropped],
            PurseCommand::Note { text } => vec![PurseEvent::Noted { text }],
            PurseCommand::PanicInDecide => panic!("as asked"),
            PurseCommand::PanicInApply => vec![PurseEvent::Poisoned],
        })
    }

    fn apply(&mut self, event: &PurseEvent) {
        match event {
            PurseEvent::Put { cents } => self.cents += cents,
            PurseEvent::Taken { cents } => self.cents -= cents,
            PurseEvent::Named { name } => self.name = Some(name.clone()),
            PurseEvent::NameDropped => self.name = None,
            PurseEvent::Noted { .. } => {}
            PurseEvent::Poisoned => panic!("as asked"),
        }
    }

    fn claims(&self) -> Vec<Claim> {
        self.name.iter().map(|name| Claim::new("purse_name", name.as_str())).collect()
    }

    fn snapshots() -> Option<SnapshotPolicy<Self>> {
        Some(SnapshotPolicy::every(50))
    }
}

/// What is in each purse.
#[derive(Default)]
pub struct Balances {
    /// How long each event takes.
    pub pause: Duration,
}

impl Projection for Balances {
    const NAME: &'static str = "balances";
    type Row = JsonRow<i64>;
    type Index = Total;

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Purse>()
    }
}

impl ProjectFrom<Purse> for Balances {
    fn project(&self, event: &TypedEvent<'_, PurseEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
        let change = match event.data {
            PurseEvent::Put { cents } => *cents,
            PurseEvent::Taken { cents } => -cents,
            _ => return,
        };
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + change });
    }
}

/// The sum over all purses.
#[derive(Default)]
pub struct Total(pub i64);

impl Index<JsonRow<i64>> for Total {
    fn enter(&mut self, row: &std::sync::Arc<JsonRow<i64>>) {
        self.0 += row.data;
    }

    fn leave(&mut self, row: &std::sync::Arc<JsonRow<i64>>) {
        self.0 -= row.data;
    }
}

/// Waits until `reached` says so; fails loudly when that takes more than twenty seconds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, reached: impl Fn() -> F) {
    let waiting = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), waiting).await.is_err() {
        panic!("in vain waited for: {what}");
    }
}
