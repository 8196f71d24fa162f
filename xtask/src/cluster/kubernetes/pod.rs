//! A pod as the API server tells it: what of it runs, and what will never run. Pure functions from
//! an answer to a judgement.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pod {
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// When it was told to go.
    pub(crate) deletion_timestamp: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Spec {
    pub(crate) containers: Vec<SpecContainer>,
    pub(crate) init_containers: Vec<SpecContainer>,
}

/// A container as it was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SpecContainer {
    pub(crate) name: String,
    pub(crate) image: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) phase: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) container_statuses: Vec<ContainerStatus>,
    pub(crate) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) status: String,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// A container as the node tells it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ContainerStatus {
    pub(crate) name: String,
    /// `sha256:<config>` of an image that was put on the node, `<name>@sha256:<manifest>` of one
    /// that was pulled.
    #[serde(rename = "imageID")]
    pub(crate) image_id: String,
    pub(crate) restart_count: u64,
    pub(crate) state: State,
    pub(crate) last_state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct State {
    pub(crate) waiting: Option<Waiting>,
    pub(crate) running: Option<Running>,
    pub(crate) terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Waiting {
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Running {
    pub(crate) started_at: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Terminated {
    pub(crate) exit_code: i32,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

impl Pod {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Where it is.
    pub(crate) fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    /// It was told to go.
    pub(crate) const fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it carries all these labels.
    pub(crate) fn matches(&self, selector: &BTreeMap<String, String>) -> bool {
        let labels = &self.metadata.labels;
        selector
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value))
    }

    /// How often its containers were started again.
    pub(crate) fn restarts(&self) -> u64 {
        let statuses = self.status.container_statuses.iter();
        statuses.map(|status| status.restart_count).sum()
    }

    /// Whether it takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        !self.is_going() && self.condition("Ready").is_some_and(|c| c.status == "True")
    }

    fn condition(&self, kind: &str) -> Option<&Condition> {
        let mut conditions = self.status.conditions.iter();
        conditions.find(|condition| condition.kind == kind)
    }

    /// The image that a container of it waits for and the node does not have, if one does.
    pub(crate) fn missing_image(&self) -> Option<&str> {
        let lacks = |status: &&ContainerStatus| {
            let waiting = status.state.waiting.as_ref();
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            reason.is_some_and(|reason| OF_IMAGE.contains(&reason))
        };
        let lacking = self.statuses().find(lacks)?;
        let mut containers = self
            .spec
            .init_containers
            .iter()
            .chain(&self.spec.containers);
        let container = containers.find(|container| container.name == lacking.name)?;
        Some(&container.image)
    }

    /// The container that has ended and should not have: what it said last is why.
    pub(crate) fn ended(&self) -> Option<&str> {
        let has_ended = |status: &&ContainerStatus| {
            let last = [&status.state, &status.last_state];
            let mut ended = last.iter().filter_map(|state| state.terminated.as_ref());
            ended.any(|ended| ended.exit_code != 0)
        };
        let inits = self.status.init_container_statuses.iter().find(has_ended);
        let mut mains = self.status.container_statuses.iter();
        let main = || {
            mains.find(|status| {
                status.state.terminated.is_some() || status.last_state.terminated.is_some()
            })
        };
        inits.or_else(main).map(|status| status.name.as_str())
    }

    fn statuses(&self) -> impl Iterator<Item = &ContainerStatus> {
        let inits = self.status.init_container_statuses.iter();
        inits.chain(&self.status.container_statuses)
    }

    /// Why it will not become what it should be, if that is certain. A container that has ended
    /// though it should stay has failed, also where the node starts it again: what is deployed once,
    /// into an empty namespace, has no reason to end.
    pub(crate) fn failure(&self) -> Option<String> {
        let name = self.name();
        if self.status.phase == "Failed" {
            let reason = words(
                self.status.reason.as_deref(),
                self.status.message.as_deref(),
            );
            if !reason.is_empty() {
                return Some(format!("pod {name} failed: {reason}"));
            }
        }
        let inits = self.status.init_container_statuses.iter();
        let inits = inits.filter_map(|status| failed_init(name, status));
        let mains = self.status.container_statuses.iter();
        let mains = mains.filter_map(|status| failed_main(name, status));
        inits.chain(mains).next()
    }

    /// Why no node takes it. On nodes that are coming up that passes.
    pub(crate) fn unschedulable(&self) -> Option<String> {
        let condition = self.condition("PodScheduled")?;
        let message = condition.message.as_deref().unwrap_or_default();
        let is_so = condition.reason.as_deref() == Some("Unschedulable");
        is_so.then(|| format!("pod {} fits on no node: {message}", self.name()))
    }

    /// How it stands, in a few words.
    pub(crate) fn state(&self) -> String {
        let name = self.name();
        let statuses = self.status.init_container_statuses.iter();
        let statuses = statuses.chain(&self.status.container_statuses);
        let waiting = statuses
            .filter_map(|status| status.state.waiting.as_ref())
            .find_map(|waiting| waiting.reason.as_deref());
        let restarts = match self.restarts() {
            0 => String::new(),
            count => format!(", restarted {count} times"),
        };
        let what = match waiting {
            _ if self.is_going() => "is going",
            Some(reason) => reason,
            None if self.is_ready() => "ready",
            None if self.status.phase == "Running" => "running, not ready",
            None => self.status.phase.as_str(),
        };
        format!("{name}: {what}{restarts}")
    }
}

/// Those of [`HOPELESS`] that are about an image.
const OF_IMAGE: [&str; 5] = [
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
];

/// Reasons for waiting that no wait will mend: nothing puts an image on a node later, and nothing
/// mends a manifest. Nor is a pull that failed tried again, though the kubelet would: the run has seen
/// the image in its registry a moment ago, so what is wrong is the way there from the node, its trust or
/// its credentials. Ten and more seconds later the words would be the same, and of a network that was
/// gone for a second whoever waits learns sooner by running again.
const HOPELESS: [&str; 9] = [
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

fn hopeless(pod: &str, status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if !HOPELESS.contains(&reason) {
        return None;
    }
    let ended = status.last_state.terminated.as_ref();
    let ended = ended.map_or_else(String::new, |ended| {
        format!(", its process ended with exit code {}", ended.exit_code)
    });
    Some(format!(
        "container {} of pod {pod} does not run: {}{ended}",
        status.name,
        words(Some(reason), waiting.message.as_deref())
    ))
}

fn failed_init(pod: &str, status: &ContainerStatus) -> Option<String> {
    let last = [&status.state, &status.last_state];
    let mut ended = last
        .into_iter()
        .filter_map(|state| state.terminated.as_ref());
    let failed = ended.find(|ended| ended.exit_code != 0);
    match failed {
        Some(failed) => Some(format!(
            "init container {} of pod {pod} ended with {}",
            status.name,
            told(failed)
        )),
        None => hopeless(pod, status),
    }
}

fn failed_main(pod: &str, status: &ContainerStatus) -> Option<String> {
    let last = [&status.state, &status.last_state];
    let mut ended = last
        .into_iter()
        .filter_map(|state| state.terminated.as_ref());
    match ended.next() {
        Some(ended) => Some(format!(
            "container {} of pod {pod} ended before it was ready, with {}",
            status.name,
            told(ended)
        )),
        None => hopeless(pod, status),
    }
}

fn told(ended: &Terminated) -> String {
    let words = words(ended.reason.as_deref(), ended.message.as_deref());
    match words.as_str() {
        "" => format!("exit code {}", ended.exit_code),
        words => format!("exit code {} ({words})", ended.exit_code),
    }
}

fn words(reason: Option<&str>, message: Option<&str>) -> String {
    let parts: Vec<&str> = [reason, message].into_iter().flatten().collect();
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Pod;

    fn pod(status: serde_json::Value) -> Pod {
        let pod =
            json!({"metadata": {"name": "gateway-1", "labels": {"a": "b"}}, "status": status});
        serde_json::from_value(pod).unwrap()
    }

    fn container(state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        json!({"containerStatuses": [{
            "name": "gateway", "imageID": "sha256:1", "restartCount": 0, "state": state, "lastState": last,
        }]})
    }

    #[track_caller]
    fn fails(status: serde_json::Value, words: &[&str]) {
        let failure = pod(status).failure().expect("a failure");
        for word in words.iter().chain(&["gateway-1"]) {
            assert!(failure.contains(word), "no `{word}` in: {failure}");
        }
    }

    #[test]
    fn what_no_wait_will_mend_is_a_failure() {
        let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "because"}});
        for reason in super::HOPELESS {
            fails(
                container(waiting(reason), json!({})),
                &[reason, "because", "container gateway"],
            );
        }
        for reason in ["ContainerCreating", "PodInitializing"] {
            let status = container(waiting(reason), json!({}));
            assert_eq!(pod(status).failure(), None);
        }
        let scheduled = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no cpu",
        }]});
        let homeless = pod(scheduled);
        assert_eq!(homeless.failure(), None);
        assert!(homeless.unschedulable().unwrap().contains("no cpu"));
    }

    #[test]
    fn a_process_that_ended_is_a_failure_also_when_it_was_started_again() {
        let ended = json!({"terminated": {"exitCode": 2, "reason": "Error"}});
        let running = json!({"running": {"startedAt": "2026-11-25T10:00:00Z"}});
        fails(
            container(ended.clone(), json!({})),
            &["exit code 2 (Error)"],
        );
        fails(container(running.clone(), ended.clone()), &["exit code 2"]);
        let crash = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        fails(container(crash, ended), &["exit code 2"]);
        assert_eq!(pod(container(running, json!({}))).failure(), None);
    }

    #[test]
    fn what_a_failure_is_about_is_known() {
        let with = |status: serde_json::Value| {
            let mut pod = pod(status);
            let spec = json!({
                "containers": [{"name": "gateway", "image": "localhost/gateway:x"}],
                "initContainers": [{"name": "initdb", "image": "localhost/postgres:15"}],
            });
            pod.spec = serde_json::from_value(spec).unwrap();
            pod
        };
        let waiting = |reason: &str| container(json!({"waiting": {"reason": reason}}), json!({}));
        for reason in super::OF_IMAGE {
            assert!(super::HOPELESS.contains(&reason));
            let without = with(waiting(reason));
            assert_eq!(without.missing_image(), Some("localhost/gateway:x"));
            assert_eq!(without.ended(), None);
        }
        assert_eq!(with(waiting("CrashLoopBackOff")).missing_image(), None);
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let running = json!({"running": {"startedAt": "2026-11-25T10:00:00Z"}});
        for (state, last) in [(ended(0), json!({})), (running.clone(), ended(1))] {
            assert_eq!(with(container(state, last)).ended(), Some("gateway"));
        }
        assert_eq!(with(container(running, json!({}))).ended(), None);
        let init = |code: i32| json!({"initContainerStatuses": [{"name": "initdb", "state": ended(code)}]});
        assert_eq!(with(init(1)).ended(), Some("initdb"));
        assert_eq!(with(init(0)).ended(), None);
        let init = json!({"waiting": {"reason": "ErrImagePull"}});
        let init = json!({"initContainerStatuses": [{"name": "initdb", "state": init}]});
        assert_eq!(with(init).missing_image(), Some("localhost/postgres:15"));
    }

    #[test]
    fn an_init_container_may_end_well() {
        let init = |code: i32| {
            json!({"initContainerStatuses": [{
                "name": "initdb", "state": {"terminated": {"exitCode": code, "message": "no room"}},
            }]})
        };
        assert_eq!(pod(init(0)).failure(), None);
        fails(init(1), &["initdb", "exit code 1", "no room"]);
    }

    #[test]
    fn a_pod_that_goes_is_not_ready() {
        let status =
            json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
        let mut ready = pod(status);
        assert!(ready.is_ready());
        assert_eq!(ready.state(), "gateway-1: ready");
        ready.metadata.deletion_timestamp = Some("now".to_owned());
        assert!(!ready.is_ready());
        assert!(ready.matches(&[("a".to_owned(), "b".to_owned())].into()));
        assert!(!ready.matches(&[("a".to_owned(), "c".to_owned())].into()));
    }
}
