//! What the executor says of its own work, beside the state changes that DataStorage records. The
//! correlation ID is the request's; an event's ID follows from the execution and from what is
//! said, so it is stored once however often it is said.

use common::api::{EventOutcome, Execution, ExecutionFailure, NewAuditEvent, StepResult};
use common::client::{ClientError, DataStorage};
use common::event_id;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// Returns once the event is stored, by this call or an earlier one.
pub(crate) async fn say(storage: &DataStorage, event: &NewAuditEvent) -> Result<(), ClientError> {
    match storage.record(event).await {
        Err(error) if error.status() == Some(409) => {
            tracing::debug!(event_id = %event.event_id, "the event is stored already");
            Ok(())
        }
        result => result.map(drop),
    }
}

/// A step, or the probe, has ended.
pub(crate) fn step_completed(
    execution: &Execution,
    result: &StepResult,
    failure: Option<&ExecutionFailure>,
) -> NewAuditEvent {
    let outcome = match failure {
        None => EventOutcome::Success,
        Some(_) => EventOutcome::Failure,
    };
    let mut event = event(execution, "execution.step.completed", outcome, &result.name);
    event.duration_ms = i64::try_from(result.duration_ms).ok();
    event.event_data.extend([
        ("step".to_owned(), json!(result.name)),
        ("tries".to_owned(), json!(result.tries)),
        ("status_code".to_owned(), json!(result.status_code)),
        ("exit_code".to_owned(), json!(result.exit_code)),
        ("failure".to_owned(), json!(failure)),
    ]);
    event
}

/// All that was to be done was done.
pub(crate) fn completed(execution: &Execution, steps: usize) -> NewAuditEvent {
    let mut event = event(execution, "execution.completed", EventOutcome::Success, "");
    event.event_data.insert("steps".to_owned(), json!(steps));
    event
}

/// It was not.
pub(crate) fn failed(execution: &Execution, failure: &ExecutionFailure) -> NewAuditEvent {
    let mut event = event(execution, "execution.failed", EventOutcome::Failure, "");
    event
        .event_data
        .insert("failure".to_owned(), json!(failure));
    event
}

/// It was stopped because someone asked for it.
pub(crate) fn cancelled(execution: &Execution, steps: usize) -> NewAuditEvent {
    let mut event = event(execution, "execution.cancelled", EventOutcome::Failure, "");
    event.event_data.insert("steps".to_owned(), json!(steps));
    event
}

fn event(
    execution: &Execution,
    event_type: &str,
    outcome: EventOutcome,
    detail: &str,
) -> NewAuditEvent {
    let (category, action) = event_type
        .split_once('.')
        .unwrap_or((event_type, event_type));
    let workflow = &execution.workflow;
    let about: [(&str, Value); 3] = [
        ("execution_id", json!(execution.id)),
        ("attempt", json!(execution.attempt)),
        (
            "workflow",
            json!({
                "name": workflow.name,
                "version": workflow.version,
                "digest": execution.workflow_digest,
            }),
        ),
    ];
    NewAuditEvent {
        event_id: event_id::derive(
            execution.created_at,
            execution.id,
            &format!("{event_type}/{detail}"),
        ),
        version: "1.0".to_owned(),
        event_type: event_type.to_owned(),
        event_category: category.to_owned(),
        event_action: action.to_owned(),
        event_outcome: outcome,
        event_timestamp: OffsetDateTime::now_utc(),
        correlation_id: execution.request_id.to_string(),
        event_data: Map::from_iter(about.map(|(key, value)| (key.to_owned(), value))),
        resource_type: Some(execution.target.kind.clone()),
        resource_name: Some(execution.target.name.clone()),
        namespace: Some(execution.target.namespace.clone()),
        severity: None,
        duration_ms: None,
        parent_event_id: None,
    }
}
