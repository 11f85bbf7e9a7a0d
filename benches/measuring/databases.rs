//! This file makes databases.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};

/// The address of a fresh database of this name, dropped and made anew.
pub(crate) async fn fresh_database(server: &str, name: &str) -> String {
    let mut connection = PgConnection::connect(server).await.expect("the server is there");
    connection
        .execute(sqlx::AssertSqlSafe(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")))
        .await
        .expect("may drop databases");
    connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.expect("may create databases");
    let options: PgConnectOptions = server.parse().expect("an address of Postgres");
    let mut url = format!("postgres://{}", options.get_username());
    if let Some(password) =
        server.split("://").nth(1).and_then(|rest| rest.split('@').next()).and_then(|user| user.split(':').nth(1))
    {
        url.push_str(&format!(":{password}"));
    }
    url.push_str(&format!("@{}:{}/{name}", options.get_host(), options.get_port()));
    url
}
