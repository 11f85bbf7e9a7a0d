//! This file names things in the log: streams, versions within them, and positions across all of them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest category in bytes; it is a label of metrics and a column of an index.
pub const MAX_CATEGORY_BYTES: usize = 64;
/// Longest stream key in bytes. Postgres refuses B-tree entries above 2,704 bytes; this stays far below.
pub const MAX_KEY_BYTES: usize = 512;

/// A stream: the category of its aggregate and the key of the instance.
///
/// Shown as `category-key`. Cloning is cheap: the text is shared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    text: Arc<str>,
    category_len: usize,
}

/// Why a stream cannot be named so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidStreamId {
    /// Categories are `[a-z][a-z0-9_-]*`, at most [`MAX_CATEGORY_BYTES`] long.
    #[error("category {0:?} is not of the form [a-z][a-z0-9_-]* with at most {MAX_CATEGORY_BYTES} bytes")]
    Category(String),
    /// A key has at least one byte.
    #[error("a stream key must not be empty")]
    EmptyKey,
    /// A key has at most [`MAX_KEY_BYTES`] bytes.
    #[error("a stream key of {0} bytes is longer than {MAX_KEY_BYTES}")]
    LongKey(usize),
    /// A key holds no control characters; U+0000 in particular breaks text columns.
    #[error("a stream key must not contain control characters")]
    ControlCharacter,
}

impl StreamId {
    /// The stream of `key` in `category`; nothing is checked until [`StreamId::validate`].
    pub fn new(category: &str, key: &str) -> Self {
        let shared = |text: &mut [u8]| {
            text[..category.len()].copy_from_slice(category.as_bytes());
            text[category.len()] = b'-';
            text[category.len() + 1..].copy_from_slice(key.as_bytes());
            Arc::from(str::from_utf8(text).expect("texts in a row are text"))
        };
        // Put together where it costs no memory of its own; the few that are too long are refused later.
        let mut short = [0; MAX_CATEGORY_BYTES + 1 + MAX_KEY_BYTES];
        let text = match short.get_mut(..category.len() + 1 + key.len()) {
            Some(text) => shared(text),
            None => shared(&mut vec![0; category.len() + 1 + key.len()]),
        };
        Self { text, category_len: category.len() }
    }

    /// The category, e.g. `payment`.
    pub fn category(&self) -> &str {
        &self.text[..self.category_len]
    }

    /// The key within the category.
    pub fn key(&self) -> &str {
        &self.text[self.category_len + 1..]
    }

    /// `category-key`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether a store can keep this name.
    ///
    /// # Errors
    /// [`InvalidStreamId`] names the part that is at fault.
    pub fn validate(&self) -> Result<(), InvalidStreamId> {
        let category = self.category();
        let mut bytes = category.bytes();
        let shaped = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
            && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        if !shaped || category.len() > MAX_CATEGORY_BYTES {
            return Err(InvalidStreamId::Category(category.chars().take(80).collect()));
        }
        let key = self.key();
        if key.is_empty() {
            return Err(InvalidStreamId::EmptyKey);
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(InvalidStreamId::LongKey(key.len()));
        }
        if key.chars().any(char::is_control) {
            return Err(InvalidStreamId::ControlCharacter);
        }
        Ok(())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.text)
    }
}

/// Count of events in a stream; 0 is the empty stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub u64);

impl Version {
    /// The empty stream.
    pub const EMPTY: Version = Version(0);
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Place of an event in the whole log, counted from 1 without gaps; 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GlobalPosition(pub u64);

impl GlobalPosition {
    /// Before the first event.
    pub const START: GlobalPosition = GlobalPosition(0);

    /// The position right behind this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for GlobalPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the caller believes of a stream before its command is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpectedVersion {
    /// Nothing in particular.
    #[default]
    Any,
    /// No event yet.
    NoStream,
    /// At least one event.
    Exists,
    /// Exactly this many events.
    Exact(Version),
}

impl ExpectedVersion {
    /// Whether a stream at `actual` is as expected.
    pub fn allows(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Version::EMPTY,
            Self::Exists => actual > Version::EMPTY,
            Self::Exact(version) => actual == version,
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no stream"),
            Self::Exists => f.write_str("an existing stream"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_id_splits_where_its_category_ends_even_with_dashes_in_both() {
        let stream = StreamId::new("load-meter", "a-b");

        assert_eq!((stream.category(), stream.key(), stream.as_str()), ("load-meter", "a-b", "load-meter-a-b"));
    }

    #[test]
    fn two_streams_with_one_text_but_other_categories_differ() {
        assert_ne!(StreamId::new("a", "b-c"), StreamId::new("a-b", "c"));
    }

    #[test]
    fn names_that_a_store_could_not_keep_are_refused() {
        let refused = |category: &str, key: &str| StreamId::new(category, key).validate().unwrap_err();

        assert_eq!(refused("Payment", "a"), InvalidStreamId::Category("Payment".into()));
        assert_eq!(refused("payment", ""), InvalidStreamId::EmptyKey);
        assert_eq!(refused("payment", "a\0b"), InvalidStreamId::ControlCharacter);
        assert_eq!(refused("payment", &"k".repeat(9_000)), InvalidStreamId::LongKey(9_000));
        assert!(StreamId::new("payment", "Zoë").validate().is_ok());
    }
}
