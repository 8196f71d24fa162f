//! Phase 5: what runs is what was built. The image ID of every container against the ID that was
//! built, the answer of every process against the source digest. Again after the tests, with
//! restarts that nobody asked for.

use anyhow::Result;
use serde::Serialize;

use super::deploy::Deployment;
use crate::cluster::Cluster;
use crate::run::Run;

/// Proved.
#[derive(Debug)]
pub struct Attested {
    pub(in crate::pipeline) deployment: Deployment,
    pub(in crate::pipeline) evidence: Vec<Evidence>,
}

/// What was seen of one container.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// The service.
    pub service: String,
    /// The container.
    pub container: String,
    /// Its reference, as the engine tells it.
    pub reference: String,
    /// The ID of the image that it runs, `sha256:...`.
    pub image_id: String,
    /// What `/version` answered; absent for third parties.
    pub version: Option<serde_json::Value>,
    /// When its process was started, as the engine tells it.
    pub started_at: String,
    /// How often the engine has restarted it.
    pub restart_count: u64,
}

impl Attested {
    /// What was deployed.
    #[must_use]
    pub const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// What was seen.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// Looks again: same containers, same images, same answers, and no restart that the run's
    /// `faults.jsonl` did not announce.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Attest`], with what differs.
    pub fn look_again(&self, _run: &Run, _cluster: &Cluster) -> Result<Vec<Evidence>> {
        todo!()
    }
}

/// Proves every container of the deployment.
///
/// # Errors
/// [`crate::exit::Exit::Attest`], with what differs: what was built, what runs.
pub fn attest(_deployment: Deployment, _cluster: &Cluster) -> Result<Attested> {
    todo!()
}
