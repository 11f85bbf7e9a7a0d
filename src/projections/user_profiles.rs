//! This file shows users whole: every field, who changed it last, and how far the identity provider is with it.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Column, ColumnKind, ProjectFrom, Projection, Row, RowError, Rows, Sources, Value, Values, uuid_key};
use crate::domain::identity::{Identity, IdentityEvent};
use crate::domain::role::Roles;
use crate::domain::user::{User, UserEvent};
use crate::event::TypedEvent;

/// All users, the deleted ones too; the SQL table is `user_api_projections`.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserProfiles;

/// How far the identity provider is with a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncState {
    /// It has the user as it is, or has yet to be told.
    Pending,
    /// It has the user as it is.
    Synced,
    /// It could not be told, and will not be told again before somebody does something about it.
    Failed,
}

impl SyncState {
    /// The name in JSON and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Synced => "synced",
            Self::Failed => "failed",
        }
    }
}

/// One user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserProfileRow {
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
    /// Why not, when a reason was given.
    pub disabled_reason: Option<String>,
    /// Whether its address is verified.
    pub email_verified: bool,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// By whom.
    pub created_by: String,
    /// When it was last changed; a login is no change.
    pub updated_at: Option<DateTime<Utc>>,
    /// By whom.
    pub updated_by: Option<String>,
    /// When it first logged in.
    pub first_login_at: Option<DateTime<Utc>>,
    /// When it last logged in.
    pub last_login_at: Option<DateTime<Utc>>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// By whom.
    pub deleted_by: Option<String>,
    /// How many events it has.
    pub version: u64,
    /// Its version as the provider should have it: that of the last event that was no login.
    pub wanted_version: u64,
    /// Its version as the provider has it; none before the first sync.
    pub synced_version: Option<u64>,
    /// Its version that could not be brought there, the last of them.
    pub failed_version: Option<u64>,
    /// Why not.
    pub sync_failure: Option<String>,
    /// What the provider calls it.
    pub provider_id: Option<String>,
    /// Of its registration, as in the log: who and why, as a JSON object.
    pub metadata: String,
}

impl UserProfileRow {
    /// How far the identity provider is; without meaning where none is configured.
    pub fn sync_state(&self) -> SyncState {
        let synced = self.synced_version.unwrap_or_default();
        match self.failed_version {
            _ if synced >= self.wanted_version => SyncState::Synced,
            // Later changes wait behind the one that failed.
            Some(failed) if failed > synced => SyncState::Failed,
            _ => SyncState::Pending,
        }
    }

    /// Whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    fn register(id: Uuid, event: &TypedEvent<'_, UserEvent>) -> Option<Self> {
        let UserEvent::UserRegistered { username, email, first_name, last_name, organization_id, roles } = event.data
        else {
            return None;
        };
        Some(Self {
            id,
            username: username.as_str().to_owned(),
            email: email.as_str().to_owned(),
            first_name: first_name.as_str().to_owned(),
            last_name: last_name.as_str().to_owned(),
            organization_id: *organization_id,
            roles: roles.clone(),
            enabled: true,
            disabled_reason: None,
            email_verified: false,
            created_at: event.recorded_at,
            created_by: event.metadata.principal.clone(),
            updated_at: None,
            updated_by: None,
            first_login_at: None,
            last_login_at: None,
            deleted_at: None,
            deleted_by: None,
            version: event.version.0,
            wanted_version: event.version.0,
            synced_version: None,
            failed_version: None,
            sync_failure: None,
            provider_id: None,
            metadata: event.metadata.as_json().to_owned(),
        })
    }

    fn change(&mut self, event: &TypedEvent<'_, UserEvent>) {
        self.version = event.version.0;
        match event.data {
            UserEvent::UserRegistered { .. } => {}
            UserEvent::UserLoggedIn { at } => self.log_in(at.time()),
            UserEvent::UserDeleted => {
                self.deleted_at = Some(event.recorded_at);
                self.deleted_by = Some(event.metadata.principal.clone());
            }
            UserEvent::UserUpdated { .. }
            | UserEvent::UserRolesAssigned { .. }
            | UserEvent::UserEnabled
            | UserEvent::UserDisabled { .. }
            | UserEvent::UserEmailVerified => {
                self.update(event.data);
                self.updated_at = Some(event.recorded_at);
                self.updated_by = Some(event.metadata.principal.clone());
            }
        }
        if event.data.is_wanted_outside() {
            self.wanted_version = event.version.0;
        }
    }

    fn update(&mut self, event: &UserEvent) {
        match event {
            UserEvent::UserUpdated { username, email, first_name, last_name } => {
                self.email_verified &= email.is_none();
                let texts = [
                    (&mut self.username, username.as_ref().map(|name| name.as_str())),
                    (&mut self.email, email.as_ref().map(|email| email.as_str())),
                    (&mut self.first_name, first_name.as_ref().map(|name| name.as_str())),
                    (&mut self.last_name, last_name.as_ref().map(|name| name.as_str())),
                ];
                for (present, changed) in texts {
                    if let Some(changed) = changed {
                        changed.clone_into(present);
                    }
                }
            }
            UserEvent::UserRolesAssigned { roles } => self.roles = roles.clone(),
            UserEvent::UserEnabled => (self.enabled, self.disabled_reason) = (true, None),
            UserEvent::UserDisabled { reason } => {
                self.enabled = false;
                self.disabled_reason = reason.as_ref().map(|reason| reason.as_str().to_owned());
            }
            UserEvent::UserEmailVerified => self.email_verified = true,
            UserEvent::UserRegistered { .. } | UserEvent::UserLoggedIn { .. } | UserEvent::UserDeleted => {}
        }
    }

    /// Logins may be noted out of order.
    fn log_in(&mut self, at: DateTime<Utc>) {
        self.first_login_at = Some(self.first_login_at.map_or(at, |first| first.min(at)));
        self.last_login_at = self.last_login_at.max(Some(at));
    }
}

impl Projection for UserProfiles {
    const NAME: &'static str = "user_profiles";
    const TABLE: &'static str = "user_api_projections";
    type Row = UserProfileRow;
    type Index = ();

    fn sources(sources: Sources<Self>) -> Sources<Self> {
        sources.from::<User>().from::<Identity>()
    }
}

impl ProjectFrom<User> for UserProfiles {
    fn project(&self, event: &TypedEvent<'_, UserEvent>, rows: &mut Rows<'_, UserProfileRow>) {
        let Some(id) = uuid_key(event.stream.key()) else {
            return tracing::warn!(position = event.position.0, "a user's key is no UUID; it is not shown");
        };
        match UserProfileRow::register(id, event) {
            Some(row) => rows.put(row),
            None => {
                rows.update(&id, |row| row.change(event));
            }
        }
    }
}

impl ProjectFrom<Identity> for UserProfiles {
    fn project(&self, event: &TypedEvent<'_, IdentityEvent>, rows: &mut Rows<'_, UserProfileRow>) {
        let Some(id) = uuid_key(event.stream.key()) else { return };
        rows.update(&id, |row| match event.data {
            IdentityEvent::IdentityLinked { provider_id } => row.provider_id = Some(provider_id.as_str().to_owned()),
            IdentityEvent::IdentitySynced { version } => row.synced_version = Some(version.0),
            IdentityEvent::IdentitySyncFailed { version, reason, .. } => {
                row.failed_version = Some(version.0);
                row.sync_failure = Some(reason.as_str().to_owned());
            }
            // What failed is still not at the provider, whoever does without it.
            IdentityEvent::IdentitySyncSkipped { .. } => {}
        });
    }
}

impl Row for UserProfileRow {
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
        Column::nullable("disabled_reason", ColumnKind::Text),
        Column::required("email_verified", ColumnKind::Boolean),
        Column::required("created_at", ColumnKind::Timestamp),
        Column::required("created_by", ColumnKind::Text),
        Column::nullable("updated_at", ColumnKind::Timestamp),
        Column::nullable("updated_by", ColumnKind::Text),
        Column::nullable("first_login_at", ColumnKind::Timestamp),
        Column::nullable("last_login_at", ColumnKind::Timestamp),
        Column::nullable("deleted_at", ColumnKind::Timestamp),
        Column::nullable("deleted_by", ColumnKind::Text),
        Column::required("version", ColumnKind::BigInt),
        Column::required("sync_state", ColumnKind::Text),
        Column::required("wanted_version", ColumnKind::BigInt),
        Column::nullable("synced_version", ColumnKind::BigInt),
        Column::nullable("failed_version", ColumnKind::BigInt),
        Column::nullable("sync_failure", ColumnKind::Text),
        Column::nullable("provider_id", ColumnKind::Text),
        Column::required("metadata", ColumnKind::Json),
    ];

    fn key(&self) -> Uuid {
        self.id
    }

    fn write(&self) -> Vec<Value> {
        let roles = serde_json::to_string(&self.roles).expect("names can be written as JSON");
        let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::Text);
        let time = |time: Option<DateTime<Utc>>| time.map_or(Value::Null, Value::Timestamp);
        let count = |count: u64| Value::BigInt(i64::try_from(count).expect("versions stay far below 2^63"));
        vec![
            Value::Uuid(self.id),
            Value::Text(self.username.clone()),
            Value::Text(self.email.clone()),
            Value::Text(self.first_name.clone()),
            Value::Text(self.last_name.clone()),
            Value::Uuid(self.organization_id),
            Value::Json(roles),
            Value::Boolean(self.enabled),
            text(&self.disabled_reason),
            Value::Boolean(self.email_verified),
            Value::Timestamp(self.created_at),
            Value::Text(self.created_by.clone()),
            time(self.updated_at),
            text(&self.updated_by),
            time(self.first_login_at),
            time(self.last_login_at),
            time(self.deleted_at),
            text(&self.deleted_by),
            count(self.version),
            Value::Text(self.sync_state().as_str().to_owned()),
            count(self.wanted_version),
            self.synced_version.map_or(Value::Null, count),
            self.failed_version.map_or(Value::Null, count),
            text(&self.sync_failure),
            text(&self.provider_id),
            Value::Json(self.metadata.clone()),
        ]
    }

    fn read(values: &mut Values) -> Result<Self, RowError> {
        fn count(values: &mut Values) -> Result<u64, RowError> {
            values.take::<i64>().map(i64::unsigned_abs)
        }
        fn count_or_none(values: &mut Values) -> Result<Option<u64>, RowError> {
            values.take::<Option<i64>>().map(|count| count.map(i64::unsigned_abs))
        }
        Ok(Self {
            id: values.take()?,
            username: values.take()?,
            email: values.take()?,
            first_name: values.take()?,
            last_name: values.take()?,
            organization_id: values.take()?,
            roles: roles(values)?,
            enabled: values.take()?,
            disabled_reason: values.take()?,
            email_verified: values.take()?,
            created_at: values.take()?,
            created_by: values.take()?,
            updated_at: values.take()?,
            updated_by: values.take()?,
            first_login_at: values.take()?,
            last_login_at: values.take()?,
            deleted_at: values.take()?,
            deleted_by: values.take()?,
            version: count(values)?,
            wanted_version: {
                // The state follows from the versions; it stands there for those who read the table.
                let _state: String = values.take()?;
                count(values)?
            },
            synced_version: count_or_none(values)?,
            failed_version: count_or_none(values)?,
            sync_failure: values.take()?,
            provider_id: values.take()?,
            metadata: values.take()?,
        })
    }
}

/// Roles as they stand in a column.
pub(super) fn roles(values: &mut Values) -> Result<Roles, RowError> {
    let json: String = values.take()?;
    serde_json::from_str(&json).map_err(|error| RowError {
        column: "roles".into(),
        found: error.to_string(),
        wanted: "a list of roles".into(),
    })
}

#[cfg(test)]
mod tests;
