//! What stands against executing now: a busy target, a cool-down, too many failures. Pure: it
//! follows from the history of the target and the rules, by the database's clock.

use common::api::{History, RemediationRequest};
use common::transitions::ExecutionPhase;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use crate::rules::Rules;

/// What is looked at, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Another execution holds the target.
    ResourceBusy,
    /// The target was remediated a short while ago.
    RecentlyRemediated,
    /// The last remediations of the target failed.
    ConsecutiveFailures,
}

/// A verdict and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub subject: Subject,
    /// In words.
    pub reason: String,
    /// Until when it stands against executing, by the database's clock; absent where it does not.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub blocked_until: Option<OffsetDateTime>,
}

/// All verdicts, in their order.
#[must_use]
pub fn checks(request: &RemediationRequest, history: &History, rules: &Rules) -> [Check; 3] {
    [
        busy(request, history, rules),
        cool_down(history, rules),
        backoff(history, rules),
    ]
}

/// The first verdict that stands against executing.
#[must_use]
pub fn block(checks: &[Check]) -> Option<&Check> {
    checks.iter().find(|check| check.blocked_until.is_some())
}

/// How many seconds are left, at least one.
#[must_use]
pub fn seconds_left(until: OffsetDateTime, as_of: OffsetDateTime) -> u32 {
    let left = (until - as_of).as_seconds_f64().ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped before"
    )]
    let seconds = left.clamp(1.0, f64::from(u32::MAX)) as u32;
    seconds
}

/// The verdict on a target that turned out to be held by this execution.
#[must_use]
pub fn held_by(holder: &str, as_of: OffsetDateTime, rules: &Rules) -> Check {
    Check {
        subject: Subject::ResourceBusy,
        reason: format!("the target is held by execution {holder}"),
        blocked_until: Some(as_of + seconds(rules.busy_seconds)),
    }
}

fn busy(request: &RemediationRequest, history: &History, rules: &Rules) -> Check {
    let mut others = history
        .items
        .iter()
        .filter(|item| item.request_id != request.id);
    match others.find(|item| !item.phase.is_terminal()) {
        Some(holder) => held_by(&holder.execution_id.to_string(), history.as_of, rules),
        None => passed(Subject::ResourceBusy, "nobody holds the target".to_owned()),
    }
}

fn cool_down(history: &History, rules: &Rules) -> Check {
    let subject = Subject::RecentlyRemediated;
    let completed = |item: &&common::api::Remediation| item.phase == ExecutionPhase::Completed;
    let last = history.items.iter().find(completed);
    let Some((last, ended_at)) = last.and_then(|item| Some((item, item.ended_at?))) else {
        return passed(subject, "the target was never remediated".to_owned());
    };
    let until = ended_at + seconds(rules.cool_down_seconds);
    if until <= history.as_of {
        return passed(
            subject,
            "the last remediation is long enough ago".to_owned(),
        );
    }
    Check {
        subject,
        reason: format!(
            "the target was remediated by execution {} and cools down for {} s",
            last.execution_id, rules.cool_down_seconds
        ),
        blocked_until: Some(until),
    }
}

/// Cancelled executions tell nothing about the target.
fn backoff(history: &History, rules: &Rules) -> Check {
    let subject = Subject::ConsecutiveFailures;
    let failed: Vec<OffsetDateTime> = history
        .items
        .iter()
        .filter(|item| item.phase != ExecutionPhase::Cancelled && item.phase.is_terminal())
        .take_while(|item| item.phase == ExecutionPhase::Failed)
        .filter_map(|item| item.ended_at)
        .collect();
    let count = u32::try_from(failed.len()).unwrap_or(u32::MAX);
    let failures = format!(
        "{count} consecutive failures, {} are taken",
        rules.failures_max
    );
    let (Some(last), true) = (failed.first(), count > rules.failures_max) else {
        return passed(subject, failures);
    };
    let doublings = (count - rules.failures_max - 1).min(31);
    let pause = u64::from(rules.backoff_seconds) << doublings;
    let pause = u32::try_from(pause).unwrap_or(u32::MAX);
    let pause = pause.min(rules.backoff_seconds_max);
    let until = *last + seconds(pause);
    if until <= history.as_of {
        return passed(subject, format!("{failures}, the last one long enough ago"));
    }
    Check {
        subject,
        reason: format!("{failures}: a pause of {pause} s"),
        blocked_until: Some(until),
    }
}

fn passed(subject: Subject, reason: String) -> Check {
    Check {
        subject,
        reason,
        blocked_until: None,
    }
}

fn seconds(seconds: u32) -> Duration {
    Duration::seconds(seconds.into())
}

#[cfg(test)]
mod tests {
    use common::api::Remediation;
    use serde_json::json;
    use time::macros::datetime;
    use uuid::Uuid;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 18:00 UTC);

    fn rules() -> Rules {
        Rules {
            cool_down_seconds: 300,
            failures_max: 2,
            backoff_seconds: 60,
            backoff_seconds_max: 200,
            busy_seconds: 10,
            ..Rules::default()
        }
    }

    fn remediation(phase: ExecutionPhase, seconds_ago: i64) -> Remediation {
        let at = NOW - Duration::seconds(seconds_ago);
        Remediation {
            request_id: Uuid::from_u128(1),
            execution_id: Uuid::from_u128(2),
            attempt: 1,
            phase,
            workflow: "heal".to_owned(),
            workflow_version: "1".to_owned(),
            signal: "Down".to_owned(),
            failure: None,
            created_at: at,
            ended_at: phase.is_terminal().then_some(at),
        }
    }

    /// What stands first against executing, and for how many seconds.
    #[track_caller]
    fn check(done: &[(ExecutionPhase, i64)], expected: Option<(Subject, u32)>) {
        let request = json!({
            "id": Uuid::from_u128(7), "resource_version": 1, "phase": "Analyzing",
            "fingerprint": "0", "severity": "critical", "occurrence_count": 1,
            "target": {"cluster": "c", "namespace": "n", "kind": "Deployment", "name": "web"},
            "signal": {"source": "alertmanager", "name": "Down"}, "reason": null,
            "lease_holder": null, "lease_deadline": null, "classification": null,
            "workflow": null, "execution_id": null, "attempt": 0, "blocked_until": null,
            "phase_deadline": null, "created_at": "2026-11-23T17:00:00Z",
            "updated_at": "2026-11-23T17:00:00Z"
        });
        let request: RemediationRequest = serde_json::from_value(request).expect("request");
        let items = done.iter().map(|(phase, ago)| remediation(*phase, *ago));
        let history = History {
            as_of: NOW,
            items: items.collect(),
        };
        let checks = checks(&request, &history, &rules());
        let found = block(&checks).map(|check| {
            let until = check.blocked_until.expect("a time");
            (check.subject, seconds_left(until, NOW))
        });
        assert_eq!(found, expected, "{checks:#?}");
    }

    #[test]
    fn what_stands_against_executing_comes_in_order() {
        use ExecutionPhase::{Cancelled, Completed, Failed, Running};
        check(&[], None);
        check(&[(Running, 5)], Some((Subject::ResourceBusy, 10)));
        let cooling = Some((Subject::RecentlyRemediated, 290));
        check(&[(Completed, 10)], cooling);
        check(
            &[(Running, 5), (Completed, 10)],
            Some((Subject::ResourceBusy, 10)),
        );
        check(&[(Completed, 300)], None);
        check(&[(Cancelled, 1)], None);
        check(&[(Failed, 1), (Completed, 10)], cooling);
    }

    #[test]
    fn failures_beyond_those_that_are_taken_double_the_pause_up_to_the_longest() {
        use ExecutionPhase::{Cancelled, Completed, Failed};
        let failures = Subject::ConsecutiveFailures;
        check(&[(Failed, 1), (Failed, 2)], None);
        check(
            &[(Failed, 1), (Failed, 2), (Failed, 3)],
            Some((failures, 59)),
        );
        let four = [(Failed, 1), (Failed, 2), (Failed, 3), (Failed, 4)];
        check(&four, Some((failures, 119)));
        let many: Vec<_> = (1..80).map(|ago| (Failed, ago)).collect();
        check(&many, Some((failures, 199)));
        check(&[(Failed, 60), (Failed, 62), (Failed, 63)], None);
        let cancelled = [(Failed, 1), (Cancelled, 2), (Failed, 2), (Failed, 3)];
        check(&cancelled, Some((failures, 59)));
        let healed = [(Failed, 1), (Failed, 2), (Completed, 400), (Failed, 500)];
        check(&healed, None);
    }
}
