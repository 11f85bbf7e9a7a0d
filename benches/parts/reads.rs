//! This file sets up a hot read model of payments, without an engine around it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use essaim::aggregate::decode_event;
use essaim::domain::payment::Payment;
use essaim::event::RecordedEvent;
use essaim::projections::Sources;
use essaim::projections::payment_summaries::{PaymentFilter, PaymentRow, PaymentSummaries, page};
use essaim::projections::table::{Keys, Table};
use uuid::Uuid;

use super::{Turn, domain};

const PAYMENTS: u64 = 10_000;
const PAGE: usize = 100;

/// A table, and the events that it was filled with, decoded as those of this process are.
struct Filled {
    table: Table<PaymentSummaries>,
    events: Vec<RecordedEvent>,
    sources: Sources<PaymentSummaries>,
    dirty: Keys<PaymentSummaries>,
}

impl Filled {
    fn new() -> Self {
        let decoded = |event: &RecordedEvent| {
            let data = decode_event::<Payment>(event).expect("this program wrote it");
            RecordedEvent { decoded: Some(Arc::new(data)), ..event.clone() }
        };
        let events = domain::created(PAYMENTS).events.iter().map(decoded).collect();
        let mut filled = Self {
            table: Table::default(),
            events,
            sources: Sources::of(),
            dirty: Keys::<PaymentSummaries>::default(),
        };
        (0..PAYMENTS as usize).for_each(|n| filled.project(n));
        filled
    }

    fn project(&mut self, n: usize) {
        let applied = self.table.apply(&PaymentSummaries, &self.sources, &self.events[n], &mut self.dirty);
        applied.expect("it is understood");
    }

    /// Goes round them, far from one to the next.
    fn turn(&self, before: usize) -> usize {
        (before + 7_919) % self.events.len()
    }
}

/// A payment is created once more, so that each turn has as much to do as the one before: the row takes the place of
/// its old self, in the order and in the sums too.
pub(super) fn project() -> Turn {
    let (mut filled, mut n) = (Filled::new(), 0);
    Box::new(move || {
        n = filled.turn(n);
        filled.project(n);
    })
}

pub(super) fn by_key() -> Turn {
    let (filled, mut n) = (Filled::new(), 0);
    let keys: Vec<Uuid> = filled.table.read(|rows| rows.rows().iter().map(|row| row.id).collect());
    Box::new(move || {
        n = filled.turn(n);
        let row: Option<Arc<PaymentRow>> = black_box(filled.table.get(black_box(&keys[n])));
        assert!(row.is_some(), "every payment has a row");
    })
}

/// The newest, of whatever status and currency.
pub(super) fn page_of_100() -> Turn {
    let filled = Filled::new();
    let (filter, now) = (PaymentFilter::default(), DateTime::UNIX_EPOCH);
    Box::new(move || {
        let found = filled.table.read(|rows| page(rows, black_box(&filter), None, PAGE, now, Duration::ZERO));
        assert_eq!(black_box(found).rows.len(), PAGE);
    })
}
