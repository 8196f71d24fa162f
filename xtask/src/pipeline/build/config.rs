//! cargo's configuration files, as far as they reach a build. The workspace's own is frozen and
//! handed to cargo by `--config`; those in `/.cargo` and CARGO_HOME are read by cargo itself, and
//! count as well. All others (between the workspace and `/`) reach nothing, since cargo runs in `/`.
//! Refuses what would lead a build to files that nobody hashed.

use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use cargo_platform::{Cfg, CfgExpr};

use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// Tables that can change what a build makes.
const REACHING: [&str; 7] = [
    "build", "env", "patch", "profile", "source", "target", "unstable",
];
/// Keys of `[build]` that the build phase sets itself, or that change no byte.
const SET_BY_US: [&str; 12] = [
    "build-dir",
    "dep-info-basedir",
    "incremental",
    "jobs",
    "rustc",
    "rustc-workspace-wrapper",
    "rustc-wrapper",
    "rustdoc",
    "rustflags",
    "target",
    "target-dir",
    "warnings",
];
/// Tables that are for people or for the network.
const NOT_HANDED_ON: [&str; 4] = ["alias", "cargo-new", "credential-alias", "term"];
/// Keys that lead to files beyond what is hashed.
const REFUSED: [&str; 2] = ["include", "paths"];

/// The configuration of a build.
#[derive(Clone, Debug)]
pub(super) struct Config {
    /// What reaches a build, lowest precedence first: CARGO_HOME, `/.cargo`, the workspace.
    layers: Vec<Layer>,
    /// What of the workspace's own is handed to cargo.
    handed_on: toml::Table,
}

/// What reaches a build of one file.
#[derive(Clone, Debug)]
struct Layer {
    file: Utf8PathBuf,
    /// What cargo takes relative paths from: the folder that `.cargo` lies in.
    root: Utf8PathBuf,
    table: toml::Table,
}

impl Config {
    /// Where configuration can stand, whether it is there or not; lowest precedence first.
    pub(super) fn candidates(root: &Utf8Path, cargo_home: &Utf8Path) -> Vec<Utf8PathBuf> {
        // Of the two names in one folder cargo takes the old one when both are there.
        [cargo_home.to_owned(), "/.cargo".into(), root.join(".cargo")]
            .iter()
            .flat_map(|folder| [folder.join("config"), folder.join("config.toml")])
            .collect()
    }

    /// Reads them.
    pub(super) fn read(root: &Utf8Path, cargo_home: &Utf8Path) -> Result<Self> {
        let candidates = Self::candidates(root, cargo_home);
        let mut layers = Vec::new();
        let mut workspace = toml::Table::new();
        for names in candidates.chunks(2) {
            let Some(file) = names.iter().find(|name| name.is_file()) else {
                continue;
            };
            let table = read_table(file)?;
            let folder = file.parent().context("a file without a folder")?;
            if folder == root.join(".cargo") {
                workspace = table.clone();
            }
            layers.push(Layer {
                file: file.clone(),
                root: folder.parent().unwrap_or(folder).to_owned(),
                table: reaching(table),
            });
        }
        Ok(Self {
            layers,
            handed_on: handed_on(workspace, root),
        })
    }

    /// What reaches the build, as one text: equal texts, equal builds.
    pub(super) fn text(&self) -> Result<String> {
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| &layer.table)
            .filter(|table| !table.is_empty())
            .map(|table| toml::to_string(&without_values(table)))
            .collect::<Result<_, _>>()?;
        Ok(layers.join("---\n"))
    }

    /// What cargo gets by `--config`; empty: nothing.
    pub(super) fn handed_on(&self) -> Result<String> {
        Ok(toml::to_string(&self.handed_on)?)
    }

    /// Whether `[target.'cfg(..)']` says something, so that the target's cfg values are needed.
    pub(super) fn has_conditions(&self) -> bool {
        let counts = |target: &toml::Table| {
            target.contains_key("rustflags") || target.contains_key("linker")
        };
        self.targets()
            .any(|(_, key, target)| key.starts_with("cfg(") && counts(target))
    }

    /// Names of the variables that `[env]` sets.
    pub(super) fn variables(&self) -> Vec<String> {
        let variables = self.environment();
        variables.map(|(_, name, _)| name.to_owned()).collect()
    }

    /// The variables that `[env]` sets: file, name, value.
    pub(super) fn environment(&self) -> impl Iterator<Item = (&Utf8Path, &str, &str)> {
        self.layers
            .iter()
            .filter_map(|layer| Some((layer, layer.table.get("env")?.as_table()?)))
            .flat_map(|(layer, table)| table.iter().map(move |(name, value)| (layer, name, value)))
            .map(|(layer, name, value)| {
                let text = value.as_str().or_else(|| value.get("value")?.as_str());
                (
                    layer.file.as_path(),
                    name.as_str(),
                    text.unwrap_or_default(),
                )
            })
    }

    /// The linker of the target: as it is written, and where it is unless that is left to PATH.
    /// One that is named for the target goes before those that are named for a `cfg(..)`.
    pub(super) fn linker(&self, triple: &str, cfgs: &[Cfg]) -> Result<Option<(String, String)>> {
        let (mut by_triple, mut by_cfg) = (None, None);
        for (layer, key, target) in self.targets() {
            let Some(linker) = target.get("linker").and_then(toml::Value::as_str) else {
                continue;
            };
            if fits(key, triple, cfgs)? {
                let place = match linker.contains('/') {
                    true => layer.root.join(linker).into_string(),
                    false => linker.to_owned(),
                };
                let slot = if key == triple {
                    &mut by_triple
                } else {
                    &mut by_cfg
                };
                *slot = Some((linker.to_owned(), place));
            }
        }
        Ok(by_triple.or(by_cfg))
    }

    /// Refuses `[target.<triple>.<links>]`, which stands in for what a build script says: it names
    /// libraries, and folders to look for them in.
    pub(super) fn check_overrides(&self, triple: &str) -> Result<()> {
        for (layer, key, target) in self.targets().filter(|(_, key, _)| *key == triple) {
            if let Some((links, _)) = target.iter().find(|(_, value)| value.is_table()) {
                let what = format!(
                    "{}: `target.{key}.{links}` names libraries that nobody hashed",
                    layer.file
                );
                let hint = "take it out, so that the crate's own build script finds the library";
                return Err(Failure::new(Exit::Source, what).hint(hint).into());
            }
        }
        Ok(())
    }

    /// The flags that cargo would give rustc: those of the target, from every table that fits it;
    /// else those of `[build]`.
    pub(super) fn rustflags(&self, triple: &str, cfgs: &[Cfg]) -> Result<Vec<String>> {
        let mut of_target = Vec::new();
        for (_, key, target) in self.targets() {
            if let Some(flags) = target.get("rustflags")
                && fits(key, triple, cfgs)?
            {
                of_target.extend(words(flags)?);
            }
        }
        if !of_target.is_empty() {
            return Ok(of_target);
        }
        let of_build = self
            .layers
            .iter()
            .filter_map(|layer| layer.table.get("build.rustflags"));
        let mut flags = Vec::new();
        for value in of_build {
            flags.extend(words(value)?);
        }
        Ok(flags)
    }

    fn targets(&self) -> impl Iterator<Item = (&Layer, &str, &toml::Table)> {
        self.layers
            .iter()
            .filter_map(|layer| Some((layer, layer.table.get("target")?.as_table()?)))
            .flat_map(|(layer, table)| table.iter().map(move |(key, value)| (layer, key, value)))
            .filter_map(|(layer, key, target)| Some((layer, key.as_str(), target.as_table()?)))
    }
}

/// Whether `[target.<key>]` is for this target.
fn fits(key: &str, triple: &str, cfgs: &[Cfg]) -> Result<bool> {
    let condition = key
        .strip_prefix("cfg(")
        .and_then(|rest| rest.strip_suffix(')'));
    match condition {
        Some(expression) => Ok(CfgExpr::from_str(expression)
            .with_context(|| format!("cannot read [target.'{key}'] of cargo's config"))?
            .matches(cfgs)),
        None => Ok(key == triple),
    }
}

fn read_table(path: &Utf8Path) -> Result<toml::Table> {
    let refused = |what: &str| {
        Failure::new(Exit::Source, format!("{path}: {what}"))
            .hint("the build phase hashes what reaches a build; this leads beyond it")
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| refused("is not TOML").caused_by(error))?;
    for key in REFUSED {
        if table.contains_key(key) {
            return Err(refused(&format!("`{key}` is refused")).into());
        }
    }
    check_sources(path, &table)?;
    check_variables(path, &table)?;
    Ok(table)
}

/// Refuses folders that stand in for what Cargo.lock has a checksum of. What cargo compares with
/// the lock may come from elsewhere: another registry, a repository, `local-registry`.
fn check_sources(path: &Utf8Path, table: &toml::Table) -> Result<()> {
    let tables = |key: &str| {
        let table = table.get(key).and_then(toml::Value::as_table);
        table.into_iter().flatten()
    };
    for (name, source) in tables("source") {
        if source.get("directory").is_some() {
            let what = format!(
                "{path}: `source.{name}.directory` is refused: cargo takes the files of that folder as they are, and nobody hashed them"
            );
            return Err(Failure::new(Exit::Source, what)
                .hint(format!("take [source.{name}] and what is replaced with it out; fill CARGO_HOME with `cargo fetch --locked` beforehand, or use a `local-registry`, whose .crate files cargo compares with Cargo.lock"))
                .into());
        }
    }
    for (source, patches) in tables("patch") {
        for (name, patch) in patches.as_table().into_iter().flatten() {
            if patch.get("path").is_some() {
                let what = format!(
                    "{path}: `patch.{source}.{name}.path` is refused: it leads to files that nobody hashed"
                );
                return Err(Failure::new(Exit::Source, what)
                    .hint("write it into the workspace's Cargo.toml, where it is hashed")
                    .into());
            }
        }
    }
    Ok(())
}

/// Refuses variables that are paths below the working tree: no build reads that.
fn check_variables(path: &Utf8Path, table: &toml::Table) -> Result<()> {
    let variables = table.get("env").and_then(toml::Value::as_table);
    for (name, value) in variables.into_iter().flatten() {
        if value.get("relative").and_then(toml::Value::as_bool) == Some(true) {
            let what =
                format!("{path}: `env.{name}.relative` is refused: builds see nothing of the tree");
            return Err(Failure::new(Exit::Source, what)
                .hint("move the file into the package that reads it, and let it begin at CARGO_MANIFEST_DIR")
                .into());
        }
    }
    Ok(())
}

fn reaching(table: toml::Table) -> toml::Table {
    let mut reaching = toml::Table::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(build) if key == "build" => {
                if let Some(flags) = build.get("rustflags") {
                    reaching.insert("build.rustflags".to_owned(), flags.clone());
                }
                let rest = without(build, &SET_BY_US);
                if !rest.is_empty() {
                    reaching.insert(key, rest.into());
                }
            }
            value if REACHING.contains(&key.as_str()) => {
                reaching.insert(key, value);
            }
            _ => {}
        }
    }
    reaching
}

/// Paths are made absolute: cargo would take them from where the frozen configuration lies.
fn handed_on(table: toml::Table, root: &Utf8Path) -> toml::Table {
    let mut table = without(table, &NOT_HANDED_ON);
    if let Some(toml::Value::Table(build)) = table.remove("build") {
        let rest = without(build, &SET_BY_US);
        if !rest.is_empty() {
            table.insert("build".to_owned(), rest.into());
        }
    }
    for (of, key) in [("source", "local-registry"), ("target", "linker")] {
        let entries = table.get_mut(of).and_then(toml::Value::as_table_mut);
        for (_, entry) in entries.into_iter().flatten() {
            if let Some(toml::Value::String(path)) = entry.get_mut(key)
                && (of == "source" || path.contains('/'))
            {
                *path = root.join(&path).into_string();
            }
        }
    }
    table
}

fn without(mut table: toml::Table, keys: &[&str]) -> toml::Table {
    table.retain(|key, _| !keys.contains(&key));
    table
}

/// A text is split at spaces, an array taken as it is.
fn words(flags: &toml::Value) -> Result<Vec<String>> {
    match flags {
        toml::Value::String(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
        toml::Value::Array(items) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .context("rustflags of cargo's config hold something that is no text"),
        _ => anyhow::bail!("rustflags of cargo's config are neither text nor array"),
    }
}

/// With digests in place of what `[env]` sets: the text becomes a label of the image, and a value may
/// be a secret.
fn without_values(table: &toml::Table) -> toml::Table {
    let mut table = table.clone();
    let variables = table.get_mut("env").and_then(toml::Value::as_table_mut);
    for (_, variable) in variables.into_iter().flatten() {
        let value = match variable {
            toml::Value::Table(detailed) => detailed.get_mut("value"),
            value => Some(value),
        };
        if let Some(value) = value {
            let digest = Digest::of(value.to_string().as_bytes());
            *value = format!("sha256:{digest}").into();
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use camino::Utf8Path;
    use cargo_platform::Cfg;

    use super::Config;

    const TRIPLE: &str = "x86_64-unknown-linux-gnu";

    fn config(workspace: &str, home: &str) -> anyhow::Result<Config> {
        let folder = tempfile::tempdir()?;
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (root, cargo_home) = (folder.join("root"), folder.join("home"));
        std::fs::create_dir_all(root.join(".cargo"))?;
        std::fs::create_dir_all(&cargo_home)?;
        std::fs::write(root.join(".cargo/config.toml"), workspace)?;
        std::fs::write(cargo_home.join("config.toml"), home)?;
        Config::read(&root, &cargo_home)
    }

    #[track_caller]
    fn check_flags(workspace: &str, home: &str, expected: &[&str]) {
        let cfgs = ["unix", "target_os=\"linux\""].map(|cfg| Cfg::from_str(cfg).unwrap());
        let flags = config(workspace, home).unwrap().rustflags(TRIPLE, &cfgs);
        assert_eq!(flags.unwrap(), expected);
    }

    #[test]
    fn flags_follow_the_precedence_of_cargo() {
        let build = "[build]\nrustflags = '-C a'";
        check_flags("", "", &[]);
        check_flags(build, "", &["-C", "a"]);
        check_flags(build, "[build]\nrustflags = ['-C b']", &["-C b", "-C", "a"]);
        let target = format!("[target.{TRIPLE}]\nrustflags = ['t']\n{build}");
        check_flags(&target, "", &["t"]);
        let fitting = "[target.'cfg(all(unix, target_os = \"linux\"))']\nrustflags = 'c'";
        check_flags(&target, fitting, &["c", "t"]);
        check_flags(
            "[target.'cfg(windows)']\nrustflags = 'w'",
            build,
            &["-C", "a"],
        );
    }

    #[test]
    fn every_place_where_cargo_would_read_counts() {
        let candidates = Config::candidates("/tree".into(), "/home-of-cargo".into());
        let expected = ["/home-of-cargo", "/.cargo", "/tree/.cargo"]
            .iter()
            .flat_map(|folder| [format!("{folder}/config"), format!("{folder}/config.toml")]);
        assert_eq!(candidates, expected.collect::<Vec<_>>());
    }

    #[test]
    fn what_reaches_no_build_changes_no_text() {
        let nothing = config("", "").unwrap().text().unwrap();
        let other = config(
            "[alias]\nx = 'run'\n[build]\njobs = 3\ntarget-dir = 'x'",
            "[net]\nretry = 3\n[term]\ncolor = 'never'",
        );
        assert_eq!(other.unwrap().text().unwrap(), nothing);
        for reaching in [
            "[env]\nA = '1'",
            "[profile.e2e]\nopt-level = 2",
            "[build]\nrustflags = 'x'",
            "[target.x]\nlinker = 'y'",
        ] {
            assert_ne!(config(reaching, "").unwrap().text().unwrap(), nothing);
            assert_ne!(config("", reaching).unwrap().text().unwrap(), nothing);
        }
    }

    #[test]
    fn what_a_variable_holds_is_told_to_nobody() {
        let text = |value: &str| {
            let set = format!("[env]\nA = '{value}'\nB = {{ value = '{value}', force = true }}");
            config(&set, "").unwrap().text().unwrap()
        };
        let told = text("open sesame");
        assert!(
            !told.contains("sesame") && told.contains("force = true"),
            "{told}"
        );
        assert_ne!(told, text("open barley"));
    }

    #[test]
    fn what_is_set_by_us_is_not_handed_on() {
        let config = config(
            "[alias]\nx = 'run'\n[build]\njobs = 3\nrustc-wrapper = 'w'\n[env]\nA = '1'",
            "[env]\nB = '1'",
        );
        let config = config.unwrap();
        assert_eq!(config.handed_on().unwrap(), "[env]\nA = \"1\"\n");
        assert_eq!(config.variables(), ["B", "A"]);
    }

    #[test]
    fn paths_are_handed_on_as_they_are_meant() {
        let text = "[source.local]\nlocal-registry = 'crates'\n[target.x]\nlinker = 'tools/ld'\n[target.y]\nlinker = 'clang'\n";
        let config = config(text, "").unwrap();
        let handed_on = config.handed_on().unwrap();
        let root = &config.layers.last().unwrap().root;
        for line in [
            format!("local-registry = \"{root}/crates\"\n"),
            format!("linker = \"{root}/tools/ld\"\n"),
            "linker = \"clang\"\n".to_owned(),
        ] {
            assert!(handed_on.contains(&line), "{line} is not in {handed_on}");
        }
        assert!(!config.text().unwrap().contains(root.as_str()));
    }

    #[test]
    fn the_linker_is_the_one_that_cargo_takes() {
        let cfgs = ["unix"].map(|cfg| Cfg::from_str(cfg).unwrap());
        let linker = |workspace: &str, home: &str| {
            let config = config(workspace, home).unwrap();
            let root = config.layers.last().unwrap().root.clone();
            let found = config.linker(TRIPLE, &cfgs).unwrap();
            found.map(|(_, place)| place.replace(root.as_str(), "ROOT"))
        };
        let of_triple = format!("[target.{TRIPLE}]\nlinker = 'clang'\n");
        assert_eq!(linker(&of_triple, "").as_deref(), Some("clang"));
        let of_cfg = "[target.'cfg(unix)']\nlinker = 'tools/ld'\n";
        assert_eq!(linker(of_cfg, "").as_deref(), Some("ROOT/tools/ld"));
        assert_eq!(linker(of_cfg, &of_triple).as_deref(), Some("clang"));
        let other = "[target.'cfg(windows)']\nlinker = 'x'\n[target.y]\nlinker = 'y'\n";
        assert_eq!(linker(other, ""), None);
    }

    #[test]
    fn what_leads_beyond_the_hashed_is_refused() {
        for (text, named) in [
            ("paths = ['/elsewhere']", "`paths`"),
            ("include = 'other.toml'", "`include`"),
            ("a = [", "is not TOML"),
            (
                "[source.crates-io]\nreplace-with = 'vendored'\n[source.vendored]\ndirectory = 'vendor'",
                "`source.vendored.directory`",
            ),
            (
                "[patch.crates-io]\nitoa = { path = 'vendor/itoa' }",
                "`patch.crates-io.itoa.path`",
            ),
            (
                "[env]\nA = { value = 'x', relative = true }",
                "`env.A.relative`",
            ),
        ] {
            for (workspace, home) in [(text, ""), ("", text)] {
                let error = config(workspace, home).unwrap_err().to_string();
                assert!(error.contains("config.toml: "), "{error}");
                assert!(error.contains(named), "{error}");
            }
        }
        let overridden = format!("[target.{TRIPLE}.z]\nrustc-link-search = ['/elsewhere']");
        let error = config(&overridden, "").unwrap().check_overrides(TRIPLE);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("config.toml: "), "{error}");
        assert!(error.contains(".z` names libraries"), "{error}");
        let other = config("[target.other.z]\nrustc-link-search = ['/elsewhere']", "");
        other.unwrap().check_overrides(TRIPLE).unwrap();
    }
}
