//! Reads `bundle.toml` by a closed list. Everything that can be refused without opening another
//! file is refused here.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Error, Result};
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use serde::Deserialize;

use super::FILE;
use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// What `zstd --long` takes.
const WINDOW_LOG: std::ops::RangeInclusive<u8> = 10..=31;

/// A program.
#[derive(Debug)]
pub(super) struct ToolEntry {
    pub(super) file: Utf8PathBuf,
    pub(super) version: String,
    pub(super) sha256: Digest,
    /// `linux/amd64`; what says nothing is for any.
    pub(super) platform: Option<String>,
}

/// An image in an archive.
#[derive(Debug)]
pub(super) struct ImageEntry {
    pub(super) file: Utf8PathBuf,
    pub(super) reference: String,
    /// As the engine lists it, `sha256:...`.
    pub(super) image_id: String,
    pub(super) sha256: Digest,
    pub(super) packing: Packing,
    pub(super) platform: Option<String>,
}

/// How an archive is packed, by the end of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// `.tar`, `.tar.gz`: engines read both.
    Readable { gzip: bool },
    /// `.tar.zst`.
    Zstd { window_log: Option<u8> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    #[serde(default)]
    tool: BTreeMap<String, ToolTable>,
    #[serde(default)]
    image: BTreeMap<String, ImageTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolTable {
    file: Utf8PathBuf,
    version: String,
    sha256: String,
    platform: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageTable {
    file: Utf8PathBuf,
    reference: String,
    image_id: String,
    sha256: String,
    zstd_window_log: Option<u8>,
    platform: Option<String>,
}

type Entries = (BTreeMap<String, ToolEntry>, BTreeMap<String, ImageEntry>);

/// The real name of the folder.
pub(super) fn folder(folder: &Utf8Path) -> Result<Utf8PathBuf> {
    let refused = |what: &str| {
        Failure::new(Exit::Usage, format!("the bundle {folder}: {what}")).hint(format!(
            "name a folder with a {FILE}: `--bundle DIR` or E2E_BUNDLE"
        ))
    };
    match folder.canonicalize_utf8() {
        Ok(real) if real.is_dir() => Ok(real),
        Ok(_) => Err(refused("is not a folder").into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(refused("there is no such folder").into())
        }
        Err(error) => Err(refused("cannot be looked at").caused_by(error).into()),
    }
}

/// What the description in this folder says.
pub(super) fn read(folder: &Utf8Path) -> Result<Entries> {
    let path = folder.join(FILE);
    let text = fs::read_to_string(&path).map_err(|error| {
        let what = match error.kind() {
            ErrorKind::NotFound => format!("the bundle {folder} has no {FILE}"),
            _ => format!("cannot read {path}"),
        };
        Failure::new(Exit::Usage, what)
            .hint(format!(
                "name the folder with the {FILE}: `--bundle DIR` or E2E_BUNDLE"
            ))
            .caused_by(error)
    })?;
    let told: Description =
        toml::from_str(&text).map_err(|error| {
            Failure::new(Exit::Host, format!("{path}: {}", error.to_string().trim_end())).hint(
            "a bundle has [tool.<name>] with file, version, sha256, and [image.<name>] with file, \
             reference, image_id, sha256; each may have a platform, an image a zstd_window_log",
        )
        })?;
    let mut tools = BTreeMap::new();
    for (name, table) in told.tool {
        let place = Place {
            folder,
            kind: "tool",
            name: &name,
        };
        let entry = tool(&place, table)?;
        tools.insert(name, entry);
    }
    let mut images = BTreeMap::new();
    for (name, table) in told.image {
        let place = Place {
            folder,
            kind: "image",
            name: &name,
        };
        let entry = image(&place, table)?;
        check_alone(&place, &entry, &images)?;
        images.insert(name, entry);
    }
    Ok((tools, images))
}

/// The error of a name that the bundle does not have.
pub(super) fn absent(folder: &Utf8Path, kind: &str, name: &str) -> Error {
    let what = format!("{} has no [{kind}.{name}]", folder.join(FILE));
    Failure::new(Exit::Host, what).into()
}

/// A table, for its errors.
struct Place<'a> {
    folder: &'a Utf8Path,
    kind: &'static str,
    name: &'a str,
}

impl Place<'_> {
    fn refused(&self, key: &str, what: impl std::fmt::Display, fix: &str) -> Error {
        let Self { folder, kind, name } = self;
        let place = folder.join(FILE);
        Failure::new(
            Exit::Host,
            format!("{place}: [{kind}.{name}] {key}: {what}"),
        )
        .hint(fix)
        .into()
    }
}

fn tool(place: &Place<'_>, table: ToolTable) -> Result<ToolEntry> {
    check_name(place)?;
    if table.version.trim().is_empty() {
        return Err(place.refused("version", "is empty", "write what the tool says of itself"));
    }
    Ok(ToolEntry {
        file: file(place, table.file)?,
        version: table.version,
        sha256: checksum(place, &table.sha256)?,
        platform: platform(place, table.platform)?,
    })
}

fn image(place: &Place<'_>, table: ImageTable) -> Result<ImageEntry> {
    check_name(place)?;
    check_reference(place, &table.reference)?;
    let file = file(place, table.file)?;
    Ok(ImageEntry {
        packing: packing(place, &file, table.zstd_window_log)?,
        file,
        reference: table.reference,
        image_id: image_id(place, &table.image_id)?,
        sha256: checksum(place, &table.sha256)?,
        platform: platform(place, table.platform)?,
    })
}

/// A tool is kept under its name, and a lock has that of an image.
fn check_name(place: &Place<'_>) -> Result<()> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name = place.name;
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    let fix = "letters, digits, `.`, `_` and `-`, the first one a letter or a digit";
    Err(place.refused("name", format!("`{name}` cannot be one"), fix))
}

/// Inside the folder, also where links end. A file that is not there is told when it is needed.
fn file(place: &Place<'_>, file: Utf8PathBuf) -> Result<Utf8PathBuf> {
    const FIX: &str = "put the file into the folder, and write its name";
    let inside = |part: Utf8Component<'_>| matches!(part, Utf8Component::Normal(_));
    if file.as_str().is_empty() || !file.components().all(inside) {
        return Err(place.refused("file", format!("`{file}` leaves the folder"), FIX));
    }
    match place.folder.join(&file).canonicalize_utf8() {
        Ok(end) if !end.starts_with(place.folder) => {
            let what = format!("`{file}` leads out of the folder, to {end}");
            Err(place.refused("file", what, FIX))
        }
        _ => Ok(file),
    }
}

fn checksum(place: &Place<'_>, text: &str) -> Result<Digest> {
    let digest = text.parse::<Digest>().ok().filter(|_| !text.contains(':'));
    let what = || format!("`{text}` is not 64 lower-case hex digits");
    digest.ok_or_else(|| place.refused("sha256", what(), "write what `sha256sum` prints"))
}

fn image_id(place: &Place<'_>, text: &str) -> Result<String> {
    let digest = text.parse::<Digest>().ok().filter(|_| text.contains(':'));
    let what = || format!("`{text}` is not `sha256:` and 64 lower-case hex digits");
    let fix = "write the ID that `podman images --no-trunc` lists once it is loaded";
    let digest = digest.ok_or_else(|| place.refused("image_id", what(), fix))?;
    Ok(digest.oci())
}

fn platform(place: &Place<'_>, text: Option<String>) -> Result<Option<String>> {
    let known = |text: &String| ["linux/amd64", "linux/arm64"].contains(&text.as_str());
    match text {
        Some(text) if !known(&text) => {
            let what = format!("`{text}` is not known");
            Err(place.refused(
                "platform",
                what,
                "linux/amd64 or linux/arm64, or leave it out",
            ))
        }
        text => Ok(text),
    }
}

fn packing(place: &Place<'_>, file: &Utf8Path, window_log: Option<u8>) -> Result<Packing> {
    let name = file.as_str();
    let packing = if name.ends_with(".tar.zst") {
        Packing::Zstd { window_log }
    } else if name.ends_with(".tar") || name.ends_with(".tar.gz") {
        Packing::Readable {
            gzip: name.ends_with(".gz"),
        }
    } else {
        let what = format!("`{file}` is not an archive of a known kind");
        return Err(place.refused("file", what, "its name ends with .tar, .tar.gz or .tar.zst"));
    };
    let Some(log) = window_log else {
        return Ok(packing);
    };
    if matches!(packing, Packing::Readable { .. }) {
        let what = format!("`{file}` is not packed with zstd");
        return Err(place.refused("zstd_window_log", what, "leave it out"));
    }
    if !WINDOW_LOG.contains(&log) {
        let what = format!("{log} is not between 10 and 31");
        let fix = "write the number that was given to `zstd --long`, or leave it out";
        return Err(place.refused("zstd_window_log", what, fix));
    }
    Ok(packing)
}

/// Engines complete a short name by themselves, each in its own way.
fn check_reference(place: &Place<'_>, reference: &str) -> Result<()> {
    let split = reference.rsplit_once(':').and_then(|(name, tag)| {
        let (host, path) = name.split_once('/')?;
        Some((host, path, tag))
    });
    let lower = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "._-/".contains(character)
    };
    let word = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let sound = split.is_some_and(|(host, path, tag)| {
        (host == "localhost" || host.contains(['.', ':']))
            && host
                .chars()
                .all(|character| word(character) || character == ':')
            && path.split('/').all(|part| !part.is_empty())
            && path.chars().all(lower)
            && (1..=128).contains(&tag.len())
            && tag.chars().all(word)
    });
    if sound {
        return Ok(());
    }
    let what = format!("`{reference}` does not name registry, repository and tag");
    Err(place.refused(
        "reference",
        what,
        "write all of it: `docker.io/library/postgres:15-bookworm`",
    ))
}

/// One name means one image.
fn check_alone(
    place: &Place<'_>,
    entry: &ImageEntry,
    others: &BTreeMap<String, ImageEntry>,
) -> Result<()> {
    let same = others
        .iter()
        .find(|(_, other)| other.reference == entry.reference);
    let Some((other, _)) = same else {
        return Ok(());
    };
    let what = format!("[image.{other}] has `{}` as well", entry.reference);
    Err(place.refused("reference", what, "one table for each reference"))
}

/// The error of a file that the folder lacks, or of one that cannot be read.
pub(super) fn unreadable(path: &Utf8Path, error: std::io::Error) -> Error {
    let what = match error.kind() {
        ErrorKind::NotFound => format!("{path} is not there, and {FILE} names it"),
        _ => format!("cannot read {path}"),
    };
    Failure::new(Exit::Host, what)
        .hint("copy the bundle again, whole")
        .caused_by(error)
        .into()
}

/// The error of a file that is not the one that was described.
pub(super) fn another_checksum(path: &Utf8Path, found: Digest, wanted: Digest) -> Error {
    Failure::new(
        Exit::Host,
        format!("{path} has the checksum {found}, and {FILE} says {wanted}"),
    )
    .hint("copy the bundle again, whole; nothing of that file was used")
    .into()
}

/// Refuses what is for another machine.
pub(super) fn check_platform(path: &Utf8Path, told: Option<&str>, here: &str) -> Result<()> {
    let Some(told) = told.filter(|told| *told != here) else {
        return Ok(());
    };
    let what = format!("{path} is for {told}, and this is {here}");
    Err(Failure::new(Exit::Host, what)
        .hint("name a bundle for this machine")
        .into())
}
