-- The audit trail is searched by who and by what without reading the whole log.

-- Cut, because a longer entry than a page of the index takes would refuse the event.
CREATE INDEX essaim_events_principal ON essaim_events (left(metadata ->> 'principal', 255), position);

CREATE INDEX essaim_events_type ON essaim_events (event_type, position);
