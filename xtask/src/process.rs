//! The one module that starts children. Every child is waited for with a deadline, lives in a
//! process group of its own, and is ended with that group: TERM, then KILL. A failed child's error
//! shows its command line, ready to be pasted. There is no shell here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};

/// A command line with its surroundings; nothing runs yet. Written with xshell's `cmd!` and turned
/// into this, or built piece by piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    program: String,
    arguments: Vec<String>,
    environment: Environment,
    directory: Option<Utf8PathBuf>,
    inherited_fds: Vec<i32>,
}

/// What of the environment the child sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Environment {
    /// The tool's own, with these set.
    Inherited(BTreeMap<String, String>),
    /// These and nothing else.
    Exactly(BTreeMap<String, String>),
}

/// What a child left.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its exit code; 128 + n when signal n ended it.
    pub code: i32,
    /// What it wrote, lossily decoded.
    pub stdout: String,
    /// What it wrote, lossily decoded.
    pub stderr: String,
}

/// Where a child's standard input comes from.
#[derive(Clone, Debug)]
pub enum Input {
    /// Nowhere.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// This file.
    File(Utf8PathBuf),
}

/// Why a child did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The program is not there.
    #[error("`{program}` is not installed\n  command: {command}")]
    NotFound {
        /// What was looked for.
        program: String,
        /// The whole line.
        command: String,
    },
    /// It ended with another code than 0.
    #[error("command ended with {code}: {command}{}", indented(.stderr))]
    Failed {
        /// The whole line.
        command: String,
        /// 128 + n when signal n ended it.
        code: i32,
        /// Its last lines.
        stderr: String,
    },
    /// It did not end in time and was killed.
    #[error("command did not end within {deadline:?} and was killed: {command}{}", indented(.stderr))]
    Deadline {
        /// The whole line.
        command: String,
        /// What it was given.
        deadline: Duration,
        /// Its last lines.
        stderr: String,
    },
    /// The tool was told to end.
    #[error("interrupted by signal {signal}: {command}")]
    Interrupted {
        /// 2 or 15.
        signal: i32,
        /// The whole line.
        command: String,
    },
    /// Starting or reading it failed.
    #[error("cannot run: {command}")]
    Io {
        /// The whole line.
        command: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("\n  {line}")).collect()
}

impl Invocation {
    /// A program, by name or path, with no arguments yet.
    pub fn new(program: impl Into<String>) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Environment::Inherited(BTreeMap::new()),
            directory: None,
            inherited_fds: Vec::new(),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (Environment::Inherited(variables) | Environment::Exactly(variables)) =
            &mut self.environment;
        variables.insert(name.into(), value.into());
        self
    }

    /// The child sees these variables and no others.
    #[must_use]
    pub fn environment_exactly(mut self, variables: BTreeMap<String, String>) -> Self {
        self.environment = Environment::Exactly(variables);
        self
    }

    /// The child's working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl Into<Utf8PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// The child inherits this open file (a lock that must live as long as the child).
    #[must_use]
    pub fn inherit_fd(mut self, fd: i32) -> Self {
        self.inherited_fds.push(fd);
        self
    }
}

impl From<xshell::Cmd<'_>> for Invocation {
    fn from(_command: xshell::Cmd<'_>) -> Self {
        todo!()
    }
}

/// The line as one would type it.
impl fmt::Display for Invocation {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// Runs it to its end; another code than 0 is an error.
///
/// # Errors
/// See [`ProcessError`].
pub fn capture(invocation: &Invocation, deadline: Duration) -> Result<Captured, ProcessError> {
    capture_with_input(invocation, &Input::Empty, deadline)
}

/// Runs it to its end with this on its standard input; another code than 0 is an error.
///
/// # Errors
/// See [`ProcessError`].
pub fn capture_with_input(
    _invocation: &Invocation,
    _input: &Input,
    _deadline: Duration,
) -> Result<Captured, ProcessError> {
    todo!()
}

/// Runs it to its end, whatever its code.
///
/// # Errors
/// See [`ProcessError`]; never `Failed`.
pub fn output(_invocation: &Invocation, _deadline: Duration) -> Result<Captured, ProcessError> {
    todo!()
}

/// Where the lines of a streamed child go, besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// To the terminal, as they come, on standard error.
    Terminal,
    /// Nowhere.
    Silent,
}

/// Runs it to its end with both streams written to `log` as they come; gives its exit code.
///
/// # Errors
/// See [`ProcessError`]; never `Failed`.
pub fn stream(
    _invocation: &Invocation,
    _log: Option<&Utf8Path>,
    _echo: Echo,
    _deadline: Duration,
) -> Result<i32, ProcessError> {
    todo!()
}

/// Ctrl-C and SIGTERM: noted here, told to the children, and asked for by every wait.
pub mod interrupt {
    /// Notes SIGINT and SIGTERM from now on; called once by `main`.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub fn install() -> anyhow::Result<()> {
        todo!()
    }

    /// The signal that came, if one did and no [`Shield`] is up.
    #[must_use]
    pub fn pending() -> Option<i32> {
        todo!()
    }

    /// An error with the right exit code if a signal came; for loops that wait for other things than children.
    ///
    /// # Errors
    /// When a signal came.
    pub fn check() -> anyhow::Result<()> {
        todo!()
    }

    /// While it lives, children are not ended by a noted signal: clean-up runs to its end. A
    /// second signal shortens every deadline instead.
    #[derive(Debug)]
    pub struct Shield(());

    impl Shield {
        /// Raises it.
        #[must_use]
        pub fn raise() -> Self {
            todo!()
        }
    }

    impl Drop for Shield {
        fn drop(&mut self) {
            todo!()
        }
    }
}
