//! The client against a server that answers as the Kubernetes API does, and as it does not: the real
//! one is asked end to end, and cannot be told to hang.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Json, Response},
};
use common::inventory::Owner;
use kubernetes::{Kubernetes, Patience, Unanswered};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const PATIENCE: Patience = Patience {
    try_timeout: Duration::from_millis(200),
    lookup_timeout: Duration::from_millis(900),
    retries_max: 2,
};

/// What is answered for a path, one answer after the other; the last for ever.
type Script = BTreeMap<&'static str, Vec<Answer>>;

#[derive(Clone)]
enum Answer {
    Is(Value),
    Status(u16),
    Never,
}

#[derive(Clone)]
struct Server {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<String>>>,
}

async fn answer(State(server): State<Server>, Path(path): Path<String>) -> Response {
    server.asked.lock().expect("a list").push(path.clone());
    let answer = {
        let mut script = server.script.lock().expect("a script");
        match script.get_mut(path.as_str()) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => Answer::Status(404),
        }
    };
    match answer {
        Answer::Is(object) => Json(object).into_response(),
        Answer::Never => std::future::pending().await,
        Answer::Status(code) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                                "message": format!("told {code}"), "reason": "Told", "code": code});
            let code = StatusCode::from_u16(code).expect("a status code");
            (code, Json(status)).into_response()
        }
    }
}

/// A client of a server with this script, and what it was asked.
async fn serve(script: Script) -> (Kubernetes, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let server = Server {
        script: Arc::new(Mutex::new(script)),
        asked: Arc::default(),
    };
    let asked = Arc::clone(&server.asked);
    let router = Router::new()
        .route("/{*path}", axum::routing::get(answer))
        .with_state(server);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (client(address), asked)
}

fn client(address: SocketAddr) -> Kubernetes {
    let url = format!("http://{address}").parse().expect("a URL");
    Kubernetes::new(kube::Config::new(url), "local", PATIENCE).expect("a client")
}

fn object(labels: &Value, owners: &Value) -> Answer {
    Answer::Is(json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": {"name": "x", "labels": labels, "ownerReferences": owners},
    }))
}

fn owner(kind: &str, name: &str, controls: bool) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "1", "controller": controls})
}

const POD: &str = "api/v1/namespaces/shop/pods/web-1-x";
const SET: &str = "apis/apps/v1/namespaces/shop/replicasets/web-1";
const DEPLOYMENT: &str = "apis/apps/v1/namespaces/shop/deployments/web";

fn of_web() -> Script {
    let owners = json!([
        owner("ConfigMap", "other", false),
        owner("ReplicaSet", "web-1", true)
    ]);
    BTreeMap::from([
        (POD, vec![object(&json!({"app": "web"}), &owners)]),
        (
            SET,
            vec![object(
                &json!({}),
                &json!([owner("Deployment", "web", true)]),
            )],
        ),
        (DEPLOYMENT, vec![object(&json!({}), &json!([]))]),
        (
            "api/v1/namespaces/shop",
            vec![object(&json!({"environment": "production"}), &json!([]))],
        ),
    ])
}

fn names(owners: &[Owner]) -> Vec<String> {
    let names = owners.iter();
    names
        .map(|owner| format!("{} {}", owner.kind, owner.name))
        .collect()
}

#[tokio::test]
async fn labels_and_owners_are_found_up_to_the_top() {
    let (client, asked) = serve(of_web()).await;
    let labels = client
        .namespace("shop")
        .await
        .expect("an answer")
        .expect("a namespace");
    assert_eq!(labels["environment"], "production");
    let found = client
        .workload("shop", "Pod", "web-1-x")
        .await
        .expect("an answer");
    let found = found.expect("a pod");
    assert_eq!(found.labels["app"], "web");
    assert_eq!(names(&found.owners), ["ReplicaSet web-1", "Deployment web"]);
    let asked = asked.lock().expect("a list").clone();
    assert_eq!(asked, ["api/v1/namespaces/shop", POD, SET, DEPLOYMENT]);
}

#[tokio::test]
async fn what_is_not_there_is_unknown_and_what_is_no_name_is_not_asked_for() {
    let (client, asked) = serve(of_web()).await;
    assert_eq!(
        client
            .workload("shop", "Pod", "other")
            .await
            .expect("an answer"),
        None
    );
    assert_eq!(asked.lock().expect("a list").len(), 1);
    for (namespace, kind, name) in [
        ("shop", "Secret", "web"),
        ("shop", "Pod", "../secrets/web"),
        ("shop", "Pod", "web-1-x/log"),
        ("shop/pods", "Pod", "web-1-x"),
        ("..", "Pod", "web-1-x"),
    ] {
        let found = client.workload(namespace, kind, name).await;
        assert_eq!(
            found.expect("no question"),
            None,
            "{namespace} {kind} {name}"
        );
    }
    assert_eq!(
        client.namespace("shop/pods").await.expect("no question"),
        None
    );
    assert_eq!(asked.lock().expect("a list").len(), 1);
}

#[tokio::test]
async fn an_owner_of_a_foreign_kind_is_the_top_and_a_circle_ends() {
    let mut script = of_web();
    script.insert(
        SET,
        vec![object(&json!({}), &json!([owner("Rollout", "web", true)]))],
    );
    let (client, _) = serve(script).await;
    let found = client
        .workload("shop", "Pod", "web-1-x")
        .await
        .expect("an answer");
    let owners = names(&found.expect("a pod").owners);
    assert_eq!(owners, ["ReplicaSet web-1", "Rollout web"]);
    let mut script = of_web();
    script.insert(
        SET,
        vec![object(
            &json!({}),
            &json!([owner("ReplicaSet", "web-1", true)]),
        )],
    );
    let (client, _) = serve(script).await;
    let found = client
        .workload("shop", "Pod", "web-1-x")
        .await
        .expect("an answer");
    assert_eq!(names(&found.expect("a pod").owners), ["ReplicaSet web-1"]);
}

#[tokio::test]
async fn a_server_that_fails_for_a_moment_is_asked_again() {
    let mut script = of_web();
    let good = script[SET][0].clone();
    script.insert(SET, vec![Answer::Status(503), Answer::Status(429), good]);
    let (client, asked) = serve(script).await;
    let found = client
        .workload("shop", "Pod", "web-1-x")
        .await
        .expect("an answer");
    assert_eq!(found.expect("a pod").owners.len(), 2);
    let asked = asked.lock().expect("a list").clone();
    assert_eq!(asked, [POD, SET, SET, SET, DEPLOYMENT]);
}

#[tokio::test]
async fn a_missing_right_is_told_and_not_asked_for_again() {
    let mut script = of_web();
    script.insert(DEPLOYMENT, vec![Answer::Status(403)]);
    let (client, asked) = serve(script).await;
    let error = client
        .workload("shop", "Pod", "web-1-x")
        .await
        .expect_err("half a row");
    assert!(matches!(error, Unanswered::Refused(_)), "{error}");
    assert!(error.to_string().contains("told 403"), "{error}");
    assert_eq!(asked.lock().expect("a list").len(), 3);
}

#[track_caller]
fn check_away(found: Result<Option<kubernetes::Workload>, Unanswered>, began: Instant) {
    let error = found.expect_err("nobody answers");
    assert!(matches!(error, Unanswered::Away(_)), "{error}");
    let took = began.elapsed();
    assert!(
        took < PATIENCE.lookup_timeout + Duration::from_millis(500),
        "{took:?}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_costs_a_bounded_time() {
    let mut script = of_web();
    script.insert(SET, vec![Answer::Never]);
    let (hanging, asked) = serve(script).await;
    let began = Instant::now();
    check_away(hanging.workload("shop", "Pod", "web-1-x").await, began);
    assert_eq!(
        asked.lock().expect("a list").len(),
        4,
        "three tries of the second question"
    );
    let closed = {
        let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
        listener.local_addr().expect("an address")
    };
    let began = Instant::now();
    let refused = client(closed).workload("shop", "Pod", "web-1-x").await;
    let told = refused.as_ref().expect_err("nobody listens").to_string();
    assert!(told.contains("Connection refused"), "{told}");
    check_away(refused, began);
}
