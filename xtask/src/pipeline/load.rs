//! Phase 3: the tag of phase 0 into the cluster, and seen again in its own listing; where a cluster
//! pulls its images, into its registry, and seen again there. Gives no image another name; what is
//! there under the name already must be the image that was built.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::build::{Built, Origin};
use super::push::push;
use super::tag::{ImageRef, Repository};
use super::{Images, Stage};
use crate::cluster::{Cluster, Listed};
use crate::digest::Digest;
use crate::engine::ARCHIVE_ANEW;
use crate::exit::{Exit, Failure};
use crate::report::live;

/// An image that the cluster itself lists under its name, with the ID that was built, or that its
/// registry has under that name, with the manifest that was built.
#[derive(Clone, Debug)]
pub struct Loaded {
    built: Built,
    there: There,
    already_there: bool,
}

/// Where an image was seen, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum There {
    /// In the cluster's own listing, by this ID, `sha256:...`.
    Listed(String),
    /// In the registry that the cluster pulls from, by the digest of its manifest.
    Pushed(Digest),
}

impl Loaded {
    /// As it was built.
    #[must_use]
    pub const fn built(&self) -> &Built {
        &self.built
    }

    /// Where it was seen.
    #[must_use]
    pub const fn there(&self) -> &There {
        &self.there
    }

    /// What it is deployed as: by its one name, and by digest where it is pulled.
    #[must_use]
    pub fn deployed_as(&self) -> String {
        let reference = self.built.reference();
        match &self.there {
            There::Listed(_) => reference.to_string(),
            There::Pushed(manifest) => format!("{reference}@{}", manifest.oci()),
        }
    }

    /// It was there before, with this name and this content, so nothing was sent.
    #[must_use]
    pub const fn already_there(&self) -> bool {
        self.already_there
    }
}

impl Stage for Loaded {
    fn reference(&self) -> &ImageRef {
        self.built.reference()
    }
}

/// Loads every image, or pushes it where the cluster pulls, and looks it up again.
///
/// # Errors
/// When the listing afterwards does not show the name with the ID that was built, or showed the
/// name with another image before; see [`push`] for the errors of a registry.
pub fn load(images: Images<Built>, cluster: &Cluster) -> Result<Images<Loaded>> {
    match cluster.registry() {
        Some(repository) => into_registry(images, repository),
        None => into_cluster(images, cluster),
    }
}

fn into_registry(images: Images<Built>, repository: &Repository) -> Result<Images<Loaded>> {
    push(images, repository)?.advance(|pushed| {
        Ok(Loaded {
            there: There::Pushed(pushed.manifest()),
            already_there: pushed.already_there(),
            built: pushed.built().clone(),
        })
    })
}

fn into_cluster(images: Images<Built>, cluster: &Cluster) -> Result<Images<Loaded>> {
    let references: Vec<String> = images.iter().map(|(_, built)| name(built)).collect();
    let references: Vec<&str> = references.iter().map(String::as_str).collect();
    let put = |images: &[&Built]| put(images, cluster, &references);
    // A node is asked by the command that gives it an image, and what was compiled just now is hardly
    // there. Who has an image of that name looks first: what it is may be for people to look at.
    let goes_at_once = |built: &&Built| match cluster {
        Cluster::Kind(kind) => built.origin() == Origin::Built && !kind.had(&name(built)),
        Cluster::Local(_) | Cluster::Context(_) => false,
    };
    let all = images.iter().map(|(_, built)| built);
    let (new, known): (Vec<&Built>, Vec<&Built>) = all.partition(goes_at_once);
    let there = match new.is_empty() {
        true => cluster.whole_images(&references)?,
        false => put(&new)?,
    };
    for built in &known {
        if let Some(listed) = there.get(&name(built)) {
            check(built, listed, cluster)?;
        }
    }
    // One whose import was cut off is put in again.
    let (known, missing): (Vec<&Built>, Vec<&Built>) = known
        .into_iter()
        .partition(|built| there.contains_key(&name(built)));
    let known: BTreeSet<String> = known.into_iter().map(name).collect();
    let mut after = match missing.is_empty() {
        true => there,
        false => put(&missing)?,
    };
    if after.len() < references.len() {
        // It tells why one is not.
        after = cluster.images(&references)?;
    }
    images.advance(|built| {
        let name = name(&built);
        let listed = after.get(&name).ok_or_else(|| {
            Failure::new(
                Exit::Internal,
                format!(
                    "{} was loaded, and {} does not list {name}",
                    built.archive(),
                    cluster.holder()
                ),
            )
            .hint(ARCHIVE_ANEW)
        })?;
        check(&built, listed, cluster)?;
        Ok(Loaded {
            already_there: known.contains(&name),
            there: There::Listed(listed.id.clone()),
            built,
        })
    })
}

/// Puts images into the cluster; gives what it lists of `references` then. None of them may have taken
/// the place of another.
fn put(
    images: &[&Built],
    cluster: &Cluster,
    references: &[&str],
) -> Result<BTreeMap<String, Listed>> {
    let names: Vec<String> = images.iter().map(|built| name(built)).collect();
    let _activity = live::begin("loading", names.join(", "));
    let taken = cluster.take(images, references)?;
    for built in images {
        let before = taken.before.get(&name(built));
        let mut before = before.into_iter().flatten();
        if let Some(other) = before.find(|manifest| **manifest != built.manifest().oci()) {
            let there = format!("manifest {other} until now");
            return Err(another(built, &there, "", cluster));
        }
    }
    Ok(taken.after)
}

fn name(built: &Built) -> String {
    built.reference().to_string()
}

/// Equal names with unequal images are fatal: one of them is not what its name says.
fn check(built: &Built, listed: &Listed, cluster: &Cluster) -> Result<()> {
    let wanted = built.image_id().oci();
    if listed.id == wanted {
        return Ok(());
    }
    let labels = match cluster {
        Cluster::Local(_) => told_labels(listed),
        // Its listing has none.
        Cluster::Kind(_) | Cluster::Context(_) => String::new(),
    };
    Err(another(built, &listed.id, &labels, cluster))
}

/// Another image has its name.
fn another(built: &Built, there: &str, labels: &str, cluster: &Cluster) -> anyhow::Error {
    let reference = built.reference();
    Failure::new(
        Exit::Attest,
        format!(
            "{} has another image under the name {reference}\n  built: {}, source {}, recipe {}\n  there: {there}{labels}",
            cluster.holder(),
            built.image_id().oci(),
            built.source(),
            built.recipe(),
        ),
    )
    .hint(format!(
        "somebody gave another image this name, or the build is not reproducible: look at it, then remove {}",
        match cluster {
            Cluster::Local(local) => format!("it with `{} image rm {reference}`", local.engine().kind.program()),
            Cluster::Kind(_) => "the cluster with `cargo xtask clean`".to_owned(),
            Cluster::Context(_) => "it in the registry".to_owned(),
        }
    ))
    .into()
}

fn told_labels(listed: &Listed) -> String {
    let labels = listed.labels.iter();
    let labels = labels.map(|(label, value)| format!("\n    {label}={value}"));
    match listed.labels.is_empty() {
        true => ", no labels".to_owned(),
        false => format!(", labels{}", labels.collect::<String>()),
    }
}
