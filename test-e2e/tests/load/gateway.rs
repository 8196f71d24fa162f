//! The load of gateway: alerts, one in a webhook, each about a Deployment of its own, so that each
//! makes a request.

use std::collections::HashMap;

use common::api::RemediationRequest;
use serde_json::Value;
use test_e2e::database::{Database, Login};
use test_e2e::load::pgbench::{Pgbench, insert};
use test_e2e::load::{self, Fate, Offered, Pace, Part, Wanted, rows};
use test_e2e::{Scenario, audit, requests, scenario, signals, unique};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Whose alerts they are, in turn: gateway holds back who sends too much alone.
const SENDERS: [&str; 3] = ["alertmanager", "e2e-writer", "e2e-admin"];

/// How many in a second, where nobody asks for another rate.
const RATE: u32 = 200;

#[test]
fn every_alert_that_was_accepted_is_one_request() {
    let scenario = scenario!(Exclusive, "gateway");
    let run = scenario.run();
    let wanted = Wanted::of(run, RATE);
    let mut database = Database::connect(run, Login::Owner);
    let (pgbench, theirs) = (Pgbench::of(run), format!("pgbench-{}", unique()));
    let mut parts = Vec::new();
    for pace in Pace::ALL {
        let ours = format!("load-{}", unique());
        let since = OffsetDateTime::now_utc() - time::Duration::MINUTE;
        let offered = send(&scenario, &ours, &wanted, pace);
        expect_one_request_each(&scenario, &offered, &ours, since);
        let script = script(&mut database, &ours, &theirs);
        parts.push(Part {
            pace,
            service: offered.figures(),
            pgbench: pgbench.run(&script, &wanted, pace),
        });
    }
    rows::remove(&mut database, &theirs);
    load::tell(run, &wanted, &parts);
}

fn send(scenario: &Scenario, prefix: &str, wanted: &Wanted, pace: Pace) -> Offered<String> {
    let posters = SENDERS.map(|subject| {
        let gateway = scenario.api("gateway", subject);
        gateway.poster(signals::ALERTMANAGER)
    });
    let prefix = prefix.to_owned();
    load::offer(wanted, pace, move |index| {
        let turn = usize::try_from(index).unwrap_or(0) % SENDERS.len();
        let (poster, deployment) = (posters[turn].clone(), format!("{prefix}-{index}"));
        async move {
            let alert = signals::deployment_alert(&deployment, "critical");
            let webhook = signals::webhook(std::slice::from_ref(&alert));
            let status = poster.post(&webhook).await;
            (deployment, Fate::of(status, &[201, 202]))
        }
    })
}

/// What was accepted is one request whose chain is intact and says once that the alert came;
/// everything else is one request at the most.
#[track_caller]
fn expect_one_request_each(
    scenario: &Scenario,
    offered: &Offered<String>,
    prefix: &str,
    since: OffsetDateTime,
) {
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let mut made = HashMap::<String, Vec<RemediationRequest>>::new();
    for request in requests::list(&datastorage, "limit=500") {
        if request.target.name.starts_with(prefix) {
            let of_target = made.entry(request.target.name.clone()).or_default();
            of_target.push(request);
        }
    }
    let since = since.format(&Rfc3339).expect("a time");
    let query = format!("event_type=gateway.signal.received&since={since}&limit=1000");
    let mut received = HashMap::<String, usize>::new();
    for event in audit::list(&datastorage, &query) {
        *received.entry(event.event.correlation_id).or_default() += 1;
    }
    for sent in &offered.sent {
        let found = made.get(&sent.what).map_or(&[][..], Vec::as_slice);
        let least = usize::from(sent.fate == Fate::Accepted);
        let count = found.len();
        assert!((least..=1).contains(&count), "{sent:?}: {count} requests");
        for request in found {
            let told = received.get(&request.id.to_string()).copied().unwrap_or(0);
            assert_eq!(request.occurrence_count, 1, "{sent:?}: {request:#?}");
            assert!((least..=1).contains(&told), "{sent:?}: told {told} times");
        }
    }
    let unsent = made.len().saturating_sub(offered.sent.len());
    assert_eq!(unsent, 0, "more requests than alerts");
    let made: Vec<String> = made
        .into_values()
        .flatten()
        .map(|request| request.id.to_string())
        .collect();
    for verdict in audit::verdicts(&datastorage, &made) {
        assert!(verdict.intact, "{verdict:?}");
    }
}

/// What is written for one alert: the request, its signal, the head of its chain, and its events. That
/// the request is new is a row of `changes`, which a trigger writes.
fn script(database: &mut Database, prefix: &str, theirs: &str) -> String {
    let of_ours = format!("target_name LIKE '{prefix}-%'");
    let request = database.row("remediation_requests", &of_ours);
    let id = request["id"].as_str().expect("an ID");
    let signal = database.row("request_signals", &format!("request_id = '{id}'"));
    let head = database.row("audit_chains", &format!("correlation_id = '{id}'"));
    let event = |seq: i64| {
        let condition = format!("correlation_id = '{id}' AND chain_seq = {seq}");
        let event = database.row("audit_events", &condition);
        insert(
            "audit_events",
            &event,
            &[
                ("event_id", "gen_random_uuid()"),
                ("event_timestamp", "now()"),
                ("correlation_id", ":id"),
            ],
        )
    };
    let count = head["last_seq"].as_i64().expect("a number");
    let events: Vec<String> = (1..=count).map(event).collect();
    let name = format!("'{theirs}-' || :client_id");
    let request = insert(
        "remediation_requests",
        &without_times(request),
        &[
            ("id", "gen_random_uuid()"),
            (
                "fingerprint",
                "encode(sha256(gen_random_uuid()::text::bytea), 'hex')",
            ),
            ("target_name", &name),
        ],
    );
    let signal = insert(
        "request_signals",
        &without_times(signal),
        &[("signal_id", "gen_random_uuid()"), ("request_id", ":id")],
    );
    let head = insert("audit_chains", &head, &[("correlation_id", ":id")]);
    let events = events.join(";\n");
    format!("BEGIN;\n{request} RETURNING id \\gset\n{signal};\n{head};\n{events};\nCOMMIT;\n")
}

/// Without what the database itself fills in.
fn without_times(mut row: Value) -> Value {
    let columns = row.as_object_mut().expect("a row");
    for name in ["created_at", "updated_at", "counted_at"] {
        columns.remove(name);
    }
    row
}
