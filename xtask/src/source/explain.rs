//! Why a digest changed: the entries that differ between two snapshots, or between a snapshot and
//! the record of an earlier one. Names what differs; never judges whether it matters.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::snapshot::{Entry, EntryKind, PackageSnapshot, Scope};
use crate::cache::write_whole;
use crate::digest::Digest;

/// A snapshot of one package without its bytes. Kept in the state directory by source digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    package: String,
    scope: Scope,
    source: Digest,
    entries: Vec<Entry>,
    generated: BTreeMap<Utf8PathBuf, Digest>,
    lock: BTreeMap<String, Digest>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// Relative to the workspace root.
    pub path: Utf8PathBuf,
    /// How it differs.
    pub kind: ChangeKind,
    /// What of it differs, where the path does not say it all: an entry of the lock, the executable bit.
    pub detail: Option<String>,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is no longer there.
    Removed,
    /// It is another one.
    Changed,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        };
        write!(formatter, "{verb} {}", self.path)?;
        match &self.detail {
            Some(detail) => write!(formatter, " ({detail})"),
            None => Ok(()),
        }
    }
}

impl Record {
    /// The record of a snapshot.
    #[must_use]
    pub fn of(package: &PackageSnapshot) -> Self {
        let generated = package.generated().iter();
        let generated = generated.filter(|(path, _)| *path != LOCK);
        Self {
            package: package.name().to_string(),
            scope: package.scope(),
            source: package.source(),
            entries: package.entries().to_vec(),
            generated: generated
                .map(|(path, text)| (path.clone(), Digest::of(text)))
                .collect(),
            lock: package.reached().digests(),
        }
    }

    /// The digest that it explains.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// Keeps the record of a snapshot for a later command. One that is kept already stays as it is.
    ///
    /// # Errors
    /// When writing fails.
    pub fn keep(state_directory: &Utf8Path, package: &PackageSnapshot) -> Result<()> {
        let path = record_path(state_directory, package.source());
        if path.is_file() {
            return Ok(());
        }
        let text =
            serde_json::to_vec(&Self::of(package)).context("cannot write a record as JSON")?;
        write_whole(&path, &text, 0o444).with_context(|| format!("cannot keep the record {path}"))
    }

    /// The record of this digest, if one was kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn find(state_directory: &Utf8Path, source: Digest) -> Result<Option<Self>> {
        let path = record_path(state_directory, source);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        let record = serde_json::from_slice(&text);
        record
            .with_context(|| format!("the record {path} is damaged"))
            .map(Some)
    }
}

const LOCK: &str = "Cargo.lock";

fn record_path(state_directory: &Utf8Path, source: Digest) -> Utf8PathBuf {
    state_directory
        .join("records")
        .join(format!("{source}.json"))
}

/// What differs, in order of paths. Empty exactly when the digests are equal.
#[must_use]
pub fn difference(before: &Record, after: &Record) -> Vec<Change> {
    if before.source == after.source {
        return Vec::new();
    }
    let mut changes = Vec::new();
    let by_path = |record: &Record| -> BTreeMap<Utf8PathBuf, EntryKind> {
        let entries = record.entries.iter();
        entries
            .map(|entry| (entry.path.clone(), entry.kind.clone()))
            .collect()
    };
    for (path, kind, detail) in compare(&by_path(before), &by_path(after), entry_detail) {
        changes.push(Change { path, kind, detail });
    }
    for (path, kind, _) in compare(&before.generated, &after.generated, |_, _| None) {
        let detail = None;
        changes.push(Change { path, kind, detail });
    }
    for (id, kind, _) in compare(&before.lock, &after.lock, |_, _| None) {
        let path = LOCK.into();
        let detail = Some(id);
        changes.push(Change { path, kind, detail });
    }
    changes.sort_by(|one, other| (&one.path, &one.detail).cmp(&(&other.path, &other.detail)));
    changes
}

fn entry_detail(before: &EntryKind, after: &EntryKind) -> Option<String> {
    match (before, after) {
        (EntryKind::File { digest: old, .. }, EntryKind::File { digest: new, .. }) => {
            (old == new).then(|| "executable bit".to_owned())
        }
        (EntryKind::Link { target: old, .. }, EntryKind::Link { target: new, .. }) => {
            (old != new).then(|| format!("link to {new}, was to {old}"))
        }
        (EntryKind::File { .. }, EntryKind::Link { .. }) => Some("was a file, is a link".into()),
        (EntryKind::Link { .. }, EntryKind::File { .. }) => Some("was a link, is a file".into()),
    }
}

type Difference<K> = (K, ChangeKind, Option<String>);

fn compare<K: Ord + Clone, V: PartialEq>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    detail: impl Fn(&V, &V) -> Option<String>,
) -> Vec<Difference<K>> {
    let keys: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    let compared = keys.into_iter().filter_map(|key| {
        let (kind, detail) = match (before.get(key), after.get(key)) {
            (Some(old), Some(new)) if old == new => return None,
            (Some(old), Some(new)) => (ChangeKind::Changed, detail(old, new)),
            (None, _) => (ChangeKind::Added, None),
            (_, None) => (ChangeKind::Removed, None),
        };
        Some((key.clone(), kind, detail))
    });
    compared.collect()
}
