//! This file is what is asked of Keycloak, and in which order, to bring one account in step.
//!
//! ```text
//! put ── known? GET it ──┐ ours ────────────> older than wanted? PUT over it ── disabled? end its sessions
//!        else search ────┤                          ▲
//!        by our id       └ none ──> POST ── 409? ── who has the name, or the address?
//! ```
//! The search by our id comes before every POST: an earlier POST may have been carried out without our knowing, under a
//! name that the user does not have any more.

use serde::de::{DeserializeOwned, IgnoredAny};
use uuid::Uuid;

use super::answer::Answer;
use super::connection::{Ask, Connection, Reply};
use super::readiness;
use super::representation::{Account, USER_ID, created_as};
use crate::identity::{Lookup, MAX_PAGE, ProviderError, ProviderId, ProviderUser, Refusal, WantedUser};

/// See [`crate::identity::IdentityProvider::put`].
pub(super) async fn put(
    keycloak: &Connection,
    wanted: &WantedUser,
    known: Option<&ProviderId>,
) -> Result<ProviderId, ProviderError> {
    match ours(keycloak, wanted.user_id, known).await? {
        Some(account) => replace(keycloak, &account, wanted).await,
        None => create(keycloak, wanted).await,
    }
}

/// See [`crate::identity::IdentityProvider::delete`].
pub(super) async fn delete(
    keycloak: &Connection,
    user_id: Uuid,
    known: Option<&ProviderId>,
) -> Result<(), ProviderError> {
    let mut ids: Vec<_> = search_ours(keycloak, user_id).await?.iter().map(Account::provider_id).collect();
    if let Some(id) = known.filter(|id| !ids.contains(id)) {
        ids.extend(known_account(keycloak, user_id, id).await?.map(|account| account.provider_id()));
    }
    if ids.is_empty() {
        // Where attributes are hidden, an account of ours looks like nobody's.
        readiness::attributes_are_kept(keycloak).await?;
    }
    for id in ids {
        // One that is gone by now was removed by an earlier call.
        keycloak.ask(Ask::delete(&["users", &id.0])).await?;
    }
    Ok(())
}

/// See [`crate::identity::IdentityProvider::remove`].
pub(super) async fn remove(keycloak: &Connection, id: &ProviderId, user_id: Uuid) -> Result<(), ProviderError> {
    let found = account(keycloak, id).await?;
    if found.is_some_and(|account| account.user_id() == Some(user_id)) {
        keycloak.ask(Ask::delete(&["users", &id.0])).await?;
    }
    Ok(())
}

/// See [`crate::identity::IdentityProvider::read`].
pub(super) async fn read(keycloak: &Connection, lookup: Lookup<'_>) -> Result<Option<ProviderUser>, ProviderError> {
    let found = match lookup {
        Lookup::Id(id) => account(keycloak, id).await?,
        Lookup::User(user_id) => latest(search_ours(keycloak, user_id).await?),
        Lookup::Username(name) => by_exact(keycloak, "username", name).await?,
    };
    Ok(found.map(ProviderUser::from))
}

/// See [`crate::identity::IdentityProvider::is_logged_in`].
pub(super) async fn is_logged_in(keycloak: &Connection, id: &ProviderId) -> Result<bool, ProviderError> {
    match keycloak.ask(Ask::get(&["users", &id.0, "sessions"], &[])).await? {
        Reply::Done(answer) => parsed(&answer).map(|sessions: Vec<IgnoredAny>| !sessions.is_empty()),
        Reply::Missing | Reply::Conflict => Ok(false),
    }
}

/// See [`crate::identity::IdentityProvider::list`].
pub(super) async fn list(keycloak: &Connection, skip: u32, limit: u32) -> Result<Vec<ProviderUser>, ProviderError> {
    let (skip, limit) = (skip.to_string(), limit.clamp(1, MAX_PAGE).to_string());
    let query = [("first", skip.as_str()), ("max", limit.as_str()), ("briefRepresentation", "false")];
    let accounts: Vec<Account> = found(keycloak, Ask::get(&["users"], &query)).await?;
    Ok(accounts.into_iter().map(ProviderUser::from).collect())
}

/// The account of our user: the known one while it is there, else the one that carries our id.
async fn ours(
    keycloak: &Connection,
    user_id: Uuid,
    known: Option<&ProviderId>,
) -> Result<Option<Account>, ProviderError> {
    if let Some(id) = known
        && let Some(account) = known_account(keycloak, user_id, id).await?
    {
        return Ok(Some(account));
    }
    Ok(latest(search_ours(keycloak, user_id).await?))
}

/// The account of this id, which has to carry our user's id when it is there.
async fn known_account(
    keycloak: &Connection,
    user_id: Uuid,
    id: &ProviderId,
) -> Result<Option<Account>, ProviderError> {
    let Some(account) = account(keycloak, id).await? else { return Ok(None) };
    if account.user_id() == Some(user_id) {
        return Ok(Some(account));
    }
    Err(foreign(keycloak, Refusal::ForeignAccount, &account).await)
}

async fn create(keycloak: &Connection, wanted: &WantedUser) -> Result<ProviderId, ProviderError> {
    // An account without our id could never be found again.
    readiness::attributes_were_kept_lately(keycloak).await?;
    match keycloak.ask(Ask::post(&["users"], Some(created_as(wanted)))).await? {
        Reply::Done(answer) => match created_id(&answer) {
            Some(id) => Ok(id),
            None => latest(search_ours(keycloak, wanted.user_id).await?)
                .map(|account| account.provider_id())
                .ok_or_else(|| not_keycloak("POST /users answers success, and there is no such account")),
        },
        Reply::Conflict => match holder(keycloak, wanted, None).await? {
            Some(account) => replace(keycloak, &account, wanted).await,
            None => Err(vanished()),
        },
        Reply::Missing => Err(not_keycloak("POST /users answers that there is no such user")),
    }
}

async fn replace(keycloak: &Connection, account: &Account, wanted: &WantedUser) -> Result<ProviderId, ProviderError> {
    if account.version().is_some_and(|version| version > wanted.version) {
        return Ok(account.provider_id());
    }
    match keycloak.ask(Ask::put(&["users", &account.id], account.replaced_by(wanted))).await? {
        Reply::Done(_) => {}
        Reply::Missing => return Err(vanished()),
        Reply::Conflict => {
            // Whoever has the value is somebody else, and the error says who; else they gave it up just now.
            holder(keycloak, wanted, Some(account)).await?;
            return Err(vanished());
        }
    }
    if !wanted.enabled {
        keycloak.ask(Ask::post(&["users", &account.id, "logout"], None)).await?;
    }
    Ok(account.provider_id())
}

/// Who has the wanted name or address, after a 409: the account of this very user, or nobody any more. `own` is the
/// account that was to be changed.
///
/// # Errors
/// [`ProviderError::Permanent`] when it is somebody else; [`ProviderError::RetryLater`] when it is another of our
/// users, whose own change is still to come: among our users names and addresses are unique.
async fn holder(
    keycloak: &Connection,
    wanted: &WantedUser,
    own: Option<&Account>,
) -> Result<Option<Account>, ProviderError> {
    let claims = [
        ("username", wanted.username.as_str(), Refusal::UsernameTaken),
        ("email", wanted.email.as_str(), Refusal::EmailTaken),
    ];
    for (field, value, refusal) in claims {
        let Some(account) = by_exact(keycloak, field, value).await? else { continue };
        match account.user_id() {
            _ if own.is_some_and(|own| own.id == account.id) => {}
            Some(user_id) if user_id == wanted.user_id => return Ok(Some(account)),
            Some(other) => {
                let detail = format!("the account of user {other} still has the {field}");
                return Err(ProviderError::RetryLater { retry_after: None, detail });
            }
            None => return Err(foreign(keycloak, refusal, &account).await),
        }
    }
    Ok(None)
}

/// The refusal of an account that does not carry our id, unless no account can.
async fn foreign(keycloak: &Connection, reason: Refusal, account: &Account) -> ProviderError {
    match readiness::attributes_are_kept(keycloak).await {
        Ok(()) => {
            let detail = format!("account {} is not this user's: {}, and retry", account.id, remedy(reason));
            ProviderError::Permanent { reason, detail }
        }
        Err(error) => error,
    }
}

/// What can be done about an account that stands in a user's way.
fn remedy(reason: Refusal) -> &'static str {
    match reason {
        Refusal::UsernameTaken => "rename it, remove it, or change the user's username",
        Refusal::EmailTaken => "give it another address, remove it, or change the user's email",
        Refusal::ForeignAccount => "remove it, or give it the user's id again (attribute essaim_user_id)",
        Refusal::InvalidUser => "change the user",
    }
}

async fn account(keycloak: &Connection, id: &ProviderId) -> Result<Option<Account>, ProviderError> {
    match keycloak.ask(Ask::get(&["users", &id.0], &[])).await? {
        Reply::Done(answer) => parsed(&answer).map(Some),
        Reply::Missing | Reply::Conflict => Ok(None),
    }
}

async fn by_exact(keycloak: &Connection, field: &str, value: &str) -> Result<Option<Account>, ProviderError> {
    let query = [(field, value), ("exact", "true"), ("briefRepresentation", "false")];
    let accounts: Vec<Account> = found(keycloak, Ask::get(&["users"], &query)).await?;
    // Keycloak takes an empty value for no condition, and answers everybody.
    Ok(accounts.into_iter().find(|account| account.goes_by(value)))
}

async fn search_ours(keycloak: &Connection, user_id: Uuid) -> Result<Vec<Account>, ProviderError> {
    let attribute = format!("{USER_ID}:{user_id}");
    let query = [("q", attribute.as_str()), ("briefRepresentation", "false")];
    let mut accounts: Vec<Account> = found(keycloak, Ask::get(&["users"], &query)).await?;
    // A server that does not know the search by attribute answers everybody.
    accounts.retain(|account| account.user_id() == Some(user_id));
    Ok(accounts)
}

/// Of several accounts that carry one id, the one to go on with: newest version, then a stable choice.
fn latest(accounts: Vec<Account>) -> Option<Account> {
    accounts.into_iter().max_by(|a, b| a.version().cmp(&b.version()).then_with(|| b.id.cmp(&a.id)))
}

async fn found<T: DeserializeOwned>(keycloak: &Connection, ask: Ask<'_>) -> Result<T, ProviderError> {
    let asked = ask.to_string();
    match keycloak.ask(ask).await? {
        Reply::Done(answer) => parsed(&answer),
        Reply::Missing | Reply::Conflict => Err(not_keycloak(&format!("{asked} finds no such thing"))),
    }
}

/// The body as what it should be.
pub(super) fn parsed<T: DeserializeOwned>(answer: &Answer) -> Result<T, ProviderError> {
    // The parser's message may repeat what it stumbled over.
    answer.json().map_err(|error| not_keycloak(&format!("an answer is not as expected at column {}", error.column())))
}

/// The last part of the `Location`, when it can be an id.
fn created_id(answer: &Answer) -> Option<ProviderId> {
    let location = answer.headers.get(reqwest::header::LOCATION)?.to_str().ok()?;
    let id = location.rsplit('/').next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':' | '.');
    (!id.is_empty() && id.len() <= 255 && id.chars().all(plain)).then(|| ProviderId(id.to_owned()))
}

fn vanished() -> ProviderError {
    let detail = "the account changed while it was put".to_owned();
    ProviderError::RetryLater { retry_after: None, detail }
}

pub(super) fn not_keycloak(what: &str) -> ProviderError {
    ProviderError::Configuration { detail: format!("{what}, which is not Keycloak's: correct the address") }
}
