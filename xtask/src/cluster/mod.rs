//! Where a run is deployed. An enum, not a trait: the clusters are few and known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::thread;

use anyhow::Result;
use camino::Utf8Path;

use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::manifest::Manifests;
use crate::pipeline::build::Built;
use crate::pipeline::tag::Repository;
use crate::run::Run;
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::ThirdPartyImage;
use crate::threads::all;

pub mod context;
pub mod kind;
pub(crate) mod kubernetes;
pub mod local;
pub(crate) mod readiness;

/// Which cluster is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Choice {
    /// Containers of the engine, no Kubernetes: the inner loop.
    #[default]
    Local,
    /// A kind cluster of the run: Kubernetes in a container.
    Kind,
    /// The cluster that this context of the user's kubeconfig leads to.
    Context(String),
}

/// How a context is written, with its name after it.
const CONTEXT: &str = "context:";

/// A text that names no cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoChoice(String);

/// As it stands on a command line.
impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => formatter.write_str("local"),
            Self::Kind => formatter.write_str("kind"),
            Self::Context(name) => write!(formatter, "{CONTEXT}{name}"),
        }
    }
}

impl FromStr for Choice {
    type Err = NoChoice;

    fn from_str(text: &str) -> Result<Self, NoChoice> {
        match (text, text.strip_prefix(CONTEXT)) {
            ("local", _) => Ok(Self::Local),
            ("kind", _) => Ok(Self::Kind),
            ("context" | "context:", _) => Err(NoChoice(
                "it names no context: `context:<name>`; `kubectl config get-contexts` lists those there are"
                    .to_owned(),
            )),
            (_, Some(name)) => Ok(Self::Context(name.to_owned())),
            (_, None) => Err(NoChoice(
                "there are `local`, `kind`, and `context:<name>` for a context of your kubeconfig"
                    .to_owned(),
            )),
        }
    }
}

impl TryFrom<String> for Choice {
    type Error = NoChoice;

    fn try_from(text: String) -> Result<Self, NoChoice> {
        let named = |NoChoice(why)| NoChoice(format!("`{text}` is no cluster: {why}"));
        text.parse().map_err(named)
    }
}

/// A cluster of a run.
#[derive(Debug)]
pub enum Cluster {
    /// Containers on podman or docker, no Kubernetes.
    Local(Box<local::Local>),
    /// Kubernetes in a container.
    Kind(Box<kind::Kind>),
    /// A Kubernetes that was there before.
    Context(Box<context::Context>),
}

/// An image as a cluster lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `sha256:...` of its config.
    pub id: String,
    /// Labels of its config, where the listing tells them.
    pub labels: BTreeMap<String, String>,
}

impl Cluster {
    /// Makes the local cluster of a run, and sees to it that the engine has the third-party images.
    /// Needs nothing of phases 0 and 1, so it goes beside them.
    ///
    /// # Errors
    /// When the engine makes no network, or an image cannot be had.
    pub fn start_local(
        workspace: &Workspace,
        target: &Target,
        run: &Run,
        engine: &Engine,
        bundle: Option<&Bundle>,
    ) -> Result<Self> {
        local::Local::start(workspace, target, run, engine, bundle)
            .map(Box::new)
            .map(Self::Local)
    }

    /// Makes the node of a run's kind cluster; Kubernetes comes up in it while others go on, see
    /// [`Self::settle`]. Goes beside phases 0 and 1 as well.
    ///
    /// # Errors
    /// When kind makes no cluster, or an image cannot be had.
    pub(crate) fn start_kind(wanted: &kind::Wanted<'_>) -> Result<Self> {
        kind::Kind::start(wanted).map(Box::new).map(Self::Kind)
    }

    /// Makes the namespace of a run on the cluster of a context. Goes beside phases 0 and 1 as well.
    ///
    /// # Errors
    /// When the context is not there, or its cluster gives no namespace.
    pub fn start_context(
        workspace: &Workspace,
        target: &Target,
        run: &Arc<Run>,
        engine: &Engine,
        place: context::Place<'_>,
        bundle: Option<&Arc<Bundle>>,
    ) -> Result<Self> {
        let context = context::Context::start(workspace, target, run, engine, place, bundle)?;
        Ok(Self::Context(Box::new(context)))
    }

    /// Starts what runs third-party images alone: it needs nothing of phases 0 and 1 either. Phase
    /// 4 waits for it, and so must [`Self::settle`] before anything is removed.
    ///
    /// # Errors
    /// When a manifest cannot be honoured.
    pub fn start_third_party(
        &mut self,
        run: &Arc<Run>,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        match self {
            Self::Local(local) => local.start_third_party(run, secrets, manifests),
            Self::Kind(kind) => kind.start_third_party(run, secrets, manifests),
            Self::Context(context) => context.start_third_party(secrets, manifests),
        }
    }

    /// Its run has failed: what goes on beside other phases need not go on to its end.
    pub fn give_up(&self) {
        match self {
            // Seconds, and an engine that is cut off leaves parts of containers.
            Self::Local(_) => {}
            Self::Kind(kind) => kind.give_up(),
            // An upload or two, and a signal ends them.
            Self::Context(_) => {}
        }
    }

    /// Waits for what was begun beside other phases.
    ///
    /// # Errors
    /// When it failed.
    pub fn settle(&mut self) -> Result<()> {
        match self {
            Self::Local(local) => local.settle(),
            Self::Kind(kind) => kind.settle(),
            Self::Context(context) => context.settle(),
        }
    }

    /// What there is of it as soon as it was started.
    #[must_use]
    pub fn begun(&self) -> String {
        match self {
            Self::Local(_) => format!("cluster {}", self.name()),
            Self::Kind(kind) if kind.is_used_again() => {
                format!("nothing: node {} is used again", kind.node())
            }
            Self::Kind(_) => "a node of kind; Kubernetes comes up in it".to_owned(),
            Self::Context(context) => {
                format!("namespace {} on {context}", context.namespace().name())
            }
        }
    }

    /// What is waited for before anything can be deployed, if anything is.
    #[must_use]
    pub fn comes_up(&self) -> bool {
        matches!(self, Self::Kind(kind) if !kind.is_used_again())
    }

    /// The run ends: what it has in a cluster that stays goes.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn leave(&self) -> Result<()> {
        match self {
            // What a run has on another's cluster is removed by what its journal says, so that it is
            // also where it came to no cluster.
            Self::Local(_) | Self::Context(_) => Ok(()),
            Self::Kind(kind) => kind.leave(),
        }
    }

    /// What the summary line calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Local(_) => "local (not Kubernetes)",
            Self::Kind(_) => "kind",
            Self::Context(context) => context.name(),
        }
    }

    /// Who holds its images: what a hint tells people to look at.
    #[must_use]
    pub fn holder(&self) -> String {
        match self {
            Self::Local(local) => format!("the engine ({})", local.engine().kind.program()),
            Self::Kind(kind) => format!("node {}", kind.node()),
            Self::Context(context) => format!("the registry {}", context.repository()),
        }
    }

    /// Those of these images that it lists itself.
    ///
    /// # Errors
    /// When it does not answer, or an image that it lists is not complete.
    pub fn images(&self, references: &[&str]) -> Result<BTreeMap<String, Listed>> {
        match self {
            Self::Local(local) => {
                let found = local.engine().images(references.iter().copied())?;
                let listed = found.into_iter().map(|(name, facts)| {
                    let listed = Listed {
                        id: facts.id,
                        labels: facts.labels,
                    };
                    (name, listed)
                });
                Ok(listed.collect())
            }
            Self::Kind(kind) => Ok(by_name(kind.images(references)?)),
            // What its nodes have is no matter of anybody outside: see [`Self::registry`].
            Self::Context(_) => Ok(BTreeMap::new()),
        }
    }

    /// As [`Self::images`], and one that is not complete is not there: it can be put in again.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn whole_images(&self, references: &[&str]) -> Result<BTreeMap<String, Listed>> {
        match self {
            Self::Kind(kind) => Ok(by_name(kind.whole_images(references)?)),
            Self::Local(_) | Self::Context(_) => self.images(references),
        }
    }

    /// Where it pulls images from, if it is one that pulls them.
    #[must_use]
    pub const fn registry(&self) -> Option<&Repository> {
        match self {
            Self::Local(_) | Self::Kind(_) => None,
            Self::Context(context) => Some(context.repository()),
        }
    }

    /// Puts images that were built into it; gives what [`Self::whole_images`] gives after it: that
    /// whoever takes them says so proves nothing.
    ///
    /// # Errors
    /// With the words of whoever takes them.
    pub(crate) fn take(&self, images: &[&Built], references: &[&str]) -> Result<Taken> {
        match self {
            Self::Local(local) => {
                // An engine hashes what it takes, on one processor for each.
                thread::scope(|scope| {
                    let load = |image| scope.spawn(move || local.engine().load(image));
                    all(images.iter().copied().map(load).collect())
                })?;
                Ok(Taken {
                    before: BTreeMap::new(),
                    after: self.images(references)?,
                })
            }
            Self::Kind(kind) => {
                let archives: Vec<&Utf8Path> = images.iter().map(|built| built.archive()).collect();
                let around = kind.take(&archives, references)?;
                Ok(Taken {
                    before: around.before,
                    after: by_name(around.after),
                })
            }
            Self::Context(context) => {
                anyhow::bail!("{context} pulls its images, and takes no archive")
            }
        }
    }

    /// In one line what the last roll-out made anew and what it left, where it was not the first.
    #[must_use]
    pub fn replaced(&self) -> Option<String> {
        match self {
            Self::Local(local) => local.replaced(),
            Self::Kind(_) | Self::Context(_) => None,
        }
    }

    /// The third-party images of the run.
    #[must_use]
    pub fn third_party(&self) -> &[ThirdPartyImage] {
        match self {
            Self::Local(local) => local.third_party(),
            Self::Kind(kind) => kind.namespace().third_party(),
            Self::Context(context) => context.namespace().third_party(),
        }
    }

    /// The state of every container of the run, one line each, for a failure.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn describe(&self) -> Result<Vec<String>> {
        match self {
            Self::Local(local) => local.describe(),
            Self::Kind(kind) => kind.namespace().describe(),
            Self::Context(context) => context.namespace().describe(),
        }
    }

    /// Writes what every container inside has said to this folder, a file for each; what the engine
    /// itself keeps is not looked at.
    ///
    /// # Errors
    /// When a log cannot be had.
    pub fn save_logs(&self, folder: &Utf8Path) -> Result<()> {
        match self {
            Self::Local(_) => Ok(()),
            Self::Kind(kind) => kind.namespace().save_logs(folder),
            Self::Context(context) => context.namespace().save_logs(folder),
        }
    }
}

/// What a cluster tells when it has taken images.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The digests of the manifests that had one of the names before; nothing of a cluster that has to
    /// be asked beforehand.
    pub(crate) before: BTreeMap<String, BTreeSet<String>>,
    /// What it lists now, complete.
    pub(crate) after: BTreeMap<String, Listed>,
}

/// IDs, with the labels that such a listing does not tell.
fn by_name(ids: BTreeMap<String, String>) -> BTreeMap<String, Listed> {
    let listed = ids.into_iter().map(|(name, id)| {
        let labels = BTreeMap::new();
        (name, Listed { id, labels })
    });
    listed.collect()
}

#[cfg(test)]
mod tests {
    use super::Choice;

    #[test]
    fn a_cluster_is_written_as_it_is_read() {
        for (text, choice) in [
            ("local", Choice::Local),
            ("kind", Choice::Kind),
            ("context:a", Choice::Context("a".to_owned())),
            ("context:kind-a", Choice::Context("kind-a".to_owned())),
            (
                "context:arn:aws:eks/x",
                Choice::Context("arn:aws:eks/x".to_owned()),
            ),
        ] {
            assert_eq!(text.parse(), Ok(choice.clone()));
            assert_eq!(choice.to_string(), text);
        }
        for text in ["", "Local", "minikube", "context", "context:", " kind"] {
            let error = text.parse::<Choice>().unwrap_err().to_string();
            assert!(error.contains("context:<name>"), "{error}");
            let error = Choice::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(
                error.contains(&format!("`{text}` is no cluster")),
                "{error}"
            );
        }
    }
}
