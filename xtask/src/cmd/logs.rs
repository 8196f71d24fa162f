//! `logs`: what a service of the newest run wrote, from the engine while its container is there,
//! else from the run's folder. To standard output, as it is.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::print_data;
use super::run_file::RunFile;
use crate::cli;
use crate::exit::{Exit, Failure};
use crate::process::{self, Echo, ProcessError};
use crate::report;
use crate::run::{self, State};
use crate::source::workspace::Workspace;

/// Longer than anybody reads a log; Ctrl-C ends it.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
const PRINT_DEADLINE: Duration = Duration::from_secs(60);

/// Prints the log of a service of the newest run that has one.
///
/// # Errors
/// When no run has a log of this service.
pub fn run(workspace: &Workspace, options: &cli::Logs) -> Result<()> {
    let service = options.service.as_str();
    let mut known = Vec::new();
    for record in run::list(workspace)?.into_iter().rev() {
        if matches!(record.state, State::Running | State::Kept)
            && let Some(file) = RunFile::read(&record.directory)?
        {
            if let Some(deployed) = file.services.get(service) {
                report::note(&format!("run {}", record.id));
                return from_engine(&file, &deployed.containers, options.follow);
            }
            known.extend(file.services.into_keys());
        }
        let logs = record.directory.join("logs");
        if print_files(&logs, service, &mut known)? {
            report::note(&format!("run {}, ended: {logs}", record.id));
            return Ok(());
        }
    }
    known.sort();
    known.dedup();
    let hint = if known.is_empty() {
        "no run left a log; start one with: cargo xtask e2e <target>".to_owned()
    } else {
        format!("there are logs of: {}", known.join(", "))
    };
    Err(
        Failure::new(Exit::Usage, format!("no run has a log of `{service}`"))
            .hint(hint)
            .into(),
    )
}

fn from_engine(file: &RunFile, containers: &[String], follow: bool) -> Result<()> {
    // One stream can be followed; of more replicas it is the last.
    for (index, container) in containers.iter().enumerate() {
        let following = follow && index + 1 == containers.len();
        let mut invocation = file.engine().arg("logs");
        if following {
            invocation = invocation.arg("--follow");
        }
        let deadline = if following {
            FOLLOW_DEADLINE
        } else {
            PRINT_DEADLINE
        };
        let printed = process::stream(&invocation.arg(container), None, Echo::Through, deadline);
        let code = match printed {
            // That is how one stops to follow.
            Err(ProcessError::Interrupted { .. }) if following => return Ok(()),
            printed => printed?,
        };
        if code != 0 {
            let message = format!("the engine gave no log of {container}");
            return Err(Failure::new(Exit::Host, message).into());
        }
    }
    Ok(())
}

/// Prints the files of this service; notes the names of the others.
fn print_files(logs: &Utf8Path, service: &str, known: &mut Vec<String>) -> Result<bool> {
    let Ok(entries) = logs.read_dir_utf8() else {
        return Ok(false);
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().strip_suffix(".log")?.to_owned()))
        .collect();
    names.sort();
    let mut found = false;
    for name in names {
        if name == service || name.contains(&format!("-{service}-")) {
            let path = logs.join(format!("{name}.log"));
            let bytes = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
            print_data(&String::from_utf8_lossy(&bytes))?;
            found = true;
        } else {
            known.push(name);
        }
    }
    Ok(found)
}
