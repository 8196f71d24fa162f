//! What goes over the wire between DataStorage and everyone else: one definition, used by the
//! server, its client and the tests. Requests refuse unknown fields; answers tolerate new ones.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::canonical::hex;
use crate::transitions::{ExecutionPhase, RequestPhase};

/// Events of these types are built by DataStorage alone, each in the transaction of the change that
/// it tells (`datastorage.remediation_request.created`, `.transitioned`, `.updated`, the same for
/// `workflow_execution`, and `datastorage.workflow.created`, `.disabled`, `.enabled`). Sent by
/// anyone else they are refused with 403.
pub const RESERVED_EVENT_TYPE_PREFIX: &str = "datastorage.";

/// How an audited action ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventOutcome {
    /// It did what it was to do.
    Success,
    /// It did not.
    Failure,
    /// It has begun and its end is another event.
    Pending,
}

/// An audit event as its emitter sends it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAuditEvent {
    /// UUIDv7 chosen by the emitter; a resend carries the same.
    pub event_id: Uuid,
    /// Version of the event's own schema, `1.0`.
    pub version: String,
    /// Dotted, `gateway.signal.received`.
    pub event_type: String,
    /// The part of the system, `gateway`.
    pub event_category: String,
    /// The verb, `received`.
    pub event_action: String,
    /// How it ended.
    pub event_outcome: EventOutcome,
    /// The emitter's clock: at most 5 minutes ahead of the database's, 7 days behind it.
    #[serde(with = "time::serde::rfc3339")]
    pub event_timestamp: OffsetDateTime,
    /// What the chain is about: a remediation request's ID, mostly.
    pub correlation_id: String,
    /// A JSON object of at most 256 KiB and depth 10.
    pub event_data: Map<String, Value>,
    /// Kind of the resource, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// Name of the resource, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    /// Namespace of the resource, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Severity, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// The event that caused this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_event_id: Option<Uuid>,
}

/// An audit event as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// What was sent.
    #[serde(flatten)]
    pub event: NewAuditEventFields,
    /// The subject of the token that sent it.
    pub actor: String,
    /// Gapless within the correlation ID, from 1.
    pub chain_seq: i64,
    /// Hash of the predecessor, 64 hex digits; 64 zeros for the first.
    pub previous_hash: String,
    /// SHA-256 over the predecessor's hash and this event's canonical JSON (RFC 8785), 64 hex digits.
    pub hash: String,
}

/// The fields of [`NewAuditEvent`], without the refusal of unknown fields, which cannot be
/// combined with flattening.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of NewAuditEvent")]
pub struct NewAuditEventFields {
    pub event_id: Uuid,
    pub version: String,
    pub event_type: String,
    pub event_category: String,
    pub event_action: String,
    pub event_outcome: EventOutcome,
    #[serde(with = "time::serde::rfc3339")]
    pub event_timestamp: OffsetDateTime,
    pub correlation_id: String,
    pub event_data: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_event_id: Option<Uuid>,
}

/// Body of `POST /api/v1/audit/events/batch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditBatch {
    /// 1 to 500; all are stored or none.
    pub events: Vec<NewAuditEvent>,
}

/// Query of `GET /api/v1/audit/events`. What is given must all be equal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// One chain; the list is in its order then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// One type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// One category.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_category: Option<String>,
    /// One outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_outcome: Option<EventOutcome>,
    /// `event_timestamp` at or after.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub since: Option<OffsetDateTime>,
    /// `event_timestamp` before.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<OffsetDateTime>,
    /// 1 to 1000; 100 where it is not given. A page also ends at 8 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of the batch endpoint and of `GET /api/v1/audit/events`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AuditEvents {
    /// In the order sent (batch); by chain_seq (list of one correlation ID); by time and ID (any
    /// other list).
    pub events: Vec<AuditEvent>,
    /// Opaque; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Answer of `GET /api/v1/audit/chains/{correlation_id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChainVerdict {
    /// Which chain.
    pub correlation_id: String,
    /// Every hash follows from the columns and the predecessor, and the head agrees.
    pub intact: bool,
    /// How many events there are.
    pub event_count: i64,
    /// The first sequence number that does not verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_broken_seq: Option<i64>,
    /// What is wrong there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is to be healed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Cluster, from configuration where a signal does not tell it.
    pub cluster: String,
    /// Namespace.
    pub namespace: String,
    /// `Deployment`, `Pod`, ….
    pub kind: String,
    /// Name.
    pub name: String,
}

impl Target {
    /// SHA-256 over cluster, namespace, kind and name, each with its length before it, so that no two
    /// targets run together; 64 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let parts = [&self.cluster, &self.namespace, &self.kind, &self.name];
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hex(&hash.finalize())
    }

    /// The name of the one Job that acts upon it at a time: in a namespace there is one of a name.
    #[must_use]
    pub fn job_name(&self) -> String {
        const DIGITS: usize = 40;
        format!("remedy-{}", &self.fingerprint()[..DIGITS])
    }
}

/// How bad, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not told.
    Unknown,
    /// For information.
    Info,
    /// Someone should look.
    Warning,
    /// Someone must look now.
    Critical,
}

/// The signal behind a request, as the gateway understood it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signal {
    /// `alertmanager` or `kubernetes-event`.
    pub source: String,
    /// Name of the alert, reason of the event.
    pub name: String,
    /// Labels as they came.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations as they came.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire, the sender's clock; data, not judged.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub starts_at: Option<OffsetDateTime>,
    /// The owner of the target was not found, so the labels were taken as they are.
    #[serde(default)]
    pub owner_unknown: bool,
}

/// Body of `POST /api/v1/remediation-requests`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRemediationRequest {
    /// The same for every resend of one signal: it counts once.
    pub signal_id: Uuid,
    /// SHA-256 of the target, 64 hex digits. One open request for each.
    pub fingerprint: String,
    /// What is to be healed.
    pub target: Target,
    /// How bad; the highest of all occurrences is kept.
    pub severity: Severity,
    /// The first signal.
    pub signal: Signal,
}

/// What signalprocessing found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// `production`, `staging`, `development`, `unknown`, ….
    pub environment: String,
    /// Severity as the policy judges it.
    pub severity: Severity,
    /// `P0` to `P3`.
    pub priority: String,
    /// `reactive` or `proactive`.
    pub signal_mode: String,
    /// Why, in the policy's words.
    pub reason: String,
    /// Nobody who was asked knows the target.
    pub degraded: bool,
    /// SHA-256 of the policy that decided, 64 hex digits.
    pub policy_hash: String,
    /// Labels of namespace and workload with their sources, and the owners.
    #[serde(default)]
    pub enrichment: Map<String, Value>,
}

/// The workflow that remediationorchestrator chose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowChoice {
    /// Name in the catalog.
    pub name: String,
    /// Version in the catalog.
    pub version: String,
    /// Why this one.
    pub reason: String,
}

/// What a person said to a request that awaits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It may be executed.
    Approved,
    /// It must not be.
    Rejected,
}

/// A decision, as remediationorchestrator hands it on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApproval {
    /// What was decided.
    pub decision: Decision,
    /// The subject of the token that decided.
    pub decided_by: String,
    /// Why.
    pub reason: String,
}

/// A decision as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// What was decided.
    pub decision: Decision,
    /// Who decided.
    pub decided_by: String,
    /// Why.
    pub reason: String,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub decided_at: OffsetDateTime,
}

/// A remediation request as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RemediationRequest {
    /// Also the correlation ID of all that follows.
    pub id: Uuid,
    /// Raised by every change of state; goes into `If-Match`.
    pub resource_version: i64,
    /// Where it stands.
    pub phase: RequestPhase,
    /// SHA-256 of the target.
    pub fingerprint: String,
    /// What is to be healed.
    pub target: Target,
    /// The highest of all occurrences.
    pub severity: Severity,
    /// The first signal.
    pub signal: Signal,
    /// How many distinct signals.
    pub occurrence_count: i64,
    /// Why it stands where it stands, once someone said so.
    pub reason: Option<String>,
    /// Who works on it.
    pub lease_holder: Option<String>,
    /// Until when, by the database's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub lease_deadline: Option<OffsetDateTime>,
    /// What signalprocessing found out.
    pub classification: Option<Classification>,
    /// What remediationorchestrator chose.
    pub workflow: Option<WorkflowChoice>,
    /// The latest execution.
    pub execution_id: Option<Uuid>,
    /// How many executions there were.
    pub attempt: i32,
    /// Not before this, by the database's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub blocked_until: Option<OffsetDateTime>,
    /// When this phase must have ended, by the database's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub phase_deadline: Option<OffsetDateTime>,
    /// When the whole must have ended, by the database's clock.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// What a person decided, once.
    #[serde(default)]
    pub approval: Option<Approval>,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Body of `PATCH /api/v1/remediation-requests/{id}`. Absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchRemediationRequest {
    /// The same for every resend of one write.
    pub write_id: Uuid,
    /// The phase to enter; the present one where only other fields change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<RequestPhase>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Takes the lease, for this long from now by the database's clock (1 to 3600). The holder is
    /// `lease_holder`, or the caller's subject where that is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u32>,
    /// Names the replica that takes the lease; without `lease_seconds`, the one that must hold it
    /// for this write to be done (409).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_holder: Option<String>,
    /// What signalprocessing found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// What remediationorchestrator chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<WorkflowChoice>,
    /// Not before so many seconds from now by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_for_seconds: Option<u32>,
    /// This phase must end within so many seconds from now by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_deadline_seconds: Option<u32>,
    /// The whole must end within so many seconds from its creation. It is set once; a patch that
    /// sets deadlines alone changes neither the state nor the resource version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// In AwaitingApproval alone, and once (409).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<NewApproval>,
}

/// Query of `GET /api/v1/remediation-requests`. What is given must all be equal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestQuery {
    /// One of these; on the wire separated by commas.
    #[serde(
        default,
        with = "comma_separated",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub phase: Vec<RequestPhase>,
    /// The fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// `namespace/kind/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Some deadline of it (lease, block, phase or whole) is before this.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub due_before: Option<OffsetDateTime>,
    /// Some deadline of it has passed by the database's clock, the only one that counts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub due: bool,
    /// 1 to 1000; 100 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of `GET /api/v1/remediation-requests`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemediationRequests {
    /// Oldest first.
    pub items: Vec<RemediationRequest>,
    /// Now, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// Opaque; a watch after it tells every transition that this page does not show.
    pub watch_cursor: String,
    /// Opaque; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One step of a workflow. On the wire `http` or `job` stands beside the name, and never both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "StepFields", into = "StepFields")]
pub struct WorkflowStep {
    /// Unique within the workflow.
    pub name: String,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// It calls.
    Http(HttpCall),
    /// It runs a Job, where there is Kubernetes.
    Job(JobCall),
}

/// A step as it goes over the wire.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepFields {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpCall>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    job: Option<JobCall>,
}

impl TryFrom<StepFields> for WorkflowStep {
    type Error = &'static str;

    fn try_from(fields: StepFields) -> Result<Self, Self::Error> {
        let action = match (fields.http, fields.job) {
            (Some(http), None) => Action::Http(http),
            (None, Some(job)) => Action::Job(job),
            (None, None) => return Err("a step needs `http` or `job`"),
            (Some(_), Some(_)) => return Err("a step has `http` or `job`, not both"),
        };
        let name = fields.name;
        Ok(Self { name, action })
    }
}

impl From<WorkflowStep> for StepFields {
    fn from(step: WorkflowStep) -> Self {
        let (http, job) = match step.action {
            Action::Http(http) => (Some(http), None),
            Action::Job(job) => (None, Some(job)),
        };
        Self {
            name: step.name,
            http,
            job,
        }
    }
}

impl WorkflowStep {
    /// What it calls, if it is a call.
    pub fn http_mut(&mut self) -> Option<&mut HttpCall> {
        match &mut self.action {
            Action::Http(http) => Some(http),
            Action::Job(_) => None,
        }
    }
}

/// A Job on Kubernetes. What it runs, by which image and with which confinement, says a PodTemplate of
/// the executor's namespace; the workflow chooses among those that are there, and adds arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobCall {
    /// Name of the `v1 PodTemplate`.
    pub template: String,
    /// Added to the arguments that the template gives its container, each as one word whatever is in
    /// it. They may hold `{parameter}`.
    #[serde(default)]
    pub args: Vec<String>,
    /// How long it may run, in seconds.
    #[serde(default = "default_job_deadline_seconds")]
    pub deadline_seconds: u32,
}

fn default_job_deadline_seconds() -> u32 {
    60
}

/// An HTTP call with `{parameter}` in its URL and body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpCall {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// `http://testbed:8080/restart?name={name}`; parameters are percent-encoded.
    pub url: String,
    /// JSON whose strings may hold `{parameter}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// Status codes that mean success.
    #[serde(default = "default_expected_status")]
    pub expected_status: Vec<u16>,
    /// Deadline of one try, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// How many further tries on refused connections and on `retry_on_status`.
    #[serde(default)]
    pub retries_max: u32,
    /// Status codes that may be tried again.
    #[serde(default)]
    pub retry_on_status: Vec<u16>,
    /// A try that timed out may be made again.
    #[serde(default)]
    pub idempotent: bool,
}

fn default_expected_status() -> Vec<u16> {
    vec![200, 201, 202, 204]
}

fn default_timeout_ms() -> u64 {
    5_000
}

/// Body of `POST /api/v1/workflows`. Name and version are unique and what is stored never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewWorkflow {
    /// Lower case letters, digits and hyphens.
    pub name: String,
    /// `1.0.0`.
    pub version: String,
    /// Which requests it fits. Keys: `signal` (name), `kind`, `environment`, `priority`,
    /// `namespace`, `severity`, `signal_mode`; every one given must be equal. More labels, more specific.
    pub labels: BTreeMap<String, String>,
    /// In this order; at least one.
    pub steps: Vec<WorkflowStep>,
    /// The parameters that steps may use beside `namespace`, `kind`, `name` and `cluster`, which
    /// come from the target. A step that uses any other is refused (400).
    #[serde(default)]
    pub parameters: Vec<String>,
    /// Asked after the steps: the target is healed when it gives an expected status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<HttpCall>,
}

/// A workflow as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workflow {
    /// What was sent.
    pub workflow: NewWorkflow,
    /// SHA-256 of the canonical JSON of `workflow`, 64 hex digits.
    pub digest: String,
    /// Not chosen any more; running executions have their own copy.
    pub disabled: bool,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Query of `GET /api/v1/workflows`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkflowQuery {
    /// Those too that may not be chosen any more.
    #[serde(default)]
    pub include_disabled: bool,
}

/// Answer of `GET /api/v1/workflows` (`?include_disabled=true` for all).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Workflows {
    /// By name, then version.
    pub items: Vec<Workflow>,
}

/// Body of `PATCH /api/v1/workflows/{name}/{version}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchWorkflow {
    /// Whether it may be chosen.
    pub disabled: bool,
}

/// Body of `POST /api/v1/workflow-executions`; the request's version goes into `If-Match`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewExecution {
    /// The request to be executed. The workflow is the one chosen in it.
    pub request_id: Uuid,
    /// Values for the declared parameters beyond those that the target gives. All are needed, and
    /// one that is not declared is refused (400).
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// The request must have left Executing within so many seconds from now by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_deadline_seconds: Option<u32>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepResult {
    /// Name of the step; `probe` for the verification.
    pub name: String,
    /// How many tries were made.
    pub tries: u32,
    /// The last status code, if an answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// What the container of its Job ended with, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether it succeeded.
    pub succeeded: bool,
    /// Time of all tries in milliseconds.
    pub duration_ms: u64,
}

/// Why an execution failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionFailure {
    /// `step_failed`, `step_timed_out`, `probe_failed`, `deadline_exceeded`, `undeclared_parameter`,
    /// `target_busy`, `jobs_unavailable`, ….
    pub reason: String,
    /// The step, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Its last status code, if an answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// What the container of its Job ended with, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// For people.
    pub message: String,
    /// The target may have been touched: no automatic retry.
    pub was_execution_failure: bool,
}

/// An execution as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Execution {
    /// Follows from request and attempt (UUIDv5).
    pub id: Uuid,
    /// Raised by every change; goes into `If-Match`.
    pub resource_version: i64,
    /// The request.
    pub request_id: Uuid,
    /// From 1.
    pub attempt: i32,
    /// Where it stands.
    pub phase: ExecutionPhase,
    /// What is acted upon; one open execution for each.
    pub target: Target,
    /// The workflow as it was when the execution was created.
    pub workflow: NewWorkflow,
    /// Its digest.
    pub workflow_digest: String,
    /// All parameters, those of the target among them.
    pub parameters: BTreeMap<String, String>,
    /// Who claimed it.
    pub holder: Option<String>,
    /// Until when the holder may act, by the database's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// So far.
    pub steps: Vec<StepResult>,
    /// Why it failed.
    pub failure: Option<ExecutionFailure>,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// Body of `PATCH /api/v1/workflow-executions/{id}`. Absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchExecution {
    /// The same for every resend of one write.
    pub write_id: Uuid,
    /// The phase to enter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ExecutionPhase>,
    /// With Pending to Running: who claims it. Afterwards only this holder may change it, until
    /// the deadline has passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// With Pending to Running: the claim holds for this long from now by the database's clock (1 to 3600).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u32>,
    /// All results so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<StepResult>>,
    /// With Failed: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ExecutionFailure>,
}

/// Query of `GET /api/v1/workflow-executions`. What is given must all be equal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutionQuery {
    /// One of these; on the wire separated by commas.
    #[serde(
        default,
        with = "comma_separated",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub phase: Vec<ExecutionPhase>,
    /// Those of one request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Uuid>,
    /// 1 to 1000; 100 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Answer of `GET /api/v1/workflow-executions`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Executions {
    /// Oldest first.
    pub items: Vec<Execution>,
    /// Opaque; a watch after it tells every transition that this page does not show.
    pub watch_cursor: String,
    /// Opaque; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Query of `GET /api/v1/remediation-requests/watch`, where `P` is a phase of requests, and of
/// `GET /api/v1/workflow-executions/watch`, where it is one of executions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound = "P: Serialize + serde::de::DeserializeOwned"
)]
pub struct WatchQuery<P> {
    /// Transitions into one of these, all where there is none; on the wire separated by commas.
    #[serde(
        default = "Vec::new",
        with = "comma_separated",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub phase: Vec<P>,
    /// `watch_cursor` of a list, or the ID of the last event of the watch before; from the
    /// beginning of all time where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// A transition, as a watch tells it: the data of an event `change`, whose ID is the cursor after
/// it. A watch may repeat a transition and never misses one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change<P, T> {
    /// The phase that ended; absent where it is new.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub from: Option<P>,
    /// The phase that began.
    pub to: P,
    /// As it is now: it may have gone further.
    pub item: T,
}

/// Query of `GET /api/v1/remediation-history`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// `namespace/kind/name`.
    pub target: String,
    /// Of one cluster alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// 1 to 1000; 100 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Answer of `GET /api/v1/remediation-history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Now, by the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// Latest first.
    pub items: Vec<Remediation>,
}

/// Something that was done to a target, or is being done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Remediation {
    /// For which request.
    pub request_id: Uuid,
    /// By which execution.
    pub execution_id: Uuid,
    /// Of how many of that request.
    pub attempt: i32,
    /// How the execution stands.
    pub phase: ExecutionPhase,
    /// Name of the workflow.
    pub workflow: String,
    /// Version of the workflow.
    pub workflow_version: String,
    /// The signal that asked for it.
    pub signal: String,
    /// Why it failed.
    pub failure: Option<ExecutionFailure>,
    /// By the database's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// By the database's clock; absent while it is open.
    #[serde(with = "time::serde::rfc3339::option")]
    pub ended_at: Option<OffsetDateTime>,
}

/// Answer of `/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Name of the package.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// SHA-256 of the sources, 64 hex digits, or `unknown` in a plain `cargo run`.
    pub source_digest: String,
    /// The compiler.
    pub rustc: String,
}

/// Names of phases in a query string, separated by commas.
mod comma_separated {
    use serde::de::{DeserializeOwned, Error as _};
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    pub(super) fn serialize<T: Serialize, S: Serializer>(
        phases: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let name = |phase| match serde_json::to_value(phase) {
            Ok(Value::String(name)) => Ok(name),
            other => Err(S::Error::custom(format!("{other:?} is no name"))),
        };
        let names: Vec<String> = phases.iter().map(name).collect::<Result<_, _>>()?;
        serializer.serialize_str(&names.join(","))
    }

    pub(super) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let phase = |name: &str| serde_json::from_value(Value::String(name.to_owned()));
        let phases = text.split(',').map(phase).collect::<Result<_, _>>();
        phases.map_err(|error| D::Error::custom(format!("phase: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(step: Value, expected: Result<(), &str>) {
        let read: Result<WorkflowStep, _> = serde_json::from_value(step.clone());
        match (read, expected) {
            // What was read is written as it came, but for what has a default.
            (Ok(read), Ok(())) => assert_eq!(serde_json::to_value(read).expect("JSON"), step),
            (Err(error), Err(told)) => assert!(error.to_string().contains(told), "{error}"),
            (read, expected) => panic!("{read:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_step_calls_or_runs_a_job() {
        let http = json!({"method": "GET", "url": "http://t/", "expected_status": [200],
            "timeout_ms": 1, "retries_max": 0, "retry_on_status": [], "idempotent": false});
        let job = json!({"template": "restart", "args": ["--name={name}"], "deadline_seconds": 5});
        check(json!({"name": "a", "http": http}), Ok(()));
        check(json!({"name": "a", "job": job}), Ok(()));
        check(
            json!({"name": "a", "http": http, "job": job}),
            Err("not both"),
        );
        check(json!({"name": "a"}), Err("needs `http` or `job`"));
        check(
            json!({"name": "a", "jobs": job}),
            Err("unknown field `jobs`"),
        );
        let with_image = json!({"template": "restart", "image": "x:1"});
        check(
            json!({"name": "a", "job": with_image}),
            Err("unknown field `image`"),
        );
    }

    #[test]
    fn a_job_is_named_for_its_target() {
        let target = |namespace: &str, name: &str| Target {
            cluster: "c".to_owned(),
            namespace: namespace.to_owned(),
            kind: "Deployment".to_owned(),
            name: name.to_owned(),
        };
        let name = target("ab", "c").job_name();
        assert_eq!(name.len(), "remedy-".len() + 40);
        assert_eq!(name, target("ab", "c").job_name());
        assert_ne!(name, target("a", "bc").job_name());
    }
}
