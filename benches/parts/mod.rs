//! This folder is the small parts of the hot path, one turn of each: `micro` times them, `instructions` counts.
//!
//! ```text
//! domain   decide, apply, encode, decode, chain: one payment's events
//! execute  a whole command on a hot aggregate, in memory
//! reads    a hot read model of payments: by key, a page in order, an event projected into it
//! ```

mod domain;
mod execute;
mod reads;

/// One turn; what it works on was made before.
pub(crate) type Turn = Box<dyn FnMut()>;

/// A part of the hot path.
pub(crate) struct Part {
    /// What it is called in tables and files of figures.
    pub(crate) name: &'static str,
    /// Makes what a turn needs.
    pub(crate) set_up: fn() -> Turn,
}

/// All parts, in the order of a command's way.
pub(crate) const PARTS: [Part; 11] = [
    Part { name: "decide", set_up: domain::decide },
    Part { name: "apply", set_up: domain::apply },
    Part { name: "encode an event", set_up: domain::encode },
    Part { name: "decode an event", set_up: domain::decode },
    Part { name: "hash a batch of 100", set_up: domain::hash },
    Part { name: "execute on a stream of 10", set_up: || execute::on_a_stream_of(10) },
    Part { name: "execute on a stream of 1,000", set_up: || execute::on_a_stream_of(1_000) },
    Part { name: "execute on a stream of 100,000", set_up: || execute::on_a_stream_of(100_000) },
    Part { name: "project an event", set_up: reads::project },
    Part { name: "row by key", set_up: reads::by_key },
    Part { name: "page of 100", set_up: reads::page_of_100 },
];
