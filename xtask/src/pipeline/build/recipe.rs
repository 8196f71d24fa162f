//! How a binary is built, as far as it can change the bytes: target, profile, flags, compiler,
//! linker, what is linked in statically, the image template. Told by looking at the machine, once;
//! what was seen is kept until one of the files that were read or run changes. Never a path of
//! this machine, a time, or the name of a user.

use std::collections::BTreeMap;

use anyhow::Result;
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use super::probe;
use crate::digest::Digest;
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
    /// Files beyond the tree that configuration names, as they were hashed.
    pub(super) given: BTreeMap<Utf8PathBuf, Digest>,
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
                let told = |value: &String| value.trim_end().replace('\n', "; ");
                (here != there)
                    .then(|| format!("{name}: {} here, {} there", told(here), told(there)))
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

/// Of all fields of a recipe.
pub(super) fn digest_of<'a>(fields: impl Iterator<Item = (&'a String, &'a String)>) -> Digest {
    Digest::of(&encode(fields))
}

/// Every text has its length before it, so no two recipes are written alike.
fn encode<'a>(fields: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<u8> {
    let mut bytes = b"phase-zero recipe 1\n".to_vec();
    for (name, value) in fields {
        for text in [name, value] {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::btree_map;
    use proptest::prelude::*;

    use super::{NOT_OF_THE_TOOLCHAIN, Profile, Recipe, digest_of, encode};
    use crate::engine::Platform;
    use crate::source::workspace::Workspace;

    fn text<'a>(bytes: &mut &'a [u8]) -> &'a str {
        let (length, rest) = bytes.split_at(8);
        let length = u64::from_le_bytes(length.try_into().unwrap());
        let (text, rest) = rest.split_at(length.try_into().unwrap());
        *bytes = rest;
        std::str::from_utf8(text).unwrap()
    }

    /// What can be read back was not written like anything else.
    fn read_back(bytes: &[u8]) -> BTreeMap<String, String> {
        let mut rest = bytes.strip_prefix(b"phase-zero recipe 1\n").unwrap();
        let mut fields = BTreeMap::new();
        while !rest.is_empty() {
            let name = text(&mut rest).to_owned();
            fields.insert(name, text(&mut rest).to_owned());
        }
        fields
    }

    proptest! {
        #[test]
        fn no_two_recipes_are_encoded_alike(fields in btree_map(".{0,4}", ".{0,4}", 0..5)) {
            prop_assert_eq!(read_back(&encode(fields.iter())), fields);
        }
    }

    #[test]
    fn every_field_counts_and_those_of_the_toolchain_end_a_build_folder() {
        let workspace = Workspace::load(&Workspace::find_root().unwrap()).unwrap();
        let platform = Platform::host().unwrap();
        let recipe = Recipe::probe(&workspace, &platform, Profile::E2e).unwrap();
        for name in recipe.fields.keys() {
            let mut other = recipe.clone();
            other.fields.insert(name.clone(), "another".to_owned());
            other.digest = digest_of(other.fields.iter());
            assert_ne!(other.digest, recipe.digest, "{name}");
            let told = other.differences(recipe.fields());
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("{name}: another here, ")));
            let ends =
                !["image-template", "profile", "rustflags", "schema"].contains(&name.as_str());
            assert_eq!(
                other.toolchain_digest() != recipe.toolchain_digest(),
                ends,
                "{name}"
            );
        }
        assert!(
            NOT_OF_THE_TOOLCHAIN
                .iter()
                .all(|name| recipe.fields.contains_key(*name))
        );
    }
}
