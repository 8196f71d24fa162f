//! Readiness, asked by us over published ports. A process that ends, ends the wait at once; a
//! deadline that passes tells the last answer.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::plan::Readiness;
use crate::engine::ContainerFacts;
use crate::exit::{Exit, Failure};
use crate::poll::{self, Look};
use crate::report;

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(20);
/// A connection to our own machine.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// How long a connection must last to count: a proxy in between takes every connection, and lets
/// go of it at once when nobody listens behind it.
const KEPT_OPEN: Duration = Duration::from_millis(20);

/// What asking gave.
enum Answer {
    Ready,
    NotYet(String),
}

/// Why the wait ended without readiness.
#[derive(Debug)]
pub(super) enum Unready {
    /// Its process has ended.
    Ended,
    /// Time is up; how long it was, and the last answer.
    Late(String),
    /// A signal came.
    Stopped(anyhow::Error),
}

/// Waits until the container is ready, its process has ended, or the deadline is over.
pub(super) fn wait(
    readiness: &Readiness,
    facts: &ContainerFacts,
    deadline: Duration,
) -> Result<(), Unready> {
    let found = poll::until("readiness", deadline, INTERVAL, || {
        // A second process means that the first has ended.
        if facts.status != "running" || facts.restart_count > 0 || has_ended(facts.pid) {
            return Ok(Look::Found(Err(Unready::Ended)));
        }
        Ok(match ask(readiness, facts) {
            Answer::Ready => Look::Found(Ok(())),
            Answer::NotYet(status) => Look::NotYet(status),
        })
    });
    match found {
        Ok(outcome) => outcome,
        Err(error) if report::is_signal(&error) => Err(Unready::Stopped(error)),
        Err(late) => Err(Unready::Late(late.to_string())),
    }
}

/// The process of a local container is one of the host's.
fn has_ended(pid: i32) -> bool {
    pid <= 0 || !Path::new(&format!("/proc/{pid}")).exists()
}

fn ask(readiness: &Readiness, facts: &ContainerFacts) -> Answer {
    let (Readiness::Http { port, .. } | Readiness::Tcp { port }) = readiness else {
        return Answer::Ready;
    };
    let Some(&published) = facts.ports.get(port) else {
        return Answer::NotYet(format!("port {port} is not published"));
    };
    match readiness {
        Readiness::Http {
            path,
            timeout_seconds,
            ..
        } => http(published, path, *timeout_seconds),
        Readiness::Tcp { .. } | Readiness::Running => tcp(published),
    }
}

fn http(published: u16, path: &str, timeout_seconds: u64) -> Answer {
    let url = format!("http://127.0.0.1:{published}{path}");
    match minreq::get(&url).with_timeout(timeout_seconds).send() {
        Ok(response) if (200..400).contains(&response.status_code) => Answer::Ready,
        Ok(response) => Answer::NotYet(format!(
            "{path} answers {} {}: {}",
            response.status_code,
            response.reason_phrase,
            first_characters(response.as_str().unwrap_or("not text"))
        )),
        Err(error) => Answer::NotYet(format!("{path} does not answer: {error}")),
    }
}

fn first_characters(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    match line.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

fn tcp(published: u16) -> Answer {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, published));
    let attempt = || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_DEADLINE)?;
        stream.set_read_timeout(Some(KEPT_OPEN))?;
        stream.read(&mut [0])
    };
    match attempt() {
        Ok(0) => Answer::NotYet("the connection is closed at once".to_owned()),
        Ok(_) => Answer::Ready,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Answer::Ready
        }
        Err(error) => Answer::NotYet(format!("no connection: {error}")),
    }
}

/// What went wrong, for people. Names the container, so that its log is the one that is shown.
pub(super) fn explain(name: &str, unready: Unready, now: Option<&ContainerFacts>) -> anyhow::Error {
    match unready {
        Unready::Stopped(error) => error,
        Unready::Ended => {
            let how = match now {
                None => "is gone".to_owned(),
                Some(facts) if facts.out_of_memory => {
                    "was ended for want of memory (resources.limits.memory)".to_owned()
                }
                Some(facts) if facts.restart_count > 0 => format!(
                    "ended and was started again {} times (now {}, exit code {})",
                    facts.restart_count, facts.status, facts.exit_code
                ),
                Some(facts) => format!("ended with exit code {}", facts.exit_code),
            };
            Failure::new(
                Exit::Deploy,
                format!("container {name} {how} before it was ready"),
            )
            .hint("its last lines say why; the whole log lies in the run's folder")
            .into()
        }
        Unready::Late(last) => Failure::new(
            Exit::Deploy,
            format!("container {name} is not ready: {last}"),
        )
        .hint("its log says what it waits for; `ready-deadline-seconds` in [package.metadata.e2e] gives it more time")
        .into(),
    }
}
