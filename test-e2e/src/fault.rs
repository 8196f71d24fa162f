//! Faults: a service or the database is stopped, frozen or killed, and brought back. Each is
//! written to `faults.jsonl` before it is made, so that the run expects it; any other restart
//! fails the run.

use std::thread;
use std::time::Duration;

use common::health::{DependencyState, Readiness};
use serde_json::json;

use crate::database::{Database, Login};
use crate::engine::State;
use crate::http::{Api, forget_addresses};
use crate::poll::{Look, try_eventually};
use crate::run::Run;
use crate::scenario::{append, now};

/// The port of a service that tells how it is.
const PROBES: &str = "probes";

/// How long a service may take to be ready again.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long the engine may take to do what it is told.
const ACTED_WITHIN: Duration = Duration::from_secs(15);
/// How long a service may drain before the engine ends it by force. PostgreSQL waits for its
/// clients to leave, which a pool never does, so it gets less.
const DRAIN_SECONDS: &str = "10";
const DRAIN_SECONDS_POSTGRES: &str = "2";

/// A service that is down or frozen. It is brought back when this is dropped at the latest, so
/// that a failed test does not fail those after it.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Fault<'run> {
    run: &'run Run,
    service: String,
    remedy: Option<&'static str>,
}

/// Ends the service's processes as a rollout would: SIGTERM, and time to drain.
#[track_caller]
pub fn stop<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    let seconds = match service {
        "postgres" => DRAIN_SECONDS_POSTGRES,
        _ => DRAIN_SECONDS,
    };
    act(run, service, "stop", &["stop", "-t", seconds]);
    fault(run, service, "start")
}

/// Ends the service's processes at once, as a crash would.
#[track_caller]
pub fn kill<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    act(run, service, "kill", &["kill"]);
    fault(run, service, "start")
}

/// Freezes the service's processes: connections stay open, and nothing answers.
#[track_caller]
pub fn pause<'run>(run: &'run Run, service: &str) -> Fault<'run> {
    act(run, service, "pause", &["pause"]);
    fault(run, service, "unpause")
}

fn fault<'run>(run: &'run Run, service: &str, remedy: &'static str) -> Fault<'run> {
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
        try_act(self.run, &self.service, remedy, &[remedy])?;
        wait_until_ready(self.run, &self.service, READY_WITHIN)?;
        for service in self.run.services.keys() {
            wait_until_reaching(self.run, service, READY_WITHIN)?;
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
fn act(run: &Run, service: &str, action: &str, arguments: &[&str]) {
    if let Err(error) = try_act(run, service, action, arguments) {
        panic!("{error}");
    }
}

fn try_act(run: &Run, service: &str, action: &str, arguments: &[&str]) -> Result<(), String> {
    for container in &run.service(service).containers {
        let restarts = run.engine.restarts(container)?;
        append(
            &run.run_directory.join("faults.jsonl"),
            &json!({"at": now(), "service": service, "container": container, "action": action, "restarts": restarts}),
        );
        let mut command = arguments.to_vec();
        command.push(container);
        let wanted = match action {
            "stop" | "kill" => State::Stopped,
            "pause" => State::Paused,
            _ => State::Running,
        };
        let mut said = run.engine.run(&command);
        // The engine sees the effect of a signal in its own time, and holds the ports of a process
        // that has just ended for a moment more.
        try_eventually(ACTED_WITHIN, || match run.engine.state(container) {
            Ok(state) if state == wanted => Look::Seen(()),
            state => {
                if wanted == State::Running && said.is_err() {
                    said = run.engine.run(&command);
                }
                Look::NotYet(format!("{state:?} after {said:?}"))
            }
        })
        .map_err(|last| format!("{container} cannot be told to {action}: {last}"))?;
        forget_addresses();
        if action == "start" {
            let started_at = run.engine.started_at(container)?;
            append(
                &run.run_directory.join("faults.jsonl"),
                &json!({"at": now(), "service": service, "container": container, "action": "started", "restarts": 0, "started_at": started_at}),
            );
        }
    }
    Ok(())
}

/// With what code the process of each replica ended last.
///
/// # Panics
/// When the engine does not know.
#[must_use]
#[track_caller]
pub fn exit_codes(run: &Run, service: &str) -> Vec<i32> {
    let code = |container: &String| run.engine.exit_code(container);
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
    let deployed = run.service(service);
    let ready = |container: &str| -> Look<()> {
        match run.engine.state(container) {
            Ok(State::Running) => {}
            other => return Look::NotYet(format!("{other:?}")),
        }
        if service == "postgres" {
            return match Database::try_connect(run, Login::Owner) {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(error),
            };
        }
        let port = deployed.ports.get(PROBES).copied().unwrap_or(8081);
        match Api::of_container(&run.engine, container, port).try_get("/readyz") {
            Ok(answer) if answer.status == 200 => Look::Seen(()),
            Ok(answer) => Look::NotYet(answer.to_string()),
            Err(error) => Look::NotYet(error.to_string()),
        }
    };
    for container in &deployed.containers {
        try_eventually(within, || ready(container)).map_err(|last| {
            format!("{container}: not ready within {within:?}; last seen: {last}")
        })?;
    }
    Ok(())
}

/// Waits until every replica has an answer from everything that it depends on. One that does not
/// run is not asked: another fault is still open there. Readiness does not tell: it stays when a
/// dependency blinks.
fn wait_until_reaching(run: &Run, service: &str, within: Duration) -> Result<(), String> {
    let deployed = run.service(service);
    let Some(&port) = deployed.ports.get(PROBES) else {
        return Ok(());
    };
    let reaching = |container: &str| -> Look<()> {
        match run.engine.state(container) {
            Ok(State::Running) => {}
            _ => return Look::Seen(()),
        }
        let answer = match Api::of_container(&run.engine, container, port).try_get("/readyz") {
            Ok(answer) => answer,
            Err(error) => return Look::NotYet(error.to_string()),
        };
        let reached = |state: &DependencyState| *state == DependencyState::Reachable;
        match serde_json::from_str::<Readiness>(&answer.body) {
            Ok(readiness) if readiness.dependencies.values().all(reached) => Look::Seen(()),
            _ => Look::NotYet(answer.to_string()),
        }
    };
    for container in &deployed.containers {
        try_eventually(within, || reaching(container)).map_err(|last| {
            format!("{container}: does not reach what it needs within {within:?}: {last}")
        })?;
    }
    Ok(())
}
