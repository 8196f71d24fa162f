//! Deployments and pods as `kubectl` tells them in JSON, and what can be read from them. Pure: it
//! asks nobody.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::cluster::State;

/// Answer of `kubectl get deployments,pods -o json`.
#[derive(Debug, Deserialize)]
pub struct Listing {
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind")]
enum Item {
    Deployment(Deployment),
    Pod(Pod),
}

/// What makes the pods of one container of a run.
#[derive(Debug, Deserialize)]
pub struct Deployment {
    metadata: Metadata,
    spec: DeploymentSpec,
}

/// A pod; its process is that of its first container.
#[derive(Clone, Debug, Deserialize)]
pub struct Pod {
    metadata: Metadata,
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    creation_timestamp: Option<String>,
    deletion_timestamp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct DeploymentSpec {
    selector: Selector,
    template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<Value>,
}

#[derive(Debug, Deserialize)]
struct Template {
    spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize)]
struct PodSpec {
    #[serde(default, rename = "nodeName")]
    node_name: String,
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    name: String,
    image: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    config_map: Option<ConfigMapSource>,
    empty_dir: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
struct ConfigMapSource {
    name: String,
    #[serde(default)]
    items: Vec<KeyToPath>,
}

#[derive(Clone, Debug, Deserialize)]
struct KeyToPath {
    key: String,
    path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    #[serde(rename = "containerID", default)]
    container_id: String,
    #[serde(rename = "imageID", default)]
    image_id: String,
    #[serde(default)]
    restart_count: u64,
    #[serde(default)]
    state: ContainerState,
    #[serde(default)]
    last_state: ContainerState,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ContainerState {
    running: Option<Running>,
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    started_at: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Waiting {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    #[serde(rename = "containerID", default)]
    container_id: String,
}

/// The process of a pod, and the names under which it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The pod.
    pub pod: String,
    /// The pod's unique ID.
    pub uid: String,
    /// The container in the pod.
    pub container: String,
    /// The container in the runtime, without `containerd://`.
    pub id: String,
    /// Where it runs.
    pub node: String,
    /// The pod's address.
    pub address: Option<IpAddr>,
    /// When it was started.
    pub started_at: String,
}

impl Listing {
    /// Reads it.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("Deployments and pods: {error}"))
    }

    /// The Deployment of this name.
    ///
    /// # Errors
    /// When there is none, or its selector cannot be read.
    pub fn deployment(&self, name: &str) -> Result<&Deployment, String> {
        let found = self.items.iter().find_map(|item| match item {
            Item::Deployment(deployment) if deployment.metadata.name == name => Some(deployment),
            _ => None,
        });
        let deployment = found.ok_or_else(|| format!("there is no Deployment {name}"))?;
        let selector = &deployment.spec.selector;
        if selector.match_labels.is_empty() || !selector.match_expressions.is_empty() {
            return Err(format!(
                "the selector of Deployment {name} must have matchLabels and nothing else"
            ));
        }
        Ok(deployment)
    }

    /// The pods of a Deployment that are not about to go, the oldest first.
    #[must_use]
    pub fn living(&self, deployment: &Deployment) -> Vec<&Pod> {
        let mut pods: Vec<&Pod> = self
            .items
            .iter()
            .filter_map(|item| match item {
                Item::Pod(pod) if deployment.selects(pod) && pod.stays() => Some(pod),
                _ => None,
            })
            .collect();
        pods.sort_by_key(|pod| &pod.metadata.creation_timestamp);
        pods
    }

    /// The pod of a Deployment, the newest if it has several.
    #[must_use]
    pub fn current(&self, deployment: &Deployment) -> Option<&Pod> {
        self.living(deployment).pop()
    }

    /// The pod whose process a fault is for.
    ///
    /// # Errors
    /// When several run: a fault of one of them says nothing of the others, and a start brings back one.
    pub fn only(&self, deployment: &Deployment) -> Result<Option<&Pod>, String> {
        let living = self.living(deployment);
        let running = living.iter().filter(|pod| pod.process().is_some()).count();
        match running {
            0 | 1 => Ok(self.current(deployment)),
            several => Err(format!(
                "{several} pods of it run, and a fault is for one: scale it to one beforehand, or crash one of them"
            )),
        }
    }
}

impl Deployment {
    /// For `--selector`.
    #[must_use]
    pub fn selector(&self) -> String {
        let labels = self.spec.selector.match_labels.iter();
        let labels: Vec<String> = labels
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        labels.join(",")
    }

    fn selects(&self, pod: &Pod) -> bool {
        let mut labels = self.spec.selector.match_labels.iter();
        labels.all(|(key, value)| pod.metadata.labels.get(key) == Some(value))
    }

    /// Whether its pods keep something that goes with them. Such a pod must stay when its process
    /// ends, as a container does.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        let mut volumes = self.spec.template.spec.volumes.iter();
        volumes.any(|volume| volume.empty_dir.is_some())
    }

    /// The image of the first container, as it was deployed.
    #[must_use]
    pub fn image(&self) -> &str {
        image(&self.spec.template.spec)
    }
}

fn image(spec: &PodSpec) -> &str {
    spec.containers
        .first()
        .map_or("", |container| &container.image)
}

impl Pod {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// Whether nobody has told it to go.
    #[must_use]
    pub const fn stays(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
    }

    /// Whether it takes traffic.
    #[must_use]
    pub fn ready(&self) -> bool {
        let mut conditions = self.status.conditions.iter();
        conditions.any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// The image that its first container should run.
    #[must_use]
    pub fn image(&self) -> &str {
        image(&self.spec)
    }

    fn container(&self) -> Option<&ContainerStatus> {
        let name = &self.spec.containers.first()?.name;
        let mut statuses = self.status.container_statuses.iter();
        statuses.find(|status| status.name == *name)
    }

    /// Its process, if that runs.
    #[must_use]
    pub fn process(&self) -> Option<Process> {
        let status = self.container()?;
        let running = status.state.running.as_ref()?;
        Some(Process {
            pod: self.metadata.name.clone(),
            uid: self.metadata.uid.clone(),
            container: status.name.clone(),
            id: bare(&status.container_id).to_owned(),
            node: self.spec.node_name.clone(),
            address: self.status.pod_ip,
            started_at: running.started_at.clone().unwrap_or_default(),
        })
    }

    /// What has come of it; `frozen` are the containers of the runtime that are.
    #[must_use]
    pub fn state(&self, frozen: &[String]) -> State {
        match self.process() {
            Some(process) if frozen.contains(&process.id) => State::Paused,
            Some(_) if self.stays() => State::Running,
            _ => State::Stopped,
        }
    }

    /// How often the kubelet has started its container anew.
    #[must_use]
    pub fn restart_count(&self) -> u64 {
        self.container().map_or(0, |status| status.restart_count)
    }

    /// The image that its container runs, as `sha256:...`.
    #[must_use]
    pub fn image_id(&self) -> Option<String> {
        let told = &self.container()?.image_id;
        let digest = told.rsplit(['@', '/']).next()?;
        digest.starts_with("sha256:").then(|| digest.to_owned())
    }

    /// With what code the process of this container of the runtime has ended, if it has.
    #[must_use]
    pub fn exit_code(&self, id: &str) -> Option<i32> {
        let status = self.container()?;
        let ended = [&status.state.terminated, &status.last_state.terminated];
        let ended = ended.into_iter().flatten();
        let mut codes = ended.filter(|ended| bare(&ended.container_id) == id);
        codes.next().map(|ended| ended.exit_code)
    }

    /// Where the kubelet keeps this key of a ConfigMap for the pod, on its node.
    #[must_use]
    pub fn mounted(&self, config_map: &str, key: &str) -> Option<String> {
        let sources = self.spec.volumes.iter().filter_map(|volume| {
            let source = volume.config_map.as_ref()?;
            (source.name == config_map).then_some((&volume.name, source))
        });
        let mut files = sources.filter_map(|(volume, source)| {
            let path = match source.items.iter().find(|item| item.key == key) {
                Some(item) => &item.path,
                None if source.items.is_empty() => key,
                None => return None,
            };
            Some(format!(
                "/var/lib/kubelet/pods/{}/volumes/kubernetes.io~configmap/{volume}/{path}",
                self.metadata.uid
            ))
        });
        files.next()
    }

    /// How it stands, in a few words.
    #[must_use]
    pub fn told(&self) -> String {
        let name = self.name();
        let leaving = if self.stays() { "" } else { ", is to go" };
        let Some(status) = self.container() else {
            return format!("{name}: no container yet{leaving}");
        };
        let ContainerState {
            running,
            waiting,
            terminated,
        } = &status.state;
        let stands = match (running, waiting, terminated) {
            (Some(_), ..) => "runs".to_owned(),
            (_, Some(Waiting { reason, message }), _) => format!("waits: {reason} {message}"),
            (.., Some(ended)) => format!("ended with {}", ended.exit_code),
            (None, None, None) => "has no state".to_owned(),
        };
        format!("{name}: {}{leaving}", stands.trim())
    }
}

/// A container's ID without the name of its runtime.
fn bare(id: &str) -> &str {
    id.rsplit('/').next().unwrap_or(id)
}

/// A line of `kubectl get pods --watch --output-watch-events -o json`.
#[derive(Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "type")]
    kind: String,
    /// What it is about.
    pub object: Value,
}

/// What a watch says of pods.
#[derive(Debug)]
pub enum Change {
    /// One is there, or is otherwise than before.
    Is(Pod),
    /// One is no more; this is how it was at the end.
    Gone(Pod),
    /// The watch itself says something.
    Other(String),
}

impl Event {
    /// Reads it.
    #[must_use]
    pub fn change(self) -> Change {
        let pod = |object| serde_json::from_value::<Pod>(object);
        let read = match self.kind.as_str() {
            "ADDED" | "MODIFIED" => pod(self.object).map(Change::Is),
            "DELETED" => pod(self.object).map(Change::Gone),
            other => return Change::Other(format!("{other} {}", self.object)),
        };
        read.unwrap_or_else(|error| Change::Other(error.to_string()))
    }
}

/// The end of one process, as a watch shows it.
#[derive(Debug)]
pub struct Ending {
    process: Process,
    pod_stays: bool,
    code: Option<i32>,
}

/// What is known of an end.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// It has not ended; this is how it stands.
    NotYet(String),
    /// With this code, if it was told, and its pod has gone unless that stays.
    Ended(Option<i32>),
}

impl Ending {
    /// Nothing was seen yet.
    #[must_use]
    pub const fn of(process: Process, pod_stays: bool) -> Self {
        Self {
            process,
            pod_stays,
            code: None,
        }
    }

    /// The pod of the process.
    #[must_use]
    pub fn pod(&self) -> &str {
        &self.process.pod
    }

    /// Sees what has changed.
    pub fn see(&mut self, change: &Change) -> End {
        let (pod, gone) = match change {
            Change::Is(pod) => (pod, false),
            Change::Gone(pod) => (pod, true),
            Change::Other(said) => return End::NotYet(said.clone()),
        };
        if pod.metadata.uid != self.process.uid {
            return End::NotYet(pod.told());
        }
        self.code = self.code.or_else(|| pod.exit_code(&self.process.id));
        if gone || (self.pod_stays && self.code.is_some()) {
            return End::Ended(self.code);
        }
        End::NotYet(pod.told())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn deployment(name: &str, volumes: &Value) -> Value {
        json!({"kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name, "part": "x"}},
            "template": {"spec": {
                "containers": [{"name": name, "image": "localhost/a:b"}], "volumes": volumes,
            }},
        }})
    }

    pub(crate) fn pod(app: &str, suffix: &str, created: &str, status: &Value) -> Value {
        json!({"kind": "Pod",
            "metadata": {
                "name": format!("{app}-{suffix}"), "uid": format!("uid-{suffix}"),
                "labels": {"app": app, "part": "x", "pod-template-hash": "1"},
                "creationTimestamp": created,
            },
            "spec": {
                "containers": [
                    {"name": app, "image": "localhost/a:b"}, {"name": "other", "image": "c"},
                ],
                "volumes": [
                    {"name": "config", "configMap": {"name": app, "defaultMode": 420}},
                    {"name": "some", "configMap": {
                        "name": "some", "items": [{"key": "k", "path": "folder/p"}],
                    }},
                ],
            },
            "status": {
                "podIP": "10.244.0.7",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {"name": "other", "state": {"terminated": {"exitCode": 3}}},
                    status,
                ],
            },
        })
    }

    pub(crate) fn running(app: &str, id: &str) -> Value {
        json!({"name": app, "containerID": format!("containerd://{id}"),
            "imageID": "sha256:11", "restartCount": 2,
            "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}})
    }

    fn ended(app: &str, id: &str, code: i32) -> Value {
        json!({"name": app, "containerID": format!("containerd://{id}"), "imageID": "sha256:11",
        "state": {"terminated": {
            "exitCode": code, "containerID": format!("containerd://{id}"),
        }}})
    }

    pub(crate) fn listing(items: &[Value]) -> Listing {
        Listing::parse(&json!({"kind": "List", "items": items}).to_string()).expect("a list")
    }

    fn parsed(value: Value) -> Pod {
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn a_deployments_pod_is_the_newest_that_its_selector_takes() {
        let mut old = pod("a", "old", "2026-01-01T00:00:00Z", &running("a", "1"));
        let new = pod("a", "new", "2026-01-01T00:00:09Z", &running("a", "2"));
        let mut alien = pod("a", "alien", "2026-01-01T00:00:10Z", &running("a", "3"));
        alien["metadata"]["labels"]["part"] = "y".into();
        let other = pod("b", "other", "2026-01-01T00:00:11Z", &running("b", "4"));
        let a = deployment("a", &json!([]));
        let listing = |old: &Value| {
            listing(&[
                new.clone(),
                old.clone(),
                a.clone(),
                alien.clone(),
                other.clone(),
            ])
        };
        let names = |listing: &Listing| -> Vec<String> {
            let living = listing.living(listing.deployment("a").expect("a"));
            living.iter().map(|pod| pod.name().to_owned()).collect()
        };
        let both = listing(&old);
        assert_eq!(names(&both), ["a-old", "a-new"]);
        let a = both.deployment("a").expect("a");
        assert_eq!(a.selector(), "app=a,part=x");
        assert_eq!(both.current(a).expect("a pod").name(), "a-new");
        let several = both.only(a).expect_err("two of them run");
        assert!(several.contains("2 pods"), "{several}");
        old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:10Z".into();
        let one = listing(&old);
        assert_eq!(names(&one), ["a-new"]);
        let only = one.only(one.deployment("a").expect("a")).expect("one");
        assert_eq!(only.expect("a pod").name(), "a-new");
        let absent = both.deployment("c").expect_err("no c");
        assert_eq!(absent, "there is no Deployment c");
    }

    #[test]
    fn a_selector_that_is_not_understood_is_refused() {
        let check = |selector: &Value| {
            let mut deployment = deployment("a", &json!([]));
            deployment["spec"]["selector"] = selector.clone();
            let error = listing(&[deployment]).deployment("a").map(|_| ());
            let error = error.expect_err("refused");
            assert!(error.contains("nothing else"), "{error}");
        };
        check(&json!({}));
        check(&json!({
            "matchLabels": {"app": "a"},
            "matchExpressions": [{"key": "x", "operator": "Exists"}],
        }));
    }

    #[test]
    fn what_goes_with_a_pod_makes_it_stay() {
        let keeps = |volumes: Value| {
            let listing = listing(&[deployment("a", &volumes)]);
            listing.deployment("a").expect("a").keeps_data()
        };
        assert!(!keeps(json!([{"name": "c", "configMap": {"name": "a"}}])));
        assert!(keeps(json!([{"name": "d", "emptyDir": {}}])));
    }

    #[test]
    fn a_process_is_that_of_the_first_container() {
        let pod = parsed(pod("a", "1", "2026-01-01T00:00:00Z", &running("a", "abc")));
        let process = pod.process().expect("it runs");
        assert_eq!(
            (process.id.as_str(), process.container.as_str()),
            ("abc", "a")
        );
        assert_eq!(
            (process.pod.as_str(), process.uid.as_str()),
            ("a-1", "uid-1")
        );
        assert_eq!(process.started_at, "2026-01-01T00:00:01Z");
        assert_eq!(process.address, Some([10, 244, 0, 7].into()));
        assert_eq!((pod.restart_count(), pod.ready()), (2, true));
    }

    #[test]
    fn the_state_is_the_processs() {
        let state = |status: &Value, deleted: bool, frozen: &[&str]| {
            let mut pod = pod("a", "1", "2026-01-01T00:00:00Z", status);
            if deleted {
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:10Z".into();
            }
            let frozen: Vec<String> = frozen.iter().map(ToString::to_string).collect();
            parsed(pod).state(&frozen)
        };
        let runs = running("a", "abc");
        assert_eq!(state(&runs, false, &[]), State::Running);
        assert_eq!(state(&runs, false, &["xyz"]), State::Running);
        assert_eq!(state(&runs, false, &["abc"]), State::Paused);
        assert_eq!(state(&runs, true, &[]), State::Stopped);
        assert_eq!(state(&ended("a", "abc", 0), false, &[]), State::Stopped);
        let waits = json!({"name": "a", "state": {"waiting": {"reason": "ErrImageNeverPull"}}});
        assert_eq!(state(&waits, false, &[]), State::Stopped);
        assert_eq!(state(&json!({"name": "none"}), false, &[]), State::Stopped);
    }

    #[test]
    fn an_image_id_is_a_digest_whoever_tells_it() {
        let id = |told: &str| {
            let mut status = running("a", "1");
            status["imageID"] = told.into();
            parsed(pod("a", "1", "2026-01-01T00:00:00Z", &status)).image_id()
        };
        let same = Some("sha256:11".to_owned());
        assert_eq!(id("sha256:11"), same);
        assert_eq!(id("registry.local:5000/x/a@sha256:11"), same);
        assert_eq!(id("docker-pullable://a@sha256:11"), same);
        assert_eq!(id("docker://sha256:11"), same);
        assert_eq!(id(""), None);
    }

    #[test]
    fn a_mounted_key_is_found_on_the_node() {
        let pod = parsed(pod("a", "1", "2026-01-01T00:00:00Z", &running("a", "1")));
        let folder = "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~configmap";
        let mounted = |map: &str, key: &str| pod.mounted(map, key);
        assert_eq!(
            mounted("a", "x.json"),
            Some(format!("{folder}/config/x.json"))
        );
        assert_eq!(
            mounted("some", "k"),
            Some(format!("{folder}/some/folder/p"))
        );
        assert_eq!(mounted("some", "other"), None);
        assert_eq!(mounted("b", "x.json"), None);
    }

    /// What a watch told, and what became known with each event.
    #[track_caller]
    fn check_ending(pod_stays: bool, events: &[(&str, &Value)], expected: &[Option<End>]) {
        let runs = pod("a", "1", "2026-01-01T00:00:00Z", &running("a", "abc"));
        let process = parsed(runs).process().expect("it runs");
        let mut ending = Ending::of(process, pod_stays);
        let text: String = events
            .iter()
            .map(|(kind, object)| {
                let event = json!({"type": kind, "object": object});
                serde_json::to_string_pretty(&event).expect("JSON") + "\n"
            })
            .collect();
        let events = serde_json::Deserializer::from_str(&text).into_iter::<Event>();
        let known: Vec<Option<End>> = events
            .map(
                |event| match ending.see(&event.expect("an event").change()) {
                    End::NotYet(_) => None,
                    ended => Some(ended),
                },
            )
            .collect();
        assert_eq!(known, expected);
    }

    #[test]
    fn an_exit_code_is_caught_before_the_pod_goes() {
        let pod = |suffix: &str, status: &Value| pod("a", suffix, "2026-01-01T00:00:00Z", status);
        let runs = pod("1", &running("a", "abc"));
        let done = pod("1", &ended("a", "abc", 143));
        // Another pod of the same Deployment, and its own container before this one.
        let other = pod("2", &ended("a", "xyz", 1));
        let mut earlier = running("a", "abc");
        earlier["lastState"] = ended("a", "before", 2)["state"].clone();
        let earlier = pod("1", &earlier);
        let code = |code| Some(End::Ended(code));
        check_ending(
            false,
            &[
                ("ADDED", &runs),
                ("DELETED", &other),
                ("MODIFIED", &earlier),
                ("MODIFIED", &done),
                ("DELETED", &done),
            ],
            &[None, None, None, None, code(Some(143))],
        );
        check_ending(
            false,
            &[("ADDED", &runs), ("DELETED", &done)],
            &[None, code(Some(143))],
        );
        check_ending(
            false,
            &[("ADDED", &runs), ("DELETED", &runs)],
            &[None, code(None)],
        );
    }

    #[test]
    fn a_pod_that_stays_has_ended_with_its_process() {
        let pod = |status: &Value| pod("a", "1", "2026-01-01T00:00:00Z", status);
        let runs = pod(&running("a", "abc"));
        let mut waits = json!({"name": "a", "state": {"waiting": {"reason": "ErrImageNeverPull"}}});
        waits["lastState"] = ended("a", "abc", 137)["state"].clone();
        let waits = pod(&waits);
        let error = json!({"kind": "Status", "message": "too old"});
        check_ending(
            true,
            &[("ADDED", &runs), ("ERROR", &error), ("MODIFIED", &waits)],
            &[None, None, Some(End::Ended(Some(137)))],
        );
    }
}
