//! cargo's configuration files, as far as they reach a build. The workspace's own is frozen and
//! handed to cargo by `--config`; those in `/.cargo` and CARGO_HOME are read by cargo itself, and
//! count as well. All others (between the workspace and `/`) reach nothing, since cargo runs in `/`.
//! Refuses what would lead a build to files that nobody hashed.

use std::str::FromStr as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use cargo_platform::{Cfg, CfgExpr};

use crate::exit::{Exit, Failure};

/// Tables that can change what a build makes.
const REACHING: [&str; 6] = ["build", "env", "patch", "profile", "source", "target"];
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
    layers: Vec<toml::Table>,
    /// What of the workspace's own is handed to cargo.
    handed_on: toml::Table,
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
        let tables: Vec<_> = candidates
            .chunks(2)
            .map(|names| match names.iter().find(|name| name.is_file()) {
                Some(path) => read_table(path),
                None => Ok(toml::Table::new()),
            })
            .collect::<Result<_>>()?;
        let handed_on = tables.last().cloned().map(handed_on);
        Ok(Self {
            layers: tables.into_iter().map(reaching).collect(),
            handed_on: handed_on.unwrap_or_default(),
        })
    }

    /// What reaches the build, as one text: equal texts, equal builds.
    pub(super) fn text(&self) -> Result<String> {
        let layers: Vec<String> = self
            .layers
            .iter()
            .filter(|layer| !layer.is_empty())
            .map(toml::to_string)
            .collect::<Result<_, _>>()?;
        Ok(layers.join("---\n"))
    }

    /// What cargo gets by `--config`; empty: nothing.
    pub(super) fn handed_on(&self) -> Result<String> {
        Ok(toml::to_string(&self.handed_on)?)
    }

    /// Whether `[target.'cfg(..)']` has flags, so that the target's cfg values are needed.
    pub(super) fn has_conditional_flags(&self) -> bool {
        self.targets()
            .any(|(key, target)| key.starts_with("cfg(") && target.contains_key("rustflags"))
    }

    /// Names of the variables that `[env]` sets.
    pub(super) fn variables(&self) -> Vec<String> {
        let tables = self.layers.iter().filter_map(|layer| layer.get("env"));
        tables
            .filter_map(toml::Value::as_table)
            .flat_map(|table| table.keys().cloned())
            .collect()
    }

    /// The linker that `[target.<triple>]` names.
    pub(super) fn linker(&self, triple: &str) -> Option<String> {
        self.targets()
            .filter(|(key, _)| *key == triple)
            .filter_map(|(_, target)| target.get("linker")?.as_str())
            .last()
            .map(str::to_owned)
    }

    /// The flags that cargo would give rustc: those of the target, from every table that fits it;
    /// else those of `[build]`.
    pub(super) fn rustflags(&self, triple: &str, cfgs: &[Cfg]) -> Result<Vec<String>> {
        let mut of_target = Vec::new();
        for (key, target) in self.targets() {
            let Some(flags) = target.get("rustflags") else {
                continue;
            };
            let fits = match key
                .strip_prefix("cfg(")
                .and_then(|rest| rest.strip_suffix(')'))
            {
                Some(expression) => CfgExpr::from_str(expression)
                    .with_context(|| format!("cannot read [target.'{key}'] of cargo's config"))?
                    .matches(cfgs),
                None => key == triple,
            };
            if fits {
                of_target.extend(words(flags)?);
            }
        }
        if !of_target.is_empty() {
            return Ok(of_target);
        }
        let of_build = self
            .layers
            .iter()
            .filter_map(|layer| layer.get("build.rustflags"));
        let mut flags = Vec::new();
        for value in of_build {
            flags.extend(words(value)?);
        }
        Ok(flags)
    }

    fn targets(&self) -> impl Iterator<Item = (&str, &toml::Table)> {
        self.layers
            .iter()
            .filter_map(|layer| layer.get("target")?.as_table())
            .flatten()
            .filter_map(|(key, target)| Some((key.as_str(), target.as_table()?)))
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
    Ok(table)
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

fn handed_on(table: toml::Table) -> toml::Table {
    let mut table = without(table, &NOT_HANDED_ON);
    if let Some(toml::Value::Table(build)) = table.remove("build") {
        let rest = without(build, &SET_BY_US);
        if !rest.is_empty() {
            table.insert("build".to_owned(), rest.into());
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
    fn what_leads_beyond_the_hashed_is_refused() {
        for workspace in ["paths = ['/elsewhere']", "include = 'other.toml'", "a = ["] {
            let error = config(workspace, "").unwrap_err();
            assert!(error.to_string().contains("config.toml: "), "{error}");
        }
    }
}
