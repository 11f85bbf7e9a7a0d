//! This file makes cursors: opaque, and good only for the listing they came from.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::problem::Problem;

/// A place in an order of time, and of ids where times are equal.
type Order = (DateTime<Utc>, Uuid);

/// Bytes of time and id.
const ORDER_BYTES: usize = 8 + 16;
/// Bytes that bind them to their listing.
const SEAL: usize = 8;

/// A cursor behind `order`, bound to `listing`: the resource and its filters.
pub(crate) fn encode(order: Order, listing: &str) -> String {
    let mut bytes = Vec::with_capacity(ORDER_BYTES + SEAL);
    bytes.extend(order.0.timestamp_micros().to_be_bytes());
    bytes.extend(order.1.as_bytes());
    bytes.extend(seal(&bytes, listing));
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the listing goes on.
///
/// # Errors
/// `invalid_cursor` when it is none, was changed, or belongs to another listing.
pub(crate) fn decode(cursor: &str, listing: &str) -> Result<Order, Problem> {
    // Written again it must be the same: that holds the seal, the length and the case of every digit.
    read(cursor).filter(|order| encode(*order, listing) == cursor).ok_or_else(|| {
        Problem::field(
            "invalid_cursor",
            "cursor",
            "is none of this listing: start again without one, or keep its filters",
        )
    })
}

fn read(cursor: &str) -> Option<Order> {
    let digits = cursor.get(..ORDER_BYTES * 2).filter(|digits| digits.is_ascii())?;
    let bytes: Vec<u8> =
        (0..ORDER_BYTES).map(|n| u8::from_str_radix(&digits[n * 2..n * 2 + 2], 16)).collect::<Result<_, _>>().ok()?;
    let micros = i64::from_be_bytes(bytes[..8].try_into().ok()?);
    Some((DateTime::from_timestamp_micros(micros)?, Uuid::from_slice(&bytes[8..]).ok()?))
}

/// Guards against mistakes, not against forgery: a cursor gives access to nothing.
fn seal(order: &[u8], listing: &str) -> [u8; SEAL] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(order).update(listing.as_bytes());
    hasher.finalize().as_bytes()[..SEAL].try_into().expect("a hash has more than eight bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PENDING: &str = "payments status=pending";

    fn cursor() -> (Order, String) {
        let order = (DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(), Uuid::from_u128(7));
        (order, encode(order, PENDING))
    }

    #[test]
    fn a_cursor_leads_back_to_where_it_was_made_in_its_own_listing_only() {
        let (order, cursor) = cursor();

        assert_eq!(decode(&cursor, PENDING).unwrap(), order);
        assert!(decode(&cursor, "payments").is_err());
    }

    #[test]
    fn a_cursor_that_was_changed_anywhere_is_refused() {
        let (_, cursor) = cursor();
        for at in 0..cursor.len() {
            for digit in ['0', '1', 'f', 'F', '+', 'x'] {
                let mut changed = cursor.clone();
                changed.replace_range(at..=at, &digit.to_string());
                assert!(changed == cursor || decode(&changed, PENDING).is_err(), "{digit} at {at}");
            }
        }
        for changed in [String::new(), cursor[1..].into(), format!("{cursor}0"), cursor.to_uppercase()] {
            assert!(decode(&changed, PENDING).is_err(), "{changed}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_no_cursor_is_refused_and_does_no_harm(text in ".{0,80}") {
            prop_assert!(decode(&text, PENDING).is_err());
        }

        #[test]
        fn every_order_survives(micros in any::<i32>(), id in any::<u128>()) {
            let order = (DateTime::from_timestamp_micros(i64::from(micros)).unwrap(), Uuid::from_u128(id));
            prop_assert_eq!(decode(&encode(order, PENDING), PENDING).unwrap(), order);
        }
    }
}
