//! Reads one file that rests, once, with as few system calls as prove that it did not change
//! meanwhile.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use rustix::fs::{Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::path::Arg;
use serde::{Deserialize, Serialize};

use crate::rest::{self, Pause, Restless};

/// What tells one state of a file from another without reading it. The kernel sets the change
/// time at each write, rename and chmod, and offers no way to set it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    length_bytes: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what was asked of a file.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length_bytes: metadata.len(),
            mode: metadata.mode(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Of its two times the later one, since 1970.
    pub(crate) fn youngest_nanoseconds(&self) -> i128 {
        let (seconds, nanoseconds) = self.modified.max(self.changed);
        i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds)
    }

    /// Of what the kernel told.
    pub(crate) fn of_stat(stat: &Stat) -> Self {
        // The kernel's types differ between machines; none of these values is that large.
        let nanoseconds = |value| i64::try_from(value).unwrap_or_default();
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            length_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            mode: stat.st_mode,
            modified: (stat.st_mtime, nanoseconds(stat.st_mtime_nsec)),
            changed: (stat.st_ctime, nanoseconds(stat.st_ctime_nsec)),
        }
    }
}

/// What lies where a plain file is expected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Plain {
    /// A file, whose bytes were read.
    File {
        /// As it was when it was opened, and when all of it had been read.
        stamp: Stamp,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A file that was written to just now, or while it was read: what was read of it means nothing.
    Restless(Restless),
    /// Something else.
    Other,
}

/// What lies at a path.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A file, whose bytes were read.
    File {
        /// As it was when it was opened, and when all of it had been read.
        stamp: Stamp,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A file that was written to over and over; what was read of it means nothing.
    Changed,
    /// A symbolic link.
    Link,
    /// A folder.
    Folder,
    /// A socket, a named pipe or a device.
    Special(FileType),
    /// Nothing.
    Missing,
}

/// Looks at a path and, if a file lies there, reads it into `bytes`, whatever was in there before.
/// A link at the end of the path is not followed, and nothing is waited for but that a file that
/// was written to just now rests.
///
/// # Errors
/// What opening and reading give, but for a path that leads nowhere.
pub fn read(path: &Path, bytes: &mut Vec<u8>, pause: Pause<'_>) -> io::Result<Found> {
    let begun = Instant::now();
    let mut opened = read_plain(rustix::fs::CWD, path, bytes, None);
    while let Ok(Plain::Restless(before)) = opened {
        if !rest::wait([before], begun, pause) {
            return Ok(Found::Changed);
        }
        opened = read_plain(rustix::fs::CWD, path, bytes, Some(before));
    }
    match opened {
        Ok(Plain::File { stamp, executable }) => Ok(Found::File { stamp, executable }),
        Ok(Plain::Restless(_)) => Ok(Found::Changed),
        Ok(Plain::Other) => match path.symlink_metadata() {
            Ok(metadata) => Ok(told(metadata.file_type())),
            Err(error) if is_missing(&error) => Ok(Found::Missing),
            Err(error) => Err(error),
        },
        Err(error) => unopened(path, error),
    }
}

/// Opens a name in a folder and, if it is a plain file that rests, reads it; `before` is how it was
/// seen when it last did not.
pub(crate) fn read_plain(
    folder: BorrowedFd<'_>,
    name: impl Arg,
    bytes: &mut Vec<u8>,
    before: Option<Restless>,
) -> io::Result<Plain> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?);
    let opened = rustix::fs::fstat(&file)?;
    if !rustix::fs::FileType::from_raw_mode(opened.st_mode).is_file() {
        return Ok(Plain::Other);
    }
    let stamp = Stamp::of_stat(&opened);
    // Equal stamps would not tell of a write that goes on now.
    if let Some(restless) = Restless::look(stamp, before) {
        return Ok(Plain::Restless(restless));
    }
    let complete = fill(&mut file, stamp.length_bytes, bytes)?;
    // Of a file that rested, equal stamps say that nothing was written, cut or added since: the
    // end need not be read.
    let read = Stamp::of_stat(&rustix::fs::fstat(&file)?);
    if !complete || read != stamp {
        return Ok(Plain::Restless(Restless::written(read)));
    }
    Ok(Plain::File {
        stamp,
        executable: opened.st_mode & 0o100 != 0,
    })
}

/// What is no plain file.
fn told(kind: FileType) -> Found {
    if kind.is_dir() {
        Found::Folder
    } else if kind.is_symlink() {
        Found::Link
    } else if kind.is_file() {
        // Somebody put it in the place of another thing since that was opened.
        Found::Changed
    } else {
        Found::Special(kind)
    }
}

/// What cannot be opened may still be told: a link (`ELOOP`), a socket (`ENXIO`), or what may not
/// be read.
fn unopened(path: &Path, error: io::Error) -> io::Result<Found> {
    if is_missing(&error) {
        return Ok(Found::Missing);
    }
    let kind = match path.symlink_metadata() {
        Ok(metadata) => metadata.file_type(),
        Err(gone) if is_missing(&gone) => return Ok(Found::Missing),
        Err(_) => return Err(error),
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // What may not be read is told as that.
        Some(error_number)
            if kind.is_file() && ![Errno::LOOP, Errno::NXIO].contains(&error_number) =>
        {
            Err(error)
        }
        _ => Ok(told(kind)),
    }
}

/// Whether so many bytes could be read.
fn fill(file: &mut File, length_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let Ok(length) = usize::try_from(length_bytes) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    // What was in there before is overwritten: it need not be cleared for every file.
    bytes.try_reserve_exact(length.saturating_sub(bytes.len()))?;
    bytes.resize(length, 0);
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Nothing is there: neither the name nor the folder that it should be in.
#[must_use]
pub fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixListener;

    use super::{Found, read};
    use crate::rest::tests::pause;

    #[test]
    fn each_kind_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "abc").unwrap();
        fs::write(path("empty"), "").unwrap();
        fs::set_permissions(path("empty"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let mut bytes = b"what was there before".to_vec();
        let mut found = |name: &str| {
            let found = read(&path(name), &mut bytes, &pause).unwrap();
            match found {
                Found::File { executable, .. } => {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    format!("file {text:?} {executable}")
                }
                Found::Special(_) => "special".to_owned(),
                other => format!("{other:?}"),
            }
        };
        assert_eq!(found("file"), "file \"abc\" false");
        assert_eq!(found("empty"), "file \"\" true");
        assert_eq!(found("folder"), "Folder");
        assert_eq!(found("link"), "Link");
        assert_eq!(found("dangling"), "Link");
        assert_eq!(found("socket"), "special");
        assert_eq!(found("pipe"), "special");
        assert_eq!(found("absent"), "Missing");
        assert_eq!(found("file/below"), "Missing");
    }
}
