//! This file tells what this process and the server's processes for one database took of the processor, from Linux's
//! /proc. The server must run on the same machine; its checkpointer and WAL writer serve all databases and are left out.

use std::collections::HashMap;
use std::fs;

use sqlx::{Connection, PgConnection};

/// What the kernel counts in, on every Linux.
const MICROSECONDS_A_TICK: u64 = 10_000;

/// Looks at this process and, if there is one, at a database's backends.
pub(crate) struct Processor {
    database: Option<PgConnection>,
}

/// Microseconds since each process began.
#[derive(Default)]
pub(crate) struct Spent {
    here: u64,
    backends: HashMap<i32, u64>,
}

impl Processor {
    pub(crate) fn without_server() -> Self {
        Self { database: None }
    }

    pub(crate) async fn of_database(url: &str) -> Self {
        Self { database: Some(PgConnection::connect(url).await.expect("connects")) }
    }

    pub(crate) async fn spent(&mut self) -> Spent {
        let mut backends = Vec::new();
        if let Some(database) = &mut self.database {
            const BACKENDS: &str =
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
            backends = sqlx::query_scalar(BACKENDS).fetch_all(database).await.expect("tells its processes");
        }
        let backends = backends.into_iter().map(|pid: i32| (pid, microseconds(&pid.to_string()))).collect();
        Spent { here: microseconds("self"), backends }
    }
}

impl Spent {
    /// What this process and the backends took since then.
    pub(crate) fn since(&self, before: &Spent) -> (u64, u64) {
        let backend = |(pid, now): (&i32, &u64)| now.saturating_sub(before.backends.get(pid).copied().unwrap_or(0));
        (self.here - before.here, self.backends.iter().map(backend).sum())
    }
}

/// User's and system's time of a process; none when it is gone, or on another machine.
fn microseconds(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * MICROSECONDS_A_TICK
}
