//! This file holds the order of each aggregate's commands in the log against the order in which they really happened.
//!
//! A command that began after another had been answered must have found the other's events: it decides at a version
//! that is not below the one the other left. Commands that overlapped may stand in either order.

use super::commands::Commands;
use super::finding::{Finding, Findings};
use crate::loadtest::history::{EndingKind, History};
use crate::stream::Version;

/// Compares every two commands of a stream, in one sweep along the run's time.
pub(super) fn check(history: &History, commands: &Commands<'_>, findings: &mut Findings) {
    let packed = history.packed_commands();
    let taken = (0..packed.len()).filter(|place| effect(history, commands, *place).is_some());
    let mut by_begin: Vec<u32> = taken.filter_map(|place| u32::try_from(place).ok()).collect();
    by_begin.sort_unstable_by_key(|place| (packed[*place as usize].stream, packed[*place as usize].begun_nanos));
    let mut by_answer: Vec<u32> =
        by_begin.iter().copied().filter(|place| packed[*place as usize].ending != EndingKind::Unknown).collect();
    by_answer.sort_unstable_by_key(|place| {
        let answered = &packed[*place as usize];
        (answered.stream, answered.answered_nanos())
    });

    let mut answered = by_answer.into_iter().map(|place| place as usize).peekable();
    let mut highest: Option<(usize, u64)> = None;
    for later in by_begin.into_iter().map(|place| place as usize) {
        let begin = (packed[later].stream, packed[later].begun_nanos);
        let is_over = |place: &usize| (packed[*place].stream, packed[*place].answered_nanos()) < begin;
        while let Some(earlier) = answered.next_if(is_over) {
            let left = effect(history, commands, earlier).map_or(0, |effect| effect.after);
            let is_of_this_stream = |place: usize| packed[place].stream == packed[earlier].stream;
            if highest.is_none_or(|(place, version)| !is_of_this_stream(place) || version < left) {
                highest = Some((earlier, left));
            }
        }
        let Some((earlier, left)) = highest.filter(|(place, _)| packed[*place].stream == begin.0) else { continue };
        let Some(effect) = effect(history, commands, later) else { continue };
        if effect.before < left {
            findings.add(Finding::RealTimeOrder {
                earlier: commands.sent(earlier),
                earlier_version: Version(left),
                later: commands.sent(later),
                later_version: Version(effect.after),
            });
        }
    }
}

/// The versions between which a command took effect.
struct Effect {
    before: u64,
    after: u64,
}

/// None for a command of which that is not known: refused, not executed, not in the log, or reported already.
fn effect(history: &History, commands: &Commands<'_>, place: usize) -> Option<Effect> {
    let (packed, found) = (&history.packed_commands()[place], commands.found(place));
    if found.is_reported {
        return None;
    }
    if packed.ending == EndingKind::Unchanged {
        return Some(Effect { before: packed.version.into(), after: packed.version.into() });
    }
    let after = u64::from(found.version);
    (found.events > 0).then(|| Effect { before: after.saturating_sub(found.events.into()), after })
}
