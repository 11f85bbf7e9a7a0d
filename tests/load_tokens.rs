//! `essaim load` against daemons that ask for bearer tokens: those that are taken, and those that are not.

#[path = "support/issuer.rs"]
mod issuer;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use essaim::clock::{Clock, SystemClock};
use essaim::loadtest::results::Results;
use issuer::{AUDIENCE, Issuer, Key};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use support::daemon::Daemon;
use tempfile::TempDir;

/// What a run needs.
const ROLES: [&str; 3] = ["payments:write", "payments:read", "operator"];

/// A daemon that takes tokens of its issuer, to the second, and those tokens.
struct Guarded {
    daemon: Daemon,
    issuer: Issuer,
    key: Key,
    folder: TempDir,
}

impl Guarded {
    async fn start() -> Self {
        let key = Key::new("e", Algorithm::ES256);
        let issuer = Issuer::start(&[&key]).await;
        let folder = tempfile::tempdir().unwrap();
        let database = format!("sqlite://{}", folder.path().join("essaim.db").display());
        let daemon = Daemon::start_with(&database, &flags(&issuer)).await;
        Self { daemon, issuer, key, folder }
    }

    /// A file with a token of these roles that ends so many seconds from now.
    fn token(&self, name: &str, roles: &[&str], seconds: i64) -> PathBuf {
        let mut claims = self.issuer.claims(roles);
        claims["exp"] = json!(SystemClock.now().timestamp() + seconds);
        self.written(name, &claims)
    }

    fn written(&self, name: &str, claims: &Value) -> PathBuf {
        let file = self.folder.path().join(name);
        std::fs::write(&file, self.key.sign(claims)).unwrap();
        file
    }

    /// A run against it with this token.
    async fn load(&self, token: Option<&Path>, variable: Option<&Path>, more: &[&str]) -> Output {
        let mut all = vec!["--url".to_owned(), self.daemon.address()];
        all.extend(token.into_iter().flat_map(|file| ["--token-file".into(), file.display().to_string()]));
        all.extend(more.iter().map(|&one| one.to_owned()));
        run(self.folder.path(), all, variable).await
    }
}

fn flags(issuer: &Issuer) -> [&str; 6] {
    ["--auth-issuer", &issuer.address, "--auth-audience", AUDIENCE, "--auth-leeway-seconds", "0"]
}

/// A short run with JSON and without a report, unless `more` says otherwise.
async fn run(folder: &Path, more: Vec<String>, variable: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(["load", "--output", "json", "--warmup", "200ms", "--callers", "8"]);
    if !more.iter().any(|argument| argument == "--duration") {
        command.args(["--duration", "1s", "--no-report"]);
    }
    command.args(more).envs(variable.map(|file| ("ESSAIM_TOKEN_FILE", file))).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn results(output: &Output, code: i32) -> Results {
    assert_eq!(output.status.code(), Some(code), "{}\n{}", text(&output.stderr), text(&output.stdout));
    Results::from_json(&text(&output.stdout)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_asks_for_tokens_is_loaded_and_verified_with_one_from_a_file_or_the_variables() {
    let guarded = Guarded::start().await;
    let token = guarded.token("token", &ROLES, 300);

    let by_flag = guarded.load(Some(&token), None, &["--workload", "mixed"]).await;
    let by_variable = guarded.load(None, Some(&token), &["--allow-existing"]).await;

    for output in [&by_flag, &by_variable] {
        let results = results(output, 0);
        let verification = results.verification.unwrap();
        assert!(verification.passed() && verification.events > 0, "{verification:?}");
        assert_eq!(results.totals.errors.len(), 0);
        assert_eq!(verification.read_models.len(), 4, "the digests and rebuilds of an operator");
        assert!(results.versions.server.is_some(), "the status of an operator");
    }
    assert!(results(&by_flag, 0).kinds["read"].answered > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_asks_for_no_token_is_loaded_with_one_all_the_same() {
    let guarded = Guarded::start().await;
    let token = guarded.token("token", &[], 300);
    let database = format!("sqlite://{}", guarded.folder.path().join("open.db").display());
    let open = Daemon::start(&database).await;

    let url = ["--url".to_owned(), open.address()].to_vec();
    let output = run(guarded.folder.path(), url, Some(&token)).await;

    assert!(results(&output, 0).verification.unwrap().passed(), "who asks is the same one in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_of_its_own_that_asks_for_tokens_is_killed_and_verified_with_one() {
    let guarded = Guarded::start().await;
    let token = guarded.token("token", &ROLES, 300).display().to_string();
    let mut more = ["--kill-every", "700ms", "--duration", "2s", "--no-report", "--token-file", &token].to_vec();
    more.extend(flags(&guarded.issuer));

    let output = run(guarded.folder.path(), more.into_iter().map(Into::into).collect(), None).await;

    let results = results(&output, 0);
    assert!(!results.restarts.is_empty() && results.verification.unwrap().passed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_learns_before_the_load_what_it_takes() {
    let guarded = Guarded::start().await;
    let with = |role: &str| {
        let roles = ROLES.into_iter().filter(|&other| other != role).collect::<Vec<_>>();
        guarded.token(&format!("without {role}"), &roles, 300)
    };
    let no_subject = {
        let mut claims = guarded.issuer.claims(&ROLES);
        claims.as_object_mut().unwrap().remove("sub");
        guarded.written("nobody's", &claims)
    };
    let no_token = guarded.folder.path().join("none");
    std::fs::write(&no_token, "abc\n").unwrap();
    let roles = "the roles payments:write, payments:read and operator";
    let table = [
        (None, 1, vec!["answers 401", "--token-file FILE sends a token", roles]),
        (Some(guarded.token("stale", &ROLES, -60)), 1, vec!["the token has expired", "a newer or another token"]),
        (Some(with("payments:write")), 1, vec!["this needs the role payments:write", roles]),
        (Some(with("payments:read")), 1, vec!["this needs the role payments:read", roles]),
        (Some(with("operator")), 1, vec!["/v1/events", "this needs the role operator", roles]),
        (Some(no_subject), 2, vec!["does not say whose it is"]),
        (Some(no_token), 2, vec!["does not say whose it is"]),
        (Some(guarded.folder.path().join("nowhere")), 2, vec!["--token-file", "nowhere"]),
    ];

    for (token, code, wanted) in table {
        let output = guarded.load(token.as_deref(), None, &[]).await;

        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{token:?}: {message}");
        assert!(message.starts_with("error: ") && message.lines().count() == 1, "{token:?}: {message}");
        assert!(wanted.iter().all(|part| message.contains(part)), "{token:?}: {message}");
        assert_eq!(text(&output.stdout), "", "{token:?}");
    }
    let log = guarded.token("operator", &["operator"], 300);
    let mut http = reqwest::Client::new().get(format!("{}/v1/events", guarded.daemon.address()));
    http = http.bearer_auth(std::fs::read_to_string(log).unwrap());
    let log: Value = http.send().await.unwrap().json().await.unwrap();
    assert_eq!(log["items"], json!([]), "nothing was done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_ends_half_way_ends_the_run_with_a_report_of_what_there_is() {
    let guarded = Guarded::start().await;
    let token = guarded.token("short", &ROLES, 4);

    let output = guarded.load(Some(&token), None, &["--duration", "60s", "--report", "r.html"]).await;

    let results = results(&output, 1);
    assert!(results.duration_seconds < 30.0 && results.totals.answered > 0, "{}", results.duration_seconds);
    assert!(results.verdict.reasons[0].contains("the token has expired"), "{:?}", results.verdict);
    assert!(results.verification.unwrap().incomplete.is_some(), "nothing could be held against the log");
    let report = std::fs::read_to_string(guarded.folder.path().join("r.html")).unwrap();
    assert!(report.trim_end().ends_with("</html>"));
}
