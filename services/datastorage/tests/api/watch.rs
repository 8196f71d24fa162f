//! Watches, the history of a target, and what may be decided once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use common::api::{
    Change, Decision, ExecutionFailure, HistoryQuery, NewApproval, NewExecution, NewWorkflow,
    PatchExecution, PatchRemediationRequest, RemediationRequest, RequestQuery,
};
use common::client::DataStorage;
use common::transitions::{ExecutionPhase, RequestPhase};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use crate::executions::{claim, end};
use crate::helpers::{Service, answer, assert_refused, new_request, new_workflow, to_phase};

/// How long a transition may take to be told.
const WITHIN: Duration = Duration::from_secs(20);

type RequestChange = Change<RequestPhase, RemediationRequest>;

async fn here(client: &DataStorage) -> String {
    let one = RequestQuery {
        limit: Some(1),
        ..Default::default()
    };
    client.requests(&one).await.expect("a list").watch_cursor
}

#[tokio::test]
async fn a_watch_tells_each_transition_in_its_order() {
    let service = Service::start().await;
    let before = service.pending("before").await;
    let reader = service.client("reader");
    let cursor = here(&reader).await;
    let mut all = reader
        .watch_requests(&[], Some(&cursor))
        .await
        .expect("a watch");
    let mut some = reader
        .watch_requests(&[RequestPhase::Analyzing], None)
        .await
        .expect("a watch");
    let request = service.pending("web").await;
    let again = new_request("web");
    let counted = service.client("gateway").create_request(&again).await;
    assert_eq!(counted.expect("counted").value.occurrence_count, 2);
    let request = service
        .moved(&request, "signalprocessing", RequestPhase::Processing)
        .await;
    let request = service
        .moved(&request, "signalprocessing", RequestPhase::Analyzing)
        .await;
    let mut told = Vec::new();
    while told.len() < 3 {
        let change = next(&mut all).await;
        assert_ne!(change.item.id, before.id, "it was there before the cursor");
        assert_eq!(change.item.id, request.id);
        told.push((change.from, change.to));
    }
    assert_eq!(
        told,
        [
            (None, RequestPhase::Pending),
            (Some(RequestPhase::Pending), RequestPhase::Processing),
            (Some(RequestPhase::Processing), RequestPhase::Analyzing),
        ]
    );
    let only = next(&mut some).await;
    assert_eq!((only.to, &only.item), (RequestPhase::Analyzing, &request));
    service.stop().await;
}

async fn next(watch: &mut common::watch::Watch<RequestPhase, RemediationRequest>) -> RequestChange {
    let change = tokio::time::timeout(WITHIN, watch.next()).await;
    change.expect("in time").expect("a change").expect("no end")
}

/// A list and then a watch, with a new connection after every few transitions, while many write in
/// transactions that last and overlap.
#[tokio::test]
async fn sixteen_writers_and_reconnects_and_nothing_is_missed() {
    const WRITERS: usize = 16;
    const EACH: usize = 12;
    let service = Service::start().await;
    let reader = service.client("reader");
    let start = here(&reader).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let gateway = service.client("gateway");
        let processing = service.client("signalprocessing");
        writers.spawn(async move {
            let mut made = Vec::new();
            for index in 0..EACH {
                let new = new_request(&format!("web-{writer}-{index}"));
                let request = gateway.create_request(&new).await.expect("created").value;
                let patch = to_phase(RequestPhase::Processing);
                let moved = processing.patch_request(request.id, 1, &patch).await;
                made.push(moved.expect("moved").id);
            }
            made
        });
    }
    let mut seen: HashMap<Uuid, BTreeSet<RequestPhase>> = HashMap::new();
    let mut cursor = start;
    let mut connections = 0;
    let mut repeated = 0;
    let mut count = 0;
    while count < WRITERS * EACH * 2 {
        connections += 1;
        let mut watch = reader
            .watch_requests(&[], Some(&cursor))
            .await
            .expect("a watch");
        for _ in 0..20 {
            if count == WRITERS * EACH * 2 {
                break;
            }
            let change = next(&mut watch).await;
            if seen.entry(change.item.id).or_default().insert(change.to) {
                count += 1;
            } else {
                repeated += 1;
            }
        }
        watch.cursor().expect("a cursor").clone_into(&mut cursor);
    }
    let mut made = BTreeSet::new();
    while let Some(ids) = writers.join_next().await {
        made.extend(ids.expect("no panic"));
    }
    assert_eq!(made.len(), WRITERS * EACH);
    assert_eq!(seen.keys().copied().collect::<BTreeSet<_>>(), made);
    assert!(connections > 10, "{connections}");
    assert_eq!(repeated, 0, "one watch goes on where the other ended");
    service.stop().await;
}

#[tokio::test]
async fn a_slow_transaction_is_waited_for_and_not_passed_over() {
    let service = Service::start().await;
    let reader = service.client("reader");
    let cursor = here(&reader).await;
    // A row with a lower number than the next one's, not committed yet.
    let mut superuser = service.database.superuser().await;
    let mut slow = sqlx::Connection::begin(&mut superuser)
        .await
        .expect("a transaction");
    let earlier = service.pending("earlier").await;
    sqlx::query("UPDATE remediation_requests SET phase = 'Processing' WHERE id = $1")
        .bind(earlier.id)
        .execute(&mut *slow)
        .await
        .expect("written");
    let later = service.pending("later").await;
    let mut watch = reader
        .watch_requests(&[], Some(&cursor))
        .await
        .expect("a watch");
    slow.commit().await.expect("committed");
    let mut told = Vec::new();
    while told.len() < 3 {
        let change = next(&mut watch).await;
        told.push((change.item.id, change.to));
    }
    let expected = [
        (earlier.id, RequestPhase::Pending),
        (earlier.id, RequestPhase::Processing),
        (later.id, RequestPhase::Pending),
    ];
    assert_eq!(told, expected);
    service.stop().await;
}

#[tokio::test]
async fn watches_are_bounded_and_judged_like_any_request() {
    let service = Service::start().await;
    let path = "/api/v1/remediation-requests/watch";
    let (status, _) = answer(service.anonymous(path)).await;
    assert_eq!(status.as_u16(), 401);
    let bad = format!("{path}?after=t7.1");
    let (status, problem) = answer(service.call("reader", Method::GET, &bad)).await;
    assert_eq!(status.as_u16(), 400, "{problem}");
    let bad = format!("{path}?phase=Nowhere");
    let (status, _) = answer(service.call("reader", Method::GET, &bad)).await;
    assert_eq!(status.as_u16(), 400);
    let reader = service.client("reader");
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(reader.watch_executions(&[], None).await.expect("a watch"));
    }
    assert_refused(reader.watch_requests(&[], None).await, 503, "64 watches");
    drop(open.pop());
    // The place is free as soon as the server has seen the connection close.
    let freed = async {
        while reader.watch_requests(&[], None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(WITHIN, freed).await.expect("a place");
    // None of them keeps the service from ending.
    service.stop().await;
}

#[tokio::test]
async fn lists_say_what_is_due_by_the_databases_clock() {
    let service = Service::start().await;
    let orchestrator = service.client("remediationorchestrator");
    let request = service.pending("web").await;
    let set = PatchRemediationRequest {
        write_id: Uuid::now_v7(),
        phase_deadline_seconds: Some(1),
        deadline_seconds: Some(3600),
        ..Default::default()
    };
    let set = orchestrator.patch_request(request.id, 1, &set).await;
    let set = set.expect("deadlines");
    assert_eq!(set.resource_version, 1);
    let whole = set.deadline.expect("a deadline") - request.created_at;
    assert_eq!(whole.whole_seconds(), 3600);
    let events = service.told(&request.id.to_string()).await;
    assert_eq!(events.len(), 1, "deadlines are no change of state");
    let due = RequestQuery {
        due: true,
        ..Default::default()
    };
    let early = orchestrator
        .patch_request(request.id, 1, &to_phase(RequestPhase::TimedOut))
        .await;
    assert_refused(early, 409, "no deadline of the request has passed");
    let found = async {
        loop {
            let items = orchestrator.requests(&due).await.expect("a list").items;
            if let Some(found) = items.first() {
                return found.clone();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(WITHIN, found).await.expect("due");
    assert_eq!(found.id, request.id);
    let out = service
        .moved(&found, "remediationorchestrator", RequestPhase::TimedOut)
        .await;
    assert_eq!(out.phase, RequestPhase::TimedOut);
    service.stop().await;
}

#[tokio::test]
async fn of_many_decisions_at_once_one_stands() {
    let service = Service::start().await;
    let orchestrator = service.client("remediationorchestrator");
    let workflow = new_workflow("heal");
    let reader = service.client("reader");
    let request = service.ready_to_execute("web", &workflow).await;
    let awaiting = service
        .moved(
            &request,
            "remediationorchestrator",
            RequestPhase::AwaitingApproval,
        )
        .await;
    let mut deciding = tokio::task::JoinSet::new();
    for index in 0..12_u8 {
        let orchestrator = orchestrator.clone();
        let (id, version) = (awaiting.id, awaiting.resource_version);
        let decision = if index % 2 == 0 {
            Decision::Approved
        } else {
            Decision::Rejected
        };
        let patch = PatchRemediationRequest {
            write_id: Uuid::now_v7(),
            approval: Some(NewApproval {
                decision,
                decided_by: format!("person-{index}"),
                reason: "I looked".to_owned(),
            }),
            ..Default::default()
        };
        deciding.spawn(async move { orchestrator.patch_request(id, version, &patch).await });
    }
    let mut stands = Vec::new();
    while let Some(decided) = deciding.join_next().await {
        match decided.expect("no panic") {
            Ok(request) => stands.extend(request.approval),
            Err(error) => assert_eq!(error.status(), Some(412), "{error}"),
        }
    }
    assert_eq!(stands.len(), 1);
    let now = reader.request(awaiting.id).await.expect("there");
    assert_eq!(now.approval, stands.pop());
    let again = PatchRemediationRequest {
        write_id: Uuid::now_v7(),
        approval: Some(NewApproval {
            decision: Decision::Approved,
            decided_by: "late".to_owned(),
            reason: "I looked too".to_owned(),
        }),
        ..Default::default()
    };
    let again = orchestrator
        .patch_request(now.id, now.resource_version, &again)
        .await;
    assert_refused(again, 409, "has decided before");
    service.stop().await;
}

/// Runs the workflow for a request of its own to this end.
async fn executed(service: &Service, workflow: &NewWorkflow, phase: ExecutionPhase) -> Uuid {
    let orchestrator = service.client("remediationorchestrator");
    let executor = service.client("workflowexecution");
    let request = service.ready_to_execute("web", workflow).await;
    let new = NewExecution {
        request_id: request.id,
        parameters: BTreeMap::from([("why".to_owned(), "down".to_owned())]),
        phase_deadline_seconds: Some(60),
    };
    let made = orchestrator.create_execution(request.resource_version, &new);
    let execution = made.await.expect("created").value;
    let claim = claim("a", 30);
    let claimed = executor.patch_execution(execution.id, 1, &claim);
    let claimed = claimed.await.expect("claimed");
    let failure = ExecutionFailure {
        reason: "step_failed".to_owned(),
        step: Some("restart".to_owned()),
        status_code: Some(500),
        exit_code: None,
        message: "a test failed it".to_owned(),
        was_execution_failure: true,
    };
    let end = PatchExecution {
        failure: (phase == ExecutionPhase::Failed).then_some(failure),
        ..end("a", phase)
    };
    let ended = executor.patch_execution(execution.id, claimed.resource_version, &end);
    assert_eq!(ended.await.expect("ended").phase, phase);
    let executing = orchestrator.request(request.id).await.expect("there");
    assert!(executing.phase_deadline.is_some());
    service
        .moved(&executing, "remediationorchestrator", RequestPhase::Failed)
        .await;
    execution.id
}

#[tokio::test]
async fn the_history_of_a_target_tells_what_was_done_and_how_it_ended() {
    let service = Service::start().await;
    let workflow = new_workflow("heal");
    let admin = service.client("admin");
    admin.create_workflow(&workflow).await.expect("published");
    let mut ids = Vec::new();
    for phase in [ExecutionPhase::Completed, ExecutionPhase::Failed] {
        ids.push((executed(&service, &workflow, phase).await, phase));
    }
    let query = HistoryQuery {
        target: "shop/Deployment/web".to_owned(),
        cluster: Some("local".to_owned()),
        limit: None,
    };
    let history = service.client("reader").history(&query).await;
    let history = history.expect("a history");
    let told: Vec<_> = history
        .items
        .iter()
        .map(|item| (item.execution_id, item.phase))
        .collect();
    ids.reverse();
    assert_eq!(told, ids, "latest first");
    assert!(history.items[0].failure.is_some());
    for item in &history.items {
        assert_eq!(
            (item.workflow.as_str(), item.signal.as_str()),
            ("heal", "Down")
        );
        let ended = item.ended_at.expect("an end");
        assert!(item.created_at <= ended && ended <= history.as_of);
    }
    let other = HistoryQuery {
        cluster: Some("elsewhere".to_owned()),
        ..query
    };
    let other = service.client("reader").history(&other).await;
    assert_eq!(other.expect("a history").items, []);
    let path = "/api/v1/remediation-history?target=web";
    let (status, problem) = answer(service.call("reader", Method::GET, path)).await;
    assert_eq!(status.as_u16(), 400, "{}", json!(problem));
    service.stop().await;
}
