//! What a person sees of a failed run: the state of every container, the last lines of the guilty
//! log, and where the rest lies. The error itself, with its hint, is printed once, at the very end.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use crate::engine::ContainerFacts;
use crate::pipeline::test::TestReport;

/// How many lines of the guilty log reach the terminal.
pub(crate) const LOG_LINES_MAX: usize = 12;
/// The same where a test failed: most lines are of the other tests.
pub(crate) const LOG_LINES_OF_TESTS_MAX: usize = 4;
/// How many rows one of them may take.
const LOG_ROWS_MAX: usize = 2;
/// Of how many failed tests it is told what they said; of the others the names.
const TESTS_TOLD_MAX: usize = 3;
/// How many lines of what one of them said.
const MESSAGE_LINES_MAX: usize = 6;
/// How many names of others.
const NAMES_MAX: usize = 5;
/// What is said of a failure stands under this.
const INDENT: usize = 13;

/// The failed tests: the first with what they said, then some names, then how many more.
#[must_use]
pub fn failed_tests(report: &TestReport) -> String {
    let mut text = String::new();
    for (index, test) in report.failed().enumerate() {
        if index >= TESTS_TOLD_MAX + NAMES_MAX {
            break;
        }
        let place = test.location.as_deref().unwrap_or("-");
        text.push_str(&format!("      FAILED {} ({place})\n", test.name));
        let message = test.message.as_deref().unwrap_or("it said nothing");
        let told = if index < TESTS_TOLD_MAX {
            MESSAGE_LINES_MAX
        } else {
            0
        };
        for line in message.lines().take(told) {
            text.push_str(&format!("             {}\n", cut(line)));
        }
        if message.lines().count() > told && told > 0 {
            text.push_str("             ...\n");
        }
    }
    let more = report
        .failed()
        .count()
        .saturating_sub(TESTS_TOLD_MAX + NAMES_MAX);
    if more > 0 {
        text.push_str(&format!("         and {more} more in junit.xml\n"));
    }
    text
}

/// The state of the containers of a run, whose names all begin with `prefix`: a line for each that
/// is not as it should be, one for all others.
#[must_use]
pub fn containers<'a>(all: impl Iterator<Item = &'a ContainerFacts>, prefix: &str) -> Vec<String> {
    let (fine, odd): (Vec<_>, Vec<_>) = all.partition(|facts| {
        // An init container has done its work.
        let done = facts.status == "exited" && facts.exit_code == 0;
        (facts.status == "running" || done) && facts.restart_count == 0
    });
    let short = |facts: &ContainerFacts| {
        let name = facts.name.strip_prefix(prefix);
        name.unwrap_or(&facts.name).to_owned()
    };
    let mut lines: Vec<String> = odd
        .into_iter()
        .map(|facts| {
            let memory = if facts.out_of_memory {
                ", out of memory"
            } else {
                ""
            };
            let restarts = match facts.restart_count {
                0 => String::new(),
                count => format!(", restarted {count} times"),
            };
            format!("{}: {}{memory}{restarts}", short(facts), facts.state())
        })
        .collect();
    let running = fine.into_iter().filter(|facts| facts.status == "running");
    let running: Vec<String> = running.map(short).collect();
    if !running.is_empty() {
        lines.push(format!("running: {}", running.join(", ")));
    }
    lines
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

/// The last lines of a log, so many, each indented and none longer than the rows it may take of so many
/// `columns`, with a head that names the file.
#[must_use]
pub fn tail(log: &Utf8Path, lines_max: usize, columns: usize) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(lines_max);
    let which = match from {
        0 => String::new(),
        _ => format!(" (last {lines_max} of {} lines)", lines.len()),
    };
    let mut tail = format!("         log {}{which}\n", super::near(log));
    let wide = columns.saturating_sub(INDENT + 1).max(40);
    for line in &lines[from..] {
        let said = cut_to(&for_people(line), wide * LOG_ROWS_MAX - INDENT);
        tail.push_str(&format!("             {said}\n"));
    }
    tail
}

/// A line of JSON as a sentence: level, message, then every other field; not when it was and where
/// in the sources, which the file tells. Any other line as it is.
fn for_people(line: &str) -> String {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    for elsewhere in ["timestamp", "target"] {
        fields.remove(elsewhere);
    }
    let first = ["level", "message"].map(|name| fields.remove(name));
    let words = first
        .into_iter()
        .flatten()
        .map(|value| text_of(&value))
        .chain(
            fields
                .iter()
                .map(|(name, value)| format!("{name}={}", text_of(value))),
        );
    words.collect::<Vec<_>>().join(" ")
}

fn text_of(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

fn cut(line: &str) -> String {
    const COLUMNS_MAX: usize = 200;
    cut_to(line, COLUMNS_MAX)
}

fn cut_to(line: &str, columns: usize) -> String {
    console::truncate_str(line, columns, "...").into_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use camino::Utf8Path;

    use super::{containers, failed_tests, for_people, guilty_log, tail};
    use crate::engine::ContainerFacts;
    use crate::pipeline::test::{TestReport, TestResult};

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
        let wide = "x".repeat(1000);
        let lines: String = (1..=60).map(|n| format!("line {n} {wide}\n")).collect();
        std::fs::write(&log, lines).unwrap();
        let text = tail(&log, super::LOG_LINES_MAX, 80);
        assert!(text.contains("(last 12 of 60 lines)"), "{text}");
        let shown: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(shown.len(), 12);
        assert!(shown[0].starts_with("             line 49 x"), "{text}");
        // Two rows of 80 columns.
        assert!(shown.iter().all(|line| line.len() <= 160), "{text}");
        assert!(shown.iter().all(|line| line.ends_with("...")), "{text}");
    }

    #[test]
    fn a_line_of_json_is_told_as_a_sentence() {
        let line = r#"{"api":"0.0.0.0:8080","level":"INFO","message":"listening","n":3,"target":"common::server","timestamp":"2026-11-25T13:47:00Z"}"#;
        assert_eq!(for_people(line), "INFO listening api=0.0.0.0:8080 n=3");
        for other in ["error: no such file", "{broken", "[1]", ""] {
            assert_eq!(for_people(other), other);
        }
    }

    #[test]
    fn a_container_that_is_fine_takes_no_line_of_its_own() {
        let facts = |name: &str, status: &str, exit_code, restart_count| ContainerFacts {
            labels: BTreeMap::new(),
            name: format!("r-{name}"),
            image_id: String::new(),
            reference: String::new(),
            status: status.to_owned(),
            pid: 0,
            exit_code,
            out_of_memory: exit_code == 137,
            restart_count,
            started_at: String::new(),
            ports: BTreeMap::new(),
        };
        let all = [
            facts("a-0", "running", 0, 0),
            facts("b-0", "exited", 2, 5),
            facts("c-0", "exited", 137, 0),
            facts("d-0", "running", 0, 1),
            facts("e-0-init-x", "exited", 0, 0),
            facts("f-0", "running", 0, 0),
        ];
        assert_eq!(
            containers(all.iter(), "r-"),
            [
                "b-0: exited, exit code 2, restarted 5 times",
                "c-0: exited, exit code 137, out of memory",
                "d-0: running, restarted 1 times",
                "running: a-0, f-0",
            ]
        );
    }

    #[test]
    fn of_many_failed_tests_all_fits_on_one_screen() {
        let results = (0..30).map(|n| TestResult {
            name: format!("test_{n}"),
            passed: false,
            duration_milliseconds: 1,
            message: Some("said\n".repeat(50)),
            location: Some("test-e2e/tests/a.rs:1:1".to_owned()),
        });
        let report = TestReport {
            results: results.collect(),
            program_succeeded: false,
        };
        let text = failed_tests(&report);
        assert!(text.lines().count() < 31, "{text}");
        assert!(text.contains("FAILED test_7 ") && !text.contains("FAILED test_8 "));
        assert!(text.ends_with("and 22 more in junit.xml\n"), "{text}");
    }
}
