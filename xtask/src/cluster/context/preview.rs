//! A run on the cluster of a context that is only looked at: the commands that it would call, from the
//! functions that call them. No cluster is asked.

use camino::Utf8Path;

use super::{access, left};
use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::host;
use crate::process::Invocation;

/// What would be done.
pub(crate) struct Preview<'a> {
    /// The context.
    pub(crate) context: &'a str,
    /// What stands for the run's ID.
    pub(crate) id: &'a str,
    /// What stands for its folder.
    pub(crate) directory: &'a Utf8Path,
    /// Where kubectl would come from.
    pub(crate) bundle: Option<&'a Bundle>,
}

impl Preview<'_> {
    fn kubectl(&self) -> Kubectl {
        let has_tool = |bundle: &&Bundle| bundle.tools().any(|tool| tool == "kubectl");
        let program = match self.bundle.filter(has_tool) {
            Some(_) => None,
            None => host::program("kubectl"),
        };
        Kubectl {
            program: program.unwrap_or_else(|| "kubectl".into()),
            kubeconfig: access::kubeconfig(self.directory),
            namespace: self.id.to_owned(),
        }
    }

    /// The one look at the user's kubeconfig, and the namespace.
    pub(crate) fn cluster(&self) -> [Invocation; 2] {
        let kubectl = self.kubectl();
        [
            access::view(&kubectl.program, self.context),
            kubectl.create_command(),
        ]
    }

    /// What takes documents from its standard input.
    pub(crate) fn apply(&self) -> Invocation {
        self.kubectl().apply_command()
    }

    /// What would be removed.
    pub(crate) fn removals(&self) -> [Invocation; 3] {
        left::removals(&self.kubectl())
    }
}
