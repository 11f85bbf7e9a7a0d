//! This file holds what people write to say why: short texts for those who read the log later.

use serde::{Deserialize, Serialize};

/// Why something was done: at most 500 characters, without U+0000.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(String);

/// A text that cannot be what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidText(pub(super) &'static str);

impl Reason {
    const MAX_CHARACTERS: usize = 500;

    /// A reason out of any text: U+0000 is left out, and what is too long is cut. For texts that a machine wrote; what
    /// a person wrote is refused rather than changed.
    pub fn cut(text: &str) -> Self {
        Self(text.chars().filter(|character| *character != '\0').take(Self::MAX_CHARACTERS).collect())
    }

    /// The reason.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidText;

    fn try_from(reason: String) -> Result<Self, InvalidText> {
        if reason.contains('\0') {
            return Err(InvalidText("must not contain U+0000"));
        }
        let fits = reason.chars().count() <= Self::MAX_CHARACTERS;
        if fits { Ok(Self(reason)) } else { Err(InvalidText("must be at most 500 characters")) }
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_at_most_five_hundred_characters() {
        let reason = |text: &str| Reason::try_from(text.to_owned());

        assert!(reason("").is_ok() && reason(&"é".repeat(500)).is_ok());
        assert!(reason(&"x".repeat(501)).is_err() && reason("a\0b").is_err());
    }

    #[test]
    fn any_text_can_be_cut_to_a_reason() {
        assert_eq!(Reason::cut("a\0b").as_str(), "ab");
        let long = Reason::cut(&"é".repeat(501));
        assert_eq!(Reason::try_from("é".repeat(500)), Ok(long));
    }
}
