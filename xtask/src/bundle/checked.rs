//! The digest of a large file, read once: afterwards the file's stamp (inode, length, times) tells
//! that it is the same. The kernel sets the change time at each write, and nobody can set it back.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use hashing::digest::Hasher;
use hashing::file::Stamp;
use serde::{Deserialize, Serialize};

use super::description;
use crate::digest::Digest;
use crate::host;
use crate::process::interrupt;
use crate::report::live;

/// A change within the same tick of the kernel's clock leaves the change time as it is: only what
/// has rested for so long is remembered.
const REST_SECONDS: u64 = 2;
/// Large enough that a system call for each costs nothing.
const PORTION_BYTES: usize = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Record {
    path: Utf8PathBuf,
    stamp: Stamp,
    digest: Digest,
}

/// The digest of a file, as it is now.
///
/// # Errors
/// When it cannot be read, or is written to meanwhile: names it.
pub(super) fn digest_of(path: &Utf8Path) -> Result<Digest> {
    let file = File::open(path).map_err(|error| description::unreadable(path, error))?;
    let stamp_now = || -> Result<(Stamp, i64)> {
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot look at {path}"))?;
        Ok((Stamp::of(&metadata), metadata.ctime()))
    };
    let (stamp, changed_seconds) = stamp_now()?;
    let place = record_path(path)?;
    if let Some(record) = host::read_cached::<Record>(&place)
        && record.path == path
        && record.stamp == stamp
    {
        return Ok(record.digest);
    }
    let _activity = live::begin("checking", path.as_str());
    let digest = copy(&file, &mut io::sink()).with_context(|| format!("cannot read {path}"))?;
    anyhow::ensure!(
        stamp_now()?.0 == stamp,
        "{path} was written to while it was read"
    );
    let rests = u64::try_from(changed_seconds).is_ok_and(|then| now() >= then + REST_SECONDS);
    if rests {
        let record = Record {
            path: path.to_owned(),
            stamp,
            digest,
        };
        host::write_cached(&place, &record)?;
    }
    Ok(digest)
}

/// Copies to the end, and gives the digest of what was copied. A signal ends it.
pub(super) fn copy(mut from: impl Read, to: &mut impl Write) -> Result<Digest> {
    let mut hasher = Hasher::new();
    let mut portion = vec![0; PORTION_BYTES];
    loop {
        interrupt::check()?;
        match from.read(&mut portion) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(length) => {
                hasher.update(&portion[..length]);
                to.write_all(&portion[..length])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn record_path(path: &Utf8Path) -> Result<Utf8PathBuf> {
    let name = Digest::of(path.as_str().as_bytes()).short();
    Ok(super::tool::cache()?.join(format!("checked-{name}.json")))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
