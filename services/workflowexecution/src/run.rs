//! One claimed execution, from its first step to its end. Each result is reported before the next
//! step begins, which is also how a wish to cancel is heard. Whatever happens, nothing is sent
//! after the deadline, and nothing is reported after the grace that follows it.

use std::time::Duration;

use common::api::{Execution, ExecutionFailure, PatchExecution, StepResult};
use common::client::{ClientError, DataStorage};
use common::shutdown::Shutdown;
use common::transitions::ExecutionPhase;
use kubernetes::jobs::Jobs;
use tokio::time::Instant;

use crate::audit;
use crate::call::{Caller, Made};
use crate::domain::{Call, PROBE, Plan, Step, bounded, idempotency_key, write_id};
use crate::job::{self, Order};

/// How long a run may go on after shutdown was requested; its end must be reported in what is left
/// of the ten seconds.
const DRAIN: Duration = Duration::from_secs(4);
/// Between two tries to reach DataStorage.
const PAUSE: Duration = Duration::from_millis(200);

/// What a run begins with.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) storage: DataStorage,
    pub(crate) caller: Caller,
    /// Where a plan may hold Jobs.
    pub(crate) jobs: Option<Jobs>,
    pub(crate) shutdown: Shutdown,
    /// As claimed.
    pub(crate) execution: Execution,
    pub(crate) plan: Plan,
    /// By the clock of this process, begun before the claim was sent.
    pub(crate) deadline: Instant,
    /// For the last report.
    pub(crate) grace: Duration,
}

/// A claimed execution.
#[derive(Debug)]
pub(crate) struct Run {
    claim: Claim,
    results: Vec<StepResult>,
    /// Something was sent, or may have been.
    touched: bool,
    /// The step that is being made.
    underway: Option<String>,
}

/// What is made next.
enum Do<'a> {
    Step(&'a Step),
    Probe(&'a Call),
}

/// How a run ended.
#[derive(Debug)]
enum Ended {
    Completed,
    Failed(ExecutionFailure),
    Cancelled,
    /// Someone else ended it: there is nothing to report.
    Lost,
}

/// Why a report was not taken.
enum NotReported {
    Lost,
    Away(ClientError),
}

impl Run {
    pub(crate) fn new(claim: Claim) -> Self {
        Self {
            claim,
            results: Vec::new(),
            touched: false,
            underway: None,
        }
    }

    /// Makes the steps, and reports the end.
    pub(crate) async fn finish(mut self) {
        let shutdown = self.claim.shutdown.clone();
        let ended = tokio::select! {
            biased;
            ended = self.steps() => ended,
            () = drained(&shutdown) => {
                self.abandon().await;
                Ended::Failed(self.interrupted())
            }
        };
        self.end(ended).await;
    }

    /// Ends what would act on beyond this process; a call that is under way is over with it.
    async fn abandon(&self) {
        let Claim { plan, jobs, .. } = &self.claim;
        let under_way = |step: &&Step| Some(step.name()) == self.underway.as_deref();
        let step = plan.steps.iter().find(under_way);
        if let (Some(Step::Job(_)), Some(jobs)) = (step, jobs) {
            job::abandon(jobs, &self.claim.execution).await;
        }
    }

    async fn steps(&mut self) -> Ended {
        let plan = self.claim.plan.clone();
        for step in &plan.steps {
            if let Some(ended) = self.step(step.name(), Do::Step(step)).await {
                return ended;
            }
        }
        if let Some(probe) = &plan.probe
            && let Some(ended) = self.step(PROBE, Do::Probe(probe)).await
        {
            return ended;
        }
        Ended::Completed
    }

    /// Makes a step: an end, or `None` when the next one may begin.
    async fn step(&mut self, name: &str, what: Do<'_>) -> Option<Ended> {
        let claim = &self.claim;
        if claim.execution.phase == ExecutionPhase::Cancelling {
            return Some(Ended::Cancelled);
        }
        self.underway = Some(name.to_owned());
        let key = idempotency_key(claim.execution.id, name);
        let made = match what {
            Do::Step(Step::Call(call)) => claim.caller.step(call, &key, claim.deadline).await,
            Do::Step(Step::Job(step)) => {
                let order = Order {
                    execution: &claim.execution,
                    step,
                    key: &key,
                };
                job::run(claim.jobs.as_ref(), order, claim.deadline).await
            }
            Do::Probe(call) => claim.caller.probe(call, &key, claim.deadline).await,
        };
        self.underway = None;
        self.take(made).await
    }

    /// Records the result of a step: an end, or `None` when the next one may begin.
    async fn take(&mut self, made: Made) -> Option<Ended> {
        self.touched |= made.touched;
        let failure = made.failure.map(|failure| ExecutionFailure {
            was_execution_failure: self.touched,
            ..failure
        });
        let outcome = if failure.is_none() {
            "success"
        } else {
            "failure"
        };
        metrics::counter!("steps_total", "outcome" => outcome).increment(1);
        let result = &made.result;
        tracing::info!(
            step = result.name,
            tries = result.tries,
            status = result.status_code,
            exit_code = result.exit_code,
            outcome,
            "step ended"
        );
        let event = audit::step_completed(&self.claim.execution, result, failure.as_ref());
        self.results.push(made.result);
        let limit = self.limit(failure.is_some());
        if let Err(error) = until(limit, || audit::say(&self.claim.storage, &event)).await {
            tracing::error!(%error, "the event of a step could not be stored");
        }
        if let Some(failure) = failure {
            return Some(Ended::Failed(failure));
        }
        let step = format!("steps/{}", self.results.len());
        match self.report(&step, PatchExecution::default(), limit).await {
            Ok(()) => None,
            Err(NotReported::Lost) => Some(Ended::Lost),
            Err(NotReported::Away(error)) => Some(Ended::Failed(self.unreported(&error))),
        }
    }

    /// The next step needs what is left until the deadline; the end may use the grace.
    fn limit(&self, is_last: bool) -> Instant {
        if is_last {
            self.claim.deadline + self.claim.grace
        } else {
            self.claim.deadline
        }
    }

    async fn end(&mut self, ended: Ended) {
        let execution = &self.claim.execution;
        let (phase, failure, event) = match ended {
            Ended::Lost => return tracing::warn!("the execution was ended by someone else"),
            Ended::Completed => {
                let event = audit::completed(execution, self.results.len());
                (ExecutionPhase::Completed, None, event)
            }
            Ended::Cancelled => {
                let event = audit::cancelled(execution, self.results.len());
                (ExecutionPhase::Cancelled, None, event)
            }
            Ended::Failed(failure) => {
                let event = audit::failed(execution, &failure);
                (ExecutionPhase::Failed, Some(failure), event)
            }
        };
        let limit = self.limit(true);
        if let Err(error) = until(limit, || audit::say(&self.claim.storage, &event)).await {
            tracing::error!(%error, "the event of the end could not be stored");
        }
        let patch = PatchExecution {
            phase: Some(phase),
            failure,
            ..PatchExecution::default()
        };
        let step = format!("{phase:?}");
        match self.report(&step, patch, limit).await {
            Ok(()) => {
                count_end(&step);
                tracing::info!(execution_id = %self.claim.execution.id, ?phase, "execution ended");
            }
            Err(NotReported::Lost) => tracing::warn!("the end was reported by someone else"),
            Err(NotReported::Away(error)) => {
                tracing::error!(%error, "the end could not be reported; the watchdog ends it");
            }
        }
    }

    /// Writes all results so far, and what `patch` says besides. Someone else's change in between
    /// can only be a wish to cancel, or the watchdog's end.
    async fn report(
        &mut self,
        step: &str,
        patch: PatchExecution,
        limit: Instant,
    ) -> Result<(), NotReported> {
        let storage = self.claim.storage.clone();
        loop {
            let known = &self.claim.execution;
            let (id, version) = (known.id, known.resource_version);
            let patch = PatchExecution {
                write_id: write_id(id, version, step),
                holder: known.holder.clone(),
                steps: Some(self.results.clone()),
                ..patch.clone()
            };
            let error = match until(limit, || storage.patch_execution(id, version, &patch)).await {
                Ok(execution) => {
                    self.claim.execution = execution;
                    return Ok(());
                }
                Err(error) => error,
            };
            if !error.is_conflict() {
                return Err(NotReported::Away(error));
            }
            let is = until(limit, || storage.execution(id))
                .await
                .map_err(NotReported::Away)?;
            let ours = !is.phase.is_terminal() && is.holder == self.claim.execution.holder;
            if !ours || is.resource_version == version {
                tracing::warn!(%error, phase = ?is.phase, "a report was refused");
                return Err(NotReported::Lost);
            }
            self.claim.execution = is;
        }
    }

    fn interrupted(&self) -> ExecutionFailure {
        ExecutionFailure {
            reason: "interrupted".to_owned(),
            step: self.underway.clone(),
            status_code: None,
            exit_code: None,
            message: "the executor was shut down before the steps had ended".to_owned(),
            was_execution_failure: self.touched || self.underway.is_some(),
        }
    }

    fn unreported(&self, error: &ClientError) -> ExecutionFailure {
        ExecutionFailure {
            reason: "deadline_exceeded".to_owned(),
            step: None,
            status_code: None,
            exit_code: None,
            message: bounded(format!(
                "a result could not be reported before the deadline: {error}"
            )),
            was_execution_failure: self.touched,
        }
    }
}

/// Counts executions that this process ended.
pub(crate) fn count_end(phase: &str) {
    metrics::counter!("executions_ended_total", "phase" => phase.to_owned()).increment(1);
}

/// Returns a while after shutdown was requested.
async fn drained(shutdown: &Shutdown) {
    shutdown.requested().await;
    tokio::time::sleep(DRAIN).await;
}

/// Tries again while DataStorage is away and `limit` has not passed; once at the least.
async fn until<T, F: Future<Output = Result<T, ClientError>>>(
    limit: Instant,
    call: impl Fn() -> F,
) -> Result<T, ClientError> {
    loop {
        match call().await {
            Err(error) if error.is_temporary() && Instant::now() + PAUSE < limit => {
                tracing::warn!(%error, "DataStorage is away");
                tokio::time::sleep(PAUSE).await;
            }
            result => return result,
        }
    }
}
