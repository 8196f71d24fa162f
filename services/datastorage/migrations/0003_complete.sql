-- What a watch reads, the approval of a request, and its deadline as a whole.

-- One row for each transition. A plain number loses rows: it is taken before its transaction
-- commits, so a reader may see a later one first. A transaction below the horizon of a snapshot has
-- ended, so (xid, id) below it is a place that nothing can be put before any more.
CREATE TABLE changes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    kind        text COLLATE "C" NOT NULL CHECK (kind IN ('request', 'execution')),
    resource_id uuid NOT NULL,
    -- NULL for what is new.
    from_phase  text,
    to_phase    text NOT NULL
);
CREATE INDEX changes_in_order ON changes (kind, xid, id);

-- By a trigger, so that no transition can be made without its row. NOTIFY only wakes.
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO changes (kind, resource_id, from_phase, to_phase)
    VALUES (TG_ARGV[0], NEW.id, CASE TG_OP WHEN 'UPDATE' THEN OLD.phase END, NEW.phase);
    PERFORM pg_notify('changes', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER remediation_requests_note_new AFTER INSERT ON remediation_requests
    FOR EACH ROW EXECUTE FUNCTION note_change('request');
CREATE TRIGGER remediation_requests_note_change AFTER UPDATE OF phase ON remediation_requests
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase)
    EXECUTE FUNCTION note_change('request');
CREATE TRIGGER workflow_executions_note_new AFTER INSERT ON workflow_executions
    FOR EACH ROW EXECUTE FUNCTION note_change('execution');
CREATE TRIGGER workflow_executions_note_change AFTER UPDATE OF phase ON workflow_executions
    FOR EACH ROW WHEN (OLD.phase IS DISTINCT FROM NEW.phase)
    EXECUTE FUNCTION note_change('execution');

ALTER TABLE remediation_requests
    -- Decided once: who, what, why and when.
    ADD COLUMN approval jsonb,
    -- Of the request as a whole; it outlives its phases.
    ADD COLUMN deadline timestamptz;

-- What was done to a target, the latest first.
CREATE INDEX workflow_executions_by_target ON workflow_executions
    (target_cluster, target_namespace, target_kind, target_name, created_at DESC, id DESC);
