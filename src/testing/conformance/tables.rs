//! This file shows that rows of read tables come back as they were saved, in columns of every kind.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::OpenLog;
use crate::event::ChainHash;
use crate::projections::{Column, ColumnKind, TableSpec, Value};
use crate::store::{Checkpoint, CheckpointSave, EventStore, SharedStore, StoreError};
use crate::stream::GlobalPosition;

const NAMES: &[Column] = &[Column::required("id", ColumnKind::BigInt), Column::required("name", ColumnKind::Text)];

/// A table of this name with these columns, version 1.
pub(super) fn table(name: &str, columns: &'static [Column]) -> TableSpec {
    TableSpec { projection: format!("{name}_projection"), view: name.into(), version: 1, columns }
}

/// Numbers and names.
pub(super) fn names() -> TableSpec {
    table("names", NAMES)
}

/// A row of [`names`].
pub(super) fn row(id: i64, name: &str) -> Vec<Value> {
    vec![Value::BigInt(id), Value::Text(name.into())]
}

/// What the checkpoint row of this table says at this position.
pub(super) fn checkpoint_at(open: &OpenLog, table: &TableSpec, position: u64) -> Checkpoint {
    Checkpoint {
        projection: table.projection.clone(),
        version: table.version,
        position: GlobalPosition(position),
        chain_hash: ChainHash([position as u8; 32]),
        epoch: open.head.epoch,
        saved_at: time(1_767_323_045_000_000 + position as i64),
    }
}

/// A save that changes no rows.
pub(super) fn save_at<'a>(
    open: &OpenLog,
    table: &'a TableSpec,
    previous: Option<u64>,
    position: u64,
) -> CheckpointSave<'a> {
    CheckpointSave {
        table,
        previous: previous.map(GlobalPosition),
        checkpoint: checkpoint_at(open, table, position),
        upserts: Vec::new(),
        deletes: Vec::new(),
        replace_all: false,
    }
}

/// The checkpoint and all rows, ordered by their keys as text.
pub(super) async fn load(store: &dyn EventStore, table: &TableSpec) -> Option<(Checkpoint, Vec<Vec<Value>>)> {
    let mut rows = Vec::new();
    let mut keep = |row| {
        rows.push(row);
        Ok(())
    };
    let checkpoint = store.load_table(table, &mut keep).await.expect("a table can be loaded");
    rows.sort_by_key(|row: &Vec<Value>| format!("{:?}", row[0]));
    if checkpoint.is_none() {
        assert_eq!(rows, Vec::<Vec<Value>>::new(), "no rows without a checkpoint");
    }
    checkpoint.map(|checkpoint| (checkpoint, rows))
}

/// Only the rows.
pub(super) async fn rows(store: &dyn EventStore, table: &TableSpec) -> Vec<Vec<Value>> {
    load(store, table).await.map_or_else(Vec::new, |(_, rows)| rows)
}

/// A fresh table with these rows at position 1.
async fn with_rows(log: &dyn StoreUnderTest, table: &TableSpec, upserts: Vec<Vec<Value>>) -> OpenLog {
    let open = OpenLog::of(log).await;
    open.store.prepare_table(table).await.expect("a table can be made");
    let save = CheckpointSave { upserts, ..save_at(&open, table, None, 1) };
    open.store.save_checkpoint(save).await.expect("rows can be saved");
    open
}

fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).expect("within the years of chrono")
}

/// Saves rows of one column besides the key, and expects the same values from another connection.
async fn survive(log: &dyn StoreUnderTest, columns: &'static [Column], values: Vec<Value>) {
    let table = table("samples", columns);
    let saved: Vec<_> = (100..).zip(values).map(|(id, value)| vec![Value::BigInt(id), value]).collect();

    let open = with_rows(log, &table, saved.clone()).await;

    let other = log.open().await;
    assert_eq!(rows(&*other, &table).await, saved);
    assert_eq!(rows(&*open.store, &table).await, saved);
}

/// A key and one column of this kind.
macro_rules! sample {
    ($kind:ident) => {
        const { &[Column::required("id", ColumnKind::BigInt), Column::nullable("value", ColumnKind::$kind)] }
    };
}

/// Any script, quotes, spaces and nothing at all.
pub async fn texts_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    let texts = ["", " ", "Zoë 🐝", "it's \"quoted\"", "a\\b%_", "line\nbreak\ttab", "e\u{301}", "NULL", "0012"];
    survive(log, sample!(Text), texts.map(|text| Value::Text(text.into())).to_vec()).await;
}

/// From the smallest to the largest.
pub async fn integers_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    survive(log, sample!(BigInt), [i64::MIN, -1, 0, 1, (1 << 53) + 1, i64::MAX].map(Value::BigInt).to_vec()).await;
}

/// Both of them.
pub async fn truth_values_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    survive(log, sample!(Boolean), vec![Value::Boolean(true), Value::Boolean(false)]).await;
}

/// To the last bit, whole numbers and extremes included.
pub async fn doubles_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    let numbers = [0.0, 1.0, -1.5, 0.1 + 0.2, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 1e-300, 9_007_199_254_740_993.0];
    survive(log, sample!(Double), numbers.map(Value::Double).to_vec()).await;
}

/// Any of them, nil too.
pub async fn uuids_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    let ids = [Uuid::nil(), Uuid::max(), Uuid::from_u128(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF)];
    survive(log, sample!(Uuid), ids.map(Value::Uuid).to_vec()).await;
}

/// With their microseconds, before 1970 too.
pub async fn timestamps_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    let micros = [0, 1, -1, -1_000_000, 999_999, 1_767_323_045_678_901, 4_102_444_799_999_999];
    survive(log, sample!(Timestamp), micros.map(|micros| Value::Timestamp(time(micros))).to_vec()).await;
}

/// With the digits they were written with: 12.50 is not 12.5.
pub async fn decimals_survive_in_a_read_table(log: &dyn StoreUnderTest) {
    let digits = ["12.50", "12.5", "0.00", "0", "-0.001", "100", "123456789012345678901234567890.123456789"];
    survive(log, sample!(Numeric), digits.map(|digits| Value::Numeric(digits.into())).to_vec()).await;
}

/// Byte for byte, as in events.
pub async fn json_survives_in_a_read_table(log: &dyn StoreUnderTest) {
    let texts = [r#"{"b" : 1,  "a":[ 1.50 ]}"#, r#"{"a":1,"a":2}"#, "null", "\"\\u0000 Zoë\"", "1e400", "[]"];
    survive(log, sample!(Json), texts.map(|json| Value::Json(json.into())).to_vec()).await;
}

/// Nothing is told from empty, zero and the JSON null.
pub async fn nulls_survive_in_columns_of_every_kind(log: &dyn StoreUnderTest) {
    const ALL: &[Column] = &[
        Column::required("id", ColumnKind::BigInt),
        Column::nullable("a_text", ColumnKind::Text),
        Column::nullable("a_number", ColumnKind::BigInt),
        Column::nullable("a_truth", ColumnKind::Boolean),
        Column::nullable("a_double", ColumnKind::Double),
        Column::nullable("a_uuid", ColumnKind::Uuid),
        Column::nullable("a_time", ColumnKind::Timestamp),
        Column::nullable("a_decimal", ColumnKind::Numeric),
        Column::nullable("a_json", ColumnKind::Json),
    ];
    let nulls = [vec![Value::BigInt(1)], vec![Value::Null; 8]].concat();
    let full = vec![
        Value::BigInt(2),
        Value::Text(String::new()),
        Value::BigInt(0),
        Value::Boolean(false),
        Value::Double(0.0),
        Value::Uuid(Uuid::nil()),
        Value::Timestamp(time(0)),
        Value::Numeric("0".into()),
        Value::Json("null".into()),
    ];

    let open = with_rows(log, &table("everything", ALL), vec![nulls.clone(), full.clone()]).await;

    assert_eq!(rows(&*open.store, &table("everything", ALL)).await, [nulls, full]);
}

/// Texts and UUIDs identify rows as well as numbers do, and are compared byte for byte.
pub async fn rows_are_identified_by_keys_of_other_kinds(log: &dyn StoreUnderTest) {
    const TEXTS: &[Column] = &[Column::required("key", ColumnKind::Text)];
    const UUIDS: &[Column] = &[Column::required("key", ColumnKind::Uuid)];
    let texts: Vec<_> = ["", "ADA", "Ada", "ada ", "ada"].map(|key| vec![Value::Text(key.into())]).to_vec();
    let uuids: Vec<_> = (1..4).map(|n| vec![Value::Uuid(Uuid::from_u128(n))]).collect();

    let open = with_rows(log, &table("by_text", TEXTS), texts.clone()).await;
    assert_eq!(rows(&*open.store, &table("by_text", TEXTS)).await, texts);

    let by_uuid = table("by_uuid", UUIDS);
    open.store.prepare_table(&by_uuid).await.expect("a table can be made");
    let first = CheckpointSave { upserts: uuids.clone(), ..save_at(&open, &by_uuid, None, 1) };
    open.store.save_checkpoint(first).await.expect("rows can be saved");
    let second = CheckpointSave { deletes: vec![uuids[1][0].clone()], ..save_at(&open, &by_uuid, Some(1), 2) };
    open.store.save_checkpoint(second).await.expect("rows can be deleted");
    assert_eq!(rows(&*open.store, &by_uuid).await, [uuids[0].clone(), uuids[2].clone()]);
}

/// Columns may be called what they are.
pub async fn columns_may_be_named_like_words_of_sql(log: &dyn StoreUnderTest) {
    const WORDS: &[Column] = &[
        Column::required("key", ColumnKind::BigInt),
        Column::required("order", ColumnKind::Text),
        Column::required("group", ColumnKind::Text),
        Column::nullable("user", ColumnKind::Text),
    ];
    let text = |text: &str| Value::Text(text.into());
    let saved = vec![vec![Value::BigInt(1), text("a"), text("b"), text("c")]];

    let open = with_rows(log, &table("words", WORDS), saved.clone()).await;

    assert_eq!(rows(&*open.store, &table("words", WORDS)).await, saved);
}

/// The start of every program prepares what is there already; rows and checkpoint stay.
pub async fn preparing_a_table_twice_changes_nothing(log: &dyn StoreUnderTest) {
    let open = with_rows(log, &names(), vec![row(1, "ada")]).await;

    open.store.prepare_table(&names()).await.expect("it is there already");
    log.open().await.prepare_table(&names()).await.expect("it is there already");

    assert_eq!(load(&*open.store, &names()).await, Some((checkpoint_at(&open, &names(), 1), vec![row(1, "ada")])));
}

/// The columns changed and the version did not: the rows are left alone.
pub async fn a_table_with_other_columns_is_refused(log: &dyn StoreUnderTest) {
    const MORE: &[Column] = &[NAMES[0], NAMES[1], Column::nullable("note", ColumnKind::Text)];
    const FEWER: &[Column] = &[NAMES[0]];
    const RENAMED: &[Column] = &[NAMES[0], Column::required("called", ColumnKind::Text)];
    const RETYPED: &[Column] = &[NAMES[0], Column::required("name", ColumnKind::Double)];
    const LOOSER: &[Column] = &[NAMES[0], Column::nullable("name", ColumnKind::Text)];
    let open = with_rows(log, &names(), vec![row(1, "ada")]).await;

    for columns in [MORE, FEWER, RENAMED, RETYPED, LOOSER] {
        let error = open.store.prepare_table(&table("names", columns)).await.expect_err("the columns differ");
        assert_error!(error, StoreError::Schema { .. });
    }

    assert_eq!(rows(&*open.store, &names()).await, [row(1, "ada")]);
}

/// Neither a table that was only prepared nor one that nobody made has a checkpoint.
pub async fn a_table_has_no_checkpoint_before_its_first_save(log: &dyn StoreUnderTest) {
    let store = log.open().await;
    assert_eq!(load(&*store, &names()).await, None);

    store.prepare_table(&names()).await.expect("a table can be made");

    assert_eq!(load(&*store, &names()).await, None);
    assert_eq!(store.checkpoint(&names().projection, 1).await.expect("checkpoints can be read"), None);
}

/// Each version has rows and a checkpoint of its own, and both stay readable.
pub async fn versions_of_a_table_are_apart(log: &dyn StoreUnderTest) {
    let open = with_rows(log, &names(), vec![row(1, "ada")]).await;
    let second = TableSpec { version: 2, ..names() };

    open.store.prepare_table(&second).await.expect("a table of another version can be made");
    assert_eq!(load(&*open.store, &second).await, None);
    let save = CheckpointSave { upserts: vec![row(2, "bob")], ..save_at(&open, &second, None, 7) };
    open.store.save_checkpoint(save).await.expect("rows can be saved");

    assert_eq!(load(&*open.store, &names()).await, Some((checkpoint_at(&open, &names(), 1), vec![row(1, "ada")])));
    assert_eq!(load(&*open.store, &second).await, Some((checkpoint_at(&open, &second, 7), vec![row(2, "bob")])));
    open.store.prepare_table(&names()).await.expect("a step back is a start like any other");
    assert_eq!(rows(&*open.store, &names()).await, [row(1, "ada")]);
}

/// Whatever the taker of the rows says is what the load returns.
pub async fn an_error_of_whoever_takes_the_rows_ends_the_load(log: &dyn StoreUnderTest) {
    let open = with_rows(log, &names(), (0..10).map(|id| row(id, "x")).collect()).await;
    let mut taken = 0;
    let mut refuse = |_| {
        taken += 1;
        if taken == 3 { Err(StoreError::Corrupt { what: "as asked".into() }) } else { Ok(()) }
    };

    let error = open.store.load_table(&names(), &mut refuse).await.expect_err("the third row was refused");

    assert!(matches!(&error, StoreError::Corrupt { what } if what == "as asked"), "found {error:?}");
    assert_eq!(taken, 3);
    assert_eq!(rows(&*open.store, &names()).await.len(), 10, "the store goes on as before");
}

/// 5,000 rows, more than a statement of some databases has room for, are saved and changed as one.
pub async fn a_save_of_5_000_rows_is_kept_whole(log: &dyn StoreUnderTest) {
    let open = with_rows(log, &names(), (0..5_000).map(|id| row(id, &format!("name {id}"))).collect()).await;
    let table = names();
    assert_eq!(rows(&*open.store, &table).await.len(), 5_000);

    let save = CheckpointSave {
        upserts: (0..2_500).map(|id| row(id * 2, "even")).collect(),
        deletes: (0..2_500).map(|id| Value::BigInt(id * 2 + 1)).collect(),
        ..save_at(&open, &table, Some(1), 2)
    };
    open.store.save_checkpoint(save).await.expect("rows can be changed");

    let left = rows(&*open.store, &names()).await;
    assert_eq!(left.len(), 2_500);
    assert!(left.iter().all(|row| row[1] == Value::Text("even".into())), "{:?}", left.first());
}

/// Rows and checkpoint that are loaded belong together, however fast they change.
pub async fn rows_and_checkpoint_are_loaded_as_of_one_instant(log: &dyn StoreUnderTest) {
    let open = with_rows(log, &names(), (0..50).map(|id| row(id, "1")).collect()).await;
    let store = log.open().await;
    let (table, reader) = (names(), tokio::spawn(read_until(store, 40)));

    for position in 2..=40 {
        let upserts = (0..50).map(|id| row(id, &position.to_string())).collect();
        let save = CheckpointSave { upserts, ..save_at(&open, &table, Some(position - 1), position) };
        open.store.save_checkpoint(save).await.expect("rows can be changed");
        tokio::task::yield_now().await;
    }

    reader.await.expect("the reader met no mixture");
}

/// Loads [`names`] until its checkpoint is at `last`; every row's name must be the position of the checkpoint.
async fn read_until(store: SharedStore, last: u64) {
    loop {
        let (checkpoint, rows) = load(&*store, &names()).await.expect("there is a checkpoint");
        let name = Value::Text(checkpoint.position.to_string());
        assert_eq!(rows.len(), 50);
        assert_eq!(rows.iter().find(|row| row[1] != name), None, "a row of another position than {name:?}");
        if checkpoint.position.0 == last {
            return;
        }
        tokio::task::yield_now().await;
    }
}
