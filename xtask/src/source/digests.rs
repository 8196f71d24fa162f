//! The source digest of a package, and those of the local packages that it is made of. Both are
//! functions of the tree alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use camino::Utf8PathBuf;

use super::encoding::Encoder;
use super::lock::Reached;
use super::manifests::{DependencyKind, Manifests, refused};
use super::snapshot::{Entry, EntryKind, Scope};
use super::workspace::PackageName;
use crate::digest::Digest;

/// Everything that the source digest is taken of.
pub(crate) struct Source<'a> {
    pub(crate) name: &'a str,
    pub(crate) scope: Scope,
    pub(crate) entries: &'a [(Entry, &'a str)],
    pub(crate) manifests: &'a BTreeMap<Utf8PathBuf, Vec<u8>>,
    pub(crate) reached: &'a Reached,
}

pub(crate) fn encode_source(source: &Source<'_>) -> Vec<u8> {
    let mut encoder = Encoder::new("phase-zero source 1");
    encoder.text(source.name);
    encode_scope(&mut encoder, source.scope);
    encode_entries(&mut encoder, source.entries.iter().map(|(entry, _)| entry));
    encoder.count(source.manifests.len());
    for (path, text) in source.manifests {
        encoder.text(path.as_str());
        encoder.bytes(text);
    }
    source.reached.encode(&mut encoder);
    encoder.into_bytes()
}

fn encode_scope(encoder: &mut Encoder, scope: Scope) {
    encoder.choice(match scope {
        Scope::Binary => 0,
        Scope::Tests => 1,
    });
}

fn encode_entries<'a>(encoder: &mut Encoder, entries: impl ExactSizeIterator<Item = &'a Entry>) {
    encoder.count(entries.len());
    for entry in entries {
        encoder.text(entry.path.as_str());
        match &entry.kind {
            EntryKind::File {
                digest,
                length_bytes,
                executable,
            } => {
                encoder.choice(if *executable { 1 } else { 0 });
                encoder.digest(*digest);
                encoder.bytes(&length_bytes.to_le_bytes());
            }
            EntryKind::Link {
                target,
                digest,
                executable,
            } => {
                encoder.choice(if *executable { 3 } else { 2 });
                encoder.text(target.as_str());
                encoder.digest(*digest);
            }
        }
    }
}

/// What the digests of single local packages are taken of.
pub(crate) struct Locals<'a> {
    pub(crate) manifests: &'a Manifests,
    pub(crate) entries: &'a [(Entry, &'a str)],
    /// Each package with its manifest and what it inherits.
    pub(crate) own: BTreeMap<&'a str, &'a [u8]>,
    pub(crate) configuration: Option<&'a [u8]>,
}

impl Locals<'_> {
    /// Each local package, together with those that it depends on. `root` counts with its tests if
    /// `scope` says so.
    pub(crate) fn digests(
        &self,
        root: &str,
        scope: Scope,
    ) -> Result<BTreeMap<PackageName, Digest>> {
        let mut files: BTreeMap<&str, Vec<&Entry>> = BTreeMap::new();
        for (entry, package) in self.entries {
            files.entry(package).or_default().push(entry);
        }
        let files = |name: &str| files.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut digests: BTreeMap<&str, Digest> = BTreeMap::new();
        // Each round finishes what depends on finished packages alone.
        while digests.len() < self.own.len() {
            let finished = digests.len();
            for name in self.own.keys() {
                let needed = self.needed(name, Scope::Binary).into_iter();
                let needed: Option<Vec<Digest>> =
                    needed.map(|needed| digests.get(needed).copied()).collect();
                if let Some(needed) = needed.filter(|_| !digests.contains_key(name)) {
                    digests.insert(name, self.digest(name, Scope::Binary, files(name), &needed));
                }
            }
            if digests.len() == finished {
                return Err(refused(
                    "Cargo.toml",
                    "packages depend on each other in a circle",
                ));
            }
        }
        // Tests may use what depends on the package that they test: a circle that cargo allows.
        if scope == Scope::Tests {
            let needed = self.needed(root, scope);
            let needed: Vec<Digest> = needed.iter().map(|needed| digests[needed]).collect();
            let digest = self.digest(root, scope, files(root), &needed);
            digests.insert(root, digest);
        }
        let named = digests.into_iter();
        let named = named.map(|(name, digest)| (PackageName::known(name.to_owned()), digest));
        Ok(named.collect())
    }

    /// Local packages that this one depends on directly.
    fn needed(&self, name: &str, scope: Scope) -> BTreeSet<&str> {
        let counts = |kind| kind != DependencyKind::Development || scope == Scope::Tests;
        let declared = self.manifests.packages[name].dependencies.iter();
        let needed = declared.filter(|one| counts(one.kind) && one.package != name);
        let local = needed.filter_map(|one| self.own.get_key_value(one.package.as_str()));
        local.map(|(name, _)| *name).collect()
    }

    fn digest(&self, name: &str, scope: Scope, files: &[&Entry], needed: &[Digest]) -> Digest {
        let mut encoder = Encoder::new("phase-zero local package 1");
        encoder.text(name);
        encode_scope(&mut encoder, scope);
        encode_entries(&mut encoder, files.iter().copied());
        encoder.bytes(self.own[name]);
        encoder.bytes(self.configuration.unwrap_or_default());
        encoder.count(needed.len());
        needed.iter().for_each(|digest| encoder.digest(*digest));
        encoder.finish()
    }
}
