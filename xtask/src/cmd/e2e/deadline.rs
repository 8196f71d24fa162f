//! `--timeout`: a thread that ends the command the way SIGTERM would, so that there is one way to
//! end, and clean-up is a part of it. It never kills anything itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Signal, getpid, kill_process};

static PASSED: AtomicBool = AtomicBool::new(false);

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
                    PASSED.store(true, Ordering::SeqCst);
                    // Cannot fail: a process may signal itself.
                    let _ = kill_process(getpid(), Signal::TERM);
                }
            })
            .context("cannot start the thread of --timeout")?;
        Ok(Self {
            _disarm: Some(disarm),
        })
    }

    /// The time is over.
    pub(super) fn passed() -> bool {
        PASSED.load(Ordering::SeqCst)
    }
}
