//! An image archive, read back: the one manifest that its index names, and blobs by their digests.
//! What lies under a digest and is something else is refused, and so is a file that is there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};
use oci_spec::image::ImageIndex;
use serde::Deserialize;

use super::documents::{ANNOTATION_CONTAINERD_NAME, blob_path};
use super::observed::{Observed, config_of};
use crate::digest::Digest;

/// The bytes of an archive, and where in them each file lies.
pub struct ReadArchive {
    bytes: Vec<u8>,
    files: BTreeMap<String, Range<usize>>,
}

/// An entry of docker's manifest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl ReadArchive {
    /// Of these bytes.
    ///
    /// # Errors
    /// When they are no tar, or a name in it means two files.
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        let files = list(&bytes)?;
        Ok(Self { bytes, files })
    }

    /// The image, and every name that the archive gives it.
    ///
    /// # Errors
    /// When there is not exactly one, or it is not whole.
    pub fn observe(&self) -> Result<(Observed, BTreeSet<String>)> {
        let index: ImageIndex = serde_json::from_slice(self.file("index.json")?)
            .context("its index.json cannot be read")?;
        let [descriptor] = &index.manifests()[..] else {
            bail!("it holds {} images, not one", index.manifests().len());
        };
        let digest = descriptor.digest().to_string();
        let digest = digest.strip_prefix("sha256:").unwrap_or_default().parse();
        let manifest = self.blob(digest.context("its index names no SHA-256 digest")?)?;
        let config = self.blob(config_of(manifest)?)?;
        let observed = Observed::new(manifest, config)?;
        let annotations = descriptor.annotations().clone().unwrap_or_default();
        let mut names: BTreeSet<String> = [
            oci_spec::image::ANNOTATION_REF_NAME,
            ANNOTATION_CONTAINERD_NAME,
        ]
        .iter()
        .filter_map(|&name| annotations.get(name).cloned())
        .collect();
        names.extend(self.docker_names(&observed)?);
        Ok((observed, names))
    }

    /// What docker and podman read must be the same image.
    fn docker_names(&self, observed: &Observed) -> Result<Vec<String>> {
        if !self.files.contains_key("manifest.json") {
            return Ok(Vec::new());
        }
        let entries: Vec<DockerEntry> = serde_json::from_slice(self.file("manifest.json")?)
            .context("its manifest.json cannot be read")?;
        let [entry] = <[DockerEntry; 1]>::try_from(entries)
            .ok()
            .context("its manifest.json is not about one image")?;
        let wanted = (
            blob_path(observed.image_id()),
            vec![blob_path(observed.layer_digest())],
        );
        ensure!(
            (entry.config, entry.layers) == wanted,
            "its manifest.json and its index.json are about two images"
        );
        Ok(entry.repo_tags.unwrap_or_default())
    }

    /// What lies under a digest.
    ///
    /// # Errors
    /// When nothing does, or something else.
    pub fn blob(&self, digest: Digest) -> Result<&[u8]> {
        let bytes = self.file(&blob_path(digest))?;
        let found = Digest::of(bytes);
        ensure!(
            found == digest,
            "it holds {found} under the name of {digest}"
        );
        Ok(bytes)
    }

    fn file(&self, name: &str) -> Result<&[u8]> {
        let place = self.files.get(name);
        let place = place.with_context(|| format!("it has no {name}"))?;
        Ok(&self.bytes[place.clone()])
    }
}

/// Every file by its name; there is no need for folders.
fn list(bytes: &[u8]) -> Result<BTreeMap<String, Range<usize>>> {
    let mut files = BTreeMap::new();
    let mut archive = tar::Archive::new(bytes);
    for entry in archive.entries().context("it is no tar")? {
        let entry = entry.context("it is no whole tar")?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        let name = std::str::from_utf8(&entry.path_bytes())?.to_owned();
        let start = usize::try_from(entry.raw_file_position())?;
        let end = start
            .checked_add(usize::try_from(entry.size())?)
            .filter(|&end| end <= bytes.len());
        let end = end.with_context(|| format!("it ends within `{name}`"))?;
        ensure!(
            files.insert(name.clone(), start..end).is_none(),
            "it holds `{name}` twice"
        );
    }
    Ok(files)
}
