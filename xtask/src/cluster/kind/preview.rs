//! A run on kind that is only looked at: the commands that it would call, from the functions that
//! call them.

use camino::Utf8Path;

use super::create;
use super::node::Node;
use super::nodes;
use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::local::creation;
use crate::engine::Engine;
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
    pub(crate) fn imports(&self, references: &[&str]) -> Vec<Invocation> {
        let names = nodes::names(self.id, self.nodes_count);
        let import = |name: &String| {
            let engine = self.engine;
            Node { engine, name }.exchange_command(references)
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
