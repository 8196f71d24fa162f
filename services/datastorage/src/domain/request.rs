//! Remediation requests: what a new one must hold, and what a patch makes of one. Who may do what
//! stands in the transition table of `common`.

use common::api::{
    Approval, NewApproval, NewRemediationRequest, PatchRemediationRequest, RemediationRequest,
    Target,
};
use common::auth::Caller;
use common::problem::{Answer, Problem};
use common::transitions::{Legality, REQUEST_TRANSITIONS, RequestPhase, STARTS_EXECUTIONS};
use time::{Duration, OffsetDateTime};

use super::text;

const LEASE_SECONDS_MAX: u32 = 3600;
/// 30 days: for what waits longer, nobody waits.
const WAIT_SECONDS_MAX: u32 = 30 * 24 * 3600;

/// Judges a new request.
pub(crate) fn parse(new: &NewRemediationRequest) -> Answer<()> {
    text::sha256("fingerprint", &new.fingerprint)?;
    parse_target(&new.target)?;
    text::name("signal.source", &new.signal.source)?;
    text::name("signal.name", &new.signal.name)
}

fn parse_target(target: &Target) -> Answer<()> {
    text::name("target.cluster", &target.cluster)?;
    text::name("target.namespace", &target.namespace)?;
    text::name("target.kind", &target.kind)?;
    text::name("target.name", &target.name)
}

/// `namespace/kind/name` of a query.
pub(crate) fn parse_target_filter(filter: &str) -> Answer<[&str; 3]> {
    let parts: Vec<&str> = filter.split('/').collect();
    <[&str; 3]>::try_from(parts)
        .ok()
        .filter(|parts| parts.iter().all(|part| !part.is_empty()))
        .ok_or_else(|| Problem::bad_request("target: `namespace/kind/name` is needed"))
}

/// Judges what a patch says, without knowing the request.
pub(crate) fn parse_patch(patch: &PatchRemediationRequest) -> Answer<()> {
    text::optional_sentence("reason", patch.reason.as_deref())?;
    text::optional_name("lease_holder", patch.lease_holder.as_deref())?;
    seconds("lease_seconds", patch.lease_seconds, LEASE_SECONDS_MAX)?;
    seconds(
        "blocked_for_seconds",
        patch.blocked_for_seconds,
        WAIT_SECONDS_MAX,
    )?;
    seconds(
        "phase_deadline_seconds",
        patch.phase_deadline_seconds,
        WAIT_SECONDS_MAX,
    )?;
    seconds("deadline_seconds", patch.deadline_seconds, WAIT_SECONDS_MAX)?;
    if let Some(approval) = &patch.approval {
        text::name("approval.decided_by", &approval.decided_by)?;
        text::optional_sentence("approval.reason", Some(&approval.reason))?;
    }
    if let Some(classification) = &patch.classification {
        text::name("classification.environment", &classification.environment)?;
        text::sha256("classification.policy_hash", &classification.policy_hash)?;
        if !matches!(classification.priority.as_str(), "P0" | "P1" | "P2" | "P3") {
            return Err(Problem::bad_request(
                "classification.priority: P0 to P3 are possible",
            ));
        }
        if !matches!(
            classification.signal_mode.as_str(),
            "reactive" | "proactive"
        ) {
            return Err(Problem::bad_request(
                "classification.signal_mode: `reactive` and `proactive` are possible",
            ));
        }
    }
    if let Some(workflow) = &patch.workflow {
        text::name("workflow.name", &workflow.name)?;
        text::name("workflow.version", &workflow.version)?;
    }
    Ok(())
}

/// Judges a time to wait, in seconds.
pub(crate) fn check_wait(field: &str, value: Option<u32>) -> Answer<()> {
    seconds(field, value, WAIT_SECONDS_MAX)
}

fn seconds(field: &str, value: Option<u32>, max: u32) -> Answer<()> {
    match value {
        Some(seconds) if !(1..=max).contains(&seconds) => Err(Problem::bad_request(format!(
            "{field}: 1 to {max} are possible"
        ))),
        _ => Ok(()),
    }
}

/// What becomes of `request` when `caller` patches it. `now` is the database's clock.
pub(crate) fn patched(
    request: &RemediationRequest,
    patch: &PatchRemediationRequest,
    caller: &Caller,
    now: OffsetDateTime,
) -> Answer<RemediationRequest> {
    let to = patch.phase.unwrap_or(request.phase);
    if sets_deadlines_alone(patch) {
        return with_deadlines(request, patch, caller, now);
    }
    if to == request.phase {
        check_same_phase(request, caller)?;
    } else {
        check_transition(request.phase, to, caller)?;
        check_time(request, to, now)?;
    }
    check_lease(request, patch, caller, now)?;
    check_authors(patch, caller)?;
    let mut next = request.clone();
    if to != request.phase {
        // These belong to the phase that ends.
        next.lease_holder = None;
        next.lease_deadline = None;
        next.blocked_until = None;
        next.phase_deadline = None;
    }
    let from_now = |seconds: u32| now + Duration::seconds(i64::from(seconds));
    next.phase = to;
    next.resource_version += 1;
    next.updated_at = now;
    if let Some(seconds) = patch.lease_seconds {
        let holder = patch.lease_holder.as_deref().unwrap_or(&caller.subject);
        next.lease_holder = Some(holder.to_owned());
        next.lease_deadline = Some(from_now(seconds));
    }
    if let Some(seconds) = patch.blocked_for_seconds {
        next.blocked_until = Some(from_now(seconds));
    }
    set_deadlines(&mut next, patch, now);
    if let Some(approval) = &patch.approval {
        next.approval = Some(decided(request, approval, now)?);
    }
    next.reason = patch.reason.clone().or(next.reason);
    next.classification = patch.classification.clone().or(next.classification);
    next.workflow = patch.workflow.clone().or(next.workflow);
    Ok(next)
}

/// Whether a patch says by when something must end, and nothing else. That is no change of state:
/// it leaves the resource version as it is, so that it is in nobody's way.
#[must_use]
pub(crate) fn sets_deadlines_alone(patch: &PatchRemediationRequest) -> bool {
    let nothing_else = PatchRemediationRequest {
        write_id: patch.write_id,
        phase_deadline_seconds: patch.phase_deadline_seconds,
        deadline_seconds: patch.deadline_seconds,
        ..PatchRemediationRequest::default()
    };
    *patch == nothing_else
        && (patch.phase_deadline_seconds.is_some() || patch.deadline_seconds.is_some())
}

fn with_deadlines(
    request: &RemediationRequest,
    patch: &PatchRemediationRequest,
    caller: &Caller,
    now: OffsetDateTime,
) -> Answer<RemediationRequest> {
    check_same_phase(request, caller)?;
    if *caller.subject != *STARTS_EXECUTIONS {
        return Err(Problem::forbidden(format!(
            "deadlines are for `{STARTS_EXECUTIONS}` to set, not for `{}`",
            caller.subject
        )));
    }
    let mut next = request.clone();
    set_deadlines(&mut next, patch, now);
    Ok(next)
}

/// The deadline of a phase counts from now, that of the whole from its beginning, and stays.
fn set_deadlines(
    request: &mut RemediationRequest,
    patch: &PatchRemediationRequest,
    now: OffsetDateTime,
) {
    let span = |seconds: u32| Duration::seconds(i64::from(seconds));
    if let Some(seconds) = patch.phase_deadline_seconds {
        request.phase_deadline = Some(now + span(seconds));
    }
    if let Some(seconds) = patch.deadline_seconds {
        let deadline = request.created_at + span(seconds);
        request.deadline = request.deadline.or(Some(deadline));
    }
}

/// Nothing times out before its time.
fn check_time(request: &RemediationRequest, to: RequestPhase, now: OffsetDateTime) -> Answer<()> {
    let deadlines = [request.phase_deadline, request.deadline];
    let has_passed = deadlines.into_iter().flatten().any(|at| at <= now);
    if to == RequestPhase::TimedOut && !has_passed {
        return Err(Problem::conflict("no deadline of the request has passed"));
    }
    Ok(())
}

fn decided(
    request: &RemediationRequest,
    approval: &NewApproval,
    now: OffsetDateTime,
) -> Answer<Approval> {
    if let Some(first) = &request.approval {
        let (decision, by) = (first.decision, &first.decided_by);
        return Err(Problem::conflict(format!(
            "approval: `{by}` has decided before: {decision:?}"
        ))
        .with("decided_by", by.as_str()));
    }
    if request.phase != RequestPhase::AwaitingApproval {
        let phase = request.phase;
        return Err(Problem::conflict(format!(
            "approval: the request is {phase} and awaits none"
        )));
    }
    if request
        .phase_deadline
        .is_some_and(|deadline| deadline <= now)
    {
        return Err(Problem::conflict("approval: the time for it has passed"));
    }
    Ok(Approval {
        decision: approval.decision,
        decided_by: approval.decided_by.clone(),
        reason: approval.reason.clone(),
        decided_at: now,
    })
}

fn check_transition(from: RequestPhase, to: RequestPhase, caller: &Caller) -> Answer<()> {
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
fn check_same_phase(request: &RemediationRequest, caller: &Caller) -> Answer<()> {
    let phase = request.phase;
    if phase.is_terminal() {
        return Err(Problem::conflict(format!("the request has ended: {phase}")));
    }
    let subject: &str = &caller.subject;
    let is_theirs = REQUEST_TRANSITIONS
        .iter()
        .any(|(from, _, subjects)| *from == phase && subjects.contains(&subject));
    if !is_theirs {
        return Err(Problem::forbidden(format!(
            "a request in {phase} is not for `{subject}` to change"
        )));
    }
    Ok(())
}

/// What was found out and what was chosen come from those whose work it is.
fn check_authors(patch: &PatchRemediationRequest, caller: &Caller) -> Answer<()> {
    let classifies = RequestPhase::Processing.may_become(RequestPhase::Analyzing, &caller.subject);
    let forbidden = if patch.classification.is_some() && classifies != Legality::Legal {
        "classification"
    } else if patch.workflow.is_some() && *caller.subject != *STARTS_EXECUTIONS {
        "workflow"
    } else if patch.approval.is_some() && *caller.subject != *STARTS_EXECUTIONS {
        "approval"
    } else if patch.deadline_seconds.is_some() && *caller.subject != *STARTS_EXECUTIONS {
        "deadline_seconds"
    } else {
        return Ok(());
    };
    Err(Problem::forbidden(format!(
        "{forbidden}: is not for `{}` to set",
        caller.subject
    )))
}

/// A lease is taken again by its holder, or by anyone once it has expired. Who only names himself
/// as the holder must be it.
fn check_lease(
    request: &RemediationRequest,
    patch: &PatchRemediationRequest,
    caller: &Caller,
    now: OffsetDateTime,
) -> Answer<()> {
    let claims = match (&patch.lease_holder, patch.lease_seconds) {
        (Some(holder), _) => holder.as_str(),
        (None, Some(_)) => &caller.subject,
        (None, None) => return Ok(()),
    };
    let holder = request.lease_holder.as_deref();
    let is_alive = request
        .lease_deadline
        .is_some_and(|deadline| deadline > now);
    let takes = patch.lease_seconds.is_some();
    match holder {
        Some(holder) if holder == claims => Ok(()),
        _ if takes && !is_alive => Ok(()),
        Some(holder) => {
            Err(Problem::conflict(format!("`{holder}` holds the lease")).with("holder", holder))
        }
        None => Err(Problem::conflict(format!(
            "`{claims}` does not hold the lease"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use common::auth::Role;
    use serde_json::json;
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 18:00 UTC);

    fn request(phase: RequestPhase) -> RemediationRequest {
        let request = json!({
            "id": "0197a000-0000-7000-8000-000000000001", "resource_version": 4, "phase": phase,
            "fingerprint": "0".repeat(64), "severity": "critical", "occurrence_count": 1,
            "target": {"cluster": "c", "namespace": "n", "kind": "Deployment", "name": "web"},
            "signal": {"source": "alertmanager", "name": "Down"}, "reason": null,
            "lease_holder": "a", "lease_deadline": "2026-11-23T18:00:10Z", "classification": null,
            "workflow": null, "execution_id": null, "attempt": 0,
            "blocked_until": "2026-11-23T18:00:10Z", "phase_deadline": "2026-11-23T18:00:00Z",
            "created_at": "2026-11-23T17:00:00Z", "updated_at": "2026-11-23T17:00:00Z"
        });
        serde_json::from_value(request).expect("request")
    }

    fn caller(subject: &str) -> Caller {
        Caller {
            subject: subject.into(),
            role: Role::Write,
        }
    }

    fn patch(phase: RequestPhase) -> PatchRemediationRequest {
        PatchRemediationRequest {
            phase: Some(phase),
            ..Default::default()
        }
    }

    #[track_caller]
    fn status(
        from: RequestPhase,
        patch: &PatchRemediationRequest,
        subject: &str,
        now: OffsetDateTime,
    ) -> u16 {
        match patched(&request(from), patch, &caller(subject), now) {
            Ok(_) => 200,
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn the_table_decides_about_every_transition() {
        for from in RequestPhase::ALL {
            for to in RequestPhase::ALL.into_iter().filter(|to| *to != from) {
                for subject in [
                    "gateway",
                    "signalprocessing",
                    "remediationorchestrator",
                    "workflowexecution",
                    "alice",
                ] {
                    let expected = match from.may_become(to, subject) {
                        Legality::Legal => 200,
                        Legality::NotYours => 403,
                        Legality::Illegal => 409,
                    };
                    assert_eq!(
                        status(from, &patch(to), subject, NOW),
                        expected,
                        "{from} {to} {subject}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_new_phase_begins_without_the_old_lease_and_deadlines() {
        let next = patched(
            &request(RequestPhase::Processing),
            &patch(RequestPhase::Analyzing),
            &caller("signalprocessing"),
            NOW,
        );
        let next = next.expect("patched");
        assert_eq!((next.lease_holder, next.lease_deadline), (None, None));
        assert_eq!((next.blocked_until, next.phase_deadline), (None, None));
        assert_eq!((next.resource_version, next.updated_at), (5, NOW));
    }

    #[test]
    fn a_lease_is_retaken_only_when_it_has_expired() {
        let take = |holder: &str| PatchRemediationRequest {
            lease_seconds: Some(30),
            lease_holder: Some(holder.to_owned()),
            ..Default::default()
        };
        let processing = RequestPhase::Processing;
        assert_eq!(status(processing, &take("a"), "signalprocessing", NOW), 200);
        assert_eq!(status(processing, &take("b"), "signalprocessing", NOW), 409);
        let later = NOW + Duration::seconds(10);
        assert_eq!(
            status(processing, &take("b"), "signalprocessing", later),
            200
        );
        let next = patched(
            &request(processing),
            &take("b"),
            &caller("signalprocessing"),
            later,
        );
        let next = next.expect("patched");
        assert_eq!(next.lease_holder.as_deref(), Some("b"));
        assert_eq!(next.lease_deadline, Some(later + Duration::seconds(30)));
        assert_eq!(next.phase, processing);
    }

    #[test]
    fn who_names_himself_as_the_holder_must_be_it() {
        let end = |holder: &str| PatchRemediationRequest {
            lease_holder: Some(holder.to_owned()),
            ..patch(RequestPhase::Analyzing)
        };
        let processing = RequestPhase::Processing;
        assert_eq!(status(processing, &end("a"), "signalprocessing", NOW), 200);
        assert_eq!(status(processing, &end("b"), "signalprocessing", NOW), 409);
        let later = NOW + Duration::seconds(10);
        assert_eq!(
            status(processing, &end("b"), "signalprocessing", later),
            409
        );
    }

    #[test]
    fn fields_change_only_by_those_who_may_end_the_phase() {
        let reason = PatchRemediationRequest {
            reason: Some("x".to_owned()),
            ..Default::default()
        };
        assert_eq!(
            status(
                RequestPhase::Analyzing,
                &reason,
                "remediationorchestrator",
                NOW
            ),
            200
        );
        assert_eq!(
            status(RequestPhase::Analyzing, &reason, "workflowexecution", NOW),
            403
        );
        assert_eq!(
            status(
                RequestPhase::Completed,
                &reason,
                "remediationorchestrator",
                NOW
            ),
            409
        );
        assert_eq!(
            status(
                RequestPhase::Executing,
                &reason,
                "remediationorchestrator",
                NOW
            ),
            200
        );
    }

    #[test]
    fn nothing_times_out_before_its_time() {
        let to = patch(RequestPhase::TimedOut);
        let earlier = NOW - Duration::seconds(1);
        let orchestrator = "remediationorchestrator";
        assert_eq!(status(RequestPhase::Blocked, &to, orchestrator, NOW), 200);
        assert_eq!(
            status(RequestPhase::Blocked, &to, orchestrator, earlier),
            409
        );
        let mut whole = request(RequestPhase::Executing);
        whole.phase_deadline = None;
        whole.deadline = Some(NOW);
        let outcome = |now| patched(&whole, &to, &caller(orchestrator), now).is_ok();
        assert!(outcome(NOW) && !outcome(earlier));
    }

    #[test]
    fn deadlines_alone_are_no_change_of_state() {
        let set = PatchRemediationRequest {
            phase_deadline_seconds: Some(5),
            deadline_seconds: Some(7200),
            ..Default::default()
        };
        let before = request(RequestPhase::Processing);
        let after = patched(&before, &set, &caller("remediationorchestrator"), NOW);
        let after = after.expect("patched");
        assert_eq!(after.resource_version, before.resource_version);
        assert_eq!(after.updated_at, before.updated_at);
        assert_eq!(after.lease_holder, before.lease_holder);
        assert_eq!(after.phase_deadline, Some(NOW + Duration::seconds(5)));
        let whole = Some(before.created_at + Duration::hours(2));
        assert_eq!(after.deadline, whole);
        let later = PatchRemediationRequest {
            deadline_seconds: Some(1),
            ..Default::default()
        };
        let again = patched(&after, &later, &caller("remediationorchestrator"), NOW);
        assert_eq!(again.expect("patched").deadline, whole, "it is set once");
        let processing = RequestPhase::Processing;
        assert_eq!(status(processing, &set, "signalprocessing", NOW), 403);
        let ended = RequestPhase::Completed;
        assert_eq!(status(ended, &set, "remediationorchestrator", NOW), 409);
    }

    #[test]
    fn an_approval_is_decided_once_in_time_and_only_when_awaited() {
        let decide = PatchRemediationRequest {
            approval: Some(NewApproval {
                decision: common::api::Decision::Approved,
                decided_by: "alice".to_owned(),
                reason: "I looked".to_owned(),
            }),
            ..Default::default()
        };
        let orchestrator = "remediationorchestrator";
        let awaiting = RequestPhase::AwaitingApproval;
        let earlier = NOW - Duration::seconds(1);
        assert_eq!(status(awaiting, &decide, orchestrator, earlier), 200);
        assert_eq!(status(awaiting, &decide, orchestrator, NOW), 409);
        assert_eq!(status(awaiting, &decide, "gateway", earlier), 403);
        let analyzing = RequestPhase::Analyzing;
        assert_eq!(status(analyzing, &decide, orchestrator, earlier), 409);
        let once = patched(&request(awaiting), &decide, &caller(orchestrator), earlier);
        let once = once.expect("patched");
        let approval = once.approval.clone().expect("an approval");
        assert_eq!(approval.decided_at, earlier);
        let twice = patched(&once, &decide, &caller(orchestrator), earlier);
        assert_eq!(twice.expect_err("decided").status().as_u16(), 409);
    }

    #[test]
    fn patches_are_bounded() {
        let bad = [
            PatchRemediationRequest {
                lease_seconds: Some(0),
                ..Default::default()
            },
            PatchRemediationRequest {
                lease_seconds: Some(3601),
                ..Default::default()
            },
            PatchRemediationRequest {
                reason: Some(String::new()),
                ..Default::default()
            },
            PatchRemediationRequest {
                reason: Some("x".repeat(4097)),
                ..Default::default()
            },
        ];
        for patch in bad {
            assert_eq!(
                parse_patch(&patch).expect_err("bad").status().as_u16(),
                400,
                "{patch:?}"
            );
        }
    }
}
