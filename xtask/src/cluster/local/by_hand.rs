//! The same containers, started as a person would: command after command of each pod, the pods side
//! by side, then waited for. Nothing is prepared, begun early or joined. For `bench` alone, which
//! holds a run against it; what is started here is never attested or tested.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::plan::Pod;
use super::{Local, make, make_volume, ready, run_inits, wait_for, write_config};
use crate::engine::Engine;
use crate::manifest::{Manifests, References, Seen};
use crate::pipeline::Images;
use crate::pipeline::load::Loaded;
use crate::report::live;
use crate::run::{Resource, Run};
use crate::secrets::Secrets;
use crate::threads::all;

impl Local {
    /// Starts everything and waits until each is ready.
    ///
    /// # Errors
    /// As a roll-out.
    pub(crate) fn start_by_hand(
        &self,
        run: &Run,
        secrets: &Secrets,
        manifests: &Manifests,
        images: &Images<Loaded>,
        deadline: Duration,
    ) -> Result<()> {
        let references = References::of(images, &self.third_party);
        let pods = self.plan(run, secrets, manifests, &references)?;
        write_config(run, manifests)?;
        thread::scope(|scope| {
            let starting = pods.iter();
            let starting = starting.map(|pod| scope.spawn(|| start(run, &self.engine, pod)));
            all(starting.collect())
        })?;
        let containers: Vec<_> = pods.into_iter().map(|pod| pod.main).collect();
        let never = AtomicBool::new(false);
        let outcomes = wait_for(&self.engine, &containers, &|_| deadline, &never)?;
        for (container, outcome) in containers.iter().zip(outcomes) {
            outcome.map_err(|unready| ready::explain(&container.name, unready, None))?;
        }
        Ok(())
    }
}

/// What a run makes is journalled, whoever makes it.
fn start(run: &Run, engine: &Engine, pod: &Pod<Seen>) -> Result<()> {
    for volume in &pod.volumes {
        make_volume(run, engine, volume)?;
    }
    let activity = live::begin("starting", pod.main.short_name());
    run_inits(run, engine, &pod.init, &activity)?;
    run.journal(&Resource::Container(pod.main.name.clone()))?;
    make(&pod.main.detached(engine))?;
    Ok(())
}
