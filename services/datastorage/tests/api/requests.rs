//! Remediation requests: one for each fingerprint, changed only by compare-and-swap, each change
//! with its event.

use std::collections::HashSet;
use std::time::Duration;

use common::api::{PatchRemediationRequest, RemediationRequest, RequestQuery, Severity};
use common::client::DataStorage;
use common::transitions::RequestPhase;
use reqwest::{Method, StatusCode};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::helpers::{Service, answer, assert_refused, new_request, to_phase};

#[tokio::test]
async fn a_request_is_created_and_a_second_signal_counts() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let new = new_request("web");
    let created = client.create_request(&new).await.expect("created");
    assert!(created.is_new);
    let request = created.value;
    assert_eq!(
        (
            request.phase,
            request.resource_version,
            request.occurrence_count
        ),
        (RequestPhase::Pending, 1, 1)
    );
    assert_eq!(request.target, new.target);
    assert_eq!(request.signal, new.signal);

    let mut second = new_request("web");
    second.severity = Severity::Critical;
    let counted = client.create_request(&second).await.expect("counted");
    assert!(!counted.is_new);
    assert_eq!(
        (counted.value.id, counted.value.occurrence_count),
        (request.id, 2)
    );
    assert_eq!(
        (counted.value.severity, counted.value.resource_version),
        (Severity::Critical, 1)
    );
    for resent in [&new, &second] {
        let again = client.create_request(resent).await.expect("resent");
        assert_eq!((again.is_new, again.value.occurrence_count), (false, 2));
    }
    let mut third = new_request("web");
    third.severity = Severity::Info;
    let counted = client.create_request(&third).await.expect("counted").value;
    assert_eq!(
        (counted.severity, counted.occurrence_count),
        (Severity::Critical, 3)
    );
    assert_eq!(client.request(request.id).await.expect("get"), counted);
    let verdict = client.chain(&request.id.to_string()).await.expect("chain");
    assert_eq!(
        (verdict.intact, verdict.event_count),
        (true, 1),
        "a count is no change of state"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_signal_belongs_to_one_fingerprint() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let new = new_request("web");
    client.create_request(&new).await.expect("created");
    let mut other = new_request("other");
    other.signal_id = new.signal_id;
    assert_refused(client.create_request(&other).await, 409, "signal_id");
    service.stop().await;
}

#[tokio::test]
async fn creates_at_once_make_one_request() {
    let service = Service::start().await;
    let mut writers = JoinSet::new();
    for _ in 0..50 {
        let client = service.client("gateway");
        writers.spawn(async move {
            client
                .create_request(&new_request("web"))
                .await
                .expect("answer")
        });
    }
    let answers = writers.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_new).count(), 1);
    let ids: HashSet<Uuid> = answers.iter().map(|answer| answer.value.id).collect();
    assert_eq!(ids.len(), 1);
    let request = service
        .client("reader")
        .request(answers[0].value.id)
        .await
        .expect("get");
    assert_eq!(request.occurrence_count, 50);

    let mut same = JoinSet::new();
    let new = new_request("same");
    for _ in 0..30 {
        let (client, new) = (service.client("gateway"), new.clone());
        same.spawn(async move { client.create_request(&new).await.expect("answer") });
    }
    let answers = same.join_all().await;
    assert_eq!(answers.iter().filter(|answer| answer.is_new).count(), 1);
    assert!(
        answers
            .iter()
            .all(|answer| answer.value.occurrence_count == 1)
    );
    service.stop().await;
}

#[tokio::test]
async fn a_terminal_request_lets_a_new_one_start() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let first = new_request("web");
    let request = client.create_request(&first).await.expect("created").value;
    service
        .moved(&request, "gateway", RequestPhase::Skipped)
        .await;
    let second = client
        .create_request(&new_request("web"))
        .await
        .expect("created");
    assert!(second.is_new);
    assert_ne!(second.value.id, request.id);
    let again = client.create_request(&first).await.expect("resent");
    assert_eq!(
        (again.is_new, again.value.id),
        (false, request.id),
        "a signal stays with its request"
    );
    service.stop().await;
}

#[tokio::test]
async fn a_stale_version_is_412_and_a_resend_gets_the_first_answer() {
    let service = Service::start().await;
    let request = service.pending("web").await;
    let client = service.client("signalprocessing");
    let patch = PatchRemediationRequest {
        lease_seconds: Some(30),
        lease_holder: Some("a".to_owned()),
        ..to_phase(RequestPhase::Processing)
    };
    let first = client
        .patch_request(request.id, 1, &patch)
        .await
        .expect("moved");
    assert_eq!(
        (first.phase, first.resource_version),
        (RequestPhase::Processing, 2)
    );
    assert!(first.lease_deadline.expect("deadline") > first.updated_at);
    assert_refused(
        client
            .patch_request(request.id, 1, &to_phase(RequestPhase::Analyzing))
            .await,
        412,
        "is 2",
    );
    service
        .moved(&first, "signalprocessing", RequestPhase::Analyzing)
        .await;
    let again = client
        .patch_request(request.id, 1, &patch)
        .await
        .expect("resent");
    assert_eq!(again, first);
    let chain = client.chain(&request.id.to_string()).await.expect("chain");
    assert_eq!(chain.event_count, 3);
    service.stop().await;
}

#[tokio::test]
async fn a_write_id_belongs_to_one_write() {
    let service = Service::start().await;
    let (first, second) = (
        service.pending("first").await,
        service.pending("second").await,
    );
    let client = service.client("signalprocessing");
    let patch = to_phase(RequestPhase::Processing);
    let done = client.patch_request(first.id, 1, &patch).await;
    assert_eq!(done.expect("done").resource_version, 2);
    let other = PatchRemediationRequest {
        reason: Some("x".to_owned()),
        ..patch.clone()
    };
    let other = client.patch_request(first.id, 2, &other).await;
    assert_refused(other, 409, "write_id");
    let orchestrator = service.client("remediationorchestrator");
    let other = orchestrator.patch_request(first.id, 2, &patch).await;
    assert_refused(other, 409, "write_id");
    let other = client.patch_request(second.id, 1, &patch).await;
    assert_refused(other, 409, "write_id");
    assert_eq!(client.request(second.id).await.expect("get"), second);
    service.stop().await;
}

#[tokio::test]
async fn illegal_and_foreign_transitions_leave_no_trace() {
    let service = Service::start().await;
    let request = service.pending("web").await;
    let processing = service.client("signalprocessing");
    assert_refused(
        processing
            .patch_request(request.id, 1, &to_phase(RequestPhase::Completed))
            .await,
        409,
        "no transition",
    );
    assert_refused(
        processing
            .patch_request(request.id, 1, &to_phase(RequestPhase::Executing))
            .await,
        409,
        "no transition",
    );
    assert_refused(
        processing
            .patch_request(request.id, 1, &to_phase(RequestPhase::Skipped))
            .await,
        403,
        "not for",
    );
    assert_refused(
        service
            .client("admin")
            .patch_request(request.id, 1, &to_phase(RequestPhase::Skipped))
            .await,
        403,
        "not for",
    );
    assert_refused(
        processing
            .patch_request(Uuid::now_v7(), 1, &to_phase(RequestPhase::Processing))
            .await,
        404,
        "no such",
    );
    let nil = PatchRemediationRequest {
        write_id: Uuid::nil(),
        ..to_phase(RequestPhase::Processing)
    };
    assert_refused(
        processing.patch_request(request.id, 1, &nil).await,
        400,
        "write_id",
    );
    assert_eq!(processing.request(request.id).await.expect("get"), request);
    assert_eq!(
        processing
            .chain(&request.id.to_string())
            .await
            .expect("chain")
            .event_count,
        1
    );
    service.stop().await;
}

#[tokio::test]
async fn one_of_many_compare_and_swaps_wins() {
    let service = Service::start().await;
    let request = service.pending("web").await;
    let mut writers = JoinSet::new();
    for _ in 0..20 {
        let client = service.client("signalprocessing");
        writers.spawn(async move {
            client
                .patch_request(request.id, 1, &to_phase(RequestPhase::Processing))
                .await
        });
    }
    let outcomes = writers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for lost in outcomes.into_iter().filter(Result::is_err) {
        assert_refused(lost, 412, "resource_version");
    }
    assert_eq!(
        service
            .client("reader")
            .chain(&request.id.to_string())
            .await
            .expect("chain")
            .event_count,
        2
    );
    service.stop().await;
}

#[tokio::test]
async fn an_expired_lease_is_retaken_and_a_living_one_is_not() {
    let service = Service::start().await;
    let request = service.pending("web").await;
    let client = service.client("signalprocessing");
    let take = |holder: &str, phase| PatchRemediationRequest {
        write_id: Uuid::now_v7(),
        phase,
        lease_seconds: Some(1),
        lease_holder: Some(holder.to_owned()),
        ..Default::default()
    };
    let processing = Some(RequestPhase::Processing);
    let taken = client
        .patch_request(request.id, 1, &take("a", processing))
        .await
        .expect("taken");
    let deadline = taken.lease_deadline.expect("deadline");
    assert_refused(
        client
            .patch_request(request.id, 2, &take("b", processing))
            .await,
        409,
        "`a` holds",
    );
    let renewed = client
        .patch_request(request.id, 2, &take("a", processing))
        .await
        .expect("renewed");
    assert!(renewed.lease_deadline.expect("deadline") >= deadline);
    let patience = tokio::time::Instant::now() + Duration::from_secs(10);
    let retaken = loop {
        match client
            .patch_request(request.id, 3, &take("b", processing))
            .await
        {
            Ok(retaken) => break retaken,
            Err(error) => assert!(tokio::time::Instant::now() < patience, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(retaken.lease_holder.as_deref(), Some("b"));
    assert!(retaken.updated_at >= renewed.lease_deadline.expect("deadline"));
    service.stop().await;
}

#[tokio::test]
async fn every_change_has_its_event_and_its_actor() {
    let service = Service::start().await;
    let request = service.pending("web").await;
    let moved = service
        .moved(&request, "signalprocessing", RequestPhase::Processing)
        .await;
    let reason = PatchRemediationRequest {
        write_id: Uuid::now_v7(),
        reason: Some("slow".to_owned()),
        ..Default::default()
    };
    let patched = service
        .client("signalprocessing")
        .patch_request(moved.id, 2, &reason)
        .await
        .expect("patched");
    assert_eq!(patched.reason.as_deref(), Some("slow"));
    service
        .moved(&patched, "remediationorchestrator", RequestPhase::Failed)
        .await;
    assert_eq!(
        service.told(&request.id.to_string()).await,
        [
            ["created", "gateway", "Pending"],
            ["transitioned", "signalprocessing", "Processing"],
            ["updated", "signalprocessing", "Processing"],
            ["transitioned", "remediationorchestrator", "Failed"],
        ]
        .map(|[action, actor, to]| [
            format!("datastorage.remediation_request.{action}"),
            actor.to_owned(),
            to.to_owned()
        ])
    );
    service.stop().await;
}

async fn seven(client: &DataStorage) -> Vec<RemediationRequest> {
    let mut requests = Vec::new();
    for index in 0..7 {
        let created = client
            .create_request(&new_request(&format!("web-{index}")))
            .await;
        requests.push(created.expect("created").value);
    }
    requests
}

#[tokio::test]
async fn lists_choose() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let ids = seven(&client).await;
    service
        .moved(&ids[0], "gateway", RequestPhase::Skipped)
        .await;
    let leased = PatchRemediationRequest {
        lease_seconds: Some(60),
        ..to_phase(RequestPhase::Processing)
    };
    let leased = service
        .client("signalprocessing")
        .patch_request(ids[1].id, 1, &leased)
        .await
        .expect("leased");
    assert_eq!(leased.lease_holder.as_deref(), Some("signalprocessing"));

    let list = async |query: RequestQuery| {
        let listed = client.requests(&query).await.expect("list");
        listed.items.iter().map(|item| item.id).collect::<Vec<_>>()
    };
    let two = vec![RequestPhase::Skipped, RequestPhase::Processing];
    assert_eq!(
        list(RequestQuery {
            phase: two,
            ..Default::default()
        })
        .await,
        [ids[0].id, ids[1].id]
    );
    assert_eq!(
        list(RequestQuery {
            fingerprint: Some(ids[4].fingerprint.clone()),
            ..Default::default()
        })
        .await,
        [ids[4].id]
    );
    assert_eq!(
        list(RequestQuery {
            target: Some("shop/Deployment/web-5".to_owned()),
            ..Default::default()
        })
        .await,
        [ids[5].id]
    );
    let deadline = leased.lease_deadline.expect("deadline");
    assert_eq!(
        list(RequestQuery {
            due_before: Some(deadline),
            ..Default::default()
        })
        .await,
        Vec::<Uuid>::new()
    );
    let after = deadline + Duration::from_secs(1);
    assert_eq!(
        list(RequestQuery {
            due_before: Some(after),
            ..Default::default()
        })
        .await,
        [ids[1].id]
    );
    service.stop().await;
}

#[tokio::test]
async fn lists_page_and_refuse_what_they_do_not_understand() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let ids = seven(&client).await;
    let mut query = RequestQuery {
        limit: Some(3),
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = client.requests(&query).await.expect("page");
        assert!(page.items.len() <= 3);
        seen.extend(page.items.iter().map(|item| item.id));
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(
        seen,
        ids.iter().map(|request| request.id).collect::<Vec<_>>()
    );
    for bad in [
        "phase=Sleeping",
        "limit=0",
        "cursor=x",
        "target=a/b",
        "colour=red",
        "due_before=now",
    ] {
        let get = service.call(
            "reader",
            Method::GET,
            &format!("/api/v1/remediation-requests?{bad}"),
        );
        let (status, problem) = answer(get).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        let field = bad.split('=').next().expect("field");
        assert!(
            problem["detail"].as_str().expect("detail").contains(field),
            "{problem}"
        );
    }
    service.stop().await;
}
