//! The edge of the API: tokens, roles, media types, sizes, unknown things; probes and metrics.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::helpers::{Service, answer, event, new_request};

#[track_caller]
fn check(actual: (StatusCode, Value), expected: u16, says: &str) {
    let (status, body) = actual;
    assert_eq!(
        (status.as_u16(), &body["status"]),
        (expected, &json!(expected)),
        "{body}"
    );
    let detail = body["detail"].as_str().expect("a detail");
    assert!(detail.contains(says), "`{detail}` does not say `{says}`");
}

#[tokio::test]
async fn nobody_comes_in_without_a_token() {
    let service = Service::start().await;
    let path = "/api/v1/workflows";
    check(answer(service.anonymous(path)).await, 401, "no token");
    check(
        answer(service.anonymous(path).bearer_auth("something-else")).await,
        401,
        "not known",
    );
    check(
        answer(service.anonymous(path).basic_auth("gateway", Some("x"))).await,
        401,
        "no token",
    );
    let response = service.anonymous(path).send().await.expect("answer");
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    service.stop().await;
}

#[tokio::test]
async fn roles_are_kept_apart() {
    let service = Service::start().await;
    for subject in ["reader", "approver"] {
        let get = service.call(subject, Method::GET, "/api/v1/workflows");
        assert_eq!(answer(get).await.0, StatusCode::OK);
        // The role is judged before the body is looked at.
        let post = service
            .call(subject, Method::POST, "/api/v1/audit/events")
            .json(&json!("nonsense"));
        check(answer(post).await, 403, "needs write");
    }
    let post = service
        .call("admin", Method::POST, "/api/v1/audit/events")
        .json(&event("admin"));
    assert_eq!(answer(post).await.0, StatusCode::CREATED);
    service.stop().await;
}

#[tokio::test]
async fn what_is_not_understood_is_named() {
    let service = Service::start().await;
    let post = |body: &str| {
        let post = service.call("gateway", Method::POST, "/api/v1/remediation-requests");
        post.header("content-type", "application/json")
            .body(body.to_owned())
    };
    check(answer(post("{")).await, 400, "EOF");
    check(answer(post(r#"{"colour":1}"#)).await, 400, "colour");
    let mut new = json!(new_request("web"));
    new["target"]["zone"] = json!("a");
    check(answer(post(&new.to_string())).await, 400, "zone");
    let mut new = json!(new_request("web"));
    new["severity"] = json!("terrible");
    check(answer(post(&new.to_string())).await, 400, "severity");
    let mut new = json!(new_request("web"));
    new["fingerprint"] = json!("short");
    check(answer(post(&new.to_string())).await, 400, "fingerprint");
    let text = service
        .call("gateway", Method::POST, "/api/v1/remediation-requests")
        .body("{}");
    check(answer(text).await, 415, "application/json");
    check(
        answer(service.call("reader", Method::GET, "/api/v1/nothing")).await,
        404,
        "no such resource",
    );
    check(
        answer(service.call("reader", Method::DELETE, "/api/v1/workflows")).await,
        405,
        "method",
    );
    check(
        answer(service.call("reader", Method::GET, "/api/v1/remediation-requests/x")).await,
        400,
        "x",
    );
    let unconditional = service.call(
        "gateway",
        Method::PATCH,
        "/api/v1/remediation-requests/0197a000-0000-7000-8000-000000000001",
    );
    check(
        answer(unconditional.json(&json!({}))).await,
        428,
        "If-Match",
    );
    service.stop().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let service = Service::start().await;
    let large = |path: &str, bytes: usize| {
        let post = service.call("gateway", Method::POST, path);
        post.json(&json!({"x": "x".repeat(bytes)}))
    };
    check(
        answer(large("/api/v1/remediation-requests", 1024 * 1024)).await,
        413,
        "too large",
    );
    check(
        answer(large("/api/v1/audit/events/batch", 8 * 1024 * 1024)).await,
        413,
        "too large",
    );
    // Still read, and then refused for what it is.
    check(
        answer(large("/api/v1/audit/events/batch", 7 * 1024 * 1024)).await,
        400,
        "unknown field `x`",
    );
    service.stop().await;
}

#[tokio::test]
async fn probes_and_metrics_are_open() {
    let service = Service::start().await;
    assert_eq!(service.probe("/healthz").await.0, StatusCode::OK);
    let (status, version) = service.probe("/version").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        version,
        json!({"package": "datastorage", "version": "0.0.0", "source_digest": "digest", "rustc": "unknown"})
    );
    answer(service.call("reader", Method::GET, "/api/v1/audit/chains/unheard")).await;
    let metrics = service.metrics().await;
    let line = r#"http_requests_total{method="GET",route="/api/v1/audit/chains/{correlation_id}",status="404"}"#;
    assert!(metrics.contains(line), "{metrics}");
    service.stop().await;
}
