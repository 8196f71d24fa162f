//! A tool of a bundle: copied to the folder for caches under its checksum, so that it can be
//! executed where the bundle is read-only or may not be executed from, and so that what is
//! executed is what was checked.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::checked;
use super::description::{self, ToolEntry};
use crate::cache;
use crate::digest::Digest;
use crate::engine::Platform;
use crate::host;
use crate::report;

/// How long what another bundle gave is kept.
const UNUSED_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A tool that can be executed.
#[derive(Clone, Debug, Serialize)]
pub struct Tool {
    name: String,
    version: String,
    sha256: Digest,
    /// Where the bundle has it.
    file: Utf8PathBuf,
    /// What is executed.
    program: Utf8PathBuf,
}

impl Tool {
    /// Its name in `bundle.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, as `bundle.toml` tells it.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// What is executed: an absolute path.
    #[must_use]
    pub fn program(&self) -> &Utf8Path {
        &self.program
    }

    /// Of what is executed.
    #[must_use]
    pub const fn sha256(&self) -> Digest {
        self.sha256
    }
}

/// How a tool stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolStanding {
    /// It can be executed: here.
    Ready(Utf8PathBuf),
    /// It would be copied from here.
    InBundle(Utf8PathBuf),
}

/// Where tools are kept, and what is known of files; made if need be.
pub(super) fn cache() -> Result<Utf8PathBuf> {
    let folder = host::cache_directory()?.join("bundle");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    Ok(folder)
}

pub(super) fn look(folder: &Utf8Path, name: &str, entry: &ToolEntry) -> Result<ToolStanding> {
    let file = folder.join(&entry.file);
    check_platform(&file, entry)?;
    let program = program(name, entry)?;
    if is_ready(&program, entry)? {
        return Ok(ToolStanding::Ready(program));
    }
    let found = checked::digest_of(&file)?;
    match found == entry.sha256 {
        true => Ok(ToolStanding::InBundle(file)),
        false => Err(description::another_checksum(&file, found, entry.sha256)),
    }
}

pub(super) fn provide(folder: &Utf8Path, name: &str, entry: &ToolEntry) -> Result<Tool> {
    let file = folder.join(&entry.file);
    check_platform(&file, entry)?;
    let program = program(name, entry)?;
    if !is_ready(&program, entry)? {
        let begun = Instant::now();
        let _lock = host::lock(&format!("bundle-tool-{name}"))?;
        if !is_ready(&program, entry)? {
            copy(&file, &program, entry.sha256)?;
            cache::collect(&cache()?, UNUSED_MAX)?;
            let what = format!(
                "tool {name} {} from {}",
                entry.version,
                super::place(folder, &entry.file)
            );
            report::line("took", &what, begun.elapsed());
        }
    }
    Ok(Tool {
        name: name.to_owned(),
        version: entry.version.clone(),
        sha256: entry.sha256,
        file,
        program,
    })
}

fn check_platform(file: &Utf8Path, entry: &ToolEntry) -> Result<()> {
    let here = Platform::host()?.to_string();
    description::check_platform(file, entry.platform.as_deref(), &here)
}

/// Under its own name, so that its messages and the list of processes are the usual ones.
fn program(name: &str, entry: &ToolEntry) -> Result<Utf8PathBuf> {
    Ok(cache()?.join(entry.sha256.to_string()).join(name))
}

/// A copy that was damaged is made anew.
fn is_ready(program: &Utf8Path, entry: &ToolEntry) -> Result<bool> {
    let Ok(metadata) = program.symlink_metadata() else {
        return Ok(false);
    };
    let executable = metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o755;
    if !executable || checked::digest_of(program)? != entry.sha256 {
        return Ok(false);
    }
    cache::mark_used(program, &metadata);
    Ok(true)
}

/// Hashes what is written, and gives it its name only if that is what was promised.
fn copy(file: &Utf8Path, program: &Utf8Path, wanted: Digest) -> Result<()> {
    let from = File::open(file).map_err(|error| description::unreadable(file, error))?;
    let folder = program.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
    let mut temporary = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write in {folder}"))?;
    let found = checked::copy(from, &mut temporary)
        .with_context(|| format!("cannot copy {file} to {folder}"))?;
    if found != wanted {
        return Err(description::another_checksum(file, found, wanted));
    }
    temporary
        .as_file()
        .set_permissions(Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {program} executable"))?;
    temporary
        .persist(program)
        .with_context(|| format!("cannot write {program}"))?;
    Ok(())
}
