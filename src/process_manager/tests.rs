//! Contract of process managers.
