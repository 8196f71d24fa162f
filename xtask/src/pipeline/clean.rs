//! Phase 7: clean up, always; keep what explains a failure: logs of every container first. The
//! removal itself is [`Run::clean_up`]: by label, whatever was deployed and however far it got.

use std::fs;
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::run::{LABEL_RUN, Resources, Run};

/// Writes what every container of the run has said to `logs/<container>.log`. A log that is there
/// already is that of a container that has gone, and stays.
///
/// # Errors
/// When a log cannot be had: names the containers. The others are written all the same.
pub fn collect_logs(run: &Run, engine: &Engine, cluster: Option<&Cluster>) -> Result<()> {
    let found = Resources::find(engine, &format!("{LABEL_RUN}={}", run.id()))?;
    let directory = run.directory().join("logs");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {directory}"))?;
    let failures: Vec<String> = thread::scope(|scope| {
        let saving: Vec<_> = found
            .containers
            .iter()
            .map(|container| {
                let path = directory.join(format!("{container}.log"));
                scope.spawn(move || engine.save_log(container, &path))
            })
            .collect();
        let outcomes = saving.into_iter().zip(&found.containers);
        outcomes
            .filter_map(|(handle, container)| match handle.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("{container}: {error:#}")),
                Err(_) => Some(format!("{container}: the thread panicked")),
            })
            .collect()
    });
    if let Some(cluster) = cluster {
        cluster.save_logs(&directory)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    bail!("not every log could be saved\n  {}", failures.join("\n  "))
}
