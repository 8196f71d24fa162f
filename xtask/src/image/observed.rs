//! An image that somebody else assembled, read back. Nothing is believed that a digest does not
//! prove: the manifest names config and layer by theirs, the config the layer once more. Refuses
//! what this tool does not make: what is taken is, byte by byte, what the executable and the labels
//! would have come to here.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};

use super::{Assembled, Contents, TEMPLATE_VERSION, assemble};
use crate::digest::Digest;
use crate::engine::Platform;

/// What manifest and config of an image say, each proved by its digest.
#[derive(Clone, Debug)]
pub struct Observed {
    image_id: Digest,
    manifest_digest: Digest,
    layer_digest: Digest,
    layer_bytes: u64,
    platform: Platform,
    binary_name: String,
    labels: BTreeMap<String, String>,
}

impl Observed {
    /// Of a manifest, with the config that it names.
    ///
    /// # Errors
    /// When one is not what the other says, or the image is not of the kind that this tool makes.
    pub fn new(manifest: &[u8], config: &[u8]) -> Result<Self> {
        let document = read_manifest(manifest)?;
        let image_id = Digest::of(config);
        check_named("config", document.config(), image_id, config.len())?;
        let [layer] = &document.layers()[..] else {
            anyhow::bail!("it has {} layers, not one", document.layers().len());
        };
        ensure!(
            *layer.media_type() == MediaType::ImageLayer,
            "its layer is packed: {}",
            layer.media_type()
        );
        let layer_digest = digest_of(layer)?;
        let configuration: ImageConfiguration =
            serde_json::from_slice(config).context("its config cannot be read")?;
        ensure!(
            configuration.rootfs().diff_ids()[..] == [layer_digest.oci()],
            "its config is about another layer: {:?}",
            configuration.rootfs().diff_ids()
        );
        let execution = configuration.config().as_ref();
        let entrypoint = execution.and_then(|execution| execution.entrypoint().as_ref());
        let Some([binary_name]) = entrypoint.map(Vec::as_slice) else {
            anyhow::bail!("its entrypoint is not one file: {entrypoint:?}");
        };
        let labels = execution.and_then(|execution| execution.labels().clone());
        Ok(Self {
            image_id,
            manifest_digest: Digest::of(manifest),
            layer_digest,
            layer_bytes: layer.size(),
            platform: Platform {
                os: configuration.os().to_string(),
                architecture: configuration.architecture().to_string(),
            },
            binary_name: binary_name.clone(),
            labels: labels.unwrap_or_default().into_iter().collect(),
        })
    }

    /// SHA-256 of the config.
    #[must_use]
    pub const fn image_id(&self) -> Digest {
        self.image_id
    }

    /// SHA-256 of the manifest.
    #[must_use]
    pub const fn manifest_digest(&self) -> Digest {
        self.manifest_digest
    }

    /// SHA-256 of the layer.
    #[must_use]
    pub const fn layer_digest(&self) -> Digest {
        self.layer_digest
    }

    /// Where it runs.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }

    /// A label of the config.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).map(String::as_str)
    }

    /// The image with this layer, under this name, and its executable.
    ///
    /// # Errors
    /// When the layer is not the one that the manifest names, or holds anything but the entrypoint.
    pub fn with_layer<'a>(
        &'a self,
        reference: &'a str,
        layer: &'a [u8],
    ) -> Result<(Assembled<'a>, &'a [u8])> {
        let found = Digest::of(layer);
        ensure!(
            found == self.layer_digest && layer.len() as u64 == self.layer_bytes,
            "its layer is {} of {} bytes, not {} of {}",
            found.oci(),
            layer.len(),
            self.layer_digest.oci(),
            self.layer_bytes
        );
        let (name, binary) = the_one_file(layer)?;
        ensure!(
            self.binary_name.strip_prefix('/') == Some(name.as_str()),
            "its layer holds `{name}`, and its entrypoint is `{}`",
            self.binary_name
        );
        // User, environment, working folder: whatever nobody looked at is as it would be here.
        let image = assemble(&Contents {
            reference,
            binary_name: &self.binary_name,
            binary,
            platform: &self.platform,
            labels: self.labels.clone(),
        })?;
        for (what, is, written) in [
            ("layer", self.layer_digest, image.layer_digest),
            ("config", self.image_id, image.image_id),
            ("manifest", self.manifest_digest, image.manifest_digest),
        ] {
            ensure!(
                is == written,
                "its {what} is not as this tool writes one (image template {TEMPLATE_VERSION})"
            );
        }
        Ok((image, binary))
    }
}

/// Which config a manifest names.
///
/// # Errors
/// When it is no manifest of an image.
pub(super) fn config_of(manifest: &[u8]) -> Result<Digest> {
    digest_of(read_manifest(manifest)?.config())
}

fn read_manifest(bytes: &[u8]) -> Result<ImageManifest> {
    let manifest: ImageManifest =
        serde_json::from_slice(bytes).context("its manifest cannot be read")?;
    ensure!(
        *manifest.media_type() == Some(MediaType::ImageManifest),
        "its manifest is of another kind: {:?}",
        manifest.media_type()
    );
    Ok(manifest)
}

fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    let text = descriptor.digest().to_string();
    let hex = text.strip_prefix("sha256:");
    hex.and_then(|hex| hex.parse().ok())
        .with_context(|| format!("`{text}` is no SHA-256 digest"))
}

fn check_named(what: &str, descriptor: &Descriptor, found: Digest, length: usize) -> Result<()> {
    let named = digest_of(descriptor)?;
    ensure!(
        named == found && descriptor.size() == length as u64,
        "its {what} is {} of {length} bytes, and its manifest names {} of {}",
        found.oci(),
        named.oci(),
        descriptor.size()
    );
    Ok(())
}

/// Of a layer with one entry: its name and its bytes, where they lie.
fn the_one_file(layer: &[u8]) -> Result<(String, &[u8])> {
    let mut archive = tar::Archive::new(layer);
    let mut entries = archive.entries().context("its layer is no tar")?;
    let entry = entries.next().context("its layer is empty")?;
    let entry = entry.context("its layer cannot be read")?;
    let name = std::str::from_utf8(&entry.path_bytes())
        .context("its layer names a file in no UTF-8")?
        .to_owned();
    let start = usize::try_from(entry.raw_file_position())?;
    let end = start.checked_add(usize::try_from(entry.size())?);
    drop(entry);
    ensure!(
        entries.next().is_none(),
        "its layer holds more than one file"
    );
    let bytes = end.and_then(|end| layer.get(start..end));
    Ok((name, bytes.context("its layer ends within its file")?))
}
