//! This file lets a client wait until the identity provider follows its command: `?wait=synced` on the commands of
//! users. The command is executed and durable before anything is waited for.

use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::time::Instant;

use crate::daemon::built_in::identity_provider;
use crate::daemon::request::{invalid, whole_number};
use crate::daemon::shape::Json;
use crate::engine::Engine;
use crate::stream::{GlobalPosition, Version};
use crate::synchroniser::Progress;

/// Bytes of a command's answer, which is an id and two numbers.
const MAX_ANSWER: usize = 64 << 10;
/// As that of commands.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(5);

/// Passes a command of a user on, and waits behind it when told to: until the provider follows, or the request's
/// deadline. The answer then has `sync`, and is 202 while that is `pending`.
pub(crate) async fn wait_when_told(
    engine: &Engine,
    mut request: Request,
    inner: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let is_command = request.method() != Method::GET && request.uri().path().starts_with("/v1/users");
    let Some(wait) = is_command.then(|| taken_out(request.uri())).flatten() else { return inner(request).await };
    let (uri, value) = wait;
    if value != "synced" {
        return invalid("wait", "can only be synced").into_response();
    }
    let until = Instant::now() + deadline(request.headers());
    let subject = request.uri().path().split('/').nth(3).map(str::to_owned);
    *request.uri_mut() = uri;
    let response = inner(request).await;
    if !response.status().is_success() {
        return response;
    }
    let Some(receipt) = receipt(response.headers()) else { return response };
    let registered = response.headers().get(header::LOCATION).and_then(|place| place.to_str().ok());
    let subject = registered.and_then(|place| place.rsplit('/').next()).map(str::to_owned).or(subject);
    let sync = match (identity_provider(engine), subject) {
        (Some(provider), Some(subject)) => {
            let left = until.saturating_duration_since(Instant::now());
            shown(&provider.settled_behind(&subject, receipt, left).await)
        }
        _ => "disabled",
    };
    told(response, sync).await
}

/// The address without its parameter `wait`, and what that says.
fn taken_out(uri: &Uri) -> Option<(Uri, String)> {
    let (mut value, mut others) = (None, Vec::new());
    for pair in uri.query()?.split('&') {
        match pair.strip_prefix("wait=") {
            // A second one is left to be refused as what it is.
            Some(wait) if value.is_none() => value = Some(wait.to_owned()),
            _ => others.push(pair),
        }
    }
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}{query}", uri.path()).parse().ok()?);
    Some((Uri::from_parts(parts).ok()?, value?))
}

/// One that cannot be read is refused by the command itself.
fn deadline(headers: &HeaderMap) -> Duration {
    let stated = headers.get("essaim-deadline-ms").and_then(|value| value.to_str().ok()).and_then(whole_number);
    stated.map_or(DEFAULT_DEADLINE, Duration::from_millis)
}

fn receipt(headers: &HeaderMap) -> Option<(Version, GlobalPosition)> {
    let number = |name: &str| whole_number(headers.get(name)?.to_str().ok()?.trim_matches('"'));
    Some((Version(number("etag")?), GlobalPosition(number("essaim-position")?)))
}

fn shown(progress: &Progress) -> &'static str {
    match progress {
        Progress::Synced(_) => "synced",
        Progress::Pending => "pending",
        Progress::Failed(_) | Progress::Skipped(_) => "failed",
    }
}

async fn told(response: Response, sync: &'static str) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = to_bytes(body, MAX_ANSWER).await.unwrap_or_default();
    let mut answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    answer["sync"] = sync.into();
    if sync == "pending" {
        parts.status = StatusCode::ACCEPTED;
    }
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::CONTENT_TYPE);
    let mut told = Json(answer).into_response();
    *told.status_mut() = parts.status;
    told.headers_mut().extend(parts.headers);
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_is_taken_out_and_the_others_stay() {
        let taken = |uri: &str| taken_out(&uri.parse().unwrap()).map(|(uri, value)| (uri.to_string(), value));
        let some = |uri: &str, value: &str| Some((uri.to_owned(), value.to_owned()));

        assert_eq!(taken("/v1/users?wait=synced"), some("/v1/users", "synced"));
        assert_eq!(taken("/v1/users?a=1&wait=synced&b=2"), some("/v1/users?a=1&b=2", "synced"));
        assert_eq!(taken("/v1/users?wait=x&wait=y"), some("/v1/users?wait=y", "x"));
        assert_eq!(taken("/v1/users?await=synced"), None);
        assert_eq!(taken("/v1/users"), None);
    }
}
