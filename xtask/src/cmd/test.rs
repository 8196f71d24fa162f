//! `test`: the unit and integration tests of the workspace, with a PostgreSQL server of their own
//! for packages that have a feature `postgres`. The server is the one of `deploy/postgres.yaml`, on a
//! random port of 127.0.0.1, and goes when the tests have ended, however they ended.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::ci::cargo_program;
use super::setup;
use crate::bundle::Bundle;
use crate::cli;
use crate::cluster::local::{Local, write_config};
use crate::engine::{Choice, Engine};
use crate::exit::{Exit, Failure};
use crate::manifest::{Manifests, References};
use crate::process::interrupt::Shield;
use crate::process::{self, Echo, Invocation};
use crate::report;
use crate::run::{self, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

/// The third-party image, and the feature that asks for it.
const POSTGRES: &str = "postgres";
/// How long all tests may take, with a cold build.
const TEST_DEADLINE: Duration = Duration::from_secs(3600);
const READY_DEADLINE: Duration = Duration::from_secs(60);

/// Runs them all.
///
/// # Errors
/// [`Exit::Red`] when a test failed; [`Exit::Usage`] when a filter left none to run; [`Exit::Host`] when there is no engine for the server.
pub fn run(workspace: &Workspace, options: &cli::Test) -> Result<()> {
    let features = features(workspace)?;
    if features.is_empty() {
        return cargo_test(workspace, options, &features, None);
    }
    let bundle = Bundle::given(options.bundle.as_deref())?;
    if options.yes {
        setup::ensure(
            workspace,
            setup::Purpose::MainJob(Choice::Auto),
            setup::Besides {
                bundle: bundle.as_ref(),
                registry: false,
            },
        )?;
    }
    with_postgres(workspace, bundle.as_ref(), |url| {
        cargo_test(workspace, options, &features, Some(url))
    })
}

/// What `cargo test` said in the last call of this command.
pub(super) fn log_path(workspace: &Workspace) -> Utf8PathBuf {
    workspace.state_directory().join("test.log")
}

/// What an earlier run said is not this one's.
pub(super) fn forget_log(workspace: &Workspace) -> Result<()> {
    let path = log_path(workspace);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {path}"))
        }
        _ => Ok(()),
    }
}

/// `<package>/postgres` for each package that has this feature.
fn features(workspace: &Workspace) -> Result<Vec<String>> {
    let mut features = Vec::new();
    for package in workspace.packages.values() {
        let path = workspace.root.join(&package.directory).join("Cargo.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let manifest: toml::Table = text
            .parse()
            .with_context(|| format!("cannot read {path}"))?;
        let declared = manifest.get("features").and_then(toml::Value::as_table);
        if declared.is_some_and(|features| features.contains_key(POSTGRES)) {
            features.push(format!("{}/{POSTGRES}", package.name));
        }
    }
    Ok(features)
}

fn cargo_test(
    workspace: &Workspace,
    options: &cli::Test,
    features: &[String],
    url: Option<&str>,
) -> Result<()> {
    let mut invocation = Invocation::new(cargo_program())
        .args(["test", "--workspace", "--no-fail-fast"])
        // A test that is about a bundle names its own.
        .env_remove("E2E_BUNDLE")
        .current_dir(&workspace.root);
    if !features.is_empty() {
        invocation = invocation.arg("--features").arg(features.join(","));
    }
    if !options.filters.is_empty() {
        let filters = options.filters.iter().map(String::as_str);
        invocation = invocation.arg("--").args(filters);
    }
    let command = invocation.to_string();
    if let Some(url) = url {
        invocation = invocation.secret_env("TEST_POSTGRES_URL", url);
    }
    let log = log_path(workspace);
    let state = workspace.state_directory();
    fs::create_dir_all(&state).with_context(|| format!("cannot make {state}"))?;
    fs::write(&log, "").with_context(|| format!("cannot write {log}"))?;
    let code = process::stream(&invocation, Some(&log), Echo::Through, TEST_DEADLINE)?;
    if code != 0 {
        return Err(Failure::new(Exit::Red, format!("ended with {code}: {command}")).into());
    }
    let said = fs::read_to_string(&log).with_context(|| format!("cannot read {log}"))?;
    if options.filters.is_empty() || ran_something(&said) {
        return Ok(());
    }
    // cargo calls that a success, and whoever mistyped a name would believe it.
    let words = options.filters.join(" ");
    Err(
        Failure::new(Exit::Usage, format!("no test ran: `-- {words}` fits none"))
            .hint("`cargo xtask test -- --list` names all tests; a filter is a part of a name")
            .into(),
    )
}

/// Whether one of the test programs ran a test, by their last lines: `test result: ok. 3 passed; 0
/// failed; 1 ignored; 0 measured; 7 filtered out; ...`. Where none has such a line, none was asked
/// to run anything (`--list`).
fn ran_something(said: &str) -> bool {
    const RAN: [&str; 4] = ["passed", "failed", "ignored", "measured"];
    let mut results = said
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
        .peekable();
    results.peek().is_none()
        || results
            .flat_map(|result| result.split([';', '.']))
            .filter_map(|part| part.trim().split_once(' '))
            .any(|(count, what)| RAN.contains(&what) && count != "0")
}

/// Starts a server, hands its superuser's URL to `tests`, and removes it.
fn with_postgres(
    workspace: &Workspace,
    bundle: Option<&Bundle>,
    tests: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let target = target(workspace)?;
    let run = Run::begin_named(workspace, &target.name, "test")?;
    let engine = match Engine::find(run.directory(), Choice::Auto) {
        Ok(engine) => engine,
        Err(error) => {
            run.nothing_made()?;
            return Err(error);
        }
    };
    let begun = Instant::now();
    let result = run::sweep(workspace, &engine)
        .and_then(|_| start(workspace, &target, &run, &engine, bundle))
        .and_then(|url| {
            report::line("started", "PostgreSQL for the tests", begun.elapsed());
            tests(&url)
        });
    let _shield = Shield::raise();
    let removed = run
        .clean_up(&engine)
        .and_then(|()| run::remove_secrets(run.directory()));
    result.and(removed)
}

/// The server alone. Its name is borrowed: what runs is none of a target's packages.
fn target(workspace: &Workspace) -> Result<Target> {
    let name = workspace.targets.keys().next();
    let name = name.context("the workspace has no target")?.clone();
    Ok(Target::of_third_party(name, &[POSTGRES]))
}

fn start(
    workspace: &Workspace,
    target: &Target,
    run: &Run,
    engine: &Engine,
    bundle: Option<&Bundle>,
) -> Result<String> {
    let mut local = Local::start(workspace, target, run, engine, bundle)?;
    let secrets = Secrets::make(workspace, target, run.directory())?;
    let manifests = Manifests::read(workspace, [POSTGRES])?;
    let references = References::of_third_party(local.third_party());
    let pods = local.plan(run, &secrets, &manifests, &references)?;
    write_config(run, &manifests)?;
    local.roll_out(run, pods, |_| READY_DEADLINE)?;
    let facts = local.facts()?;
    let port = facts
        .values()
        .find_map(|facts| facts.ports.values().next())
        .context("the engine publishes no port of the server")?;
    let superuser = Superuser::of(&manifests)?;
    let password_file = superuser.password_file(&secrets);
    let password = fs::read_to_string(&password_file)
        .with_context(|| format!("cannot read {password_file}"))?;
    Ok(format!(
        "postgres://{}:{}@127.0.0.1:{port}/postgres",
        superuser.name,
        password.trim_end()
    ))
}

/// Who initdb makes, as the manifest says it.
struct Superuser {
    name: String,
    secret: String,
    key: String,
}

impl Superuser {
    fn of(manifests: &Manifests) -> Result<Self> {
        let spec = manifests
            .workloads
            .iter()
            .map(|workload| &workload.deployment.spec.template.spec)
            .find(|spec| !spec.init_containers.is_empty())
            .context("deploy/postgres.yaml: no init container runs initdb")?;
        let argument = |prefix: &str| {
            let arguments = spec.init_containers.iter().flat_map(|init| &init.args);
            let mut values = arguments.filter_map(|argument| argument.strip_prefix(prefix));
            values
                .next()
                .map(str::to_owned)
                .with_context(|| format!("deploy/postgres.yaml: initdb is not given {prefix}"))
        };
        let password_file = Utf8PathBuf::from(argument("--pwfile=")?);
        let secret = spec
            .volumes
            .iter()
            .find_map(|volume| volume.secret.as_ref())
            .context("deploy/postgres.yaml: no Secret is mounted")?;
        Ok(Self {
            name: argument("--username=")?,
            secret: secret.secret_name.clone(),
            key: password_file.file_name().unwrap_or_default().to_owned(),
        })
    }

    fn password_file(&self, secrets: &Secrets) -> Utf8PathBuf {
        let mount: &Utf8Path = &secrets.mount(&self.secret);
        mount.join(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use super::ran_something;

    #[test]
    fn what_was_filtered_out_did_not_run() {
        let result =
            |counts: &str| format!("running\ntest result: ok. {counts}; finished in 0.00s\n");
        let none = result("0 passed; 0 failed; 0 ignored; 0 measured; 12 filtered out");
        assert!(!ran_something(&none));
        assert!(!ran_something(&format!("{none}{none}")));
        let one = result("1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out");
        assert!(ran_something(&format!("{none}{one}{none}")));
        let ignored = result("0 passed; 0 failed; 1 ignored; 0 measured; 11 filtered out");
        assert!(ran_something(&ignored));
        assert!(ran_something("a: test\n\n1 test, 0 benchmarks\n"));
    }
}
