-- One gap-free log with its head row, and what commits together with it or follows from it.

-- Every append updates the head: room on its page keeps these updates away from the index.
CREATE TABLE essaim_head (
    id          smallint    NOT NULL CONSTRAINT essaim_head_pkey PRIMARY KEY CHECK (id = 1),
    position    bigint      NOT NULL,
    epoch       bigint      NOT NULL,
    writer      uuid        NOT NULL,
    batch       uuid        NOT NULL,
    chain_hash  bytea       NOT NULL CHECK (length(chain_hash) = 32),
    recorded_at timestamptz NOT NULL,
    log_id      uuid        NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

INSERT INTO essaim_head (id, position, epoch, writer, batch, chain_hash, recorded_at, log_id)
VALUES (
    1,
    0,
    0,
    '00000000-0000-0000-0000-000000000000',
    '00000000-0000-0000-0000-000000000000',
    decode(repeat('00', 32), 'hex'),
    '1970-01-01T00:00:00Z',
    gen_random_uuid()
);

-- json keeps its text as written, which the chain of hashes covers.
CREATE TABLE essaim_events (
    position       bigint      NOT NULL CONSTRAINT essaim_events_pkey PRIMARY KEY,
    event_id       uuid        NOT NULL,
    category       text        NOT NULL,
    key            text        NOT NULL,
    version        bigint      NOT NULL,
    event_type     text        NOT NULL,
    schema_version integer     NOT NULL,
    data           json        NOT NULL,
    metadata       json        NOT NULL,
    recorded_at    timestamptz NOT NULL,
    hash           bytea       NOT NULL CHECK (length(hash) = 32),
    CONSTRAINT essaim_events_stream_version UNIQUE (category, key, version)
);

CREATE FUNCTION essaim_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER essaim_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON essaim_events
    FOR EACH STATEMENT EXECUTE FUNCTION essaim_refuse_change();

CREATE TABLE essaim_outcomes (
    command_id  uuid        NOT NULL CONSTRAINT essaim_outcomes_pkey PRIMARY KEY,
    fingerprint bytea       NOT NULL CHECK (length(fingerprint) = 32),
    outcome     json        NOT NULL,
    recorded_at timestamptz NOT NULL,
    internal    boolean     NOT NULL
);

-- Only those of clients expire.
CREATE INDEX essaim_outcomes_expiry ON essaim_outcomes (recorded_at) WHERE NOT internal;

CREATE TABLE essaim_claims (
    scope    text NOT NULL,
    value    text NOT NULL,
    category text NOT NULL,
    key      text NOT NULL,
    CONSTRAINT essaim_claims_pkey PRIMARY KEY (scope, value)
);

CREATE TABLE essaim_snapshots (
    category       text    NOT NULL,
    key            text    NOT NULL,
    version        bigint  NOT NULL,
    position       bigint  NOT NULL,
    chain_hash     bytea   NOT NULL CHECK (length(chain_hash) = 32),
    schema_version integer NOT NULL,
    state          bytea   NOT NULL,
    CONSTRAINT essaim_snapshots_pkey PRIMARY KEY (category, key)
);

CREATE TABLE essaim_checkpoints (
    projection text        NOT NULL,
    version    bigint      NOT NULL,
    position   bigint      NOT NULL,
    chain_hash bytea       NOT NULL CHECK (length(chain_hash) = 32),
    epoch      bigint      NOT NULL,
    saved_at   timestamptz NOT NULL,
    CONSTRAINT essaim_checkpoints_pkey PRIMARY KEY (projection, version)
);
