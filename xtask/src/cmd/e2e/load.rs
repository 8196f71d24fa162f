//! A run whose test program puts load on a service, for `bench load`. It goes through the phases of
//! any run, with the same proof.

use std::fs;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;

use super::pause::Pause;
use super::{Naming, docker_server, install, session};
use crate::bundle::Bundle;
use crate::cli::{self, Keep};
use crate::cluster;
use crate::pipeline::build::recipe::Profile;
use crate::process::interrupt;
use crate::run::Run;
use crate::source::workspace::{Target, Workspace};

/// The test program, which has a module for each service.
pub(in crate::cmd) const PROGRAM: &str = "load";
/// Where it reads how much is wanted, in the folder of the run.
const WANTED: &str = "load-wanted.json";
/// Where it writes its figures.
const FIGURES: &str = "load.json";

/// Runs the load of a target whose services are built as for production; gives what it has told.
///
/// # Errors
/// When the run is not green.
pub(in crate::cmd) fn run(
    workspace: &Workspace,
    target: &Target,
    load: &cli::Load,
) -> Result<String> {
    let options = options(target, load);
    // The run opens it for itself; what is wrong with it is told before.
    let bundle = Bundle::given(options.bundle.as_deref())?;
    install(workspace, &options, bundle.as_ref(), &Naming::of(&options)?)?;
    let _server = docker_server(workspace, &options)?;
    let outcome = session::run(workspace, target, &options, &Pause::new(None)?);
    if let Some(error) = outcome.error {
        return Err(error);
    }
    // It came during the clean-up, which it did not end.
    interrupt::check()?;
    let folder: Utf8PathBuf = outcome.directory.context("the run has no folder")?;
    let path = folder.join(FIGURES);
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

/// Tells the test program how much is wanted.
///
/// # Errors
/// When it cannot be written.
pub(super) fn wish(run: &Run, load: &cli::Load) -> Result<()> {
    let path = run.directory().join(WANTED);
    let text = serde_json::to_string(load)?;
    fs::write(&path, text).with_context(|| format!("cannot write {path}"))
}

/// On the local cluster, whose ports are those of 127.0.0.1, and whose database is a container.
fn options(target: &Target, load: &cli::Load) -> cli::E2e {
    cli::E2e {
        targets: vec![target.name.to_string()],
        all: false,
        jobs: cli::Jobs::default(),
        fail_fast: false,
        keep: Keep::Never,
        nodes: 1,
        reuse: false,
        watch: false,
        cluster: Some(cluster::Choice::Local),
        engine: load.engine,
        bundle: load.bundle.clone(),
        prebuilt: None,
        accept_recipe: false,
        registry: None,
        plan: false,
        no_cache: false,
        pause_before: None,
        timeout: None,
        yes: load.yes,
        report: None,
        profile: Profile::Release,
        ends_with_parent: false,
        filters: vec![format!("{}::", target.name)],
        load: Some(load.clone()),
    }
}
