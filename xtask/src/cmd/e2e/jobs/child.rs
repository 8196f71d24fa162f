//! The run of one target as a child: its command line, what it writes, how it is ended, and what is
//! told of it afterwards.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use camino::{Utf8Path, Utf8PathBuf};
use clap::ValueEnum as _;
use jiff::Timestamp;
use rustix::process::Signal;
use serde::Deserialize;

use super::super::{Outcome, deadline, first_line};
use crate::cli;
use crate::cmd::paused;
use crate::cmd::room::Share;
use crate::engine;
use crate::exit::{Exit, Failure};
use crate::pipeline::test::TestReport;
use crate::process::{Background, Echo, Invocation, OWN_PROGRAM, ProcessError};
use crate::report::github::Job;
use crate::report::receipt::Verdict;
use crate::report::{self, failure, html, junit, live};
use crate::run;
use crate::source::workspace::{Target, Workspace};

/// What a run says, in its folder and where it reports to.
const LOG: &str = "output.log";
/// Every step of a run has a deadline of its own; all of them are less.
const RUN_DEADLINE: Duration = Duration::from_secs(2 * 60 * 60);
/// One that was told to end removes a cluster, and gathers what explains a failure.
const END_DEADLINE: Duration = Duration::from_secs(180);

/// Why it is ended before it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// This signal came.
    Signalled(i32),
    /// Another target is red.
    GivenUp,
    /// It has taken longer than any run may.
    Late,
}

/// A run of one target, under way.
pub(super) struct Child<'a> {
    target: &'a Target,
    /// What it takes.
    pub(super) share: Share,
    process: Background,
    log: Utf8PathBuf,
    /// Where it reports to when it ends.
    reports: Utf8PathBuf,
    begun: Instant,
    begun_at: Timestamp,
    ended_for: Option<(End, Instant)>,
    is_hurried: Cell<bool>,
    _activity: live::Activity,
}

/// What of a receipt counts here.
#[derive(Debug, Deserialize)]
struct Receipt {
    run: String,
    verdict: Verdict,
    begun_at: Timestamp,
    #[serde(default)]
    ended_at: Option<Timestamp>,
    #[serde(default)]
    images: BTreeMap<String, Image>,
    #[serde(default)]
    test_filters: Vec<String>,
    #[serde(default)]
    tests: Option<TestReport>,
    #[serde(default)]
    failure: Option<Failed>,
}

#[derive(Debug, Deserialize)]
struct Image {
    tag: String,
}

#[derive(Debug, Deserialize)]
struct Failed {
    message: String,
}

/// How long the run in this folder took, if it was green and of the same tests.
pub(super) fn green_took(run: &Utf8Path, filters: &[String]) -> Option<Duration> {
    let receipt = paused::receipt::<Receipt>(run).ok()?;
    let took = receipt.ended_at?.duration_since(receipt.begun_at);
    let took = Duration::try_from(took).ok()?;
    let is_like = receipt.verdict == Verdict::Green && receipt.test_filters == filters;
    is_like.then_some(took)
}

impl<'a> Child<'a> {
    /// Starts it; what it says goes into a file in `folder`, and its reports too where no other folder
    /// is named for them.
    pub(super) fn begin(
        target: &'a Target,
        options: &cli::E2e,
        is_first: bool,
        folder: &Utf8Path,
        share: Share,
    ) -> Result<Self> {
        let name = target.name.as_str();
        let log = folder.join(format!("{name}.log"));
        let reports = options.report.as_deref().unwrap_or(folder);
        let mut e2e = Invocation::new(OWN_PROGRAM)
            .args(arguments(name, options, is_first, reports))
            // What a job is told of it, it is told here.
            .env_remove("GITHUB_ACTIONS");
        if let Some((variable, address)) = engine::own_docker_host() {
            e2e = e2e.env(variable, address);
        }
        let activity = live::begin("running", name);
        let (begun, begun_at) = (Instant::now(), Timestamp::now());
        let process = Background::start_with(&e2e, &log, Echo::Told(activity.teller()))?;
        let said = report::near(&log);
        report::note(&format!("{name} begins; what it says: {said}"));
        Ok(Self {
            target,
            share,
            process,
            reports: reports.join(name),
            log,
            begun,
            begun_at,
            ended_for: None,
            is_hurried: Cell::new(false),
            _activity: activity,
        })
    }

    /// Tells it to end, once: it cleans up, and ends by itself.
    pub(super) fn end(&mut self, end: End) {
        if self.ended_for.is_some() {
            return;
        }
        self.ended_for = Some((end, Instant::now()));
        let signal = match end {
            End::Signalled(signal) => Signal::from_named_raw(signal).unwrap_or(Signal::TERM),
            End::GivenUp | End::Late => Signal::TERM,
        };
        // It may have ended a moment ago.
        let _ = self.process.signal(signal);
    }

    /// Tells one that is ending to hurry, once.
    pub(super) fn hurry(&self) {
        if self.ended_for.is_some() && !self.is_hurried.replace(true) {
            let _ = self.process.signal(Signal::TERM);
        }
    }

    /// It has had more time than any run takes.
    pub(super) fn is_late(&self) -> bool {
        self.begun.elapsed() > RUN_DEADLINE
    }

    /// How it ended, if it has: its exit code. One that cannot be waited for, or does not end when it
    /// was told to, counts as ended, and is killed.
    pub(super) fn code(&self) -> Option<Result<i32, Error>> {
        match self.process.code() {
            Err(error) => Some(Err(error.into())),
            Ok(Some(code)) => Some(Ok(code)),
            Ok(None) => {
                let (_, since) = self.ended_for?;
                (since.elapsed() > END_DEADLINE).then(|| Err(self.stays()))
            }
        }
    }

    fn stays(&self) -> Error {
        let (name, seconds) = (&self.target.name, END_DEADLINE.as_secs());
        let message = format!("the run of {name} did not end within {seconds} s and was killed");
        Failure::new(Exit::Internal, message)
            .hint("`cargo xtask clean` removes what it left, and so does the next run")
            .into()
    }

    /// Tells how it ended, and gives it.
    pub(super) fn outcome(
        self,
        workspace: &Workspace,
        options: &cli::E2e,
        code: Result<i32, Error>,
        notes: &mut BTreeSet<String>,
    ) -> Outcome {
        let mut outcome = Outcome::of(self.target);
        outcome.took = self.begun.elapsed();
        let said = fs::read(&self.log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        // One of an earlier command tells nothing of this run.
        let receipt = paused::receipt::<Receipt>(&self.reports).ok();
        let receipt = receipt.filter(|receipt| receipt.begun_at >= self.begun_at);
        outcome.error = self.error(code, receipt.as_ref(), &said);
        let is_ended = outcome.error.as_ref().is_some_and(report::is_signal);
        let for_what = self.ended_for.map(|(end, _)| end).filter(|_| is_ended);
        outcome.is_given_up = for_what == Some(End::GivenUp);
        let why = match for_what {
            Some(End::GivenUp) => Some("ended: another target is red (--fail-fast)"),
            Some(End::Late) => Some("ended: it took longer than any run may"),
            Some(End::Signalled(_)) | None => None,
        };
        if let Some(why) = why {
            outcome.error = Some(Failure::new(Exit::Red, why).into());
        }
        let runs = run::runs_directory(workspace);
        if let Some(receipt) = &receipt {
            outcome.summary = html::read(&self.reports, &runs).ok();
            outcome.junit = self.junit(&runs.join(&receipt.run));
            let against = receipt.images.get(workspace.against.as_str());
            outcome.tag = against.map_or(outcome.tag, |image| image.tag.clone());
            if let Some(tests) = &receipt.tests {
                outcome.tests = match is_ended {
                    true => tests.verdict_so_far(),
                    false => tests.verdict(),
                };
            }
        }
        let run = receipt.as_ref().map(|receipt| runs.join(&receipt.run));
        if let Err(error) = self.keep_log(run.as_deref(), options) {
            report::note(&format!(
                "cannot keep what {} said: {error:#}",
                outcome.target
            ));
        }
        let tests = receipt.and_then(|receipt| receipt.tests);
        if let (Some(tests), false) = (&tests, is_ended) {
            outcome.failed = failure::failed_tests(tests, report::columns());
        }
        match (&outcome.error, is_ended) {
            (None, _) => tell_green(&outcome, &said, notes),
            (Some(error), true) => {
                let what = format!("{}: {}", outcome.target, report::headline(error));
                report::line("ended", &what, outcome.took);
            }
            (Some(_), false) => tell_red(&outcome, &said, tests.as_ref()),
        }
        outcome
    }

    /// Why it is not green, if it is not: what it exits with is not enough to be green.
    fn error(
        &self,
        code: Result<i32, Error>,
        receipt: Option<&Receipt>,
        said: &str,
    ) -> Option<Error> {
        let name = &self.target.name;
        let code = match code {
            Ok(code) => code,
            Err(error) => return Some(error),
        };
        let is_green = receipt.is_some_and(|receipt| receipt.verdict == Verdict::Green);
        let exit = match code {
            0 if is_green => return None,
            0 => Exit::Internal,
            code => Exit::of_code(code).unwrap_or(Exit::Internal),
        };
        if exit.signal().is_some() {
            let signal = match self.ended_for {
                Some((End::Signalled(signal), _)) => signal,
                _ => code - 128,
            };
            let command = format!("the run of {name}");
            return Some(deadline::in_time(
                ProcessError::Interrupted { signal, command }.into(),
            ));
        }
        let failure = receipt.and_then(|receipt| receipt.failure.as_ref());
        let mut lines = failure.map_or(said, |failure| &failure.message).lines();
        let told = lines.find_map(|line| line.strip_prefix("error: "));
        let message = told.map_or_else(|| format!("its run ended with {code}"), str::to_owned);
        Some(Failure::new(exit, message).into())
    }

    /// The one in the run's own folder, where that is still there: it stays.
    fn junit(&self, run: &Utf8Path) -> Option<Utf8PathBuf> {
        let report = self.reports.join(junit::FILE);
        let own = run.join(junit::FILE);
        [own, report].into_iter().find(|path| path.exists())
    }

    /// What it said lies beside its other logs.
    fn keep_log(&self, run: Option<&Utf8Path>, options: &cli::E2e) -> Result<()> {
        let reports = options.report.as_ref().map(|_| self.reports.as_path());
        for folder in run.filter(|run| run.is_dir()).into_iter().chain(reports) {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
            let to = folder.join(LOG);
            fs::copy(&self.log, &to).with_context(|| format!("cannot write {to}"))?;
        }
        Ok(())
    }
}

/// Its last line, and before it what nobody should miss though all is well: once, whoever says it.
fn tell_green(outcome: &Outcome, said: &str, notes: &mut BTreeSet<String>) {
    for line in said.lines() {
        if let Some(note) = line.trim_start().strip_prefix("note ")
            && notes.insert(note.to_owned())
        {
            report::note(&format!("{}: {note}", outcome.target));
        }
    }
    let what = format!("{}: {}", outcome.target, outcome.tests);
    match said.lines().last() {
        Some(last) if last.trim_start().starts_with("green ") => crate::report::say!("{last}"),
        _ => report::line("green", &what, outcome.took),
    }
}

/// All that it said, folded where that can be, and the place of each failed test.
fn tell_red(outcome: &Outcome, said: &str, tests: Option<&TestReport>) {
    let target = &outcome.target;
    let job = Job::here();
    report::line("red", &format!("{target}; it said:"), outcome.took);
    if let Some(job) = &job {
        job.open_section(target);
    }
    crate::report::say_part!("{said}");
    if !said.is_empty() && !said.ends_with('\n') {
        crate::report::say!("");
    }
    if let Some(job) = &job {
        job.close_section();
        if let Some(tests) = tests {
            job.annotate(target, tests);
        }
    }
    // Of one that ended with an error of its own, this is its last line.
    if let Some(error) = &outcome.error
        && !said.contains(first_line(&report::headline(error)))
    {
        report::error(error);
    }
}

/// The command line of one target: every option, and what counts once for all of them left out.
fn arguments(target: &str, options: &cli::E2e, is_first: bool, reports: &Utf8Path) -> Vec<String> {
    // Each by its name, so that none is forgotten.
    let cli::E2e {
        targets: _,
        all: _,
        jobs: _,
        fail_fast: _,
        keep,
        nodes,
        reuse,
        watch: _,
        cluster,
        engine,
        bundle,
        prebuilt,
        accept_recipe,
        registry,
        plan: _,
        no_cache,
        pause_before: _,
        // Its end is a signal to each.
        timeout: _,
        // Done before the first begins.
        yes: _,
        report: _,
        profile,
        ends_with_parent: _,
        filters,
        // Of a command that has one target.
        load: _,
    } = options;
    let keep = keep.to_possible_value();
    let keep = keep.map(|value| format!("--keep={}", value.get_name()));
    let flag = |is_given: bool, flag: &str| is_given.then(|| flag.to_owned());
    let words = [
        Some("e2e".to_owned()),
        Some(target.to_owned()),
        Some("--ends-with-parent".to_owned()),
        keep,
        Some(format!("--nodes={nodes}")),
        flag(*reuse, "--reuse"),
        cluster
            .as_ref()
            .map(|cluster| format!("--cluster={cluster}")),
        Some(format!("--engine={}", engine.word())),
        bundle.as_ref().map(|folder| format!("--bundle={folder}")),
        prebuilt.as_ref().map(|place| format!("--prebuilt={place}")),
        flag(*accept_recipe, "--accept-recipe"),
        registry.as_ref().map(|place| format!("--registry={place}")),
        // Once is enough to prove that a build is reproducible.
        flag(*no_cache && is_first, "--no-cache"),
        Some(format!("--report={reports}")),
        Some(format!("--profile={}", profile.as_str())),
        flag(!filters.is_empty(), "--"),
    ];
    words
        .into_iter()
        .flatten()
        .chain(filters.iter().cloned())
        .collect()
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use clap::Parser as _;

    use super::arguments;
    use crate::cli::{Cli, Command, E2e};

    fn parsed(words: &[&str]) -> E2e {
        let words = ["cargo xtask", "e2e"].iter().chain(words);
        match Cli::try_parse_from(words).unwrap().command {
            Command::E2e(options) => options,
            other => panic!("{other:?}"),
        }
    }

    /// What each child is told, as the tool itself reads it.
    #[track_caller]
    fn check(given: &[&str], is_first: bool, child: &[&str]) {
        let options = parsed(given);
        let words = arguments("gateway", &options, is_first, Utf8Path::new("/r"));
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        let told = format!("{:?}", parsed(&words));
        let common = ["gateway", "--ends-with-parent", "--report=/r"];
        let wanted = format!("{:?}", parsed(&[&common, child].concat()));
        assert_eq!(told, wanted);
    }

    #[test]
    fn a_child_is_told_what_its_target_needs_and_no_more() {
        check(
            &["--all", "--jobs=2", "--fail-fast", "--yes", "--timeout=9"],
            true,
            &[],
        );
        let cluster = [
            "--cluster=kind",
            "--reuse",
            "--nodes=2",
            "--keep=on-failure",
            "--engine=docker",
            "--bundle=b",
        ];
        check(&[&["--all"], &cluster[..]].concat(), false, &cluster);
        let built = [
            "--prebuilt=p",
            "--accept-recipe",
            "--registry=ghcr.io/us",
            "--profile=release",
            "--",
            "a b",
            "--exact",
        ];
        check(&[&["--all"], &built[..]].concat(), false, &built);
        // Once is enough.
        check(&["--all", "--no-cache"], true, &["--no-cache"]);
        check(&["--all", "--no-cache"], false, &[]);
    }
}
