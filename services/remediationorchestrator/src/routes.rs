//! The API: a dry run, approving, and cancelling. Nothing is chosen, started or ended here that the worker
//! would not do by the same rules.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use common::api::{
    Decision, NewApproval, PatchRemediationRequest, RemediationRequest, WorkflowChoice,
    WorkflowQuery,
};
use common::auth::{Approver, Reader, Writer};
use common::client::{ClientError, DataStorage};
use common::extract::{Json, Path, Query};
use common::problem::{Answer, Problem};
use common::transitions::RequestPhase;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::checks::{Check, block, checks};
use crate::domain::{Candidate, Choice, candidates, choose, needs_approval, write_id};
use crate::rules::{LiveRules, Rules};
use crate::worker::{CANCELLED_BY, history_of, stop_execution};

/// The longest reason that a person may give.
const REASON_CHARS_MAX: usize = 500;

/// The routes of the API.
pub fn routes(api: Api) -> Router {
    Router::new()
        .route("/api/v1/approvals/{id}", post(decide))
        .route("/api/v1/policy", get(policy))
        .route("/api/v1/remediation-requests/{id}/plan", get(plan))
        .route("/api/v1/remediation-requests/{id}/cancel", post(cancel))
        .with_state(api)
}

/// What the API works with.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where requests are kept.
    pub storage: DataStorage,
    /// What is in force.
    pub rules: LiveRules,
    /// Takes requests that were changed here, to be driven at once.
    pub nudges: mpsc::Sender<RemediationRequest>,
}

/// Body of `POST /api/v1/approvals/{id}`, where the ID is the request's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decide {
    /// `approved` or `rejected`.
    pub decision: Decision,
    /// Why, for the record.
    pub reason: String,
}

/// Query of `GET /api/v1/policy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyQuery {
    /// Whose rules.
    pub namespace: String,
}

/// What would be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is not classified yet; the plan is what would be done if nothing came to be known.
    NotClassified,
    /// The workflow would be started.
    Execute,
    /// A person would be asked, or has been.
    Ask,
    /// It would be started once nothing stands against it any more.
    Wait,
    /// No workflow fits: the request would be skipped.
    Skip,
    /// The workflow is being executed, or has been.
    Underway,
    /// Nothing: the request has ended.
    Ended,
}

/// Answer of `GET /api/v1/remediation-requests/{id}/plan`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The request.
    pub request_id: Uuid,
    /// The version that was looked at.
    pub resource_version: i64,
    /// Where it stands.
    pub phase: RequestPhase,
    /// What would be done next.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
    /// The workflow that was chosen, or would be.
    pub workflow: Option<WorkflowChoice>,
    /// What stands against executing now, and what does not.
    pub checks: Vec<Check>,
    /// The catalog in the order of preference, and what keeps each from fitting.
    pub candidates: Vec<Candidate>,
}

/// Body of `POST /api/v1/remediation-requests/{id}/cancel`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cancel {
    /// Why, for the record.
    pub reason: String,
}

async fn policy(
    _: Reader,
    State(api): State<Api>,
    Query(query): Query<PolicyQuery>,
) -> Json<Rules> {
    Json(api.rules.of(&query.namespace))
}

/// 200 when this decision stands; 409 when another one does, or none is awaited.
async fn decide(
    Approver(caller): Approver,
    State(api): State<Api>,
    Path(id): Path<Uuid>,
    Json(body): Json<Decide>,
) -> Answer<Json<RemediationRequest>> {
    common::telemetry::correlate(&id);
    check_reason(&body.reason)?;
    let request = api.storage.request(id).await.map_err(told)?;
    let approval = NewApproval {
        decision: body.decision,
        decided_by: caller.subject.to_string(),
        reason: body.reason.clone(),
    };
    let (phase, said) = match body.decision {
        Decision::Approved => (None, "approved"),
        Decision::Rejected => (Some(RequestPhase::Cancelled), "rejected"),
    };
    if phase.is_some() && request.phase != RequestPhase::AwaitingApproval {
        // Elsewhere this move would be a way to cancel for someone who may only approve.
        let phase = request.phase;
        return Err(Problem::conflict(format!(
            "the request is {phase} and awaits no approval"
        )));
    }
    let reason = format!("{said} by {}: {}", caller.subject, body.reason);
    let patch = PatchRemediationRequest {
        write_id: write_id(id, request.resource_version, &format!("decide/{reason}")),
        phase,
        reason: Some(reason),
        approval: Some(approval),
        ..PatchRemediationRequest::default()
    };
    let decided = api
        .storage
        .patch_request(id, request.resource_version, &patch)
        .await
        .map_err(told)?;
    tracing::info!(decision = said, by = &*caller.subject, "decided");
    metrics::counter!("approvals_decided_total", "decision" => said).increment(1);
    if let Some(approval) = &decided.approval {
        let event = crate::audit::approval_decided(&decided, approval);
        // It stands in the row and in the event of that change; this one only tells it in words.
        if let Err(error) = api.storage.record(&event).await {
            tracing::warn!(%error, "the decision is not in the audit trail by itself");
        }
    }
    // Full is no harm: the next list shows it.
    let _ = api.nudges.try_send(decided.clone());
    Ok(Json(decided))
}

async fn plan(
    _: Reader,
    State(Api { storage, rules, .. }): State<Api>,
    Path(id): Path<Uuid>,
) -> Answer<Json<Plan>> {
    common::telemetry::correlate(&id);
    let request = storage.request(id).await.map_err(told)?;
    let query = WorkflowQuery {
        include_disabled: true,
    };
    let catalog = storage.workflows(&query).await.map_err(told)?.items;
    let choice = match &request.workflow {
        Some(workflow) => Choice::Chosen(workflow.clone()),
        None => choose(&request, &catalog),
    };
    let rules = rules.of(&request.target.namespace);
    let history = storage.history(&history_of(&request)).await.map_err(told)?;
    let checks = checks(&request, &history, &rules).to_vec();
    let (verdict, reason, workflow) = judge(&request, choice, &rules, &checks);
    Ok(Json(Plan {
        request_id: request.id,
        resource_version: request.resource_version,
        phase: request.phase,
        verdict,
        reason,
        workflow,
        checks,
        candidates: candidates(&request, &catalog),
    }))
}

fn judge(
    request: &RemediationRequest,
    choice: Choice,
    rules: &Rules,
    checks: &[Check],
) -> (Verdict, String, Option<WorkflowChoice>) {
    let (workflow, reason) = match choice {
        Choice::Chosen(workflow) => (Some(workflow.clone()), workflow.reason),
        Choice::NoneFits(reason) => (None, reason),
    };
    let stands = || {
        let reason = request.reason.clone();
        reason.unwrap_or_else(|| format!("the request is {:?}", request.phase))
    };
    match request.phase {
        phase if phase.is_terminal() => (Verdict::Ended, stands(), request.workflow.clone()),
        RequestPhase::Executing | RequestPhase::Verifying => {
            (Verdict::Underway, stands(), workflow)
        }
        _ if request.classification.is_none() => (Verdict::NotClassified, reason, workflow),
        _ if workflow.is_none() => (Verdict::Skip, reason, None),
        _ if request.approval.is_none() && needs_approval(request, rules) => {
            let reason = "a person must approve what is P0 in production".to_owned();
            (Verdict::Ask, reason, workflow)
        }
        _ => match block(checks) {
            Some(check) => (Verdict::Wait, check.reason.clone(), workflow),
            None => (Verdict::Execute, reason, workflow),
        },
    }
}

/// 200 when the request is cancelled, 202 when its execution was asked to stop after the step
/// that it is at.
async fn cancel(
    Writer(caller): Writer,
    State(Api { storage, .. }): State<Api>,
    Path(id): Path<Uuid>,
    Json(body): Json<Cancel>,
) -> Answer<(StatusCode, Json<RemediationRequest>)> {
    common::telemetry::correlate(&id);
    check_reason(&body.reason)?;
    let request = storage.request(id).await.map_err(told)?;
    let reason = format!("{CANCELLED_BY}{}: {}", caller.subject, body.reason);
    match request.phase {
        RequestPhase::Cancelled => Ok((StatusCode::OK, Json(request))),
        RequestPhase::Executing => {
            let request = say_why(&storage, &request, &reason).await.map_err(told)?;
            stop_execution(&storage, &request).await.map_err(told)?;
            Ok((StatusCode::ACCEPTED, Json(request)))
        }
        phase if phase.is_terminal() || phase == RequestPhase::Verifying => Err(Problem::conflict(
            format!("the request is {phase:?}: nothing is left to cancel"),
        )),
        _ => {
            let patch = PatchRemediationRequest {
                write_id: write_id(id, request.resource_version, &format!("cancel/{reason}")),
                phase: Some(RequestPhase::Cancelled),
                reason: Some(reason),
                ..PatchRemediationRequest::default()
            };
            let cancelled = storage
                .patch_request(id, request.resource_version, &patch)
                .await
                .map_err(told)?;
            Ok((StatusCode::OK, Json(cancelled)))
        }
    }
}

fn check_reason(reason: &str) -> Answer<()> {
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX {
        return Err(Problem::bad_request(format!(
            "`reason` has 1 to {REASON_CHARS_MAX} characters"
        )));
    }
    Ok(())
}

/// Who asked and why stays with the request, so that its end can tell.
async fn say_why(
    storage: &DataStorage,
    request: &RemediationRequest,
    reason: &str,
) -> Result<RemediationRequest, ClientError> {
    let patch = PatchRemediationRequest {
        write_id: write_id(
            request.id,
            request.resource_version,
            &format!("stop/{reason}"),
        ),
        reason: Some(reason.to_owned()),
        ..PatchRemediationRequest::default()
    };
    storage
        .patch_request(request.id, request.resource_version, &patch)
        .await
}

/// DataStorage's refusals are the caller's to know; its absence is a reason to come again.
fn told(error: ClientError) -> Problem {
    match error {
        ClientError::Problem {
            status: 404,
            detail,
            ..
        } => Problem::not_found(detail),
        ClientError::Problem {
            status: 409 | 412,
            detail,
            ..
        } => Problem::conflict(detail),
        error if error.is_temporary() => {
            tracing::warn!(%error, "DataStorage is away");
            Problem::unavailable("DataStorage does not answer")
        }
        error => Problem::internal(&error),
    }
}
