//! This file lists the built-in domains: pure rules, one aggregate a file. Nothing here waits, asks a clock, or knows
//! that there is a database.

pub mod currency;
pub mod email;
pub mod identity;
pub mod money;
pub mod payment;
pub mod payment_expiry;
pub mod person_name;
pub mod reason;
pub mod role;
pub mod time;
pub mod user;
pub mod username;
