//! A kind cluster of a run: Kubernetes in a container of the engine, named for the run, with a
//! kubeconfig in the run's folder. The user's own kubeconfig is neither read nor written. It lies on
//! a network of its own, so that runs side by side share nothing, and the network carries the run's
//! labels: by it the node is found again, whatever happened to the process that made it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use camino::Utf8Path;
use serde_json::{Value, json};

use super::kubernetes::Kubectl;
use super::kubernetes::documents::{self, NodePorts, Which};
use super::kubernetes::namespace::Namespace;
use super::local::make_network;
use super::readiness::Answer;
use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::manifest::{Manifests, Named as _, References, Seen};
use crate::poll::{self, Look};
use crate::report::{live, live::Activity};
use crate::run::{self, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::{self, ThirdPartyImage};

mod again;
pub(crate) mod by_hand;
mod config;
mod create;
pub(crate) mod gather;
mod guest;
pub(crate) mod kept;
mod node;
mod nodes;
pub(crate) mod preview;
pub(crate) mod remote;

use config::Shape;
use create::{FoundNode, Pulls, Purpose, bring, create, look_at_node};
pub(crate) use create::{Means, WHERE, absence, means};
use guest::{Guest, Part};
use kept::Kept;
pub(crate) use node::Around;
pub(crate) use node::forget;
use nodes::Nodes;

/// A pod that is ready, and the rules of the node that lead to it.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
const REACH_INTERVAL: Duration = Duration::from_millis(50);

/// The kind cluster of a run. Its node is there, and takes images; its Kubernetes may still be coming
/// up, see [`Kind::settle`].
#[derive(Debug)]
pub struct Kind {
    engine: Engine,
    nodes: Nodes,
    namespace: Namespace,
    ports: NodePorts,
    /// Port of the node, port on 127.0.0.1.
    published: BTreeMap<u16, u16>,
    starting: Option<JoinHandle<Result<()>>>,
    given_up: Arc<AtomicBool>,
    /// What it is to a cluster that stays.
    guest: Option<Guest>,
    /// The names of the images that its nodes had before the run.
    images_before: BTreeSet<String>,
}

/// What a cluster is wanted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) target: &'a Target,
    pub(crate) run: &'a Arc<Run>,
    pub(crate) engine: &'a Engine,
    /// Of these it needs to know the ports, and what runs third parties.
    pub(crate) manifests: &'a Manifests,
    pub(crate) bundle: Option<&'a Arc<Bundle>>,
    /// The cluster that stays, where one is wanted.
    pub(crate) kept: Option<&'a Arc<Kept>>,
    /// How many nodes it has, at least one.
    pub(crate) nodes_count: u8,
}

impl Wanted<'_> {
    /// The third-party images of the target, in the engine.
    fn provide(&self) -> Result<Vec<ThirdPartyImage>> {
        let bundle = self.bundle.map(Arc::as_ref);
        third_party::provide_all(self.workspace, self.engine, bundle, self.target)
    }

    /// A cluster that `owner` owns, and into which everything is put.
    fn purpose(&self, owner: &Arc<Run>, ports: &NodePorts) -> Result<Purpose> {
        Ok(Purpose {
            run: Arc::clone(owner),
            engine: self.engine.clone(),
            bundle: self.bundle.cloned(),
            shape: self.shape(ports)?,
            pulls: Pulls::Nothing,
        })
    }

    fn shape(&self, ports: &NodePorts) -> Result<Shape> {
        Ok(Shape {
            nodes_count: self.nodes_count,
            ports_count: ports_count(ports)?,
        })
    }
}

impl Kind {
    /// Begins to make the cluster, and comes back as soon as its node takes images: Kubernetes is
    /// started there while others go on. Third-party images are provided before and put in after.
    /// Where a kept cluster is what would be made, it is used again.
    ///
    /// # Errors
    /// When kind makes no node, or an image cannot be had.
    pub(super) fn start(wanted: &Wanted<'_>) -> Result<Self> {
        let ports = documents::node_ports(wanted.manifests, config::NODE_PORT_FIRST);
        let Some(kept) = wanted.kept else {
            return Self::anew(wanted, ports, Arc::clone(wanted.run), None);
        };
        if let Some(found) = kept.found() {
            let third_party = wanted.provide()?;
            let part = Part::of(wanted, &third_party)?;
            let settings = part.settings(wanted, &ports, &third_party)?;
            let found = match found.difference(&settings) {
                Some(difference) => Err(difference.to_owned()),
                None => again::find(
                    wanted,
                    &kept.owner(),
                    wanted.shape(&ports)?,
                    &third_party,
                    again::Wishes {
                        staying: &part.staying,
                        generations: &found.generations,
                    },
                )?,
            };
            match found {
                Ok(mut node) => {
                    let guest = Guest {
                        kept: Arc::clone(kept),
                        settings,
                        part,
                        before: Some(mem::take(&mut node.pods)),
                    };
                    return Ok(Self::of(wanted, node, third_party, ports, Some(guest)));
                }
                Err(why) => kept.replace(wanted.engine, &why)?,
            }
        }
        Self::anew(wanted, ports, kept.owner(), Some(kept))
    }

    /// As what owns the cluster: the run, or what stays when it ends.
    fn anew(
        wanted: &Wanted<'_>,
        ports: NodePorts,
        owner: Arc<Run>,
        kept: Option<&Arc<Kept>>,
    ) -> Result<Self> {
        let purpose = Arc::new(wanted.purpose(&owner, &ports)?);
        make_network(&owner, wanted.engine, &run::kind_network(owner.id()))?;
        let (signal, is_up) = mpsc::channel();
        let given_up = Arc::new(AtomicBool::new(false));
        let creating = {
            let (purpose, given_up) = (Arc::clone(&purpose), Arc::clone(&given_up));
            thread::spawn(move || create(&purpose, &signal, &given_up))
        };
        let mut is_made = true;
        let begun = wanted.provide().and_then(|third_party| {
            is_made = is_up.recv().is_ok();
            anyhow::ensure!(is_made, "kind ended without a node");
            let node = look_at_node(&purpose)?;
            let guest = kept.map(|kept| -> Result<Guest> {
                let part = Part::of(wanted, &third_party)?;
                Ok(Guest {
                    kept: Arc::clone(kept),
                    settings: part.settings(wanted, &ports, &third_party)?,
                    part,
                    before: None,
                })
            });
            Ok((third_party, node, guest.transpose()?))
        });
        let (third_party, node, guest) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Nothing may be removed while kind is at work; if it ended first, it says why.
                given_up.store(true, Ordering::Relaxed);
                let why = ended(creating).err().filter(|_| !is_made);
                return Err(why.unwrap_or(error));
            }
        };
        let coming_up = {
            let (third_party, nodes) = (third_party.clone(), node.nodes.clone());
            thread::spawn(move || {
                let brought = bring(&purpose.engine, &third_party, &nodes);
                ended(creating).and(brought)
            })
        };
        let mut made = Self::of(wanted, node, third_party, ports, guest);
        made.starting = Some(coming_up);
        made.given_up = given_up;
        Ok(made)
    }

    /// Whose node is there.
    fn of(
        wanted: &Wanted<'_>,
        node: FoundNode,
        third_party: Vec<ThirdPartyImage>,
        ports: NodePorts,
        guest: Option<Guest>,
    ) -> Self {
        let kubectl = node.kubectl.at(wanted.run.id());
        let stays = guest.as_ref().map(|guest| guest.stays(&kubectl));
        let namespace = Namespace::new(wanted.run.id(), kubectl, third_party);
        Self {
            engine: wanted.engine.clone(),
            namespace: match stays {
                Some(stays) => namespace.with(stays),
                None => namespace,
            },
            ports,
            published: node.published,
            nodes: node.nodes,
            starting: None,
            given_up: Arc::default(),
            guest,
            images_before: node.images,
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
        self.nodes.first()
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
        self.nodes.images(references)
    }

    /// As [`Kind::images`], and one that is not complete is not there.
    pub(crate) fn whole_images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        self.nodes.whole_images(references)
    }

    /// Whether a node had an image of this name before the run.
    #[must_use]
    pub fn had(&self, reference: &str) -> bool {
        self.images_before.contains(reference)
    }

    /// Puts archives into every node. What had any of these names before the first, and what
    /// [`Kind::whole_images`] gives after the last.
    pub(crate) fn take(&self, archives: &[&Utf8Path], references: &[&str]) -> Result<Around> {
        let mut around = Around::default();
        for (place, archive) in archives.iter().enumerate() {
            let this = self.nodes.exchange(archive, references)?;
            if place == 0 {
                around.before = this.before;
            }
            around.after = this.after;
        }
        Ok(around)
    }

    /// Every node, the control plane first.
    #[must_use]
    pub fn nodes(&self) -> Vec<&str> {
        self.nodes.names()
    }

    /// Namespace, Secrets, what runs third-party images alone, and of ours what runs nothing; then shows the API server what a
    /// run has turned into something else. Does not wait for it.
    pub(super) fn start_third_party(
        &mut self,
        run: &Run,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        let references = References::of_third_party(self.namespace.third_party());
        let turned = manifests.turned().to_vec();
        let early = manifests.only(&references);
        let place = self.namespace.place();
        let owner = self.owner();
        run.note(
            "make",
            &json!({"kind": "namespace", "name": place.namespace, "cluster": owner}),
        )?;
        let mut own = vec![
            documents::namespace(place, &owner),
            documents::way_through_policies(place, &config::pod_subnet(self.nodes.count())),
        ];
        if let Some(guest) = &self.guest {
            kept::note_guest(run, guest.kept.owner().id())?;
        }
        let guest = self.guest.as_ref();
        let stays = |name: &str| guest.is_some_and(|guest| guest.keeps(name));
        own.extend(documents::secrets(place, &secrets.mounts(), |name| {
            !stays(name)
        })?);
        let early = guest.map_or_else(|| early.clone(), |guest| guest.part.rest(&early));
        own.extend(self.documents(&early, &references, Which::All)?);
        // Of ours, what runs no image: it is there when they come.
        let later = manifests.without(&references);
        own.extend(self.documents(&later, &references, Which::Others)?);
        own.extend(
            [&early, &later]
                .into_iter()
                .flat_map(|manifests| documents::ways_in(place, manifests, &self.ports)),
        );
        let mut all = Vec::new();
        if let Some(guest) = guest {
            all.extend(guest.documents(secrets, &self.ports, self.nodes.count())?);
            own.extend(guest.signposts(place));
        }
        all.extend(own);
        let kubectl = self.namespace.kubectl().clone();
        let after = self.after(secrets, turned);
        let coming_up = self.starting.take();
        self.starting = Some(thread::spawn(move || {
            coming_up.map_or(Ok(()), ended)?;
            kubectl.apply(documents::list(all))?;
            after(&kubectl)
        }));
        Ok(())
    }

    /// What is to be done when the early documents are there: what a run has turned into something
    /// else is shown to the API server once for each cluster, and in one that was there before, what
    /// stays is made as new.
    fn after(
        &self,
        secrets: &Secrets,
        turned: Vec<Value>,
    ) -> impl FnOnce(&Kubectl) -> Result<()> + Send + use<> {
        let run_directory = secrets.run_directory().to_owned();
        let secrets = secrets.clone();
        let guest = self.guest.as_ref().map(|guest| {
            let (kept, settings) = (Arc::clone(&guest.kept), guest.settings.clone());
            let staying = guest.part.staying.clone();
            (kept, settings, staying, guest.before.clone())
        });
        move |kubectl| {
            let Some((kept, settings, staying, before)) = guest else {
                return shown(kubectl, turned);
            };
            let kubectl_there = kubectl.at(kept.owner().id());
            if let Some(before) = before {
                return again::renew(&kubectl_there, &staying, &before, &run_directory);
            }
            shown(kubectl, turned)?;
            let generations = again::generations(&kubectl_there, &staying)?;
            kept.made(&settings, generations, &secrets)
        }
    }

    fn documents(
        &self,
        manifests: &Manifests,
        references: &References<Seen>,
        which: Which,
    ) -> Result<Vec<Value>> {
        let place = self.namespace.place();
        let mut all = documents::of_manifests(place, manifests, references, which)?;
        if let Some(guest) = &self.guest {
            guest.let_out(&mut all);
        }
        Ok(all)
    }

    /// The ID of what owns the cluster.
    fn owner(&self) -> String {
        match &self.guest {
            Some(guest) => guest.kept.owner().id().to_owned(),
            None => self.namespace.place().run.to_owned(),
        }
    }

    /// It is there already, and stays.
    #[must_use]
    pub fn is_used_again(&self) -> bool {
        self.guest.as_ref().is_some_and(|guest| !guest.is_first())
    }

    /// The run ends: in a cluster that stays, its namespace is told to go, and images of earlier edits
    /// go.
    ///
    /// # Errors
    /// With the server's own words.
    pub(super) fn leave(&self) -> Result<()> {
        match &self.guest {
            Some(guest) if guest.kept.stays() => {
                again::end_namespace(self.namespace.kubectl())?;
                self.nodes.forget_earlier(&self.references())
            }
            _ => Ok(()),
        }
    }

    /// The images of ours that the run has deployed, each once.
    fn references(&self) -> BTreeSet<&str> {
        let deployed = self.namespace.deployed().iter();
        let images = deployed.flat_map(|one| one.containers.values().chain(one.inits.values()));
        let ours = images.filter(|image| image.package().is_some());
        ours.map(Seen::reference).collect()
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

    /// Applies what runs images of ours, and waits until every pod of the run is ready and
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
        let ours = manifests.without(&theirs);
        let ours = self.documents(&ours, references, Which::Deployments)?;
        // The namespace is made there.
        self.settle()?;
        let is_new = !self.is_used_again();
        let held = || self.nodes.listed();
        self.namespace
            .roll_out(ours, deadline_of, is_new, &held, &activity)?;
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
            .map_err(|error| deployed.unanswered(error, None))?;
        }
        Ok(())
    }
}

/// Shows the API server what a run has turned into something else.
fn shown(kubectl: &Kubectl, turned: Vec<Value>) -> Result<()> {
    match turned.is_empty() {
        true => Ok(()),
        false => kubectl.would_take(documents::list(turned)),
    }
}

/// How many ports of a node are published.
fn ports_count(ports: &NodePorts) -> Result<u16> {
    let count = ports.values().map(BTreeMap::len).sum::<usize>();
    u16::try_from(count).context("more ports than a node has")
}

/// The result of a thread of ours.
fn ended(thread: JoinHandle<Result<()>>) -> Result<()> {
    let joined = thread.join();
    joined.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}
