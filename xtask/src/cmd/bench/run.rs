//! A run as a person types it: from the command to the moment before its first test, unchanged and
//! after an edit of one line. The floors are the same containers started by hand, and cargo.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::phase_zero::copy_tree;
use super::{Figure, rounds, temporary};
use crate::cluster::local::{Preview, RollOut, wait_until_ready, write_config};
use crate::cmd::ci::cargo_program;
use crate::engine::{Choice, Engine};
use crate::manifest::{Manifests, References};
use crate::pipeline::build::recipe::Profile;
use crate::poll::{self, Look};
use crate::process::interrupt::Shield;
use crate::process::{self, Background, Echo, Invocation};
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{PackageName, Target, Workspace};
use crate::threads::all;

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
        || until_first_test(workspace, &workspace.root, target, choice, &folder),
        || by_hand(workspace, target, choice),
    )?;
    Ok(Figure {
        subject: "unchanged",
        what: format!("{} again, from the command to its first test", target.name),
        seconds,
        floor: "the same containers started by hand, all pods at once",
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
            until_first_test(workspace, &tree, target, choice, &folder)
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

/// Runs the command in `tree` and ends it where its first test would begin.
fn until_first_test(
    workspace: &Workspace,
    tree: &Utf8Path,
    target: &Target,
    choice: Choice,
    folder: &Utf8Path,
) -> Result<Duration> {
    let log = folder.join("run.log");
    fs::write(&log, "").with_context(|| format!("cannot write {log}"))?;
    let program = std::env::current_exe().context("this program has no path")?;
    let program = Utf8PathBuf::try_from(program)?;
    let engine = format!("{choice:?}").to_lowercase();
    let state = workspace.state_directory();
    let build_folder = state.parent().context("the state folder has a folder")?;
    let e2e = Invocation::new(program.as_str())
        .args(["e2e", target.name.as_str(), "--pause-before", "test"])
        .args(["--engine", &engine])
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

/// The commands of the plan, from a run of its own, until everything is ready.
fn by_hand(workspace: &Workspace, target: &Target, choice: Choice) -> Result<Duration> {
    let run = Run::begin_named(workspace, &target.name, "bench")?;
    let engine = match Engine::find(run.directory(), choice) {
        Ok(engine) => engine,
        Err(error) => {
            run.nothing_made()?;
            return Err(error);
        }
    };
    let result = start_by_hand(workspace, target, &run, &engine);
    let _shield = Shield::raise();
    let removed = run.clean_up(&engine);
    let took = result?;
    removed?;
    fs::remove_dir_all(run.directory())?;
    Ok(took)
}

fn start_by_hand(
    workspace: &Workspace,
    target: &Target,
    run: &Run,
    engine: &Engine,
) -> Result<Duration> {
    let images = crate::cmd::tag::compute(workspace, target, Profile::E2e)?;
    let secrets = Secrets::make(workspace, target, run.directory())?;
    let names = target.packages.iter().map(PackageName::as_str);
    let manifests = Manifests::read(
        workspace,
        names.chain(target.third_party.iter().map(String::as_str)),
    )?;
    write_config(run, &manifests)?;
    let labels = run.labels();
    let preview = Preview {
        engine,
        id: run.id(),
        directory: run.directory(),
        labels: &labels,
    };
    let mut third_party = Vec::new();
    for name in &target.third_party {
        third_party.push(crate::third_party::provide(workspace, engine, name)?);
    }
    let references = References::by_hand(&images, &third_party);
    let planned = preview.roll_out(&secrets, &manifests, &references)?;
    let begun = Instant::now();
    call(&preview.network())?;
    bring_up(&planned)?;
    wait_until_ready(engine, &planned.readiness, STEP_DEADLINE)?;
    Ok(begun.elapsed())
}

fn bring_up(planned: &RollOut) -> Result<()> {
    for folder in &planned.memory_folders {
        fs::create_dir(folder).with_context(|| format!("cannot make {folder}"))?;
    }
    std::thread::scope(|scope| {
        let pods = planned
            .pods
            .iter()
            .map(|commands| scope.spawn(|| commands.iter().try_for_each(call)));
        all(pods.collect())
    })
}

fn call(invocation: &Invocation) -> Result<()> {
    let _shield = Shield::raise();
    process::capture(invocation, STEP_DEADLINE)?;
    Ok(())
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
