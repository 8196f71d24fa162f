//! A Kubernetes that was there before the run: reached by its API server alone, through a context of
//! the user's kubeconfig. A run has one namespace of it, named for the run, and makes nothing else
//! there; nodes pull its images from a registry, by digest. The user's kubeconfig is read once, and
//! neither it nor the current context is ever written.

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::kubernetes::documents::{self, Which};
use super::kubernetes::namespace::Namespace;
use crate::bundle::Bundle;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::manifest::template::pod_of;
use crate::manifest::{Manifests, References, Seen};
use crate::pipeline::Images;
use crate::pipeline::load::Loaded;
use crate::pipeline::push::{PushedThirdParty, push_third_party};
use crate::pipeline::tag::Repository;
use crate::registry::credentials::Credentials;
use crate::report::{self, live};
use crate::run::{LABEL_CHECKOUT, LABEL_DIRECTORY, LABEL_TARGET, Resource, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party;

mod access;
pub(crate) mod gather;
pub(crate) mod left;
pub(crate) mod preview;
mod reach;

/// The Secret that nodes pull with. No manifest of ours may name one so: it would be the one of the run.
const PULL_SECRET: &str = "e2e-registry";

/// Which cluster, and where it pulls from.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The context, as the user's kubeconfig has it.
    pub context: &'a str,
    /// Where the images of the run are named.
    pub repository: &'a Repository,
}

/// The namespace of a run on such a cluster.
#[derive(Debug)]
pub struct Context {
    name: String,
    repository: Repository,
    engine: Engine,
    namespace: Namespace,
    credentials: Option<Credentials>,
    starting: Option<JoinHandle<Result<Vec<PushedThirdParty>>>>,
    third_party: Vec<PushedThirdParty>,
}

/// `context:<name>`.
impl fmt::Display for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

impl Context {
    /// Sees that the cluster is there and this kubectl fits it, removes what dead runs of this
    /// checkout have left there, and makes the namespace.
    ///
    /// # Errors
    /// [`Exit::Host`] when there is no such context, no answer, or no kubectl that fits.
    pub(super) fn start(
        workspace: &Workspace,
        target: &Target,
        run: &Arc<Run>,
        engine: &Engine,
        place: Place<'_>,
        bundle: Option<&Arc<Bundle>>,
    ) -> Result<Self> {
        let Place {
            context,
            repository,
        } = place;
        let bundle = bundle.map(Arc::as_ref);
        let kubectl = access::open(run, context, bundle)?;
        for id in left::sweep(workspace, &kubectl)? {
            report::note(&format!(
                "removed the namespace {id} that a dead run had left"
            ));
        }
        let credentials = Credentials::of(repository)?;
        if let Some(credentials) = &credentials {
            report::note(&format!("nodes pull with {}", credentials.told()));
        }
        left::note_kubectl(run, &kubectl, context)?;
        run.journal(&Resource::Namespace(run.id().to_owned()))?;
        let namespace = Namespace::new(run.id(), kubectl, Vec::new());
        let document = namespace_document(run, documents::namespace(namespace.place(), run.id()));
        namespace.kubectl().create(&document).map_err(|error| {
            let what = format!("context:{context} gives no namespace");
            Failure::new(Exit::Host, what)
                .hint("a run needs the right to create and delete a namespace there, and what is in it")
                .caused_by(error)
        })?;
        let third_party = third_party::provide_all(workspace, engine, bundle, target)?;
        Ok(Self {
            name: format!("context:{context}"),
            repository: repository.clone(),
            engine: engine.clone(),
            namespace: namespace.with_third_party(third_party),
            credentials,
            starting: None,
            third_party: Vec::new(),
        })
    }

    /// `context:<name>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it pulls images from.
    #[must_use]
    pub const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The engine that has the images of third parties.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Where the run is deployed in it.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Secrets, the images of third parties into the registry, and what runs them alone; then shows the
    /// API server what a run has turned into something else. Does not wait for it.
    pub(super) fn start_third_party(
        &mut self,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        let place = self.namespace.place();
        let mut first = vec![way_for_probes(documents::metadata(place, "e2e"), place.run)];
        first.extend(documents::secrets(place, &secrets.mounts(), |_| true)?);
        let pull_secret = self.credentials.as_ref();
        first.extend(pull_secret.map(|credentials| {
            pull_secret_document(documents::metadata(place, PULL_SECRET), credentials)
        }));
        let (run, kubectl) = (place.run.to_owned(), self.namespace.kubectl().clone());
        let (engine, repository) = (self.engine.clone(), self.repository.clone());
        let images = self.namespace.third_party().to_vec();
        let (manifests, has_secret) = (manifests.clone(), self.credentials.is_some());
        self.starting = Some(thread::spawn(move || {
            kubectl.apply(documents::list(first))?;
            let pushed = push_third_party(&images, &engine, &repository)?;
            let references = References::of_third_party(&pushed);
            let place = documents::Place {
                run: &run,
                namespace: &kubectl.namespace,
            };
            let theirs = manifests.only(&references);
            let mut all = documents::of_manifests(place, &theirs, &references, Which::All)?;
            pull_with(&mut all, has_secret);
            kubectl.apply(documents::list(all))?;
            let turned = manifests.turned().to_vec();
            match turned.is_empty() {
                true => {}
                // Nobody may have a right in any other namespace there.
                false => kubectl.would_take_in(&kubectl.namespace, documents::list(turned))?,
            }
            Ok(pushed)
        }));
        Ok(())
    }

    /// Waits until the images of third parties are in the registry and what runs them was applied.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(starting) = self.starting.take() else {
            return Ok(());
        };
        let joined = starting.join();
        self.third_party = joined.unwrap_or_else(|_| Err(anyhow!("a thread panicked")))?;
        Ok(())
    }

    /// All images of the run, by what they are deployed as.
    ///
    /// # Errors
    /// When those of third parties did not come into the registry.
    pub(crate) fn references(&mut self, images: &Images<Loaded>) -> Result<References<Seen>> {
        self.settle()?;
        Ok(References::of(images, &self.third_party))
    }

    /// Applies everything that runs images of ours, and waits until every pod of the run is ready and
    /// answers through its Service.
    pub(crate) fn roll_out(
        &mut self,
        manifests: &Manifests,
        references: &References<Seen>,
        deadline_of: impl Fn(&str) -> Duration,
    ) -> Result<()> {
        let activity = live::begin("deploying", format!("to {}", self.name));
        self.namespace.expect(manifests, references)?;
        let theirs = References::of_third_party(&self.third_party);
        let (place, ours) = (self.namespace.place(), manifests.without(&theirs));
        let mut ours = documents::of_manifests(place, &ours, references, Which::All)?;
        pull_with(&mut ours, self.credentials.is_some());
        // Which images its nodes have, it tells nobody.
        let held = || Ok(Vec::new());
        let rolled_out = self
            .namespace
            .roll_out(ours, deadline_of, false, &held, &activity);
        rolled_out.map_err(|error| self.explain_pull(error))?;
        reach::through_services(&self.namespace, manifests, &activity)
    }

    /// The node's words say what went wrong; this says what it takes.
    fn explain_pull(&self, error: anyhow::Error) -> anyhow::Error {
        let text = format!("{error:#}");
        if !["ErrImagePull", "ImagePullBackOff"]
            .iter()
            .any(|reason| text.contains(reason))
        {
            return error;
        }
        let access = match &self.credentials {
            Some(credentials) => format!("they pull with {}", credentials.told()),
            None => "they pull without credentials, since none were found here".to_owned(),
        };
        let failure = Failure::new(report::exit_of(&error), text.as_str());
        if text.to_lowercase().contains(": not found") {
            let hint = "it was in the registry a moment ago: somebody deletes there; run again";
            return failure.hint(hint).into();
        }
        failure
            .hint(format!(
                "nodes must reach {} by that very name, over TLS that they trust or by a setting of their runtime; {access}",
                self.repository.host()
            ))
            .into()
    }
}

/// By its labels the namespace is found again, whatever happened to the process that made it.
fn namespace_document(run: &Run, mut document: Value) -> Value {
    for label in run.labels() {
        let Some((name, value)) = label.split_once('=') else {
            continue;
        };
        match name {
            LABEL_CHECKOUT | LABEL_TARGET => document["metadata"]["labels"][name] = value.into(),
            // A path is no value of a label.
            LABEL_DIRECTORY => document["metadata"]["annotations"][name] = value.into(),
            _ => {}
        }
    }
    document
}

/// The policies of the manifests let in who calls in production. The API server is none of these, and
/// from where it calls is known to nobody outside: so the port that tells how a pod is, and nothing
/// else, is open to all. Tests come through the kubelet, which no policy holds up.
fn way_for_probes(metadata: Value, run: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": {crate::run::LABEL_RUN: run}},
            "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"protocol": "TCP", "port": "probes"}]}],
        },
    })
}

fn pull_secret_document(metadata: Value, credentials: &Credentials) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": {".dockerconfigjson": credentials.docker_config()},
    })
}

/// Has every pod pull with the Secret of the run, if there is one.
fn pull_with(documents: &mut [Value], has_secret: bool) {
    if !has_secret {
        return;
    }
    for pod in documents.iter_mut().filter_map(pod_of) {
        pod["spec"]["imagePullSecrets"] = json!([{"name": PULL_SECRET}]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{pull_with, way_for_probes};

    #[test]
    fn pods_pull_with_the_secret_and_nothing_else_does() {
        let mut documents = [
            json!({"kind": "Deployment", "spec": {"template": {"spec": {"containers": []}}}}),
            json!({"kind": "Service", "spec": {}}),
            json!({"kind": "PodTemplate", "template": {"spec": {"containers": []}}}),
        ];
        let before = documents.clone();
        pull_with(&mut documents, false);
        assert_eq!(documents, before);
        pull_with(&mut documents, true);
        let pods = [&documents[0]["spec"]["template"], &documents[2]["template"]];
        for pod in pods.map(|template| &template["spec"]) {
            assert_eq!(pod["imagePullSecrets"], json!([{"name": "e2e-registry"}]));
        }
        assert_eq!(documents[1], before[1]);
    }

    #[test]
    fn only_the_port_of_probes_is_opened() {
        let policy = way_for_probes(json!({"name": "e2e"}), "r-1");
        let spec = &policy["spec"];
        assert_eq!(
            spec["ingress"],
            json!([{"ports": [{"protocol": "TCP", "port": "probes"}]}])
        );
        assert_eq!(spec["policyTypes"], json!(["Ingress"]));
        assert_eq!(
            spec["podSelector"]["matchLabels"],
            json!({"phase-zero.run": "r-1"})
        );
    }
}
