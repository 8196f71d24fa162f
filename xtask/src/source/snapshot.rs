//! The sources of a run, read once: bytes, digest, and those very bytes kept by digest. After
//! [`Snapshot::take`] nobody reads the working tree again.

use std::collections::BTreeMap;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::workspace::{PackageName, Workspace};
use crate::digest::Digest;

/// Whether the bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In the object store of this state directory, for the mirror.
    Objects(Utf8PathBuf),
    /// No: for `tag`, `--plan` and comparisons.
    Nothing,
}

/// What of a package counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// What its binary is made of: no tests, no dev-dependencies.
    Binary,
    /// Its tests too, and dev-dependencies.
    Tests,
}

/// All packages of a run, frozen together.
#[derive(Clone, Debug)]
pub struct Snapshot {
    packages: BTreeMap<PackageName, PackageSnapshot>,
}

/// One package, frozen: everything that makes its binary, as it will stand in the mirror.
#[derive(Clone, Debug)]
pub struct PackageSnapshot {
    name: PackageName,
    scope: Scope,
    source: Digest,
    entries: Vec<Entry>,
    generated: BTreeMap<Utf8PathBuf, Vec<u8>>,
    local: BTreeMap<PackageName, Digest>,
}

/// A file or link of a closure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Relative to the workspace root.
    pub path: Utf8PathBuf,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum EntryKind {
    /// A file.
    File {
        /// Of its bytes.
        digest: Digest,
        /// Its length in bytes.
        length_bytes: u64,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A symbolic link within the closure.
    Link {
        /// As it is written in the link.
        target: Utf8PathBuf,
        /// Of the bytes that it leads to; the mirror holds these.
        digest: Digest,
    },
}

impl Snapshot {
    /// Reads every file of these packages once.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Source`], naming the path, for what cannot be hashed.
    pub fn take(
        _workspace: &Workspace,
        _packages: &BTreeMap<PackageName, Scope>,
        _keep: &Keep,
    ) -> Result<Self> {
        todo!()
    }

    /// One of its packages; panics on one that was not asked for.
    #[must_use]
    pub fn package(&self, name: &PackageName) -> &PackageSnapshot {
        &self.packages[name]
    }

    /// All of them.
    pub fn packages(&self) -> impl Iterator<Item = &PackageSnapshot> {
        self.packages.values()
    }

    /// What was edited since: paths relative to the root. Empty when the tree still is what was read.
    ///
    /// # Errors
    /// As [`Snapshot::take`].
    pub fn edited_since(&self, _workspace: &Workspace) -> Result<Vec<Utf8PathBuf>> {
        todo!()
    }
}

impl PackageSnapshot {
    /// The package.
    #[must_use]
    pub const fn name(&self) -> &PackageName {
        &self.name
    }

    /// What counts in it.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    /// The source digest: files, manifests as the mirror gets them, reached lock entries.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// Files and links, in byte order of their paths; manifests are not among them.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Manifests and lock as they are written into the mirror, by path relative to the root.
    #[must_use]
    pub const fn generated(&self) -> &BTreeMap<Utf8PathBuf, Vec<u8>> {
        &self.generated
    }

    /// Every local package of the closure (itself among them), each with the digest of that
    /// package together with the local packages that it depends on: what cargo's cached results
    /// are checked against.
    #[must_use]
    pub const fn local(&self) -> &BTreeMap<PackageName, Digest> {
        &self.local
    }
}

/// The bytes of an object.
///
/// # Errors
/// When it is not in the store, or its bytes have another digest: the store is damaged.
pub fn read_object(_state_directory: &Utf8Path, _digest: Digest) -> Result<Vec<u8>> {
    todo!()
}
