//! podman: which OCI runtime works on this host, which limits may be set, whether a private network
//! comes up. Found out by running containers, one setting after the other, guided by podman's own
//! words. The outcome is kept until the host changes, so that an unchanged run pays nothing.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Resource, getrlimit, getuid};
use serde::{Deserialize, Serialize};

use super::bench::{Bench, PROBE_DEADLINE, does_not_work, last_error};
use super::{Engine, EngineKind, INSTALL, Limits, Platform};
use crate::exit::{Exit, Failure};
use crate::host::{self, Stamp};
use crate::process::{self, Invocation};

/// The oldest podman whose behaviour is known.
const VERSION_MIN: (u32, u32) = (4, 3);
/// The file in the settings folder, and the variable that names it.
const SETTINGS_FILE: &str = "containers.conf";
const SETTINGS_VARIABLE: &str = "CONTAINERS_CONF";
/// podman lowers its own limit to this before it starts a container.
const PROCESSES_MAX: u64 = 32_768;
const FILES_MAX: u64 = 1_048_576;
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// What must be the same for an outcome to hold.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    schema: u32,
    boot: String,
    user: u32,
    files_hard: Option<u64>,
    processes_hard: Option<u64>,
    environment: BTreeMap<String, String>,
    stamps: Vec<Stamp>,
}

/// What probing found out.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    version: String,
    /// The text of the settings file, if one is needed.
    settings: Option<String>,
    limits: Limits,
    storage: Option<Utf8PathBuf>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    key: Key,
    outcome: Outcome,
}

/// Settings that are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    runtime: Option<&'static str>,
    ulimits: bool,
}

/// Finds podman and sees it run a container.
pub(super) fn probe(settings_directory: &Utf8Path) -> Result<Engine> {
    let platform = Platform::host()?;
    let Some(program) = host::program("podman") else {
        return Err(Failure::new(Exit::Host, "is not installed")
            .hint(INSTALL)
            .into());
    };
    let cache = host::cache_directory()?.join("engine-podman.json");
    let key = key(&program);
    let outcome = match cached(&cache, &key) {
        Some(outcome) => outcome,
        None => {
            // One probes; the others find what it found.
            let _lock = host::lock("engine")?;
            match cached(&cache, &key) {
                Some(outcome) => outcome,
                None => find_out(&program, &platform, &cache, key)?,
            }
        }
    };
    engine(program, platform, outcome, settings_directory)
}

fn engine(
    program: Utf8PathBuf,
    platform: Platform,
    outcome: Outcome,
    settings_directory: &Utf8Path,
) -> Result<Engine> {
    let mut environment = BTreeMap::new();
    if let Some(settings) = &outcome.settings {
        let directory = settings_directory
            .canonicalize_utf8()
            .or_else(|_| {
                fs::create_dir_all(settings_directory)?;
                settings_directory.canonicalize_utf8()
            })
            .with_context(|| format!("cannot make {settings_directory}"))?;
        let path = directory.join(SETTINGS_FILE);
        host::write_atomically(&path, settings.as_bytes())?;
        environment.insert(SETTINGS_VARIABLE.to_owned(), path.into_string());
    }
    Ok(Engine {
        kind: EngineKind::Podman,
        program,
        environment,
        version: outcome.version,
        platform,
        limits: outcome.limits,
        storage: outcome.storage,
        notes: outcome.notes,
    })
}

fn cached(cache: &Utf8Path, key: &Key) -> Option<Outcome> {
    let cached: Cached = host::read_cached(cache)?;
    (cached.key == *key).then_some(cached.outcome)
}

/// Everything on the host that decides how podman behaves, as far as it can be looked at.
fn key(program: &Utf8Path) -> Key {
    let helpers = ["crun", "runc", "conmon", "iptables", "nft", "newuidmap"];
    let podman_helpers = ["netavark", "aardvark-dns"];
    let programs = helpers.iter().filter_map(|name| host::program(name));
    let others = podman_helpers
        .iter()
        .filter_map(|name| host::podman_helper(name));
    let files = [program.to_owned()]
        .into_iter()
        .chain(programs)
        .chain(others)
        .chain(settings_files())
        .chain(std::env::var("CONTAINERS_STORAGE_CONF").map(Utf8PathBuf::from))
        .chain(
            ["/etc/containers/storage.conf", "/etc/subuid", "/etc/subgid"].map(Utf8PathBuf::from),
        );
    let variables = [
        SETTINGS_VARIABLE,
        "CONTAINERS_CONF_OVERRIDE",
        "CONTAINERS_STORAGE_CONF",
        "CONTAINER_HOST",
        "STORAGE_DRIVER",
        "XDG_RUNTIME_DIR",
        "XDG_DATA_HOME",
    ];
    Key {
        schema: 2,
        boot: host::boot_id(),
        user: getuid().as_raw(),
        files_hard: getrlimit(Resource::Nofile).maximum,
        processes_hard: getrlimit(Resource::Nproc).maximum,
        environment: variables
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
            .collect(),
        stamps: files.map(host::stamp).collect(),
    }
}

/// Runs containers until one setting works; the caller holds the lock.
fn find_out(
    program: &Utf8Path,
    platform: &Platform,
    cache: &Utf8Path,
    key: Key,
) -> Result<Outcome> {
    let mut notes = Vec::new();
    let version = version(program)?;
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8PathBuf::try_from(temporary.path().to_owned())?;
    let trial = Trial {
        program,
        folder: &folder,
        bench: Bench::prepare(Invocation::new(program.as_str()), platform, &folder)?,
    };
    let settings = trial.find_settings(&mut notes)?;
    let podman = trial.podman(&settings)?;
    let network = trial.bench.check_network(&podman)?;
    network.map_err(|words| no_network(&words))?;
    let limits = trial.bench.find_limits(&podman, &mut notes)?;
    let storage = super::storage(&podman, "{{.Store.GraphRoot}}");
    let settings = (settings != Settings::default()).then(|| settings_text(&settings));
    let outcome = Outcome {
        version,
        settings: settings.transpose()?,
        limits,
        storage,
        notes,
    };
    trial.bench.check_wanted()?;
    let cached = Cached { key, outcome };
    host::write_cached(cache, &cached)?;
    Ok(cached.outcome)
}

fn version(program: &Utf8Path) -> Result<String> {
    let ask = Invocation::new(program.as_str()).arg("--version");
    let output = process::capture(&ask, PROBE_DEADLINE)
        .map_err(|error| does_not_work("does not tell its version").caused_by(error))?;
    let text = output.stdout.trim();
    let version = text.rsplit(' ').next().unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found < VERSION_MIN {
        let (major, minor) = VERSION_MIN;
        return Err(Failure::new(
            Exit::Host,
            format!("{program} is too old: `{text}`, needed is {major}.{minor}"),
        )
        .hint("install a newer podman")
        .into());
    }
    Ok(version.to_owned())
}

/// podman on trial, with one setting after the other.
struct Trial<'a> {
    program: &'a Utf8Path,
    folder: &'a Utf8Path,
    bench: Bench,
}

impl Trial<'_> {
    /// podman with these settings; without any, as the host has it.
    fn podman(&self, settings: &Settings) -> Result<Invocation> {
        let invocation = Invocation::new(self.program.as_str());
        if *settings == Settings::default() {
            return Ok(invocation);
        }
        let path = self.folder.join(SETTINGS_FILE);
        host::write_atomically(&path, settings_text(settings)?.as_bytes())?;
        Ok(invocation.env(SETTINGS_VARIABLE, path.as_str()))
    }

    fn find_settings(&self, notes: &mut Vec<String>) -> Result<Settings> {
        let installed: Vec<&'static str> = RUNTIMES
            .into_iter()
            .filter(|name| host::program(name).is_some())
            .collect();
        let mut untried = installed.iter().copied();
        let mut settings = Settings::default();
        loop {
            let podman = self.podman(&settings)?;
            let output = self.bench.run(&podman, &["--network=none"])?;
            if output.code == 0 {
                return Ok(settings);
            }
            let words = last_error(&output);
            notes.push(format!("{}: {words}", described(&settings)));
            if !settings.ulimits && words.to_lowercase().contains("rlimit") {
                settings.ulimits = true;
                continue;
            }
            let Some(runtime) = untried.next() else {
                return Err(no_container(&installed, notes).into());
            };
            settings = Settings {
                runtime: Some(runtime),
                ulimits: settings.ulimits,
            };
        }
    }
}

fn described(settings: &Settings) -> String {
    let runtime = settings.runtime.unwrap_or("the host's own runtime");
    if settings.ulimits {
        format!("{runtime}, with the host's own limits")
    } else {
        runtime.to_owned()
    }
}

fn no_container(installed: &[&str], notes: &[String]) -> Failure {
    let failure = does_not_work(&format!(
        "no container starts, with any runtime that is here ({}): {}",
        if installed.is_empty() {
            "none".to_owned()
        } else {
            installed.join(", ")
        },
        notes.join("; ")
    ));
    let words = notes.join("\n");
    if installed.len() < RUNTIMES.len() && !installed.contains(&"runc") {
        failure.hint("`cargo xtask setup --yes` installs runc, which works where crun does not")
    } else if words.contains("subuid") || words.contains("newuidmap") {
        failure.hint("`cargo xtask setup --yes` installs uidmap; the user needs a line in /etc/subuid and /etc/subgid (`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER`)")
    } else {
        failure
            .hint("make `podman run` work for this user; `cargo xtask doctor` shows each attempt")
    }
}

fn no_network(words: &str) -> Failure {
    does_not_work(&format!("a private network does not come up: {words}"))
        .hint("`cargo xtask setup --yes` installs netavark, aardvark-dns and iptables")
}

/// Where podman reads its settings; later files win.
fn settings_files() -> Vec<Utf8PathBuf> {
    if let Ok(path) = std::env::var(SETTINGS_VARIABLE) {
        return vec![path.into()];
    }
    let mut files = vec![
        Utf8PathBuf::from("/usr/share/containers/containers.conf"),
        Utf8PathBuf::from("/etc/containers/containers.conf"),
    ];
    let mut folders = vec![Utf8PathBuf::from("/etc/containers/containers.conf.d")];
    if !getuid().is_root() {
        let home = std::env::var("XDG_CONFIG_HOME")
            .or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.config")));
        if let Ok(home) = home {
            let own = Utf8PathBuf::from(home).join("containers");
            files.push(own.join("containers.conf"));
            folders.push(own.join("containers.conf.d"));
        }
    }
    for folder in folders {
        let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
        let mut parts: Vec<Utf8PathBuf> = entries
            .map(|entry| entry.into_path())
            .filter(|path| path.extension() == Some("conf"))
            .collect();
        parts.sort();
        files.extend(parts);
    }
    files
}

/// The host's settings with ours on top: podman reads the file named by the variable and no other.
fn settings_text(settings: &Settings) -> Result<String> {
    let mut merged = toml::Table::new();
    for path in settings_files() {
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        let table: toml::Table =
            toml::from_str(&text).with_context(|| format!("cannot read {path}"))?;
        merge(&mut merged, table);
    }
    let mut ours = toml::Table::new();
    if let Some(runtime) = settings.runtime {
        let engine = toml::Table::from_iter([("runtime".to_owned(), runtime.into())]);
        ours.insert("engine".to_owned(), engine.into());
    }
    if settings.ulimits {
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(FILES_MAX);
        let processes = getrlimit(Resource::Nproc)
            .maximum
            .map_or(PROCESSES_MAX, |hard| hard.min(PROCESSES_MAX));
        let limits = vec![
            format!("nofile={files}:{files}"),
            format!("nproc={processes}:{processes}"),
        ];
        let containers = toml::Table::from_iter([("default_ulimits".to_owned(), limits.into())]);
        ours.insert("containers".to_owned(), containers.into());
    }
    merge(&mut merged, ours);
    Ok(toml::to_string(&merged)?)
}

fn merge(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::merge;

    #[test]
    fn settings_of_the_host_stay() {
        let parse = |text: &str| toml::from_str::<toml::Table>(text).unwrap();
        let mut merged =
            parse("[engine]\nruntime = 'crun'\nevents_logger = 'file'\n[network]\na = 1");
        merge(
            &mut merged,
            parse("[engine]\nruntime = 'runc'\n[containers]\nb = 2"),
        );
        let expected = parse(
            "[engine]\nruntime = 'runc'\nevents_logger = 'file'\n[network]\na = 1\n[containers]\nb = 2",
        );
        assert_eq!(merged, expected);
    }
}
