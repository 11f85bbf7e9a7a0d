//! The invariants of ARCHITECTURE.md that are absences: who never names whom.

use std::fs;
use std::path::{Path, PathBuf};

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be read") {
            let path: PathBuf = entry.expect("its entries can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).expect("below src").to_string_lossy().replace('\\', "/");
                found.push((name, code_of(&fs::read_to_string(&path).expect("a source file is text"))));
            }
        }
    }
    assert!(found.len() > 30, "the sources were found");
    found
}

/// The file without comments and without its tests.
fn code_of(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests {").next().expect("a split has a first part");
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Fails with every file that matches `is_bound` and names one of `words`.
fn never(rule: &str, is_bound: impl Fn(&str) -> bool, words: &[&str]) {
    let breaches: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| is_bound(name))
        .flat_map(|(name, code)| {
            let named =
                words.iter().filter(|word| code.contains(**word)).map(|word| word.to_string()).collect::<Vec<_>>();
            named.into_iter().map(move |word| format!("{name} names {word}"))
        })
        .collect();
    assert!(breaches.is_empty(), "{rule}: {breaches:#?}");
}

#[test]
fn the_domain_is_pure() {
    let words = ["async ", ".await", "sqlx", "ractor", "tokio", "Utc::now", "SystemTime", "rand::", "now_v7", "new_v4"];
    never("domain has no async, clock, randomness, sqlx, ractor", |name| name.starts_with("domain/"), &words);
}

#[test]
fn only_the_journal_appends() {
    // The harness takes down when the journal's appends return, and passes them on for that.
    let passes_on = |name: &str| name.starts_with("testing") || name == "loadtest/target/embedded/commits.rs";
    let bound = |name: &str| !name.starts_with("store/") && !passes_on(name) && name != "actors/journal.rs";
    never("only the journal calls append", bound, &["writer.append(", ".append(&batch"]);
}

#[test]
fn only_the_actors_and_the_engine_name_ractor() {
    never(
        "only actors/ and engine.rs name ractor",
        |name| !name.starts_with("actors/") && !name.starts_with("engine"),
        &["ractor"],
    );
}

#[test]
fn only_the_store_names_sqlx() {
    never("only store/ names sqlx", |name| !name.starts_with("store/"), &["sqlx"]);
}

#[test]
fn actors_know_stores_by_their_traits_only() {
    let words = ["SqliteStore", "PostgresStore", "MemoryStore", "crate::engine", "crate::daemon", "crate::domain"];
    never("actors see traits only", |name| name.starts_with("actors/"), &words);
}

#[test]
fn the_library_below_the_daemon_never_looks_up() {
    // The double is a server of its own, which only tests and its command start.
    let above = ["daemon/", "loadtest/", "identity/double", "main.rs"];
    let bound = |name: &str| !above.iter().any(|above| name.starts_with(above));
    never(
        "nothing below the daemon names it",
        bound,
        &["crate::daemon", "crate::loadtest", "anyhow", "clap::", "axum"],
    );
    let contracts = [
        "stream.rs",
        "event.rs",
        "aggregate.rs",
        "process_manager.rs",
        "command.rs",
        "codec.rs",
        "clock.rs",
        "limits.rs",
        "health.rs",
    ];
    let words = ["crate::actors", "crate::engine", "crate::domain", "tokio::", "sqlx", "ractor"];
    never("contracts stand on nothing", |name| contracts.contains(&name), &words);
}

#[test]
fn the_load_harness_and_the_daemon_stand_side_by_side() {
    never("loadtest knows no daemon", |name| name.starts_with("loadtest/"), &["crate::daemon", "axum"]);
    let bound = |name: &str| name.starts_with("daemon/") && name != "daemon/cli/load.rs";
    never("only the command line knows the harness", bound, &["crate::loadtest"]);
}

#[test]
fn identity_providers_know_nothing_of_the_engine() {
    let words =
        ["crate::actors", "crate::engine", "crate::domain", "crate::projections", "crate::store", "crate::daemon"];
    never("identity stands on its own", |name| name.starts_with("identity/"), &words);
    never("only the double serves", |name| name.starts_with("identity/keycloak"), &["axum", "crate::identity::double"]);
}

#[test]
fn anyhow_lives_in_main_only() {
    never("anyhow is for main.rs", |name| name != "main.rs", &["anyhow"]);
}

#[test]
fn the_checker_knows_answers_and_log_only() {
    let bound = |name: &str| name.starts_with("loadtest/checker") || name == "loadtest/history.rs";
    never("the checker shares nothing with what it checks", bound, &["crate::engine", "crate::actors", "crate::store"]);
}

#[test]
fn features_stand_on_mod_lines_and_in_the_one_constructor_by_url() {
    let breaches: Vec<String> = sources()
        .into_iter()
        .filter(|(name, _)| name != "store/open.rs" && name != "lib.rs")
        .flat_map(|(name, code)| {
            let lines: Vec<&str> = code.lines().collect();
            let gated = lines.iter().enumerate().filter(|(_, line)| line.contains("cfg(") && line.contains("feature"));
            let stray = gated.filter(|(n, _)| !lines.get(n + 1).is_some_and(|next| next.contains("mod ")));
            stray.map(|(_, line)| format!("{name}: {}", line.trim())).collect::<Vec<_>>()
        })
        .collect();
    assert!(breaches.is_empty(), "cfg(feature) stands on mod lines only: {breaches:#?}");
}

#[test]
fn no_folder_has_utilities() {
    let breaches: Vec<String> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.contains("util") || name.contains("helper"))
        .collect();
    assert!(breaches.is_empty(), "{breaches:?}");
}
