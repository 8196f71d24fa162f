//! The machine: programs on PATH, the folder for caches, and stamps that tell whether a file is
//! still the one that was looked at. Asks nothing of the network and starts no
//! process.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::poll::{self, Look};
use crate::process::{self, Invocation};
use crate::report;

pub mod diverted;
pub mod needs;
pub mod room;
pub mod watchers;

/// Longer than anything that is done under a lock.
const LOCK_DEADLINE: Duration = Duration::from_secs(1500);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// PATH, without the folders whose names are no UTF-8: the others count all the same.
#[must_use]
pub fn path() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    utf8_folders(&path)
}

fn utf8_folders(path: &OsStr) -> String {
    let folders = path.as_bytes().split(|byte| *byte == b':');
    let folders: Vec<&str> = folders.filter_map(|one| str::from_utf8(one).ok()).collect();
    folders.join(":")
}

/// The program of this name: on PATH, or in the folders for administration, which PATH often lacks.
#[must_use]
pub fn program(name: &str) -> Option<Utf8PathBuf> {
    path()
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|folder| Utf8Path::new(folder).join(name))
        .find(|candidate| is_executable(candidate))
}

/// A helper of podman: these folders are searched before PATH.
#[must_use]
pub fn podman_helper(name: &str) -> Option<Utf8PathBuf> {
    [
        "/usr/local/libexec/podman",
        "/usr/local/lib/podman",
        "/usr/libexec/podman",
        "/usr/lib/podman",
    ]
    .iter()
    .map(|folder| Utf8Path::new(folder).join(name))
    .find(|candidate| is_executable(candidate))
    .or_else(|| program(name))
}

/// What a program, or one of podman's helpers, says of its version: its first line.
#[must_use]
pub fn version(name: &str) -> Option<String> {
    const DEADLINE: Duration = Duration::from_secs(5);
    let program = podman_helper(name)?;
    let ask = Invocation::new(program.as_str()).arg("--version");
    let told = process::output(&ask, DEADLINE).ok()?;
    let first = told.stdout.lines().next()?.trim();
    (told.code == 0 && !first.is_empty()).then(|| first.to_owned())
}

fn is_executable(path: &Utf8Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// `$XDG_CACHE_HOME/phase-zero`, made if need be: what is true of the machine, not of a checkout.
///
/// # Errors
/// When neither XDG_CACHE_HOME nor HOME is set, or the folder cannot be made.
pub fn cache_directory() -> Result<Utf8PathBuf> {
    let absolute = |name: &str| {
        std::env::var(name)
            .ok()
            .map(Utf8PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let directory = absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set to an absolute path")?
        .join("phase-zero");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {directory}"))?;
    Ok(directory)
}

/// Changes with every boot; empty where the kernel does not tell.
#[must_use]
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// A file as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    path: Utf8PathBuf,
    /// Inode, size in bytes, mtime and ctime in nanoseconds; nothing for a file that is not there.
    seen: Option<(u64, u64, i128, i128)>,
}

/// Looks at a file.
#[must_use]
pub fn stamp(path: impl Into<Utf8PathBuf>) -> Stamp {
    let path = path.into();
    let nanoseconds =
        |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let seen = fs::metadata(&path).ok().map(|file| {
        (
            file.ino(),
            file.size(),
            nanoseconds(file.mtime(), file.mtime_nsec()),
            nanoseconds(file.ctime(), file.ctime_nsec()),
        )
    });
    Stamp { path, seen }
}

/// What a cache holds, or nothing when it holds nothing readable: then it is made anew.
#[must_use]
pub fn read_cached<T: DeserializeOwned>(path: &Utf8Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a cache, all at once.
///
/// # Errors
/// When it cannot be written.
pub fn write_cached<T: Serialize>(path: &Utf8Path, value: &T) -> Result<()> {
    write_atomically(path, &serde_json::to_vec_pretty(value)?)
}

/// Writes a file that is there whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_atomically(path: &Utf8Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {path}"))
}

/// As [`lock`], if nobody holds it.
///
/// # Errors
/// When the file cannot be opened or locked.
pub fn try_lock(name: &str) -> Result<Option<File>> {
    let (path, file) = open_lock(name)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {path}"))
        }
    }
}

fn open_lock(name: &str) -> Result<(Utf8PathBuf, File)> {
    let path = cache_directory()?.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {path}"))?;
    Ok((path, file))
}

/// A lock among all commands of this user; let go when the value is dropped or the process ends.
/// Whoever waits is told what for, and can be interrupted.
///
/// # Errors
/// When the lock cannot be had: the file cannot be opened, a signal came, or nobody let go in time.
pub fn lock(name: &str) -> Result<File> {
    let (path, file) = open_lock(name)?;
    let begun = Instant::now();
    let mut told = false;
    poll::until("free lock", LOCK_DEADLINE, LOCK_INTERVAL, || {
        match file.try_lock() {
            Ok(()) => return Ok(Look::Found(())),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {path}"));
            }
        }
        let waiting = format!("another command holds {path}");
        if !told && begun.elapsed() > Duration::from_secs(1) {
            report::note(&waiting);
            told = true;
        }
        Ok(Look::NotYet(waiting))
    })?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::utf8_folders;

    #[test]
    fn a_folder_of_any_name_hides_no_other() {
        let path = OsStr::from_bytes(b"/one:/no/\xff:/two:");
        assert_eq!(utf8_folders(path), "/one:/two:");
        assert_eq!(utf8_folders(OsStr::new("")), "");
    }
}
