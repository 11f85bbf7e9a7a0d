//! Ten thousand users through the worst of days at the provider: errors, lost answers, tokens that hardly live, an
//! outage. The daemon's own routes and a double that is a real server, on one thread and in virtual time, so that a
//! minute of outage takes no minute.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use essaim::daemon::auth::Authentication;
use essaim::daemon::{AppState, router};
use essaim::domain::identity::Identity;
use essaim::domain::payment::Payment;
use essaim::domain::user::User;
use essaim::engine::SynchroniserHandle;
use essaim::identity::double::{Double, DoubleOptions, Faults};
use essaim::identity::{IdentityProvider, MAX_PAGE};
use essaim::prelude::*;
use essaim::projections::payment_summaries::PaymentSummaries;
use essaim::projections::user_profiles::UserProfiles;
use essaim::synchroniser::Pace;
use essaim::synchronisers::user_accounts::UserAccounts;
use essaim::testing::{VirtualClock, whole_log};
use futures::StreamExt;
use realm::Realm;
use serde_json::{Value, json};
use tokio::time::Instant;
use tower::Service;
use uuid::Uuid;

const HOPELESS: usize = 37;
const OUTAGE: Duration = Duration::from_secs(60);
/// Payments that live while nobody answers at the provider.
const PAYMENTS: usize = 600;
/// How far time goes on when all wait for the network: what is on its way arrives long before a time-out strikes.
const BEAT: Duration = Duration::from_millis(1);

/// How many users there are.
fn crowd() -> usize {
    std::env::var("TEST_SYNCHRONISED_USERS").map_or(10_000, |number| number.parse().expect("a number of users"))
}

/// Why the provider will never take this user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hopeless {
    UsernameTaken,
    EmailTaken,
    NameRefused,
}

/// Which of `users` are hopeless: 37, evenly spread, so that some come before the outage and some in it.
fn hopeless(users: usize) -> BTreeMap<usize, Hopeless> {
    let kinds = [Hopeless::UsernameTaken, Hopeless::EmailTaken, Hopeless::NameRefused];
    (0..HOPELESS).map(|n| (n * (users / HOPELESS), kinds[n % kinds.len()])).collect()
}

/// The daemon's routes on an engine of their own, without a network between.
struct Desk {
    engine: Engine,
    routes: Router,
    hopeless: BTreeMap<usize, Hopeless>,
}

impl Desk {
    async fn at(realm: &Realm, users: usize) -> Self {
        let builder = Engine::builder(MemoryStore::new()).aggregate::<User>().aggregate::<Identity>();
        let builder = builder.aggregate::<Payment>().projection(PaymentSummaries).projection(UserProfiles);
        let builder = builder.clock(VirtualClock::starting_at(chrono::DateTime::UNIX_EPOCH, 7));
        let accounts = UserAccounts::at(Arc::new(realm.keycloak()));
        // At four failures out of ten some are unlucky again and again; their pauses need not grow to a minute.
        let pace = Pace { longest_pause: Duration::from_secs(5), max_attempts: 1_000, ..Pace::default() };
        let engine = builder.synchroniser_at(accounts, pace).start().await.unwrap();
        let (payment_expiry, read_wait) = (Duration::from_secs(86_400), Duration::from_secs(2));
        let state =
            AppState { engine: engine.clone(), payment_expiry, read_wait, authentication: Authentication::off() };
        Self { engine, routes: router(state), hopeless: hopeless(users) }
    }

    fn handle(&self) -> SynchroniserHandle {
        self.engine.synchroniser("user_accounts").unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let answer = self.routes.clone().call(request.body(Body::from(body.to_string())).unwrap()).await.unwrap();
        let status = answer.status();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn register(&self, n: usize) {
        let first_name = if self.hopeless.get(&n) == Some(&Hopeless::NameRefused) { "<Ada>" } else { "Ada" };
        let body = json!({"id": id(n), "username": username(n), "email": email(n), "first_name": first_name,
            "last_name": "Byron", "organization_id": Uuid::from_u128(42), "roles": ["writer"]});
        let (status, answer) = self.send(Method::POST, "/v1/users", body).await;
        assert_eq!(status, 201, "{answer}");
    }

    async fn register_all(&self, numbers: std::ops::Range<usize>) {
        futures::stream::iter(numbers).for_each_concurrent(64, |n| self.register(n)).await;
    }

    /// Gives the user another name and another address.
    async fn rename(&self, n: usize) {
        let body = json!({"username": renamed(n), "email": format!("{}@example.org", renamed(n))});
        let (status, answer) = self.send(Method::PATCH, &format!("/v1/users/{}", id(n)), body).await;
        assert_eq!((status.as_u16(), &answer["version"]), (200, &json!(2)), "{answer}");
    }

    /// A payment lives, and is read at once.
    async fn pay(&self) {
        let created = json!({"amount": "12.50", "currency": "EUR"});
        let (status, payment) = self.send(Method::POST, "/v1/payments", created).await;
        assert_eq!(status, 201, "{payment}");
        let path = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
        let authorized = json!({"authorization_code": "A-1"});
        for (verb, body) in [("authorize", authorized), ("complete", json!({}))] {
            let (status, answer) = self.send(Method::POST, &format!("{path}/{verb}"), body).await;
            assert_eq!(status, 200, "{answer}");
        }
        let (status, shown) = self.send(Method::GET, &path, Value::Null).await;
        assert_eq!((status.as_u16(), &shown["amount"]), (200, &json!("12.50")), "{shown}");
    }
}

fn id(n: usize) -> Uuid {
    Uuid::from_u128(n as u128 + 1)
}

fn username(n: usize) -> String {
    format!("user{n}")
}

fn renamed(n: usize) -> String {
    format!("renamed{n}")
}

fn email(n: usize) -> String {
    format!("user{n}@example.org")
}

async fn until(what: &str, reached: impl Fn() -> bool) {
    let waiting = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(3_600), waiting).await.is_err() {
        panic!("in vain waited for: {what}");
    }
}

/// Goes on with the time, and notes when a request came during an outage.
fn beat(double: Arc<Double>) -> Arc<Mutex<Vec<Instant>>> {
    let probes = Arc::<Mutex<Vec<Instant>>>::default();
    let noted = Arc::clone(&probes);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(BEAT).await;
            let mut noted = noted.lock().unwrap();
            for _ in noted.len() as u64..double.counters().probes {
                noted.push(Instant::now());
            }
        }
    });
    probes
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_users_through_errors_lost_answers_and_an_outage_are_one_account_each_or_a_dead_letter() {
    let users = crowd();
    let mut realm = Realm::double_with(DoubleOptions { seed: 5, ..DoubleOptions::default() }).await;
    let double = Arc::new(realm.double.take().unwrap());
    let probes = beat(Arc::clone(&double));
    let desk = Desk::at(&realm, users).await;
    let mut foreign = 0;
    for (n, kind) in &desk.hopeless {
        let account = match kind {
            Hopeless::UsernameTaken => json!({"username": username(*n), "enabled": true}),
            Hopeless::EmailTaken => json!({"username": format!("foreign{n}"), "email": email(*n), "enabled": true}),
            Hopeless::NameRefused => continue,
        };
        realm.create(account).await;
        foreign += 1;
    }
    let faults = |outage| Faults { error_share: 0.3, lost_share: 0.1, token_seconds: 1, outage, ..Faults::default() };
    double.set_faults(faults(false)).unwrap();

    // Half of them come while the provider only fails, and are on their way when it goes away.
    desk.register_all(0..users / 2).await;
    until("some are there", || desk.handle().status().pending < users * 2 / 5).await;
    double.set_faults(faults(true)).unwrap();
    let outage = Instant::now();
    until("it is noticed", || desk.handle().status().unavailable_for.is_some()).await;
    let opened = Instant::now();
    let accounts_at_first = double.counters().users;

    // The others come during the outage, and payments beside them; each is answered before it ends. Some of those who
    // were on their way are renamed: an account whose making nobody was told of has another name by now than its user.
    let renamed_ones: Vec<_> = (0..users / 2).filter(|n| n % 5 == 3 && !desk.hopeless.contains_key(n)).collect();
    for n in &renamed_ones {
        desk.rename(*n).await;
    }
    let bursts = 100;
    for burst in 0..bursts {
        let numbers = |burst: usize| users / 2 + burst * (users - users / 2) / bursts;
        desk.register_all(numbers(burst)..numbers(burst + 1)).await;
        for _ in 0..PAYMENTS / bursts {
            desk.pay().await;
        }
        tokio::time::sleep(OUTAGE / 2 / bursts as u32).await;
    }
    let answered = outage.elapsed();
    assert!(answered < OUTAGE, "{answered:?}");
    let (_, waiting) = desk.send(Method::GET, &format!("/v1/users/{}", id(users - 1)), Value::Null).await;
    assert_eq!(waiting["sync"], "pending", "{waiting}");
    tokio::time::sleep_until(outage + OUTAGE).await;
    assert_eq!(double.counters().users, accounts_at_first, "nothing happened there meanwhile");
    double.set_faults(faults(false)).unwrap();
    let ended = Instant::now();
    until("all are settled", || {
        let status = desk.handle().status();
        status.pending == 0 && status.subjects == users
    })
    .await;
    let (took, counters) = (ended.elapsed(), double.counters());
    double.set_faults(Faults::default()).unwrap();

    // One account for each user, under its name, and none for the hopeless.
    let mut owners = BTreeMap::new();
    let (keycloak, mut skip, mut others) = (realm.keycloak(), 0, 0);
    loop {
        let page = keycloak.list(skip, MAX_PAGE).await.unwrap();
        skip += page.len() as u32;
        for account in &page {
            match account.user_id {
                Some(owner) => assert_eq!(owners.insert(owner, account.username.clone()), None, "two for {owner}"),
                None => others += 1,
            }
        }
        if page.is_empty() {
            break;
        }
    }
    let name = |n| if renamed_ones.binary_search(&n).is_ok() { renamed(n) } else { username(n) };
    let expected: BTreeMap<_, _> =
        (0..users).filter(|n| !desk.hopeless.contains_key(n)).map(|n| (id(n), name(n))).collect();
    assert_eq!(expected.len(), users - HOPELESS);
    assert!(owners == expected, "{} accounts of ours", owners.len());
    assert_eq!(others, foreign);

    let letters = desk.handle().dead_letters(None, users);
    let subjects: BTreeSet<_> = letters.iter().map(|(_, letter)| letter.subject.clone()).collect();
    assert_eq!(subjects, desk.hopeless.keys().map(|n| id(*n).to_string()).collect());
    for (_, letter) in &letters {
        let n = letter.subject.parse::<Uuid>().unwrap().as_u128() as usize - 1;
        let code = match desk.hopeless[&n] {
            Hopeless::UsernameTaken => "username_taken",
            Hopeless::EmailTaken => "email_taken",
            Hopeless::NameRefused => "invalid_user",
        };
        assert!(letter.permanent && letter.reason.starts_with(code), "{letter:?}");
    }
    let log = whole_log(&**desk.engine.store()).await;
    let of_type = |wanted: &str| log.iter().filter(|event| event.event_type == wanted).count();
    assert_eq!((of_type("IdentityLinked"), of_type("IdentitySyncFailed")), (users - HOPELESS, HOPELESS));
    let mut synced = BTreeMap::<Uuid, Vec<u64>>::new();
    for event in log.iter().filter(|event| event.event_type == "IdentitySynced") {
        let version = serde_json::from_str::<Value>(&event.json).unwrap()["version"].as_u64().unwrap();
        synced.entry(event.stream.key().parse().unwrap()).or_default().push(version);
    }
    assert_eq!(synced.len(), users - HOPELESS);
    for (user, versions) in synced {
        let wanted = 1 + u64::from(renamed_ones.binary_search(&(user.as_u128() as usize - 1)).is_ok());
        assert!(versions.is_sorted_by(|one, next| one < next), "each once: {versions:?} of {user}");
        assert_eq!(versions.last(), Some(&wanted), "{user}");
    }
    assert_eq!(of_type("PaymentCompleted"), PAYMENTS);

    // Those that were under way when it went away, and from then on a probe a second.
    let probes = probes.lock().unwrap().clone();
    let settled = opened + Duration::from_millis(200);
    let (under_way, probes): (Vec<_>, Vec<_>) = probes.into_iter().partition(|at| *at < settled);
    assert!(under_way.len() <= 10 + 2 * Pace::default().parallel, "the breaker opened late: {}", under_way.len());
    assert!(probes.windows(2).all(|pair| pair[1] - pair[0] + 2 * BEAT >= Duration::from_secs(1)), "{probes:?}");
    assert!((50..=60).contains(&probes.len()), "{} probes", probes.len());
    println!(
        "{users} users ({} renamed): {} accounts, {} dead letters, {} requests of which {} failed and {} were lost, {} tokens, \
         {} + {} requests during the outage, all settled {took:?} behind it",
        renamed_ones.len(),
        owners.len(),
        letters.len(),
        counters.requests,
        counters.errors,
        counters.lost,
        counters.token_requests,
        under_way.len(),
        probes.len(),
    );
}
