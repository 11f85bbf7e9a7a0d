//! This file drives the commands that read a log beside its writer, over a real SQLite database.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use chrono::{DateTime, Utc};
use essaim::clock::{Clock, SystemClock};
use essaim::event::{ChainHash, CommandId, Metadata, MetadataFields, RecordedEvent};
use essaim::store::sqlite::SqliteStore;
use essaim::store::{Batch, ClaimChanges, EventStore, Head, LogWriter, TakeOver};
use essaim::stream::{GlobalPosition, StreamId, Version};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

/// A writer with its log, in a folder of its own.
struct Log {
    folder: TempDir,
    writer: Box<dyn LogWriter>,
    head: Head,
}

impl Log {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(folder.path().join("essaim.db")).await.unwrap();
        let writer = store.open_writer(SystemClock.random_id(), TakeOver::OnlyDead).await.unwrap();
        let head = writer.head().clone();
        Self { folder, writer, head }
    }

    /// A log with `load-meter-a`@1, `payment-b`@1, `load-meter-a`@2, `payment-b`@2 …
    async fn with_events(count: u64) -> Self {
        let mut log = Self::new().await;
        log.append(count).await;
        log
    }

    async fn append(&mut self, count: u64) {
        let mut events: Vec<RecordedEvent> = Vec::new();
        for position in self.head.position.0 + 1..=self.head.position.0 + count {
            let previous = events.last().map_or(self.head.chain_hash, |event| event.hash);
            events.push(event(position, previous));
        }
        let last = events.last().unwrap().clone();
        let batch = Batch {
            epoch: self.head.epoch,
            previous: self.head.batch,
            id: SystemClock.random_id(),
            events: events.into(),
            claims: ClaimChanges::default(),
            outcomes: Vec::new(),
            recorded_at: last.recorded_at,
        };
        self.writer.append(&batch).await.unwrap();
        self.head.position = last.position;
        self.head.batch = batch.id;
        self.head.chain_hash = last.hash;
    }

    fn essaim(&self, arguments: &[&str]) -> Command {
        essaim(self.folder.path(), arguments)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.essaim(arguments).output().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn event(position: u64, previous: ChainHash) -> RecordedEvent {
    let meter = position % 2 == 1;
    let stream = if meter { StreamId::new("load-meter", "a") } else { StreamId::new("payment", "b") };
    let metadata = MetadataFields {
        command_id: CommandId(Uuid::from_u128(position.into())),
        correlation_id: Uuid::nil(),
        causation_id: Uuid::nil(),
        principal: "ann".into(),
        extra: Default::default(),
    };
    let mut event = RecordedEvent {
        position: GlobalPosition(position),
        event_id: SystemClock.random_id(),
        stream,
        version: Version(position.div_ceil(2)),
        event_type: if meter { "Metered".into() } else { "PaymentCreated".into() },
        schema_version: 1,
        json: format!(r#"{{"n":{position}}}"#).into(),
        metadata: Metadata::new(metadata),
        recorded_at: DateTime::<Utc>::from_timestamp(1_000_000_000 + position as i64, 0).unwrap(),
        hash: ChainHash::START,
        decoded: None,
    };
    event.hash = previous.extended_by(&event);
    event
}

fn essaim(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

fn positions(items: &Value) -> Vec<u64> {
    items.as_array().unwrap().iter().map(|item| item["position"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn the_log_is_listed_beside_its_writer_from_where_it_is_asked_for() {
    let log = Log::with_events(10).await;

    let page = log.json(&["events", "list", "--after", "3", "--limit", "4", "--output", "json"]);

    assert_eq!(positions(&page["items"]), [4, 5, 6, 7]);
    assert_eq!(page["next_after"], 7);
    let first = &page["items"][0];
    assert_eq!((&first["stream"], &first["type"]), (&Value::from("payment-b"), &Value::from("PaymentCreated")));
    assert_eq!(first["data"], serde_json::json!({"n": 4}));
    assert_eq!(first["recorded_at"], "2001-09-09T01:46:44.000000Z");
}

#[tokio::test]
async fn a_listing_is_filtered_by_category_and_by_type() {
    let log = Log::with_events(10).await;

    let by_category = log.json(&["events", "list", "--category", "payment", "--limit", "2", "--output", "json"]);
    let by_type = log.json(&["events", "list", "--type", "Metered", "--type", "Other", "--output", "json"]);

    assert_eq!(positions(&by_category["items"]), [2, 4]);
    assert_eq!(positions(&by_type["items"]), [1, 3, 5, 7, 9]);
}

#[tokio::test]
async fn a_stream_is_listed_by_its_name_even_with_dashes_in_its_category() {
    let log = Log::with_events(10).await;
    let of = |stream: &str| log.json(&["events", "list", "--stream", stream, "--after", "3", "--output", "json"]);

    assert_eq!(positions(&of("load-meter-a")["items"]), [7, 9]);
    assert_eq!(positions(&of("payment-b")["items"]), [8, 10]);
    assert_eq!(log.run(&["events", "list", "--stream", "payment-c"]).status.code(), Some(1));
    assert_eq!(log.run(&["events", "list", "--stream", "payment"]).status.code(), Some(2));
}

#[tokio::test]
async fn a_table_has_one_line_an_event() {
    let log = Log::with_events(3).await;

    let output = log.run(&["events", "list"]);

    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.lines().nth(2).unwrap().contains("PaymentCreated"), "{table}");
}

#[tokio::test]
async fn an_export_is_the_whole_log_and_appears_when_it_is_whole() {
    let log = Log::with_events(2_500).await;

    let output = log.run(&["events", "export", "--file", "log.jsonl"]);

    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let text = std::fs::read_to_string(log.folder.path().join("log.jsonl")).unwrap();
    let exported: Vec<u64> = text.lines().map(position_of).collect();
    assert_eq!(exported, (1..=2_500).collect::<Vec<_>>());
    let left: Vec<_> = std::fs::read_dir(log.folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

#[tokio::test]
async fn a_filtered_export_of_a_part_goes_to_stdout() {
    let log = Log::with_events(10).await;

    let output = log.run(&["events", "export", "--after", "4", "--category", "payment"]);

    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().map(position_of).collect::<Vec<_>>(), [6, 8, 10]);
}

#[tokio::test]
async fn an_export_that_cannot_be_written_leaves_nothing_behind() {
    let log = Log::with_events(2).await;

    let output = log.run(&["events", "export", "--file", "missing/log.jsonl"]);

    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(message.contains("missing/log.jsonl cannot be written: No such file"), "{message}");
}

#[tokio::test]
async fn a_follower_sees_the_past_and_what_comes_and_ends_well_when_interrupted() {
    let mut log = Log::with_events(2).await;
    let mut child = log.essaim(&["events", "tail", "--after", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();

    assert_eq!(position_of(&lines.next().unwrap().unwrap()), 2);
    log.append(3).await;

    let come: Vec<_> = lines.by_ref().take(3).map(|line| position_of(&line.unwrap())).collect();
    assert_eq!(come, [3, 4, 5]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_follower_whose_reader_went_away_ends_quietly() {
    let mut log = Log::with_events(2).await;
    let mut child =
        log.essaim(&["events", "tail", "--after", "0"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();

    drop(lines);
    log.append(1).await;

    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn the_doctor_finds_a_sound_database_sound_and_names_its_writer() {
    let log = Log::with_events(4).await;

    let findings = log.json(&["doctor", "--output", "json"]);

    let of = |check: &str| findings.as_array().unwrap().iter().find(|finding| finding["check"] == check).unwrap();
    assert_eq!(of("database")["verdict"], "ok");
    assert!(of("database")["detail"].as_str().unwrap().ends_with("position 4"), "{findings}");
    let writer = of("writer")["detail"].as_str().unwrap();
    assert!(writer.contains(&format!("held by process {}", std::process::id())), "{writer}");
    assert!(findings.as_array().unwrap().iter().all(|finding| finding["verdict"] != "fail"), "{findings}");
}

#[test]
fn a_file_that_is_no_database_is_refused_by_everything_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("essaim.db");
    std::fs::write(&file, "this is no database, and it is long enough to have had a header").unwrap();

    for arguments in [&["events", "list"][..], &["projections", "list"], &["doctor"], &["--listen", "127.0.0.1:0"]] {
        let output = essaim(folder.path(), arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("this is no database"));
}

#[test]
fn a_database_that_is_not_there_is_not_made_by_reading() {
    let folder = tempfile::tempdir().unwrap();

    let output = essaim(folder.path(), &["events", "list"]).output().unwrap();

    assert_eq!(output.status.code(), Some(3));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

fn position_of(line: &str) -> u64 {
    serde_json::from_str::<Value>(line).unwrap()["position"].as_u64().unwrap()
}
