//! When each phase went on: bars on one axis. On the critical path stands what the run waited for;
//! what went beside it shows how long it then lay ready.

use super::facts::{Facts, duration};
use super::markup::{Element, Html, Tag, new};

/// What ends and begins so near to each other follows on each other.
const NEAR_SECONDS: f64 = 0.05;
/// How many lines the axis has at most.
const TICKS_MAX: f64 = 8.0;

/// A phase on the axis, in seconds since the run began.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) phase: String,
    pub(super) begun: f64,
    pub(super) ended: f64,
    pub(super) succeeded: bool,
    /// The run waited for it.
    pub(super) critical: bool,
    /// Until when what came of it lay ready.
    pub(super) ready_until: Option<f64>,
}

impl Bar {
    pub(super) fn seconds(&self) -> f64 {
        self.ended - self.begun
    }
}

/// The phases in the order in which they began, and which of them were waited for. The phase of the
/// tests is gone through whatever they say; here it has failed if one of them has.
pub(super) fn bars(facts: &Facts) -> Vec<Bar> {
    let tests = facts.tests.as_ref();
    let test_failed = tests.is_some_and(|it| !it.green()) && !facts.was_ended();
    let known = facts.phases.iter().filter_map(|phase| {
        let ended = phase.ended_after_seconds?;
        Some(Bar {
            phase: phase.phase.clone(),
            begun: ended - phase.seconds.max(0.0),
            ended,
            succeeded: phase.succeeded && !(phase.phase == "test" && test_failed),
            critical: false,
            ready_until: None,
        })
    });
    let mut bars: Vec<Bar> = known.collect();
    bars.sort_by(|a, b| {
        a.begun
            .total_cmp(&b.begun)
            .then(a.ended.total_cmp(&b.ended))
    });
    mark_critical(&mut bars);
    mark_ready(&mut bars);
    bars
}

/// From the end backwards: what ended last before that began.
fn mark_critical(bars: &mut [Bar]) {
    let mut before = f64::INFINITY;
    let mut begun = f64::INFINITY;
    loop {
        let candidates = bars
            .iter_mut()
            .filter(|bar| !bar.critical && bar.begun < begun && bar.ended <= before);
        let Some(last) = candidates.max_by(|a, b| a.ended.total_cmp(&b.ended)) else {
            return;
        };
        last.critical = true;
        begun = last.begun;
        before = begun + NEAR_SECONDS;
    }
}

/// What was not waited for lay ready until something began that was, unless it was gone on with.
fn mark_ready(bars: &mut [Bar]) {
    let all = bars.to_vec();
    let from = |bar: &Bar| bar.ended - NEAR_SECONDS;
    for bar in bars.iter_mut().filter(|bar| !bar.critical) {
        let mut after = all.iter().filter(|next| next.begun >= from(bar));
        let gone_on = |next: &Bar| !next.critical && next.begun <= bar.ended + NEAR_SECONDS;
        if after.clone().any(gone_on) {
            continue;
        }
        let waited_for = after.find(|next| next.critical);
        bar.ready_until = waited_for
            .map(|next| next.begun)
            .filter(|&until| until > bar.ended + NEAR_SECONDS);
    }
}

/// From where to where the axis goes.
struct Axis {
    begin: f64,
    end: f64,
}

impl Axis {
    fn of(bars: &[Bar], seconds: f64) -> Self {
        let begin = bars.iter().map(|bar| bar.begun).fold(0.0, f64::min);
        let end = bars.iter().map(|bar| bar.ended).fold(seconds, f64::max);
        Self {
            begin,
            end: end.max(begin + 0.001),
        }
    }

    /// In hundredths of the whole.
    fn share(&self, seconds: f64) -> f64 {
        100.0 * seconds / (self.end - self.begin)
    }

    fn placed(&self, element: Element, from: f64, to: f64) -> Element {
        element.numbers(&[
            ("from", self.share(from - self.begin)),
            ("wide", self.share(to - from)),
        ])
    }

    /// Round numbers, few enough to be read.
    fn ticks(&self) -> Vec<f64> {
        let steps = [
            0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0,
        ];
        let wide = self.end - self.begin;
        let fits = |step: &&f64| wide / **step <= TICKS_MAX;
        let step = steps.iter().find(fits).copied().unwrap_or(wide / TICKS_MAX);
        let ticks = (1u32..).map(|index| f64::from(index) * step);
        let last = self.end - wide * 0.03;
        ticks.take_while(|&tick| tick < last).collect()
    }
}

/// The section's content.
pub(super) fn render(facts: &Facts) -> Html {
    let bars = bars(facts);
    if bars.is_empty() {
        return new(Tag::P)
            .class("quiet")
            .with("No phase was gone through.")
            .into();
    }
    let axis = Axis::of(&bars, facts.seconds());
    let rows: Html = bars.iter().map(|bar| row(&axis, bar)).collect();
    let mut html = Html::default();
    html.add(new(Tag::P).with(sentence(facts, &bars)));
    html.add(band(&axis, &bars));
    html.add(
        new(Tag::Div)
            .class("timeline")
            .with(scale(&axis))
            .with(new(Tag::Ol).class("rows").with(rows)),
    );
    html.add(legend(&[
        ("key critical", "critical path: the run waited for it"),
        ("key beside", "went beside it"),
        ("key ready", "lay ready"),
        ("key bad", "failed"),
    ]));
    html
}

/// What a glance at the picture tells, in words.
fn sentence(facts: &Facts, bars: &[Bar]) -> String {
    let seconds = facts.seconds();
    let mut critical: Vec<&Bar> = bars.iter().filter(|bar| bar.critical).collect();
    critical.sort_by(|a, b| b.seconds().total_cmp(&a.seconds()));
    let share = |bar: &&Bar| 100.0 * bar.seconds() / seconds.max(0.001);
    let longest = critical.iter().filter(|bar| share(bar) >= 5.0).take(4);
    let longest: Vec<String> = longest
        .map(|bar| {
            let took = duration(bar.seconds());
            format!("{} {took} ({:.0} %)", bar.phase, share(bar))
        })
        .collect();
    let waited: f64 = critical.iter().map(|bar| bar.seconds()).sum();
    let between = (seconds - waited).max(0.0);
    let beside: Vec<String> = bars
        .iter()
        .filter(|bar| !bar.critical)
        .map(|bar| format!("{} {}", bar.phase, duration(bar.seconds())))
        .collect();
    let mut told = format!(
        "{} in all. Waited for: {}.",
        duration(seconds),
        longest.join(", ")
    );
    if !beside.is_empty() {
        told.push_str(&format!(" Beside that: {}.", beside.join(", ")));
    }
    if between >= NEAR_SECONDS {
        told.push_str(&format!(" Between the phases: {}.", duration(between)));
    }
    told
}

/// The critical path as one band: how the whole time divides.
fn band(axis: &Axis, bars: &[Bar]) -> Element {
    let pieces: Html = bars
        .iter()
        .filter(|bar| bar.critical)
        .map(|bar| {
            let wide = axis.share(bar.seconds()) >= 7.0;
            let piece = new(Tag::Span)
                .class(if bar.succeeded { "piece" } else { "piece bad" })
                .title(&format!("{} {}", bar.phase, duration(bar.seconds())));
            let piece = axis.placed(piece, bar.begun, bar.ended);
            piece.with(wide.then_some(bar.phase.as_str()))
        })
        .collect();
    new(Tag::Div)
        .class("band")
        .unread()
        .with(new(Tag::Span).class("label").with("critical path"))
        .with(new(Tag::Div).class("track").with(pieces))
        .with(
            new(Tag::Span)
                .class("took")
                .with(duration(axis.end - axis.begin)),
        )
}

fn scale(axis: &Axis) -> Element {
    let ticks: Html = axis
        .ticks()
        .into_iter()
        .map(|tick| {
            let mark = axis.placed(new(Tag::Span).class("tick"), tick, tick);
            mark.with(new(Tag::Small).with(match tick {
                tick if tick >= 60.0 => duration_short(tick),
                tick => format!("{tick} s"),
            }))
        })
        .collect();
    new(Tag::Div).class("scale").unread().with(ticks)
}

fn duration_short(seconds: f64) -> String {
    let (minutes, rest) = ((seconds / 60.0).floor(), seconds % 60.0);
    format!("{minutes:.0}:{rest:02.0} min")
}

fn row(axis: &Axis, bar: &Bar) -> Element {
    let class = match (bar.succeeded, bar.critical) {
        (false, _) => "bar bad",
        (true, true) => "bar critical",
        (true, false) => "bar beside",
    };
    let mut track = new(Tag::Div).class("track").unread();
    track = track.with(axis.placed(new(Tag::Span).class(class), bar.begun, bar.ended));
    if let Some(until) = bar.ready_until {
        let ready = new(Tag::Span).class("ready");
        track = track.with(axis.placed(ready, bar.ended, until));
    }
    let took = duration(bar.seconds());
    let how = match (bar.succeeded, bar.critical) {
        (false, _) => "✗ failed".to_owned(),
        (true, true) => String::new(),
        (true, false) => bar.ready_until.map_or_else(String::new, |until| {
            format!("ready, waited {}", duration(until - bar.ended))
        }),
    };
    let name = new(Tag::Span)
        .class(if bar.critical {
            "label strong"
        } else {
            "label"
        })
        .with(bar.phase.as_str())
        .with(what_it_does(&bar.phase).map(|text| new(Tag::Small).with(text)));
    new(Tag::Li).with(name).with(track).with(
        new(Tag::Span)
            .class("took")
            .with(took)
            .with(new(Tag::Small).with(how)),
    )
}

fn what_it_does(phase: &str) -> Option<&'static str> {
    Some(match phase {
        "manifests" => "read what is deployed",
        "tag" => "freeze the sources, make the tags",
        "build" => "compile, make the images",
        "cluster" => "engine, network, third parties",
        "load" => "images into the cluster",
        "cluster up" => "wait for the cluster",
        "deploy" => "roll out, until ready",
        "attest" => "prove what runs",
        "test" => "the tests of the target",
        "attest again" => "prove it once more",
        "clean" => "remove what the run made",
        _ => return None,
    })
}

/// What the bars mean: the class of each, and its meaning.
pub(super) fn legend(entries: &[(&'static str, &str)]) -> Element {
    let entries = entries.iter().map(|&(class, text)| {
        new(Tag::Span)
            .with(new(Tag::Span).class(class).unread())
            .with(text)
    });
    new(Tag::P).class("legend").with(entries.collect::<Html>())
}

#[cfg(test)]
mod tests {
    use super::{Axis, bars};
    use crate::pipeline::test::TestReport;
    use crate::report::html::facts::Facts;
    use crate::report::receipt::Verdict;

    fn facts(phases: &[(&str, f64, f64)]) -> Facts {
        let phases: Vec<_> = phases
            .iter()
            .map(|(phase, begun, ended)| {
                serde_json::json!({"phase": phase, "seconds": ended - begun,
                    "ended_after_seconds": ended, "succeeded": true})
            })
            .collect();
        let receipt = serde_json::json!({"run": "a-1", "target": "a", "verdict": "green",
            "begun_at": "2026-11-25T17:49:20Z", "ended_at": "2026-11-25T17:50:50Z",
            "phases": phases});
        Facts::read(&receipt.to_string()).unwrap()
    }

    #[track_caller]
    fn check(phases: &[(&str, f64, f64)], critical: &[&str], ready: &[(&str, f64)]) {
        let bars = bars(&facts(phases));
        let marked = bars.iter().filter(|bar| bar.critical);
        let marked: Vec<&str> = marked.map(|bar| bar.phase.as_str()).collect();
        assert_eq!(marked, critical);
        let lay = bars
            .iter()
            .filter_map(|bar| Some((bar.phase.as_str(), bar.ready_until?)));
        assert_eq!(lay.collect::<Vec<_>>(), ready);
    }

    #[test]
    fn the_longer_of_two_that_go_side_by_side_is_waited_for() {
        let slow_cluster = [
            ("manifests", 0.0, 0.1),
            ("tag", 0.1, 0.4),
            ("build", 0.4, 2.0),
            ("cluster", 0.1, 45.0),
            ("load", 45.0, 52.0),
            ("test", 52.5, 90.0),
        ];
        let path = ["manifests", "cluster", "load", "test"];
        check(&slow_cluster, &path, &[("build", 45.0)]);
        let slow_build = [
            ("manifests", 0.0, 0.1),
            ("tag", 0.1, 0.4),
            ("build", 0.4, 80.0),
            ("cluster", 0.1, 2.0),
            ("load", 80.0, 82.0),
        ];
        let path = ["manifests", "tag", "build", "load"];
        check(&slow_build, &path, &[("cluster", 80.0)]);
    }

    #[test]
    fn what_a_watch_read_before_its_cycle_is_on_the_axis() {
        let phases = [("tag", -0.4, -0.1), ("build", 0.0, 3.0)];
        check(&phases, &["tag", "build"], &[]);
        let axis = Axis::of(&bars(&facts(&phases)), 3.0);
        assert!((axis.begin + 0.4).abs() < 1e-9 && axis.end >= 3.0);
    }

    #[test]
    fn tests_that_failed_are_a_phase_that_failed() {
        let mut facts = facts(&[("deploy", 0.0, 1.0), ("test", 1.0, 2.0)]);
        let succeeded = |facts: &Facts| bars(facts).iter().all(|bar| bar.succeeded);
        assert!(succeeded(&facts));
        facts.tests = Some(TestReport {
            results: Vec::new(),
            program_succeeded: false,
        });
        assert!(!succeeded(&facts));
        facts.verdict = Verdict::Interrupted;
        assert!(succeeded(&facts));
    }

    #[test]
    fn an_axis_has_few_lines_whatever_its_length() {
        for seconds in [0.001, 0.3, 4.0, 14.4, 152.0, 3600.0, 90_000.0] {
            let axis = Axis {
                begin: 0.0,
                end: seconds,
            };
            let ticks = axis.ticks();
            assert!(ticks.len() <= 8, "{seconds}: {ticks:?}");
            assert!(seconds < 0.2 || ticks.len() >= 2, "{seconds}: {ticks:?}");
        }
    }
}
