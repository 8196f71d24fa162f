//! The test bed as the tests see it: who is sick, and what was done to whom.

use serde::Deserialize;

use crate::http::Api;

/// Answer of `/journal`.
#[derive(Clone, Debug, Deserialize)]
pub struct Journal {
    /// Whether `/healthz` answers 200.
    pub healthy: bool,
    /// How many calls had an effect.
    pub actions: usize,
    /// In the order in which they came in.
    pub entries: Vec<Entry>,
}

/// One call.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// `break`, `restart`, `hang`, `fail`, `healthz`.
    pub action: String,
    /// Who called, and for which step.
    pub idempotency_key: Option<String>,
    /// What was answered, if anything was.
    pub status: Option<u16>,
    /// It changed something.
    pub effect: bool,
}

impl Journal {
    /// What was done to the workload of this name.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    #[track_caller]
    pub fn of(testbed: &Api, name: &str) -> Self {
        testbed
            .get(&format!("/journal?name={name}"))
            .expect(200)
            .json()
    }

    /// The calls by workflows that asked for this.
    #[must_use]
    pub fn calls(&self, action: &str) -> Vec<&Entry> {
        let by_workflow =
            |entry: &&Entry| entry.action == action && entry.idempotency_key.is_some();
        self.entries.iter().filter(by_workflow).collect()
    }
}

/// Makes the workload of this name sick.
///
/// # Panics
/// When it does not become so.
#[track_caller]
pub fn make_sick(testbed: &Api, name: &str) {
    testbed
        .post(&format!("/break?name={name}"), &())
        .expect(200);
    testbed.get(&format!("/healthz?name={name}")).expect(503);
}
