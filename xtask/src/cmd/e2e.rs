//! `e2e`: build, deploy, prove and test one target after the other or several beside each other, and
//! always clean up. The phases themselves are in `pipeline`; here is their order in time, and what is
//! told of them.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::bundle::Bundle;
use crate::cli;
use crate::cluster;
use crate::engine::dockerd::{self, OwnServer};
use crate::engine::{Choice, Engine};
use crate::exit::{Exit, Failure};
use crate::process::interrupt;
use crate::report::github::Job;
use crate::report::html::{self, Summary, overview::Ended};
use crate::report::{self, junit, table};
use crate::run;
use crate::source::workspace::{Target, Workspace};

mod deadline;
mod filters;
mod finish;
pub(super) mod jobs;
pub(super) mod load;
mod naming;
mod pause;
mod plan;
mod session;
mod watch;

use self::deadline::Deadline;
use self::naming::Naming;
use self::pause::Pause;

/// What becomes of the others with `--fail-fast`.
const NOT_BEGUN: &str = "not run: another target is red (--fail-fast)";

/// Runs the targets, one after the other, or so many at a time.
///
/// # Errors
/// The first target's that was not green, when all have been told; a wrong command line.
pub fn run(workspace: &Workspace, options: &cli::E2e) -> Result<()> {
    let options = cli::E2e {
        cluster: options
            .cluster
            .clone()
            .or_else(|| workspace.cluster.clone()),
        ..options.clone()
    };
    if options.ends_with_parent {
        jobs::end_with_parent()?;
    }
    run_all(workspace, &options).map_err(deadline::in_time)
}

fn run_all(workspace: &Workspace, options: &cli::E2e) -> Result<()> {
    let targets = selection(workspace, options)?;
    let at_once = at_once(&targets, options)?;
    let watched = match options.watch {
        true => Some(watch::only_target(&targets, options)?),
        false => None,
    };
    // Of what is watched, the next edit may bring the test.
    if !options.watch {
        for target in &targets {
            filters::check(workspace, target, &options.filters)?;
        }
    }
    check_kind(options)?;
    // Each run opens it for itself; what is wrong with it is told before any.
    let bundle = Bundle::given(options.bundle.as_deref())?;
    let naming = Naming::of(options)?;
    if options.plan {
        check_plan(options)?;
        return plan::print(workspace, &targets, options);
    }
    if let Some(folder) = &options.report {
        super::check_folder("--report", folder)?;
    }
    let deadline = Deadline::arm(options.timeout)?;
    install(workspace, options, bundle.as_ref(), &naming)?;
    let _server = docker_server(workspace, options)?;
    if let Some(target) = watched {
        return watch::run(workspace, target, options);
    }
    let begun = Instant::now();
    let outcomes = match at_once {
        1 => each(workspace, &targets, options)?,
        _ => jobs::run(workspace, &targets, options, at_once)?,
    };
    drop(deadline);
    if at_once > 1 {
        let sum: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
        let (count, sum) = (outcomes.len(), sum.as_secs_f64());
        let what = format!("{count} targets, {at_once} at a time; together they took {sum:.1} s");
        report::line("ran", &what, begun.elapsed());
    }
    let told = tell(workspace, options, &outcomes);
    let signalled = |outcome: &Outcome| outcome.error.as_ref().is_some_and(report::is_signal);
    if !outcomes.iter().any(signalled) {
        // It came during a clean-up, which it did not end.
        interrupt::check()?;
    }
    conclude(outcomes).and(told)
}

/// Tells how each has ended, where several have; and in any case a job of GitHub Actions.
fn tell(workspace: &Workspace, options: &cli::E2e, outcomes: &[Outcome]) -> Result<()> {
    let rows = rows(outcomes);
    if let Some(job) = Job::here() {
        job.summarise("e2e", &rows)?;
    }
    if outcomes.len() < 2 {
        return Ok(());
    }
    let overview = write_overview(workspace, options, outcomes);
    super::print_data(&table::layout(&rows))?;
    for outcome in outcomes.iter().filter(|outcome| !outcome.failed.is_empty()) {
        crate::report::say_part!("{:>12} {}\n{}", "red", outcome.target, outcome.failed);
    }
    match overview {
        Ok(page) if outcomes.iter().any(|it| it.error.is_some()) => {
            report::note(&format!("all of it at a glance: {}", report::near(&page)));
        }
        Err(error) => report::note(&format!("no {} of all: {error:#}", html::FILE)),
        _ => {}
    }
    let parts: Vec<_> = outcomes.iter().map(Outcome::part).collect();
    let text = junit::combined(&parts)?;
    let folders = [Some(workspace.state_directory()), options.report.clone()];
    for path in folders.iter().flatten().map(|it| it.join(junit::FILE)) {
        fs::write(&path, &text).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// With `--yes`: what is missing.
fn install(
    workspace: &Workspace,
    options: &cli::E2e,
    bundle: Option<&Bundle>,
    naming: &Naming,
) -> Result<()> {
    if !options.yes {
        return Ok(());
    }
    super::setup::ensure(
        workspace,
        super::setup::Purpose::MainJob(options.engine),
        super::setup::Besides {
            bundle,
            registry: naming.asks_registry(&options.cluster()),
        },
    )
}

/// One page of all targets that have ended, in the build folder and for `--report`; gives the first.
fn write_overview(
    workspace: &Workspace,
    options: &cli::E2e,
    outcomes: &[Outcome],
) -> Result<Utf8PathBuf> {
    let ended: Vec<_> = outcomes.iter().map(Outcome::ended).collect();
    let text = html::overview::render(&ended);
    let page = workspace.state_directory().join(html::FILE);
    html::write_whole(&page, &text)?;
    if let Some(folder) = &options.report {
        html::write_whole(&folder.join(html::FILE), &text)?;
    }
    Ok(page)
}

/// How many targets run at a time.
///
/// # Errors
/// [`Exit::Usage`] where another option wants one at a time.
fn at_once(targets: &[&Target], options: &cli::E2e) -> Result<usize> {
    let at_once = match options.jobs {
        cli::Jobs::Count(count) => count.get(),
        cli::Jobs::Auto => thread::available_parallelism().map_or(1, usize::from),
    };
    let refused = [
        (options.watch, "--watch", "it stays at one target"),
        (options.plan, "--plan", "a plan runs nothing"),
        (
            options.pause_before.is_some(),
            "--pause-before",
            "Enter would be for all of them at once",
        ),
    ];
    let refused = refused.into_iter().find(|(is_given, ..)| *is_given);
    if let (Some((_, what, why)), true) = (refused, options.jobs != cli::Jobs::default()) {
        let message = format!("--jobs {} does not go with {what}: {why}", options.jobs);
        return Err(Failure::new(Exit::Usage, message)
            .hint("leave --jobs out")
            .into());
    }
    Ok(at_once.min(targets.len()))
}

/// One target after the other, until a signal comes or, with `--fail-fast`, one is red.
fn each(workspace: &Workspace, targets: &[&Target], options: &cli::E2e) -> Result<Vec<Outcome>> {
    let pause = Pause::new(options.pause_before)?;
    let mut outcomes = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let is_red = |outcome: &Outcome| outcome.error.is_some();
        if interrupt::pending().is_some() {
            outcomes.push(Outcome::not_run(target, "not run"));
            continue;
        }
        if options.fail_fast && outcomes.iter().any(is_red) {
            outcomes.push(Outcome::not_run(target, NOT_BEGUN));
            continue;
        }
        let only_first = cli::E2e {
            // Once is enough to prove that a build is reproducible.
            no_cache: options.no_cache && index == 0,
            ..options.clone()
        };
        let outcome = session::run(workspace, target, &only_first, &pause);
        if let (Some(error), true) = (&outcome.error, targets.len() > 1) {
            report::error(error);
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// What only a cluster of kind has.
fn check_kind(options: &cli::E2e) -> Result<()> {
    if options.cluster() == cluster::Choice::Kind {
        return Ok(());
    }
    let refuse = |what: &str, why: &str, hint: &str| {
        let cluster = options.cluster();
        let message = format!("{what} does not go with --cluster {cluster}: {why}");
        Err(Failure::new(Exit::Usage, message).hint(hint).into())
    };
    if options.reuse {
        return refuse(
            "--reuse",
            "it keeps a cluster of kind",
            "`--cluster kind`; on the local cluster `--watch` keeps what an edit did not change",
        );
    }
    if options.nodes > 1 {
        return refuse("--nodes", "it has none of its own", "`--cluster kind`");
    }
    Ok(())
}

/// What a plan does not show.
fn check_plan(options: &cli::E2e) -> Result<()> {
    if options.report.is_some() {
        let message =
            "--plan does not go with --report: a plan runs nothing that could be reported";
        return Err(Failure::new(Exit::Usage, message)
            .hint("leave one of them out; a plan is printed: `--plan > plan.txt`")
            .into());
    }
    Ok(())
}

/// Where docker is asked for and no server runs: one for the time of this command. And what a
/// command that was killed has left with such a server is removed, whatever is asked for.
fn docker_server(workspace: &Workspace, options: &cli::E2e) -> Result<Option<OwnServer>> {
    if options.engine == Choice::Docker && dockerd::is_wanted() {
        if options.keep != cli::Keep::Never {
            return Err(Failure::new(
                Exit::Usage,
                "--keep needs a docker server that stays, and none runs here",
            )
            .hint("start docker, or use `--engine podman`")
            .into());
        }
        let begun = Instant::now();
        let server = OwnServer::start()?;
        report::line(
            "started",
            "a docker server for this command",
            begun.elapsed(),
        );
        return Ok(Some(server));
    }
    sweep_left_server(workspace)?;
    Ok(None)
}

/// Removes what runs left on a docker server of a command that was killed, and that server.
pub(super) fn sweep_left_server(workspace: &Workspace) -> Result<()> {
    let Some(_server) = OwnServer::recover()? else {
        return Ok(());
    };
    let settings = tempfile::tempdir().context("cannot make a temporary folder")?;
    let settings = Utf8Path::from_path(settings.path()).context("a folder that is not UTF-8")?;
    let docker = Engine::find(settings, Choice::Docker)?;
    for id in run::sweep(workspace, &docker)? {
        report::note(&format!("removed what {id} had left"));
    }
    Ok(())
}

/// How one target ended.
#[derive(Debug)]
pub(super) struct Outcome {
    target: String,
    tag: String,
    tests: String,
    took: Duration,
    /// What is told of each failed test once more when every target has ended.
    failed: String,
    /// The folder of its run, if one began.
    directory: Option<Utf8PathBuf>,
    error: Option<Error>,
    /// Nothing of its own is why it is not green: it was not begun, or ended for another's sake.
    is_given_up: bool,
    /// What its report told, if it came so far.
    summary: Option<Summary>,
    /// Where the JUnit report of its run lies, if there is one.
    junit: Option<Utf8PathBuf>,
}

impl Outcome {
    /// Of a target that has just begun.
    fn of(target: &Target) -> Self {
        Self {
            target: target.name.to_string(),
            tag: "-".to_owned(),
            tests: "-".to_owned(),
            took: Duration::ZERO,
            failed: String::new(),
            directory: None,
            error: None,
            is_given_up: false,
            summary: None,
            junit: None,
        }
    }

    fn not_run(target: &Target, why: &str) -> Self {
        Self {
            error: Some(Failure::new(Exit::Red, why).into()),
            is_given_up: true,
            ..Self::of(target)
        }
    }

    fn part(&self) -> junit::Part<'_> {
        junit::Part {
            target: &self.target,
            report: self.junit.clone().filter(|path| path.exists()),
            error: self.error.as_ref().map(report::error_text),
        }
    }

    fn ended(&self) -> Ended<'_> {
        Ended {
            target: &self.target,
            took: self.took,
            error: self.error.as_ref().map(report::error_text),
            summary: self.summary.as_ref(),
        }
    }

    fn verdict(&self) -> String {
        match &self.error {
            None => "green".to_owned(),
            Some(error) => format!("red ({})", first_line(&report::headline(error))),
        }
    }
}

fn selection<'a>(workspace: &'a Workspace, options: &cli::E2e) -> Result<Vec<&'a Target>> {
    if options.all {
        return Ok(workspace.targets.values().collect());
    }
    let mut targets: Vec<&Target> = Vec::new();
    for name in &options.targets {
        let target = workspace.target(name)?;
        if !targets.iter().any(|known| known.name == target.name) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn rows(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let head = ["target", "tag", "tests", "seconds", "verdict"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(outcomes.iter().map(|outcome| {
        vec![
            outcome.target.clone(),
            outcome.tag.clone(),
            outcome.tests.clone(),
            format!("{:.1}", outcome.took.as_secs_f64()),
            outcome.verdict(),
        ]
    }));
    rows
}

/// The first red outcome decides the exit code, and none that was given up for another's sake. Of
/// several each is told in full where it happened.
fn conclude(mut outcomes: Vec<Outcome>) -> Result<()> {
    if outcomes.len() == 1 {
        return outcomes
            .pop()
            .and_then(|outcome| outcome.error)
            .map_or(Ok(()), Err);
    }
    let not_green = || {
        let errors = outcomes.iter().map(|it| (it, it.error.as_ref()));
        errors.filter_map(|(outcome, error)| Some((outcome, error?)))
    };
    let decides = not_green().find(|(outcome, _)| !outcome.is_given_up);
    let Some((_, first)) = decides.or_else(|| not_green().next()) else {
        return Ok(());
    };
    let names: Vec<&str> = not_green().map(|(it, _)| it.target.as_str()).collect();
    let message = format!(
        "{} of {} targets are not green: {}",
        names.len(),
        outcomes.len(),
        names.join(", ")
    );
    Err(Failure::new(report::exit_of(first), message).into())
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
