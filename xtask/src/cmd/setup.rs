//! `setup`: installs what is missing, by apt and rustup; where there is no apt it prints the
//! commands. It changes no setting of the host: what podman needs goes into files of each run.

use std::io::{BufRead as _, IsTerminal as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use xshell::{Shell, cmd};

use super::bundle::{self, Item};
use crate::bundle::Bundle;
use crate::cli;
use crate::engine::{Choice, Engine};
use crate::exit::{Exit, Failure};
use crate::host::{
    self,
    needs::{self, Need, Part},
};
use crate::process::{self, Echo, Invocation};
use crate::report::{self, live};
use crate::source::workspace::Workspace;

/// Downloading and unpacking some fifty packages on a slow line.
const INSTALL_DEADLINE: Duration = Duration::from_secs(900);
/// apt waits for another one, in seconds.
const LOCK_WAIT: &str = "DPkg::Lock::Timeout=120";
/// rustup answers at once.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when something is still missing.
pub fn run(workspace: &Workspace, options: &cli::Setup) -> Result<()> {
    let bundle = Bundle::given(options.bundle.as_deref())?;
    let besides = Besides {
        bundle: bundle.as_ref(),
        registry: false,
    };
    let commands = commands(workspace, besides)?;
    if commands.is_empty() {
        // Installed is not the same as working: then the reason is told, not that all is well.
        find_engine(Choice::Auto).context("nothing is missing that could be installed")?;
        report::note("nothing is missing");
        return match &bundle {
            Some(bundle) => take(bundle, options.yes),
            None => Ok(()),
        };
    }
    crate::report::say!("this would install what is missing:");
    for command in &commands {
        crate::report::say!("  {command}");
    }
    if !options.yes && !agreed("run these commands now?")? {
        return Err(Failure::new(Exit::Host, "nothing was installed")
            .hint("`cargo xtask setup --yes` runs these commands; or run them by hand")
            .into());
    }
    install(
        workspace,
        Purpose::MainJob(Choice::Auto),
        besides,
        &commands,
    )?;
    match &bundle {
        Some(bundle) => take(bundle, options.yes),
        None => Ok(()),
    }
}

/// Takes everything from the bundle that is not there yet, and says what is taken from where.
fn take(bundle: &Bundle, yes: bool) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8Path::from_path(folder.path()).context("the temporary folder is not UTF-8")?;
    let engine = Engine::find(folder, Choice::Auto)?;
    let items = bundle::items(bundle, Some(&engine));
    crate::report::say!("from the bundle {}:", bundle.folder());
    for item in &items {
        crate::report::say!("  {}", item.line());
    }
    if !items.iter().any(Item::is_wanting) {
        return Ok(());
    }
    if !yes && !agreed("take these now?")? {
        return Err(
            Failure::new(Exit::Host, "not everything was taken from the bundle")
                .hint("`cargo xtask setup --yes` takes it; a run takes what it needs by itself")
                .into(),
        );
    }
    for name in bundle.tools() {
        bundle.tool(name)?;
    }
    for name in bundle.images() {
        bundle.image(name, &engine)?;
    }
    Ok(())
}

/// What it is for that something may be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To build, deploy and test a target on this engine.
    MainJob(Choice),
    /// To build images, with no engine.
    Build,
    /// To prove it on both engines.
    Ci,
}

/// What is used besides.
#[derive(Clone, Copy, Debug)]
pub struct Besides<'a> {
    /// A bundle.
    pub bundle: Option<&'a Bundle>,
    /// A registry.
    pub registry: bool,
}

/// Installs what is lacking, and says so; asks nobody. Costs nothing when all is there.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when something is still missing.
pub fn ensure(workspace: &Workspace, purpose: Purpose, besides: Besides<'_>) -> Result<()> {
    let packages = missing_packages(workspace, purpose, besides)?;
    if packages.is_empty() {
        return Ok(());
    }
    install(workspace, purpose, besides, &apt_commands(&packages)?)
}

/// Installs the parts of the Rust toolchain that `ci` needs, and says so; asks nobody.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when one is still missing.
pub fn ensure_rust_components() -> Result<()> {
    let missing = missing_components();
    if missing.is_empty() {
        return Ok(());
    }
    let add = component_command(&missing)?;
    run_all(&[add])?;
    match missing_components().as_slice() {
        [] => Ok(()),
        left => Err(still_missing(&left.join(", "))),
    }
}

/// The components of the Rust toolchain that are not there: a shim of rustup is, even so.
pub(super) fn missing_components() -> Vec<&'static str> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    [("rustfmt", "fmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(_, command)| {
            let ask = Invocation::new(&cargo).args([command, "--version"]);
            process::capture(&ask, ANSWER_DEADLINE).is_err()
        })
        .map(|(component, _)| component)
        .collect()
}

fn component_command(missing: &[&str]) -> Result<Invocation> {
    let Some(rustup) = host::program("rustup") else {
        return Err(Failure::new(
            Exit::Host,
            format!("the Rust toolchain lacks {}", missing.join(", ")),
        )
        .hint("install them the way Rust was installed here; there is no rustup")
        .into());
    };
    Ok(Invocation::new(rustup.as_str())
        .args(["component", "add"])
        .args(missing.iter().copied()))
}

/// The packages that are missing.
fn missing_packages(
    workspace: &Workspace,
    purpose: Purpose,
    besides: Besides<'_>,
) -> Result<Vec<&'static str>> {
    let mut needs = needs::all(&workspace.root);
    if besides.bundle.is_some_and(Bundle::needs_zstd) {
        needs.push(needs::zstd());
    }
    if besides.registry {
        needs.push(needs::skopeo());
    }
    if purpose == Purpose::Ci {
        needs.push(needs::registry_of_tests());
    }
    let mut packages = packages(needs, purpose, |choice| find_engine(choice).is_ok());
    packages.sort_unstable();
    packages.dedup();
    Ok(packages)
}

/// What gives the needs that are lacking. An engine that works needs no more.
fn packages(
    mut needs: Vec<Need>,
    purpose: Purpose,
    works: impl Fn(Choice) -> bool,
) -> Vec<&'static str> {
    needs.retain(|need| need.found.is_none());
    let engine = match purpose {
        Purpose::MainJob(Choice::Docker) => {
            needs.retain(|need| need.part != Part::Engine);
            Choice::Docker
        }
        Purpose::MainJob(choice) => {
            needs.retain(|need| need.part != Part::SecondEngine);
            choice
        }
        Purpose::Build => {
            needs.retain(|need| [Part::Build, Part::Registry].contains(&need.part));
            Choice::Auto
        }
        Purpose::Ci => Choice::Auto,
    };
    let part = match engine {
        Choice::Docker => Part::SecondEngine,
        Choice::Auto | Choice::Podman => Part::Engine,
    };
    if needs.iter().any(|need| need.part == part) && works(engine) {
        needs.retain(|need| need.part != part);
    }
    needs
        .iter()
        .flat_map(|need| need.packages.iter().copied())
        .collect()
}

fn find_engine(choice: Choice) -> Result<Engine> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8Path::from_path(folder.path()).context("the temporary folder is not UTF-8")?;
    Engine::find(folder, choice)
}

fn commands(workspace: &Workspace, besides: Besides<'_>) -> Result<Vec<Invocation>> {
    let packages = missing_packages(workspace, Purpose::MainJob(Choice::Auto), besides)?;
    let mut commands = match packages.is_empty() {
        true => Vec::new(),
        false => apt_commands(&packages)?,
    };
    let components = missing_components();
    if !components.is_empty() {
        commands.push(component_command(&components)?);
    }
    Ok(commands)
}

/// apt, with the rights that it needs.
fn apt_commands(packages: &[&str]) -> Result<Vec<Invocation>> {
    let Some(apt) = host::program("apt-get") else {
        return Err(
            Failure::new(Exit::Host, format!("missing here: {}", packages.join(", ")))
                .hint(format!(
                    "there is no apt on this machine; install what Debian calls so: {}",
                    elsewhere(packages)
                ))
                .into(),
        );
    };
    let shell = Shell::new()?;
    let apt = apt.as_str();
    let (program, front) = privileged().with_context(|| {
        let list = packages.join(" ");
        format!("not run: apt-get install -y --no-install-recommends {list}")
    })?;
    let install = cmd!(
        shell,
        "{program} {front...} {apt} -o {LOCK_WAIT} install -y --no-install-recommends {packages...}"
    );
    let mut commands = Vec::new();
    if !has_lists() {
        commands.push(update()?);
    }
    commands.push(install.into());
    Ok(commands)
}

/// How apt learns what there is.
fn update() -> Result<Invocation> {
    let (shell, (program, front)) = (Shell::new()?, privileged()?);
    Ok(cmd!(shell, "{program} {front...} apt-get -o {LOCK_WAIT} update").into())
}

/// What stands before a command of apt: the rights that it needs, and no questions.
fn privileged() -> Result<(String, Vec<&'static str>)> {
    let quiet = "DEBIAN_FRONTEND=noninteractive";
    if rustix::process::getuid().is_root() {
        return Ok(("env".to_owned(), vec![quiet]));
    }
    let sudo = host::program("sudo").ok_or_else(|| {
        Failure::new(Exit::Host, "installing needs root, and there is no sudo")
            .hint("run that command as root")
    })?;
    Ok((sudo.into_string(), vec!["env", quiet]))
}

/// The same by other package managers, as far as one is here.
fn elsewhere(packages: &[&str]) -> String {
    let list = packages.join(" ");
    for (manager, line) in [
        ("dnf", "sudo dnf install"),
        ("zypper", "sudo zypper install"),
        ("pacman", "sudo pacman -S"),
        ("apk", "sudo apk add"),
    ] {
        if host::program(manager).is_some() {
            return format!("{line} {list} (names may differ)");
        }
    }
    list
}

/// apt can resolve names: a fresh container image has no lists.
fn has_lists() -> bool {
    let entries = Utf8PathBuf::from("/var/lib/apt/lists").read_dir_utf8();
    entries
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| entry.file_name().contains("_Packages"))
}

fn install(
    workspace: &Workspace,
    purpose: Purpose,
    besides: Besides<'_>,
    commands: &[Invocation],
) -> Result<()> {
    if let Err(error) = run_all(commands) {
        if report::is_signal(&error) || !has_lists() {
            return Err(error);
        }
        report::note(&format!("{error:#}: the lists of packages may be old"));
        run_all(&[update()?])?;
        run_all(commands)?;
    }
    let left = missing_packages(workspace, purpose, besides)?;
    if left.is_empty() {
        return Ok(());
    }
    Err(still_missing(&left.join(", ")))
}

fn still_missing(what: &str) -> anyhow::Error {
    Failure::new(
        Exit::Host,
        format!("still missing after the installation: {what}"),
    )
    .into()
}

fn run_all(commands: &[Invocation]) -> Result<()> {
    for command in commands {
        let began = Instant::now();
        report::note(&format!("installing: {command}"));
        let activity = live::begin("installing", "");
        let echo = Echo::Drawn(activity.teller());
        let code = process::stream(command, None, echo, INSTALL_DEADLINE)?;
        drop(activity);
        if code != 0 {
            return Err(
                Failure::new(Exit::Host, format!("command ended with {code}: {command}"))
                    .hint("its own words are above; lists of packages may be old: `apt-get update`")
                    .into(),
            );
        }
        report::line("installed", &command.to_string(), began.elapsed());
    }
    Ok(())
}

/// Asks a person; nobody there means no.
fn agreed(question: &str) -> Result<bool> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Ok(false);
    }
    crate::report::say_part!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::{Choice, Need, Part, Purpose, packages};

    /// A host with nothing but these.
    fn needs(there: &[&str]) -> Vec<Need> {
        let need = |part, name, packages: &'static [&'static str]| Need {
            name,
            purpose: "",
            packages,
            found: there.contains(&name).then(|| format!("/bin/{name}")),
            part,
        };
        vec![
            need(Part::Build, "cc", &["gcc", "libc6-dev"]),
            need(Part::Engine, "podman", &["podman"]),
            need(Part::SecondEngine, "dockerd", &["docker.io"]),
            need(Part::Images, "mmdebstrap", &["mmdebstrap"]),
            need(Part::Registry, "skopeo", &["skopeo"]),
        ]
    }

    #[track_caller]
    fn check(there: &[&str], purpose: Purpose, working: &[Choice], expected: &[&str]) {
        let works = |choice| working.contains(&choice);
        assert_eq!(packages(needs(there), purpose, works), expected);
    }

    #[test]
    fn what_is_installed_is_what_the_engine_needs_that_is_asked_for() {
        let (auto, podman, docker) = (Choice::Auto, Choice::Podman, Choice::Docker);
        let rest = ["gcc", "libc6-dev", "podman", "mmdebstrap", "skopeo"];
        check(&[], Purpose::MainJob(auto), &[], &rest);
        check(&[], Purpose::MainJob(podman), &[], &rest);
        let with_docker = ["gcc", "libc6-dev", "docker.io", "mmdebstrap", "skopeo"];
        check(&[], Purpose::MainJob(docker), &[], &with_docker);
        check(&[], Purpose::Build, &[], &["gcc", "libc6-dev", "skopeo"]);
        let there = ["cc", "mmdebstrap", "skopeo"];
        check(&there, Purpose::Ci, &[], &["podman", "docker.io"]);
        // That one works is no reason to leave out the other, which is asked for.
        check(
            &there,
            Purpose::MainJob(docker),
            &[auto, podman],
            &["docker.io"],
        );
        check(
            &there,
            Purpose::MainJob(podman),
            &[auto, docker],
            &["podman"],
        );
        check(&there, Purpose::Ci, &[auto, podman], &["docker.io"]);
        // A server on another machine does as well.
        check(&there, Purpose::MainJob(docker), &[auto, docker], &[]);
        check(&there, Purpose::MainJob(auto), &[auto, docker], &[]);
        check(
            &["cc", "mmdebstrap", "skopeo", "dockerd"],
            Purpose::MainJob(docker),
            &[],
            &[],
        );
    }
}
