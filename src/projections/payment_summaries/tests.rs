//! This file tells payments' events to a table and looks at what it shows.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::event::{ChainHash, Metadata, RecordedEvent};
use crate::projections::table::Table;
use crate::stream::{GlobalPosition, StreamId, Version};

const DAY: Duration = Duration::from_secs(86_400);

/// A table that events are told to, one second after the other.
#[derive(Default)]
struct Told {
    table: Table<PaymentSummaries>,
    versions: BTreeMap<u128, u64>,
}

impl Told {
    fn tell(&mut self, payment: u128, event_type: &'static str, json: &str) {
        let version = self.versions.entry(payment).or_default();
        *version += 1;
        let version = *version;
        self.tell_stream(&Uuid::from_u128(payment).to_string(), version, event_type, json);
    }

    fn tell_stream(&mut self, key: &str, version: u64, event_type: &'static str, json: &str) {
        let position = self.table.position().0 + 1;
        let event = RecordedEvent {
            position: GlobalPosition(position),
            event_id: Uuid::nil(),
            stream: StreamId::new("payment", key),
            version: Version(version),
            event_type: event_type.into(),
            schema_version: 1,
            json: json.into(),
            metadata: Metadata::from_json(format!(
                r#"{{"command_id":"{0}","correlation_id":"{0}","causation_id":"{0}","principal":"ada"}}"#,
                Uuid::nil()
            )),
            recorded_at: at(position),
            hash: ChainHash::START,
            decoded: None,
        };
        self.table.apply(&PaymentSummaries, &Sources::of(), &event, &mut HashSet::default()).unwrap();
    }

    fn create(&mut self, payment: u128, amount: &str, currency: &str) {
        let json = format!(r#"{{"amount":"{amount}","currency":"{currency}","metadata":{{"order":7}}}}"#);
        self.tell(payment, "PaymentCreated", &json);
    }

    fn page(
        &self,
        filter: &PaymentFilter,
        before: Option<PaymentOrder>,
        limit: usize,
    ) -> (Vec<u128>, Option<PaymentOrder>) {
        let page = self.table.read(|payments| page(payments, filter, before, limit, at(50), DAY));
        (page.rows.iter().map(|row| row.id.as_u128()).collect(), page.next)
    }
}

fn at(seconds: u64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + i64::try_from(seconds).unwrap(), 0).unwrap()
}

#[test]
fn a_row_tells_the_whole_life_of_its_payment_and_survives_the_way_to_sql_and_back() {
    let mut told = Told::default();
    told.create(1, "12.50", "EUR");
    told.tell(1, "PaymentAuthorized", r#"{"authorization_code":"A-1"}"#);
    told.tell(1, "PaymentCompleted", "{}");

    let row = told.table.get(&Uuid::from_u128(1)).unwrap();
    let read = PaymentRow::read(&mut Values::new(PaymentRow::COLUMNS, row.write())).unwrap();

    assert_eq!(read, *row);
    assert_eq!(
        (row.status, row.version, row.authorization_code.as_deref()),
        (PaymentStatus::Completed, 3, Some("A-1"))
    );
    assert_eq!((row.created_at, row.processed_at, row.cancelled_at), (at(1), Some(at(3)), None));
    let steps: Vec<_> =
        row.status_history.iter().map(|step| (step.status.as_str(), step.by.as_str(), step.position)).collect();
    assert_eq!(steps, [("pending", "ada", 1), ("authorized", "ada", 2), ("completed", "ada", 3)]);
    assert_eq!(row.processing_time().as_deref(), Some("PT2S"));
}

#[test]
fn only_an_active_payment_expires() {
    let mut told = Told::default();
    told.create(1, "1", "EUR");
    told.create(2, "1", "EUR");
    told.tell(2, "PaymentCancelled", "{}");
    let is_expired = |payment, now| told.table.get(&Uuid::from_u128(payment)).unwrap().is_expired(now, DAY);

    assert!(!is_expired(1, at(1) + DAY));
    assert!(is_expired(1, at(2) + DAY));
    assert!(!is_expired(2, at(2) + DAY * 9));
}

#[test]
fn durations_are_written_by_iso_8601() {
    let written = |micros| iso_8601(chrono::Duration::microseconds(micros));

    assert_eq!(written(0), "PT0S");
    assert_eq!(written(3_723_500_000), "PT1H2M3.5S");
    assert_eq!(written(90_000_000_000), "PT25H");
    assert_eq!(written(1), "PT0.000001S");
}

#[test]
fn pages_are_newest_first_and_stay_as_they_are_when_payments_come() {
    let mut told = Told::default();
    (1..=5).for_each(|payment| told.create(payment, "1", "EUR"));

    let (first, next) = told.page(&PaymentFilter::default(), None, 2);
    told.create(6, "1", "EUR");
    let (second, next_after) = told.page(&PaymentFilter::default(), next, 2);
    let (third, end) = told.page(&PaymentFilter::default(), next_after, 2);

    assert_eq!((first, second, third, end), (vec![5, 4], vec![3, 2], vec![1], None));
}

#[test]
fn a_filter_keeps_to_its_bounds() {
    let mut told = Told::default();
    told.create(1, "10", "EUR");
    told.create(2, "20", "EUR");
    told.create(3, "30", "USD");
    told.tell(2, "PaymentCancelled", "{}");
    let found = |filter| told.page(&filter, None, 10).0;

    assert_eq!(found(PaymentFilter { status: Some(PaymentStatus::Pending), ..Default::default() }), [3, 1]);
    assert_eq!(found(PaymentFilter { currency: Currency::from_code("EUR").ok(), ..Default::default() }), [2, 1]);
    assert_eq!(found(PaymentFilter { created_after: Some(at(2)), ..Default::default() }), [3, 2], "inclusive");
    assert_eq!(found(PaymentFilter { created_before: Some(at(2)), ..Default::default() }), [1], "exclusive");
    assert_eq!(
        found(PaymentFilter { min_minor_units: Some(2_000), max_minor_units: Some(2_000), ..Default::default() }),
        [2]
    );
    let backwards = PaymentFilter { created_after: Some(at(3)), created_before: Some(at(1)), ..Default::default() };
    assert_eq!(found(backwards), Vec::<u128>::new());
}

#[test]
fn a_key_that_is_no_lower_case_uuid_shows_no_row() {
    let mut told = Told::default();
    told.create(0xA1, "1", "EUR");
    let same_id = Uuid::from_u128(0xA1).simple().to_string();

    told.tell_stream(&same_id, 1, "PaymentCreated", r#"{"amount":"9","currency":"EUR","metadata":{}}"#);
    told.tell_stream("rent", 1, "PaymentCreated", r#"{"amount":"9","currency":"EUR","metadata":{}}"#);

    assert_eq!(told.table.len(), 1);
    assert_eq!(told.table.get(&Uuid::from_u128(0xA1)).unwrap().money.amount(), "1.00");
}

#[test]
fn a_metadata_number_stays_the_same_from_the_log_and_from_sql() {
    // Both are written with all the digits they need, and a reader that rounds twice takes them for others.
    let json = r#"{"amount":"1.00","currency":"EUR","metadata":{"a":5.607706204257374e+81,"b":5.51722412549065e-112}}"#;
    let mut told = Told::default();
    told.tell(1, "PaymentCreated", json);
    let row = told.table.get(&Uuid::from_u128(1)).unwrap();

    let read = PaymentRow::read(&mut Values::new(PaymentRow::COLUMNS, row.write())).unwrap();

    let shown = r#"{"a":5.607706204257374e+81,"b":5.51722412549065e-112}"#;
    assert_eq!(row.write().last(), Some(&Value::Json(shown.into())));
    assert_eq!(read.write(), row.write());
}

#[test]
fn a_row_in_sql_has_typed_columns_and_times_of_six_digits() {
    let mut told = Told::default();
    told.create(1, "12.5", "EUR");

    let written = told.table.get(&Uuid::from_u128(1)).unwrap().write();

    let history = r#"[{"status":"pending","at":"2023-11-14T22:13:21.000000Z","by":"ada","position":1}]"#;
    assert_eq!(
        written[1..5],
        [
            Value::Numeric("12.50".into()),
            Value::BigInt(1_250),
            Value::Text("EUR".into()),
            Value::Text("pending".into())
        ]
    );
    assert_eq!(written[10..], [Value::Json(history.into()), Value::Json(r#"{"order":7}"#.into())]);
}

#[test]
fn sums_are_sorted_as_their_names_are() {
    let mut told = Told::default();
    told.create(1, "1", "USD");
    told.create(2, "2", "EUR");
    told.create(3, "3", "EUR");
    told.tell(3, "PaymentAuthorized", r#"{"authorization_code":"A"}"#);

    let summed = told.table.read(stats);

    let names: Vec<_> = summed.iter().map(|(status, currency, _)| (status.as_str(), currency.code())).collect();
    assert_eq!(names, [("authorized", "EUR"), ("pending", "EUR"), ("pending", "USD")]);
}

/// Tells what the payments would have taken, and nothing else.
fn told_of(steps: Vec<(u128, usize)>) -> Told {
    const AMOUNTS: [(&str, &str); 4] =
        [("12.34", "EUR"), ("700", "JPY"), ("0.01", "EUR"), ("92233720368547758", "EUR")];
    let mut told = Told::default();
    for (payment, step) in steps {
        let status = told.table.get(&Uuid::from_u128(payment)).map(|row| row.status);
        let (amount, currency) = AMOUNTS[usize::try_from(payment).unwrap() % AMOUNTS.len()];
        match (step, status) {
            (_, None) => told.create(payment, amount, currency),
            (1, Some(PaymentStatus::Pending)) => {
                told.tell(payment, "PaymentAuthorized", r#"{"authorization_code":"A"}"#)
            }
            (2, Some(PaymentStatus::Authorized)) => told.tell(payment, "PaymentCompleted", "{}"),
            (3, Some(PaymentStatus::Pending | PaymentStatus::Authorized)) => {
                told.tell(payment, "PaymentCancelled", "{}")
            }
            _ => {}
        }
    }
    told
}

fn steps() -> impl Strategy<Value = Vec<(u128, usize)>> {
    prop::collection::vec((0..20_u128, 0..4_usize), 1..80)
}

fn any_filter() -> impl Strategy<Value = PaymentFilter> {
    let status = prop::option::of(prop::sample::select(PaymentStatus::ALL.to_vec()));
    let currency = prop::option::of("EUR|JPY|USD".prop_map(|code| Currency::from_code(&code).unwrap()));
    let times = (prop::option::of(0..80_u64), prop::option::of(0..80_u64));
    let amounts = (prop::option::of(0..2_000_i64), prop::option::of(0..2_000_i64));
    (status, currency, times, amounts, any::<Option<bool>>()).prop_map(
        |(status, currency, (after, before), (min_minor_units, max_minor_units), expired)| PaymentFilter {
            status,
            currency,
            created_after: after.map(at),
            created_before: before.map(at),
            min_minor_units,
            max_minor_units,
            expired,
        },
    )
}

/// What the filter asks for, row by row.
fn is_wanted(filter: &PaymentFilter, row: &PaymentRow, now: DateTime<Utc>, expiry: Duration) -> bool {
    let is_active = [PaymentStatus::Pending, PaymentStatus::Authorized].contains(&row.status);
    let is_expired = is_active && row.created_at + expiry < now;
    filter.status.is_none_or(|status| row.status == status)
        && filter.currency.is_none_or(|currency| row.money.currency() == currency)
        && filter.created_after.is_none_or(|time| row.created_at >= time)
        && filter.created_before.is_none_or(|time| row.created_at < time)
        && filter.min_minor_units.is_none_or(|least| row.money.minor_units() >= least)
        && filter.max_minor_units.is_none_or(|most| row.money.minor_units() <= most)
        && filter.expired.is_none_or(|expired| is_expired == expired)
}

proptest! {
    #[test]
    fn sums_equal_those_counted_by_hand(steps in steps()) {
        let told = told_of(steps);

        let (summed, rows) = told.table.read(|payments| (stats(payments), payments.rows()));

        let mut counted = BTreeMap::<_, PaymentSum>::new();
        for row in rows {
            let sum = counted.entry((row.status.as_str(), row.money.currency())).or_default();
            sum.count += 1;
            sum.minor_units += i128::from(row.money.minor_units());
        }
        let summed: Vec<_> = summed.iter().map(|(status, currency, sum)| ((status.as_str(), *currency), *sum)).collect();
        prop_assert_eq!(summed, counted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn pages_together_are_what_the_filter_asks_for(
        steps in steps(), filter in any_filter(), limit in 1..7_usize, now in 0..80_u64
    ) {
        let told = told_of(steps);
        let (now, expiry) = (at(now), Duration::from_secs(20));

        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = told.table.read(|payments| page(payments, &filter, before, limit, now, expiry));
            prop_assert!(page.rows.len() == limit || page.next.is_none(), "only the last page is short");
            found.extend(page.rows);
            before = page.next;
            if before.is_none() {
                break;
            }
        }

        let mut wanted = told.table.read(|payments| payments.rows());
        wanted.retain(|row| is_wanted(&filter, row, now, expiry));
        wanted.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.id)));
        prop_assert_eq!(found, wanted);
    }
}
