//! The whole way, end to end: an alert comes in, and a sick workload is healed once, with an audit
//! trail that tells how. Here every service is the real one; the tests only send alerts and look.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::api::{RemediationRequest, RemediationRequests, WorkflowStep};
use common::transitions::RequestPhase;
use serde_json::{Value, json};
use test_e2e::crowd::{together, under_load};
use test_e2e::testbed::{self, Journal};
use test_e2e::workflows::{self, call, step};
use test_e2e::{
    Look, Scenario, audit, eventually, fault, http, requests, scenario, scenario_with_node,
    scenario_with_replicas, signals, unique,
};
use time::OffsetDateTime;
use uuid::Uuid;

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
    let mut workflow = workflows::restart(&signal);
    // While containers come and go, a name cannot be looked up for a moment: that is a call which was
    // not made, and the only kind that is made again.
    for call in workflow.steps.iter_mut().filter_map(WorkflowStep::http_mut) {
        call.retries_max = 2;
    }
    workflows::publish(scenario, &workflow);
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

/// Waits until the request of this patient has ended, whatever dies meanwhile.
#[track_caller]
fn await_end(datastorage: &http::Api, patient: &Patient) -> RequestPhase {
    let list = format!(
        "{}?target=shop/Deployment/{}",
        requests::REQUESTS,
        patient.name
    );
    eventually(
        &format!("the end of {}", patient.name),
        WITHIN,
        || match datastorage.try_get(&list) {
            Ok(answer) if answer.status == 200 => {
                let found: RemediationRequests = answer.json();
                match found.items.first().map(|request| request.phase) {
                    Some(phase) if phase.is_terminal() => Look::Seen(phase),
                    phase => Look::NotYet(format!("{phase:?}")),
                }
            }
            Ok(answer) => Look::NotYet(answer.to_string()),
            Err(error) => Look::NotYet(error.to_string()),
        },
    )
}

#[test]
fn datastorage_killed_ten_times_nothing_is_lost_and_nothing_done_twice() {
    const KILLS: usize = 10;
    const SENDERS: usize = 3;
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let signal = signal_with_workflow(&scenario);
    let ((), patients) = under_load(
        SENDERS,
        |_, _| {
            let patient = patient(&scenario, &signal);
            send_until_final(&gateway, &patient.alert);
            await_end(&datastorage, &patient);
            patient
        },
        || {
            for _ in 0..KILLS {
                fault::kill(scenario.run(), "datastorage").end();
            }
        },
    );
    assert!(patients.len() >= SENDERS, "{} patients", patients.len());
    for patient in &patients {
        expect_healed(&scenario, patient);
    }
}

/// The services whose replicas share the work among themselves.
const SHARING: [&str; 3] = [
    "signalprocessing",
    "remediationorchestrator",
    "workflowexecution",
];

/// What was done to this workload was done once, and its request has ended, with a trail that is
/// whole. An execution whose holder died has failed, and nobody knows how far it came. Gives whether
/// it is healed.
#[track_caller]
fn expect_nothing_twice(scenario: &Scenario, patient: &Patient) -> bool {
    let api = scenario.api("datastorage", "e2e-reader");
    let request = request_of(scenario, patient);
    let journal = Journal::of(&scenario.anonymous("testbed"), &patient.name);
    let restarts = journal.calls("restart");
    let effects = restarts.iter().filter(|call| call.effect).count();
    assert!(effects <= 1 && restarts.len() <= 1, "{journal:#?}");
    assert!(audit::verdict(&api, &request.id.to_string()).intact);
    match request.phase {
        RequestPhase::Completed => {
            expect_healed(scenario, patient);
            true
        }
        RequestPhase::Failed => {
            let reason = request.reason.unwrap_or_default();
            assert!(reason.contains("deadline"), "{reason}");
            false
        }
        phase => panic!("{}: {phase:?}", patient.name),
    }
}

#[test]
fn two_replicas_each_and_random_kills_do_nothing_twice() {
    const WORKERS: usize = 10;
    const EACH: usize = 20;
    const PER_KILL: usize = 10;
    let Some(scenario) = scenario_with_replicas!(Exclusive) else {
        return;
    };
    let seed = Uuid::new_v4().as_u128();
    println!("seed {seed}");
    let doubled = SHARING.map(|service| fault::scale(scenario.run(), service, 2));
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let signal = signal_with_workflow(&scenario);
    let ended = Mutex::new(0_usize);
    let patients = together(WORKERS, |_| {
        let one = |_| {
            let patient = patient(&scenario, &signal);
            send_until_final(&gateway, &patient.alert);
            await_end(&datastorage, &patient);
            // Whoever counts to ten kills one; the others wait for that as well.
            let mut ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
            *ended += 1;
            if (*ended).is_multiple_of(PER_KILL) {
                let (service, nth) = drawn(seed, *ended / PER_KILL);
                fault::crash_one(scenario.run(), service, nth);
            }
            drop(ended);
            patient
        };
        (0..EACH).map(one).collect::<Vec<Patient>>()
    });
    for one in doubled {
        one.end();
    }
    let patients: Vec<Patient> = patients.into_iter().flatten().collect();
    let healed = patients
        .iter()
        .filter(|patient| expect_nothing_twice(&scenario, patient));
    let healed = healed.count();
    println!("{healed} of {} healed", patients.len());
    assert!(healed > patients.len() / 2, "{healed}");
}

/// The service and the replica of the nth kill.
fn drawn(seed: u128, nth: usize) -> (&'static str, usize) {
    let mut hasher = DefaultHasher::new();
    (seed, nth).hash(&mut hasher);
    let drawn = usize::try_from(hasher.finish() >> 33).unwrap_or_default();
    (SHARING[drawn % SHARING.len()], drawn / SHARING.len())
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
