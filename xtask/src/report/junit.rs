//! `junit.xml`: the tests of a run for whoever reads that format. A run that ended before its tests
//! has one case, the phase that failed, so that no reader takes an empty report for a green one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::pipeline::test::{TestReport, TestResult, Verdict};

/// Writes the report of a run to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Utf8Path, target: &str, outcome: &Outcome<'_>) -> Result<()> {
    let text = document(target, outcome).context("cannot write JUnit XML")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

fn document(target: &str, outcome: &Outcome<'_>) -> Result<String> {
    let mut suite = TestSuite::new(target);
    let mut told_red = false;
    if let Some(report) = outcome.tests {
        suite.add_test_cases(report.results.iter().map(|result| case(target, result)));
        told_red = report.failed().next().is_some();
        if !report.green() && !told_red {
            suite.add_test_case(error("test program", report.verdict().as_str()));
            told_red = true;
        }
    }
    if let Some((phase, message)) = outcome.failure
        && (phase != "test" || !told_red)
    {
        suite.add_test_case(error(phase, message));
    } else if outcome.tests.is_none() {
        suite.add_test_case(error("run", "no test ran"));
    }
    let mut report = Report::new("phase-zero");
    report.add_test_suite(suite);
    Ok(report.to_string()?)
}

/// What there is to report.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// What the tests said, if they ran.
    pub tests: Option<&'a TestReport>,
    /// The phase that failed, before the tests or after them, and what it said.
    pub failure: Option<(&'a str, &'a str)>,
}

fn case(target: &str, result: &TestResult) -> TestCase {
    let message = result.message.as_deref().unwrap_or("it said nothing");
    let first = message.lines().next().unwrap_or_default();
    let status = match result.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(first);
            status
        }
        Verdict::Failed => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            let location = result.location.as_deref().unwrap_or("-");
            status.set_message(first);
            status.set_description(format!("{location}\n{message}"));
            status
        }
    };
    let mut case = TestCase::new(result.name.clone(), status);
    case.set_classname(target.to_owned());
    case.set_time(Duration::from_millis(result.duration_milliseconds));
    case
}

fn error(name: &str, message: &str) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    // An attribute of XML has one line.
    status.set_message(message.lines().next().unwrap_or_default());
    status.set_description(message);
    TestCase::new(name.to_owned(), status)
}

#[cfg(test)]
mod tests {
    use super::{Outcome, document};
    use crate::pipeline::test::{TestReport, TestResult, Verdict};

    fn report(passed: bool) -> TestReport {
        TestReport {
            results: vec![TestResult {
                name: "a".to_owned(),
                verdict: match passed {
                    true => Verdict::Passed,
                    false => Verdict::Failed,
                },
                duration_milliseconds: 1,
                message: None,
                location: None,
            }],
            program_succeeded: passed,
        }
    }

    #[track_caller]
    fn check(passed: Option<bool>, failure: Option<(&str, &str)>, head: &str) {
        let report = passed.map(report);
        let outcome = Outcome {
            tests: report.as_ref(),
            failure,
        };
        let text = document("gateway", &outcome).unwrap();
        assert!(text.contains(head), "{text}");
        assert_eq!(text.contains("name=\"a\""), passed.is_some(), "{text}");
    }

    #[test]
    fn what_was_skipped_is_told_as_such() {
        let mut report = report(true);
        report.results[0].verdict = Verdict::Skipped;
        report.results[0].message = Some("no node".to_owned());
        let outcome = Outcome {
            tests: Some(&report),
            failure: None,
        };
        let text = document("gateway", &outcome).unwrap();
        assert!(text.contains("skipped=\"1\""), "{text}");
        assert!(text.contains("<skipped message=\"no node\"/>"), "{text}");
    }

    #[test]
    fn what_ran_is_told_whatever_failed_after_it() {
        let counts = |all, failures, errors| {
            format!(
                "name=\"gateway\" tests=\"{all}\" skipped=\"0\" errors=\"{errors}\" failures=\"{failures}\""
            )
        };
        check(Some(true), None, &counts(1, 0, 0));
        check(Some(false), Some(("test", "1 failed")), &counts(1, 1, 0));
        check(
            Some(true),
            Some(("attest again", "other")),
            &counts(2, 0, 1),
        );
        check(
            Some(false),
            Some(("attest again", "other")),
            &counts(2, 1, 1),
        );
        check(None, Some(("build", "no")), &counts(1, 0, 1));
        check(None, None, &counts(1, 0, 1));
    }
}
