//! A cluster as somebody makes it by hand: `kind create cluster`, and its name service ready. What a
//! run costs is measured against it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::create::{Purpose, create, look_at_node};
use crate::bundle::Bundle;
use crate::cluster::kubernetes::namespace::{NAMES, NAMES_DEADLINE};
use crate::cluster::local::make_network;
use crate::engine::Engine;
use crate::run::{self, Run};
use crate::source::workspace::{Target, Workspace};

/// Makes it on a network of the run, and tells how long it took until its name service was ready.
///
/// # Errors
/// When kind makes no cluster.
pub(crate) fn time(
    workspace: &Workspace,
    target: &Target,
    run: &Arc<Run>,
    engine: &Engine,
    bundle: Option<&Arc<Bundle>>,
) -> Result<Duration> {
    let purpose = Purpose {
        workspace: workspace.clone(),
        target: target.clone(),
        run: Arc::clone(run),
        engine: engine.clone(),
        bundle: bundle.cloned(),
        ports_count: 1,
    };
    let begun = Instant::now();
    make_network(run, engine, &run::kind_network(run.id()))?;
    let (up, _is_up) = mpsc::channel();
    create(&purpose, &up, &AtomicBool::new(false))?;
    let kubectl = look_at_node(&purpose)?.kubectl;
    let (namespace, name) = NAMES;
    kubectl.wait_for_roll_out(namespace, name, NAMES_DEADLINE, &AtomicBool::new(false))?;
    Ok(begun.elapsed())
}
