//! What becomes of a signal.

use common::api::Severity;
use common::transitions::RequestPhase;
use serde_json::{Value, json};
use test_e2e::config_map::ConfigFile;
use test_e2e::crowd::together;
use test_e2e::{Look, Scenario, audit, eventually, http, requests, scenario, signals, unique};
use time::{Duration, OffsetDateTime};

fn deployment() -> String {
    format!("web-{}", unique())
}

/// Labels of an alert about a Deployment of this name in `shop`.
fn labels(deployment: &str) -> [(&str, &str); 4] {
    [
        ("alertname", "HighErrorRate"),
        ("severity", "critical"),
        ("namespace", "shop"),
        ("deployment", deployment),
    ]
}

#[test]
fn a_webhook_becomes_a_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let began = OffsetDateTime::now_utc();
    let alert = signals::alert(&labels(&deployment), began);
    let answer = signals::send(&gateway, &alert).expect(201).value();
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(found.len(), 1, "{found:#?}");
    let request = &found[0];
    assert_eq!(answer["request_id"], request.id.to_string());
    assert_eq!(request.fingerprint.len(), 64);
    assert_eq!(
        (request.occurrence_count, request.severity),
        (1, Severity::Critical)
    );
    assert_eq!(request.target.cluster, "local");
    assert_eq!(request.signal.name, "HighErrorRate");
    assert_eq!(request.signal.labels["deployment"], deployment);
    assert_eq!(
        request.signal.annotations["summary"],
        "many answers are errors"
    );
    assert!((request.signal.starts_at.expect("a time") - began).abs() < Duration::MILLISECOND);
    let chain = request.id.to_string();
    let events = audit::chain_events(&datastorage, &chain);
    assert!(
        events.iter().all(|event| event.actor == "gateway"),
        "{events:#?}"
    );
    audit::expect_in_order(&datastorage, &chain, &["gateway.signal.received"]);
    assert!(audit::verdict(&datastorage, &chain).intact);
}

#[test]
fn a_later_signal_about_the_same_target_is_counted() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let now = OffsetDateTime::now_utc();
    let first = signals::alert(&labels(&deployment), now - Duration::MINUTE);
    let first = signals::send(&gateway, &first).expect(201).value();
    let second = signals::send(&gateway, &signals::alert(&labels(&deployment), now));
    let second = second.expect(202).value();
    assert_eq!(second["request_id"], first["request_id"]);
    assert_eq!(second["occurrence_count"], 2);
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!((found.len(), found[0].occurrence_count), (1, 2));
    let types = audit::types(&datastorage, &found[0].id.to_string());
    let count = |wanted: &str| types.iter().filter(|found| *found == wanted).count();
    assert_eq!(count("gateway.signal.received"), 1, "{types:?}");
    assert_eq!(count("gateway.signal.deduplicated"), 1, "{types:?}");
}

#[test]
fn a_resent_signal_counts_once() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let alert = signals::deployment_alert(&deployment, "warning");
    signals::send(&gateway, &alert).expect(201);
    for _ in 0..4 {
        let again = signals::send(&gateway, &alert).expect(202).value();
        assert_eq!(again["occurrence_count"], 1);
    }
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!((found.len(), found[0].occurrence_count), (1, 1));
}

#[test]
fn fifty_identical_signals_at_once_make_one_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let alert = signals::deployment_alert(&deployment, "critical");
    let answers = together(50, |_| signals::send(&gateway, &alert));
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let counted = answers.iter().filter(|answer| answer.status == 202).count();
    assert_eq!((created, counted), (1, 49));
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(
        (found.len(), found[0].occurrence_count),
        (1, 1),
        "{found:#?}"
    );
    for answer in &answers {
        assert_eq!(answer.value()["request_id"], found[0].id.to_string());
    }
}

#[test]
fn ten_pods_of_one_deployment_are_one_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let id = unique();
    let (deployment, set) = (format!("cart-{id}"), format!("cart-{id}-5d8f7c"));
    ConfigFile::of(scenario.run(), "gateway", "inventory.json").add_to_inventory(
        "workloads",
        &[
            json!({"namespace": "shop", "kind": "Deployment", "name": deployment}),
            json!({"namespace": "shop", "kind": "ReplicaSet", "name": set,
                   "owner": {"kind": "Deployment", "name": deployment}}),
            json!({"namespace": "shop", "kind": "Pod", "name": format!("{set}-*"),
                   "owner": {"kind": "ReplicaSet", "name": set}}),
            json!({"namespace": "shop", "kind": "Pod", "name": format!("canary-{id}"),
                   "owner": {"kind": "Deployment", "name": format!("canary-{id}-owner")}}),
        ],
    );
    let pod_alert = |pod: &str| {
        let labels = [
            ("alertname", "PodCrashLooping"),
            ("severity", "warning"),
            ("namespace", "shop"),
            ("pod", pod),
        ];
        signals::alert(&labels, OffsetDateTime::now_utc())
    };
    let within = std::time::Duration::from_secs(20);
    eventually("the inventory with the new workloads", within, || {
        let answer = signals::send(&gateway, &pod_alert(&format!("canary-{id}")));
        match answer.value()["target"]["kind"].as_str() {
            Some("Deployment") => Look::Seen(()),
            _ => Look::NotYet(answer.to_string()),
        }
    });
    let answers = together(10, |index| {
        signals::send(&gateway, &pod_alert(&format!("{set}-x{index}")))
    });
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1, "{answers:#?}");
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(
        (found.len(), found[0].occurrence_count),
        (1, 10),
        "{found:#?}"
    );
    assert!(!found[0].signal.owner_unknown);
}

#[test]
fn a_kubernetes_event_becomes_a_request() {
    const KUBERNETES_EVENT: &str = "/api/v1/signals/kubernetes-event";
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let event = |count: u32| {
        json!({
            "apiVersion": "v1", "kind": "Event", "type": "Warning",
            "metadata": {"name": format!("{deployment}.17a"), "namespace": "shop", "uid": deployment},
            "involvedObject": {"kind": "Deployment", "namespace": "shop", "name": deployment},
            "reason": "FailedCreate", "message": "pods cannot be created", "count": count,
            "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": null,
            "reportingComponent": "a field that nobody here knows",
        })
    };
    let answer = gateway
        .post(KUBERNETES_EVENT, &event(1))
        .expect(201)
        .value();
    // The same event, seen again by Kubernetes: one more occurrence.
    gateway.post(KUBERNETES_EVENT, &event(2)).expect(202);
    gateway.post(KUBERNETES_EVENT, &event(2)).expect(202);
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].id.to_string(), answer["request_id"]);
    assert_eq!(found[0].occurrence_count, 2);
    let signal = &found[0].signal;
    assert_eq!(
        (signal.source.as_str(), signal.name.as_str()),
        ("kubernetes-event", "FailedCreate")
    );
    let chain = found[0].id.to_string();
    audit::expect_in_order(
        &datastorage,
        &chain,
        &["gateway.signal.received", "gateway.signal.deduplicated"],
    );
}

#[test]
fn a_pod_that_nobody_knows_is_its_own_target() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let pod = format!("stranger-{}", unique());
    let labels = [
        ("alertname", "Lost"),
        ("namespace", "shop"),
        ("pod", pod.as_str()),
    ];
    let alert = signals::alert(&labels, OffsetDateTime::now_utc());
    signals::send(&gateway, &alert).expect(201);
    let found = signals::requests_of_kind(&datastorage, "shop", "Pod", &pod);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].signal.owner_unknown,
        "the request says so: {found:#?}"
    );
}

#[test]
fn an_ended_request_lets_a_new_one_begin() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let orchestrator = scenario.api("datastorage", "remediationorchestrator");
    let deployment = deployment();
    let now = OffsetDateTime::now_utc();
    let earlier = signals::alert(&labels(&deployment), now - Duration::MINUTE);
    signals::send(&gateway, &earlier).expect(201);
    let first = &signals::requests_of(&orchestrator, "shop", &deployment)[0];
    requests::step(&orchestrator, first, RequestPhase::Skipped);
    let later = signals::send(&gateway, &signals::alert(&labels(&deployment), now));
    let later = later.expect(201).value();
    assert_ne!(later["request_id"], first.id.to_string());
    let both = signals::requests_of(&orchestrator, "shop", &deployment);
    let phases: Vec<_> = both.iter().map(|request| request.phase).collect();
    assert_eq!(phases, [RequestPhase::Skipped, RequestPhase::Pending]);
}

#[test]
fn a_webhook_of_many_has_an_answer_for_each() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let (known, new) = (deployment(), deployment());
    let known_alert = signals::deployment_alert(&known, "critical");
    signals::send(&gateway, &known_alert).expect(201);
    let now = OffsetDateTime::now_utc();
    let mut elsewhere = labels("web");
    elsewhere[2].1 = "bank";
    let alerts = [
        signals::deployment_alert(&new, "critical"),
        known_alert,
        signals::alert(&elsewhere, now),
        signals::alert(&[("alertname", "Watchdog")], now),
        json!({"status": "burning", "labels": {}}),
    ];
    let answer = gateway.post(signals::ALERTMANAGER, &signals::webhook(&alerts));
    let answer = answer.expect(207).value();
    let results = answer["results"].as_array().expect("results");
    let statuses: Vec<u64> = results
        .iter()
        .filter_map(|result| result["status"].as_u64())
        .collect();
    assert_eq!(statuses, [201, 202, 200, 400, 400], "{answer:#}");
    assert_eq!(signals::requests_of(&datastorage, "shop", &new).len(), 1);
}

#[track_caller]
fn rejections(scenario: &Scenario, mark: &str) -> Vec<Value> {
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let began = OffsetDateTime::now_utc() - Duration::minutes(10);
    let since = began
        .format(&time::format_description::well_known::Rfc3339)
        .expect("a time");
    let query = format!("event_type=gateway.signal.rejected&since={since}&limit=500");
    let events = audit::list(&datastorage, &query);
    let data = events
        .into_iter()
        .map(|event| Value::from(event.event.event_data));
    data.filter(|data| data.to_string().contains(mark))
        .collect()
}

#[test]
fn a_signal_without_a_target_is_refused_and_written_down() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let mark = unique();
    let labels = [("alertname", "Watchdog"), ("mark", mark.as_str())];
    let alert = signals::alert(&labels, OffsetDateTime::now_utc());
    let answer = signals::send(&gateway, &alert);
    answer.expect_problem(400, &["namespace", "deployment", "pod"]);
    assert_eq!(rejections(&scenario, &mark).len(), 1);
    signals::send(&gateway, &alert).expect(400);
    assert_eq!(
        rejections(&scenario, &mark).len(),
        1,
        "a resend is no second rejection"
    );
}

#[test]
fn what_is_no_webhook_is_refused() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let check = |text: &str, words: &[&str]| {
        gateway
            .post_text(signals::ALERTMANAGER, text)
            .expect_problem(400, words);
    };
    check("", &[]);
    check("{", &[]);
    check("[]", &[]);
    check(r#"{"version": "4"}"#, &["alerts"]);
    let mut old = signals::webhook(&[signals::deployment_alert("web", "critical")]);
    old["version"] = json!("3");
    check(&old.to_string(), &["version"]);
    check(&signals::webhook(&[]).to_string(), &["alerts"]);
    let mut strange = signals::webhook(&[signals::deployment_alert(&deployment(), "critical")]);
    strange["aFieldOfTomorrow"] = json!({"deep": [1]});
    strange["alerts"][0]["another"] = json!(true);
    gateway.post(signals::ALERTMANAGER, &strange).expect(201);
}

#[test]
fn a_body_of_more_than_a_mebibyte_is_refused() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let post = |bytes: usize| {
        let alert = signals::deployment_alert(&deployment(), "critical");
        let text = http::padded(&signals::webhook(&[alert]), bytes);
        gateway.post_text(signals::ALERTMANAGER, &text)
    };
    post(1024 * 1024).expect(201);
    post(1024 * 1024 + 1).expect_problem(413, &[]);
}

#[test]
fn tokens_decide_who_may_send() {
    let scenario = scenario!(Shared);
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let alert = signals::deployment_alert(&deployment, "critical");
    signals::send(&scenario.anonymous("gateway"), &alert).expect_problem(401, &[]);
    let stranger = scenario
        .anonymous("gateway")
        .with_token("a-token-that-nobody-has");
    signals::send(&stranger, &alert).expect_problem(401, &[]);
    let reader = scenario.api("gateway", "e2e-reader");
    signals::send(&reader, &alert).expect_problem(403, &["write"]);
    assert_eq!(signals::requests_of(&datastorage, "shop", &deployment), []);
}

#[test]
fn a_namespace_out_of_scope_makes_no_request() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let mut labels = labels(&deployment);
    labels[2].1 = "bank";
    let alert = signals::alert(&labels, OffsetDateTime::now_utc());
    signals::send(&gateway, &alert).expect(200);
    assert_eq!(signals::requests_of(&datastorage, "bank", &deployment), []);
    assert_eq!(rejections(&scenario, &deployment).len(), 1);
}

#[test]
fn an_alert_that_fires_for_thirty_days_is_a_signal_like_any_other() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let began = OffsetDateTime::now_utc() - Duration::days(30);
    signals::send(&gateway, &signals::alert(&labels(&deployment), began)).expect(201);
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(found.len(), 1);
    let told = found[0].signal.starts_at.expect("a time");
    assert!((told - began).abs() < Duration::MILLISECOND);
}

#[test]
fn a_resolved_alert_ends_a_request_that_nobody_has_acted_upon() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let mut alert = signals::deployment_alert(&deployment, "critical");
    signals::send(&gateway, &alert).expect(201);
    alert["status"] = json!("resolved");
    alert["endsAt"] = alert["startsAt"].clone();
    signals::send(&gateway, &alert).expect(200);
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(
        (found.len(), found[0].phase),
        (1, RequestPhase::Skipped),
        "{found:#?}"
    );
    assert!(
        found[0]
            .reason
            .as_deref()
            .is_some_and(|reason| reason.contains("resolved"))
    );
    let types = audit::types(&datastorage, &found[0].id.to_string());
    assert!(
        types.contains(&"gateway.signal.resolved".to_owned()),
        "{types:?}"
    );

    // Of what nobody has seen nothing is made.
    let never = self::deployment();
    let mut alert = signals::deployment_alert(&never, "critical");
    alert["status"] = json!("resolved");
    signals::send(&gateway, &alert).expect(200);
    assert_eq!(signals::requests_of(&datastorage, "shop", &never), []);
}

#[test]
fn a_resolved_alert_does_not_stop_an_execution() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    let mut alert = signals::deployment_alert(&deployment, "critical");
    signals::send(&gateway, &alert).expect(201);
    let request = &signals::requests_of(&datastorage, "shop", &deployment)[0];
    let workflow = test_e2e::workflows::restart("NeverChosen");
    test_e2e::workflows::execute(&scenario, request, &workflow);
    alert["status"] = json!("resolved");
    signals::send(&gateway, &alert).expect(200);
    let after = requests::read(&datastorage, request.id);
    assert_eq!(after.phase, RequestPhase::Executing);
    let types = audit::types(&datastorage, &request.id.to_string());
    assert!(
        types.contains(&"gateway.signal.resolved".to_owned()),
        "{types:?}"
    );
}

#[test]
fn the_highest_severity_is_kept() {
    let scenario = scenario!(Shared);
    let gateway = scenario.api("gateway", "alertmanager");
    let datastorage = scenario.api("datastorage", "e2e-reader");
    let deployment = deployment();
    for severity in ["warning", "critical", "info"] {
        signals::send(&gateway, &signals::deployment_alert(&deployment, severity));
    }
    let found = signals::requests_of(&datastorage, "shop", &deployment);
    assert_eq!(
        (found.len(), found[0].severity),
        (1, Severity::Critical),
        "{found:#?}"
    );
    assert_eq!(found[0].occurrence_count, 3);
}
