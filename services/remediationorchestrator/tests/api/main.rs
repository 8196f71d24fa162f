//! The orchestrator against the real DataStorage. The executor is played by the test, with the
//! token of workflowexecution.

mod checks;
mod helpers;

use std::collections::BTreeSet;

use common::api::{ExecutionQuery, RemediationRequest};
use common::transitions::{ExecutionPhase, RequestPhase};
use harness::{Storage, workflow};
use helpers::{Api, claim, end, execution_of, started};
use remediationorchestrator::routes::Verdict;

const NAME: &str = "remediationorchestrator";
const STEPS: &[(&str, &str)] = &[("restart", "http://target/restart")];

#[tokio::test]
async fn a_request_is_driven_to_its_end() {
    let storage = Storage::start().await;
    storage.publish(&workflow("general", "Sick", STEPS)).await;
    let mut special = workflow("special", "Sick", STEPS);
    special
        .labels
        .insert("environment".to_owned(), "production".to_owned());
    storage.publish(&special).await;
    let service = started(&storage).await;

    let request = storage.analyzed("web", "Sick").await;
    let executing = storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    let choice = executing.workflow.expect("a choice");
    assert_eq!(choice.name, "special");
    assert!(
        choice.reason.contains("environment=production"),
        "{choice:?}"
    );

    let execution = execution_of(&storage, request.id).await;
    assert_eq!(execution.workflow, special);
    end(&storage, execution, ExecutionPhase::Completed).await;
    let completed = storage
        .await_request(request.id, RequestPhase::Completed)
        .await;
    let reason = completed.reason.expect("a reason");
    assert_eq!(reason, "every step succeeded; the workflow has no probe");
    assert_eq!(
        own(&storage, &request).await,
        ["workflow.selected", "remediation.completed"]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn a_failed_execution_fails_the_request_with_its_reason() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let request = storage.analyzed("web", "Sick").await;
    storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    let execution = execution_of(&storage, request.id).await;
    end(&storage, execution, ExecutionPhase::Failed).await;
    let failed = storage
        .await_request(request.id, RequestPhase::Failed)
        .await;
    assert_eq!(
        failed.reason.as_deref(),
        Some("step_failed at restart: the test failed it")
    );
    assert_eq!(
        own(&storage, &request).await,
        ["workflow.selected", "remediation.failed"]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn none_fits() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Other", STEPS)).await;
    let service = started(&storage).await;
    let request = storage.analyzed("web", "Sick").await;
    let skipped = storage
        .await_request(request.id, RequestPhase::Skipped)
        .await;
    let reason = skipped.reason.expect("a reason");
    assert!(
        reason.starts_with("no workflow of 1 in the catalog fits"),
        "{reason}"
    );
    assert!(skipped.execution_id.is_none());
    assert_eq!(own(&storage, &request).await, ["workflow.not_found"]);
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn a_busy_target_is_waited_for() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let first = storage.analyzed("web", "Sick").await;
    storage
        .await_request(first.id, RequestPhase::Executing)
        .await;
    let holder = execution_of(&storage, first.id).await;

    let second = storage.analyzed("web", "Sick").await;
    let expected = format!("blocked: the target is held by execution {}", holder.id);
    let blocked = storage
        .await_request(second.id, RequestPhase::Blocked)
        .await;
    assert_eq!(blocked.reason, Some(expected));
    assert!(blocked.blocked_until.is_some());
    let plan = Api::of(&service).plan("reader", second.id).await;
    assert_eq!(plan.verdict, Verdict::Wait);

    end(&storage, holder, ExecutionPhase::Completed).await;
    storage
        .await_request(second.id, RequestPhase::Executing)
        .await;
    assert_eq!(
        own(&storage, &second).await,
        ["remediation.blocked", "workflow.selected"]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn two_replicas_act_once() {
    const REQUESTS: usize = 12;
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let replicas = [started(&storage).await, started(&storage).await];
    let mut requests = Vec::new();
    for index in 0..REQUESTS {
        requests.push(storage.analyzed(&format!("web-{index}"), "Sick").await);
    }
    for request in &requests {
        storage
            .await_request(request.id, RequestPhase::Executing)
            .await;
        let execution = execution_of(&storage, request.id).await;
        end(&storage, execution, ExecutionPhase::Completed).await;
    }
    for request in &requests {
        storage
            .await_request(request.id, RequestPhase::Completed)
            .await;
        assert_eq!(
            own(&storage, request).await,
            ["workflow.selected", "remediation.completed"]
        );
    }
    let all = ExecutionQuery {
        limit: Some(1000),
        ..ExecutionQuery::default()
    };
    let executions = storage.client("reader").executions(&all).await;
    let executions = executions.expect("executions").items;
    let executed: BTreeSet<_> = executions.iter().map(|e| e.request_id).collect();
    assert_eq!((executions.len(), executed.len()), (REQUESTS, REQUESTS));
    for replica in replicas {
        replica.stop().await.expect("an orderly end");
    }
    storage.remove().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let storage = Storage::start().await;
    let steps = workflow("restart", "Sick", STEPS);
    storage.publish(&steps).await;
    let service = started(&storage).await;
    let request = storage.analyzed("web", "Sick").await;
    storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    service.stop().await.expect("an orderly end");

    let execution = execution_of(&storage, request.id).await;
    end(&storage, execution, ExecutionPhase::Completed).await;
    let service = started(&storage).await;
    storage
        .await_request(request.id, RequestPhase::Completed)
        .await;
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn datastorage_away_and_back() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let first = storage.analyzed("web", "Sick").await;
    storage
        .await_request(first.id, RequestPhase::Executing)
        .await;
    let storage = storage.stop().await.start().await;
    let execution = execution_of(&storage, first.id).await;
    end(&storage, execution, ExecutionPhase::Completed).await;
    storage
        .await_request(first.id, RequestPhase::Completed)
        .await;
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn cancelled_before_it_is_executed() {
    let storage = Storage::start().await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.pending("web", "Sick").await;
    let (status, cancelled) = api.cancel("admin", request.id).await;
    assert_eq!(status, 200);
    assert_eq!(cancelled.phase, RequestPhase::Cancelled);
    let reason = cancelled.reason.as_deref();
    assert_eq!(reason, Some("cancelled by admin: it was a drill"));
    // Once more: it is so already.
    assert_eq!(api.cancel("admin", request.id).await, (200, cancelled));
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn cancelled_while_it_is_executed() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.analyzed("web", "Sick").await;
    storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    let execution = execution_of(&storage, request.id).await;
    claim(&storage, execution).await;
    assert_eq!(api.cancel("admin", request.id).await.0, 202);
    let execution = execution_of(&storage, request.id).await;
    assert_eq!(execution.phase, ExecutionPhase::Cancelling);
    helpers::enter(&storage, execution, ExecutionPhase::Cancelled).await;
    let cancelled = storage
        .await_request(request.id, RequestPhase::Cancelled)
        .await;
    let reason = cancelled.reason.as_deref();
    assert_eq!(reason, Some("cancelled by admin: it was a drill"));
    assert_eq!(
        own(&storage, &request).await,
        ["workflow.selected", "remediation.cancelled"]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn a_plan_changes_nothing() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.pending("web", "Sick").await;
    let plan = api.plan("reader", request.id).await;
    assert_eq!(plan.verdict, Verdict::NotClassified);
    assert_eq!(
        plan.workflow.map(|choice| choice.name).as_deref(),
        Some("restart")
    );
    assert!(plan.candidates[0].fits);
    let other = storage.pending("web", "Other").await;
    let plan = api.plan("reader", other.id).await;
    assert_eq!(plan.candidates[0].misses, ["signal is Other, not Sick"]);
    let client = storage.client("reader");
    for before in [request, other] {
        let now = client.request(before.id).await.expect("there");
        // The worker has set its deadlines, which are no state.
        let before = RemediationRequest {
            deadline: now.deadline,
            phase_deadline: now.phase_deadline,
            ..before
        };
        assert_eq!(now, before);
    }
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn who_may_call() {
    let storage = Storage::start().await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.pending("web", "Sick").await;
    let plan = format!("/api/v1/remediation-requests/{}/plan", request.id);
    let cancel = format!("/api/v1/remediation-requests/{}/cancel", request.id);
    let nobody = format!("/api/v1/remediation-requests/{}/plan", uuid::Uuid::new_v4());
    assert_eq!(api.get(None, &plan).await, 401);
    assert_eq!(api.get(Some("stranger"), &plan).await, 401);
    assert_eq!(api.get(Some("reader"), &plan).await, 200);
    assert_eq!(api.get(Some("reader"), &nobody).await, 404);
    assert_eq!(api.get(Some("reader"), &cancel).await, 405);
    let reason = serde_json::json!({"reason": "it was a drill"});
    assert_eq!(api.post("reader", &cancel, &reason).await, 403);
    assert_eq!(api.post("approver", &cancel, &reason).await, 403);
    let nothing = serde_json::json!({"reason": ""});
    assert_eq!(api.post("admin", &cancel, &nothing).await, 400);
    let unknown = serde_json::json!({"reason": "x", "actor": "someone else"});
    assert_eq!(api.post("admin", &cancel, &unknown).await, 400);
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

/// What the orchestrator said of this request.
async fn own(storage: &Storage, request: &RemediationRequest) -> Vec<String> {
    storage.said(request.id, NAME).await
}
