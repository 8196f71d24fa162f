//! The client of Jobs against a server that answers as the Kubernetes API does, and as it does not: the
//! real one is asked end to end, and cannot be told to lose an answer.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Json, Response},
};
use kubernetes::{
    Unanswered,
    jobs::{Creation, Job, JobEnd, Jobs},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, time::Instant};

const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const ONE: &str = "/apis/batch/v1/namespaces/default/jobs/remedy-1";
const LONG: Duration = Duration::from_secs(20);

#[derive(Clone)]
enum Answer {
    Is(Value),
    Status(u16),
    /// Events of a watch, which then ends.
    Events(Vec<Value>),
    Never,
}

/// What is answered for `GET path`, one answer after the other; the last for ever.
type Script = BTreeMap<String, Vec<Answer>>;

/// A request: its method and path, its query, its body.
type Asked = Arc<Mutex<Vec<(String, String, Value)>>>;

#[derive(Clone)]
struct Server {
    script: Arc<Mutex<Script>>,
    asked: Asked,
}

async fn answer(State(server): State<Server>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let verb = match query.contains("watch=true") {
        true => "WATCH",
        false => request.method().as_str(),
    };
    let asked = format!("{verb} {}", request.uri().path());
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await;
    let body = serde_json::from_slice(&body.expect("a body")).unwrap_or_default();
    let new = (asked.clone(), query, body);
    server.asked.lock().expect("a list").push(new);
    let answer = {
        let mut script = server.script.lock().expect("a script");
        match script.get_mut(&asked) {
            Some(answers) if answers.len() > 1 => answers.remove(0),
            Some(answers) => answers[0].clone(),
            None => Answer::Status(404),
        }
    };
    match answer {
        Answer::Is(object) => Json(object).into_response(),
        Answer::Events(events) => {
            let lines = events.iter().map(|event| format!("{event}\n"));
            Body::from(lines.collect::<String>()).into_response()
        }
        Answer::Never => std::future::pending().await,
        Answer::Status(code) => {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                                "message": format!("told {code}"), "reason": "Told", "code": code});
            let code = StatusCode::from_u16(code).expect("a status code");
            (code, Json(status)).into_response()
        }
    }
}

async fn serve(script: &[(&str, &str, Vec<Answer>)]) -> (Jobs, Asked) {
    let listener = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let script = script
        .iter()
        .map(|(verb, path, answers)| (format!("{verb} {path}"), answers.clone()));
    let server = Server {
        script: Arc::new(Mutex::new(script.collect())),
        asked: Arc::default(),
    };
    let asked = Arc::clone(&server.asked);
    let router = Router::new().fallback(answer).with_state(server);
    tokio::spawn(async move { axum::serve(listener, router).await });
    let url = format!("http://{address}").parse().expect("a URL");
    (Jobs::new(kube::Config::new(url)).expect("a client"), asked)
}

fn job(version: &str, conditions: &Value) -> Value {
    json!({"kind": "Job", "apiVersion": "batch/v1", "status": {"conditions": conditions},
           "metadata": {"name": "remedy-1", "uid": "u-1", "resourceVersion": version}})
}

fn running(version: &str) -> Value {
    job(version, &json!([]))
}

fn complete(version: &str) -> Value {
    let before = json!({"type": "SuccessCriteriaMet", "status": "True"});
    job(
        version,
        &json!([before, {"type": "Complete", "status": "True"}]),
    )
}

fn read(value: Value) -> Job {
    serde_json::from_value(value).expect("a Job")
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

fn verbs(asked: &Asked) -> Vec<String> {
    let asked = asked.lock().expect("a list");
    asked.iter().map(|(asked, ..)| asked.clone()).collect()
}

#[test]
fn a_job_has_ended_when_a_condition_says_so() {
    assert_eq!(read(running("1")).end(), None);
    assert_eq!(read(complete("1")).end(), Some(JobEnd::Complete));
    // Its pods are told to end, and have not yet.
    let ending = json!([{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]);
    assert_eq!(read(job("1", &ending)).end(), None);
    let not = json!([{"type": "Failed", "status": "False"}]);
    assert_eq!(read(job("1", &not)).end(), None);
    let failed = json!([{"type": "Failed", "status": "True", "reason": "R", "message": "m"}]);
    let end = JobEnd::Failed {
        reason: "R".to_owned(),
        message: "m".to_owned(),
    };
    assert_eq!(read(job("1", &failed)).end(), Some(end));
}

#[tokio::test]
async fn a_write_is_given_up_by_the_server_before_it_is_here() {
    let answers = vec![
        Answer::Is(running("1")),
        Answer::Status(409),
        Answer::Status(403),
        Answer::Status(503),
    ];
    let (jobs, asked) = serve(&[("POST", JOBS, answers)]).await;
    let wanted = json!({"metadata": {"name": "remedy-1"}});
    let made = jobs.create(&wanted).await.expect("an answer");
    assert!(matches!(made, Creation::Made(job) if job.uid() == "u-1"));
    let taken = jobs.create(&wanted).await.expect("an answer");
    assert!(matches!(taken, Creation::Taken), "{taken:?}");
    let refused = jobs.create(&wanted).await.expect_err("refused");
    assert!(
        matches!(&refused, Unanswered::Refused(why) if why == "told 403"),
        "{refused}"
    );
    let away = jobs.create(&wanted).await.expect_err("away");
    assert!(matches!(away, Unanswered::Away(_)), "{away}");
    for (_, query, body) in asked.lock().expect("a list").iter() {
        assert!(query.split('&').any(|part| part == "timeout=3s"), "{query}");
        assert_eq!(*body, wanted);
    }
}

#[tokio::test]
async fn removed_is_the_job_of_this_id_with_its_pods_and_no_other() {
    let answers = vec![
        Answer::Is(json!({"kind": "Status", "status": "Success"})),
        Answer::Status(409),
        Answer::Status(404),
        Answer::Status(403),
    ];
    let (jobs, asked) = serve(&[("DELETE", ONE, answers)]).await;
    let job = read(running("1"));
    for _ in 0..3 {
        jobs.remove(&job).await.expect("it is gone, or another");
    }
    jobs.remove(&job).await.expect_err("refused");
    for (_, _, body) in asked.lock().expect("a list").iter() {
        assert_eq!(body["preconditions"], json!({"uid": "u-1"}));
        assert_eq!(body["propagationPolicy"], "Foreground");
    }
}

#[tokio::test]
async fn a_job_is_followed_from_what_it_is_to_its_end() {
    let events = vec![
        event("MODIFIED", &running("6")),
        event("MODIFIED", &complete("7")),
    ];
    let script = [
        ("GET", ONE, vec![Answer::Is(running("5"))]),
        ("WATCH", JOBS, vec![Answer::Events(events)]),
    ];
    let (jobs, asked) = serve(&script).await;
    let end = jobs
        .follow("remedy-1", Instant::now() + LONG, |job| job?.end())
        .await;
    assert_eq!(end.expect("an answer"), Some(JobEnd::Complete));
    assert_eq!(
        verbs(&asked),
        [format!("GET {ONE}"), format!("WATCH {JOBS}")]
    );
    let query = asked.lock().expect("a list")[1].1.clone();
    assert!(query.contains("resourceVersion=5"), "{query}");
    assert!(
        query.contains("fieldSelector=metadata.name%3Dremedy-1"),
        "{query}"
    );
}

#[tokio::test]
async fn a_watch_that_ends_is_begun_again_and_hides_nothing() {
    let too_old = json!({"kind": "Status", "status": "Failure", "code": 410, "reason": "Expired", "message": "old"});
    let script = [
        (
            "GET",
            ONE,
            vec![
                Answer::Is(running("5")),
                Answer::Status(503),
                Answer::Is(running("6")),
                Answer::Is(complete("9")),
            ],
        ),
        (
            "WATCH",
            JOBS,
            vec![
                Answer::Events(Vec::new()),
                Answer::Events(vec![event("ERROR", &too_old)]),
            ],
        ),
    ];
    let (jobs, asked) = serve(&script).await;
    let end = jobs
        .follow("remedy-1", Instant::now() + LONG, |job| job?.end())
        .await;
    assert_eq!(end.expect("an answer"), Some(JobEnd::Complete));
    let (get, watch) = (format!("GET {ONE}"), format!("WATCH {JOBS}"));
    let expected = [&get, &watch, &get, &get, &watch, &get];
    assert_eq!(verbs(&asked), expected.map(String::clone));
}

#[tokio::test]
async fn that_it_has_gone_is_seen_and_silence_ends_in_time() {
    let gone = |job: Option<&Job>| job.is_none().then_some(());
    let deleted = vec![event("DELETED", &running("6"))];
    let script = [
        ("GET", ONE, vec![Answer::Is(running("5"))]),
        ("WATCH", JOBS, vec![Answer::Events(deleted), Answer::Never]),
    ];
    let (jobs, _) = serve(&script).await;
    let seen = jobs.follow("remedy-1", Instant::now() + LONG, gone).await;
    assert_eq!(seen.expect("an answer"), Some(()));
    let began = Instant::now();
    let seen = jobs
        .follow("remedy-1", began + Duration::from_millis(300), gone)
        .await;
    assert_eq!(seen.expect("no refusal"), None);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    let (jobs, asked) = serve(&[("GET", ONE, vec![Answer::Status(403)])]).await;
    jobs.follow("remedy-1", Instant::now() + LONG, gone)
        .await
        .expect_err("refused");
    assert_eq!(verbs(&asked).len(), 1);
}

#[tokio::test]
async fn the_exit_code_is_that_of_the_container_of_its_pod() {
    let pods = |state: &Value| json!({"items": [{"status": {"containerStatuses": [{"name": "act", "state": state}]}}]});
    let answers = vec![
        Answer::Is(pods(&json!({"terminated": {"exitCode": 3}}))),
        Answer::Is(pods(&json!({"waiting": {"reason": "ErrImageNeverPull"}}))),
        Answer::Is(json!({"items": []})),
    ];
    let (jobs, asked) = serve(&[("GET", "/api/v1/namespaces/default/pods", answers)]).await;
    let job = read(running("1"));
    for expected in [Some(3), None, None] {
        assert_eq!(jobs.exit_code(&job).await.expect("an answer"), expected);
    }
    let query = asked.lock().expect("a list")[0].1.clone();
    assert!(query.contains("controller-uid%3Du-1"), "{query}");
}
