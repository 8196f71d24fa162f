//! `target/e2e/src/<package>`: a tree with exactly the frozen bytes of one package's closure, for
//! cargo to read. Never the working tree, never more than the closure.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use super::snapshot::PackageSnapshot;

/// A mirror that holds what it was synced to. Valid while the build lock is held.
#[derive(Debug)]
pub struct Mirror {
    root: Utf8PathBuf,
}

impl Mirror {
    /// The workspace root within the mirror.
    #[must_use]
    pub fn root(&self) -> &Utf8Path {
        &self.root
    }

    /// Makes `<state_directory>/src/<package>` hold exactly this snapshot. The caller holds the build lock.
    ///
    /// # Errors
    /// When writing fails, or an object of the store is damaged.
    pub fn sync(_state_directory: &Utf8Path, _package: &PackageSnapshot) -> Result<Self> {
        todo!()
    }
}
