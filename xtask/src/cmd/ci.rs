//! `ci`: everything that must be green before a change is merged, a timed section per step. A step
//! that could not run is not green, and the last line says what nobody has proved.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use camino::Utf8Path;

use super::{audit, e2e, print_data, setup, test};
use crate::bundle::{self, Bundle};
use crate::cli;
use crate::cluster::{self, kind};
use crate::engine::{Choice, Engine, EngineKind, dockerd};
use crate::exit::{Exit, Failure};
use crate::pipeline::build::recipe::Profile;
use crate::process::{self, Echo, Invocation, interrupt};
use crate::report::github::Job;
use crate::report::{self, live, table};
use crate::source::workspace::Workspace;

mod missing_image;
mod remote;

/// How long one call of cargo may take; a cold build on two cores is minutes.
const CARGO_DEADLINE: Duration = Duration::from_secs(3600);

/// What is deployed to kind.
const ON_KIND: [&str; 2] = ["gateway", "pipeline"];

/// A step: its name, and what it does.
type Step<'a> = (&'static str, Box<dyn Fn() -> Result<Done> + 'a>);

/// What came of a step that is not red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It ran, and was green.
    Ran,
    /// What it is about is not here; the last line says so.
    NotHere,
}

/// Runs every step, one after the other; a red one does not hide the next.
///
/// # Errors
/// [`Exit::Red`] when a step was not green; the code of a signal when one came.
pub fn run(workspace: &Workspace, options: &cli::Ci) -> Result<()> {
    let begun = Instant::now();
    test::forget_log(workspace)?;
    let mut rows = vec![["step", "seconds", "verdict"].map(str::to_owned).to_vec()];
    let mut red = Vec::new();
    let kind = Kind {
        bundle: present(options.bundle.as_deref()),
        absence: OnceCell::new(),
    };
    for (name, step) in chosen(steps(workspace, options, &kind), &options.only)? {
        let step_begun = Instant::now();
        // After a signal nothing more is begun.
        let verdict = match interrupt::pending() {
            Some(_) => "not run",
            None => section(name, &step),
        };
        if !["green", "not here"].contains(&verdict) {
            red.push(name);
        }
        let seconds = format!("{:.1}", step_begun.elapsed().as_secs_f64());
        rows.push(vec![name.to_owned(), seconds, verdict.to_owned()]);
    }
    let summary = format!(
        "{}{}ci: {} in {:.1} s; not proven: {}\n",
        table::layout(&rows),
        match options.only.is_empty() {
            true => closing_lines(workspace),
            false => String::new(),
        },
        if red.is_empty() { "green" } else { "red" },
        begun.elapsed().as_secs_f64(),
        match options.only.is_empty() {
            true => told(&unproven(&kind, options.bundle.as_deref())),
            false => "what the other steps prove".to_owned(),
        }
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

/// All of them, or those that somebody wants to run again.
fn chosen<'a>(steps: Vec<Step<'a>>, only: &[String]) -> Result<Vec<Step<'a>>> {
    if only.is_empty() {
        return Ok(steps);
    }
    let names: Vec<&str> = steps.iter().map(|(name, _)| *name).collect();
    let is_wanted = |name: &str| only.iter().any(|word| name.contains(word.as_str()));
    if !names.iter().any(|name| is_wanted(name)) {
        let what = format!("no step has `{}` in its name", only.join("` or `"));
        let hint = format!("there are: {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, what).hint(hint).into());
    }
    let wanted = steps.into_iter().filter(|(name, _)| is_wanted(name));
    Ok(wanted.collect())
}

/// A bundle that is not there is no error: what needs it is told as not proven.
fn present(bundle: Option<&Utf8Path>) -> Option<&Utf8Path> {
    let folder = bundle.filter(|folder| !folder.as_str().is_empty())?;
    if folder.join(bundle::FILE).is_file() {
        return Some(folder);
    }
    report::note(&format!("there is no bundle in {folder}"));
    None
}

fn steps<'a>(workspace: &'a Workspace, options: &'a cli::Ci, kind: &'a Kind<'a>) -> Vec<Step<'a>> {
    let bundle = kind.bundle;
    fn step<'a>(name: &'static str, run: impl Fn() -> Result<()> + 'a) -> Step<'a> {
        (name, Box::new(move || run().map(|()| Done::Ran)))
    }
    let mut steps: Vec<Step<'a>> = Vec::new();
    if options.yes {
        steps.push(step("setup", move || install(workspace, bundle)));
    }
    steps.push(step("format", move || {
        cargo(workspace, &["fmt", "--all", "--check"])
    }));
    steps.push(step("clippy", move || clippy(workspace)));
    // The tidy rules are tests of xtask.
    let tests = cli::Test {
        yes: false,
        bundle: bundle.map(Utf8Path::to_owned),
        filters: Vec::new(),
    };
    steps.push(step("test", move || test::run(workspace, &tests)));
    steps.push(step("audit", move || audit::run(workspace)));
    // Which engines there are is only known when setup has run. Without any, the reason is told.
    steps.push(step("e2e --all", move || {
        let engine = engine().map_or(Choice::Auto, Choice::from);
        end_to_end(workspace, engine, bundle, true)
    }));
    let second = move || match second_engine() {
        Some(kind) => end_to_end(workspace, kind.into(), bundle, false).map(|()| Done::Ran),
        None => Ok(Done::NotHere),
    };
    steps.push(("e2e --all, other engine", Box::new(second)));
    let on_kind = move || kind.only_if_here(|| end_to_end_on_kind(workspace, bundle));
    steps.push(("e2e on kind", Box::new(on_kind)));
    let missing = move || {
        let engine = || engine().map_or(Choice::Auto, Choice::from);
        kind.only_if_here(|| missing_image::fails_soon(workspace, engine(), bundle))
    };
    steps.push(("missing image on kind", Box::new(missing)));
    let on_remote = move || match remote::absence() {
        None => kind.only_if_here(|| {
            let engine = engine().map_or(Choice::Auto, Choice::from);
            remote::run(workspace, engine, bundle)
        }),
        Some(why) => {
            report::note(&format!("skipped: {why}"));
            Ok(Done::NotHere)
        }
    };
    steps.push(("e2e on a cluster as if remote", Box::new(on_remote)));
    steps
}

/// Whether anything can be deployed to kind here, looked at once and not before it matters: what
/// `setup` installs is there by then.
struct Kind<'a> {
    bundle: Option<&'a Utf8Path>,
    absence: OnceCell<Result<Option<String>, String>>,
}

impl Kind<'_> {
    /// Why nothing can be, if so; or why that is not known.
    fn absence(&self) -> Result<Option<&str>, &str> {
        let look = || no_kind(self.bundle).map_err(|error| format!("{error:#}"));
        match self.absence.get_or_init(look) {
            Ok(why) => Ok(why.as_deref()),
            Err(error) => Err(error),
        }
    }

    /// What is not proven without it, and why: a bundle that was named and is not there, if so.
    fn unproven(&self, named: Option<&Utf8Path>) -> Option<String> {
        let missing = named.filter(|folder| !folder.as_str().is_empty() && self.bundle.is_none());
        let why = self.absence().unwrap_or_else(Some)?;
        let reason = match missing {
            Some(folder) => format!("there is no bundle in {folder}"),
            None => why.to_owned(),
        };
        Some(format!(
            "Kubernetes (runs go to the local cluster, which is containers; {reason})"
        ))
    }

    fn only_if_here(&self, step: impl FnOnce() -> Result<()>) -> Result<Done> {
        match self.absence() {
            Ok(None) => step().map(|()| Done::Ran),
            Ok(Some(why)) => {
                report::note(&format!("skipped: {why}"));
                Ok(Done::NotHere)
            }
            Err(error) => Err(anyhow!("{error}")),
        }
    }
}

/// What shows that what holds on the local cluster holds on Kubernetes: one service, and all of them
/// together.
fn end_to_end_on_kind(workspace: &Workspace, bundle: Option<&Utf8Path>) -> Result<()> {
    let everything = cli::E2e {
        cluster: Some(cluster::Choice::Kind),
        all: false,
        targets: ON_KIND.map(str::to_owned).to_vec(),
        ..every_target(engine().map_or(Choice::Auto, Choice::from), bundle, false)
    };
    e2e::run(workspace, &everything)
}

/// Why nothing can be deployed to kind here.
fn no_kind(bundle: Option<&Utf8Path>) -> Result<Option<String>> {
    let bundle = Bundle::given(bundle)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8Path::from_path(folder.path()).context("the temporary folder is not UTF-8")?;
    let engine = Engine::find(folder, Choice::Auto)?;
    kind::absence(bundle.as_ref(), &engine)
}

/// Every target on one engine.
fn end_to_end(
    workspace: &Workspace,
    engine: Choice,
    bundle: Option<&Utf8Path>,
    first: bool,
) -> Result<()> {
    e2e::run(workspace, &every_target(engine, bundle, first))
}

fn every_target(engine: Choice, bundle: Option<&Utf8Path>, first: bool) -> cli::E2e {
    cli::E2e {
        targets: Vec::new(),
        all: true,
        jobs: cli::Jobs::default(),
        fail_fast: false,
        keep: cli::Keep::Never,
        nodes: 1,
        reuse: false,
        watch: false,
        cluster: Some(cluster::Choice::Local),
        engine,
        bundle: bundle.map(Utf8Path::to_owned),
        prebuilt: None,
        accept_recipe: false,
        registry: None,
        plan: false,
        // Its first target is built twice: once as always, once from nothing. Once is enough.
        no_cache: first,
        pause_before: None,
        timeout: None,
        yes: false,
        report: None,
        profile: Profile::E2e,
        ends_with_parent: false,
        filters: Vec::new(),
        load: None,
    }
}

/// Runs a step in a section of its own.
fn section(name: &str, step: &dyn Fn() -> Result<Done>) -> &'static str {
    let job = Job::here();
    match &job {
        Some(job) => job.open_section(name),
        None => crate::report::say!("\n=== {name}"),
    }
    let begun = Instant::now();
    let activity = live::begin("running", name);
    let result = step();
    drop(activity);
    let verdict = match &result {
        Ok(Done::Ran) => "green",
        Ok(Done::NotHere) => "not here",
        Err(_) => "red",
    };
    report::line(verdict, name, begun.elapsed());
    if let Some(job) = &job {
        job.close_section();
    }
    // Outside the fold, so that it is seen.
    if let Err(error) = &result {
        report::error(error);
    }
    verdict
}

/// What the steps need and is missing: packages of the host, and components of the toolchain.
fn install(workspace: &Workspace, bundle: Option<&Utf8Path>) -> Result<()> {
    let bundle = Bundle::given(bundle)?;
    let besides = setup::Besides {
        bundle: bundle.as_ref(),
        registry: true,
    };
    setup::ensure(workspace, setup::Purpose::Ci, besides)?;
    setup::ensure_rust_components()
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

/// The last words of the last line.
fn told(unproven: &[String]) -> String {
    match unproven.is_empty() {
        true => "nothing that it could have".to_owned(),
        false => unproven.join("; "),
    }
}

/// What no step of this command proves, and why.
fn unproven(kind: &Kind<'_>, named: Option<&Utf8Path>) -> Vec<String> {
    let mut unproven = Vec::from_iter(kind.unproven(named));
    if let (Some(reason), true) = (remote::absence(), unproven.is_empty()) {
        unproven.push(format!(
            "a cluster that pulls from a registry and is reached by its API server alone ({reason})"
        ));
    }
    let used = [engine(), second_engine()];
    for kind in [EngineKind::Podman, EngineKind::Docker] {
        if !used.contains(&Some(kind)) {
            let name = kind.program();
            unproven.push(format!(
                "{name} (it does not work here: cargo xtask doctor)"
            ));
        }
    }
    unproven
}

/// The engine that is used where none is asked for.
fn engine() -> Option<EngineKind> {
    find(Choice::Auto)
}

/// Another one: where docker has no server, one of our own.
fn second_engine() -> Option<EngineKind> {
    match engine()? {
        EngineKind::Docker => None,
        EngineKind::Podman if dockerd::is_wanted() => Some(EngineKind::Docker),
        EngineKind::Podman => find(Choice::Docker),
    }
}

fn find(choice: Choice) -> Option<EngineKind> {
    let folder = tempfile::tempdir().ok()?;
    let folder = Utf8Path::from_path(folder.path())?;
    Engine::find(folder, choice).ok().map(|engine| engine.kind)
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use camino::Utf8Path;

    use super::{Done, Kind, Step, chosen, present};

    fn kind(known: Result<Option<String>, String>) -> Kind<'static> {
        Kind {
            bundle: None,
            absence: OnceCell::from(known),
        }
    }

    #[test]
    fn what_was_found_of_kind_decides_and_is_told() {
        let ran = || Ok(());
        let here = kind(Ok(None));
        assert_eq!(here.only_if_here(ran).unwrap(), Done::Ran);
        let folder = Some(Utf8Path::new("nowhere"));
        assert_eq!(here.unproven(folder), None);
        let told = |kind: &Kind<'_>, named| kind.unproven(named).unwrap();

        let not_here = kind(Ok(Some("no node image".to_owned())));
        let never = || panic!("kind is not here");
        assert_eq!(not_here.only_if_here(never).unwrap(), Done::NotHere);
        assert!(told(&not_here, None).contains("no node image"));
        assert!(told(&not_here, folder).contains("there is no bundle in nowhere"));

        // That it is not known is red, and not proven either.
        let unknown = kind(Err("no engine".to_owned()));
        assert_eq!(
            unknown.only_if_here(ran).unwrap_err().to_string(),
            "no engine"
        );
        assert!(told(&unknown, None).contains("no engine"));
    }

    #[test]
    fn a_step_can_be_run_alone() {
        let steps = || -> Vec<Step<'static>> {
            ["format", "e2e --all", "e2e on kind"]
                .map(|name| -> Step<'static> { (name, Box::new(|| Ok(Done::Ran))) })
                .into()
        };
        let names = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
            let chosen = chosen(steps(), &only);
            chosen.map(|steps| steps.iter().map(|(name, _)| *name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap().len(), 3);
        assert_eq!(names(&["kind"]).unwrap(), ["e2e on kind"]);
        assert_eq!(names(&["kind", "form"]).unwrap(), ["format", "e2e on kind"]);
        let error = names(&["audit"]).unwrap_err().to_string();
        assert!(error.contains("no step has `audit`"), "{error}");
    }

    #[test]
    fn a_bundle_that_is_not_there_is_not_handed_on() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        assert_eq!(present(Some(folder)), None);
        assert_eq!(present(Some(Utf8Path::new(""))), None);
        std::fs::write(folder.join("bundle.toml"), "").unwrap();
        assert_eq!(present(Some(folder)), Some(folder));
    }
}
