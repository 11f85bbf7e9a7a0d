//! This file takes payments through their lives: created, authorized, completed or cancelled, with a share of commands
//! that must be refused.

use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::{Answer, Caller, CallerSeed, Expected, Operation, Workload};
use crate::aggregate::Aggregate;
use crate::domain::currency::Currency;
use crate::domain::money::Money;
use crate::domain::payment::{AuthorizationCode, Payment, PaymentCommand, PaymentMetadata};
use crate::loadtest::checker::Contents;
use crate::loadtest::random::Random;
use crate::loadtest::target::Payments;
use crate::stream::{GlobalPosition, StreamId};

/// One authorized payment in so many is cancelled, the others are completed.
const CANCELLED_OF: u64 = 4;
/// With two decimals and with none.
const CURRENCIES: [&str; 4] = ["EUR", "USD", "GBP", "JPY"];

/// Payments, from their creation to their end.
pub struct PaymentLives {
    target: Arc<dyn Payments>,
    refusals: f64,
}

impl PaymentLives {
    /// Against this target, with this share of commands that must be refused (0 to 1).
    pub fn new(target: Arc<dyn Payments>, refusals: f64) -> Self {
        Self { target, refusals }
    }
}

impl Workload for PaymentLives {
    fn name(&self) -> &str {
        "payments"
    }

    fn caller(&self, seed: CallerSeed) -> Box<dyn Caller> {
        Box::new(Life::new(Arc::clone(&self.target), self.refusals, seed))
    }
}

/// Where a payment stands, as its only caller knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    None,
    Pending,
    Authorized,
    Over,
}

/// One caller: brings one payment after the other to its end.
pub(crate) struct Life {
    target: Arc<dyn Payments>,
    refusals: f64,
    random: Random,
    names: Random,
    id: Uuid,
    stage: Stage,
    /// Where it will stand when the operation under way succeeds.
    next: Stage,
}

impl Life {
    pub(crate) fn new(target: Arc<dyn Payments>, refusals: f64, seed: CallerSeed) -> Self {
        let CallerSeed { random, mut names, .. } = seed;
        let id = names.uuid();
        Self { target, refusals, random, names, id, stage: Stage::None, next: Stage::None }
    }

    /// The next step of this life, or one that is refused.
    pub(crate) fn step(&mut self) -> Operation {
        if self.stage == Stage::Over {
            self.id = self.names.uuid();
            self.stage = Stage::None;
        }
        if self.stage != Stage::None && self.random.happens(self.refusals) {
            self.next = self.stage;
            return self.out_of_turn();
        }
        let (kind, command, next) = match self.stage {
            Stage::None | Stage::Over => ("create", creation(&mut self.random), Stage::Pending),
            Stage::Pending => ("authorize", authorization(), Stage::Authorized),
            Stage::Authorized if self.random.below(CANCELLED_OF) == 0 => {
                ("cancel", PaymentCommand::Cancel { reason: None }, Stage::Over)
            }
            Stage::Authorized => ("complete", PaymentCommand::Complete, Stage::Over),
        };
        self.next = next;
        order(&self.target, kind, self.id, command, Expected::Success)
    }

    /// A command that does not fit where the payment stands.
    fn out_of_turn(&mut self) -> Operation {
        let command = match self.stage {
            Stage::Pending => PaymentCommand::Complete,
            _ => authorization(),
        };
        order(&self.target, "refused", self.id, command, Expected::Refusal)
    }

    /// Goes on from where the payment stands now.
    pub(crate) fn stepped(&mut self, answer: &Answer) {
        match answer {
            Answer::Done { .. } => self.stage = self.next,
            Answer::Refused { .. } if self.next == self.stage => {}
            // Nothing happened; the same step is tried again.
            Answer::NotExecuted(_) => {}
            // Not as it should be, and counted as such; the payment is left alone.
            _ => self.stage = Stage::Over,
        }
    }

    /// The payment it is at.
    pub(crate) fn payment(&self) -> Uuid {
        self.id
    }
}

impl Caller for Life {
    fn next(&mut self) -> Operation {
        self.step()
    }

    fn ended(&mut self, answer: &Answer) {
        self.stepped(answer);
    }
}

/// A payment of any amount.
pub(crate) fn creation(random: &mut Random) -> PaymentCommand {
    let code = CURRENCIES[random.below(CURRENCIES.len() as u64) as usize];
    let currency = Currency::from_code(code).expect("the list has currencies only");
    let minor_units = i64::try_from(random.below(1_000_000)).expect("it is below a million") + 1;
    let money = Money::from_minor_units(minor_units, currency).expect("it is more than zero");
    PaymentCommand::Create { money, metadata: PaymentMetadata::new() }
}

fn authorization() -> PaymentCommand {
    let code = AuthorizationCode::try_from("LOAD-1".to_owned()).expect("it is short and visible");
    PaymentCommand::Authorize { authorization_code: code }
}

/// A command to a payment of this target.
pub(crate) fn order(
    target: &Arc<dyn Payments>,
    kind: &'static str,
    id: Uuid,
    command: PaymentCommand,
    expected: Expected,
) -> Operation {
    let (target, decided) = (Arc::clone(target), command.clone());
    let operation = Operation::command(kind, stream_of(id), expected, move |attempt| {
        let (target, command) = (Arc::clone(&target), command.clone());
        async move { target.execute(id, command, &attempt).await }
    });
    operation.deciding(move || contents(&decided))
}

/// What the log must have of a command. It is spelled out here, so that neither the code that decides nor the one that
/// encodes has a say in it.
fn contents(command: &PaymentCommand) -> Contents {
    match command {
        PaymentCommand::Create { money, metadata } => {
            let (amount, currency) = (money.amount(), money.currency().code());
            let metadata = json!(metadata);
            let fields = format!(r#"{{"amount":"{amount}","currency":"{currency}","metadata":{metadata}}}"#);
            Contents::of("PaymentCreated", &fields)
        }
        PaymentCommand::Authorize { authorization_code } => {
            let code = json!(authorization_code.as_str());
            Contents::of("PaymentAuthorized", &format!(r#"{{"authorization_code":{code}}}"#))
        }
        PaymentCommand::Complete => Contents::of("PaymentCompleted", "{}"),
        PaymentCommand::Cancel { reason } => {
            let reason = json!(reason);
            Contents::of("PaymentCancelled", &format!(r#"{{"reason":{reason}}}"#))
        }
    }
}

/// A look at a payment's row that includes this position.
pub(crate) fn look(target: &Arc<dyn Payments>, kind: &'static str, id: Uuid, at_least: GlobalPosition) -> Operation {
    let target = Arc::clone(target);
    Operation::read(kind, stream_of(id), at_least, move |_| {
        let target = Arc::clone(&target);
        async move { target.read(id, at_least).await }
    })
}

/// The stream that holds a payment's events.
pub(crate) fn stream_of(id: Uuid) -> StreamId {
    StreamId::new(Payment::CATEGORY, &id.to_string())
}
