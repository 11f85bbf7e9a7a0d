//! This file lists users: what a table on a screen shows of each, newest first, found by organisation, status or the
//! beginning of a name.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::user_profiles::roles;
use super::{Column, ColumnKind, ProjectFrom, Projection, Row, RowError, Rows, Sources, Value, Values, uuid_key};
use crate::domain::role::Roles;
use crate::domain::user::{User, UserEvent};
use crate::event::TypedEvent;

mod pages;

pub use pages::{NumberedPage, Prefix, UserFilter, UserIndex, UserOrder, UserPage, numbered_page, page};

/// All users but the deleted ones; the SQL table is `user_api_list_projections`.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserList;

/// Where a user stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserStatus {
    /// May not log in.
    Disabled,
    /// May log in; the address is not verified.
    Unverified,
    /// May log in, with a verified address.
    Active,
}

/// A language that labels are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Language {
    /// Français.
    #[default]
    French,
    /// English.
    English,
}

impl UserStatus {
    /// All of them.
    pub const ALL: [UserStatus; 3] = [Self::Disabled, Self::Unverified, Self::Active];

    /// The name in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Unverified => "unverified",
            Self::Active => "active",
        }
    }

    /// The status with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// What people read.
    pub fn label(self, language: Language) -> &'static str {
        match (self, language) {
            (Self::Disabled, Language::French) => "Désactivé",
            (Self::Unverified, Language::French) => "Non vérifié",
            (Self::Active, Language::French) => "Actif",
            (Self::Disabled, Language::English) => "Disabled",
            (Self::Unverified, Language::English) => "Unverified",
            (Self::Active, Language::English) => "Active",
        }
    }

    /// What people see from afar.
    pub fn color(self) -> &'static str {
        match self {
            Self::Disabled => "red",
            Self::Unverified => "orange",
            Self::Active => "green",
        }
    }
}

/// One user of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct UserListRow {
    /// Its id.
    pub id: Uuid,
    /// What it logs in with, lower case.
    pub username: String,
    /// Where it is written to, lower case.
    pub email: String,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Its organisation.
    pub organization_id: Uuid,
    /// What it may.
    pub roles: Roles,
    /// Whether it may log in.
    pub enabled: bool,
    /// Whether its address is verified.
    pub email_verified: bool,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// When it last logged in.
    pub last_login_at: Option<DateTime<Utc>>,
    /// How many events it has.
    pub version: u64,
}

impl UserListRow {
    /// First and last name.
    pub fn full_name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }

    /// Where it stands.
    pub fn status(&self) -> UserStatus {
        match (self.enabled, self.email_verified) {
            (false, _) => UserStatus::Disabled,
            (true, false) => UserStatus::Unverified,
            (true, true) => UserStatus::Active,
        }
    }

    /// Whether an editor should be offered.
    pub fn can_edit(&self) -> bool {
        self.enabled && self.email_verified
    }

    /// Whether a deletion would be taken.
    pub fn can_delete(&self) -> bool {
        !self.enabled || self.last_login_at.is_none()
    }

    /// Whether enabling would change something.
    pub fn can_enable(&self) -> bool {
        !self.enabled
    }

    /// Whether disabling would change something.
    pub fn can_disable(&self) -> bool {
        self.enabled
    }

    fn change(&mut self, event: &UserEvent) {
        match event {
            UserEvent::UserRegistered { .. } | UserEvent::UserDeleted => {}
            UserEvent::UserUpdated { username, email, first_name, last_name } => {
                self.email_verified &= email.is_none();
                replace(&mut self.username, username.as_ref().map(|name| name.as_str()));
                replace(&mut self.email, email.as_ref().map(|email| email.as_str()));
                replace(&mut self.first_name, first_name.as_ref().map(|name| name.as_str()));
                replace(&mut self.last_name, last_name.as_ref().map(|name| name.as_str()));
            }
            UserEvent::UserRolesAssigned { roles } => self.roles = roles.clone(),
            UserEvent::UserEnabled => self.enabled = true,
            UserEvent::UserDisabled { .. } => self.enabled = false,
            UserEvent::UserEmailVerified => self.email_verified = true,
            // Logins may be noted out of order.
            UserEvent::UserLoggedIn { at } => self.last_login_at = self.last_login_at.max(Some(at.time())),
        }
    }
}

fn replace(present: &mut String, changed: Option<&str>) {
    if let Some(changed) = changed {
        changed.clone_into(present);
    }
}

impl Projection for UserList {
    const NAME: &'static str = "user_list";
    const TABLE: &'static str = "user_api_list_projections";
    type Row = UserListRow;
    type Index = UserIndex;

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<User>()
    }
}

impl ProjectFrom<User> for UserList {
    fn project(&self, event: &TypedEvent<'_, UserEvent>, rows: &mut Rows<'_, UserListRow>) {
        // A user whose key is no UUID is not shown; the profiles say so in the log.
        let Some(id) = uuid_key(event.stream.key()) else { return };
        match event.data {
            UserEvent::UserRegistered { username, email, first_name, last_name, organization_id, roles } => {
                rows.put(UserListRow {
                    id,
                    username: username.as_str().to_owned(),
                    email: email.as_str().to_owned(),
                    first_name: first_name.as_str().to_owned(),
                    last_name: last_name.as_str().to_owned(),
                    organization_id: *organization_id,
                    roles: roles.clone(),
                    enabled: true,
                    email_verified: false,
                    created_at: event.recorded_at,
                    last_login_at: None,
                    version: event.version.0,
                });
            }
            UserEvent::UserDeleted => rows.remove(&id),
            changed => {
                rows.update(&id, |row| {
                    row.change(changed);
                    row.version = event.version.0;
                });
            }
        }
    }
}

impl Row for UserListRow {
    type Key = Uuid;

    const COLUMNS: &'static [Column] = &[
        Column::required("id", ColumnKind::Uuid),
        Column::required("username", ColumnKind::Text),
        Column::required("email", ColumnKind::Text),
        Column::required("first_name", ColumnKind::Text),
        Column::required("last_name", ColumnKind::Text),
        Column::required("organization_id", ColumnKind::Uuid),
        Column::required("roles", ColumnKind::Json),
        Column::required("enabled", ColumnKind::Boolean),
        Column::required("email_verified", ColumnKind::Boolean),
        Column::required("created_at", ColumnKind::Timestamp),
        Column::nullable("last_login_at", ColumnKind::Timestamp),
        Column::required("version", ColumnKind::BigInt),
        Column::required("full_name", ColumnKind::Text),
        Column::required("status", ColumnKind::Text),
    ];

    fn key(&self) -> Uuid {
        self.id
    }

    fn write(&self) -> Vec<Value> {
        let roles = serde_json::to_string(&self.roles).expect("names can be written as JSON");
        vec![
            Value::Uuid(self.id),
            Value::Text(self.username.clone()),
            Value::Text(self.email.clone()),
            Value::Text(self.first_name.clone()),
            Value::Text(self.last_name.clone()),
            Value::Uuid(self.organization_id),
            Value::Json(roles),
            Value::Boolean(self.enabled),
            Value::Boolean(self.email_verified),
            Value::Timestamp(self.created_at),
            self.last_login_at.map_or(Value::Null, Value::Timestamp),
            Value::BigInt(i64::try_from(self.version).expect("versions stay far below 2^63")),
            // Both follow from the rest; they stand there for those who read the table.
            Value::Text(self.full_name()),
            Value::Text(self.status().as_str().to_owned()),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        Ok(Self {
            id: values.take()?,
            username: values.take()?,
            email: values.take()?,
            first_name: values.take()?,
            last_name: values.take()?,
            organization_id: values.take()?,
            roles: roles(values)?,
            enabled: values.take()?,
            email_verified: values.take()?,
            created_at: values.take()?,
            last_login_at: values.take()?,
            version: values.take::<i64>()?.unsigned_abs(),
        })
    }
}

#[cfg(test)]
mod tests;
