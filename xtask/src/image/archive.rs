//! One tar that docker, podman and containerd read: an OCI layout, and docker's manifest over the
//! same blobs. As of 1970, in one order.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use anyhow::{Context as _, Result};

use super::{Assembled, documents, layer};

/// Writes the archive.
pub(super) fn write(image: &Assembled<'_>, writer: impl Write) -> Result<()> {
    let index = documents::index(image)?;
    let docker_manifest = documents::docker_manifest(image)?;
    let layout = documents::layout()?;
    let layer = image.layer.pieces();
    let files: BTreeMap<String, Vec<&[u8]>> = [
        (
            documents::blob_path(image.image_id),
            vec![&image.config[..]],
        ),
        (
            documents::blob_path(image.manifest_digest),
            vec![&image.manifest],
        ),
        (documents::blob_path(image.layer_digest), layer.to_vec()),
        ("index.json".to_owned(), vec![&index]),
        ("manifest.json".to_owned(), vec![&docker_manifest]),
        ("oci-layout".to_owned(), vec![&layout]),
    ]
    .into();
    // What is larger than its buffer goes past it: the layer is written from where it lies.
    let mut writer = BufWriter::new(writer);
    let mut write_all = || {
        layer::write_folder(&mut writer, "blobs/")?;
        layer::write_folder(&mut writer, "blobs/sha256/")?;
        for (name, pieces) in &files {
            layer::write_file(&mut writer, name, 0o444, pieces)?;
        }
        layer::write_end(&mut writer)?;
        writer.flush()
    };
    write_all().context("cannot write the image archive")
}
