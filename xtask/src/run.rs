//! A run: its folder, its journal, its lock, and its clean-up. Every resource stands in the journal
//! before it is made, and carries the run's labels; only what a run made is ever removed.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::source::workspace::{TargetName, Workspace};

/// Label with the run's ID, on every resource of a run.
pub const LABEL_RUN: &str = "phase-zero.run";
/// Label with the checkout: the first 16 hex digits of SHA-256 of its root's path.
pub const LABEL_CHECKOUT: &str = "phase-zero.checkout";
/// Label with the target.
pub const LABEL_TARGET: &str = "phase-zero.target";

/// A run that this process owns. The lock is let go when the process ends, however it ends.
#[derive(Debug)]
pub struct Run {
    id: String,
    directory: Utf8PathBuf,
    checkout: String,
    target: TargetName,
}

/// What a run makes outside its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum Resource {
    /// A container, by name.
    Container(String),
    /// A network, by name.
    Network(String),
    /// A volume, by name.
    Volume(String),
}

impl Run {
    /// Begins a run: folder `target/e2e/runs/<id>`, mode 0700, lock, journal.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(_workspace: &Workspace, _target: &TargetName) -> Result<Self> {
        todo!()
    }

    /// `gateway-20261123-181500-4f2a`: target, UTC time, random.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder, absolute.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Its target.
    #[must_use]
    pub const fn target(&self) -> &TargetName {
        &self.target
    }

    /// `--label` values for everything that it makes: `name=value`.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        vec![
            format!("{LABEL_RUN}={}", self.id),
            format!("{LABEL_CHECKOUT}={}", self.checkout),
            format!("{LABEL_TARGET}={}", self.target),
        ]
    }

    /// Writes a line to the journal, synced, before a resource is made.
    ///
    /// # Errors
    /// When the journal cannot be written: then the resource must not be made.
    pub fn journal(&self, _resource: &Resource) -> Result<()> {
        todo!()
    }

    /// Notes something that happened, for people.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn note(&self, _event: &str, _details: &serde_json::Value) -> Result<()> {
        todo!()
    }

    /// Removes everything that carries this run's label: containers, then volumes and networks.
    /// Sees to it that nothing is left, by asking the engine again.
    ///
    /// # Errors
    /// When something is left: names it.
    pub fn clean_up(&self, _engine: &Engine) -> Result<()> {
        todo!()
    }
}
