//! `matrix`: the targets as one line of JSON, for a workflow that has one job for each. In a job of
//! GitHub Actions it is the output `matrix` of the step as well. It lists what the workspace says.

use anyhow::Result;
use serde::Serialize;

use super::print_data;
use crate::report::github::Job;
use crate::source::workspace::{Target, Workspace};

#[derive(Debug, Serialize)]
struct Matrix<'a> {
    include: Vec<Entry<'a>>,
}

/// One job.
#[derive(Debug, Serialize)]
struct Entry<'a> {
    target: &'a str,
    /// What has an image in its runs, besides the target itself.
    needs: Vec<&'a str>,
}

/// Prints `{"include":[{"target":"gateway","needs":["datastorage"]},...]}`.
///
/// # Errors
/// When it cannot be written.
pub fn run(workspace: &Workspace) -> Result<()> {
    let include = workspace.targets.values().map(entry).collect();
    let line = serde_json::to_string(&Matrix { include })?;
    if let Some(job) = Job::here() {
        job.output("matrix", &line)?;
    }
    print_data(&format!("{line}\n"))
}

fn entry(target: &Target) -> Entry<'_> {
    let packages = target.packages().iter();
    let names = packages.map(|package| package.as_str());
    let target = target.name.as_str();
    Entry {
        target,
        needs: names.filter(|&name| name != target).collect(),
    }
}
