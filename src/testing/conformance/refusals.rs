//! This file shows which batches are refused for their place in the log, and that nothing of them is left behind.
//!
//! Every refusal here compares head, log, claims and outcomes before and after, and appends once more afterwards.

use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob, outcome};
use crate::aggregate::Claim;
use crate::store::{Epoch, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};
use crate::testing::BatchBuilder;

/// A batch with a bit of everything, so that something is seen if only a part of it is undone.
fn full(batch: BatchBuilder) -> BatchBuilder {
    let stream = StreamId::new("account", "refused");
    batch.events(&stream, 1, 3).take(Claim::new("name", "refused"), &stream).outcome(outcome(77))
}

/// The epoch of a writer that was replaced.
pub async fn an_append_of_a_lower_epoch_is_fenced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let mine = open.head.epoch;
    open.append(open.batch().events(&ada(), 1, 1)).await;

    let error = open.refused(full(open.batch()).epoch(Epoch(mine.0 - 1))).await;

    assert!(matches!(error, StoreError::Fenced { found, .. } if found == mine), "wanted Fenced, found {error:?}");
}

/// An epoch that nobody raised.
pub async fn an_append_of_a_higher_epoch_is_fenced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let error = open.refused(full(open.batch()).epoch(Epoch(open.head.epoch.0 + 1))).await;

    assert_error!(error, StoreError::Fenced { .. });
}

/// Another batch committed in between, or the expected one never did.
pub async fn an_append_behind_another_batch_is_fenced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let first = open.append(open.batch().events(&ada(), 1, 1)).await;
    open.append(open.batch().events(&ada(), 2, 1)).await;

    for previous in [first.id, Uuid::nil(), Uuid::from_u128(0xDEAD)] {
        let error = open.refused(full(open.batch()).previous(previous)).await;
        assert_error!(error, StoreError::Fenced { .. });
    }
}

/// The same bytes sent again, as after a lost answer, are not appended twice.
pub async fn a_batch_sent_twice_is_fenced_the_second_time(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let batch = open.batch().events(&ada(), 1, 2).build();
    open.writer.append(&batch).await.expect("the first time it commits");

    let error = open.writer.append(&batch).await.expect_err("the second time it must not");

    assert_error!(error, StoreError::Fenced { .. });
    assert_eq!(open.events().await, *batch.events);
}

/// Somebody else's event has this version of the stream.
pub async fn a_version_that_exists_already_is_a_conflict(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 3)).await;

    for version in [1, 3] {
        let error = open.refused(full(open.batch()).events(&ada(), version, 1)).await;
        assert_error!(error, StoreError::Conflict { .. });
    }
}

/// The two events are in one batch.
pub async fn one_version_twice_in_a_batch_is_a_conflict(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let error = open.refused(full(open.batch()).events(&ada(), 1, 1).events(&ada(), 1, 1)).await;

    assert_error!(error, StoreError::Conflict { .. });
}

/// One event at fault, the last of many, undoes them all.
pub async fn a_conflict_at_the_end_of_a_large_batch_undoes_all_of_it(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;

    let error = open.refused(full(open.batch()).events(&bob(), 1, 1_500).events(&ada(), 1, 1)).await;

    assert_error!(error, StoreError::Conflict { .. });
}

/// A batch that leaves a position out would break what every reader relies on.
pub async fn positions_that_leave_a_hole_are_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2)).await;

    let behind_a_hole = open.batch().event_with(&bob(), 1, |event| event.position = GlobalPosition(4));
    let error = open.refused(behind_a_hole).await;

    assert!(!error.is_transient(), "repeating it would not help: {error:?}");
}

/// A batch that starts at a position of the log would overwrite history.
pub async fn positions_that_exist_already_are_refused(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2)).await;

    let over = open.batch().event_with(&bob(), 1, |event| event.position = GlobalPosition(2));
    let error = open.refused(over).await;

    assert!(!error.is_transient(), "repeating it would not help: {error:?}");
}

/// One refusal of each kind in a row, and the positions are still without a hole.
pub async fn refused_batches_leave_no_hole_in_the_positions(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1).take(Claim::new("name", "a"), &ada()).outcome(outcome(1))).await;

    open.refused(full(open.batch()).epoch(Epoch(0))).await;
    open.refused(full(open.batch()).events(&ada(), 1, 1)).await;
    open.refused(full(open.batch()).take(Claim::new("name", "a"), &bob())).await;
    open.refused(full(open.batch()).outcome(outcome(1))).await;
    open.refused(full(open.batch()).event(&bob(), 1, "Nul\0", "{}")).await;

    let positions: Vec<u64> = open.events().await.iter().map(|event| event.position.0).collect();
    assert_eq!(positions, [1, 2, 3, 4, 5, 6], "one at first, and one behind each refusal");
}

/// Whoever has the epoch and the last batch of the head may go on.
pub async fn the_fence_lets_the_present_writer_pass_and_writes_nothing(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;

    open.writer.check_fence(open.head.epoch, open.head.batch).await.expect("nobody took over");

    assert_eq!(open.store.head().await.expect("the head can be read"), open.head);
}

/// Another epoch, or another batch, means that somebody else wrote.
pub async fn the_fence_stops_a_writer_of_another_epoch_or_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let first = open.append(open.batch().events(&ada(), 1, 1)).await;
    let last = open.append(open.batch().events(&ada(), 2, 1)).await;
    let Epoch(epoch) = open.head.epoch;

    for (epoch, batch) in [(epoch, first.id), (epoch - 1, last.id), (epoch + 1, last.id), (epoch, Uuid::nil())] {
        let error = open.writer.check_fence(Epoch(epoch), batch).await.expect_err("the head has others");
        assert_error!(error, StoreError::Fenced { .. });
    }
    open.append(open.batch().events(&ada(), 3, 1)).await;
    assert_eq!(open.store.read_stream(&ada(), Version::EMPTY, 10).await.expect("a stream can be read").len(), 3);
}
