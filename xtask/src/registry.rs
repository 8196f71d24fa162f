//! A registry, asked by skopeo. It looks, it fetches by digest, and it pushes an image under the
//! name that phase 0 gave it; there is no way to name another destination. A third party's image gets
//! a name of its own there, made of its image ID. Credentials are skopeo's own affair: it reads them
//! from its files (`skopeo login` writes them), and none passes here; what nodes pull with is looked
//! up in the same files, see [`credentials`].

use std::time::Duration;

use anyhow::{Error, Result};
use camino::Utf8Path;
use serde::Deserialize;

use crate::digest::Digest;
use crate::exit::{Exit, Failure};
use crate::host;
use crate::pipeline::build::Built;
use crate::pipeline::tag::{ImageRef, NameThere, Repository};
use crate::process::{self, Captured, Invocation, ProcessError};
use crate::third_party::ThirdPartyImage;

pub(crate) mod credentials;

/// A document of a few kilobytes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// An image of some twenty megabytes on a slow line.
const COPY_DEADLINE: Duration = Duration::from_secs(600);
/// Four hundred megabytes, packed and sent.
const THIRD_PARTY_DEADLINE: Duration = Duration::from_secs(1800);
/// Below the repository of a run; no package of ours is named below another.
const THIRD_PARTY: &str = "third-party";
/// What registries answer where there is no such name or tag.
const NOT_THERE: [&str; 4] = [
    "manifest unknown",
    "name unknown",
    "manifest_unknown",
    "404 (not found)",
];
/// And where somebody is not known to them.
const NOT_ALLOWED: [&str; 3] = ["unauthorized", "authentication required", "denied"];

/// The repository of one package in a registry.
#[derive(Clone, Debug)]
pub(crate) struct Registry {
    skopeo: String,
    repository: Repository,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TagList {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// Of this repository.
    ///
    /// # Errors
    /// [`Exit::Host`] when skopeo is not installed.
    pub(crate) fn new(repository: &Repository) -> Result<Self> {
        let skopeo = host::program("skopeo").ok_or_else(|| {
            let what = format!("{repository} is asked by skopeo, and that is not installed");
            Failure::new(Exit::Host, what)
                .hint("`--yes` installs it; by hand: the package is skopeo")
        })?;
        Ok(Self {
            skopeo: skopeo.into_string(),
            repository: repository.clone(),
        })
    }

    pub(crate) const fn repository(&self) -> &Repository {
        &self.repository
    }

    /// The manifest under a name, byte for byte; nothing where there is none.
    pub(crate) fn manifest(&self, image: &ImageRef) -> Result<Option<Vec<u8>>> {
        self.manifest_of(&image.to_string())
    }

    /// The manifest under a name that may be anybody's: for looking around.
    pub(crate) fn manifest_there(&self, image: &NameThere) -> Result<Option<Vec<u8>>> {
        self.manifest_of(&image.to_string())
    }

    fn manifest_of(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let ask = self.inspect(name).arg("--raw");
        Ok(self.ask(&ask)?.map(|told| told.stdout.into_bytes()))
    }

    /// The config of the image with this manifest, byte for byte.
    pub(crate) fn config(&self, package: &str, manifest: Digest) -> Result<Vec<u8>> {
        let name = self.by_digest(package, manifest);
        let ask = self.inspect(&name).args(["--config", "--raw"]);
        let told = self.ask(&ask)?.ok_or_else(|| gone(&name))?;
        Ok(told.stdout.into_bytes())
    }

    /// Every tag of a package; none where it is not known.
    pub(crate) fn tags(&self, package: &str) -> Result<Vec<String>> {
        let list = self
            .skopeo(["list-tags"])
            .args(self.plain_http("--tls-verify=false"))
            .arg(format!("docker://{}/{package}", self.repository));
        let Some(told) = self.ask(&list)? else {
            return Ok(Vec::new());
        };
        let list: TagList = serde_json::from_str(&told.stdout).map_err(|error| {
            let what = format!("skopeo's list of tags cannot be read: {list}");
            Failure::new(Exit::Host, what).caused_by(error)
        })?;
        Ok(list.tags.unwrap_or_default())
    }

    /// How an image is fetched into an archive, by the digest of its manifest. A path may have a
    /// colon in it, which would begin a tag; the name of an archive has none.
    pub(crate) fn fetching(
        &self,
        package: &str,
        manifest: Digest,
        (folder, name): (&Utf8Path, &str),
    ) -> Invocation {
        self.skopeo(["copy", "--preserve-digests", "--quiet"])
            .args(self.plain_http("--src-tls-verify=false"))
            .arg(format!("docker://{}", self.by_digest(package, manifest)))
            .arg(format!("oci-archive:{name}"))
            .current_dir(folder)
    }

    /// Fetches it.
    pub(crate) fn fetch(
        &self,
        package: &str,
        manifest: Digest,
        to: (&Utf8Path, &str),
    ) -> Result<()> {
        let copy = self.fetching(package, manifest, to);
        process::capture(&copy, COPY_DEADLINE).map_err(|error| self.refused(error))?;
        Ok(())
    }

    /// Pushes an image under its own name. What the registry has of it already is not sent.
    pub(crate) fn push(&self, image: &Built) -> Result<()> {
        let push = self.pushing(image.archive(), &image.reference().to_string());
        process::capture(&push, COPY_DEADLINE).map_err(|error| self.refused(error))?;
        Ok(())
    }

    /// How an archive of ours gets its own name in the registry.
    pub(crate) fn pushing(&self, archive: &Utf8Path, reference: &str) -> Invocation {
        let copy = self.skopeo(["copy", "--preserve-digests", "--quiet"]);
        self.copying(copy, "oci-archive", archive, reference)
    }

    /// What a third party's image is called in the registry: by its own image ID, so that the name
    /// means one image.
    pub(crate) fn third_party_name(&self, image: &ThirdPartyImage) -> Result<String> {
        let image_id: Digest = image.image_id().parse()?;
        let (below, image_id) = (image.name(), image_id.short());
        Ok(format!(
            "{}/{THIRD_PARTY}/{below}:{image_id}",
            self.repository
        ))
    }

    /// The manifest of a third party's image, byte for byte; nothing where there is none.
    pub(crate) fn third_party_manifest(&self, image: &ThirdPartyImage) -> Result<Option<Vec<u8>>> {
        self.manifest_of(&self.third_party_name(image)?)
    }

    /// Pushes a third party's image from an archive that an engine wrote. Its layers are packed on the
    /// way, so the manifest is known when it is there; the config, and with it the image ID, stays.
    pub(crate) fn push_third_party(
        &self,
        image: &ThirdPartyImage,
        archive: &Utf8Path,
    ) -> Result<()> {
        let push = self.pushing_third_party(archive, &self.third_party_name(image)?);
        process::capture(&push, THIRD_PARTY_DEADLINE).map_err(|error| self.refused(error))?;
        Ok(())
    }

    /// How that is done.
    pub(crate) fn pushing_third_party(&self, archive: &Utf8Path, name: &str) -> Invocation {
        let copy = self.skopeo(["copy", "--quiet"]);
        self.copying(copy, "docker-archive", archive, name)
    }

    /// A path may have a colon in it; the name of an archive has none.
    fn copying(&self, copy: Invocation, kind: &str, archive: &Utf8Path, to: &str) -> Invocation {
        let folder = archive.parent().unwrap_or(Utf8Path::new("/"));
        let name = archive.file_name().unwrap_or_default();
        copy.args(self.plain_http("--dest-tls-verify=false"))
            .arg(format!("{kind}:{name}"))
            .arg(format!("docker://{to}"))
            .current_dir(folder)
    }

    fn by_digest(&self, package: &str, manifest: Digest) -> String {
        format!("{}/{package}@{}", self.repository, manifest.oci())
    }

    fn inspect(&self, name: &str) -> Invocation {
        self.skopeo(["inspect"])
            .args(self.plain_http("--tls-verify=false"))
            .arg(format!("docker://{name}"))
    }

    fn skopeo<const N: usize>(&self, arguments: [&str; N]) -> Invocation {
        Invocation::new(&self.skopeo).args(arguments)
    }

    /// For a registry on this machine alone.
    fn plain_http(&self, option: &'static str) -> Option<&'static str> {
        self.repository.is_on_this_machine().then_some(option)
    }

    /// Nothing where the registry says that there is no such thing.
    fn ask(&self, question: &Invocation) -> Result<Option<Captured>> {
        match process::capture(question, ANSWER_DEADLINE) {
            Ok(told) => Ok(Some(told)),
            Err(ProcessError::Failed { stderr, .. }) if says(&stderr, &NOT_THERE) => Ok(None),
            Err(error) => Err(self.refused(error)),
        }
    }

    fn refused(&self, error: ProcessError) -> Error {
        let (host, repository) = (self.repository.host(), &self.repository);
        let (what, hint) = match &error {
            ProcessError::Interrupted { .. } => return error.into(),
            ProcessError::Failed { stderr, .. } if says(stderr, &NOT_ALLOWED) => (
                format!("{host} does not let us do that in {repository}"),
                format!("`skopeo login {host}` writes the file that skopeo reads credentials from"),
            ),
            ProcessError::Deadline { .. } => (
                format!("{host} did not answer in time"),
                "try the command by hand".to_owned(),
            ),
            _ => (
                format!("skopeo got no answer of use from {host}"),
                "its own words are above; try the command by hand".to_owned(),
            ),
        };
        Failure::new(Exit::Host, what)
            .hint(hint)
            .caused_by(error)
            .into()
    }
}

fn says(words: &str, one_of: &[&str]) -> bool {
    let words = words.to_ascii_lowercase();
    one_of.iter().any(|told| words.contains(told))
}

fn gone(name: &str) -> Failure {
    Failure::new(
        Exit::Host,
        format!("{name} was there a moment ago, and is not now"),
    )
    .hint("run again")
}
