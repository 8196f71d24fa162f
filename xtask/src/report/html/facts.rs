//! A receipt as it is read again: what the report is made of, and what the last run left to compare
//! with. It reads what older receipts hold as well; what they do not tell is not known.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use serde::Deserialize;

use crate::pipeline::test::TestReport;
use crate::report::receipt::Verdict;

/// What of a receipt the report shows.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Facts {
    pub(super) run: String,
    pub(super) target: String,
    pub(super) verdict: Verdict,
    #[serde(default)]
    pub(super) exit_code: Option<i32>,
    pub(super) begun_at: Timestamp,
    #[serde(default)]
    pub(super) ended_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) cluster: Option<String>,
    #[serde(default)]
    pub(super) engine: Option<EngineFacts>,
    #[serde(default)]
    pub(super) tools: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) inputs: Inputs,
    #[serde(default)]
    pub(super) images: BTreeMap<String, ImageFacts>,
    #[serde(default)]
    pub(super) third_party: Vec<ThirdParty>,
    #[serde(default)]
    pub(super) test_program: Option<ProgramFacts>,
    #[serde(default)]
    pub(super) evidence: Vec<Evidence>,
    #[serde(default)]
    pub(super) evidence_after_tests: Vec<Evidence>,
    #[serde(default)]
    pub(super) phases: Vec<PhaseFacts>,
    #[serde(default)]
    pub(super) test_filters: Vec<String>,
    #[serde(default)]
    pub(super) tests: Option<TestReport>,
    #[serde(default)]
    pub(super) edited_during_run: Vec<String>,
    #[serde(default)]
    pub(super) failure: Option<FailureFacts>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct EngineFacts {
    pub(super) kind: String,
    pub(super) version: String,
    #[serde(default)]
    pub(super) notes: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Inputs {
    #[serde(default)]
    pub(super) packages: Vec<PackageFacts>,
    #[serde(default)]
    pub(super) recipe: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) manifests: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PackageFacts {
    pub(super) package: String,
    pub(super) source_digest: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ImageFacts {
    pub(super) reference: String,
    pub(super) source_digest: String,
    #[serde(default)]
    pub(super) built: Option<BuiltFacts>,
    #[serde(default)]
    pub(super) loaded: Option<LoadedFacts>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct BuiltFacts {
    pub(super) origin: String,
    pub(super) image_id: String,
    #[serde(default)]
    pub(super) manifest_digest: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct LoadedFacts {
    /// As the cluster lists it.
    #[serde(default)]
    pub(super) image_id: Option<String>,
    /// As the registry tells it that the cluster pulls from.
    #[serde(default)]
    pub(super) manifest_digest: Option<String>,
    #[serde(default)]
    pub(super) already_there: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ThirdParty {
    pub(super) name: String,
    pub(super) reference: String,
    pub(super) image_id: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ProgramFacts {
    pub(super) source_digest: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Evidence {
    pub(super) service: String,
    pub(super) container: String,
    pub(super) reference: String,
    pub(super) image_id: String,
    #[serde(default)]
    pub(super) version: Option<serde_json::Value>,
    #[serde(default)]
    pub(super) restart_count: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PhaseFacts {
    pub(super) phase: String,
    pub(super) seconds: f64,
    /// Older receipts do not tell it.
    #[serde(default)]
    pub(super) ended_after_seconds: Option<f64>,
    pub(super) succeeded: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct FailureFacts {
    pub(super) phase: String,
    pub(super) message: String,
}

impl Facts {
    /// Reads a receipt.
    ///
    /// # Errors
    /// When it is none.
    pub(super) fn read(receipt: &str) -> Result<Self> {
        serde_json::from_str(receipt).context("this is no receipt")
    }

    /// How long the run took; of one that has not told its end, until its last phase ended.
    pub(super) fn seconds(&self) -> f64 {
        let ends = self.phases.iter().filter_map(|it| it.ended_after_seconds);
        let phases = ends.fold(0.0, f64::max);
        let whole = self.ended_at.map_or(0.0, |ended_at| {
            ended_at.duration_since(self.begun_at).as_secs_f64()
        });
        phases.max(whole)
    }

    /// What the tests said, in a line. What had not ended when the run was ended has not failed.
    pub(super) fn tests_in_short(&self) -> String {
        match &self.tests {
            None => "none ran".to_owned(),
            Some(tests) if self.was_ended() => tests.verdict_so_far(),
            Some(tests) => tests.verdict(),
        }
    }

    /// A signal or its time ended it.
    pub(super) fn was_ended(&self) -> bool {
        matches!(self.verdict, Verdict::Interrupted | Verdict::TimedOut)
    }

    /// It went to its own end, so that the next run can be compared with it.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.verdict, Verdict::Green | Verdict::Red)
    }
}

/// `85 ms`, `9.8 s`, `2 min 32 s`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 0.0995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 99.95 {
        format!("{seconds:.1} s")
    } else {
        let whole = seconds.round();
        format!("{:.0} min {:02.0} s", (whole / 60.0).floor(), whole % 60.0)
    }
}

/// `1 test`, `2 tests`.
pub(super) fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// `2026-11-25 17:49:20 UTC`.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::{Facts, count, duration};

    #[test]
    fn durations_are_told_as_people_say_them() {
        let told = [0.0, 0.085, 0.0999, 9.84, 99.94, 99.96, 152.57, 3600.0].map(duration);
        let wanted = [
            "0 ms",
            "85 ms",
            "0.1 s",
            "9.8 s",
            "99.9 s",
            "1 min 40 s",
            "2 min 33 s",
            "60 min 00 s",
        ];
        assert_eq!(told, wanted);
        assert_eq!([count(1, "test"), count(0, "test")], ["1 test", "0 tests"]);
    }

    #[test]
    fn a_receipt_of_a_run_that_failed_at_once_is_read() {
        let facts = Facts::read(
            r#"{"run":"a-1","target":"a","verdict":"timed-out","begun_at":"2026-11-25T17:49:20Z","cluster":null,"failure":null}"#,
        )
        .unwrap();
        assert!(!facts.is_whole());
        assert!(facts.seconds() < f64::EPSILON);
    }
}
