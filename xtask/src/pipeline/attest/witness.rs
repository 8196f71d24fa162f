//! What comes and goes while the tests run. A look before and a look after see what stands then; a pod
//! that was there in between may have answered a test as well. So every pod of the run is watched from
//! the one look to the other, and what each container ran is held against what was built. Pods of Jobs
//! are made from a template of the run and come and go as the tests want it; theirs is held so as well.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::Deserialize;

use crate::cluster::kubernetes::namespace::{Deployed, FromTemplate, Namespace};
use crate::cluster::kubernetes::pod::{ContainerStatus, Pod};
use crate::cluster::kubernetes::{Kubectl, PodWatch};
use crate::poll;
use crate::process::follow::Next;
use crate::report;

/// How often it is looked whether the tests have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A watch that goes on until it is asked.
#[derive(Debug)]
pub struct Witness {
    is_over: Arc<AtomicBool>,
    watching: JoinHandle<Result<BTreeSet<String>>>,
}

/// What there may be.
struct Known {
    deployed: Vec<Deployed>,
    templates: Vec<FromTemplate>,
}

#[derive(Deserialize)]
struct Event {
    object: Pod,
}

impl Witness {
    /// Begins to watch the pods of a run; what has happened to them since they were ready is told too.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub(super) fn begin(namespace: &Namespace) -> Result<Self> {
        let kubectl = namespace.kubectl().clone();
        let also = namespace.also().map(str::to_owned);
        let known = Known {
            deployed: namespace.deployed().to_vec(),
            templates: namespace.templates().to_vec(),
        };
        let first = namespace.watch()?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let watching =
            thread::spawn(move || watch(first, &kubectl, also.as_deref(), &known, &over));
        Ok(Self { is_over, watching })
    }

    /// What it has seen that is not what was built.
    ///
    /// # Errors
    /// When the pods could not be watched.
    pub(super) fn ask(self) -> Result<BTreeSet<String>> {
        self.is_over.store(true, Ordering::Relaxed);
        let seen = self.watching.join();
        seen.unwrap_or_else(|_| Err(anyhow!("the thread that watches pods panicked")))
    }
}

fn watch(
    first: PodWatch,
    kubectl: &Kubectl,
    also: Option<&str>,
    known: &Known,
    is_over: &AtomicBool,
) -> Result<BTreeSet<String>> {
    let mut differences = BTreeSet::new();
    let mut watch = first;
    loop {
        match watch.next_within(LOOK_INTERVAL) {
            Ok(Next::Line(line)) => differences.extend(judge_line(&line, known)),
            // What has come until now has been heard.
            Ok(Next::Nothing) if is_over.load(Ordering::Relaxed) => return Ok(differences),
            Ok(Next::Nothing) => {}
            // It begins with the pods that are there.
            Ok(Next::Ended) => {
                if is_over.load(Ordering::Relaxed) {
                    return Ok(differences);
                }
                poll::pause(LOOK_INTERVAL)?;
                watch = kubectl.watch_pods(also)?;
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                return match report::is_signal(&error) {
                    true => Err(error),
                    false => Err(error).context("the pods of the run could not be watched"),
                };
            }
        }
    }
}

/// What of an event is not as it should be. One that is no pod (a bookmark, an error of the server, which
/// then ends the watch) says nothing.
fn judge_line(line: &str, known: &Known) -> Vec<String> {
    let event = serde_json::from_str::<Event>(line).ok();
    event.map_or_else(Vec::new, |event| judge(&event.object, known))
}

fn judge(pod: &Pod, known: &Known) -> Vec<String> {
    let statuses = &pod.status;
    let mains = statuses.container_statuses.iter();
    let inits = statuses.init_container_statuses.iter();
    let ran = |status: &&ContainerStatus| !status.image_id.is_empty();
    let mut templates = known.templates.iter();
    let mut deployed = known.deployed.iter();
    let template = templates.find(|one| super::kubernetes::is_made_from(pod, one));
    let deployment = deployed.find(|one| super::kubernetes::is_of(pod, one));
    match (template, deployment) {
        (None, _) => {}
        (Some(template), None) => return super::kubernetes::compare_made(pod, template),
        (Some(template), Some(deployment)) => {
            return vec![format!(
                "pod {} has the labels of template {} and of {}: what it stood for is not known",
                pod.name(),
                template.name,
                deployment.wanted.deployment,
            )];
        }
    }
    let Some(one) = deployment else {
        let ran: Vec<&ContainerStatus> = mains.chain(inits).filter(ran).collect();
        let told = ran.first().map(|status| {
            format!(
                "pod {} ran {} beside the run, and the run has not put it there",
                pod.name(),
                status.image_id
            )
        });
        return Vec::from_iter(told);
    };
    let is_known = |status: &ContainerStatus| {
        let images = [&one.containers, &one.inits].into_iter();
        let mut images = images.filter_map(|images| images.get(&status.name));
        images.any(|image| image.is_told_as(&status.image_id))
    };
    let other = mains
        .chain(inits)
        .filter(ran)
        .filter(|status| !is_known(status));
    let told = other.map(|status| {
        format!(
            "container {} of pod {} ran {} while the tests ran, which is not what was built",
            status.name,
            pod.name(),
            status.image_id
        )
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Known, judge_line};
    use crate::cluster::kubernetes::namespace::{Deployed, FromTemplate};
    use crate::manifest::Seen;

    fn known() -> Known {
        let image = || Seen::sample("r:1", "sha256:1");
        Known {
            deployed: vec![Deployed::sample("gateway", image())],
            templates: vec![FromTemplate::sample("mend", image())],
        }
    }

    /// A pod of this label with one container, started from a reference, and the image that it ran.
    fn told_of(app: &str, container: &str, reference: &str, image_id: &str) -> Vec<String> {
        let line = json!({"type": "MODIFIED", "object": {
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": app}},
            "spec": {"containers": [{"name": container, "image": reference}]},
            "status": {"containerStatuses": [{"name": container, "imageID": image_id}]},
        }});
        judge_line(&line.to_string(), &known())
    }

    fn told(app: &str, image_id: &str) -> Vec<String> {
        told_of(app, "gateway", "r:1", image_id)
    }

    #[test]
    fn what_ran_in_between_is_held_against_what_was_built() {
        assert_eq!(told("gateway", "sha256:1"), Vec::<String>::new());
        // It has not begun.
        assert_eq!(told("gateway", ""), Vec::<String>::new());
        let other = told("gateway", "sha256:2");
        assert!(other[0].contains("pod p ran sha256:2 while"), "{other:?}");
        let stranger = told("other", "sha256:1");
        assert!(stranger[0].contains("has not put it there"), "{stranger:?}");
        assert_eq!(told("other", ""), Vec::<String>::new());
    }

    #[test]
    fn a_pod_of_a_job_comes_and_goes_and_runs_what_was_built() {
        let none = Vec::<String>::new();
        assert_eq!(told_of("mend", "mend", "r:1", ""), none);
        assert_eq!(told_of("mend", "mend", "r:1", "sha256:1"), none);
        let image = told_of("mend", "mend", "r:1", "sha256:2");
        assert!(image[0].contains("ran sha256:2, which is not"), "{image:?}");
        // Under another name it counts before it has begun.
        let name = told_of("mend", "mend", "r:2", "");
        assert!(
            name[0].contains("was started from r:2 and ran nothing yet"),
            "{name:?}"
        );
        let container = told_of("mend", "other", "r:1", "sha256:1");
        assert!(
            container[0].contains("container other of pod p"),
            "{container:?}"
        );
        // A pod with the labels of nothing in the run is a stranger, whatever it runs.
        let stranger = told_of("mended", "mend", "r:1", "sha256:1");
        assert!(stranger[0].contains("has not put it there"), "{stranger:?}");
    }

    #[test]
    fn a_pod_is_of_a_template_or_of_a_deployment() {
        let image = || Seen::sample("r:1", "sha256:1");
        let known = Known {
            deployed: vec![Deployed::sample("gateway", image())],
            templates: vec![FromTemplate::sample("gateway", image())],
        };
        let line = json!({"type": "MODIFIED", "object": {
            "metadata": {"name": "p", "namespace": "n", "labels": {"app": "gateway"}},
        }});
        let told = judge_line(&line.to_string(), &known);
        assert!(
            told[0].contains("of template gateway and of gateway"),
            "{told:?}"
        );
    }

    #[test]
    fn what_is_no_pod_says_nothing() {
        let error = "{\"type\":\"ERROR\",\"object\":{\"message\":\"x\"}}";
        assert!(judge_line(error, &known()).is_empty());
        assert!(judge_line("torn", &known()).is_empty());
    }
}
