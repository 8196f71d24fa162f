//! The container engine: found, probed and asked by its command line. Settings that a host needs
//! (an OCI runtime, limits) go into a file of the run and its environment variable, never into /etc.
//! An engine counts as found when a container was seen to run on it, not when its program exists.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::process::{Invocation, interrupt};
use crate::report;

pub(crate) mod ask;
mod bench;
mod docker;
pub mod dockerd;
pub(crate) mod left;
mod podman;
mod probe_image;

pub(crate) use ask::ARCHIVE_ANEW;
pub use ask::{ContainerFacts, ImageFacts};
pub(crate) use docker::own_host as own_docker_host;
pub(crate) use probe_image::executable as smallest_executable;

/// The fix when there is no engine.
const INSTALL: &str = "`cargo xtask setup --yes` installs podman and what it needs";
/// The fix when docker is asked for and has no server.
const NO_DOCKER: &str = "start docker; or install docker.io, as `e2e --engine docker --yes` does: as root, a server is then started for each command";

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// podman, 4.3 or later.
    Podman,
    /// docker, 20.10 or later.
    Docker,
}

/// Which engine is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The first that works: podman, then docker
    #[default]
    Auto,
    /// podman alone
    Podman,
    /// docker alone
    Docker,
}

impl Choice {
    /// Whether this engine may be used.
    #[must_use]
    pub fn allows(self, kind: EngineKind) -> bool {
        self.kinds().contains(&kind)
    }

    /// As it stands on a command line.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    fn kinds(self) -> &'static [EngineKind] {
        match self {
            Self::Auto => &[EngineKind::Podman, EngineKind::Docker],
            Self::Podman => &[EngineKind::Podman],
            Self::Docker => &[EngineKind::Docker],
        }
    }
}

/// This one alone.
impl From<EngineKind> for Choice {
    fn from(kind: EngineKind) -> Self {
        match kind {
            EngineKind::Podman => Self::Podman,
            EngineKind::Docker => Self::Docker,
        }
    }
}

impl EngineKind {
    /// The name of its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }
}

/// Where binaries and images run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// As OCI says it: `amd64`, `arm64`.
    pub architecture: String,
}

impl Platform {
    /// The host's.
    ///
    /// # Errors
    /// On anything but x86_64 and aarch64 Linux.
    pub fn host() -> Result<Self> {
        let architecture = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => "amd64",
            ("linux", "aarch64") => "arm64",
            (os, architecture) => {
                return Err(Failure::new(
                    Exit::Host,
                    format!("{os} on {architecture} is not supported"),
                )
                .hint("run on Linux, x86_64 or aarch64")
                .into());
            }
        };
        Ok(Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
        })
    }

    /// As rustc says it: `x86_64-unknown-linux-gnu`.
    #[must_use]
    pub fn rust_triple(&self) -> String {
        let machine = match self.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            other => other,
        };
        format!("{machine}-unknown-{}-gnu", self.os)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
}

/// Which limits of a container the host lets the engine set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `--memory`.
    pub memory: bool,
    /// `--cpus`.
    pub cpus: bool,
    /// `--pids-limit`.
    pub pids: bool,
}

/// What may be loaded: an archive that this tool wrote, under the name that its maker gave it.
pub(crate) trait Archive {
    /// The file.
    fn path(&self) -> &Utf8Path;
}

/// An engine that was seen to run a container.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Which.
    pub kind: EngineKind,
    /// Its program, absolute.
    pub program: Utf8PathBuf,
    /// What it needs in its environment (`CONTAINERS_CONF`).
    pub environment: BTreeMap<String, String>,
    /// What it says of itself.
    pub version: String,
    /// What it runs.
    pub platform: Platform,
    /// Which limits may be set.
    pub limits: Limits,
    /// Where its images and containers lie on this machine, if it tells.
    pub storage: Option<Utf8PathBuf>,
    /// What was found out while probing, for `doctor` and the receipt.
    pub notes: Vec<String>,
}

/// What probing found, good or bad; `doctor` shows it.
#[derive(Debug)]
pub struct Probe {
    /// Which engine it is about.
    pub kind: EngineKind,
    /// The engine, or why it cannot be used.
    pub result: Result<Engine>,
}

impl Engine {
    /// The engine to use; its settings file, if it needs one, is written to `settings_directory`.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Host`] when there is none that works: says for each what is wrong, and the fix.
    pub fn find(settings_directory: &Utf8Path, choice: Choice) -> Result<Self> {
        let mut errors = Vec::new();
        // The first that works is taken: nobody waits for the others to be asked.
        for &kind in choice.kinds() {
            match Self::probe(kind, settings_directory) {
                Ok(engine) => return Ok(engine),
                Err(error) => errors.push((kind, error)),
            }
        }
        let ended = errors.iter().any(|(_, error)| report::is_signal(error));
        let others = Choice::Auto.kinds().iter().copied();
        let mut others = others.filter(|&kind| !ended && !choice.allows(kind));
        let works = others.find(|&kind| Self::probe(kind, settings_directory).is_ok());
        Err(none_works(errors, works))
    }

    /// Every engine that works: what an earlier command made may lie in any of them.
    ///
    /// # Errors
    /// As [`Engine::find`], when there is none.
    pub fn all(settings_directory: &Utf8Path) -> Result<Vec<Self>> {
        let (mut engines, mut errors) = (Vec::new(), Vec::new());
        for probe in Self::probe_all(settings_directory) {
            match probe.result {
                Ok(engine) => engines.push(engine),
                Err(error) => errors.push((probe.kind, error)),
            }
        }
        if engines.is_empty() {
            return Err(none_works(errors, None));
        }
        Ok(engines)
    }

    fn probe(kind: EngineKind, settings_directory: &Utf8Path) -> Result<Self> {
        let probed = match kind {
            EngineKind::Podman => podman::probe(settings_directory),
            EngineKind::Docker => docker::probe(),
        };
        // What a signal cut short is no fault of the engine's.
        probed.map_err(|error| interrupt::check().err().unwrap_or(error))
    }

    /// Probes every engine that we know.
    #[must_use]
    pub fn probe_all(settings_directory: &Utf8Path) -> Vec<Probe> {
        let probe = |&kind: &EngineKind| Probe {
            kind,
            result: Self::probe(kind, settings_directory),
        };
        Choice::Auto.kinds().iter().map(probe).collect()
    }

    /// Its program with its environment, and no arguments yet.
    #[must_use]
    pub fn invocation(&self) -> Invocation {
        self.environment.iter().fold(
            Invocation::new(self.program.as_str()),
            |invocation, (name, value)| invocation.env(name, value),
        )
    }
}

/// Where an engine keeps everything, by its own word; nothing where it is on another machine.
fn storage(engine: &Invocation, format: &str) -> Option<Utf8PathBuf> {
    let elsewhere = ["CONTAINER_HOST", "DOCKER_HOST"]
        .iter()
        .any(|name| std::env::var(name).is_ok_and(|address| !address.starts_with("unix:")));
    if elsewhere {
        return None;
    }
    let question = engine.clone().args(["info", "--format", format]);
    let told = ask::output(&question).ok()?;
    let folder = Utf8PathBuf::from(told.stdout.trim());
    (told.code == 0 && folder.is_absolute() && folder.is_dir()).then_some(folder)
}

/// A signal stays a signal; everything else is one error that tells of each engine that was asked
/// for. Where another one works, that is the first fix.
fn none_works(
    errors: Vec<(EngineKind, anyhow::Error)>,
    works: Option<EngineKind>,
) -> anyhow::Error {
    let mut hint = remedy(errors.iter().map(|(kind, error)| (*kind, error)));
    let mut message = "no container engine works here".to_owned();
    if let (Some(works), Some((wanted, _))) = (works, errors.first()) {
        let (program, other) = (wanted.program(), works.program());
        message = format!("{program} is asked for and does not work here; {other} does");
        hint = instead(works, *wanted, &hint);
    }
    for (kind, error) in errors {
        if report::exit_of(&error).signal().is_some() {
            return error;
        }
        message.push_str(&format!("\n  {}: {error:#}", kind.program()));
    }
    Failure::new(Exit::Host, message).hint(hint).into()
}

/// The fix where another engine works than the one that is asked for.
#[must_use]
pub fn instead(works: EngineKind, wanted: EngineKind, remedy: &str) -> String {
    let (works, wanted) = (works.program(), wanted.program());
    format!("`--engine {works}` takes {works}; for {wanted}: {remedy}")
}

/// The fix when none of these works: that of an engine that is there, since nothing needs to be
/// installed then; else the installation.
pub fn remedy<'a>(errors: impl Iterator<Item = (EngineKind, &'a anyhow::Error)>) -> String {
    let (mut broken, mut install) = (None, None);
    for (kind, error) in errors {
        match Failure::find(error).and_then(Failure::hint_text) {
            Some(INSTALL) => install = Some(INSTALL),
            Some(NO_DOCKER) => install = install.or(Some(NO_DOCKER)),
            Some(hint) => return hint.to_owned(),
            None => broken = broken.or(Some(kind)),
        }
    }
    broken.map_or_else(
        || install.unwrap_or(INSTALL).to_owned(),
        |kind| {
            let program = kind.program();
            format!("{program} is installed and fails by itself: make `{program} run` work for this user")
        },
    )
}
