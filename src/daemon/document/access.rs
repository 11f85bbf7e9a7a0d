//! This file adds to the document what holds for whole groups of routes: who may use them, and how long commands of
//! users may wait.

use axum::http::Method;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, ContentBuilder, OpenApi, Ref, Response, ResponseBuilder};

use crate::daemon::auth::needed;

const SCHEME: &str = "token";

/// Says of every guarded operation which role it needs and what it answers who has it not; and of every command of a
/// user that it can wait for the identity provider.
pub(crate) fn add(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            if let Some(role) = needed(&method, path) {
                guard(operation, role);
            }
            if path.starts_with("/v1/users") && method != Method::GET {
                operation.parameters.get_or_insert_default().push(wait().into());
            }
        }
    }
    let components = document.components.get_or_insert_with(|| ComponentsBuilder::new().build());
    components.security_schemes.insert(SCHEME.into(), scheme().into());
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

fn guard(operation: &mut Operation, role: &'static str) {
    // While authentication is off, none is needed: the empty requirement says so.
    operation.security = Some(vec![SecurityRequirement::new(SCHEME, [role]), SecurityRequirement::default()]);
    let needs = format!("Needs the role `{role}`, where tokens are asked for.");
    operation.description = Some(match operation.description.take() {
        Some(text) if !text.is_empty() => format!("{text}\n\n{needs}"),
        _ => needs,
    });
    let responses = &mut operation.responses.responses;
    let unauthenticated = "`unauthenticated`: no token, or one that is not taken; `WWW-Authenticate` says why";
    responses.insert("401".into(), problem(unauthenticated).into());
    responses.insert("403".into(), problem(&format!("`forbidden`: without the role `{role}`")).into());
}

fn problem(description: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description(description).content("application/problem+json", content).build()
}

fn wait() -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(["synced"])).build();
    ParameterBuilder::new()
        .name("wait")
        .parameter_in(ParameterIn::Query)
        .description(Some(
            "`synced`: answer when the identity provider follows, or with 202 at the deadline; `sync` in the answer \
             says `synced`, `pending`, `failed` or `disabled`",
        ))
        .schema(Some(text))
        .build()
}

fn scheme() -> SecurityScheme {
    let mut http = Http::new(HttpAuthScheme::Bearer);
    http.bearer_format = Some("JWT".into());
    http.description = Some("A token of the configured issuer (`auth_issuer`), meant for `auth_audience`.".into());
    SecurityScheme::Http(http)
}
