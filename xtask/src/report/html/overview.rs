//! Several targets in one page: a row for each, when each ran, and of those that were not green what
//! failed. It embeds what a person needs and links to nothing outside itself.

use std::time::Duration;

use super::Summary;
use super::facts::{Facts, count, duration, moment};
use super::identity::{self, Standing};
use super::markup::{Element, Html, Tag, cut, document, link_to, new};
use super::{page, results, timeline};
use crate::report::receipt::Verdict;

/// How one target ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended<'a> {
    /// Its name.
    pub(crate) target: &'a str,
    /// How long it took.
    pub(crate) took: Duration,
    /// Why it is not green.
    pub(crate) error: Option<String>,
    /// Of a run that came so far that there is a report of it.
    pub(crate) summary: Option<&'a Summary>,
}

impl Ended<'_> {
    fn verdict(&self) -> Verdict {
        match (&self.error, self.summary) {
            (None, _) => Verdict::Green,
            (Some(_), Some(summary)) if summary.facts.verdict != Verdict::Green => {
                summary.facts.verdict
            }
            (Some(_), _) => Verdict::Red,
        }
    }

    fn facts(&self) -> Option<&Facts> {
        self.summary.map(|summary| &summary.facts)
    }
}

/// The whole file, of targets that have all ended, in the order in which they are told.
pub(crate) fn render(targets: &[Ended<'_>]) -> String {
    let green = targets.iter().filter(|it| it.verdict() == Verdict::Green);
    let red = targets.len() - green.count();
    let (class, told) = match red {
        0 => ("chip good", "✓ all green".to_owned()),
        red => (
            "chip bad",
            format!("✗ {red} of {} not green", targets.len()),
        ),
    };
    let title = new(Tag::H1)
        .with(count(targets.len(), "target"))
        .with(new(Tag::Span).class(class).with(told.as_str()));
    let begun = targets
        .iter()
        .filter_map(Ended::facts)
        .map(|it| it.begun_at)
        .min();
    let mut body = Html::default();
    body.add(
        new(Tag::Header)
            .with(title)
            .with(begun.map(|at| new(Tag::P).class("facts").with(moment(at)))),
    );
    body.add(
        new(Tag::Main)
            .with(
                new(Tag::Section)
                    .with(new(Tag::H2).with("Targets"))
                    .with(table(targets)),
            )
            .with(when(targets))
            .with(
                targets
                    .iter()
                    .enumerate()
                    .filter_map(what_failed)
                    .collect::<Html>(),
            ),
    );
    body.add(new(Tag::Footer).with(
        "The folder of each run holds its own report.html, with every image, every test and the logs.",
    ));
    document(&told, body)
}

fn table(targets: &[Ended<'_>]) -> Element {
    let heads = [
        "target",
        "verdict",
        "tests",
        "proof",
        "took",
        "since the last run",
        "run",
    ];
    let heads = heads.map(|text| new(Tag::Th).role("columnheader").with(text));
    let rows = targets.iter().enumerate().map(row);
    new(Tag::Table)
        .class("targets")
        .role("table")
        .with(
            new(Tag::Thead).role("rowgroup").with(
                new(Tag::Tr)
                    .role("row")
                    .with(heads.into_iter().collect::<Html>()),
            ),
        )
        .with(
            new(Tag::Tbody)
                .role("rowgroup")
                .with(rows.collect::<Html>()),
        )
}

fn row((index, ended): (usize, &Ended<'_>)) -> Element {
    let cell = |head: &str| new(Tag::Td).role("cell").head(head);
    let facts = ended.facts();
    let verdict = ended.verdict();
    let (mark, word) = page::verdict(verdict);
    let name = cut(ended.target, 80);
    let name: Html = match verdict {
        Verdict::Green => name.into(),
        _ => link_to(&format!("target-{index}"), &name).into(),
    };
    let tests = facts.map_or_else(|| "none ran".to_owned(), Facts::tests_in_short);
    let proof = facts.map(|it| identity::verdict(&identity::rows(it)));
    let proof = proof.map(|(standing, told)| match standing {
        Standing::Equal => format!("✓ {told}"),
        Standing::Differs => format!("✗ {told}"),
        Standing::NotSeen => format!("… {told}"),
    });
    let since = ended.summary.and_then(|it| it.difference.as_ref());
    let since = since.map_or_else(|| "–".to_owned(), |it| it.in_short());
    let where_it_ran = facts.and_then(|it| it.cluster.as_deref());
    new(Tag::Tr)
        .role("row")
        .with(
            new(Tag::Th)
                .role("rowheader")
                .with(name)
                .with(where_it_ran.map(|it| new(Tag::Small).with(format!("on {}", cut(it, 60))))),
        )
        .with(
            cell("verdict").with(
                new(Tag::Span)
                    .class(page::chip(verdict))
                    .with(format!("{mark} {word}")),
            ),
        )
        .with(cell("tests").with(tests))
        .with(cell("proof").with(proof.unwrap_or_else(|| "–".to_owned())))
        .with(
            cell("took")
                .class("whole")
                .with(duration(ended.took.as_secs_f64())),
        )
        .with(cell("since the last run").with(since))
        .with(
            cell("run")
                .class("whole")
                .with(facts.map(|it| new(Tag::Code).with(cut(&it.run, 100)))),
        )
}

/// All runs on one axis: what went side by side.
fn when(targets: &[Ended<'_>]) -> Option<Element> {
    let runs: Vec<(&Ended<'_>, &Facts)> = targets
        .iter()
        .filter_map(|it| Some((it, it.facts()?)))
        .collect();
    let first = runs.iter().map(|(_, facts)| facts.begun_at).min()?;
    let begun = |facts: &Facts| facts.begun_at.duration_since(first).as_secs_f64();
    let ends = runs.iter().map(|(_, facts)| begun(facts) + facts.seconds());
    let whole = ends.fold(0.001, f64::max);
    let sum: f64 = runs.iter().map(|(_, facts)| facts.seconds()).sum();
    let rows = runs.iter().map(|(ended, facts)| {
        let (mark, _) = page::verdict(ended.verdict());
        let bars = timeline::bars(facts).into_iter().filter(|bar| bar.critical);
        let bars = bars.map(|bar| {
            let class = match (bar.succeeded, bar.phase == "test") {
                (false, _) => "bar bad",
                (true, true) => "bar critical",
                (true, false) => "bar beside",
            };
            new(Tag::Span).class(class).title(&bar.phase).numbers(&[
                ("from", 100.0 * (begun(facts) + bar.begun).max(0.0) / whole),
                ("wide", 100.0 * bar.seconds() / whole),
            ])
        });
        let track = new(Tag::Div).class("track").unread();
        new(Tag::Li)
            .with(
                new(Tag::Span)
                    .class("label")
                    .with(format!("{mark} {}", cut(ended.target, 40))),
            )
            .with(track.with(bars.collect::<Html>()))
            .with(new(Tag::Span).class("took").with(duration(facts.seconds())))
    });
    let side_by_side = match whole / sum.max(0.001) {
        ratio if ratio < 0.98 => format!(
            " One after the other they would have taken {}: that is {ratio:.2} of it.",
            duration(sum)
        ),
        _ => String::new(),
    };
    let told = format!("{} in all.{side_by_side}", duration(whole));
    Some(
        new(Tag::Section)
            .with(new(Tag::H2).with("When each ran"))
            .with(new(Tag::P).with(told))
            .with(
                new(Tag::Div)
                    .class("timeline")
                    .with(new(Tag::Ol).class("rows").with(rows.collect::<Html>())),
            )
            .with(timeline::legend(&[
                ("key critical", "its tests"),
                ("key beside", "the phases before and after"),
                ("key bad", "failed"),
            ])),
    )
}

fn what_failed((index, ended): (usize, &Ended<'_>)) -> Option<Element> {
    let error = ended.error.as_ref()?;
    let section = new(Tag::Section)
        .id(&format!("target-{index}"))
        .with(new(Tag::H2).with(cut(ended.target, 80)));
    let told = ended.facts().and_then(page::failure);
    let section = match told {
        Some(failure) => section.with(failure),
        None => section.with(new(Tag::Pre).with(cut(error, 4000))),
    };
    let tests = ended.facts().and_then(|it| it.tests.as_ref());
    let failed: Vec<_> = tests.into_iter().flat_map(|it| it.failed()).collect();
    let difference = ended.summary.and_then(|it| it.difference.as_ref());
    let none = super::difference::Tests::default();
    let changed = difference.map_or(&none, |it| &it.tests);
    Some(section.with(results::failures(&failed, changed)))
}
