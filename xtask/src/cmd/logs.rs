//! `logs`: what a service of the newest run wrote, from the engine while its container is there,
//! else from the run's folder. To standard output, as it is.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;

use super::print_data;
use super::run_file::RunFile;
use crate::cli;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::process::{self, Echo, Invocation, ProcessError};
use crate::report;
use crate::run::{self, Record, Resources, State};
use crate::source::workspace::Workspace;

/// Longer than anybody reads a log; Ctrl-C ends it.
const FOLLOW_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
const PRINT_DEADLINE: Duration = Duration::from_secs(60);
/// How kubectl is told whose pods are meant.
const DEPLOYMENT: &str = "deployment/";

/// Prints the log of a service of the newest run that has one.
///
/// # Errors
/// When no run has a log of this service.
pub fn run(workspace: &Workspace, options: &cli::Logs) -> Result<()> {
    let service = options.service.as_str();
    let mut known = BTreeSet::new();
    for record in run::list(workspace)?.into_iter().rev() {
        if matches!(record.state, State::Running | State::Kept)
            && let Some((engine, containers)) = living(workspace, &record)?
        {
            let wanted: Vec<String> = containers
                .iter()
                .filter(|name| is_of(name, &record.id, service))
                .cloned()
                .collect();
            if !wanted.is_empty() {
                report::note(&format!("run {}", record.id));
                return from_engine(&engine, &wanted, options.follow);
            }
            known.extend(containers.iter().map(|name| service_of(name, &record.id)));
        }
        let logs = record.directory.join("logs");
        if print_files(&logs, &record.id, service, &mut known)? {
            report::note(&format!("run {}, ended: {logs}", record.id));
            return Ok(());
        }
    }
    let hint = if known.is_empty() {
        "no run left a log; start one with: cargo xtask e2e <target>".to_owned()
    } else {
        let known: Vec<String> = known.into_iter().collect();
        format!("there are logs of: {}", known.join(", "))
    };
    Err(
        Failure::new(Exit::Usage, format!("no run has a log of `{service}`"))
            .hint(hint)
            .into(),
    )
}

/// The engine of a run that has containers now, and their names.
fn living(workspace: &Workspace, record: &Record) -> Result<Option<(Invocation, Vec<String>)>> {
    if let Ok(Some(file)) = RunFile::read(&record.directory) {
        let services = file.services.values();
        let names = services.flat_map(|service| service.containers.iter().cloned());
        return Ok(Some(match &file.kubernetes {
            Some(kubernetes) => {
                let names = names.map(|name| format!("{DEPLOYMENT}{name}"));
                (kubernetes.kubectl(), names.collect())
            }
            None => (file.engine(), names.collect()),
        }));
    }
    // It is not deployed as a whole yet, or its file is damaged; what is there carries its label.
    let label = format!("{}={}", run::LABEL_RUN, record.id);
    for engine in Engine::all(&workspace.state_directory())? {
        let found = Resources::find(&engine, &label)?.containers;
        if !found.is_empty() {
            return Ok(Some((engine.invocation(), found)));
        }
    }
    Ok(None)
}

/// Whether a container of this run is the one that is meant, by its service or by its own name.
fn is_of(container: &str, run: &str, wanted: &str) -> bool {
    container == wanted || service_of(container, run) == wanted
}

/// `gateway` of `<run>-gateway-0`; on Kubernetes of `deployment/gateway`, and of a pod
/// `gateway-7f68bd4d48-xphn2`, which is named for its Deployment, its version and itself.
fn service_of(container: &str, run: &str) -> String {
    if let Some(name) = container.strip_prefix(DEPLOYMENT) {
        return name.to_owned();
    }
    let Some(name) = container.strip_prefix(run) else {
        let parts: Vec<&str> = container.rsplitn(3, '-').collect();
        return parts.get(2).map_or(container, |name| name).to_owned();
    };
    let name = name.trim_start_matches('-');
    match name.rsplit_once('-') {
        Some((service, replica)) if replica.bytes().all(|byte| byte.is_ascii_digit()) => {
            service.to_owned()
        }
        _ => name.to_owned(),
    }
}

fn from_engine(engine: &Invocation, containers: &[String], follow: bool) -> Result<()> {
    // One stream can be followed; of more replicas it is the last.
    for (index, container) in containers.iter().enumerate() {
        let following = follow && index + 1 == containers.len();
        let mut invocation = engine.clone().arg("logs");
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
fn print_files(
    logs: &Utf8Path,
    run: &str,
    service: &str,
    known: &mut BTreeSet<String>,
) -> Result<bool> {
    let Ok(entries) = logs.read_dir_utf8() else {
        return Ok(false);
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().strip_suffix(".log")?.to_owned()))
        .collect();
    names.sort();
    let mut found = false;
    for name in names {
        if is_of(&name, run, service) {
            let path = logs.join(format!("{name}.log"));
            let bytes = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
            print_data(&String::from_utf8_lossy(&bytes))?;
            found = true;
        } else {
            known.insert(service_of(&name, run));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{is_of, service_of};

    #[test]
    fn a_container_is_found_by_its_service_and_by_its_name() {
        let run = "gateway-20261124-000912-bb30";
        let container = format!("{run}-datastorage-0");
        assert_eq!(service_of(&container, run), "datastorage");
        assert!(is_of(&container, run, "datastorage") && is_of(&container, run, &container));
        assert!(!is_of(&container, run, "gateway"));
        assert!(is_of("deployment/gateway", run, "gateway"));
        assert!(is_of("gateway-7f68bd4d48-xphn2", run, "gateway"));
        assert!(!is_of("gateway-7f68bd4d48-xphn2", run, "datastorage"));
        let init = format!("{run}-postgres-0-init-initdb");
        assert_eq!(service_of(&init, run), "postgres-0-init-initdb");
    }
}
