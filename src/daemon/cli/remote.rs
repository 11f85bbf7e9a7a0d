//! This file asks a running daemon over HTTP, for commands about what only that daemon knows.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use clap::ValueHint;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;

use crate::causes::with_causes;
use crate::daemon::config::Config;
use crate::daemon::failure::Failure;

/// Where the daemon is.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Address {
    /// Ask the daemon at this address; the configured `listen` when absent
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    #[command(flatten)]
    token: Token,
}

/// Names the file of the token too.
pub(super) const TOKEN_FILE: &str = "ESSAIM_TOKEN_FILE";

/// Who asks it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Token {
    /// Send the bearer token in this file, for a daemon that asks for one; - reads it from the standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = TOKEN_FILE)]
    pub(super) token_file: Option<OsString>,
}

impl Token {
    /// The value of an `Authorization` header, if there is to be one.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the file cannot be read or holds none.
    pub(super) fn read(&self) -> Result<Option<HeaderValue>, Failure> {
        // A variable that is set to nothing counts as not set, as everywhere.
        let file = self.token_file.as_deref().filter(|file| !file.is_empty());
        file.map(|file| read_token(Path::new(file))).transpose()
    }
}

/// A daemon at its address.
pub(super) struct Remote {
    base: String,
    client: reqwest::Client,
    principal: Option<String>,
    token: Option<HeaderValue>,
}

impl Remote {
    /// The daemon at this address.
    ///
    /// # Errors
    /// [`Failure::Usage`] when the file of the token cannot be read or holds none.
    pub(super) fn of(address: &Address, config: &Config) -> Result<Self, Failure> {
        let base = address.url.clone().unwrap_or_else(|| format!("http://{}", config.listen));
        Self::at(&base, &address.token)
    }

    /// The same, whatever is configured.
    ///
    /// # Errors
    /// As [`Remote::of`].
    pub(super) fn at(url: &str, token: &Token) -> Result<Self, Failure> {
        let base = url.trim_end_matches('/').to_owned();
        Ok(Self { base, client: reqwest::Client::new(), principal: None, token: token.read()? })
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
        self.answer(request, address.as_str()).await
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
        self.answer(request, address.as_str()).await
    }

    async fn answer(&self, mut request: reqwest::RequestBuilder, address: &str) -> Result<Value, Failure> {
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        let failed = |error: reqwest::Error| Failure::Stopped(format!("{address}: {}", with_causes(&error)));
        let answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let body: Value = answer.json().await.unwrap_or_default();
        if status.is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().unwrap_or("no reason given");
        let help = match (status, &self.token) {
            (StatusCode::UNAUTHORIZED, None) => "; --token-file sends a token",
            (StatusCode::UNAUTHORIZED, Some(_)) => "; --token-file needs a newer or another token",
            _ => "",
        };
        Err(Failure::Stopped(format!("{address} answered {status}: {detail}{help}")))
    }

    fn address(&self, path: &[&str]) -> Result<reqwest::Url, Failure> {
        let wrong = || Failure::Usage(format!("{:?} is no address such as http://127.0.0.1:7700", self.base));
        let mut address = reqwest::Url::parse(&self.base).map_err(|_| wrong())?;
        address.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(path);
        Ok(address)
    }
}

/// The token in a file, with or without the word `Bearer`, and whatever line ends behind it.
fn read_token(file: &Path) -> Result<HeaderValue, Failure> {
    let shown = file.display();
    let wrong = |what: String| Failure::Usage(format!("--token-file {shown}: {what}"));
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| wrong(error.to_string()))?;
    let token = text.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        // Its content is a secret, also when it is none.
        return Err(wrong("holds no token: one line of visible ASCII characters".into()));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).expect("visible ASCII makes a header");
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_with_or_without_its_scheme_and_what_is_none_is_refused_without_being_shown() {
        let folder = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            let file = folder.path().join("token");
            std::fs::write(&file, text).unwrap();
            read_token(&file)
        };

        for right in ["abc.def.ghi", "abc.def.ghi\n", "Bearer abc.def.ghi\r\n"] {
            assert_eq!(read(right).unwrap(), "Bearer abc.def.ghi");
        }
        for wrong in ["", "\n", "secret words", "sécret"] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains("holds no token") && !said.contains("cret"), "{said}");
        }
        let missing = read_token(&folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(missing.contains("nowhere"), "{missing}");
    }
}
