//! `junit.xml`: the tests of a run for whoever reads that format. A run that ended before its tests
//! has one case, the phase that failed, so that no reader takes an empty report for a green one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::pipeline::test::{TestReport, TestResult};

/// Writes the report of a run to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Utf8Path, target: &str, outcome: &Outcome<'_>) -> Result<()> {
    let mut suite = TestSuite::new(target);
    match outcome {
        Outcome::Tested(report) => {
            suite.add_test_cases(report.results.iter().map(|result| case(target, result)));
            if !report.green() && report.results.iter().all(|result| result.passed) {
                suite.add_test_case(error("test program", report.verdict().as_str()));
            }
        }
        Outcome::Failed { phase, message } => {
            suite.add_test_case(error(phase, message));
        }
    }
    let mut report = Report::new("phase-zero");
    report.add_test_suite(suite);
    let text = report.to_string().context("cannot write JUnit XML")?;
    std::fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

/// What there is to report.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// The tests ran.
    Tested(&'a TestReport),
    /// A phase failed before the tests, or after them.
    Failed {
        /// Its name.
        phase: &'a str,
        /// What it said.
        message: &'a str,
    },
}

fn case(target: &str, result: &TestResult) -> TestCase {
    let status = if result.passed {
        TestCaseStatus::success()
    } else {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(result.message.clone().unwrap_or_default());
        if let Some(location) = &result.location {
            status.set_description(location.clone());
        }
        status
    };
    let mut case = TestCase::new(result.name.clone(), status);
    case.set_classname(target.to_owned());
    case.set_time(Duration::from_millis(result.duration_milliseconds));
    case
}

fn error(name: &str, message: &str) -> TestCase {
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    status.set_message(message.to_owned());
    TestCase::new(name.to_owned(), status)
}
