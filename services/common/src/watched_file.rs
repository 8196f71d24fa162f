//! A mounted file that may change while the service runs. Content is compared, never times or
//! inodes: Kubernetes swaps symbolic links, editors write in place. It does not judge the content.

use std::{fs, io, path::PathBuf};

/// A file and what was last taken from it.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    taken: Vec<u8>,
    seen_once: Option<Vec<u8>>,
}

impl WatchedFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// The file cannot be read; the error names it.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let taken = read(&path)?;
        Ok(Self {
            path,
            taken,
            seen_once: None,
        })
    }

    /// What was taken last.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.taken
    }

    /// Which file.
    #[must_use]
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Looks once. New content is taken, and told once, when two looks in a row have seen the same:
    /// a file that is being written is no content.
    ///
    /// # Errors
    /// The file cannot be read; what was taken stays.
    pub fn look(&mut self) -> io::Result<Option<&[u8]>> {
        let now = read(&self.path)?;
        if now == self.taken {
            self.seen_once = None;
            return Ok(None);
        }
        if self.seen_once.as_ref() == Some(&now) {
            self.seen_once = None;
            self.taken = now;
            return Ok(Some(&self.taken));
        }
        self.seen_once = Some(now);
        Ok(None)
    }
}

fn read(path: &PathBuf) -> io::Result<Vec<u8>> {
    fs::read(path)
        .map_err(|error| io::Error::new(error.kind(), format!("read {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_content_is_told_once_when_it_holds_still() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("policy");
        fs::write(&path, "one").expect("write");
        let mut file = WatchedFile::open(path.clone()).expect("open");
        assert_eq!(file.content(), b"one");
        assert_eq!(file.look().expect("look"), None);

        fs::write(&path, "tw").expect("write");
        assert_eq!(file.look().expect("look"), None);
        fs::write(&path, "two").expect("write");
        assert_eq!(file.look().expect("look"), None);
        assert_eq!(file.look().expect("look"), Some(b"two".as_slice()));
        assert_eq!(file.look().expect("look"), None);

        fs::remove_file(&path).expect("remove");
        let error = file.look().expect_err("gone");
        assert!(error.to_string().contains("policy"), "{error}");
        assert_eq!(file.content(), b"two");
    }

    #[cfg(unix)]
    #[test]
    fn a_swapped_link_is_a_change() {
        let directory = tempfile::tempdir().expect("directory");
        let at = |name: &str| directory.path().join(name);
        fs::write(at("a"), "a").expect("write");
        fs::write(at("b"), "b").expect("write");
        std::os::unix::fs::symlink("a", at("current")).expect("link");
        let mut file = WatchedFile::open(at("current")).expect("open");
        std::os::unix::fs::symlink("b", at("next")).expect("link");
        fs::rename(at("next"), at("current")).expect("swap");
        assert_eq!(file.look().expect("look"), None);
        assert_eq!(file.look().expect("look"), Some(b"b".as_slice()));
    }
}
