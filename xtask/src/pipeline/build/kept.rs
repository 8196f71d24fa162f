//! Binaries, kept by the digest of all that made them: `<state>/bin/<name>-<digest>`, and their own
//! SHA-256 beside them, written last. What is found is hashed again; what is damaged is no find.

use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cache::{mark_used, write_whole};
use crate::digest::Digest;
use crate::report;

/// A binary that is kept, and its bytes as they were hashed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: Utf8PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
}

/// All binaries of a state folder.
#[derive(Debug)]
pub(super) struct Store {
    folder: Utf8PathBuf,
}

impl Store {
    pub(super) fn of(state: &Utf8Path) -> Self {
        Self {
            folder: state.join("bin"),
        }
    }

    fn path(&self, name: &str, made_by: Digest) -> Utf8PathBuf {
        self.folder.join(format!("{name}-{made_by}"))
    }

    /// What was made by this, if it is kept whole.
    pub(super) fn find(&self, name: &str, made_by: Digest) -> Result<Option<Kept>> {
        let path = self.path(name, made_by);
        // Written last: without it there is nothing, or half of something.
        let Ok(recorded) = fs::read_to_string(record(&path)) else {
            return Ok(None);
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        };
        let digest = Digest::of(&bytes);
        if recorded.trim().parse::<Digest>().ok() != Some(digest) {
            report::note(&format!("{path} is damaged: building it anew"));
            return Ok(None);
        }
        for used in [&path, &record(&path)] {
            if let Ok(metadata) = used.metadata() {
                mark_used(used, &metadata);
            }
        }
        Ok(Some(Kept {
            path,
            bytes,
            digest,
        }))
    }

    /// Keeps these bytes.
    pub(super) fn keep(&self, name: &str, made_by: Digest, bytes: Vec<u8>) -> Result<Kept> {
        let path = self.path(name, made_by);
        let digest = Digest::of(&bytes);
        fs::create_dir_all(&self.folder).with_context(|| format!("cannot make {}", self.folder))?;
        match fs::remove_file(record(&path)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", record(&path)));
            }
            _ => {}
        }
        write_whole(&path, &bytes, 0o555).with_context(|| format!("cannot write {path}"))?;
        let record = record(&path);
        write_whole(&record, format!("{digest}\n").as_bytes(), 0o444)
            .with_context(|| format!("cannot write {record}"))?;
        Ok(Kept {
            path,
            bytes,
            digest,
        })
    }

    /// Puts bytes that should have been equal beside the kept ones, for whoever looks for the reason.
    pub(super) fn put_beside(&self, kept: &Kept, bytes: &[u8]) -> Result<Utf8PathBuf> {
        let path = Utf8PathBuf::from(format!("{}.differs", kept.path));
        write_whole(&path, bytes, 0o555).with_context(|| format!("cannot write {path}"))?;
        Ok(path)
    }
}

fn record(path: &Utf8Path) -> Utf8PathBuf {
    Utf8PathBuf::from(format!("{path}.sha256"))
}
