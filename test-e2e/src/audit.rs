//! Audit events: made, stored and read back through DataStorage's API.

use common::api::{AuditBatch, AuditEvent, AuditEvents, ChainVerdict, EventOutcome, NewAuditEvent};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::crowd::together;
use crate::http::{Answer, Api};

/// Where one event is posted, and where events are listed.
pub const EVENTS: &str = "/api/v1/audit/events";
/// Where batches are posted.
pub const BATCH: &str = "/api/v1/audit/events/batch";

/// An event of this chain that DataStorage has no reason to refuse.
#[must_use]
pub fn event(correlation_id: &str) -> NewAuditEvent {
    let mut data = serde_json::Map::new();
    data.insert("note".to_owned(), json!("made by a test"));
    data.insert("numbers".to_owned(), json!([1, 2.5, -3]));
    NewAuditEvent {
        event_id: Uuid::now_v7(),
        version: "1.0".to_owned(),
        event_type: "e2e.note.written".to_owned(),
        event_category: "e2e".to_owned(),
        event_action: "written".to_owned(),
        event_outcome: EventOutcome::Success,
        event_timestamp: OffsetDateTime::now_utc(),
        correlation_id: correlation_id.to_owned(),
        event_data: data,
        resource_type: None,
        resource_name: None,
        namespace: None,
        severity: None,
        duration_ms: None,
        parent_event_id: None,
    }
}

/// So many events of one chain, as a batch.
#[must_use]
pub fn batch(correlation_id: &str, count: usize) -> AuditBatch {
    AuditBatch {
        events: (0..count).map(|_| event(correlation_id)).collect(),
    }
}

/// Stores events of one chain, 500 at a time.
///
/// # Panics
/// When one batch is refused.
#[track_caller]
pub fn store(api: &Api, events: &[NewAuditEvent]) {
    for events in events.chunks(500) {
        let events = events.to_vec();
        let answer = api.post(BATCH, &AuditBatch { events });
        assert!([200, 201].contains(&answer.status), "{answer}");
    }
}

/// Every event of a chain, in the chain's order, page after page.
///
/// # Panics
/// When a page is refused.
#[must_use]
#[track_caller]
pub fn chain_events(api: &Api, correlation_id: &str) -> Vec<AuditEvent> {
    let mut events = list(api, &format!("correlation_id={correlation_id}&limit=500"));
    events.sort_by_key(|event| event.chain_seq);
    events
}

/// Every event that a query gives, page after page.
///
/// # Panics
/// When a page is refused, or there is no end of pages.
#[must_use]
#[track_caller]
pub fn list(api: &Api, query: &str) -> Vec<AuditEvent> {
    api.pages(&format!("{EVENTS}?{query}"), |page: AuditEvents| {
        (page.events, page.next_cursor)
    })
}

/// What the check of a chain finds.
///
/// # Panics
/// When it is refused.
#[must_use]
#[track_caller]
pub fn verdict(api: &Api, correlation_id: &str) -> ChainVerdict {
    let path = format!("/api/v1/audit/chains/{correlation_id}");
    api.get(&path).expect(200).json()
}

/// What the check of each of these chains finds, in their order; several are asked for at once.
///
/// # Panics
/// When one is refused.
#[must_use]
#[track_caller]
pub fn verdicts(api: &Api, correlation_ids: &[String]) -> Vec<ChainVerdict> {
    const AT_ONCE: usize = 8;
    let shares: Vec<&[String]> = correlation_ids
        .chunks(correlation_ids.len().div_ceil(AT_ONCE).max(1))
        .collect();
    let found = together(shares.len(), |index| {
        let share = shares[index].iter();
        share.map(|id| verdict(api, id)).collect::<Vec<_>>()
    });
    found.into_iter().flatten().collect()
}

/// Checks that a chain is intact, gapless from 1, and as long as expected.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn expect_intact(api: &Api, correlation_id: &str, count: usize) -> Vec<AuditEvent> {
    let verdict = verdict(api, correlation_id);
    assert!(verdict.intact, "{verdict:?}");
    assert_eq!(
        usize::try_from(verdict.event_count),
        Ok(count),
        "{verdict:?}"
    );
    let events = chain_events(api, correlation_id);
    let numbers: Vec<i64> = events.iter().map(|event| event.chain_seq).collect();
    let gapless: Vec<i64> = (1_i64..).take(count).collect();
    assert_eq!(numbers, gapless, "sequence numbers of {correlation_id}");
    for pair in events.windows(2) {
        assert_eq!(pair[1].previous_hash, pair[0].hash, "{:?}", pair[1]);
    }
    events
}

/// The types of the events of a chain, in its order.
///
/// # Panics
/// When they cannot be read.
#[must_use]
#[track_caller]
pub fn types(api: &Api, correlation_id: &str) -> Vec<String> {
    let events = chain_events(api, correlation_id);
    events
        .into_iter()
        .map(|event| event.event.event_type)
        .collect()
}

/// Checks that these types occur in a chain in this order; others may stand between them.
///
/// # Panics
/// When one is missing or out of order.
#[track_caller]
pub fn expect_in_order(api: &Api, correlation_id: &str, expected: &[&str]) {
    let types = types(api, correlation_id);
    let mut rest = types.iter();
    for wanted in expected {
        assert!(
            rest.any(|found| found == wanted),
            "{wanted} is missing or too early in {types:#?}, of which {expected:#?} was expected"
        );
    }
}

/// Posts an event and expects it to be new.
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn post(api: &Api, event: &NewAuditEvent) -> Answer {
    api.post(EVENTS, event).expect(201)
}
