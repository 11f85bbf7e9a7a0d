//! This file lists the parts of the load-test harness.
//!
//! ```text
//! history  what a run remembers of every command and read
//! results  a finished run: figures, settings, findings, verdict
//! ```

pub mod history;
pub mod results;
