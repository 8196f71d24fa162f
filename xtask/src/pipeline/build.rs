//! Phase 1: exactly the frozen bytes, with the tag of phase 0; the tests of the run as well.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::Images;
use super::tag::{ImageRef, Tagged};
use crate::digest::Digest;
use crate::source::workspace::Workspace;

mod config;
mod probe;
pub mod recipe;

/// Where a binary came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Compiled in this run.
    Built,
    /// Found by the digest of all that made it, and hashed again.
    Kept,
}

/// An image whose archive lies on disk and whose ID is known.
#[derive(Clone, Debug)]
pub struct Built {
    pub(in crate::pipeline) reference: ImageRef,
    pub(in crate::pipeline) source: Digest,
    pub(in crate::pipeline) recipe: Digest,
    pub(in crate::pipeline) origin: Origin,
    pub(in crate::pipeline) binary: Digest,
    pub(in crate::pipeline) image_id: Digest,
    pub(in crate::pipeline) manifest: Digest,
    pub(in crate::pipeline) archive: Utf8PathBuf,
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

    /// Compiled or kept.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
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

/// The tests of the run, built from the same snapshot.
#[derive(Clone, Debug)]
pub struct TestProgram {
    pub(in crate::pipeline) path: Utf8PathBuf,
    pub(in crate::pipeline) source: Digest,
    pub(in crate::pipeline) binary: Digest,
    pub(in crate::pipeline) origin: Origin,
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

/// Builds every image of the run, and its tests.
///
/// # Errors
/// [`crate::exit::Exit::Build`] when the sources do not compile (the compiler's own message has
/// been shown), when a build read what is not in the closure, or when it is not reproducible.
pub fn build(
    _workspace: &Workspace,
    _images: Images<Tagged>,
    _options: &Options<'_>,
) -> Result<(Images<Built>, TestProgram)> {
    todo!()
}

/// Builds every image, without the tests: for `cargo xtask build`.
///
/// # Errors
/// As [`build`].
pub fn build_images(
    _workspace: &Workspace,
    _images: Images<Tagged>,
    _options: &Options<'_>,
) -> Result<Images<Built>> {
    todo!()
}
