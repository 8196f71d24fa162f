//! What explains a failure on kind, gathered before the cluster goes: asked of the node itself, so
//! that it is told as well of a cluster that never came up.

use anyhow::Result;

use super::nodes;
use crate::cluster::kubernetes::gather::write;
use crate::engine::Engine;
use crate::process::Invocation;
use crate::run::{self, Run};

/// Asks for everything that is worth to be known; what cannot be told is told as such in its file.
/// Where there is no node there is nothing to gather. `owner` is the ID of what owns the cluster.
///
/// # Errors
/// When a file cannot be written, or the engine does not answer.
pub(crate) fn gather(run: &Run, owner: &str, nodes_count: u8, engine: &Engine) -> Result<()> {
    let names = nodes::names(owner, nodes_count);
    let there = engine.containers(names.iter().map(String::as_str))?;
    let first = run::kind_node(owner);
    if !there.contains_key(&first) {
        return Ok(());
    }
    let exec = |node: &str| engine.invocation().args(["exec", node]);
    let mut asked = questions(run.id(), &exec(&first));
    if run.id() != owner {
        asked.extend(of_namespace(owner, "-kept", &exec(&first)));
    }
    for node in names.iter().filter(|name| there.contains_key(*name)) {
        // That of the control plane needs no name: it is mostly alone.
        let of = node.strip_prefix(owner).filter(|_| *node != first);
        asked.extend(of_node(&exec(node), of.unwrap_or_default()));
    }
    write(run, asked)
}

fn kubectl(exec: &Invocation, arguments: &[&str]) -> Invocation {
    exec.clone()
        .args([
            "kubectl",
            "--kubeconfig=/etc/kubernetes/admin.conf",
            "--request-timeout=10s",
        ])
        .args(arguments.iter().copied())
}

/// What a namespace holds; `of` tells namespaces apart.
fn of_namespace(namespace: &str, of: &str, exec: &Invocation) -> [(String, Invocation); 2] {
    let described =
        "pods,deployments,replicasets,services,endpointslices,configmaps,persistentvolumeclaims";
    let namespace = format!("--namespace={namespace}");
    let pods = ["get", "pods", &namespace, "--output=yaml"];
    let describe = ["describe", described, &namespace];
    [
        (format!("pods{of}.yaml"), kubectl(exec, &pods)),
        (format!("describe{of}.txt"), kubectl(exec, &describe)),
    ]
}

/// Files, and what the content of each is asked with.
fn questions(namespace: &str, exec: &Invocation) -> Vec<(String, Invocation)> {
    let pods = ["get", "pods", "--all-namespaces", "--output=wide"];
    let sorted = "--sort-by=.metadata.creationTimestamp";
    let events = ["get", "events", "--all-namespaces", sorted];
    let mut asked = vec![
        ("pods.txt".to_owned(), kubectl(exec, &pods)),
        ("events.txt".to_owned(), kubectl(exec, &events)),
        (
            "nodes.txt".to_owned(),
            kubectl(exec, &["describe", "nodes"]),
        ),
    ];
    asked.extend(of_namespace(namespace, "", exec));
    asked
}

/// What a node alone knows; `of` tells nodes apart.
fn of_node(exec: &Invocation, of: &str) -> [(String, Invocation); 4] {
    let inside = |arguments: &[&str]| exec.clone().args(arguments.iter().copied());
    let journal = |unit: &str| {
        exec.clone()
            .args(["journalctl", "--no-pager", "--lines=4000", "--unit", unit])
    };
    let check = ["ctr", "--namespace=k8s.io", "images", "check"];
    [
        (format!("images{of}.txt"), inside(&["crictl", "images"])),
        (format!("images-complete{of}.txt"), inside(&check)),
        (format!("kubelet{of}.log"), journal("kubelet")),
        (format!("containerd{of}.log"), journal("containerd")),
    ]
}
