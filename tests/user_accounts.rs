//! Users and their accounts at an identity provider, from our log to the realm itself: in the double, and in a real
//! Keycloak where there is one.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use essaim::domain::identity::{Identity, IdentityEvent};
use essaim::domain::user::{User, UserCommand};
use essaim::engine::SynchroniserHandle;
use essaim::identity::double::Faults;
use essaim::prelude::*;
use essaim::synchroniser::{Pace, Progress, Reconciliation};
use essaim::synchronisers::user_accounts::UserAccounts;
use futures::StreamExt;
use realm::Realm;
use serde_json::{Value, json};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! both {
    ($($case:ident,)*) => {
        mod double {
            $(#[tokio::test]
            async fn $case() {
                super::$case(&super::Realm::double().await).await;
            })*
        }

        mod real_keycloak {
            $(#[tokio::test]
            async fn $case() {
                if let Some(realm) = super::Realm::real().await {
                    super::$case(&realm).await;
                    realm.close().await;
                }
            })*
        }
    };
}

both! {
    what_becomes_of_a_user_becomes_of_the_account,
    a_name_that_is_somebody_elses_there_is_a_dead_letter_until_an_operator_retries_it,
    a_dead_letter_heals_by_a_later_change_once_it_is_skipped,
    an_account_that_was_removed_or_changed_there_is_reported_and_made_as_wanted_when_told,
    an_account_with_an_id_of_ours_that_is_nobodys_here_is_reported_and_then_removed_when_told,
    what_the_realm_does_not_take_is_a_dead_letter_that_says_so_in_its_words_and_what_to_do,
}

/// The log, the users in it, and the synchroniser that works the realm.
struct Desk {
    engine: Engine,
}

impl Desk {
    async fn at(realm: &Realm) -> Self {
        Self::paced(realm, Pace::default()).await
    }

    async fn paced(realm: &Realm, pace: Pace) -> Self {
        let builder = Engine::builder(MemoryStore::new()).aggregate::<User>().aggregate::<Identity>();
        let engine = builder.synchroniser_at(UserAccounts::at(Arc::new(realm.keycloak())), pace).start().await.unwrap();
        Self { engine }
    }

    fn handle(&self) -> SynchroniserHandle {
        self.engine.synchroniser("user_accounts").unwrap()
    }

    /// Executes the command and returns the version behind it.
    async fn tell(&self, user: Uuid, command: Value) -> Version {
        let command: UserCommand = serde_json::from_value(command).unwrap();
        self.engine.execute(&User::id(user), command).await.unwrap().version
    }

    async fn settled(&self, user: Uuid, version: Version) -> Progress {
        self.handle().settled(&user.to_string(), version, PATIENCE).await
    }

    /// Tells it, and waits until the realm follows.
    async fn brings(&self, user: Uuid, command: Value) {
        let version = self.tell(user, command).await;
        assert_eq!(self.settled(user, version).await, Progress::Synced(version));
    }

    async fn recorded(&self, user: Uuid) -> Vec<IdentityEvent> {
        let events = self.engine.store().read_stream(Identity::id(user).stream(), Version::EMPTY, 1_000).await.unwrap();
        events.iter().map(|event| essaim::aggregate::decode_event::<Identity>(event).unwrap()).collect()
    }

    /// Waits for the end of a pass and returns what drifted, by user.
    async fn reconcile(&self, repairs: bool) -> Vec<(String, Vec<String>)> {
        let report = self.reconciled(repairs).await;
        report.drifts.into_iter().map(|drift| (drift.subject, drift.differs)).collect()
    }

    /// Waits for the end of a pass and returns its report.
    async fn reconciled(&self, repairs: bool) -> Reconciliation {
        assert!(self.handle().reconcile(repairs));
        eventually("the pass is over", || {
            self.handle().reconciliation().is_some_and(|report| report.finished_at.is_some())
        })
        .await;
        self.handle().reconciliation().unwrap()
    }
}

async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(240), waiting).await.is_err() {
        panic!("in vain waited for: {what}");
    }
}

fn register(name: &str) -> Value {
    json!({"Register": {
        "username": name, "email": format!("{name}@example.org"), "first_name": "Ada", "last_name": "Łovelace",
        "organization_id": Uuid::from_u128(42), "roles": ["writer", "admin"],
    }})
}

fn unit(name: &str) -> Value {
    json!(name)
}

async fn what_becomes_of_a_user_becomes_of_the_account(realm: &Realm) {
    let (desk, ada) = (Desk::at(realm).await, Uuid::from_u128(1));

    desk.brings(ada, register("ada")).await;
    let account = realm.account("ada").await.unwrap();
    let shown = |account: &Value| {
        ["email", "firstName", "lastName"].map(|field| account[field].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(shown(&account), ["ada@example.org", "Ada", "Łovelace"]);
    assert_eq!((&account["enabled"], &account["emailVerified"]), (&json!(true), &json!(false)));
    assert_eq!(account["attributes"]["essaim_user_id"], json!([ada.to_string()]));
    let id = account["id"].as_str().unwrap();
    assert_eq!(
        serde_json::to_value(desk.recorded(ada).await).unwrap(),
        json!([{"IdentityLinked": {"provider_id": id}}, {"IdentitySynced": {"version": 1}}])
    );

    desk.brings(ada, json!({"Update": {"username": "augusta", "email": "byron@example.org", "last_name": "Byron"}}))
        .await;
    let account = realm.account("augusta").await.unwrap();
    assert_eq!(shown(&account), ["byron@example.org", "Ada", "Byron"]);
    assert_eq!(account["id"], id, "it is the same account");

    desk.brings(ada, unit("VerifyEmail")).await;
    desk.brings(ada, json!({"AssignRoles": {"roles": ["reader"]}})).await;
    let account = realm.account("augusta").await.unwrap();
    assert_eq!((&account["emailVerified"], &account["attributes"]["roles"]), (&json!(true), &json!(["reader"])));

    realm.set_password(id).await;
    assert_eq!(realm.login("augusta").await.0, 200);
    desk.brings(ada, json!({"Disable": {"reason": "on leave"}})).await;
    assert_eq!((realm.sessions(id).await, realm.login("augusta").await.0.as_u16()), (0, 400));
    desk.brings(ada, unit("Enable")).await;
    assert_eq!(realm.login("augusta").await.0, 200);

    desk.brings(ada, json!({"Disable": {"reason": null}})).await;
    desk.brings(ada, unit("Delete")).await;
    assert_eq!((realm.account("augusta").await, realm.count().await), (None, 0));
}

async fn a_name_that_is_somebody_elses_there_is_a_dead_letter_until_an_operator_retries_it(realm: &Realm) {
    let (desk, ada, bob) = (Desk::at(realm).await, Uuid::from_u128(1), Uuid::from_u128(2));
    let foreign = realm.create(json!({"username": "ada", "enabled": true})).await;

    let version = desk.tell(ada, register("ada")).await;
    desk.brings(bob, register("bob")).await;

    let Progress::Failed(letter) = desk.settled(ada, version).await else { panic!("it is no dead letter") };
    assert!(letter.permanent && letter.reason.starts_with("username_taken"), "{letter:?}");
    let later = desk.tell(ada, json!({"AssignRoles": {"roles": []}})).await;
    realm.remove(&foreign).await;
    assert_eq!(desk.handle().retry(&ada.to_string()).await, Some(true));
    assert_eq!(desk.settled(ada, later).await, Progress::Synced(later));
    assert_eq!((realm.count().await, desk.handle().status().dead_letters), (2, 0));
}

async fn a_dead_letter_heals_by_a_later_change_once_it_is_skipped(realm: &Realm) {
    let (desk, ada) = (Desk::at(realm).await, Uuid::from_u128(1));
    realm.create(json!({"username": "ada", "enabled": true})).await;
    let version = desk.tell(ada, register("ada")).await;
    desk.settled(ada, version).await;
    let later = desk.tell(ada, json!({"Update": {"username": "augusta"}})).await;

    assert_eq!(desk.handle().skip(&ada.to_string(), "renamed instead", "ann").await, Some(true));

    assert_eq!(desk.settled(ada, later).await, Progress::Synced(later));
    assert_eq!(realm.account("augusta").await.unwrap()["attributes"]["essaim_user_id"], json!([ada.to_string()]));
}

async fn an_account_that_was_removed_or_changed_there_is_reported_and_made_as_wanted_when_told(realm: &Realm) {
    let (desk, ids) = (Desk::at(realm).await, [1, 2, 3, 4].map(Uuid::from_u128));
    for (id, name) in ids.iter().zip(["ada", "bob", "cyd", "dan"]) {
        desk.brings(*id, register(name)).await;
    }
    desk.brings(ids[3], unit("Delete")).await;
    realm.remove(realm.account("ada").await.unwrap()["id"].as_str().unwrap()).await;
    let mut bob = realm.account("bob").await.unwrap();
    bob["firstName"] = json!("Robert");
    realm.replace(&bob).await;
    // Somebody gave the account of a deleted user back.
    let attributes = json!({"essaim_user_id": [ids[3].to_string()], "essaim_version": ["1"]});
    realm.create(json!({"username": "dan", "enabled": true, "attributes": attributes})).await;

    let drifts = [(ids[0], "missing"), (ids[1], "first_name"), (ids[3], "left over")];
    let drifts = drifts.map(|(id, what)| (id.to_string(), vec![what.to_owned()]));
    assert_eq!(desk.reconcile(false).await, drifts);
    assert_eq!(realm.account("bob").await.unwrap()["firstName"], "Robert", "it was only reported");

    assert_eq!(desk.reconcile(true).await, drifts);
    eventually("all is brought again", || desk.handle().status().pending == 0).await;
    assert_eq!(desk.reconcile(false).await, []);
    let linked = serde_json::to_value(desk.recorded(ids[0]).await.last().unwrap()).unwrap();
    let anew = realm.account("ada").await.unwrap()["id"].clone();
    assert_eq!(linked, json!({"IdentityLinked": {"provider_id": anew}}));
}

async fn an_account_with_an_id_of_ours_that_is_nobodys_here_is_reported_and_then_removed_when_told(realm: &Realm) {
    let (desk, ada, nobody) = (Desk::at(realm).await, Uuid::from_u128(1), Uuid::from_u128(9));
    desk.brings(ada, register("ada")).await;
    realm.create(json!({"username": "somebody-elses", "enabled": true})).await;
    let attributes = json!({"essaim_user_id": [nobody.to_string()], "essaim_version": ["1"]});
    let stray = realm.create(json!({"username": "stray", "enabled": true, "attributes": attributes})).await;

    let reported = desk.reconciled(false).await;
    assert_eq!((reported.checked, reported.surveyed, reported.drifted), (1, Some(2), 1), "{reported:?}");
    let [drift] = &reported.drifts[..] else { panic!("{reported:?}") };
    assert_eq!((&drift.subject, &drift.outside_id), (&nobody.to_string(), &Some(stray)));
    assert_eq!((&*drift.differs, drift.repaired), (&["unknown".to_owned()][..], false));
    assert_eq!(realm.count().await, 3, "it was only reported");

    assert!(desk.reconciled(true).await.drifts[0].repaired);
    assert_eq!(realm.account("stray").await, None);
    assert!(realm.account("somebody-elses").await.is_some() && realm.account("ada").await.is_some());
    assert_eq!(desk.reconciled(true).await.drifts, []);
}

async fn what_the_realm_does_not_take_is_a_dead_letter_that_says_so_in_its_words_and_what_to_do(realm: &Realm) {
    let (desk, ada, bob) = (Desk::at(realm).await, Uuid::from_u128(1), Uuid::from_u128(2));
    let mut refused = register("ada");
    refused["Register"]["first_name"] = json!("Ada <3");
    let version = desk.tell(ada, refused).await;
    let mut long = register("bob");
    long["Register"]["email"] = json!(format!("b@{}.org", ["x".repeat(60), "y".repeat(60), "z".repeat(60)].join(".")));
    desk.brings(bob, long).await;

    let Progress::Failed(letter) = desk.settled(ada, version).await else { panic!("it is no dead letter") };

    let said = "invalid_user: Keycloak refuses it (firstName: error-person-name-invalid-character): change the user's \
        first_name, or what the realm takes (Realm settings > User profile), and retry";
    assert_eq!((letter.reason.as_str(), letter.permanent), (said, true));
    let recorded = serde_json::to_value(desk.recorded(ada).await).unwrap();
    assert_eq!(recorded, json!([{"IdentitySyncFailed": {"version": 1, "reason": said, "permanent": true}}]));
    let later = desk.tell(ada, json!({"Update": {"first_name": "Ada"}})).await;
    assert_eq!(desk.handle().retry(&ada.to_string()).await, Some(true));
    assert_eq!(desk.settled(ada, later).await, Progress::Synced(later));
}

/// How many users go through the storm; the long campaign takes 10,000.
fn crowd() -> u128 {
    std::env::var("TEST_SYNCHRONISED_USERS").map_or(400, |number| number.parse().expect("a number of users"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_provider_does_there_is_one_account_for_each_user_and_a_letter_for_each_hopeless_one() {
    const HOPELESS: u128 = 37;
    let users = crowd();
    let realm = Realm::double().await;
    for n in 0..HOPELESS {
        realm.create(json!({"username": format!("user{n}"), "enabled": true})).await;
    }
    let switch = |change: fn(&mut Faults)| {
        let mut faults = Faults { error_share: 0.3, lost_share: 0.1, token_seconds: 1, ..Faults::default() };
        change(&mut faults);
        realm.double.as_ref().unwrap().set_faults(faults).unwrap();
    };
    switch(|_| {});
    let pace = Pace {
        first_pause: Duration::from_millis(20),
        longest_pause: Duration::from_secs(1),
        max_attempts: 1_000,
        ..Pace::default()
    };
    let desk = Desk::paced(&realm, pace).await;

    let registering = futures::stream::iter(0..users).for_each_concurrent(64, |n| {
        let desk = &desk;
        async move {
            desk.tell(Uuid::from_u128(n + 1), register(&format!("user{n}"))).await;
        }
    });
    registering.await;
    eventually("some are there", || desk.handle().status().pending < users as usize * 9 / 10).await;
    switch(|faults| faults.outage = true);
    eventually("the outage is noticed", || desk.handle().status().unavailable_for.is_some()).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    switch(|_| {});
    let is_done = || desk.handle().status().pending == 0;
    eventually("all are settled", is_done).await;

    realm.double.as_ref().unwrap().set_faults(Faults::default()).unwrap();
    assert_eq!(desk.handle().status().dead_letters as u128, HOPELESS);
    assert_eq!(u128::from(realm.count().await), users, "those that are not ours, and one for each of the others");
    let names: BTreeSet<_> =
        desk.handle().dead_letters(None, 100).into_iter().map(|(_, letter)| letter.subject).collect();
    assert_eq!(names, (1..=HOPELESS).map(|n| Uuid::from_u128(n).to_string()).collect());
    for n in [HOPELESS, users - 1] {
        let account = realm.account(&format!("user{n}")).await.unwrap();
        assert_eq!(account["attributes"]["essaim_user_id"], json!([Uuid::from_u128(n + 1).to_string()]));
    }
}
