//! The load of remediationorchestrator: requests that signalprocessing has analyzed, for which one
//! workflow fits. One has ended when it is in Executing, with its execution.

use common::api::{NewWorkflow, PatchRemediationRequest, RemediationRequest, Target};
use common::client::{ClientError, DataStorage};
use common::transitions::RequestPhase;
use std::time::Duration;
use test_e2e::database::Database;
use test_e2e::load::work::{self, Done, End, Work};
use test_e2e::{Look, Scenario, eventually, requests, scenario, workflows};

/// For how long a request is signalprocessing's, at the most: an expired lease is work for others.
const LEASE_SECONDS: u32 = 3600;
/// How long the orchestrator may take to give what it has seen its deadlines.
const DEADLINES_WITHIN: Duration = Duration::from_secs(60);

#[test]
fn every_analyzed_request_is_executed_once() {
    let scenario = scenario!(Exclusive, "remediationorchestrator");
    work::run(&scenario, |prefix| Choosing::of(&scenario, prefix));
}

/// Requests moved as gateway and signalprocessing move them.
struct Choosing {
    gateway: DataStorage,
    processing: DataStorage,
    prefix: String,
    workflow: NewWorkflow,
}

impl Choosing {
    #[track_caller]
    fn of(scenario: &Scenario, prefix: &str) -> Self {
        let client = |subject| {
            let api = scenario.api("datastorage", subject);
            api.datastorage().expect("DataStorage")
        };
        // For signals of this name, which no other request has.
        let workflow = workflows::restart(prefix);
        workflows::publish(scenario, &workflow);
        Self {
            gateway: client("gateway"),
            processing: client("signalprocessing"),
            prefix: prefix.to_owned(),
            workflow,
        }
    }
}

impl Work for Choosing {
    const SERVICE: &'static str = "remediationorchestrator";
    const RATE: u32 = 50;
    const EVENTS: &'static [&'static str] = &[
        "datastorage.remediation_request.created",
        "datastorage.remediation_request.transitioned",
        "datastorage.remediation_request.transitioned",
        "datastorage.remediation_request.updated",
        "workflow.selected",
        "datastorage.workflow_execution.created",
        "datastorage.remediation_request.transitioned",
    ];
    const EVENTS_BEFORE: usize = 2;
    const END: End = End::Begun;
    type Ready = RemediationRequest;

    async fn prepare(&self, name: &str) -> Result<Self::Ready, ClientError> {
        let mut new = requests::new_request(&Target {
            name: name.to_owned(),
            ..requests::target()
        });
        self.prefix.clone_into(&mut new.signal.name);
        let request = self.gateway.create_request(&new).await?.value;
        let lease = PatchRemediationRequest {
            lease_seconds: Some(LEASE_SECONDS),
            ..requests::to_phase(RequestPhase::Processing)
        };
        let version = request.resource_version;
        let leased = self.processing.patch_request(request.id, version, &lease);
        leased.await
    }

    async fn hand_over(&self, ready: &Self::Ready) -> Result<(), ClientError> {
        let classified = PatchRemediationRequest {
            classification: Some(workflows::classification("P1", "production")),
            ..requests::to_phase(RequestPhase::Analyzing)
        };
        let (id, version) = (ready.id, ready.resource_version);
        let handed_over = self.processing.patch_request(id, version, &classified);
        handed_over.await.map(drop)
    }

    fn settle_before(&self, database: &mut Database) {
        let count = format!(
            "SELECT count(*) FROM remediation_requests WHERE target_name LIKE '{}-%' \
             AND (phase_deadline IS NULL OR deadline IS NULL)",
            self.prefix
        );
        eventually("a deadline for each", DEADLINES_WITHIN, || {
            match database.number(&count) {
                0 => Look::Seen(()),
                missing => Look::NotYet(format!("{missing} have none")),
            }
        });
    }

    fn check(&self, done: &[Done]) {
        for Done { request, execution } in done {
            let execution = execution.as_ref().expect("an execution");
            assert_eq!(request.execution_id, Some(execution.id), "{request:#?}");
            assert_eq!(execution.attempt, 1, "{execution:#?}");
            assert_eq!(execution.target, request.target, "{execution:#?}");
            assert_eq!(execution.workflow, self.workflow, "{execution:#?}");
        }
    }
}
