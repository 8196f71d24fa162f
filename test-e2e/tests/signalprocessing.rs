//! Signalprocessing, end to end: a pending request is enriched from the inventory and, on Kubernetes,
//! from its API, classified by the policy, and handed on once. The tests make requests as gateway would.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::api::{Classification, NewRemediationRequest, RemediationRequest, Severity, Target};
use common::transitions::RequestPhase;
use serde_json::json;
use test_e2e::config_map::ConfigFile;
use test_e2e::crowd::{together, under_load};
use test_e2e::metrics::Metrics;
use test_e2e::{
    Look, Scenario, audit, eventually, fault, http, requests, scenario, scenario_with_kubernetes,
    scenario_with_node, scenario_with_replicas, unique,
};
use time::OffsetDateTime;

/// Longer than a lease, so that one that was lost is retaken meanwhile.
const WITHIN: Duration = Duration::from_secs(40);

/// What signalprocessing writes of a request; the moves themselves are written by DataStorage.
const FINDINGS: [&str; 2] = ["signal.enriched", "classification.decided"];

fn target(namespace: &str) -> Target {
    Target {
        namespace: namespace.to_owned(),
        ..requests::target()
    }
}

fn create(scenario: &Scenario, target: &Target, severity: Severity) -> RemediationRequest {
    let new = NewRemediationRequest {
        severity,
        ..requests::new_request(target)
    };
    requests::create(&scenario.api("datastorage", "gateway"), &new)
}

#[track_caller]
fn classified(
    scenario: &Scenario,
    request: &RemediationRequest,
) -> (RemediationRequest, Classification) {
    let api = scenario.api("datastorage", "e2e-reader");
    let request = requests::await_phase(&api, request.id, WITHIN, RequestPhase::Analyzing);
    let classification = request.classification.clone().expect("a classification");
    (request, classification)
}

#[track_caller]
fn check_classification(
    scenario: &Scenario,
    namespace: &str,
    severity: Severity,
    environment: &str,
    priority: &str,
) {
    let request = create(scenario, &target(namespace), severity);
    let (_, found) = classified(scenario, &request);
    assert_eq!(
        (
            found.environment.as_str(),
            found.priority.as_str(),
            found.severity
        ),
        (environment, priority, severity),
        "{found:#?}"
    );
    assert_eq!(found.signal_mode, "reactive");
    assert!(found.reason.contains(priority), "{found:#?}");
    assert_eq!(found.policy_hash.len(), 64);
}

#[test]
fn critical_in_production_is_p0() {
    check_classification(
        &scenario!(Shared),
        "shop",
        Severity::Critical,
        "production",
        "P0",
    );
}

#[test]
fn a_warning_in_production_is_p1() {
    check_classification(
        &scenario!(Shared),
        "shop",
        Severity::Warning,
        "production",
        "P1",
    );
}

#[test]
fn staging_is_p1() {
    let scenario = scenario!(Shared);
    for severity in [Severity::Critical, Severity::Warning] {
        check_classification(&scenario, "shop-staging", severity, "staging", "P1");
    }
}

#[test]
fn development_is_p3() {
    let scenario = scenario!(Shared);
    for severity in [Severity::Critical, Severity::Warning, Severity::Info] {
        check_classification(&scenario, "shop-development", severity, "development", "P3");
    }
}

#[test]
fn an_unknown_namespace_has_an_unknown_environment() {
    let scenario = scenario!(Shared);
    let namespace = format!("bazaar-{}", unique());
    check_classification(&scenario, &namespace, Severity::Critical, "unknown", "P2");
}

#[test]
fn an_unknown_target_is_classified_all_the_same() {
    let scenario = scenario!(Shared);
    let known = create(&scenario, &target("shop"), Severity::Critical);
    let (_, found) = classified(&scenario, &known);
    assert!(!found.degraded, "{found:#?}");
    assert_eq!(found.enrichment["workload"]["labels"]["team"], "storefront");
    let stranger = Target {
        name: format!("stranger-{}", unique()),
        ..target("shop")
    };
    let unknown = create(&scenario, &stranger, Severity::Critical);
    let (_, found) = classified(&scenario, &unknown);
    assert!(found.degraded, "{found:#?}");
    assert_eq!(
        (found.environment.as_str(), found.priority.as_str()),
        ("production", "P0")
    );
}

#[test]
fn a_predicted_signal_is_proactive() {
    let scenario = scenario!(Shared);
    let mut new = requests::new_request(&target("shop"));
    new.signal.name = "PredictedDiskFull".to_owned();
    let request = requests::create(&scenario.api("datastorage", "gateway"), &new);
    let (_, found) = classified(&scenario, &request);
    assert_eq!(found.signal_mode, "proactive");
}

#[test]
fn owners_are_followed_to_the_top() {
    let scenario = scenario!(Shared);
    let id = unique();
    let (deployment, set, pod) = (
        format!("cart-{id}"),
        format!("cart-{id}-5d8"),
        format!("cart-{id}-5d8-x"),
    );
    ConfigFile::of(scenario.run(), "signalprocessing", "inventory.json").add_to_inventory(
        "workloads",
        &[
            json!({"namespace": "shop", "kind": "Deployment", "name": deployment}),
            json!({"namespace": "shop", "kind": "ReplicaSet", "name": set,
                   "owner": {"kind": "Deployment", "name": deployment}}),
            json!({"namespace": "shop", "kind": "Pod", "name": pod, "labels": {"app": id},
                   "owner": {"kind": "ReplicaSet", "name": set}}),
        ],
    );
    let pod = Target {
        kind: "Pod".to_owned(),
        name: pod,
        ..target("shop")
    };
    let enrichment = eventually("an enrichment from the new inventory", WITHIN, || {
        let request = create(&scenario, &pod, Severity::Warning);
        let (_, found) = classified(&scenario, &request);
        if found.degraded {
            Look::NotYet(format!("{found:?}"))
        } else {
            Look::Seen(found.enrichment)
        }
    });
    assert_eq!(
        enrichment["owners"],
        json!([{"kind": "ReplicaSet", "name": set}, {"kind": "Deployment", "name": deployment}])
    );
    assert_eq!(enrichment["workload"]["labels"]["app"], id);
    assert_eq!(
        enrichment["namespace"]["labels"]["environment"],
        "production"
    );
}

fn pod(namespace: &str, name: &str) -> Target {
    Target {
        kind: "Pod".to_owned(),
        name: name.to_owned(),
        ..target(namespace)
    }
}

#[test]
fn kubernetes_knows_what_the_inventory_does_not() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let name = namespace.pod("datastorage").expect("a pod of the run");
    let request = create(&scenario, &pod(namespace.name(), &name), Severity::Critical);
    let (_, found) = classified(&scenario, &request);
    assert!(!found.degraded, "{found:#?}");
    let enrichment = &found.enrichment;
    let set = name.rsplit_once('-').expect("the name of its set first").0;
    assert_eq!(
        enrichment["owners"],
        json!([{"kind": "ReplicaSet", "name": set}, {"kind": "Deployment", "name": "datastorage"}])
    );
    for part in ["namespace", "workload"] {
        assert_eq!(enrichment[part]["source"], "kubernetes", "{found:#?}");
    }
    assert_eq!(
        enrichment["namespace"]["labels"]["kubernetes.io/metadata.name"],
        namespace.name()
    );
    assert_eq!(
        enrichment["workload"]["labels"]["app.kubernetes.io/name"],
        "datastorage"
    );
}

#[test]
fn what_kubernetes_does_not_know_or_tell_is_degraded() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let name = namespace.pod("datastorage").expect("a pod of the run");
    let gone = format!("{name}-{}", unique());
    let (_, found) = classified(
        &scenario,
        &create(&scenario, &pod(namespace.name(), &gone), Severity::Critical),
    );
    assert!(found.degraded, "{found:#?}");
    assert_eq!(found.enrichment["namespace"]["source"], "kubernetes");
    assert!(found.enrichment["workload"].is_null(), "{found:#?}");
    // Another cluster's pod of this very name is another pod, and another namespace is none of ours.
    let elsewhere = Target {
        cluster: format!("other-{}", unique()),
        ..pod(namespace.name(), &name)
    };
    for unknown in [elsewhere, pod("kube-system", &unique())] {
        let request = create(&scenario, &unknown, Severity::Critical);
        let (_, found) = classified(&scenario, &request);
        assert!(found.degraded, "{found:#?}");
        assert!(found.enrichment["namespace"].is_null(), "{found:#?}");
    }
}

#[test]
fn it_may_get_what_it_enriches_from_and_nothing_else() {
    let Some(scenario) = scenario_with_kubernetes!(Shared) else {
        return;
    };
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let rights = |of: &str| namespace.rights("signalprocessing", of).expect("rights");
    let expected = [
        "get cronjobs.batch",
        "get daemonsets.apps",
        "get deployments.apps",
        "get jobs.batch",
        "get namespaces",
        "get pods",
        "get replicasets.apps",
        "get statefulsets.apps",
    ];
    let own: Vec<String> = rights(namespace.name()).into_iter().collect();
    assert_eq!(own, expected);
    let others = rights("kube-system");
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn without_its_rights_it_classifies_all_the_same() {
    let Some(scenario) = scenario_with_kubernetes!(Exclusive) else {
        return;
    };
    let cluster = scenario.run().cluster();
    let namespace = cluster.namespace();
    let name = namespace.pod("datastorage").expect("a pod of the run");
    let expect = |degraded: bool| {
        // The API server hears of a changed right a moment later.
        eventually("an enrichment by the rights of now", WITHIN, || {
            let target = pod(namespace.name(), &name);
            let request = create(&scenario, &target, Severity::Critical);
            let (_, found) = classified(&scenario, &request);
            if found.degraded == degraded {
                Look::Seen(())
            } else {
                Look::NotYet(format!("{found:?}"))
            }
        });
    };
    let withdrawn = namespace
        .withdraw("signalprocessing")
        .expect("rights taken away");
    expect(true);
    drop(withdrawn);
    expect(false);
}

#[test]
fn the_audit_trail_is_complete() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let request = create(&scenario, &target("shop"), Severity::Critical);
    let (_, found) = classified(&scenario, &request);
    let chain = request.id.to_string();
    // Created, claimed, the two findings, handed on.
    let events = audit::expect_intact(&api, &chain, 5);
    audit::expect_in_order(&api, &chain, &FINDINGS);
    let actors: Vec<&str> = events.iter().map(|event| event.actor.as_str()).collect();
    assert_eq!(actors[0], "gateway");
    assert!(
        actors[1..].iter().all(|actor| *actor == "signalprocessing"),
        "{actors:?}"
    );
    let decided = events
        .iter()
        .find(|event| event.event.event_type == FINDINGS[1]);
    let data = &decided.expect("the decision").event.event_data;
    assert_eq!(data["priority"], found.priority);
    assert_eq!(data["policy_hash"], found.policy_hash);
}

#[test]
fn each_of_many_requests_is_worked_on_once() {
    let scenario = scenario!(Shared);
    let api = scenario.api("datastorage", "e2e-reader");
    let all = together(30, |_| {
        create(&scenario, &target("shop"), Severity::Warning)
    });
    for request in &all {
        classified(&scenario, request);
        audit::expect_intact(&api, &request.id.to_string(), 5);
    }
}

/// The text of the policy with another reason.
fn with_reason(policy: &str, mark: &str) -> String {
    let changed = policy.replace("is %s\"", &format!("is %s ({mark})\""));
    assert_ne!(
        changed, policy,
        "the policy has the reason that is replaced here"
    );
    changed
}

#[test]
fn a_changed_policy_decides_what_comes_after_and_is_written_down() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-reader");
    let file = ConfigFile::of(scenario.run(), "signalprocessing", "policy.rego");
    let before = create(&scenario, &target("shop"), Severity::Critical);
    let (_, before) = classified(&scenario, &before);
    let mark = unique();
    let policy = with_reason(&file.read(), &mark);
    // The load goes on while the policy changes: each result is of one policy, never of both.
    let made_before = AtomicUsize::new(0);
    let (after, made) = under_load(
        3,
        |_, _| {
            let request = create(&scenario, &target("shop"), Severity::Warning);
            let (_, found) = classified(&scenario, &request);
            made_before.fetch_add(1, Ordering::SeqCst);
            found
        },
        || {
            eventually("decisions by the old policy", WITHIN, || match made_before
                .load(Ordering::SeqCst)
            {
                count @ 0..3 => Look::NotYet(format!("{count} decisions")),
                _ => Look::Seen(()),
            });
            let _replaced = file.replace(&policy);
            eventually("a decision by the new policy", WITHIN, || {
                let request = create(&scenario, &target("shop"), Severity::Critical);
                let (_, found) = classified(&scenario, &request);
                if found.reason.contains(&mark) {
                    Look::Seen(found)
                } else {
                    Look::NotYet(found.reason)
                }
            })
        },
    );
    assert_ne!(before.policy_hash, after.policy_hash);
    let mut both = [0, 0];
    for found in made {
        let is_new = found.reason.contains(&mark);
        let hash = if is_new {
            &after.policy_hash
        } else {
            &before.policy_hash
        };
        assert_eq!(&found.policy_hash, hash, "{found:#?}");
        both[usize::from(is_new)] += 1;
    }
    assert!(both[0] >= 3, "{both:?}");
    let events = audit::list(&api, "event_type=policy.reloaded&limit=500");
    let reloaded = |event: &&common::api::AuditEvent| {
        event.event.event_data["policy_hash"] == after.policy_hash
    };
    assert_eq!(events.iter().filter(reloaded).count(), 1, "{events:#?}");
    await_policy(&scenario, &before.policy_hash);
}

/// Waits until the policy of this hash decides; so the next test finds what it expects.
#[track_caller]
fn await_policy(scenario: &Scenario, hash: &str) {
    eventually("the policy as it was", WITHIN, || {
        let request = create(scenario, &target("shop"), Severity::Warning);
        let (_, found) = classified(scenario, &request);
        if found.policy_hash == hash {
            Look::Seen(())
        } else {
            Look::NotYet(found.policy_hash)
        }
    });
}

#[test]
fn a_broken_policy_leaves_the_old_one_in_force_and_is_written_down() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-reader");
    let file = ConfigFile::of(scenario.run(), "signalprocessing", "policy.rego");
    let before = create(&scenario, &target("shop"), Severity::Critical);
    let (_, before) = classified(&scenario, &before);
    let policy = file.read();
    let broken = [
        format!("{policy}\nthis is no rule (({}\n", unique()),
        // It compiles, and decides what is no priority.
        format!("{}\n# {}\n", policy.replace("\"P0\"", "\"P9\""), unique()),
    ];
    for text in broken {
        let since = test_e2e::scenario::now();
        let replaced = file.replace(&text);
        let query = format!("event_type=policy.rejected&since={since}");
        eventually(
            "a rejection in the audit trail",
            WITHIN,
            || match audit::list(&api, &query).len() {
                1 => Look::Seen(()),
                count => Look::NotYet(format!("{count} rejections")),
            },
        );
        let after = create(&scenario, &target("shop"), Severity::Critical);
        let (_, after) = classified(&scenario, &after);
        assert_eq!(after, before);
        drop(replaced);
    }
}

#[test]
fn an_expired_lease_is_retaken() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "signalprocessing");
    let down = fault::stop(scenario.run(), "signalprocessing");
    let request = create(&scenario, &target("shop"), Severity::Critical);
    let lease = common::api::PatchRemediationRequest {
        lease_seconds: Some(8),
        lease_holder: Some("a-replica-that-died".to_owned()),
        ..requests::to_phase(RequestPhase::Processing)
    };
    let leased: RemediationRequest = requests::patch(&api, &request, &lease).expect(200).json();
    let deadline = leased.lease_deadline.expect("a deadline");
    down.end();
    let (done, _) = classified(&scenario, &request);
    assert!(
        done.updated_at >= deadline,
        "{done:#?} was taken before {deadline}"
    );
    audit::expect_in_order(&api, &request.id.to_string(), &FINDINGS);
    assert!(audit::verdict(&api, &request.id.to_string()).intact);
}

#[test]
fn a_killed_replica_loses_no_request() {
    let Some(scenario) = scenario_with_node!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-reader");
    let all = together(40, |_| {
        create(&scenario, &target("shop"), Severity::Warning)
    });
    fault::kill(scenario.run(), "signalprocessing").end();
    for request in &all {
        let (done, _) = classified(&scenario, request);
        assert!(audit::verdict(&api, &done.id.to_string()).intact);
        let moves = moves_to_analyzing(&api, &done);
        assert_eq!(moves, 1, "{done:#?}");
    }
}

#[test]
fn two_replicas_give_each_request_one_result() {
    let Some(scenario) = scenario_with_replicas!(Exclusive) else {
        return;
    };
    let api = scenario.api("datastorage", "e2e-reader");
    let doubled = fault::scale(scenario.run(), "signalprocessing", 2);
    let all = together(40, |_| {
        create(&scenario, &target("shop"), Severity::Warning)
    });
    for request in &all {
        let (done, _) = classified(&scenario, request);
        assert_eq!(moves_to_analyzing(&api, &done), 1, "{done:#?}");
        let types = audit::types(&api, &done.id.to_string());
        for finding in FINDINGS {
            let found = types.iter().filter(|found| *found == finding).count();
            assert_eq!(found, 1, "{finding}: {types:?}");
        }
    }
    doubled.end();
}

/// How often DataStorage wrote that a request was handed on.
#[track_caller]
fn moves_to_analyzing(api: &http::Api, request: &RemediationRequest) -> usize {
    let events = audit::chain_events(api, &request.id.to_string());
    let to_analyzing = |event: &&common::api::AuditEvent| {
        let data = &event.event.event_data;
        data.get("to") == Some(&json!("Analyzing"))
    };
    events.iter().filter(to_analyzing).count()
}

#[test]
fn sigterm_under_load_drops_nothing() {
    let scenario = scenario!(Exclusive);
    let api = scenario.api("datastorage", "e2e-reader");
    let (code, made) = under_load(
        4,
        |_, _| create(&scenario, &target("shop"), Severity::Warning),
        || {
            let first = create(&scenario, &target("shop"), Severity::Warning);
            classified(&scenario, &first);
            let down = fault::stop(scenario.run(), "signalprocessing");
            let code = fault::exit_codes(scenario.run(), "signalprocessing");
            down.end();
            code
        },
    );
    assert_eq!(code, [0], "it drains and ends by itself");
    assert!(!made.is_empty());
    for request in &made {
        let (done, _) = classified(&scenario, request);
        assert_eq!(moves_to_analyzing(&api, &done), 1, "{done:#?}");
    }
}

#[test]
fn metrics_move_by_the_exact_count() {
    let scenario = scenario!(Exclusive);
    let before = Metrics::scrape(scenario.run(), "signalprocessing");
    let stranger = Target {
        name: format!("stranger-{}", unique()),
        ..target("shop")
    };
    let mut all: Vec<_> = (0..7)
        .map(|_| create(&scenario, &target("shop"), Severity::Warning))
        .collect();
    all.push(create(&scenario, &stranger, Severity::Warning));
    for request in &all {
        classified(&scenario, request);
    }
    before.expect_moved(
        scenario.run(),
        "signalprocessing",
        "signalprocessing_requests_total",
        &[
            (&[("outcome", "classified")], 7),
            (&[("outcome", "degraded")], 1),
            (&[("outcome", "failed")], 0),
        ],
    );
}

#[test]
fn log_lines_carry_the_correlation_id() {
    let scenario = scenario!(Shared);
    let began = OffsetDateTime::now_utc();
    let request = create(&scenario, &target("shop"), Severity::Critical);
    let (done, _) = classified(&scenario, &request);
    assert!(done.updated_at > began - Duration::from_secs(60));
    let id = request.id.to_string();
    eventually(
        "a line with the correlation ID",
        Duration::from_secs(10),
        || {
            let lines = scenario.log_lines("signalprocessing", "correlation_id", &id);
            if lines.is_empty() {
                Look::NotYet("no line".to_owned())
            } else {
                Look::Seen(())
            }
        },
    );
}
