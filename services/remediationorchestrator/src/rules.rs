//! How patient the orchestrator is, for each namespace: cool-down, backoff, deadlines, and who is
//! asked. It comes from a mounted file and follows it; a file that is not understood leaves the old
//! rules in force.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use common::inventory::closeness;
use common::shutdown::Shutdown;
use common::watched_file::WatchedFile;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// DataStorage keeps no deadline that is further away: 30 days.
const SECONDS_MAX: u32 = 30 * 24 * 3600;

/// The rules of one namespace. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// After a remediation has completed, the next one of that target waits so long.
    pub cool_down_seconds: u32,
    /// So many consecutive failures of a target are taken without a pause.
    pub failures_max: u32,
    /// The pause after one more; it doubles with each further one.
    pub backoff_seconds: u32,
    /// The longest pause.
    pub backoff_seconds_max: u32,
    /// A target that another execution holds is looked at again after so long, at the latest.
    pub busy_seconds: u32,
    /// Whether a person is asked about what is P0 in production.
    pub approval: bool,
    /// How long a person may take.
    pub approval_seconds: u32,
    /// How long each phase may take.
    pub phase_seconds: PhaseSeconds,
    /// How long a request may take as a whole.
    pub deadline_seconds: u32,
}

/// How long each phase may take; AwaitingApproval has `approval_seconds`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "the names are those of the phases")]
pub struct PhaseSeconds {
    pub pending: u32,
    pub processing: u32,
    pub analyzing: u32,
    pub blocked: u32,
    pub executing: u32,
    pub verifying: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            cool_down_seconds: 300,
            failures_max: 3,
            backoff_seconds: 60,
            backoff_seconds_max: 3600,
            busy_seconds: 10,
            approval: true,
            approval_seconds: 1800,
            phase_seconds: PhaseSeconds::default(),
            deadline_seconds: 6 * 3600,
        }
    }
}

impl Default for PhaseSeconds {
    fn default() -> Self {
        Self {
            pending: 900,
            processing: 900,
            analyzing: 900,
            blocked: 4 * 3600,
            executing: 3600,
            verifying: 900,
        }
    }
}

/// The rules of all namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleBook {
    default: Rules,
    namespaces: BTreeMap<String, Rules>,
}

/// The file: what is left out is as in `default`, and there as it is here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    #[serde(default)]
    default: Map<String, Value>,
    /// A name, or a prefix that ends in `*`.
    #[serde(default)]
    namespaces: BTreeMap<String, Map<String, Value>>,
}

impl RuleBook {
    /// Reads the file's content.
    ///
    /// # Errors
    /// Anything that is not exactly this shape; the message names the field.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let pages: Pages = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let built_in = serde_json::to_value(Rules::default()).map_err(|error| error.to_string())?;
        let default = over(built_in, Value::Object(pages.default));
        let read = |place: &str, rules: Value| -> Result<Rules, String> {
            let rules: Rules =
                serde_json::from_value(rules).map_err(|error| format!("{place}: {error}"))?;
            rules.check().map_err(|error| format!("{place}: {error}"))?;
            Ok(rules)
        };
        let mut namespaces = BTreeMap::new();
        for (name, rules) in pages.namespaces {
            let rules = read(&name, over(default.clone(), Value::Object(rules)))?;
            namespaces.insert(name, rules);
        }
        Ok(Self {
            default: read("default", default)?,
            namespaces,
        })
    }

    /// The rules of a namespace: an exact name wins over a prefix, a longer prefix over a shorter.
    #[must_use]
    pub fn of(&self, namespace: &str) -> &Rules {
        self.namespaces
            .iter()
            .filter_map(|(name, rules)| Some((closeness(name, namespace)?, rules)))
            .max_by_key(|(closeness, _)| *closeness)
            .map_or(&self.default, |(_, rules)| rules)
    }
}

impl Rules {
    fn check(&self) -> Result<(), String> {
        let phases = &self.phase_seconds;
        let waits = [
            ("backoff_seconds", self.backoff_seconds),
            ("backoff_seconds_max", self.backoff_seconds_max),
            ("busy_seconds", self.busy_seconds),
            ("approval_seconds", self.approval_seconds),
            ("deadline_seconds", self.deadline_seconds),
            ("phase_seconds.pending", phases.pending),
            ("phase_seconds.processing", phases.processing),
            ("phase_seconds.analyzing", phases.analyzing),
            ("phase_seconds.blocked", phases.blocked),
            ("phase_seconds.executing", phases.executing),
            ("phase_seconds.verifying", phases.verifying),
        ];
        let bad = waits
            .into_iter()
            .find(|(_, seconds)| !(1..=SECONDS_MAX).contains(seconds));
        if let Some((name, seconds)) = bad {
            return Err(format!(
                "{name} is {seconds}, 1 to {SECONDS_MAX} are possible"
            ));
        }
        if self.cool_down_seconds > SECONDS_MAX {
            return Err(format!("cool_down_seconds: at most {SECONDS_MAX}"));
        }
        Ok(())
    }
}

/// `upper` laid over `lower`, objects in objects.
fn over(lower: Value, upper: Value) -> Value {
    match (lower, upper) {
        (Value::Object(mut lower), Value::Object(upper)) => {
            for (name, value) in upper {
                let below = lower.remove(&name).unwrap_or_default();
                lower.insert(name, over(below, value));
            }
            Value::Object(lower)
        }
        (_, upper) => upper,
    }
}

/// The rules in force, which follow their file.
#[derive(Clone, Debug, Default)]
pub struct LiveRules {
    current: Arc<RwLock<Arc<RuleBook>>>,
    file: Option<Arc<Mutex<WatchedFile>>>,
}

impl LiveRules {
    /// Reads the file for the first time; then there is no old one that could stay.
    ///
    /// # Errors
    /// It cannot be read, or is not what it should be.
    pub fn from_file(path: &str) -> Result<Self, String> {
        let file = WatchedFile::open(PathBuf::from(path)).map_err(|error| error.to_string())?;
        let rules = RuleBook::parse(file.content())?;
        Ok(Self {
            current: Arc::new(RwLock::new(Arc::new(rules))),
            file: Some(Arc::new(Mutex::new(file))),
        })
    }

    /// Rules that follow nothing.
    #[must_use]
    pub fn fixed(rules: RuleBook) -> Self {
        Self {
            current: Arc::new(RwLock::new(Arc::new(rules))),
            file: None,
        }
    }

    /// The rules of a namespace, as they are in force.
    #[must_use]
    pub fn of(&self, namespace: &str) -> Rules {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.of(namespace).clone()
    }

    /// Follows the file until shutdown.
    pub async fn follow(self, shutdown: Shutdown) {
        while shutdown.sleep(LOOK_INTERVAL).await {
            self.look();
        }
    }

    fn look(&self) {
        let Some(file) = &self.file else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match file.look() {
            Ok(None) => return,
            Ok(Some(content)) => RuleBook::parse(content),
            Err(error) => Err(error.to_string()),
        };
        let outcome = match read {
            Ok(rules) => {
                tracing::info!("policy reloaded");
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
                "reloaded"
            }
            Err(error) => {
                tracing::warn!(error, "policy rejected; the old one stays in force");
                "rejected"
            }
        };
        metrics::counter!("policy_changes_total", "outcome" => outcome).increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_as_in_default_and_there_as_built_in() {
        let book = RuleBook::parse(
            br#"{"default": {"cool_down_seconds": 7, "phase_seconds": {"pending": 8}},
                "namespaces": {"shop-*": {"busy_seconds": 1},
                               "shop-a": {"phase_seconds": {"blocked": 9}, "approval": false}}}"#,
        )
        .expect("rules");
        let built_in = Rules::default();
        let default = Rules {
            cool_down_seconds: 7,
            phase_seconds: PhaseSeconds {
                pending: 8,
                ..PhaseSeconds::default()
            },
            ..built_in
        };
        assert_eq!(book.of("bazaar"), &default);
        let prefix = Rules {
            busy_seconds: 1,
            ..default.clone()
        };
        assert_eq!(book.of("shop-b"), &prefix);
        let mut exact = default;
        exact.phase_seconds.blocked = 9;
        exact.approval = false;
        assert_eq!(book.of("shop-a"), &exact);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (bad, says) in [
            (r#"{"defaults": {}}"#, "defaults"),
            (
                r#"{"default": {"cooldown": 1}}"#,
                "default: unknown field `cooldown`",
            ),
            (
                r#"{"namespaces": {"a": {"busy_seconds": 0}}}"#,
                "a: busy_seconds is 0",
            ),
            (
                r#"{"default": {"phase_seconds": {"executing": 0}}}"#,
                "phase_seconds.executing",
            ),
            (
                r#"{"default": {"approval": "yes"}}"#,
                "default: invalid type",
            ),
            ("{", "EOF"),
        ] {
            let error = RuleBook::parse(bad.as_bytes()).expect_err(bad);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn rules_follow_their_file_and_a_broken_one_changes_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("policy.json");
        let write = |text: &str| std::fs::write(&path, text).expect("write");
        write("{}");
        let rules = LiveRules::from_file(&path.to_string_lossy()).expect("rules");
        let look_twice = || {
            rules.look();
            rules.look();
            rules.of("shop").busy_seconds
        };
        assert_eq!(look_twice(), 10);
        write(r#"{"default": {"busy_seconds": 3}}"#);
        assert_eq!(look_twice(), 3);
        write(r#"{"default": {"busy_seconds": "#);
        assert_eq!(look_twice(), 3);
    }
}
