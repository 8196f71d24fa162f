//! Exit codes, and errors that carry one. The codes are documented in README and never change
//! their meaning.

use std::fmt;

use signal_hook::consts::{SIGHUP, SIGTERM};

/// How the tool ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 1: it ran, and the answer is no: a test failed, the audit found something, a step of `ci` is red.
    Red = 1,
    /// 2: the command line is wrong: an unknown target, an unknown flag.
    Usage = 2,
    /// 3: the host lacks something: no engine, an engine that does not work, a missing tool.
    Host = 3,
    /// 4: a source was refused: unreadable, a socket, a link that leaves the tree, changed while it was read.
    Source = 4,
    /// 5: the sources do not build, or what they build is not reproducible or not theirs.
    Build = 5,
    /// 6: a manifest was refused.
    Manifest = 6,
    /// 7: the deployment did not become ready: a container ended, a readiness never came.
    Deploy = 7,
    /// 8: what runs is not what was built.
    Attest = 8,
    /// 9: the time given by `--timeout` is over.
    Timeout = 9,
    /// 70: anything else; a defect or a broken machine.
    Internal = 70,
    /// 129: ended by SIGHUP: its terminal has gone.
    HungUp = 129,
    /// 130: ended by Ctrl-C.
    Interrupted = 130,
    /// 143: ended by SIGTERM.
    Terminated = 143,
}

impl Exit {
    const ALL: [Self; 13] = [
        Self::Red,
        Self::Usage,
        Self::Host,
        Self::Source,
        Self::Build,
        Self::Manifest,
        Self::Deploy,
        Self::Attest,
        Self::Timeout,
        Self::Internal,
        Self::HungUp,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// What a run of the tool that ended with this code says; nothing of a code that it never ends with.
    #[must_use]
    pub fn of_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|exit| *exit as i32 == code)
    }

    /// What ended it, if that was a signal.
    #[must_use]
    pub const fn signal(self) -> Option<&'static str> {
        match self {
            Self::HungUp => Some("SIGHUP: its terminal has gone"),
            Self::Interrupted => Some("Ctrl-C"),
            Self::Terminated => Some("SIGTERM"),
            _ => None,
        }
    }

    /// How the tool ends after this signal.
    #[must_use]
    pub const fn of_signal(signal: i32) -> Self {
        match signal {
            SIGHUP => Self::HungUp,
            SIGTERM => Self::Terminated,
            _ => Self::Interrupted,
        }
    }
}

/// An error that knows its exit code and, where the cause is known, one hint.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
    source: Option<anyhow::Error>,
}

impl Failure {
    /// A failure that names the input.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// Adds the fix, shown as a `hint:` line.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<anyhow::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The code.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        self.exit
    }

    /// The fix, if it is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The first failure in the chain of `error`, if there is one.
    #[must_use]
    pub fn find(error: &anyhow::Error) -> Option<&Self> {
        error.chain().find_map(|cause| cause.downcast_ref())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| {
            let source: &(dyn std::error::Error + 'static) = source.as_ref();
            source
        })
    }
}
