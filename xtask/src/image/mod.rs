//! Container images from bytes to bytes: layer, config, manifest, archive. Pure functions, no
//! engine, no clock, no user names: the same binary and the same labels give the same image ID.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Result;

use crate::digest::Digest;
use crate::engine::Platform;

/// Bumped when the layout of image or config changes; part of every recipe.
pub const TEMPLATE_VERSION: u32 = 1;

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
pub struct Assembled {
    /// SHA-256 of the config: what engines call the image ID.
    pub image_id: Digest,
    /// SHA-256 of the OCI manifest.
    pub manifest_digest: Digest,
    pub(crate) reference: String,
    pub(crate) layer: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
}

/// Assembles an image.
///
/// # Errors
/// When the reference or the binary is not usable (not an ELF file for the platform, dynamically linked).
pub fn assemble(_contents: &Contents<'_>) -> Result<Assembled> {
    todo!()
}

impl Assembled {
    /// Writes one tar that docker, podman and containerd read: OCI layout and docker manifest over the same blobs.
    ///
    /// # Errors
    /// What writing gives.
    pub fn write_archive(&self, _writer: impl Write) -> Result<()> {
        todo!()
    }
}
