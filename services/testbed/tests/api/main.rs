//! The test bed over HTTP, in this process, on free ports.

use common::{
    config::ListenArgs,
    health::{Health, Identity},
    server::{Context, Running, start},
    shutdown::Shutdown,
};
use reqwest::{Client, Method};
use testbed::{
    Configuration,
    domain::{Action, Journal},
};

struct Bed {
    running: Running,
    http: Client,
}

impl Bed {
    async fn start() -> Self {
        let context = Context {
            shutdown: Shutdown::new(),
            health: Health::awaiting(&[]),
        };
        let identity = Identity::new("testbed", "0.0.0", None, None);
        let running = start(
            &ListenArgs::loopback(),
            identity,
            context,
            async |context| testbed::build(Configuration {}, context).await,
        )
        .await
        .expect("started");
        Self {
            running,
            http: Client::new(),
        }
    }

    async fn call(&self, method: Method, path: &str, key: Option<&str>) -> u16 {
        let url = format!("http://{}{path}", self.running.addresses.api);
        let mut request = self.http.request(method, url);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    async fn journal(&self, name: &str) -> Journal {
        let address = self.running.addresses.api;
        let url = format!("http://{address}/journal?name={name}");
        let answer = self.http.get(url).send().await.expect("an answer");
        serde_json::from_slice(&answer.bytes().await.expect("a body")).expect("a journal")
    }
}

#[tokio::test]
async fn broken_and_healed_and_written_down() {
    let bed = Bed::start().await;
    assert_eq!(bed.call(Method::POST, "/break?name=web", None).await, 200);
    assert_eq!(bed.call(Method::GET, "/healthz?name=web", None).await, 503);
    assert_eq!(bed.call(Method::GET, "/healthz?name=api", None).await, 200);
    for _ in 0..2 {
        let restarted = bed
            .call(Method::POST, "/restart?name=web", Some("e/restart"))
            .await;
        assert_eq!(restarted, 200);
    }
    assert_eq!(
        bed.call(Method::GET, "/healthz?name=web", Some("e/probe"))
            .await,
        200
    );
    let journal = bed.journal("web").await;
    let calls: Vec<_> = journal
        .entries
        .iter()
        .map(|entry| {
            (
                entry.sequence,
                entry.action,
                entry.idempotency_key.as_deref(),
                entry.effect,
            )
        })
        .collect();
    assert_eq!(
        calls,
        [
            (1, Action::Break, None, true),
            (2, Action::Restart, Some("e/restart"), true),
            (3, Action::Restart, Some("e/restart"), false),
            (4, Action::Healthz, Some("e/probe"), false),
        ]
    );
    assert!(journal.healthy);
    assert_eq!(journal.actions, 2);
    bed.running.stop().await.expect("stopped");
}

#[tokio::test]
async fn fails_as_often_as_asked() {
    let bed = Bed::start().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(
            bed.call(Method::POST, "/fail?name=web&times=2", Some("k"))
                .await,
        );
    }
    assert_eq!(statuses, [503, 503, 200]);
    assert_eq!(bed.journal("web").await.actions, 1);
}

#[tokio::test]
async fn shutdown_ends_what_hangs() {
    let bed = Bed::start().await;
    let hanging = bed.call(Method::POST, "/hang?name=web&seconds=600", Some("k"));
    let stopping = async {
        while bed.journal("web").await.entries.is_empty() {
            tokio::task::yield_now().await;
        }
        bed.running.context().shutdown.request();
    };
    let (status, ()) = tokio::join!(hanging, stopping);
    assert_eq!(status, 503);
    bed.running.ended().await.expect("ended");
}

#[tokio::test]
async fn refuses_what_it_does_not_know() {
    let bed = Bed::start().await;
    let refusals = [
        (Method::POST, "/explode?name=web", 404),
        (Method::GET, "/restart?name=web", 405),
        (Method::POST, "/restart?nam=web", 400),
        (Method::POST, "/hang?seconds=601", 400),
    ];
    for (method, path, status) in refusals {
        assert_eq!(bed.call(method, path, None).await, status, "{path}");
    }
    assert_eq!(bed.journal("web").await.entries, []);
}
