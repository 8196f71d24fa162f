//! Drives requests to their end. It keeps nothing between two looks: what is to be done follows
//! from the row, and is done by compare-and-swap with an ID that follows from the row as well, so
//! any number of replicas may do this side by side, and a restart loses nothing. It hears of work
//! by watches, and of deadlines by asking DataStorage, whose clock is the only one that counts.

use std::sync::Arc;
use std::time::Duration;

use common::api::{
    Decision, Execution, HistoryQuery, NewExecution, PatchExecution, PatchRemediationRequest,
    RemediationRequest, RequestQuery, WorkflowChoice, WorkflowQuery,
};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::{ExecutionPhase, RequestPhase};
use common::watch::{follow_new_executions, follow_requests};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Instrument;
use uuid::Uuid;

use crate::audit::{self, Audit, Remembered};
use crate::checks::{Check, block, checks, held_by, seconds_left};
use crate::domain::{Choice, choose, needs_approval, write_id};
use crate::rules::{LiveRules, Rules};

/// Requests driven at the same time.
const DRIVEN_MAX: usize = 16;
/// What may wait to be driven.
const WAITING_MAX: usize = 64;
/// The pauses while DataStorage is away.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(3);
/// How far back the history of a target is looked at.
const HISTORY_MAX: u32 = 100;
/// What the reason of a request begins with that a person wants to end.
pub(crate) const CANCELLED_BY: &str = "cancelled by ";

/// Drives requests.
#[derive(Debug)]
pub struct Worker {
    storage: DataStorage,
    audit: Audit,
    rules: LiveRules,
    /// The moves that are in the metrics of this process.
    counted: Remembered,
    /// Between two questions for what is due.
    due_interval: Duration,
}

/// What one look at a request came to.
enum Step {
    /// It is now so, and there is more to do.
    Moved(Box<RemediationRequest>),
    /// Nothing to do before something else has happened.
    Waits,
}

/// What was heard of.
enum Heard {
    Request(RemediationRequest),
    Ended(Execution),
}

impl Worker {
    /// A worker that asks for what is due each `due_interval`.
    #[must_use]
    pub fn new(storage: DataStorage, rules: LiveRules, due_interval: Duration) -> Self {
        Self {
            audit: Audit::new(storage.clone()),
            storage,
            rules,
            counted: Remembered::default(),
            due_interval,
        }
    }

    /// Works until shutdown, and ends what it has begun. `nudges` are requests that the API has
    /// changed.
    ///
    /// # Errors
    /// Never: what goes wrong is tried again.
    pub async fn run(
        self: Arc<Self>,
        mut nudges: mpsc::Receiver<RemediationRequest>,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let (found, mut requests) = mpsc::channel(WAITING_MAX);
        let (ended, mut executions) = mpsc::channel(WAITING_MAX);
        let mut hearing = JoinSet::new();
        let (storage, end) = (self.storage.clone(), shutdown.clone());
        hearing.spawn(async move { follow_requests(storage, open(), end, found).await });
        let (storage, end) = (self.storage.clone(), shutdown.clone());
        hearing.spawn(async move { follow_new_executions(storage, ends(), end, ended).await });
        let (worker, end) = (Arc::clone(&self), shutdown.clone());
        hearing.spawn(async move { worker.drive_due(&end).await });

        let mut driven = JoinSet::new();
        while let Some(heard) = tokio::select! {
            biased;
            () = shutdown.requested() => None,
            Some(request) = nudges.recv() => Some(Heard::Request(request)),
            Some(execution) = executions.recv() => Some(Heard::Ended(execution)),
            Some(request) = requests.recv() => Some(Heard::Request(request)),
        } {
            if driven.len() >= DRIVEN_MAX {
                told(driven.join_next().await);
            }
            let (worker, end) = (Arc::clone(&self), shutdown.clone());
            driven.spawn(async move { worker.hear(heard, &end).await });
            while let Some(ended) = driven.try_join_next() {
                told(Some(ended));
            }
        }
        while let Some(ended) = driven.join_next().await {
            told(Some(ended));
        }
        while hearing.join_next().await.is_some() {}
        Ok(())
    }

    async fn hear(&self, heard: Heard, shutdown: &Shutdown) {
        match heard {
            Heard::Request(request) => self.drive(request, None, shutdown).await,
            Heard::Ended(execution) => {
                if let Some(request) = self.read(execution.request_id, shutdown).await {
                    self.drive(request, None, shutdown).await;
                }
            }
        }
    }

    /// Reads a request, again while DataStorage is away, until shutdown.
    async fn read(&self, id: Uuid, shutdown: &Shutdown) -> Option<RemediationRequest> {
        let mut pause = PAUSE;
        loop {
            match self.storage.request(id).await {
                Ok(request) => return Some(request),
                Err(error) if !error.is_temporary() => {
                    tracing::error!(%error, "what was heard of cannot be read");
                    return None;
                }
                Err(_) => {}
            }
            if !shutdown.sleep(pause).await {
                return None;
            }
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// Drives what has a deadline behind it, by the database's clock.
    async fn drive_due(&self, shutdown: &Shutdown) {
        let query = RequestQuery {
            phase: open(),
            due: true,
            limit: Some(1000),
            ..RequestQuery::default()
        };
        let mut pause = self.due_interval;
        while shutdown.sleep(pause).await {
            let due = match self.storage.requests(&query).await {
                Ok(due) => due,
                Err(error) => {
                    tracing::debug!(%error, "nobody knows what is due");
                    pause = PAUSE_MAX.min(pause * 2);
                    continue;
                }
            };
            pause = self.due_interval;
            for request in due.items {
                if shutdown.is_requested() {
                    return;
                }
                self.drive(request, Some(due.as_of), shutdown).await;
            }
        }
    }

    /// Takes a request as far as it goes now. `as_of` is when it was found to be due.
    async fn drive(
        &self,
        request: RemediationRequest,
        as_of: Option<OffsetDateTime>,
        shutdown: &Shutdown,
    ) {
        let span = common::telemetry::work_span(&request.id);
        self.drive_on(request, as_of, shutdown)
            .instrument(span)
            .await;
    }

    async fn drive_on(
        &self,
        mut request: RemediationRequest,
        mut as_of: Option<OffsetDateTime>,
        shutdown: &Shutdown,
    ) {
        let mut pause = PAUSE;
        loop {
            let step = match as_of {
                Some(as_of) if has_timed_out(&request, as_of) => {
                    self.time_out(&request, as_of).await
                }
                _ => self.step(&request, as_of.is_some()).await,
            };
            match step {
                Ok(Step::Moved(moved)) => {
                    (request, as_of, pause) = (*moved, None, PAUSE);
                }
                Ok(Step::Waits) => return,
                Err(error) if error.is_conflict() => {
                    tracing::debug!(%error, "it is not as it was; whoever changed it goes on");
                    return;
                }
                Err(error) if error.is_temporary() => {
                    tracing::warn!(%error, "DataStorage is away");
                    if !shutdown.sleep(pause).await {
                        return;
                    }
                    pause = PAUSE_MAX.min(pause * 2);
                    if let Ok(now) = self.storage.request(request.id).await {
                        request = now;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, phase = ?request.phase, "a step could not be made");
                    return;
                }
            }
        }
    }

    /// `is_due` tells that a time that the request waits for has come.
    async fn step(&self, request: &RemediationRequest, is_due: bool) -> Result<Step, ClientError> {
        let rules = self.rules.of(&request.target.namespace);
        match (request.phase, &request.workflow) {
            (RequestPhase::Pending, _) => {
                let seconds = rules.phase_seconds.pending;
                self.set_deadlines(request, seconds, &rules).await
            }
            (RequestPhase::Processing, _) => {
                let seconds = rules.phase_seconds.processing;
                self.set_deadlines(request, seconds, &rules).await
            }
            (RequestPhase::Analyzing, None) => self.choose(request, &rules).await,
            (RequestPhase::Analyzing, Some(choice)) if asks(request, &rules) => {
                self.ask(request, choice, &rules).await
            }
            (RequestPhase::Analyzing, Some(choice)) => self.start(request, choice, &rules).await,
            (RequestPhase::AwaitingApproval, Some(choice)) if is_approved(request) => {
                self.start(request, choice, &rules).await
            }
            // The rules may have changed while it was blocked.
            (RequestPhase::Blocked, Some(_)) if is_due && asks(request, &rules) => {
                let reason = "it needs an approval by now".to_owned();
                self.enter(request, RequestPhase::Analyzing, reason).await
            }
            (RequestPhase::Blocked, Some(choice)) if is_due => {
                self.start(request, choice, &rules).await
            }
            (RequestPhase::Executing, _) => self.follow(request, &rules).await,
            (RequestPhase::Verifying, _) => self.complete(request).await,
            _ => Ok(Step::Waits),
        }
    }

    /// Once for each phase: by when it must have ended. That is no change of state, and in nobody's
    /// way; the other phases get theirs as they are entered.
    async fn set_deadlines(
        &self,
        request: &RemediationRequest,
        seconds: u32,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        if request.phase_deadline.is_some() && request.deadline.is_some() {
            return Ok(Step::Waits);
        }
        let patch = PatchRemediationRequest {
            write_id: write_id(request.id, request.resource_version, "deadlines"),
            phase_deadline_seconds: Some(seconds),
            deadline_seconds: Some(rules.deadline_seconds),
            ..PatchRemediationRequest::default()
        };
        self.storage
            .patch_request(request.id, request.resource_version, &patch)
            .await?;
        Ok(Step::Waits)
    }

    /// Ends what took longer than it may. What is being executed ends after its step.
    async fn time_out(
        &self,
        request: &RemediationRequest,
        as_of: OffsetDateTime,
    ) -> Result<Step, ClientError> {
        if request.phase == RequestPhase::Executing {
            let Some(execution) = self.execution(request).await? else {
                return Ok(Step::Waits);
            };
            if execution.phase.is_terminal() {
                let rules = self.rules.of(&request.target.namespace);
                return self.follow(request, &rules).await;
            }
            stop_execution(&self.storage, request).await?;
            return Ok(Step::Waits);
        }
        let is_whole = request.deadline.is_some_and(|deadline| deadline <= as_of);
        self.timed_out(request, is_whole).await
    }

    async fn timed_out(
        &self,
        request: &RemediationRequest,
        is_whole: bool,
    ) -> Result<Step, ClientError> {
        let reason = if is_whole {
            format!(
                "timed out in {}: the whole took longer than it may",
                request.phase
            )
        } else {
            format!("timed out: {} took longer than it may", request.phase)
        };
        self.audit.say(&audit::timed_out(request, &reason)).await?;
        self.enter(request, RequestPhase::TimedOut, reason).await
    }

    /// Has a person asked.
    async fn ask(
        &self,
        request: &RemediationRequest,
        choice: &WorkflowChoice,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        self.audit.say(&audit::approval_requested(request)).await?;
        let patch = PatchRemediationRequest {
            phase: Some(RequestPhase::AwaitingApproval),
            reason: Some(format!(
                "a person must approve {} {} within {} s",
                choice.name, choice.version, rules.approval_seconds
            )),
            phase_deadline_seconds: Some(rules.approval_seconds),
            ..PatchRemediationRequest::default()
        };
        self.move_to(request, RequestPhase::AwaitingApproval, patch)
            .await
    }

    async fn choose(
        &self,
        request: &RemediationRequest,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        let catalog = self.storage.workflows(&WorkflowQuery::default()).await?;
        match choose(request, &catalog.items) {
            Choice::Chosen(choice) => {
                let chosen = PatchRemediationRequest {
                    reason: Some(choice.reason.clone()),
                    workflow: Some(choice),
                    phase_deadline_seconds: Some(rules.phase_seconds.analyzing),
                    deadline_seconds: Some(rules.deadline_seconds),
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

    /// The choice is in the row; so a crash between that and this is made good by whoever looks next.
    async fn start(
        &self,
        request: &RemediationRequest,
        choice: &WorkflowChoice,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        let history = self.storage.history(&history_of(request)).await?;
        let checks = checks(request, &history, rules);
        if let Some(check) = block(&checks) {
            return self
                .block(request, check, &checks, history.as_of, rules)
                .await;
        }
        self.audit.say(&audit::selected(request, choice)).await?;
        let new = NewExecution {
            request_id: request.id,
            parameters: std::collections::BTreeMap::new(),
            phase_deadline_seconds: Some(rules.phase_seconds.executing),
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
                Refusal::Busy(holder) => {
                    let check = held_by(&holder, history.as_of, rules);
                    let all = std::slice::from_ref(&check);
                    self.block(request, &check, all, history.as_of, rules).await
                }
                Refusal::ForGood => {
                    let reason = format!("the workflow cannot be started: {error}");
                    self.enter(request, RequestPhase::Failed, reason).await
                }
                Refusal::ForNow => Err(error),
            },
        }
    }

    /// Holds a request back until the time of a verdict; it is said once for each verdict.
    async fn block(
        &self,
        request: &RemediationRequest,
        check: &Check,
        checks: &[Check],
        as_of: OffsetDateTime,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        let until = check.blocked_until.unwrap_or(as_of);
        let reason = format!("blocked: {}", check.reason);
        let patch = PatchRemediationRequest {
            blocked_for_seconds: Some(seconds_left(until, as_of)),
            reason: Some(reason.clone()),
            ..PatchRemediationRequest::default()
        };
        if request.phase == RequestPhase::Blocked {
            self.patch(request, "block", patch).await?;
            return Ok(Step::Waits);
        }
        self.audit.say(&audit::blocked(request, checks)).await?;
        let patch = PatchRemediationRequest {
            phase: Some(RequestPhase::Blocked),
            phase_deadline_seconds: Some(rules.phase_seconds.blocked),
            ..patch
        };
        self.move_to(request, RequestPhase::Blocked, patch).await?;
        let check = serde_json::to_value(check.subject).unwrap_or_default();
        let check = check.as_str().unwrap_or_default().to_owned();
        metrics::counter!("requests_blocked_total", "check" => check).increment(1);
        Ok(Step::Waits)
    }

    async fn follow(
        &self,
        request: &RemediationRequest,
        rules: &Rules,
    ) -> Result<Step, ClientError> {
        let Some(execution) = self.execution(request).await? else {
            return Ok(Step::Waits);
        };
        match execution.phase {
            ExecutionPhase::Completed => {
                let patch = PatchRemediationRequest {
                    phase: Some(RequestPhase::Verifying),
                    reason: Some("the execution completed".to_owned()),
                    phase_deadline_seconds: Some(rules.phase_seconds.verifying),
                    ..PatchRemediationRequest::default()
                };
                self.move_to(request, RequestPhase::Verifying, patch).await
            }
            ExecutionPhase::Failed => {
                self.audit.say(&audit::failed(request, &execution)).await?;
                let reason = why_failed(&execution);
                self.enter(request, RequestPhase::Failed, reason).await
            }
            ExecutionPhase::Cancelled => {
                let reason = request.reason.clone().unwrap_or_default();
                let asked = reason.starts_with(CANCELLED_BY);
                if !asked && has_timed_out(request, execution.updated_at) {
                    let deadline = request.deadline;
                    let is_whole = deadline.is_some_and(|at| at <= execution.updated_at);
                    return self.timed_out(request, is_whole).await;
                }
                let event = audit::cancelled(request, &execution);
                self.audit.say(&event).await?;
                let reason = if asked {
                    reason
                } else {
                    "the execution was cancelled".to_owned()
                };
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
        let held =
            request.phase == RequestPhase::Executing || request.phase == RequestPhase::Verifying;
        let moved = self.move_to(request, phase, patch).await?;
        if held && phase.is_terminal() {
            self.resume_blocked(request).await?;
        }
        Ok(moved)
    }

    /// Who waits for this target goes on at once, not only when its time has come.
    async fn resume_blocked(&self, request: &RemediationRequest) -> Result<(), ClientError> {
        let target = &request.target;
        let query = RequestQuery {
            phase: vec![RequestPhase::Blocked],
            target: Some(target_filter(request)),
            ..RequestQuery::default()
        };
        let rules = self.rules.of(&target.namespace);
        for blocked in self.storage.requests(&query).await?.items {
            let Some(choice) = &blocked.workflow else {
                continue;
            };
            let span = common::telemetry::work_span(&blocked.id);
            // Boxed, since to start may be to end, and to end may be to start another.
            let started = Box::pin(self.start(&blocked, choice, &rules));
            let started = started.instrument(span).await;
            match started {
                Err(error) if error.is_conflict() => {}
                result => drop(result?),
            }
        }
        Ok(())
    }

    async fn move_to(
        &self,
        request: &RemediationRequest,
        phase: RequestPhase,
        patch: PatchRemediationRequest,
    ) -> Result<Step, ClientError> {
        let step = format!("{phase:?}");
        let moved = self.patch(request, &step, patch).await?;
        // A row that is heard of twice is moved once, and the second time gets the first answer.
        let write = write_id(request.id, request.resource_version, &step);
        if self.counted.is_new(write) {
            metrics::counter!("request_transitions_total", "to" => step).increment(1);
        }
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

fn told(ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(error)) = ended {
        // The request is still there, and the next list shows it again.
        tracing::error!(%error, "driving a request ended in a panic");
    }
}

fn open() -> Vec<RequestPhase> {
    let all = RequestPhase::ALL.into_iter();
    all.filter(|phase| !phase.is_terminal()).collect()
}

fn ends() -> Vec<ExecutionPhase> {
    let all = ExecutionPhase::ALL.into_iter();
    all.filter(|phase| phase.is_terminal()).collect()
}

fn has_timed_out(request: &RemediationRequest, as_of: OffsetDateTime) -> bool {
    let deadlines = [request.phase_deadline, request.deadline];
    deadlines.into_iter().flatten().any(|at| at <= as_of)
}

fn asks(request: &RemediationRequest, rules: &Rules) -> bool {
    request.approval.is_none() && needs_approval(request, rules)
}

fn is_approved(request: &RemediationRequest) -> bool {
    let approval = request.approval.as_ref();
    approval.is_some_and(|approval| approval.decision == Decision::Approved)
}

/// What was done to the target of a request.
pub(crate) fn history_of(request: &RemediationRequest) -> HistoryQuery {
    HistoryQuery {
        target: target_filter(request),
        cluster: Some(request.target.cluster.clone()),
        limit: Some(HISTORY_MAX),
    }
}

fn target_filter(request: &RemediationRequest) -> String {
    let target = &request.target;
    format!("{}/{}/{}", target.namespace, target.kind, target.name)
}

/// Asks an execution to end after the step that it is at; one that nobody has claimed ends at once.
pub(crate) async fn stop_execution(
    storage: &DataStorage,
    request: &RemediationRequest,
) -> Result<(), ClientError> {
    let Some(id) = request.execution_id else {
        return Ok(());
    };
    // The holder writes after each step, so the version read here may be stale at once.
    const TRIES_MAX: u32 = 5;
    let mut tries = 0;
    loop {
        let execution = storage.execution(id).await?;
        let phase = match execution.phase {
            ExecutionPhase::Pending => ExecutionPhase::Cancelled,
            ExecutionPhase::Running => ExecutionPhase::Cancelling,
            _ => return Ok(()),
        };
        let patch = PatchExecution {
            write_id: write_id(id, execution.resource_version, &format!("{phase:?}")),
            phase: Some(phase),
            ..PatchExecution::default()
        };
        tries += 1;
        match storage
            .patch_execution(id, execution.resource_version, &patch)
            .await
        {
            Ok(_) => return Ok(()),
            Err(error) if error.is_conflict() && tries < TRIES_MAX => {}
            Err(error) => return Err(error),
        }
    }
}
