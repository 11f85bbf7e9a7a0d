//! This file counts users: per organisation and time of registration, exactly, for any range, without looking at each.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::blocks::{Blocks, Sum};
use super::table::Snapshot;
use super::{
    Column, ColumnKind, Index, ProjectFrom, Projection, Row, RowError, Rows, Sources, Value, Values, uuid_key,
};
use crate::domain::user::{User, UserEvent};
use crate::event::TypedEvent;

/// What is counted of users who are not deleted; the SQL table is `user_api_analytics_projections`.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserAnalytics;

/// One user, without a name.
#[derive(Debug, Clone, PartialEq)]
pub struct UserAnalyticsRow {
    /// Its id.
    pub id: Uuid,
    /// Its organisation.
    pub organization_id: Uuid,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// Whether it may log in.
    pub enabled: bool,
    /// Whether its address is verified.
    pub email_verified: bool,
    /// When it first logged in.
    pub first_login_at: Option<DateTime<Utc>>,
}

impl UserAnalyticsRow {
    /// Whole days from its registration to its first login, cut towards zero; none before it logged in.
    fn days_to_first_login(&self) -> Option<i64> {
        self.first_login_at.map(|first| (first - self.created_at).num_days())
    }
}

/// What counts of one user; kept beside its place, so that a sum need not look up rows.
#[derive(Debug, Clone, Copy)]
struct Counted {
    is_enabled: bool,
    is_verified: bool,
    days_to_first_login: Option<i32>,
}

impl Counted {
    fn of(row: &UserAnalyticsRow) -> Self {
        let days = row.days_to_first_login();
        // Ten thousand years have less than four million days.
        let days_to_first_login = days.map(|days| i32::try_from(days).expect("times have years of four digits"));
        Self { is_enabled: row.enabled, is_verified: row.email_verified, days_to_first_login }
    }

    fn figures(self) -> UserFigures {
        UserFigures {
            total_users: 1,
            active_users: u64::from(self.is_enabled),
            verified_users: u64::from(self.is_verified),
            users_with_login: u64::from(self.days_to_first_login.is_some()),
            days_to_first_login: i64::from(self.days_to_first_login.unwrap_or_default()),
        }
    }
}

/// What some users are together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserFigures {
    /// How many they are.
    pub total_users: u64,
    /// How many of them are enabled.
    pub active_users: u64,
    /// How many of them have a verified address.
    pub verified_users: u64,
    /// How many of them ever logged in.
    pub users_with_login: u64,
    /// Whole days from registration to first login, of all who logged in.
    pub days_to_first_login: i64,
}

impl UserFigures {
    /// How many are not enabled.
    pub fn inactive_users(&self) -> u64 {
        self.total_users - self.active_users
    }

    /// Days from registration to first login on average, as a decimal number with four decimals, half of the last one
    /// rounded away from zero, e.g. `1.5000`; none when nobody logged in.
    pub fn average_days_to_first_login(&self) -> Option<String> {
        let users = i128::from(self.users_with_login);
        if users == 0 {
            return None;
        }
        let (days, sign) =
            (i128::from(self.days_to_first_login.abs()), if self.days_to_first_login < 0 { "-" } else { "" });
        let rounded = (days * 20_000 + users) / (users * 2);
        // A zero has no sign, whatever it was before it was rounded.
        let sign = if rounded == 0 { "" } else { sign };
        Some(format!("{sign}{}.{:04}", rounded / 10_000, rounded % 10_000))
    }
}

impl Sum<Counted> for UserFigures {
    fn add(&mut self, user: &Counted) {
        self.join(&user.figures());
    }

    fn subtract(&mut self, user: &Counted) {
        let less = user.figures();
        self.total_users -= less.total_users;
        self.active_users -= less.active_users;
        self.verified_users -= less.verified_users;
        self.users_with_login -= less.users_with_login;
        self.days_to_first_login -= less.days_to_first_login;
    }

    fn join(&mut self, more: &Self) {
        self.total_users += more.total_users;
        self.active_users += more.active_users;
        self.verified_users += more.verified_users;
        self.users_with_login += more.users_with_login;
        self.days_to_first_login += more.days_to_first_login;
    }
}

/// The users of each organisation in the order of registration.
#[derive(Debug, Default)]
pub struct UserAnalyticsIndex {
    organizations: BTreeMap<Uuid, Organization>,
}

/// Never empty.
type Organization = Blocks<(DateTime<Utc>, Uuid), Counted, UserFigures>;

impl Index<UserAnalyticsRow> for UserAnalyticsIndex {
    fn enter(&mut self, row: &Arc<UserAnalyticsRow>) {
        let users = self.organizations.entry(row.organization_id).or_default();
        users.insert((row.created_at, row.id), Counted::of(row));
    }

    fn leave(&mut self, row: &Arc<UserAnalyticsRow>) {
        let Some(users) = self.organizations.get_mut(&row.organization_id) else { return };
        users.remove(&(row.created_at, row.id));
        if users.is_empty() {
            self.organizations.remove(&row.organization_id);
        }
    }
}

/// What the users of an organisation are together who were registered in this time, both ends included.
pub fn figures(
    users: &Snapshot<'_, UserAnalytics>,
    organization_id: Uuid,
    created: &RangeInclusive<DateTime<Utc>>,
) -> UserFigures {
    let range = (*created.start(), Uuid::nil())..=(*created.end(), Uuid::max());
    let organization = users.index().organizations.get(&organization_id);
    organization.map_or_else(UserFigures::default, |users| users.sum(&range))
}

impl Projection for UserAnalytics {
    const NAME: &'static str = "user_analytics";
    const TABLE: &'static str = "user_api_analytics_projections";
    type Row = UserAnalyticsRow;
    type Index = UserAnalyticsIndex;

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<User>()
    }
}

impl ProjectFrom<User> for UserAnalytics {
    fn project(&self, event: &TypedEvent<'_, UserEvent>, rows: &mut Rows<'_, UserAnalyticsRow>) {
        // A user whose key is no UUID is not shown; the profiles say so in the log.
        let Some(id) = uuid_key(event.stream.key()) else { return };
        match event.data {
            UserEvent::UserRegistered { organization_id, .. } => rows.put(UserAnalyticsRow {
                id,
                organization_id: *organization_id,
                created_at: event.recorded_at,
                enabled: true,
                email_verified: false,
                first_login_at: None,
            }),
            UserEvent::UserUpdated { email: Some(_), .. } => {
                rows.update(&id, |row| row.email_verified = false);
            }
            UserEvent::UserUpdated { .. } | UserEvent::UserRolesAssigned { .. } => {}
            UserEvent::UserEnabled => {
                rows.update(&id, |row| row.enabled = true);
            }
            UserEvent::UserDisabled { .. } => {
                rows.update(&id, |row| row.enabled = false);
            }
            UserEvent::UserEmailVerified => {
                rows.update(&id, |row| row.email_verified = true);
            }
            UserEvent::UserLoggedIn { at } => {
                // Logins may be noted out of order; the first is the earliest.
                let at = at.time();
                rows.update(&id, |row| row.first_login_at = Some(row.first_login_at.map_or(at, |first| first.min(at))));
            }
            UserEvent::UserDeleted => rows.remove(&id),
        }
    }
}

impl Row for UserAnalyticsRow {
    type Key = Uuid;

    const COLUMNS: &'static [Column] = &[
        Column::required("id", ColumnKind::Uuid),
        Column::required("organization_id", ColumnKind::Uuid),
        Column::required("created_at", ColumnKind::Timestamp),
        Column::required("enabled", ColumnKind::Boolean),
        Column::required("email_verified", ColumnKind::Boolean),
        Column::nullable("first_login_at", ColumnKind::Timestamp),
    ];

    fn key(&self) -> Uuid {
        self.id
    }

    fn write(&self) -> Vec<Value> {
        vec![
            Value::Uuid(self.id),
            Value::Uuid(self.organization_id),
            Value::Timestamp(self.created_at),
            Value::Boolean(self.enabled),
            Value::Boolean(self.email_verified),
            self.first_login_at.map_or(Value::Null, Value::Timestamp),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        Ok(Self {
            id: values.take()?,
            organization_id: values.take()?,
            created_at: values.take()?,
            enabled: values.take()?,
            email_verified: values.take()?,
            first_login_at: values.take()?,
        })
    }
}

#[cfg(test)]
mod tests;
