//! What a run will need of disks and memory, estimated from what is there already. Errs on the
//! small side: a run that would have fitted must not be refused.

use anyhow::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::cluster::Choice;
use crate::engine::Engine;
use crate::host;
use crate::host::room::{self, Need, Verdict};
use crate::host::watchers;
use crate::manifest::Manifests;
use crate::pipeline::build::recipe::Profile;
use crate::run;
use crate::source::workspace::Workspace;

const MB: u64 = 1_000_000;

/// A first build of gateway, datastorage and the tests of one target left 874 MB in 3,365 files,
/// and 38 MB of binaries beside them.
const FIRST_BUILD: (u64, u64) = (900 * MB, 3_500);
/// A guess on the small side: cargo removes what it had of an edited package before it builds.
const LATER_BUILD: (u64, u64) = (60 * MB, 300);
/// Two archives of 14 MB, frozen sources of 2 MB in 250 files, and the 40 files of a run.
const RUN: (u64, u64) = (40 * MB, 500);
/// Two images of 14 MB, and as much again while they are loaded. How many files an engine makes of
/// them is a guess.
const IMAGES: (u64, u64) = (60 * MB, 500);
/// An empty database is 42 MB in 1,340 files; what tests write into it is a guess.
const DATA: (u64, u64) = (150 * MB, 2_000);
/// What one node of kind takes besides the images of the run. Its own image is looked at where it
/// is loaded. With PostgreSQL in it there were 11,000 files; at least so many are its own.
const KIND: (u64, u64) = (830 * MB, 5_000);
/// The same of memory: an API server, its database, and what runs pods.
const KIND_BYTES: u64 = 350 * MB;
/// The engine publishes the API server beside what the run publishes.
const KIND_PORTS: u64 = 1;
/// Two rustc at work, each with up to 750 MB, on a host with two cores.
const COMPILERS_BYTES: u64 = 1_500 * MB;

const FIX_BUILD: &str =
    "free room there, or name a build folder on a larger disk: CARGO_TARGET_DIR=<folder>";
const FIX_ENGINE: &str = "free room there: `cargo xtask clean --images` removes the images that were built here, and the engine's `system df` shows what else it keeps";

/// What is deployed, and to which cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deployed<'a> {
    pub(super) manifests: &'a Manifests,
    pub(super) cluster: &'a Choice,
    /// Of a cluster of kind.
    pub(super) nodes_count: u8,
}

/// Looks at everything that a run will need room on. Reads files and asks the kernel, and nobody
/// else: it takes less than a millisecond.
pub(super) fn look(
    workspace: &Workspace,
    builds_first: bool,
    engine: Option<&Engine>,
    deployed: Option<Deployed<'_>>,
) -> Vec<Verdict> {
    let state = workspace.state_directory();
    let nodes_count = deployed.map_or(0, nodes_of_kind);
    let mut needs = on_build_folder(&state, builds_first);
    let storage = engine.and_then(|engine| engine.storage.as_deref());
    needs.extend(
        storage
            .into_iter()
            .flat_map(|path| on_storage(path, nodes_count)),
    );
    let mut verdicts = room::judge_disks(&needs, room::space);
    if let Some(deployed) = deployed {
        let needed = ports(deployed.manifests.ports_published(), nodes_count);
        verdicts.extend(room::ports(needed).map(|found| room::judge_ports(needed, found)));
    }
    if nodes_count > 0 {
        verdicts.extend(watchers::watchers().map(|found| watchers::judge(nodes_count, found)));
    }
    let asked = deployed.map(|deployed| deployed.manifests.memory_requested_bytes());
    let memory = in_memory(asked, nodes_count, builds_first);
    verdicts.extend(room::memory().map(|found| room::judge_memory(&memory, found)));
    verdicts
}

/// How many nodes are made for what is deployed.
fn nodes_of_kind(deployed: Deployed<'_>) -> u64 {
    match deployed.cluster {
        Choice::Kind => deployed.nodes_count.into(),
        Choice::Local | Choice::Context(_) => 0,
    }
}

fn ports(published: u64, nodes_count: u64) -> u64 {
    match nodes_count {
        0 => published,
        _ => published + KIND_PORTS,
    }
}

fn in_memory(asked: Option<u64>, nodes_count: u64, builds_first: bool) -> Vec<(&'static str, u64)> {
    let asked = asked.map(|bytes| ("containers ask for", bytes));
    let kind = (nodes_count > 0).then_some(("Kubernetes takes", nodes_count * KIND_BYTES));
    let compilers = builds_first.then_some(("compilers take", COMPILERS_BYTES));
    asked.into_iter().chain(kind).chain(compilers).collect()
}

/// What a run takes that others beside it cannot have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    memory_bytes: u64,
    nodes_count: u64,
}

/// What there was when several runs were to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    memory: Option<room::Memory>,
    watchers: Option<watchers::Watchers>,
}

impl Share {
    pub(super) fn of(deployed: Deployed<'_>) -> Self {
        let nodes_count = nodes_of_kind(deployed);
        let asked = deployed.manifests.memory_requested_bytes();
        let needs = in_memory(Some(asked), nodes_count, false);
        Self {
            memory_bytes: needs.iter().map(|(_, bytes)| bytes).sum(),
            nodes_count,
        }
    }
}

impl Found {
    pub(super) fn now(cluster: &Choice) -> Self {
        Self {
            memory: room::memory(),
            watchers: match cluster {
                Choice::Kind => watchers::watchers(),
                Choice::Local | Choice::Context(_) => None,
            },
        }
    }

    /// What is short for one more run beside these, in a line; nothing where it fits. Those at work
    /// may not have taken yet what they will.
    pub(super) fn short_for(&self, more: Share, at_work: &[Share]) -> Option<String> {
        let taken_bytes = at_work.iter().map(|share| share.memory_bytes).sum();
        let taken = ("runs at work take", taken_bytes);
        let one_more = ("one more asks for", more.memory_bytes);
        let memory = self
            .memory
            .map(|found| room::judge_memory(&[taken, one_more], found));
        let now = room::memory().map(|found| room::judge_memory(&[one_more], found));
        let nodes_taken: u64 = at_work.iter().map(|share| share.nodes_count).sum();
        let nodes_count = nodes_taken + more.nodes_count;
        let watchers = self.watchers.filter(|_| more.nodes_count > 0);
        let watchers = watchers.map(|found| watchers::judge(nodes_count, found));
        let mut verdicts = memory.into_iter().chain(now).chain(watchers);
        let short = verdicts.find(|verdict| verdict.fix.is_some())?;
        Some(short.line)
    }
}

/// Refuses to begin where the room will not do.
///
/// # Errors
/// [`crate::exit::Exit::Host`], with the sizes and one fix.
pub(super) fn demand(
    workspace: &Workspace,
    builds_first: bool,
    engine: Option<&Engine>,
    deployed: Option<Deployed<'_>>,
) -> Result<()> {
    room::demand(&look(workspace, builds_first, engine, deployed))
}

/// The error of something that ran out of room: names the disk or the memory, with the sizes. Any
/// other error is given back as it is.
pub(super) fn explain(workspace: &Workspace, engine: Option<&Engine>, error: Error) -> Error {
    let storage = engine.and_then(|engine| engine.storage.clone());
    let temporary = Utf8PathBuf::try_from(std::env::temp_dir()).ok();
    // The data of a run lies there, where it is large enough.
    let memory = Some(run::memory_volume(""));
    let others = [storage, host::cache_directory().ok(), temporary, memory];
    let places: Vec<Utf8PathBuf> = [Some(workspace.state_directory())]
        .into_iter()
        .chain(others)
        .flatten()
        .collect();
    room::explain(error, places.iter().map(Utf8PathBuf::as_path))
}

/// Whether the build folder holds nothing yet that was built in this way.
pub(super) fn builds_first(workspace: &Workspace, profile: Profile) -> bool {
    let records = workspace.state_directory().join("build-records");
    let entries = records.join(profile.as_str()).read_dir_utf8();
    entries.map_or(true, |mut entries| entries.next().is_none())
}

fn on_build_folder(state: &Utf8Path, builds_first: bool) -> Vec<Need> {
    let (what, amount) = match builds_first {
        true => ("a first build", FIRST_BUILD),
        false => ("a build after an edit", LATER_BUILD),
    };
    vec![
        need(what, state, amount, FIX_BUILD),
        need("sources, archives and logs", state, RUN, FIX_BUILD),
    ]
}

fn on_storage(storage: &Utf8Path, nodes_count: u64) -> Vec<Need> {
    let mut needs = vec![need("images and containers", storage, IMAGES, FIX_ENGINE)];
    if nodes_count > 0 {
        let kind = (nodes_count * KIND.0, nodes_count * KIND.1);
        needs.push(need("a cluster of kind", storage, kind, FIX_ENGINE));
    }
    if !run::has_memory_for_volumes() {
        needs.push(need("the database", storage, DATA, FIX_ENGINE));
    }
    needs
}

fn need(what: &'static str, path: &Utf8Path, amount: (u64, u64), fix: &'static str) -> Need {
    Need {
        what,
        path: path.to_owned(),
        bytes: amount.0,
        files: amount.1,
        fix,
    }
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;

    use super::{Found, KIND_BYTES, MB, Share, in_memory, on_storage, ports};
    use crate::host::room::Memory;
    use crate::host::watchers::Watchers;

    #[test]
    fn as_many_runs_fit_as_there_was_room_for_when_they_began() {
        let found = Found {
            memory: Some(Memory {
                free_bytes: 10 * MB,
                total_bytes: 20 * MB,
            }),
            watchers: Some(Watchers { used: 0, total: 64 }),
        };
        let share = |megabytes, nodes_count| Share {
            memory_bytes: megabytes * MB,
            nodes_count,
        };
        let check = |more: Share, at_work: &[Share], words: Option<&str>| {
            let short = found.short_for(more, at_work);
            let told = short.as_deref().unwrap_or_default();
            assert_eq!(short.is_some(), words.is_some(), "{told}");
            assert!(told.contains(words.unwrap_or_default()), "{told}");
        };
        check(share(4, 0), &[], None);
        check(share(4, 0), &[share(6, 0)], None);
        let memory = "memory: 10 MB are free of 20 MB, 11 MB are needed";
        check(share(4, 0), &[share(4, 0), share(3, 0)], Some(memory));
        check(share(1, 1), &[share(1, 1)], None);
        check(share(1, 1), &[share(1, 2)], Some("watches on files"));
        // What makes no node wants no watches.
        check(share(1, 0), &[share(1, 2)], None);
    }

    #[test]
    fn a_cluster_of_kind_wants_room_of_its_own() {
        let storage = Utf8Path::new("/storage");
        let of_kind = |nodes_count| {
            let needs = on_storage(storage, nodes_count);
            let kind = needs.iter().filter(|need| need.what == "a cluster of kind");
            kind.map(|need| need.bytes).sum::<u64>()
        };
        assert_eq!([0, 1, 3].map(of_kind), [0, 830 * MB, 3 * 830 * MB]);

        let memory = |nodes_count| in_memory(Some(7), nodes_count, false);
        let asked = ("containers ask for", 7);
        assert_eq!(memory(0), [asked]);
        let kind = ("Kubernetes takes", 2 * KIND_BYTES);
        assert_eq!(memory(2), [asked, kind]);
        // Of a build alone there are no containers.
        assert_eq!(in_memory(None, 0, true).len(), 1);

        assert_eq!(
            [0, 1, 2].map(|nodes_count| ports(3, nodes_count)),
            [3, 4, 4]
        );
    }
}
