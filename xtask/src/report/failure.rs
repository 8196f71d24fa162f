//! What a person sees of a failed run: the state of every container, the last lines of the guilty
//! log, and where the rest lies. The error itself, with its hint, is printed once, at the very end.

use std::fs;

use camino::{Utf8Path, Utf8PathBuf};

use crate::engine::ContainerFacts;
use crate::pipeline::test::TestReport;

/// How many rows of the guilty log reach the terminal. With the other parts it makes one screen of 24.
pub(crate) const LOG_ROWS_MAX: usize = 7;
/// The same where a test failed: most lines are of the other tests.
pub(crate) const fn log_rows_of_tests(failed_count: usize) -> usize {
    match failed_count {
        0 | 1 => 6,
        2 => 2,
        _ => 0,
    }
}
/// How many rows one line may take, of a log or of an error.
const LINE_ROWS_MAX: usize = 2;
/// How many lines tell the containers.
const CONTAINERS_MAX: usize = 4;
/// How many rows an error may take, without its hint.
const ERROR_ROWS_MAX: usize = 8;
/// Of how many failed tests it is told what they said; of the others the names.
const TESTS_TOLD_MAX: usize = 3;
/// How many lines of what one of them said.
const MESSAGE_LINES_MAX: usize = 6;
/// How many names of others.
const NAMES_MAX: usize = 3;
/// What is said of a failure stands under this.
const INDENT: usize = 13;

/// The failed tests: the first with what they said, then some names, then how many more.
#[must_use]
pub fn failed_tests(report: &TestReport, columns: usize) -> String {
    let mut text = String::new();
    let failed_count = report.failed().count();
    for (index, test) in report.failed().enumerate() {
        if index >= TESTS_TOLD_MAX + NAMES_MAX {
            break;
        }
        let place = test.location.as_deref().unwrap_or("-");
        text.push_str(&format!("      FAILED {} ({place})\n", test.name));
        let message = test.message.as_deref().unwrap_or("it said nothing");
        let told = match index < TESTS_TOLD_MAX {
            true if failed_count > TESTS_TOLD_MAX => 1,
            true => MESSAGE_LINES_MAX / failed_count,
            false => 0,
        };
        for line in message.lines().take(told) {
            text.push_str(&format!(
                "             {}\n",
                cut_to(line, columns.saturating_sub(INDENT + 1).max(40))
            ));
        }
        if message.lines().count() > told && told > 1 {
            text.push_str("             ...\n");
        }
    }
    let more = failed_count.saturating_sub(TESTS_TOLD_MAX + NAMES_MAX);
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
    let rows_left = CONTAINERS_MAX - usize::from(!running.is_empty());
    if lines.len() > rows_left {
        let more = lines.split_off(rows_left - 1);
        lines.push(format!(
            "and {} more that are not as they should be",
            more.len()
        ));
    }
    if !running.is_empty() {
        lines.push(format!("running: {}", running.join(", ")));
    }
    lines
}

/// One of these lines as it is printed: no longer than a row.
#[must_use]
pub fn container_line(line: &str, columns: usize) -> String {
    let said = cut_to(line, columns.saturating_sub(INDENT).max(40));
    format!("{:>12} {said}\n", "container")
}

/// The log of the container that an error is about: the longest name of a log that the first of these
/// texts mentions that mentions any, else that of the service that stands first in `suspects`.
#[must_use]
pub fn guilty_log(logs: &Utf8Path, errors: &[&str], suspects: &[&str]) -> Option<Utf8PathBuf> {
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
    let mentioned = |error: &&str| names.iter().find(|name| error.contains(name.as_str()));
    errors
        .iter()
        .find_map(mentioned)
        .or_else(|| suspects.iter().find_map(of_service))
        .map(|name| logs.join(format!("{name}.log")))
}

/// The last lines of a log, as many as fit into so many rows of so many `columns`, each indented and
/// none longer than the rows that it may take, with a head that names the file.
#[must_use]
pub fn tail(log: &Utf8Path, rows_max: usize, columns: usize) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let wide = columns.saturating_sub(INDENT + 1).max(40);
    let mut rows_left = rows_max;
    let said = lines.iter().rev().map(|line| {
        let said = cut_to(&for_people(line), wide * LINE_ROWS_MAX - INDENT);
        format!("{:INDENT$}{said}\n", "")
    });
    let mut shown: Vec<String> = said
        .take_while(|said| {
            let left = rows_left.checked_sub(rows_of(said.trim_end(), columns));
            rows_left = left.unwrap_or(0);
            left.is_some()
        })
        .collect();
    shown.reverse();
    let which = if shown.len() == lines.len() {
        String::new()
    } else {
        format!(" (last {} of {} lines)", shown.len(), lines.len())
    };
    let head = format!("         log {}{which}\n", super::near(log));
    head + &shown.concat()
}

/// An error's text in few rows, its hint whole: of a long command line begin and end, and of more
/// lines than fit that there are more.
#[must_use]
pub fn error_on_one_screen(text: &str, columns: usize) -> String {
    let hint_at = text.find("\nhint: ").map_or(text.len(), |end| end + 1);
    let (error, hint) = text.split_at(hint_at);
    let lines: Vec<&str> = error.lines().collect();
    let (mut told, mut rows_left) = (String::new(), ERROR_ROWS_MAX);
    for (index, line) in lines.iter().enumerate() {
        let said = cut_inside(line, columns * LINE_ROWS_MAX);
        let rows = rows_of(&said, columns);
        let rows_after = usize::from(index + 1 < lines.len());
        if rows + rows_after > rows_left {
            told.push_str("  ... (all of it: receipt.json)\n");
            break;
        }
        rows_left -= rows;
        told.push_str(&format!("{said}\n"));
    }
    told + hint
}

/// How many rows of a terminal a line takes.
fn rows_of(line: &str, columns: usize) -> usize {
    console::measure_text_width(line).div_ceil(columns).max(1)
}

/// Begin and end of a line that is longer: of a command, its name and what it runs.
fn cut_inside(line: &str, columns: usize) -> String {
    const GAP: &str = " ... ";
    let letters: Vec<char> = line.chars().collect();
    if letters.len() <= columns {
        return line.to_owned();
    }
    let kept = columns.saturating_sub(GAP.len());
    let end = kept / 3;
    let begin: String = letters[..kept - end].iter().collect();
    let rest: String = letters[letters.len() - end..].iter().collect();
    format!("{begin}{GAP}{rest}")
}

/// A line of JSON as a sentence: level, message, then every other field; not when it was and where
/// in the sources, which the file tells. Any other line as it is.
pub(crate) fn for_people(line: &str) -> String {
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
        let name = |errors: &[&str], suspects: &[&str]| {
            guilty_log(logs, errors, suspects).map(|path| path.file_stem().unwrap().to_owned())
        };
        assert_eq!(
            name(&["container r-postgres-0 ended with 1"], &["gateway"]).as_deref(),
            Some("r-postgres-0")
        );
        // What failed besides is told of in the second.
        let errors = [
            "r-gateway-0 ended",
            "r-gateway-0 ended; r-datastorage-0 ended",
        ];
        assert_eq!(name(&errors, &[]).as_deref(), Some("r-gateway-0"));
        let errors = ["nothing", "because r-datastorage-0 ended"];
        assert_eq!(name(&errors, &[]).as_deref(), Some("r-datastorage-0"));
        assert_eq!(
            name(&["a test failed"], &["gateway"]).as_deref(),
            Some("r-gateway-0")
        );
        assert_eq!(name(&["a test failed"], &["pipeline"]), None);
    }

    #[test]
    fn a_tail_is_bounded_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("a.log");
        let wide = "x".repeat(1000);
        let lines: String = (1..=60).map(|n| format!("line {n} {wide}\n")).collect();
        std::fs::write(&log, lines).unwrap();
        let text = tail(&log, 7, 80);
        assert!(text.contains("(last 3 of 60 lines)"), "{text}");
        let shown: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(shown.len(), 3);
        assert!(shown[0].starts_with("             line 58 x"), "{text}");
        // Two rows of 80 columns.
        assert!(shown.iter().all(|line| line.len() <= 160), "{text}");
        assert!(shown.iter().all(|line| line.ends_with("...")), "{text}");
    }

    #[test]
    fn short_lines_of_a_log_fill_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path()).unwrap().join("a.log");
        std::fs::write(&log, "1\n2\n3\n4\n5\n6\n7\n").unwrap();
        let text = tail(&log, 7, 80);
        assert_eq!(text.lines().count(), 8, "{text}");
        assert!(!text.contains("last"), "{text}");
        let text = tail(&log, 2, 80);
        let end = "a.log (last 2 of 7 lines)\n             6\n             7\n";
        assert!(text.ends_with(end), "{text}");
    }

    /// All that is said of a deployment that failed as badly as it can, in rows of so many columns.
    fn rows_of_the_worst(columns: usize) -> (usize, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = Utf8Path::from_path(folder.path())
            .unwrap()
            .join("r-a-0.log");
        let lines = (1..=60).map(|n| format!("line {n} {}\n", "x ".repeat(900)));
        std::fs::write(&log, lines.collect::<String>()).unwrap();
        let facts: Vec<_> = (0..20)
            .map(|n| {
                facts(
                    &format!("container-{n}"),
                    ["running", "exited"][n % 2],
                    3,
                    0,
                )
            })
            .collect();
        let command = format!(
            "podman run --name=r-a-0 {} <image> --end",
            "--option ".repeat(250)
        );
        let causes = "podman says\n".repeat(20);
        let besides =
            format!("  besides: init container b ended\n  command: {command}\n").repeat(5);
        let error = format!(
            "error: init container r-a-0 ended with exit code 3\n  command: {command}\n  because: {causes}{besides}hint: its last lines say why\n"
        );
        let told = super::error_on_one_screen(&error, columns);
        let lines = containers(facts.iter(), "r-")
            .into_iter()
            .map(|line| super::container_line(&line, columns));
        let text = lines.collect::<String>() + &tail(&log, super::LOG_ROWS_MAX, columns) + &told;
        let rows = text.lines().map(|line| super::rows_of(line, columns)).sum();
        (rows, text)
    }

    #[test]
    fn a_deployment_that_failed_is_told_on_one_screen() {
        for columns in [80, 100, 160] {
            let (rows, text) = rows_of_the_worst(columns);
            // Two more tell where the rest is, and the verdict.
            assert!(rows + 2 <= 24, "{rows} rows of {columns}:\n{text}");
            for part in [
                "container container-1: exited, exit code 3\n",
                "container and 8 more that are not as they should be\n",
                "container running: container-0, ",
                "error: init container r-a-0 ended with exit code 3\n  command: podman run --name=r-a-0 ",
                " <image> --end\n  because: podman says\n",
                "  ... (all of it: receipt.json)\nhint: its last lines say why\n",
                "line 60 ",
            ] {
                assert!(text.contains(part), "no `{part}` in:\n{text}");
            }
        }
    }

    #[test]
    fn a_short_error_is_told_whole() {
        let error = "error: a ended\n  because: b\nhint: look\n";
        assert_eq!(super::error_on_one_screen(error, 80), error);
        let error = format!("error: a{}", "\n  b".repeat(7)) + "\n";
        assert_eq!(super::error_on_one_screen(&error, 80), error);
    }

    #[test]
    fn a_line_of_json_is_told_as_a_sentence() {
        let line = r#"{"api":"0.0.0.0:8080","level":"INFO","message":"listening","n":3,"target":"common::server","timestamp":"2026-11-25T13:47:00Z"}"#;
        assert_eq!(for_people(line), "INFO listening api=0.0.0.0:8080 n=3");
        for other in ["error: no such file", "{broken", "[1]", ""] {
            assert_eq!(for_people(other), other);
        }
    }

    fn facts(name: &str, status: &str, exit_code: i64, restart_count: u64) -> ContainerFacts {
        ContainerFacts {
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
        }
    }

    #[test]
    fn a_container_that_is_fine_takes_no_line_of_its_own() {
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
            verdict: crate::pipeline::test::Verdict::Failed,
            duration_milliseconds: 1,
            message: Some("said\n".repeat(50)),
            location: Some("test-e2e/tests/a.rs:1:1".to_owned()),
        });
        let report = TestReport {
            results: results.collect(),
            program_succeeded: false,
        };
        let text = failed_tests(&report, 80);
        // Beside containers, the path of a log, and what stands at the end.
        assert!(text.lines().count() <= 16, "{text}");
        assert!(text.contains("FAILED test_5 ") && !text.contains("FAILED test_6 "));
        assert!(text.ends_with("and 24 more in junit.xml\n"), "{text}");
    }
}
