//! This file holds the roles of users.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::InvalidText;

/// The name of a role: `[a-z][a-z0-9_-]*`, at most 64 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoleName(Box<str>);

/// The roles of one user: a set of at most 100. As JSON a sorted list, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeSet<RoleName>", into = "BTreeSet<RoleName>")]
pub struct Roles(BTreeSet<RoleName>);

impl RoleName {
    const MAX_CHARACTERS: usize = 64;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RoleName {
    type Error = InvalidText;

    fn try_from(text: String) -> Result<Self, InvalidText> {
        let is_one = text.len() <= Self::MAX_CHARACTERS
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte));
        if is_one {
            Ok(Self(text.into()))
        } else {
            Err(InvalidText("must be names of roles: [a-z][a-z0-9_-]*, each at most 64 characters"))
        }
    }
}

impl From<RoleName> for String {
    fn from(role: RoleName) -> Self {
        role.0.into()
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Roles {
    const MAX: usize = 100;

    /// The names, sorted.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &RoleName> {
        self.0.iter()
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<BTreeSet<RoleName>> for Roles {
    type Error = InvalidText;

    fn try_from(roles: BTreeSet<RoleName>) -> Result<Self, InvalidText> {
        if roles.len() <= Self::MAX { Ok(Self(roles)) } else { Err(InvalidText("must be at most 100 roles")) }
    }
}

impl From<Roles> for BTreeSet<RoleName> {
    fn from(roles: Roles) -> Self {
        roles.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_a_lower_case_name() {
        let role = |text: &str| RoleName::try_from(text.to_owned()).is_ok();

        assert!(role("a") && role("billing_admin-2") && role(&"a".repeat(64)));
        for wrong in ["", "Admin", "2nd", "_x", "-x", "a b", "é", "a.b", "a\0"] {
            assert!(!role(wrong), "{wrong:?}");
        }
        assert!(!role(&"a".repeat(65)));
    }

    #[test]
    fn roles_are_a_bounded_set() {
        let roles = |names: Vec<String>| serde_json::from_value::<Roles>(serde_json::json!(names));
        let distinct = |count: usize| (0..count).map(|n| format!("r{n}")).collect();

        let twice = roles(vec!["writer".into(), "admin".into(), "writer".into()]).unwrap();

        assert_eq!(serde_json::to_string(&twice).unwrap(), r#"["admin","writer"]"#);
        assert!(roles(distinct(100)).is_ok() && roles(distinct(101)).is_err());
    }
}
