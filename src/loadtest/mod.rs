//! This file draws the load-test harness: what bears load, what is measured of it, and what is proven afterwards.
//!
//! ```text
//! cli          what was asked for (own: by a program)    error    why it cannot be done, and the exit codes
//! │            consent: whether a database that is not empty is meant; place: where a file may be written
//! ├─ workload  payments, mixed, cold; meter has its own aggregate and the workloads that need it
//! ├─ target    an engine in this process (counted: its group commits), or a daemon over HTTP
//! ├─ run       fill, warm up, measure, settle, verify
//! │  ├─ schedule, pacer   when operations begin: closed, open, or faster and faster
//! │  ├─ session           callers at work: keys, retries, times, what is remembered (history)
//! │  └─ measure, observe  counts; one interval a second (lag: all the time); progress
//! ├─ verify    reads the log back; checker holds the history against it and the read models
//! └─ results   a finished run: figures, settings, findings, verdict; thresholds, machine
//!    report, output, hdr_log   the same as a page, for a terminal, for other tools
//! ```

pub mod checker;
pub mod cli;
mod consent;
pub mod counted;
mod daemon;
pub mod error;
mod hdr_log;
pub mod history;
mod lag;
mod machine;
mod measure;
pub mod meter;
mod observe;
mod output;
pub mod own;
mod pacer;
mod place;
pub mod progress;
mod quantity;
pub mod random;
pub mod report;
pub mod results;
pub mod run;
pub mod schedule;
mod session;
mod setup;
mod summary;
pub mod target;
pub mod thresholds;
mod verify;
pub mod workload;
