//! The audit events of signalprocessing. The IDs of what is said about a request follow from the
//! claim under which it was found out, so a resend is the same event. It builds no event of a
//! state change: those are DataStorage's.

use common::{
    api::{AuditBatch, EventOutcome, NewAuditEvent, RemediationRequest},
    event_id,
};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{domain::Enrichment, live_policy::Change, policy::Decision};

/// The chain of what happens to the policy.
pub const POLICY_CHAIN: &str = "signalprocessing-policy";

/// Errors of the Rego compiler quote its source.
const ERROR_CHARS_MAX: usize = 1_000;

/// What was found out about a request, and what the policy made of it.
#[must_use]
pub fn classification_events(
    claimed: &RemediationRequest,
    enrichment: &Enrichment,
    decision: Result<&Decision, &str>,
    policy_hash: &str,
    replica: &str,
) -> AuditBatch {
    let about = |event_type: &str, outcome: EventOutcome, data: Value| {
        let identity = format!("{event_type}/{}", claimed.resource_version);
        NewAuditEvent {
            event_id: event_id::derive(claimed.created_at, claimed.id, &identity),
            event_outcome: outcome,
            resource_type: Some(claimed.target.kind.clone()),
            resource_name: Some(claimed.target.name.clone()),
            namespace: Some(claimed.target.namespace.clone()),
            ..event(event_type, claimed.id.to_string(), data)
        }
    };
    let enriched = about(
        "signal.enriched",
        EventOutcome::Success,
        json!({
            "degraded": enrichment.degraded,
            "enrichment": enrichment.to_map(),
            "replica": replica,
        }),
    );
    let decided = match decision {
        Ok(decision) => NewAuditEvent {
            severity: severity_name(decision),
            ..about(
                "classification.decided",
                EventOutcome::Success,
                json!({
                    "environment": decision.environment,
                    "priority": decision.priority.as_str(),
                    "signal_mode": decision.signal_mode.as_str(),
                    "reason": decision.reason,
                    "degraded": enrichment.degraded,
                    "policy_hash": policy_hash,
                    "replica": replica,
                }),
            )
        },
        Err(error) => about(
            "classification.decided",
            EventOutcome::Failure,
            json!({
                "error": excerpt(error),
                "policy_hash": policy_hash,
                "replica": replica,
            }),
        ),
    };
    AuditBatch {
        events: vec![enriched, decided],
    }
}

/// What became of a changed policy. Each replica tells its own.
#[must_use]
pub fn policy_event(change: &Change, replica: &str) -> NewAuditEvent {
    let (event_type, outcome, data) = match change {
        Change::Reloaded {
            hash,
            previous_hash,
        } => (
            "policy.reloaded",
            EventOutcome::Success,
            json!({"policy_hash": hash, "previous_hash": previous_hash, "replica": replica}),
        ),
        Change::Rejected {
            rejected_hash,
            hash,
            error,
        } => (
            "policy.rejected",
            EventOutcome::Failure,
            json!({
                "policy_hash": hash,
                "rejected_hash": rejected_hash,
                "error": excerpt(error),
                "replica": replica,
            }),
        ),
    };
    NewAuditEvent {
        event_outcome: outcome,
        ..event(event_type, POLICY_CHAIN.to_owned(), data)
    }
}

fn event(event_type: &str, correlation_id: String, event_data: Value) -> NewAuditEvent {
    let action = event_type.rsplit('.').next().unwrap_or(event_type);
    NewAuditEvent {
        event_id: Uuid::now_v7(),
        version: "1.0".to_owned(),
        event_type: event_type.to_owned(),
        event_category: "signalprocessing".to_owned(),
        event_action: action.to_owned(),
        event_outcome: EventOutcome::Success,
        event_timestamp: OffsetDateTime::now_utc(),
        correlation_id,
        event_data: match event_data {
            Value::Object(map) => map,
            _ => Map::new(),
        },
        resource_type: None,
        resource_name: None,
        namespace: None,
        severity: None,
        duration_ms: None,
        parent_event_id: None,
    }
}

fn severity_name(decision: &Decision) -> Option<String> {
    let name = serde_json::to_value(decision.severity).ok()?;
    name.as_str().map(str::to_owned)
}

/// The beginning of a text, without what PostgreSQL does not hold or people cannot read.
#[must_use]
pub fn excerpt(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            character if character.is_control() => ' ',
            character => character,
        })
        .take(ERROR_CHARS_MAX)
        .collect()
}
