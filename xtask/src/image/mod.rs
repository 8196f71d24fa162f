//! Container images from bytes to bytes: layer, config, manifest, archive. Pure functions, no
//! engine, no clock, no user names: the same binary and the same labels give the same image ID.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context as _, Result, ensure};

use crate::digest::Digest;
use crate::engine::Platform;

mod archive;
mod archive_read;
mod documents;
mod elf;
mod layer;
mod observed;

pub use self::archive_read::ReadArchive;
use self::layer::Layer;
pub use self::observed::Observed;

/// Bumped when the layout of image or config changes; part of every recipe.
pub const TEMPLATE_VERSION: u32 = 2;

/// What goes into an image.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// Full reference, `localhost/datastorage:gateway-3f9a1c0b7d52e8f4`.
    pub reference: &'a str,
    /// Name of the one file, `/datastorage`, which is also the entrypoint.
    pub binary_name: &'a str,
    /// Its bytes: a static executable.
    pub binary: &'a [u8],
    /// Where it runs.
    pub platform: &'a Platform,
    /// Labels of the config.
    pub labels: BTreeMap<String, String>,
}

/// An image, assembled. Its archive is written by [`Assembled::write_archive`].
#[derive(Clone, Debug)]
pub struct Assembled<'a> {
    /// SHA-256 of the config: what engines call the image ID.
    pub image_id: Digest,
    /// SHA-256 of the OCI manifest.
    pub manifest_digest: Digest,
    /// SHA-256 of the one layer, which is not compressed: also its diff ID.
    pub layer_digest: Digest,
    pub(crate) reference: String,
    pub(crate) layer: Layer<'a>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

/// Assembles an image.
///
/// # Errors
/// When the reference or the binary is not usable (not an ELF file for the platform, dynamically linked).
pub fn assemble<'a>(contents: &Contents<'a>) -> Result<Assembled<'a>> {
    check_reference(contents.reference)?;
    let file_name = check_binary_name(contents.binary_name)?;
    elf::check(contents.binary, contents.platform)?;
    let layer = Layer::one_file(file_name, contents.binary).context("cannot assemble the layer")?;
    let layer_digest = layer.digest();
    let config = documents::config(contents, layer_digest)?;
    let image_id = Digest::of(&config);
    let manifest = documents::manifest(
        &documents::Blob::config(image_id, config.len()),
        &documents::Blob::layer(layer_digest, layer.length_bytes()),
    )?;
    Ok(Assembled {
        image_id,
        manifest_digest: Digest::of(&manifest),
        layer_digest,
        reference: contents.reference.to_owned(),
        layer,
        config,
        manifest,
    })
}

impl Assembled<'_> {
    /// Writes one tar that docker, podman and containerd read: OCI layout and docker manifest over the same blobs.
    ///
    /// # Errors
    /// What writing gives.
    pub fn write_archive(&self, writer: impl Write) -> Result<()> {
        archive::write(self, writer)
    }
}

/// A short name or a bare tag would be imported under a name that no pod can use, and would break
/// every pod with the same image ID: the repository must be there in full, and a tag.
fn check_reference(reference: &str) -> Result<()> {
    let allowed = |character: char| {
        character.is_ascii_lowercase() || character.is_ascii_digit() || "._-/:".contains(character)
    };
    let parts = reference
        .rsplit_once(':')
        .filter(|(_, tag)| !tag.is_empty() && tag.len() <= 128 && !tag.contains('/'))
        .and_then(|(name, _)| name.split_once('/'));
    ensure!(
        reference.chars().all(allowed)
            && parts.is_some_and(|(host, path)| {
                let is_host = host == "localhost" || host.contains(['.', ':']);
                is_host && !path.is_empty() && !path.contains(':')
            }),
        "`{reference}` is not a full image reference: host/name:tag in lower case"
    );
    Ok(())
}

fn check_binary_name(name: &str) -> Result<&str> {
    let file_name = name.strip_prefix('/').unwrap_or_default();
    ensure!(
        !file_name.is_empty() && file_name.len() <= 100 && !file_name.contains(['/', '\0']),
        "`{name}` cannot be the one file of an image: `/` and a name"
    );
    Ok(file_name)
}
