//! What is the same on every Kubernetes: kubectl with a kubeconfig of the run, the documents, the
//! roll-out that is watched, and pods as the API server tells them. It knows no kind and no registry.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exit::{Exit, Failure};
use crate::process::follow::{Follow, Followed, Next};
use crate::process::{self, Input, Invocation, ProcessError};

pub(crate) mod documents;
pub(crate) mod gather;
pub(crate) mod namespace;
pub(crate) mod pod;
pub(crate) mod preview;
pub(crate) mod roll_out;

use pod::Pod;

/// An answer of an API server on a busy host.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);

/// Longer than any run; a watch that is cut off before is begun again by whoever goes on with it.
const WATCH_DEADLINE: Duration = Duration::from_secs(3600);

/// How often it is looked whether anybody waits still.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// That there is none ends the first of them with an error.
const PREDECESSOR_FIRST: [&str; 2] = ["--previous=true", "--previous=false"];

/// kubectl as a run uses it: with its own kubeconfig, whatever the user's says.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Kubectl {
    /// The program, of the cluster's own version where that is to be had.
    #[serde(rename = "kubectl")]
    pub(crate) program: Utf8PathBuf,
    /// In the folder of the run.
    pub(crate) kubeconfig: Utf8PathBuf,
    /// The namespace of the run.
    pub(crate) namespace: String,
}

/// A watch of the pods of some namespaces.
#[derive(Debug)]
pub(crate) struct PodWatch {
    follow: Follow,
    namespaces: Vec<String>,
}

impl PodWatch {
    /// The next event of a pod there, or of none at all, if one comes within this time.
    ///
    /// # Errors
    /// As [`Follow::next_within`].
    pub(crate) fn next_within(&self, time: Duration) -> Result<Next, ProcessError> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.follow.next_within(left)? {
                Next::Line(line) if is_elsewhere(&line, &self.namespaces) => {}
                next => return Ok(next),
            }
        }
    }

    /// It has ended.
    ///
    /// # Errors
    /// When not of its own accord.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.follow.finish()?)
    }
}

/// Whether a line of a watch is about a pod in another namespace.
fn is_elsewhere(line: &str, namespaces: &[String]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Event {
        object: Pod,
    }
    let event: Event = serde_json::from_str(line).unwrap_or_default();
    let namespace = event.object.namespace();
    !namespace.is_empty() && !namespaces.iter().any(|one| one == namespace)
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

impl Kubectl {
    /// The command line up to what is asked. It keeps its caches away from those of the user.
    pub(crate) fn invocation(&self) -> Invocation {
        let cache = self.kubeconfig.with_extension("cache");
        Invocation::new(self.program.as_str())
            .env_remove("KUBECONFIG")
            .arg(format!("--kubeconfig={}", self.kubeconfig))
            .arg(format!("--cache-dir={cache}"))
    }

    /// The same, in the namespace of the run.
    pub(crate) fn in_namespace(&self) -> Invocation {
        self.invocation()
            .arg(format!("--namespace={}", self.namespace))
    }

    /// Takes documents from its standard input.
    pub(crate) fn apply_command(&self) -> Invocation {
        self.invocation().args([
            "apply",
            "--server-side",
            "--field-manager=phase-zero",
            // What stands in a namespace of ours is as we say, whoever has changed it since.
            "--force-conflicts",
            "--filename=-",
        ])
    }

    /// Applies a document or a list of them, on the server's side. It comes by standard input:
    /// Secrets stand on no command line.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn apply(&self, documents: String) -> Result<()> {
        let apply = self.apply_command();
        let input = Input::Bytes(documents.into_bytes());
        let said = process::capture_with_input(&apply, &input, ANSWER_DEADLINE)?.stderr;
        // Such a Deployment is taken, and not one pod of it is ever made.
        let mut violations = said
            .lines()
            .filter(|line| line.contains("would violate PodSecurity"));
        match violations.next() {
            Some(violation) => Err(Failure::new(
                Exit::Manifest,
                format!("a manifest is not fit for production: {violation}"),
            )
            .hint("https://kubernetes.io/docs/concepts/security/pod-security-standards/ says what `restricted` demands")
            .into()),
            None => Ok(()),
        }
    }

    /// Makes what a document says; it must not be there.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn create(&self, document: &Value) -> Result<()> {
        let input = Input::Bytes(document.to_string().into_bytes());
        process::capture_with_input(&self.create_command(), &input, ANSWER_DEADLINE)?;
        Ok(())
    }

    /// Takes a document from its standard input.
    pub(crate) fn create_command(&self) -> Invocation {
        self.invocation().args(["create", "--filename=-"])
    }

    /// Asks whether the API server would take these documents in the namespace that every cluster
    /// has; makes nothing.
    ///
    /// # Errors
    /// [`Exit::Manifest`], with the server's own words.
    pub(crate) fn would_take(&self, documents: String) -> Result<()> {
        self.would_take_in("default", documents)
    }

    /// The same in another namespace.
    ///
    /// # Errors
    /// As [`Self::would_take`].
    pub(crate) fn would_take_in(&self, namespace: &str, documents: String) -> Result<()> {
        let apply = self.invocation().args([
            "apply",
            "--dry-run=server",
            "--server-side",
            "--field-manager=phase-zero",
            &format!("--namespace={namespace}"),
            "--filename=-",
        ]);
        let input = Input::Bytes(documents.into_bytes());
        process::capture_with_input(&apply, &input, ANSWER_DEADLINE).map_err(|error| {
            let message = "Kubernetes does not take a manifest as it is written";
            Failure::new(Exit::Manifest, message)
                .hint("a run puts something else in its place; outside of runs it would be refused")
                .caused_by(error)
        })?;
        Ok(())
    }

    /// Asks for a path of the API: `/api/v1/...`.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        let get = self.invocation().args(["get", "--raw", path]);
        Ok(process::capture(&get, ANSWER_DEADLINE)?.stdout)
    }

    /// Everything that a path of the API lists.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn list<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let text = self.raw(path)?;
        let items: Items<T> = serde_json::from_str(&text)
            .with_context(|| format!("cannot read what the API server answers for {path}"))?;
        Ok(items.items)
    }

    /// Every pod of this namespace and the other.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn pods_with(&self, other: &str) -> Result<Vec<Pod>> {
        let mut pods: Vec<Pod> = self.list("/api/v1/pods")?;
        pods.retain(|pod| [self.namespace.as_str(), other].contains(&pod.namespace()));
        Ok(pods)
    }

    /// Everything of these kinds, wherever it is: `nodes,pods`.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn get_all(&self, kinds: &str) -> Result<Vec<Value>> {
        let get = self
            .invocation()
            .args(["get", kinds, "--all-namespaces", "--output=json"]);
        let text = process::capture(&get, ANSWER_DEADLINE)?.stdout;
        let items: Items<Value> = serde_json::from_str(&text)
            .with_context(|| format!("cannot read the answer of: {get}"))?;
        Ok(items.items)
    }

    /// Every pod of the namespace.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn pods(&self) -> Result<Vec<Pod>> {
        self.list(&format!("/api/v1/namespaces/{}/pods", self.namespace))
    }

    /// The last events of the namespace that are about something of this name, as sentences.
    ///
    /// # Errors
    /// With the server's own words.
    pub(crate) fn events(&self, name: &str) -> Result<Vec<String>> {
        let path = format!("/api/v1/namespaces/{}/events", self.namespace);
        let events: Vec<Value> = self.list(&path)?;
        let about = events
            .iter()
            .filter(|event| event["involvedObject"]["name"] == name);
        let told = about.map(|event| {
            let text = |field: &str| event[field].as_str().unwrap_or_default();
            format!("{} {}: {}", text("type"), text("reason"), text("message"))
        });
        Ok(told.collect())
    }

    /// Writes what a container has said, and its predecessor in the same pod before it. One that has
    /// said nothing yet gets an empty file.
    ///
    /// # Errors
    /// When the file cannot be written, or no answer comes.
    pub(crate) fn save_log(&self, pod: &str, container: &str, path: &Utf8Path) -> Result<()> {
        for which in PREDECESSOR_FIRST {
            let logs = self.logs(pod, container, which);
            let captured = process::output(&logs, ANSWER_DEADLINE)?;
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot open {path}"))?;
            // There is seldom one before, and one that was never started has no log.
            if captured.code == 0 {
                file.write_all(captured.stdout.as_bytes())
                    .with_context(|| format!("cannot write {path}"))?;
            }
        }
        Ok(())
    }

    /// The last lines that a container has said; of one that was started again, its predecessor's.
    ///
    /// # Errors
    /// When no answer comes.
    pub(crate) fn last_words(
        &self,
        pod: &str,
        container: &str,
        lines_max: usize,
    ) -> Result<Vec<String>> {
        for which in PREDECESSOR_FIRST {
            let tail = format!("--tail={lines_max}");
            let logs = self.logs(pod, container, which).arg(tail);
            let captured = process::output(&logs, ANSWER_DEADLINE)?;
            if captured.code == 0 {
                return Ok(captured.stdout.lines().map(str::to_owned).collect());
            }
        }
        Ok(Vec::new())
    }

    fn logs(&self, pod: &str, container: &str, which: &str) -> Invocation {
        let container = format!("--container={container}");
        self.in_namespace().args(["logs", pod, &container, which])
    }

    /// The same, in another namespace.
    pub(crate) fn at(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// What happens to pods from now on, beginning with those that are there: all of this namespace and,
    /// where there is one, of `also`, whoever has put them there.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub(crate) fn watch_pods(&self, also: Option<&str>) -> Result<PodWatch> {
        let seconds = WATCH_DEADLINE.as_secs();
        let namespace = &self.namespace;
        let place = match also {
            None => format!("/api/v1/namespaces/{namespace}/pods"),
            Some(_) => "/api/v1/pods".to_owned(),
        };
        let path = format!("{place}?watch=true&timeoutSeconds={seconds}");
        let watch = self.invocation().args(["get", "--raw", &path]);
        let deadline = WATCH_DEADLINE + ANSWER_DEADLINE;
        let follow = Follow::start(&watch, Followed::Stdout, None, deadline)?;
        let namespaces = [Some(namespace.as_str()), also].into_iter().flatten();
        Ok(PodWatch {
            follow,
            namespaces: namespaces.map(str::to_owned).collect(),
        })
    }

    /// Waits until a roll-out has ended well, or nobody waits for it any more; kubectl watches it.
    ///
    /// # Errors
    /// When it has not in time.
    pub(crate) fn wait_for_roll_out(
        &self,
        namespace: &str,
        deployment: &str,
        deadline: Duration,
        given_up: &AtomicBool,
    ) -> Result<()> {
        let wait = self.invocation().args([
            "rollout".to_owned(),
            "status".to_owned(),
            format!("deployment/{deployment}"),
            format!("--namespace={namespace}"),
            format!("--timeout={}s", deadline.as_secs()),
        ]);
        let watched = Follow::start(&wait, Followed::Stdout, None, deadline + ANSWER_DEADLINE)?;
        while !given_up.load(Ordering::Relaxed) {
            if matches!(watched.next_within(LOOK_INTERVAL)?, Next::Ended) {
                return Ok(watched.finish()?);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_elsewhere;

    #[test]
    fn a_watch_hears_of_its_own_namespaces_whoever_put_the_pod_there() {
        let namespaces = ["a".to_owned(), "b".to_owned()];
        let event = |namespace: &str| {
            format!(
                r#"{{"type": "ADDED", "object": {{"metadata": {{"name": "p", "namespace": "{namespace}"}}}}}}"#
            )
        };
        assert!(!is_elsewhere(&event("a"), &namespaces));
        assert!(!is_elsewhere(&event("b"), &namespaces));
        assert!(is_elsewhere(&event("kube-system"), &namespaces));
        // The server's own words are for everybody.
        assert!(!is_elsewhere(
            r#"{"type": "ERROR", "object": {"message": "too old"}}"#,
            &namespaces
        ));
    }
}
