//! A step that runs a Job. The Job is named for its target, and a namespace holds one of a name: that is
//! the lock. Whoever finds the name taken by what still runs, or by what no execution has made, touches
//! nothing; what an execution that has ended left behind is removed first. A Job is made once for a step
//! and never again, whatever becomes of it; that Kubernetes may start its program twice is what the key
//! in its environment is for. It ends by itself where its holder does not live to see it, and is removed
//! where its holder is told to end.

use std::time::Duration;

use common::api::Execution;
use kubernetes::Unanswered;
use kubernetes::jobs::{Creation, Job, JobEnd, Jobs};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::call::{Made, Tally, before};
use crate::domain::JobStep;

/// How long it may take until a Job is there: what an earlier one has left goes first.
const MAKING: Duration = Duration::from_secs(8);
/// How long it may take, beyond its deadline, until a Job and its pods have ended and that is known.
const ENDING: Duration = Duration::from_secs(8);
/// How long it may take until it has gone.
const REMOVING: Duration = Duration::from_secs(8);
/// The same, of a holder that is told to end.
const ABANDONING: Duration = Duration::from_secs(4);
/// What a step takes at most beside its Job.
pub const AROUND: Duration = Duration::from_secs(24);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a container may take to end when it is told to; a part of [`ENDING`].
const DRAIN_SECONDS_MAX: u64 = 5;
/// How long a Job stays that nobody has removed, for people to look at.
const LEFT_SECONDS: u32 = 600;

/// Which execution has made a Job.
const EXECUTION: &str = "phase-zero.dev/execution";
/// For which of its steps.
const STEP: &str = "phase-zero.dev/step";
/// Why Kubernetes ends a Job whose time is over.
const OVERDUE: &str = "DeadlineExceeded";
/// The variable with the key, for what the Job calls.
const IDEMPOTENCY_KEY: &str = "IDEMPOTENCY_KEY";

/// What is to be run, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// As claimed.
    pub execution: &'a Execution,
    /// Its step.
    pub step: &'a JobStep,
    /// Names the step to its target.
    pub key: &'a str,
}

/// Why a step failed: for machines, and for people.
type Failed = (&'static str, String);

/// Runs a Job to its end, and removes it. Sends nothing once `deadline` has passed.
pub async fn run(jobs: Option<&Jobs>, order: Order<'_>, deadline: Instant) -> Made {
    let mut tally = Tally::of(&order.step.name);
    let Some(jobs) = jobs else {
        // No plan holds a Job where nobody runs one.
        return tally.made(Some((
            "jobs_unavailable",
            "no Jobs are made here".to_owned(),
        )));
    };
    let step = Step {
        jobs,
        order,
        deadline,
        name: order.execution.target.job_name(),
    };
    let mut ended = None;
    before(deadline, step.work(&mut tally, &mut ended)).await;
    let ended = ended.unwrap_or_else(|| {
        let message = "the execution's deadline passed before the end of a Job was known";
        Err(("deadline_exceeded", message.to_owned()))
    });
    tally.made(ended.err())
}

/// Has the Job of an execution removed whose holder is told to end: it would act on when the execution
/// has ended and its target is free for others. Waits for its end, not for long.
pub async fn abandon(jobs: &Jobs, execution: &Execution) {
    let (name, until) = (execution.target.job_name(), Instant::now() + ABANDONING);
    let removing = async {
        match jobs.get(&name).await {
            Ok(Some(job)) if job.label(EXECUTION) == Some(&execution.id.to_string()) => {
                clear(jobs, &job, until).await
            }
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(job = name, %error, "cannot be looked at");
                false
            }
        }
    };
    if before(until, removing).await != Some(true) {
        tracing::warn!(job = name, "the Job is left; it goes by itself");
    }
}

struct Step<'a> {
    jobs: &'a Jobs,
    order: Order<'a>,
    deadline: Instant,
    /// Of the Job.
    name: String,
}

/// What was seen of a Job that was made.
enum Seen {
    Ended(JobEnd),
    /// Somebody removed it, and what it has done is not known.
    Gone,
}

/// What stands where a Job was to be made.
#[derive(Debug)]
enum Found {
    /// It was made by a call whose answer was lost.
    Ours,
    /// An execution that has ended has left it, and it has ended too.
    Left,
    /// It must not be touched, and why.
    Busy(String),
}

impl Step<'_> {
    /// Tells how it has ended as soon as that is known: what comes after it may take too long.
    async fn work(&self, tally: &mut Tally, ended: &mut Option<Result<(), Failed>>) {
        let job = match self.make(tally).await {
            Ok(job) => job,
            Err(failed) => {
                *ended = Some(Err(failed));
                return;
            }
        };
        *ended = Some(self.follow(&job, tally, ended).await);
        let until = self.deadline.min(Instant::now() + REMOVING);
        if !clear(self.jobs, &job, until).await {
            tracing::warn!(job = self.name, "the Job is left; it goes by itself");
        }
    }

    /// Until the Job has ended; its end is told before the exit code is asked for.
    async fn follow(
        &self,
        job: &Job,
        tally: &mut Tally,
        ended: &mut Option<Result<(), Failed>>,
    ) -> Result<(), Failed> {
        let until = Instant::now() + self.order.step.deadline + ENDING;
        let until = until.min(self.deadline - REMOVING);
        let seen = self
            .jobs
            .follow(&self.name, until, |is| seen(is, job))
            .await;
        match seen {
            Ok(Some(Seen::Ended(JobEnd::Complete))) => {
                tally.exit_code = Some(0);
                Ok(())
            }
            Ok(Some(Seen::Ended(JobEnd::Failed { reason, message }))) => {
                *ended = Some(Err(self.failed(&reason, &message, None)));
                let code = self.jobs.exit_code(job).await;
                tally.exit_code = code.unwrap_or_else(|error| {
                    tracing::warn!(job = self.name, %error, "its exit code is not known");
                    None
                });
                Err(self.failed(&reason, &message, tally.exit_code))
            }
            Ok(Some(Seen::Gone)) => {
                let message = format!("Job {} was removed by somebody else", self.name);
                Err(("step_failed", message))
            }
            Ok(None) => Err(self.failed(OVERDUE, "its end was not seen in time", None)),
            Err(error) => {
                let message = format!("Job {} cannot be followed: {error}", self.name);
                Err(("step_failed", message))
            }
        }
    }

    fn failed(&self, reason: &str, message: &str, exit_code: Option<i32>) -> Failed {
        let code = exit_code.map_or_else(String::new, |code| format!(", exit code {code}"));
        let told = format!("Job {} failed: {reason}: {message}{code}", self.name);
        match reason {
            OVERDUE => ("step_timed_out", told),
            _ => ("step_failed", told),
        }
    }

    /// Makes the Job, or finds that it was made. That it may have been is noted before it is.
    async fn make(&self, tally: &mut Tally) -> Result<Job, Failed> {
        let until = Instant::now() + MAKING;
        let template = self.template(until).await?;
        let mut last = "its name is taken again and again".to_owned();
        let (mut is_unsure, mut may_create) = (false, true);
        while Instant::now() < until {
            if may_create {
                let seconds = self.seconds_left()?;
                let manifest = manifest(&template, &self.order, self.jobs.namespace(), seconds)?;
                tally.tries += 1;
                tally.touched = true;
                match self.jobs.create(&manifest).await {
                    Ok(Creation::Made(job)) => {
                        tracing::info!(job = self.name, uid = job.uid(), seconds, "Job made");
                        return Ok(*job);
                    }
                    Ok(Creation::Taken) => tally.touched = is_unsure,
                    Err(error @ Unanswered::Refused(_)) => {
                        tally.touched = is_unsure;
                        let message = format!("Job {} cannot be made: {error}", self.name);
                        return Err(("step_failed", message));
                    }
                    Err(error) => {
                        is_unsure = true;
                        last = error.to_string();
                    }
                }
            }
            // Where the answer was lost, no other is made before the name has told what there is.
            may_create = match self.jobs.get(&self.name).await {
                Ok(Some(job)) => {
                    if let Some(ours) = self.find(job, until).await? {
                        tally.touched = true;
                        return Ok(ours);
                    }
                    true
                }
                Ok(None) => true,
                Err(error) => {
                    last = error.to_string();
                    !is_unsure
                }
            };
            tokio::time::sleep(PAUSE).await;
        }
        let message = format!("Job {} could not be made in time: {last}", self.name);
        Err(("step_failed", message))
    }

    /// The Job that has the name, if it is that of this very step. What was left goes.
    async fn find(&self, job: Job, until: Instant) -> Result<Option<Job>, Failed> {
        let message = match found(&job, &self.order) {
            Found::Ours => return Ok(Some(job)),
            Found::Busy(message) => message,
            Found::Left if clear(self.jobs, &job, until).await => return Ok(None),
            Found::Left => format!("Job {} was left, and does not go", self.name),
        };
        Err(("target_busy", message))
    }

    async fn template(&self, until: Instant) -> Result<Value, Failed> {
        let name = &self.order.step.template;
        loop {
            let error = match self.jobs.template(name).await {
                Ok(Some(template)) => return Ok(template),
                Ok(None) => {
                    let namespace = self.jobs.namespace();
                    let message = format!("there is no PodTemplate {name} in {namespace}");
                    return Err(("no_such_template", message));
                }
                Err(error) => error,
            };
            let may_pass = matches!(error, Unanswered::Away(_));
            if !may_pass || Instant::now() + PAUSE >= until {
                let message = format!("PodTemplate {name} cannot be read: {error}");
                return Err(("step_failed", message));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// How long a Job that is made now may run: what its end takes is left besides.
    fn seconds_left(&self) -> Result<u64, Failed> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let left = left.saturating_sub(ENDING + REMOVING);
        match self.order.step.deadline.min(left).as_secs() {
            0 => {
                let message = "too little is left until the execution's deadline to make a Job";
                Err(("deadline_exceeded", message.to_owned()))
            }
            seconds => Ok(seconds),
        }
    }
}

/// Has a Job removed and waits until it has gone; whether it has.
async fn clear(jobs: &Jobs, job: &Job, until: Instant) -> bool {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    while let Err(error) = jobs.remove(job).await {
        tracing::warn!(job = name, %error, "cannot be removed");
        let may_pass = matches!(error, Unanswered::Away(_));
        if !may_pass || Instant::now() + PAUSE >= until {
            return false;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let gone = |is: Option<&Job>| is.is_none_or(|is| is.uid() != job.uid()).then_some(());
    matches!(jobs.follow(name, until, gone).await, Ok(Some(())))
}

fn seen(is: Option<&Job>, ours: &Job) -> Option<Seen> {
    match is {
        Some(is) if is.uid() == ours.uid() => is.end().map(Seen::Ended),
        _ => Some(Seen::Gone),
    }
}

/// No other execution of the target is open, so that of a Job with another's label has ended. Its Job
/// may run a little longer than that.
fn found(job: &Job, order: &Order<'_>) -> Found {
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let ours = order.execution.id.to_string();
    match job.label(EXECUTION) {
        None => Found::Busy(format!(
            "Job {name} is of no execution, and holds the target"
        )),
        Some(execution)
            if execution == ours && job.annotation(STEP) == Some(order.step.name.as_str()) =>
        {
            Found::Ours
        }
        Some(_) if job.is_going() || job.end().is_some() => Found::Left,
        Some(execution) => Found::Busy(format!("Job {name} of execution {execution} still runs")),
    }
}

/// What a template says, as the one pod of a Job: with the arguments of the step, without a token, and
/// never started again.
fn manifest(
    template: &Value,
    order: &Order<'_>,
    namespace: &str,
    seconds: u64,
) -> Result<Value, Failed> {
    let (execution, step) = (order.execution, order.step);
    let target = &execution.target;
    let own = json!({
        "app.kubernetes.io/part-of": "phase-zero",
        "app.kubernetes.io/managed-by": "workflowexecution",
        EXECUTION: execution.id,
    });
    let mut pod = template["template"].clone();
    pod["metadata"] = json!({
        "labels": merged(&pod["metadata"]["labels"], &own),
        "annotations": pod["metadata"]["annotations"],
    });
    let spec = &mut pod["spec"];
    spec["restartPolicy"] = "Never".into();
    spec["automountServiceAccountToken"] = false.into();
    let drain = spec["terminationGracePeriodSeconds"].as_u64();
    let drain = drain.map_or(DRAIN_SECONDS_MAX, |seconds| seconds.min(DRAIN_SECONDS_MAX));
    spec["terminationGracePeriodSeconds"] = drain.into();
    let Some([container]) = spec["containers"].as_array_mut().map(Vec::as_mut_slice) else {
        let message = format!("PodTemplate {} has not one container", step.template);
        return Err(("malformed_template", message));
    };
    let mut args = container["args"].as_array().cloned().unwrap_or_default();
    // Kubernetes would put the container's variables in the place of $(NAME).
    args.extend(step.args.iter().map(|arg| json!(arg.replace('$', "$$"))));
    container["args"] = args.into();
    let mut env = container["env"].as_array().cloned().unwrap_or_default();
    env.retain(|variable| variable["name"] != IDEMPOTENCY_KEY);
    env.push(json!({"name": IDEMPOTENCY_KEY, "value": order.key}));
    container["env"] = env.into();
    Ok(json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": target.job_name(),
            "namespace": namespace,
            "labels": merged(&template["metadata"]["labels"], &own),
            "annotations": {
                STEP: step.name,
                "phase-zero.dev/target":
                    format!("{}/{}/{}/{}", target.cluster, target.namespace, target.kind, target.name),
                "phase-zero.dev/workflow":
                    format!("{} {}", execution.workflow.name, execution.workflow.version),
            },
        },
        "spec": {
            "completions": 1,
            "parallelism": 1,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": seconds,
            "ttlSecondsAfterFinished": LEFT_SECONDS,
            "template": pod,
        },
    }))
}

/// Both, and of what both have the latter.
fn merged(labels: &Value, own: &Value) -> Map<String, Value> {
    let mut all = labels.as_object().cloned().unwrap_or_default();
    all.extend(own.as_object().cloned().unwrap_or_default());
    all
}
