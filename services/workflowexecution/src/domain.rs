//! From a stored execution to the calls that will be made: parameters are put in, everything is
//! checked, and the time it may take is known before the first call. It calls nobody, and a plan
//! that exists has no parameter left to doubt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::api::{Action, Execution, ExecutionFailure, HttpCall, JobCall};
use reqwest::{Method, Url};
use serde_json::Value;
use uuid::Uuid;

use crate::{job, template};

/// Parameters that every workflow may use: they are the target.
const TARGET_PARAMETERS: [&str; 4] = ["cluster", "namespace", "kind", "name"];
/// What the verification is called among the steps.
pub const PROBE: &str = "probe";
/// The longest claim that DataStorage grants.
const CLAIM_SECONDS_MAX: u64 = 3600;
/// Waited before the second try; doubled for each further one.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(2);

/// All that an execution will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// After them.
    pub probe: Option<Call>,
}

/// One step with its parameters put in.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// It calls.
    Call(Call),
    /// It runs a Job.
    Job(JobStep),
}

/// Whether there is somebody who runs Jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobSteps {
    /// There is.
    Run,
    /// There is not.
    Refused,
}

/// One Job with its parameters put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobStep {
    /// Name of the step.
    pub name: String,
    /// Name of the PodTemplate.
    pub template: String,
    /// Added to those of the template.
    pub args: Vec<String>,
    /// How long it may run.
    pub deadline: Duration,
}

/// One call with its parameters put in.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Name of the step.
    pub name: String,
    /// How it is asked.
    pub method: Method,
    /// What is asked.
    pub url: Url,
    /// What is sent.
    pub body: Option<Value>,
    /// Status codes that mean success.
    pub expected_status: Vec<u16>,
    /// Deadline of one try.
    pub timeout: Duration,
    /// How many tries at most.
    pub tries_max: u32,
    /// Status codes that may be tried again.
    pub retry_on_status: Vec<u16>,
    /// A try whose end is not known may be made again.
    pub idempotent: bool,
}

impl Plan {
    /// Prepares an execution.
    ///
    /// # Errors
    /// The first thing that is wrong, as the failure of an execution that has touched nothing.
    pub fn of(execution: &Execution, job_steps: JobSteps) -> Result<Self, ExecutionFailure> {
        let parameters = declared(execution);
        let workflow = &execution.workflow;
        let steps = workflow
            .steps
            .iter()
            .map(|step| match &step.action {
                Action::Http(http) => prepare(&step.name, http, &parameters).map(Step::Call),
                Action::Job(job) => prepare_job(&step.name, job, &parameters, job_steps),
            })
            .collect::<Result<_, _>>()?;
        let probe = workflow
            .probe
            .as_ref()
            .map(|probe| prepare(PROBE, probe, &parameters))
            .transpose()?;
        let plan = Self { steps, probe };
        plan.refuse_ambiguous_names()?;
        plan.refuse_acting_probe()?;
        Ok(plan)
    }

    /// Two steps of one name would carry one key, and the target would take them for the same.
    fn refuse_ambiguous_names(&self) -> Result<(), ExecutionFailure> {
        let mut seen = BTreeSet::new();
        let probe = self.probe.iter().map(|probe| probe.name.as_str());
        for name in self.steps.iter().map(Step::name).chain(probe) {
            if !seen.insert(name) {
                let message = format!("two steps are named {name}");
                return Err(refused("malformed_workflow", Some(name), message));
            }
        }
        Ok(())
    }

    /// A probe is asked again and again, so it must only look.
    fn refuse_acting_probe(&self) -> Result<(), ExecutionFailure> {
        match &self.probe {
            Some(probe) if !probe.method.is_safe() => {
                let message = format!("the probe would {}: it is asked often", probe.method);
                Err(refused("malformed_workflow", Some(PROBE), message))
            }
            _ => Ok(()),
        }
    }

    /// How long a claim must hold: every try of every call up to its deadline, the pauses between
    /// them, every Job with what its begin and its end may take, and `slack` for what is reported in between.
    #[must_use]
    pub fn claim_seconds(&self, slack: Duration) -> u32 {
        let probe = self.probe.iter().map(Call::budget);
        let all: Duration = self.steps.iter().map(Step::budget).chain(probe).sum();
        let seconds = all.saturating_add(slack).as_millis().div_ceil(1000);
        u32::try_from(seconds.clamp(1, CLAIM_SECONDS_MAX.into())).unwrap_or(u32::MAX)
    }
}

impl Step {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Call(call) => &call.name,
            Self::Job(job) => &job.name,
        }
    }

    /// The time that it may take.
    #[must_use]
    pub fn budget(&self) -> Duration {
        match self {
            Self::Call(call) => call.budget(),
            Self::Job(job) => job.deadline.saturating_add(job::AROUND),
        }
    }
}

impl Call {
    /// The time of all tries and of the pauses between them.
    #[must_use]
    pub fn budget(&self) -> Duration {
        let tries = self.timeout.saturating_mul(self.tries_max);
        (1..self.tries_max.min(3600))
            .map(pause_after)
            .fold(tries, Duration::saturating_add)
    }
}

/// How long to wait after the given try, counted from 1.
#[must_use]
pub fn pause_after(tries: u32) -> Duration {
    RETRY_PAUSE
        .saturating_mul(2_u32.saturating_pow(tries.saturating_sub(1)))
        .min(RETRY_PAUSE_MAX)
}

/// Names a call to its target: the same for all tries of one step, never the same for two steps.
#[must_use]
pub fn idempotency_key(execution: Uuid, step: &str) -> String {
    format!("{execution}/{step}")
}

/// The ID of a write: the same in every replica that takes this step from this version.
#[must_use]
pub fn write_id(execution: Uuid, resource_version: i64, step: &str) -> Uuid {
    Uuid::new_v5(
        &execution,
        format!("write/{resource_version}/{step}").as_bytes(),
    )
}

/// A failure of what was asked for, before anything was touched.
pub(crate) fn refused(reason: &str, step: Option<&str>, message: String) -> ExecutionFailure {
    ExecutionFailure {
        reason: reason.to_owned(),
        step: step.map(str::to_owned),
        status_code: None,
        exit_code: None,
        message: bounded(message),
        was_execution_failure: false,
    }
}

/// DataStorage takes 4096 bytes; a URL alone may be that long.
pub(crate) fn bounded(message: String) -> String {
    const CHARS_MAX: usize = 1000;
    match message.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}

/// The parameters that steps may use; the value is absent where none was given.
fn declared(execution: &Execution) -> BTreeMap<&str, Option<&str>> {
    TARGET_PARAMETERS
        .into_iter()
        .chain(execution.workflow.parameters.iter().map(String::as_str))
        .map(|name| (name, execution.parameters.get(name).map(String::as_str)))
        .collect()
}

fn prepare(
    name: &str,
    http: &HttpCall,
    parameters: &BTreeMap<&str, Option<&str>>,
) -> Result<Call, ExecutionFailure> {
    let told = |error: template::Error| refused(error.reason(), Some(name), error.to_string());
    let method = Method::from_bytes(http.method.as_bytes()).map_err(|_| {
        refused(
            "malformed_workflow",
            Some(name),
            format!("{:?} is no method", http.method),
        )
    })?;
    Ok(Call {
        name: name.to_owned(),
        method,
        url: template::url(&http.url, parameters).map_err(told)?,
        body: http
            .body
            .as_ref()
            .map(|body| template::body(body, parameters))
            .transpose()
            .map_err(told)?,
        expected_status: http.expected_status.clone(),
        timeout: Duration::from_millis(http.timeout_ms),
        tries_max: http.retries_max.saturating_add(1),
        retry_on_status: http.retry_on_status.clone(),
        idempotent: http.idempotent,
    })
}

fn prepare_job(
    name: &str,
    job: &JobCall,
    parameters: &BTreeMap<&str, Option<&str>>,
    job_steps: JobSteps,
) -> Result<Step, ExecutionFailure> {
    if job_steps == JobSteps::Refused {
        let message =
            "a step runs a Job, and there is no Kubernetes here that would; see --kubernetes-jobs";
        return Err(refused("jobs_unavailable", Some(name), message.to_owned()));
    }
    let told = |error: template::Error| refused(error.reason(), Some(name), error.to_string());
    let args = job.args.iter();
    let args = args.map(|arg| template::argument(arg, parameters));
    Ok(Step::Job(JobStep {
        name: name.to_owned(),
        template: job.template.clone(),
        args: args.collect::<Result<_, _>>().map_err(told)?,
        deadline: Duration::from_secs(job.deadline_seconds.into()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::api::{NewWorkflow, Target, WorkflowStep};
    use common::transitions::ExecutionPhase;
    use serde_json::json;
    use time::OffsetDateTime;

    fn call(value: &Value) -> HttpCall {
        serde_json::from_value(value.clone()).expect("a call")
    }

    fn step(name: String, value: &Value) -> WorkflowStep {
        let action = if value["template"].is_null() {
            Action::Http(call(value))
        } else {
            Action::Job(serde_json::from_value(value.clone()).expect("a Job"))
        };
        WorkflowStep { name, action }
    }

    fn call_of(step: &Step) -> &Call {
        match step {
            Step::Call(call) => call,
            Step::Job(job) => panic!("{job:?}"),
        }
    }

    fn execution(declared: &[&str], given: &[(&str, &str)], steps: &[Value]) -> Execution {
        Execution {
            id: Uuid::nil(),
            resource_version: 1,
            request_id: Uuid::nil(),
            attempt: 1,
            phase: ExecutionPhase::Pending,
            target: Target {
                cluster: "local".to_owned(),
                namespace: "shop".to_owned(),
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            },
            workflow: NewWorkflow {
                name: "restart".to_owned(),
                version: "1.0.0".to_owned(),
                labels: BTreeMap::new(),
                steps: steps
                    .iter()
                    .enumerate()
                    .map(|(index, value)| step(format!("step-{index}"), value))
                    .collect(),
                parameters: declared.iter().map(|name| (*name).to_owned()).collect(),
                probe: None,
            },
            workflow_digest: "0".repeat(64),
            parameters: [("name", "web"), ("namespace", "shop")]
                .iter()
                .chain(given)
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            holder: None,
            deadline: None,
            steps: Vec::new(),
            failure: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[track_caller]
    fn check(execution: &Execution, expected: Result<&[&str], &str>) {
        let plan = Plan::of(execution, JobSteps::Run);
        let urls: Result<Vec<&str>, &str> = match &plan {
            Ok(plan) => Ok(plan
                .steps
                .iter()
                .map(|step| call_of(step).url.as_str())
                .collect()),
            Err(failure) => {
                assert!(!failure.was_execution_failure);
                Err(failure.reason.as_str())
            }
        };
        assert_eq!(urls, expected.map(<[&str]>::to_vec));
    }

    #[test]
    fn only_declared_parameters_may_be_used() {
        let step = json!({"method": "POST", "url": "http://testbed:8080/restart?name={who}"});
        check(
            &execution(&["who"], &[("who", "a b&c")], std::slice::from_ref(&step)),
            Ok(&["http://testbed:8080/restart?name=a%20b%26c"]),
        );
        check(
            &execution(&[], &[("who", "me")], std::slice::from_ref(&step)),
            Err("undeclared_parameter"),
        );
        check(&execution(&["who"], &[], &[step]), Err("missing_parameter"));
    }

    #[test]
    fn the_target_is_always_declared() {
        let step = json!({"method": "POST", "url": "http://testbed:8080/{namespace}/{name}"});
        check(
            &execution(&[], &[], &[step]),
            Ok(&["http://testbed:8080/shop/web"]),
        );
    }

    #[test]
    fn a_bad_last_step_refuses_the_whole() {
        let good = json!({"method": "POST", "url": "http://testbed:8080/restart"});
        let bad = json!({"method": "POST", "url": "http://testbed:8080/", "body": {"a": ["{x}"]}});
        let failure =
            Plan::of(&execution(&[], &[], &[good, bad]), JobSteps::Run).expect_err("undeclared");
        assert_eq!(failure.reason, "undeclared_parameter");
        assert_eq!(failure.step.as_deref(), Some("step-1"));
    }

    #[test]
    fn the_probe_is_checked_too() {
        let mut execution = execution(&[], &[], &[]);
        execution.workflow.probe = Some(call(
            &json!({"method": "GET", "url": "http://testbed:8080/{x}"}),
        ));
        check(&execution, Err("undeclared_parameter"));
    }

    #[test]
    fn a_probe_must_only_look_and_have_its_own_name() {
        let mut execution = execution(&[], &[], &[json!({"method": "POST", "url": "http://t/"})]);
        execution.workflow.probe = Some(call(&json!({"method": "GET", "url": "http://t/"})));
        check(&execution, Ok(&["http://t/"]));
        execution.workflow.steps[0].name = PROBE.to_owned();
        check(&execution, Err("malformed_workflow"));
        execution.workflow.steps[0].name = "restart".to_owned();
        execution.workflow.probe = Some(call(&json!({"method": "POST", "url": "http://t/"})));
        check(&execution, Err("malformed_workflow"));
    }

    #[test]
    fn a_claim_holds_for_every_try_and_the_slack() {
        let step =
            json!({"method": "POST", "url": "http://t/", "timeout_ms": 1500, "retries_max": 2});
        let plan = Plan::of(&execution(&[], &[], &[step]), JobSteps::Run).expect("a plan");
        // Three tries of 1.5 s, pauses of 0.1 and 0.2 s.
        assert_eq!(plan.steps[0].budget(), Duration::from_millis(4_800));
        assert_eq!(plan.claim_seconds(Duration::ZERO), 5);
        assert_eq!(plan.claim_seconds(Duration::from_secs(10)), 15);
        let step = json!({"method": "POST", "url": "http://t/", "timeout_ms": u64::MAX, "retries_max": u32::MAX});
        let plan = Plan::of(&execution(&[], &[], &[step]), JobSteps::Run).expect("a plan");
        assert_eq!(plan.claim_seconds(Duration::from_secs(10)), 3600);
    }

    #[test]
    fn a_job_is_planned_or_refused_before_anything_is_done() {
        let first = json!({"method": "POST", "url": "http://t/"});
        let job = json!({"template": "restart", "args": ["restart", "--name={name}"], "deadline_seconds": 7});
        let both = execution(&[], &[], &[first, job]);
        let plan = Plan::of(&both, JobSteps::Run).expect("a plan");
        let expected = JobStep {
            name: "step-1".to_owned(),
            template: "restart".to_owned(),
            args: vec!["restart".to_owned(), "--name=web".to_owned()],
            deadline: Duration::from_secs(7),
        };
        assert_eq!(plan.steps[1], Step::Job(expected));
        assert_eq!(plan.steps[1].budget(), Duration::from_secs(7) + job::AROUND);
        let failure = Plan::of(&both, JobSteps::Refused).expect_err("no Kubernetes");
        assert_eq!(
            (failure.reason.as_str(), failure.step.as_deref()),
            ("jobs_unavailable", Some("step-1"))
        );
        assert!(!failure.was_execution_failure);
        let undeclared = json!({"template": "restart", "args": ["{other}"]});
        let undeclared = execution(&[], &[], &[undeclared]);
        let failure = Plan::of(&undeclared, JobSteps::Run).expect_err("undeclared");
        assert_eq!(failure.reason, "undeclared_parameter");
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        assert_eq!(bounded("é".repeat(1000)), "é".repeat(1000));
        assert_eq!(bounded("é".repeat(1001)), format!("{}…", "é".repeat(1000)));
    }

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses: Vec<u128> = (1..8).map(|tries| pause_after(tries).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 2000, 2000]);
    }
}
