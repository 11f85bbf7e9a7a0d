//! This file bounds a page of the log in bytes: its limit counts events, and each of them may be large.

use crate::event::RecordedEvent;

/// Bytes of events after which a page of the log ends, whatever its limit says.
pub const MAX_PAGE_BYTES: usize = 16 * 1024 * 1024;

/// The events of a page while they come in.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) events: Vec<RecordedEvent>,
    bytes: usize,
}

impl Collected {
    /// Room for so many events.
    pub(super) fn expecting(events: usize) -> Self {
        const MOST: usize = 4_096;
        Self { events: Vec::with_capacity(events.min(MOST)), bytes: 0 }
    }

    pub(super) fn push(&mut self, event: RecordedEvent) {
        self.bytes += event.weight();
        self.events.push(event);
    }

    /// Whether the page ends here.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= MAX_PAGE_BYTES
    }
}
