//! The one module that starts children. Every child is waited for with a deadline, lives in a
//! process group of its own, and is ended with that group: TERM, then KILL. A failed child's error
//! shows its command line, ready to be pasted. There is no shell here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal};

use crate::exit::Exit;
use crate::report::live::{self, Teller};

pub mod follow;
pub mod interrupt;
mod lines;

use self::follow::Sent;
use self::lines::{Lines, Piece, plain};

/// How often a wait looks whether a signal came.
const TICK: Duration = Duration::from_millis(50);
/// What a group has between TERM and KILL.
const GRACE: Duration = Duration::from_secs(5);
/// The same, and what every child of a clean-up still has, after a second signal.
const GRACE_HURRIED: Duration = Duration::from_secs(3);
/// How long the streams of a child that has ended may stay open in a grandchild's hands.
const STREAMS_AFTER_END: Duration = Duration::from_secs(1);
/// How many lines of a failed child stand in its error.
const ERROR_LINES_MAX: usize = 20;
/// How much of a streamed child's output is kept for its error.
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// This very program, also when its file was replaced meanwhile by a newer one, as `cargo test` does.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// A command line with its surroundings; nothing runs yet. Written with xshell's `cmd!` and turned
/// into this, or built piece by piece.
#[derive(Clone, Debug)]
pub struct Invocation {
    program: String,
    arguments: Vec<String>,
    environment: Environment,
    removed: BTreeSet<String>,
    secret: BTreeSet<String>,
    directory: Option<Utf8PathBuf>,
    inherited: Vec<Arc<OwnedFd>>,
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
    #[error("cannot run: {command}\n  {reason}")]
    Io {
        /// The whole line.
        command: String,
        /// Why.
        reason: io::Error,
    },
}

impl ProcessError {
    /// How the tool ends when nobody knows better.
    #[must_use]
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotFound { .. } => Exit::Host,
            Self::Interrupted { signal, .. } => Exit::of_signal(*signal),
            Self::Failed { .. } | Self::Deadline { .. } | Self::Io { .. } => Exit::Internal,
        }
    }
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
            removed: BTreeSet::new(),
            secret: BTreeSet::new(),
            directory: None,
            inherited: Vec::new(),
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
        let name = name.into();
        self.removed.remove(&name);
        variables.insert(name, value.into());
        self
    }

    /// Sets a variable whose value is shown nowhere.
    #[must_use]
    pub fn secret_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        self.secret.insert(name.clone());
        self.env(name, value)
    }

    /// Takes a variable of the tool's own away.
    #[must_use]
    pub fn env_remove(mut self, name: impl Into<String>) -> Self {
        let (Environment::Inherited(variables) | Environment::Exactly(variables)) =
            &mut self.environment;
        let name = name.into();
        variables.remove(&name);
        self.removed.insert(name);
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

    /// The child, and the children that it starts, inherit this open file (a lock that must live
    /// as long as any of them).
    #[must_use]
    pub fn inherit_fd(mut self, fd: Arc<OwnedFd>) -> Self {
        self.inherited.push(fd);
        self
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The program by its path, as the child's `PATH` tells it. To look for a name there, the
    /// standard library copies the tool first (fork), and every thread that writes meanwhile has to
    /// copy what it writes to; a path is started at once (`posix_spawn`).
    fn executable(&self) -> Option<OsString> {
        let (Environment::Inherited(variables) | Environment::Exactly(variables)) =
            &self.environment;
        let inherits = matches!(self.environment, Environment::Inherited(_));
        let path = match variables.get("PATH") {
            None if inherits && !self.removed.contains("PATH") => std::env::var_os("PATH"),
            set => set.map(OsString::from),
        };
        find_in(&path?, &self.program)
    }

    fn expression(&self, program: &OsStr) -> duct::Expression {
        let mut expression = duct::cmd(program, &self.arguments)
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            });
        match &self.environment {
            Environment::Inherited(variables) => {
                for (name, value) in variables {
                    expression = expression.env(name, value);
                }
                for name in &self.removed {
                    expression = expression.env_remove(name);
                }
            }
            Environment::Exactly(variables) => expression = expression.full_env(variables),
        }
        if let Some(directory) = &self.directory {
            expression = expression.dir(directory);
        }
        expression
    }
}

/// Takes program, arguments, folder and changed variables. What xshell does not tell about a
/// command (standard input, ignored streams, a cleared environment) is not taken along.
impl From<xshell::Cmd<'_>> for Invocation {
    fn from(command: xshell::Cmd<'_>) -> Self {
        let command = std::process::Command::from(command);
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        let mut invocation =
            Self::new(text(command.get_program())).args(command.get_args().map(text));
        for (name, value) in command.get_envs() {
            invocation = match value {
                Some(value) => invocation.env(text(name), text(value)),
                None => invocation.env_remove(text(name)),
            };
        }
        match command.get_current_dir() {
            Some(directory) => invocation.current_dir(text(directory.as_os_str())),
            None => invocation,
        }
    }
}

/// The line as one would type it.
impl fmt::Display for Invocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words().join(" "))
    }
}

impl Invocation {
    /// What [`fmt::Display`] shows, in lines of at most so many columns, each but the last ended the
    /// way a shell goes on with the next; those begin with so many blanks. A longer word has a line of
    /// its own.
    #[must_use]
    pub fn wrapped(&self, columns: usize, indent: usize) -> String {
        const GOES_ON: &str = " \\";
        let (mut text, mut column) = (String::new(), indent);
        for (index, word) in self.words().iter().enumerate() {
            let length = word.chars().count();
            if index > 0 && column + 1 + length + GOES_ON.len() > columns {
                text.push_str(&format!("{GOES_ON}\n{:indent$}", ""));
                column = indent;
            } else if index > 0 {
                text.push(' ');
                column += 1;
            }
            text.push_str(word);
            column += length;
        }
        text
    }

    /// For people to read: with this text in the place of that wherever it stands.
    #[must_use]
    pub fn renamed(mut self, from: &str, to: &str) -> Self {
        let rename = |text: &mut String| *text = text.replace(from, to);
        self.arguments.iter_mut().for_each(rename);
        let (Environment::Inherited(variables) | Environment::Exactly(variables)) =
            &mut self.environment;
        variables.values_mut().for_each(rename);
        if let Some(directory) = &mut self.directory {
            *directory = directory.as_str().replace(from, to).into();
        }
        self
    }

    /// Each as a shell wants it, with folder and variables before the program.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(directory) = &self.directory {
            words.extend(["cd".to_owned(), quoted(directory.as_str()), "&&".to_owned()]);
        }
        let variables = match &self.environment {
            Environment::Inherited(variables) => {
                if !self.removed.is_empty() {
                    words.push("env".to_owned());
                }
                for name in &self.removed {
                    words.extend(["-u".to_owned(), quoted(name)]);
                }
                variables
            }
            Environment::Exactly(variables) => {
                words.extend(["env", "-i"].map(str::to_owned));
                variables
            }
        };
        words.extend(variables.iter().map(|(name, value)| {
            let shown = match self.secret.contains(name) {
                true => "...".to_owned(),
                false => quoted(value),
            };
            format!("{name}={shown}")
        }));
        words.push(quoted(&self.program));
        words.extend(self.arguments.iter().map(|argument| quoted(argument)));
        words
    }
}

/// Where a name is found in the folders of a `PATH`. A folder that is relative means another one in
/// the child than here: from there on nothing is found.
fn find_in(path: &OsStr, program: &str) -> Option<OsString> {
    if program.is_empty() || program.contains('/') {
        return None;
    }
    let folders = path.as_bytes().split(|byte| *byte == b':');
    let folders = folders.take_while(|folder| folder.starts_with(b"/"));
    let mut files = folders.map(|folder| Path::new(OsStr::from_bytes(folder)).join(program));
    let found = files.find(|file| {
        let executable = rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok();
        executable && file.is_file()
    });
    found.map(PathBuf::into_os_string)
}

fn quoted(text: &str) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "_-./:=@%+,".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
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
    invocation: &Invocation,
    input: &Input,
    deadline: Duration,
) -> Result<Captured, ProcessError> {
    let captured = run(invocation, input, Streams::captured(), deadline)?;
    if captured.code == 0 {
        return Ok(captured);
    }
    Err(failed(invocation.to_string(), &captured))
}

fn failed(command: String, captured: &Captured) -> ProcessError {
    let told = if captured.stderr.trim().is_empty() {
        &captured.stdout
    } else {
        &captured.stderr
    };
    ProcessError::Failed {
        command,
        code: captured.code,
        stderr: last_lines(told),
    }
}

/// Runs it to its end, whatever its code.
///
/// # Errors
/// See [`ProcessError`]; never `Failed`.
pub fn output(invocation: &Invocation, deadline: Duration) -> Result<Captured, ProcessError> {
    run(invocation, &Input::Empty, Streams::captured(), deadline)
}

/// Runs two side by side, the standard output of the first being the standard input of the second;
/// gives what the second left. Both must end with 0 within the deadline; whatever ends one of them
/// early ends both.
///
/// # Errors
/// See [`ProcessError`]: that of the first, unless it only failed because the second no longer
/// read. The command that is named is the whole line.
pub fn pipe(
    first: &Invocation,
    second: &Invocation,
    deadline: Duration,
) -> Result<Captured, ProcessError> {
    let line = format!("{first} | {second}");
    let (reader, writer) = io::pipe().map_err(|reason| ProcessError::Io {
        command: line.clone(),
        reason,
    })?;
    let giving = begin(
        first,
        Feed::Given(&Input::Empty),
        Streams::handed_on(writer),
        deadline,
    )?;
    let taking = match begin(second, Feed::Pipe(reader), Streams::captured(), deadline) {
        Ok(taking) => taking,
        Err(error) => {
            end_group(&giving);
            return Err(error);
        }
    };
    let taken = ended(&line, wait(&taking), &taking, deadline);
    if taken.is_err() {
        end_group(&giving);
        return taken;
    }
    let given = ended(&line, wait(&giving), &giving, deadline)?;
    // What nobody reads any more ends the first with SIGPIPE: then the second knows why.
    let gave_up = given.code == 128 + Signal::PIPE.as_raw();
    let taken = taken?;
    if given.code != 0 && !(gave_up && taken.code != 0) {
        return Err(failed(line, &given));
    }
    match taken.code {
        0 => Ok(taken),
        _ => Err(failed(line, &taken)),
    }
}

/// Where the lines of a streamed child go, besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// To the terminal, as they come, on standard error.
    Terminal,
    /// Each to the stream of the tool that it came from.
    Through,
    /// Lines as for [`Echo::Terminal`]. What the child draws over (a progress bar) is what its
    /// activity says, and the log has the lines alone, as plain text.
    Drawn(Teller),
    /// As [`Echo::Terminal`] until this line comes; the log has the rest.
    Until(&'static str),
    /// Nowhere, but its last line is what its activity says.
    Told(Teller),
    /// Nowhere.
    Silent,
}

/// Runs it to its end with both streams written to `log` (at its end) as they come; gives its exit code.
///
/// # Errors
/// See [`ProcessError`]; never `Failed`.
pub fn stream(
    invocation: &Invocation,
    log: Option<&Utf8Path>,
    echo: Echo,
    deadline: Duration,
) -> Result<i32, ProcessError> {
    let log = open_log(invocation, log)?;
    let destination = |through: Terminal| Destination {
        log: log.clone(),
        ..Destination::of(echo, through)
    };
    let streams = Streams {
        stdout: destination(Terminal::Stdout),
        stderr: destination(Terminal::Stderr),
        handed_on: None,
    };
    run(invocation, &Input::Empty, streams, deadline).map(|captured| captured.code)
}

/// As [`stream`], but standard output is data: it is given back whole, and neither logged nor shown.
///
/// # Errors
/// See [`ProcessError`]; never `Failed`.
pub fn stream_stderr(
    invocation: &Invocation,
    log: Option<&Utf8Path>,
    echo: Echo,
    deadline: Duration,
) -> Result<Captured, ProcessError> {
    let streams = Streams {
        stdout: Destination::captured(),
        stderr: Destination {
            log: open_log(invocation, log)?,
            ..Destination::of(echo, Terminal::Stderr)
        },
        handed_on: None,
    };
    run(invocation, &Input::Empty, streams, deadline)
}

/// A child that goes on beside the others, until it is dropped: then it is ended with its group.
pub struct Background {
    running: Running,
    command: String,
}

impl fmt::Debug for Background {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Background({})", self.command)
    }
}

impl Background {
    /// Starts it, with both streams written to `log`.
    ///
    /// # Errors
    /// See [`ProcessError`]; never `Failed` or `Deadline`.
    pub fn start(invocation: &Invocation, log: &Utf8Path) -> Result<Self, ProcessError> {
        Self::start_with(invocation, log, Echo::Silent)
    }

    /// The same, and where its lines go besides.
    ///
    /// # Errors
    /// As [`Background::start`].
    pub fn start_with(
        invocation: &Invocation,
        log: &Utf8Path,
        echo: Echo,
    ) -> Result<Self, ProcessError> {
        let log = open_log(invocation, Some(log))?;
        let destination = || Destination {
            log: log.clone(),
            ..Destination::of(echo, Terminal::Stderr)
        };
        let streams = Streams {
            stdout: destination(),
            stderr: destination(),
            handed_on: None,
        };
        let input = Feed::Given(&Input::Empty);
        let running = begin(invocation, input, streams, Duration::MAX)?;
        Ok(Self {
            running,
            command: invocation.to_string(),
        })
    }

    /// Ends the child alone, at once and without a warning (SIGKILL); the children that it started
    /// live on. Waits until it has gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(self) -> Result<(), ProcessError> {
        // It may have ended by itself a moment ago.
        let _ = rustix::process::kill_process(self.running.group, Signal::KILL);
        let ended = self.running.handle.wait_deadline(Instant::now() + GRACE);
        ended.map(drop).map_err(|reason| ProcessError::Io {
            command: self.command.clone(),
            reason,
        })
    }

    /// Sends a signal to the child alone, not to what it started.
    ///
    /// # Errors
    /// When it has gone.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        rustix::process::kill_process(self.running.group, signal).map_err(|reason| {
            ProcessError::Io {
                command: self.command.clone(),
                reason: reason.into(),
            }
        })
    }

    /// Waits until it ends by itself; gives its exit code.
    ///
    /// # Errors
    /// See [`ProcessError`]; never `Failed`. Too late it is ended with its group.
    pub fn wait(mut self, within: Duration) -> Result<i32, ProcessError> {
        self.running.deadline = Some(Instant::now() + within);
        let waited = wait(&self.running);
        let ended = ended(&self.command, waited, &self.running, within);
        ended.map(|captured| captured.code)
    }

    /// Its exit code, if it has ended; all that it wrote is in the log then.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn code(&self) -> Result<Option<i32>, ProcessError> {
        let ended = self.running.handle.try_wait();
        let ended = ended.map_err(|reason| ProcessError::Io {
            command: self.command.clone(),
            reason,
        })?;
        Ok(ended.map(|output| {
            streams_end(&self.running, STREAMS_AFTER_END);
            code_of(output.status)
        }))
    }

    /// The error of a child that has ended by itself, with its last lines.
    ///
    /// # Errors
    /// When it has ended, whatever its code.
    pub fn check(&self) -> Result<(), ProcessError> {
        match self.running.handle.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(output)) => {
                streams_end(&self.running, STREAMS_AFTER_END);
                Err(ProcessError::Failed {
                    command: self.command.clone(),
                    code: code_of(output.status),
                    stderr: last_lines(&text_of(&self.running.stderr)),
                })
            }
            Err(reason) => Err(ProcessError::Io {
                command: self.command.clone(),
                reason,
            }),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        end_group(&self.running);
    }
}

fn open_log(
    invocation: &Invocation,
    log: Option<&Utf8Path>,
) -> Result<Option<Arc<Mutex<File>>>, ProcessError> {
    let open = |path: &Utf8Path| OpenOptions::new().create(true).append(true).open(path);
    match log.map(open).transpose() {
        Ok(file) => Ok(file.map(|file| Arc::new(Mutex::new(file)))),
        Err(reason) => Err(ProcessError::Io {
            command: invocation.to_string(),
            reason,
        }),
    }
}

/// Where the standard input of a child comes from: also from another child.
enum Feed<'a> {
    Given(&'a Input),
    Pipe(PipeReader),
}

/// Where the two streams of a child go.
struct Streams {
    stdout: Destination,
    stderr: Destination,
    /// Standard output goes to another child, and is not read here.
    handed_on: Option<PipeWriter>,
}

impl Streams {
    fn captured() -> Self {
        Self {
            stdout: Destination::captured(),
            stderr: Destination::captured(),
            handed_on: None,
        }
    }

    fn handed_on(writer: PipeWriter) -> Self {
        Self {
            handed_on: Some(writer),
            ..Self::captured()
        }
    }
}

struct Destination {
    log: Option<Arc<Mutex<File>>>,
    terminal: Option<Terminal>,
    told: Option<Told>,
    sent: Option<Sent>,
    kept: Kept,
}

impl Destination {
    const fn captured() -> Self {
        Self {
            log: None,
            terminal: None,
            told: None,
            sent: None,
            kept: Kept::All,
        }
    }

    /// Without a log; `through` is the tool's own stream of that kind.
    const fn of(echo: Echo, through: Terminal) -> Self {
        let (terminal, told) = match echo {
            Echo::Terminal => (Some(Terminal::Stderr), None),
            Echo::Through => (Some(through), None),
            Echo::Drawn(teller) => (Some(Terminal::Stderr), Some(Told::Drawn(teller))),
            Echo::Until(line) => (Some(Terminal::Stderr), Some(Told::Until(line))),
            Echo::Told(teller) => (None, Some(Told::Line(teller))),
            Echo::Silent => (None, None),
        };
        Self {
            log: None,
            terminal,
            told,
            sent: None,
            kept: Kept::Tail,
        }
    }
}

/// What an activity says of its child.
#[derive(Clone, Copy)]
enum Told {
    /// What the child drew last.
    Drawn(Teller),
    /// Its last line.
    Line(Teller),
    /// Nothing; from this line on nobody is told anything.
    Until(&'static str),
}

#[derive(Clone, Copy)]
enum Terminal {
    Stdout,
    Stderr,
}

#[derive(Clone, Copy)]
enum Kept {
    All,
    Tail,
}

/// A child that was started, and the threads that read it.
struct Running {
    handle: duct::Handle,
    group: Pid,
    started: Instant,
    deadline: Option<Instant>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    streams_ended: Receiver<()>,
}

/// Why a child was ended before it ended.
enum Cut {
    Deadline,
    Interrupted(i32),
    Io(io::Error),
}

impl Cut {
    fn told(self, command: String, deadline: Duration, stderr: &str) -> ProcessError {
        match self {
            Self::Deadline => ProcessError::Deadline {
                command,
                deadline,
                stderr: last_lines(stderr),
            },
            Self::Interrupted(signal) => ProcessError::Interrupted { signal, command },
            Self::Io(reason) => ProcessError::Io { command, reason },
        }
    }
}

fn run(
    invocation: &Invocation,
    input: &Input,
    streams: Streams,
    deadline: Duration,
) -> Result<Captured, ProcessError> {
    let running = begin(invocation, Feed::Given(input), streams, deadline)?;
    let waited = wait(&running);
    ended(&invocation.to_string(), waited, &running, deadline)
}

/// What a child left that was waited for.
fn ended(
    command: &str,
    waited: Result<ExitStatus, Cut>,
    running: &Running,
    deadline: Duration,
) -> Result<Captured, ProcessError> {
    // A second signal may have left it less.
    let given = limit(running).map_or(deadline, |limit| limit - running.started);
    let deadline = Duration::from_millis(deadline.min(given).as_millis() as u64);
    let stdout = text_of(&running.stdout);
    let stderr = text_of(&running.stderr);
    match waited {
        Ok(status) => Ok(Captured {
            code: code_of(status),
            stdout,
            stderr,
        }),
        Err(cut) => Err(cut.told(command.to_owned(), deadline, &stderr)),
    }
}

/// Starts it, unless a signal came.
fn begin(
    invocation: &Invocation,
    input: Feed<'_>,
    streams: Streams,
    deadline: Duration,
) -> Result<Running, ProcessError> {
    let command = || invocation.to_string();
    if let Some(signal) = interrupt::pending() {
        return Err(ProcessError::Interrupted {
            signal,
            command: command(),
        });
    }
    start(invocation, input, streams, deadline).map_err(|reason| match reason.kind() {
        io::ErrorKind::NotFound if directory_exists(invocation) => ProcessError::NotFound {
            program: invocation.program.clone(),
            command: command(),
        },
        _ => ProcessError::Io {
            command: command(),
            reason,
        },
    })
}

fn directory_exists(invocation: &Invocation) -> bool {
    invocation
        .directory
        .as_ref()
        .is_none_or(|directory| directory.is_dir())
}

fn start(
    invocation: &Invocation,
    input: Feed<'_>,
    streams: Streams,
    deadline: Duration,
) -> io::Result<Running> {
    let (stdout_reader, stdout_writer) = match streams.handed_on {
        Some(writer) => (None, writer),
        None => {
            let (reader, writer) = io::pipe()?;
            (Some(reader), writer)
        }
    };
    let (stderr_reader, stderr_writer) = io::pipe()?;
    let attempt = |program: &OsStr| {
        let expression = invocation
            .expression(program)
            .stdout_file(OwnedFd::from(stdout_writer.try_clone()?))
            .stderr_file(OwnedFd::from(stderr_writer.try_clone()?));
        let expression = match &input {
            Feed::Given(Input::Empty) => expression.stdin_null(),
            Feed::Given(Input::Bytes(bytes)) => expression.stdin_bytes(bytes.clone()),
            Feed::Given(Input::File(path)) => expression.stdin_path(path),
            Feed::Pipe(reader) => expression.stdin_file(OwnedFd::from(reader.try_clone()?)),
        };
        spawn(&expression, &invocation.inherited)
    };
    let started = Instant::now();
    let handle = match invocation.executable().map(|program| attempt(&program)) {
        Some(Err(error)) if looks_further(&error) => attempt(invocation.program.as_ref()),
        Some(outcome) => outcome,
        None => attempt(invocation.program.as_ref()),
    }?;
    // Our ends of the pipes for writing: they would never seem closed.
    drop((stdout_writer, stderr_writer, input));
    let id = handle.pids().first().copied().unwrap_or_default();
    let group = i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the child has no process ID"))?;
    let (ended, streams_ended) = mpsc::channel();
    let stdout = stdout_reader.map_or_else(Arc::default, |reader| {
        read_in_background(reader, streams.stdout, ended.clone())
    });
    let stderr = read_in_background(stderr_reader, streams.stderr, ended);
    Ok(Running {
        handle,
        group,
        started,
        deadline: started.checked_add(deadline),
        stdout,
        stderr,
        streams_ended,
    })
}

/// Whether a search of `PATH` goes on after this, or asks a shell: the interpreter that the file names
/// is not there, or it names none.
fn looks_further(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(number, Some(Errno::NOENT | Errno::NOEXEC))
}

/// Keeps other threads from starting a child while a file is inheritable: that child would keep
/// a lock that was not meant for it.
static SPAWN: RwLock<()> = RwLock::new(());

fn spawn(expression: &duct::Expression, inherited: &[Arc<OwnedFd>]) -> io::Result<duct::Handle> {
    if inherited.is_empty() {
        let _others_may_spawn = SPAWN.read().unwrap_or_else(PoisonError::into_inner);
        return expression.start();
    }
    let _alone = SPAWN.write().unwrap_or_else(PoisonError::into_inner);
    let set_all = |change: fn(FdFlags) -> FdFlags| {
        let set = |fd: BorrowedFd<'_>| -> io::Result<()> {
            let flags = rustix::io::fcntl_getfd(fd)?;
            Ok(rustix::io::fcntl_setfd(fd, change(flags))?)
        };
        inherited.iter().try_for_each(|fd| set(fd.as_fd()))
    };
    let started = set_all(|flags| flags - FdFlags::CLOEXEC).and_then(|()| expression.start());
    set_all(|flags| flags | FdFlags::CLOEXEC)?;
    started
}

fn read_in_background(
    mut reader: PipeReader,
    mut destination: Destination,
    ended: Sender<()>,
) -> Arc<Mutex<Vec<u8>>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let shared = Arc::clone(&kept);
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        let mut lines = Lines::default();
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => hear(&buffer[..length], &mut lines, &mut destination, &shared),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if let Some(Piece::Line(rest)) = lines.end() {
            take_in(&rest, &plain(&rest), &destination, &shared);
        }
        // Whoever follows the lines sees their end, and not after that of the streams.
        drop(destination);
        // Nobody listens any more when the wait was given up.
        let _ = ended.send(());
    });
    kept
}

/// Taken apart only where somebody is told of it: else every byte goes on as it came.
fn hear(bytes: &[u8], lines: &mut Lines, destination: &mut Destination, kept: &Mutex<Vec<u8>>) {
    if let Some(sent) = &mut destination.sent {
        sent.take(bytes);
    }
    let Some(told) = destination.told else {
        return take_in(bytes, bytes, destination, kept);
    };
    for piece in lines.take(bytes) {
        match (piece, told) {
            (Piece::Progress(text), Told::Drawn(teller) | Told::Line(teller)) => teller.say(text),
            (Piece::Progress(_), Told::Until(_)) => {}
            (Piece::Line(line), told) => {
                let plain = plain(&line);
                let text = String::from_utf8_lossy(&plain);
                match told {
                    Told::Line(teller) => teller.say(text.trim()),
                    Told::Until(last) if text.trim_end() == last => destination.terminal = None,
                    Told::Until(_) | Told::Drawn(_) => {}
                }
                take_in(&line, &plain, destination, kept);
            }
        }
    }
}

/// A terminal or a log that cannot be written must not stop the child: its pipe is read on.
fn take_in(shown: &[u8], plain: &[u8], destination: &Destination, kept: &Mutex<Vec<u8>>) {
    if let Some(log) = &destination.log {
        let _ = locked(log).write_all(plain);
    }
    let ends_line = shown.ends_with(b"\n");
    let _ = match destination.terminal {
        Some(Terminal::Stdout) => live::above(ends_line, || io::stdout().write_all(shown)),
        Some(Terminal::Stderr) => live::above(ends_line, || io::stderr().write_all(shown)),
        None => Ok(()),
    };
    let mut kept = locked(kept);
    kept.extend_from_slice(plain);
    if matches!(destination.kept, Kept::Tail) && kept.len() > 2 * TAIL_BYTES_MAX {
        let cut = kept.len() - TAIL_BYTES_MAX;
        kept.drain(..cut);
    }
}

fn wait(running: &Running) -> Result<ExitStatus, Cut> {
    let status = loop {
        let tick = Instant::now() + TICK;
        let until = limit(running).map_or(tick, |limit| limit.min(tick));
        match running.handle.wait_deadline(until) {
            Ok(Some(output)) => break output.status,
            Ok(None) => {}
            Err(error) => {
                end_group(running);
                return Err(Cut::Io(error));
            }
        }
        if let Some(signal) = interrupt::pending() {
            end_group(running);
            return Err(Cut::Interrupted(signal));
        }
        if limit(running).is_some_and(|limit| limit <= Instant::now()) {
            end_group(running);
            return Err(Cut::Deadline);
        }
    };
    if !streams_end(running, STREAMS_AFTER_END) {
        // A grandchild that stayed behind holds them.
        end_group(running);
        streams_end(running, STREAMS_AFTER_END);
    }
    Ok(status)
}

/// The child's own deadline, or what a hurried clean-up leaves of it.
fn limit(running: &Running) -> Option<Instant> {
    let hurried =
        interrupt::hurried_since().map(|since| since.max(running.started) + GRACE_HURRIED);
    match (running.deadline, hurried) {
        (Some(deadline), Some(hurried)) => Some(deadline.min(hurried)),
        (deadline, hurried) => deadline.or(hurried),
    }
}

fn streams_end(running: &Running, within: Duration) -> bool {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match running.streams_ended.recv_timeout(left) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
}

/// TERM, then KILL when the group is not gone after a while.
fn end_group(running: &Running) {
    signal_group(running, Signal::TERM);
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let child_ended = running.handle.wait_deadline(Instant::now() + pause);
        if !matches!(child_ended, Ok(None)) {
            if !group_lives(running) {
                break;
            }
            thread::sleep(pause);
        }
        pause = (pause * 2).min(TICK);
        let grace = match interrupt::hurried_since() {
            Some(_) => GRACE_HURRIED.min(Duration::from_millis(500)),
            None => GRACE,
        };
        if begun.elapsed() > grace {
            signal_group(running, Signal::KILL);
            break;
        }
    }
    // Only a child stuck in the kernel is still there then; it must not hold us up.
    let _ = running.handle.wait_deadline(Instant::now() + GRACE_HURRIED);
    streams_end(running, STREAMS_AFTER_END);
}

/// A group that is gone already is no error.
fn signal_group(running: &Running, signal: Signal) {
    let _ = rustix::process::kill_process_group(running.group, signal);
}

fn group_lives(running: &Running) -> bool {
    rustix::process::test_kill_process_group(running.group).is_ok()
}

fn code_of(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(-1)
}

fn text_of(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&locked(bytes)).into_owned()
}

/// What of a child's words stands in an error: its last lines.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(ERROR_LINES_MAX)..].join("\n")
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    use std::sync::Mutex;

    use super::{Destination, Echo, Invocation, Lines, Terminal, find_in, hear};

    #[test]
    fn a_program_is_found_in_the_path_of_the_child() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().to_str().unwrap();
        let own = format!("{folder}/own");
        std::fs::create_dir_all(format!("{own}/cat")).unwrap();
        std::fs::write(format!("{folder}/cat"), "no program").unwrap();
        // Neither a folder nor what may not be executed is a program.
        let find = |path: &str, program| {
            let found = find_in(OsStr::new(path), program)?;
            Some(found.into_string().unwrap())
        };
        let path = format!("{own}:{folder}:/bin");
        assert_eq!(find(&path, "cat").as_deref(), Some("/bin/cat"));
        assert_eq!(find(&format!("{own}:bin:/bin"), "cat"), None);
        assert_eq!(find(":/bin", "cat"), None);
        assert_eq!(find("/bin", "/bin/cat"), None);
        // A folder may have any name.
        let bytes = [b"/no/\xff:", path.as_bytes()].concat();
        let found = find_in(OsStr::from_bytes(&bytes), "cat");
        assert_eq!(found.as_deref(), Some(OsStr::new("/bin/cat")));
        let cat = Invocation::new("cat");
        assert!(Path::new(&cat.executable().unwrap()).ends_with("cat"));
        let elsewhere = cat.clone().env("PATH", &path).executable();
        assert_eq!(elsewhere.as_deref(), Some(OsStr::new("/bin/cat")));
        assert_eq!(cat.clone().env("PATH", &own).executable(), None);
        assert_eq!(cat.clone().env_remove("PATH").executable(), None);
        let none = std::collections::BTreeMap::new();
        assert_eq!(cat.environment_exactly(none).executable(), None);
    }

    #[test]
    fn from_a_line_on_the_terminal_is_told_nothing() {
        let mut destination = Destination::of(Echo::Until("listing:"), Terminal::Stderr);
        let kept = Mutex::new(Vec::new());
        let mut lines = Lines::default();
        for portion in ["list", "ing:\naf", "ter\n"] {
            hear(portion.as_bytes(), &mut lines, &mut destination, &kept);
        }
        assert!(destination.terminal.is_none());
        assert_eq!(kept.into_inner().unwrap(), b"listing:\nafter\n");

        let mut destination = Destination::of(Echo::Until("listing:"), Terminal::Stderr);
        hear(
            b"list",
            &mut Lines::default(),
            &mut destination,
            &Mutex::default(),
        );
        assert!(destination.terminal.is_some());
    }
}
