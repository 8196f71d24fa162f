//! `ci`: everything that must be green before a change is merged, a timed section per step. A step
//! that could not run is not green, and the last line says what nobody has proved.

use std::time::{Duration, Instant};

use anyhow::Result;
use camino::Utf8Path;

use super::{audit, e2e, print_data, setup, test};
use crate::cli;
use crate::engine::{Choice, Engine, EngineKind};
use crate::exit::{Exit, Failure};
use crate::pipeline::build::recipe::Profile;
use crate::process::{self, Echo, Invocation, interrupt};
use crate::report::github::Job;
use crate::report::{self, table};
use crate::source::workspace::Workspace;

/// How long one call of cargo may take; a cold build on two cores is minutes.
const CARGO_DEADLINE: Duration = Duration::from_secs(3600);
const VERSION_DEADLINE: Duration = Duration::from_secs(60);

/// A step: its name, and what it does.
type Step<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

/// Runs every step, one after the other; a red one does not hide the next.
///
/// # Errors
/// [`Exit::Red`] when a step was not green; the code of a signal when one came.
pub fn run(workspace: &Workspace, options: &cli::Ci) -> Result<()> {
    let begun = Instant::now();
    test::forget_log(workspace)?;
    let mut rows = vec![["step", "seconds", "verdict"].map(str::to_owned).to_vec()];
    let mut red = Vec::new();
    for (name, step) in steps(workspace, options) {
        let step_begun = Instant::now();
        // After a signal nothing more is begun.
        let verdict = match interrupt::pending() {
            Some(_) => "not run",
            None if section(name, &step) => "green",
            None => "red",
        };
        if verdict != "green" {
            red.push(name);
        }
        let seconds = format!("{:.1}", step_begun.elapsed().as_secs_f64());
        rows.push(vec![name.to_owned(), seconds, verdict.to_owned()]);
    }
    let summary = format!(
        "{}{}ci: {} in {:.1} s; not proven: {}\n",
        table::layout(&rows),
        closing_lines(workspace),
        if red.is_empty() { "green" } else { "red" },
        begun.elapsed().as_secs_f64(),
        unproven(options.bundle.as_deref(), engine()).join("; ")
    );
    print_data(&summary)?;
    if let Some(job) = Job::here() {
        job.summarise("ci", &rows)?;
    }
    interrupt::check()?;
    if red.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::Red, format!("not green: {}", red.join(", "))).into())
}

fn steps<'a>(workspace: &'a Workspace, options: &'a cli::Ci) -> Vec<Step<'a>> {
    let cargo_step = |name, arguments: &'static [&'static str]| -> Step<'a> {
        (name, Box::new(move || cargo(workspace, arguments)))
    };
    let mut steps: Vec<Step<'a>> = Vec::new();
    if options.yes {
        steps.push(("setup", Box::new(move || install(workspace))));
    }
    steps.push(cargo_step("format", &["fmt", "--all", "--check"]));
    steps.push(("clippy", Box::new(move || clippy(workspace))));
    // The tidy rules are tests of xtask.
    let tests = cli::Test {
        yes: false,
        filters: Vec::new(),
    };
    steps.push(("test", Box::new(move || test::run(workspace, &tests))));
    steps.push(("audit", Box::new(move || audit::run(workspace))));
    let all = cli::E2e {
        targets: Vec::new(),
        all: true,
        keep: cli::Keep::Never,
        engine: Choice::Auto,
        plan: false,
        // Its first target is built twice: once as always, once from nothing.
        no_cache: true,
        pause_before: None,
        timeout: None,
        yes: false,
        report: None,
        profile: Profile::E2e,
        filters: Vec::new(),
    };
    steps.push(("e2e --all", Box::new(move || e2e::run(workspace, &all))));
    steps
}

/// Runs a step in a section of its own.
fn section(name: &str, step: &dyn Fn() -> Result<()>) -> bool {
    let job = Job::here();
    match &job {
        Some(job) => job.open_section(name),
        None => crate::report::say!("\n=== {name}"),
    }
    let begun = Instant::now();
    let result = step();
    let verdict = if result.is_ok() { "green" } else { "red" };
    report::line(verdict, name, begun.elapsed());
    if let Some(job) = &job {
        job.close_section();
    }
    // Outside the fold, so that it is seen.
    if let Err(error) = &result {
        report::error(error);
    }
    result.is_ok()
}

/// What the steps need and is missing: packages of the host, and components of the toolchain.
fn install(workspace: &Workspace) -> Result<()> {
    setup::ensure(workspace)?;
    for (subcommand, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        let version = Invocation::new(cargo_program()).args([subcommand, "--version"]);
        if process::output(&version, VERSION_DEADLINE).is_ok_and(|output| output.code == 0) {
            continue;
        }
        let add = Invocation::new("rustup").args(["component", "add", component]);
        process::capture(&add, CARGO_DEADLINE)?;
        report::note(&format!("installed {component}"));
    }
    Ok(())
}

fn clippy(workspace: &Workspace) -> Result<()> {
    // The end-to-end tests have `test = false`, so `--all-targets` passes them over.
    const SELECTIONS: [&[&str]; 2] = [
        &["--workspace", "--all-targets", "--all-features"],
        &["--package", "test-e2e", "--test", "*"],
    ];
    for selection in SELECTIONS {
        let arguments = [&["clippy"], selection, &["--", "-D", "warnings"]].concat();
        cargo(workspace, &arguments)?;
    }
    Ok(())
}

fn cargo(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let invocation = Invocation::new(cargo_program())
        .args(arguments.iter().copied())
        .current_dir(&workspace.root);
    let code = process::stream(&invocation, None, Echo::Terminal, CARGO_DEADLINE)?;
    if code == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Red, format!("ended with {code}: {invocation}")).into())
}

/// The cargo that runs this tool, else the one on PATH.
pub(super) fn cargo_program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

/// What `cargo test` said at the end of each of its programs.
fn closing_lines(workspace: &Workspace) -> String {
    let log = std::fs::read_to_string(test::log_path(workspace)).unwrap_or_default();
    let mut text: String = log
        .lines()
        .filter(|line| line.starts_with("test result:"))
        .map(|line| format!("{line}\n"))
        .collect();
    if text.is_empty() {
        text = "cargo test ended without a result\n".to_owned();
    }
    text
}

/// What no step of this command proves, and why.
fn unproven(bundle: Option<&Utf8Path>, used: Option<EngineKind>) -> Vec<String> {
    let reason = match bundle {
        Some(folder) if !folder.join("bundle.toml").is_file() => {
            format!("and there is no bundle in {folder}")
        }
        Some(folder) => format!("the bundle in {folder} is not used yet"),
        None => "and no bundle was named".to_owned(),
    };
    let mut unproven = vec![format!(
        "Kubernetes (runs go to the local cluster, which is containers; {reason})"
    )];
    let engines = [EngineKind::Podman, EngineKind::Docker];
    unproven.extend(
        engines
            .iter()
            .filter(|&&kind| used != Some(kind))
            .map(|kind| {
                let name = kind.program();
                format!("{name} (`cargo xtask e2e --all --engine {name}` proves it)")
            }),
    );
    unproven
}

/// The engine that the steps use.
fn engine() -> Option<EngineKind> {
    let folder = tempfile::tempdir().ok()?;
    let folder = Utf8Path::from_path(folder.path())?;
    Engine::find(folder, Choice::Auto)
        .ok()
        .map(|engine| engine.kind)
}
