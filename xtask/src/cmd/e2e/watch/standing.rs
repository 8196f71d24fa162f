//! The deployment that stands between two cycles of a watch: who owns it, what it was built from,
//! and how the next cycle takes it over. It is made of what a cycle has proved, and of nothing else.

use std::fs;
use std::mem;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use super::change::Fingerprint;
use crate::cluster::Cluster;
use crate::cmd::e2e::session::{Progress, Session};
use crate::engine::Engine;
use crate::process::interrupt::Shield;
use crate::report::{html, is_signal};
use crate::run::{self, Run};
use crate::secrets::Secrets;

/// What a cycle leaves behind for people; the next one of the same run puts it aside.
const TOLD: [&str; 8] = [
    "receipt.json",
    "junit.xml",
    html::FILE,
    "tests.jsonl",
    "faults.jsonl",
    "tests.log",
    "build.log",
    "logs",
];

/// How many cycles a run's folder tells of, besides the newest: a day of edits has hundreds, each
/// with the logs of every container.
const CYCLES_MAX: u32 = 20;

const LAST_GOOD: &str = "; what the last good build made stays deployed";

/// A deployment that was proved.
#[derive(Debug)]
pub(in crate::cmd::e2e) struct Standing {
    run: Arc<Run>,
    engine: Engine,
    cluster: Cluster,
    secrets: Secrets,
    pub(super) fingerprint: Fingerprint,
}

impl Standing {
    /// Puts aside what the last cycle has told, as `cycles/<number>/` of the run's folder, so that
    /// the folder itself tells of the newest.
    pub(super) fn put_aside(&self) -> Result<()> {
        let aside = put_aside(self.run.directory())?;
        let details = serde_json::json!({"put_aside": aside});
        self.run.note("cycle", &details)
    }

    /// Removes everything of it.
    pub(super) fn remove(self) -> Result<()> {
        let Self {
            run,
            engine,
            cluster,
            ..
        } = self;
        let _shield = Shield::raise();
        drop(cluster);
        run.clean_up(&engine)?;
        run::remove_secrets(run.directory())
    }
}

/// Moves what was told into the folder of a cycle, and gives that; the oldest cycles go.
fn put_aside(run_directory: &Utf8Path) -> Result<Utf8PathBuf> {
    let cycles = run_directory.join("cycles");
    fs::create_dir_all(&cycles).with_context(|| format!("cannot make {cycles}"))?;
    let mut numbers: Vec<u32> = Vec::new();
    for entry in cycles.read_dir_utf8()? {
        numbers.extend(entry?.file_name().parse::<u32>());
    }
    let number = numbers.iter().max().map_or(1, |newest| newest + 1);
    let aside = cycles.join(number.to_string());
    fs::create_dir(&aside).with_context(|| format!("cannot make {aside}"))?;
    for name in TOLD {
        let (from, to) = (run_directory.join(name), aside.join(name));
        if from.exists() {
            fs::rename(&from, &to).with_context(|| format!("cannot move {from} to {to}"))?;
        }
    }
    // It goes on to tell how the deployment is reached.
    let (from, to) = (run_directory.join("run.json"), aside.join("run.json"));
    fs::copy(&from, &to).with_context(|| format!("cannot copy {from} to {to}"))?;
    for old in numbers.iter().filter(|old| *old + CYCLES_MAX <= number) {
        let old = cycles.join(old.to_string());
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {old}"))?;
    }
    Ok(aside)
}

/// What a run knows that is one cycle of a watch.
#[derive(Debug)]
pub(in crate::cmd::e2e) struct Cycle {
    /// When the edit was noticed, or the watch begun.
    begun: Instant,
    /// The word for that.
    since: &'static str,
    /// What this cycle is a function of, if that could be read.
    fingerprint: Option<Fingerprint>,
    before: Before,
    retiring: Option<JoinHandle<Result<()>>>,
}

/// What stood when a cycle began.
#[derive(Debug)]
pub(super) enum Before {
    Nothing,
    /// It is taken over.
    TakenOver(Box<Standing>),
    /// It was taken over: this is what it had been made from.
    Ours(Box<Fingerprint>),
    /// It stands until this cycle's own has been proved.
    Beside(Box<Standing>),
}

impl Cycle {
    pub(super) const fn new(
        begun: Instant,
        since: &'static str,
        fingerprint: Option<Fingerprint>,
        before: Before,
    ) -> Self {
        Self {
            begun,
            since,
            fingerprint,
            before,
            retiring: None,
        }
    }

    /// The run that is gone on with, if it is none of its own.
    pub(in crate::cmd::e2e) fn run(&self) -> Option<Arc<Run>> {
        match &self.before {
            Before::TakenOver(standing) => Some(Arc::clone(&standing.run)),
            _ => None,
        }
    }

    /// What stood before it, of a cycle that could not begin.
    pub(super) fn given_up(self) -> Option<Standing> {
        match self.before {
            Before::TakenOver(standing) | Before::Beside(standing) => Some(*standing),
            Before::Nothing | Before::Ours(_) => None,
        }
    }

    /// What its time is counted from.
    pub(in crate::cmd::e2e) const fn since(&self) -> &'static str {
        self.since
    }
}

impl Session<'_> {
    /// The deployment that stands becomes this cycle's, to be changed and proved.
    pub(in crate::cmd::e2e) fn take_over(&mut self) {
        let Some(cycle) = &mut self.cycle else { return };
        self.begun = cycle.begun;
        cycle.before = match mem::replace(&mut cycle.before, Before::Nothing) {
            Before::TakenOver(standing) => {
                let Standing {
                    engine,
                    cluster,
                    secrets,
                    fingerprint,
                    ..
                } = *standing;
                self.receipt.engine(&engine);
                self.receipt.cluster(&cluster);
                self.engine = Some(engine);
                self.cluster = Some(cluster);
                self.secrets = Some(secrets);
                Before::Ours(Box::new(fingerprint))
            }
            before => before,
        };
    }

    /// The deployment that stood beside this cycle's begins to be removed: nobody waits for that.
    pub(in crate::cmd::e2e) fn retire(&mut self) {
        let Some(cycle) = &mut self.cycle else { return };
        match mem::replace(&mut cycle.before, Before::Nothing) {
            Before::Beside(standing) => {
                cycle.retiring = Some(thread::spawn(move || standing.remove()));
            }
            before => cycle.before = before,
        }
    }

    /// What stood beside has gone, if it was to go: once something newer is built, or a signal came.
    pub(in crate::cmd::e2e) fn end_retirement(&mut self, result: &Result<()>) -> Result<()> {
        let signalled = result.as_ref().is_err_and(is_signal);
        if signalled || self.progress != Progress::Begun {
            self.retire();
        }
        let retiring = self.cycle.as_mut().and_then(|cycle| cycle.retiring.take());
        retiring.map_or(Ok(()), |retiring| {
            let ended = retiring.join();
            ended.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
        })
    }

    /// Whether this run's deployment goes on to stand: it is proved, or it was proved before and
    /// nothing newer has been built since.
    pub(in crate::cmd::e2e) fn stands(&self, result: &Result<()>) -> bool {
        let Some(cycle) = &self.cycle else {
            return false;
        };
        let untouched = self.progress == Progress::Begun && matches!(cycle.before, Before::Ours(_));
        let proved = self.progress == Progress::Attested;
        (untouched || proved) && !result.as_ref().is_err_and(is_signal)
    }

    /// What the last line says of it; nothing of a run that nobody watches.
    pub(in crate::cmd::e2e) fn what_stands(&self) -> &'static str {
        let Some(cycle) = &self.cycle else { return "" };
        match (&cycle.before, self.progress) {
            (Before::Beside(_), _) => LAST_GOOD,
            _ if self.left_something => "; not all of it could be removed: cargo xtask clean",
            _ if !self.leaves_standing => "; nothing stays deployed",
            (_, Progress::Attested) => ", stays deployed",
            _ => LAST_GOOD,
        }
    }

    /// The deployment that stands when this cycle has ended.
    pub(in crate::cmd::e2e) fn into_standing(self) -> Option<Standing> {
        let Self {
            run,
            engine,
            cluster,
            secrets,
            progress,
            cycle,
            leaves_standing,
            ..
        } = self;
        let Cycle {
            fingerprint,
            before,
            ..
        } = cycle?;
        let fingerprint = match (before, progress) {
            (Before::Beside(standing), _) => return Some(*standing),
            (Before::Ours(before), Progress::Begun) => Some(*before),
            _ => fingerprint,
        };
        if !leaves_standing {
            return None;
        }
        Some(Standing {
            run,
            engine: engine?,
            cluster: cluster?,
            secrets: secrets?,
            fingerprint: fingerprint?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8Path;

    use super::{CYCLES_MAX, put_aside};

    #[test]
    fn the_folder_tells_of_the_newest_cycle_and_keeps_some_before() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let last = CYCLES_MAX + 3;
        for number in 1..=last {
            for name in ["receipt.json", "tests.jsonl", "run.json", "lock"] {
                fs::write(folder.join(name), number.to_string()).unwrap();
            }
            fs::create_dir(folder.join("logs")).unwrap();
            let aside = put_aside(folder).unwrap();
            assert_eq!(aside, folder.join(format!("cycles/{number}")));
            for name in ["receipt.json", "tests.jsonl", "run.json"] {
                let told = fs::read_to_string(aside.join(name)).unwrap();
                assert_eq!(told, number.to_string(), "{name}");
            }
            let left = ["lock", "run.json", "receipt.json", "tests.jsonl", "logs"];
            let left = left.map(|name| folder.join(name).exists());
            assert_eq!(left, [true, true, false, false, false]);
        }
        let kept = folder.join("cycles").read_dir_utf8().unwrap().count();
        assert_eq!(kept, usize::try_from(CYCLES_MAX).unwrap());
        assert!(!folder.join("cycles/3").exists());
        assert!(folder.join(format!("cycles/{last}/logs")).exists());
    }
}
