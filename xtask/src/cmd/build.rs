//! `build`: the images of a target, or of all, with their tags and IDs, for another job in a folder
//! or a registry; deploys nothing.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::{print_data, room, setup};
use crate::cli;
use crate::engine::Platform;
use crate::pipeline::Images;
use crate::pipeline::build::prebuilt::{LIST, Listed};
use crate::pipeline::build::recipe::Profile;
use crate::pipeline::build::{Built, Options, build_images};
use crate::pipeline::push::push;
use crate::pipeline::tag::{Inputs, Repository, tag};
use crate::registry::Registry;
use crate::report;
use crate::report::receipt::write_json;
use crate::source::workspace::{Target, Workspace};

/// Prints reference and image ID of each image; with a folder, writes archives and `images.json`
/// there; with `--push`, pushes them, and prints reference and manifest digest.
///
/// # Errors
/// An unknown target, sources that do not build, a folder that cannot be written, a registry that
/// does not take them.
pub fn run(workspace: &Workspace, options: &cli::Build) -> Result<()> {
    let targets: Vec<&Target> = match &options.target {
        Some(name) => vec![workspace.target(name)?],
        None => workspace.targets.values().collect(),
    };
    if let Some(directory) = &options.output {
        super::check_folder("--output", directory)?;
    }
    if options.yes {
        let besides = setup::Besides {
            bundle: None,
            registry: options.push,
        };
        setup::ensure(workspace, setup::Purpose::Build, besides)?;
    }
    let repository = options
        .registry
        .clone()
        .unwrap_or_else(Repository::localhost);
    if options.push {
        // Whether it can be asked is told before minutes are spent on a build.
        Registry::new(&repository)?;
    }
    let builds_first = options.no_cache || room::builds_first(workspace, options.profile);
    room::demand(workspace, builds_first, None, None)?;
    let mut list = Vec::new();
    for target in targets {
        let (profile, no_cache) = (options.profile, options.no_cache);
        let images = build_target(workspace, target, profile, &repository, no_cache)?;
        if let Some(directory) = &options.output {
            list.extend(copy_to(directory, target, &images)?);
        }
        match options.push {
            true => print_pushed(images, &repository)?,
            false => print_built(&images)?,
        }
    }
    match &options.output {
        Some(directory) => write_json(&directory.join(LIST), &list),
        None => Ok(()),
    }
}

fn print_built(images: &Images<Built>) -> Result<()> {
    images.iter().try_for_each(|(_, image)| {
        let (reference, id) = (image.reference(), image.image_id().oci());
        print_data(&format!("{reference} {id}\n"))
    })
}

fn print_pushed(images: Images<Built>, repository: &Repository) -> Result<()> {
    let begun = Instant::now();
    let pushed = push(images, repository)?;
    let already_count = pushed
        .iter()
        .filter(|(_, image)| image.already_there())
        .count();
    let (target, total) = (pushed.frozen().target(), pushed.iter().count());
    let what = format!("{target}: {total} images to {repository}, {already_count} there already");
    report::line("pushed", &what, begun.elapsed());
    pushed.iter().try_for_each(|(_, image)| {
        let (reference, digest) = (image.built().reference(), image.manifest().oci());
        print_data(&format!("{reference}@{digest}\n"))
    })
}

/// Copies the archives, and gives their entries in the list.
fn copy_to(directory: &Utf8Path, target: &Target, images: &Images<Built>) -> Result<Vec<Listed>> {
    let platform = images.frozen().platform().to_string();
    images
        .iter()
        .map(|(_, image)| {
            let (from, entry) = (image.archive(), Listed::of(&target.name, &platform, image)?);
            let to = directory.join(entry.archive());
            fs::copy(from, &to).with_context(|| format!("cannot copy {from} to {to}"))?;
            Ok(entry)
        })
        .collect()
}

/// Phases 0 and 1 of one target, without its tests.
pub(super) fn build_target(
    workspace: &Workspace,
    target: &Target,
    profile: Profile,
    repository: &Repository,
    no_cache: bool,
) -> Result<Images<Built>> {
    let state = workspace.state_directory();
    let tagged = tag(&Inputs {
        workspace,
        target,
        repository: repository.clone(),
        platform: Platform::host()?,
        profile,
        prebuilt: None,
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
