//! The life of a run: its folder, its lock, and what is removed of whom. The engine is a fake one
//! that keeps its containers, volumes and networks as files.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use xtask::cmd::crash;
use xtask::engine::{Engine, EngineKind, Limits, Platform};
use xtask::exit::Exit;
use xtask::poll::{self, Look};
use xtask::report;
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
            storage: None,
            notes: Vec::new(),
        };
        // A workspace of its own, so that no other test's runs are in its folder.
        let mut workspace =
            Workspace::load(Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        workspace.root = root.clone();
        workspace.state = root.join("state");
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
            Resource::Cluster(name) | Resource::Namespace(name) => ("container", name),
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

    /// A lock that a sweep held may live a moment longer in a child that another test is starting.
    #[track_caller]
    fn check_state(&self, id: &str, expected: State) {
        poll::until("state", DEADLINE, INTERVAL, || {
            let state = self.state(id);
            Ok(match state == expected {
                true => Look::Found(()),
                false => Look::NotYet(format!("{state:?}")),
            })
        })
        .unwrap();
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

#[test]
fn a_run_lives_as_long_as_its_lock() {
    let world = World::new();
    let run = world.begin();
    let mode = fs::metadata(run.directory()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(run.id().starts_with(world.target().as_str()));
    assert_eq!(world.state(run.id()), State::Running);
    let id = world.end(run);
    world.check_state(&id, State::Dead);
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
    // What was committed from a container of the run hands on its labels.
    let debug = format!("{}\n", first.labels().join("\n"));
    fs::write(world.root.join("engine/container/debug"), debug).unwrap();
    first.clean_up(&world.engine).unwrap();
    let left = world.left();
    assert!(
        left.iter().all(|name| !name.starts_with(first.id())),
        "{left:?}"
    );
    assert_eq!(left.len(), 5, "{left:?}");
    let id = world.end(first);
    world.check_state(&id, State::Ended);
    // Nor does a sweep take it, nor say again and again that it did.
    assert!(
        run::sweep(&world.workspace, &world.engine)
            .unwrap()
            .is_empty()
    );
    assert!(world.left().iter().any(|name| name.ends_with("debug")));
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

/// A process that looks like what podman starts beside a container, with a child.
fn watcher(world: &World, container: &str) -> Child {
    let program = world.root.join("conmon");
    if !program.exists() {
        std::os::unix::fs::symlink("/bin/sh", &program).unwrap();
    }
    let child = Command::new(&program)
        .args(["-c", "read never; exit 0", "watcher", "-n", container])
        .stdin(Stdio::piped())
        .spawn();
    child.unwrap()
}

#[test]
fn a_process_that_the_engine_has_lost_is_ended() {
    let world = World::new();
    let run = world.begin();
    let container = |run: &str| format!("{run}-postgres-0");
    let mut ours = watcher(&world, &container(run.id()));
    // Another run's, whose ID begins alike.
    let mut theirs = watcher(&world, &container(&format!("{}9", run.id())));
    run.clean_up(&world.engine).unwrap();
    assert_eq!(ours.wait().unwrap().signal(), Some(9));
    assert_eq!(theirs.try_wait().unwrap(), None);

    let mut ours = watcher(&world, &container(run.id()));
    assert!(
        run::sweep(&world.workspace, &world.engine)
            .unwrap()
            .is_empty()
    );
    assert_eq!(ours.try_wait().unwrap(), None, "its run lives");
    let id = run.id().to_owned();
    drop(run);
    assert_eq!(run::sweep(&world.workspace, &world.engine).unwrap(), [id]);
    assert_eq!(ours.wait().unwrap().signal(), Some(9));
    assert_eq!(theirs.try_wait().unwrap(), None);
    theirs.kill().unwrap();
    theirs.wait().unwrap();
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
    world.check_state(&dead_id, State::Ended);
    world.check_state(&kept_id, State::Kept);
    assert_eq!(world.state(living.id()), State::Running);
}

#[test]
fn a_kept_run_is_taken_by_one_at_a_time_and_by_nobody_when_it_is_let_go() {
    let world = World::new();
    let target = world.target();
    let run = world.begin();
    world.make_all(&run);
    run.keep().unwrap();
    let id = world.end(run);
    let record = || {
        let records = run::list(&world.workspace).unwrap();
        records.into_iter().find(|record| record.id == id).unwrap()
    };
    let take = || Run::take_kept(&world.workspace, &target, &record()).unwrap();
    let taken = take().unwrap();
    assert_eq!(taken.id(), id);
    assert_eq!(world.state(&id), State::Running);
    assert!(take().is_none());
    // Its process dies: it is still kept, and nothing of it is swept.
    world.end(taken);
    world.check_state(&id, State::Kept);
    assert!(
        run::sweep(&world.workspace, &world.engine)
            .unwrap()
            .is_empty()
    );
    // Let go, it is like any other.
    let taken = take().unwrap();
    taken.let_go().unwrap();
    world.end(taken);
    assert!(take().is_none());
    assert_eq!(
        run::sweep(&world.workspace, &world.engine).unwrap(),
        std::slice::from_ref(&id)
    );
    assert!(world.left().is_empty());
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
    other.check_state(&dead_id, State::Ended);
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

/// What `crash` names as standing in its way; nothing if it would begin. Asked again as
/// [`World::check_state`] does.
#[track_caller]
fn check_in_the_way(workspace: &Workspace, engine: &Engine, expected: &[String]) {
    poll::until("refusal", DEADLINE, INTERVAL, || {
        let Err(error) = crash::stands_alone(workspace, engine) else {
            return Ok(match expected.is_empty() {
                true => Look::Found(()),
                false => Look::NotYet("begins".to_owned()),
            });
        };
        assert_eq!(report::exit_of(&error), Exit::Host);
        let text = report::error_text(&error);
        assert!(text.contains("cargo xtask clean"), "{text}");
        let line = error.to_string();
        let (_, runs) = line.split_once("leftovers: ").unwrap();
        let mut runs: Vec<&str> = runs.split(", ").collect();
        runs.sort_unstable();
        Ok(match runs == expected {
            true => Look::Found(()),
            false => Look::NotYet(text),
        })
    })
    .unwrap();
}

#[test]
fn a_crash_is_refused_beside_runs_that_stand() {
    let (world, other) = (World::new(), World::new());
    let check = |workspace, expected: &mut [String]| {
        expected.sort_unstable();
        check_in_the_way(workspace, &world.engine, expected);
    };
    // Neither what died nor what belongs to another checkout is in the way.
    let (dead, foreign) = (world.begin(), other.begin());
    world.make_all(&dead);
    world.make_all(&foreign);
    world.end(dead);
    check(&world.workspace, &mut []);
    // One that lives and has made nothing yet, and one that is kept.
    let (living, kept) = (world.begin(), world.begin());
    world.make_all(&kept);
    kept.keep().unwrap();
    let lives = format!("{} (lives)", living.id());
    let kept = format!("{} (kept)", world.end(kept));
    check(&world.workspace, &mut [lives, kept.clone()]);
    living.clean_up(&world.engine).unwrap();
    world.end(living);
    // From another build folder of the same checkout the engine tells of it.
    let mut elsewhere = world.workspace.clone();
    elsewhere.state = world.root.join("another");
    check(&elsewhere, &mut [kept]);
    run::sweep_kept(&world.workspace, &world.engine).unwrap();
    check(&world.workspace, &mut []);
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

/// What somebody may do to the folder of a run that lives.
#[track_caller]
fn check_lives_on(sabotage: impl Fn(&Utf8Path)) {
    let world = World::new();
    let run = world.begin();
    world.make_all(&run);
    sabotage(run.directory());
    let swept = run::sweep_kept(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, Vec::<String>::new());
    assert_eq!(world.left().len(), 3);
    if run.directory().exists() {
        assert_eq!(world.state(run.id()), State::Running);
    }
    // It still cleans up; only where its folder is gone it cannot write that down.
    let cleaned = run.clean_up(&world.engine);
    assert_eq!(cleaned.is_ok(), run.directory().exists());
    assert_eq!(world.left(), Vec::<String>::new());
}

#[test]
fn a_run_lives_on_without_its_lock_file_and_without_its_folder() {
    check_lives_on(|directory| fs::remove_file(directory.join("lock")).unwrap());
    check_lives_on(|directory| fs::remove_dir_all(directory).unwrap());
    // A lock of the same name that nobody holds.
    check_lives_on(|directory| {
        fs::remove_file(directory.join("lock")).unwrap();
        fs::write(directory.join("lock"), "").unwrap();
    });
}

/// What a crash or a full disk may do to a journal.
#[track_caller]
fn check_damaged(damage: impl Fn(&Utf8Path)) {
    let world = World::new();
    let (dead, kept) = (world.begin(), world.begin());
    for run in [&dead, &kept] {
        world.make_all(run);
        fs::create_dir(run.directory().join("secrets")).unwrap();
    }
    kept.keep().unwrap();
    let directories = [&dead, &kept].map(|run| run.directory().to_owned());
    for directory in &directories {
        damage(&directory.join("journal.jsonl"));
    }
    let (dead, kept) = (world.end(dead), world.end(kept));
    world.check_state(&dead, State::Dead);
    world.check_state(&kept, State::Kept);
    let swept = run::sweep(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, std::slice::from_ref(&dead));
    assert_eq!(world.left().len(), 3);
    world.check_state(&dead, State::Ended);
    assert!(!directories[0].join("secrets").exists());
    let swept = run::sweep_kept(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, std::slice::from_ref(&kept));
    assert_eq!(world.left(), Vec::<String>::new());
    world.check_state(&kept, State::Ended);
    let here = run::checkout(&world.root);
    let mut records = run::list(&world.workspace).unwrap();
    records.retain(|record| [&dead, &kept].contains(&&record.id));
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(record.checkout.as_ref(), Some(&here), "{}", record.id);
    }
}

#[test]
fn a_damaged_journal_loses_nothing() {
    let cut = |path: &Utf8Path, length: u64| {
        let journal = fs::File::options().write(true).open(path).unwrap();
        journal.set_len(length).unwrap();
    };
    check_damaged(|path| cut(path, 0));
    // In the middle of its first line, and of its last.
    check_damaged(|path| cut(path, 20));
    check_damaged(|path| cut(path, fs::metadata(path).unwrap().len() - 5));
    check_damaged(|path| fs::write(path, b"\xff\xfe\x00 no line at all").unwrap());
    check_damaged(|path| fs::remove_file(path).unwrap());
}

#[test]
fn a_line_after_a_torn_one_is_a_line_of_its_own() {
    let world = World::new();
    let run = world.begin();
    let path = run.directory().join("journal.jsonl");
    fs::write(&path, "{\"event\":\"ma").unwrap();
    run.note("told", &serde_json::json!({})).unwrap();
    let journal = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    assert_eq!(lines.len(), 2, "{journal}");
    let last: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(last["event"], "told");
}

#[test]
fn labels_that_look_like_ours_are_not_ours() {
    let world = World::new();
    let (dead, living) = (world.begin(), world.begin());
    world.make_all(&dead);
    world.make_all(&living);
    let labels = dead.labels();
    let id = world.end(dead);
    // Of another run whose ID begins alike, of a label whose name does, and of ours in other words.
    let alike = labels.join("\n").replace(&id, &format!("{id}0"));
    let alike = alike.replace(&format!("/{id}0"), &format!("/{}", living.id()));
    let foreign = labels.join("\n").replace("phase-zero.", "xphase-zero.");
    let longer = labels
        .join("\n")
        .replace("phase-zero.run=", "phase-zero.runs=");
    for (name, labels) in [("alike", alike), ("foreign", foreign), ("longer", longer)] {
        for kind in ["container", "volume", "network"] {
            let path = world.root.join("engine").join(kind).join(name);
            fs::write(path, format!("{labels}\n")).unwrap();
        }
    }
    let swept = run::sweep(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, [id]);
    assert_eq!(world.left().len(), 3 + 9);
}

#[test]
fn what_clean_up_left_is_named_with_what_removes_it() {
    let world = World::new();
    let run = world.begin();
    world.make_all(&run);
    // The engine answers no more.
    fs::remove_file(&world.engine.program).unwrap();
    let error = run.clean_up(&world.engine).unwrap_err();
    let text = xtask::report::error_text(&error);
    for word in [
        &format!("container {}-gateway-0", run.id()),
        &format!("volume {}-data", run.id()),
        "`cargo xtask clean`",
    ] {
        assert!(text.contains(word), "no `{word}` in: {text}");
    }
}

#[test]
fn a_folder_that_never_got_its_name_goes_when_it_is_old() {
    let world = World::new();
    let runs = run::runs_directory(&world.workspace);
    let living = world.begin();
    let old = std::time::SystemTime::now() - Duration::from_secs(3600);
    for name in [".gateway-young", ".gateway-old", "gateway-named"] {
        fs::create_dir_all(runs.join(name)).unwrap();
        fs::write(runs.join(name).join("lock"), "").unwrap();
    }
    let hidden = runs.join(format!(".{}", living.id()));
    fs::create_dir(&hidden).unwrap();
    for folder in [&runs.join(".gateway-old"), &hidden] {
        fs::File::open(folder).unwrap().set_modified(old).unwrap();
    }
    assert_eq!(run::remove_nameless(&world.workspace).unwrap(), 1);
    assert!(!runs.join(".gateway-old").exists());
    for stays in [".gateway-young", "gateway-named"] {
        assert!(runs.join(stays).exists(), "{stays}");
    }
    assert!(hidden.exists(), "its process lives");
}

#[test]
fn what_a_killed_trial_of_an_engine_left_goes_as_well() {
    let world = World::new();
    // Nobody has this process ID.
    let dead = format!("phase-zero-probe-{}", u32::MAX);
    for kind in ["container", "network"] {
        let path = world.root.join("engine").join(kind).join(&dead);
        fs::write(path, format!("{LABEL_RUN}={dead}\n")).unwrap();
    }
    let swept = run::sweep(&world.workspace, &world.engine).unwrap();
    assert_eq!(swept, [dead]);
    assert_eq!(world.left(), Vec::<String>::new());
}
