//! `v1 PodTemplate`: what a service makes Jobs from while a run goes on. Nothing of it runs when it is
//! deployed, so it is held to the rules of a Deployment beforehand, and its pods are held against what
//! was built when they come.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::document::{PodTemplate, PodTemplateDocument};
use super::{ImageNames, Place, check_pod, is_dns_label};

/// Its kind.
pub(crate) const KIND: &str = "PodTemplate";

/// One of a run.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    pub(super) place: Place,
    /// The manifest's own name.
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) pod: PodTemplate,
}

impl Template {
    /// The labels that every pod made from it carries.
    pub(crate) const fn labels(&self) -> &BTreeMap<String, String> {
        &self.pod.metadata.labels
    }
}

/// Where a document says what its pods are, if it has pods.
pub(crate) fn pod_of(document: &mut Value) -> Option<&mut Value> {
    let pointer = match document["kind"].as_str()? {
        "Deployment" => "/spec/template",
        KIND => "/template",
        _ => return None,
    };
    document.pointer_mut(pointer)
}

/// Judges one as it is written.
pub(super) fn check(
    place: &Place,
    document: &PodTemplateDocument,
    images: &ImageNames,
) -> Result<()> {
    let name = &document.metadata.name;
    if !is_dns_label(name) {
        let message = format!("`{name}` is no name: lower-case letters, digits and `-`");
        return Err(place.refuse("metadata.name", message).into());
    }
    let pod = &document.template;
    if pod.metadata.labels.is_empty() {
        let message = "has none: nobody could tell what a pod was made from";
        return Err(place.refuse("template.metadata.labels", message).into());
    }
    let path = "template.spec";
    check_pod(place, path, &pod.spec, images)?;
    for (index, volume) in pod.spec.volumes.iter().enumerate() {
        if volume.persistent_volume_claim.is_some() {
            let field = format!("{path}.volumes[{index}].persistentVolumeClaim");
            let message = "a claim is the data of one pod, and pods of a template come and go";
            return Err(place.refuse(&field, message).into());
        }
    }
    if pod.spec.containers[0].readiness_probe.is_some() {
        let field = format!("{path}.containers[0].readinessProbe");
        let message = "it runs to its end, and nobody waits until it is ready";
        return Err(place.refuse(&field, message).into());
    }
    Ok(())
}
