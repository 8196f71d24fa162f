//! What holds a request back, and what ends it before its time: approval, cool-down, backoff,
//! deadlines.

use std::time::Duration;

use common::api::Decision;
use common::transitions::{ExecutionPhase, RequestPhase};
use harness::{Storage, eventually, workflow};
use serde_json::json;
use uuid::Uuid;

use super::helpers::{Api, claim, end, enter, execution_of, started, started_with};
use super::{STEPS, own};

/// Runs an execution of this request to this end, and gives the time at which the request had left
/// Executing.
async fn execute(storage: &Storage, request: Uuid, phase: ExecutionPhase) {
    storage
        .await_request(request, RequestPhase::Executing)
        .await;
    let execution = execution_of(storage, request).await;
    end(storage, execution, phase).await;
    let phase = match phase {
        ExecutionPhase::Completed => RequestPhase::Completed,
        _ => RequestPhase::Failed,
    };
    storage.await_request(request, phase).await;
}

fn approval(request: Uuid) -> String {
    format!("/api/v1/approvals/{request}")
}

#[tokio::test]
async fn what_is_p0_in_production_waits_for_a_person() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.analyzed_as("web", "Sick", "P0").await;
    let awaiting = storage
        .await_request(request.id, RequestPhase::AwaitingApproval)
        .await;
    assert!(awaiting.phase_deadline.is_some() && awaiting.deadline.is_some());
    let yes = json!({"decision": "approved", "reason": "I looked"});
    let path = approval(request.id);
    assert_eq!(api.post("reader", &path, &yes).await, 403);
    assert_eq!(
        api.post("gateway", &path, &yes).await,
        403,
        "write is not approve"
    );
    assert_eq!(api.post("approver", &path, &yes).await, 200);
    let no = json!({"decision": "rejected", "reason": "I looked too"});
    assert_eq!(api.post("admin", &path, &no).await, 409);
    let executing = storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    let stands = executing.approval.expect("an approval");
    assert_eq!(
        (stands.decision, stands.decided_by.as_str()),
        (Decision::Approved, "approver")
    );
    execute(&storage, request.id, ExecutionPhase::Completed).await;
    let mut said = own(&storage, &request).await;
    // Who decides and who acts upon it are two.
    said[1..3].sort_unstable();
    assert_eq!(
        said,
        [
            "approval.requested",
            "approval.decided",
            "workflow.selected",
            "remediation.completed"
        ]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn a_rejected_request_ends_and_touches_nothing() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started(&storage).await;
    let api = Api::of(&service);
    let request = storage.analyzed_as("web", "Sick", "P0").await;
    storage
        .await_request(request.id, RequestPhase::AwaitingApproval)
        .await;
    let no = json!({"decision": "rejected", "reason": "not now"});
    assert_eq!(api.post("approver", &approval(request.id), &no).await, 200);
    let ended = storage
        .await_request(request.id, RequestPhase::Cancelled)
        .await;
    assert_eq!(
        ended.reason.as_deref(),
        Some("rejected by approver: not now")
    );
    assert_eq!(ended.execution_id, None);
    // It is no way to cancel what awaits nothing.
    let pending = storage.pending("db", "Sick").await;
    assert_eq!(api.post("approver", &approval(pending.id), &no).await, 409);
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn an_approval_that_nobody_gives_expires() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started_with(&storage, r#"{"approval_seconds": 1}"#).await;
    let request = storage.analyzed_as("web", "Sick", "P0").await;
    let ended = storage
        .await_request(request.id, RequestPhase::TimedOut)
        .await;
    assert_eq!(
        ended.reason.as_deref(),
        Some("timed out: AwaitingApproval took longer than it may")
    );
    assert_eq!(
        own(&storage, &request).await,
        ["approval.requested", "remediation.timed_out"]
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn a_remediated_target_cools_down_and_its_next_request_resumes_by_itself() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started_with(&storage, r#"{"cool_down_seconds": 6}"#).await;
    let first = storage.analyzed("web", "Sick").await;
    execute(&storage, first.id, ExecutionPhase::Completed).await;
    let second = storage.analyzed("web", "Sick").await;
    let other = storage.analyzed("db", "Sick").await;
    let blocked = storage
        .await_request(second.id, RequestPhase::Blocked)
        .await;
    let reason = blocked.reason.clone().expect("a reason");
    assert!(reason.contains("cools down for 6 s"), "{reason}");
    storage
        .await_request(other.id, RequestPhase::Executing)
        .await;
    let until = blocked.blocked_until.expect("a time");
    let resumed = storage
        .await_request(second.id, RequestPhase::Executing)
        .await;
    // Both by the database's clock.
    assert!(
        resumed.updated_at >= until,
        "{} {until}",
        resumed.updated_at
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn consecutive_failures_back_off() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let rules = r#"{"failures_max": 1, "backoff_seconds": 5}"#;
    let service = started_with(&storage, rules).await;
    for _ in 0..2 {
        let request = storage.analyzed("web", "Sick").await;
        execute(&storage, request.id, ExecutionPhase::Failed).await;
    }
    let third = storage.analyzed("web", "Sick").await;
    let blocked = storage.await_request(third.id, RequestPhase::Blocked).await;
    let reason = blocked.reason.expect("a reason");
    assert!(reason.contains("2 consecutive failures"), "{reason}");
    execute(&storage, third.id, ExecutionPhase::Failed).await;
    let fourth = storage.analyzed("web", "Sick").await;
    let blocked = storage
        .await_request(fourth.id, RequestPhase::Blocked)
        .await;
    let reason = blocked.reason.expect("a reason");
    assert!(reason.contains("a pause of 10 s"), "{reason}");
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn deadlines_outlive_the_orchestrator() {
    let storage = Storage::start().await;
    let rules = r#"{"phase_seconds": {"pending": 4}, "deadline_seconds": 600}"#;
    let service = started_with(&storage, rules).await;
    let request = storage.pending("web", "Sick").await;
    let client = storage.client("reader");
    eventually("deadlines", async || {
        let now = client
            .request(request.id)
            .await
            .map_err(|e| e.to_string())?;
        assert_eq!(now.resource_version, 1);
        now.phase_deadline.ok_or_else(|| "none".to_owned())
    })
    .await;
    service.stop().await.expect("an orderly end");
    // Rules that are more patient, and a deadline that was set by those before.
    let service = started(&storage).await;
    let ended = storage
        .await_request(request.id, RequestPhase::TimedOut)
        .await;
    assert_eq!(
        ended.reason.as_deref(),
        Some("timed out: Pending took longer than it may")
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

#[tokio::test]
async fn what_is_executed_too_long_is_asked_to_stop_and_then_timed_out() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let rules = r#"{"phase_seconds": {"executing": 4}}"#;
    let service = started_with(&storage, rules).await;
    let request = storage.analyzed("web", "Sick").await;
    storage
        .await_request(request.id, RequestPhase::Executing)
        .await;
    claim(&storage, execution_of(&storage, request.id).await).await;
    let asked = eventually("the wish to stop", async || {
        let execution = execution_of(&storage, request.id).await;
        match execution.phase {
            ExecutionPhase::Cancelling => Ok(execution),
            phase => Err(format!("{phase:?}")),
        }
    })
    .await;
    let client = storage.client("reader");
    let held = client.request(request.id).await.expect("there");
    assert_eq!(held.phase, RequestPhase::Executing, "until it has ended");
    enter(&storage, asked, ExecutionPhase::Cancelled).await;
    let ended = storage
        .await_request(request.id, RequestPhase::TimedOut)
        .await;
    assert_eq!(
        ended.reason.as_deref(),
        Some("timed out: Executing took longer than it may")
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}

/// Its deadline is days away, so nothing but the end of the holder can have woken it.
#[tokio::test]
async fn a_freed_target_is_taken_at_once() {
    let storage = Storage::start().await;
    storage.publish(&workflow("restart", "Sick", STEPS)).await;
    let service = started_with(&storage, r#"{"busy_seconds": 86400}"#).await;
    let first = storage.analyzed("web", "Sick").await;
    storage
        .await_request(first.id, RequestPhase::Executing)
        .await;
    let second = storage.analyzed("web", "Sick").await;
    storage
        .await_request(second.id, RequestPhase::Blocked)
        .await;
    let execution = execution_of(&storage, first.id).await;
    end(&storage, execution, ExecutionPhase::Completed).await;
    let begun = std::time::Instant::now();
    storage
        .await_request(second.id, RequestPhase::Executing)
        .await;
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    service.stop().await.expect("an orderly end");
    storage.remove().await;
}
