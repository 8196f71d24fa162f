//! What is found out about a request: its enrichment from the inventory and, where that does not know
//! it, from the Kubernetes API; and the question that is put to the policy. Pure; it decides nothing,
//! the policy does.

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
    /// As they are there.
    pub labels: BTreeMap<String, String>,
    /// Who knows them.
    pub source: Source,
}

/// Where something is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The mounted file.
    Inventory,
    /// The API of the target's cluster.
    Kubernetes,
}

/// What is known about a target.
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
            source: Source::Inventory,
        });
        let found_workload = inventory
            .workload(namespace, kind, name)
            .map(|workload| Labels {
                labels: workload.labels.clone(),
                source: Source::Inventory,
            });
        Self {
            degraded: found_namespace.is_none() || found_workload.is_none(),
            namespace: found_namespace,
            workload: found_workload,
            owners: inventory.owners(namespace, kind, name).unwrap_or_default(),
        }
    }

    /// The same with what the Kubernetes API knows; what the inventory knows stays as it is.
    #[must_use]
    pub fn completed(
        mut self,
        namespace: Option<kubernetes::Labels>,
        workload: Option<kubernetes::Workload>,
    ) -> Self {
        let known = |labels| Labels {
            labels,
            source: Source::Kubernetes,
        };
        self.namespace = self.namespace.or(namespace.map(known));
        if let (None, Some(workload)) = (&self.workload, workload) {
            self.workload = Some(known(workload.labels));
            self.owners = workload.owners;
        }
        self.degraded = self.namespace.is_none() || self.workload.is_none();
        self
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
    /// What is known about the target.
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
    use serde_json::json;

    use super::*;

    fn enrichment(namespace: &str, name: &str) -> Enrichment {
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
        Enrichment::of(&target, &inventory)
    }

    #[track_caller]
    fn check(enrichment: &Enrichment, expected: Value) {
        assert_eq!(Value::Object(enrichment.to_map()), expected);
    }

    #[test]
    fn what_is_known_is_told_and_what_is_not_degrades() {
        let shop = json!({"labels": {"environment": "production"}, "source": "inventory"});
        check(
            &enrichment("shop", "web-1"),
            json!({"namespace": shop, "workload": {"labels": {"team": "a"}, "source": "inventory"},
                   "owners": [{"kind": "Deployment", "name": "web"}], "degraded": false}),
        );
        check(
            &enrichment("shop", "db-1"),
            json!({"namespace": shop, "workload": null, "owners": [], "degraded": true}),
        );
        check(
            &enrichment("bazaar", "web-1"),
            json!({"namespace": null, "workload": null, "owners": [], "degraded": true}),
        );
    }

    #[test]
    fn kubernetes_tells_what_the_inventory_does_not_know() {
        let labels = |name: &str| BTreeMap::from([("app".to_owned(), name.to_owned())]);
        let found = kubernetes::Workload {
            labels: labels("db"),
            owners: vec![Owner {
                kind: "StatefulSet".into(),
                name: "db".into(),
            }],
        };
        let told = |name: &str| json!({"labels": {"app": name}, "source": "kubernetes"});
        let shop = json!({"labels": {"environment": "production"}, "source": "inventory"});
        check(
            &enrichment("shop", "db-1").completed(Some(labels("shop")), Some(found.clone())),
            json!({"namespace": shop, "workload": told("db"),
                   "owners": [{"kind": "StatefulSet", "name": "db"}], "degraded": false}),
        );
        check(
            &enrichment("bazaar", "db-1").completed(Some(labels("bazaar")), None),
            json!({"namespace": told("bazaar"), "workload": null, "owners": [], "degraded": true}),
        );
        let known = enrichment("shop", "web-1");
        assert_eq!(known.clone().completed(None, Some(found)), known);
    }
}
