//! This file reads the headers of commands and of reads.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use uuid::Uuid;

use super::{invalid, uuid, whole_number};
use crate::clock::{Clock, SystemClock};
use crate::command::Options;
use crate::daemon::auth::Caller;
use crate::daemon::problem::Problem;
use crate::event::CommandId;
use crate::stream::{ExpectedVersion, GlobalPosition, Version};

/// Longest `Idempotency-Key` and `Essaim-Principal`.
const MAX_CHARACTERS: usize = 255;
const MAX_DEADLINE_MS: u64 = 600_000;
const MAX_WAIT_MS: u64 = 60_000;

/// The value of a header, which may stand once.
fn header<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(name, "stands more than once"));
    }
    first.to_str().map(Some).map_err(|_| invalid(name, "must be visible ASCII"))
}

fn id(headers: &HeaderMap, name: &'static str) -> Result<Option<Uuid>, Problem> {
    let text = header(headers, name)?;
    text.map(|text| uuid(text).ok_or_else(|| invalid(name, "must be a UUID"))).transpose()
}

fn milliseconds(headers: &HeaderMap, name: &'static str, least: u64, most: u64) -> Result<Option<Duration>, Problem> {
    let wrong = || invalid(name, format!("must be a number of milliseconds from {least} to {most}"));
    let read = |text| whole_number(text).filter(|millis| (least..=most).contains(millis)).ok_or_else(wrong);
    Ok(header(headers, name)?.map(read).transpose()?.map(Duration::from_millis))
}

/// What a command brings in its headers.
#[derive(Debug)]
pub(crate) struct CommandHeaders {
    pub(crate) options: Options,
    /// The command's id, also when its outcome is not kept.
    pub(crate) command_id: CommandId,
    pub(crate) correlation_id: Uuid,
}

impl CommandHeaders {
    /// Reads them all.
    ///
    /// # Errors
    /// A problem that names the header at fault.
    fn read(headers: &HeaderMap, principal: &str) -> Result<Self, Problem> {
        let kept_id = key(headers)?.map(|key| CommandId::from_key(principal, key));
        let command_id = kept_id.unwrap_or_else(|| CommandId(SystemClock.time_ordered_id()));
        let correlation_id = correlation_id(headers)?.unwrap_or(command_id.0);
        let options = Options {
            command_id: kept_id,
            fresh_id: Some(command_id),
            expected: expected_version(headers)?,
            deadline: milliseconds(headers, "essaim-deadline-ms", 1, MAX_DEADLINE_MS)?,
            correlation_id: Some(correlation_id),
            causation_id: id(headers, "essaim-causation-id")?,
            principal: Some(principal.to_owned()),
            ..Options::default()
        };
        Ok(Self { options, command_id, correlation_id })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for CommandHeaders {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        let headers = Self::read(&parts.headers, &caller.principal)?;
        tracing::Span::current().record("correlation_id", tracing::field::display(headers.correlation_id));
        Ok(headers)
    }
}

/// Who the client says it is; taken only while nobody has to prove it.
///
/// # Errors
/// A problem when it is empty, too long or there twice.
pub(crate) fn principal(headers: &HeaderMap) -> Result<&str, Problem> {
    let principal = header(headers, "essaim-principal")?.unwrap_or("anonymous");
    if principal.is_empty() || principal.len() > MAX_CHARACTERS {
        return Err(invalid("essaim-principal", "must be 1 to 255 ASCII characters"));
    }
    Ok(principal)
}

fn key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let key = header(headers, "idempotency-key")?;
    let fits = |key: &str| (1..=MAX_CHARACTERS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    match key {
        Some(key) if !fits(key) => Err(invalid("idempotency-key", "must be 1 to 255 visible ASCII characters")),
        _ => Ok(key),
    }
}

/// The correlation id that a request brings: its own, else that of its trace.
///
/// # Errors
/// A problem when its own is no UUID.
pub(crate) fn correlation_id(headers: &HeaderMap) -> Result<Option<Uuid>, Problem> {
    Ok(id(headers, "essaim-correlation-id")?.or_else(|| trace_id(headers)))
}

/// W3C Trace Context §3.2.2 and §4.3: a traceparent that cannot be read is ignored, not refused.
fn trace_id(headers: &HeaderMap) -> Option<Uuid> {
    const DIGITS: usize = 32;
    let traceparent = headers.get("traceparent")?.to_str().ok()?;
    let trace_id = traceparent.split('-').nth(1).filter(|id| id.len() == DIGITS)?;
    Uuid::try_parse(trace_id).ok().filter(|id| !id.is_nil())
}

fn expected_version(headers: &HeaderMap) -> Result<ExpectedVersion, Problem> {
    let wrong = || invalid("if-match", "must be one version in quotes such as \"3\", or *");
    let Some(text) = header(headers, "if-match")? else { return Ok(ExpectedVersion::Any) };
    if text == "*" {
        return Ok(ExpectedVersion::Exists);
    }
    let digits = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).ok_or_else(wrong)?;
    let is_canonical = digits == "0" || !digits.starts_with('0');
    let version = whole_number(digits).filter(|_| is_canonical).ok_or_else(wrong)?;
    Ok(ExpectedVersion::Exact(Version(version)))
}

/// What a read brings in its headers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadHeaders {
    pub(crate) at_least: Option<GlobalPosition>,
    pub(crate) wait: Option<Duration>,
}

impl ReadHeaders {
    fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        let wrong = || invalid("essaim-at-least", "must be a position: a whole number");
        let at_least = header(headers, "essaim-at-least")?.map(|text| whole_number(text).ok_or_else(wrong));
        let wait = milliseconds(headers, "essaim-wait-ms", 0, MAX_WAIT_MS)?;
        Ok(Self { at_least: at_least.transpose()?.map(GlobalPosition), wait })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ReadHeaders {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::read(&parts.headers)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn read_all(headers: &HeaderMap) -> Result<CommandHeaders, Problem> {
        principal(headers).and_then(|principal| CommandHeaders::read(headers, principal))
    }

    fn read(pairs: &[(&'static str, &'static str)]) -> CommandHeaders {
        read_all(&headers(pairs)).unwrap()
    }

    fn refused(pairs: &[(&'static str, &'static str)]) -> String {
        format!("{:?}", read_all(&headers(pairs)).unwrap_err())
    }

    #[test]
    fn if_match_is_one_quoted_version_or_a_star() {
        let expected = |value| read(&[("if-match", value)]).options.expected;

        assert_eq!(read(&[]).options.expected, ExpectedVersion::Any);
        assert_eq!(expected("\"3\""), ExpectedVersion::Exact(Version(3)));
        assert_eq!(expected("\"0\""), ExpectedVersion::Exact(Version(0)));
        assert_eq!(expected("*"), ExpectedVersion::Exists);
        let wrong = [
            "",
            "3",
            "W/\"3\"",
            "\"3\", \"4\"",
            "\"3\",*",
            "\"\"",
            "\"",
            "\"03\"",
            "\"x\"",
            "\"-1\"",
            "\"+1\"",
            "'3'",
            "\"18446744073709551616\"",
        ];
        for wrong in wrong {
            assert!(refused(&[("if-match", wrong)]).contains("if-match"), "{wrong}");
        }
        assert!(refused(&[("if-match", "\"3\""), ("if-match", "\"3\"")]).contains("more than once"));
    }

    #[test]
    fn one_key_means_one_command_id_for_each_principal() {
        let id = |pairs: &[_]| read(pairs).command_id;
        let (key, ann, bob) = (("idempotency-key", "k"), ("essaim-principal", "ann"), ("essaim-principal", "bob"));

        assert_eq!(id(&[key, ann]), id(&[key, ann]));
        assert_ne!(id(&[key, ann]), id(&[key, bob]));
        assert_eq!(id(&[key]), id(&[key, ("essaim-principal", "anonymous")]));
        assert_ne!(id(&[ann]), id(&[ann]), "without a key every command is a new one");
        assert_eq!(read(&[ann]).options.command_id, None, "and its outcome is not kept");
    }

    #[test]
    fn headers_that_cannot_be_are_named() {
        let longest: &'static str = "k".repeat(255).leak();
        let too_long: &'static str = "k".repeat(256).leak();

        assert!(read(&[("idempotency-key", longest)]).options.command_id.is_some());
        for key in ["", "a b", "a\tb", too_long] {
            assert!(refused(&[("idempotency-key", key)]).contains("idempotency-key"), "{key:?}");
        }
        assert!(refused(&[("idempotency-key", "a"), ("idempotency-key", "b")]).contains("more than once"));
        for deadline in ["0", "600001", "-1", "+5", "1.5", "soon", ""] {
            assert!(refused(&[("essaim-deadline-ms", deadline)]).contains("essaim-deadline-ms"), "{deadline}");
        }
        for id in ["essaim-correlation-id", "essaim-causation-id"] {
            assert!(refused(&[(id, "x")]).contains(id), "{id}");
        }
        for principal in ["", too_long] {
            assert!(refused(&[("essaim-principal", principal)]).contains("essaim-principal"));
        }
    }

    #[test]
    fn a_header_that_is_no_ascii_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_bytes("clé".as_bytes()).unwrap());

        assert!(read_all(&headers).is_err());
    }

    #[test]
    fn the_correlation_id_is_the_clients_own_else_that_of_its_trace_else_the_commands() {
        let trace = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let own = ("essaim-correlation-id", "0190a3c4-0000-7000-8000-000000000001");

        assert_eq!(read(&[own, trace]).correlation_id.to_string(), own.1);
        assert_eq!(read(&[trace]).correlation_id.simple().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let neither = read(&[]);
        assert_eq!(neither.correlation_id, neither.command_id.0);
    }

    #[test]
    fn a_trace_that_cannot_be_read_is_no_reason_to_refuse_a_command() {
        for trace in ["", "garbage", "00-short-00f067aa0ba902b7-01", "00-00000000000000000000000000000000-00-01"] {
            let headers = read(&[("traceparent", trace)]);
            assert_eq!(headers.correlation_id, headers.command_id.0, "{trace}");
        }
    }

    #[test]
    fn a_read_says_which_position_it_wants_and_how_long_it_waits() {
        let read = |pairs: &[_]| ReadHeaders::read(&headers(pairs));

        let both = read(&[("essaim-at-least", "7"), ("essaim-wait-ms", "60000")]).unwrap();
        assert_eq!((both.at_least, both.wait), (Some(GlobalPosition(7)), Some(Duration::from_secs(60))));
        let neither = read(&[]).unwrap();
        assert_eq!((neither.at_least, neither.wait), (None, None));
        for wrong in [("essaim-at-least", "-1"), ("essaim-at-least", "x"), ("essaim-wait-ms", "60001")] {
            assert!(format!("{:?}", read(&[wrong]).unwrap_err()).contains(wrong.0), "{wrong:?}");
        }
    }
}
