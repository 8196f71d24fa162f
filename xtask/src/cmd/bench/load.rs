//! `bench load`: what a service takes and how soon, beside pgbench that inserts the same rows into the
//! same tables of the same server in the same run. Absolute figures say more about the machine and the
//! hour than about the service; the ratio depends on both less.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{COLUMNS_MAX, print_data};
use crate::cli;
use crate::cmd::e2e::load as run_of_load;
use crate::exit::{Exit, Failure};
use crate::report::table;
use crate::source::workspace::{TargetName, Workspace};

/// What the test program has told.
#[derive(Debug, Deserialize)]
struct Told {
    service: String,
    wanted: Wanted,
    parts: Vec<Part>,
}

/// How much load it was.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Wanted {
    rate: u32,
    seconds: u32,
    connections: u32,
}

#[derive(Debug, Deserialize)]
struct Part {
    pace: Pace,
    service: Figures,
    pgbench: Figures,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pace {
    FixedRate,
    Saturation,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Figures {
    offered: u64,
    accepted: u64,
    refused: u64,
    unanswered: u64,
    seconds: f64,
    per_second: f64,
    p50_milliseconds: f64,
    p99_milliseconds: f64,
    max_milliseconds: f64,
}

/// A part as it is printed.
#[derive(Debug, Serialize)]
struct Compared {
    pace: Pace,
    service: Figures,
    pgbench: Figures,
    ratio: Ratio,
}

/// What of the service is so many times what it is of pgbench.
#[derive(Debug, Serialize)]
struct Ratio {
    per_second: f64,
    p50: f64,
    p99: f64,
}

/// Puts load on the service, and prints what came of it.
///
/// # Errors
/// [`Exit::Usage`] when it has no load; when the run is not green.
pub(super) fn run(workspace: &Workspace, options: &cli::Load) -> Result<()> {
    let service = &options.service;
    let known = loads(workspace);
    if !known.contains(service) {
        let message = format!("there is no load of `{service}`");
        let hint = format!("services with a load: {}", known.join(", "));
        return Err(Failure::new(Exit::Usage, message).hint(hint).into());
    }
    let target = workspace.target(service)?;
    let told = run_of_load::run(workspace, target, options)?;
    let told: Told = serde_json::from_str(&told).context("the load told nonsense")?;
    let (name, wanted) = (told.service, told.wanted);
    let parts: Vec<Compared> = told.parts.into_iter().map(compared).collect();
    if options.json {
        let all = serde_json::json!({"service": name, "wanted": wanted, "parts": parts});
        return print_data(&format!("{}\n", serde_json::to_string_pretty(&all)?));
    }
    print_data(&text(&name, wanted, &parts))
}

/// The targets that have a load: a module of the test program.
pub(in crate::cmd) fn loads(workspace: &Workspace) -> Vec<String> {
    let package = &workspace.packages[&workspace.tests].directory;
    let folder = workspace.root.join(package).join("tests");
    let folder = folder.join(run_of_load::PROGRAM);
    let names = workspace.targets.keys().map(TargetName::as_str);
    names
        .filter(|name| folder.join(format!("{name}.rs")).is_file())
        .map(str::to_owned)
        .collect()
}

fn compared(part: Part) -> Compared {
    let Part {
        pace,
        service,
        pgbench,
    } = part;
    let ratio = Ratio {
        per_second: service.per_second / pgbench.per_second,
        p50: service.p50_milliseconds / pgbench.p50_milliseconds,
        p99: service.p99_milliseconds / pgbench.p99_milliseconds,
    };
    Compared {
        pace,
        service,
        pgbench,
        ratio,
    }
}

/// A table, and below it what was measured.
fn text(service: &str, wanted: Wanted, parts: &[Compared]) -> String {
    let head = [
        "",
        "",
        "offered",
        "accepted",
        "seconds",
        "per second",
        "p50 ms",
        "p99 ms",
        "max ms",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut notes = Vec::new();
    for part in parts {
        let pace = match part.pace {
            Pace::FixedRate => "fixed rate",
            Pace::Saturation => "saturation",
        };
        rows.push(row(pace, service, &part.service));
        rows.push(row("", "pgbench", &part.pgbench));
        rows.push(ratio_row(&part.ratio));
        let Figures {
            refused,
            unanswered,
            ..
        } = part.service;
        if refused + unanswered > 0 {
            notes.push(format!(
                "{pace}: {refused} were refused, {unanswered} got no answer"
            ));
        }
    }
    let Wanted {
        rate,
        seconds,
        connections,
    } = wanted;
    notes.push(format!(
        "fixed rate: {rate} requests a second for {seconds} s, each counted from when it was due; \
         saturation: {connections} connections for {seconds} s, each sends when it was answered; \
         pgbench: the same rows in one transaction, {connections} clients, at the same pace"
    ));
    let notes = notes
        .iter()
        .map(|note| table::paragraph(note, COLUMNS_MAX, 0));
    format!("{}\n{}", table::layout(&rows), notes.collect::<String>())
}

fn row(pace: &str, who: &str, figures: &Figures) -> Vec<String> {
    vec![
        pace.to_owned(),
        who.to_owned(),
        figures.offered.to_string(),
        figures.accepted.to_string(),
        format!("{:.1}", figures.seconds),
        format!("{:.1}", figures.per_second),
        format!("{:.2}", figures.p50_milliseconds),
        format!("{:.2}", figures.p99_milliseconds),
        format!("{:.2}", figures.max_milliseconds),
    ]
}

fn ratio_row(ratio: &Ratio) -> Vec<String> {
    let mut row = vec![String::new(), "ratio".to_owned()];
    row.extend([""; 3].map(str::to_owned));
    let ratios = [ratio.per_second, ratio.p50, ratio.p99];
    row.extend(ratios.map(|ratio| format!("{ratio:.2}")));
    row
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::{COLUMNS_MAX, Told, compared, loads, text};
    use crate::source::workspace::Workspace;

    const TOLD: &str = r#"{"service": "gateway",
        "wanted": {"rate": 200, "seconds": 10, "connections": 16}, "parts": [{"pace": "saturation",
        "service": {"offered": 1010, "accepted": 1000, "refused": 7, "unanswered": 3,
            "seconds": 10.04, "per_second": 99.6, "p50_milliseconds": 12.0,
            "p99_milliseconds": 30.0, "max_milliseconds": 44.0},
        "pgbench": {"offered": 3984, "accepted": 3984, "refused": 0, "unanswered": 0,
            "seconds": 10.0, "per_second": 398.4, "p50_milliseconds": 4.0,
            "p99_milliseconds": 20.0, "max_milliseconds": 21.5}}]}"#;

    #[test]
    fn each_part_has_its_ratio() {
        let told: Told = serde_json::from_str(TOLD).unwrap();
        let parts: Vec<_> = told.parts.into_iter().map(compared).collect();
        let text = text("gateway", told.wanted, &parts);
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(words[1][..4], ["saturation", "gateway", "1010", "1000"]);
        assert_eq!(words[3], ["ratio", "0.25", "3.00", "1.50"]);
        let refused = "saturation: 7 were refused, 3 got no answer\n";
        assert!(text.contains(refused), "{text}");
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(COLUMNS_MAX), "{text}");
    }

    #[test]
    fn a_service_has_a_load_when_its_module_is_there() {
        let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let workspace = Workspace::load(root).unwrap();
        let known = loads(&workspace);
        let all = [
            "datastorage",
            "gateway",
            "remediationorchestrator",
            "signalprocessing",
            "workflowexecution",
        ];
        assert_eq!(known, all);
        let program = root.join("test-e2e/tests/load.rs");
        let program = std::fs::read_to_string(program).unwrap();
        for name in known {
            assert!(program.contains(&format!("mod {name};")), "{name}");
        }
    }
}
