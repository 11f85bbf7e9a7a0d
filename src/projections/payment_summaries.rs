//! This file shows payments: one row each, newest first, with sums per status and currency that are always exact.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Column, ColumnKind, ProjectFrom, Projection, Row, RowError, Rows, Sources, Value, Values, uuid_key};
use crate::domain::currency::Currency;
use crate::domain::money::Money;
use crate::domain::payment::{Payment, PaymentEvent, PaymentMetadata};
use crate::event::TypedEvent;

mod pages;

pub use pages::{PaymentFilter, PaymentIndex, PaymentOrder, PaymentPage, PaymentSum, page, stats};

/// All payments; the SQL table is `payments_query`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PaymentSummaries;

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentStatus {
    /// Created.
    Pending,
    /// The bank agreed.
    Authorized,
    /// The money came.
    Completed,
    /// Ended without money.
    Cancelled,
}

impl PaymentStatus {
    /// All of them, in the order of a payment's life.
    pub const ALL: [PaymentStatus; 4] = [Self::Pending, Self::Authorized, Self::Completed, Self::Cancelled];

    /// The name in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Authorized => "authorized",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether something can still happen to the payment.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Pending | Self::Authorized)
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// One step in a payment's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    /// What it became.
    pub status: PaymentStatus,
    /// When.
    #[serde(serialize_with = "six_digits")]
    pub at: DateTime<Utc>,
    /// By whom.
    pub by: String,
    /// By the event at this position.
    pub position: u64,
}

/// All times are shown alike, wherever they stand.
fn six_digits<S: serde::Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.6fZ"))
}

/// One payment as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct PaymentRow {
    /// Its id.
    pub id: Uuid,
    /// How much.
    pub money: Money,
    /// Where it stands.
    pub status: PaymentStatus,
    /// The bank's code, once authorized.
    pub authorization_code: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was completed.
    pub processed_at: Option<DateTime<Utc>>,
    /// When it was cancelled.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// How many events it has.
    pub version: u64,
    /// Every step, the first is `pending`.
    pub status_history: Vec<StatusChange>,
    /// What the client keeps with it.
    pub metadata: PaymentMetadata,
}

impl PaymentRow {
    /// Pending or authorized.
    pub fn is_active(&self) -> bool {
        self.status.is_active()
    }

    /// Active and older than `expiry`.
    pub fn is_expired(&self, now: DateTime<Utc>, expiry: Duration) -> bool {
        self.is_active() && (now - self.created_at).to_std().is_ok_and(|age| age > expiry)
    }

    /// Whole days since it was created.
    pub fn age_days(&self, now: DateTime<Utc>) -> i64 {
        (now - self.created_at).num_days().max(0)
    }

    /// From created to completed as an ISO 8601 duration, e.g. `PT1H2M3.5S`; none before it is completed.
    pub fn processing_time(&self) -> Option<String> {
        let took = self.processed_at? - self.created_at;
        Some(iso_8601(took))
    }

    fn became(&mut self, status: PaymentStatus, event: &TypedEvent<'_, PaymentEvent>) {
        self.status = status;
        self.version = event.version.0;
        self.status_history.push(StatusChange {
            status,
            at: event.recorded_at,
            by: event.metadata.principal.clone(),
            position: event.position.0,
        });
    }
}

/// A duration by ISO 8601-1:2019 §5.5.2.
fn iso_8601(duration: chrono::Duration) -> String {
    let (hours, minutes) = (duration.num_hours(), duration.num_minutes() % 60);
    let micros = duration.num_microseconds().unwrap_or(i64::MAX) % 60_000_000;
    let mut text = "PT".to_owned();
    if hours > 0 {
        text.push_str(&format!("{hours}H"));
    }
    if minutes > 0 {
        text.push_str(&format!("{minutes}M"));
    }
    if micros > 0 || text == "PT" {
        let seconds = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        text.push_str(seconds.trim_end_matches('0').trim_end_matches('.'));
        text.push('S');
    }
    text
}

impl Projection for PaymentSummaries {
    const NAME: &'static str = "payment_summaries";
    const TABLE: &'static str = "payments_query";
    type Row = PaymentRow;
    type Index = PaymentIndex;

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<Payment>()
    }
}

impl ProjectFrom<Payment> for PaymentSummaries {
    fn project(&self, event: &TypedEvent<'_, PaymentEvent>, rows: &mut Rows<'_, PaymentRow>) {
        let Some(id) = uuid_key(event.stream.key()) else {
            return tracing::warn!(position = event.position.0, "a payment's key is no UUID; it is not shown");
        };
        match event.data {
            PaymentEvent::PaymentCreated { money, metadata } => {
                let mut row = PaymentRow {
                    id,
                    money: *money,
                    status: PaymentStatus::Pending,
                    authorization_code: None,
                    created_at: event.recorded_at,
                    processed_at: None,
                    cancelled_at: None,
                    version: 0,
                    status_history: Vec::with_capacity(3),
                    metadata: metadata.clone(),
                };
                row.became(PaymentStatus::Pending, event);
                rows.put(row);
            }
            PaymentEvent::PaymentAuthorized { authorization_code } => {
                rows.update(&id, |row| {
                    row.became(PaymentStatus::Authorized, event);
                    row.authorization_code = Some(authorization_code.as_str().to_owned());
                });
            }
            PaymentEvent::PaymentCompleted => {
                rows.update(&id, |row| {
                    row.became(PaymentStatus::Completed, event);
                    row.processed_at = Some(event.recorded_at);
                });
            }
            PaymentEvent::PaymentCancelled { .. } => {
                rows.update(&id, |row| {
                    row.became(PaymentStatus::Cancelled, event);
                    row.cancelled_at = Some(event.recorded_at);
                });
            }
        }
    }
}

impl Row for PaymentRow {
    type Key = Uuid;

    const COLUMNS: &'static [Column] = &[
        Column::required("id", ColumnKind::Uuid),
        Column::required("amount", ColumnKind::Numeric),
        Column::required("amount_minor", ColumnKind::BigInt),
        Column::required("currency", ColumnKind::Text),
        Column::required("status", ColumnKind::Text),
        Column::nullable("authorization_code", ColumnKind::Text),
        Column::required("created_at", ColumnKind::Timestamp),
        Column::nullable("processed_at", ColumnKind::Timestamp),
        Column::nullable("cancelled_at", ColumnKind::Timestamp),
        Column::required("version", ColumnKind::BigInt),
        Column::required("status_history", ColumnKind::Json),
        Column::required("metadata", ColumnKind::Json),
    ];

    fn key(&self) -> Uuid {
        self.id
    }

    fn write(&self) -> Vec<Value> {
        let json =
            |written: serde_json::Result<String>| Value::Json(written.expect("plain data can be written as JSON"));
        let time = |time: Option<DateTime<Utc>>| time.map_or(Value::Null, Value::Timestamp);
        vec![
            Value::Uuid(self.id),
            Value::Numeric(self.money.amount()),
            Value::BigInt(self.money.minor_units()),
            Value::Text(self.money.currency().code().to_owned()),
            Value::Text(self.status.as_str().to_owned()),
            self.authorization_code.clone().map_or(Value::Null, Value::Text),
            Value::Timestamp(self.created_at),
            time(self.processed_at),
            time(self.cancelled_at),
            Value::BigInt(i64::try_from(self.version).expect("versions stay far below 2^63")),
            json(serde_json::to_string(&self.status_history)),
            json(serde_json::to_string(&self.metadata)),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        fn wrong(column: &str, wanted: &str, found: impl ToString) -> RowError {
            RowError { column: column.into(), found: found.to_string(), wanted: wanted.into() }
        }
        let id = values.take()?;
        let _amount: String = values.take()?;
        let minor_units: i64 = values.take()?;
        let currency: String = values.take()?;
        let status: String = values.take()?;
        let currency = Currency::from_code(&currency).map_err(|_| wrong("currency", "a currency", currency))?;
        Ok(Self {
            id,
            money: Money::from_minor_units(minor_units, currency)
                .ok_or_else(|| wrong("amount_minor", "a positive number", minor_units))?,
            status: PaymentStatus::from_name(&status).ok_or_else(|| wrong("status", "a status", &status))?,
            authorization_code: values.take()?,
            created_at: values.take()?,
            processed_at: values.take()?,
            cancelled_at: values.take()?,
            version: values.take::<i64>()?.unsigned_abs(),
            status_history: serde_json::from_str(&values.take::<String>()?)
                .map_err(|error| wrong("status_history", "a list of steps", error))?,
            metadata: serde_json::from_str(&values.take::<String>()?)
                .map_err(|error| wrong("metadata", "a JSON object", error))?,
        })
    }
}

#[cfg(test)]
mod tests;
