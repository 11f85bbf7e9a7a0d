//! This file holds the aggregate of the simulation: every event and every refusal says what it was decided upon.

#![allow(unreachable_pub, reason = "its users are in the test beside it")]

use essaim::prelude::*;

/// Holds an amount and, if it likes, a unique name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Till {
    pub cents: i64,
    pub name: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum TillCommand {
    /// Without cents it changes nothing.
    Put {
        cents: i64,
    },
    /// Refused when there is not enough.
    Take {
        cents: i64,
    },
    /// Takes a name that is unique among all tills, and a cent with it.
    Name {
        name: String,
    },
    DropName,
    /// Takes this name by an event that the store may be told to refuse.
    Curse {
        name: String,
    },
}

/// What happened, and upon which amount that was decided.
#[derive(Debug, Serialize, Deserialize)]
pub enum TillEvent {
    Put { cents: i64, upon: i64 },
    Taken { cents: i64, upon: i64 },
    Named { name: String, upon: i64 },
    NameDropped { upon: i64 },
    Cursed { name: String, upon: i64 },
}

impl TillEvent {
    /// The amount that this was decided upon.
    pub fn upon(&self) -> i64 {
        match self {
            Self::Put { upon, .. }
            | Self::Taken { upon, .. }
            | Self::Named { upon, .. }
            | Self::NameDropped { upon }
            | Self::Cursed { upon, .. } => *upon,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
pub enum TillRejection {
    #[error("there are only {cents} cents")]
    NotEnough { cents: i64 },
}

impl Aggregate for Till {
    const CATEGORY: &'static str = "till";
    type Command = TillCommand;
    type Event = TillEvent;
    type Rejection = TillRejection;

    fn decide(&self, command: &TillCommand) -> Result<Vec<TillEvent>, TillRejection> {
        let upon = self.cents;
        Ok(match command.clone() {
            TillCommand::Put { cents: 0 } => vec![],
            TillCommand::Put { cents } => vec![TillEvent::Put { cents, upon }],
            TillCommand::Take { cents } if cents > upon => return Err(TillRejection::NotEnough { cents: upon }),
            TillCommand::Take { cents } => vec![TillEvent::Taken { cents, upon }],
            TillCommand::Name { name } => vec![TillEvent::Named { name, upon }],
            TillCommand::DropName => vec![TillEvent::NameDropped { upon }],
            TillCommand::Curse { name } => vec![TillEvent::Cursed { name, upon }],
        })
    }

    fn apply(&mut self, event: &TillEvent) {
        match event {
            TillEvent::Put { cents, .. } => self.cents += cents,
            TillEvent::Taken { cents, .. } => self.cents -= cents,
            TillEvent::Named { name, .. } | TillEvent::Cursed { name, .. } => {
                self.name = Some(name.clone());
                self.cents += 1;
            }
            TillEvent::NameDropped { .. } => self.name = None,
        }
    }

    fn claims(&self) -> Vec<Claim> {
        self.name.iter().map(|name| Claim::new("till_name", name.as_str())).collect()
    }

    /// Often, so that the short histories of a simulation have some.
    fn snapshots() -> Option<SnapshotPolicy<Self>> {
        Some(SnapshotPolicy::every(3))
    }
}

/// What is in each till.
#[derive(Default)]
pub struct Contents;

impl Projection for Contents {
    const NAME: &'static str = "contents";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Till>()
    }
}

impl ProjectFrom<Till> for Contents {
    fn project(&self, event: &TypedEvent<'_, TillEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        let key = event.stream.key().to_owned();
        let change = match event.data {
            TillEvent::Put { cents, .. } => *cents,
            TillEvent::Taken { cents, .. } => -cents,
            TillEvent::Named { .. } | TillEvent::Cursed { .. } => 1,
            TillEvent::NameDropped { .. } => return,
        };
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + change });
    }
}
