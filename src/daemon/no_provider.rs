//! This file is in the place of `provider` where that is not built: no identity provider.

use super::config::Config;
use super::failure::Failure;
use crate::engine::{Engine, EngineBuilder};

/// No provider.
pub(crate) enum Provider {}

/// # Errors
/// [`Failure::Usage`] when one is configured.
pub(crate) fn configured(config: &Config) -> Result<Option<Provider>, Failure> {
    if config.keycloak_url.is_empty() {
        return Ok(None);
    }
    Err(Failure::Usage("keycloak_url: this program was built without Keycloak".into()))
}

impl Provider {
    pub(crate) fn attach(&self, _: EngineBuilder, _: &Config) -> EngineBuilder {
        match *self {}
    }

    pub(crate) async fn check(&self) -> Vec<(&'static str, String, Option<String>)> {
        match *self {}
    }

    pub(crate) fn poll(self, _: &Engine, _: &Config, _: tokio_util::sync::CancellationToken) {
        match self {}
    }
}
