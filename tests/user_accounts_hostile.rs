//! The daemon before servers that are no Keycloak, that are broken, or that mean harm: it says what is wrong and how to
//! mend it, leaves them alone but for a probe, serves everybody else, and shows no secret, however much it logs.

#[path = "support/mailbox.rs"]
mod mailbox;
#[path = "support/realm.rs"]
mod realm;
#[path = "support/scripted.rs"]
mod scripted;
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use realm::{CLIENT, Realm};
use reqwest::Method;
use scripted::{Asked, Done, Scripted, answer, json as json_answer, self_signed, token};
use serde_json::{Value, json};
use support::daemon::Daemon;
use support::eventually;
use tempfile::TempDir;
use uuid::Uuid;

/// With signs that forms and JSON write in another way.
const SECRET: &str = "s3cret/of+ours &\"more\"";
/// The same as it goes into a form, by hand (WHATWG URL, application/x-www-form-urlencoded).
const SECRET_IN_A_FORM: &str = "s3cret%2Fof%2Bours+%26%22more%22";
/// What `scripted::token` grants.
const TOKEN: &str = "token-1f7c9e";
/// As many as open the breaker, and some that come behind.
const USERS: u128 = 14;

/// A daemon that logs everything that there is to log, and its database.
struct Desk {
    daemon: Daemon,
    log: PathBuf,
    http: reqwest::Client,
    folder: TempDir,
}

impl Desk {
    async fn at(url: &str, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        Self::on(folder, &secret, url, more).await
    }

    async fn on(folder: TempDir, secret: &Path, url: &str, more: &[&str]) -> Self {
        let (database, log) = (folder.path().join("log.db"), folder.path().join("log.txt"));
        let flags = [
            ["--log-level", "trace"],
            ["--keycloak-url", url],
            ["--keycloak-realm", "test"],
            ["--keycloak-client-id", CLIENT],
            ["--keycloak-client-secret-file", secret.to_str().unwrap()],
            ["--keycloak-poll-every-ms", "100"],
        ];
        let database = format!("sqlite://{}", database.display());
        let daemon = Daemon::start_logged(&database, &[&flags.concat(), more].concat(), Some(log.clone())).await;
        Self { daemon, log, http: reqwest::Client::new(), folder }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}{path}", self.daemon.address());
        let answer = self.http.request(method, url).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, shown) = self.send(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {shown}");
        shown
    }

    async fn register(&self, n: u128) {
        let body = json!({"id": Uuid::from_u128(n), "username": format!("user{n}"), "first_name": "Ada",
            "email": format!("user{n}@example.org"), "last_name": "Byron", "organization_id": Uuid::from_u128(42)});
        let (status, answer) = self.send(Method::POST, "/v1/users", body).await;
        assert_eq!(status, 201, "{answer}");
    }

    async fn register_all(&self) {
        for n in 1..=USERS {
            self.register(n).await;
        }
    }

    async fn synchroniser(&self) -> Value {
        self.get("/v1/admin/synchronisers/user_accounts").await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Everybody else is served as ever, and nothing of ours is taken for at fault.
    async fn is_well(&self) {
        assert_eq!(self.get("/readyz").await["status"], "ok");
        let payment = json!({"amount": "12.50", "currency": "EUR"});
        let (status, created) = self.send(Method::POST, "/v1/payments", payment).await;
        assert_eq!(status, 201, "{created}");
        assert_eq!(self.get("/v1/users?limit=200&page=1").await["total"], json!(USERS));
        assert_eq!(self.get("/v1/users/00000000-0000-0000-0000-000000000001").await["sync"], "pending");
        let status = self.synchroniser().await;
        assert_eq!((&status["pending"], &status["dead_letters"]), (&json!(USERS), &json!(0)), "{status}");
        assert!(self.peak_mebibytes() < 200, "{} MiB", self.peak_mebibytes());
    }

    /// The most memory that the daemon ever took.
    fn peak_mebibytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.daemon.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
    }

    /// Ends it as an operator does; what it logged, without a secret in it.
    async fn ended(self) -> String {
        self.daemon.signal("TERM");
        assert_eq!(self.daemon.ended().await.code(), Some(0));
        let log = std::fs::read_to_string(&self.log).unwrap();
        assert!(log.contains(" TRACE "), "all there is to log is logged");
        shows_no_secret(&log);
        assert!(!log.contains("a defect"), "nothing panicked");
        log
    }
}

#[track_caller]
fn shows_no_secret(text: &str) {
    for secret in [SECRET, SECRET_IN_A_FORM, TOKEN] {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}

/// Everything is answered so.
async fn says(done: Done) -> Scripted {
    Scripted::start(move |_| done.clone()).await
}

/// A token is granted, and everything else answered so.
async fn says_to_tokens(done: Done) -> Scripted {
    Scripted::start(move |asked| if asked.is_for_token() { token() } else { done.clone() }).await
}

/// All that was sent, repeated.
fn echo(status: &str, asked: &Asked) -> Done {
    // What is quoted of it is its beginning, and in the body of a request for a token is the secret.
    let (head, body) = asked.text.split_once("\r\n\r\n").unwrap();
    let authorization = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization"));
    let sent = format!("{} {body} {head}", authorization.unwrap_or_default());
    json_answer(status, &json!({"error": "bad", "error_description": sent}).to_string())
}

/// The daemon at this server: the breaker opens, what is wrong stands in the log, and one probe a second is all that
/// the server sees of it.
async fn is_left_alone(server: &Scripted, more: &[&str], says: &[&str]) {
    let desk = Desk::at(&server.url, more).await;
    desk.register_all().await;
    eventually("the breaker opens", || async {
        let status = desk.synchroniser().await;
        status["unavailable_for_seconds"].is_u64() && status["calls_in_flight"] == 0
    })
    .await;
    eventually("the check of the start has ended", || async { desk.log().contains("not set up as needed") }).await;

    // At most one request of each probe goes to the same path.
    let probes = || busiest(&server.asked());
    let (before, since) = (probes(), Instant::now());
    eventually("it is probed", || async { probes() >= before + 3 }).await;
    assert!(since.elapsed() > Duration::from_millis(1_900), "three probes {:?} after one another", since.elapsed());

    desk.is_well().await;
    let log = desk.ended().await;
    let told = log.lines().find(|line| line.contains("taken for unavailable")).expect("the log tells of the breaker");
    for part in says {
        assert!(told.contains(part), "{part:?} in {told}");
    }
}

/// How often the path was asked for that was asked for most.
fn busiest(asked: &[Asked]) -> usize {
    let path = |asked: &Asked| asked.path.split('?').next().unwrap_or_default().to_owned();
    asked.iter().map(|one| asked.iter().filter(|other| path(one) == path(other)).count()).max().unwrap_or(0)
}

const CORRECT: &str = "correct the address";

#[tokio::test]
async fn an_address_that_is_no_keycloak_is_named_and_left_alone() {
    let page = answer("200 OK", "content-type: text/html\r\n", "<html>Welcome to our intranet</html>");
    is_left_alone(&says(page.clone()).await, &[], &["not as the token endpoint of a Keycloak", CORRECT]).await;
    is_left_alone(&says_to_tokens(page).await, &[], &[CORRECT]).await;
}

#[tokio::test]
async fn broken_json_is_a_fault_of_the_set_up_and_of_no_user() {
    let broken = json_answer("200 OK", r#"[{"id": "#);
    is_left_alone(&says(broken.clone()).await, &[], &["not as the token endpoint of a Keycloak", CORRECT]).await;
    is_left_alone(&says_to_tokens(broken).await, &[], &[CORRECT]).await;
}

#[tokio::test]
async fn a_gigabyte_is_not_read() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1073741824\r\n\r\n[";
    let gigabyte = Done::SayForEver(head.into());
    is_left_alone(&says(gigabyte.clone()).await, &[], &["more than 1 MiB", CORRECT]).await;
    is_left_alone(&says_to_tokens(gigabyte).await, &[], &["more than 1 MiB", CORRECT]).await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_what_it_repeats_is_not_shown() {
    let elsewhere = says(token()).await;
    let redirect = |query: &str| answer("302 Found", &format!("location: {}/?{query}\r\n", elsewhere.url), "");
    let named = format!("to {}/?t=[token]", elsewhere.url);

    let with_token = says_to_tokens(redirect(&format!("t={TOKEN}"))).await;
    is_left_alone(&with_token, &[], &[&named, "redirects are not followed"]).await;
    let with_secret = says(redirect(&format!("s={SECRET_IN_A_FORM}"))).await;
    is_left_alone(&with_secret, &[], &["[a text that repeats the secret]", "redirects are not followed"]).await;

    assert_eq!(elsewhere.count(|_| true), 0, "nobody else sees the secret");
}

#[tokio::test]
async fn a_server_that_repeats_what_we_sent_gets_no_secret_into_the_log() {
    let echoing = Scripted::start(|asked| echo("401 Unauthorized", asked)).await;
    is_left_alone(&echoing, &[], &["gets no token", "correct its id or secret"]).await;
    let echoing =
        Scripted::start(|asked| if asked.is_for_token() { token() } else { echo("403 Forbidden", asked) }).await;
    is_left_alone(&echoing, &[], &["is forbidden", "manage-users"]).await;
}

#[tokio::test]
async fn a_server_that_hangs_up_or_speaks_another_language_is_unavailable() {
    is_left_alone(&says(Done::Close).await, &[], &["asking for a token"]).await;
    is_left_alone(&says_to_tokens(Done::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())).await, &[], &["error sending"]).await;
}

#[tokio::test]
async fn a_certificate_that_nobody_knows_is_refused_and_taken_once_it_is_named() {
    let (tls, certificate) = self_signed();
    let no_users = |asked: &Asked| if asked.is_for_token() { token() } else { json_answer("200 OK", "{") };
    let server = Scripted::start_tls(tls, no_users).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authority.pem");
    std::fs::write(&file, certificate).unwrap();

    let desk = Desk::at(&server.url, &[]).await;
    desk.register_all().await;
    eventually("the breaker opens", || async { desk.synchroniser().await["unavailable_for_seconds"].is_u64() }).await;
    desk.is_well().await;
    let log = desk.ended().await;
    let told = log.lines().find(|line| line.contains("taken for unavailable")).expect("the log tells of the breaker");
    assert!(told.contains("no TLS with it") && told.contains("name the authority"), "{told}");
    assert_eq!(server.count(|_| true), 0, "nothing was sent to a stranger");

    is_left_alone(&server, &["--keycloak-certificates-file", file.to_str().unwrap()], &[CORRECT]).await;
}

#[tokio::test]
async fn a_wrong_secret_is_named_and_with_the_right_one_all_users_are_brought() {
    let realm = Realm::double().await;
    let desk = Desk::at(&realm.url, &[]).await;
    desk.register_all().await;
    eventually("the breaker opens", || async { desk.synchroniser().await["unavailable_for_seconds"].is_u64() }).await;
    desk.is_well().await;
    let checks = desk.get("/readyz").await.to_string();
    assert!(checks.contains("unavailable for"), "{checks}");
    let Desk { daemon, log, folder, .. } = desk;
    daemon.signal("TERM");
    assert_eq!(daemon.ended().await.code(), Some(0));
    let told = std::fs::read_to_string(&log).unwrap();
    shows_no_secret(&told);
    assert!(told.contains("gets no token") && told.contains("correct its id or secret"));

    let right = folder.path().join("right");
    std::fs::write(&right, realm::SECRET).unwrap();
    let desk = Desk::on(folder, &right, &realm.url, &[]).await;
    eventually("all are brought", || async { desk.synchroniser().await["pending"] == 0 }).await;
    assert_eq!(realm.count().await, USERS as u64);
    assert!(!desk.ended().await.contains(realm::SECRET));
}

#[tokio::test]
async fn http_beyond_the_loopback_is_taken_only_when_it_is_allowed() {
    let realm = Realm::double().await;
    // Every address of this machine: for whoever reads the configuration it is not the loopback.
    let url = realm.url.replace("127.0.0.1", "0.0.0.0");
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, realm::SECRET).unwrap();

    let database = format!("sqlite://{}", folder.path().join("log.db").display());
    let mut daemon = std::process::Command::new(env!("CARGO_BIN_EXE_essaim"));
    daemon.args(["--listen", "127.0.0.1:0", "--database", &database, "--keycloak-url", &url]);
    let refused = daemon.args(["--keycloak-client-secret-file", secret.to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("use https, or allow it") && !told.contains(realm::SECRET), "{told}");

    let desk = Desk::on(folder, &secret, &url, &["--keycloak-allow-http"]).await;
    desk.register_all().await;
    eventually("all are brought", || async { desk.synchroniser().await["pending"] == 0 }).await;
    assert_eq!(realm.count().await, USERS as u64);
    assert!(!desk.ended().await.contains(realm::SECRET));
}

/// Whoever means harm may answer as Keycloak does, and put what it was sent into it.
#[tokio::test]
async fn a_refusal_that_repeats_what_we_sent_is_a_dead_letter_without_our_secrets() {
    let server = Scripted::start(|asked| match asked.method.as_str() {
        _ if asked.is_for_token() => token(),
        "GET" if asked.path.ends_with("/profile") => {
            json_answer("200 OK", r#"{"unmanagedAttributePolicy": "ADMIN_EDIT"}"#)
        }
        "GET" => json_answer("200 OK", "[]"),
        _ => {
            let head = format!("{TOKEN} {}", asked.text.split("\r\n\r\n").next().unwrap());
            json_answer("400 Bad Request", &json!({"field": "email", "errorMessage": head}).to_string())
        }
    })
    .await;
    let desk = Desk::at(&server.url, &[]).await;
    desk.register(1).await;

    eventually("it is a dead letter", || async { desk.synchroniser().await["dead_letters"] == 1 }).await;
    let letters = desk.get("/v1/admin/dead-letters").await;
    let reason = letters["items"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("invalid_user") && reason.contains("change the user's email"), "{reason}");
    assert!(reason.contains("[token]"), "{reason}");
    let events = desk.get("/v1/events?category=identity").await;
    assert_eq!(events["items"][0]["type"], "IdentitySyncFailed");
    shows_no_secret(&format!("{letters} {events} {}", desk.get("/v1/users").await));
    desk.ended().await;
}
