//! This file is which addresses of a Keycloak are taken, and how paths are put behind them.

use std::net::IpAddr;

use reqwest::Url;

use crate::identity::ProviderError;

/// The address of a realm's server.
#[derive(Debug, Clone)]
pub(super) struct Address {
    base: Url,
}

impl Address {
    /// # Errors
    /// [`ProviderError::Configuration`]; the text does not repeat the address, for it may hold a password.
    pub(super) fn parse(text: &str, allow_plain_http: bool) -> Result<Self, ProviderError> {
        let base = Url::parse(text).map_err(|error| refused(format!("the address is no URL ({error})")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none_or(str::is_empty) {
            return Err(refused("the address is none of http or https, e.g. https://id.example.org"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("the address carries a user name or password; it takes only the client's secret"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(refused("the address has a query or fragment; it is only where Keycloak answers"));
        }
        let address = Self { base };
        if address.base.scheme() == "http" && !allow_plain_http && !address.is_this_machine() {
            return Err(refused("the address is http, which shows the secret on the way: use https, or allow it"));
        }
        Ok(address)
    }

    /// Whether what is sent never leaves this machine.
    pub(super) fn is_this_machine(&self) -> bool {
        let host = self.base.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// `segments`, each percent-encoded as one, behind the address's own path.
    pub(super) fn below(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(segments);
        url
    }
}

fn refused(detail: impl Into<String>) -> ProviderError {
    ProviderError::Configuration { detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_taken_for_this_machine_and_where_it_is_allowed() {
        for loopback in ["http://localhost:8080", "http://127.0.0.1:1", "http://[::1]:8080/auth"] {
            assert!(Address::parse(loopback, false).is_ok(), "{loopback}");
        }
        for elsewhere in ["http://id.example.org", "http://localhost.example.org", "http://192.168.0.1"] {
            assert!(Address::parse(elsewhere, false).is_err(), "{elsewhere}");
            assert!(Address::parse(elsewhere, true).is_ok(), "{elsewhere}");
        }
        assert!(Address::parse("https://id.example.org", false).is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused_without_repeating_it() {
        let bad = [
            "",
            "secret",
            "ftp://secret",
            "https://ada:secret@id.example.org",
            "https://id.example.org/?secret",
            "file:///secret",
        ];
        for text in bad {
            let error = Address::parse(text, false).unwrap_err();

            assert!(matches!(error, ProviderError::Configuration { .. }), "{text}");
            assert!(
                !format!("{error} {error:?}").contains("secret") || error.to_string().contains("client's secret"),
                "{error}"
            );
            assert!(!error.to_string().contains("ada"), "{error}");
        }
    }

    #[test]
    fn segments_stand_behind_the_path_and_cannot_leave_theirs() {
        let address = Address::parse("https://example.org/auth/", false).unwrap();

        assert_eq!(address.below(&["realms", "a/b"]).as_str(), "https://example.org/auth/realms/a%2Fb");
    }
}
