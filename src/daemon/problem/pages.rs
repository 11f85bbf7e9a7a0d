//! This file explains problems to people, and answers where there is nothing to answer.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::{Html, IntoResponse, Response};

use super::kinds::{KINDS, Kind, kind_of};
use super::{Problem, ProblemBody};

/// The page that a problem's `type` points to.
#[utoipa::path(get, path = "/problems/{code}", operation_id = "explain_problem", tag = "problems",
    params(("code" = String, Path, description = "A problem's code")),
    responses((status = 200, description = "What the problem means and what to do", body = String, content_type = "text/html"),
        (status = 404, description = "`not_found`", body = ProblemBody, content_type = "application/problem+json")))]
pub(crate) async fn explain(code: Result<Path<String>, PathRejection>) -> Response {
    match code.ok().and_then(|Path(code)| kind_of(&code)) {
        Some(kind) => Html(page(kind)).into_response(),
        None => {
            let known: Vec<_> = KINDS.iter().map(|kind| kind.code).collect();
            let detail = format!("there is no problem of this code; there are: {}", known.join(", "));
            Problem::new("not_found", detail).into_response()
        }
    }
}

fn page(kind: &Kind) -> String {
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title>\
         <body style=\"font-family:system-ui;max-width:40em;margin:3em auto;line-height:1.5\">\
         <h1>{0}</h1><p>HTTP status {1}, code <code>{2}</code></p><p>{3}</p>",
        kind.title,
        kind.status.as_u16(),
        kind.code,
        with_code(kind.explanation)
    )
}

/// What stands between backticks, as code.
fn with_code(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts.map(|(n, part)| if n % 2 == 1 { format!("<code>{part}</code>") } else { part.to_owned() }).collect()
}

/// An address that leads nowhere.
pub(crate) async fn unknown_route() -> Problem {
    Problem::new("not_found", "there is nothing at this address; /docs lists what there is")
}

/// A method that the address does not take.
pub(crate) async fn unknown_method() -> Problem {
    no_such_method()
}

/// The same, for who knows what to allow.
pub(crate) fn no_such_method() -> Problem {
    Problem::new("method_not_allowed", "this address does not take this method; Allow lists those it takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_nothing_that_a_page_would_have_to_escape() {
        for kind in KINDS {
            let texts = [kind.code, kind.title, kind.explanation].concat();
            assert!(!texts.contains(['<', '>', '&']), "{}", kind.code);
            assert_eq!(kind.explanation.matches('`').count() % 2, 0, "{}", kind.code);
        }
    }

    #[test]
    fn a_page_shows_names_as_code() {
        assert_eq!(with_code("send `If-Match` again"), "send <code>If-Match</code> again");
    }
}
