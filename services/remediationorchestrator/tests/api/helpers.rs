//! The service under test, its API, and the executor's moves.

use common::api::{Execution, ExecutionFailure, PatchExecution, RemediationRequest};
use common::config::{ListenArgs, TokensArgs};
use common::health::DATASTORAGE;
use common::server::Running;
use common::transitions::ExecutionPhase;
use harness::{Storage, token, tokens};
use remediationorchestrator::Config;
use remediationorchestrator::routes::Plan;
use remediationorchestrator::rules::{LiveRules, RuleBook};
use serde_json::{Value, json};
use uuid::Uuid;

/// The service with rules that hold nobody back for long.
pub(crate) async fn started(storage: &Storage) -> Running {
    started_with(storage, "{}").await
}

/// The service with these rules, laid over those that hold nobody back for long.
pub(crate) async fn started_with(storage: &Storage, shop: &str) -> Running {
    let quick = r#"{"cool_down_seconds": 0, "backoff_seconds": 1, "busy_seconds": 1}"#;
    let rules = format!(r#"{{"default": {quick}, "namespaces": {{"shop": {shop}}}}}"#);
    let rules = RuleBook::parse(rules.as_bytes()).expect("rules");
    let config = Config {
        tokens: TokensArgs { tokens: tokens() },
        datastorage: storage.args(super::NAME),
        rules: Some(LiveRules::fixed(rules)),
        due_interval_ms: 50,
    };
    harness::serve(&ListenArgs::loopback(), &[DATASTORAGE], async |context| {
        remediationorchestrator::build(config, context).await
    })
    .await
}

/// The API of the service under test.
pub(crate) struct Api {
    http: reqwest::Client,
    base: String,
}

impl Api {
    pub(crate) fn of(service: &Running) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: format!("http://{}", service.addresses.api),
        }
    }

    pub(crate) async fn get(&self, subject: Option<&str>, path: &str) -> u16 {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(subject) = subject {
            request = request.bearer_auth(token(subject));
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    pub(crate) async fn post(&self, subject: &str, path: &str, body: &Value) -> u16 {
        self.send(subject, path, body).await.status().as_u16()
    }

    pub(crate) async fn plan(&self, subject: &str, id: Uuid) -> Plan {
        let url = format!("{}/api/v1/remediation-requests/{id}/plan", self.base);
        let request = self.http.get(url).bearer_auth(token(subject));
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        answer.json().await.expect("a plan")
    }

    pub(crate) async fn cancel(&self, subject: &str, id: Uuid) -> (u16, RemediationRequest) {
        let path = format!("/api/v1/remediation-requests/{id}/cancel");
        let answer = self
            .send(subject, &path, &json!({"reason": "it was a drill"}))
            .await;
        let status = answer.status().as_u16();
        (status, answer.json().await.expect("a request"))
    }

    async fn send(&self, subject: &str, path: &str, body: &Value) -> reqwest::Response {
        let request = self.http.post(format!("{}{path}", self.base));
        let request = request.bearer_auth(token(subject)).json(body);
        request.send().await.expect("an answer")
    }
}

/// The latest execution of a request.
pub(crate) async fn execution_of(storage: &Storage, request: Uuid) -> Execution {
    let client = storage.client("reader");
    let request = client.request(request).await.expect("a request");
    let id = request.execution_id.expect("an execution");
    client.execution(id).await.expect("an execution")
}

/// Claims an execution.
pub(crate) async fn claim(storage: &Storage, execution: Execution) -> Execution {
    let patch = PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(ExecutionPhase::Running),
        holder: Some("test".to_owned()),
        deadline_seconds: Some(60),
        ..PatchExecution::default()
    };
    write(storage, &execution, &patch).await
}

/// Claims an execution and brings it to this end.
pub(crate) async fn end(storage: &Storage, execution: Execution, phase: ExecutionPhase) {
    let claimed = claim(storage, execution).await;
    enter(storage, claimed, phase).await;
}

/// Moves a claimed execution.
pub(crate) async fn enter(storage: &Storage, execution: Execution, phase: ExecutionPhase) {
    let failure = ExecutionFailure {
        reason: "step_failed".to_owned(),
        step: Some("restart".to_owned()),
        status_code: Some(500),
        exit_code: None,
        message: "the test failed it".to_owned(),
        was_execution_failure: true,
    };
    let patch = PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(phase),
        holder: execution.holder.clone(),
        failure: (phase == ExecutionPhase::Failed).then_some(failure),
        ..PatchExecution::default()
    };
    write(storage, &execution, &patch).await;
}

async fn write(storage: &Storage, execution: &Execution, patch: &PatchExecution) -> Execution {
    storage
        .client("workflowexecution")
        .patch_execution(execution.id, execution.resource_version, patch)
        .await
        .expect("written")
}
