//! Waiting for something to become true. Every wait has a deadline, and a wait that fails tells
//! what was last seen.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(50);

/// What a look at the world gave.
#[derive(Debug)]
pub enum Look<T> {
    /// It is as it should be.
    Seen(T),
    /// Not yet; this is how it stands.
    NotYet(String),
}

/// Looks again and again until `look` has seen it, and gives back what was seen.
///
/// # Panics
/// When `within` has passed, with what was last seen.
#[track_caller]
pub fn eventually<T>(what: &str, within: Duration, mut look: impl FnMut() -> Look<T>) -> T {
    match try_eventually(within, &mut look) {
        Ok(seen) => seen,
        Err(last) => panic!("{what}: not within {within:?}; last seen: {last}"),
    }
}

/// Like [`eventually`], with the last thing seen as the error.
///
/// # Errors
/// When `within` has passed.
pub fn try_eventually<T>(within: Duration, mut look: impl FnMut() -> Look<T>) -> Result<T, String> {
    let deadline = Instant::now() + within;
    loop {
        match look() {
            Look::Seen(seen) => return Ok(seen),
            Look::NotYet(last) if Instant::now() >= deadline => return Err(last),
            Look::NotYet(_) => thread::sleep(PAUSE),
        }
    }
}

/// Looks for as long as `during` says and panics when `look` finds something.
///
/// # Panics
/// When something was found.
#[track_caller]
pub fn never(what: &str, during: Duration, mut look: impl FnMut() -> Option<String>) {
    let deadline = Instant::now() + during;
    while Instant::now() < deadline {
        if let Some(found) = look() {
            panic!("{what}: {found}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_fails_tells_what_was_last_seen() {
        let mut count = 0;
        let error = try_eventually::<()>(Duration::from_millis(120), || {
            count += 1;
            Look::NotYet(format!("look {count}"))
        });
        assert_eq!(error, Err(format!("look {count}")));
        assert!(count > 1);
    }

    #[test]
    fn a_wait_ends_with_what_was_seen() {
        let mut left = 3;
        let seen = eventually("a countdown", Duration::from_secs(10), || {
            left -= 1;
            if left == 0 {
                Look::Seen("zero")
            } else {
                Look::NotYet(left.to_string())
            }
        });
        assert_eq!((seen, left), ("zero", 0));
    }
}
