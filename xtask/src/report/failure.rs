//! What a person sees of a failed run: the state of every container, the last lines of the guilty
//! log, and where the rest lies. The error itself, with its hint, is printed once, at the very end.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use crate::pipeline::test::TestReport;

/// How many lines of the guilty log reach the terminal.
const LINES_MAX: usize = 50;

/// The failed tests, one line each, with what they said.
#[must_use]
pub fn failed_tests(report: &TestReport) -> String {
    let mut text = String::new();
    for test in report.failed() {
        let place = test.location.as_deref().unwrap_or("-");
        text.push_str(&format!("      FAILED {} ({place})\n", test.name));
        let message = test.message.as_deref().unwrap_or("it said nothing");
        for line in message.lines() {
            text.push_str(&format!("             {line}\n"));
        }
    }
    text
}

/// The log of the container that an error is about: the longest name of a log that the error
/// mentions, else that of the service that stands first in `suspects`.
#[must_use]
pub fn guilty_log(logs: &Utf8Path, error: &str, suspects: &[&str]) -> Option<Utf8PathBuf> {
    let mut names: Vec<String> = logs
        .read_dir_utf8()
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.file_name().strip_suffix(".log")?.to_owned()))
        .collect();
    // The longest first: `gateway-0` before `gateway`.
    names.sort_by_key(|name| (std::cmp::Reverse(name.len()), name.clone()));
    let of_service = |service: &&str| {
        names
            .iter()
            .find(|name| name.as_str() == *service || name.contains(&format!("-{service}-")))
    };
    names
        .iter()
        .find(|name| error.contains(name.as_str()))
        .or_else(|| suspects.iter().find_map(of_service))
        .map(|name| logs.join(format!("{name}.log")))
}

/// The last lines of a log, each indented, with a head that names it.
#[must_use]
pub fn tail(log: &Utf8Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES_MAX);
    let shown = lines.len() - from;
    let mut tail = format!(
        "         log {log} (last {shown} of {} lines)\n",
        lines.len()
    );
    for line in &lines[from..] {
        tail.push_str(&format!("             {line}\n"));
    }
    tail
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::{guilty_log, tail};

    #[test]
    fn the_log_that_the_error_names_is_guilty() {
        let folder = tempfile::tempdir().unwrap();
        let logs = Utf8Path::from_path(folder.path()).unwrap();
        for name in ["r-gateway-0", "r-datastorage-0", "r-postgres-0"] {
            std::fs::write(logs.join(format!("{name}.log")), "").unwrap();
        }
        let name = |error: &str, suspects: &[&str]| {
            guilty_log(logs, error, suspects).map(|path| path.file_stem().unwrap().to_owned())
        };
        assert_eq!(
            name("container r-postgres-0 ended with 1", &["gateway"]).as_deref(),
            Some("r-postgres-0")
        );
        assert_eq!(
            name("a test failed", &["gateway"]).as_deref(),
            Some("r-gateway-0")
        );
        assert_eq!(name("a test failed", &["pipeline"]), None);
    }

    #[test]
    fn a_tail_is_bounded_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("a.log");
        std::fs::write(
            &log,
            (1..=60).map(|n| format!("line {n}\n")).collect::<String>(),
        )
        .unwrap();
        let text = tail(&log);
        assert!(text.contains("(last 50 of 60 lines)"), "{text}");
        assert!(!text.contains("line 10\n"), "{text}");
        assert!(
            text.contains("line 11\n") && text.ends_with("line 60\n"),
            "{text}"
        );
    }
}
