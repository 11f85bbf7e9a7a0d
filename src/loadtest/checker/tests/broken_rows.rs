//! This file breaks read models in one way at a time: the comparison with the fold must find that, and nothing else.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::aggregate::Aggregate;
use crate::event::{ChainHash, Metadata, RecordedEvent, TypedEvent};
use crate::loadtest::checker::Finding;
use crate::loadtest::checker::read_models::{Fold, compare_tables};
use crate::projections::table::Table;
use crate::projections::{JsonRow, ProjectFrom, Projection, Rows, Sources};
use crate::stream::{GlobalPosition, StreamId, Version};

#[derive(Default)]
struct Till;

#[derive(Debug, Clone, Serialize, Deserialize)]
enum TillEvent {
    Paid { cents: i64 },
}

#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[error("never")]
struct Never;

impl Aggregate for Till {
    const CATEGORY: &'static str = "till";
    type Command = ();
    type Event = TillEvent;
    type Rejection = Never;

    fn decide(&self, (): &()) -> Result<Vec<TillEvent>, Never> {
        Ok(Vec::new())
    }

    fn apply(&mut self, _: &TillEvent) {}
}

struct Takings;

impl Projection for Takings {
    const NAME: &'static str = "takings";
    type Row = JsonRow<i64>;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Till>()
    }
}

impl ProjectFrom<Till> for Takings {
    fn project(&self, event: &TypedEvent<'_, TillEvent>, rows: &mut Rows<'_, JsonRow<i64>>) {
        let TillEvent::Paid { cents } = event.data;
        let key = event.stream.key().to_owned();
        let before = rows.get(&key).map_or(0, |row| row.data);
        rows.put(JsonRow { key, data: before + cents });
    }
}

/// Till a takes 1 and 3 cents, till b 2: positions 1, 3 and 2.
fn log() -> Vec<RecordedEvent> {
    let paid = |position: u64, key: &str, version: u64| RecordedEvent {
        position: GlobalPosition(position),
        event_id: Uuid::from_u128(position.into()),
        stream: StreamId::new("till", key),
        version: Version(version),
        event_type: "Paid".into(),
        schema_version: 1,
        json: format!(r#"{{"cents":{position}}}"#).into(),
        metadata: Metadata::from_json("{}"),
        recorded_at: super::story::recorded(position),
        hash: ChainHash::START,
        decoded: None,
    };
    vec![paid(1, "a", 1), paid(2, "b", 1), paid(3, "a", 2)]
}

fn fold() -> Fold<Takings> {
    let mut fold = Fold::new(Takings);
    log().iter().for_each(|event| fold.apply(event).unwrap());
    fold
}

fn findings(position: u64, takings: &[(&str, i64)]) -> Vec<Finding> {
    let rows = takings.iter().map(|(key, data)| JsonRow { key: (*key).to_owned(), data: *data }).collect();
    let shown = Table::with_rows(rows, GlobalPosition(position), ChainHash::START);
    compare_tables(&shown, &fold()).kept().to_vec()
}

#[test]
fn rows_that_the_log_makes_pass() {
    assert_eq!(findings(3, &[("a", 1 + 3), ("b", 2)]), []);
}

#[test]
fn a_row_that_is_off_by_one_is_found_with_both_values() {
    let (model, key, column) = ("takings".into(), "\"a\"".into(), "data".into());

    let differs = Finding::RowDiffers { model, key, column, shown: "5".into(), folded: "4".into() };
    assert_eq!(findings(3, &[("a", 5), ("b", 2)]), [differs]);
}

#[test]
fn a_missing_row_is_found() {
    let missing = Finding::RowMissing { model: "takings".into(), key: "\"b\"".into() };
    assert_eq!(findings(3, &[("a", 4)]), [missing]);
}

#[test]
fn a_row_too_many_is_found() {
    let too_many = Finding::RowTooMany { model: "takings".into(), key: "\"c\"".into() };
    assert_eq!(findings(3, &[("a", 4), ("b", 2), ("c", 0)]), [too_many]);
}

#[test]
fn a_read_model_at_another_position_is_found_and_not_compared() {
    let (model, shown, expected) = ("takings".into(), GlobalPosition(2), GlobalPosition(3));

    let elsewhere = Finding::ReadModelElsewhere { model, shown, expected };
    assert_eq!(findings(2, &[("a", 1), ("b", 2)]), [elsewhere]);
}
