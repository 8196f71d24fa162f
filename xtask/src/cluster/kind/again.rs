//! A kept cluster, used again: seen to be there and to answer, rid of what earlier runs left in it,
//! and what third parties hold in it made as new. And the end of a run there: its namespace goes, the
//! cluster stays.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use serde_json::Value;

use super::Wanted;
use super::config::Shape;
use super::create::{FoundNode, find_node};
use super::kept;
use super::nodes::Nodes;
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::documents::LABEL_CLUSTER;
use crate::cluster::kubernetes::pod::Pod;
use crate::process::{self, Input};
use crate::report::{self, live};
use crate::run::{self, Run};
use crate::secrets;
use crate::source::workspace::Workspace;
use crate::third_party::{Renewal, ThirdPartyImage};
use crate::threads;

/// A command in a container of a busy host.
const RENEW_DEADLINE: Duration = Duration::from_secs(20);
/// The API server takes it; what it takes to be done is its own affair.
const DELETE_DEADLINE: Duration = Duration::from_secs(60);

/// What stays, and how it is made as new.
#[derive(Clone, Debug)]
pub(super) struct Staying {
    /// The Deployment.
    pub(super) name: String,
    pub(super) selector: BTreeMap<String, String>,
    pub(super) replicas: usize,
    /// What its container runs.
    pub(super) reference: String,
    pub(super) renewal: Renewal,
}

/// What must stand in the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wishes<'a> {
    pub(super) staying: &'a [Staying],
    /// How often the Deployment of each had been changed when the cluster was made.
    pub(super) generations: &'a BTreeMap<String, i64>,
}

/// How often the Deployment of each has been changed.
///
/// # Errors
/// With the server's own words, or when one is not there.
pub(super) fn generations(kubectl: &Kubectl, staying: &[Staying]) -> Result<BTreeMap<String, i64>> {
    let path = format!("/apis/apps/v1/namespaces/{}/deployments", kubectl.namespace);
    let deployments: Vec<Value> = kubectl.list(&path)?;
    let told = staying.iter().map(|one| {
        let named = |deployment: &&Value| deployment["metadata"]["name"] == one.name.as_str();
        let found = deployments.iter().find(named).and_then(generation);
        let found = found.with_context(|| format!("there is no Deployment {}", one.name))?;
        Ok((one.name.clone(), found))
    });
    told.collect()
}

fn generation(deployment: &Value) -> Option<i64> {
    deployment["metadata"]["generation"].as_i64()
}

/// What is in a cluster.
#[derive(Debug, Default)]
struct Inside {
    nodes: Vec<Value>,
    deployments: Vec<Value>,
    namespaces: Vec<Value>,
    pods: Vec<Pod>,
}

impl Inside {
    /// By one command: each costs its start, and a compiler wants the processors.
    fn look(kubectl: &Kubectl) -> Result<Self> {
        let mut inside = Self::default();
        for item in kubectl.get_all("nodes,namespaces,deployments,pods")? {
            match item["kind"].as_str() {
                Some("Node") => inside.nodes.push(item),
                Some("Deployment") => inside.deployments.push(item),
                Some("Namespace") => inside.namespaces.push(item),
                Some("Pod") => {
                    let pod = serde_json::from_value(item).context("cannot read a pod")?;
                    inside.pods.push(pod);
                }
                _ => {}
            }
        }
        Ok(inside)
    }
}

/// The node of the cluster that `owner` owns; else why the cluster is of no use: it does not run, it
/// has other images, or its API server does not answer. What earlier runs left in it is told to go.
pub(super) fn find(
    wanted: &Wanted<'_>,
    owner: &Run,
    shape: Shape,
    third_party: &[ThirdPartyImage],
    wishes: Wishes<'_>,
) -> Result<Result<FoundNode, String>> {
    let Some(mut found) = find_node(wanted.engine, owner, shape)? else {
        return Ok(Err("not every node of it runs".to_owned()));
    };
    let looked = look(
        &found.nodes,
        &found.kubectl,
        third_party,
        wishes,
        wanted.workspace,
    );
    match looked {
        Ok((images, pods)) => {
            found.images = images;
            found.pods = pods;
            Ok(Ok(found))
        }
        Err(error) if report::is_signal(&error) => Err(error),
        Err(error) => Ok(Err(format!("{error:#}"))),
    }
}

/// Gives the names of the images that the nodes have, and the pods of the cluster's own namespace.
fn look(
    nodes: &Nodes,
    kubectl: &Kubectl,
    third_party: &[ThirdPartyImage],
    wishes: Wishes<'_>,
    workspace: &Workspace,
) -> Result<(BTreeSet<String>, Vec<Pod>)> {
    let names: Vec<&str> = third_party.iter().map(ThirdPartyImage::reference).collect();
    thread::scope(|scope| {
        let images = scope.spawn(|| nodes.survey(&names));
        let inside = Inside::look(kubectl)?;
        let left = leave_none(kubectl, &inside.namespaces, workspace);
        if let Some(obstacle) = obstacle(&inside, kubectl, wishes) {
            bail!("{obstacle}");
        }
        let (images, all) = threads::joined(images)?;
        for image in third_party {
            if images.get(image.reference()).map(String::as_str) != Some(image.image_id()) {
                bail!("not every node has {}", image.reference());
            }
        }
        left?;
        let mut pods = inside.pods;
        pods.retain(|pod| pod.namespace() == kubectl.namespace);
        Ok((all, pods))
    })
}

/// Ends what earlier runs left in the cluster: they died, or were kept until now.
fn leave_none(kubectl: &Kubectl, namespaces: &[Value], workspace: &Workspace) -> Result<()> {
    let all = namespaces.iter().map(|namespace| &namespace["metadata"]);
    let of_runs = all.filter(|metadata| metadata["labels"].get(LABEL_CLUSTER).is_some());
    for left in of_runs.filter(|metadata| metadata["deletionTimestamp"].is_null()) {
        let name = left["name"].as_str().unwrap_or_default();
        if name == kubectl.namespace {
            continue;
        }
        end_namespace(&kubectl.at(name))?;
        let directory = run::runs_directory(workspace).join(name);
        if kept::is_guest_of(&directory, &kubectl.namespace) {
            if run::is_kept(&directory) {
                report::note(&format!("{name} is not kept any more"));
            }
            run::end_guest(&directory, "the next run on its cluster")?;
        }
    }
    Ok(())
}

/// What stands in the way of a run in the cluster, where something does: a node that takes no pods, a
/// Deployment among what stays that somebody has changed, or a pod that no run has put there. A
/// Deployment that is not there is made anew.
fn obstacle(inside: &Inside, kubectl: &Kubectl, wishes: Wishes<'_>) -> Option<String> {
    for node in &inside.nodes {
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let ready = conditions.find(|condition| condition["type"] == "Ready");
        if ready.is_none_or(|ready| ready["status"] != "True") {
            let name = node["metadata"]["name"].as_str().unwrap_or_default();
            return Some(format!("node {name} is not ready"));
        }
    }
    for deployment in &inside.deployments {
        let metadata = &deployment["metadata"];
        let name = metadata["name"].as_str().unwrap_or_default();
        let made = wishes.generations.get(name);
        let is_ours = metadata["namespace"] == kubectl.namespace.as_str();
        if is_ours && made.is_some() && generation(deployment).as_ref() != made {
            return Some(format!("somebody has changed its Deployment {name}"));
        }
    }
    let is_known = |pod: &Pod| {
        let mut staying = wishes.staying.iter();
        staying.any(|one| pod.matches(&one.selector))
    };
    let pods = inside.pods.iter();
    let mut there = pods.filter(|pod| pod.namespace() == kubectl.namespace);
    let stranger = there.find(|pod| !is_known(pod));
    stranger.map(|pod| format!("somebody else's pod {} is in it", pod.name()))
}

/// Takes a namespace out of the way of others at once, ports of nodes above all, and tells it to go.
///
/// # Errors
/// With the server's own words.
pub(super) fn end_namespace(kubectl: &Kubectl) -> Result<()> {
    let namespace = &kubectl.namespace;
    let own = format!("--namespace={namespace}");
    let soon = ["--wait=false", "--grace-period=1", "--ignore-not-found"];
    // Services first: whoever comes next has the same ports.
    let inside = kubectl
        .invocation()
        .args(["delete", "services,deployments,pods", "--all", &own])
        .args(soon);
    process::capture(&inside, DELETE_DEADLINE)?;
    let whole = kubectl
        .invocation()
        .args(["delete", "namespace", namespace, "--wait=false"])
        .arg("--ignore-not-found");
    process::capture(&whole, DELETE_DEADLINE)?;
    Ok(())
}

/// Makes what third parties hold as new. One whose process is not the first of its pod, that is not
/// what is wanted, or that does not do as it is told, gets a new pod instead; the roll-out waits for
/// that. `pods` are those that were there a moment ago: one that has gone since does not do as it is
/// told, and one that was restarted since is found by the proof, which wants no restart.
pub(super) fn renew(
    kubectl: &Kubectl,
    staying: &[Staying],
    pods: &[Pod],
    run_directory: &Utf8Path,
) -> Result<()> {
    for one in staying {
        let of_it = pods.iter().filter(|pod| !pod.is_going());
        let of_it: Vec<&Pod> = of_it.filter(|pod| pod.matches(&one.selector)).collect();
        if of_it.len() == one.replicas && of_it.iter().all(|pod| is_as_made(pod, one)) {
            let mut renewing = of_it.iter();
            let renewed = renewing.try_for_each(|pod| renew_in(kubectl, pod, one, run_directory));
            match renewed {
                Ok(()) => continue,
                Err(error) if report::is_signal(&error) => return Err(error),
                Err(error) => report::note(&format!(
                    "{} cannot be made as new, and is made anew: {error:#}",
                    one.name
                )),
            }
        }
        of_it.iter().try_for_each(|pod| replace(kubectl, pod))?;
    }
    Ok(())
}

fn is_as_made(pod: &Pod, wanted: &Staying) -> bool {
    let runs = pod
        .spec
        .containers
        .first()
        .map(|container| &container.image);
    pod.is_ready() && pod.restarts() == 0 && runs == Some(&wanted.reference)
}

fn renew_in(
    kubectl: &Kubectl,
    pod: &Pod,
    staying: &Staying,
    run_directory: &Utf8Path,
) -> Result<()> {
    let _activity = live::begin("renewing", staying.name.as_str());
    let renewal = &staying.renewal;
    let mut input = String::new();
    if let Some(password) = &renewal.password {
        let path = secrets::passwords(run_directory).join(password);
        input = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        input.push('\n');
    }
    input.push_str(&renewal.input);
    let container = pod
        .spec
        .containers
        .first()
        .context("a pod without a container")?;
    let exec = kubectl
        .invocation()
        .args(["exec", "--stdin", pod.name()])
        .arg(format!("--namespace={}", kubectl.namespace))
        .arg(format!("--container={}", container.name))
        .arg("--")
        .args(renewal.command.iter().map(String::as_str));
    let input = Input::Bytes(input.into_bytes());
    process::capture_with_input(&exec, &input, RENEW_DEADLINE)?;
    Ok(())
}

fn replace(kubectl: &Kubectl, pod: &Pod) -> Result<()> {
    let delete = kubectl
        .invocation()
        .args(["delete", "pod", pod.name(), "--wait=false"])
        .args(["--grace-period=1", "--ignore-not-found"])
        .arg(format!("--namespace={}", kubectl.namespace));
    process::capture(&delete, DELETE_DEADLINE)?;
    Ok(())
}
