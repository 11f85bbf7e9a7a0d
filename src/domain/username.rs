//! This file holds the names that users log in with.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::InvalidText;

/// A username in lower case: `[a-z0-9][a-z0-9._@+-]*`, 3 to 255 characters; an email address may be one.
///
/// ASCII alone, because there every system folds the case alike; with other letters two systems could take one name
/// for two, or two for one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Username(Box<str>);

impl Username {
    /// As identity providers have them, Keycloak for one.
    const LENGTHS: std::ops::RangeInclusive<usize> = 3..=255;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Username {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        let is_one = Self::LENGTHS.contains(&text.len())
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._@+-".contains(&byte));
        if is_one {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(InvalidText(
                "must be 3 to 255 ASCII letters, digits or any of . _ @ + -, the first of them a letter or digit",
            ))
        }
    }
}

impl From<Username> for String {
    fn from(username: Username) -> Self {
        username.0.into()
    }
}

impl fmt::Display for Username {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn username(text: &str) -> Option<String> {
        Username::try_from(text.to_owned()).ok().map(String::from)
    }

    #[test]
    fn a_username_is_kept_in_lower_case() {
        assert_eq!(username("Ada.Lovelace").as_deref(), Some("ada.lovelace"));
        assert_eq!(username("Ada@Example.org").as_deref(), Some("ada@example.org"));
    }

    #[test]
    fn what_cannot_be_a_username_is_refused() {
        assert!(username("ada").is_some() && username(&"a".repeat(255)).is_some());
        for wrong in
            ["", "ab", "a b", " ada", "ada ", ".ada", "-ada", "@ada", "élodie", "İda", "a/da", "ada\n", "ad\0a"]
        {
            assert_eq!(username(wrong), None, "{wrong:?}");
        }
        assert_eq!(username(&"a".repeat(256)), None);
    }
}
