//! From one job to another, or to a cluster that pulls: what was built into its registry, under the one name that it has, and
//! seen there again. Overwrites nothing: a name that means another image there is refused.

use anyhow::Result;

use super::build::Built;
use super::tag::{ImageRef, Repository};
use super::{Images, Stage};
use crate::digest::Digest;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::registry::Registry;
use crate::report::live;
use crate::third_party::{self, ThirdPartyImage};

/// An image that its registry has under its name, with the manifest that was built.
#[derive(Clone, Debug)]
pub struct Pushed {
    built: Built,
    manifest: Digest,
    already_there: bool,
}

impl Pushed {
    /// As it was built.
    #[must_use]
    pub const fn built(&self) -> &Built {
        &self.built
    }

    /// The digest of its manifest as the registry tells it.
    #[must_use]
    pub const fn manifest(&self) -> Digest {
        self.manifest
    }

    /// The registry had it before, so nothing was sent.
    #[must_use]
    pub const fn already_there(&self) -> bool {
        self.already_there
    }
}

impl Stage for Pushed {
    fn reference(&self) -> &ImageRef {
        self.built.reference()
    }
}

/// Pushes every image and asks for it again.
///
/// # Errors
/// [`Exit::Host`] when the registry does not take it; [`Exit::Build`] when it has another image
/// under that name.
pub fn push(images: Images<Built>, repository: &Repository) -> Result<Images<Pushed>> {
    let registry = Registry::new(repository)?;
    images.advance(|built| {
        let reference = built.reference();
        let _activity = live::begin("pushing", reference.to_string());
        let before = manifest_digest(&registry, reference)?;
        if let Some(there) = before {
            check(&built, there)?;
        } else {
            registry.push(&built)?;
        }
        let after = match before {
            Some(there) => Some(there),
            None => manifest_digest(&registry, reference)?,
        };
        let manifest = after.ok_or_else(|| {
            let what = format!("{reference} was pushed, and its registry does not have it");
            Failure::new(Exit::Host, what).hint("run again; look at the registry's own log")
        })?;
        check(&built, manifest)?;
        Ok(Pushed {
            already_there: before.is_some(),
            manifest,
            built,
        })
    })
}

/// A third party's image that the registry of a run has under a name of its own, made of its image
/// ID: the config that the registry tells has that very digest.
#[derive(Clone, Debug)]
pub struct PushedThirdParty {
    image: ThirdPartyImage,
    name: String,
    manifest: Digest,
}

impl PushedThirdParty {
    /// As the engine has it.
    #[must_use]
    pub const fn image(&self) -> &ThirdPartyImage {
        &self.image
    }

    /// What the registry calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of its manifest as the registry tells it.
    #[must_use]
    pub const fn manifest(&self) -> Digest {
        self.manifest
    }
}

/// Pushes the images of third parties that the registry does not have, from the engine, and asks for
/// each again.
///
/// # Errors
/// [`Exit::Host`] when the registry does not take one, or has another image under its name.
pub fn push_third_party(
    images: &[ThirdPartyImage],
    engine: &Engine,
    repository: &Repository,
) -> Result<Vec<PushedThirdParty>> {
    let registry = Registry::new(repository)?;
    let pushed = images.iter().map(|image| {
        let name = registry.third_party_name(image)?;
        let _activity = live::begin("pushing", name.as_str());
        if registry.third_party_manifest(image)?.is_none() {
            registry.push_third_party(image, &third_party::archive(engine, image)?)?;
        }
        let manifest = registry.third_party_manifest(image)?.ok_or_else(|| {
            let what = format!("{name} was pushed, and its registry does not have it");
            Failure::new(Exit::Host, what).hint("run again; look at the registry's own log")
        })?;
        let there = config_of(&manifest);
        if there.as_deref() != Some(image.image_id()) {
            let what = format!(
                "the registry has another image under the name {name}\n  engine: {}\n  there: {}",
                image.image_id(),
                there.as_deref().unwrap_or("no image of one platform")
            );
            return Err(Failure::new(Exit::Host, what)
                .hint("somebody gave another image this name: look at it, then delete it in the registry")
                .into());
        }
        Ok(PushedThirdParty {
            image: image.clone(),
            manifest: Digest::of(&manifest),
            name,
        })
    });
    pushed.collect()
}

/// The digest of the config that a manifest names: that is the image ID.
fn config_of(manifest: &[u8]) -> Option<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).ok()?;
    let digest = manifest.pointer("/config/digest")?.as_str()?;
    Some(digest.to_owned())
}

fn manifest_digest(registry: &Registry, reference: &ImageRef) -> Result<Option<Digest>> {
    let manifest = registry.manifest(reference)?;
    Ok(manifest.map(|bytes| Digest::of(&bytes)))
}

/// Equal names with unequal images are fatal.
fn check(built: &Built, there: Digest) -> Result<()> {
    if there == built.manifest() {
        return Ok(());
    }
    let what = format!(
        "the registry has another image under the name {}\n  built: {}\n  there: {}",
        built.reference(),
        built.manifest().oci(),
        there.oci()
    );
    Err(Failure::new(Exit::Build, what)
        .hint("somebody gave another image this name, or the build is not reproducible: look at it, then delete it in the registry")
        .into())
}

#[cfg(test)]
mod tests {
    use super::config_of;

    #[test]
    fn an_image_of_many_platforms_has_no_config() {
        let of_one = br#"{"schemaVersion": 2, "config": {"digest": "sha256:11"}, "layers": []}"#;
        assert_eq!(config_of(of_one).as_deref(), Some("sha256:11"));
        assert_eq!(config_of(br#"{"manifests": []}"#), None);
        assert_eq!(config_of(b"no JSON"), None);
    }
}
