//! Reads one file, once, with as few system calls as prove that it did not change meanwhile.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

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
    /// A file that was written to while it was read; what was read of it means nothing.
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
/// A link at the end of the path is not followed, and nothing is waited for.
///
/// # Errors
/// What opening and reading give, but for a path that leads nowhere.
pub fn read(path: &Path, bytes: &mut Vec<u8>) -> io::Result<Found> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return unopened(path, error),
    };
    let before = file.metadata()?;
    let kind = before.file_type();
    if kind.is_dir() {
        return Ok(Found::Folder);
    }
    if !kind.is_file() {
        return Ok(Found::Special(kind));
    }
    let stamp = Stamp::of(&before);
    let complete = fill(&mut file, before.len(), bytes)?;
    // Equal stamps say that nothing was written, cut or added since: the end need not be read.
    if !complete || Stamp::of(&file.metadata()?) != stamp {
        return Ok(Found::Changed);
    }
    Ok(Found::File {
        stamp,
        executable: before.permissions().mode() & 0o100 != 0,
    })
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
        Some(Errno::LOOP) if kind.is_symlink() => Ok(Found::Link),
        // Somebody put another thing in its place between the two looks.
        Some(Errno::LOOP | Errno::NXIO) if kind.is_file() => Ok(Found::Changed),
        _ if kind.is_dir() => Ok(Found::Folder),
        _ if kind.is_symlink() => Ok(Found::Link),
        _ if !kind.is_file() => Ok(Found::Special(kind)),
        _ => Err(error),
    }
}

/// Whether so many bytes could be read.
fn fill(file: &mut File, length_bytes: u64, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let Ok(length) = usize::try_from(length_bytes) else {
        return Err(io::ErrorKind::OutOfMemory.into());
    };
    bytes.clear();
    bytes.try_reserve_exact(length)?;
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
            let found = read(&path(name), &mut bytes).unwrap();
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
