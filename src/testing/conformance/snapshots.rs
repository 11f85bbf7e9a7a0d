//! This file shows when a saved state takes the place of the events before it, and when it is ignored.

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::event::ChainHash;
use crate::store::{LoadRequest, LoadedStream, Snapshot};
use crate::stream::{StreamId, Version};

/// A log with ten events of [`ada`], whose positions are not her versions.
async fn ten_events(log: &dyn StoreUnderTest) -> OpenLog {
    let mut open = OpenLog::of(log).await;
    open.append(open.batch().events(&bob(), 1, 4)).await;
    open.append(open.batch().events(&ada(), 1, 10)).await;
    open
}

/// The snapshot of [`ada`] at this version, as it should be.
async fn snapshot_at(open: &OpenLog, version: u64) -> Snapshot {
    let before = Version(version - 1);
    let event = open.store.read_stream(&ada(), before, 1).await.expect("a stream can be read").remove(0);
    Snapshot {
        stream: ada(),
        version: event.version,
        position: event.position,
        chain_hash: event.hash,
        schema_version: 1,
        state: format!("state at {version}").into_bytes(),
    }
}

async fn save(open: &OpenLog, snapshot: &Snapshot) {
    open.store.save_snapshot(snapshot).await.expect("a snapshot can be saved");
}

async fn load(open: &OpenLog, schema: Option<u16>, limit: usize) -> LoadedStream {
    let request = LoadRequest { stream: ada(), snapshot_schema: schema };
    open.store.load_streams(&[request], limit).await.expect("streams can be loaded").remove(0)
}

/// How far a loaded stream's snapshot goes (0: there is none), and the versions of its events.
fn parts(loaded: &LoadedStream) -> (u64, Vec<u64>) {
    let snapshot = loaded.snapshot.as_ref().map_or(0, |snapshot| snapshot.version.0);
    (snapshot, loaded.events.iter().map(|event| event.version.0).collect())
}

/// The snapshot comes back as it was, with only the events behind it.
pub async fn a_snapshot_takes_the_place_of_the_events_before_it(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    let snapshot = Snapshot { state: (0..=255).collect(), ..snapshot_at(&open, 7).await };

    save(&open, &snapshot).await;

    let loaded = load(&open, Some(1), 100).await;
    assert_eq!(parts(&loaded), (7, vec![8, 9, 10]));
    assert_eq!(loaded.snapshot, Some(snapshot));
    assert!(!loaded.more);
}

/// At the last version there is nothing left to apply.
pub async fn a_snapshot_of_the_last_version_leaves_no_events(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 10).await).await;

    let loaded = load(&open, Some(1), 100).await;

    assert_eq!((parts(&loaded), loaded.more), ((10, vec![]), false));
}

/// Whoever does not ask for a snapshot gets all events.
pub async fn a_snapshot_nobody_asked_for_is_not_given(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 7).await).await;

    assert_eq!(parts(&load(&open, None, 100).await), (0, (1..=10).collect()));
}

/// A state of another shape is as good as none.
pub async fn a_snapshot_of_another_schema_is_ignored(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 7).await).await;

    assert_eq!(parts(&load(&open, Some(2), 100).await), (0, (1..=10).collect()));
    assert_eq!(parts(&load(&open, Some(1), 100).await), (7, vec![8, 9, 10]));
}

/// The log was replaced by an older or another one: what the state was made of is not there.
pub async fn a_snapshot_whose_event_has_another_hash_is_ignored(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &Snapshot { chain_hash: ChainHash([7; 32]), ..snapshot_at(&open, 7).await }).await;

    assert_eq!(parts(&load(&open, Some(1), 100).await), (0, (1..=10).collect()));
}

/// The log was replaced by a shorter one.
pub async fn a_snapshot_beyond_the_end_of_its_stream_is_ignored(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    let last = snapshot_at(&open, 10).await;
    save(&open, &Snapshot { version: Version(11), position: last.position.next(), ..last }).await;

    assert_eq!(parts(&load(&open, Some(1), 100).await), (0, (1..=10).collect()));
}

/// One snapshot a stream is kept: the newest.
pub async fn a_newer_snapshot_replaces_the_older_one(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 3).await).await;
    save(&open, &snapshot_at(&open, 7).await).await;

    assert_eq!(parts(&load(&open, Some(1), 100).await), (7, vec![8, 9, 10]));
}

/// A slow save that arrives late changes nothing.
pub async fn an_older_snapshot_than_the_kept_one_is_ignored(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 7).await).await;
    save(&open, &snapshot_at(&open, 3).await).await;

    assert_eq!(parts(&load(&open, Some(1), 100).await), (7, vec![8, 9, 10]));
}

/// After a change of the state's shape the same version is saved again.
pub async fn a_snapshot_of_the_same_version_replaces_the_kept_one(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 7).await).await;
    let reshaped = Snapshot { schema_version: 2, state: b"reshaped".to_vec(), ..snapshot_at(&open, 7).await };

    save(&open, &reshaped).await;

    assert_eq!(load(&open, Some(2), 100).await.snapshot, Some(reshaped));
    assert_eq!(parts(&load(&open, Some(1), 100).await), (0, (1..=10).collect()));
}

/// The limit counts events behind the snapshot, not behind the first.
pub async fn the_limit_of_a_load_counts_from_the_snapshot(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 4).await).await;

    let cut = load(&open, Some(1), 5).await;
    let whole = load(&open, Some(1), 6).await;

    assert_eq!((parts(&cut), cut.more), ((4, vec![5, 6, 7, 8, 9]), true));
    assert_eq!((parts(&whole), whole.more), ((4, vec![5, 6, 7, 8, 9, 10]), false));
}

/// Requests for one stream with and without a snapshot, and for others, do not mix.
pub async fn each_request_of_a_load_has_its_own_snapshot_or_none(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    save(&open, &snapshot_at(&open, 9).await).await;
    let request = |stream: StreamId, snapshot_schema| LoadRequest { stream, snapshot_schema };

    let requests = [request(bob(), Some(1)), request(ada(), Some(1)), request(ada(), None), request(ada(), Some(2))];
    let loaded = open.store.load_streams(&requests, 100).await.expect("streams can be loaded");

    let all: Vec<u64> = (1..=10).collect();
    let wanted = [(0, vec![1, 2, 3, 4]), (9, vec![10]), (0, all.clone()), (0, all)];
    assert_eq!(loaded.iter().map(parts).collect::<Vec<_>>(), wanted);
}

/// A state of 1 MiB and an empty one.
pub async fn snapshots_of_any_size_survive(log: &dyn StoreUnderTest) {
    let open = ten_events(log).await;
    for (version, state) in [(2, Vec::new()), (3, (0..1 << 20).map(|n: u32| n as u8).collect())] {
        let snapshot = Snapshot { state, ..snapshot_at(&open, version).await };
        save(&open, &snapshot).await;
        assert!(load(&open, Some(1), 100).await.snapshot == Some(snapshot), "the state at {version} came back changed");
    }
}
