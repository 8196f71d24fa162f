//! The sources of a run, read once: bytes, digest, and those very bytes kept by digest. After
//! [`Snapshot::take`] nobody reads the working tree again.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::closure::{self, Closure, Listing};
use super::contents::Owned;
use super::cut;
use super::digests::{Locals, Source, encode_source};
use super::explain::{self, Record};
use super::lock::{Lock, Reached};
use super::manifests::{Manifests, refused};
use super::objects::Objects;
use super::reading::{self, Node, Problem, refuse};
use super::seen::{Seen, join, read_all};
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
    seen: BTreeMap<Utf8PathBuf, Seen>,
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
        let snapshot = freeze(&workspace.root, packages, keep, &BTreeMap::new())?;
        if let Keep::Objects(state_directory) = keep {
            for package in snapshot.packages() {
                Record::of(package).keep(state_directory)?;
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
        let mut edited = BTreeSet::new();
        for (before, after) in self.packages().zip(now.packages()) {
            if before.source != after.source {
                let changes = explain::difference(&Record::of(before), &Record::of(after));
                edited.extend(changes.into_iter().map(|change| change.path));
            }
        }
        Ok(edited.into_iter().collect())
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
    known: &BTreeMap<Utf8PathBuf, Seen>,
) -> Result<Snapshot> {
    let manifests = Manifests::read(root)?;
    let directories = closure::directories(&manifests)?;
    // git and the parser of the lock each take their milliseconds; neither needs the other.
    let (listing, lock) = thread::scope(|threads| {
        let listing = threads.spawn(|| closure::list(root, &directories));
        let lock = read_lock(root);
        (join(listing), lock)
    });
    let (listing, lock) = (listing?, lock?);
    let configuration = read_configuration(root)?;
    let mut plans = Vec::new();
    for (name, scope) in scopes {
        if !manifests.packages.contains_key(name.as_str()) {
            let what = format!("the package `{name}` is gone since the manifests were read");
            return Err(refused("Cargo.toml", &what));
        }
        plans.push(Plan::make(&manifests, &lock, name, *scope)?);
    }
    let mut problems = Vec::new();
    let mut wanted = BTreeSet::new();
    for plan in &plans {
        problems.extend(plan.closure.problems(root, &listing)?);
        wanted.extend(
            listing
                .paths
                .iter()
                .filter(|path| plan.closure.owner(path).is_some()),
        );
    }
    let (seen, unread) = read_all(root, wanted, known, keep)?;
    problems.extend(unread);
    let mut packages = BTreeMap::new();
    for plan in plans {
        let name = plan.name.clone();
        let package = plan.assemble(&seen, &listing, configuration.as_deref(), &mut problems)?;
        packages.insert(name, package);
    }
    refuse(problems)?;
    Ok(Snapshot { packages, seen })
}

fn read_lock(root: &Utf8Path) -> Result<Lock> {
    let path = Utf8Path::new("Cargo.lock");
    let Some(bytes) = read_plain(root, path)? else {
        let failure = Failure::new(Exit::Source, "Cargo.lock is missing");
        return Err(failure.hint("cargo generate-lockfile").into());
    };
    Lock::parse(&String::from_utf8(bytes).context("Cargo.lock is not UTF-8")?)
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
    match reading::read(root, path) {
        Ok(Node::File { bytes, .. }) => Ok(Some(bytes)),
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
    manifests: &'a Manifests,
    closure: Closure<'a>,
    reached: Reached,
}

impl<'a> Plan<'a> {
    fn make(
        manifests: &'a Manifests,
        lock: &Lock,
        name: &'a PackageName,
        scope: Scope,
    ) -> Result<Self> {
        let reached = lock.reach(manifests, name.as_str(), scope)?;
        let mut scopes = BTreeMap::new();
        for local in reached.locals() {
            let (local, _) = manifests
                .packages
                .get_key_value(local)
                .ok_or_else(|| refused("Cargo.lock", &format!("`{local}` has no manifest")))?;
            let of_root = local == name.as_str();
            scopes.insert(local.as_str(), if of_root { scope } else { Scope::Binary });
        }
        Ok(Self {
            name,
            scope,
            manifests,
            closure: Closure::new(manifests, scopes),
            reached,
        })
    }

    fn assemble(
        self,
        seen: &BTreeMap<Utf8PathBuf, Seen>,
        listing: &Listing,
        configuration: Option<&[u8]>,
        problems: &mut Vec<Problem>,
    ) -> Result<PackageSnapshot> {
        let cut = cut::manifests(
            self.manifests,
            self.name.as_str(),
            self.scope,
            &self.reached,
        )?;
        let mut generated = cut.texts;
        if let Some(text) = configuration {
            generated.insert(CONFIGURATION.into(), text.to_owned());
        }
        let owned = Owned::of(&self.closure, seen, listing, &generated);
        let (entries, found) = owned.entries();
        problems.extend(found);
        let source = encode_source(&Source {
            name: self.name.as_str(),
            scope: self.scope,
            entries: &entries,
            manifests: &generated,
            reached: &self.reached,
        });
        let local = Locals {
            manifests: self.manifests,
            closure: &self.closure,
            entries: &entries,
            own: &cut.own,
            configuration,
        };
        let local = local.digests(self.name, self.scope, &self.reached)?;
        generated.insert("Cargo.lock".into(), self.reached.text()?.into_bytes());
        Ok(PackageSnapshot {
            name: self.name.clone(),
            scope: self.scope,
            source: Digest::of(&source),
            entries,
            generated,
            local,
            reached: self.reached,
        })
    }
}
