//! This file gives the daemon its identity provider: the synchroniser that brings users there, and the polling of what
//! they did there.

use std::sync::Arc;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::config::Config;
use super::failure::Failure;
use crate::engine::{Engine, EngineBuilder};
use crate::identity::IdentityProvider;
use crate::identity::keycloak::{Keycloak, KeycloakOptions};
use crate::synchroniser::Pace;
use crate::synchronisers::user_accounts::UserAccounts;

mod polling;

/// The provider of this daemon.
pub(crate) struct Provider {
    identities: Arc<dyn IdentityProvider>,
}

/// The provider that the configuration names, if it names one. It is not asked anything yet.
///
/// # Errors
/// [`Failure::Usage`] when it cannot be one: its address, its secret, its certificates.
pub(crate) fn configured(config: &Config) -> Result<Option<Provider>, Failure> {
    if config.keycloak_url.is_empty() {
        return Ok(None);
    }
    let wrong = |what: &str| Failure::Usage(format!("keycloak_url: {what}"));
    let keycloak = Keycloak::new(options(config)?).map_err(|error| wrong(&error.to_string()))?;
    Ok(Some(Provider { identities: Arc::new(keycloak) }))
}

fn options(config: &Config) -> Result<KeycloakOptions, Failure> {
    let mut options = KeycloakOptions::new(
        config.keycloak_url.clone(),
        config.keycloak_realm.clone(),
        config.keycloak_client_id.clone(),
        secret(config)?,
    );
    options.allow_plain_http = config.keycloak_allow_http;
    if !config.keycloak_certificates_file.is_empty() {
        options.certificates =
            Some(read("keycloak_certificates_file", &config.keycloak_certificates_file)?.into_bytes());
    }
    Ok(options)
}

fn secret(config: &Config) -> Result<SecretString, Failure> {
    let (given, file) = (&config.keycloak_client_secret, &config.keycloak_client_secret_file);
    match (given.is_empty(), file.is_empty()) {
        (false, true) => Ok(given.clone().into()),
        (true, false) => Ok(read("keycloak_client_secret_file", file)?.trim().to_owned().into()),
        (true, true) => Err(Failure::Usage(
            "keycloak_url needs the client's secret: keycloak_client_secret_file, or keycloak_client_secret".into(),
        )),
        (false, false) => {
            Err(Failure::Usage("keycloak_client_secret and keycloak_client_secret_file: give one of them".into()))
        }
    }
}

fn read(key: &str, file: &str) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| Failure::Usage(format!("{key}: {file} cannot be read: {error}")))
}

impl Provider {
    /// Lets the engine bring users to it.
    pub(crate) fn attach(&self, engine: EngineBuilder, config: &Config) -> EngineBuilder {
        let pace = Pace {
            parallel: config.keycloak_parallel_users.count(),
            max_attempts: config.keycloak_max_attempts.small(),
            call_deadline: config.keycloak_call_deadline_ms.milliseconds(),
            reconcile_per_second: config.keycloak_reconcile_per_second.small(),
            ..Pace::default()
        };
        engine.synchroniser_at(UserAccounts::at(Arc::clone(&self.identities)), pace)
    }

    /// What it needs to be and to have: the name of the thing, what was found, and how to mend it if that is needed.
    pub(crate) async fn check(&self) -> Vec<(&'static str, String, Option<String>)> {
        let checks = self.identities.check().await.into_iter();
        checks.map(|check| (check.name, check.detail, check.remedy.filter(|_| !check.ok))).collect()
    }

    /// From now on, what users do there becomes commands here; and what is wrong with its set-up is said in the log.
    pub(crate) fn poll(self, engine: &Engine, config: &Config, stop: CancellationToken) {
        let identities = Arc::clone(&self.identities);
        tokio::spawn(async move {
            for check in identities.check().await.into_iter().filter(|check| !check.ok) {
                let remedy = check.remedy.unwrap_or_default();
                warn!(
                    check = check.name,
                    detail = check.detail,
                    remedy,
                    "the identity provider is not set up as needed"
                );
            }
        });
        let every = config.keycloak_poll_every_ms.milliseconds();
        tokio::spawn(polling::poll(engine.clone(), self.identities, every, stop));
    }
}
