//! This file holds email addresses: checked for their form, never for somebody behind them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::reason::InvalidText;

/// An email address in lower case, e.g. `ada@example.org`. At most 254 ASCII characters, a dot-atom before the `@`
/// and a domain of two labels or more behind it; quoted and international addresses are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(Box<str>);

impl Email {
    /// RFC 5321 §4.5.3.1.3 (a path of 256 octets, without its brackets).
    const MAX_BYTES: usize = 254;
    /// RFC 5321 §4.5.3.1.1.
    const MAX_LOCAL_BYTES: usize = 64;
    /// RFC 1035 §2.3.4.
    const MAX_LABEL_BYTES: usize = 63;

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Email {
    type Error = InvalidText;

    /// Folds the case: every provider does, and two spellings of one address must not be two users.
    fn try_from(text: String) -> Result<Self, InvalidText> {
        let is_one = text.len() <= Self::MAX_BYTES
            && text.rsplit_once('@').is_some_and(|(local, domain)| is_local(local) && is_domain(domain));
        if is_one {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(InvalidText("must be an email address such as ada@example.org, at most 254 ASCII characters"))
        }
    }
}

/// A dot-atom (RFC 5322 §3.2.3).
fn is_local(local: &str) -> bool {
    let is_atom = |atom: &str| {
        !atom.is_empty()
            && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte))
    };
    local.len() <= Email::MAX_LOCAL_BYTES && local.split('.').all(is_atom)
}

/// Letters, digits and hyphens between dots (RFC 1123 §2.1), and a top level that is no number.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=Email::MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let top_level = domain.rsplit_once('.').map(|(_, top_level)| top_level);
    domain.split('.').all(is_label) && top_level.is_some_and(|label| !label.bytes().all(|byte| byte.is_ascii_digit()))
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0.into()
    }
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email(text: &str) -> Option<String> {
        Email::try_from(text.to_owned()).ok().map(String::from)
    }

    #[test]
    fn an_address_is_kept_in_lower_case() {
        assert_eq!(email("Ada.Lovelace+List@Example.ORG").as_deref(), Some("ada.lovelace+list@example.org"));
    }

    #[test]
    fn what_has_the_form_of_an_address_is_taken() {
        let longest_local = format!("{}@example.org", "a".repeat(64));
        // 64 + 1 + 3 labels of 63 would be 256 with their dots; 189 behind the @ make 254.
        let longest = format!("{}@{}.{}.{}", "a".repeat(64), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        assert_eq!(longest.len(), 254);
        for right in
            ["a@b.co", "o'hara@x-y.example", "a.b.c@1.example", "a@xn--bcher-kva.example", &longest_local, &longest]
        {
            assert!(email(right).is_some(), "{right}");
        }
    }

    #[test]
    fn what_has_not_is_refused() {
        let long_local = format!("{}@example.org", "a".repeat(65));
        let long_label = format!("a@{}.org", "b".repeat(64));
        let long = format!("{}@{}.{}.{}", "a".repeat(64), "b".repeat(63), "c".repeat(63), "d".repeat(62));
        let wrong = [
            "",
            "@",
            "a",
            "a@",
            "@b.co",
            "a@b",
            "a@@b.co",
            "a@b@c.co",
            "a b@c.co",
            " a@b.co",
            "a@b.co ",
            "a@b.co\n",
            ".a@b.co",
            "a.@b.co",
            "a..b@c.co",
            "a@.co",
            "a@b.",
            "a@b..co",
            "a@-b.co",
            "a@b-.co",
            "a@b_c.co",
            "\"a\"@b.co",
            "a@[127.0.0.1]",
            "a@127.0.0.1",
            "é@b.co",
            "a@bücher.example",
            "a@b.co,c@d.co",
            "<a@b.co>",
            "a\0@b.co",
            &long_local,
            &long_label,
            &long,
        ];
        for wrong in wrong {
            assert_eq!(email(wrong), None, "{wrong:?}");
        }
    }
}
