//! What lies at the paths of a closure, each read once: hashed, and kept if asked to.

use std::panic;
use std::thread;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use hashing::files::{self, Outcome, ReadFile, Store};

use super::objects::Objects;
use super::reading::{self, Node, Problem};
use super::snapshot::Keep;
use crate::cache::MARK_INTERVAL;
use crate::digest::Digest;

/// Reading and hashing is bound by memory; more threads than this bring nothing.
const THREADS: usize = 2;

/// What was seen at a path.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    File(ReadFile),
    Link {
        target: Utf8PathBuf,
        leads_to: LeadsTo,
    },
    Folder,
    Missing,
}

/// What was seen at each of many paths, in byte order of these. A list, since it is made once, in
/// order, and gone through in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct SeenPaths(Vec<(String, Seen)>);

impl SeenPaths {
    /// What was seen at a path.
    pub(crate) fn get(&self, path: &str) -> Option<&Seen> {
        let found = self
            .0
            .binary_search_by(|(other, _)| other.as_str().cmp(path));
        Some(&self.0[found.ok()?].1)
    }

    /// From this path on.
    pub(crate) fn since(&self, path: &str) -> &[(String, Seen)] {
        let start = self.0.partition_point(|(other, _)| other.as_str() < path);
        &self.0[start..]
    }

    /// Adds what was seen at other paths.
    pub(crate) fn add(&mut self, others: Self) {
        if !others.0.is_empty() {
            self.0.extend(others.0);
            self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
    }
}

/// Where a link ends, links on the way followed.
#[derive(Clone, Debug)]
pub(crate) enum LeadsTo {
    /// Relative to the root.
    Inside(Utf8PathBuf),
    Outside(Utf8PathBuf),
    Nowhere(String),
}

/// Reads every wanted path once, each given once and in byte order; what has the stamp that is
/// known already is not read again.
pub(crate) fn read_all(
    root: &Utf8Path,
    wanted: Vec<String>,
    known: &SeenPaths,
    keep: &Keep,
) -> Result<(SeenPaths, Vec<Problem>)> {
    let objects = match keep {
        Keep::Objects(state_directory) => Some(Objects::open(state_directory)?),
        Keep::Nothing => None,
    };
    let put = |digest, bytes: &[u8]| objects.iter().try_for_each(|one| one.put(digest, bytes));
    let store = objects.as_ref().map(|objects| Store {
        folder: objects.directory().as_std_path(),
        used_within: MARK_INTERVAL,
        keep: &put,
    });
    let stamp = |path: &str| match known.get(path)? {
        Seen::File(file) => Some(file.stamp),
        _ => None,
    };
    // Every stamp here is one of a file that rested when it was read: the same again is the same.
    let (root_path, store) = (root.as_std_path(), store.as_ref());
    let outcomes = files::read_all(root_path, &wanted, THREADS, store, &stamp, &reading::pause)
        .with_context(|| format!("cannot read {root}"))?;
    let mut seen = Vec::with_capacity(wanted.len());
    let mut problems = Vec::new();
    for (path, outcome) in wanted.into_iter().zip(outcomes) {
        let found = match outcome {
            Outcome::File(file) => Ok(Seen::File(file)),
            Outcome::Known => Ok(known.get(&path).cloned().unwrap_or(Seen::Missing)),
            Outcome::Changed => Err(reading::changed(Utf8Path::new(&path))),
            Outcome::Other => see(root, Utf8Path::new(&path), objects.as_ref())?,
            Outcome::NotKept(digest, error) => {
                let object = objects.as_ref().map(|objects| objects.path(digest));
                let object = object.unwrap_or_default();
                return Err(error).with_context(|| format!("cannot keep the object {object}"));
            }
        };
        match found {
            Ok(one) => seen.push((path, one)),
            Err(problem) => problems.push(problem),
        }
    }
    Ok((SeenPaths(seen), problems))
}

/// What is no plain file, for all that could be seen so far. The outer error is one of the store.
fn see(
    root: &Utf8Path,
    path: &Utf8Path,
    objects: Option<&Objects>,
) -> Result<Result<Seen, Problem>> {
    let mut bytes = Vec::new();
    Ok(match reading::read(root, path, &mut bytes) {
        Err(problem) => Err(problem),
        Ok(Node::Folder) => Ok(Seen::Folder),
        Ok(Node::Missing) => Ok(Seen::Missing),
        Ok(Node::Link(target)) => {
            let leads_to = leads_to(root, path);
            Ok(Seen::Link { target, leads_to })
        }
        Ok(Node::File { stamp, executable }) => {
            let digest = Digest::of(&bytes);
            if let Some(objects) = objects {
                let kept = objects.put(digest, &bytes);
                kept.with_context(|| format!("cannot keep the object {}", objects.path(digest)))?;
            }
            Ok(Seen::File(ReadFile {
                stamp,
                executable,
                length_bytes: bytes.len() as u64,
                digest,
            }))
        }
    })
}

fn leads_to(root: &Utf8Path, path: &Utf8Path) -> LeadsTo {
    match root.join(path).canonicalize_utf8() {
        Err(error) => LeadsTo::Nowhere(error.to_string()),
        Ok(end) => match end.strip_prefix(root) {
            Ok(inside) => LeadsTo::Inside(inside.to_owned()),
            Err(_) => LeadsTo::Outside(end),
        },
    }
}

pub(crate) fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|payload| panic::resume_unwind(payload))
}
