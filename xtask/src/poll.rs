//! The one place that waits by asking again: with a deadline, and a timeout that tells the last
//! status. Where an event can be waited for, this is not used.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::process::interrupt;
use crate::report::live::{self, Activity};

/// What one look found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is there.
    Found(T),
    /// Not yet, and how it stands.
    NotYet(String),
}

/// Looks every `interval` until it is found; `what` completes "no ... within".
///
/// # Errors
/// What a look gives; the last status when the deadline passes; an interruption.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    interval: Duration,
    look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let activity = live::begin("waiting", format!("for {what}"));
    until_in(&activity, what, deadline, interval, look)
}

/// The same as a part of an activity, which says how it stands.
///
/// # Errors
/// As [`until`].
pub fn until_in<T>(
    activity: &Activity,
    what: &str,
    deadline: Duration,
    interval: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let begun = Instant::now();
    let mut last = None;
    loop {
        interrupt::check().map_err(|error| match &last {
            Some(status) => error.context(Waited(format!("no {what} so far; last seen: {status}"))),
            None => error,
        })?;
        let status = match look()? {
            Look::Found(value) => return Ok(value),
            Look::NotYet(status) => last.insert(status),
        };
        activity.say(status.as_str());
        if begun.elapsed() + interval > deadline {
            bail!(
                "no {what} within {} s; last seen: {status}",
                deadline.as_secs()
            );
        }
        thread::sleep(interval);
    }
}

/// What a wait had seen when a signal ended it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Waited(String);

/// Lets `interval` pass between two looks of a loop that has a deadline and a status of its own.
///
/// # Errors
/// An interruption.
pub fn pause(interval: Duration) -> Result<()> {
    interrupt::check()?;
    thread::sleep(interval);
    Ok(())
}
