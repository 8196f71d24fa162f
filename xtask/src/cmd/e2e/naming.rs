//! What of a command line decides where images are named and where they come from: both before a
//! reference is made.

use anyhow::Result;

use crate::cli;
use crate::cluster::Choice;
use crate::exit::{Exit, Failure};
use crate::pipeline::build::prebuilt::{OtherRecipe, Prebuilt};
use crate::pipeline::tag::Repository;

/// Where images are named, and where another job left them.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub(super) repository: Repository,
    pub(super) prebuilt: Option<Prebuilt>,
}

impl Naming {
    /// As the command line has it.
    ///
    /// # Errors
    /// [`Exit::Usage`] when `--prebuilt` names nothing, or another registry than `--registry`, or when
    /// the cluster pulls its images and no registry is named.
    pub(super) fn of(options: &cli::E2e) -> Result<Self> {
        let other_recipe = match options.accept_recipe {
            true => OtherRecipe::Accept,
            false => OtherRecipe::Refuse,
        };
        let prebuilt = options.prebuilt.as_deref();
        let prebuilt = prebuilt.map(|text| Prebuilt::named(text, other_recipe));
        let prebuilt = prebuilt.transpose()?;
        let there = prebuilt.as_ref().and_then(Prebuilt::repository);
        let repository = match (&options.registry, there) {
            (Some(named), Some(there)) if named != there => {
                let what = format!("--registry {named} is not where --prebuilt {there} has images");
                return Err(Failure::new(Exit::Usage, what)
                    .hint("an image keeps the name that it was built with: leave --registry out")
                    .into());
            }
            (Some(named), _) => named.clone(),
            (None, Some(there)) => there.clone(),
            (None, None) => Repository::localhost(),
        };
        if let cluster @ Choice::Context(_) = options.cluster()
            && !repository.is_in_a_registry()
        {
            let what =
                format!("--cluster {cluster} pulls its images from a registry, and none is named");
            return Err(Failure::new(Exit::Usage, what)
                .hint("`--registry <host[:port]>/<path>` names one that you may push to and its nodes may pull from")
                .into());
        }
        Ok(Self {
            repository,
            prebuilt,
        })
    }

    /// Whether a registry is asked for images, or given any.
    pub(super) fn asks_registry(&self, cluster: &Choice) -> bool {
        let prebuilt = self.prebuilt.as_ref();
        let takes = prebuilt.and_then(Prebuilt::repository).is_some();
        takes || matches!(cluster, Choice::Context(_))
    }
}
