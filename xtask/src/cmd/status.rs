//! `status`: runs, containers and disk of this checkout, and how to reach what was kept. It looks
//! and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::Serialize;

use super::print_data;
use super::run_file::RunFile;
use crate::cli;
use crate::cluster::kind::kept;
use crate::engine::{Engine, ask};
use crate::report::{self, table};
use crate::run::{self, LABEL_CHECKOUT, Record, Resources, State};
use crate::source::workspace::Workspace;

/// How many ended runs people see; `--json` has all.
const ENDED_MAX: usize = 10;

#[derive(Debug, Serialize)]
struct Status {
    runs: Vec<RunStatus>,
    containers: Vec<Container>,
    /// Why the containers could not be listed.
    engine_error: Option<String>,
    /// Bytes on disk by folder of the state directory.
    disk_bytes: BTreeMap<String, u64>,
    state_directory: Utf8PathBuf,
}

#[derive(Debug, Serialize)]
struct RunStatus {
    #[serde(flatten)]
    record: Record,
    /// It owns a cluster that runs of its target use again.
    is_cluster: bool,
    /// When it was begun, if its ID tells.
    begun_at: Option<Timestamp>,
    /// How it ended, as its receipt tells it.
    verdict: Option<String>,
    services: BTreeMap<String, ServiceStatus>,
    psql: Vec<String>,
    /// On Kubernetes: the command line up to what is asked.
    kubectl: Option<String>,
    /// What leads to each Deployment where no port of the host does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    port_forwards: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ServiceStatus {
    containers: Vec<ContainerPorts>,
    /// Token file by subject.
    tokens: BTreeMap<String, Utf8PathBuf>,
}

#[derive(Debug, Serialize)]
struct ContainerPorts {
    name: String,
    /// Address by the name of the port; those that are not published now are missing.
    addresses: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Container {
    name: String,
    state: String,
}

/// Prints it, for people or as JSON.
///
/// # Errors
/// When the runs cannot be read.
pub fn run(workspace: &Workspace, options: &cli::Status) -> Result<()> {
    let status = look(workspace)?;
    if options.json {
        return print_data(&format!("{}\n", serde_json::to_string_pretty(&status)?));
    }
    print_data(&text(&status, Timestamp::now()))
}

fn look(workspace: &Workspace) -> Result<Status> {
    let state_directory = workspace.state_directory();
    let runs = run::list(workspace)?
        .into_iter()
        .map(|record| run_status(workspace, record))
        .collect::<Result<_>>()?;
    let (containers, engine_error) = match containers(workspace, &state_directory) {
        Ok(containers) => (containers, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    Ok(Status {
        runs,
        containers,
        engine_error,
        disk_bytes: disk(&state_directory)?,
        state_directory,
    })
}

fn run_status(workspace: &Workspace, record: Record) -> Result<RunStatus> {
    let mut services = BTreeMap::new();
    let mut psql = Vec::new();
    let reachable = matches!(record.state, State::Kept | State::Running);
    let file = match RunFile::read(&record.directory) {
        Ok(file) => file,
        // The other runs are told all the same.
        Err(error) => {
            report::note(&format!("{error:#}; `cargo xtask clean` removes the run"));
            None
        }
    };
    let (mut kubectl, mut port_forwards) = (None, Vec::new());
    if let Some(file) = file.filter(|_| reachable) {
        let kubernetes = file.kubernetes.as_ref();
        kubectl = kubernetes.map(|kubernetes| kubernetes.kubectl().to_string());
        for (name, service) in &file.services {
            let mut containers = Vec::new();
            for container in &service.containers {
                let ports: Vec<u16> = service.ports.values().copied().collect();
                let forward = kubernetes.and_then(|one| one.port_forward(container, &ports));
                port_forwards.extend(forward.map(|forward| forward.to_string()));
                let mut addresses = BTreeMap::new();
                for port in service.ports.keys() {
                    if let Some(address) = file.published(service, container, port)? {
                        addresses.insert(port.clone(), address);
                    }
                }
                containers.push(ContainerPorts {
                    name: container.clone(),
                    addresses,
                });
            }
            psql.extend(psql_lines(workspace, &file, name, &containers)?);
            let tokens = file.tokens(name).into_iter().collect();
            services.insert(name.clone(), ServiceStatus { containers, tokens });
        }
    }
    Ok(RunStatus {
        verdict: verdict(&record.directory),
        begun_at: run::begun_at(&record.id),
        is_cluster: kept::is_owner(&record.directory) && reachable,
        record,
        services,
        psql,
        kubectl,
        port_forwards,
    })
}

fn verdict(run_directory: &Utf8Path) -> Option<String> {
    let receipt = fs::read(run_directory.join("receipt.json")).ok()?;
    let receipt: serde_json::Value = serde_json::from_slice(&receipt).ok()?;
    receipt["verdict"].as_str().map(str::to_owned)
}

/// One line for each account of the database that the manifests name and the run has a password of.
fn psql_lines(
    workspace: &Workspace,
    file: &RunFile,
    service: &str,
    containers: &[ContainerPorts],
) -> Result<Vec<String>> {
    let address = containers
        .first()
        .and_then(|container| container.addresses.get("postgres"));
    let Some((host, port)) = address.and_then(|address| address.rsplit_once(':')) else {
        return Ok(Vec::new());
    };
    let mut lines = Vec::new();
    for (user, database) in accounts(&workspace.root.join("deploy"), service)? {
        let password = file.passwords_directory.join(user.replace('_', "-"));
        if password.is_file() {
            lines.push(format!(
                "PGPASSWORD=$(cat {password}) psql -h {host} -p {port} -U {user} {database}"
            ));
        }
    }
    Ok(lines)
}

/// User and database of every `postgres://user@service:port/database` in the manifests.
fn accounts(deploy: &Utf8Path, service: &str) -> Result<BTreeSet<(String, String)>> {
    let mut accounts = BTreeSet::new();
    let entries = deploy
        .read_dir_utf8()
        .with_context(|| format!("cannot read {deploy}"))?;
    for entry in entries {
        let path = entry?.into_path();
        if path.extension() != Some("yaml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        accounts.extend(text.split("postgres://").skip(1).filter_map(|rest| {
            let url = rest.split(['"', '\'', ' ', '\n']).next()?;
            let (user, place) = url.split_once('@')?;
            let (host, database) = place.split_once('/')?;
            let host = host.split(':').next()?;
            (host == service).then(|| (user.to_owned(), database.to_owned()))
        }));
    }
    Ok(accounts)
}

fn containers(workspace: &Workspace, state_directory: &Utf8Path) -> Result<Vec<Container>> {
    let label = format!("{LABEL_CHECKOUT}={}", run::checkout(&workspace.root));
    let mut containers = Vec::new();
    for engine in Engine::all(state_directory)? {
        // Nodes of kind among them, which have no label of ours.
        let ours = Resources::find(&engine, &label)?.containers;
        let invocation =
            engine
                .invocation()
                .args(["ps", "--all", "--format", "{{.Names}}\t{{.Status}}"]);
        let listed = ask::capture(&invocation)?.stdout;
        containers.extend(listed.lines().filter_map(|line| {
            let (name, state) = line.split_once('\t')?;
            ours.iter().any(|one| one == name).then(|| Container {
                name: name.to_owned(),
                state: state.to_owned(),
            })
        }));
    }
    Ok(containers)
}

/// Bytes on disk below each folder of the state directory; a file with two names counts once.
fn disk(state_directory: &Utf8Path) -> Result<BTreeMap<String, u64>> {
    let mut seen = BTreeSet::new();
    let mut sizes = BTreeMap::new();
    let Ok(entries) = state_directory.read_dir_utf8() else {
        return Ok(sizes);
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {state_directory}"))?;
        if entry.file_type()?.is_dir() {
            let size = size_bytes(entry.path(), &mut seen);
            sizes.insert(entry.file_name().to_owned(), size);
        }
    }
    Ok(sizes)
}

/// What vanishes while it is looked at counts nothing.
fn size_bytes(directory: &Utf8Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let mut folders = vec![directory.to_owned()];
    let mut total_bytes = 0;
    while let Some(folder) = folders.pop() {
        let Ok(entries) = folder.read_dir_utf8() else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() {
                folders.push(entry.into_path());
            } else if seen.insert((metadata.dev(), metadata.ino())) {
                total_bytes += metadata.blocks() * 512;
            }
        }
    }
    total_bytes
}

fn text(status: &Status, now: Timestamp) -> String {
    let mut text = String::new();
    let ended = |run: &&RunStatus| run.record.state == State::Ended;
    let ended_count = status.runs.iter().filter(ended).count();
    if ended_count > ENDED_MAX {
        let older = ended_count - ENDED_MAX;
        text.push_str(&format!(
            "{older} older runs have ended; `clean` removes their folders\n"
        ));
    }
    let mut to_skip = ended_count.saturating_sub(ENDED_MAX);
    for run in &status.runs {
        if ended(&run) && to_skip > 0 {
            to_skip -= 1;
            continue;
        }
        let state = format!("{:?}", run.record.state).to_lowercase();
        let verdict = run
            .verdict
            .as_deref()
            .filter(|_| run.record.state != State::Running);
        text.push_str(&format!(
            "run  {}  {state}{}{}{}\n     {}\n",
            run.record.id,
            verdict.map_or_else(String::new, |verdict| format!(", {verdict}")),
            run.begun_at.map_or_else(String::new, |begun| {
                format!(", begun {} ago", age(now.duration_since(begun).as_secs()))
            }),
            match run.is_cluster {
                true => ", a cluster of kind for --reuse",
                false => "",
            },
            run.record.directory
        ));
        for (name, service) in &run.services {
            for container in &service.containers {
                let mut ports: Vec<String> = container
                    .addresses
                    .iter()
                    .map(|(port, address)| match port.as_str() {
                        "http" | "probes" | "metrics" => format!("{port} http://{address}"),
                        _ => format!("{port} {address}"),
                    })
                    .collect();
                ports.sort();
                text.push_str(&format!("     {name}  {}\n", ports.join("  ")));
            }
            for (subject, file) in &service.tokens {
                text.push_str(&format!("       token of {subject}: {file}\n"));
            }
        }
        let lines = run.psql.iter().chain(&run.kubectl);
        for line in lines.chain(&run.port_forwards) {
            text.push_str(&format!("     {line}\n"));
        }
    }
    if status.runs.is_empty() {
        text.push_str("no runs\n");
    }
    text.push_str(&containers_text(status));
    text.push_str(&disk_text(status));
    text
}

/// As exact as a person wants it. A clock that was set back makes nothing younger than it is.
fn age(seconds: i64) -> String {
    const UNITS: [(i64, i64, &str); 4] = [
        (120, 1, "s"),
        (120 * 60, 60, "min"),
        (48 * 3600, 3600, "h"),
        (i64::MAX, 24 * 3600, "days"),
    ];
    let seconds = seconds.max(0);
    let unit = UNITS.iter().find(|(below, ..)| seconds < *below);
    unit.map_or_else(String::new, |(_, unit, name)| {
        format!("{} {name}", seconds / unit)
    })
}

fn containers_text(status: &Status) -> String {
    if let Some(error) = &status.engine_error {
        return format!("containers cannot be listed: {error}\n");
    }
    if status.containers.is_empty() {
        return "no containers\n".to_owned();
    }
    let mut rows = vec![vec!["container".to_owned(), "state".to_owned()]];
    rows.extend(
        status
            .containers
            .iter()
            .map(|container| vec![container.name.clone(), container.state.clone()]),
    );
    table::layout(&rows)
}

fn disk_text(status: &Status) -> String {
    let sizes: Vec<String> = status
        .disk_bytes
        .iter()
        .map(|(name, bytes)| format!("{name} {} MB", bytes / 1_000_000))
        .collect();
    let total: u64 = status.disk_bytes.values().sum();
    format!(
        "disk {} MB in {} ({})\n",
        total / 1_000_000,
        status.state_directory,
        sizes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{RunStatus, Status, age, text};
    use crate::run::{self, Record, State};

    #[test]
    fn an_age_is_told_in_the_unit_that_suits_it() {
        let told = [-5, 0, 119, 120, 7199, 7200, 172_799, 172_800].map(age);
        let expected = [
            "0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_run_is_told_with_its_age() {
        let run = |id: &str| RunStatus {
            record: Record {
                id: id.to_owned(),
                directory: "runs".into(),
                state: State::Kept,
                checkout: None,
            },
            begun_at: run::begun_at(id),
            is_cluster: id == "odd",
            verdict: Some("green".to_owned()),
            services: BTreeMap::new(),
            psql: Vec::new(),
            kubectl: None,
            port_forwards: Vec::new(),
        };
        let status = Status {
            runs: vec![run("my-gateway-20261125-160000-4f2a"), run("odd")],
            containers: Vec::new(),
            engine_error: None,
            disk_bytes: BTreeMap::new(),
            state_directory: "state".into(),
        };
        let text = text(&status, "2026-11-25T16:12:34Z".parse().unwrap());
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("run"))
            .collect();
        let expected = [
            "run  my-gateway-20261125-160000-4f2a  kept, green, begun 12 min ago",
            "run  odd  kept, green, a cluster of kind for --reuse",
        ];
        assert_eq!(lines, expected);
    }
}
