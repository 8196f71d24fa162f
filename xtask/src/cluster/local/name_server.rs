//! podman's networks share one name server, which ends when the last container of all of them has
//! gone. A container that is started at that moment, by another command than the one that removed
//! the last, is told to a server that hears no more; nobody starts another, and no service finds
//! its database. So it is looked at while services are waited for, and started again where it is
//! dead. A process that has ended and that nobody has reaped yet counts as dead here; for podman it
//! lives.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::{Planned, make};
use crate::engine::{Engine, EngineKind};
use crate::host;
use crate::manifest::Seen;
use crate::poll;
use crate::report;

const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// One that dies again is not dead by chance.
const REVIVALS_MAX: usize = 3;
/// As netavark names program and files.
const PROGRAM: &str = "aardvark-dns";
const PID_FILE: &str = "aardvark.pid";

/// Keeps it alive until `done`. What goes wrong is noted: the wait for readiness decides.
pub(super) fn keep(
    engine: &Engine,
    network: &str,
    containers: &[Planned<Seen>],
    done: &AtomicBool,
) {
    let (Some(folder), Some(container)) = (folder(), containers.first()) else {
        return;
    };
    if engine.kind != EngineKind::Podman {
        return;
    }
    let mut revivals = 0;
    while !done.load(Ordering::Relaxed) && revivals < REVIVALS_MAX {
        if is_dead(&folder, network, Utf8Path::new("/proc")) {
            revivals += 1;
            match revive(engine, &folder, network, &container.name) {
                Ok(()) => report::note("podman's name server had ended, and was started again"),
                Err(error) => report::note(&format!("podman has no name server: {error:#}")),
            }
        }
        if poll::pause(LOOK_INTERVAL).is_err() {
            return;
        }
    }
}

/// Where netavark keeps one file for each network, and the number of the server's process.
fn folder() -> Option<Utf8PathBuf> {
    let base = if rustix::process::geteuid().is_root() {
        Utf8PathBuf::from("/run")
    } else {
        Utf8PathBuf::from(std::env::var("XDG_RUNTIME_DIR").ok()?)
    };
    Some(base.join("containers/networks").join(PROGRAM))
}

/// The network has names to be told, and there is nobody to tell them.
fn is_dead(folder: &Utf8Path, network: &str, processes: &Utf8Path) -> bool {
    if !folder.join(network).exists() {
        return false;
    }
    let Ok(id) = fs::read_to_string(folder.join(PID_FILE)) else {
        return true;
    };
    // `1234 (name) S ...`, see proc(5); Z: ended, and not reaped.
    let stat = fs::read_to_string(processes.join(id.trim()).join("stat")).unwrap_or_default();
    let state = stat.split_once(&format!("({PROGRAM}) "));
    state.is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// A reload of one container starts the server, which reads the files of all networks.
fn revive(engine: &Engine, folder: &Utf8Path, network: &str, container: &str) -> Result<()> {
    let _lock = host::lock("name-server")?;
    if !is_dead(folder, network, Utf8Path::new("/proc")) {
        return Ok(());
    }
    let file = folder.join(PID_FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {file}"));
        }
        _ => {}
    }
    let reload = engine.invocation().args(["network", "reload", container]);
    make(&reload)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use camino::Utf8Path;

    use super::{PID_FILE, is_dead};

    #[test]
    fn a_server_is_dead_when_it_has_ended_whoever_reaps_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let processes = folder.join("proc");
        fs::create_dir_all(processes.join("7")).unwrap();
        let dead = || is_dead(folder, "net", &processes);
        assert!(!dead(), "nobody wants one");
        fs::write(folder.join("net"), "").unwrap();
        assert!(dead(), "there is none");
        fs::write(folder.join(PID_FILE), "7\n").unwrap();
        for (stat, expected) in [
            ("7 (aardvark-dns) S 1 7 7", false),
            ("7 (aardvark-dns) Z 1 7 7", true),
            ("7 (bash) S 1 7 7", true),
        ] {
            fs::write(processes.join("7/stat"), stat).unwrap();
            assert_eq!(dead(), expected, "{stat}");
        }
        fs::remove_dir_all(processes.join("7")).unwrap();
        assert!(dead(), "its process is gone");
    }
}
