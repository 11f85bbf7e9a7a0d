//! This file holds what readers were shown against the log as it was at the position they were answered at.

use super::finding::{Finding, Findings};
use super::sequence::Sequence;
use crate::loadtest::history::{History, PackedRead};
use crate::stream::{GlobalPosition, Version};

/// The reads of a history, in the order of the positions they were answered at.
pub(super) struct Reads<'h> {
    history: &'h History,
    /// Places in the history.
    by_position: Vec<u32>,
    /// How many of them were checked.
    checked: usize,
}

impl<'h> Reads<'h> {
    /// None of them checked.
    pub(super) fn new(history: &'h History) -> Self {
        let reads = history.packed_reads();
        let count = u32::try_from(reads.len()).expect("four thousand million reads do not fit in memory");
        let mut by_position: Vec<u32> = (0..count).collect();
        by_position.sort_unstable_by_key(|place| reads[*place as usize].answered_at);
        Self { history, by_position, checked: 0 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.by_position.len() as u64
    }

    /// Checks those answered below `position`, which the log is just about to pass; `versions` are those before it.
    pub(super) fn answered_below(
        &mut self,
        position: GlobalPosition,
        versions: &[Option<Sequence>],
        findings: &mut Findings,
    ) {
        while let Some(place) = self.by_position.get(self.checked) {
            let read = &self.history.packed_reads()[*place as usize];
            if read.answered_at >= position.0 {
                break;
            }
            self.checked += 1;
            if let Some(finding) = self.stale(read, versions[read.stream as usize].as_ref()) {
                findings.add(finding);
            }
        }
    }

    /// Reports those answered at a position behind the head.
    pub(super) fn answered_beyond(&self, head: GlobalPosition, findings: &mut Findings) {
        for place in &self.by_position[self.checked..] {
            let read = &self.history.packed_reads()[*place as usize];
            let (stream, answered_at) = (self.stream(read), GlobalPosition(read.answered_at));
            findings.add(Finding::ReadBeyondHead { stream, answered_at, head });
        }
    }

    /// Reports those that showed a version which no event made.
    pub(super) fn ahead_of_log(&self, versions: &[Option<Sequence>], findings: &mut Findings) {
        for place in &self.by_position[..self.checked] {
            let read = &self.history.packed_reads()[*place as usize];
            // A stream without an event behind the start may stand at any version.
            let Some(last) = versions[read.stream as usize].as_ref().map(Sequence::last) else { continue };
            if u64::from(read.seen) > last {
                let (stream, answered_at) = (self.stream(read), GlobalPosition(read.answered_at));
                let (seen, last) = (Version(read.seen.into()), Version(last));
                findings.add(Finding::ReadAheadOfLog { stream, answered_at, seen, last });
            }
        }
    }

    fn stale(&self, read: &PackedRead, versions: Option<&Sequence>) -> Option<Finding> {
        let answered_at = GlobalPosition(read.answered_at);
        if read.answered_at < read.token {
            let token = GlobalPosition(read.token);
            return Some(Finding::StaleRead { stream: self.stream(read), token, answered_at });
        }
        let expected = versions.map(Sequence::last).filter(|version| *version > u64::from(read.seen))?;
        let (seen, expected) = (Version(read.seen.into()), Version(expected));
        Some(Finding::StaleRow { stream: self.stream(read), answered_at, seen, expected })
    }

    fn stream(&self, read: &PackedRead) -> crate::stream::StreamId {
        self.history.streams()[read.stream as usize].clone()
    }
}
