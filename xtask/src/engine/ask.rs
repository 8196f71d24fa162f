//! What the engine is asked, and how its answers are read. As many names as possible in one call:
//! each call costs 50 to 100 ms. What changes nothing is asked here, and once more where no answer
//! comes: beside the removal of a large run a `podman ps` was seen to wait for ever for a lock that
//! the next one had at once.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use camino::Utf8Path;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Archive, Engine, EngineKind};
use crate::exit::{Exit, Failure};
use crate::host::room::{self, Need};
use crate::process::{self, Captured, Echo, Invocation, ProcessError, interrupt};

/// One attempt at an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// A log as a whole.
const LOG_DEADLINE: Duration = Duration::from_secs(30);
/// An archive of a few hundred megabytes on a slow disk.
const LOAD_DEADLINE: Duration = Duration::from_secs(300);
/// The fix where an engine is silent.
const SILENT: &str =
    "try the command by hand; an engine that is at work for somebody else answers later: run again";
/// The fix where an archive is not what was written.
pub(crate) const ARCHIVE_ANEW: &str = "run again: each run writes its archives anew";

/// An image that the engine has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFacts {
    /// `sha256:...` of its config.
    pub id: String,
    /// Labels of its config.
    pub labels: BTreeMap<String, String>,
    /// `<name>@sha256:...`, for an image from a registry.
    pub repository_digests: Vec<String>,
}

/// A container as the engine sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    /// Its name.
    pub name: String,
    /// `sha256:...` of the image that it runs.
    pub image_id: String,
    /// The name by which that image was asked for.
    pub reference: String,
    /// `running`, `exited`, ...
    pub status: String,
    /// Its process on the host; 0 when there is none.
    pub pid: i32,
    /// Of its last process.
    pub exit_code: i64,
    /// Its last process was ended for want of memory.
    pub out_of_memory: bool,
    /// How often the engine has started it again.
    pub restart_count: u64,
    /// When its process was started, RFC 3339.
    pub started_at: String,
    /// Port inside, port on 127.0.0.1.
    pub ports: BTreeMap<u16, u16>,
    /// Its labels, those of its image among them.
    pub labels: BTreeMap<String, String>,
}

impl ContainerFacts {
    /// `running`, or `exited, exit code 3`: of a process that runs there is no exit code yet.
    #[must_use]
    pub fn state(&self) -> String {
        match self.status.as_str() {
            "running" => self.status.clone(),
            status => format!("{status}, exit code {}", self.exit_code),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedImage {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    config: Option<InspectedConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedContainer {
    name: String,
    image: String,
    /// podman's.
    #[serde(default)]
    image_name: Option<String>,
    #[serde(default)]
    restart_count: u64,
    state: InspectedState,
    network_settings: InspectedNetwork,
    #[serde(default)]
    config: Option<InspectedContainerConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedContainerConfig {
    /// docker's name of the image.
    #[serde(default)]
    image: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    status: String,
    #[serde(default)]
    pid: i32,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    oom_killed: bool,
    started_at: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedNetwork {
    #[serde(default)]
    ports: Option<BTreeMap<String, Option<Vec<InspectedPort>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedPort {
    host_port: String,
}

/// Asks an engine something that changes nothing; an answer with another code than 0 is an error.
///
/// # Errors
/// See [`ProcessError`]; [`Exit::Host`] when no answer came, asked twice.
pub(crate) fn capture(question: &Invocation) -> Result<Captured> {
    twice(ANSWER_DEADLINE, |deadline| {
        process::capture(question, deadline)
    })
}

/// The same, whatever the code.
///
/// # Errors
/// As [`capture`]; never [`ProcessError::Failed`].
pub(crate) fn output(question: &Invocation) -> Result<Captured> {
    twice(ANSWER_DEADLINE, |deadline| {
        process::output(question, deadline)
    })
}

fn twice(
    deadline: Duration,
    ask: impl Fn(Duration) -> Result<Captured, ProcessError>,
) -> Result<Captured> {
    // Whoever is in a hurry has shortened the first attempt, and wants no second.
    match ask(deadline) {
        Err(ProcessError::Deadline { .. }) if !interrupt::is_short_of_time() => {}
        answer => return Ok(answer?),
    }
    let late = match ask(deadline) {
        Err(late @ ProcessError::Deadline { .. }) => late,
        answer => return Ok(answer?),
    };
    let message =
        format!("the engine gave no answer within {deadline:?}, and none when it was asked again");
    let failure = Failure::new(Exit::Host, message).hint(SILENT);
    Err(failure.caused_by(late).into())
}

impl Engine {
    /// Looks up images by their full names, with a tag or a digest; what the engine does not have is not in the answer.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn images<'a>(
        &self,
        references: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, ImageFacts>> {
        let references: Vec<&str> = references.into_iter().collect();
        if references.is_empty() {
            return Ok(BTreeMap::new());
        }
        let inspected: Vec<InspectedImage> = self.inspect("image", &references)?;
        let mut found = BTreeMap::new();
        for image in inspected {
            let facts = ImageFacts {
                id: with_algorithm(&image.id),
                labels: image
                    .config
                    .and_then(|config| config.labels)
                    .unwrap_or_default(),
                repository_digests: image.repo_digests.unwrap_or_default(),
            };
            let names = image.repo_tags.unwrap_or_default();
            for tag in names.into_iter().chain(facts.repository_digests.clone()) {
                if references.contains(&tag.as_str()) {
                    found.insert(tag, facts.clone());
                }
            }
        }
        Ok(found)
    }

    /// Whether it has any image of this repository, whatever its registry and its tag.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(crate) fn has_any(&self, repository: &str) -> Result<bool> {
        let list = self
            .invocation()
            .args(["images", "--format", "{{.Repository}}"]);
        let listed = capture(&list)?.stdout;
        Ok(listed.lines().any(|name| {
            let rest = name.strip_suffix(repository);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        }))
    }

    /// Looks up containers by name; those that are not there are not in the answer.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn containers<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, ContainerFacts>> {
        let names: Vec<&str> = names.into_iter().collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let inspected: Vec<InspectedContainer> = self.inspect("container", &names)?;
        let facts = inspected.into_iter().map(container_facts);
        Ok(facts.map(|facts| (facts.name.clone(), facts)).collect())
    }

    /// Loads an archive that we wrote.
    ///
    /// # Errors
    /// With the engine's own words.
    pub(crate) fn load(&self, archive: &impl Archive) -> Result<()> {
        let path = archive.path();
        if let Ok(metadata) = fs::metadata(path) {
            // Of one that is not there the engine says so.
            let need = self.need_of_image(metadata.len());
            room::demand(&room::judge_disks(need.as_slice(), room::space))?;
        }
        process::capture(&self.load_invocation(path), LOAD_DEADLINE).map_err(|error| {
            Failure::new(error.exit(), format!("the engine does not load {path}"))
                .hint(ARCHIVE_ANEW)
                .caused_by(error)
        })?;
        Ok(())
    }

    /// What an archive of this length, unpacked, needs where the engine keeps images; nothing where
    /// that cannot be looked at.
    pub(crate) fn need_of_image(&self, length_bytes: u64) -> Option<Need> {
        let storage = self.storage.as_ref()?;
        Some(Need {
            what: "an unpacked image",
            path: storage.clone(),
            // Of an archive of 357 MB there were 374 MB in the engine: small files take whole blocks.
            bytes: length_bytes + length_bytes / 10,
            files: 100,
            fix: "free room there: `cargo xtask clean --images` removes the images that were built here",
        })
    }

    /// How an archive is loaded. `podman load` unpacks the whole archive into a folder first, to see
    /// of what kind it is; told the kind, podman reads the layer where it lies, in three quarters of
    /// the time. Its words for that are `pull` and the kind: no registry is asked.
    pub(crate) fn load_invocation(&self, archive: &Utf8Path) -> Invocation {
        match (self.kind, archive.parent(), archive.file_name()) {
            // Called in the archive's folder: a colon in a path would end it.
            (EngineKind::Podman, Some(folder), Some(name)) if !name.contains(':') => self
                .invocation()
                .args(["pull", "--quiet"])
                .arg(format!("docker-archive:{name}"))
                .current_dir(folder),
            _ => self
                .invocation()
                .args(["load", "--quiet", "--input"])
                .arg(archive.as_str()),
        }
    }

    /// Writes what a container has said to a file.
    ///
    /// # Errors
    /// When the engine does not give it.
    pub fn save_log(&self, container: &str, path: &Utf8Path) -> Result<()> {
        let logs = self.invocation().args(["logs", container]);
        match process::stream(&logs, Some(path), Echo::Silent, LOG_DEADLINE)? {
            0 => Ok(()),
            code => bail!("{logs} ended with {code}"),
        }
    }

    /// The last lines that a container has said.
    ///
    /// # Errors
    /// When the engine does not give them.
    pub fn last_lines(&self, container: &str, lines: u32) -> Result<String> {
        let tail = lines.to_string();
        let logs = self.invocation().args(["logs", "--tail", &tail, container]);
        let captured = output(&logs)?;
        Ok(format!("{}{}", captured.stdout, captured.stderr))
    }

    /// Names that do not exist make the call fail, and the rest is told all the same.
    fn inspect<T: DeserializeOwned>(&self, kind: &str, names: &[&str]) -> Result<Vec<T>> {
        let inspect = self
            .invocation()
            .args([kind, "inspect"])
            .args(names.iter().copied());
        let output = output(&inspect)?;
        serde_json::from_str(&output.stdout)
            .with_context(|| format!("cannot read the answer of: {inspect}\n{}", output.stderr))
    }

    /// How a fresh image's own VOLUME lines are kept from making volumes without our labels.
    pub(crate) const fn ignores_image_volumes(&self) -> &'static [&'static str] {
        match self.kind {
            EngineKind::Podman => &["--image-volume=ignore"],
            EngineKind::Docker => &[],
        }
    }
}

/// podman leaves the algorithm out.
fn with_algorithm(id: &str) -> String {
    if id.contains(':') {
        id.to_owned()
    } else {
        format!("sha256:{id}")
    }
}

fn container_facts(inspected: InspectedContainer) -> ContainerFacts {
    let published = inspected.network_settings.ports.unwrap_or_default();
    let ports = published.iter().filter_map(|(inside, outside)| {
        let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
        let outside = outside.as_ref()?.first()?.host_port.parse().ok()?;
        Some((inside, outside))
    });
    let (name, labels) = match inspected.config {
        Some(config) => (config.image, config.labels.unwrap_or_default()),
        None => (None, BTreeMap::new()),
    };
    ContainerFacts {
        name: inspected.name.trim_start_matches('/').to_owned(),
        image_id: with_algorithm(&inspected.image),
        reference: inspected.image_name.or(name).unwrap_or_default(),
        status: inspected.state.status,
        pid: inspected.state.pid,
        exit_code: inspected.state.exit_code,
        out_of_memory: inspected.state.oom_killed,
        restart_count: inspected.restart_count,
        started_at: inspected.state.started_at,
        ports: ports.collect(),
        labels,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::{Captured, Invocation, ProcessError, process, twice};
    use crate::exit::{Exit, Failure};
    use crate::report;

    const SHORT: Duration = Duration::from_millis(300);
    const AMPLE: Duration = Duration::from_secs(60);

    #[test]
    fn a_question_without_an_answer_is_asked_again() {
        let attempts = Cell::new(0);
        let told = twice(SHORT, |deadline| {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                1 => process::capture(&Invocation::new("sleep").arg("600"), deadline),
                _ => process::capture(&Invocation::new("echo").arg("there"), AMPLE),
            }
        });
        assert_eq!(told.unwrap().stdout, "there\n");
        assert_eq!(attempts.get(), 2);
    }

    #[test]
    fn it_is_asked_twice_and_not_more() {
        let question = Invocation::new("sleep").arg("600");
        let attempts = Cell::new(0);
        let error = twice(SHORT, |deadline| {
            attempts.set(attempts.get() + 1);
            process::output(&question, deadline)
        });
        let error = error.unwrap_err();
        assert_eq!(attempts.get(), 2);
        assert_eq!(Failure::find(&error).unwrap().exit(), Exit::Host);
        let text = report::error_text(&error);
        let begins = "error: the engine gave no answer within 300ms, and none when it was asked again\n  because: command did not end within 300ms and was killed: sleep 600\nhint: ";
        assert!(text.starts_with(begins), "{text}");
    }

    #[test]
    fn an_answer_is_an_answer() {
        let attempts = Cell::new(0);
        let refused = twice(SHORT, |_| -> Result<Captured, ProcessError> {
            attempts.set(attempts.get() + 1);
            Err(ProcessError::Failed {
                command: "podman ps".to_owned(),
                code: 125,
                stderr: "no".to_owned(),
            })
        });
        assert_eq!(
            refused.unwrap_err().to_string(),
            "command ended with 125: podman ps\n  no"
        );
        assert_eq!(attempts.get(), 1);
    }
}
