//! What ran in a thread of its own, brought back: a panic becomes an error like any other.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};

/// The thread's result.
pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

/// Every failure is told; the first is what the error is about, so that it keeps its exit code.
pub(crate) fn all(handles: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let errors = handles
        .into_iter()
        .filter_map(|handle| joined(handle).err());
    several(errors.collect())
}

/// Does this with each of them, so many at once, in their order. Every failure is told, and none
/// keeps the others from being done.
pub(crate) fn bounded<T: Send>(
    items: Vec<T>,
    at_once: usize,
    step: impl Fn(T) -> Result<()> + Sync,
) -> Result<()> {
    let left = Mutex::new(items.into_iter());
    // The lock is given back before the step.
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let outcomes = std::iter::from_fn(next).map(&step);
        several(outcomes.filter_map(Result::err).collect())
    };
    thread::scope(|scope| all((0..at_once).map(|_| scope.spawn(work)).collect()))
}

fn several(mut errors: Vec<anyhow::Error>) -> Result<()> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => {
            let first = errors.remove(0);
            let besides = errors.iter().map(|error| format!("{error:#}")).collect();
            Err(Several { first, besides }.into())
        }
    }
}

/// What failed at the same time. It is told as the first, and the others below it.
#[derive(Debug)]
pub(crate) struct Several {
    first: anyhow::Error,
    /// The others, each with its causes.
    pub(crate) besides: Vec<String>,
}

impl fmt::Display for Several {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} failed at once", 1 + self.besides.len())
    }
}

impl std::error::Error for Several {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let first: &(dyn std::error::Error + 'static) = self.first.as_ref();
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, PoisonError};

    use super::{bounded, several};
    use crate::exit::{Exit, Failure};
    use crate::report;

    #[test]
    fn so_many_are_at_work_at_once_and_no_more() {
        let (working, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        // Three of them meet here, or nobody goes on: they are side by side.
        let (meeting, done) = (Barrier::new(3), Mutex::new(Vec::new()));
        let outcome = bounded((0..6).collect(), 3, |item| {
            most.fetch_max(working.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            meeting.wait();
            done.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(item);
            working.fetch_sub(1, Ordering::SeqCst);
            anyhow::ensure!(item != 1, "it is 1");
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().to_string(), "it is 1");
        assert_eq!(most.into_inner(), 3);
        let mut done = done.into_inner().unwrap();
        done.sort_unstable();
        assert_eq!(done, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn of_several_the_first_is_told_first() {
        let first = Failure::new(Exit::Deploy, "a ended").hint("look at a");
        let other = anyhow!("because of b").context("b ended");
        let error = several(vec![
            first.caused_by(anyhow!("no file")).into(),
            other,
            anyhow!("c ended"),
        ]);
        let error = error.unwrap_err();
        assert_eq!(report::exit_of(&error), Exit::Deploy);
        assert_eq!(report::headline(&error), "a ended");
        assert_eq!(
            report::error_text(&error),
            "error: a ended\n  because: no file\n  besides: b ended: because of b\n  besides: c ended\nhint: look at a\n"
        );
        assert!(several(Vec::new()).is_ok());
        let alone = several(vec![anyhow!("c ended")]).unwrap_err();
        assert_eq!(report::error_text(&alone), "error: c ended\n");
    }
}
