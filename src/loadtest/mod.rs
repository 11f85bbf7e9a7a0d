//! This file lists the parts of the load-test harness.
//!
//! ```text
//! history  what a run remembers of every command and read
//! checker  holds the history against the log and the read models
//! results  a finished run: figures, settings, findings, verdict
//! report   the same as one HTML page with charts
//! ```

pub mod checker;
pub mod history;
pub mod report;
pub mod results;
