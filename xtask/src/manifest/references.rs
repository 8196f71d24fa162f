//! Which image a container gets, by the logical name that its manifest says. What is rolled out and
//! what a plan shows are of different types, so nothing is started from what was not seen.

use std::collections::BTreeMap;

use anyhow::Result;

use super::template::Template;
use super::{Place, Workload, listed};
use crate::digest::Digest;
use crate::pipeline::Images;
use crate::pipeline::load::{Loaded, There};
use crate::pipeline::push::PushedThirdParty;
use crate::pipeline::tag::{Repository, Tagged};
use crate::source::workspace::PackageName;
use crate::third_party::ThirdPartyImage;

/// An image that the cluster has or can pull: one of phase 0 that was seen loaded or pushed, or a
/// third party's. Made from these alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    reference: String,
    image_id: String,
    /// In the registry that it is pulled from.
    manifest: Option<Digest>,
    package: Option<PackageName>,
}

impl Seen {
    /// Its ID, `sha256:...`.
    pub(crate) fn image_id(&self) -> &str {
        &self.image_id
    }

    /// The digest of its manifest, if it is pulled from a registry.
    pub(crate) const fn manifest(&self) -> Option<Digest> {
        self.manifest
    }

    /// Whether a node that tells this of an image runs this one. Of what was put on it a node tells
    /// `sha256:<config>`; of what it has pulled `<name>@sha256:<manifest>`, some with a scheme before
    /// it, and some tell the config there too.
    pub(crate) fn is_told_as(&self, told: &str) -> bool {
        let bare = told.rsplit_once("://").map_or(told, |(_, bare)| bare);
        if bare == self.image_id {
            return true;
        }
        let digest = bare.rsplit_once('@').map(|(_, digest)| digest);
        let manifest = self.manifest.map(|manifest| manifest.oci());
        digest.is_some() && digest == manifest.as_deref()
    }

    /// Our package, if it is ours.
    pub(crate) const fn package(&self) -> Option<&PackageName> {
        self.package.as_ref()
    }
}

#[cfg(test)]
impl Seen {
    /// Of nobody's package, put on a node.
    pub(crate) fn sample(reference: &str, image_id: &str) -> Self {
        Self {
            reference: reference.to_owned(),
            image_id: image_id.to_owned(),
            manifest: None,
            package: None,
        }
    }
}

/// What a plan shows of an image that may not be built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    reference: String,
    is_pulled: bool,
}

/// An image that has a reference.
pub(crate) trait Named: Clone {
    /// Its reference.
    fn reference(&self) -> &str;
    /// Whether nodes get it from a registry; else it is there, or nowhere.
    fn is_pulled(&self) -> bool;
}

/// An image of a third party that is where it is run from.
pub(crate) trait Provided {
    /// As the engine has it.
    fn image(&self) -> &ThirdPartyImage;
    /// What it is deployed as.
    fn deployed_as(&self) -> String;
    /// In the registry that it is pulled from.
    fn manifest(&self) -> Option<Digest>;
}

impl Provided for ThirdPartyImage {
    fn image(&self) -> &ThirdPartyImage {
        self
    }

    fn deployed_as(&self) -> String {
        self.reference().to_owned()
    }

    fn manifest(&self) -> Option<Digest> {
        None
    }
}

impl Provided for PushedThirdParty {
    fn image(&self) -> &ThirdPartyImage {
        self.image()
    }

    fn deployed_as(&self) -> String {
        format!("{}@{}", self.name(), self.manifest().oci())
    }

    fn manifest(&self) -> Option<Digest> {
        Some(self.manifest())
    }
}

impl Named for Seen {
    fn reference(&self) -> &str {
        &self.reference
    }

    fn is_pulled(&self) -> bool {
        self.manifest.is_some()
    }
}

impl Named for Expected {
    fn reference(&self) -> &str {
        &self.reference
    }

    fn is_pulled(&self) -> bool {
        self.is_pulled
    }
}

/// The images of a run by logical name.
#[derive(Clone, Debug)]
pub(crate) struct References<Image>(BTreeMap<String, Image>);

impl References<Seen> {
    /// All images of the run.
    pub(crate) fn of(images: &Images<Loaded>, third_party: &[impl Provided]) -> Self {
        let own = images.iter().map(|(package, image)| {
            let seen = Seen {
                reference: image.deployed_as(),
                image_id: image.built().image_id().oci(),
                manifest: match image.there() {
                    There::Listed(_) => None,
                    There::Pushed(manifest) => Some(*manifest),
                },
                package: Some(package.clone()),
            };
            (package.to_string(), seen)
        });
        let mut references = Self::of_third_party(third_party);
        references.0.extend(own);
        references
    }

    /// Images of third parties alone.
    pub(crate) fn of_third_party<'a, Image: Provided + 'a>(
        third_party: impl IntoIterator<Item = &'a Image>,
    ) -> Self {
        let theirs = third_party.into_iter().map(|provided| {
            let seen = Seen {
                reference: provided.deployed_as(),
                image_id: provided.image().image_id().to_owned(),
                manifest: provided.manifest(),
                package: None,
            };
            (provided.image().name().to_owned(), seen)
        });
        Self(theirs.collect())
    }
}

impl References<Expected> {
    /// What the run will have.
    pub(crate) fn planned<'a>(
        images: &Images<Tagged>,
        third_party: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        let own = images.iter().map(|(package, image)| {
            let expected = Expected {
                reference: image.reference().to_string(),
                is_pulled: false,
            };
            (package.to_string(), expected)
        });
        let mut references = Self::planned_third_party(third_party);
        references.0.extend(own);
        references
    }

    /// Third parties alone: what they are called is only known when the engine has them.
    pub(crate) fn planned_third_party<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let theirs = names.into_iter().map(|name| {
            let expected = Expected {
                reference: format!("<{name}>"),
                is_pulled: false,
            };
            (name.clone(), expected)
        });
        Self(theirs.collect())
    }

    /// The same on a cluster that pulls from this repository, by digests that are known when the
    /// images are built.
    pub(crate) fn planned_pulled<'a>(
        images: &Images<Tagged>,
        third_party: impl IntoIterator<Item = &'a String>,
        repository: &Repository,
    ) -> Self {
        let mut references = Self::planned(images, third_party);
        for (name, expected) in &mut references.0 {
            if expected.reference.starts_with('<') {
                expected.reference = format!("{repository}/third-party/{name}:<image ID>");
            }
            expected.reference.push_str("@<manifest digest>");
            expected.is_pulled = true;
        }
        references
    }
}

impl<Image> References<Image> {
    /// Whether everything that `workload` runs is among them.
    pub(super) fn cover(&self, workload: &Workload) -> bool {
        let spec = &workload.deployment.spec.template.spec;
        let containers = spec.init_containers.iter().chain(&spec.containers);
        containers
            .map(|container| &container.image)
            .all(|image| self.0.contains_key(image))
    }

    /// The image for a logical name that stands in `workload`.
    pub(crate) fn get(&self, workload: &Workload, logical: &str) -> Result<&Image> {
        self.get_at(&workload.place, logical)
    }

    /// The image for a logical name that stands in this template.
    pub(crate) fn get_for(&self, template: &Template, logical: &str) -> Result<&Image> {
        self.get_at(&template.place, logical)
    }

    /// The image for a logical name that stands there.
    pub(crate) fn get_at(&self, place: &Place, logical: &str) -> Result<&Image> {
        self.0.get(logical).ok_or_else(|| {
            let message = format!("`{logical}` does not belong to this target");
            place
                .refuse("image", message)
                .hint(format!(
                    "declare it in `needs` or `third-party` of [package.metadata.e2e]; the run has {}",
                    listed(self.0.keys())
                ))
                .into()
        })
    }
}
