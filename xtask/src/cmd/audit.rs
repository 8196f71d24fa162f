//! `audit`: for this workspace, the reference of each target in each phase, and every wrong tag
//! pattern in the tree. It reads, and computes what a run would use; it builds nothing.
//! `docs/image-tags.md` explains the patterns.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{print_data, tag};
use crate::exit::{Exit, Failure};
use crate::pipeline::build::recipe::Profile;
use crate::report::table;
use crate::source::workspace::{Target, Workspace};

mod call;
mod command;
mod entry;
mod lexer;
mod reference;
mod scan;
mod source;
mod template;
mod test_items;

pub use self::reference::Names;
pub use self::scan::{Finding, Pattern, scan};

/// Prints table and findings.
///
/// # Errors
/// [`Exit::Red`] when something was found.
pub fn run(workspace: &Workspace) -> Result<()> {
    let rows = workspace
        .targets
        .values()
        .map(|target| row(workspace, target))
        .collect::<Result<Vec<_>>>()?;
    let findings = scan(&workspace.root, &names(workspace))?;
    print_data(&text(&rows, &findings))?;
    let shared = rows.len() - distinct(&rows);
    if findings.is_empty() && shared == 0 {
        return Ok(());
    }
    let message = format!("{} wrong tag patterns", findings.len() + shared);
    Err(Failure::new(Exit::Red, message)
        .hint("docs/image-tags.md has the right pattern, and each wrong one")
        .into())
}

/// What the tree is searched for.
#[must_use]
pub fn names(workspace: &Workspace) -> Names {
    Names {
        packages: workspace
            .packages
            .values()
            .filter(|package| package.e2e.is_some())
            .map(|package| package.name.to_string())
            .collect(),
        targets: workspace.targets.keys().map(ToString::to_string).collect(),
    }
}

/// A target, and the reference that each phase hands on.
#[derive(Debug)]
struct Row {
    target: String,
    tag: String,
    reference: String,
}

/// Phase 0 as a run does it. Build, load and deploy take the reference from its result and have no
/// other way to one, so there is one reference to show.
fn row(workspace: &Workspace, target: &Target) -> Result<Row> {
    let images = tag::compute(workspace, target, Profile::E2e)?;
    let reference = images
        .get(&workspace.against)
        .with_context(|| format!("{} has no image of {}", target.name, workspace.against))?
        .reference();
    Ok(Row {
        target: target.name.to_string(),
        tag: reference.tag().to_owned(),
        reference: reference.to_string(),
    })
}

fn distinct(rows: &[Row]) -> usize {
    let references: std::collections::BTreeSet<&str> =
        rows.iter().map(|row| row.reference.as_str()).collect();
    references.len()
}

fn text(rows: &[Row], findings: &[Finding]) -> String {
    let mut uses: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *uses.entry(&row.reference).or_default() += 1;
    }
    let head = [
        "target", "tag", "build", "load", "deploy", "pattern", "verdict",
    ];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        let shared = uses[row.reference.as_str()] > 1;
        let (pattern, verdict) = match shared {
            false => ("tagged once, in phase 0", "right"),
            true => ("shared image", "wrong"),
        };
        let mut line = vec![row.target.clone(), row.tag.clone()];
        line.extend(std::iter::repeat_n(row.reference.clone(), 3));
        line.extend([pattern.to_owned(), verdict.to_owned()]);
        lines.push(line);
    }
    let mut text = table::layout(&lines);
    for finding in findings {
        text.push_str(&format!(
            "{}:{}: {}: {}\n",
            finding.path, finding.line, finding.pattern, finding.text
        ));
    }
    if findings.is_empty() {
        text.push_str("no wrong pattern in manifests, workflows and Rust sources\n");
    }
    text
}
