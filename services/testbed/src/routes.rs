//! The HTTP side of the test bed. Each name (`?name=`) is a workload of its own, so that tests run
//! side by side.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use common::{
    extract::{Json, Query},
    problem::{Answer, Problem},
    shutdown::Shutdown,
};
use serde::Deserialize;
use time::OffsetDateTime;

use crate::domain::{Action, Entry, Full, Journal, Testbed};

/// How long `/hang` may hang.
pub const HANG_SECONDS_MAX: u64 = 600;

#[derive(Clone)]
struct Shared {
    testbed: Arc<Mutex<Testbed>>,
    shutdown: Shutdown,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default = "default_name")]
    name: String,
    /// `/hang`: for so long; default 60.
    seconds: Option<u64>,
    /// `/fail`: so many calls; default 1.
    times: Option<u32>,
}

fn default_name() -> String {
    "default".to_owned()
}

/// The API. Hanging calls end with 503 when shutdown is requested.
pub fn routes(shutdown: Shutdown) -> Router {
    Router::new()
        .route("/break", post(break_it))
        .route("/restart", post(restart))
        .route("/hang", get(hang).post(hang))
        .route("/fail", get(fail).post(fail))
        .route("/healthz", get(healthz))
        .route("/journal", get(journal))
        .with_state(Shared {
            testbed: Arc::default(),
            shutdown,
        })
}

async fn break_it(
    State(shared): State<Shared>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Answer<Response> {
    shared.call(Action::Break, &named, &headers).map(answer)
}

async fn restart(
    State(shared): State<Shared>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Answer<Response> {
    shared.call(Action::Restart, &named, &headers).map(answer)
}

async fn fail(
    State(shared): State<Shared>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Answer<Response> {
    shared.call(Action::Fail, &named, &headers).map(answer)
}

async fn hang(
    State(shared): State<Shared>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Answer<Response> {
    const SECONDS: u64 = 60;
    let seconds = named.seconds.unwrap_or(SECONDS);
    if seconds > HANG_SECONDS_MAX {
        return Err(Problem::bad_request(format!(
            "seconds: {HANG_SECONDS_MAX} at most"
        )));
    }
    let entry = shared.call(Action::Hang, &named, &headers)?;
    let passed = shared.shutdown.sleep(Duration::from_secs(seconds)).await;
    let status = if passed { 200 } else { 503 };
    shared.lock().answered(&named.name, entry.sequence, status);
    Ok(answer(Entry {
        status: Some(status),
        ..entry
    }))
}

async fn healthz(
    State(shared): State<Shared>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> Answer<Response> {
    if key(&headers)?.is_some() {
        return shared.call(Action::Healthz, &named, &headers).map(answer);
    }
    // Who only looks on leaves no trace: a poll would fill the journal.
    let status = if shared.lock().healthy(&named.name) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(status.into_response())
}

async fn journal(State(shared): State<Shared>, Query(named): Query<Named>) -> Json<Journal> {
    Json(shared.lock().journal(&named.name))
}

impl Shared {
    fn call(&self, action: Action, named: &Named, headers: &HeaderMap) -> Answer<Entry> {
        let (key, times) = (key(headers)?, named.times.unwrap_or(1));
        let now = OffsetDateTime::now_utc();
        self.lock()
            .call(&named.name, action, key, times, now)
            .map_err(|Full| Problem::unavailable(Full.to_string()))
    }

    fn lock(&self) -> MutexGuard<'_, Testbed> {
        self.testbed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value
        .to_str()
        .map_err(|_| Problem::bad_request("Idempotency-Key is no text"))?;
    Ok(Some(text.to_owned()))
}

fn answer(entry: Entry) -> Response {
    let status = entry
        .status
        .and_then(|code| StatusCode::from_u16(code).ok());
    (status.unwrap_or(StatusCode::OK), Json(entry)).into_response()
}
