//! Where a run is deployed. An enum, not a trait: the clusters are few and known.

use std::sync::Arc;

use anyhow::Result;

use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::manifest::Manifests;
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::ThirdPartyImage;

pub mod local;

/// A cluster of a run.
#[derive(Debug)]
pub enum Cluster {
    /// Containers on podman or docker, no Kubernetes.
    Local(local::Local),
}

impl Cluster {
    /// Makes the local cluster of a run, and sees to it that the engine has the third-party images.
    /// Needs nothing of phases 0 and 1, so it goes beside them.
    ///
    /// # Errors
    /// When the engine makes no network, or an image cannot be had.
    pub fn start_local(
        workspace: &Workspace,
        target: &Target,
        run: &Run,
        engine: &Engine,
        bundle: Option<&Bundle>,
    ) -> Result<Self> {
        local::Local::start(workspace, target, run, engine, bundle).map(Self::Local)
    }

    /// Starts what runs third-party images alone: it needs nothing of phases 0 and 1 either. Phase
    /// 4 waits for it, and so must [`Self::settle`] before anything is removed.
    ///
    /// # Errors
    /// When a manifest cannot be honoured.
    pub fn start_third_party(
        &mut self,
        run: &Arc<Run>,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        match self {
            Self::Local(local) => local.start_third_party(run, secrets, manifests),
        }
    }

    /// Waits for what was begun beside other phases.
    ///
    /// # Errors
    /// When it failed.
    pub fn settle(&mut self) -> Result<()> {
        match self {
            Self::Local(local) => local.settle(),
        }
    }

    /// What the summary line calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Local(_) => "local (not Kubernetes)",
        }
    }

    /// In one line what the last roll-out made anew and what it left, where it was not the first.
    #[must_use]
    pub fn replaced(&self) -> Option<String> {
        match self {
            Self::Local(local) => local.replaced(),
        }
    }

    /// The third-party images of the run.
    #[must_use]
    pub fn third_party(&self) -> &[ThirdPartyImage] {
        match self {
            Self::Local(local) => local.third_party(),
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
