//! How a kind cluster is made: its tools, its one call, and what is put into its node while
//! Kubernetes comes up in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};

use super::config::{self, Shape};
use super::node::Node;
use super::nodes::Nodes;
use crate::bundle::Bundle;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::pod::Pod;
use crate::cluster::local::again_for_a_port;
use crate::digest::Digest;
use crate::engine::{Engine, EngineKind};
use crate::exit::{Exit, Failure};
use crate::host;
use crate::process::follow::{Follow, Followed, Next};
use crate::process::{Invocation, ProcessError};
use crate::report::{self, live};
use crate::run::{self, Resource, Run};
use crate::third_party::{self, ThirdPartyImage};

/// Three times what it takes where two clusters are made on two processors.
const CREATE_DEADLINE: Duration = Duration::from_secs(240);
/// How often it is looked whether anybody waits for it still.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
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

/// What a cluster is made for. It is owned by what goes on beside other phases.
#[derive(Debug)]
pub(in crate::cluster) struct Purpose {
    pub(super) run: Arc<Run>,
    pub(super) engine: Engine,
    pub(super) bundle: Option<Arc<Bundle>>,
    pub(super) shape: Shape,
    /// Where its node gets images from.
    pub(super) pulls: Pulls,
}

/// Where a node gets images from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cluster) enum Pulls {
    /// From nowhere: they are put into it.
    Nothing,
    /// From registries, which it is told of when they are known.
    FromRegistries,
}

/// Among the secrets of a run, by its folder: whoever has it rules the cluster.
pub(super) fn kubeconfig(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join(run::SECRETS).join("kubeconfig")
}

/// From the bundle, else from PATH, with kind's own choice of a node image.
fn tools(engine: &Engine, bundle: Option<&Bundle>) -> Result<Tools> {
    let tool = bundle.map(|bundle| bundle.tool(TOOL)).transpose()?;
    let program = match tool.flatten() {
        Some(tool) => tool.program().to_owned(),
        None => host::program(TOOL)
            .ok_or_else(|| Failure::new(Exit::Host, "kind is not installed").hint(WHERE))?,
    };
    let image = bundle
        .map(|bundle| bundle.image(NODE_IMAGE, engine))
        .transpose()?;
    Ok(Tools {
        program,
        node_image: image.flatten().map(|image| image.reference().to_owned()),
    })
}

/// The program `kind`, with the image of a node in the engine.
///
/// # Errors
/// When it is not here, or the image cannot be had.
pub(super) fn program(engine: &Engine, bundle: Option<&Bundle>) -> Result<Utf8PathBuf> {
    tools(engine, bundle).map(|tools| tools.program)
}

/// Where kind comes from.
pub(crate) const WHERE: &str =
    "https://kind.sigs.k8s.io says how to get it; or name a folder that holds it with `--bundle`";

fn has_tool(bundle: Option<&Bundle>) -> bool {
    bundle.is_some_and(|bundle| bundle.tools().any(|tool| tool == TOOL))
}

fn has_node_image(bundle: Option<&Bundle>) -> bool {
    bundle.is_some_and(|bundle| bundle.images().any(|image| image == NODE_IMAGE))
}

/// What a cluster would be made with: where it comes from, nothing where it is not here.
#[derive(Debug)]
pub(crate) struct Means {
    /// kind itself. Without it there is no cluster.
    pub(crate) tool: Option<String>,
    /// The image of its nodes. Without it kind asks a registry.
    pub(crate) node_image: Option<String>,
}

/// Looks for them; asks no network.
///
/// # Errors
/// When the engine does not answer.
pub(crate) fn means(bundle: Option<&Bundle>, engine: Option<&Engine>) -> Result<Means> {
    let bundled = |there: bool| there.then(|| "from the bundle".to_owned());
    let has_one = engine.map_or(Ok(false), |engine| engine.has_any("kindest/node"))?;
    let of_engine = engine.filter(|_| has_one).map(|engine| {
        let program = engine.kind.program();
        format!("one is in {program}")
    });
    Ok(Means {
        tool: bundled(has_tool(bundle)).or_else(|| Some(host::program(TOOL)?.to_string())),
        node_image: bundled(has_node_image(bundle)).or(of_engine),
    })
}

/// Why no cluster can be made here with what is here, without asking any network; nothing where one
/// can.
///
/// # Errors
/// When the engine does not answer.
pub(crate) fn absence(bundle: Option<&Bundle>, engine: &Engine) -> Result<Option<String>> {
    let Means { tool, node_image } = means(bundle, Some(engine))?;
    if tool.is_none() {
        return Ok(Some(
            "kind is not installed, and no bundle has it".to_owned(),
        ));
    }
    let program = engine.kind.program();
    Ok(node_image
        .is_none()
        .then(|| format!("no bundle has a node image for kind, and {program} has none either")))
}

/// kind with the provider set on every call, on the network of the run.
pub(super) fn invocation(engine: &Engine, program: &Utf8Path, id: &str) -> Invocation {
    let network = run::kind_network(id);
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
    let name = engine.kind.program();
    let path = host::path();
    match engine.program.parent() {
        Some(folder) if host::program(name).as_ref() != Some(&engine.program) => {
            kind.env("PATH", format!("{folder}:{path}"))
        }
        _ => kind,
    }
}

/// The one call that makes the cluster of a run.
fn command(engine: &Engine, tools: &Tools, id: &str, directory: &Utf8Path) -> Invocation {
    let create = invocation(engine, &tools.program, id)
        .args(["create", "cluster", "--name", id])
        .arg(format!("--config={}", config_file(directory)))
        .arg(format!("--kubeconfig={}", kubeconfig(directory)));
    match &tools.node_image {
        Some(image) => create.args(["--image", image]),
        None => create,
    }
}

fn config_file(directory: &Utf8Path) -> Utf8PathBuf {
    directory.join("kind.json")
}

/// As [`command`], of what a bundle has and nothing was taken of.
pub(super) fn preview(
    engine: &Engine,
    bundle: Option<&Bundle>,
    id: &str,
    directory: &Utf8Path,
) -> Invocation {
    let program = match host::program(TOOL).filter(|_| !has_tool(bundle)) {
        Some(program) => program,
        None => Utf8PathBuf::from(TOOL),
    };
    let image = bundle.and_then(|bundle| bundle.reference(NODE_IMAGE));
    let tools = Tools {
        program,
        node_image: image.map(str::to_owned),
    };
    command(engine, &tools, id, directory)
}

/// Makes the cluster; tells `up` as soon as its node takes images.
pub(super) fn create(purpose: &Purpose, up: &Sender<()>, given_up: &AtomicBool) -> Result<()> {
    let run = &purpose.run;
    let activity = live::begin("creating", format!("kind cluster {}", run.id()));
    let tools = tools(&purpose.engine, purpose.bundle.as_deref())?;
    provide_modules()?;
    let config = config_file(run.directory());
    let text = match purpose.pulls {
        Pulls::Nothing => config::config(purpose.shape),
        Pulls::FromRegistries => config::pulling(config::config(purpose.shape)),
    };
    host::write_cached(&config, &text)?;
    run.journal(&Resource::Cluster(run.id().to_owned()))?;
    let create = command(&purpose.engine, &tools, run.id(), run.directory());
    let log = run.directory().join("kind.log");
    let attempt = || -> Result<(), ProcessError> {
        let following = Follow::start(&create, Followed::Stderr, Some(&log), CREATE_DEADLINE)?;
        while !given_up.load(Ordering::Relaxed) {
            match following.next_within(LOOK_INTERVAL)? {
                Next::Line(line) => {
                    activity.say(step(&line));
                    if line.contains(NODE_IS_UP) {
                        // Whoever waited for it may have been told to end.
                        let _ = up.send(());
                    }
                }
                Next::Nothing => {}
                Next::Ended => return following.finish(),
            }
        }
        Ok(())
    };
    // kind removes what it could not finish by itself.
    again_for_a_port(attempt, || Ok(())).map_err(|error| {
        Failure::new(error.exit(), "kind makes no cluster")
            .hint(format!("{} has every word of kind", report::near(&log)))
            .caused_by(error)
    })?;
    if given_up.load(Ordering::Relaxed) {
        bail!("the cluster was given up, since the run had failed");
    }
    // Should it one day say that in other words.
    let _ = up.send(());
    Ok(())
}

/// The words of a step, without the pictures that kind puts around them.
fn step(line: &str) -> String {
    let words = line.split_whitespace();
    let words = words.filter(|word| word.chars().next().is_some_and(char::is_alphanumeric));
    words.collect::<Vec<_>>().join(" ")
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

/// Puts third-party images into every node, one after the other.
pub(super) fn bring(engine: &Engine, images: &[ThirdPartyImage], nodes: &Nodes) -> Result<()> {
    for image in images {
        let archive = third_party::archive(engine, image)?;
        let _activity = live::begin("loading", image.reference());
        let listed = nodes.exchange(&archive, &[image.reference()])?.after;
        let found = listed.get(image.reference()).map(String::as_str);
        if found != Some(image.image_id()) {
            let message = format!(
                "{archive} was put into {}, and {} is listed as {found:?}, not as {}",
                nodes.names().join(", "),
                image.reference(),
                image.image_id()
            );
            return Err(Failure::new(Exit::Internal, message)
                .hint(format!("remove {archive}, and run again: it is made anew"))
                .into());
        }
    }
    Ok(())
}

/// What is known of a node that is there.
#[derive(Debug)]
pub(super) struct FoundNode {
    /// With the others of the cluster.
    pub(super) nodes: Nodes,
    /// Port of the node, port on 127.0.0.1.
    pub(super) published: BTreeMap<u16, u16>,
    /// Of the node's own version, in the namespace that is named for what owns the cluster.
    pub(super) kubectl: Kubectl,
    /// The names of the images that there were before the run.
    pub(super) images: BTreeSet<String>,
    /// The pods that there were in its own namespace before the run.
    pub(super) pods: Vec<Pod>,
}

/// Looks at the node of a cluster that was just made.
pub(super) fn look_at_node(purpose: &Purpose) -> Result<FoundNode> {
    let found = find_node(&purpose.engine, &purpose.run, purpose.shape)?;
    let found = found.with_context(|| {
        let name = run::kind_node(purpose.run.id());
        format!("kind made a node, and there is no container {name} that runs")
    })?;
    found.nodes.refuse_strays()?;
    Ok(found)
}

/// The nodes of the cluster that `run` owns, if they run.
pub(super) fn find_node(engine: &Engine, run: &Run, shape: Shape) -> Result<Option<FoundNode>> {
    let nodes = Nodes::of(engine, run.id(), shape.nodes_count);
    let name = nodes.first().to_owned();
    let found = engine.containers(nodes.names())?;
    let runs = |name: &&str| {
        found
            .get(*name)
            .is_some_and(|facts| facts.status == "running")
    };
    let Some(facts) = found.get(&name).filter(|_| nodes.names().iter().all(runs)) else {
        return Ok(None);
    };
    let node = Node {
        engine,
        name: &name,
    };
    let kubectl = Kubectl {
        program: kubectl_of(&node, &facts.image_id)?,
        kubeconfig: kubeconfig(run.directory()),
        namespace: run.id().to_owned(),
    };
    let published = facts.ports.clone();
    Ok(Some(FoundNode {
        nodes,
        published,
        kubectl,
        images: BTreeSet::new(),
        pods: Vec::new(),
    }))
}

/// What a node would run, as far as it is known without asking anybody.
pub(super) fn node_image(bundle: Option<&Bundle>) -> String {
    let bundled = bundle.and_then(|bundle| bundle.reference(NODE_IMAGE));
    let id = bundle.and_then(|bundle| bundle.image_id(NODE_IMAGE));
    match bundled {
        Some(reference) => format!("{reference} {}", id.unwrap_or("without an ID")),
        // Each version of kind has an image of its own.
        None => host::version(TOOL).unwrap_or_else(|| "kind's own choice".to_owned()),
    }
}

/// The kubectl of the node's own version, copied out of it once for each node image.
fn kubectl_of(node: &Node<'_>, image_id: &str) -> Result<Utf8PathBuf> {
    let image_id: Digest = image_id.parse()?;
    let kept = host::cache_directory()?.join("kubectl");
    let folder = kept.join(image_id.short());
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

#[cfg(test)]
mod tests {
    use super::step;

    #[test]
    fn a_step_is_told_without_pictures() {
        assert_eq!(
            step(" \u{2022} Starting control-plane \u{1f579}\u{fe0f}  ..."),
            "Starting control-plane"
        );
        assert_eq!(
            step(" \u{2713} Preparing nodes \u{1f4e6} "),
            "Preparing nodes"
        );
    }
}
