//! This file reads the log back by the ways that are open to everyone, and has every answer held against it.

use super::checker::{Checked, Checker, Others};
use super::history::History;
use super::results::Verification;
use super::target::{ReadModels, Target, TargetError};
use crate::stream::GlobalPosition;

/// What the checker finds; events up to `before` were there when the run began.
pub(crate) async fn verify(
    history: History,
    target: &dyn Target,
    before: GlobalPosition,
    others: Others,
) -> Verification {
    let (head, checked) = match check(&history, target, before, others).await {
        Ok(checked) => checked,
        Err(error) => return incomplete(Verification::default(), &error),
    };
    let mut verification = checked.to_results();
    match target.read_models(head).await {
        Ok(ReadModels { names, findings }) => {
            verification.read_models = names;
            findings.add_to(&mut verification);
            verification
        }
        Err(error) => incomplete(verification, &error),
    }
}

async fn check(
    history: &History,
    target: &dyn Target,
    before: GlobalPosition,
    others: Others,
) -> Result<(GlobalPosition, Checked), TargetError> {
    let head = target.head().await?;
    let mut checker = Checker::new(history, before, others);
    let mut after = before;
    while after < head {
        let events = target.events(after).await?;
        // What the checker says of a log that ends before its head is the truth.
        let Some(last) = events.last() else { break };
        after = last.position;
        events.iter().take_while(|event| event.position <= head).for_each(|event| checker.event(event));
    }
    Ok((head, checker.finish(head)))
}

fn incomplete(verification: Verification, error: &TargetError) -> Verification {
    Verification { incomplete: Some(error.to_string()), ..verification }
}
