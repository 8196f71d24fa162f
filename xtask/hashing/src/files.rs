//! Reads and hashes many files of one tree, a few at a time, each once. What is no plain file is
//! told to be something else, and looked at by whoever asked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use crate::digest::Digest;
use crate::file::{self, Stamp};

/// How many paths a thread takes at once: neighbours lie in the same folder.
const BATCH: usize = 16;

/// What came of one path.
#[derive(Debug)]
pub enum Outcome {
    /// A file that has the stamp that is known; it was not read.
    Known,
    /// A file, read and hashed, and its bytes kept if that was asked for.
    File {
        /// As it was before and after it was read.
        stamp: Stamp,
        /// Its owner may execute it.
        executable: bool,
        /// Its length.
        length_bytes: u64,
        /// Of its bytes.
        digest: Digest,
    },
    /// A file that was written to while it was read.
    Changed,
    /// A file whose bytes could not be kept: their digest, and why.
    NotKept(Digest, io::Error),
    /// Anything else, or nothing, or what cannot be read.
    Other,
}

/// Where bytes are kept by their digest.
pub struct Store<'a> {
    /// A folder with `ab/cdef...`.
    pub folder: &'a Path,
    /// What was used within this time need not be marked as used.
    pub used_within: Duration,
    /// Keeps bytes that are not there, or marks them as used.
    pub keep: &'a (dyn Fn(Digest, &[u8]) -> io::Result<()> + Sync),
}

/// Reads these paths, relative to `root`; the outcomes are in their order. `known` tells the stamp
/// of what need not be read again.
///
/// # Errors
/// When the root or the store cannot be opened.
pub fn read_all(
    root: &Path,
    paths: &[String],
    threads_count: usize,
    store: Option<&Store<'_>>,
    known: &(dyn Fn(&str) -> Option<Stamp> + Sync),
) -> io::Result<Vec<Outcome>> {
    let root: OwnedFd = File::open(root)?.into();
    let objects = store.map(|store| File::open(store.folder)).transpose()?;
    let objects = store.zip(objects.as_ref());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reader = Reader {
            root: root.as_fd(),
            objects: objects.map(|(store, folder)| (store, folder.as_fd())),
            used_after: used_after(store),
            folder: None,
            buffer: Vec::new(),
        };
        let mut batches = Vec::new();
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(left) = paths.get(start..).filter(|left| !left.is_empty()) else {
                return batches;
            };
            let batch = left.iter().take(BATCH);
            let outcomes = batch.map(|path| reader.outcome(path, known));
            batches.push((start, outcomes.collect::<Vec<_>>()));
        }
    };
    let mut batches = thread::scope(|scope| {
        let others: Vec<_> = (1..threads_count).map(|_| scope.spawn(work)).collect();
        let mut batches = work();
        for other in others {
            let found = other.join();
            batches.extend(found.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        batches
    });
    batches.sort_unstable_by_key(|(start, _)| *start);
    Ok(batches.into_iter().flat_map(|(_, batch)| batch).collect())
}

/// Seconds since 1970.
fn used_after(store: Option<&Store<'_>>) -> i64 {
    let within = store.map_or(Duration::ZERO, |store| store.used_within);
    let then = SystemTime::now().checked_sub(within);
    let since = then.and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    since.map_or(i64::MAX, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// One thread's way through the paths; the buffer serves every file, and a folder is opened once
/// for the files in it that follow each other.
struct Reader<'a> {
    root: BorrowedFd<'a>,
    objects: Option<(&'a Store<'a>, BorrowedFd<'a>)>,
    used_after: i64,
    folder: Option<(&'a str, Option<OwnedFd>)>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn outcome(&mut self, path: &'a str, known: &dyn Fn(&str) -> Option<Stamp>) -> Outcome {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.folder.as_ref().is_none_or(|(last, _)| *last != folder) {
            self.folder = Some((folder, open_folder(self.root, folder)));
        }
        let Some((_, Some(folder))) = &self.folder else {
            return Outcome::Other;
        };
        if let Some(stamp) = known(path)
            && let Ok(found) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && Stamp::of_stat(&found) == stamp
        {
            return Outcome::Known;
        }
        let (stamp, executable) = match file::read_plain(folder.as_fd(), name, &mut self.buffer) {
            Ok(file::Plain::File { stamp, executable }) => (stamp, executable),
            Ok(file::Plain::Changed) => return Outcome::Changed,
            Ok(file::Plain::Other) | Err(_) => return Outcome::Other,
        };
        let digest = Digest::of(&self.buffer);
        if let Some((store, objects)) = &self.objects
            && !self.is_kept(*objects, digest)
            && let Err(error) = (store.keep)(digest, &self.buffer)
        {
            return Outcome::NotKept(digest, error);
        }
        Outcome::File {
            stamp,
            executable,
            length_bytes: self.buffer.len() as u64,
            digest,
        }
    }

    /// It is there, as long as these bytes, and was used not long ago.
    fn is_kept(&self, objects: BorrowedFd<'_>, digest: Digest) -> bool {
        let path = digest.path_below("");
        let found = rustix::fs::statat(objects, &path[1..], AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found: Stat| {
            let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
            kind.is_file()
                && u64::try_from(found.st_size) == Ok(self.buffer.len() as u64)
                && found.st_mtime > self.used_after
        })
    }
}

fn open_folder(root: BorrowedFd<'_>, folder: &str) -> Option<OwnedFd> {
    let folder = if folder.is_empty() { "." } else { folder };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(root, folder, flags, Mode::empty()).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io;
    use std::os::unix::fs::symlink;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::{Outcome, Store, read_all};
    use crate::digest::Digest;

    #[test]
    fn every_path_has_its_outcome_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let (root, objects) = (folder.path().join("tree"), folder.path().join("objects"));
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(&objects).unwrap();
        let mut paths: Vec<String> = (0..100).map(|index| format!("a/b/{index:03}")).collect();
        for path in &paths {
            fs::write(root.join(path), path).unwrap();
        }
        symlink("b/001", root.join("a/link")).unwrap();
        let others = ["a/b", "a/link", "a/gone", "gone/file", "a/b/001/below"];
        paths.extend(others.map(str::to_owned));
        fs::write(root.join("top"), "top").unwrap();
        paths.push("top".to_owned());
        let kept = Mutex::new(Vec::new());
        let keep = |digest: Digest, bytes: &[u8]| {
            kept.lock().unwrap().push((digest, bytes.to_vec()));
            let path = digest.path_below(objects.to_str().unwrap());
            fs::create_dir_all(path.rsplit_once('/').unwrap().0)?;
            fs::write(path, bytes)
        };
        let store = Store {
            folder: &objects,
            used_within: Duration::from_secs(3600),
            keep: &keep,
        };
        let read = || read_all(&root, &paths, 3, Some(&store), &|_| None).unwrap();
        let outcomes = read();
        assert_eq!(outcomes.len(), paths.len());
        for (path, outcome) in paths.iter().zip(&outcomes) {
            match outcome {
                Outcome::Other => assert!(others.contains(&path.as_str()), "{path}"),
                Outcome::File {
                    digest,
                    length_bytes,
                    ..
                } => {
                    assert_eq!(*digest, Digest::of(path.as_bytes()));
                    assert_eq!(*length_bytes, path.len() as u64);
                }
                other => panic!("{path}: {other:?}"),
            }
        }
        let first = std::mem::take(&mut *kept.lock().unwrap());
        assert_eq!(first.len(), 101);
        assert!(
            first
                .iter()
                .all(|(digest, bytes)| Digest::of(bytes) == *digest)
        );
        // What is there whole is not kept again; what is shorter is.
        fs::write(first[0].0.path_below(objects.to_str().unwrap()), "").unwrap();
        read();
        assert_eq!(kept.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_is_known_is_not_read_and_what_cannot_be_kept_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "one").unwrap();
        let paths = ["file".to_owned()];
        let keep = |_: Digest, _: &[u8]| Err(io::ErrorKind::StorageFull.into());
        let store = Store {
            folder: folder.path(),
            used_within: Duration::ZERO,
            keep: &keep,
        };
        let first = read_all(folder.path(), &paths, 1, None, &|_| None).unwrap();
        let [Outcome::File { stamp, .. }] = first[..] else {
            panic!("{first:?}");
        };
        let again = read_all(folder.path(), &paths, 1, Some(&store), &|_| Some(stamp)).unwrap();
        assert!(matches!(again[..], [Outcome::Known]), "{again:?}");
        fs::write(folder.path().join("file"), "two").unwrap();
        let again = read_all(folder.path(), &paths, 1, Some(&store), &|_| Some(stamp)).unwrap();
        assert!(matches!(again[..], [Outcome::NotKept(..)]), "{again:?}");
    }
}
