//! This file writes the report of a finished run: one HTML file that opens without a network.
//!
//! ```text
//! page        the page from top to bottom: verdict, figures, charts, tables
//! html        text that cannot become markup
//! comparison  this run against an earlier one, figure by figure
//! charts      what is drawn, as data; charts.js draws it
//! format      numbers with units, for people
//! ```
//! The page's own policy forbids every request and every script but its three, so that a name from the system under
//! test can do no harm even if it were not escaped.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::loadtest::place;
use crate::loadtest::results::Results;

mod charts;
mod comparison;
mod format;
mod html;
mod page;
#[cfg(test)]
mod tests;

const STYLE: &str = include_str!("report/style.css");
const SCRIPT: &str = include_str!("report/charts.js");
const UPLOT_VERSION: &str = "1.6.32";
const UPLOT: &str = include_str!("report/vendor/uPlot.iife.min.js");
const UPLOT_STYLE: &str = include_str!("report/vendor/uPlot.min.css");
const UPLOT_LICENCE: &str = include_str!("report/vendor/uPlot.LICENSE");

/// Writes the report of `results` to `path`, compared with `baseline` where there is one.
///
/// The file is written aside and renamed: whoever finds it finds all of it, and a failure leaves an older one in place.
///
/// # Errors
/// When the folder is not there or cannot be written to.
pub fn write_report(path: &Path, results: &Results, baseline: Option<&Results>) -> io::Result<()> {
    write_whole(path, render(results, baseline).as_bytes())
}

/// Writes a file aside and renames it, for reports and results alike. A symbolic link stays, and its file is replaced.
///
/// # Errors
/// When the folder is not there or cannot be written to, or something else than a regular file would be replaced.
pub fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let path = place::file_at(path)?;
    let aside = aside(&path)?;
    let written = write_and_rename(&aside, &path, content);
    if written.is_err() {
        // What is half written is of no use; that it cannot be removed adds nothing to the error at hand.
        let _ = fs::remove_file(&aside);
    }
    written
}

/// What the figures of two runs depend on and was not the same, e.g. `callers: 64 → 256`.
pub(crate) fn differences(results: &Results, baseline: &Results) -> Vec<String> {
    comparison::differences(results, baseline).iter().map(ToString::to_string).collect()
}

/// The report as HTML text.
pub fn render(results: &Results, baseline: Option<&Results>) -> String {
    page::render(results, baseline)
}

/// A name in the same folder, because only there a rename is atomic.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())));
    };
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(format!(".{}.part", std::process::id()));
    Ok(path.with_file_name(aside))
}

fn write_and_rename(aside: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(aside, path)
}
