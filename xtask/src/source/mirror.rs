//! `target/e2e/src/<package>`: a tree with exactly the frozen bytes of one package's closure, for
//! cargo to read. Never the working tree, never more than the closure.
//!
//! An index beside the trees tells which files need no second look. It is gone while a tree is being
//! changed, and it ends with the boot that it was written in: after a crash the kernel may have kept
//! a file's name and length and lost its bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use hashing::file::Stamp;
use serde::{Deserialize, Serialize};

use super::closure::folders_above;
use super::objects::Objects;
use super::snapshot::{EntryKind, PackageSnapshot};
use crate::cache::write_whole;
use crate::digest::Digest;

/// A mirror that holds what it was synced to. Valid while the build lock is held.
#[derive(Debug)]
pub struct Mirror {
    root: Utf8PathBuf,
}

const LOCK: &str = "Cargo.lock";
/// When every file was modified: as in the crates that cargo unpacks, once, long ago. So a crate
/// that another mirror's build has compiled from the same bytes is not compiled again, and times
/// never tell cargo anything; what it has of other bytes is thrown away before a build.
const MODIFIED: Duration = Duration::from_secs(1_153_704_088);

/// What a tree was found or made to hold.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    boot: String,
    files: BTreeMap<String, Indexed>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Indexed {
    stamp: Stamp,
    digest: Digest,
}

/// A file as it has to be.
struct Wanted<'a> {
    digest: Digest,
    mode: u32,
    /// Where they are not in the store.
    bytes: Option<&'a [u8]>,
}

impl Mirror {
    /// The workspace root within the mirror.
    #[must_use]
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Makes `<state_directory>/src/<package>` hold exactly this snapshot. The caller holds the build lock.
    ///
    /// # Errors
    /// When writing fails, or an object of the store is damaged.
    pub fn sync(state_directory: &Utf8Path, package: &PackageSnapshot) -> Result<Self> {
        let root = state_directory.join("src").join(package.name().as_str());
        let index_name = format!("{}.json", package.name());
        let index_path = state_directory.join("src-index").join(index_name);
        let boot = boot();
        let known = read_index(&index_path, boot.as_deref());
        match fs::remove_file(&index_path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {index_path}"));
            }
            _ => {}
        }
        let wanted = wanted(package);
        clear(&root, &wanted).with_context(|| format!("cannot clear the mirror {root}"))?;
        let objects = Objects::open(state_directory)?;
        let mut index = Index::default();
        for (path, file) in &wanted {
            let known = known.files.get(*path);
            let stamp = place(&root.join(path), file, known, &objects)
                .with_context(|| format!("cannot mirror {path}"))?;
            let digest = file.digest;
            index
                .files
                .insert((*path).to_owned(), Indexed { stamp, digest });
        }
        if let Some(boot) = boot {
            index.boot = boot;
            let text = serde_json::to_vec(&index).context("cannot write an index as JSON")?;
            write_whole(&index_path, &text, 0o644)
                .with_context(|| format!("cannot write {index_path}"))?;
        }
        Ok(Self { root })
    }

    /// After cargo has pruned the mirror's `Cargo.lock` to what it needs: everything in it is as it
    /// was frozen, nothing new, nothing in another version. Gives what it says.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Build`], naming the entry that was not frozen.
    pub fn check_lock(&self, package: &PackageSnapshot) -> Result<String> {
        let path = self.root.join(LOCK);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        package.reached().check_pruned(&text)?;
        Ok(text)
    }

    /// Puts a `Cargo.lock` there that was pruned before. Whoever does looks at it as at any other.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_lock(&self, text: &str) -> Result<()> {
        let path = self.root.join(LOCK);
        write_whole(&path, text.as_bytes(), 0o644).with_context(|| format!("cannot write {path}"))
    }
}

/// Which boot of the machine this is.
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// An index that cannot be read is none: everything is written anew.
fn read_index(path: &Utf8Path, boot: Option<&str>) -> Index {
    let text = fs::read(path).unwrap_or_default();
    let index: Index = serde_json::from_slice(&text).unwrap_or_default();
    if boot == Some(index.boot.as_str()) {
        index
    } else {
        Index::default()
    }
}

fn wanted(package: &PackageSnapshot) -> BTreeMap<&str, Wanted<'_>> {
    let entries = package.entries().iter().map(|entry| {
        let (EntryKind::File {
            digest, executable, ..
        }
        | EntryKind::Link {
            digest, executable, ..
        }) = &entry.kind;
        let file = Wanted {
            digest: *digest,
            mode: if *executable { 0o555 } else { 0o444 },
            bytes: None,
        };
        (entry.path.as_str(), file)
    });
    let generated = package.generated().iter().map(|(path, text)| {
        let file = Wanted {
            digest: Digest::of(text),
            // cargo writes what it needs of the lock back.
            mode: if path == LOCK { 0o644 } else { 0o444 },
            bytes: Some(text),
        };
        (path.as_str(), file)
    });
    entries.chain(generated).collect()
}

/// Removes everything that is not wanted.
fn clear(root: &Utf8Path, wanted: &BTreeMap<&str, Wanted<'_>>) -> io::Result<()> {
    if !root.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        remove(root)?;
        fs::create_dir_all(root)?;
    }
    let mut folders = BTreeSet::new();
    for path in wanted.keys() {
        folders.extend(folders_above(path));
    }
    let mut pending = vec![Utf8PathBuf::new()];
    while let Some(folder) = pending.pop() {
        for entry in root.join(&folder).as_std_path().read_dir()? {
            let entry = entry?;
            let name = entry.file_name();
            let kind = entry.file_type()?;
            let path = name.to_str().map(|name| folder.join(name));
            match path {
                Some(path) if kind.is_dir() && folders.contains(path.as_str()) => {
                    pending.push(path);
                }
                Some(path) if kind.is_file() && wanted.contains_key(path.as_str()) => {}
                _ if kind.is_dir() => fs::remove_dir_all(entry.path())?,
                _ => fs::remove_file(entry.path())?,
            }
        }
    }
    Ok(())
}

fn remove(path: &Utf8Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file, unless it is known to be there already.
fn place(
    path: &Utf8Path,
    file: &Wanted<'_>,
    known: Option<&Indexed>,
    objects: &Objects,
) -> Result<Stamp> {
    if let Some(known) = known.filter(|known| known.digest == file.digest)
        && let Ok(metadata) = path.symlink_metadata()
        && Stamp::of(&metadata) == known.stamp
        && metadata.permissions().mode() & 0o777 == file.mode
    {
        return Ok(known.stamp);
    }
    match file.bytes {
        Some(bytes) => write_whole(path, bytes, file.mode)?,
        None => write_whole(path, &objects.get(file.digest)?, file.mode)?,
    }
    fs::File::open(path)?.set_modified(SystemTime::UNIX_EPOCH + MODIFIED)?;
    Ok(Stamp::of(&path.symlink_metadata()?))
}
