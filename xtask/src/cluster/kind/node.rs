//! A node of kind: a container of the engine with a container runtime inside. Images are streamed
//! into it, and its own listing tells what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde::Deserialize;

use super::config::SERVICE_SUBNET;
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::poll::{self, Look};
use crate::process::{self, Input, Invocation};
use crate::run;

/// An answer that changes nothing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// An image of a few hundred megabytes on a busy host.
const IMPORT_DEADLINE: Duration = Duration::from_secs(300);
/// How often it is asked for what is about to change.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Where Kubernetes keeps its images.
const NAMESPACE: &str = "--namespace=k8s.io";
/// What the runtime tells of the content of its arguments.
const CHECK: &str = r#"ctr --namespace=k8s.io images check "$@""#;
/// What Kubernetes lists. It takes five times as long.
const LIST: &str = "crictl images --output=json";
/// Unpacked by the client: the server's way takes twice as long.
const IMPORT: &str = "ctr --namespace=k8s.io images import --local - >&2";
/// Stands between two of them.
const LINE: &str = "---";

/// What a node tells of some images.
#[derive(Debug)]
struct Told {
    /// Those that it lists, with their IDs.
    listed: BTreeMap<String, String>,
    /// What is told of the content of each.
    content: String,
    /// Every name that it lists.
    names: BTreeSet<String>,
}
/// IDs by name, and every name.
pub(super) type Survey = (BTreeMap<String, String>, BTreeSet<String>);

/// Names of images, before some were put in and after that.
#[derive(Debug, Default)]
pub(crate) struct Around {
    /// What had these names: the digests of their manifests, `sha256:...`.
    pub(crate) before: BTreeMap<String, BTreeSet<String>>,
    /// The IDs of those that are complete.
    pub(crate) after: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) engine: &'a Engine,
    /// The container.
    pub(super) name: &'a str,
}

#[derive(Deserialize)]
struct Listing {
    images: Vec<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    id: String,
    #[serde(default)]
    repo_tags: Vec<String>,
}

impl Node<'_> {
    fn exec(&self, interactive: bool) -> Invocation {
        let exec = self.engine.invocation().arg("exec");
        let exec = match interactive {
            true => exec.arg("--interactive"),
            false => exec,
        };
        exec.arg(self.name)
    }

    /// Takes an archive from its standard input, and tells of these images before and after it.
    pub(super) fn exchange_command(&self, references: &[&str]) -> Invocation {
        let steps = format!("{CHECK}; echo {LINE}; {IMPORT}; {LIST}; {CHECK}");
        let command = self.exec(true).args(["sh", "-ec", &steps, "sh"]);
        command.args(named(references))
    }

    /// Streams an archive into it. Gives what there was before, and what [`Self::whole_images`] gives after
    /// it. By one command, since each costs the engine's start.
    ///
    /// # Errors
    /// With the words of the node's runtime.
    pub(super) fn exchange(&self, archive: &Utf8Path, references: &[&str]) -> Result<Around> {
        let told = self.take(archive, &self.exchange_command(references))?;
        around(&told, references)
    }

    fn take(&self, archive: &Utf8Path, command: &Invocation) -> Result<String> {
        let input = Input::File(archive.to_owned());
        let took = process::capture_with_input(command, &input, IMPORT_DEADLINE);
        let took = took.map_err(|error| {
            Failure::new(
                error.exit(),
                format!("node {} does not take {archive}", self.name),
            )
            .hint("look at the node's disk: an image needs its size twice there")
            .caused_by(error)
        })?;
        Ok(took.stdout)
    }

    /// Every image that it lists by a full name, with its ID, `sha256:...` of its config. An image
    /// that is listed and not complete is an error: no pod could run it.
    ///
    /// # Errors
    /// With the words of the node's runtime; [`Exit::Internal`] for an image that is not complete.
    pub(super) fn images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        self.complete(self.asked(references)?)
    }

    /// As [`Self::images`], and every name that it lists; and has it do what [`Self::refuse_strays`] does.
    ///
    /// # Errors
    /// As theirs.
    pub(super) fn survey(&self, references: &[&str]) -> Result<Survey> {
        let steps = format!("{}; {LIST}; {CHECK}", refusal());
        let mut told = self.asked_by(&steps, references)?;
        let names = mem::take(&mut told.names);
        Ok((self.complete(told)?, names))
    }

    fn complete(&self, told: Told) -> Result<BTreeMap<String, String>> {
        for name in told.listed.keys() {
            let status = word(&told.content, name, Column::Status);
            if status.as_deref() != Some("complete") {
                let status = status.unwrap_or_else(|| "not there".to_owned());
                let message = format!(
                    "node {} lists {name}, and its content is {status}",
                    self.name
                );
                return Err(Failure::new(Exit::Internal, message)
                    .hint("what the node holds is damaged: `cargo xtask clean` removes the cluster")
                    .into());
            }
        }
        Ok(told.listed)
    }

    /// Those of these that are listed, and what is told of the content of each.
    fn asked(&self, references: &[&str]) -> Result<Told> {
        self.asked_by(&format!("{LIST}; {CHECK}"), references)
    }

    fn asked_by(&self, steps: &str, references: &[&str]) -> Result<Told> {
        let ask = self.exec(false).args(["sh", "-ec", steps, "sh"]);
        let ask = ask.args(named(references));
        told_of(&process::capture(&ask, ANSWER_DEADLINE)?.stdout, references)
    }

    /// As [`Self::images`], and one that is not complete is not there.
    ///
    /// # Errors
    /// With the words of the node's runtime.
    pub(super) fn whole_images(&self, references: &[&str]) -> Result<BTreeMap<String, String>> {
        Ok(whole(self.asked(references)?))
    }

    /// The full names of all images that it lists, complete or not.
    ///
    /// # Errors
    /// With the words of the node's runtime.
    pub(super) fn listed(&self) -> Result<Vec<String>> {
        Ok(self.listing()?.into_keys().collect())
    }

    fn listing(&self) -> Result<BTreeMap<String, String>> {
        let list = self.exec(false).args(["crictl", "images", "--output=json"]);
        let text = process::capture(&list, ANSWER_DEADLINE)?.stdout;
        let listing = serde_json::from_str(&text);
        let listing = listing.with_context(|| format!("cannot read the answer of: {list}"))?;
        Ok(listed(listing))
    }

    /// Takes images by their names.
    ///
    /// # Errors
    /// With the words of the node's runtime.
    pub(super) fn remove(&self, references: &[&str]) -> Result<()> {
        let remove = self.exec(false).args(["ctr", NAMESPACE, "images", "rm"]);
        process::capture(&remove.args(references.iter().copied()), ANSWER_DEADLINE)?;
        Ok(())
    }

    /// See [`forget`].
    fn forget(&self, reference: &str) -> Result<()> {
        let remove = self
            .exec(false)
            .args(["ctr", NAMESPACE, "images", "rm", "--sync", reference]);
        process::capture(&remove, ANSWER_DEADLINE)?;
        // What pulls images for pods hears of it a moment later.
        poll::until("image gone", ANSWER_DEADLINE, LOOK_INTERVAL, || {
            Ok(match self.listing()?.contains_key(reference) {
                false => Look::Found(()),
                true => Look::NotYet(format!("{} lists {reference}", self.name)),
            })
        })
    }

    /// Has it refuse what is sent to the address of a Service that it knows no way for yet, or any
    /// more. Else it sends that out to wherever its own network leads, and a client may keep a
    /// connection to a stranger there. What does lead to a pod has the pod's address by then.
    ///
    /// # Errors
    /// When the node has no packet filter.
    pub(super) fn refuse_strays(&self) -> Result<()> {
        let refuse = self.exec(false).args(["sh", "-ec", &refusal()]);
        process::capture(&refuse, ANSWER_DEADLINE)?;
        Ok(())
    }

    /// A file of it, as a program of ours.
    ///
    /// # Errors
    /// When the engine does not give it.
    pub(super) fn copy(&self, path: &str, to: &Utf8Path) -> Result<()> {
        let from = format!("{}:{path}", self.name);
        let copy = self.engine.invocation().args(["cp", &from, to.as_str()]);
        process::capture(&copy, ANSWER_DEADLINE)?;
        Ok(())
    }
}

/// Takes its name from an image on the node of a run: no pod finds it any more. For those who show what
/// comes of that.
///
/// # Errors
/// With the words of the node's runtime, or when it lists the image still.
pub(crate) fn forget(engine: &Engine, run: &str, reference: &str) -> Result<()> {
    let name = &run::kind_node(run);
    Node { engine, name }.forget(reference)
}

/// Puts a rule into the packet filter, unless it is there: a node that was started again has lost it.
fn refusal() -> String {
    let rule =
        |what| format!("iptables {what} FORWARD --destination {SERVICE_SUBNET} --jump REJECT");
    format!("{} 2> /dev/null || {}", rule("--check"), rule("--insert"))
}

/// Every name that is listed, with the ID of its image.
fn listed(listing: Listing) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for image in listing.images {
        let names = image.repo_tags.into_iter();
        found.extend(names.map(|name| (name, image.id.clone())));
    }
    found
}

/// As the runtime selects images.
fn named(references: &[&str]) -> impl Iterator<Item = String> {
    references.iter().map(|name| format!("name=={name}"))
}

/// The answer of [`LIST`], of these.
fn told_of(text: &str, references: &[&str]) -> Result<Told> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter();
    let listing = values.next().context("a node does not tell its images")?;
    let listing: Listing = listing.context("cannot read what a node tells of its images")?;
    let content = text[values.byte_offset()..].to_owned();
    let mut listed = listed(listing);
    let names = listed.keys().cloned().collect();
    listed.retain(|name, _| references.contains(&name.as_str()));
    Ok(Told {
        listed,
        content,
        names,
    })
}

/// The answer of [`Node::exchange_command`], of these.
fn around(text: &str, references: &[&str]) -> Result<Around> {
    let parts = text.split_once(&format!("{LINE}\n"));
    let (before, after) = parts.context("a node does not tell what it took")?;
    let named = references.iter().filter_map(|name| {
        let digest = word(before, name, Column::Digest)?;
        Some(((*name).to_owned(), BTreeSet::from([digest])))
    });
    Ok(Around {
        before: named.collect(),
        after: whole(told_of(after, references)?),
    })
}

/// Those that are complete.
fn whole(mut told: Told) -> BTreeMap<String, String> {
    let is_whole =
        |name: &String| word(&told.content, name, Column::Status).as_deref() == Some("complete");
    told.listed.retain(|name, _| is_whole(name));
    told.listed
}

/// What the runtime tells of content, after the name.
#[derive(Clone, Copy)]
enum Column {
    Digest = 1,
    Status = 2,
}

/// A word in the line of this name.
fn word(text: &str, name: &str, column: Column) -> Option<String> {
    let mut lines = text.lines().map(str::split_whitespace);
    let mut line = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
    line.nth(column as usize).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Column, around, told_of, word};

    #[test]
    fn an_image_is_known_by_its_full_name() {
        let text = r#"{"images": [
            {"id": "sha256:1", "repoTags": ["localhost/a:x"], "repoDigests": []},
            {"id": "sha256:2", "repoTags": ["localhost/b:x", "localhost/c:y"]},
            {"id": "sha256:3", "repoTags": []}]}"#;
        let text = format!("{text}\nlocalhost/a:x vnd complete\n");
        let names = [
            "localhost/a:x",
            "localhost/b:x",
            "localhost/c:y",
            "localhost/d:z",
        ];
        let told = told_of(&text, &names).unwrap();
        let (found, of_content) = (told.listed, told.content);
        assert_eq!(told.names.len(), 3);
        assert_eq!(found.len(), 3);
        assert_eq!(found["localhost/a:x"], "sha256:1");
        assert_eq!(found["localhost/b:x"], "sha256:2");
        assert_eq!(found["localhost/c:y"], "sha256:2");
        assert_eq!(of_content.trim(), "localhost/a:x vnd complete");
        assert_eq!(told_of(&text, &names[3..]).unwrap().listed.len(), 0);
        assert!(told_of("", &names).is_err());
    }

    #[test]
    fn what_had_the_name_before_is_told_by_its_manifest() {
        let head = "REF TYPE DIGEST STATUS SIZE UNPACKED\n";
        let line = |digest: &str, status: &str| {
            format!("localhost/a:x vnd {digest} {status} (2/2) 9 MiB/9 MiB true\n")
        };
        let listing = r#"{"images": [{"id": "sha256:9", "repoTags": ["localhost/a:x"]}]}"#;
        let told = |before: &str, status: &str| {
            let after = line("sha256:2", status);
            let text = format!("{head}{before}---\n{listing}\n{head}{after}");
            around(&text, &["localhost/a:x", "localhost/b:x"]).unwrap()
        };
        let new = told("", "complete");
        assert!(new.before.is_empty(), "{new:?}");
        assert_eq!(new.after["localhost/a:x"], "sha256:9");
        assert_eq!(new.after.len(), 1);
        let other = told(&line("sha256:1", "complete"), "complete");
        assert!(other.before["localhost/a:x"].contains("sha256:1"));
        assert!(told("", "incomplete").after.is_empty());
        assert!(around(listing, &[]).is_err());
    }

    #[test]
    fn what_is_not_complete_is_told() {
        let text = "REF TYPE DIGEST STATUS SIZE UNPACKED\n\
            localhost/a:x application/vnd.oci sha256:1 complete (2/2) 9.4 MiB/9.4 MiB true\n\
            localhost/a:xy application/vnd.oci sha256:1 incomplete (1/2) 1/9 MiB false\n";
        let told = |name, column| word(text, name, column);
        let status = |name| told(name, Column::Status);
        assert_eq!(status("localhost/a:x").as_deref(), Some("complete"));
        assert_eq!(status("localhost/a:xy").as_deref(), Some("incomplete"));
        assert_eq!(status("localhost/a"), None);
        let digest = told("localhost/a:xy", Column::Digest);
        assert_eq!(digest.as_deref(), Some("sha256:1"));
    }
}
