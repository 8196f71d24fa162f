//! The whole way, end to end: an alert comes in, and a sick workload is healed once, with an audit
//! trail that tells how. Here every service is the real one; the tests only send alerts and look.

use std::time::Duration;

use common::api::RemediationRequest;
use common::transitions::RequestPhase;
use serde_json::{Value, json};
use test_e2e::crowd::together;
use test_e2e::testbed::{self, Journal};
use test_e2e::workflows::{self, call, step};
use test_e2e::{
    Look, Scenario, audit, eventually, fault, http, requests, scenario, scenario_with_node,
    signals, unique,
};
use time::OffsetDateTime;

/// From the alert to the end. A lease that was lost takes ten seconds, a deadline a little more.
const WITHIN: Duration = Duration::from_secs(90);

/// What every healed workload leaves behind, in this order, whoever says it. What gateway says of
/// the signal comes after the request is there, and may come late when a service died.
const TRAIL: [&str; 10] = [
    "datastorage.remediation_request.created",
    "signal.enriched",
    "classification.decided",
    "workflow.selected",
    "datastorage.workflow_execution.created",
    "datastorage.workflow_execution.transitioned",
    "execution.step.completed",
    "execution.completed",
    "remediation.completed",
    "datastorage.remediation_request.transitioned",
];

/// The services that may die in the middle and all is healed all the same. An execution whose
/// holder died is failed on purpose: see workflowexecution's own tests.
const MORTAL: [&str; 4] = [
    "gateway",
    "signalprocessing",
    "remediationorchestrator",
    "postgres",
];

struct Patient {
    name: String,
    signal: String,
    alert: Value,
}

/// A sick workload in the test bed and an alert about it.
#[track_caller]
fn patient(scenario: &Scenario, signal: &str) -> Patient {
    patient_in(scenario, signal, "warning")
}

/// The same with an alert of this severity. What is critical here is P0, and a person is asked.
#[track_caller]
fn patient_in(scenario: &Scenario, signal: &str, severity: &str) -> Patient {
    let name = format!("web-{}", unique());
    testbed::make_sick(&scenario.anonymous("testbed"), &name);
    let labels = [
        ("alertname", signal),
        ("severity", severity),
        ("namespace", "shop"),
        ("deployment", name.as_str()),
    ];
    let alert = signals::alert(&labels, OffsetDateTime::now_utc());
    Patient {
        signal: signal.to_owned(),
        alert,
        name,
    }
}

/// The name of a signal for which a workflow that restarts is in the catalog.
#[track_caller]
fn signal_with_workflow(scenario: &Scenario) -> String {
    let signal = format!("Signal{}", unique());
    workflows::publish(scenario, &workflows::restart(&signal));
    signal
}

/// Sends an alert again until its answer is final, as Alertmanager does.
#[track_caller]
fn send_until_final(gateway: &http::Api, alert: &Value) {
    let webhook = signals::webhook(std::slice::from_ref(alert));
    eventually("a final answer", WITHIN, || {
        match gateway.try_post(signals::ALERTMANAGER, &webhook) {
            Ok(answer) if [201, 202].contains(&answer.status) => Look::Seen(()),
            Ok(answer) => Look::NotYet(answer.to_string()),
            Err(error) => Look::NotYet(error.to_string()),
        }
    });
}

#[track_caller]
fn request_of(scenario: &Scenario, patient: &Patient) -> RemediationRequest {
    let api = scenario.api("datastorage", "e2e-reader");
    let mut found = signals::requests_of(&api, "shop", &patient.name);
    assert_eq!(found.len(), 1, "{}: {found:#?}", patient.name);
    found.remove(0)
}

/// The workload is healed, by one action, and the trail of its request is whole and in order.
#[track_caller]
fn expect_healed(scenario: &Scenario, patient: &Patient) {
    let api = scenario.api("datastorage", "e2e-reader");
    let request = request_of(scenario, patient);
    let request = requests::await_phase(&api, request.id, WITHIN, RequestPhase::Completed);
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    assert!(journal.healthy, "{journal:#?}");
    let restarts = journal.calls("restart");
    assert_eq!(restarts.len(), 1, "each action once: {journal:#?}");
    let execution = request.execution_id.expect("an execution");
    assert_eq!(
        restarts[0].idempotency_key,
        Some(format!("{execution}/restart"))
    );
    assert_eq!(
        (request.attempt, &request.signal.name),
        (1, &patient.signal)
    );
    let chain = request.id.to_string();
    let verdict = audit::verdict(&api, &chain);
    assert!(verdict.intact, "{verdict:?}");
    let count = usize::try_from(verdict.event_count).expect("a count");
    let events = audit::expect_intact(&api, &chain, count);
    audit::expect_in_order(&api, &chain, &TRAIL);
    for once in [
        "gateway.signal.received",
        "workflow.selected",
        "execution.completed",
        "remediation.completed",
    ] {
        let found = events.iter().filter(|event| event.event.event_type == once);
        assert_eq!(found.count(), 1, "{once}: {events:#?}");
    }
}

#[test]
fn an_alert_heals_a_workload() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let api = scenario.api("datastorage", "e2e-reader");
    let patient = patient_in(&scenario, &signal_with_workflow(&scenario), "critical");
    signals::send(&gateway, &patient.alert).expect(201);
    let id = request_of(&scenario, &patient).id;
    requests::await_phase(&api, id, WITHIN, RequestPhase::AwaitingApproval);
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    assert!(journal.calls("restart").is_empty(), "{journal:#?}");
    scenario
        .api("remediationorchestrator", "e2e-approver")
        .post(
            &format!("/api/v1/approvals/{id}"),
            &json!({"decision": "approved", "reason": "it is sick"}),
        )
        .expect(200);
    expect_healed(&scenario, &patient);
    let trail = ["approval.requested", "workflow.selected"];
    audit::expect_in_order(&api, &id.to_string(), &trail);
    let request = request_of(&scenario, &patient);
    assert_eq!(
        request
            .approval
            .map(|approval| approval.decided_by)
            .as_deref(),
        Some("e2e-approver")
    );
    let classification = request.classification.expect("a classification");
    assert_eq!(classification.priority, "P0");
    let events = audit::chain_events(&api, &request.id.to_string());
    let mut actors: Vec<&str> = events.iter().map(|event| event.actor.as_str()).collect();
    actors.dedup();
    actors.sort_unstable();
    actors.dedup();
    let all = [
        "gateway",
        "remediationorchestrator",
        "signalprocessing",
        "workflowexecution",
    ];
    assert_eq!(actors, all);
}

#[test]
fn twenty_alerts_at_once_heal_twenty_workloads() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let signal = signal_with_workflow(&scenario);
    let patients = together(20, |_| {
        let patient = patient(&scenario, &signal);
        signals::send(&gateway, &patient.alert).expect(201);
        patient
    });
    for patient in &patients {
        expect_healed(&scenario, patient);
    }
}

#[test]
fn an_alert_that_is_sent_again_and_again_heals_once() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let api = scenario.api("datastorage", "e2e-reader");
    let patient = patient(&scenario, &signal_with_workflow(&scenario));
    signals::send(&gateway, &patient.alert).expect(201);
    let id = request_of(&scenario, &patient).id;
    eventually("the end", WITHIN, || {
        let request = requests::read(&api, id);
        if request.phase.is_terminal() {
            return Look::Seen(());
        }
        let answer = signals::send(&gateway, &patient.alert);
        assert!([201, 202].contains(&answer.status), "{answer}");
        Look::NotYet(format!("{:?}", request.phase))
    });
    let api = scenario.api("datastorage", "e2e-reader");
    let first = requests::read(&api, id);
    assert_eq!(
        (first.phase, first.occurrence_count),
        (RequestPhase::Completed, 1)
    );
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    let mut keys: Vec<_> = journal
        .calls("restart")
        .iter()
        .map(|call| &call.idempotency_key)
        .collect();
    keys.dedup();
    assert_eq!(keys.len(), journal.calls("restart").len(), "{journal:#?}");
}

#[test]
fn an_alert_that_no_workflow_fits_is_skipped_and_nothing_is_touched() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let api = scenario.api("datastorage", "e2e-reader");
    let patient = patient(&scenario, &format!("Signal{}", unique()));
    signals::send(&gateway, &patient.alert).expect(201);
    let id = request_of(&scenario, &patient).id;
    requests::await_phase(&api, id, WITHIN, RequestPhase::Skipped);
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    assert!(
        !journal.healthy && journal.calls("restart").is_empty(),
        "{journal:#?}"
    );
    audit::expect_in_order(&api, &id.to_string(), &["workflow.not_found"]);
    assert!(audit::verdict(&api, &id.to_string()).intact);
}

#[test]
fn a_workflow_that_does_not_heal_fails_the_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let api = scenario.api("datastorage", "e2e-reader");
    let signal = format!("Signal{}", unique());
    let mut useless = workflows::workflow(
        &signal,
        vec![step("fail", call("POST", "/fail?name={name}&times=99"))],
    );
    useless
        .labels
        .insert("environment".to_owned(), "production".to_owned());
    workflows::publish(&scenario, &useless);
    let patient = patient(&scenario, &signal);
    signals::send(&gateway, &patient.alert).expect(201);
    let id = request_of(&scenario, &patient).id;
    let request = requests::await_phase(&api, id, WITHIN, RequestPhase::Failed);
    assert!(request.reason.is_some_and(|reason| reason.contains("503")));
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    assert_eq!(journal.calls("fail").len(), 1, "{journal:#?}");
    let trail = [
        "workflow.selected",
        "execution.failed",
        "remediation.failed",
    ];
    audit::expect_in_order(&api, &id.to_string(), &trail);
}

#[test]
fn a_resolved_alert_is_recorded_and_the_workload_stays_healed() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let mut patient = patient(&scenario, &signal_with_workflow(&scenario));
    signals::send(&gateway, &patient.alert).expect(201);
    expect_healed(&scenario, &patient);
    patient.alert["status"] = json!("resolved");
    signals::send(&gateway, &patient.alert).expect(200);
    let request = request_of(&scenario, &patient);
    assert_eq!(request.phase, RequestPhase::Completed);
}

/// Alerts come in, and a service dies while their requests are on their way.
#[track_caller]
fn check_death(scenario: &Scenario, service: &str) {
    let gateway = scenario.api("gateway", "alertmanager");
    let signal = signal_with_workflow(scenario);
    let patients: Vec<Patient> = (0..6).map(|_| patient(scenario, &signal)).collect();
    let (before, after) = patients.split_at(3);
    for patient in before {
        signals::send(&gateway, &patient.alert).expect(201);
    }
    let down = fault::kill(scenario.run(), service);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            for patient in after {
                send_until_final(&gateway, &patient.alert);
            }
        });
        down.end();
        sending.join().expect("every alert has a final answer");
    });
    for patient in &patients {
        expect_healed(scenario, patient);
    }
}

#[test]
fn datastorage_killed_in_the_middle_nothing_is_lost_and_nothing_done_twice() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    for _ in 0..3 {
        check_death(&scenario, "datastorage");
    }
}

#[test]
fn any_service_but_the_executor_may_die_in_the_middle() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    for service in MORTAL {
        check_death(&scenario, service);
    }
}
