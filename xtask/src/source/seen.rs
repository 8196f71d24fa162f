//! What lies at the paths of a closure, each read once: hashed, and kept if asked to.

use std::collections::BTreeMap;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use hashing::file::Stamp;

use super::objects::Objects;
use super::reading::{self, Node, Problem};
use super::snapshot::Keep;
use crate::digest::Digest;

/// Reading and hashing is bound by memory; more threads than this bring nothing.
const THREADS: usize = 2;

/// What was seen at a path.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    File {
        stamp: Stamp,
        digest: Digest,
        length_bytes: u64,
        executable: bool,
    },
    Link {
        target: Utf8PathBuf,
        leads_to: LeadsTo,
    },
    Folder,
    Missing,
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
    known: &BTreeMap<String, Seen>,
    keep: &Keep,
) -> Result<(BTreeMap<String, Seen>, Vec<Problem>)> {
    let objects = match keep {
        Keep::Objects(state_directory) => Some(Objects::open(state_directory)?),
        Keep::Nothing => None,
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut found = Vec::new();
        let mut reader = Reader {
            root,
            objects: objects.as_ref(),
            buffer: Vec::new(),
        };
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = wanted.get(index) else {
                return found;
            };
            let before = known.get(path.as_str());
            found.push((index, reader.see(Utf8Path::new(path), before)));
        }
    };
    let found = thread::scope(|threads| {
        let others: Vec<_> = (1..THREADS).map(|_| threads.spawn(work)).collect();
        let found = work();
        let others = others.into_iter().flat_map(join);
        found.into_iter().chain(others).collect::<Vec<_>>()
    });
    let mut results: Vec<_> = wanted.iter().map(|_| None).collect();
    for (index, result) in found {
        results[index] = Some(result);
    }
    let mut seen = Vec::with_capacity(wanted.len());
    let mut problems = Vec::new();
    for (path, result) in wanted.into_iter().zip(results.into_iter().flatten()) {
        match result? {
            Ok(one) => seen.push((path, one)),
            Err(problem) => problems.push(problem),
        }
    }
    Ok((seen.into_iter().collect(), problems))
}

/// One thread's way through the paths; the buffer serves every file.
struct Reader<'a> {
    root: &'a Utf8Path,
    objects: Option<&'a Objects>,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// The outer error is one of the store.
    fn see(&mut self, path: &Utf8Path, known: Option<&Seen>) -> Result<Result<Seen, Problem>> {
        let root = self.root;
        if let Some(Seen::File { stamp, .. }) = known
            && let Ok(Some(metadata)) = reading::look(root, path)
            && Stamp::of(&metadata) == *stamp
        {
            return Ok(Ok(known.cloned().unwrap_or(Seen::Missing)));
        }
        Ok(match reading::read(root, path, &mut self.buffer) {
            Err(problem) => Err(problem),
            Ok(Node::Folder) => Ok(Seen::Folder),
            Ok(Node::Missing) => Ok(Seen::Missing),
            Ok(Node::Link(target)) => {
                let leads_to = leads_to(root, path);
                Ok(Seen::Link { target, leads_to })
            }
            Ok(Node::File { stamp, executable }) => {
                let digest = Digest::of(&self.buffer);
                if let Some(objects) = self.objects {
                    objects.put(digest, &self.buffer)?;
                }
                Ok(Seen::File {
                    stamp,
                    digest,
                    length_bytes: self.buffer.len() as u64,
                    executable,
                })
            }
        })
    }
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
