//! Workflows and executions: made and moved by the tokens of the services whose moves they are,
//! where such a service is not itself what is tested.

use std::collections::BTreeMap;

use common::api::{
    Action, Classification, Execution, Executions, HttpCall, JobCall, NewExecution, NewWorkflow,
    PatchRemediationRequest, RemediationRequest, Severity, Target, WorkflowChoice, WorkflowStep,
};
use common::transitions::RequestPhase;
use serde_json::Map;
use uuid::Uuid;

use crate::http::{Answer, Api};
use crate::requests;
use crate::scenario::Scenario;
use crate::unique;

/// Where workflows are posted and listed.
pub const WORKFLOWS: &str = "/api/v1/workflows";
/// Where executions are posted and listed.
pub const EXECUTIONS: &str = "/api/v1/workflow-executions";

/// What DataStorage writes of an execution that is begun, claimed and completed.
pub const EXECUTION_EVENTS: &[&str] = &[
    "datastorage.workflow_execution.created",
    "datastorage.workflow_execution.transitioned",
    "datastorage.workflow_execution.transitioned",
];

/// A call of the test bed that has one try of five seconds.
#[must_use]
pub fn call(method: &str, path: &str) -> HttpCall {
    HttpCall {
        method: method.to_owned(),
        url: format!("http://testbed:8080{path}"),
        body: None,
        expected_status: vec![200],
        timeout_ms: 5_000,
        retries_max: 0,
        retry_on_status: Vec::new(),
        idempotent: false,
    }
}

/// A step of this name.
#[must_use]
pub fn step(name: &str, http: HttpCall) -> WorkflowStep {
    WorkflowStep {
        name: name.to_owned(),
        action: Action::Http(http),
    }
}

/// A step of this name that runs a Job of the template for the test bed.
#[must_use]
pub fn job_step(name: &str, args: &[&str], deadline_seconds: u32) -> WorkflowStep {
    let args = args.iter().map(|&arg| arg.to_owned());
    WorkflowStep {
        name: name.to_owned(),
        action: Action::Job(JobCall {
            template: "testbed-act".to_owned(),
            args: args.collect(),
            deadline_seconds,
        }),
    }
}

/// A workflow of a name that no other test has, for signals of this name.
#[must_use]
pub fn workflow(signal: &str, steps: Vec<WorkflowStep>) -> NewWorkflow {
    NewWorkflow {
        name: format!("e2e-{}", unique()),
        version: "1.0.0".to_owned(),
        labels: BTreeMap::from([("signal".to_owned(), signal.to_owned())]),
        steps,
        parameters: Vec::new(),
        probe: None,
    }
}

/// Restarts the workload in the test bed and asks for its health.
#[must_use]
pub fn restart(signal: &str) -> NewWorkflow {
    let restart = step("restart", call("POST", "/restart?name={name}"));
    NewWorkflow {
        probe: Some(call("GET", "/healthz?name={name}")),
        ..workflow(signal, vec![restart])
    }
}

/// Puts a workflow into the catalog.
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn publish(scenario: &Scenario, workflow: &NewWorkflow) {
    let api = scenario.api("datastorage", "e2e-admin");
    let answer = api.post(WORKFLOWS, workflow);
    assert!([200, 201].contains(&answer.status), "{answer}");
}

/// What signalprocessing might have found out.
#[must_use]
pub fn classification(priority: &str, environment: &str) -> Classification {
    Classification {
        environment: environment.to_owned(),
        severity: Severity::Critical,
        priority: priority.to_owned(),
        signal_mode: "reactive".to_owned(),
        reason: "a test said so".to_owned(),
        degraded: false,
        policy_hash: "0".repeat(64),
        enrichment: Map::new(),
    }
}

/// A new request for `target`, named `signal`, moved to Analyzing as gateway and signalprocessing
/// would.
///
/// # Panics
/// When a move is refused.
#[track_caller]
pub fn analyzed(scenario: &Scenario, signal: &str, target: &Target) -> RemediationRequest {
    let mut new = requests::new_request(target);
    signal.clone_into(&mut new.signal.name);
    let request = requests::create(&scenario.api("datastorage", "gateway"), &new);
    classify(scenario, &request, classification("P1", "production"))
}

/// Moves a new request to Analyzing as signalprocessing would.
///
/// # Panics
/// When a move is refused.
#[track_caller]
pub fn classify(
    scenario: &Scenario,
    request: &RemediationRequest,
    classification: Classification,
) -> RemediationRequest {
    let processing = scenario.api("datastorage", "signalprocessing");
    let lease = PatchRemediationRequest {
        lease_seconds: Some(30),
        ..requests::to_phase(RequestPhase::Processing)
    };
    let request: RemediationRequest = requests::patch(&processing, request, &lease)
        .expect(200)
        .json();
    let classified = PatchRemediationRequest {
        classification: Some(classification),
        ..requests::to_phase(RequestPhase::Analyzing)
    };
    requests::patch(&processing, &request, &classified)
        .expect(200)
        .json()
}

/// A new request for `target` for which this workflow is published and chosen.
///
/// # Panics
/// When a move is refused.
#[track_caller]
pub fn chosen(scenario: &Scenario, workflow: &NewWorkflow, target: &Target) -> RemediationRequest {
    publish(scenario, workflow);
    choose(
        scenario,
        &analyzed(scenario, "ChosenByATest", target),
        workflow,
    )
}

/// Takes a new request to an execution of this workflow.
///
/// # Panics
/// When a move is refused.
#[track_caller]
pub fn execute(
    scenario: &Scenario,
    request: &RemediationRequest,
    workflow: &NewWorkflow,
) -> Execution {
    publish(scenario, workflow);
    let analyzed = classify(scenario, request, classification("P1", "production"));
    begin(scenario, &choose(scenario, &analyzed, workflow))
}

/// Chooses a workflow for a request, as remediationorchestrator would.
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn choose(
    scenario: &Scenario,
    request: &RemediationRequest,
    workflow: &NewWorkflow,
) -> RemediationRequest {
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let choice = PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        workflow: Some(WorkflowChoice {
            name: workflow.name.clone(),
            version: workflow.version.clone(),
            reason: "a test chose it".to_owned(),
        }),
        ..PatchRemediationRequest::default()
    };
    requests::patch(&orchestrator, request, &choice)
        .expect(200)
        .json()
}

/// Begins the execution of a request for which a workflow is chosen.
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn begin(scenario: &Scenario, request: &RemediationRequest) -> Execution {
    begin_with(scenario, request, &[])
}

/// The same with parameters.
///
/// # Panics
/// When it is refused.
#[track_caller]
pub fn begin_with(
    scenario: &Scenario,
    request: &RemediationRequest,
    parameters: &[(&str, &str)],
) -> Execution {
    let answer = try_begin_with(scenario, request, parameters);
    answer.expect(201).json()
}

/// Asks for the execution of a request, whatever the answer.
///
/// # Panics
/// When there is no answer.
#[track_caller]
pub fn try_begin_with(
    scenario: &Scenario,
    request: &RemediationRequest,
    parameters: &[(&str, &str)],
) -> Answer {
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let new = NewExecution {
        request_id: request.id,
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        phase_deadline_seconds: None,
    };
    orchestrator.post_if_match(EXECUTIONS, request.resource_version, &new)
}

/// An execution as it is stored now.
///
/// # Panics
/// When it cannot be read.
#[must_use]
#[track_caller]
pub fn read(api: &Api, id: Uuid) -> Execution {
    api.get(&format!("{EXECUTIONS}/{id}")).expect(200).json()
}

/// All executions, page after page.
///
/// # Panics
/// When a page is refused, or there is no end of pages.
#[must_use]
#[track_caller]
pub fn list(api: &Api) -> Vec<Execution> {
    api.pages(&format!("{EXECUTIONS}?limit=500"), |page: Executions| {
        (page.items, page.next_cursor)
    })
}
