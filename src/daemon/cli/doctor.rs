//! This file is `essaim doctor`: what would keep the daemon from running well here, and what to do about it. It
//! changes nothing, and may run beside a daemon.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::{Format, open_to_read, output};
use crate::causes::with_causes;
use crate::clock::{Clock, SystemClock};
use crate::daemon::config::layers::{ConfigError, Settings};
use crate::daemon::config::{Config, without_password};
use crate::daemon::failure::{Failure, store_advice, store_exit_code};
use crate::daemon::serve::{refuse_open_doors, resolve};
use crate::daemon::{auth, built_in, provider};
use crate::store::open::{sqlite_file, sqlite_lock_file};
use crate::store::{EventStore, Head, StoreError};

/// Below this much free space the next hours are at risk.
const LOW_SPACE_BYTES: u64 = 1 << 30;
/// Below this much the next commits are.
const NO_SPACE_BYTES: u64 = 64 << 20;
/// File descriptors needed beside one a connection: databases, logs, the listener.
const OTHER_DESCRIPTORS: u64 = 64;
/// How far the last event may be ahead of this machine's clock.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(2);

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: String,
    verdict: Verdict,
    detail: String,
    advice: Option<String>,
    #[serde(skip)]
    exit_code: u8,
}

impl Finding {
    fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, detail: detail.into(), advice: None, exit_code: 0 }
    }

    fn warn(check: &str, detail: impl Into<String>, advice: &str) -> Self {
        Self { verdict: Verdict::Warn, advice: Some(advice.into()), ..Self::ok(check, detail) }
    }

    fn fail(check: &str, exit_code: u8, detail: impl Into<String>, advice: &str) -> Self {
        Self { verdict: Verdict::Fail, advice: Some(advice.into()), exit_code, ..Self::ok(check, detail) }
    }

    fn of_store(check: &str, error: &StoreError) -> Self {
        let advice = store_advice(error).unwrap_or("see the message");
        Self::fail(check, store_exit_code(error), with_causes(error), advice)
    }
}

/// Looks at everything and prints one line each.
///
/// # Errors
/// [`Failure::Checked`] with the exit code that the daemon would end with, when a check fails.
pub(super) async fn run(flags: Flags, settings: Result<Settings, ConfigError>) -> Result<(), Failure> {
    let findings = match settings {
        Ok(settings) => examine(&settings.config).await,
        Err(error) => {
            let advice = "correct it; `essaim config template` shows every key";
            vec![Finding::fail("configuration", 2, with_causes(&error), advice)]
        }
    };
    show(&findings, flags.output)?;
    let failed: Vec<_> = findings.iter().filter(|finding| finding.verdict == Verdict::Fail).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let names: Vec<_> = failed.iter().map(|finding| finding.check.as_str()).collect();
    Err(Failure::Checked { message: format!("failed: {}", names.join(", ")), exit_code: first.exit_code })
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("configuration", "every key is known and in range")];
    findings.push(door(config).await);
    findings.extend(token_issuer(config).await);
    findings.push(descriptors(config));
    findings.extend(disk(config));
    findings.extend(identity_provider(config).await);
    if let Some(path) = missing_file(config) {
        let advice = "nothing to do if this is a new installation, else correct `database`";
        let detail = format!("{} is not there yet; the daemon will create it", path.display());
        findings.push(Finding::warn("database", detail, advice));
        return findings;
    }
    match open_to_read(config).await {
        Ok(store) => findings.extend(database(&*store, sqlite_lock_file(&config.database)).await),
        Err(Failure::Store(error)) => findings.push(Finding::of_store("database", &error)),
        Err(other) => findings.push(Finding::fail("database", other.exit_code(), other.to_string(), "see the message")),
    }
    findings
}

/// An identity provider that is away keeps nothing else from working, so it is no failure.
async fn identity_provider(config: &Config) -> Vec<Finding> {
    let provider = match provider::configured(config) {
        Ok(Some(provider)) => provider,
        Ok(None) => return Vec::new(),
        Err(failure) => {
            let advice = "correct the keys that begin with keycloak_";
            return vec![Finding::fail("keycloak", failure.exit_code(), failure.to_string(), advice)];
        }
    };
    let found = provider.check().await.into_iter().map(|(name, detail, remedy)| {
        let check = format!("keycloak {name}");
        match remedy {
            Some(remedy) => Finding::warn(&check, detail, &remedy),
            None => Finding::ok(&check, detail),
        }
    });
    found.collect()
}

async fn door(config: &Config) -> Finding {
    let advice = "listen on 127.0.0.1, set auth_issuer, or set allow_unauthenticated behind a door of your own";
    match resolve(config).await.and_then(|found| refuse_open_doors(config, &found).map(|()| found)) {
        Ok(found) if found.iter().all(|address| address.ip().is_loopback()) => {
            Finding::ok("listen", format!("{} is reached from this machine only", config.listen))
        }
        Ok(_) if !config.auth_issuer.is_empty() => {
            Finding::ok("listen", format!("{} asks everybody for a token", config.listen))
        }
        Ok(_) => Finding::warn("listen", format!("{} asks nobody who they are", config.listen), advice),
        Err(failure) => Finding::fail("listen", failure.exit_code(), failure.to_string(), advice),
    }
}

async fn token_issuer(config: &Config) -> Option<Finding> {
    let settings = match auth::settings::Settings::of(config) {
        Ok(settings) => settings?,
        Err(failure) => {
            let advice = "correct it; `essaim config template` shows every key";
            return Some(Finding::fail("token issuer", failure.exit_code(), failure.to_string(), advice));
        }
    };
    Some(match auth::usable_keys(&settings).await {
        Ok(keys) => Finding::ok("token issuer", format!("{} has {keys} usable keys", settings.issuer)),
        // The daemon would start, and answer 503 until the issuer is back.
        Err(error) => {
            let advice = "see that the issuer runs, and correct auth_issuer or auth_jwks_url";
            Finding::fail("token issuer", 1, with_causes(&error), advice)
        }
    })
}

fn descriptors(config: &Config) -> Finding {
    let wanted = config.max_connections.get() + OTHER_DESCRIPTORS;
    match rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        Some(limit) if limit < wanted => Finding::warn(
            "file_descriptors",
            format!("{limit} are allowed, {} connections need about {wanted}", config.max_connections.get()),
            "raise the limit (`ulimit -n`, LimitNOFILE=) or lower max_connections",
        ),
        limit => Finding::ok("file_descriptors", limit.map_or("no limit".into(), |limit| format!("{limit} allowed"))),
    }
}

/// The space where a SQLite file lies or will lie; nothing for other databases.
fn disk(config: &Config) -> Option<Finding> {
    let file = Path::new(sqlite_file(&config.database)?);
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let space = match rustix::fs::statvfs(folder) {
        Ok(space) => space.f_bavail.saturating_mul(space.f_frsize),
        Err(error) => {
            let detail = format!("{}: {error}", folder.display());
            return Some(Finding::fail("disk", 3, detail, "create the folder, or correct `database`"));
        }
    };
    let detail = format!("{} MiB are free in {}", space >> 20, folder.display());
    Some(match space {
        0..NO_SPACE_BYTES => Finding::fail("disk", 1, detail, "free space before anything else"),
        NO_SPACE_BYTES..LOW_SPACE_BYTES => Finding::warn("disk", detail, "free space soon"),
        _ => Finding::ok("disk", detail),
    })
}

fn missing_file(config: &Config) -> Option<PathBuf> {
    let file = PathBuf::from(sqlite_file(&config.database)?);
    (!file.as_os_str().is_empty() && !file.exists()).then_some(file)
}

async fn database(store: &dyn EventStore, lock: Option<PathBuf>) -> Vec<Finding> {
    let place = without_password(&store.describe());
    let head = match store.head().await {
        Ok(head) => head,
        Err(error) => return vec![Finding::of_store("database", &error)],
    };
    let detail = format!("{place} answers, its tables are of this release; the log is at position {}", head.position);
    let mut findings = vec![Finding::ok("database", detail), clock(&head, SystemClock.now()), writer(&head, lock)];
    findings.push(match store.durability().await {
        Ok(settings) => durability(&settings),
        Err(error) => Finding::of_store("durability", &error),
    });
    findings.extend(read_models(store, &head).await);
    findings
}

fn clock(head: &Head, now: DateTime<Utc>) -> Finding {
    let ahead = head.recorded_at - now;
    if ahead <= CLOCK_TOLERANCE {
        return Finding::ok("clock", format!("not behind the log ({})", output::time(now)));
    }
    let detail = format!("{} s behind the last event ({})", ahead.num_seconds(), output::time(head.recorded_at));
    Finding::warn("clock", detail, "set this machine's clock; until it has caught up, new events share that time")
}

/// Who raised the epoch last, and, where a side file tells, whether that one lives.
fn writer(head: &Head, lock: Option<PathBuf>) -> Finding {
    if head.writer.is_nil() {
        return Finding::ok("writer", "nobody has written to this log yet");
    }
    let last = format!("{} was the last to take the log, at epoch {}", head.writer, head.epoch);
    match lock.as_deref().map(living_holder) {
        Some(Ok(Some(holder))) => Finding::ok("writer", format!("held by {holder}; a second daemon would be refused")),
        Some(Ok(None)) => Finding::ok("writer", format!("{last}; it does not hold it any more")),
        // Another kind of database: a start asks it who lives, and is refused by name.
        Some(Err(_)) | None => Finding::ok("writer", last),
    }
}

/// What the holder wrote into the lock file, if somebody holds it.
fn living_holder(lock: &Path) -> io::Result<Option<String>> {
    let mut file = File::open(lock)?;
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            Ok(Some(if holder.is_empty() { "an unnamed process".into() } else { holder }))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn durability(settings: &[(String, String)]) -> Finding {
    let listed: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let weak = settings.iter().find(|(name, value)| is_weak(name, value));
    match weak {
        Some((name, value)) => Finding::fail(
            "durability",
            3,
            format!("{name} is {value}: a crash of the machine could lose acknowledged commands"),
            "change the setting, or accept the loss with allow_weak_durability",
        ),
        None => Finding::ok("durability", listed.join(", ")),
    }
}

/// The settings of both databases under which a commit that was answered may be lost.
fn is_weak(name: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match name {
        "fsync" | "full_page_writes" => value == "off",
        "synchronous_commit" => value == "off" || value == "local",
        "synchronous" => value == "off" || value == "normal",
        _ => false,
    }
}

async fn read_models(store: &dyn EventStore, head: &Head) -> Vec<Finding> {
    let checkpoints = match store.checkpoints().await {
        Ok(checkpoints) => checkpoints,
        Err(error) => return vec![Finding::of_store("projections", &error)],
    };
    let finding = |projection: Box<dyn crate::daemon::verify::Verifiable>| {
        let (name, version) = (projection.name(), projection.table().version);
        let check = format!("projection:{name}");
        let found = checkpoints.iter().find(|found| found.projection == name && found.version == version);
        match found {
            None => Finding::ok(&check, "nothing saved yet; the next start reads the log from the beginning"),
            Some(found) if found.position > head.position => Finding::fail(
                &check,
                1,
                format!("its table is at position {}, ahead of the log at {}", found.position, head.position),
                "the database went backwards (a restore?); the daemon rewinds it when it starts",
            ),
            Some(found) => Finding::ok(&check, format!("saved at position {} of {}", found.position, head.position)),
        }
    };
    built_in::projections().into_iter().map(finding).collect()
}

fn show(findings: &[Finding], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::print_json(&findings);
    }
    for Finding { check, verdict, detail, advice, .. } in findings {
        let verdict = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        output::print_line(format_args!("{verdict:4}  {check}: {detail}"))?;
        if let Some(advice) = advice {
            output::print_line(format_args!("      -> {advice}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ChainHash;
    use crate::store::Epoch;
    use crate::stream::GlobalPosition;

    fn head_recorded_at(micros: i64) -> Head {
        Head {
            position: GlobalPosition(1),
            epoch: Epoch(1),
            writer: uuid::Uuid::nil(),
            batch: uuid::Uuid::nil(),
            chain_hash: ChainHash::START,
            recorded_at: DateTime::from_timestamp_micros(micros).unwrap(),
            log_id: uuid::Uuid::nil(),
        }
    }

    #[test]
    fn a_clock_behind_the_log_is_a_warning() {
        let now = DateTime::from_timestamp(100, 0).unwrap();

        assert_eq!(clock(&head_recorded_at(101_000_000), now).verdict, Verdict::Ok);
        assert_eq!(clock(&head_recorded_at(160_000_000), now).verdict, Verdict::Warn);
    }

    #[test]
    fn a_setting_that_loses_commits_fails_and_is_named() {
        let settings = |value: &str| vec![("journal_mode".into(), "wal".into()), ("synchronous".into(), value.into())];

        let weak = durability(&settings("NORMAL"));

        assert_eq!((weak.verdict, weak.exit_code), (Verdict::Fail, 3));
        assert!(weak.detail.contains("synchronous is NORMAL"));
        assert_eq!(durability(&settings("FULL")).verdict, Verdict::Ok);
    }
}
