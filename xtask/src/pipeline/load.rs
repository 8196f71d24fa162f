//! Phase 3: the tag of phase 0 into the cluster, and seen again in its own listing.

use anyhow::Result;

use super::Images;
use super::build::Built;
use crate::cluster::Cluster;

/// An image that the cluster itself lists under its name, with the ID that was built.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub(in crate::pipeline) built: Built,
    pub(in crate::pipeline) already_there: bool,
}

impl Loaded {
    /// As it was built.
    #[must_use]
    pub const fn built(&self) -> &Built {
        &self.built
    }

    /// The listing held it before, with this name and this ID, so nothing was sent.
    #[must_use]
    pub const fn already_there(&self) -> bool {
        self.already_there
    }
}

/// Loads every image and looks it up again.
///
/// # Errors
/// When the listing afterwards does not show the name with the ID that was built.
pub fn load(_images: Images<Built>, _cluster: &Cluster) -> Result<Images<Loaded>> {
    todo!()
}
