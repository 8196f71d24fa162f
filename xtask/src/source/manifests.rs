//! Cargo manifests as TOML tables: which packages a workspace holds and what each declares. Reads
//! files and nothing else; knows nothing of registries, and refuses what leaves the root.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use toml::{Table, Value};

use super::reading;
use crate::exit::{Exit, Failure};
use crate::process::interrupt;

/// The manifest of the workspace and those of its packages.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    /// `Cargo.toml` at the root.
    pub(crate) root: Table,
    /// Local packages by name.
    pub(crate) packages: BTreeMap<String, PackageManifest>,
}

/// The manifest of one local package.
#[derive(Clone, Debug)]
pub(crate) struct PackageManifest {
    /// Its folder, relative to the root; empty for a package at the root itself.
    pub(crate) directory: Utf8PathBuf,
    /// As it is written.
    pub(crate) table: Table,
    /// A member of the workspace; otherwise reached by a path alone.
    pub(crate) member: bool,
    /// What it declares.
    pub(crate) dependencies: Vec<Dependency>,
}

/// For what a dependency is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DependencyKind {
    /// The package itself.
    Normal,
    /// Its build script.
    Build,
    /// Its tests, examples and benches.
    Development,
}

/// One dependency, with what it inherits from the workspace resolved.
#[derive(Clone, Debug)]
pub(crate) struct Dependency {
    /// The name of the package (not the one it is renamed to).
    pub(crate) package: String,
    /// For what.
    pub(crate) kind: DependencyKind,
    /// The folder of a path dependency, relative to the root.
    pub(crate) directory: Option<Utf8PathBuf>,
    /// The version that is asked for, if one is.
    pub(crate) requirement: Option<String>,
    /// Whether a feature turns it on.
    pub(crate) optional: bool,
}

/// The names under which cargo reads dependencies of a kind; the second is its old spelling.
pub(crate) const fn dependency_keys(kind: DependencyKind) -> &'static [&'static str] {
    match kind {
        DependencyKind::Normal => &["dependencies"],
        DependencyKind::Build => &["build-dependencies", "build_dependencies"],
        DependencyKind::Development => &["dev-dependencies", "dev_dependencies"],
    }
}

const KINDS: [DependencyKind; 3] = [
    DependencyKind::Normal,
    DependencyKind::Build,
    DependencyKind::Development,
];

impl Manifests {
    /// Reads the manifest at `root`, those of its members, and those that they reach by a path.
    pub(crate) fn read(root: &Utf8Path) -> Result<Self> {
        let root_table = read_table(root, Utf8Path::new("Cargo.toml"))?;
        let workspace = root_table.get("workspace").and_then(Value::as_table);
        let workspace = workspace.ok_or_else(|| refused("Cargo.toml", "has no [workspace]"))?;
        let mut manifests = Self {
            root: root_table.clone(),
            packages: BTreeMap::new(),
        };
        let mut members = Members::of(root, workspace)?;
        let mut found: BTreeMap<Utf8PathBuf, PackageManifest> = BTreeMap::new();
        if root_table.contains_key("package") {
            members.pending.insert(Utf8PathBuf::new());
        }
        let patched = patched_directories(&root_table)?;
        members
            .reached
            .extend(patched.into_iter().map(|(_, directory)| directory));
        while let Some((directory, member)) = members.next() {
            let known = found.get(&directory);
            if known.is_some_and(|known| known.member >= member) {
                continue;
            }
            let table = if directory.as_str().is_empty() {
                root_table.clone()
            } else {
                read_table(root, &directory.join("Cargo.toml"))?
            };
            let dependencies = dependencies(&root_table, &directory, &table, member)?;
            let reached = dependencies.iter().filter_map(|one| one.directory.clone());
            reached.for_each(|directory| members.reach(directory));
            let manifest = PackageManifest {
                directory: directory.clone(),
                table,
                member,
                dependencies,
            };
            found.insert(directory, manifest);
        }
        for manifest in found.into_values() {
            manifests.insert(manifest)?;
        }
        manifests.check_inside(root)?;
        Ok(manifests)
    }

    fn insert(&mut self, manifest: PackageManifest) -> Result<()> {
        let path = manifest.directory.join("Cargo.toml");
        let name = manifest
            .table
            .get("package")
            .and_then(|package| package.get("name"))
            .and_then(Value::as_str)
            .ok_or_else(|| refused(&path, "has no package.name"))?
            .to_owned();
        if let Some(other) = self.packages.get(&name) {
            let other = other.directory.join("Cargo.toml");
            return Err(refused(
                &path,
                &format!("names `{name}`, as {other} does already"),
            ));
        }
        self.packages.insert(name, manifest);
        Ok(())
    }

    /// A folder may be a link; what counts is where it leads.
    fn check_inside(&self, root: &Utf8Path) -> Result<()> {
        for manifest in self.packages.values() {
            let lexical = root.join(&manifest.directory);
            let real = lexical
                .canonicalize_utf8()
                .with_context(|| format!("cannot resolve {lexical}"))?;
            if real != lexical && !manifest.directory.as_str().is_empty() {
                return Err(refused(
                    manifest.directory.join("Cargo.toml"),
                    &format!("is reached through a link: it lies in {real}"),
                ));
            }
        }
        Ok(())
    }

    /// The local package in this folder.
    pub(crate) fn name_at(&self, directory: &Utf8Path) -> Option<&str> {
        self.packages
            .iter()
            .find(|(_, manifest)| manifest.directory == directory)
            .map(|(name, _)| name.as_str())
    }

    /// A field of `[package]`, its inheritance resolved.
    pub(crate) fn package_field(&self, name: &str, field: &str) -> Option<&Value> {
        let value = self.packages[name].table.get("package")?.get(field)?;
        if inherits(value) {
            return self.root.get("workspace")?.get("package")?.get(field);
        }
        Some(value)
    }
}

/// `{ workspace = true, .. }`
pub(crate) fn inherits(value: &Value) -> bool {
    value.get("workspace").and_then(Value::as_bool) == Some(true)
}

/// The folders that `[patch]` and `[replace]` name, by the name of the package.
fn patched_directories(root: &Table) -> Result<Vec<(String, Utf8PathBuf)>> {
    let mut directories = Vec::new();
    let patches = root.get("patch").and_then(Value::as_table);
    let patches = patches.into_iter().flat_map(Table::values);
    for entries in patches.chain(root.get("replace")) {
        for (key, entry) in entries.as_table().into_iter().flatten() {
            if let Some(path) = entry.get("path").and_then(Value::as_str) {
                let directory = inside("Cargo.toml".into(), Utf8Path::new(""), path)?;
                directories.push((key.clone(), directory));
            }
        }
    }
    Ok(directories)
}

/// The tables that declare dependencies: those of the package and those for one platform only.
pub(crate) fn dependency_scopes(table: &Table) -> impl Iterator<Item = &Table> {
    let targets = table.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values);
    std::iter::once(table).chain(targets.filter_map(Value::as_table))
}

fn dependencies(
    root: &Table,
    directory: &Utf8Path,
    table: &Table,
    member: bool,
) -> Result<Vec<Dependency>> {
    let manifest = directory.join("Cargo.toml");
    let mut found = Vec::new();
    for scope in dependency_scopes(table) {
        for kind in KINDS {
            // The tests of a package that is no member are never built.
            if kind == DependencyKind::Development && !member {
                continue;
            }
            let declared = dependency_keys(kind)
                .iter()
                .filter_map(|key| scope.get(*key));
            for (name, value) in declared.filter_map(Value::as_table).flatten() {
                let inherited = inherits(value);
                if inherited && !member {
                    let what = format!("`{name}` inherits, and the package is no member");
                    return Err(refused(&manifest, &what));
                }
                let (base, value) = if inherited {
                    (
                        Utf8Path::new(""),
                        inherited_dependency(root, &manifest, name)?,
                    )
                } else {
                    (directory, value)
                };
                found.push(dependency(&manifest, base, name, value, kind)?);
            }
        }
    }
    Ok(found)
}

fn inherited_dependency<'a>(root: &'a Table, manifest: &Utf8Path, name: &str) -> Result<&'a Value> {
    root.get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(|dependencies| dependencies.get(name))
        .ok_or_else(|| {
            let what = format!("`{name}` is not in [workspace.dependencies] of Cargo.toml");
            refused(manifest, &what)
        })
}

fn dependency(
    manifest: &Utf8Path,
    base: &Utf8Path,
    name: &str,
    value: &Value,
    kind: DependencyKind,
) -> Result<Dependency> {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let directory = text("path").map(|path| inside(manifest, base, path));
    Ok(Dependency {
        package: text("package").unwrap_or(name).to_owned(),
        kind,
        directory: directory.transpose()?,
        requirement: value.as_str().or(text("version")).map(str::to_owned),
        optional: value.get("optional").and_then(Value::as_bool) == Some(true),
    })
}

/// `path`, as it is written in `manifest` and meant from `base`, relative to the root.
fn inside(manifest: &Utf8Path, base: &Utf8Path, path: &str) -> Result<Utf8PathBuf> {
    let mut resolved = Utf8PathBuf::new();
    for component in base.join(path).components() {
        let stays = match component {
            Utf8Component::Normal(part) => {
                resolved.push(part);
                true
            }
            Utf8Component::CurDir => true,
            Utf8Component::ParentDir => resolved.pop(),
            Utf8Component::RootDir | Utf8Component::Prefix(_) => false,
        };
        if !stays {
            return Err(Failure::new(
                Exit::Source,
                format!("{manifest}: the path dependency `{path}` lies outside the workspace"),
            )
            .hint("move the package into the workspace, or depend on a published version")
            .into());
        }
    }
    Ok(resolved)
}

fn read_table(root: &Utf8Path, path: &Utf8Path) -> Result<Table> {
    let absolute = root.join(path);
    let text = match reading::text(&absolute) {
        Ok(text) => text,
        Err(error) => {
            interrupt::check()?;
            let what = format!("cannot read the manifest {path}");
            let failure = Failure::new(Exit::Source, what);
            return Err(failure.caused_by(anyhow!("{absolute}: {error:#}")).into());
        }
    };
    text.parse().map_err(|error: toml::de::Error| {
        Failure::new(Exit::Source, format!("{path} is not valid TOML"))
            .caused_by(error)
            .into()
    })
}

pub(crate) fn refused(manifest: impl AsRef<Utf8Path>, what: &str) -> anyhow::Error {
    Failure::new(Exit::Source, format!("{}: {what}", manifest.as_ref())).into()
}

/// Folders still to be read.
struct Members {
    declared: Vec<String>,
    excluded: Vec<String>,
    pending: BTreeSet<Utf8PathBuf>,
    reached: BTreeSet<Utf8PathBuf>,
}

impl Members {
    fn of(root: &Utf8Path, workspace: &Table) -> Result<Self> {
        let mut members = Self {
            declared: strings(workspace, "members")?,
            excluded: strings(workspace, "exclude")?,
            pending: BTreeSet::new(),
            reached: BTreeSet::new(),
        };
        for pattern in members.declared.clone() {
            for directory in expand(root, &pattern)? {
                if !members.is_excluded(&directory) {
                    members.pending.insert(directory);
                }
            }
        }
        Ok(members)
    }

    /// As cargo decides: a member that is named beats an exclusion.
    fn is_excluded(&self, directory: &Utf8Path) -> bool {
        let below = |path: &String| directory.starts_with(path.trim_end_matches('/'));
        self.excluded.iter().any(below) && !self.declared.iter().any(below)
    }

    /// A path dependency inside the root is a member, unless it is excluded or a workspace itself.
    fn reach(&mut self, directory: Utf8PathBuf) {
        if self.is_excluded(&directory) {
            self.reached.insert(directory);
        } else {
            self.pending.insert(directory);
        }
    }

    fn next(&mut self) -> Option<(Utf8PathBuf, bool)> {
        let member = self.pending.pop_first().map(|directory| (directory, true));
        member.or_else(|| self.reached.pop_first().map(|directory| (directory, false)))
    }
}

fn strings(table: &Table, key: &str) -> Result<Vec<String>> {
    let Some(value) = table.get(key) else {
        return Ok(Vec::new());
    };
    value.clone().try_into().map_err(|_| {
        refused(
            "Cargo.toml",
            &format!("workspace.{key} is not a list of texts"),
        )
    })
}

/// The folders that a member pattern means. Those that a `*` finds count if they hold a manifest.
fn expand(root: &Utf8Path, pattern: &str) -> Result<BTreeSet<Utf8PathBuf>> {
    if pattern.contains("**") || pattern.contains(['[', '{']) {
        let what = format!("the member pattern `{pattern}` is not supported: use `*` and `?`");
        return Err(refused("Cargo.toml", &what));
    }
    let mut directories = BTreeSet::from([Utf8PathBuf::new()]);
    let mut wild = false;
    for component in inside("Cargo.toml".into(), Utf8Path::new(""), pattern)?.components() {
        let part = component.as_str();
        if !part.contains(['*', '?']) {
            directories = directories.iter().map(|base| base.join(part)).collect();
            continue;
        }
        wild = true;
        let mut matching = BTreeSet::new();
        for base in &directories {
            matching.extend(matching_folders(root, base, part)?);
        }
        directories = matching;
    }
    if wild {
        directories.retain(|directory| root.join(directory).join("Cargo.toml").is_file());
    }
    Ok(directories)
}

fn matching_folders(root: &Utf8Path, base: &Utf8Path, part: &str) -> Result<Vec<Utf8PathBuf>> {
    let folder = root.join(base);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = folder
        .read_dir_utf8()
        .with_context(|| format!("cannot list {folder}"))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        if matches(part.as_bytes(), entry.file_name().as_bytes()) && entry.path().is_dir() {
            found.push(base.join(entry.file_name()));
        }
    }
    Ok(found)
}

/// `*` is any text, `?` any one byte.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => (0..=name.len()).any(|length| matches(rest, &name[length..])),
        (Some((b'?', rest)), Some((_, tail))) => matches(rest, tail),
        (Some((byte, rest)), Some((first, tail))) => byte == first && matches(rest, tail),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{inside, matches};

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("*", "gateway", true),
            ("gate*", "gateway", true),
            ("*way", "gateway", true),
            ("g*t*y", "gateway", true),
            ("gate", "gateway", false),
            ("gatewa?", "gateway", true),
            ("?gateway", "gateway", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn paths_stay_inside() {
        let meant = |base: &str, path| inside("Cargo.toml".into(), base.into(), path);
        assert_eq!(meant("services/a", "../b/./c").unwrap(), "services/b/c");
        assert_eq!(meant("services/a", "../..").unwrap(), "");
        assert!(meant("services/a", "../../..").is_err());
        assert!(meant("services/a", "/tmp").is_err());
    }
}
