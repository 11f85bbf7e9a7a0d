//! This file lists the built-in synchronisers: which outside system follows which aggregate, one a file.

pub mod user_accounts;
