//! Reads one source file, once: its bytes, what it is, and proof that it did not change meanwhile.
//! Refuses everything that is neither a file nor a link, and says what to do about it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};

/// What tells one state of a file from another without reading it. The kernel sets the change
/// time at each write, rename and chmod, and offers no way to set it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    length_bytes: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what was asked of a file.
    pub(crate) fn of(metadata: &Metadata) -> Self {
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

/// Something at a path that cannot be hashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    path: Utf8PathBuf,
    what: String,
    fix: String,
}

impl Problem {
    pub(crate) fn new(path: &Utf8Path, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            what: what.into(),
            fix: fix.into(),
        }
    }
}

/// All of them together, or nothing.
pub(crate) fn refuse(mut problems: Vec<Problem>) -> Result<(), Failure> {
    problems.sort();
    problems.dedup();
    let Some(first) = problems.first() else {
        return Ok(());
    };
    let line = |problem: &Problem| format!("{} {}", problem.path, problem.what);
    if problems.len() == 1 {
        return Err(Failure::new(Exit::Source, line(first)).hint(&first.fix));
    }
    let mut message = format!("{} sources cannot be hashed", problems.len());
    for problem in &problems {
        message.push_str(&format!("\n  {} (fix: {})", line(problem), problem.fix));
    }
    Err(Failure::new(Exit::Source, message))
}

/// What lies at a path.
#[derive(Debug)]
pub(crate) enum Node {
    /// A file.
    File {
        bytes: Vec<u8>,
        stamp: Stamp,
        executable: bool,
    },
    /// A symbolic link, and what is written in it.
    Link(Utf8PathBuf),
    /// A folder.
    Folder,
    /// Nothing: git knows files that are deleted.
    Missing,
}

/// Looks at a path without following a link at its end.
pub(crate) fn look(root: &Utf8Path, path: &Utf8Path) -> Result<Option<Metadata>, Problem> {
    match root.join(path).symlink_metadata() {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads what lies at `path` below `root`.
pub(crate) fn read(root: &Utf8Path, path: &Utf8Path) -> Result<Node, Problem> {
    let Some(metadata) = look(root, path)? else {
        return Ok(Node::Missing);
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Ok(Node::Folder);
    }
    if kind.is_symlink() {
        let target =
            std::fs::read_link(root.join(path)).map_err(|error| unreadable(path, &error))?;
        return Utf8PathBuf::from_path_buf(target)
            .map(Node::Link)
            .map_err(|target| {
                let what = format!("is a link to {}, which is not UTF-8", target.display());
                Problem::new(path, what, "rename what it leads to")
            });
    }
    if !kind.is_file() {
        let what = format!("is a {}", special_name(kind));
        return Err(Problem::new(path, what, SPECIAL_FIX));
    }
    read_file(root, path)
}

const SPECIAL_FIX: &str = "remove it, or name it in .gitignore";

fn special_name(kind: std::fs::FileType) -> &'static str {
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

/// What a source can be.
pub(crate) fn is_usual(kind: std::fs::FileType) -> bool {
    kind.is_file() || kind.is_dir() || kind.is_symlink()
}

/// Names what can be in a folder and in no build: a socket, a pipe, a device.
pub(crate) fn special(path: &Utf8Path, kind: std::fs::FileType) -> Option<Problem> {
    (!is_usual(kind))
        .then(|| Problem::new(path, format!("is a {}", special_name(kind)), SPECIAL_FIX))
}

fn read_file(root: &Utf8Path, path: &Utf8Path) -> Result<Node, Problem> {
    let failed = |error: io::Error| unreadable(path, &error);
    let changed = || {
        Problem::new(
            path,
            "changed while it was read",
            "run again when nothing writes to it",
        )
    };
    // Whatever has taken the file's place since it was looked at is neither followed nor waited for.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(root.join(path));
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if is_missing(&error) => return Ok(Node::Missing),
        Err(error) => return Err(failed(error)),
    };
    let before = file.metadata().map_err(failed)?;
    if !before.is_file() {
        return Err(changed());
    }
    let bytes = read_bytes(&mut file, before.len()).map_err(failed)?;
    let after = Stamp::of(&file.metadata().map_err(failed)?);
    let stamp = Stamp::of(&before);
    if stamp != after || bytes.len() as u64 != before.len() {
        return Err(changed());
    }
    Ok(Node::File {
        bytes,
        stamp,
        executable: before.permissions().mode() & 0o100 != 0,
    })
}

fn read_bytes(file: &mut File, length_bytes: u64) -> io::Result<Vec<u8>> {
    // One more than there should be, so that the end is seen without growing.
    let capacity = usize::try_from(length_bytes)
        .unwrap_or(usize::MAX)
        .saturating_add(1);
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity)?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn unreadable(path: &Utf8Path, error: &io::Error) -> Problem {
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => format!("chmod u+r {path}"),
        _ => "make it readable, or remove it".to_owned(),
    };
    Problem::new(path, format!("cannot be read: {error}"), fix)
}
