//! A run on a cluster of kind, from nothing, and each of its steps; beside it the same by hand, with
//! kind and kubectl. A round is one such run, read from its receipt, and one cluster by hand.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde::Deserialize;

use super::run::{in_a_run, target};
use super::{Figure, median, temporary};
use crate::bundle::Bundle;
use crate::cli;
use crate::cluster::Cluster;
use crate::cluster::kind::{self, by_hand::ByHand};
use crate::cmd::build::build_target;
use crate::cmd::paused::{self, Paused};
use crate::engine::Engine;
use crate::manifest::Manifests;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::load::load;
use crate::pipeline::tag::Repository;
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

/// A round makes two clusters, and differs little from the next.
const ROUNDS_MAX: usize = 3;
const ROLL_OUT_DEADLINE: Duration = Duration::from_secs(120);

/// How long the steps of a run took.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ours {
    /// From nothing until Kubernetes takes what is deployed.
    created: Duration,
    loaded: Duration,
    rolled_out: Duration,
    /// From the command to the first test.
    whole: Duration,
}

/// The same by hand.
#[derive(Clone, Copy, Debug)]
struct Theirs {
    created: Duration,
    /// The name service of the cluster is ready, after that.
    named: Duration,
    /// Our archives.
    loaded: Duration,
    /// Those of third parties.
    loaded_besides: Duration,
    rolled_out: Duration,
}

impl Theirs {
    /// A node takes one at a time, and whose turn it is in a run is not told apart.
    fn all_loaded(&self) -> Duration {
        self.loaded + self.loaded_besides
    }
}

#[derive(Deserialize)]
struct Receipt {
    phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct Phase {
    phase: String,
    seconds: f64,
    ended_after_seconds: f64,
}

/// What of a run its receipt tells.
impl Ours {
    fn of(receipt: &Receipt, whole: Duration) -> Result<Self> {
        let phase = |name: &str| {
            let mut phases = receipt.phases.iter();
            let found = phases.find(|phase| phase.phase == name);
            found.with_context(|| format!("the receipt has no phase `{name}`"))
        };
        let created = phase("cluster up")?.ended_after_seconds;
        Ok(Self {
            created: Duration::from_secs_f64(created),
            loaded: Duration::from_secs_f64(phase("load")?.seconds),
            rolled_out: Duration::from_secs_f64(phase("deploy")?.seconds),
            whole,
        })
    }
}

pub(super) fn measure(
    workspace: &Workspace,
    options: &cli::Bench,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Vec<Figure>> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let run = |cluster: &str| {
        let named = bundle.map(|bundle| format!("--bundle={}", bundle.folder()));
        let more: Vec<&str> = [cluster, "--engine", options.engine.word()]
            .into_iter()
            .chain(named.as_deref())
            .collect();
        Paused::before("test", workspace, &workspace.root, target, &folder, &more)
    };
    // Images and tests are built then, whatever that takes, and no cluster of kind is made for it.
    run("--cluster=local")?.end()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..(options.rounds as usize).min(ROUNDS_MAX) {
        // First, since it brings what both take from elsewhere before time is taken.
        theirs.push(in_a_run(
            workspace,
            target,
            options.engine,
            |run, engine| by_hand(workspace, target, run, engine, bundle),
        )?);
        let paused = run("--cluster=kind")?;
        let receipt: Receipt = paused::receipt(paused.directory())?;
        ours.push(Ours::of(&receipt, paused.took)?);
        paused.end()?;
    }
    figures(&target.name.to_string(), &ours, &theirs)
}

fn by_hand(
    workspace: &Workspace,
    target: &Target,
    run: &Arc<Run>,
    engine: &Engine,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Theirs> {
    let built = build_target(
        workspace,
        target,
        Profile::E2e,
        &Repository::localhost(),
        false,
    )?;
    let secrets = Secrets::make(workspace, target, run.directory())?;
    let manifests = Manifests::read(workspace, target.manifests())?;
    let made = ByHand::make(&kind::Wanted {
        workspace,
        target,
        run,
        engine,
        manifests: &manifests,
        bundle,
        kept: None,
        nodes_count: 1,
    })?;
    let besides = made.third_party.iter().map(|archive| archive.as_path());
    let loaded_besides = made.load(besides)?;
    let archives = built.iter().map(|(_, image)| image.archive());
    let loaded = made.load(archives.collect::<Vec<&Utf8Path>>())?;
    let (created, named) = (made.created, made.names);
    let cluster = Cluster::Kind(Box::new(made.kind));
    // Nothing is sent any more; it proves that kind has loaded what was built.
    let seen = load(built, &cluster)?;
    let Cluster::Kind(kind) = &cluster else {
        anyhow::bail!("the cluster has become another");
    };
    Ok(Theirs {
        created,
        named,
        loaded,
        loaded_besides,
        rolled_out: kind.roll_out_by_hand(&secrets, &manifests, &seen, ROLL_OUT_DEADLINE)?,
    })
}

fn figures(target: &str, ours: &[Ours], theirs: &[Theirs]) -> Result<Vec<Figure>> {
    let figure = |subject: &'static str,
                  what: String,
                  of_ours: fn(&Ours) -> Duration,
                  floor: &'static str,
                  of_theirs: fn(&Theirs) -> Duration,
                  ratio_max: f64| {
        let seconds = median(ours.iter().map(of_ours).collect())?;
        let floor_seconds = median(theirs.iter().map(of_theirs).collect())?;
        anyhow::Ok(Figure {
            subject,
            what,
            seconds,
            floor,
            floor_seconds,
            ratio: seconds / floor_seconds,
            ratio_max,
        })
    };
    Ok(vec![
        figure(
            "kind",
            format!("{target} on a kind cluster, from nothing to its first test"),
            |ours| ours.whole,
            "kind create cluster, and its name service ready",
            |theirs| theirs.created + theirs.named,
            1.3,
        )?,
        figure(
            "kind-create",
            "from nothing until Kubernetes takes what is deployed, all images in its node"
                .to_owned(),
            |ours| ours.created,
            "kind create cluster, and its name service ready",
            |theirs| theirs.created + theirs.named,
            1.1,
        )?,
        figure(
            "kind-load",
            "ours streamed and proved, behind third parties', while Kubernetes comes up".to_owned(),
            |ours| ours.loaded,
            "kind load image-archive of all of them, when it is up",
            Theirs::all_loaded,
            2.0,
        )?,
        figure(
            "kind-roll-out",
            "applied, watched and reached; it waits for the name service as well".to_owned(),
            |ours| ours.rolled_out,
            "kubectl apply and rollout status of the same, where that is ready",
            |theirs| theirs.rolled_out,
            1.5,
        )?,
        figure(
            "kind-all",
            format!("{target} again as in the first, with all its proof"),
            |ours| ours.whole,
            "all of this by hand: create, name service, load (third parties too), roll-out",
            |theirs| theirs.created + theirs.named + theirs.all_loaded() + theirs.rolled_out,
            1.0,
        )?,
    ])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{Ours, Receipt, Theirs, figures};

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn the_steps_of_a_run_are_those_of_its_receipt() {
        let phase = |name: &str, seconds: f64, after: f64| json!({"phase": name, "seconds": seconds, "ended_after_seconds": after});
        let phases = [
            phase("cluster", 4.0, 4.0),
            phase("load", 2.0, 6.0),
            phase("cluster up", 9.0, 15.0),
            phase("deploy", 3.0, 18.0),
        ];
        let read = |phases: &[serde_json::Value]| {
            let receipt: Receipt = serde_json::from_value(json!({"phases": phases})).unwrap();
            Ours::of(&receipt, seconds(20))
        };
        let expected = Ours {
            created: seconds(15),
            loaded: seconds(2),
            rolled_out: seconds(3),
            whole: seconds(20),
        };
        assert_eq!(read(&phases).unwrap(), expected);
        let error = read(&phases[..3]).unwrap_err().to_string();
        assert!(error.contains("`deploy`"), "{error}");
    }

    #[test]
    fn each_step_is_held_against_the_same_by_hand() {
        let ours = Ours {
            created: seconds(15),
            loaded: seconds(2),
            rolled_out: seconds(3),
            whole: seconds(24),
        };
        let theirs = Theirs {
            created: seconds(12),
            named: seconds(8),
            loaded: seconds(1),
            loaded_besides: seconds(7),
            rolled_out: seconds(4),
        };
        let figures = figures("a", &[ours], &[theirs]).unwrap();
        let told = figures
            .iter()
            .map(|figure| (figure.subject, figure.seconds, figure.floor_seconds));
        let expected = [
            ("kind", 24.0, 20.0),
            ("kind-create", 15.0, 20.0),
            ("kind-load", 2.0, 8.0),
            ("kind-roll-out", 3.0, 4.0),
            ("kind-all", 24.0, 32.0),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
        assert_eq!(figures[4].ratio, 0.75);
    }
}
