//! This file decides users: who they are, what they may, and that no two share a username or an email address.
//!
//! ```text
//! (none) ──Register──> enabled, unverified ──Disable──> disabled ──Delete──> deleted, for good
//!                          │      └─VerifyEmail─> verified ^  │ Enable
//!                          └──Delete, as long as nobody logged in──> deleted
//! ```
//! The identity provider is never asked here: an event is the intent, which the synchroniser works off, and what came
//! of it is recorded by [`super::identity`] under the same key.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::email::Email;
use super::person_name::PersonName;
use super::reason::Reason;
use super::role::Roles;
use super::time::Moment;
use super::username::Username;
use crate::aggregate::{Aggregate, Claim};

/// Scope of the claims on email addresses.
pub const EMAIL_SCOPE: &str = "user_email";
/// Scope of the claims on usernames.
pub const USERNAME_SCOPE: &str = "user_username";

/// One user.
#[derive(Debug, Default)]
pub struct User {
    profile: Option<Profile>,
    is_deleted: bool,
}

/// What a user is, once registered; it stays readable when the user is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What it logs in with.
    pub username: Username,
    /// Where it is written to.
    pub email: Email,
    /// First name.
    pub first_name: PersonName,
    /// Last name.
    pub last_name: PersonName,
    /// The organisation it belongs to, for good.
    pub organization_id: Uuid,
    /// What it may.
    pub roles: Roles,
    /// Whether it may log in.
    pub is_enabled: bool,
    /// Whether the address, as it is now, was shown to be the user's.
    pub is_email_verified: bool,
    /// Whether it ever logged in.
    pub has_logged_in: bool,
}

/// What can be asked of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UserCommand {
    /// Begins it, enabled and unverified; only once.
    Register {
        /// What it logs in with; no other user's.
        username: Username,
        /// Where it is written to; no other user's.
        email: Email,
        /// First name.
        first_name: PersonName,
        /// Last name.
        last_name: PersonName,
        /// The organisation it belongs to.
        organization_id: Uuid,
        /// What it may.
        roles: Roles,
    },
    /// Changes what is given; what is none, or as it was, stays.
    Update {
        /// What it logs in with; no other user's.
        username: Option<Username>,
        /// Where it is written to; no other user's. Another one than before is unverified.
        email: Option<Email>,
        /// First name.
        first_name: Option<PersonName>,
        /// Last name.
        last_name: Option<PersonName>,
    },
    /// Gives it exactly these roles.
    AssignRoles {
        /// All of them.
        roles: Roles,
    },
    /// Lets it log in.
    Enable,
    /// Keeps it from logging in.
    Disable {
        /// Why.
        reason: Option<Reason>,
    },
    /// Notes that the address was shown to be the user's.
    VerifyEmail,
    /// The same of this address, told late by somebody else: of no effect when the user has another one by now.
    ConfirmEmail {
        /// The address that was shown to be the user's.
        email: Email,
    },
    /// Notes that it logged in. The notes may come out of order.
    RecordLogin {
        /// When.
        at: Moment,
    },
    /// Ends it for good, and gives its username and address free; only when it is disabled or never logged in.
    Delete,
}

/// What happened to a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum UserEvent {
    /// It began, enabled and unverified.
    UserRegistered {
        /// What it logs in with.
        username: Username,
        /// Where it is written to.
        email: Email,
        /// First name.
        first_name: PersonName,
        /// Last name.
        last_name: PersonName,
        /// The organisation it belongs to.
        organization_id: Uuid,
        /// What it may.
        roles: Roles,
    },
    /// Some of it changed; only that is told.
    UserUpdated {
        /// What it logs in with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        username: Option<Username>,
        /// Where it is written to; unverified from here on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        email: Option<Email>,
        /// First name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_name: Option<PersonName>,
        /// Last name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_name: Option<PersonName>,
    },
    /// It has other roles.
    UserRolesAssigned {
        /// All of them.
        roles: Roles,
    },
    /// It may log in.
    UserEnabled,
    /// It may not log in.
    UserDisabled {
        /// Why.
        #[serde(default)]
        reason: Option<Reason>,
    },
    /// The address was shown to be the user's.
    UserEmailVerified,
    /// It logged in.
    UserLoggedIn {
        /// When.
        at: Moment,
    },
    /// It is gone.
    UserDeleted,
}

/// Why a user refuses a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum UserRejection {
    /// It was registered before.
    #[error("the user exists already")]
    AlreadyCreated,
    /// It was never registered.
    #[error("there is no such user")]
    NotFound,
    /// It was deleted.
    #[error("the user was deleted")]
    Deleted,
    /// It is enabled and has logged in.
    #[error("only a user who is disabled or never logged in can be deleted")]
    CannotDelete,
}

impl UserRejection {
    /// The code that clients see.
    pub fn code(self) -> &'static str {
        match self {
            Self::AlreadyCreated => "already_created",
            Self::NotFound => "not_found",
            Self::Deleted => "deleted",
            Self::CannotDelete => "cannot_delete",
        }
    }
}

impl UserEvent {
    /// Whether the identity provider has to learn of it. Logins it knows: it is where they happen.
    pub fn is_wanted_outside(&self) -> bool {
        !matches!(self, Self::UserLoggedIn { .. })
    }
}

impl User {
    /// What the user is; none before it was registered.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Whether it was deleted.
    pub fn is_deleted(&self) -> bool {
        self.is_deleted
    }
}

impl Profile {
    /// Whether a user in this state may be deleted.
    fn can_be_deleted(&self) -> bool {
        !self.is_enabled || !self.has_logged_in
    }

    /// The event that tells what of this is another than before, if anything is.
    fn update(
        &self,
        username: &Option<Username>,
        email: &Option<Email>,
        first_name: &Option<PersonName>,
        last_name: &Option<PersonName>,
    ) -> Option<UserEvent> {
        fn changed<T: Clone + PartialEq>(wanted: &Option<T>, present: &T) -> Option<T> {
            wanted.clone().filter(|wanted| wanted != present)
        }
        let username = changed(username, &self.username);
        let email = changed(email, &self.email);
        let first_name = changed(first_name, &self.first_name);
        let last_name = changed(last_name, &self.last_name);
        let is_change = username.is_some() || email.is_some() || first_name.is_some() || last_name.is_some();
        is_change.then_some(UserEvent::UserUpdated { username, email, first_name, last_name })
    }

    fn verify(&self) -> Option<UserEvent> {
        (!self.is_email_verified).then_some(UserEvent::UserEmailVerified)
    }

    fn apply(&mut self, event: &UserEvent) {
        match event {
            UserEvent::UserRegistered { .. } | UserEvent::UserDeleted => {}
            UserEvent::UserUpdated { username, email, first_name, last_name } => {
                // Whoever showed that the old address is theirs has shown nothing of the other one.
                self.is_email_verified &= email.is_none();
                replace(&mut self.username, username);
                replace(&mut self.email, email);
                replace(&mut self.first_name, first_name);
                replace(&mut self.last_name, last_name);
            }
            UserEvent::UserRolesAssigned { roles } => self.roles = roles.clone(),
            UserEvent::UserEnabled => self.is_enabled = true,
            UserEvent::UserDisabled { .. } => self.is_enabled = false,
            UserEvent::UserEmailVerified => self.is_email_verified = true,
            UserEvent::UserLoggedIn { .. } => self.has_logged_in = true,
        }
    }
}

/// Puts the changed value in place of the present one, when there is one.
fn replace<T: Clone>(present: &mut T, changed: &Option<T>) {
    if let Some(changed) = changed {
        present.clone_from(changed);
    }
}

impl Aggregate for User {
    const CATEGORY: &'static str = "user";
    type Command = UserCommand;
    type Event = UserEvent;
    type Rejection = UserRejection;

    fn decide(&self, command: &UserCommand) -> Result<Vec<UserEvent>, UserRejection> {
        if self.is_deleted {
            return Err(UserRejection::Deleted);
        }
        let Some(profile) = &self.profile else { return begin(command) };
        let event = match command {
            UserCommand::Register { .. } => return Err(UserRejection::AlreadyCreated),
            UserCommand::Update { username, email, first_name, last_name } => {
                profile.update(username, email, first_name, last_name)
            }
            UserCommand::AssignRoles { roles } => {
                (*roles != profile.roles).then(|| UserEvent::UserRolesAssigned { roles: roles.clone() })
            }
            UserCommand::Enable => (!profile.is_enabled).then_some(UserEvent::UserEnabled),
            UserCommand::Disable { reason } => {
                profile.is_enabled.then(|| UserEvent::UserDisabled { reason: reason.clone() })
            }
            UserCommand::VerifyEmail => profile.verify(),
            UserCommand::ConfirmEmail { email } if *email != profile.email => None,
            UserCommand::ConfirmEmail { .. } => profile.verify(),
            UserCommand::RecordLogin { at } => Some(UserEvent::UserLoggedIn { at: *at }),
            UserCommand::Delete if profile.can_be_deleted() => Some(UserEvent::UserDeleted),
            UserCommand::Delete => return Err(UserRejection::CannotDelete),
        };
        Ok(event.into_iter().collect())
    }

    fn apply(&mut self, event: &UserEvent) {
        match (event, &mut self.profile) {
            (UserEvent::UserRegistered { username, email, first_name, last_name, organization_id, roles }, _) => {
                self.profile = Some(Profile {
                    username: username.clone(),
                    email: email.clone(),
                    first_name: first_name.clone(),
                    last_name: last_name.clone(),
                    organization_id: *organization_id,
                    roles: roles.clone(),
                    is_enabled: true,
                    is_email_verified: false,
                    has_logged_in: false,
                });
            }
            (UserEvent::UserDeleted, _) => self.is_deleted = true,
            (event, Some(profile)) => profile.apply(event),
            // Nothing happens to a user before it is registered.
            (_, None) => {}
        }
    }

    fn claims(&self) -> Vec<Claim> {
        let held = self.profile.as_ref().filter(|_| !self.is_deleted);
        held.map_or_else(Vec::new, |profile| {
            vec![Claim::new(EMAIL_SCOPE, profile.email.as_str()), Claim::new(USERNAME_SCOPE, profile.username.as_str())]
        })
    }

    fn heap_bytes(&self) -> usize {
        /// About what a name in a set takes.
        const ROLE: usize = 64;
        self.profile.as_ref().map_or(0, |profile| {
            let texts = profile.username.as_str().len() + profile.email.as_str().len();
            let names = profile.first_name.as_str().len() + profile.last_name.as_str().len();
            texts + names + profile.roles.len() * ROLE
        })
    }
}

/// What can be asked of a user who was never registered: to be registered.
fn begin(command: &UserCommand) -> Result<Vec<UserEvent>, UserRejection> {
    let UserCommand::Register { username, email, first_name, last_name, organization_id, roles } = command else {
        return Err(UserRejection::NotFound);
    };
    Ok(vec![UserEvent::UserRegistered {
        username: username.clone(),
        email: email.clone(),
        first_name: first_name.clone(),
        last_name: last_name.clone(),
        organization_id: *organization_id,
        roles: roles.clone(),
    }])
}

#[cfg(test)]
mod tests;
