//! The executor against the real DataStorage and the real test bed, all in this process. What was
//! done is read from the test bed's journal, not only from our own records.

mod helpers;

use std::time::Duration;

use common::api::{ExecutionFailure, HttpCall, NewWorkflow, PatchExecution};
use common::transitions::ExecutionPhase;
use harness::{Storage, call, workflow};
use helpers::{Bed, await_execution, begun, claimed_by_the_dead, settings, started};
use uuid::Uuid;

const NAME: &str = "workflowexecution";

/// The first call of a workflow.
fn http_of(workflow: &mut NewWorkflow) -> &mut HttpCall {
    workflow.steps[0].http_mut().expect("a call")
}

#[tokio::test]
async fn heals_and_is_seen_in_the_journal() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    bed.call("/break?name=web").await;
    let service = started(&storage, &settings()).await;
    let mut restart = workflow(
        "restart",
        "Sick",
        &[("restart", &bed.url("/restart?name={name}"))],
    );
    restart.probe = Some(call("GET", &bed.url("/healthz?name={name}")));
    let execution = begun(&storage, "web", &restart).await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Completed).await;

    let steps: Vec<(&str, bool, Option<u16>)> = ended
        .steps
        .iter()
        .map(|step| (step.name.as_str(), step.succeeded, step.status_code))
        .collect();
    assert_eq!(
        steps,
        [("restart", true, Some(200)), ("probe", true, Some(200))]
    );
    let key = |step: &str| format!("{}/{step}", execution.id);
    let journal = bed.calls("web").await;
    assert_eq!(
        journal,
        [
            ("restart".to_owned(), key("restart")),
            ("healthz".to_owned(), key("probe"))
        ]
    );
    assert!(bed.healthy("web").await);
    assert_eq!(
        storage.said(execution.request_id, NAME).await,
        [
            "execution.step.completed",
            "execution.step.completed",
            "execution.completed"
        ]
    );
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

/// Runs a workflow to its failure and compares the failure (its message aside), and how many
/// calls the test bed saw.
async fn check_failure(
    workflow: impl FnOnce(&Bed) -> NewWorkflow,
    expected: ExecutionFailure,
    calls: usize,
) {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    bed.call("/break?name=web").await;
    let service = started(&storage, &settings()).await;
    let execution = begun(&storage, "web", &workflow(&bed)).await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Failed).await;
    let failure = ended.failure.expect("a failure");
    assert!(!failure.message.is_empty());
    assert_eq!(
        ExecutionFailure {
            message: String::new(),
            ..failure
        },
        expected
    );
    assert_eq!(bed.calls("web").await.len(), calls);
    let said = storage.said(execution.request_id, NAME).await;
    assert_eq!(said.last().map(String::as_str), Some("execution.failed"));
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

fn failure(reason: &str, step: Option<&str>, status_code: Option<u16>) -> ExecutionFailure {
    ExecutionFailure {
        reason: reason.to_owned(),
        step: step.map(str::to_owned),
        status_code,
        exit_code: None,
        message: String::new(),
        was_execution_failure: true,
    }
}

#[tokio::test]
async fn a_failing_step_ends_it() {
    let steps = |bed: &Bed| {
        let steps = [
            ("fail", bed.url("/fail?name={name}&times=9")),
            ("restart", bed.url("/restart?name={name}")),
        ];
        workflow(
            "fail",
            "Sick",
            &steps.each_ref().map(|(name, url)| (*name, url.as_str())),
        )
    };
    check_failure(steps, failure("step_failed", Some("fail"), Some(503)), 1).await;
}

#[tokio::test]
async fn a_hanging_step_hits_its_deadline_and_is_not_tried_again() {
    let steps = |bed: &Bed| {
        let mut hang = workflow("hang", "Sick", &[("hang", &bed.url("/hang?name={name}"))]);
        http_of(&mut hang).timeout_ms = 300;
        http_of(&mut hang).retries_max = 3;
        hang
    };
    check_failure(steps, failure("step_timed_out", Some("hang"), None), 1).await;
}

#[tokio::test]
async fn the_probe_decides() {
    let steps = |bed: &Bed| {
        let mut useless = workflow(
            "useless",
            "Sick",
            &[("fail", &bed.url("/fail?name={name}&times=0"))],
        );
        let mut probe = call("GET", &bed.url("/healthz?name={name}"));
        probe.timeout_ms = 100;
        useless.probe = Some(probe);
        useless
    };
    check_failure(steps, failure("probe_failed", Some("probe"), Some(503)), 2).await;
}

#[tokio::test]
async fn what_cannot_be_done_to_the_end_is_not_begun() {
    let steps = |bed: &Bed| {
        let mut acting = workflow(
            "acting",
            "Sick",
            &[("restart", &bed.url("/restart?name={name}"))],
        );
        acting.probe = Some(call("POST", &bed.url("/break?name={name}")));
        acting
    };
    let refused = ExecutionFailure {
        was_execution_failure: false,
        ..failure("malformed_workflow", Some("probe"), None)
    };
    check_failure(steps, refused, 0).await;
}

#[tokio::test]
async fn a_listed_status_is_tried_again() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let mut retry = workflow(
        "retry",
        "Sick",
        &[("fail", &bed.url("/fail?name={name}&times=2"))],
    );
    http_of(&mut retry).retries_max = 3;
    http_of(&mut retry).retry_on_status = vec![503];
    let execution = begun(&storage, "web", &retry).await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Completed).await;
    assert_eq!(ended.steps[0].tries, 3);
    let calls = bed.calls("web").await;
    let key = format!("{}/fail", execution.id);
    assert_eq!(calls, vec![("fail".to_owned(), key); 3]);
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn two_replicas_run_each_once() {
    const EXECUTIONS: usize = 12;
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let replicas = [
        started(&storage, &settings()).await,
        started(&storage, &settings()).await,
    ];
    let restart = workflow(
        "restart",
        "Sick",
        &[("restart", &bed.url("/restart?name={name}"))],
    );
    storage.publish(&restart).await;
    let mut executions = Vec::new();
    for index in 0..EXECUTIONS {
        let request = storage.analyzed(&format!("web-{index}"), "Sick").await;
        executions.push(storage.execute(&request, &restart).await);
    }
    for execution in &executions {
        await_execution(&storage, execution.id, ExecutionPhase::Completed).await;
        let key = format!("{}/restart", execution.id);
        let calls = bed.calls(&execution.target.name).await;
        assert_eq!(calls, [("restart".to_owned(), key)]);
    }
    for replica in replicas {
        replica.stop().await.expect("an orderly end");
    }
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn what_a_dead_holder_left_is_ended_and_not_run() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let restart = workflow(
        "restart",
        "Sick",
        &[("restart", &bed.url("/restart?name={name}"))],
    );
    let execution = begun(&storage, "web", &restart).await;
    claimed_by_the_dead(&storage, &execution, 1).await;
    let service = started(&storage, &settings()).await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Failed).await;
    let why = ended.failure.expect("a failure");
    assert_eq!(why.reason, "deadline_exceeded");
    assert!(why.was_execution_failure);
    assert!(bed.calls("web").await.is_empty());
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn cancelling_stops_after_the_step() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let steps = [
        ("hang", bed.url("/hang?name={name}&seconds=1")),
        ("restart", bed.url("/restart?name={name}")),
    ];
    let steps = workflow(
        "slow",
        "Sick",
        &steps.each_ref().map(|(name, url)| (*name, url.as_str())),
    );
    let execution = begun(&storage, "web", &steps).await;
    bed.await_calls("web", 1).await;
    let running = await_execution(&storage, execution.id, ExecutionPhase::Running).await;
    let cancel = PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(ExecutionPhase::Cancelling),
        ..PatchExecution::default()
    };
    storage
        .client("remediationorchestrator")
        .patch_execution(running.id, running.resource_version, &cancel)
        .await
        .expect("cancelling");
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Cancelled).await;
    assert_eq!(ended.steps.len(), 1);
    assert!(ended.steps[0].succeeded);
    assert_eq!(bed.calls("web").await.len(), 1);
    assert_eq!(
        storage.said(execution.request_id, NAME).await,
        ["execution.step.completed", "execution.cancelled"]
    );
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn shut_down_in_the_middle_it_says_so() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let mut hang = workflow("hang", "Sick", &[("hang", &bed.url("/hang?name={name}"))]);
    http_of(&mut hang).timeout_ms = 60_000;
    let execution = begun(&storage, "web", &hang).await;
    bed.await_calls("web", 1).await;
    service.stop().await.expect("an orderly end");
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Failed).await;
    let why = ended.failure.expect("a failure");
    assert_eq!(
        (why.reason.as_str(), why.step.as_deref()),
        ("interrupted", Some("hang"))
    );
    assert!(why.was_execution_failure);
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn datastorage_away_between_two_steps() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let steps = [
        ("hang", bed.url("/hang?name={name}&seconds=1")),
        ("restart", bed.url("/restart?name={name}")),
    ];
    let steps = workflow(
        "slow",
        "Sick",
        &steps.each_ref().map(|(name, url)| (*name, url.as_str())),
    );
    let execution = begun(&storage, "web", &steps).await;
    bed.await_calls("web", 1).await;
    let stopped = storage.stop().await;
    bed.await_answer("web", "hang").await;
    let storage = stopped.start().await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Completed).await;
    assert_eq!(ended.steps.len(), 2);
    assert_eq!(bed.calls("web").await.len(), 2);
    assert_eq!(
        storage.said(execution.request_id, NAME).await,
        [
            "execution.step.completed",
            "execution.step.completed",
            "execution.completed"
        ]
    );
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

#[tokio::test]
async fn an_execution_can_be_read_with_a_token() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let restart = workflow(
        "restart",
        "Sick",
        &[("restart", &bed.url("/restart?name={name}"))],
    );
    let execution = begun(&storage, "web", &restart).await;
    let ended = await_execution(&storage, execution.id, ExecutionPhase::Completed).await;
    let http = reqwest::Client::new();
    let base = format!(
        "http://{}/api/v1/workflow-executions",
        service.addresses.api
    );
    let get = async |id: Uuid, subject: &str| {
        let request = http.get(format!("{base}/{id}"));
        let answer = request.bearer_auth(harness::token(subject)).send().await;
        answer.expect("an answer")
    };
    let answer = get(ended.id, "reader").await;
    assert_eq!(
        answer.json::<common::api::Execution>().await.expect("JSON"),
        ended
    );
    assert_eq!(get(ended.id, "stranger").await.status(), 401);
    assert_eq!(get(Uuid::new_v4(), "reader").await.status(), 404);
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}

/// The claim's deadline counts from before the claim, so a slow claim leaves less, never more.
#[tokio::test]
async fn a_claim_has_holder_and_deadline() {
    let (storage, bed) = (Storage::start().await, Bed::start().await);
    let service = started(&storage, &settings()).await;
    let hang = workflow(
        "hang",
        "Sick",
        &[("hang", &bed.url("/hang?name={name}&seconds=1"))],
    );
    let execution = begun(&storage, "web", &hang).await;
    let running = await_execution(&storage, execution.id, ExecutionPhase::Running).await;
    let holder = running.holder.expect("a holder");
    assert!(holder.starts_with("replica/"), "{holder}");
    let left = running.deadline.expect("a deadline") - running.updated_at;
    // Two seconds for the one try, and the slack.
    assert_eq!(left, Duration::from_secs(2 + 3));
    await_execution(&storage, execution.id, ExecutionPhase::Completed).await;
    service.stop().await.expect("an orderly end");
    bed.stop().await;
    storage.remove().await;
}
