//! `bench`: what the tool costs, each figure beside a floor that was measured in the same rounds,
//! since absolute times say more about the machine and the hour than about the tool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{print_data, temporary};
use crate::bundle::Bundle;
use crate::cli::{self, Subject};
use crate::cluster::kind::absence;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::report::{self, table};
use crate::source::workspace::Workspace;

mod kept;
mod kind;
mod load;
mod package;
mod phase_zero;
mod run;

pub(super) use self::load::loads;

/// As wide as a terminal that nobody has made wider, or a page of a report.
const COLUMNS_MAX: usize = 100;
const INDENT: usize = 4;

/// What was measured, in seconds; each is the median of its rounds.
#[derive(Clone, Debug, Serialize)]
struct Figure {
    subject: &'static str,
    /// What the subject is, and how large.
    what: String,
    seconds: f64,
    floor: &'static str,
    floor_seconds: f64,
    ratio: f64,
    /// What the ratio should be at most.
    ratio_max: f64,
}

/// Measures, and prints a line for each figure; or puts load on a service.
///
/// # Errors
/// When something that is measured fails.
pub fn run(workspace: &Workspace, options: &cli::Bench) -> Result<()> {
    if let Some(cli::BenchInstead::Load(load)) = &options.instead {
        return load::run(workspace, load);
    }
    let mut figures = Vec::new();
    let wanted =
        |subject: Subject| options.subjects.is_empty() || options.subjects.contains(&subject);
    let rounds = options.rounds as usize;
    if wanted(Subject::PhaseZero) {
        figures.push(told(|| phase_zero::measure(workspace, rounds))?);
    }
    if wanted(Subject::Package) {
        figures.push(told(|| {
            package::measure(workspace, options.engine, rounds)
        })?);
    }
    if wanted(Subject::Unchanged) {
        figures.push(told(|| run::unchanged(workspace, options.engine, rounds))?);
    }
    if wanted(Subject::Edit) {
        figures.push(told(|| run::edit(workspace, options.engine, rounds))?);
    }
    let asked = !options.subjects.is_empty();
    if wanted(Subject::Kind) {
        figures.extend(on_kind(options, asked, |bundle| {
            kind::measure(workspace, options, bundle)
        })?);
    }
    if wanted(Subject::Kept) {
        figures.extend(on_kind(options, asked, |bundle| {
            Ok(vec![kept::measure(workspace, options, bundle)?])
        })?);
    }
    if options.json {
        return print_data(&format!("{}\n", serde_json::to_string_pretty(&figures)?));
    }
    print_data(&text(&figures))
}

/// On a cluster of kind, where one can be made; that it cannot is an error only where it was asked for.
fn on_kind(
    options: &cli::Bench,
    asked: bool,
    measure: impl FnOnce(Option<&Arc<Bundle>>) -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let bundle = Bundle::given(options.bundle.as_deref())?.map(Arc::new);
    let (_folder, folder) = temporary()?;
    let engine = Engine::find(&folder, options.engine)?;
    match absence(bundle.as_deref(), &engine)? {
        Some(why) if asked => Err(Failure::new(Exit::Host, why)
            .hint("name a folder that holds kind and its node image with `--bundle`")
            .into()),
        Some(why) => {
            report::note(&format!("kind is not measured: {why}"));
            Ok(Vec::new())
        }
        None => report::timed(
            "measured",
            || measure(bundle.as_ref()),
            |figures| {
                let told = figures.iter().map(words);
                told.collect::<Vec<_>>().join("; ")
            },
        ),
    }
}

/// The figures in a table, and below it what each one is.
fn text(figures: &[Figure]) -> String {
    let head = ["subject", "seconds", "floor", "ratio", "at most"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(figures.iter().map(|figure| {
        vec![
            figure.subject.to_owned(),
            format!("{:.3}", figure.seconds),
            format!("{:.3}", figure.floor_seconds),
            format!("{:.2}", figure.ratio),
            format!("{:.2}", figure.ratio_max),
        ]
    }));
    let what = figures.iter().map(|figure| {
        let Figure {
            subject,
            what,
            floor,
            ..
        } = figure;
        let line = format!("{subject}: {what}; its floor: {floor}");
        table::paragraph(&line, COLUMNS_MAX, INDENT)
    });
    format!("{}\n{}", table::layout(&rows), what.collect::<String>())
}

fn told(measure: impl FnOnce() -> Result<Figure>) -> Result<Figure> {
    report::timed("measured", measure, words)
}

fn words(figure: &Figure) -> String {
    format!("{}: {:.2} times its floor", figure.subject, figure.ratio)
}

/// The subject and its floor, one after the other in each round: what slows the machine down slows
/// both. The first round of each is not counted.
fn rounds(
    count: usize,
    mut subject: impl FnMut() -> Result<Duration>,
    mut floor: impl FnMut() -> Result<Duration>,
) -> Result<(f64, f64)> {
    let (mut subjects, mut floors) = (Vec::new(), Vec::new());
    for round in 0..=count {
        let (one, other) = (subject()?, floor()?);
        if round > 0 {
            subjects.push(one);
            floors.push(other);
        }
    }
    Ok((median(subjects)?, median(floors)?))
}

fn median(mut times: Vec<Duration>) -> Result<f64> {
    times.sort();
    let middle = times.get(times.len() / 2).context("nothing was measured")?;
    Ok(middle.as_secs_f64())
}

fn time(step: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let begun = Instant::now();
    step()?;
    Ok(begun.elapsed())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{COLUMNS_MAX, Figure, median, rounds, text};

    #[test]
    fn no_line_is_wider_than_a_page() {
        let figure = |what: &str| Figure {
            subject: "phase-zero",
            what: what.to_owned(),
            seconds: 1234.5678,
            floor: "the same network and containers started by hand, side by side, until ready",
            floor_seconds: 0.5,
            ratio: 2469.1,
            ratio_max: 1.5,
        };
        let text = text(&[figure("one"), figure(&"a thing of five words ".repeat(9))]);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(COLUMNS_MAX), "{text}");
        assert!(
            text.contains("phase-zero  1234.568  0.500  2469.10  1.50\n"),
            "{text}"
        );
        assert!(
            text.contains("phase-zero: one; its floor: the same"),
            "{text}"
        );
    }

    #[test]
    fn a_figure_is_the_median_of_all_rounds_but_the_first() {
        let seconds = |times: &[u64]| times.iter().copied().map(Duration::from_secs).collect();
        assert_eq!(median(seconds(&[9, 1, 2])).unwrap(), 2.0);
        assert!(median(Vec::new()).is_err());
        let mut subject = [100, 1, 2, 3].into_iter().map(Duration::from_secs);
        let (measured, floor) = rounds(
            3,
            || Ok(subject.next().unwrap()),
            || Ok(Duration::from_secs(1)),
        )
        .unwrap();
        assert_eq!((measured, floor), (2.0, 1.0));
    }
}
