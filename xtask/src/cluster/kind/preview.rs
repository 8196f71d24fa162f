//! A run on kind that is only looked at: the commands that it would call, from the functions that
//! call them.

use anyhow::Result;
use camino::Utf8Path;
use serde_json::Value;

use super::create;
use super::node::Node;
use super::nodes;
use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::documents::{self, Place, Which};
use crate::cluster::local::creation;
use crate::engine::Engine;
use crate::manifest::{Manifests, Named, References};
use crate::process::Invocation;
use crate::run;

/// The kubectl of a node that is not there yet.
const KUBECTL: &str = "<kubectl of the node>";

/// What would be made.
pub(crate) struct Preview<'a> {
    /// The engine that would run it.
    pub(crate) engine: &'a Engine,
    /// What stands for the run's ID.
    pub(crate) id: &'a str,
    /// What stands for its folder.
    pub(crate) directory: &'a Utf8Path,
    /// The labels that the network would get.
    pub(crate) labels: &'a [String],
    /// How many nodes it would have.
    pub(crate) nodes_count: u8,
    /// Where tools and images would come from.
    pub(crate) bundle: Option<&'a Bundle>,
}

impl Preview<'_> {
    /// The network, and the cluster on it.
    pub(crate) fn cluster(&self) -> [Invocation; 2] {
        let network = creation(
            self.engine,
            "network",
            self.labels,
            &run::kind_network(self.id),
        );
        let create = create::preview(self.engine, self.bundle, self.id, self.directory);
        [network, create]
    }

    /// What takes an archive from its standard input, on each node.
    pub(crate) fn imports(&self) -> Vec<Invocation> {
        let names = nodes::names(self.id, self.nodes_count);
        let import = |name: &String| {
            let engine = self.engine;
            Node { engine, name }.import_command()
        };
        names.iter().map(import).collect()
    }

    /// What takes documents from its standard input.
    pub(crate) fn apply(&self) -> Invocation {
        Kubectl {
            program: KUBECTL.into(),
            kubeconfig: create::kubeconfig(self.directory),
            namespace: self.id.to_owned(),
        }
        .apply_command()
    }

    /// The documents of the manifests, each by kind and name, with the references that it would get.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Manifest`] for an image that does not belong to the run.
    pub(crate) fn documents(
        &self,
        manifests: &Manifests,
        references: &References<impl Named>,
    ) -> Result<Vec<String>> {
        let place = Place {
            run: self.id,
            namespace: self.id,
        };
        let documents = documents::of_manifests(place, manifests, references, Which::All)?;
        Ok(documents.iter().map(told).collect())
    }

    /// What would be removed.
    pub(crate) fn removals(&self) -> Vec<Invocation> {
        let resources = run::Resources {
            containers: nodes::names(self.id, self.nodes_count),
            volumes: Vec::new(),
            networks: vec![run::kind_network(self.id)],
        };
        run::removals(self.engine, &resources)
    }
}

/// `Deployment gateway: localhost/gateway:...`
pub(in crate::cluster) fn told(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let mut told = format!(
        "{} {}",
        text("/kind").unwrap_or_default(),
        text("/metadata/name").unwrap_or_default()
    );
    let lists = ["initContainers", "containers"].map(|list| format!("/spec/template/spec/{list}"));
    let containers = lists
        .iter()
        .filter_map(|list| document.pointer(list)?.as_array());
    let mut images: Vec<&str> = containers
        .flatten()
        .filter_map(|container| container["image"].as_str())
        .collect();
    images.dedup();
    if !images.is_empty() {
        told.push_str(&format!(": {}", images.join(", ")));
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::told;

    #[test]
    fn a_document_is_told_with_its_images() {
        let pod = json!({"initContainers": [{"image": "a:1"}], "containers": [{"image": "a:1"}, {"image": "b:2"}]});
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"spec": pod}}});
        assert_eq!(told(&deployment), "Deployment x: a:1, b:2");
        assert_eq!(
            told(&json!({"kind": "Service", "metadata": {"name": "y"}})),
            "Service y"
        );
    }
}
