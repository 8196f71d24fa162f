//! What explains a failure on kind, gathered before the cluster goes: asked of the node itself, so
//! that it is told as well of a cluster that never came up.

use anyhow::Result;

use crate::cluster::kubernetes::gather::write;
use crate::engine::Engine;
use crate::process::Invocation;
use crate::run::{self, Run};

/// Asks for everything that is worth to be known; what cannot be told is told as such in its file.
/// Where there is no node there is nothing to gather. `owner` is the ID of what owns the cluster.
///
/// # Errors
/// When a file cannot be written, or the engine does not answer.
pub(crate) fn gather(run: &Run, owner: &str, engine: &Engine) -> Result<()> {
    let node = run::kind_node(owner);
    if engine.containers([node.as_str()])?.is_empty() {
        return Ok(());
    }
    let exec = engine.invocation().args(["exec", &node]);
    write(run, questions(run.id(), &exec))
}

/// A file, and what its content is asked with.
fn questions(namespace: &str, exec: &Invocation) -> Vec<(&'static str, Invocation)> {
    let kubectl = |arguments: &[&str]| {
        exec.clone()
            .args([
                "kubectl",
                "--kubeconfig=/etc/kubernetes/admin.conf",
                "--request-timeout=10s",
            ])
            .args(arguments.iter().copied())
    };
    let inside = |arguments: &[&str]| exec.clone().args(arguments.iter().copied());
    let journal = |unit: &str| {
        exec.clone()
            .args(["journalctl", "--no-pager", "--lines=4000", "--unit", unit])
    };
    let namespace = format!("--namespace={namespace}");
    let described =
        "pods,deployments,replicasets,services,endpointslices,configmaps,persistentvolumeclaims";
    vec![
        (
            "pods.txt",
            kubectl(&["get", "pods", "--all-namespaces", "--output=wide"]),
        ),
        (
            "pods.yaml",
            kubectl(&["get", "pods", &namespace, "--output=yaml"]),
        ),
        (
            "events.txt",
            kubectl(&[
                "get",
                "events",
                "--all-namespaces",
                "--sort-by=.metadata.creationTimestamp",
            ]),
        ),
        (
            "describe.txt",
            kubectl(&["describe", described, &namespace]),
        ),
        ("nodes.txt", kubectl(&["describe", "nodes"])),
        ("images.txt", inside(&["crictl", "images"])),
        (
            "images-complete.txt",
            inside(&["ctr", "--namespace=k8s.io", "images", "check"]),
        ),
        ("kubelet.log", journal("kubelet")),
        ("containerd.log", journal("containerd")),
    ]
}
