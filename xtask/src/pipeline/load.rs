//! Phase 3: the tag of phase 0 into the cluster, and seen again in its own listing. Gives no image
//! another name; what is there under the name already must be the image that was built.

use std::collections::BTreeMap;
use std::thread;

use anyhow::Result;

use super::build::Built;
use super::tag::ImageRef;
use super::{Images, Stage};
use crate::cluster::{Cluster, Listed};
use crate::engine::ARCHIVE_ANEW;
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
    let listing = || -> Result<BTreeMap<String, Listed>> {
        let references: Vec<String> = images.iter().map(|(_, built)| name(built)).collect();
        let references: Vec<&str> = references.iter().map(String::as_str).collect();
        cluster.images(&references)
    };
    let before = listing()?;
    let mut missing = Vec::new();
    for (_, built) in images.iter() {
        match before.get(&name(built)) {
            Some(listed) => check(built, listed, cluster)?,
            None => missing.push(built),
        }
    }
    // An engine hashes what it takes, on one processor for each.
    thread::scope(|scope| {
        let load = |built: &&Built| {
            let _activity = live::begin("loading", name(built));
            cluster.take(*built)
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
            already_there: before.contains_key(&name),
            listed_id: listed.id.clone(),
            built,
        })
    })
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
    let reference = built.reference();
    let labels: Vec<String> = listed
        .labels
        .iter()
        .map(|(label, value)| format!("\n    {label}={value}"))
        .collect();
    Err(Failure::new(
        Exit::Attest,
        format!(
            "{} has another image under the name {reference}\n  built: {wanted}, source {}, recipe {}\n  there: {}, labels{}",
            cluster.holder(),
            built.source(),
            built.recipe(),
            listed.id,
            if labels.is_empty() { " none".to_owned() } else { labels.concat() },
        ),
    )
    .hint(format!(
        "somebody gave another image this name, or the build is not reproducible: look at it, then remove {}",
        match cluster {
            Cluster::Local(local) => format!("it with `{} image rm {reference}`", local.engine().kind.program()),
            Cluster::Kind(_) => "the cluster with `cargo xtask clean`".to_owned(),
        }
    ))
    .into())
}
