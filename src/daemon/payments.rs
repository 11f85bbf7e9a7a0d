//! This file takes the commands of payments; [`queries`] reads them, [`shapes`] is how they look.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use uuid::Uuid;

use super::AppState;
use super::document::{CommandParams, CommandProblems, CreateProblems, IfMatchParams};
use super::execute::{Done, execute};
use super::problem::Problem;
use super::request::body::{Body, text};
use super::request::headers::CommandHeaders;
use super::request::parameters::Parameters;
use super::request::{Id, invalid, shown, uuid};
use crate::domain::currency::Currency;
use crate::domain::money::Money;
use crate::domain::payment::{AuthorizationCode, Payment, PaymentCommand, PaymentMetadata, Reason};
use crate::stream::ExpectedVersion;

pub(crate) mod queries;
mod shapes;

/// What a payment is created from.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct CreateBody {
    /// The payment's id; made by the server when absent, the same for every retry with one key.
    id: Option<Uuid>,
    /// A decimal number in a string, more than zero, with no more decimals than the currency has.
    #[schema(example = "12.50", pattern = r"^[0-9]+(\.[0-9]+)?$")]
    amount: String,
    /// An active ISO 4217 code, upper case.
    #[schema(example = "EUR")]
    currency: String,
    /// Kept with the payment.
    #[schema(value_type = Option<Object>)]
    metadata: Option<PaymentMetadata>,
}

/// Creates a payment.
#[utoipa::path(post, path = "/v1/payments", operation_id = "create_payment", tag = "payments", request_body = CreateBody,
    params(CommandParams),
    responses((status = 201, body = Done, headers(("Location" = String, description = "Address of the payment"),
        ("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CreateProblems))]
pub(crate) async fn create(
    State(state): State<Arc<AppState>>,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    if headers.options.expected != ExpectedVersion::Any {
        return Err(invalid("if-match", "means nothing where a payment is created"));
    }
    let id = body.optional("id", |value| text(value).and_then(|id| uuid(&id).ok_or("must be a UUID".to_owned())));
    let command = creation(body)?;
    // Made from the command's id, so that a retry makes the same one.
    let id = id.unwrap_or_else(|| headers.command_id.aggregate_id());
    let mut response = execute::<Payment>(&state, id, command, headers).await?;
    *response.status_mut() = StatusCode::CREATED;
    let (name, location) = shown("location", format!("/v1/payments/{id}"));
    response.headers_mut().insert(name, location);
    Ok(response)
}

fn creation(mut body: Body) -> Result<PaymentCommand, Problem> {
    let currency = body.required("currency", |value| {
        text(value).and_then(|code| Currency::from_code(&code).map_err(|error| error.to_string()))
    });
    let money = body.required("amount", |value| match (value, currency) {
        (Value::String(amount), Some(currency)) => {
            Money::parse(&amount, currency).map(Some).map_err(|error| error.to_string())
        }
        // Without its currency nothing more can be said of an amount.
        (Value::String(_), None) => Ok(None),
        _ => Err("must be a decimal number in a string, such as \"12.50\"".into()),
    });
    let metadata = body.optional("metadata", |value| match value {
        Value::Object(fields) => Ok(fields.into_iter().collect()),
        _ => Err("must be a JSON object".into()),
    });
    body.finish()?;
    let money = money.flatten().expect("a body without faults has an amount and a currency");
    Ok(PaymentCommand::Create { money, metadata: metadata.unwrap_or_default() })
}

/// What a payment is authorized with.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct AuthorizeBody {
    /// 1 to 128 visible ASCII characters.
    #[schema(min_length = 1, max_length = 128)]
    authorization_code: String,
}

/// Notes that the payer's bank agreed.
#[utoipa::path(post, path = "/v1/payments/{id}/authorize", operation_id = "authorize_payment", tag = "payments",
    request_body = AuthorizeBody, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems))]
pub(crate) async fn authorize(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let code = body.required("authorization_code", |value| {
        text(value).and_then(|code| AuthorizationCode::try_from(code).map_err(|error| error.to_string()))
    });
    body.finish()?;
    let authorization_code = code.expect("a body without faults has a code");
    execute::<Payment>(&state, payment, PaymentCommand::Authorize { authorization_code }, headers).await
}

/// Notes that the money came.
#[utoipa::path(post, path = "/v1/payments/{id}/complete", operation_id = "complete_payment", tag = "payments",
    params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems))]
pub(crate) async fn complete(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    parameters: Parameters,
    headers: CommandHeaders,
    body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    body.finish()?;
    execute::<Payment>(&state, payment, PaymentCommand::Complete, headers).await
}

/// Why a payment is cancelled.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "describes the body for the document; it is read field by field")]
pub(crate) struct CancelBody {
    /// At most 500 characters.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Ends a payment without money. A second time changes nothing.
#[utoipa::path(post, path = "/v1/payments/{id}/cancel", operation_id = "cancel_payment", tag = "payments",
    request_body = Option<CancelBody>, params(("id" = Uuid, Path), IfMatchParams, CommandParams),
    responses((status = 200, body = Done, headers(("ETag" = String, description = "Its version, in quotes"),
        ("Essaim-Position" = u64, description = "The position reached"),
        ("Essaim-Correlation-Id" = Uuid, description = "As in the request, or made"),
        ("Idempotency-Replayed" = bool, description = "`true` when this is the stored answer"))), CommandProblems))]
pub(crate) async fn cancel(
    State(state): State<Arc<AppState>>,
    Id(payment): Id,
    parameters: Parameters,
    headers: CommandHeaders,
    mut body: Body,
) -> Result<Response, Problem> {
    parameters.finish()?;
    let reason = body.optional("reason", |value| {
        text(value).and_then(|reason| Reason::try_from(reason).map_err(|error| error.to_string()))
    });
    body.finish()?;
    execute::<Payment>(&state, payment, PaymentCommand::Cancel { reason }, headers).await
}
