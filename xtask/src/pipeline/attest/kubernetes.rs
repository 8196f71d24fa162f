//! The proof on Kubernetes: the node tells, through the API server, which image each container of
//! each pod runs, init containers included; each process answers through the API server's own proxy,
//! pod by pod, so that no Service can answer in the place of another.

use std::collections::BTreeMap;
use std::thread;

use anyhow::Result;

use super::{Evidence, Finding, PROBES, ask_version, gathered, unused};
use crate::cluster::kubernetes::namespace::{Deployed, FromTemplate, Namespace};
use crate::cluster::kubernetes::pod::{ContainerStatus, Pod, SpecContainer};
use crate::manifest::{Named as _, Seen};
use crate::pipeline::deploy::Deployment;
use crate::report::live;
use crate::threads::joined;

/// Looks at every pod of the run: what was seen, and what differs from what was built.
pub(super) fn look(
    deployment: &Deployment,
    namespace: &Namespace,
) -> Result<(Vec<Evidence>, Vec<String>)> {
    let deployed = namespace.deployed();
    let (pods, answers) = pods_and_answers(namespace)?;
    let _activity = live::begin("attesting", format!("{} pods", pods.len()));
    let answers = &answers;
    let images = deployed
        .iter()
        .flat_map(|one| one.containers.values().chain(one.inits.values()));
    let templates = namespace.templates();
    let images = images.chain(
        templates
            .iter()
            .flat_map(|one| one.containers.values().chain(one.inits.values())),
    );
    let mut differences = unused(deployment, images);
    // One that was told to go serves nobody any more.
    let pods: Vec<&Pod> = pods.iter().filter(|pod| !pod.is_going()).collect();
    let made = |pod: &Pod| templates.iter().find(|one| is_made_from(pod, one));
    let of_templates = pods.iter().filter_map(|pod| Some((pod, made(pod)?)));
    differences.extend(of_templates.flat_map(|(pod, template)| compare_made(pod, template)));
    let strangers = pods
        .iter()
        .filter(|pod| !deployed.iter().any(|one| is_of(pod, one)) && made(pod).is_none());
    differences.extend(strangers.map(|pod| {
        format!(
            "pod {} is in the namespace {}, and the run has not put it there",
            pod.name(),
            pod.namespace()
        )
    }));
    let found = thread::scope(|scope| {
        let mut looking = Vec::new();
        for one in deployed {
            let wanted = &one.wanted;
            let of_it = pods.iter().filter(|pod| is_of(pod, one));
            let of_it: Vec<&Pod> = of_it.copied().collect();
            if of_it.len() != wanted.replicas {
                differences.push(format!(
                    "{} has {} pods, not {}",
                    wanted.deployment,
                    of_it.len(),
                    wanted.replicas
                ));
            }
            for pod in of_it {
                let early = answers.get(pod.name()).cloned();
                looking.push(scope.spawn(move || look_at(deployment, namespace, one, pod, early)));
            }
        }
        let looked: Vec<Result<Vec<Finding>>> = looking.into_iter().map(joined).collect();
        looked
    });
    let found: Result<Vec<Vec<Finding>>> = found.into_iter().collect();
    Ok(gathered(
        found?.into_iter().flatten().collect(),
        differences,
    ))
}

pub(super) fn is_of(pod: &Pod, deployed: &Deployed) -> bool {
    pod.namespace() == deployed.namespace && pod.matches(&deployed.wanted.selector)
}

pub(super) fn is_made_from(pod: &Pod, template: &FromTemplate) -> bool {
    pod.namespace() == template.namespace && pod.matches(&template.labels)
}

/// Where a pod that was made from a template is not what the template says: it comes when the tests
/// want it, so what it was to run counts, and what it ran as far as the node tells.
pub(super) fn compare_made(pod: &Pod, template: &FromTemplate) -> Vec<String> {
    let (spec, status) = (&pod.spec, &pod.status);
    let inits = sides(&spec.init_containers, &status.init_container_statuses);
    let inits = inits.map(|(asked, told)| (asked, told, template.inits.get(&asked.name)));
    let mains = sides(&spec.containers, &status.container_statuses);
    let mains = mains.map(|(asked, told)| (asked, told, template.containers.get(&asked.name)));
    let told = inits.chain(mains).filter_map(|(asked, told, image)| {
        let ran = told.map_or("", |told| told.image_id.as_str());
        let is_so = |image: &Seen| {
            asked.image == image.reference() && (ran.is_empty() || image.is_told_as(ran))
        };
        if image.is_some_and(is_so) {
            return None;
        }
        let built = image.map_or("nothing", Seen::image_id);
        Some(format!(
            "container {} of pod {} was started from {} and ran {}, which is not what was built for {}: {built}",
            asked.name,
            pod.name(),
            asked.image,
            if ran.is_empty() { "nothing yet" } else { ran },
            template.name,
        ))
    });
    told.collect()
}

/// Every pod of the run; and by their names what those have answered, asked meanwhile, that had become
/// ready just before. Each of these questions costs the start of a kubectl.
fn pods_and_answers(namespace: &Namespace) -> Result<(Vec<Pod>, BTreeMap<String, String>)> {
    let just_ready = namespace.take_ready();
    thread::scope(|scope| {
        let asking: Vec<_> = just_ready
            .iter()
            .filter_map(|pod| {
                let deployed = namespace.deployed().iter();
                let mut of_ours = deployed.filter(|one| is_of(pod, one) && has_image_of_ours(one));
                let one = of_ours.next()?;
                Some(scope.spawn(move || {
                    let answer = ask(namespace, one, pod).ok()?;
                    Some((pod.name().to_owned(), answer))
                }))
            })
            .collect();
        let pods = namespace.pods();
        let answers = asking.into_iter().filter_map(|thread| thread.join().ok()?);
        let answers = answers.collect();
        Ok((pods?, answers))
    })
}

fn has_image_of_ours(deployed: &Deployed) -> bool {
    let mut images = deployed.containers.values();
    images.any(|image| image.package().is_some())
}

/// `early` is what the pod has answered already, if it has.
fn look_at(
    deployment: &Deployment,
    namespace: &Namespace,
    deployed: &Deployed,
    pod: &Pod,
    mut early: Option<String>,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (spec, status) = (&pod.spec, &pod.status);
    let inits = sides(&spec.init_containers, &status.init_container_statuses);
    for (asked, told) in inits {
        let image = deployed.inits.get(&asked.name);
        let mut finding = compare(deployed, pod, asked, told, image);
        let ended = told.and_then(|told| told.state.terminated.as_ref());
        if ended.is_none_or(|ended| ended.exit_code != 0) {
            finding.differences.push(format!(
                "init container {} of pod {} should have ended with 0",
                asked.name,
                pod.name()
            ));
        }
        findings.push(finding);
    }
    let mains = sides(&spec.containers, &status.container_statuses);
    for (asked, told) in mains {
        let image = deployed.containers.get(&asked.name);
        let mut finding = compare(deployed, pod, asked, told, image);
        if told.is_none_or(|told| told.state.running.is_none()) {
            finding
                .differences
                .push(format!("{} does not run", pod.state()));
        } else if let Some(package) = image.and_then(Seen::package) {
            let ask = || {
                early
                    .take()
                    .map_or_else(|| ask(namespace, deployed, pod), Ok)
            };
            let (answer, differences) = ask_version(deployment, pod.name(), package, ask)?;
            finding.differences.extend(differences);
            if let Some(evidence) = &mut finding.evidence {
                evidence.version = answer;
            }
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// What was asked for, beside what the node tells of it.
fn sides<'a>(
    asked: &'a [SpecContainer],
    told: &'a [ContainerStatus],
) -> impl Iterator<Item = (&'a SpecContainer, Option<&'a ContainerStatus>)> {
    asked
        .iter()
        .map(|asked| (asked, told.iter().find(|told| told.name == asked.name)))
}

/// The image of a container, against what was built.
fn compare(
    deployed: &Deployed,
    pod: &Pod,
    asked: &SpecContainer,
    told: Option<&ContainerStatus>,
    image: Option<&Seen>,
) -> Finding {
    let mut finding = Finding::default();
    let name = format!("{} of pod {}", asked.name, pod.name());
    let Some(image) = image else {
        finding.differences.push(format!(
            "container {name} runs {}, and no manifest of the run has it",
            asked.image
        ));
        return finding;
    };
    if asked.image != image.reference() {
        finding.differences.push(format!(
            "container {name} was started from {}, not from {}",
            asked.image,
            image.reference()
        ));
    }
    let Some(told) = told else {
        finding
            .differences
            .push(format!("the node tells nothing of container {name}"));
        return finding;
    };
    if !image.is_told_as(&told.image_id) {
        let built = image.manifest().map(|manifest| manifest.oci());
        finding.differences.push(format!(
            "container {name} runs image {}, built was {} ({})",
            told.image_id,
            built.as_deref().unwrap_or(image.image_id()),
            image.reference()
        ));
    }
    let is_init = deployed.inits.contains_key(&asked.name);
    let running = told.state.running.as_ref();
    finding.evidence = Some(Evidence {
        service: deployed.service.clone(),
        container: match is_init {
            true => format!("{}-init-{}", deployed.wanted.deployment, asked.name),
            false => deployed.wanted.deployment.clone(),
        },
        pod: Some(pod.name().to_owned()),
        reference: asked.image.clone(),
        image_id: told.image_id.clone(),
        version: None,
        started_at: running.map_or_else(String::new, |running| running.started_at.clone()),
        restart_count: told.restart_count,
    });
    finding
}

/// Asks `/version` once.
fn ask(namespace: &Namespace, deployed: &Deployed, pod: &Pod) -> Result<String, String> {
    let Some(port) = deployed.ports.get(PROBES) else {
        return Err(format!("no port is named `{PROBES}`"));
    };
    let kubectl = namespace.kubectl();
    let (at, name) = (pod.namespace(), pod.name());
    let path = format!("/api/v1/namespaces/{at}/pods/{name}:{port}/proxy/version");
    kubectl.raw(&path).map_err(|error| format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::sides;
    use crate::cluster::kubernetes::pod::Pod;

    #[test]
    fn each_container_is_seen_beside_what_the_node_tells_of_it() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]},
            "status": {"containerStatuses": [{"name": "b", "imageID": "sha256:1"}]},
        }))
        .unwrap();
        let seen: Vec<_> = sides(&pod.spec.containers, &pod.status.container_statuses).collect();
        assert_eq!(seen[0].0.name, "a");
        assert!(seen[0].1.is_none());
        assert_eq!(seen[1].1.unwrap().image_id, "sha256:1");
    }
}
