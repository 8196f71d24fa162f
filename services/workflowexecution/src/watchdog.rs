//! Ends executions whose holder is gone. It runs nothing and takes nothing over: the target may
//! have been touched, and nobody knows how far. It compares no clock of its own with the
//! database's: both times of a row are the database's, so what is left of a deadline is at most
//! their difference, counted from when the row was first seen.

use std::collections::HashMap;
use std::time::Duration;

use common::api::{Execution, ExecutionFailure, ExecutionQuery, PatchExecution};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::ExecutionPhase;
use tokio::time::Instant;
use tracing::Instrument;
use uuid::Uuid;

use crate::audit;
use crate::domain::write_id;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches claims of all replicas, those of its own process included.
#[derive(Debug)]
pub struct Watchdog {
    storage: DataStorage,
    grace: Duration,
    /// When a version of a row is overdue.
    due: HashMap<Uuid, (i64, Instant)>,
}

impl Watchdog {
    /// A watchdog that waits `grace` beyond each deadline.
    #[must_use]
    pub fn new(storage: DataStorage, grace: Duration) -> Self {
        Self {
            storage,
            grace,
            due: HashMap::new(),
        }
    }

    /// Watches until shutdown.
    ///
    /// # Errors
    /// Never: what goes wrong is tried again.
    pub async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        while shutdown.sleep(INTERVAL).await {
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "the claims could not be watched");
            }
        }
        Ok(())
    }

    async fn pass(&mut self) -> Result<(), ClientError> {
        let claimed = self.claimed().await?;
        let now = Instant::now();
        let due: HashMap<Uuid, (i64, Instant)> = claimed
            .iter()
            .map(|execution| (execution.id, self.due(execution, now)))
            .collect();
        self.due = due;
        for execution in &claimed {
            let overdue = self
                .due
                .get(&execution.id)
                .is_some_and(|(_, due)| *due <= now);
            if !overdue {
                continue;
            }
            let span = common::telemetry::work_span(&execution.request_id);
            match self.end(execution).instrument(span).await {
                Err(error) if error.is_conflict() => {
                    tracing::debug!(execution_id = %execution.id, %error, "it is not as it was");
                }
                result => result?,
            }
        }
        Ok(())
    }

    async fn claimed(&self) -> Result<Vec<Execution>, ClientError> {
        let mut query = ExecutionQuery {
            phase: vec![ExecutionPhase::Running, ExecutionPhase::Cancelling],
            ..ExecutionQuery::default()
        };
        let mut claimed = Vec::new();
        loop {
            let page = self.storage.executions(&query).await?;
            claimed.extend(page.items);
            if page.next_cursor.is_none() {
                return Ok(claimed);
            }
            query.cursor = page.next_cursor;
        }
    }

    /// When this version of the row is overdue: as it was reckoned, or reckoned from now.
    fn due(&self, execution: &Execution, now: Instant) -> (i64, Instant) {
        let version = execution.resource_version;
        match self.due.get(&execution.id) {
            Some((seen, due)) if *seen == version => (version, *due),
            _ => (version, now + left_at_most(execution) + self.grace),
        }
    }

    async fn end(&self, execution: &Execution) -> Result<(), ClientError> {
        let failure = ExecutionFailure {
            reason: "deadline_exceeded".to_owned(),
            step: None,
            status_code: None,
            exit_code: None,
            message: format!(
                "the deadline passed and {} has not reported an end",
                execution.holder.as_deref().unwrap_or("the holder")
            ),
            was_execution_failure: true,
        };
        let event = audit::failed(execution, &failure);
        let patch = PatchExecution {
            write_id: write_id(
                execution.id,
                execution.resource_version,
                "deadline_exceeded",
            ),
            phase: Some(ExecutionPhase::Failed),
            failure: Some(failure),
            ..PatchExecution::default()
        };
        // First the end: the holder may still be faster.
        self.storage
            .patch_execution(execution.id, execution.resource_version, &patch)
            .await?;
        crate::run::count_end("Failed");
        tracing::warn!(execution_id = %execution.id, holder = execution.holder, "deadline exceeded");
        audit::say(&self.storage, &event).await
    }
}

/// What can be left until the deadline: since the row was written, time has only passed.
fn left_at_most(execution: &Execution) -> Duration {
    execution
        .deadline
        .map(|deadline| deadline - execution.updated_at)
        .and_then(|left| Duration::try_from(left).ok())
        .unwrap_or_default()
}
