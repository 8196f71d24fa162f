//! Processes of containers that podman no longer knows. Where podman is killed between the start of
//! a process and the line in its own records, the container counts as never started: it is removed,
//! its process lives on, and no list tells of it. The process that watches over it still carries its
//! name, and the name begins with the run's ID.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use rustix::process::{Pid, Signal};

use crate::poll::{self, Look};

/// A killed process is gone at once, but for one that is stuck in the kernel.
const GONE_DEADLINE: Duration = Duration::from_secs(5);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const WATCHER: &str = "conmon";

/// A process that watches over one of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watcher {
    id: i32,
    /// The container.
    pub(crate) container: String,
}

/// Every one on this host that this user can see.
pub(crate) fn watchers() -> Vec<Watcher> {
    watchers_in(Path::new("/proc"))
}

fn watchers_in(processes: &Path) -> Vec<Watcher> {
    let ids = numbers_in(processes);
    ids.filter_map(|id| {
        let line = fs::read(processes.join(id.to_string()).join("cmdline")).ok()?;
        let container = watched(&line)?;
        Some(Watcher { id, container })
    })
    .collect()
}

fn numbers_in(folder: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// `/usr/bin/conmon ... -n <container> ...`, each word ended by a zero byte.
fn watched(line: &[u8]) -> Option<String> {
    let mut words = line.split(|byte| *byte == 0);
    let program = Path::new(std::str::from_utf8(words.next()?).ok()?);
    if program.file_name()? != WATCHER {
        return None;
    }
    let name = words.skip_while(|word| *word != b"-n").nth(1)?;
    String::from_utf8(name.to_vec()).ok()
}

/// Ends what containers of this run have left; to be called when the engine has none of them any
/// more. Gives the names of these containers.
///
/// # Errors
/// When one does not go.
pub(crate) fn end(run: &str) -> Result<Vec<String>> {
    let prefix = format!("{run}-");
    let mut left = watchers();
    left.retain(|watcher| watcher.container.starts_with(&prefix));
    for watcher in &left {
        let children = children_of(watcher.id);
        // The watcher first: it would tell podman of the end, or start the process again.
        for id in [watcher.id].into_iter().chain(children) {
            kill(id)?;
        }
    }
    Ok(left.into_iter().map(|watcher| watcher.container).collect())
}

fn children_of(parent: i32) -> Vec<i32> {
    let ids = numbers_in(Path::new("/proc"));
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

/// `1234 (name) S 1 ...`, see proc(5); a name may hold anything.
fn stat(id: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

fn parent_of(id: i32) -> Option<i32> {
    stat(id)?.split(' ').nth(1)?.parse().ok()
}

fn kill(id: i32) -> Result<()> {
    let Some(process) = Pid::from_raw(id) else {
        return Ok(());
    };
    // It may have gone by itself.
    let _ = rustix::process::kill_process(process, Signal::KILL);
    poll::until(
        "end of a left process",
        GONE_DEADLINE,
        LOOK_INTERVAL,
        || {
            // Z: ended, and not reaped yet.
            Ok(match stat(id).filter(|stat| !stat.starts_with('Z')) {
                None => Look::Found(()),
                Some(stat) => Look::NotYet(format!("process {id} is there, state {stat:.1}")),
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Watcher, watched, watchers_in};

    #[test]
    fn a_watcher_tells_its_container() {
        let folder = tempfile::tempdir().unwrap();
        for (id, line) in [
            (
                "7",
                "/usr/bin/conmon\0--api-version\0-n\0gateway-1-postgres-0\0-x\0",
            ),
            ("8", "/usr/bin/podman\0run\0-n\0other\0"),
            ("9", "/usr/bin/conmon\0--version\0"),
            ("self", "/usr/bin/conmon\0-n\0none\0"),
        ] {
            fs::create_dir(folder.path().join(id)).unwrap();
            fs::write(folder.path().join(id).join("cmdline"), line).unwrap();
        }
        let container = "gateway-1-postgres-0".to_owned();
        assert_eq!(watchers_in(folder.path()), [Watcher { id: 7, container }]);
        assert_eq!(watched(b""), None);
    }
}
