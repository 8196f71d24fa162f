//! The same as somebody makes it by hand, step after step: `kind create cluster`, its name service
//! ready, `kind load image-archive`, `kubectl apply`, `kubectl rollout status`. Nothing is begun early
//! or goes side by side. For `bench` alone, which holds a run against it; what is deployed here is never
//! attested or tested.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};

use super::create::{self, create, look_at_node};
use super::{Kind, Wanted, config};
use crate::cluster::kubernetes::documents::{self, Which};
use crate::cluster::kubernetes::namespace::{NAMES, NAMES_DEADLINE};
use crate::cluster::local::make_network;
use crate::manifest::{Manifests, References};
use crate::pipeline::Images;
use crate::pipeline::load::Loaded;
use crate::process;
use crate::run;
use crate::secrets::Secrets;
use crate::third_party;

/// An image of a few hundred megabytes on a busy host.
const LOAD_DEADLINE: Duration = Duration::from_secs(300);
/// What nobody gives up.
static NEVER: AtomicBool = AtomicBool::new(false);

/// A cluster that was made by hand, on a network of its run.
#[derive(Debug)]
pub(crate) struct ByHand {
    /// As a run has it.
    pub(crate) kind: Kind,
    /// How long kind took, with the network before it.
    pub(crate) created: Duration,
    /// How long the name service of the cluster took after that.
    pub(crate) names: Duration,
    /// Archives of the third-party images of the target.
    pub(crate) third_party: Vec<Utf8PathBuf>,
    program: Utf8PathBuf,
    id: String,
}

impl ByHand {
    /// Makes it. What is taken from elsewhere is there before time is taken: the program, the image of
    /// a node, and those of third parties.
    ///
    /// # Errors
    /// When kind makes no cluster, or an image cannot be had.
    pub(crate) fn make(wanted: &Wanted<'_>) -> Result<Self> {
        let (run, engine) = (wanted.run, wanted.engine);
        let ports = documents::node_ports(wanted.manifests, config::NODE_PORT_FIRST);
        let purpose = wanted.purpose(run, &ports)?;
        let program = create::program(engine, wanted.bundle.map(Arc::as_ref))?;
        let images = wanted.provide()?;
        let archives = images
            .iter()
            .map(|image| third_party::archive(engine, image));
        let archives = archives.collect::<Result<_>>()?;
        let begun = Instant::now();
        make_network(run, engine, &run::kind_network(run.id()))?;
        let (up, _is_up) = mpsc::channel();
        create(&purpose, &up, &NEVER)?;
        let created = begun.elapsed();
        let node = look_at_node(&purpose)?;
        let begun = Instant::now();
        let (namespace, name) = NAMES;
        node.kubectl
            .wait_for_roll_out(namespace, name, NAMES_DEADLINE, &NEVER)?;
        Ok(Self {
            names: begun.elapsed(),
            kind: Kind::of(wanted, node, images, ports, None),
            created,
            third_party: archives,
            program,
            id: run.id().to_owned(),
        })
    }

    /// Has kind load these archives, one after the other.
    ///
    /// # Errors
    /// With the words of kind.
    pub(crate) fn load<'a>(
        &self,
        archives: impl IntoIterator<Item = &'a Utf8Path>,
    ) -> Result<Duration> {
        let begun = Instant::now();
        for archive in archives {
            let load = create::invocation(&self.kind.engine, &self.program, &self.id)
                .args(["load", "image-archive", archive.as_str()])
                .args(["--name", &self.id]);
            process::capture(&load, LOAD_DEADLINE)?;
        }
        Ok(begun.elapsed())
    }
}

impl Kind {
    /// Applies everything at once and waits for one roll-out after the other.
    ///
    /// # Errors
    /// With the words of kubectl.
    pub(crate) fn roll_out_by_hand(
        &self,
        secrets: &Secrets,
        manifests: &Manifests,
        images: &Images<Loaded>,
        deadline: Duration,
    ) -> Result<Duration> {
        let place = self.namespace.place();
        let references = References::of(images, self.namespace.third_party());
        let mut all = vec![
            documents::namespace(place, place.run),
            documents::way_through_policies(place, &config::pod_subnet(1)),
        ];
        all.extend(documents::secrets(place, &secrets.mounts(), |_| true)?);
        all.extend(self.documents(manifests, &references, Which::All)?);
        all.extend(documents::ways_in(place, manifests, &self.ports));
        let kubectl = self.namespace.kubectl();
        let begun = Instant::now();
        kubectl.apply(documents::list(all))?;
        for workload in &manifests.workloads {
            kubectl.wait_for_roll_out(place.namespace, workload.name(), deadline, &NEVER)?;
        }
        Ok(begun.elapsed())
    }
}
