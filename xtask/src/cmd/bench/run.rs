//! A run as a person types it: from the command to the moment before its first test, unchanged and
//! after an edit of one line. The floors are the same containers alone, and cargo.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::phase_zero::copy_tree;
use super::{Figure, rounds, temporary};
use crate::cluster::Cluster;
use crate::cmd::build::build_target;
use crate::cmd::ci::cargo_program;
use crate::cmd::paused::Paused;
use crate::engine::{Choice, Engine};
use crate::manifest::Manifests;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::load::load;
use crate::pipeline::tag::Repository;
use crate::process::interrupt::Shield;
use crate::process::{self, Echo, Invocation};
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

/// After an edit that every package sees.
const COMPILE_DEADLINE: Duration = Duration::from_secs(1200);
const STEP_DEADLINE: Duration = Duration::from_secs(60);

/// The target that is measured: the one that is no more than what every target is tested against.
pub(super) fn target(workspace: &Workspace) -> Result<&Target> {
    workspace.target(workspace.against.as_str())
}

pub(super) fn unchanged(workspace: &Workspace, choice: Choice, count: usize) -> Result<Figure> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let (seconds, floor_seconds) = rounds(
        count,
        || {
            until_first_test(
                workspace,
                &workspace.root,
                target,
                &folder,
                &locally(choice),
            )
        },
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
    let tree = EditedTree::make(workspace, &folder)?;
    let more = locally(choice);
    let (mut one, mut other) = (0, 0);
    let (seconds, floor_seconds) = rounds(
        count,
        || {
            one += 1;
            tree.edit(one)?;
            until_first_test(workspace, tree.root(), target, &folder, &more)
        },
        || {
            other += 1;
            tree.edit(1_000 + other)?;
            Ok(tree.compile(workspace)? + by_hand(workspace, target, choice)?)
        },
    )?;
    Ok(Figure {
        subject: "edit",
        what: format!(
            "one line of {} edited, to the first test",
            workspace.against
        ),
        seconds,
        floor: "cargo build after such an edit, and the containers by hand",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.3,
    })
}

/// A copy of the workspace, in which DataStorage is edited.
pub(super) struct EditedTree {
    root: Utf8PathBuf,
    source: Utf8PathBuf,
    original: String,
}

impl EditedTree {
    /// Copies it to a folder of its own below this one.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub(super) fn make(workspace: &Workspace, folder: &Utf8Path) -> Result<Self> {
        let root = folder.join("tree");
        copy_tree(&workspace.root, &root)?;
        let package = workspace.package(workspace.against.as_str())?;
        let source = root.join(&package.directory).join("src/lib.rs");
        let original =
            fs::read_to_string(&source).with_context(|| format!("cannot read {source}"))?;
        Ok(Self {
            root,
            source,
            original,
        })
    }

    pub(super) fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Writes a line that no run has seen.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn edit(&self, round: usize) -> Result<()> {
        let (source, original, nonce) = (&self.source, &self.original, std::process::id());
        let text = format!(
            "{original}\n/// Measured.\npub const MEASURED: [u32; 2] = [{nonce}, {round}];\n"
        );
        fs::write(source, text).with_context(|| format!("cannot write {source}"))
    }

    /// cargo alone, as it stands in the recipe: the same profile for the same platform.
    ///
    /// # Errors
    /// When it does not compile.
    pub(super) fn compile(&self, workspace: &Workspace) -> Result<Duration> {
        let build = Invocation::new(cargo_program())
            .args(["build", "--locked", "--profile", "e2e", "--package"])
            .arg(workspace.against.as_str())
            .current_dir(&self.root)
            .env(
                "CARGO_TARGET_DIR",
                workspace.state_directory().join("bench").as_str(),
            );
        let begun = Instant::now();
        let code = process::stream(&build, None, Echo::Terminal, COMPILE_DEADLINE)?;
        anyhow::ensure!(code == 0, "ended with {code}: {build}");
        Ok(begun.elapsed())
    }
}

/// The local cluster, whatever the workspace names.
fn locally(choice: Choice) -> [&'static str; 3] {
    ["--cluster=local", "--engine", choice.word()]
}

/// Runs the command in `tree`, and ends it where its first test would begin.
///
/// # Errors
/// When it does not come so far.
pub(super) fn until_first_test(
    workspace: &Workspace,
    tree: &Utf8Path,
    target: &Target,
    folder: &Utf8Path,
    more: &[&str],
) -> Result<Duration> {
    let run = Paused::before("test", workspace, tree, target, folder, more)?;
    let took = run.took;
    run.end()?;
    Ok(took)
}

/// The same network and containers, started by hand as a run of its own, until everything is ready.
fn by_hand(workspace: &Workspace, target: &Target, choice: Choice) -> Result<Duration> {
    in_a_run(workspace, target, choice, |run, engine| {
        start_by_hand(workspace, target, run, engine)
    })
}

/// What `step` makes is that of a run, and removed afterwards.
pub(super) fn in_a_run<T>(
    workspace: &Workspace,
    target: &Target,
    choice: Choice,
    step: impl FnOnce(&Arc<Run>, &Engine) -> Result<T>,
) -> Result<T> {
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
    let measured = result?;
    removed?;
    fs::remove_dir_all(run.directory())?;
    Ok(measured)
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
