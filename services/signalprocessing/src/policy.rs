//! A Rego policy that was compiled and type-checked, and so may decide. A value of [`Policy`] is
//! made by no other way; a policy that answers nonsense never gets into force.

use std::{num::NonZeroU32, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use common::api::{Severity, Signal, Target};
use regorus::{Engine, utils::limits::ExecutionTimerConfig};
use serde::Deserialize;

use crate::domain::{Enrichment, Labels, Question, Source};

/// The package that is asked.
const PACKAGE: &str = "data.classification";

/// A policy that takes longer than this is broken.
const DECISION_TIME_MAX: Duration = Duration::from_secs(1);

/// What a name may be.
const ENVIRONMENT_BYTES_MAX: usize = 253;
/// Policies quote labels.
const REASON_BYTES_MAX: usize = 1_000;

const TIME_CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(256).expect("not zero");

/// What is asked of every policy before it comes into force: each environment with each severity,
/// and a target that nobody knows.
const REHEARSED_ENVIRONMENTS: [Option<&str>; 4] = [
    Some("production"),
    Some("staging"),
    Some("development"),
    None,
];

/// A policy that may decide.
#[derive(Clone, Debug)]
pub struct Policy {
    engine: Engine,
    hash: String,
}

/// How bad, how urgent, in what mode, and why.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Decision {
    /// `production`, `staging`, `development`, `unknown`, ….
    pub environment: String,
    /// As the policy judges it.
    pub severity: Severity,
    /// `P0` to `P3`.
    pub priority: Priority,
    /// Whether it has happened or is to be expected.
    pub signal_mode: SignalMode,
    /// Why.
    pub reason: String,
}

/// The row in which requests are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the terms of the domain")]
pub enum Priority {
    P0,
    P1,
    P2,
    P3,
}

impl Priority {
    /// `P0` to `P3`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
        }
    }
}

/// Whether a signal tells what is or what will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SignalMode {
    /// It has happened.
    Reactive,
    /// It is predicted.
    Proactive,
}

impl SignalMode {
    /// `reactive` or `proactive`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reactive => "reactive",
            Self::Proactive => "proactive",
        }
    }
}

impl Policy {
    /// Compiles the policy and rehearses it.
    ///
    /// # Errors
    /// It does not compile, is not in the package `classification`, or a rehearsed question gets
    /// no answer of the right type.
    pub fn compile(source: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(source).context("not UTF-8")?;
        let mut engine = Engine::new();
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: DECISION_TIME_MAX,
            check_interval: TIME_CHECK_INTERVAL,
        });
        let package = engine.add_policy("policy.rego".to_owned(), text.to_owned())?;
        if package != PACKAGE {
            bail!("the package is {package}, not {PACKAGE}");
        }
        let policy = Self {
            engine,
            hash: common::canonical::sha256_hex(source),
        };
        policy.rehearse()?;
        Ok(policy)
    }

    /// SHA-256 of the file, 64 hex digits.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Asks the policy.
    ///
    /// # Errors
    /// It contradicts itself, leaves something out, or takes too long.
    pub fn decide(&self, question: &Question<'_>) -> Result<Decision> {
        let mut engine = self.engine.clone();
        engine.set_input(serde_json::to_value(question)?.into());
        let mut results = engine.eval_query(PACKAGE.to_owned(), false)?;
        let value = results
            .result
            .pop()
            .and_then(|mut result| result.expressions.pop())
            .ok_or_else(|| anyhow!("{PACKAGE} is undefined"))?
            .value;
        let answer = serde_json::to_value(&value).context("the answer is no JSON")?;
        let decision = Decision::deserialize(&answer)?;
        bounded("environment", &decision.environment, ENVIRONMENT_BYTES_MAX)?;
        bounded("reason", &decision.reason, REASON_BYTES_MAX)?;
        Ok(decision)
    }

    fn rehearse(&self) -> Result<()> {
        for environment in REHEARSED_ENVIRONMENTS {
            for severity in [
                Severity::Critical,
                Severity::Warning,
                Severity::Info,
                Severity::Unknown,
            ] {
                let enrichment = rehearsed_enrichment(environment);
                let (target, signal) = rehearsed_signal();
                let question = Question {
                    target: &target,
                    severity,
                    signal: &signal,
                    enrichment: &enrichment,
                };
                self.decide(&question).with_context(|| {
                    format!("severity {severity:?} in environment {environment:?}")
                })?;
            }
        }
        Ok(())
    }
}

/// What DataStorage would refuse is no answer.
fn bounded(field: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.trim().is_empty() {
        bail!("{field}: is empty");
    }
    if text.len() > bytes_max {
        bail!("{field}: is longer than {bytes_max} bytes");
    }
    if text.chars().any(char::is_control) {
        bail!("{field}: holds what does not print");
    }
    Ok(())
}

fn rehearsed_enrichment(environment: Option<&str>) -> Enrichment {
    let labels = |pair: Option<(&str, &str)>| Labels {
        labels: pair
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect(),
        source: Source::Inventory,
    };
    Enrichment {
        namespace: environment.map(|environment| labels(Some(("environment", environment)))),
        workload: environment.map(|_| labels(None)),
        owners: Vec::new(),
        degraded: environment.is_none(),
    }
}

fn rehearsed_signal() -> (Target, Signal) {
    let target = Target {
        cluster: "rehearsal".to_owned(),
        namespace: "rehearsal".to_owned(),
        kind: "Deployment".to_owned(),
        name: "rehearsal".to_owned(),
    };
    let signal = Signal {
        source: "alertmanager".to_owned(),
        name: "Rehearsal".to_owned(),
        labels: [("alertname".to_owned(), "Rehearsal".to_owned())].into(),
        annotations: [].into(),
        starts_at: None,
        owner_unknown: false,
    };
    (target, signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = include_str!("../policy/default.rego");

    fn ask(
        policy: &Policy,
        environment: Option<&str>,
        severity: Severity,
        change: impl Fn(&mut Signal),
    ) -> Result<Decision> {
        let (target, mut signal) = rehearsed_signal();
        change(&mut signal);
        policy.decide(&Question {
            target: &target,
            severity,
            signal: &signal,
            enrichment: &rehearsed_enrichment(environment),
        })
    }

    #[track_caller]
    fn check(environment: Option<&str>, severity: Severity, named: &str, priority: &str) {
        let policy = Policy::compile(DEFAULT.as_bytes()).expect("the default policy");
        let decision = ask(&policy, environment, severity, |_| ()).expect("a decision");
        assert_eq!(
            (decision.environment.as_str(), decision.priority.as_str()),
            (named, priority)
        );
        assert_eq!(decision.severity, severity);
        assert_eq!(decision.signal_mode, SignalMode::Reactive);
        assert!(decision.reason.contains(priority), "{}", decision.reason);
    }

    #[test]
    fn the_default_policy_ranks_by_environment_and_severity() {
        use Severity::*;
        check(Some("production"), Critical, "production", "P0");
        check(Some("Production"), Warning, "production", "P1");
        check(Some("prod"), Info, "production", "P2");
        check(Some("staging"), Critical, "staging", "P1");
        check(Some("staging"), Warning, "staging", "P1");
        check(Some("development"), Critical, "development", "P3");
        check(None, Critical, "unknown", "P2");
        check(Some("attic"), Critical, "unknown", "P2");
    }

    #[track_caller]
    fn check_mode(change: impl Fn(&mut Signal), mode: SignalMode) {
        let policy = Policy::compile(DEFAULT.as_bytes()).expect("the default policy");
        let decision = ask(&policy, None, Severity::Info, change).expect("a decision");
        assert_eq!(decision.signal_mode, mode);
    }

    #[test]
    fn a_prediction_is_proactive() {
        check_mode(|_| (), SignalMode::Reactive);
        check_mode(
            |signal| "DiskFullPredicted".clone_into(&mut signal.name),
            SignalMode::Proactive,
        );
        check_mode(
            |signal| {
                signal
                    .labels
                    .insert("signal_mode".to_owned(), "proactive".to_owned());
            },
            SignalMode::Proactive,
        );
    }

    #[track_caller]
    fn check_refused(change: (&str, &str), told: &str) {
        let source = DEFAULT.replace(change.0, change.1);
        assert_ne!(source, DEFAULT, "the change must change something");
        let error = Policy::compile(source.as_bytes()).expect_err("a broken policy");
        let error = format!("{error:#}");
        assert!(error.contains(told), "{error}: lacks {told}");
    }

    #[test]
    fn a_broken_policy_never_comes_into_force() {
        check_refused(
            ("package classification", "package classifcation"),
            "package",
        );
        check_refused(
            ("default proactive := false", "default proactive := "),
            "policy.rego",
        );
        check_refused(("\"P1\"", "\"P9\""), "P9");
        check_refused(("severity := input.severity", "severity := 3"), "severity");
        check_refused(("reason := ", "raison := "), "reason");
        check_refused(
            (
                "default environment := \"unknown\"",
                "default environment := \" \"",
            ),
            "environment",
        );
        check_refused(("default priority := \"P2\"", ""), "");
        check_refused(
            (
                "default signal_mode := \"reactive\"",
                "signal_mode := \"proactively\"",
            ),
            "proactively",
        );
    }

    #[test]
    fn a_policy_that_never_ends_is_ended() {
        let endless = format!(
            "{DEFAULT}\nendless := count([1 | some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000); a + b == c])\n"
        );
        let error = Policy::compile(endless.as_bytes()).expect_err("too long");
        assert!(format!("{error:#}").contains("time limit"), "{error:#}");
    }
}
