//! `--plan`: phases, references and commands of a run, from the functions that a run calls. It
//! compiles, makes and starts nothing. What is only known in a run stands in angle brackets.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::naming::Naming;
use crate::bundle::Bundle;
use crate::cli;
use crate::cluster::local::Preview;
use crate::cluster::{Choice, context, kind, kubernetes};
use crate::cmd::{print_data, tag};
use crate::engine::Engine;
use crate::manifest::{Manifests, References};
use crate::pipeline::Images;
use crate::pipeline::build::{self, Origin};
use crate::pipeline::tag::Tagged;
use crate::pipeline::test;
use crate::process::Invocation;
use crate::registry::Registry;
use crate::run::{self, Resources};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};

/// What stands for the run's ID.
const RUN: &str = "<run>";

/// Prints the plan of each target.
///
/// # Errors
/// What would stop the run before anything is built: sources or manifests that are refused, no engine.
pub(super) fn print(workspace: &Workspace, targets: &[&Target], options: &cli::E2e) -> Result<()> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = Utf8PathBuf::from_path_buf(folder.path().to_owned())
        .ok()
        .context("the temporary folder is not UTF-8")?;
    let engine = Engine::find(&folder, options.engine)?;
    let runs = run::runs_directory(workspace);
    for target in targets {
        // Files of the run are named in the temporary folder.
        let folders = (folder.as_path(), runs.join(RUN));
        let text = plan(workspace, target, options, &engine, folders)?;
        print_data(&text)?;
    }
    Ok(())
}

fn plan(
    workspace: &Workspace,
    target: &Target,
    options: &cli::E2e,
    engine: &Engine,
    (directory, shown): (&Utf8Path, Utf8PathBuf),
) -> Result<String> {
    let Naming {
        repository,
        prebuilt,
    } = Naming::of(options)?;
    let named_in = repository.clone();
    let named = (repository, prebuilt.as_ref());
    let images = tag::compute(workspace, target, options.profile, named)?;
    let checkout = run::checkout(&workspace.root);
    let labels = run::labels(RUN, &checkout, &target.name, directory);
    let preview = Preview {
        engine,
        id: RUN,
        directory,
        shown: &shown,
        labels: &labels,
    };
    let wrapped = |invocation| preview.text(invocation);
    let planned = match options.cluster() {
        Choice::Local => planned_locally(workspace, target, &images, &preview)?,
        Choice::Kind => planned_on_kind(workspace, target, options, &images, &preview)?,
        Choice::Context(context) => {
            let place = context::Place {
                context: &context,
                repository: &named_in,
            };
            planned_on_context(workspace, target, options, &images, (&preview, place))?
        }
    };
    let mut text = format!("{}\n", target.name);
    tag_and_build(&mut text, workspace, &images, options, wrapped)?;
    let cluster = match options.keeps_cluster() {
        true => "beside 0 and 1, unless the kept one of this target is as it would be made now",
        false => "beside 0 and 1",
    };
    phase(&mut text, 2, "cluster", cluster);
    commands(&mut text, planned.cluster);
    phase(&mut text, 3, "load", planned.load);
    commands(&mut text, planned.loads);
    phase(&mut text, 4, "deploy", "those references, and no other");
    commands(&mut text, planned.ours);
    for document in planned.documents {
        let _ = writeln!(text, "      {document}");
    }
    let looked_at = "image ID of every container, /version of every process";
    phase(&mut text, 5, "attest", looked_at);
    phase(&mut text, 6, "test", "from outside");
    let program = Utf8Path::new("<test program>");
    let tests = test::invocation(RUN, directory, program, &options.filters);
    commands(&mut text, [wrapped(tests)]);
    let end = match options.keeps_cluster() {
        true => "the namespace of the run; `clean` removes the cluster",
        false => "always; whatever carries the run's label",
    };
    phase(&mut text, 7, "clean up", end);
    commands(&mut text, planned.removals);
    Ok(text)
}

fn tag_and_build(
    text: &mut String,
    workspace: &Workspace,
    images: &Images<Tagged>,
    options: &cli::E2e,
    wrapped: impl Fn(Invocation) -> String,
) -> Result<()> {
    phase(text, 0, "tag", "the sources are hashed once");
    for (_, image) in images.iter() {
        let (source, recipe) = (image.source().short(), image.recipe().short());
        let reference = image.reference();
        let _ = writeln!(
            text,
            "    {reference}  source {source}... recipe {recipe}..."
        );
    }
    phase(text, 1, "build", "exactly those bytes; the tests as well");
    for step in build::plan(workspace, images)? {
        if let Some(place) = &step.place {
            let _ = writeln!(text, "    taken from {place}, where another job built it");
        }
        let kept = step.origin == Origin::Kept && !options.no_cache;
        if let Some(invocation) = step.invocation {
            // On the command's own line it would be one word too many.
            if kept {
                text.push_str("    # kept from before, so not called:\n");
            }
            let _ = writeln!(text, "    $ {}", wrapped(invocation));
        }
    }
    Ok(())
}

/// The archive of each image.
fn archives(workspace: &Workspace, images: &Images<Tagged>) -> Vec<Utf8PathBuf> {
    let folder = workspace.state_directory().join("images");
    let names = images
        .iter()
        .map(|(_, image)| folder.join(image.reference().archive_name()));
    names.collect()
}

/// What differs between clusters; command lines.
struct Planned {
    cluster: Vec<String>,
    load: &'static str,
    loads: Vec<String>,
    ours: Vec<String>,
    /// What the last of them is given.
    documents: Vec<String>,
    removals: Vec<String>,
}

fn planned_locally(
    workspace: &Workspace,
    target: &Target,
    images: &Images<Tagged>,
    preview: &Preview<'_>,
) -> Result<Planned> {
    // They open nothing, and go with the folder.
    let secrets = Secrets::make(workspace, target, preview.directory)?;
    let manifests = Manifests::read(workspace, target.manifests())?;
    let references = References::planned(images, target.third_party());
    let theirs = References::planned_third_party(target.third_party());
    let first = preview.roll_out(&secrets, &manifests.only(&theirs), &theirs)?;
    let then = preview.roll_out(&secrets, &manifests.without(&theirs), &references)?;
    let directory = &secrets.directory;
    std::fs::remove_dir_all(directory).with_context(|| format!("cannot remove {directory}"))?;
    let wrapped = |invocation| preview.text(invocation);
    let mut cluster = vec![wrapped(preview.network())];
    cluster.extend(first.commands);
    let archives = archives(workspace, images);
    let loads = archives
        .iter()
        .map(|archive| wrapped(preview.engine.load_invocation(archive)));
    let resources = Resources {
        containers: [first.resources.containers, then.resources.containers].concat(),
        volumes: [first.resources.volumes, then.resources.volumes].concat(),
        networks: first.resources.networks,
    };
    let removals = run::removals(preview.engine, &resources);
    Ok(Planned {
        cluster,
        load: "what the engine does not list yet, and seen in its listing",
        loads: loads.collect(),
        ours: then.commands,
        documents: Vec::new(),
        removals: removals.into_iter().map(wrapped).collect(),
    })
}

fn planned_on_kind(
    workspace: &Workspace,
    target: &Target,
    options: &cli::E2e,
    images: &Images<Tagged>,
    preview: &Preview<'_>,
) -> Result<Planned> {
    let manifests = Manifests::read(workspace, target.manifests())?;
    let references = References::planned(images, target.third_party());
    let bundle = Bundle::given(options.bundle.as_deref())?;
    let kind = kind::preview::Preview {
        engine: preview.engine,
        id: preview.id,
        directory: preview.directory,
        labels: preview.labels,
        nodes_count: options.nodes,
        bundle: bundle.as_ref(),
    };
    let wrapped = |invocation| preview.text(invocation);
    let from = |archive: String, names: &[&str]| {
        let imports = kind.imports(names).into_iter().map(wrapped);
        let lines = imports.map(|import| format!("{import} < {archive}"));
        lines.collect::<Vec<_>>()
    };
    let theirs = target.third_party().iter();
    let theirs = theirs.flat_map(|name| {
        from(
            format!("<archive of {name}>"),
            &[&format!("<image of {name}>")],
        )
    });
    let names: Vec<String> = images
        .iter()
        .map(|(_, image)| image.reference().to_string())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let archives = archives(workspace, images);
    let ours = archives
        .iter()
        .flat_map(|archive| from(archive.to_string(), &names));
    Ok(Planned {
        cluster: kind
            .cluster()
            .into_iter()
            .map(wrapped)
            .chain(theirs)
            .collect(),
        load: "as soon as the node takes images, and seen complete in its own listing",
        loads: ours.collect(),
        ours: vec![wrapped(kind.apply())],
        documents: kubernetes::preview::documents(preview.id, &manifests, &references)?,
        removals: kind.removals().into_iter().map(wrapped).collect(),
    })
}

fn planned_on_context(
    workspace: &Workspace,
    target: &Target,
    options: &cli::E2e,
    images: &Images<Tagged>,
    (preview, place): (&Preview<'_>, context::Place<'_>),
) -> Result<Planned> {
    let manifests = Manifests::read(workspace, target.manifests())?;
    let repository = place.repository;
    let references = References::planned_pulled(images, target.third_party(), repository);
    let bundle = Bundle::given(options.bundle.as_deref())?;
    let context = context::preview::Preview {
        context: place.context,
        id: preview.id,
        directory: preview.directory,
        bundle: bundle.as_ref(),
    };
    let registry = Registry::new(repository)?;
    let folder = workspace.state_directory().join("images");
    let loads = images.iter().map(|(_, image)| {
        let reference = image.reference();
        let archive = folder.join(reference.archive_name());
        registry.pushing(&archive, &reference.to_string())
    });
    let theirs = target.third_party().iter().map(|name| {
        let archive = folder.join(format!("<archive of {name}>"));
        let name = format!("{repository}/third-party/{name}:<image ID>");
        registry.pushing_third_party(&archive, &name)
    });
    let cluster = context.cluster().into_iter().chain(theirs);
    let wrapped = |invocation| preview.text(invocation);
    Ok(Planned {
        cluster: cluster.map(wrapped).collect(),
        load: "what the registry does not have yet, and seen there",
        loads: loads.map(wrapped).collect(),
        ours: vec![wrapped(context.apply())],
        documents: kubernetes::preview::documents(preview.id, &manifests, &references)?,
        removals: context.removals().into_iter().map(wrapped).collect(),
    })
}

fn phase(text: &mut String, number: u8, name: &str, what: &str) {
    let _ = writeln!(text, "  {number} {name}: {what}");
}

fn commands(text: &mut String, lines: impl IntoIterator<Item = String>) {
    for line in lines {
        let _ = writeln!(text, "    $ {line}");
    }
}
