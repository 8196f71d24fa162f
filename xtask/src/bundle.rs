//! An offline bundle: a folder with tools and images for machines without a network, and a
//! `bundle.toml` that names each with its checksum. Every file is checked before anything of it is
//! used; what is executed is a copy that was checked while it was made, and an image counts by its
//! ID in the engine's own listing. Nothing here asks a network, and nothing is written to the folder.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::engine::Engine;
use crate::report;

mod checked;
mod description;
mod image;
mod tool;

pub use self::image::{BundledImage, ImageStanding, Provided};
pub use self::tool::{Tool, ToolStanding};

use self::description::{ImageEntry, Packing, ToolEntry};

/// What a bundle describes itself in.
pub const FILE: &str = "bundle.toml";

/// A bundle whose description was read and found sound.
#[derive(Debug)]
pub struct Bundle {
    folder: Utf8PathBuf,
    tools: BTreeMap<String, ToolEntry>,
    images: BTreeMap<String, ImageEntry>,
    taken: Mutex<Taken>,
}

/// What was taken from a bundle so far, by name; the receipt tells it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Taken {
    /// The bundle.
    pub folder: Utf8PathBuf,
    /// Tools that were asked for.
    pub tools: BTreeMap<String, Tool>,
    /// Images that were asked for.
    pub images: BTreeMap<String, BundledImage>,
}

impl Bundle {
    /// Reads the description. Which of the files are there is seen when they are needed: an image
    /// that the engine has needs no archive.
    ///
    /// # Errors
    /// When there is no such folder, no `bundle.toml` in it, or that says what cannot be honoured:
    /// names file and key.
    pub fn open(folder: &Utf8Path) -> Result<Self> {
        let folder = description::folder(folder)?;
        let (tools, images) = description::read(&folder)?;
        let taken = Mutex::new(Taken {
            folder: folder.clone(),
            ..Taken::default()
        });
        Ok(Self {
            folder,
            tools,
            images,
            taken,
        })
    }

    /// The one that a command line names, if it names one; an empty `E2E_BUNDLE` names none.
    ///
    /// # Errors
    /// As [`Bundle::open`].
    pub fn given(folder: Option<&Utf8Path>) -> Result<Option<Self>> {
        let named = folder.filter(|folder| !folder.as_str().is_empty());
        named.map(Self::open).transpose()
    }

    /// Where it is, by its real name.
    #[must_use]
    pub fn folder(&self) -> &Utf8Path {
        &self.folder
    }

    /// The names of its tools.
    pub fn tools(&self) -> impl Iterator<Item = &str> {
        self.tools.keys().map(String::as_str)
    }

    /// The names of its images.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        self.images.keys().map(String::as_str)
    }

    /// What engines call the image of this name, if the bundle has it.
    #[must_use]
    pub fn reference(&self, image: &str) -> Option<&str> {
        let entry = self.images.get(image)?;
        Some(&entry.reference)
    }

    /// The ID of the image of this name, `sha256:...`, if the bundle has it.
    #[must_use]
    pub fn image_id(&self, image: &str) -> Option<&str> {
        let entry = self.images.get(image)?;
        Some(&entry.image_id)
    }

    /// Some of its archives are unpacked by the program `zstd`.
    #[must_use]
    pub fn needs_zstd(&self) -> bool {
        let packed = |entry: &ImageEntry| matches!(entry.packing, Packing::Zstd { .. });
        self.images.values().any(packed)
    }

    /// The tool of this name, checked and ready to be executed; nothing if the bundle has none.
    ///
    /// # Errors
    /// When its file is missing, is for another platform, or has another checksum: names it.
    pub fn tool(&self, name: &str) -> Result<Option<Tool>> {
        let Some(entry) = self.tools.get(name) else {
            return Ok(None);
        };
        let tool = tool::provide(&self.folder, name, entry)?;
        self.note(|taken| taken.tools.insert(name.to_owned(), tool.clone()));
        Ok(Some(tool))
    }

    /// The image of this name, in the engine; nothing if the bundle has none. Nothing is read if
    /// the engine lists its reference with its image ID.
    ///
    /// # Errors
    /// When the engine has another image under that reference; when the archive is missing, is for
    /// another platform, has another checksum, or does not hold that image: names it, and both IDs.
    pub fn image(&self, name: &str, engine: &Engine) -> Result<Option<BundledImage>> {
        let Some(entry) = self.images.get(name) else {
            return Ok(None);
        };
        let image = image::provide(&self.folder, name, entry, engine)?;
        self.note(|taken| taken.images.insert(name.to_owned(), image.clone()));
        Ok(Some(image))
    }

    /// How the tool of this name stands; changes nothing.
    ///
    /// # Errors
    /// As [`Bundle::tool`], and when there is none of that name.
    pub fn look_at_tool(&self, name: &str) -> Result<ToolStanding> {
        let entry = self.tools.get(name);
        let entry = entry.ok_or_else(|| description::absent(&self.folder, "tool", name))?;
        tool::look(&self.folder, name, entry)
    }

    /// How the image of this name stands with this engine; changes nothing.
    ///
    /// # Errors
    /// As [`Bundle::image`], as far as it is seen without loading; and when there is none of that name.
    pub fn look_at_image(&self, name: &str, engine: &Engine) -> Result<ImageStanding> {
        let entry = self.images.get(name);
        let entry = entry.ok_or_else(|| description::absent(&self.folder, "image", name))?;
        image::look(&self.folder, entry, engine)
    }

    /// `tool kind 0.33.0`, for people.
    #[must_use]
    pub fn tool_title(&self, name: &str) -> String {
        let version = self.tools.get(name).map(|entry| entry.version.as_str());
        format!("tool {name} {}", version.unwrap_or_default())
    }

    /// What was asked of it so far, and given.
    #[must_use]
    pub fn taken(&self) -> Taken {
        let taken = self.taken.lock();
        taken.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note<T>(&self, note: impl FnOnce(&mut Taken) -> T) {
        note(&mut self.taken.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Where a file of a bundle lies, for people.
fn place(folder: &Utf8Path, file: &Utf8Path) -> Utf8PathBuf {
    report::near(&folder.join(file)).to_owned()
}
