//! Reads and hashes many files of one tree, a few at a time, each once. What is no plain file is
//! told to be something else, and looked at by whoever asked.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Mode, OFlags, Stat};

use crate::digest::Digest;
use crate::file::{self, Stamp};
use crate::rest::{self, Pause, Restless};

/// How many paths a thread takes at once: neighbours lie in the same folder.
const BATCH: usize = 16;

/// What came of one path.
#[derive(Debug)]
pub enum Outcome {
    /// A file that has the stamp that is known; it was not read.
    Known,
    /// A file, read and hashed, and its bytes kept if that was asked for.
    File(ReadFile),
    /// A file that was written to over and over.
    Changed,
    /// A file whose bytes could not be kept: their digest, and why.
    NotKept(Digest, io::Error),
    /// Anything else, or nothing, or what cannot be read.
    Other,
}

/// A file that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadFile {
    /// As it was before and after it was read. It had rested before: no write that was still going on
    /// then can have ended under the same stamp.
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
/// of what need not be read again. What was written to just now is read when everything else has
/// been, and has rested.
///
/// # Errors
/// When the root or the store cannot be opened.
pub fn read_all(
    root: &Path,
    paths: &[String],
    threads_count: usize,
    store: Option<&Store<'_>>,
    known: &(dyn Fn(&str) -> Option<Stamp> + Sync),
    pause: Pause<'_>,
) -> io::Result<Vec<Outcome>> {
    let root: OwnedFd = File::open(root)?.into();
    let objects = store.map(|store| File::open(store.folder)).transpose()?;
    let tree = Tree {
        root: root.as_fd(),
        objects: store.zip(objects.as_ref().map(File::as_fd)),
        used_after: used_after(store),
        known,
    };
    let begun = Instant::now();
    let mut outcomes = Vec::with_capacity(paths.len());
    let mut restless = Vec::new();
    for (place, came) in tree.read(paths, &[], threads_count).into_iter().enumerate() {
        restless.extend(came.as_ref().err().map(|before| (place, *before)));
        outcomes.push(came.unwrap_or(Outcome::Changed));
    }
    while !restless.is_empty() && rest::wait(restless.iter().map(|(_, one)| *one), begun, pause) {
        let (places, before): (Vec<usize>, Vec<Restless>) = restless.drain(..).unzip();
        let paths: Vec<String> = places.iter().map(|place| paths[*place].clone()).collect();
        let came = tree.read(&paths, &before, threads_count);
        for (place, came) in places.into_iter().zip(came) {
            match came {
                Ok(outcome) => outcomes[place] = outcome,
                Err(before) => restless.push((place, before)),
            }
        }
    }
    Ok(outcomes)
}

/// What came of one path, or that its file does not rest yet.
type Came = Result<Outcome, Restless>;

/// What every reading of some paths works with.
#[derive(Clone, Copy)]
struct Tree<'a> {
    root: BorrowedFd<'a>,
    objects: Option<(&'a Store<'a>, BorrowedFd<'a>)>,
    used_after: i64,
    known: &'a (dyn Fn(&str) -> Option<Stamp> + Sync),
}

impl Tree<'_> {
    /// Once; `before` has for each path how it was seen before, or nothing at all.
    fn read(&self, paths: &[String], before: &[Restless], threads_count: usize) -> Vec<Came> {
        let next = AtomicUsize::new(0);
        let work = || {
            let mut reader = Reader {
                tree: *self,
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
                let before = before.get(start..).unwrap_or_default();
                batches.push((start, reader.outcomes(batch, before)));
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
        batches.into_iter().flat_map(|(_, batch)| batch).collect()
    }
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
    tree: Tree<'a>,
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
    fn outcomes(&mut self, paths: &'a [String], before: &[Restless]) -> Vec<Came> {
        let mut outcomes = Vec::with_capacity(paths.len());
        // In the first buffer, until the second has a file as well.
        let mut first: Option<(usize, Unhashed)> = None;
        for (place, path) in paths.iter().enumerate() {
            match self.look(path, usize::from(first.is_some()), before.get(place)) {
                Err(came) => outcomes.push((place, came)),
                Ok(file) => match first.take() {
                    None => first = Some((place, file)),
                    Some((place_before, one_before)) => {
                        let [one, other] = Digest::of_both(&self.buffers[0], &self.buffers[1]);
                        let kept = self.keep(&one_before, &self.buffers[0], one);
                        outcomes.push((place_before, Ok(kept)));
                        let kept = self.keep(&file, &self.buffers[1], other);
                        outcomes.push((place, Ok(kept)));
                    }
                },
            }
        }
        if let Some((place, file)) = first {
            let bytes = &self.buffers[0];
            outcomes.push((place, Ok(self.keep(&file, bytes, Digest::of(bytes)))));
        }
        outcomes.sort_unstable_by_key(|(place, _)| *place);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// Reads a file into one of the buffers; of anything else tells what came of it.
    fn look(
        &mut self,
        path: &'a str,
        buffer: usize,
        before: Option<&Restless>,
    ) -> Result<Unhashed, Came> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        if self.folder.as_ref().is_none_or(|(last, _)| *last != folder) {
            self.folder = Some((folder, open_folder(self.tree.root, folder)));
        }
        let Some((_, Some(folder))) = &self.folder else {
            return Err(Ok(Outcome::Other));
        };
        if let Some(stamp) = (self.tree.known)(path)
            && let Ok(found) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            && Stamp::of_stat(&found) == stamp
        {
            return Err(Ok(Outcome::Known));
        }
        let buffer = &mut self.buffers[buffer];
        match file::read_plain(folder.as_fd(), name, buffer, before.copied()) {
            Ok(file::Plain::File { stamp, executable }) => Ok(Unhashed { stamp, executable }),
            Ok(file::Plain::Restless(restless)) => Err(Err(restless)),
            Ok(file::Plain::Other) | Err(_) => Err(Ok(Outcome::Other)),
        }
    }

    /// Keeps the bytes of a file if that is asked for and they are not there.
    fn keep(&self, file: &Unhashed, bytes: &[u8], digest: Digest) -> Outcome {
        let length_bytes = bytes.len() as u64;
        if let Some((store, objects)) = &self.tree.objects
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
                && found.st_mtime > self.tree.used_after
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
    use std::path::Path;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::time::{Duration, Instant, SystemTime};

    use super::{Outcome, ReadFile, Store};
    use crate::digest::Digest;
    use crate::file::Stamp;
    use crate::rest::PATIENCE;
    use crate::rest::tests::pause;

    /// What the tests want of it most: everything, and nothing known.
    fn read_all(
        root: &Path,
        paths: &[String],
        store: Option<&Store<'_>>,
        known: Option<Stamp>,
    ) -> Vec<Outcome> {
        super::read_all(root, paths, 3, store, &|_| known, &pause).unwrap()
    }

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
        let read = || read_all(&root, &paths, Some(&store), None);
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
        let first = read_all(folder.path(), &paths, None, None);
        let [Outcome::File(ReadFile { stamp, .. })] = first[..] else {
            panic!("{first:?}");
        };
        let again = read_all(folder.path(), &paths, Some(&store), Some(stamp));
        assert!(matches!(again[..], [Outcome::Known]), "{again:?}");
        fs::write(folder.path().join("file"), "two").unwrap();
        let again = read_all(folder.path(), &paths, Some(&store), Some(stamp));
        assert!(matches!(again[..], [Outcome::NotKept(..)]), "{again:?}");
    }

    #[test]
    fn what_is_young_is_waited_for_and_what_is_old_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "one").unwrap();
        let paths = ["file".to_owned()];
        let waited = AtomicBool::new(false);
        let wait = |time| {
            waited.store(true, Ordering::Relaxed);
            pause(time)
        };
        let read = || super::read_all(folder.path(), &paths, 1, None, &|_| None, &wait).unwrap();
        // By now it rests, or it does when it has been read.
        assert!(matches!(read()[..], [Outcome::File(_)]));
        waited.store(false, Ordering::Relaxed);
        assert!(matches!(read()[..], [Outcome::File(_)]));
        assert!(!waited.load(Ordering::Relaxed));
        // A time to come is never old: that it stays as it is has to be seen.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() + Duration::from_secs(3600))
            .unwrap();
        assert!(matches!(read()[..], [Outcome::File(_)]));
        assert!(waited.load(Ordering::Relaxed));
        // Who waits for nothing is told nothing of it.
        let never = super::read_all(folder.path(), &paths, 1, None, &|_| None, &|_| false);
        assert!(matches!(never.unwrap()[..], [Outcome::Changed]));
    }

    #[test]
    fn what_is_written_over_and_over_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // Each time to another time to come, so that it is young however long this is held up.
        let file = fs::File::create(&path).unwrap();
        let writes = AtomicUsize::new(0);
        let write = || {
            let later = Duration::from_secs(3600 + writes.fetch_add(1, Ordering::Relaxed) as u64);
            file.set_modified(SystemTime::now() + later).unwrap();
        };
        write();
        let paths = ["file".to_owned(), "gone".to_owned()];
        let rewrite = |time| {
            write();
            pause(time / 2)
        };
        let begun = Instant::now();
        let outcomes =
            super::read_all(folder.path(), &paths, 1, None, &|_| None, &rewrite).unwrap();
        assert!(
            matches!(outcomes[..], [Outcome::Changed, Outcome::Other]),
            "{outcomes:?}"
        );
        assert!(begun.elapsed() >= PATIENCE);
    }
}
