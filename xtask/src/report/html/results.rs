//! The tests of a run: first those that failed, with what they said and where, then the others with
//! their durations.

use super::difference::{Difference, Tests};
use super::facts::{Facts, count, duration};
use super::markup::{Element, Html, Tag, cut, new};
use crate::pipeline::test::{TestResult, Verdict};

/// Of how many failed tests it is told what they said.
const FAILED_MAX: usize = 100;
/// How much of that.
const MESSAGE_LETTERS_MAX: usize = 4000;
/// How many names of others are listed.
const PASSED_MAX: usize = 2000;
/// A longer list of tests that passed is folded.
const OPEN_MAX: usize = 60;
pub(super) const NAME_LETTERS_MAX: usize = 240;

/// The section's content.
pub(super) fn render(facts: &Facts, difference: Option<&Difference>) -> Html {
    let Some(report) = &facts.tests else {
        let text = "No test ran: the run ended before.";
        return new(Tag::P).class("quiet").with(text).into();
    };
    let none = Tests::default();
    let changed = difference.map_or(&none, |difference| &difference.tests);
    let of = |verdict| {
        report
            .results
            .iter()
            .filter(move |it| it.verdict == verdict)
    };
    let failed: Vec<_> = report.failed().collect();
    let mut passed: Vec<_> = of(Verdict::Passed).collect();
    passed.sort_by_key(|it| std::cmp::Reverse(it.duration_milliseconds));
    let mut html = Html::default();
    html.add(tally(failed.len(), passed.len()));
    if !report.program_succeeded && failed.is_empty() {
        let text = "The test program itself failed, though no test did: see tests.log below.";
        html.add(new(Tag::P).class("bad-text").with(text));
    }
    html.add(failures(&failed, changed));
    html.add(skipped(&report.skipped().collect::<Vec<_>>()));
    if passed.is_empty() {
        return html;
    }
    let longest = passed.iter().map(|it| it.duration_milliseconds).max();
    let longest = longest.unwrap_or(1).max(1) as f64;
    let items = passed.iter().take(PASSED_MAX);
    let items: Html = items.map(|it| passed_item(it, longest, changed)).collect();
    let more = passed.len().saturating_sub(PASSED_MAX);
    let head = format!(
        "✓ {} passed, the slowest first",
        count(passed.len(), "test")
    );
    html.add(
        new(Tag::Details)
            .open(passed.len() <= OPEN_MAX)
            .with(new(Tag::Summary).with(head))
            .with(new(Tag::Ol).class("passed").with(items))
            .with((more > 0).then(|| new(Tag::P).with(format!("and {more} more in junit.xml")))),
    );
    html
}

/// How many failed and passed, as one bar.
fn tally(failed: usize, passed: usize) -> Element {
    let all = (failed + passed).max(1) as f64;
    let share = |part: usize| 100.0 * part as f64 / all;
    let piece = |class: &'static str, from: f64, part: usize| {
        let piece = new(Tag::Span).class(class);
        piece.numbers(&[("from", from), ("wide", share(part))])
    };
    new(Tag::Div)
        .class("tally")
        .unread()
        .with((failed > 0).then(|| piece("bad", 0.0, failed)))
        .with((passed > 0).then(|| piece("good", share(failed), passed)))
}

/// The failed tests, each with what it said.
pub(super) fn failures(failed: &[&TestResult], changed: &Tests) -> Html {
    let told = failed.iter().take(FAILED_MAX);
    let mut html: Html = told.map(|it| failure(it, changed)).collect();
    let more = failed.len().saturating_sub(FAILED_MAX);
    if more > 0 {
        html.add(new(Tag::P).with(format!("and {more} more that failed, in junit.xml")));
    }
    html
}

fn failure(test: &TestResult, changed: &Tests) -> Element {
    let message = test.message.as_deref().unwrap_or("it said nothing");
    let place = test.location.as_deref().map(|place| {
        let place = cut(place, NAME_LETTERS_MAX);
        new(Tag::Code).class("place").with(place)
    });
    let took = duration(seconds(test));
    new(Tag::Article)
        .class("failed")
        .with(
            new(Tag::H3)
                .with(new(Tag::Span).class("mark bad").with("✗ "))
                .with(cut(&test.name, NAME_LETTERS_MAX)),
        )
        .with(
            new(Tag::P)
                .class("facts")
                .with(place)
                .with(new(Tag::Span).with(took))
                .with(badge(&test.name, changed)),
        )
        .with(new(Tag::Pre).with(cut(message, MESSAGE_LETTERS_MAX)))
}

/// Those that nothing was proved by, and why.
fn skipped(tests: &[&TestResult]) -> Option<Element> {
    let items = tests.iter().take(PASSED_MAX).map(|test| {
        let why = test.message.as_deref().unwrap_or("it does not say why");
        new(Tag::Li)
            .with(cut(&test.name, NAME_LETTERS_MAX))
            .with(new(Tag::Small).with(cut(why, NAME_LETTERS_MAX)))
    });
    let head = format!(
        "… {} skipped: nothing is proved",
        count(tests.len(), "test")
    );
    (!tests.is_empty()).then(|| {
        new(Tag::Details)
            .open(tests.len() <= OPEN_MAX)
            .with(new(Tag::Summary).with(head))
            .with(new(Tag::Ul).with(items.collect::<Html>()))
    })
}

fn passed_item(test: &TestResult, longest: f64, changed: &Tests) -> Element {
    let share = 100.0 * test.duration_milliseconds as f64 / longest;
    let bar = new(Tag::Span).class("meter").unread();
    new(Tag::Li)
        .with(new(Tag::Span).class("mark good").with("✓ "))
        .with(
            new(Tag::Span)
                .class("name")
                .with(cut(&test.name, NAME_LETTERS_MAX))
                .with(badge(&test.name, changed)),
        )
        .with(new(Tag::Span).class("took").with(duration(seconds(test))))
        .with(bar.numbers(&[("from", 0.0), ("wide", share)]))
}

/// What is new about it.
fn badge(name: &str, changed: &Tests) -> Option<Element> {
    let chip = |class: &'static str, text: &str| Some(new(Tag::Span).class(class).with(text));
    if changed.newly_failing.contains(name) {
        chip("chip bad", "passed last time")
    } else if changed.still_failing.contains(name) {
        chip("chip open", "failed last time as well")
    } else if changed.fixed.contains(name) {
        chip("chip good", "failed last time")
    } else if changed.added.contains(name) {
        chip("chip open", "new")
    } else {
        None
    }
}

fn seconds(test: &TestResult) -> f64 {
    test.duration_milliseconds as f64 / 1000.0
}
