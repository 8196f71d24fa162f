//! Waits for edits: a watch on each folder where one can count, and the quiet after a burst of
//! events. It says that something happened; whether it matters, a snapshot decides. Events that
//! come before anybody waits for them are kept.
//!
//! A watcher is armed before the tree is read, and made anew for the next reading. So it needs no
//! account of folders that come and go, and nothing is lost between a reading and the wait.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use notify::event::{AccessKind, AccessMode};
use notify::{Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode};
use notify::{Watcher as _, recommended_watcher};

use crate::exit::{Exit, Failure};
use crate::process::interrupt;

/// So long nothing may happen before a burst counts as over: an editor that saves writes beside,
/// renames, and sets the mode.
const QUIET: Duration = Duration::from_millis(150);
/// So long a burst may last: something that writes all the time puts nobody off for ever.
const BURST_MAX: Duration = Duration::from_secs(2);
/// How often an interruption is looked for.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);
/// How many paths of a burst are kept, to be told.
const PATHS_MAX: usize = 16;
/// How often the folders may have become more while they were being watched.
const ROUNDS_MAX: u32 = 50;

/// Watches folders for as long as it lives.
#[derive(Debug)]
pub struct Watcher {
    noticed: Arc<Noticed>,
    folders_count: usize,
    _events: RecommendedWatcher,
}

/// A burst of events that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    /// When it began; events from before the wait count as its beginning.
    pub began: Instant,
    /// Some of what it was about, absolute, in the order of events. Empty when the kernel had lost
    /// count.
    pub paths: Vec<Utf8PathBuf>,
}

#[derive(Debug, Default)]
struct Noticed {
    events: Mutex<Events>,
    came: Condvar,
}

#[derive(Debug, Default)]
struct Events {
    first_and_last: Option<(Instant, Instant)>,
    paths: Vec<Utf8PathBuf>,
    broken: Option<notify::Error>,
}

impl Watcher {
    /// Watches every folder that `folders` tells, relative to `root`; asks again until it tells no
    /// more than are watched, so that a folder which appears meanwhile is watched too, or an event
    /// in the folder above tells of it.
    ///
    /// # Errors
    /// When a folder cannot be watched: a limit of the kernel is named with the setting that raises it.
    pub fn arm(
        root: &Utf8Path,
        mut folders: impl FnMut() -> Result<BTreeSet<Utf8PathBuf>>,
    ) -> Result<Self> {
        let noticed = Arc::new(Noticed::default());
        let told = Arc::clone(&noticed);
        let mut events = recommended_watcher(move |event| told.note(event))
            .map_err(|error| unwatched(root, error))?;
        // A link is followed by whoever reads the sources, and leads to another watched folder.
        let config = Config::default().with_follow_symlinks(false);
        events
            .configure(config)
            .map_err(|error| unwatched(root, error))?;
        let mut watched = BTreeSet::new();
        for _ in 0..ROUNDS_MAX {
            let wanted = folders()?;
            let missing: Vec<_> = wanted.difference(&watched).cloned().collect();
            if missing.is_empty() {
                return Ok(Self {
                    noticed,
                    folders_count: watched.len(),
                    _events: events,
                });
            }
            for folder in missing {
                let path = root.join(&folder);
                match events.watch(path.as_std_path(), RecursiveMode::NonRecursive) {
                    Ok(()) => drop(watched.insert(folder)),
                    // It has gone again: the next round does not tell it any more.
                    Err(_) if !path.is_dir() => {}
                    Err(error) => return Err(unwatched(&path, error)),
                }
            }
        }
        bail!("folders below {root} come faster than they can be watched")
    }

    /// How many folders are watched.
    #[must_use]
    pub const fn folders_count(&self) -> usize {
        self.folders_count
    }

    /// Waits for an event, then for the quiet after it. There is no deadline: it ends with an edit
    /// or with a signal.
    ///
    /// # Errors
    /// An interruption; the kernel tells no more events.
    pub fn wait(&self) -> Result<Burst> {
        let begun = Instant::now();
        let mut events = self.noticed.lock();
        loop {
            interrupt::check()?;
            if let Some(error) = events.broken.take() {
                return Err(error).context("no more edits are told");
            }
            let mut pause = CHECK_INTERVAL;
            if let Some((first, last)) = events.first_and_last {
                let began = first.max(begun);
                let left = over_at(began, last).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    let Events { paths, .. } = std::mem::take(&mut *events);
                    return Ok(Burst { began, paths });
                }
                pause = pause.min(left);
            }
            let waited = self.noticed.came.wait_timeout(events, pause);
            (events, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// When a burst is over that began and last was heard of then.
fn over_at(began: Instant, last: Instant) -> Instant {
    (last + QUIET).min(began + BURST_MAX)
}

impl Noticed {
    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, event: notify::Result<Event>) {
        let mut events = self.lock();
        match event {
            Ok(event) if !counts(&event) => return,
            Ok(event) => {
                let now = Instant::now();
                let first = events.first_and_last.map_or(now, |(first, _)| first);
                events.first_and_last = Some((first, now));
                for path in event.paths {
                    let path = Utf8PathBuf::from_path_buf(path);
                    let path = path.unwrap_or_else(|path| path.display().to_string().into());
                    if events.paths.len() < PATHS_MAX && !events.paths.contains(&path) {
                        events.paths.push(path);
                    }
                }
            }
            Err(error) => events.broken = Some(error),
        }
        self.came.notify_all();
    }
}

/// Whoever only reads has edited nothing; the snapshot reads every file.
fn counts(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

fn unwatched(path: &Utf8Path, error: notify::Error) -> anyhow::Error {
    let message = format!("edits in {path} cannot be watched");
    let raise = |setting: &str, value: u32| {
        format!("raise the limit of the kernel: sysctl fs.inotify.{setting}={value}")
    };
    let hint = match &error.kind {
        ErrorKind::MaxFilesWatch => Some(raise("max_user_watches", 524_288)),
        ErrorKind::Io(cause) if is_out_of_instances(cause) => {
            Some(raise("max_user_instances", 1024))
        }
        _ => None,
    };
    let failure = Failure::new(Exit::Host, message).caused_by(error);
    match hint {
        Some(hint) => failure.hint(hint).into(),
        None => failure.into(),
    }
}

/// What inotify_init(2) says when this user has too many of them.
fn is_out_of_instances(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use camino::Utf8Path;
    use notify::event::{AccessKind, AccessMode, CreateKind, MetadataKind, ModifyKind};
    use notify::{Event, EventKind};

    use super::{counts, over_at, unwatched};
    use crate::exit::{Exit, Failure};

    /// After how many milliseconds a burst is over, by the times of its events.
    #[track_caller]
    fn check(events: &[u64], over: u64) {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let began = at(events[0]);
        let heard = events
            .iter()
            .take_while(|&&event| {
                let before = events.iter().take_while(|&&other| other < event).last();
                before.is_none_or(|&before| at(event) < over_at(began, at(before)))
            })
            .last()
            .unwrap();
        assert_eq!(over_at(began, at(*heard)), at(over), "{events:?}");
    }

    #[test]
    fn a_burst_is_over_when_it_is_quiet() {
        check(&[0], 150);
        check(&[0, 10, 20], 170);
        check(&[0, 100, 200, 300], 450);
        check(&[0, 149], 299);
        // What comes later begins another one.
        check(&[0, 151], 150);
    }

    #[test]
    fn constant_writing_puts_nobody_off() {
        let constant: Vec<u64> = (0..100).map(|index| index * 100).collect();
        check(&constant, 2000);
    }

    #[test]
    fn reading_is_no_edit() {
        let event = |kind| counts(&Event::new(kind));
        assert!(!event(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(!event(EventKind::Access(AccessKind::Close(
            AccessMode::Read
        ))));
        assert!(event(EventKind::Access(AccessKind::Close(
            AccessMode::Write
        ))));
        assert!(event(EventKind::Create(CreateKind::File)));
        let mode = ModifyKind::Metadata(MetadataKind::Any);
        assert!(event(EventKind::Modify(mode)));
        assert!(event(EventKind::Other));
    }

    #[test]
    fn a_limit_of_the_kernel_is_named() {
        let told = |error: notify::Error| {
            let error = unwatched(Utf8Path::new("/a/b"), error);
            let failure = Failure::find(&error).unwrap();
            assert_eq!(failure.exit(), Exit::Host);
            assert!(failure.to_string().contains("/a/b"));
            failure.hint_text().unwrap_or_default().to_owned()
        };
        let limit = notify::Error::new(notify::ErrorKind::MaxFilesWatch);
        assert!(told(limit).contains("fs.inotify.max_user_watches"));
        let many = std::io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        assert!(told(notify::Error::io(many)).contains("fs.inotify.max_user_instances"));
        assert_eq!(told(notify::Error::generic("x")), "");
    }
}
