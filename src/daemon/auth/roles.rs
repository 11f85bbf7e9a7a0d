//! This file is the table of who may do what: the one role that each route needs.

use axum::http::Method;

/// The role that may do everything, in every organisation.
pub(crate) const ADMIN: &str = "admin";

/// Method, template of the path, role. What is not in here is denied.
const NEEDS: &[(Method, &str, &str)] = &[
    (Method::POST, "/v1/payments", "payments:write"),
    (Method::POST, "/v1/payments/{id}/authorize", "payments:write"),
    (Method::POST, "/v1/payments/{id}/complete", "payments:write"),
    (Method::POST, "/v1/payments/{id}/cancel", "payments:write"),
    (Method::GET, "/v1/payments", "payments:read"),
    (Method::GET, "/v1/payments/stats", "payments:read"),
    (Method::GET, "/v1/payments/{id}", "payments:read"),
    (Method::GET, "/v1/payments/{id}/report", "payments:read"),
    (Method::GET, "/v1/payments/{id}/events", "payments:read"),
    (Method::POST, "/v1/users", "users:write"),
    (Method::PATCH, "/v1/users/{id}", "users:write"),
    (Method::PUT, "/v1/users/{id}/roles", "users:write"),
    (Method::POST, "/v1/users/{id}/enable", "users:write"),
    (Method::POST, "/v1/users/{id}/disable", "users:write"),
    (Method::POST, "/v1/users/{id}/verify-email", "users:write"),
    (Method::POST, "/v1/users/{id}/logins", "users:write"),
    (Method::DELETE, "/v1/users/{id}", "users:write"),
    (Method::GET, "/v1/users", "users:read"),
    (Method::GET, "/v1/users/analytics", "users:read"),
    (Method::GET, "/v1/users/{id}", "users:read"),
    (Method::GET, "/v1/audit", "audit:read"),
    (Method::GET, "/v1/events", "operator"),
    (Method::GET, "/v1/admin/status", "operator"),
    (Method::GET, "/v1/admin/projections", "operator"),
    (Method::GET, "/v1/admin/projections/{name}/digest", "operator"),
    (Method::POST, "/v1/admin/projections/{name}/rebuild", "operator"),
    (Method::POST, "/v1/admin/release", "operator"),
    (Method::GET, "/v1/admin/synchronisers", "operator"),
    (Method::GET, "/v1/admin/synchronisers/{name}", "operator"),
    (Method::POST, "/v1/admin/synchronisers/{name}/reconcile", "operator"),
    (Method::GET, "/v1/admin/dead-letters", "operator"),
    (Method::GET, "/v1/admin/dead-letters/{synchroniser}/{subject}", "operator"),
    (Method::POST, "/v1/admin/dead-letters/{synchroniser}/{subject}/retry", "operator"),
    (Method::POST, "/v1/admin/dead-letters/{synchroniser}/{subject}/skip", "operator"),
];

/// The role that this route needs; none when it declares none, so that nobody may use it.
pub(crate) fn needed(method: &Method, route: &str) -> Option<&'static str> {
    // A HEAD is answered by what answers GET.
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    NEEDS.iter().find(|(known, path, _)| known == method && *path == route).map(|(_, _, role)| *role)
}

/// The methods that this route takes; none when it declares none.
pub(super) fn methods(route: &str) -> Vec<&'static str> {
    let declared = NEEDS.iter().filter(|(_, path, _)| *path == route).map(|(method, ..)| method.as_str());
    declared.flat_map(|method| if method == "GET" { vec!["GET", "HEAD"] } else { vec![method] }).collect()
}

/// Whether somebody with this role may do anything here that others may not.
pub(super) fn opens_something(role: &str) -> bool {
    role == ADMIN || NEEDS.iter().any(|(.., needed)| *needed == role)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_below_v1_declares_its_role_and_no_other_is_declared() {
        let (_, document) = crate::daemon::documented();
        let document = serde_json::to_value(document).unwrap();
        let paths = document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/"));
        let routes: BTreeSet<String> = paths
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |m| format!("{} {path}", m.to_uppercase()))
            })
            .collect();

        let declared: BTreeSet<String> = NEEDS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();

        assert_eq!(routes, declared);
    }

    #[test]
    fn what_declares_nothing_needs_what_nobody_has() {
        assert_eq!(needed(&Method::DELETE, "/v1/payments"), None);
        assert_eq!(needed(&Method::HEAD, "/v1/payments"), Some("payments:read"));
    }
}
