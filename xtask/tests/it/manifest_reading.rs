//! Manifests: those of the workspace are read; whatever the local cluster cannot honour is refused
//! at its place, with the fix.

use std::collections::BTreeSet;

use xtask::exit::{Exit, Failure};
use xtask::manifest::{ImageNames, Manifests};

const GOOD: &str = r#"apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 8080, targetPort: http}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: web}
data: {inventory.json: "{}"}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  annotations: {phase-zero.dev/run-args: '["-c", "fsync=off"]'}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: web
      securityContext: {runAsNonRoot: true, runAsUser: 65532}
      containers:
        - name: web
          image: web
          ports: [{name: http, containerPort: 8080}]
          readinessProbe:
            httpGet: {path: /readyz, port: http}
          resources: {limits: {cpu: "2", memory: 64Mi}}
          volumeMounts: [{name: config, mountPath: /config, readOnly: true}]
      volumes:
        - {name: config, configMap: {name: web}}
        - {name: data, persistentVolumeClaim: {claimName: web}}
        - name: kubernetes
          projected:
            sources:
              - serviceAccountToken: {path: token, expirationSeconds: 600}
              - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
              - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: web}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: web}
rules: [{anything: goes}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec: {anything: goes}
"#;

fn names() -> ImageNames {
    let set =
        |names: &[&str]| -> BTreeSet<String> { names.iter().map(ToString::to_string).collect() };
    ImageNames {
        own: set(&["web", "datastorage"]),
        third_party: set(&["postgres"]),
    }
}

/// Puts `to` in place of `from`, which must be there, and expects a refusal with these words.
#[track_caller]
fn check(from: &str, to: &str, words: &str, hint: Option<&str>) {
    assert!(GOOD.contains(from), "the sample holds no `{from}`");
    let error = Manifests::parse("web", &GOOD.replacen(from, to, 1), &names())
        .expect_err("it was not refused");
    let failure = Failure::find(&error).expect("an expected failure");
    assert_eq!(failure.exit(), Exit::Manifest);
    let text = format!("{error:#}");
    assert!(text.contains("deploy/web.yaml"), "no file in: {text}");
    assert!(text.contains(words), "no `{words}` in: {text}");
    if let Some(hint) = hint {
        let told = failure.hint_text().unwrap_or("no hint");
        assert!(told.contains(hint), "no `{hint}` in: {told}");
    }
}

const KIND: Option<&str> = Some("--cluster kind");

#[test]
fn a_good_one_is_read_and_what_is_void_is_told() {
    let manifests = Manifests::parse("web", GOOD, &names()).unwrap();
    assert_eq!(
        manifests.void(),
        ["NetworkPolicy and Role and ServiceAccount and ServiceAccount token of web"]
    );
    assert_eq!(
        manifests.thrown_away(),
        [
            "PersistentVolumeClaim web is memory",
            "Deployment web gets -c fsync=off"
        ]
    );
}

#[test]
fn a_tag_on_an_image_of_ours_is_refused() {
    let fix = Some("write `image: web`");
    let field = "document 3 (Deployment web): spec.template.spec.containers[0].image";
    check("image: web", "image: web:latest", field, fix);
    check("image: web", "image: web:e2e-test", field, fix);
    check(
        "image: web",
        "image: localhost/web:gateway-3f9a1c0b7d52e8f4",
        field,
        fix,
    );
    let digest = format!("image: web@sha256:{}", "0".repeat(64));
    check(
        "image: web",
        &digest,
        "puts a digest on an image of ours",
        fix,
    );
    check("image: web", "image: \"localhost:5000/web\"", field, fix);
    check(
        "image: web",
        "image: postgres:15",
        "third-party",
        Some("deploy/images.toml pins it"),
    );
    check(
        "image: web",
        "image: redis:latest",
        "without a pinned version",
        Some("postgres"),
    );
    check(
        "image: web",
        "image: redis:7",
        "is no image of the workspace",
        Some("postgres"),
    );
}

#[test]
fn yaml_that_is_none_tells_line_and_column() {
    check(
        "kind: Service",
        "kind: [Service",
        "deploy/web.yaml:2:",
        None,
    );
    check("kind: Service", "kind: [Service", "invalid YAML", None);
    check(
        "kind: Service",
        "\tkind: Service",
        "deploy/web.yaml:2:1",
        None,
    );
}

#[test]
fn fields_off_the_list_are_refused_by_name() {
    check(
        "          image: web",
        "          image: web\n          lifecycle: {}",
        "spec.template.spec.containers[0]: unknown field `lifecycle`",
        KIND,
    );
    check(
        "          image: web",
        "          image: web\n          lifecycle: {}",
        "deploy/web.yaml:28:11: document 3 (Deployment web)",
        KIND,
    );
    check(
        "name: config, mountPath",
        "subPath: a, name: config, mountPath",
        "`subPath`",
        KIND,
    );
    check(
        "metadata: {name: web}\ndata",
        "metadata: {name: web, namespace: a}\ndata",
        "`namespace`",
        KIND,
    );
    check(
        "configMap: {name: web}",
        "hostPath: {path: /}",
        "`hostPath`",
        KIND,
    );
    check(
        "kind: NetworkPolicy",
        "kind: StatefulSet",
        "no StatefulSet",
        KIND,
    );
    check(
        "kind: ConfigMap",
        "kind: Secret",
        "a Secret is never written down",
        Some("every run makes its own"),
    );
    check(
        "apiVersion: apps/v1",
        "apiVersion: apps/v1beta1",
        "Deployment of apps/v1beta1",
        KIND,
    );
    check(
        "runAsUser: 65532}",
        "sysctls: [], runAsUser: 65532}",
        "`sysctls`",
        KIND,
    );
    check(
        "ports: [{name: http, containerPort: 8080}]",
        "env: [{name: A, valueFrom: {}}]\n          ports: [{name: http, containerPort: 8080}]",
        "`valueFrom`",
        KIND,
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    check(
        "targetPort: http",
        "targetPort: 8081",
        "spec.ports[0].targetPort: must be 8080",
        KIND,
    );
    check(
        "containerPort: 8080",
        "containerPort: 8081",
        "targetPort",
        KIND,
    );
    check(
        "selector: {app: web}",
        "selector: {app: other}",
        "selects 0 Deployments",
        KIND,
    );
    check(
        "matchLabels: {app: web}",
        "matchLabels: {app: other}",
        "spec.selector.matchLabels",
        None,
    );
    check("runAsUser: 65532", "runAsUser: 0", "runAsNonRoot", None);
    check(
        "port: http}\n",
        "port: 9999}\n",
        "readinessProbe: asks a port",
        None,
    );
    check(
        "[{name: config, mountPath",
        "[{name: other, mountPath",
        "there is no volume `other`",
        None,
    );
    check(
        "mountPath: /config",
        "mountPath: config",
        "is no absolute path",
        None,
    );
    check(
        "memory: 64Mi",
        "memory: 64 Mi",
        "is no amount of memory",
        None,
    );
    check(
        "{inventory.json",
        "{../inventory.json",
        "is no file name",
        None,
    );
    check(
        "spec:\n  selector: {match",
        "spec:\n  replicas: 0\n  selector: {match",
        "spec.replicas",
        None,
    );
}

#[test]
fn a_volume_that_would_not_be_void_is_refused() {
    check("kube-root-ca.crt", "web", "`web`", KIND);
    check(
        "metadata.namespace",
        "metadata.labels",
        "`metadata.labels`",
        KIND,
    );
    check(
        "serviceAccountToken: {path: token, expirationSeconds: 600}",
        "secret: {name: web}",
        "`secret`",
        KIND,
    );
    check(
        "- serviceAccountToken: {path: token, expirationSeconds: 600}",
        "- {}",
        "volumes[2].projected.sources[0]: must hold one of",
        KIND,
    );
}

#[test]
fn what_is_of_the_whole_cluster_is_refused() {
    check(
        "kind: Role\n",
        "kind: ClusterRole\n",
        "kind: is cluster-wide",
        Some("write a Role"),
    );
}

#[test]
fn what_a_run_turns_into_something_else_is_held_against_the_list_before() {
    check(
        "claimName: web",
        "claimName: other",
        "volumes[1].persistentVolumeClaim: the manifests of the run hold no",
        None,
    );
    check(
        "spec:\n  selector: {match",
        "spec:\n  replicas: 2\n  selector: {match",
        "web would belong to more than one pod",
        None,
    );
    check(
        "serviceAccountName: web",
        "serviceAccountName: other",
        "serviceAccountName: the manifests of the run hold no ServiceAccount other",
        None,
    );
    check(
        "phase-zero.dev/run-args",
        "phase-zero.dev/args",
        "metadata.annotations.phase-zero.dev/args: means nothing",
        None,
    );
    check(
        "[ReadWriteOnce]",
        "[ReadWriteMany]",
        "`ReadWriteMany`",
        KIND,
    );
    check("storage: 1Gi", "storage: 1 Gi", "is no amount", None);
}

const TEMPLATE: &str = r#"
---
apiVersion: v1
kind: PodTemplate
metadata: {name: web-mend}
template:
  metadata: {labels: {app: web-mend}}
  spec:
    serviceAccountName: web
    containers: [{name: mend, image: web, args: [mend]}]
"#;

#[test]
fn a_template_is_void_and_held_to_what_a_deployment_is() {
    let parse = |template: &str| Manifests::parse("web", &format!("{GOOD}{template}"), &names());
    let void = parse(TEMPLATE).unwrap().void();
    assert!(
        void.contains(&"PodTemplate of web-mend".to_owned()),
        "{void:?}"
    );
    let check = |from: &str, to: &str, words: &str| {
        assert!(TEMPLATE.contains(from), "the sample holds no `{from}`");
        let error = parse(&TEMPLATE.replacen(from, to, 1)).expect_err("it was not refused");
        let failure = Failure::find(&error).expect("an expected failure");
        assert_eq!(failure.exit(), Exit::Manifest);
        let text = format!("{error:#}");
        assert!(text.contains(words), "no `{words}` in: {text}");
    };
    let tagged = "(PodTemplate web-mend): template.spec.containers[0].image: `web:1` puts a tag";
    check("image: web", "image: web:1", tagged);
    check(
        "image: web",
        "image: redis:7",
        "is no image of the workspace",
    );
    check("args: [mend]", "lifecycle: {}", "unknown field `lifecycle`");
    check(
        "args: [mend]",
        "volumeMounts: [{name: x, mountPath: /x}]",
        "no volume `x`",
    );
    check(
        "serviceAccountName: web",
        "serviceAccountName: a",
        "no ServiceAccount a",
    );
    check(
        "serviceAccountName: web",
        "restartPolicy: Always",
        "`restartPolicy`",
    );
    check(
        "[{name: mend,",
        "[{name: b, image: web}, {name: mend,",
        "2 containers, not one",
    );
    check("{app: web-mend}", "{}", "nobody could tell");
    check(
        "{app: web-mend}",
        "{app: web}",
        "would belong to Deployment web",
    );
    check(
        "    containers:",
        "    volumes: [{name: d, persistentVolumeClaim: {claimName: web}}]\n    containers:",
        "the data of one pod",
    );
    let twice = format!(
        "{TEMPLATE}{}",
        TEMPLATE.replace("name: web-mend}", "name: other}")
    );
    let error = parse(&twice).expect_err("both have the same pods");
    assert!(
        error.to_string().contains("PodTemplate web-mend"),
        "{error}"
    );
}
