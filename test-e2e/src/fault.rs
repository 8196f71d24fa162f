//! Faults: a service or the database is stopped, frozen, killed or scaled, and brought back. Each is
//! written to `faults.jsonl` before it is made, so that the run expects it; any other restart
//! fails the run.

use std::thread;
use std::time::Duration;

use common::health::{DependencyState, Readiness};
use serde_json::json;

use crate::cluster::{Action, State};
use crate::database::{Database, Login};
use crate::http::{Api, forget_addresses};
use crate::link::{Link, Trouble};
use crate::poll::{Look, try_eventually};
use crate::requests::REQUESTS;
use crate::run::Run;
use crate::scenario::{append, now};

/// The port of a service that tells how it is.
const PROBES: &str = "probes";
const PROBES_PORT: u16 = 8081;
/// The usual port of the API.
const HTTP_PORT: u16 = 8080;

/// How long a service may take to be ready again.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a service may drain before the engine ends it by force. PostgreSQL waits for its
/// clients to leave, which a pool never does, so it gets less.
const DRAIN_SECONDS: u32 = 10;
const DRAIN_SECONDS_POSTGRES: u32 = 2;

/// A service that is down or frozen. It is brought back when this is dropped at the latest, so
/// that a failed test does not fail those after it.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault<'run> {
    run: &'run Run,
    service: String,
    remedy: Option<Remedy>,
}

#[derive(Clone, Copy, Debug)]
enum Remedy {
    Act(Action),
    OneReplica,
}

/// Ends the service's processes as a rollout would: SIGTERM, and time to drain.
#[track_caller]
pub fn stop<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    let drain_seconds = match service {
        "postgres" => DRAIN_SECONDS_POSTGRES,
        _ => DRAIN_SECONDS,
    };
    act(run, service, Action::Stop { drain_seconds });
    fault(run, service, Remedy::Act(Action::Start))
}

/// Ends the service's processes at once, as a crash would.
#[track_caller]
pub fn kill<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    act(run, service, Action::Kill);
    fault(run, service, Remedy::Act(Action::Start))
}

/// Freezes the service's processes: connections stay open, and nothing answers.
#[track_caller]
pub fn pause<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    act(run, service, Action::Pause);
    fault(run, service, Remedy::Act(Action::Unpause))
}

/// Gives the service so many replicas, all of them ready, in the place of one. Kubernetes alone can.
#[track_caller]
pub fn scale<'run>(run: &'run Run, service: &str, replicas: u32) -> Fault<'run> {
    if let Err(error) = try_scale(run, service, replicas) {
        panic!("{error}");
    }
    fault(run, service, Remedy::OneReplica)
}

/// A link that is in trouble. It is mended when this is dropped at the latest.
#[derive(Debug)]
#[must_use = "the link is mended when this is dropped"]
pub struct Troubled<'run> {
    run: &'run Run,
    links: Vec<Link>,
}

/// Has what a service sends to another, and gets from it, arrive so much later.
///
/// # Panics
/// When the cluster cannot.
#[track_caller]
pub fn slow<'run>(run: &'run Run, from: &str, to: &str, by: Duration) -> Troubled<'run> {
    trouble(run, from, to, Trouble::Slow(by))
}

/// Has nothing arrive that a service sends to another, nor what comes back.
///
/// # Panics
/// When the cluster cannot.
#[track_caller]
pub fn cut<'run>(run: &'run Run, from: &str, to: &str) -> Troubled<'run> {
    trouble(run, from, to, Trouble::Cut)
}

#[track_caller]
fn trouble<'run>(run: &'run Run, from: &str, to: &str, trouble: Trouble) -> Troubled<'run> {
    let cluster = run.cluster();
    let ports: Vec<u16> = run.service(to).ports.values().copied().collect();
    let mut links = Vec::new();
    for one in &run.service(from).containers {
        for other in &run.service(to).containers {
            let action = format!("{trouble:?} to {other}");
            let troubled = announce(run, from, one, &action)
                .and_then(|()| cluster.trouble(one, other, &ports, trouble));
            match troubled {
                Ok(link) => links.push(link),
                Err(error) => panic!("{error}"),
            }
        }
    }
    Troubled { run, links }
}

impl Troubled<'_> {
    /// Mends it, and waits until every service reaches again what it depends on.
    ///
    /// # Panics
    /// When that does not come.
    #[track_caller]
    pub fn end(mut self) {
        self.links.clear();
        if let Err(error) = wait_until_whole(self.run) {
            panic!("{error}");
        }
    }
}

/// Waits until every service has an answer from what it depends on, one from after this call where
/// that is the database.
fn wait_until_whole(run: &Run) -> Result<(), String> {
    wait_until_all_reach(run, READY_WITHIN)?;
    wait_until_datastorage_asks_it(run, READY_WITHIN)
}

/// Ends one replica of a service that was [scaled](scale), as a crash would, and does not wait until
/// there is another: see [`crate::cluster::Cluster::crash_one`].
///
/// # Panics
/// When none runs.
#[track_caller]
pub fn crash_one(run: &Run, service: &str, nth: usize) {
    let cluster = run.cluster();
    for container in &run.service(service).containers {
        let crashed = announce(run, service, container, "crash one")
            .and_then(|()| cluster.crash_one(container, nth));
        if let Err(error) = crashed {
            panic!("{error}");
        }
    }
}

fn fault<'run>(run: &'run Run, service: &str, remedy: Remedy) -> Fault<'run> {
    Fault {
        run,
        service: service.to_owned(),
        remedy: Some(remedy),
    }
}

impl Fault<'_> {
    /// Brings the service back and waits until it is ready, and every service reaches again what
    /// it depends on.
    ///
    /// # Panics
    /// When it does not come back.
    #[track_caller]
    pub fn end(mut self) {
        if let Err(error) = self.remedy() {
            panic!("{error}");
        }
    }

    fn remedy(&mut self) -> Result<(), String> {
        let Some(remedy) = self.remedy.take() else {
            return Ok(());
        };
        match remedy {
            Remedy::Act(action) => try_act(self.run, &self.service, action)?,
            Remedy::OneReplica => try_scale(self.run, &self.service, 1)?,
        }
        wait_until_ready(self.run, &self.service, READY_WITHIN)?;
        wait_until_all_reach(self.run, READY_WITHIN)?;
        if self.service == "postgres" {
            wait_until_datastorage_asks_it(self.run, READY_WITHIN)?;
        }
        Ok(())
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        match self.remedy() {
            Err(error) if thread::panicking() => eprintln!("{error}"),
            Err(error) => panic!("{error}"),
            Ok(()) => {}
        }
    }
}

#[track_caller]
fn act(run: &Run, service: &str, action: Action) {
    if let Err(error) = try_act(run, service, action) {
        panic!("{error}");
    }
}

fn try_act(run: &Run, service: &str, action: Action) -> Result<(), String> {
    let cluster = run.cluster();
    for container in &run.service(service).containers {
        announce(run, service, container, action.name())?;
        cluster.act(container, action)?;
        forget_addresses();
        if action == Action::Start {
            tell_started(run, service, container)?;
        }
    }
    Ok(())
}

fn try_scale(run: &Run, service: &str, replicas: u32) -> Result<(), String> {
    let cluster = run.cluster();
    for container in &run.service(service).containers {
        announce(run, service, container, "scale")?;
        cluster.scale(container, replicas)?;
        if replicas == 1 {
            tell_started(run, service, container)?;
        }
    }
    Ok(())
}

/// What is about to happen to a container.
fn announce(run: &Run, service: &str, container: &str, action: &str) -> Result<(), String> {
    let restarts = run.cluster().restarts(container)?;
    append(
        &run.run_directory.join("faults.jsonl"),
        &json!({"at": now(), "service": service, "container": container, "action": action, "restarts": restarts}),
    );
    Ok(())
}

/// Which process runs now.
fn tell_started(run: &Run, service: &str, container: &str) -> Result<(), String> {
    let started = run.cluster().started(container)?;
    append(
        &run.run_directory.join("faults.jsonl"),
        &json!({"at": now(), "service": service, "container": container, "action": "started", "restarts": 0, "started_at": started.at, "pod": started.pod, "restart_count": started.restart_count}),
    );
    Ok(())
}

/// With what code the process of each replica ended last.
///
/// # Panics
/// When the cluster does not know.
#[must_use]
#[track_caller]
pub fn exit_codes(run: &Run, service: &str) -> Vec<i32> {
    let cluster = run.cluster();
    let code = |container: &String| cluster.exit_code(container);
    let codes = run.service(service).containers.iter().map(code);
    match codes.collect() {
        Ok(codes) => codes,
        Err(error) => panic!("{error}"),
    }
}

/// Waits until every replica answers that it is ready; for PostgreSQL, until it answers a query.
///
/// # Errors
/// The last answer, when the deadline passes.
pub fn wait_until_ready(run: &Run, service: &str, within: Duration) -> Result<(), String> {
    for container in &run.service(service).containers {
        let last = match service {
            "postgres" => {
                try_eventually(within, || match Database::try_connect(run, Login::Owner) {
                    Ok(_) => Look::Seen(()),
                    Err(error) => Look::NotYet(error),
                })
            }
            _ => {
                let probes = Api::of_container(run, service, container, PROBES, PROBES_PORT);
                try_eventually(within, || match probes.try_get("/readyz") {
                    Ok(answer) if answer.status == 200 => Look::Seen(()),
                    Ok(answer) => Look::NotYet(answer.to_string()),
                    Err(error) => Look::NotYet(error.to_string()),
                })
            }
        };
        last.map_err(|last| {
            let state = run.cluster().states(&[container]);
            format!("{container}: not ready within {within:?}; last seen: {state:?}, {last}")
        })?;
    }
    Ok(())
}

/// Waits until every replica of DataStorage has answered from its database. That it reaches it may
/// be what it knew before: a question that was put to the database while it was away may still be
/// on its way, and fails later.
fn wait_until_datastorage_asks_it(run: &Run, within: Duration) -> Result<(), String> {
    let token = run.token("e2e-reader", "datastorage");
    for container in &run.service("datastorage").containers {
        let api = Api::of_container(run, "datastorage", container, "http", HTTP_PORT);
        let api = api.with_token(&token);
        let list = format!("{REQUESTS}?limit=1");
        try_eventually(within, || match api.try_get(&list) {
            Ok(answer) if answer.status == 200 => Look::Seen(()),
            Ok(answer) => Look::NotYet(answer.to_string()),
            Err(error) => Look::NotYet(error.to_string()),
        })
        .map_err(|last| format!("{container}: no answer within {within:?}: {last}"))?;
    }
    Ok(())
}

/// Waits until every replica of every service has an answer from everything that it depends on.
/// One that does not run is not asked: another fault is still open there. Readiness does not tell:
/// it stays when a dependency blinks.
fn wait_until_all_reach(run: &Run, within: Duration) -> Result<(), String> {
    let with_probes = run.services.iter().filter_map(|(name, service)| {
        let port = service.ports.get(PROBES)?;
        Some((name, &service.containers, *port))
    });
    let replicas: Vec<(&str, &str, u16)> = with_probes
        .flat_map(|(name, containers, port)| {
            containers
                .iter()
                .map(move |container| (name.as_str(), container.as_str(), port))
        })
        .collect();
    let containers: Vec<&str> = replicas
        .iter()
        .map(|(_, container, _)| *container)
        .collect();
    let states = run.cluster().states(&containers)?;
    let running = replicas
        .into_iter()
        .zip(states)
        .filter(|(_, state)| *state == State::Running);
    for ((service, container, port), _) in running {
        let probes = Api::of_container(run, service, container, PROBES, port);
        try_eventually(within, || reaching(&probes)).map_err(|last| {
            format!("{container}: does not reach what it needs within {within:?}: {last}")
        })?;
    }
    Ok(())
}

fn reaching(probes: &Api) -> Look<()> {
    let answer = match probes.try_get("/readyz") {
        Ok(answer) => answer,
        Err(error) => return Look::NotYet(error.to_string()),
    };
    let reached = |state: &DependencyState| *state == DependencyState::Reachable;
    match serde_json::from_str::<Readiness>(&answer.body) {
        Ok(readiness) if readiness.dependencies.values().all(reached) => Look::Seen(()),
        _ => Look::NotYet(answer.to_string()),
    }
}
