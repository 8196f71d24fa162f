//! Remediation requests: one open one for each target, moved only as the table says.

use common::api::{NewRemediationRequest, RemediationRequest, Severity};
use common::transitions::RequestPhase;
use test_e2e::crowd::together;
use test_e2e::requests::{self, REQUESTS};
use test_e2e::{Scenario, audit, scenario};
use uuid::Uuid;

fn new() -> NewRemediationRequest {
    requests::new_request(&requests::target())
}

/// Checks that nothing was written about a request since it had so many events.
#[track_caller]
fn expect_events(scenario: &Scenario, request: &RemediationRequest, count: usize) {
    let reader = scenario.api("datastorage", "e2e-reader");
    audit::expect_intact(&reader, &request.id.to_string(), count);
}

#[test]
fn a_second_signal_raises_the_count_of_the_open_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let mut signal = NewRemediationRequest {
        severity: Severity::Warning,
        ..new()
    };
    let first = requests::create(&gateway, &signal);
    assert_eq!(
        (first.phase, first.occurrence_count),
        (RequestPhase::Pending, 1)
    );

    let resent: RemediationRequest = gateway.post(REQUESTS, &signal).expect(200).json();
    assert_eq!(
        (resent.id, resent.occurrence_count),
        (first.id, 1),
        "a signal counts once"
    );

    signal.signal_id = Uuid::new_v4();
    signal.severity = Severity::Critical;
    let second: RemediationRequest = gateway.post(REQUESTS, &signal).expect(200).json();
    assert_eq!((second.id, second.occurrence_count), (first.id, 2));
    assert_eq!(second.severity, Severity::Critical);
    assert_eq!(
        second.resource_version, first.resource_version,
        "counts are not state"
    );

    signal.signal_id = Uuid::new_v4();
    signal.severity = Severity::Info;
    let third: RemediationRequest = gateway.post(REQUESTS, &signal).expect(200).json();
    assert_eq!(
        (third.occurrence_count, third.severity),
        (3, Severity::Critical)
    );
}

#[test]
fn fifty_at_once_make_one_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let signal = new();
    let answers = together(50, |_| {
        let signal = NewRemediationRequest {
            signal_id: Uuid::new_v4(),
            ..signal.clone()
        };
        gateway.post(REQUESTS, &signal)
    });
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let counted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((created, counted), (1, 49));
    let mut ids: Vec<Uuid> = answers
        .iter()
        .map(|answer| answer.json::<RemediationRequest>().id)
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(requests::read(&gateway, ids[0]).occurrence_count, 50);
}

#[test]
fn a_stale_version_is_refused() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let processing = scenario.api("datastorage", "signalprocessing");
    let seen = requests::create(&gateway, &new());
    let moved = requests::step(&processing, &seen, RequestPhase::Processing);
    assert!(moved.resource_version > seen.resource_version);
    let events = audit::chain_events(&processing, &seen.id.to_string()).len();
    let stale = requests::to_phase(RequestPhase::Processing);
    requests::patch(&processing, &seen, &stale).expect_problem(412, &[]);
    let path = format!("{REQUESTS}/{}", seen.id);
    let unconditional = requests::to_phase(RequestPhase::Analyzing);
    let answer = processing.patch_unconditionally(&path, &unconditional);
    assert!([400, 428].contains(&answer.status), "{answer}");
    assert_eq!(requests::read(&processing, seen.id), moved);
    expect_events(&scenario, &seen, events);
}

#[test]
fn a_repeated_write_is_done_once() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let processing = scenario.api("datastorage", "signalprocessing");
    let seen = requests::create(&gateway, &new());
    let patch = requests::to_phase(RequestPhase::Processing);
    let first: RemediationRequest = requests::patch(&processing, &seen, &patch)
        .expect(200)
        .json();
    let events = audit::chain_events(&processing, &seen.id.to_string()).len();
    let again: RemediationRequest = requests::patch(&processing, &seen, &patch)
        .expect(200)
        .json();
    assert_eq!(first, again);
    let later = requests::step(&processing, &first, RequestPhase::Analyzing);
    let again: RemediationRequest = requests::patch(&processing, &seen, &patch)
        .expect(200)
        .json();
    assert_eq!(again.id, later.id);
    assert_eq!(
        requests::read(&processing, seen.id),
        later,
        "nothing went back"
    );
    expect_events(&scenario, &seen, events + 1);
}

#[test]
fn of_two_writers_one_wins() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let processing = scenario.api("datastorage", "signalprocessing");
    let seen = requests::create(&gateway, &new());
    let statuses = together(8, |_| {
        let patch = requests::to_phase(RequestPhase::Processing);
        requests::patch(&processing, &seen, &patch).status
    });
    let won = statuses.iter().filter(|status| **status == 200).count();
    let lost = statuses.iter().filter(|status| **status == 412).count();
    assert_eq!((won, lost), (1, 7), "{statuses:?}");
}

#[test]
fn a_move_that_is_not_in_the_table_is_refused() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let seen = requests::create(&gateway, &new());
    let events = audit::chain_events(&gateway, &seen.id.to_string()).len();
    for phase in [
        RequestPhase::Completed,
        RequestPhase::Executing,
        RequestPhase::Verifying,
    ] {
        let patch = requests::to_phase(phase);
        requests::patch(&orchestrator, &seen, &patch).expect_problem(409, &["Pending"]);
    }
    let ended = requests::step(&orchestrator, &seen, RequestPhase::Skipped);
    for phase in RequestPhase::ALL {
        if phase == RequestPhase::Skipped {
            continue;
        }
        let answer = requests::patch(&orchestrator, &ended, &requests::to_phase(phase));
        assert!([403, 409].contains(&answer.status), "{phase:?}: {answer}");
    }
    assert_eq!(requests::read(&gateway, seen.id), ended);
    expect_events(&scenario, &seen, events + 1);
}

#[test]
fn a_move_that_is_another_services_is_refused() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let seen = requests::create(&gateway, &new());
    let events = audit::chain_events(&gateway, &seen.id.to_string()).len();
    let patch = requests::to_phase(RequestPhase::Processing);
    for subject in [
        "gateway",
        "remediationorchestrator",
        "workflowexecution",
        "e2e-writer",
    ] {
        let other = scenario.api("datastorage", subject);
        requests::patch(&other, &seen, &patch).expect_problem(403, &[subject]);
    }
    let reader = scenario.api("datastorage", "e2e-reader");
    requests::patch(&reader, &seen, &patch).expect_problem(403, &[]);
    assert_eq!(requests::read(&gateway, seen.id), seen);
    expect_events(&scenario, &seen, events);
}

#[test]
fn every_change_of_state_has_its_event_and_nothing_else_has() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let processing = scenario.api("datastorage", "signalprocessing");
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let mut signal = new();
    let request = requests::create(&gateway, &signal);
    let request = requests::step(&processing, &request, RequestPhase::Processing);
    let request = requests::step(&processing, &request, RequestPhase::Analyzing);
    signal.signal_id = Uuid::new_v4();
    gateway.post(REQUESTS, &signal).expect(200);
    let request = requests::step(&orchestrator, &request, RequestPhase::Skipped);
    let events = audit::chain_events(&gateway, &request.id.to_string());
    let actors: Vec<&str> = events.iter().map(|event| event.actor.as_str()).collect();
    let movers = [
        "gateway",
        "signalprocessing",
        "signalprocessing",
        "remediationorchestrator",
    ];
    assert_eq!(actors, movers, "{events:#?}");
    expect_events(&scenario, &request, 4);

    // Nobody else may tell of such a change.
    let mut forged = audit::event(&request.id.to_string());
    forged.event_type.clone_from(&events[3].event.event_type);
    let answer = orchestrator.post(audit::EVENTS, &forged);
    assert!([400, 403].contains(&answer.status), "{answer}");
    expect_events(&scenario, &request, 4);
}

#[test]
fn an_ended_request_lets_a_new_one_begin() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let mut signal = new();
    let first = requests::create(&gateway, &signal);
    requests::step(&gateway, &first, RequestPhase::Skipped);
    signal.signal_id = Uuid::new_v4();
    let second = requests::create(&gateway, &signal);
    assert_ne!(first.id, second.id);
    assert_eq!(second.occurrence_count, 1);
    let query = format!("fingerprint={}", signal.fingerprint);
    let both = requests::list(&gateway, &query);
    let ids: Vec<Uuid> = both.iter().map(|request| request.id).collect();
    assert_eq!(ids, [first.id, second.id], "oldest first");
}

#[test]
fn lists_are_paged_and_filtered() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("datastorage", "gateway");
    let target = requests::target();
    let mut expected: Vec<Uuid> = (0..25)
        .map(|_| requests::create(&gateway, &requests::new_request(&target)).id)
        .collect();
    let query = format!(
        "target={}/{}/{}",
        target.namespace, target.kind, target.name
    );
    let found = requests::list(&gateway, &format!("{query}&limit=4"));
    let mut ids: Vec<Uuid> = found.iter().map(|request| request.id).collect();
    expected.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, expected);
    requests::step(&gateway, &found[3], RequestPhase::Skipped);
    let skipped = requests::list(&gateway, &format!("{query}&phase=Skipped"));
    assert_eq!(skipped.len(), 1);
    assert_eq!(skipped[0].id, found[3].id);
    let open = requests::list(
        &gateway,
        &format!("{query}&phase=Pending,Processing&limit=7"),
    );
    assert_eq!(open.len(), 24);
    gateway
        .get(&format!("{REQUESTS}?phase=Nowhere"))
        .expect_problem(400, &["phase"]);
    gateway
        .get(&format!("{REQUESTS}/{}", Uuid::new_v4()))
        .expect_problem(404, &[]);
}
