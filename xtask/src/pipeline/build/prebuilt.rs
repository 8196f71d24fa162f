//! Images that another job built: found in a folder or a registry, and taken only if they are what
//! this checkout's own sources come to. An image is known by what its manifest and config say, each
//! proved by its digest; a name, a list and a file's place prove nothing. Builds nothing: what is
//! not there, or is not ours, is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::recipe::Recipe;
use super::{Built, Labels, Origin, in_parallel, write_archive};
use crate::digest::Digest;
use crate::engine::Platform;
use crate::exit::{Exit, Failure};
use crate::image::{Observed, ReadArchive};
use crate::pipeline::tag::{ImageRef, Names, Repository};
use crate::process::Invocation;
use crate::registry::Registry;
use crate::report;
use crate::source::workspace::PackageName;

mod folder;
mod in_registry;

pub use self::folder::{LIST, Listed};

/// What to do about an image that was built by another recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherRecipe {
    /// Refuse it, naming what differs.
    Refuse,
    /// Take it; the receipt says so.
    Accept,
}

/// Where another job left the images.
#[derive(Clone, Debug)]
pub struct Prebuilt {
    place: Place,
    other_recipe: OtherRecipe,
}

#[derive(Clone, Debug)]
enum Place {
    /// With an `images.json`, as `build --output` writes it.
    Folder(Utf8PathBuf),
    Registry(Repository),
}

/// An image that is there, is of these sources, and has the name that they come to.
#[derive(Debug)]
pub struct Offer {
    reference: ImageRef,
    source: Digest,
    recipe: Digest,
    observed: Observed,
    from: Where,
    /// In what the recipe differs from the one of this machine.
    differences: Vec<String>,
}

#[derive(Debug)]
enum Where {
    Archive(Utf8PathBuf),
    Registry(Registry),
}

impl Prebuilt {
    /// As a command line names it: a folder that is there, else a place in a registry.
    ///
    /// # Errors
    /// [`Exit::Usage`] when it is neither.
    pub fn named(text: &str, other_recipe: OtherRecipe) -> Result<Self> {
        let place = match (Utf8Path::new(text).is_dir(), text.parse::<Repository>()) {
            (true, _) => Place::Folder(text.into()),
            (false, Ok(repository)) => Place::Registry(repository),
            (false, Err(error)) => {
                let what = format!("--prebuilt {text}: there is no such folder");
                return Err(Failure::new(Exit::Usage, what)
                    .hint("name the folder that `build --output DIR` wrote, or the registry that `build --registry HOST/PATH --push` pushed to")
                    .caused_by(error)
                    .into());
            }
        };
        Ok(Self {
            place,
            other_recipe,
        })
    }

    /// The registry, if it is one: the images are named there.
    #[must_use]
    pub const fn repository(&self) -> Option<&Repository> {
        match &self.place {
            Place::Folder(_) => None,
            Place::Registry(repository) => Some(repository),
        }
    }

    /// Finds the image of each package.
    ///
    /// # Errors
    /// [`Exit::Build`] when one is not there, is damaged, is of other sources, has a name that is
    /// not its own, or was built by another recipe and that is not accepted.
    pub(in crate::pipeline) fn find(
        &self,
        names: &Names<'_>,
        packages: &BTreeSet<PackageName>,
        recipe: &Recipe,
        platform: &Platform,
    ) -> Result<BTreeMap<PackageName, Offer>> {
        let wanted = Wanted {
            names,
            recipe,
            platform,
            other_recipe: self.other_recipe,
        };
        let packages: Vec<&PackageName> = packages.iter().collect();
        let offers = match &self.place {
            Place::Folder(folder) => {
                let listed = folder::read(folder)?;
                in_parallel(&packages, |package| {
                    folder::find(folder, &listed, package, &wanted)
                })?
            }
            Place::Registry(repository) => {
                let registry = Registry::new(repository)?;
                in_parallel(&packages, |package| {
                    in_registry::find(&registry, package, &wanted)
                })?
            }
        };
        for offer in offers.iter().filter(|offer| !offer.differences.is_empty()) {
            report::note(&format!(
                "{} was built by another recipe, which is accepted\n  {}",
                offer.reference,
                offer.differences.join("\n  ")
            ));
        }
        let packages = packages.into_iter().cloned();
        Ok(packages.zip(offers).collect())
    }
}

/// What an image must be to be taken.
struct Wanted<'a> {
    names: &'a Names<'a>,
    recipe: &'a Recipe,
    platform: &'a Platform,
    other_recipe: OtherRecipe,
}

impl Wanted<'_> {
    /// Judges what was observed in a place, under a name.
    fn admit(
        &self,
        package: &PackageName,
        place: &str,
        name: &str,
        observed: Observed,
        from: Where,
    ) -> Result<Offer> {
        let labels = Labels::read(&observed)
            .map_err(|error| refused(format!("{place}: {name}")).caused_by(error))?;
        let target = self.names.target();
        for (what, label, wanted) in [
            ("package", &labels.package, package.as_str()),
            ("target", &labels.target, target.as_str()),
        ] {
            if label != wanted {
                let what = format!("{place}: {name} is labelled {what} {label}, not {wanted}");
                return Err(refused(what).hint(ANEW).into());
            }
        }
        self.check_source(package, place, labels.source)?;
        let reference = self.names.reference(package, labels.recipe);
        if reference.to_string() != name {
            let what = format!(
                "{place}: an image has another name than its labels make\n  its name:  {name}\n  by labels: {reference}"
            );
            return Err(refused(what)
                .hint("nothing takes an image under another name than it was built with; build it again, with the registry that it is for")
                .into());
        }
        if observed.platform() != self.platform {
            let what = format!(
                "{place}: {name} is for {}, and this machine runs {}",
                observed.platform(),
                self.platform
            );
            return Err(refused(what).hint("build it on such a machine").into());
        }
        let differences = self.check_recipe(place, name, &labels)?;
        Ok(Offer {
            source: labels.source,
            recipe: labels.recipe,
            reference,
            observed,
            from,
            differences,
        })
    }

    fn check_source(&self, package: &PackageName, place: &str, there: Digest) -> Result<()> {
        let here = self.names.source(package);
        if here == there {
            return Ok(());
        }
        Err(other_sources(package, place, here, &there.to_string()).into())
    }

    /// In what it differs, where that is accepted.
    fn check_recipe(&self, place: &str, name: &str, labels: &Labels) -> Result<Vec<String>> {
        let here = self.recipe.digest();
        if labels.recipe == here {
            return Ok(Vec::new());
        }
        let differences = self.recipe.differences(&labels.recipe_fields);
        if self.other_recipe == OtherRecipe::Accept {
            return Ok(differences);
        }
        let what = format!(
            "{place}: {name} was built by another recipe\n  here:  {here}\n  there: {}\n  {}",
            labels.recipe,
            differences.join("\n  ")
        );
        Err(refused(what)
            .hint("use the same toolchain in both jobs; `--accept-recipe` takes the image all the same, and the receipt says so")
            .into())
    }
}

/// The fix where what lies there is not what `build` leaves.
const ANEW: &str = "build it again: `cargo xtask build` writes and pushes nothing but whole images";

fn refused(what: String) -> Failure {
    Failure::new(Exit::Build, what)
}

fn other_sources(package: &PackageName, place: &str, here: Digest, there: &str) -> Failure {
    refused(format!(
        "{place}: {package} was built from other sources\n  here:  {here}\n  there: {there}"
    ))
    .hint("build it from this commit, without edits in either checkout; nothing is built here instead")
}

impl Offer {
    /// The digest of how it was built.
    #[must_use]
    pub const fn recipe(&self) -> Digest {
        self.recipe
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> String {
        match &self.from {
            Where::Archive(path) => path.to_string(),
            Where::Registry(registry) => format!(
                "{}/{}@{}",
                registry.repository(),
                self.reference.package(),
                self.observed.manifest_digest().oci()
            ),
        }
    }

    /// In what its recipe differs from the one of this machine; only where that was accepted.
    #[must_use]
    pub fn differences(&self) -> &[String] {
        &self.differences
    }

    /// What fetches it, for `--plan`; nothing where it lies in a folder.
    #[must_use]
    pub fn fetching(&self, state: &Utf8Path) -> Option<Invocation> {
        match &self.from {
            Where::Archive(_) => None,
            Where::Registry(registry) => Some(registry.fetching(
                self.reference.package().as_str(),
                self.observed.manifest_digest(),
                (&kept_folder(state), &self.kept_name()),
            )),
        }
    }

    fn kept_name(&self) -> String {
        format!("{}.oci.tar", self.observed.manifest_digest())
    }

    /// Writes the archive that is loaded, and tells what is in it.
    pub(super) fn take(self: &Arc<Self>, state: &Utf8Path, archives: &Utf8Path) -> Result<Built> {
        let archive = match &self.from {
            Where::Archive(path) => read_archive(path)?,
            Where::Registry(registry) => self.fetch(registry, &kept_folder(state))?,
        };
        let name = self.reference.to_string();
        let unfit = || format!("{}: {name} cannot be taken", self.place());
        let layer = archive.blob(self.observed.layer_digest());
        let (image, binary) = layer
            .and_then(|layer| self.observed.with_layer(&name, layer))
            .map_err(|error| refused(unfit()).hint(ANEW).caused_by(error))?;
        let binary = Digest::of(binary);
        let archive = archives.join(self.reference.archive_name());
        write_archive(&image, &archive)?;
        Ok(Built {
            reference: self.reference.clone(),
            source: self.source,
            recipe: self.recipe,
            origin: Origin::Fetched,
            fetched: Some(Arc::clone(self)),
            binary,
            image_id: image.image_id,
            manifest: image.manifest_digest,
            archive,
        })
    }

    /// From the registry, unless it was fetched before: kept by its digest, and hashed again.
    fn fetch(&self, registry: &Registry, folder: &Utf8Path) -> Result<ReadArchive> {
        let kept = folder.join(self.kept_name());
        if let Ok(archive) = read_archive(&kept)
            && archive.blob(self.observed.layer_digest()).is_ok()
        {
            if let Ok(metadata) = kept.metadata() {
                crate::cache::mark_used(&kept, &metadata);
            }
            return Ok(archive);
        }
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {folder}"))?;
        let beside = tempfile::Builder::new()
            .prefix(".new-")
            .tempdir_in(folder)
            .with_context(|| format!("cannot make a folder in {folder}"))?;
        let beside_path = Utf8Path::from_path(beside.path()).context("a folder in no UTF-8")?;
        let name = self.kept_name();
        let package = self.reference.package().as_str();
        let manifest = self.observed.manifest_digest();
        registry.fetch(package, manifest, (beside_path, &name))?;
        let fetched = beside_path.join(name);
        let archive = read_archive(&fetched)?;
        std::fs::rename(&fetched, &kept).with_context(|| format!("cannot write {kept}"))?;
        Ok(archive)
    }
}

/// What was fetched by digest.
fn kept_folder(state: &Utf8Path) -> Utf8PathBuf {
    state.join(super::PREBUILT)
}

fn read_archive(path: &Utf8Path) -> Result<ReadArchive> {
    let unfit = || refused(format!("{path} is no archive of an image")).hint(ANEW);
    let bytes = std::fs::read(path).map_err(|error| {
        refused(format!("cannot read {path}"))
            .hint(ANEW)
            .caused_by(error)
    })?;
    ReadArchive::new(bytes).map_err(|error| unfit().caused_by(error).into())
}
