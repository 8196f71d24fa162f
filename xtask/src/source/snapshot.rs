//! The sources of a run, read once: bytes, digest, and those very bytes kept by digest. After
//! [`Snapshot::take`] nobody reads the working tree again.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::closure::{self, Half, Sources};
use super::contents::Contents;
use super::cut::{self, CutPackage};
use super::digests::{Locals, Source, encode_source};
use super::explain::{self, Record};
use super::lock::{Lock, Reached};
use super::manifests::{DependencyKind, Manifests, refused};
use super::objects::Objects;
use super::reading::{self, Node, Problem, refuse};
use super::seen::{SeenPaths, join, read_all};
use super::workspace::{PackageName, Workspace};
use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// Whether the bytes are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In the object store of this state directory, for the mirror.
    Objects(Utf8PathBuf),
    /// No: for `tag`, `--plan` and comparisons.
    Nothing,
}

/// What of a package counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    seen: SeenPaths,
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
    reached: Reached,
}

/// A file or link of a closure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Relative to the workspace root.
    pub path: Utf8PathBuf,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        /// The owner of what it leads to may execute that.
        executable: bool,
    },
}

impl Snapshot {
    /// Reads every file of these packages once.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Source`], naming the path, for what cannot be hashed.
    pub fn take(
        workspace: &Workspace,
        packages: &BTreeMap<PackageName, Scope>,
        keep: &Keep,
    ) -> Result<Self> {
        let snapshot = freeze(&workspace.root, packages, keep, &SeenPaths::default())?;
        if let Keep::Objects(state_directory) = keep {
            for package in snapshot.packages() {
                Record::keep(state_directory, package)?;
            }
        }
        Ok(snapshot)
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
    pub fn edited_since(&self, workspace: &Workspace) -> Result<Vec<Utf8PathBuf>> {
        let scopes = self
            .packages
            .values()
            .map(|package| (package.name.clone(), package.scope));
        let scopes = scopes.collect();
        let now = freeze(&workspace.root, &scopes, &Keep::Nothing, &self.seen)?;
        Ok(self.differences(&now))
    }

    /// What differs between two snapshots of the same packages: paths relative to the root.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<Utf8PathBuf> {
        let mut edited = BTreeSet::new();
        for before in self.packages() {
            let Some(after) = other.packages.get(&before.name) else {
                continue;
            };
            if before.source != after.source {
                let changes = explain::difference(&Record::of(before), &Record::of(after));
                edited.extend(changes.into_iter().map(|change| change.path));
            }
        }
        edited.into_iter().collect()
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

    /// What of `Cargo.lock` this package reaches.
    pub(in crate::source) const fn reached(&self) -> &Reached {
        &self.reached
    }
}

/// The bytes of an object.
///
/// # Errors
/// When it is not in the store, or its bytes have another digest: the store is damaged.
pub fn read_object(state_directory: &Utf8Path, digest: Digest) -> Result<Vec<u8>> {
    Objects::open(state_directory)?.get(digest)
}

fn freeze(
    root: &Utf8Path,
    scopes: &BTreeMap<PackageName, Scope>,
    keep: &Keep,
    known: &SeenPaths,
) -> Result<Snapshot> {
    let manifests = Manifests::read(root)?;
    let directories = closure::directories(&manifests)?;
    let mut sources = Sources::new(root, &manifests);
    let mut problems = Vec::new();
    let list = |half| closure::list(root, &directories, half);
    // Reading the files takes longest: everything else is done beside it.
    let (plans, cut, configuration, seen) = thread::scope(|threads| {
        let lock = threads.spawn(|| read_lock(root));
        // What the manifests tell is what the lock will tell, but for patches.
        let declared = declared_parts(&manifests, scopes);
        sources.add(list(Half::Tracked)?, Half::Tracked);
        let untracked = threads.spawn(|| list(Half::Untracked));
        let wanted = sources.wanted(&declared, Half::Tracked);
        let reading = threads.spawn(|| read_all(root, wanted, known, keep));
        let lock = join(lock)?;
        let plans = scopes.iter();
        let plans = plans.map(|(name, scope)| Plan::make(&manifests, &lock, name, *scope));
        let mut plans = plans.collect::<Result<Vec<_>>>()?;
        // What the packages of a run share is looked at once.
        let parts = plans.iter().flat_map(|plan| plan.scopes.clone());
        let parts: BTreeSet<(&str, Scope)> = parts.collect();
        sources.add(join(untracked)?, Half::Untracked);
        let mut cut = BTreeMap::new();
        for (name, scope) in &parts {
            problems.extend(sources.problems(name, *scope)?);
            cut.insert((*name, *scope), CutPackage::new(&manifests, name, *scope)?);
        }
        let configuration = read_configuration(root)?;
        for plan in &mut plans {
            plan.generate(&manifests, &cut, configuration.as_deref())?;
        }
        let mut rest = sources.wanted(&parts, Half::Untracked);
        let others = parts.difference(&declared).copied().collect();
        rest.extend(sources.wanted(&others, Half::Tracked));
        let (mut seen, unread) = join(reading)?;
        problems.extend(unread);
        rest.retain(|path| seen.get(path).is_none());
        let (others, unread) = read_all(root, rest, known, keep)?;
        problems.extend(unread);
        seen.add(others);
        anyhow::Ok((plans, cut, configuration, seen))
    })?;
    let frozen = Parts {
        manifests: &manifests,
        sources: &sources,
        seen: &seen,
        cut: &cut,
        configuration: configuration.as_deref(),
    };
    let mut packages = BTreeMap::new();
    for plan in plans {
        packages.insert(plan.name.clone(), frozen.assemble(plan, &mut problems)?);
    }
    refuse(problems)?;
    Ok(Snapshot { packages, seen })
}

/// The local packages that these are made of, by their manifests alone.
fn declared_parts<'a>(
    manifests: &'a Manifests,
    scopes: &BTreeMap<PackageName, Scope>,
) -> BTreeSet<(&'a str, Scope)> {
    let known = |name: &str| Some(manifests.packages.get_key_value(name)?.0.as_str());
    let roots = scopes.iter();
    let roots = roots.filter_map(|(name, scope)| Some((known(name.as_str())?, *scope)));
    let mut pending: Vec<(&str, Scope)> = roots.collect();
    let mut parts = BTreeSet::new();
    while let Some((name, scope)) = pending.pop() {
        if !parts.insert((name, scope)) {
            continue;
        }
        let declared = manifests.packages[name].dependencies.iter();
        let counts = |kind| kind != DependencyKind::Development || scope == Scope::Tests;
        let local = declared.filter(|one| one.directory.is_some() && counts(one.kind));
        let local = local.filter_map(|one| known(&one.package));
        pending.extend(local.map(|name| (name, Scope::Binary)));
    }
    parts
}

fn read_lock(root: &Utf8Path) -> Result<Arc<Lock>> {
    let path = Utf8Path::new("Cargo.lock");
    let Some(bytes) = read_plain(root, path)? else {
        let failure = Failure::new(Exit::Source, "Cargo.lock is missing");
        return Err(failure.hint("cargo generate-lockfile").into());
    };
    let text = String::from_utf8(bytes).context("Cargo.lock is not UTF-8")?;
    Lock::parse(&text).map(Arc::new)
}

fn read_configuration(root: &Utf8Path) -> Result<Option<Vec<u8>>> {
    let old = Utf8Path::new(".cargo/config");
    if reading::look(root, old).is_ok_and(|found| found.is_some()) {
        return Err(refused(
            old,
            "has its old name; rename it to .cargo/config.toml",
        ));
    }
    let path = Utf8Path::new(CONFIGURATION);
    match read_plain(root, path)? {
        Some(bytes) => cut::configuration(path, &bytes),
        None => Ok(None),
    }
}

const CONFIGURATION: &str = ".cargo/config.toml";

/// The bytes of a file; nothing if there is none.
fn read_plain(root: &Utf8Path, path: &Utf8Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match reading::read(root, path, &mut bytes) {
        Ok(Node::File { .. }) => Ok(Some(bytes)),
        Ok(Node::Missing) => Ok(None),
        Ok(Node::Link(_) | Node::Folder) => Err(refused(path, "is not a plain file")),
        Err(problem) => {
            refuse(vec![problem])?;
            Ok(None)
        }
    }
}

/// One package before its files are read.
struct Plan<'a> {
    name: &'a PackageName,
    scope: Scope,
    /// The local packages that it is made of.
    scopes: BTreeMap<&'a str, Scope>,
    reached: Reached,
    generated: BTreeMap<Utf8PathBuf, Vec<u8>>,
    /// The text of what it reaches; not in the digest, which has that as a set.
    lock: Vec<u8>,
}

impl<'a> Plan<'a> {
    fn make(
        manifests: &'a Manifests,
        lock: &Arc<Lock>,
        name: &'a PackageName,
        scope: Scope,
    ) -> Result<Self> {
        if !manifests.packages.contains_key(name.as_str()) {
            let what = format!("the package `{name}` is gone since the manifests were read");
            return Err(refused("Cargo.toml", &what));
        }
        let reached = lock.reach(manifests, name.as_str(), scope)?;
        let mut scopes = BTreeMap::new();
        for local in reached.locals() {
            let known = manifests.packages.get_key_value(local);
            let (local, _) = known
                .ok_or_else(|| refused("Cargo.lock", &format!("`{local}` has no manifest")))?;
            let of_root = local == name.as_str();
            scopes.insert(local.as_str(), if of_root { scope } else { Scope::Binary });
        }
        Ok(Self {
            name,
            scope,
            scopes,
            reached,
            generated: BTreeMap::new(),
            lock: Vec::new(),
        })
    }
}

impl<'a> Plan<'a> {
    /// What it is made of, each with its manifest cut.
    fn parts<'b>(
        &'b self,
        cut: &'b BTreeMap<(&'a str, Scope), CutPackage>,
    ) -> impl Iterator<Item = (&'a str, &'b CutPackage)> + Clone {
        let parts = self.scopes.iter();
        parts.map(|(name, scope)| (*name, &cut[&(*name, *scope)]))
    }

    /// Manifests, configuration and lock as the mirror gets them.
    fn generate(
        &mut self,
        manifests: &Manifests,
        cut: &BTreeMap<(&'a str, Scope), CutPackage>,
        configuration: Option<&[u8]>,
    ) -> Result<()> {
        self.generated = cut::manifests(manifests, self.parts(cut), &self.reached)?;
        let configuration = configuration.map(|text| (CONFIGURATION.into(), text.to_owned()));
        self.generated.extend(configuration);
        self.lock = self.reached.text().into_bytes();
        Ok(())
    }
}

/// Everything that the packages of a run are put together from.
struct Parts<'a> {
    manifests: &'a Manifests,
    sources: &'a Sources<'a>,
    seen: &'a SeenPaths,
    cut: &'a BTreeMap<(&'a str, Scope), CutPackage>,
    configuration: Option<&'a [u8]>,
}

impl Parts<'_> {
    fn assemble(&self, mut plan: Plan<'_>, problems: &mut Vec<Problem>) -> Result<PackageSnapshot> {
        let mut generated = mem::take(&mut plan.generated);
        let contents = Contents::new(self.sources, &plan.scopes, self.seen, &generated);
        let (entries, found) = contents.entries();
        problems.extend(found);
        let source = Source {
            name: plan.name.as_str(),
            scope: plan.scope,
            entries: &entries,
            manifests: &generated,
            reached: &plan.reached,
        };
        let local = Locals {
            manifests: self.manifests,
            entries: &entries,
            own: plan
                .parts(self.cut)
                .map(|(name, cut)| (name, cut.own.as_slice()))
                .collect(),
            configuration: self.configuration,
        };
        let (source, local) = thread::scope(|threads| {
            let source = threads.spawn(|| Digest::of(&encode_source(&source)));
            let local = local.digests(plan.name.as_str(), plan.scope);
            (join(source), local)
        });
        let local = local?;
        let entries = entries.into_iter().map(|(entry, _)| entry).collect();
        generated.insert("Cargo.lock".into(), plan.lock);
        Ok(PackageSnapshot {
            name: plan.name.clone(),
            scope: plan.scope,
            source,
            entries,
            generated,
            local,
            reached: plan.reached,
        })
    }
}
