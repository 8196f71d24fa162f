//! Phase 0: hash the sources once; the reference of each image follows, and never changes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::thread;

use anyhow::{Result, ensure};
use camino::Utf8Path;

use super::build::prebuilt::{Offer, Prebuilt};
use super::build::recipe::{Profile, Recipe};
pub use super::repository::Repository;
use crate::digest::Digest;
use crate::engine::Platform;
use crate::report::live;
use crate::source::snapshot::{Keep, PackageSnapshot, Scope, Snapshot};
use crate::source::workspace::{PackageName, Target, TargetName, Workspace};

/// A full image reference, `localhost/datastorage:gateway-3f9a1c0b7d52e8f4`. It is made from the
/// sources and nothing else: there is no way from a string, and no operation that gives an image
/// another name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageRef {
    repository: Repository,
    package: PackageName,
    tag: String,
}

impl ImageRef {
    fn new(
        repository: &Repository,
        target: &TargetName,
        package: &PackageSnapshot,
        recipe: Digest,
    ) -> Self {
        let tag_digest = tag_digest(package.source(), recipe);
        Self {
            repository: repository.clone(),
            package: package.name().clone(),
            tag: format!("{target}-{}", tag_digest.short()),
        }
    }

    /// Where it is named.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The package.
    #[must_use]
    pub const fn package(&self) -> &PackageName {
        &self.package
    }

    /// The part after the colon: `<target>-<16 hex digits>`.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What the archive of the image is called.
    #[must_use]
    pub fn archive_name(&self) -> String {
        archive_named(&self.to_string())
    }
}

/// A name that an image has in a registry, whoever gave it. It can be looked at and is no reference:
/// no image of a run is made, loaded or deployed by it.
#[derive(Clone, Debug)]
pub struct NameThere(ImageRef);

impl fmt::Display for NameThere {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// What the archive of an image is called that an engine lists under this name: archives of two
/// repositories lie side by side, and no two references have one.
#[must_use]
pub fn archive_named(reference: &str) -> String {
    let (place, name) = reference.rsplit_once('/').unwrap_or(("", reference));
    let name = name.replace(':', "_");
    match place {
        // Of no registry: most are.
        "" | "localhost" => format!("{name}.oci.tar"),
        place => format!(
            "{}+{name}.oci.tar",
            place.replace('/', "+").replace(':', "=")
        ),
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}/{}:{}",
            self.repository, self.package, self.tag
        )
    }
}

/// SHA-256 over the source digest and the recipe digest, 32 bytes each.
#[must_use]
pub fn tag_digest(source: Digest, recipe: Digest) -> Digest {
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(source.bytes());
    bytes[32..].copy_from_slice(recipe.bytes());
    Digest::of(&bytes)
}

/// What the images of a run can be called: all that is in a reference is decided but the recipe,
/// which another job may have chosen.
#[derive(Debug)]
pub struct Names<'a> {
    repository: &'a Repository,
    target: &'a TargetName,
    snapshot: &'a Snapshot,
}

impl Names<'_> {
    /// What the image of these very sources is called if it is built so.
    pub(in crate::pipeline) fn reference(&self, package: &PackageName, recipe: Digest) -> ImageRef {
        let package = self.snapshot.package(package);
        ImageRef::new(self.repository, self.target, package, recipe)
    }

    /// What an image of this package with some tag is called in the registry.
    pub(in crate::pipeline) fn there(&self, package: &PackageName, tag: &str) -> NameThere {
        NameThere(ImageRef {
            repository: self.repository.clone(),
            package: package.clone(),
            tag: tag.to_owned(),
        })
    }

    pub(in crate::pipeline) const fn target(&self) -> &TargetName {
        self.target
    }

    pub(in crate::pipeline) fn source(&self, package: &PackageName) -> Digest {
        self.snapshot.package(package).source()
    }
}

/// An image that has a name and is not built here yet.
#[derive(Clone, Debug)]
pub struct Tagged {
    reference: ImageRef,
    source: Digest,
    recipe: Digest,
    offer: Option<Arc<Offer>>,
}

impl Tagged {
    /// Its reference.
    #[must_use]
    pub const fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The digest of its sources.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// The digest of how it is built.
    #[must_use]
    pub const fn recipe(&self) -> Digest {
        self.recipe
    }

    /// The image that another job built under this very name, where such ones were asked for.
    #[must_use]
    pub const fn offer(&self) -> Option<&Arc<Offer>> {
        self.offer.as_ref()
    }
}

impl Stage for Tagged {
    fn reference(&self) -> &ImageRef {
        &self.reference
    }
}

/// What phase 0 froze; every later phase carries it along.
#[derive(Debug)]
pub struct Frozen {
    target: TargetName,
    snapshot: Snapshot,
    recipe: Recipe,
    platform: Platform,
}

impl Frozen {
    /// The target of the run.
    #[must_use]
    pub const fn target(&self) -> &TargetName {
        &self.target
    }

    /// The sources.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How they are built.
    #[must_use]
    pub const fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Where they run.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }
}

/// All images of a run in one stage. There is no way to make one with fewer.
#[derive(Debug)]
pub struct Images<Now> {
    frozen: Arc<Frozen>,
    by_package: BTreeMap<PackageName, Now>,
}

/// An image in some stage. Its reference is the one of phase 0, whatever was done with it since.
pub trait Stage {
    /// The reference of phase 0.
    fn reference(&self) -> &ImageRef;
}

impl<Now: Stage> Images<Now> {
    /// What phase 0 froze.
    #[must_use]
    pub fn frozen(&self) -> &Arc<Frozen> {
        &self.frozen
    }

    /// Every image, by package.
    pub fn iter(&self) -> impl Iterator<Item = (&PackageName, &Now)> {
        self.by_package.iter()
    }

    /// The image of one package, if it belongs to the run.
    #[must_use]
    pub fn get(&self, package: &PackageName) -> Option<&Now> {
        self.by_package.get(package)
    }

    /// Takes every image to the next stage; one failing fails all.
    pub(in crate::pipeline) fn advance<Next: Stage>(
        self,
        mut step: impl FnMut(Now) -> Result<Next>,
    ) -> Result<Images<Next>> {
        let by_package = self
            .by_package
            .into_iter()
            .map(|(package, image)| {
                let before = image.reference().clone();
                let next = step(image)?;
                let after = next.reference();
                ensure!(*after == before, "a phase made {after} of {before}");
                Ok((package, next))
            })
            .collect::<Result<_>>()?;
        Ok(Images {
            frozen: self.frozen,
            by_package,
        })
    }
}

/// What phase 0 needs to know.
#[derive(Clone, Debug)]
pub struct Inputs<'a> {
    /// The workspace.
    pub workspace: &'a Workspace,
    /// The target.
    pub target: &'a Target,
    /// Where images are named.
    pub repository: Repository,
    /// Where they run.
    pub platform: Platform,
    /// How they are built.
    pub profile: Profile,
    /// Where another job left the images; `None`: they are built here.
    pub prebuilt: Option<&'a Prebuilt>,
    /// Keeps the bytes for the build in this state directory; `None` for `tag` and `--plan`.
    pub keep_in: Option<&'a Utf8Path>,
}

/// Hashes every package of the target, and its tests, once.
///
/// # Errors
/// When a source cannot be hashed or the recipe cannot be told. There is no fallback tag. When
/// images are to be taken, and one of them is not there or is not of these sources.
pub fn tag(inputs: &Inputs<'_>) -> Result<Images<Tagged>> {
    let Inputs {
        workspace, target, ..
    } = inputs;
    let _activity = live::begin("hashing", "the sources");
    ensure!(
        workspace.targets.get(&target.name) == Some(*target),
        "{} is not the target as the workspace has it",
        target.name
    );
    let mut scopes: BTreeMap<PackageName, Scope> = BTreeMap::new();
    scopes.insert(workspace.tests.clone(), Scope::Tests);
    for package in target.packages() {
        scopes.insert(package.clone(), Scope::Binary);
    }
    let keep = match inputs.keep_in {
        Some(state_directory) => Keep::Objects(state_directory.to_owned()),
        None => Keep::Nothing,
    };
    let (snapshot, recipe) = thread::scope(|scope| {
        let recipe = scope.spawn(|| Recipe::probe(workspace, &inputs.platform, inputs.profile));
        let snapshot = Snapshot::take(workspace, &scopes, &keep);
        let recipe = recipe
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (snapshot, recipe)
    });
    let (snapshot, recipe) = (snapshot?, recipe?);
    let names = Names {
        repository: &inputs.repository,
        target: &target.name,
        snapshot: &snapshot,
    };
    let mut offers = match inputs.prebuilt {
        Some(prebuilt) => prebuilt.find(&names, target.packages(), &recipe, &inputs.platform)?,
        None => BTreeMap::new(),
    };
    let tagged = |package: &PackageName| {
        let offer = offers.remove(package).map(Arc::new);
        let built_by = offer
            .as_ref()
            .map_or(recipe.digest(), |offer| offer.recipe());
        let image = Tagged {
            reference: names.reference(package, built_by),
            source: names.source(package),
            recipe: built_by,
            offer,
        };
        (package.clone(), image)
    };
    let by_package = target.packages().iter().map(tagged).collect();
    Ok(Images {
        frozen: Arc::new(Frozen {
            target: target.name.clone(),
            snapshot,
            recipe,
            platform: inputs.platform.clone(),
        }),
        by_package,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of this very workspace.
    fn tagged(target: &str) -> Images<Tagged> {
        let workspace = Workspace::load(&Workspace::find_root().unwrap()).unwrap();
        tag(&Inputs {
            workspace: &workspace,
            target: workspace.target(target).unwrap(),
            repository: Repository::localhost(),
            platform: Platform::host().unwrap(),
            profile: Profile::E2e,
            prebuilt: None,
            keep_in: None,
        })
        .unwrap()
    }

    #[test]
    fn archives_of_two_repositories_have_two_names() {
        let all = [
            "a.b/c", "a.b:1/c", "a.b/c/d", "a.b/c_d", "a.b/c.d", "a.b/c-d",
        ];
        let of = |place: &str| archive_named(&format!("{place}/store:gate-0123"));
        let names: std::collections::BTreeSet<String> = all.map(of).into();
        assert_eq!(names.len(), all.len());
        assert!(names.iter().all(|name| !name.contains([':', '/'])));
        assert!(names.contains("a.b=1+c+store_gate-0123.oci.tar"));
        assert_eq!(of("localhost"), "store_gate-0123.oci.tar");
    }

    #[test]
    fn no_phase_gives_an_image_another_reference() {
        let other = tagged("pipeline");
        assert!(tagged("gateway").advance(Ok).is_ok());
        let renamed = tagged("gateway")
            .advance(|image| Ok(other.by_package[image.reference.package()].clone()));
        let error = renamed.unwrap_err().to_string();
        assert!(error.contains("a phase made localhost/"), "{error}");
    }
}
