//! The daemon and an identity provider, through kills.
