//! What is other than in the last run of the same target: what went in, how long the phases took,
//! and which tests say something else.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::facts::{Facts, count, duration, moment};
use super::identity::shown;
use super::markup::{Element, Html, Tag, cut, new};
use crate::pipeline::test::{TestReport, TestResult, Verdict as Ended};
use crate::report::receipt::Verdict;

/// Of how many of a kind it is told.
const TOLD_MAX: usize = 60;
/// More names are folded.
const OPEN_MAX: usize = 10;
/// What a phase may take longer or less before anybody should look: of that of the last run, and
/// in seconds.
const NOTABLE: (f64, f64) = (0.25, 0.5);

/// Compared with one other run.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    last: Last,
    pub(super) inputs: Vec<Input>,
    phases: Vec<Phase>,
    pub(super) tests: Tests,
}

#[derive(Clone, Debug)]
struct Last {
    run: String,
    verdict: Verdict,
    begun_at: Timestamp,
    cluster: Option<String>,
    same_cluster: bool,
    seconds: f64,
    tested: bool,
}

/// Something that goes into a run and is another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Input {
    kind: &'static str,
    name: String,
    before: Option<String>,
    now: Option<String>,
}

#[derive(Clone, Debug)]
struct Phase {
    name: String,
    before: Option<f64>,
    now: Option<f64>,
}

/// Names of tests, by what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tests {
    pub(super) newly_failing: BTreeSet<String>,
    pub(super) still_failing: BTreeSet<String>,
    pub(super) fixed: BTreeSet<String>,
    pub(super) added: BTreeSet<String>,
    pub(super) gone: BTreeSet<String>,
}

/// Compares a run with the last one.
pub(super) fn between(last: &Facts, now: &Facts) -> Difference {
    Difference {
        inputs: inputs(last, now),
        phases: phases(last, now),
        tests: match (&last.tests, &now.tests) {
            (Some(last), Some(now)) => tests(last, now),
            _ => Tests::default(),
        },
        last: Last {
            run: last.run.clone(),
            verdict: last.verdict,
            begun_at: last.begun_at,
            cluster: last.cluster.clone(),
            same_cluster: last.cluster == now.cluster,
            seconds: last.seconds(),
            tested: last.tests.is_some(),
        },
    }
}

type Named = BTreeMap<String, String>;

fn inputs(last: &Facts, now: &Facts) -> Vec<Input> {
    let sources = |facts: &Facts| -> Named {
        let packages = facts.inputs.packages.iter();
        packages
            .map(|it| (it.package.clone(), it.source_digest.clone()))
            .collect()
    };
    let image_ids = |facts: &Facts| -> Named {
        let images = facts.images.iter();
        images
            .filter_map(|(name, it)| Some((name.clone(), it.built.as_ref()?.image_id.clone())))
            .collect()
    };
    let third_party = |facts: &Facts| -> Named {
        let images = facts.third_party.iter();
        images
            .map(|it| (it.name.clone(), it.image_id.clone()))
            .collect()
    };
    let mut changes = Vec::new();
    let kinds: [(&'static str, Named, Named); 5] = [
        ("sources", sources(last), sources(now)),
        (
            "recipe",
            last.inputs.recipe.clone(),
            now.inputs.recipe.clone(),
        ),
        (
            "manifest",
            last.inputs.manifests.clone(),
            now.inputs.manifests.clone(),
        ),
        ("image ID", image_ids(last), image_ids(now)),
        ("third party", third_party(last), third_party(now)),
    ];
    for (kind, before, now) in kinds {
        // What one of the two never came to know is no change.
        if before.is_empty() || now.is_empty() {
            continue;
        }
        let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        for name in names {
            let (before, now) = (before.get(name), now.get(name));
            if before != now {
                changes.push(Input {
                    kind,
                    name: name.clone(),
                    before: before.cloned(),
                    now: now.cloned(),
                });
            }
        }
    }
    changes
}

fn phases(last: &Facts, now: &Facts) -> Vec<Phase> {
    let of = |facts: &Facts, name: &str| {
        let mut all = facts.phases.iter();
        all.find(|it| it.phase == name).map(|it| it.seconds)
    };
    let mut names: Vec<&str> = Vec::new();
    for phase in now.phases.iter().chain(&last.phases) {
        if !names.contains(&phase.phase.as_str()) {
            names.push(&phase.phase);
        }
    }
    names
        .into_iter()
        .map(|name| Phase {
            name: name.to_owned(),
            before: of(last, name),
            now: of(now, name),
        })
        .collect()
}

fn tests(last: &TestReport, now: &TestReport) -> Tests {
    // What was skipped says nothing.
    let by_name = |report: &TestReport| -> BTreeMap<String, bool> {
        let ran = report
            .results
            .iter()
            .filter(|it| it.verdict != Ended::Skipped);
        let named = |it: &TestResult| (it.name.clone(), it.verdict == Ended::Passed);
        ran.map(named).collect()
    };
    let (last, now) = (by_name(last), by_name(now));
    let mut tests = Tests::default();
    for (name, passed) in &now {
        let changed = match (last.get(name), passed) {
            (None, _) => &mut tests.added,
            (Some(true), false) => &mut tests.newly_failing,
            (Some(false), false) => &mut tests.still_failing,
            (Some(false), true) => &mut tests.fixed,
            (Some(true), true) => continue,
        };
        changed.insert(name.clone());
    }
    let gone = last.keys().filter(|name| !now.contains_key(*name));
    tests.gone = gone.cloned().collect();
    tests
}

impl Difference {
    /// In few words, for a row of a table.
    pub(super) fn in_short(&self) -> String {
        let sources = self.inputs.iter().filter(|it| it.kind == "sources");
        let sources: Vec<&str> = sources.map(|it| it.name.as_str()).collect();
        let mut told = match sources[..] {
            [] => vec!["same sources".to_owned()],
            [one] => vec![format!("{one} edited")],
            [..] => vec![format!("{} packages edited", sources.len())],
        };
        let tests = [
            (&self.tests.newly_failing, "newly failing"),
            (&self.tests.fixed, "fixed"),
            (&self.tests.added, "added"),
            (&self.tests.gone, "gone"),
        ];
        let tests = tests.iter().filter(|(names, _)| !names.is_empty());
        told.extend(tests.map(|(names, what)| format!("{} {what}", names.len())));
        told.join(", ")
    }
}

/// The section's content.
pub(super) fn render(difference: Option<&Difference>, now: &Facts) -> Html {
    let Some(difference) = difference else {
        let text = "There is no earlier run of this target here that went to its end.";
        return new(Tag::P).class("quiet").with(text).into();
    };
    let mut html = Html::default();
    html.add(compared_with(&difference.last));
    html.add(render_tests(difference));
    html.add(render_inputs(&difference.inputs));
    html.add(render_phases(difference, now));
    html
}

fn compared_with(last: &Last) -> Element {
    let verdict = match last.verdict {
        Verdict::Green => "green",
        _ => "red",
    };
    let cluster = last.cluster.as_deref().unwrap_or("no cluster");
    let caution = match last.same_cluster {
        true => "",
        false => " That was another kind of cluster: times do not compare.",
    };
    new(Tag::P)
        .with("Compared with ")
        .with(new(Tag::Code).with(cut(&last.run, 100)))
        .with(format!(
            ", {verdict}, {}, {cluster}.{caution}",
            moment(last.begun_at)
        ))
}

fn render_tests(difference: &Difference) -> Html {
    let tests = &difference.tests;
    if !difference.last.tested {
        let text = "The last run was not tested, so no test can have changed.";
        return new(Tag::P).class("quiet").with(text).into();
    }
    let lists = [
        ("chip bad", "✗ failing, passed before", &tests.newly_failing),
        ("chip bad", "✗ still failing", &tests.still_failing),
        ("chip good", "✓ passes, failed before", &tests.fixed),
        ("chip open", "+ added", &tests.added),
        ("chip open", "− gone, or not asked for", &tests.gone),
    ];
    let told: Html = lists
        .into_iter()
        .filter(|(_, _, names)| !names.is_empty())
        .map(|(class, head, names)| {
            let items = names.iter().take(TOLD_MAX);
            let items = items.map(|name| new(Tag::Li).with(new(Tag::Code).with(cut(name, 200))));
            let more = names.len().saturating_sub(TOLD_MAX);
            let head = new(Tag::Span)
                .class(class)
                .with(format!("{head}: {}", names.len()));
            new(Tag::Details)
                .class("changed")
                .open(names.len() <= OPEN_MAX)
                .with(new(Tag::Summary).with(head))
                .with(new(Tag::Ul).with(items.collect::<Html>()))
                .with((more > 0).then(|| new(Tag::P).with(format!("and {more} more"))))
        })
        .collect();
    match told.bytes() {
        0 => new(Tag::P).with("Every test says what it said.").into(),
        _ => told,
    }
}

fn render_inputs(inputs: &[Input]) -> Html {
    if inputs.is_empty() {
        let text = "Sources, recipe, manifests and images are the same.";
        return new(Tag::P).with(text).into();
    }
    let head = ["what", "", "last run", "this run"].map(|text| new(Tag::Th).with(text));
    let value = |value: &Option<String>, absent: &str| match value {
        Some(value) if value.is_empty() => Html::text("(empty)"),
        Some(value) => shown(value).into(),
        None => new(Tag::Span).class("quiet").with(absent).into(),
    };
    let rows = inputs.iter().take(TOLD_MAX).map(|it| {
        new(Tag::Tr)
            .with(new(Tag::Td).with(it.kind))
            .with(new(Tag::Th).with(cut(&it.name, 80)))
            .with(new(Tag::Td).with(value(&it.before, "was not there")))
            .with(new(Tag::Td).with(value(&it.now, "is gone")))
    });
    let more = inputs.len().saturating_sub(TOLD_MAX);
    let mut html = Html::default();
    html.add(
        new(Tag::Div).class("wide").with(
            new(Tag::Table)
                .class("plain")
                .with(new(Tag::Thead).with(new(Tag::Tr).with(head.into_iter().collect::<Html>())))
                .with(new(Tag::Tbody).with(rows.collect::<Html>())),
        ),
    );
    html.add((more > 0).then(|| new(Tag::P).with(format!("and {}", count(more, "more change")))));
    html
}

fn render_phases(difference: &Difference, now: &Facts) -> Element {
    let whole = Phase {
        name: "the whole".to_owned(),
        before: Some(difference.last.seconds),
        now: Some(now.seconds()),
    };
    let all = || difference.phases.iter().chain([&whole]);
    let longest = all()
        .flat_map(|it| [it.before, it.now])
        .flatten()
        .fold(0.001, f64::max);
    let rows: Html = all().map(|it| phase_row(it, longest)).collect();
    let heads = ["phase", "last run", "this run", "", "change"];
    let heads = heads.map(|text| new(Tag::Th).with(text));
    new(Tag::Div).class("wide").with(
        new(Tag::Table)
            .class("plain phases")
            .with(new(Tag::Thead).with(new(Tag::Tr).with(heads.into_iter().collect::<Html>())))
            .with(new(Tag::Tbody).with(rows)),
    )
}

fn phase_row(phase: &Phase, longest: f64) -> Element {
    let told = |seconds: Option<f64>| seconds.map_or_else(|| "–".to_owned(), duration);
    let bar = |class: &'static str, seconds: Option<f64>| {
        let share = 100.0 * seconds.unwrap_or(0.0).max(0.0) / longest;
        let bar = new(Tag::Span).class(class);
        bar.numbers(&[("from", 0.0), ("wide", share)])
    };
    let bars = new(Tag::Div)
        .class("pair")
        .unread()
        .with(bar("was", phase.before))
        .with(bar("is", phase.now));
    new(Tag::Tr)
        .with(new(Tag::Th).with(cut(&phase.name, 40)))
        .with(new(Tag::Td).class("number").with(told(phase.before)))
        .with(new(Tag::Td).class("number").with(told(phase.now)))
        .with(new(Tag::Td).class("bars").with(bars))
        .with(change(phase))
}

fn change(phase: &Phase) -> Element {
    let cell = new(Tag::Td).class("number");
    let (Some(before), Some(now)) = (phase.before, phase.now) else {
        return cell.with(match phase.before {
            None => "was not there",
            Some(_) => "is gone",
        });
    };
    let (more, sign) = ((now - before).abs(), if now < before { "−" } else { "+" });
    let text = format!("{sign}{}", duration(more));
    if more < NOTABLE.1 || more < NOTABLE.0 * before {
        return cell.with(new(Tag::Span).class("quiet").with(text));
    }
    let (class, word) = match now > before {
        true => ("chip open", "▲ slower"),
        false => ("chip good", "▼ faster"),
    };
    cell.with(new(Tag::Span).class(class).with(format!("{word} {text}")))
}

#[cfg(test)]
mod tests {
    use super::{Tests, between};
    use crate::report::html::facts::Facts;

    fn facts(source: &str, tests: &[(&str, bool)], images: bool) -> Facts {
        let results: Vec<_> = tests
            .iter()
            .map(|(name, passed)| {
                let verdict = if *passed { "passed" } else { "failed" };
                serde_json::json!({"name": name, "verdict": verdict,
                    "duration_milliseconds": 1, "message": null, "location": null})
            })
            .collect();
        let built = images.then(|| serde_json::json!({"origin": "built", "image_id": source}));
        let receipt = serde_json::json!({"run": "a-1", "target": "a", "verdict": "red",
            "begun_at": "2026-11-25T17:49:20Z",
            "inputs": {"packages": [
                {"package": "gateway", "source_digest": source},
                {"package": "same", "source_digest": "s"}],
                "manifests": {"deploy/a.yaml": "m"}},
            "images": {"gateway": {"reference": "r", "source_digest": source, "built": built}},
            "tests": {"results": results, "program_succeeded": true}});
        Facts::read(&receipt.to_string()).unwrap()
    }

    #[test]
    fn changed_inputs_are_found_and_equal_ones_are_not() {
        let last = facts("1", &[], true);
        let difference = between(&last, &facts("2", &[], true));
        let told: Vec<_> = difference
            .inputs
            .iter()
            .map(|it| {
                (
                    it.kind,
                    it.name.as_str(),
                    it.before.as_deref(),
                    it.now.as_deref(),
                )
            })
            .collect();
        let wanted = [
            ("sources", "gateway", Some("1"), Some("2")),
            ("image ID", "gateway", Some("1"), Some("2")),
        ];
        assert_eq!(told, wanted);
        assert_eq!(difference.in_short(), "gateway edited");
        assert!(between(&last, &last).inputs.is_empty());
        // A run that failed before it had built has no other image.
        let unbuilt = between(&last, &facts("1", &[], false));
        assert_eq!(unbuilt.inputs, []);
    }

    #[test]
    fn every_way_in_which_a_test_can_change_is_told() {
        let last = facts(
            "1",
            &[("a", true), ("b", false), ("c", false), ("d", true)],
            true,
        );
        let now = facts(
            "1",
            &[("a", false), ("b", true), ("c", false), ("e", true)],
            true,
        );
        let set = |name: &str| [name.to_owned()].into();
        let difference = between(&last, &now);
        assert_eq!(
            difference.tests,
            Tests {
                newly_failing: set("a"),
                still_failing: set("c"),
                fixed: set("b"),
                added: set("e"),
                gone: set("d"),
            }
        );
        assert_eq!(
            difference.in_short(),
            "same sources, 1 newly failing, 1 fixed, 1 added, 1 gone"
        );
        assert_eq!(between(&last, &last).tests.newly_failing.len(), 0);
    }
}
