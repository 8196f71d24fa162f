//! The local cluster: containers on a private network, restarted by the engine when they end, so
//! that it holds after the tool has gone. Ports are random on 127.0.0.1. It honours a closed list
//! of what a manifest may say and refuses the rest, naming the field.
//!
//! It is not Kubernetes: probes are asked until they are answered once and not after that, an
//! empty folder in memory that one container alone mounts does not outlive it, one that several
//! mount has no size limit, and requests reserve nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use camino::{Utf8Path, Utf8PathBuf};

use crate::bundle::Bundle;
use crate::engine::{ContainerFacts, Engine, EngineKind, ask};
use crate::exit::{Exit, Failure};
use crate::host::room::FIX_PORTS;
use crate::manifest::{Manifests, Named, References, Seen};
use crate::process::interrupt::Shield;
use crate::process::{self, Captured, Invocation, ProcessError};
use crate::report::{self, failure, live, live::Activity};
use crate::run::{self, Resource, Resources, Run};
use crate::secrets::Secrets;
use crate::source::workspace::{Target, Workspace};
use crate::third_party::{self, ThirdPartyImage};
use crate::threads::{all, joined};

mod by_hand;
mod name_server;
mod plan;
mod ready;
mod standing;

pub(crate) use plan::Planned;
use plan::{PlannedVolume, Pod};

/// Making a network, a volume or a container on a busy host.
const MAKE_DEADLINE: Duration = Duration::from_secs(60);

/// The local cluster of a run.
#[derive(Debug)]
pub struct Local {
    engine: Engine,
    network: String,
    run_label: String,
    third_party: Vec<ThirdPartyImage>,
    started: BTreeSet<String>,
    starting: Option<JoinHandle<Result<()>>>,
    containers: Vec<Planned<Seen>>,
    inits: Vec<Planned<Seen>>,
    rolled_out: Option<RolledOut>,
}

/// What a roll-out left.
#[derive(Debug)]
struct RolledOut {
    resources: Resources,
    /// The services of which it made pods.
    made: Vec<String>,
    /// How many were left as they were; none where there was nothing before.
    left_count: Option<usize>,
}

impl Local {
    /// Makes the private network, and sees to it that the engine has the third-party images.
    ///
    /// # Errors
    /// When the engine makes no network, or an image cannot be had.
    pub fn start(
        workspace: &Workspace,
        target: &Target,
        run: &Run,
        engine: &Engine,
        bundle: Option<&Bundle>,
    ) -> Result<Self> {
        let network = run.id().to_owned();
        let third_party = thread::scope(|scope| {
            let providing =
                scope.spawn(|| third_party::provide_all(workspace, engine, bundle, target));
            let made = make_network(run, engine, &network);
            made.and(joined(providing))
        })?;
        Ok(Self {
            engine: engine.clone(),
            network,
            run_label: format!("{}={}", crate::run::LABEL_RUN, run.id()),
            third_party,
            started: BTreeSet::new(),
            starting: None,
            containers: Vec::new(),
            inits: Vec::new(),
            rolled_out: None,
        })
    }

    /// The engine that it runs on.
    #[must_use]
    pub const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The third-party images of the run.
    #[must_use]
    pub fn third_party(&self) -> &[ThirdPartyImage] {
        &self.third_party
    }

    /// The state of every container: a line for each that is not as it should be, one for all others.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn describe(&self) -> Result<Vec<String>> {
        let found = Resources::find(&self.engine, &self.run_label)?;
        let facts = self
            .engine
            .containers(found.containers.iter().map(String::as_str))?;
        let prefix = format!("{}-", self.network);
        Ok(failure::containers(facts.values(), &prefix))
    }

    /// The containers that stay, once they were deployed.
    pub(crate) fn containers(&self) -> &[Planned<Seen>] {
        &self.containers
    }

    /// Those that ran to their end before.
    pub(crate) fn inits(&self) -> &[Planned<Seen>] {
        &self.inits
    }

    /// What the engine says of all of them now; those that are gone are missing.
    pub(crate) fn facts(&self) -> Result<BTreeMap<String, ContainerFacts>> {
        let all = self.containers.iter().chain(&self.inits);
        self.engine
            .containers(all.map(|container| container.name.as_str()))
    }

    /// Containers on the run's network that are none of its own: they could answer in the place of
    /// one that was proved.
    pub(crate) fn strangers(&self) -> Result<Vec<String>> {
        let question = self.engine.invocation().args([
            "ps",
            "--all",
            "--filter",
            &format!("network={}", self.network),
            "--format",
            "{{.Names}}",
        ]);
        let listed = ask::capture(&question)?.stdout;
        let own = |name: &&str| {
            let mut known = self.inits.iter().chain(&self.containers);
            known.any(|one| one.name == **name)
        };
        let strangers = listed.lines().filter(|name| !own(name));
        Ok(strangers.map(str::to_owned).collect())
    }

    /// Where the files of a ConfigMap lie.
    pub(crate) fn config_directory(run: &Run, config_map: &str) -> Utf8PathBuf {
        run.directory().join("config").join(config_map)
    }

    /// What will run; refused here if it cannot.
    pub(crate) fn plan(
        &self,
        run: &Run,
        secrets: &Secrets,
        manifests: &Manifests,
        references: &References<Seen>,
    ) -> Result<Vec<Pod<Seen>>> {
        let labels = run.labels();
        let around = plan::Surroundings {
            engine: &self.engine,
            run: run.id(),
            network: &self.network,
            labels: &labels,
            secrets,
            config: &run.directory().join("config"),
            memory_volumes: run::has_memory_for_volumes(),
        };
        plan::pods(&around, manifests, references)
    }

    /// Starts what runs third-party images alone, and does not wait for it: it needs nothing of
    /// phases 0 and 1, and a database takes longer to come up than any service of ours.
    pub(crate) fn start_third_party(
        &mut self,
        run: &Arc<Run>,
        secrets: &Secrets,
        manifests: &Manifests,
    ) -> Result<()> {
        let references = References::of_third_party(&self.third_party);
        let manifests = manifests.only(&references);
        let pods = self.plan(run, secrets, &manifests, &references)?;
        write_config(run, &manifests)?;
        let names = pods.iter().map(|pod| pod.main.name.clone());
        self.started.extend(names);
        let (run, engine) = (Arc::clone(run), self.engine.clone());
        self.starting = Some(thread::spawn(move || start_pods(&run, &engine, &pods)));
        Ok(())
    }

    /// Waits for what was begun beside other phases. Nothing may be removed before that.
    pub(crate) fn settle(&mut self) -> Result<()> {
        settled(self.starting.take())
    }

    /// Starts everything at the same time: services wait for what they need by themselves. Waits
    /// until each is ready; `deadline_of` tells how long a service may take.
    ///
    /// Where something was rolled out before, what is seen to stand exactly as planned is left, and
    /// waited for like the rest; everything else is made anew.
    pub(crate) fn roll_out(
        &mut self,
        run: &Run,
        pods: Vec<Pod<Seen>>,
        deadline_of: impl Fn(&str) -> Duration + Sync,
    ) -> Result<()> {
        self.inits = pods.iter().flat_map(|pod| pod.init.clone()).collect();
        let (begun, pods) = self.divide(run, pods)?;
        let mains = |pods: &[Pod<Seen>]| -> Vec<Planned<Seen>> {
            pods.iter().map(|pod| pod.main.clone()).collect()
        };
        let (first, then) = (mains(&begun), mains(&pods));
        self.containers = [first.clone(), then.clone()].concat();
        let (engine, network) = (&self.engine, self.network.as_str());
        let starting = self.starting.take();
        let given_up = AtomicBool::new(false);
        // A service that ends at once is not waited for until the database is there, nor a
        // service until the end of its time when the database cannot be started.
        let give_up = |_: &anyhow::Error| given_up.store(true, Ordering::Relaxed);
        let (first, then) = thread::scope(|scope| {
            let first = scope.spawn(|| {
                settled(starting)
                    .and_then(|()| wait_for(engine, &first, &deadline_of, &given_up))
                    .inspect_err(give_up)
            });
            let then = start_pods(run, engine, &pods)
                .and_then(|()| {
                    let done = AtomicBool::new(false);
                    thread::scope(|scope| {
                        scope.spawn(|| name_server::keep(engine, network, &then, &done));
                        let outcomes = wait_for(engine, &then, &deadline_of, &given_up);
                        done.store(true, Ordering::Relaxed);
                        outcomes
                    })
                })
                .inspect_err(give_up);
            (joined(first), then)
        });
        self.judge([first?, then?].into_iter().flatten())
    }

    /// The pods that are there or are being started, and those that must be made. What stands in
    /// the way of these is removed.
    fn divide(&mut self, run: &Run, pods: Vec<Pod<Seen>>) -> Result<Divided> {
        let resources = resources(&pods);
        let Some(before) = self.rolled_out.take() else {
            let (begun, anew): Divided = pods
                .into_iter()
                .partition(|pod| self.started.contains(&pod.main.name));
            self.note_roll_out(resources, None, &anew);
            return Ok((begun, anew));
        };
        let names = resources.containers.iter().map(String::as_str);
        let facts = self.engine.containers(names)?;
        let (left, anew) = standing::divide(pods, &facts);
        let staying = self::resources(&left);
        let stays = |name: &String, staying: &[String]| staying.contains(name);
        let mut gone = before.resources;
        gone.containers.extend(resources.containers.iter().cloned());
        gone.containers
            .retain(|name| !stays(name, &staying.containers));
        gone.volumes.extend(resources.volumes.iter().cloned());
        gone.volumes.retain(|name| !stays(name, &staying.volumes));
        run.remove(&self.engine, &gone)?;
        self.note_roll_out(resources, Some(left.len()), &anew);
        Ok((left, anew))
    }

    fn note_roll_out(
        &mut self,
        resources: Resources,
        left_count: Option<usize>,
        anew: &[Pod<Seen>],
    ) {
        // Replicas are one after the other.
        let mut made: Vec<String> = anew.iter().map(|pod| pod.main.service.clone()).collect();
        made.dedup();
        self.rolled_out = Some(RolledOut {
            resources,
            made,
            left_count,
        });
    }

    /// In one line what the last roll-out made and left, where it was not the first.
    pub(crate) fn replaced(&self) -> Option<String> {
        let RolledOut {
            made, left_count, ..
        } = self.rolled_out.as_ref()?;
        match (made.is_empty(), left_count) {
            (_, None) => None,
            (_, Some(0)) => Some("everything anew".to_owned()),
            (true, Some(left)) => Some(format!("nothing anew, {left} left as they are")),
            (false, Some(left)) => {
                Some(format!("{} anew, {left} left as they are", made.join(", ")))
            }
        }
    }

    /// A container that ended says more than one that waited for it in vain.
    fn judge(&self, outcomes: impl Iterator<Item = Result<(), ready::Unready>>) -> Result<()> {
        let mut failed: Vec<(&Planned<Seen>, ready::Unready)> = self
            .containers
            .iter()
            .zip(outcomes)
            .filter_map(|(container, outcome)| Some((container, outcome.err()?)))
            .collect();
        failed.sort_by_key(|(_, unready)| match unready {
            ready::Unready::Stopped(_) => 0,
            ready::Unready::Ended => 1,
            ready::Unready::Late(_) => 2,
            ready::Unready::GivenUp => 3,
        });
        let Some((container, unready)) = failed.into_iter().next() else {
            return Ok(());
        };
        let facts = self.facts()?;
        let name = &container.name;
        Err(ready::explain(name, unready, facts.get(name)))
    }
}

/// Pods that are there or are being started, and those that must be made.
type Divided = (Vec<Pod<Seen>>, Vec<Pod<Seen>>);

/// What these pods are to the engine.
fn resources(pods: &[Pod<impl Named>]) -> Resources {
    let mut resources = Resources::default();
    for pod in pods {
        let containers = pod.init.iter().chain([&pod.main]);
        resources
            .containers
            .extend(containers.map(|one| one.name.clone()));
        let volumes = pod.volumes.iter().map(|volume| volume.name.clone());
        resources.volumes.extend(volumes);
    }
    resources
}

impl Drop for Local {
    /// However a run ends, nothing is made behind the back of its clean-up.
    fn drop(&mut self) {
        if let Err(error) = self.settle() {
            report::note(&format!("while starting third-party images: {error:#}"));
        }
    }
}

fn settled(starting: Option<JoinHandle<Result<()>>>) -> Result<()> {
    match starting.map(JoinHandle::join) {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(_)) => Err(anyhow!("a thread panicked")),
    }
}

/// Waits for each of these; the first that ends, ends the wait for all.
fn wait_for(
    engine: &Engine,
    containers: &[Planned<Seen>],
    deadline_of: &(impl Fn(&str) -> Duration + Sync),
    given_up: &AtomicBool,
) -> Result<Vec<Result<(), ready::Unready>>> {
    let facts = engine.containers(containers.iter().map(|container| container.name.as_str()))?;
    Ok(thread::scope(|scope| {
        let waiting: Vec<_> = containers
            .iter()
            .map(|container| {
                let deadline = deadline_of(&container.service);
                let facts = facts.get(&container.name);
                scope.spawn(move || match facts {
                    Some(facts) => {
                        let activity =
                            live::begin("waiting", format!("for {}", container.short_name()));
                        ready::wait(&activity, &container.readiness, facts, deadline, given_up)
                    }
                    None => Err(ready::Unready::Ended),
                })
            })
            .collect();
        let results = waiting.into_iter().map(|handle| match handle.join() {
            Ok(result) => result,
            Err(_) => Err(ready::Unready::Late("its wait panicked".to_owned())),
        });
        results.collect()
    }))
}

/// All at the same time.
fn start_pods(run: &Run, engine: &Engine, pods: &[Pod<Seen>]) -> Result<()> {
    thread::scope(|scope| {
        let starting = pods
            .iter()
            .map(|pod| scope.spawn(move || start(run, engine, pod)));
        all(starting.collect())
    })
}

/// Writes the files of every ConfigMap that the run may mount.
pub(crate) fn write_config(run: &Run, manifests: &Manifests) -> Result<()> {
    for (name, data) in &manifests.config_maps {
        write_config_map(&Local::config_directory(run, name), data)?;
    }
    Ok(())
}

/// Afterwards the folder holds these files and no others.
fn write_config_map(folder: &Utf8Path, data: &BTreeMap<String, String>) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(folder)
        .with_context(|| format!("cannot make {folder}"))?;
    open_to_read(folder, 0o755)?;
    for (key, content) in data {
        let path = folder.join(key);
        if fs::read(&path).is_ok_and(|there| there == content.as_bytes()) {
            continue;
        }
        // What is mounted already is not torn under its reader.
        let write_whole = || -> Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(content.as_bytes())?;
            file.as_file()
                .set_permissions(Permissions::from_mode(0o644))?;
            file.persist(&path)?;
            Ok(())
        };
        write_whole().with_context(|| format!("cannot write {path}"))?;
    }
    remove_others(folder, data)
}

/// A key that was taken out of a ConfigMap is no file of its folder any more.
fn remove_others(folder: &Utf8Path, data: &BTreeMap<String, String>) -> Result<()> {
    let failed = || format!("cannot clear {folder}");
    for entry in folder.read_dir_utf8().with_context(failed)? {
        let entry = entry.with_context(failed)?;
        if !data.contains_key(entry.file_name()) {
            fs::remove_file(entry.path()).with_context(failed)?;
        }
    }
    Ok(())
}

/// A container's user is another one; the umask does not decide what it may read.
fn open_to_read(path: &Utf8Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {path}"))
}

/// Lets the engine make something, whatever signal comes: ended in the middle it would leave parts
/// of a network behind that no list of its own names.
fn make(invocation: &Invocation) -> Result<Captured, ProcessError> {
    let _shield = Shield::raise();
    process::capture(invocation, MAKE_DEADLINE)
}

pub(super) fn make_network(run: &Run, engine: &Engine, network: &str) -> Result<()> {
    let _activity = live::begin("making", format!("network {network}"));
    run.journal(&Resource::Network(network.to_owned()))?;
    let create = creation(engine, "network", &run.labels(), network);
    make(&create).map_err(|error| {
        Failure::new(Exit::Host, "the engine makes no network").caused_by(error)
    })?;
    Ok(())
}

pub(super) fn creation(engine: &Engine, what: &str, labels: &[String], name: &str) -> Invocation {
    engine
        .invocation()
        .args([what, "create"])
        .args(labels.iter().map(|label| format!("--label={label}")))
        .arg(name)
}

impl<Image> Planned<Image> {
    /// Without the name of its run.
    fn short_name(&self) -> &str {
        let begin = self.name.find(&format!("-{}-", self.service));
        begin.map_or(self.name.as_str(), |begin| &self.name[begin + 1..])
    }
}

impl<Image: Named> Planned<Image> {
    fn to_its_end(&self, engine: &Engine) -> Invocation {
        engine.invocation().arg("run").args(self.arguments())
    }

    fn detached(&self, engine: &Engine) -> Invocation {
        engine
            .invocation()
            .args(["run", "--detach"])
            .args(self.arguments())
    }

    fn created(&self, engine: &Engine) -> Invocation {
        engine.invocation().arg("create").args(self.arguments())
    }

    /// podman can make namespaces and network before the process is started.
    fn prepared(&self, engine: &Engine) -> Option<Invocation> {
        let prepare = || engine.invocation().args(["init", &self.name]);
        (engine.kind == EngineKind::Podman).then(prepare)
    }

    fn started(&self, engine: &Engine) -> Invocation {
        engine.invocation().args(["start", &self.name])
    }
}

/// A run that is only looked at.
pub(crate) struct Preview<'a> {
    /// The engine that would run it.
    pub(crate) engine: &'a Engine,
    /// What stands for its ID.
    pub(crate) id: &'a str,
    /// What stands for its folder.
    pub(crate) directory: &'a Utf8Path,
    /// How that is shown.
    pub(crate) shown: &'a Utf8Path,
    /// The labels that follow.
    pub(crate) labels: &'a [String],
}

impl Preview<'_> {
    /// A command line as people read and copy it.
    pub(crate) fn text(&self, invocation: Invocation) -> String {
        const COLUMNS: usize = 100;
        const INDENT: usize = 8;
        invocation
            .renamed(self.directory.as_str(), self.shown.as_str())
            .wrapped(COLUMNS, INDENT)
    }

    /// How the network would be made.
    pub(crate) fn network(&self) -> Invocation {
        creation(self.engine, "network", self.labels, self.id)
    }

    /// How everything would be started, and what there would be to remove.
    pub(crate) fn roll_out(
        &self,
        secrets: &Secrets,
        manifests: &Manifests,
        references: &References<impl Named>,
    ) -> Result<RollOut> {
        let around = plan::Surroundings {
            engine: self.engine,
            run: self.id,
            network: self.id,
            labels: self.labels,
            secrets,
            config: &self.directory.join("config"),
            memory_volumes: run::has_memory_for_volumes(),
        };
        let pods = plan::pods(&around, manifests, references)?;
        let pods: Vec<_> = pods.into_iter().map(Pod::without_digest).collect();
        let commands = pods.iter().flat_map(|pod| self.commands(pod));
        let commands = commands.map(|command| self.text(command)).collect();
        let mut resources = resources(&pods);
        resources.networks.push(self.id.to_owned());
        Ok(RollOut {
            commands,
            resources,
        })
    }

    fn commands(&self, pod: &Pod<impl Named>) -> Vec<Invocation> {
        let mut invocations = Vec::new();
        for volume in &pod.volumes {
            invocations.push(volume_creation(self.engine, self.labels, volume));
        }
        if pod.init.is_empty() {
            invocations.push(pod.main.detached(self.engine));
        } else {
            invocations.push(pod.main.created(self.engine));
            invocations.extend(pod.main.prepared(self.engine));
            invocations.extend(pod.init.iter().map(|init| init.to_its_end(self.engine)));
            invocations.push(pod.main.started(self.engine));
        }
        invocations
    }
}

/// A roll-out as people read it: text, so that nothing can be started from it.
#[derive(Debug, Default)]
pub(crate) struct RollOut {
    /// Its command lines, in their order.
    pub(crate) commands: Vec<String>,
    /// What they would make.
    pub(crate) resources: Resources,
}

/// A volume in memory is one of the engine's all the same: its label finds it, and its folder.
fn volume_creation(engine: &Engine, labels: &[String], volume: &PlannedVolume) -> Invocation {
    let invocation = engine
        .invocation()
        .args(["volume", "create"])
        .args(labels.iter().map(|label| format!("--label={label}")));
    let device = volume.directory.iter().flat_map(|directory| {
        [
            "--opt=type=none".to_owned(),
            "--opt=o=bind".to_owned(),
            format!("--opt=device={directory}"),
        ]
    });
    invocation.args(device).arg(&volume.name)
}

/// The volume first, then its folder: a folder is never there without the volume that tells whose
/// it is.
fn make_volume(run: &Run, engine: &Engine, volume: &PlannedVolume) -> Result<()> {
    run.journal(&Resource::Volume(volume.name.clone()))?;
    let create = volume_creation(engine, &run.labels(), volume);
    make(&create)?;
    if let Some(directory) = &volume.directory {
        DirBuilder::new()
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {directory}"))?;
    }
    let Some((user, group)) = volume.owner else {
        return Ok(());
    };
    let place = match &volume.directory {
        Some(directory) => directory.clone(),
        None => mount_point(engine, &volume.name)?,
    };
    chown(&place, Some(user), Some(group))
        .with_context(|| format!("cannot give {place} to user {user}, group {group}"))
}

/// Where the engine keeps a volume on disk.
fn mount_point(engine: &Engine, volume: &str) -> Result<Utf8PathBuf> {
    let inspect =
        engine
            .invocation()
            .args(["volume", "inspect", "--format", "{{.Mountpoint}}", volume]);
    let found = ask::capture(&inspect)?;
    Ok(Utf8PathBuf::from(found.stdout.trim()))
}

/// Volumes, then init containers one after the other, then the container. It is made beside them:
/// its network and its namespaces take an engine longer than to start its process.
fn start(run: &Run, engine: &Engine, pod: &Pod<Seen>) -> Result<()> {
    let activity = live::begin("starting", pod.main.short_name());
    thread::scope(|scope| {
        let volumes = pod.volumes.iter();
        all(volumes
            .map(|volume| scope.spawn(move || make_volume(run, engine, volume)))
            .collect())
    })?;
    let main = &pod.main;
    run.journal(&Resource::Container(main.name.clone()))?;
    // What could not be started is made anew: a port of a container is chosen when it is made.
    let make_anew = engine.invocation().args(["rm", "--force", &main.name]);
    if pod.init.is_empty() {
        return bring_up(main, &[main.detached(engine)], Some(&make_anew));
    }
    thread::scope(|scope| {
        let creating = scope.spawn(|| {
            let steps: Vec<Invocation> = [main.created(engine)]
                .into_iter()
                .chain(main.prepared(engine))
                .collect();
            bring_up(main, &steps, Some(&make_anew))
        });
        let inits = scope.spawn(|| run_inits(run, engine, &pod.init, &activity));
        all(vec![creating, inits])
    })?;
    bring_up(main, &[main.started(engine)], None)
}

/// Does these steps; once more when a port was taken. An engine looks for a free port and takes it
/// a moment later, and somebody else may take it in between.
fn bring_up(
    container: &Planned<Seen>,
    steps: &[Invocation],
    before_again: Option<&Invocation>,
) -> Result<()> {
    again_for_a_port(
        || steps.iter().try_for_each(|step| make(step).map(drop)),
        || before_again.map_or(Ok(()), |removal| make(removal).map(drop)),
    )
    .map_err(|error| not_started(&container.name, error).into())
}

/// Does a step; a few times more when a port was taken.
pub(super) fn again_for_a_port(
    mut step: impl FnMut() -> Result<(), ProcessError>,
    mut before_again: impl FnMut() -> Result<(), ProcessError>,
) -> Result<(), ProcessError> {
    const ATTEMPTS: u32 = 5;
    for _ in 1..ATTEMPTS {
        match step() {
            Err(error) if is_port_taken(&error) => before_again()?,
            ended => return ended,
        }
    }
    step()
}

/// As podman and docker say it.
fn is_port_taken(error: &ProcessError) -> bool {
    const WORDS: [&str; 2] = ["address already in use", "port is already allocated"];
    matches!(error, ProcessError::Failed { stderr, .. }
        if WORDS.iter().any(|words| stderr.contains(words)))
}

fn not_started(container: &str, error: ProcessError) -> Failure {
    let message = format!("container {container} could not be started");
    let failure = match is_port_taken(&error) || says_no_port(&error) {
        true => {
            Failure::new(Exit::Host, format!("{message}, for want of a free port")).hint(FIX_PORTS)
        }
        false => Failure::new(Exit::Deploy, message),
    };
    failure.caused_by(error)
}

/// As podman and docker say it when the kernel has none left to give.
fn says_no_port(error: &ProcessError) -> bool {
    const WORDS: [&str; 2] = ["failed to find an open port", "all ports are allocated"];
    matches!(error, ProcessError::Failed { stderr, .. }
        if WORDS.iter().any(|words| stderr.contains(words)))
}

/// One after the other, each to its end.
fn run_inits(
    run: &Run,
    engine: &Engine,
    inits: &[Planned<Seen>],
    activity: &Activity,
) -> Result<()> {
    for init in inits {
        activity.say(format!("{} runs to its end", init.short_name()));
        run.journal(&Resource::Container(init.name.clone()))?;
        let to_its_end = init.to_its_end(engine);
        let output = {
            let _shield = Shield::raise();
            process::output(&to_its_end, MAKE_DEADLINE)?
        };
        if output.code != 0 {
            // From here on it was not started, and the words are the engine's; else its log has them.
            const NOT_STARTED: i32 = 125;
            let (name, code) = (&init.name, output.code);
            let message = format!(
                "init container {name} ended with exit code {code}\n  command: {to_its_end}"
            );
            let failure = Failure::new(Exit::Deploy, message).hint(ready::FIX_ENDED);
            return Err(match code {
                NOT_STARTED.. => failure.caused_by(anyhow!(process::last_lines(&output.stderr))),
                _ => failure,
            }
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use camino::Utf8Path;

    use super::{again_for_a_port, not_started, write_config_map};
    use crate::exit::Exit;
    use crate::process::ProcessError;

    #[test]
    fn a_config_map_that_is_written_again_leaves_no_old_key() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap().join("map");
        let write = |data: &[(&str, &str)]| {
            let data = data
                .iter()
                .map(|(key, text)| (key.to_string(), text.to_string()));
            write_config_map(&folder, &data.collect()).unwrap();
            let entries = folder.read_dir_utf8().unwrap().map(|entry| {
                let path = entry.unwrap().into_path();
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                let inode = path.metadata().unwrap().ino();
                let text = fs::read_to_string(&path).unwrap();
                (path.file_name().unwrap().to_owned(), (text, mode, inode))
            });
            entries.collect::<BTreeMap<_, _>>()
        };
        let first = write(&[("a", "1"), ("b", "2")]);
        assert_eq!(first["a"].0, "1");
        assert_eq!(first["a"].1, 0o644);
        let second = write(&[("a", "1"), ("c", "3")]);
        assert_eq!(second.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(second["a"].2, first["a"].2);
        let third = write(&[("a", "2")]);
        assert_eq!(third["a"].0, "2");
        // Another file under its name: who reads the old one reads it whole.
        assert_ne!(third["a"].2, first["a"].2);
    }

    fn failed(stderr: &str) -> ProcessError {
        ProcessError::Failed {
            command: "podman run".to_owned(),
            code: 126,
            stderr: stderr.to_owned(),
        }
    }

    /// What comes of a start that fails so many times with these words, and how often it was tried.
    fn tried(words: &str, failures: u32) -> (bool, u32, u32) {
        let (mut starts, mut removals) = (0, 0);
        let ended = again_for_a_port(
            || {
                starts += 1;
                if starts > failures {
                    Ok(())
                } else {
                    Err(failed(words))
                }
            },
            || {
                removals += 1;
                Ok(())
            },
        );
        (ended.is_ok(), starts, removals)
    }

    #[test]
    fn no_port_at_all_is_told_with_its_fix() {
        for words in [
            "Error: failed to find an open port to expose container port 8081 on the host",
            "listen tcp4 127.0.0.1:37709: bind: address already in use",
            "Error response from daemon: all ports are allocated",
        ] {
            let failure = not_started("r-gateway-0", failed(words));
            assert_eq!(failure.exit(), Exit::Host);
            assert!(failure.hint_text().unwrap().contains("ip_local_port_range"));
        }
        let other = not_started("r-gateway-0", failed("Error: no such image"));
        assert_eq!((other.exit(), other.hint_text()), (Exit::Deploy, None));
    }

    #[test]
    fn a_port_that_somebody_took_is_no_failure() {
        let podman = "Error: cannot listen on the TCP port: listen tcp4 127.0.0.1:37709: bind: address already in use";
        let docker = "Bind for 127.0.0.1:32768 failed: port is already allocated";
        assert_eq!(tried(podman, 2), (true, 3, 2));
        assert_eq!(tried(docker, 1), (true, 2, 1));
        assert_eq!(tried(podman, 99), (false, 5, 4));
        assert_eq!(tried("Error: no such image", 1), (false, 1, 0));
    }
}
