//! Workflow executions: their IDs, and what a patch makes of one. Who may do what stands in the
//! transition table of `common`; between a claim and its deadline the holder alone may act.

use common::api::{Execution, PatchExecution};
use common::auth::Caller;
use common::problem::{Answer, Problem};
use common::transitions::{EXECUTION_TRANSITIONS, ExecutionPhase, Legality};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::text;

const CLAIM_SECONDS_MAX: u32 = 3600;

/// The same request and attempt always give the same ID.
pub(crate) fn id(request: Uuid, attempt: i32) -> Uuid {
    Uuid::new_v5(&request, format!("execution/{attempt}").as_bytes())
}

/// Judges what a patch says, without knowing the execution.
pub(crate) fn parse_patch(patch: &PatchExecution) -> Answer<()> {
    text::optional_name("holder", patch.holder.as_deref())?;
    if let Some(seconds) = patch.deadline_seconds
        && !(1..=CLAIM_SECONDS_MAX).contains(&seconds)
    {
        return Err(Problem::bad_request(format!(
            "deadline_seconds: 1 to {CLAIM_SECONDS_MAX} are possible"
        )));
    }
    if let Some(failure) = &patch.failure {
        text::name("failure.reason", &failure.reason)?;
        text::optional_sentence("failure.message", Some(&failure.message))?;
    }
    let fails = patch.phase == Some(ExecutionPhase::Failed);
    match (&patch.failure, fails) {
        (None, true) => Err(Problem::bad_request("failure: comes with the phase Failed")),
        (Some(_), false) => Err(Problem::bad_request(
            "failure: comes with the phase Failed alone",
        )),
        _ => Ok(()),
    }
}

/// What becomes of `execution` when `caller` patches it. `now` is the database's clock.
pub(crate) fn patched(
    execution: &Execution,
    patch: &PatchExecution,
    caller: &Caller,
    now: OffsetDateTime,
) -> Answer<Execution> {
    let (from, to) = (execution.phase, patch.phase.unwrap_or(execution.phase));
    if from == to {
        check_same_phase(from, caller)?;
    } else {
        check_transition(from, to, caller)?;
    }
    check_holder(execution, patch, caller, now)?;
    let mut next = execution.clone();
    next.phase = to;
    next.resource_version += 1;
    next.updated_at = now;
    let is_claim = (from, to) == (ExecutionPhase::Pending, ExecutionPhase::Running);
    match (is_claim, &patch.holder, patch.deadline_seconds) {
        (true, Some(holder), Some(seconds)) => {
            next.holder = Some(holder.clone());
            next.deadline = Some(now + Duration::seconds(i64::from(seconds)));
        }
        (true, ..) => {
            return Err(Problem::bad_request(
                "holder, deadline_seconds: both come with a claim",
            ));
        }
        (false, _, Some(_)) => {
            return Err(Problem::bad_request(
                "deadline_seconds: comes with a claim alone",
            ));
        }
        (false, _, None) => {}
    }
    next.steps = patch.steps.clone().unwrap_or(next.steps);
    next.failure = patch.failure.clone().or(next.failure);
    Ok(next)
}

fn check_transition(from: ExecutionPhase, to: ExecutionPhase, caller: &Caller) -> Answer<()> {
    match from.may_become(to, &caller.subject) {
        Legality::Legal => Ok(()),
        Legality::NotYours => Err(Problem::forbidden(format!(
            "the transition from {from} to {to} is not for `{}` to make",
            caller.subject
        ))),
        Legality::Illegal => Err(Problem::conflict(format!(
            "there is no transition from {from} to {to}"
        ))),
    }
}

/// Fields change within a phase only by someone who may end that phase.
fn check_same_phase(phase: ExecutionPhase, caller: &Caller) -> Answer<()> {
    if phase.is_terminal() {
        return Err(Problem::conflict(format!(
            "the execution has ended: {phase}"
        )));
    }
    let subject: &str = &caller.subject;
    let is_theirs = EXECUTION_TRANSITIONS
        .iter()
        .any(|(from, _, subjects)| *from == phase && subjects.contains(&subject));
    if !is_theirs {
        return Err(Problem::forbidden(format!(
            "an execution in {phase} is not for `{subject}` to change"
        )));
    }
    Ok(())
}

/// Of those who may claim, only the one who did may act, until the deadline has passed.
fn check_holder(
    execution: &Execution,
    patch: &PatchExecution,
    caller: &Caller,
    now: OffsetDateTime,
) -> Answer<()> {
    let claims = ExecutionPhase::Pending.may_become(ExecutionPhase::Running, &caller.subject);
    let (Some(holder), Some(deadline)) = (&execution.holder, execution.deadline) else {
        return Ok(());
    };
    if claims != Legality::Legal || deadline <= now || patch.holder.as_ref() == Some(holder) {
        return Ok(());
    }
    Err(Problem::conflict(format!("`{holder}` holds the execution"))
        .with("holder", holder.as_str()))
}

#[cfg(test)]
mod tests {
    use common::auth::Role;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 18:00 UTC);

    fn execution(phase: ExecutionPhase, holder: Option<&str>) -> Execution {
        let call = json!({"method": "GET", "url": "http://a/"});
        let execution = json!({
            "id": Uuid::nil(), "resource_version": 1, "request_id": Uuid::nil(), "attempt": 1,
            "phase": phase, "workflow_digest": "", "parameters": {}, "steps": [], "failure": null,
            "target": {"cluster": "c", "namespace": "n", "kind": "Deployment", "name": "web"},
            "workflow": {"name": "a", "version": "1", "labels": {}, "steps": [{"name": "s", "http": call}]},
            "holder": holder, "deadline": holder.map(|_| "2026-11-23T18:00:10Z"),
            "created_at": "2026-11-23T17:00:00Z", "updated_at": "2026-11-23T17:00:00Z"
        });
        serde_json::from_value(execution).expect("execution")
    }

    fn patch(fields: Value) -> PatchExecution {
        let mut patch = json!({"write_id": Uuid::nil()});
        let fields = fields.as_object().expect("object").clone();
        patch.as_object_mut().expect("object").extend(fields);
        serde_json::from_value(patch).expect("patch")
    }

    #[track_caller]
    fn check(
        execution: &Execution,
        fields: Value,
        subject: &str,
        now: OffsetDateTime,
        expected: u16,
    ) {
        let patch = patch(fields);
        let caller = Caller {
            subject: subject.into(),
            role: Role::Write,
        };
        let outcome = parse_patch(&patch).and_then(|()| patched(execution, &patch, &caller, now));
        let status = outcome.map_or_else(|problem| problem.status().as_u16(), |_| 200);
        assert_eq!(status, expected, "{patch:?} by {subject}");
    }

    #[test]
    fn a_claim_names_holder_and_deadline() {
        let pending = execution(ExecutionPhase::Pending, None);
        let claim = json!({"phase": "Running", "holder": "a", "deadline_seconds": 10});
        check(&pending, claim.clone(), "workflowexecution", NOW, 200);
        check(&pending, claim, "remediationorchestrator", NOW, 403);
        check(
            &pending,
            json!({"phase": "Running", "holder": "a"}),
            "workflowexecution",
            NOW,
            400,
        );
        check(
            &pending,
            json!({"phase": "Running", "deadline_seconds": 1}),
            "workflowexecution",
            NOW,
            400,
        );
        check(
            &pending,
            json!({"phase": "Completed"}),
            "workflowexecution",
            NOW,
            409,
        );
    }

    #[test]
    fn the_holder_alone_acts_until_the_deadline() {
        let running = execution(ExecutionPhase::Running, Some("a"));
        let later = NOW + Duration::seconds(10);
        let failure =
            json!({"reason": "deadline_exceeded", "message": "m", "was_execution_failure": true});
        let fail = |holder: &str| json!({"phase": "Failed", "holder": holder, "failure": failure});
        check(&running, fail("a"), "workflowexecution", NOW, 200);
        check(&running, fail("b"), "workflowexecution", NOW, 409);
        check(&running, fail("b"), "workflowexecution", later, 200);
        check(
            &running,
            json!({"phase": "Completed"}),
            "workflowexecution",
            NOW,
            409,
        );
        check(
            &running,
            json!({"phase": "Cancelling"}),
            "remediationorchestrator",
            NOW,
            200,
        );
        check(
            &running,
            json!({"holder": "a", "steps": []}),
            "workflowexecution",
            NOW,
            200,
        );
        check(
            &running,
            json!({"holder": "b", "steps": []}),
            "workflowexecution",
            NOW,
            409,
        );
        check(
            &running,
            json!({"holder": "a", "deadline_seconds": 9}),
            "workflowexecution",
            NOW,
            400,
        );
        check(&running, json!({"steps": []}), "alice", NOW, 403);
    }

    #[test]
    fn a_failure_comes_with_failed() {
        let running = execution(ExecutionPhase::Running, Some("a"));
        check(
            &running,
            json!({"phase": "Failed", "holder": "a"}),
            "workflowexecution",
            NOW,
            400,
        );
        let failure = json!({"reason": "x", "message": "m", "was_execution_failure": true});
        check(
            &running,
            json!({"holder": "a", "failure": failure}),
            "workflowexecution",
            NOW,
            400,
        );
        let completed = execution(ExecutionPhase::Completed, Some("a"));
        check(
            &completed,
            json!({"holder": "a"}),
            "workflowexecution",
            NOW,
            409,
        );
    }

    #[test]
    fn the_id_follows_from_request_and_attempt() {
        let request = Uuid::from_u128(7);
        assert_eq!(id(request, 1), id(request, 1));
        assert_ne!(id(request, 1), id(request, 2));
        assert_ne!(id(request, 1), id(Uuid::from_u128(8), 1));
    }
}
