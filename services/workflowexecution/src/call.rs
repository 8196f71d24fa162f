//! Makes the calls of a step or a probe. It sends nothing once the deadline has passed, whatever
//! happened to the process meanwhile; it tries again only what surely was not done or may be done
//! twice; it follows no redirect, uses no proxy and keeps no connection, so that one try is one
//! connection and one request.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use common::api::{ExecutionFailure, StepResult};
use reqwest::redirect;
use tokio::time::Instant;

use crate::domain::{Call, PROBE, bounded, pause_after};

/// Between two questions of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// The header that names a call to its target.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Calls targets.
#[derive(Clone, Debug)]
pub struct Caller {
    client: reqwest::Client,
}

/// A step that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// For the record.
    pub result: StepResult,
    /// Why it failed, unless it succeeded.
    pub failure: Option<ExecutionFailure>,
    /// Something was sent, or may have been.
    pub touched: bool,
}

/// The end of one try.
enum Tried {
    /// An answer with this status came.
    Answered(u16),
    /// No connection: nothing was sent.
    Unreached(String),
    /// The connection broke: what became of it is not known.
    Broken(String),
    /// The deadline of the try passed: what became of it is not known.
    TimedOut,
}

/// What all tries came to.
pub(crate) struct Tally {
    name: String,
    started: Instant,
    pub(crate) tries: u32,
    status_code: Option<u16>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) touched: bool,
}

impl Caller {
    /// # Errors
    /// When the client cannot be made.
    pub fn new() -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent("workflowexecution")
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()?;
        Ok(Self { client })
    }

    /// Makes the call until it succeeds, may not be tried again, or `deadline` has passed.
    pub async fn step(&self, call: &Call, key: &str, deadline: Instant) -> Made {
        let mut tally = Tally::of(&call.name);
        loop {
            if Instant::now() >= deadline {
                return tally.deadline_exceeded();
            }
            let tried = self.tried(call, key, deadline).await;
            tally.count(&tried);
            if tried.succeeded(call) {
                return tally.success();
            }
            if matches!(tried, Tried::TimedOut) && Instant::now() >= deadline {
                return tally.deadline_exceeded();
            }
            let pause = pause_after(tally.tries);
            let again = may_try_again(call, &tried) && tally.tries < call.tries_max;
            if !again || Instant::now() + pause >= deadline {
                return tally.failure(call, &tried);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks until the answer is an expected one, or the time for all its tries or `deadline` has
    /// passed. A question that failed may always be asked again.
    pub async fn probe(&self, call: &Call, key: &str, deadline: Instant) -> Made {
        let mut tally = Tally::of(PROBE);
        let end = deadline.min(tally.started + call.budget());
        loop {
            if Instant::now() >= deadline {
                return tally.deadline_exceeded();
            }
            let tried = self.tried(call, key, end).await;
            tally.count(&tried);
            if tried.succeeded(call) {
                return tally.success();
            }
            // A question with next to no time for its answer would only hide the last one.
            if Instant::now() + PROBE_PAUSE * 2 >= end {
                return tally.not_healed(call, &tried);
            }
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    async fn tried(&self, call: &Call, key: &str, deadline: Instant) -> Tried {
        let mut request = self
            .client
            .request(call.method.clone(), call.url.clone())
            .header(IDEMPOTENCY_KEY, key);
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let try_deadline = deadline.min(Instant::now() + call.timeout);
        match before(try_deadline, request.send()).await {
            None => Tried::TimedOut,
            Some(Ok(answer)) => Tried::Answered(answer.status().as_u16()),
            Some(Err(error)) if error.is_connect() => Tried::Unreached(chain(&error)),
            Some(Err(error)) => Tried::Broken(chain(&error)),
        }
    }
}

/// Runs `work` and looks at the clock before each of its steps. A plain timeout polls the work
/// first: a process that was stopped and goes on after the deadline would send what it had
/// prepared before.
pub(crate) async fn before<F: Future>(deadline: Instant, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut alarm = pin!(tokio::time::sleep_until(deadline));
    poll_fn(|context| {
        if Instant::now() >= deadline {
            return Poll::Ready(None);
        }
        if let Poll::Ready(output) = work.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        alarm.as_mut().poll(context).map(|()| None)
    })
    .await
}

fn may_try_again(call: &Call, tried: &Tried) -> bool {
    match tried {
        Tried::Unreached(_) => true,
        Tried::Answered(status) => call.retry_on_status.contains(status),
        Tried::Broken(_) | Tried::TimedOut => call.idempotent,
    }
}

/// An error with all its causes; reqwest tells only the outermost.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

impl Tried {
    fn succeeded(&self, call: &Call) -> bool {
        matches!(self, Self::Answered(status) if call.expected_status.contains(status))
    }

    fn told(&self, call: &Call) -> String {
        match self {
            Self::Answered(status) => {
                format!("answered {status}, expected {:?}", call.expected_status)
            }
            Self::Unreached(why) => format!("could not be reached: {why}"),
            Self::Broken(why) => format!("broke the connection: {why}"),
            Self::TimedOut => format!("did not answer within {} ms", call.timeout.as_millis()),
        }
    }
}

impl Tally {
    pub(crate) fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            started: Instant::now(),
            tries: 0,
            status_code: None,
            exit_code: None,
            touched: false,
        }
    }

    fn count(&mut self, tried: &Tried) {
        self.tries += 1;
        self.touched |= !matches!(tried, Tried::Unreached(_));
        if let Tried::Answered(status) = tried {
            self.status_code = Some(*status);
        }
    }

    fn success(self) -> Made {
        self.made(None)
    }

    fn failure(self, call: &Call, tried: &Tried) -> Made {
        let reason = match tried {
            Tried::TimedOut => "step_timed_out",
            _ => "step_failed",
        };
        let message = self.message(call, tried);
        self.made(Some((reason, message)))
    }

    fn not_healed(self, call: &Call, tried: &Tried) -> Made {
        let message = self.message(call, tried);
        self.made(Some(("probe_failed", message)))
    }

    fn deadline_exceeded(self) -> Made {
        let message = format!(
            "the execution's deadline passed at {} after {} tries",
            self.name, self.tries
        );
        self.made(Some(("deadline_exceeded", message)))
    }

    fn message(&self, call: &Call, tried: &Tried) -> String {
        format!(
            "{} {} {} (try {})",
            call.method,
            call.url,
            tried.told(call),
            self.tries
        )
    }

    pub(crate) fn made(self, failed: Option<(&str, String)>) -> Made {
        let duration = self.started.elapsed().as_millis();
        Made {
            result: StepResult {
                name: self.name.clone(),
                tries: self.tries,
                status_code: self.status_code,
                exit_code: self.exit_code,
                succeeded: failed.is_none(),
                duration_ms: u64::try_from(duration).unwrap_or(u64::MAX),
            },
            failure: failed.map(|(reason, message)| ExecutionFailure {
                reason: reason.to_owned(),
                step: Some(self.name),
                status_code: self.status_code,
                exit_code: self.exit_code,
                message: bounded(message),
                was_execution_failure: self.touched,
            }),
            touched: self.touched,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::extract::{Path, State};
    use axum::http::{HeaderMap, StatusCode};
    use axum::response::IntoResponse;
    use reqwest::{Method, Url};

    use super::*;

    const FAR: Duration = Duration::from_secs(60);

    /// What a target was asked, in order, with the key.
    type Journal = Arc<Mutex<Vec<(String, String)>>>;

    /// Answers `/200-503` with 200 at first and 503 ever after; `/hang` never.
    async fn target() -> (String, Journal) {
        async fn answer(
            State(journal): State<Journal>,
            Path(script): Path<String>,
            headers: HeaderMap,
        ) -> axum::response::Response {
            let key = headers[IDEMPOTENCY_KEY].to_str().expect("ASCII").to_owned();
            let asked = {
                let mut journal = journal.lock().expect("no panic");
                journal.push((script.clone(), key));
                journal.len()
            };
            if script == "hang" {
                std::future::pending::<()>().await;
            }
            let statuses: Vec<u16> = script
                .split('-')
                .map(|status| status.parse().expect("a status"))
                .collect();
            let status = statuses[(asked - 1).min(statuses.len() - 1)];
            let location = [("location", "/200")];
            (StatusCode::from_u16(status).expect("a status"), location).into_response()
        }
        let journal = Journal::default();
        let app = Router::new()
            .route("/{script}", axum::routing::any(answer))
            .with_state(Arc::clone(&journal));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (base, journal)
    }

    fn call(url: &str) -> Call {
        Call {
            name: "restart".to_owned(),
            method: Method::POST,
            url: Url::parse(url).expect("a URL"),
            body: None,
            expected_status: vec![200],
            timeout: Duration::from_millis(200),
            tries_max: 3,
            retry_on_status: vec![503],
            idempotent: false,
        }
    }

    /// Makes the call and compares what came of it: reason, last status, tries, touched.
    #[track_caller]
    fn check(made: &Made, expected: (Option<&str>, Option<u16>, u32, bool)) {
        let reason = made.failure.as_ref().map(|failure| failure.reason.as_str());
        let result = &made.result;
        assert_eq!(
            (reason, result.status_code, result.tries, made.touched),
            expected,
            "{made:?}"
        );
        assert_eq!(result.succeeded, reason.is_none());
        if let Some(failure) = &made.failure {
            assert_eq!(failure.was_execution_failure, made.touched);
        }
    }

    async fn step(call: &Call, left: Duration) -> Made {
        let caller = Caller::new().expect("a client");
        caller.step(call, "e/restart", Instant::now() + left).await
    }

    #[tokio::test]
    async fn one_answer_is_enough() {
        let (base, journal) = target().await;
        let made = step(&call(&format!("{base}/200")), FAR).await;
        check(&made, (None, Some(200), 1, true));
        let expected = [("200".to_owned(), "e/restart".to_owned())];
        assert_eq!(*journal.lock().expect("no panic"), expected);
    }

    #[tokio::test]
    async fn listed_statuses_are_tried_again_with_the_same_key() {
        let (base, journal) = target().await;
        let made = step(&call(&format!("{base}/503-503-200")), FAR).await;
        check(&made, (None, Some(200), 3, true));
        let keys: Vec<String> = journal
            .lock()
            .expect("no panic")
            .iter()
            .map(|(_, key)| key.clone())
            .collect();
        assert_eq!(keys, ["e/restart"; 3]);
        let (base, _) = target().await;
        let made = step(&call(&format!("{base}/503")), FAR).await;
        check(&made, (Some("step_failed"), Some(503), 3, true));
        let (base, _) = target().await;
        let made = step(&call(&format!("{base}/500-200")), FAR).await;
        check(&made, (Some("step_failed"), Some(500), 1, true));
    }

    #[tokio::test]
    async fn a_redirect_is_an_answer() {
        let (base, journal) = target().await;
        let made = step(&call(&format!("{base}/307")), FAR).await;
        check(&made, (Some("step_failed"), Some(307), 1, true));
        assert_eq!(journal.lock().expect("no panic").len(), 1);
    }

    #[tokio::test]
    async fn a_refused_connection_is_tried_again_and_touches_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        drop(listener);
        let made = step(&call(&format!("http://{address}/200")), FAR).await;
        check(&made, (Some("step_failed"), None, 3, false));
    }

    #[tokio::test]
    async fn a_timeout_is_not_tried_again_unless_idempotent() {
        let (base, journal) = target().await;
        let mut hanging = call(&format!("{base}/hang"));
        let made = step(&hanging, FAR).await;
        check(&made, (Some("step_timed_out"), None, 1, true));
        assert_eq!(journal.lock().expect("no panic").len(), 1);
        hanging.idempotent = true;
        let made = step(&hanging, FAR).await;
        check(&made, (Some("step_timed_out"), None, 3, true));
    }

    #[tokio::test]
    async fn the_deadline_cuts_a_try_and_forbids_the_next() {
        let (base, journal) = target().await;
        let mut hanging = call(&format!("{base}/hang"));
        hanging.timeout = FAR;
        hanging.idempotent = true;
        let made = step(&hanging, Duration::from_millis(100)).await;
        check(&made, (Some("deadline_exceeded"), None, 1, true));
        let made = step(&hanging, Duration::ZERO).await;
        check(&made, (Some("deadline_exceeded"), None, 0, false));
        assert_eq!(journal.lock().expect("no panic").len(), 1);
    }

    #[tokio::test]
    async fn a_probe_asks_until_healed() {
        let (base, _) = target().await;
        let mut probe = call(&format!("{base}/500-404-200"));
        probe.timeout = Duration::from_secs(5);
        let caller = Caller::new().expect("a client");
        let made = caller.probe(&probe, "e/probe", Instant::now() + FAR).await;
        check(&made, (None, Some(200), 3, true));
        probe.url = Url::parse(&format!("{base}/500")).expect("a URL");
        probe.timeout = Duration::from_millis(500);
        probe.tries_max = 1;
        let made = caller.probe(&probe, "e/probe", Instant::now() + FAR).await;
        check(&made, (Some("probe_failed"), Some(500), 2, true));
    }

    /// A process that is stopped in the middle of its work and goes on after the deadline.
    #[tokio::test]
    async fn nothing_is_begun_after_the_deadline() {
        let deadline = Instant::now() + Duration::from_millis(20);
        let polls = AtomicUsize::new(0);
        let work = poll_fn(|context| {
            polls.fetch_add(1, Ordering::Relaxed);
            while Instant::now() <= deadline {
                std::hint::spin_loop();
            }
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert_eq!(before(deadline, work).await, None);
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }
}
