//! The page of one run: what became of it first, then where the time went, what ran, what the tests
//! said, what is other than last time, and the logs.

use super::difference::{self, Difference};
use super::facts::{Facts, duration, moment};
use super::identity::{self, Standing};
use super::logs::{self, Log};
use super::markup::{Element, Html, Tag, cut, document, link_to, new};
use super::{results, timeline};
use crate::report::receipt::Verdict;

/// How much of an error is shown.
const ERROR_LETTERS_MAX: usize = 12_000;

/// The whole file.
pub(super) fn of_run(facts: &Facts, logs: &[Log], difference: Option<&Difference>) -> String {
    let mut sections = vec![
        ("time", "Where the time went", timeline::render(facts)),
        ("ran", "What ran", identity::render(facts)),
        ("tests", "Tests", results::render(facts, difference)),
        (
            "last",
            "Since the last run",
            difference::render(difference, facts),
        ),
        ("logs", "Logs", logs::render(&facts.run, logs)),
        ("made-with", "Made with", made_with(facts)),
    ];
    // What a person looks for first.
    let test_failed = facts
        .tests
        .as_ref()
        .is_some_and(|it| it.failed().next().is_some());
    if test_failed {
        let tests = sections.remove(2);
        sections.insert(0, tests);
    }
    let links = sections.iter().map(|(id, head, _)| link_to(id, head));
    let nav = new(Tag::Nav)
        .label("sections")
        .with(links.collect::<Html>());
    let sections = sections.into_iter().map(|(id, head, content)| {
        let head = new(Tag::H2).with(head);
        new(Tag::Section).id(id).with(head).with(content)
    });
    let mut body = Html::default();
    body.add(header(facts, difference));
    body.add(nav);
    body.add(
        new(Tag::Main)
            .with(failure(facts))
            .with(sections.collect::<Html>()),
    );
    body.add(footer(facts));
    let (mark, word) = verdict(facts.verdict);
    document(
        &format!("{mark} {} {word}, {}", facts.target, facts.run),
        body,
    )
}

/// A sign and a word: nobody has to see a colour.
pub(super) const fn verdict(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Running => ("…", "not ended"),
        Verdict::Green => ("✓", "green"),
        Verdict::Red => ("✗", "red"),
        Verdict::Interrupted => ("■", "interrupted"),
        Verdict::TimedOut => ("■", "timed out"),
    }
}

pub(super) const fn chip(of: Verdict) -> &'static str {
    match of {
        Verdict::Green => "chip good",
        Verdict::Red => "chip bad",
        _ => "chip open",
    }
}

fn header(facts: &Facts, difference: Option<&Difference>) -> Element {
    let (mark, word) = verdict(facts.verdict);
    let badge = new(Tag::Span).class(chip(facts.verdict));
    let title = new(Tag::H1)
        .with(cut(&facts.target, 80))
        .with(badge.with(format!("{mark} {word}")));
    let (standing, proof) = identity::verdict(&identity::rows(facts));
    let tests_class = match &facts.tests {
        Some(report) if report.green() => "tile good",
        Some(_) if !facts.was_ended() => "tile bad",
        _ => "tile open",
    };
    let proof_class = match standing {
        Standing::Equal => "tile good",
        Standing::Differs => "tile bad",
        Standing::NotSeen => "tile open",
    };
    let since = difference.map_or_else(
        || "nothing to compare with".to_owned(),
        Difference::in_short,
    );
    let tile = |class: &'static str, head: &str, text: &str| {
        new(Tag::Div)
            .class(class)
            .with(new(Tag::Dt).with(head))
            .with(new(Tag::Dd).with(text))
    };
    new(Tag::Header)
        .with(title)
        .with(
            new(Tag::P)
                .class("facts")
                .with(new(Tag::Code).with(cut(&facts.run, 120)))
                .with(new(Tag::Span).with(moment(facts.begun_at)))
                .with(new(Tag::Span).with(where_it_ran(facts))),
        )
        .with(
            new(Tag::Dl)
                .class("tiles")
                .with(tile(tests_class, "tests", &facts.tests_in_short()))
                .with(tile(proof_class, "proof", &proof))
                .with(tile("tile", "took", &duration(facts.seconds())))
                .with(tile("tile", "since the last run", &since)),
        )
}

fn where_it_ran(facts: &Facts) -> String {
    let cluster = match &facts.cluster {
        Some(cluster) => format!("on {}", cut(cluster, 60)),
        None => "on no cluster".to_owned(),
    };
    match &facts.engine {
        Some(engine) => format!("{cluster}, {} {}", engine.kind, cut(&engine.version, 30)),
        None => cluster,
    }
}

/// What failed, as the terminal told it. That a test failed is told with the test.
pub(super) fn failure(facts: &Facts) -> Option<Element> {
    let failure = facts.failure.as_ref()?;
    let message = failure.message.trim_end();
    let (error, hint) = match message.split_once("\nhint: ") {
        Some((error, hint)) => (error, Some(hint)),
        None => (message, None),
    };
    let error = error.strip_prefix("error: ").unwrap_or(error);
    let (headline, rest) = error.split_once('\n').unwrap_or((error, ""));
    let hint = hint.map(|hint| {
        new(Tag::P)
            .class("hint")
            .with(new(Tag::Strong).with("Hint: "))
            .with(cut(hint, 2000))
    });
    let code = facts.exit_code.map(|code| format!(", exit code {code}"));
    let head = format!("Phase “{}”{}", failure.phase, code.unwrap_or_default());
    let rest = (!rest.is_empty()).then(|| new(Tag::Pre).with(cut(rest, ERROR_LETTERS_MAX)));
    Some(
        new(Tag::Section)
            .class("failure")
            .label("failure")
            .with(new(Tag::P).class("where").with(head))
            .with(new(Tag::P).class("headline").with(cut(headline, 2000)))
            .with(rest)
            .with(hint),
    )
}

/// Tools, engine, recipe: folded, for when it is asked.
fn made_with(facts: &Facts) -> Html {
    let list = |pairs: &[(String, String)]| {
        let rows = pairs.iter().map(|(name, value)| {
            new(Tag::Div)
                .with(new(Tag::Dt).with(cut(name, 80)))
                .with(new(Tag::Dd).with(cut(value, 300)))
        });
        new(Tag::Dl).class("pairs").with(rows.collect::<Html>())
    };
    let fold = |head: &str, pairs: Vec<(String, String)>| {
        (!pairs.is_empty()).then(|| {
            new(Tag::Details)
                .with(new(Tag::Summary).with(format!("{head} ({})", pairs.len())))
                .with(list(&pairs))
        })
    };
    let map = |map: &std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
        let pairs = map.iter().take(200);
        pairs
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let mut sources: Vec<(String, String)> = facts
        .inputs
        .packages
        .iter()
        .map(|it| (it.package.clone(), it.source_digest.clone()))
        .collect();
    if let Some(tests) = &facts.test_program {
        let name = "the tests that ran".to_owned();
        sources.push((name, tests.source_digest.clone()));
    }
    let notes = facts.engine.iter().flat_map(|engine| &engine.notes);
    let notes = notes.map(|note| new(Tag::P).class("quiet").with(cut(note, 600)));
    let mut html = Html::default();
    html.add(edited(facts));
    html.add(fold("Source digests", sources));
    html.add(fold("Tools", map(&facts.tools)));
    html.add(fold("Recipe", map(&facts.inputs.recipe)));
    html.add(fold("Manifests", map(&facts.inputs.manifests)));
    html.add(notes.collect::<Html>());
    html
}

fn edited(facts: &Facts) -> Option<Element> {
    let paths = &facts.edited_during_run;
    let first = paths.first()?;
    let more = match paths.len() {
        1 => String::new(),
        all => format!(" and {} more", all - 1),
    };
    let text = format!(
        "Edited during the run, so not what was tested: {}{more}",
        cut(first, 200)
    );
    Some(new(Tag::P).class("bad-text").with(text))
}

fn footer(facts: &Facts) -> Element {
    let ended = match facts.ended_at {
        Some(at) => format!("Ended {}.", moment(at)),
        None => "Its end is not told.".to_owned(),
    };
    new(Tag::Footer).with(format!(
        "{ended} Beside this file: receipt.json holds all of it for programs, junit.xml the tests, logs/ every log whole."
    ))
}
