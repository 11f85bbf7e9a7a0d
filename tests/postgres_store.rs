//! What only a Postgres store has: addresses, schemas, roles, migrations, pages of the log by COPY.

#[path = "support/log.rs"]
mod log;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "support/turnover.rs"]
mod turnover;

use std::error::Error;
use std::sync::Arc;

use essaim::prelude::*;
use essaim::store::postgres::PostgresOptions;
use essaim::store::{Epoch, LogFilter, TakeOver};
use essaim::testing::BatchBuilder;
use log::{ME, OTHER, batch, save, stream};
use postgres::{Cluster, Database, PASSWORD, address, with_address, with_database};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use turnover::turnover;

async fn fresh() -> (Database, PostgresStore) {
    let database = Database::fresh().await;
    let store = PostgresStore::open(&database.url).await.unwrap();
    (database, store)
}

fn read_only(url: &str) -> PostgresOptions {
    PostgresOptions::parse(url).unwrap().read_only()
}

/// Everything that a program could print of an error.
fn all_of(error: &StoreError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_refused_with_what_to_do_and_without_the_password() {
    let cluster = Cluster::start(&[]);
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = deaf.local_addr().unwrap().to_string();
    drop(deaf);
    let encoded = PASSWORD.replace(' ', "%20");

    let missing = PostgresStore::open(&with_database(&cluster.url(), "nowhere")).await.unwrap_err();
    let wrong = PostgresStore::open(&cluster.url().replace(&encoded, "guessed")).await.unwrap_err();
    let unknown = PostgresStore::open(&cluster.url().replace("postgres:", "mysql:")).await.unwrap_err();
    let nobody = PostgresStore::open(&with_address(&cluster.url(), &closed)).await.unwrap_err();

    assert!(matches!(missing, StoreError::NotADatabase { .. }), "{missing:?}");
    assert!(
        missing.to_string().contains("\"nowhere\" does not exist") && missing.to_string().contains("createdb nowhere")
    );
    assert!(matches!(wrong, StoreError::NotADatabase { .. }), "{wrong:?}");
    assert!(wrong.to_string().contains("user \"postgres\"") && wrong.to_string().contains("password"), "{wrong}");
    assert!(matches!(unknown, StoreError::NotADatabase { .. }), "{unknown:?}");
    assert!(matches!(nobody, StoreError::Unavailable { .. }), "{nobody:?}");
    assert!(all_of(&nobody).contains(&closed), "{nobody:?}");
    for error in [missing, wrong, unknown, nobody] {
        let text = all_of(&error);
        assert!(![PASSWORD, &encoded, "guessed"].iter().any(|secret| text.contains(secret)), "{text}");
    }
}

#[tokio::test]
async fn what_answers_but_is_no_postgres_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://ada@{}/essaim", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });

    let refused = PostgresStore::open(&url).await.unwrap_err();

    assert!(matches!(refused, StoreError::NotADatabase { .. }), "{refused:?}");
    assert!(refused.to_string().contains("no Postgres server"), "{refused}");
}

#[tokio::test]
async fn a_store_tells_where_it_is_and_keeps_its_password() {
    let (database, store) = fresh().await;

    let (said, debugged) = (store.describe(), format!("{store:?}"));

    assert!(said.starts_with("postgres://") && said.ends_with(&format!("/{}", database.name())), "{said}");
    assert!(![&said, &debugged].iter().any(|text| text.contains("essaim test") || text.contains('@')), "{debugged}");
}

#[tokio::test]
async fn two_starts_at_once_on_an_empty_database_make_one_log() {
    let database = Database::fresh().await;

    let (one, other) = tokio::join!(PostgresStore::open(&database.url), PostgresStore::open(&database.url));

    let (one, other) = (one.unwrap().head().await.unwrap(), other.unwrap().head().await.unwrap());
    assert_eq!(one, other);
    assert_eq!(one.log_id.get_version_num(), 4);
    let tables: Vec<String> =
        sqlx::query_scalar("SELECT tablename::text FROM pg_tables WHERE tablename LIKE '%migrations'")
            .fetch_all(&mut database.connection().await)
            .await
            .unwrap();
    assert_eq!(tables, ["essaim_migrations"]);
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (database, store) = fresh().await;
    drop(store);
    let newer = "INSERT INTO essaim_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'from the future', true, 'x', 0)";
    database.connection().await.execute(newer).await.unwrap();

    let (daemon, tool) =
        (PostgresStore::open(&database.url).await, PostgresStore::open_with(read_only(&database.url)).await);

    for refused in [daemon.unwrap_err(), tool.unwrap_err()] {
        assert!(matches!(&refused, StoreError::Schema { what } if what.contains("newer schema (9999)")), "{refused}");
    }
}

#[tokio::test]
async fn two_schemas_of_one_database_hold_two_logs() {
    let database = Database::fresh().await;
    let mut connection = database.connection().await;
    connection.execute(sqlx::raw_sql("CREATE SCHEMA a; CREATE SCHEMA b")).await.unwrap();
    let in_schemas = |path: &str| format!("{}?options[search_path]={path}", database.url);

    // A log in a later schema of the path is another log.
    let public = PostgresStore::open(&database.url).await.unwrap();
    let a = PostgresStore::open(&in_schemas("a,public")).await.unwrap();
    let b = PostgresStore::open(&in_schemas("b")).await.unwrap();
    let nowhere = PostgresStore::open(&in_schemas("c")).await.unwrap_err();

    let mut writer = a.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    writer.append(&batch(writer.head(), 2)).await.unwrap();
    a.prepare_table(&turnover(1)).await.unwrap();
    let positions = [public.head().await.unwrap(), a.head().await.unwrap(), b.head().await.unwrap()];
    assert_eq!(positions.map(|head| head.position.0), [0, 2, 0]);
    let table: Option<String> =
        sqlx::query_scalar("SELECT to_regclass('a.turnover_v1')::text").fetch_one(&mut connection).await.unwrap();
    assert_eq!(table.as_deref(), Some("a.turnover_v1"));
    assert!(matches!(nowhere, StoreError::Schema { .. }), "{nowhere:?}");
}

#[tokio::test]
async fn a_tool_reads_beside_the_writer_and_writes_nothing() {
    let (database, store) = fresh().await;
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();

    let tool = PostgresStore::open_with(read_only(&database.url)).await.unwrap();
    writer.append(&batch(writer.head(), 3)).await.unwrap();

    assert_eq!(tool.read_stream(&stream(), Version(1), 9).await.unwrap().len(), 2);
    assert!(tool.prepare_table(&turnover(1)).await.is_err());
    assert!(tool.save_checkpoint(save(&turnover(1), None, 1, vec![])).await.is_err());
    assert!(tool.open_writer(OTHER, TakeOver::Force).await.is_err());
    assert_eq!(store.head().await.unwrap().epoch, Epoch(1));
}

#[tokio::test]
async fn a_tool_creates_nothing_in_a_database_without_a_log() {
    let database = Database::fresh().await;

    let refused = PostgresStore::open_with(read_only(&database.url)).await.unwrap_err();

    assert!(matches!(refused, StoreError::NotADatabase { .. }), "{refused:?}");
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut database.connection().await)
        .await
        .unwrap();
    assert_eq!(tables, 0);
}

#[tokio::test]
async fn a_store_on_a_programs_own_pool_reads_on_it() {
    let database = Database::fresh().await;
    let pool = PgPool::connect(&database.url).await.unwrap();

    let store = PostgresStore::from_pool(pool.clone()).await.unwrap();
    let mut writer = store.open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    writer.append(&batch(writer.head(), 2)).await.unwrap();

    assert_eq!(store.head().await.unwrap().position, GlobalPosition(2));
    pool.close().await;
    assert!(store.head().await.is_err());
    store.prepare_table(&turnover(1)).await.unwrap();
}

/// A way to the server for one connection after the other; of the answers on each pass so many bytes as the channel
/// says when it begins, and `stopped` is told when there are more.
async fn narrow_way(database: &Database, room: watch::Receiver<u64>, stopped: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = database.url.clone();
    let narrow = with_address(&url, &listener.local_addr().unwrap().to_string());
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(address(&url)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            let (mut answers, stopped) = (from_server.take(*room.borrow()), Arc::clone(&stopped));
            tokio::spawn(async move {
                tokio::io::copy(&mut answers, &mut to_client).await.unwrap();
                stopped.notify_one();
                std::future::pending::<()>().await;
            });
        }
    });
    narrow
}

/// The driver would take the rest of such a page for the answer to the next question.
#[tokio::test]
async fn a_page_that_is_left_half_way_leaves_nothing_of_it_in_the_next_answer() {
    const LARGE: usize = 40_000;
    let database = Database::fresh().await;
    let (widen, room) = watch::channel(u64::MAX);
    let stopped = Arc::new(Notify::new());
    let url = narrow_way(&database, room, Arc::clone(&stopped)).await;
    let mut writer =
        PostgresStore::open(&database.url).await.unwrap().open_writer(ME, TakeOver::OnlyDead).await.unwrap();
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(LARGE));
    let batch = (1..=300).fold(BatchBuilder::after(writer.head()), |batch, version| {
        batch.event(&stream(), version, "Deposited", &large)
    });
    let batch = batch.build();
    writer.append(&batch).await.unwrap();
    let one_after_the_other = PgPoolOptions::new().max_connections(1);

    for events in [1, 100, 299] {
        widen.send_replace(events * LARGE as u64);
        let pool = one_after_the_other.clone().connect(&url).await.unwrap();
        widen.send_replace(u64::MAX);
        let store = PostgresStore::from_pool(pool).await.unwrap();
        let everything = LogFilter::default();
        let mut reading = store.read_log(GlobalPosition::START, 300, &everything);
        tokio::select! {
            biased;
            read = &mut reading => panic!("the way is narrow, but {:?}", read.map(|page| page.events.len())),
            () = stopped.notified() => {}
        }
        drop(reading);

        assert_eq!(store.head().await.unwrap().position, GlobalPosition(300));
        let page = store.read_log(GlobalPosition::START, 300, &everything).await.unwrap();
        assert!(page.events == *batch.events, "{events}");
    }
}
