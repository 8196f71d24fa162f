-- The audit trail. Each correlation ID has a chain: gapless numbers, each hash over the one before.

CREATE TABLE audit_chains (
    correlation_id text COLLATE "C" PRIMARY KEY,
    last_seq       bigint NOT NULL CHECK (last_seq >= 0),
    last_hash      text   NOT NULL CHECK (last_hash ~ '^[0-9a-f]{64}$')
);

CREATE TABLE audit_events (
    event_id        uuid        PRIMARY KEY,
    version         text        NOT NULL,
    event_type      text        NOT NULL,
    event_category  text        NOT NULL,
    event_action    text        NOT NULL,
    event_outcome   text        NOT NULL CHECK (event_outcome IN ('success', 'failure', 'pending')),
    event_timestamp timestamptz NOT NULL,
    correlation_id  text COLLATE "C" NOT NULL,
    event_data      jsonb       NOT NULL CHECK (jsonb_typeof(event_data) = 'object'),
    resource_type   text,
    resource_name   text,
    namespace       text,
    severity        text,
    duration_ms     bigint,
    parent_event_id uuid,
    actor           text        NOT NULL,
    chain_seq       bigint      NOT NULL CHECK (chain_seq > 0),
    previous_hash   text        NOT NULL,
    hash            text        NOT NULL,
    -- Not partitioned: both keys would have to hold the partition's key, and be exact no more.
    UNIQUE (correlation_id, chain_seq)
);

CREATE INDEX audit_events_by_time ON audit_events (event_timestamp, event_id);
CREATE INDEX audit_events_by_type ON audit_events (event_type, event_timestamp, event_id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;

CREATE TRIGGER audit_events_refuse_change BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_refuse_truncate BEFORE TRUNCATE ON audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
