//! This file finds users: pages of them, newest first, by number or by cursor, whatever the filter.
//!
//! Users stand in one ordered list for each organisation and status, for each organisation, for each status, and all
//! together, so that any place in them is found at once. Their names and addresses stand in one ordered index for each
//! organisation, where those that begin alike stand together.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{UserList, UserListRow, UserStatus};
use crate::projections::Index;
use crate::projections::blocks::Blocks;
use crate::projections::table::Snapshot;

/// Place of a user in the order of registration.
pub type UserOrder = (DateTime<Utc>, Uuid);

/// Up to so many users with the prefix are gathered and sorted; with more, a page is full sooner by looking at the
/// newest users one after the other.
pub(super) const FEW: usize = 5_000;

/// Users in the order of registration, and the beginnings of their names.
#[derive(Debug, Default)]
pub struct UserIndex {
    lists: BTreeMap<ListKey, List>,
    texts: BTreeMap<Uuid, BTreeMap<TextKey, Arc<UserListRow>>>,
}

/// Of which organisation and status; none is any.
type ListKey = (Option<Uuid>, Option<UserStatus>);

/// Never empty.
type List = Blocks<UserOrder, Arc<UserListRow>>;

/// A folded text, which of the user's texts it is, and the user.
type TextKey = (Box<str>, usize, Uuid);

/// Which users are wanted; what is none does not matter.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserFilter {
    /// Of this organisation.
    pub organization_id: Option<Uuid>,
    /// Of this status.
    pub status: Option<UserStatus>,
    /// Whose username, email, first or last name begins so.
    pub prefix: Option<Prefix>,
}

/// The beginning of a text, whatever its case.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefix(Box<str>);

impl Prefix {
    /// Texts that begin as this one does.
    pub fn of(text: &str) -> Self {
        Self(folded(text))
    }

    /// The text, folded.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the texts before `texts` begins so.
    fn is_in(&self, row: &UserListRow, texts: usize) -> bool {
        folded_texts(row).take(texts).any(|text| text.starts_with(&*self.0))
    }
}

/// The text without its case. First to upper case, so that letters with several lower ones, as ς and σ, fold alike.
fn folded(text: &str) -> Box<str> {
    text.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect::<String>().into()
}

/// How many texts of a user are looked at.
const TEXTS: usize = 4;

fn folded_texts(row: &UserListRow) -> impl Iterator<Item = Box<str>> {
    let texts: [&str; TEXTS] = [&row.username, &row.email, &row.first_name, &row.last_name];
    texts.into_iter().map(folded)
}

/// The lists that have the row.
fn lists_of(row: &UserListRow) -> [ListKey; 4] {
    let (organization, status) = (Some(row.organization_id), Some(row.status()));
    [(organization, status), (organization, None), (None, status), (None, None)]
}

fn order_of(row: &UserListRow) -> UserOrder {
    (row.created_at, row.id)
}

impl Index<UserListRow> for UserIndex {
    fn enter(&mut self, row: &Arc<UserListRow>) {
        for list in lists_of(row) {
            self.lists.entry(list).or_default().insert(order_of(row), Arc::clone(row));
        }
        let texts = self.texts.entry(row.organization_id).or_default();
        for (n, text) in folded_texts(row).enumerate() {
            texts.insert((text, n, row.id), Arc::clone(row));
        }
    }

    fn leave(&mut self, row: &Arc<UserListRow>) {
        for key in lists_of(row) {
            let Some(list) = self.lists.get_mut(&key) else { continue };
            list.remove(&order_of(row));
            if list.is_empty() {
                self.lists.remove(&key);
            }
        }
        let Some(texts) = self.texts.get_mut(&row.organization_id) else { return };
        for (n, text) in folded_texts(row).enumerate() {
            texts.remove(&(text, n, row.id));
        }
        if texts.is_empty() {
            self.texts.remove(&row.organization_id);
        }
    }
}

impl UserIndex {
    fn list(&self, filter: &UserFilter) -> Option<&List> {
        self.lists.get(&(filter.organization_id, filter.status))
    }

    /// Those with the prefix, each once, in no particular order.
    fn with_prefix<'a>(
        &'a self,
        filter: &'a UserFilter,
        prefix: &'a Prefix,
    ) -> impl Iterator<Item = &'a Arc<UserListRow>> {
        let one = filter.organization_id.map(|id| id..=id);
        let organizations = match one {
            Some(one) => self.texts.range(one),
            None => self.texts.range(Uuid::nil()..=Uuid::max()),
        };
        let first: TextKey = (prefix.0.clone(), 0, Uuid::nil());
        let found = organizations.flat_map(move |(_, texts)| {
            texts.range(first.clone()..).take_while(|((text, ..), _)| text.starts_with(&*prefix.0))
        });
        let of_status = found.filter(|(_, row)| filter.status.is_none_or(|status| row.status() == status));
        // One whose earlier text begins so too was found by that.
        of_status.filter(|((_, n, _), row)| !prefix.is_in(row, *n)).map(|(_, row)| row)
    }
}

/// One page of users, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct UserPage {
    /// The users.
    pub rows: Vec<Arc<UserListRow>>,
    /// Where the next page starts; none at the end.
    pub next: Option<UserOrder>,
}

/// One page of users by its number, newest first.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberedPage {
    /// The users; none behind the last page.
    pub rows: Vec<Arc<UserListRow>>,
    /// How many users the filter allows.
    pub total: usize,
}

/// Up to `limit` users older than `before`, newest first. With a prefix that many users have it takes up to 10 ms,
/// else microseconds.
pub fn page(users: &Snapshot<'_, UserList>, filter: &UserFilter, before: Option<UserOrder>, limit: usize) -> UserPage {
    let more_than_wanted = limit.saturating_add(1);
    let mut rows = match &filter.prefix {
        None => newest(users, filter, before, more_than_wanted, |_| true),
        Some(prefix) => {
            let few: Vec<_> = users.index().with_prefix(filter, prefix).take(FEW + 1).collect();
            if few.len() > FEW {
                newest(users, filter, before, more_than_wanted, |row| prefix.is_in(row, TEXTS))
            } else {
                let older = few.into_iter().filter(|row| before.is_none_or(|before| order_of(row) < before));
                sorted(older.collect()).take(more_than_wanted).cloned().collect()
            }
        }
    };
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| has_more).map(|row| order_of(row));
    UserPage { rows, next }
}

/// Those that are wanted, one after the other.
fn newest(
    users: &Snapshot<'_, UserList>,
    filter: &UserFilter,
    before: Option<UserOrder>,
    limit: usize,
    is_wanted: impl Fn(&UserListRow) -> bool,
) -> Vec<Arc<UserListRow>> {
    let Some(list) = users.index().list(filter) else { return Vec::new() };
    let rows = list.descending(before.as_ref()).map(|(_, row)| row);
    rows.filter(|row| is_wanted(row)).take(limit).cloned().collect()
}

fn sorted(mut rows: Vec<&Arc<UserListRow>>) -> impl Iterator<Item = &Arc<UserListRow>> {
    rows.sort_unstable_by_key(|row| std::cmp::Reverse(order_of(row)));
    rows.into_iter()
}

/// The page of this number, from 1, of `limit` users each, newest first, and how many users there are on all pages.
/// Without a prefix it takes microseconds; with one, as long as it takes to gather those that have it.
pub fn numbered_page(users: &Snapshot<'_, UserList>, filter: &UserFilter, number: usize, limit: usize) -> NumberedPage {
    let before = number.saturating_sub(1).saturating_mul(limit);
    let Some(prefix) = &filter.prefix else {
        let Some(list) = users.index().list(filter) else { return NumberedPage { rows: Vec::new(), total: 0 } };
        let rows = list.descending_behind(before).take(limit).map(|(_, row)| Arc::clone(row)).collect();
        return NumberedPage { rows, total: list.len() };
    };
    let found: Vec<_> = users.index().with_prefix(filter, prefix).collect();
    let total = found.len();
    NumberedPage { rows: sorted(found).skip(before).take(limit).cloned().collect(), total }
}
