//! Remediationorchestrator, end to end: an analyzed request gets the workflow that fits best, its
//! execution is followed, and the request is brought to its end. The tests make requests as
//! gateway and signalprocessing would, and end executions as workflowexecution would.

use std::collections::BTreeMap;
use std::time::Duration;

use common::api::{
    Execution, ExecutionFailure, NewWorkflow, PatchExecution, PatchWorkflow, RemediationRequest,
    StepResult, Target,
};
use common::transitions::{ExecutionPhase, RequestPhase};
use serde_json::{Value, json};
use test_e2e::config_map::ConfigFile;
use test_e2e::crowd::{together, under_load};
use test_e2e::metrics::Metrics;
use test_e2e::poll::never;
use test_e2e::workflows::{self, EXECUTIONS, WORKFLOWS};
use test_e2e::{
    Look, Scenario, audit, eventually, fault, requests, scenario, scenario_with_node,
    scenario_with_replicas, unique,
};
use uuid::Uuid;

const WITHIN: Duration = Duration::from_secs(30);
/// The kubelet takes a minute and more to bring a ConfigMap into a pod.
const POLICY_WITHIN: Duration = Duration::from_secs(150);

/// Publishes a workflow for a signal that no other test has, and names that signal.
fn with_workflow(scenario: &Scenario) -> (String, NewWorkflow) {
    let signal = format!("Signal{}", unique());
    let workflow = workflows::restart(&signal);
    workflows::publish(scenario, &workflow);
    (signal, workflow)
}

fn analyzed(scenario: &Scenario, signal: &str) -> RemediationRequest {
    workflows::analyzed(scenario, signal, &requests::target())
}

#[track_caller]
fn await_phase(scenario: &Scenario, id: Uuid, phase: RequestPhase) -> RemediationRequest {
    let api = scenario.api("datastorage", "e2e-reader");
    requests::await_phase(&api, id, WITHIN, phase)
}

/// The request in Executing, and its execution.
#[track_caller]
fn executing(scenario: &Scenario, id: Uuid) -> (RemediationRequest, Execution) {
    let request = await_phase(scenario, id, RequestPhase::Executing);
    let api = scenario.api("datastorage", "e2e-reader");
    let execution = workflows::read(&api, request.execution_id.expect("an execution"));
    (request, execution)
}

fn patch(phase: ExecutionPhase) -> PatchExecution {
    PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(phase),
        ..PatchExecution::default()
    }
}

fn result(name: &str, succeeded: bool) -> StepResult {
    StepResult {
        name: name.to_owned(),
        tries: 1,
        status_code: Some(if succeeded { 200 } else { 500 }),
        exit_code: None,
        succeeded,
        duration_ms: 12,
    }
}

/// Claims an execution as workflowexecution would.
#[track_caller]
fn claim(scenario: &Scenario, execution: &Execution) -> Execution {
    let worker = scenario.api("datastorage", "workflowexecution");
    let path = format!("{EXECUTIONS}/{}", execution.id);
    let claim = PatchExecution {
        holder: Some("a-test".to_owned()),
        deadline_seconds: Some(60),
        ..patch(ExecutionPhase::Running)
    };
    worker
        .patch(&path, execution.resource_version, &claim)
        .expect(200)
        .json()
}

/// Ends a claimed execution as workflowexecution would.
#[track_caller]
fn end(scenario: &Scenario, running: &Execution, end: PatchExecution) -> Execution {
    let worker = scenario.api("datastorage", "workflowexecution");
    let path = format!("{EXECUTIONS}/{}", running.id);
    let end = PatchExecution {
        holder: Some("a-test".to_owned()),
        ..end
    };
    worker
        .patch(&path, running.resource_version, &end)
        .expect(200)
        .json()
}

#[track_caller]
fn complete(scenario: &Scenario, execution: &Execution) {
    let running = claim(scenario, execution);
    let done = PatchExecution {
        steps: Some(vec![result("restart", true), result("probe", true)]),
        ..patch(ExecutionPhase::Completed)
    };
    end(scenario, &running, done);
}

#[test]
fn a_request_gets_the_workflow_that_fits_and_lives_to_its_end() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let (signal, workflow) = with_workflow(&scenario);
    let request = analyzed(&scenario, &signal);
    let (request, execution) = executing(&scenario, request.id);
    let choice = request.workflow.clone().expect("a choice");
    assert_eq!(
        (&choice.name, &choice.version),
        (&workflow.name, &workflow.version)
    );
    assert!(choice.reason.contains(&signal), "{choice:?}");
    assert_eq!(
        execution.workflow, workflow,
        "the execution has a copy of its own"
    );
    assert_eq!(execution.target, request.target);
    assert_eq!(
        (execution.phase, execution.attempt),
        (ExecutionPhase::Pending, 1)
    );
    complete(&scenario, &execution);
    let ended = await_phase(&scenario, request.id, RequestPhase::Completed);
    assert_eq!((ended.attempt, ended.execution_id), (1, Some(execution.id)));
    let chain = request.id.to_string();
    audit::expect_in_order(
        &api,
        &chain,
        &["workflow.selected", "remediation.completed"],
    );
    assert!(audit::verdict(&api, &chain).intact);
}

#[test]
fn where_no_workflow_fits_the_request_is_skipped_with_the_reason() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let signal = format!("Signal{}", unique());
    let request = analyzed(&scenario, &signal);
    let ended = await_phase(&scenario, request.id, RequestPhase::Skipped);
    let reason = ended.reason.expect("a reason");
    assert!(
        reason.contains("no workflow") && reason.contains(&signal),
        "{reason}"
    );
    assert_eq!((ended.workflow, ended.execution_id), (None, None));
    audit::expect_in_order(&api, &request.id.to_string(), &["workflow.not_found"]);
    assert!(audit::verdict(&api, &request.id.to_string()).intact);
}

#[test]
fn the_most_specific_workflow_is_chosen() {
    let scenario = scenario!(Shared);
    let (signal, _) = with_workflow(&scenario);
    let mut specific = workflows::restart(&signal);
    let more = [
        ("kind", "Deployment"),
        ("environment", "production"),
        ("priority", "P1"),
    ];
    let more = more.map(|(key, value)| (key.to_owned(), value.to_owned()));
    specific.labels.extend(more);
    let mut elsewhere = specific.clone();
    elsewhere.name = format!("e2e-{}", unique());
    elsewhere
        .labels
        .insert("environment".to_owned(), "staging".to_owned());
    elsewhere
        .labels
        .insert("severity".to_owned(), "critical".to_owned());
    for workflow in [&specific, &elsewhere] {
        workflows::publish(&scenario, workflow);
    }
    let (request, _) = executing(&scenario, analyzed(&scenario, &signal).id);
    let choice = request.workflow.expect("a choice");
    assert_eq!(choice.name, specific.name, "{choice:?}");
    assert!(choice.reason.contains("most specific"), "{choice:?}");
}

#[test]
fn equals_are_chosen_by_name_and_version_and_always_the_same() {
    let scenario = scenario!(Shared);
    let signal = format!("Signal{}", unique());
    let id = unique();
    for (name, version) in [
        ("b", "3.0.0"),
        ("a", "1.9.0"),
        ("a", "1.10.0"),
        ("a", "1.2.0"),
    ] {
        let workflow = NewWorkflow {
            name: format!("e2e-{id}-{name}"),
            version: version.to_owned(),
            ..workflows::restart(&signal)
        };
        workflows::publish(&scenario, &workflow);
    }
    let all = together(5, |_| {
        executing(&scenario, analyzed(&scenario, &signal).id).0
    });
    let mut choices: Vec<_> = all
        .into_iter()
        .filter_map(|request| request.workflow)
        .collect();
    assert_eq!(choices.len(), 5);
    choices.dedup();
    assert_eq!(choices.len(), 1, "{choices:#?}");
    assert_eq!(choices[0].name, format!("e2e-{id}-a"));
    assert_eq!(choices[0].version, "1.10.0");
}

#[test]
fn a_disabled_workflow_is_not_chosen() {
    let scenario = scenario!(Shared);
    let (signal, workflow) = with_workflow(&scenario);
    let admin = scenario.api("datastorage", "e2e-admin");
    let path = format!("{WORKFLOWS}/{}/{}", workflow.name, workflow.version);
    admin
        .patch_unconditionally(&path, &PatchWorkflow { disabled: true })
        .expect(200);
    let request = analyzed(&scenario, &signal);
    await_phase(&scenario, request.id, RequestPhase::Skipped);
}

#[test]
fn a_failed_execution_fails_the_request_and_is_not_repeated() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let (signal, _) = with_workflow(&scenario);
    let (request, execution) = executing(&scenario, analyzed(&scenario, &signal).id);
    let running = claim(&scenario, &execution);
    let failed = PatchExecution {
        steps: Some(vec![result("restart", false)]),
        failure: Some(ExecutionFailure {
            reason: "step_failed".to_owned(),
            step: Some("restart".to_owned()),
            status_code: Some(500),
            exit_code: None,
            message: "answered 500".to_owned(),
            was_execution_failure: true,
        }),
        ..patch(ExecutionPhase::Failed)
    };
    end(&scenario, &running, failed);
    let ended = await_phase(&scenario, request.id, RequestPhase::Failed);
    let reason = ended.reason.clone().expect("a reason");
    assert!(
        reason.contains("restart") && reason.contains("500"),
        "{reason}"
    );
    audit::expect_in_order(
        &api,
        &request.id.to_string(),
        &["workflow.selected", "remediation.failed"],
    );
    let query = format!("{EXECUTIONS}?request_id={}", request.id);
    never("a second execution", Duration::from_secs(2), || {
        let found: common::api::Executions = api.get(&query).expect(200).json();
        (found.items.len() != 1).then(|| format!("{:?}", found.items))
    });
}

#[test]
fn who_comes_second_to_a_target_is_blocked_and_then_goes_on_by_itself() {
    let scenario = scenario!(Shared);
    let (signal, _) = with_workflow(&scenario);
    let api = scenario.api("datastorage", "e2e-reader");
    // Its end, and not the time, is what the second one waits for.
    let target = target_under(
        &scenario,
        &json!({"busy_seconds": 3600, "cool_down_seconds": 0}),
    );
    let first = workflows::analyzed(&scenario, &signal, &target);
    let (_, holder) = executing(&scenario, first.id);
    let second = workflows::analyzed(&scenario, &signal, &target);
    let blocked = await_phase(&scenario, second.id, RequestPhase::Blocked);
    let reason = blocked.reason.expect("a reason");
    assert!(reason.contains(&holder.id.to_string()), "{reason}");
    assert_eq!(blocked.execution_id, None);
    complete(&scenario, &holder);
    await_phase(&scenario, first.id, RequestPhase::Completed);
    let (_, next) = executing(&scenario, second.id);
    assert_ne!(next.id, holder.id);
    complete(&scenario, &next);
    await_phase(&scenario, second.id, RequestPhase::Completed);
    let said = audit::types(&api, &second.id.to_string());
    let said = said.iter().filter(|found| *found == "remediation.blocked");
    assert_eq!(said.count(), 1, "it says once that it is blocked");
}

/// A target in a namespace of its own, for which the policy says this.
#[track_caller]
fn target_under(scenario: &Scenario, rules: &Value) -> Target {
    let namespace = format!("shop-{}", unique());
    let file = ConfigFile::of(scenario.run(), "remediationorchestrator", "policy.json");
    file.update(|text| {
        let mut policy: Value = serde_json::from_str(&text).expect("a policy");
        policy["namespaces"][&namespace] = rules.clone();
        policy.to_string()
    });
    let reader = scenario.api("remediationorchestrator", "e2e-reader");
    let path = format!("/api/v1/policy?namespace={namespace}");
    let wanted = rules.as_object().expect("an object");
    eventually("the policy in force", POLICY_WITHIN, || {
        let in_force = reader.get(&path).expect(200).value();
        if wanted.iter().all(|(name, value)| in_force[name] == *value) {
            Look::Seen(())
        } else {
            Look::NotYet(in_force.to_string())
        }
    });
    Target {
        namespace,
        ..requests::target()
    }
}

/// A request about this target that is P0 in production, and awaits a person.
#[track_caller]
fn awaiting(scenario: &Scenario, target: &Target) -> RemediationRequest {
    let (signal, _) = with_workflow(scenario);
    let mut new = requests::new_request(target);
    new.signal.name = signal;
    let request = requests::create(&scenario.api("datastorage", "gateway"), &new);
    let classified = workflows::classification("P0", "production");
    let request = workflows::classify(scenario, &request, classified);
    await_phase(scenario, request.id, RequestPhase::AwaitingApproval)
}

fn approval(request: &RemediationRequest) -> String {
    format!("/api/v1/approvals/{}", request.id)
}

#[test]
fn what_is_approved_is_executed_and_decided_once() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let approver = scenario.api("remediationorchestrator", "e2e-approver");
    let request = awaiting(&scenario, &requests::target());
    let path = approval(&request);
    let decisions: Vec<u16> = together(8, |index| {
        let decision = json!({"decision": "approved", "reason": format!("reason {index}")});
        approver.post(&path, &decision).status
    });
    let won = decisions.iter().filter(|status| **status == 200).count();
    let lost = decisions.iter().filter(|status| **status == 409).count();
    assert_eq!((won, lost), (1, 7), "{decisions:?}");
    let (executing, execution) = executing(&scenario, request.id);
    let stands = executing.approval.expect("an approval");
    assert_eq!(stands.decided_by, "e2e-approver");
    complete(&scenario, &execution);
    await_phase(&scenario, request.id, RequestPhase::Completed);
    let chain = request.id.to_string();
    let trail = [
        "approval.requested",
        "workflow.selected",
        "remediation.completed",
    ];
    audit::expect_in_order(&api, &chain, &trail);
    let said = audit::types(&api, &chain);
    let said = said.iter().filter(|found| *found == "approval.decided");
    assert_eq!(said.count(), 1);
    assert!(audit::verdict(&api, &chain).intact);
}

#[test]
fn what_is_rejected_ends_and_nothing_is_executed() {
    let scenario = scenario!(Shared);
    let approver = scenario.api("remediationorchestrator", "e2e-approver");
    let request = awaiting(&scenario, &requests::target());
    let no = json!({"decision": "rejected", "reason": "not on a Friday"});
    approver.post(&approval(&request), &no).expect(200);
    let ended = await_phase(&scenario, request.id, RequestPhase::Cancelled);
    let reason = ended.reason.expect("a reason");
    assert!(
        reason.contains("e2e-approver") && reason.contains("not on a Friday"),
        "{reason}"
    );
    assert_eq!(ended.execution_id, None);
    approver
        .post(&approval(&request), &no)
        .expect_problem(409, &[]);
}

#[test]
fn only_the_role_to_approve_approves() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let request = awaiting(&scenario, &requests::target());
    let yes = json!({"decision": "approved", "reason": "please"});
    for subject in ["e2e-reader", "e2e-writer"] {
        scenario
            .api("remediationorchestrator", subject)
            .post(&approval(&request), &yes)
            .expect_problem(403, &["approve"]);
    }
    scenario
        .anonymous("remediationorchestrator")
        .post(&approval(&request), &yes)
        .expect_problem(401, &[]);
    let approver = scenario.api("remediationorchestrator", "e2e-approver");
    let forged = json!({"decision": "approved", "reason": "x", "decided_by": "someone else"});
    approver
        .post(&approval(&request), &forged)
        .expect_problem(400, &["decided_by"]);
    let cancel = format!("{}/{}/cancel", requests::REQUESTS, request.id);
    approver
        .post(&cancel, &json!({"reason": "x"}))
        .expect_problem(403, &["write"]);
    assert_eq!(requests::read(&api, request.id), request);
}

#[test]
fn an_approval_that_nobody_gives_expires() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let target = target_under(&scenario, &json!({"approval_seconds": 8}));
    let request = awaiting(&scenario, &target);
    let ended = await_phase(&scenario, request.id, RequestPhase::TimedOut);
    assert!(ended.updated_at >= request.phase_deadline.expect("a deadline"));
    let late = json!({"decision": "approved", "reason": "late"});
    scenario
        .api("remediationorchestrator", "e2e-approver")
        .post(&approval(&request), &late)
        .expect_problem(409, &[]);
    audit::expect_in_order(&api, &request.id.to_string(), &["remediation.timed_out"]);
}

#[test]
fn a_target_cools_down_and_its_next_request_resumes_by_itself() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let (signal, _) = with_workflow(&scenario);
    let target = target_under(&scenario, &json!({"cool_down_seconds": 20}));
    let first = workflows::analyzed(&scenario, &signal, &target);
    complete(&scenario, &executing(&scenario, first.id).1);
    await_phase(&scenario, first.id, RequestPhase::Completed);
    let second = workflows::analyzed(&scenario, &signal, &target);
    let blocked = await_phase(&scenario, second.id, RequestPhase::Blocked);
    let reason = blocked.reason.expect("a reason");
    assert!(reason.contains("cools down"), "{reason}");
    let plan = format!("{}/{}/plan", requests::REQUESTS, second.id);
    let reader = scenario.api("remediationorchestrator", "e2e-reader");
    let plan = reader.get(&plan).expect(200).value();
    assert_eq!(
        plan["checks"][1]["subject"], "recently_remediated",
        "{plan:#}"
    );
    let (resumed, execution) = executing(&scenario, second.id);
    let until = blocked.blocked_until.expect("a time");
    assert!(resumed.updated_at >= until, "{resumed:#?}");
    complete(&scenario, &execution);
    await_phase(&scenario, second.id, RequestPhase::Completed);
    let events = audit::chain_events(&api, &second.id.to_string());
    let blocked = events
        .iter()
        .find(|event| event.event.event_type == "remediation.blocked");
    let checks = &blocked.expect("an event").event.event_data["checks"];
    let subjects: Vec<_> = (0..3)
        .map(|index| checks[index]["subject"].clone())
        .collect();
    assert_eq!(
        subjects,
        [
            "resource_busy",
            "recently_remediated",
            "consecutive_failures"
        ]
    );
}

#[test]
fn consecutive_failures_back_off() {
    let scenario = scenario!(Shared);
    let (signal, _) = with_workflow(&scenario);
    let rules = json!({"failures_max": 2, "backoff_seconds": 20});
    let target = target_under(&scenario, &rules);
    for _ in 0..3 {
        let request = workflows::analyzed(&scenario, &signal, &target);
        let (_, execution) = executing(&scenario, request.id);
        let running = claim(&scenario, &execution);
        end(&scenario, &running, failed());
        await_phase(&scenario, request.id, RequestPhase::Failed);
    }
    let next = workflows::analyzed(&scenario, &signal, &target);
    let blocked = await_phase(&scenario, next.id, RequestPhase::Blocked);
    let reason = blocked.reason.expect("a reason");
    assert!(reason.contains("3 consecutive failures"), "{reason}");
    let (resumed, _) = executing(&scenario, next.id);
    assert!(resumed.updated_at >= blocked.blocked_until.expect("a time"));
}

fn failed() -> PatchExecution {
    PatchExecution {
        failure: Some(ExecutionFailure {
            reason: "step_failed".to_owned(),
            step: Some("restart".to_owned()),
            status_code: Some(500),
            exit_code: None,
            message: "a test failed it".to_owned(),
            was_execution_failure: true,
        }),
        ..patch(ExecutionPhase::Failed)
    }
}

#[test]
fn cancelled_before_it_is_executed_nothing_is() {
    let scenario = scenario!(Shared);
    let person = scenario.api("remediationorchestrator", "e2e-writer");
    let request = awaiting(&scenario, &requests::target());
    let path = format!("{}/{}/cancel", requests::REQUESTS, request.id);
    person
        .post(&path, &json!({"reason": "not needed"}))
        .expect(200);
    let ended = await_phase(&scenario, request.id, RequestPhase::Cancelled);
    assert_eq!(
        ended.reason.as_deref(),
        Some("cancelled by e2e-writer: not needed")
    );
    assert_eq!(ended.execution_id, None);
}

#[test]
fn a_phase_that_lasts_too_long_times_out_though_the_orchestrator_died_meanwhile() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-reader");
    let rules = json!({"phase_seconds": {
        "pending": 15, "processing": 900, "analyzing": 900, "blocked": 900, "executing": 15,
        "verifying": 900
    }});
    let target = target_under(&scenario, &rules);
    let pending = requests::create(
        &scenario.api("datastorage", "gateway"),
        &requests::new_request(&target),
    );
    requests::await_request(&api, pending.id, WITHIN, "with a deadline", |request| {
        request.phase_deadline.is_some()
    });
    let (signal, _) = with_workflow(&scenario);
    let other = Target {
        name: format!("web-{}", unique()),
        ..target
    };
    let run = workflows::analyzed(&scenario, &signal, &other);
    let (_, execution) = executing(&scenario, run.id);
    let running = claim(&scenario, &execution);
    fault::kill(scenario.run(), "remediationorchestrator").end();
    await_phase(&scenario, pending.id, RequestPhase::TimedOut);
    let asked = eventually("the wish to stop", WITHIN, || {
        let execution = workflows::read(&api, running.id);
        match execution.phase {
            ExecutionPhase::Cancelling => Look::Seen(execution),
            phase => Look::NotYet(format!("{phase:?}")),
        }
    });
    let held = requests::read(&api, run.id);
    assert_eq!(
        held.phase,
        RequestPhase::Executing,
        "until the run has ended"
    );
    end(&scenario, &asked, patch(ExecutionPhase::Cancelled));
    await_phase(&scenario, run.id, RequestPhase::TimedOut);
}

#[test]
fn a_cancelled_execution_cancels_the_request() {
    let scenario = scenario!(Shared);
    let person = scenario.api("remediationorchestrator", "e2e-writer");
    let api = scenario.api("datastorage", "e2e-reader");
    let (signal, _) = with_workflow(&scenario);
    let (request, execution) = executing(&scenario, analyzed(&scenario, &signal).id);
    let running = claim(&scenario, &execution);
    let path = format!("{}/{}/cancel", requests::REQUESTS, request.id);
    let reader = scenario.api("remediationorchestrator", "e2e-reader");
    reader
        .post(&path, &json!({"reason": "not needed"}))
        .expect_problem(403, &["write"]);
    let answer = person.post(&path, &json!({"reason": "not needed"}));
    assert!([200, 202].contains(&answer.status), "{answer}");
    let asked = eventually("the wish to cancel", WITHIN, || {
        let execution = workflows::read(&api, running.id);
        match execution.phase {
            ExecutionPhase::Cancelling => Look::Seen(execution),
            phase => Look::NotYet(format!("{phase:?}")),
        }
    });
    // The target is busy until the execution has ended.
    assert_eq!(
        requests::read(&api, request.id).phase,
        RequestPhase::Executing
    );
    end(&scenario, &asked, patch(ExecutionPhase::Cancelled));
    await_phase(&scenario, request.id, RequestPhase::Cancelled);
    audit::expect_in_order(&api, &request.id.to_string(), &["remediation.cancelled"]);
}

#[test]
fn a_plan_tells_what_would_be_done_and_does_nothing() {
    let scenario = scenario!(Shared);
    let reader = scenario.api("remediationorchestrator", "e2e-reader");
    let (signal, workflow) = with_workflow(&scenario);
    let mut new = requests::new_request(&requests::target());
    new.signal.name.clone_from(&signal);
    let request = requests::create(&scenario.api("datastorage", "gateway"), &new);
    let path = format!("{}/{}/plan", requests::REQUESTS, request.id);
    let plan = reader.get(&path).expect(200).value();
    assert_eq!(plan["workflow"]["name"], workflow.name, "{plan:#}");
    assert_eq!(plan["phase"], "Pending");
    scenario
        .anonymous("remediationorchestrator")
        .get(&path)
        .expect_problem(401, &[]);
    let unknown = format!("{}/{}/plan", requests::REQUESTS, Uuid::new_v4());
    reader.get(&unknown).expect_problem(404, &[]);
    let api = scenario.api("datastorage", "e2e-reader");
    let now = requests::read(&api, request.id);
    // By when it must have ended is no state.
    let before = RemediationRequest {
        deadline: now.deadline,
        phase_deadline: now.phase_deadline,
        ..request
    };
    assert_eq!(now, before);
}

/// As workflowexecution would, until everything has an end.
#[track_caller]
fn complete_all(scenario: &Scenario, all: &[RemediationRequest]) {
    for request in all {
        let (_, execution) = executing(scenario, request.id);
        complete(scenario, &execution);
    }
    for request in all {
        await_phase(scenario, request.id, RequestPhase::Completed);
    }
}

/// Each said once what it did, and each did it once.
#[track_caller]
fn expect_once(scenario: &Scenario, all: &[RemediationRequest]) {
    let api = scenario.api("datastorage", "e2e-reader");
    for request in all {
        let chain = request.id.to_string();
        assert!(audit::verdict(&api, &chain).intact);
        let types = audit::types(&api, &chain);
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for found in &types {
            *counts.entry(found).or_default() += 1;
        }
        for once in ["workflow.selected", "remediation.completed"] {
            assert_eq!(counts.get(once), Some(&1), "{types:#?}");
        }
        let query = format!("{EXECUTIONS}?request_id={}", request.id);
        let found: common::api::Executions = api.get(&query).expect(200).json();
        assert_eq!(found.items.len(), 1);
    }
}

#[test]
fn killed_in_the_middle_it_loses_nothing_and_does_nothing_twice() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let (signal, _) = with_workflow(&scenario);
    let all = together(20, |_| analyzed(&scenario, &signal));
    fault::kill(scenario.run(), "remediationorchestrator").end();
    for request in &all {
        executing(&scenario, request.id);
    }
    let down = fault::kill(scenario.run(), "remediationorchestrator");
    for request in &all[..10] {
        let (_, execution) = executing(&scenario, request.id);
        complete(&scenario, &execution);
    }
    down.end();
    complete_all_but(&scenario, &all, 10);
    expect_once(&scenario, &all);
}

#[track_caller]
fn complete_all_but(scenario: &Scenario, all: &[RemediationRequest], completed: usize) {
    complete_all(scenario, &all[completed..]);
    for request in &all[..completed] {
        await_phase(scenario, request.id, RequestPhase::Completed);
    }
}

#[test]
fn two_replicas_move_each_request_once() {
    let Some(scenario) = scenario_with_replicas!(Exclusive) else {
        return;
    };
    let doubled = fault::scale(scenario.run(), "remediationorchestrator", 2);
    let (signal, _) = with_workflow(&scenario);
    let all = together(20, |_| analyzed(&scenario, &signal));
    complete_all(&scenario, &all);
    expect_once(&scenario, &all);
    doubled.end();
}

#[test]
fn datastorage_stopped_in_the_middle_loses_nothing() {
    let scenario = scenario!(Exclusive);
    let (signal, _) = with_workflow(&scenario);
    let all = together(10, |_| analyzed(&scenario, &signal));
    fault::stop(scenario.run(), "datastorage").end();
    complete_all(&scenario, &all);
    expect_once(&scenario, &all);
}

#[test]
fn sigterm_under_load_drops_nothing() {
    let scenario = scenario!(Exclusive);
    let (signal, _) = with_workflow(&scenario);
    let (code, all) = under_load(
        2,
        |_, _| analyzed(&scenario, &signal),
        || {
            let first = analyzed(&scenario, &signal);
            executing(&scenario, first.id);
            let down = fault::stop(scenario.run(), "remediationorchestrator");
            let code = fault::exit_codes(scenario.run(), "remediationorchestrator");
            down.end();
            code
        },
    );
    assert_eq!(code, [0], "it drains and ends by itself");
    assert!(!all.is_empty());
    complete_all(&scenario, &all);
    expect_once(&scenario, &all);
}

#[test]
fn metrics_move_by_the_exact_count() {
    let scenario = scenario!(Exclusive);
    let (signal, _) = with_workflow(&scenario);
    let before = Metrics::scrape(scenario.run(), "remediationorchestrator");
    let all: Vec<_> = (0..4).map(|_| analyzed(&scenario, &signal)).collect();
    complete_all(&scenario, &all);
    let nothing = analyzed(&scenario, &format!("Signal{}", unique()));
    await_phase(&scenario, nothing.id, RequestPhase::Skipped);
    before.expect_moved(
        scenario.run(),
        "remediationorchestrator",
        "executions_started_total",
        &[(&[], 4)],
    );
    before.expect_moved(
        scenario.run(),
        "remediationorchestrator",
        "request_transitions_total",
        &[
            (&[("to", "Completed")], 4),
            (&[("to", "Skipped")], 1),
            (&[("to", "Failed")], 0),
        ],
    );
}

#[test]
fn log_lines_carry_the_correlation_id() {
    let scenario = scenario!(Shared);
    let (signal, _) = with_workflow(&scenario);
    let (request, _) = executing(&scenario, analyzed(&scenario, &signal).id);
    let id = request.id.to_string();
    eventually(
        "a line with the correlation ID",
        Duration::from_secs(10),
        || {
            let lines = scenario.log_lines("remediationorchestrator", "correlation_id", &id);
            if lines.is_empty() {
                Look::NotYet("no line".to_owned())
            } else {
                Look::Seen(())
            }
        },
    );
}
