//! This file lists the checker's own tests.
//!
//! ```text
//! story        a small run and its log, good until a test breaks it
//! good         histories that must pass, thousands of them
//! bad          histories that must be refused, each for one reason
//! broken_rows  read models that must be refused
//! ```

mod bad;
mod broken_rows;
mod good;
mod story;
