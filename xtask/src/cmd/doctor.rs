//! `doctor`: what is there, what is missing, which engine would be chosen and why. Changes nothing.

use std::fmt::Write as _;

use anyhow::{Context as _, Error, Result};
use camino::Utf8Path;

use super::bundle::{self, Item, State};
use super::{print_data, room, setup};
use crate::bundle::Bundle;
use crate::cli;
use crate::cluster;
use crate::cluster::kind::{self, Means};
use crate::engine::{self, Choice, Engine, Limits, Probe, dockerd};
use crate::exit::{Exit, Failure};
use crate::host::needs::{self, Need, Part};
use crate::host::room::Verdict;
use crate::host::{self, diverted};
use crate::manifest::Manifests;
use crate::pipeline::build::recipe::Profile;
use crate::process::interrupt;
use crate::source::workspace::Workspace;

const OWN_SERVER: &str = "docker: with a server of its own for each command, since none runs";

/// Runs the command.
///
/// # Errors
/// [`crate::exit::Exit::Host`] when the main job could not run.
pub fn run(workspace: &Workspace, options: &cli::Doctor) -> Result<()> {
    let choice = options.engine;
    let bundle = Bundle::given(options.bundle.as_deref())?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8Path::from_path(folder.path()).context("the temporary folder is not UTF-8")?;
    let probes = Engine::probe_all(folder);
    interrupt::check()?;
    let wanted = |probe: &&Probe| choice.allows(probe.kind);
    let chosen = probes
        .iter()
        .filter(wanted)
        .find(|probe| probe.result.is_ok());
    let own_server = choice == Choice::Docker && chosen.is_none() && dockerd::is_wanted();
    let mut needs = needs::all(&workspace.root);
    if bundle.as_ref().is_some_and(Bundle::needs_zstd) {
        needs.push(needs::zstd());
    }
    let mut text = String::new();
    for need in &needs {
        text.push_str(&need_line(need, chosen.is_some()));
    }
    text.push_str(&component_lines());
    for probe in &probes {
        text.push_str(&engine_lines(probe, chosen.is_some()));
    }
    let engine = chosen.and_then(|probe| probe.result.as_ref().ok());
    let items = bundle.as_ref().map(|bundle| bundle::items(bundle, engine));
    let items = items.unwrap_or_default();
    text.push_str(&bundle_lines(bundle.as_ref(), &items));
    let cluster = options.cluster.as_ref().or(workspace.cluster.as_ref());
    let cluster = cluster.cloned().unwrap_or_default();
    let means = match cluster {
        cluster::Choice::Kind => Some(kind::means(bundle.as_ref(), engine)?),
        cluster::Choice::Local | cluster::Choice::Context(_) => None,
    };
    text.push_str(&means.as_ref().map(kind_lines).unwrap_or_default());
    let room = look_at_room(workspace, engine, &cluster);
    text.push_str(&room_lines(&room));
    let choice_line = match (chosen, own_server) {
        (Some(probe), _) => format!(
            "{}: the first engine that is asked for and was seen to run a container",
            probe.kind.program()
        ),
        (None, true) => OWN_SERVER.to_owned(),
        (None, false) => format!(
            "no engine: none was seen to run a container; fix: {}",
            remedy(&probes, choice)
        ),
    };
    let _ = writeln!(text, "{:>8}  {choice_line}", "chosen");
    print_data(&text)?;
    let missing = needs.iter().filter(|need| need.found.is_none());
    let blocked: Vec<&str> = missing
        .filter(|need| need.part == Part::Build)
        .map(|need| need.name)
        .collect();
    let has_kind = means.is_none_or(|means| means.tool.is_some());
    if (chosen.is_some() || own_server) && blocked.is_empty() {
        check_bundle(bundle.as_ref(), items)?;
        if !has_kind {
            let what = "the main job cannot run on kind here; it lacks kind";
            return Err(Failure::new(Exit::Host, what).hint(kind::WHERE).into());
        }
        return host::room::demand(&room);
    }
    Err(cannot_run(blocked, chosen.is_some() || own_server, || {
        remedy(&probes, choice)
    }))
}

/// What keeps the main job from running.
fn cannot_run(
    blocked: Vec<&str>,
    has_engine: bool,
    engine_remedy: impl FnOnce() -> String,
) -> Error {
    let hint = match blocked.is_empty() {
        true => engine_remedy(),
        false => "`cargo xtask setup --yes` installs what is missing".to_owned(),
    };
    let mut lacks = blocked;
    if !has_engine {
        lacks.push("a container engine that works");
    }
    let what = format!(
        "the main job cannot run here; it lacks {}",
        lacks.join(", ")
    );
    Failure::new(Exit::Host, what).hint(hint).into()
}

fn bundle_lines(bundle: Option<&Bundle>, items: &[Item]) -> String {
    let Some(bundle) = bundle else {
        return String::new();
    };
    let mut text = format!("{:>8}  bundle {}\n", "ok", bundle.folder());
    for item in items {
        let word = match item.state {
            State::Ready(_) => "ok",
            State::Wanting(_) | State::Unknown => "",
            State::Bad(_) => "no",
        };
        let _ = writeln!(text, "{word:>8}  bundle: {}", item.line());
    }
    text
}

/// The first thing that cannot be had from it.
fn check_bundle(bundle: Option<&Bundle>, items: Vec<Item>) -> Result<()> {
    let Some(bundle) = bundle else {
        return Ok(());
    };
    for item in items {
        if let State::Bad(error) = item.state {
            let what = format!("not all of the bundle {} can be used", bundle.folder());
            return Err(error.context(what));
        }
    }
    Ok(())
}

/// What a cluster of kind would be made with.
fn kind_lines(means: &Means) -> String {
    let tool = match &means.tool {
        Some(place) => format!("{:>8}  kind: {place}\n", "ok"),
        None => format!(
            "{:>8}  kind: makes the cluster; fix: {}\n",
            "missing",
            kind::WHERE
        ),
    };
    let image = match &means.node_image {
        Some(place) => format!("{:>8}  kind: image of its nodes: {place}\n", "ok"),
        None => format!(
            "{:>8}  kind: image of its nodes: not here; kind asks a registry for it\n",
            ""
        ),
    };
    tool + &image
}

/// For the target that asks for the most.
fn look_at_room(
    workspace: &Workspace,
    engine: Option<&Engine>,
    cluster: &cluster::Choice,
) -> Vec<Verdict> {
    let manifests = workspace.targets.values().filter_map(|target| {
        // What is wrong with them is for `audit` and the run to tell.
        Manifests::read(workspace, target.manifests()).ok()
    });
    let largest = manifests.max_by_key(Manifests::memory_requested_bytes);
    let builds_first = room::builds_first(workspace, Profile::E2e);
    let deployed = largest.as_ref().map(|manifests| room::Deployed {
        manifests,
        cluster,
        nodes_count: 1,
    });
    room::look(workspace, builds_first, engine, deployed)
}

fn room_lines(verdicts: &[Verdict]) -> String {
    let line = |verdict: &Verdict| match verdict.fix {
        None => format!("{:>8}  room: {}\n", "ok", verdict.line),
        Some(fix) => format!("{:>8}  room: {}; fix: {fix}\n", "short", verdict.line),
    };
    verdicts.iter().map(line).collect()
}

fn remedy(probes: &[Probe], choice: Choice) -> String {
    let (wanted, others): (Vec<_>, Vec<_>) =
        probes.iter().partition(|probe| choice.allows(probe.kind));
    let remedy = engine::remedy(wanted.iter().filter_map(|probe| {
        let error = probe.result.as_ref().err()?;
        Some((probe.kind, error))
    }));
    let works = others.iter().find(|probe| probe.result.is_ok());
    match (works, wanted.first()) {
        (Some(works), Some(wanted)) => engine::instead(works.kind, wanted.kind, &remedy),
        _ => remedy,
    }
}

fn component_lines() -> String {
    let missing = setup::missing_components();
    ["rustfmt", "clippy"]
        .map(|component| match missing.contains(&component) {
            true => format!(
                "{:>8}  {component}: `cargo xtask ci` needs it; fix: rustup component add {component}\n",
                "missing"
            ),
            false => format!("{:>8}  {component}\n", "ok"),
        })
        .concat()
}

fn need_line(need: &Need, engine_works: bool) -> String {
    let Need {
        name,
        purpose,
        packages,
        found,
        part,
    } = need;
    match found {
        Some(place) => format!("{:>8}  {name}: {place}\n", "ok"),
        None if *part == Part::Engine && engine_works => {
            format!(
                "{:>8}  {name}: not here, and the engine works without it\n",
                "ok"
            )
        }
        None if *part == Part::SecondEngine => {
            format!(
                "{:>8}  {name}: not here; {purpose}; both install it with --yes\n",
                ""
            )
        }
        None => format!(
            "{:>8}  {name}: {purpose}; fix: apt-get install {}\n",
            "missing",
            packages.join(" ")
        ),
    }
}

fn engine_lines(probe: &Probe, another_works: bool) -> String {
    let program = probe.kind.program();
    match &probe.result {
        Ok(engine) => {
            let settings = match engine.environment.is_empty() {
                true => "with the host's own settings".to_owned(),
                false => "with settings of ours, in a file of each run".to_owned(),
            };
            let mut lines = format!(
                "{:>8}  {program} {} on {}: runs containers {settings}; {}\n",
                "ok",
                engine.version,
                engine.platform,
                limits(engine.limits)
            );
            for note in &engine.notes {
                let _ = writeln!(lines, "{:>8}  {program}, while probing: {note}", "");
            }
            lines.push_str(&diverted_lines(engine));
            lines
        }
        Err(error) => {
            let hint = Failure::find(error).filter(|_| !another_works);
            let hint = hint.and_then(Failure::hint_text);
            let mut lines = format!("{:>8}  {program} {error}\n", "no");
            for cause in error.chain().skip(1) {
                for line in cause.to_string().lines() {
                    let _ = writeln!(lines, "{:>8}  {program} says: {line}", "");
                }
            }
            if let Some(hint) = hint {
                let _ = writeln!(lines, "{:>8}  fix: {hint}", "");
            }
            lines
        }
    }
}

/// A port that leads nowhere makes one run in a thousand fail, and nobody would guess why.
fn diverted_lines(engine: &Engine) -> String {
    let rules = match diverted::rules(engine) {
        Ok(rules) => rules,
        Err(error) => return format!("{:>8}  {error:#}\n", "no"),
    };
    let line = |(port, removal): (&u16, &String)| {
        format!(
            "{:>8}  port {port} of 127.0.0.1 is diverted to a container that is gone; fix: {removal}\n",
            "left"
        )
    };
    rules.iter().map(line).collect()
}

fn limits(limits: Limits) -> String {
    let Limits { memory, cpus, pids } = limits;
    let named = [
        ("memory", memory),
        ("processors", cpus),
        ("processes", pids),
    ];
    let missing: Vec<&str> = named
        .iter()
        .filter(|(_, allowed)| !allowed)
        .map(|(name, _)| *name)
        .collect();
    match missing.as_slice() {
        [] => "limits of memory, processors and processes can be set".to_owned(),
        missing => format!("limits that cannot be set here: {}", missing.join(", ")),
    }
}
