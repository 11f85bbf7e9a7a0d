//! This file is the double's REST interface: who may ask what, and what it is about.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Form, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Map, Value};

use super::Shared;
use super::control;
use super::events::EventSearch;
use super::logins::{self, Rights};
use super::refusal::Refusal;
use super::users::Search;

/// Results of a search that does not say how many it wants.
const DEFAULT_MAX: usize = 100;

const MANAGE_USERS: &[&str] = &["manage-users"];
const VIEW_USERS: &[&str] = &["view-users", "manage-users"];
const VIEW_PROFILE: &[&str] = &["view-users", "manage-users", "view-realm", "query-users"];
const VIEW_EVENTS: &[&str] = &["view-events"];
const VIEW_REALM: &[&str] = &["view-realm"];
const MANAGE_REALM: &[&str] = &["manage-realm"];

pub(super) fn routes(shared: Shared) -> Router {
    let realm = "/admin/realms/{realm}";
    let below = |path: &str| format!("{realm}{path}");
    Router::new()
        .route("/realms/{realm}/protocol/openid-connect/token", post(token))
        .route(realm, get(settings).put(change_settings))
        .route(&below("/users"), get(search).post(create))
        .route(&below("/users/count"), get(count))
        .route(&below("/users/profile"), get(profile).put(change_profile))
        .route(&below("/users/{id}"), get(show).put(replace).delete(delete))
        .route(&below("/users/{id}/logout"), post(log_out))
        .route(&below("/users/{id}/reset-password"), put(set_password))
        .route(&below("/users/{id}/sessions"), get(sessions))
        .route(&below("/events"), get(events))
        .route(&below("/events/config"), get(event_settings))
        .route(&below("/admin-events"), get(admin_events))
        .merge(control::routes())
        .fallback(|| async { Refusal::no_route() })
        .with_state(shared)
}

type Answer = Result<Response, Refusal>;

async fn token(State(shared): State<Shared>, Path(realm): Path<String>, Form(form): Form<logins::Form>) -> Answer {
    let lifetime = Duration::from_secs(shared.switches.faults().token_seconds);
    let granted = shared.realm().grant(&realm, &form, lifetime)?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(granted)).into_response())
}

async fn settings(State(shared): State<Shared>, Path(realm): Path<String>, headers: HeaderMap) -> Answer {
    let rights = rights(&shared, &realm, &headers)?;
    if rights.is_none() {
        return Err(Refusal::forbidden());
    }
    Ok(Json(shared.realm().settings(rights.any_of(VIEW_REALM))).into_response())
}

async fn change_settings(
    State(shared): State<Shared>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_REALM)?;
    shared.realm().change(&object(&body)?);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn search(
    State(shared): State<Shared>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_USERS)?;
    let query = Query::parse(query.as_deref());
    let brief = query.flag("briefRepresentation");
    Ok(Json(shared.realm().search(&query.users()?, brief)).into_response())
}

async fn create(State(shared): State<Shared>, Path(realm): Path<String>, headers: HeaderMap, body: Bytes) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_USERS)?;
    let id = shared.realm().create(&object(&body)?)?;
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let location = format!("http://{host}/admin/realms/{realm}/users/{id}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

async fn count(State(shared): State<Shared>, Path(realm): Path<String>, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_USERS)?;
    Ok(Json(shared.realm().users.count()).into_response())
}

async fn profile(State(shared): State<Shared>, Path(realm): Path<String>, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_PROFILE)?;
    Ok(Json(shared.realm().profile.document()).into_response())
}

async fn change_profile(
    State(shared): State<Shared>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_REALM)?;
    let document = object(&body)?;
    let mut realm = shared.realm();
    realm.profile.put(Value::Object(document))?;
    Ok(Json(realm.profile.document()).into_response())
}

type User = Path<(String, String)>;

async fn show(State(shared): State<Shared>, Path((realm, id)): User, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_USERS)?;
    Ok(Json(shared.realm().shown(&id)?).into_response())
}

async fn replace(State(shared): State<Shared>, Path((realm, id)): User, headers: HeaderMap, body: Bytes) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_USERS)?;
    shared.realm().replace(&id, &object(&body)?)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn delete(State(shared): State<Shared>, Path((realm, id)): User, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_USERS)?;
    shared.realm().delete(&id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn log_out(State(shared): State<Shared>, Path((realm, id)): User, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_USERS)?;
    shared.realm().end_sessions(&id)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn set_password(
    State(shared): State<Shared>,
    Path((realm, id)): User,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    permitted(&shared, &realm, &headers, MANAGE_USERS)?;
    shared.realm().set_password(&id, &object(&body)?)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn sessions(State(shared): State<Shared>, Path((realm, id)): User, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_USERS)?;
    Ok(Json(shared.realm().sessions(&id)?).into_response())
}

async fn events(
    State(shared): State<Shared>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_EVENTS)?;
    let search = Query::parse(query.as_deref()).events()?;
    Ok(Json(shared.realm().events.search(&search)).into_response())
}

async fn event_settings(State(shared): State<Shared>, Path(realm): Path<String>, headers: HeaderMap) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_EVENTS)?;
    Ok(Json(shared.realm().events.settings()).into_response())
}

async fn admin_events(
    State(shared): State<Shared>,
    Path(realm): Path<String>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Answer {
    permitted(&shared, &realm, &headers, VIEW_EVENTS)?;
    let query = Query::parse(query.as_deref());
    let (first, max) = (query.number("first", 0)?, query.number("max", DEFAULT_MAX)?);
    Ok(Json(shared.realm().events.admin_events(first, max)).into_response())
}

fn permitted(shared: &Shared, realm: &str, headers: &HeaderMap, roles: &[&str]) -> Result<(), Refusal> {
    if rights(shared, realm, headers)?.any_of(roles) { Ok(()) } else { Err(Refusal::forbidden()) }
}

fn rights(shared: &Shared, realm: &str, headers: &HeaderMap) -> Result<Rights, Refusal> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = value.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(Refusal::unauthorized)?;
    let state = shared.realm();
    let rights = state.logins.rights(token).ok_or_else(Refusal::unauthorized)?;
    if state.is_called(realm) { Ok(rights) } else { Err(Refusal::no_realm()) }
}

fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    serde_json::from_slice(body)
        .map_err(|_| Refusal::grant(StatusCode::BAD_REQUEST, "invalid_request", "Cannot parse the JSON"))
}

/// The parameters behind the question mark, of which some come more than once.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: Option<&str>) -> Self {
        let url = reqwest::Url::parse(&format!("http://double/?{}", query.unwrap_or_default()));
        Self(url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn flag(&self, name: &str) -> bool {
        self.text(name).as_deref() == Some("true")
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, Refusal> {
        self.text(name).map_or(Ok(default), |text| {
            text.parse().map_err(|_| Refusal::error(StatusCode::NOT_FOUND, "HTTP 404 Not Found"))
        })
    }

    fn users(&self) -> Result<Search, Refusal> {
        let attributes = self.text("q").unwrap_or_default();
        let pair = |pair: &str| pair.split_once(':').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok(Search {
            // An empty value is no condition.
            username: self.text("username").filter(|name| !name.is_empty()),
            email: self.text("email").filter(|email| !email.is_empty()),
            exact: self.flag("exact"),
            attributes: attributes.split_whitespace().filter_map(pair).collect(),
            first: self.number("first", 0)?,
            max: self.number("max", DEFAULT_MAX)?,
        })
    }

    fn events(&self) -> Result<EventSearch, Refusal> {
        let bad = |message: &str| Refusal::error(StatusCode::BAD_REQUEST, message);
        let from = self.text("dateFrom").map(|text| millis(&text).ok_or_else(|| bad(BAD_DATE))).transpose()?;
        let oldest_first = match self.text("direction").as_deref() {
            None | Some("desc") => false,
            Some("asc") => true,
            Some(_) => return Err(bad("Invalid value for sortDirection, expected value is asc or desc")),
        };
        Ok(EventSearch {
            types: self.0.iter().filter(|(name, _)| name == "type").map(|(_, kind)| kind.clone()).collect(),
            from_millis: from.unwrap_or(i64::MIN),
            oldest_first,
            first: self.number("first", 0)?,
            max: self.number("max", DEFAULT_MAX)?,
        })
    }
}

const BAD_DATE: &str = "Invalid value for 'dateFrom', expected format is yyyy-MM-dd or an Epoch timestamp";

/// A day, or milliseconds since 1970.
fn millis(text: &str) -> Option<i64> {
    let day =
        || text.parse::<chrono::NaiveDate>().ok()?.and_hms_opt(0, 0, 0).map(|start| start.and_utc().timestamp_millis());
    text.parse().ok().or_else(day)
}
