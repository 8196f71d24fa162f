//! Phase 5: what runs is what was built. The image ID of every container against the ID that was
//! built, the answer of every process against the source digest. Again after the tests, with
//! restarts that nobody asked for. Repairs nothing: it tells what differs.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::deploy::Deployment;
use crate::cluster::Cluster;
use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use crate::manifest::Seen;
use crate::poll::{self, Look};
use crate::report;
use crate::run::Run;
use crate::source::workspace::PackageName;

mod kubernetes;
mod local;
mod witness;

pub use self::witness::Witness;

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
    /// The container; on Kubernetes the Deployment, and of an init container its name as well.
    pub container: String,
    /// On Kubernetes: the pod that stood for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
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
    /// With the action `started`, on Kubernetes: how often the pod that stayed there had started its
    /// container again by then.
    #[serde(default)]
    restart_count: u64,
}

/// What `faults.jsonl` says of one container.
#[derive(Debug, Default)]
struct Announced {
    /// When the process was started that the last fault has left.
    started_at: Option<String>,
    /// The most restarts by the engine that were seen before a fault.
    restarts_seen: u64,
    /// How many of those that are counted now are the work of faults.
    restarts_made: u64,
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

    /// Watches what comes and goes from now on, where anything can: the engine's own containers stay,
    /// pods do not.
    ///
    /// # Errors
    /// When the cluster cannot be watched.
    pub fn watch(&self, cluster: &Cluster) -> Result<Option<Witness>> {
        match cluster {
            Cluster::Local(_) => Ok(None),
            Cluster::Kind(kind) => Witness::begin(kind.namespace()).map(Some),
            Cluster::Context(context) => Witness::begin(context.namespace()).map(Some),
        }
    }

    /// The names that mean another image now, in the listing of the cluster itself: the next pod would
    /// run that.
    fn renamed(&self, cluster: &Cluster) -> Result<Vec<String>> {
        let images = self.deployment.images().iter();
        let built: BTreeMap<String, String> = images
            .map(|(_, image)| {
                let built = image.built();
                (built.reference().to_string(), built.image_id().oci())
            })
            .collect();
        let names: Vec<&str> = built.keys().map(String::as_str).collect();
        let listed = cluster.images(&names)?;
        let other = listed
            .iter()
            .filter(|(name, listed)| built.get(*name) != Some(&listed.id));
        let told = other.map(|(name, listed)| {
            let built = built.get(name).map_or("nothing", String::as_str);
            format!("{name} means image {} now, built was {built}", listed.id)
        });
        Ok(told.collect())
    }

    /// Looks again: same containers, same images, same answers, and no restart that the run's
    /// `faults.jsonl` did not announce. What was seen is told in `seen`, whatever it proves.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Attest`], with what differs.
    pub fn look_again(
        &self,
        run: &Run,
        cluster: &Cluster,
        witness: Option<Witness>,
        seen: &mut Vec<Evidence>,
    ) -> Result<()> {
        let faults = faults(run)?;
        let (evidence, mut differences) = look(&self.deployment, cluster)?;
        if let Some(witness) = witness {
            differences.extend(witness.ask()?);
        }
        differences.extend(self.renamed(cluster)?);
        differences.extend(changed(&self.evidence, &evidence, &faults));
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
    let (evidence, mut differences) = look(&deployment, cluster)?;
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
fn look(deployment: &Deployment, cluster: &Cluster) -> Result<(Vec<Evidence>, Vec<String>)> {
    match cluster {
        Cluster::Local(local) => local::look(deployment, local),
        Cluster::Kind(kind) => kubernetes::look(deployment, kind.namespace()),
        Cluster::Context(context) => kubernetes::look(deployment, context.namespace()),
    }
}

/// Where no container runs an image that was built.
fn unused<'a>(
    deployment: &Deployment,
    runs: impl Iterator<Item = &'a Seen> + Clone,
) -> Vec<String> {
    let built = deployment.images().iter();
    let missing =
        built.filter(|(package, _)| !runs.clone().any(|seen| seen.package() == Some(package)));
    missing
        .map(|(package, _)| format!("no container runs the image of {package}"))
        .collect()
}

/// What was seen of a container, if it is there, and what is wrong with it.
#[derive(Debug, Default)]
struct Finding {
    evidence: Option<Evidence>,
    differences: Vec<String>,
}

/// All that was found, together.
fn gathered(found: Vec<Finding>, mut differences: Vec<String>) -> (Vec<Evidence>, Vec<String>) {
    let mut evidence = Vec::new();
    for one in found {
        evidence.extend(one.evidence);
        differences.extend(one.differences);
    }
    (evidence, differences)
}

/// Asks a process of ours for its version: the answer, or nothing, and what is wrong with it. `ask`
/// puts the question once, and gives the last thing that stood in the way.
fn ask_version(
    deployment: &Deployment,
    name: &str,
    package: &PackageName,
    mut ask: impl FnMut() -> Result<String, String>,
) -> Result<(Option<serde_json::Value>, Vec<String>)> {
    let built = deployment
        .images()
        .get(package)
        .with_context(|| format!("{package} has no image in this run"))?
        .built();
    let asked = poll::until("version", ANSWER_DEADLINE, ANSWER_INTERVAL, || {
        Ok(match ask() {
            Ok(text) => Look::Found(
                serde_json::from_str(&text)
                    .map_err(|error| format!("/version answers no JSON: {error}")),
            ),
            Err(last) => Look::NotYet(last),
        })
    });
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) if report::is_signal(&error) => return Err(error),
        Err(late) => Err(late.to_string()),
    };
    Ok(match answer {
        Ok(answer) => {
            let lies = lies(name, &answer, package.as_str(), built.source());
            (Some(answer), lies)
        }
        Err(last) => (
            None,
            vec![format!("{name} does not tell its version: {last}")],
        ),
    })
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
            announced.restarts_made = fault.restart_count;
        }
    }
    Ok(all)
}

/// What has changed between the two looks, and no fault announced it. A container may stand for
/// several pods, each of which is held against itself; a pod that takes the place of another is the
/// work of a fault.
fn changed(
    before: &[Evidence],
    after: &[Evidence],
    faults: &BTreeMap<String, Announced>,
) -> Vec<String> {
    let is_same = |one: &Evidence, other: &Evidence| {
        (&one.container, &one.pod) == (&other.container, &other.pod)
    };
    let is_announced = |one: &Evidence| {
        let announced = faults.get(&one.container);
        announced.is_some_and(|announced| announced.started_at.is_some())
    };
    let mut differences = Vec::new();
    for now in after {
        let mut of_it = before.iter().filter(|one| one.container == now.container);
        match before.iter().find(|one| is_same(one, now)) {
            Some(before) => differences.extend(restarted(before, now, faults)),
            None if is_announced(now) => {
                let replaced = of_it.next();
                differences.extend(replaced.and_then(|before| restarted(before, now, faults)));
            }
            // What ran before its pod's own containers came with that.
            None if now.started_at.is_empty() => {}
            None => differences.push(format!(
                "pod {} of {} was not there before the tests, and no fault of that was announced",
                now.pod.as_deref().unwrap_or_default(),
                now.container
            )),
        }
    }
    let gone = before.iter().filter(|one| {
        !one.started_at.is_empty()
            && !is_announced(one)
            && !after.iter().any(|now| is_same(one, now))
            // Where nothing is, it is told already.
            && after.iter().any(|now| now.container == one.container)
    });
    differences.extend(gone.map(|one| {
        format!(
            "pod {} of {} has gone, and no fault of that was announced",
            one.pod.as_deref().unwrap_or_default(),
            one.container
        )
    }));
    differences
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
    let counted = after.restart_count.saturating_sub(announced.restarts_made);
    let restarts = counted.max(announced.restarts_seen);
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
    use super::{Evidence, announced, changed, restarted};

    fn evidence(started_at: &str, restart_count: u64) -> Evidence {
        Evidence {
            service: "a".to_owned(),
            container: "a-0".to_owned(),
            pod: None,
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

    /// Pods by their names and when they were started, before and after.
    #[track_caller]
    fn check_pods(
        before: &[(&str, &str)],
        after: &[(&str, &str)],
        faults: &str,
        expected: &[&str],
    ) {
        let of = |pods: &[(&str, &str)]| {
            let pods = pods.iter().map(|(pod, started_at)| Evidence {
                pod: Some((*pod).to_owned()),
                ..evidence(started_at, 0)
            });
            pods.collect::<Vec<_>>()
        };
        let faults = announced(faults).unwrap();
        let found = changed(&of(before), &of(after), &faults);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, words) in found.iter().zip(expected) {
            assert!(found.contains(words), "{found}");
        }
    }

    #[test]
    fn each_pod_is_held_against_itself() {
        let two = [("p", "1"), ("q", "2")];
        check_pods(&two, &two, "", &[]);
        check_pods(&two, &[("q", "2"), ("p", "1")], "", &[]);
        check_pods(&two, &[("p", "1"), ("q", "3")], "", &["process since 3"]);
        check_pods(
            &two,
            &[("p", "1"), ("r", "2")],
            "",
            &["pod r of a-0 was not there", "pod q of a-0 has gone"],
        );
        check_pods(
            &two,
            &[("r", "1"), ("q", "2")],
            "",
            &["pod r of a-0 was not there", "pod p of a-0 has gone"],
        );
        let replaced =
            r#"{"container": "a-0", "action": "started", "restarts": 0, "started_at": "5"}"#;
        check_pods(&two[..1], &[("r", "5")], replaced, &[]);
        check_pods(&two[..1], &[("r", "6")], replaced, &["process since 6"]);
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
    fn a_pod_that_stays_counts_what_faults_have_made() {
        let line = r#"{"container": "a-0", "action": "started", "restarts": 0, "started_at": "2", "restart_count": 3}"#;
        let faults = announced(line).unwrap();
        let judged = |started_at: &str, count| {
            restarted(&evidence("1", 0), &evidence(started_at, count), &faults)
        };
        assert_eq!(judged("2", 3), None);
        assert!(judged("2", 4).is_some());
        assert!(judged("3", 3).is_some());
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
