//! How every run ends, however it ended: logs first, then what explains a failure, then clean-up,
//! then the reports. A signal does not cut this short; a second one hurries it.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Error, Result, anyhow};
use camino::Utf8Path;

use super::deadline::in_time;
use super::session::Session;
use crate::cli::{Keep, Phase};
use crate::cluster::kubernetes::gather;
use crate::cluster::{Choice, Cluster, context, kind};
use crate::cmd::room;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::pipeline::clean;
use crate::process::interrupt::{self, Shield};
use crate::report::github::Job;
use crate::report::receipt::{Span, Verdict};
use crate::report::{self, failure, html, is_signal, junit, live};
use crate::run;
use crate::secrets::Blackout;

/// What becomes of the deployment when its run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The next cycle of the watch takes it over.
    Stands,
    /// `--keep`.
    Kept,
    Removed,
}

impl Session<'_> {
    /// Ends the run; gives back how it ended.
    pub(super) fn finish(&mut self, result: Result<()>) -> Result<()> {
        let paused = match &result {
            Err(error) if is_signal(error) => Ok(()),
            _ => self.stop_before(Phase::Clean),
        };
        if let (Err(_), Some(cluster)) = (&result, &self.cluster) {
            cluster.give_up();
        }
        let settled = self.cluster.as_mut().map_or(Ok(()), Cluster::settle);
        interrupt::doing("clean");
        let _shield = Shield::raise();
        let result = result.and(paused).and(settled).map_err(in_time);
        // Now: what clean-up gives back is not what there was when it failed.
        let result = result.map_err(|error| self.explain_loss(error));
        let mut result = result.map_err(|error| self.explain_room(error));
        self.regain_engine();
        // Clean-up removes them.
        let blackout = Blackout::of_run(self.run.directory());
        let activity = live::begin("ending", self.target.name.as_str());
        activity.say("collecting the logs");
        if let Err(error) = self.collect_logs() {
            report::note(&format!("cannot collect the logs: {error:#}"));
        }
        if let Err(error) = &result {
            activity.say("gathering what explains it");
            if let Err(error) = self.gather() {
                report::note(&format!("cannot gather all that explains it: {error:#}"));
            }
            self.explain(error);
        }
        let fate = self.fate(&result);
        let begun = Instant::now();
        activity.say("removing what the run made");
        let removed = match fate {
            Fate::Stands => {
                self.leaves_standing = true;
                Ok(())
            }
            Fate::Kept => self.keep(),
            Fate::Removed => self.remove(),
        };
        let removed = removed.and(self.end_retirement(&result));
        let removed = removed.and(self.sweep_late());
        let ended = result.as_ref().is_err_and(is_signal);
        if ended && fate == Fate::Removed && removed.is_ok() {
            // Whoever interrupts wants to know it.
            report::line("removed", "what the run made", begun.elapsed());
        }
        let noted = self
            .receipt
            .phase_took("clean", Span::since(begun), removed.is_ok());
        self.left_something = removed.is_err();
        let removed = removed.and(noted);
        activity.say("writing the reports");
        self.receipt.other_tools();
        if let Err(error) = removed {
            // The first failure is what the run is about.
            match &result {
                Ok(()) => result = Err(error),
                Err(_) => report::error(&error),
            }
        }
        self.note_edits();
        let written = self.write_reports(&result, &blackout);
        drop(activity);
        self.summarise(&result, fate);
        result.and(written)
    }

    /// What dead runs left is removed when a run ends that had no time for it when it began.
    fn sweep_late(&self) -> Result<()> {
        let (Some(engine), true) = (&self.engine, self.kept_was_there) else {
            return Ok(());
        };
        for id in run::sweep(self.workspace, engine)? {
            report::note(&format!("removed what {id} had left"));
        }
        Ok(())
    }

    /// Whatever fails in a run whose folder was removed fails for that reason, and seldom says so.
    fn explain_loss(&self, error: Error) -> Error {
        if self.run.has_its_folder() || is_signal(&error) {
            return error;
        }
        let directory = self.run.directory();
        let message = format!("{directory} was removed while the run was at work");
        Failure::new(Exit::Internal, message)
            .hint("run again; `cargo xtask clean` removes folders of runs, and none of a run that lives")
            .caused_by(anyhow!("{error:#}"))
            .into()
    }

    /// What ran out of room is told with the sizes, in the reports as well.
    fn explain_room(&mut self, error: Error) -> Error {
        let before = report::error_text(&error);
        let error = room::explain(self.workspace, self.engine.as_ref(), error);
        let after = report::error_text(&error);
        if before != after
            && let Some(failure) = &mut self.receipt.failure
        {
            failure.message = after;
        }
        error
    }

    /// Whoever removed the folder of the run removed the engine's settings with it, and without
    /// them an engine answers nothing.
    fn regain_engine(&mut self) {
        let Some(engine) = &self.engine else { return };
        let own = engine.environment.values().map(Utf8Path::new);
        let mut own = own.filter(|path| path.starts_with(self.run.directory()));
        if own.all(Utf8Path::exists) {
            return;
        }
        match Engine::find(self.run.directory(), engine.kind.into()) {
            Ok(engine) => self.engine = Some(engine),
            Err(error) => report::note(&format!("the engine's settings are gone: {error:#}")),
        }
    }

    fn collect_logs(&self) -> Result<()> {
        match &self.engine {
            Some(engine) => clean::collect_logs(&self.run, engine, self.cluster.as_ref()),
            None => Ok(()),
        }
    }

    /// Of a cluster that goes, more than logs. Whoever sends a second signal has no time for it.
    fn gather(&self) -> Result<()> {
        if interrupt::is_hurried() {
            return Ok(());
        }
        match (self.options.cluster(), &self.engine) {
            (Choice::Kind, Some(engine)) => {
                let kept = self.kept.as_ref().map(|kept| kept.owner());
                let owner = kept.as_ref().unwrap_or(&self.run);
                kind::gather::gather(&self.run, owner.id(), self.options.nodes, engine)
            }
            (Choice::Context(_), _) => context::gather::gather(&self.run),
            _ => Ok(()),
        }
    }

    /// The state of every container, the guilty log, the failed tests, and where the rest lies.
    fn explain(&mut self, error: &Error) {
        let phase = self.receipt.failed_phase();
        let message = report::error_text(error);
        let headline = report::headline(error);
        // Of what did not come so far, healthy third parties say nothing.
        let deployed = !matches!(phase, Some("manifests" | "tag" | "build")) && !is_signal(error);
        if let Some(cluster) = self.cluster.as_ref().filter(|_| deployed) {
            match cluster.describe() {
                Ok(lines) => lines.iter().for_each(|line| {
                    let line = failure::container_line(line, report::columns());
                    crate::report::say_part!("{line}");
                }),
                Err(error) => report::note(&format!("cannot tell the containers: {error:#}")),
            }
        }
        let suspects = [self.target.name.as_str(), self.workspace.against.as_str()];
        let logs = self.run.directory().join("logs");
        // A compiler's message has been shown as it came.
        if let Some(log) = failure::guilty_log(&logs, &[&headline, &message], &suspects)
            && !matches!(phase, Some("manifests" | "tag" | "build"))
            && !is_signal(error)
        {
            let rows_max = match report::exit_of(error) {
                Exit::Red => {
                    let tests = self.receipt.tests.as_ref();
                    let failed_count = tests.map_or(0, |tests| tests.failed().count());
                    failure::log_rows_of_tests(failed_count)
                }
                _ => failure::LOG_ROWS_MAX,
            };
            let tail = failure::tail(&log, rows_max, report::columns());
            crate::report::say_part!("{tail}");
        }
        // What a signal ended has not failed.
        if let Some(tests) = self.receipt.tests.as_ref().filter(|_| !is_signal(error)) {
            crate::report::say_part!("{}", failure::failed_tests(tests, report::columns()));
            if let Some(job) = Job::here() {
                job.annotate(self.target.name.as_str(), tests);
            }
        }
        self.receipt.fail(&message);
        let page = self.run.directory().join(html::FILE);
        let page = report::near(&page);
        report::note(&format!("everything else: {page}, and beside it"));
    }

    fn fate(&self, result: &Result<()>) -> Fate {
        if self.stands(result) {
            Fate::Stands
        } else if self.keeps(result) {
            Fate::Kept
        } else {
            Fate::Removed
        }
    }

    fn keeps(&self, result: &Result<()>) -> bool {
        let wanted = match self.options.keep {
            Keep::Never => false,
            Keep::OnFailure => result.is_err(),
            Keep::Always => true,
        };
        let deployed = self.run.directory().join("run.json").exists();
        // Whoever ends a run by a signal wants it gone.
        wanted && deployed && !result.as_ref().is_err_and(is_signal)
    }

    fn keep(&self) -> Result<()> {
        let path = self.run.directory().join("run.json");
        let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
        let mut run: serde_json::Value =
            serde_json::from_slice(&text).with_context(|| format!("cannot read {path}"))?;
        run["kept"] = true.into();
        report::receipt::write_json(&path, &run)?;
        self.run.keep()
    }

    fn remove(&self) -> Result<()> {
        // What opens its cluster is among the secrets: they stay as long as that is there.
        context::left::remove_of(&self.run)?;
        let left = self.cluster.as_ref().map_or(Ok(()), Cluster::leave);
        let removed = match &self.engine {
            Some(engine) => self.run.clean_up(engine),
            None => self.run.nothing_made(),
        };
        let removed = removed.and(self.end_kept(left));
        // Also where that went wrong, on a full disk say.
        removed.and(run::remove_secrets(self.run.directory()))
    }

    /// What the cluster is kept for is the next run. One that the run could not leave is of no use.
    fn end_kept(&self, left: Result<()>) -> Result<()> {
        let Some(kept) = &self.kept else {
            return left;
        };
        if let (Err(error), true) = (&left, kept.stays()) {
            report::note(&format!("the kept cluster is removed: {error:#}"));
        }
        kept.end(self.engine.as_ref(), left.is_ok(), self.options.reuse)
    }

    /// A run tests what it froze; what was edited since belongs to the next one.
    fn note_edits(&mut self) {
        let Some(frozen) = &self.frozen else { return };
        match frozen.snapshot().edited_since(self.workspace) {
            Ok(paths) => {
                if let Some(first) = paths.first() {
                    let more = match paths.len() - 1 {
                        0 => String::new(),
                        more => format!(" and {more} more"),
                    };
                    report::note(&format!(
                        "edited during the run, so not what was tested: {first}{more}"
                    ));
                }
                self.receipt.edited_during_run = paths;
            }
            // The tree cannot be read just now, in the middle of an edit: that is an edit too.
            Err(error) => report::note(&format!("the sources changed during the run: {error:#}")),
        }
    }

    fn keeps_cluster(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.stays())
    }

    fn write_reports(&mut self, result: &Result<()>, blackout: &Blackout) -> Result<()> {
        let (verdict, exit_code) = match result {
            Ok(()) => (Verdict::Green, 0),
            Err(error) => {
                let exit = report::exit_of(error);
                let verdict = match exit {
                    Exit::Timeout => Verdict::TimedOut,
                    exit if exit.signal().is_some() => Verdict::Interrupted,
                    _ => Verdict::Red,
                };
                (verdict, exit as i32)
            }
        };
        let directory = self.run.directory();
        // What failed first is what the run is about.
        let failed = self.receipt.failure.as_ref();
        let failed = failed.map(|failure| (failure.phase, failure.message.clone()));
        let failure = result.as_ref().err().map(|error| match failed {
            // Which command a signal happened to end is nobody's concern.
            Some((phase, _)) if is_signal(error) => (phase, report::error_text(error)),
            Some(failed) => failed,
            None => ("run", report::error_text(error)),
        });
        let outcome = junit::Outcome {
            tests: self.receipt.tests.as_ref(),
            failure: failure
                .as_ref()
                .map(|(phase, message)| (*phase, message.as_str())),
        };
        junit::write(
            &directory.join(junit::FILE),
            self.target.name.as_str(),
            &outcome,
            blackout,
        )?;
        self.receipt.end(verdict, exit_code)?;
        let runs = run::runs_directory(self.workspace);
        let suspects = [self.target.name.as_str(), self.workspace.against.as_str()];
        match html::write(directory, &runs, &suspects, blackout) {
            Ok(summary) => self.summary = Some(summary),
            // It shows what receipt and logs hold: nothing is lost with it.
            Err(error) => report::note(&format!("no {}: {error:#}", html::FILE)),
        }
        match &self.options.report {
            Some(report) => {
                copy_reports(directory, &report.join(self.target.name.as_str()), blackout)
            }
            None => Ok(()),
        }
    }

    fn summarise(&self, result: &Result<()>, fate: Fate) {
        let verdict = if result.is_ok() { "green" } else { "red" };
        let tests = self.receipt.tests.as_ref().map_or_else(
            || "not tested".to_owned(),
            |tests| match result.as_ref().is_err_and(is_signal) {
                true => tests.verdict_so_far(),
                false => tests.verdict(),
            },
        );
        let cluster = match (&self.receipt.tests, &self.receipt.cluster) {
            (Some(_), Some(cluster)) => format!(" on {cluster}"),
            _ => String::new(),
        };
        let fate = match fate {
            Fate::Kept => ", kept: cargo xtask status",
            Fate::Removed if self.options.reuse && self.keeps_cluster() => {
                ", and the cluster is kept: cargo xtask clean removes it"
            }
            Fate::Stands | Fate::Removed => self.what_stands(),
        };
        let object = format!("{}: {tests}{cluster}{fate}", self.target.name);
        report::line(verdict, &object, self.begun().elapsed());
    }
}

/// Receipt, JUnit report, the report to look at and every log: what explains a run to somebody elsewhere. No secrets.
fn copy_reports(from: &Utf8Path, to: &Utf8Path, blackout: &Blackout) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {to}"))?;
    let [receipt, copy] = [from, to].map(|folder| folder.join("receipt.json"));
    let text = fs::read_to_string(&receipt).with_context(|| format!("cannot read {receipt}"))?;
    fs::write(&copy, blackout.over(text)).with_context(|| format!("cannot write {copy}"))?;
    let mut files: Vec<_> = [
        junit::FILE,
        html::FILE,
        "journal.jsonl",
        "tests.log",
        "build.log",
    ]
    .iter()
    .map(|name| (from.join(name), to.join(name)))
    .collect();
    for folder in ["logs", gather::FOLDER] {
        let Ok(entries) = from.join(folder).read_dir_utf8() else {
            continue;
        };
        let copies = to.join(folder);
        fs::create_dir_all(&copies).with_context(|| format!("cannot make {copies}"))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {from}/{folder}"))?;
            files.push((entry.path().to_owned(), copies.join(entry.file_name())));
        }
    }
    for (source, copy) in files.iter().filter(|(source, _)| source.is_file()) {
        fs::copy(source, copy).with_context(|| format!("cannot copy {source} to {copy}"))?;
    }
    Ok(())
}
