//! A trial of an engine: it counts as working when it was seen to load an image, run a container,
//! and make a private network with a published port. What was made is taken away again.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::{Limits, Platform, probe_image};
use crate::exit::{Exit, Failure};
use crate::process::interrupt::Shield;
use crate::process::{self, Captured, Invocation};
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
    /// A trial runs to its end, whatever signal comes: it is short, and its outcome is kept.
    _shield: Shield,
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
            _shield: Shield::raise(),
        };
        let archive = folder.join("probe.tar");
        let binary = probe_image::executable(platform)?;
        probe_image::assemble(platform, &binary)?.write_archive(File::create(&archive)?)?;
        let load = bench
            .plain
            .clone()
            .args(["load", "--quiet", "--input"])
            .arg(archive.as_str());
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
        Ok(process::output(&run, PROBE_DEADLINE)?)
    }

    /// A private network with names, and a port on 127.0.0.1. The outer error is the engine's
    /// silence, the inner one says why there is none.
    pub(super) fn check_network(&self, engine: &Invocation) -> Result<Result<(), String>> {
        let network = self.name.as_str();
        let create = engine
            .clone()
            .args(["network", "create", &self.label, network]);
        if let Err(error) = process::capture(&create, PROBE_DEADLINE) {
            return Ok(Err(error.to_string()));
        }
        let output = self.run(engine, &["--network", network, "--publish=127.0.0.1::8080"]);
        let remove = engine.clone().args(["network", "rm", network]);
        process::capture(&remove, PROBE_DEADLINE)?;
        let output = output?;
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
    fn drop(&mut self) {
        // A hundred bytes; when it cannot be removed, the next probe finds and uses it.
        let remove = self
            .plain
            .clone()
            .args(["image", "rm", "--force", probe_image::REFERENCE]);
        drop(process::output(&remove, PROBE_DEADLINE));
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
