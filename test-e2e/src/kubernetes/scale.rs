//! More or fewer replicas of a Deployment, and the wait until there are exactly so many.

use std::collections::BTreeMap;

use crate::kubernetes::pods::{Change, Pod};
use crate::poll::Look;

/// The pods of a Deployment that is being scaled, by their name.
#[derive(Debug)]
pub struct Scaling {
    wanted: usize,
    pods: BTreeMap<String, Stands>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stands {
    Ready,
    NotReady,
    ToGo,
}

impl Scaling {
    /// There should be so many, and these are there.
    #[must_use]
    pub fn to(wanted: usize, pods: &[&Pod]) -> Self {
        let pods = pods.iter().map(|pod| (pod.name().to_owned(), stands(pod)));
        Self {
            wanted,
            pods: pods.collect(),
        }
    }

    /// Sees what has changed; when all is as it should be, gives the names that there are.
    pub fn see(&mut self, change: &Change) -> Look<Vec<String>> {
        match change {
            Change::Is(pod) => drop(self.pods.insert(pod.name().to_owned(), stands(pod))),
            Change::Gone(pod) => drop(self.pods.remove(pod.name())),
            Change::Other(said) => return Look::NotYet(said.clone()),
        }
        let ready = self.pods.values().all(|stands| *stands == Stands::Ready);
        if ready && self.pods.len() == self.wanted {
            return Look::Seen(self.pods.keys().cloned().collect());
        }
        Look::NotYet(format!("{:?}", self.pods))
    }
}

fn stands(pod: &Pod) -> Stands {
    match (pod.stays(), pod.ready()) {
        (false, _) => Stands::ToGo,
        (true, true) => Stands::Ready,
        (true, false) => Stands::NotReady,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::pods::tests::{pod, running};

    fn one(suffix: &str, ready: bool, stays: bool) -> Pod {
        let mut pod = pod("a", suffix, "2026-01-01T00:00:00Z", &running("a", suffix));
        if !ready {
            pod["status"]["conditions"][0]["status"] = "False".into();
        }
        if !stays {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:10Z".into();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    #[track_caller]
    fn check(wanted: usize, there: &[&Pod], changes: &[Change], expected: &[&str]) {
        let mut scaling = Scaling::to(wanted, there);
        let (last, before) = changes.split_last().expect("a change");
        for change in before {
            let look = scaling.see(change);
            assert!(matches!(look, Look::NotYet(_)), "{change:?}: {look:?}");
        }
        match scaling.see(last) {
            Look::Seen(names) => assert_eq!(names, expected),
            Look::NotYet(last) => panic!("{last}"),
        }
    }

    #[test]
    fn growing_ends_when_all_are_ready() {
        let (first, second) = (one("1", true, true), one("2", true, true));
        let changes = [
            Change::Is(first.clone()),
            Change::Is(one("2", false, true)),
            Change::Other("ERROR".to_owned()),
            Change::Is(second),
        ];
        check(2, &[&first], &changes, &["a-1", "a-2"]);
    }

    #[test]
    fn shrinking_ends_when_the_others_have_gone() {
        let (first, second) = (one("1", true, true), one("2", true, true));
        let leaves = || one("2", true, false);
        let changes = [
            Change::Is(first.clone()),
            Change::Is(second.clone()),
            Change::Is(leaves()),
            Change::Gone(leaves()),
        ];
        check(1, &[&first, &second], &changes, &["a-1"]);
        let changes = [Change::Is(leaves()), Change::Gone(leaves())];
        check(0, &[&second], &changes, &[]);
    }
}
