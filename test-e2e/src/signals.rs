//! Signals as Alertmanager sends them: webhook version 4, with the fields of its current release.

use common::api::RemediationRequest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::http::{Answer, Api};

/// Where webhooks are posted.
pub const ALERTMANAGER: &str = "/api/v1/signals/alertmanager";

/// One alert that is firing since `starts_at`.
#[must_use]
pub fn alert(labels: &[(&str, &str)], starts_at: OffsetDateTime) -> Value {
    let labels: serde_json::Map<String, Value> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let started = starts_at.format(&Rfc3339).unwrap_or_default();
    json!({
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": "many answers are errors"},
        "startsAt": started,
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example:9090/graph?g0.expr=up",
        "fingerprint": format!("{:016x}", hash(&(labels, started))),
    })
}

/// An alert about a Deployment in `shop`, firing since now.
#[must_use]
pub fn deployment_alert(deployment: &str, severity: &str) -> Value {
    let labels = [
        ("alertname", "HighErrorRate"),
        ("severity", severity),
        ("namespace", "shop"),
        ("deployment", deployment),
    ];
    alert(&labels, OffsetDateTime::now_utc())
}

/// A webhook that carries these alerts.
#[must_use]
pub fn webhook(alerts: &[Value]) -> Value {
    json!({
        "version": "4",
        "groupKey": "{}:{alertname=\"HighErrorRate\"}",
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "phase-zero",
        "groupLabels": {"alertname": "HighErrorRate"},
        "commonLabels": {"alertname": "HighErrorRate"},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example:9093",
        "notificationReason": "new_alerts",
        "alerts": alerts,
    })
}

/// Sends one alert.
#[track_caller]
pub fn send(gateway: &Api, alert: &Value) -> Answer {
    gateway.post(ALERTMANAGER, &webhook(std::slice::from_ref(alert)))
}

/// Every request, open or ended, for the Deployment of this name in this namespace.
#[must_use]
#[track_caller]
pub fn requests_of(datastorage: &Api, namespace: &str, name: &str) -> Vec<RemediationRequest> {
    requests_of_kind(datastorage, namespace, "Deployment", name)
}

/// Every request, open or ended, for this target.
#[must_use]
#[track_caller]
pub fn requests_of_kind(
    datastorage: &Api,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Vec<RemediationRequest> {
    crate::requests::list(datastorage, &format!("target={namespace}/{kind}/{name}"))
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
