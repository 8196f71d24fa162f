//! The cargo workspace as its manifests tell it: packages, targets, and what `metadata.e2e` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

/// The name of a workspace member. Only [`Workspace::load`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PackageName(String);

/// The name of a target: what `cargo xtask e2e` takes. Only [`Workspace::load`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TargetName(String);

impl PackageName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TargetName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PackageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: String,
    /// Its folder, relative to the workspace root.
    pub directory: Utf8PathBuf,
    /// Members that it depends on (normal and build), directly.
    pub dependencies: BTreeSet<PackageName>,
    /// Members that only its tests depend on, directly.
    pub dev_dependencies: BTreeSet<PackageName>,
    /// `[package.metadata.e2e]`, if there is one.
    pub e2e: Option<PackageMetadata>,
}

/// `[package.metadata.e2e]`. Unknown keys are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PackageMetadata {
    /// Other members that must run beside it.
    pub needs: Vec<String>,
    /// Third-party images that must run beside it, names in `deploy/images.toml`.
    pub third_party: Vec<String>,
    /// Kubernetes Secrets by name, and what each of their keys holds.
    pub secrets: BTreeMap<String, BTreeMap<String, SecretValue>>,
    /// Callers by subject, and the role of each at each service.
    pub subjects: BTreeMap<String, BTreeMap<String, String>>,
    /// How long its readiness may take.
    pub ready_deadline_seconds: Option<u64>,
}

/// What a key of a Secret holds; written `accepted-tokens`, `token:<service>`, `password:<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum SecretValue {
    /// Every token made for the service that declares the Secret, as JSON.
    AcceptedTokens,
    /// The token of the declaring package at this service.
    Token(String),
    /// The run's password of this name.
    Password(String),
}

impl TryFrom<String> for SecretValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "accepted-tokens" => Ok(Self::AcceptedTokens),
            Some(("token", service)) => Ok(Self::Token(service.to_owned())),
            Some(("password", name)) => Ok(Self::Password(name.to_owned())),
            _ => Err(format!(
                "`{text}` is none of `accepted-tokens`, `token:<service>`, `password:<name>`"
            )),
        }
    }
}

/// What a target runs and tests.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name; its tests are `test-e2e/tests/<name>.rs`.
    pub name: TargetName,
    /// Every member that gets an image in its runs, [`Workspace::against`] among them.
    pub packages: BTreeSet<PackageName>,
    /// Every third-party image in its runs.
    pub third_party: BTreeSet<String>,
}

/// The workspace.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Its root, absolute and canonical.
    pub root: Utf8PathBuf,
    /// Its members.
    pub packages: BTreeMap<PackageName, Package>,
    /// Its targets.
    pub targets: BTreeMap<TargetName, Target>,
    /// What every target is tested against: `datastorage`.
    pub against: PackageName,
    /// The package that holds the tests: `test-e2e`.
    pub tests: PackageName,
}

impl Workspace {
    /// Reads the manifests below `root`.
    ///
    /// # Errors
    /// When a manifest cannot be read or says something impossible (a need that is no member, a
    /// path dependency outside the root, ...): names the manifest.
    pub fn load(_root: &Utf8Path) -> Result<Self> {
        todo!()
    }

    /// The root of the workspace that holds the current folder (`cargo xtask` sets no cwd).
    ///
    /// # Errors
    /// When there is none.
    pub fn find_root() -> Result<Utf8PathBuf> {
        todo!()
    }

    /// A target by its name.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Usage`] when it is unknown: suggests the nearest, lists the known.
    pub fn target(&self, _name: &str) -> Result<&Target> {
        todo!()
    }

    /// A member by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn package(&self, _name: &str) -> Result<&Package> {
        todo!()
    }

    /// `target/e2e` below the root (or below `CARGO_TARGET_DIR`).
    #[must_use]
    pub fn state_directory(&self) -> Utf8PathBuf {
        todo!()
    }
}
