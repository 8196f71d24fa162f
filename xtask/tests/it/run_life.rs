//! The life of a run: its folder, its lock, and what is removed of whom. The engine is a fake one
//! that keeps its containers, volumes and networks as files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use xtask::engine::{Engine, EngineKind, Limits, Platform};
use xtask::poll::{self, Look};
use xtask::run::{
    self, LABEL_CHECKOUT, LABEL_DIRECTORY, LABEL_RUN, Resource, Resources, Run, State,
};
use xtask::source::workspace::{TargetName, Workspace};

const DEADLINE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(5);

/// `<kind>/<name>` holds the labels, one line each; `stuck/<name>` cannot be removed, or not as
/// often as it has lines.
const FAKE_ENGINE: &str = r##"#!/bin/sh
cd "$(dirname "$0")" || exit 1
list() {
    label=${2#label=}
    case $label in
        *=*) set -- "$1" --line-regexp --fixed-strings "$label" ;;
        *) set -- "$1" "^$label=" ;;
    esac
    kind=$1; shift
    grep --files-with-matches "$@" "$kind"/* 2>/dev/null | sed 's|.*/||'
    exit 0
}
inspect() {
    kind=$1; shift; separator='['
    for name; do
        [ -e "$kind/$name" ] || continue
        printf '%s{"Labels":{' "$separator"; separator=','
        sed 's|^\([^=]*\)=\(.*\)$|"\1":"\2"|' "$kind/$name" | paste -s -d, -
        printf '}}'
    done
    echo ']'
}
remove() {
    kind=$1; shift; code=0
    for name; do
        if [ ! -e "stuck/$name" ]; then rm -f "$kind/$name"; continue; fi
        echo "$name is in use" >&2; code=2
        if [ -s "stuck/$name" ]; then
            sed -i 1d "stuck/$name"
            [ -s "stuck/$name" ] || rm "stuck/$name"
        fi
    done
    exit $code
}
case "$1 $2" in
    'ps --all') list container "$4" ;;
    'volume ls') list volume "$4" ;;
    'network ls') list network "$4" ;;
    *' inspect') kind=$1; shift 2; inspect "$kind" "$@" ;;
    'rm --force') shift 5; remove container "$@" ;;
    'volume rm') shift 3; remove volume "$@" ;;
    'network rm') shift 2; remove network "$@" ;;
    *) echo "unexpected: $*" >&2; exit 125 ;;
esac
"##;

struct World {
    _folder: tempfile::TempDir,
    root: Utf8PathBuf,
    workspace: Workspace,
    engine: Engine,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().to_owned();
        let bin = root.join("engine");
        for kind in ["container", "volume", "network", "stuck"] {
            fs::create_dir_all(bin.join(kind)).unwrap();
        }
        let program = bin.join("podman");
        fs::write(&program, FAKE_ENGINE).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let engine = Engine {
            kind: EngineKind::Podman,
            program,
            environment: BTreeMap::new(),
            version: "0".to_owned(),
            platform: Platform::host().unwrap(),
            limits: Limits::default(),
            notes: Vec::new(),
        };
        // A workspace of its own, so that no other test's runs are in its folder.
        let mut workspace =
            Workspace::load(Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        workspace.root = root.clone();
        Self {
            _folder: folder,
            root,
            workspace,
            engine,
        }
    }

    fn target(&self) -> TargetName {
        self.workspace.targets.keys().next().unwrap().clone()
    }

    fn begin(&self) -> Run {
        Run::begin(&self.workspace, &self.target()).unwrap()
    }

    /// As the cluster makes it: journalled, then made with the run's labels.
    fn make(&self, run: &Run, resource: &Resource) {
        run.journal(resource).unwrap();
        let (kind, name) = match resource {
            Resource::Container(name) => ("container", name),
            Resource::Network(name) => ("network", name),
            Resource::Volume(name) => ("volume", name),
        };
        let mut labels = run.labels().join("\n");
        labels.push('\n');
        fs::write(self.root.join("engine").join(kind).join(name), labels).unwrap();
    }

    fn make_all(&self, run: &Run) {
        for resource in [
            Resource::Network(run.id().to_owned()),
            Resource::Volume(format!("{}-data", run.id())),
            Resource::Container(format!("{}-gateway-0", run.id())),
        ] {
            self.make(run, &resource);
        }
    }

    /// Names of everything that the engine has.
    fn left(&self) -> Vec<String> {
        let mut names = Vec::new();
        for kind in ["container", "volume", "network"] {
            for entry in self.root.join("engine").join(kind).read_dir_utf8().unwrap() {
                names.push(entry.unwrap().file_name().to_owned());
            }
        }
        names.sort();
        names
    }

    fn state(&self, id: &str) -> State {
        let records = run::list(&self.workspace).unwrap();
        records
            .into_iter()
            .find(|record| record.id == id)
            .unwrap()
            .state
    }

    /// The process of a run dies. A child that another test is just starting holds what it will
    /// close a moment later, the lock too.
    fn end(&self, run: Run) -> String {
        let id = run.id().to_owned();
        drop(run);
        poll::until("free lock", DEADLINE, INTERVAL, || match self.state(&id) {
            State::Running => Ok(Look::NotYet("locked".to_owned())),
            _ => Ok(Look::Found(())),
        })
        .unwrap();
        id
    }

    fn forget(&self, id: &str) {
        fs::remove_dir_all(run::runs_directory(&self.workspace).join(id)).unwrap();
    }
}

impl Drop for World {
    /// With `CARGO_TARGET_DIR` set the runs do not lie in the temporary folder.
    fn drop(&mut self) {
        for record in run::list(&self.workspace).unwrap_or_default() {
            let journal = fs::read_to_string(record.directory.join("journal.jsonl"));
            if journal.is_ok_and(|text| text.contains(&run::checkout(&self.root))) {
                let _ = fs::remove_dir_all(&record.directory);
            }
        }
    }
}

#[test]
fn a_run_lives_as_long_as_its_lock() {
    let world = World::new();
    let run = world.begin();
    let mode = fs::metadata(run.directory()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(run.id().starts_with(world.target().as_str()));
    assert_eq!(world.state(run.id()), State::Running);
    let id = world.end(run);
    assert_eq!(world.state(&id), State::Dead);
}

#[test]
fn runs_have_ids_of_their_own() {
    let world = World::new();
    let runs: Vec<Run> = (0..20).map(|_| world.begin()).collect();
    let ids: std::collections::BTreeSet<&str> = runs.iter().map(Run::id).collect();
    assert_eq!(ids.len(), runs.len());
}

#[test]
fn clean_up_removes_what_the_run_made_and_nothing_else() {
    let world = World::new();
    let (first, second) = (world.begin(), world.begin());
    world.make_all(&first);
    world.make_all(&second);
    fs::write(
        world.root.join("engine/container/somebody-elses"),
        "app=x\n",
    )
    .unwrap();
    first.clean_up(&world.engine).unwrap();
    let left = world.left();
    assert!(
        left.iter().all(|name| !name.starts_with(first.id())),
        "{left:?}"
    );
    assert_eq!(left.len(), 4, "{left:?}");
    let id = world.end(first);
    assert_eq!(world.state(&id), State::Ended);
}

#[test]
fn what_is_replaced_is_what_is_named_and_the_run_has_made() {
    let world = World::new();
    let (run, other) = (world.begin(), world.begin());
    world.make_all(&run);
    world.make_all(&other);
    let container = |run: &Run| format!("{}-gateway-0", run.id());
    let these = Resources {
        containers: vec![container(&run), container(&other), "no-such".to_owned()],
        ..Resources::default()
    };
    run.remove(&world.engine, &these).unwrap();
    let left = world.left();
    assert!(!left.contains(&container(&run)), "{left:?}");
    assert_eq!(left.len(), 5, "{left:?}");
    assert_eq!(world.state(run.id()), State::Running);
    let journal = fs::read_to_string(run.directory().join("journal.jsonl")).unwrap();
    assert!(journal.contains("\"replace\""), "{journal}");
}

#[test]
fn what_cannot_be_removed_is_named() {
    let world = World::new();
    let run = world.begin();
    world.make_all(&run);
    let container = format!("{}-gateway-0", run.id());
    fs::write(world.root.join("engine/stuck").join(&container), "").unwrap();
    let error = format!("{:#}", run.clean_up(&world.engine).unwrap_err());
    assert!(
        error.contains(&container) && error.contains("is in use"),
        "{error}"
    );
    assert_eq!(world.left(), [container]);
}

#[test]
fn what_cannot_be_removed_at_once_is_removed_later() {
    let world = World::new();
    let run = world.begin();
    world.make_all(&run);
    let container = format!("{}-gateway-0", run.id());
    fs::write(world.root.join("engine/stuck").join(container), "1\n2\n").unwrap();
    run.clean_up(&world.engine).unwrap();
    assert_eq!(world.left(), [""; 0]);
}

#[test]
fn a_sweep_takes_the_dead_and_leaves_the_living_and_the_kept() {
    let world = World::new();
    let (dead, living, kept) = (world.begin(), world.begin(), world.begin());
    for run in [&dead, &living, &kept] {
        world.make_all(run);
    }
    kept.keep().unwrap();
    let folders = [&dead, &living, &kept].map(|run| run.directory().join("secrets"));
    for folder in &folders {
        fs::create_dir(folder).unwrap();
    }
    let (dead_id, kept_id) = (world.end(dead), world.end(kept));
    assert_eq!(
        run::sweep(&world.workspace, &world.engine).unwrap(),
        std::slice::from_ref(&dead_id)
    );
    assert_eq!(world.left().len(), 6);
    assert_eq!(folders.map(|folder| folder.exists()), [false, true, true]);
    assert_eq!(world.state(&dead_id), State::Ended);
    assert_eq!(world.state(&kept_id), State::Kept);
    assert_eq!(world.state(living.id()), State::Running);
}

#[test]
fn the_secrets_of_a_run_that_made_nothing_go_as_well() {
    let world = World::new();
    let run = world.begin();
    let secrets = run.directory().join("secrets");
    fs::create_dir(&secrets).unwrap();
    world.end(run);
    let swept = run::sweep(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, Vec::<String>::new());
    assert!(!secrets.exists());
}

#[test]
fn a_lost_folder_loses_nothing() {
    let world = World::new();
    let run = world.begin();
    world.make_all(&run);
    let id = world.end(run);
    world.forget(&id);
    assert_eq!(run::sweep(&world.workspace, &world.engine).unwrap(), [id]);
    assert_eq!(world.left(), Vec::<String>::new());
}

#[test]
fn a_dead_run_of_another_checkout_goes_as_well() {
    let (world, other) = (World::new(), World::new());
    let (dead, living, kept) = (other.begin(), other.begin(), other.begin());
    for run in [&dead, &living, &kept] {
        other.make_all(run);
    }
    kept.keep().unwrap();
    let dead_id = other.end(dead);
    other.end(kept);
    // The same engine, seen from the other checkout.
    let swept = run::sweep(&world.workspace, &other.engine).unwrap();
    assert_eq!(swept, std::slice::from_ref(&dead_id));
    assert_eq!(other.left().len(), 6);
    assert_eq!(other.state(&dead_id), State::Ended);
}

#[test]
fn what_cannot_be_judged_from_here_is_left_alone() {
    let (world, other) = (World::new(), World::new());
    let run = other.begin();
    other.make_all(&run);
    let id = other.end(run);
    other.forget(&id);
    let swept = run::sweep(&world.workspace, &other.engine).unwrap();
    assert_eq!(swept, Vec::<String>::new());
    assert_eq!(other.left().len(), 3);
}

#[test]
fn clean_takes_the_kept_too() {
    let world = World::new();
    let (kept, living) = (world.begin(), world.begin());
    world.make_all(&kept);
    world.make_all(&living);
    kept.keep().unwrap();
    let id = world.end(kept);
    let swept = run::sweep_kept(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, [id]);
    assert_eq!(world.left().len(), 3);
}

#[test]
fn every_resource_is_journalled_before_it_is_made() {
    let world = World::new();
    let run = world.begin();
    run.journal(&Resource::Volume("v".to_owned())).unwrap();
    let journal = fs::read_to_string(run.directory().join("journal.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = journal
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["event"], "begin");
    assert_eq!(lines[1]["event"], "make");
    assert_eq!(
        lines[1]["details"],
        serde_json::json!({"kind": "volume", "name": "v"})
    );
}

#[test]
fn labels_tell_run_checkout_and_folder() {
    let world = World::new();
    let run = world.begin();
    let labels = run.labels();
    for label in [
        format!("{LABEL_RUN}={}", run.id()),
        format!("{LABEL_CHECKOUT}={}", run::checkout(&world.root)),
        format!("{LABEL_DIRECTORY}={}", run.directory()),
    ] {
        assert!(labels.contains(&label), "{label} in {labels:?}");
    }
}
