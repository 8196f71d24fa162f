//! Phase 6: the tests of the target, from outside, against what was proved.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::attest::Attested;
use super::build::TestProgram;
use crate::run::Run;

/// A test that ran.
#[derive(Clone, Debug, Serialize)]
pub struct TestResult {
    /// Its name.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// Its duration.
    pub duration_milliseconds: u64,
    /// What it said when it failed.
    pub message: Option<String>,
    /// `test-e2e/tests/gateway.rs:12`.
    pub location: Option<String>,
}

/// What the tests said. No test is no success.
#[derive(Clone, Debug, Serialize)]
pub struct TestReport {
    /// Every test that began.
    pub results: Vec<TestResult>,
    /// The program ended with 0.
    pub program_succeeded: bool,
}

impl TestReport {
    /// At least one test ran and all passed.
    #[must_use]
    pub fn green(&self) -> bool {
        self.program_succeeded
            && !self.results.is_empty()
            && self.results.iter().all(|result| result.passed)
    }
}

/// Runs the tests, those whose name matches a filter if there are any.
///
/// # Errors
/// When the program cannot be run or does not end in time; failing tests are no error.
pub fn test(
    _run: &Run,
    _attested: &Attested,
    _program: &TestProgram,
    _filters: &[String],
    _deadline: Duration,
) -> Result<TestReport> {
    todo!()
}
