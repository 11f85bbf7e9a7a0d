//! This file drives the real program where no daemon has to run: its messages, its exit codes, its configuration.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program in a folder of its own, with none of our variables set.
fn essaim(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_essaim"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ESSAIM_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).stdin(Stdio::null());
    command
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    essaim(folder, arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The message of a refusal: one on stderr, nothing on stdout, no backtrace.
fn refusal(output: &Output, code: i32) -> String {
    let message = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(!message.contains("panicked") && !message.contains("backtrace"), "{message}");
    assert_eq!(stdout(output), "");
    message
}

fn folder_with(file: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(file), text).unwrap();
    folder
}

#[test]
fn the_template_is_a_configuration_that_passes_the_check_and_changes_nothing() {
    let empty = tempfile::tempdir().unwrap();
    let template = stdout(&run(empty.path(), &["config", "template"]));
    let folder = folder_with("essaim.toml", &template);

    let check = run(folder.path(), &["config", "check"]);
    let (with, without) = (run(folder.path(), &["config", "show"]), run(empty.path(), &["config", "show"]));

    assert_eq!(check.status.code(), Some(0));
    assert_eq!(stdout(&with), stdout(&without));
    assert!(template.contains("#max_body_bytes = 262144"));
}

#[test]
fn show_prints_what_is_in_force_and_where_it_comes_from() {
    let folder = folder_with("essaim.toml", "max_loads = 5\nmax_commands = 6\n");
    let arguments = ["config", "show", "--output", "json", "--listen", "127.0.0.1:1"];

    let output = essaim(folder.path(), &arguments).env("ESSAIM_MAX_COMMANDS", "7").output().unwrap();

    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of = |key: &str| {
        let entry = shown.as_array().unwrap().iter().find(|entry| entry["key"] == key).unwrap();
        (entry["value"].clone(), entry["source"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("listen"), ("127.0.0.1:1".into(), "flag".to_owned()));
    assert_eq!(of("max_commands"), (7.into(), "environment".to_owned()));
    assert_eq!(of("max_loads"), (5.into(), "essaim.toml".to_owned()));
    assert_eq!(of("checkpoint_rows"), (10_000.into(), "default".to_owned()));
}

#[test]
fn what_show_prints_is_a_configuration_file_again() {
    let folder = folder_with("essaim.toml", "max_loads = 5\n");
    let shown = stdout(&run(folder.path(), &["config", "show"]));
    let again = folder_with("essaim.toml", &shown);

    assert_eq!(run(again.path(), &["config", "check"]).status.code(), Some(0), "{shown}");
    assert!(shown.contains("max_loads = 5"));
}

#[test]
fn a_password_is_not_shown() {
    let folder = tempfile::tempdir().unwrap();

    let shown = stdout(&run(folder.path(), &["config", "show", "--database", "postgres://ann:swordfish@db/essaim"]));

    assert!(shown.contains("postgres://ann:***@db/essaim") && !shown.contains("swordfish"), "{shown}");
}

#[test]
fn an_unknown_key_is_refused_by_every_command_that_has_a_configuration() {
    let folder = folder_with("essaim.toml", "max_lods = 5\n");

    for arguments in [&["config", "check"][..], &["config", "show"], &[], &["serve"], &["events", "list"]] {
        let message = refusal(&run(folder.path(), arguments), 2);
        assert!(message.contains("max_lods") && message.contains("did you mean max_loads?"), "{message}");
    }
}

#[test]
fn an_unknown_variable_with_our_prefix_is_refused() {
    let folder = tempfile::tempdir().unwrap();

    let output = essaim(folder.path(), &["config", "check"]).env("ESSAIM_LISTEN_ADDRESS", "x").output().unwrap();

    assert!(refusal(&output, 2).contains("ESSAIM_LISTEN_ADDRESS"));
}

#[test]
fn a_value_out_of_range_is_refused_with_its_key_and_range() {
    let folder = tempfile::tempdir().unwrap();

    let message = refusal(&run(folder.path(), &["config", "check", "--max-body-bytes", "7"]), 2);

    assert!(message.contains("max_body_bytes") && message.contains("1024 to 67108864"), "{message}");
}

#[test]
fn a_configuration_file_that_was_named_must_exist() {
    let folder = tempfile::tempdir().unwrap();

    let message = refusal(&run(folder.path(), &["--config", "missing.toml"]), 2);

    assert!(message.contains("missing.toml") && message.contains("No such file"), "{message}");
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_line() {
    let folder = folder_with("essaim.toml", "max_loads = 5\nlisten = 127.0.0.1\n");

    let message = refusal(&run(folder.path(), &["config", "check"]), 2);

    assert!(message.contains("essaim.toml, line 2"), "{message}");
}

#[test]
fn unknown_commands_and_flags_are_refused_as_usage() {
    let folder = tempfile::tempdir().unwrap();

    for arguments in [&["sevre"][..], &["--no-such-flag"], &["events"], &["events", "list", "--limit", "many"]] {
        assert_eq!(run(folder.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn a_listen_address_beyond_this_machine_needs_the_explicit_flag() {
    let folder = tempfile::tempdir().unwrap();

    let message = refusal(&run(folder.path(), &["--listen", "0.0.0.0:0"]), 2);

    assert!(message.contains("--allow-unauthenticated"), "{message}");
}

#[test]
fn a_database_of_an_unknown_kind_is_refused_by_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--listen", "127.0.0.1:0", "--database", "mysql://host/db"];

    let message = refusal(&run(folder.path(), &arguments), 3);

    assert!(message.contains("sqlite:// or postgres://"), "{message}");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    let message = refusal(&run(folder.path(), &["--listen", &address]), 1);

    assert!(message.contains(&address), "{message}");
}

#[test]
fn every_shell_has_its_completions() {
    let folder = tempfile::tempdir().unwrap();

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("projections"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let mut child =
        essaim(folder.path(), &["config", "template"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());

    let output = child.wait_with_output().unwrap();

    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn help_and_version_are_answers_not_errors() {
    let folder = tempfile::tempdir().unwrap();

    for arguments in [&["--help"][..], &["-h"], &["--version"], &["help", "events"], &["serve", "--help"]] {
        assert_eq!(run(folder.path(), arguments).status.code(), Some(0), "{arguments:?}");
    }
    let help = stdout(&run(folder.path(), &["--help"]));
    assert!(help.contains("--max-body-bytes <N>") && help.contains("[default: 262144]"), "{help}");
}

#[test]
fn the_doctor_says_what_is_wrong_with_the_configuration_and_ends_with_its_code() {
    let folder = folder_with("essaim.toml", "nonsense = 5\n");

    let output = run(folder.path(), &["doctor"]);

    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).starts_with("FAIL  configuration: essaim.toml: "), "{}", stdout(&output));
}

#[test]
fn the_doctor_warns_that_a_database_is_not_there_yet_and_leaves_it_so() {
    let folder = tempfile::tempdir().unwrap();

    let output = run(folder.path(), &["doctor", "--output", "json"]);

    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let database = findings.as_array().unwrap().iter().find(|finding| finding["check"] == "database").unwrap();
    assert_eq!(database["verdict"], "warn");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
