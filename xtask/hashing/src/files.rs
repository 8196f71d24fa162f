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
    File(ReadFile),
    /// A file that was written to while it was read.
    Changed,
    /// A file whose bytes could not be kept: their digest, and why.
    NotKept(Digest, io::Error),
    /// Anything else, or nothing, or what cannot be read.
    Other,
}

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// As it was before and after it was read.
    pub stamp: Stamp,
    /// Its owner may execute it.
    pub executable: bool,
    /// Its length.
    pub length_bytes: u64,
    /// Of its bytes.
    pub digest: Digest,
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
            buffers: Default::default(),
        };
        let mut batches = Vec::new();
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(left) = paths.get(start..).filter(|left| !left.is_empty()) else {
                return batches;
            };
            let batch = &left[..left.len().min(BATCH)];
            batches.push((start, reader.outcomes(batch, known)));
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

/// One thread's way through the paths; the buffers serve every file, and a folder is opened once
/// for the files in it that follow each other.
struct Reader<'a> {
    root: BorrowedFd<'a>,
    objects: Option<(&'a Store<'a>, BorrowedFd<'a>)>,
    used_after: i64,
    folder: Option<(&'a str, Option<OwnedFd>)>,
    buffers: [Vec<u8>; 2],
}

/// A file whose bytes are in a buffer.
struct Unhashed {
    stamp: Stamp,
    executable: bool,
}

impl<'a> Reader<'a> {
    /// Files are hashed two at a time.
    fn outcomes(
        &mut self,
        paths: &'a [String],
        known: &dyn Fn(&str) -> Option<Stamp>,
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(paths.len());
        // In the first buffer, until the second has a file as well.
        let mut first: Option<(usize, Unhashed)> = None;
        for (place, path) in paths.iter().enumerate() {
            match self.look(path, usize::from(first.is_some()), known) {
                Err(outcome) => outcomes.push((place, outcome)),
                Ok(file) => match first.take() {
                    None => first = Some((place, file)),
                    Some((place_before, before)) => {
                        let [one, other] = Digest::of_both(&self.buffers[0], &self.buffers[1]);
                        outcomes.push((place_before, self.keep(&before, &self.buffers[0], one)));
                        outcomes.push((place, self.keep(&file, &self.buffers[1], other)));
                    }
                },
            }
        }
        if let Some((place, file)) = first {
            let bytes = &self.buffers[0];
            outcomes.push((place, self.keep(&file, bytes, Digest::of(bytes))));
        }
        outcomes.sort_unstable_by_key(|(place, _)| *place);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Reads a file into one of the buffers; of anything else tells what came of it.
    fn look(
        &mut self,
        path: &'a str,
        buffer: usize,
        known: &dyn Fn(&str) -> Option<Stamp>,
    ) -> Result<Unhashed, Outcome> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.folder.as_ref().is_none_or(|(last, _)| *last != folder) {
            self.folder = Some((folder, open_folder(self.root, folder)));
        }
        let Some((_, Some(folder))) = &self.folder else {
            return Err(Outcome::Other);
        };
        if let Some(stamp) = known(path)
            && let Ok(found) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && Stamp::of_stat(&found) == stamp
        {
            return Err(Outcome::Known);
        }
        match file::read_plain(folder.as_fd(), name, &mut self.buffers[buffer]) {
            Ok(file::Plain::File { stamp, executable }) => Ok(Unhashed { stamp, executable }),
            Ok(file::Plain::Changed) => Err(Outcome::Changed),
            Ok(file::Plain::Other) | Err(_) => Err(Outcome::Other),
        }
    }

    /// Keeps the bytes of a file if that is asked for and they are not there.
    fn keep(&self, file: &Unhashed, bytes: &[u8], digest: Digest) -> Outcome {
        let length_bytes = bytes.len() as u64;
        if let Some((store, objects)) = &self.objects
            && !self.is_kept(*objects, digest, length_bytes)
            && let Err(error) = (store.keep)(digest, bytes)
        {
            return Outcome::NotKept(digest, error);
        }
        Outcome::File(ReadFile {
            stamp: file.stamp,
            executable: file.executable,
            length_bytes,
            digest,
        })
    }

    /// It is there, as long as it should be, and was used not long ago.
    fn is_kept(&self, objects: BorrowedFd<'_>, digest: Digest, length_bytes: u64) -> bool {
        let path = digest.path_below("");
        let found = rustix::fs::statat(objects, &path[1..], AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found: Stat| {
            let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
            kind.is_file()
                && u64::try_from(found.st_size) == Ok(length_bytes)
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

    use super::{Outcome, ReadFile, Store, read_all};
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
        // Between two files that are hashed together.
        paths.splice(3..3, others.map(str::to_owned));
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
                Outcome::File(file) => {
                    assert_eq!(file.digest, Digest::of(path.as_bytes()));
                    assert_eq!(file.length_bytes, path.len() as u64);
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
        let [Outcome::File(ReadFile { stamp, .. })] = first[..] else {
            panic!("{first:?}");
        };
        let again = read_all(folder.path(), &paths, 1, Some(&store), &|_| Some(stamp)).unwrap();
        assert!(matches!(again[..], [Outcome::Known]), "{again:?}");
        fs::write(folder.path().join("file"), "two").unwrap();
        let again = read_all(folder.path(), &paths, 1, Some(&store), &|_| Some(stamp)).unwrap();
        assert!(matches!(again[..], [Outcome::NotKept(..)]), "{again:?}");
    }
}
