//! The real DataStorage in the process of a test, with a database of its own on the server that
//! TEST_POSTGRES_URL names, and the other services' moves, so that a service is tested against
//! what it will meet. It stands in for nothing that is tested; it is no part of any image.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::api::{
    Action, AuditQuery, Classification, Execution, HttpCall, NewExecution, NewRemediationRequest,
    NewWorkflow, PatchRemediationRequest, RESERVED_EVENT_TYPE_PREFIX, RemediationRequest, Severity,
    Signal, Target, WorkflowChoice, WorkflowStep,
};
use common::auth::Tokens;
use common::client::{BaseUrl, DataStorage};
use common::config::{DataStorageArgs, ListenArgs, Secret, TokensArgs};
use common::health::{Health, Identity};
use common::server::{App, Context, Running, start};
use common::shutdown::Shutdown;
use common::transitions::RequestPhase;
use datastorage::config::{Config, DatabaseArgs, DatabaseUrl};
use reqwest::Url;
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use uuid::Uuid;

/// Everyone who has a token, here and at DataStorage, with its role.
const SUBJECTS: [(&str, &str); 7] = [
    ("gateway", "write"),
    ("signalprocessing", "write"),
    ("remediationorchestrator", "write"),
    ("workflowexecution", "write"),
    ("reader", "read"),
    ("approver", "approve"),
    ("admin", "admin"),
];
/// How long [`eventually`] waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// A DataStorage with a database of its own.
#[derive(Debug)]
pub struct Storage {
    running: Running,
    url: BaseUrl,
    database: String,
}

impl Storage {
    /// Makes the database and starts DataStorage on it.
    ///
    /// # Panics
    /// Without TEST_POSTGRES_URL, or when DataStorage does not start.
    pub async fn start() -> Self {
        let database = format!("test_{}", Uuid::new_v4().simple());
        let running = serve(
            &ListenArgs::loopback(),
            datastorage::DEPENDENCIES,
            async |context| datastorage::build(config(&database), context).await,
        )
        .await;
        let url = base_url(&running);
        Self {
            running,
            url,
            database,
        }
    }

    /// The client as this subject has it.
    ///
    /// # Panics
    /// When the client cannot be made.
    #[must_use]
    pub fn client(&self, subject: &str) -> DataStorage {
        DataStorage::new(&self.args(subject)).expect("a client")
    }

    /// The configuration of that client.
    #[must_use]
    pub fn args(&self, subject: &str) -> DataStorageArgs {
        DataStorageArgs {
            datastorage_url: self.url.clone(),
            datastorage_token: Secret::new(&token(subject)),
        }
    }

    /// Stops DataStorage; the database stays.
    ///
    /// # Panics
    /// When it does not end in order.
    pub async fn stop(self) -> Stopped {
        let Self {
            running, database, ..
        } = self;
        let listen = ListenArgs {
            listen_address: running.addresses.api,
            ..ListenArgs::loopback()
        };
        running.stop().await.expect("an orderly end");
        Stopped { listen, database }
    }

    /// Stops DataStorage and drops the database.
    ///
    /// # Panics
    /// When that fails.
    pub async fn remove(self) {
        let database = self.stop().await.database;
        let mut connection = PgConnection::connect(postgres_url().as_str())
            .await
            .expect("the server");
        for statement in [
            format!("DROP DATABASE {database} WITH (FORCE)"),
            format!("DROP ROLE {database}"),
        ] {
            sqlx::raw_sql(AssertSqlSafe(statement))
                .execute(&mut connection)
                .await
                .expect("dropped");
        }
    }

    /// A request for the Deployment of this name, named by this signal, in Analyzing.
    ///
    /// # Panics
    /// When a move is refused.
    pub async fn analyzed(&self, name: &str, signal: &str) -> RemediationRequest {
        self.analyzed_as(name, signal, "P1").await
    }

    /// The same with this priority.
    ///
    /// # Panics
    /// When a move is refused.
    pub async fn analyzed_as(
        &self,
        name: &str,
        signal: &str,
        priority: &str,
    ) -> RemediationRequest {
        let request = self.pending(name, signal).await;
        let processing = self.client("signalprocessing");
        let lease = PatchRemediationRequest {
            write_id: Uuid::new_v4(),
            phase: Some(RequestPhase::Processing),
            lease_seconds: Some(30),
            ..PatchRemediationRequest::default()
        };
        let request = processing
            .patch_request(request.id, request.resource_version, &lease)
            .await
            .expect("leased");
        let classified = PatchRemediationRequest {
            write_id: Uuid::new_v4(),
            phase: Some(RequestPhase::Analyzing),
            classification: Some(classification(priority)),
            ..PatchRemediationRequest::default()
        };
        processing
            .patch_request(request.id, request.resource_version, &classified)
            .await
            .expect("classified")
    }

    /// A request for the Deployment of this name, named by this signal, as gateway makes it.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn pending(&self, name: &str, signal: &str) -> RemediationRequest {
        let half = || Uuid::new_v4().simple().to_string();
        let new = NewRemediationRequest {
            signal_id: Uuid::new_v4(),
            fingerprint: format!("{}{}", half(), half()),
            target: Target {
                cluster: "local".to_owned(),
                namespace: "shop".to_owned(),
                kind: "Deployment".to_owned(),
                name: name.to_owned(),
            },
            severity: Severity::Critical,
            signal: Signal {
                source: "alertmanager".to_owned(),
                name: signal.to_owned(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                starts_at: None,
                owner_unknown: false,
            },
        };
        let created = self.client("gateway").create_request(&new).await;
        created.expect("created").value
    }

    /// Puts a workflow into the catalog.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn publish(&self, workflow: &NewWorkflow) {
        let published = self.client("admin").create_workflow(workflow).await;
        assert!(published.expect("published").is_new, "{}", workflow.name);
    }

    /// Chooses this workflow for a request and has it executed, as remediationorchestrator would.
    ///
    /// # Panics
    /// When a move is refused.
    pub async fn execute(&self, request: &RemediationRequest, workflow: &NewWorkflow) -> Execution {
        let orchestrator = self.client("remediationorchestrator");
        let choice = PatchRemediationRequest {
            write_id: Uuid::new_v4(),
            workflow: Some(WorkflowChoice {
                name: workflow.name.clone(),
                version: workflow.version.clone(),
                reason: "a test chose it".to_owned(),
            }),
            ..PatchRemediationRequest::default()
        };
        let request = orchestrator
            .patch_request(request.id, request.resource_version, &choice)
            .await
            .expect("chosen");
        let new = NewExecution {
            request_id: request.id,
            parameters: BTreeMap::new(),
            phase_deadline_seconds: None,
        };
        let created = orchestrator
            .create_execution(request.resource_version, &new)
            .await;
        created.expect("begun").value
    }

    /// Waits until a request is in this phase.
    ///
    /// # Panics
    /// When it does not get there, or ends elsewhere.
    pub async fn await_request(&self, id: Uuid, phase: RequestPhase) -> RemediationRequest {
        let storage = self.client("reader");
        let request = eventually(&format!("request {id} in {phase:?}"), async || {
            let request = storage.request(id).await.map_err(|e| e.to_string())?;
            if request.phase == phase || request.phase.is_terminal() {
                Ok(request)
            } else {
                Err(format!("{:?}, {:?}", request.phase, request.reason))
            }
        })
        .await;
        assert_eq!(request.phase, phase, "{:?}", request.reason);
        request
    }

    /// What this subject said of its own work, beside the state changes that DataStorage records:
    /// the types of the events, in the chain's order. The chain is checked.
    ///
    /// # Panics
    /// When the chain is not intact.
    pub async fn said(&self, correlation_id: Uuid, actor: &str) -> Vec<String> {
        let storage = self.client("reader");
        let correlation_id = correlation_id.to_string();
        let verdict = storage.chain(&correlation_id).await.expect("a verdict");
        assert!(verdict.intact, "{verdict:?}");
        let query = AuditQuery {
            correlation_id: Some(correlation_id),
            limit: Some(1000),
            ..AuditQuery::default()
        };
        let events = storage.audit_events(&query).await.expect("events").events;
        events
            .into_iter()
            .filter(|event| event.actor == actor)
            .map(|event| event.event.event_type)
            .filter(|event_type| !event_type.starts_with(RESERVED_EVENT_TYPE_PREFIX))
            .collect()
    }
}

/// A DataStorage that is away, and where it was.
#[derive(Debug)]
pub struct Stopped {
    listen: ListenArgs,
    database: String,
}

impl Stopped {
    /// Starts it again at the same address with the same database.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(self) -> Storage {
        let running = serve(&self.listen, datastorage::DEPENDENCIES, async |context| {
            datastorage::build(config(&self.database), context).await
        })
        .await;
        let url = base_url(&running);
        Storage {
            running,
            url,
            database: self.database,
        }
    }
}

/// Starts a service on free ports of the loopback interface, or those given.
///
/// # Panics
/// When it does not start.
pub async fn serve<F>(listen: &ListenArgs, dependencies: &[&'static str], build: F) -> Running
where
    F: AsyncFnOnce(Context) -> anyhow::Result<App>,
{
    let context = Context {
        shutdown: Shutdown::new(),
        health: Health::awaiting(dependencies),
    };
    let identity = Identity::new("test", "0.0.0", None, None);
    start(listen, identity, context, build)
        .await
        .expect("the service starts")
}

/// Waits until `look` gives a value.
///
/// # Panics
/// When it does not within 20 seconds, with what was seen last.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    const PAUSE: Duration = Duration::from_millis(25);
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) if Instant::now() >= end => panic!("{what}: not within {PATIENCE:?}: {last}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The token of this subject, everywhere.
#[must_use]
pub fn token(subject: &str) -> String {
    format!("token-of-{subject}-in-tests")
}

/// What a service accepts: a token for each subject.
///
/// # Panics
/// Never: the tokens are good.
#[must_use]
pub fn tokens() -> Tokens {
    let entries: Vec<Value> = SUBJECTS
        .iter()
        .map(|(subject, role)| json!({"subject": subject, "role": role, "token": token(subject)}))
        .collect();
    Tokens::from_json(&json!({"tokens": entries}).to_string()).expect("tokens")
}

/// A workflow for signals of this name that calls these URLs with POST, in this order.
#[must_use]
pub fn workflow(name: &str, signal: &str, steps: &[(&str, &str)]) -> NewWorkflow {
    NewWorkflow {
        name: name.to_owned(),
        version: "1.0.0".to_owned(),
        labels: BTreeMap::from([("signal".to_owned(), signal.to_owned())]),
        steps: steps
            .iter()
            .map(|(name, url)| WorkflowStep {
                name: (*name).to_owned(),
                action: Action::Http(call("POST", url)),
            })
            .collect(),
        parameters: Vec::new(),
        probe: None,
    }
}

/// A call with one try of two seconds.
#[must_use]
pub fn call(method: &str, url: &str) -> HttpCall {
    HttpCall {
        method: method.to_owned(),
        url: url.to_owned(),
        body: None,
        expected_status: vec![200],
        timeout_ms: 2_000,
        retries_max: 0,
        retry_on_status: Vec::new(),
        idempotent: false,
    }
}

fn classification(priority: &str) -> Classification {
    Classification {
        environment: "production".to_owned(),
        severity: Severity::Critical,
        priority: priority.to_owned(),
        signal_mode: "reactive".to_owned(),
        reason: "a test said so".to_owned(),
        degraded: false,
        policy_hash: "0".repeat(64),
        enrichment: Map::new(),
    }
}

/// The role of the service is named like its database, so that tests run side by side.
fn config(database: &str) -> Config {
    let server = postgres_url();
    let (host, port) = (
        server.host_str().expect("a host"),
        server.port().unwrap_or(5432),
    );
    let url = |role: &str| {
        let url: DatabaseUrl = format!("postgres://{role}@{host}:{port}/{database}")
            .parse()
            .expect("a database URL");
        url
    };
    Config {
        tokens: TokensArgs { tokens: tokens() },
        database: DatabaseArgs {
            database_url: url(database),
            database_password: Secret::new(database),
            owner_database_url: url(server.username()),
            owner_password: Secret::new(server.password().unwrap_or_default()),
        },
    }
}

fn postgres_url() -> Url {
    let url = std::env::var("TEST_POSTGRES_URL").expect("TEST_POSTGRES_URL, a superuser's URL");
    url.parse().expect("TEST_POSTGRES_URL is a URL")
}

fn base_url(running: &Running) -> BaseUrl {
    format!("http://{}", running.addresses.api)
        .parse()
        .expect("a URL")
}
