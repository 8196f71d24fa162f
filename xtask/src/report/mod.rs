//! What a run tells: lines on the terminal while it goes, `receipt.json`, `junit.xml` and
//! `report.html` when it ends. Talk goes to standard error; standard output belongs to data.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Error;
use camino::Utf8Path;
use console::Term;

use crate::exit::{Exit, Failure};
use crate::process::ProcessError;
use crate::threads::Several;

pub mod failure;
pub mod github;
pub(crate) mod html;
pub mod junit;
pub mod live;
pub mod receipt;
pub mod table;

/// A line on standard error. A terminal that has gone is no reason to leave a run's containers
/// behind, so nothing comes of a line that cannot be written.
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::report::write(format_args!("{}\n", format_args!($($arguments)*)))
    };
}
pub(crate) use say;

/// As [`say!`], without the end of the line.
macro_rules! say_part {
    ($($arguments:tt)*) => {
        $crate::report::write(format_args!($($arguments)*))
    };
}
pub(crate) use say_part;

pub(crate) fn write(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = live::above(text.ends_with('\n'), || {
        io::stderr().write_all(text.as_bytes())
    });
}

/// How wide the terminal is; what has no width is taken for a wide one.
pub(crate) fn columns() -> usize {
    const COLUMNS_ELSEWHERE: usize = 160;
    let size = Term::stderr()
        .size_checked()
        .filter(|_| io::stderr().is_terminal());
    size.map_or(COLUMNS_ELSEWHERE, |(_, columns)| columns.into())
}

/// A path as it is typed from the current folder, where it lies below that.
pub(crate) fn near(path: &Utf8Path) -> &Utf8Path {
    let current = std::env::current_dir().ok();
    let current = current.as_deref().and_then(Utf8Path::from_path);
    current
        .and_then(|current| path.strip_prefix(current).ok())
        .unwrap_or(path)
}

/// One line of a phase on standard error: verb, object, duration.
pub fn line(verb: &str, object: &str, took: Duration) {
    say!("{verb:>12} {object} ({:.1} s)", took.as_secs_f64());
}

/// One line that says something besides.
pub fn note(text: &str) {
    say!("{:>12} {text}", "note");
}

/// Does it, and says so in one line when it has succeeded: the verb, what came of it, how long it took.
///
/// # Errors
/// What `step` gives.
pub fn timed<T>(
    verb: &str,
    step: impl FnOnce() -> anyhow::Result<T>,
    object: impl FnOnce(&T) -> String,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    let value = step()?;
    line(verb, &object(&value), begun.elapsed());
    Ok(value)
}

/// An error with its causes, and its hint, on standard error.
/// What a signal ended is told as that: the command that it happened to end is nobody's concern.
pub fn error(error: &Error) {
    match exit_of(error).signal() {
        Some(signal) => say!("error: ended by {signal}"),
        // Of a deployment that failed, receipt and logs have the rest.
        None if exit_of(error) == Exit::Deploy => {
            say_part!(
                "{}",
                failure::error_on_one_screen(&error_text(error), columns())
            );
        }
        None => say_part!("{}", error_text(error)),
    }
}

/// An error with its causes, and its hint: what [`error()`] prints.
#[must_use]
pub fn error_text(error: &Error) -> String {
    let mut text = format!("error: {}\n", headline(error));
    for cause in causes(error).skip(1) {
        text.push_str(&format!("  because: {cause}\n"));
    }
    let several = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Several>());
    for besides in several.flat_map(|several| &several.besides) {
        text.push_str(&format!("  besides: {besides}\n"));
    }
    let hints = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<Failure>())
        .filter_map(Failure::hint_text);
    if let Some(hint) = hints.last() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

/// What an error is about, without its causes.
#[must_use]
pub fn headline(error: &Error) -> String {
    causes(error)
        .next()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// An error and its causes; that something else failed at the same time is no cause.
fn causes(error: &Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    error.chain().filter(|cause| !cause.is::<Several>())
}

/// The exit code of an error: that of the signal that ended a child, else the first failure's.
#[must_use]
pub fn exit_of(error: &Error) -> Exit {
    let interrupted = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<ProcessError>())
        .find(|cause| matches!(cause, ProcessError::Interrupted { .. }));
    match (interrupted, Failure::find(error)) {
        (Some(interrupted), _) => interrupted.exit(),
        (None, Some(failure)) => failure.exit(),
        (None, None) => Exit::Internal,
    }
}

/// It was ended by a signal or by `--timeout`: nothing is wrong with what it was doing.
#[must_use]
pub fn is_signal(error: &Error) -> bool {
    let exit = exit_of(error);
    exit == Exit::Timeout || exit.signal().is_some()
}
