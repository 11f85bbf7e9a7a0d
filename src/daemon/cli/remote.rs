//! This file asks a running daemon over HTTP, for commands about what only that daemon knows.

use serde_json::Value;

use crate::daemon::config::Config;
use crate::daemon::failure::{Failure, with_causes};

/// Where the daemon is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Address {
    /// Ask the daemon at this address; the configured `listen` when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// A daemon at its address.
pub(super) struct Remote {
    base: String,
    client: reqwest::Client,
    principal: Option<String>,
}

impl Remote {
    pub(super) fn of(address: &Address, config: &Config) -> Self {
        let base = address.url.clone().unwrap_or_else(|| format!("http://{}", config.listen));
        Self { base: base.trim_end_matches('/').to_owned(), client: reqwest::Client::new(), principal: None }
    }

    /// The same in somebody's name, which a daemon takes while it asks nobody for a token.
    pub(super) fn speaking_for(self, principal: Option<String>) -> Self {
        Self { principal, ..self }
    }

    /// The answer to a GET. Parts of the path are escaped.
    ///
    /// # Errors
    /// [`Failure::Stopped`] with the problem's detail, or with why there is no answer.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, Failure> {
        let address = self.address(path)?;
        let request = self.client.get(address.clone()).query(query);
        answer(request, address.as_str()).await
    }

    /// The answer to a POST of this body.
    ///
    /// # Errors
    /// As [`Remote::get`].
    pub(super) async fn post(&self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        let address = self.address(path)?;
        let mut request = self.client.post(address.clone()).json(body);
        if let Some(principal) = &self.principal {
            request = request.header("essaim-principal", principal);
        }
        answer(request, address.as_str()).await
    }

    fn address(&self, path: &[&str]) -> Result<reqwest::Url, Failure> {
        let wrong = || Failure::Usage(format!("{:?} is no address such as http://127.0.0.1:7700", self.base));
        let mut address = reqwest::Url::parse(&self.base).map_err(|_| wrong())?;
        address.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(path);
        Ok(address)
    }
}

async fn answer(request: reqwest::RequestBuilder, address: &str) -> Result<Value, Failure> {
    let failed = |error: reqwest::Error| Failure::Stopped(format!("{address}: {}", with_causes(&error)));
    let answer = request.send().await.map_err(failed)?;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    if status.is_success() {
        return Ok(body);
    }
    let detail = body["detail"].as_str().unwrap_or("no reason given");
    Err(Failure::Stopped(format!("{address} answered {status}: {detail}")))
}
