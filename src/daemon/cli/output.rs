//! This file prints results on stdout; a reader that went away ends the program quietly.

use std::io::{self, Write};

pub(super) use crate::daemon::shape::time;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::daemon::failure::Failure;

/// Writes bytes as they are.
pub(super) fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::output)
}

/// Writes lines of text.
pub(super) fn print_line(text: impl std::fmt::Display) -> Result<(), Failure> {
    print(format!("{text}\n").as_bytes())
}

/// Writes one JSON document, indented.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print_line(serde_json::to_string_pretty(value).expect("our own types can be written as JSON"))
}

/// A table without lines. Cells are never wrapped or cut, so that a line stays a row.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}
