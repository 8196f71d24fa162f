//! A service with a database of its own, its clients, and bodies to send.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::api::{
    AuditEvent, AuditQuery, EventOutcome, NewAuditEvent, NewRemediationRequest, NewWorkflow,
    PatchRemediationRequest, RemediationRequest, WorkflowChoice,
};
use common::auth::Tokens;
use common::client::{ClientError, DataStorage, Patience};
use common::config::{ListenArgs, Secret, TokensArgs};
use common::health::{Health, Identity};
use common::server::{self, Context, Running};
use common::shutdown::Shutdown;
use common::transitions::RequestPhase;
use datastorage::config::{Config, DatabaseArgs, DatabaseUrl};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

/// The service's role is the same in all test databases.
const ROLE: &str = "datastorage_test";
const ROLE_PASSWORD: &str = "datastorage-test-password";

/// Everyone who calls, and with which role.
const CALLERS: &[(&str, &str)] = &[
    ("gateway", "write"),
    ("signalprocessing", "write"),
    ("remediationorchestrator", "write"),
    ("workflowexecution", "write"),
    ("reader", "read"),
    ("approver", "approve"),
    ("admin", "admin"),
];

/// A running service. [`Service::stop`] removes its database.
pub(crate) struct Service {
    running: Running,
    pub(crate) database: Database,
    http: reqwest::Client,
}

/// A database that is made by the service's own start.
#[derive(Clone)]
pub(crate) struct Database {
    server: Url,
    pub(crate) name: String,
}

impl Database {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let variable = "TEST_POSTGRES_URL";
        let server = std::env::var(variable)
            .unwrap_or_else(|_| panic!("{variable} must name the superuser's URL of a PostgreSQL"));
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self {
            server: server.parse().expect(variable),
            name: format!("ds_test_{}_{count}", Uuid::now_v7().simple()),
        }
    }

    /// The same database behind another address.
    pub(crate) fn behind(&self, port: u16) -> Self {
        let mut behind = self.clone();
        behind.server.set_host(Some("127.0.0.1")).expect("host");
        behind.server.set_port(Some(port)).expect("port");
        behind
    }

    /// The same server with a password that it does not know.
    pub(crate) fn with_owner_password(&self, password: &str) -> Self {
        let mut wrong = self.clone();
        wrong.server.set_password(Some(password)).expect("password");
        wrong
    }

    pub(crate) fn address(&self) -> String {
        let host = self.server.host_str().expect("host");
        format!("{host}:{}", self.server.port().unwrap_or(5432))
    }

    fn url(&self, role: &str) -> DatabaseUrl {
        let url = format!("postgres://{role}@{}/{}", self.address(), self.name);
        url.parse().expect("URL")
    }

    pub(crate) fn args(&self) -> DatabaseArgs {
        DatabaseArgs {
            database_url: self.url(ROLE),
            database_password: Secret::new(ROLE_PASSWORD),
            owner_database_url: self.url(self.server.username()),
            owner_password: Secret::new(self.server.password().expect("a password")),
        }
    }

    /// A connection of the superuser.
    pub(crate) async fn superuser(&self) -> PgConnection {
        let args = self.args();
        let options = args.owner_database_url.with_password(&args.owner_password);
        PgConnection::connect_with(&options)
            .await
            .expect("superuser")
    }

    /// A connection of the service's own role.
    pub(crate) async fn service_role(&self) -> PgConnection {
        let args = self.args();
        let options = args.database_url.with_password(&args.database_password);
        PgConnection::connect_with(&options)
            .await
            .expect("service role")
    }

    async fn remove(&self) {
        let args = self.args();
        let options = args.owner_database_url.with_password(&args.owner_password);
        let connection = PgConnection::connect_with(&options.database("postgres")).await;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        let dropped = sqlx::raw_sql(AssertSqlSafe(drop));
        dropped
            .execute(&mut connection.expect("superuser"))
            .await
            .expect("dropped");
    }
}

/// Starts the service on free ports.
pub(crate) async fn start(database: &Database) -> anyhow::Result<Running> {
    let entry = |(subject, role): &(&str, &str)| json!({"subject": subject, "role": role, "token": token(subject)});
    let tokens: Vec<Value> = CALLERS.iter().map(entry).collect();
    let tokens = json!({"tokens": tokens}).to_string();
    let config = Config {
        tokens: TokensArgs {
            tokens: Tokens::from_json(&tokens).expect("tokens"),
        },
        database: database.args(),
    };
    let context = Context {
        shutdown: Shutdown::new(),
        health: Health::awaiting(datastorage::DEPENDENCIES),
    };
    let identity = Identity::new("datastorage", "0.0.0", Some("digest"), None);
    let build = async |context| datastorage::build(config, context).await;
    server::start(&ListenArgs::loopback(), identity, context, build).await
}

fn token(subject: &str) -> String {
    format!("the-test-token-of-{subject}")
}

impl Service {
    pub(crate) async fn start() -> Self {
        Self::start_in(Database::new()).await
    }

    pub(crate) async fn start_in(database: Database) -> Self {
        Self {
            running: start(&database).await.expect("the service starts"),
            database,
            http: reqwest::Client::new(),
        }
    }

    /// Stops the service and removes its database.
    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("the service stops");
        self.database.remove().await;
    }

    /// Stops the service, keeps the database.
    pub(crate) async fn leave(self) -> Database {
        self.running.stop().await.expect("the service stops");
        self.database
    }

    pub(crate) fn health(&self) -> &Health {
        &self.running.context().health
    }

    /// The real client, as this subject.
    pub(crate) fn client(&self, subject: &str) -> DataStorage {
        let base = format!("http://{}", self.running.addresses.api);
        let token = Secret::new(&token(subject));
        // What is shown is that it is right under a crowd, not that it is quick on a busy machine.
        let patience = Patience {
            try_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(60),
            retries_max: 20,
        };
        DataStorage::with_patience(&base.parse().expect("URL"), &token, patience).expect("client")
    }

    /// A request as it is on the wire.
    pub(crate) fn call(
        &self,
        subject: &str,
        method: Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let url = format!("http://{}{path}", self.running.addresses.api);
        self.http.request(method, url).bearer_auth(token(subject))
    }

    /// Without a token.
    pub(crate) fn anonymous(&self, path: &str) -> reqwest::RequestBuilder {
        self.http
            .get(format!("http://{}{path}", self.running.addresses.api))
    }

    /// Asks the probe listener.
    pub(crate) async fn probe(&self, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.running.addresses.probes);
        answer(self.http.get(url)).await
    }

    /// Asks the metrics listener.
    pub(crate) async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.running.addresses.metrics);
        self.http
            .get(url)
            .send()
            .await
            .expect("answer")
            .text()
            .await
            .expect("text")
    }

    /// A request, and what signalprocessing and remediationorchestrator do to it until it may be
    /// executed with this workflow.
    pub(crate) async fn ready_to_execute(
        &self,
        name: &str,
        workflow: &NewWorkflow,
    ) -> RemediationRequest {
        let request = self.pending(name).await;
        let request = self
            .moved(&request, "signalprocessing", RequestPhase::Processing)
            .await;
        let request = self
            .moved(&request, "signalprocessing", RequestPhase::Analyzing)
            .await;
        let choice = PatchRemediationRequest {
            write_id: Uuid::now_v7(),
            workflow: Some(WorkflowChoice {
                name: workflow.name.clone(),
                version: workflow.version.clone(),
                reason: "it fits".to_owned(),
            }),
            ..Default::default()
        };
        let orchestrator = self.client("remediationorchestrator");
        let patched = orchestrator.patch_request(request.id, request.resource_version, &choice);
        patched.await.expect("chosen")
    }

    /// A request that gateway made just now.
    pub(crate) async fn pending(&self, name: &str) -> RemediationRequest {
        let created = self
            .client("gateway")
            .create_request(&new_request(name))
            .await;
        created.expect("created").value
    }

    /// Type, actor and `to` of the events of an intact chain.
    pub(crate) async fn told(&self, correlation_id: &str) -> Vec<[String; 3]> {
        let client = self.client("reader");
        let verdict = client.chain(correlation_id).await.expect("chain");
        assert!(verdict.intact, "{verdict:?}");
        let query = AuditQuery {
            correlation_id: Some(correlation_id.to_owned()),
            ..Default::default()
        };
        let events = client.audit_events(&query).await.expect("events").events;
        let tell = |event: AuditEvent| {
            let to = event.event.event_data["to"].as_str().unwrap_or_default();
            let to = to.to_owned();
            [event.event.event_type, event.actor, to]
        };
        events.into_iter().map(tell).collect()
    }

    /// The request in its next phase.
    pub(crate) async fn moved(
        &self,
        request: &RemediationRequest,
        subject: &str,
        to: RequestPhase,
    ) -> RemediationRequest {
        let client = self.client(subject);
        let patch = to_phase(to);
        let moved = client.patch_request(request.id, request.resource_version, &patch);
        moved.await.expect("moved")
    }
}

/// Status and JSON body.
pub(crate) async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let body = response.bytes().await.expect("a body");
    let value = serde_json::from_slice(&body);
    (
        status,
        value.unwrap_or_else(|_| panic!("{status}: no JSON: {}", String::from_utf8_lossy(&body))),
    )
}

#[track_caller]
pub(crate) fn assert_refused<T: std::fmt::Debug>(
    result: Result<T, ClientError>,
    expected: u16,
    says: &str,
) {
    match result {
        Err(ClientError::Problem { status, detail, .. }) if status == expected => {
            assert!(detail.contains(says), "`{detail}` does not say `{says}`");
        }
        other => panic!("{expected} expected: {other:?}"),
    }
}

pub(crate) fn to_phase(phase: RequestPhase) -> PatchRemediationRequest {
    PatchRemediationRequest {
        write_id: Uuid::now_v7(),
        phase: Some(phase),
        ..Default::default()
    }
}

pub(crate) fn event(correlation_id: &str) -> NewAuditEvent {
    let data = json!({"count": 1, "ratio": 0.1, "text": "é", "list": [1.0, 1e-7, -0.0, null]});
    NewAuditEvent {
        event_id: Uuid::now_v7(),
        version: "1.0".to_owned(),
        event_type: "gateway.signal.received".to_owned(),
        event_category: "gateway".to_owned(),
        event_action: "received".to_owned(),
        event_outcome: EventOutcome::Success,
        event_timestamp: OffsetDateTime::now_utc(),
        correlation_id: correlation_id.to_owned(),
        event_data: data.as_object().expect("object").clone(),
        resource_type: Some("Deployment".to_owned()),
        resource_name: Some("web".to_owned()),
        namespace: Some("shop".to_owned()),
        severity: None,
        duration_ms: Some(3),
        parent_event_id: None,
    }
}

pub(crate) fn new_request(name: &str) -> NewRemediationRequest {
    let target =
        json!({"cluster": "local", "namespace": "shop", "kind": "Deployment", "name": name});
    let new = json!({
        "signal_id": Uuid::now_v7(),
        "fingerprint": common::canonical::sha256(&target).expect("hash"),
        "target": target, "severity": "warning",
        "signal": {"source": "alertmanager", "name": "Down", "labels": {"a": "b"}}
    });
    serde_json::from_value(new).expect("request")
}

pub(crate) fn new_workflow(name: &str) -> NewWorkflow {
    let new = json!({
        "name": name, "version": "1.0.0", "labels": {"signal": "Down"}, "parameters": ["why"],
        "steps": [{"name": "restart", "http": {
            "method": "POST", "url": "http://testbed:8080/restart?name={name}&why={why}"}}]
    });
    serde_json::from_value(new).expect("workflow")
}
