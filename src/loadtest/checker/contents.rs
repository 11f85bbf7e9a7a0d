//! This file is what events say, as one number: what a command decides is kept so until its events are read back.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;

/// What one event says, or several in their order: equal for the same, and by all odds for nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents(NonZeroU64);

impl Contents {
    /// Of an event of this type with these fields, as JSON text without spaces and with the fields in the order that
    /// its type declares them; `{}` when there are none.
    pub fn of(event_type: &str, fields: &str) -> Self {
        Self::hashed(&(event_type, fields))
    }

    /// The same, followed by these of the same command.
    #[must_use]
    pub fn and(self, next: Self) -> Self {
        Self::hashed(&(self.0, next.0))
    }

    fn hashed(what: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        // Zero is for commands of which it is not known.
        Self(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_fields_and_order_make_the_difference() {
        let (paid, closed) = (Contents::of("Paid", r#"{"cents":5}"#), Contents::of("Closed", "{}"));

        assert_eq!(paid.and(closed), Contents::of("Paid", r#"{"cents":5}"#).and(Contents::of("Closed", "{}")));
        let others = [
            paid,
            closed,
            closed.and(paid),
            Contents::of("Paid", r#"{"cents":6}"#).and(closed),
            Contents::of("Owed", r#"{"cents":5}"#).and(closed),
            paid.and(closed).and(closed),
            paid.and(paid),
        ];
        assert!(others.iter().all(|other| *other != paid.and(closed)));
    }
}
