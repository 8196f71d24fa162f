//! Reads `deploy/*.yaml`, plain Kubernetes manifests, and puts image references in, in memory.
//! `image: datastorage` is a logical name: a tag on one of our images is refused, and so is every
//! field that the local cluster does not honour. Nothing is skipped in silence: what is void here,
//! or is another thing where data is thrown away, is told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use crate::source::workspace::Workspace;

pub(crate) mod document;
mod references;
pub(crate) mod template;
mod thrown_away;

#[cfg(test)]
pub(crate) use references::Expected;
pub(crate) use references::{Named, References, Seen};

use document::{
    ConfigMap, Container, Deployment, Head, Medium, PersistentVolumeClaim, PodSpec,
    PodTemplateDocument, Port, Probe, Service,
};
use template::Template;

/// Where manifests lie.
pub const FOLDER: &str = "deploy";

/// Kinds that mean nothing without a scheduler, a network plugin or an API server.
const VOID_KINDS: [&str; 5] = [
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "ServiceAccount",
];

/// Kinds that belong to no namespace: those of two runs on one cluster would be the same.
const CLUSTER_KINDS: [&str; 2] = ["ClusterRole", "ClusterRoleBinding"];
/// How the volume with a pod's token is told among what is void.
const TOKEN: &str = "ServiceAccount token";

/// What an `image:` may say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageNames {
    /// Our packages.
    pub own: BTreeSet<String>,
    /// Tables of `deploy/images.toml`.
    pub third_party: BTreeSet<String>,
}

impl ImageNames {
    /// All that the workspace knows.
    ///
    /// # Errors
    /// When `deploy/images.toml` cannot be read.
    pub fn of(workspace: &Workspace) -> Result<Self> {
        let own = workspace.packages.values();
        Ok(Self {
            own: own
                .filter(|package| package.e2e.is_some())
                .map(|package| package.name.to_string())
                .collect(),
            third_party: crate::third_party::names(workspace)?,
        })
    }
}

/// What the manifests of a run say, checked.
#[derive(Clone, Debug, Default)]
pub struct Manifests {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) templates: Vec<Template>,
    pub(crate) config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Names by kind.
    void: BTreeMap<String, BTreeSet<String>>,
    services: Vec<(Place, Service)>,
    /// Names of PersistentVolumeClaims.
    claims: BTreeSet<String>,
    /// What each Deployment says that a run turns into something else.
    written: Vec<Written>,
    digests: BTreeMap<String, Digest>,
    /// With the names of their files, as a run has them.
    documents: Vec<(String, serde_json::Value)>,
    /// Documents as they are written, of which a run has something else or nothing.
    turned: Vec<serde_json::Value>,
}

/// What stands in the manifest of a Deployment, and in a run no longer.
#[derive(Clone, Debug)]
struct Written {
    place: Place,
    replicas: u32,
    /// Of each volume that stays: its number, and the name of its claim.
    claims: Vec<(usize, String)>,
    account: Option<String>,
    /// Arguments for runs alone.
    added: Vec<String>,
}

/// A Deployment, and the names under which Services make it known.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    place: Place,
    /// The manifest's own name: `gateway` for `deploy/gateway.yaml`.
    pub(crate) service: String,
    pub(crate) deployment: Deployment,
    pub(crate) aliases: BTreeSet<String>,
}

impl Workload {
    /// Its one container.
    pub(crate) fn container(&self) -> &Container {
        &self.deployment.spec.template.spec.containers[0]
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.deployment.metadata.name
    }

    /// The ports of its container, by name.
    pub(crate) fn ports(&self) -> BTreeMap<String, u16> {
        self.container().named_ports()
    }

    /// The labels that its pods are selected by.
    pub(crate) const fn selector(&self) -> &BTreeMap<String, String> {
        &self.deployment.spec.selector.match_labels
    }
}

/// Where a document stands, for errors.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: Utf8PathBuf,
    document: usize,
    subject: String,
}

impl Place {
    fn refuse(&self, field: &str, message: impl AsRef<str>) -> Failure {
        Failure::new(
            Exit::Manifest,
            format!(
                "{}: document {} ({}): {field}: {}",
                self.file,
                self.document,
                self.subject,
                message.as_ref()
            ),
        )
    }
}

impl Manifests {
    /// Reads `deploy/<name>.yaml` for each name.
    ///
    /// # Errors
    /// [`Exit::Manifest`], naming file, document and field.
    pub fn read<'a>(
        workspace: &Workspace,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let images = ImageNames::of(workspace)?;
        let mut manifests = Self::default();
        for name in names {
            let file = Utf8Path::new(FOLDER).join(format!("{name}.yaml"));
            let path = workspace.root.join(&file);
            let kind = path.symlink_metadata().map(|metadata| metadata.file_type());
            if kind.is_ok_and(|kind| !kind.is_file()) {
                let message = format!("{file} is no plain file");
                return Err(Failure::new(Exit::Manifest, message)
                    .hint("put the manifest itself there, not a link or a pipe")
                    .into());
            }
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::new(Exit::Manifest, format!("cannot read {file}"))
                    .hint(format!(
                        "every package with [package.metadata.e2e] and every image of deploy/images.toml has a manifest of its name; write {file}"
                    ))
                    .caused_by(error)
            })?;
            manifests.add(&file, name, &text, &images)?;
            if !manifests
                .workloads
                .iter()
                .any(|workload| workload.service == name)
            {
                let message = format!("{file} holds no Deployment, so nothing of it would run");
                return Err(Failure::new(Exit::Manifest, message).into());
            }
        }
        manifests.join()?;
        Ok(manifests)
    }

    /// The files that were read, and the digests of their bytes.
    #[must_use]
    pub const fn digests(&self) -> &BTreeMap<String, Digest> {
        &self.digests
    }

    /// The digest of the file that a workload stands in.
    pub(crate) fn digest_of(&self, workload: &Workload) -> Option<Digest> {
        self.digests.get(workload.place.file.as_str()).copied()
    }

    /// Reads one manifest, as `deploy/<service>.yaml` would hold it.
    ///
    /// # Errors
    /// As [`Manifests::read`].
    pub fn parse(service: &str, text: &str, images: &ImageNames) -> Result<Self> {
        let mut manifests = Self::default();
        let file = Utf8PathBuf::from(format!("deploy/{service}.yaml"));
        manifests.add(&file, service, text, images)?;
        manifests.join()?;
        Ok(manifests)
    }

    /// How much memory everything that runs at the same time asks for, in `requests`. What runs to
    /// its end before the container of its pod counts where it asks for more than that; of what is made
    /// from a template, one pod counts.
    #[must_use]
    pub fn memory_requested_bytes(&self) -> u64 {
        let bytes = |container: &Container| {
            let asked = container.resources.requests.memory;
            asked.map_or(0, |memory| memory.bytes)
        };
        let pod = |spec: &PodSpec| {
            let inits = spec.init_containers.iter().map(bytes).max();
            let main = spec.containers.first().map_or(0, bytes);
            main.max(inits.unwrap_or(0))
        };
        let of_pods = self.workloads.iter().map(|workload| {
            let spec = &workload.deployment.spec;
            pod(&spec.template.spec).saturating_mul(u64::from(spec.replicas))
        });
        let of_templates = self.templates.iter().map(|one| pod(&one.pod.spec));
        of_pods.chain(of_templates).sum()
    }

    /// How many ports of 127.0.0.1 everything is published on.
    #[must_use]
    pub fn ports_published(&self) -> u64 {
        let of_pods = self.workloads.iter().map(|workload| {
            let replicas = u64::from(workload.deployment.spec.replicas);
            replicas * workload.container().ports.len() as u64
        });
        of_pods.sum()
    }

    /// The same, with the workloads alone that run nothing but these images.
    pub(crate) fn only<Image>(&self, references: &References<Image>) -> Self {
        let mut part = self.clone();
        part.workloads.retain(|workload| references.cover(workload));
        part
    }

    /// The same, without the workloads that run nothing but these images.
    pub(crate) fn without<Image>(&self, references: &References<Image>) -> Self {
        let mut part = self.clone();
        part.workloads
            .retain(|workload| !references.cover(workload));
        part
    }

    /// Every document of the workloads that are here, as a run has it, with the name of its file:
    /// `gateway` for `deploy/gateway.yaml`.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&str, &serde_json::Value)> {
        let documents = self.documents.iter();
        let here = documents.filter(|(service, _)| {
            let mut workloads = self.workloads.iter();
            workloads.any(|workload| workload.service == *service)
        });
        here.map(|(service, document)| (service.as_str(), document))
    }

    /// Where a document that names images stands, of the manifest of this name.
    pub(crate) fn place_of(&self, service: &str, document: &serde_json::Value) -> Option<&Place> {
        let name = document["metadata"]["name"].as_str()?;
        if document["kind"] == template::KIND {
            let mut templates = self.templates.iter();
            let found = templates.find(|one| one.service == service && one.name == name);
            return found.map(|one| &one.place);
        }
        let mut workloads = self.workloads.iter();
        let found = workloads.find(|one| one.service == service && one.name() == name);
        found.map(|one| &one.place)
    }

    /// As they are written: the documents of which a run has something else or nothing.
    pub(crate) fn turned(&self) -> &[serde_json::Value] {
        &self.turned
    }

    /// Which reference every container of a service gets, by the service's name; as a roll-out puts
    /// them in.
    ///
    /// # Errors
    /// [`Exit::Manifest`] for an image that does not belong to the run.
    pub(crate) fn references_in(
        &self,
        references: &References<impl Named>,
    ) -> Result<BTreeMap<&str, BTreeSet<String>>> {
        let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        let workloads = self.workloads.iter().map(|workload| {
            let spec = &workload.deployment.spec.template.spec;
            (&workload.place, &workload.service, spec)
        });
        let templates = self.templates.iter();
        let templates = templates.map(|one| (&one.place, &one.service, &one.pod.spec));
        for (place, service, spec) in workloads.chain(templates) {
            for container in spec.init_containers.iter().chain(&spec.containers) {
                let image = references.get_at(place, &container.image)?;
                found
                    .entry(service)
                    .or_default()
                    .insert(image.reference().to_owned());
            }
        }
        Ok(found)
    }

    /// What stands in the manifests and means nothing without Kubernetes, a line for all kinds of
    /// the same names: `NetworkPolicy and ServiceAccount of gateway, postgres`, ...
    #[must_use]
    pub fn void(&self) -> Vec<String> {
        let mut kinds: BTreeMap<&BTreeSet<String>, Vec<&str>> = BTreeMap::new();
        for (kind, names) in &self.void {
            kinds.entry(names).or_default().push(kind);
        }
        let lines = kinds.into_iter();
        let lines =
            lines.map(|(names, kinds)| format!("{} of {}", kinds.join(" and "), listed(names)));
        lines.collect()
    }

    /// What is another thing in a run, since its data is thrown away, a line for each.
    #[must_use]
    pub fn thrown_away(&self) -> Vec<String> {
        let claims = self.claims.iter();
        let claims = claims.map(|name| format!("{} {name} is memory", thrown_away::CLAIM));
        let added = self.written.iter().filter(|one| !one.added.is_empty());
        let added = added.map(|one| format!("{} gets {}", one.place.subject, one.added.join(" ")));
        claims.chain(added).collect()
    }

    fn add(
        &mut self,
        file: &Utf8Path,
        service: &str,
        text: &str,
        images: &ImageNames,
    ) -> Result<()> {
        let digest = Digest::of(text.as_bytes());
        self.digests.insert(file.to_string(), digest);
        // Three passes in step: the first tells the kind, the second reads that kind strictly, the
        // third keeps what is applied.
        let documents = || serde_norway::Deserializer::from_str(text);
        let passes = documents().zip(documents()).zip(documents());
        for (index, ((head, body), whole)) in passes.enumerate() {
            let mut place = Place {
                file: file.to_owned(),
                document: index + 1,
                subject: "unreadable".to_owned(),
            };
            let head = Option::<Head>::deserialize(head).map_err(|error| yaml(&place, &error))?;
            // An empty document between two separators.
            let Some(head) = head else { continue };
            place.subject = format!("{} {}", or_none(&head.kind), or_none(&head.metadata.name));
            if head.metadata.name.is_empty() {
                return Err(place.refuse("metadata.name", "is missing").into());
            }
            let whole =
                serde_json::Value::deserialize(whole).map_err(|error| yaml(&place, &error))?;
            if (head.api_version.as_str(), head.kind.as_str()) == ("apps/v1", "Deployment") {
                let deployment = strict(&place, body)?;
                self.add_deployment(place, service, &deployment, whole, images)?;
                continue;
            }
            if (head.api_version.as_str(), head.kind.as_str()) == ("v1", template::KIND) {
                let read = strict(&place, body)?;
                self.add_template(place, service, read, images)?;
            } else {
                self.add_document(place, &head, body)?;
            }
            let in_a_run = thrown_away::in_a_run(&whole, &[]);
            self.keep(service, whole, in_a_run);
        }
        Ok(())
    }

    fn keep(
        &mut self,
        service: &str,
        whole: serde_json::Value,
        in_a_run: Option<serde_json::Value>,
    ) {
        if in_a_run.as_ref() != Some(&whole) {
            self.turned.push(whole);
        }
        let document = in_a_run.map(|document| (service.to_owned(), document));
        self.documents.extend(document);
    }

    /// Checked as it is written, kept as a run has it.
    fn add_deployment(
        &mut self,
        place: Place,
        service: &str,
        deployment: &Deployment,
        whole: serde_json::Value,
        images: &ImageNames,
    ) -> Result<()> {
        check_deployment(&place, deployment, images)?;
        let added = thrown_away::arguments(&deployment.metadata.annotations).map_err(
            |(key, message)| place.refuse(&format!("metadata.annotations.{key}"), message),
        )?;
        let document = thrown_away::in_a_run(&whole, &added).context("a Deployment is in a run")?;
        let in_a_run = Deployment::deserialize(&document)
            .with_context(|| format!("{} of {} as a run has it", place.subject, place.file))?;
        let pod = &deployment.spec.template.spec;
        if pod.volumes.iter().any(|volume| volume.projected.is_some()) {
            let names = self.void.entry(TOKEN.to_owned()).or_default();
            names.insert(deployment.metadata.name.clone());
        }
        let volumes = pod.volumes.iter().enumerate();
        let claims = volumes.filter_map(|(index, volume)| {
            let claim = volume.persistent_volume_claim.as_ref()?;
            Some((index, claim.claim_name.clone()))
        });
        self.written.push(Written {
            place: place.clone(),
            replicas: deployment.spec.replicas,
            claims: claims.collect(),
            account: pod.service_account_name.clone(),
            added,
        });
        self.keep(service, whole, Some(document));
        self.workloads.push(Workload {
            place,
            service: service.to_owned(),
            deployment: in_a_run,
            aliases: BTreeSet::new(),
        });
        Ok(())
    }

    /// Void without Kubernetes, and held to what a Deployment is held to all the same.
    fn add_template(
        &mut self,
        place: Place,
        service: &str,
        document: PodTemplateDocument,
        images: &ImageNames,
    ) -> Result<()> {
        template::check(&place, &document, images)?;
        let name = document.metadata.name;
        let names = self.void.entry(template::KIND.to_owned()).or_default();
        if !names.insert(name.clone()) {
            return Err(place.refuse("metadata.name", "is there twice").into());
        }
        self.templates.push(Template {
            place,
            service: service.to_owned(),
            name,
            pod: document.template,
        });
        Ok(())
    }

    fn add_document(
        &mut self,
        place: Place,
        head: &Head,
        body: serde_norway::Deserializer<'_>,
    ) -> Result<()> {
        match (head.api_version.as_str(), head.kind.as_str()) {
            ("v1", "Service") => {
                let read = strict(&place, body)?;
                self.services.push((place, read));
            }
            ("v1", "ConfigMap") => {
                let map: ConfigMap = strict(&place, body)?;
                check_config_map(&place, &map)?;
                if self
                    .config_maps
                    .insert(map.metadata.name, map.data)
                    .is_some()
                {
                    return Err(place.refuse("metadata.name", "is there twice").into());
                }
            }
            ("v1", thrown_away::CLAIM) => {
                let claim: PersistentVolumeClaim = strict(&place, body)?;
                if !self.claims.insert(claim.metadata.name) {
                    return Err(place.refuse("metadata.name", "is there twice").into());
                }
            }
            (_, kind) if VOID_KINDS.contains(&kind) => {
                let names = self.void.entry(kind.to_owned()).or_default();
                names.insert(head.metadata.name.clone());
            }
            (_, kind) if CLUSTER_KINDS.contains(&kind) => {
                let message = "is cluster-wide, and a run makes nothing outside of its namespace";
                return Err(place
                    .refuse("kind", message)
                    .hint("write a Role and a RoleBinding; outside of runs, grant the rest where it is wanted, see README.md")
                    .into());
            }
            ("v1", "Secret") => {
                return Err(place
                    .refuse("kind", "a Secret is never written down")
                    .hint("every run makes its own from [package.metadata.e2e.secrets]; take the document out")
                    .into());
            }
            (version, kind) => {
                return Err(elsewhere(place.refuse(
                    "kind",
                    format!(
                        "the local cluster has no {} of {}; it knows apps/v1 Deployment, v1 Service, v1 ConfigMap, v1 PersistentVolumeClaim, v1 PodTemplate",
                        or_none(kind),
                        or_none(version)
                    ),
                ))
                .into());
            }
        }
        Ok(())
    }

    /// What one document says of another.
    fn join(&mut self) -> Result<()> {
        self.join_services()?;
        self.join_claims()?;
        self.join_accounts()?;
        self.join_templates()
    }

    /// A claim is the data of one pod: in a run each pod has a volume of its own.
    fn join_claims(&self) -> Result<()> {
        let mut taken = BTreeSet::new();
        for one in &self.written {
            for (index, claim) in &one.claims {
                let field = format!("spec.template.spec.volumes[{index}].persistentVolumeClaim");
                if !self.claims.contains(claim) {
                    let message = format!(
                        "the manifests of the run hold no {} {claim}",
                        thrown_away::CLAIM
                    );
                    return Err(one.place.refuse(&field, message).into());
                }
                if one.replicas != 1 || !taken.insert(claim) {
                    let message = format!("{claim} would belong to more than one pod");
                    return Err(one.place.refuse(&field, message).into());
                }
            }
        }
        Ok(())
    }

    /// Kubernetes makes no pod for an account that is not there.
    fn join_accounts(&self) -> Result<()> {
        let known = self.void.get("ServiceAccount");
        let written = self.written.iter();
        let written = written.map(|one| (&one.place, "spec.template.spec", one.account.as_ref()));
        let templates = self.templates.iter().map(|one| {
            let account = one.pod.spec.service_account_name.as_ref();
            (&one.place, "template.spec", account)
        });
        for (place, path, account) in written.chain(templates) {
            let Some(account) = account else {
                continue;
            };
            if account != "default" && !known.is_some_and(|names| names.contains(account)) {
                let field = format!("{path}.serviceAccountName");
                let message = format!("the manifests of the run hold no ServiceAccount {account}");
                return Err(place.refuse(&field, message).into());
            }
        }
        Ok(())
    }

    /// By its labels a pod is known to be made from a template, and to belong to nothing else.
    fn join_templates(&self) -> Result<()> {
        for (index, one) in self.templates.iter().enumerate() {
            let labels = &one.pod.metadata.labels;
            let mut workloads = self.workloads.iter();
            let deployment = workloads.find(|workload| contains(labels, workload.selector()));
            let mut services = self.services.iter();
            let service = services.find(|(_, one)| contains(labels, &one.spec.selector));
            let mut others = self.templates[..index].iter();
            let other = others.find(|other| {
                let others = &other.pod.metadata.labels;
                contains(labels, others) || contains(others, labels)
            });
            let taken = deployment
                .map(|workload| format!("Deployment {}", workload.name()))
                .or_else(|| service.map(|(_, one)| format!("Service {}", one.metadata.name)))
                .or_else(|| other.map(|other| format!("{} {}", template::KIND, other.name)));
            if let Some(taken) = taken {
                let message = format!("a pod with these would belong to {taken}");
                let field = "template.metadata.labels";
                return Err(one.place.refuse(field, message).into());
            }
        }
        Ok(())
    }

    /// A Service is an alias of the one Deployment that it selects.
    fn join_services(&mut self) -> Result<()> {
        for (place, service) in &self.services {
            let mut selected: Vec<&mut Workload> = self
                .workloads
                .iter_mut()
                .filter(|workload| {
                    let labels = &workload.deployment.spec.template.metadata.labels;
                    contains(labels, &service.spec.selector)
                })
                .collect();
            let [workload] = selected.as_mut_slice() else {
                let message = format!("selects {} Deployments, not one", selected.len());
                return Err(elsewhere(place.refuse("spec.selector", message)).into());
            };
            for (index, port) in service.spec.ports.iter().enumerate() {
                let container = workload.container();
                let target = match &port.target_port {
                    None => Some(port.port),
                    Some(target) => number(container, target),
                };
                if target != Some(port.port) {
                    return Err(elsewhere(place.refuse(
                        &format!("spec.ports[{index}].targetPort"),
                        format!(
                            "must be {}, as `port`: an alias cannot turn one port into another",
                            port.port
                        ),
                    ))
                    .into());
                }
                if !container
                    .ports
                    .iter()
                    .any(|known| known.container_port == port.port)
                {
                    return Err(place
                        .refuse(
                            &format!("spec.ports[{index}].port"),
                            format!(
                                "{} is no containerPort of Deployment {}",
                                port.port,
                                workload.name()
                            ),
                        )
                        .into());
                }
            }
            workload.aliases.insert(service.metadata.name.clone());
        }
        Ok(())
    }
}

/// The number of a port of this container.
pub(crate) fn number(container: &Container, port: &Port) -> Option<u16> {
    match port {
        Port::Number(number) => Some(*number),
        Port::Name(name) => container
            .ports
            .iter()
            .find(|known| known.name.as_deref() == Some(name))
            .map(|known| known.container_port),
    }
}

fn strict<T: DeserializeOwned>(
    place: &Place,
    body: serde_norway::Deserializer<'_>,
) -> Result<T, Failure> {
    T::deserialize(body).map_err(|error| yaml(place, &error))
}

/// serde's words: they hold the path of the field, the line and the column.
fn yaml(place: &Place, error: &serde_norway::Error) -> Failure {
    let text = error.to_string();
    let at = error.location().map_or_else(String::new, |location| {
        format!(":{}:{}", location.line(), location.column())
    });
    let text = text.split(" at line ").next().unwrap_or(&text);
    let file = &place.file;
    if place.subject == "unreadable" {
        return Failure::new(
            Exit::Manifest,
            format!(
                "{file}{at}: document {}: invalid YAML: {text}",
                place.document
            ),
        );
    }
    let failure = Failure::new(
        Exit::Manifest,
        format!(
            "{file}{at}: document {} ({}): {text}",
            place.document, place.subject
        ),
    );
    if text.contains("unknown field") || text.contains("unknown variant") {
        elsewhere(failure)
    } else {
        failure
    }
}

/// The fix for what Kubernetes has and the local cluster has not.
fn elsewhere(failure: Failure) -> Failure {
    failure.hint(
        "take it out: the local cluster honours a closed list and skips nothing, and `--cluster kind` is given the same files",
    )
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "nothing" } else { text }
}

fn listed<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    names.join(", ")
}

fn contains(labels: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    !wanted.is_empty()
        && wanted
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

fn check_config_map(place: &Place, map: &ConfigMap) -> Result<()> {
    for key in map.data.keys() {
        if !is_file_name(key) {
            return Err(place
                .refuse(
                    &format!("data.{key}"),
                    "is no file name: letters, digits, `-`, `_` and `.` only",
                )
                .into());
        }
    }
    Ok(())
}

fn is_file_name(key: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !key.is_empty() && key != "." && key != ".." && key.bytes().all(allowed)
}

fn is_dns_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

fn check_deployment(place: &Place, deployment: &Deployment, images: &ImageNames) -> Result<()> {
    let spec = &deployment.spec;
    let pod = &spec.template.spec;
    let name = &deployment.metadata.name;
    if !is_dns_label(name) {
        let message = format!("`{name}` is no name: lower-case letters, digits and `-`");
        return Err(place.refuse("metadata.name", message).into());
    }
    if !contains(&spec.template.metadata.labels, &spec.selector.match_labels) {
        return Err(place
            .refuse(
                "spec.selector.matchLabels",
                "does not match spec.template.metadata.labels",
            )
            .into());
    }
    if !(1..=16).contains(&spec.replicas) {
        return Err(place.refuse("spec.replicas", "must be 1 to 16").into());
    }
    check_pod(place, "spec.template.spec", pod, images)
}

/// One container, and what is around it; `path` leads to it.
fn check_pod(place: &Place, path: &str, pod: &PodSpec, images: &ImageNames) -> Result<()> {
    if pod.containers.len() != 1 {
        let message = format!("holds {} containers, not one", pod.containers.len());
        return Err(elsewhere(place.refuse(&format!("{path}.containers"), message)).into());
    }
    check_volumes(place, path, pod)?;
    for (index, container) in pod.init_containers.iter().enumerate() {
        let path = format!("{path}.initContainers[{index}]");
        check_container(place, &path, pod, container, images)?;
        if container.readiness_probe.is_some() {
            return Err(place
                .refuse(
                    &format!("{path}.readinessProbe"),
                    "an init container has none",
                )
                .into());
        }
    }
    let path = format!("{path}.containers[0]");
    check_container(place, &path, pod, &pod.containers[0], images)
}

fn check_volumes(place: &Place, path: &str, pod: &PodSpec) -> Result<()> {
    let mut seen = BTreeSet::new();
    for (index, volume) in pod.volumes.iter().enumerate() {
        let field = format!("{path}.volumes[{index}]");
        let sources = usize::from(volume.config_map.is_some())
            + usize::from(volume.secret.is_some())
            + usize::from(volume.empty_dir.is_some())
            + usize::from(volume.persistent_volume_claim.is_some())
            + usize::from(volume.projected.is_some());
        if sources != 1 {
            let message =
                "must hold one of configMap, secret, emptyDir, persistentVolumeClaim, projected";
            return Err(elsewhere(place.refuse(&field, message)).into());
        }
        if !is_dns_label(&volume.name) || !seen.insert(&volume.name) {
            let message = format!("`{}` is no name or is there twice", volume.name);
            return Err(place.refuse(&format!("{field}.name"), message).into());
        }
        let projected = volume.projected.iter();
        let sources = projected.flat_map(|volume| &volume.sources);
        for (index, source) in sources.enumerate() {
            let held = usize::from(source.service_account_token.is_some())
                + usize::from(source.config_map.is_some())
                + usize::from(source.downward_api.is_some());
            if held != 1 {
                let field = format!("{field}.projected.sources[{index}]");
                let message = "must hold one of serviceAccountToken, configMap, downwardAPI";
                return Err(elsewhere(place.refuse(&field, message)).into());
            }
        }
        let empty = volume.empty_dir.as_ref();
        if empty.is_some_and(|e| e.size_limit.is_some() && e.medium != Some(Medium::Memory)) {
            let message = "is honoured with `medium: Memory` only";
            return Err(
                elsewhere(place.refuse(&format!("{field}.emptyDir.sizeLimit"), message)).into(),
            );
        }
    }
    Ok(())
}

fn check_container(
    place: &Place,
    path: &str,
    pod: &PodSpec,
    container: &Container,
    images: &ImageNames,
) -> Result<()> {
    check_image(place, path, &container.image, images)?;
    if !is_dns_label(&container.name) {
        let message = format!("`{}` is no name", container.name);
        return Err(place.refuse(&format!("{path}.name"), message).into());
    }
    let volumes = &pod.volumes;
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let field = format!("{path}.volumeMounts[{index}]");
        if !volumes.iter().any(|volume| volume.name == mount.name) {
            let message = format!("there is no volume `{}`", mount.name);
            return Err(place.refuse(&format!("{field}.name"), message).into());
        }
        let path = mount.mount_path.as_str();
        if !path.starts_with('/')
            || path.len() < 2
            || path.contains([':', ','])
            || path.contains("..")
        {
            let message = format!("`{path}` is no absolute path of a folder");
            return Err(place.refuse(&format!("{field}.mountPath"), message).into());
        }
    }
    for (index, variable) in container.env.iter().enumerate() {
        if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
            let message = format!("`{}` is no name", variable.name);
            return Err(place
                .refuse(&format!("{path}.env[{index}].name"), message)
                .into());
        }
    }
    for (index, capability) in container
        .security_context
        .capabilities
        .drop
        .iter()
        .enumerate()
    {
        let allowed = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        if capability.is_empty() || !capability.bytes().all(allowed) {
            let field = format!("{path}.securityContext.capabilities.drop[{index}]");
            return Err(place
                .refuse(&field, "is no capability: `ALL`, `NET_RAW`, ...")
                .into());
        }
    }
    check_user(place, path, pod, container)?;
    match &container.readiness_probe {
        Some(probe) => check_probe(place, path, container, probe),
        None => Ok(()),
    }
}

/// `runAsNonRoot` is a promise that needs a number to be kept.
fn check_user(place: &Place, path: &str, pod: &PodSpec, container: &Container) -> Result<()> {
    let pod = &pod.security_context;
    let own = &container.security_context;
    let non_root = own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
    if non_root && matches!(own.run_as_user.or(pod.run_as_user), None | Some(0)) {
        return Err(place
            .refuse(
                &format!("{path}.securityContext.runAsNonRoot"),
                "needs runAsUser with a number that is not 0",
            )
            .into());
    }
    Ok(())
}

fn check_probe(place: &Place, path: &str, container: &Container, probe: &Probe) -> Result<()> {
    let field = format!("{path}.readinessProbe");
    let port = match (&probe.http_get, &probe.tcp_socket) {
        (Some(http), None) => &http.port,
        (None, Some(tcp)) => &tcp.port,
        _ => {
            let message = "must hold one of httpGet, tcpSocket";
            return Err(elsewhere(place.refuse(&field, message)).into());
        }
    };
    if probe
        .http_get
        .as_ref()
        .is_some_and(|http| !http.path.starts_with('/'))
    {
        return Err(place
            .refuse(&format!("{field}.httpGet.path"), "must begin with `/`")
            .into());
    }
    let known = number(container, port).is_some_and(|number| {
        container
            .ports
            .iter()
            .any(|port| port.container_port == number)
    });
    if !known {
        let message = "asks a port that is not among the container's ports";
        return Err(place.refuse(&field, message).into());
    }
    Ok(())
}

/// Our own images and third-party ones alike are named and nothing more.
fn check_image(place: &Place, path: &str, image: &str, images: &ImageNames) -> Result<()> {
    if images.own.contains(image) || images.third_party.contains(image) {
        return Ok(());
    }
    let field = format!("{path}.image");
    let without_digest = image.split('@').next().unwrap_or_default();
    let last = without_digest.rsplit('/').next().unwrap_or_default();
    let name = last.split(':').next().unwrap_or_default();
    let what = if image.contains('@') {
        "a digest"
    } else {
        "a tag or a registry"
    };
    if images.own.contains(name) {
        return Err(place
            .refuse(&field, format!("`{image}` puts {what} on an image of ours"))
            .hint(format!(
                "write `image: {name}`; the run puts in the reference that it made from the sources"
            ))
            .into());
    }
    if images.third_party.contains(name) {
        return Err(place
            .refuse(
                &field,
                format!("`{image}` puts {what} on a third-party image"),
            )
            .hint(format!("write `image: {name}`; deploy/images.toml pins it"))
            .into());
    }
    let latest = image.ends_with(":latest") || !last.contains(':');
    let message = if latest && !image.contains('@') {
        format!("`{image}` is no image of the workspace, and without a pinned version at that")
    } else {
        format!("`{image}` is no image of the workspace")
    };
    Err(place
        .refuse(&field, message)
        .hint(format!(
            "a package ({}), or a name pinned in deploy/images.toml ({})",
            listed(&images.own),
            listed(&images.third_party)
        ))
        .into())
}
