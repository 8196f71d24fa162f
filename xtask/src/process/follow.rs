//! A child whose lines are events: a watch that goes on, or a long command that tells its steps.

use std::fmt;
use std::fs::File;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use camino::Utf8Path;

use super::{
    Cut, Destination, Echo, Feed, Input, Invocation, ProcessError, Running, Streams, TICK,
    Terminal, begin, code_of, end_group, interrupt, last_lines, limit, open_log, text_of, wait,
};

/// Which stream of a child is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// What it gives.
    Stdout,
    /// What it says.
    Stderr,
}

/// What came, or did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// A line, without its end.
    Line(String),
    /// Nothing in that time.
    Nothing,
    /// The stream has ended.
    Ended,
}

/// A child whose lines are events, each told when it comes. It is ended with its group when this is
/// dropped.
pub struct Follow {
    running: Running,
    lines: Receiver<String>,
    command: String,
    deadline: Duration,
}

impl fmt::Debug for Follow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Follow({})", self.command)
    }
}

impl Follow {
    /// Starts it; both streams are written to `log`, if there is one, except for a standard output
    /// that is followed: that is data.
    ///
    /// # Errors
    /// See [`ProcessError`]; never `Failed` or `Deadline`.
    pub fn start(
        invocation: &Invocation,
        followed: Followed,
        log: Option<&Utf8Path>,
        deadline: Duration,
    ) -> Result<Self, ProcessError> {
        let log = open_log(invocation, log)?;
        let silent = |log: Option<Arc<Mutex<File>>>| Destination {
            log,
            ..Destination::of(Echo::Silent, Terminal::Stderr)
        };
        let (sender, lines) = mpsc::channel();
        let streams = match followed {
            Followed::Stdout => Streams {
                stdout: Destination {
                    sent: Some(Sent::to(sender)),
                    ..silent(None)
                },
                stderr: silent(log),
                handed_on: None,
            },
            Followed::Stderr => Streams {
                stdout: silent(log.clone()),
                stderr: Destination {
                    sent: Some(Sent::to(sender)),
                    ..silent(log)
                },
                handed_on: None,
            },
        };
        Ok(Self {
            running: begin(invocation, Feed::Given(&Input::Empty), streams, deadline)?,
            lines,
            command: invocation.to_string(),
            deadline,
        })
    }

    /// The next line if one comes within this time: a look at what else has changed, in between.
    ///
    /// # Errors
    /// [`ProcessError::Deadline`], [`ProcessError::Interrupted`].
    pub fn next_within(&self, time: Duration) -> Result<Next, ProcessError> {
        let until = Instant::now() + time;
        loop {
            match self.lines.recv_timeout(TICK.min(time)) {
                Ok(line) => return Ok(Next::Line(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::Ended),
                Err(RecvTimeoutError::Timeout) => self.check()?,
            }
            if Instant::now() >= until {
                return Ok(Next::Nothing);
            }
        }
    }

    /// Whether it may go on.
    fn check(&self) -> Result<(), ProcessError> {
        if let Some(signal) = interrupt::pending() {
            return Err(self.cut(Cut::Interrupted(signal)));
        }
        if limit(&self.running).is_some_and(|limit| limit <= Instant::now()) {
            return Err(self.cut(Cut::Deadline));
        }
        Ok(())
    }

    /// Waits for its end; another code than 0 is an error.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn finish(self) -> Result<(), ProcessError> {
        let status = wait(&self.running).map_err(|cut| self.cut(cut))?;
        match code_of(status) {
            0 => Ok(()),
            code => Err(ProcessError::Failed {
                command: self.command.clone(),
                code,
                stderr: last_lines(&text_of(&self.running.stderr)),
            }),
        }
    }

    fn cut(&self, cut: Cut) -> ProcessError {
        let stderr = text_of(&self.running.stderr);
        cut.told(self.command.clone(), self.deadline, &stderr)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        end_group(&self.running);
    }
}

/// Where whole lines go, however long they are.
pub(super) struct Sent {
    to: Sender<String>,
    rest: Vec<u8>,
}

impl Sent {
    pub(super) const fn to(to: Sender<String>) -> Self {
        Self {
            to,
            rest: Vec::new(),
        }
    }

    /// Nobody may listen any more.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        // What was there before these bytes has no end of a line.
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
            return;
        };
        let whole = self.rest.len() - bytes.len() + end;
        let after = self.rest.split_off(whole + 1);
        let lines = std::mem::replace(&mut self.rest, after);
        for line in String::from_utf8_lossy(&lines).lines() {
            let _ = self.to.send(line.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::Sent;

    #[test]
    fn lines_are_whole_in_whatever_portions_they_come() {
        let (sender, receiver) = mpsc::channel();
        let mut sent = Sent::to(sender);
        for portion in ["a", "b\nc\n\nd", "", "e\nrest"] {
            sent.take(portion.as_bytes());
        }
        drop(sent);
        let lines: Vec<String> = receiver.iter().collect();
        assert_eq!(lines, ["ab", "c", "", "de"]);
    }
}
