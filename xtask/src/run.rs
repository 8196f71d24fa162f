//! A run: its folder, its journal, its lock, and its clean-up. Every resource stands in the journal
//! before it is made, and carries the run's labels; only what a run made is ever removed, and it is
//! found by these labels alone, so a lost folder loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::cluster::context;
use crate::digest::Digest;
use crate::engine::{Engine, EngineKind, ask, left};
use crate::exit::{Exit, Failure};
use crate::poll;
use crate::process::{self, Invocation, interrupt};
use crate::source::workspace::{TargetName, Workspace};
use crate::threads::joined;

/// Label with the run's ID, on every resource of a run.
pub const LABEL_RUN: &str = "phase-zero.run";
/// Label with the checkout: the first 16 hex digits of SHA-256 of its root's path.
pub const LABEL_CHECKOUT: &str = "phase-zero.checkout";
/// Label with the target.
pub const LABEL_TARGET: &str = "phase-zero.target";
/// Label with the run's folder: where its lock is looked for, whatever build folder the next
/// command uses.
pub const LABEL_DIRECTORY: &str = "phase-zero.directory";

/// What kind calls the cluster of a node.
const LABEL_KIND: &str = "io.x-k8s.kind.cluster";
/// How the name of a kind cluster's network ends.
const KIND_NETWORK: &str = "-kind";

/// How the IDs of trials of an engine begin, which are no runs.
pub(crate) const PROBE: &str = "phase-zero-probe-";

/// How long the engine may take to remove what a run made, in one attempt.
const REMOVE_DEADLINE: Duration = Duration::from_secs(90);
const REMOVE_ATTEMPTS: u32 = 10;
const REMOVE_INTERVAL: Duration = Duration::from_millis(100);

/// How often, and in what distance, a lock is tried that somebody may only look at.
const LOOK_ATTEMPTS: u32 = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a folder may take to get its lock and its name.
const NAMELESS_AGE: Duration = Duration::from_secs(60);

/// The file system in memory that every Linux has.
const MEMORY_VOLUMES: &str = "/dev/shm";

/// Tokens and passwords of a run, below its folder.
pub(crate) const SECRETS: &str = "secrets";
/// How an ID tells when its run was begun, in UTC.
const TIME_OF_ID: &str = "%Y%m%d-%H%M%S";
const LOCK: &str = "lock";
pub(crate) const JOURNAL: &str = "journal.jsonl";
pub(crate) const KEPT: &str = "kept";
pub(crate) const CLEANED: &str = "cleaned";

/// A run that this process owns. Lock and name are let go when the process ends, however it ends.
#[derive(Debug)]
pub struct Run {
    id: String,
    directory: Utf8PathBuf,
    checkout: String,
    target: TargetName,
    _lock: File,
    /// A second sign of life, where the kernel has such names at all: the file of a lock can be
    /// removed by hand while the run lives, and then its lock proves nothing.
    _name: Option<UnixDatagram>,
}

/// What a run makes outside its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "kebab-case")]
pub enum Resource {
    /// A container, by name.
    Container(String),
    /// A network, by name.
    Network(String),
    /// A volume, by name.
    Volume(String),
    /// A kind cluster, by name: its nodes are containers that kind makes, on the run's network.
    Cluster(String),
    /// A namespace on a cluster that was there before, by name.
    Namespace(String),
}

impl Run {
    /// Begins a run: folder `target/e2e/runs/<id>`, mode 0700, lock, journal.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn begin(workspace: &Workspace, target: &TargetName) -> Result<Self> {
        Self::begin_named(workspace, target, target.as_str())
    }

    /// As [`Run::begin`], with another word than the target's at the head of its ID.
    ///
    /// # Errors
    /// As [`Run::begin`].
    pub fn begin_named(workspace: &Workspace, target: &TargetName, head: &str) -> Result<Self> {
        let runs = runs_directory(workspace);
        fs::create_dir_all(&runs).with_context(|| format!("cannot make {runs}"))?;
        let (id, hidden) = make_folder(&runs, head)?;
        let mut lock = open_lock(&hidden)?;
        lock.try_lock()
            .with_context(|| format!("cannot lock {hidden}/{LOCK}"))?;
        let details = json!({
            "target": target,
            "checkout": checkout(&workspace.root),
            "pid": std::process::id(),
        });
        // Here too: a journal can be torn.
        writeln!(lock, "{details}").with_context(|| format!("cannot write {hidden}/{LOCK}"))?;
        let name = hold_life(&id);
        // Under its own name it appears locked, or not at all: nobody takes it for a dead run.
        let directory = runs.join(&id);
        fs::rename(&hidden, &directory).with_context(|| format!("cannot make {directory}"))?;
        let run = Self {
            id,
            directory,
            checkout: checkout(&workspace.root),
            target: target.clone(),
            _lock: lock,
            _name: name.ok(),
        };
        run.note("begin", &details)?;
        Ok(run)
    }

    /// A kept run, for this process; nothing where another has it, or it is not kept any more.
    ///
    /// # Errors
    /// When its folder cannot be read.
    pub fn take_kept(
        workspace: &Workspace,
        target: &TargetName,
        record: &Record,
    ) -> Result<Option<Self>> {
        let Record { id, directory, .. } = record;
        let lock = open_lock(directory)?;
        // Whoever only looks how it stands has it for a moment.
        let mut taken = lock.try_lock();
        for _ in 0..LOOK_ATTEMPTS {
            if !matches!(taken, Err(TryLockError::WouldBlock)) || is_alive(id) {
                break;
            }
            poll::pause(LOOK_INTERVAL)?;
            taken = lock.try_lock();
        }
        match taken {
            Ok(()) if !is_alive(id) && directory.join(KEPT).exists() => {}
            Ok(()) | Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {directory}/{LOCK}"));
            }
        }
        let run = Self {
            id: id.clone(),
            directory: directory.clone(),
            checkout: checkout(&workspace.root),
            target: target.clone(),
            _lock: lock,
            _name: hold_life(id).ok(),
        };
        run.note("taken", &json!({"pid": std::process::id()}))?;
        Ok(Some(run))
    }

    /// `gateway-20261123-181500-4f2a`: target, UTC time, random.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder, absolute.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Its target.
    #[must_use]
    pub const fn target(&self) -> &TargetName {
        &self.target
    }

    /// `--label` values for everything that it makes: `name=value`.
    #[must_use]
    pub fn labels(&self) -> Vec<String> {
        labels(&self.id, &self.checkout, &self.target, &self.directory)
    }

    /// Writes a line to the journal, synced, before a resource is made.
    ///
    /// # Errors
    /// When the journal cannot be written: then the resource must not be made.
    pub fn journal(&self, resource: &Resource) -> Result<()> {
        self.note("make", &serde_json::to_value(resource)?)
    }

    /// Notes something that happened, for people.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn note(&self, event: &str, details: &serde_json::Value) -> Result<()> {
        append_journal(&self.directory, event, details)
    }

    /// From now on the run's containers stay when this process ends; `clean` removes them.
    ///
    /// # Errors
    /// When that cannot be written down: then they must not stay.
    pub fn keep(&self) -> Result<()> {
        let path = self.directory.join(KEPT);
        File::create(&path)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("cannot write {path}"))?;
        self.note("kept", &json!({}))
    }

    /// It is not kept any more: unless this process goes on to keep it, it goes with it.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub fn let_go(&self) -> Result<()> {
        forget_kept(&self.directory)?;
        self.note("let go", &json!({}))
    }

    /// It ended before there was an engine to make anything.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn nothing_made(&self) -> Result<()> {
        self.note(CLEANED, &json!({"made": 0}))
    }

    /// Removes some of what this run made, so that it can be made anew: what carries its label and
    /// is named here, and nothing else.
    ///
    /// # Errors
    /// When something is left: names it.
    pub fn remove(&self, engine: &Engine, these: &Resources) -> Result<()> {
        if these.is_empty() {
            return Ok(());
        }
        self.note("replace", &serde_json::to_value(these)?)?;
        let label = format!("{LABEL_RUN}={}", self.id);
        remove_found(engine, &label, || {
            Resources::find_among(engine, &label, these)
        })?;
        Ok(())
    }

    /// Removes everything that carries this run's label: containers, then volumes and networks.
    /// Sees to it that nothing is left, by asking the engine again.
    ///
    /// # Errors
    /// When something is left: names it.
    pub fn clean_up(&self, engine: &Engine) -> Result<()> {
        let label = format!("{LABEL_RUN}={}", self.id);
        remove_all(engine, &self.id).map_err(|error| {
            let mut message = format!("not everything of run {} could be removed", self.id);
            // What is left is known, or everything may be.
            if error.downcast_ref::<Left>().is_none() {
                message.push_str(&format!("; it made {}", self.made().join(", ")));
            }
            Failure::new(Exit::Internal, message)
            .hint(format!(
                "`cargo xtask clean` removes what is left, and so does the next run; it carries the label {label}"
            ))
            .caused_by(error)
        })?;
        self.note(CLEANED, &json!({}))
    }

    /// What stands in its journal, for people: removal goes by labels.
    fn made(&self) -> Vec<String> {
        let journal = fs::read(self.directory.join(JOURNAL)).unwrap_or_default();
        let lines = journal.split(|&byte| byte == b'\n');
        lines
            .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
            .filter(|line| line["event"] == "make")
            .filter_map(|line| {
                let details = &line["details"];
                let (kind, name) = (details["kind"].as_str()?, details["name"].as_str()?);
                Some(format!("{kind} {name}"))
            })
            .collect()
    }

    /// Whether its folder is still the one that it made.
    #[must_use]
    pub fn has_its_folder(&self) -> bool {
        self.directory.join(LOCK).exists()
    }
}

/// The node of a run's kind cluster, as kind names it.
pub(crate) fn kind_node(id: &str) -> String {
    format!("{id}-control-plane")
}

/// The network of a run's kind cluster.
pub(crate) fn kind_network(id: &str) -> String {
    format!("{id}{KIND_NETWORK}")
}

/// What [`Run::labels`] gives for a run with these.
pub(crate) fn labels(
    id: &str,
    checkout: &str,
    target: &TargetName,
    directory: &Utf8Path,
) -> Vec<String> {
    vec![
        format!("{LABEL_RUN}={id}"),
        format!("{LABEL_CHECKOUT}={checkout}"),
        format!("{LABEL_TARGET}={target}"),
        format!("{LABEL_DIRECTORY}={directory}"),
    ]
}

/// The first 16 hex digits of SHA-256 of a workspace root's path.
#[must_use]
pub fn checkout(root: &Utf8Path) -> String {
    Digest::of(root.as_str().as_bytes()).short()
}

/// Where the runs of this build folder lie.
#[must_use]
pub fn runs_directory(workspace: &Workspace) -> Utf8PathBuf {
    workspace.state_directory().join("runs")
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its process lives.
    Running,
    /// Its process has ended and left the containers on purpose.
    Kept,
    /// Its process has ended and removed everything.
    Ended,
    /// Its process died; the next run removes what it left.
    Dead,
}

/// A run as its folder tells it.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Its ID.
    pub id: String,
    /// Its folder.
    pub directory: Utf8PathBuf,
    /// How it stands.
    pub state: State,
    /// The checkout that it tested, if its journal tells.
    pub checkout: Option<String>,
}

/// Every run of this build folder, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(workspace: &Workspace) -> Result<Vec<Record>> {
    let runs = runs_directory(workspace);
    let entries = match runs.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {runs}")),
    };
    let mut records = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {runs}"))?;
        if entry.file_name().starts_with('.') || !entry.file_type()?.is_dir() {
            continue;
        }
        let state = match state(entry.file_name(), entry.path()) {
            // Another command has just removed it.
            Err(_) if !entry.path().exists() => continue,
            state => state?,
        };
        records.push(Record {
            id: entry.file_name().to_owned(),
            directory: entry.path().to_owned(),
            state,
            checkout: first_checkout(entry.path()),
        });
    }
    records.sort_by(|left, right| begun(&left.id).cmp(begun(&right.id)));
    Ok(records)
}

/// The runs of this checkout that live or are kept, by ID: those of this build folder, and those of
/// which the engine has something.
///
/// # Errors
/// When the folder cannot be read, or the engine does not answer.
pub fn standing(workspace: &Workspace, engine: &Engine) -> Result<BTreeMap<String, State>> {
    let here = checkout(&workspace.root);
    let mut runs = BTreeMap::new();
    for record in list(workspace)? {
        if record.checkout.as_deref() == Some(&here) {
            runs.insert(record.id, record.state);
        }
    }
    for (id, owner) in owners(engine, &format!("{LABEL_CHECKOUT}={here}"))? {
        let state = match owner.directory.filter(|directory| directory.is_dir()) {
            Some(directory) => state(&id, &directory)?,
            None if is_alive(&id) => State::Running,
            None => State::Dead,
        };
        runs.insert(id, state);
    }
    runs.retain(|_, state| matches!(state, State::Running | State::Kept));
    Ok(runs)
}

/// Removes what runs left whose process has died; gives their IDs. Runs that live and runs that are
/// kept are not touched. A dead run of another checkout goes too when its folder proves that it is
/// dead: nobody else may ever come to remove it, and its containers hold ports and memory. One
/// whose folder cannot be seen from here stays.
///
/// # Errors
/// When something is left: names it.
pub fn sweep(workspace: &Workspace, engine: &Engine) -> Result<Vec<String>> {
    let here = checkout(&workspace.root);
    let mut swept = Vec::new();
    for (id, owner) in owners(engine, LABEL_RUN)? {
        if id.starts_with(PROBE) {
            // A trial of an engine has neither folder nor checkout; its name tells whether it lives.
            if !is_alive(&id) {
                remove_labelled(engine, &format!("{LABEL_RUN}={id}"))?;
                swept.push(id);
            }
            continue;
        }
        let folder = owner.directory.as_deref().and_then(Utf8Path::file_name);
        if folder.is_some_and(|folder| folder != id) {
            // No run of ours: its folder bears its ID.
            continue;
        }
        let claim = claim_dead(&id, owner.directory.as_deref());
        let claim = if owner.checkout.as_deref() == Some(&here) {
            claim?
        } else {
            claim.ok().flatten().filter(Claim::is_proven)
        };
        let Some(_held) = claim else { continue };
        if !remove_all(engine, &id)? {
            // What carries its label is somebody else's.
            continue;
        }
        if let Some(directory) = owner.directory.filter(|directory| directory.is_dir()) {
            remove_secrets(&directory)?;
            append_journal(&directory, CLEANED, &json!({"by": "sweep"}))?;
        }
        swept.push(id);
    }
    swept.extend(end_left(workspace, engine)?);
    forget_secrets(workspace, &here)?;
    Ok(swept)
}

/// Removes everything of a run, and ends what the engine has lost track of; tells whether the engine
/// had anything.
fn remove_all(engine: &Engine, id: &str) -> Result<bool> {
    let label = format!("{LABEL_RUN}={id}");
    let found = remove_found(engine, &label, || Resources::find(engine, &label))?;
    if engine.kind == EngineKind::Podman {
        left::end(id)?;
    }
    Ok(found)
}

/// Ends processes of dead runs of this build folder of which the engine has nothing any more; gives
/// the IDs of these runs.
fn end_left(workspace: &Workspace, engine: &Engine) -> Result<BTreeSet<String>> {
    if engine.kind != EngineKind::Podman {
        return Ok(BTreeSet::new());
    }
    let runs = runs_directory(workspace);
    let mut ended = BTreeSet::new();
    for watcher in left::watchers() {
        // A container's name is the run's ID and more.
        let ends = watcher.container.match_indices('-').map(|(end, _)| end);
        let mut ids = ends.map(|end| &watcher.container[..end]);
        let Some(id) = ids.find(|id| runs.join(id).join(LOCK).exists()) else {
            continue;
        };
        if let Some(_held) = claim_dead(id, Some(&runs.join(id)))? {
            left::end(id)?;
            ended.insert(id.to_owned());
        }
    }
    Ok(ended)
}

/// The tokens of runs that died before they had made anything: no label tells of them. Looks at the
/// few folders that still hold some, and at no journal of the others.
fn forget_secrets(workspace: &Workspace, here: &str) -> Result<()> {
    let Ok(entries) = runs_directory(workspace).read_dir_utf8() else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let directory = entry.path();
        if directory.join(SECRETS).is_dir()
            // Without them nobody could remove it.
            && !context::left::is_left(directory)
            && first_checkout(directory).as_deref() == Some(here)
            && let Some(_held) = claim_dead(entry.file_name(), Some(directory))?
        {
            remove_secrets(directory)?;
        }
    }
    Ok(())
}

/// Removes the folders of runs that died before they had got their names; gives how many.
///
/// # Errors
/// When one cannot be removed: names it.
pub fn remove_nameless(workspace: &Workspace) -> Result<usize> {
    let Ok(entries) = runs_directory(workspace).read_dir_utf8() else {
        return Ok(0);
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let Some(id) = entry.file_name().strip_prefix('.') else {
            continue;
        };
        // Between folder and lock there is a moment, so a young one is left to the next time.
        let is_old = entry
            .metadata()
            .ok()
            .and_then(|metadata| metadata.modified().ok()?.elapsed().ok())
            .is_some_and(|age| age > NAMELESS_AGE);
        if is_old && entry.path().is_dir() && claim_dead(id, Some(entry.path()))?.is_some() {
            remove_folder(entry.path())?;
            count += 1;
        }
    }
    Ok(count)
}

/// Removes everything of this checkout that no living run owns, kept runs too; gives the IDs.
///
/// # Errors
/// When something is left: names it.
pub fn sweep_kept(workspace: &Workspace, engine: &Engine) -> Result<Vec<String>> {
    let checkout = checkout(&workspace.root);
    for record in list(workspace)? {
        // A build folder can be shared by several checkouts.
        if record.state == State::Kept && record.checkout.as_deref() == Some(&checkout) {
            forget_kept(&record.directory)?;
        }
    }
    sweep(workspace, engine)
}

fn forget_kept(directory: &Utf8Path) -> Result<()> {
    let path = directory.join(KEPT);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {path}"))
        }
        _ => Ok(()),
    }
}

/// Whether this folder bears the mark of a run that is kept.
pub(crate) fn is_kept(directory: &Utf8Path) -> bool {
    directory.join(KEPT).exists()
}

/// A run that was kept in something that another run owns, and that has gone from there: `by` whom.
///
/// # Errors
/// When its folder cannot be written.
pub(crate) fn end_guest(directory: &Utf8Path, by: &str) -> Result<()> {
    forget_kept(directory)?;
    remove_secrets(directory)?;
    append_journal(directory, CLEANED, &json!({"by": by}))
}

/// Removes the tokens and passwords of a run: they open nothing any more.
///
/// # Errors
/// When they cannot be removed: names the folder.
pub fn remove_secrets(run_directory: &Utf8Path) -> Result<()> {
    remove_folder(&run_directory.join(SECRETS))
}

/// One that is not there is no error.
fn remove_folder(directory: &Utf8Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {directory}"))
        }
        _ => Ok(()),
    }
}

/// What a label finds in the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Resources {
    /// Containers, by name.
    pub containers: Vec<String>,
    /// Volumes, by name.
    pub volumes: Vec<String>,
    /// Networks, by name.
    pub networks: Vec<String>,
}

impl Resources {
    /// Asks the engine for everything with this label, `name` or `name=value`.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn find(engine: &Engine, label: &str) -> Result<Self> {
        // Each question costs the engine's own start, and that is all that it costs.
        let mut found = thread::scope(|scope| {
            let volumes = scope.spawn(|| volumes(engine, label));
            let networks = scope.spawn(|| networks(engine, label));
            let containers = containers(engine, label);
            Ok::<_, anyhow::Error>(Self {
                volumes: joined(volumes)?,
                networks: joined(networks)?,
                containers: containers?,
            })
        })?;
        found.add_nodes(engine)?;
        Ok(found)
    }

    /// The nodes of kind clusters: kind gives them labels of its own and none of ours. The network
    /// that was made for them tells of which clusters there may be any, and it cannot be removed
    /// as long as one of them is there.
    fn add_nodes(&mut self, engine: &Engine) -> Result<()> {
        let ids: Vec<&str> = self
            .networks
            .iter()
            .filter_map(|name| name.strip_suffix(KIND_NETWORK))
            .collect();
        for id in ids {
            let label = format!("{LABEL_KIND}={id}");
            let nodes = containers(engine, &label)?;
            // On podman kind makes a volume for each node, without a name, and labels it so. One of a
            // control plane may be there without it.
            let control_plane = kind_node(id);
            let others = nodes.iter().filter(|node| **node != control_plane);
            for node in [&control_plane].into_iter().chain(others) {
                let label = format!("{node}=true");
                self.volumes.extend(volumes(engine, &label)?);
            }
            self.containers.extend(nodes);
        }
        Ok(())
    }

    /// Those of `these` that carry the label; asks for no kind of which none is named.
    fn find_among(engine: &Engine, label: &str, these: &Self) -> Result<Self> {
        type Question = fn(&Engine, &str) -> Result<Vec<String>>;
        let ask = |question: Question, named: &[String]| -> Result<Vec<String>> {
            if named.is_empty() {
                return Ok(Vec::new());
            }
            let mut found = question(engine, label)?;
            found.retain(|name| named.contains(name));
            Ok(found)
        };
        Ok(Self {
            containers: ask(containers, &these.containers)?,
            volumes: ask(volumes, &these.volumes)?,
            networks: ask(networks, &these.networks)?,
        })
    }

    /// `container a, network b`.
    fn told(&self) -> String {
        let kinds = [
            ("container", &self.containers),
            ("volume", &self.volumes),
            ("network", &self.networks),
        ];
        let all = kinds
            .iter()
            .flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind} {name}")));
        all.collect::<Vec<_>>().join(", ")
    }

    /// Nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.volumes.is_empty() && self.networks.is_empty()
    }
}

fn containers(engine: &Engine, label: &str) -> Result<Vec<String>> {
    labelled(engine, label, &["ps", "--all"], "{{.Names}}")
}

fn volumes(engine: &Engine, label: &str) -> Result<Vec<String>> {
    labelled(engine, label, &["volume", "ls"], "{{.Name}}")
}

fn networks(engine: &Engine, label: &str) -> Result<Vec<String>> {
    labelled(engine, label, &["network", "ls"], "{{.Name}}")
}

fn labelled(engine: &Engine, label: &str, list: &[&str], format: &str) -> Result<Vec<String>> {
    let invocation = engine.invocation().args(list.iter().copied()).args([
        "--filter",
        &format!("label={label}"),
        "--format",
        format,
    ]);
    let captured = ask::capture(&invocation)?;
    let names = captured.stdout.lines().map(str::to_owned);
    Ok(match label.split_once('=') {
        Some((LABEL_RUN | LABEL_KIND, id)) => names.filter(|name| is_of_run(name, id)).collect(),
        _ => names.collect(),
    })
}

/// Whatever a run makes is named for it. Labels alone would take what somebody made of a container
/// of the run: an image that was committed from it has its labels, and so has all that runs it.
fn is_of_run(name: &str, id: &str) -> bool {
    let rest = name.strip_prefix(id);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Where a volume lies that is kept in memory: in a folder of its own name.
#[must_use]
pub fn memory_volume(name: &str) -> Utf8PathBuf {
    Utf8Path::new(MEMORY_VOLUMES).join(name)
}

/// Whether this host's shared memory is there, and large enough for the volumes of a run.
#[must_use]
pub fn has_memory_for_volumes() -> bool {
    const NEEDED_BYTES: u64 = 2 << 30;
    rustix::fs::statvfs(MEMORY_VOLUMES)
        .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= NEEDED_BYTES)
}

/// Removes everything with this label, and sees to it that nothing is left. It may take more than
/// one attempt: an engine refuses to remove a container whose process it is starting again.
///
/// # Errors
/// When something is left: names it.
pub fn remove_labelled(engine: &Engine, label: &str) -> Result<()> {
    remove_found(engine, label, || Resources::find(engine, label))?;
    Ok(())
}

/// What is there after every attempt to remove it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Left(String);

/// Tells whether there was anything.
fn remove_found(
    engine: &Engine,
    label: &str,
    find: impl Fn() -> Result<Resources>,
) -> Result<bool> {
    let mut left = find()?;
    let found = !left.is_empty();
    let mut reasons: Vec<anyhow::Error> = Vec::new();
    for attempt in 0..REMOVE_ATTEMPTS {
        if left.is_empty() {
            return Ok(found);
        }
        if attempt > 0 {
            if interrupt::is_hurried() {
                break;
            }
            poll::pause(REMOVE_INTERVAL)?;
        }
        // Another command may remove the same at this moment; what counts is what is left.
        reasons.clear();
        let containers = mem::take(&mut left.containers);
        remove(
            engine,
            &Resources {
                containers,
                ..Resources::default()
            },
            &mut reasons,
        );
        // A volume stays until its folder has gone, since only its label tells whose that is.
        left.volumes.retain(|volume| {
            let removed = remove_folder(&memory_volume(volume));
            let gone = removed.is_ok();
            reasons.extend(removed.err());
            gone
        });
        // By its network a kind cluster is known: that goes last, when all else has gone.
        let (last, now) = mem::take(&mut left.networks)
            .into_iter()
            .partition(|network| network.ends_with(KIND_NETWORK));
        left.networks = now;
        remove(engine, &left, &mut reasons);
        if reasons.is_empty() {
            let networks = Resources {
                networks: last,
                ..Resources::default()
            };
            remove(engine, &networks, &mut reasons);
        }
        left = find()?;
    }
    if left.is_empty() {
        return Ok(found);
    }
    let reason = reasons.first();
    let reason = reason.map_or_else(String::new, |reason| format!("\n  {reason:#}"));
    Err(Left(format!("left with label {label}: {}{reason}", left.told())).into())
}

fn remove(engine: &Engine, resources: &Resources, reasons: &mut Vec<anyhow::Error>) {
    let removals = removals(engine, resources);
    let refused = removals
        .iter()
        .filter_map(|removal| process::capture(removal, REMOVE_DEADLINE).err());
    reasons.extend(refused.map(anyhow::Error::from));
}

/// How they are removed: containers first, since they use the others.
pub(crate) fn removals(engine: &Engine, resources: &Resources) -> Vec<Invocation> {
    let force: &[&str] = match engine.kind {
        EngineKind::Podman => &["rm", "--force", "--volumes", "--time", "0"],
        EngineKind::Docker => &["rm", "--force", "--volumes"],
    };
    [
        (force, &resources.containers),
        (&["volume", "rm", "--force"], &resources.volumes),
        (&["network", "rm"], &resources.networks),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(command, names)| {
        engine
            .invocation()
            .args(command.iter().copied())
            .args(names.iter().map(String::as_str))
    })
    .collect()
}

/// Whose something is, as its labels tell it.
struct Owner {
    checkout: Option<String>,
    directory: Option<Utf8PathBuf>,
}

/// The runs that own something with this label, by ID.
fn owners(engine: &Engine, label: &str) -> Result<BTreeMap<String, Owner>> {
    let found = Resources::find(engine, label)?;
    let mut owners = BTreeMap::new();
    for (kind, names) in [
        ("container", &found.containers),
        ("volume", &found.volumes),
        ("network", &found.networks),
    ] {
        if names.is_empty() {
            continue;
        }
        let invocation = engine
            .invocation()
            .args([kind, "inspect"])
            .args(names.iter().map(String::as_str));
        // One that has gone meanwhile makes this fail, and the rest is told all the same.
        let output = ask::output(&invocation)?;
        let inspected: Vec<serde_json::Value> =
            serde_json::from_str(&output.stdout).with_context(|| {
                format!("cannot read the answer of: {invocation}\n{}", output.stderr)
            })?;
        owners.extend(inspected.iter().filter_map(owner));
    }
    Ok(owners)
}

fn owner(inspected: &serde_json::Value) -> Option<(String, Owner)> {
    let labels = [
        inspected.pointer("/Config/Labels"),
        inspected.get("Labels"),
        inspected.get("labels"),
    ];
    let labels = labels
        .into_iter()
        .flatten()
        .find(|value| value.is_object())?;
    let text = |name: &str| labels.get(name)?.as_str().map(str::to_owned);
    let owner = Owner {
        checkout: text(LABEL_CHECKOUT),
        directory: text(LABEL_DIRECTORY).map(Utf8PathBuf::from),
    };
    Some((text(LABEL_RUN)?, owner))
}

/// Proof that a run is dead and not kept, for as long as this value lives.
pub(crate) struct Claim {
    lock: Option<File>,
}

impl Claim {
    /// By its lock, and not by the lack of a folder.
    pub(crate) const fn is_proven(&self) -> bool {
        self.lock.is_some()
    }
}

/// The address of the name that the process of a run holds while it lives. No file stands for it.
fn life(id: &str) -> io::Result<SocketAddr> {
    // As long as such a name may be, however long the target's is.
    SocketAddr::from_abstract_name(format!("phase-zero.run.{}", Digest::of(id.as_bytes())))
}

/// Holds that name until the value is dropped or the process ends.
pub(crate) fn hold_life(id: &str) -> io::Result<UnixDatagram> {
    life(id).and_then(|address| UnixDatagram::bind_addr(&address))
}

/// Whether the process of a run lives, whatever has become of its folder. Where such names are not
/// seen from here (another network namespace), the lock alone tells.
fn is_alive(id: &str) -> bool {
    let reached = UnixDatagram::unbound()
        .and_then(|socket| life(id).and_then(|address| socket.connect_addr(&address)));
    reached.is_ok()
}

/// Claims a run that is dead and not kept; nothing for one that lives or is kept.
pub(crate) fn claim_dead(id: &str, directory: Option<&Utf8Path>) -> Result<Option<Claim>> {
    if is_alive(id) {
        return Ok(None);
    }
    let Some(directory) = directory.filter(|directory| directory.is_dir()) else {
        return Ok(Some(Claim { lock: None }));
    };
    let lock = open_lock(directory)?;
    match lock.try_lock() {
        Ok(()) if directory.join(KEPT).exists() => Ok(None),
        Ok(()) => Ok(Some(Claim { lock: Some(lock) })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {directory}/{LOCK}"))
        }
    }
}

fn state(id: &str, directory: &Utf8Path) -> Result<State> {
    if is_alive(id) {
        return Ok(State::Running);
    }
    let lock = open_lock(directory)?;
    match lock.try_lock_shared() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(State::Running),
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {directory}/{LOCK}"));
        }
    }
    if directory.join(KEPT).exists() {
        return Ok(State::Kept);
    }
    // Line by line: what is torn tells nothing, and the rest does.
    let journal = fs::read(directory.join(JOURNAL)).unwrap_or_default();
    let cleaned = journal
        .split(|&byte| byte == b'\n')
        .filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok())
        .any(|line| line["event"] == CLEANED);
    Ok(if cleaned { State::Ended } else { State::Dead })
}

/// The checkout of a run, as its journal tells it; where that is torn, as its lock tells it.
fn first_checkout(directory: &Utf8Path) -> Option<String> {
    let told = |file: &str, pointer: &str| {
        let text = fs::read(directory.join(file)).ok()?;
        let first = text.split(|&byte| byte == b'\n').next()?;
        let details: serde_json::Value = serde_json::from_slice(first).ok()?;
        details.pointer(pointer)?.as_str().map(str::to_owned)
    };
    told(JOURNAL, "/details/checkout").or_else(|| told(LOCK, "/checkout"))
}

/// The part of an ID that sorts by time: all but the target.
fn begun(id: &str) -> &str {
    id.rmatch_indices('-')
        .nth(2)
        .map_or(id, |(at, _)| &id[at..])
}

/// When the run of this ID was begun; its folder may tell nothing any more.
#[must_use]
pub fn begun_at(id: &str) -> Option<Timestamp> {
    let (before, _random) = id.rsplit_once('-')?;
    let (before, time) = before.rsplit_once('-')?;
    let (_head, date) = before.rsplit_once('-')?;
    Timestamp::strptime(format!("{TIME_OF_ID}%z"), format!("{date}-{time}+0000")).ok()
}

fn make_folder(runs: &Utf8Path, head: &str) -> Result<(String, Utf8PathBuf)> {
    loop {
        let now = Timestamp::now().strftime(TIME_OF_ID);
        let id = format!("{head}-{now}-{}", random_hex()?);
        let hidden = runs.join(format!(".{id}"));
        match DirBuilder::new().mode(0o700).create(&hidden) {
            Ok(()) if !runs.join(&id).exists() => return Ok((id, hidden)),
            Ok(()) => fs::remove_dir(&hidden)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot make {hidden}")),
        }
    }
}

fn random_hex() -> Result<String> {
    let mut bytes = [0; 2];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .context("cannot read /dev/urandom")?;
    Ok(format!("{:04x}", u16::from_be_bytes(bytes)))
}

fn open_lock(directory: &Utf8Path) -> Result<File> {
    let path = directory.join(LOCK);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {path}"))
}

pub(crate) fn append_journal(
    directory: &Utf8Path,
    event: &str,
    details: &serde_json::Value,
) -> Result<()> {
    let path = directory.join(JOURNAL);
    let line = json!({"at": Timestamp::now(), "event": event, "details": details});
    let append = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        let torn = ends_torn(&mut file)?;
        let before = if torn { "\n" } else { "" };
        // One write for one line: threads and processes do not tear each other's.
        file.write_all(format!("{before}{line}\n").as_bytes())?;
        file.sync_data()
    };
    append().with_context(|| format!("cannot write {path}"))
}

/// Whether the last line was not written to its end: by a process that died, or on a full disk.
fn ends_torn(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
