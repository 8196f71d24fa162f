//! From one job to another: what was built into its registry, under the one name that it has, and
//! seen there again. Overwrites nothing: a name that means another image there is refused.

use anyhow::Result;

use super::build::Built;
use super::tag::{ImageRef, Repository};
use super::{Images, Stage};
use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use crate::registry::Registry;
use crate::report::live;

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
