//! A run as somebody types it, as a child that stands still before one of its phases: for what looks
//! at a run from outside, measures it or breaks something of it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::Signal;
use serde::de::DeserializeOwned;

use crate::poll::{self, Look};
use crate::process::{Background, Invocation, OWN_PROGRAM};
use crate::source::workspace::{Target, Workspace};

/// With a cold build before it.
const RUN_DEADLINE: Duration = Duration::from_secs(1200);
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A run that was ended removes a cluster.
const END_DEADLINE: Duration = Duration::from_secs(120);

/// A run that stands still. Ended where it is dropped, and waited for by [`Paused::end`] alone.
#[derive(Debug)]
pub(super) struct Paused {
    child: Background,
    /// The folder of the run.
    directory: Utf8PathBuf,
    /// From the command to the moment where it stands still.
    pub(super) took: Duration,
}

impl Paused {
    /// Runs the command in `tree` until `phase` would begin; what it says goes to a file in `folder`.
    ///
    /// # Errors
    /// When it ends before, with its last lines.
    pub(super) fn before(
        phase: &str,
        workspace: &Workspace,
        tree: &Utf8Path,
        target: &Target,
        folder: &Utf8Path,
        more: &[&str],
    ) -> Result<Self> {
        let log = folder.join("run.log");
        fs::write(&log, "").with_context(|| format!("cannot write {log}"))?;
        let state = workspace.state_directory();
        let build_folder = state.parent().context("the state folder has a folder")?;
        let e2e = Invocation::new(OWN_PROGRAM)
            .args(["e2e", target.name.as_str(), "--pause-before", phase])
            .args(more.iter().copied())
            .current_dir(tree)
            // It is no run of a job: what it says goes into no summary.
            .env_remove("GITHUB_ACTIONS")
            // The same store, mirror and build folder, wherever the tree lies.
            .env("CARGO_TARGET_DIR", build_folder.as_str());
        let begun = Instant::now();
        let child = Background::start(&e2e, &log)?;
        let pause = format!(" paused before {phase}");
        let text = poll::until("pause", RUN_DEADLINE, LOOK_INTERVAL, || {
            let text = fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))?;
            if text.contains(&pause) {
                return Ok(Look::Found(text));
            }
            child.check()?;
            Ok(Look::NotYet(
                text.lines().last().unwrap_or_default().to_owned(),
            ))
        })?;
        let took = begun.elapsed();
        let directory = directory(&text).with_context(|| format!("no folder in {log}"))?;
        Ok(Self {
            child,
            directory: directory.to_owned(),
            took,
        })
    }

    /// The folder of the run, which stays.
    pub(super) fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Lets it go on to its end; gives its exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(super) fn go_on(self, within: Duration) -> Result<i32> {
        self.child.signal(Signal::USR1)?;
        Ok(self.child.wait(within)?)
    }

    /// Ends it where it stands, and waits until it has removed what it made.
    ///
    /// # Errors
    /// When it does not end in time.
    pub(super) fn end(self) -> Result<()> {
        self.child.signal(Signal::TERM)?;
        self.child.wait(END_DEADLINE)?;
        Ok(())
    }
}

/// What `receipt.json` in the folder of a run says so far.
///
/// # Errors
/// When it cannot be read.
pub(super) fn receipt<T: DeserializeOwned>(directory: &Utf8Path) -> Result<T> {
    let path = directory.join("receipt.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot read {path}"))
}

/// Where the run says that its folder is.
fn directory(text: &str) -> Option<&Utf8Path> {
    let mut lines = text.lines().map(str::trim_start);
    let path = lines.find_map(|line| line.strip_prefix("where run "))?;
    Some(Utf8Path::new(path))
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::directory;

    #[test]
    fn a_run_says_where_its_folder_is() {
        let text =
            "      tagged a:b (0.1 s)\n       where run /x/runs/a b\n       where image a:b\n";
        assert_eq!(directory(text), Some(Utf8Path::new("/x/runs/a b")));
        assert_eq!(directory("nothing"), None);
    }
}
