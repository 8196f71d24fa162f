//! `run.json` of a run, read for `status` and `logs`: what was deployed, and how to reach it. Ports
//! are asked of the engine at each use, since an engine may give others after a restart.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use crate::cluster::kubernetes::Kubectl;
use crate::engine::ask;
use crate::process::Invocation;

/// What a deployed run says of itself.
#[derive(Debug, Deserialize)]
pub(super) struct RunFile {
    engine: EngineFile,
    #[serde(default)]
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) services: BTreeMap<String, Service>,
    pub(super) tokens_directory: Utf8PathBuf,
    pub(super) passwords_directory: Utf8PathBuf,
}

#[derive(Debug, Deserialize)]
struct EngineFile {
    program: String,
    environment: BTreeMap<String, String>,
}

/// How what runs on Kubernetes is reached.
#[derive(Debug, Deserialize)]
pub(super) struct Kubernetes {
    #[serde(flatten)]
    kubectl: Kubectl,
    /// A container of the engine, that publishes the ports of the node; nothing where only
    /// `kubectl port-forward` leads in.
    #[serde(default)]
    node: Option<String>,
}

impl Kubernetes {
    /// kubectl in the namespace of the run, and nothing asked yet.
    pub(super) fn kubectl(&self) -> Invocation {
        self.kubectl.in_namespace()
    }

    /// What leads to a Deployment where no port of the host does, for as long as it runs.
    pub(super) fn port_forward(&self, deployment: &str, ports: &[u16]) -> Option<Invocation> {
        if self.node.is_some() || ports.is_empty() {
            return None;
        }
        let forward = self.kubectl().args(["port-forward", "--address=127.0.0.1"]);
        let forward = forward.arg(format!("deployment/{deployment}"));
        Some(forward.args(ports.iter().map(|port| format!(":{port}"))))
    }
}

/// A service of the run.
#[derive(Debug, Deserialize)]
pub(super) struct Service {
    pub(super) containers: Vec<String>,
    pub(super) ports: BTreeMap<String, u16>,
    /// On Kubernetes: the ports of the node that lead there.
    #[serde(default)]
    node_ports: BTreeMap<String, u16>,
}

impl RunFile {
    /// Reads it, if the run got so far as to have one.
    pub(super) fn read(run_directory: &Utf8Path) -> Result<Option<Self>> {
        let path = run_directory.join("run.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .with_context(|| format!("cannot read {path}"))
    }

    /// The engine that the run was deployed to, and no arguments yet.
    pub(super) fn engine(&self) -> Invocation {
        self.engine.environment.iter().fold(
            Invocation::new(self.engine.program.as_str()),
            |invocation, (name, value)| invocation.env(name, value),
        )
    }

    /// Where a container's port of this name is reached from here, `127.0.0.1:40123`; `None` while it
    /// is down.
    pub(super) fn published(
        &self,
        service: &Service,
        container: &str,
        port: &str,
    ) -> Result<Option<String>> {
        let (container, number) = match &self.kubernetes {
            Some(kubernetes) => match &kubernetes.node {
                Some(node) => (node.as_str(), service.node_ports.get(port)),
                None => return Ok(None),
            },
            None => (container, service.ports.get(port)),
        };
        let Some(port) = number else {
            return Ok(None);
        };
        let invocation = self
            .engine()
            .args(["port", container])
            .arg(format!("{port}/tcp"));
        let output = ask::output(&invocation)?;
        let first = output.stdout.lines().next().map(str::to_owned);
        Ok(first.filter(|_| output.code == 0))
    }

    /// The tokens that open a service: subject and file.
    pub(super) fn tokens(&self, service: &str) -> Vec<(String, Utf8PathBuf)> {
        let Ok(entries) = self.tokens_directory.read_dir_utf8() else {
            return Vec::new();
        };
        let mut tokens: Vec<_> = entries
            .filter_map(|entry| {
                let path = entry.ok()?.into_path();
                let (subject, at) = path.file_name()?.split_once('@')?;
                (at == service).then(|| (subject.to_owned(), path.clone()))
            })
            .collect();
        tokens.sort();
        tokens
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use serde_json::json;

    use super::RunFile;

    #[test]
    fn kubectl_of_a_kept_run_is_that_of_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let kubernetes = json!({
            "kubectl": "/cache/kubectl", "kubeconfig": "/run/kubeconfig", "namespace": "ns", "node": "n",
        });
        let file = json!({
            "engine": {"program": "podman", "environment": {}}, "kubernetes": kubernetes, "services": {},
            "tokens_directory": "t", "passwords_directory": "p",
        });
        std::fs::write(folder.join("run.json"), file.to_string()).unwrap();
        let read = RunFile::read(folder).unwrap().unwrap();
        let line = read.kubernetes.unwrap().kubectl().to_string();
        let expected = [
            "/cache/kubectl --kubeconfig=/run/kubeconfig",
            "--cache-dir=/run/kubeconfig.cache",
            "--namespace=ns",
        ];
        assert!(line.ends_with(&expected.join(" ")), "{line}");
    }
}
