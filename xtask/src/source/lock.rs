//! `Cargo.lock` as a graph, and the part of it that one package reaches. Sources are taken as they
//! are written, never parsed and printed again.
//!
//! The lock does not tell for what a local package wants a dependency; its manifest does. For
//! packages from elsewhere the lock lists what some member of the workspace may need of them, so
//! the part can be larger than what is built, never smaller.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::encoding::Encoder;
use super::manifests::{Dependency, DependencyKind, Manifests};
use super::snapshot::Scope;
use crate::exit::{Exit, Failure};

/// The newest format that is understood here.
const FORMAT_MAX: u32 = 4;

/// Which package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LockId {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Absent for local packages.
    pub(crate) source: Option<String>,
}

/// One entry, with those of its edges that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockEntry {
    pub(crate) checksum: Option<String>,
    pub(crate) dependencies: BTreeSet<LockId>,
    pub(crate) replaced_by: Option<LockId>,
}

/// What one package reaches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) format: Option<u32>,
    pub(crate) entries: BTreeMap<LockId, LockEntry>,
}

/// The whole file.
#[derive(Clone, Debug)]
pub(crate) struct Lock {
    format: Option<u32>,
    packages: BTreeMap<LockId, LockEntry>,
}

#[derive(Deserialize)]
struct File {
    version: Option<u32>,
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    metadata: toml::Table,
}

#[derive(Deserialize, Serialize)]
struct Package {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dependencies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<String>,
}

impl Lock {
    /// Reads the text of a lock.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text)
            .map_err(|error| refused("Cargo.lock cannot be understood").caused_by(error))?;
        let old = file.version.is_none() && !file.metadata.is_empty();
        if old || file.version.is_some_and(|version| version > FORMAT_MAX) {
            return Err(refused("Cargo.lock is of a format that is not supported").into());
        }
        let mut by_name: BTreeMap<&str, Vec<LockId>> = BTreeMap::new();
        for package in &file.package {
            by_name.entry(&package.name).or_default().push(package.id());
        }
        let mut packages = BTreeMap::new();
        for package in &file.package {
            let resolve = |written: &String| resolve(&by_name, written);
            let entry = LockEntry {
                checksum: package.checksum.clone(),
                dependencies: package
                    .dependencies
                    .iter()
                    .map(resolve)
                    .collect::<Result<_>>()?,
                replaced_by: package.replace.as_ref().map(resolve).transpose()?,
            };
            packages.insert(package.id(), entry);
        }
        Ok(Self {
            format: file.version,
            packages,
        })
    }

    /// What the package `name` reaches: all that its binary is made of, or its tests too.
    pub(crate) fn reach(&self, manifests: &Manifests, name: &str, scope: Scope) -> Result<Reached> {
        let mut reached = Reached {
            format: self.format,
            entries: BTreeMap::new(),
        };
        let mut seen = BTreeSet::new();
        let mut pending = vec![(self.local(name)?, scope)];
        while let Some((id, scope)) = pending.pop() {
            if !seen.insert((id.clone(), scope)) {
                continue;
            }
            let (id, locked) = self
                .packages
                .get_key_value(&id)
                .ok_or_else(|| stale(&id.name))?;
            let dependencies = match id.source {
                Some(_) => locked.dependencies.clone(),
                None => wanted(manifests, &id.name, scope, locked)?,
            };
            let following = dependencies.iter().chain(&locked.replaced_by).cloned();
            pending.extend(following.map(|id| (id, Scope::Binary)));
            let entry = reached
                .entries
                .entry(id.clone())
                .or_insert_with(|| LockEntry {
                    dependencies: BTreeSet::new(),
                    ..locked.clone()
                });
            entry.dependencies.extend(dependencies);
        }
        Ok(reached)
    }

    fn local(&self, name: &str) -> Result<LockId> {
        let mut ids = self.packages.keys();
        let found = ids.find(|id| id.name == name && id.source.is_none());
        found.cloned().ok_or_else(|| stale(name))
    }
}

impl Package {
    fn id(&self) -> LockId {
        LockId {
            name: self.name.clone(),
            version: self.version.clone(),
            source: self.source.clone(),
        }
    }
}

/// `name`, `name version` or `name version (source)`: as short as is clear within the file.
fn resolve(by_name: &BTreeMap<&str, Vec<LockId>>, written: &str) -> Result<LockId> {
    let mut parts = written.splitn(3, ' ');
    let name = parts.next().unwrap_or_default();
    let version = parts.next();
    let source = parts.next();
    let source = source.map(|text| text.trim_start_matches('(').trim_end_matches(')'));
    // An edge to a git source leaves out the commit that the entry has after `#`.
    let repository = |source: &str| source.split('#').next().unwrap_or_default().to_owned();
    let fits = |id: &&LockId| {
        version.is_none_or(|version| version == id.version)
            && source.is_none_or(|source| {
                id.source.as_deref().map(repository) == Some(repository(source))
            })
    };
    let candidates = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
    // One that could mean a local package means it: others are written with their source.
    let mut candidates: Vec<&LockId> = candidates.iter().filter(fits).collect();
    candidates.sort_by_key(|id| id.source.is_some());
    match candidates.as_slice() {
        [only] => Ok((*only).clone()),
        [local, ..] if local.source.is_none() => Ok((*local).clone()),
        _ => Err(refused(&format!(
            "Cargo.lock: it is not clear what `{written}` means"
        ))
        .into()),
    }
}

/// Which edges of a local package count, by what its manifest declares.
fn wanted(
    manifests: &Manifests,
    name: &str,
    scope: Scope,
    locked: &LockEntry,
) -> Result<BTreeSet<LockId>> {
    if !manifests.packages.contains_key(name) {
        return Err(stale(name));
    }
    let mut wanted = BTreeSet::new();
    for dependency in manifests.dependencies(name)? {
        if dependency.kind == DependencyKind::Development && scope == Scope::Binary {
            continue;
        }
        let chosen = choose(&dependency, locked);
        if chosen.is_empty() {
            return Err(stale(&dependency.package));
        }
        wanted.extend(chosen);
    }
    Ok(wanted)
}

/// The same name in two versions is told apart by what the manifest asks for.
fn choose(dependency: &Dependency, locked: &LockEntry) -> Vec<LockId> {
    let of_this_name = |id: &&LockId| id.name == dependency.package;
    let named: Vec<&LockId> = locked.dependencies.iter().filter(of_this_name).collect();
    let requirement = dependency.requirement.as_deref();
    let requirement = requirement.and_then(|text| semver::VersionReq::parse(text).ok());
    let fits = |id: &&&LockId| {
        let version = semver::Version::parse(&id.version);
        let asked = requirement
            .as_ref()
            .is_none_or(|requirement| version.is_ok_and(|version| requirement.matches(&version)));
        asked && (dependency.directory.is_none() || id.source.is_none())
    };
    let fitting: Vec<LockId> = named.iter().filter(fits).map(|id| (*id).clone()).collect();
    if fitting.is_empty() {
        return named.into_iter().cloned().collect();
    }
    fitting
}

impl Reached {
    /// Names of all packages that are reached.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.entries.keys().map(|id| id.name.as_str()).collect()
    }

    /// Names of the local packages that are reached.
    pub(crate) fn locals(&self) -> impl Iterator<Item = &str> {
        let local = self.entries.keys().filter(|id| id.source.is_none());
        local.map(|id| id.name.as_str())
    }

    /// As a set, never as text: what other members do to the text of an entry is left out.
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.optional(self.format.map(|format| format.to_string()).as_deref());
        encoder.count(self.entries.len());
        for (id, entry) in &self.entries {
            id.encode(encoder);
            encoder.optional(entry.checksum.as_deref());
            encoder.count(entry.dependencies.len());
            entry.dependencies.iter().for_each(|id| id.encode(encoder));
            encoder.count(usize::from(entry.replaced_by.is_some()));
            entry.replaced_by.iter().for_each(|id| id.encode(encoder));
        }
    }

    /// A lock that cargo reads. It may hold more than cargo needs, so cargo prunes it once.
    pub(crate) fn text(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Output {
            #[serde(skip_serializing_if = "Option::is_none")]
            version: Option<u32>,
            package: Vec<Package>,
        }
        let package = |(id, entry): (&LockId, &LockEntry)| Package {
            name: id.name.clone(),
            version: id.version.clone(),
            source: id.source.clone(),
            checksum: entry.checksum.clone(),
            dependencies: entry.dependencies.iter().map(LockId::to_string).collect(),
            replace: entry.replaced_by.as_ref().map(LockId::to_string),
        };
        let output = Output {
            version: self.format,
            package: self.entries.iter().map(package).collect(),
        };
        toml::to_string(&output).map_err(|error| anyhow!("cannot write a lock: {error}"))
    }

    /// Sees to it that a lock which cargo has pruned holds nothing that was not frozen.
    pub(crate) fn check_pruned(&self, text: &str) -> Result<()> {
        for (id, pruned) in Lock::parse(text)?.packages {
            let frozen = self.entries.get(&id);
            let within = frozen.is_some_and(|frozen| {
                frozen.checksum == pruned.checksum
                    && frozen.replaced_by == pruned.replaced_by
                    && frozen.dependencies.is_superset(&pruned.dependencies)
            });
            if !within {
                let message = format!("cargo wants `{id}` otherwise than Cargo.lock has it");
                return Err(Failure::new(Exit::Build, message).hint(UPDATE).into());
            }
        }
        Ok(())
    }
}

impl LockId {
    fn encode(&self, encoder: &mut Encoder) {
        encoder.text(&self.name);
        encoder.text(&self.version);
        encoder.optional(self.source.as_deref());
    }
}

impl std::fmt::Display for LockId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.name, self.version)?;
        match &self.source {
            // As cargo does: an edge leaves out the commit of a git source.
            Some(source) => write!(
                formatter,
                " ({})",
                source.split('#').next().unwrap_or(source)
            ),
            None => Ok(()),
        }
    }
}

const UPDATE: &str = "bring it up to date: `cargo metadata --format-version 1 > /dev/null`";

fn refused(message: &str) -> Failure {
    Failure::new(Exit::Source, message).hint(UPDATE)
}

fn stale(name: &str) -> anyhow::Error {
    refused(&format!(
        "Cargo.lock lags behind the manifests: `{name}` is not in its place"
    ))
    .into()
}
