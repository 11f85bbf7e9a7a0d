//! Read tables in Postgres: what goes into them, and what other programs see there.

#[path = "support/log.rs"]
mod log;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/turnover.rs"]
mod turnover;

use essaim::prelude::*;
use essaim::projections::{TableSpec, Value};
use essaim::store::CheckpointSave;
use futures::FutureExt;
use log::save;
use postgres::Database;
use sqlx::Executor;
use turnover::{empty_row, full_row, rows, turnover};

const FEWER_COLUMNS: &[Column] =
    &[Column::required("id", ColumnKind::Text), Column::nullable("cents", ColumnKind::BigInt)];

async fn fresh() -> (Database, PostgresStore) {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url).await.unwrap();
    (database, store)
}

#[tokio::test]
async fn values_come_back_as_they_went_digit_for_digit_and_byte_for_byte() {
    let (_database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let saved = vec![
        full_row("a", "12.50"),
        full_row("b", "-0.00"),
        full_row("c", "123456789012345678901234567890.123456789"),
        empty_row("d"),
    ];

    store.save_checkpoint(save(&table, None, 1, saved.clone())).await.unwrap();

    let expected: Vec<_> = saved
        .into_iter()
        .map(|mut row| {
            // Postgres has no negative zero among its decimals.
            if row[1] == Value::Numeric("-0.00".into()) {
                row[1] = Value::Numeric("0.00".into());
            }
            row
        })
        .collect();
    assert_eq!(rows(&store, &table).await, (Some(1), expected));
}

#[tokio::test]
async fn rows_that_replace_all_others_come_back_digit_for_digit_and_byte_for_byte_too() {
    let (_database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let replaced =
        |previous, position, upserts| CheckpointSave { replace_all: true, ..save(&table, previous, position, upserts) };
    let signs = "tab\t, line\n, return\r, \\, \\N, \\., 'é' \u{1f980}";
    let first = vec![full_row("a", "12.50"), full_row(signs, "0.00"), empty_row("z")];
    // Equal as numbers and as JSON, but not the same digits and bytes.
    let mut second = vec![full_row("a", "12.5"), full_row("b", "7"), empty_row(signs)];
    second[0][7] = Value::Json("{}".into());

    store.save_checkpoint(replaced(None, 1, first.clone())).await.unwrap();
    let after_first = rows(&store, &table).await;
    store.save_checkpoint(replaced(Some(1), 2, second.clone())).await.unwrap();

    assert_eq!(after_first, (Some(1), first));
    assert_eq!(rows(&store, &table).await, (Some(2), second));
}

#[tokio::test]
async fn rows_that_come_out_as_they_were_are_not_written_again() {
    let (database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let before = vec![full_row("changed", "1.0"), empty_row("gone"), full_row("same", "1.0"), empty_row("void")];
    store.save_checkpoint(save(&table, None, 1, before)).await.unwrap();
    let mut connection = database.connection().await;
    let written = "SELECT id || ' ' || xmin::text FROM turnover_v1 ORDER BY id";
    let before: Vec<String> = sqlx::query_scalar(written).fetch_all(&mut connection).await.unwrap();

    let after = vec![empty_row("added"), full_row("changed", "1.00"), full_row("same", "1.0"), empty_row("void")];
    let replace = CheckpointSave { replace_all: true, ..save(&table, Some(1), 2, after.clone()) };
    store.save_checkpoint(replace).await.unwrap();

    assert_eq!(rows(&store, &table).await, (Some(2), after));
    let after: Vec<String> = sqlx::query_scalar(written).fetch_all(&mut connection).await.unwrap();
    let kept: Vec<_> = after.iter().filter(|row| before.contains(row)).cloned().collect();
    assert_eq!(kept, before[2..]);
}

#[tokio::test]
async fn rows_are_replaced_where_nobody_may_make_temporary_tables() {
    let database = Database::fresh().await;
    let mut connection = database.connection().await;
    // A role that every server has, and that may do nothing of its own.
    let forbid = format!(
        "REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC; GRANT CREATE ON SCHEMA public TO pg_monitor",
        database.name()
    );
    connection.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(forbid))).await.unwrap();
    let store = PostgresStore::open(&format!("{}?options=-c%20role%3Dpg_monitor", database.url)).await.unwrap();
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    store.save_checkpoint(save(&table, None, 1, vec![empty_row("a"), full_row("b", "1")])).await.unwrap();

    let after = vec![full_row("b", "2"), empty_row("c")];
    let replace = CheckpointSave { replace_all: true, ..save(&table, Some(1), 2, after.clone()) };
    store.save_checkpoint(replace).await.unwrap();

    assert_eq!(rows(&store, &table).await, (Some(2), after));
}

#[tokio::test]
async fn other_programs_see_typed_columns_in_a_view() {
    let (database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let mut saved = vec![full_row("a", "12.50"), full_row("b", "0.25")];
    // An escaped U+0000 stays in json as it is, but no operator of SQL can look into it.
    saved.iter_mut().for_each(|row| row[7] = Value::Json(r#"{"b": 1}"#.into()));
    store.save_checkpoint(save(&table, None, 1, saved)).await.unwrap();
    let mut connection = database.connection().await;

    let types: Vec<String> = sqlx::query_scalar(
        "SELECT data_type::text FROM information_schema.columns WHERE table_name = 'turnover' ORDER BY ordinal_position",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let sum: String = sqlx::query_scalar("SELECT sum(amount)::text || ' ' || max(details->>'b') FROM turnover")
        .fetch_one(&mut connection)
        .await
        .unwrap();

    let expected =
        ["text", "numeric", "bigint", "boolean", "double precision", "uuid", "timestamp with time zone", "json"];
    assert_eq!(types, expected);
    assert_eq!(sum, "12.75 1");
}

#[tokio::test]
async fn the_view_shows_the_version_prepared_last_and_other_peoples_views_on_it_stay() {
    let (database, store) = fresh().await;
    let mut connection = database.connection().await;
    store.prepare_table(&turnover(1)).await.unwrap();
    connection.execute("CREATE VIEW report AS SELECT count(*) AS rows FROM turnover").await.unwrap();

    store.prepare_table(&turnover(2)).await.unwrap();
    store.save_checkpoint(save(&turnover(2), None, 1, vec![empty_row("a")])).await.unwrap();

    let count: i64 = sqlx::query_scalar("SELECT rows FROM report").fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, 1);
    let other_columns = TableSpec { columns: FEWER_COLUMNS, ..turnover(3) };
    let held = store.prepare_table(&other_columns).await.unwrap_err();
    assert!(matches!(&held, StoreError::Schema { what } if what.contains("turnover")), "{held:?}");
    connection.execute("DROP VIEW report").await.unwrap();
    store.prepare_table(&other_columns).await.unwrap();
    let columns: i64 =
        sqlx::query_scalar("SELECT count(*) FROM information_schema.columns WHERE table_name = 'turnover'")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(columns, 2);
}

#[tokio::test]
async fn a_table_with_other_columns_than_its_version_has_is_refused() {
    let (database, store) = fresh().await;
    store.prepare_table(&turnover(1)).await.unwrap();
    database.connection().await.execute("CREATE TABLE mine (id text)").await.unwrap();

    let other_columns = store.prepare_table(&TableSpec { columns: FEWER_COLUMNS, ..turnover(1) }).await.unwrap_err();
    let no_view = store.prepare_table(&TableSpec { view: "mine".into(), ..turnover(1) }).await.unwrap_err();

    assert!(matches!(&other_columns, StoreError::Schema { what } if what.contains("other columns")), "{other_columns}");
    assert!(matches!(&no_view, StoreError::Schema { what } if what.contains("rename it")), "{no_view}");
}

#[tokio::test]
async fn names_that_are_no_plain_sql_names_make_no_tables() {
    let (_database, store) = fresh().await;

    for view in ["Payments", "a\"; DROP TABLE essaim_events", "", "essaim_events", "pg_x", &"v".repeat(61)] {
        let refused = store.prepare_table(&TableSpec { view: view.into(), ..turnover(1) }).await.unwrap_err();
        assert!(matches!(refused, StoreError::Schema { .. }), "{view}: {refused}");
    }
    // Postgres would cut both of these to the same name.
    let long = TableSpec { view: "v".repeat(60), ..turnover(1_000) };
    assert!(matches!(store.prepare_table(&long).await, Err(StoreError::Schema { .. })));
}

#[tokio::test]
async fn a_row_that_cannot_be_stored_saves_nothing_and_keeps_its_value_to_itself() {
    let (_database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let with = |index: usize, value: Value| {
        let mut row = empty_row("a");
        row[index] = value;
        row
    };
    let bad = [
        with(0, Value::Text("secret\0".into())),
        with(1, Value::Numeric("secret".into())),
        with(4, Value::Double(f64::NAN)),
        with(7, Value::Json("{secret".into())),
        with(2, Value::Text("secret".into())),
        vec![Value::Text("secret".into())],
    ];

    for row in bad {
        for replace_all in [false, true] {
            let rows = vec![empty_row("good"), row.clone()];
            let save = CheckpointSave { replace_all, ..save(&table, None, 1, rows) };
            let refused = store.save_checkpoint(save).await.unwrap_err();
            assert!(matches!(refused, StoreError::Data { .. }), "{refused:?}");
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }
    assert_eq!(rows(&store, &table).await, (None, vec![]));
}

#[tokio::test]
async fn a_checkpoint_whose_caller_is_dropped_is_saved_all_the_same_and_leaves_no_transaction_open() {
    let (database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();

    assert!(store.save_checkpoint(save(&table, None, 1, vec![empty_row("a")])).now_or_never().is_none());

    let mut waited = 0;
    while store.checkpoint("turnover", 1).await.unwrap().is_none() {
        waited += 1;
        assert!(waited < 2_000, "the save went on alone");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(rows(&store, &table).await, (Some(1), vec![empty_row("a")]));
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(&mut database.connection().await)
    .await
    .unwrap();
    assert_eq!(open, 0);
}

#[tokio::test]
async fn of_two_saves_from_the_same_position_one_is_a_conflict_and_its_rows_are_not_there() {
    let (_database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();

    let (one, other) = tokio::join!(
        store.save_checkpoint(save(&table, None, 1, vec![empty_row("one")])),
        store.save_checkpoint(save(&table, None, 1, vec![empty_row("other")])),
    );

    let (winner, refused) = match (one, other) {
        (Ok(()), Err(refused)) => ("one", refused),
        (Err(refused), Ok(())) => ("other", refused),
        both => panic!("{both:?}"),
    };
    assert!(matches!(refused, StoreError::Conflict { .. }), "{refused:?}");
    assert_eq!(rows(&store, &table).await, (Some(1), vec![empty_row(winner)]));
}

#[tokio::test]
async fn thousands_of_rows_are_replaced_and_deleted_with_one_save() {
    let (_database, store) = fresh().await;
    let table = turnover(1);
    store.prepare_table(&table).await.unwrap();
    let many = |amount: &str| (0..5_000).map(|n| full_row(&format!("{n:05}"), amount)).collect::<Vec<_>>();
    store.save_checkpoint(save(&table, None, 1, many("1.00"))).await.unwrap();

    let mut second = save(&table, Some(1), 2, many("2.00"));
    second.upserts.truncate(2_500);
    second.deletes = (2_500..4_999).map(|n| Value::Text(format!("{n:05}"))).collect();
    store.save_checkpoint(second).await.unwrap();

    let (position, rows) = rows(&store, &table).await;
    assert_eq!((position, rows.len()), (Some(2), 2_501));
    assert_eq!(rows[2_499], full_row("02499", "2.00"));
    assert_eq!(rows[2_500], full_row("04999", "1.00"));
}
