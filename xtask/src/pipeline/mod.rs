//! The arrow: each phase consumes what the phase before produced.
//!
//! ```text
//! 0 tag      Workspace, Target                 -> Images<Tagged>      sources hashed once, references made
//! 1 build    Images<Tagged>                    -> Images<Built>, TestProgram
//! 2 cluster  Run, Engine                       -> Cluster             in parallel with 0 and 1
//! 3 load     Images<Built>, &Cluster           -> Images<Loaded>      seen in the cluster's own listing
//! 4 deploy   Images<Loaded>, &mut Cluster      -> Deployment          rolled out and reachable
//! 5 attest   Deployment, &Cluster              -> Attested            what runs is what was built
//! 6 test     &Attested, &TestProgram           -> TestReport
//! 7 clean    everything                        -> nothing left
//! ```
//!
//! Fields are private and each value is made only by the code that observed the fact, so a wrong
//! order, a subset of the images, or a reference from a string does not compile.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::Platform;
use crate::source::snapshot::Snapshot;
use crate::source::workspace::{PackageName, TargetName};

use self::build::recipe::Recipe;

pub mod attest;
pub mod build;
pub mod clean;
pub mod deploy;
pub mod load;
#[cfg(doctest)]
mod refused;
pub mod tag;
pub mod test;

/// What phase 0 froze; every later phase carries it along.
#[derive(Debug)]
pub struct Frozen {
    pub(in crate::pipeline) target: TargetName,
    pub(in crate::pipeline) snapshot: Snapshot,
    pub(in crate::pipeline) recipe: Recipe,
    pub(in crate::pipeline) platform: Platform,
}

impl Frozen {
    /// The target of the run.
    #[must_use]
    pub const fn target(&self) -> &TargetName {
        &self.target
    }

    /// The sources.
    #[must_use]
    pub const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How they are built.
    #[must_use]
    pub const fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Where they run.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }
}

/// All images of a run in one stage. There is no way to make one with fewer.
#[derive(Debug)]
pub struct Images<Stage> {
    frozen: Arc<Frozen>,
    by_package: BTreeMap<PackageName, Stage>,
}

impl<Stage> Images<Stage> {
    /// What phase 0 froze.
    #[must_use]
    pub fn frozen(&self) -> &Arc<Frozen> {
        &self.frozen
    }

    /// Every image, by package.
    pub fn iter(&self) -> impl Iterator<Item = (&PackageName, &Stage)> {
        self.by_package.iter()
    }

    /// The image of one package, if it belongs to the run.
    #[must_use]
    pub fn get(&self, package: &PackageName) -> Option<&Stage> {
        self.by_package.get(package)
    }

    /// Takes every image to the next stage; one failing fails all.
    pub(in crate::pipeline) fn advance<Next>(
        self,
        mut step: impl FnMut(&PackageName, Stage) -> anyhow::Result<Next>,
    ) -> anyhow::Result<Images<Next>> {
        let by_package = self
            .by_package
            .into_iter()
            .map(|(package, image)| {
                let next = step(&package, image)?;
                Ok((package, next))
            })
            .collect::<anyhow::Result<_>>()?;
        Ok(Images {
            frozen: self.frozen,
            by_package,
        })
    }
}
