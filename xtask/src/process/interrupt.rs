//! Ctrl-C, SIGTERM and SIGHUP: noted here, told to the children, and asked for by every wait.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use rustix::process::{Signal, getpid, kill_process};

use crate::exit::{Exit, Failure};
use crate::report;

static INSTALLED: AtomicBool = AtomicBool::new(false);
/// The first signal that came; 0: none.
static FIRST: AtomicI32 = AtomicI32::new(0);
/// How many seconds the tool had that are over; 0: it still has time, or was given none.
static TIME_OVER: AtomicU64 = AtomicU64::new(0);
static SHIELDS: AtomicUsize = AtomicUsize::new(0);
/// How many of them are for what is not worth waiting for.
static BRIEF: AtomicUsize = AtomicUsize::new(0);
static FIRST_AT: Mutex<Option<Instant>> = Mutex::new(None);
static HURRIED_SINCE: Mutex<Option<Instant>> = Mutex::new(None);
/// What a run is doing, for people whose signal ends it.
static DOING: Mutex<Option<&str>> = Mutex::new(None);

/// Notes SIGINT, SIGTERM and SIGHUP from now on; called once by `main`. A SIGHUP that is ignored
/// (by nohup) stays so.
///
/// # Errors
/// When the handlers cannot be set.
pub fn install() -> Result<()> {
    if INSTALLED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    let mut signals = Signals::new([SIGINT, SIGTERM].into_iter().chain(hang_up))
        .context("cannot set the handlers of signals")?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(note))
        .context("cannot start the thread that notes signals")?;
    Ok(())
}

/// Whether this process was started with the signal ignored: a bit of SigIgn, see proc(5).
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// What a command does that has several runs beside each other, as [`doing`] is told it.
pub const TARGETS: &str = "targets";

/// The phase that a run is in from now on: whoever ends it is told which one, and that it is
/// cleaned up after.
pub fn doing(phase: &'static str) {
    *DOING.lock().unwrap_or_else(PoisonError::into_inner) = Some(phase);
}

/// Ends the tool the way SIGTERM would, since the seconds that it was given are over: there is one
/// way to end, and clean-up is a part of it.
pub fn end_in_time(seconds: u64) {
    TIME_OVER.store(seconds, Ordering::SeqCst);
    // Cannot fail: a process may signal itself.
    let _ = kill_process(getpid(), Signal::TERM);
}

/// How many seconds the tool had, if they are over.
#[must_use]
pub fn time_over() -> Option<u64> {
    Some(TIME_OVER.load(Ordering::SeqCst)).filter(|&seconds| seconds != 0)
}

fn note(signal: i32) {
    at_first(&FIRST_AT);
    let first = FIRST.compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    if first.is_ok() {
        let doing = *DOING.lock().unwrap_or_else(PoisonError::into_inner);
        report::say!(
            "{:>12} {}",
            "ending",
            told_first(signal, time_over(), doing)
        );
        return;
    }
    if at_first(&HURRIED_SINCE) {
        let doing = *DOING.lock().unwrap_or_else(PoisonError::into_inner);
        report::say!("{:>12} {}", "hurrying", told_second(doing));
    }
}

/// Notes the time, if none is noted yet.
fn at_first(time: &Mutex<Option<Instant>>) -> bool {
    let mut time = time.lock().unwrap_or_else(PoisonError::into_inner);
    let is_first = time.is_none();
    time.get_or_insert_with(Instant::now);
    is_first
}

/// What the first signal does.
fn told_first(signal: i32, time_over: Option<u64>, doing: Option<&str>) -> String {
    let name = match (time_over, Exit::of_signal(signal)) {
        (Some(seconds), Exit::Terminated) => format!("the run's time of {seconds} s is over"),
        (_, Exit::HungUp) => "hang-up".to_owned(),
        (_, Exit::Terminated) => "SIGTERM".to_owned(),
        _ => "Ctrl-C".to_owned(),
    };
    match doing {
        None => format!("{name}: ending what runs"),
        Some("clean") => {
            format!("{name} while cleaning up, which goes on to its end; once more hurries it")
        }
        Some(TARGETS) => format!("{name}: ending each run and cleaning up; once more hurries it"),
        Some(phase) => {
            format!("{name} in phase {phase}: cleaning up what the run made; once more hurries it")
        }
    }
}

/// What the second one does.
const fn told_second(doing: Option<&str>) -> &'static str {
    match doing {
        None => "what does not end within seconds is killed",
        Some(_) => {
            "what is not removed within seconds is named and stays; the next run removes it, or `cargo xtask clean`"
        }
    }
}

/// The signal that came, if one did and no [`Shield`] is up.
#[must_use]
pub fn pending() -> Option<i32> {
    let signal = FIRST.load(Ordering::SeqCst);
    (signal != 0 && SHIELDS.load(Ordering::SeqCst) == 0).then_some(signal)
}

/// The signal that came, whatever shield is up: nothing new is begun that is not clean-up.
#[must_use]
pub fn noted() -> Option<i32> {
    Some(FIRST.load(Ordering::SeqCst)).filter(|&signal| signal != 0)
}

/// Whether people want it over with.
#[must_use]
pub fn is_hurried() -> bool {
    time_of(&HURRIED_SINCE).is_some()
}

/// Whether every deadline is a short one.
#[must_use]
pub fn is_short_of_time() -> bool {
    hurried_since().is_some()
}

/// Since when every deadline is a short one: the second signal, or the first under a brief shield.
pub(super) fn hurried_since() -> Option<Instant> {
    let brief = || match BRIEF.load(Ordering::SeqCst) {
        0 => None,
        _ => time_of(&FIRST_AT),
    };
    time_of(&HURRIED_SINCE).or_else(brief)
}

fn time_of(time: &Mutex<Option<Instant>>) -> Option<Instant> {
    *time.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error with the right exit code if a signal came; for loops that wait for other things than children.
///
/// # Errors
/// When a signal came.
pub fn check() -> Result<()> {
    match pending() {
        None => Ok(()),
        Some(signal) => {
            let exit = Exit::of_signal(signal);
            let word = match exit {
                Exit::HungUp => "hung up",
                Exit::Terminated => "terminated",
                _ => "interrupted",
            };
            Err(Failure::new(exit, word).into())
        }
    }
}

/// While it lives, children are not ended by a noted signal: clean-up runs to its end. A
/// second signal shortens every deadline instead.
#[derive(Debug)]
pub struct Shield {
    is_brief: bool,
}

impl Shield {
    /// Raises it.
    #[must_use]
    pub fn raise() -> Self {
        SHIELDS.fetch_add(1, Ordering::SeqCst);
        Self { is_brief: false }
    }

    /// Raises one under which the first signal shortens every deadline as well: for steps that leave
    /// less behind when they end by themselves, and that nobody wants to wait for when they hang.
    #[must_use]
    pub fn raise_brief() -> Self {
        // In this order: no child is ended in between.
        SHIELDS.fetch_add(1, Ordering::SeqCst);
        BRIEF.fetch_add(1, Ordering::SeqCst);
        Self { is_brief: true }
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        if self.is_brief {
            BRIEF.fetch_sub(1, Ordering::SeqCst);
        }
        SHIELDS.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    use super::told_first;

    #[test]
    fn a_signal_is_told_with_what_it_ends() {
        let told = [
            told_first(SIGINT, None, Some("deploy")),
            told_first(SIGTERM, None, Some("clean")),
            told_first(SIGHUP, None, None),
            told_first(SIGTERM, Some(30), Some("build")),
            told_first(SIGINT, Some(30), None),
            told_first(SIGINT, None, Some(super::TARGETS)),
        ];
        assert_eq!(
            told,
            [
                "Ctrl-C in phase deploy: cleaning up what the run made; once more hurries it",
                "SIGTERM while cleaning up, which goes on to its end; once more hurries it",
                "hang-up: ending what runs",
                "the run's time of 30 s is over in phase build: cleaning up what the run made; once more hurries it",
                "Ctrl-C: ending what runs",
                "Ctrl-C: ending each run and cleaning up; once more hurries it",
            ]
        );
    }
}
