//! Phase 5: what runs is what was built. The image ID of every container against the ID that was
//! built, the answer of every process against the source digest. Again after the tests, with
//! restarts that nobody asked for. Repairs nothing: it tells what differs.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::deploy::Deployment;
use crate::cluster::Cluster;
use crate::cluster::local::{Local, Planned};
use crate::digest::Digest;
use crate::engine::ContainerFacts;
use crate::exit::{Exit, Failure};
use crate::manifest::{Named as _, Seen};
use crate::poll::{self, Look};
use crate::report::{self, live};
use crate::run::Run;
use crate::threads::joined;

/// The name of the port where a service of ours tells its version.
const PROBES: &str = "probes";
/// How long a process that was ready may take to tell its version; one that a test has just
/// started again needs a moment.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
const ANSWER_INTERVAL: Duration = Duration::from_millis(50);

/// Proved.
#[derive(Debug)]
pub struct Attested {
    deployment: Deployment,
    evidence: Vec<Evidence>,
}

/// What was seen of one container.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// The service.
    pub service: String,
    /// The container.
    pub container: String,
    /// Its reference, as the engine tells it.
    pub reference: String,
    /// The ID of the image that it runs, `sha256:...`.
    pub image_id: String,
    /// What `/version` answered; absent for third parties and init containers.
    pub version: Option<serde_json::Value>,
    /// When its process was started, as the engine tells it.
    pub started_at: String,
    /// How often the engine has restarted it.
    pub restart_count: u64,
}

/// A line of `faults.jsonl`.
#[derive(Debug, Deserialize)]
struct Fault {
    container: String,
    action: String,
    /// How often the engine had restarted the container when the fault was made. A start sets the
    /// engine's own count back, so what was before it is only known from here.
    restarts: u64,
    /// With the action `started`: when the engine says that the new process was started.
    started_at: Option<String>,
}

/// What `faults.jsonl` says of one container.
#[derive(Debug, Default)]
struct Announced {
    /// When the process was started that the last fault has left.
    started_at: Option<String>,
    /// The most restarts by the engine that were seen before a fault.
    restarts_seen: u64,
}

impl Attested {
    /// What was deployed.
    #[must_use]
    pub const fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// What was seen.
    #[must_use]
    pub fn evidence(&self) -> &[Evidence] {
        &self.evidence
    }

    /// Looks again: same containers, same images, same answers, and no restart that the run's
    /// `faults.jsonl` did not announce. What was seen is told in `seen`, whatever it proves.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Attest`], with what differs.
    pub fn look_again(&self, run: &Run, cluster: &Cluster, seen: &mut Vec<Evidence>) -> Result<()> {
        let Cluster::Local(local) = cluster;
        let faults = faults(run)?;
        let (evidence, mut differences) = look(&self.deployment, local)?;
        for before in &self.evidence {
            let after = evidence
                .iter()
                .find(|now| now.container == before.container);
            differences.extend(after.and_then(|after| restarted(before, after, &faults)));
        }
        *seen = evidence;
        if differences.is_empty() {
            return Ok(());
        }
        Err(failure(
            "after the tests, what runs is not what was proved before them",
            &differences,
        ))
    }
}

/// Proves every container of the deployment. What was seen is told in `seen`, whatever it proves.
///
/// # Errors
/// [`crate::exit::Exit::Attest`], with what differs: what was built, what runs.
pub fn attest(
    deployment: Deployment,
    cluster: &Cluster,
    seen: &mut Vec<Evidence>,
) -> Result<Attested> {
    let Cluster::Local(local) = cluster;
    let (evidence, mut differences) = look(&deployment, local)?;
    for one in evidence.iter().filter(|one| one.restart_count > 0) {
        differences.push(format!(
            "{} was restarted {} times before anything was tested",
            one.container, one.restart_count
        ));
    }
    seen.clone_from(&evidence);
    if differences.is_empty() {
        return Ok(Attested {
            deployment,
            evidence,
        });
    }
    Err(failure("what runs is not what was built", &differences))
}

fn failure(what: &str, differences: &[String]) -> anyhow::Error {
    Failure::new(
        Exit::Attest,
        format!("{what}\n  {}", differences.join("\n  ")),
    )
    .into()
}

/// Looks at every container: what was seen, and what differs from what was built.
fn look(deployment: &Deployment, local: &Local) -> Result<(Vec<Evidence>, Vec<String>)> {
    let containers_count = local.containers().len() + local.inits().len();
    let _activity = live::begin("attesting", format!("{containers_count} containers"));
    let facts = local.facts()?;
    let mut differences = Vec::new();
    for (package, _) in deployment.images().iter() {
        let runs = |container: &Planned<Seen>| container.image().package() == Some(package);
        if !local.containers().iter().any(runs) {
            differences.push(format!("no container runs the image of {package}"));
        }
    }
    let seen: Vec<Result<Finding>> = thread::scope(|scope| {
        let looking: Vec<_> = local
            .containers()
            .iter()
            .map(|container| (container, Role::Stays))
            .chain(local.inits().iter().map(|init| (init, Role::Init)))
            .map(|(container, role)| {
                let facts = facts.get(&container.name);
                scope.spawn(move || look_at(deployment, container, role, facts))
            })
            .collect();
        looking.into_iter().map(joined).collect()
    });
    differences.extend(local.strangers()?.into_iter().map(|name| {
        format!("{name} is on the network of the run, and the run has not put it there")
    }));
    let mut evidence = Vec::new();
    for seen in seen {
        let seen = seen?;
        evidence.extend(seen.evidence);
        differences.extend(seen.differences);
    }
    Ok((evidence, differences))
}

/// What was seen of a container, if it is there, and what is wrong with it.
#[derive(Debug, Default)]
struct Finding {
    evidence: Option<Evidence>,
    differences: Vec<String>,
}

/// What a container is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It runs as long as the deployment.
    Stays,
    /// It ran to its end before that.
    Init,
}

fn look_at(
    deployment: &Deployment,
    container: &Planned<Seen>,
    role: Role,
    facts: Option<&ContainerFacts>,
) -> Result<Finding> {
    let name = &container.name;
    let mut seen = Finding::default();
    let Some(facts) = facts else {
        seen.differences.push(format!("{name} is gone"));
        return Ok(seen);
    };
    let image = container.image();
    if facts.image_id != image.image_id() {
        seen.differences.push(format!(
            "{name} runs image {}, built was {} ({})",
            facts.image_id,
            image.image_id(),
            image.reference()
        ));
    }
    if facts.reference != image.reference() {
        seen.differences.push(format!(
            "{name} was started from {}, not from {}",
            facts.reference,
            image.reference()
        ));
    }
    let mut version = None;
    if role == Role::Init {
        if facts.status != "exited" || facts.exit_code != 0 {
            seen.differences.push(format!(
                "{name} should have ended with 0: {}",
                facts.state()
            ));
        }
    } else if facts.status != "running" {
        seen.differences
            .push(format!("{name} is {}", facts.state()));
    } else if let Some(package) = image.package() {
        let built = deployment
            .images()
            .get(package)
            .with_context(|| format!("{package} has no image in this run"))?
            .built();
        match ask_version(container, facts)? {
            Ok(answer) => {
                let source = built.source();
                seen.differences
                    .extend(lies(name, &answer, package.as_str(), source));
                version = Some(answer);
            }
            Err(last) => seen
                .differences
                .push(format!("{name} does not tell its version: {last}")),
        }
    }
    seen.evidence = Some(Evidence {
        service: container.service.clone(),
        container: name.clone(),
        reference: facts.reference.clone(),
        image_id: facts.image_id.clone(),
        version,
        started_at: facts.started_at.clone(),
        restart_count: facts.restart_count,
    });
    Ok(seen)
}

/// Where the answer of a process is not what was built.
fn lies(name: &str, answer: &serde_json::Value, package: &str, source: Digest) -> Vec<String> {
    let expected = [
        ("source_digest", source.to_string()),
        ("package", package.to_owned()),
    ];
    expected
        .into_iter()
        .filter_map(|(field, built)| {
            let told = answer[field].as_str().unwrap_or("nothing");
            (told != built)
                .then(|| format!("the process in {name} tells {field} {told}, built was {built}"))
        })
        .collect()
}

/// What `/version` answers, or the last thing that stood in the way.
fn ask_version(
    container: &Planned<Seen>,
    facts: &ContainerFacts,
) -> Result<Result<serde_json::Value, String>> {
    let published = container
        .ports
        .get(PROBES)
        .map(|inside| facts.ports.get(inside));
    let Some(Some(published)) = published else {
        return Ok(Err(format!("no port named `{PROBES}` is published")));
    };
    let url = format!("http://127.0.0.1:{published}/version");
    let asked = poll::until("version", ANSWER_DEADLINE, ANSWER_INTERVAL, || {
        let last = match minreq::get(&url).with_timeout(2).send() {
            Ok(response) if response.status_code == 200 => {
                let text = response.as_str().unwrap_or_default();
                let answer = serde_json::from_str(text);
                return Ok(Look::Found(
                    answer.map_err(|error| format!("/version answers no JSON: {error}")),
                ));
            }
            Ok(response) => format!("/version answers {}", response.status_code),
            Err(error) => format!("/version does not answer: {error}"),
        };
        Ok(Look::NotYet(last))
    });
    match asked {
        Ok(answer) => Ok(answer),
        Err(error) if report::is_signal(&error) => Err(error),
        Err(late) => Ok(Err(late.to_string())),
    }
}

/// What the tests announced before they did it, by container.
fn faults(run: &Run) -> Result<BTreeMap<String, Announced>> {
    let path = run.directory().join("faults.jsonl");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
    };
    announced(&text).with_context(|| format!("cannot read {path}"))
}

fn announced(lines: &str) -> Result<BTreeMap<String, Announced>> {
    let mut all = BTreeMap::<String, Announced>::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let fault: Fault = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let announced = all.entry(fault.container).or_default();
        announced.restarts_seen = announced.restarts_seen.max(fault.restarts);
        if fault.action == "started" {
            announced.started_at = fault.started_at;
        }
    }
    Ok(all)
}

/// What is wrong when a container's process is neither the one that was proved nor the one that the
/// last announced fault has left. No fault of ours makes the engine itself start one again.
fn restarted(
    before: &Evidence,
    after: &Evidence,
    faults: &BTreeMap<String, Announced>,
) -> Option<String> {
    let none = Announced::default();
    let announced = faults.get(&before.container).unwrap_or(&none);
    let restarts = after.restart_count.max(announced.restarts_seen);
    if restarts > 0 {
        return Some(format!(
            "{} was restarted by the engine {restarts} times, and no fault of that was announced: its log says why its process ended",
            after.container
        ));
    }
    let expected = announced.started_at.as_ref().unwrap_or(&before.started_at);
    (after.started_at != *expected).then(|| {
        format!(
            "{} has a process since {}, expected was the one since {expected}, and no fault of that was announced",
            after.container, after.started_at
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{Evidence, announced, restarted};

    fn evidence(started_at: &str, restart_count: u64) -> Evidence {
        Evidence {
            service: "a".to_owned(),
            container: "a-0".to_owned(),
            reference: String::new(),
            image_id: String::new(),
            version: None,
            started_at: started_at.to_owned(),
            restart_count,
        }
    }

    /// The start of the first process is "1"; faults are their action, the restarts that were seen
    /// before it, and the start of the process that they left.
    #[track_caller]
    fn check(
        faults: &[(&str, u64, Option<&str>)],
        started_at: &str,
        restart_count: u64,
        fine: bool,
    ) {
        let lines: String = faults
            .iter()
            .map(|(action, restarts, started_at)| {
                let line = serde_json::json!({
                    "container": "a-0", "action": action, "restarts": restarts,
                    "started_at": started_at,
                });
                format!("{line}\n")
            })
            .collect();
        let found = restarted(
            &evidence("1", 0),
            &evidence(started_at, restart_count),
            &announced(&lines).unwrap(),
        );
        assert_eq!(found.is_none(), fine, "{found:?}");
    }

    #[test]
    fn only_announced_processes_pass() {
        check(&[], "1", 0, true);
        check(&[], "2", 0, false);
        check(&[], "2", 1, false);
        let paused = [("pause", 0, None), ("unpause", 0, None)];
        check(&paused, "1", 0, true);
        check(&paused, "2", 0, false);
        let killed = [
            ("kill", 0, None),
            ("start", 0, None),
            ("started", 0, Some("2")),
        ];
        check(&killed, "2", 0, true);
        check(&killed, "2", 1, false);
        check(&killed, "3", 0, false);
        check(&killed, "1", 0, false);
    }

    #[test]
    fn a_restart_before_an_announced_start_is_not_hidden_by_it() {
        let stopped = [
            ("stop", 1, None),
            ("start", 0, None),
            ("started", 0, Some("2")),
        ];
        check(&stopped, "2", 0, false);
    }
}
