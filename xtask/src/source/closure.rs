//! Which files make a package: what git tracks or does not ignore in it and in its path
//! dependencies. Refuses what it cannot hash: sockets, links out of the closure, nested repositories.
//!
//! git tells names alone. Whether a file changed is never asked of it: an index can be told to look
//! away (assume-unchanged, skip-worktree), and what it hashes is not what the compiler reads.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::FileType;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use hashing::names::{folder_above, is_decoded_lossily};

use super::manifests::{Manifests, refused};
use super::reading::{Problem, is_usual, special};
use super::snapshot::Scope;
use crate::exit::{Exit, Failure};
use crate::process::{self, Input, Invocation, ProcessError};

/// Listing takes milliseconds; a file system that hangs does not.
const GIT_DEADLINE: Duration = Duration::from_secs(60);

/// Folders of a package that cargo finds tests, benches and examples in.
const TEST_FOLDERS: [&str; 3] = ["tests", "benches", "examples"];

/// Names in the folders of the local packages.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Relative to the root. Some may be gone by now; one in conflict comes three times. Texts,
    /// since paths are compared part by part, which takes far longer than reading them.
    paths: Vec<String>,
    /// Folders that are repositories of their own.
    nested: BTreeSet<String>,
}

/// The two halves of a listing. git knows the first by heart and walks through every folder for the
/// second, so the first is read while git still walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// What git tracks; without git, everything.
    Tracked,
    /// What git neither tracks nor ignores; without git, nothing.
    Untracked,
}

/// Lists one half of the folders of all local packages, with one question to git.
pub(crate) fn list(
    root: &Utf8Path,
    directories: &BTreeSet<Utf8PathBuf>,
    half: Half,
) -> Result<Listing> {
    let mut listing = Listing {
        paths: Vec::new(),
        nested: BTreeSet::new(),
    };
    if has_git(root) {
        let options: &[&str] = match half {
            Half::Tracked => &["-z", "--cached", "--"],
            Half::Untracked => &["-z", "--others", "--exclude-standard", "--"],
        };
        let names = git(
            root,
            "ls-files",
            &limited(options, directories),
            &Input::Empty,
        )?;
        for name in names.split('\0').filter(|name| !name.is_empty()) {
            match name.strip_suffix('/') {
                Some(folder) => drop(listing.nested.insert(folder.to_owned())),
                None => listing.paths.push(name.to_owned()),
            }
        }
    } else if half == Half::Tracked {
        for directory in directories {
            walk(root, directory, &mut listing.paths)?;
        }
    }
    Ok(listing)
}

impl Listing {
    /// Every name.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(String::as_str)
    }
}

/// The folders in these that git ignores whole.
pub(crate) fn ignored_folders(
    root: &Utf8Path,
    directories: &BTreeSet<Utf8PathBuf>,
) -> Result<BTreeSet<String>> {
    if !has_git(root) {
        return Ok(BTreeSet::new());
    }
    let options = [
        "-z",
        "--others",
        "--ignored",
        "--directory",
        "--exclude-standard",
        "--",
    ];
    let names = git(
        root,
        "ls-files",
        &limited(&options, directories),
        &Input::Empty,
    )?;
    let folders = names.split('\0').filter_map(|name| name.strip_suffix('/'));
    Ok(folders.map(str::to_owned).collect())
}

/// The folder of the repository that the root lies in, if it lies in one.
fn repository(root: &Utf8Path) -> Option<&Utf8Path> {
    let mut folders = root.ancestors();
    folders.find(|folder| folder.join(".git").symlink_metadata().is_ok())
}

fn has_git(root: &Utf8Path) -> bool {
    repository(root).is_some()
}

/// The options of a listing, and the folders that it is about.
fn limited(options: &[&str], directories: &BTreeSet<Utf8PathBuf>) -> Vec<String> {
    // `:(literal)` says that a folder's name is no pattern.
    let folders = directories
        .iter()
        .map(|folder| format!(":(literal){folder}"));
    options
        .iter()
        .map(|&option| option.to_owned())
        .chain(folders)
        .collect()
}

/// git as it is configured, without what would let it answer from memory or about another tree.
fn git(
    root: &Utf8Path,
    command: &str,
    arguments: &[String],
    input: &Input,
) -> Result<String, Failure> {
    let mut invocation = Invocation::new("git")
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.untrackedCache=false"])
        .args(["-c", "core.ignoreCase=false"])
        // `core.worktree` (a copied submodule has it) would have git walk through another tree.
        .args(repository(root).map(|folder| format!("--work-tree={folder}")))
        .arg(command)
        .args(arguments.iter().cloned())
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
        Err(ProcessError::Failed { code: 1, .. }) if command == "check-ignore" => {
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
fn walk(root: &Utf8Path, directory: &Utf8Path, paths: &mut Vec<String>) -> Result<()> {
    let mut pending = vec![directory.to_owned()];
    while let Some(folder) = pending.pop() {
        each_entry(root, &folder, |name, kind| {
            let path = path_of(&folder, name);
            if path == "target" || name == ".git" {
                return;
            }
            if kind.is_dir() {
                pending.push(path);
            } else {
                paths.push(path.into_string());
            }
        })?;
    }
    Ok(())
}

/// Hands on every name in a folder, with what it is.
fn each_entry(
    root: &Utf8Path,
    folder: &Utf8Path,
    mut take: impl FnMut(&OsStr, FileType),
) -> Result<()> {
    let absolute = root.join(folder);
    let failed = || format!("cannot list {absolute}");
    for entry in absolute.as_std_path().read_dir().with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let kind = entry.file_type().with_context(failed)?;
        take(&entry.file_name(), kind);
    }
    Ok(())
}

/// A name that is not UTF-8 comes with replacement characters in it.
fn path_of(folder: &Utf8Path, name: &OsStr) -> Utf8PathBuf {
    folder.join(&*name.to_string_lossy())
}

/// The names of a listing, each with the package that it counts for: the innermost one.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    root: &'a Utf8Path,
    manifests: &'a Manifests,
    owners: Vec<Owner<'a>>,
    by_directory: BTreeMap<&'a str, usize>,
    nested: BTreeSet<String>,
}

/// A name of a package.
#[derive(Debug)]
struct Source {
    path: String,
    half: Half,
    only_tests: bool,
}

/// A package with its names, each once, in byte order.
#[derive(Debug)]
struct Owner<'a> {
    package: &'a str,
    directory: &'a str,
    explicit_tests: BTreeSet<String>,
    sources: Vec<Source>,
}

impl Owner<'_> {
    fn place_of(&self, folder: &str) -> Place {
        match self.within(folder).split('/').next() {
            None | Some("") => Place::Top,
            Some(first) if TEST_FOLDERS.contains(&first) => Place::Tests,
            Some(_) => Place::Elsewhere,
        }
    }

    /// A path below the package's folder.
    fn within<'a>(&self, path: &'a str) -> &'a str {
        path[self.directory.len()..].trim_start_matches('/')
    }

    /// `place`: that of the folder that it lies in.
    fn take(&mut self, path: String, half: Half, place: Place) {
        let generated = path == "Cargo.lock" || path.starts_with(".cargo/");
        if self.directory.is_empty() && generated {
            return;
        }
        let only_tests = match place {
            Place::Tests => true,
            // A link to a folder of tests is listed as a name.
            Place::Top if TEST_FOLDERS.contains(&self.within(&path)) => true,
            _ if self.explicit_tests.is_empty() => false,
            _ => self.explicit_tests.contains(self.within(&path)),
        };
        self.sources.push(Source {
            path,
            half,
            only_tests,
        });
    }
}

/// Where in a package a folder is.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// It is the package's own.
    Top,
    /// In one that cargo takes for tests alone.
    Tests,
    Elsewhere,
}

impl<'a> Sources<'a> {
    /// No names yet.
    pub(crate) fn new(root: &'a Utf8Path, manifests: &'a Manifests) -> Self {
        let packages = manifests.packages.iter();
        let owners: Vec<Owner<'a>> = packages
            .map(|(name, manifest)| Owner {
                package: name,
                directory: manifest.directory.as_str(),
                explicit_tests: explicit_tests(&manifest.table),
                sources: Vec::new(),
            })
            .collect();
        let by_directory = owners.iter().enumerate();
        let by_directory = by_directory.map(|(index, owner)| (owner.directory, index));
        Self {
            root,
            manifests,
            by_directory: by_directory.collect(),
            owners,
            nested: BTreeSet::new(),
        }
    }

    /// Gives every name of one half to its package.
    pub(crate) fn add(&mut self, listing: Listing, half: Half) {
        self.nested.extend(listing.nested);
        let before: Vec<usize> = self.counts().collect();
        // Most names lie in the folder of the name before them.
        let mut last: Option<(String, usize, Place)> = None;
        for path in listing.paths {
            let folder = folder_above(&path).unwrap_or_default();
            let known = last.as_ref().filter(|(last, ..)| last == folder);
            if let Some((_, owner, place)) = known {
                self.owners[*owner].take(path, half, *place);
                continue;
            }
            let owner =
                folders_above(&path).find_map(|above| self.by_directory.get(above).copied());
            let Some(owner) = owner else {
                // A package that is itself a link to another repository is listed as a name.
                let is_package = self.by_directory.contains_key(path.as_str());
                self.nested.extend(is_package.then_some(path));
                continue;
            };
            let place = self.owners[owner].place_of(folder);
            last = Some((folder.to_owned(), owner, place));
            self.owners[owner].take(path, half, place);
        }
        let after: Vec<usize> = self.counts().collect();
        let changed = before
            .iter()
            .zip(after)
            .map(|(before, after)| *before != after);
        for (owner, _) in self
            .owners
            .iter_mut()
            .zip(changed)
            .filter(|(_, changed)| *changed)
        {
            owner
                .sources
                .sort_by(|one, other| one.path.cmp(&other.path));
            owner.sources.dedup_by(|one, other| one.path == other.path);
        }
    }

    fn counts(&self) -> impl Iterator<Item = usize> {
        self.owners.iter().map(|owner| owner.sources.len())
    }

    fn sources(&self, package: &str, scope: Scope) -> impl Iterator<Item = &Source> {
        // In byte order of their names, as the manifests are.
        let found = self
            .owners
            .binary_search_by(|owner| owner.package.cmp(package));
        let sources = found
            .ok()
            .map(|index| self.owners[index].sources.as_slice());
        let sources = sources.unwrap_or_default().iter();
        sources.filter(move |source| scope == Scope::Tests || !source.only_tests)
    }

    /// The paths of one half that count of these packages, each once, in byte order.
    pub(crate) fn wanted(&self, parts: &BTreeSet<(&str, Scope)>, half: Half) -> Vec<String> {
        let sources = parts
            .iter()
            .flat_map(|(name, scope)| self.sources(name, *scope));
        let wanted = sources.filter(|source| source.half == half);
        let mut wanted: Vec<&str> = wanted.map(|source| source.path.as_str()).collect();
        wanted.sort();
        wanted.dedup();
        wanted.into_iter().map(str::to_owned).collect()
    }

    /// The paths that count of a package.
    pub(crate) fn paths(&self, package: &str, scope: Scope) -> impl Iterator<Item = &str> {
        let sources = self.sources(package, scope);
        sources.map(|source| source.path.as_str())
    }

    /// What names alone tell to be wrong in a package.
    pub(crate) fn problems(&self, package: &str, scope: Scope) -> Result<Vec<Problem>> {
        let directory = &self.manifests.packages[package].directory;
        let around = folders_above(directory.as_str()).chain([directory.as_str()]);
        for folder in around {
            if self.nested.contains(folder) {
                return Ok(vec![nested(Utf8Path::new(folder))]);
            }
        }
        let mut problems = Vec::new();
        let mut folders = BTreeSet::new();
        let mut last = None;
        let manifest = directory.join("Cargo.toml");
        let mut has_manifest = false;
        for path in self.paths(package, scope) {
            has_manifest |= path == manifest.as_str();
            if is_decoded_lossily(path) {
                problems.push(Problem::new(
                    Utf8Path::new(path),
                    "has a name that is not UTF-8",
                    "rename it, or name it in .gitignore",
                ));
            }
            // Most names lie in the folder of the name before them.
            if last == folder_above(path) {
                continue;
            }
            last = folder_above(path);
            for folder in folders_above(path) {
                if !folders.insert(folder) || folder == directory {
                    break;
                }
            }
        }
        let below = self
            .nested
            .iter()
            .filter(|folder| folders_above(folder).any(|folder| folders.contains(folder)));
        problems.extend(below.map(|folder| nested(Utf8Path::new(folder))));
        if !has_manifest {
            problems.push(Problem::new(
                &manifest,
                "belongs to the build and is ignored by git",
                "take it out of .gitignore",
            ));
        }
        problems.extend(self.problems_in(&folders)?);
        Ok(problems)
    }

    /// What git does not list: sockets and pipes, and repositories around tracked files.
    fn problems_in(&self, folders: &BTreeSet<&str>) -> Result<Vec<Problem>> {
        let mut problems = Vec::new();
        let mut specials = BTreeMap::new();
        // A folder may be gone, or be a link by now; what git lists in it is then gone as well.
        let there = |folder: &&Utf8Path| {
            let found = self.root.join(folder).symlink_metadata();
            found.is_ok_and(|found| found.is_dir())
        };
        for folder in folders.iter().map(Utf8Path::new).filter(there) {
            each_entry(self.root, folder, |name, kind| {
                if !folder.as_str().is_empty() && name == ".git" {
                    problems.push(nested(folder));
                }
                // A path is only made for what is told: most entries are plain files.
                if !is_usual(kind) {
                    let path = path_of(folder, name);
                    specials.extend(special(&path, kind).map(|problem| (path, problem)));
                }
            })?;
        }
        if !specials.is_empty() && has_git(self.root) {
            let names = specials
                .keys()
                .map(|path| format!("{path}\0"))
                .collect::<String>();
            let names = Input::Bytes(names.into_bytes());
            let options = ["-z".to_owned(), "--stdin".to_owned()];
            let ignored = git(self.root, "check-ignore", &options, &names)?;
            for path in ignored.split('\0') {
                specials.remove(Utf8Path::new(path));
            }
        }
        problems.extend(specials.into_values());
        Ok(problems)
    }
}

/// The folders that a path lies in, innermost first; the last one is the root, an empty text.
pub(crate) fn folders_above(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(folder_above(path), |folder| folder_above(folder))
}

/// Files of explicit `[[test]]`, `[[bench]]` and `[[example]]`, relative to the package.
fn explicit_tests(table: &toml::Table) -> BTreeSet<String> {
    let targets = ["test", "bench", "example"]
        .into_iter()
        .filter_map(|key| table.get(key));
    let targets = targets.filter_map(toml::Value::as_array).flatten();
    let paths = targets.filter_map(|target| target.get("path")?.as_str());
    paths
        .map(|path| path.trim_start_matches("./").to_owned())
        .collect()
}

pub(crate) fn nested(folder: &Utf8Path) -> Problem {
    Problem::new(
        folder,
        "is a repository of its own (or a submodule), whose files git does not list",
        "move it out of the workspace, or make its files part of this repository",
    )
}

/// Folders of all local packages.
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
