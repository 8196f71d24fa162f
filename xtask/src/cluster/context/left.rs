//! What runs leave on clusters that were there before: namespaces. They are removed when a run ends,
//! by the next run on that context, and by `clean`, which finds the clusters by the journals in the
//! folders of runs. On a shared cluster a namespace may be that of another machine, so only what is
//! proved to be of a dead run is ever removed.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use serde::Deserialize;
use serde_json::{Value, json};

use super::access;
use crate::cluster::kubernetes::Kubectl;
use crate::exit::{Exit, Failure};
use crate::process::{self, Invocation};
use crate::report::{self, live};
use crate::run::{self, LABEL_CHECKOUT, LABEL_DIRECTORY, LABEL_RUN, Run};
use crate::source::workspace::Workspace;

/// Pods of a namespace, told to go at once, and all that hangs on them.
const GONE_DEADLINE: Duration = Duration::from_secs(120);
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// In the journal of a run: which cluster it used, and how.
const CONTEXT: &str = "context";

/// Writes down how the cluster is reached, before anything is made there: the way back to it.
pub(super) fn note_kubectl(run: &Run, kubectl: &Kubectl, context: &str) -> Result<()> {
    run.note(
        CONTEXT,
        &json!({"context": context, "kubectl": kubectl.program}),
    )
}

/// A namespace that a run has made and not removed.
#[derive(Debug)]
struct Left {
    context: String,
    kubectl: Kubectl,
}

/// Whether a run has one; its secrets open the cluster.
pub(crate) fn is_left(directory: &Utf8Path) -> bool {
    left(directory).is_some()
}

/// kubectl for the namespace of a run, if it has made one and not removed it.
pub(super) fn kubectl(directory: &Utf8Path) -> Option<Kubectl> {
    left(directory).map(|left| left.kubectl)
}

fn left(directory: &Utf8Path) -> Option<Left> {
    let kubeconfig = access::kubeconfig(directory);
    if !kubeconfig.is_file() {
        return None;
    }
    let journal = fs::read(directory.join(run::JOURNAL)).ok()?;
    let lines = journal.split(|&byte| byte == b'\n');
    // Line by line: what is torn tells nothing, and the rest does.
    let events = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    let (mut namespace, mut way) = (None, None);
    for event in events {
        let details = &event["details"];
        let text = |field: &str| details[field].as_str().map(str::to_owned);
        match event["event"].as_str() {
            Some(CONTEXT) => way = text("context").zip(text("kubectl")),
            Some("make") if details["kind"] == "namespace" => namespace = text("name"),
            Some(run::CLEANED) => namespace = None,
            _ => {}
        }
    }
    let (context, program) = way?;
    Some(Left {
        context,
        kubectl: Kubectl {
            program: program.into(),
            kubeconfig,
            namespace: namespace?,
        },
    })
}

/// Removes the namespace of a run that ends, if it has made one, and waits until it has gone.
///
/// # Errors
/// When it does not go: names it.
pub(crate) fn remove_of(run: &Run) -> Result<()> {
    let Some(left) = left(run.directory()) else {
        return Ok(());
    };
    remove(&left.kubectl).map_err(|error| {
        let what = format!(
            "namespace {} is left on context:{}",
            left.kubectl.namespace, left.context
        );
        Failure::new(Exit::Internal, what)
            .hint("`cargo xtask clean` removes it, and so does the next run on that context")
            .caused_by(error)
            .into()
    })
}

/// The commands of [`remove_of`].
pub(super) fn removals(kubectl: &Kubectl) -> [Invocation; 3] {
    let name = &kubectl.namespace;
    let delete = |words: &[&str]| {
        kubectl
            .invocation()
            .arg("delete")
            .args(words.iter().copied())
            .args(["--ignore-not-found", "--wait=false"])
    };
    [
        delete(&["namespace", name]),
        // Nobody waits for them to drain.
        delete(&[
            "pods",
            "--all",
            "--grace-period=1",
            &format!("--namespace={name}"),
        ]),
        kubectl.invocation().args([
            "wait".to_owned(),
            "--for=delete".to_owned(),
            format!("namespace/{name}"),
            format!("--timeout={}s", GONE_DEADLINE.as_secs()),
        ]),
    ]
}

fn remove(kubectl: &Kubectl) -> Result<()> {
    let [namespace, pods, gone] = removals(kubectl);
    process::capture(&namespace, ANSWER_DEADLINE)?;
    // They go with it anyway, only later.
    let hurried = process::output(&pods, ANSWER_DEADLINE);
    let waited = process::capture(&gone, GONE_DEADLINE + ANSWER_DEADLINE);
    if waited.is_ok() || is_gone(kubectl)? {
        return hurried.map(drop).or(Ok(()));
    }
    let waited = waited.map(drop).map_err(anyhow::Error::from);
    waited.with_context(|| format!("it is still there: {}", conditions(kubectl)))
}

fn is_gone(kubectl: &Kubectl) -> Result<bool> {
    let get = kubectl.invocation().args([
        "get",
        "namespace",
        &kubectl.namespace,
        "--ignore-not-found",
        "--output=name",
    ]);
    let told = process::capture(&get, ANSWER_DEADLINE)?.stdout;
    Ok(told.trim().is_empty())
}

/// Why a namespace does not go, as the cluster tells it.
fn conditions(kubectl: &Kubectl) -> String {
    let path = format!("/api/v1/namespaces/{}", kubectl.namespace);
    let told = kubectl.raw(&path).unwrap_or_default();
    let namespace: Value = serde_json::from_str(&told).unwrap_or_default();
    let conditions = namespace["status"]["conditions"].as_array();
    let open = conditions.into_iter().flatten();
    let open = open.filter(|condition| condition["status"] == "True");
    let words: Vec<&str> = open
        .filter_map(|condition| condition["message"].as_str())
        .collect();
    words.join("; ")
}

/// A namespace as the API server lists it.
#[derive(Debug, Deserialize)]
struct Listed {
    metadata: Metadata,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// Removes the namespaces on this cluster that dead runs of this checkout have left; gives their IDs.
/// A run is dead when its folder is here and its lock proves it. That there is no folder proves
/// nothing: another machine may have a checkout at the same path.
pub(super) fn sweep(workspace: &Workspace, kubectl: &Kubectl) -> Result<Vec<String>> {
    let _activity = live::begin("removing", "what dead runs left");
    let checkout = run::checkout(&workspace.root);
    let path = format!("/api/v1/namespaces?labelSelector={LABEL_CHECKOUT}%3D{checkout}");
    let listed: Vec<Listed> = match kubectl.list(&path) {
        Ok(listed) => listed,
        Err(error) if report::is_signal(&error) => return Err(error),
        // Who may make a namespace may still not be allowed to list them.
        Err(error) => {
            report::note(&format!("cannot look for what dead runs left: {error:#}"));
            return Ok(Vec::new());
        }
    };
    let mut swept = Vec::new();
    for Metadata {
        name,
        labels,
        annotations,
    } in listed.into_iter().map(|listed| listed.metadata)
    {
        let directory = annotations.get(LABEL_DIRECTORY).map(Utf8Path::new);
        let Some(directory) = directory.filter(|directory| directory.file_name() == Some(&name))
        else {
            continue;
        };
        if labels.get(LABEL_RUN) != Some(&name) {
            continue;
        }
        let claim = run::claim_dead(&name, Some(directory))?;
        let Some(_held) = claim.filter(run::Claim::is_proven) else {
            continue;
        };
        let of_it = Kubectl {
            namespace: name.clone(),
            ..kubectl.clone()
        };
        remove(&of_it)?;
        forget(directory)?;
        swept.push(name);
    }
    Ok(swept)
}

fn forget(directory: &Utf8Path) -> Result<()> {
    run::append_journal(directory, run::CLEANED, &json!({"by": "sweep"}))?;
    run::remove_secrets(directory)
}

/// Removes the namespaces of runs of this build folder that have died or were kept, wherever they are.
///
/// # Errors
/// When one is left: names it. The others are removed all the same.
pub(crate) fn clean(workspace: &Workspace) -> Result<()> {
    let checkout = run::checkout(&workspace.root);
    let mut failures = Vec::new();
    for record in run::list(workspace)? {
        let directory = &record.directory;
        let is_over = matches!(record.state, run::State::Kept | run::State::Dead);
        if !is_over || record.checkout.as_deref() != Some(&checkout) {
            continue;
        }
        let Some(left) = left(directory) else {
            continue;
        };
        if record.state == run::State::Kept {
            let mark = directory.join(run::KEPT);
            fs::remove_file(&mark).with_context(|| format!("cannot remove {mark}"))?;
        }
        let Some(_held) = run::claim_dead(&record.id, Some(directory))? else {
            continue;
        };
        match remove(&left.kubectl).and_then(|()| forget(directory)) {
            Ok(()) => report::note(&format!(
                "removed the namespace {} on context:{}",
                record.id, left.context
            )),
            Err(error) => failures.push(format!(
                "namespace {} on context:{}: {error:#}",
                record.id, left.context
            )),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    let Err(error) = (|| -> Result<()> { bail!("{}", failures.join("\n  ")) })() else {
        return Ok(());
    };
    Err(
        Failure::new(Exit::Internal, "not every namespace could be removed")
            .hint("if the cluster has gone for good, remove the folder of the run by hand: `cargo xtask status` names it")
            .caused_by(error)
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8Path;
    use serde_json::json;

    use super::{kubectl, removals};

    #[test]
    fn a_journal_tells_what_is_left_and_how_it_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let line = |event: &str, details: serde_json::Value| {
            format!("{}\n", json!({"event": event, "details": details}))
        };
        let way = line(
            "context",
            json!({"context": "c", "kubectl": "/bin/kubectl"}),
        );
        let made = line("make", json!({"kind": "namespace", "name": "r-1"}));
        let cleaned = line("cleaned", json!({}));
        let left = |journal: &str| {
            fs::write(folder.join("journal.jsonl"), journal).unwrap();
            kubectl(folder).map(|kubectl| kubectl.namespace)
        };
        assert_eq!(left(&format!("{way}{made}")), None, "nothing opens it");
        fs::create_dir(folder.join("secrets")).unwrap();
        fs::write(folder.join("secrets/kubeconfig"), "{}").unwrap();
        assert_eq!(left(&format!("{way}{made}")).as_deref(), Some("r-1"));
        assert_eq!(
            left(&format!("{way}{made}{{\"torn")).as_deref(),
            Some("r-1")
        );
        assert_eq!(left(&way), None);
        assert_eq!(left(&format!("{way}{made}{cleaned}")), None);
        fs::write(folder.join("journal.jsonl"), format!("{way}{made}")).unwrap();
        let commands = removals(&kubectl(folder).unwrap()).map(|command| command.to_string());
        for command in commands {
            assert!(
                command.contains("r-1") && command.contains("secrets/kubeconfig"),
                "{command}"
            );
        }
    }
}
