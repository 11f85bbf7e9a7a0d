//! This file lists the built-in domains: pure rules, one aggregate a file. Nothing here waits, asks a clock, or knows
//! that there is a database.

pub mod currency;
pub mod money;
pub mod payment;
pub mod payment_expiry;
