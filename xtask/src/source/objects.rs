//! The bytes of sources, kept by their digest: `objects/ab/cdef...`, read-only, each written once.
//! A cache: collected by age, and never believed without hashing again.

use std::fs;

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

    fn path(&self, digest: Digest) -> Utf8PathBuf {
        let name = digest.to_string();
        Utf8PathBuf::from(format!("{}/{}/{}", self.directory, &name[..2], &name[2..]))
    }

    /// Keeps these bytes, whose digest this is.
    pub(crate) fn put(&self, digest: Digest, bytes: &[u8]) -> Result<()> {
        let path = self.path(digest);
        if let Ok(metadata) = path.symlink_metadata()
            && metadata.is_file()
            && metadata.len() == bytes.len() as u64
        {
            mark_used(&path, &metadata);
            return Ok(());
        }
        write_whole(&path, bytes, 0o444).with_context(|| format!("cannot keep the object {path}"))
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
