//! `--timeout`: a thread that ends the command the way SIGTERM would, so that there is one way to
//! end, and clean-up is a part of it. It never kills anything itself. What was ended so is told as
//! that: nobody has sent a signal.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow};

use crate::exit::{Exit, Failure};
use crate::poll::Waited;
use crate::process::interrupt;
use crate::report;

/// Armed until it is dropped.
#[derive(Debug)]
pub(super) struct Deadline {
    _disarm: Option<Sender<()>>,
}

impl Deadline {
    /// Arms it, if there is a time.
    pub(super) fn arm(seconds: Option<u64>) -> Result<Self> {
        let Some(seconds) = seconds else {
            return Ok(Self { _disarm: None });
        };
        let (disarm, disarmed) = mpsc::channel::<()>();
        thread::Builder::new()
            .name("deadline".to_owned())
            .spawn(move || {
                let waited = disarmed.recv_timeout(Duration::from_secs(seconds));
                if waited == Err(RecvTimeoutError::Timeout) {
                    interrupt::end_in_time(seconds);
                }
            })
            .context("cannot start the thread of --timeout")?;
        Ok(Self {
            _disarm: Some(disarm),
        })
    }
}

/// A signal is told as what it is, without the command that it happened to end; the end of the time
/// of `--timeout` is a signal to ourselves.
pub(super) fn in_time(error: Error) -> Error {
    told(error, interrupt::time_over())
}

fn told(error: Error, time_over: Option<u64>) -> Error {
    let exit = report::exit_of(&error);
    if let Some(seconds) = time_over.filter(|_| exit == Exit::Terminated) {
        let message = format!("the run's time of {seconds} seconds was over (--timeout)");
        let failure = Failure::new(Exit::Timeout, message)
            .hint("give it more seconds, or look at the phase times in receipt.json");
        let waited = error.downcast_ref::<Waited>().map(ToString::to_string);
        return match waited {
            Some(waited) => failure.caused_by(anyhow!(waited)).into(),
            None => failure.into(),
        };
    }
    match exit.signal() {
        Some(signal) => Failure::new(exit, format!("ended by {signal}")).into(),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::told;
    use crate::exit::{Exit, Failure};
    use crate::process::ProcessError;
    use crate::report;

    #[track_caller]
    fn check(signal: i32, time_over: Option<u64>, exit: Exit, words: &str) {
        let command = "cargo build".to_owned();
        let error = told(
            ProcessError::Interrupted { signal, command }.into(),
            time_over,
        );
        assert_eq!(report::exit_of(&error), exit);
        assert_eq!(error.to_string(), words);
    }

    #[test]
    fn what_ended_it_is_told() {
        let over = "the run's time of 30 seconds was over (--timeout)";
        check(15, Some(30), Exit::Timeout, over);
        check(15, None, Exit::Terminated, "ended by SIGTERM");
        // Ctrl-C came first; the time was over during the clean-up.
        check(2, Some(30), Exit::Interrupted, "ended by Ctrl-C");
    }

    #[test]
    fn what_failed_by_itself_is_told_as_it_is() {
        let failed = Failure::new(Exit::Deploy, "container a ended");
        let error = told(failed.into(), Some(30));
        assert_eq!(report::exit_of(&error), Exit::Deploy);
        // It is told once, however often it passes here.
        let again = told(
            told(
                ProcessError::Interrupted {
                    signal: 15,
                    command: String::new(),
                }
                .into(),
                Some(9),
            ),
            Some(9),
        );
        assert_eq!(
            again.to_string(),
            "the run's time of 9 seconds was over (--timeout)"
        );
    }
}
