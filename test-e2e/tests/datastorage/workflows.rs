//! The catalog and the executions.

use std::collections::BTreeMap;

use common::api::{Execution, NewExecution, PatchExecution, PatchWorkflow, Workflow, Workflows};
use common::transitions::{ExecutionPhase, RequestPhase};
use test_e2e::crowd::together;
use test_e2e::workflows::{self, EXECUTIONS, WORKFLOWS};
use test_e2e::{audit, requests, scenario};
use uuid::Uuid;

#[test]
fn a_version_of_a_workflow_never_changes() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-admin");
    let mut workflow = workflows::restart("NoSuchSignal");
    let stored: Workflow = api.post(WORKFLOWS, &workflow).expect(201).json();
    assert_eq!((&stored.workflow, stored.disabled), (&workflow, false));
    workflow.parameters.push("another".to_owned());
    api.post(WORKFLOWS, &workflow)
        .expect_problem(409, &[&stored.digest]);
    let path = format!("{WORKFLOWS}/{}/{}", workflow.name, workflow.version);
    let read: Workflow = api.get(&path).expect(200).json();
    assert_eq!(read, stored);

    let disable = PatchWorkflow { disabled: true };
    api.patch_unconditionally(&path, &disable).expect(200);
    let names = |path: &str| -> Vec<String> {
        let listed: Workflows = api.get(path).expect(200).json();
        let names = listed.items.into_iter().map(|item| item.workflow.name);
        names.collect()
    };
    assert!(!names(WORKFLOWS).contains(&workflow.name));
    assert!(names(&format!("{WORKFLOWS}?include_disabled=true")).contains(&workflow.name));
}

#[test]
fn an_execution_begins_together_with_the_requests_move() {
    let scenario = scenario!(Shared);
    let reader = scenario.api("datastorage", "e2e-reader");
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let request = workflows::chosen(&scenario, &workflows::restart("Begin"), &requests::target());
    let new = NewExecution {
        request_id: request.id,
        parameters: BTreeMap::new(),
        phase_deadline_seconds: None,
    };
    let stale = request.resource_version - 1;
    orchestrator
        .post_if_match(EXECUTIONS, stale, &new)
        .expect_problem(412, &[]);
    for subject in ["gateway", "signalprocessing", "workflowexecution"] {
        let other = scenario.api("datastorage", subject);
        let answer = other.post_if_match(EXECUTIONS, request.resource_version, &new);
        answer.expect_problem(403, &[subject]);
    }
    let before = audit::chain_events(&reader, &request.id.to_string()).len();
    let begun = orchestrator.post_if_match(EXECUTIONS, request.resource_version, &new);
    let execution: Execution = begun.expect(201).json();
    assert_eq!(
        (execution.phase, execution.attempt),
        (ExecutionPhase::Pending, 1)
    );
    assert_eq!(execution.parameters["name"], request.target.name);
    let moved = requests::read(&reader, request.id);
    assert_eq!(moved.phase, RequestPhase::Executing);
    assert_eq!(moved.execution_id, Some(execution.id));
    audit::expect_intact(&reader, &request.id.to_string(), before + 2);

    let resent = orchestrator.post_if_match(EXECUTIONS, request.resource_version, &new);
    let resent: Execution = resent.expect(200).json();
    assert_eq!(resent, execution);
    audit::expect_intact(&reader, &request.id.to_string(), before + 2);
}

#[test]
fn a_target_has_one_execution_at_a_time() {
    let scenario = scenario!(Shared);
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let (target, workflow) = (requests::target(), workflows::restart("Busy"));
    let all: Vec<_> = (0..6)
        .map(|_| workflows::chosen(&scenario, &workflow, &target))
        .collect();
    let answers = together(all.len(), |index| {
        let new = NewExecution {
            request_id: all[index].id,
            parameters: BTreeMap::new(),
            phase_deadline_seconds: None,
        };
        orchestrator.post_if_match(EXECUTIONS, all[index].resource_version, &new)
    });
    let (begun, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(begun.len(), 1);
    let holder: Execution = begun[0].json();
    for answer in refused {
        let holder = holder.id.to_string();
        let answer = answer.expect_problem(409, &[]);
        let named = answer.body.contains(&holder)
            || answer
                .body
                .contains(&begun[0].json::<Execution>().request_id.to_string());
        assert!(named, "{answer} does not name the holder");
    }
    let executing = all.iter().filter(|request| {
        requests::read(&orchestrator, request.id).phase == RequestPhase::Executing
    });
    assert_eq!(executing.count(), 1);
}

#[test]
fn an_execution_is_its_holders() {
    let scenario = scenario!(Shared);
    let worker = scenario.api("datastorage", "workflowexecution");
    let workflow = workflows::restart("Claimed");
    let request = workflows::chosen(&scenario, &workflow, &requests::target());
    let execution = workflows::begin(&scenario, &request);
    let claim = |holder: &str| PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(ExecutionPhase::Running),
        holder: Some(holder.to_owned()),
        deadline_seconds: Some(60),
        ..PatchExecution::default()
    };
    let path = format!("{EXECUTIONS}/{}", execution.id);
    let answers = together(6, |index| {
        worker.patch(
            &path,
            execution.resource_version,
            &claim(&format!("replica-{index}")),
        )
    });
    let claimed: Vec<&_> = answers
        .iter()
        .filter(|answer| answer.status == 200)
        .collect();
    assert_eq!(claimed.len(), 1, "{answers:?}");
    let running: Execution = claimed[0].json();
    let end = |holder: &str| PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(ExecutionPhase::Completed),
        holder: Some(holder.to_owned()),
        ..PatchExecution::default()
    };
    let other = worker.patch(&path, running.resource_version, &end("somebody-else"));
    assert!([403, 409].contains(&other.status), "{other}");
    let holder = running.holder.clone().expect("a holder");
    let ended: Execution = worker
        .patch(&path, running.resource_version, &end(&holder))
        .expect(200)
        .json();
    assert_eq!(ended.phase, ExecutionPhase::Completed);
    let again = worker.patch(&path, ended.resource_version, &claim("late"));
    again.expect_problem(409, &[]);
    audit::expect_in_order(
        &worker,
        &request.id.to_string(),
        workflows::EXECUTION_EVENTS,
    );
}
