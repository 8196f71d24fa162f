//! The JSON documents of an image: config, manifest, index, layout, docker's manifest. Keys are
//! sorted, so that equal values are equal bytes (the OCI types keep labels in a map without order).

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, HistoryBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, PlatformBuilder,
    RootFsBuilder, SCHEMA_VERSION, Sha256Digest,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Assembled, Contents};
use crate::digest::Digest;

/// Who runs it: nobody in particular, and no name that an empty image could not resolve.
const USER: &str = "65532:65532";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// What containerd imports an image as.
pub(super) const ANNOTATION_CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A blob as a manifest names it.
pub(super) struct Blob {
    media_type: MediaType,
    digest: Digest,
    length_bytes: usize,
}

impl Blob {
    pub(super) const fn config(digest: Digest, length_bytes: usize) -> Self {
        Self {
            media_type: MediaType::ImageConfig,
            digest,
            length_bytes,
        }
    }

    pub(super) const fn layer(digest: Digest, length_bytes: usize) -> Self {
        Self {
            media_type: MediaType::ImageLayer,
            digest,
            length_bytes,
        }
    }

    fn descriptor(&self) -> Result<DescriptorBuilder> {
        let digest: Sha256Digest = self.digest.to_string().parse()?;
        Ok(DescriptorBuilder::default()
            .media_type(self.media_type.clone())
            .digest(digest)
            .size(self.length_bytes as u64))
    }

    fn built(&self) -> Result<Descriptor> {
        self.descriptor()?.build().context("cannot describe a blob")
    }
}

/// Where a blob lies in the archive.
pub(super) fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{digest}")
}

/// The config: its digest is the image ID.
pub(super) fn config(contents: &Contents<'_>, layer: Digest) -> Result<Vec<u8>> {
    let labels: HashMap<_, _> = contents.labels.clone().into_iter().collect();
    let execution = ConfigBuilder::default()
        .user(USER)
        .entrypoint(vec![contents.binary_name.to_owned()])
        .working_dir("/")
        .labels(labels)
        .build()?;
    let history = HistoryBuilder::default()
        .created(EPOCH)
        .created_by(format!("phase-zero template {}", super::TEMPLATE_VERSION))
        .build()?;
    let configuration = ImageConfigurationBuilder::default()
        .created(EPOCH)
        .architecture(architecture(contents))
        .os(Os::from(contents.platform.os.as_str()))
        .config(execution)
        .rootfs(
            RootFsBuilder::default()
                .typ("layers")
                .diff_ids(vec![layer.oci()])
                .build()?,
        )
        .history(vec![history])
        .build()?;
    bytes(&configuration)
}

fn architecture(contents: &Contents<'_>) -> Arch {
    Arch::from(contents.platform.architecture.as_str())
}

/// The OCI manifest.
pub(super) fn manifest(config: &Blob, layer: &Blob) -> Result<Vec<u8>> {
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .config(config.built()?)
        .layers(vec![layer.built()?])
        .build()?;
    bytes(&manifest)
}

/// `index.json`: one manifest under its full name.
pub(super) fn index(image: &Assembled<'_>) -> Result<Vec<u8>> {
    let configuration: oci_spec::image::ImageConfiguration = serde_json::from_slice(&image.config)?;
    let platform = PlatformBuilder::default()
        .architecture(configuration.architecture().clone())
        .os(configuration.os().clone())
        .build()?;
    let blob = Blob {
        media_type: MediaType::ImageManifest,
        digest: image.manifest_digest,
        length_bytes: image.manifest.len(),
    };
    let names = [
        oci_spec::image::ANNOTATION_REF_NAME,
        ANNOTATION_CONTAINERD_NAME,
    ];
    let annotations: HashMap<_, _> = names
        .map(|name| (name.to_owned(), image.reference.clone()))
        .into();
    let manifest = blob
        .descriptor()?
        .platform(platform)
        .annotations(annotations)
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    bytes(&index)
}

/// `oci-layout`.
pub(super) fn layout() -> Result<Vec<u8>> {
    let layout = OciLayoutBuilder::default()
        .image_layout_version("1.0.0")
        .build()?;
    bytes(&layout)
}

/// `manifest.json`: docker's, over the same blobs.
pub(super) fn docker_manifest(image: &Assembled<'_>) -> Result<Vec<u8>> {
    bytes(&json!([{
        "Config": blob_path(image.image_id),
        "RepoTags": [image.reference],
        "Layers": [blob_path(image.layer_digest)],
    }]))
}

fn bytes(document: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(document).context("cannot write an image document")?;
    Ok(serde_json::to_vec(&sorted(value))?)
}

/// The same value with sorted keys, whether serde_json's maps keep an order of their own or not.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut members: Vec<_> = map.into_iter().collect();
            members.sort_by(|(left, _), (right, _)| left.cmp(right));
            let sort_member = |(key, value)| (key, sorted(value));
            Value::Object(members.into_iter().map(sort_member).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
