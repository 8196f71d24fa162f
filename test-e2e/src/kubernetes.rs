//! Containers that are Deployments of one replica in a namespace of Kubernetes, by kubectl and, for
//! what Kubernetes itself has no word for, by the container runtime of the node.
//!
//! A process is stopped by taking its pod away. Where the pod keeps something (an emptyDir), it must
//! stay, as a stopped container does: its image is set to one that does not exist, and the kubelet
//! ends the process and cannot start another until the image is set back.

pub mod jobs;
pub mod killing;
pub mod pods;
pub mod remains;
pub mod rights;
pub mod scale;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::child::{self, Recorder, Stream};
use crate::cluster::{Action, Started, State};
use crate::kubernetes::killing::Killings;
use crate::kubernetes::pods::{Change, Deployment, End, Ending, Event, Listing, Pod, Process};
use crate::kubernetes::remains::{EXITS, Exit, Log, log_name, read_exits, saved_logs};
use crate::kubernetes::scale::Scaling;
use crate::poll::{Look, try_eventually};
use crate::run::EngineCommand;
use crate::scenario::append;

/// How long one question may take.
const ASKED_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to end, the time to drain that its manifest gives it included.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// How long a pod may take to run.
const RUNS_WITHIN: Duration = Duration::from_secs(90);
/// How long one may take that has stayed. The kubelet lets a container that has ended several times
/// wait, up to five minutes unless its configuration says less.
const RUNS_AGAIN_WITHIN: Duration = Duration::from_secs(320);
/// How long the kubelet may take to show an edit, were it to look only at its usual times.
const MOUNTED_WITHIN: Duration = Duration::from_secs(100);
/// How long to wait for the first line of a container that may never have written one.
const FIRST_LINE_WITHIN: Duration = Duration::from_secs(2);
/// An image that no node has.
const NO_IMAGE: &str = "localhost/stopped:by-a-test";

/// How Kubernetes is reached, as it stands in `run.json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Access {
    /// The program.
    pub kubectl: PathBuf,
    /// Names the API server, and opens it.
    pub kubeconfig: PathBuf,
    /// Where the run is deployed.
    pub namespace: String,
    /// The node, a container of the engine; nothing where it is out of reach.
    #[serde(default)]
    pub node: Option<String>,
}

/// The namespace of a run.
#[derive(Clone, Debug)]
pub struct Namespace {
    access: Access,
    engine: EngineCommand,
    run_directory: PathBuf,
    /// The namespaces of containers that are in another.
    elsewhere: BTreeMap<String, String>,
}

/// How a process is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Orderly,
    Killed,
}

impl Namespace {
    /// The namespace that `access` opens, on a node that `engine` runs; what has gone leaves its
    /// logs and exit codes in `run_directory`.
    #[must_use]
    pub fn new(access: &Access, engine: &EngineCommand, run_directory: &Path) -> Self {
        Self {
            access: access.clone(),
            engine: engine.clone(),
            run_directory: run_directory.to_owned(),
            elsewhere: BTreeMap::new(),
        }
    }

    /// Some containers are in other namespaces: each with its own.
    #[must_use]
    pub fn with_elsewhere(self, elsewhere: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            elsewhere: elsewhere.into_iter().collect(),
            ..self
        }
    }

    /// What the cluster calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.access.namespace
    }

    /// Where a container is.
    #[must_use]
    pub fn of(&self, container: &str) -> Self {
        let mut namespace = self.clone();
        if let Some(elsewhere) = self.elsewhere.get(container) {
            namespace.access.namespace.clone_from(elsewhere);
        }
        namespace
    }

    /// What is asked of several containers, asked where each of them is, in their order.
    fn each<T>(
        &self,
        containers: &[&str],
        ask: impl Fn(&Self, &[&str]) -> Result<Vec<T>, String>,
    ) -> Result<Vec<T>, String> {
        if !containers
            .iter()
            .any(|container| self.elsewhere.contains_key(*container))
        {
            return ask(self, containers);
        }
        let mut all = Vec::new();
        for container in containers {
            all.extend(ask(&self.of(container), &[container])?);
        }
        Ok(all)
    }

    /// The node's container, and the engine that runs it, where the node is within reach.
    #[must_use]
    pub fn node(&self) -> Option<(&EngineCommand, &str)> {
        let node = self.access.node.as_deref()?;
        Some((&self.engine, node))
    }

    /// The folder of the run.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.run_directory
    }

    /// The pod that stands for a Deployment.
    ///
    /// # Errors
    /// When none runs.
    pub fn pod(&self, deployment: &str) -> Result<String, String> {
        self.process(deployment).map(|process| process.pod)
    }

    fn kubectl(&self, arguments: &[&str], within: Duration) -> Command {
        // Should this process be killed, the child ends by itself.
        let timeout = format!("--request-timeout={}s", within.as_secs());
        self.lasting(&[&[timeout.as_str()], arguments].concat())
    }

    /// kubectl for what has no end of its own.
    #[must_use]
    pub fn lasting(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.access.kubectl);
        command
            .env_remove("KUBECONFIG")
            .arg("--kubeconfig")
            .arg(&self.access.kubeconfig)
            .args(["--namespace", &self.access.namespace])
            // What it learns of the API server goes with the run, not to the user's own files.
            .arg("--cache-dir")
            .arg(self.run_directory.join("kubectl-cache"))
            .args(arguments);
        command
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, String> {
        let output = child::output(&mut self.kubectl(arguments, ASKED_WITHIN), ASKED_WITHIN)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// On the node of this name: to the engine, the container of the same name.
    fn on_node(&self, node: &str, arguments: &[&str]) -> Result<String, String> {
        let (engine, _) = self
            .node()
            .ok_or("only the node can, and it is out of reach: such a test begins with `scenario_with_node!`")?;
        engine.run(&[&["exec", node], arguments].concat())
    }

    fn runtime(&self, node: &str, arguments: &[&str]) -> Result<String, String> {
        self.on_node(node, &[&["ctr", "-n", "k8s.io"], arguments].concat())
    }

    /// The containers that are frozen, on the nodes of these pods. Where nobody can freeze one, none
    /// is.
    fn frozen(&self, pods: &[Option<&Pod>]) -> Result<Vec<String>, String> {
        let mut all = Vec::new();
        if self.node().is_none() {
            return Ok(all);
        }
        let processes = pods.iter().filter_map(|pod| pod.and_then(Pod::process));
        let nodes: BTreeSet<String> = processes.map(|process| process.node).collect();
        for node in &nodes {
            all.extend(frozen(&self.runtime(node, &["task", "ls"])?));
        }
        Ok(all)
    }

    fn listing(&self) -> Result<Listing, String> {
        Listing::parse(&self.ask(&["get", "deployments,pods", "--output", "json"])?)
    }

    fn process(&self, container: &str) -> Result<Process, String> {
        let listing = self.listing()?;
        let pod = listing.only(listing.deployment(container)?)?;
        let process = pod.and_then(Pod::process);
        process.ok_or_else(|| format!("{container} does not run: {}", told(pod)))
    }

    /// What has come of these containers, in their order.
    ///
    /// # Errors
    /// When there is no such Deployment.
    pub fn states(&self, containers: &[&str]) -> Result<Vec<State>, String> {
        self.each(containers, |namespace, containers| {
            let listing = namespace.listing()?;
            let pod = |container: &&str| Ok(listing.current(listing.deployment(container)?));
            let pods: Result<Vec<Option<&Pod>>, String> = containers.iter().map(pod).collect();
            let pods = pods?;
            let frozen = namespace.frozen(&pods)?;
            let state = |pod: &Option<&Pod>| pod.map_or(State::Stopped, |pod| pod.state(&frozen));
            Ok(pods.iter().map(state).collect())
        })
    }

    /// The images that these containers run, in their order, each as `sha256:...`.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn image_ids(&self, containers: &[&str]) -> Result<Vec<String>, String> {
        self.each(containers, |namespace, containers| {
            let listing = namespace.listing()?;
            let image = |container: &&str| {
                let pod = listing.current(listing.deployment(container)?);
                let id = pod.and_then(Pod::image_id);
                id.ok_or_else(|| format!("{container} runs no image: {}", told(pod)))
            };
            containers.iter().map(image).collect()
        })
    }

    /// How often the kubelet has started a container again, without being told to.
    ///
    /// # Errors
    /// When there is no such Deployment.
    pub fn restarts(&self, container: &str) -> Result<u64, String> {
        let listing = self.listing()?;
        let Some(pod) = listing.current(listing.deployment(container)?) else {
            return Ok(0);
        };
        let ours = self.exits()?.iter().filter(|exit| exit.stays(pod)).count();
        let ours = u64::try_from(ours).unwrap_or(u64::MAX);
        Ok(pod.restart_count().saturating_sub(ours))
    }

    /// The process of a container that runs.
    ///
    /// # Errors
    /// When there is none.
    pub fn started(&self, container: &str) -> Result<Started, String> {
        let listing = self.listing()?;
        let pod = listing.current(listing.deployment(container)?);
        match pod.and_then(|pod| Some((pod, pod.process()?))) {
            Some((pod, process)) => Ok(Started {
                at: process.started_at,
                pod: Some(process.pod),
                restart_count: pod.restart_count(),
            }),
            None => Err(format!("{container} does not run: {}", told(pod))),
        }
    }

    /// With what code the process of a container ended last, of those that were ended here.
    ///
    /// # Errors
    /// When none was, or nobody told the code.
    pub fn exit_code(&self, container: &str) -> Result<i32, String> {
        let exits = self.exits()?;
        let last = exits.iter().rfind(|exit| exit.container == container);
        let last = last.ok_or_else(|| format!("no process of {container} was ended"))?;
        let unknown = || format!("nobody told how {} of {container} ended", last.pod);
        last.exit_code.ok_or_else(unknown)
    }

    fn exits(&self) -> Result<Vec<Exit>, String> {
        let path = self.run_directory.join(EXITS);
        match fs::read_to_string(&path) {
            Ok(text) => read_exits(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn note_exit(&self, container: &str, pod: &str, code: Option<i32>, pod_stays: bool) {
        append(
            &self.run_directory.join(EXITS),
            &json!({"container": container, "pod": pod, "exit_code": code, "pod_stays": pod_stays}),
        );
    }

    /// Everything a container wrote so far, that of its ended processes included.
    ///
    /// # Errors
    /// When there is no such Deployment, or its pods do not tell.
    pub fn logs(&self, container: &str) -> Result<String, String> {
        let listing = self.listing()?;
        let deployment = listing.deployment(container)?;
        let mut text = String::new();
        for path in saved_logs(&self.log_folder(), container)? {
            let error = |error| format!("{}: {error}", path.display());
            text.push_str(&fs::read_to_string(&path).map_err(error)?);
        }
        for pod in listing.living(deployment) {
            if let Some(process) = pod.process() {
                text.push_str(&self.ask(&log_of(&process))?);
            }
        }
        Ok(text)
    }

    fn log_folder(&self) -> PathBuf {
        self.run_directory.join("logs")
    }

    /// Does it, and waits until the container is as it should then be.
    ///
    /// # Errors
    /// What kubectl or the runtime said, and what was last seen, when that does not come in time.
    pub fn act(&self, container: &str, action: Action) -> Result<(), String> {
        match action {
            Action::Stop { .. } => self.end(container, How::Orderly),
            Action::Kill => self.end(container, How::Killed),
            Action::Start => self.start(container),
            Action::Pause => self.freeze(&self.process(container)?),
            Action::Unpause => self.thaw(&self.process(container)?),
        }
    }

    fn freeze(&self, process: &Process) -> Result<(), String> {
        self.runtime(&process.node, &["task", "pause", &process.id])
            .map(drop)
    }

    fn thaw(&self, process: &Process) -> Result<(), String> {
        self.runtime(&process.node, &["task", "resume", &process.id])
            .map(drop)
    }

    fn watch(&self, resource: &[&str], within: Duration) -> Result<Stream<Event>, String> {
        let watch = ["--watch", "--output-watch-events", "--output", "json"];
        let arguments = [&["get"], resource, &watch].concat();
        Stream::start(&mut self.kubectl(&arguments, within), within)
    }

    fn watch_pods(&self, of: &Deployment, within: Duration) -> Result<Stream<Event>, String> {
        self.watch(&["pods", "--selector", &of.selector()], within)
    }

    /// Ends the process of a container. It stays down, and what it wrote and its exit code are
    /// saved before they go with the pod.
    fn end(&self, container: &str, how: How) -> Result<(), String> {
        let listing = self.listing()?;
        let deployment = listing.deployment(container)?;
        let pod = listing.only(deployment)?;
        let process = pod.and_then(Pod::process);
        let process = process.ok_or_else(|| format!("it does not run: {}", told(pod)))?;
        let pod_stays = deployment.keeps_data();
        let pods = self.watch_pods(deployment, ENDED_WITHIN)?;
        let log = match how {
            How::Orderly => {
                let log = self.follow(container, &process)?;
                self.take_away(container, &process, pod_stays)?;
                log
            }
            How::Killed => self.kill(container, &process, pod_stays)?,
        };
        let mut ending = Ending::of(process.clone(), pod_stays);
        let code = pods.until(|event| match ending.see(&event.change()) {
            End::Ended(code) => Look::Seen(code),
            End::NotYet(last) => Look::NotYet(last),
        })?;
        self.note_exit(container, &process.pod, code, pod_stays);
        log.end()
    }

    /// Lets the kubelet end the process, and not start another.
    fn take_away(&self, container: &str, process: &Process, pod_stays: bool) -> Result<(), String> {
        if pod_stays {
            return self.set_image(process.pod.as_str(), NO_IMAGE);
        }
        self.refuse_when_gone(process)?;
        self.set_replicas(container, 0)
    }

    /// For a second or so after a pod has gone, kube-proxy still sends calls to its address, and
    /// the node, which has no route there any more, sends them out into the world. They must be
    /// refused, as those to a stopped container are. The pod's own route goes first while it lives.
    fn refuse_when_gone(&self, process: &Process) -> Result<(), String> {
        // Elsewhere the pod network does what it does: that is what is tested there.
        let (Some(address), Some(_)) = (process.address, self.node()) else {
            return Ok(());
        };
        let arguments = route(address);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.on_node(&process.node, &arguments).map(drop)
    }

    fn set_image(&self, pod: &str, image: &str) -> Result<(), String> {
        let patch = json!([{"op": "replace", "path": "/spec/containers/0/image", "value": image}]);
        let patch = patch.to_string();
        self.ask(&["patch", "pod", pod, "--type", "json", "--patch", &patch])
            .map(drop)
    }

    fn set_replicas(&self, container: &str, replicas: u32) -> Result<(), String> {
        let deployment = format!("deployment/{container}");
        let replicas = format!("--replicas={replicas}");
        self.ask(&["scale", &deployment, &replicas]).map(drop)
    }

    /// The process must not see the SIGTERM that comes with every end in Kubernetes, and the
    /// kubelet must not start another in its place. So it is frozen, the kubelet sets out to end
    /// it, and it wakes up to a SIGKILL, which the kernel takes before any other signal.
    fn kill(&self, container: &str, process: &Process, pod_stays: bool) -> Result<Log, String> {
        let selector = killing::selector(process);
        let words = ["events", "--field-selector", &selector];
        let killings = if pod_stays {
            let before = self.ask(&[&["get"], &words[..], &["--output", "json"]].concat())?;
            Killings::before(process, &before)?
        } else {
            Killings::none(process)
        };
        let watch = self.watch(&words, ENDED_WITHIN)?;
        self.freeze(process)?;
        let ended = self.follow(container, process).and_then(|log| {
            self.take_away(container, process, pod_stays)?;
            watch.until(|event| killings.look(&event.object))?;
            Ok(log)
        });
        let kill = ["task", "kill", "--signal", "SIGKILL", &process.id];
        let killed = self.runtime(&process.node, &kill);
        // Fails where the runtime itself wakes up what it kills.
        let thawed = self.thaw(process);
        let log = ended?;
        killed.map_err(|error| format!("{error}, and {thawed:?}"))?;
        Ok(log)
    }

    /// Writes down what a process has said and goes on to say, to its end.
    fn follow(&self, container: &str, process: &Process) -> Result<Log, String> {
        let folder = self.log_folder();
        let path = folder.join(log_name(container, &process.id));
        let part = path.with_extension("part");
        let error = |error| format!("{}: {error}", part.display());
        fs::create_dir_all(&folder).map_err(error)?;
        let file = File::create(&part).map_err(error)?;
        let follow = [&log_of(process)[..], &["--follow"]].concat();
        let recorder = Recorder::start(&mut self.kubectl(&follow, ENDED_WITHIN), file)?;
        // One that has told a line is connected; a container may have had nothing to say.
        let _ = try_eventually(FIRST_LINE_WITHIN, || match fs::metadata(&part) {
            Ok(data) if data.len() > 0 => Look::Seen(()),
            _ => Look::NotYet(String::new()),
        });
        Ok(Log::new(recorder, part, path))
    }

    /// Brings back what [`Self::end`] has ended.
    fn start(&self, container: &str) -> Result<(), String> {
        let listing = self.listing()?;
        let deployment = listing.deployment(container)?;
        let stayed = listing
            .current(deployment)
            .filter(|pod| pod.image() == NO_IMAGE);
        let within = stayed.map_or(RUNS_WITHIN, |_| RUNS_AGAIN_WITHIN);
        let pods = self.watch_pods(deployment, within)?;
        match stayed {
            Some(pod) => self.set_image(pod.name(), deployment.image())?,
            None => self.set_replicas(container, 1)?,
        }
        pods.until(|event| match event.change() {
            Change::Is(pod) if pod.stays() && pod.process().is_some() => Look::Seen(()),
            Change::Is(pod) | Change::Gone(pod) => Look::NotYet(pod.told()),
            Change::Other(said) => Look::NotYet(said),
        })
    }

    /// So many replicas, all of them ready, and the others gone.
    ///
    /// # Errors
    /// When its pods keep something, and when that does not come in time.
    pub fn scale(&self, container: &str, replicas: u32) -> Result<(), String> {
        let listing = self.listing()?;
        let deployment = listing.deployment(container)?;
        if deployment.keeps_data() {
            return Err(format!(
                "{container} keeps data in its pod: another would have none, and without it they are lost"
            ));
        }
        let there = listing.living(deployment);
        let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
        let mut leaving = Vec::new();
        if wanted < there.len() {
            // Which of them go is for Kubernetes to say.
            for process in there.iter().filter_map(|pod| pod.process()) {
                self.refuse_when_gone(&process)?;
                leaving.push((self.follow(container, &process)?, process));
            }
        }
        let watch = self.watch_pods(deployment, RUNS_WITHIN)?;
        self.set_replicas(container, replicas)?;
        let mut scaling = Scaling::to(wanted, &there);
        let mut endings: Vec<Ending> = leaving
            .iter()
            .map(|(_, process)| Ending::of(process.clone(), false))
            .collect();
        let stay = watch.until(|event| {
            let change = event.change();
            for ending in &mut endings {
                if let End::Ended(code) = ending.see(&change) {
                    self.note_exit(container, ending.pod(), code, false);
                }
            }
            scaling.see(&change)
        })?;
        for (log, process) in leaving {
            if stay.contains(&process.pod) {
                log.discard()?;
            } else {
                log.end()?;
            }
        }
        Ok(())
    }

    /// Kills the process of one of the pods of a Deployment, and has the pod replaced: the kubelet
    /// would start the process again in it after longer and longer pauses.
    ///
    /// # Errors
    /// When none runs.
    pub fn crash_one(&self, container: &str, nth: usize) -> Result<(), String> {
        let listing = self.listing()?;
        let living = listing.living(listing.deployment(container)?);
        let running: Vec<Process> = living.iter().filter_map(|pod| pod.process()).collect();
        let process = match running.len() {
            0 => return Err("none of them runs".to_owned()),
            count => &running[nth % count],
        };
        self.refuse_when_gone(process)?;
        let kill = ["task", "kill", "--signal", "SIGKILL", &process.id];
        self.runtime(&process.node, &kill)?;
        let delete = ["delete", "pod", &process.pod, "--force", "--wait=false"];
        self.ask(&delete).map(drop)
    }

    /// What a key of a ConfigMap holds.
    ///
    /// # Errors
    /// When there is none.
    pub fn config(&self, config_map: &str, key: &str) -> Result<String, String> {
        let text = self.ask(&["get", "configmap", config_map, "--output", "json"])?;
        let told: Value = serde_json::from_str(&text)
            .map_err(|error| format!("ConfigMap {config_map}: {error}"))?;
        let content = told["data"][key].as_str().map(str::to_owned);
        content.ok_or_else(|| format!("ConfigMap {config_map} has no {key}"))
    }

    /// Changes a key of the ConfigMap that is named as its container, and waits until the file in
    /// the pod holds it, if there is one that runs. Where the node is out of reach nobody can look at
    /// that file, and what comes of the edit is for the test to await.
    ///
    /// # Errors
    /// What kubectl said, and what was last seen, when the file does not change in time.
    pub fn set_config(&self, container: &str, key: &str, content: &str) -> Result<(), String> {
        let patch = self
            .run_directory
            .join(format!("config-{container}-{key}.json"));
        let text = json!({"data": {key: content}}).to_string();
        fs::write(&patch, text).map_err(|error| format!("{}: {error}", patch.display()))?;
        let file = format!("--patch-file={}", patch.display());
        self.ask(&["patch", "configmap", container, "--type", "merge", &file])?;
        let listing = self.listing()?;
        let pod = listing.current(listing.deployment(container)?);
        let Some((pod, process)) = pod.and_then(|pod| Some((pod, pod.process()?))) else {
            return Ok(());
        };
        let Some(path) = pod.mounted(container, key) else {
            return Ok(());
        };
        // The kubelet looks at a pod at once when that has changed, else within a minute or so.
        let edit = format!("test-e2e/config-edit={}", crate::unique());
        self.ask(&["annotate", "pod", pod.name(), &edit, "--overwrite"])?;
        if self.node().is_none() {
            return Ok(());
        }
        try_eventually(MOUNTED_WITHIN, || {
            match self.on_node(&process.node, &["cat", &path]) {
                Ok(text) if text == content => Look::Seen(()),
                Ok(text) => Look::NotYet(format!("{} bytes of another content", text.len())),
                Err(error) => Look::NotYet(error),
            }
        })
        .map_err(|last| format!("{path} on the node does not show the edit: {last}"))
    }
}

fn told(pod: Option<&Pod>) -> String {
    pod.map_or_else(|| "it has no pod".to_owned(), Pod::told)
}

fn log_of(process: &Process) -> [&str; 4] {
    ["logs", &process.pod, "--container", &process.container]
}

/// The command that makes calls to an address fail at once where no better route exists.
fn route(address: IpAddr) -> Vec<String> {
    let family = if address.is_ipv4() { "-4" } else { "-6" };
    let line = format!("ip {family} route replace unreachable {address} metric 4096");
    line.split(' ').map(str::to_owned).collect()
}

/// The containers that `ctr task ls` says are frozen.
fn frozen(tasks: &str) -> Vec<String> {
    let lines = tasks.lines().map(str::split_whitespace);
    let tasks = lines.filter_map(|mut words| Some((words.next()?, words.nth(1)?)));
    let paused = tasks.filter(|(_, status)| *status == "PAUSED");
    paused.map(|(id, _)| id.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(program: &str) -> Namespace {
        let access = Access {
            kubectl: program.into(),
            kubeconfig: "/run/kubeconfig".into(),
            namespace: "n".to_owned(),
            node: Some("n-control-plane".to_owned()),
        };
        let engine = EngineCommand {
            program: program.into(),
            environment: [].into(),
        };
        Namespace::new(&access, &engine, Path::new("/run"))
    }

    #[test]
    fn kubectl_is_told_whom_to_ask_and_nobody_else_is() {
        let command = namespace("kubectl").kubectl(&["get", "pods"], ASKED_WITHIN);
        let words: Vec<_> = command
            .get_args()
            .map(|word| word.to_string_lossy())
            .collect();
        let expected = "--kubeconfig /run/kubeconfig --namespace n --cache-dir /run/kubectl-cache --request-timeout=30s get pods";
        assert_eq!(words.join(" "), expected);
        let removed: Vec<_> = command.get_envs().collect();
        assert_eq!(removed, [("KUBECONFIG".as_ref(), None)]);
    }

    #[test]
    fn the_runtime_is_asked_on_the_node() {
        let told = namespace("echo").runtime("n-worker", &["task", "ls"]);
        assert_eq!(told, Ok("exec n-worker ctr -n k8s.io task ls\n".to_owned()));
    }

    #[test]
    fn a_route_is_of_the_family_of_its_address() {
        let line = |address: &str| route(address.parse().expect("an address")).join(" ");
        let v4 = "ip -4 route replace unreachable 10.244.0.7 metric 4096";
        assert_eq!(line("10.244.0.7"), v4);
        assert_eq!(
            line("fd00::7"),
            "ip -6 route replace unreachable fd00::7 metric 4096"
        );
    }

    #[test]
    fn frozen_tasks_are_found() {
        let tasks = "TASK    PID    STATUS    \n\
                     abc     492    RUNNING\n\
                     def     810    PAUSED\n\
                     ghi     0      STOPPED\n";
        assert_eq!(frozen(tasks), ["def"]);
    }
}
