//! Readiness, asked by us over published ports. A process that ends, ends the wait at once; a
//! deadline that passes tells the last answer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::cluster::readiness::{Answer, Readiness};
use crate::engine::ContainerFacts;
use crate::exit::{Exit, Failure};
use crate::poll::{self, Look};
use crate::report::{
    self,
    live::{self, Activity},
};

/// The fix where a process has ended that should not have.
pub(super) const FIX_ENDED: &str =
    "its last lines say why; `--plan` shows the command that starts it";
/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(20);
/// Whoever waits wants to know what for.
const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// Why the wait ended without readiness.
#[derive(Debug)]
pub(super) enum Unready {
    /// Its process has ended.
    Ended,
    /// Time is up; how long it was, and the last answer.
    Late(String),
    /// Another container has ended, so there is nothing to wait for.
    GivenUp,
    /// A signal came.
    Stopped(anyhow::Error),
}

/// Waits until the container is ready, its process has ended, or the deadline is over. An end is
/// told to the others by `given_up`.
pub(super) fn wait(
    activity: &Activity,
    readiness: &Readiness,
    facts: &ContainerFacts,
    deadline: Duration,
    given_up: &AtomicBool,
) -> Result<(), Unready> {
    let mut told = Instant::now();
    let found = poll::until_in(activity, "readiness", deadline, INTERVAL, || {
        // A second process means that the first has ended.
        if facts.status != "running" || facts.restart_count > 0 || has_ended(facts.pid) {
            given_up.store(true, Ordering::Relaxed);
            return Ok(Look::Found(Err(Unready::Ended)));
        }
        if given_up.load(Ordering::Relaxed) {
            return Ok(Look::Found(Err(Unready::GivenUp)));
        }
        Ok(match readiness.ask(&facts.ports) {
            Answer::Ready => Look::Found(Ok(())),
            Answer::NotYet(status) => {
                if told.elapsed() > TELL_INTERVAL && !live::is_on() {
                    told = Instant::now();
                    report::note(&format!("waiting for {}: {status}", facts.name));
                }
                Look::NotYet(status)
            }
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

/// What went wrong, for people. Names the container, so that its log is the one that is shown.
pub(super) fn explain(name: &str, unready: Unready, now: Option<&ContainerFacts>) -> anyhow::Error {
    match unready {
        Unready::Stopped(error) => error,
        Unready::GivenUp => Failure::new(
            Exit::Deploy,
            format!("container {name} was not waited for, since another ended"),
        )
        .into(),
        Unready::Ended => {
            let how = match now {
                None => "is gone".to_owned(),
                Some(facts) if facts.out_of_memory => {
                    "was ended for want of memory (resources.limits.memory)".to_owned()
                }
                Some(facts) if facts.restart_count > 0 => format!(
                    "ended and was started again {} times (now {})",
                    facts.restart_count,
                    facts.state()
                ),
                Some(facts) => format!("ended with exit code {}", facts.exit_code),
            };
            let hint = match now {
                Some(facts) if facts.out_of_memory => {
                    "give it a larger resources.limits.memory in its manifest, or the host more memory: `cargo xtask doctor` tells what is free"
                }
                _ => FIX_ENDED,
            };
            Failure::new(
                Exit::Deploy,
                format!("container {name} {how} before it was ready"),
            )
            .hint(hint)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;
    use std::time::Duration;

    use std::sync::atomic::AtomicBool;

    use super::{Readiness, Unready, explain};
    use crate::engine::ContainerFacts;
    use crate::exit::{Exit, Failure};
    use crate::report::live;

    const SHORT: Duration = Duration::from_millis(200);
    const AMPLE: Duration = Duration::from_secs(20);

    fn wait(
        readiness: &Readiness,
        facts: &ContainerFacts,
        deadline: Duration,
    ) -> Result<(), Unready> {
        let activity = live::begin("waiting", "for it");
        let given_up = AtomicBool::new(false);
        super::wait(&activity, readiness, facts, deadline, &given_up)
    }

    /// A container whose process is ours and whose port 80 is this one.
    fn facts(port: u16) -> ContainerFacts {
        ContainerFacts {
            name: "run-web-0".to_owned(),
            image_id: String::new(),
            reference: String::new(),
            status: "running".to_owned(),
            pid: i32::try_from(std::process::id()).unwrap(),
            exit_code: 0,
            out_of_memory: false,
            restart_count: 0,
            started_at: String::new(),
            ports: BTreeMap::from([(80, port)]),
            labels: BTreeMap::new(),
        }
    }

    fn http() -> Readiness {
        Readiness::Http {
            port: 80,
            path: "/readyz".to_owned(),
            timeout_seconds: 1,
        }
    }

    /// Gives one answer to each connection, the last one for ever.
    fn server(answers: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for (index, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let answer = answers[index.min(answers.len() - 1)];
                if !answer.is_empty() {
                    // Whoever asks may have gone.
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        port
    }

    const NO: &str = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nwait";
    const YES: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    #[track_caller]
    fn late(readiness: &Readiness, facts: &ContainerFacts, words: &str) {
        let unready = wait(readiness, facts, SHORT).unwrap_err();
        assert!(matches!(&unready, Unready::Late(_)), "{unready:?}");
        let error = explain(&facts.name, unready, Some(facts));
        assert_eq!(Failure::find(&error).unwrap().exit(), Exit::Deploy);
        let text = error.to_string();
        assert!(text.contains(words) && text.contains("run-web-0"), "{text}");
    }

    #[test]
    fn waits_for_the_answer_that_counts() {
        wait(&http(), &facts(server(&[NO, NO, YES])), AMPLE).unwrap();
    }

    #[test]
    fn a_deadline_tells_the_last_answer() {
        late(
            &http(),
            &facts(server(&[NO])),
            "/readyz answers 503 Service Unavailable: wait",
        );
        let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        drop(silent);
        late(&http(), &facts(port), "/readyz does not answer");
        late(&Readiness::Tcp { port: 80 }, &facts(port), "no connection");
        late(
            &Readiness::Tcp { port: 81 },
            &facts(port),
            "port 81 is not published",
        );
    }

    #[test]
    fn a_connection_counts_when_it_is_kept() {
        // A server with nobody behind it takes connections and lets go of them.
        late(
            &Readiness::Tcp { port: 80 },
            &facts(server(&[""])),
            "closed at once",
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        wait(&Readiness::Tcp { port: 80 }, &facts(port), AMPLE).unwrap();
    }

    #[test]
    fn the_end_of_one_ends_the_wait_for_all() {
        let given_up = AtomicBool::new(false);
        let activity = live::begin("waiting", "for both");
        let mut gone = facts(server(&[NO]));
        gone.pid = i32::MAX;
        let ended = super::wait(&activity, &http(), &gone, AMPLE, &given_up);
        assert!(matches!(ended, Err(Unready::Ended)));
        let other = super::wait(&activity, &http(), &facts(server(&[NO])), AMPLE, &given_up);
        assert!(matches!(other, Err(Unready::GivenUp)));
    }

    #[test]
    fn a_process_that_ended_ends_the_wait() {
        let mut gone = facts(server(&[NO]));
        gone.pid = i32::MAX;
        let unready = wait(&http(), &gone, AMPLE).unwrap_err();
        assert!(matches!(unready, Unready::Ended));
        let mut now = gone.clone();
        now.exit_code = 3;
        let text = explain("run-web-0", unready, Some(&now)).to_string();
        assert!(text.contains("ended with exit code 3"), "{text}");
        let restarted = ContainerFacts {
            restart_count: 1,
            ..facts(1)
        };
        assert!(matches!(
            wait(&http(), &restarted, AMPLE),
            Err(Unready::Ended)
        ));
    }
}
