//! This file reads all that a log holds, for tests that hold it against something.

use crate::event::RecordedEvent;
use crate::store::{EventStore, LogFilter, LogPage};
use crate::stream::GlobalPosition;

/// Every event of the log, oldest first, read page by page: a page ends where its bytes are enough, so that one page
/// with a large limit may be less than the log.
///
/// # Panics
/// If the log cannot be read, or tells of more than its head.
pub async fn whole_log(store: &dyn EventStore) -> Vec<RecordedEvent> {
    const PAGE: usize = 1_000;
    let (mut events, mut after) = (Vec::new(), GlobalPosition::START);
    loop {
        let page = store.read_log(after, PAGE, &LogFilter::default()).await.expect("the log can be read");
        let LogPage { events: found, scanned_to, head } = page;
        assert!(scanned_to <= head, "a page goes no further than the head");
        if scanned_to == after {
            return events;
        }
        events.extend(found);
        after = scanned_to;
    }
}
