//! Audit events: what is accepted, how it is brought to the form that PostgreSQL gives back, and
//! what its hash is taken over.

use common::api::{
    AuditEvent, EventOutcome, NewAuditEvent, NewAuditEventFields, RESERVED_EVENT_TYPE_PREFIX,
};
use common::canonical;
use common::problem::{Answer, Problem};
use serde::Serialize;
use serde_json::{Map, Value};
use time::{Duration, OffsetDateTime, UtcOffset};
use uuid::Uuid;

use super::text;

/// Most events of a batch.
pub(crate) const BATCH_MAX: usize = 500;
/// The predecessor's hash of the first event of a chain.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const DATA_BYTES_MAX: usize = 256 * 1024;
const DATA_DEPTH_MAX: usize = 10;
const CORRELATION_BYTES_MAX: usize = 128;
const AHEAD_MAX: Duration = Duration::minutes(5);
const BEHIND_MAX: Duration = Duration::days(7);

/// An event that may be stored, its time cut to microseconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft(NewAuditEventFields);

/// The end of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) seq: i64,
    pub(crate) hash: String,
}

impl Draft {
    pub(crate) fn fields(&self) -> &NewAuditEventFields {
        &self.0
    }

    /// Judges everything but the time, which a resend may have outlived.
    pub(crate) fn parse(event: NewAuditEvent) -> Answer<Self> {
        if event.event_type.starts_with(RESERVED_EVENT_TYPE_PREFIX) {
            return Err(Problem::forbidden(format!(
                "event_type: `{RESERVED_EVENT_TYPE_PREFIX}…` is written by DataStorage alone"
            )));
        }
        if event.event_id.get_version_num() != 7 {
            return Err(Problem::bad_request("event_id: a UUIDv7 is needed"));
        }
        text::word("version", &event.version, ".", 16)?;
        parse_type(&event.event_type)?;
        text::word("event_category", &event.event_category, "_-", 64)?;
        text::word("event_action", &event.event_action, "_-.", 64)?;
        parse_correlation_id(&event.correlation_id)?;
        text::optional_name("resource_type", event.resource_type.as_deref())?;
        text::optional_name("resource_name", event.resource_name.as_deref())?;
        text::optional_name("namespace", event.namespace.as_deref())?;
        text::optional_name("severity", event.severity.as_deref())?;
        if event.duration_ms.is_some_and(|duration| duration < 0) {
            return Err(Problem::bad_request("duration_ms: is negative"));
        }
        parse_data(&event.event_data)?;
        Ok(Self(NewAuditEventFields {
            event_id: event.event_id,
            version: event.version,
            event_type: event.event_type,
            event_category: event.event_category,
            event_action: event.event_action,
            event_outcome: event.event_outcome,
            event_timestamp: to_microseconds(event.event_timestamp),
            correlation_id: event.correlation_id,
            event_data: event.event_data,
            resource_type: event.resource_type,
            resource_name: event.resource_name,
            namespace: event.namespace,
            severity: event.severity,
            duration_ms: event.duration_ms,
            parent_event_id: event.parent_event_id,
        }))
    }

    /// An event of DataStorage's own about a change of state.
    pub(crate) fn own(
        kind: OwnEvent,
        correlation_id: &str,
        at: OffsetDateTime,
        event_data: Map<String, Value>,
    ) -> Self {
        let (resource, action) = kind.names();
        Self(NewAuditEventFields {
            event_id: Uuid::now_v7(),
            version: "1.0".to_owned(),
            event_type: format!("{RESERVED_EVENT_TYPE_PREFIX}{resource}.{action}"),
            event_category: "datastorage".to_owned(),
            event_action: action.to_owned(),
            event_outcome: EventOutcome::Success,
            event_timestamp: to_microseconds(at),
            correlation_id: correlation_id.to_owned(),
            event_data,
            resource_type: Some(resource.to_owned()),
            resource_name: None,
            namespace: None,
            severity: None,
            duration_ms: None,
            parent_event_id: None,
        })
    }

    /// Names what it is about.
    pub(crate) fn about(mut self, resource_name: String, namespace: Option<String>) -> Self {
        self.0.resource_name = Some(resource_name);
        self.0.namespace = namespace;
        self
    }

    /// Judges the emitter's clock against the database's.
    pub(crate) fn check_time(&self, now: OffsetDateTime) -> Answer<()> {
        let at = self.0.event_timestamp;
        if at > now + AHEAD_MAX {
            return Err(Problem::bad_request(
                "event_timestamp: more than 5 minutes ahead of the database's clock",
            ));
        }
        if at < now - BEHIND_MAX {
            return Err(Problem::bad_request(
                "event_timestamp: more than 7 days behind the database's clock",
            ));
        }
        Ok(())
    }

    /// Makes it the next event of its chain, which then ends with it.
    pub(crate) fn link(self, head: &mut Head, actor: &str) -> Answer<AuditEvent> {
        let mut event = AuditEvent {
            event: self.0,
            actor: actor.to_owned(),
            chain_seq: head.seq + 1,
            previous_hash: head.hash.clone(),
            hash: String::new(),
        };
        event.hash = hash(&event).map_err(|error| Problem::internal(&error))?;
        *head = Head {
            seq: event.chain_seq,
            hash: event.hash.clone(),
        };
        Ok(event)
    }
}

/// The changes of state that DataStorage writes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnEvent {
    RequestCreated,
    RequestTransitioned,
    RequestUpdated,
    ExecutionCreated,
    ExecutionTransitioned,
    ExecutionUpdated,
    WorkflowCreated,
    WorkflowDisabled,
    WorkflowEnabled,
}

impl OwnEvent {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::RequestCreated => ("remediation_request", "created"),
            Self::RequestTransitioned => ("remediation_request", "transitioned"),
            Self::RequestUpdated => ("remediation_request", "updated"),
            Self::ExecutionCreated => ("workflow_execution", "created"),
            Self::ExecutionTransitioned => ("workflow_execution", "transitioned"),
            Self::ExecutionUpdated => ("workflow_execution", "updated"),
            Self::WorkflowCreated => ("workflow", "created"),
            Self::WorkflowDisabled => ("workflow", "disabled"),
            Self::WorkflowEnabled => ("workflow", "enabled"),
        }
    }
}

/// SHA-256 over the predecessor's hash and the canonical JSON of everything else but the hash.
pub(crate) fn hash(event: &AuditEvent) -> Result<String, serde_json::Error> {
    #[derive(Serialize)]
    struct Hashed<'a> {
        #[serde(flatten)]
        event: &'a NewAuditEventFields,
        actor: &'a str,
        chain_seq: i64,
    }
    let hashed = Hashed {
        event: &event.event,
        actor: &event.actor,
        chain_seq: event.chain_seq,
    };
    let mut bytes = event.previous_hash.clone().into_bytes();
    bytes.extend(canonical::to_bytes(&hashed)?);
    Ok(canonical::sha256_hex(&bytes))
}

/// 1 to 128 bytes that print and are no spaces.
pub(crate) fn parse_correlation_id(value: &str) -> Answer<()> {
    let prints = |c: char| !c.is_control() && !c.is_whitespace();
    if value.is_empty() || value.len() > CORRELATION_BYTES_MAX || !value.chars().all(prints) {
        return Err(Problem::bad_request(format!(
            "correlation_id: 1 to {CORRELATION_BYTES_MAX} bytes without spaces are needed"
        )));
    }
    Ok(())
}

fn parse_type(value: &str) -> Answer<()> {
    text::word("event_type", value, "_-.", 128)?;
    if !value.contains('.') || value.split('.').any(str::is_empty) {
        return Err(Problem::bad_request(
            "event_type: words separated by dots are needed, like `gateway.signal.received`",
        ));
    }
    Ok(())
}

fn parse_data(data: &Map<String, Value>) -> Answer<()> {
    let depth = 1 + data.values().map(depth).max().unwrap_or(0);
    if depth > DATA_DEPTH_MAX {
        return Err(Problem::bad_request(format!(
            "event_data: deeper than {DATA_DEPTH_MAX}"
        )));
    }
    let bytes = canonical::to_bytes(data)
        .map_err(|error| Problem::bad_request(format!("event_data: {error}")))?;
    if bytes.len() > DATA_BYTES_MAX {
        return Err(Problem::bad_request(format!(
            "event_data: more than {DATA_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

/// How many arrays and objects lie in each other. The body is at most 64 deep.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(members) => members.values().map(depth).max(),
        _ => return 0,
    };
    1 + below.unwrap_or(0)
}

/// What a `timestamptz` holds.
fn to_microseconds(at: OffsetDateTime) -> OffsetDateTime {
    let at = at.to_offset(UtcOffset::UTC);
    let cut = at.nanosecond() / 1000 * 1000;
    at.replace_nanosecond(cut).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    fn event() -> NewAuditEvent {
        let event = json!({
            "event_id": "0197a000-0000-7000-8000-000000000001", "version": "1.0",
            "event_type": "gateway.signal.received", "event_category": "gateway",
            "event_action": "received", "event_outcome": "success",
            "event_timestamp": "2026-11-23T18:00:00.123456789+01:00",
            "correlation_id": "abc", "event_data": {"a": 1.0}
        });
        serde_json::from_value(event).expect("event")
    }

    #[test]
    fn the_time_is_cut_to_what_postgresql_keeps() {
        let draft = Draft::parse(event()).expect("draft");
        let at = draft.fields().event_timestamp;
        assert_eq!(at, datetime!(2026-11-23 17:00:00.123456 UTC));
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut NewAuditEvent), field: &str) {
        let mut event = event();
        change(&mut event);
        let problem = Draft::parse(event).expect_err(field);
        assert!(problem.detail().starts_with(field), "{problem}");
    }

    #[test]
    fn bad_fields_are_named() {
        refused(|e| e.event_id = Uuid::nil(), "event_id");
        refused(|e| e.version.clear(), "version");
        refused(|e| e.event_type = "received".to_owned(), "event_type");
        refused(|e| e.event_type = "a..b".to_owned(), "event_type");
        refused(|e| e.event_type = "datastorage.x".to_owned(), "event_type");
        refused(|e| e.event_category = "A".to_owned(), "event_category");
        refused(|e| e.correlation_id = "a b".to_owned(), "correlation_id");
        refused(|e| e.correlation_id = "x".repeat(129), "correlation_id");
        refused(|e| e.duration_ms = Some(-1), "duration_ms");
        refused(|e| e.severity = Some(String::new()), "severity");
        let long = json!("x".repeat(256 * 1024));
        refused(
            |e| drop(e.event_data.insert("x".to_owned(), long)),
            "event_data",
        );
    }

    #[test]
    fn depth_ten_is_the_last() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |value, _| json!({"x": value}));
        let with_depth = |levels: usize| {
            let mut event = event();
            event.event_data = nested(levels).as_object().expect("object").clone();
            Draft::parse(event)
        };
        assert!(with_depth(10).is_ok());
        assert!(with_depth(11).is_err());
    }

    #[test]
    fn the_window_is_five_minutes_and_seven_days() {
        let draft = Draft::parse(event()).expect("draft");
        let at = draft.fields().event_timestamp;
        assert!(draft.check_time(at - Duration::minutes(5)).is_ok());
        assert!(draft.check_time(at - Duration::seconds(301)).is_err());
        assert!(draft.check_time(at + Duration::days(7)).is_ok());
        assert!(
            draft
                .check_time(at + Duration::days(7) + Duration::seconds(1))
                .is_err()
        );
    }

    #[test]
    fn each_hash_is_over_the_one_before_and_every_field() {
        let genesis = Head {
            seq: 0,
            hash: GENESIS.to_owned(),
        };
        let draft = Draft::parse(event()).expect("draft");
        let mut head = genesis.clone();
        let first = draft.clone().link(&mut head, "gateway").expect("event");
        assert_eq!((first.chain_seq, &first.hash), (1, &head.hash));
        let second = draft.clone().link(&mut head, "gateway").expect("event");
        assert_eq!((second.chain_seq, &second.previous_hash), (2, &first.hash));
        assert_ne!(first.hash, second.hash);
        let other = draft.link(&mut genesis.clone(), "someone").expect("event");
        assert_ne!(first.hash, other.hash);
        assert_eq!(hash(&first).expect("hash"), first.hash);
    }
}
