//! This file holds the names of people, of which hardly anything can be said.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::InvalidText;

/// A first or last name: 1 to 100 characters, no control characters among them, and no white space at either end.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PersonName(Box<str>);

impl PersonName {
    const MAX_CHARACTERS: usize = 100;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PersonName {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        if text.trim().is_empty() {
            return Err(InvalidText("must not be empty"));
        }
        let is_one = text.trim() == text
            && text.chars().count() <= Self::MAX_CHARACTERS
            && !text.contains(|character: char| character.is_control());
        if is_one {
            Ok(Self(text.into()))
        } else {
            Err(InvalidText(
                "must be at most 100 characters, without control characters and without white space around it",
            ))
        }
    }
}

impl From<PersonName> for String {
    fn from(name: PersonName) -> Self {
        name.0.into()
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_neither_empty_nor_endless() {
        let name = |text: &str| PersonName::try_from(text.to_owned()).is_ok();

        assert!(name("X") && name("Élodie") && name("de la Cruz-O'Hara") && name("李") && name(&"é".repeat(100)));
        for wrong in ["", " ", "\u{a0}", " Ada", "Ada ", "A\nda", "A\0", "A\u{7f}"] {
            assert!(!name(wrong), "{wrong:?}");
        }
        assert!(!name(&"é".repeat(101)));
    }
}
