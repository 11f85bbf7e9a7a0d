//! This file shows what a batch that commits does to the log and its head.

use chrono::DateTime;
use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob, outcome};
use crate::aggregate::Claim;
use crate::event::ChainHash;
use crate::store::{Epoch, LoadRequest, LogFilter};
use crate::stream::{GlobalPosition, StreamId, Version};

/// Nothing was written yet, and the head says so; the log has a name from the start.
pub async fn the_head_of_an_empty_log_stands_before_the_first_event(log: &dyn StoreUnderTest) {
    let head = log.open().await.head().await.expect("the head can be read");

    assert_eq!((head.position, head.epoch), (GlobalPosition::START, Epoch(0)));
    assert_eq!((head.writer, head.batch), (Uuid::nil(), Uuid::nil()));
    assert_eq!((head.chain_hash, head.recorded_at), (ChainHash::START, DateTime::UNIX_EPOCH));
    assert_ne!(head.log_id, Uuid::nil());
}

/// Every read of an empty log succeeds and finds nothing.
pub async fn an_empty_log_has_nothing_to_read(log: &dyn StoreUnderTest) {
    let store = log.open().await;
    let request = LoadRequest { stream: ada(), snapshot_schema: Some(1) };

    let page = store.read_log(GlobalPosition::START, 10, &LogFilter::default()).await.expect("the log can be read");
    let stream = store.read_stream(&ada(), Version::EMPTY, 10).await.expect("a stream can be read");
    let loaded = store.load_streams(&[request], 10).await.expect("streams can be loaded");
    let outcomes = store.read_outcomes(&[outcome(1).command_id]).await.expect("outcomes can be read");
    let holders = store.claim_holders(&[Claim::new("name", "ada")]).await.expect("claims can be read");
    let checkpoints = store.checkpoints().await.expect("checkpoints can be read");

    assert_eq!((page.events, page.scanned_to, page.head), (vec![], GlobalPosition::START, GlobalPosition::START));
    assert_eq!(stream, []);
    assert_eq!(loaded.len(), 1);
    assert!(loaded[0].events.is_empty() && loaded[0].snapshot.is_none() && !loaded[0].more, "{loaded:?}");
    assert!(outcomes.is_empty() && holders.is_empty() && checkpoints.is_empty());
}

/// Whoever opens the log, and whatever was appended, it is the same log.
pub async fn a_log_keeps_its_id(log: &dyn StoreUnderTest) {
    let first = log.open().await.head().await.expect("the head can be read").log_id;

    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;
    let second = log.open().await.head().await.expect("the head can be read").log_id;

    assert_eq!(first, second);
}

/// What was appended is what every connection reads, in all its parts.
pub async fn an_appended_batch_is_read_back_as_written_on_every_connection(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().event(&ada(), 1, "Opened", r#"{"owner":"Ada"}"#).event(&bob(), 1, "Opened", "{}");
    let batch = open.append(batch).await;

    let other = log.open().await;
    assert_eq!(open.events().await, *batch.events);
    let page = other.read_log(GlobalPosition::START, 10, &LogFilter::default()).await.expect("the log can be read");
    assert_eq!(page.events, *batch.events);
    assert_eq!(other.head().await.expect("the head can be read"), open.head);
}

/// The last event gives the head its position, hash and time.
pub async fn the_head_describes_the_last_event(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.append(open.batch().events(&ada(), 1, 2).events(&bob(), 1, 1)).await;

    let head = open.store.head().await.expect("the head can be read");
    assert_eq!((head.position, head.batch), (GlobalPosition(3), batch.id));
    assert_eq!((head.chain_hash, head.recorded_at), (batch.events[2].hash, batch.events[2].recorded_at));
}

/// Positions run from 1 without holes, whatever the sizes of the batches.
pub async fn positions_are_dense_across_batches(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let sizes = [1, 3, 0, 7, 1, 0, 2];

    let mut version = 1;
    for size in sizes {
        open.append(open.batch().events(&ada(), version, size)).await;
        version += size;
    }

    let positions: Vec<u64> = open.events().await.iter().map(|event| event.position.0).collect();
    assert_eq!(positions, (1..=14).collect::<Vec<_>>());
}

/// One batch holds events of many streams, interleaved, and each stream has its own versions.
pub async fn one_batch_appends_to_many_streams(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let streams: Vec<StreamId> = (0..50).map(|n| StreamId::new("account", &format!("{n}"))).collect();

    let batch = [1, 2].iter().fold(open.batch(), |batch, &version| {
        streams.iter().fold(batch, |batch, stream| batch.events(stream, version, 1))
    });
    open.append(batch).await;

    for (n, stream) in streams.iter().enumerate() {
        let events = open.store.read_stream(stream, Version::EMPTY, 10).await.expect("a stream can be read");
        let places: Vec<_> = events.iter().map(|event| (event.position.0, event.version.0)).collect();
        assert_eq!(places, [(n as u64 + 1, 1), (n as u64 + 51, 2)], "{stream}");
    }
}

/// A batch without events is a batch: the next one must name it as its predecessor.
pub async fn a_batch_without_events_moves_only_the_batch_of_the_head(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 1)).await;
    let before = open.head.clone();

    let batch = open.append(open.batch().outcome(outcome(1))).await;

    let head = open.store.head().await.expect("the head can be read");
    assert_eq!(head, crate::store::Head { batch: batch.id, ..before });
    open.append(open.batch().events(&ada(), 2, 1)).await;
}

/// 2,000 events, more than a statement of some databases has room for, commit as one batch.
pub async fn a_batch_of_2_000_events_commits_whole(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.append(open.batch().events(&ada(), 1, 2_000)).await;

    let events = open.events().await;
    assert_eq!(events.len(), 2_000);
    assert_eq!(events, *batch.events);
}

/// Hashing what is read back, from the first event on, gives each event's hash and at last the head's.
pub async fn the_chain_of_hashes_recomputed_over_the_log_ends_at_the_head(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for n in 0..20 {
        let batch = open.batch().events(&ada(), n * 2 + 1, 2).event(&bob(), n + 1, "Renamed", r#"{"to": "Zoë ☂"}"#);
        open.append(batch).await;
    }

    let mut hash = ChainHash::START;
    for event in open.events().await {
        hash = hash.extended_by(&event);
        assert_eq!(event.hash, hash, "the hash of {event:?}");
    }

    assert_eq!(open.store.head().await.expect("the head can be read").chain_hash, hash);
}

/// What the store says of itself is fit for a log: not empty, and every setting has a value.
pub async fn a_store_describes_itself_and_its_durability(log: &dyn StoreUnderTest) {
    let store = log.open().await;

    let durability = store.durability().await.expect("the database answers");

    assert!(!store.describe().is_empty());
    assert!(!durability.is_empty(), "what makes commits durable here?");
    for (name, value) in durability {
        assert!(!name.is_empty() && !value.is_empty(), "{name:?} is {value:?}");
    }
}
