//! This file is how events and times look in JSON, over HTTP and on the command line alike.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::event::RecordedEvent;
use crate::store::StoreError;

/// An answer in JSON.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        /// Bytes that hold most answers, so that they are written without moving them to somewhere larger.
        const USUAL: usize = 1_024;
        /// Likewise, with those that are added on the way out.
        const USUAL_HEADERS: usize = 12;
        let mut json = Vec::with_capacity(USUAL);
        serde_json::to_writer(&mut json, &self.0).expect("what is answered can be written as JSON");
        let mut headers = HeaderMap::with_capacity(USUAL_HEADERS);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut response = Response::new(Body::from(json));
        *response.headers_mut() = headers;
        response
    }
}

/// A time as clients see it: RFC 3339, UTC, always six digits.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// A recorded event as clients see it; data and metadata are the stored bytes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct EventShape<'a> {
    /// Place in the whole log.
    position: u64,
    /// Unique.
    event_id: Uuid,
    /// `category-key`.
    stream: &'a str,
    /// First half of the stream's name.
    category: &'a str,
    /// Second half of the stream's name.
    key: &'a str,
    /// Place in the stream.
    version: u64,
    /// The event's type.
    r#type: &'a str,
    /// Which shape of that type `data` has.
    schema_version: u16,
    /// The event's fields.
    #[schema(value_type = Object)]
    data: &'a RawValue,
    /// Who and why.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    /// When.
    recorded_at: String,
}

impl<'a> EventShape<'a> {
    /// The event's shape.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when what is stored is no JSON.
    pub(crate) fn of(event: &'a RecordedEvent) -> Result<Self, StoreError> {
        Ok(Self {
            position: event.position.0,
            event_id: event.event_id,
            stream: event.stream.as_str(),
            category: event.stream.category(),
            key: event.stream.key(),
            version: event.version.0,
            r#type: &event.event_type,
            schema_version: event.schema_version,
            data: raw(event, &event.json)?,
            metadata: raw(event, event.metadata.as_json())?,
            recorded_at: time(event.recorded_at),
        })
    }
}

fn raw<'a>(event: &RecordedEvent, json: &'a str) -> Result<&'a RawValue, StoreError> {
    let corrupt = |error| StoreError::Corrupt { what: format!("event {}: {error}", event.position) };
    serde_json::from_str(json).map_err(corrupt)
}
