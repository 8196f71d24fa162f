//! The container engine: found, probed and asked by its command line. Settings that a host needs
//! (an OCI runtime, limits) go into a file of the run and its environment variable, never into /etc.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::process::Invocation;

/// Which engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// podman, 4.3 or later.
    Podman,
    /// docker; not chosen yet.
    Docker,
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
        todo!()
    }

    /// As rustc says it: `x86_64-unknown-linux-gnu`.
    #[must_use]
    pub fn rust_triple(&self) -> String {
        todo!()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)
    }
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
    pub fn find(_settings_directory: &Utf8Path) -> Result<Self> {
        todo!()
    }

    /// Probes every engine that we know.
    #[must_use]
    pub fn probe_all(_settings_directory: &Utf8Path) -> Vec<Probe> {
        todo!()
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
