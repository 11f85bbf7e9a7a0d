//! This file holds the contract of [`crate::store`] as tests that any store can be put through, and the list of them.
//!
//! ```text
//! appends  refusals  values  claims  outcomes  writers      what commits, what does not, and who may
//! streams  snapshots  pages                                 what is read back
//! tables  checkpoints                                       read tables
//! ```
//! Every case is a public function named by what it shows; it panics when the store does not keep that promise. A case
//! has the log to itself, and takes no longer than a few seconds on a slow disk.

use async_trait::async_trait;

use crate::store::SharedStore;

/// Fails unless the error is of this form, and shows what it is instead.
macro_rules! assert_error {
    ($error:expr, $wanted:pat) => {
        let error = $error;
        assert!(matches!(error, $wanted), "wanted {}, found {error:?}", stringify!($wanted));
    };
}

pub mod appends;
pub mod audit;
pub mod checkpoints;
pub mod claims;
pub mod outcomes;
pub mod pages;
pub mod refusals;
pub mod snapshots;
pub mod streams;
pub mod tables;
pub mod values;
pub mod writers;

mod open_log;

/// A log, empty at first, that a case may open as often as it likes. Whatever it needs to exist (a folder, a database)
/// lives for as long as this value. Every case has one of its own and stays on one thread with it.
#[async_trait(?Send)]
pub trait StoreUnderTest {
    /// Opens a store on this log: the same log at every call, with connections of its own.
    async fn open(&self) -> SharedStore;
}

/// Makes a `#[tokio::test]` of every case. The expression makes a fresh [`StoreUnderTest`] and may await; the crate
/// that calls this needs `tokio` with its features `macros` and `rt-multi-thread`.
///
/// ```no_run
/// # use essaim::store::{SharedStore, memory::MemoryStore};
/// # use essaim::testing::StoreUnderTest;
/// struct Memory(MemoryStore);
///
/// #[async_trait::async_trait(?Send)]
/// impl StoreUnderTest for Memory {
///     async fn open(&self) -> SharedStore {
///         std::sync::Arc::new(self.0.clone())
///     }
/// }
///
/// essaim::store_conformance_tests!(Memory(MemoryStore::new()));
/// ```
#[macro_export]
macro_rules! store_conformance_tests {
    ($log:expr) => {
        $crate::store_conformance_tests! { @cases $log =>
            appends:
                the_head_of_an_empty_log_stands_before_the_first_event
                an_empty_log_has_nothing_to_read
                a_log_keeps_its_id
                an_appended_batch_is_read_back_as_written_on_every_connection
                the_head_describes_the_last_event
                positions_are_dense_across_batches
                one_batch_appends_to_many_streams
                a_batch_without_events_moves_only_the_batch_of_the_head
                a_batch_of_2_000_events_commits_whole
                the_chain_of_hashes_recomputed_over_the_log_ends_at_the_head
                a_store_describes_itself_and_its_durability
            ;
            refusals:
                an_append_of_a_lower_epoch_is_fenced
                an_append_of_a_higher_epoch_is_fenced
                an_append_behind_another_batch_is_fenced
                a_batch_sent_twice_is_fenced_the_second_time
                a_version_that_exists_already_is_a_conflict
                one_version_twice_in_a_batch_is_a_conflict
                a_conflict_at_the_end_of_a_large_batch_undoes_all_of_it
                positions_that_leave_a_hole_are_refused
                positions_that_exist_already_are_refused
                refused_batches_leave_no_hole_in_the_positions
                the_fence_lets_the_present_writer_pass_and_writes_nothing
                the_fence_stops_a_writer_of_another_epoch_or_batch
            ;
            values:
                texts_in_any_script_survive
                json_is_kept_byte_for_byte
                a_payload_of_one_mebibyte_survives
                metadata_is_kept_byte_for_byte
                recorded_at_keeps_its_microseconds
                events_of_one_batch_keep_their_own_times
                the_longest_stream_name_is_kept
                schema_versions_survive
                streams_that_look_alike_are_apart
                a_key_with_u0000_cannot_be_stored
                an_event_type_with_u0000_cannot_be_stored
                json_with_a_raw_u0000_cannot_be_stored
                metadata_with_a_raw_u0000_cannot_be_stored
                a_claim_with_u0000_cannot_be_stored
            ;
            claims:
                a_claim_that_was_taken_has_its_holder
                free_claims_have_no_holder
                claims_of_two_scopes_are_apart
                claims_that_look_alike_are_apart
                the_holder_keeps_its_category
                a_claim_that_another_holds_refuses_the_batch
                all_taken_claims_are_named
                a_released_claim_is_free
                a_transferred_claim_has_its_new_holder
                two_holders_swap_their_claims_in_one_batch
                releasing_a_free_claim_is_refused
                releasing_what_another_holds_is_refused
                transferring_a_free_claim_is_refused
                transferring_from_the_wrong_holder_is_refused
                one_bad_release_undoes_all_claims_of_its_batch
                a_thousand_claims_change_in_one_batch
            ;
            outcomes:
                every_kind_of_outcome_is_read_back_as_written
                unknown_commands_have_no_outcome
                a_thousand_outcomes_are_kept_in_one_batch
                a_second_outcome_of_a_command_is_a_conflict
                pruning_removes_what_was_recorded_before_the_bound
                pruning_leaves_outcomes_of_internal_commands
                pruning_counts_thousands_and_leaves_the_log_alone
                an_expired_command_id_can_be_used_again
            ;
            writers:
                becoming_the_writer_raises_the_epoch_and_names_the_writer
                a_take_over_leaves_the_log_as_it_is
                a_living_writer_is_not_replaced
                a_writer_replaced_by_force_is_fenced
                a_successor_appends_behind_what_it_found
                a_dropped_writer_is_replaced
                a_released_log_is_free_at_once
                what_was_appended_is_there_after_many_restarts
                a_fenced_writer_cannot_give_the_log_away
                one_of_many_starts_at_once_becomes_the_writer
                of_many_forced_starts_only_the_last_can_append
                a_reclaim_raises_the_epoch_and_keeps_the_writer
                after_a_reclaim_batches_of_the_epoch_before_are_fenced
                a_reclaim_tells_whether_the_last_batch_is_in
                a_reclaim_may_be_repeated
                a_renewed_log_has_another_id_and_keeps_its_events
                a_writer_that_reclaimed_is_still_not_replaced
            ;
            streams:
                a_stream_is_read_behind_a_version_and_up_to_a_limit
                nothing_is_read_where_there_is_nothing
                streams_with_one_text_but_other_categories_are_apart
                streams_are_loaded_in_the_order_asked
                loaded_events_are_those_that_were_appended
                a_load_says_whether_there_is_more_behind_its_limit
                a_stream_asked_for_twice_is_loaded_twice
                loading_no_stream_gives_none
                a_thousand_streams_are_loaded_in_one_go
            ;
            snapshots:
                a_snapshot_takes_the_place_of_the_events_before_it
                a_snapshot_of_the_last_version_leaves_no_events
                a_snapshot_nobody_asked_for_is_not_given
                a_snapshot_of_another_schema_is_ignored
                a_snapshot_whose_event_has_another_hash_is_ignored
                a_snapshot_beyond_the_end_of_its_stream_is_ignored
                a_newer_snapshot_replaces_the_older_one
                an_older_snapshot_than_the_kept_one_is_ignored
                a_snapshot_of_the_same_version_replaces_the_kept_one
                the_limit_of_a_load_counts_from_the_snapshot
                each_request_of_a_load_has_its_own_snapshot_or_none
                snapshots_of_any_size_survive
            ;
            pages:
                the_log_is_read_behind_a_position_and_up_to_a_limit
                a_page_of_large_events_ends_before_its_limit
                a_page_at_the_end_of_the_log_is_empty
                a_page_from_beyond_the_end_finds_nothing
                pages_of_any_size_give_the_whole_log_once
                the_log_is_filtered_by_category
                the_log_is_filtered_by_event_type
                the_log_is_filtered_by_category_and_event_type_together
                a_filter_compares_whole_names
                a_filter_that_nothing_passes_still_gets_to_the_head
                filtered_events_are_those_of_the_log
                readers_beside_a_writer_see_only_dense_prefixes
                readers_beside_a_writer_never_see_a_refused_batch
            ;
            audit:
                events_are_found_by_stream_principal_and_type_newest_first
                a_search_keeps_to_its_bounds_and_its_limit
                a_principal_is_compared_whole_whatever_its_length
            ;
            tables:
                texts_survive_in_a_read_table
                integers_survive_in_a_read_table
                truth_values_survive_in_a_read_table
                doubles_survive_in_a_read_table
                uuids_survive_in_a_read_table
                timestamps_survive_in_a_read_table
                decimals_survive_in_a_read_table
                json_survives_in_a_read_table
                nulls_survive_in_columns_of_every_kind
                rows_are_identified_by_keys_of_other_kinds
                columns_may_be_named_like_words_of_sql
                preparing_a_table_twice_changes_nothing
                a_table_with_other_columns_is_refused
                a_table_has_no_checkpoint_before_its_first_save
                versions_of_a_table_are_apart
                an_error_of_whoever_takes_the_rows_ends_the_load
                a_save_of_5_000_rows_is_kept_whole
                rows_and_checkpoint_are_loaded_as_of_one_instant
            ;
            checkpoints:
                a_saved_checkpoint_is_read_back_as_written
                a_checkpoint_nobody_saved_is_none
                checkpoints_are_listed_by_projection_and_version
                an_upsert_inserts_or_replaces
                a_delete_removes_the_row_if_there_is_one
                deletes_go_before_upserts
                replacing_all_leaves_only_the_given_rows
                a_save_without_rows_moves_the_position
                a_save_behind_another_position_is_a_conflict
                a_first_save_where_there_is_a_checkpoint_is_a_conflict
                a_later_save_where_there_is_no_checkpoint_is_a_conflict
                a_save_of_a_lower_epoch_than_the_logs_is_fenced
                a_save_of_the_epoch_in_force_goes_through_after_a_take_over
                of_two_saves_at_once_one_is_a_conflict
                a_row_with_u0000_cannot_be_saved
                a_row_that_does_not_fit_its_columns_cannot_be_saved
                saving_a_checkpoint_leaves_the_log_as_it_is
            ;
        }
    };
    (@cases $log:expr => $($module:ident: $($case:ident)*;)*) => {
        $($(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let log = $log;
                $crate::testing::conformance::$module::$case(&log).await;
            }
        )*)*
    };
}

#[cfg(test)]
mod tests {
    /// The names of the functions of one file that are cases.
    fn cases(source: &str) -> Vec<&str> {
        let after = source.split("\npub async fn ").skip(1);
        after.map(|rest| rest.split('(').next().expect("a split has a first part")).collect()
    }

    #[test]
    fn every_case_is_in_the_list() {
        let files = [
            include_str!("appends.rs"),
            include_str!("audit.rs"),
            include_str!("checkpoints.rs"),
            include_str!("claims.rs"),
            include_str!("outcomes.rs"),
            include_str!("pages.rs"),
            include_str!("refusals.rs"),
            include_str!("snapshots.rs"),
            include_str!("streams.rs"),
            include_str!("tables.rs"),
            include_str!("values.rs"),
            include_str!("writers.rs"),
        ];
        let listed: Vec<&str> = include_str!("mod.rs").split_whitespace().collect();

        let written: Vec<&str> = files.into_iter().flat_map(cases).collect();

        assert!(written.len() >= 60, "the cases were found: {}", written.len());
        let missing: Vec<&&str> = written.iter().filter(|case| !listed.contains(case)).collect();
        assert!(missing.is_empty(), "not in the list: {missing:#?}");
    }
}
