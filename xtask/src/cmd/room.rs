//! What a run will need of disks and memory, estimated from what is there already. Errs on the
//! small side: a run that would have fitted must not be refused.

use anyhow::{Error, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::engine::Engine;
use crate::host;
use crate::host::room::{self, Need, Verdict};
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
/// Two rustc at work, each with up to 750 MB, on a host with two cores.
const COMPILERS_BYTES: u64 = 1_500 * MB;

const FIX_BUILD: &str =
    "free room there, or name a build folder on a larger disk: CARGO_TARGET_DIR=<folder>";
const FIX_ENGINE: &str = "free room there: `cargo xtask clean --images` removes the images that were built here, and the engine's `system df` shows what else it keeps";

/// Looks at everything that a run will need room on. Reads files and asks the kernel, and nobody
/// else: it takes less than a millisecond.
pub(super) fn look(
    workspace: &Workspace,
    builds_first: bool,
    engine: Option<&Engine>,
    manifests: Option<&Manifests>,
) -> Vec<Verdict> {
    let state = workspace.state_directory();
    let mut needs = on_build_folder(&state, builds_first);
    let storage = engine.and_then(|engine| engine.storage.as_deref());
    needs.extend(storage.into_iter().flat_map(on_storage));
    let mut verdicts = room::judge_disks(&needs, room::space);
    let mut memory = Vec::new();
    if let Some(manifests) = manifests {
        memory.push(("containers ask for", manifests.memory_requested_bytes()));
    }
    if builds_first {
        memory.push(("compilers take", COMPILERS_BYTES));
    }
    if let Some(manifests) = manifests {
        let needed = manifests.ports_published();
        verdicts.extend(room::ports(needed).map(|found| room::judge_ports(needed, found)));
    }
    verdicts.extend(room::memory().map(|found| room::judge_memory(&memory, found)));
    verdicts
}

/// Refuses to begin where the room will not do.
///
/// # Errors
/// [`crate::exit::Exit::Host`], with the sizes and one fix.
pub(super) fn demand(
    workspace: &Workspace,
    builds_first: bool,
    engine: Option<&Engine>,
    manifests: Option<&Manifests>,
) -> Result<()> {
    room::demand(&look(workspace, builds_first, engine, manifests))
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

fn on_storage(storage: &Utf8Path) -> Vec<Need> {
    let mut needs = vec![need("images and containers", storage, IMAGES, FIX_ENGINE)];
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
