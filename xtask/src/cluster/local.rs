//! The local cluster: containers on a private network, restarted by the engine when they end, so
//! that it holds after the tool has gone. Ports are random on 127.0.0.1. It honours a closed list
//! of what a manifest may say and refuses the rest, naming the field and `--cluster kind`.

use anyhow::Result;

use crate::engine::Engine;
use crate::run::Run;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::ThirdPartyImage;

/// The local cluster of a run.
#[derive(Debug)]
pub struct Local {
    third_party: Vec<ThirdPartyImage>,
}

impl Local {
    /// Makes the private network, and sees to it that the engine has the third-party images.
    ///
    /// # Errors
    /// When the engine makes no network, or an image cannot be had.
    pub fn start(
        _workspace: &Workspace,
        _target: &Target,
        _run: &Run,
        _engine: &Engine,
    ) -> Result<Self> {
        todo!()
    }

    /// The third-party images of the run.
    #[must_use]
    pub fn third_party(&self) -> &[ThirdPartyImage] {
        &self.third_party
    }

    /// The state of every container, one line each.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn describe(&self) -> Result<Vec<String>> {
        todo!()
    }
}
