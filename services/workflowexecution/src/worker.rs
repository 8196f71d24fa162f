//! Claims pending executions and runs them. A claim is a write of its own that no other can
//! repeat, so an execution runs once or not at all: what a lost answer or a crash leaves behind is
//! the watchdog's, which ends it and runs nothing.

use std::sync::Arc;
use std::time::Duration;

use common::api::{Execution, ExecutionFailure, ExecutionQuery, PatchExecution};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::ExecutionPhase;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use crate::audit;
use crate::call::Caller;
use crate::domain::{Plan, write_id};
use crate::run::{Claim, Run};

/// The longest pause while DataStorage is away.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How the worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this replica; the holder of its claims is this and a name of the process.
    pub replica_name: String,
    /// Pause between two looks.
    pub poll_interval: Duration,
    /// Executions at the same time.
    pub running_max: usize,
    /// Added to the time of all calls: what DataStorage may need in between.
    pub slack: Duration,
    /// After a deadline, for the holder to report and before the watchdog ends an execution.
    pub grace: Duration,
}

/// Claims and runs.
#[derive(Debug)]
pub struct Worker {
    storage: DataStorage,
    caller: Caller,
    settings: Settings,
    holder: String,
}

impl Worker {
    /// A worker whose claims no other process can mistake for its own, one with the same name that
    /// ran before it included.
    #[must_use]
    pub fn new(storage: DataStorage, caller: Caller, settings: Settings) -> Self {
        let holder = format!("{}/{}", settings.replica_name, Uuid::new_v4().simple());
        Self {
            storage,
            caller,
            settings,
            holder,
        }
    }

    /// Works until shutdown; then what runs has a few seconds to end.
    ///
    /// # Errors
    /// Never: what goes wrong is tried again.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut runs = JoinSet::new();
        let mut pause = self.settings.poll_interval;
        while !shutdown.is_requested() {
            pause = match self.pass(&mut runs, &shutdown).await {
                Ok(()) => self.settings.poll_interval,
                Err(error) => {
                    tracing::warn!(%error, "a pass was not ended");
                    (pause * 2).min(PAUSE_MAX)
                }
            };
            while let Some(ended) = runs.try_join_next() {
                told(ended);
            }
            shutdown.sleep(pause).await;
        }
        while let Some(ended) = runs.join_next().await {
            told(ended);
        }
        Ok(())
    }

    /// Claims the oldest pending executions, as many as there is room for.
    async fn pass(
        self: &Arc<Self>,
        runs: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> Result<(), ClientError> {
        let pending = ExecutionQuery {
            phase: vec![ExecutionPhase::Pending],
            ..ExecutionQuery::default()
        };
        for execution in self.storage.executions(&pending).await?.items {
            if shutdown.is_requested() || runs.len() >= self.settings.running_max {
                break;
            }
            let span = common::telemetry::work_span(&execution.request_id);
            let begun = self.begin(&execution, shutdown).instrument(span.clone());
            match begun.await {
                Ok(Some(run)) => {
                    runs.spawn(run.finish().instrument(span));
                }
                Ok(None) => {}
                Err(error) if error.is_conflict() => {
                    tracing::debug!(execution_id = %execution.id, %error, "not ours");
                }
                Err(error) if error.is_temporary() => return Err(error),
                Err(error) => {
                    tracing::error!(execution_id = %execution.id, %error, "cannot be begun");
                }
            }
        }
        Ok(())
    }

    /// Claims an execution that can be run, and ends one that cannot.
    async fn begin(
        &self,
        execution: &Execution,
        shutdown: &Shutdown,
    ) -> Result<Option<Run>, ClientError> {
        let plan = match Plan::of(execution) {
            Ok(plan) => plan,
            Err(failure) => return self.refuse(execution, failure).await.map(|()| None),
        };
        let seconds = plan.claim_seconds(self.settings.slack);
        let claim = PatchExecution {
            // Never the same twice: a second claim must be refused, also one of this process.
            write_id: Uuid::new_v4(),
            phase: Some(ExecutionPhase::Running),
            holder: Some(self.holder.clone()),
            deadline_seconds: Some(seconds),
            ..PatchExecution::default()
        };
        // The database's clock starts later than this one, so ours ends first.
        let deadline = Instant::now() + Duration::from_secs(seconds.into());
        let claimed = self
            .storage
            .patch_execution(execution.id, execution.resource_version, &claim)
            .await?;
        if claimed.holder.as_ref() != Some(&self.holder) {
            tracing::error!(
                holder = claimed.holder,
                "a claim was answered with another's"
            );
            return Ok(None);
        }
        metrics::counter!("execution_claims_total").increment(1);
        tracing::info!(execution_id = %claimed.id, deadline_seconds = seconds, "execution claimed");
        Ok(Some(Run::new(Claim {
            storage: self.storage.clone(),
            caller: self.caller.clone(),
            shutdown: shutdown.clone(),
            execution: claimed,
            plan,
            deadline,
            grace: self.settings.grace,
        })))
    }

    async fn refuse(
        &self,
        execution: &Execution,
        failure: ExecutionFailure,
    ) -> Result<(), ClientError> {
        tracing::warn!(execution_id = %execution.id, reason = failure.reason, message = failure.message, "execution refused");
        audit::say(&self.storage, &audit::failed(execution, &failure)).await?;
        let patch = PatchExecution {
            write_id: write_id(execution.id, execution.resource_version, "refuse"),
            phase: Some(ExecutionPhase::Failed),
            failure: Some(failure),
            ..PatchExecution::default()
        };
        self.storage
            .patch_execution(execution.id, execution.resource_version, &patch)
            .await?;
        crate::run::count_end("Failed");
        Ok(())
    }
}

fn told(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The claim stays, and the watchdog ends it.
        tracing::error!(%error, "a run ended in a panic");
    }
}
