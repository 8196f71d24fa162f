//! A run as a person types it: from the command to the moment before its first test, unchanged and
//! after an edit of one line. The floors are the same containers alone, and cargo.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::phase_zero::copy_tree;
use super::{Figure, rounds, temporary};
use crate::bundle::Bundle;
use crate::cli;
use crate::cluster::Cluster;
use crate::cluster::kind::by_hand;
use crate::cmd::build::build_target;
use crate::cmd::ci::cargo_program;
use crate::engine::{Choice, Engine};
use crate::manifest::Manifests;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::load::load;
use crate::pipeline::tag::Repository;
use crate::poll::{self, Look};
use crate::process::interrupt::Shield;
use crate::process::{self, Background, Echo, Invocation};
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

/// With a cold build before it.
const RUN_DEADLINE: Duration = Duration::from_secs(1200);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// The target that is measured: the one that is no more than what every target is tested against.
fn target(workspace: &Workspace) -> Result<&Target> {
    workspace.target(workspace.against.as_str())
}

pub(super) fn unchanged(workspace: &Workspace, choice: Choice, count: usize) -> Result<Figure> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let (seconds, floor_seconds) = rounds(
        count,
        || until_first_test(workspace, &workspace.root, target, choice, &folder, &[]),
        || by_hand(workspace, target, choice),
    )?;
    Ok(Figure {
        subject: "unchanged",
        what: format!("{} again, from the command to its first test", target.name),
        seconds,
        floor: "the same network and containers started by hand, side by side, until ready",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.5,
    })
}

pub(super) fn edit(workspace: &Workspace, choice: Choice, count: usize) -> Result<Figure> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let tree = folder.join("tree");
    copy_tree(&workspace.root, &tree)?;
    let package = workspace.package(workspace.against.as_str())?;
    let source = tree.join(&package.directory).join("src/lib.rs");
    let original = fs::read_to_string(&source).with_context(|| format!("cannot read {source}"))?;
    // A state that no run has seen, and that every run of this measurement shares.
    let nonce = std::process::id();
    let write = |round: usize| {
        let text = format!(
            "{original}\n/// Measured.\npub const MEASURED: [u32; 2] = [{nonce}, {round}];\n"
        );
        fs::write(&source, text).with_context(|| format!("cannot write {source}"))
    };
    let (mut one, mut other) = (0, 0);
    let (seconds, floor_seconds) = rounds(
        count,
        || {
            one += 1;
            write(one)?;
            until_first_test(workspace, &tree, target, choice, &folder, &[])
        },
        || {
            other += 1;
            write(1_000 + other)?;
            Ok(compile(workspace, &tree)? + by_hand(workspace, target, choice)?)
        },
    )?;
    Ok(Figure {
        subject: "edit",
        what: format!("one line of {} edited, to the first test", package.name),
        seconds,
        floor: "cargo build after such an edit, and the containers by hand",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.3,
    })
}

/// A run from nothing takes a minute, and differs little from the next.
const KIND_ROUNDS_MAX: usize = 3;

pub(super) fn kind(
    workspace: &Workspace,
    options: &cli::Bench,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Figure> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let named = bundle.map(|bundle| format!("--bundle={}", bundle.folder()));
    let more: Vec<&str> = ["--cluster=kind"]
        .into_iter()
        .chain(named.as_deref())
        .collect();
    let (seconds, floor_seconds) = rounds(
        (options.rounds as usize).min(KIND_ROUNDS_MAX),
        || {
            until_first_test(
                workspace,
                &workspace.root,
                target,
                options.engine,
                &folder,
                &more,
            )
        },
        || kind_by_hand(workspace, target, options.engine, bundle),
    )?;
    Ok(Figure {
        subject: "kind",
        what: format!(
            "{} on a kind cluster, from nothing to its first test",
            target.name
        ),
        seconds,
        floor: "kind create cluster, and its name service ready",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.3,
    })
}

/// A cluster alone, made and removed as a run of its own.
fn kind_by_hand(
    workspace: &Workspace,
    target: &Target,
    choice: Choice,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Duration> {
    in_a_run(workspace, target, choice, |run, engine| {
        by_hand::time(workspace, target, run, engine, bundle)
    })
}

/// Runs the command in `tree` and ends it where its first test would begin.
fn until_first_test(
    workspace: &Workspace,
    tree: &Utf8Path,
    target: &Target,
    choice: Choice,
    folder: &Utf8Path,
    more: &[&str],
) -> Result<Duration> {
    let log = folder.join("run.log");
    fs::write(&log, "").with_context(|| format!("cannot write {log}"))?;
    let program = std::env::current_exe().context("this program has no path")?;
    let program = Utf8PathBuf::try_from(program)?;
    let state = workspace.state_directory();
    let build_folder = state.parent().context("the state folder has a folder")?;
    let e2e = Invocation::new(program.as_str())
        .args(["e2e", target.name.as_str(), "--pause-before", "test"])
        .args(["--engine", choice.word()])
        .args(more.iter().copied())
        .current_dir(tree)
        // The same store, mirror and build folder, wherever the tree lies.
        .env("CARGO_TARGET_DIR", build_folder.as_str());
    let begun = Instant::now();
    let child = Background::start(&e2e, &log)?;
    poll::until("first test", RUN_DEADLINE, LOOK_INTERVAL, || {
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))?;
        if text.contains(" paused before test") {
            return Ok(Look::Found(()));
        }
        child.check()?;
        Ok(Look::NotYet(
            text.lines().last().unwrap_or_default().to_owned(),
        ))
    })?;
    let took = begun.elapsed();
    // TERM; it removes what it made.
    drop(child);
    Ok(took)
}

/// The same network and containers, started by hand as a run of its own, until everything is ready.
fn by_hand(workspace: &Workspace, target: &Target, choice: Choice) -> Result<Duration> {
    in_a_run(workspace, target, choice, |run, engine| {
        start_by_hand(workspace, target, run, engine)
    })
}

/// What `step` makes is that of a run, and removed afterwards.
fn in_a_run(
    workspace: &Workspace,
    target: &Target,
    choice: Choice,
    step: impl FnOnce(&Arc<Run>, &Engine) -> Result<Duration>,
) -> Result<Duration> {
    let run = Arc::new(Run::begin_named(workspace, &target.name, "bench")?);
    let engine = match Engine::find(run.directory(), choice) {
        Ok(engine) => engine,
        Err(error) => {
            run.nothing_made()?;
            return Err(error);
        }
    };
    let result = step(&run, &engine);
    let _shield = Shield::raise();
    let removed = run.clean_up(&engine);
    let took = result?;
    removed?;
    fs::remove_dir_all(run.directory())?;
    Ok(took)
}

/// Everything that comes before is done already, and not counted.
fn start_by_hand(
    workspace: &Workspace,
    target: &Target,
    run: &Run,
    engine: &Engine,
) -> Result<Duration> {
    let built = build_target(
        workspace,
        target,
        Profile::E2e,
        &Repository::localhost(),
        false,
    )?;
    let secrets = Secrets::make(workspace, target, run.directory())?;
    let manifests = Manifests::read(workspace, target.manifests())?;
    let begun = Instant::now();
    let cluster = Cluster::start_local(workspace, target, run, engine, None)?;
    let made = begun.elapsed();
    let loaded = load(built, &cluster)?;
    let begun = Instant::now();
    let Cluster::Local(local) = &cluster else {
        anyhow::bail!("containers are started by hand on the local cluster alone");
    };
    local.start_by_hand(run, &secrets, &manifests, &loaded, STEP_DEADLINE)?;
    Ok(made + begun.elapsed())
}

/// cargo alone, as it stands in the recipe: the same profile for the same platform.
fn compile(workspace: &Workspace, tree: &Utf8Path) -> Result<Duration> {
    let build = Invocation::new(cargo_program())
        .args(["build", "--locked", "--profile", "e2e", "--package"])
        .arg(workspace.against.as_str())
        .current_dir(tree)
        .env(
            "CARGO_TARGET_DIR",
            workspace.state_directory().join("bench").as_str(),
        );
    let begun = Instant::now();
    let code = process::stream(&build, None, Echo::Terminal, RUN_DEADLINE)?;
    anyhow::ensure!(code == 0, "ended with {code}: {build}");
    Ok(begun.elapsed())
}
