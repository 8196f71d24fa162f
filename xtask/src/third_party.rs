//! Third-party images (`deploy/images.toml`): from a registry that answers within a short deadline,
//! else a rootfs made from Debian packages, cached by the list of package versions.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::engine::Engine;
use crate::source::workspace::{SecretValue, Workspace};

/// A third-party image that the engine has.
#[derive(Clone, Debug, Serialize)]
pub struct ThirdPartyImage {
    /// Its name in `deploy/images.toml`.
    pub name: String,
    /// What the engine calls it.
    pub reference: String,
    /// Its ID in the engine, `sha256:...`.
    pub image_id: String,
    /// Where it came from: `registry docker.io/library/postgres:15-bookworm`, or
    /// `debian bookworm, postgresql-15 15.18-0+deb12u1`, and whether from the cache.
    pub origin: String,
}

/// The Secrets that third-party images want, from `deploy/images.toml`.
///
/// # Errors
/// When the file cannot be read: names it.
pub fn secrets(
    _workspace: &Workspace,
    _name: &str,
) -> Result<BTreeMap<String, BTreeMap<String, SecretValue>>> {
    todo!()
}

/// Makes sure that the engine has this image.
///
/// # Errors
/// When neither a registry nor Debian's packages gave it.
pub fn provide(_workspace: &Workspace, _engine: &Engine, _name: &str) -> Result<ThirdPartyImage> {
    todo!()
}
