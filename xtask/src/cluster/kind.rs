//! A kind cluster of a run: Kubernetes in a container of the engine, named for the run, with a
//! kubeconfig in the run's folder. The user's own kubeconfig is neither read nor written. It lies on
//! a network of its own, so that runs side by side share nothing, and the network carries the run's
//! labels: by it the node is found again, whatever happened to the process that made it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use camino::Utf8Path;

use super::kubernetes::Kubectl;
use super::kubernetes::documents::{self, NodePorts, Place};
use super::kubernetes::roll_out::{self, Wanted};
use super::local::make_network;
use super::readiness::{Answer, Readiness};
use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::manifest::{Manifests, References, Seen, Workload};
use crate::poll::{self, Look};
use crate::report::{self, live, live::Activity};
use crate::run::{self, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::ThirdPartyImage;
use crate::threads::joined;

pub(crate) mod by_hand;
mod config;
mod create;
pub(crate) mod gather;
mod node;
pub(crate) mod preview;

pub(crate) use create::absence;
use create::{Purpose, bring, create, look_at_node};
use node::Node;

/// The name service of a cluster that was just made.
const NAMES_DEADLINE: Duration = Duration::from_secs(120);
/// A pod that is ready, and the rules of the node that lead to it.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
const REACH_INTERVAL: Duration = Duration::from_millis(50);

/// The kind cluster of a run. Its node is there, and takes images; its Kubernetes may still be coming
/// up, see [`Kind::settle`].
#[derive(Debug)]
pub struct Kind {
    engine: Engine,
    run: String,
    node: String,
    kubectl: Kubectl,
    ports: NodePorts,
    /// Port of the node, port on 127.0.0.1.
    published: BTreeMap<u16, u16>,
    third_party: Vec<ThirdPartyImage>,
    starting: Option<JoinHandle<Result<()>>>,
    deployed: Vec<Deployed>,
    /// One at a time: a node unpacks what it takes.
    importing: Arc<Mutex<()>>,
    given_up: Arc<AtomicBool>,
}

/// A Deployment of the run as it was put into the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Deployed {
    /// The manifest's name.
    pub(crate) service: String,
    pub(crate) wanted: Wanted,
    /// By name of the container.
    pub(crate) containers: BTreeMap<String, Seen>,
    pub(crate) inits: BTreeMap<String, Seen>,
    /// Ports inside, by name.
    pub(crate) ports: BTreeMap<String, u16>,
    /// Ports of the node, by the same names.
    pub(crate) node_ports: BTreeMap<String, u16>,
    readiness: Readiness,
}

impl Kind {
    /// Begins to make the cluster, and comes back as soon as its node takes images: Kubernetes is
    /// started there while others go on. Third-party images are provided before and put in after.
    ///
    /// # Errors
    /// When kind makes no node, or an image cannot be had.
    pub(super) fn start(
        workspace: &Workspace,
        target: &Target,
        run: &Arc<Run>,
        engine: &Engine,
        manifests: &Manifests,
        bundle: Option<&Arc<Bundle>>,
    ) -> Result<Self> {
        let id = run.id();
        let ports = documents::node_ports(manifests, config::NODE_PORT_FIRST);
        let ports_count = ports.values().map(BTreeMap::len).sum::<usize>();
        let purpose = Arc::new(Purpose {
            workspace: workspace.clone(),
            target: target.clone(),
            run: Arc::clone(run),
            engine: engine.clone(),
            bundle: bundle.cloned(),
            ports_count: u16::try_from(ports_count).context("more ports than a node has")?,
        });
        make_network(run, engine, &run::kind_network(id))?;
        let (signal, is_up) = mpsc::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let creating = {
            let (purpose, given_up) = (Arc::clone(&purpose), Arc::clone(&given_up));
            thread::spawn(move || create(&purpose, &signal, &given_up))
        };
        let mut is_made = true;
        let begun = purpose.provide().and_then(|third_party| {
            is_made = is_up.recv().is_ok();
            anyhow::ensure!(is_made, "kind ended without a node");
            let (node, published, kubectl) = look_at_node(&purpose)?;
            Ok((third_party, node, published, kubectl))
        });
        let (third_party, node, published, kubectl) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Nothing may be removed while kind is at work; if it ended first, it says why.
                given_up.store(true, Ordering::Relaxed);
                let why = ended(creating).err().filter(|_| !is_made);
                return Err(why.unwrap_or(error));
            }
        };
        let importing = Arc::new(Mutex::new(()));
        let coming_up = {
            let (third_party, importing) = (third_party.clone(), Arc::clone(&importing));
            thread::spawn(move || {
                let brought = bring(&purpose, &third_party, &importing);
                ended(creating).and(brought)
            })
        };
        Ok(Self {
            engine: engine.clone(),
            run: id.to_owned(),
            kubectl,
            ports,
            published,
            node,
            third_party,
            starting: Some(coming_up),
            deployed: Vec::new(),
            importing,
            given_up,
        })
    }

    fn place(&self) -> Place<'_> {
        Place {
            run: &self.run,
            namespace: &self.kubectl.namespace,
        }
    }

    /// The engine that its nodes run on.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The container that is its node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    pub(crate) const fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The third-party images of the run.
    #[must_use]
    pub fn third_party(&self) -> &[ThirdPartyImage] {
        &self.third_party
    }

    /// What was deployed.
    pub(crate) fn deployed(&self) -> &[Deployed] {
        &self.deployed
    }

    /// Those of these images that every node lists, complete, with their IDs.
    pub(crate) fn images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        self.as_node().images(references)
    }

    /// Puts an archive into every node.
    pub(crate) fn import(&self, archive: &Utf8Path) -> Result<()> {
        let _one_at_a_time = self
            .importing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.as_node().import(archive)
    }

    fn as_node(&self) -> Node<'_> {
        Node {
            engine: &self.engine,
            name: &self.node,
        }
    }

    /// Namespace, Secrets, and what runs third-party images alone; then shows the API server what a
    /// run has turned into something else. Does not wait for it.
    pub(super) fn start_third_party(
        &mut self,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        let references = References::of_third_party(&self.third_party);
        let turned = manifests.turned().to_vec();
        let manifests = manifests.only(&references);
        let place = self.place();
        let mut all = vec![
            documents::namespace(place),
            documents::way_through_policies(place, config::POD_SUBNET),
        ];
        all.extend(documents::secrets(place, &secrets.mounts())?);
        all.extend(self.documents(&manifests, &references)?);
        let (kubectl, coming_up) = (self.kubectl.clone(), self.starting.take());
        self.starting = Some(thread::spawn(move || {
            coming_up.map_or(Ok(()), ended)?;
            kubectl.apply(documents::list(all))?;
            match turned.is_empty() {
                true => Ok(()),
                false => kubectl.would_take(documents::list(turned)),
            }
        }));
        Ok(())
    }

    fn documents(
        &self,
        manifests: &Manifests,
        references: &References<Seen>,
    ) -> Result<Vec<serde_json::Value>> {
        let place = self.place();
        let mut all = documents::of_manifests(place, manifests, references)?;
        all.extend(documents::ways_in(place, manifests, &self.ports));
        Ok(all)
    }

    /// Nobody waits for it any more: what is still coming up is ended.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Waits until Kubernetes has come up, with the third-party images in it, and what runs them has
    /// been applied.
    pub(super) fn settle(&mut self) -> Result<()> {
        self.starting.take().map_or(Ok(()), ended)
    }

    /// Applies everything that runs images of ours, and waits until every pod of the run is ready and
    /// answers through the node.
    pub(crate) fn roll_out(
        &mut self,
        manifests: &Manifests,
        references: &References<Seen>,
        deadline_of: impl Fn(&str) -> Duration,
    ) -> Result<()> {
        let activity = live::begin("deploying", "to Kubernetes");
        self.deployed = self.deployed_from(manifests, references)?;
        let theirs = References::of_third_party(&self.third_party);
        let ours = self.documents(&manifests.without(&theirs), references)?;
        // The namespace is made there.
        self.settle()?;
        self.kubectl.apply(documents::list(ours))?;
        let wanted: Vec<Wanted> = self.deployed.iter().map(|one| one.wanted.clone()).collect();
        let deadlines = self.deployed.iter().map(|one| deadline_of(&one.service));
        let deadline = deadlines.max().unwrap_or_default();
        let nodes_are_up = AtomicBool::new(false);
        thread::scope(|scope| {
            let names = scope.spawn(|| {
                let ready =
                    self.kubectl
                        .wait_for_roll_out("kube-system", "coredns", NAMES_DEADLINE);
                nodes_are_up.store(true, Ordering::Relaxed);
                ready
            });
            let waited = roll_out::wait(&self.kubectl, &wanted, deadline, &nodes_are_up, &activity);
            joined(names).and(waited)
        })?;
        self.reach(&activity)
    }

    fn deployed_from(
        &self,
        manifests: &Manifests,
        references: &References<Seen>,
    ) -> Result<Vec<Deployed>> {
        let of_workload = |workload: &Workload| -> Result<Deployed> {
            let spec = &workload.deployment.spec;
            let images = |containers: &[crate::manifest::document::Container]| {
                let seen = containers.iter().map(|container| {
                    let image = references.get(workload, &container.image)?;
                    Ok((container.name.clone(), image.clone()))
                });
                seen.collect::<Result<BTreeMap<_, _>>>()
            };
            let node_ports = self.ports.get(workload.name()).cloned();
            Ok(Deployed {
                service: workload.service.clone(),
                wanted: Wanted {
                    deployment: workload.name().to_owned(),
                    selector: workload.selector().clone(),
                    replicas: spec.replicas as usize,
                },
                containers: images(&spec.template.spec.containers)?,
                inits: images(&spec.template.spec.init_containers)?,
                ports: workload.ports(),
                node_ports: node_ports.unwrap_or_default(),
                readiness: Readiness::of(workload.container()),
            })
        };
        manifests.workloads.iter().map(of_workload).collect()
    }

    /// A pod that is ready is one thing, the way to it another: the rules of a node come later.
    fn reach(&self, activity: &Activity) -> Result<()> {
        for deployed in &self.deployed {
            let published: BTreeMap<u16, u16> = deployed
                .ports
                .iter()
                .filter_map(|(name, inside)| {
                    let node_port = deployed.node_ports.get(name)?;
                    Some((*inside, *self.published.get(node_port)?))
                })
                .collect();
            let what = format!("answer of {}", deployed.wanted.deployment);
            poll::until_in(activity, &what, REACH_DEADLINE, REACH_INTERVAL, || {
                Ok(match deployed.readiness.ask(&published) {
                    Answer::Ready => Look::Found(()),
                    Answer::NotYet(status) => Look::NotYet(status),
                })
            })
            .map_err(|error| match report::is_signal(&error) {
                true => error,
                false => Failure::new(
                    Exit::Deploy,
                    format!(
                        "{} is ready, and does not answer through its Service",
                        deployed.wanted.deployment
                    ),
                )
                .caused_by(error)
                .into(),
            })?;
        }
        Ok(())
    }

    /// `<pod>.log` for every pod, and `<pod>-init-<name>.log` for what ran before it, with what the one before it has said.
    pub(super) fn save_logs(&self, folder: &Utf8Path) -> Result<()> {
        for pod in self.kubectl.pods()? {
            let (name, spec) = (pod.name(), &pod.spec);
            for container in &spec.containers {
                let path = folder.join(format!("{name}.log"));
                self.kubectl.save_log(name, &container.name, &path)?;
            }
            for container in &spec.init_containers {
                let path = folder.join(format!("{name}-init-{}.log", container.name));
                self.kubectl.save_log(name, &container.name, &path)?;
            }
        }
        Ok(())
    }

    /// How each pod stands, one line each.
    pub(super) fn describe(&self) -> Result<Vec<String>> {
        Ok(self
            .kubectl
            .pods()?
            .iter()
            .map(super::kubernetes::pod::Pod::state)
            .collect())
    }
}

/// The result of a thread of ours.
fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    let joined = thread.join();
    joined.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
