//! The run's tokens and passwords: made anew for each run, written to files of the run that only
//! its owner can reach, never on a command line, never in a log.

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use crate::source::workspace::{Target, Workspace};

/// Where the secrets of a run lie.
#[derive(Clone, Debug)]
pub struct Secrets {
    /// `<run>/secrets`, mode 0700.
    pub directory: Utf8PathBuf,
}

impl Secrets {
    /// Makes all tokens and passwords that the workspace declares and writes `tokens/<subject>@<service>`,
    /// `passwords/<name>`, and `mounts/<secret>/<key>` for each Secret of the target's packages and
    /// third-party images.
    ///
    /// # Errors
    /// When writing fails, or a Secret asks for a token that no subject has.
    pub fn make(
        _workspace: &Workspace,
        _target: &Target,
        _run_directory: &Utf8Path,
    ) -> Result<Self> {
        todo!()
    }

    /// The folder to be mounted for a Secret, if it exists.
    #[must_use]
    pub fn mount(&self, name: &str) -> Utf8PathBuf {
        self.directory.join("mounts").join(name)
    }
}
