//! The service under test, the test bed, and the moves of others.

use common::api::{Execution, NewWorkflow, PatchExecution};
use common::config::{ListenArgs, ReplicaArgs, TokensArgs};
use common::health::DATASTORAGE;
use common::server::Running;
use common::transitions::ExecutionPhase;
use harness::{Storage, eventually, tokens};
use kubernetes::jobs::JobsArgs;
use testbed::domain::Journal;
use uuid::Uuid;
use workflowexecution::Config;

/// Times of the service that a test can wait for.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    slack_seconds: u64,
    grace_seconds: u64,
}

pub(crate) fn settings() -> Times {
    Times {
        slack_seconds: 3,
        grace_seconds: 1,
    }
}

pub(crate) async fn started(storage: &Storage, times: &Times) -> Running {
    let config = Config {
        tokens: TokensArgs { tokens: tokens() },
        datastorage: storage.args(super::NAME),
        replica: ReplicaArgs {
            replica_name: "replica".to_owned(),
        },
        jobs: JobsArgs::off(),
        running_max: 16,
        claim_slack_seconds: times.slack_seconds,
        watchdog_grace_seconds: times.grace_seconds,
    };
    harness::serve(&ListenArgs::loopback(), &[DATASTORAGE], async |context| {
        workflowexecution::build(config, context).await
    })
    .await
}

/// A test bed of this test alone.
pub(crate) struct Bed {
    running: Running,
    http: reqwest::Client,
}

impl Bed {
    pub(crate) async fn start() -> Self {
        let running = harness::serve(&ListenArgs::loopback(), &[], async |context| {
            testbed::build(testbed::Configuration {}, context).await
        })
        .await;
        Self {
            running,
            http: reqwest::Client::new(),
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.running.addresses.api)
    }

    pub(crate) async fn call(&self, path: &str) {
        let answer = self.http.post(self.url(path)).send().await;
        assert!(answer.expect("an answer").status().is_success());
    }

    pub(crate) async fn healthy(&self, name: &str) -> bool {
        self.journal(name).await.healthy
    }

    /// What workflows asked of this workload: action and key, in order.
    pub(crate) async fn calls(&self, name: &str) -> Vec<(String, String)> {
        let entries = self.journal(name).await.entries.into_iter();
        entries
            .filter_map(|entry| {
                let action = serde_json::to_value(entry.action).expect("JSON");
                let action = action.as_str().expect("a name").to_owned();
                Some((action, entry.idempotency_key?))
            })
            .collect()
    }

    pub(crate) async fn await_calls(&self, name: &str, count: usize) {
        eventually("calls", async || {
            let calls = self.calls(name).await;
            if calls.len() == count {
                Ok(())
            } else {
                Err(format!("{calls:?}"))
            }
        })
        .await;
    }

    /// Waits until the test bed has answered the first call of this action.
    pub(crate) async fn await_answer(&self, name: &str, action: &str) {
        eventually("an answer", async || {
            let entries = self.journal(name).await.entries;
            let answered = entries.iter().any(|entry| {
                serde_json::to_value(entry.action).is_ok_and(|is| is == action)
                    && entry.status.is_some()
            });
            if answered {
                Ok(())
            } else {
                Err(format!("{entries:?}"))
            }
        })
        .await;
    }

    async fn journal(&self, name: &str) -> Journal {
        let url = self.url(&format!("/journal?name={name}"));
        let answer = self.http.get(url).send().await.expect("an answer");
        answer.json().await.expect("a journal")
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await.expect("an orderly end");
    }
}

/// A pending execution of this workflow, published before, for the Deployment of this name.
pub(crate) async fn begun(storage: &Storage, name: &str, workflow: &NewWorkflow) -> Execution {
    storage.publish(workflow).await;
    let request = storage.analyzed(name, "Sick").await;
    storage.execute(&request, workflow).await
}

/// Waits until an execution is in this phase.
pub(crate) async fn await_execution(
    storage: &Storage,
    id: Uuid,
    phase: ExecutionPhase,
) -> Execution {
    let client = storage.client("reader");
    let execution = eventually(&format!("execution {id} in {phase:?}"), async || {
        let execution = client.execution(id).await.map_err(|e| e.to_string())?;
        if execution.phase == phase || execution.phase.is_terminal() {
            Ok(execution)
        } else {
            Err(format!("{:?}, {:?}", execution.phase, execution.steps))
        }
    })
    .await;
    assert_eq!(execution.phase, phase, "{:?}", execution.failure);
    execution
}

/// Claims an execution for a holder that will never be heard of again.
pub(crate) async fn claimed_by_the_dead(storage: &Storage, execution: &Execution, seconds: u32) {
    let claim = PatchExecution {
        write_id: Uuid::new_v4(),
        phase: Some(ExecutionPhase::Running),
        holder: Some("dead".to_owned()),
        deadline_seconds: Some(seconds),
        ..PatchExecution::default()
    };
    storage
        .client(super::NAME)
        .patch_execution(execution.id, execution.resource_version, &claim)
        .await
        .expect("claimed");
}
