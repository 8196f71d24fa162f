//! The manifests and the configuration as the mirror gets them: cut to what reaches the build of
//! one package, in one spelling. A comment, a test's dependency or another member changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use toml::{Table, Value};

use super::lock::Reached;
use super::manifests::{
    DependencyKind, Manifests, dependency_keys, dependency_scopes, inherits, refused,
};
use super::snapshot::Scope;

/// The profiles that a build may be asked for; those that they inherit from count as well.
const PROFILES: [&str; 3] = ["e2e", "release", "dev"];

/// Tables of a package manifest that only count in the manifest of a workspace, or in no build.
const PACKAGE_DROPPED: [&str; 5] = ["workspace", "profile", "patch", "replace", "badges"];

/// What only tests, examples and benches are made of.
const TARGETS_DROPPED: [&str; 3] = ["test", "bench", "example"];

/// Tables of a configuration that reach no build.
const CONFIGURATION_DROPPED: [&str; 9] = [
    "alias",
    "cache",
    "cargo-new",
    "credential-alias",
    "future-incompat-report",
    "http",
    "install",
    "net",
    "term",
];

/// Keys of `[build]` that say where and how fast, not what.
const BUILD_DROPPED: [&str; 4] = ["build-dir", "dep-info-basedir", "jobs", "target-dir"];

/// The manifest of a local package, cut; the same for every package that reaches it.
#[derive(Debug)]
pub(crate) struct CutPackage {
    table: Table,
    text: Vec<u8>,
    inherited: Inherited,
    /// Its manifest and what it inherits.
    pub(crate) own: Vec<u8>,
}

impl CutPackage {
    /// Cuts the manifest of one package.
    pub(crate) fn new(manifests: &Manifests, name: &str, scope: Scope) -> Result<Self> {
        let table = package(&manifests.packages[name].table, scope);
        let inherited = Inherited::by(&table);
        let text = text(&table)?;
        let mut own = text.clone();
        // No text of TOML goes on after this, so the two parts cannot be mixed up.
        own.push(0);
        own.extend(self::text(&inherited.cut(&manifests.root))?);
        Ok(Self {
            table,
            text,
            inherited,
            own,
        })
    }
}

/// All manifests that the build of one package reads, from those of the local packages in it.
pub(crate) fn manifests<'a>(
    manifests: &Manifests,
    packages: impl Iterator<Item = (&'a str, &'a CutPackage)>,
    reached: &Reached,
) -> Result<BTreeMap<Utf8PathBuf, Vec<u8>>> {
    let mut texts = BTreeMap::new();
    let mut members = BTreeSet::new();
    let mut inherited = Inherited::default();
    let mut at_root = Table::new();
    for (name, cut) in packages {
        let manifest = &manifests.packages[name];
        inherited.extend(&cut.inherited);
        if manifest.directory.as_str().is_empty() {
            at_root = cut.table.clone();
            continue;
        }
        if manifest.member {
            members.insert(manifest.directory.as_str());
        }
        texts.insert(manifest.directory.join("Cargo.toml"), cut.text.clone());
    }
    let members = members
        .into_iter()
        .map(|member| Value::String(member.to_owned()));
    let root = workspace(
        &manifests.root,
        at_root,
        members.collect(),
        &inherited,
        reached,
    )?;
    texts.insert("Cargo.toml".into(), text(&root)?);
    Ok(texts)
}

fn text(table: &Table) -> Result<Vec<u8>> {
    let text = toml::to_string(&sorted(table)).context("cannot write a manifest")?;
    Ok(text.into_bytes())
}

/// Whether a table keeps the order of the file is for whoever builds the tool to say; not here.
fn sorted(table: &Table) -> Table {
    let entries: BTreeMap<&String, &Value> = table.iter().collect();
    let entries = entries
        .into_iter()
        .map(|(key, value)| (key.clone(), sorted_value(value)));
    entries.collect()
}

fn sorted_value(value: &Value) -> Value {
    match value {
        Value::Table(table) => Value::Table(sorted(table)),
        Value::Array(values) => Value::Array(values.iter().map(sorted_value).collect()),
        value => value.clone(),
    }
}

/// The manifest of a package without what does not reach its build.
fn package(table: &Table, scope: Scope) -> Table {
    let mut cut = table.clone();
    for key in PACKAGE_DROPPED {
        cut.remove(key);
    }
    if let Some(package) = cut.get_mut("package").and_then(Value::as_table_mut) {
        package.remove("metadata");
        package.remove("workspace");
    }
    if scope == Scope::Binary {
        drop_tests(&mut cut);
    }
    cut
}

fn drop_tests(cut: &mut Table) {
    let declared = dependency_names(cut, &[DependencyKind::Normal, DependencyKind::Build]);
    let development = dependency_names(cut, &[DependencyKind::Development]);
    for key in TARGETS_DROPPED {
        cut.remove(key);
    }
    for key in dependency_keys(DependencyKind::Development) {
        cut.remove(*key);
    }
    let targets = cut.get_mut("target").and_then(Value::as_table_mut);
    for (_, target) in targets.into_iter().flatten() {
        for key in dependency_keys(DependencyKind::Development) {
            target.as_table_mut().map(|target| target.remove(*key));
        }
    }
    if let Some(package) = cut.get_mut("package").and_then(Value::as_table_mut) {
        for key in ["autotests", "autobenches", "autoexamples"] {
            package.insert(key.to_owned(), Value::Boolean(false));
        }
    }
    // A feature may turn on a feature of a dependency that only tests have.
    let only_tests: BTreeSet<&String> = development.difference(&declared).collect();
    let features = cut.get_mut("features").and_then(Value::as_table_mut);
    for (_, enabled) in features.into_iter().flatten() {
        if let Some(enabled) = enabled.as_array_mut() {
            enabled.retain(|feature| {
                let dependency = feature.as_str().and_then(|text| text.split_once('/'));
                let dependency = dependency.map(|(name, _)| name.trim_end_matches('?').to_owned());
                dependency.is_none_or(|name| !only_tests.contains(&name))
            });
        }
    }
}

fn dependency_names(table: &Table, kinds: &[DependencyKind]) -> BTreeSet<String> {
    let keys = kinds.iter().flat_map(|kind| dependency_keys(*kind));
    let scopes: Vec<&Table> = dependency_scopes(table).collect();
    keys.flat_map(|key| scopes.iter().filter_map(|scope| scope.get(*key)))
        .filter_map(Value::as_table)
        .flat_map(|dependencies| dependencies.keys().cloned())
        .collect()
}

/// What package manifests take from the manifest of the workspace.
#[derive(Debug, Default)]
struct Inherited {
    fields: BTreeSet<String>,
    dependencies: BTreeSet<String>,
    lints: bool,
}

impl Inherited {
    fn by(table: &Table) -> Self {
        let inheriting = |table: &Table| -> Vec<String> {
            let names = table.iter().filter(|(_, value)| inherits(value));
            names.map(|(name, _)| name.clone()).collect()
        };
        let mut inherited = Self::default();
        if let Some(package) = table.get("package").and_then(Value::as_table) {
            inherited.fields.extend(inheriting(package));
        }
        for scope in dependency_scopes(table) {
            for kind in [
                DependencyKind::Normal,
                DependencyKind::Build,
                DependencyKind::Development,
            ] {
                let declared = dependency_keys(kind)
                    .iter()
                    .filter_map(|key| scope.get(*key));
                for declared in declared.filter_map(Value::as_table) {
                    inherited.dependencies.extend(inheriting(declared));
                }
            }
        }
        inherited.lints = table.get("lints").is_some_and(inherits);
        inherited
    }

    fn extend(&mut self, other: &Self) {
        self.fields.extend(other.fields.iter().cloned());
        self.dependencies.extend(other.dependencies.iter().cloned());
        self.lints |= other.lints;
    }

    /// The part of `[workspace]` that is inherited.
    fn cut(&self, root: &Table) -> Table {
        let workspace = root.get("workspace").and_then(Value::as_table);
        let part = |key: &str, names: &BTreeSet<String>| -> Table {
            let table = workspace.and_then(|workspace| workspace.get(key)?.as_table());
            let kept = table
                .into_iter()
                .flatten()
                .filter(|(name, _)| names.contains(*name));
            kept.map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let mut cut = Table::new();
        for (key, names) in [
            ("package", &self.fields),
            ("dependencies", &self.dependencies),
        ] {
            let table = part(key, names);
            if !table.is_empty() {
                cut.insert(key.to_owned(), Value::Table(table));
            }
        }
        let lints = workspace.and_then(|workspace| workspace.get("lints"));
        if let Some(lints) = lints.filter(|_| self.lints) {
            cut.insert("lints".to_owned(), lints.clone());
        }
        cut
    }
}

/// The manifest at the root: what is inherited, and what applies to packages that are reached.
fn workspace(
    root: &Table,
    package_at_root: Table,
    members: Vec<Value>,
    inherited: &Inherited,
    reached: &Reached,
) -> Result<Table> {
    let names = reached.names();
    let mut workspace = inherited.cut(root);
    workspace.insert("members".to_owned(), Value::Array(members));
    workspace.insert("resolver".to_owned(), Value::String(resolver(root)?));
    let mut cut = package_at_root;
    cut.insert("workspace".to_owned(), Value::Table(workspace));
    if let Some(features) = root.get("cargo-features") {
        cut.insert("cargo-features".to_owned(), features.clone());
    }
    let tables = [
        ("profile", profiles(root, &names)),
        ("patch", patches(root, &names)),
        ("replace", replacements(root, &names)),
    ];
    for (key, table) in tables {
        if !table.is_empty() {
            cut.insert(key.to_owned(), Value::Table(table));
        }
    }
    Ok(cut)
}

/// Resolver 1 lets the features of tests reach binaries, which a cut would then change.
fn resolver(root: &Table) -> Result<String> {
    let field = |table: &str, key: &str| {
        let value = root.get(table).and_then(|table| table.get(key));
        value.and_then(Value::as_str)
    };
    let by_edition = match field("package", "edition") {
        Some("2015" | "2018") | None => "1",
        Some("2021") => "2",
        Some(_) => "3",
    };
    let resolver = field("workspace", "resolver").or(field("package", "resolver"));
    match resolver.unwrap_or(by_edition) {
        "1" => Err(refused(
            "Cargo.toml",
            "needs `resolver = \"2\"` or later in [workspace]: with 1, what tests depend on \
             changes what is built",
        )),
        resolver => Ok(resolver.to_owned()),
    }
}

fn profiles(root: &Table, names: &BTreeSet<&str>) -> Table {
    let Some(profiles) = root.get("profile").and_then(Value::as_table) else {
        return Table::new();
    };
    let mut wanted: Vec<&str> = PROFILES.to_vec();
    let mut kept = Table::new();
    while let Some(name) = wanted.pop() {
        let Some(profile) = profiles.get(name).filter(|_| !kept.contains_key(name)) else {
            continue;
        };
        wanted.extend(profile.get("inherits").and_then(Value::as_str));
        let mut profile = profile.clone();
        if let Some(table) = profile.as_table_mut() {
            cut_packages(table, names);
        }
        if profile.as_table().is_some_and(Table::is_empty) {
            continue;
        }
        kept.insert(name.to_owned(), profile);
    }
    kept
}

/// `[profile.x.package.<spec>]` counts where the package is reached.
fn cut_packages(profile: &mut Table, names: &BTreeSet<&str>) {
    let Some(packages) = profile.get_mut("package").and_then(Value::as_table_mut) else {
        return;
    };
    packages.retain(|specification, _| {
        // A full package ID says the name in ways of its own; it stays.
        let is_id = specification.contains(['/', '#']);
        let name = specification.split(['@', ':']).next().unwrap_or_default();
        is_id || specification == "*" || names.contains(name)
    });
    if packages.is_empty() {
        profile.remove("package");
    }
}

fn patches(root: &Table, names: &BTreeSet<&str>) -> Table {
    let mut kept = Table::new();
    let patches = root.get("patch").and_then(Value::as_table);
    for (registry, entries) in patches.into_iter().flatten() {
        let entries = entries
            .as_table()
            .into_iter()
            .flatten()
            .filter(|(key, entry)| {
                let name = entry.get("package").and_then(Value::as_str).unwrap_or(key);
                names.contains(name)
            });
        let entries: Table = entries
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        if !entries.is_empty() {
            kept.insert(registry.clone(), Value::Table(entries));
        }
    }
    kept
}

fn replacements(root: &Table, names: &BTreeSet<&str>) -> Table {
    let entries = root.get("replace").and_then(Value::as_table);
    let entries = entries.into_iter().flatten().filter(|(specification, _)| {
        let name = specification.split(['@', ':']).next().unwrap_or_default();
        specification.contains('/') || names.contains(name)
    });
    entries
        .map(|(key, entry)| (key.clone(), entry.clone()))
        .collect()
}

/// The part of `.cargo/config.toml` that reaches builds; nothing if there is none.
pub(crate) fn configuration(path: &Utf8Path, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let written = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse::<Table>().ok());
    let mut table = written.ok_or_else(|| refused(path, "is not valid TOML"))?;
    if table.contains_key("include") {
        return Err(refused(
            path,
            "includes other files, which are not frozen; write them here",
        ));
    }
    for key in CONFIGURATION_DROPPED {
        table.remove(key);
    }
    if let Some(build) = table.get_mut("build").and_then(Value::as_table_mut) {
        for key in BUILD_DROPPED {
            build.remove(key);
        }
        if build.is_empty() {
            table.remove("build");
        }
    }
    if table.is_empty() {
        return Ok(None);
    }
    text(&table).map(Some)
}
