//! This file is `essaim events`: the log on the terminal and in files. It only reads, beside whoever writes.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::export::{Export, export};
use super::{Format, open_to_read, output};
use crate::daemon::config::Config;
use crate::daemon::failure::Failure;
use crate::daemon::shape::EventShape;
use crate::event::RecordedEvent;
use crate::store::{EventStore, LoadRequest, LogFilter, StoreError};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Events read at a time.
pub(super) const PAGE: usize = 1_000;
/// How long a follower waits at the end of the log before it looks again.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// Characters of an event's data in a table.
const DATA_SHOWN: usize = 80;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Print part of the log, or of one stream
    List {
        /// Only events behind this position; with --stream, behind this version
        #[arg(long, value_name = "N", default_value_t = 0)]
        after: u64,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Only this stream, as CATEGORY-KEY
        #[arg(long, value_name = "STREAM", conflicts_with_all = ["category", "event_type"])]
        stream: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// How to print them
        #[arg(long, value_enum, default_value_t)]
        output: Format,
    },
    /// Follow the log, one JSON object a line, until interrupted
    Tail {
        /// Start behind this position instead of at the end
        #[arg(long, value_name = "POSITION")]
        after: Option<u64>,
        #[command(flatten)]
        filter: Filter,
    },
    /// Write the log as it is now, one JSON object a line
    Export {
        /// Write to this file, which appears only when it is whole; `-` is stdout
        #[arg(long, value_name = "FILE", default_value = "-")]
        file: PathBuf,
        /// Only events behind this position
        #[arg(long, value_name = "POSITION", default_value_t = 0)]
        after: u64,
        #[command(flatten)]
        filter: Filter,
    },
}

/// Which events are wanted.
#[derive(Debug, Clone, Args)]
pub(super) struct Filter {
    /// Only this category; may be repeated
    #[arg(long, value_name = "CATEGORY")]
    category: Vec<String>,
    /// Only this type; may be repeated
    #[arg(long = "type", id = "event_type", value_name = "TYPE")]
    event_type: Vec<String>,
}

impl From<Filter> for LogFilter {
    fn from(filter: Filter) -> Self {
        Self {
            categories: filter.category.into_iter().map(Into::into).collect(),
            event_types: filter.event_type.into_iter().map(Into::into).collect(),
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// [`Failure`] when the store cannot be read or the output not be written.
pub(super) async fn run(action: Action, config: &Config) -> Result<(), Failure> {
    let store = open_to_read(config).await?;
    match action {
        Action::List { after, limit, stream: Some(stream), output, .. } => {
            let events = of_stream(&*store, &stream, Version(after), limit).await?;
            let next_after = events.last().map_or(after, |event| event.version.0);
            show(&events, next_after, output)
        }
        Action::List { after, limit, filter, output, .. } => {
            let (events, next_after) = list(&*store, GlobalPosition(after), limit, &filter.into()).await?;
            show(&events, next_after.0, output)
        }
        Action::Tail { after, filter } => {
            let after = match after {
                Some(after) => GlobalPosition(after),
                None => store.head().await?.position,
            };
            let filter = filter.into();
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => Ok(()),
                ended = tail(&*store, after, &filter) => ended,
            }
        }
        Action::Export { file, after, filter } => {
            export(&*store, Export { file, after: GlobalPosition(after), filter: filter.into() }).await
        }
    }
}

/// Up to `limit` events and where to go on. A store may stop looking before it has found so many.
async fn list(
    store: &dyn EventStore,
    mut after: GlobalPosition,
    limit: usize,
    filter: &LogFilter,
) -> Result<(Vec<RecordedEvent>, GlobalPosition), StoreError> {
    let mut events = Vec::new();
    while events.len() < limit {
        let page = store.read_log(after, PAGE.min(limit - events.len()), filter).await?;
        events.extend(page.events);
        if page.scanned_to <= after {
            break;
        }
        after = page.scanned_to;
    }
    Ok((events, after))
}

/// The text of a stream's name does not say where its category ends, so that every dash is tried; only one of the
/// streams that share a text is likely to exist.
async fn of_stream(
    store: &dyn EventStore,
    text: &str,
    after: Version,
    limit: usize,
) -> Result<Vec<RecordedEvent>, Failure> {
    let splits = text.match_indices('-').map(|(dash, _)| StreamId::new(&text[..dash], &text[dash + 1..]));
    let requests: Vec<_> = splits
        .filter(|stream| stream.validate().is_ok())
        .map(|stream| LoadRequest { stream, snapshot_schema: None })
        .collect();
    if requests.is_empty() {
        return Err(Failure::Usage(format!("{text:?} is no stream; it must be of the form CATEGORY-KEY")));
    }
    let found = store.load_streams(&requests, 1).await?;
    let stream = requests.iter().zip(&found).find(|(_, loaded)| !loaded.events.is_empty());
    match stream {
        Some((LoadRequest { stream, .. }, _)) => Ok(store.read_stream(stream, after, limit).await?),
        None => Err(Failure::Stopped(format!("there is no stream {text}"))),
    }
}

async fn tail(store: &dyn EventStore, mut after: GlobalPosition, filter: &LogFilter) -> Result<(), Failure> {
    loop {
        let page = store.read_log(after, PAGE, filter).await?;
        let mut lines = Vec::new();
        page.events.iter().try_for_each(|event| write_line(&mut lines, event))?;
        output::print(&lines)?;
        if page.scanned_to <= after {
            tokio::time::sleep(POLL_EVERY).await;
        }
        after = after.max(page.scanned_to);
    }
}

fn show(events: &[RecordedEvent], next_after: u64, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        let items = events.iter().map(EventShape::of).collect::<Result<Vec<_>, _>>()?;
        return output::print_json(&Page { items, next_after });
    }
    let mut table = output::table(["POSITION", "RECORDED AT", "STREAM", "VERSION", "TYPE", "DATA"]);
    for event in events {
        table.add_row([
            event.position.to_string(),
            output::time(event.recorded_at),
            event.stream.to_string(),
            event.version.to_string(),
            event.event_type.to_string(),
            shortened(&event.json),
        ]);
    }
    output::print_line(table)
}

fn shortened(json: &str) -> String {
    match json.char_indices().nth(DATA_SHOWN) {
        Some((end, _)) => format!("{}…", &json[..end]),
        None => json.to_owned(),
    }
}

#[derive(Serialize)]
struct Page<'a> {
    items: Vec<EventShape<'a>>,
    next_after: u64,
}

/// Writes the event as one line of JSON.
pub(super) fn write_line(out: &mut impl Write, event: &RecordedEvent) -> Result<(), Failure> {
    let line = EventShape::of(event)?;
    serde_json::to_writer(&mut *out, &line).map_err(|error| Failure::output(error.into()))?;
    out.write_all(b"\n").map_err(Failure::output)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::event::{ChainHash, Metadata};

    #[test]
    fn a_line_shows_the_event_as_the_http_interface_does() {
        let event = RecordedEvent {
            position: GlobalPosition(7),
            event_id: uuid::Uuid::nil(),
            stream: StreamId::new("payment", "a-b"),
            version: Version(2),
            event_type: "PaymentAuthorized".into(),
            schema_version: 1,
            json: r#"{"amount":"12.50"}"#.into(),
            metadata: Metadata::from_json(r#"{"principal":"ann"}"#),
            recorded_at: DateTime::from_timestamp_micros(1_000_000).unwrap(),
            hash: ChainHash::START,
            decoded: None,
        };
        let mut line = Vec::new();

        write_line(&mut line, &event).unwrap();

        let expected = concat!(
            r#"{"position":7,"event_id":"00000000-0000-0000-0000-000000000000","stream":"payment-a-b","#,
            r#""category":"payment","key":"a-b","version":2,"type":"PaymentAuthorized","schema_version":1,"#,
            r#""data":{"amount":"12.50"},"metadata":{"principal":"ann"},"recorded_at":"1970-01-01T00:00:01.000000Z"}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn long_data_are_shortened_between_characters() {
        assert_eq!(shortened(&"é".repeat(81)), format!("{}…", "é".repeat(80)));
        assert_eq!(shortened("{}"), "{}");
    }
}
