//! What is applied: the documents of `deploy/*.yaml` as a run has them, with the references of
//! phase 0 put in, and what a run adds of its own: its namespace, its Secrets, and the way in for
//! tests, a NodePort for each port and a NetworkPolicy that lets the node through. Pure functions;
//! no document names an image that was not seen.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde_json::{Value, json};

use crate::manifest::template::pod_of;
use crate::manifest::{Manifests, Named, References, Workload};
use crate::run::LABEL_RUN;

/// Label of every namespace of ours in a cluster: what owns the cluster.
pub(crate) const LABEL_CLUSTER: &str = "phase-zero.cluster";

/// Where documents go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The run.
    pub(crate) run: &'a str,
    /// Its namespace.
    pub(crate) namespace: &'a str,
}

/// Where pods have their addresses: what calls from elsewhere is no pod.
#[derive(Clone, Debug)]
pub(crate) struct PodSubnet {
    /// All of them.
    pub(crate) all: &'static str,
    /// What each node itself has of them.
    pub(crate) nodes: Vec<String>,
}

/// The ports of a node, by Deployment and by the name of the port inside.
pub(crate) type NodePorts = BTreeMap<String, BTreeMap<String, u16>>;

/// A port of a node for every port of every workload, from `first` on, in the order of the manifests.
pub(crate) fn node_ports(manifests: &Manifests, first: u16) -> NodePorts {
    let mut free = first..;
    let of_workload = |workload: &Workload| {
        let names = workload.ports();
        let ports = names.into_keys().zip(free.by_ref());
        (workload.name().to_owned(), ports.collect())
    };
    manifests.workloads.iter().map(of_workload).collect()
}

/// The namespace of a run, in a cluster that this one owns. What its pods may ask for is what production may be asked for: the
/// strictest of the Pod Security Standards.
pub(crate) fn namespace(place: Place<'_>, cluster: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": place.namespace,
            "labels": {
                LABEL_RUN: place.run,
                LABEL_CLUSTER: cluster,
                "pod-security.kubernetes.io/enforce": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    })
}

/// The policies of the manifests let in who calls in production, and tests are none of these. They
/// come through a port of the node, or through the API server, which lives there: from an address
/// that no pod has. What one pod may ask of another stays as the manifests have it.
pub(crate) fn way_through_policies(place: Place<'_>, subnet: &PodSubnet) -> Value {
    let mut from = vec![json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [subnet.all]}})];
    let nodes = subnet.nodes.iter();
    from.extend(nodes.map(|node| json!({"ipBlock": {"cidr": node}})));
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(place, "e2e"),
        "spec": {
            "podSelector": {"matchLabels": {LABEL_RUN: place.run}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": from}],
        },
    })
}

/// A Secret for each folder of `mounts` that is `wanted`, with its files as keys.
///
/// # Errors
/// When a file cannot be read, or is no text.
pub(crate) fn secrets(
    place: Place<'_>,
    mounts: &Utf8Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Value>> {
    let mut secrets = Vec::new();
    for folder in listed(mounts)?.into_iter().filter(|name| wanted(name)) {
        let mut data = BTreeMap::new();
        for file in listed(&mounts.join(&folder))? {
            let path = mounts.join(&folder).join(&file);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            data.insert(file, text);
        }
        secrets.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": metadata(place, &folder),
            "type": "Opaque",
            "stringData": data,
        }));
    }
    Ok(secrets)
}

fn listed(folder: &Utf8Path) -> Result<Vec<String>> {
    let entries = folder
        .read_dir_utf8()
        .with_context(|| format!("cannot list {folder}"))?;
    let names = entries.map(|entry| Ok(entry?.file_name().to_owned()));
    names
        .collect::<std::io::Result<Vec<_>>>()
        .with_context(|| format!("cannot list {folder}"))
}

/// Of something of this name that the run has made there.
pub(crate) fn metadata(place: Place<'_>, name: &str) -> Value {
    json!({"name": name, "namespace": place.namespace, "labels": {LABEL_RUN: place.run}})
}

/// Which documents are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// What names images: Deployments, and what pods are made from later.
    Deployments,
    /// What names none, and so needs to know of none.
    Others,
}

/// Documents of these manifests, with references in the place of logical names.
///
/// # Errors
/// [`crate::exit::Exit::Manifest`] for an image that does not belong to the run.
pub(crate) fn of_manifests(
    place: Place<'_>,
    manifests: &Manifests,
    references: &References<impl Named>,
    which: Which,
) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for (service, document) in manifests.documents() {
        let mut document = document.clone();
        let names_images = pod_of(&mut document).is_some();
        let is_meant = match which {
            Which::All => true,
            Which::Deployments => names_images,
            Which::Others => !names_images,
        };
        if !is_meant {
            continue;
        }
        document["metadata"]["namespace"] = place.namespace.into();
        document["metadata"]["labels"][LABEL_RUN] = place.run.into();
        if names_images {
            let place_of_it = manifests.place_of(service, &document);
            let place_of_it = place_of_it.with_context(|| {
                format!(
                    "deploy/{service}.yaml has no {}",
                    document["metadata"]["name"]
                )
            })?;
            if let Some(pod) = pod_of(&mut document) {
                pod["metadata"]["labels"][LABEL_RUN] = place.run.into();
                let get = |logical: &str| references.get_at(place_of_it, logical);
                put_in(&mut pod["spec"], get)?;
            }
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Both kinds of containers: what an init container runs is proved as well.
fn put_in<'a, Image: Named + 'a>(
    pod: &mut Value,
    get: impl Fn(&str) -> Result<&'a Image>,
) -> Result<()> {
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let image = get(container["image"].as_str().unwrap_or_default())?;
            container["image"] = image.reference().into();
            container["imagePullPolicy"] = match image.is_pulled() {
                // By its digest it is the same wherever it comes from.
                true => "IfNotPresent".into(),
                // It is there, or nowhere: a node that asked a registry would run what that holds.
                false => "Never".into(),
            };
        }
    }
    Ok(())
}

/// A Service of type NodePort for each workload of these manifests: the way in for tests. A pod
/// that is not ready is reached as well, since what it answers then is what some of them ask.
pub(crate) fn ways_in(place: Place<'_>, manifests: &Manifests, ports: &NodePorts) -> Vec<Value> {
    let of_workload = |workload: &Workload| -> Option<Value> {
        let inside = workload.ports();
        let of_node = ports.get(workload.name())?;
        let listed: Vec<Value> = inside
            .iter()
            .filter_map(|(name, port)| {
                let node_port = of_node.get(name)?;
                Some(json!({
                    "name": format!("p{port}"), "port": port, "targetPort": port, "nodePort": node_port,
                }))
            })
            .collect();
        if listed.is_empty() {
            return None;
        }
        let name = format!("{}-e2e", workload.name());
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(place, &name),
            "spec": {
                "type": "NodePort",
                "selector": workload.selector(),
                "publishNotReadyAddresses": true,
                "ports": listed,
            },
        }))
    };
    manifests.workloads.iter().filter_map(of_workload).collect()
}

/// What answers in the place of every Service that has stayed in another namespace.
pub(crate) fn signposts<'a>(
    place: Place<'a>,
    there: &'a str,
    stays: &'a Manifests,
) -> impl Iterator<Item = Value> {
    let services = stays.documents().map(|(_, document)| document);
    let services = services.filter(|document| document["kind"] == "Service");
    services.filter_map(move |service| {
        let name = service["metadata"]["name"].as_str()?;
        Some(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(place, name),
            "spec": {"type": "ExternalName", "externalName": format!("{name}.{there}.svc.cluster.local")},
        }))
    })
}

/// A policy speaks of pods beside those that it protects. Where these `are_elsewhere`, judged by the
/// labels that it names, it must name the namespace as well, by `its_labels`.
pub(crate) fn reach_across(
    documents: &mut [Value],
    are_elsewhere: impl Fn(&Value) -> bool,
    its_labels: &Value,
) {
    let policies = documents.iter_mut();
    for policy in policies.filter(|document| document["kind"] == "NetworkPolicy") {
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            let rules = policy["spec"].get_mut(rules).and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten() {
                let peers = rule.get_mut(peers).and_then(Value::as_array_mut);
                for peer in peers.into_iter().flatten() {
                    let here = peer.get("namespaceSelector").is_none();
                    let labels = peer.pointer("/podSelector/matchLabels");
                    if here && labels.is_some_and(&are_elsewhere) {
                        peer["namespaceSelector"] = json!({"matchLabels": its_labels});
                    }
                }
            }
        }
    }
}

/// Whether these labels are among those of a workload of these manifests.
pub(crate) fn name_one_of(labels: &Value, manifests: &Manifests) -> bool {
    let labels = labels.as_object();
    manifests.workloads.iter().any(|workload| {
        let own = workload.selector();
        let mut labels = labels.into_iter().flatten();
        labels.all(|(key, value)| own.get(key).is_some_and(|own| value == own))
    })
}

/// One document that holds all of these.
pub(crate) fn list(documents: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": documents}).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8Path;
    use serde_json::{Value, json};

    use super::{
        Place, PodSubnet, Which, list, name_one_of, namespace, node_ports, of_manifests,
        reach_across, secrets, signposts, way_through_policies, ways_in,
    };
    use crate::manifest::{ImageNames, Manifests, References};

    const SAMPLE: &str = r#"apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
---
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: db}
spec: {minAvailable: 1, selector: {matchLabels: {app: db}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: db}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: db, annotations: {phase-zero.dev/run-args: '["-F"]'}}
spec:
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      initContainers: [{name: first, image: db}]
      containers:
        - name: db
          image: db
          args: [-D, /data]
          ports: [{name: sql, containerPort: 5432}, {containerPort: 9}]
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: db}}]
---
apiVersion: v1
kind: PodTemplate
metadata: {name: db-mend}
template:
  metadata: {labels: {app: db-mend}}
  spec:
    initContainers: [{name: first, image: db}]
    containers: [{name: mend, image: db, args: [mend]}]
"#;

    const PLACE: Place<'_> = Place {
        run: "r-1",
        namespace: "ns",
    };

    fn manifests() -> Manifests {
        let images = ImageNames {
            own: ["db".to_owned()].into(),
            ..ImageNames::default()
        };
        Manifests::parse("db", SAMPLE, &images).unwrap()
    }

    #[test]
    fn every_document_goes_there_with_references_put_in() {
        let references = References::planned_third_party(&["db".to_owned()]);
        let documents = of_manifests(PLACE, &manifests(), &references, Which::All).unwrap();
        let kinds: Vec<&str> = documents
            .iter()
            .map(|document| document["kind"].as_str().unwrap())
            .collect();
        assert_eq!(
            kinds,
            [
                "Service",
                "PodDisruptionBudget",
                "Deployment",
                "PodTemplate"
            ]
        );
        for document in &documents {
            assert_eq!(document["metadata"]["namespace"], "ns");
            assert_eq!(document["metadata"]["labels"]["phase-zero.run"], "r-1");
        }
        for template in [&documents[2]["spec"]["template"], &documents[3]["template"]] {
            assert_eq!(template["metadata"]["labels"]["phase-zero.run"], "r-1");
            let pod = &template["spec"];
            for container in [&pod["initContainers"][0], &pod["containers"][0]] {
                assert_eq!(container["image"], "<db>");
                assert_eq!(container["imagePullPolicy"], "Never");
            }
        }
        let pod = &documents[2]["spec"]["template"]["spec"];
        // The claim is no document of a run.
        let volume = json!({"name": "data", "emptyDir": {"medium": "Memory"}});
        assert_eq!(pod["volumes"], json!([volume]));
        assert_eq!(pod["containers"][0]["args"], json!(["-D", "/data", "-F"]));
        // What it is instead of is kept as it was written.
        let manifests = manifests();
        let turned = manifests.turned();
        assert_eq!(turned.len(), 2);
        assert_eq!(turned[0]["kind"], "PersistentVolumeClaim");
        let pod = &turned[1]["spec"]["template"]["spec"];
        let claim = &pod["volumes"][0]["persistentVolumeClaim"];
        assert_eq!(*claim, json!({"claimName": "db"}));
        assert_eq!(pod["containers"][0]["args"], json!(["-D", "/data"]));
        // What is selected by is what was written.
        let selector = &documents[2]["spec"]["selector"]["matchLabels"];
        assert_eq!(*selector, json!({"app": "db"}));
        let none = References::planned_third_party(&["other".to_owned()]);
        let refused = of_manifests(PLACE, &manifests, &none, Which::Deployments).unwrap_err();
        assert!(refused.to_string().contains("`db` does not belong"));
        // What runs no image needs to know of none.
        let others = of_manifests(PLACE, &manifests, &none, Which::Others).unwrap();
        let kinds: Vec<_> = others.iter().map(|other| other["kind"].as_str()).collect();
        assert_eq!(kinds, [Some("Service"), Some("PodDisruptionBudget")]);
    }

    #[test]
    fn each_port_gets_one_of_the_node() {
        let ports = node_ports(&manifests(), 30_000);
        assert_eq!(ports["db"]["9"], 30_000);
        assert_eq!(ports["db"]["sql"], 30_001);
        let ways = ways_in(PLACE, &manifests(), &ports);
        assert_eq!(ways.len(), 1);
        assert_eq!(ways[0]["spec"]["selector"], json!({"app": "db"}));
        assert_eq!(ways[0]["spec"]["ports"][1]["nodePort"], 30_001);
        assert_eq!(ways[0]["spec"]["ports"][1]["targetPort"], 5432);
    }

    #[test]
    fn the_node_comes_through_to_the_pods_of_the_run_and_no_pod_does() {
        let subnet = PodSubnet {
            all: "10.0.0.0/8",
            nodes: vec!["10.0.0.1/32".to_owned(), "10.0.1.1/32".to_owned()],
        };
        let policy = way_through_policies(PLACE, &subnet);
        let spec = &policy["spec"];
        assert_eq!(policy["metadata"]["namespace"], "ns");
        assert_eq!(
            spec["podSelector"]["matchLabels"],
            json!({"phase-zero.run": "r-1"})
        );
        // It says nothing of who may be called.
        assert_eq!(spec["policyTypes"], json!(["Ingress"]));
        let from = spec["ingress"][0]["from"].as_array().unwrap();
        assert_eq!(from[0]["ipBlock"]["except"], json!(["10.0.0.0/8"]));
        assert_eq!(from[1]["ipBlock"]["cidr"], "10.0.0.1/32");
        assert_eq!(from[2]["ipBlock"]["cidr"], "10.0.1.1/32");
        assert_eq!(from.len(), 3);
    }

    #[test]
    fn what_stays_in_another_namespace_is_led_to() {
        let all: Vec<Value> = signposts(PLACE, "there", &manifests()).collect();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0]["metadata"]["name"], "db");
        assert_eq!(all[0]["metadata"]["namespace"], "ns");
        assert_eq!(
            all[0]["spec"],
            json!({"type": "ExternalName", "externalName": "db.there.svc.cluster.local"})
        );
    }

    #[test]
    fn a_policy_names_the_namespace_of_what_is_elsewhere_and_of_nothing_else() {
        let peer = |app: &str| json!({"podSelector": {"matchLabels": {"app": app}}});
        let named = json!({"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "db"}}});
        let mut all = [
            json!({"kind": "NetworkPolicy", "spec": {
                "egress": [{"to": [peer("db"), peer("other"), named]}],
                "ingress": [{"from": [peer("db")]}, {}],
            }}),
            json!({"kind": "Service", "spec": {"egress": [{"to": [peer("db")]}]}}),
        ];
        let before = all.clone();
        let stay = |labels: &Value| name_one_of(labels, &manifests());
        reach_across(&mut all, stay, &json!({"name": "there"}));
        let mut reached = peer("db");
        reached["namespaceSelector"] = json!({"matchLabels": {"name": "there"}});
        let to = &all[0]["spec"]["egress"][0]["to"];
        assert_eq!(*to, json!([reached, peer("other"), named]));
        assert_eq!(all[0]["spec"]["ingress"][0]["from"], json!([reached]));
        assert_eq!(all[1], before[1]);
    }

    #[test]
    fn labels_name_a_workload_when_it_has_them_all() {
        let named = |labels: Value| name_one_of(&labels, &manifests());
        assert!(named(json!({"app": "db"})));
        assert!(!named(json!({"app": "db", "tier": "1"})));
        assert!(!named(json!({"app": "web"})));
    }

    #[test]
    fn a_folder_of_files_is_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let mounts = Utf8Path::from_path(folder.path()).unwrap();
        fs::create_dir(mounts.join("db")).unwrap();
        fs::write(mounts.join("db/password"), "p \"q\"").unwrap();
        let text = list(secrets(PLACE, mounts, |_| true).unwrap());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["items"][0]["stringData"]["password"], "p \"q\"");
        assert_eq!(read["items"][0]["metadata"]["namespace"], "ns");
        assert!(
            secrets(PLACE, mounts, |name| name != "db")
                .unwrap()
                .is_empty()
        );
    }

    #[test]
    fn the_namespace_demands_what_production_demands() {
        let labels = &namespace(PLACE, "c-1")["metadata"]["labels"];
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], "restricted");
    }
}
