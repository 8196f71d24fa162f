//! A kind cluster of a run: Kubernetes in a container of the engine, named for the run, with a
//! kubeconfig in the run's folder. The user's own kubeconfig is neither read nor written. It lies on
//! a network of its own, so that runs side by side share nothing, and the network carries the run's
//! labels: by it the node is found again, whatever happened to the process that made it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use super::kubernetes::Kubectl;
use super::kubernetes::documents::{self, NodePorts, Place};
use super::kubernetes::roll_out::{self, Wanted};
use super::local::make_network;
use super::readiness::{Answer, Readiness};
use crate::bundle::Bundle;
use crate::engine::{Engine, EngineKind};
use crate::exit::{Exit, Failure};
use crate::host;
use crate::manifest::{Manifests, References, Seen, Workload};
use crate::poll::{self, Look};
use crate::process::Invocation;
use crate::process::follow::{Follow, Followed};
use crate::report::{self, live, live::Activity};
use crate::run::{self, Resource, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::{self, ThirdPartyImage};
use crate::threads::joined;

mod config;
pub(crate) mod gather;
mod node;

use node::Node;

/// Three times what it takes where two clusters are made on two processors.
const CREATE_DEADLINE: Duration = Duration::from_secs(240);
/// The name service of a cluster that was just made.
const NAMES_DEADLINE: Duration = Duration::from_secs(120);
/// A pod that is ready, and the rules of the node that lead to it.
const REACH_DEADLINE: Duration = Duration::from_secs(30);
const REACH_INTERVAL: Duration = Duration::from_millis(50);
/// Where a node keeps the kubectl of its own version.
const KUBECTL_OF_NODE: &str = "/usr/bin/kubectl";
/// What a bundle calls the program.
pub(crate) const TOOL: &str = "kind";
/// What a bundle calls the image of a node.
pub(crate) const NODE_IMAGE: &str = "kind-node";
/// What kind says when the node runs and its Kubernetes is about to be started.
const NODE_IS_UP: &str = "Starting control-plane";

/// What a cluster is made with.
#[derive(Clone, Debug)]
struct Tools {
    /// The program `kind`.
    program: Utf8PathBuf,
    /// The image of a node, if not the one that `kind` itself would take.
    node_image: Option<String>,
}

/// What a cluster is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Purpose<'a> {
    pub(super) workspace: &'a Workspace,
    pub(super) target: &'a Target,
    pub(super) run: &'a Run,
    pub(super) engine: &'a Engine,
    pub(super) manifests: &'a Manifests,
    pub(super) bundle: Option<&'a Bundle>,
}

/// The kind cluster of a run.
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
    importing: Mutex<()>,
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
    /// Makes the cluster and its namespace; third-party images are put in while it comes up.
    ///
    /// # Errors
    /// When kind makes no cluster, or an image cannot be had.
    pub(super) fn start(purpose: Purpose<'_>) -> Result<Self> {
        let Purpose {
            run,
            engine,
            manifests,
            ..
        } = purpose;
        let id = run.id();
        let ports = documents::node_ports(manifests, config::NODE_PORT_FIRST);
        make_network(run, engine, &run::kind_network(id))?;
        let node_name = run::kind_node(id);
        let node = Node {
            engine,
            name: &node_name,
        };
        let importing = Mutex::new(());
        let (made, third_party) = thread::scope(|scope| {
            let names = purpose.target.third_party().iter();
            let (signals, providing): (Vec<_>, Vec<_>) = names
                .map(|name| {
                    let (signal, is_up) = mpsc::channel();
                    let (node, importing) = (&node, &importing);
                    let provide = move || provide(purpose, name, node, importing, &is_up);
                    (signal, scope.spawn(provide))
                })
                .unzip();
            let made = create(purpose, &ports, signals);
            let provided: Result<Vec<_>> = providing.into_iter().map(joined).collect();
            (made, provided)
        });
        made?;
        let third_party = third_party?.into_iter().flatten().collect();
        let facts = engine.containers([node_name.as_str()])?;
        let facts = facts.get(&node_name).with_context(|| {
            format!("kind made a cluster, and there is no container {node_name}")
        })?;
        let kubectl = Kubectl {
            program: kubectl_of(&node, &facts.image_id)?,
            kubeconfig: kubeconfig(run),
            namespace: id.to_owned(),
        };
        Ok(Self {
            engine: engine.clone(),
            run: id.to_owned(),
            kubectl,
            ports,
            published: facts.ports.clone(),
            node: node_name,
            third_party,
            starting: None,
            deployed: Vec::new(),
            importing,
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

    /// Namespace, Secrets, and what runs third-party images alone; does not wait for it.
    pub(super) fn start_third_party(
        &mut self,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        let references = References::of_third_party(&self.third_party);
        let manifests = manifests.only(&references);
        let place = self.place();
        let mut all = vec![documents::namespace(place)];
        all.extend(documents::secrets(place, &secrets.mounts())?);
        all.extend(self.documents(&manifests, &references)?);
        let kubectl = self.kubectl.clone();
        self.starting = Some(thread::spawn(move || kubectl.apply(documents::list(all))));
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

    /// Waits for what was begun beside other phases.
    pub(super) fn settle(&mut self) -> Result<()> {
        let joined = self.starting.take().map(JoinHandle::join);
        joined.map_or(Ok(()), |joined| {
            joined.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
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
        thread::scope(|scope| {
            let names = scope.spawn(|| {
                let kubectl = &self.kubectl;
                kubectl.wait_for_roll_out("kube-system", "coredns", NAMES_DEADLINE)
            });
            let waited = roll_out::wait(&self.kubectl, &wanted, deadline, &activity);
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

/// Among the run's secrets: whoever has it rules the cluster.
pub(crate) fn kubeconfig(run: &Run) -> Utf8PathBuf {
    run.directory().join(run::SECRETS).join("kubeconfig")
}

/// From the bundle, else from PATH, with kind's own choice of a node image.
fn tools(purpose: Purpose<'_>) -> Result<Tools> {
    let Purpose { engine, bundle, .. } = purpose;
    let tool = bundle.map(|bundle| bundle.tool(TOOL)).transpose()?;
    let program = match tool.flatten() {
        Some(tool) => tool.program().to_owned(),
        None => host::program(TOOL).ok_or_else(|| {
            Failure::new(Exit::Host, "kind is not installed")
                .hint("https://kind.sigs.k8s.io says how to get it; or name a folder that holds it with `--bundle`")
        })?,
    };
    let image = bundle
        .map(|bundle| bundle.image(NODE_IMAGE, engine))
        .transpose()?;
    Ok(Tools {
        program,
        node_image: image.flatten().map(|image| image.reference().to_owned()),
    })
}

/// Why no cluster can be made here with what is here, without asking any network; nothing where one
/// can.
///
/// # Errors
/// When the engine does not answer.
pub(crate) fn absence(bundle: Option<&Bundle>, engine: &Engine) -> Result<Option<String>> {
    let has_tool = bundle.is_some_and(|bundle| bundle.tools().any(|tool| tool == TOOL));
    if !has_tool && host::program(TOOL).is_none() {
        return Ok(Some(
            "kind is not installed, and no bundle has it".to_owned(),
        ));
    }
    let has_image = bundle.is_some_and(|bundle| bundle.images().any(|image| image == NODE_IMAGE));
    if has_image || engine.has_any("kindest/node")? {
        return Ok(None);
    }
    Ok(Some(format!(
        "no bundle has a node image for kind, and {} has none either",
        engine.kind.program()
    )))
}

/// kind with the provider set on every call, on the network of the run.
fn invocation(purpose: Purpose<'_>, program: &Utf8Path) -> Invocation {
    let Purpose { run, engine, .. } = purpose;
    let network = run::kind_network(run.id());
    let provider = engine.kind.program();
    let variable = match engine.kind {
        EngineKind::Podman => "KIND_EXPERIMENTAL_PODMAN_NETWORK",
        EngineKind::Docker => "KIND_EXPERIMENTAL_DOCKER_NETWORK",
    };
    let kind = Invocation::new(program.as_str())
        .env_remove("KUBECONFIG")
        .env("KIND_EXPERIMENTAL_PROVIDER", provider)
        .env(variable, network);
    let environment = engine.environment.iter();
    let kind = environment.fold(kind, |kind, (name, value)| kind.env(name, value));
    // kind looks for the engine on PATH; it must be the one that was found to work.
    let path = std::env::var("PATH").unwrap_or_default();
    match engine.program.parent() {
        Some(folder) => kind.env("PATH", format!("{folder}:{path}")),
        None => kind,
    }
}

/// Makes the cluster. As soon as its node takes images, everybody in `signals` is told.
fn create(purpose: Purpose<'_>, ports: &NodePorts, signals: Vec<Sender<()>>) -> Result<()> {
    let Purpose { run, .. } = purpose;
    let activity = live::begin("creating", format!("kind cluster {}", run.id()));
    let tools = tools(purpose)?;
    provide_modules()?;
    let ports_count = ports.values().map(BTreeMap::len).sum::<usize>();
    let ports_count = u16::try_from(ports_count).context("more ports than a node has")?;
    let config = run.directory().join("kind.json");
    host::write_cached(&config, &config::config(ports_count))?;
    run.journal(&Resource::Cluster(run.id().to_owned()))?;
    let create = invocation(purpose, &tools.program)
        .args(["create", "cluster", "--name", run.id()])
        .arg(format!("--config={config}"))
        .arg(format!("--kubeconfig={}", kubeconfig(run)));
    let create = match &tools.node_image {
        Some(image) => create.args(["--image", image]),
        None => create,
    };
    let log = run.directory().join("kind.log");
    let following = Follow::start(&create, Followed::Stderr, Some(&log), CREATE_DEADLINE)?;
    let tell = |signals: &[Sender<()>]| {
        for signal in signals {
            // Whoever could not provide its image has gone.
            let _ = signal.send(());
        }
    };
    while let Some(line) = following.next_line()? {
        let step = line.trim_start_matches([' ', '•', '✓', '✗']);
        activity.say(
            step.split(['🖼', '📦', '📜', '🕹', '🔌', '💾'])
                .next()
                .unwrap_or(step)
                .trim(),
        );
        if line.contains(NODE_IS_UP) {
            tell(&signals);
        }
    }
    following.finish().map_err(|error| {
        Failure::new(error.exit(), "kind makes no cluster")
            .hint(format!("{} has every word of kind", report::near(&log)))
            .caused_by(error)
    })?;
    tell(&signals);
    Ok(())
}

/// kind mounts this folder of the host into its nodes, and a host whose kernel has no modules has none.
fn provide_modules() -> Result<()> {
    const FOLDER: &str = "/lib/modules";
    if Utf8Path::new(FOLDER).is_dir() {
        return Ok(());
    }
    fs::create_dir_all(FOLDER).map_err(|error| {
        Failure::new(
            Exit::Host,
            format!("kind wants the folder {FOLDER}, and this host has none"),
        )
        .hint(format!("as root: mkdir {FOLDER}"))
        .caused_by(error)
    })?;
    report::note(&format!("made {FOLDER}, which kind mounts into its nodes"));
    Ok(())
}

/// The image in the engine, and in the node as soon as that takes it; nothing where there will be no
/// node.
fn provide(
    purpose: Purpose<'_>,
    name: &str,
    node: &Node<'_>,
    importing: &Mutex<()>,
    is_up: &Receiver<()>,
) -> Result<Option<ThirdPartyImage>> {
    let Purpose {
        workspace,
        engine,
        bundle,
        ..
    } = purpose;
    let image = third_party::provide(workspace, engine, bundle, name)?;
    let archive = third_party::archive(engine, &image)?;
    if is_up.recv().is_err() {
        return Ok(None);
    }
    {
        let _one_at_a_time = importing.lock().unwrap_or_else(PoisonError::into_inner);
        let _activity = live::begin("loading", image.reference());
        node.import(&archive)?;
    }
    let listed = node.images(&[image.reference()])?;
    if listed.get(image.reference()).map(String::as_str) != Some(image.image_id()) {
        let found = listed.get(image.reference());
        return Err(Failure::new(
            Exit::Internal,
            format!(
                "{archive} was put into node {}, and it lists {} as {found:?}, not as {}",
                node.name,
                image.reference(),
                image.image_id()
            ),
        )
        .hint(format!("remove {archive}, and run again: it is made anew"))
        .into());
    }
    Ok(Some(image))
}

/// The kubectl of the node's own version, copied out of it once for each node image.
fn kubectl_of(node: &Node<'_>, image_id: &str) -> Result<Utf8PathBuf> {
    let hex = image_id.trim_start_matches("sha256:");
    let short = hex.get(..16).unwrap_or(hex);
    let folder = host::cache_directory()?.join("kubectl").join(short);
    let program = folder.join("kubectl");
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    let temporary = tempfile::tempdir_in(&folder).context("cannot make a temporary folder")?;
    let copied = Utf8Path::from_path(temporary.path())
        .context("a folder that is not UTF-8")?
        .join("kubectl");
    node.copy(KUBECTL_OF_NODE, &copied)?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&copied, executable)
        .and_then(|()| fs::rename(&copied, &program))
        .with_context(|| format!("cannot make {program}"))?;
    Ok(program)
}
