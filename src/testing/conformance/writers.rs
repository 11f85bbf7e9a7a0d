//! This file shows who may append: one writer at a time, replaced when it is dead or by force, fenced from then on.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::{OpenLog, WRITER, ada, bob, outcome};
use crate::aggregate::Claim;
use crate::store::{Batch, Epoch, EventStore, Head, LogWriter, StoreError, TakeOver};
use crate::testing::BatchBuilder;

const SUCCESSOR: Uuid = Uuid::from_u128(0xB);

/// How long a database may take to notice that a connection is gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

async fn take_over(store: &dyn EventStore, how: TakeOver) -> Result<Box<dyn LogWriter>, StoreError> {
    store.open_writer(SUCCESSOR, how).await
}

/// Takes over from a dead writer, once the database has noticed that it is dead.
async fn replace(store: &dyn EventStore) -> Box<dyn LogWriter> {
    let given_up = Instant::now() + NOTICED_WITHIN;
    loop {
        match take_over(store, TakeOver::OnlyDead).await {
            Err(StoreError::Held { .. }) if Instant::now() < given_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            taken => return taken.expect("a dead writer is replaced"),
        }
    }
}

async fn head(store: &dyn EventStore) -> Head {
    store.head().await.expect("the head can be read")
}

fn next(head: &Head) -> Batch {
    let stream = crate::stream::StreamId::new("account", &format!("at-{}", head.position));
    BatchBuilder::after(head).events(&stream, 1, 1).build()
}

/// The head names the writer and its epoch, and the writer knows that head.
pub async fn becoming_the_writer_raises_the_epoch_and_names_the_writer(log: &dyn StoreUnderTest) {
    let store = log.open().await;
    let before = head(&*store).await;

    let writer = store.open_writer(WRITER, TakeOver::OnlyDead).await.expect("nobody else writes to this log");

    let after = head(&*store).await;
    assert_eq!(after, Head { epoch: Epoch(before.epoch.0 + 1), writer: WRITER, ..before });
    assert_eq!(*writer.head(), after);
}

/// Epoch and writer change; position, batch, hash, time and id do not.
pub async fn a_take_over_leaves_the_log_as_it_is(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 3)).await;

    let writer = take_over(&*open.store, TakeOver::Force).await.expect("force takes over from anyone");

    let epoch = Epoch(open.head.epoch.0 + 1);
    assert_eq!(*writer.head(), Head { epoch, writer: SUCCESSOR, ..open.head.clone() });
    assert_eq!(open.events().await.len(), 3);
}

/// The start is refused with a hint at who is there, and nothing changes for the living one.
pub async fn a_living_writer_is_not_replaced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;
    let other = log.open().await;

    for store in [&open.store, &other] {
        let error = take_over(&**store, TakeOver::OnlyDead).await.map(drop).expect_err("the writer lives");
        let StoreError::Held { holder } = error else { panic!("wanted Held, found {error:?}") };
        assert!(!holder.trim().is_empty(), "the holder is named");
    }

    assert_eq!(head(&*open.store).await, open.head);
    open.append(open.batch().events(&ada(), 2, 1)).await;
}

/// Its next append, fence check and reclaim all say so, and nothing of it reaches the log.
pub async fn a_writer_replaced_by_force_is_fenced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;
    let other = log.open().await;

    let successor = take_over(&*other, TakeOver::Force).await.expect("force takes over from anyone");

    let batch = open.batch().events(&ada(), 2, 1).take(Claim::new("name", "a"), &ada()).outcome(outcome(1));
    let error = open.refused(batch).await;
    let epochs = (open.head.epoch, successor.head().epoch);
    assert!(matches!(error, StoreError::Fenced { mine, found } if (mine, found) == epochs), "found {error:?}");
    let error = open.writer.check_fence(open.head.epoch, open.head.batch).await.expect_err("it was replaced");
    assert_error!(error, StoreError::Fenced { .. });
    let error = open.writer.reclaim().await.expect_err("it was replaced");
    assert_error!(error, StoreError::Fenced { .. });
    assert_eq!(head(&*other).await, *successor.head(), "none of this changed the head");
}

/// The successor goes on where the log ends.
pub async fn a_successor_appends_behind_what_it_found(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2)).await;

    let mut successor = take_over(&*open.store, TakeOver::Force).await.expect("force takes over from anyone");
    let batch = next(successor.head());
    successor.append(&batch).await.expect("the successor is the writer");

    let positions: Vec<u64> = open.events().await.iter().map(|event| event.position.0).collect();
    assert_eq!(positions, [1, 2, 3]);
}

/// A writer that is gone without a word, as after a crash, is replaced without force.
pub async fn a_dropped_writer_is_replaced(log: &dyn StoreUnderTest) {
    let OpenLog { store, writer, head: before } = OpenLog::of(log).await;

    drop(writer);
    let successor = replace(&*store).await;

    assert!(successor.head().epoch > before.epoch);
    assert_eq!(successor.head().writer, SUCCESSOR);
}

/// After a clean shutdown there is no wait.
pub async fn a_released_log_is_free_at_once(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;
    let other = log.open().await;

    open.writer.release().await;
    let mut successor = take_over(&*other, TakeOver::OnlyDead).await.expect("the log was given back");

    let batch = next(successor.head());
    successor.append(&batch).await.expect("the successor is the writer");
}

/// Restarts in a row: each finds the log as the last one left it.
pub async fn what_was_appended_is_there_after_many_restarts(log: &dyn StoreUnderTest) {
    let mut expected = Vec::new();
    for _ in 0..5 {
        let mut open = OpenLog::of(log).await;
        assert_eq!(open.events().await, expected);
        let batch = next(&open.head);
        open.writer.append(&batch).await.expect("it is the writer");
        expected.extend(batch.events.iter().cloned());
        open.writer.release().await;
    }

    assert_eq!(expected.len(), 5);
}

/// The release of a fenced writer gives nothing back: the log is its successor's.
pub async fn a_fenced_writer_cannot_give_the_log_away(log: &dyn StoreUnderTest) {
    let first = OpenLog::of(log).await;
    let successor = take_over(&*first.store, TakeOver::Force).await.expect("force takes over from anyone");

    first.writer.release().await;

    let error = first.store.open_writer(WRITER, TakeOver::OnlyDead).await.map(drop).expect_err("the successor lives");
    assert_error!(error, StoreError::Held { .. });
    assert_eq!(head(&*first.store).await, *successor.head());
}

/// Of many that start at once on a free log, one gets it and the others are told who.
pub async fn one_of_many_starts_at_once_becomes_the_writer(log: &dyn StoreUnderTest) {
    let store = log.open().await;

    let starts = (1..=8).map(|n| store.open_writer(Uuid::from_u128(n), TakeOver::OnlyDead));
    let ends = futures::future::join_all(starts).await;

    let (writers, errors): (Vec<_>, Vec<_>) = ends.into_iter().partition(Result::is_ok);
    assert_eq!((writers.len(), errors.len()), (1, 7));
    for error in errors.into_iter().filter_map(Result::err) {
        assert_error!(error, StoreError::Held { .. });
    }
    let winner = writers.into_iter().flatten().next().expect("there is one");
    assert_eq!(*winner.head(), head(&*store).await);
}

/// Of many that take over by force at once, every one but the last is fenced.
pub async fn of_many_forced_starts_only_the_last_can_append(log: &dyn StoreUnderTest) {
    let store = log.open().await;

    let starts = (1..=4).map(|n| store.open_writer(Uuid::from_u128(n), TakeOver::Force));
    let writers = futures::future::join_all(starts).await;

    let last = head(&*store).await;
    let mut appended = 0;
    for writer in writers {
        let mut writer = writer.expect("force takes over from anyone");
        let batch = next(writer.head());
        match writer.append(&batch).await {
            Ok(()) => appended += 1,
            Err(error) => {
                assert_ne!(writer.head().epoch, last.epoch, "the last one is not fenced: {error:?}");
                assert_error!(error, StoreError::Fenced { .. });
            }
        }
    }
    assert_eq!(appended, 1);
}

/// A higher epoch, the same writer, everything else as it is; the writer knows the new head.
pub async fn a_reclaim_raises_the_epoch_and_keeps_the_writer(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2)).await;

    let found = open.writer.reclaim().await.expect("nobody took over");

    let epoch = Epoch(open.head.epoch.0 + 1);
    assert_eq!(found, Head { epoch, ..open.head.clone() });
    assert_eq!((open.writer.head(), head(&*open.store).await), (&found, found.clone()));
}

/// What was sent before the reclaim and arrives afterwards is fenced by its own epoch.
pub async fn after_a_reclaim_batches_of_the_epoch_before_are_fenced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let late = open.batch().events(&ada(), 1, 1);

    open.head = open.writer.reclaim().await.expect("nobody took over");

    assert_error!(open.refused(late).await, StoreError::Fenced { .. });
    open.append(open.batch().events(&ada(), 1, 1)).await;
}

/// The head's batch is the last batch if that committed, else the one before.
pub async fn a_reclaim_tells_whether_the_last_batch_is_in(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let committed = open.append(open.batch().events(&ada(), 1, 1)).await;

    open.head = open.writer.reclaim().await.expect("nobody took over");
    assert_eq!(open.head.batch, committed.id);

    let refused = open.batch().events(&ada(), 1, 1).build();
    open.writer.append(&refused).await.expect_err("that version exists");
    open.head = open.writer.reclaim().await.expect("nobody took over");
    assert_eq!(open.head.batch, committed.id);
}

/// What was handed out before is told from what is handed out afterwards, also after a restart.
pub async fn a_renewed_log_has_another_id_and_keeps_its_events(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let committed = open.append(open.batch().events(&ada(), 1, 1)).await;
    let (before, id) = (open.head.log_id, Uuid::from_u128(7));

    open.head = open.writer.renew(id).await.expect("nobody took over");

    assert_ne!(before, id);
    assert_eq!((open.head.log_id, open.head.batch), (id, committed.id));
    assert_eq!(open.store.head().await.expect("the head can be read").log_id, id);
    open.append(open.batch().events(&ada(), 2, 1)).await;
    open.head = open.writer.reclaim().await.expect("nobody took over");
    assert_eq!(open.head.log_id, id);
}

/// Each time it is tried the epoch rises; the last head is the one in force.
pub async fn a_reclaim_may_be_repeated(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let Epoch(first) = open.head.epoch;

    for n in 1..=3 {
        open.head = open.writer.reclaim().await.expect("nobody took over");
        assert_eq!(open.head.epoch, Epoch(first + n));
    }

    open.append(open.batch().events(&bob(), 1, 1)).await;
}

/// A writer that reclaimed the log is as alive as before.
pub async fn a_writer_that_reclaimed_is_still_not_replaced(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.head = open.writer.reclaim().await.expect("nobody took over");

    let error = take_over(&*open.store, TakeOver::OnlyDead).await.map(drop).expect_err("the writer lives");

    assert_error!(error, StoreError::Held { .. });
    open.append(open.batch().events(&ada(), 1, 1)).await;
}
