//! `deploy/*.yaml` holds what production demands of it: probes, resources, confinement, accounts
//! without a token or with a short-lived one and least rights, policies, and no setting that belongs to thrown-away data. Each rule is held
//! against the files, and against a manifest that breaks it and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize as _;
use serde_json::{Value, json};

/// The documents of one file.
struct Manifest {
    file: String,
    documents: Vec<Value>,
}

impl Manifest {
    fn parse(file: &str, text: &str) -> Self {
        let documents = serde_norway::Deserializer::from_str(text);
        let documents = documents.map(|document| {
            Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}"))
        });
        Self {
            file: file.to_owned(),
            documents: documents.filter(|document| !document.is_null()).collect(),
        }
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        let documents = self.documents.iter();
        documents.filter(move |document| document["kind"] == kind)
    }

    fn named(&self, kind: &str, name: &Value) -> Option<&Value> {
        let mut documents = self.of_kind(kind);
        documents.find(|document| document["metadata"]["name"] == *name)
    }

    /// What production would not have, each with file and field.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for deployment in self.of_kind("Deployment") {
            let of_deployment = faults_of_deployment(self, deployment);
            let of_pod = faults_of_pod(self, &deployment["spec"]["template"]["spec"], Stays::Yes);
            let name = text(&deployment["metadata"]["name"]);
            faults.extend(
                of_deployment
                    .into_iter()
                    .chain(of_pod)
                    .map(|(field, fault)| {
                        format!("{}: Deployment {name}: {field}: {fault}", self.file)
                    }),
            );
        }
        for template in self.of_kind("PodTemplate") {
            let pod = &template["template"];
            let of_pod = faults_of_pod(self, &pod["spec"], Stays::No);
            let policies = self.of_kind("NetworkPolicy");
            let mut selectors = policies.map(|one| &one["spec"]["podSelector"]["matchLabels"]);
            let labels = &pod["metadata"]["labels"];
            let is_open = !selectors.any(|selector| selects(selector, labels));
            let open = is_open.then(|| {
                let field = "template.metadata.labels".to_owned();
                (field, "no NetworkPolicy of the file selects it".to_owned())
            });
            let name = text(&template["metadata"]["name"]);
            let all = of_pod.into_iter().chain(open);
            faults.extend(all.map(|(field, fault)| {
                format!("{}: PodTemplate {name}: {field}: {fault}", self.file)
            }));
        }
        for policy in self.of_kind("NetworkPolicy") {
            let name = text(&policy["metadata"]["name"]);
            faults.extend(
                faults_of_policy(&policy["spec"])
                    .into_iter()
                    .map(|(field, fault)| {
                        format!("{}: NetworkPolicy {name}: {field}: {fault}", self.file)
                    }),
            );
        }
        let of_rights = faults_of_rights(self).into_iter();
        faults.extend(of_rights.map(|fault| format!("{}: {fault}", self.file)));
        for claim in self.of_kind("PersistentVolumeClaim") {
            let request = &claim["spec"]["resources"]["requests"]["storage"];
            if claim["spec"]["accessModes"] != json!(["ReadWriteOnce"]) || !request.is_string() {
                let name = text(&claim["metadata"]["name"]);
                faults.push(format!(
                    "{}: PersistentVolumeClaim {name}: spec: must be ReadWriteOnce and say how much",
                    self.file
                ));
            }
        }
        faults
    }
}

/// A token lives no longer, in seconds; the kubelet renews it before.
const TOKEN_SECONDS_MAX: u64 = 3600;
/// What no rule may name.
const TOO_MUCH: [&str; 7] = [
    "*",
    "bind",
    "deletecollection",
    "escalate",
    "impersonate",
    "secrets",
    "serviceaccounts/token",
];

type Faults = Vec<(String, String)>;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether these labels are among those, and at least one is asked for.
fn selects(selector: &Value, labels: &Value) -> bool {
    selector.as_object().is_some_and(|wanted| {
        !wanted.is_empty() && wanted.iter().all(|(key, value)| labels[key] == *value)
    })
}

fn faults_of_deployment(manifest: &Manifest, deployment: &Value) -> Faults {
    let mut faults = Faults::new();
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let selecting = |kind: &str| {
        let documents = manifest.of_kind(kind);
        let selected = documents.map(|document| match kind {
            "NetworkPolicy" => &document["spec"]["podSelector"]["matchLabels"],
            _ => &document["spec"]["selector"]["matchLabels"],
        });
        selected
            .filter(|selector| selects(selector, labels))
            .count()
    };
    if selecting("NetworkPolicy") == 0 {
        let field = "spec.template.metadata.labels".to_owned();
        faults.push((field, "no NetworkPolicy of the file selects it".to_owned()));
    }
    if deployment["spec"]["replicas"].as_u64() > Some(1) && selecting("PodDisruptionBudget") == 0 {
        let message = "several, and no PodDisruptionBudget of the file selects them";
        faults.push(("spec.replicas".to_owned(), message.to_owned()));
    }
    let budgets = manifest.of_kind("PodDisruptionBudget");
    for budget in budgets.filter(|one| selects(&one["spec"]["selector"]["matchLabels"], labels)) {
        if budget["spec"]["maxUnavailable"] != 1 {
            let field = "PodDisruptionBudget: spec.maxUnavailable".to_owned();
            faults.push((field, "must be 1: a drain takes one at a time".to_owned()));
        }
    }
    let pod = &deployment["spec"]["template"]["spec"];
    let mounts_claim = pod["volumes"].as_array().is_some_and(|volumes| {
        let mut volumes = volumes.iter();
        volumes.any(|volume| !volume["persistentVolumeClaim"].is_null())
    });
    if mounts_claim && deployment["spec"]["strategy"]["type"] != "Recreate" {
        let message = "must be Recreate: two pods would share one claim";
        faults.push(("spec.strategy.type".to_owned(), message.to_owned()));
    }
    faults
}

/// Whether a pod runs until it is told to go, and somebody looks whether it is well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stays {
    Yes,
    No,
}

fn faults_of_pod(manifest: &Manifest, pod: &Value, stays: Stays) -> Faults {
    let mut faults = Faults::new();
    let path = match stays {
        Stays::Yes => "spec.template.spec",
        Stays::No => "template.spec",
    };
    let mut add = |field: &str, fault: &str| {
        faults.push((format!("{path}.{field}"), fault.to_owned()));
    };
    let account = manifest.named("ServiceAccount", &pod["serviceAccountName"]);
    match account {
        None => add("serviceAccountName", "names no ServiceAccount of the file"),
        Some(account) if account["automountServiceAccountToken"] != false => {
            add(
                "serviceAccountName",
                "its ServiceAccount must say automountServiceAccountToken: false",
            );
        }
        Some(_) => {}
    }
    if pod["automountServiceAccountToken"] != false {
        add("automountServiceAccountToken", "must be false");
    }
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if !pod[field].is_null() {
            add(field, "is the node's");
        }
    }
    let context = &pod["securityContext"];
    if context["runAsNonRoot"] != true {
        add("securityContext.runAsNonRoot", "must be true");
    }
    for field in ["runAsUser", "runAsGroup"] {
        if context[field].as_u64().unwrap_or(0) == 0 {
            add(
                &format!("securityContext.{field}"),
                "must be a number that is not 0",
            );
        }
    }
    if context["seccompProfile"]["type"] != "RuntimeDefault" {
        add(
            "securityContext.seccompProfile.type",
            "must be RuntimeDefault",
        );
    }
    for (field, fault) in faults_of_volumes(manifest, pod) {
        add(&field, &fault);
    }
    for list in ["initContainers", "containers"] {
        for (index, container) in pod[list].as_array().into_iter().flatten().enumerate() {
            let of_container =
                faults_of_container(container, stays == Stays::Yes && list == "containers");
            for (field, fault) in of_container {
                add(&format!("{list}[{index}].{field}"), &fault);
            }
        }
    }
    faults
}

fn faults_of_volumes(manifest: &Manifest, pod: &Value) -> Faults {
    let mut faults = Faults::new();
    let mut add = |field: &str, fault: &str| faults.push((field.to_owned(), fault.to_owned()));
    for (index, volume) in pod["volumes"].as_array().into_iter().flatten().enumerate() {
        let claim = &volume["persistentVolumeClaim"]["claimName"];
        if !claim.is_null() && manifest.named("PersistentVolumeClaim", claim).is_none() {
            add(
                &format!("volumes[{index}]"),
                "names no PersistentVolumeClaim of the file",
            );
        }
        for source in volume["projected"]["sources"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let token = &source["serviceAccountToken"];
            let seconds = token["expirationSeconds"].as_u64();
            if !token.is_null() && !seconds.is_some_and(|s| (600..=TOKEN_SECONDS_MAX).contains(&s))
            {
                add(
                    &format!("volumes[{index}].projected.sources.serviceAccountToken"),
                    "must end soon: expirationSeconds of 600 to 3600",
                );
            }
        }
        if !volume["hostPath"].is_null() {
            add(&format!("volumes[{index}].hostPath"), "is the node's");
        }
    }
    faults
}

/// An account has a token if and only if it has rights, and each right is told by its name.
fn faults_of_rights(manifest: &Manifest) -> Vec<String> {
    let mut faults = Vec::new();
    for role in manifest.of_kind("Role") {
        let name = text(&role["metadata"]["name"]);
        for (index, rule) in role["rules"].as_array().into_iter().flatten().enumerate() {
            for field in ["apiGroups", "resources", "verbs"] {
                let words = rule[field].as_array().into_iter().flatten().map(text);
                for word in words.filter(|word| TOO_MUCH.contains(word)) {
                    let field = format!("Role {name}: rules[{index}].{field}");
                    faults.push(format!("{field}: `{word}` is more than a service needs"));
                }
            }
        }
    }
    let mut bound = BTreeSet::new();
    for binding in manifest.of_kind("RoleBinding") {
        let name = text(&binding["metadata"]["name"]);
        let role = &binding["roleRef"];
        if role["kind"] != "Role" || manifest.named("Role", &role["name"]).is_none() {
            faults.push(format!(
                "RoleBinding {name}: roleRef: names no Role of the file"
            ));
        }
        for subject in binding["subjects"].as_array().into_iter().flatten() {
            let account = manifest.named("ServiceAccount", &subject["name"]);
            if subject["kind"] != "ServiceAccount" || account.is_none() {
                let fault = "subjects: one is no ServiceAccount of the file";
                faults.push(format!("RoleBinding {name}: {fault}"));
            }
            bound.insert(text(&subject["name"]));
        }
    }
    let deployments = manifest.of_kind("Deployment");
    let deployments = deployments.map(|one| (one, &one["spec"]["template"]["spec"]));
    let templates = manifest.of_kind("PodTemplate");
    let templates = templates.map(|one| (one, &one["template"]["spec"]));
    for (whose, pod) in deployments.chain(templates) {
        let volumes = pod["volumes"].as_array().into_iter().flatten();
        let mut sources = volumes
            .filter_map(|volume| volume["projected"]["sources"].as_array())
            .flatten();
        let has_token = sources.any(|source| !source["serviceAccountToken"].is_null());
        if has_token != bound.contains(text(&pod["serviceAccountName"])) {
            let (kind, name) = (text(&whose["kind"]), text(&whose["metadata"]["name"]));
            faults.push(format!(
                "{kind} {name}: a token and a RoleBinding of its account go together"
            ));
        }
    }
    faults
}

fn faults_of_container(container: &Value, stays: bool) -> Faults {
    let mut faults = Faults::new();
    let mut add = |field: &str, fault: &str| faults.push((field.to_owned(), fault.to_owned()));
    if text(&container["image"]).contains([':', '@', '/']) {
        add(
            "image",
            "must be a logical name: no registry, no tag, no digest",
        );
    }
    for probe in ["readinessProbe", "livenessProbe"] {
        if stays && !container[probe].is_object() {
            add(probe, "is missing");
        }
    }
    for (of, resource) in [
        ("requests", "cpu"),
        ("requests", "memory"),
        ("limits", "cpu"),
        ("limits", "memory"),
    ] {
        if container["resources"][of][resource].is_null() {
            add(&format!("resources.{of}.{resource}"), "is missing");
        }
    }
    let context = &container["securityContext"];
    for (field, wanted) in [
        ("readOnlyRootFilesystem", json!(true)),
        ("allowPrivilegeEscalation", json!(false)),
    ] {
        if context[field] != wanted {
            add(
                &format!("securityContext.{field}"),
                &format!("must be {wanted}"),
            );
        }
    }
    if context["capabilities"] != json!({"drop": ["ALL"]}) {
        add("securityContext.capabilities", "must be {drop: [ALL]}");
    }
    for field in ["privileged", "runAsNonRoot", "runAsUser", "seccompProfile"] {
        if !context[field].is_null() {
            add(&format!("securityContext.{field}"), "is the pod's to say");
        }
    }
    let mut words = ["command", "args"].into_iter().flat_map(|list| {
        let words = container[list].as_array();
        words.into_iter().flatten().map(text)
    });
    let for_speed = [
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "--no-sync",
    ];
    if let Some(word) = words.find(|word| for_speed.contains(word)) {
        let hint = "is for thrown-away data: it belongs into phase-zero.dev/run-args";
        add("args", &format!("{word} {hint}"));
    }
    faults
}

fn faults_of_policy(spec: &Value) -> Faults {
    let mut faults = Faults::new();
    let types: BTreeSet<&str> = spec["policyTypes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(text)
        .collect();
    if types != BTreeSet::from(["Egress", "Ingress"]) {
        let message = "must be Ingress and Egress: what is not named would be open";
        faults.push(("spec.policyTypes".to_owned(), message.to_owned()));
    }
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in spec[direction].as_array().into_iter().flatten().enumerate() {
            for field in [peers, "ports"] {
                if rule[field].as_array().is_none_or(Vec::is_empty) {
                    let field = format!("spec.{direction}[{index}].{field}");
                    faults.push((field, "is missing, so it is open to everything".to_owned()));
                }
            }
        }
    }
    faults
}

/// Of the workspace, by name.
fn manifests() -> Vec<Manifest> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let entries = fs::read_dir(&folder).expect("deploy/");
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    paths.sort();
    let read = paths.iter().map(|path| {
        let name = path.file_name().expect("a file").to_string_lossy();
        let text = fs::read_to_string(path).expect("a manifest");
        Manifest::parse(&format!("deploy/{name}"), &text)
    });
    read.collect()
}

#[test]
fn every_manifest_is_fit_for_production() {
    let manifests = manifests();
    let deployments = manifests
        .iter()
        .map(|one| one.of_kind("Deployment").count());
    assert!(
        deployments.sum::<usize>() >= 7,
        "deploy/ is not what it was"
    );
    let faults: Vec<String> = manifests.iter().flat_map(Manifest::faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// An address in a NetworkPolicy that no Deployment has would let nobody in, and tell nobody.
#[test]
fn every_peer_of_a_policy_is_there_and_is_let_in() {
    let manifests = manifests();
    let policies: Vec<&Value> = manifests
        .iter()
        .flat_map(|one| one.of_kind("NetworkPolicy"))
        .collect();
    let calls = between_pods(&policies, "egress", "to");
    let called = between_pods(&policies, "ingress", "from");
    assert!(calls.len() >= 6, "{calls:?}");
    let called: BTreeSet<_> = called
        .into_iter()
        .map(|(to, from, ports)| (from, to, ports))
        .collect();
    assert_eq!(calls, called, "who calls, and who is let in");
}

/// Whose policy, which other pod, and the ports.
fn between_pods(
    policies: &[&Value],
    direction: &str,
    peers: &str,
) -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for policy in policies {
        let own = name_in(&policy["spec"]["podSelector"]);
        for rule in policy["spec"][direction].as_array().into_iter().flatten() {
            let peers = rule[peers].as_array().into_iter().flatten();
            let pods = peers.filter(|peer| peer["ipBlock"].is_null());
            for peer in pods.filter(|peer| peer["namespaceSelector"].is_null()) {
                let other = name_in(&peer["podSelector"]);
                found.insert((own.to_owned(), other.to_owned(), rule["ports"].to_string()));
            }
        }
    }
    found
}

fn name_in(selector: &Value) -> &str {
    text(&selector["matchLabels"]["app.kubernetes.io/name"])
}

/// Puts `to` in place of `from` in a file of the workspace, and expects one fault and no other.
#[track_caller]
fn check(name: &str, from: &str, to: &str, fault: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/{name}.yaml"));
    let text = fs::read_to_string(path).expect("a manifest");
    assert!(text.contains(from), "deploy/{name}.yaml holds no `{from}`");
    let file = format!("deploy/{name}.yaml");
    let faults = Manifest::parse(&file, &text.replacen(from, to, 1)).faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].starts_with(&format!("{file}: ")), "{}", faults[0]);
    assert!(faults[0].contains(fault), "no `{fault}` in: {}", faults[0]);
}

#[test]
fn a_container_that_is_not_fit_is_found() {
    let check = |from: &str, to: &str, fault: &str| check("datastorage", from, to, fault);
    check(
        "image: datastorage",
        "image: datastorage:latest",
        "containers[0].image: must be",
    );
    check(
        "          readinessProbe:",
        "          startupProbe:",
        "readinessProbe: is missing",
    );
    check(
        "          livenessProbe:",
        "          startupProbe:",
        "livenessProbe: is missing",
    );
    check(
        "requests: {cpu: 100m, ",
        "requests: {",
        "resources.requests.cpu: is missing",
    );
    check(
        "limits: {cpu: \"2\", memory: 512Mi}",
        "limits: {cpu: \"2\"}",
        "resources.limits.memory",
    );
    check(
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: false",
        "must be true",
    );
    check(
        "            allowPrivilegeEscalation: false\n",
        "",
        "allowPrivilegeEscalation: must be false",
    );
    check(
        "{drop: [ALL]}",
        "{drop: [ALL], add: [NET_RAW]}",
        "capabilities: must be {drop: [ALL]}",
    );
    check(
        "readOnlyRootFilesystem: true",
        "readOnlyRootFilesystem: true\n            privileged: true",
        "privileged",
    );
}

#[test]
fn a_pod_that_is_not_fit_is_found() {
    let check = |from: &str, to: &str, fault: &str| check("datastorage", from, to, fault);
    check(
        "runAsNonRoot: true",
        "runAsNonRoot: false",
        "runAsNonRoot: must be true",
    );
    check(
        "runAsUser: 65532",
        "runAsUser: 0",
        "runAsUser: must be a number",
    );
    check(
        "{type: RuntimeDefault}",
        "{type: Unconfined}",
        "seccompProfile.type: must be",
    );
    check(
        "serviceAccountName: datastorage",
        "serviceAccountName: default",
        "names no ServiceAccount",
    );
    check(
        "      automountServiceAccountToken: false\n",
        "",
        "automountServiceAccountToken: must be",
    );
    check(
        "\nautomountServiceAccountToken: false\n",
        "\n",
        "its ServiceAccount must say",
    );
    check(
        "      enableServiceLinks: false",
        "      hostNetwork: true",
        "hostNetwork: is the node's",
    );
    check(
        "secret: {secretName: datastorage}",
        "hostPath: {path: /}",
        "volumes[0].hostPath",
    );
}

#[test]
fn what_stands_around_a_pod_and_is_not_fit_is_found() {
    let selector = "podSelector:\n    matchLabels:\n      app.kubernetes.io/name: gateway";
    let other = "podSelector:\n    matchLabels:\n      app.kubernetes.io/name: other";
    check(
        "gateway",
        selector,
        other,
        "no NetworkPolicy of the file selects it",
    );
    check(
        "gateway",
        "[Ingress, Egress]",
        "[Ingress]",
        "policyTypes: must be Ingress and Egress",
    );
    check(
        "gateway",
        "- from:\n        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}\n      ports",
        "- ports",
        "ingress[0].from: is missing",
    );
    check(
        "gateway",
        "maxUnavailable: 1",
        "minAvailable: 1",
        "maxUnavailable: must be 1",
    );
    check(
        "testbed",
        "replicas: 1",
        "replicas: 2",
        "no PodDisruptionBudget",
    );
    check(
        "postgres",
        "type: Recreate",
        "type: RollingUpdate",
        "must be Recreate",
    );
    check(
        "postgres",
        "claimName: postgres",
        "claimName: other",
        "names no PersistentVolumeClaim",
    );
    check(
        "postgres",
        "[ReadWriteOnce]",
        "[ReadWriteMany]",
        "must be ReadWriteOnce",
    );
    check(
        "postgres",
        "- timezone=UTC",
        "- fsync=off",
        "fsync=off is for thrown-away data",
    );
}

#[test]
fn a_template_that_is_not_fit_is_found() {
    let (deployment, template) = ("      serviceAccountName", "    serviceAccountName");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/testbed.yaml");
    let text = fs::read_to_string(path).expect("a manifest");
    let begin = text.find("kind: PodTemplate").expect("a PodTemplate");
    assert!(text[..begin].contains(deployment));
    // What is put in place of it, in the template alone.
    let check = |from: &str, to: &str, fault: &str| {
        let (before, of_it) = text.split_at(begin);
        assert!(of_it.contains(from), "no `{from}` in: {of_it}");
        let changed = format!("{before}{}", of_it.replacen(from, to, 1));
        let faults = Manifest::parse("deploy/testbed.yaml", &changed).faults();
        assert_eq!(faults.len(), 1, "{faults:#?}");
        let told = format!("PodTemplate testbed-act: {fault}");
        assert!(faults[0].contains(&told), "no `{told}` in: {}", faults[0]);
    };
    check(
        "image: testbed",
        "image: testbed:latest",
        "template.spec.containers[0].image: must be",
    );
    check(
        &format!("{template}: testbed"),
        &format!("{template}: default"),
        "template.spec.serviceAccountName: names no ServiceAccount",
    );
    check(
        "runAsNonRoot: true",
        "runAsNonRoot: false",
        "template.spec.securityContext.runAsNonRoot: must be true",
    );
    check(
        "    automountServiceAccountToken: false\n",
        "",
        "template.spec.automountServiceAccountToken: must be",
    );
    check(
        "    labels:\n      app.kubernetes.io/name: testbed-act\n",
        "    labels:\n      app.kubernetes.io/name: other\n",
        "template.metadata.labels: no NetworkPolicy",
    );
    check(
        "          capabilities: {drop: [ALL]}",
        "          capabilities: {}",
        "template.spec.containers[0].securityContext.capabilities",
    );
}

#[test]
fn rights_that_are_more_than_needed_are_found() {
    let check = |from: &str, to: &str, fault: &str| check("signalprocessing", from, to, fault);
    check("[namespaces, pods]", "[namespaces, \"*\"]", "`*` is more");
    check(
        "[namespaces, pods]",
        "[namespaces, secrets]",
        "`secrets` is more",
    );
    check(
        "verbs: [get]",
        "verbs: [get, impersonate]",
        "`impersonate` is more",
    );
    check(
        "kind: Role\n  name: signalprocessing",
        "kind: ClusterRole\n  name: view",
        "names no Role of the file",
    );
    check(
        "{kind: ServiceAccount, name: signalprocessing}",
        "{kind: Group, name: signalprocessing}",
        "is no ServiceAccount",
    );
    check(
        "{path: token, expirationSeconds: 600}",
        "{path: token}",
        "must end soon",
    );
    check(
        "- serviceAccountToken: {path: token, expirationSeconds: 600}",
        "- {}",
        "go together",
    );
}
