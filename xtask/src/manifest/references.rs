//! Which image a container gets, by the logical name that its manifest says. What is rolled out and
//! what a plan shows are of different types, so nothing is started from what was not seen.

use std::collections::BTreeMap;

use anyhow::Result;

use super::{Workload, listed};
use crate::pipeline::Images;
use crate::pipeline::load::Loaded;
use crate::pipeline::tag::Tagged;
use crate::source::workspace::PackageName;
use crate::third_party::ThirdPartyImage;

/// An image that the engine has: one of phase 0 that was seen loaded, or a third party's. Made
/// from these alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    reference: String,
    image_id: String,
    package: Option<PackageName>,
}

impl Seen {
    /// Its ID, `sha256:...`.
    pub(crate) fn image_id(&self) -> &str {
        &self.image_id
    }

    /// Our package, if it is ours.
    pub(crate) const fn package(&self) -> Option<&PackageName> {
        self.package.as_ref()
    }
}

/// What a plan shows of an image that may not be built yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected(String);

/// An image that has a reference.
pub(crate) trait Named: Clone {
    /// Its reference.
    fn reference(&self) -> &str;
}

impl Named for Seen {
    fn reference(&self) -> &str {
        &self.reference
    }
}

impl Named for Expected {
    fn reference(&self) -> &str {
        &self.0
    }
}

/// The images of a run by logical name.
#[derive(Clone, Debug)]
pub(crate) struct References<Image>(BTreeMap<String, Image>);

impl References<Seen> {
    /// All images of the run.
    pub(crate) fn of(images: &Images<Loaded>, third_party: &[ThirdPartyImage]) -> Self {
        let own = images.iter().map(|(package, image)| {
            let seen = Seen {
                reference: image.built().reference().to_string(),
                image_id: image.listed_id().to_owned(),
                package: Some(package.clone()),
            };
            (package.to_string(), seen)
        });
        let mut references = Self::of_third_party(third_party);
        references.0.extend(own);
        references
    }

    /// Images of third parties alone.
    pub(crate) fn of_third_party<'a>(
        third_party: impl IntoIterator<Item = &'a ThirdPartyImage>,
    ) -> Self {
        let theirs = third_party.into_iter().map(|image| {
            let seen = Seen {
                reference: image.reference().to_owned(),
                image_id: image.image_id().to_owned(),
                package: None,
            };
            (image.name().to_owned(), seen)
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
            let reference = Expected(image.reference().to_string());
            (package.to_string(), reference)
        });
        let mut references = Self::planned_third_party(third_party);
        references.0.extend(own);
        references
    }

    /// Third parties alone: what they are called is only known when the engine has them.
    pub(crate) fn planned_third_party<'a>(names: impl IntoIterator<Item = &'a String>) -> Self {
        let theirs = names
            .into_iter()
            .map(|name| (name.clone(), Expected(format!("<{name}>"))));
        Self(theirs.collect())
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
        self.0.get(logical).ok_or_else(|| {
            workload
                .place
                .refuse(
                    "image",
                    format!("`{logical}` does not belong to this target"),
                )
                .hint(format!(
                    "declare it in `needs` or `third-party` of [package.metadata.e2e]; the run has {}",
                    listed(self.0.keys())
                ))
                .into()
        })
    }
}
