-- The audit trail is searched by who and by what without reading the whole log.

-- Metadata written by other hands may be any text; it must not refuse the event.
CREATE INDEX essaim_events_principal ON essaim_events (
    CASE WHEN json_valid(metadata) THEN metadata ->> '$.principal' END, position
);

CREATE INDEX essaim_events_type ON essaim_events (event_type, position);
