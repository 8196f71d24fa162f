//! What is found out about a request: its enrichment from the inventory, and the question that is
//! put to the policy. Pure; it decides nothing, the policy does.

use std::collections::BTreeMap;

use common::{
    api::{RemediationRequest, Severity, Signal, Target},
    inventory::{Inventory, Owner},
};
use serde::Serialize;
use serde_json::{Map, Value};

/// Labels of a namespace or a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// As the inventory has them.
    pub labels: BTreeMap<String, String>,
}

/// What the inventory knows about a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrichment {
    /// Absent where the namespace is unknown.
    pub namespace: Option<Labels>,
    /// Absent where the workload is unknown.
    pub workload: Option<Labels>,
    /// Nearest first.
    pub owners: Vec<Owner>,
    /// Namespace or workload are unknown.
    pub degraded: bool,
}

impl Enrichment {
    /// Looks the target up.
    #[must_use]
    pub fn of(target: &Target, inventory: &Inventory) -> Self {
        let (namespace, kind, name) = (&target.namespace, &target.kind, &target.name);
        let found_namespace = inventory.namespace(namespace).map(|namespace| Labels {
            labels: namespace.labels.clone(),
        });
        let found_workload = inventory
            .workload(namespace, kind, name)
            .map(|workload| Labels {
                labels: workload.labels.clone(),
            });
        Self {
            degraded: found_namespace.is_none() || found_workload.is_none(),
            namespace: found_namespace,
            workload: found_workload,
            owners: inventory.owners(namespace, kind, name).unwrap_or_default(),
        }
    }

    /// As it is stored with the classification.
    #[must_use]
    pub fn to_map(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            // A struct of strings, lists and maps with string keys is an object.
            _ => Map::new(),
        }
    }
}

/// The `input` of the policy.
#[derive(Clone, Debug, Serialize)]
pub struct Question<'a> {
    /// What is to be healed.
    pub target: &'a Target,
    /// The highest of all occurrences.
    pub severity: Severity,
    /// The first signal.
    pub signal: &'a Signal,
    /// What the inventory knows.
    #[serde(flatten)]
    pub enrichment: &'a Enrichment,
}

impl<'a> Question<'a> {
    /// About a request.
    #[must_use]
    pub fn about(request: &'a RemediationRequest, enrichment: &'a Enrichment) -> Self {
        Self {
            target: &request.target,
            severity: request.severity,
            signal: &request.signal,
            enrichment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(namespace: &str, name: &str, expected: Value) {
        let inventory = Inventory::parse(
            br#"{"namespaces": [{"name": "shop", "labels": {"environment": "production"}}],
                "workloads": [
                    {"namespace": "shop", "kind": "Pod", "name": "web-*", "labels": {"team": "a"},
                     "owner": {"kind": "Deployment", "name": "web"}}]}"#,
        )
        .expect("inventory");
        let target = Target {
            cluster: "local".into(),
            namespace: namespace.into(),
            kind: "Pod".into(),
            name: name.into(),
        };
        let enrichment = Enrichment::of(&target, &inventory);
        assert_eq!(Value::Object(enrichment.to_map()), expected);
    }

    #[test]
    fn what_is_known_is_told_and_what_is_not_degrades() {
        let shop = serde_json::json!({"labels": {"environment": "production"}});
        check(
            "shop",
            "web-1",
            serde_json::json!({"namespace": shop, "workload": {"labels": {"team": "a"}},
                   "owners": [{"kind": "Deployment", "name": "web"}], "degraded": false}),
        );
        check(
            "shop",
            "db-1",
            serde_json::json!({"namespace": shop, "workload": null, "owners": [], "degraded": true}),
        );
        check(
            "bazaar",
            "web-1",
            serde_json::json!({"namespace": null, "workload": null, "owners": [], "degraded": true}),
        );
    }
}
