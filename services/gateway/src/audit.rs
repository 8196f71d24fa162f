//! The audit events of gateway. Their IDs follow from what they are about, so the event of a
//! signal is there once however often it is resent. It builds no event of a state change: those
//! are DataStorage's.

use common::{
    api::{EventOutcome, NewAuditEvent, RemediationRequest},
    client::{ClientError, DataStorage},
    event_id,
};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use time::{OffsetDateTime, Time, macros::format_description};
use uuid::Uuid;

use crate::domain::{Observed, Refusal};

/// The category of all of them.
pub const CATEGORY: &str = "gateway";
/// A signal made a request.
pub const RECEIVED: &str = "gateway.signal.received";
/// A signal joined an open request.
pub const DEDUPLICATED: &str = "gateway.signal.deduplicated";
/// An alert has ended.
pub const RESOLVED: &str = "gateway.signal.resolved";
/// A signal made nothing.
pub const REJECTED: &str = "gateway.signal.rejected";

/// Refused signals are kept in excerpts: what they hold was not judged by anybody.
const LABELS_MAX: usize = 32;
const EXCERPT_CHARS_MAX: usize = 200;

/// IDs of refused signals are made in this namespace.
const REJECTIONS: Uuid = Uuid::from_u128(0x0d3b_7c52_8f0e_4f6a_b1d4_6c9e_55a0_7f21);

/// Whether this try stored the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was not there before.
    Now,
    /// An earlier try had stored it.
    Before,
}

/// A signal and its request: `event_type` is [`RECEIVED`], [`DEDUPLICATED`] or [`RESOLVED`].
#[must_use]
pub fn signal_event(
    event_type: &str,
    observed: &Observed,
    request: &RemediationRequest,
    sender: &str,
) -> NewAuditEvent {
    let identity = format!("{event_type}/{}", observed.signal_id);
    let data = json!({
        "signal_id": observed.signal_id,
        "alert_id": observed.alert_id,
        "source": observed.signal.source,
        "signal_name": observed.signal.name,
        "fingerprint": observed.fingerprint,
        "owner_unknown": observed.signal.owner_unknown,
        "target_cluster": observed.target.cluster,
        "sender": sender,
    });
    NewAuditEvent {
        event_outcome: EventOutcome::Success,
        resource_type: Some(observed.target.kind.clone()),
        resource_name: Some(observed.target.name.clone()),
        namespace: Some(observed.target.namespace.clone()),
        severity: serde_json::to_value(observed.severity)
            .ok()
            .and_then(|value| value.as_str().map(str::to_owned)),
        ..event(
            event_id::derive(request.created_at, request.id, &identity),
            event_type,
            request.id.to_string(),
            data,
        )
    }
}

/// A signal that made nothing; it goes to the chain of its day.
#[must_use]
pub fn rejection_event(
    source: &str,
    message: &[u8],
    labels: Option<&Value>,
    refusal: &Refusal,
    sender: &str,
) -> NewAuditEvent {
    let now = OffsetDateTime::now_utc();
    let day = now
        .format(format_description!("[year]-[month]-[day]"))
        .unwrap_or_default();
    let chain = format!("gateway-rejected-{day}");
    let digest = common::canonical::hex(&Sha256::digest(message));
    let identity = format!("{chain}/{source}/{}/{digest}", refusal.reason());
    let data = json!({
        "source": source,
        "reason": refusal.reason(),
        "detail": excerpt(&refusal.to_string()),
        "labels": labels.map(excerpt_of_labels),
        "message_digest": digest,
        "sender": sender,
    });
    NewAuditEvent {
        event_outcome: EventOutcome::Failure,
        ..event(
            event_id::derive(now.replace_time(Time::MIDNIGHT), REJECTIONS, &identity),
            REJECTED,
            chain,
            data,
        )
    }
}

/// Stores the event, once.
///
/// # Errors
/// See [`ClientError`].
pub async fn record(
    datastorage: &DataStorage,
    event: &NewAuditEvent,
) -> Result<Recorded, ClientError> {
    match datastorage.record(event).await {
        Ok(_) => Ok(Recorded::Now),
        // The ID says what the event is about; another body is another try's clock.
        Err(ClientError::Problem { status: 409, .. }) => Ok(Recorded::Before),
        Err(error) => Err(error),
    }
}

fn event(
    event_id: Uuid,
    event_type: &str,
    correlation_id: String,
    event_data: Value,
) -> NewAuditEvent {
    let action = event_type.rsplit('.').next().unwrap_or(event_type);
    NewAuditEvent {
        event_id,
        version: "1.0".to_owned(),
        event_type: event_type.to_owned(),
        event_category: CATEGORY.to_owned(),
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

fn excerpt_of_labels(labels: &Value) -> Value {
    let Value::Object(labels) = labels else {
        return Value::Null;
    };
    labels
        .iter()
        .take(LABELS_MAX)
        .map(|(name, value)| {
            let value = match value {
                Value::String(text) => excerpt(text),
                other => excerpt(&other.to_string()),
            };
            (excerpt(name), Value::String(value))
        })
        .collect::<Map<_, _>>()
        .into()
}

fn excerpt(text: &str) -> String {
    // PostgreSQL holds no NUL.
    text.chars()
        .filter(|character| *character != '\0')
        .take(EXCERPT_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_signal_is_kept_in_excerpts() {
        let labels = json!({"a\0": "b\0".repeat(500), "n": 7});
        let refusal = Refusal::Malformed("x".repeat(500));
        let event = rejection_event("alertmanager", b"m", Some(&labels), &refusal, "am");
        assert_eq!(
            event.event_data["labels"],
            json!({"a": "b".repeat(EXCERPT_CHARS_MAX), "n": "7"})
        );
        assert_eq!(
            event.event_data["detail"].as_str().map(str::len),
            Some(EXCERPT_CHARS_MAX)
        );
        let again = rejection_event("alertmanager", b"m", None, &refusal, "am");
        let other = rejection_event("alertmanager", b"n", None, &refusal, "am");
        assert_eq!(event.event_id, again.event_id);
        assert_ne!(event.event_id, other.event_id);
        assert!(event.correlation_id.starts_with("gateway-rejected-20"));
    }
}
