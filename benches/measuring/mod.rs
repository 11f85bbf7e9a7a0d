//! This folder is what the benchmarks share: callers and their latencies, databases, the processor's time, the table.
#![allow(dead_code, unused_imports, reason = "no benchmark needs all of it")]

mod callers;
mod databases;
mod gauge;
mod processor;
mod table;

pub(crate) use self::callers::{Measured, measure, scattered};
pub(crate) use self::databases::fresh_database;
pub(crate) use self::gauge::{Gauge, GaugeCommand, GaugeEvent, Totals, drive, note};
pub(crate) use self::processor::Processor;
pub(crate) use self::table::{Case, Plan, Run, middle, percentile};
