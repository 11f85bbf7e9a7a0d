//! This file sets up what happens to a payment's events before and behind the log.

use std::collections::BTreeMap;
use std::hint::black_box;

use essaim::aggregate::{Aggregate, decode_event, encode_event};
use essaim::domain::currency::Currency;
use essaim::domain::money::Money;
use essaim::domain::payment::{Payment, PaymentCommand};
use essaim::event::{CommandId, RecordedEvent};
use essaim::store::{Batch, EventStore, memory::MemoryStore};
use essaim::testing::BatchBuilder;
use uuid::Uuid;

use super::Turn;

const IN_A_BATCH: u64 = 100;
const COMMAND: CommandId = CommandId(Uuid::from_u128(7));

/// The creation of a payment, about 200 bytes of data.
fn create() -> PaymentCommand {
    let euros = Currency::from_code("EUR").expect("a currency");
    let money = Money::parse("12.50", euros).expect("an amount");
    let metadata = BTreeMap::from([
        ("order".to_owned(), "2026-11-22/000017".into()),
        ("customer".to_owned(), "018f2c3e-6f3a-7cc1-9d55-0a1b2c3d4e5f".into()),
        ("note".to_owned(), "delivered to the neighbours, who are at home in the evening".into()),
    ]);
    PaymentCommand::Create { money, metadata }
}

/// Creations of so many payments, each the first event of its stream, as a journal would write them.
pub(super) fn created(payments: u64) -> Batch {
    let event = Payment::default().decide(&create()).expect("a new payment takes it").remove(0);
    let encoded = encode_event::<Payment>(&event, COMMAND, 0).expect("it is a variant");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("this thread");
    let head = runtime.block_on(MemoryStore::new().head()).expect("memory answers");
    let batch = (0..u128::from(payments)).fold(BatchBuilder::after(&head), |batch, payment| {
        // Like ids that are made from time: no two streams alike, and not in the order of a hash.
        let id = Payment::id(Uuid::from_u128(payment.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)));
        batch.event(id.stream(), 1, &encoded.event_type, &encoded.json)
    });
    batch.build()
}

pub(super) fn decide() -> Turn {
    let (payment, command) = (Payment::default(), create());
    Box::new(move || drop(black_box(payment.decide(black_box(&command)))))
}

pub(super) fn apply() -> Turn {
    let mut payment = Payment::default();
    let event = payment.decide(&create()).expect("a new payment takes it").remove(0);
    Box::new(move || black_box(&mut payment).apply(black_box(&event)))
}

pub(super) fn encode() -> Turn {
    let event = Payment::default().decide(&create()).expect("a new payment takes it").remove(0);
    Box::new(move || drop(black_box(encode_event::<Payment>(black_box(&event), COMMAND, 0))))
}

pub(super) fn decode() -> Turn {
    let event: RecordedEvent = created(1).events[0].clone();
    Box::new(move || drop(black_box(decode_event::<Payment>(black_box(&event)))))
}

pub(super) fn hash() -> Turn {
    let events = created(IN_A_BATCH).events;
    Box::new(move || {
        let before = events[events.len() - 1].hash;
        black_box(black_box(&events).iter().fold(before, |hash, event| hash.extended_by(event)));
    })
}
