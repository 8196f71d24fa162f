//! From a foreign message to a signal about a target: Alertmanager's webhook (version 4), events
//! of Kubernetes, the scope, the fingerprint. Everything here is pure; what cannot be understood
//! is refused with the reason, and nothing is guessed.

use std::{collections::BTreeMap, convert::Infallible, str::FromStr};

use common::{
    api::{Severity, Signal, Target},
    inventory::Inventory,
};
use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

/// The labels that name a target, in the order in which they are looked for, and the kind each
/// stands for. The workload comes before its pod: an alert about a Deployment often carries the
/// pod of whoever reported it.
pub const TARGET_LABELS: &[(&str, &str)] = &[
    ("deployment", "Deployment"),
    ("statefulset", "StatefulSet"),
    ("daemonset", "DaemonSet"),
    ("cronjob", "CronJob"),
    ("job_name", "Job"),
    ("replicaset", "ReplicaSet"),
    ("horizontalpodautoscaler", "HorizontalPodAutoscaler"),
    ("persistentvolumeclaim", "PersistentVolumeClaim"),
    ("pod", "Pod"),
];

/// Kubernetes allows no longer names.
const NAME_LENGTH_MAX: usize = 253;

/// `signal_id` and `alert_id` are made in this namespace.
const SIGNALS: Uuid = Uuid::from_u128(0x5d0c_9a4e_63f1_4c0b_9a61_0e8f_2b7d_41c3);

/// Whether an alert begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AlertStatus {
    /// Something is wrong.
    Firing,
    /// It is not any more.
    Resolved,
}

/// Alertmanager's webhook body; fields that are of no use here are ignored.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// `4`.
    pub version: String,
    /// Alerts that Alertmanager left out (`max_alerts`).
    #[serde(default)]
    pub truncated_alerts: u64,
    /// Judged one by one, so that a malformed one does not take the others with it.
    pub alerts: Vec<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    status: AlertStatus,
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    starts_at: Option<OffsetDateTime>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    metadata: EventMetadata,
    #[serde(alias = "regarding")]
    involved_object: InvolvedObject,
    reason: String,
    #[serde(default, alias = "note")]
    message: String,
    #[serde(default, rename = "type")]
    event_type: String,
    #[serde(default)]
    count: u64,
    #[serde(default, with = "time::serde::rfc3339::option")]
    first_timestamp: Option<OffsetDateTime>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    event_time: Option<OffsetDateTime>,
    #[serde(default)]
    series: Option<EventSeries>,
}

#[derive(Debug, Default, Deserialize)]
struct EventMetadata {
    #[serde(default)]
    uid: String,
}

#[derive(Debug, Deserialize)]
struct InvolvedObject {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
}

#[derive(Debug, Deserialize)]
struct EventSeries {
    #[serde(default)]
    count: u64,
}

/// A signal that was understood, its target resolved to the top owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Begins or ends.
    pub status: AlertStatus,
    /// The same for every resend: it counts once.
    pub signal_id: Uuid,
    /// The same for every signal of one alert, whenever it began.
    pub alert_id: Uuid,
    /// One open request for each.
    pub fingerprint: String,
    /// The top owner.
    pub target: Target,
    /// As the sender judged it.
    pub severity: Severity,
    /// What came.
    pub signal: Signal,
}

/// Why a signal makes no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not what the format says.
    #[error("{0}")]
    Malformed(String),
    /// Nobody knows what to heal.
    #[error("{0}")]
    NoTarget(String),
    /// Another gateway's, or nobody's.
    #[error("the namespace {0} is outside the scope of this gateway")]
    OutOfScope(String),
}

impl Refusal {
    /// One word for metrics and the audit trail.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::NoTarget(_) => "no_target",
            Self::OutOfScope(_) => "out_of_scope",
        }
    }
}

/// The namespaces whose signals are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Vec<String>);

impl FromStr for Scope {
    type Err = Infallible;

    /// `shop,shop-*`; nothing at all means every namespace.
    fn from_str(list: &str) -> Result<Self, Infallible> {
        let names = list.split(',').map(str::trim);
        Ok(Self(
            names
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect(),
        ))
    }
}

impl Scope {
    fn holds(&self, namespace: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|name| match name.strip_suffix('*') {
                Some(prefix) => namespace.starts_with(prefix),
                None => name == namespace,
            })
    }
}

/// What a gateway knows when it reads a signal.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// The cluster of signals that do not tell theirs.
    pub cluster: &'a str,
    /// The namespaces whose signals are taken.
    pub scope: &'a Scope,
    /// Who owns whom.
    pub inventory: &'a Inventory,
}

/// One alert of a webhook.
///
/// # Errors
/// [`Refusal`].
pub fn observe_alert(alert: &Value, surroundings: Surroundings<'_>) -> Result<Observed, Refusal> {
    let alert = Alert::deserialize(alert)
        .map_err(|error| Refusal::Malformed(format!("not an alert: {error}")))?;
    let named = target_of_labels(&alert.labels, surroundings.cluster)?;
    let (target, owner_unknown) = resolve(named, surroundings)?;
    let severity = severity_of_label(alert.labels.get("severity").map_or("", String::as_str));
    let alert_id = identity("alertmanager", alert.labels.iter());
    Ok(Observed {
        status: alert.status,
        signal_id: signal_id(alert_id, alert.starts_at),
        alert_id,
        fingerprint: target.fingerprint(),
        target,
        severity,
        signal: Signal {
            source: "alertmanager".to_owned(),
            name: name_of(&alert.labels),
            labels: alert.labels,
            annotations: alert.annotations,
            starts_at: alert.starts_at,
            owner_unknown,
        },
    })
}

/// An event of Kubernetes, `v1` or `events.k8s.io/v1`. Each raise of its count is a signal.
///
/// # Errors
/// [`Refusal`].
pub fn observe_event(event: &Value, surroundings: Surroundings<'_>) -> Result<Observed, Refusal> {
    let event = Event::deserialize(event)
        .map_err(|error| Refusal::Malformed(format!("not an event: {error}")))?;
    let object = event.involved_object;
    for (field, value) in [
        ("namespace", &object.namespace),
        ("kind", &object.kind),
        ("name", &object.name),
    ] {
        check_name(value).map_err(|problem| {
            Refusal::NoTarget(format!(
                "involvedObject.{field} {problem}: a target needs namespace, kind and name"
            ))
        })?;
    }
    let named = Target {
        cluster: surroundings.cluster.to_owned(),
        namespace: object.namespace,
        kind: object.kind,
        name: object.name,
    };
    let count = event.series.map_or(event.count, |series| series.count);
    let labels = BTreeMap::from([
        ("count".to_owned(), count.to_string()),
        ("kind".to_owned(), named.kind.clone()),
        ("name".to_owned(), named.name.clone()),
        ("namespace".to_owned(), named.namespace.clone()),
        ("reason".to_owned(), event.reason.clone()),
        ("type".to_owned(), event.event_type.clone()),
        ("uid".to_owned(), event.metadata.uid),
    ]);
    let starts_at = event.first_timestamp.or(event.event_time);
    let (target, owner_unknown) = resolve(named, surroundings)?;
    let alert_id = identity("kubernetes-event", labels.iter());
    Ok(Observed {
        status: AlertStatus::Firing,
        signal_id: signal_id(alert_id, starts_at),
        alert_id,
        fingerprint: target.fingerprint(),
        target,
        severity: match event.event_type.as_str() {
            "Warning" => Severity::Warning,
            "Normal" => Severity::Info,
            _ => Severity::Unknown,
        },
        signal: Signal {
            source: "kubernetes-event".to_owned(),
            name: event.reason,
            labels,
            annotations: BTreeMap::from([("message".to_owned(), event.message)]),
            starts_at,
            owner_unknown,
        },
    })
}

/// The ID of the signal that is kept in a request: who made it.
#[must_use]
pub fn signal_id_of(signal: &Signal) -> Uuid {
    signal_id(alert_id_of(signal), signal.starts_at)
}

/// The ID of the alert behind the signal that is kept in a request.
#[must_use]
pub fn alert_id_of(signal: &Signal) -> Uuid {
    identity(&signal.source, signal.labels.iter())
}

fn target_of_labels(labels: &BTreeMap<String, String>, cluster: &str) -> Result<Target, Refusal> {
    let label = |name: &str| {
        labels
            .get(&format!("exported_{name}"))
            .or_else(|| labels.get(name))
            .filter(|value| !value.is_empty())
    };
    let object = TARGET_LABELS
        .iter()
        .find_map(|(name, kind)| Some((*name, *kind, label(name)?)));
    let (Some(namespace), Some((name_label, kind, name))) = (label("namespace"), object) else {
        return Err(Refusal::NoTarget(no_target()));
    };
    for (field, value) in [("namespace", namespace), (name_label, name)] {
        check_name(value)
            .map_err(|problem| Refusal::NoTarget(format!("the label {field} {problem}")))?;
    }
    Ok(Target {
        cluster: label("cluster").map_or(cluster, String::as_str).to_owned(),
        namespace: namespace.clone(),
        kind: kind.to_owned(),
        name: name.clone(),
    })
}

fn no_target() -> String {
    let names: Vec<&str> = TARGET_LABELS.iter().map(|(name, _)| *name).collect();
    format!(
        "no target in the labels: looked for namespace and one of {} (each also as exported_…)",
        names.join(", ")
    )
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is empty");
    }
    if name.len() > NAME_LENGTH_MAX {
        return Err("is longer than 253 bytes");
    }
    if !name.chars().all(|c| c.is_ascii_graphic()) {
        return Err("is no name");
    }
    Ok(())
}

/// The top owner, and whether nobody knows it. Out of scope comes first: others' inventory is
/// none of ours.
fn resolve(named: Target, surroundings: Surroundings<'_>) -> Result<(Target, bool), Refusal> {
    if !surroundings.scope.holds(&named.namespace) {
        return Err(Refusal::OutOfScope(named.namespace));
    }
    // The inventory is that of the gateway's own cluster.
    let owners = (named.cluster == surroundings.cluster)
        .then(|| {
            let inventory = surroundings.inventory;
            inventory.owners(&named.namespace, &named.kind, &named.name)
        })
        .flatten();
    Ok(match owners.as_deref() {
        None => (named, true),
        Some([]) => (named, false),
        Some([.., top]) => (
            Target {
                kind: top.kind.clone(),
                name: top.name.clone(),
                ..named
            },
            false,
        ),
    })
}

/// Alertmanager wants no name of an alert; a request does.
fn name_of(labels: &BTreeMap<String, String>) -> String {
    let name = labels.get("alertname").filter(|name| !name.is_empty());
    name.map_or("unnamed", String::as_str).to_owned()
}

fn severity_of_label(label: &str) -> Severity {
    match label.to_ascii_lowercase().as_str() {
        "critical" | "page" => Severity::Critical,
        "warning" => Severity::Warning,
        "info" => Severity::Info,
        _ => Severity::Unknown,
    }
}

fn identity<'a>(source: &str, labels: impl Iterator<Item = (&'a String, &'a String)>) -> Uuid {
    let mut bytes = Vec::new();
    let mut add = |part: &str| {
        bytes.extend((part.len() as u64).to_be_bytes());
        bytes.extend(part.as_bytes());
    };
    add(source);
    for (name, value) in labels {
        add(name);
        add(value);
    }
    Uuid::new_v5(&SIGNALS, &bytes)
}

fn signal_id(alert_id: Uuid, starts_at: Option<OffsetDateTime>) -> Uuid {
    let began = starts_at.map_or_else(Vec::new, |at| {
        at.unix_timestamp_nanos().to_be_bytes().to_vec()
    });
    Uuid::new_v5(&alert_id, &began)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn inventory() -> Inventory {
        Inventory::parse(
            br#"{"workloads": [
                {"namespace": "shop", "kind": "Deployment", "name": "web"},
                {"namespace": "shop", "kind": "ReplicaSet", "name": "web-5d8", "owner": {"kind": "Deployment", "name": "web"}},
                {"namespace": "shop", "kind": "Pod", "name": "web-5d8-*", "owner": {"kind": "ReplicaSet", "name": "web-5d8"}}
            ]}"#,
        )
        .expect("inventory")
    }

    fn observe(alert: &Value, scope: &str) -> Result<Observed, Refusal> {
        let (Ok(scope), inventory) = (scope.parse(), inventory());
        observe_alert(
            alert,
            Surroundings {
                cluster: "local",
                scope: &scope,
                inventory: &inventory,
            },
        )
    }

    fn firing(labels: Value) -> Value {
        json!({"status": "firing", "labels": labels, "startsAt": "2026-01-02T03:04:05.678Z"})
    }

    #[track_caller]
    fn check_target(labels: Value, expected: [&str; 4], owner_unknown: bool) {
        let observed = observe(&firing(labels), "").expect("a target");
        let target = observed.target;
        assert_eq!(
            [
                target.cluster.as_str(),
                &target.namespace,
                &target.kind,
                &target.name
            ],
            expected
        );
        assert_eq!(observed.signal.owner_unknown, owner_unknown);
    }

    #[test]
    fn the_target_is_the_top_owner() {
        let web = ["local", "shop", "Deployment", "web"];
        check_target(
            json!({"namespace": "shop", "pod": "web-5d8-x1"}),
            web,
            false,
        );
        check_target(
            json!({"namespace": "shop", "deployment": "web"}),
            web,
            false,
        );
        check_target(
            json!({"namespace": "monitoring", "pod": "kube-state-metrics-0",
                   "exported_namespace": "shop", "exported_pod": "web-5d8-x1"}),
            web,
            false,
        );
    }

    #[test]
    fn what_nobody_knows_is_taken_as_it_is() {
        check_target(
            json!({"namespace": "shop", "pod": "db-0"}),
            ["local", "shop", "Pod", "db-0"],
            true,
        );
        check_target(
            json!({"namespace": "shop", "pod": "web-5d8-x1", "cluster": "east"}),
            ["east", "shop", "Pod", "web-5d8-x1"],
            true,
        );
        check_target(
            json!({"namespace": "shop", "deployment": "api", "pod": "kube-state-metrics-0"}),
            ["local", "shop", "Deployment", "api"],
            true,
        );
    }

    #[track_caller]
    fn check_refusal(alert: Value, scope: &str, reason: &str, told: &[&str]) {
        let refusal = observe(&alert, scope).expect_err("a refusal");
        assert_eq!(refusal.reason(), reason);
        for part in told {
            assert!(
                refusal.to_string().contains(part),
                "{refusal}: lacks {part}"
            );
        }
    }

    #[test]
    fn refusals_say_why() {
        let known = json!({"namespace": "shop", "pod": "web-5d8-x1"});
        check_refusal(
            firing(json!({"alertname": "A"})),
            "",
            "no_target",
            &["namespace", "deployment", "pod"],
        );
        check_refusal(
            firing(json!({"namespace": "shop", "pod": ""})),
            "",
            "no_target",
            &["statefulset"],
        );
        check_refusal(
            firing(json!({"namespace": "sh op", "pod": "a"})),
            "",
            "no_target",
            &["namespace"],
        );
        check_refusal(
            firing(known.clone()),
            "other, shop-*",
            "out_of_scope",
            &["shop"],
        );
        check_refusal(json!({"labels": known}), "", "malformed", &["status"]);
        check_refusal(
            json!({"status": "firing", "labels": {"a": 1}}),
            "",
            "malformed",
            &["string"],
        );
        check_refusal(
            json!({"status": "firing", "labels": {}, "startsAt": "yesterday"}),
            "",
            "malformed",
            &["alert"],
        );
    }

    #[test]
    fn the_scope_knows_prefixes() {
        let alert = firing(json!({"namespace": "shop", "pod": "a"}));
        for scope in ["", "shop", "a, shop", "sh*", "*"] {
            assert!(observe(&alert, scope).is_ok(), "{scope}");
        }
    }

    #[test]
    fn a_resend_is_the_same_signal_and_a_new_start_is_another() {
        let labels = json!({"namespace": "shop", "pod": "web-5d8-x1", "alertname": "A"});
        let first = observe(&firing(labels.clone()), "").expect("a signal");
        let resent = observe(
            &json!({"status": "resolved", "labels": labels, "startsAt": "2026-01-02T04:04:05.678+01:00",
                    "endsAt": "2026-01-02T03:10:00Z", "fingerprint": "x", "generatorURL": ""}),
            "",
        )
        .expect("a signal");
        assert_eq!(first.signal_id, resent.signal_id);
        assert_eq!(resent.status, AlertStatus::Resolved);
        let later = observe(
            &json!({"status": "firing", "labels": labels, "startsAt": "2026-01-03T03:04:05Z"}),
            "",
        )
        .expect("a signal");
        assert_ne!(first.signal_id, later.signal_id);
        assert_eq!(first.alert_id, later.alert_id);
        assert_eq!(first.fingerprint, later.fingerprint);
        assert_eq!(signal_id_of(&later.signal), later.signal_id);
        assert_eq!(alert_id_of(&later.signal), later.alert_id);
    }

    #[test]
    fn fingerprints_do_not_run_together() {
        let target = |namespace: &str, name: &str| Target {
            cluster: "local".into(),
            namespace: namespace.into(),
            kind: "Pod".into(),
            name: name.into(),
        };
        let one = target("ab", "c").fingerprint();
        assert_eq!(one.len(), 64);
        assert_eq!(one, target("ab", "c").fingerprint());
        assert_ne!(one, target("a", "bc").fingerprint());
    }

    #[test]
    fn an_event_is_a_signal_and_each_raise_another() {
        let inventory = inventory();
        let scope = Scope::default();
        let surroundings = Surroundings {
            cluster: "local",
            scope: &scope,
            inventory: &inventory,
        };
        let event = |count: u64| {
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"uid": "u1", "name": "web.1"},
                   "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-5d8-x1", "uid": "u2"},
                   "reason": "BackOff", "message": "Back-off restarting failed container", "type": "Warning",
                   "count": count, "firstTimestamp": "2026-01-02T03:04:05Z", "eventTime": null})
        };
        let first = observe_event(&event(1), surroundings).expect("a signal");
        let again = observe_event(&event(1), surroundings).expect("a signal");
        let raised = observe_event(&event(2), surroundings).expect("a signal");
        assert_eq!(first, again);
        assert_ne!(first.signal_id, raised.signal_id);
        assert_eq!(first.fingerprint, raised.fingerprint);
        assert_eq!(
            (first.target.kind.as_str(), first.severity),
            ("Deployment", Severity::Warning)
        );
        let node = json!({"involvedObject": {"kind": "Node", "name": "n1"}, "reason": "NotReady"});
        let refusal = observe_event(&node, surroundings).expect_err("no namespace");
        assert!(refusal.to_string().contains("namespace"), "{refusal}");
    }
}
