//! Workflow executions: created with their request's move to Executing, one for each target, acted
//! upon by their holder alone.

use std::collections::BTreeMap;

use common::api::{
    Execution, ExecutionFailure, ExecutionQuery, NewExecution, NewWorkflow, PatchExecution,
    PatchWorkflow, RemediationRequest,
};
use common::client::{ClientError, DataStorage};
use common::transitions::{ExecutionPhase, RequestPhase};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::helpers::{Service, assert_refused, new_workflow};

const ORCHESTRATOR: &str = "remediationorchestrator";
const EXECUTION: &str = "workflowexecution";

fn new_execution(request: &RemediationRequest) -> NewExecution {
    NewExecution {
        request_id: request.id,
        parameters: BTreeMap::from([("why".to_owned(), "down".to_owned())]),
        phase_deadline_seconds: None,
    }
}

async fn with_workflow() -> (Service, NewWorkflow) {
    let service = Service::start().await;
    let workflow = new_workflow("restart");
    service
        .client("admin")
        .create_workflow(&workflow)
        .await
        .expect("workflow");
    (service, workflow)
}

async fn started(
    service: &Service,
    name: &str,
    workflow: &NewWorkflow,
) -> (RemediationRequest, Execution) {
    let request = service.ready_to_execute(name, workflow).await;
    let client = service.client(ORCHESTRATOR);
    let created = client
        .create_execution(request.resource_version, &new_execution(&request))
        .await;
    (request, created.expect("created").value)
}

pub(crate) fn claim(holder: &str, seconds: u32) -> PatchExecution {
    PatchExecution {
        write_id: Uuid::now_v7(),
        phase: Some(ExecutionPhase::Running),
        holder: Some(holder.to_owned()),
        deadline_seconds: Some(seconds),
        ..Default::default()
    }
}

pub(crate) fn end(holder: &str, phase: ExecutionPhase) -> PatchExecution {
    PatchExecution {
        write_id: Uuid::now_v7(),
        phase: Some(phase),
        holder: Some(holder.to_owned()),
        ..Default::default()
    }
}

#[tokio::test]
async fn an_execution_and_its_request_move_together() {
    let (service, workflow) = with_workflow().await;
    let request = service.ready_to_execute("web", &workflow).await;
    let client = service.client(ORCHESTRATOR);
    let new = new_execution(&request);
    let created = client
        .create_execution(request.resource_version, &new)
        .await
        .expect("created");
    assert!(created.is_new);
    let execution = created.value;
    assert_eq!(
        (execution.phase, execution.attempt, execution.request_id),
        (ExecutionPhase::Pending, 1, request.id)
    );
    assert_eq!(
        (&execution.workflow, &execution.target),
        (&workflow, &request.target)
    );
    assert_eq!(execution.parameters["name"], "web");
    assert_eq!(execution.parameters["why"], "down");
    let after = client.request(request.id).await.expect("get");
    assert_eq!(
        (after.phase, after.resource_version),
        (RequestPhase::Executing, request.resource_version + 1)
    );
    assert_eq!((after.execution_id, after.attempt), (Some(execution.id), 1));

    let told = service.told(&request.id.to_string()).await;
    let last = [
        [
            "datastorage.workflow_execution.created",
            ORCHESTRATOR,
            "Pending",
        ],
        [
            "datastorage.remediation_request.transitioned",
            ORCHESTRATOR,
            "Executing",
        ],
    ];
    assert_eq!(told[told.len() - 2..], last);
    service.stop().await;
}

#[tokio::test]
async fn a_resent_wish_gets_the_execution_and_another_one_is_refused() {
    let (service, workflow) = with_workflow().await;
    let (request, execution) = started(&service, "web", &workflow).await;
    let version = request.resource_version;
    let (client, new) = (service.client(ORCHESTRATOR), new_execution(&request));
    let again = client
        .create_execution(version, &new)
        .await
        .expect("resent");
    assert_eq!((again.is_new, again.value), (false, execution));
    let other = NewExecution {
        parameters: BTreeMap::from([("why".to_owned(), "else".to_owned())]),
        ..new.clone()
    };
    let other = client.create_execution(version, &other).await;
    assert_refused(other, 409, "other parameters");
    let second = client.create_execution(version + 1, &new).await;
    assert_refused(second, 409, "Executing");
    let stale = client.create_execution(1, &new).await;
    assert_refused(stale, 412, "resource_version");
    service.stop().await;
}

#[tokio::test]
async fn what_may_not_start_changes_nothing() {
    let (service, workflow) = with_workflow().await;
    let client = service.client(ORCHESTRATOR);
    let pending = service.pending("pending").await;
    let early = client.create_execution(1, &new_execution(&pending)).await;
    assert_refused(early, 409, "Pending");
    let ready = service.ready_to_execute("web", &workflow).await;
    let (version, new) = (ready.resource_version, new_execution(&ready));
    let worker = service.client(EXECUTION);
    let foreign = worker.create_execution(version, &new).await;
    assert_refused(foreign, 403, "alone");
    let disable = PatchWorkflow { disabled: true };
    let admin = service.client("admin");
    let disabled = admin.patch_workflow("restart", "1.0.0", &disable).await;
    assert!(disabled.expect("disabled").disabled);
    let disabled = client.create_execution(version, &new).await;
    assert_refused(disabled, 409, "disabled");
    let unknown = new_workflow("unknown");
    let unknown = service.ready_to_execute("unknown", &unknown).await;
    let absent = client
        .create_execution(unknown.resource_version, &new_execution(&unknown))
        .await;
    assert_refused(absent, 409, "not in the catalog");
    assert_eq!(client.request(ready.id).await.expect("get"), ready);
    let all = client.executions(&ExecutionQuery::default()).await;
    assert!(all.expect("list").items.is_empty());
    service.stop().await;
}

#[tokio::test]
async fn parameters_are_exactly_the_declared_ones() {
    let (service, workflow) = with_workflow().await;
    let client = service.client(ORCHESTRATOR);
    let ready = service.ready_to_execute("web", &workflow).await;
    let none = NewExecution {
        request_id: ready.id,
        parameters: BTreeMap::new(),
        phase_deadline_seconds: None,
    };
    let missing = client.create_execution(ready.resource_version, &none).await;
    assert_refused(missing, 400, "`why` is missing");
    let mut more = new_execution(&ready);
    more.parameters
        .insert("colour".to_owned(), "red".to_owned());
    let more = client.create_execution(ready.resource_version, &more).await;
    assert_refused(more, 400, "`colour` is not declared");
    let nobody = NewExecution {
        request_id: Uuid::now_v7(),
        parameters: BTreeMap::new(),
        phase_deadline_seconds: None,
    };
    let nobody = client
        .create_execution(ready.resource_version, &nobody)
        .await;
    assert_refused(nobody, 404, "no such");
    service.stop().await;
}

#[tokio::test]
async fn a_busy_target_names_its_holder() {
    let (service, workflow) = with_workflow().await;
    let (first, execution) = started(&service, "web", &workflow).await;
    // The first request ends before its execution does; its target stays busy.
    let now = service
        .client("reader")
        .request(first.id)
        .await
        .expect("get");
    service
        .moved(&now, ORCHESTRATOR, RequestPhase::Failed)
        .await;
    let second = service.ready_to_execute("web", &workflow).await;
    let client = service.client(ORCHESTRATOR);
    let refused = client
        .create_execution(second.resource_version, &new_execution(&second))
        .await;
    match &refused {
        Err(ClientError::Problem {
            status: 409,
            extensions,
            ..
        }) => {
            assert_eq!(extensions["holder"], json!(execution.id));
            assert_eq!(extensions["holder_request_id"], json!(first.id));
        }
        other => panic!("409 expected: {other:?}"),
    }
    assert_eq!(client.request(second.id).await.expect("get"), second);
    let cancelled = PatchExecution {
        write_id: Uuid::now_v7(),
        phase: Some(ExecutionPhase::Cancelled),
        ..Default::default()
    };
    client
        .patch_execution(execution.id, 1, &cancelled)
        .await
        .expect("cancelled");
    let created = client
        .create_execution(second.resource_version, &new_execution(&second))
        .await;
    assert!(created.expect("the target is free").is_new);
    service.stop().await;
}

#[tokio::test]
async fn of_many_claims_one_wins_and_only_its_holder_goes_on() {
    let (service, workflow) = with_workflow().await;
    let (request, execution) = started(&service, "web", &workflow).await;
    let mut claims = JoinSet::new();
    for index in 0..12 {
        let (client, id) = (service.client(EXECUTION), execution.id);
        claims.spawn(async move {
            client
                .patch_execution(id, 1, &claim(&format!("replica-{index}"), 60))
                .await
        });
    }
    let outcomes = claims.join_all().await;
    let mut won = outcomes.into_iter().filter_map(Result::ok);
    let running = won.next().expect("a winner");
    assert!(won.next().is_none());
    let holder = running.holder.clone().expect("holder");
    assert!(running.deadline.expect("deadline") > running.updated_at);

    let client = service.client(EXECUTION);
    let foreign = end("other", ExecutionPhase::Completed);
    let refused = client.patch_execution(execution.id, 2, &foreign).await;
    assert_refused(refused, 409, "holds");
    assert_refused(
        service
            .client("gateway")
            .patch_execution(execution.id, 2, &end(&holder, ExecutionPhase::Completed))
            .await,
        403,
        "not for",
    );
    let completed = end(&holder, ExecutionPhase::Completed);
    let first = client
        .patch_execution(execution.id, 2, &completed)
        .await
        .expect("completed");
    assert_eq!(
        client
            .patch_execution(execution.id, 2, &completed)
            .await
            .expect("resent"),
        first
    );
    assert_refused(
        client
            .patch_execution(execution.id, 3, &end(&holder, ExecutionPhase::Failed))
            .await,
        400,
        "failure",
    );
    assert_refused(
        client
            .patch_execution(execution.id, 3, &end(&holder, ExecutionPhase::Cancelled))
            .await,
        409,
        "no transition",
    );
    assert_eq!(completed_of(&client, request.id).await, [first]);
    service.stop().await;
}

async fn completed_of(client: &DataStorage, request_id: Uuid) -> Vec<Execution> {
    let query = ExecutionQuery {
        phase: vec![ExecutionPhase::Completed],
        request_id: Some(request_id),
        ..Default::default()
    };
    client.executions(&query).await.expect("list").items
}

#[tokio::test]
async fn anyone_who_claims_may_fail_what_outlived_its_deadline() {
    let (service, workflow) = with_workflow().await;
    let (_, execution) = started(&service, "web", &workflow).await;
    let client = service.client(EXECUTION);
    client
        .patch_execution(execution.id, 1, &claim("a", 1))
        .await
        .expect("claimed");
    let fail = || PatchExecution {
        failure: Some(ExecutionFailure {
            reason: "deadline_exceeded".to_owned(),
            step: None,
            status_code: None,
            exit_code: None,
            message: "its holder is silent".to_owned(),
            was_execution_failure: true,
        }),
        ..end("b", ExecutionPhase::Failed)
    };
    assert_refused(
        client.patch_execution(execution.id, 2, &fail()).await,
        409,
        "`a` holds",
    );
    let patience = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    let failed = loop {
        match client.patch_execution(execution.id, 2, &fail()).await {
            Ok(failed) => break failed,
            Err(error) => assert!(tokio::time::Instant::now() < patience, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(failed.phase, ExecutionPhase::Failed);
    assert!(failed.failure.expect("failure").was_execution_failure);
    service.stop().await;
}
