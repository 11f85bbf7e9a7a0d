//! This file tests what only SQLite has: the file, its pragmas, the lock beside it, and its triggers. What every store
//! promises is tested by the conformance suite.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use chrono::DateTime;
use tempfile::TempDir;

use super::*;
use crate::event::{ChainHash, Metadata};
use crate::projections::{Column, ColumnKind, Value};
use crate::store::{Batch, ClaimChanges, Epoch};
use crate::testing::whole_log;

const ME: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);

struct Fixture {
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log.db")
    }

    async fn store(&self) -> SqliteStore {
        SqliteStore::open(self.path()).await.unwrap()
    }

    /// Another program's hands on the file.
    async fn connection(&self) -> SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(self.path()).create_if_missing(true);
        options.connect().await.unwrap()
    }
}

/// A batch of `count` events on one stream, right behind `head`.
fn batch(head: &Head, count: u64) -> Batch {
    let recorded_at = DateTime::from_timestamp(1_800_000_000, 123_456_000).unwrap();
    let mut hash = head.chain_hash;
    let events = (1..=count).map(|n| {
        let mut event = RecordedEvent {
            position: GlobalPosition(head.position.0 + n),
            event_id: Uuid::from_u128((head.position.0 + n).into()),
            stream: StreamId::new("account", "ada"),
            version: Version(head.position.0 + n),
            event_type: Cow::Borrowed("Deposited"),
            schema_version: 1,
            json: r#"{"cents":5}"#.into(),
            metadata: Metadata::from_json("{}"),
            recorded_at,
            hash: ChainHash::START,
            decoded: None,
        };
        hash = hash.extended_by(&event);
        event.hash = hash;
        event
    });
    Batch {
        epoch: head.epoch,
        previous: head.batch,
        id: Uuid::from_u128(u128::from(head.position.0) + 1_000),
        events: events.collect(),
        claims: ClaimChanges::default(),
        outcomes: Vec::new(),
        recorded_at,
    }
}

#[tokio::test]
async fn every_connection_that_writes_waits_for_the_disk() {
    let fixture = Fixture::new();

    let durability = fixture.store().await.durability().await.unwrap();

    let expected = [("journal_mode", "wal"), ("synchronous", "full")];
    assert_eq!(durability[..2], expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let (name, version) = &durability[2];
    assert!(name == "sqlite_version" && version.starts_with("3."), "{durability:?}");
}

#[tokio::test]
async fn commits_that_a_crash_could_lose_are_refused_unless_they_are_allowed() {
    let fixture = Fixture::new();
    let options = SqliteOptions::new(fixture.path()).synchronous(Synchronous::Normal);

    let refused = SqliteStore::open_with(options.clone()).await.unwrap_err();
    let allowed = SqliteStore::open_with(options.allow_weak_durability(true)).await.unwrap();

    assert!(
        matches!(&refused, StoreError::WeakDurability { setting, found, .. } if setting == "synchronous" && found == "normal"),
        "{refused}"
    );
    assert_eq!(allowed.durability().await.unwrap()[1].1, "normal");
}

#[tokio::test]
async fn a_second_writer_is_refused_by_name_until_the_first_is_gone() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.store().await, fixture.store().await);
    let writer = first.open_writer(ME, TakeOver::OnlyDead).await.unwrap();

    let refused = second.open_writer(OTHER, TakeOver::OnlyDead).await.err().unwrap();
    writer.release().await;
    let writer = second.open_writer(OTHER, TakeOver::OnlyDead).await.unwrap();

    assert!(matches!(refused, StoreError::Held { .. }), "{refused}");
    assert_eq!((writer.head().epoch, writer.head().writer), (Epoch(2), OTHER));
}

/// Starts this test program again as the writer of a database, which says what it has committed.
fn start_writer_process(database: &Path) -> (Child, impl Iterator<Item = GlobalPosition> + use<>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::sqlite::tests::be_the_writer_of_another_process", "--ignored", "--nocapture"])
        .env("ESSAIM_TEST_DATABASE", database)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let committed = lines.filter_map(|line| line.strip_prefix("committed ")?.parse().ok().map(GlobalPosition));
    (child, committed)
}

#[tokio::test]
#[ignore = "the other process of the test below"]
async fn be_the_writer_of_another_process() {
    let Ok(database) = std::env::var("ESSAIM_TEST_DATABASE") else { return };
    let store = SqliteStore::open(database).await.unwrap();
    let mut writer = store.open_writer(OTHER, TakeOver::OnlyDead).await.unwrap();
    let mut head = writer.head().clone();
    // Ends by itself when nobody kills it.
    while head.position < GlobalPosition(100_000) {
        let batch = batch(&head, 3);
        writer.append(&batch).await.unwrap();
        let last = batch.events.last().unwrap();
        (head.position, head.chain_hash, head.batch) = (last.position, last.hash, batch.id);
        println!("committed {}", head.position);
    }
}

#[tokio::test]
async fn a_living_process_is_left_alone_and_one_killed_without_warning_is_replaced_at_once() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let (mut child, mut committed) = start_writer_process(&fixture.path());
    committed.next().unwrap();

    let refused = store.open_writer(ME, TakeOver::OnlyDead).await.err().unwrap().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    let writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();

    assert!(refused.contains(&format!("process {}", child.id())), "{refused}");
    assert!(refused.contains("log.db-writer.lock"), "{refused}");
    assert_eq!(writer.head().epoch, Epoch(2));
}

#[tokio::test]
async fn what_a_killed_process_had_committed_is_in_the_log_whole_and_in_order() {
    let fixture = Fixture::new();
    let (mut child, mut committed) = start_writer_process(&fixture.path());
    let seen = committed.by_ref().nth(30).unwrap();

    child.kill().unwrap();
    child.wait().unwrap();
    let last_answered = committed.last().unwrap_or(seen);

    let head = fixture.store().await.open_writer(ME, TakeOver::OnlyDead).await.unwrap().head().clone();
    let events = whole_log(&fixture.store().await).await;
    let chain_hash = events.iter().fold(ChainHash::START, |hash, event| hash.extended_by(event));
    // At most one batch, as a whole, was committed and not answered.
    assert!([0, 3].contains(&(head.position.0 - last_answered.0)), "{last_answered} of {}", head.position);
    assert_eq!((events.len() as u64, chain_hash), (head.position.0, head.chain_hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_checkpoints_and_loads_at_the_same_time_fail_none() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let table = turnover();
    store.prepare_table(&table).await.unwrap();

    let appends = async {
        let mut head = writer.head().clone();
        for _ in 0..100 {
            let batch = batch(&head, 2);
            writer.append(&batch).await.unwrap();
            let last = batch.events.last().unwrap();
            (head.position, head.chain_hash, head.batch) = (last.position, last.hash, batch.id);
        }
    };
    let checkpoints = async {
        for position in 1..=50 {
            let previous = (position > 1).then(|| GlobalPosition(position - 1));
            store.save_checkpoint(save(&table, previous, position)).await.unwrap();
        }
    };
    let loads = async {
        for _ in 0..50 {
            let mut rows = 0;
            let mut count = |_| {
                rows += 1;
                Ok(())
            };
            let checkpoint = store.load_table(&table, &mut count).await.unwrap();
            // Each save adds one row: rows and position are of one instant.
            assert_eq!(checkpoint.map_or(0, |checkpoint| checkpoint.position.0), rows);
        }
    };
    tokio::join!(appends, checkpoints, loads);

    assert_eq!(store.head().await.unwrap().position, GlobalPosition(200));
}

#[tokio::test]
async fn a_writer_that_was_taken_over_by_force_can_neither_append_nor_come_back() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut old = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let stale = batch(old.head(), 1);

    let mut new = store.open_writer(OTHER, TakeOver::Force).await.unwrap();

    let fenced = StoreError::Fenced { mine: Epoch(1), found: Epoch(2) }.to_string();
    assert_eq!(old.append(&stale).await.unwrap_err().to_string(), fenced);
    assert_eq!(old.reclaim().await.unwrap_err().to_string(), fenced);
    new.append(&batch(new.head(), 1)).await.unwrap();
    assert_eq!(store.head().await.unwrap().position, GlobalPosition(1));
}

#[tokio::test]
async fn a_large_batch_is_read_back_as_it_was_written() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let batch = batch(writer.head(), 299);

    writer.append(&batch).await.unwrap();

    let page = store.read_log(GlobalPosition::START, 1_000, &LogFilter::default()).await.unwrap();
    assert_eq!(page.events, *batch.events);
    assert_eq!((page.scanned_to, page.head), (GlobalPosition(299), GlobalPosition(299)));
}

#[tokio::test]
async fn a_value_that_cannot_be_stored_takes_nothing_of_its_batch_along_and_leaves_the_writer_usable() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let good = batch(writer.head(), 2);
    let mut events = good.events.to_vec();
    events[1].json = "{\"name\":\"a\0b\"}".into();
    let bad = Batch { events: events.into(), ..good.clone() };

    let refused = writer.append(&bad).await.unwrap_err();

    assert!(matches!(refused, StoreError::Data { .. }), "{refused}");
    assert_eq!(store.head().await.unwrap().position, GlobalPosition(0));
    writer.append(&good).await.unwrap();
}

#[tokio::test]
async fn an_append_that_is_dropped_half_way_leaves_no_transaction_open() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let batch = batch(writer.head(), 1);
    // Somebody else writes, so that the append gets no further than to begin.
    let mut other = fixture.connection().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();

    let mut append = Box::pin(writer.append(&batch));
    while store.connector.try_turn().is_some() {
        assert!(futures::poll!(&mut append).is_pending());
    }
    drop(append);
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();

    let head = writer.reclaim().await.unwrap();
    assert_eq!((head.position, head.epoch), (GlobalPosition(0), Epoch(2)));
    store.prune_outcomes(batch.recorded_at).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_commit_itself_is_an_unknown_outcome_that_reclaiming_settles() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    // A deferred reference is checked by COMMIT and nowhere else.
    sqlx::raw_sql(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY);
         CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER fail_at_commit AFTER INSERT ON essaim_events BEGIN INSERT INTO children VALUES (1); END;",
    )
    .execute(&mut fixture.connection().await)
    .await
    .unwrap();
    let batch = batch(writer.head(), 2);

    let unknown = writer.append(&batch).await.unwrap_err();
    let head = writer.reclaim().await.unwrap();

    assert!(matches!(unknown, StoreError::Unknown { .. }), "{unknown:?}");
    assert_eq!((head.position, head.epoch, head.batch), (GlobalPosition(0), Epoch(2), Uuid::nil()));
    sqlx::raw_sql("DROP TRIGGER fail_at_commit").execute(&mut fixture.connection().await).await.unwrap();
    writer.append(&Batch { epoch: head.epoch, ..batch }).await.unwrap();
}

#[tokio::test]
async fn recorded_events_can_neither_be_changed_nor_removed() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    writer.append(&batch(writer.head(), 1)).await.unwrap();
    let mut connection = fixture.connection().await;

    for sql in ["UPDATE essaim_events SET data = '{}'", "DELETE FROM essaim_events"] {
        let refused = sqlx::query(sql).execute(&mut connection).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn migrations_are_recorded_in_our_own_table() {
    let fixture = Fixture::new();
    drop(fixture.store().await);
    drop(fixture.store().await);

    let tables: Vec<String> =
        sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%migrations'")
            .fetch_all(&mut fixture.connection().await)
            .await
            .unwrap();

    assert_eq!(tables, ["essaim_migrations"]);
}

#[tokio::test]
async fn two_starts_at_once_on_a_new_file_make_one_log() {
    let fixture = Fixture::new();
    drop(fixture.connection().await);

    let (one, other) = tokio::join!(SqliteStore::open(fixture.path()), SqliteStore::open(fixture.path()));

    let (one, other) = (one.unwrap().head().await.unwrap(), other.unwrap().head().await.unwrap());
    assert_eq!(one, other);
    assert_eq!(one.log_id.get_version_num(), 4);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.store().await);
    let newer = "INSERT INTO essaim_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'from the future', true, x'00', 0)";
    sqlx::query(newer).execute(&mut fixture.connection().await).await.unwrap();

    for refused in [SqliteStore::open(fixture.path()).await, SqliteStore::open_read_only(fixture.path()).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(&refused, StoreError::Schema { what } if what.contains("newer schema (9999)")), "{refused}");
    }
}

#[tokio::test]
async fn what_is_no_database_is_refused_by_name_and_left_as_it_is() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), "Dear diary, ".repeat(100)).unwrap();

    let nowhere = fixture.folder.path().join("missing").join("log.db");
    for path in [fixture.path(), nowhere.clone(), fixture.folder.path().to_owned()] {
        for refused in [SqliteStore::open(&path).await, SqliteStore::open_read_only(&path).await] {
            let refused = refused.unwrap_err();
            assert!(matches!(refused, StoreError::NotADatabase { .. }), "{refused:?}");
            let named = if path == nowhere { "missing".into() } else { path.display().to_string() };
            assert!(refused.to_string().contains(&named), "{refused}");
        }
    }
    assert!(std::fs::read_to_string(fixture.path()).unwrap().starts_with("Dear diary, "));
}

#[tokio::test]
async fn a_tool_reads_beside_the_writer_and_writes_nothing() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();

    let tool = SqliteStore::open_read_only(fixture.path()).await.unwrap();
    writer.append(&batch(writer.head(), 3)).await.unwrap();

    assert_eq!(tool.read_stream(&StreamId::new("account", "ada"), Version(1), 9).await.unwrap().len(), 2);
    assert!(tool.prepare_table(&turnover()).await.is_err());
    assert!(tool.open_writer(OTHER, TakeOver::Force).await.is_err());
    assert_eq!(store.head().await.unwrap().epoch, Epoch(1));
}

#[tokio::test]
async fn a_tool_creates_no_database() {
    let fixture = Fixture::new();

    let missing = SqliteStore::open_read_only(fixture.path()).await.unwrap_err();
    assert!(matches!(missing, StoreError::NotADatabase { .. }), "{missing}");
    assert!(!fixture.path().exists());

    sqlx::query("CREATE TABLE mine (id INTEGER)").execute(&mut fixture.connection().await).await.unwrap();
    let foreign = SqliteStore::open_read_only(fixture.path()).await.unwrap_err();
    assert!(matches!(foreign, StoreError::NotADatabase { .. }), "{foreign}");
}

const COLUMNS: &[Column] = &[Column::required("id", ColumnKind::Text), Column::nullable("amount", ColumnKind::Numeric)];

fn turnover() -> TableSpec {
    TableSpec { projection: "turnover".into(), view: "turnover_query".into(), version: 1, columns: COLUMNS }
}

fn save(table: &TableSpec, previous: Option<GlobalPosition>, position: u64) -> CheckpointSave<'_> {
    CheckpointSave {
        table,
        previous,
        checkpoint: Checkpoint {
            projection: table.projection.clone(),
            version: table.version,
            position: GlobalPosition(position),
            chain_hash: ChainHash::START,
            epoch: Epoch(1),
            saved_at: DateTime::UNIX_EPOCH,
        },
        upserts: vec![vec![Value::Text(format!("row {position}")), Value::Numeric("12.50".into())]],
        deletes: Vec::new(),
        replace_all: false,
    }
}

#[tokio::test]
async fn a_checkpoint_whose_caller_is_dropped_is_saved_or_not_but_never_left_open() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    store.prepare_table(&turnover()).await.unwrap();

    let table = turnover();
    let mut saving = Box::pin(store.save_checkpoint(save(&table, None, 1)));
    assert!(futures::poll!(&mut saving).is_pending());
    drop(saving);

    // The task goes on alone; the next save waits for its turn behind it.
    store.save_checkpoint(save(&table, Some(GlobalPosition(1)), 2)).await.unwrap();
    let mut rows = 0;
    let checkpoint = store
        .load_table(&table, &mut |_| {
            rows += 1;
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!((checkpoint.unwrap().position, rows), (GlobalPosition(2), 2));
}

#[tokio::test]
async fn other_programs_see_typed_columns_in_the_view_of_the_version_in_force() {
    let fixture = Fixture::new();
    let store = fixture.store().await;
    for version in [1, 2] {
        let table = TableSpec { version, ..turnover() };
        store.prepare_table(&table).await.unwrap();
        store.save_checkpoint(save(&table, None, version.into())).await.unwrap();
    }

    let rows: Vec<(String, String)> = sqlx::query_as("SELECT id, amount FROM turnover_query")
        .fetch_all(&mut fixture.connection().await)
        .await
        .unwrap();

    assert_eq!(rows, [("row 2".to_owned(), "12.50".to_owned())]);
}

#[tokio::test]
async fn names_that_are_no_plain_sql_names_make_no_tables() {
    let fixture = Fixture::new();
    let store = fixture.store().await;

    for view in ["Payments", "a\"; DROP TABLE essaim_events", "", "essaim_events", "sqlite_x", &"v".repeat(61)] {
        let refused = store.prepare_table(&TableSpec { view: view.into(), ..turnover() }).await.unwrap_err();
        assert!(matches!(refused, StoreError::Schema { .. }), "{view}: {refused}");
    }
}
