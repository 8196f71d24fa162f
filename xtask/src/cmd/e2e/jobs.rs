//! Several targets at a time: each is the command that a person would type for it alone, as a child
//! of this one, so that what it says, its signals and its failures are its own. As many go at once as
//! were asked for, and no more than there is room for. It tests nothing itself: how a target ended is
//! read from what its run reports.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::mem;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use tempfile::TempDir;

use self::child::{Child, End};
use super::{NOT_BEGUN, Outcome};
use crate::cli;
use crate::cmd::room::{Deployed, Found, Share};
use crate::manifest::Manifests;
use crate::poll;
use crate::process::interrupt::{self, Shield};
use crate::report;
use crate::run;
use crate::source::workspace::{Target, Workspace};

mod child;

/// How often it is looked whether one has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How the names of folders begin in which the words of children are gathered.
const PREFIX: &str = "jobs-";
const LOCK: &str = "lock";
/// So long such a folder may be without a lock: it gets one when it is made.
const LOCKLESS_AGE: Duration = Duration::from_secs(60);

/// Runs these targets, so many at a time; tells each as it ends, and gives them in their order. The one
/// that took longest the last time begins first, so that none is left to run alone at the end.
///
/// # Errors
/// When there is no folder for what they say. What is wrong with one of them is its outcome.
pub(super) fn run(
    workspace: &Workspace,
    targets: &[&Target],
    options: &cli::E2e,
    at_once: usize,
) -> Result<Vec<Outcome>> {
    let folder = Folder::make(&workspace.state_directory())?;
    // Each ends by itself when it is told to, and removes what it made; this one waits for that.
    let _shield = Shield::raise();
    interrupt::doing(interrupt::TARGETS);
    let mut jobs = Jobs {
        workspace,
        options,
        at_once,
        folder: &folder.path,
        found: Found::now(&options.cluster()),
        waiting: longest_first(workspace, targets, options),
        running: Vec::new(),
        ended: BTreeMap::new(),
        has_told_room: false,
        notes: BTreeSet::new(),
    };
    while !(jobs.waiting.is_empty() && jobs.running.is_empty()) {
        jobs.heed();
        jobs.begin();
        if !jobs.collect() {
            poll::pause(LOOK_INTERVAL)?;
        }
    }
    Ok(jobs.ended.into_values().collect())
}

/// Each with its place in the order. One of which nothing is known may be the longest.
fn longest_first<'a>(
    workspace: &Workspace,
    targets: &[&'a Target],
    options: &cli::E2e,
) -> VecDeque<(usize, &'a Target)> {
    let runs = run::runs_directory(workspace);
    let entries = runs.read_dir_utf8().into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|it| it.file_name().to_owned()).collect();
    // They end with the time at which they began.
    names.sort_unstable_by(|a, b| b.cmp(a));
    let took = |target: &Target| {
        let prefix = format!("{}-", target.name);
        let mut its = names.iter().filter(|name| name.starts_with(&prefix));
        its.find_map(|name| child::green_took(&runs.join(name), &options.filters))
    };
    let mut order: Vec<_> = targets.iter().copied().enumerate().collect();
    order.sort_by_cached_key(|(_, target)| Reverse(took(target).unwrap_or(Duration::MAX)));
    order.into()
}

struct Jobs<'a> {
    workspace: &'a Workspace,
    options: &'a cli::E2e,
    at_once: usize,
    folder: &'a Utf8Path,
    found: Found,
    /// Each with its place in the order.
    waiting: VecDeque<(usize, &'a Target)>,
    running: Vec<(usize, Child<'a>)>,
    ended: BTreeMap<usize, Outcome>,
    /// It was said once that there is less room than was asked for.
    has_told_room: bool,
    /// What was told of a green one, and need not be told of the next.
    notes: BTreeSet<String>,
}

impl<'a> Jobs<'a> {
    /// What a signal means, and a red target with `--fail-fast`: no more are begun, and those that run
    /// are ended.
    fn heed(&mut self) {
        let is_red = |outcome: &Outcome| outcome.error.is_some() && !outcome.is_given_up;
        let gives_up = self.options.fail_fast && self.ended.values().any(is_red);
        let (end, why) = match interrupt::noted() {
            Some(signal) => (Some(End::Signalled(signal)), "not run"),
            None => (gives_up.then_some(End::GivenUp), NOT_BEGUN),
        };
        if let Some(end) = end {
            for (index, target) in self.waiting.drain(..) {
                self.ended.insert(index, Outcome::not_run(target, why));
            }
            self.running
                .iter_mut()
                .for_each(|(_, child)| child.end(end));
        }
        for (_, child) in &mut self.running {
            if child.is_late() {
                child.end(End::Late);
            }
            if interrupt::is_hurried() {
                child.hurry();
            }
        }
    }

    /// Begins as many more as may go at once.
    fn begin(&mut self) {
        while self.running.len() < self.at_once
            && let Some(&(index, target)) = self.waiting.front()
        {
            let share = self.share(target);
            if !self.has_room(share) {
                return;
            }
            self.waiting.pop_front();
            let is_first = self.running.is_empty() && self.ended.is_empty();
            match Child::begin(target, self.options, is_first, self.folder, share) {
                Ok(child) => self.running.push((index, child)),
                Err(error) => {
                    report::error(&error);
                    let outcome = Outcome {
                        error: Some(error),
                        ..Outcome::of(target)
                    };
                    self.ended.insert(index, outcome);
                }
            }
        }
    }

    /// What is wrong with its manifests, its run will say.
    fn share(&self, target: &Target) -> Share {
        let manifests = Manifests::read(self.workspace, target.manifests());
        manifests.map_or_else(
            |_| Share::default(),
            |manifests| {
                Share::of(Deployed {
                    manifests: &manifests,
                    cluster: &self.options.cluster(),
                    nodes_count: self.options.nodes,
                })
            },
        )
    }

    /// One alone is begun in any case: it says what it lacks.
    fn has_room(&mut self, share: Share) -> bool {
        let taken: Vec<Share> = self.running.iter().map(|(_, child)| child.share).collect();
        if taken.is_empty() {
            return true;
        }
        let Some(short) = self.found.short_for(share, &taken) else {
            return true;
        };
        if !mem::replace(&mut self.has_told_room, true) {
            let (count, at_once) = (taken.len(), self.at_once);
            report::note(&format!(
                "{count} at a time and not {at_once}, until there is room: {short}"
            ));
        }
        false
    }

    /// Takes those that have ended; gives whether one had.
    fn collect(&mut self) -> bool {
        let mut has_ended = false;
        for (index, child) in mem::take(&mut self.running) {
            match child.code() {
                None => self.running.push((index, child)),
                Some(code) => {
                    has_ended = true;
                    let outcome =
                        child.outcome(self.workspace, self.options, code, &mut self.notes);
                    self.ended.insert(index, outcome);
                }
            }
        }
        has_ended
    }
}

/// Where children write, for the time of one command.
struct Folder {
    path: Utf8PathBuf,
    _lock: File,
    _guard: TempDir,
}

impl Folder {
    fn make(state: &Utf8Path) -> Result<Self> {
        fs::create_dir_all(state).with_context(|| format!("cannot make {state}"))?;
        remove_left(state)?;
        let guard = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(state)
            .with_context(|| format!("cannot make a folder in {state}"))?;
        let path = Utf8PathBuf::try_from(guard.path().to_owned())?;
        let lock = path.join(LOCK);
        let locked = File::create(&lock).and_then(|file| {
            file.try_lock()?;
            Ok(file)
        });
        Ok(Self {
            _lock: locked.with_context(|| format!("cannot lock {lock}"))?,
            path,
            _guard: guard,
        })
    }
}

/// Removes the folders of commands that were killed.
///
/// # Errors
/// When one cannot be removed.
pub(in crate::cmd) fn remove_left(state: &Utf8Path) -> Result<()> {
    for entry in state.read_dir_utf8().into_iter().flatten().flatten() {
        let folder = entry.path();
        if entry.file_name().starts_with(PREFIX) && is_left(folder) {
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {folder}"))?;
        }
    }
    Ok(())
}

fn is_left(folder: &Utf8Path) -> bool {
    match File::open(folder.join(LOCK)) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => {
            let made = fs::metadata(folder).and_then(|found| found.modified());
            let age = made.map(|made| SystemTime::now().duration_since(made));
            matches!(age, Ok(Ok(age)) if age > LOCKLESS_AGE)
        }
    }
}

/// From now on this process is told to end when the one that started it has gone, and to clean up, as
/// by SIGTERM: nobody would hear of it any more.
///
/// # Errors
/// When the kernel does not take it.
pub(super) fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot be told when the command that started this one ends")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use camino::Utf8Path;

    use super::{Folder, LOCK, PREFIX, remove_left};

    #[test]
    fn only_the_folder_of_a_command_that_has_gone_is_removed() {
        let state = tempfile::tempdir().unwrap();
        let state = Utf8Path::from_path(state.path()).unwrap();
        let living = Folder::make(state).unwrap();
        let dead = state.join(format!("{PREFIX}dead"));
        // It is being made just now.
        let new = state.join(format!("{PREFIX}new"));
        let other = state.join("runs");
        for folder in [&dead, &new, &other] {
            fs::create_dir(folder).unwrap();
        }
        File::create(dead.join(LOCK)).unwrap();
        remove_left(state).unwrap();
        let there = [&living.path, &dead, &new, &other].map(|folder| folder.exists());
        assert_eq!(there, [true, false, true, true]);
        let path = living.path.clone();
        drop(living);
        assert!(!path.exists());
    }
}
