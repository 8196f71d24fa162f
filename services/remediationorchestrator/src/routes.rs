//! The API: a dry run, and cancelling. Nothing is chosen, started or ended here that the worker
//! would not do by the same rules.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use common::api::{
    Execution, ExecutionQuery, PatchExecution, PatchRemediationRequest, RemediationRequest,
    WorkflowChoice, WorkflowQuery,
};
use common::auth::{Reader, Writer};
use common::client::{ClientError, DataStorage};
use common::extract::{Json, Path};
use common::problem::{Answer, Problem};
use common::transitions::{ExecutionPhase, RequestPhase};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::{Candidate, Choice, candidates, choose, write_id};

/// The longest reason that a person may give.
const REASON_CHARS_MAX: usize = 500;

/// The routes of the API.
pub fn routes(storage: DataStorage) -> Router {
    Router::new()
        .route("/api/v1/remediation-requests/{id}/plan", get(plan))
        .route("/api/v1/remediation-requests/{id}/cancel", post(cancel))
        .with_state(storage)
}

/// What would be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is not classified yet; the plan is what would be done if nothing came to be known.
    NotClassified,
    /// The workflow would be started.
    Execute,
    /// It would be started once the target is free.
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

async fn plan(
    _: Reader,
    State(storage): State<DataStorage>,
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
    let holder = holder(&storage, &request).await.map_err(told)?;
    let (verdict, reason, workflow) = judge(&request, choice, holder.as_ref());
    Ok(Json(Plan {
        request_id: request.id,
        resource_version: request.resource_version,
        phase: request.phase,
        verdict,
        reason,
        workflow,
        candidates: candidates(&request, &catalog),
    }))
}

fn judge(
    request: &RemediationRequest,
    choice: Choice,
    holder: Option<&Execution>,
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
        _ => match holder {
            Some(holder) => {
                let reason = format!("the target is held by execution {}", holder.id);
                (Verdict::Wait, reason, workflow)
            }
            None => (Verdict::Execute, reason, workflow),
        },
    }
}

/// The open execution of another request on the same target.
async fn holder(
    storage: &DataStorage,
    request: &RemediationRequest,
) -> Result<Option<Execution>, ClientError> {
    let open = ExecutionPhase::ALL.into_iter();
    let mut query = ExecutionQuery {
        phase: open.filter(|phase| !phase.is_terminal()).collect(),
        ..ExecutionQuery::default()
    };
    loop {
        let page = storage.executions(&query).await?;
        let mut items = page.items.into_iter();
        let holds = |execution: &Execution| {
            execution.target == request.target && execution.request_id != request.id
        };
        if let Some(holder) = items.find(holds) {
            return Ok(Some(holder));
        }
        if page.next_cursor.is_none() {
            return Ok(None);
        }
        query.cursor = page.next_cursor;
    }
}

/// 200 when the request is cancelled, 202 when its execution was asked to stop after the step
/// that it is at.
async fn cancel(
    Writer(caller): Writer,
    State(storage): State<DataStorage>,
    Path(id): Path<Uuid>,
    Json(body): Json<Cancel>,
) -> Answer<(StatusCode, Json<RemediationRequest>)> {
    common::telemetry::correlate(&id);
    if body.reason.is_empty() || body.reason.chars().count() > REASON_CHARS_MAX {
        return Err(Problem::bad_request(format!(
            "`reason` has 1 to {REASON_CHARS_MAX} characters"
        )));
    }
    let request = storage.request(id).await.map_err(told)?;
    let reason = format!("cancelled by {}: {}", caller.subject, body.reason);
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

async fn stop_execution(
    storage: &DataStorage,
    request: &RemediationRequest,
) -> Result<(), ClientError> {
    let Some(id) = request.execution_id else {
        return Ok(());
    };
    // The holder writes after each step, so the version read here may be stale at once.
    const TRIES_MAX: u32 = 5;
    let mut tries = 0;
    loop {
        let execution = storage.execution(id).await?;
        let phase = match execution.phase {
            ExecutionPhase::Pending => ExecutionPhase::Cancelled,
            ExecutionPhase::Running => ExecutionPhase::Cancelling,
            _ => return Ok(()),
        };
        let patch = PatchExecution {
            write_id: write_id(id, execution.resource_version, &format!("{phase:?}")),
            phase: Some(phase),
            ..PatchExecution::default()
        };
        tries += 1;
        match storage
            .patch_execution(id, execution.resource_version, &patch)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() && tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
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
