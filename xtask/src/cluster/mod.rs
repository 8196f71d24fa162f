//! Where a run is deployed. An enum, not a trait: the clusters are few and known.

use anyhow::Result;

pub mod local;

/// A cluster of a run.
#[derive(Debug)]
pub enum Cluster {
    /// Containers on podman or docker, no Kubernetes.
    Local(local::Local),
}

impl Cluster {
    /// What the summary line calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local (not Kubernetes)",
        }
    }

    /// The state of every container of the run, one line each, for a failure.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn describe(&self) -> Result<Vec<String>> {
        match self {
            Self::Local(local) => local.describe(),
        }
    }
}
