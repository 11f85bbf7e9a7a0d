//! This file is the report's page from top to bottom.

use super::charts::{Chart, charts};
use super::comparison::{self, Trend};
use super::format;
use super::html::Html;
use super::{SCRIPT, STYLE, UPLOT, UPLOT_LICENCE, UPLOT_STYLE, UPLOT_VERSION};
use crate::loadtest::results::{Results, Verification};

mod tables;

/// The page as HTML text.
pub(super) fn render(results: &Results, baseline: Option<&Results>) -> String {
    let charts = charts(results, baseline);
    let nonce = nonce(results, baseline);
    let mut html = Html::default();
    head(&mut html, results, &nonce);
    html.markup("<body>\n<main>\n");
    title(&mut html, results);
    verdict(&mut html, results);
    tiles(&mut html, results, baseline);
    html.markup("<div class=\"pair\">\n");
    verification(&mut html, results.verification.as_ref());
    tables::thresholds(&mut html, results);
    html.markup("</div>\n");
    figures(&mut html, &charts, results, baseline.is_some());
    if let Some(baseline) = baseline {
        tables::comparison(&mut html, results, baseline);
    }
    tables::kinds(&mut html, results);
    tables::outcomes(&mut html, results);
    tables::peak(&mut html, results);
    tables::restarts(&mut html, results);
    tables::circumstances(&mut html, results);
    foot(&mut html, results);
    html.markup("</main>\n");
    scripts(&mut html, &charts, &nonce);
    html.markup("</body>\n</html>\n");
    html.finish()
}

/// Allows the page's own scripts and styles. A text from the run that could name it would have to contain its own hash.
fn nonce(results: &Results, baseline: Option<&Results>) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(results.to_json().as_bytes());
    hasher.update(baseline.map(Results::to_json).unwrap_or_default().as_bytes());
    hasher.finalize().to_hex()[..32].to_owned()
}

fn head(html: &mut Html, results: &Results, nonce: &str) {
    html.markup("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.markup("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'nonce-");
    html.text(nonce).markup("'; style-src 'nonce-").text(nonce).markup("'\">\n");
    html.markup("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html.markup("<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    html.text(if results.verdict.passed { "✓ " } else { "✗ " }).text(&results.settings.workload);
    html.markup(" – load test</title>\n<style nonce=\"").text(nonce).markup("\">\n");
    html.markup(UPLOT_STYLE).markup("\n").markup(STYLE).markup("</style>\n</head>\n");
}

fn title(html: &mut Html, results: &Results) {
    let settings = &results.settings;
    html.markup("<header>\n<p class=\"kicker\">Essaim load test</p>\n<h1>").text(&settings.workload);
    html.markup(" <span>").text(&settings.schedule).markup(", ");
    match settings.rate_per_second {
        // The callers of an open loop are no more than a bound.
        Some(rate) => {
            html.text(if results.peak.is_some() { "from " } else { "" }).text(format::number(rate)).markup("/s")
        }
        None if settings.callers == 1 => html.markup("1 caller"),
        None => html.text(format::count(settings.callers)).markup(" callers"),
    };
    html.markup("</span></h1>\n<p class=\"meta\">");
    let parts = [
        settings.target.clone(),
        results.versions.store.clone(),
        format!("{} measured", format::seconds(results.duration_seconds)),
        results.started_at.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    ];
    for part in parts.iter().filter(|part| !part.is_empty()) {
        html.markup("<span>").text(part).markup("</span>");
    }
    html.markup("</p>\n</header>\n");
}

fn verdict(html: &mut Html, results: &Results) {
    let verdict = &results.verdict;
    html.markup(if verdict.passed { "<section class=\"verdict good\">" } else { "<section class=\"verdict bad\">" });
    html.markup("<h2>").markup(if verdict.passed { "✓ Passed" } else { "✗ Failed" }).markup("</h2>");
    if verdict.reasons.is_empty() {
        html.markup("<p>").text(summary(results)).markup("</p>");
    } else {
        html.markup("<ul>");
        verdict.reasons.iter().for_each(|reason| {
            html.markup("<li>").text(reason).markup("</li>");
        });
        html.markup("</ul>");
    }
    html.markup("</section>\n");
    for warning in warnings(results) {
        html.markup("<p class=\"warning\">").text(warning).markup("</p>\n");
    }
}

/// The verdict in a sentence, where it has no reasons.
fn summary(results: &Results) -> String {
    match &results.verification {
        _ if !results.verdict.passed => "The run gives no reason.".to_owned(),
        Some(checked) if checked.passed() => {
            format!("{} commands held against the log: nothing is amiss.", format::count(checked.commands))
        }
        Some(_) => "Nothing that was required is amiss, but see the verification.".to_owned(),
        None => "Nothing that was required is amiss. The log was not verified.".to_owned(),
    }
}

/// What makes the figures mean less than they seem to.
fn warnings(results: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    if results.settings.interrupted {
        warnings.push("The run was interrupted: this is what it had by then.".to_owned());
    }
    if !results.versions.optimised {
        warnings.push("This is a build without optimisation: its figures say nothing about speed.".to_owned());
    }
    if let Some(generator) = results.generator.as_ref().filter(|generator| generator.fell_behind) {
        let late = format::micros(format::precise(generator.max_delay_micros));
        let skipped = format::count(generator.skipped);
        warnings.push(format!(
            "The generator fell behind its own schedule, by up to {late}, and left out {skipped} commands: the figures \
             speak of it as much as of the target."
        ));
    }
    warnings
}

fn tiles(html: &mut Html, results: &Results, baseline: Option<&Results>) {
    let (totals, latency) = (&results.totals, &results.totals.latency);
    let micros = format::latency;
    let mut tiles = vec![
        ("Throughput", format!("{}/s", format::number(totals.per_second)), "throughput"),
        ("p50", micros(latency.p50_micros), "latency p50"),
        ("p99", micros(latency.p99_micros), "latency p99"),
        ("p99.9", micros(latency.p999_micros), "latency p99.9"),
        ("Slowest", micros(latency.max_micros), "latency max"),
        ("Answered", format::count(totals.answered), ""),
        ("Errors", format::count(totals.error_count()), "errors"),
    ];
    if let Some(per_second) = results.events_per_second(totals) {
        tiles.insert(1, ("Events", format!("{}/s", format::number(per_second)), "events a second"));
    }
    html.markup("<section class=\"tiles\">\n");
    for (name, value, figure) in tiles {
        html.markup("<div class=\"tile\"><p>").text(name).markup("</p><strong>").text(value).markup("</strong>");
        let change = baseline.and_then(|baseline| comparison::change_of(figure, results, baseline));
        if let Some(change) = change {
            html.markup(trend_class(change.trend)).text(change.change).markup("</em>");
        }
        html.markup("</div>\n");
    }
    html.markup("</section>\n");
}

fn trend_class(trend: Trend) -> &'static str {
    match trend {
        Trend::Better => "<em class=\"better\">",
        Trend::Worse => "<em class=\"worse\">",
        Trend::Same => "<em>",
    }
}

fn verification(html: &mut Html, checked: Option<&Verification>) {
    html.markup("<section class=\"card\">\n<h2>Verification</h2>\n");
    let Some(checked) = checked else {
        html.markup("<p class=\"none\">Not asked for.</p>\n</section>\n");
        return;
    };
    let rows = [
        ("commands", format::count(checked.commands)),
        ("acknowledged with events", format::count(checked.acknowledged)),
        ("of unknown outcome", unknown(checked)),
        ("events of the log", format::count(checked.events)),
        ("reads", format::count(checked.reads)),
        ("read models equal to the fold", checked.read_models.join(", ")),
    ];
    tables::pairs(
        html,
        rows.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (*name, value.as_str())),
    );
    if let Some(reason) = &checked.incomplete {
        html.markup("<p class=\"warning\">It could not be finished: ").text(reason).markup("</p>\n");
    }
    for (kind, count) in &checked.counts {
        html.markup("<h3 class=\"bad\">").text(kind.replace('_', " ")).markup(" × ").text(format::count(*count));
        html.markup("</h3>\n<ul class=\"findings\">");
        let of_this = checked.findings.iter().filter(|finding| finding.kind == *kind);
        of_this.for_each(|finding| {
            html.markup("<li>").text(&finding.sentence).markup("</li>");
        });
        html.markup("</ul>\n");
    }
    if checked.passed() {
        html.markup("<p class=\"all-well\">Each acknowledged command is in the log exactly once, where it was said ");
        html.markup("to be; refused ones are not; nothing is out of order, missing or stale.</p>\n");
    }
    html.markup("</section>\n");
}

fn unknown(checked: &Verification) -> String {
    if checked.unknown == 0 {
        return "0".to_owned();
    }
    format!("{}, of which {} in the log", format::count(checked.unknown), format::count(checked.unknown_in_log))
}

fn figures(html: &mut Html, charts: &[Chart], results: &Results, has_baseline: bool) {
    if charts.is_empty() {
        return;
    }
    html.markup(
        "<section class=\"charts\">\n<p class=\"hint\">Drag across a chart to look closer, double-click to go back.",
    );
    if has_baseline {
        html.markup(" Dashed lines and values in brackets are the baseline's.");
    }
    if !results.restarts.is_empty() {
        html.markup(" Dotted upright lines are kills.");
    }
    html.markup("</p>\n");
    for chart in charts {
        html.markup("<figure class=\"card\"><h2>").text(chart.title).markup("</h2><p class=\"note\">").text(chart.note);
        if let Some(why) = chart.why_absent() {
            html.markup("</p><p class=\"none\">").text(why).markup("</p></figure>\n");
            continue;
        }
        html.markup("</p><div class=\"chart\" id=\"chart-").text(chart.id).markup("\"></div></figure>\n");
    }
    html.markup("</section>\n<noscript><p class=\"warning\">The charts need JavaScript.</p></noscript>\n");
}

fn foot(html: &mut Html, results: &Results) {
    html.markup("<footer>Essaim ").text(&results.versions.essaim);
    if !results.settings.command_line.is_empty() {
        html.markup(" · <code>").text(&results.settings.command_line).markup("</code>");
    }
    html.markup(" · charts by uPlot ").markup(UPLOT_VERSION).markup(" (MIT)</footer>\n");
}

fn scripts(html: &mut Html, charts: &[Chart], nonce: &str) {
    let charts: Vec<_> = charts.iter().filter(|chart| chart.has_data()).collect();
    html.markup("<script type=\"application/json\" id=\"charts\">").json(&charts).markup("</script>\n");
    html.markup("<script nonce=\"").text(nonce).markup("\">\n/*!\n").markup(UPLOT_LICENCE).markup("*/\n");
    html.markup(UPLOT).markup("</script>\n");
    html.markup("<script nonce=\"").text(nonce).markup("\">\n").markup(SCRIPT).markup("</script>\n");
}
