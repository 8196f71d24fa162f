//! A trial of an engine: it counts as working when it was seen to load an image, run a container,
//! and make a private network with a published port. What was made is taken away again. A signal
//! gives the step under way a few seconds, begins no other, and leaves the outcome unkept.

use std::cell::Cell;
use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::{Limits, Platform, probe_image};
use crate::exit::{Exit, Failure};
use crate::process::interrupt::{self, Shield};
use crate::process::{self, Captured, Invocation, ProcessError};
use crate::run;

/// How long one container that ends at once may take.
pub(super) const PROBE_DEADLINE: Duration = Duration::from_secs(60);

/// An engine with a probe image in it.
pub(super) struct Bench {
    /// The engine as the host has it.
    plain: Invocation,
    name: String,
    /// On all that it makes, so that the next command removes what a killed one left.
    label: String,
    _life: UnixDatagram,
    /// What stays until it is seen to be removed.
    left: Left,
    /// An engine that is ended in the middle of a step leaves parts of it behind.
    _shield: Shield,
}

/// What may be there of a trial, besides the image.
#[derive(Default)]
struct Left {
    container: Cell<bool>,
    network: Cell<bool>,
}

impl Bench {
    /// Loads the probe image.
    pub(super) fn prepare(
        plain: Invocation,
        platform: &Platform,
        folder: &Utf8Path,
    ) -> Result<Self> {
        let name = format!("{}{}", run::PROBE, std::process::id());
        let life = run::hold_life(&name)
            .with_context(|| format!("another process holds the name {name}"))?;
        let bench = Self {
            plain,
            label: format!("--label={}={name}", run::LABEL_RUN),
            name,
            _life: life,
            left: Left::default(),
            _shield: Shield::raise_brief(),
        };
        let archive = folder.join("probe.tar");
        let binary = probe_image::executable(platform)?;
        probe_image::assemble(platform, &binary)?.write_archive(File::create(&archive)?)?;
        let load = bench
            .plain
            .clone()
            .args(["load", "--quiet", "--input"])
            .arg(archive.as_str());
        bench.check_wanted()?;
        process::capture(&load, PROBE_DEADLINE)
            .map_err(|error| does_not_work("cannot load an image").caused_by(error))?;
        Ok(bench)
    }

    /// Runs a container that ends at once, on the engine with settings of its own.
    pub(super) fn run(&self, engine: &Invocation, options: &[&str]) -> Result<Captured> {
        let run = engine
            .clone()
            .args([
                "run",
                "--rm",
                "--pull=never",
                "--name",
                &self.name,
                &self.label,
            ])
            .args(options.iter().copied())
            .arg(probe_image::REFERENCE);
        self.check_wanted()?;
        self.left.container.set(true);
        let output = process::output(&run, PROBE_DEADLINE)?;
        // `--rm`: where it has ended, it has gone.
        self.left.container.set(false);
        Ok(output)
    }

    /// Nothing more is tried, and nothing kept of it, when a signal came.
    pub(super) fn check_wanted(&self) -> Result<()> {
        match interrupt::noted() {
            None => Ok(()),
            Some(signal) => {
                Err(Failure::new(Exit::of_signal(signal), "was not tried to its end").into())
            }
        }
    }

    /// A private network with names, and a port on 127.0.0.1. The outer error is the engine's
    /// silence, the inner one says why there is none.
    pub(super) fn check_network(&self, engine: &Invocation) -> Result<Result<(), String>> {
        let network = self.name.as_str();
        let create = engine
            .clone()
            .args(["network", "create", &self.label, network]);
        self.check_wanted()?;
        self.left.network.set(true);
        if let Err(error) = process::capture(&create, PROBE_DEADLINE) {
            let is_refused = matches!(error, ProcessError::Failed { .. });
            self.left.network.set(!is_refused);
            return Ok(Err(error.to_string()));
        }
        let output = self.run(engine, &["--network", network, "--publish=127.0.0.1::8080"]);
        let remove = engine.clone().args(["network", "rm", network]);
        let output = output?;
        process::capture(&remove, PROBE_DEADLINE)?;
        self.left.network.set(false);
        Ok(if output.code == 0 {
            Ok(())
        } else {
            Err(last_error(&output))
        })
    }

    /// Which limits may be set; what may not is noted.
    pub(super) fn find_limits(
        &self,
        engine: &Invocation,
        notes: &mut Vec<String>,
    ) -> Result<Limits> {
        let (memory, cpus, pids) = ("--memory=64m", "--cpus=1", "--pids-limit=64");
        let all = ["--network=none", memory, cpus, pids];
        if self.run(engine, &all)?.code == 0 {
            return Ok(Limits {
                memory: true,
                cpus: true,
                pids: true,
            });
        }
        let mut allowed = |option: &str| -> Result<bool> {
            let output = self.run(engine, &["--network=none", option])?;
            if output.code != 0 {
                notes.push(format!("{option} cannot be set: {}", last_error(&output)));
            }
            Ok(output.code == 0)
        };
        Ok(Limits {
            memory: allowed(memory)?,
            cpus: allowed(cpus)?,
            pids: allowed(pids)?,
        })
    }
}

impl Drop for Bench {
    /// What cannot be removed carries a label, and the next command removes it; the image, a hundred
    /// bytes, the next trial finds and uses.
    fn drop(&mut self) {
        let name = self.name.as_str();
        let removals: [(bool, &[&str]); 3] = [
            (self.left.container.get(), &["rm", "--force", name]),
            (self.left.network.get(), &["network", "rm", name]),
            (true, &["image", "rm", "--force", probe_image::REFERENCE]),
        ];
        for (_, removal) in removals.iter().filter(|(is_left, _)| *is_left) {
            let remove = self.plain.clone().args(removal.iter().copied());
            // An engine that does not answer one of them would not answer the next.
            if process::output(&remove, PROBE_DEADLINE).is_err() {
                return;
            }
        }
    }
}

pub(super) fn does_not_work(what: &str) -> Failure {
    Failure::new(Exit::Host, format!("is installed and {what}"))
}

/// An engine's last word on what went wrong.
pub(super) fn last_error(output: &Captured) -> String {
    let lines = output.stderr.lines().map(str::trim);
    let text = lines.clone().rfind(|line| line.starts_with("Error:"));
    text.or_else(|| lines.rev().find(|line| !line.is_empty()))
        .unwrap_or("it gives no reason")
        .to_owned()
}
