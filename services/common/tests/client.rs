//! The DataStorage client against a server that misbehaves by a script.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use common::api::{PatchRemediationRequest, WorkflowQuery};
use common::client::{ClientError, DataStorage, Patience};
use common::config::Secret;
use common::problem::Problem;
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;

fn patience() -> Patience {
    Patience {
        try_timeout: Duration::from_millis(300),
        call_timeout: Duration::from_secs(3),
        retries_max: 3,
    }
}

/// A server that gives these answers one after the other, the last one for ever. Tells how often
/// it was asked.
async fn scripted(answers: Vec<fn() -> Response>) -> (DataStorage, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let answer = move || async move {
        let index = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
        answers[index]()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let routes = Router::new().fallback(answer);
    tokio::spawn(axum::serve(listener, routes).into_future());
    (client(&address.to_string()), asked)
}

fn client(address: &str) -> DataStorage {
    let base = format!("http://{address}").parse().expect("URL");
    DataStorage::with_patience(&base, &Secret::new("token"), patience()).expect("client")
}

fn empty() -> Response {
    axum::Json(json!({"items": []})).into_response()
}

fn away() -> Response {
    Problem::unavailable("the database is away").into_response()
}

async fn check(answers: Vec<fn() -> Response>, expected: Option<u16>, tries: usize) {
    let (client, asked) = scripted(answers).await;
    let result = client.workflows(&WorkflowQuery::default()).await;
    assert_eq!(
        result.as_ref().err().and_then(ClientError::status),
        expected,
        "{result:?}"
    );
    assert_eq!(result.is_ok(), expected.is_none(), "{result:?}");
    assert_eq!(asked.load(Ordering::SeqCst), tries, "{result:?}");
}

#[tokio::test]
async fn what_passes_is_tried_again_and_nothing_else() {
    check(
        vec![away, || StatusCode::BAD_GATEWAY.into_response(), empty],
        None,
        3,
    )
    .await;
    check(
        vec![|| StatusCode::GATEWAY_TIMEOUT.into_response(), empty],
        None,
        2,
    )
    .await;
    check(vec![away], Some(503), 4).await;
    check(
        vec![|| StatusCode::INTERNAL_SERVER_ERROR.into_response(), empty],
        Some(500),
        1,
    )
    .await;
    check(
        vec![|| Problem::conflict("no").into_response(), empty],
        Some(409),
        1,
    )
    .await;
    check(
        vec![|| Problem::timeout("slow").into_response(), empty],
        Some(408),
        1,
    )
    .await;
}

#[tokio::test]
async fn a_problem_is_told_with_all_it_says() {
    let answer = || {
        Problem::unavailable("away")
            .with("holder", "x")
            .retry_after(Duration::from_secs(7))
            .into_response()
    };
    let (client, _) = scripted(vec![answer]).await;
    match client.workflows(&WorkflowQuery::default()).await {
        Err(ClientError::Problem {
            status: 503,
            detail,
            extensions,
            retry_after,
        }) => {
            assert_eq!(
                (detail.as_str(), retry_after),
                ("away", Some(Duration::from_secs(7)))
            );
            assert_eq!(extensions["holder"], "x");
        }
        other => panic!("a problem expected: {other:?}"),
    }
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_temporary() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    drop(listener);
    let error = client(&address).workflows(&WorkflowQuery::default()).await;
    let error = error.expect_err("nobody is there");
    assert!(
        matches!(error, ClientError::Unreachable(_)) && error.is_temporary(),
        "{error}"
    );
}

#[tokio::test]
async fn a_reset_connection_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    let serving = tokio::spawn(async move {
        drop(listener.accept().await.expect("the first"));
        axum::serve(listener, Router::new().fallback(|| async { empty() })).await
    });
    client(&address)
        .workflows(&WorkflowQuery::default())
        .await
        .expect("the second try");
    serving.abort();
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_not_asked_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    let begin = tokio::time::Instant::now();
    let error = client(&address).workflows(&WorkflowQuery::default()).await;
    let error = error.expect_err("silence");
    assert!(matches!(error, ClientError::Unreachable(_)), "{error}");
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    drop(listener);
}

#[tokio::test]
async fn an_answer_that_is_no_json_is_not_understood() {
    let (client, _) = scripted(vec![|| "hello".into_response()]).await;
    let error = client
        .workflows(&WorkflowQuery::default())
        .await
        .expect_err("nonsense");
    assert!(
        matches!(error, ClientError::NotUnderstood(_)) && !error.is_temporary(),
        "{error}"
    );
}

#[tokio::test]
async fn a_write_carries_token_version_and_the_same_body_each_time() {
    type Seen = Arc<std::sync::Mutex<Vec<(HeaderMap, String)>>>;
    let seen = Seen::default();
    let record = seen.clone();
    let answer = move |headers: HeaderMap, body: String| async move {
        record.lock().expect("lock").push((headers, body));
        away()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(axum::serve(listener, Router::new().fallback(answer)).into_future());
    let patch = PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        ..Default::default()
    };
    let error = client(&address)
        .patch_request(Uuid::nil(), 7, &patch)
        .await
        .expect_err("away");
    assert_eq!(error.status(), Some(503));
    let seen = seen.lock().expect("lock");
    assert_eq!(seen.len(), 4);
    for (headers, body) in seen.iter() {
        assert_eq!(headers["authorization"], "Bearer token");
        assert_eq!(headers["if-match"], "7");
        assert_eq!(body, &seen[0].1);
    }
}
