//! This file says with every answer which log its positions are of, and refuses positions of another one.
//!
//! A log that went backwards (a failover that lost commits, a backup restored under a running daemon) is another log
//! from there on: its positions are given again, to other events. A client that sends back `Essaim-Log` with its
//! positions is told, where it would otherwise read something that only looks as new as what it asked for.

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::auth::is_guarded;
use super::problem::Problem;
use super::request::shown;
use crate::engine::Engine;

const HEADER: &str = "essaim-log";

/// Refuses a request whose positions are of another log, and names the log in the answer. Only resources have positions.
pub(super) async fn name_the_log(engine: &Engine, request: Request, next: Next) -> Response {
    if !request.extensions().get::<MatchedPath>().is_some_and(|route| is_guarded(route.as_str())) {
        return next.run(request).await;
    }
    let mut response = match check(request.headers(), engine.log_id()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let (name, value) = shown(HEADER, engine.log_id());
    response.headers_mut().insert(name, value);
    response
}

fn check(headers: &HeaderMap, ours: Uuid) -> Result<(), Problem> {
    let mut given = headers.get_all(HEADER).iter();
    let (Some(first), None) = (given.next(), given.next()) else {
        return if headers.contains_key(HEADER) { Err(invalid("must stand once")) } else { Ok(()) };
    };
    let id = first.to_str().ok().and_then(|text| Uuid::try_parse(text).ok());
    match id {
        None => Err(invalid("must be a UUID, as an answer's `Essaim-Log` gave it")),
        Some(id) if id == ours => Ok(()),
        Some(id) => Err(Problem::new(
            "log_changed",
            format!("the positions are of log {id}; this is log {ours}: read again what rests on them"),
        )),
    }
}

fn invalid(message: &str) -> Problem {
    Problem::field("invalid_parameter", HEADER, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_another_log_are_refused_and_those_of_this_one_or_of_none_are_not() {
        let (ours, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let with = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            check(&headers, ours).map_err(|problem| problem.into_response().status().as_u16())
        };

        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[&ours.to_string()]), Ok(()));
        assert_eq!(with(&[&other.to_string()]), Err(409));
        assert_eq!(with(&["1"]), Err(400));
        assert_eq!(with(&[&ours.to_string(), &ours.to_string()]), Err(400));
    }
}
