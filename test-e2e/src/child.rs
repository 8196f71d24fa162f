//! Child processes that end with their deadline: one that is asked and answers, and one that tells
//! what happens for as long as somebody listens.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde_json::Deserializer;

use crate::poll::{Look, try_eventually};

/// How a command is shown.
fn line(command: &Command) -> String {
    let words = [command.get_program()]
        .into_iter()
        .chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// Runs a command to its end and gives what it said.
///
/// # Errors
/// The command line and what it said, when it does not end with 0 in time.
pub fn output(command: &mut Command, within: Duration) -> Result<Output, String> {
    output_heard(command, within, |_| {})
}

/// The same, and each line of its standard error is heard as it comes.
///
/// # Errors
/// As [`output`].
pub fn output_heard(
    command: &mut Command,
    within: Duration,
    heard: impl Fn(&str) + Send + 'static,
) -> Result<Output, String> {
    wait(command.stdin(Stdio::null()), within, heard)
}

/// The same as [`output`] for one that reads a file as its standard input.
///
/// # Errors
/// As [`output`].
pub fn output_of_file(
    command: &mut Command,
    file: File,
    within: Duration,
) -> Result<Output, String> {
    wait(command.stdin(file), within, |_| {})
}

fn wait(
    command: &mut Command,
    within: Duration,
    heard: impl Fn(&str) + Send + 'static,
) -> Result<Output, String> {
    let line = line(command);
    let mut child = Owned::spawn_as_it_is(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let deadline = Instant::now() + within;
    let (stdout, stderr) = (
        collect(child.0.stdout.take(), |_| {}),
        collect(child.0.stderr.take(), heard),
    );
    let read = |stream: &Receiver<Vec<u8>>| {
        let left = deadline.saturating_duration_since(Instant::now());
        let late = |_| format!("{line}: did not end within {within:?}");
        stream.recv_timeout(left).map_err(late)
    };
    let (stdout, stderr) = (read(&stdout)?, read(&stderr)?);
    let status = child.0.wait().map_err(|error| format!("{line}: {error}"))?;
    if status.success() {
        return Ok(Output {
            status,
            stdout,
            stderr,
        });
    }
    let said = String::from_utf8_lossy(&stderr).trim().to_owned();
    Err(format!("{line}: {status}: {said}"))
}

fn collect(
    stream: Option<impl Read + Send + 'static>,
    heard: impl Fn(&str) + Send + 'static,
) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stream) = stream {
            let mut reader = BufReader::new(stream);
            let mut from = 0;
            // What was read until then counts; the exit status tells the rest.
            while reader
                .read_until(b'\n', &mut bytes)
                .is_ok_and(|read| read > 0)
            {
                heard(String::from_utf8_lossy(&bytes[from..]).trim());
                from = bytes.len();
            }
        }
        let _ = sender.send(bytes);
    });
    receiver
}

/// A child that is ended when nobody holds it any more.
#[derive(Debug)]
struct Owned(Child);

impl Owned {
    fn spawn(command: &mut Command) -> Result<Self, String> {
        Self::spawn_as_it_is(command.stdin(Stdio::null()))
    }

    /// With the standard input that was said.
    fn spawn_as_it_is(command: &mut Command) -> Result<Self, String> {
        let spawned = command.spawn();
        spawned
            .map(Self)
            .map_err(|error| format!("{}: {error}", line(command)))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child that writes JSON values, one after the other, until this is dropped or the deadline has
/// passed.
#[derive(Debug)]
pub struct Stream<T> {
    line: String,
    values: Receiver<Result<T, String>>,
    deadline: Instant,
    _child: Owned,
}

impl<T: DeserializeOwned + Send + 'static> Stream<T> {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, within: Duration) -> Result<Self, String> {
        let line = line(command);
        let mut child = Owned::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let said = collect(child.0.stderr.take(), |_| {});
        let (sender, values) = channel();
        let stdout = child.0.stdout.take();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            for value in Deserializer::from_reader(stdout).into_iter::<T>() {
                let value = value.map_err(|error| error.to_string());
                if sender.send(value).is_err() {
                    return;
                }
            }
            let said = said.recv().unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            let _ = sender.send(Err(format!("it ended: {said}")));
        });
        Ok(Self {
            line,
            values,
            deadline: Instant::now() + within,
            _child: child,
        })
    }

    /// Takes value after value until `look` has seen what it waits for.
    ///
    /// # Errors
    /// When the deadline has passed or the child ends, with what was last seen.
    pub fn until<R>(&self, mut look: impl FnMut(T) -> Look<R>) -> Result<R, String> {
        let mut last = "nothing".to_owned();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let why = match self.values.recv_timeout(left) {
                Ok(Ok(value)) => match look(value) {
                    Look::Seen(seen) => return Ok(seen),
                    Look::NotYet(seen) => {
                        last = seen;
                        continue;
                    }
                },
                Ok(Err(error)) => error,
                Err(RecvTimeoutError::Timeout) => "the deadline has passed".to_owned(),
                Err(RecvTimeoutError::Disconnected) => "it ended".to_owned(),
            };
            return Err(format!("{}: {why}; last seen: {last}", self.line));
        }
    }
}

/// A child that goes on, and says at its beginning what somebody waits for.
#[derive(Debug)]
pub struct Speaker {
    line: String,
    lines: Receiver<String>,
    said: Receiver<Vec<u8>>,
    child: Owned,
}

impl Speaker {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let line = line(command);
        let mut child = Owned::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        let said = collect(child.0.stderr.take(), |_| {});
        let (sender, lines) = channel();
        let stdout = child.0.stdout.take();
        thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let mut reader = BufReader::new(stdout).lines();
            // To its end, heard or not: a child whose pipe is full stands still.
            while let Some(Ok(line)) = reader.next() {
                let _ = sender.send(line);
            }
        });
        Ok(Self {
            line,
            lines,
            said,
            child,
        })
    }

    /// The first line in which `find` finds something.
    ///
    /// # Errors
    /// What it said, when it ends before, or the deadline has passed.
    pub fn first<R>(
        &self,
        within: Duration,
        find: impl Fn(&str) -> Option<R>,
    ) -> Result<R, String> {
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let why = match self.lines.recv_timeout(left) {
                Ok(line) => match find(&line) {
                    Some(found) => return Ok(found),
                    None => continue,
                },
                Err(RecvTimeoutError::Timeout) => format!("not within {within:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    let said = self.said.recv_timeout(left).unwrap_or_default();
                    format!("it ended: {}", String::from_utf8_lossy(&said).trim())
                }
            };
            return Err(format!("{}: {why}", self.line));
        }
    }

    /// Whether it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.0.try_wait(), Ok(None))
    }
}

/// A child that writes to a file until it ends by itself.
#[derive(Debug)]
pub struct Recorder {
    line: String,
    child: Owned,
}

impl Recorder {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, file: File) -> Result<Self, String> {
        let child = Owned::spawn(command.stdout(file).stderr(Stdio::null()))?;
        let line = line(command);
        Ok(Self { line, child })
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// When it has not in time, or failed.
    pub fn end(mut self, within: Duration) -> Result<(), String> {
        let status = try_eventually(within, || match self.child.0.try_wait() {
            Ok(Some(status)) => Look::Seen(status),
            Ok(None) => Look::NotYet("it runs".to_owned()),
            Err(error) => Look::NotYet(error.to_string()),
        });
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{}: {status}", self.line)),
            Err(last) => Err(format!("{}: not within {within:?}: {last}", self.line)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);
    const SHORT: Duration = Duration::from_millis(200);

    /// Whether the process is there; one that was not waited for still is.
    fn lives(id: u32) -> bool {
        std::path::Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_command_that_fails_is_shown() {
        let error = output(Command::new("/bin/cat").arg("/absent"), LONG).expect_err("no file");
        assert!(
            error.starts_with("/bin/cat /absent: exit status: 1: "),
            "{error}"
        );
    }

    #[test]
    fn a_command_ends_with_its_deadline() {
        let began = Instant::now();
        let error = output(Command::new("sleep").arg("60"), SHORT).expect_err("too long");
        assert_eq!(error, "sleep 60: did not end within 200ms");
        assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
    }

    #[test]
    fn a_stream_gives_values_until_one_is_what_was_waited_for() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("values");
        std::fs::write(&path, "{\"n\": 1}\n{\n\"n\": 2}{\"n\":3}").expect("written");
        let stream = || Stream::<Value>::start(Command::new("cat").arg(&path), LONG);
        let look = |wanted: i64| {
            move |value: Value| match value["n"].as_i64() {
                Some(n) if n == wanted => Look::Seen(n),
                n => Look::NotYet(format!("{n:?}")),
            }
        };
        assert_eq!(stream().expect("a child").until(look(2)), Ok(2));
        let error = stream().expect("a child").until(look(4));
        let error = error.expect_err("there is no fourth");
        assert!(error.ends_with("it ended: ; last seen: Some(3)"), "{error}");
    }

    #[test]
    fn a_stream_ends_with_its_deadline_and_takes_its_child_along() {
        let stream = Stream::<Value>::start(Command::new("sleep").arg("60"), SHORT);
        let stream = stream.expect("a child");
        let id = stream._child.0.id();
        let error = stream.until(|_| Look::<()>::NotYet(String::new()));
        let error = error.expect_err("nothing is said");
        assert_eq!(
            error,
            "sleep 60: the deadline has passed; last seen: nothing"
        );
        assert!(lives(id));
        drop(stream);
        assert!(!lives(id));
    }

    #[test]
    fn a_recorder_writes_until_its_child_ends() {
        let mut file = tempfile::tempfile().expect("a file");
        let twin = file.try_clone().expect("a file");
        let recorder = Recorder::start(Command::new("echo").arg("said"), twin);
        recorder.expect("a child").end(LONG).expect("ended");
        let mut text = String::new();
        std::io::Seek::rewind(&mut file).expect("rewound");
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "said\n");
        let file = tempfile::tempfile().expect("a file");
        let recorder = Recorder::start(Command::new("sleep").arg("60"), file).expect("a child");
        let error = recorder.end(SHORT).expect_err("it runs on");
        assert_eq!(error, "sleep 60: not within 200ms: it runs");
    }
}
