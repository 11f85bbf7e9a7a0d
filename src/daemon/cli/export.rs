//! This file writes the log to a file or to stdout, with progress on stderr.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};

use super::events::{PAGE, write_line};
use crate::daemon::failure::Failure;
use crate::store::{EventStore, LogFilter, StoreError};
use crate::stream::GlobalPosition;

/// What to export, and where to.
pub(super) struct Export {
    /// The file; `-` is stdout.
    pub(super) file: PathBuf,
    /// Only events behind this position.
    pub(super) after: GlobalPosition,
    /// Only these events.
    pub(super) filter: LogFilter,
}

/// Writes the events up to the head found at the start.
///
/// # Errors
/// [`Failure`] when the store cannot be read or the file not be written; the file is then as it was.
pub(super) async fn export(store: &dyn EventStore, export: Export) -> Result<(), Failure> {
    if export.file.as_os_str() == "-" {
        let mut stdout = BufWriter::new(io::stdout());
        write_log(store, &export, &mut stdout).await?;
        return stdout.flush().map_err(Failure::output);
    }
    let aside = aside(&export.file);
    let written = write_file(store, &export, &aside).await;
    if written.is_err() {
        // What is left of it is of no use to anybody; that it cannot be removed is the smaller trouble.
        let _ = fs::remove_file(&aside);
    }
    written
}

async fn write_file(store: &dyn EventStore, export: &Export, aside: &Path) -> Result<(), Failure> {
    let cannot = || Failure::io(format!("{} cannot be written", export.file.display()));
    let mut file = BufWriter::new(File::create(aside).map_err(cannot())?);
    write_log(store, export, &mut file).await?;
    let file = file.into_inner().map_err(|error| cannot()(error.into_error()))?;
    file.sync_all().and_then(|()| fs::rename(aside, &export.file)).map_err(cannot())
}

async fn write_log(store: &dyn EventStore, export: &Export, out: &mut impl Write) -> Result<(), Failure> {
    let head = store.head().await?.position;
    let progress = progress_bar("events", head.0.saturating_sub(export.after.0));
    let mut after = export.after;
    while after < head {
        let page = store.read_log(after, PAGE, &export.filter).await?;
        if page.scanned_to <= after {
            return Err(StoreError::Corrupt { what: format!("the log ends at position {after}, before {head}") }.into());
        }
        page.events.iter().take_while(|event| event.position <= head).try_for_each(|event| write_line(out, event))?;
        after = page.scanned_to.min(head);
        progress.set_position(after.0 - export.after.0);
    }
    progress.finish_and_clear();
    Ok(())
}

/// A bar on stderr, if that is a terminal.
pub(super) fn progress_bar(what: &'static str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} {per_sec} {eta}");
    ProgressBar::new(length).with_message(what).with_style(style.expect("the template is valid"))
}

fn aside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    file.with_file_name(name)
}
