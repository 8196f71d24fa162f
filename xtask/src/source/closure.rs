//! Which files make a package: what git tracks or does not ignore in it and in its path
//! dependencies. Refuses what it cannot hash: sockets, links out of the closure, nested repositories.
//!
//! git tells names alone. Whether a file changed is never asked of it: an index can be told to look
//! away (assume-unchanged, skip-worktree), and what it hashes is not what the compiler reads.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

use anyhow::{Context, Result};

use super::manifests::{Manifests, refused};
use super::reading::{Problem, special};
use super::snapshot::Scope;
use crate::exit::{Exit, Failure};
use crate::process::{self, Input, Invocation, ProcessError};

/// Listing takes milliseconds; a file system that hangs does not.
const GIT_DEADLINE: Duration = Duration::from_secs(60);

/// What cannot be decoded is shown as this.
const REPLACEMENT: char = char::REPLACEMENT_CHARACTER;

/// Folders of a package that cargo finds tests, benches and examples in.
const TEST_FOLDERS: [&str; 3] = ["tests", "benches", "examples"];

/// Every name in the folders of the local packages.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Relative to the root. Some may be gone by now.
    pub(crate) paths: BTreeSet<Utf8PathBuf>,
    /// Folders that are repositories of their own.
    nested: BTreeSet<Utf8PathBuf>,
    has_git: bool,
}

/// Lists the folders of all local packages, with one question to git.
pub(crate) fn list(root: &Utf8Path, directories: &BTreeSet<Utf8PathBuf>) -> Result<Listing> {
    let has_git = root
        .ancestors()
        .any(|folder| folder.join(".git").symlink_metadata().is_ok());
    let mut listing = Listing {
        paths: BTreeSet::new(),
        nested: BTreeSet::new(),
        has_git,
    };
    if has_git {
        let names = git(root, &LIST, &folders(directories), &Input::Empty)?;
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            match name.strip_suffix('/') {
                Some(folder) => listing.nested.insert(folder.into()),
                None => listing.paths.insert(name.into()),
            };
        }
        return Ok(listing);
    }
    for directory in directories {
        walk(root, directory, &mut listing.paths)?;
    }
    Ok(listing)
}

const LIST: [&str; 5] = [
    "ls-files",
    "-z",
    "--cached",
    "--others",
    "--exclude-standard",
];

fn folders(directories: &BTreeSet<Utf8PathBuf>) -> Vec<String> {
    let named = directories
        .iter()
        .map(|directory| match directory.as_str() {
            "" => ".".to_owned(),
            folder => folder.to_owned(),
        });
    std::iter::once("--".to_owned()).chain(named).collect()
}

/// git as it is configured, without what would let it answer from memory or about another tree.
fn git(
    root: &Utf8Path,
    arguments: &[&str],
    more: &[String],
    input: &Input,
) -> Result<String, Failure> {
    let mut invocation = Invocation::new("git")
        .arg("--literal-pathspecs")
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.untrackedCache=false"])
        .args(["-c", "core.ignoreCase=false"])
        .args(arguments.iter().copied())
        .args(more.iter().cloned())
        .current_dir(root);
    for (name, _) in std::env::vars_os() {
        if let Some(name) = name.to_str().filter(|name| name.starts_with("GIT_")) {
            invocation = invocation.env_remove(name);
        }
    }
    let invocation = invocation.env("LC_ALL", "C");
    let (said, exit) = match process::capture_with_input(&invocation, input, GIT_DEADLINE) {
        Ok(captured) => return Ok(captured.stdout),
        // An answer: none of them.
        Err(ProcessError::Failed { code: 1, .. }) if arguments[0] == "check-ignore" => {
            return Ok(String::new());
        }
        Err(ProcessError::NotFound { .. }) => {
            let message = "the workspace is a git checkout, and git is not installed";
            return Err(Failure::new(Exit::Host, message).hint("apt-get install git"));
        }
        Err(ProcessError::Failed { stderr, .. }) => (stderr.trim().to_owned(), Exit::Source),
        Err(error) => (error.to_string(), error.exit()),
    };
    let message = format!("git cannot list the sources: {said}\n  command: {invocation}");
    let failure = Failure::new(exit, message);
    Err(if said.contains("dubious ownership") {
        failure.hint(format!("git config --global --add safe.directory {root}"))
    } else {
        failure
    })
}

/// Without git: every file but the root's `target/`.
fn walk(root: &Utf8Path, directory: &Utf8Path, paths: &mut BTreeSet<Utf8PathBuf>) -> Result<()> {
    let mut pending = vec![directory.to_owned()];
    while let Some(folder) = pending.pop() {
        for (path, kind) in entries(root, &folder)? {
            if path == "target" || path.file_name() == Some(".git") {
                continue;
            }
            if kind.is_dir() {
                pending.push(path);
            } else {
                paths.insert(path);
            }
        }
    }
    Ok(())
}

/// What lies in a folder; a name that is not UTF-8 comes with [`REPLACEMENT`] in it.
fn entries(root: &Utf8Path, folder: &Utf8Path) -> Result<Vec<(Utf8PathBuf, std::fs::FileType)>> {
    let absolute = root.join(folder);
    let failed = || format!("cannot list {absolute}");
    let mut found = Vec::new();
    for entry in absolute.as_std_path().read_dir().with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        let kind = entry.file_type().with_context(failed)?;
        found.push((folder.join(&*name.to_string_lossy()), kind));
    }
    Ok(found)
}

/// What counts of each local package that one package is made of.
#[derive(Debug)]
pub(crate) struct Closure<'a> {
    manifests: &'a Manifests,
    /// Every local package, by its folder.
    by_directory: BTreeMap<&'a Utf8Path, &'a str>,
    scopes: BTreeMap<&'a str, Scope>,
    /// Files of explicit `[[test]]`, `[[bench]]` and `[[example]]`.
    test_files: BTreeSet<Utf8PathBuf>,
}

impl<'a> Closure<'a> {
    /// The closure that consists of these packages.
    pub(crate) fn new(manifests: &'a Manifests, scopes: BTreeMap<&'a str, Scope>) -> Self {
        let by_directory = manifests
            .packages
            .iter()
            .map(|(name, manifest)| (manifest.directory.as_path(), name.as_str()))
            .collect();
        let mut test_files = BTreeSet::new();
        for (name, _) in scopes.iter().filter(|(_, scope)| **scope == Scope::Binary) {
            let manifest = &manifests.packages[*name];
            for key in ["test", "bench", "example"] {
                let targets = manifest.table.get(key).and_then(toml::Value::as_array);
                for target in targets.into_iter().flatten() {
                    let path = target.get("path").and_then(toml::Value::as_str);
                    test_files.extend(path.map(|path| manifest.directory.join(path)));
                }
            }
        }
        Self {
            manifests,
            by_directory,
            scopes,
            test_files,
        }
    }

    /// The package that this path counts for: the innermost one, if it belongs to the closure and
    /// the path is not one of the tests that are left out.
    pub(crate) fn owner(&self, path: &Utf8Path) -> Option<&'a str> {
        let mut folders = path.ancestors().skip(1);
        let (folder, name) = folders.find_map(|folder| self.by_directory.get_key_value(folder))?;
        let scope = self.scopes.get(name)?;
        if folder.as_str().is_empty() && (path == "Cargo.lock" || path.starts_with(".cargo")) {
            return None;
        }
        if *scope == Scope::Binary {
            let within = path.strip_prefix(folder).ok()?;
            let first = within.components().next()?;
            if TEST_FOLDERS.contains(&first.as_str()) || self.test_files.contains(path) {
                return None;
            }
        }
        Some(name)
    }

    /// What names alone tell to be wrong.
    pub(crate) fn problems(&self, root: &Utf8Path, listing: &Listing) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        let mut folders = BTreeSet::new();
        for path in listing
            .paths
            .iter()
            .filter(|path| self.owner(path).is_some())
        {
            if path.as_str().contains(REPLACEMENT) {
                problems.push(Problem::new(
                    path,
                    "has a name that is not UTF-8",
                    "rename it, or name it in .gitignore",
                ));
            }
            for folder in path.ancestors().skip(1) {
                if !folders.insert(folder) || self.by_directory.contains_key(folder) {
                    break;
                }
            }
        }
        for folder in listing
            .nested
            .iter()
            .filter(|folder| self.owner(folder).is_some())
        {
            problems.push(nested(folder));
        }
        for name in self.scopes.keys() {
            let directory = &self.manifests.packages[*name].directory;
            let manifest = directory.join("Cargo.toml");
            let listed = |folder: &&Utf8Path| {
                listing.paths.contains(*folder) || listing.nested.contains(*folder)
            };
            if let Some(folder) = directory.ancestors().find(listed) {
                problems.push(nested(folder));
            } else if !listing.paths.contains(&manifest) && !manifest.as_str().eq("Cargo.toml") {
                problems.push(Problem::new(
                    &manifest,
                    "belongs to the build and is ignored by git",
                    "take it out of .gitignore",
                ));
            }
        }
        problems.extend(self.problems_in(root, listing, &folders)?);
        Ok(problems)
    }

    /// What git does not list: sockets and pipes, and repositories around tracked files.
    fn problems_in(
        &self,
        root: &Utf8Path,
        listing: &Listing,
        folders: &BTreeSet<&Utf8Path>,
    ) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        let mut specials = BTreeMap::new();
        for folder in folders.iter().filter(|folder| root.join(folder).is_dir()) {
            for (path, kind) in entries(root, folder)? {
                if path.file_name() == Some(".git") && !folder.as_str().is_empty() {
                    problems.push(nested(folder));
                }
                let problem = special(&path, kind).filter(|_| self.owner(&path).is_some());
                specials.extend(problem.map(|problem| (path, problem)));
            }
        }
        if listing.has_git && !specials.is_empty() {
            let names = specials
                .keys()
                .map(|path| format!("{path}\0"))
                .collect::<String>();
            let names = Input::Bytes(names.into_bytes());
            let ignored = git(root, &["check-ignore", "-z", "--stdin"], &[], &names)?;
            for path in ignored.split('\0') {
                specials.remove(Utf8Path::new(path));
            }
        }
        problems.extend(specials.into_values());
        Ok(problems)
    }
}

pub(crate) fn nested(folder: &Utf8Path) -> Problem {
    Problem::new(
        folder,
        "is a repository of its own (or a submodule), whose files git does not list",
        "move it out of the workspace, or make its files part of this repository",
    )
}

/// Folders of all local packages. None may lie in another repository than the root.
pub(crate) fn directories(manifests: &Manifests) -> Result<BTreeSet<Utf8PathBuf>> {
    let directories = manifests
        .packages
        .values()
        .map(|manifest| &manifest.directory);
    let directories: BTreeSet<Utf8PathBuf> = directories.cloned().collect();
    if directories.is_empty() {
        return Err(refused("Cargo.toml", "has no members"));
    }
    Ok(directories)
}
