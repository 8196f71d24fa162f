//! `clean`: removes what the tool made for this checkout and no living run uses: containers,
//! volumes, networks, folders of runs, what lies in the caches unused for two weeks; with
//! `--images` the images of our services. Found by labels, one by one; never a prune.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cache;
use crate::cli;
use crate::engine::Engine;
use crate::process;
use crate::report;
use crate::run::{self, State};
use crate::source::workspace::Workspace;

/// Two weeks.
const CACHE_AGE_MAX: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const IMAGES_DEADLINE: Duration = Duration::from_secs(120);

/// Removes it, and says what.
///
/// # Errors
/// When something is left: names it.
pub fn run(workspace: &Workspace, options: &cli::Clean) -> Result<()> {
    let state = workspace.state_directory();
    // Without an engine there are no containers; the folders go all the same.
    match Engine::all(&state) {
        Ok(engines) => {
            for engine in &engines {
                for id in run::sweep_kept(workspace, engine)? {
                    report::note(&format!("removed the containers of {id}"));
                }
                if options.images {
                    remove_images(engine)?;
                }
            }
        }
        Err(error) => report::note(&format!("no engine to ask for containers: {error}")),
    }
    remove_folders(workspace)?;
    collect_caches(workspace)
}

/// Sources, binaries and archives that no run of this checkout has used for long.
fn collect_caches(workspace: &Workspace) -> Result<()> {
    const CACHES: [&str; 3] = ["objects", "bin", "images"];
    let state = workspace.state_directory();
    let mut freed_bytes = 0;
    for cache in CACHES {
        freed_bytes += cache::collect(&state.join(cache), CACHE_AGE_MAX)?;
    }
    if freed_bytes > 0 {
        report::note(&format!(
            "removed {} MB unused for two weeks",
            freed_bytes / 1_000_000
        ));
    }
    Ok(())
}

fn remove_folders(workspace: &Workspace) -> Result<()> {
    let mut count = 0;
    let checkout = run::checkout(&workspace.root);
    for record in run::list(workspace)? {
        if record.checkout.as_ref() != Some(&checkout) {
            continue;
        }
        match record.state {
            State::Running => report::note(&format!("{} lives and stays", record.id)),
            State::Kept => report::note(&format!("{} is kept and stays", record.id)),
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

/// Images are shared by every checkout that has the same sources, so this one asks the engine to
/// refuse what a container still uses.
fn remove_images(engine: &Engine) -> Result<()> {
    let listing = engine
        .invocation()
        .args(["images", "--filter"])
        .arg(format!("label={}", crate::run::LABEL_TARGET))
        .args(["--format", "{{.Repository}}:{{.Tag}}"]);
    let listed = process::capture(&listing, IMAGES_DEADLINE)?.stdout;
    let mut count = 0;
    for reference in listed.lines() {
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
