//! This file shows how the log is read: in order, page by page, filtered or not, and beside a writer that appends.

use std::borrow::Cow;

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::event::{ChainHash, RecordedEvent};
use crate::store::{EventStore, LogFilter, LogPage, MAX_PAGE_BYTES, SharedStore, StoreError};
use crate::stream::{GlobalPosition, StreamId};

fn filter(categories: &[&'static str], event_types: &[&'static str]) -> LogFilter {
    let owned = |list: &[&'static str]| list.iter().map(|&item| Cow::Borrowed(item)).collect();
    LogFilter { categories: owned(categories), event_types: owned(event_types) }
}

async fn page(store: &dyn EventStore, after: u64, limit: usize, filter: &LogFilter) -> LogPage {
    let page = store.read_log(GlobalPosition(after), limit, filter).await.expect("the log can be read");
    assert!(page.events.len() <= limit, "{} events, asked for {limit}", page.events.len());
    assert!(page.events.iter().all(|event| event.position.0 > after), "behind {after} only: {page:?}");
    assert!(page.events.iter().all(|event| event.position <= page.scanned_to), "scanned what it gives: {page:?}");
    assert!(page.events.iter().all(|event| filter.allows(event)), "lets pass what was asked for: {page:?}");
    page
}

/// Reads on until a page makes no progress, which it may only at the head.
async fn walk(store: &dyn EventStore, limit: usize, filter: &LogFilter) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    let mut after = GlobalPosition::START;
    loop {
        let page = page(store, after.0, limit, filter).await;
        events.extend(page.events);
        if page.scanned_to == after {
            assert_eq!(after, page.head, "no progress before the end of the log");
            return events;
        }
        assert!(after < page.scanned_to && page.scanned_to <= page.head, "from {after} to {:?}", page.scanned_to);
        after = page.scanned_to;
    }
}

fn positions(events: &[RecordedEvent]) -> Vec<u64> {
    events.iter().map(|event| event.position.0).collect()
}

/// 30 events in 3 categories and 2 types; the rare ones stand at the beginning and at the end.
async fn mixed(log: &dyn StoreUnderTest) -> OpenLog {
    let mut open = OpenLog::of(log).await;
    let rare = StreamId::new("rare", "r");
    open.append(open.batch().event(&rare, 1, "Opened", "{}")).await;
    for version in 1..=14 {
        let batch = open.batch().event(&ada(), version, if version == 1 { "Opened" } else { "Deposited" }, "{}");
        open.append(batch.event(&StreamId::new("card", "c"), version, "Deposited", "{}")).await;
    }
    open.append(open.batch().event(&rare, 2, "Closed", "{}")).await;
    open
}

/// `after` is exclusive, `limit` counts positions; the page says how far it looked and how far the log goes.
pub async fn the_log_is_read_behind_a_position_and_up_to_a_limit(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    for (after, limit, wanted) in [(0, 100, 1..31), (0, 30, 1..31), (0, 1, 1..2), (4, 10, 5..15), (29, 5, 30..31)] {
        let found = page(&*open.store, after, limit, &LogFilter::default()).await;
        let wanted: Vec<u64> = wanted.collect();
        assert_eq!(positions(&found.events), wanted, "after {after}, at most {limit}");
        assert_eq!((Some(&found.scanned_to.0), found.head.0), (wanted.last(), 30), "after {after}, at most {limit}");
    }
}

/// A page ends where its events are too many bytes, says so, and the next one goes on behind it.
pub async fn a_page_of_large_events_ends_before_its_limit(log: &dyn StoreUnderTest) {
    const LARGE: usize = MAX_PAGE_BYTES / 8;
    let mut open = OpenLog::of(log).await;
    let large = format!(r#"{{"note":"{}"}}"#, "x".repeat(LARGE));
    for version in 1..=12 {
        open.append(open.batch().event(&ada(), version, "Deposited", &large)).await;
    }

    for wanted in [LogFilter::default(), filter(&["account"], &[])] {
        for limit in [100, 1_000] {
            let first = page(&*open.store, 0, limit, &wanted).await;
            assert_eq!((positions(&first.events), first.scanned_to.0), ((1..=8).collect(), 8), "{limit} {wanted:?}");
            let all = positions(&walk(&*open.store, limit, &wanted).await);
            assert_eq!(all, (1..=12).collect::<Vec<_>>(), "{limit} {wanted:?}");
        }
    }
}

/// At the end of the log there are no events, and the next page starts at the same place.
pub async fn a_page_at_the_end_of_the_log_is_empty(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    for wanted in [LogFilter::default(), filter(&["account"], &[])] {
        for limit in [10, 1_000] {
            let found = page(&*open.store, 30, limit, &wanted).await;
            assert_eq!((found.events, found.scanned_to.0, found.head.0), (vec![], 30, 30));
        }
    }
}

/// Somebody remembers a position that the log, restored from a copy, no longer has.
pub async fn a_page_from_beyond_the_end_finds_nothing(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    for after in [31, 1_000, u64::MAX / 2, u64::MAX] {
        for limit in [10, 1_000] {
            let found = page(&*open.store, after, limit, &LogFilter::default()).await;
            assert_eq!((found.events, found.head.0), (vec![], 30), "after {after}");
        }
    }
}

/// Page by page, whatever their size, the whole log comes by once and in order.
pub async fn pages_of_any_size_give_the_whole_log_once(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    for limit in [1, 2, 7, 29, 30, 31, 1_000] {
        let found = walk(&*open.store, limit, &LogFilter::default()).await;
        assert_eq!(positions(&found), (1..=30).collect::<Vec<_>>(), "pages of {limit}");
    }
}

/// Any of the categories, in order, with pages of any size.
pub async fn the_log_is_filtered_by_category(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    for limit in [1, 3, 100] {
        let accounts = walk(&*open.store, limit, &filter(&["account"], &[])).await;
        assert_eq!(positions(&accounts), (1..=14).map(|n| n * 2).collect::<Vec<_>>(), "pages of {limit}");
        let rare = walk(&*open.store, limit, &filter(&["rare"], &[])).await;
        assert_eq!(positions(&rare), [1, 30], "pages of {limit}");
        let both = walk(&*open.store, limit, &filter(&["rare", "account"], &[])).await;
        assert_eq!(both.len(), 16, "pages of {limit}");
    }
}

/// Any of the types.
pub async fn the_log_is_filtered_by_event_type(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    let opened = walk(&*open.store, 10, &filter(&[], &["Opened"])).await;
    let ends = walk(&*open.store, 10, &filter(&[], &["Closed", "Opened"])).await;

    assert_eq!(positions(&opened), [1, 2]);
    assert_eq!(positions(&ends), [1, 2, 30]);
}

/// Both conditions must hold.
pub async fn the_log_is_filtered_by_category_and_event_type_together(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;

    let found = walk(&*open.store, 10, &filter(&["account", "rare"], &["Opened"])).await;
    let none = walk(&*open.store, 10, &filter(&["card"], &["Opened"])).await;

    assert_eq!(positions(&found), [1, 2]);
    assert_eq!(none, []);
}

/// Names are compared whole and byte for byte: no pattern, no beginning, no other case.
pub async fn a_filter_compares_whole_names(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for category in ["a_b", "axb", "a", "a_b_c"] {
        open.append(open.batch().event(&StreamId::new(category, "k"), 1, "It's", "{}")).await;
    }

    assert_eq!(positions(&walk(&*open.store, 10, &filter(&["a_b"], &[])).await), [1]);
    assert_eq!(positions(&walk(&*open.store, 10, &filter(&["a"], &["It's"])).await), [3]);
    for nothing in [filter(&["a%"], &[]), filter(&["A"], &[]), filter(&[], &["it's"]), filter(&[""], &[])] {
        assert_eq!(walk(&*open.store, 10, &nothing).await, [], "{nothing:?}");
    }
}

/// However long the stretch that nothing passes: every page makes progress until the head is reached.
pub async fn a_filter_that_nothing_passes_still_gets_to_the_head(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for n in 0..6 {
        open.append(open.batch().events(&ada(), n * 2_000 + 1, 2_000)).await;
    }

    let none = walk(&*open.store, 10, &filter(&["rare"], &[])).await;

    assert_eq!(none, []);
}

/// Filtered or not, events are equal in all parts to those that were appended.
pub async fn filtered_events_are_those_of_the_log(log: &dyn StoreUnderTest) {
    let open = mixed(log).await;
    let wanted = filter(&["account", "rare"], &["Opened", "Closed"]);

    let found = walk(&*open.store, 2, &wanted).await;

    let all = walk(&*open.store, 100, &LogFilter::default()).await;
    assert_eq!(found, all.into_iter().filter(|event| wanted.allows(event)).collect::<Vec<_>>());
}

/// A reader beside the writer never meets a hole, a late arrival or an event beyond the head it was told.
pub async fn readers_beside_a_writer_see_only_dense_prefixes(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let mut readers = Vec::new();
    for limit in [1, 7, 50] {
        readers.push(tokio::spawn(follow(log.open().await, 400, limit)));
    }

    for n in 0..200 {
        open.append(open.batch().events(&ada(), n + 1, 1).events(&bob(), n + 1, 1)).await;
        tokio::task::yield_now().await;
    }

    for reader in readers {
        let hash = reader.await.expect("a reader met nothing but the log");
        assert_eq!(hash, open.head.chain_hash, "every reader saw the same log");
    }
}

/// Follows the log until it has seen `last`, and returns the hash of what it saw.
async fn follow(store: SharedStore, last: u64, limit: usize) -> ChainHash {
    let (mut seen, mut hash) = (0, ChainHash::START);
    while seen < last {
        let head = store.head().await.expect("the head can be read");
        let found = page(&*store, seen, limit, &LogFilter::default()).await;
        assert!(found.head >= head.position, "a later page knows an earlier head: {:?} < {head:?}", found.head);
        assert!(found.scanned_to <= found.head, "{:?} is beyond {:?}", found.scanned_to, found.head);
        let wanted = (seen + limit as u64).min(head.position.0).max(seen);
        assert!(found.scanned_to.0 >= wanted, "the head said {}, read to {}", head.position, found.scanned_to);
        for event in found.events {
            assert_eq!(event.position.0, seen + 1, "dense and in order");
            hash = hash.extended_by(&event);
            seen += 1;
        }
        tokio::task::yield_now().await;
    }
    hash
}

/// A refused batch is never visible, not even for a moment.
pub async fn readers_beside_a_writer_never_see_a_refused_batch(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&bob(), 1, 1)).await;
    let reader = tokio::spawn(follow(log.open().await, 40, 10));

    for n in 0..39 {
        let refused = open.batch().event(&ada(), n + 1, "Refused", "{}").events(&bob(), 1, 1).build();
        let error = open.writer.append(&refused).await.expect_err("that version of bob's exists");
        assert_error!(error, StoreError::Conflict { .. });
        open.append(open.batch().events(&ada(), n + 1, 1)).await;
        tokio::task::yield_now().await;
    }

    let hash = reader.await.expect("the reader met nothing but the log");
    assert_eq!(hash, open.head.chain_hash);
    assert_eq!(walk(&*open.store, 10, &filter(&[], &["Refused"])).await, []);
}
