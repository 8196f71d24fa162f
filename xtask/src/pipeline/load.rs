//! Phase 3: the tag of phase 0 into the cluster, and seen again in its own listing. Gives no image
//! another name; what is there under the name already must be the image that was built.

use std::collections::BTreeMap;
use std::thread;

use anyhow::Result;

use super::build::Built;
use super::tag::ImageRef;
use super::{Images, Stage};
use crate::cluster::Cluster;
use crate::engine::{ARCHIVE_ANEW, Engine, ImageFacts};
use crate::exit::{Exit, Failure};
use crate::report::live;
use crate::threads::all;

/// An image that the cluster itself lists under its name, with the ID that was built.
#[derive(Clone, Debug)]
pub struct Loaded {
    built: Built,
    listed_id: String,
    already_there: bool,
}

impl Loaded {
    /// As it was built.
    #[must_use]
    pub const fn built(&self) -> &Built {
        &self.built
    }

    /// Its ID as the cluster's own listing tells it, `sha256:...`.
    #[must_use]
    pub fn listed_id(&self) -> &str {
        &self.listed_id
    }

    /// The listing held it before, with this name and this ID, so nothing was sent.
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

/// Loads every image and looks it up again.
///
/// # Errors
/// When the listing afterwards does not show the name with the ID that was built, or showed the
/// name with another image before.
pub fn load(images: Images<Built>, cluster: &Cluster) -> Result<Images<Loaded>> {
    let Cluster::Local(local) = cluster;
    let engine = local.engine();
    let listing = || -> Result<BTreeMap<String, ImageFacts>> {
        let references: Vec<String> = images.iter().map(|(_, built)| name(built)).collect();
        engine.images(references.iter().map(String::as_str))
    };
    let before = listing()?;
    let mut missing = Vec::new();
    for (_, built) in images.iter() {
        match before.get(&name(built)) {
            Some(facts) => check(built, facts, engine)?,
            None => missing.push(built),
        }
    }
    // An engine hashes what it takes, on one processor for each.
    thread::scope(|scope| {
        let load = |built: &&Built| {
            let _activity = live::begin("loading", name(built));
            engine.load(*built)
        };
        let loading = missing.iter();
        let loading = loading.map(|built| scope.spawn(move || load(built)));
        all(loading.collect())
    })?;
    let after = if missing.is_empty() {
        before.clone()
    } else {
        listing()?
    };
    images.advance(|built| {
        let name = name(&built);
        let facts = after.get(&name).ok_or_else(|| {
            Failure::new(
                Exit::Internal,
                format!(
                    "{} was loaded, and the engine does not list {name}",
                    built.archive()
                ),
            )
            .hint(ARCHIVE_ANEW)
        })?;
        check(&built, facts, engine)?;
        Ok(Loaded {
            already_there: before.contains_key(&name),
            listed_id: facts.id.clone(),
            built,
        })
    })
}

fn name(built: &Built) -> String {
    built.reference().to_string()
}

/// Equal names with unequal images are fatal: one of them is not what its name says.
fn check(built: &Built, facts: &ImageFacts, engine: &Engine) -> Result<()> {
    let wanted = built.image_id().oci();
    if facts.id == wanted {
        return Ok(());
    }
    let reference = built.reference();
    let labels: Vec<String> = facts
        .labels
        .iter()
        .map(|(label, value)| format!("\n    {label}={value}"))
        .collect();
    Err(Failure::new(
        Exit::Attest,
        format!(
            "the engine has another image under the name {reference}\n  built: {wanted}, source {}, recipe {}\n  there: {}, labels{}",
            built.source(),
            built.recipe(),
            facts.id,
            if labels.is_empty() { " none".to_owned() } else { labels.concat() },
        ),
    )
    .hint(format!(
        "somebody gave another image this name, or the build is not reproducible: look at it, then remove it with `{} image rm {reference}`",
        engine.kind.program()
    ))
    .into())
}
