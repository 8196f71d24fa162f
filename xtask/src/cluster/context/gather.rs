//! What explains a failure on a cluster that is reached by its API server alone, gathered before the
//! namespace goes: that namespace, and nothing of anybody else's.

use anyhow::Result;

use super::left;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::gather::write;
use crate::process::Invocation;
use crate::run::Run;

/// Asks for everything that is worth to be known. Where there is no namespace there is nothing to
/// gather.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn gather(run: &Run) -> Result<()> {
    match left::kubectl(run.directory()) {
        Some(kubectl) => write(run, questions(&kubectl)),
        None => Ok(()),
    }
}

/// A file, and what its content is asked with. Secrets are not among it.
fn questions(kubectl: &Kubectl) -> Vec<(&'static str, Invocation)> {
    let described =
        "pods,deployments,replicasets,services,endpointslices,configmaps,persistentvolumeclaims";
    let ask = |arguments: &[&str]| {
        kubectl
            .invocation()
            .args([
                format!("--namespace={}", kubectl.namespace),
                "--request-timeout=10s".to_owned(),
            ])
            .args(arguments.iter().copied())
    };
    vec![
        ("pods.txt", ask(&["get", "pods", "--output=wide"])),
        ("pods.yaml", ask(&["get", "pods", "--output=yaml"])),
        (
            "events.txt",
            ask(&["get", "events", "--sort-by=.metadata.creationTimestamp"]),
        ),
        ("describe.txt", ask(&["describe", described])),
    ]
}

#[cfg(test)]
mod tests {
    use super::questions;
    use crate::cluster::kubernetes::Kubectl;

    #[test]
    fn only_the_namespace_of_the_run_is_looked_at_and_no_secret() {
        let kubectl = Kubectl {
            program: "kubectl".into(),
            kubeconfig: "k".into(),
            namespace: "r-1".to_owned(),
        };
        for (file, ask) in questions(&kubectl) {
            let line = ask.to_string();
            assert!(line.contains("--namespace=r-1"), "{file}: {line}");
            assert!(
                !line.contains("secret") && !line.contains("all-namespaces"),
                "{file}: {line}"
            );
        }
    }
}
