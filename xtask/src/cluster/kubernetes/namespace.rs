//! The namespace of a run on some Kubernetes: what was applied there, and how it stands. It knows
//! neither how the cluster was made nor how anybody comes in from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;

use super::documents::{self, Place};
use super::pod::Pod;
use super::roll_out::{self, Held, Wanted};
use super::{Kubectl, PodWatch};
use crate::cluster::readiness::Readiness;
use crate::exit::{Exit, Failure};
use crate::manifest::document::Container;
use crate::manifest::template::Template;
use crate::manifest::{Manifests, References, Seen, Workload};
use crate::report::{self, live::Activity};
use crate::third_party::ThirdPartyImage;
use crate::threads::{bounded, joined};

/// The name service of every cluster: its namespace and its Deployment.
pub(crate) const NAMES: (&str, &str) = ("kube-system", "coredns");
/// How long it takes at most in one that was just made.
pub(crate) const NAMES_DEADLINE: Duration = Duration::from_secs(120);

/// Each is a kubectl of its own, and they share a processor with the cluster.
const LOGS_AT_ONCE: usize = 4;

/// Where a run is deployed.
#[derive(Debug)]
pub(crate) struct Namespace {
    run: String,
    kubectl: Kubectl,
    third_party: Vec<ThirdPartyImage>,
    stays: Option<Stays>,
    deployed: Vec<Deployed>,
    templates: Vec<FromTemplate>,
    /// Of its pods, from the roll-out on.
    watch: Mutex<Option<PodWatch>>,
    /// Its pods when the last of them had become ready, until somebody takes them.
    just_ready: Mutex<Vec<Pod>>,
}

/// What stays in the cluster when the run has ended, in a namespace of its own.
#[derive(Clone, Debug)]
pub(crate) struct Stays {
    /// Asks there. The namespace has the name of what owns the cluster.
    pub(crate) kubectl: Kubectl,
    /// The names of its manifests: `postgres`.
    pub(crate) services: BTreeSet<String>,
}

/// A Deployment of the run as it was put into the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    /// The manifest's name.
    pub(crate) service: String,
    /// Where it was put.
    pub(crate) namespace: String,
    pub(crate) wanted: Wanted,
    /// By name of the container.
    pub(crate) containers: BTreeMap<String, Seen>,
    pub(crate) inits: BTreeMap<String, Seen>,
    /// Ports inside, by name.
    pub(crate) ports: BTreeMap<String, u16>,
    /// When its container counts as ready.
    pub(crate) readiness: Readiness,
}

/// Pods that are made from a PodTemplate of the run, as Jobs are: they come and go while the tests run.
#[derive(Clone, Debug)]
pub(crate) struct FromTemplate {
    /// The name of the template.
    pub(crate) name: String,
    /// Where it was put.
    pub(crate) namespace: String,
    /// What all of them carry, and no pod of a Deployment does.
    pub(crate) labels: BTreeMap<String, String>,
    /// By name of the container.
    pub(crate) containers: BTreeMap<String, Seen>,
    pub(crate) inits: BTreeMap<String, Seen>,
}

impl Deployed {
    /// What it is when its pods are ready and nothing answers through its Service; a signal stays one.
    pub(crate) fn unanswered(&self, error: Error, hint: Option<&str>) -> Error {
        if report::is_signal(&error) {
            return error;
        }
        let name = &self.wanted.deployment;
        let what = format!("{name} is ready, and does not answer through its Service");
        let failure = Failure::new(Exit::Deploy, what);
        let failure = match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        failure.caused_by(error).into()
    }
}

#[cfg(test)]
impl Deployed {
    /// In namespace `n`, of one container of its name; pods are found by the label `app`.
    pub(crate) fn sample(name: &str, image: Seen) -> Self {
        Self {
            service: name.to_owned(),
            namespace: "n".to_owned(),
            wanted: Wanted {
                deployment: name.to_owned(),
                selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
                replicas: 1,
            },
            containers: BTreeMap::from([(name.to_owned(), image)]),
            inits: BTreeMap::new(),
            ports: BTreeMap::new(),
            readiness: Readiness::Running,
        }
    }
}

#[cfg(test)]
impl FromTemplate {
    /// In namespace `n`, of one container of its name; pods are found by the label `app`.
    pub(crate) fn sample(name: &str, image: Seen) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "n".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            containers: BTreeMap::from([(name.to_owned(), image)]),
            inits: BTreeMap::new(),
        }
    }
}

impl Namespace {
    /// Of this run, where nothing is deployed yet.
    pub(crate) fn new(run: &str, kubectl: Kubectl, third_party: Vec<ThirdPartyImage>) -> Self {
        Self {
            run: run.to_owned(),
            kubectl,
            third_party,
            stays: None,
            deployed: Vec::new(),
            templates: Vec::new(),
            watch: Mutex::new(None),
            just_ready: Mutex::new(Vec::new()),
        }
    }

    /// Some of what it runs is not in it, and stays.
    pub(crate) fn with(mut self, stays: Stays) -> Self {
        self.stays = Some(stays);
        self
    }

    /// With what runs there besides.
    pub(crate) fn with_third_party(mut self, third_party: Vec<ThirdPartyImage>) -> Self {
        self.third_party = third_party;
        self
    }

    /// What the cluster calls it.
    pub(crate) fn name(&self) -> &str {
        &self.kubectl.namespace
    }

    /// The namespace of what is not in it, and stays.
    pub(crate) fn also(&self) -> Option<&str> {
        let stays = self.stays.as_ref();
        stays.map(|stays| stays.kubectl.namespace.as_str())
    }

    /// What its documents say of it.
    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            run: &self.run,
            namespace: &self.kubectl.namespace,
        }
    }

    pub(crate) const fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The third-party images of the run.
    pub(crate) fn third_party(&self) -> &[ThirdPartyImage] {
        &self.third_party
    }

    /// What was deployed.
    pub(crate) fn deployed(&self) -> &[Deployed] {
        &self.deployed
    }

    /// What pods may be made from.
    pub(crate) fn templates(&self) -> &[FromTemplate] {
        &self.templates
    }

    /// What the manifests want of it, to be waited for and looked at.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Manifest`] for an image that does not belong to the run.
    pub(crate) fn expect(
        &mut self,
        manifests: &Manifests,
        references: &References<Seen>,
    ) -> Result<()> {
        let namespace = |service: &String| {
            let elsewhere = self.stays.as_ref();
            let elsewhere = elsewhere.filter(|stays| stays.services.contains(service));
            let kubectl = elsewhere.map_or(&self.kubectl, |stays| &stays.kubectl);
            kubectl.namespace.clone()
        };
        let of_workload = |workload: &Workload| -> Result<Deployed> {
            let spec = &workload.deployment.spec;
            let images = |containers: &[Container]| {
                images_of(containers, |logical| references.get(workload, logical))
            };
            Ok(Deployed {
                service: workload.service.clone(),
                namespace: namespace(&workload.service),
                wanted: Wanted {
                    deployment: workload.name().to_owned(),
                    selector: workload.selector().clone(),
                    replicas: spec.replicas as usize,
                },
                containers: images(&spec.template.spec.containers)?,
                inits: images(&spec.template.spec.init_containers)?,
                ports: workload.ports(),
                readiness: Readiness::of(workload.container()),
            })
        };
        let of_template = |template: &Template| -> Result<FromTemplate> {
            let images = |containers: &[Container]| {
                images_of(containers, |logical| references.get_for(template, logical))
            };
            Ok(FromTemplate {
                name: template.name.clone(),
                namespace: namespace(&template.service),
                labels: template.labels().clone(),
                containers: images(&template.pod.spec.containers)?,
                inits: images(&template.pod.spec.init_containers)?,
            })
        };
        let deployed = manifests.workloads.iter().map(of_workload);
        let deployed = deployed.collect::<Result<_>>()?;
        let templates = manifests.templates.iter().map(of_template);
        self.templates = templates.collect::<Result<_>>()?;
        self.deployed = deployed;
        Ok(())
    }

    /// Applies these, and waits until every pod that is expected is ready, and the cluster's own name service with them,
    /// where the cluster was just made. What images the nodes have is `held`, asked only where it
    /// explains why one never will be.
    ///
    /// # Errors
    /// [`crate::exit::Exit::Deploy`] with the reason, when one never will be; a signal.
    pub(crate) fn roll_out(
        &self,
        documents: Vec<Value>,
        deadline_of: impl Fn(&str) -> Duration,
        is_new: bool,
        held: Held<'_>,
        activity: &Activity,
    ) -> Result<()> {
        let wanted: Vec<Wanted> = self.deployed.iter().map(|one| one.wanted.clone()).collect();
        let deadlines = self.deployed.iter().map(|one| deadline_of(&one.service));
        let deadline = deadlines.max().unwrap_or_default();
        let nodes_are_up = AtomicBool::new(!is_new);
        let (is_refused, given_up) = (AtomicBool::new(false), AtomicBool::new(false));
        let also = self.also();
        thread::scope(|scope| {
            let names = scope.spawn(|| {
                if !is_new {
                    return Ok(());
                }
                let (namespace, name) = NAMES;
                let ready =
                    self.kubectl
                        .wait_for_roll_out(namespace, name, NAMES_DEADLINE, &given_up);
                nodes_are_up.store(true, Ordering::Relaxed);
                ready
            });
            // Who watches from the beginning sees everything sooner.
            let applying = scope.spawn(|| {
                let applied = self.kubectl.apply(documents::list(documents));
                is_refused.store(applied.is_err(), Ordering::Relaxed);
                applied
            });
            let marks = roll_out::Marks {
                nodes_are_up: &nodes_are_up,
                is_refused: &is_refused,
            };
            let waited = roll_out::wait(
                &self.kubectl,
                also,
                &wanted,
                deadline,
                &marks,
                held,
                activity,
            );
            // What will never be ready is told at once, whatever else comes up.
            let in_vain = waited.is_err() || is_refused.load(Ordering::Relaxed);
            given_up.store(in_vain, Ordering::Relaxed);
            let (watch, pods) = joined(applying).and(joined(names)).and(waited)?;
            *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
            *self.just_ready() = pods;
            Ok(())
        })
    }

    /// The watch of its pods that has seen them become ready, for whoever goes on with it; a new one,
    /// which begins with the pods that are there, where somebody has.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub(crate) fn watch(&self) -> Result<PodWatch> {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match watch.take() {
            Some(watch) => Ok(watch),
            None => self.kubectl.watch_pods(self.also()),
        }
    }

    /// The pods as they were when the last had become ready, for one who asks them soon after; nothing
    /// for the next.
    pub(crate) fn take_ready(&self) -> Vec<Pod> {
        mem::take(&mut self.just_ready())
    }

    fn just_ready(&self) -> MutexGuard<'_, Vec<Pod>> {
        self.just_ready
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every pod of the run, those that stay among them.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        match self.also() {
            Some(also) => self.kubectl.pods_with(also),
            None => self.kubectl.pods(),
        }
    }

    /// `<pod>.log` for every pod, and `<pod>-init-<name>.log` for what ran before it, with what the
    /// one before it has said. A few at once.
    ///
    /// # Errors
    /// When a log cannot be had; the others are written all the same.
    pub(crate) fn save_logs(&self, folder: &Utf8Path) -> Result<()> {
        let pods = self.pods()?;
        let logs = pods.iter().flat_map(|pod| logs_of(pod, folder)).collect();
        bounded(logs, LOGS_AT_ONCE, |log: Log<'_>| {
            let kubectl = self.kubectl.at(log.pod.namespace());
            let mut containers = log.containers.iter();
            containers.try_for_each(|name| kubectl.save_log(log.pod.name(), name, &log.path))
        })
    }

    /// How each pod stands, one line each.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub(crate) fn describe(&self) -> Result<Vec<String>> {
        Ok(self.pods()?.iter().map(Pod::state).collect())
    }
}

/// The image of each of these, by the name of the container.
fn images_of<'a>(
    containers: &[Container],
    get: impl Fn(&str) -> Result<&'a Seen>,
) -> Result<BTreeMap<String, Seen>> {
    let seen = containers.iter().map(|container| {
        let image = get(&container.image)?;
        Ok((container.name.clone(), image.clone()))
    });
    seen.collect()
}

/// A file, and whose words it gets, one after the other.
#[derive(Debug)]
struct Log<'a> {
    path: Utf8PathBuf,
    pod: &'a Pod,
    containers: Vec<&'a str>,
}

fn logs_of<'a>(pod: &'a Pod, folder: &Utf8Path) -> Vec<Log<'a>> {
    let (name, spec) = (pod.name(), &pod.spec);
    let inits = spec.init_containers.iter().map(|container| Log {
        path: folder.join(format!("{name}-init-{}.log", container.name)),
        pod,
        containers: vec![container.name.as_str()],
    });
    let main = Log {
        path: folder.join(format!("{name}.log")),
        pod,
        containers: spec
            .containers
            .iter()
            .map(|one| one.name.as_str())
            .collect(),
    };
    [main].into_iter().chain(inits).collect()
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use serde_json::json;

    use super::logs_of;

    #[test]
    fn no_two_write_one_file() {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "db-1"},
            "spec": {"containers": [{"name": "db"}, {"name": "helper"}], "initContainers": [{"name": "initdb"}]},
        }))
        .unwrap();
        let logs = logs_of(&pod, Utf8Path::new("logs"));
        let told: Vec<_> = logs
            .iter()
            .map(|log| (log.path.as_str(), log.containers.as_slice()))
            .collect();
        let expected: [(&str, &[&str]); 2] = [
            ("logs/db-1.log", &["db", "helper"]),
            ("logs/db-1-init-initdb.log", &["initdb"]),
        ];
        assert_eq!(told, expected);
    }
}
