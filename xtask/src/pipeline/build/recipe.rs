//! How a binary is built, as far as it can change the bytes: target, profile, flags, compiler,
//! linker, what is linked in statically, the image template. Told by looking at the machine, once;
//! what was seen is kept until one of the files that were read or run changes. Never a path of
//! this machine, a time, or the name of a user.

use std::collections::BTreeMap;

use anyhow::Result;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::probe;
use crate::digest::{Digest, Hasher};
use crate::engine::Platform;
use crate::source::workspace::Workspace;

/// Bumped when the meaning of a field changes.
pub(super) const SCHEMA_VERSION: u32 = 1;
/// Fields that tell how a package is built with a toolchain, not which toolchain it is. When
/// another field changes, nothing that was compiled before is of use.
const NOT_OF_THE_TOOLCHAIN: [&str; 4] = ["image-template", "profile", "rustflags", "schema"];

/// A cargo profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// `[profile.e2e]`: quick to build.
    #[default]
    E2e,
    /// `[profile.release]`.
    Release,
}

impl Profile {
    /// As cargo says it, and the name of its folder.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::E2e => "e2e",
            Self::Release => "release",
        }
    }
}

/// A recipe. Made only by looking at the machine.
#[derive(Clone, Debug)]
pub struct Recipe {
    fields: BTreeMap<String, String>,
    digest: Digest,
    tools: Tools,
    profile: Profile,
}

/// Where the tools of a recipe are, and what they are given. Paths do not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tools {
    pub(super) cargo: Utf8PathBuf,
    pub(super) rustc: Utf8PathBuf,
    pub(super) sysroot: Utf8PathBuf,
    pub(super) cargo_home: Utf8PathBuf,
    pub(super) triple: String,
    /// `rustc 1.95.0 (59807616e 2026-04-14)`.
    pub(super) rustc_version: String,
    /// Flags for rustc, as cargo resolves them.
    pub(super) rustflags: Vec<String>,
    /// Frozen configuration for `--config`; empty: none.
    pub(super) config: String,
    /// Names of the variables that configuration sets.
    pub(super) config_variables: Vec<String>,
}

impl Recipe {
    /// Looks at the machine.
    ///
    /// # Errors
    /// When the toolchain cannot be told.
    pub fn probe(workspace: &Workspace, platform: &Platform, profile: Profile) -> Result<Self> {
        let probe::Seen { fields, tools } = probe::look(workspace, platform, profile)?;
        Ok(Self {
            digest: digest_of(fields.iter()),
            fields,
            tools,
            profile,
        })
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

    /// The profile.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// What makes two recipes differ: `cc: cc 12.2 here, cc 13.1 there`.
    #[must_use]
    pub fn differences(&self, there: &BTreeMap<String, String>) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.fields.keys().chain(there.keys()).collect();
        let nothing = String::from("nothing");
        names
            .into_iter()
            .filter_map(|name| {
                let here = self.fields.get(name).unwrap_or(&nothing);
                let there = there.get(name).unwrap_or(&nothing);
                (here != there).then(|| format!("{name}: {here} here, {there} there"))
            })
            .collect()
    }

    pub(super) const fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Of what was compiled with another toolchain, or linked with another C library, nothing is
    /// of use: cargo does not look at all of it.
    pub(super) fn toolchain_digest(&self) -> Digest {
        let of_toolchain =
            |(name, _): &(&String, &String)| !NOT_OF_THE_TOOLCHAIN.contains(&name.as_str());
        digest_of(self.fields.iter().filter(of_toolchain))
    }
}

fn digest_of<'a>(fields: impl Iterator<Item = (&'a String, &'a String)>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(b"phase-zero recipe 1\n");
    for (name, value) in fields {
        for text in [name, value] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
    }
    hasher.finish()
}
