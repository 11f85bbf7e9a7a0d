//! This file breaks a good story in one way at a time: the checker must find that, and nothing else.

use uuid::Uuid;

use super::story::{Story, id, ms, recorded, says, till};
use crate::loadtest::checker::{Contents, Finding, Others};
use crate::loadtest::history::Ending;
use crate::stream::{GlobalPosition, Version};

fn acknowledged(version: u64, position: u64, events: u16) -> Ending {
    Ending::Acknowledged { version: Version(version), position: GlobalPosition(position), events }
}

#[test]
fn an_acknowledged_command_that_is_not_in_the_log_is_lost() {
    let mut story = Story::good();
    story.ended(20, "a", 20, acknowledged(6, 8, 1));

    let (version, position) = (Version(6), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Lost { sent: story.sent(20), version, position }]);
}

#[test]
fn an_acknowledged_command_whose_place_another_took_is_lost() {
    let mut story = Story::good();
    story.ended(20, "a", 20, acknowledged(6, 8, 1));
    story.acknowledged(21, "a", 1, 22);

    let (version, position) = (Version(6), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Lost { sent: story.sent(20), version, position }]);
}

#[test]
fn an_acknowledged_command_that_is_in_the_log_twice_is_doubled() {
    let mut story = Story::good();
    story.append_event(4, "a", 0);

    let (first, again) = (GlobalPosition(5), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Doubled { sent: story.sent(4), first, again }]);
}

#[test]
fn a_command_of_unknown_outcome_that_is_in_the_log_twice_is_doubled() {
    let mut story = Story::good();
    story.append_event(8, "b", 0);

    let (first, again) = (GlobalPosition(6), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Doubled { sent: story.sent(8), first, again }]);
}

#[test]
fn a_command_that_lacks_its_last_event_is_torn() {
    let mut story = Story::good();
    story.append_event(20, "a", 0);
    story.ended(20, "a", 20, acknowledged(7, 9, 2));

    let (acknowledged, found, position) = (Some(2), 1, GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Torn { sent: story.sent(20), acknowledged, found, position }]);
}

#[test]
fn a_command_of_unknown_outcome_that_lacks_its_first_event_is_torn() {
    let mut story = Story::good();
    story.append_event(20, "a", 1);
    story.ended(20, "a", 20, Ending::Unknown);

    let (acknowledged, found, position) = (None, 0, GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::Torn { sent: story.sent(20), acknowledged, found, position }]);
}

#[test]
fn a_command_whose_events_have_another_commands_between_them_is_scattered() {
    let mut story = Story::good();
    story.append_event(20, "a", 0);
    story.acknowledged(21, "b", 1, 20);
    story.append_event(20, "a", 1);
    story.ended(20, "a", 20, acknowledged(7, 10, 2));

    let (first, position) = (GlobalPosition(8), GlobalPosition(10));
    assert_eq!(story.findings(), [Finding::Scattered { sent: story.sent(20), first, position }]);
}

#[test]
fn a_command_with_more_events_than_acknowledged_has_too_many() {
    let mut story = Story::good();
    story.append(20, "a", 3);
    story.ended(20, "a", 20, acknowledged(7, 9, 2));

    let (acknowledged, position) = (2, GlobalPosition(10));
    assert_eq!(story.findings(), [Finding::TooManyEvents { sent: story.sent(20), acknowledged, position }]);
}

#[test]
fn a_refused_command_in_the_log_is_found() {
    let mut story = Story::good();
    story.append_event(5, "a", 0);

    let (code, position) = ("till_closed".into(), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::RefusedButPresent { sent: story.sent(5), code, position }]);
}

#[test]
fn a_command_in_the_log_that_was_answered_as_not_executed_is_found() {
    let mut story = Story::good();
    story.append_event(6, "b", 0);

    let position = GlobalPosition(8);
    assert_eq!(story.findings(), [Finding::NotExecutedButPresent { sent: story.sent(6), position }]);
}

#[test]
fn a_command_in_the_log_that_was_answered_as_changing_nothing_is_found() {
    let mut story = Story::good();
    story.append_event(7, "b", 0);

    assert_eq!(story.findings(), [Finding::UnchangedButPresent { sent: story.sent(7), position: GlobalPosition(8) }]);
}

#[test]
fn an_acknowledgement_of_another_position_than_the_logs_is_found() {
    let mut story = Story::good();
    story.command(10).ending = acknowledged(5, 6, 1);

    let (acknowledged, found) = (GlobalPosition(6), GlobalPosition(7));
    assert_eq!(story.findings(), [Finding::WrongPosition { sent: story.sent(10), acknowledged, found }]);
}

#[test]
fn an_acknowledgement_of_another_version_than_the_logs_is_found() {
    let mut story = Story::good();
    story.command(3).ending = acknowledged(2, 4, 2);

    let (acknowledged, found) = (Version(2), Version(3));
    assert_eq!(story.findings(), [Finding::WrongVersion { sent: story.sent(3), acknowledged, found }]);
}

#[test]
fn two_acknowledgements_that_were_swapped_are_found_both() {
    let mut story = Story::good();
    story.command(4).ending = acknowledged(5, 7, 1);
    story.command(10).ending = acknowledged(4, 5, 1);

    let swapped = |number: u128, acknowledged: u64, found: u64| Finding::WrongVersion {
        sent: story.sent(number),
        acknowledged: Version(acknowledged),
        found: Version(found),
    };
    assert_eq!(story.findings(), [swapped(4, 5, 4), swapped(10, 4, 5)]);
}

#[test]
fn two_events_that_were_swapped_between_their_commands_are_found_both() {
    let mut story = Story::good();
    let (command, event_id) = (story.log[4].command, story.log[4].event_id);
    (story.log[4].command, story.log[4].event_id) = (story.log[6].command, story.log[6].event_id);
    (story.log[6].command, story.log[6].event_id) = (command, event_id);

    let swapped = |number: u128, acknowledged: u64, found: u64| Finding::WrongVersion {
        sent: story.sent(number),
        acknowledged: Version(acknowledged),
        found: Version(found),
    };
    assert_eq!(story.findings(), [swapped(10, 5, 4), swapped(4, 4, 5)]);
}

/// Command `number` with other contents between these positions.
fn other_contents(story: &Story, number: u128, first: u64, last: u64) -> Finding {
    let (first, last) = (GlobalPosition(first), GlobalPosition(last));
    Finding::OtherContents { sent: story.sent(number), first, last }
}

#[test]
fn an_event_that_does_not_say_what_its_command_decides_is_found() {
    let mut story = Story::good();
    story.log[4].contents = Contents::of("Paid", r#"{"cents":401}"#);

    assert_eq!(story.findings(), [other_contents(&story, 4, 5, 5)], "400 cents were paid");
}

#[test]
fn an_event_of_another_type_than_its_command_decides_is_found() {
    let mut story = Story::good();
    story.log[6].contents = Contents::of("Owed", r#"{"cents":1000}"#);

    assert_eq!(story.findings(), [other_contents(&story, 10, 7, 7)]);
}

#[test]
fn what_two_commands_decide_and_the_log_has_swapped_is_found_of_both() {
    let mut story = Story::good();
    (story.log[4].contents, story.log[6].contents) = (story.log[6].contents, story.log[4].contents);

    assert_eq!(story.findings(), [other_contents(&story, 4, 5, 5), other_contents(&story, 10, 7, 7)]);
}

#[test]
fn one_of_many_events_that_says_something_else_is_found() {
    let mut story = Story::good();
    story.log[2].contents = Contents::of("Paid", r#"{"cents":0}"#);

    assert_eq!(story.findings(), [other_contents(&story, 3, 3, 4)]);
}

#[test]
fn events_of_one_command_that_say_the_right_things_in_the_wrong_order_are_found() {
    let mut story = Story::good();
    (story.log[2].contents, story.log[3].contents) = (story.log[3].contents, story.log[2].contents);

    assert_eq!(story.findings(), [other_contents(&story, 3, 3, 4)]);
}

#[test]
fn a_command_of_unknown_outcome_with_other_contents_in_the_log_is_found() {
    let mut story = Story::good();
    story.log[5].contents = Contents::of("Paid", r#"{"cents":0}"#);

    assert_eq!(story.findings(), [other_contents(&story, 8, 6, 6)]);
}

#[test]
fn a_command_of_unknown_outcome_of_which_the_log_has_only_the_beginning_is_found() {
    let mut story = Story::good();
    story.append(20, "a", 1);
    story.ended(20, "a", 20, Ending::Unknown);
    story.command(20).contents = Some(says(20, 0).and(says(20, 1)));

    assert_eq!(story.findings(), [other_contents(&story, 20, 8, 8)], "it decides two events");
}

#[test]
fn an_answer_at_a_version_that_the_stream_never_reached_is_found() {
    let mut story = Story::good();
    story.command(7).ending = Ending::Unchanged { version: Version(3), position: GlobalPosition(5) };

    let (answered, last) = (Version(3), Version(2));
    let found = story.findings();
    assert_eq!(found[0], Finding::VersionNotReached { sent: story.sent(7), answered, last });
    assert_eq!(found.len(), 1);
}

#[test]
fn an_event_on_another_stream_than_its_command_was_sent_to_is_found() {
    let mut story = Story::good();
    story.append(20, "b", 1);
    story.ended(20, "a", 20, acknowledged(3, 8, 1));

    let (found, position) = (till("b"), GlobalPosition(8));
    assert_eq!(story.findings(), [Finding::WrongStream { sent: story.sent(20), found, position }]);
}

#[test]
fn an_event_whose_command_nobody_sent_is_foreign() {
    let mut story = Story::good();
    story.append(99, "a", 1);

    let foreign = Finding::Foreign { command: id(99), stream: till("a"), position: GlobalPosition(8) };
    assert_eq!(story.findings(), [foreign]);
}

#[test]
fn an_event_whose_id_does_not_follow_from_the_command_it_names_is_forged() {
    let mut story = Story::good();
    story.log[6].event_id = Uuid::from_u128(77);

    let (event_id, position) = (Uuid::from_u128(77), GlobalPosition(7));
    assert_eq!(story.findings(), [Finding::Forged { sent: story.sent(10), event_id, position }]);
}

#[test]
fn a_position_that_no_event_has_is_a_hole() {
    let mut story = Story::good();
    story.log[6].position = GlobalPosition(9);
    story.command(10).ending = acknowledged(5, 9, 1);
    story.reads.truncate(2);

    assert_eq!(story.findings(), [Finding::HoleInPositions { first: GlobalPosition(7), last: GlobalPosition(8) }]);
}

#[test]
fn two_positions_in_the_wrong_order_are_found() {
    let mut story = Story::good();
    story.reads.clear();
    story.log.swap(5, 6);
    story.log[5].recorded_at = recorded(6);

    let checked = story.check_from(GlobalPosition::START, GlobalPosition(7), Others::None);

    let (position, after) = (GlobalPosition(6), GlobalPosition(7));
    assert_eq!(checked.findings.kept(), [Finding::PositionsOutOfOrder { position, after }]);
}

#[test]
fn a_log_that_ends_before_its_head_is_found() {
    let story = Story::good();

    let checked = story.check_from(GlobalPosition::START, GlobalPosition(8), Others::None);

    let (last, head) = (GlobalPosition(7), GlobalPosition(8));
    assert_eq!(checked.findings.kept(), [Finding::EndsBeforeHead { last, head }]);
}

#[test]
fn a_version_that_no_event_has_is_a_hole() {
    let mut story = Story::good();
    story.log[6].version = Version(6);
    story.command(10).ending = acknowledged(6, 7, 1);
    story.reads.truncate(2);

    let (first, last) = (Version(5), Version(5));
    assert_eq!(story.findings(), [Finding::HoleInVersions { stream: till("a"), first, last }]);
}

#[test]
fn two_versions_in_the_wrong_order_are_found() {
    let mut story = Story::good();
    story.reads.clear();
    (story.log[4].version, story.log[6].version) = (Version(5), Version(4));
    story.command(4).ending = acknowledged(5, 5, 1);
    story.command(10).ending = acknowledged(4, 7, 1);
    // The two commands overlapped, so that either order of their versions is right.
    story.command(4).answered = ms(13);

    let (version, after, position) = (Version(4), Version(5), GlobalPosition(7));
    assert_eq!(story.findings(), [Finding::VersionsOutOfOrder { stream: till("a"), version, after, position }]);
}

#[test]
fn an_event_recorded_before_its_predecessor_is_found() {
    let mut story = Story::good();
    story.log[3].recorded_at = recorded(1);

    let (position, recorded_at, previous) = (GlobalPosition(4), recorded(1), recorded(3));
    assert_eq!(story.findings(), [Finding::TimeWentBack { position, recorded_at, previous }]);
}

#[test]
fn a_command_that_took_effect_before_one_answered_when_it_began_is_found() {
    let mut story = Story::good();
    story.acknowledged(21, "a", 1, 22);
    story.acknowledged(20, "a", 1, 20);

    let finding = Finding::RealTimeOrder {
        earlier: story.sent(20),
        earlier_version: Version(7),
        later: story.sent(21),
        later_version: Version(6),
    };
    assert_eq!(story.findings(), [finding]);
}

#[test]
fn a_command_of_unknown_outcome_that_took_effect_before_one_answered_when_it_began_is_found() {
    let mut story = Story::good();
    story.append(21, "a", 1);
    story.ended(21, "a", 22, Ending::Unknown);
    story.acknowledged(20, "a", 1, 20);

    let finding = Finding::RealTimeOrder {
        earlier: story.sent(20),
        earlier_version: Version(7),
        later: story.sent(21),
        later_version: Version(6),
    };
    assert_eq!(story.findings(), [finding]);
}

#[test]
fn an_answer_of_nothing_to_change_that_missed_an_acknowledged_event_is_found() {
    let mut story = Story::good();
    story.ended(20, "a", 20, Ending::Unchanged { version: Version(4), position: GlobalPosition(7) });

    let finding = Finding::RealTimeOrder {
        earlier: story.sent(10),
        earlier_version: Version(5),
        later: story.sent(20),
        later_version: Version(4),
    };
    assert_eq!(story.findings(), [finding]);
}

#[test]
fn a_read_answered_below_its_token_is_stale() {
    let mut story = Story::good();
    story.read("a", 7, 6, 4);

    let (token, answered_at) = (GlobalPosition(7), GlobalPosition(6));
    assert_eq!(story.findings(), [Finding::StaleRead { stream: till("a"), token, answered_at }]);
}

#[test]
fn a_read_that_shows_an_older_row_than_its_position_says_is_stale() {
    let mut story = Story::good();
    story.read("a", 5, 5, 3);

    let (answered_at, seen, expected) = (GlobalPosition(5), Version(3), Version(4));
    assert_eq!(story.findings(), [Finding::StaleRow { stream: till("a"), answered_at, seen, expected }]);
}

#[test]
fn a_read_that_shows_no_row_where_there_must_be_one_is_stale() {
    let mut story = Story::good();
    story.read("b", 2, 2, 0);

    let (answered_at, seen, expected) = (GlobalPosition(2), Version(0), Version(1));
    assert_eq!(story.findings(), [Finding::StaleRow { stream: till("b"), answered_at, seen, expected }]);
}

#[test]
fn a_read_that_shows_a_version_which_is_not_in_the_log_is_found() {
    let mut story = Story::good();
    story.read("b", 0, 4, 3);

    let (answered_at, seen, last) = (GlobalPosition(4), Version(3), Version(2));
    assert_eq!(story.findings(), [Finding::ReadAheadOfLog { stream: till("b"), answered_at, seen, last }]);
}

#[test]
fn a_read_answered_at_a_position_behind_the_head_is_found() {
    let mut story = Story::good();
    story.read("a", 0, 8, 5);

    let (answered_at, head) = (GlobalPosition(8), GlobalPosition(7));
    assert_eq!(story.findings(), [Finding::ReadBeyondHead { stream: till("a"), answered_at, head }]);
}

#[test]
fn a_history_that_has_one_id_for_two_commands_is_at_fault_itself() {
    let mut story = Story::good();
    story.ended(4, "b", 20, acknowledged(2, 6, 1));

    assert_eq!(story.findings(), [Finding::RecordedTwice { sent: story.sent(4) }]);
}

#[test]
fn of_many_findings_of_a_kind_the_first_are_kept_and_all_are_counted() {
    let mut story = Story::good();
    for number in 100..150 {
        story.append(number, "a", 1);
    }

    let checked = story.check();

    assert_eq!(checked.findings.counts().get("foreign"), Some(&50));
    assert_eq!(checked.findings.kept().len(), 20);
    let results = checked.to_results();
    assert_eq!((results.counts["foreign"], results.findings.len(), results.passed()), (50, 20, false));
}

#[test]
fn a_finding_names_command_stream_and_position_in_a_sentence() {
    let mut story = Story::good();
    story.append_event(5, "a", 0);

    let sentence = "pay of till-a (command 00000000-0000-0000-0000-000000000005) was refused (till_closed) and is in \
                    the log at position 8";
    assert_eq!(story.findings()[0].to_string(), sentence);
}
