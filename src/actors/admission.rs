//! This file bounds what is in flight, in commands and in bytes. A permit travels with its command until the answer
//! is released; actor mailboxes have no bound of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is in flight.
#[derive(Debug)]
pub(crate) struct Admission {
    commands: AtomicUsize,
    bytes: AtomicUsize,
    max_commands: usize,
    max_bytes: usize,
}

impl Admission {
    pub(crate) fn new(max_commands: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { commands: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_commands, max_bytes })
    }

    /// A permit for a command of this size, or none when that would be too much. An empty engine takes any size, so
    /// that no command is too large for ever.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Option<Permit> {
        // The permit gives back what it counted, whichever of the two limits is broken.
        let commands = self.commands.fetch_add(1, Ordering::Relaxed) + 1;
        let in_flight = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let permit = Permit { admission: Arc::clone(self), bytes };
        let fits = commands <= self.max_commands && (in_flight <= self.max_bytes || in_flight == bytes);
        fits.then_some(permit)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.commands.load(Ordering::Acquire)
    }
}

/// The right of one command to be in flight.
#[derive(Debug)]
pub(crate) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.admission.commands.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_is_refused_beyond_either_limit_and_comes_back_when_dropped() {
        let admission = Admission::new(2, 100);

        let first = admission.admit(60).expect("within both limits");
        assert!(admission.admit(50).is_none(), "110 bytes");
        let second = admission.admit(40).expect("100 bytes");
        assert!(admission.admit(0).is_none(), "three commands");
        drop((first, second));

        assert_eq!(admission.in_flight(), 0);
        assert!(admission.admit(5_000).is_some(), "alone, any size is let in");
    }
}
