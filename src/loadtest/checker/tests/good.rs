//! This file holds the checker to histories that must pass: hand-made ones and thousands of random ones.

use std::time::Duration;

use proptest::prelude::*;

use super::story::{Story, id, till};
use crate::loadtest::checker::{Contents, Finding, Others, Tally};
use crate::loadtest::history::{CommandRecord, Ending, ReadRecord};
use crate::stream::{GlobalPosition, Version};

#[test]
fn a_good_story_has_no_findings_and_is_counted() {
    let checked = Story::good().check();

    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert_eq!(checked.tally, Tally { commands: 10, acknowledged: 5, unknown: 2, unknown_in_log: 1 });
    assert_eq!((checked.reads, checked.events), (3, 7));
}

#[test]
fn an_empty_run_on_an_empty_log_passes() {
    assert!(Story::default().check().findings.is_empty());
}

#[test]
fn a_run_on_a_log_that_had_events_is_checked_from_where_it_began() {
    let mut story = Story::good();
    // The first four events are older than the run: versions 1 to 3 of till a, version 1 of till b.
    story.commands.retain(|record| ![id(1), id(2), id(3)].contains(&record.command));
    story.log.drain(..4);

    let checked = story.check_from(GlobalPosition(4), GlobalPosition(7), Others::None);

    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

#[test]
fn events_of_others_on_streams_that_the_run_never_named_pass_when_there_are_others() {
    let mut story = Story::good();
    story.append(99, "elsewhere", 1);

    let checked = story.check_from(GlobalPosition::START, GlobalPosition(8), Others::OnOtherStreams);

    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
    assert!(!story.findings().is_empty(), "without others the event is foreign");
}

/// One call of a random run: when it was sent, took effect and was answered, in microseconds.
#[derive(Debug, Clone)]
struct Call {
    key: usize,
    begun: u64,
    to_effect: u64,
    to_answer: u64,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Append(u16),
    Nothing,
    Refused,
    NotExecuted,
    AppendUnknown(u16),
    NeverArrived,
    /// A read of a model that is so many events behind, with a token so much older.
    Read {
        behind: u64,
        token_age: u64,
    },
}

fn call() -> impl Strategy<Value = Call> {
    let what = prop_oneof![
        5 => (1..4_u16).prop_map(What::Append),
        1 => Just(What::Nothing),
        1 => Just(What::Refused),
        1 => Just(What::NotExecuted),
        1 => (1..4_u16).prop_map(What::AppendUnknown),
        1 => Just(What::NeverArrived),
        3 => (0..5_u64, 0..5_u64).prop_map(|(behind, token_age)| What::Read { behind, token_age }),
    ];
    (0..4_usize, 0..400_u64, 0..60_u64, 0..60_u64, what).prop_map(|(key, begun, to_effect, to_answer, what)| Call {
        key,
        begun,
        to_effect,
        to_answer,
        what,
    })
}

/// The story of these calls, each taking effect between its begin and its answer.
fn story_of(mut calls: Vec<Call>) -> Story {
    calls.sort_by_key(|call| call.begun + call.to_effect);
    let mut story = Story::default();
    for (call, number) in calls.iter().zip(1..) {
        let key = ["a", "b", "c", "d"][call.key];
        let begun = Duration::from_micros(call.begun);
        let answered = begun + Duration::from_micros(call.to_effect + call.to_answer);
        let head = story.log.len() as u64;
        let version_at = |position: u64| {
            let of_this = story.log.iter().take_while(|event| event.position.0 <= position);
            Version(of_this.filter(|event| event.stream == till(key)).count() as u64)
        };
        let ending = match call.what {
            What::Read { behind, token_age } => {
                let answered_at = head.saturating_sub(behind);
                story.reads.push(ReadRecord {
                    stream: till(key),
                    token: GlobalPosition(answered_at.saturating_sub(token_age)),
                    begun,
                    answered,
                    answered_at: GlobalPosition(answered_at),
                    // The position is read first: the row may be newer.
                    seen: version_at(answered_at + behind.min(token_age)),
                });
                continue;
            }
            What::Append(events) => {
                let (version, position) = story.append(number, key, events);
                Ending::Acknowledged { version, position, events }
            }
            What::AppendUnknown(events) => {
                story.append(number, key, events);
                Ending::Unknown
            }
            What::Nothing => Ending::Unchanged { version: version_at(head), position: GlobalPosition(head) },
            What::Refused => Ending::Refused { code: format!("no_{}", number % 3) },
            What::NotExecuted => Ending::NotExecuted,
            What::NeverArrived => Ending::Unknown,
        };
        let (command, stream, contents) = (id(number), till(key), story.contents(number, &ending));
        story.commands.push(CommandRecord { command, stream, kind: "pay", begun, answered, ending, contents });
    }
    story
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_right_engine_answers_passes(calls in prop::collection::vec(call(), 0..60)) {
        let story = story_of(calls);

        let checked = story.check();

        prop_assert!(checked.findings.is_empty(), "{:?}", checked.findings);
        prop_assert_eq!(checked.events, story.log.len() as u64);
    }

    #[test]
    fn a_log_that_lacks_any_event_is_refused(calls in prop::collection::vec(call(), 1..40), which in any::<prop::sample::Index>()) {
        let mut story = story_of(calls);
        prop_assume!(!story.log.is_empty());
        let head = story.log.last().map(|event| event.position).unwrap();
        story.log.remove(which.index(story.log.len()));

        let checked = story.check_from(GlobalPosition::START, head, Others::None);

        prop_assert!(!checked.findings.is_empty());
    }

    #[test]
    fn a_log_in_which_any_event_says_something_else_is_refused(calls in prop::collection::vec(call(), 1..40), which in any::<prop::sample::Index>()) {
        let mut story = story_of(calls);
        prop_assume!(!story.log.is_empty());
        let changed = which.index(story.log.len());
        story.log[changed].contents = Contents::of("Paid", r#"{"cents":-1}"#);

        let findings = story.findings();

        let wanted = |finding: &Finding| matches!(finding, Finding::OtherContents { sent, .. } if sent.command == story.log[changed].command);
        prop_assert!(findings.len() == 1 && wanted(&findings[0]), "{:?}", findings);
    }

    #[test]
    fn a_log_with_any_event_twice_is_refused(calls in prop::collection::vec(call(), 1..40), which in any::<prop::sample::Index>()) {
        let mut story = story_of(calls);
        prop_assume!(!story.log.is_empty());
        let mut again = story.log[which.index(story.log.len())].clone();
        again.position = GlobalPosition(story.log.len() as u64 + 1);
        again.version = Version(story.log.iter().filter(|event| event.stream == again.stream).count() as u64 + 1);
        again.recorded_at = story.log.last().map(|event| event.recorded_at).unwrap();
        story.log.push(again);

        let checked = story.check();

        prop_assert_eq!(checked.findings.counts().keys().copied().collect::<Vec<_>>(), ["doubled"]);
    }
}
