//! A run in a cluster that stays when it has ended: what of its manifests stays there, in the
//! namespace of what owns the cluster, and what leads to it from the run's own namespace. Decides what
//! is applied where; nothing is applied here.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde_json::{Value, json};

use super::again::Staying;
use super::kept::{Kept, Settings};
use super::{Wanted, config, create};
use crate::cluster::kubernetes::Kubectl;
use crate::cluster::kubernetes::documents::{self, LABEL_CLUSTER, NodePorts, Place, Which};
use crate::cluster::kubernetes::namespace::Stays;
use crate::cluster::kubernetes::pod::Pod;
use crate::digest::Digest;
use crate::manifest::{Manifests, Named as _, References, Seen};
use crate::secrets::Secrets;
use crate::source::workspace::SecretValue;
use crate::third_party::{self, ThirdPartyImage};

/// The label that Kubernetes gives each namespace.
const LABEL_NAME: &str = "kubernetes.io/metadata.name";

/// What of a run stays: the third parties that can be made as new.
#[derive(Debug)]
pub(super) struct Part {
    manifests: Manifests,
    references: References<Seen>,
    pub(super) staying: Vec<Staying>,
    /// Its Secrets by name, as they are declared.
    secrets: BTreeMap<String, BTreeMap<String, SecretValue>>,
    /// As they are written: documents of which it has something else.
    turned: Vec<Value>,
}

/// A run as a guest of a kept cluster.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) kept: Arc<Kept>,
    pub(super) settings: Settings,
    pub(super) part: Part,
    /// What ran in it before the run; nothing where it was made for the run.
    pub(super) before: Option<Vec<Pod>>,
}

impl Guest {
    /// The cluster was made for it.
    pub(super) const fn is_first(&self) -> bool {
        self.before.is_none()
    }
}

impl Part {
    /// Of the third parties of a target.
    ///
    /// # Errors
    /// When `deploy/images.toml` cannot be read, or a manifest names an image that is not the run's.
    pub(super) fn of(wanted: &Wanted<'_>, third_party: &[ThirdPartyImage]) -> Result<Self> {
        let mut renewals = BTreeMap::new();
        let mut secrets = BTreeMap::new();
        for image in third_party {
            if let Some(renewal) = third_party::renewal(wanted.workspace, image.name())? {
                renewals.insert(image.name(), renewal);
                secrets.extend(third_party::secrets(wanted.workspace, image.name())?);
            }
        }
        let images = third_party.iter();
        let images = images.filter(|image| renewals.contains_key(image.name()));
        let references = References::of_third_party(images);
        let manifests = wanted.manifests.only(&references);
        let mut staying = Vec::new();
        for workload in &manifests.workloads {
            let logical = &workload.container().image;
            let Some(renewal) = renewals.get(logical.as_str()) else {
                continue;
            };
            staying.push(Staying {
                name: workload.name().to_owned(),
                selector: workload.selector().clone(),
                replicas: workload.deployment.spec.replicas as usize,
                reference: references.get(workload, logical)?.reference().to_owned(),
                renewal: renewal.clone(),
            });
        }
        Ok(Self {
            manifests,
            references,
            staying,
            secrets,
            turned: wanted.manifests.turned().to_vec(),
        })
    }

    /// What another cluster would be made with, were it made for this.
    ///
    /// # Errors
    /// As [`Part::of`].
    pub(super) fn settings(
        &self,
        wanted: &Wanted<'_>,
        ports: &NodePorts,
        third_party: &[ThirdPartyImage],
    ) -> Result<Settings> {
        let nowhere = Place {
            run: "",
            namespace: "",
        };
        let stay = self.documents(nowhere, ports)?;
        let ids = third_party.iter();
        let ids = ids.map(|image| (image.name().to_owned(), image.image_id().to_owned()));
        Ok(Settings {
            target: wanted.target.name.to_string(),
            engine: wanted.engine.kind.program().to_owned(),
            kind: config::config(wanted.shape(ports)?),
            node_image: create::node_image(wanted.bundle.map(Arc::as_ref)),
            third_party: ids.collect(),
            secrets: format!("{:?}", self.secrets),
            documents: Digest::of(json!([stay, self.turned]).to_string().as_bytes()),
            generations: BTreeMap::new(),
        })
    }

    /// Every document that stays, but Secrets: as those of any run in that place, and let in from the
    /// namespaces of others.
    fn documents(&self, place: Place<'_>, ports: &NodePorts) -> Result<Vec<Value>> {
        let mut all =
            documents::of_manifests(place, &self.manifests, &self.references, Which::All)?;
        let guests = json!({LABEL_CLUSTER: place.run});
        let are_guests = |labels: &Value| !documents::name_one_of(labels, &self.manifests);
        documents::reach_across(&mut all, are_guests, &guests);
        all.extend(documents::ways_in(place, &self.manifests, ports));
        Ok(all)
    }

    /// What of these manifests does not stay.
    pub(super) fn rest(&self, manifests: &Manifests) -> Manifests {
        manifests.without(&self.references)
    }
}

impl Guest {
    /// What stays, and how it is asked for.
    pub(super) fn stays(&self, kubectl: &Kubectl) -> Stays {
        let workloads = self.part.manifests.workloads.iter();
        Stays {
            kubectl: kubectl.at(self.kept.owner().id()),
            services: workloads.map(|workload| workload.service.clone()).collect(),
        }
    }

    /// Everything that stays, with its namespace and Secrets.
    ///
    /// # Errors
    /// When a secret cannot be read.
    pub(super) fn documents(
        &self,
        secrets: &Secrets,
        ports: &NodePorts,
        nodes_count: u8,
    ) -> Result<Vec<Value>> {
        let owner = self.kept.owner();
        let place = Place {
            run: owner.id(),
            namespace: owner.id(),
        };
        let mut all = vec![
            documents::namespace(place, owner.id()),
            documents::way_through_policies(place, &config::pod_subnet(nodes_count)),
        ];
        let stay = |name: &str| self.keeps(name);
        all.extend(documents::secrets(place, &secrets.mounts(), stay)?);
        all.extend(self.part.documents(place, ports)?);
        Ok(all)
    }

    /// Whether a Secret of this name stays.
    pub(super) fn keeps(&self, secret: &str) -> bool {
        self.part.secrets.contains_key(secret)
    }

    /// In the namespace of the run: what leads to what stays.
    pub(super) fn signposts(&self, place: Place<'_>) -> Vec<Value> {
        let owner = self.kept.owner();
        documents::signposts(place, owner.id(), &self.part.manifests).collect()
    }

    /// Has the policies of the run know that what stays is in another namespace.
    pub(super) fn let_out(&self, all: &mut [Value]) {
        let there = json!({LABEL_NAME: self.kept.owner().id()});
        let stay = |labels: &Value| documents::name_one_of(labels, &self.part.manifests);
        documents::reach_across(all, stay, &there);
    }
}
