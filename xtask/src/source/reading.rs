//! Reads one source file, once, when it rests: its bytes, what it is, and proof that it did not change
//! meanwhile. Refuses everything that is neither a file nor a link, and says what to do about it.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use hashing::file::{self, Found, Stamp};
use rustix::io::Errno;

use crate::exit::{Exit, Failure};
use crate::poll;
use crate::process::interrupt;

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

/// All of them together, or nothing; an interruption, which may have made them.
pub(crate) fn refuse(mut problems: Vec<Problem>) -> Result<()> {
    problems.sort();
    problems.dedup();
    let Some(first) = problems.first() else {
        return Ok(());
    };
    interrupt::check()?;
    let line = |problem: &Problem| format!("{} {}", problem.path, problem.what);
    if problems.len() == 1 {
        return Err(Failure::new(Exit::Source, line(first))
            .hint(&first.fix)
            .into());
    }
    let mut message = format!("{} sources cannot be hashed", problems.len());
    for problem in &problems {
        message.push_str(&format!("\n  {} (fix: {})", line(problem), problem.fix));
    }
    Err(Failure::new(Exit::Source, message).into())
}

/// What lies at a path, and can be hashed.
#[derive(Debug)]
pub(crate) enum Node {
    /// A file; its bytes are in the buffer.
    File { stamp: Stamp, executable: bool },
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
        Err(error) if file::is_missing(&error) => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// Reads what lies at `path` below `root`; the bytes of a file into `buffer`.
pub(crate) fn read(
    root: &Utf8Path,
    path: &Utf8Path,
    buffer: &mut Vec<u8>,
) -> Result<Node, Problem> {
    let absolute = root.join(path);
    let found = file::read(absolute.as_std_path(), buffer, &pause);
    match found.map_err(|error| unreadable(path, &error))? {
        Found::File { stamp, executable } => Ok(Node::File { stamp, executable }),
        Found::Folder => Ok(Node::Folder),
        Found::Missing => Ok(Node::Missing),
        Found::Special(kind) => Err(Problem::new(
            path,
            format!("is a {}", special_name(kind)),
            SPECIAL_FIX,
        )),
        Found::Changed => Err(changed(path)),
        Found::Link => {
            let target = std::fs::read_link(&absolute).map_err(|error| unreadable(path, &error))?;
            Utf8PathBuf::from_path_buf(target)
                .map(Node::Link)
                .map_err(|target| {
                    let what = format!("is a link to {}, which is not UTF-8", target.display());
                    Problem::new(path, what, "rename what it leads to")
                })
        }
    }
}

/// The text of a file, at the end of any links.
///
/// # Errors
/// What opening and reading give, and for a file that is written to over and over.
pub(crate) fn text(path: &Utf8Path) -> Result<String> {
    let mut bytes = Vec::new();
    let mut found = file::read(path.as_std_path(), &mut bytes, &pause)?;
    if matches!(found, Found::Link) {
        found = file::read(&path.as_std_path().canonicalize()?, &mut bytes, &pause)?;
    }
    match found {
        Found::File { .. } => Ok(String::from_utf8(bytes)?),
        Found::Missing => Err(io::Error::from(Errno::NOENT).into()),
        Found::Changed => anyhow::bail!("{CHANGED}"),
        Found::Link | Found::Folder | Found::Special(_) => anyhow::bail!("is no file"),
    }
}

/// Lets a file rest, unless a signal came: then nothing is waited for.
pub(crate) fn pause(time: Duration) -> bool {
    poll::pause(time).is_ok()
}

const CHANGED: &str = "changed while it was read";

/// A file that was written to while it was read.
pub(crate) fn changed(path: &Utf8Path) -> Problem {
    Problem::new(path, CHANGED, "run again when nothing writes to it")
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

fn unreadable(path: &Utf8Path, error: &io::Error) -> Problem {
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => format!("chmod u+r {path}"),
        _ => "make it readable, or remove it".to_owned(),
    };
    Problem::new(path, format!("cannot be read: {error}"), fix)
}
