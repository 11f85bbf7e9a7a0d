//! This file lists everything that bounds an engine, with its defaults.

use std::time::Duration;

/// What bounds an engine. Every limit has a default.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Commands in flight; more are refused as overloaded. Default 4,096, which a store of 1,000 commands a second
    /// answers within the default deadline.
    pub max_commands: usize,
    /// Bytes of the commands in flight. Default 64 MiB.
    pub max_command_bytes: usize,
    /// Internal commands in flight, beside the others. Default 256.
    pub max_internal_commands: usize,
    /// Deadline of commands that bring none. Default 5 s.
    pub command_deadline: Duration,
    /// Events one command may append. Default 1,000.
    pub max_events_per_command: usize,
    /// Bytes of one event's data. Default 1 MiB.
    pub max_event_bytes: usize,
    /// Commands in one batch of the journal. Default 1,024.
    pub max_batch_commands: usize,
    /// Bytes in one batch of the journal. Default 4 MiB.
    pub max_batch_bytes: usize,
    /// Bytes of recent events kept in memory. Default 32 MiB.
    pub max_feed_bytes: usize,
    /// An aggregate unused for this long is forgotten. Default 5 min.
    pub passivate_after: Duration,
    /// Bytes of resident aggregates, about; the longest unused are forgotten first. Default 256 MiB.
    pub max_resident_bytes: usize,
    /// Loads of cold aggregates under way at once; each may carry many. Default 4.
    pub max_loads: usize,
    /// A checkpoint is saved when this long has passed since the last, if anything changed. Default 1 s.
    pub checkpoint_every: Duration,
    /// A checkpoint is saved when this many rows changed. Default 10,000; at four times as many the projection waits.
    pub checkpoint_rows: usize,
    /// How long a read waits for its position when it does not say. Default 2 s.
    pub read_wait: Duration,
    /// Times a command is decided again because its predecessor fell. Default 8.
    pub max_redecisions: u32,
    /// Days that outcomes of clients' commands are kept. Default 7.
    pub outcomes_retention_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_commands: 4_096,
            max_command_bytes: 64 << 20,
            max_internal_commands: 256,
            command_deadline: Duration::from_secs(5),
            max_events_per_command: 1_000,
            max_event_bytes: 1 << 20,
            max_batch_commands: 1_024,
            max_batch_bytes: 4 << 20,
            max_feed_bytes: 32 << 20,
            passivate_after: Duration::from_secs(300),
            max_resident_bytes: 256 << 20,
            max_loads: 4,
            checkpoint_every: Duration::from_secs(1),
            checkpoint_rows: 10_000,
            read_wait: Duration::from_secs(2),
            max_redecisions: 8,
            outcomes_retention_days: 7,
        }
    }
}

impl Limits {
    /// Whether an engine can run within these.
    ///
    /// # Errors
    /// A sentence that names the limit and the least it can be.
    pub fn validate(&self) -> Result<(), String> {
        let counts = [
            ("max_commands", self.max_commands),
            ("max_command_bytes", self.max_command_bytes),
            ("max_internal_commands", self.max_internal_commands),
            ("max_events_per_command", self.max_events_per_command),
            ("max_event_bytes", self.max_event_bytes),
            ("max_batch_commands", self.max_batch_commands),
            ("max_batch_bytes", self.max_batch_bytes),
            ("max_loads", self.max_loads),
            ("checkpoint_rows", self.checkpoint_rows),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(format!("{name} is 0; it must be at least 1"));
        }
        let times = [("command_deadline", self.command_deadline), ("checkpoint_every", self.checkpoint_every)];
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((name, _)) => Err(format!("{name} is zero; it must be longer")),
            None => Ok(()),
        }
    }
}
