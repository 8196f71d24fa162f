//! Signalprocessing in this process, with DataStorage as it is.

#[path = "../../../gateway/tests/api/stack.rs"]
mod stack;

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use common::{
    api::{
        AuditEvent, AuditQuery, Classification, NewRemediationRequest, PatchRemediationRequest,
        RemediationRequest, Severity,
    },
    client::DataStorage,
    config::ReplicaArgs,
    health::DATASTORAGE,
    inventory::LiveInventory,
    server::Running,
    transitions::RequestPhase,
};
use kubernetes::KubernetesArgs;
use serde_json::json;
use signalprocessing::{Configuration, audit::POLICY_CHAIN, live_policy::LivePolicy};
use stack::Storage;
use tempfile::TempDir;
use uuid::Uuid;

const POLICY: &str = include_str!("../../policy/default.rego");
const INVENTORY: &str = r#"{
    "namespaces": [
        {"name": "shop", "labels": {"environment": "production"}},
        {"name": "shop-staging", "labels": {"environment": "staging"}},
        {"name": "shop-development", "labels": {"environment": "development"}}
    ],
    "workloads": [
        {"namespace": "shop", "kind": "Pod", "name": "web-*", "owner": {"kind": "ReplicaSet", "name": "web"}},
        {"namespace": "shop", "kind": "ReplicaSet", "name": "web", "owner": {"kind": "Deployment", "name": "web"}}
    ]
}"#;

struct Stack {
    storage: Storage,
    files: TempDir,
    replicas: Vec<Running>,
}

impl Stack {
    async fn start(replicas: &[&str]) -> Self {
        let files = tempfile::tempdir().expect("a directory");
        fs::write(files.path().join("policy.rego"), POLICY).expect("written");
        fs::write(files.path().join("inventory.json"), INVENTORY).expect("written");
        let mut stack = Self {
            storage: Storage::start().await,
            files,
            replicas: Vec::new(),
        };
        for replica in replicas {
            let running = stack.replica(replica).await;
            stack.replicas.push(running);
        }
        stack
    }

    async fn replica(&self, name: &str) -> Running {
        let path = |file: &str| self.path(file).to_string_lossy().into_owned();
        let inventory = LiveInventory::from_file(&path("inventory.json"));
        let configuration = Configuration {
            tokens: stack::tokens(),
            datastorage: self.storage.args("signalprocessing"),
            replica: ReplicaArgs {
                replica_name: name.to_owned(),
            },
            kubernetes: KubernetesArgs::off(),
            inventory: Some(inventory.expect("an inventory")),
            policy: LivePolicy::from_file(&path("policy.rego")).expect("a policy"),
        };
        stack::run("signalprocessing", &[DATASTORAGE], async |context| {
            signalprocessing::build(configuration, context).await
        })
        .await
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    fn reader(&self) -> DataStorage {
        self.storage.client("reader")
    }

    async fn create(&self, signal: &Signal) -> RemediationRequest {
        let (gateway, new) = (self.storage.client("gateway"), signal.request());
        gateway.create_request(&new).await.expect("created").value
    }

    /// Waits until the request is in this phase.
    async fn reached(&self, id: Uuid, phase: RequestPhase) -> RemediationRequest {
        let reader = self.reader();
        poll("the phase", async || {
            let request = reader.request(id).await.expect("a request");
            if request.phase == phase {
                return Ok(request);
            }
            Err(format!("{:?} {:?}", request.phase, request.reason))
        })
        .await
    }

    async fn classified(&self, signal: &Signal) -> Classification {
        let request = self.create(signal).await;
        let request = self.reached(request.id, RequestPhase::Analyzing).await;
        assert_eq!((request.lease_holder, request.lease_deadline), (None, None));
        request.classification.expect("a classification")
    }

    /// The events of signalprocessing in one chain, which must be intact.
    async fn events(&self, chain: &str) -> Vec<AuditEvent> {
        let reader = self.reader();
        let query = AuditQuery {
            correlation_id: Some(chain.to_owned()),
            event_category: Some("signalprocessing".to_owned()),
            ..AuditQuery::default()
        };
        let events = reader.audit_events(&query).await.expect("events").events;
        if !events.is_empty() {
            let verdict = reader.chain(chain).await.expect("a verdict");
            assert!(verdict.intact, "{verdict:?}");
        }
        events
    }

    async fn types(&self, chain: &str) -> Vec<String> {
        let events = self.events(chain).await.into_iter();
        events.map(|stored| stored.event.event_type).collect()
    }

    /// Waits until this many changes of the policy are written down, and gives the last.
    async fn policy_changes(&self, count: usize) -> AuditEvent {
        poll("a change of the policy", async || {
            let mut events = self.events(POLICY_CHAIN).await;
            match events.len() {
                found if found == count => Ok(events.pop().expect("an event")),
                found => Err(format!("{found} of {count}")),
            }
        })
        .await
    }
}

/// Looks until it is so; the last status is told when it never is.
async fn poll<T>(what: &str, look: impl AsyncFn() -> Result<T, String>) -> T {
    const PATIENCE: Duration = Duration::from_secs(25);
    let began = Instant::now();
    loop {
        match look().await {
            Ok(seen) => return seen,
            Err(status) => assert!(began.elapsed() < PATIENCE, "{what}: {status}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

struct Signal {
    namespace: &'static str,
    kind: &'static str,
    name: &'static str,
    severity: Severity,
    alert: &'static str,
}

const CRITICAL: Signal = Signal {
    namespace: "shop",
    kind: "Pod",
    name: "web-1",
    severity: Severity::Critical,
    alert: "Down",
};

impl Signal {
    fn request(&self) -> NewRemediationRequest {
        let half = || Uuid::new_v4().simple().to_string();
        serde_json::from_value(json!({
            "signal_id": Uuid::new_v4(),
            "fingerprint": format!("{}{}", half(), half()),
            "target": {"cluster": "local", "namespace": self.namespace, "kind": self.kind, "name": self.name},
            "severity": self.severity,
            "signal": {"source": "alertmanager", "name": self.alert},
        }))
        .expect("a request")
    }
}

#[tokio::test]
async fn requests_are_enriched_and_classified() {
    let stack = Stack::start(&["a"]).await;
    let request = stack.create(&CRITICAL).await;
    let request = stack.reached(request.id, RequestPhase::Analyzing).await;
    let found = request.classification.expect("a classification");
    assert_eq!(
        (found.environment.as_str(), found.priority.as_str()),
        ("production", "P0")
    );
    assert_eq!(
        (found.signal_mode.as_str(), found.degraded),
        ("reactive", false)
    );
    assert_eq!(
        found.policy_hash,
        common::canonical::sha256_hex(POLICY.as_bytes())
    );
    assert_eq!(
        found.enrichment["owners"],
        json!([{"kind": "ReplicaSet", "name": "web"}, {"kind": "Deployment", "name": "web"}])
    );
    let types = stack.types(&request.id.to_string()).await;
    assert_eq!(types, ["signal.enriched", "classification.decided"]);
}

#[tokio::test]
async fn environment_and_severity_make_the_priority() {
    let stack = Stack::start(&["a"]).await;
    let cases = [
        ("shop", Severity::Warning, "production", "P1"),
        ("shop-staging", Severity::Critical, "staging", "P1"),
        ("shop-development", Severity::Critical, "development", "P3"),
        ("bazaar", Severity::Critical, "unknown", "P2"),
    ];
    for (namespace, severity, environment, priority) in cases {
        let signal = Signal {
            namespace,
            severity,
            ..CRITICAL
        };
        let found = stack.classified(&signal).await;
        assert_eq!(
            (found.environment.as_str(), found.priority.as_str()),
            (environment, priority)
        );
        assert_eq!(found.degraded, namespace != "shop", "{namespace}");
    }
    let predicted = Signal {
        alert: "DiskFullPredicted",
        ..CRITICAL
    };
    assert_eq!(stack.classified(&predicted).await.signal_mode, "proactive");
}

#[tokio::test]
async fn two_replicas_give_one_result() {
    const REQUESTS: usize = 30;
    let stack = Stack::start(&["a", "b"]).await;
    let mut ids = Vec::new();
    for _ in 0..REQUESTS {
        ids.push(stack.create(&CRITICAL).await.id);
    }
    for id in ids {
        let request = stack.reached(id, RequestPhase::Analyzing).await;
        // Created, claimed, classified: nobody did anything a second time.
        assert_eq!(request.resource_version, 3);
        let types = stack.types(&id.to_string()).await;
        assert_eq!(types, ["signal.enriched", "classification.decided"]);
    }
    for replica in stack.replicas {
        replica.stop().await.expect("stopped");
    }
}

#[tokio::test]
async fn the_lease_of_a_dead_holder_is_retaken() {
    let stack = Stack::start(&[]).await;
    let request = stack.create(&CRITICAL).await;
    let claim = PatchRemediationRequest {
        write_id: Uuid::new_v4(),
        phase: Some(RequestPhase::Processing),
        lease_seconds: Some(3),
        lease_holder: Some("the-dead".to_owned()),
        ..PatchRemediationRequest::default()
    };
    let claimed = stack
        .storage
        .client("signalprocessing")
        .patch_request(request.id, request.resource_version, &claim)
        .await
        .expect("claimed");
    let deadline = claimed.lease_deadline.expect("a deadline");
    let heir = stack.replica("the-heir").await;
    let retaken = stack.reached(request.id, RequestPhase::Analyzing).await;
    assert!(
        retaken.updated_at > deadline,
        "not before the lease has ended"
    );
    let events = stack.events(&request.id.to_string()).await;
    assert_eq!(events.len(), 2, "{events:#?}");
    assert_eq!(events[1].event.event_data["replica"], "the-heir");
    heir.stop().await.expect("stopped");
}

#[tokio::test]
async fn a_policy_is_reloaded_and_a_broken_one_is_not() {
    let stack = Stack::start(&["a"]).await;
    fs::write(stack.path("policy.rego"), "package classification\n").expect("written");
    let rejected = stack.policy_changes(1).await;
    assert_eq!(rejected.event.event_type, "policy.rejected");
    assert_eq!(stack.classified(&CRITICAL).await.priority, "P0");

    let other = POLICY.replace("\"critical\": \"P0\"", "\"critical\": \"P3\"");
    fs::write(stack.path("next"), &other).expect("written");
    fs::rename(stack.path("next"), stack.path("policy.rego")).expect("renamed");
    let reloaded = stack.policy_changes(2).await;
    assert_eq!(reloaded.event.event_type, "policy.reloaded");
    let found = stack.classified(&CRITICAL).await;
    assert_eq!(found.priority, "P3");
    assert_eq!(
        found.policy_hash,
        common::canonical::sha256_hex(other.as_bytes())
    );
    assert_eq!(reloaded.event.event_data["policy_hash"], found.policy_hash);
}

#[tokio::test]
async fn a_policy_that_contradicts_itself_fails_the_request() {
    let stack = Stack::start(&["a"]).await;
    // Right for all that is rehearsed.
    let trap = format!("{POLICY}\npriority := \"P3\" if input.signal.name == \"Trap\"\n");
    fs::write(stack.path("policy.rego"), trap).expect("written");
    stack.policy_changes(1).await;
    let request = stack
        .create(&Signal {
            alert: "Trap",
            ..CRITICAL
        })
        .await;
    let request = stack.reached(request.id, RequestPhase::Failed).await;
    let reason = request.reason.expect("a reason");
    assert!(reason.contains("policy"), "{reason}");
    let events = stack.events(&request.id.to_string()).await;
    assert_eq!(events[1].event.event_type, "classification.decided");
    assert!(
        events[1].event.event_data["error"].is_string(),
        "{events:#?}"
    );
}

#[tokio::test]
async fn the_inventory_is_reloaded() {
    let stack = Stack::start(&["a"]).await;
    let unknown = Signal {
        namespace: "bazaar",
        ..CRITICAL
    };
    assert!(stack.classified(&unknown).await.degraded);
    let known = json!({
        "namespaces": [{"name": "bazaar", "labels": {"environment": "production"}}],
        "workloads": [{"namespace": "bazaar", "kind": "Pod", "name": "web-1"}],
    });
    fs::write(stack.path("inventory.json"), known.to_string()).expect("written");
    poll("the new inventory", async || {
        let found = stack.classified(&unknown).await;
        if found.degraded {
            Err(found.environment)
        } else {
            Ok(())
        }
    })
    .await;
}
