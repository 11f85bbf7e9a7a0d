//! This file is `essaim projections`: how far the read models are, whether they are right, and making them anew.

use std::time::Duration;

use clap::Subcommand;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use super::export::progress_bar;
use super::remote::{Remote, Token};
use super::{Format, open_to_read, output, take_over};
use crate::daemon::built_in;
use crate::daemon::config::Config;
use crate::daemon::failure::Failure;
use crate::daemon::serve::start_engine;
use crate::daemon::verify::{Comparison, Verdict, Verifiable};
use crate::store::{Checkpoint, EventStore, StoreError};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print every checkpoint; may run beside a daemon
    List {
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Compare the tables with what the log makes of them, up to their checkpoints; may run beside a daemon
    ///
    /// Exits with 1 when one differs.
    Verify {
        /// The projections; all when none is named
        names: Vec<String>,
        /// How to print the result
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Build the rows of a projection anew from the first event
    ///
    /// Takes the log for the time it needs, and is therefore refused beside a daemon: ask that one with --url.
    Rebuild {
        /// The projection
        name: String,
        /// Ask the daemon at this address, e.g. http://127.0.0.1:7700
        #[arg(long, value_name = "URL", conflicts_with = "take_over")]
        url: Option<String>,
        #[command(flatten)]
        token: Token,
        /// Fence a living writer of the same database instead of being refused
        #[arg(long)]
        take_over: bool,
    },
}

/// Does what was asked for.
///
/// # Errors
/// [`Failure`] when the store refuses or fails, and with exit code 1 when a table differs.
pub(super) async fn run(action: Action, config: &Config) -> Result<(), Failure> {
    match action {
        Action::List { output } => list(&*open_to_read(config).await?, output).await,
        Action::Verify { names, output } => {
            let projections = chosen(&names)?;
            verify(&*open_to_read(config).await?, projections, output).await
        }
        Action::Rebuild { name, url: Some(url), token, .. } => {
            ask_to_rebuild(&Remote::at(&url, &token)?, known(&name)?).await
        }
        Action::Rebuild { name, take_over: force, .. } => rebuild(config, known(&name)?, force).await,
    }
}

#[derive(Serialize)]
struct Listed {
    name: String,
    version: u32,
    table: Option<String>,
    position: Option<u64>,
    behind: Option<u64>,
    saved_at: Option<String>,
    state: &'static str,
}

/// The projections of this release, then checkpoints of process managers, of others and of earlier versions.
async fn list(store: &dyn EventStore, format: Format) -> Result<(), Failure> {
    let (checkpoints, head) = (store.checkpoints().await?, store.head().await?.position);
    let projections = built_in::projections();
    let is_current = |checkpoint: &Checkpoint| {
        projections.iter().any(|p| p.name() == checkpoint.projection && p.table().version == checkpoint.version)
    };
    let saved = |checkpoint: &Checkpoint| {
        let behind = head.0.saturating_sub(checkpoint.position.0);
        (Some(checkpoint.position.0), Some(behind), Some(output::time(checkpoint.saved_at)))
    };
    let mut listed = Vec::new();
    for projection in &projections {
        let (table, name) = (projection.table(), projection.name());
        let found = checkpoints.iter().find(|c| c.projection == name && c.version == table.version);
        let (position, behind, saved_at) = found.map(saved).unwrap_or_default();
        let state = if found.is_some() { "current" } else { "not saved yet" };
        let (name, version, table) = (name.to_owned(), table.version, Some(table.table_name()));
        listed.push(Listed { name, version, table, position, behind, saved_at, state });
    }
    for checkpoint in checkpoints.iter().filter(|checkpoint| !is_current(checkpoint)) {
        let (position, behind, saved_at) = saved(checkpoint);
        let (name, version) = (checkpoint.projection.clone(), checkpoint.version);
        let other = built_in::OTHER_TABLES.iter().find(|(other, _)| *other == name);
        let state = other.map_or("not of this release", |(_, state)| state);
        listed.push(Listed { name, version, table: None, position, behind, saved_at, state });
    }
    show_list(&listed, format)
}

fn show_list(listed: &[Listed], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&listed);
    }
    let mut table = output::table(["NAME", "VERSION", "TABLE", "POSITION", "BEHIND", "SAVED AT", "STATE"]);
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    for entry in listed {
        table.add_row([
            entry.name.clone(),
            entry.version.to_string(),
            entry.table.clone().unwrap_or_else(|| "-".into()),
            number(entry.position),
            number(entry.behind),
            entry.saved_at.clone().unwrap_or_else(|| "-".into()),
            entry.state.to_owned(),
        ]);
    }
    output::print_line(table)
}

#[derive(Serialize)]
struct Verified {
    name: &'static str,
    ok: bool,
    position: Option<u64>,
    rows: Option<usize>,
    stored_digest: Option<String>,
    folded_digest: Option<String>,
    detail: String,
}

async fn verify(store: &dyn EventStore, projections: Vec<Box<dyn Verifiable>>, format: Format) -> Result<(), Failure> {
    let mut all = Vec::new();
    for projection in projections {
        let progress = progress_bar(projection.name(), store.head().await?.position.0);
        let verdict = projection.verify(store, &|position| progress.set_position(position.0)).await?;
        progress.finish_and_clear();
        all.push(verified(projection.name(), verdict));
    }
    let wrong: Vec<_> = all.iter().filter(|verified| !verified.ok).map(|verified| verified.name).collect();
    match format {
        Format::Json => output::print_json(&all)?,
        Format::Table => {
            for Verified { name, ok, detail, .. } in &all {
                output::print_line(format_args!("{:4} {name}: {detail}", if *ok { "ok" } else { "FAIL" }))?;
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message =
        format!("not what the log says: {}; make it anew with `essaim projections rebuild`", wrong.join(", "));
    Err(Failure::Checked { message, exit_code: 1 })
}

fn verified(name: &'static str, verdict: Verdict) -> Verified {
    let ok = verdict.is_ok();
    let detail = match &verdict {
        Verdict::NoCheckpoint => "nothing saved yet".to_owned(),
        Verdict::AheadOfLog { checkpoint, head } => {
            format!("the table is at position {checkpoint}, the log ends at {head}: it went backwards")
        }
        Verdict::OtherLog { checkpoint } => {
            format!("the log has another event at position {checkpoint} than the table was made from")
        }
        Verdict::Compared(Comparison { position, rows, .. }) if ok => {
            format!("{rows} rows at position {position} are what the log makes of them")
        }
        Verdict::Compared(Comparison { position, rows, differing, .. }) => {
            format!("{differing} of {rows} rows differ from the log at position {position}")
        }
    };
    let Verdict::Compared(compared) = verdict else {
        let (position, rows, stored_digest, folded_digest) = (None, None, None, None);
        return Verified { name, ok, position, rows, stored_digest, folded_digest, detail };
    };
    Verified {
        name,
        ok,
        position: Some(compared.position.0),
        rows: Some(compared.rows),
        stored_digest: Some(compared.stored.to_string()),
        folded_digest: Some(compared.folded.to_string()),
        detail,
    }
}

async fn rebuild(config: &Config, name: &'static str, force: bool) -> Result<(), Failure> {
    let engine = start_engine(config, take_over(force), |engine| engine).await.map_err(|failure| match failure {
        Failure::Store(StoreError::Held { holder }) => Failure::Store(StoreError::Held {
            holder: format!(
                "{holder}; let it do the work: `essaim projections rebuild {name} --url http://…`, \
                 or POST /v1/admin/projections/{name}/rebuild"
            ),
        }),
        other => other,
    })?;
    let spinner = ProgressBar::new_spinner().with_message(format!("rebuilding {name}"));
    spinner.enable_steady_tick(Duration::from_millis(100));
    let rebuilt = tokio::select! {
        biased;
        reason = engine.failed() => Err(Failure::Stopped(format!("the engine has given up: {reason}"))),
        rebuilt = engine.rebuild(name) => Ok(rebuilt),
    };
    spinner.finish_and_clear();
    let drained = engine.shutdown(config.shutdown_deadline_seconds.seconds()).await;
    match (rebuilt?, drained) {
        (true, true) => output::print_line(format_args!("{name} is rebuilt")),
        (true, false) => Err(Failure::Stopped("its checkpoint was not saved before the shutdown deadline".into())),
        (false, _) => Err(no_such(name)),
    }
}

async fn ask_to_rebuild(daemon: &Remote, name: &'static str) -> Result<(), Failure> {
    daemon.post(&["v1", "admin", "projections", name, "rebuild"], &json!({})).await?;
    output::print_line(format_args!("{name} is rebuilt"))
}

fn chosen(names: &[String]) -> Result<Vec<Box<dyn Verifiable>>, Failure> {
    let names = names.iter().map(|name| known(name)).collect::<Result<Vec<_>, _>>()?;
    let all = built_in::projections().into_iter();
    Ok(all.filter(|projection| names.is_empty() || names.contains(&projection.name())).collect())
}

fn known(name: &str) -> Result<&'static str, Failure> {
    let mut names = built_in::projections().into_iter().map(|projection| projection.name());
    names.find(|known| *known == name).ok_or_else(|| no_such(name))
}

fn no_such(name: &str) -> Failure {
    let names: Vec<_> = built_in::projections().iter().map(|projection| projection.name()).collect();
    Failure::Usage(format!("there is no projection {name:?}; there are: {}", names.join(", ")))
}
