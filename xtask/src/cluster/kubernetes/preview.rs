//! What would be applied, for a plan: told from the documents that a roll-out applies.

use anyhow::Result;
use serde_json::Value;

use super::documents::{self, Place, Which};
use crate::manifest::template::pod_of;
use crate::manifest::{Manifests, Named, References};

/// The documents of the manifests, each by kind and name, with the references that it would get; `id`
/// stands for the run.
///
/// # Errors
/// [`crate::exit::Exit::Manifest`] for an image that does not belong to the run.
pub(crate) fn documents(
    id: &str,
    manifests: &Manifests,
    references: &References<impl Named>,
) -> Result<Vec<String>> {
    let place = Place {
        run: id,
        namespace: id,
    };
    let documents = documents::of_manifests(place, manifests, references, Which::All)?;
    Ok(documents.iter().map(told).collect())
}

/// `Deployment gateway: localhost/gateway:...`
pub(in crate::cluster) fn told(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let mut told = format!(
        "{} {}",
        text("/kind").unwrap_or_default(),
        text("/metadata/name").unwrap_or_default()
    );
    let mut document = document.clone();
    let pod = pod_of(&mut document).map(|pod| &pod["spec"]);
    let lists = ["initContainers", "containers"].into_iter();
    let containers = lists.filter_map(|list| pod?[list].as_array());
    let mut images: Vec<&str> = containers
        .flatten()
        .filter_map(|container| container["image"].as_str())
        .collect();
    images.dedup();
    if !images.is_empty() {
        told.push_str(&format!(": {}", images.join(", ")));
    }
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::told;

    #[test]
    fn a_document_is_told_with_its_images() {
        let pod = json!({"initContainers": [{"image": "a:1"}], "containers": [{"image": "a:1"}, {"image": "b:2"}]});
        let deployment = json!({"kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": {"spec": &pod}}});
        assert_eq!(told(&deployment), "Deployment x: a:1, b:2");
        let template =
            json!({"kind": "PodTemplate", "metadata": {"name": "z"}, "template": {"spec": pod}});
        assert_eq!(told(&template), "PodTemplate z: a:1, b:2");
        assert_eq!(
            told(&json!({"kind": "Service", "metadata": {"name": "y"}})),
            "Service y"
        );
    }
}
