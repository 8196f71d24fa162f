//! What GitHub Actions shows beside a log: sections that fold, an annotation at the line of each
//! failed test, a table on the job's page. Elsewhere there is none of it. The form of these lines is
//! GitHub's: "Workflow commands for GitHub Actions".

use std::env;
use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::pipeline::test::{TestReport, TestResult};

/// A job of GitHub Actions, in which this command runs.
#[derive(Clone, Debug)]
pub struct Job {
    /// What is written there in Markdown stands on the job's page.
    summary: Option<Utf8PathBuf>,
    /// What is written there as `name=value` is an output of the step.
    outputs: Option<Utf8PathBuf>,
}

impl Job {
    /// The job of this process, if it is in one.
    #[must_use]
    pub fn here() -> Option<Self> {
        let inside = env::var("GITHUB_ACTIONS").is_ok_and(|value| value == "true");
        let named = |name: &str| env::var(name).ok().map(Utf8PathBuf::from);
        inside.then(|| Self {
            summary: named("GITHUB_STEP_SUMMARY"),
            outputs: named("GITHUB_OUTPUT"),
        })
    }

    /// Begins a section that folds.
    pub fn open_section(&self, name: &str) {
        crate::report::say!("::group::{}", data(name));
    }

    /// Ends it.
    pub fn close_section(&self) {
        crate::report::say!("::endgroup::");
    }

    /// Marks the line of every failed test of a target.
    pub fn annotate(&self, target: &str, report: &TestReport) {
        for test in report.failed() {
            crate::report::say!("{}", annotation(target, test));
        }
    }

    /// Puts a table on the job's page; the first row is its head.
    ///
    /// # Errors
    /// When the file that GitHub named cannot be written.
    pub fn summarise(&self, title: &str, rows: &[Vec<String>]) -> Result<()> {
        let Some(path) = &self.summary else {
            return Ok(());
        };
        append(path, &markdown(title, rows))
            .with_context(|| format!("cannot write GITHUB_STEP_SUMMARY {path}"))
    }

    /// Makes a text of one line an output of the step.
    ///
    /// # Errors
    /// When the file that GitHub named cannot be written.
    pub fn output(&self, name: &str, line: &str) -> Result<()> {
        let Some(path) = &self.outputs else {
            return Ok(());
        };
        append(path, &format!("{name}={line}\n"))
            .with_context(|| format!("cannot write GITHUB_OUTPUT {path}"))
    }
}

fn append(path: &Utf8Path, text: &str) -> std::io::Result<()> {
    let mut file = File::options().append(true).create(true).open(path)?;
    file.write_all(text.as_bytes())
}

fn annotation(target: &str, test: &TestResult) -> String {
    let mut properties = Vec::new();
    let mut place = test.location.as_deref().unwrap_or_default().split(':');
    for name in ["file", "line", "col"] {
        if let Some(value) = place.next().filter(|value| !value.is_empty()) {
            properties.push(format!("{name}={}", property(value)));
        }
    }
    let title = format!("{target}: {}", test.name);
    properties.push(format!("title={}", property(&title)));
    let message = test.message.as_deref().unwrap_or("it said nothing");
    format!("::error {}::{}", properties.join(","), data(message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

fn markdown(title: &str, rows: &[Vec<String>]) -> String {
    let mut text = format!("### {title}\n\n");
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().map(|cell| cell_text(cell)).collect();
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
        if index == 0 {
            text.push_str(&format!("|{}\n", " --- |".repeat(row.len())));
        }
    }
    text.push('\n');
    text
}

fn cell_text(text: &str) -> String {
    text.replace('|', "\\|").replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::{annotation, markdown};
    use crate::pipeline::test::TestResult;

    fn failed(message: &str, location: Option<&str>) -> TestResult {
        TestResult {
            name: "signals::counted".to_owned(),
            verdict: crate::pipeline::test::Verdict::Failed,
            duration_milliseconds: 1,
            message: Some(message.to_owned()),
            location: location.map(str::to_owned),
        }
    }

    #[test]
    fn a_failed_test_is_marked_at_its_line() {
        let test = failed("100% wrong:\nleft", Some("test-e2e/tests/gateway.rs:12:5"));
        assert_eq!(
            annotation("gateway", &test),
            "::error file=test-e2e/tests/gateway.rs,line=12,col=5,\
             title=gateway%3A signals%3A%3Acounted::100%25 wrong:%0Aleft"
        );
        assert_eq!(
            annotation("gateway", &failed("x", None)),
            "::error title=gateway%3A signals%3A%3Acounted::x"
        );
    }

    #[test]
    fn a_table_has_its_head_and_keeps_its_columns() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(
            markdown("e2e", &[row(["target", "verdict"]), row(["a|b", "red\nx"])]),
            "### e2e\n\n| target | verdict |\n| --- | --- |\n| a\\|b | red x |\n\n"
        );
    }
}
