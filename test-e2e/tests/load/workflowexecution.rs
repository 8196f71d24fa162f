//! The load of workflowexecution: pending executions of a workflow with one call of the test bed. One
//! has ended when it is completed, and then the test bed's journal has its call once.

use std::collections::HashMap;

use common::api::{
    NewExecution, NewWorkflow, PatchRemediationRequest, RemediationRequest, Target, WorkflowChoice,
};
use common::client::{ClientError, DataStorage};
use common::transitions::RequestPhase;
use test_e2e::http::Api;
use test_e2e::load::work::{self, Done, End, Work};
use test_e2e::testbed::Journal;
use test_e2e::workflows::{call, step};
use test_e2e::{Scenario, requests, scenario, workflows};
use uuid::Uuid;

#[test]
fn every_pending_execution_is_run_once() {
    let scenario = scenario!(Exclusive, "workflowexecution");
    work::run(&scenario, |prefix| Executing::of(&scenario, prefix));
}

/// Executions begun as the other services begin them.
struct Executing {
    gateway: DataStorage,
    processing: DataStorage,
    orchestrator: DataStorage,
    testbed: Api,
    prefix: String,
    workflow: NewWorkflow,
}

impl Executing {
    #[track_caller]
    fn of(scenario: &Scenario, prefix: &str) -> Self {
        let client = |subject| {
            let api = scenario.api("datastorage", subject);
            api.datastorage().expect("DataStorage")
        };
        // All calls go to one name in the test bed, so that one journal has them all.
        let restart = call("POST", &format!("/restart?name={prefix}"));
        let workflow = workflows::workflow("NeverChosen", vec![step("restart", restart)]);
        workflows::publish(scenario, &workflow);
        Self {
            gateway: client("gateway"),
            processing: client("signalprocessing"),
            orchestrator: client("remediationorchestrator"),
            testbed: scenario.anonymous("testbed"),
            prefix: prefix.to_owned(),
            workflow,
        }
    }
}

async fn patch(
    storage: &DataStorage,
    request: &RemediationRequest,
    patch: PatchRemediationRequest,
) -> Result<RemediationRequest, ClientError> {
    let (id, version) = (request.id, request.resource_version);
    storage.patch_request(id, version, &patch).await
}

impl Work for Executing {
    const SERVICE: &'static str = "workflowexecution";
    const RATE: u32 = 50;
    const EVENTS: &'static [&'static str] = &[
        "datastorage.remediation_request.created",
        "datastorage.remediation_request.transitioned",
        "datastorage.remediation_request.transitioned",
        "datastorage.remediation_request.updated",
        "datastorage.workflow_execution.created",
        "datastorage.remediation_request.transitioned",
        "datastorage.workflow_execution.transitioned",
        "execution.step.completed",
        "datastorage.workflow_execution.updated",
        "execution.completed",
        "datastorage.workflow_execution.transitioned",
    ];
    const EVENTS_BEFORE: usize = 4;
    const END: End = End::Completed;
    type Ready = RemediationRequest;

    async fn prepare(&self, name: &str) -> Result<Self::Ready, ClientError> {
        let new = requests::new_request(&Target {
            name: name.to_owned(),
            ..requests::target()
        });
        let lease = PatchRemediationRequest {
            lease_seconds: Some(30),
            ..requests::to_phase(RequestPhase::Processing)
        };
        let classified = PatchRemediationRequest {
            classification: Some(workflows::classification("P1", "production")),
            ..requests::to_phase(RequestPhase::Analyzing)
        };
        let chosen = PatchRemediationRequest {
            write_id: Uuid::new_v4(),
            workflow: Some(WorkflowChoice {
                name: self.workflow.name.clone(),
                version: self.workflow.version.clone(),
                reason: "a load chose it".to_owned(),
            }),
            ..PatchRemediationRequest::default()
        };
        let request = self.gateway.create_request(&new).await?.value;
        let request = patch(&self.processing, &request, lease).await?;
        let request = patch(&self.processing, &request, classified).await?;
        patch(&self.orchestrator, &request, chosen).await
    }

    async fn hand_over(&self, ready: &Self::Ready) -> Result<(), ClientError> {
        let new = NewExecution {
            request_id: ready.id,
            parameters: std::collections::BTreeMap::new(),
            phase_deadline_seconds: None,
        };
        let version = ready.resource_version;
        let created = self.orchestrator.create_execution(version, &new).await;
        created.map(drop)
    }

    /// Each has one effect with its key, and nobody else has one.
    fn check(&self, done: &[Done]) {
        let journal = Journal::of(&self.testbed, &self.prefix);
        let mut keys = HashMap::<String, usize>::new();
        for entry in journal.entries {
            assert!(entry.effect, "a call was made again: {entry:?}");
            let key = entry.idempotency_key.clone();
            *keys.entry(key.expect("a key")).or_default() += 1;
        }
        for Done { execution, .. } in done {
            let execution = execution.as_ref().expect("an execution");
            let key = format!("{}/restart", execution.id);
            assert_eq!(keys.remove(&key), Some(1), "{key}: {execution:#?}");
            assert_eq!(execution.attempt, 1, "{execution:#?}");
            assert_eq!(execution.steps.len(), 1, "{execution:#?}");
        }
        assert!(keys.is_empty(), "of no execution that was begun: {keys:?}");
    }
}
