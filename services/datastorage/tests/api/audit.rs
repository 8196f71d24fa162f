//! Audit events: storing, resending, listing, and chains that hold under load and show damage.

use std::collections::HashSet;

use common::api::{AuditBatch, AuditEvent, AuditQuery, EventOutcome, NewAuditEvent};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use time::Duration;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::helpers::{Service, answer, assert_refused, event};

fn batch(events: Vec<NewAuditEvent>) -> AuditBatch {
    AuditBatch { events }
}

#[tokio::test]
async fn what_is_stored_is_what_was_sent() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let sent = event("stored");
    let stored = client.record(&sent).await.expect("stored");
    assert_eq!((stored.chain_seq, stored.actor.as_str()), (1, "gateway"));

    let query = AuditQuery {
        correlation_id: Some("stored".to_owned()),
        ..Default::default()
    };
    let listed = service
        .client("reader")
        .audit_events(&query)
        .await
        .expect("list");
    let form = |event: &AuditEvent| common::canonical::to_bytes(event).expect("form");
    assert_eq!(listed.events.len(), 1);
    assert_eq!(form(&listed.events[0]), form(&stored));
    assert_eq!(listed.events[0].event.event_data["ratio"], 0.1);
    assert!(client.chain("stored").await.expect("chain").intact);
    service.stop().await;
}

#[tokio::test]
async fn a_resend_gets_the_stored_event_and_another_body_is_a_conflict() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let sent = event("resend");
    let first = client.record(&sent).await.expect("stored");
    let post = |body: Value| {
        service
            .call("gateway", Method::POST, "/api/v1/audit/events")
            .json(&body)
    };
    let (status, again) = answer(post(json!(sent))).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(again["hash"], json!(first.hash));

    let other = NewAuditEvent {
        event_action: "else".to_owned(),
        ..sent.clone()
    };
    assert_refused(client.record(&other).await, 409, "event_id");
    let elsewhere = NewAuditEvent {
        correlation_id: "elsewhere".to_owned(),
        ..sent.clone()
    };
    assert_refused(client.record(&elsewhere).await, 409, "event_id");
    assert_refused(service.client("admin").record(&sent).await, 409, "event_id");
    assert_eq!(client.chain("resend").await.expect("chain").event_count, 1);
    service.stop().await;
}

#[tokio::test]
async fn a_resend_is_recognised_before_its_time_is_judged() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let sent = event("late");
    client.record(&sent).await.expect("stored");
    // Eight days pass: the event's time is in its hash, so everything is aged by hand.
    let mut late = sent.clone();
    late.event_timestamp -= Duration::days(8);
    assert_refused(
        client
            .record(&NewAuditEvent {
                event_id: Uuid::now_v7(),
                ..late.clone()
            })
            .await,
        400,
        "7 days",
    );
    let mut superuser = service.database.superuser().await;
    behind_its_back(
        &mut superuser,
        "UPDATE audit_events SET event_timestamp = event_timestamp - interval '8 days'",
    )
    .await;
    client.record(&late).await.expect("a resend");
    service.stop().await;
}

#[tokio::test]
async fn times_outside_the_window_are_refused() {
    let service = Service::start().await;
    let client = service.client("gateway");
    for (offset, says) in [
        (Duration::minutes(6), "5 minutes"),
        (Duration::days(-8), "7 days"),
    ] {
        let mut late = event("window");
        late.event_timestamp += offset;
        assert_refused(client.record(&late).await, 400, says);
    }
    assert_refused(client.chain("window").await, 404, "no such chain");
    service.stop().await;
}

#[tokio::test]
async fn batches_of_1_and_500_are_stored_and_0_and_501_are_not() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let events = |count: usize| (0..count).map(|_| event("batch")).collect::<Vec<_>>();
    assert_eq!(
        client
            .record_batch(&batch(events(1)))
            .await
            .expect("one")
            .events
            .len(),
        1
    );
    let sent = events(500);
    let stored = client
        .record_batch(&batch(sent.clone()))
        .await
        .expect("500")
        .events;
    let ids = |events: &[NewAuditEvent]| events.iter().map(|e| e.event_id).collect::<Vec<_>>();
    assert_eq!(
        stored.iter().map(|e| e.event.event_id).collect::<Vec<_>>(),
        ids(&sent)
    );
    assert_eq!(stored.last().expect("last").chain_seq, 501);
    assert_refused(client.record_batch(&batch(events(501))).await, 400, "501");
    assert_refused(
        client.record_batch(&batch(Vec::new())).await,
        400,
        "events: 0",
    );
    let verdict = client.chain("batch").await.expect("chain");
    assert_eq!((verdict.intact, verdict.event_count), (true, 501));
    service.stop().await;
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let stored = event("whole");
    client.record(&stored).await.expect("stored");
    let conflicting = NewAuditEvent {
        event_outcome: EventOutcome::Failure,
        ..stored.clone()
    };
    let sent = batch(vec![event("whole"), conflicting, event("whole")]);
    let refused = client.record_batch(&sent).await.expect_err("a conflict");
    match &refused {
        common::client::ClientError::Problem {
            status: 409,
            extensions,
            ..
        } => {
            assert_eq!(extensions["conflicts"], json!([1]));
        }
        other => panic!("409 expected: {other:?}"),
    }
    assert_eq!(client.chain("whole").await.expect("chain").event_count, 1);

    let new = event("whole");
    let mixed = client
        .record_batch(&batch(vec![stored.clone(), new]))
        .await
        .expect("mixed");
    assert_eq!(
        mixed.events.iter().map(|e| e.chain_seq).collect::<Vec<_>>(),
        [1, 2]
    );
    let twice = event("whole");
    let twice = client
        .record_batch(&batch(vec![twice.clone(), twice]))
        .await;
    assert_refused(twice, 400, "events[1].event_id");
    let mut early = event("whole");
    early.event_timestamp += Duration::hours(1);
    assert_refused(
        client
            .record_batch(&batch(vec![event("whole"), early]))
            .await,
        400,
        "events[1].event_timestamp",
    );
    assert_eq!(client.chain("whole").await.expect("chain").event_count, 2);
    service.stop().await;
}

#[tokio::test]
async fn pages_have_no_gap_and_no_duplicate() {
    let service = Service::start().await;
    let client = service.client("gateway");
    // Many share a time, so that the order needs the ID too.
    let mut sent = HashSet::new();
    for round in 0..6 {
        let at = event("x").event_timestamp - Duration::seconds(round);
        let make = |index: usize| NewAuditEvent {
            event_timestamp: at,
            ..event(&format!("page-{}", index % 7))
        };
        let events: Vec<NewAuditEvent> = (0..500).map(make).collect();
        sent.extend(events.iter().map(|event| event.event_id));
        client.record_batch(&batch(events)).await.expect("stored");
    }
    let mut seen = Vec::new();
    let mut query = AuditQuery {
        limit: Some(170),
        ..Default::default()
    };
    loop {
        let page = client.audit_events(&query).await.expect("page");
        seen.extend(page.events.iter().map(|event| event.event.event_id));
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 3000);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>(), sent);

    let mut query = AuditQuery {
        limit: Some(100),
        correlation_id: Some("page-0".to_owned()),
        ..Default::default()
    };
    let mut seqs = Vec::new();
    loop {
        let page = client.audit_events(&query).await.expect("page");
        seqs.extend(page.events.iter().map(|event| event.chain_seq));
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    assert_eq!(seqs, (1..=432).collect::<Vec<_>>());
    service.stop().await;
}

#[tokio::test]
async fn a_page_ends_at_eight_mebibytes() {
    let service = Service::start().await;
    let client = service.client("gateway");
    for _ in 0..2 {
        let large = |_| {
            let mut event = event("large");
            event
                .event_data
                .insert("x".to_owned(), json!("x".repeat(250 * 1024)));
            event
        };
        client
            .record_batch(&batch((0..20).map(large).collect()))
            .await
            .expect("stored");
    }
    let mut query = AuditQuery {
        limit: Some(1000),
        ..Default::default()
    };
    let first = client.audit_events(&query).await.expect("page");
    assert_eq!(
        first.events.len(),
        32,
        "32 times 250 KiB and what belongs to it"
    );
    query.cursor = Some(first.next_cursor.expect("more"));
    let second = client.audit_events(&query).await.expect("page");
    assert_eq!((second.events.len(), second.next_cursor), (8, None));
    service.stop().await;
}

#[tokio::test]
async fn filters_choose() {
    let service = Service::start().await;
    let client = service.client("gateway");
    let base = event("filter");
    let since = base.event_timestamp - Duration::hours(1);
    let mut sent = vec![base; 5];
    for event in &mut sent {
        event.event_id = Uuid::now_v7();
    }
    sent[1].event_timestamp -= Duration::hours(2);
    sent[2].event_outcome = EventOutcome::Failure;
    sent[3].event_type = "gateway.signal.rejected".to_owned();
    sent[4].event_category = "other".to_owned();
    client
        .record_batch(&batch(sent.clone()))
        .await
        .expect("stored");

    let since = since
        .format(&time::format_description::well_known::Rfc3339)
        .expect("time");
    let cases: [(Value, &[usize]); 6] = [
        (json!({"event_outcome": "failure"}), &[2]),
        (json!({"event_type": "gateway.signal.rejected"}), &[3]),
        (json!({"event_category": "other"}), &[4]),
        (json!({"until": since}), &[1]),
        (json!({"correlation_id": "none"}), &[]),
        (
            json!({"since": since, "correlation_id": "filter"}),
            &[0, 2, 3, 4],
        ),
    ];
    for (query, expected) in cases {
        let parsed: AuditQuery = serde_json::from_value(query.clone()).expect("query");
        let listed = client.audit_events(&parsed).await.expect("list").events;
        let ids: Vec<Uuid> = listed.iter().map(|event| event.event.event_id).collect();
        let expected: Vec<Uuid> = expected.iter().map(|index| sent[*index].event_id).collect();
        assert_eq!(ids, expected, "{query}");
    }
    service.stop().await;
}

#[tokio::test]
async fn eighty_writers_on_one_chain_leave_it_gapless() {
    let service = Service::start().await;
    let mut writers = JoinSet::new();
    for _ in 0..80 {
        let client = service.client("gateway");
        writers.spawn(async move {
            client
                .record(&event("crowd"))
                .await
                .expect("stored")
                .chain_seq
        });
    }
    let mut seqs = writers.join_all().await;
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=80).collect::<Vec<_>>());
    let verdict = service
        .client("reader")
        .chain("crowd")
        .await
        .expect("chain");
    assert_eq!((verdict.intact, verdict.event_count), (true, 80));
    service.stop().await;
}

#[tokio::test]
async fn batches_over_the_same_chains_in_any_order_leave_all_intact() {
    const CHAINS: usize = 20;
    const ROUNDS: usize = 5;
    let service = Service::start().await;
    let mut writers = JoinSet::new();
    for _ in 0..16 {
        let client = service.client("gateway");
        writers.spawn(async move {
            for _ in 0..ROUNDS {
                let mut events: Vec<_> = (0..CHAINS)
                    .map(|chain| event(&format!("chain-{chain}")))
                    .collect();
                // The bits of a random UUID are a random order.
                events.sort_by_key(|_| Uuid::new_v4());
                client.record_batch(&batch(events)).await.expect("stored");
            }
        });
    }
    writers.join_all().await;
    for chain in 0..CHAINS {
        let verdict = service
            .client("reader")
            .chain(&format!("chain-{chain}"))
            .await
            .expect("chain");
        assert_eq!(
            (verdict.intact, verdict.event_count),
            (true, 80),
            "{verdict:?}"
        );
    }
    service.stop().await;
}

#[tokio::test]
async fn one_event_sent_by_many_at_once_is_stored_once() {
    let service = Service::start().await;
    let sent = event("same");
    let mut writers = JoinSet::new();
    for index in 0..20 {
        let client = service.client("gateway");
        // Half of them say that it belongs to another chain: one side wins, the other has a conflict.
        let correlation_id = if index % 2 == 0 { "same" } else { "other" };
        let sent = NewAuditEvent {
            correlation_id: correlation_id.to_owned(),
            ..sent.clone()
        };
        writers.spawn(async move {
            match client.record(&sent).await {
                Ok(stored) => Some(stored.event.correlation_id),
                Err(error) if error.status() == Some(409) => None,
                Err(error) => panic!("{error}"),
            }
        });
    }
    let outcomes = writers.join_all().await;
    let winners: HashSet<_> = outcomes.iter().flatten().collect();
    assert_eq!(winners.len(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().flatten().count(), 10);
    service.stop().await;
}

/// Runs as the superuser, with the triggers off.
async fn behind_its_back(superuser: &mut PgConnection, statement: &str) {
    let all = format!(
        "SET session_replication_role = replica; {statement}; SET session_replication_role = origin"
    );
    sqlx::raw_sql(AssertSqlSafe(all))
        .execute(superuser)
        .await
        .expect(statement);
}

async fn check_damage(damage: &str, broken_at: i64, says: &str) {
    let service = Service::start().await;
    let client = service.client("gateway");
    for _ in 0..5 {
        client.record(&event("damaged")).await.expect("stored");
    }
    assert!(client.chain("damaged").await.expect("chain").intact);
    behind_its_back(&mut service.database.superuser().await, damage).await;
    let verdict = client.chain("damaged").await.expect("chain");
    assert!(!verdict.intact, "{damage}");
    assert_eq!(
        verdict.first_broken_seq,
        Some(broken_at),
        "{damage}: {verdict:?}"
    );
    let reason = verdict.reason.expect("a reason");
    assert!(reason.contains(says), "{damage}: {reason}");
    service.stop().await;
}

#[tokio::test]
async fn a_changed_row_is_found() {
    let data =
        r#"UPDATE audit_events SET event_data = event_data || '{"count": 2}' WHERE chain_seq = 3"#;
    check_damage(data, 3, "does not follow").await;
    check_damage(
        "UPDATE audit_events SET actor = 'someone' WHERE chain_seq = 2",
        2,
        "does not follow",
    )
    .await;
    check_damage(
        "UPDATE audit_events SET event_timestamp = 'infinity' WHERE chain_seq = 4",
        4,
        "not an event",
    )
    .await;
    check_damage(
        "UPDATE audit_events SET severity = 'low' WHERE chain_seq = 1",
        1,
        "does not follow",
    )
    .await;
}

#[tokio::test]
async fn a_removed_row_is_found() {
    check_damage("DELETE FROM audit_events WHERE chain_seq = 3", 3, "missing").await;
    check_damage(
        "DELETE FROM audit_events WHERE chain_seq >= 4",
        4,
        "the head says",
    )
    .await;
    check_damage("DELETE FROM audit_events", 1, "the head says").await;
    check_damage("DELETE FROM audit_chains", 1, "no head").await;
    let cut = "DELETE FROM audit_events WHERE chain_seq = 5; UPDATE audit_chains SET last_seq = 4";
    check_damage(cut, 4, "another hash").await;
}

#[tokio::test]
async fn the_database_itself_refuses_changes() {
    let service = Service::start().await;
    service
        .client("gateway")
        .record(&event("append-only"))
        .await
        .expect("stored");
    let statements = [
        "UPDATE audit_events SET actor = 'x'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
    ];
    let mut superuser = service.database.superuser().await;
    let mut service_role = service.database.service_role().await;
    for statement in statements {
        let error = sqlx::query(statement)
            .execute(&mut superuser)
            .await
            .expect_err(statement);
        assert!(error.to_string().contains("append-only"), "{error}");
        let error = sqlx::query(statement)
            .execute(&mut service_role)
            .await
            .expect_err(statement);
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
    service.stop().await;
}

#[tokio::test]
async fn what_datastorage_writes_itself_is_refused_from_others() {
    let service = Service::start().await;
    let own = NewAuditEvent {
        event_type: "datastorage.remediation_request.created".to_owned(),
        ..event("own")
    };
    assert_refused(
        service.client("admin").record(&own).await,
        403,
        "event_type",
    );
    assert_refused(
        service
            .client("gateway")
            .record_batch(&batch(vec![event("own"), own]))
            .await,
        403,
        "events[1].event_type",
    );
    service.stop().await;
}

#[tokio::test]
async fn what_cannot_be_hashed_alike_again_is_refused() {
    let service = Service::start().await;
    let good = serde_json::to_string(&event("strict")).expect("JSON");
    for (from, to, says) in [
        (r#""count":1"#, r#""count":1,"count":2"#, "twice"),
        (r#""count":1"#, r#""count":9007199254740993"#, "2^53"),
        (r#""count":1"#, r#""count":"\u0000""#, "NUL"),
        (
            r#""version":"1.0""#,
            r#""version":"1.0","colour":"red""#,
            "colour",
        ),
        (r#""version":"1.0""#, r#""version":1"#, "version"),
    ] {
        let body = good.replacen(from, to, 1);
        assert_ne!(body, good);
        let post = service.call("gateway", Method::POST, "/api/v1/audit/events");
        let (status, problem) =
            answer(post.header("content-type", "application/json").body(body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{to}");
        let detail = problem["detail"].as_str().expect("detail");
        assert!(detail.contains(says), "{detail}");
    }
    service.stop().await;
}
