//! This file reads payments: from the read model as they are, from the log as they were.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use uuid::Uuid;

use super::shapes::{AuditEntry, PaymentList, PaymentReport, PaymentShape, PaymentStats, PaymentStatsItem, StatusStep};
use crate::aggregate::Aggregate;
use crate::clock::{Clock, SystemClock};
use crate::daemon::document::{NoneSuch, ReadParams, ReadProblems};
use crate::daemon::problem::Problem;
use crate::daemon::request::headers::ReadHeaders;
use crate::daemon::request::parameters::Parameters;
use crate::daemon::request::{Id, invalid, shown};
use crate::daemon::shape::{EventShape, Json};
use crate::daemon::{AppState, cursor};
use crate::domain::currency::Currency;
use crate::domain::money::{InvalidAmount, Money};
use crate::domain::payment::Payment;
use crate::engine::UpTo;
use crate::event::RecordedEvent;
use crate::projections::payment_summaries::{PaymentFilter, PaymentStatus, PaymentSummaries, page, stats};
use crate::projections::read_model::View;
use crate::stream::Version;

const MAX_PAGE: u64 = 200;
const DEFAULT_PAGE: u64 = 50;

fn none_such() -> Problem {
    Problem::new("not_found", "there is no such payment, or it was not there at that version or time")
}

async fn view(state: &AppState, headers: ReadHeaders) -> Result<View<PaymentSummaries>, Problem> {
    state.read_model_at_least(headers).await
}

/// One payment, as it is or as it was.
#[utoipa::path(get, path = "/v1/payments/{id}", operation_id = "get_payment", tag = "payments",
    params(("id" = Uuid, Path),
        ("version" = Option<u64>, Query, minimum = 1, description = "As it was at this version; not beside `at`"),
        ("at" = Option<String>, Query, description = "As it was at this moment (RFC 3339); not beside `version`"), ReadParams),
    responses((status = 200, body = PaymentShape, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn get(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    headers: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let version = parameters.number("version", 1..=u64::MAX)?;
    let at = parameters.time("at")?;
    parameters.finish()?;
    match (version, at) {
        (None, None) => as_it_is(&state, payment, headers).await,
        (Some(version), None) => as_it_was(&state, payment, headers, UpTo::Version(Version(version))).await,
        (None, Some(at)) => as_it_was(&state, payment, headers, UpTo::Time(at)).await,
        (Some(_), Some(_)) => Err(invalid("at", "cannot stand beside version: ask for one of them")),
    }
}

async fn as_it_is(state: &AppState, payment: Uuid, headers: ReadHeaders) -> Result<Response, Problem> {
    let view = view(state, headers).await?;
    let row = view.get(&payment).ok_or_else(none_such)?;
    let shape = PaymentShape::with_history(&row, SystemClock.now(), state.payment_expiry);
    let headers = [shown("essaim-position", view.position()), etag(row.version)];
    Ok((headers, Json(shape)).into_response())
}

async fn as_it_was(state: &AppState, payment: Uuid, headers: ReadHeaders, up_to: UpTo) -> Result<Response, Problem> {
    state.log_at_least(headers).await?;
    let head = state.engine.head();
    let rows = state.engine.project_stream(&PaymentSummaries, Payment::id(payment).stream(), up_to).await;
    let rows = rows.map_err(|error| Problem::from_store(&error))?;
    let row = rows.first().ok_or_else(none_such)?;
    let then = match up_to {
        UpTo::Time(at) => at,
        UpTo::Version(_) => row.status_history.last().map_or(row.created_at, |step| step.at),
    };
    let shape = PaymentShape::with_history(row, then, state.payment_expiry);
    Ok(([shown("essaim-position", head), etag(row.version)], Json(shape)).into_response())
}

fn etag(version: u64) -> (axum::http::HeaderName, axum::http::HeaderValue) {
    shown("etag", format!("\"{version}\""))
}

/// Payments, newest first.
#[utoipa::path(get, path = "/v1/payments", operation_id = "list_payments", tag = "payments",
    params(("status" = Option<String>, Query, description = "`pending`, `authorized`, `completed` or `cancelled`"),
        ("currency" = Option<String>, Query, description = "ISO 4217, upper case"),
        ("created_after" = Option<String>, Query, description = "RFC 3339, inclusive"),
        ("created_before" = Option<String>, Query, description = "RFC 3339, exclusive"),
        ("min_amount" = Option<String>, Query, description = "Inclusive; only with `currency`"),
        ("max_amount" = Option<String>, Query, description = "Inclusive; only with `currency`"),
        ("expired" = Option<bool>, Query, description = "Only those that are, or are not"),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 200, description = "50 by default"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before, with the same filters"),
        ReadParams),
    responses((status = 200, body = PaymentList,
        headers(("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems))]
pub(crate) async fn list(
    State(state): State<Arc<AppState>>,
    headers: ReadHeaders,
    mut parameters: Parameters,
) -> Result<Response, Problem> {
    let filter = filter(&mut parameters)?;
    let limit = parameters.number("limit", 1..=MAX_PAGE)?.unwrap_or(DEFAULT_PAGE);
    let limit = usize::try_from(limit).expect("at most 200");
    let cursor = parameters.take("cursor", |text| Ok::<_, &str>(text.to_owned()))?;
    parameters.finish()?;
    let listing = format!("payments {filter:?}");
    let before = cursor.map(|cursor| cursor::decode(&cursor, &listing)).transpose()?;
    let view = view(&state, headers).await?;
    let (now, expiry) = (SystemClock.now(), state.payment_expiry);
    let (position, page) =
        view.read(|payments| (payments.position(), page(payments, &filter, before, limit, now, expiry)));
    let body = PaymentList {
        items: page.rows.iter().map(|row| PaymentShape::summary(row, now, expiry)).collect(),
        next_cursor: page.next.map(|order| cursor::encode(order, &listing)),
    };
    Ok(([shown("essaim-position", position)], Json(body)).into_response())
}

fn filter(parameters: &mut Parameters) -> Result<PaymentFilter, Problem> {
    let status = parameters.take("status", |name| {
        PaymentStatus::from_name(name).ok_or("must be pending, authorized, completed or cancelled")
    })?;
    let currency = parameters.take("currency", Currency::from_code)?;
    let mut amount = |name| parameters.take(name, |text| bound(text, currency));
    let (min_minor_units, max_minor_units) = (amount("min_amount")?, amount("max_amount")?);
    let expired = parameters.take("expired", |text| text.parse().map_err(|_| "must be true or false"))?;
    let (created_after, created_before) = (parameters.time("created_after")?, parameters.time("created_before")?);
    Ok(PaymentFilter { status, currency, created_after, created_before, min_minor_units, max_minor_units, expired })
}

/// Zero is no amount of a payment, but a fine bound of one.
fn bound(text: &str, currency: Option<Currency>) -> Result<i64, String> {
    let currency = currency.ok_or("needs the parameter currency beside it")?;
    match Money::parse(text, currency) {
        Err(InvalidAmount::Zero) => Ok(0),
        parsed => parsed.map(Money::minor_units).map_err(|error| error.to_string()),
    }
}

/// Counts and sums, exact at the position stated.
#[utoipa::path(get, path = "/v1/payments/stats", operation_id = "payment_stats", tag = "payments", params(ReadParams),
    responses((status = 200, body = PaymentStats,
        headers(("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems))]
pub(crate) async fn statistics(
    State(state): State<Arc<AppState>>,
    headers: ReadHeaders,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let view = view(&state, headers).await?;
    let (position, sums) = view.read(|payments| (payments.position(), stats(payments)));
    let body = PaymentStats { position: position.0, items: sums.into_iter().map(PaymentStatsItem::of).collect() };
    Ok(([shown("essaim-position", position)], Json(body)).into_response())
}

/// A payment with its whole story.
#[utoipa::path(get, path = "/v1/payments/{id}/report", operation_id = "payment_report", tag = "payments",
    params(("id" = Uuid, Path), ReadParams),
    responses((status = 200, body = PaymentReport, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn report(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    headers: ReadHeaders,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let view = view(&state, headers).await?;
    let row = view.get(&payment).ok_or_else(none_such)?;
    let events = read_events(&state, payment).await?;
    let body = PaymentReport {
        payment: PaymentShape::summary(&row, SystemClock.now(), state.payment_expiry),
        status_history: StatusStep::all(&row),
        // The row is at one version; what came behind it belongs to a later report.
        audit_trail: events.iter().filter(|event| event.version.0 <= row.version).map(AuditEntry::of).collect(),
        metadata: &row.metadata,
    };
    let headers = [shown("essaim-position", view.position()), etag(row.version)];
    Ok((headers, Json(body)).into_response())
}

/// All events of one payment.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct EventList<'a> {
    /// Oldest first.
    items: Vec<EventShape<'a>>,
}

/// A payment's events, from the log.
#[utoipa::path(get, path = "/v1/payments/{id}/events", operation_id = "payment_events", tag = "payments",
    params(("id" = Uuid, Path), ReadParams),
    responses((status = 200, body = EventList, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position answered at"))), ReadProblems, NoneSuch))]
pub(crate) async fn events(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    headers: ReadHeaders,
    parameters: Parameters,
) -> Result<Response, Problem> {
    parameters.finish()?;
    state.log_at_least(headers).await?;
    let head = state.engine.head();
    let events = read_events(&state, payment).await?;
    let last = events.last().ok_or_else(none_such)?;
    let items = events.iter().map(EventShape::of).collect::<Result<_, _>>();
    let body = EventList { items: items.map_err(|error| Problem::from_store(&error))? };
    Ok(([shown("essaim-position", head), etag(last.version.0)], Json(body)).into_response())
}

async fn read_events(state: &AppState, payment: Uuid) -> Result<Vec<RecordedEvent>, Problem> {
    /// A payment has three events at most.
    const ALL: usize = 100;
    let events = state.engine.store().read_stream(Payment::id(payment).stream(), Version::EMPTY, ALL).await;
    events.map_err(|error| Problem::from_store(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_of_amounts_may_be_zero_and_is_read_like_an_amount() {
        let eur = Currency::from_code("EUR").ok();

        assert_eq!(bound("0", eur), Ok(0));
        assert_eq!(bound("0.00", eur), Ok(0));
        assert_eq!(bound("12.5", eur), Ok(1_250));
        for wrong in ["", "00", "0.0.0", "-1", "0.000", "1e3"] {
            assert!(bound(wrong, eur).is_err(), "{wrong}");
        }
        assert!(bound("1", None).unwrap_err().contains("currency"));
    }
}
