//! Gateway over HTTP, in this process, with DataStorage as it is.

mod stack;

use common::{
    api::{
        AuditQuery, NewExecution, NewWorkflow, PatchRemediationRequest, RemediationRequest,
        RequestQuery, Severity,
    },
    client::DataStorage,
    health::DATASTORAGE,
    inventory::LiveInventory,
    server::Running,
    transitions::RequestPhase,
};
use reqwest::Client;
use serde_json::{Value, json};
use stack::{Storage, token_of};
use tokio::task::JoinSet;
use uuid::Uuid;

const INVENTORY: &str = r#"{"workloads": [
    {"namespace": "shop", "kind": "Pod", "name": "web-*", "owner": {"kind": "Deployment", "name": "web"}}
]}"#;

struct Stack {
    storage: Storage,
    gateway: Running,
    http: Client,
}

impl Stack {
    async fn start() -> Self {
        let storage = Storage::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let inventory = directory.path().join("inventory.json");
        std::fs::write(&inventory, INVENTORY).expect("written");
        let configuration = gateway::Configuration {
            tokens: stack::tokens(),
            datastorage: storage.args("gateway"),
            cluster_name: "local".to_owned(),
            namespaces: "shop,shop-*".parse().expect("a scope"),
            messages_per_second: 1000.try_into().expect("not none"),
            inventory: Some(
                LiveInventory::from_file(&inventory.to_string_lossy()).expect("an inventory"),
            ),
        };
        let gateway = stack::run("gateway", &[DATASTORAGE], async |context| {
            gateway::build(configuration, context).await
        });
        Self {
            gateway: gateway.await,
            storage,
            http: Client::new(),
        }
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("http://{}{path}", self.gateway.addresses.api);
        let answer = self
            .http
            .post(url)
            .bearer_auth(token_of("alertmanager"))
            .json(body)
            .send()
            .await
            .expect("an answer");
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("JSON"))
    }

    async fn send(&self, alerts: &[Value]) -> (u16, Value) {
        let webhook = json!({"version": "4", "groupKey": "g", "receiver": "r", "alerts": alerts});
        self.post("/api/v1/signals/alertmanager", &webhook).await
    }

    async fn requests(&self) -> Vec<RemediationRequest> {
        let query = RequestQuery::default();
        let client = self.storage.client("reader");
        client.requests(&query).await.expect("a list").items
    }

    /// Types of gateway's events in one chain, which must be intact.
    async fn types(&self, chain: &str) -> Vec<String> {
        let client = self.storage.client("reader");
        let verdict = client.chain(chain).await.expect("a verdict");
        assert!(verdict.intact, "{verdict:?}");
        let query = AuditQuery {
            correlation_id: Some(chain.to_owned()),
            event_category: Some("gateway".to_owned()),
            ..AuditQuery::default()
        };
        let events = client.audit_events(&query).await.expect("events").events;
        let types = events.into_iter().map(|stored| stored.event.event_type);
        types.collect()
    }
}

/// An alert about `pod` in `shop` that began in this second of a minute.
fn alert(status: &str, pod: &str, second: u32) -> Value {
    json!({
        "status": status,
        "labels": {"alertname": "A", "severity": "warning", "namespace": "shop", "pod": pod},
        "annotations": {"summary": "s"},
        "startsAt": format!("2026-01-02T03:04:{second:02}Z"),
        "endsAt": "0001-01-01T00:00:00Z",
    })
}

fn id_of(answer: &Value) -> Uuid {
    let id = answer["request_id"].as_str().expect("a request");
    id.parse().expect("an ID")
}

async fn step(
    client: &DataStorage,
    request: &RemediationRequest,
    phase: RequestPhase,
) -> RemediationRequest {
    let patch = PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        phase: Some(phase),
        ..PatchRemediationRequest::default()
    };
    let patched = client.patch_request(request.id, request.resource_version, &patch);
    patched.await.expect("patched")
}

#[tokio::test]
async fn a_signal_is_created_counted_and_resent() {
    let stack = Stack::start().await;
    let (status, first) = stack.send(&[alert("firing", "web-1", 1)]).await;
    assert_eq!((status, &first["outcome"]), (201, &json!("created")));
    let (status, again) = stack.send(&[alert("firing", "web-1", 1)]).await;
    assert_eq!((status, &again["occurrence_count"]), (202, &json!(1)));
    let (status, other) = stack.send(&[alert("firing", "web-2", 1)]).await;
    assert_eq!((status, &other["occurrence_count"]), (202, &json!(2)));
    assert_eq!(other["request_id"], first["request_id"]);

    let requests = stack.requests().await;
    assert_eq!(requests.len(), 1, "{requests:#?}");
    assert_eq!(requests[0].target.kind, "Deployment");
    assert_eq!(requests[0].severity, Severity::Warning);
    let types = stack.types(&requests[0].id.to_string()).await;
    assert_eq!(
        types,
        ["gateway.signal.received", "gateway.signal.deduplicated"]
    );
}

#[tokio::test]
async fn many_at_once_make_one() {
    let stack = std::sync::Arc::new(Stack::start().await);
    let mut senders = JoinSet::new();
    for _ in 0..30 {
        let stack = stack.clone();
        senders.spawn(async move { stack.send(&[alert("firing", "web-1", 1)]).await.0 });
    }
    let mut statuses = senders.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses[0], 201, "{statuses:?}");
    assert!(
        statuses[1..].iter().all(|status| *status == 202),
        "{statuses:?}"
    );
    let requests = stack.requests().await;
    assert_eq!((requests.len(), requests[0].occurrence_count), (1, 1));
    let types = stack.types(&requests[0].id.to_string()).await;
    assert_eq!(types, ["gateway.signal.received"]);
}

#[tokio::test]
async fn a_webhook_of_many_has_a_result_for_each() {
    let stack = Stack::start().await;
    let mut elsewhere = alert("firing", "web-1", 1);
    elsewhere["labels"]["namespace"] = json!("bank");
    let mut nul = alert("firing", "api-1", 1);
    nul["annotations"]["summary"] = json!("a\u{0}b");
    let (status, answer) = stack
        .send(&[
            alert("firing", "web-1", 1),
            alert("firing", "web-2", 1),
            elsewhere,
            json!({"status": "firing", "labels": {"alertname": "Watchdog"}}),
            json!({"status": "burning"}),
            nul,
        ])
        .await;
    assert_eq!(status, 207, "{answer:#}");
    let results = answer["results"].as_array().expect("results");
    let statuses: Vec<u64> = results
        .iter()
        .filter_map(|result| result["status"].as_u64())
        .collect();
    assert_eq!(statuses, [201, 202, 200, 400, 400, 400], "{answer:#}");
    assert_eq!(stack.requests().await.len(), 1);

    let query = AuditQuery {
        event_type: Some("gateway.signal.rejected".to_owned()),
        ..AuditQuery::default()
    };
    let client = stack.storage.client("reader");
    let events = client.audit_events(&query).await.expect("events").events;
    let mut reasons: Vec<_> = events
        .iter()
        .map(|stored| stored.event.event_data["reason"].as_str().unwrap_or("none"))
        .collect();
    reasons.sort_unstable();
    assert_eq!(
        reasons,
        ["malformed", "malformed", "no_target", "out_of_scope"]
    );
    let chain = &events[0].event.correlation_id;
    assert!(chain.starts_with("gateway-rejected-"), "{chain}");
}

#[tokio::test]
async fn what_still_fires_after_the_end_is_a_new_need_once() {
    let stack = Stack::start().await;
    let (_, first) = stack.send(&[alert("firing", "web-1", 1)]).await;
    let orchestrator = stack.storage.client("remediationorchestrator");
    let request = orchestrator
        .request(id_of(&first))
        .await
        .expect("a request");
    step(&orchestrator, &request, RequestPhase::Skipped).await;

    let (status, second) = stack.send(&[alert("firing", "web-1", 1)]).await;
    assert_eq!(status, 201, "{second:#}");
    assert_ne!(second["request_id"], first["request_id"]);
    let (status, third) = stack.send(&[alert("firing", "web-1", 1)]).await;
    assert_eq!(status, 202, "{third:#}");
    assert_eq!(third["request_id"], second["request_id"]);
    assert_eq!(third["occurrence_count"], 1);
    let types = stack.types(&id_of(&second).to_string()).await;
    assert_eq!(types, ["gateway.signal.received"]);
}

#[tokio::test]
async fn the_last_resolved_alert_skips_the_request() {
    let stack = Stack::start().await;
    let firing = [alert("firing", "web-1", 1), alert("firing", "web-2", 2)];
    stack.send(&firing).await;
    let (status, one) = stack.send(&[alert("resolved", "web-1", 1)]).await;
    assert_eq!((status, &one["outcome"]), (200, &json!("recorded")));
    assert_eq!(stack.requests().await[0].phase, RequestPhase::Pending);

    // It begins again and ends again; the other goes on all the time.
    stack.send(&[alert("firing", "web-1", 3)]).await;
    let (_, again) = stack.send(&[alert("resolved", "web-1", 3)]).await;
    assert_eq!(again["outcome"], "recorded");

    let (_, last) = stack.send(&[alert("resolved", "web-2", 2)]).await;
    assert_eq!(last["outcome"], "skipped");
    let requests = stack.requests().await;
    assert_eq!(requests[0].phase, RequestPhase::Skipped);
    let (status, resent) = stack.send(&[alert("resolved", "web-2", 2)]).await;
    assert_eq!((status, &resent["outcome"]), (200, &json!("skipped")));

    let (_, nobody) = stack.send(&[alert("resolved", "api-1", 1)]).await;
    assert_eq!(nobody["outcome"], "nothing_open");
    assert_eq!(stack.requests().await.len(), 1);
}

#[tokio::test]
async fn a_resolved_alert_does_not_end_what_is_being_done() {
    let stack = Stack::start().await;
    let (_, answer) = stack.send(&[alert("firing", "web-1", 1)]).await;
    let processing = stack.storage.client("signalprocessing");
    let request = processing.request(id_of(&answer)).await.expect("a request");
    let request = execute(&stack, request).await;
    assert_eq!(request.phase, RequestPhase::Executing);

    let (status, resolved) = stack.send(&[alert("resolved", "web-1", 1)]).await;
    assert_eq!((status, &resolved["outcome"]), (200, &json!("recorded")));
    assert_eq!(stack.requests().await[0].phase, RequestPhase::Executing);
    let types = stack.types(&request.id.to_string()).await;
    assert_eq!(
        types,
        ["gateway.signal.received", "gateway.signal.resolved"]
    );
}

/// Brings a pending request to Executing, as the other services would.
async fn execute(stack: &Stack, request: RemediationRequest) -> RemediationRequest {
    let processing = stack.storage.client("signalprocessing");
    let claim = PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        phase: Some(RequestPhase::Processing),
        lease_seconds: Some(10),
        ..PatchRemediationRequest::default()
    };
    let request = processing.patch_request(request.id, request.resource_version, &claim);
    let request = request.await.expect("claimed");
    let classified = json!({
        "write_id": Uuid::new_v4(), "phase": "Analyzing",
        "classification": {
            "environment": "production", "severity": "warning", "priority": "P1",
            "signal_mode": "reactive", "reason": "r", "degraded": false,
            "policy_hash": "0".repeat(64),
        },
    });
    let classified = serde_json::from_value(classified).expect("a patch");
    let request = processing.patch_request(request.id, request.resource_version, &classified);
    let request = request.await.expect("classified");

    let workflow: NewWorkflow = serde_json::from_value(json!({
        "name": "restart", "version": "1.0.0", "labels": {"signal": "A"},
        "steps": [{"name": "restart", "http": {"method": "POST", "url": "http://testbed:8080/restart"}}],
    }))
    .expect("a workflow");
    let orchestrator = stack.storage.client("remediationorchestrator");
    orchestrator
        .create_workflow(&workflow)
        .await
        .expect("a workflow");
    let chosen = json!({
        "write_id": Uuid::new_v4(), "phase": "Analyzing",
        "workflow": {"name": "restart", "version": "1.0.0", "reason": "it fits"},
    });
    let chosen = serde_json::from_value(chosen).expect("a patch");
    let request = orchestrator.patch_request(request.id, request.resource_version, &chosen);
    let request = request.await.expect("chosen");
    let execution = NewExecution {
        request_id: request.id,
        parameters: [].into(),
        phase_deadline_seconds: None,
    };
    orchestrator
        .create_execution(request.resource_version, &execution)
        .await
        .expect("an execution");
    orchestrator.request(request.id).await.expect("a request")
}

#[tokio::test]
async fn a_kubernetes_event_is_a_signal() {
    let stack = Stack::start().await;
    let event = |count: u32| {
        json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "web-1.1", "uid": "u"},
            "involvedObject": {"kind": "Pod", "namespace": "shop", "name": "web-1"},
            "reason": "BackOff", "message": "m", "type": "Warning", "count": count,
            "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": null,
        })
    };
    let path = "/api/v1/signals/kubernetes-event";
    let (status, first) = stack.post(path, &event(1)).await;
    assert_eq!(status, 201, "{first:#}");
    assert_eq!(first["target"]["kind"], "Deployment");
    let (status, again) = stack.post(path, &event(1)).await;
    assert_eq!((status, &again["occurrence_count"]), (202, &json!(1)));
    let (status, raised) = stack.post(path, &event(2)).await;
    assert_eq!((status, &raised["occurrence_count"]), (202, &json!(2)));
    let (status, _) = stack.post(path, &json!({"kind": "Event"})).await;
    assert_eq!(status, 400);
    assert_eq!(stack.requests().await.len(), 1);
}
