//! `/healthz`, `/readyz`, `/version` and `/metrics`. Readiness turns green when everything the
//! service depends on has answered once, and from then on it depends on the service itself alone: a
//! dependency that blinks must not take every service out of rotation, for a 503 with Retry-After
//! needs someone to send it. What the dependency is doing stands in the body and in a metric.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::api::Version;
use crate::client::DataStorage;
use crate::extract::Json;
use crate::shutdown::Shutdown;

/// What a process is, told by `/version`. Made in the service's own `main.rs`.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    package: &'static str,
    version: &'static str,
    source_digest: &'static str,
    rustc: &'static str,
}

impl Identity {
    /// `unknown` stands for what a plain `cargo run` does not know.
    #[must_use]
    pub const fn new(
        package: &'static str,
        version: &'static str,
        source_digest: Option<&'static str>,
        rustc: Option<&'static str>,
    ) -> Self {
        const fn known(value: Option<&'static str>) -> &'static str {
            match value {
                Some(value) => value,
                None => "unknown",
            }
        }
        Self {
            package,
            version,
            source_digest: known(source_digest),
            rustc: known(rustc),
        }
    }

    /// Name of the package.
    #[must_use]
    pub const fn package(&self) -> &'static str {
        self.package
    }

    /// What `/version` answers.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            package: self.package.to_owned(),
            version: self.version.to_owned(),
            source_digest: self.source_digest.to_owned(),
            rustc: self.rustc.to_owned(),
        }
    }
}

/// What a dependency did when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DependencyState {
    /// It has not answered yet.
    Awaited,
    /// It answered.
    Reachable,
    /// It answered before, and did not now.
    Unreachable,
}

/// The body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// The same as the status: 200 or 503.
    pub ready: bool,
    /// The service is going down.
    pub draining: bool,
    /// Each dependency by its name.
    pub dependencies: BTreeMap<String, DependencyState>,
}

/// The state behind `/readyz`, shared by all parts of a service.
#[derive(Clone, Debug)]
pub struct Health(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Told when readiness may have turned.
    turned: Notify,
}

#[derive(Debug)]
struct Inner {
    starting: bool,
    draining: bool,
    dependencies: BTreeMap<&'static str, Dependency>,
}

#[derive(Debug)]
struct Dependency {
    state: DependencyState,
    answered_at: Option<Instant>,
}

impl Dependency {
    const AWAITED: Self = Self {
        state: DependencyState::Awaited,
        answered_at: None,
    };

    fn turn(&mut self, name: &'static str, state: DependencyState) {
        let up = state == DependencyState::Reachable;
        metrics::gauge!("dependency_up", "dependency" => name).set(if up { 1.0 } else { 0.0 });
        if self.state != state {
            self.state = state;
            tracing::info!(dependency = name, ?state, "dependency changed");
        }
    }
}

impl Inner {
    fn of(&mut self, dependency: &'static str) -> &mut Dependency {
        self.dependencies
            .entry(dependency)
            .or_insert(Dependency::AWAITED)
    }
}

impl Health {
    /// Not ready before [`Health::started`] and before each of these has answered once.
    #[must_use]
    pub fn awaiting(dependencies: &[&'static str]) -> Self {
        let awaited = |name: &&'static str| (*name, Dependency::AWAITED);
        let inner = Inner {
            starting: true,
            draining: false,
            dependencies: dependencies.iter().map(awaited).collect(),
        };
        Self(Arc::new(Shared {
            inner: Mutex::new(inner),
            turned: Notify::new(),
        }))
    }

    /// The service answers.
    pub(crate) fn started(&self) {
        self.lock().starting = false;
        self.0.turned.notify_waiters();
    }

    /// The service is going down: not ready from now on.
    pub fn drain(&self) {
        self.lock().draining = true;
        self.0.turned.notify_waiters();
    }

    /// The dependency answered, whoever asked.
    pub fn answered(&self, dependency: &'static str) {
        let mut inner = self.lock();
        let entry = inner.of(dependency);
        entry.answered_at = Some(Instant::now());
        entry.turn(dependency, DependencyState::Reachable);
        drop(inner);
        self.0.turned.notify_waiters();
    }

    /// A question that was put at this time was not answered. One put before the last answer says
    /// nothing of how it is now, however long it took to fail.
    pub fn unanswered(&self, dependency: &'static str, asked_at: Instant) {
        let mut inner = self.lock();
        let entry = inner.of(dependency);
        match entry.answered_at {
            None => entry.turn(dependency, DependencyState::Awaited),
            Some(answered_at) if answered_at >= asked_at => {}
            Some(_) => entry.turn(dependency, DependencyState::Unreachable),
        }
    }

    /// What the dependency did when it was last asked.
    #[must_use]
    pub fn state(&self, dependency: &'static str) -> DependencyState {
        self.lock().of(dependency).state
    }

    /// What `/readyz` says now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let inner = self.lock();
        let answered = |dependency: &Dependency| dependency.answered_at.is_some();
        let own = |(name, dependency): (&&'static str, &Dependency)| {
            ((*name).to_owned(), dependency.state)
        };
        Readiness {
            ready: !inner.starting && !inner.draining && inner.dependencies.values().all(answered),
            draining: inner.draining,
            dependencies: inner.dependencies.iter().map(own).collect(),
        }
    }

    /// As [`Health::readiness`]; while the service is starting, as soon as it is ready, or when this
    /// time is over.
    async fn readiness_within(&self, patience: Duration) -> Readiness {
        let ready = async {
            loop {
                // Before the look: what turns after it is heard.
                let turned = self.0.turned.notified();
                let readiness = self.readiness();
                if readiness.ready || readiness.draining {
                    return readiness;
                }
                turned.await;
            }
        };
        match tokio::time::timeout(patience, ready).await {
            Ok(readiness) => readiness,
            Err(_) => self.readiness(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of DataStorage in readiness and metrics.
pub const DATASTORAGE: &str = "datastorage";

/// How long the first question to what may not be there yet is waited for. A network that does not
/// know a new pod yet drops its first packet, and the kernel sends another after a second.
pub const FIRST_PATIENCE: Duration = Duration::from_millis(300);

/// Asks DataStorage again and again until shutdown, and tells `health`. Each question that is not
/// answered is waited for twice as long as the one before it.
pub async fn watch_datastorage(client: DataStorage, health: Health, shutdown: Shutdown) {
    const AWAITED: Duration = Duration::from_millis(100);
    const ANSWERED: Duration = Duration::from_secs(2);
    const PATIENCE_MAX: Duration = Duration::from_secs(10);
    let mut patience = FIRST_PATIENCE;
    loop {
        let asked_at = Instant::now();
        let asking = tokio::time::timeout(patience, client.ping());
        let pause = match shutdown.unless_requested(asking).await {
            Some(Ok(Ok(()))) => {
                health.answered(DATASTORAGE);
                patience = PATIENCE_MAX;
                ANSWERED
            }
            Some(unanswered) => {
                tracing::debug!(?unanswered, "DataStorage does not answer");
                health.unanswered(DATASTORAGE, asked_at);
                patience = PATIENCE_MAX.min(patience * 2);
                AWAITED
            }
            None => return,
        };
        if !shutdown.sleep(pause).await {
            return;
        }
    }
}

/// The routes of the probe listener.
pub fn probe_routes(health: Health, identity: Identity) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|| async { Json(serde_json::json!({"alive": true})) }),
        )
        .route("/readyz", get(readyz))
        .with_state(health)
        .route(
            "/version",
            get(move || std::future::ready(Json(identity.version()))),
        )
}

/// A kubelet asks again after a second at the earliest, and who is not ready yet will mostly be so
/// before: the answer waits for it, for less than the timeout of the shortest probe.
const PATIENCE: Duration = Duration::from_millis(700);

async fn readyz(State(health): State<Health>) -> Response {
    let readiness = health.readiness_within(PATIENCE).await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

/// The routes of the metrics listener.
pub fn metrics_routes() -> Router {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    let answer = move || async move {
        (
            [(header::CONTENT_TYPE, content_type)],
            crate::metrics::render(),
        )
    };
    Router::new().route("/metrics", get(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_after_the_first_answer_and_through_a_blip() {
        let health = Health::awaiting(&["database"]);
        health.answered("database");
        assert!(!health.readiness().ready, "not started");
        health.started();
        assert!(health.readiness().ready);
        health.unanswered("database", Instant::now());
        let readiness = health.readiness();
        assert!(readiness.ready);
        assert_eq!(
            readiness.dependencies["database"],
            DependencyState::Unreachable
        );
        health.drain();
        assert!(!health.readiness().ready);
    }

    #[test]
    fn not_ready_while_a_dependency_is_awaited() {
        let health = Health::awaiting(&["database"]);
        health.started();
        health.unanswered("database", Instant::now());
        assert_eq!(
            health.readiness().dependencies["database"],
            DependencyState::Awaited
        );
        assert!(!health.readiness().ready);
    }

    /// So long that no test waits for it.
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn who_asks_while_it_starts_is_answered_when_it_is_ready() {
        let health = Health::awaiting(&["database"]);
        health.started();
        let asked = tokio::spawn({
            let health = health.clone();
            async move { health.readiness_within(LONG).await }
        });
        tokio::task::yield_now().await;
        assert!(!asked.is_finished());
        health.answered("database");
        assert!(asked.await.expect("a readiness").ready);
    }

    #[tokio::test]
    async fn an_answer_does_not_wait_for_ever_nor_for_who_goes_down() {
        let health = Health::awaiting(&["database"]);
        let readiness = health.readiness_within(Duration::from_millis(10)).await;
        assert!(!readiness.ready);
        health.drain();
        assert!(health.readiness_within(LONG).await.draining);
    }

    #[test]
    fn a_question_put_before_an_answer_says_nothing_after_it() {
        let health = Health::awaiting(&["database"]);
        let asked_at = Instant::now();
        health.answered("database");
        health.unanswered("database", asked_at);
        assert_eq!(health.state("database"), DependencyState::Reachable);
        health.unanswered("database", Instant::now());
        assert_eq!(health.state("database"), DependencyState::Unreachable);
    }
}
