//! This file is how payments look in JSON: null is written, not left out, and amounts are strings.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::daemon::shape::time;
use crate::domain::currency::Currency;
use crate::domain::money::format_minor_units;
use crate::domain::payment::PaymentMetadata;
use crate::event::RecordedEvent;
use crate::projections::payment_summaries::{PaymentRow, PaymentStatus, PaymentSum, StatusChange};

/// A payment, with what follows from it at a moment.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = Payment)]
pub(crate) struct PaymentShape<'a> {
    id: Uuid,
    /// A decimal number in a string, with all decimals of its currency.
    #[schema(example = "12.50")]
    amount: String,
    /// The same in whole minor units.
    #[schema(example = 1250)]
    amount_minor: i64,
    /// ISO 4217.
    #[schema(example = "EUR")]
    currency: &'static str,
    /// `pending`, `authorized`, `completed` or `cancelled`.
    #[schema(example = "pending")]
    status: &'static str,
    /// Null before it is authorized.
    authorization_code: Option<&'a str>,
    created_at: String,
    /// When it was completed; null before.
    processed_at: Option<String>,
    /// When it was cancelled; null before.
    cancelled_at: Option<String>,
    /// How many events it has.
    version: u64,
    /// Every step, the first is `pending`. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    status_history: Option<Vec<StatusStep<'a>>>,
    /// From its creation.
    #[schema(value_type = Object)]
    metadata: &'a PaymentMetadata,
    /// Pending or authorized.
    is_active: bool,
    is_completed: bool,
    is_cancelled: bool,
    /// Active, and older than the daemon's `payment_expiry_hours`.
    is_expired: bool,
    /// Whole days since its creation.
    age_days: i64,
    /// From creation to completion, an ISO 8601 duration; null before.
    #[schema(example = "PT1H2M3.5S")]
    processing_time: Option<String>,
}

/// One step in a payment's life.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct StatusStep<'a> {
    /// What it became.
    status: &'static str,
    at: String,
    /// By whom.
    by: &'a str,
    /// By the event at this position.
    position: u64,
}

impl<'a> StatusStep<'a> {
    fn of(change: &'a StatusChange) -> Self {
        Self { status: change.status.as_str(), at: time(change.at), by: &change.by, position: change.position }
    }

    /// All steps of a payment, oldest first.
    pub(super) fn all(row: &'a PaymentRow) -> Vec<Self> {
        row.status_history.iter().map(Self::of).collect()
    }
}

impl<'a> PaymentShape<'a> {
    /// The row with its history, as of `now`.
    pub(super) fn with_history(row: &'a PaymentRow, now: DateTime<Utc>, expiry: Duration) -> Self {
        Self { status_history: Some(StatusStep::all(row)), ..Self::summary(row, now, expiry) }
    }

    /// The row without its history, as of `now`.
    pub(super) fn summary(row: &'a PaymentRow, now: DateTime<Utc>, expiry: Duration) -> Self {
        Self {
            id: row.id,
            amount: row.money.amount(),
            amount_minor: row.money.minor_units(),
            currency: row.money.currency().code(),
            status: row.status.as_str(),
            authorization_code: row.authorization_code.as_deref(),
            created_at: time(row.created_at),
            processed_at: row.processed_at.map(time),
            cancelled_at: row.cancelled_at.map(time),
            version: row.version,
            status_history: None,
            metadata: &row.metadata,
            is_active: row.is_active(),
            is_completed: row.status == PaymentStatus::Completed,
            is_cancelled: row.status == PaymentStatus::Cancelled,
            is_expired: row.is_expired(now, expiry),
            age_days: row.age_days(now),
            processing_time: row.processing_time(),
        }
    }
}

/// A page of payments.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PaymentList<'a> {
    /// Newest first, without `status_history`.
    pub(super) items: Vec<PaymentShape<'a>>,
    /// For the next page; null at the end.
    pub(super) next_cursor: Option<String>,
}

/// Counts and sums of all payments.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PaymentStats {
    /// They are exact at this position.
    pub(super) position: u64,
    /// Sorted by status, then by currency.
    pub(super) items: Vec<PaymentStatsItem>,
}

/// Payments of one status and currency.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PaymentStatsItem {
    status: &'static str,
    currency: &'static str,
    count: u64,
    /// A decimal number in a string; it may be longer than any one amount.
    #[schema(example = "1234.50")]
    sum: String,
}

impl PaymentStatsItem {
    pub(super) fn of((status, currency, sum): (PaymentStatus, Currency, PaymentSum)) -> Self {
        let PaymentSum { count, minor_units } = sum;
        Self {
            status: status.as_str(),
            currency: currency.code(),
            count,
            sum: format_minor_units(minor_units, currency),
        }
    }
}

/// A payment with its whole story.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct PaymentReport<'a> {
    /// Without `status_history`.
    pub(super) payment: PaymentShape<'a>,
    /// Every step, the first is `pending`.
    pub(super) status_history: Vec<StatusStep<'a>>,
    /// Every event, oldest first.
    pub(super) audit_trail: Vec<AuditEntry>,
    /// From its creation.
    #[schema(value_type = Object)]
    pub(super) metadata: &'a PaymentMetadata,
}

/// One event: what, when, by whom, and why.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct AuditEntry {
    position: u64,
    /// The event's type.
    r#type: String,
    at: String,
    /// Who asked for it.
    by: String,
    /// Shared by everything that one outside request set off.
    correlation_id: Uuid,
    /// What directly caused it.
    causation_id: Uuid,
    /// The command that made it.
    command_id: Uuid,
}

impl AuditEntry {
    pub(super) fn of(event: &RecordedEvent) -> Self {
        let why = event.metadata.fields();
        Self {
            position: event.position.0,
            r#type: event.event_type.clone().into_owned(),
            at: time(event.recorded_at),
            by: why.principal.clone(),
            correlation_id: why.correlation_id,
            causation_id: why.causation_id,
            command_id: why.command_id.0,
        }
    }
}
