//! This file shows that texts, JSON and times come back as they went, and which values no store takes.

use chrono::{DateTime, TimeDelta};

use super::StoreUnderTest;
use super::open_log::{OpenLog, ada, bob};
use crate::aggregate::Claim;
use crate::event::{Metadata, RecordedEvent};
use crate::store::StoreError;
use crate::stream::{MAX_CATEGORY_BYTES, MAX_KEY_BYTES, StreamId, Version};

/// Appends one event and reads it back through its stream; it must be equal in all parts.
async fn survives(open: &mut OpenLog, stream: &StreamId, edit: impl FnOnce(&mut RecordedEvent)) {
    let batch = open.append(open.batch().event_with(stream, 1, edit)).await;
    let found = open.store.read_stream(stream, Version::EMPTY, 10).await.expect("a stream can be read");
    assert_eq!(found, *batch.events, "read by stream");
    assert_eq!(open.events().await.last(), batch.events.last(), "read by position");
}

/// Letters beyond ASCII, beyond the basic plane, and written from right to left.
pub async fn texts_in_any_script_survive(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for text in ["Zoë", "東京", "🐝🐝", "مرحبا", "e\u{301}", "'; DROP TABLE x; --", "a\\b%_\"c"] {
        survives(&mut open, &StreamId::new("account", text), |event| {
            event.event_type = format!("Renamed{text}").into();
            event.json = serde_json::json!({ "to": text }).to_string().into();
        })
        .await;
    }
}

/// JSON is kept as text: spaces, order and repetition of keys, and numbers no float can hold.
pub async fn json_is_kept_byte_for_byte(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let texts = [
        r#"{"b" : 1,  "a":[ 1 ,2 ]  }"#,
        "{\n\t\"a\": 1\r\n}",
        r#"{"a":1,"a":2}"#,
        r#"{"n":123456789012345678901234567890.10,"e":1E400,"z":-0,"p":1.50}"#,
        r#"{"escaped":"\u00e9\u0000\/\ud83d\udc1d"}"#,
        r#""plain""#,
        "null",
        "[]",
    ];
    for (n, json) in texts.into_iter().enumerate() {
        survives(&mut open, &StreamId::new("account", &n.to_string()), |event| event.json = json.into()).await;
    }
}

/// A payload of 1 MiB, which no page of a database holds.
pub async fn a_payload_of_one_mebibyte_survives(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let text = "é0123456789abcd".repeat(65_536);

    survives(&mut open, &ada(), |event| event.json = format!(r#"{{"text":"{text}"}}"#).into()).await;
}

/// Metadata written by other hands keeps its bytes too: the chain covers them.
pub async fn metadata_is_kept_byte_for_byte(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    let json = r#"{ "principal" : "Zoë", "extra":{"z":1.0, "a":2}, "z":0 }"#;

    survives(&mut open, &ada(), |event| event.metadata = Metadata::from_json(json)).await;

    let found = open.events().await;
    assert_eq!(found[0].metadata.as_json(), json);
}

/// From the first microsecond of 1970 to the last of 2099.
pub async fn recorded_at_keeps_its_microseconds(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for (n, micros) in [1, 999_999, 1_000_000, 1_767_323_045_678_901, 4_102_444_799_999_999].into_iter().enumerate() {
        let time = DateTime::from_timestamp_micros(micros).expect("within the years of chrono");
        survives(&mut open, &StreamId::new("account", &n.to_string()), |event| event.recorded_at = time).await;
    }
}

/// Events of one batch may have been stamped at different times.
pub async fn events_of_one_batch_keep_their_own_times(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().events(&ada(), 1, 1).event_with(&ada(), 2, |event| {
        event.recorded_at += TimeDelta::microseconds(1);
    });
    let batch = open.append(batch).await;

    let times: Vec<_> = open.events().await.iter().map(|event| event.recorded_at).collect();
    assert_eq!(times, [batch.events[0].recorded_at, batch.events[0].recorded_at + TimeDelta::microseconds(1)]);
}

/// The longest category and the longest key together.
pub async fn the_longest_stream_name_is_kept(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    // Different letters, so that a database that compresses index entries is not let off.
    let key: String = (0..MAX_KEY_BYTES).map(|n| char::from(b'!' + (n * 31 % 90) as u8)).collect();
    let stream = StreamId::new(&"c".repeat(MAX_CATEGORY_BYTES), &key);
    assert_eq!(stream.validate(), Ok(()));

    survives(&mut open, &stream, |_| {}).await;
}

/// Schema versions up to the largest.
pub async fn schema_versions_survive(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for (n, schema_version) in [1, 2, 32_768, u16::MAX].into_iter().enumerate() {
        let stream = StreamId::new("account", &n.to_string());
        survives(&mut open, &stream, |event| event.schema_version = schema_version).await;
    }
}

/// Names are compared byte for byte: not by case, accents, spaces at the end or composition.
pub async fn streams_that_look_alike_are_apart(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;
    for key in ["ada", "Ada", "ADA", "ada ", " ada", "adá", "ada\u{301}", "01", "1", "1.0"] {
        survives(&mut open, &StreamId::new("account", key), |_| {}).await;
    }
}

/// U+0000 breaks text columns; nothing around it is kept either.
pub async fn a_key_with_u0000_cannot_be_stored(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().events(&bob(), 1, 2).events(&StreamId::new("account", "a\0b"), 1, 1);

    assert_error!(open.refused(batch).await, StoreError::Data { .. });
}

/// The same in the type.
pub async fn an_event_type_with_u0000_cannot_be_stored(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().events(&bob(), 1, 2).event(&ada(), 1, "Opened\0", "{}");

    assert_error!(open.refused(batch).await, StoreError::Data { .. });
}

/// The same in the payload; the escape is legal and another case.
pub async fn json_with_a_raw_u0000_cannot_be_stored(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().events(&bob(), 1, 2).event(&ada(), 1, "Opened", "{\"a\":\"\0\"}");

    assert_error!(open.refused(batch).await, StoreError::Data { .. });
}

/// The same in the metadata.
pub async fn metadata_with_a_raw_u0000_cannot_be_stored(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().event_with(&ada(), 1, |event| {
        event.metadata = Metadata::from_json("{\"principal\":\"\0\"}");
    });

    assert_error!(open.refused(batch).await, StoreError::Data { .. });
}

/// The same in a claim.
pub async fn a_claim_with_u0000_cannot_be_stored(log: &dyn StoreUnderTest) {
    let mut open = OpenLog::of(log).await;

    let batch = open.batch().events(&ada(), 1, 1).take(Claim::new("name", "a\0"), &ada());

    assert_error!(open.refused(batch).await, StoreError::Data { .. });
}
