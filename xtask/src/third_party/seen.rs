//! Which image a pinned name meant last time, for each engine: a tag can be moved, in the registry
//! and by hand, and whoever compares two runs should know.

use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::engine::Engine;
use crate::host;
use crate::report;

#[derive(Serialize, Deserialize)]
struct LastSeen {
    reference: String,
    image_id: String,
}

/// Says so if the name meant another image last time, and remembers what it means now.
pub(super) fn note_change(engine: &Engine, reference: &str, image_id: &str) -> Result<()> {
    let folder = host::cache_directory()?.join("seen-images");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder}"))?;
    let program = engine.kind.program();
    let name = Digest::of(reference.as_bytes()).short();
    let path = folder.join(format!("{program}-{name}.json"));
    let last = host::read_cached::<LastSeen>(&path).filter(|seen| seen.reference == reference);
    if let Some(last) = last {
        if last.image_id == image_id {
            return Ok(());
        }
        report::note(&format!(
            "{reference} is another image in {program} than last time: {} -> {image_id}",
            last.image_id
        ));
    }
    let seen = LastSeen {
        reference: reference.to_owned(),
        image_id: image_id.to_owned(),
    };
    host::write_cached(&path, &seen)
}
