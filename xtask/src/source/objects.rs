//! The bytes of sources, kept by their digest: `objects/ab/cdef...`, read-only, each written once.
//! A cache: collected by age, and never believed without hashing again.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::digest::Digest;
use crate::exit::{Exit, Failure};

/// An object whose last use is younger than this is not marked as used again.
const MARK_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

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
        self.directory.join(&name[..2]).join(&name[2..])
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

/// Collecting by age goes by the time of the last write; a use counts as one.
fn mark_used(path: &Utf8Path, metadata: &fs::Metadata) {
    let now = SystemTime::now();
    let age = metadata
        .modified()
        .ok()
        .and_then(|then| now.duration_since(then).ok());
    if age.is_some_and(|age| age > MARK_INTERVAL) {
        // Somebody else's store can be read all the same; it is collected earlier then.
        let _ = File::open(path).and_then(|file| file.set_modified(now));
    }
}

/// Removes objects that no run has used for `age_max`; gives how many bytes that freed.
///
/// # Errors
/// When the store cannot be listed, or an object cannot be removed.
pub fn collect(state_directory: &Utf8Path, age_max: Duration) -> Result<u64> {
    let objects = Objects::open(state_directory)?;
    let mut freed_bytes = 0;
    let list = |folder: &Utf8Path| {
        folder
            .read_dir_utf8()
            .with_context(|| format!("cannot list {folder}"))
    };
    for shard in list(&objects.directory)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for object in list(shard.path())? {
            let object = object?;
            let metadata = object.metadata()?;
            let age = metadata.modified()?.elapsed().unwrap_or_default();
            if age > age_max {
                fs::remove_file(object.path())
                    .with_context(|| format!("cannot remove {}", object.path()))?;
                freed_bytes += metadata.len();
            }
        }
    }
    Ok(freed_bytes)
}

/// Writes a file beside its place and renames it there: whoever sees it sees all of it.
pub(crate) fn write_whole(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Utf8Path::new("/"));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".new-");
    let created = match builder.tempfile_in(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder)?;
            builder.tempfile_in(folder)
        }
        created => created,
    };
    let mut file = created?;
    file.write_all(bytes)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
