//! Steps that run Jobs, against a server that keeps them as the Kubernetes API does and loses answers,
//! which the real one cannot be told to do. What is made, and how often, is counted there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Json, Response};
use common::api::{Execution, ExecutionFailure};
use kubernetes::jobs::Jobs;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use workflowexecution::call::Made;
use workflowexecution::domain::{JobStep, idempotency_key};
use workflowexecution::job::{self, Order};

const OURS: &str = "6d0f4e0a-0000-4000-8000-000000000001";
const OTHER: &str = "6d0f4e0a-0000-4000-8000-000000000002";

/// What becomes of a wish to make a Job that could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Post {
    Made,
    MadeAndNotTold,
    NotMade,
}

/// What becomes of a Job that was made, at the second look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Completes,
    IsRemoved,
}

#[derive(Clone)]
struct Api(Arc<Mutex<Cluster>>);

struct Cluster {
    posts: Vec<Post>,
    fate: Fate,
    job: Option<Value>,
    looks: usize,
    made: Vec<Value>,
    removed: Vec<String>,
    requests: usize,
}

impl Api {
    fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().expect("no panic")
    }
}

impl Cluster {
    fn answer(&mut self, method: &Method, path: &str, body: &Value) -> Response {
        self.requests += 1;
        let is_one = path.contains("/jobs/");
        match (method.as_str(), is_one) {
            ("GET", true) => self.get(),
            ("DELETE", true) => self.delete(body),
            ("POST", false) => self.post(body),
            // A watch that ends at once has the Job asked for again.
            ("GET", false) if path.ends_with("/jobs") => ().into_response(),
            ("GET", false) if path.ends_with("/podtemplates/act") => {
                Json(template()).into_response()
            }
            ("GET", false) if path.ends_with("/pods") => Json(json!({"items": []})).into_response(),
            _ => status(404),
        }
    }

    fn get(&mut self) -> Response {
        let Some(job) = &mut self.job else {
            return status(404);
        };
        self.looks += usize::from(!self.made.is_empty());
        if self.looks > 1 && self.fate == Fate::IsRemoved {
            self.job = None;
            return status(404);
        }
        if self.looks > 1 {
            job["status"] = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        }
        Json(job.clone()).into_response()
    }

    fn post(&mut self, body: &Value) -> Response {
        if self.job.is_some() {
            return status(409);
        }
        let post = match self.posts.len() {
            1 => self.posts[0],
            _ => self.posts.remove(0),
        };
        if post == Post::NotMade {
            return status(503);
        }
        let mut job = body.clone();
        job["metadata"]["uid"] = json!(format!("made-{}", self.made.len()));
        job["metadata"]["resourceVersion"] = json!("1");
        self.made.push(job.clone());
        self.job = Some(job.clone());
        match post {
            Post::Made => Json(job).into_response(),
            _ => status(504),
        }
    }

    fn delete(&mut self, body: &Value) -> Response {
        let Some(job) = &self.job else {
            return status(404);
        };
        if job["metadata"]["uid"] != body["preconditions"]["uid"] {
            return status(409);
        }
        self.removed.push(
            job["metadata"]["uid"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        );
        self.job = None;
        Json(json!({"kind": "Status", "status": "Success"})).into_response()
    }
}

fn status(code: u16) -> Response {
    let told = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                      "message": format!("told {code}"), "reason": "Told", "code": code});
    let code = StatusCode::from_u16(code).expect("a status code");
    (code, Json(told)).into_response()
}

fn template() -> Value {
    let container = json!({"name": "act", "image": "testbed:1", "args": ["act"],
                           "env": [{"name": "IDEMPOTENCY_KEY", "value": "fixed"}, {"name": "A", "value": "b"}]});
    json!({
        "metadata": {"name": "act", "labels": {"run": "r-1"}},
        "template": {
            "metadata": {"labels": {"app": "act"}, "annotations": {"note": "kept"}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 600, "newField": {"a": 1}},
        },
    })
}

async fn serve(posts: &[Post], fate: Fate, job: Option<Value>) -> (Jobs, Api) {
    async fn answer(State(api): State<Api>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let body = serde_json::from_slice(&body).unwrap_or_default();
        api.lock().answer(&parts.method, parts.uri.path(), &body)
    }
    let cluster = Cluster {
        posts: posts.to_vec(),
        fate,
        job,
        looks: 0,
        made: Vec::new(),
        removed: Vec::new(),
        requests: 0,
    };
    let api = Api(Arc::new(Mutex::new(cluster)));
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = Router::new().fallback(answer).with_state(api.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let url = format!("http://{address}").parse().expect("a URL");
    (Jobs::new(kube::Config::new(url)).expect("a client"), api)
}

fn execution() -> Execution {
    let workflow = json!({"name": "w", "version": "1", "labels": {},
                          "steps": [{"name": "act", "job": {"template": "act"}}]});
    let execution = json!({
        "id": OURS, "resource_version": 1, "request_id": OTHER, "attempt": 1, "phase": "Running",
        "target": {"cluster": "c", "namespace": "n", "kind": "Deployment", "name": "web"},
        "workflow": workflow, "workflow_digest": "", "parameters": {}, "steps": [], "failure": null,
        "holder": "h", "deadline": "2026-11-23T18:00:10Z",
        "created_at": "2026-11-23T17:00:00Z", "updated_at": "2026-11-23T17:00:00Z",
    });
    serde_json::from_value(execution).expect("an execution")
}

fn step(template: &str) -> JobStep {
    JobStep {
        name: "act".to_owned(),
        template: template.to_owned(),
        args: vec!["restart".to_owned(), "--name=$(A) $$".to_owned()],
        deadline: Duration::from_secs(30),
    }
}

async fn run(jobs: &Jobs, step: &JobStep, left: Duration) -> Made {
    let execution = execution();
    let key = idempotency_key(execution.id, &step.name);
    let order = Order {
        execution: &execution,
        step,
        key: &key,
    };
    job::run(Some(jobs), order, Instant::now() + left).await
}

/// A Job that stands there already, of this execution if of any, ended or not.
fn standing(execution: Option<&str>, step: &str, has_ended: bool) -> Value {
    let labels: BTreeMap<_, _> = execution
        .map(|id| ("phase-zero.dev/execution", id))
        .into_iter()
        .collect();
    let conditions = match has_ended {
        true => json!([{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]),
        false => json!([]),
    };
    json!({
        "metadata": {"name": execution_job_name(), "uid": "stood", "resourceVersion": "1", "labels": labels,
                     "annotations": {"phase-zero.dev/step": step}},
        "status": {"conditions": conditions},
    })
}

fn execution_job_name() -> String {
    execution().target.job_name()
}

const TIME: Duration = Duration::from_secs(120);

#[track_caller]
fn check(made: &Made, expected: Option<(&str, bool)>) {
    let failure = made.failure.as_ref();
    let found = failure
        .map(|failure: &ExecutionFailure| (failure.reason.as_str(), failure.was_execution_failure));
    assert_eq!(found, expected, "{made:#?}");
}

#[tokio::test]
async fn what_is_made_is_what_the_template_says_and_goes_again() {
    let (jobs, api) = serve(&[Post::Made], Fate::Completes, None).await;
    let made = run(&jobs, &step("act"), TIME).await;
    check(&made, None);
    assert_eq!(
        (made.result.exit_code, made.result.tries, made.touched),
        (Some(0), 1, true)
    );
    let cluster = api.lock();
    assert_eq!(cluster.removed, ["made-0"]);
    let job = &cluster.made[0];
    assert_eq!(job["metadata"]["name"], execution_job_name());
    assert_eq!(job["metadata"]["labels"]["run"], "r-1");
    let spec = &job["spec"];
    assert_eq!(
        (&spec["backoffLimit"], &spec["activeDeadlineSeconds"]),
        (&json!(0), &json!(30))
    );
    assert!(spec["ttlSecondsAfterFinished"].is_number());
    let pod = &spec["template"];
    assert_eq!(pod["metadata"]["labels"]["app"], "act");
    assert_eq!(pod["metadata"]["labels"]["phase-zero.dev/execution"], OURS);
    assert_eq!(pod["metadata"]["annotations"], json!({"note": "kept"}));
    let pod = &pod["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["terminationGracePeriodSeconds"], 5);
    // What this program knows nothing of is not lost.
    assert_eq!(pod["newField"], json!({"a": 1}));
    let container = &pod["containers"][0];
    assert_eq!(container["image"], "testbed:1");
    // Kubernetes makes $ of $$, and nothing of ours is a variable to it.
    assert_eq!(
        container["args"],
        json!(["act", "restart", "--name=$$(A) $$$$"])
    );
    let key = json!({"name": "IDEMPOTENCY_KEY", "value": format!("{OURS}/act")});
    assert_eq!(container["env"], json!([{"name": "A", "value": "b"}, key]));
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_job() {
    let (jobs, api) = serve(&[Post::MadeAndNotTold], Fate::Completes, None).await;
    check(&run(&jobs, &step("act"), TIME).await, None);
    assert_eq!(api.lock().made.len(), 1);
    assert_eq!(api.lock().removed, ["made-0"]);
    let (jobs, api) = serve(&[Post::NotMade, Post::Made], Fate::Completes, None).await;
    check(&run(&jobs, &step("act"), TIME).await, None);
    assert_eq!(api.lock().made.len(), 1);
}

#[tokio::test]
async fn a_job_that_somebody_removed_is_not_made_again() {
    let (jobs, api) = serve(&[Post::Made], Fate::IsRemoved, None).await;
    check(
        &run(&jobs, &step("act"), TIME).await,
        Some(("step_failed", true)),
    );
    assert_eq!(api.lock().made.len(), 1);
}

#[tokio::test]
async fn what_an_ended_execution_left_goes_first_if_it_has_ended() {
    // Also what an earlier step of this execution could not remove.
    for left in [
        standing(Some(OTHER), "act", true),
        standing(Some(OURS), "earlier", true),
    ] {
        let (jobs, api) = serve(&[Post::Made], Fate::Completes, Some(left)).await;
        check(&run(&jobs, &step("act"), TIME).await, None);
        assert_eq!(api.lock().removed, ["stood", "made-0"]);
    }
}

#[tokio::test]
async fn what_runs_or_is_of_no_execution_is_not_touched() {
    for busy in [
        standing(Some(OTHER), "act", false),
        standing(None, "act", false),
        standing(None, "act", true),
    ] {
        let (jobs, api) = serve(&[Post::Made], Fate::Completes, Some(busy.clone())).await;
        let made = run(&jobs, &step("act"), TIME).await;
        check(&made, Some(("target_busy", false)));
        assert!(!made.touched);
        let cluster = api.lock();
        assert_eq!(
            (&cluster.removed, &cluster.made),
            (&Vec::new(), &Vec::new())
        );
        assert_eq!(cluster.job.as_ref(), Some(&busy));
    }
}

#[tokio::test]
async fn nothing_is_sent_when_the_deadline_has_passed_or_leaves_too_little() {
    let (jobs, api) = serve(&[Post::Made], Fate::Completes, None).await;
    check(
        &run(&jobs, &step("act"), Duration::ZERO).await,
        Some(("deadline_exceeded", false)),
    );
    assert_eq!(api.lock().requests, 0);
    // What would end after the deadline is not begun.
    check(
        &run(&jobs, &step("act"), Duration::from_secs(10)).await,
        Some(("deadline_exceeded", false)),
    );
    assert_eq!(api.lock().made.len(), 0);
    // What is made ends before.
    check(
        &run(&jobs, &step("act"), Duration::from_secs(25)).await,
        None,
    );
    let seconds = api.lock().made[0]["spec"]["activeDeadlineSeconds"].as_u64();
    assert!(
        seconds.is_some_and(|seconds| (1..=9).contains(&seconds)),
        "{seconds:?}"
    );
}

#[tokio::test]
async fn a_template_that_is_not_there_is_told() {
    let (jobs, api) = serve(&[Post::Made], Fate::Completes, None).await;
    let made = run(&jobs, &step("other"), TIME).await;
    check(&made, Some(("no_such_template", false)));
    assert_eq!(api.lock().made.len(), 0);
}
