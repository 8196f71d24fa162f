//! DataStorage, end to end: what is accepted is kept, what is refused leaves no trace, and what is
//! done behind its back is found.

use common::api::AuditEvent;
use test_e2e::{audit, scenario, unique};

#[test]
fn an_event_is_stored_and_read_back() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = format!("e2e-{}", unique());
    let event = audit::event(&chain);
    let stored: AuditEvent = audit::post(&api, &event).json();
    assert_eq!((stored.actor.as_str(), stored.chain_seq), ("e2e-writer", 1));
    let read = audit::expect_intact(&api, &chain, 1);
    assert_eq!(read, [stored]);
    assert_eq!(read[0].event.event_id, event.event_id);
    assert_eq!(read[0].event.event_data, event.event_data);
}
