//! Files that can be made again: written whole or not at all, marked when they are used, and
//! removed by `clean` when nobody has used them for long.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use camino::{Utf8DirEntry, Utf8Path, Utf8PathBuf};

/// A file whose last use is younger than this is not marked as used again.
pub(crate) const MARK_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes a file beside its place and renames it there: whoever sees it sees all of it.
///
/// # Errors
/// When the folder cannot be made or the file cannot be written; then nothing is left.
pub fn write_whole(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
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

/// Collecting by age goes by the time of the last write; a use counts as one.
pub fn mark_used(path: &Utf8Path, metadata: &Metadata) {
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

/// A file that was removed.
#[derive(Clone, Debug)]
pub struct Removed {
    /// Where it was.
    pub path: Utf8PathBuf,
    /// How long it was.
    pub bytes: u64,
}

/// Removes the files below a folder that nobody has used for `age_max`; gives what it removed. A
/// folder that is not there holds none.
///
/// # Errors
/// When a folder cannot be listed, or a file cannot be removed.
pub fn collect(folder: &Utf8Path, age_max: Duration) -> Result<Vec<Removed>> {
    let entries = match folder.read_dir_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {folder}"))?,
    };
    let mut removed = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        let more = collect_entry(&entry, age_max)
            .with_context(|| format!("cannot collect {}", entry.path()))?;
        removed.extend(more);
    }
    Ok(removed)
}

fn collect_entry(entry: &Utf8DirEntry, age_max: Duration) -> Result<Vec<Removed>> {
    let kind = entry.file_type()?;
    if kind.is_dir() {
        return collect(entry.path(), age_max);
    }
    let metadata = entry.metadata()?;
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    if !kind.is_file() || age <= age_max {
        return Ok(Vec::new());
    }
    fs::remove_file(entry.path())?;
    Ok(vec![Removed {
        path: entry.path().to_owned(),
        bytes: metadata.len(),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn aged(folder: &Utf8Path, name: &str, days: u32) {
        let path = folder.join(name);
        write_whole(&path, b"12345", 0o644).unwrap();
        let then = SystemTime::now() - DAY * days;
        let file = File::options().append(true).open(&path).unwrap();
        file.set_modified(then).unwrap();
    }

    #[test]
    fn what_nobody_used_for_long_goes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        aged(folder, "ab/young", 13);
        aged(folder, "ab/old", 15);
        aged(folder, "cd/old-and-used", 15);
        let used = folder.join("cd/old-and-used");
        mark_used(&used, &used.metadata().unwrap());
        let removed = collect(folder, DAY * 14).unwrap();
        assert_eq!(removed.len(), 1);
        assert_eq!(removed[0].path, folder.join("ab/old"));
        assert_eq!(removed[0].bytes, 5);
        assert!(folder.join("ab/young").exists() && used.exists());
        assert!(!folder.join("ab/old").exists());
        assert!(collect(&folder.join("absent"), DAY).unwrap().is_empty());
    }
}
