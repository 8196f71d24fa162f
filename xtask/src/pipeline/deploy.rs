//! Phase 4: the manifests with the references of phase 0, rolled out and reachable.

use std::time::Duration;

use anyhow::Result;

use super::Images;
use super::load::Loaded;
use crate::cluster::Cluster;
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::Workspace;

/// Everything that was deployed is ready and answered from outside.
#[derive(Debug)]
pub struct Deployment {
    pub(in crate::pipeline) images: Images<Loaded>,
}

impl Deployment {
    /// The images that were deployed.
    #[must_use]
    pub const fn images(&self) -> &Images<Loaded> {
        &self.images
    }
}

/// Deploys third parties and every image, and waits until each is ready. Writes `run.json`.
///
/// # Errors
/// [`crate::exit::Exit::Manifest`] for a manifest that is refused; [`crate::exit::Exit::Deploy`]
/// when a container ends or a readiness does not come in time: with the last answer and the last log lines.
pub fn deploy(
    _workspace: &Workspace,
    _run: &Run,
    _secrets: &Secrets,
    _images: Images<Loaded>,
    _cluster: &mut Cluster,
    _deadline: Duration,
) -> Result<Deployment> {
    todo!()
}
