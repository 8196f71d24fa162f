//! Gateway without DataStorage: what it answers by itself, and that it promises nothing which
//! nobody has stored.

use std::time::{Duration, Instant};

use common::{
    auth::Tokens,
    config::{DataStorageArgs, ListenArgs, Secret, TokensArgs},
    health::{DATASTORAGE, Health, Identity},
    server::{Context, Running, start},
    shutdown::Shutdown,
};
use reqwest::{Client, Response};
use serde_json::{Value, json};

const ALERTMANAGER: &str = "/api/v1/signals/alertmanager";
const WRITER: &str = "a-token-that-may-write";
const ANOTHER: &str = "another-token-that-may-write";
const READER: &str = "a-token-that-may-read";

struct Gateway {
    running: Running,
    http: Client,
}

impl Gateway {
    async fn start() -> Self {
        Self::start_letting_in(1000).await
    }

    async fn start_letting_in(messages_per_second: u32) -> Self {
        let tokens = json!({"tokens": [
            {"subject": "alertmanager", "role": "write", "token": WRITER},
            {"subject": "another", "role": "write", "token": ANOTHER},
            {"subject": "reader", "role": "read", "token": READER},
        ]});
        let configuration = gateway::Configuration {
            tokens: TokensArgs {
                tokens: Tokens::from_json(&tokens.to_string()).expect("tokens"),
            },
            datastorage: DataStorageArgs {
                datastorage_url: format!("http://{}", nobody()).parse().expect("a URL"),
                datastorage_token: Secret::new("a-token"),
            },
            cluster_name: "local".to_owned(),
            namespaces: "shop".parse().expect("a scope"),
            messages_per_second: messages_per_second.try_into().expect("not none"),
            inventory: None,
        };
        let context = Context {
            shutdown: Shutdown::new(),
            health: Health::awaiting(&[DATASTORAGE]),
        };
        let identity = Identity::new("gateway", "0.0.0", None, None);
        let build = async |context| gateway::build(configuration, context).await;
        let running = start(&ListenArgs::loopback(), identity, context, build).await;
        Self {
            running: running.expect("started"),
            http: Client::new(),
        }
    }

    async fn post(&self, token: Option<&str>, body: String) -> Response {
        let url = format!("http://{}{ALERTMANAGER}", self.running.addresses.api);
        let mut request = self
            .http
            .post(url)
            .header("Content-Type", "application/json")
            .body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.expect("an answer")
    }
}

/// An address where nobody listens: the port was free a moment ago and is not given out again
/// so soon.
fn nobody() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

fn webhook(labels: &Value) -> String {
    let alert = json!({"status": "firing", "labels": labels, "startsAt": "2026-01-02T03:04:05Z"});
    json!({"version": "4", "alerts": [alert]}).to_string()
}

#[tokio::test]
async fn nothing_is_promised_while_datastorage_is_away() {
    let gateway = Gateway::start().await;
    let known = webhook(&json!({"namespace": "shop", "deployment": "web"}));
    let nowhere = webhook(&json!({"alertname": "Watchdog"}));
    let elsewhere = webhook(&json!({"namespace": "bank", "deployment": "web"}));
    // One of them has its final answer, 400; the other one has none yet, so nothing has.
    let mixed = json!({"version": "4", "alerts": [
        {"status": "firing", "labels": {"alertname": "Watchdog"}, "startsAt": "2026-01-02T03:04:05Z"},
        {"status": "firing", "labels": {"namespace": "shop", "deployment": "web"},
         "startsAt": "2026-01-02T03:04:05Z"},
    ]});
    for body in [known, nowhere, elsewhere, "{".to_owned(), mixed.to_string()] {
        let began = Instant::now();
        let answer = gateway.post(Some(WRITER), body.clone()).await;
        assert_eq!(answer.status(), 503, "{body}");
        assert!(answer.headers().contains_key("retry-after"), "{body}");
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "408 would come first, and 408 is final"
        );
    }
    gateway.running.stop().await.expect("stopped");
}

#[tokio::test]
async fn tokens_and_bounds_come_first() {
    let gateway = Gateway::start().await;
    let body = webhook(&json!({"namespace": "shop", "deployment": "web"}));
    for (token, status) in [
        (None, 401),
        (Some("a-token-that-nobody-has"), 401),
        (Some(READER), 403),
    ] {
        let answer = gateway.post(token, body.clone()).await;
        assert_eq!(answer.status(), status);
    }
    let large = webhook(&json!({"namespace": "x".repeat(16 * 1024 * 1024)}));
    assert_eq!(gateway.post(Some(WRITER), large).await.status(), 413);
    gateway.running.stop().await.expect("stopped");
}

#[tokio::test]
async fn who_sends_too_much_at_once_is_asked_to_come_again() {
    let gateway = Gateway::start_letting_in(2).await;
    // Too large is told after the gate, and needs no DataStorage.
    let large = webhook(&json!({"namespace": "x".repeat(2 * 1024 * 1024)}));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = gateway.post(Some(WRITER), large.clone()).await;
        statuses.push(answer.status().as_u16());
        if answer.status() == 503 {
            let retry_after = &answer.headers()["retry-after"];
            assert_eq!(retry_after, "1");
            let body = answer.text().await.expect("a body");
            assert!(body.contains("`alertmanager` sends too much"), "{body}");
        }
    }
    assert_eq!(statuses, [413, 413, 503]);
    let other = gateway.post(Some(ANOTHER), large).await;
    assert_eq!(other.status(), 413, "each source is counted by itself");
    gateway.running.stop().await.expect("stopped");
}
