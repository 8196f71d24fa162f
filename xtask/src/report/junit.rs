//! `junit.xml`: the tests of a run for whoever reads that format. A run that ended before its tests
//! has one case, the phase that failed, so that no reader takes an empty report for a green one. Of
//! several targets there is one file more, with a suite for each.

use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::pipeline::test::{TestReport, TestResult, Verdict};
use crate::secrets::Blackout;

const NAME: &str = "phase-zero";
const NO_TEST: &str = "no test ran";

/// Its name, in the folder of a run and elsewhere.
pub const FILE: &str = "junit.xml";

/// Writes the report of a run to `path`. No secret of `blackout` gets in, wherever it stands.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write(
    path: &Utf8Path,
    target: &str,
    outcome: &Outcome<'_>,
    blackout: &Blackout,
) -> Result<()> {
    let text = document(target, outcome).context("cannot write JUnit XML")?;
    let text = blackout.over(text);
    std::fs::write(path, text).with_context(|| format!("cannot write {path}"))
}

/// One of several targets.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    /// Its name.
    pub(crate) target: &'a str,
    /// Where the report of its run lies, if there is one.
    pub(crate) report: Option<Utf8PathBuf>,
    /// Why it is not green.
    pub(crate) error: Option<String>,
}

/// One report of several targets, with a suite for each. A target of which there is no report, or none
/// that can be read, has a case that says so.
///
/// # Errors
/// When it makes no XML.
pub(crate) fn combined(parts: &[Part<'_>]) -> Result<String> {
    let mut all = Report::new(NAME);
    for part in parts {
        let read = part.report.as_ref().map(|path| read(path)).transpose();
        let (suites, error) = match read {
            Ok(Some(report)) => (report.test_suites, None),
            Ok(None) => (Vec::new(), part.error.clone()),
            Err(error) => (Vec::new(), Some(format!("{error:#}"))),
        };
        match suites.is_empty() {
            false => drop(all.add_test_suites(suites)),
            true => {
                let mut suite = TestSuite::new(part.target);
                let error_text = error.as_deref().unwrap_or(NO_TEST);
                suite.add_test_case(self::error("run", error_text));
                all.add_test_suite(suite);
            }
        }
    }
    all.to_string().context("cannot write JUnit XML")
}

fn read(path: &Utf8Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Report::deserialize_from_str(&text).with_context(|| format!("cannot read {path}"))
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
        suite.add_test_case(error("run", NO_TEST));
    }
    let mut report = Report::new(NAME);
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
    use camino::Utf8Path;
    use quick_junit::Report;

    use super::{FILE, Outcome, Part, combined, document, write};
    use crate::pipeline::test::{TestReport, TestResult, Verdict};
    use crate::secrets::Blackout;

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
    fn several_targets_are_one_report_with_a_suite_for_each() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let written = |name: &str, passed| {
            let path = folder.join(name);
            let report = report(passed);
            let outcome = Outcome {
                tests: Some(&report),
                failure: None,
            };
            write(&path, name, &outcome, &Blackout::none()).unwrap();
            Some(path)
        };
        let torn = folder.join(FILE);
        std::fs::write(&torn, "<testsuites").unwrap();
        let part = |target, report, error: Option<&str>| Part {
            target,
            report,
            error: error.map(str::to_owned),
        };
        let text = combined(&[
            part("one", written("one", true), None),
            part("two", written("two", false), Some("1 failed")),
            part("three", None, Some("not run")),
            part("four", Some(torn), None),
        ])
        .unwrap();
        let all = Report::deserialize_from_str(&text).unwrap();
        let told: Vec<_> = all
            .test_suites
            .iter()
            .map(|suite| {
                (
                    suite.name.as_str(),
                    suite.tests,
                    suite.failures,
                    suite.errors,
                )
            })
            .collect();
        let wanted = [
            ("one", 1, 0, 0),
            ("two", 1, 1, 0),
            ("three", 1, 0, 1),
            ("four", 1, 0, 1),
        ];
        assert_eq!(told, wanted, "{text}");
        assert!(text.contains("not run"), "{text}");
        assert!(text.contains("cannot read"), "{text}");
        let sums = "tests=\"4\" skipped=\"0\" failures=\"1\" errors=\"2\"";
        assert!(text.contains(sums), "{text}");
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
