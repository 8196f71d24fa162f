//! A docker server of our own, where docker is installed and no server runs: with socket and data
//! folder of its own, for the time of one command. It leaves nothing behind. Where a command was
//! killed, its server may live on, with containers: the next command ends it and starts one on the
//! same folder, which ends those containers, removes what dead runs left, and then the folder.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::docker;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::poll::{self, Look};
use crate::process::interrupt::Shield;
use crate::process::{Background, Invocation};
use crate::report;

const SERVER: &str = "dockerd";
const CONTAINERD: &str = "containerd";
/// A server makes its keys and its network rules before it answers.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long processes that were told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(50);
/// The longest path of a socket, see unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Where the server of this command listens, as DOCKER_HOST says it.
static LISTENS_AT: Mutex<Option<String>> = Mutex::new(None);

/// What DOCKER_HOST must be, if this command has a server of its own.
pub(super) fn own_server() -> Option<String> {
    LISTENS_AT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn listens_at(address: Option<String>) {
    *LISTENS_AT.lock().unwrap_or_else(PoisonError::into_inner) = address;
}

/// A server of our own. It ends with this value.
#[derive(Debug)]
pub struct OwnServer {
    server: Option<Background>,
    folder: Utf8PathBuf,
    _lock: File,
}

/// Whether one is needed, and could be started: the server's program is there, and we are root.
#[must_use]
pub fn is_wanted() -> bool {
    host::program(SERVER).is_some() && rustix::process::getuid().is_root() && !docker::has_server()
}

impl OwnServer {
    /// Starts one; waits for another command's to end.
    ///
    /// # Errors
    /// [`Exit::Host`] when it does not come up, with its own last words.
    pub fn start() -> Result<Self> {
        // Two would take each other's rules of the packet filter for left ones.
        Self::start_with(host::lock(SERVER)?)
    }

    /// Starts one when a command that was killed has left its own, so that what its runs left can
    /// be removed; nothing when there is none, or its command lives.
    ///
    /// # Errors
    /// As [`OwnServer::start`].
    pub fn recover() -> Result<Option<Self>> {
        if !folder()?.exists() {
            return Ok(None);
        }
        let lock = host::try_lock(SERVER)?;
        lock.map(Self::start_with).transpose()
    }

    fn start_with(lock: File) -> Result<Self> {
        let program = host::program(SERVER).context("dockerd is not installed")?;
        let folder = folder()?;
        // What it has started beside itself is left to the next server, which ends containers that
        // nobody knows better than it does.
        end(&folder, &[SERVER], Signal::TERM)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {folder}"))?;
        let mut own = Self {
            server: None,
            folder,
            _lock: lock,
        };
        own.bring_up(&program)?;
        Ok(own)
    }

    fn bring_up(&mut self, program: &Utf8Path) -> Result<()> {
        let folder = &self.folder;
        let socket = folder.join("sock");
        // What killed processes wrote there keeps the next from starting.
        let mut left = vec!["pid", "sock"];
        if processes_of(folder, &[CONTAINERD]).is_empty() {
            left.push("exec/containerd/containerd.pid");
        }
        for name in left {
            let path = folder.join(name);
            if path.exists() {
                fs::remove_file(&path).with_context(|| format!("cannot remove {path}"))?;
            }
        }
        if socket.as_str().len() > SOCKET_PATH_MAX {
            let message = format!("{socket} is too long for a socket");
            return Err(Failure::new(Exit::Host, message)
                .hint("set XDG_CACHE_HOME to a folder with a shorter name")
                .into());
        }
        let address = format!("unix://{socket}");
        let dockerd = Invocation::new(program.as_str())
            .arg(format!("--host={address}"))
            .arg(format!("--data-root={folder}/data"))
            .arg(format!("--exec-root={folder}/exec"))
            .arg(format!("--pidfile={folder}/pid"))
            // Each run makes a network of its own.
            .args(["--bridge=none", "--log-level=warn"]);
        let server = self
            .server
            .insert(Background::start(&dockerd, &folder.join("log"))?);
        listens_at(Some(address));
        poll::until("docker server", START_DEADLINE, INTERVAL, || {
            server.check()?;
            match docker::has_server() {
                true => Ok(Look::Found(())),
                false => Ok(Look::NotYet("it does not answer".to_owned())),
            }
        })
        .map_err(|error| {
            if report::is_signal(&error) {
                return error;
            }
            Failure::new(Exit::Host, "a docker server of our own does not come up")
                .hint("start docker yourself, or use `--engine podman`")
                .caused_by(error)
                .into()
        })
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _shield = Shield::raise();
        listens_at(None);
        // Before the child's own end, which would not wait for its containers.
        if let Err(error) = remove(&self.folder) {
            report::note(&format!("{error:#}"));
        }
    }
}

fn folder() -> Result<Utf8PathBuf> {
    Ok(host::cache_directory()?.join(SERVER))
}

/// Ends what still works on this folder, and removes it.
fn remove(folder: &Utf8Path) -> Result<()> {
    end_all(folder)?;
    unmount_all(folder);
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {folder}"))
}

/// TERM to the server, which ends its containers and all that it has started; then KILL.
fn end_all(folder: &Utf8Path) -> Result<()> {
    const ALL: [&str; 3] = [SERVER, CONTAINERD, "containerd-shim-runc-v2"];
    end(folder, &[SERVER], Signal::TERM).or_else(|_| end(folder, &[SERVER], Signal::KILL))?;
    end(folder, &ALL, Signal::KILL)
}

/// Tells these programs to end, as far as they work on this folder, and waits until they have.
/// Each is told once: a server that is told three times ends without its containers.
fn end(folder: &Utf8Path, programs: &[&str], signal: Signal) -> Result<()> {
    for pid in processes_of(folder, programs) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
    poll::until("end of a docker server", END_DEADLINE, INTERVAL, || {
        let left = processes_of(folder, programs);
        Ok(match left.len() {
            0 => Look::Found(()),
            count => Look::NotYet(format!("{count} processes live")),
        })
    })
}

/// They name the folder on their command line.
fn processes_of(folder: &Utf8Path, programs: &[&str]) -> Vec<Pid> {
    let Ok(entries) = Utf8Path::new("/proc").read_dir_utf8() else {
        return Vec::new();
    };
    let below = format!("{folder}/");
    let is_one = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        let program = line.split('\0').next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default();
        programs.contains(&name) && line.contains(&below)
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().parse().ok())
        .filter(is_one)
        .filter_map(Pid::from_raw)
        .collect()
}

/// What a killed server left mounted, the innermost first.
fn unmount_all(folder: &Utf8Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = format!("{folder}/");
    let points: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|point| point.starts_with(&below))
        .collect();
    for point in points.into_iter().rev() {
        // What stays mounted is told when the folder cannot be removed.
        let _ = rustix::mount::unmount(point, UnmountFlags::DETACH);
    }
}
