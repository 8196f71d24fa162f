//! Phase 1: exactly the frozen bytes, with the tag of phase 0; the tests of the run as well. An
//! image that another job built of them is taken where such ones are asked for, and then not built.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::tag::{ImageRef, Tagged, tag_digest};
use super::{Frozen, Images, Stage};
use crate::digest::Digest;
use crate::engine::Archive;
use crate::exit::{Exit, Failure};
use crate::image::{self, Assembled, Contents};
use crate::process::Invocation;
use crate::report::{self, live};
use crate::source::snapshot::PackageSnapshot;
use crate::source::workspace::{PackageName, Workspace};

use self::kept::{Kept, Store};
use self::labels::Labels;
use self::prebuilt::Offer;
use self::workshop::{Product, Workshop};

mod config;
mod environment;
mod given;
mod inspect;
mod kept;
mod labels;
pub mod prebuilt;
mod probe;
mod pruned;
pub mod recipe;
mod workshop;

/// Where a binary came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Compiled in this run.
    Built,
    /// Found by the digest of all that made it, and hashed again.
    Kept,
    /// Built by another job from these very sources, and found to be what it says.
    Fetched,
}

/// The folder for images that were fetched, each under the digest of its manifest.
pub const PREBUILT: &str = "prebuilt";

/// An image whose archive lies on disk and whose ID is known.
#[derive(Clone, Debug)]
pub struct Built {
    reference: ImageRef,
    source: Digest,
    recipe: Digest,
    origin: Origin,
    fetched: Option<Arc<Offer>>,
    binary: Digest,
    image_id: Digest,
    manifest: Digest,
    archive: Utf8PathBuf,
}

impl Built {
    /// The reference of phase 0.
    #[must_use]
    pub const fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The digest of its sources; its process tells the same.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// The digest of how it was built.
    #[must_use]
    pub const fn recipe(&self) -> Digest {
        self.recipe
    }

    /// Compiled, kept or fetched.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// As it was found, if another job built it.
    #[must_use]
    pub fn fetched(&self) -> Option<&Offer> {
        self.fetched.as_deref()
    }

    /// SHA-256 of the binary.
    #[must_use]
    pub const fn binary(&self) -> Digest {
        self.binary
    }

    /// SHA-256 of the image's config.
    #[must_use]
    pub const fn image_id(&self) -> Digest {
        self.image_id
    }

    /// SHA-256 of the image's manifest.
    #[must_use]
    pub const fn manifest(&self) -> Digest {
        self.manifest
    }

    /// The archive that is loaded.
    #[must_use]
    pub fn archive(&self) -> &Utf8Path {
        &self.archive
    }
}

impl Stage for Built {
    fn reference(&self) -> &ImageRef {
        &self.reference
    }
}

impl Archive for Built {
    fn path(&self) -> &Utf8Path {
        &self.archive
    }
}

/// The tests of the run, built from the same snapshot.
#[derive(Clone, Debug)]
pub struct TestProgram {
    path: Utf8PathBuf,
    source: Digest,
    binary: Digest,
    origin: Origin,
}

impl TestProgram {
    /// The executable.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The digest of its sources.
    #[must_use]
    pub const fn source(&self) -> Digest {
        self.source
    }

    /// SHA-256 of the executable.
    #[must_use]
    pub const fn binary(&self) -> Digest {
        self.binary
    }

    /// Compiled or kept.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether what lies there is what was built: it is executed by its path, minutes later.
    ///
    /// # Errors
    /// [`Exit::Attest`] when it is another file, with both digests.
    pub(crate) fn check(&self) -> Result<()> {
        let path = &self.path;
        let read = fs::File::open(path).and_then(Digest::of_reader);
        let (found, _) = read.with_context(|| format!("cannot read {path}"))?;
        if found == self.binary {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Attest,
            format!(
                "{path} was replaced: its digest is {found}, built was {}",
                self.binary
            ),
        )
        .hint("run again: the tests are built anew where their binary is not what its record says")
        .into())
    }
}

/// How to build.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// Build in an empty folder all the same, and compare with what is kept.
    pub no_cache: bool,
    /// Where the archives go.
    pub archives: &'a Utf8Path,
    /// Where cargo's output goes, besides the terminal.
    pub log: &'a Utf8Path,
}

/// Builds every image of the run, and the tests of its target.
///
/// # Errors
/// As [`build_beside`].
pub fn build(
    workspace: &Workspace,
    images: Images<Tagged>,
    options: &Options<'_>,
) -> Result<(Images<Built>, TestProgram)> {
    let frozen = Arc::clone(images.frozen());
    build_beside(workspace, images, frozen.target().as_str(), options)
}

/// Builds every image of the run, and this one of the test programs.
///
/// # Errors
/// [`crate::exit::Exit::Build`] when the sources do not compile (the compiler's own message has
/// been shown), when a build read what is not in the closure, or when it is not reproducible.
pub fn build_beside(
    workspace: &Workspace,
    images: Images<Tagged>,
    tests: &str,
    options: &Options<'_>,
) -> Result<(Images<Built>, TestProgram)> {
    let frozen = Arc::clone(images.frozen());
    let tests = Product::Tests(&workspace.tests, tests);
    let (images, kept) = build_with(workspace, images, options, Some(tests))?;
    let binary = kept.context("the tests were not built")?;
    let program = TestProgram {
        path: binary.kept.path,
        source: frozen.snapshot().package(&workspace.tests).source(),
        binary: binary.kept.digest,
        origin: binary.origin,
    };
    Ok((images, program))
}

/// Builds every image, without the tests: for `cargo xtask build`.
///
/// # Errors
/// As [`build`].
pub fn build_images(
    workspace: &Workspace,
    images: Images<Tagged>,
    options: &Options<'_>,
) -> Result<Images<Built>> {
    Ok(build_with(workspace, images, options, None)?.0)
}

/// A step of phase 1 that would be gone through.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The command; nothing where a file is read.
    pub invocation: Option<Invocation>,
    /// What comes of it.
    pub origin: Origin,
    /// Where an image is taken from that another job built.
    pub place: Option<String>,
}

/// What [`build`] would call for each package and for the tests, and whether the result is there
/// already, so that it would not.
///
/// # Errors
/// When what is kept cannot be read.
pub fn plan(workspace: &Workspace, images: &Images<Tagged>) -> Result<Vec<Planned>> {
    let frozen = images.frozen();
    let state = workspace.state_directory();
    let store = Store::of(&state);
    let build = |product: Product<'_>| {
        let kept = store.find(&product.kept_name(), sources(frozen, &product).1)?;
        Ok(Planned {
            invocation: Some(workshop::planned(&state, frozen.recipe(), &product)),
            origin: kept.map_or(Origin::Built, |_| Origin::Kept),
            place: None,
        })
    };
    let step = |(package, image): (&PackageName, &Tagged)| match image.offer() {
        None => build(Product::Binary(package)),
        Some(offer) => Ok(Planned {
            invocation: offer.fetching(&state),
            origin: Origin::Fetched,
            place: Some(offer.place()),
        }),
    };
    let tests = build(Product::Tests(&workspace.tests, frozen.target().as_str()));
    images.iter().map(step).chain([tests]).collect()
}

/// A binary, and whether it was there.
struct Binary {
    kept: Kept,
    origin: Origin,
}

fn build_with(
    workspace: &Workspace,
    images: Images<Tagged>,
    options: &Options<'_>,
    tests: Option<Product<'_>>,
) -> Result<(Images<Built>, Option<Binary>)> {
    let frozen = Arc::clone(images.frozen());
    let state = workspace.state_directory();
    let packages: Vec<PackageName> = images
        .iter()
        .filter(|(_, image)| image.offer().is_none())
        .map(|(name, _)| name.clone())
        .collect();
    let products: Vec<Product<'_>> = packages.iter().map(Product::Binary).chain(tests).collect();
    let mut binaries = provide(&state, &frozen, &products, options)?;
    let tests = tests.and_then(|tests| binaries.remove(&tests.kept_name()));
    fs::create_dir_all(options.archives)
        .with_context(|| format!("cannot make {}", options.archives))?;
    let tagged = images.iter().collect::<Vec<_>>();
    let _activity = live::begin("packing", format!("{} images", tagged.len()));
    let built = in_parallel(&tagged, |(package, tagged)| {
        if let Some(offer) = tagged.offer() {
            return Offer::take(offer, &state, options.archives);
        }
        let version = &workspace.package(package.as_str())?.version;
        let binary = &binaries[package.as_str()];
        assemble(&frozen, tagged, version, binary, options.archives)
    })?;
    let mut built = built.into_iter();
    let images = images.advance(|_| built.next().context("an image was not assembled"))?;
    Ok((images, tests))
}

/// Every binary, by the name that it is kept as: found, or built one after the other.
fn provide(
    state: &Utf8Path,
    frozen: &Frozen,
    products: &[Product<'_>],
    options: &Options<'_>,
) -> Result<BTreeMap<String, Binary>> {
    let store = Store::of(state);
    let mut found = in_parallel(products, |product| {
        store.find(&product.kept_name(), sources(frozen, product).1)
    })?;
    if options.no_cache {
        found.fill_with(|| None);
    }
    let mut workshop = None;
    let mut binaries = BTreeMap::new();
    for (product, found) in products.iter().zip(found) {
        let binary = match found {
            Some(kept) => Binary {
                kept,
                origin: Origin::Kept,
            },
            None => {
                let workshop = match &mut workshop {
                    Some(workshop) => workshop,
                    entered => entered.insert(Workshop::enter(
                        state,
                        frozen.recipe(),
                        options.log,
                        options.no_cache,
                    )?),
                };
                make(workshop, &store, frozen, product, options.no_cache)?
            }
        };
        binaries.insert(product.kept_name(), binary);
    }
    Ok(binaries)
}

/// The frozen package of a product, and the digest of all that makes it.
fn sources<'a>(frozen: &'a Frozen, product: &Product<'_>) -> (&'a PackageSnapshot, Digest) {
    let package = frozen.snapshot().package(product.package());
    let made_by = tag_digest(package.source(), frozen.recipe().digest());
    (package, made_by)
}

fn make(
    workshop: &Workshop<'_>,
    store: &Store,
    frozen: &Frozen,
    product: &Product<'_>,
    no_cache: bool,
) -> Result<Binary> {
    let name = product.kept_name();
    let (package, made_by) = sources(frozen, product);
    // Another run may have built it while this one waited.
    let there = store.find(&name, made_by)?;
    if !no_cache && let Some(kept) = there {
        return Ok(Binary {
            kept,
            origin: Origin::Kept,
        });
    }
    let begun = Instant::now();
    let bytes = workshop.build(product, package)?;
    let kept = match there {
        Some(kept) => {
            check_same(store, &name, &kept, &bytes)?;
            kept
        }
        None => store.keep(&name, made_by, bytes)?,
    };
    report::line("compiled", &name, begun.elapsed());
    Ok(Binary {
        kept,
        origin: Origin::Built,
    })
}

/// The same sources in the same way must be the same bytes.
fn check_same(store: &Store, name: &str, kept: &Kept, bytes: &[u8]) -> Result<()> {
    if kept.bytes == bytes {
        return Ok(());
    }
    let other = store.put_beside(kept, bytes)?;
    let differs = kept
        .bytes
        .iter()
        .zip(bytes)
        .position(|(one, other)| one != other);
    let from = differs.unwrap_or_else(|| kept.bytes.len().min(bytes.len()));
    let what = format!(
        "{name} is not reproducible: built in an empty folder, its bytes differ from offset {from} on \
         ({} bytes kept, {} bytes anew)\n  kept: {}\n  anew: {other}",
        kept.bytes.len(),
        bytes.len(),
        kept.path,
    );
    Err(Failure::new(Exit::Build, what)
        .hint("look at what differs with diffoscope or cmp; clocks, paths and random order in build scripts and macros are the usual reasons")
        .into())
}

fn assemble(
    frozen: &Frozen,
    tagged: &Tagged,
    version: &str,
    binary: &Binary,
    archives: &Utf8Path,
) -> Result<Built> {
    let reference = tagged.reference();
    let package = reference.package();
    let mut labels = Labels {
        package: package.to_string(),
        target: frozen.target().to_string(),
        source: tagged.source(),
        recipe: tagged.recipe(),
        recipe_fields: frozen.recipe().fields().clone(),
    }
    .written()?;
    let described = [
        ("org.opencontainers.image.title", package.to_string()),
        ("org.opencontainers.image.version", version.to_owned()),
    ];
    labels.extend(described.map(|(name, value)| (name.to_owned(), value)));
    let (name, binary_name) = (reference.to_string(), format!("/{package}"));
    let image = image::assemble(&Contents {
        reference: &name,
        binary_name: &binary_name,
        binary: &binary.kept.bytes,
        platform: frozen.platform(),
        labels,
    })
    .map_err(|error| {
        Failure::new(Exit::Build, format!("cannot make an image of {package}")).caused_by(error)
    })?;
    let archive = archives.join(reference.archive_name());
    write_archive(&image, &archive)?;
    Ok(Built {
        reference: reference.clone(),
        source: tagged.source(),
        recipe: tagged.recipe(),
        origin: binary.origin,
        fetched: None,
        binary: binary.kept.digest,
        image_id: image.image_id,
        manifest: image.manifest_digest,
        archive,
    })
}

/// Whole or not at all.
fn write_archive(image: &Assembled<'_>, archive: &Utf8Path) -> Result<()> {
    let write_whole = || -> Result<()> {
        let folder = archive.parent().context("an archive in no folder")?;
        let file = tempfile::NamedTempFile::new_in(folder)?;
        image.write_archive(file.as_file())?;
        let readable = Permissions::from_mode(0o644);
        file.as_file().set_permissions(readable)?;
        file.persist(archive)?;
        Ok(())
    };
    write_whole().with_context(|| format!("cannot write {archive}"))
}

/// One thread each: these are few, and bound by hashing.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    step: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = items
            .iter()
            .map(|item| scope.spawn(|| step(item)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}
