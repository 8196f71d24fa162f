//! Audit events and their chains.

use common::api::{AuditBatch, AuditEvent, AuditEvents, EventOutcome};
use serde_json::json;
use test_e2e::crowd::together;
use test_e2e::database::{Database, Login};
use test_e2e::{audit, http, scenario, unique};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

fn chain() -> String {
    format!("e2e-{}", unique())
}

#[test]
fn an_event_is_stored_and_read_back() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let mut event = audit::event(&chain);
    event.resource_type = Some("Deployment".to_owned());
    event.resource_name = Some("web".to_owned());
    event.namespace = Some("shop".to_owned());
    event.severity = Some("critical".to_owned());
    event.duration_ms = Some(17);
    event.parent_event_id = Some(Uuid::now_v7());
    let stored: AuditEvent = audit::post(&api, &event).json();
    assert_eq!((stored.actor.as_str(), stored.chain_seq), ("e2e-writer", 1));
    assert_eq!(stored.previous_hash, "0".repeat(64));
    let read = audit::expect_intact(&api, &chain, 1);
    assert_eq!(read, [stored]);
    let (read, sent) = (&read[0].event, &event);
    assert_eq!(read.event_id, sent.event_id);
    assert_eq!(read.event_data, sent.event_data);
    assert_eq!(read.resource_name, sent.resource_name);
    assert_eq!(read.duration_ms, sent.duration_ms);
    assert_eq!(read.parent_event_id, sent.parent_event_id);
    let lost = sent.event_timestamp - read.event_timestamp;
    assert!(
        !lost.is_negative() && lost < Duration::MICROSECOND,
        "{lost}"
    );
}

#[test]
fn batches_hold_1_to_500_events() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    for count in [1, 500] {
        let chain = chain();
        let batch = audit::batch(&chain, count);
        let answer: AuditEvents = api.post(audit::BATCH, &batch).expect(201).json();
        let sent: Vec<Uuid> = batch.events.iter().map(|event| event.event_id).collect();
        let told: Vec<Uuid> = answer
            .events
            .iter()
            .map(|event| event.event.event_id)
            .collect();
        assert_eq!(told, sent, "the answer is in the order sent");
        audit::expect_intact(&api, &chain, count);
    }
    for count in [0, 501] {
        let chain = chain();
        let batch = audit::batch(&chain, count);
        api.post(audit::BATCH, &batch).expect_problem(400, &["500"]);
        assert_eq!(audit::chain_events(&api, &chain), []);
    }
}

#[test]
fn a_resend_gives_the_first_answer() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let event = audit::event(&chain);
    let first: AuditEvent = audit::post(&api, &event).json();
    let again: AuditEvent = api.post(audit::EVENTS, &event).expect(200).json();
    assert_eq!(first, again);
    let batch = audit::batch(&chain, 3);
    let first: AuditEvents = api.post(audit::BATCH, &batch).expect(201).json();
    let again: AuditEvents = api.post(audit::BATCH, &batch).expect(200).json();
    assert_eq!(first.events, again.events);
    audit::expect_intact(&api, &chain, 4);
}

#[test]
fn a_resend_with_another_body_is_a_conflict() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let first = audit::event(&chain);
    audit::post(&api, &first);
    let mut other = first.clone();
    other.event_action = "rewritten".to_owned();
    api.post(audit::EVENTS, &other)
        .expect_problem(409, &["another body"]);

    // In a batch the conflict is named by its index, and the rest is not stored either.
    let events = vec![audit::event(&chain), audit::event(&chain), other];
    let answer = api.post(audit::BATCH, &AuditBatch { events });
    let answer = answer.expect_problem(409, &[]);
    assert_eq!(answer.value()["conflicts"], json!([2]), "{answer}");
    let twice = audit::event(&chain);
    let events = vec![twice.clone(), audit::event(&chain), twice];
    api.post(audit::BATCH, &AuditBatch { events })
        .expect_problem(400, &[]);
    audit::expect_intact(&api, &chain, 1);
}

#[test]
fn a_batch_may_hold_what_is_stored_already() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let stored = audit::event(&chain);
    let first: AuditEvent = audit::post(&api, &stored).json();
    let events = vec![audit::event(&chain), stored, audit::event(&chain)];
    let answer: AuditEvents = api
        .post(audit::BATCH, &AuditBatch { events })
        .expect(201)
        .json();
    assert_eq!(answer.events[1], first);
    audit::expect_intact(&api, &chain, 3);
}

#[test]
fn three_thousand_events_are_paged_and_filtered_without_gap_or_duplicate() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let (category, begin) = (format!("e2e{}", unique()), OffsetDateTime::now_utc());
    let chains = [chain(), chain(), chain()];
    let mut sent = Vec::new();
    for index in 0..3000_usize {
        let mut event = audit::event(&chains[index % 3]);
        event.event_category.clone_from(&category);
        event.event_type = format!("e2e.paging.kind{}", index % 5);
        event.event_timestamp = begin - Duration::seconds(i64::try_from(index / 10).unwrap_or(0));
        if index % 7 == 0 {
            event.event_outcome = EventOutcome::Failure;
        }
        sent.push(event);
    }
    audit::store(&api, &sent);

    let check = |query: &str, expected: &mut dyn Iterator<Item = usize>| {
        let found = audit::list(&api, query);
        let mut found: Vec<Uuid> = found.iter().map(|event| event.event.event_id).collect();
        let mut expected: Vec<Uuid> = expected.map(|index| sent[index].event_id).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found.len(), expected.len(), "{query}");
        assert_eq!(found, expected, "{query}");
    };
    let of = format!("event_category={category}");
    check(&format!("{of}&limit=1000"), &mut (0..3000));
    check(&format!("{of}&limit=97"), &mut (0..3000));
    check(
        &format!("correlation_id={}&limit=331", chains[1]),
        &mut (1..3000).step_by(3),
    );
    check(
        &format!("{of}&event_type=e2e.paging.kind4&limit=100"),
        &mut (4..3000).step_by(5),
    );
    check(
        &format!("{of}&event_outcome=failure&limit=100"),
        &mut (0..3000).step_by(7),
    );
    let cut = (begin - Duration::seconds(100))
        .replace_nanosecond(0)
        .expect("a time");
    let text = cut
        .format(&time::format_description::well_known::Rfc3339)
        .expect("a time");
    let before = |index: usize| sent[index].event_timestamp < cut;
    check(
        &format!("{of}&until={text}&limit=500"),
        &mut (0..3000).filter(|i| before(*i)),
    );
    check(
        &format!("{of}&since={text}&limit=500"),
        &mut (0..3000).filter(|i| !before(*i)),
    );
    api.get(&format!("{}?limit=1001", audit::EVENTS))
        .expect_problem(400, &["limit"]);
    api.get(&format!("{}?cursor=nonsense", audit::EVENTS))
        .expect_problem(400, &["cursor"]);
    for chain in &chains {
        audit::expect_intact(&api, chain, 1000);
    }
}

#[test]
fn eighty_writers_share_a_chain() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    together(80, |_| audit::post(&api, &audit::event(&chain)));
    audit::expect_intact(&api, &chain, 80);
}

#[test]
fn batches_over_the_same_chains_in_any_order_do_not_deadlock() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chains: Vec<String> = (0..20).map(|_| chain()).collect();
    together(16, |_| {
        for _ in 0..5 {
            let mut shuffled = chains.clone();
            shuffled.sort_by_key(|_| Uuid::new_v4());
            let events = shuffled.iter().map(|chain| audit::event(chain)).collect();
            api.post(audit::BATCH, &AuditBatch { events }).expect(201);
        }
    });
    for chain in &chains {
        audit::expect_intact(&api, chain, 80);
    }
}

#[test]
fn a_row_changed_behind_its_back_is_found() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let mut database = Database::connect(scenario.run(), Login::Owner);
    let changes = [
        "event_data = event_data || '{\"note\": \"forged\"}'",
        "actor = 'somebody'",
        "event_timestamp = event_timestamp + interval '1 microsecond'",
        "event_outcome = 'failure'",
        "hash = repeat('0', 64)",
    ];
    for change in changes {
        let chain = chain();
        audit::store(&api, &audit::batch(&chain, 5).events);
        assert!(audit::verdict(&api, &chain).intact);
        database.run_without_triggers(&format!(
            "UPDATE audit_events SET {change} WHERE correlation_id = '{chain}' AND chain_seq = 3"
        ));
        let verdict = audit::verdict(&api, &chain);
        assert!(!verdict.intact, "{change}: {verdict:?}");
        assert_eq!(verdict.first_broken_seq, Some(3), "{change}: {verdict:?}");
    }
}

#[test]
fn rows_cut_out_behind_its_back_are_found() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let mut database = Database::connect(scenario.run(), Login::Owner);
    for (cut, broken) in [
        ("chain_seq > 3", 4),
        ("chain_seq = 2", 2),
        ("chain_seq > 0", 1),
    ] {
        let chain = chain();
        audit::store(&api, &audit::batch(&chain, 5).events);
        database.run_without_triggers(&format!(
            "DELETE FROM audit_events WHERE correlation_id = '{chain}' AND {cut}"
        ));
        let verdict = audit::verdict(&api, &chain);
        assert!(!verdict.intact, "{cut}: {verdict:?}");
        assert_eq!(verdict.first_broken_seq, Some(broken), "{cut}: {verdict:?}");
    }
}

#[test]
fn the_database_itself_refuses_to_change_what_is_stored() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    audit::store(&api, &audit::batch(&chain, 2).events);
    for login in [Login::Owner, Login::Service] {
        let mut database = Database::connect(scenario.run(), login);
        let changes = [
            format!("UPDATE audit_events SET actor = 'x' WHERE correlation_id = '{chain}'"),
            format!("DELETE FROM audit_events WHERE correlation_id = '{chain}'"),
            "TRUNCATE audit_events".to_owned(),
        ];
        for change in changes {
            let refused = database.try_run(&change);
            assert!(refused.is_err(), "{login:?}: {change}: {refused:?}");
        }
    }
    let mut database = Database::connect(scenario.run(), Login::Service);
    let refused = database.try_run("ALTER TABLE audit_events DISABLE TRIGGER ALL");
    assert!(refused.is_err(), "{refused:?}");
    audit::expect_intact(&api, &chain, 2);
}

#[test]
fn what_cannot_be_stored_is_refused_with_the_reason() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let good = serde_json::to_value(audit::event(&chain)).expect("JSON");
    let with = |field: &str, value: serde_json::Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed.to_string()
    };
    let without = |field: &str| {
        let mut changed = good.clone();
        let object = changed.as_object_mut().expect("an object");
        object.remove(field);
        changed.to_string()
    };
    let mut deep = json!("bottom");
    for _ in 0..12 {
        deep = json!({"down": deep});
    }
    let check = |text: &str, words: &[&str]| {
        api.post_text(audit::EVENTS, text)
            .expect_problem(400, words);
    };
    check("{", &[]);
    check(&with("surprise", json!(1)), &["surprise"]);
    check(&without("event_type"), &["event_type"]);
    check(&with("event_outcome", json!("perhaps")), &["event_outcome"]);
    check(&with("event_data", json!([1])), &["event_data"]);
    check(&with("event_data", deep), &["event_data"]);
    check(&with("event_data", json!({"text": "a\u{0}b"})), &["NUL"]);
    check(
        &with("event_timestamp", json!("2019-01-01T00:00:00Z")),
        &["event_timestamp"],
    );
    check(
        &with("event_timestamp", json!("2099-01-01T00:00:00Z")),
        &["event_timestamp"],
    );
    check(
        &with("event_data", json!({"text": "x".repeat(300 * 1024)})),
        &["event_data"],
    );
    check(
        &good
            .to_string()
            .replace("\"note\":", "\"note\": 1, \"note\":"),
        &["note"],
    );
    assert_eq!(audit::chain_events(&api, &chain), []);
}

#[test]
fn bodies_are_bounded() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-writer");
    let chain = chain();
    let (one, many) = (1024 * 1024, 8 * 1024 * 1024);
    let event = |bytes| api.post_text(audit::EVENTS, &http::padded(&audit::event(&chain), bytes));
    let batch = |bytes| api.post_text(audit::BATCH, &http::padded(&audit::batch(&chain, 2), bytes));
    event(one).expect(201);
    event(one + 1).expect_problem(413, &[]);
    batch(many).expect(201);
    batch(many + 1).expect_problem(413, &[]);
    audit::expect_intact(&api, &chain, 3);
}

#[test]
fn tokens_decide_who_may_look_and_who_may_write() {
    let scenario = scenario!(Shared);
    let event = audit::event(&chain());
    let list = format!("{}?correlation_id={}", audit::EVENTS, event.correlation_id);
    let nobody = scenario.anonymous("datastorage");
    nobody.get(&list).expect_problem(401, &[]);
    nobody.post(audit::EVENTS, &event).expect_problem(401, &[]);
    let stranger = scenario
        .anonymous("datastorage")
        .with_token("a-token-that-nobody-has");
    stranger
        .post(audit::EVENTS, &event)
        .expect_problem(401, &[]);
    for subject in ["e2e-reader", "e2e-approver"] {
        let reader = scenario.api("datastorage", subject);
        reader
            .post(audit::EVENTS, &event)
            .expect_problem(403, &["write"]);
        reader.get(&list).expect(200);
    }
    for subject in ["e2e-writer", "e2e-admin"] {
        let writer = scenario.api("datastorage", subject);
        let event = audit::event(&event.correlation_id);
        let stored: AuditEvent = audit::post(&writer, &event).json();
        assert_eq!(stored.actor, subject);
    }
}
