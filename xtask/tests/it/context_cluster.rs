//! A cluster that was there before the run: what is refused before anything is made there, what is
//! never done to the user's kubeconfig, and how a namespace that was left is removed. kubectl is one
//! that says what it is told to; the real one is tried by `ci`.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use xtask::run::checkout;

use crate::bundle::manifest;
use crate::source_tree::Tree;

const ID: &str = "store-20261125-160000-4f2a";

/// A checkout, and programs that say what they are told to.
struct Desk {
    tree: Tree,
}

impl Desk {
    fn new(kubectl: &Value) -> Self {
        let desk = Self { tree: Tree::bare() };
        for name in ["cc", "cargo", "mmdebstrap", "skopeo"] {
            desk.program(name, &json!([{}]));
        }
        desk.program(
            "podman",
            &json!([
                {"arguments": ["image", "inspect"], "stdout": "[]"},
                {"arguments": ["load"], "reads": true, "stdout": "Loaded image: localhost/x:1\n"},
                {"arguments": ["--version"], "stdout": "podman version 4.3.1\n"},
                {},
            ]),
        );
        desk.program("kubectl", kubectl);
        desk.tree.write("kubeconfig", "the user's own\n");
        let pin = "[postgres]\nimage = \"docker.io/library/postgres:15-bookworm\"\n";
        desk.tree.write("deploy/images.toml", pin);
        for name in ["store", "postgres"] {
            let path = format!("deploy/{name}.yaml");
            desk.tree.write(&path, &manifest(name));
        }
        desk
    }

    fn program(&self, name: &str, answers: &Value) {
        let program = self.tree.path("programs").join(name);
        self.tree
            .write(&format!("programs/{name}.json"), &answers.to_string());
        if !program.exists() {
            symlink(env!("CARGO_BIN_EXE_fake-program"), &program).unwrap();
        }
    }

    fn xtask(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(arguments)
            .current_dir(self.tree.root())
            .env("PATH", self.tree.path("programs"))
            .env("CARGO", self.tree.path("programs/cargo"))
            .env("CARGO_TARGET_DIR", self.tree.path("target"))
            .env("XDG_CACHE_HOME", self.tree.path("cache"))
            .env("KUBECONFIG", self.tree.path("kubeconfig"))
            .env_remove("CONTAINERS_CONF")
            .env_remove("E2E_CLUSTER")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What was asked of kubectl, a line for each call.
    fn calls(&self) -> String {
        fs::read_to_string(self.tree.path("programs/kubectl.calls")).unwrap_or_default()
    }

    /// The folder of a run that has died and left a namespace.
    fn leave_a_namespace(&self) -> camino::Utf8PathBuf {
        let root = self.tree.root().canonicalize_utf8().unwrap();
        let folder = format!("target/e2e/runs/{ID}");
        let line = |event: &str, details: Value| {
            format!("{}\n", json!({"event": event, "details": details}))
        };
        let kubectl = self.tree.path("programs/kubectl");
        let journal = [
            line(
                "begin",
                json!({"target": "store", "checkout": checkout(&root)}),
            ),
            line("context", json!({"context": "c", "kubectl": kubectl})),
            line("make", json!({"kind": "namespace", "name": ID})),
        ];
        self.tree
            .write(&format!("{folder}/journal.jsonl"), &journal.concat());
        self.tree
            .write(&format!("{folder}/secrets/kubeconfig"), "{}");
        self.tree.write(&format!("{folder}/lock"), "");
        self.tree.path(&folder)
    }
}

#[track_caller]
fn check(output: &Output, code: i32, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    for word in words {
        assert!(told.contains(word), "`{word}` is not in: {told}");
    }
}

#[test]
fn a_registry_must_be_named_before_anything_is_done() {
    let desk = Desk::new(&json!([{}]));
    let refused = desk.xtask(&["e2e", "store", "--cluster", "context:c"]);
    check(
        &refused,
        2,
        &[
            "context:c pulls its images",
            "none is named",
            "`--registry <host",
        ],
    );
    assert_eq!(desk.calls(), "");
    assert!(!desk.tree.path("target/e2e/runs").exists());
}

#[test]
fn what_is_no_cluster_is_a_wrong_command_line() {
    let desk = Desk::new(&json!([{}]));
    let refused = desk.xtask(&["e2e", "store", "--cluster", "minikube"]);
    check(
        &refused,
        2,
        &["minikube", "`local`, `kind`, and `context:<name>`"],
    );
    let refused = desk.xtask(&["e2e", "store", "--cluster", "context:"]);
    check(&refused, 2, &["it names no context"]);
    let watched = [
        "e2e",
        "store",
        "--watch",
        "--cluster",
        "context:c",
        "--registry",
        "r.example.org/a",
    ];
    check(
        &desk.xtask(&watched),
        2,
        &["--watch does not go with --cluster"],
    );
}

#[test]
fn nothing_is_made_on_a_cluster_that_this_kubectl_does_not_fit() {
    let version =
        |minor: &str| json!({"major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0")});
    let versions = json!({"clientVersion": version("20"), "serverVersion": version("36")});
    let desk = Desk::new(&json!([
        {"arguments": ["get-contexts"], "stdout": "other\nc\n"},
        {"arguments": ["view"], "stdout": "{\"users\": []}"},
        {"arguments": ["version"], "stdout": versions.to_string()},
        {"code": 1},
    ]));
    // There is no compiler either, and that is told first.
    let arguments = [
        "e2e",
        "store",
        "--cluster",
        "context:c",
        "--registry",
        "r.example.org/a",
    ];
    let ended = desk.xtask(&arguments);
    check(&ended, 3, &[]);
    let calls = desk.calls();
    for asked in [
        "config get-contexts",
        "config view --raw --flatten --minify --context=c",
        "version",
    ] {
        assert!(calls.contains(asked), "`{asked}` is not in: {calls}");
    }
    for made in ["create", "apply", "delete", "use-context", "set-context"] {
        assert!(!calls.contains(made), "`{made}` is in: {calls}");
    }
    // From then on the run's own is used.
    let version = calls
        .lines()
        .find(|line| line.contains("version "))
        .unwrap();
    assert!(version.contains("secrets/kubeconfig"), "{version}");
    let users = fs::read_to_string(desk.tree.path("kubeconfig")).unwrap();
    assert_eq!(users, "the user's own\n");
}

#[test]
fn a_context_that_is_not_there_is_not_opened() {
    let desk = Desk::new(&json!([
        {"arguments": ["get-contexts"], "stdout": "other\n"},
        {"code": 1},
    ]));
    let arguments = [
        "e2e",
        "store",
        "--cluster",
        "context:c",
        "--registry",
        "r.example.org/a",
    ];
    assert!(!desk.xtask(&arguments).status.success());
    assert_eq!(desk.calls(), "config get-contexts --output=name\n");
}

#[test]
fn clean_removes_a_namespace_that_was_left_and_then_the_folder() {
    let desk = Desk::new(&json!([{}]));
    let folder = desk.leave_a_namespace();
    let cleaned = desk.xtask(&["clean"]);
    check(
        &cleaned,
        0,
        &[&format!("removed the namespace {ID} on context:c")],
    );
    let calls = desk.calls();
    for asked in [
        format!("delete namespace {ID}"),
        format!("wait --for=delete namespace/{ID}"),
    ] {
        assert!(calls.contains(&asked), "`{asked}` is not in: {calls}");
    }
    let kubeconfig = folder.join("secrets/kubeconfig");
    assert!(
        calls.lines().all(|line| line.contains(kubeconfig.as_str())),
        "{calls}"
    );
    assert!(!folder.exists());
}

#[test]
fn a_namespace_that_does_not_go_keeps_what_opens_its_cluster() {
    let desk = Desk::new(&json!([
        {"arguments": ["wait"], "stderr": "timed out waiting\n", "code": 1},
        {"arguments": ["--ignore-not-found", "--output=name"], "stdout": format!("namespace/{ID}\n")},
        {"arguments": ["--raw"], "stdout": json!({"status": {"conditions": [
            {"status": "True", "message": "a finalizer is left"},
            {"status": "False", "message": "all is well"},
        ]}}).to_string()},
        {},
    ]));
    let folder = desk.leave_a_namespace();
    let cleaned = desk.xtask(&["clean"]);
    check(
        &cleaned,
        70,
        &[ID, "context:c", "a finalizer is left", "timed out waiting"],
    );
    assert!(folder.join("secrets/kubeconfig").exists());
    // Nor does the next run on another cluster forget it.
    assert!(!desk.xtask(&["e2e", "store"]).status.success());
    assert!(folder.join("secrets/kubeconfig").exists());
}
