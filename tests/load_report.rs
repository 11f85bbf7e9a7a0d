//! The report of a load test in a real browser: its charts are drawn, nothing fails, nothing is asked of a network.
//!
//! The browser is Chromium: TEST_CHROMIUM when set, else the first found on the path. `./test` installs it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use essaim::loadtest::report::write_report;
use essaim::loadtest::results::{
    FORMAT, Figures, Finding, Generator, Interval, Latency, Machine, PeakSearch, PeakStep, Percentile, Restart,
    Results, Setting, Settings, Threshold, Verdict, Verification, Versions,
};

/// It starts and ends within a second or two; a machine under load may need more.
const BROWSER_DEADLINE: Duration = Duration::from_secs(60);

/// Watches the page from before its first script on, and tells at the end what it saw.
const PROBE: &str = r#"
const seen = { failures: [], requests: 0 };
addEventListener("error", (event) => seen.failures.push(event.message || "a resource"), true);
addEventListener("unhandledrejection", (event) => seen.failures.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => seen.failures.push(event.violatedDirective));
const tell = () => {
  const count = (isMeant) => [...document.querySelectorAll("canvas")].map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let pixels = 0;
    for (let at = 0; at < data.length; at += 4) if (isMeant(...data.slice(at, at + 4))) pixels += 1;
    return pixels;
  });
  const inked = count((red, green, blue, alpha) => alpha > 0);
  // Axes and grid are all but grey.
  const coloured = count((red, green, blue, alpha) => alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 80);
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify({
    ...seen,
    inked,
    coloured,
    wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
    requests: performance.getEntriesByType("resource").length,
    hacked: typeof hacked !== "undefined",
    titles: [...document.querySelectorAll("figure h2")].map((title) => title.textContent),
  });
  document.body.append(out);
};
addEventListener("load", () => setTimeout(tell, 300));
"#;

/// What the probe saw.
#[derive(Debug, serde::Deserialize)]
struct Seen {
    failures: Vec<String>,
    inked: Vec<u64>,
    coloured: Vec<u64>,
    wide: bool,
    requests: u64,
    hacked: bool,
    titles: Vec<String>,
}

#[tokio::test]
async fn every_chart_is_drawn_without_an_error_or_a_request_also_on_a_narrow_screen() {
    let Some(browser) = browser() else { return };
    let (results, baseline) = (run(24_000.0, 1.0), run(21_000.0, 1.2));
    let report = written("full.html", &results, Some(&baseline));

    for width in [1_280, 800, 400] {
        let seen = look(&browser, &report, width).await;

        assert_eq!(seen.failures, Vec::<String>::new(), "at {width} px");
        let titles = [
            "Throughput",
            "Latency over time",
            "Latency by percentile",
            "Projection lag",
            "Group commit",
            "Errors",
            "Memory",
            "Processor",
            "Search for the peak",
        ];
        assert_eq!(seen.titles, titles);
        assert_eq!(seen.inked.len(), titles.len());
        // Axes and grid alone are some 5,000 pixels of a chart; an empty canvas has none.
        assert!(seen.inked.iter().all(|pixels| *pixels > 2_000), "{:?}", seen.inked);
        assert_eq!((seen.requests, seen.wide), (0, false), "at {width} px");
    }
}

#[tokio::test]
async fn a_run_that_measured_nothing_has_a_report_without_charts_and_without_errors() {
    let Some(browser) = browser() else { return };
    let report = written("empty.html", &Results::default(), None);

    let seen = look(&browser, &report, 800).await;

    assert_eq!((seen.failures, seen.inked.len()), (vec![], 0));
}

#[tokio::test]
async fn a_single_interval_is_drawn() {
    let Some(browser) = browser() else { return };
    let mut results = run(24_000.0, 1.0);
    results.intervals.truncate(1);
    let report = written("single.html", &results, Some(&Results::default()));

    let seen = look(&browser, &report, 800).await;

    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.inked.len() >= 7 && seen.inked.iter().all(|pixels| *pixels > 1_000), "{:?}", seen.inked);
}

#[tokio::test]
async fn a_value_with_nothing_behind_it_is_drawn_as_a_dot() {
    let Some(browser) = browser() else { return };
    let mut results = run(24_000.0, 1.0);
    results.restarts.clear();
    for interval in results.intervals.iter_mut().skip(1) {
        (interval.lag_events, interval.rss_bytes, interval.cpu_cores) = (None, None, None);
        (interval.group_mean, interval.group_max) = (None, None);
    }
    let report = written("died.html", &results, None);

    let seen = look(&browser, &report, 800).await;

    assert_eq!(seen.failures, Vec::<String>::new());
    for chart in ["Projection lag", "Group commit", "Memory", "Processor"] {
        let place = seen.titles.iter().position(|title| title == chart).unwrap();
        assert!(seen.coloured[place] > 10, "{chart}: {:?}", seen.coloured);
    }
}

#[tokio::test]
async fn hostile_names_from_the_system_under_test_run_no_script() {
    let Some(browser) = browser() else { return };
    let hostile = "</script><script>hacked = 1</script><img src=x onerror=\"hacked = 1\">'\"<!--";
    let mut results = run(24_000.0, 1.0);
    results.settings.workload = hostile.into();
    results.settings.others.push(Setting { name: hostile.into(), value: hostile.into() });
    results.refusals.insert(hostile.into(), 3);
    results.kinds.insert(hostile.into(), Figures::default());
    results.verdict = Verdict { passed: false, reasons: vec![hostile.into()] };
    for interval in &mut results.intervals {
        interval.figures.errors.insert(hostile.into(), 2);
    }
    let report = written("hostile.html", &results, None);

    let seen = look(&browser, &report, 1_000).await;

    assert_eq!((seen.failures, seen.hacked, seen.requests), (vec![], false, 0));
    assert_eq!(seen.inked.len(), 9);
}

/// None, said aloud, where there is no browser.
fn browser() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("TEST_CHROMIUM") {
        return Some(named.into());
    }
    let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).flat_map(|folder| names.map(|name| folder.join(name))).find(|it| it.is_file());
    if found.is_none() {
        // Written past the test runner, which keeps to itself what a test prints that passes.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: there is no Chromium here to open the load report in");
    }
    found
}

/// The report as a file that stays, so that a person can look at it too.
fn written(name: &str, results: &Results, baseline: Option<&Results>) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    write_report(&path, results, baseline).unwrap();
    path
}

/// Opens the report in a window of this width, in pixels, with the probe in it.
async fn look(browser: &Path, report: &Path, width: u32) -> Seen {
    let page = std::fs::read_to_string(report).unwrap();
    let nonce = page.split("script-src 'nonce-").nth(1).unwrap().split('\'').next().unwrap();
    let probed = page.replacen("<style", &format!("<script nonce=\"{nonce}\">{PROBE}</script>\n<style"), 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("probed.html");
    std::fs::write(&file, probed).unwrap();

    let output = tokio::process::Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--window-size={width},1000"))
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(BROWSER_DEADLINE, output).await.expect("the browser ends in time").unwrap();

    let dom = String::from_utf8_lossy(&output.stdout);
    let told = dom.split("<pre id=\"probe\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let told = told.unwrap_or_else(|| panic!("no probe: {}", String::from_utf8_lossy(&output.stderr)));
    let json = told.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&json).unwrap()
}

/// A minute's run of about so many commands a second, with two kills, that waits so many times as long as usual.
fn run(per_second: f64, slowness: f64) -> Results {
    let intervals: Vec<Interval> = (1..=60).map(|second| interval(second, per_second, slowness)).collect();
    let answered = intervals.iter().map(|interval| interval.figures.answered).sum();
    let totals = Figures {
        answered_late: 0,
        events_late: 0,
        answered,
        per_second,
        latency: latency(2.0 * slowness),
        errors: BTreeMap::from([("overloaded".into(), 310), ("unknown".into(), 42)]),
        events: answered - 1_200,
    };
    Results {
        essaim_load_format: FORMAT,
        started_at: chrono::DateTime::from_timestamp(1_795_000_000, 0).unwrap(),
        duration_seconds: 60.0,
        settings: settings(),
        machine: Machine {
            processor: "AMD EPYC 7B13".into(),
            cores: 2,
            memory_bytes: 8 << 30,
            os: "Debian GNU/Linux 12 (bookworm), Linux 6.1.0".into(),
        },
        versions: Versions { essaim: "0.1.0".into(), store: "PostgreSQL 15.14".into(), server: None, optimised: true },
        durability: ["fsync", "full_page_writes", "synchronous_commit"]
            .map(|name| Setting { name: name.into(), value: "on".into() })
            .into(),
        intervals,
        kinds: kinds(&totals),
        totals,
        visible: Some(latency(0.3 * slowness)),
        visible_from_commit: Some(latency(0.4 * slowness)),
        percentiles: percentiles(slowness),
        retries: BTreeMap::from([("unreachable".into(), 96)]),
        refusals: BTreeMap::from([("not_pending".into(), 812), ("already_completed".into(), 388)]),
        peak: Some(peak(slowness)),
        restarts: vec![
            Restart { at_seconds: 20.0, down_seconds: Some(0.42) },
            Restart { at_seconds: 40.0, down_seconds: Some(0.51) },
        ],
        generator: Some(Generator { max_delay_micros: 900, due: 1_400_000, ..Generator::default() }),
        verification: Some(verification(answered)),
        thresholds: vec![
            Threshold { expression: "p99<20ms".into(), actual: "7.20 ms".into(), held: true },
            Threshold { expression: "errors=0".into(), actual: "352".into(), held: false },
        ],
        verdict: Verdict {
            passed: false,
            reasons: vec!["errors=0 is broken: 352".into(), "the checker found 1 lost command".into()],
        },
    }
}

fn settings() -> Settings {
    Settings {
        workload: "payments".into(),
        target: "embedded".into(),
        database: "postgres://localhost/essaim".into(),
        schedule: "closed loop".into(),
        callers: 256,
        rate_per_second: None,
        warmup_seconds: 5.0,
        duration_seconds: 60.0,
        seed: 42,
        interrupted: false,
        command_line:
            "essaim load --database postgres://localhost/essaim --callers 256 --duration 60s --kill-every 20s".into(),
        others: vec![Setting { name: "aggregates".into(), value: "1,000".into() }],
    }
}

fn interval(second: u32, per_second: f64, slowness: f64) -> Interval {
    let at = f64::from(second);
    let wave = (at / 7.0).sin() * 0.05 + (at * 2.3).sin() * 0.03;
    let is_down = second == 21 || second == 41;
    let rate = per_second * (1.0 + wave) * if is_down { 0.45 } else { 1.0 };
    let slow = slowness * (2.0 - wave * 6.0) * if is_down { 40.0 } else { 1.0 };
    let errors = if is_down { vec![("overloaded".to_owned(), 155), ("unknown".to_owned(), 21)] } else { vec![] };
    let answered = whole(rate);
    Interval {
        at_seconds: at,
        length_seconds: 1.0,
        figures: Figures {
            answered_late: 0,
            events_late: 0,
            answered,
            per_second: rate,
            latency: latency(slow),
            errors: errors.into_iter().collect(),
            events: answered - 20,
        },
        reads: answered / 4,
        lag_events: Some(whole(120.0 + 80.0 * (at / 5.0).cos() + if is_down { 900.0 } else { 0.0 })),
        lag_events_max: None,
        group_mean: Some(96.0 + 14.0 * (at / 4.0).sin()),
        group_max: Some(whole(210.0 + 40.0 * (at * 1.7).sin())),
        rss_bytes: Some(whole((180.0 + at.sqrt() * 9.0) * 1_048_576.0)),
        cpu_cores: Some(1.72 + wave),
        in_flight: Some(256),
    }
}

/// So many milliseconds, and what goes with it.
fn latency(milliseconds: f64) -> Latency {
    let times = |factor: f64| whole(milliseconds * 1_000.0 * factor);
    Latency {
        mean_micros: milliseconds * 1_100.0,
        p50_micros: times(1.0),
        p90_micros: times(1.9),
        p99_micros: times(3.6),
        p999_micros: times(7.5),
        max_micros: times(16.0),
    }
}

fn kinds(totals: &Figures) -> BTreeMap<String, Figures> {
    let share = |of: u64, milliseconds| Figures {
        answered: totals.answered / of,
        per_second: totals.per_second / 3.0,
        latency: latency(milliseconds),
        ..Figures::default()
    };
    BTreeMap::from([
        ("create".into(), share(3, 2.2)),
        ("authorize".into(), share(3, 1.9)),
        ("complete".into(), Figures { errors: totals.errors.clone(), ..share(4, 1.8) }),
    ])
}

/// Latency rises by half with each halving of the rest.
fn percentiles(slowness: f64) -> Vec<Percentile> {
    let point = |halvings: i32| {
        let rest = 0.5_f64.powi(halvings);
        let micros = whole(900.0 * slowness * 1.35_f64.powi(halvings));
        Percentile { quantile: 1.0 - rest, micros, count: whole(1_400_000.0 * (1.0 - rest)) }
    };
    (0..=20).map(point).chain([Percentile { quantile: 1.0, micros: 420_000, count: 1_400_000 }]).collect()
}

fn peak(slowness: f64) -> PeakSearch {
    let step = |thousands: f64| {
        let p50 = slowness * (1.0 + (thousands / 14.0).powi(4));
        PeakStep {
            rate_per_second: thousands * 1_000.0,
            reached_per_second: thousands.min(29.0) * 1_000.0,
            latency: latency(p50),
            errors: 0,
            held: p50 * 3.6 < 20.0,
        }
    };
    PeakSearch {
        p99_limit_micros: 20_000,
        peak_per_second: Some(20_000.0),
        steps: [4.0, 8.0, 16.0, 32.0, 24.0, 20.0, 22.0].map(step).into(),
        incomplete: false,
    }
}

fn verification(commands: u64) -> Verification {
    let sentence = "authorize of payment-0192f6a0-7a3e-7c41-9d6f-3f1f6a2b9c10 (command \
                    5f0c2f8e-2f38-8a4e-9a64-0d8a3a1f0b77) was acknowledged at version 2, position 90210, and is not in \
                    the log";
    Verification {
        commands,
        acknowledged: commands - 1_242,
        unknown: 42,
        unknown_in_log: 17,
        reads: commands / 4,
        events: commands - 1_225,
        read_models: vec!["payment_summaries".into()],
        counts: BTreeMap::from([("lost".into(), 1)]),
        findings: vec![Finding { kind: "lost".into(), sentence: sentence.into() }],
        incomplete: None,
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "made-up figures, all positive")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
