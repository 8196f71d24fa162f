//! `--watch`: after each edit the same phases, by the same functions, with the same proof. An event
//! only wakes it; whether anything changed, the snapshot decides. It waits without a deadline, for
//! an edit or for a signal.
//!
//! What an edit did not change stays deployed and is proved again. Where DataStorage is another, so
//! is its database: that cycle is a run of its own, begun beside what stands, and what stood is
//! removed when it is proved.

use std::env;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, anyhow};
use camino::Utf8PathBuf;

use super::pause::Pause;
use super::session::{Session, Taken, freeze, read_manifests};
use crate::cli;
use crate::cluster::Choice;
use crate::exit::{Exit, Failure};
use crate::manifest;
use crate::pipeline::Frozen;
use crate::process::interrupt::{self, Shield};
use crate::report::{self, is_signal};
use crate::source::folders;
use crate::source::workspace::{Target, TargetName, Workspace};
use crate::watcher::{Burst, Watcher};

mod change;
pub(super) mod standing;

use self::change::{Change, Fingerprint, change};
use self::standing::{Before, Cycle, Standing};

/// How many edited files a line names.
const NAMED_MAX: usize = 3;

/// The one target, if the other options leave something to watch.
///
/// # Errors
/// [`Exit::Usage`], with the reason.
pub(super) fn only_target<'a>(
    targets: &[&'a Target],
    options: &cli::E2e,
) -> Result<&'a Target, Failure> {
    let refuse = |what: &str, why: &str| {
        Err(Failure::new(
            Exit::Usage,
            format!("--watch does not go with {what}: {why}"),
        ))
    };
    if options.all {
        return refuse("--all", "it stays at one target until Ctrl-C");
    }
    let [target] = targets else {
        return refuse("several targets", "it stays at one until Ctrl-C");
    };
    if options.cluster() != Choice::Local {
        return refuse(
            "--cluster",
            "what an edit did not change stays on the local cluster alone",
        );
    }
    if options.prebuilt.is_some() {
        return refuse("--prebuilt", "what is edited here was built nowhere else");
    }
    if options.plan {
        return refuse("--plan", "a plan runs nothing");
    }
    if options.pause_before.is_some() {
        return refuse("--pause-before", "nobody would press Enter in every cycle");
    }
    if options.report.is_some() {
        return refuse("--report", "each cycle would write over the last one's");
    }
    if options.timeout.is_some() {
        return refuse("--timeout", "it ends with Ctrl-C");
    }
    if options.keep != cli::Keep::Never {
        return refuse("--keep", "Ctrl-C, which ends it, removes everything");
    }
    if env::var("CI").is_ok_and(|value| !["", "0", "false"].contains(&value.as_str())) {
        return refuse("the variable CI", "nobody edits there, and it never ends");
    }
    Ok(target)
}

/// Cycle after cycle, until a signal comes.
///
/// # Errors
/// That signal; that no edits can be watched.
pub(super) fn run(workspace: &Workspace, target: &Target, options: &cli::E2e) -> Result<()> {
    let mut watch = Watch {
        workspace: workspace.clone(),
        target: target.name.clone(),
        options: options.clone(),
        pause: Pause::new(None)?,
        standing: None,
        last: None,
        whole: None,
    };
    let ended = watch.cycles();
    let _shield = Shield::raise();
    let begun = Instant::now();
    match watch.standing.map(Standing::remove) {
        None => ended,
        Some(Ok(())) => {
            report::line("removed", "what stood", begun.elapsed());
            ended
        }
        Some(Err(error)) => {
            report::error(&error);
            ended
        }
    }
}

struct Watch {
    /// As its manifests were last read whole.
    workspace: Workspace,
    target: TargetName,
    options: cli::E2e,
    pause: Pause,
    standing: Option<Standing>,
    /// What was seen when the tree was last read.
    last: Option<Seen>,
    /// The last reading that found everything in order.
    whole: Option<Whole>,
}

/// A reading that found everything in order.
struct Whole {
    frozen: Arc<Frozen>,
    fingerprint: Fingerprint,
}

/// What a reading of the tree found: equal to the last one, nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Whole(Box<Fingerprint>),
    /// The error's text.
    Refused(String),
}

/// A reading of the tree.
struct Look {
    workspace: Workspace,
    taken: Taken,
    seen: Seen,
    frozen: Option<Arc<Frozen>>,
}

impl Watch {
    fn cycles(&mut self) -> Result<()> {
        let mut watcher = self.arm()?;
        let mut burst = None;
        let mut begun = Instant::now();
        loop {
            let look = self.look();
            if self.last.as_ref() != Some(&look.seen) {
                self.tell_edits(&look, burst.as_ref());
                self.cycle(look, begun)?;
                interrupt::check()?;
                crate::report::say!(
                    "{:>12} for an edit of what {} is made of, in {} folders; Ctrl-C ends",
                    "waiting",
                    self.target,
                    watcher.folders_count()
                );
            }
            interrupt::doing("watch");
            let next = watcher.wait()?;
            begun = next.began;
            burst = Some(next);
            // Armed before the tree is read, so that no edit falls between the two. Where that
            // fails, the one that there is still tells of the folders that it knows.
            match self.arm() {
                Ok(armed) => watcher = armed,
                Err(error) => report::error(&error),
            }
        }
    }

    fn arm(&self) -> Result<Watcher> {
        let root = &self.workspace.root;
        Watcher::arm(root, || {
            let (workspace, _) = self.reload();
            let mut folders = folders::of(&workspace, workspace.target(self.target.as_str())?)?;
            let manifests = Utf8PathBuf::from(manifest::FOLDER);
            folders.extend(root.join(&manifests).is_dir().then_some(manifests));
            Ok(folders)
        })
    }

    /// The workspace as its manifests are now; where they cannot be read, as they were, and why.
    fn reload(&self) -> (Workspace, Option<anyhow::Error>) {
        let loaded = Workspace::load(&self.workspace.root).and_then(|workspace| {
            workspace.target(self.target.as_str())?;
            Ok(workspace)
        });
        match loaded {
            Ok(workspace) => (workspace, None),
            Err(error) => (self.workspace.clone(), Some(error)),
        }
    }

    /// Reads manifests and sources, once: if they are others than before, a cycle is made of them.
    fn look(&self) -> Look {
        let (workspace, trouble) = self.reload();
        let mut taken = Taken::default();
        let seen = match workspace.target(self.target.as_str()) {
            Ok(target) => {
                let manifests = read_manifests(&workspace, target);
                let images = match trouble {
                    None => freeze(&workspace, target, &self.options),
                    Some(error) => (Err(error), manifests.1),
                };
                let fingerprint = match (&manifests.0, &images.0) {
                    (Ok(manifests), Ok(images)) => {
                        Fingerprint::of(&workspace, target, manifests, images)
                    }
                    (Err(error), _) | (_, Err(error)) => Err(anyhow!(report::error_text(error))),
                };
                taken.manifests = Some(manifests);
                taken.images = Some(images);
                fingerprint
            }
            Err(error) => Err(error),
        };
        let images = taken
            .images
            .as_ref()
            .and_then(|(images, _)| images.as_ref().ok());
        Look {
            frozen: images.map(|images| Arc::clone(images.frozen())),
            workspace,
            taken,
            seen: match seen {
                Ok(fingerprint) => Seen::Whole(Box::new(fingerprint)),
                Err(error) => Seen::Refused(report::error_text(&error)),
            },
        }
    }

    /// What changed since the last reading; where that cannot be told, what the events were about.
    fn tell_edits(&self, look: &Look, burst: Option<&Burst>) {
        let Some(burst) = burst else { return };
        let mut paths: Vec<String> = Vec::new();
        if let (Some(before), Some(after)) = (&self.whole, &look.frozen) {
            let edited = before.frozen.snapshot().differences(after.snapshot());
            paths.extend(edited.into_iter().map(Utf8PathBuf::into_string));
        }
        if let (Some(before), Seen::Whole(after)) = (&self.whole, &look.seen) {
            let manifests = before.fingerprint.other_manifests(after);
            paths.extend(manifests.map(str::to_owned));
        }
        if paths.is_empty() {
            // What an editor has put beside for a moment is not what people edited.
            let (there, gone): (Vec<_>, Vec<_>) =
                burst.paths.iter().partition(|path| path.exists());
            let told = if there.is_empty() { gone } else { there };
            let root = &self.workspace.root;
            let relative = told.into_iter().map(|path| path.strip_prefix(root));
            paths.extend(relative.flatten().map(ToString::to_string));
        }
        crate::report::say!("\n{:>12} {}", "edited", named(&paths));
    }

    fn cycle(&mut self, look: Look, begun: Instant) -> Result<()> {
        let Look {
            workspace,
            taken,
            seen,
            frozen,
        } = look;
        let fingerprint = match &seen {
            Seen::Whole(fingerprint) => Some(fingerprint.as_ref().clone()),
            Seen::Refused(_) => None,
        };
        if let (Some(frozen), Some(fingerprint)) = (frozen, fingerprint.clone()) {
            self.whole = Some(Whole {
                frozen,
                fingerprint,
            });
        }
        let since = if self.last.is_none() { "run" } else { "edit" };
        let target = workspace.target(self.target.as_str())?;
        let before = self.before(fingerprint.as_ref())?;
        let mut cycle = Some(Cycle::new(begun, since, fingerprint, before));
        let (options, pause) = (&self.options, &self.pause);
        let session = Session::of_cycle(&workspace, target, options, pause, &mut cycle, taken);
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                self.standing = cycle.and_then(Cycle::given_up);
                return Err(error);
            }
        };
        let (standing, ended) = session.go_through();
        self.standing = standing;
        self.last = Some(seen);
        self.workspace = workspace;
        // Once is enough to prove that a build is reproducible.
        self.options.no_cache = false;
        match ended {
            Err(error) if is_signal(&error) => Err(error),
            Err(error) => {
                report::error(&error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What becomes of the deployment that stands.
    fn before(&mut self, now: Option<&Fingerprint>) -> Result<Before> {
        let Some(standing) = &self.standing else {
            return Ok(Before::Nothing);
        };
        let change = now.map_or(Change::Part, |now| change(&standing.fingerprint, now));
        if change == Change::Part {
            standing.put_aside()?;
        }
        let standing = self.standing.take().map(Box::new);
        Ok(match (standing, change) {
            (None, _) => Before::Nothing,
            (Some(standing), Change::Part) => Before::TakenOver(standing),
            (Some(standing), Change::Whole(why)) => {
                report::note(&format!("everything is deployed anew: {why}"));
                Before::Beside(standing)
            }
        })
    }
}

/// The first few, and how many more.
fn named(paths: &[String]) -> String {
    let first = paths.iter().take(NAMED_MAX);
    let mut text = first.cloned().collect::<Vec<_>>().join(", ");
    match paths.len().checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => text.push_str(&format!(" and {more} more")),
        _ if paths.is_empty() => text.push_str("something that no path tells"),
        _ => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_line_names_a_few_files() {
        let paths =
            |names: &[&str]| named(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(paths(&["a"]), "a");
        assert_eq!(paths(&["a", "b", "c"]), "a, b, c");
        assert_eq!(paths(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
        assert_eq!(paths(&[]), "something that no path tells");
    }
}
