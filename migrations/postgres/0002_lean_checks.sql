-- Constraints in the shape of an expression are parsed again by every append, and guarded only what the writer makes.

ALTER TABLE essaim_head DROP CONSTRAINT essaim_head_id_check;
ALTER TABLE essaim_head DROP CONSTRAINT essaim_head_chain_hash_check;
ALTER TABLE essaim_events DROP CONSTRAINT essaim_events_hash_check;
ALTER TABLE essaim_outcomes DROP CONSTRAINT essaim_outcomes_fingerprint_check;
