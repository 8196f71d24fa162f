//! Images in a registry. The name that this checkout computes is asked for first. Where there is
//! none, the images that are there tell by which recipes they were built, and each recipe makes one
//! more name that an image of these very sources could have; so another recipe is told as such.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{Labels, Offer, Wanted, Where, other_sources, refused};
use crate::digest::Digest;
use crate::image::Observed;
use crate::pipeline::tag::{ImageRef, NameThere};
use crate::registry::Registry;
use crate::source::workspace::PackageName;

/// How many images are looked at for their recipe. Those of one builder have the same.
const LOOKED_AT_MAX: usize = 24;
/// How many of them are named where none is ours.
const NAMED_MAX: usize = 4;

pub(super) fn find(
    registry: &Registry,
    package: &PackageName,
    wanted: &Wanted<'_>,
) -> Result<Offer> {
    let repository = registry.repository().to_string();
    let named = wanted.names.reference(package, wanted.recipe.digest());
    let manifest = registry.manifest(&named)?;
    let (reference, manifest) = match manifest {
        Some(manifest) => (named, manifest),
        None => by_another_recipe(registry, package, wanted)?,
    };
    let name = reference.to_string();
    let observed = observe(registry, package, &name, &manifest)?;
    let from = Where::Registry(registry.clone());
    wanted.admit(package, &repository, &name, observed, from)
}

fn observe(
    registry: &Registry,
    package: &PackageName,
    name: &str,
    manifest: &[u8],
) -> Result<Observed> {
    let config = registry.config(package.as_str(), Digest::of(manifest))?;
    Observed::new(manifest, &config).map_err(|error| {
        refused(format!("{name} is no image that this tool made"))
            .hint("look at who pushed it; delete it there, and build it again")
            .caused_by(error)
            .into()
    })
}

/// The image of these sources under the name that another recipe gives it.
fn by_another_recipe(
    registry: &Registry,
    package: &PackageName,
    wanted: &Wanted<'_>,
) -> Result<(ImageRef, Vec<u8>)> {
    let prefix = format!("{}-", wanted.names.target());
    let tags: BTreeSet<String> = registry
        .tags(package.as_str())?
        .into_iter()
        .filter(|tag| tag.strip_prefix(&prefix).is_some_and(is_short_digest))
        .collect();
    let (mut recipes, mut there) = (BTreeSet::from([wanted.recipe.digest()]), Vec::new());
    for tag in tags.iter().take(LOOKED_AT_MAX) {
        let Some(labels) = look(registry, package, &wanted.names.there(package, tag))? else {
            continue;
        };
        there.push(format!("{} ({tag})", labels.source));
        if !recipes.insert(labels.recipe) {
            continue;
        }
        let candidate = wanted.names.reference(package, labels.recipe);
        if tags.contains(candidate.tag())
            && let Some(manifest) = registry.manifest(&candidate)?
        {
            return Ok((candidate, manifest));
        }
    }
    Err(none(registry, package, wanted, &there, tags.len()).into())
}

/// What an image that is there says of itself; nothing if it is none of this tool's.
fn look(registry: &Registry, package: &PackageName, name: &NameThere) -> Result<Option<Labels>> {
    let Some(manifest) = registry.manifest_there(name)? else {
        return Ok(None);
    };
    let config = registry.config(package.as_str(), Digest::of(&manifest))?;
    let observed = Observed::new(&manifest, &config);
    Ok(observed
        .ok()
        .and_then(|observed| Labels::read(&observed).ok()))
}

fn none(
    registry: &Registry,
    package: &PackageName,
    wanted: &Wanted<'_>,
    there: &[String],
    tags_count: usize,
) -> crate::exit::Failure {
    let (repository, target) = (registry.repository(), wanted.names.target());
    if there.is_empty() {
        let here = wanted.names.reference(package, wanted.recipe.digest());
        return refused(format!(
            "{repository} has no image of {package} for {target}\n  wanted: {here}"
        ))
        .hint(format!(
            "the other job pushes it: `cargo xtask build {target} --registry {repository} --push`; nothing is built here instead"
        ));
    }
    let mut sources = there[..there.len().min(NAMED_MAX)].join("\n         ");
    if tags_count > NAMED_MAX.min(there.len()) {
        let more = tags_count - NAMED_MAX.min(there.len());
        sources.push_str(&format!("\n         and {more} more images"));
    }
    let here = wanted.names.source(package);
    other_sources(package, &repository.to_string(), here, &sources)
}

fn is_short_digest(text: &str) -> bool {
    let is_digit = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    text.len() == 16 && text.bytes().all(is_digit)
}
