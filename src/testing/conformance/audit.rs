//! This file shows how the log is searched: by stream, by who asked, by type, newest first.

use uuid::Uuid;

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::event::{CommandId, Metadata, MetadataFields};
use crate::store::SharedStore;
use crate::store::audit::AuditFilter;
use crate::stream::{GlobalPosition, StreamId};

fn asked_by(principal: &str) -> Metadata {
    Metadata::new(MetadataFields {
        command_id: CommandId(Uuid::nil()),
        correlation_id: Uuid::nil(),
        causation_id: Uuid::nil(),
        principal: principal.into(),
        extra: Default::default(),
    })
}

/// Ada's opened by ann and closed by eve, bob's opened by ben and closed by ann.
async fn four_events(log: &dyn StoreUnderTest) -> OpenLog {
    let mut open = OpenLog::of(log).await;
    open.store.index_audit().await.expect("an empty log can be indexed");
    let steps = [(ada(), 1, "Opened", "ann"), (bob(), 1, "Opened", "ben"), (ada(), 2, "Closed", "eve")];
    for (stream, version, event_type, principal) in steps.into_iter().chain([(bob(), 2, "Closed", "ann")]) {
        let batch = open.batch().event_with(&stream, version, |event| {
            event.event_type = event_type.into();
            event.metadata = asked_by(principal);
        });
        open.append(batch).await;
    }
    open
}

async fn found(store: &SharedStore, filter: AuditFilter, limit: usize) -> Vec<u64> {
    let events = store.search_log(&filter, limit).await.expect("the log can be searched");
    assert!(events.iter().all(|event| filter.allows(event)), "{events:?} pass {filter:?}");
    events.iter().map(|event| event.position.0).collect()
}

/// Each condition alone, and several together.
pub async fn events_are_found_by_stream_principal_and_type_newest_first(log: &dyn StoreUnderTest) {
    let open = four_events(log).await;
    let (ann, closed) = (Some("ann".to_owned()), Some("Closed".into()));
    let of = |streams: &[StreamId]| AuditFilter { streams: Some(streams.to_vec()), ..AuditFilter::default() };
    let nobody = StreamId::new("account", "nobody");
    let cases = [
        (AuditFilter::default(), vec![4, 3, 2, 1]),
        (of(&[ada()]), vec![3, 1]),
        (of(&[bob(), ada(), nobody.clone()]), vec![4, 3, 2, 1]),
        (of(&[nobody]), vec![]),
        (of(&[]), vec![]),
        (AuditFilter { principal: ann.clone(), ..AuditFilter::default() }, vec![4, 1]),
        (AuditFilter { event_type: closed.clone(), ..AuditFilter::default() }, vec![4, 3]),
        (AuditFilter { principal: ann.clone(), event_type: closed.clone(), ..AuditFilter::default() }, vec![4]),
        (AuditFilter { principal: ann.clone(), ..of(&[ada()]) }, vec![1]),
        (AuditFilter { principal: ann, event_type: closed, ..of(&[ada()]) }, vec![]),
    ];
    for (filter, wanted) in cases {
        assert_eq!(found(&open.store, filter.clone(), 10).await, wanted, "{filter:?}");
    }
}

/// Both ends are exclusive.
pub async fn a_search_keeps_to_its_bounds_and_its_limit(log: &dyn StoreUnderTest) {
    let open = four_events(log).await;
    let between = |after, before| AuditFilter {
        after: GlobalPosition(after),
        before: GlobalPosition(before),
        ..AuditFilter::default()
    };

    assert_eq!(found(&open.store, between(1, 4), 10).await, [3, 2]);
    assert_eq!(found(&open.store, between(2, 3), 10).await, Vec::<u64>::new());
    assert_eq!(found(&open.store, between(0, u64::MAX), 3).await, [4, 3, 2]);
    assert_eq!(found(&open.store, between(0, u64::MAX), 0).await, Vec::<u64>::new());
}

/// Names that begin alike are apart, and a long one is no reason to refuse an event.
pub async fn a_principal_is_compared_whole_whatever_its_length(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    // Different letters, so that a database that compresses index entries is not let off.
    let long: String =
        (0..9_000_u32).map(|n| char::from(b'!' + u8::try_from(n * 31 % 90).expect("below 90"))).collect();
    let names = ["ann", "Ann", "ann ", "annabel", &long, &long[..255]].map(str::to_owned);
    for (version, name) in (1..).zip(&names) {
        let batch = open.batch().event_with(&ada(), version, |event| event.metadata = asked_by(name));
        open.append(batch).await;
    }
    let by = |name: &str| AuditFilter { principal: Some(name.into()), ..AuditFilter::default() };

    assert_eq!(found(&open.store, by("ann"), 10).await, [1]);
    assert_eq!(found(&open.store, by("ann "), 10).await, [3]);
    assert_eq!(found(&open.store, by(&long[..255]), 10).await, [6], "and not the longer one that begins so");
}
