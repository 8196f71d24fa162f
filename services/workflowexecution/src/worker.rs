//! Claims pending executions and runs them. A claim is a write of its own that no other can
//! repeat, so an execution runs once or not at all: what a lost answer or a crash leaves behind is
//! the watchdog's, which ends it and runs nothing.

use std::sync::Arc;
use std::time::Duration;

use common::api::{Execution, ExecutionFailure, PatchExecution};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::ExecutionPhase;
use common::watch::follow_executions;
use kubernetes::jobs::Jobs;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use crate::audit;
use crate::call::Caller;
use crate::domain::{JobSteps, Plan, write_id};
use crate::run::{Claim, Run};

/// The pauses while DataStorage is away.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// How the worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this replica; the holder of its claims is this and a name of the process.
    pub replica_name: String,
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
    jobs: Option<Jobs>,
    settings: Settings,
    holder: String,
}

impl Worker {
    /// A worker whose claims no other process can mistake for its own, one with the same name that
    /// ran before it included.
    #[must_use]
    pub fn new(
        storage: DataStorage,
        caller: Caller,
        jobs: Option<Jobs>,
        settings: Settings,
    ) -> Self {
        let holder = format!("{}/{}", settings.replica_name, Uuid::new_v4().simple());
        Self {
            storage,
            caller,
            jobs,
            settings,
            holder,
        }
    }

    /// Works until shutdown; then what runs has a few seconds to end.
    ///
    /// # Errors
    /// Never: what goes wrong is tried again.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> anyhow::Result<()> {
        let (found, mut pending) = mpsc::channel(1);
        let hearing = tokio::spawn(follow_executions(
            self.storage.clone(),
            vec![ExecutionPhase::Pending],
            shutdown.clone(),
            found,
        ));
        let mut runs = JoinSet::new();
        // Who is full hears of nothing more, and leaves it to other replicas.
        while let Some(execution) = shutdown
            .unless_requested(next(&mut pending, &mut runs, self.settings.running_max))
            .await
            .flatten()
        {
            let span = common::telemetry::work_span(&execution.request_id);
            let begun = self.begin_surely(&execution, &shutdown);
            if let Some(run) = begun.instrument(span.clone()).await {
                runs.spawn(run.finish().instrument(span));
            }
        }
        while let Some(ended) = runs.join_next().await {
            told(ended);
        }
        drop(pending);
        hearing.await?;
        Ok(())
    }

    /// Claims, again while DataStorage is away: what was heard of is not heard of again soon.
    async fn begin_surely(&self, execution: &Execution, shutdown: &Shutdown) -> Option<Run> {
        let mut pause = PAUSE;
        loop {
            match self.begin(execution, shutdown).await {
                Ok(run) => return run,
                Err(error) if error.is_conflict() => {
                    tracing::debug!(execution_id = %execution.id, %error, "not ours");
                    return None;
                }
                Err(error) if error.is_temporary() => {
                    tracing::warn!(execution_id = %execution.id, %error, "DataStorage is away");
                }
                Err(error) => {
                    tracing::error!(execution_id = %execution.id, %error, "cannot be begun");
                    return None;
                }
            }
            if !shutdown.sleep(pause).await {
                return None;
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Claims an execution that can be run, and ends one that cannot.
    async fn begin(
        &self,
        execution: &Execution,
        shutdown: &Shutdown,
    ) -> Result<Option<Run>, ClientError> {
        let job_steps = match self.jobs {
            Some(_) => JobSteps::Run,
            None => JobSteps::Refused,
        };
        let plan = match Plan::of(execution, job_steps) {
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
            jobs: self.jobs.clone(),
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

/// The next execution, as soon as there is room for it.
async fn next(
    pending: &mut mpsc::Receiver<Execution>,
    runs: &mut JoinSet<()>,
    running_max: usize,
) -> Option<Execution> {
    while let Some(ended) = runs.try_join_next() {
        told(ended);
    }
    while runs.len() >= running_max {
        told(runs.join_next().await?);
    }
    pending.recv().await
}

fn told(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // The claim stays, and the watchdog ends it.
        tracing::error!(%error, "a run ended in a panic");
    }
}
