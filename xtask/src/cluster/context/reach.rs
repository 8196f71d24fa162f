//! The way in: a pod that is ready is one thing, that a Service leads to it another. Each Service must
//! have a pod that takes requests, and the API server must get an answer through it.

use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::namespace::{Deployed, Namespace};
use crate::cluster::readiness::Readiness;
use crate::manifest::Manifests;
use crate::poll::{self, Look};
use crate::report::live::Activity;

const HINT: &str =
    "the API server asks through the Service: a NetworkPolicy of the cluster may hold it up";

/// A pod that is ready, and the endpoints of its Service.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
const REACH_INTERVAL: Duration = Duration::from_millis(200);

/// A Service of the manifests that leads to a Deployment.
#[derive(Debug, PartialEq, Eq)]
struct Way {
    service: String,
    /// The port of the Service and the path where its readiness is told, if it tells it over HTTP.
    asked: Option<(u64, String)>,
}

/// Asks each.
///
/// # Errors
/// [`crate::exit::Exit::Deploy`], naming the Service and the last answer; a signal.
pub(super) fn through_services(
    namespace: &Namespace,
    manifests: &Manifests,
    activity: &Activity,
) -> Result<()> {
    let documents: Vec<&Value> = manifests
        .documents()
        .map(|(_, document)| document)
        .collect();
    for deployed in namespace.deployed() {
        for way in ways(deployed, &documents) {
            let what = format!("answer of Service {}", way.service);
            let kubectl = namespace.kubectl();
            poll::until_in(activity, &what, REACH_DEADLINE, REACH_INTERVAL, || {
                Ok(look(kubectl, &way))
            })
            .map_err(|error| deployed.unanswered(error, Some(HINT)))?;
        }
    }
    Ok(())
}

fn ways(deployed: &Deployed, documents: &[&Value]) -> Vec<Way> {
    let services = documents
        .iter()
        .filter(|document| document["kind"] == "Service");
    let leading = services.filter(|service| {
        let selector = service["spec"]["selector"].as_object();
        selector.is_some_and(|selector| {
            let labels = &deployed.wanted.selector;
            let is_its = |(name, value): (&String, &Value)| {
                labels.get(name).map(String::as_str) == value.as_str()
            };
            !selector.is_empty() && selector.iter().all(is_its)
        })
    });
    leading
        .map(|service| Way {
            service: service["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            asked: match &deployed.readiness {
                Readiness::Http { port, path, .. } => {
                    port_of(service, deployed, *port).map(|port| (port, path.clone()))
                }
                Readiness::Tcp { .. } | Readiness::Running => None,
            },
        })
        .collect()
}

/// The port of a Service that leads to this one inside.
fn port_of(service: &Value, deployed: &Deployed, inside: u16) -> Option<u64> {
    let mut ports = service["spec"]["ports"].as_array()?.iter();
    let port = ports.find(|port| match &port["targetPort"] {
        Value::String(name) => deployed.ports.get(name) == Some(&inside),
        Value::Null => port["port"] == inside,
        number => *number == inside,
    });
    port?["port"].as_u64()
}

#[derive(Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Default, Deserialize)]
struct Conditions {
    ready: Option<bool>,
}

fn look(kubectl: &Kubectl, way: &Way) -> Look<()> {
    let (namespace, service) = (&kubectl.namespace, &way.service);
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io/service-name%3D{service}"
    );
    let slices: Vec<Slice> = match kubectl.list(&path) {
        Ok(slices) => slices,
        Err(error) => return Look::NotYet(format!("{error:#}")),
    };
    let mut endpoints = slices
        .into_iter()
        .flat_map(|slice| slice.endpoints.unwrap_or_default());
    // Not told is ready: its own convention.
    if !endpoints.any(|endpoint| endpoint.conditions.ready != Some(false)) {
        return Look::NotYet(format!("Service {service} has no endpoint that is ready"));
    }
    let Some((port, asked)) = &way.asked else {
        return Look::Found(());
    };
    let path = format!("/api/v1/namespaces/{namespace}/services/{service}:{port}/proxy{asked}");
    match kubectl.raw(&path) {
        Ok(_) => Look::Found(()),
        Err(error) => Look::NotYet(format!("{error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{Way, ways};
    use crate::cluster::kubernetes::namespace::Deployed;
    use crate::cluster::kubernetes::roll_out::Wanted;
    use crate::cluster::readiness::Readiness;

    #[test]
    fn the_services_that_select_a_deployment_lead_to_it() {
        let mut deployed = Deployed {
            service: "a".to_owned(),
            namespace: "n".to_owned(),
            wanted: Wanted {
                deployment: "a".to_owned(),
                selector: BTreeMap::from([("app".to_owned(), "a".to_owned())]),
                replicas: 1,
            },
            containers: BTreeMap::new(),
            inits: BTreeMap::new(),
            ports: BTreeMap::from([("probes".to_owned(), 8081)]),
            readiness: Readiness::Http {
                port: 8081,
                path: "/readyz".to_owned(),
                timeout_seconds: 1,
            },
        };
        let service = |name: &str, app: &str, port: serde_json::Value| {
            json!({"kind": "Service", "metadata": {"name": name},
                "spec": {"selector": {"app": app}, "ports": [{"port": 1, "targetPort": 2}, port]}})
        };
        let documents = [
            service("by-number", "a", json!({"port": 80, "targetPort": 8081})),
            service("by-name", "a", json!({"port": 81, "targetPort": "probes"})),
            service("same", "a", json!({"port": 8081})),
            service("without", "a", json!({"port": 9})),
            service("other", "b", json!({"port": 8081})),
            json!({"kind": "ConfigMap", "metadata": {"name": "a"}}),
        ];
        let documents: Vec<_> = documents.iter().collect();
        let found: Vec<_> = ways(&deployed, &documents)
            .into_iter()
            .map(|Way { service, asked }| (service, asked.map(|(port, _)| port)))
            .collect();
        let expected = [
            ("by-number", Some(80)),
            ("by-name", Some(81)),
            ("same", Some(8081)),
            ("without", None),
        ];
        assert_eq!(found, expected.map(|(name, port)| (name.to_owned(), port)));
        deployed.readiness = Readiness::Tcp { port: 8081 };
        assert!(
            ways(&deployed, &documents)
                .iter()
                .all(|way| way.asked.is_none())
        );
    }
}
