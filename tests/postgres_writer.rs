//! What the writer of a Postgres log promises when servers, connections and other writers interfere.

#[path = "support/log.rs"]
mod log;
#[path = "support/postgres.rs"]
mod postgres;

use std::time::Duration;

use essaim::prelude::*;
use essaim::store::postgres::PostgresOptions;
use essaim::store::{Batch, ClaimChanges, Epoch, LogFilter, LogWriter, Outcome, StoredOutcome, TakeOver};
use log::{ME, OTHER, batch, recorded_at, stream};
use postgres::{Cluster, Database};
use sqlx::{Connection, Executor, PgConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

async fn fresh() -> (Database, PostgresStore) {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url).await.unwrap();
    (database, store)
}

async fn writer(store: &PostgresStore, id: Uuid) -> Box<dyn LogWriter> {
    store.open_writer(id, TakeOver::OnlyDead).await.unwrap()
}

/// Waits until the query returns true; fails loudly after twenty seconds.
async fn until(connection: &mut PgConnection, condition: &'static str) {
    for _ in 0..2_000 {
        if sqlx::query_scalar::<_, bool>(condition).fetch_one(&mut *connection).await.unwrap() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("in vain waited for: {condition}");
}

const AN_APPEND_WAITS: &str = "
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%INSERT INTO essaim_events%'
    )";

const A_RECLAIM_WAITS: &str = "
    SELECT EXISTS (
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%epoch = epoch + 1%'
    )";

const KILL_WRITERS: &str = "
    SELECT count(pg_terminate_backend(pid))
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'essaim-writer-%'";

#[tokio::test]
async fn a_large_batch_with_outcomes_is_read_back_byte_for_byte() {
    let (_database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let mut batch = batch(writer.head(), 2_500);
    batch.outcomes = vec![StoredOutcome {
        command_id: CommandId(Uuid::from_u128(7)),
        fingerprint: [7; 32],
        outcome: Outcome::Rejected { version: Version(3), position: GlobalPosition(2), rejection: "{ \"a\":1}".into() },
        recorded_at: recorded_at(),
        internal: false,
    }];

    writer.append(&batch).await.unwrap();

    let page = store.read_log(GlobalPosition::START, 10_000, &LogFilter::default()).await.unwrap();
    assert_eq!(page.events, *batch.events);
    assert_eq!((page.scanned_to, page.head), (GlobalPosition(2_500), GlobalPosition(2_500)));
    assert_eq!(store.read_outcomes(&[CommandId(Uuid::from_u128(7))]).await.unwrap(), batch.outcomes);
    let head = store.head().await.unwrap();
    assert_eq!((head.batch, head.chain_hash), (batch.id, batch.events[2_499].hash));
}

#[tokio::test]
async fn recorded_events_can_neither_be_changed_nor_removed() {
    let (database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    writer.append(&batch(writer.head(), 1)).await.unwrap();
    let mut connection = database.connection().await;

    for sql in ["UPDATE essaim_events SET data = '{}'", "DELETE FROM essaim_events", "TRUNCATE essaim_events"] {
        let refused = connection.execute(sql).await.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{sql}: {refused}");
    }
    assert_eq!(store.read_stream(&stream(), Version(0), 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn commits_that_a_crash_could_lose_are_refused_at_the_start_and_at_every_reclaim_unless_they_are_allowed() {
    let (database, store) = fresh().await;
    let mut early = writer(&store, ME).await;
    let weaken = format!("ALTER DATABASE {} SET synchronous_commit = local", database.name());
    database.connection().await.execute(sqlx::AssertSqlSafe(weaken)).await.unwrap();

    let at_reclaim = early.reclaim().await.unwrap_err().to_string();
    drop(early);
    let at_start = store.open_writer(ME, TakeOver::OnlyDead).await.err().unwrap().to_string();
    let options = PostgresOptions::parse(&database.url).unwrap().allow_weak_durability(true);
    let allowed = PostgresStore::open_with(options).await.unwrap();

    let expected = "commits here would not survive a crash: synchronous_commit is local, it must be on or remote_apply";
    assert_eq!([at_reclaim.as_str(), at_start.as_str()], [expected; 2]);
    let mut writer = writer(&allowed, ME).await;
    writer.append(&batch(writer.head(), 1)).await.unwrap();
    assert!(allowed.durability().await.unwrap().contains(&("synchronous_commit".into(), "local".into())));
}

#[tokio::test]
async fn a_server_that_does_not_wait_for_its_disk_is_refused() {
    let cluster = Cluster::start(&["fsync=off"]);
    let database = Database::on(&cluster.url()).await;
    let store = PostgresStore::open(&database.url).await.unwrap();

    let refused = store.open_writer(ME, TakeOver::Force).await.err().unwrap();

    assert!(matches!(&refused, StoreError::WeakDurability { setting, .. } if setting == "fsync"), "{refused}");
}

#[tokio::test]
async fn a_second_writer_is_refused_by_the_first_ones_name_until_that_gives_the_log_back() {
    let (database, store) = fresh().await;
    let second = PostgresStore::open(&database.url).await.unwrap();
    let first = writer(&store, ME).await;
    let pid: i32 = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1",
    )
    .bind(format!("essaim-writer-{ME}"))
    .fetch_one(&mut database.connection().await)
    .await
    .unwrap();

    let refused = second.open_writer(OTHER, TakeOver::OnlyDead).await.err().unwrap();
    first.release().await;
    let taken = writer(&second, OTHER).await;

    let StoreError::Held { holder } = &refused else { panic!("{refused:?}") };
    assert!(holder.contains(&format!("backend {pid} ")) && holder.contains("since 20"), "{holder}");
    assert_eq!((taken.head().epoch, taken.head().writer), (Epoch(2), OTHER));
}

#[tokio::test]
async fn looking_for_a_living_writer_does_not_hold_it_up() {
    let (database, store) = fresh().await;
    let second = PostgresStore::open(&database.url).await.unwrap();
    let mut first = writer(&store, ME).await;

    let mut refusing = Box::pin(second.open_writer(OTHER, TakeOver::OnlyDead));
    let mut head = first.head().clone();
    let refused = loop {
        tokio::select! {
            biased;
            refused = &mut refusing => break refused,
            () = tokio::task::yield_now() => {}
        }
        first.append(&batch(&head, 1)).await.unwrap();
        head = store.head().await.unwrap();
    };

    assert!(matches!(refused.err(), Some(StoreError::Held { .. })));
    assert!(head.position > GlobalPosition(1), "only {} appends went by", head.position);
}

#[tokio::test]
async fn of_two_writers_that_start_at_once_one_gets_the_log_and_the_other_is_refused() {
    let (database, store) = fresh().await;
    let second = PostgresStore::open(&database.url).await.unwrap();

    let (one, other) =
        tokio::join!(store.open_writer(ME, TakeOver::OnlyDead), second.open_writer(OTHER, TakeOver::OnlyDead));

    let refused = match (one, other) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        (Ok(_), Ok(_)) => panic!("both got the log"),
        (Err(one), Err(other)) => panic!("nobody got the log: {one}; {other}"),
    };
    assert!(matches!(refused, StoreError::Held { .. }), "{refused}");
    assert_eq!(store.head().await.unwrap().epoch, Epoch(1));
}

#[tokio::test]
async fn a_writer_that_vanished_without_a_word_is_replaced_at_once() {
    let (_database, store) = fresh().await;
    drop(writer(&store, ME).await);

    let successor = writer(&store, OTHER).await;

    assert_eq!((successor.head().epoch, successor.head().writer), (Epoch(2), OTHER));
}

#[tokio::test]
async fn a_writer_that_was_taken_over_by_force_can_neither_append_nor_come_back() {
    let (_database, store) = fresh().await;
    let mut old = writer(&store, ME).await;
    let stale = batch(old.head(), 1);

    let mut new = store.open_writer(OTHER, TakeOver::Force).await.unwrap();

    let fenced = StoreError::Fenced { mine: Epoch(1), found: Epoch(2) }.to_string();
    assert_eq!(old.append(&stale).await.unwrap_err().to_string(), fenced);
    assert_eq!(old.check_fence(Epoch(1), Uuid::nil()).await.unwrap_err().to_string(), fenced);
    assert_eq!(old.reclaim().await.unwrap_err().to_string(), fenced);
    new.append(&batch(new.head(), 1)).await.unwrap();
    old.release().await;
    assert_eq!(store.head().await.unwrap().writer, OTHER);
}

#[tokio::test]
async fn what_was_sent_before_a_reclaim_cannot_commit_behind_it() {
    let (_database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let late = batch(writer.head(), 1);

    let head = writer.reclaim().await.unwrap();

    let fenced = writer.append(&late).await.unwrap_err();
    assert_eq!(fenced.to_string(), StoreError::Fenced { mine: Epoch(1), found: Epoch(2) }.to_string());
    writer.append(&Batch { epoch: head.epoch, ..late }).await.unwrap();
}

#[tokio::test]
async fn an_append_whose_connection_is_killed_is_unknown_and_the_reclaim_says_that_it_is_not_in() {
    let (database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let batch = batch(writer.head(), 1);
    let mut other = database.connection().await;
    let mut lock = other.begin().await.unwrap();
    lock.execute("SELECT FROM essaim_head FOR UPDATE").await.unwrap();

    let appending = async { (writer.append(&batch).await, writer) };
    let killing = async {
        let mut operator = database.connection().await;
        until(&mut operator, AN_APPEND_WAITS).await;
        operator.execute(KILL_WRITERS).await.unwrap();
    };
    let ((unknown, mut writer), ()) = tokio::join!(appending, killing);
    lock.rollback().await.unwrap();

    assert!(matches!(unknown, Err(StoreError::Unknown { .. })), "{unknown:?}");
    let head = writer.reclaim().await.unwrap();
    assert_eq!((head.position, head.epoch, head.batch), (GlobalPosition(0), Epoch(2), Uuid::nil()));
    writer.append(&Batch { epoch: head.epoch, ..batch }).await.unwrap();
}

#[tokio::test]
async fn an_append_that_was_given_up_while_it_waits_is_settled_by_the_reclaim_behind_it() {
    let (database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let batch = batch(writer.head(), 1);
    let (mut other, mut observer) = (database.connection().await, database.connection().await);
    let mut lock = other.begin().await.unwrap();
    lock.execute("SELECT FROM essaim_head FOR UPDATE").await.unwrap();

    let mut appending = Box::pin(writer.append(&batch));
    tokio::select! {
        biased;
        done = &mut appending => panic!("the head is locked, but {done:?}"),
        () = until(&mut observer, AN_APPEND_WAITS) => {}
    }
    drop(appending);
    let refused = writer.append(&batch).await;
    let unlocking = async {
        until(&mut observer, A_RECLAIM_WAITS).await;
        lock.rollback().await.unwrap();
    };
    let (head, ()) = tokio::join!(writer.reclaim(), unlocking);

    // The old statement stood first in line: it is in, and the reclaim behind it knows.
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    let head = head.unwrap();
    assert_eq!((head.position, head.epoch, head.batch), (GlobalPosition(1), Epoch(2), batch.id));
    assert_eq!(store.head().await.unwrap(), head);
}

/// A way to the server that can swallow what the server says, and then hang up.
async fn start_proxy(database: &Database, deaf: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = database.url.clone();
    let proxied = postgres::with_address(&url, &listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(postgres::address(&url)).await.unwrap();
            tokio::spawn(forward(client, server, deaf.clone()));
        }
    });
    proxied
}

async fn forward(client: TcpStream, server: TcpStream, deaf: watch::Receiver<bool>) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = tokio::io::AsyncReadExt::read(&mut from_server, &mut buffer).await {
        if *deaf.borrow() || to_client.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn an_append_whose_answer_is_lost_is_unknown_and_the_reclaim_says_that_it_is_in() {
    let database = Database::fresh().await;
    let (deafen, deaf) = watch::channel(false);
    let store = PostgresStore::open(&start_proxy(&database, deaf).await).await.unwrap();
    let mut writer = writer(&store, ME).await;
    writer.append(&batch(writer.head(), 1)).await.unwrap();
    let batch = batch(&store.head().await.unwrap(), 1);

    deafen.send_replace(true);
    let unknown = writer.append(&batch).await;
    let cut_off = writer.reclaim().await;
    deafen.send_replace(false);
    let head = writer.reclaim().await.unwrap();

    assert!(matches!(unknown, Err(StoreError::Unknown { .. })), "{unknown:?}");
    assert!(matches!(cut_off, Err(StoreError::Unavailable { .. })), "{cut_off:?}");
    assert_eq!((head.position, head.batch), (GlobalPosition(2), batch.id));
}

#[tokio::test]
async fn a_commit_with_claims_whose_answer_is_lost_is_unknown_and_the_reclaim_says_that_it_is_in() {
    let database = Database::fresh().await;
    let (deafen, deaf) = watch::channel(false);
    let store = PostgresStore::open(&start_proxy(&database, deaf).await).await.unwrap();
    let mut writer = writer(&store, ME).await;
    let claim = Claim::new("name", "ada");
    let claims = ClaimChanges { take: vec![(claim.clone(), stream())], ..ClaimChanges::default() };
    let batch = Batch { claims, ..batch(writer.head(), 1) };
    // The commit is slow enough to be seen, and only then the connection goes deaf.
    let slow = "
        CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON essaim_events
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()";
    let mut operator = database.connection().await;
    operator.execute(sqlx::raw_sql(slow)).await.unwrap();
    operator.execute("SELECT pg_advisory_lock(42)").await.unwrap();

    let deafening = async {
        until(
            &mut operator,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event_type = 'Lock')",
        )
        .await;
        deafen.send_replace(true);
        operator.execute("SELECT pg_advisory_unlock(42)").await.unwrap();
    };
    let (unknown, ()) = tokio::join!(writer.append(&batch), deafening);
    deafen.send_replace(false);
    let head = writer.reclaim().await.unwrap();

    assert!(matches!(unknown, Err(StoreError::Unknown { .. })), "{unknown:?}");
    assert_eq!((head.position, head.batch), (GlobalPosition(1), batch.id));
    assert_eq!(store.claim_holders(std::slice::from_ref(&claim)).await.unwrap(), [(claim, stream())]);
}

#[tokio::test]
async fn an_error_of_the_commit_itself_leaves_nothing_and_is_no_success() {
    let (database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let batch = batch(writer.head(), 2);
    // The row that says "appended" reaches the client before this constraint is checked.
    let late = "
        CREATE TABLE parents (id bigint PRIMARY KEY);
        ALTER TABLE essaim_events ADD CONSTRAINT parent FOREIGN KEY (position) REFERENCES parents
            DEFERRABLE INITIALLY DEFERRED";
    database.connection().await.execute(sqlx::raw_sql(late)).await.unwrap();

    let refused = writer.append(&batch).await;

    assert!(matches!(refused, Err(StoreError::Data { .. })), "{refused:?}");
    assert_eq!(store.head().await.unwrap().position, GlobalPosition(0));
}

#[tokio::test]
async fn a_value_that_cannot_be_stored_takes_nothing_of_its_batch_along_and_leaves_the_writer_usable() {
    let (_database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let good = batch(writer.head(), 2);
    let spoilt = |spoil: fn(&mut RecordedEvent)| {
        let mut events = good.events.to_vec();
        spoil(&mut events[1]);
        Batch { events: events.into(), ..good.clone() }
    };
    let bad = [
        spoilt(|event| event.json = "{\"name\":\"secret\0\"}".into()),
        spoilt(|event| event.json = "{\"name\":secret".into()),
        // A B-tree entry holds at most 2,704 bytes, after compression.
        spoilt(|event| event.stream = StreamId::new("account", &incompressible(9_000))),
    ];

    for batch in bad {
        let refused = writer.append(&batch).await.unwrap_err();
        assert!(matches!(refused, StoreError::Data { .. }), "{refused:?}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
    }

    assert_eq!(store.head().await.unwrap().position, GlobalPosition(0));
    writer.append(&good).await.unwrap();
}

fn incompressible(bytes: usize) -> String {
    let mut hash = essaim::event::ChainHash::START;
    let mut text = String::new();
    while text.len() < bytes {
        let mut event = batch(&head_at(text.len() as u64), 1).events[0].clone();
        event.hash = hash;
        hash = hash.extended_by(&event);
        text.push_str(&hash.to_string());
    }
    text
}

fn head_at(position: u64) -> essaim::store::Head {
    essaim::store::Head {
        position: GlobalPosition(position),
        epoch: Epoch(1),
        writer: ME,
        batch: Uuid::nil(),
        chain_hash: essaim::event::ChainHash::START,
        recorded_at: recorded_at(),
        log_id: Uuid::nil(),
    }
}

#[tokio::test]
async fn a_version_that_exists_and_a_gap_in_the_positions_are_conflicts_of_nothing_executed() {
    let (_database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    writer.append(&batch(writer.head(), 1)).await.unwrap();
    let head = store.head().await.unwrap();
    let mut again = batch(&head, 1).events.to_vec();
    again[0].version = Version(1);
    let gap = essaim::store::Head { position: GlobalPosition(4), ..head.clone() };

    for batch in [Batch { events: again.into(), ..batch(&head, 1) }, batch(&gap, 1)] {
        let conflict = writer.append(&batch).await;
        assert!(matches!(conflict, Err(StoreError::Conflict { .. })), "{conflict:?}");
    }

    assert_eq!(store.head().await.unwrap(), head);
}

#[tokio::test]
async fn all_lost_claims_of_a_batch_are_named_at_once_those_to_be_transferred_too() {
    let (_database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let [ada, bea, cyd] = ["ada", "bea", "cyd"].map(|key| StreamId::new("account", key));
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| Claim::new("name", name));
    let take = vec![(a.clone(), ada.clone()), (b.clone(), ada.clone()), (c.clone(), ada.clone())];
    let claims = ClaimChanges { take, ..ClaimChanges::default() };
    writer.append(&Batch { claims, ..batch(writer.head(), 1) }).await.unwrap();
    let head = store.head().await.unwrap();

    let claims = ClaimChanges {
        take: vec![(a.clone(), bea.clone()), (d.clone(), bea.clone())],
        release: vec![(c.clone(), ada.clone())],
        transfer: vec![(b.clone(), cyd, bea)],
    };
    let refused = writer.append(&Batch { claims, ..batch(&head, 1) }).await;

    let Err(StoreError::ClaimsTaken { claims: mut lost }) = refused else { panic!("{refused:?}") };
    lost.sort_by(|x, y| x.value.cmp(&y.value));
    assert_eq!(lost, [a.clone(), b.clone()]);
    assert_eq!(store.head().await.unwrap(), head);
    assert_eq!(store.claim_holders(&[c.clone(), d]).await.unwrap(), [(c, ada)]);
}

#[tokio::test]
async fn a_locked_head_makes_an_append_unavailable_and_the_next_one_goes_through() {
    let (database, store) = fresh().await;
    let mut writer = writer(&store, ME).await;
    let batch = batch(writer.head(), 1);
    let mut other = database.connection().await;
    let mut lock = other.begin().await.unwrap();
    lock.execute("SELECT FROM essaim_head FOR UPDATE").await.unwrap();

    let refused = writer.append(&batch).await;
    lock.rollback().await.unwrap();

    assert!(matches!(refused, Err(StoreError::Unavailable { .. })), "{refused:?}");
    writer.append(&batch).await.unwrap();
}

#[tokio::test]
async fn after_a_crash_of_the_server_nothing_answered_is_lost_and_everybody_comes_back() {
    let cluster = Cluster::start(&[]);
    let database = Database::on(&cluster.url()).await;
    let store = PostgresStore::open(&database.url).await.unwrap();
    let mut writer = writer(&store, ME).await;
    writer.append(&batch(writer.head(), 3)).await.unwrap();
    // Several connections stand in the pool when the server goes.
    let reads = (0..8).map(|_| store.head());
    futures::future::join_all(reads).await;

    cluster.crash();
    let next = Batch { previous: Uuid::from_u128(1_000_000), ..batch(&head_at(3), 1) };
    let refused = writer.append(&next).await;
    let down = writer.reclaim().await;
    cluster.restart();
    let head = writer.reclaim().await.unwrap();

    assert!(matches!(refused, Err(StoreError::Unknown { .. })), "{refused:?}");
    assert!(matches!(down, Err(StoreError::Unavailable { .. })), "{down:?}");
    assert_eq!((head.position, head.epoch), (GlobalPosition(3), Epoch(2)));
    writer.append(&batch(&head, 1)).await.unwrap();
    let account = stream();
    let reads = (0..16).map(|_| store.read_stream(&account, Version(0), 9));
    for read in futures::future::join_all(reads).await {
        assert_eq!(read.unwrap().len(), 4);
    }
}
