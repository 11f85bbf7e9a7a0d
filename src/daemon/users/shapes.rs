//! This file is how users look in JSON: null is written, not left out.

use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::daemon::shape::time;
use crate::domain::role::Roles;
use crate::projections::user_analytics::UserFigures;
use crate::projections::user_list::{Language, UserListRow};
use crate::projections::user_profiles::UserProfileRow;

/// A user, whole.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = User)]
pub(crate) struct UserShape {
    id: Uuid,
    /// What it logs in with, lower case.
    username: String,
    /// Lower case.
    email: String,
    first_name: String,
    last_name: String,
    organization_id: Uuid,
    /// Sorted.
    #[schema(value_type = Vec<String>)]
    roles: Roles,
    /// Whether it may log in.
    enabled: bool,
    /// Why not; null when it may, or no reason was given.
    disabled_reason: Option<String>,
    email_verified: bool,
    created_at: String,
    created_by: String,
    /// When it was last changed, logins apart; null before.
    updated_at: Option<String>,
    updated_by: Option<String>,
    first_login_at: Option<String>,
    last_login_at: Option<String>,
    deleted: bool,
    deleted_at: Option<String>,
    deleted_by: Option<String>,
    /// How many events it has.
    version: u64,
    /// How far the identity provider is: `pending`, `synced`, `failed`, or `disabled` when none is configured. Null
    /// when the user is asked for as it was.
    #[schema(example = "synced")]
    sync: Option<&'static str>,
    /// The version that the provider has; null before the first sync.
    synced_version: Option<u64>,
    /// Why the provider could not be told; null unless `sync` is `failed`.
    sync_failure: Option<String>,
    /// What the provider calls it.
    provider_id: Option<String>,
    /// Of its registration: who and why.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
}

impl UserShape {
    /// The row; `sync` is what is said of the identity provider.
    pub(super) fn of(row: &UserProfileRow, sync: Option<&'static str>) -> Self {
        Self {
            id: row.id,
            username: row.username.clone(),
            email: row.email.clone(),
            first_name: row.first_name.clone(),
            last_name: row.last_name.clone(),
            organization_id: row.organization_id,
            roles: row.roles.clone(),
            enabled: row.enabled,
            disabled_reason: row.disabled_reason.clone(),
            email_verified: row.email_verified,
            created_at: time(row.created_at),
            created_by: row.created_by.clone(),
            updated_at: row.updated_at.map(time),
            updated_by: row.updated_by.clone(),
            first_login_at: row.first_login_at.map(time),
            last_login_at: row.last_login_at.map(time),
            deleted: row.is_deleted(),
            deleted_at: row.deleted_at.map(time),
            deleted_by: row.deleted_by.clone(),
            version: row.version,
            sync,
            synced_version: row.synced_version,
            sync_failure: row.sync_failure.clone().filter(|_| sync == Some("failed")),
            provider_id: row.provider_id.clone(),
            metadata: raw(&row.metadata),
        }
    }
}

fn raw(json: &str) -> Box<RawValue> {
    let empty = || RawValue::from_string("{}".into()).expect("an empty object is JSON");
    RawValue::from_string(json.to_owned()).unwrap_or_else(|_| empty())
}

/// A user of a list.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = UserListItem)]
pub(crate) struct UserListItem {
    id: Uuid,
    username: String,
    email: String,
    first_name: String,
    last_name: String,
    /// First and last name.
    full_name: String,
    organization_id: Uuid,
    /// `disabled`, else `unverified`, else `active`.
    #[schema(example = "active")]
    status: &'static str,
    /// What people read, by `Accept-Language`: French, or English.
    #[schema(example = "Actif")]
    status_label: &'static str,
    /// `red`, `orange` or `green`.
    #[schema(example = "green")]
    status_color: &'static str,
    /// Sorted.
    #[schema(value_type = Vec<String>)]
    roles: Roles,
    created_at: String,
    last_login_at: Option<String>,
    version: u64,
    /// Enabled and verified.
    can_edit: bool,
    /// Disabled, or never logged in.
    can_delete: bool,
    can_enable: bool,
    can_disable: bool,
}

impl UserListItem {
    /// The row, labelled in this language.
    pub(super) fn of(row: &UserListRow, language: Language) -> Self {
        let status = row.status();
        Self {
            id: row.id,
            username: row.username.clone(),
            email: row.email.clone(),
            first_name: row.first_name.clone(),
            last_name: row.last_name.clone(),
            full_name: row.full_name(),
            organization_id: row.organization_id,
            status: status.as_str(),
            status_label: status.label(language),
            status_color: status.color(),
            roles: row.roles.clone(),
            created_at: time(row.created_at),
            last_login_at: row.last_login_at.map(time),
            version: row.version,
            can_edit: row.can_edit(),
            can_delete: row.can_delete(),
            can_enable: row.can_enable(),
            can_disable: row.can_disable(),
        }
    }
}

/// A page of users.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = UserList)]
pub(crate) struct UserListPage {
    /// Newest first.
    pub(super) items: Vec<UserListItem>,
    /// For the page behind this one; null at the end.
    pub(super) next_cursor: Option<String>,
    /// Which page this is, from 1; null by cursor.
    pub(super) page: Option<u64>,
    /// How many users a page has at most.
    pub(super) limit: u64,
    /// How many users there are on all pages; null by cursor.
    pub(super) total: Option<usize>,
}

/// What the users of an organisation are together.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = UserAnalytics)]
pub(crate) struct UserAnalyticsShape {
    organization_id: Uuid,
    /// Registered then or later; null when it does not matter.
    from: Option<String>,
    /// Registered then or earlier; null when it does not matter.
    to: Option<String>,
    /// The figures are exact at this position.
    position: u64,
    total_users: u64,
    /// Enabled.
    active_users: u64,
    /// Disabled.
    inactive_users: u64,
    /// With a verified address.
    verified_users: u64,
    /// Who ever logged in.
    users_with_login: u64,
    /// Whole days from registration to the first login on average, four decimals; null when nobody logged in.
    #[schema(value_type = Option<f64>, example = 1.5)]
    average_days_to_first_login: Option<Box<RawValue>>,
}

impl UserAnalyticsShape {
    /// The figures of users registered in this time.
    pub(super) fn of(
        organization_id: Uuid,
        (from, to): (Option<chrono::DateTime<chrono::Utc>>, Option<chrono::DateTime<chrono::Utc>>),
        position: u64,
        figures: UserFigures,
    ) -> Self {
        let average = figures.average_days_to_first_login();
        let number = |digits| RawValue::from_string(digits).expect("a decimal number is JSON");
        Self {
            organization_id,
            from: from.map(time),
            to: to.map(time),
            position,
            total_users: figures.total_users,
            active_users: figures.active_users,
            inactive_users: figures.inactive_users(),
            verified_users: figures.verified_users,
            users_with_login: figures.users_with_login,
            average_days_to_first_login: average.map(number),
        }
    }
}
