//! What the orchestrator says of its own work, beside the state changes that DataStorage records.
//! Everything follows from the row that was acted upon, the ID and the time too, so that two
//! replicas, or one that starts again, say the same thing and it is stored once.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use common::api::{
    Approval, Decision, EventOutcome, Execution, NewAuditEvent, RemediationRequest, WorkflowChoice,
};
use common::client::{ClientError, DataStorage};
use common::event_id;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::checks::Check;

/// IDs of what was done lately.
#[derive(Debug, Default)]
pub(crate) struct Remembered(Mutex<HashSet<Uuid>>);

impl Remembered {
    /// How many; beyond, all are forgotten.
    const MAX: usize = 10_000;

    pub(crate) fn contains(&self, id: Uuid) -> bool {
        self.ids().contains(&id)
    }

    /// Remembers it, and tells whether it was not remembered before.
    pub(crate) fn is_new(&self, id: Uuid) -> bool {
        let mut ids = self.ids();
        if ids.len() >= Self::MAX {
            ids.clear();
        }
        ids.insert(id)
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, HashSet<Uuid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says each event once.
#[derive(Debug)]
pub(crate) struct Audit {
    storage: DataStorage,
    /// So that a request that waits does not say the same again each time it is looked at.
    said: Remembered,
}

impl Audit {
    pub(crate) fn new(storage: DataStorage) -> Self {
        Self {
            storage,
            said: Remembered::default(),
        }
    }

    /// Returns once the event is stored, by this call or an earlier one.
    pub(crate) async fn say(&self, event: &NewAuditEvent) -> Result<(), ClientError> {
        let id = event.event_id;
        if self.said.contains(id) {
            return Ok(());
        }
        match self.storage.record(event).await {
            Ok(_) => {}
            // Said before, from another version of the row.
            Err(error) if error.is_conflict() => {
                tracing::debug!(event_id = %id, "the event is stored already");
            }
            Err(error) => return Err(error),
        }
        self.said.is_new(id);
        Ok(())
    }
}

/// A workflow was chosen and will be started.
pub(crate) fn selected(request: &RemediationRequest, choice: &WorkflowChoice) -> NewAuditEvent {
    let detail = format!("{}/{}/{}", request.attempt, choice.name, choice.version);
    let data = json!({
        "workflow": {"name": choice.name, "version": choice.version},
        "reason": choice.reason,
        "attempt": request.attempt + 1,
    });
    event(
        request,
        "workflow.selected",
        EventOutcome::Success,
        &detail,
        data,
    )
}

/// Nothing in the catalog fits.
pub(crate) fn not_found(request: &RemediationRequest, reason: &str) -> NewAuditEvent {
    let detail = request.resource_version.to_string();
    let data = json!({"reason": reason});
    event(
        request,
        "workflow.not_found",
        EventOutcome::Failure,
        &detail,
        data,
    )
}

/// Something stands against executing now.
pub(crate) fn blocked(request: &RemediationRequest, checks: &[Check]) -> NewAuditEvent {
    let detail = request.resource_version.to_string();
    let data = json!({"checks": checks});
    event(
        request,
        "remediation.blocked",
        EventOutcome::Pending,
        &detail,
        data,
    )
}

/// A person is asked.
pub(crate) fn approval_requested(request: &RemediationRequest) -> NewAuditEvent {
    let data = json!({"workflow": request.workflow});
    event(
        request,
        "approval.requested",
        EventOutcome::Pending,
        "",
        data,
    )
}

/// A person has decided.
pub(crate) fn approval_decided(request: &RemediationRequest, approval: &Approval) -> NewAuditEvent {
    let outcome = match approval.decision {
        Decision::Approved => EventOutcome::Success,
        Decision::Rejected => EventOutcome::Failure,
    };
    let data = json!({"approval": approval});
    event(request, "approval.decided", outcome, "", data)
}

/// It took longer than it may.
pub(crate) fn timed_out(request: &RemediationRequest, reason: &str) -> NewAuditEvent {
    let data = json!({"phase": request.phase, "reason": reason});
    event(
        request,
        "remediation.timed_out",
        EventOutcome::Failure,
        "",
        data,
    )
}

/// The execution did what it was to do, and the target is healed.
pub(crate) fn completed(request: &RemediationRequest, execution: &Execution) -> NewAuditEvent {
    let data = json!({"steps": execution.steps.len()});
    ended(
        request,
        execution,
        "remediation.completed",
        EventOutcome::Success,
        data,
    )
}

/// The execution failed.
pub(crate) fn failed(request: &RemediationRequest, execution: &Execution) -> NewAuditEvent {
    let data = json!({"failure": execution.failure});
    ended(
        request,
        execution,
        "remediation.failed",
        EventOutcome::Failure,
        data,
    )
}

/// The execution was stopped because someone asked for it.
pub(crate) fn cancelled(request: &RemediationRequest, execution: &Execution) -> NewAuditEvent {
    let data = json!({"steps": execution.steps.len()});
    ended(
        request,
        execution,
        "remediation.cancelled",
        EventOutcome::Failure,
        data,
    )
}

fn ended(
    request: &RemediationRequest,
    execution: &Execution,
    event_type: &str,
    outcome: EventOutcome,
    data: Value,
) -> NewAuditEvent {
    let mut event = event(
        request,
        event_type,
        outcome,
        &execution.id.to_string(),
        data,
    );
    let workflow = &execution.workflow;
    event.event_data.extend([
        ("execution_id".to_owned(), json!(execution.id)),
        ("attempt".to_owned(), json!(execution.attempt)),
        (
            "workflow".to_owned(),
            json!({"name": workflow.name, "version": workflow.version}),
        ),
    ]);
    // The end of an execution does not change any more; the request may still be written to.
    event.event_timestamp = recent(execution.updated_at);
    event
}

/// DataStorage takes no event that is older than seven days; one that should have been said long
/// ago is said with a later time rather than never.
fn recent(time: OffsetDateTime) -> OffsetDateTime {
    const AGE_MAX: time::Duration = time::Duration::days(6);
    time.max(OffsetDateTime::now_utc() - AGE_MAX)
}

fn event(
    request: &RemediationRequest,
    event_type: &str,
    outcome: EventOutcome,
    detail: &str,
    data: Value,
) -> NewAuditEvent {
    let (category, action) = event_type
        .split_once('.')
        .unwrap_or((event_type, event_type));
    let event_data = match data {
        Value::Object(members) => members,
        other => Map::from_iter([("value".to_owned(), other)]),
    };
    NewAuditEvent {
        event_id: event_id::derive(
            request.created_at,
            request.id,
            &format!("{event_type}/{detail}"),
        ),
        version: "1.0".to_owned(),
        event_type: event_type.to_owned(),
        event_category: category.to_owned(),
        event_action: action.to_owned(),
        event_outcome: outcome,
        event_timestamp: recent(request.updated_at),
        correlation_id: request.id.to_string(),
        event_data,
        resource_type: Some(request.target.kind.clone()),
        resource_name: Some(request.target.name.clone()),
        namespace: Some(request.target.namespace.clone()),
        severity: None,
        duration_ms: None,
        parent_event_id: None,
    }
}
