//! Where an edit can count: the folders of a target's packages, as the closure draws them. For
//! whoever waits for an edit; which file counts, the snapshot alone decides afterwards.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::closure::{self, Half, folders_above};
use super::workspace::{PackageName, Target, Workspace};

/// Every folder in which something can appear, change or vanish that counts for a run of `target`:
/// those of its packages and tests and of what these depend on, empty ones too, since a file may
/// appear there; the folders around them; and the configuration of cargo. Relative to the root,
/// which is an empty path.
///
/// Folders that git ignores are left out, unless it tracks a file in them.
///
/// # Errors
/// When git or a folder does not tell its names.
pub fn of(workspace: &Workspace, target: &Target) -> Result<BTreeSet<Utf8PathBuf>> {
    let root = &workspace.root;
    let directories: BTreeSet<Utf8PathBuf> = local_packages(workspace, target)
        .iter()
        .map(|name| workspace.packages[name].directory.clone())
        .collect();
    let mut folders: BTreeSet<Utf8PathBuf> = directories
        .iter()
        .flat_map(|directory| folders_above(directory.as_str()))
        .map(Utf8PathBuf::from)
        .collect();
    folders.insert(Utf8PathBuf::new());
    for path in closure::list(root, &directories, Half::Tracked)?.paths() {
        folders.extend(folders_above(path).map(Utf8PathBuf::from));
    }
    let ignored = closure::ignored_folders(root, &directories)?;
    for directory in &directories {
        walk(root, directory, &ignored, &mut folders)?;
    }
    folders.insert(".cargo".into());
    // git may list what is gone by now.
    folders.retain(|folder| root.join(folder).is_dir());
    Ok(folders)
}

/// The packages of the run, its tests, and every member that these depend on in turn.
fn local_packages<'a>(workspace: &'a Workspace, target: &'a Target) -> BTreeSet<&'a PackageName> {
    let tests = &workspace.packages[&workspace.tests];
    let mut pending: Vec<&PackageName> = target.packages().iter().collect();
    pending.extend([&tests.name]);
    pending.extend(&tests.dev_dependencies);
    let mut found = BTreeSet::new();
    while let Some(name) = pending.pop() {
        if found.insert(name) {
            pending.extend(&workspace.packages[name].dependencies);
        }
    }
    found
}

/// Adds the folder and all below it that git does not ignore.
fn walk(
    root: &Utf8Path,
    directory: &Utf8Path,
    ignored: &BTreeSet<String>,
    folders: &mut BTreeSet<Utf8PathBuf>,
) -> Result<()> {
    let mut pending = vec![directory.to_owned()];
    while let Some(folder) = pending.pop() {
        let absolute = root.join(&folder);
        let entries = match absolute.read_dir_utf8() {
            Ok(entries) => entries,
            // It has gone since its name was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot list {absolute}")),
        };
        // A name that is not UTF-8 is refused by the snapshot, which names it.
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let passed_over = entry.file_name() == ".git"
                || path == "target"
                || (ignored.contains(path.as_str()) && !folders.contains(&path));
            if !passed_over && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(path);
            }
        }
        folders.insert(folder);
    }
    Ok(())
}
