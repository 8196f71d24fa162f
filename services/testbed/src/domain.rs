//! What the test bed remembers: for each name whether it is healthy, and what was done to it in
//! which order. It judges nobody; it only keeps a truthful journal.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Names that are kept; a further one is refused.
const NAMES_MAX: usize = 10_000;
/// Calls that are kept for each name; a further one is refused.
const ENTRIES_MAX: usize = 10_000;

/// What can be done to a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Makes it sick.
    Break,
    /// Heals it.
    Restart,
    /// Answers late.
    Hang,
    /// Fails so many times, then works.
    Fail,
    /// Was asked for its health, by someone who sent a key.
    Healthz,
}

/// A call as the journal has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, within the name.
    pub sequence: u64,
    /// When the call came in, the test bed's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What was asked for.
    pub action: Action,
    /// The `Idempotency-Key`, if one came.
    pub idempotency_key: Option<String>,
    /// What was answered; absent while it hangs, and for ever when the caller left.
    pub status: Option<u16>,
    /// It changed something. A key has an effect once.
    pub effect: bool,
}

/// Answer of `/journal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// Whose.
    pub name: String,
    /// Whether `/healthz` answers 200.
    pub healthy: bool,
    /// How many calls had an effect.
    pub actions: usize,
    /// In the order in which they came in.
    pub entries: Vec<Entry>,
}

/// All workloads that were ever named.
#[derive(Debug, Default)]
pub struct Testbed {
    workloads: BTreeMap<String, Workload>,
}

#[derive(Debug, Default)]
struct Workload {
    broken: bool,
    failed: u32,
    keys_with_effect: HashSet<String>,
    entries: Vec<Entry>,
}

/// The test bed remembers all it can.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the journal is full ({NAMES_MAX} names, {ENTRIES_MAX} calls for each)")]
pub struct Full;

impl Testbed {
    /// Writes the call down and does it; the answer is the finished entry. [`Action::Hang`] has no
    /// status yet: [`Testbed::answered`] fills it in. `fail_times` matters to [`Action::Fail`].
    ///
    /// # Errors
    /// [`Full`]: nothing was done.
    pub fn call(
        &mut self,
        name: &str,
        action: Action,
        idempotency_key: Option<String>,
        fail_times: u32,
        at: OffsetDateTime,
    ) -> Result<Entry, Full> {
        if !self.workloads.contains_key(name) && self.workloads.len() == NAMES_MAX {
            return Err(Full);
        }
        let workload = self.workloads.entry(name.to_owned()).or_default();
        if workload.entries.len() == ENTRIES_MAX {
            return Err(Full);
        }
        let done_before = idempotency_key
            .as_ref()
            .is_some_and(|key| workload.keys_with_effect.contains(key));
        let (status, effect) = workload.act(action, fail_times, done_before);
        if let Some(key) = idempotency_key.as_ref().filter(|_| effect) {
            workload.keys_with_effect.insert(key.clone());
        }
        let entry = Entry {
            sequence: workload.entries.len() as u64 + 1,
            at,
            action,
            idempotency_key,
            status,
            effect,
        };
        workload.entries.push(entry.clone());
        Ok(entry)
    }

    /// A hanging call got its answer after all.
    pub fn answered(&mut self, name: &str, sequence: u64, status: u16) {
        let entry = self.workloads.get_mut(name).and_then(|workload| {
            workload
                .entries
                .iter_mut()
                .find(|entry| entry.sequence == sequence)
        });
        if let Some(entry) = entry {
            entry.status = Some(status);
        }
    }

    /// Whether it is well; who was never named is.
    #[must_use]
    pub fn healthy(&self, name: &str) -> bool {
        self.workloads
            .get(name)
            .is_none_or(|workload| !workload.broken)
    }

    /// What was done to this name.
    #[must_use]
    pub fn journal(&self, name: &str) -> Journal {
        let entries = self
            .workloads
            .get(name)
            .map(|workload| workload.entries.clone())
            .unwrap_or_default();
        Journal {
            name: name.to_owned(),
            healthy: self.healthy(name),
            actions: entries.iter().filter(|entry| entry.effect).count(),
            entries,
        }
    }
}

impl Workload {
    /// The status to answer, and whether the call changed something.
    fn act(&mut self, action: Action, fail_times: u32, done_before: bool) -> (Option<u16>, bool) {
        match action {
            Action::Healthz => (Some(if self.broken { 503 } else { 200 }), false),
            // Who hangs has already begun to act: that is what makes a timeout dangerous.
            Action::Hang => (None, !done_before),
            _ if done_before => (Some(200), false),
            Action::Break => {
                self.broken = true;
                (Some(200), true)
            }
            Action::Restart => {
                self.broken = false;
                (Some(200), true)
            }
            Action::Fail if self.failed < fail_times => {
                self.failed += 1;
                (Some(503), false)
            }
            Action::Fail => (Some(200), true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call with its key and `times`, and the expected status and effect.
    type Call = (Action, Option<&'static str>, u32, Option<u16>, bool);

    /// Makes the calls one after the other.
    #[track_caller]
    fn check(calls: &[Call], healthy: bool) {
        let mut testbed = Testbed::default();
        for (index, (action, key, times, status, effect)) in calls.iter().enumerate() {
            let entry = testbed
                .call(
                    "web",
                    *action,
                    key.map(str::to_owned),
                    *times,
                    OffsetDateTime::UNIX_EPOCH,
                )
                .expect("room");
            assert_eq!(
                (entry.status, entry.effect),
                (*status, *effect),
                "call {index}"
            );
        }
        let journal = testbed.journal("web");
        assert_eq!(journal.entries.len(), calls.len());
        assert_eq!(
            journal.actions,
            calls.iter().filter(|(.., effect)| *effect).count()
        );
        assert_eq!(journal.healthy, healthy);
        assert!(testbed.healthy("another"));
    }

    #[test]
    fn broken_until_restarted() {
        use Action::*;
        check(
            &[
                (Break, None, 0, Some(200), true),
                (Healthz, Some("e/probe"), 0, Some(503), false),
                (Restart, Some("e/restart"), 0, Some(200), true),
                (Healthz, Some("e/probe"), 0, Some(200), false),
            ],
            true,
        );
    }

    #[test]
    fn a_key_has_an_effect_once() {
        use Action::*;
        check(
            &[
                (Restart, Some("e/restart"), 0, Some(200), true),
                (Break, None, 0, Some(200), true),
                (Restart, Some("e/restart"), 0, Some(200), false),
            ],
            false,
        );
    }

    #[test]
    fn fails_so_many_times() {
        use Action::*;
        check(
            &[
                (Fail, Some("k"), 2, Some(503), false),
                (Fail, Some("k"), 2, Some(503), false),
                (Fail, Some("k"), 2, Some(200), true),
                (Fail, Some("k"), 2, Some(200), false),
            ],
            true,
        );
    }

    #[test]
    fn a_hanging_call_is_in_the_journal_before_it_is_answered() {
        let mut testbed = Testbed::default();
        let at = OffsetDateTime::UNIX_EPOCH;
        let entry = testbed
            .call("web", Action::Hang, Some("k".into()), 0, at)
            .expect("room");
        assert_eq!(testbed.journal("web").entries[0].status, None);
        testbed.answered("web", entry.sequence, 200);
        assert_eq!(testbed.journal("web").entries[0].status, Some(200));
    }
}
