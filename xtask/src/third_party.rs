//! Third-party images (`deploy/images.toml`): from an offline bundle that has them, else from a
//! registry that answers within a short deadline, else a rootfs made from Debian packages, cached by
//! the list of package versions. A name that is another image than it was is told.
//! A third-party image gets a name of its own; never one of our names, and never a second name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8PathBuf;
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::digest::Digest;
use crate::engine::{Engine, EngineKind, ImageFacts};
use crate::exit::{Exit, Failure};
use crate::host;
use crate::process;
use crate::report::{self, live};
use crate::source::workspace::{SecretValue, Target, Workspace};
use crate::threads::joined;

mod debian;
mod registry;
mod seen;

const FILE: &str = "deploy/images.toml";

/// A third-party image that the engine has. Made here alone, from what the engine listed.
#[derive(Clone, Debug, Serialize)]
pub struct ThirdPartyImage {
    name: String,
    reference: String,
    image_id: String,
    /// Where it came from: `bundle <archive> sha256:...`,
    /// `registry docker.io/library/postgres:15-bookworm`, or
    /// `debian bookworm, postgresql-15 15.18-0+deb12u1`, and whether from the cache.
    origin: String,
}

impl ThirdPartyImage {
    /// Its name in `deploy/images.toml`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the engine calls it.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Its ID in the engine, `sha256:...`.
    #[must_use]
    pub fn image_id(&self) -> &str {
        &self.image_id
    }
}

/// A table of `deploy/images.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "kebab-case")]
struct Pinned {
    /// What a registry calls it.
    image: String,
    /// What that is in the engine's listing, `sha256:...`; nothing: whatever the registry gives. An
    /// image that is made from packages has a name of its own, and this says nothing of it.
    #[serde(default)]
    image_id: Option<Digest>,
    /// Where no registry answers.
    #[serde(default)]
    debian: Option<Recipe>,
    #[serde(default)]
    secrets: BTreeMap<String, BTreeMap<String, SecretValue>>,
    /// How it is made as new for another run; without it, it is made anew for each.
    #[serde(default)]
    renew: Option<Renewal>,
}

/// How what third parties hold is made as new for another run, where it stays between runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Renewal {
    /// Is run in its container.
    pub(crate) command: Vec<String>,
    /// The run's password of this name is the first line of the command's standard input.
    #[serde(default)]
    pub(crate) password: Option<String>,
    /// The rest of it.
    #[serde(default)]
    pub(crate) input: String,
}

/// A root file system from Debian packages.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(rename_all = "kebab-case")]
struct Recipe {
    suite: String,
    packages: Vec<String>,
    user: User,
    /// What the packages make anew on each machine (keys, a first database): no part of an image
    /// that is the same wherever it is made.
    #[serde(default)]
    leave_out: Vec<String>,
}

/// A user that the root file system must know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

/// The names in `deploy/images.toml`.
///
/// # Errors
/// When the file cannot be read: names it.
pub fn names(workspace: &Workspace) -> Result<BTreeSet<String>> {
    Ok(read(workspace)?.into_keys().collect())
}

/// The digest of `deploy/images.toml`, if there is one.
///
/// # Errors
/// When the file cannot be read: names it.
pub fn digest(workspace: &Workspace) -> Result<Option<Digest>> {
    Ok(text(workspace)?.map(|text| Digest::of(text.as_bytes())))
}

/// The Secrets that third-party images want, from `deploy/images.toml`.
///
/// # Errors
/// When the file cannot be read: names it.
pub fn secrets(
    workspace: &Workspace,
    name: &str,
) -> Result<BTreeMap<String, BTreeMap<String, SecretValue>>> {
    pinned(workspace, name).map(|pinned| pinned.secrets)
}

/// How a third party is made as new, if its table says so.
///
/// # Errors
/// When the file cannot be read: names it.
pub(crate) fn renewal(workspace: &Workspace, name: &str) -> Result<Option<Renewal>> {
    pinned(workspace, name).map(|pinned| pinned.renew)
}

/// Makes sure that the engine has this image.
///
/// # Errors
/// When neither the bundle nor a registry nor Debian's packages gave it; when its name is another
/// image than the bundle or `image-id` says.
pub fn provide(
    workspace: &Workspace,
    engine: &Engine,
    bundle: Option<&Bundle>,
    name: &str,
) -> Result<ThirdPartyImage> {
    let activity = live::begin("providing", format!("image {name}"));
    let pinned = pinned(workspace, name)?;
    if let Some(image) = from_bundle(engine, bundle, name, &pinned)? {
        return Ok(image);
    }
    let recorded = pinned
        .debian
        .as_ref()
        .and_then(|recipe| debian::recorded(engine, name, recipe));
    // One question for both: each costs an engine's start.
    let wanted = [
        Some(pinned.image.as_str()),
        recorded.as_ref().map(debian::Record::reference),
    ];
    let found = engine.images(wanted.into_iter().flatten())?;
    if let Some(facts) = found.get(&pinned.image) {
        return accepted(engine, name, &pinned, facts, "already there");
    }
    let asked = registry::pull(engine, name, &pinned.image, &activity);
    let refusal = match asked? {
        registry::Answer::Pulled(facts) => {
            return accepted(engine, name, &pinned, &facts, "pulled");
        }
        registry::Answer::None(words) => words,
    };
    let Some(recipe) = &pinned.debian else {
        return Err(Failure::new(
            Exit::Host,
            format!("no registry gives {}: {refusal}", pinned.image),
        )
        .hint(format!(
            "put the image into {} by hand, or give [{name}.debian] in {FILE}",
            engine.kind.program()
        ))
        .into());
    };
    if let Some(record) = recorded
        && found
            .get(record.reference())
            .is_some_and(|facts| record.is(facts))
        && debian::is_current(engine, name, recipe, &record)
    {
        return Ok(record.image(name, "already there"));
    }
    debian::provide(engine, name, recipe, &activity).with_context(|| {
        format!(
            "no registry gives {} ({refusal}), and making it from Debian packages failed",
            pinned.image
        )
    })
}

/// The image as an archive, for what is not the engine itself: the one that it was made of, else one
/// that the engine writes, once for each image ID.
///
/// # Errors
/// When the engine does not write it.
pub(crate) fn archive(engine: &Engine, image: &ThirdPartyImage) -> Result<Utf8PathBuf> {
    const SAVE_DEADLINE: Duration = Duration::from_secs(300);
    let name = image.name();
    let image_id: Digest = image.image_id().parse()?;
    let folder = host::cache_directory()?.join("third-party");
    let archive = folder.join(format!("{name}-{}.tar", image_id.short()));
    let _lock = host::lock(&format!("third-party-{name}"))?;
    if archive.is_file() {
        return Ok(archive);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    let temporary = tempfile::tempdir_in(&folder).context("cannot make a temporary folder")?;
    let saved = Utf8PathBuf::try_from(temporary.path().join("image.tar"))?;
    let save = engine.invocation().arg("save");
    let save = match engine.kind {
        EngineKind::Podman => save.args(["--quiet", "--format=docker-archive"]),
        EngineKind::Docker => save,
    };
    let save = save.args(["--output", saved.as_str(), image.reference()]);
    process::capture(&save, SAVE_DEADLINE)?;
    fs::rename(&saved, &archive).with_context(|| format!("cannot make {archive}"))?;
    Ok(archive)
}

/// Makes sure that the engine has every image of a target, side by side.
///
/// # Errors
/// As [`provide`].
pub fn provide_all(
    workspace: &Workspace,
    engine: &Engine,
    bundle: Option<&Bundle>,
    target: &Target,
) -> Result<Vec<ThirdPartyImage>> {
    thread::scope(|scope| {
        let names = target.third_party().iter();
        let providing: Vec<_> = names
            .map(|name| scope.spawn(move || provide(workspace, engine, bundle, name)))
            .collect();
        providing.into_iter().map(joined).collect()
    })
}

/// From the bundle, if it has this image under the pinned name: then its ID decides, whatever the
/// engine has under that name.
fn from_bundle(
    engine: &Engine,
    bundle: Option<&Bundle>,
    name: &str,
    pinned: &Pinned,
) -> Result<Option<ThirdPartyImage>> {
    let Some((bundle, reference)) = bundle.and_then(|one| Some((one, one.reference(name)?))) else {
        return Ok(None);
    };
    if reference != pinned.image {
        report::note(&format!(
            "the bundle {} has {reference} as {name}, and {FILE} pins {}: it is not taken",
            bundle.folder(),
            pinned.image
        ));
        return Ok(None);
    }
    let place = format!("the bundle {}", bundle.folder());
    if let Some(image_id) = bundle.image_id(name) {
        check_id(name, pinned, image_id, &place)?;
    }
    let Some(image) = bundle.image(name, engine)? else {
        return Ok(None);
    };
    seen::note_change(engine, reference, image.image_id())?;
    Ok(Some(ThirdPartyImage {
        name: name.to_owned(),
        reference: image.reference().to_owned(),
        image_id: image.image_id().to_owned(),
        origin: image.origin(),
    }))
}

/// What the engine has under the pinned name, unless another image is wanted.
fn accepted(
    engine: &Engine,
    name: &str,
    pinned: &Pinned,
    facts: &ImageFacts,
    how: &str,
) -> Result<ThirdPartyImage> {
    check_id(name, pinned, &facts.id, engine.kind.program())?;
    seen::note_change(engine, &pinned.image, &facts.id)?;
    Ok(registry::described(name, &pinned.image, facts, how))
}

fn check_id(name: &str, pinned: &Pinned, found: &str, place: &str) -> Result<()> {
    let Some(wanted) = pinned.image_id.filter(|wanted| wanted.oci() != found) else {
        return Ok(());
    };
    let what = format!(
        "{} is {found} in {place}, and {FILE} wants {} ([{name}] image-id)",
        pinned.image,
        wanted.oci()
    );
    Err(Failure::new(Exit::Host, what)
        .hint("remove the wrong image there, or give the ID of the right one")
        .into())
}

fn pinned(workspace: &Workspace, name: &str) -> Result<Pinned> {
    read(workspace)?
        .remove(name)
        .with_context(|| format!("{FILE} has no [{name}]"))
}

fn read(workspace: &Workspace) -> Result<BTreeMap<String, Pinned>> {
    let Some(text) = text(workspace)? else {
        return Ok(BTreeMap::new());
    };
    let images: BTreeMap<String, Pinned> = toml::from_str(&text).map_err(|error| {
        Failure::new(
            Exit::Manifest,
            format!("{FILE}: {}", error.to_string().trim_end()),
        )
    })?;
    for (name, pinned) in &images {
        check(name, pinned)?;
        check_not_ours(workspace, name, pinned)?;
    }
    Ok(images)
}

fn text(workspace: &Workspace) -> Result<Option<String>> {
    match fs::read_to_string(workspace.root.join(FILE)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {FILE}")),
    }
}

/// Under a pinned tag one of our services would be an image that others share and that lives on.
fn check_not_ours(workspace: &Workspace, name: &str, pinned: &Pinned) -> Result<()> {
    let path = pinned.image.rsplit('/').next().unwrap_or_default();
    let last = path.split([':', '@']).next().unwrap_or_default();
    let ours = |word: &&str| {
        let package = workspace.package(word);
        package.is_ok_and(|package| package.e2e.is_some())
    };
    let Some(service) = [name, last].into_iter().find(ours) else {
        return Ok(());
    };
    Err(Failure::new(
        Exit::Manifest,
        format!("{FILE}: [{name}] image: `{}`: {service} is a service of this workspace", pinned.image),
    )
    .hint("name it in `needs` of [package.metadata.e2e]: its image is built from the sources of each run")
    .into())
}

/// A version must be named: what `latest` is changes behind one's back.
fn check(name: &str, pinned: &Pinned) -> Result<()> {
    let image = pinned.image.as_str();
    let last = image.rsplit('/').next().unwrap_or_default();
    let versioned = image.contains("@sha256:")
        || last
            .split_once(':')
            .is_some_and(|(_, tag)| tag != "latest" && !tag.is_empty());
    let registry = image.split('/').next().unwrap_or_default();
    if !versioned {
        return Err(Failure::new(
            Exit::Manifest,
            format!("{FILE}: [{name}] image: `{image}` names no version"),
        )
        .hint("pin it: a tag that is not `latest`, or a digest")
        .into());
    }
    if !image.contains('/') || !registry.contains(['.', ':']) {
        return Err(Failure::new(
            Exit::Manifest,
            format!("{FILE}: [{name}] image: `{image}` names no registry"),
        )
        .hint("write the full name, `docker.io/library/postgres:15-bookworm`")
        .into());
    }
    let renewal = pinned.renew.as_ref();
    if renewal.is_some_and(|renewal| renewal.command.is_empty()) {
        let what = format!("{FILE}: [{name}.renew] command: it names no program");
        return Err(Failure::new(Exit::Manifest, what)
            .hint("write the program and its arguments, each a word of the list")
            .into());
    }
    Ok(())
}
