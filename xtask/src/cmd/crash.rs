//! `crash`: kills runs at random moments, as a machine that runs out of memory does, every second
//! time two of them at once; then sees that the next run is green, that nothing of the dead ones is
//! left, and that what belongs to others was not touched. Real runs on a real engine.

use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use super::print_data;
use crate::cli;
use crate::engine::{Engine, left};
use crate::exit::{Exit, Failure};
use crate::host::diverted;
use crate::poll::{self, Look};
use crate::process::interrupt::Shield;
use crate::process::{self, Background, Echo, Invocation, OWN_PROGRAM, ProcessError};
use crate::report::{self, table};
use crate::run::{self, Resources, State};
use crate::source::workspace::{Target, Workspace};

mod others;

use self::others::Others;

/// With a cold build before it.
const RUN_DEADLINE: Duration = Duration::from_secs(1200);
/// How often a run is looked at that is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// How many lines of a run that should have been green are shown.
const LINES_MAX: usize = 60;

/// Kills and looks, round after round.
///
/// # Errors
/// [`Exit::Host`] when other runs of this checkout stand; what was found wrong, with the round and the moment of the kill.
pub fn run(workspace: &Workspace, options: &cli::Crash) -> Result<()> {
    let target = workspace.target(&options.target)?;
    let (_folder, folder) = super::temporary()?;
    let engine = Engine::find(&folder, options.engine)?;
    stands_alone(workspace, &engine)?;
    let crash = Crash {
        workspace,
        target,
        options,
        engine: &engine,
        folder: &folder,
    };
    // Two that are never killed: one makes what later ones find, the other tells how long a run
    // takes that finds it.
    crash.green_run("first", &[])?;
    let begun = Instant::now();
    crash.green_run("second", &[])?;
    let whole = begun.elapsed();
    report::note(&format!("a whole run takes {:.1} s", whole.as_secs_f64()));
    let others = Others::make(&engine)?;
    let mut rows = vec![
        ["round", "killed", "at second", "next run"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let outcome = (1..=options.rounds).try_for_each(|round| {
        let row = crash.round(round, whole, &others);
        rows.push(row.with_context(|| format!("round {round} of {}", options.rounds))?);
        anyhow::Ok(())
    });
    // Nobody else would ever take it for ours.
    let _shield = Shield::raise();
    let removed = others.remove();
    print_data(&table::layout(&rows))?;
    outcome?;
    removed?;
    print_data(&format!("crash: green, {} rounds\n", options.rounds))
}

/// What a run has that lives or is kept would be taken for what a killed one left.
///
/// # Errors
/// [`Exit::Host`], naming these runs.
pub fn stands_alone(workspace: &Workspace, engine: &Engine) -> Result<()> {
    let standing = run::standing(workspace, engine)?;
    if standing.is_empty() {
        return Ok(());
    }
    let told = |(id, state): (&String, &State)| match state {
        State::Running => format!("{id} (lives)"),
        _ => format!("{id} (kept)"),
    };
    let runs: Vec<String> = standing.iter().map(told).collect();
    let what = format!(
        "runs of this checkout stand, and what they have would be taken for leftovers: {}",
        runs.join(", ")
    );
    let hint = match standing.values().any(|state| *state == State::Running) {
        true => "let those that live end, then: cargo xtask clean",
        false => "cargo xtask clean",
    };
    Err(Failure::new(Exit::Host, what).hint(hint).into())
}

/// What every round works with.
struct Crash<'a> {
    workspace: &'a Workspace,
    target: &'a Target,
    options: &'a cli::Crash,
    engine: &'a Engine,
    folder: &'a Utf8Path,
}

impl Crash<'_> {
    fn round(&self, round: u32, whole: Duration, others: &Others<'_>) -> Result<Vec<String>> {
        let count = if round.is_multiple_of(2) { 2 } else { 1 };
        let log = |index| self.folder.join(format!("killed-{round}-{index}.log"));
        let begun = Instant::now();
        let mut runs: Vec<(Duration, Background)> = (0..count)
            .map(|index| {
                let child = Background::start(&self.e2e(&[]), &log(index))?;
                Ok((whole.mul_f64(random_part()), child))
            })
            .collect::<Result<_, ProcessError>>()?;
        runs.sort_by_key(|(moment, _)| *moment);
        let mut moments = Vec::new();
        for (moment, child) in runs {
            poll::until("moment of a kill", RUN_DEADLINE, LOOK_INTERVAL, || {
                Ok(match begun.elapsed() >= moment {
                    true => Look::Found(()),
                    false => Look::NotYet(format!("{:.1} s", begun.elapsed().as_secs_f64())),
                })
            })?;
            child.kill()?;
            moments.push(format!("{:.1}", moment.as_secs_f64()));
        }
        let moments = moments.join(", ");
        report::note(&format!("round {round}: killed at second {moments}"));
        let begun = Instant::now();
        self.green_run(&format!("after-{round}"), &self.options.filters)
            .with_context(|| format!("the run after one that was killed at second {moments}"))?;
        let took = begun.elapsed();
        self.nothing_left()
            .with_context(|| format!("after runs that were killed at second {moments}"))?;
        others.untouched()?;
        Ok(vec![
            round.to_string(),
            format!("{count}"),
            moments,
            format!("green in {:.1} s", took.as_secs_f64()),
        ])
    }

    /// A run to its end, of these tests.
    fn green_run(&self, name: &str, filters: &[String]) -> Result<()> {
        let log = self.folder.join(format!("{name}.log"));
        let e2e = self.e2e(filters);
        let code = process::stream(&e2e, Some(&log), Echo::Silent, RUN_DEADLINE)?;
        if code == 0 {
            return Ok(());
        }
        let text = fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))?;
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES_MAX)..].join("\n");
        anyhow::bail!("ended with {code}: {e2e}\n{last}")
    }

    fn e2e(&self, filters: &[String]) -> Invocation {
        let e2e = Invocation::new(OWN_PROGRAM)
            .args([
                "e2e",
                self.target.name.as_str(),
                "--engine",
                self.options.engine.word(),
            ])
            .current_dir(&self.workspace.root);
        match filters {
            [] => e2e,
            filters => e2e.arg("--").args(filters.iter().cloned()),
        }
    }

    /// Containers, volumes and networks of this checkout, folders in memory, tokens, and rules of
    /// the packet filter.
    fn nothing_left(&self) -> Result<()> {
        let checkout = run::checkout(&self.workspace.root);
        let label = format!("{}={checkout}", run::LABEL_CHECKOUT);
        let left = Resources::find(self.engine, &label)?;
        ensure!(left.is_empty(), "the engine still has {left:?}");
        let records = run::list(self.workspace)?.into_iter();
        let rules = diverted::rules(self.engine)?;
        let (memory, watchers) = (memory_folders()?, left::watchers());
        // A build folder can be shared by several checkouts, and so is the packet filter.
        for record in records.filter(|one| one.checkout.as_deref() == Some(&checkout)) {
            let (id, folder) = (&record.id, &record.directory);
            let secrets = folder.join(run::SECRETS);
            ensure!(!secrets.exists(), "{secrets} is still there");
            let in_memory = memory.iter();
            let in_memory =
                in_memory.filter(|path| path.file_name().is_some_and(|name| name.starts_with(id)));
            let in_memory: Vec<_> = in_memory.collect();
            ensure!(in_memory.is_empty(), "still in memory: {in_memory:?}");
            let network = format!("name: {id} ");
            let diverted = rules.iter().filter(|(_, rule)| rule.contains(&network));
            let ports: Vec<&u16> = diverted.map(|(port, _)| port).collect();
            ensure!(
                ports.is_empty(),
                "the packet filter still diverts {ports:?}"
            );
            let left = watchers.iter();
            let left = left.filter(|watcher| watcher.container.starts_with(id.as_str()));
            let left: Vec<_> = left.collect();
            ensure!(left.is_empty(), "processes that no list tells of: {left:?}");
        }
        Ok(())
    }
}

fn memory_folders() -> Result<Vec<Utf8PathBuf>> {
    let shared = run::memory_volume("");
    let entries = shared.read_dir_utf8();
    let entries = entries.with_context(|| format!("cannot read {shared}"))?;
    entries
        .map(|entry| Ok(entry?.path().to_owned()))
        .collect::<Result<_>>()
}

/// From 0 to 1. The hasher's keys are random anew each time.
fn random_part() -> f64 {
    let random = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::random_part;

    #[test]
    fn moments_are_all_over_a_run() {
        let mut parts: Vec<f64> = (0..1000).map(|_| random_part()).collect();
        parts.sort_by(f64::total_cmp);
        assert!(parts[0] >= 0.0 && parts[999] <= 1.0);
        assert!(parts[0] < 0.05 && parts[999] > 0.95 && parts[500] > 0.3 && parts[500] < 0.7);
    }
}
