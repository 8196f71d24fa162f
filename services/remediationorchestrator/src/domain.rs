//! Which workflow fits a request, and the identities of everything that is written because of it.
//! Pure: the same request and the same catalog give the same answer in every replica, and nothing
//! here asks anybody.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use common::api::{RemediationRequest, Severity, Workflow, WorkflowChoice};
use semver::Version;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::rules::Rules;

/// What the catalog has for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one fits best.
    Chosen(WorkflowChoice),
    /// None fits, and why, for people.
    NoneFits(String),
}

/// A workflow of the catalog, held against a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Every label is equal and it is not disabled.
    pub fits: bool,
    /// One sentence for each label that is not, and for being disabled; empty when it fits.
    pub misses: Vec<String>,
}

/// Chooses among the workflows that fit: most labels first, then the first name, then the highest
/// version.
#[must_use]
pub fn choose(request: &RemediationRequest, catalog: &[Workflow]) -> Choice {
    let attributes = attributes(request);
    let fitting: Vec<&Workflow> = catalog
        .iter()
        .filter(|workflow| misses(workflow, &attributes).is_empty())
        .collect();
    let Some(best) = fitting.iter().min_by_key(|workflow| rank(workflow)) else {
        return Choice::NoneFits(format!(
            "no workflow of {} in the catalog fits {}",
            catalog.len(),
            list(&attributes)
        ));
    };
    Choice::Chosen(WorkflowChoice {
        name: best.workflow.name.clone(),
        version: best.workflow.version.clone(),
        reason: reason(best, fitting.len()),
    })
}

/// Every workflow of the catalog and what keeps it from fitting, in the order of preference.
#[must_use]
pub fn candidates(request: &RemediationRequest, catalog: &[Workflow]) -> Vec<Candidate> {
    let attributes = attributes(request);
    let mut sorted: Vec<&Workflow> = catalog.iter().collect();
    sorted.sort_by_key(|workflow| rank(workflow));
    let mut candidates: Vec<Candidate> = sorted
        .into_iter()
        .map(|workflow| {
            let misses = misses(workflow, &attributes);
            Candidate {
                name: workflow.workflow.name.clone(),
                version: workflow.workflow.version.clone(),
                fits: misses.is_empty(),
                misses,
            }
        })
        .collect();
    candidates.sort_by_key(|candidate| !candidate.fits);
    candidates
}

/// What is most urgent in production is not done before a person has said so.
#[must_use]
pub fn needs_approval(request: &RemediationRequest, rules: &Rules) -> bool {
    let classification = request.classification.as_ref();
    rules.approval
        && classification
            .is_some_and(|found| found.priority == "P0" && found.environment == "production")
}

/// The ID of a write. Two replicas that take the same step from the same version of a request
/// send the same ID, and DataStorage does it once.
#[must_use]
pub fn write_id(request: Uuid, resource_version: i64, step: &str) -> Uuid {
    Uuid::new_v5(
        &request,
        format!("write/{resource_version}/{step}").as_bytes(),
    )
}

/// What the labels of a workflow are compared with. An attribute that is not known is absent, and
/// a label on it does not match.
fn attributes(request: &RemediationRequest) -> BTreeMap<&'static str, String> {
    let mut attributes = BTreeMap::from([
        ("signal", request.signal.name.clone()),
        ("kind", request.target.kind.clone()),
        ("namespace", request.target.namespace.clone()),
        ("severity", severity(request.severity).to_owned()),
    ]);
    if let Some(classification) = &request.classification {
        attributes.extend([
            ("severity", severity(classification.severity).to_owned()),
            ("environment", classification.environment.clone()),
            ("priority", classification.priority.clone()),
            ("signal_mode", classification.signal_mode.clone()),
        ]);
    }
    attributes
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Unknown => "unknown",
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Critical => "critical",
    }
}

fn misses(workflow: &Workflow, attributes: &BTreeMap<&'static str, String>) -> Vec<String> {
    let labels = workflow.workflow.labels.iter().filter_map(|(key, wanted)| {
        match attributes.get(key.as_str()) {
            Some(is) if is == wanted => None,
            Some(is) => Some(format!("{key} is {is}, not {wanted}")),
            None => Some(format!("{key} is not known, wanted {wanted}")),
        }
    });
    workflow
        .disabled
        .then(|| "disabled".to_owned())
        .into_iter()
        .chain(labels)
        .collect()
}

/// The least is preferred. A version that is no semantic version comes after all that are.
fn rank(workflow: &Workflow) -> impl Ord + use<> {
    (
        Reverse(workflow.workflow.labels.len()),
        workflow.workflow.name.clone(),
        Reverse((
            Version::parse(&workflow.workflow.version).ok(),
            workflow.workflow.version.clone(),
        )),
    )
}

fn reason(best: &Workflow, fitting: usize) -> String {
    let labels = list(&best.workflow.labels);
    let matched = if labels.is_empty() {
        "it asks for no label".to_owned()
    } else {
        format!("all its labels match ({labels})")
    };
    if fitting == 1 {
        format!("the only workflow that fits: {matched}")
    } else {
        format!("the most specific of {fitting} that fit: {matched}")
    }
}

fn list<K: std::fmt::Display>(pairs: &BTreeMap<K, String>) -> String {
    pairs
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::api::{Classification, NewWorkflow, Signal, Target};
    use common::transitions::RequestPhase;
    use time::OffsetDateTime;

    fn request() -> RemediationRequest {
        RemediationRequest {
            id: Uuid::nil(),
            resource_version: 3,
            phase: RequestPhase::Analyzing,
            fingerprint: "0".repeat(64),
            target: Target {
                cluster: "local".to_owned(),
                namespace: "shop".to_owned(),
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            },
            severity: Severity::Warning,
            signal: Signal {
                source: "alertmanager".to_owned(),
                name: "HighErrorRate".to_owned(),
                labels: BTreeMap::new(),
                annotations: BTreeMap::new(),
                starts_at: None,
                owner_unknown: false,
            },
            occurrence_count: 1,
            reason: None,
            lease_holder: None,
            lease_deadline: None,
            classification: Some(Classification {
                environment: "production".to_owned(),
                severity: Severity::Critical,
                priority: "P0".to_owned(),
                signal_mode: "reactive".to_owned(),
                reason: "critical in production".to_owned(),
                degraded: false,
                policy_hash: "0".repeat(64),
                enrichment: serde_json::Map::new(),
            }),
            workflow: None,
            execution_id: None,
            attempt: 0,
            blocked_until: None,
            phase_deadline: None,
            deadline: None,
            approval: None,
            created_at: OffsetDateTime::UNIX_EPOCH,
            updated_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    fn workflow(name: &str, version: &str, labels: &[(&str, &str)]) -> Workflow {
        Workflow {
            workflow: NewWorkflow {
                name: name.to_owned(),
                version: version.to_owned(),
                labels: labels
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
                steps: Vec::new(),
                parameters: Vec::new(),
                probe: None,
            },
            digest: "0".repeat(64),
            disabled: false,
            created_at: OffsetDateTime::UNIX_EPOCH,
        }
    }

    #[track_caller]
    fn check(catalog: &[Workflow], expected: Option<(&str, &str)>) {
        let mut catalog = catalog.to_vec();
        for _ in 0..catalog.len().max(1) {
            let chosen = match choose(&request(), &catalog) {
                Choice::Chosen(choice) => Some((choice.name, choice.version)),
                Choice::NoneFits(_) => None,
            };
            let chosen = chosen.as_ref().map(|(n, v)| (n.as_str(), v.as_str()));
            assert_eq!(chosen, expected);
            // The order of the catalog decides nothing.
            if !catalog.is_empty() {
                catalog.rotate_left(1);
            }
        }
    }

    #[test]
    fn all_labels_must_match() {
        let signal = ("signal", "HighErrorRate");
        check(&[], None);
        check(&[workflow("a", "1.0.0", &[])], Some(("a", "1.0.0")));
        check(&[workflow("a", "1.0.0", &[signal])], Some(("a", "1.0.0")));
        check(&[workflow("a", "1.0.0", &[signal, ("kind", "Pod")])], None);
        check(&[workflow("a", "1.0.0", &[("colour", "blue")])], None);
        check(
            &[workflow(
                "a",
                "1.0.0",
                &[
                    ("environment", "production"),
                    ("priority", "P0"),
                    ("namespace", "shop"),
                    ("signal_mode", "reactive"),
                    ("kind", "Deployment"),
                    signal,
                ],
            )],
            Some(("a", "1.0.0")),
        );
    }

    #[test]
    fn severity_is_the_classified_one() {
        check(
            &[workflow("a", "1.0.0", &[("severity", "critical")])],
            Some(("a", "1.0.0")),
        );
        check(&[workflow("a", "1.0.0", &[("severity", "warning")])], None);
    }

    #[test]
    fn labels_then_name_then_version() {
        let signal = ("signal", "HighErrorRate");
        let kind = ("kind", "Deployment");
        check(
            &[
                workflow("a", "9.0.0", &[signal]),
                workflow("z", "1.0.0", &[signal, kind]),
            ],
            Some(("z", "1.0.0")),
        );
        check(
            &[
                workflow("b", "9.0.0", &[signal]),
                workflow("a", "1.0.0", &[kind]),
            ],
            Some(("a", "1.0.0")),
        );
        check(
            &[
                workflow("a", "1.9.0", &[signal]),
                workflow("a", "1.10.0", &[signal]),
                workflow("a", "1.10.0-rc.1", &[signal]),
                workflow("a", "latest", &[signal]),
            ],
            Some(("a", "1.10.0")),
        );
    }

    #[test]
    fn a_disabled_workflow_is_not_chosen() {
        let mut disabled = workflow("a", "1.0.0", &[]);
        disabled.disabled = true;
        check(&[disabled.clone()], None);
        check(
            &[disabled, workflow("b", "1.0.0", &[])],
            Some(("b", "1.0.0")),
        );
    }

    #[test]
    fn the_reason_names_what_decided() {
        let catalog = [
            workflow("restart", "1.0.0", &[("signal", "HighErrorRate")]),
            workflow("page", "1.0.0", &[]),
        ];
        let Choice::Chosen(choice) = choose(&request(), &catalog) else {
            panic!("one fits");
        };
        assert_eq!(
            choice.reason,
            "the most specific of 2 that fit: all its labels match (signal=HighErrorRate)"
        );
        assert_eq!(
            choose(&request(), &[]),
            Choice::NoneFits(
                "no workflow of 0 in the catalog fits environment=production, kind=Deployment, \
                 namespace=shop, priority=P0, severity=critical, signal=HighErrorRate, \
                 signal_mode=reactive"
                    .to_owned()
            )
        );
    }

    #[test]
    fn candidates_say_what_they_miss() {
        let catalog = [
            workflow("a", "1.0.0", &[("kind", "Pod"), ("colour", "blue")]),
            workflow("b", "1.0.0", &[]),
        ];
        let candidates = candidates(&request(), &catalog);
        assert_eq!(candidates[0].name, "b");
        assert!(candidates[0].fits);
        assert_eq!(
            candidates[1].misses,
            [
                "colour is not known, wanted blue",
                "kind is Deployment, not Pod"
            ]
        );
    }

    #[test]
    fn write_ids_differ_by_request_version_and_step() {
        let one = write_id(Uuid::nil(), 1, "choose");
        assert_eq!(one, write_id(Uuid::nil(), 1, "choose"));
        assert_ne!(one, write_id(Uuid::nil(), 2, "choose"));
        assert_ne!(one, write_id(Uuid::nil(), 1, "skip"));
        assert_ne!(one, write_id(Uuid::max(), 1, "choose"));
    }
}
