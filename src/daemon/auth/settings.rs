//! This file reads from the configuration whose tokens are taken, and refuses what cannot be meant.

use std::net::IpAddr;

use reqwest::Url;

use crate::daemon::config::Config;
use crate::daemon::failure::Failure;

/// Whose tokens are taken, and how they are read.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The issuer, exactly as tokens name it.
    pub(crate) issuer: String,
    /// What tokens must be meant for.
    pub(super) audience: String,
    /// Where its keys are; none: where its discovery document says.
    pub(super) jwks_url: Option<Url>,
    /// Seconds by which the clocks may differ, 0 to 60.
    pub(super) leeway_seconds: u64,
    pub(super) organization_claim: String,
    pub(super) roles_claim: String,
    pub(super) allow_http: bool,
}

impl Settings {
    /// None when no issuer is configured.
    ///
    /// # Errors
    /// [`Failure::Usage`] when keys contradict each other, or an address cannot be trusted.
    pub(crate) fn of(config: &Config) -> Result<Option<Self>, Failure> {
        if config.auth_issuer.is_empty() {
            let stray = [("auth_audience", &config.auth_audience), ("auth_jwks_url", &config.auth_jwks_url)];
            return match stray.iter().find(|(_, value)| !value.is_empty()) {
                Some((key, _)) => Err(Failure::Usage(format!("{key} means nothing without auth_issuer"))),
                None => Ok(None),
            };
        }
        if config.auth_audience.is_empty() {
            let why = "auth_issuer needs auth_audience: without it, tokens meant for others would be taken";
            return Err(Failure::Usage(why.into()));
        }
        for (key, claim) in [
            ("auth_organization_claim", &config.auth_organization_claim),
            ("auth_roles_claim", &config.auth_roles_claim),
        ] {
            if claim.split('.').any(str::is_empty) {
                return Err(Failure::Usage(format!("{key}: {claim:?} is no name of a claim, nor a dotted path")));
            }
        }
        trusted(&config.auth_issuer, config.auth_allow_http).map_err(|what| wrong("auth_issuer", &what))?;
        let jwks_url = Some(config.auth_jwks_url.as_str()).filter(|url| !url.is_empty());
        let jwks_url = jwks_url.map(|url| trusted(url, config.auth_allow_http)).transpose();
        Ok(Some(Self {
            issuer: config.auth_issuer.clone(),
            audience: config.auth_audience.clone(),
            jwks_url: jwks_url.map_err(|what| wrong("auth_jwks_url", &what))?,
            leeway_seconds: config.auth_leeway_seconds.get(),
            organization_claim: config.auth_organization_claim.clone(),
            roles_claim: config.auth_roles_claim.clone(),
            allow_http: config.auth_allow_http,
        }))
    }
}

fn wrong(key: &str, what: &str) -> Failure {
    Failure::Usage(format!("{key}: {what}"))
}

/// An address whose answers nobody on the way can change: keys fetched in the clear could be anybody's.
///
/// # Errors
/// What is wrong with it.
pub(super) fn trusted(text: &str, allow_http: bool) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not an address: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or a password".into());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not have a query or a fragment".into());
    }
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_http || is_loopback(&url) => Ok(url),
        "http" => Err("must begin with https:// unless it is on the loopback, or auth_allow_http is set".into()),
        _ => Err("must begin with https://".into()),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::layers::Layers;

    fn settings(flags: &[(&str, &str)]) -> Result<Option<Settings>, Failure> {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Settings::of(&Layers { flags, ..Layers::default() }.load().unwrap().config)
    }

    #[test]
    fn without_an_issuer_nobody_is_asked() {
        assert!(settings(&[]).unwrap().is_none());
    }

    #[test]
    fn an_issuer_needs_an_audience_and_an_audience_an_issuer() {
        let (issuer, audience) = (("auth_issuer", "https://id.example"), ("auth_audience", "essaim"));

        assert!(settings(&[issuer]).unwrap_err().to_string().contains("auth_audience"));
        assert!(settings(&[audience]).unwrap_err().to_string().contains("auth_issuer"));
        assert!(settings(&[issuer, audience]).unwrap().is_some());
    }

    #[test]
    fn keys_are_fetched_in_the_clear_only_from_the_loopback_or_when_allowed() {
        for right in ["https://id.example/a", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost/realms/a"] {
            assert!(trusted(right, false).is_ok(), "{right}");
        }
        let names =
            ["http://id.example", "http://localhost.example", "ftp://id.example", "id.example", "https://a:b@c"];
        for wrong in names {
            assert!(trusted(wrong, false).is_err(), "{wrong}");
        }
        assert!(trusted("http://id.example", true).is_ok());
    }
}
