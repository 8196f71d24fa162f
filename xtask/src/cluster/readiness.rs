//! When a container counts as ready, and how that is asked from outside: over a port of 127.0.0.1.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::manifest::document::{Container, Port, Probe};
use crate::manifest::number;

/// A connection to our own machine.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// How long a connection must last to count: a proxy in between takes every connection, and lets
/// go of it at once when nobody listens behind it.
const KEPT_OPEN: Duration = Duration::from_millis(20);

/// What asking gave.
pub(crate) enum Answer {
    Ready,
    NotYet(String),
}

/// When a container counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// It runs.
    Running,
    /// It answers this path with 200 to 399.
    Http {
        /// Inside.
        port: u16,
        /// With its `/`.
        path: String,
        /// For one answer.
        timeout_seconds: u64,
    },
    /// It takes a connection and keeps it.
    Tcp {
        /// Inside.
        port: u16,
    },
}

impl Readiness {
    /// As the readiness probe of its manifest says.
    pub(crate) fn of(container: &Container) -> Self {
        let port = |port: &Port| number(container, port);
        let asked = |probe: &Probe| {
            let timeout_seconds = probe.timeout_seconds.unwrap_or(1).max(1).into();
            match (&probe.http_get, &probe.tcp_socket) {
                (Some(http), _) => Some(Self::Http {
                    port: port(&http.port)?,
                    path: http.path.clone(),
                    timeout_seconds,
                }),
                (None, Some(tcp)) => Some(Self::Tcp {
                    port: port(&tcp.port)?,
                }),
                (None, None) => None,
            }
        };
        let probe = container.readiness_probe.as_ref();
        probe.and_then(asked).unwrap_or(Self::Running)
    }

    /// Asks once; `published` tells the port of 127.0.0.1 for a port inside.
    pub(crate) fn ask(&self, published: &BTreeMap<u16, u16>) -> Answer {
        let (Self::Http { port, .. } | Self::Tcp { port }) = self else {
            return Answer::Ready;
        };
        let Some(&published) = published.get(port) else {
            return Answer::NotYet(format!("port {port} is not published"));
        };
        match self {
            Self::Http {
                path,
                timeout_seconds,
                ..
            } => http(published, path, *timeout_seconds),
            Self::Tcp { .. } | Self::Running => tcp(published),
        }
    }
}

fn http(published: u16, path: &str, timeout_seconds: u64) -> Answer {
    let url = format!("http://127.0.0.1:{published}{path}");
    match minreq::get(&url).with_timeout(timeout_seconds).send() {
        Ok(response) if (200..400).contains(&response.status_code) => Answer::Ready,
        Ok(response) => {
            let body = match response.as_str() {
                Ok("") => String::new(),
                Ok(text) => format!(": {}", first_characters(text)),
                Err(_) => ": a body that is not text".to_owned(),
            };
            let (code, reason) = (response.status_code, &response.reason_phrase);
            Answer::NotYet(format!("{path} answers {code} {reason}{body}"))
        }
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
