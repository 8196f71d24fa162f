//! The life of a service: what is accepted is answered, workers are waited for, bounds hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use common::auth::Tokens;
use common::config::ListenArgs;
use common::extract::Json;
use common::health::{Health, Identity};
use common::server::{self, App, Context, Limits, Running};
use common::shutdown::Shutdown;
use serde_json::{Value, json};
use tokio::sync::Notify;

const TOKEN: &str = "the-token-of-somebody";

fn limits() -> Limits {
    Limits {
        body_bytes_max: 100,
        timeout: Duration::from_millis(500),
    }
}

fn api(routes: Router) -> Router {
    let tokens = json!({"tokens": [{"subject": "somebody", "role": "read", "token": TOKEN}]});
    let tokens = Tokens::from_json(&tokens.to_string()).expect("tokens");
    server::api(routes, tokens, limits())
}

async fn started(app: App) -> Running {
    let context = Context {
        shutdown: Shutdown::new(),
        health: Health::awaiting(&[]),
    };
    let identity = Identity::new("a-service", "1.2.3", None, None);
    let build = async |_| Ok(app);
    server::start(&ListenArgs::loopback(), identity, context, build)
        .await
        .expect("started")
}

fn call(running: &Running, path: &str) -> reqwest::RequestBuilder {
    let url = format!("http://{}{path}", running.addresses.api);
    reqwest::Client::new().get(url).bearer_auth(TOKEN)
}

#[tokio::test]
async fn what_was_accepted_is_answered_while_draining() {
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, go_on) = (entered.clone(), release.clone());
    let slow = move || async move {
        inside.notify_one();
        go_on.notified().await;
        Json(json!("done"))
    };
    let worker_end = Arc::new(AtomicU32::new(0));
    let (told, end) = (worker_end.clone(), Shutdown::new());
    let worker_shutdown = end.clone();
    let routes = Router::new().route("/slow", get(slow));
    let app = App::new(server::open_api(routes, Limits::default())).with_worker(async move {
        worker_shutdown.requested().await;
        told.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let running = started(app).await;
    let (addresses, context) = (running.addresses, running.context().clone());
    let answer = tokio::spawn(call(&running, "/slow").send());
    entered.notified().await;

    let stopping = tokio::spawn(async move {
        end.request();
        running.stop().await
    });
    context.shutdown.requested().await;
    let probe = format!("http://{}/readyz", addresses.probes);
    // Readiness goes first, and the probes answer to the end.
    let patience = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        let ready = reqwest::get(&probe).await.expect("probe");
        if ready.status() == 503 {
            let body: Value = ready.json().await.expect("body");
            assert_eq!(body["draining"], true);
            break;
        }
        assert!(tokio::time::Instant::now() < patience, "still ready");
    }
    assert!(!stopping.is_finished(), "something is in flight");
    release.notify_one();
    let answer = answer.await.expect("joined").expect("answer");
    assert_eq!(answer.json::<Value>().await.expect("body"), "done");
    stopping.await.expect("joined").expect("ended well");
    assert_eq!(worker_end.load(Ordering::SeqCst), 1);
    let gone = reqwest::get(format!("http://{}/slow", addresses.api)).await;
    assert!(gone.expect_err("refused").is_connect());
}

#[tokio::test]
async fn a_connection_that_asks_nothing_keeps_nobody() {
    let running = started(App::new(Router::new())).await;
    let silent = tokio::net::TcpStream::connect(running.addresses.api).await;
    let silent = silent.expect("connected");
    let begin = tokio::time::Instant::now();
    running.stop().await.expect("ended well");
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(silent);
}

#[tokio::test]
async fn a_worker_that_ends_takes_the_service_down() {
    let failing = App::new(Router::new()).with_worker(async { anyhow::bail!("no more work") });
    let error = started(failing).await.ended().await.expect_err("failed");
    assert_eq!(error.to_string(), "no more work");
    let leaving = App::new(Router::new()).with_worker(async { Ok(()) });
    let error = started(leaving).await.ended().await.expect_err("failed");
    assert!(error.to_string().contains("too early"), "{error:#}");
    let panicking = App::new(Router::new()).with_worker(async { panic!("oh") });
    let error = started(panicking).await.ended().await.expect_err("failed");
    assert!(error.to_string().contains("panicked"), "{error:#}");
}

#[tokio::test]
async fn bounds_are_answered_as_problems() {
    let never = || std::future::pending::<Json<Value>>();
    let echo = |Json(body): Json<Value>| async { Json(body) };
    let routes = Router::new()
        .route("/never", get(never))
        .route("/echo", post(echo));
    let running = started(App::new(api(routes))).await;
    let check = async |request: reqwest::RequestBuilder, expected: u16| {
        let answer = request.send().await.expect("answer");
        assert_eq!(answer.status(), expected);
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        let problem: Value = answer.json().await.expect("problem");
        assert_eq!(problem["status"], expected);
    };
    check(call(&running, "/never"), 408).await;
    check(call(&running, "/nothing"), 404).await;
    check(call(&running, "/echo"), 405).await;
    let never = format!("http://{}/never", running.addresses.api);
    check(reqwest::Client::new().get(never), 401).await;
    let url = format!("http://{}/echo", running.addresses.api);
    let post = || reqwest::Client::new().post(&url).bearer_auth(TOKEN);
    check(post().json(&"x".repeat(100)), 413).await;
    check(post().body("{}"), 415).await;
    let good = post().json(&json!({"a": 1})).send().await.expect("answer");
    assert_eq!(good.status(), 200);
    running.stop().await.expect("ended well");
}

#[tokio::test]
async fn probes_tell_who_it_is() {
    let running = started(App::new(Router::new())).await;
    let version = format!("http://{}/version", running.addresses.probes);
    let version: Value = reqwest::get(version)
        .await
        .expect("answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(
        version,
        json!({"package": "a-service", "version": "1.2.3", "source_digest": "unknown", "rustc": "unknown"})
    );
    for path in ["healthz", "readyz"] {
        let url = format!("http://{}/{path}", running.addresses.probes);
        assert_eq!(
            reqwest::get(url).await.expect("answer").status(),
            200,
            "{path}"
        );
    }
    running.stop().await.expect("ended well");
}
