//! This file tests the report as text; `tests/load_report.rs` opens it in a browser.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::*;
use crate::loadtest::results::{
    Figures, Interval, Latency, Restart, Setting, Settings, Threshold, Verdict, Verification,
};

const HOSTILE: &str = "</script><script>alert(1)</script><a href=\"https://example.org/\">'&";

fn run() -> Results {
    let figures = Figures { answered: 1_000, per_second: 1_000.0, ..Figures::default() };
    Results {
        intervals: vec![Interval {
            at_seconds: 1.0,
            length_seconds: 1.0,
            figures: figures.clone(),
            ..Interval::default()
        }],
        totals: figures,
        verdict: Verdict { passed: true, reasons: Vec::new() },
        ..Results::default()
    }
}

fn hostile_run() -> Results {
    let mut results = run();
    results.settings = Settings { workload: HOSTILE.into(), target: HOSTILE.into(), ..Settings::default() };
    results.settings.command_line = HOSTILE.into();
    results.settings.others.push(Setting { name: HOSTILE.into(), value: HOSTILE.into() });
    results.intervals[0].figures.errors.insert(HOSTILE.into(), 1);
    results.refusals.insert(HOSTILE.into(), 1);
    results.kinds.insert(HOSTILE.into(), Figures::default());
    let (expression, actual) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    results.thresholds.push(Threshold { expression, actual, held: false });
    results.verdict = Verdict { passed: false, reasons: vec![HOSTILE.into()] };
    results
}

/// The page without the vendored files, in whose comments addresses stand.
fn own_part(page: &str) -> String {
    page.replace(UPLOT, "").replace(UPLOT_STYLE, "").replace(UPLOT_LICENCE, "")
}

#[test]
fn a_hostile_text_becomes_no_markup_and_ends_no_script() {
    let page = render(&hostile_run(), Some(&hostile_run()));

    assert!(!page.contains("<script>"), "every script has a nonce");
    assert!(!page.contains("<a "), "the page has no links");
    let [opened, closed] = ["<script", "</script"].map(|tag| own_part(&page).matches(tag).count());
    assert_eq!((opened, closed), (3, 3), "the data, uPlot and the charts");
    assert!(page.contains("&lt;/script&gt;"), "it is shown as it is");
}

#[test]
fn the_charts_data_are_json_even_with_a_hostile_text_in_them() {
    let page = render(&hostile_run(), None);

    let data = page.split("id=\"charts\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap();
    let charts: serde_json::Value = serde_json::from_str(data).unwrap();

    let errors = charts.as_array().unwrap().iter().find(|chart| chart["id"] == "errors").unwrap();
    assert_eq!(errors["runs"][0]["series"][0]["label"], HOSTILE);
}

#[test]
fn events_a_second_stand_in_a_tile_and_in_the_table_of_kinds() {
    // Two rebuilds of 500,000 events that took 2 s each, one after the other, are 250,000 a second.
    let latency = Latency { mean_micros: 2e6, ..Latency::default() };
    let figures = Figures { answered: 2, events: 1_000_000, latency, ..Figures::default() };
    let kinds = [("rebuild".to_owned(), figures.clone())].into();
    let mut rebuilt = Results { totals: figures, kinds, duration_seconds: 10.0, ..run() };
    rebuilt.settings.callers = 1;

    let page = render(&rebuilt, None);

    assert!(page.contains("<p>Events</p><strong>250,000/s</strong>"));
    assert_eq!(page.matches("<td>1,000,000</td><td>250,000</td>").count(), 2, "of the kind and of all");
}

#[test]
fn a_kill_during_the_warm_up_is_called_so_and_marked_in_no_chart() {
    let killed = |at_seconds| Restart { at_seconds, down_seconds: Some(0.5) };
    let page = render(&Results { restarts: vec![killed(-0.01), killed(2.0)], ..run() }, None);

    assert!(page.contains("<td>during warm-up</td>") && page.contains("<td>2 s</td>"));
    assert!(page.contains("\"marks\":[2.0]") && !page.contains("-0.01"));
}

#[test]
fn what_was_not_measured_says_so_in_its_charts_place() {
    let mut results = run();
    let absent = |results: &Results| render(results, None).matches("Not measured: ").count();

    assert_eq!(absent(&results), 4, "lag, group commit, memory, processor");

    results.intervals[0].cpu_cores = Some(0.5);
    assert_eq!(absent(&results), 3, "the processor was");
    assert_eq!(absent(&Results::default()), 0, "where nothing was measured nothing is expected");
}

#[test]
fn the_page_refers_to_nothing_outside_itself() {
    let page = own_part(&render(&run(), Some(&run())));

    for reference in ["http:", "https:", "//cdn", " src=", " href=", "@import", "url(", "fetch(", "XMLHttpRequest"] {
        assert!(!page.contains(reference), "{reference}");
    }
    let policy = "content=\"default-src 'none'; script-src 'nonce-";
    assert!(page.contains(policy), "and its policy forbids whatever this test does not know");
    let vendored = [UPLOT, UPLOT_STYLE].concat();
    for reference in ["@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!vendored.contains(reference), "{reference} in uPlot");
    }
}

#[test]
fn a_run_that_passed_and_one_that_failed_say_so_first() {
    let (passed, failed) = (render(&run(), None), render(&hostile_run(), None));

    assert!(passed.contains("<h2>✓ Passed</h2>") && !passed.contains("✗"));
    assert!(failed.contains("<h2>✗ Failed</h2>") && failed.contains("✗ broken"));
}

#[test]
fn a_run_that_failed_is_never_said_to_have_nothing_amiss() {
    let verification = Some(Verification { counts: [("lost".to_owned(), 1)].into(), ..Verification::default() });
    let failed = Results { verdict: Verdict::default(), ..run() };
    let found = Results { verification, ..run() };

    for results in [&failed, &Results { verification: Some(Verification::default()), ..failed.clone() }, &found] {
        let page = render(results, None);
        assert!(!page.contains("log: nothing is amiss") && !page.contains("was not verified"));
    }
    assert!(!render(&found, None).contains("Each acknowledged command is in the log exactly once"));
}

#[test]
fn every_finding_stands_on_the_page() {
    let mut results = run();
    let sentence = "pay of till-a is in the log twice";
    let findings = vec![crate::loadtest::results::Finding { kind: "doubled".into(), sentence: sentence.into() }];
    let counts = [("doubled".to_owned(), 31)].into();
    results.verification = Some(Verification { counts, findings, ..Verification::default() });

    let page = render(&results, None);

    assert!(page.contains("doubled × 31") && page.contains(sentence));
}

#[test]
fn a_report_replaces_an_older_one_whole_and_leaves_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    fs::write(&path, "an older report").unwrap();

    write_report(&path, &run(), None).unwrap();

    assert_eq!(fs::read_to_string(&path).unwrap(), render(&run(), None));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_report_that_cannot_be_put_in_place_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("taken");
    fs::create_dir_all(path.join("by a folder")).unwrap();

    write_report(&path, &run(), None).unwrap_err();

    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_report_through_a_symbolic_link_replaces_its_file_and_the_link_stays() {
    let folder = tempfile::tempdir().unwrap();
    let [file, link] = ["file", "link"].map(|name| folder.path().join(name));
    fs::write(&file, "an older report").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();

    write_report(&link, &run(), None).unwrap();

    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), render(&run(), None));
}

#[test]
fn a_report_replaces_no_pipe() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());

    write_report(&path, &run(), None).unwrap_err();

    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_fifo());
}

#[test]
fn a_report_in_a_folder_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();

    let error = write_report(&folder.path().join("missing/report.html"), &run(), None).unwrap_err();

    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn vendored_files_are_those_of_the_stated_release() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/loadtest/report/vendor");
    let stated = fs::read_to_string(folder.join("README.md")).unwrap();
    assert!(stated.contains(&format!(" {UPLOT_VERSION} by ")));

    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name == "README.md" {
            continue;
        }
        let row = stated.lines().find(|line| line.starts_with(&format!("| {name} |")));
        let sum = row.unwrap_or_else(|| panic!("{name} is not in the table")).rsplit('|').nth(1).unwrap().trim();
        let found: String =
            Sha256::digest(fs::read(folder.join(&name)).unwrap()).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, sum, "{name}");
    }
}
