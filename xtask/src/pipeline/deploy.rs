//! Phase 4: the manifests with the references of phase 0, rolled out and reachable. Makes no
//! reference: it takes those that were seen loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::Images;
use super::load::Loaded;
use crate::cluster::Cluster;
use crate::cluster::kubernetes::namespace::{Deployed, Namespace};
use crate::cluster::local::{Local, Planned, write_config};
use crate::digest::Digest;
use crate::host;
use crate::manifest::{Manifests, References, Seen};
use crate::report;
use crate::run::Run;
use crate::secrets::{self, Secrets};
use crate::source::workspace::Workspace;

/// Everything that was deployed is ready and answered from outside.
#[derive(Debug)]
pub struct Deployment {
    images: Images<Loaded>,
}

impl Deployment {
    /// The images that were deployed.
    #[must_use]
    pub const fn images(&self) -> &Images<Loaded> {
        &self.images
    }
}

/// `run.json`: what a test or a person needs to reach the run. No ports of the host: an engine
/// may give others after a restart, so it is asked at each use.
#[derive(Serialize)]
struct RunFile<'a> {
    id: &'a str,
    target: &'a str,
    cluster: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<Kubernetes<'a>>,
    kept: bool,
    run_directory: Utf8PathBuf,
    tests_source_digest: Digest,
    profile: &'static str,
    declared_digest: Digest,
    /// Of the bytes of each manifest that was read.
    manifests: &'a BTreeMap<String, Digest>,
    engine: EngineFile<'a>,
    services: BTreeMap<&'a str, Service<'a>>,
    tokens_directory: Utf8PathBuf,
    passwords_directory: Utf8PathBuf,
}

/// How what runs on Kubernetes is reached.
#[derive(Serialize)]
struct Kubernetes<'a> {
    kubectl: &'a Utf8Path,
    kubeconfig: &'a Utf8Path,
    namespace: &'a str,
    /// A container of the engine, that publishes the node's ports; without it `kubectl port-forward`
    /// leads in.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
}

#[derive(Serialize)]
struct EngineFile<'a> {
    program: &'a str,
    environment: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Service<'a> {
    /// On Kubernetes the names of Deployments: pods come and go.
    containers: Vec<&'a str>,
    /// On Kubernetes: where they are, if not in the namespace of the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    ports: &'a BTreeMap<String, u16>,
    /// On Kubernetes: the ports of the node that lead there.
    #[serde(skip_serializing_if = "Option::is_none")]
    node_ports: Option<&'a BTreeMap<String, u16>>,
    source_digest: Option<Digest>,
    reference: Option<String>,
    image_id: &'a str,
    /// In the registry that it is pulled from; a node tells the one or the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<String>,
    config_maps: BTreeMap<&'a str, Utf8PathBuf>,
}

/// Deploys third parties and every image, and waits until each is ready. Writes `run.json`.
/// The manifests were read when the run began: what is edited later belongs to the next one.
///
/// Where the run has deployed before, a container that the engine shows to be exactly what is wanted
/// now is left as it is, through the same observation: it is waited for and proved like the others.
///
/// # Errors
/// [`crate::exit::Exit::Manifest`] for a manifest that is refused; [`crate::exit::Exit::Deploy`]
/// when a container ends or a readiness does not come in time: with the last answer and the last log lines.
pub fn deploy(
    workspace: &Workspace,
    run: &Run,
    secrets: &Secrets,
    manifests: &Manifests,
    images: Images<Loaded>,
    cluster: &mut Cluster,
    deadline: Duration,
) -> Result<Deployment> {
    let deadline_of = |service: &str| {
        ready_deadline(workspace, service).map_or(deadline, |own| own.min(deadline))
    };
    tell("thrown away with the run", &manifests.thrown_away());
    match cluster {
        Cluster::Local(local) => {
            let references = References::of(&images, local.third_party());
            tell("void without Kubernetes", &manifests.void());
            let pods = local.plan(run, secrets, manifests, &references)?;
            write_config(run, manifests)?;
            local.roll_out(run, pods, deadline_of)?;
        }
        Cluster::Kind(kind) => {
            let references = References::of(&images, kind.namespace().third_party());
            kind.roll_out(manifests, &references, deadline_of)?;
        }
        Cluster::Context(context) => {
            let references = context.references(&images)?;
            context.roll_out(manifests, &references, deadline_of)?;
        }
    }
    write_run_file(workspace, run, secrets, manifests, &images, cluster)?;
    Ok(Deployment { images })
}

/// Nothing of a manifest is skipped or replaced in silence; a watch says it once.
fn tell(what: &str, of_manifests: &[String]) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if of_manifests.is_empty() {
        return;
    }
    let line = format!("{what}: {}", of_manifests.join("; "));
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert(line.clone()) {
        report::note(&line);
    }
}

fn ready_deadline(workspace: &Workspace, service: &str) -> Option<Duration> {
    let e2e = workspace.package(service).ok()?.e2e.as_ref()?;
    e2e.ready_deadline_seconds.map(Duration::from_secs)
}

fn write_run_file(
    workspace: &Workspace,
    run: &Run,
    made: &Secrets,
    manifests: &Manifests,
    images: &Images<Loaded>,
    cluster: &Cluster,
) -> Result<()> {
    let mut services: BTreeMap<&str, Service<'_>> = BTreeMap::new();
    let (name, engine, kubernetes) = match cluster {
        Cluster::Local(local) => {
            for container in local.containers() {
                let known = services
                    .entry(container.service.as_str())
                    .or_insert_with(|| service(run, images, container));
                known.containers.push(&container.name);
            }
            ("local".to_owned(), local.engine(), None)
        }
        Cluster::Kind(kind) => {
            for deployed in kind.namespace().deployed() {
                let node_ports = kind.node_ports(&deployed.wanted.deployment);
                let service = service_of_kubernetes(images, run.id(), deployed, node_ports)?;
                services.insert(&deployed.service, service);
            }
            let kubernetes = kubernetes(kind.namespace(), Some(kind.node()));
            ("kind".to_owned(), kind.engine(), Some(kubernetes))
        }
        Cluster::Context(context) => {
            for deployed in context.namespace().deployed() {
                let service =
                    service_of_kubernetes(images, context.namespace().name(), deployed, None)?;
                services.insert(&deployed.service, service);
            }
            let kubernetes = kubernetes(context.namespace(), None);
            (context.to_string(), context.engine(), Some(kubernetes))
        }
    };
    let tests = images.frozen().snapshot().package(&workspace.tests);
    let file = RunFile {
        id: run.id(),
        target: run.target().as_str(),
        cluster: name,
        kubernetes,
        kept: false,
        run_directory: run.directory().to_owned(),
        tests_source_digest: tests.source(),
        declared_digest: secrets::declared_digest(
            workspace,
            workspace.target(run.target().as_str())?,
        )?,
        profile: images.frozen().recipe().profile().as_str(),
        manifests: manifests.digests(),
        engine: EngineFile {
            program: engine.program.as_str(),
            environment: &engine.environment,
        },
        services,
        tokens_directory: made.tokens(),
        passwords_directory: made.passwords(),
    };
    host::write_cached(&run.directory().join("run.json"), &file)
}

fn kubernetes<'a>(namespace: &'a Namespace, node: Option<&'a str>) -> Kubernetes<'a> {
    let kubectl = namespace.kubectl();
    Kubernetes {
        kubectl: &kubectl.program,
        kubeconfig: &kubectl.kubeconfig,
        namespace: &kubectl.namespace,
        node,
    }
}

fn service<'a>(run: &Run, images: &Images<Loaded>, container: &'a Planned<Seen>) -> Service<'a> {
    let package = container.image().package();
    let image = package.and_then(|package| images.get(package));
    let config_maps = container.config_maps.iter();
    Service {
        containers: Vec::new(),
        namespace: None,
        ports: &container.ports,
        node_ports: None,
        source_digest: image.map(|image| image.built().source()),
        reference: image.map(|image| image.built().reference().to_string()),
        image_id: container.image().image_id(),
        manifest_digest: None,
        config_maps: config_maps
            .map(|name| (name.as_str(), Local::config_directory(run, name)))
            .collect(),
    }
}

fn service_of_kubernetes<'a>(
    images: &Images<Loaded>,
    run_namespace: &str,
    deployed: &'a Deployed,
    node_ports: Option<&'a BTreeMap<String, u16>>,
) -> Result<Service<'a>> {
    let mut containers = deployed.containers.values();
    let seen = containers.next().context("a pod without a container")?;
    let image = seen.package().and_then(|package| images.get(package));
    Ok(Service {
        containers: vec![&deployed.wanted.deployment],
        namespace: Some(deployed.namespace.as_str()).filter(|own| *own != run_namespace),
        ports: &deployed.ports,
        node_ports,
        source_digest: image.map(|image| image.built().source()),
        reference: image.map(|image| image.built().reference().to_string()),
        image_id: seen.image_id(),
        manifest_digest: seen.manifest().map(|manifest| manifest.oci()),
        config_maps: BTreeMap::new(),
    })
}
