//! The policy in force, which follows its file. A new one comes into force only when it compiles
//! and answers as it must; else the old one stays, and both cases are told.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use common::watched_file::WatchedFile;

use crate::policy::Policy;

/// A policy that follows its file.
#[derive(Clone, Debug)]
pub struct LivePolicy {
    current: Arc<RwLock<Arc<Policy>>>,
    file: Arc<Mutex<WatchedFile>>,
}

/// What became of a changed file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is in force.
    Reloaded {
        /// Hash of the policy in force now.
        hash: String,
        /// Hash of the one before.
        previous_hash: String,
    },
    /// The old one stays in force.
    Rejected {
        /// Hash of the file.
        rejected_hash: String,
        /// Hash of the policy in force.
        hash: String,
        /// Why.
        error: String,
    },
}

impl LivePolicy {
    /// Reads the file for the first time; then there is no old one that could stay.
    ///
    /// # Errors
    /// It cannot be read, or is no policy that may decide.
    pub fn from_file(path: &str) -> Result<Self, String> {
        let file = WatchedFile::open(PathBuf::from(path)).map_err(|error| error.to_string())?;
        let policy = Policy::compile(file.content()).map_err(|error| format!("{error:#}"))?;
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(policy))),
            file: Arc::new(Mutex::new(file)),
        })
    }

    /// The policy in force. Who holds it decides by it to the end, whatever the file does.
    #[must_use]
    pub fn current(&self) -> Arc<Policy> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Looks at the file once. Reads and compiles: it may take a second, so it is no business of
    /// the threads that answer.
    #[must_use]
    pub fn look(&self) -> Option<Change> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let content = match file.look() {
            Ok(content) => content?,
            Err(error) => {
                tracing::warn!(%error, "the policy stays as it is");
                return None;
            }
        };
        let previous_hash = self.current().hash().to_owned();
        match Policy::compile(content) {
            Ok(policy) if policy.hash() == previous_hash => None,
            Ok(policy) => {
                let hash = policy.hash().to_owned();
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
                Some(Change::Reloaded {
                    hash,
                    previous_hash,
                })
            }
            Err(error) => Some(Change::Rejected {
                rejected_hash: common::canonical::sha256_hex(content),
                hash: previous_hash,
                error: format!("{error:#}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEFAULT: &str = include_str!("../policy/default.rego");

    #[test]
    fn a_broken_policy_leaves_the_old_one_in_force() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("policy.rego");
        fs::write(&path, DEFAULT).expect("write");
        let live = LivePolicy::from_file(&path.to_string_lossy()).expect("a policy");
        let first = live.current().hash().to_owned();
        let look_twice = || live.look().or_else(|| live.look());
        assert_eq!(look_twice(), None);

        fs::write(&path, "package classification\n\npriority := ").expect("write");
        let Some(Change::Rejected { hash, .. }) = look_twice() else {
            panic!("the broken policy was not noticed");
        };
        assert_eq!(hash, first);
        assert_eq!(live.current().hash(), first);

        fs::write(&path, DEFAULT).expect("write");
        assert_eq!(look_twice(), None, "it is in force already");

        fs::write(&path, format!("{DEFAULT}\n# later\n")).expect("write");
        let Some(Change::Reloaded {
            hash,
            previous_hash,
        }) = look_twice()
        else {
            panic!("the new policy was not noticed");
        };
        assert_eq!(previous_hash, first);
        assert_eq!(live.current().hash(), hash);
    }
}
