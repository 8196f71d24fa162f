//! An image of a bundle: loaded once, and from then on known by its ID in the engine's listing. A
//! reference that means another image there is refused, and never given a second meaning.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::checked;
use super::description::{self, ImageEntry, Packing};
use crate::digest::Digest;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::host::{
    self,
    room::{self, Need},
};
use crate::process::{self, Invocation};
use crate::report::{self, live};

/// An image of several hundred megabytes on a slow disk, unpacked by a slow processor.
const LOAD_DEADLINE: Duration = Duration::from_secs(900);
const REMOVE_DEADLINE: Duration = Duration::from_secs(120);
/// How much larger an image is than its packed archive, by the largest that was seen: 6.5 times.
const UNPACKED_RATIO: u64 = 7;

/// An image that the engine lists under its reference with its ID.
#[derive(Clone, Debug, Serialize)]
pub struct BundledImage {
    name: String,
    reference: String,
    image_id: String,
    /// Where the bundle has it.
    archive: Utf8PathBuf,
    sha256: Digest,
    provided: Provided,
}

/// How it got into the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provided {
    /// It was there, with the same ID; its archive was not read.
    AlreadyThere,
    /// It was loaded now.
    Loaded,
}

impl BundledImage {
    /// Its name in `bundle.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the engine calls it.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Its ID in the engine, `sha256:...`.
    #[must_use]
    pub fn image_id(&self) -> &str {
        &self.image_id
    }

    /// Whether it was there.
    #[must_use]
    pub const fn provided(&self) -> Provided {
        self.provided
    }

    /// Where it came from, in one line.
    #[must_use]
    pub fn origin(&self) -> String {
        let how = match self.provided {
            Provided::AlreadyThere => "already there",
            Provided::Loaded => "loaded",
        };
        format!("bundle {} sha256:{}, {how}", self.archive, self.sha256)
    }
}

/// How an image stands with an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageStanding {
    /// The engine has it.
    Loaded,
    /// It would be loaded from this archive, of so many bytes.
    InBundle(Utf8PathBuf, u64),
}

pub(super) fn look(
    folder: &Utf8Path,
    entry: &ImageEntry,
    engine: &Engine,
) -> Result<ImageStanding> {
    let archive = folder.join(&entry.file);
    check_platform(&archive, entry, engine)?;
    if is_loaded(folder, entry, engine)? {
        return Ok(ImageStanding::Loaded);
    }
    let length_bytes = check_archive(&archive, entry)?;
    Ok(ImageStanding::InBundle(archive, length_bytes))
}

pub(super) fn provide(
    folder: &Utf8Path,
    name: &str,
    entry: &ImageEntry,
    engine: &Engine,
) -> Result<BundledImage> {
    let archive = folder.join(&entry.file);
    check_platform(&archive, entry, engine)?;
    let described = |provided| BundledImage {
        name: name.to_owned(),
        reference: entry.reference.clone(),
        image_id: entry.image_id.clone(),
        archive: archive.clone(),
        sha256: entry.sha256,
        provided,
    };
    if is_loaded(folder, entry, engine)? {
        return Ok(described(Provided::AlreadyThere));
    }
    let begun = Instant::now();
    let _lock = host::lock(&format!("bundle-image-{name}"))?;
    // Another command may have loaded it meanwhile.
    if is_loaded(folder, entry, engine)? {
        return Ok(described(Provided::AlreadyThere));
    }
    let length_bytes = check_archive(&archive, entry)?;
    let scratch = Scratch::make(name)?;
    demand_room(entry, engine, length_bytes, &scratch)?;
    let told = load(&archive, entry, engine, &scratch)?;
    drop(scratch);
    check_loaded(&archive, entry, engine, &told)?;
    let what = format!(
        "{} from {}",
        entry.reference,
        super::place(folder, &entry.file)
    );
    report::line("loaded", &what, begun.elapsed());
    Ok(described(Provided::Loaded))
}

fn check_platform(archive: &Utf8Path, entry: &ImageEntry, engine: &Engine) -> Result<()> {
    let here = engine.platform.to_string();
    description::check_platform(archive, entry.platform.as_deref(), &here)
}

/// Whether the engine lists the reference with the ID; with another one it is taken.
fn is_loaded(folder: &Utf8Path, entry: &ImageEntry, engine: &Engine) -> Result<bool> {
    match listed(entry, engine)? {
        None => Ok(false),
        Some(id) if id == entry.image_id => Ok(true),
        Some(id) => {
            let program = engine.kind.program();
            Err(Failure::new(
                Exit::Host,
                format!(
                    "{} is {id} in {program}, and the bundle {folder} has {} under that name",
                    entry.reference, entry.image_id
                ),
            )
            .hint(format!(
                "if nobody needs that image: `{program} image rm {}`; the bundle's is then loaded",
                entry.reference
            ))
            .into())
        }
    }
}

fn listed(entry: &ImageEntry, engine: &Engine) -> Result<Option<String>> {
    let mut found = engine.images([entry.reference.as_str()])?;
    Ok(found.remove(&entry.reference).map(|facts| facts.id))
}

/// Its length in bytes.
fn check_archive(archive: &Utf8Path, entry: &ImageEntry) -> Result<u64> {
    let found = checked::digest_of(archive)?;
    if found != entry.sha256 {
        return Err(description::another_checksum(archive, found, entry.sha256));
    }
    let metadata =
        fs::metadata(archive).map_err(|error| description::unreadable(archive, error))?;
    Ok(metadata.len())
}

/// Where podman puts the archive while it loads it, and what it takes from that: it leaves both
/// behind when it is ended. What a command that was killed has left goes with the next one, since
/// the caller holds the lock of this image.
struct Scratch(Utf8PathBuf);

impl Scratch {
    fn make(name: &str) -> Result<Self> {
        let folder = host::cache_directory()?.join(format!("bundle-loading-{name}"));
        let scratch = Self(folder);
        scratch.remove()?;
        let Self(folder) = &scratch;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
        Ok(scratch)
    }

    fn remove(&self) -> Result<()> {
        let Self(folder) = self;
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {folder}"))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            report::note(&format!("{error:#}"));
        }
    }
}

/// The image, and beside it the archive and its layers, twice, while they are loaded.
fn demand_room(
    entry: &ImageEntry,
    engine: &Engine,
    length_bytes: u64,
    Scratch(folder): &Scratch,
) -> Result<()> {
    let unpacked_bytes = match entry.packing {
        Packing::Readable { gzip: false } => length_bytes,
        Packing::Readable { gzip: true } | Packing::Zstd { .. } => length_bytes * UNPACKED_RATIO,
    };
    let beside = Need {
        what: "an archive while it is loaded",
        path: folder.clone(),
        // podman 4.3 had 2.0 GB there for an image of 713 MB.
        bytes: 3 * unpacked_bytes,
        files: 100,
        fix: "free room there, or name a folder for caches on a larger disk: XDG_CACHE_HOME=<folder>",
    };
    let needs: Vec<Need> = engine
        .need_of_image(unpacked_bytes)
        .into_iter()
        .chain([beside])
        .collect();
    room::demand(&room::judge_disks(&needs, room::space))
}

/// Gives what the engine says of it.
fn load(
    archive: &Utf8Path,
    entry: &ImageEntry,
    engine: &Engine,
    Scratch(folder): &Scratch,
) -> Result<String> {
    let _activity = live::begin("loading", entry.reference.as_str());
    let load = engine
        .invocation()
        .env("TMPDIR", folder.as_str())
        .args(["load", "--quiet"]);
    let loaded = match entry.packing {
        Packing::Readable { .. } => {
            let load = load.args(["--input", archive.as_str()]);
            process::capture(&load, LOAD_DEADLINE)
        }
        Packing::Zstd { window_log } => {
            process::pipe(&unpack(archive, window_log)?, &load, LOAD_DEADLINE)
        }
    };
    let told = loaded.map_err(|error| {
        let what = format!("{} does not load {archive}", engine.kind.program());
        Failure::new(error.exit(), what).caused_by(error)
    })?;
    Ok(told.stdout)
}

fn unpack(archive: &Utf8Path, window_log: Option<u8>) -> Result<Invocation> {
    let program = host::program("zstd").ok_or_else(|| {
        let what = format!("{archive} is packed with zstd, and that is not installed");
        Failure::new(Exit::Host, what)
            .hint("`cargo xtask setup --yes --bundle DIR` installs it: the package is zstd")
    })?;
    let long = window_log.map(|log| format!("--long={log}"));
    Ok(Invocation::new(program.as_str())
        .args(["--decompress", "--stdout", "--quiet"])
        .args(long)
        .args(["--", archive.as_str()]))
}

/// The engine's own listing decides what the archive held. A wrong image does not keep the name,
/// which meant nothing before.
fn check_loaded(archive: &Utf8Path, entry: &ImageEntry, engine: &Engine, told: &str) -> Result<()> {
    let program = engine.kind.program();
    let ImageEntry {
        reference,
        image_id,
        ..
    } = entry;
    let refused = |what: String| -> Error {
        let fix = format!("mend {}, or copy the bundle again, whole", super::FILE);
        Failure::new(Exit::Host, what).hint(fix).into()
    };
    match listed(entry, engine)? {
        Some(id) if id == *image_id => Ok(()),
        Some(id) => {
            let remove = engine.invocation().args(["image", "rm", reference]);
            process::capture(&remove, REMOVE_DEADLINE)?;
            Err(refused(format!(
                "{archive} holds {id} under {reference}, and {image_id} is promised; \
                 {program} was made to forget that name again"
            )))
        }
        None => Err(refused(format!(
            "{archive} was loaded, and {program} lists no {reference} ({image_id} is promised); \
             it says: {}",
            told.trim()
        ))),
    }
}
