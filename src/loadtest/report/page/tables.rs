//! This file is the report's tables: thresholds, comparison, kinds of commands, refusals and errors, circumstances.

use std::collections::BTreeMap;

use super::super::comparison as compared;
use super::super::format;
use super::super::html::Html;
use super::trend_class;
use crate::loadtest::results::{Figures, Latency, Results, Setting};

/// What was `--require`d, if anything.
pub(super) fn thresholds(html: &mut Html, results: &Results) {
    if results.thresholds.is_empty() {
        return;
    }
    html.markup("<section class=\"card\">\n<h2>Thresholds</h2>\n");
    html.markup("<div class=\"scroll\"><table>\n<thead><tr><th>Required</th><th>Measured</th><th></th></tr></thead>\n");
    for threshold in &results.thresholds {
        html.markup("<tr><td><code>").text(&threshold.expression).markup("</code></td><td>").text(&threshold.actual);
        html.markup(if threshold.held {
            "</td><td class=\"good\">✓ held</td></tr>\n"
        } else {
            "</td><td class=\"bad\">✗ broken</td></tr>\n"
        });
    }
    html.markup("</table></div>\n</section>\n");
}

/// This run against an earlier one.
pub(super) fn comparison(html: &mut Html, results: &Results, baseline: &Results) {
    html.markup("<section class=\"card\">\n<h2>Against the baseline</h2>\n<p class=\"note\">The baseline is of ");
    html.text(baseline.started_at.format("%Y-%m-%d %H:%M UTC")).markup(", Essaim ").text(&baseline.versions.essaim);
    html.markup(". Changes below 2 % are within the noise.</p>\n");
    differences(html, results, baseline);
    html.markup("<div class=\"scroll\"><table class=\"numbers\">\n");
    html.markup("<thead><tr><th>Figure</th><th>Baseline</th><th>This run</th><th>Change</th></tr></thead>\n");
    for change in compared::changes(results, baseline) {
        html.markup("<tr><td>").text(change.name).markup("</td><td>").text(change.before).markup("</td><td>");
        html.text(change.now).markup("</td><td>").markup(trend_class(change.trend)).text(change.change);
        html.markup("</em></td></tr>\n");
    }
    html.markup("</table></div>\n</section>\n");
}

/// Figures for each kind of command, and of all.
pub(super) fn kinds(html: &mut Html, results: &Results) {
    html.markup("<section class=\"card\">\n<h2>By kind</h2>\n<div class=\"scroll\"><table class=\"numbers\">\n");
    html.markup("<thead><tr><th>Kind</th><th>Answered</th><th>A second</th><th>Events</th><th>Events a second</th><th>Mean</th><th>p50</th><th>p90</th>");
    html.markup("<th>p99</th><th>p99.9</th><th>Slowest</th><th>Errors</th></tr></thead>\n<tbody>\n");
    for (kind, figures) in &results.kinds {
        html.markup("<tr><td>").text(kind).markup("</td>");
        figures_cells(html, results, figures);
    }
    html.markup("</tbody>\n<tfoot><tr><td>all</td>");
    figures_cells(html, results, &results.totals);
    html.markup("</tfoot></table></div>\n");
    for (from, visible) in [("answer", &results.visible), ("commit", &results.visible_from_commit)] {
        let (Some(visible), micros) = (visible, format::latency) else { continue };
        html.markup("<p class=\"note\">From ").text(from).markup(" to visible in the read model: p50 ");
        html.text(micros(visible.p50_micros));
        html.markup(", p99 ").text(micros(visible.p99_micros)).markup(", slowest ").text(micros(visible.max_micros));
        html.markup(".</p>\n");
    }
    html.markup("</section>\n");
}

/// Refusals by code and errors by class.
pub(super) fn outcomes(html: &mut Html, results: &Results) {
    if results.refusals.is_empty() && results.totals.errors.is_empty() {
        return;
    }
    html.markup("<div class=\"pair\">\n<section class=\"card\">\n<h2>Refusals</h2>\n");
    html.markup("<p class=\"note\">Business answers, given durably; not errors.</p>\n");
    counts(html, &results.refusals, results.totals.answered);
    html.markup("</section>\n<section class=\"card\">\n<h2>Errors</h2>\n");
    html.markup("<p class=\"note\">No answer, or not the one that was wanted.</p>\n");
    counts(html, &results.totals.errors, results.totals.answered + results.totals.error_count());
    html.markup("</section>\n</div>\n");
}

/// The rates that were tried.
pub(super) fn peak(html: &mut Html, results: &Results) {
    let Some(peak) = &results.peak else { return };
    html.markup("<section class=\"card\">\n<h2>Search for the peak</h2>\n<p class=\"note\">");
    match peak.peak_per_second {
        Some(rate) => html.markup("The highest rate within the limit: ").text(format::number(rate)).markup("/s"),
        None if peak.incomplete => html.markup("No rate was found within the limit"),
        None => html.markup("Not even the lowest rate was within the limit"),
    };
    html.markup(if peak.incomplete { "; the search is incomplete" } else { "" });
    html.markup(", with p99 ≤ ").text(format::micros(format::precise(peak.p99_limit_micros))).markup(".</p>\n");
    html.markup("<div class=\"scroll\"><table class=\"numbers\">\n<thead><tr><th>Wanted</th><th>Reached</th>");
    html.markup("<th>p50</th><th>p99</th><th>Slowest</th><th>Errors</th><th></th></tr></thead>\n");
    for step in &peak.steps {
        html.markup("<tr><td>").text(format::number(step.rate_per_second)).markup("/s</td><td>");
        html.text(format::number(step.reached_per_second)).markup("/s</td>");
        let Latency { p50_micros, p99_micros, max_micros, .. } = step.latency;
        for value in [p50_micros, p99_micros, max_micros] {
            html.markup("<td>").text(format::latency(value)).markup("</td>");
        }
        html.markup("<td>").text(format::count(step.errors)).markup("</td>");
        html.markup(if step.held {
            "<td class=\"good\">✓ held</td></tr>\n"
        } else {
            "<td class=\"bad\">✗ broken</td></tr>\n"
        });
    }
    html.markup("</table></div>\n</section>\n");
}

/// Kills and how long each was felt.
pub(super) fn restarts(html: &mut Html, results: &Results) {
    if results.restarts.is_empty() {
        return;
    }
    html.markup("<section class=\"card\">\n<h2>Kills</h2>\n<div class=\"scroll\"><table class=\"numbers\">\n");
    html.markup("<thead><tr><th>Killed at</th><th>Next success after</th></tr></thead>\n");
    for restart in &results.restarts {
        let down = restart.down_seconds.map_or_else(|| "never".to_owned(), format::seconds);
        let at = match restart.is_before_measurement() {
            true => "during warm-up".to_owned(),
            false => format::seconds(restart.at_seconds),
        };
        html.markup("<tr><td>").text(at).markup("</td><td>").text(down);
        html.markup("</td></tr>\n");
    }
    html.markup("</table></div>\n</section>\n");
}

/// What was asked for, and what it ran on.
pub(super) fn circumstances(html: &mut Html, results: &Results) {
    let (settings, machine, versions) = (&results.settings, &results.machine, &results.versions);
    let asked = [
        ("workload", settings.workload.clone()),
        ("target", settings.target.clone()),
        ("database", settings.database.clone()),
        ("schedule", settings.schedule.clone()),
        ("callers", format::count(settings.callers)),
        ("rate", settings.rate_per_second.map(|rate| format!("{}/s", format::number(rate))).unwrap_or_default()),
        ("duration", format::seconds(settings.duration_seconds)),
        ("warm-up", format::seconds(settings.warmup_seconds)),
        ("seed", settings.seed.to_string()),
    ];
    let machine = [
        ("processor", machine.processor.clone()),
        ("cores", machine.cores.to_string()),
        ("memory", format::bytes(machine.memory_bytes)),
        ("operating system", machine.os.clone()),
    ];
    let versions = [
        ("essaim", versions.essaim.clone()),
        ("store", versions.store.clone()),
        ("server", versions.server.clone().unwrap_or_default()),
        ("build", if versions.optimised { "optimised" } else { "not optimised" }.to_owned()),
    ];
    html.markup("<div class=\"quads\">\n");
    card(html, "Settings", &asked, &settings.others);
    card(html, "Machine", &machine, &[]);
    card(html, "Versions", &versions, &[]);
    card(html, "Durability", &[], &results.durability);
    html.markup("</div>\n");
}

/// Names and values, one below the other.
pub(super) fn pairs<'a>(html: &mut Html, rows: impl Iterator<Item = (&'a str, &'a str)>) {
    html.markup("<table class=\"pairs\">\n");
    for (name, value) in rows {
        html.markup("<tr><th>").text(name).markup("</th><td>").text(value).markup("</td></tr>\n");
    }
    html.markup("</table>\n");
}

fn card(html: &mut Html, title: &'static str, fixed: &[(&str, String)], others: &[Setting]) {
    let fixed = fixed.iter().map(|(name, value)| (*name, value.as_str()));
    let others = others.iter().map(|setting| (setting.name.as_str(), setting.value.as_str()));
    let rows: Vec<_> = fixed.chain(others).filter(|(_, value)| !value.is_empty()).collect();
    html.markup("<section class=\"card\">\n<h2>").markup(title).markup("</h2>\n");
    if rows.is_empty() {
        html.markup("<p class=\"none\">Unknown.</p>\n");
    } else {
        pairs(html, rows.into_iter());
    }
    html.markup("</section>\n");
}

fn differences(html: &mut Html, results: &Results, baseline: &Results) {
    let differences = compared::differences(results, baseline);
    if differences.is_empty() {
        return;
    }
    html.markup("<div class=\"warning\">Not the same in both runs:<ul>");
    for difference in differences {
        html.markup("<li>").text(difference).markup("</li>");
    }
    html.markup("</ul></div>\n");
}

fn figures_cells(html: &mut Html, results: &Results, figures: &Figures) {
    let latency = &figures.latency;
    html.markup("<td>").text(format::count(figures.answered)).markup("</td><td>");
    html.text(format::number(figures.per_second)).markup("</td><td>").text(format::count(figures.events));
    let events = results.events_per_second(figures);
    html.markup("</td><td>").text(events.map_or_else(|| "–".to_owned(), format::number)).markup("</td><td>");
    html.text(if latency.max_micros == 0 { "–".to_owned() } else { format::micros(latency.mean_micros) });
    html.markup("</td>");
    let Latency { p50_micros, p90_micros, p99_micros, p999_micros, max_micros, .. } = *latency;
    for value in [p50_micros, p90_micros, p99_micros, p999_micros, max_micros] {
        html.markup("<td>").text(format::latency(value)).markup("</td>");
    }
    html.markup(if figures.error_count() > 0 { "<td class=\"bad\">" } else { "<td>" });
    html.text(format::count(figures.error_count())).markup("</td></tr>\n");
}

fn counts(html: &mut Html, counts: &BTreeMap<String, u64>, all: u64) {
    if counts.is_empty() {
        html.markup("<p class=\"none\">None.</p>\n");
        return;
    }
    html.markup("<div class=\"scroll\"><table class=\"numbers\">\n");
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (name, count) in rows {
        let share = 100.0 * format::precise(*count) / format::precise(all.max(1));
        html.markup("<tr><td>").text(name).markup("</td><td>").text(format::count(*count)).markup("</td><td>");
        let share = if share < 0.01 { "< 0.01".to_owned() } else { format::number(share) };
        html.text(share).markup(" %</td></tr>\n");
    }
    html.markup("</table></div>\n");
}
