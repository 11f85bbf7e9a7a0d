//! This file drives `essaim load` as a process: short runs on SQLite and against real daemons, and what it refuses.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use essaim::loadtest::results::Results;
use support::daemon::Daemon;
use tempfile::TempDir;

/// `essaim load` in this folder, with none of our variables set.
fn load(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).arg("load").args(arguments).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    load(folder, arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The results of a run that printed them as JSON and ended with this code.
fn results(output: &Output, code: i32) -> Results {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}\n{}", text(&output.stdout));
    Results::from_json(&text(&output.stdout)).unwrap()
}

/// A short run with JSON and without a report.
fn brief(folder: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["--output", "json", "--warmup", "200ms"];
    if !arguments.contains(&"--duration") {
        all.extend(["--duration", "1s"]);
    }
    if !arguments.iter().any(|argument| argument.starts_with("--report")) {
        all.push("--no-report");
    }
    all.extend(arguments);
    run(folder, &all)
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn database_in(folder: &TempDir) -> String {
    format!("sqlite://{}", folder.path().join("load.db").display())
}

#[test]
fn a_bare_run_ends_with_a_verdict_a_table_and_a_whole_report_and_leaves_no_database() {
    let folder = folder();

    let output = run(folder.path(), &["--duration", "1s"]);

    let (shown, progress) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{progress}{shown}");
    assert!(shown.starts_with("payments: closed loop, 64 callers"), "{shown}");
    for wanted in ["authorize", "complete", "p99.9", "nothing lost, doubled or out of order", "verdict    passed"] {
        assert!(shown.contains(wanted), "{wanted} is missing: {shown}");
    }
    assert!(progress.contains(" of 1 s  "), "a line a second when piped: {progress}");
    let report = std::fs::read_to_string(folder.path().join("essaim-load.html")).unwrap();
    assert!(report.trim_end().ends_with("</html>"));
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["essaim-load.html"], "nothing else is left behind");
}

#[test]
fn the_results_as_json_tell_what_was_measured_and_what_was_verified() {
    let output = brief(folder().path(), &["--refusals", "30%"]);

    let results = results(&output, 0);
    let verification = results.verification.unwrap();
    assert_eq!((results.settings.workload.as_str(), results.settings.callers), ("payments", 64));
    assert!(results.totals.answered > 0 && results.totals.per_second > 0.0);
    assert!(
        results.totals.latency.p50_micros > 0 && results.totals.latency.p50_micros <= results.totals.latency.max_micros
    );
    assert_eq!(results.kinds.values().map(|kind| kind.answered).sum::<u64>(), results.totals.answered);
    assert_eq!(results.refusals.values().sum::<u64>(), results.kinds["refused"].answered);
    assert!(verification.commands >= results.totals.answered, "the warm-up is verified too");
    assert_eq!(verification.events, verification.acknowledged, "each success of a payment is one event");
    assert_eq!(verification.read_models, ["payment_summaries"]);
    assert!(results.intervals.iter().any(|interval| interval.group_mean.is_some() && interval.rss_bytes.is_some()));
    assert!(results.durability.iter().any(|setting| setting.name.contains("synchronous")), "{:?}", results.durability);
    let (from_answer, from_commit) = (results.visible.unwrap(), results.visible_from_commit.unwrap());
    assert!(from_answer.p99_micros > 0 && from_commit.p99_micros > 0);
}

#[test]
fn an_open_loop_keeps_its_rate_and_reads_include_what_was_written() {
    let output =
        brief(folder().path(), &["--workload", "mixed", "--rate", "200", "--arrivals", "poisson", "--duration", "2s"]);

    let results = results(&output, 0);
    // 400 arrivals of a Poisson process have a standard deviation of 20; what was due in the very last moments may not
    // have begun, and is told.
    let (answered, skipped) = (results.totals.answered, results.generator.unwrap().skipped);
    assert!((300..=500).contains(&(answered + skipped)), "{answered} and {skipped}");
    assert!(answered > skipped, "{answered} and {skipped}");
    assert!(results.kinds["read"].answered > 50);
    assert!(results.verification.unwrap().reads >= results.kinds["read"].answered);
}

#[test]
fn a_generator_that_cannot_keep_its_schedule_says_so() {
    let output = brief(folder().path(), &["--rate", "100000", "--callers", "2"]);

    let results = results(&output, 0);
    let generator = results.generator.unwrap();
    assert!(generator.fell_behind && generator.skipped > 1_000, "{generator:?}");
    assert!(results.totals.latency.max_micros > 200_000, "latencies count from the moments that were meant");
}

#[test]
fn every_workload_of_meters_runs_and_is_verified() {
    for (workload, more) in [
        ("spread", ["--aggregates", "50"]),
        ("hot", ["--callers", "16"]),
        ("hot", ["--skew", "1.1"]),
        ("long-streams", ["--events", "1500"]),
        ("rebuild", ["--events", "3000"]),
    ] {
        let output = brief(folder().path(), &["--workload", workload, more[0], more[1]]);

        let results = results(&output, 0);
        assert!(results.totals.answered > 0, "{workload}");
        let verification = results.verification.unwrap();
        assert!(verification.events > 0 && verification.read_models == ["load_meter_totals"], "{workload}");
    }
}

#[test]
fn cold_payments_are_loaded_refuse_durably_and_leave_no_event() {
    let output = brief(folder().path(), &["--workload", "cold", "--aggregates", "3000"]);

    let results = results(&output, 0);
    assert_eq!(results.refusals["not_authorized"], results.totals.answered);
    assert_eq!(results.verification.unwrap().events, 3_000);
}

#[test]
fn the_peak_is_the_highest_rate_that_was_borne() {
    let output =
        brief(folder().path(), &["--find-peak", "2s", "--rate", "500", "--duration", "300ms", "--callers", "4"]);

    let results = results(&output, 0);
    let peak = results.peak.unwrap();
    let held: Vec<f64> = peak.steps.iter().filter(|step| step.held).map(|step| step.rate_per_second).collect();
    assert!(!held.is_empty() && peak.steps.len() > held.len(), "{peak:?}");
    assert_eq!(peak.peak_per_second, held.iter().copied().reduce(f64::max));
}

#[test]
fn a_database_that_is_not_empty_is_refused_unless_that_is_allowed() {
    let folder = folder();
    let database = database_in(&folder);
    let first = brief(folder.path(), &["--database", &database]);
    results(&first, 0);

    let refused = brief(folder.path(), &["--database", &database]);
    let allowed = brief(folder.path(), &["--database", &database, "--allow-existing"]);

    let message = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{message}");
    assert!(message.contains("is not empty") && message.contains("--allow-existing"), "{message}");
    assert_eq!(text(&refused.stdout), "");
    assert!(results(&allowed, 0).verification.unwrap().passed());
}

#[test]
fn on_a_terminal_it_is_asked_whether_a_database_with_events_is_meant() {
    let folder = folder();
    let database = database_in(&folder);
    results(&brief(folder.path(), &["--database", &database, "--duration", "300ms"]), 0);
    let typed = |line: &str| {
        let again = ["--database", &database, "--duration", "300ms", "--warmup", "0s", "--no-report"];
        on_a_terminal(folder.path(), &again, line)
    };

    let (no_code, no) = typed("no\n");
    let (yes_code, yes) = typed("y\n");

    assert_eq!(no_code, Some(3), "{no}");
    assert!(no.contains("Put load on it? [y/N]") && no.contains("is not empty"), "{no}");
    assert_eq!(yes_code, Some(0), "{yes}");
    assert!(yes.contains("verdict    passed"), "{yes}");
}

/// `essaim load` on a terminal of its own, as `script` of util-linux gives it one, where this is typed; its exit code
/// and what was shown.
fn on_a_terminal(folder: &Path, arguments: &[&str], typed: &str) -> (Option<i32>, String) {
    let line: Vec<_> =
        [env!("CARGO_BIN_EXE_essaim"), "load"].iter().chain(arguments).map(|it| format!("'{it}'")).collect();
    let mut script = Command::new("script");
    script.current_dir(folder).env("TERM", "xterm").args([
        "--quiet",
        "--return",
        "--command",
        &line.join(" "),
        "/dev/null",
    ]);
    let mut child = started({
        script.stdin(Stdio::piped());
        script
    });
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stdout))
}

#[test]
fn a_run_whose_history_is_full_ends_there_and_verifies_all_that_was_answered() {
    let output = brief(folder().path(), &["--workload", "hot", "--history-mb", "1", "--duration", "60s"]);

    let results = results(&output, 1);
    let verification = results.verification.unwrap();
    assert!(results.duration_seconds < 59.0, "{}", results.duration_seconds);
    assert!(
        results.verdict.reasons[0].starts_with("the history of all answers reached its 1 MB"),
        "{:?}",
        results.verdict
    );
    // 92 bytes each, and 200 for the one stream in the history of each of the 64 callers.
    let room = (1_000_000 - 64 * 200) / 92;
    assert!(verification.passed() && verification.commands >= room, "{verification:?}");
}

#[test]
fn what_is_required_decides_over_the_exit_code() {
    let held = brief(folder().path(), &["--require", "p99<60s", "--require", "errors=0"]);
    let broken = brief(folder().path(), &["--require", "p99<1us", "--require", "errors=0"]);

    assert!(results(&held, 0).thresholds.iter().all(|threshold| threshold.held));
    let results = results(&broken, 1);
    let thresholds: Vec<_> = results.thresholds.iter().map(|one| (one.expression.as_str(), one.held)).collect();
    assert_eq!(thresholds, [("p99<1us", false), ("errors=0", true)]);
    assert!(text(&broken.stderr).contains("required p99<1us"), "{}", text(&broken.stderr));
}

#[test]
fn results_are_compared_with_those_of_an_earlier_run() {
    let folder = folder();
    let earlier = brief(folder.path(), &[]);
    std::fs::write(folder.path().join("before.json"), &earlier.stdout).unwrap();

    let output = run(folder.path(), &["--duration", "1s", "--baseline", "before.json", "--hdr-log", "latencies.hlog"]);

    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("baseline   rate "), "{}", text(&output.stdout));
    let log = std::fs::read_to_string(folder.path().join("latencies.hlog")).unwrap();
    assert!(log.starts_with("#[Latencies of essaim load") && log.lines().any(|line| line.contains(",HISTF")), "{log}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_message_that_says_why() {
    let folder = folder();
    let nobody = "http://127.0.0.1:1";
    std::fs::write(folder.path().join("idle.json"), r#"{"essaim_load_format": 1}"#).unwrap();
    std::fs::write(folder.path().join("half.json"), r#"{"essaim_load_format": 1, "totals": {"answ"#).unwrap();
    assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
    std::os::unix::fs::symlink("nothing", folder.path().join("dangling")).unwrap();
    let table: [(&[&str], i32, &str); 47] = [
        (&["--workload", "nonsense"], 2, "invalid value 'nonsense'"),
        (&["--rate", "0"], 2, "a rate of zero sends nothing"),
        (&["--rate", "fast"], 2, "is no rate"),
        (&["--rate", "-5"], 2, "is no rate"),
        (&["--rate", "NaN"], 2, "is no rate"),
        (&["--find-peak", "--kill-every", "1s"], 2, "no rate holds its limit over a restart"),
        (&["--kill-every", "10s", "--duration", "2s"], 2, "10s is no shorter than the 2s that are measured"),
        (&["--kill-every", "10s"], 2, "give a longer --duration"),
        (&["--history-mb", "0"], 2, "0 is not in 1..=1000000"),
        (&["--duration", "0s"], 2, "must be longer than zero"),
        (&["--duration", "soon"], 2, "try 10s, 500ms or 2m"),
        (&["--callers", "0"], 2, "0 is not in 1..=100000"),
        (&["--refusals", "150%"], 2, "is no share"),
        (&["--arrivals", "poisson"], 2, "add --rate"),
        (&["--require", "p99"], 2, "compares nothing"),
        (&["--require", "p98<1ms"], 2, "known are mean, p50"),
        (&["--require", "visible_p99<1s", "--url", nobody], 2, "measured by runs in this process"),
        (&["--require", "commit_visible_p99<1s", "--kill-every", "1s"], 2, "over HTTP it is not seen"),
        (&["--require", "visible_p50<1s", "--workload", "cold"], 2, "cold writes nothing"),
        (&["--url", "ftp://somewhere"], 2, "http://HOST:PORT"),
        (&["--url", nobody], 1, "no answer from http://127.0.0.1:1: Connection refused"),
        (&["--url", nobody, "--workload", "hot"], 2, "over HTTP there are payments, mixed, cold"),
        (&["--url", nobody, "--database", "sqlite://a.db"], 2, "leave --database out"),
        (&["--database", "mysql://host/a"], 2, "sqlite:// or postgres://"),
        (&["--database", "mysql://host/a", "--kill-every", "1s"], 2, "sqlite:// or postgres://"),
        (&["--database", "postgres://host:port/a"], 2, "the Postgres address cannot be understood"),
        (&["--token-file", "token"], 2, "--token-file does nothing for an engine in this process"),
        (&["--database", "a.db"], 2, "the address of a database must begin with sqlite:// or postgres://"),
        (&["--url", "127.0.0.1:7700"], 2, "is not of the form http://HOST:PORT"),
        (&["--report", "no/such/folder.html"], 2, "there is no such folder"),
        (&["--report", "."], 2, "it is a folder"),
        (&["--report", "pipe"], 2, "pipe cannot be written: it is no regular file"),
        (&["--hdr-log", "pipe"], 2, "pipe cannot be written: it is no regular file"),
        (&["--report", "dangling"], 2, "it is a symbolic link to nothing"),
        (&["--report", "-"], 2, "--output json writes to stdout"),
        (&["--report", "x", "--hdr-log", "./x"], 2, "--report and --hdr-log are the same file"),
        (&["--report", "idle.json", "--baseline", "idle.json"], 2, "--report and --baseline are the same file"),
        (&["--report", "/proc/report.html"], 2, "/proc/report.html cannot be written"),
        (&["--skew", "1.1"], 2, "--skew does nothing in the workload payments; it is for hot"),
        (&["--reads", "90%", "--workload", "cold"], 2, "it is for mixed"),
        (&["--events", "9", "--workload", "spread"], 2, "it is for long-streams, rebuild"),
        (&["--refusals", "1%", "--workload", "hot"], 2, "it is for payments, mixed"),
        (&["--aggregates", "9", "--workload", "hot"], 2, "--aggregates needs --skew"),
        (&["--embedded", "--kill-every", "1s"], 2, "cannot be used with"),
        (&["--baseline", "missing.json"], 2, "missing.json cannot be read"),
        (&["--baseline", "half.json"], 2, "half.json: this is no result of"),
        (&["--baseline", "idle.json"], 2, "idle.json: nothing was answered in that run"),
    ];
    for (arguments, code, wanted) in table {
        let output = run(folder.path(), arguments);

        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.contains(wanted), "{arguments:?}: {message}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        4,
        "nothing is there but the baselines, the pipe and the link"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_a_daemon_holds_is_refused_with_what_helps_here() {
    let (folder, data) = (folder(), folder());
    let database = database_in(&data);
    let _daemon = Daemon::start(&database).await;

    let output = run(folder.path(), &["--database", &database]);

    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("held by another writer") && message.contains("load it with --url"), "{message}");
    assert!(!message.contains("--take-over"), "{message}");
}

#[test]
fn a_configuration_of_a_daemon_in_the_same_folder_does_not_name_the_database() {
    let folder = folder();
    std::fs::write(folder.path().join("essaim.toml"), "database = \"sqlite://production.db\"\n").unwrap();

    let output = load(folder.path(), &["--duration", "300ms", "--warmup", "0s", "--no-report"])
        .env("ESSAIM_DATABASE", "sqlite://production.db")
        .output()
        .unwrap();

    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(!folder.path().join("production.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_daemon_is_loaded_over_http_and_verified_through_its_own_interface() {
    let (folder, data) = (folder(), folder());
    let daemon = Daemon::start(&database_in(&data)).await;
    let address = daemon.address();
    let (first, again) = tokio::task::spawn_blocking(move || {
        let arguments = ["--url", address.as_str(), "--workload", "mixed", "--callers", "16"];
        let first = brief(folder.path(), &arguments);
        (first, brief(folder.path(), &[&arguments[..], &["--allow-existing"]].concat()))
    })
    .await
    .unwrap();

    for output in [first, again] {
        let results = results(&output, 0);
        let verification = results.verification.unwrap();
        assert!(results.kinds["read"].answered > 0 && results.kinds["create"].answered > 0);
        assert!(verification.passed() && verification.reads > 0 && verification.events > 0);
        let all = ["payment_summaries", "user_profiles", "user_list", "user_analytics"];
        assert_eq!(verification.read_models, all, "whatever the daemon keeps is built anew and compared");
        assert!(results.intervals.iter().any(|interval| interval.rss_bytes.is_some()), "read off /metrics");
        assert_eq!(results.versions.server.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert!(results.versions.store.starts_with("SQLite 3."), "{:?}", results.versions);
        assert!(results.settings.database.starts_with("sqlite://"), "{:?}", results.settings);
        let named = |name: &str| results.durability.iter().any(|setting| setting.name == name);
        assert!(named("journal_mode") && named("synchronous"), "{:?}", results.durability);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_half_way_ends_the_run_with_a_report_of_what_there_is() {
    let (folder, data) = (folder(), folder());
    let daemon = Daemon::start(&database_in(&data)).await;
    let arguments = ["--url", &daemon.address(), "--duration", "60s", "--callers", "8", "--report", "r.html"];
    let mut child = started(load(folder.path(), &arguments));

    first_progress(&mut child);
    drop(daemon);
    let output = ended(child).await;

    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    assert!(shown.contains("the target went away after") && shown.contains("verdict    FAILED"), "{shown}");
    assert!(std::fs::read_to_string(folder.path().join("r.html")).unwrap().trim_end().ends_with("</html>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_just_before_the_end_fails_the_run_also_when_nothing_is_verified() {
    let (folder, data) = (folder(), folder());
    let daemon = Daemon::start(&database_in(&data)).await;
    let mut child = started(load(
        folder.path(),
        &["--url", &daemon.address(), "--duration", "3s", "--callers", "8", "--verify=false", "--no-report"],
    ));

    first_progress(&mut child);
    drop(daemon);
    let output = ended(child).await;

    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{shown}");
    for wanted in ["the target had stopped answering: its last answer came at ", "8 operations were given up"] {
        assert!(shown.contains(wanted), "{wanted} is missing: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_dies_while_it_is_filled_ends_the_run_before_anything_is_measured() {
    let (folder, data) = (folder(), folder());
    let daemon = Daemon::start(&database_in(&data)).await;
    let cold = ["--url", &daemon.address(), "--workload", "cold", "--aggregates", "1000000"];
    let mut child = started(load(folder.path(), &cold));
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert_eq!(said, "filling\n");

    drop(daemon);
    let output = ended(child).await;

    stderr.read_to_string(&mut said).unwrap();
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{said}");
    assert!(said.contains("the target went away while filling; nothing was measured"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "no report of a run that never was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_run_finishes_with_what_it_has() {
    let folder = folder();
    let mut child = started(load(folder.path(), &["--duration", "60s", "--output", "json"]));

    first_progress(&mut child);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let output = ended(child).await;

    let results = results(&output, 1);
    assert!(results.settings.interrupted && results.totals.answered > 0);
    assert!(results.verification.unwrap().passed(), "what was answered until then is verified");
    assert!(results.verdict.reasons[0].starts_with("interrupted after"), "{:?}", results.verdict);
    assert!(std::fs::read_to_string(folder.path().join("essaim-load.html")).unwrap().trim_end().ends_with("</html>"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_is_closed_leaves_neither_a_daemon_nor_a_folder_behind() {
    let (folder, temporary) = (folder(), folder());
    let mut command =
        load(folder.path(), &["--kill-every", "2s", "--duration", "60s", "--callers", "4", "--no-report"]);
    command.env("TMPDIR", temporary.path());
    let mut child = started(command);

    first_progress(&mut child);
    let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let output = ended(child).await;

    assert!(text(&output.stdout).contains("interrupted after"), "{}", text(&output.stdout));
    assert_eq!(std::fs::read_dir(temporary.path()).unwrap().count(), 0);
    let listening = Command::new("pgrep").args(["-f", &temporary.path().display().to_string()]).output().unwrap();
    assert_eq!(text(&listening.stdout), "", "a daemon on that folder's database is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_to_outlive_its_terminal_does() {
    let folder = folder();
    let whole = load(folder.path(), &["--duration", "2s", "--callers", "4", "--no-report"]);
    let mut command = Command::new("nohup");
    command.arg(whole.get_program()).args(whole.get_args()).current_dir(folder.path()).stdin(Stdio::null());
    let mut child = started(command);

    first_progress(&mut child);
    let sent = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let output = ended(child).await;

    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
}

#[test]
fn a_daemon_that_is_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let folder = folder();

    let output = brief(folder.path(), &["--kill-every", "700ms", "--duration", "4s", "--callers", "16"]);

    let results = results(&output, 0);
    assert!(results.restarts.len() >= 2, "{:?}", results.restarts);
    assert!(results.restarts.iter().any(|restart| restart.down_seconds.is_some()));
    let verification = results.verification.unwrap();
    assert!(verification.passed() && verification.acknowledged > 0);
    assert_eq!(results.settings.target, "daemon of its own");
}

#[test]
fn a_daemon_of_its_own_that_does_not_start_says_why() {
    let folder = folder();
    std::fs::write(folder.path().join("no.db"), "this is no database, and long enough to be seen as such").unwrap();

    let output = run(folder.path(), &["--kill-every", "1s", "--database", "sqlite://no.db"]);

    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{message}");
    assert!(message.contains("the daemon did not start") && message.contains("no.db"), "{message}");
}

fn started(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Returns when the first interval was told.
fn first_progress(child: &mut Child) {
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(" of ") {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before its first interval");
    }
    // It must not stop because nobody reads on.
    std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
}

async fn ended(child: Child) -> Output {
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    tokio::time::timeout(Duration::from_secs(60), output).await.expect("it ends").unwrap()
}
