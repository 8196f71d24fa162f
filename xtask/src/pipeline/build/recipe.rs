//! How a binary is built, as far as it can change the bytes: target, profile, flags, compiler,
//! linker, what is linked in statically, the image template.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Serialize;

use crate::digest::Digest;
use crate::engine::Platform;
use crate::source::workspace::Workspace;

/// A cargo profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// `[profile.e2e]`: quick to build.
    #[default]
    E2e,
    /// `[profile.release]`.
    Release,
}

/// A recipe. Made only by looking at the machine.
#[derive(Clone, Debug)]
pub struct Recipe {
    fields: BTreeMap<String, String>,
    digest: Digest,
}

impl Recipe {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When the toolchain cannot be told.
    pub fn probe(_workspace: &Workspace, _platform: &Platform, _profile: Profile) -> Result<Self> {
        todo!()
    }

    /// Its digest.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// What it is made of, by name.
    #[must_use]
    pub const fn fields(&self) -> &BTreeMap<String, String> {
        &self.fields
    }
}
