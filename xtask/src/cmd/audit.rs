//! `audit`: for this workspace, the reference of each target in each phase, and every wrong tag
//! pattern in the tree. It reads, and computes what a run would use; it builds nothing.
//! `docs/image-tags.md` explains the patterns.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use super::{print_data, tag};
use crate::exit::{Exit, Failure};
use crate::manifest::{Manifests, References};
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::tag::Repository;
use crate::report::table;
use crate::source::workspace::{Target, Workspace};

mod call;
mod command;
mod entry;
pub(super) mod lexer;
mod reference;
mod scan;
mod source;
mod template;
pub(super) mod test_items;

pub use self::reference::Names;
pub use self::scan::{Finding, Pattern, scan};

/// Prints table and findings.
///
/// # Errors
/// [`Exit::Red`] when something was found.
pub fn run(workspace: &Workspace) -> Result<()> {
    let findings = scan(&workspace.root, &names(workspace))?;
    // A manifest that a run refuses has no row; what is wrong in the tree is told all the same.
    let rows = workspace
        .targets
        .values()
        .map(|target| row(workspace, target))
        .collect::<Result<Vec<_>>>();
    let (rows, refused) = match rows {
        Ok(rows) => (rows, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    print_data(&text(&rows, &findings))?;
    let wrong = rows.len() - distinct(&rows) + rows.iter().filter(|row| !row.agrees()).count();
    let message = match findings.len() + wrong {
        0 => return refused.map_or(Ok(()), Err),
        1 => "1 wrong tag pattern".to_owned(),
        count => format!("{count} wrong tag patterns"),
    };
    let failure = Failure::new(Exit::Red, message)
        .hint("docs/image-tags.md has the right pattern, and each wrong one");
    Err(match refused {
        Some(error) => failure.caused_by(error),
        None => failure,
    }
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

/// A target, and the references of its phases. Build and load have no other way to one than the
/// result of phase 0, so theirs is that by construction.
#[derive(Debug)]
struct Row {
    target: String,
    tag: String,
    /// As phase 0 makes it.
    reference: String,
    /// What the manifests start, as they are read for a roll-out.
    deploy: String,
}

impl Row {
    fn agrees(&self) -> bool {
        self.deploy == self.reference
    }
}

/// Phase 0 as a run does it, and the manifests read and filled as for a roll-out.
fn row(workspace: &Workspace, target: &Target) -> Result<Row> {
    let images = tag::compute(
        workspace,
        target,
        Profile::E2e,
        (Repository::localhost(), None),
    )?;
    let image = images
        .get(&workspace.against)
        .with_context(|| format!("{} has no image of {}", target.name, workspace.against))?;
    let reference = image.reference().to_string();
    let manifests = Manifests::read(workspace, target.manifests())?;
    let references = References::planned(&images, target.third_party());
    let deployed = manifests.references_in(&references)?;
    let deployed = deployed.get(workspace.against.as_str());
    let deployed: Vec<&str> = deployed.into_iter().flatten().map(String::as_str).collect();
    Ok(Row {
        target: target.name.to_string(),
        tag: image.reference().tag().to_owned(),
        deploy: deployed.join(" "),
        reference,
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
        let (pattern, verdict) = match (shared, row.agrees()) {
            (false, true) => ("tagged once, in phase 0", "right"),
            (true, _) => ("shared image", "wrong"),
            (false, false) => ("made at deploy time", "wrong"),
        };
        let mut line = vec![row.target.clone(), row.tag.clone()];
        // A reference is long; where it is that of phase 0, its tag stands beside it already.
        line.extend([&row.reference, &row.reference, &row.deploy].map(|phase| {
            match *phase == row.reference {
                true => "this tag".to_owned(),
                false => phase.clone(),
            }
        }));
        line.extend([pattern.to_owned(), verdict.to_owned()]);
        lines.push(line);
    }
    let mut text = String::new();
    if let Some(repository) = rows.first().and_then(|row| row.reference.split(':').next()) {
        text.push_str(&format!("each reference is {repository}:<tag>\n"));
    }
    if !rows.is_empty() {
        text.push_str(&table::layout(&lines));
    }
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
