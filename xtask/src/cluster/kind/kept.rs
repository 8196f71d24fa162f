//! The cluster that stays when its runs have ended (`--reuse`): one for each target of a checkout,
//! with what third parties can be made as new in it. A folder like that of a run owns it, and bears
//! its lock: one run at a time uses it. What it was made with stands in that folder; a run that would
//! make another one removes it. Nothing here makes or deploys anything.

use std::collections::BTreeMap;
use std::fs;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::engine::Engine;
use crate::host;
use crate::process::interrupt::Shield;
use crate::report;
use crate::run::{self, Run, State};
use crate::secrets::{self, Secrets};
use crate::source::workspace::{Target, Workspace};

/// In the folder that owns a cluster.
const SETTINGS: &str = "cluster.json";
/// In the same folder from the beginning: for which target.
const OWNER: &str = "cluster-of";
/// In the folder of a run: the ID of what owns the cluster that it is deployed to.
const GUEST: &str = "guest-of";

/// What a cluster is made with. Another one is another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) target: String,
    pub(crate) engine: String,
    /// What kind is told.
    pub(crate) kind: Value,
    /// What the node runs, as far as it is known before kind is asked.
    pub(crate) node_image: String,
    /// IDs of the third-party images, by name.
    pub(crate) third_party: BTreeMap<String, String>,
    /// The Secrets of third parties, by their names and keys.
    pub(crate) secrets: String,
    /// Of every document that stays in it.
    pub(crate) documents: Digest,
    /// How often each Deployment that stays had been changed when the cluster was made, by name;
    /// nothing before that.
    #[serde(default)]
    pub(crate) generations: BTreeMap<String, i64>,
}

impl Settings {
    /// In what it is another than `wanted`; nothing where it is the same.
    pub(super) fn difference(&self, wanted: &Self) -> Option<&'static str> {
        let same = [
            (self.engine == wanted.engine, "another engine runs it"),
            (self.kind == wanted.kind, "kind was told something else"),
            (
                self.node_image == wanted.node_image,
                "it has another node image",
            ),
            (
                self.third_party == wanted.third_party,
                "a third-party image is another",
            ),
            (
                self.secrets == wanted.secrets,
                "third parties have other Secrets",
            ),
            (
                self.documents == wanted.documents,
                "the manifest of a third party was edited",
            ),
            (self.target == wanted.target, "it is of another target"),
        ];
        let mut differing = same.iter().filter(|(same, _)| !same);
        differing.next().map(|(_, what)| *what)
    }
}

/// The cluster of a run that may stay.
#[derive(Debug)]
pub(crate) struct Kept {
    workspace: Workspace,
    target: Target,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    owner: Arc<Run>,
    /// What it was made with, where it was there before the run came.
    found: Option<Settings>,
    /// There is a whole cluster, which stays.
    is_whole: bool,
}

impl Kept {
    /// The newest one that was kept for this target, else a folder for another; nothing where a run
    /// that lives uses the one that there is.
    ///
    /// # Errors
    /// When a folder cannot be read or made.
    pub(crate) fn claim(workspace: &Workspace, target: &Target) -> Result<Option<Arc<Self>>> {
        let here = run::checkout(&workspace.root);
        // Two that come at once must not both find nothing.
        let _one_at_a_time = host::lock(&format!("kept-{here}-{}", target.name))?;
        let mut records = run::list(workspace)?;
        records.retain(|record| record.checkout.as_deref() == Some(&here));
        for record in records.iter().rev() {
            let name = target.name.as_str();
            if record.state == State::Running && is_owner_of(&record.directory, name) {
                return Ok(None);
            }
            let Some(settings) = settings_in(&record.directory, name) else {
                continue;
            };
            if record.state != State::Kept {
                continue;
            }
            let owner = Run::take_kept(workspace, &target.name, record)?;
            return Ok(owner.map(|owner| Self::of(workspace, target, owner, Some(settings))));
        }
        let owner = begin(workspace, target)?;
        Ok(Some(Self::of(workspace, target, owner, None)))
    }

    fn of(
        workspace: &Workspace,
        target: &Target,
        owner: Run,
        found: Option<Settings>,
    ) -> Arc<Self> {
        Arc::new(Self {
            workspace: workspace.clone(),
            target: target.clone(),
            inner: Mutex::new(Inner {
                owner: Arc::new(owner),
                is_whole: found.is_some(),
                found,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What owns it.
    pub(crate) fn owner(&self) -> Arc<Run> {
        Arc::clone(&self.inner().owner)
    }

    /// What it was made with, where there was one.
    pub(super) fn found(&self) -> Option<Settings> {
        self.inner().found.clone()
    }

    /// The passwords that its third parties know.
    ///
    /// # Errors
    /// When one cannot be read.
    pub(crate) fn passwords(&self) -> Result<BTreeMap<String, String>> {
        if self.inner().found.is_none() {
            return Ok(BTreeMap::new());
        }
        let owner = self.owner();
        let folder = secrets::passwords(owner.directory());
        let entries = folder
            .read_dir_utf8()
            .with_context(|| format!("cannot read {folder}"))?;
        let mut passwords = BTreeMap::new();
        for entry in entries {
            let path = entry?.into_path();
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
            let name = path.file_name().unwrap_or_default();
            passwords.insert(name.to_owned(), text);
        }
        Ok(passwords)
    }

    /// It is not what is wanted, or does not answer: removes it, and begins another.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(super) fn replace(&self, engine: &Engine, why: &str) -> Result<()> {
        let old = self.owner();
        report::note(&format!(
            "the kept cluster {} is not used again: {why}; another is made",
            old.id()
        ));
        let new = Arc::new(begin(&self.workspace, &self.target)?);
        {
            let mut inner = self.inner();
            inner.owner = new;
            inner.found = None;
            inner.is_whole = false;
        }
        self.discard(&old, engine)
    }

    /// There is a whole cluster: it stays from now on.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(super) fn made(
        &self,
        settings: &Settings,
        generations: BTreeMap<String, i64>,
        secrets: &Secrets,
    ) -> Result<()> {
        let owner = self.owner();
        if mem::replace(&mut self.inner().is_whole, true) {
            return Ok(());
        }
        secrets.copy_passwords_of_third_parties(
            &self.workspace,
            &self.target,
            owner.directory(),
        )?;
        let settings = Settings {
            generations,
            ..settings.clone()
        };
        host::write_cached(&owner.directory().join(SETTINGS), &settings)?;
        owner.keep()
    }

    /// Its run ends. What is not whole goes; so does what the run could not leave, and what was made for
    /// it alone, unless it `shall_stay`.
    ///
    /// # Errors
    /// When something is left: names it.
    pub(crate) fn end(
        &self,
        engine: Option<&Engine>,
        is_left: bool,
        shall_stay: bool,
    ) -> Result<()> {
        let shall_stay = shall_stay || self.inner().found.is_some();
        let owner = self.owner();
        match engine {
            None if self.inner().is_whole => Ok(()),
            None => owner
                .nothing_made()
                .and(run::remove_secrets(owner.directory())),
            Some(_) if self.inner().is_whole && is_left && shall_stay => Ok(()),
            Some(engine) => self.discard(&owner, engine),
        }
    }

    /// The cluster goes, and with it what runs have left in it on purpose.
    fn discard(&self, owner: &Run, engine: &Engine) -> Result<()> {
        // A signal in between would leave parts of it.
        let _shield = Shield::raise();
        owner.let_go()?;
        let removed = owner.clean_up(engine);
        for record in run::list(&self.workspace)? {
            if is_guest_of(&record.directory, owner.id()) && record.state != State::Running {
                run::end_guest(&record.directory, "the end of its cluster")?;
            }
        }
        removed.and(run::remove_secrets(owner.directory()))
    }

    /// Whether it stays when its run ends.
    pub(crate) fn stays(&self) -> bool {
        self.inner().is_whole
    }
}

/// A folder that will own a cluster.
fn begin(workspace: &Workspace, target: &Target) -> Result<Run> {
    let owner = Run::begin(workspace, &target.name)?;
    let mark = owner.directory().join(OWNER);
    fs::write(&mark, target.name.as_str()).with_context(|| format!("cannot write {mark}"))?;
    secrets::make_folder(owner.directory())?;
    Ok(owner)
}

fn is_owner_of(directory: &Utf8Path, target: &str) -> bool {
    fs::read_to_string(directory.join(OWNER)).is_ok_and(|name| name == target)
}

/// Notes in the folder of a run whose guest it is.
///
/// # Errors
/// When that cannot be written.
pub(super) fn note_guest(run: &Run, owner: &str) -> Result<()> {
    let mark = run.directory().join(GUEST);
    fs::write(&mark, owner).with_context(|| format!("cannot write {mark}"))
}

/// Whether the run with this folder is a guest of what `owner` owns.
pub(super) fn is_guest_of(directory: &Utf8Path, owner: &str) -> bool {
    fs::read_to_string(directory.join(GUEST)).is_ok_and(|id| id == owner)
}

/// Whether this folder owns a cluster.
pub(crate) fn is_owner(directory: &Utf8Path) -> bool {
    directory.join(SETTINGS).exists()
}

/// Of the cluster that a folder owns, if it owns one of this target.
fn settings_in(directory: &Utf8Path, target: &str) -> Option<Settings> {
    let text = fs::read(directory.join(SETTINGS)).ok()?;
    // One that cannot be read was made by another version of this: `clean` removes it.
    let settings: Settings = serde_json::from_slice(&text).ok()?;
    (settings.target == target).then_some(settings)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use camino::Utf8Path;
    use serde_json::json;

    use super::{SETTINGS, Settings, is_owner, settings_in};
    use crate::digest::Digest;

    fn settings() -> Settings {
        Settings {
            target: "gateway".to_owned(),
            engine: "podman".to_owned(),
            kind: json!({"nodes": [1]}),
            node_image: "node:1 sha256:1".to_owned(),
            third_party: BTreeMap::from([("postgres".to_owned(), "sha256:2".to_owned())]),
            secrets: "postgres".to_owned(),
            documents: Digest::of(b"a"),
            generations: BTreeMap::new(),
        }
    }

    #[test]
    fn another_setting_is_another_cluster() {
        type Change = fn(&mut Settings);
        let changes: [(Change, &str); 7] = [
            (|it| it.engine = "docker".to_owned(), "another engine"),
            (|it| it.kind = json!({"nodes": [1, 2]}), "kind was told"),
            (|it| it.node_image.push('9'), "another node image"),
            (|it| it.third_party.clear(), "third-party image"),
            (|it| it.secrets.clear(), "other Secrets"),
            (|it| it.documents = Digest::of(b"b"), "was edited"),
            (|it| it.target = "pipeline".to_owned(), "another target"),
        ];
        assert_eq!(settings().difference(&settings()), None);
        for (change, words) in changes {
            let mut wanted = settings();
            change(&mut wanted);
            let told = settings().difference(&wanted).unwrap();
            assert!(told.contains(words), "{told}");
        }
    }

    #[test]
    fn a_folder_owns_a_cluster_of_one_target() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        assert!(!is_owner(folder));
        assert_eq!(settings_in(folder, "gateway"), None);
        let path = folder.join(SETTINGS);
        fs::write(&path, serde_json::to_string(&settings()).unwrap()).unwrap();
        assert!(is_owner(folder));
        assert_eq!(settings_in(folder, "gateway"), Some(settings()));
        assert_eq!(settings_in(folder, "pipeline"), None);
        fs::write(&path, "{}").unwrap();
        assert_eq!(settings_in(folder, "gateway"), None);
    }
}
