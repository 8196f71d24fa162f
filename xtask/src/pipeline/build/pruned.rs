//! The lock of a mirror as cargo has pruned it, for the next build of the same manifests with the same
//! lock: asking cargo for it again costs a command in each build. It is a shortcut and no proof: what
//! it says is held against what was frozen each time, and cargo builds `--locked`.

use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cache::write_whole;
use crate::digest::Digest;
use crate::source::snapshot::PackageSnapshot;

/// Where the pruned lock of a package is kept, and what it was pruned from.
#[derive(Debug)]
pub(super) struct Pruned {
    path: Utf8PathBuf,
    /// The toolchain, and every manifest, lock and configuration of the mirror.
    made_from: Digest,
}

impl Pruned {
    /// Of a package whose mirror lies in this state folder, as this toolchain prunes it.
    pub(super) fn of(state: &Utf8Path, frozen: &PackageSnapshot, toolchain: Digest) -> Self {
        let mut text = toolchain.to_string();
        for (path, bytes) in frozen.generated() {
            text.push_str(&format!("\n{} {path}", Digest::of(bytes)));
        }
        Self {
            path: state
                .join("pruned-locks")
                .join(format!("{}.lock", frozen.name())),
            made_from: Digest::of(text.as_bytes()),
        }
    }

    /// What was kept, if it was pruned from the same.
    pub(super) fn find(&self) -> Option<String> {
        let text = fs::read_to_string(&self.path).ok()?;
        let (made_from, lock) = text.split_once('\n')?;
        (made_from == self.made_from.to_string()).then(|| lock.to_owned())
    }

    /// Keeps it in place of what was kept before.
    pub(super) fn keep(&self, lock: &str) -> Result<()> {
        let text = format!("{}\n{lock}", self.made_from);
        write_whole(&self.path, text.as_bytes(), 0o644)
            .with_context(|| format!("cannot write {}", self.path))
    }
}
