//! One tar that docker, podman and containerd read: an OCI layout, and docker's manifest over the
//! same blobs. As of 1970, in one order.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};

use super::{Assembled, documents, layer};

const BUFFER_BYTES: usize = 256 * 1024;

/// Writes the archive.
pub(super) fn write(image: &Assembled, writer: impl Write) -> Result<()> {
    let index = documents::index(image)?;
    let docker_manifest = documents::docker_manifest(image)?;
    let layout = documents::layout()?;
    let files: BTreeMap<String, &[u8]> = [
        (documents::blob_path(image.image_id), &image.config[..]),
        (documents::blob_path(image.manifest_digest), &image.manifest),
        (documents::blob_path(image.layer_digest), &image.layer),
        ("index.json".to_owned(), &index),
        ("manifest.json".to_owned(), &docker_manifest),
        ("oci-layout".to_owned(), &layout),
    ]
    .into();
    let mut builder = tar::Builder::new(BufWriter::with_capacity(BUFFER_BYTES, writer));
    let append_all = || {
        layer::append_folder(&mut builder, "blobs/")?;
        layer::append_folder(&mut builder, "blobs/sha256/")?;
        for (name, bytes) in &files {
            layer::append_file(&mut builder, name, 0o444, bytes)?;
        }
        builder.into_inner()?.flush()
    };
    append_all().context("cannot write the image archive")
}
