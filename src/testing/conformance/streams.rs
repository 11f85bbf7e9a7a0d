//! This file shows how single streams are read, and many in one go.

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::store::{LoadRequest, LoadedStream};
use crate::stream::{StreamId, Version};

fn plain(stream: &StreamId) -> LoadRequest {
    LoadRequest { stream: stream.clone(), snapshot_schema: None }
}

fn versions(loaded: &LoadedStream) -> Vec<u64> {
    loaded.events.iter().map(|event| event.version.0).collect()
}

/// `after` is exclusive, `limit` counts events.
pub async fn a_stream_is_read_behind_a_version_and_up_to_a_limit(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for version in 1..=6 {
        open.append(open.batch().events(&ada(), version, 1).events(&bob(), version, 1)).await;
    }

    for (after, limit, wanted) in [(0, 10, 1..7), (0, 6, 1..7), (0, 2, 1..3), (2, 3, 3..6), (5, 10, 6..7)] {
        let found = open.store.read_stream(&ada(), Version(after), limit).await.expect("a stream can be read");
        assert!(found.iter().all(|event| event.stream == ada()), "{found:?}");
        let found: Vec<u64> = found.iter().map(|event| event.version.0).collect();
        assert_eq!(found, wanted.collect::<Vec<_>>(), "after {after}, at most {limit}");
    }
}

/// Behind the end, of a stream nobody wrote, or of none at all: no events and no error.
pub async fn nothing_is_read_where_there_is_nothing(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 3)).await;

    for (stream, after, limit) in [(ada(), 3, 10), (ada(), 4, 10), (ada(), u64::MAX, 10), (ada(), 0, 0), (bob(), 0, 10)]
    {
        let found = open.store.read_stream(&stream, Version(after), limit).await.expect("a stream can be read");
        assert_eq!(found, [], "{stream} after {after}, at most {limit}");
    }
}

/// `a-b` + `c` and `a` + `b-c` look the same when written out.
pub async fn streams_with_one_text_but_other_categories_are_apart(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let (left, right) = (StreamId::new("a-b", "c"), StreamId::new("a", "b-c"));
    assert_eq!(left.as_str(), right.as_str());

    open.append(open.batch().events(&left, 1, 2).events(&right, 1, 1)).await;

    let read = open.store.read_stream(&left, Version::EMPTY, 10).await.expect("a stream can be read");
    assert_eq!(read.iter().map(|event| &event.stream).collect::<Vec<_>>(), [&left, &left]);
    let loaded = open.store.load_streams(&[plain(&right), plain(&left)], 10).await.expect("streams can be loaded");
    assert_eq!(loaded.iter().map(versions).collect::<Vec<_>>(), [vec![1], vec![1, 2]]);
    assert_eq!(loaded[0].events[0].stream, right);
}

/// One answer for each request, in their order, empty for those that do not exist.
pub async fn streams_are_loaded_in_the_order_asked(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2).events(&bob(), 1, 1)).await;
    let missing = StreamId::new("account", "missing");

    let requests = [plain(&bob()), plain(&missing), plain(&ada())];
    let loaded = open.store.load_streams(&requests, 10).await.expect("streams can be loaded");

    assert_eq!(loaded.iter().map(versions).collect::<Vec<_>>(), [vec![1], vec![], vec![1, 2]]);
    assert!(loaded.iter().all(|stream| !stream.more && stream.snapshot.is_none()), "{loaded:?}");
    assert_eq!((&loaded[0].events[0].stream, &loaded[2].events[0].stream), (&bob(), &ada()));
}

/// What is loaded is equal in all parts to what was appended.
pub async fn loaded_events_are_those_that_were_appended(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let batch = open.batch().event(&ada(), 1, "Opened", r#"{ "owner":"Zoë" , "n":1.0}"#).events(&ada(), 2, 2);
    let batch = open.append(batch).await;

    let loaded = open.store.load_streams(&[plain(&ada())], 10).await.expect("streams can be loaded");

    assert_eq!(loaded[0].events, *batch.events);
}

/// A stream as long as the limit is whole; a longer one says that there is more.
pub async fn a_load_says_whether_there_is_more_behind_its_limit(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 5).events(&bob(), 1, 3)).await;

    let requests = [plain(&ada()), plain(&bob())];
    let mut loaded = open.store.load_streams(&requests, 3).await.expect("streams can be loaded");

    assert_eq!(loaded.iter().map(versions).collect::<Vec<_>>(), [vec![1, 2, 3], vec![1, 2, 3]]);
    assert_eq!(loaded.iter().map(|stream| stream.more).collect::<Vec<_>>(), [true, false]);
    let rest = open.store.read_stream(&ada(), Version(3), 10).await.expect("a stream can be read");
    loaded[0].events.extend(rest);
    assert_eq!(versions(&loaded[0]), [1, 2, 3, 4, 5]);
}

/// Whoever asks twice is answered twice.
pub async fn a_stream_asked_for_twice_is_loaded_twice(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&ada(), 1, 2)).await;

    let requests = [plain(&ada()), plain(&bob()), plain(&ada())];
    let loaded = open.store.load_streams(&requests, 10).await.expect("streams can be loaded");

    assert_eq!(loaded.iter().map(versions).collect::<Vec<_>>(), [vec![1, 2], vec![], vec![1, 2]]);
}

/// No request, no answer.
pub async fn loading_no_stream_gives_none(log: &dyn StoreUnderTest) {
    let open = OpenLog::of(log).await;

    assert!(open.store.load_streams(&[], 10).await.expect("streams can be loaded").is_empty());
}

/// 1,000 cold aggregates at once, half of them new.
pub async fn a_thousand_streams_are_loaded_in_one_go(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let streams: Vec<StreamId> = (0..1_000).map(|n| StreamId::new("account", &format!("n{n}"))).collect();
    let written = streams.iter().step_by(2);
    open.append(written.fold(open.batch(), |batch, stream| batch.events(stream, 1, 2))).await;

    let requests: Vec<LoadRequest> = streams.iter().rev().map(plain).collect();
    let loaded = open.store.load_streams(&requests, 10).await.expect("streams can be loaded");

    assert_eq!(loaded.len(), 1_000);
    for (n, (stream, found)) in streams.iter().rev().zip(&loaded).enumerate() {
        let wanted = if n % 2 == 1 { 2 } else { 0 };
        assert_eq!(found.events.len(), wanted, "{stream}");
        assert!(found.events.iter().all(|event| event.stream == *stream), "{stream}: {found:?}");
    }
}
