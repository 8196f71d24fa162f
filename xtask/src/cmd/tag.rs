//! `tag`: computes the reference that a run of a target would use. Reads sources, builds nothing,
//! writes nothing but its answer.

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::print_data;
use crate::cli;
use crate::digest::Digest;
use crate::engine::Platform;
use crate::pipeline::Images;
use crate::pipeline::build::prebuilt::Prebuilt;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::tag::{Inputs, Repository, Tagged, tag};
use crate::secrets;
use crate::source::workspace::{Target, Workspace};

/// One image of a run, as `--json` tells it.
#[derive(Debug, Serialize)]
struct Image {
    package: String,
    reference: String,
    source_digest: Digest,
    recipe_digest: Digest,
    platform: String,
    /// Of what services declare of each other; the same for all.
    declared_digest: Digest,
}

/// Prints one line: the reference of what every target is tested against; or JSON of every image.
///
/// # Errors
/// An unknown target, or sources that cannot be hashed.
pub fn run(workspace: &Workspace, options: &cli::Tag) -> Result<()> {
    let target = workspace.target(&options.target)?;
    let repository = options
        .registry
        .clone()
        .unwrap_or_else(Repository::localhost);
    let images = compute(workspace, target, options.profile, (repository, None))?;
    if !options.json {
        let against = images
            .get(&workspace.against)
            .with_context(|| format!("{} has no image of {}", target.name, workspace.against))?;
        return print_data(&format!("{}\n", against.reference()));
    }
    let platform = images.frozen().platform().to_string();
    let declared_digest = secrets::declared_digest(workspace, target)?;
    let list: Vec<Image> = images
        .iter()
        .map(|(package, image)| Image {
            package: package.to_string(),
            reference: image.reference().to_string(),
            source_digest: image.source(),
            recipe_digest: image.recipe(),
            platform: platform.clone(),
            declared_digest,
        })
        .collect();
    print_data(&format!("{}\n", serde_json::to_string_pretty(&list)?))
}

/// Phase 0 without keeping the bytes: for commands that build nothing.
pub(super) fn compute(
    workspace: &Workspace,
    target: &Target,
    profile: Profile,
    (repository, prebuilt): (Repository, Option<&Prebuilt>),
) -> Result<Images<Tagged>> {
    tag(&Inputs {
        workspace,
        target,
        repository,
        platform: Platform::host()?,
        profile,
        prebuilt,
        keep_in: None,
    })
}
