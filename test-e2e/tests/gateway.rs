//! Gateway, end to end: a signal becomes exactly one remediation request in DataStorage, or is
//! refused with a reason.

use test_e2e::{scenario, signals, unique};

#[test]
fn a_webhook_becomes_a_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = format!("web-{}", unique());
    signals::send(
        &gateway,
        &signals::deployment_alert(&deployment, "critical"),
    )
    .expect(201);
    let requests = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0].occurrence_count, 1);
    assert_eq!(requests[0].target.kind, "Deployment");
}
