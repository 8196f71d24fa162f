//! What an image says of itself, in the labels of its config: package, target, sources, recipe.
//! They go with the image wherever it goes, and the image ID covers them. Reads back what it writes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};

use super::recipe;
use crate::digest::Digest;
use crate::image::Observed;

const PACKAGE: &str = "phase-zero.package";
const TARGET: &str = "phase-zero.target";
const SOURCE: &str = "phase-zero.source-digest";
const RECIPE: &str = "phase-zero.recipe-digest";
/// All fields of the recipe, as JSON, so that two recipes can be told apart in words.
const RECIPE_FIELDS: &str = "phase-zero.recipe";

/// The labels that every image has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Labels {
    pub(super) package: String,
    pub(super) target: String,
    pub(super) source: Digest,
    pub(super) recipe: Digest,
    pub(super) recipe_fields: BTreeMap<String, String>,
}

impl Labels {
    /// As they stand in the config.
    pub(super) fn written(&self) -> Result<BTreeMap<String, String>> {
        let fields = serde_json::to_string(&self.recipe_fields)?;
        let labels = [
            (PACKAGE, self.package.clone()),
            (TARGET, self.target.clone()),
            (SOURCE, self.source.to_string()),
            (RECIPE, self.recipe.to_string()),
            (RECIPE_FIELDS, fields),
        ];
        Ok(labels.map(|(name, value)| (name.to_owned(), value)).into())
    }

    /// Those of an image; its recipe must have the digest that is said of it.
    pub(super) fn read(image: &Observed) -> Result<Self> {
        let label = |name: &str| {
            let value = image.label(name);
            value.with_context(|| format!("it has no label {name}"))
        };
        let digest = |name: &str| -> Result<Digest> {
            let value = label(name)?;
            value
                .parse()
                .ok()
                .with_context(|| format!("its label {name} is no digest: {value}"))
        };
        let recipe_fields: BTreeMap<String, String> =
            serde_json::from_str(label(RECIPE_FIELDS)?)
                .with_context(|| format!("its label {RECIPE_FIELDS} cannot be read"))?;
        let (said, recipe) = (digest(RECIPE)?, recipe::digest_of(recipe_fields.iter()));
        ensure!(
            said == recipe,
            "its recipe has the digest {recipe}, and its label says {said}"
        );
        Ok(Self {
            package: label(PACKAGE)?.to_owned(),
            target: label(TARGET)?.to_owned(),
            source: digest(SOURCE)?,
            recipe,
            recipe_fields,
        })
    }
}
