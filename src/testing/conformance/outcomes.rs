//! This file shows that answers to commands are kept with their batch, once for each command, until they expire.

use chrono::TimeDelta;
use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, outcome};
use crate::aggregate::Claim;
use crate::event::CommandId;
use crate::store::{EventStore, Outcome, StoreError, StoredOutcome};
use crate::stream::{GlobalPosition, Version};
use crate::testing::BatchBuilder;

fn with(batch: BatchBuilder, outcomes: &[StoredOutcome]) -> BatchBuilder {
    outcomes.iter().fold(batch, |batch, outcome| batch.outcome(outcome.clone()))
}

/// The outcomes of these commands in the order of their ids.
async fn read(store: &dyn EventStore, commands: &[u128]) -> Vec<StoredOutcome> {
    let commands: Vec<_> = commands.iter().map(|&id| CommandId(Uuid::from_u128(id))).collect();
    let mut found = store.read_outcomes(&commands).await.expect("outcomes can be read");
    found.sort_by_key(|outcome| outcome.command_id);
    found
}

/// Every kind of answer, with all it carries.
pub async fn every_kind_of_outcome_is_read_back_as_written(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let (version, position) = (Version(3), GlobalPosition(9_007_199_254_740_993));
    let kinds = [
        Outcome::Committed { version, position },
        Outcome::Unchanged { version, position },
        Outcome::Rejected {
            version, position, rejection: r#"{"NotEnough": {"cents" : 5, "who":"Zoë\u0000"}}"#.into()
        },
        Outcome::ClaimRefused { version, position, claim: Claim::new("email", "zoë@example.org") },
    ];
    let outcomes: Vec<_> = (1..).zip(kinds).map(|(n, kind)| StoredOutcome { outcome: kind, ..outcome(n) }).collect();

    open.append(with(open.batch().events(&ada(), 1, 1), &outcomes)).await;

    let other = log.open().await;
    assert_eq!(read(&*other, &[1, 2, 3, 4]).await, outcomes);
}

/// Who was never answered has no outcome; it is left out.
pub async fn unknown_commands_have_no_outcome(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(with(open.batch(), &[outcome(2), outcome(4)])).await;

    assert_eq!(read(&*open.store, &[1, 2, 3, 4, 5]).await, [outcome(2), outcome(4)]);
    assert_eq!(read(&*open.store, &[1]).await, []);
    assert_eq!(read(&*open.store, &[]).await, []);
}

/// 1,000 answers in one batch, read in one question.
pub async fn a_thousand_outcomes_are_kept_in_one_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let outcomes: Vec<_> = (1..=1_000).map(outcome).collect();

    open.append(with(open.batch(), &outcomes)).await;

    assert_eq!(read(&*open.store, &(1..=1_000).collect::<Vec<_>>()).await, outcomes);
}

/// A second answer to a command, whatever it says, is a conflict; the first stays.
pub async fn a_second_outcome_of_a_command_is_a_conflict(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(with(open.batch(), &[outcome(1)])).await;

    let other = StoredOutcome { fingerprint: [9; 32], internal: true, ..outcome(1) };
    let batch = with(open.batch().events(&ada(), 1, 1), &[outcome(2), other]);
    assert_error!(open.refused(batch).await, StoreError::Conflict { .. });

    assert_eq!(read(&*open.store, &[1, 2]).await, [outcome(1)]);
}

/// Those recorded before the bound go, the one at the bound stays.
pub async fn pruning_removes_what_was_recorded_before_the_bound(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let bound = outcome(1).recorded_at;
    let shifted = |id, micros| StoredOutcome { recorded_at: bound + TimeDelta::microseconds(micros), ..outcome(id) };
    open.append(with(open.batch(), &[shifted(1, -1_000_000), shifted(2, -1), shifted(3, 0), shifted(4, 1)])).await;

    let pruned = open.store.prune_outcomes(bound).await.expect("outcomes can be removed");
    let again = open.store.prune_outcomes(bound).await.expect("outcomes can be removed");

    assert_eq!((pruned, again), (2, 0));
    assert_eq!(read(&*open.store, &[1, 2, 3, 4]).await, [shifted(3, 0), shifted(4, 1)]);
}

/// Those of internal commands are kept for as long as the events.
pub async fn pruning_leaves_outcomes_of_internal_commands(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let internal = StoredOutcome { internal: true, ..outcome(1) };
    open.append(with(open.batch(), &[internal.clone(), outcome(2)])).await;

    let later = outcome(1).recorded_at + TimeDelta::days(10_000);
    let pruned = open.store.prune_outcomes(later).await.expect("outcomes can be removed");

    assert_eq!(pruned, 1);
    assert_eq!(read(&*open.store, &[1, 2]).await, [internal]);
}

/// However many there are, one call removes them all and counts them, and the log and its writer do not notice.
pub async fn pruning_counts_thousands_and_leaves_the_log_alone(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let outcomes: Vec<_> = (1..=2_500).map(outcome).collect();
    open.append(with(open.batch().events(&ada(), 1, 1), &outcomes)).await;

    let later = outcome(1).recorded_at + TimeDelta::seconds(1);
    let pruned = open.store.prune_outcomes(later).await.expect("outcomes can be removed");

    assert_eq!(pruned, 2_500);
    assert_eq!(open.store.head().await.expect("the head can be read"), open.head);
    open.append(open.batch().events(&ada(), 2, 1)).await;
}

/// When its outcome has expired, a command id can be answered anew.
pub async fn an_expired_command_id_can_be_used_again(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(with(open.batch(), &[outcome(1)])).await;
    open.store.prune_outcomes(outcome(1).recorded_at + TimeDelta::seconds(1)).await.expect("outcomes can be removed");

    let second = StoredOutcome { fingerprint: [2; 32], ..outcome(1) };
    open.append(with(open.batch(), std::slice::from_ref(&second))).await;

    assert_eq!(read(&*open.store, &[1]).await, [second]);
}
