//! The bytes of sources, kept by their digest: `objects/ab/cdef...`, read-only, each written once.
//! A cache: collected by age, and never believed without hashing again.

use std::fs;
use std::io;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cache::{mark_used, write_whole};
use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// A store.
#[derive(Debug)]
pub(crate) struct Objects {
    directory: Utf8PathBuf,
}

impl Objects {
    /// The store of a state directory, made if it is missing.
    pub(crate) fn open(state_directory: &Utf8Path) -> Result<Self> {
        let directory = state_directory.join("objects");
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {directory}"))?;
        Ok(Self { directory })
    }

    /// Its folder.
    pub(crate) fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Where the bytes with this digest lie.
    pub(crate) fn path(&self, digest: Digest) -> Utf8PathBuf {
        digest.path_below(self.directory.as_str()).into()
    }

    /// Keeps these bytes, whose digest this is.
    ///
    /// # Errors
    /// What writing them gives.
    pub(crate) fn put(&self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(digest);
        if let Ok(metadata) = path.symlink_metadata()
            && metadata.is_file()
            && metadata.len() == bytes.len() as u64
        {
            mark_used(&path, &metadata);
            return Ok(());
        }
        write_whole(&path, bytes, 0o444)
    }

    /// The bytes of an object, hashed again.
    pub(crate) fn get(&self, digest: Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = fs::read(&path).with_context(|| format!("cannot read the object {path}"))?;
        let found = Digest::of(&bytes);
        if found == digest {
            return Ok(bytes);
        }
        let message = format!("the object {path} is damaged: its bytes have the digest {found}");
        Err(Failure::new(Exit::Source, message)
            .hint(format!("remove it (`rm -f {path}`) and run again"))
            .into())
    }
}
