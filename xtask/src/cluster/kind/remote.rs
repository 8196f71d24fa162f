//! A kind cluster that stands for a remote one: made beforehand, with its own kubeconfig, its nodes told
//! where a registry is. Whoever tests against it knows its API server and nothing else.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::config::Shape;
use super::create::{Pulls, Purpose, create, look_at_node};
use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::namespace::{NAMES, NAMES_DEADLINE};
use crate::cluster::local::make_network;
use crate::engine::Engine;
use crate::process::{self, Input, Invocation};
use crate::run::{self, Run};

/// A file is written, or an answer read.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Such a cluster. It goes with the run that it was made for.
#[derive(Debug)]
pub(crate) struct Remote {
    engine: Engine,
    run: Arc<Run>,
    node: String,
    kubectl: Kubectl,
}

impl Remote {
    /// Makes it, and waits until its name service is ready.
    ///
    /// # Errors
    /// When kind makes no cluster.
    pub(crate) fn make(
        run: &Arc<Run>,
        engine: &Engine,
        bundle: Option<&Arc<Bundle>>,
    ) -> Result<Self> {
        let purpose = Purpose {
            run: Arc::clone(run),
            engine: engine.clone(),
            bundle: bundle.cloned(),
            shape: Shape {
                nodes_count: 1,
                ports_count: 1,
            },
            pulls: Pulls::FromRegistries,
        };
        make_network(run, engine, &run::kind_network(run.id()))?;
        let (up, _is_up) = mpsc::channel();
        create(&purpose, &up, &AtomicBool::new(false))?;
        let found = look_at_node(&purpose)?;
        let kubectl = found.kubectl;
        let (namespace, name) = NAMES;
        kubectl.wait_for_roll_out(namespace, name, NAMES_DEADLINE, &AtomicBool::new(false))?;
        Ok(Self {
            engine: engine.clone(),
            run: Arc::clone(run),
            node: found.nodes.first().to_owned(),
            kubectl,
        })
    }

    /// The kubeconfig that kind wrote: the user's, for whoever comes to this cluster.
    pub(crate) fn kubeconfig(&self) -> &Utf8Path {
        &self.kubectl.kubeconfig
    }

    /// Its one context.
    pub(crate) fn context(&self) -> String {
        format!("kind-{}", self.run.id())
    }

    /// The folder that holds a kubectl of its version.
    pub(crate) fn kubectl_folder(&self) -> Option<Utf8PathBuf> {
        self.kubectl.program.parent().map(Utf8Path::to_owned)
    }

    /// The namespaces that are there.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn namespaces(&self) -> Result<Vec<String>> {
        let listed: Vec<Value> = self.kubectl.list("/api/v1/namespaces")?;
        let names = listed.iter();
        let names = names.filter_map(|one| one["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Where the host is, for its nodes: the gateway of its own network.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub(crate) fn gateway(&self) -> Result<String> {
        let network = run::kind_network(self.run.id());
        let inspect = self
            .engine
            .invocation()
            .args(["network", "inspect", &network]);
        let told = process::capture(&inspect, ANSWER_DEADLINE)?.stdout;
        gateway_of(&told).with_context(|| format!("network {network} has no gateway: {told}"))
    }

    /// Tells its nodes that what is pulled from `host` comes from `url`.
    ///
    /// # Errors
    /// With the words of the engine.
    pub(crate) fn pull_through(&self, host: &str, url: &str) -> Result<()> {
        let folder = format!("{REGISTRIES}/{host}");
        let exec = |words: &[&str]| -> Invocation {
            let exec = self.engine.invocation().args(["exec", "--interactive"]);
            exec.arg(self.node.as_str()).args(words.iter().copied())
        };
        process::capture(&exec(&["mkdir", "-p", &folder]), ANSWER_DEADLINE)?;
        let text = format!("[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        let write = exec(&["tee", &format!("{folder}/hosts.toml")]);
        let input = Input::Bytes(text.into_bytes());
        process::capture_with_input(&write, &input, ANSWER_DEADLINE)?;
        Ok(())
    }
}

/// Where a node's runtime looks for what it is told of registries, a folder for each.
pub(super) const REGISTRIES: &str = "/etc/containerd/certs.d";

/// As podman tells it, or docker.
fn gateway_of(told: &str) -> Option<String> {
    let networks: Value = serde_json::from_str(told).ok()?;
    let places = ["/0/subnets/0/gateway", "/0/IPAM/Config/0/Gateway"];
    let found = places.iter().find_map(|place| networks.pointer(place));
    found?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::gateway_of;

    #[test]
    fn both_engines_tell_the_gateway() {
        let podman = r#"[{"subnets": [{"subnet": "10.89.0.0/24", "gateway": "10.89.0.1"}]}]"#;
        assert_eq!(gateway_of(podman).as_deref(), Some("10.89.0.1"));
        let docker = r#"[{"IPAM": {"Config": [{"Gateway": "172.18.0.1"}]}}]"#;
        assert_eq!(gateway_of(docker).as_deref(), Some("172.18.0.1"));
        assert_eq!(gateway_of("[]"), None);
    }
}
