//! This file is `essaim synchronisers` and `essaim dead-letters`: what a running daemon says of the systems outside.

use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Address, Remote};
use super::{Format, output};
use crate::daemon::config::Config;
use crate::daemon::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print how every synchroniser of a running daemon is doing
    List {
        #[command(flatten)]
        address: Address,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print one synchroniser, with the report of its last reconcile, as JSON
    Show {
        /// The synchroniser
        name: String,
        #[command(flatten)]
        address: Address,
    },
    /// Compare what is settled with the outside, at a limited rate; `show` prints the report
    Reconcile {
        /// The synchroniser
        name: String,
        /// Bring again what drifted, and remove what the report before this one calls unknown
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        address: Address,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum DeadLetters {
    /// Print what was set aside
    List {
        /// Only of this synchroniser
        #[arg(long, value_name = "NAME")]
        synchroniser: Option<String>,
        /// Those that were skipped, by whom and why, instead of those that wait
        #[arg(long)]
        skipped: bool,
        #[command(flatten)]
        address: Address,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Print one, with the changes that wait behind it, as JSON; one that was skipped, with who did and why
    Show {
        #[command(flatten)]
        letter: Letter,
        #[command(flatten)]
        address: Address,
    },
    /// Try one again, with a fresh budget of attempts
    Retry {
        #[command(flatten)]
        letter: Letter,
        #[command(flatten)]
        address: Address,
    },
    /// Do without the version that failed; what waited behind it is brought. The log keeps who did, and why
    Skip {
        #[command(flatten)]
        letter: Letter,
        /// Why
        #[arg(long)]
        reason: String,
        /// Who does; taken while the daemon asks nobody for a token
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        #[command(flatten)]
        address: Address,
    },
}

/// Names one dead letter.
#[derive(Debug, clap::Args)]
pub(super) struct Letter {
    /// The synchroniser
    synchroniser: String,
    /// The subject, e.g. a user's id
    subject: String,
}

/// Does what was asked for.
///
/// # Errors
/// [`Failure::Stopped`] when the daemon does not answer, or says no.
pub(super) async fn run(action: Action, config: &Config) -> Result<(), Failure> {
    match action {
        Action::List { address, output } => {
            let answer = Remote::of(&address, config)?.get(&SYNCHRONISERS, &[]).await?;
            show_synchronisers(&answer["items"], output)
        }
        Action::Show { name, address } => {
            let path = [SYNCHRONISERS.as_slice(), &[&name]].concat();
            output::print_json(&Remote::of(&address, config)?.get(&path, &[]).await?)
        }
        Action::Reconcile { name, repair, address } => {
            let path = [SYNCHRONISERS.as_slice(), &[&name, "reconcile"]].concat();
            Remote::of(&address, config)?.post(&path, &json!({ "repair": repair })).await?;
            output::print_line(format_args!("{name}: begun; `essaim synchronisers show {name}` prints the report"))
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// As [`run`].
pub(super) async fn run_dead_letters(action: DeadLetters, config: &Config) -> Result<(), Failure> {
    match action {
        DeadLetters::List { synchroniser, skipped, address, output } => {
            let letters = all_letters(&Remote::of(&address, config)?, synchroniser, skipped).await?;
            if skipped { show_skipped(&letters, output) } else { show_letters(&letters, output) }
        }
        DeadLetters::Show { letter, address } => {
            output::print_json(&Remote::of(&address, config)?.get(&letter.path(), &[]).await?)
        }
        DeadLetters::Retry { letter, address } => {
            let path = [letter.path().as_slice(), &["retry"]].concat();
            Remote::of(&address, config)?.post(&path, &json!({})).await?;
            output::print_line(format_args!("{}: is tried again", letter.subject))
        }
        DeadLetters::Skip { letter, reason, by, address } => {
            let path = [letter.path().as_slice(), &["skip"]].concat();
            Remote::of(&address, config)?.speaking_for(by).post(&path, &json!({ "reason": reason })).await?;
            output::print_line(format_args!("{}: is skipped", letter.subject))
        }
    }
}

const SYNCHRONISERS: [&str; 3] = ["v1", "admin", "synchronisers"];
const DEAD_LETTERS: [&str; 3] = ["v1", "admin", "dead-letters"];

impl Letter {
    fn path(&self) -> [&str; 5] {
        let [version, admin, letters] = DEAD_LETTERS;
        [version, admin, letters, &self.synchroniser, &self.subject]
    }
}

async fn all_letters(remote: &Remote, synchroniser: Option<String>, skipped: bool) -> Result<Vec<Value>, Failure> {
    let only = synchroniser.map(|name| ("synchroniser", name));
    let which = skipped.then(|| ("skipped", "true".to_owned()));
    let mut letters = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let query: Vec<_> = [only.clone(), which.clone(), cursor.take().map(|cursor| ("cursor", cursor))]
            .into_iter()
            .flatten()
            .chain([("limit", "200".to_owned())])
            .collect();
        let mut page = remote.get(&DEAD_LETTERS, &query).await?;
        if let Some(items) = page["items"].as_array_mut() {
            letters.append(items);
        }
        let Some(next) = page["next_cursor"].as_str() else { return Ok(letters) };
        cursor = Some(next.to_owned());
    }
}

fn show_synchronisers(items: &Value, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(items);
    }
    let mut table = output::table(["NAME", "STATE", "SUBJECTS", "PENDING", "DEAD LETTERS", "POSITION", "UNAVAILABLE"]);
    for item in items.as_array().into_iter().flatten() {
        let outside = item["unavailable_for_seconds"].as_u64().map_or("-".to_owned(), |since| format!("{since} s"));
        let keys = ["name", "state", "subjects", "pending", "dead_letters", "position"];
        table.add_row(keys.map(|key| cell(&item[key])).into_iter().chain([outside]));
    }
    output::print_line(table)
}

fn show_letters(letters: &[Value], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&letters);
    }
    let mut table = output::table(["SYNCHRONISER", "SUBJECT", "VERSION", "WANTED", "ATTEMPTS", "SINCE", "REASON"]);
    for letter in letters {
        let keys = ["synchroniser", "subject", "version", "wanted_version", "attempts", "since", "reason"];
        table.add_row(keys.map(|key| cell(&letter[key])));
    }
    output::print_line(table)
}

fn show_skipped(letters: &[Value], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&letters);
    }
    let mut table = output::table(["SYNCHRONISER", "SUBJECT", "VERSION", "FAILURE", "SKIPPED BY", "AT", "BECAUSE"]);
    for letter in letters {
        let skip = &letter["skipped"];
        let keys = ["synchroniser", "subject", "version", "reason"].map(|key| cell(&letter[key]));
        table.add_row(keys.into_iter().chain(["by", "at", "reason"].map(|key| cell(&skip[key]))));
    }
    output::print_line(table)
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
