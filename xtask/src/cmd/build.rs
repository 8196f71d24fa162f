//! `build`: the images of a target, or of all, with their tags and IDs; deploys nothing.

use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::{print_data, room};
use crate::cli;
use crate::digest::Digest;
use crate::engine::Platform;
use crate::pipeline::Images;
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::build::{Built, Options, build_images};
use crate::pipeline::tag::{Inputs, Repository, tag};
use crate::report::receipt::write_json;
use crate::source::workspace::{Target, Workspace};

/// An entry of `images.json`.
#[derive(Debug, Serialize)]
struct Image {
    package: String,
    target: String,
    reference: String,
    source_digest: Digest,
    recipe_digest: Digest,
    binary_digest: Digest,
    image_id: String,
    manifest_digest: String,
    platform: String,
    archive: String,
}

/// Prints reference and image ID of each image; with a folder, writes archives and `images.json` there.
///
/// # Errors
/// An unknown target, sources that do not build, a folder that cannot be written.
pub fn run(workspace: &Workspace, options: &cli::Build) -> Result<()> {
    let targets: Vec<&Target> = match &options.target {
        Some(name) => vec![workspace.target(name)?],
        None => workspace.targets.values().collect(),
    };
    if let Some(directory) = &options.output {
        super::check_folder("--output", directory)?;
    }
    let builds_first = options.no_cache || room::builds_first(workspace, options.profile);
    room::demand(workspace, builds_first, None, None)?;
    let mut list = Vec::new();
    for target in targets {
        let images = build_target(workspace, target, options.profile, options.no_cache)?;
        let platform = images.frozen().platform().to_string();
        for (_, image) in images.iter() {
            print_data(&format!(
                "{} {}\n",
                image.reference(),
                image.image_id().oci()
            ))?;
            let entry = describe(target, image, &platform);
            if let Some(directory) = &options.output {
                copy(image.archive(), &directory.join(&entry.archive))?;
            }
            list.push(entry);
        }
    }
    match &options.output {
        Some(directory) => write_json(&directory.join("images.json"), &list),
        None => Ok(()),
    }
}

/// Phases 0 and 1 of one target, without its tests.
pub(super) fn build_target(
    workspace: &Workspace,
    target: &Target,
    profile: Profile,
    no_cache: bool,
) -> Result<Images<Built>> {
    let state = workspace.state_directory();
    let tagged = tag(&Inputs {
        workspace,
        target,
        repository: Repository::localhost(),
        platform: Platform::host()?,
        profile,
        keep_in: Some(&state),
    })?;
    let archives = archives_directory(workspace)?;
    build_images(
        workspace,
        tagged,
        &Options {
            no_cache,
            archives: &archives,
            log: &state.join("build.log"),
        },
    )
}

/// Where archives lie until they are loaded: named by tag, so runs share what is equal.
pub(super) fn archives_directory(workspace: &Workspace) -> Result<Utf8PathBuf> {
    let directory = workspace.state_directory().join("images");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {directory}"))?;
    Ok(directory)
}

fn describe(target: &Target, image: &Built, platform: &str) -> Image {
    let reference = image.reference();
    Image {
        package: reference.package().to_string(),
        target: target.name.to_string(),
        reference: reference.to_string(),
        source_digest: image.source(),
        recipe_digest: image.recipe(),
        binary_digest: image.binary(),
        image_id: image.image_id().oci(),
        manifest_digest: image.manifest().oci(),
        platform: platform.to_owned(),
        archive: format!("{}_{}.oci.tar", reference.package(), reference.tag()),
    }
}

fn copy(from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    fs::copy(from, to)
        .map(|_| ())
        .with_context(|| format!("cannot copy {from} to {to}"))
}
