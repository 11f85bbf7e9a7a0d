//! This file shows that rows and position of a read table are saved together or not at all, under the log's fence.

use super::StoreUnderTest;
use super::open_log::OpenLog;
use super::tables::{checkpoint_at, load, names, row, rows, save_at};
use crate::projections::{TableSpec, Value};
use crate::store::{Checkpoint, CheckpointSave, Epoch, StoreError, TakeOver};

/// Rows of [`names`] at position 5.
async fn at_5(log: &dyn StoreUnderTest) -> OpenLog {
    let open = OpenLog::of(log).await;
    open.store.prepare_table(&names()).await.expect("a table can be made");
    let upserts = vec![row(1, "ada"), row(2, "bob"), row(3, "carol")];
    let table = names();
    let save = CheckpointSave { upserts, ..save_at(&open, &table, None, 5) };
    open.store.save_checkpoint(save).await.expect("rows can be saved");
    open
}

/// Saves what must not be saved; rows and checkpoint must be as before.
async fn refused(open: &OpenLog, save: CheckpointSave<'_>) -> StoreError {
    let table = save.table.clone();
    let before = load(&*open.store, &table).await;

    let error = open.store.save_checkpoint(save).await.expect_err("this must not be saved");

    assert_eq!(load(&*open.store, &table).await, before, "a refused save leaves nothing, after {error:?}");
    error
}

/// A save that would change every row.
fn rewrite<'a>(open: &OpenLog, table: &'a TableSpec, previous: Option<u64>, position: u64) -> CheckpointSave<'a> {
    CheckpointSave {
        upserts: vec![row(1, "changed"), row(9, "new")],
        deletes: vec![Value::BigInt(2)],
        replace_all: true,
        ..save_at(open, table, previous, position)
    }
}

/// With the rows, alone, and among all: the same row each time.
pub async fn a_saved_checkpoint_is_read_back_as_written(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let wanted = checkpoint_at(&open, &names(), 5);

    let other = log.open().await;
    let alone = other.checkpoint(&wanted.projection, 1).await.expect("checkpoints can be read");
    let all = other.checkpoints().await.expect("checkpoints can be read");

    assert_eq!(alone.as_ref(), Some(&wanted));
    assert_eq!(all, std::slice::from_ref(&wanted));
    assert_eq!(load(&*other, &names()).await.map(|(checkpoint, _)| checkpoint), Some(wanted));
}

/// Other projections and other versions have none.
pub async fn a_checkpoint_nobody_saved_is_none(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;

    for (projection, version) in [("nobody", 1), ("names_projection", 2), ("names", 1), ("", 1)] {
        let found = open.store.checkpoint(projection, version).await.expect("checkpoints can be read");
        assert_eq!(found, None, "{projection} v{version}");
    }
}

/// By projection, then by version, as numbers.
pub async fn checkpoints_are_listed_by_projection_and_version(log: &dyn StoreUnderTest) {
    let open = OpenLog::of(log).await;
    for (view, version) in [("zebras", 1), ("ants", 10), ("ants", 2), ("bees", 1)] {
        let table = TableSpec { projection: view.into(), view: view.into(), version, ..names() };
        open.store.prepare_table(&table).await.expect("a table can be made");
        open.store.save_checkpoint(save_at(&open, &table, None, 1)).await.expect("a checkpoint can be saved");
    }

    let all = open.store.checkpoints().await.expect("checkpoints can be read");

    let listed: Vec<_> = all.iter().map(|checkpoint| (checkpoint.projection.as_str(), checkpoint.version)).collect();
    assert_eq!(listed, [("ants", 2), ("ants", 10), ("bees", 1), ("zebras", 1)]);
}

/// A row with a key that is there is replaced whole; others stay.
pub async fn an_upsert_inserts_or_replaces(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    let upserts = vec![row(2, "robert"), row(4, "dave")];
    let save = CheckpointSave { upserts, ..save_at(&open, &table, Some(5), 6) };
    open.store.save_checkpoint(save).await.expect("rows can be changed");

    let wanted = vec![row(1, "ada"), row(2, "robert"), row(3, "carol"), row(4, "dave")];
    assert_eq!(load(&*open.store, &table).await, Some((checkpoint_at(&open, &table, 6), wanted)));
}

/// A key without a row may be deleted too: it came and went between two saves.
pub async fn a_delete_removes_the_row_if_there_is_one(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    let deletes = vec![Value::BigInt(2), Value::BigInt(77)];
    let save = CheckpointSave { deletes, ..save_at(&open, &table, Some(5), 6) };
    open.store.save_checkpoint(save).await.expect("rows can be deleted");

    assert_eq!(rows(&*open.store, &table).await, [row(1, "ada"), row(3, "carol")]);
}

/// A key in both lists has its new row.
pub async fn deletes_go_before_upserts(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    let (upserts, deletes) = (vec![row(2, "again")], vec![Value::BigInt(1), Value::BigInt(2)]);
    let save = CheckpointSave { upserts, deletes, ..save_at(&open, &table, Some(5), 6) };
    open.store.save_checkpoint(save).await.expect("rows can be changed");

    assert_eq!(rows(&*open.store, &table).await, [row(2, "again"), row(3, "carol")]);
}

/// A rebuild: only the given rows are there afterwards, and the position may be a lower one.
pub async fn replacing_all_leaves_only_the_given_rows(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    let save = CheckpointSave { upserts: vec![row(2, "new")], replace_all: true, ..save_at(&open, &table, Some(5), 3) };
    open.store.save_checkpoint(save).await.expect("rows can be replaced");
    assert_eq!(load(&*open.store, &table).await, Some((checkpoint_at(&open, &table, 3), vec![row(2, "new")])));

    let nothing = CheckpointSave { replace_all: true, ..save_at(&open, &table, Some(3), 4) };
    open.store.save_checkpoint(nothing).await.expect("rows can be replaced");
    assert_eq!(rows(&*open.store, &table).await, Vec::<Vec<Value>>::new());
}

/// Events that change no row move the position all the same.
pub async fn a_save_without_rows_moves_the_position(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let before = rows(&*open.store, &names()).await;

    open.store.save_checkpoint(save_at(&open, &names(), Some(5), 900)).await.expect("a checkpoint can be saved");

    assert_eq!(load(&*open.store, &names()).await, Some((checkpoint_at(&open, &names(), 900), before)));
}

/// Somebody else moved it, or it is not as far as was thought.
pub async fn a_save_behind_another_position_is_a_conflict(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    for previous in [0, 4, 6] {
        let error = refused(&open, rewrite(&open, &table, Some(previous), 7)).await;
        assert_error!(error, StoreError::Conflict { .. });
    }

    open.store.save_checkpoint(rewrite(&open, &table, Some(5), 7)).await.expect("the right one is saved");
}

/// The row is there already.
pub async fn a_first_save_where_there_is_a_checkpoint_is_a_conflict(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;

    assert_error!(refused(&open, rewrite(&open, &names(), None, 7)).await, StoreError::Conflict { .. });
}

/// The row is not there: it was removed, or never made.
pub async fn a_later_save_where_there_is_no_checkpoint_is_a_conflict(log: &dyn StoreUnderTest) {
    let open = OpenLog::of(log).await;
    open.store.prepare_table(&names()).await.expect("a table can be made");

    assert_error!(refused(&open, rewrite(&open, &names(), Some(5), 7)).await, StoreError::Conflict { .. });
}

/// The save of a process that was replaced, the first one or a later one.
pub async fn a_save_of_a_lower_epoch_than_the_logs_is_fenced(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let (table, fresh) = (names(), TableSpec { version: 2, ..names() });
    open.store.prepare_table(&fresh).await.expect("a table can be made");

    let successor = open.store.open_writer(uuid::Uuid::from_u128(0xB), TakeOver::Force).await;
    let found = successor.as_ref().expect("force takes over from anyone").head().epoch;

    for (table, previous) in [(&table, Some(5)), (&fresh, None)] {
        let error = refused(&open, rewrite(&open, table, previous, 7)).await;
        let mine = open.head.epoch;
        assert!(
            matches!(error, StoreError::Fenced { mine: m, found: f } if (m, f) == (mine, found)),
            "wanted Fenced from {mine} by {found}, found {error:?}"
        );
    }
}

/// Once its own epoch is known, the successor moves the checkpoint that it found.
pub async fn a_save_of_the_epoch_in_force_goes_through_after_a_take_over(log: &dyn StoreUnderTest) {
    let mut open = at_5(log).await;
    let table = names();

    open.head = open.writer.reclaim().await.expect("nobody took over");
    let save = rewrite(&open, &table, Some(5), 7);
    open.store.save_checkpoint(save).await.expect("this is the epoch in force");

    let Checkpoint { epoch, .. } = checkpoint_at(&open, &table, 7);
    assert!(epoch > Epoch(1));
    assert_eq!(load(&*open.store, &table).await.map(|(checkpoint, _)| checkpoint.epoch), Some(epoch));
    assert_eq!(rows(&*open.store, &table).await, [row(1, "changed"), row(9, "new")]);
}

/// Of two that believe they are the only one, one wins, and its rows are there alone.
pub async fn of_two_saves_at_once_one_is_a_conflict(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let (table, other) = (names(), log.open().await);
    let save = |name: &str| CheckpointSave {
        upserts: vec![row(1, name), row(2, name), row(3, name)],
        ..save_at(&open, &table, Some(5), 6)
    };

    let (left, right) = futures::join!(open.store.save_checkpoint(save("left")), other.save_checkpoint(save("right")));

    let (winner, loser) = match (left, right) {
        (Ok(()), Err(error)) => ("left", error),
        (Err(error), Ok(())) => ("right", error),
        both => panic!("wanted one to win, found {both:?}"),
    };
    assert_error!(loser, StoreError::Conflict { .. });
    assert_eq!(rows(&*open.store, &table).await, [row(1, winner), row(2, winner), row(3, winner)]);
}

/// U+0000 breaks text columns; the position does not move either.
pub async fn a_row_with_u0000_cannot_be_saved(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    let upserts = vec![row(1, "changed"), row(4, "a\0b")];
    let error = refused(&open, CheckpointSave { upserts, ..save_at(&open, &table, Some(5), 6) }).await;

    assert_error!(error, StoreError::Data { .. });
}

/// A column that must hold a value, or one that holds another kind: a fault of the program, which repeating it does not
/// mend.
pub async fn a_row_that_does_not_fit_its_columns_cannot_be_saved(log: &dyn StoreUnderTest) {
    let open = at_5(log).await;
    let table = names();

    for misfit in [vec![Value::BigInt(4), Value::Null], vec![Value::BigInt(4), Value::Boolean(true)]] {
        let upserts = vec![row(1, "changed"), misfit];
        let error = refused(&open, CheckpointSave { upserts, ..save_at(&open, &table, Some(5), 6) }).await;
        assert!(!error.is_transient(), "repeating it would not help: {error:?}");
    }
}

/// Reading tools and the writer are not disturbed: the head is as before.
pub async fn saving_a_checkpoint_leaves_the_log_as_it_is(log: &dyn StoreUnderTest) {
    let mut open = at_5(log).await;

    assert_eq!(open.store.head().await.expect("the head can be read"), open.head);
    open.append(open.batch().events(&super::open_log::ada(), 1, 1)).await;
}
