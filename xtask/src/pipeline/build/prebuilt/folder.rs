//! Images in a folder, as `build --output` leaves them: archives, and `images.json`, which says
//! what they are. The list leads to an archive; what the archive holds is read from the archive,
//! and the two must agree in every word.

use std::fs;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::{ANEW, Offer, Wanted, Where, refused};
use crate::digest::Digest;
use crate::image::{Observed, ReadArchive};
use crate::pipeline::build::{Built, Labels};
use crate::source::workspace::{PackageName, TargetName};

/// The list of a folder.
pub const LIST: &str = "images.json";

/// An entry of [`LIST`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
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
    archive_sha256: Digest,
}

impl Listed {
    /// Of an image that was built here, whose archive is copied to the folder.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn of(target: &TargetName, platform: &str, image: &Built) -> Result<Self> {
        let (reference, archive) = (image.reference(), image.archive());
        let hash = || Ok::<_, std::io::Error>(Digest::of_reader(fs::File::open(archive)?)?.0);
        Ok(Self {
            package: reference.package().to_string(),
            target: target.to_string(),
            reference: reference.to_string(),
            source_digest: image.source(),
            recipe_digest: image.recipe(),
            binary_digest: image.binary(),
            image_id: image.image_id().oci(),
            manifest_digest: image.manifest().oci(),
            platform: platform.to_owned(),
            archive: reference.archive_name(),
            archive_sha256: hash().with_context(|| format!("cannot read {archive}"))?,
        })
    }

    /// What its archive is called in the folder.
    #[must_use]
    pub fn archive(&self) -> &str {
        &self.archive
    }
}

pub(super) fn read(folder: &Utf8Path) -> Result<Vec<Listed>> {
    let path = folder.join(LIST);
    let what = |words: &str| {
        refused(format!("{path} {words}"))
            .hint("`cargo xtask build --all --output DIR` writes the folder")
    };
    let text =
        fs::read_to_string(&path).map_err(|error| what("cannot be read").caused_by(error))?;
    let list = serde_json::from_str(&text)
        .map_err(|error| what("is not what `build --output` writes").caused_by(error))?;
    Ok(list)
}

pub(super) fn find(
    folder: &Utf8Path,
    list: &[Listed],
    package: &PackageName,
    wanted: &Wanted<'_>,
) -> Result<Offer> {
    let target = wanted.names.target();
    let found: Vec<&Listed> = list
        .iter()
        .filter(|entry| entry.package == package.as_str() && entry.target == target.as_str())
        .collect();
    let [entry] = found[..] else {
        let count = found.len();
        let what = format!("{folder}/{LIST} has {count} images of {package} for {target}, not one");
        return Err(refused(what)
            .hint(format!(
                "`cargo xtask build {target} --output DIR` writes those of {target}, `build --all` those of every target"
            ))
            .into());
    };
    if entry.archive.contains(['/', '\0']) || !entry.archive.ends_with(".oci.tar") {
        let what = format!(
            "{folder}/{LIST}: `{}` is no archive beside it",
            entry.archive
        );
        return Err(refused(what).hint(ANEW).into());
    }
    let path = folder.join(&entry.archive);
    let bytes = fs::read(&path).map_err(|error| {
        refused(format!("cannot read {path}"))
            .hint(ANEW)
            .caused_by(error)
    })?;
    let found = Digest::of(&bytes);
    if found != entry.archive_sha256 {
        let what = format!(
            "{path} is not the file that was written\n  {LIST}: {}\n  the file:    {found}",
            entry.archive_sha256
        );
        return Err(refused(what).hint("copy the folder again, whole").into());
    }
    let observed = ReadArchive::new(bytes)
        .and_then(|archive| archive.observe())
        .map_err(|error| {
            refused(format!("{path} is no archive of one image"))
                .hint(ANEW)
                .caused_by(error)
        });
    let (observed, names) = observed?;
    let mut names = names.into_iter();
    let (Some(name), None) = (names.next(), names.next()) else {
        let what = format!("{path} gives its image no name, or more than one");
        return Err(refused(what).hint(ANEW).into());
    };
    check_agrees(folder, entry, &name, &observed)?;
    wanted.admit(
        package,
        folder.as_str(),
        &name,
        observed,
        Where::Archive(path),
    )
}

/// The list says of the archive what the archive says of itself.
fn check_agrees(folder: &Utf8Path, entry: &Listed, name: &str, observed: &Observed) -> Result<()> {
    let labels = Labels::read(observed).map_err(|error| {
        refused(format!("{folder}/{}", entry.archive))
            .hint(ANEW)
            .caused_by(error)
    })?;
    for (field, listed, is) in [
        ("reference", entry.reference.as_str(), name),
        ("target", &entry.target, &labels.target),
        (
            "source_digest",
            &entry.source_digest.to_string(),
            &labels.source.to_string(),
        ),
        (
            "recipe_digest",
            &entry.recipe_digest.to_string(),
            &labels.recipe.to_string(),
        ),
        ("image_id", &entry.image_id, &observed.image_id().oci()),
        (
            "manifest_digest",
            &entry.manifest_digest,
            &observed.manifest_digest().oci(),
        ),
        (
            "platform",
            &entry.platform,
            &observed.platform().to_string(),
        ),
    ] {
        if listed != is {
            let what = format!(
                "{folder}/{LIST} and {} disagree about {field}\n  {LIST}: {listed}\n  the archive: {is}",
                entry.archive
            );
            return Err(refused(what).hint(ANEW).into());
        }
    }
    Ok(())
}
