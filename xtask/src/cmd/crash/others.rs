//! What belongs to somebody else: a container with a volume and a network of its own, and an image,
//! made before the first run is killed. Some of it looks like ours, with labels of another checkout
//! whose run cannot be judged from here. It must be there afterwards, and be the same.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::engine::{ContainerFacts, Engine, smallest_executable};
use crate::image::{self, Contents};
use crate::process::{self, Invocation};
use crate::run;

const DEADLINE: Duration = Duration::from_secs(60);

/// Somebody else's.
pub(super) struct Others<'a> {
    engine: &'a Engine,
    name: String,
    image: String,
    before: Vec<ContainerFacts>,
}

/// An archive of theirs.
struct Written(camino::Utf8PathBuf);

impl crate::engine::Archive for Written {
    fn path(&self) -> &camino::Utf8Path {
        &self.0
    }
}

impl<'a> Others<'a> {
    /// Makes it.
    ///
    /// # Errors
    /// When the engine makes it not.
    pub(super) fn make(engine: &'a Engine) -> Result<Self> {
        let (_folder, folder) = super::super::temporary()?;
        let name = format!("phase-zero-others-{}", std::process::id());
        let image = format!("localhost/{name}:1");
        let binary = smallest_executable(&engine.platform)?;
        let archive = Written(folder.join("others.tar"));
        image::assemble(&Contents {
            reference: &image,
            binary_name: "/others",
            binary: &binary,
            platform: &engine.platform,
            labels: [("phase-zero.target".to_owned(), "others".to_owned())].into(),
        })?
        .write_archive(std::fs::File::create(&archive.0)?)?;
        engine.load(&archive)?;
        let mut others = Self {
            engine,
            name,
            image,
            before: Vec::new(),
        };
        others.start()?;
        others.before = others.now()?;
        ensure!(
            others.before.len() == 2,
            "the engine does not list {}",
            others.name
        );
        Ok(others)
    }

    fn start(&self) -> Result<()> {
        let name = self.name.as_str();
        let labels = [
            format!("--label={}=others-20260101-000000-0000", run::LABEL_RUN),
            format!("--label={}=0000000000000000", run::LABEL_CHECKOUT),
            format!("--label={}=/nonexistent/others", run::LABEL_DIRECTORY),
        ];
        let labels = labels.each_ref().map(String::as_str);
        let (plain, alike) = (self.plain(), self.alike());
        let volume = format!("{name}:/data");
        let create = |rest: &[&str]| {
            let call = [&["create", "--pull=never"], rest, &[self.image.as_str()]];
            self.call(&call.concat())
        };
        self.call(&[&["network", "create"], &labels[..], &[name]].concat())?;
        self.call(&[&["volume", "create"], &labels[..], &[name]].concat())?;
        create(&["--name", &plain, "--volume", &volume])?;
        create(&[&["--name", &alike, "--network", name], &labels[..]].concat())
    }

    /// A container without any label.
    fn plain(&self) -> String {
        format!("{}-plain", self.name)
    }

    /// A container with labels like ours.
    fn alike(&self) -> String {
        format!("{}-alike", self.name)
    }

    fn call(&self, arguments: &[&str]) -> Result<()> {
        let invocation: Invocation = self.engine.invocation().args(arguments.iter().copied());
        process::capture(&invocation, DEADLINE)?;
        Ok(())
    }

    fn now(&self) -> Result<Vec<ContainerFacts>> {
        let names = [self.plain(), self.alike()];
        let facts = self.engine.containers(names.iter().map(String::as_str))?;
        Ok(facts.into_values().collect())
    }

    /// It is there, and the same.
    ///
    /// # Errors
    /// What has changed.
    pub(super) fn untouched(&self) -> Result<()> {
        let now = self.now()?;
        ensure!(
            now == self.before,
            "containers of others changed from {:?} to {now:?}",
            self.before
        );
        let image = self.engine.images([self.image.as_str()])?;
        ensure!(
            image.contains_key(&self.image),
            "the image of others, {}, is gone",
            self.image
        );
        let gone = |what: &str| format!("the {what} of others, {}, is gone", self.name);
        self.call(&["volume", "inspect", &self.name])
            .with_context(|| gone("volume"))?;
        self.call(&["network", "inspect", &self.name])
            .with_context(|| gone("network"))
    }

    /// Takes it away again; all of it is tried.
    ///
    /// # Errors
    /// What could not be removed.
    pub(super) fn remove(&self) -> Result<()> {
        let results = [
            self.call(&["rm", "--force", &self.plain(), &self.alike()]),
            self.call(&["volume", "rm", &self.name]),
            self.call(&["network", "rm", &self.name]),
            self.call(&["image", "rm", "--force", &self.image]),
        ];
        results.into_iter().collect()
    }
}
