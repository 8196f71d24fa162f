//! A roll-out that is watched: every pod that is ready counts, the first that will never be ends
//! the wait. Nothing is asked again and again; the API server tells what changes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::pod::Pod;
use super::{Kubectl, PodWatch};
use crate::exit::{Exit, Failure};
use crate::process::follow::Next;
use crate::report::live::Activity;

/// How often it is looked whether nodes have come up, where no event comes.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// A Deployment whose pods must be ready.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) deployment: String,
    /// How its pods are found.
    pub(crate) selector: BTreeMap<String, String>,
    /// How many.
    pub(crate) replicas: usize,
}

/// A line of a watch.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

/// Asks what images the nodes have, by name. That is known to whoever made them, and to nobody else as
/// exactly: what an API server tells of a node's images is seconds old.
pub(crate) type Held<'a> = &'a (dyn Fn() -> Result<Vec<String>> + Sync);

/// What is known of the pods of a namespace.
#[derive(Debug, Default)]
struct Seen(BTreeMap<String, Pod>);

/// How a roll-out stands.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Ready,
    /// What is waited for.
    NotYet(String),
    /// The pod, and why.
    Failed(String, String),
}

impl Seen {
    fn take(&mut self, line: &str) -> Result<()> {
        let event: Event = serde_json::from_str(line).context("cannot read a line of a watch")?;
        if event.kind == "ERROR" {
            anyhow::bail!(
                "the API server ended the watch: {}",
                event.object["message"]
            );
        }
        if !["ADDED", "MODIFIED", "DELETED"].contains(&event.kind.as_str()) {
            return Ok(());
        }
        let pod: Pod = serde_json::from_value(event.object).context("cannot read a pod")?;
        match event.kind.as_str() {
            "DELETED" => self.0.remove(pod.name()),
            _ => self.0.insert(pod.name().to_owned(), pod),
        };
        Ok(())
    }

    /// As long as nodes are coming up, that a pod fits on none will pass.
    fn judge(&self, wanted: &[Wanted], nodes_are_up: bool) -> Verdict {
        let pods = self.0.values().filter(|pod| !pod.is_going());
        for pod in pods.clone() {
            let homeless = pod.unschedulable().filter(|_| nodes_are_up);
            if let Some(failure) = homeless.or_else(|| pod.failure()) {
                return Verdict::Failed(pod.name().to_owned(), failure);
            }
        }
        for one in wanted {
            let of_it = pods.clone().filter(|pod| pod.matches(&one.selector));
            let ready = of_it.clone().filter(|pod| pod.is_ready()).count();
            if ready < one.replicas {
                let states: Vec<String> = of_it.map(Pod::state).collect();
                return Verdict::NotYet(match states.is_empty() {
                    true => format!("{}: no pod yet", one.deployment),
                    false => states.join(", "),
                });
            }
        }
        Verdict::Ready
    }
}

/// What becomes known beside a roll-out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks<'a> {
    /// A pod that fits on no node now fits on none later.
    pub(crate) nodes_are_up: &'a AtomicBool,
    /// What was to be rolled out was not taken: there is nothing to wait for.
    pub(crate) is_refused: &'a AtomicBool,
}

/// Waits until every pod of `wanted` is ready, here and in the namespace `also`, or it is marked that
/// none will come. Gives the watch, which goes on, and the pods that it has seen.
///
/// # Errors
/// [`Exit::Deploy`] with the reason, when one never will be or the time is over; a signal.
pub(crate) fn wait(
    kubectl: &Kubectl,
    also: Option<&str>,
    wanted: &[Wanted],
    deadline: Duration,
    marks: &Marks<'_>,
    held: Held<'_>,
    activity: &Activity,
) -> Result<(PodWatch, Vec<Pod>)> {
    let (mut seen, begun) = (Seen::default(), Instant::now());
    let watch = kubectl.watch_pods(also)?;
    let mut last = "no pod yet".to_owned();
    loop {
        match watch.next_within(LOOK_INTERVAL) {
            Ok(Next::Line(line)) => seen.take(&line)?,
            // Nodes may have come up.
            Ok(Next::Nothing) => {}
            // A server ends its watches when it likes.
            Ok(Next::Ended) => {
                watch.finish()?;
                return Err(late(deadline, &last));
            }
            Err(error) => return Err(error.into()),
        }
        if marks.is_refused.load(Ordering::Relaxed) {
            return Ok((watch, Vec::new()));
        }
        match seen.judge(wanted, marks.nodes_are_up.load(Ordering::Relaxed)) {
            Verdict::Ready => return Ok((watch, seen.0.into_values().collect())),
            Verdict::NotYet(status) if begun.elapsed() >= deadline => {
                return Err(late(deadline, &status));
            }
            Verdict::NotYet(status) => {
                activity.say(status.as_str());
                last = status;
            }
            Verdict::Failed(name, reason) => {
                let pod = seen.0.remove(&name).unwrap_or_default();
                let found = Found::look(&kubectl.at(pod.namespace()), &pod, held);
                return Err(Failure::new(Exit::Deploy, found.told(&reason)).into());
            }
        }
    }
}

fn late(deadline: Duration, last: &str) -> anyhow::Error {
    let seconds = deadline.as_secs();
    Failure::new(Exit::Deploy, format!("not ready within {seconds} s: {last}"))
        .hint("its log says what it waits for; `ready-deadline-seconds` in [package.metadata.e2e] gives it more time")
        .into()
}

/// What explains a pod that will never be ready.
#[derive(Debug, Default)]
struct Found {
    /// The image that is not there, and what images are.
    missing: Option<(String, Vec<String>)>,
    /// What the container that ended has said last.
    words: Vec<String>,
    /// What the cluster itself noted of the pod.
    events: Vec<String>,
}

impl Found {
    /// The reason is known; that nobody answers any more is another matter.
    fn look(kubectl: &Kubectl, pod: &Pod, held: Held<'_>) -> Self {
        const WORDS_MAX: usize = 3;
        let words = |container| kubectl.last_words(pod.name(), container, WORDS_MAX);
        Self {
            missing: pod
                .missing_image()
                .map(|image| (image.to_owned(), held().unwrap_or_default())),
            words: pod
                .ended()
                .map_or(Ok(Vec::new()), words)
                .unwrap_or_default(),
            events: kubectl.events(pod.name()).unwrap_or_default(),
        }
    }

    /// All of it in a few lines, the reason first.
    fn told(&self, reason: &str) -> String {
        const EVENTS_MAX: usize = 3;
        let mut message = reason.to_owned();
        if let Some((missing, held)) = &self.missing {
            message.push_str(&format!("\n  {}", told_held(missing, held)));
        }
        for line in &self.words {
            message.push_str(&format!("\n  log: {line}"));
        }
        let over = self.events.len().saturating_sub(EVENTS_MAX);
        for event in &self.events[over..] {
            message.push_str(&format!("\n  event: {event}"));
        }
        message
    }
}

/// Other images of the same name first: that it is another tag is what most often went wrong.
fn told_held(missing: &str, held: &[String]) -> String {
    let name_of = |reference: &str| match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => reference.to_owned(),
    };
    let (alike, others): (Vec<&str>, Vec<&str>) = held
        .iter()
        .map(String::as_str)
        .partition(|image| name_of(image) == name_of(missing));
    match held.is_empty() {
        true => "what images the node has is not known".to_owned(),
        false => format!("the node has {}", [alike, others].concat().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{Found, Seen, Verdict, Wanted};

    fn wanted(replicas: usize) -> Vec<Wanted> {
        vec![Wanted {
            deployment: "gateway".to_owned(),
            selector: BTreeMap::from([("app".to_owned(), "gateway".to_owned())]),
            replicas,
        }]
    }

    fn event(kind: &str, name: &str, app: &str, ready: bool) -> String {
        let ready = if ready { "True" } else { "False" };
        json!({"type": kind, "object": {
            "metadata": {"name": name, "labels": {"app": app}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        }})
        .to_string()
    }

    #[test]
    fn ready_is_who_is_ready_now() {
        let mut seen = Seen::default();
        assert_eq!(
            seen.judge(&wanted(1), true),
            Verdict::NotYet("gateway: no pod yet".to_owned())
        );
        seen.take(&event("ADDED", "a", "gateway", false)).unwrap();
        seen.take(&event("ADDED", "o", "other", true)).unwrap();
        assert_eq!(
            seen.judge(&wanted(1), true),
            Verdict::NotYet("a: running, not ready".to_owned())
        );
        seen.take(&event("MODIFIED", "a", "gateway", true)).unwrap();
        assert_eq!(seen.judge(&wanted(1), true), Verdict::Ready);
        assert!(matches!(seen.judge(&wanted(2), true), Verdict::NotYet(_)));
        seen.take(&event("DELETED", "a", "gateway", true)).unwrap();
        assert!(matches!(seen.judge(&wanted(1), true), Verdict::NotYet(_)));
        seen.take(r#"{"type":"ERROR","object":{"message":"too old"}}"#)
            .unwrap_err();
    }

    #[test]
    fn that_a_pod_fits_nowhere_counts_when_nodes_are_up() {
        let mut seen = Seen::default();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "a taint",
        });
        let line = json!({"type": "ADDED", "object": {
            "metadata": {"name": "a", "labels": {"app": "gateway"}}, "status": {"conditions": [condition]},
        }});
        seen.take(&line.to_string()).unwrap();
        assert!(matches!(seen.judge(&wanted(1), false), Verdict::NotYet(_)));
        assert!(
            matches!(seen.judge(&wanted(1), true), Verdict::Failed(_, reason)
            if reason.contains("a taint"))
        );
    }

    #[test]
    fn the_first_that_will_never_be_ends_it() {
        let mut seen = Seen::default();
        let line = json!({"type": "ADDED", "object": {
            "metadata": {"name": "a", "labels": {"app": "other"}},
            "status": {"containerStatuses": [{"name": "c", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}]},
        }});
        seen.take(&line.to_string()).unwrap();
        assert!(
            matches!(seen.judge(&wanted(1), true), Verdict::Failed(pod, reason)
            if pod == "a" && reason.contains("ErrImageNeverPull"))
        );
    }

    #[test]
    fn a_failure_is_told_with_all_that_explains_it() {
        let strings = |of: &[&str]| of.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
        let found = Found {
            missing: Some((
                "localhost:5000/a:x".to_owned(),
                strings(&["k8s.io/b:1", "localhost:5000/a:w", "localhost:5000/ab:x"]),
            )),
            words: strings(&["cannot bind"]),
            events: strings(&["1", "2", "3", "4"]),
        };
        assert_eq!(
            found.told("ErrImageNeverPull"),
            "ErrImageNeverPull\n  the node has localhost:5000/a:w, k8s.io/b:1, localhost:5000/ab:x\n  log: cannot bind\n  event: 2\n  event: 3\n  event: 4"
        );
        assert_eq!(Found::default().told("no cpu"), "no cpu");
    }
}
