-- Remediation requests, the catalog of workflows, and executions.

CREATE TABLE remediation_requests (
    id               uuid PRIMARY KEY,
    resource_version bigint      NOT NULL DEFAULT 1,
    phase            text        NOT NULL DEFAULT 'Pending' CHECK (phase IN (
        'Pending', 'Processing', 'Analyzing', 'AwaitingApproval', 'Executing', 'Verifying', 'Blocked',
        'Completed', 'Failed', 'TimedOut', 'Skipped', 'Cancelled')),
    fingerprint      text        NOT NULL,
    target_cluster   text        NOT NULL,
    target_namespace text        NOT NULL,
    target_kind      text        NOT NULL,
    target_name      text        NOT NULL,
    severity         text        NOT NULL CHECK (severity IN ('unknown', 'info', 'warning', 'critical')),
    signal           jsonb       NOT NULL,
    occurrence_count bigint      NOT NULL DEFAULT 1,
    reason           text,
    lease_holder     text,
    lease_deadline   timestamptz,
    classification   jsonb,
    workflow         jsonb,
    execution_id     uuid,
    attempt          integer     NOT NULL DEFAULT 0,
    blocked_until    timestamptz,
    phase_deadline   timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now()
);

-- One open request for each fingerprint, exact under any concurrency.
CREATE UNIQUE INDEX remediation_requests_open ON remediation_requests (fingerprint)
    WHERE phase NOT IN ('Completed', 'Failed', 'TimedOut', 'Skipped', 'Cancelled');
CREATE INDEX remediation_requests_by_phase ON remediation_requests (phase, created_at, id);
CREATE INDEX remediation_requests_by_age ON remediation_requests (created_at, id);
CREATE INDEX remediation_requests_by_fingerprint ON remediation_requests (fingerprint, created_at, id);
CREATE INDEX remediation_requests_by_target
    ON remediation_requests (target_namespace, target_kind, target_name, created_at, id);

-- Each signal counts once, on the request that it met first.
CREATE TABLE request_signals (
    signal_id  uuid PRIMARY KEY,
    request_id uuid        NOT NULL REFERENCES remediation_requests (id),
    counted_at timestamptz NOT NULL DEFAULT now()
);

-- What was answered to each write, so that its resend gets the first answer.
CREATE TABLE writes (
    write_id    uuid PRIMARY KEY,
    resource_id uuid        NOT NULL,
    actor       text        NOT NULL,
    body_digest text        NOT NULL,
    answer      jsonb       NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workflows (
    name       text COLLATE "C" NOT NULL,
    version    text COLLATE "C" NOT NULL,
    digest     text        NOT NULL,
    workflow   jsonb       NOT NULL,
    disabled   boolean     NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, version)
);

CREATE TABLE workflow_executions (
    id               uuid PRIMARY KEY,
    resource_version bigint      NOT NULL DEFAULT 1,
    request_id       uuid        NOT NULL REFERENCES remediation_requests (id),
    attempt          integer     NOT NULL,
    -- The version of the request that it was asked for with: tells a resend from a second wish.
    request_version  bigint      NOT NULL,
    phase            text        NOT NULL DEFAULT 'Pending' CHECK (phase IN (
        'Pending', 'Running', 'Cancelling', 'Completed', 'Failed', 'Cancelled')),
    target_cluster   text        NOT NULL,
    target_namespace text        NOT NULL,
    target_kind      text        NOT NULL,
    target_name      text        NOT NULL,
    workflow         jsonb       NOT NULL,
    workflow_digest  text        NOT NULL,
    parameters       jsonb       NOT NULL,
    holder           text,
    deadline         timestamptz,
    steps            jsonb       NOT NULL DEFAULT '[]',
    failure          jsonb,
    created_at       timestamptz NOT NULL DEFAULT now(),
    updated_at       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (request_id, attempt)
);

-- One open execution for each target.
CREATE UNIQUE INDEX workflow_executions_open
    ON workflow_executions (target_cluster, target_namespace, target_kind, target_name)
    WHERE phase NOT IN ('Completed', 'Failed', 'Cancelled');
CREATE INDEX workflow_executions_by_phase ON workflow_executions (phase, created_at, id);
CREATE INDEX workflow_executions_by_age ON workflow_executions (created_at, id);
