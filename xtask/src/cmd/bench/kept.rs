//! The inner loop on Kubernetes: a run in a kept cluster, after an edit of one line. Beside it cargo
//! alone, after such an edit, and the three seconds that everything else may take.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::run::{EditedTree, target, until_first_test};
use super::{Figure, rounds, temporary};
use crate::bundle::Bundle;
use crate::cli;
use crate::engine::Engine;
use crate::process::interrupt::Shield;
use crate::run;
use crate::source::workspace::Workspace;

/// What everything but the compiler may take.
const BESIDES: Duration = Duration::from_secs(3);

/// Measures it; the first round makes the cluster, and is not counted.
///
/// # Errors
/// When a run or the compiler fails.
pub(super) fn measure(
    workspace: &Workspace,
    options: &cli::Bench,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Figure> {
    let (_folder, folder) = temporary()?;
    let tree = EditedTree::make(workspace, &folder)?;
    let measured = measure_in(workspace, options, bundle, &tree);
    let _shield = Shield::raise();
    // The cluster is that of the copy, which goes.
    let mut copy = Workspace::load(tree.root())?;
    copy.state = workspace.state.clone();
    let removed =
        Engine::find(&folder, options.engine).and_then(|engine| run::sweep_kept(&copy, &engine));
    let figure = measured?;
    removed?;
    Ok(figure)
}

fn measure_in(
    workspace: &Workspace,
    options: &cli::Bench,
    bundle: Option<&Arc<Bundle>>,
    tree: &EditedTree,
) -> Result<Figure> {
    let target = target(workspace)?;
    let (_folder, folder) = temporary()?;
    let named = bundle.map(|bundle| format!("--bundle={}", bundle.folder()));
    let more: Vec<&str> = [
        "--cluster=kind",
        "--reuse",
        "--engine",
        options.engine.word(),
    ]
    .into_iter()
    .chain(named.as_deref())
    .collect();
    let (mut one, mut other) = (0, 0);
    let (seconds, floor_seconds) = rounds(
        options.rounds as usize,
        || {
            one += 1;
            tree.edit(one)?;
            until_first_test(workspace, tree.root(), target, &folder, &more)
        },
        || {
            other += 1;
            tree.edit(1_000 + other)?;
            Ok(tree.compile(workspace)? + BESIDES)
        },
    )?;
    let package = workspace.against.as_str();
    let seconds_of_cargo = floor_seconds - BESIDES.as_secs_f64();
    Ok(Figure {
        subject: "kept",
        what: format!(
            "one line of {package} edited, to the first test in a kept cluster: {:.1} s more than cargo",
            seconds - seconds_of_cargo
        ),
        seconds,
        floor: "cargo build after such an edit, and 3 seconds",
        floor_seconds,
        ratio: seconds / floor_seconds,
        ratio_max: 1.0,
    })
}
