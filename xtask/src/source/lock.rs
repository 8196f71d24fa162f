//! `Cargo.lock` as a graph, and the part of it that one package reaches. Sources are taken as they
//! are written, never parsed and printed again.
//!
//! The lock does not tell for what a local package wants a dependency; its manifest does. For
//! packages from elsewhere the lock lists what some member of the workspace may need of them, so
//! the part can be larger than what is built, never smaller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;

use super::manifests::{Dependency, DependencyKind, Manifests};
use super::snapshot::Scope;
use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use hashing::encoding::Encoder;

/// The newest format that is understood here.
const FORMAT_MAX: i64 = 4;

/// Which package, exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LockId {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Absent for local packages.
    pub(crate) source: Option<String>,
}

/// The whole file, in order of the IDs.
#[derive(Debug)]
pub(crate) struct Lock {
    format: Option<i64>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: LockId,
    /// The ID as an edge to it is written.
    written: String,
    checksum: Option<String>,
    /// Places in the list of entries.
    dependencies: BTreeSet<usize>,
    replaced_by: Option<usize>,
}

/// What one package reaches.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    lock: Arc<Lock>,
    /// Entries, and those of their edges that count.
    edges: BTreeMap<usize, BTreeSet<usize>>,
}

struct Package {
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    dependencies: Vec<String>,
    replace: Option<String>,
}

impl Lock {
    /// Reads the text of a lock.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        // A table is read by code of the parser's own, which is optimised; what is derived for a
        // type of ours is not.
        let mut file: toml::Table = text
            .parse()
            .map_err(|error| not_understood().caused_by(error))?;
        let format = match file.get("version").map(toml::Value::as_integer) {
            None => None,
            Some(Some(version)) if (1..=FORMAT_MAX).contains(&version) => Some(version),
            Some(_) => return Err(not_supported()),
        };
        if format.is_none() && file.contains_key("metadata") {
            return Err(not_supported());
        }
        let packages = match file.remove("package") {
            None => Vec::new(),
            Some(toml::Value::Array(packages)) => packages,
            Some(_) => return Err(not_understood().into()),
        };
        let packages = packages.into_iter().map(Package::read);
        let mut packages = packages.collect::<Result<Vec<_>>>()?;
        packages.iter().try_for_each(Package::check)?;
        packages.sort_by_cached_key(Package::id);
        let ids: Vec<LockId> = packages.iter().map(Package::id).collect();
        let mut by_name: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (place, id) in ids.iter().enumerate() {
            by_name.entry(&id.name).or_default().push(place);
        }
        let resolve = |written: &String| resolve(&ids, &by_name, written);
        let mut entries = Vec::with_capacity(ids.len());
        for (package, id) in packages.into_iter().zip(&ids) {
            entries.push(Entry {
                id: id.clone(),
                written: id.to_string(),
                dependencies: package
                    .dependencies
                    .iter()
                    .map(resolve)
                    .collect::<Result<_>>()?,
                replaced_by: package.replace.as_ref().map(resolve).transpose()?,
                checksum: package.checksum,
            });
        }
        Ok(Self { format, entries })
    }

    /// What the package `name` reaches: all that its binary is made of, or its tests too.
    pub(crate) fn reach(
        self: &Arc<Self>,
        manifests: &Manifests,
        name: &str,
        scope: Scope,
    ) -> Result<Reached> {
        let mut edges: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut pending = vec![(self.local(name)?, scope)];
        while let Some((place, scope)) = pending.pop() {
            if !seen.insert((place, scope)) {
                continue;
            }
            let entry = &self.entries[place];
            let dependencies = match entry.id.source {
                Some(_) => entry.dependencies.clone(),
                None => self.wanted(manifests, entry, scope)?,
            };
            let following = dependencies.iter().copied().chain(entry.replaced_by);
            pending.extend(following.map(|place| (place, Scope::Binary)));
            edges.entry(place).or_default().extend(dependencies);
        }
        let lock = Arc::clone(self);
        Ok(Reached { lock, edges })
    }

    fn local(&self, name: &str) -> Result<usize> {
        let local = |entry: &Entry| entry.id.name == name && entry.id.source.is_none();
        self.entries
            .iter()
            .position(local)
            .ok_or_else(|| stale(name))
    }

    /// Which edges of a local package count, by what its manifest declares.
    fn wanted(
        &self,
        manifests: &Manifests,
        entry: &Entry,
        scope: Scope,
    ) -> Result<BTreeSet<usize>> {
        let manifest = manifests.packages.get(&entry.id.name);
        let manifest = manifest.ok_or_else(|| stale(&entry.id.name))?;
        let mut wanted = BTreeSet::new();
        for dependency in &manifest.dependencies {
            if dependency.kind == DependencyKind::Development && scope == Scope::Binary {
                continue;
            }
            let chosen = self.choose(dependency, entry);
            // Of members cargo locks everything; of others only what a feature turns on.
            let is_off = dependency.optional && !manifest.member;
            if chosen.is_empty() && !is_off {
                return Err(stale(&dependency.package));
            }
            wanted.extend(chosen);
        }
        Ok(wanted)
    }

    /// The same name in two versions is told apart by what the manifest asks for.
    fn choose(&self, dependency: &Dependency, entry: &Entry) -> Vec<usize> {
        let id = |place: &usize| &self.entries[*place].id;
        let named = entry.dependencies.iter().copied();
        let named: Vec<usize> = named
            .filter(|place| id(place).name == dependency.package)
            .collect();
        if named.len() < 2 {
            return named;
        }
        let requirement = dependency.requirement.as_deref();
        let requirement = requirement.and_then(|text| semver::VersionReq::parse(text).ok());
        let fits = |place: &usize| {
            let version = semver::Version::parse(&id(place).version);
            let asked = requirement.as_ref().is_none_or(|requirement| {
                version.is_ok_and(|version| requirement.matches(&version))
            });
            asked && (dependency.directory.is_none() || id(place).source.is_none())
        };
        let fitting: Vec<usize> = named.iter().copied().filter(fits).collect();
        if fitting.is_empty() { named } else { fitting }
    }
}

impl Package {
    fn read(value: toml::Value) -> Result<Self> {
        let toml::Value::Table(mut table) = value else {
            return Err(not_understood().into());
        };
        let mut text = |key: &str| match table.remove(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(not_understood()),
        };
        let (name, version) = (text("name")?, text("version")?);
        let (source, checksum) = (text("source")?, text("checksum")?);
        let replace = text("replace")?;
        let dependencies = match table.remove("dependencies") {
            None => Vec::new(),
            Some(toml::Value::Array(dependencies)) => dependencies,
            Some(_) => return Err(not_understood().into()),
        };
        let dependencies = dependencies.into_iter().map(|one| match one {
            toml::Value::String(text) => Ok(text),
            _ => Err(not_understood()),
        });
        Ok(Self {
            name: name.ok_or_else(not_understood)?,
            version: version.ok_or_else(not_understood)?,
            source,
            checksum,
            dependencies: dependencies.collect::<Result<_, _>>()?,
            replace,
        })
    }

    /// No name, version, source or checksum has quotes, and none is written anew with escapes.
    fn check(&self) -> Result<()> {
        let texts = [Some(&self.name), Some(&self.version)].into_iter();
        let mut texts = texts
            .chain([self.source.as_ref(), self.checksum.as_ref()])
            .flatten();
        let odd = |byte: u8| byte == b'"' || byte == b'\\' || byte.is_ascii_control();
        if texts.any(|text| text.bytes().any(odd)) {
            let message = format!("Cargo.lock: `{}` has quotes or controls in it", self.name);
            return Err(refused(&message).into());
        }
        Ok(())
    }

    fn id(&self) -> LockId {
        LockId {
            name: self.name.clone(),
            version: self.version.clone(),
            source: self.source.clone(),
        }
    }
}

/// `name`, `name version` or `name version (source)`: as short as is clear within the file.
fn resolve(ids: &[LockId], by_name: &BTreeMap<&str, Vec<usize>>, written: &str) -> Result<usize> {
    let mut parts = written.splitn(3, ' ');
    let name = parts.next().unwrap_or_default();
    let version = parts.next();
    let source = parts.next();
    let source = source.map(|text| text.trim_start_matches('(').trim_end_matches(')'));
    // An edge to a git source leaves out the commit that the entry has after `#`.
    let repository = |source: &str| source.split('#').next().unwrap_or_default().to_owned();
    let fits = |place: &usize| {
        let id = &ids[*place];
        version.is_none_or(|version| version == id.version)
            && source.is_none_or(|source| {
                id.source.as_deref().map(repository) == Some(repository(source))
            })
    };
    let candidates = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
    let mut candidates = candidates.iter().copied().filter(fits);
    let first = candidates.next();
    // One that could mean a local package means it (it comes first): others are written with
    // their source.
    let clear = |place: &usize| ids[*place].source.is_none() || candidates.next().is_none();
    first.filter(clear).ok_or_else(|| {
        refused(&format!(
            "Cargo.lock: it is not clear what `{written}` means"
        ))
        .into()
    })
}

impl Reached {
    fn entries(&self) -> impl ExactSizeIterator<Item = (&Entry, &BTreeSet<usize>)> {
        let edges = self.edges.iter();
        edges.map(|(place, edges)| (&self.lock.entries[*place], edges))
    }

    fn id(&self, place: usize) -> &LockId {
        &self.lock.entries[place].id
    }

    /// Names of all packages that are reached.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.entries()
            .map(|(entry, _)| entry.id.name.as_str())
            .collect()
    }

    /// Names of the local packages that are reached.
    pub(crate) fn locals(&self) -> impl Iterator<Item = &str> {
        let local = self
            .entries()
            .filter(|(entry, _)| entry.id.source.is_none());
        local.map(|(entry, _)| entry.id.name.as_str())
    }

    /// As a set, never as text: what other members do to the text of an entry is left out.
    pub(crate) fn encode(&self, encoder: &mut Encoder) {
        encoder.optional(self.lock.format.map(|format| format.to_string()).as_deref());
        encoder.count(self.edges.len());
        for (entry, edges) in self.entries() {
            self.encode_entry(entry, edges, encoder);
        }
    }

    fn encode_entry(&self, entry: &Entry, edges: &BTreeSet<usize>, encoder: &mut Encoder) {
        entry.id.encode(encoder);
        encoder.optional(entry.checksum.as_deref());
        encoder.count(edges.len());
        edges
            .iter()
            .for_each(|place| self.id(*place).encode(encoder));
        encoder.count(usize::from(entry.replaced_by.is_some()));
        entry
            .replaced_by
            .iter()
            .for_each(|place| self.id(*place).encode(encoder));
    }

    /// Every entry by its name, version and source, each with a digest of its own.
    pub(crate) fn digests(&self) -> BTreeMap<String, Digest> {
        let digest = |(entry, edges): (&Entry, &BTreeSet<usize>)| {
            let mut encoder = Encoder::new("phase-zero lock entry 1");
            self.encode_entry(entry, edges, &mut encoder);
            (entry.written.clone(), encoder.finish())
        };
        self.entries().map(digest).collect()
    }

    /// A lock that cargo reads. It may hold more than cargo needs, so cargo prunes it once.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        if let Some(format) = self.lock.format {
            text.push_str(&format!("version = {format}\n"));
        }
        for (entry, edges) in self.entries() {
            text.push_str("\n[[package]]\n");
            push_field(&mut text, "name", Some(&entry.id.name));
            push_field(&mut text, "version", Some(&entry.id.version));
            push_field(&mut text, "source", entry.id.source.as_deref());
            push_field(&mut text, "checksum", entry.checksum.as_deref());
            if !edges.is_empty() {
                text.push_str("dependencies = [\n");
                for place in edges {
                    text.push(' ');
                    push_quoted(&mut text, &self.lock.entries[*place].written);
                    text.push_str(",\n");
                }
                text.push_str("]\n");
            }
            let replaced_by = entry.replaced_by.map(|place| &self.lock.entries[place]);
            let replaced_by = replaced_by.map(|entry| entry.written.as_str());
            push_field(&mut text, "replace", replaced_by);
        }
        text
    }

    /// Sees to it that a lock which cargo has pruned holds nothing that was not frozen.
    pub(crate) fn check_pruned(&self, text: &str) -> Result<()> {
        let pruned = Lock::parse(text)?;
        for entry in &pruned.entries {
            let id = |place: usize| &pruned.entries[place].id;
            let frozen = self.entries().find(|(frozen, _)| frozen.id == entry.id);
            let within = frozen.is_some_and(|(frozen, edges)| {
                let edges: BTreeSet<&LockId> = edges.iter().map(|place| self.id(*place)).collect();
                let replaced_by = frozen.replaced_by.map(|place| self.id(place));
                frozen.checksum == entry.checksum
                    && replaced_by == entry.replaced_by.map(id)
                    && entry
                        .dependencies
                        .iter()
                        .all(|place| edges.contains(id(*place)))
            });
            if !within {
                let message = format!(
                    "cargo wants `{}` otherwise than Cargo.lock has it",
                    entry.id
                );
                return Err(Failure::new(Exit::Build, message).hint(UPDATE).into());
            }
        }
        Ok(())
    }
}

fn push_field(text: &mut String, key: &str, value: Option<&str>) {
    if let Some(value) = value {
        text.push_str(key);
        text.push_str(" = ");
        push_quoted(text, value);
        text.push('\n');
    }
}

/// Nothing that would need an escape gets through [`Package::check`].
fn push_quoted(text: &mut String, value: &str) {
    text.push('"');
    text.push_str(value);
    text.push('"');
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
        formatter.write_str(&self.name)?;
        formatter.write_str(" ")?;
        formatter.write_str(&self.version)?;
        match &self.source {
            // As cargo does: an edge leaves out the commit of a git source.
            Some(source) => {
                let source = source.split('#').next().unwrap_or(source);
                write!(formatter, " ({source})")
            }
            None => Ok(()),
        }
    }
}

const UPDATE: &str = "bring it up to date with `cargo metadata --format-version 1 > /dev/null`; if cargo cannot read it either, take it back from git: `git checkout Cargo.lock`";

fn not_understood() -> Failure {
    refused("Cargo.lock cannot be understood")
}

fn not_supported() -> anyhow::Error {
    refused("Cargo.lock is of a format that is not supported").into()
}

fn refused(message: &str) -> Failure {
    Failure::new(Exit::Source, message).hint(UPDATE)
}

fn stale(name: &str) -> anyhow::Error {
    refused(&format!(
        "Cargo.lock lags behind the manifests: `{name}` is not in its place"
    ))
    .into()
}

/// Checksum, edges and replacement of each.
#[cfg(test)]
pub(crate) type Parts = BTreeMap<LockId, (Option<String>, BTreeSet<LockId>, Option<LockId>)>;

#[cfg(test)]
impl Reached {
    /// With exactly these entries.
    pub(crate) fn of(format: Option<u32>, parts: &Parts) -> Self {
        let mut ids: BTreeSet<&LockId> = parts.keys().collect();
        for (_, edges, replaced_by) in parts.values() {
            ids.extend(edges.iter().chain(replaced_by));
        }
        let ids: Vec<&LockId> = ids.into_iter().collect();
        let place = |id: &LockId| ids.binary_search(&id).unwrap();
        let entry = |id: &&LockId| {
            let (checksum, edges, replaced_by) = parts.get(*id).cloned().unwrap_or_default();
            Entry {
                id: (*id).clone(),
                written: id.to_string(),
                checksum,
                dependencies: edges.iter().map(place).collect(),
                replaced_by: replaced_by.as_ref().map(place),
            }
        };
        let entries: Vec<Entry> = ids.iter().map(entry).collect();
        let edges = parts
            .keys()
            .map(|id| (place(id), entries[place(id)].dependencies.clone()));
        let edges = edges.collect();
        let format = format.map(i64::from);
        let lock = Arc::new(Lock { format, entries });
        Self { lock, edges }
    }
}
