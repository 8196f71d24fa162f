//! Drives requests from Analyzing to their end. It keeps nothing between two looks: what is to be
//! done follows from the row, and is done by compare-and-swap with an ID that follows from the row
//! as well, so any number of replicas may do this side by side, and a restart loses nothing.

use std::sync::Arc;
use std::time::Duration;

use common::api::{
    Execution, NewExecution, PatchRemediationRequest, RemediationRequest, RequestQuery,
    WorkflowChoice, WorkflowQuery,
};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::{ExecutionPhase, RequestPhase};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::audit::{self, Audit};
use crate::domain::{Choice, choose, write_id};

/// Requests driven at the same time.
const DRIVEN_MAX: usize = 8;
/// The longest pause while DataStorage is away.
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// The phases in which the orchestrator has something to do.
const PHASES: [RequestPhase; 3] = [
    RequestPhase::Analyzing,
    RequestPhase::Executing,
    RequestPhase::Verifying,
];

/// Drives requests.
#[derive(Debug)]
pub struct Worker {
    storage: DataStorage,
    audit: Audit,
    poll_interval: Duration,
}

/// What one look at a request came to.
enum Step {
    /// It is now so, and there is more to do.
    Moved(Box<RemediationRequest>),
    /// Nothing to do before someone else has done something.
    Waits,
}

impl Worker {
    /// A worker that looks each `poll_interval`.
    #[must_use]
    pub fn new(storage: DataStorage, poll_interval: Duration) -> Self {
        Self {
            audit: Audit::new(storage.clone()),
            storage,
            poll_interval,
        }
    }

    /// Works until shutdown, and ends what it has begun.
    ///
    /// # Errors
    /// Never: what goes wrong is tried again.
    pub async fn run(self: Arc<Self>, shutdown: Shutdown) -> anyhow::Result<()> {
        let mut pause = self.poll_interval;
        while !shutdown.is_requested() {
            pause = match self.pass(&shutdown).await {
                Ok(()) => self.poll_interval,
                Err(error) => {
                    tracing::warn!(%error, "a pass was not ended");
                    (pause * 2).min(PAUSE_MAX)
                }
            };
            shutdown.sleep(pause).await;
        }
        Ok(())
    }

    /// Looks at every request once. Only an error that concerns all of them ends the pass.
    async fn pass(self: &Arc<Self>, shutdown: &Shutdown) -> Result<(), ClientError> {
        let mut query = RequestQuery {
            phase: PHASES.to_vec(),
            ..RequestQuery::default()
        };
        loop {
            let page = self.storage.requests(&query).await?;
            self.drive_all(page.items, shutdown).await?;
            if page.next_cursor.is_none() || shutdown.is_requested() {
                return Ok(());
            }
            query.cursor = page.next_cursor;
        }
    }

    /// Drives some at a time, and gives the first error that concerns all.
    async fn drive_all(
        self: &Arc<Self>,
        requests: Vec<RemediationRequest>,
        shutdown: &Shutdown,
    ) -> Result<(), ClientError> {
        let mut driven: JoinSet<Result<(), ClientError>> = JoinSet::new();
        let mut result = Ok(());
        for request in requests {
            if driven.len() >= DRIVEN_MAX {
                result = result.and(joined(driven.join_next().await));
            }
            if shutdown.is_requested() || result.is_err() {
                break;
            }
            let span = common::telemetry::work_span(&request.id);
            let worker = Arc::clone(self);
            driven.spawn(async move { worker.drive(request).await }.instrument(span));
        }
        while let Some(ended) = driven.join_next().await {
            result = result.and(joined(Some(ended)));
        }
        result
    }

    /// Takes a request as far as it goes now. What concerns this request alone is told and left to
    /// the next pass.
    async fn drive(&self, mut request: RemediationRequest) -> Result<(), ClientError> {
        loop {
            match self.step(&request).await {
                Ok(Step::Moved(moved)) => request = *moved,
                Ok(Step::Waits) => return Ok(()),
                Err(error) if error.is_conflict() => {
                    tracing::debug!(%error, "it is not as it was; looked at again");
                    return Ok(());
                }
                Err(error) if error.is_temporary() => return Err(error),
                Err(error) => {
                    tracing::error!(%error, phase = ?request.phase, "a step could not be made");
                    return Ok(());
                }
            }
        }
    }

    async fn step(&self, request: &RemediationRequest) -> Result<Step, ClientError> {
        match (request.phase, &request.workflow) {
            (RequestPhase::Analyzing, None) => self.choose(request).await,
            (RequestPhase::Analyzing, Some(choice)) => self.start(request, choice).await,
            (RequestPhase::Executing, _) => self.follow(request).await,
            (RequestPhase::Verifying, _) => self.complete(request).await,
            _ => Ok(Step::Waits),
        }
    }

    async fn choose(&self, request: &RemediationRequest) -> Result<Step, ClientError> {
        let catalog = self.storage.workflows(&WorkflowQuery::default()).await?;
        match choose(request, &catalog.items) {
            Choice::Chosen(choice) => {
                let chosen = PatchRemediationRequest {
                    reason: Some(choice.reason.clone()),
                    workflow: Some(choice),
                    ..PatchRemediationRequest::default()
                };
                let moved = self.patch(request, "choose", chosen).await?;
                count_choice("chosen");
                Ok(moved)
            }
            Choice::NoneFits(reason) => {
                self.audit.say(&audit::not_found(request, &reason)).await?;
                let moved = self.enter(request, RequestPhase::Skipped, reason).await?;
                count_choice("none_fits");
                Ok(moved)
            }
        }
    }

    /// The choice is in the row; so a crash between that and this is made good by the next pass.
    async fn start(
        &self,
        request: &RemediationRequest,
        choice: &WorkflowChoice,
    ) -> Result<Step, ClientError> {
        self.audit.say(&audit::selected(request, choice)).await?;
        let new = NewExecution {
            request_id: request.id,
            parameters: std::collections::BTreeMap::new(),
        };
        let created = self
            .storage
            .create_execution(request.resource_version, &new)
            .await;
        match created {
            Ok(created) => {
                if created.is_new {
                    metrics::counter!("executions_started_total").increment(1);
                }
                tracing::info!(execution_id = %created.value.id, workflow = choice.name, "execution started");
                Ok(Step::Waits)
            }
            Err(error) => match refusal(&error) {
                Refusal::Busy(holder) => self.wait(request, &holder).await,
                Refusal::ForGood => {
                    let reason = format!("the workflow cannot be started: {error}");
                    self.enter(request, RequestPhase::Failed, reason).await
                }
                Refusal::ForNow => Err(error),
            },
        }
    }

    /// Says once for whom the request waits; it is tried again with each pass.
    async fn wait(&self, request: &RemediationRequest, holder: &str) -> Result<Step, ClientError> {
        let reason = format!("waits: the target is held by execution {holder}");
        if request.reason.as_ref() == Some(&reason) {
            return Ok(Step::Waits);
        }
        self.audit.say(&audit::waiting(request, &reason)).await?;
        let waiting = PatchRemediationRequest {
            reason: Some(reason),
            ..PatchRemediationRequest::default()
        };
        self.patch(request, "wait", waiting).await?;
        metrics::counter!("target_busy_total").increment(1);
        Ok(Step::Waits)
    }

    async fn follow(&self, request: &RemediationRequest) -> Result<Step, ClientError> {
        let Some(execution) = self.execution(request).await? else {
            return Ok(Step::Waits);
        };
        match execution.phase {
            ExecutionPhase::Completed => {
                let reason = "the execution completed".to_owned();
                self.enter(request, RequestPhase::Verifying, reason).await
            }
            ExecutionPhase::Failed => {
                self.audit.say(&audit::failed(request, &execution)).await?;
                let reason = why_failed(&execution);
                self.enter(request, RequestPhase::Failed, reason).await
            }
            ExecutionPhase::Cancelled => {
                let event = audit::cancelled(request, &execution);
                self.audit.say(&event).await?;
                let reason = request.reason.clone();
                let reason = reason.unwrap_or_else(|| "the execution was cancelled".to_owned());
                self.enter(request, RequestPhase::Cancelled, reason).await
            }
            ExecutionPhase::Pending | ExecutionPhase::Running | ExecutionPhase::Cancelling => {
                Ok(Step::Waits)
            }
        }
    }

    /// An execution completes only after its probe has found the target healed.
    async fn complete(&self, request: &RemediationRequest) -> Result<Step, ClientError> {
        let Some(execution) = self.execution(request).await? else {
            return Ok(Step::Waits);
        };
        if execution.phase != ExecutionPhase::Completed {
            tracing::error!(phase = ?execution.phase, "verifying what has not completed");
            return Ok(Step::Waits);
        }
        self.audit
            .say(&audit::completed(request, &execution))
            .await?;
        let reason = match &execution.workflow.probe {
            Some(_) => "the probe found the target healed",
            None => "every step succeeded; the workflow has no probe",
        };
        self.enter(request, RequestPhase::Completed, reason.to_owned())
            .await
    }

    async fn execution(
        &self,
        request: &RemediationRequest,
    ) -> Result<Option<Execution>, ClientError> {
        let Some(id) = request.execution_id else {
            tracing::error!(phase = ?request.phase, "a request in this phase has an execution");
            return Ok(None);
        };
        self.storage.execution(id).await.map(Some)
    }

    async fn enter(
        &self,
        request: &RemediationRequest,
        phase: RequestPhase,
        reason: String,
    ) -> Result<Step, ClientError> {
        let patch = PatchRemediationRequest {
            phase: Some(phase),
            reason: Some(reason),
            ..PatchRemediationRequest::default()
        };
        let step = format!("{phase:?}");
        let moved = self.patch(request, &step, patch).await?;
        metrics::counter!("request_transitions_total", "to" => step).increment(1);
        Ok(moved)
    }

    async fn patch(
        &self,
        request: &RemediationRequest,
        step: &str,
        patch: PatchRemediationRequest,
    ) -> Result<Step, ClientError> {
        let patch = PatchRemediationRequest {
            write_id: write_id(request.id, request.resource_version, step),
            reason: patch.reason.map(bounded),
            ..patch
        };
        let moved = self
            .storage
            .patch_request(request.id, request.resource_version, &patch)
            .await?;
        tracing::info!(step, phase = ?moved.phase, reason = moved.reason, "request moved");
        Ok(Step::Moved(Box::new(moved)))
    }
}

/// Why an execution was not created.
enum Refusal {
    /// Another one holds the target.
    Busy(String),
    /// What was asked for cannot be.
    ForGood,
    /// Someone was faster, or DataStorage is away, or does not accept who we are.
    ForNow,
}

fn refusal(error: &ClientError) -> Refusal {
    match error {
        ClientError::Problem {
            status: 409,
            extensions,
            ..
        } => match extensions.get("holder") {
            Some(serde_json::Value::String(holder)) => Refusal::Busy(holder.clone()),
            _ => Refusal::ForNow,
        },
        ClientError::Problem {
            status: 400 | 404 | 422,
            ..
        } => Refusal::ForGood,
        _ => Refusal::ForNow,
    }
}

/// DataStorage takes 4096 bytes, and a reason may quote what others said.
fn bounded(reason: String) -> String {
    const CHARS_MAX: usize = 1000;
    match reason.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    }
}

fn why_failed(execution: &Execution) -> String {
    match &execution.failure {
        Some(failure) => {
            let step = failure.step.as_deref().map(|step| format!(" at {step}"));
            let (reason, step) = (&failure.reason, step.unwrap_or_default());
            format!("{reason}{step}: {}", failure.message)
        }
        None => "the execution failed and does not say why".to_owned(),
    }
}

fn count_choice(outcome: &'static str) {
    metrics::counter!("workflow_choices_total", "outcome" => outcome).increment(1);
}

fn joined(
    ended: Option<Result<Result<(), ClientError>, tokio::task::JoinError>>,
) -> Result<(), ClientError> {
    match ended {
        Some(Ok(result)) => result,
        Some(Err(error)) => {
            // The request is still there and the next pass meets it again.
            tracing::error!(%error, "driving a request ended in a panic");
            Ok(())
        }
        None => Ok(()),
    }
}
