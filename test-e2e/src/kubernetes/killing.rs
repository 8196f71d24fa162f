//! The kubelet's word that it sets out to end a container. From then on it will not start that
//! container again.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::kubernetes::pods::Process;
use crate::poll::Look;

/// The words that were spoken before.
#[derive(Debug)]
pub struct Killings {
    container: String,
    before: BTreeSet<(String, u64)>,
}

#[derive(Debug, Deserialize)]
struct Words {
    items: Vec<Word>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Word {
    metadata: Metadata,
    /// The same word spoken again is counted.
    #[serde(default)]
    count: u64,
    involved_object: Involved,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Involved {
    /// `spec.containers{name}`.
    #[serde(default)]
    field_path: String,
}

/// Of which events `kubectl get events --field-selector` should tell.
#[must_use]
pub fn selector(process: &Process) -> String {
    format!("involvedObject.uid={},reason=Killing", process.uid)
}

impl Killings {
    /// Reads what was said so far, `kubectl get events --output json`.
    ///
    /// # Errors
    /// When it is no list of events.
    pub fn before(process: &Process, text: &str) -> Result<Self, String> {
        let words: Words =
            serde_json::from_str(text).map_err(|error| format!("events of a pod: {error}"))?;
        let before = words.items.into_iter();
        let before = before.map(|word| (word.metadata.name, word.count));
        Ok(Self {
            before: before.collect(),
            ..Self::none(process)
        })
    }

    /// Nothing was said yet: the container is ended for the first time.
    #[must_use]
    pub fn none(process: &Process) -> Self {
        Self {
            container: process.container.clone(),
            before: BTreeSet::new(),
        }
    }

    /// Whether this event is a new word about the container.
    #[must_use]
    pub fn look(&self, event: &Value) -> Look<()> {
        let word = match Word::deserialize(event) {
            Ok(word) => word,
            Err(error) => return Look::NotYet(format!("{event}: {error}")),
        };
        let ours =
            word.involved_object.field_path == format!("spec.containers{{{}}}", self.container);
        let key = (word.metadata.name, word.count);
        if ours && !self.before.contains(&key) {
            return Look::Seen(());
        }
        Look::NotYet(format!("{key:?}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_new_word_about_the_container_is_heard() {
        let process = Process {
            pod: "a-1".to_owned(),
            uid: "u".to_owned(),
            container: "a".to_owned(),
            id: "abc".to_owned(),
            node: "n".to_owned(),
            address: None,
            started_at: String::new(),
        };
        let word = |name: &str, count: u64, container: &str| {
            json!({"metadata": {"name": name}, "count": count, "involvedObject": {
                "fieldPath": format!("spec.containers{{{container}}}"),
            }})
        };
        assert_eq!(selector(&process), "involvedObject.uid=u,reason=Killing");
        let before = json!({"items": [word("a-1.1", 1, "a")]}).to_string();
        let killings = Killings::before(&process, &before).expect("events");
        let heard = |event: Value| matches!(killings.look(&event), Look::Seen(()));
        assert!(!heard(word("a-1.1", 1, "a")));
        assert!(heard(word("a-1.1", 2, "a")));
        assert!(heard(word("a-1.2", 1, "a")));
        assert!(!heard(word("a-1.3", 1, "other")));
        assert!(!heard(json!({"kind": "Status"})));
        let first = Killings::none(&process).look(&word("a-1.1", 1, "a"));
        assert!(matches!(first, Look::Seen(())));
    }
}
