//! What ran in a thread of its own, brought back: a panic becomes an error like any other.

use std::thread::ScopedJoinHandle;

use anyhow::{Result, anyhow};

/// The thread's result.
pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
}

/// Every failure is told; one alone as it is, so that it keeps its exit code.
pub(crate) fn all(handles: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let mut errors: Vec<anyhow::Error> = handles
        .into_iter()
        .filter_map(|handle| joined(handle).err())
        .collect();
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => {
            let first = errors.remove(0);
            let others: Vec<String> = errors.iter().map(|error| format!("{error:#}")).collect();
            Err(first.context(format!("and besides: {}", others.join("; "))))
        }
    }
}
