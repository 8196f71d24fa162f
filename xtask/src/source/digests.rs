//! The source digest of a package, and those of the local packages that it is made of. Both are
//! functions of the tree alone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use camino::Utf8PathBuf;

use super::lock::Reached;
use super::manifests::{DependencyKind, Manifests, refused};
use super::snapshot::{Entry, EntryKind, Scope};
use super::workspace::PackageName;
use crate::digest::Digest;
use hashing::encoding::Encoder;

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
        // Most entries are of the package of the entry before them.
        for part in self.entries.chunk_by(|(_, one), (_, other)| one == other) {
            let package = files.entry(part[0].1).or_default();
            package.extend(part.iter().map(|(entry, _)| entry));
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
        Digest::of(&encode_local(&Local {
            name,
            scope,
            files,
            own: self.own[name],
            configuration: self.configuration.unwrap_or_default(),
            needed,
        }))
    }
}

/// Everything that the digest of a single local package is taken of.
struct Local<'a> {
    name: &'a str,
    scope: Scope,
    files: &'a [&'a Entry],
    own: &'a [u8],
    /// Empty: there is none.
    configuration: &'a [u8],
    needed: &'a [Digest],
}

fn encode_local(local: &Local<'_>) -> Vec<u8> {
    let mut encoder = Encoder::new("phase-zero local package 1");
    encoder.text(local.name);
    encode_scope(&mut encoder, local.scope);
    encode_entries(&mut encoder, local.files.iter().copied());
    encoder.bytes(local.own);
    encoder.bytes(local.configuration);
    encoder.count(local.needed.len());
    let needed = local.needed.iter();
    needed.for_each(|digest| encoder.digest(*digest));
    encoder.into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use camino::Utf8PathBuf;
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::{Local, Source, encode_local, encode_source};
    use crate::digest::Digest;
    use crate::source::lock::{LockId, Parts, Reached};
    use crate::source::snapshot::{Entry, EntryKind, Scope};

    /// Everything that is encoded, owned.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Input {
        name: String,
        scope: Scope,
        entries: Vec<Entry>,
        manifests: BTreeMap<Utf8PathBuf, Vec<u8>>,
        format: Option<u32>,
        lock: Parts,
    }

    fn encode(input: &Input) -> Vec<u8> {
        let entries = input.entries.iter().map(|entry| (entry.clone(), ""));
        encode_source(&Source {
            name: &input.name,
            scope: input.scope,
            entries: &entries.collect::<Vec<_>>(),
            manifests: &input.manifests,
            reached: &Reached::of(input.format, &input.lock),
        })
    }

    /// Reads an encoding back: what can be read back was not written like anything else.
    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn take(&mut self, length: usize) -> Vec<u8> {
            let (taken, rest) = self.0.split_at(length);
            self.0 = rest;
            taken.to_vec()
        }

        fn number(&mut self) -> usize {
            u64::from_le_bytes(self.take(8).try_into().unwrap())
                .try_into()
                .unwrap()
        }

        fn bytes(&mut self) -> Vec<u8> {
            let length = self.number();
            self.take(length)
        }

        fn text(&mut self) -> String {
            String::from_utf8(self.bytes()).unwrap()
        }

        fn choice(&mut self) -> u8 {
            self.take(1)[0]
        }

        fn optional(&mut self) -> Option<String> {
            (self.choice() == 1).then(|| self.text())
        }

        fn digest(&mut self) -> Digest {
            let hex = self.take(32).into_iter().map(|byte| format!("{byte:02x}"));
            hex.collect::<String>().parse().unwrap()
        }

        fn entry(&mut self) -> Entry {
            let path = self.text().into();
            let kind = match self.choice() {
                choice @ (0 | 1) => EntryKind::File {
                    executable: choice == 1,
                    digest: self.digest(),
                    length_bytes: u64::from_le_bytes(self.bytes().try_into().unwrap()),
                },
                choice => EntryKind::Link {
                    executable: choice == 3,
                    target: self.text().into(),
                    digest: self.digest(),
                },
            };
            Entry { path, kind }
        }

        fn id(&mut self) -> LockId {
            LockId {
                name: self.text(),
                version: self.text(),
                source: self.optional(),
            }
        }

        fn lock(&mut self) -> Parts {
            let mut parts = Parts::new();
            for _ in 0..self.number() {
                let id = self.id();
                let checksum = self.optional();
                let edges = (0..self.number()).map(|_| self.id()).collect();
                let replaced_by = (0..self.number()).map(|_| self.id()).next_back();
                parts.insert(id, (checksum, edges, replaced_by));
            }
            parts
        }

        fn input(&mut self) -> Input {
            assert_eq!(self.text(), "phase-zero source 1");
            Input {
                name: self.text(),
                scope: [Scope::Binary, Scope::Tests][usize::from(self.choice())],
                entries: (0..self.number()).map(|_| self.entry()).collect(),
                manifests: (0..self.number())
                    .map(|_| (self.text().into(), self.bytes()))
                    .collect(),
                format: self.optional().map(|format| format.parse().unwrap()),
                lock: self.lock(),
            }
        }
    }

    fn digest() -> impl Strategy<Value = Digest> + Clone {
        any::<u8>().prop_map(|byte| Digest::of(&[byte]))
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let digest = digest();
        let file = (digest.clone(), any::<u64>(), any::<bool>());
        let file = file.prop_map(|(digest, length_bytes, executable)| EntryKind::File {
            digest,
            length_bytes,
            executable,
        });
        let link = (".{0,4}", digest, any::<bool>());
        let link = link.prop_map(|(target, digest, executable)| EntryKind::Link {
            target: target.into(),
            digest,
            executable,
        });
        (".{0,4}", prop_oneof![file, link]).prop_map(|(path, kind)| Entry {
            path: path.into(),
            kind,
        })
    }

    fn id() -> impl Strategy<Value = LockId> {
        ("[ab]{0,2}", "[12.]{0,3}", option::of("[ab+]{0,2}")).prop_map(|(name, version, source)| {
            LockId {
                name,
                version,
                source,
            }
        })
    }

    fn input() -> impl Strategy<Value = Input> {
        let parts = (
            option::of("[0-9a-f]{0,3}"),
            btree_set(id(), 0..3),
            option::of(id()),
        );
        (
            ".{0,4}",
            any::<bool>(),
            vec(entry(), 0..4),
            btree_map(
                ".{0,4}".prop_map(Utf8PathBuf::from),
                vec(any::<u8>(), 0..6),
                0..3,
            ),
            option::of(any::<u32>()),
            btree_map(id(), parts, 0..4),
        )
            .prop_map(|(name, tests, entries, manifests, format, lock)| Input {
                name,
                scope: if tests { Scope::Tests } else { Scope::Binary },
                entries,
                manifests,
                format,
                lock,
            })
    }

    proptest! {
        #[test]
        fn no_two_inputs_are_encoded_alike(input in input()) {
            let bytes = encode(&input);
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.input(), input);
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn no_two_local_packages_are_encoded_alike(
            name in ".{0,4}",
            tests in any::<bool>(),
            files in vec(entry(), 0..4),
            own in vec(any::<u8>(), 0..6),
            configuration in vec(any::<u8>(), 0..6),
            needed in vec(digest(), 0..3),
        ) {
            let bytes = encode_local(&Local {
                name: &name,
                scope: if tests { Scope::Tests } else { Scope::Binary },
                files: &files.iter().collect::<Vec<_>>(),
                own: &own,
                configuration: &configuration,
                needed: &needed,
            });
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.text(), "phase-zero local package 1");
            prop_assert_eq!(reader.text(), name);
            prop_assert_eq!(reader.choice() == 1, tests);
            let read: Vec<Entry> = (0..reader.number()).map(|_| reader.entry()).collect();
            prop_assert_eq!(read, files);
            prop_assert_eq!(reader.bytes(), own);
            prop_assert_eq!(reader.bytes(), configuration);
            let read: Vec<Digest> = (0..reader.number()).map(|_| reader.digest()).collect();
            prop_assert_eq!(read, needed);
            prop_assert!(reader.0.is_empty());
        }
    }
}
