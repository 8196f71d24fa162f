//! A run on a real cluster that loses its image between load and deploy, as one does whose manifest
//! names an image that nobody loaded: it must fail in seconds, and say all that explains it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use camino::Utf8Path;
use serde::Deserialize;

use crate::cluster::kind;
use crate::cmd::paused::{self, Paused};
use crate::cmd::temporary;
use crate::engine::{Choice, Engine};
use crate::exit::Exit;
use crate::report;
use crate::run::{LABEL_RUN, Resources};
use crate::source::workspace::Workspace;

/// From the deployment to its failure; a node that takes pods may be seconds away still. The name
/// service of the cluster comes later than that, and what a run waits for at most is a multiple.
const SOON: Duration = Duration::from_secs(10);
/// The same with what explains it gathered, and the cluster removed.
const END_DEADLINE: Duration = Duration::from_secs(180);

/// What of a receipt counts here.
#[derive(Debug, Deserialize)]
struct Receipt {
    run: String,
    images: std::collections::BTreeMap<String, Image>,
    third_party: Vec<Image>,
    phases: Vec<Phase>,
    failure: Option<Failure>,
}

#[derive(Debug, Deserialize)]
struct Image {
    reference: String,
}

#[derive(Debug, Deserialize)]
struct Phase {
    phase: String,
    seconds: f64,
}

#[derive(Debug, Deserialize)]
struct Failure {
    phase: String,
    message: String,
}

/// Breaks such a run, and judges how it ends.
///
/// # Errors
/// When it ends in another way, too late, or without a word of what explains it.
pub(super) fn fails_soon(
    workspace: &Workspace,
    choice: Choice,
    bundle: Option<&Utf8Path>,
) -> Result<()> {
    // The one that is no more than what every target is tested against.
    let target = workspace.target(workspace.against.as_str())?;
    let (_folder, folder) = temporary()?;
    let engine = Engine::find(&folder, choice)?;
    let named = bundle.map(|bundle| format!("--bundle={bundle}"));
    let more: Vec<&str> = ["--cluster=kind", "--engine", choice.word()]
        .into_iter()
        .chain(named.as_deref())
        .collect();
    let root = &workspace.root;
    let run = Paused::before("deploy", workspace, root, target, &folder, &more)?;
    let directory = run.directory().to_owned();
    let before: Receipt = paused::receipt(&directory)?;
    let image = before.images.get(workspace.against.as_str());
    let image = &image.context("the run has no such image")?.reference;
    kind::forget(&engine, &before.run, image)?;
    let code = run.go_on(END_DEADLINE)?;
    let after: Receipt = paused::receipt(&directory)?;
    let took = judge(&after, code, image)
        .with_context(|| format!("a run whose image was taken away: {directory}"))?;
    let left = Resources::find(&engine, &format!("{LABEL_RUN}={}", before.run))?;
    ensure!(left.is_empty(), "the engine still has {left:?}");
    report::note(&format!(
        "{image} was taken off the node, and the run failed {took:.1} s after it began to deploy"
    ));
    Ok(())
}

/// How many seconds it took to fail, if it failed as it should.
fn judge(receipt: &Receipt, code: i32, image: &str) -> Result<f64> {
    let Some(failure) = &receipt.failure else {
        bail!("it did not fail, and ended with {code}");
    };
    let Failure { phase, message } = failure;
    let wanted = Exit::Deploy as i32;
    ensure!(
        code == wanted && phase == "deploy",
        "it ended with {code} in phase {phase}, and not with {wanted} in deploy: {message}"
    );
    // What the node does have: what was not taken away.
    let held = receipt.third_party.iter().map(|one| one.reference.as_str());
    for word in [
        "ErrImageNeverPull",
        image,
        "\n  the node has ",
        "\n  event: ",
    ]
    .into_iter()
    .chain(held)
    {
        ensure!(message.contains(word), "no `{word}` in: {message}");
    }
    let mut phases = receipt.phases.iter();
    let deploy = phases.find(|phase| phase.phase == "deploy");
    let seconds = deploy.context("it did not begin to deploy")?.seconds;
    ensure!(
        seconds <= SOON.as_secs_f64(),
        "it failed after {seconds:.1} s only, and {} s are enough",
        SOON.as_secs()
    );
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Receipt, judge};

    const IMAGE: &str = "localhost/a:x";

    fn receipt() -> Value {
        let message = "error: c of pod a-1 does not run: ErrImageNeverPull: localhost/a:x\n  the node has localhost/db:15\n  event: Warning\n";
        json!({
            "run": "r", "images": {"a": {"reference": IMAGE}},
            "third_party": [{"reference": "localhost/db:15"}],
            "phases": [{"phase": "load", "seconds": 99.0}, {"phase": "deploy", "seconds": 4.5}],
            "failure": {"phase": "deploy", "message": message},
        })
    }

    #[track_caller]
    fn refused(receipt: Value, code: i32, why: &str) {
        let receipt: Receipt = serde_json::from_value(receipt).unwrap();
        let error = judge(&receipt, code, IMAGE).unwrap_err().to_string();
        assert!(error.contains(why), "no `{why}` in: {error}");
    }

    #[test]
    fn it_must_fail_as_a_deployment_soon_and_with_all_that_explains_it() {
        let good: Receipt = serde_json::from_value(receipt()).unwrap();
        assert_eq!(judge(&good, 7, IMAGE).unwrap(), 4.5);
        refused(receipt(), 8, "ended with 8");
        let with = |pointer: &str, value: Value| {
            let mut receipt = receipt();
            *receipt.pointer_mut(pointer).unwrap() = value;
            receipt
        };
        refused(with("/failure", Value::Null), 0, "did not fail");
        refused(with("/failure/phase", json!("load")), 7, "in phase load");
        refused(with("/phases/1/seconds", json!(120.0)), 7, "after 120.0 s");
        let message = receipt()["failure"]["message"].clone();
        let message = message.as_str().unwrap();
        for word in ["ErrImageNeverPull", "localhost/db:15", "event: ", IMAGE] {
            let without = json!(message.replace(word, ""));
            refused(with("/failure/message", without), 7, word);
        }
    }
}
