//! Phase 6: the tests of the target, from outside, against what was proved. What a test said is
//! taken from the lines that it wrote itself, never from the text of the test program. No test that
//! ran is no success.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::attest::Attested;
use super::build::TestProgram;
use crate::exit::{Exit, Failure};
use crate::process::{self, Echo, Invocation};
use crate::report::live;
use crate::run::Run;

/// Where the tests tell of themselves, in a run's folder.
const EVENTS: &str = "tests.jsonl";
/// Where the harness begins to tell once more what failed: that is told in fewer lines from what the
/// tests wrote themselves.
const LISTING: &str = "failures:";
/// What is said of a test that has begun, until it has told its end.
const NEVER_ENDED: &str = "it began and never told its end";
/// How long the program may take to name its tests.
const LIST_DEADLINE: Duration = Duration::from_secs(30);

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// What it says holds.
    Passed,
    /// It does not, or the test has never told its end.
    Failed,
    /// It cannot be seen where this run is deployed: nothing is proved.
    Skipped,
}

/// A test that ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Its duration.
    pub duration_milliseconds: u64,
    /// What it said when it failed, or why it was skipped.
    pub message: Option<String>,
    /// `test-e2e/tests/gateway.rs:12`.
    pub location: Option<String>,
}

/// What the tests said. No test is no success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TestReport {
    /// Every test that began.
    pub results: Vec<TestResult>,
    /// The program ended with 0.
    pub program_succeeded: bool,
}

impl TestReport {
    /// At least one test passed and none failed.
    #[must_use]
    pub fn green(&self) -> bool {
        self.program_succeeded
            && self.count(Verdict::Passed) > 0
            && self.count(Verdict::Failed) == 0
    }

    /// Every test that failed.
    pub fn failed(&self) -> impl Iterator<Item = &TestResult> {
        self.ended(Verdict::Failed)
    }

    /// Every test that was skipped.
    pub fn skipped(&self) -> impl Iterator<Item = &TestResult> {
        self.ended(Verdict::Skipped)
    }

    fn ended(&self, verdict: Verdict) -> impl Iterator<Item = &TestResult> {
        let results = self.results.iter();
        results.filter(move |result| result.verdict == verdict)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.ended(verdict).count()
    }

    /// In one line: `8 passed`, `7 passed, 1 failed`, `20 passed, 2 skipped`, `no test ran`.
    #[must_use]
    pub fn verdict(&self) -> String {
        let passed = self.count(Verdict::Passed);
        let mut verdict = match (passed, self.count(Verdict::Failed)) {
            (0, 0) if self.results.is_empty() => return "no test ran".to_owned(),
            (_, 0) => format!("{passed} passed"),
            (_, failed) => format!("{passed} passed, {failed} failed"),
        };
        match self.count(Verdict::Skipped) {
            0 => {}
            skipped => verdict.push_str(&format!(", {skipped} skipped")),
        }
        if self.count(Verdict::Failed) == 0 && !self.program_succeeded {
            verdict.push_str(", but the test program failed");
        }
        verdict
    }

    /// The same where a signal ended the tests: what had not ended has not failed.
    #[must_use]
    pub fn verdict_so_far(&self) -> String {
        let passed = self.count(Verdict::Passed);
        format!("{passed} passed when it was ended")
    }
}

/// Runs the tests, those whose name matches a filter if there are any.
///
/// # Errors
/// When the program cannot be run or does not end in time; failing tests are no error.
pub fn test(
    run: &Run,
    attested: &Attested,
    program: &TestProgram,
    filters: &[String],
    deadline: Duration,
) -> Result<TestReport> {
    let frozen = attested.deployment().images().frozen();
    let of_this_run = frozen
        .snapshot()
        .packages()
        .any(|package| package.source() == program.source());
    ensure!(
        of_this_run,
        "the tests are of other sources than what was proved"
    );
    let invocation = invocation(run.id(), run.directory(), program.path(), filters);
    run.note(
        "test",
        &serde_json::json!({"command": invocation.to_string()}),
    )?;
    let events = run.directory().join(EVENTS);
    let activity = live::begin_asked("testing", run.target().as_str(), move || under_way(&events));
    let log = run.directory().join("tests.log");
    program.check()?;
    let code = process::stream(&invocation, Some(&log), Echo::Until(LISTING), deadline)?;
    // What ran is what lay there, before and after.
    program.check()?;
    drop(activity);
    let mut results = told(run)?;
    let list = process::capture(&invocation.arg("--list"), LIST_DEADLINE)?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    results.extend(silent(&list.stdout, &results, &said));
    Ok(TestReport {
        results,
        program_succeeded: code == 0,
    })
}

/// Sees that the filters leave something to run, before anything is deployed for it.
///
/// # Errors
/// [`Exit::Usage`], naming the filters and the tests that there are.
pub fn check_filters(run: &Run, program: &TestProgram, filters: &[String]) -> Result<()> {
    if filters.is_empty() {
        return Ok(());
    }
    let list = |filters: &[String]| {
        let list = invocation(run.id(), run.directory(), program.path(), filters).arg("--list");
        process::output(&list, LIST_DEADLINE)
    };
    let asked = list(filters)?;
    let words = filters.join(" ");
    if asked.code != 0 {
        let said = asked.stderr.lines().next().unwrap_or_default().to_owned();
        return Err(Failure::new(
            Exit::Usage,
            format!("the tests do not take `-- {words}`: {said}"),
        )
        .hint("after `--` stand words that names of tests contain; options of e2e stand before it")
        .into());
    }
    if listed(&asked.stdout).next().is_none() {
        let all = list(&[])?.stdout;
        let known: Vec<&str> = listed(&all).collect();
        return Err(nothing_matches(filters, &known).into());
    }
    Ok(())
}

/// That no test of these has one of the filters in its name.
#[must_use]
pub fn nothing_matches(filters: &[String], known: &[&str]) -> Failure {
    let words = filters.join("` or `");
    Failure::new(Exit::Usage, format!("no test has `{words}` in its name"))
        .hint(format!("there are:\n  {}", known.join("\n  ")))
}

/// How the tests stand: how many have ended, and which have begun and not ended.
fn under_way(events: &Utf8Path) -> String {
    let lines = fs::read_to_string(events).unwrap_or_default();
    // The last line may be half written.
    let whole = lines.rfind('\n').map_or("", |end| &lines[..=end]);
    let Ok(results) = results(whole) else {
        return String::new();
    };
    let (ended, running): (Vec<_>, Vec<_>) = results
        .iter()
        .partition(|result| result.message.as_deref() != Some(NEVER_ENDED));
    let failed = ended.iter();
    let failed = failed.filter(|result| result.verdict == Verdict::Failed);
    let failed = failed.count();
    let running: Vec<&str> = running.iter().map(|result| result.name.as_str()).collect();
    let failed = match failed {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{} ended{failed}; {}", ended.len(), running.join(", "))
}

/// What the tests have told so far, of a program that was ended: what began and did not end has
/// failed.
#[must_use]
pub fn told_so_far(run: &Run) -> Option<TestReport> {
    let results = told(run).ok().filter(|results| !results.is_empty())?;
    Some(TestReport {
        results,
        program_succeeded: false,
    })
}

/// What the tests of a run have told; nothing where none has begun.
fn told(run: &Run) -> Result<Vec<TestResult>> {
    let events = run.directory().join(EVENTS);
    let lines = match fs::read_to_string(&events) {
        Ok(lines) => lines,
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {events}")),
    };
    results(&lines).with_context(|| format!("cannot read {events}"))
}

/// The names in what the program answers to `--list`.
fn listed(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

/// The tests that the program has and of which nothing was told: without a scenario, or ignored.
/// Nobody would know that they prove nothing.
fn silent(list: &str, told: &[TestResult], said: &str) -> Vec<TestResult> {
    let untold = listed(list).filter(|name| told.iter().all(|result| result.name != *name));
    untold
        .map(|name| {
            let (location, message) = panic_of(name, said).unzip();
            TestResult {
                name: name.to_owned(),
                verdict: Verdict::Failed,
                duration_milliseconds: 0,
                message: Some(message.unwrap_or_else(|| {
                    "it told nothing: it is ignored, or does not begin with `scenario!`".to_owned()
                })),
                location,
            }
        })
        .collect()
}

/// Where a test that panicked before its scenario did so, and its words, from what the program said:
/// `thread '<test>' (<number>) panicked at <file>:<line>:<column>:` and the lines after it.
fn panic_of(test: &str, said: &str) -> Option<(String, String)> {
    let head = format!("thread '{test}' ");
    let mut lines = said.lines();
    let first = lines.find(|line| line.starts_with(&head) && line.contains(" panicked at "))?;
    let (_, location) = first.split_once(" panicked at ")?;
    let ends = |line: &&str| {
        !line.is_empty() && !line.starts_with("note: ") && !line.starts_with("stack backtrace:")
    };
    let words: Vec<&str> = lines.take_while(ends).collect();
    Some((location.trim_end_matches(':').to_owned(), words.join("\n")))
}

/// How the test program is called; `--plan` shows the same.
#[must_use]
pub fn invocation(
    id: &str,
    run_directory: &Utf8Path,
    program: &Utf8Path,
    filters: &[String],
) -> Invocation {
    Invocation::new(program.as_str())
        .args(filters.iter().map(String::as_str))
        // Whoever finds a run without it looks whether it has grown old.
        .env("E2E_PROVED", id)
        .env("E2E_RUN", run_directory.join("run.json").as_str())
        .env("RUST_BACKTRACE", "0")
}

/// A line of `tests.jsonl`.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Start {
        test: String,
    },
    End {
        test: String,
        verdict: Verdict,
        duration_ms: u64,
        message: Option<String>,
        location: Option<String>,
    },
}

/// In the order in which the tests began; one that never ended has failed. A last line that was not
/// written to its end tells nothing: its test was killed, or the disk was full.
fn results(lines: &str) -> Result<Vec<TestResult>> {
    let whole = lines.rfind('\n').map_or(0, |end| end + 1);
    let mut results: Vec<TestResult> = Vec::new();
    for (index, line) in lines[..whole].lines().enumerate() {
        let event: Event =
            serde_json::from_str(line).with_context(|| format!("line {}: {line}", index + 1))?;
        match event {
            Event::Start { test } => results.push(TestResult {
                name: test,
                verdict: Verdict::Failed,
                duration_milliseconds: 0,
                message: Some(NEVER_ENDED.to_owned()),
                location: None,
            }),
            Event::End {
                test,
                verdict,
                duration_ms,
                message,
                location,
            } => {
                let begun = results
                    .iter_mut()
                    .rfind(|result| result.name == test)
                    .with_context(|| format!("line {}: {test} ends before it began", index + 1))?;
                begun.verdict = verdict;
                begun.duration_milliseconds = duration_ms;
                begun.message = message;
                begun.location = location;
            }
        }
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::{TestReport, Verdict, results, silent, under_way};

    fn report(lines: &str, program_succeeded: bool) -> TestReport {
        TestReport {
            results: results(lines).unwrap(),
            program_succeeded,
        }
    }

    const PASSED: &str = r#"{"event":"start","test":"a","at":"2026-11-23T18:00:00Z"}
{"event":"end","test":"a","verdict":"passed","duration_ms":12}
"#;

    #[test]
    fn what_passed_is_green() {
        let report = report(PASSED, true);
        assert!(report.green());
        assert_eq!(report.verdict(), "1 passed");
        assert_eq!(report.results[0].duration_milliseconds, 12);
    }

    #[test]
    fn what_was_skipped_is_told_and_proves_nothing() {
        let skipped = r#"{"event":"start","test":"b"}
{"event":"end","test":"b","verdict":"skipped","duration_ms":1,"message":"no node"}
"#;
        let both = report(&format!("{PASSED}{skipped}"), true);
        assert!(both.green());
        assert_eq!(both.verdict(), "1 passed, 1 skipped");
        let told: Vec<_> = both.skipped().map(|result| &result.message).collect();
        assert_eq!(told, [&Some("no node".to_owned())]);
        assert_eq!(both.failed().count(), 0);
        let alone = report(skipped, true);
        assert!(!alone.green());
        assert_eq!(alone.verdict(), "0 passed, 1 skipped");
        assert_eq!(
            report(&format!("{PASSED}{skipped}"), false).verdict(),
            "1 passed, 1 skipped, but the test program failed"
        );
    }

    #[test]
    fn no_test_is_red() {
        assert!(!report("", true).green());
        assert_eq!(report("", true).verdict(), "no test ran");
    }

    #[test]
    fn a_failing_program_is_red_whatever_its_tests_say() {
        assert!(!report(PASSED, false).green());
    }

    #[test]
    fn a_test_that_never_ended_has_failed() {
        let lines = format!("{PASSED}{{\"event\":\"start\",\"test\":\"b\"}}\n");
        let report = report(&lines, true);
        assert!(!report.green());
        assert_eq!(report.verdict(), "1 passed, 1 failed");
        assert_eq!(report.failed().next().unwrap().name, "b");
    }

    #[test]
    fn it_is_told_which_tests_are_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let events = camino::Utf8Path::from_path(folder.path())
            .unwrap()
            .join("events");
        let begun = "{\"event\":\"start\",\"test\":\"b\"}\n{\"event\":\"start\",\"test\":\"c\"}\n";
        std::fs::write(&events, format!("{PASSED}{begun}{{\"event\":")).unwrap();
        assert_eq!(under_way(&events), "1 ended; b, c");
        let failed = r#"{"event":"end","test":"b","verdict":"failed","duration_ms":3}"#;
        std::fs::write(&events, format!("{PASSED}{begun}{failed}\n")).unwrap();
        assert_eq!(under_way(&events), "2 ended, 1 failed; c");
    }

    #[test]
    fn a_failure_tells_where() {
        let lines = r#"{"event":"start","test":"a"}
{"event":"end","test":"a","verdict":"failed","duration_ms":3,"message":"no","location":"test-e2e/tests/gateway.rs:12"}
"#;
        let report = report(lines, false);
        let failed = report.failed().next().unwrap();
        assert_eq!(failed.message.as_deref(), Some("no"));
        assert_eq!(
            failed.location.as_deref(),
            Some("test-e2e/tests/gateway.rs:12")
        );
    }

    #[test]
    fn a_test_that_told_nothing_has_failed() {
        let told = results(PASSED).unwrap();
        let found = silent(
            "a: test\nmodule::b: test\n\n2 tests, 0 benchmarks\n",
            &told,
            "",
        );
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "module::b");
        assert_eq!(found[0].verdict, Verdict::Failed);
        let said = "---- module::b stdout ----\n\nthread 'module::b' (7) panicked at test-e2e/tests/a.rs:3:5:\nassertion failed\n  left: 1\nnote: run with\n";
        let found = silent("module::b: test\n", &[], said);
        let location = found[0].location.as_deref();
        assert_eq!(location, Some("test-e2e/tests/a.rs:3:5"));
        let message = found[0].message.as_deref();
        assert_eq!(message, Some("assertion failed\n  left: 1"));
    }

    #[test]
    fn a_torn_last_line_tells_nothing() {
        // Cut anywhere in the line that says that it passed, the test has not passed.
        let end_of_first = PASSED.find('\n').unwrap();
        for length in end_of_first + 1..PASSED.len() {
            let report = report(&PASSED[..length], true);
            assert_eq!(report.verdict(), "0 passed, 1 failed", "{length}");
        }
        // Cut before that, it has not even begun.
        for length in 0..=end_of_first {
            assert!(!report(&PASSED[..length], true).green(), "{length}");
        }
    }

    #[test]
    fn torn_lines_before_the_last_are_an_error() {
        let torn = format!("{{\"event\":\"sta{PASSED}");
        let error = format!("{:#}", results(&torn).unwrap_err());
        assert!(error.starts_with("line 1: "), "{error}");
        let end = r#"{"event":"end","test":"a","verdict":"passed","duration_ms":1}"#;
        assert!(results(&format!("{end}\n")).is_err());
    }
}
