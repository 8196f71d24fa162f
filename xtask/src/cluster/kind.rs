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

use super::kubernetes::documents::{self, NodePorts};
use super::kubernetes::namespace::Namespace;
use super::local::make_network;
use super::readiness::Answer;
use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::manifest::{Manifests, References, Seen};
use crate::poll::{self, Look};
use crate::report::{self, live, live::Activity};
use crate::run::{self, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

pub(crate) mod by_hand;
mod config;
mod create;
pub(crate) mod gather;
mod node;
pub(crate) mod preview;

pub(crate) use create::absence;
use create::{Purpose, bring, create, look_at_node};
use node::Node;

/// A pod that is ready, and the rules of the node that lead to it.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
const REACH_INTERVAL: Duration = Duration::from_millis(50);

/// The kind cluster of a run. Its node is there, and takes images; its Kubernetes may still be coming
/// up, see [`Kind::settle`].
#[derive(Debug)]
pub struct Kind {
    engine: Engine,
    node: String,
    namespace: Namespace,
    ports: NodePorts,
    /// Port of the node, port on 127.0.0.1.
    published: BTreeMap<u16, u16>,
    starting: Option<JoinHandle<Result<()>>>,
    /// One at a time: a node unpacks what it takes.
    importing: Arc<Mutex<()>>,
    given_up: Arc<AtomicBool>,
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
            namespace: Namespace::new(id, kubectl, third_party),
            ports,
            published,
            node,
            starting: Some(coming_up),
            importing,
            given_up,
        })
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

    /// Where the run is deployed in it.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The ports of the node that lead to those of a Deployment, by the same names.
    pub(crate) fn node_ports(&self, deployment: &str) -> Option<&BTreeMap<String, u16>> {
        self.ports.get(deployment)
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
        let references = References::of_third_party(self.namespace.third_party());
        let turned = manifests.turned().to_vec();
        let manifests = manifests.only(&references);
        let place = self.namespace.place();
        let mut all = vec![
            documents::namespace(place),
            documents::way_through_policies(place, config::POD_SUBNET),
        ];
        all.extend(documents::secrets(place, &secrets.mounts())?);
        all.extend(
            self.namespace
                .documents(&manifests, &references, &self.ports)?,
        );
        let (kubectl, coming_up) = (self.namespace.kubectl().clone(), self.starting.take());
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
        self.namespace.expect(manifests, references)?;
        let theirs = References::of_third_party(self.namespace.third_party());
        let ours =
            self.namespace
                .documents(&manifests.without(&theirs), references, &self.ports)?;
        // The namespace is made there.
        self.settle()?;
        self.namespace.kubectl().apply(documents::list(ours))?;
        self.namespace.wait(deadline_of, &activity)?;
        self.reach(&activity)
    }

    /// A pod that is ready is one thing, the way to it another: the rules of a node come later.
    fn reach(&self, activity: &Activity) -> Result<()> {
        for deployed in self.namespace.deployed() {
            let of_node = self.node_ports(&deployed.wanted.deployment);
            let published: BTreeMap<u16, u16> = deployed
                .ports
                .iter()
                .filter_map(|(name, inside)| {
                    let node_port = of_node?.get(name)?;
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
}

/// The result of a thread of ours.
fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    let joined = thread.join();
    joined.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
