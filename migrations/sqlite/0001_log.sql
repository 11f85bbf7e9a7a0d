-- One gap-free log with its head row, and what commits together with it or follows from it.

CREATE TABLE essaim_head (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    position    INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    writer      TEXT    NOT NULL,
    batch       TEXT    NOT NULL,
    chain_hash  BLOB    NOT NULL CHECK (length(chain_hash) = 32),
    recorded_at TEXT    NOT NULL,
    log_id      TEXT    NOT NULL
) STRICT;

INSERT INTO essaim_head (id, position, epoch, writer, batch, chain_hash, recorded_at, log_id)
VALUES (
    1,
    0,
    0,
    '00000000-0000-0000-0000-000000000000',
    '00000000-0000-0000-0000-000000000000',
    zeroblob(32),
    '1970-01-01T00:00:00.000000Z',
    -- A random UUID, version 4 (RFC 9562 section 5.4).
    lower(
        hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-'
        || substr('89AB', 1 + (random() & 3), 1) || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))
    )
);

CREATE TABLE essaim_events (
    position       INTEGER NOT NULL PRIMARY KEY,
    event_id       TEXT    NOT NULL,
    category       TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    event_type     TEXT    NOT NULL,
    schema_version INTEGER NOT NULL,
    data           TEXT    NOT NULL,
    metadata       TEXT    NOT NULL,
    recorded_at    TEXT    NOT NULL,
    hash           BLOB    NOT NULL CHECK (length(hash) = 32),
    CONSTRAINT essaim_events_stream_version UNIQUE (category, key, version)
) STRICT;

CREATE TRIGGER essaim_events_refuse_update BEFORE UPDATE ON essaim_events
BEGIN
    SELECT RAISE(ABORT, 'essaim_events is append-only');
END;

CREATE TRIGGER essaim_events_refuse_delete BEFORE DELETE ON essaim_events
BEGIN
    SELECT RAISE(ABORT, 'essaim_events is append-only');
END;

CREATE TABLE essaim_outcomes (
    command_id  TEXT    NOT NULL PRIMARY KEY,
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    outcome     TEXT    NOT NULL,
    recorded_at TEXT    NOT NULL,
    internal    INTEGER NOT NULL CHECK (internal IN (0, 1))
) STRICT;

-- Only those of clients expire.
CREATE INDEX essaim_outcomes_expiry ON essaim_outcomes (recorded_at) WHERE internal = 0;

CREATE TABLE essaim_claims (
    scope    TEXT NOT NULL,
    value    TEXT NOT NULL,
    category TEXT NOT NULL,
    key      TEXT NOT NULL,
    PRIMARY KEY (scope, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE essaim_snapshots (
    category       TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    version        INTEGER NOT NULL,
    position       INTEGER NOT NULL,
    chain_hash     BLOB    NOT NULL CHECK (length(chain_hash) = 32),
    schema_version INTEGER NOT NULL,
    state          BLOB    NOT NULL,
    PRIMARY KEY (category, key)
) STRICT;

CREATE TABLE essaim_checkpoints (
    projection TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    position   INTEGER NOT NULL,
    chain_hash BLOB    NOT NULL CHECK (length(chain_hash) = 32),
    epoch      INTEGER NOT NULL,
    saved_at   TEXT    NOT NULL,
    PRIMARY KEY (projection, version)
) STRICT, WITHOUT ROWID;
