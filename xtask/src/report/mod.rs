//! What a run tells: lines on the terminal while it goes, `receipt.json` and `junit.xml` when it ends.

use std::time::Duration;

/// One line of a phase on standard error: verb, object, duration.
pub fn line(verb: &str, object: &str, took: Duration) {
    eprintln!("{verb:>12} {object} ({:.1} s)", took.as_secs_f64());
}

/// One line that says something besides.
pub fn note(text: &str) {
    eprintln!("{:>12} {text}", "note");
}
