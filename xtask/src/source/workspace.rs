//! The cargo workspace as its manifests tell it: packages, targets, and what `metadata.e2e` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::manifests::{DependencyKind, Manifests, refused};
use crate::cluster::Choice;
use crate::exit::{Exit, Failure};

/// The name of a workspace member. Only [`Workspace::load`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct PackageName(String);

/// The name of a target: what `cargo xtask e2e` takes. Only [`Workspace::load`] makes one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TargetName(String);

impl PackageName {
    /// A name that was read from a manifest.
    pub(in crate::source) const fn known(name: String) -> Self {
        Self(name)
    }

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name; its tests are `test-e2e/tests/<name>.rs`.
    pub name: TargetName,
    packages: BTreeSet<PackageName>,
    third_party: BTreeSet<String>,
}

impl Target {
    /// Third-party images alone, for what no run of a target is.
    #[must_use]
    pub fn of_third_party(name: TargetName, third_party: &[&str]) -> Self {
        Self {
            name,
            packages: BTreeSet::new(),
            third_party: third_party.iter().map(|&image| image.to_owned()).collect(),
        }
    }

    /// Every member that gets an image in its runs, [`Workspace::against`] among them.
    #[must_use]
    pub const fn packages(&self) -> &BTreeSet<PackageName> {
        &self.packages
    }

    /// What has a manifest in its runs, by the names of those.
    pub fn manifests(&self) -> impl Iterator<Item = &str> {
        let ours = self.packages.iter().map(PackageName::as_str);
        ours.chain(self.third_party.iter().map(String::as_str))
    }

    /// Every third-party image in its runs.
    #[must_use]
    pub const fn third_party(&self) -> &BTreeSet<String> {
        &self.third_party
    }
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
    /// What runs are deployed to where nobody says it.
    pub cluster: Option<Choice>,
    /// The package that holds the tests: `test-e2e`.
    pub tests: PackageName,
    /// Where the tool keeps what it makes; [`Workspace::load`] sets it to what
    /// [`Workspace::state_directory`] describes, a test to a folder of its own.
    pub state: Utf8PathBuf,
}

impl Workspace {
    /// Reads the manifests below `root`.
    ///
    /// # Errors
    /// When a manifest cannot be read or says something impossible (a need that is no member, a
    /// path dependency outside the root, ...): names the manifest.
    pub fn load(root: &Utf8Path) -> Result<Self> {
        Self::load_with_manifests(root).map(|(workspace, _)| workspace)
    }

    /// The workspace together with the manifests that it was read from.
    pub(in crate::source) fn load_with_manifests(root: &Utf8Path) -> Result<(Self, Manifests)> {
        let root = root
            .canonicalize_utf8()
            .with_context(|| format!("cannot resolve the workspace root {root}"))?;
        let manifests = Manifests::read(&root)?;
        let metadata = WorkspaceMetadata::read(&manifests)?;
        let packages = manifests
            .packages
            .keys()
            .map(|name| Ok((PackageName(name.clone()), package(&manifests, name)?)))
            .collect::<Result<BTreeMap<_, _>>>()?;
        let member = |name: &str, key: &str| {
            let known = packages.keys().find(|package| package.as_str() == name);
            known.cloned().ok_or_else(|| {
                let what = format!("workspace.metadata.e2e.{key}: `{name}` is no member");
                refused("Cargo.toml", &what)
            })
        };
        let mut workspace = Self {
            against: member(&metadata.against, "against")?,
            cluster: metadata.cluster.clone(),
            tests: member(&metadata.tests, "tests")?,
            targets: BTreeMap::new(),
            state: default_state(&root),
            root,
            packages,
        };
        workspace.targets = workspace.find_targets(&metadata)?;
        Ok((workspace, manifests))
    }

    /// The root of the workspace that holds the current folder (`cargo xtask` sets no cwd).
    ///
    /// # Errors
    /// When there is none.
    pub fn find_root() -> Result<Utf8PathBuf> {
        let current = std::env::current_dir().context("cannot tell the current folder")?;
        let current = Utf8PathBuf::from_path_buf(current).map_err(|path| {
            Failure::new(
                Exit::Usage,
                format!("the current folder is not UTF-8: {}", path.display()),
            )
        })?;
        for folder in current.ancestors() {
            let Ok(text) = std::fs::read_to_string(folder.join("Cargo.toml")) else {
                continue;
            };
            // One that is no TOML may be ours: loading it tells what is wrong.
            let is_root = match text.parse::<toml::Table>() {
                Ok(table) => table.contains_key("workspace"),
                Err(_) => text.lines().any(|line| line.trim() == "[workspace]"),
            };
            if is_root {
                return folder
                    .canonicalize_utf8()
                    .with_context(|| format!("cannot resolve {folder}"));
            }
        }
        Err(Failure::new(
            Exit::Usage,
            format!("no Cargo.toml with [workspace] in {current} or above it"),
        )
        .hint("run it inside a checkout of the workspace")
        .into())
    }

    /// A target by its name.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Usage`] when it is unknown: suggests the nearest, lists the known.
    pub fn target(&self, name: &str) -> Result<&Target> {
        let found = self.targets.values().find(|target| target.name.0 == name);
        let target = found.ok_or_else(|| self.no_target(name))?;
        self.check_test_target(name)?;
        Ok(target)
    }

    /// Why a name is none of a target: a package of that name lacks something.
    fn no_target(&self, name: &str) -> anyhow::Error {
        let tests = &self.packages[&self.tests].directory;
        let package = self.packages.values().find(|one| one.name.0 == name);
        let lacks = match package {
            None => return unknown("target", name, self.targets.keys().map(TargetName::as_str)),
            Some(package) if package.e2e.is_none() => {
                format!(
                    "{}/Cargo.toml has no [package.metadata.e2e]",
                    package.directory
                )
            }
            Some(_) => format!("there is no {tests}/tests/{name}.rs"),
        };
        Failure::new(
            Exit::Usage,
            format!("`{name}` is a package and no target: {lacks}"),
        )
        .hint("README.md, \"Add a service\", has all that makes one")
        .into()
    }

    /// cargo builds the tests of a target by their name in the manifest.
    fn check_test_target(&self, name: &str) -> Result<()> {
        let manifest = self.packages[&self.tests].directory.join("Cargo.toml");
        let path = self.root.join(&manifest);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let table: toml::Table = text
            .parse()
            .with_context(|| format!("cannot read {path}"))?;
        let entries = table.get("test").and_then(toml::Value::as_array);
        let mut names = entries
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.get("name").and_then(toml::Value::as_str));
        let found_by_cargo = table
            .get("package")
            .and_then(|package| package.get("autotests"))
            .and_then(toml::Value::as_bool)
            .unwrap_or(true);
        if found_by_cargo || names.any(|known| known == name) {
            return Ok(());
        }
        let what = format!("has no [[test]] of the name `{name}`");
        Err(Failure::new(Exit::Source, format!("{manifest} {what}"))
            .hint(format!(
                "add to it:\n  [[test]]\n  name = \"{name}\"\n  test = false"
            ))
            .into())
    }

    /// A member by its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn package(&self, name: &str) -> Result<&Package> {
        let found = self
            .packages
            .values()
            .find(|package| package.name.0 == name);
        found.ok_or_else(|| {
            unknown(
                "package",
                name,
                self.packages.keys().map(PackageName::as_str),
            )
        })
    }

    /// `target/e2e` below the root (or below `CARGO_TARGET_DIR`).
    #[must_use]
    pub fn state_directory(&self) -> Utf8PathBuf {
        self.state.clone()
    }

    fn find_targets(&self, metadata: &WorkspaceMetadata) -> Result<BTreeMap<TargetName, Target>> {
        let tests = self
            .root
            .join(&self.packages[&self.tests].directory)
            .join("tests");
        let mut targets = BTreeMap::new();
        for package in self.packages.values() {
            if package.e2e.is_some() && tests.join(format!("{}.rs", package.name)).is_file() {
                let needs = std::slice::from_ref(&package.name.0);
                let target = self.make_target(&package.name.0, needs, &[])?;
                targets.insert(target.name.clone(), target);
            } else if package.e2e.is_some() {
                // Its needs must make sense all the same.
                self.make_target(&package.name.0, std::slice::from_ref(&package.name.0), &[])?;
            }
        }
        for (name, declared) in &metadata.targets {
            let target = self.make_target(name, &declared.needs, &declared.third_party)?;
            if targets.insert(target.name.clone(), target).is_some() {
                let what = format!(
                    "workspace.metadata.e2e.targets.{name}: the package `{name}` is a target already"
                );
                return Err(refused("Cargo.toml", &what));
            }
        }
        Ok(targets)
    }

    /// A target with everything that its packages need in turn.
    fn make_target(&self, name: &str, needs: &[String], third: &[String]) -> Result<Target> {
        check_name("target", name)?;
        let mut target = Target {
            name: TargetName(name.to_owned()),
            packages: BTreeSet::new(),
            third_party: third.iter().cloned().collect(),
        };
        let declared_in = "Cargo.toml".to_owned();
        let against = (declared_in.clone(), self.against.0.clone());
        let mut pending = vec![against];
        pending.extend(needs.iter().map(|need| (declared_in.clone(), need.clone())));
        while let Some((manifest, need)) = pending.pop() {
            let package = self.packages.get(&PackageName(need.clone()));
            let package = package.ok_or_else(|| {
                let known = self.packages.keys().map(PackageName::as_str);
                let nearest = nearest(&need, known).map(|name| format!("; did you mean `{name}`?"));
                let nearest = nearest.unwrap_or_default();
                refused(
                    &manifest,
                    &format!("needs `{need}`, which is no member{nearest}"),
                )
            })?;
            if !target.packages.insert(package.name.clone()) {
                continue;
            }
            let own = package.directory.join("Cargo.toml");
            let metadata = package.e2e.as_ref().ok_or_else(|| {
                let what = format!("`{need}` must run, but {own} has no [package.metadata.e2e]");
                refused(&manifest, &what)
            })?;
            target
                .third_party
                .extend(metadata.third_party.iter().cloned());
            let needs = metadata.needs.iter().cloned();
            pending.extend(needs.map(|need| (own.to_string(), need)));
        }
        Ok(target)
    }
}

fn default_state(root: &Utf8Path) -> Utf8PathBuf {
    let set = std::env::var("CARGO_TARGET_DIR").ok();
    let set = set.filter(|directory| !directory.is_empty());
    let target = set.map_or_else(|| root.join("target"), Utf8PathBuf::from);
    // cargo means a relative one from the current folder.
    camino::absolute_utf8(&target).unwrap_or(target).join("e2e")
}

/// `[workspace.metadata.e2e]`. Unknown keys are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct WorkspaceMetadata {
    against: String,
    #[serde(default)]
    cluster: Option<Choice>,
    #[serde(default = "default_tests")]
    tests: String,
    #[serde(default)]
    targets: BTreeMap<String, TargetMetadata>,
}

/// `[workspace.metadata.e2e.targets.<name>]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TargetMetadata {
    needs: Vec<String>,
    #[serde(default)]
    third_party: Vec<String>,
}

fn default_tests() -> String {
    "test-e2e".to_owned()
}

impl WorkspaceMetadata {
    fn read(manifests: &Manifests) -> Result<Self> {
        let value = manifests
            .root
            .get("workspace")
            .and_then(|workspace| workspace.get("metadata"))
            .and_then(|metadata| metadata.get("e2e"))
            .ok_or_else(|| refused("Cargo.toml", "has no [workspace.metadata.e2e]"))?;
        value.clone().try_into().map_err(|error: toml::de::Error| {
            Failure::new(
                Exit::Source,
                "Cargo.toml: [workspace.metadata.e2e] is refused",
            )
            .caused_by(error)
            .into()
        })
    }
}

fn package(manifests: &Manifests, name: &str) -> Result<Package> {
    let manifest = &manifests.packages[name];
    let path = manifest.directory.join("Cargo.toml");
    let mut package = Package {
        name: PackageName(name.to_owned()),
        version: manifests
            .package_field(name, "version")
            .and_then(toml::Value::as_str)
            .unwrap_or("0.0.0")
            .to_owned(),
        directory: manifest.directory.clone(),
        dependencies: BTreeSet::new(),
        dev_dependencies: BTreeSet::new(),
        e2e: package_metadata(&path, &manifest.table)?,
    };
    for dependency in &manifest.dependencies {
        let Some(directory) = &dependency.directory else {
            continue;
        };
        let local = manifests
            .name_at(directory)
            .filter(|local| *local == dependency.package);
        let local = local.ok_or_else(|| {
            let what = format!("`{}` is not the package in {directory}", dependency.package);
            refused(&path, &what)
        })?;
        let wanted_by = match dependency.kind {
            DependencyKind::Normal | DependencyKind::Build => &mut package.dependencies,
            DependencyKind::Development => &mut package.dev_dependencies,
        };
        wanted_by.insert(PackageName(local.to_owned()));
    }
    if package.e2e.is_some() {
        check_name("package", name)?;
    }
    Ok(package)
}

fn package_metadata(path: &Utf8Path, table: &toml::Table) -> Result<Option<PackageMetadata>> {
    let value = table
        .get("package")
        .and_then(|package| package.get("metadata"))
        .and_then(|metadata| metadata.get("e2e"));
    let metadata = value.map(|value| value.clone().try_into::<PackageMetadata>());
    metadata.transpose().map_err(|error| {
        Failure::new(
            Exit::Source,
            format!("{path}: [package.metadata.e2e] is refused"),
        )
        .caused_by(error)
        .into()
    })
}

/// Names go into image references, host names and paths, which agree on this alphabet.
fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte != b'-');
    let usable = name.bytes().all(fine)
        && edge(name.bytes().next())
        && edge(name.bytes().last())
        && name.len() <= NAME_LENGTH_MAX;
    if usable {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Source,
        format!("the {what} `{name}` cannot name an image"),
    )
    .hint(format!(
        "use at most {NAME_LENGTH_MAX} lower-case letters, digits and inner hyphens"
    ))
    .into())
}

/// So that a target, a date, a service and a replica fit into a host name of 63 characters.
const NAME_LENGTH_MAX: usize = 40;

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> anyhow::Error {
    let known: Vec<&str> = known.collect();
    let nearest = nearest(name, known.iter().copied());
    let hint = nearest.map(|nearest| format!("did you mean `{nearest}`? "));
    let hint = hint.unwrap_or_default();
    Failure::new(Exit::Usage, format!("unknown {what} `{name}`"))
        .hint(format!("{hint}known: {}", known.join(", ")))
        .into()
}

/// The most similar one, if it is similar at all.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity > 0.7)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}
