//! This file finds payments: pages of them, newest first, and exact sums, without looking at those not asked for.
//!
//! Payments stand in one ordered group per status and currency. A page merges the groups that its filter allows, each
//! cut to the times it allows; whether an active payment is expired is such a time too. Only amounts are looked at one
//! payment after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{PaymentRow, PaymentStatus, PaymentSummaries};
use crate::domain::currency::Currency;
use crate::projections::Index;
use crate::projections::table::Snapshot;

/// Place of a payment in the order of creation.
pub type PaymentOrder = (DateTime<Utc>, Uuid);

/// Payments in the order of creation, and their sums.
#[derive(Debug, Default)]
pub struct PaymentIndex {
    groups: BTreeMap<(PaymentStatus, Currency), Group>,
}

/// The payments of one status and currency; never empty.
#[derive(Debug, Default)]
struct Group {
    payments: BTreeMap<PaymentOrder, Arc<PaymentRow>>,
    minor_units: i128,
}

/// How many payments there are of one status and currency, and how much they are together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PaymentSum {
    /// How many.
    pub count: u64,
    /// How much, in minor units; wider than any one amount, so that it cannot overflow.
    pub minor_units: i128,
}

impl Index<PaymentRow> for PaymentIndex {
    fn enter(&mut self, row: &Arc<PaymentRow>) {
        let group = self.groups.entry((row.status, row.money.currency())).or_default();
        group.payments.insert((row.created_at, row.id), Arc::clone(row));
        group.minor_units += i128::from(row.money.minor_units());
    }

    fn leave(&mut self, row: &Arc<PaymentRow>) {
        let key = (row.status, row.money.currency());
        let Some(group) = self.groups.get_mut(&key) else { return };
        group.payments.remove(&(row.created_at, row.id));
        group.minor_units -= i128::from(row.money.minor_units());
        if group.payments.is_empty() {
            self.groups.remove(&key);
        }
    }
}

/// Which payments are wanted; what is none does not matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PaymentFilter {
    /// Of this status.
    pub status: Option<PaymentStatus>,
    /// Of this currency.
    pub currency: Option<Currency>,
    /// Created then or later.
    pub created_after: Option<DateTime<Utc>>,
    /// Created before.
    pub created_before: Option<DateTime<Utc>>,
    /// At least so many minor units.
    pub min_minor_units: Option<i64>,
    /// At most so many minor units.
    pub max_minor_units: Option<i64>,
    /// Expired, or not.
    pub expired: Option<bool>,
}

impl PaymentFilter {
    fn allows_group(&self, status: PaymentStatus, currency: Currency) -> bool {
        self.status.is_none_or(|wanted| wanted == status) && self.currency.is_none_or(|wanted| wanted == currency)
    }

    fn allows_amount(&self, minor_units: i64) -> bool {
        self.min_minor_units.is_none_or(|least| minor_units >= least)
            && self.max_minor_units.is_none_or(|most| minor_units <= most)
    }

    /// When payments of this status may have been created, from inclusive, to exclusive; what was created before
    /// `expired_before` and is active is expired. None when no payment of this status is wanted.
    fn created(&self, status: PaymentStatus, expired_before: DateTime<Utc>) -> Option<Created> {
        let (mut from, mut to) = (self.created_after, self.created_before);
        match (self.expired, status.is_active()) {
            (Some(true), true) => to = Some(to.map_or(expired_before, |to| to.min(expired_before))),
            (Some(true), false) => return None,
            (Some(false), true) => from = from.max(Some(expired_before)),
            (Some(false), false) | (None, _) => {}
        }
        Some(Created { from, to })
    }
}

struct Created {
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

impl Group {
    /// Those created in that time and before `before`, newest first.
    fn newest_first(&self, created: Created, before: Option<PaymentOrder>) -> impl Iterator<Item = &Arc<PaymentRow>> {
        // The nil UUID is the first of its time: a bound with it is inclusive below and exclusive above.
        let from = (created.from.unwrap_or(DateTime::<Utc>::MIN_UTC), Uuid::nil());
        let to = created.to.map(|time| (time, Uuid::nil()));
        let to = before.into_iter().chain(to).min().unwrap_or((DateTime::<Utc>::MAX_UTC, Uuid::max()));
        // A range must not begin behind its end.
        self.payments.range(from.min(to)..to).rev().map(|(_, row)| row)
    }

    fn sum(&self) -> PaymentSum {
        PaymentSum { count: self.payments.len() as u64, minor_units: self.minor_units }
    }
}

/// One page of payments, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct PaymentPage {
    /// The payments.
    pub rows: Vec<Arc<PaymentRow>>,
    /// Where the next page starts; none at the end.
    pub next: Option<PaymentOrder>,
}

/// Up to `limit` payments older than `before`, newest first.
pub fn page(
    payments: &Snapshot<'_, PaymentSummaries>,
    filter: &PaymentFilter,
    before: Option<PaymentOrder>,
    limit: usize,
    now: DateTime<Utc>,
    expiry: Duration,
) -> PaymentPage {
    let expired_before = earlier(now, expiry);
    let groups =
        payments.index().groups.iter().filter(|((status, currency), _)| filter.allows_group(*status, *currency));
    let groups = groups.filter_map(|((status, _), group)| {
        let created = filter.created(*status, expired_before)?;
        Some(group.newest_first(created, before))
    });
    let found = merged(groups.collect()).filter(|row| filter.allows_amount(row.money.minor_units()));
    let mut rows: Vec<_> = found.take(limit.saturating_add(1)).cloned().collect();
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| (row.created_at, row.id));
    PaymentPage { rows, next }
}

/// Nothing is older than the earliest time there is.
fn earlier(now: DateTime<Utc>, by: Duration) -> DateTime<Utc> {
    let by = chrono::Duration::from_std(by).ok();
    by.and_then(|by| now.checked_sub_signed(by)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

/// All of these, each newest first, as one, newest first. There are few groups: as many as currencies in use, times four.
fn merged<'a>(groups: Vec<impl Iterator<Item = &'a Arc<PaymentRow>>>) -> impl Iterator<Item = &'a Arc<PaymentRow>> {
    let mut groups: Vec<_> = groups.into_iter().map(Iterator::peekable).collect();
    std::iter::from_fn(move || {
        let newest = (0..groups.len()).max_by_key(|&n| groups[n].peek().map(|row| (row.created_at, row.id)))?;
        groups[newest].next()
    })
}

/// Counts and sums, sorted by the status's name, then by currency.
pub fn stats(payments: &Snapshot<'_, PaymentSummaries>) -> Vec<(PaymentStatus, Currency, PaymentSum)> {
    let groups = payments.index().groups.iter();
    let mut sums: Vec<_> = groups.map(|((status, currency), group)| (*status, *currency, group.sum())).collect();
    sums.sort_by_key(|(status, currency, _)| (status.as_str(), *currency));
    sums
}
