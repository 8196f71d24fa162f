//! HTTP as the tests speak it: one call, one answer, no retries. What a service does with a lost
//! connection is what is tested, so nothing is smoothed over here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use crate::cluster::Published;
use crate::run::Run;

/// The deadline of one call; longer than any that a service sets itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

static SHARED: LazyLock<(Runtime, Client)> = LazyLock::new(|| {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime");
    let client = Client::builder().timeout(CALL_TIMEOUT).no_proxy().build();
    (runtime, client.expect("a client"))
});

/// Waits for what is only there as a future.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    SHARED.0.block_on(future)
}

/// Begins what is only there as a future, and does not wait for it.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    SHARED.0.spawn(future);
}

/// One path of an API that is posted to over and over: where it listens is asked once.
#[derive(Clone, Debug)]
pub struct Poster {
    url: String,
    token: Option<String>,
}

impl Poster {
    /// Posts JSON; gives the status code when the answer has come whole, and nothing when none came.
    pub async fn post(&self, body: &impl Serialize) -> Option<u16> {
        let mut request = SHARED.1.post(&self.url).json(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        response.bytes().await.ok()?;
        Some(status)
    }
}

/// One port of one service, and the token to use there.
#[derive(Debug)]
pub struct Api {
    published: Published,
    // For messages: container and port.
    name: String,
    token: Option<String>,
}

static FAULTS: AtomicU64 = AtomicU64::new(0);

/// How many containers were stopped or started so far.
pub(crate) fn faults() -> u64 {
    FAULTS.load(Ordering::SeqCst)
}

/// A container was stopped or started: docker publishes another port each time.
pub(crate) fn forget_addresses() {
    FAULTS.fetch_add(1, Ordering::SeqCst);
}

/// No answer came: refused, reset, or the deadline passed. Whether the service acted is unknown.
#[derive(Clone, Debug)]
pub struct NoAnswer(String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
    call: String,
}

/// JSON made longer by spaces at its end, to exactly so many bytes.
///
/// # Panics
/// When it is longer already.
#[must_use]
#[track_caller]
pub fn padded(json: &impl Serialize, bytes: usize) -> String {
    let mut text = serde_json::to_string(json).expect("JSON");
    assert!(text.len() <= bytes, "{} bytes already", text.len());
    let missing = bytes - text.len();
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

impl Api {
    /// A named port of the first replica of a service.
    ///
    /// # Panics
    /// When the run has no such service or port.
    #[must_use]
    #[track_caller]
    pub fn new(run: &Run, service: &str, port: &str) -> Self {
        let service_name = service;
        let service = run.service(service);
        let Some(number) = service.ports.get(port) else {
            panic!("{service_name} has no port named {port}");
        };
        let Some(container) = service.containers.first() else {
            panic!("{service_name} has no container");
        };
        Self::of_container(run, service_name, container, port, *number)
    }

    /// A named port of one of a service's containers; `usual` is its number where the service does
    /// not name it.
    ///
    /// # Panics
    /// When the run has no such service or does not publish the port.
    #[must_use]
    #[track_caller]
    pub fn of_container(run: &Run, service: &str, container: &str, port: &str, usual: u16) -> Self {
        let published = run
            .cluster()
            .published(run.service(service), container, port, usual);
        let published = match published {
            Ok(published) => published,
            Err(error) => panic!("{error}"),
        };
        Self {
            published,
            name: format!("{container}:{port}"),
            token: None,
        }
    }

    /// The same with a token.
    #[must_use]
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Asks.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        must_answer(self.try_get(path))
    }

    /// Asks, and may be left without an answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn try_get(&self, path: &str) -> Result<Answer, NoAnswer> {
        self.send(Method::GET, path, |request| request)
    }

    /// Posts JSON.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        must_answer(self.try_post(path, body))
    }

    /// Posts JSON, and may be left without an answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn try_post(&self, path: &str, body: &impl Serialize) -> Result<Answer, NoAnswer> {
        self.send(Method::POST, path, |request| request.json(body))
    }

    /// Posts these bytes as JSON, whatever they are.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn post_text(&self, path: &str, text: &str) -> Answer {
        must_answer(self.send(Method::POST, path, |request| {
            let request = request.header("content-type", "application/json");
            request.body(text.to_owned())
        }))
    }

    /// Posts JSON on the condition that the resource has this version.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn post_if_match(&self, path: &str, version: i64, body: &impl Serialize) -> Answer {
        let send = |request: RequestBuilder| request.header("if-match", version).json(body);
        must_answer(self.send(Method::POST, path, send))
    }

    /// Patches on the condition that the resource has this version.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn patch(&self, path: &str, version: i64, body: &impl Serialize) -> Answer {
        let send = |request: RequestBuilder| request.header("if-match", version).json(body);
        must_answer(self.send(Method::PATCH, path, send))
    }

    /// Patches without any condition.
    ///
    /// # Panics
    /// When no answer comes.
    #[track_caller]
    pub fn patch_unconditionally(&self, path: &str, body: &impl Serialize) -> Answer {
        must_answer(self.send(Method::PATCH, path, |request| request.json(body)))
    }

    fn send(
        &self,
        method: Method,
        path: &str,
        finish: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, NoAnswer> {
        let call = format!("{method} {}{path}", self.name);
        let address = self.address(&call)?;
        let mut request = SHARED.1.request(method, format!("http://{address}{path}"));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        let request = finish(request);
        let answered = block_on(async {
            let response = request.send().await?;
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            Ok((status, headers, response.text().await?))
        });
        match answered {
            Ok((status, headers, body)) => Ok(Answer {
                status,
                headers,
                body,
                call,
            }),
            Err(error) => {
                self.published.forget();
                Err(NoAnswer(format!("{call}: {}", chain(&error))))
            }
        }
    }

    /// Everything that a list has, page after page; `path` has a query, and `split` takes a page apart into
    /// what is on it and the cursor of the next.
    ///
    /// # Panics
    /// When a page is refused, or there is no end of pages.
    #[must_use]
    #[track_caller]
    pub fn pages<P: DeserializeOwned, T>(
        &self,
        path: &str,
        split: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> Vec<T> {
        let mut all = Vec::new();
        let mut page = path.to_owned();
        for _ in 0..200 {
            let (items, next) = split(self.get(&page).expect(200).json());
            all.extend(items);
            match next {
                Some(cursor) => page = format!("{path}&cursor={cursor}"),
                None => return all,
            }
        }
        panic!("{path}: no end after {}", all.len());
    }

    /// What posts to this path over and over, on connections that are kept.
    ///
    /// # Panics
    /// When nobody knows where it listens.
    #[must_use]
    #[track_caller]
    pub fn poster(&self, path: &str) -> Poster {
        match self.address(path) {
            Ok(address) => Poster {
                url: format!("http://{address}{path}"),
                token: self.token.clone(),
            },
            Err(error) => panic!("{error}"),
        }
    }

    /// The client that the services have of DataStorage, for what lasts longer than a call.
    ///
    /// # Errors
    /// When nobody knows where it listens.
    ///
    /// # Panics
    /// When this API has no token.
    pub fn datastorage(&self) -> Result<common::client::DataStorage, NoAnswer> {
        let base = format!("http://{}", self.address("a watch")?);
        let base = base.parse().expect("a URL");
        let token = common::config::Secret::new(self.token.as_deref().expect("a token"));
        let patience = common::client::Patience::default();
        let client = common::client::DataStorage::with_patience(&base, &token, patience);
        Ok(client.expect("a client"))
    }

    fn address(&self, call: &str) -> Result<SocketAddr, NoAnswer> {
        let address = self.published.address();
        address.map_err(|error| NoAnswer(format!("{call}: {error}")))
    }
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[track_caller]
fn must_answer(answer: Result<Answer, NoAnswer>) -> Answer {
    match answer {
        Ok(answer) => answer,
        Err(error) => panic!("no answer: {error}"),
    }
}

impl Answer {
    /// The answer, if it has this status.
    ///
    /// # Panics
    /// When it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert!(self.status == status, "{self}, and {status} was expected");
        self
    }

    /// The body.
    ///
    /// # Panics
    /// When it is not of this form.
    #[must_use]
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{self}: {error}"),
        }
    }

    /// The body as JSON of any form.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn value(&self) -> Value {
        self.json()
    }

    /// Checks for a refusal as RFC 9457 has it, and that its text speaks of each of `words`.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn expect_problem(self, status: u16, words: &[&str]) -> Self {
        let answer = self.expect(status);
        let media_type = answer.header("content-type");
        assert_eq!(media_type, "application/problem+json", "{answer}");
        let told = answer.value();
        assert_eq!(told["status"], status, "{answer}");
        for word in words {
            assert!(
                answer.body.contains(word),
                "{answer} does not speak of `{word}`"
            );
        }
        answer
    }

    /// A header, empty when it is absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.body.chars().take(600).collect();
        write!(formatter, "{} answered {}: {short}", self.call, self.status)
    }
}
