//! What of a deployment stays when another is rolled out over it: what the engine shows to be
//! exactly what is wanted now. What was once started, or should be there, counts for nothing.

use std::collections::BTreeMap;

use super::plan::{LABEL_PLAN, Planned, Pod};
use crate::engine::ContainerFacts;
use crate::manifest::{Named as _, Seen};

/// The pods that stand as planned, and those that must be made anew.
pub(super) fn divide(
    pods: Vec<Pod<Seen>>,
    facts: &BTreeMap<String, ContainerFacts>,
) -> (Vec<Pod<Seen>>, Vec<Pod<Seen>>) {
    let found: Vec<Found> = pods
        .iter()
        .map(|pod| Found {
            is_third_party: pod.main.image().package().is_none(),
            stands: stands(pod, facts),
        })
        .collect();
    let mut stay = staying(&found).into_iter();
    pods.into_iter().partition(|_| stay.next() == Some(true))
}

/// What was found of a pod.
#[derive(Clone, Copy, Debug)]
struct Found {
    is_third_party: bool,
    stands: bool,
}

/// Which pods stay. A database made anew is empty: what had filled it, or has read of it, is not
/// what it says it is, so nothing stays beside it.
fn staying(pods: &[Found]) -> Vec<bool> {
    let emptied = pods.iter().any(|pod| pod.is_third_party && !pod.stands);
    pods.iter().map(|pod| pod.stands && !emptied).collect()
}

fn stands(pod: &Pod<Seen>, facts: &BTreeMap<String, ContainerFacts>) -> bool {
    let is = |container: &Planned<Seen>, state: State| {
        let wanted = Wanted {
            image_id: container.image().image_id(),
            reference: container.image().reference(),
            plan: container.plan(),
            state,
        };
        wanted.is(facts.get(&container.name))
    };
    let mut inits = pod.init.iter();
    inits.all(|init| is(init, State::Ended)) && is(&pod.main, State::Runs)
}

/// What a container must be to stay.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    image_id: &'a str,
    reference: &'a str,
    plan: &'a str,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Runs,
    /// With exit code 0.
    Ended,
}

impl Wanted<'_> {
    fn is(&self, facts: Option<&ContainerFacts>) -> bool {
        let Some(facts) = facts else { return false };
        let state = match self.state {
            State::Runs => facts.status == "running",
            State::Ended => facts.status == "exited" && facts.exit_code == 0,
        };
        let plan = facts.labels.get(LABEL_PLAN).map(String::as_str);
        // One that the engine had to start again would be refused by phase 5.
        state
            && facts.restart_count == 0
            && facts.image_id == self.image_id
            && facts.reference == self.reference
            && plan == Some(self.plan)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Found, LABEL_PLAN, State, Wanted, staying};
    use crate::engine::ContainerFacts;

    const DATABASE: bool = true;
    const OURS: bool = false;

    /// Whether each pod is the database and stands, and whether it stays.
    #[track_caller]
    fn check(pods: &[(bool, bool, bool)]) {
        let found: Vec<Found> = pods
            .iter()
            .map(|&(is_third_party, stands, _)| Found {
                is_third_party,
                stands,
            })
            .collect();
        let wanted: Vec<bool> = pods.iter().map(|&(_, _, stays)| stays).collect();
        assert_eq!(staying(&found), wanted, "{pods:?}");
    }

    #[test]
    fn what_stands_stays_unless_the_database_is_emptied() {
        check(&[(DATABASE, true, true), (OURS, true, true)]);
        check(&[
            (DATABASE, true, true),
            (OURS, false, false),
            (OURS, true, true),
        ]);
        check(&[
            (DATABASE, false, false),
            (OURS, true, false),
            (OURS, true, false),
        ]);
        check(&[(OURS, true, true), (OURS, false, false)]);
    }

    fn facts() -> ContainerFacts {
        ContainerFacts {
            name: "run-gateway-0".to_owned(),
            image_id: "sha256:1".to_owned(),
            reference: "localhost/gateway:1".to_owned(),
            status: "running".to_owned(),
            pid: 1,
            exit_code: 0,
            out_of_memory: false,
            restart_count: 0,
            started_at: String::new(),
            ports: BTreeMap::new(),
            labels: BTreeMap::from([(LABEL_PLAN.to_owned(), "plan".to_owned())]),
        }
    }

    /// Whether a container stays that is as `change` makes it.
    #[track_caller]
    fn check_facts(state: State, stays: bool, change: impl FnOnce(&mut ContainerFacts)) {
        let wanted = Wanted {
            image_id: "sha256:1",
            reference: "localhost/gateway:1",
            plan: "plan",
            state,
        };
        let mut facts = facts();
        change(&mut facts);
        assert_eq!(wanted.is(Some(&facts)), stays, "{facts:?}");
    }

    #[test]
    fn only_what_is_seen_to_be_as_planned_stands() {
        use State::{Ended, Runs};
        check_facts(Runs, true, |_| {});
        check_facts(Runs, false, |facts| facts.image_id = "sha256:2".to_owned());
        check_facts(Runs, false, |facts| {
            facts.reference = "localhost/gateway:2".to_owned();
        });
        check_facts(Runs, false, |facts| facts.labels.clear());
        check_facts(Runs, false, |facts| {
            facts.labels.insert(LABEL_PLAN.to_owned(), "p".to_owned());
        });
        check_facts(Runs, false, |facts| facts.restart_count = 1);
        for status in ["paused", "exited", "created"] {
            check_facts(Runs, false, |facts| facts.status = status.to_owned());
        }
        check_facts(Ended, true, |facts| facts.status = "exited".to_owned());
        check_facts(Ended, false, |_| {});
        check_facts(Ended, false, |facts| {
            facts.status = "exited".to_owned();
            facts.exit_code = 1;
        });
        let wanted = Wanted {
            image_id: "",
            reference: "",
            plan: "",
            state: Runs,
        };
        assert!(!wanted.is(None));
    }
}
