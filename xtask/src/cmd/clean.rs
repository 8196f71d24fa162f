//! `clean`: removes what the tool made for this checkout and no living run uses: containers,
//! volumes, networks, folders of runs, what lies in the caches unused for two weeks and the images
//! that were loaded from it; with `--images` all images that were built here. Found by labels, one by one; never a prune.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;

use super::e2e;
use crate::cache;
use crate::cli;
use crate::cluster::context;
use crate::engine::{Engine, ask};
use crate::pipeline::build::PREBUILT;
use crate::pipeline::tag::archive_named;
use crate::process;
use crate::report;
use crate::run::{self, State};
use crate::source::workspace::Workspace;

/// The cache of archives.
const IMAGES: &str = "images";
/// Two weeks.
const CACHE_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const IMAGES_DEADLINE: Duration = Duration::from_secs(120);

/// Removes it, and says what.
///
/// # Errors
/// When something is left: names it.
pub fn run(workspace: &Workspace, options: &cli::Clean) -> Result<()> {
    let state = workspace.state_directory();
    e2e::sweep_left_server(workspace)?;
    // Without an engine there are no containers; the folders go all the same.
    let engines = Engine::all(&state).unwrap_or_else(|error| {
        report::note(&format!("no engine to ask for containers: {error}"));
        Vec::new()
    });
    for engine in &engines {
        for id in run::sweep_kept(workspace, engine)? {
            report::note(&format!("removed the containers of {id}"));
        }
    }
    // Last of what a run made: the kubeconfig that opens its cluster lies in its folder.
    let left = context::left::clean(workspace);
    remove_folders(workspace)?;
    let old = collect_caches(workspace)?;
    let mut archives: BTreeSet<String> = old.iter().filter_map(file_name).collect();
    let kept = match options.images {
        true => kept_archives(workspace)?,
        false => Vec::new(),
    };
    archives.extend(kept.iter().filter_map(file_name));
    if !archives.is_empty() {
        for engine in &engines {
            remove_images(engine, &archives)?;
        }
    }
    // Last: they tell which images are ours.
    for archive in kept {
        fs::remove_file(&archive).with_context(|| format!("cannot remove {archive}"))?;
    }
    left
}

/// Sources, binaries and archives that no run of this checkout has used for long.
fn collect_caches(workspace: &Workspace) -> Result<Vec<Utf8PathBuf>> {
    const CACHES: [&str; 4] = ["objects", "bin", IMAGES, PREBUILT];
    let state = workspace.state_directory();
    let mut removed = Vec::new();
    for cache in CACHES {
        removed.extend(cache::collect(&state.join(cache), CACHE_AGE_MAX)?);
    }
    let freed_bytes: u64 = removed.iter().map(|file| file.bytes).sum();
    if freed_bytes > 0 {
        report::note(&format!(
            "removed {} MB unused for two weeks",
            freed_bytes / 1_000_000
        ));
    }
    Ok(removed.into_iter().map(|file| file.path).collect())
}

/// The archives of images that lie in this build folder.
fn kept_archives(workspace: &Workspace) -> Result<Vec<Utf8PathBuf>> {
    let folder = workspace.state_directory().join(IMAGES);
    let Ok(entries) = folder.read_dir_utf8() else {
        return Ok(Vec::new());
    };
    entries
        .map(|entry| Ok(entry?.into_path()))
        .filter(|path| {
            path.as_ref()
                .is_ok_and(|path| path.extension() == Some("tar"))
        })
        .collect()
}

fn file_name(path: &Utf8PathBuf) -> Option<String> {
    path.file_name().map(str::to_owned)
}

fn remove_folders(workspace: &Workspace) -> Result<()> {
    e2e::jobs::remove_left(&workspace.state_directory())?;
    let mut count = run::remove_nameless(workspace)?;
    let checkout = run::checkout(&workspace.root);
    for record in run::list(workspace)? {
        if record.checkout.as_ref() != Some(&checkout) {
            continue;
        }
        match record.state {
            State::Running => report::note(&format!("{} lives and stays", record.id)),
            State::Kept => report::note(&format!("{} is kept and stays", record.id)),
            State::Ended | State::Dead if context::left::is_left(&record.directory) => {
                report::note(&format!("{} has a namespace and stays", record.id));
            }
            State::Ended | State::Dead => {
                let folder = &record.directory;
                fs::remove_dir_all(folder).with_context(|| format!("cannot remove {folder}"))?;
                count += 1;
            }
        }
    }
    report::note(&format!("removed the folders of {count} runs"));
    Ok(())
}

/// The images that were loaded from these archives. Another checkout with the same sources may use
/// one too, so this asks the engine to refuse what a container still uses.
fn remove_images(engine: &Engine, archives: &BTreeSet<String>) -> Result<()> {
    let listing = engine
        .invocation()
        .args(["images", "--filter"])
        .arg(format!("label={}", crate::run::LABEL_TARGET))
        .args(["--format", "{{.Repository}}:{{.Tag}}"]);
    let listed = ask::capture(&listing)?.stdout;
    let loaded = |reference: &&str| archives.contains(&archive_named(reference));
    let mut count = 0;
    for reference in listed.lines().filter(loaded) {
        let removal = engine.invocation().args(["rmi", reference]);
        let output = process::output(&removal, IMAGES_DEADLINE)?;
        if output.code == 0 {
            count += 1;
        } else {
            report::note(&format!("{reference} stays: {}", output.stderr.trim()));
        }
    }
    report::note(&format!("removed {count} images"));
    Ok(())
}
