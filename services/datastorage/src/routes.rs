//! The API: who may call what, what is parsed, which status is answered.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, response};
use common::api::{
    AuditBatch, AuditEvents, AuditQuery, ChainVerdict, Execution, ExecutionQuery, Executions,
    History, HistoryQuery, NewAuditEvent, NewExecution, NewRemediationRequest, NewWorkflow,
    PatchExecution, PatchRemediationRequest, PatchWorkflow, RemediationRequest,
    RemediationRequests, RequestQuery, WatchQuery, Workflow, WorkflowQuery, Workflows,
};
use common::auth::{Reader, Tokens, Writer};
use common::extract::{IfMatch, Json, Path, Query, StrictJson};
use common::problem::{Answer, Problem};
use common::server::Limits;
use common::telemetry::correlate;
use common::transitions::{ExecutionPhase, RequestPhase};
use serde::Serialize;
use uuid::Uuid;

use crate::domain::audit::{self, Draft};
use crate::domain::page::InChanges;
use crate::store::{Outcome, Store};
use crate::watch::Watches;

/// Of a batch of audit events, and of a single one beside its 256 KiB of data.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Every route, for callers with these tokens.
pub(crate) fn routes(store: Store, watches: Watches, tokens: Tokens) -> Router {
    let batch = post(post_audit_batch).layer(DefaultBodyLimit::max(BATCH_BYTES_MAX));
    let v1 = Router::new()
        .route(
            "/audit/events",
            get(get_audit_events).post(post_audit_event),
        )
        .route("/audit/events/batch", batch)
        .route("/audit/chains/{correlation_id}", get(get_audit_chain))
        .route(
            "/remediation-requests",
            get(get_requests).post(post_request),
        )
        .route(
            "/remediation-requests/{id}",
            get(get_request).patch(patch_request),
        )
        .route("/remediation-history", get(get_history))
        .route("/workflows", get(get_workflows).post(post_workflow))
        .route(
            "/workflows/{name}/{version}",
            get(get_workflow).patch(patch_workflow),
        )
        .route(
            "/workflow-executions",
            get(get_executions).post(post_execution),
        )
        .route(
            "/workflow-executions/{id}",
            get(get_execution).patch(patch_execution),
        )
        .with_state(store.clone());
    let watching = Router::new()
        .route("/remediation-requests/watch", get(watch_requests))
        .route("/workflow-executions/watch", get(watch_executions))
        .with_state((store, watches));
    let v1 = v1.merge(watching);
    common::server::api(Router::new().nest("/api/v1", v1), tokens, Limits::default())
}

impl<T: Serialize> IntoResponse for Outcome<T> {
    fn into_response(self) -> Response {
        match self {
            Self::Created(value) => (StatusCode::CREATED, response::Json(value)).into_response(),
            Self::Found(value) => response::Json(value).into_response(),
        }
    }
}

impl<T> Outcome<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Created(value) => Outcome::Created(change(value)),
            Self::Found(value) => Outcome::Found(change(value)),
        }
    }

    fn value(&self) -> &T {
        match self {
            Self::Created(value) | Self::Found(value) => value,
        }
    }
}

async fn post_audit_event(
    State(store): State<Store>,
    Writer(caller): Writer,
    StrictJson(event): StrictJson<NewAuditEvent>,
) -> Answer<Response> {
    correlate(&event.correlation_id);
    let draft = Draft::parse(event)?;
    let outcome = store.record(vec![draft], &caller.subject).await;
    let outcome = outcome.map_err(|problem| of_single(&problem))?;
    Ok(outcome.map(|mut events| events.pop()).into_response())
}

/// A single event has no index.
fn of_single(problem: &Problem) -> Problem {
    let detail = problem.detail();
    let detail = detail.strip_prefix("events[0].").unwrap_or(detail);
    problem.clone().with_detail(detail)
}

async fn post_audit_batch(
    State(store): State<Store>,
    Writer(caller): Writer,
    StrictJson(batch): StrictJson<AuditBatch>,
) -> Answer<Response> {
    let drafts = parse_batch(batch)?;
    let outcome = store.record(drafts, &caller.subject).await?;
    let events = |events| AuditEvents {
        events,
        next_cursor: None,
    };
    Ok(outcome.map(events).into_response())
}

fn parse_batch(batch: AuditBatch) -> Answer<Vec<Draft>> {
    let count = batch.events.len();
    if !(1..=audit::BATCH_MAX).contains(&count) {
        let max = audit::BATCH_MAX;
        return Err(Problem::bad_request(format!(
            "events: {count}, 1 to {max} are possible"
        )));
    }
    let mut seen = std::collections::HashMap::new();
    let mut drafts = Vec::with_capacity(count);
    for (index, event) in batch.events.into_iter().enumerate() {
        if let Some(first) = seen.insert(event.event_id, index) {
            return Err(Problem::bad_request(format!(
                "events[{index}].event_id: is that of events[{first}]"
            )));
        }
        let draft = Draft::parse(event).map_err(|problem| {
            let detail = format!("events[{index}].{}", problem.detail());
            problem.with_detail(&detail)
        })?;
        drafts.push(draft);
    }
    Ok(drafts)
}

async fn get_audit_events(
    State(store): State<Store>,
    Reader(_): Reader,
    Query(query): Query<AuditQuery>,
) -> Answer<Json<AuditEvents>> {
    if let Some(correlation_id) = &query.correlation_id {
        audit::parse_correlation_id(correlation_id)?;
        correlate(correlation_id);
    }
    Ok(Json(store.audit_events(&query).await?))
}

async fn get_audit_chain(
    State(store): State<Store>,
    Reader(_): Reader,
    Path(correlation_id): Path<String>,
) -> Answer<Json<ChainVerdict>> {
    audit::parse_correlation_id(&correlation_id)?;
    correlate(&correlation_id);
    Ok(Json(store.verify_chain(&correlation_id).await?))
}

async fn post_request(
    State(store): State<Store>,
    Writer(caller): Writer,
    StrictJson(new): StrictJson<NewRemediationRequest>,
) -> Answer<Outcome<RemediationRequest>> {
    let outcome = store.create_request(&new, &caller).await?;
    correlate(&outcome.value().id);
    Ok(outcome)
}

async fn get_request(
    State(store): State<Store>,
    Reader(_): Reader,
    Path(id): Path<Uuid>,
) -> Answer<Json<RemediationRequest>> {
    correlate(&id);
    Ok(Json(store.request(id).await?))
}

async fn get_requests(
    State(store): State<Store>,
    Reader(_): Reader,
    Query(query): Query<RequestQuery>,
) -> Answer<Json<RemediationRequests>> {
    Ok(Json(store.requests(&query).await?))
}

async fn patch_request(
    State(store): State<Store>,
    Writer(caller): Writer,
    Path(id): Path<Uuid>,
    IfMatch(version): IfMatch,
    StrictJson(patch): StrictJson<PatchRemediationRequest>,
) -> Answer<Json<RemediationRequest>> {
    correlate(&id);
    Ok(Json(
        store.patch_request(id, version, &patch, &caller).await?,
    ))
}

async fn watch_requests(
    State((store, watches)): State<(Store, Watches)>,
    Reader(_): Reader,
    Query(query): Query<WatchQuery<RequestPhase>>,
) -> Answer<Response> {
    let after = cursor(query.after.as_deref())?;
    let phases: std::sync::Arc<[RequestPhase]> = query.phase.into();
    watches
        .answer(after, move |after| {
            let (store, phases) = (store.clone(), phases.clone());
            async move { store.request_changes(&phases, after).await }
        })
        .await
}

async fn watch_executions(
    State((store, watches)): State<(Store, Watches)>,
    Reader(_): Reader,
    Query(query): Query<WatchQuery<ExecutionPhase>>,
) -> Answer<Response> {
    let after = cursor(query.after.as_deref())?;
    let phases: std::sync::Arc<[ExecutionPhase]> = query.phase.into();
    watches
        .answer(after, move |after| {
            let (store, phases) = (store.clone(), phases.clone());
            async move { store.execution_changes(&phases, after).await }
        })
        .await
}

fn cursor(after: Option<&str>) -> Answer<InChanges> {
    after.map_or_else(|| Ok(InChanges::default()), InChanges::parse)
}

async fn get_history(
    State(store): State<Store>,
    Reader(_): Reader,
    Query(query): Query<HistoryQuery>,
) -> Answer<Json<History>> {
    Ok(Json(store.history(&query).await?))
}

async fn post_workflow(
    State(store): State<Store>,
    Writer(caller): Writer,
    StrictJson(new): StrictJson<NewWorkflow>,
) -> Answer<Outcome<Workflow>> {
    store.create_workflow(&new, &caller).await
}

async fn get_workflows(
    State(store): State<Store>,
    Reader(_): Reader,
    Query(query): Query<WorkflowQuery>,
) -> Answer<Json<Workflows>> {
    Ok(Json(store.workflows(&query).await?))
}

async fn get_workflow(
    State(store): State<Store>,
    Reader(_): Reader,
    Path((name, version)): Path<(String, String)>,
) -> Answer<Json<Workflow>> {
    Ok(Json(store.workflow(&name, &version).await?))
}

async fn patch_workflow(
    State(store): State<Store>,
    Writer(caller): Writer,
    Path((name, version)): Path<(String, String)>,
    StrictJson(patch): StrictJson<PatchWorkflow>,
) -> Answer<Json<Workflow>> {
    let patched = store.patch_workflow(&name, &version, &patch, &caller);
    Ok(Json(patched.await?))
}

async fn post_execution(
    State(store): State<Store>,
    Writer(caller): Writer,
    IfMatch(version): IfMatch,
    StrictJson(new): StrictJson<NewExecution>,
) -> Answer<Outcome<Execution>> {
    correlate(&new.request_id);
    store.create_execution(version, &new, &caller).await
}

async fn get_execution(
    State(store): State<Store>,
    Reader(_): Reader,
    Path(id): Path<Uuid>,
) -> Answer<Json<Execution>> {
    let execution = store.execution(id).await?;
    correlate(&execution.request_id);
    Ok(Json(execution))
}

async fn get_executions(
    State(store): State<Store>,
    Reader(_): Reader,
    Query(query): Query<ExecutionQuery>,
) -> Answer<Json<Executions>> {
    Ok(Json(store.executions(&query).await?))
}

async fn patch_execution(
    State(store): State<Store>,
    Writer(caller): Writer,
    Path(id): Path<Uuid>,
    IfMatch(version): IfMatch,
    StrictJson(patch): StrictJson<PatchExecution>,
) -> Answer<Json<Execution>> {
    let execution = store.patch_execution(id, version, &patch, &caller).await?;
    correlate(&execution.request_id);
    Ok(Json(execution))
}
