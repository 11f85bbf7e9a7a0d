//! This file keeps those who ask to their own organisation: what is another's is not there for them.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use uuid::Uuid;

use super::none_such;
use crate::aggregate::{Aggregate, decode_event};
use crate::daemon::AppState;
use crate::daemon::auth::{ADMIN, Caller};
use crate::daemon::problem::Problem;
use crate::domain::user::{User, UserEvent};
use crate::projections::user_profiles::UserProfiles;
use crate::stream::Version;

/// What who asks is kept to; follows from the [`Caller`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// Sees every organisation.
    Everything,
    /// Sees this one.
    Organization(Uuid),
    /// Belongs to none, and sees none.
    Nothing,
}

impl<S: Send + Sync> FromRequestParts<S> for Boundary {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        if let Some(known) = parts.extensions.get() {
            return Ok(*known);
        }
        // Who is not known sees nothing; while authentication is off everybody is an admin.
        Ok(match parts.extensions.get::<Caller>() {
            Some(caller) if caller.has(ADMIN) => Self::Everything,
            Some(Caller { organization_id: Some(own), .. }) => Self::Organization(*own),
            _ => Self::Nothing,
        })
    }
}

impl Boundary {
    /// Whether what belongs to this organisation is there for who asks.
    pub(crate) fn allows(self, organization_id: Uuid) -> bool {
        match self {
            Self::Everything => true,
            Self::Organization(own) => own == organization_id,
            Self::Nothing => false,
        }
    }

    /// The organisation to look into: the one asked for, else the one's own, else all.
    ///
    /// # Errors
    /// `not_found` when it is another's.
    pub(crate) fn narrow(self, wanted: Option<Uuid>) -> Result<Option<Uuid>, Problem> {
        match (self, wanted) {
            (Self::Everything, wanted) => Ok(wanted),
            (Self::Organization(own), None) => Ok(Some(own)),
            (_, Some(wanted)) if self.allows(wanted) => Ok(Some(wanted)),
            _ => Err(Problem::new("not_found", "there is no such organisation")),
        }
    }

    /// Lets pass who may touch this user.
    ///
    /// # Errors
    /// `not_found` when the user is another organisation's, or is none.
    pub(crate) async fn check(self, state: &AppState, user: Uuid) -> Result<(), Problem> {
        if self == Self::Everything {
            return Ok(());
        }
        let organization_id = organization_of(state, user).await?;
        organization_id.filter(|id| self.allows(*id)).map(drop).ok_or_else(none_such)
    }
}

/// Never changes once the user is registered, so that a read model that is behind, or the log, says the same.
async fn organization_of(state: &AppState, user: Uuid) -> Result<Option<Uuid>, Problem> {
    let profiles = state.engine.read_model::<UserProfiles>().now().map_err(Problem::from_read)?;
    if let Some(row) = profiles.get(&user) {
        return Ok(Some(row.organization_id));
    }
    let events = state.engine.store().read_stream(User::id(user).stream(), Version::EMPTY, 1).await;
    let events = events.map_err(|error| Problem::from_store(&error))?;
    let Some(Ok(first)) = events.first().map(decode_event::<User>) else { return Ok(None) };
    match first {
        UserEvent::UserRegistered { organization_id, .. } => Ok(Some(organization_id)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Uuid = Uuid::from_u128(1);
    const OTHER: Uuid = Uuid::from_u128(2);

    #[test]
    fn who_is_kept_to_an_organisation_looks_into_that_one_only() {
        let narrowed = |boundary: Boundary, wanted| boundary.narrow(wanted).ok();
        let (kept, free) = (Boundary::Organization(OWN), Boundary::Everything);

        assert_eq!(narrowed(kept, None), Some(Some(OWN)));
        assert_eq!(narrowed(kept, Some(OWN)), Some(Some(OWN)));
        assert_eq!(narrowed(kept, Some(OTHER)), None);
        assert_eq!((narrowed(free, None), narrowed(free, Some(OTHER))), (Some(None), Some(Some(OTHER))));
        assert_eq!((narrowed(Boundary::Nothing, None), narrowed(Boundary::Nothing, Some(OWN))), (None, None));
    }
}
