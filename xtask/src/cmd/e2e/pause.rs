//! `--pause-before`: stands still until Enter or SIGUSR1, and tells where things are. For people
//! who look around, and for tests that sabotage a run. An input that ends is not an Enter.

use std::io::BufRead as _;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use signal_hook::consts::SIGUSR1;
use signal_hook::iterator::Signals;

use crate::cli::Phase;
use crate::process::interrupt;
use crate::report::live;

/// How often an interruption is looked for while a run stands still.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Stops a run before one phase, or never.
#[derive(Debug)]
pub(super) struct Pause {
    before: Option<Phase>,
    signalled: Option<Receiver<()>>,
    signals: Option<Sender<()>>,
}

impl Pause {
    /// From now on SIGUSR1 is ours, if there is a phase to stop before.
    pub(super) fn new(before: Option<Phase>) -> Result<Self> {
        if before.is_none() {
            return Ok(Self {
                before,
                signalled: None,
                signals: None,
            });
        }
        let (sender, signalled) = mpsc::channel();
        let mut signals = Signals::new([SIGUSR1]).context("cannot set the handler of SIGUSR1")?;
        let from_signals = sender.clone();
        spawn("pause", move || {
            for _ in signals.forever() {
                let _ = from_signals.send(());
            }
        })?;
        Ok(Self {
            before,
            signalled: Some(signalled),
            signals: Some(sender),
        })
    }

    /// Stops if this is the phase; `places` are the lines that say where things are.
    pub(super) fn before(
        &self,
        phase: Phase,
        places: impl FnOnce() -> Result<Vec<String>>,
    ) -> Result<()> {
        let (Some(signalled), Some(sender)) = (&self.signalled, &self.signals) else {
            return Ok(());
        };
        if self.before != Some(phase) {
            return Ok(());
        }
        // What is drawn would not know that an Enter has moved it.
        let _still = live::hold_still();
        let name = format!("{phase:?}").to_lowercase();
        for place in places()? {
            crate::report::say!("{:>12} {place}", "where");
        }
        let id = std::process::id();
        crate::report::say!(
            "{:>12} before {name}; go on with Enter, or: kill -USR1 {id}",
            "paused"
        );
        let enter = sender.clone();
        spawn("enter", move || {
            let mut line = String::new();
            if std::io::stdin()
                .lock()
                .read_line(&mut line)
                .is_ok_and(|read| read > 0)
            {
                let _ = enter.send(());
            }
        })?;
        loop {
            match signalled.recv_timeout(CHECK_INTERVAL) {
                Ok(()) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => interrupt::check()?,
                Err(RecvTimeoutError::Disconnected) => unreachable!("this value holds a sender"),
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(|_| ())
        .context("cannot start a thread")
}
